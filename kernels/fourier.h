/* Discrete Fourier transforms of 1, 2 or 3 axes whose lengths have no prime factor above 7.
 *
 * A vector holds the same number of several lines, so that no step mixes lanes: columns are read as they lie, rows
 * through transposes of small squares. Each line's transform is decimated in frequency, in place, in a buffer that
 * stays in cache; its first level reads and its last one writes the image where lines are columns.
 * Rows of 2n real numbers are transformed as n complex ones (Sorensen et al., IEEE Trans. ASSP 35, 1987).
 *
 * On x86-64 with GCC everything is compiled for AVX-512, AVX2+FMA and the baseline, and a plan takes the one that the
 * CPU runs; elsewhere the compiler's own target is used.
 */
#ifndef BIOPERF_FOURIER_H
#define BIOPERF_FOURIER_H

#if !defined(__GNUC__)
#error "the Fourier transforms need the vector types of GCC or Clang"
#endif

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fourier_plan.h"

#define INLINE static inline __attribute__((always_inline, unused))
#define UNROLL _Pragma("GCC unroll 16")

#define SIN_3 0.866025403784438646763723170753  /* sin(2 pi / 3) */
#define COS_5 0.309016994374947424102293417183  /* cos(2 pi / 5), cos(4 pi / 5) ... */
#define COS_25 -0.809016994374947424102293417183
#define SIN_5 0.951056516295153572116439333379
#define SIN_25 0.587785252292473129168705954639
#define COS_7 0.623489801858733530525004884004
#define COS_27 -0.222520933956314404288902564497
#define COS_37 -0.900968867902419126236102319507
#define SIN_7 0.781831482468029808708444526674
#define SIN_27 0.974927912181823607018131682994
#define SIN_37 0.433883739117558120475768332848
#define SIN_8 0.707106781186547524400844362105  /* sin(2 pi / 8) */

/* Bytes of each row in a block of columns, and in one of columns that are too large for the caches together. */
#define WIDTH 128
#define FAR_WIDTH 512
#define FAR_BYTES (6 << 20)

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(BIOPERF_NATIVE)
#define FOURIER_TARGETS(pick) pick("x86-64-v4", _v4) pick("x86-64-v3", _v3)
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#define TARGET _v4
#define VECTOR_BYTES 64
#include "fourier_target.h"
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define TARGET _v3
#define VECTOR_BYTES 32
#include "fourier_target.h"
#pragma GCC pop_options
#else
#define FOURIER_TARGETS(pick)
#endif

#define TARGET _any
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#include "fourier_target.h"

/* exp(-2 pi i k / n), 0 <= k < n: by the octant, so that the angle is at most pi / 4 and symmetric values are equal. */
static void fourier_root(ptrdiff_t k, ptrdiff_t n, double *re, double *im)
{
    const double turn = 6.28318530717958647692528676656 / n;
    const ptrdiff_t eighths = 8 * k / n, quarter = (eighths + 1) / 2;
    const double angle = turn * (4 * k - quarter * n) / 4, c = cos(angle), s = sin(angle);
    const double cosines[4] = {c, -s, -c, s}, sines[4] = {s, c, -s, -c};
    *re = cosines[quarter & 3];
    *im = -sines[quarter & 3];
}

static void fourier_put(int single, void *table, ptrdiff_t i, double re, double im)
{
    if (single) {
        ((float *)table)[2 * i] = (float)re;
        ((float *)table)[2 * i + 1] = (float)im;
    } else {
        ((double *)table)[2 * i] = re;
        ((double *)table)[2 * i + 1] = im;
    }
}

/* The radices of n, n itself for 1; 0 levels where a prime factor is above 7. One level more, of radix 1, stands for a
 * pass that only copies, so that there are always a first and a last. */
static int fourier_radices(ptrdiff_t n, int *radix)
{
    int levels = 0, twos = 0, last = 1;
    while (n % 2 == 0) n /= 2, twos++;
    if (twos % 3 == 2 || (twos % 3 == 1 && twos > 1)) last = 4, twos -= 2;
    for (; twos >= 3; twos -= 3) radix[levels++] = 8;
    for (; twos >= 2; twos -= 2) radix[levels++] = 4;
    for (; twos; twos--) radix[levels++] = 2;
    for (; n % 7 == 0; n /= 7) radix[levels++] = 7;
    for (; n % 5 == 0; n /= 5) radix[levels++] = 5;
    for (; n % 3 == 0; n /= 3) radix[levels++] = 3;
    if (n != 1) return 0;
    if (last > 1) radix[levels++] = last;
    while (levels < 2) radix[levels++] = 1;
    return levels;
}

