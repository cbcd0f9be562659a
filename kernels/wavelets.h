/* Loops of the wavelet kernels, on real arrays and interleaved complex ones, compiled for several CPUs as in rows.h. */
#ifndef BIOPERF_WAVELETS_H
#define BIOPERF_WAVELETS_H

#include "rows.h"

#define MAX_LEVEL 62

/* body(d, ...) with the number of axes known to the compiler */
#define ALONG_AXES(body, ...) \
    if (g->d == 1) body(1, __VA_ARGS__); \
    else if (g->d == 2) body(2, __VA_ARGS__); \
    else body(3, __VA_ARGS__)

/* The shift of an undecimated level (0: neighbours) along a periodic axis of n elements. */
INLINE ptrdiff_t shift_of(int level, ptrdiff_t n) { return (ptrdiff_t)(((size_t)1 << level) % (size_t)n); }

/* Sum over the first `levels` undecimated levels of the shift along n0: how far a block reads beyond itself. */
INLINE ptrdiff_t reach_of(const Grid *g, int levels)
{
    ptrdiff_t reach = 0;
    for (int l = 0; l < levels; l++) reach += shift_of(l, g->n0);
    return reach;
}

/* A row's room in work space: whole cache lines, so that rows start aligned. */
INLINE ptrdiff_t aligned(ptrdiff_t n) { return (n + 15) & ~(ptrdiff_t)15; }

/* The power of two of slots that holds a slab until the one `shift` further on has come. */
INLINE ptrdiff_t ring_size(ptrdiff_t shift)
{
    ptrdiff_t n = 1;
    while (n <= shift) n *= 2;
    return n;
}

/* Numbers of work space that a thread needs. */
INLINE ptrdiff_t haar_work(const Grid *g) { return aligned((2 * g->n1 + 4) * g->n2 * g->parts); }

INLINE ptrdiff_t frame_work(const Grid *g, int level)
{
    ptrdiff_t slots = 0;
    for (int l = 0; l < level; l++) slots += ring_size(shift_of(l, g->n0));
    return (4 * slots + 16) * g->n1 * 2 * aligned(g->n2 * g->parts);
}

/* --- filter pairs: the taps of one level reach (taps - 1) 2^l elements, periodic ones ---------------- */

#define MAX_TAPS 8

INLINE ptrdiff_t filter_reach(const Grid *g, int taps, int l) { return (taps - 1) * shift_of(l, g->n2) * g->parts; }

/* Lines that the periodic neighbours of one end fit around, aligned where the reach is before them and where not. */
INLINE ptrdiff_t filter_pitch(const Grid *g, int taps, int l)
{
    return aligned(filter_reach(g, taps, l)) + aligned(g->n2 * g->parts);
}

INLINE ptrdiff_t filter_lines(const Grid *g, int taps, int l) { return 4 * filter_pitch(g, taps, l); }

/* Numbers of work space that a thread needs: lines and, in 3-D, planes. */
INLINE ptrdiff_t filter_work(const Grid *g, int taps, int level)
{
    ptrdiff_t lines = 0;
    for (int l = 0; l < level; l++) lines = filter_lines(g, taps, l) > lines ? filter_lines(g, taps, l) : lines;
    return lines + (g->d == 3 ? 4 * aligned(plane_size(g)) : 0);
}

#if defined(__GNUC__)
#define UNROLL PRAGMA(GCC unroll 9)
#else
#define UNROLL
#endif

/* A row function of a filter pair: its body with the number of taps known to the compiler. */
#define FILTER_TAPS int taps, const double *values
#define FILTER_AXES FILTER_TAPS, const Grid *g, int l
#define FILTER_ROW(name, parameters, ...) \
    ROW NAME(name) parameters \
    { \
        if (taps == 4) NAME(name##_body)(4, values, __VA_ARGS__); \
        else if (taps == 6) NAME(name##_body)(6, values, __VA_ARGS__); \
        else NAME(name##_body)(8, values, __VA_ARGS__); \
    }

#define TEMPLATE "wavelets_template.h"
#include "precisions.h"

#endif
