/* Row loops of the compiled kernels: one body for float (suffix _f) and double (suffix _d).
 *
 * On x86-64 with GCC and glibc each loop is compiled for AVX-512, AVX2+FMA and the baseline, and the
 * dynamic loader picks the one that the CPU runs (function multiversioning), so a portable wheel is
 * as fast as a build for the host.  Elsewhere the compiler's own target is used.
 *
 * Sums are taken in the element type over at most ROW_CHUNK elements and carried on in double.
 */
#ifndef BIOPERF_ROWS_H
#define BIOPERF_ROWS_H

#include <math.h>
#include <stddef.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__) && !defined(BIOPERF_NATIVE)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline, unused))
#define PLANE static __attribute__((unused)) void
#define ROW CLONES static __attribute__((unused)) void
#else
#define INLINE static inline
#define ROW static void
#define PLANE static void
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define restrict __restrict
#define SIMD(...)
#else
#define PRAGMA(text) _Pragma(#text)
#define SIMD(...) PRAGMA(omp simd __VA_ARGS__)
#endif

#define ROW_CHUNK 512
#define TAIL 256
#define FOR_CHUNKS(start, stop, n) \
    for (ptrdiff_t start = 0, stop; start < (n) && (stop = start + ROW_CHUNK < (n) ? start + ROW_CHUNK : (n), 1); start = stop)

/* Row functions over the d = 1, 2 or 3 components of a field, `name` for real and complex_`name` for interleaved
 * complex components: body(d, parts, ...) with both numbers known to the compiler. */
#define BY_AXES(body, parts, ...) \
    if (d == 1) body(1, parts, __VA_ARGS__); \
    else if (d == 2) body(2, parts, __VA_ARGS__); \
    else body(3, parts, __VA_ARGS__)
#define ROWS(name, body, parameters, ...) \
    ROW NAME(name) parameters { BY_AXES(body, 1, __VA_ARGS__); } \
    ROW NAME(complex_##name) parameters { BY_AXES(body, 2, __VA_ARGS__); }

/* A plane function: body(parts, ...) with parts known to the compiler. */
#define PLANES(name, body, parameters, ...) \
    PLANE NAME(name) parameters \
    { \
        if (g->parts == 1) body(1, __VA_ARGS__); \
        else body(2, __VA_ARGS__); \
    }

/* An image of n0 x n1 x n2 pixels, d = 1, 2 or 3 axes: the last is n2, the first of several n0. A pixel is `parts`
 * numbers: 1 real or 2 complex. Sizes below count numbers, and n0, n1, n2 pixels. */
typedef struct {
    int d, parts;
    ptrdiff_t n0, n1, n2;
} Grid;

INLINE ptrdiff_t plane_size(const Grid *g) { return g->n1 * g->n2 * g->parts; }
INLINE ptrdiff_t image_size(const Grid *g) { return g->n0 * g->n1 * g->n2 * g->parts; }

#define TEMPLATE "rows_template.h"
#include "precisions.h"

#define TEMPLATE "planes_template.h"
#include "precisions.h"

#endif