/* Bytes of the tables of a line, whose pointers are set where `memory` is not NULL. */
static size_t fourier_line(FourierLine *line, ptrdiff_t n, int single, int parts, char *memory)
{
    const size_t pair = single ? 2 * sizeof(float) : 2 * sizeof(double);
    ptrdiff_t length = n;
    size_t used = 0;
    line->n = n;
    line->levels = fourier_radices(n, line->radix);
    for (int level = 0; level < line->levels; level++) {
        const ptrdiff_t r = line->radix[level], m = length / r;
        if (memory) {
            line->twiddles[level] = memory + used;
            for (ptrdiff_t j = 0; j < m; j++)
                for (ptrdiff_t q = 1; q < r; q++) {
                    double re, im;
                    fourier_root(j * q, length, &re, &im);
                    fourier_put(single, line->twiddles[level], j * (r - 1) + q - 1, re, im);
                }
        }
        used += m * (r - 1) * pair;
        length = m;
    }
    if (parts) {
        if (memory) {
            line->halves = memory + used;
            for (ptrdiff_t k = 0; k <= n; k++) {
                double re, im;
                fourier_root(k, 2 * n, &re, &im);
                fourier_put(single, line->halves, k, re / 2, im / 2);
            }
        }
        used += (n + 1) * pair;
    }
    if (memory) {
        line->order = (ptrdiff_t *)(memory + used);
        line->frequency = line->order + n + 1;
        for (ptrdiff_t i = 0; i < n; i++) {
            ptrdiff_t rest = i, left = n, step = 1, k = 0;
            for (int level = 0; level < line->levels; level++) {
                left /= line->radix[level];
                k += rest / left * step;
                rest %= left;
                step *= line->radix[level];
            }
            line->order[k] = i;
            line->frequency[i] = k;
            line->frequency[n + i] = k ? n - k : 0;
        }
        line->order[n] = line->order[0];
    }
    return (used + (3 * n + 1) * sizeof(ptrdiff_t) + 63) / 64 * 64;
}

/* The first prime factor above 7 of n, or 0. */
static ptrdiff_t fourier_obstacle(ptrdiff_t n)
{
    for (int p = 2; p < 8; p++)
        while (n % p == 0) n /= p;
    if (n == 1) return 0;
    for (ptrdiff_t p = 11; p * p <= n; p += 2)
        if (n % p == 0) return p;
    return n;
}

/* A plan for images of `axes` lengths, all of them without obstacle, on vectors of `vector_bytes`, 0: the widest that
 * the CPU runs. Returns the bytes of its vectors, 0 where there are none of these, and -1 where memory is short. */
static int fourier_make(FourierPlan *p, int axes, const ptrdiff_t *lengths, int single, int complex_image,
                        int vector_bytes)
{
    const size_t number = single ? sizeof(float) : sizeof(double);
    memset(p, 0, sizeof(*p));
    p->axes = axes;
    p->single = single;
    p->complex_image = complex_image;
    p->n0 = axes > 1 ? lengths[0] : 1;
    p->n1 = axes > 2 ? lengths[1] : 1;
    p->n2 = lengths[axes - 1];
    p->parity = !complex_image && p->n2 % 2;
    p->packed = !complex_image && !p->parity && axes > 1;
    p->columns = complex_image ? p->n2 : p->n2 / 2 + 1;
    p->columns_used = p->packed ? p->n2 / 2 : p->columns;
    p->image_bytes = p->n0 * p->n1 * p->n2 * number * (complex_image ? 2 : 1);
    p->spectrum_bytes = p->n0 * p->n1 * p->columns * 2 * number;

    size_t bytes = 0;
    const ptrdiff_t n[3] = {p->n0, p->n1, complex_image || p->parity ? p->n2 : p->n2 / 2};
    for (int pass = 0; pass < 2; pass++) {
        char *memory = p->tables;
        for (int axis = 0; axis < 3; axis++) {
            const int parts = axis == 2 && !complex_image && !p->parity;
            const size_t used = fourier_line(&p->line[axis], n[axis], single, parts, memory);
            if (memory) memory += used;
            else bytes += used;
        }
        if (pass == 0) p->tables = malloc(bytes);
        if (!p->tables) return -1;
    }

#define USE(suffix, bytes) \
    p->rows_forward = single ? rows_forward_f##suffix : rows_forward_d##suffix; \
    p->rows_inverse = single ? rows_inverse_f##suffix : rows_inverse_d##suffix; \
    p->along = single ? along_f##suffix : along_d##suffix; \
    p->pack = single ? pack_f##suffix : pack_d##suffix; \
    p->unpack = single ? unpack_f##suffix : unpack_d##suffix; \
    p->lanes = (int)((bytes) / number);
#define WANTED(suffix) (!p->rows_forward && (!vector_bytes || vector_bytes == vector_bytes##suffix))
#define PICK(name, suffix) if (WANTED(suffix) && __builtin_cpu_supports(name)) { USE(suffix, vector_bytes##suffix) }
    FOURIER_TARGETS(PICK)
    if (WANTED(_any)) { USE(_any, vector_bytes_any) }
    if (!p->rows_forward) return 0;
#undef PICK
#undef WANTED
#undef USE

    const ptrdiff_t pair = 2 * p->lanes * number;
    const ptrdiff_t rows = p->lanes * (p->parity ? 2 : 1), height = axes > 2 ? p->n1 : p->n0;
    p->row_units = (height + rows - 1) / rows * (axes > 2 ? p->n0 : 1);
    p->plane_units = axes > 2 ? p->n0 : p->row_units;
    p->room = n[2] + 1;
    for (int axis = 0; axis < axes - 1; axis++) {
        const int far = (axis ? p->spectrum_bytes / p->n0 : p->spectrum_bytes) > FAR_BYTES;
        const ptrdiff_t panels = (far ? FAR_WIDTH : WIDTH) / pair, wide = p->lanes * (panels > 1 ? panels : 1);
        p->panels[axis] = wide / p->lanes;
        p->column_units[axis] = (p->columns_used + wide - 1) / wide * (axis ? p->n0 : p->n1);
        const ptrdiff_t room = p->panels[axis] * (n[axis] + 8);
        if (room > p->room) p->room = room;
    }
    p->work_bytes = (64 + 2 * p->room * pair + 4 * p->columns * number + 63) / 64 * 64;
    return (int)(p->lanes * number);
}

/* The scratch memory of one thread, at a multiple of 64 bytes. */
INLINE void *fourier_work(const FourierPlan *p, void *work, int thread)
{
    char *own = (char *)work + thread * p->work_bytes;
    return own + (-(size_t)own & 63);
}

/* Unit of work `unit` of the last axis or, of three axes, of the last two: a plane. */
INLINE void fourier_plane_forward(const FourierPlan *p, const void *image, void *spectrum, ptrdiff_t unit, void *work,
                                  int thread)
{
    const ptrdiff_t rows = p->row_units / p->plane_units, columns = p->column_units[1] / p->plane_units;
    work = fourier_work(p, work, thread);
    for (ptrdiff_t i = unit * rows; i < (unit + 1) * rows; i++) p->rows_forward(p, image, spectrum, i, work);
    for (ptrdiff_t i = unit * columns; i < (unit + 1) * columns; i++) p->along(p, 1, 0, spectrum, i, work);
}

INLINE void fourier_plane_inverse(const FourierPlan *p, void *spectrum, void *image, ptrdiff_t unit, void *work,
                                  int thread)
{
    const ptrdiff_t rows = p->row_units / p->plane_units, columns = p->column_units[1] / p->plane_units;
    work = fourier_work(p, work, thread);
    for (ptrdiff_t i = unit * columns; i < (unit + 1) * columns; i++) p->along(p, 1, 1, spectrum, i, work);
    for (ptrdiff_t i = unit * rows; i < (unit + 1) * rows; i++) p->rows_inverse(p, spectrum, image, i, work);
}

/* Unit of work `unit` of the first axis of two or three. */
INLINE void fourier_columns(const FourierPlan *p, int inverse, void *spectrum, ptrdiff_t unit, void *work, int thread)
{
    p->along(p, 0, inverse, spectrum, unit, fourier_work(p, work, thread));
}

INLINE void fourier_pack(const FourierPlan *p, void *spectrum) { if (p->packed) p->pack(p, spectrum); }
INLINE void fourier_unpack(const FourierPlan *p, void *spectrum) { if (p->packed) p->unpack(p, spectrum); }

#endif
