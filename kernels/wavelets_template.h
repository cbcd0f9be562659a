/* Included by wavelets.h once for float and once for double; see there.
 *
 * A slab is what one index of the axis n0 selects: a row in 2-D, a plane in 3-D, everything in 1-D. */

/* --- Haar: rows ------------------------------------------------------------------------------ *
 * n is the number of coefficients in a row of a band; the numbers i and i + parts are a pair.     */

#define FOR_PAIRS \
    SIMD() for (ptrdiff_t j = 0; j < n; j++) \
        for (ptrdiff_t part = 0, m = parts * j, i = 2 * m; part < parts; part++, m++, i++)

/* low, high <- scale (a + b), scale (a - b) of the pairs (a, b) of p */
INLINE void NAME(split_pairs)(const int parts, ptrdiff_t n, const REAL *restrict p, REAL scale, REAL *restrict low,
                              REAL *restrict high)
{
    FOR_PAIRS {
        REAL a = p[i], b = p[i + parts];
        low[m] = scale * (a + b);
        high[m] = scale * (a - b);
    }
}

INLINE void NAME(join_pairs)(const int parts, ptrdiff_t n, const REAL *restrict low, const REAL *restrict high,
                             REAL scale, REAL *restrict p)
{
    FOR_PAIRS {
        REAL a = scale * low[m], b = scale * high[m];
        p[i] = a + b;
        p[i + parts] = a - b;
    }
}

/* The 2 x 2 blocks (a b; c d) of the rows p, q; bands named by the first axis, then the second. */
INLINE void NAME(split_blocks)(const int parts, ptrdiff_t n, const REAL *restrict p, const REAL *restrict q, REAL scale,
                               REAL *restrict ll, REAL *restrict lh, REAL *restrict hl, REAL *restrict hh)
{
    FOR_PAIRS {
        REAL a = p[i], b = p[i + parts], c = q[i], d = q[i + parts];
        REAL s = scale * (a + c), t = scale * (b + d), u = scale * (a - c), v = scale * (b - d);
        ll[m] = s + t;
        lh[m] = s - t;
        hl[m] = u + v;
        hh[m] = u - v;
    }
}

INLINE void NAME(join_blocks)(const int parts, ptrdiff_t n, const REAL *restrict ll, const REAL *restrict lh,
                              const REAL *restrict hl, const REAL *restrict hh, REAL scale, REAL *restrict p,
                              REAL *restrict q)
{
    FOR_PAIRS {
        REAL s = scale * (ll[m] + lh[m]), t = scale * (ll[m] - lh[m]);
        REAL u = scale * (hl[m] + hh[m]), v = scale * (hl[m] - hh[m]);
        p[i] = s + u;
        p[i + parts] = t + v;
        q[i] = s - u;
        q[i + parts] = t - v;
    }
}

INLINE void NAME(butterfly)(ptrdiff_t n, const REAL *restrict a, const REAL *restrict b, REAL *restrict sum,
                            REAL *restrict difference)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) {
        sum[j] = a[j] + b[j];
        difference[j] = a[j] - b[j];
    }
}

/* --- Haar: all levels of the 2^level slabs of one block --------------------------------------- *
 * A level takes two slabs of the one before as soon as both are there: low[l] holds two slabs of *
 * the approximation of level l, the first (the image) and the last (the corner of out) none.     */

#define HAAR_SCALE(d) ((d) == 2 ? (REAL)0.5 : (REAL)((d) == 1 ? 0.70710678118654752440 : 0.35355339059327376220))

/* Slabs, rows and elements of a band, for the step from level l to l + 1. */
#define HAAR_BAND \
    const ptrdiff_t h0 = (d > 1 ? g->n0 >> (l + 1) : 0) * slab, h1 = (d > 2 ? g->n1 >> (l + 1) : 0) * row; \
    const ptrdiff_t n = g->n2 >> (l + 1), h2 = n * parts, rows = d > 2 ? g->n1 >> (l + 1) : 1; \
    const ptrdiff_t m = d > 1 ? k >> l : 0, i = d > 1 ? (block << (level - 1 - l)) + m : 0, pitch = row >> l; \
    const int last = l + 1 == level

INLINE REAL *NAME(haar_buffers)(const int d, const int parts, const Grid *g, int level, REAL *work, REAL **low)
{
    low[0] = 0;
    for (int l = 1; l < level; l++) {
        low[l] = work;
        work += 2 * (d > 2 ? g->n1 >> l : 1) * (g->n2 >> l) * parts;
    }
    return work;
}

INLINE void NAME(haar_forward_body)(const int d, const int parts, const Grid *g, int level, ptrdiff_t block,
                                    const REAL *x, REAL *out, REAL *work)
{
    const ptrdiff_t row = g->n2 * parts, slab = g->n1 * row, steps = d > 1 ? (ptrdiff_t)1 << (level - 1) : 1;
    REAL *low[MAX_LEVEL + 1], *rest = NAME(haar_buffers)(d, parts, g, level, work, low);
    const REAL scale = HAAR_SCALE(d);
    for (ptrdiff_t k = 0; k < steps; k++)
        for (int l = 0; l < level; l++) {
            HAAR_BAND;
            const REAL *a = l ? low[l] : x + 2 * i * slab, *b = a + (d > 2 ? g->n1 >> l : 1) * pitch;
            REAL *here = out + i * slab, *there = here + h0;
            REAL *corner = last ? here : low[l + 1] + (m & 1) * rows * h2;
            const ptrdiff_t corner_pitch = last ? row : h2;
            if (d == 1) NAME(split_pairs)(parts, n, a, scale, corner, here + h2);
            if (d == 2) NAME(split_blocks)(parts, n, a, b, scale, corner, here + h2, there, there + h2);
            if (d == 3)
                for (ptrdiff_t j = 0; j < rows; j++) {
                    REAL *s = rest, *t = s + pitch, *u = t + pitch, *v = u + pitch;
                    NAME(butterfly)(pitch, a + 2 * j * pitch, b + 2 * j * pitch, s, u);
                    NAME(butterfly)(pitch, a + (2 * j + 1) * pitch, b + (2 * j + 1) * pitch, t, v);
                    REAL *inner = here + j * row, *outer = there + j * row;
                    NAME(split_blocks)(parts, n, s, t, scale, corner + j * corner_pitch, inner + h2, inner + h1,
                                       inner + h1 + h2);
                    NAME(split_blocks)(parts, n, u, v, scale, outer, outer + h2, outer + h1, outer + h1 + h2);
                }
            if (d > 1 && !(m & 1)) break;
        }
}

INLINE void NAME(haar_inverse_body)(const int d, const int parts, const Grid *g, int level, ptrdiff_t block,
                                    const REAL *c, REAL *out, REAL *work)
{
    const ptrdiff_t row = g->n2 * parts, slab = g->n1 * row, steps = d > 1 ? (ptrdiff_t)1 << (level - 1) : 1;
    REAL *low[MAX_LEVEL + 1], *rest = NAME(haar_buffers)(d, parts, g, level, work, low);
    const REAL scale = HAAR_SCALE(d);
    for (ptrdiff_t k = 0; k < steps; k++)
        for (int l = level - 1; l >= 0; l--) {
            if (d > 1 && (k & (((ptrdiff_t)1 << l) - 1))) continue;
            HAAR_BAND;
            const REAL *here = c + i * slab, *there = here + h0;
            const REAL *corner = last ? here : low[l + 1] + (m & 1) * rows * h2;
            const ptrdiff_t corner_pitch = last ? row : h2;
            REAL *a = l ? low[l] : out + 2 * i * slab, *b = a + (d > 2 ? g->n1 >> l : 1) * pitch;
            if (d == 1) NAME(join_pairs)(parts, n, corner, here + h2, scale, a);
            if (d == 2) NAME(join_blocks)(parts, n, corner, here + h2, there, there + h2, scale, a, b);
            if (d == 3)
                for (ptrdiff_t j = 0; j < rows; j++) {
                    REAL *s = rest, *t = s + pitch, *u = t + pitch, *v = u + pitch;
                    const REAL *inner = here + j * row, *outer = there + j * row;
                    NAME(join_blocks)(parts, n, corner + j * corner_pitch, inner + h2, inner + h1, inner + h1 + h2,
                                      scale, s, t);
                    NAME(join_blocks)(parts, n, outer, outer + h2, outer + h1, outer + h1 + h2, scale, u, v);
                    NAME(butterfly)(pitch, s, u, a + 2 * j * pitch, b + 2 * j * pitch);
                    NAME(butterfly)(pitch, t, v, a + (2 * j + 1) * pitch, b + (2 * j + 1) * pitch);
                }
        }
}

ROW NAME(haar_forward_block)(const Grid *g, int level, ptrdiff_t block, const REAL *x, REAL *out, REAL *work)
{
    if (g->parts == 1) {
        ALONG_AXES(NAME(haar_forward_body), 1, g, level, block, x, out, work);
    } else {
        ALONG_AXES(NAME(haar_forward_body), 2, g, level, block, x, out, work);
    }
}

ROW NAME(haar_inverse_block)(const Grid *g, int level, ptrdiff_t block, const REAL *c, REAL *out, REAL *work)
{
    if (g->parts == 1) {
        ALONG_AXES(NAME(haar_inverse_body), 1, g, level, block, c, out, work);
    } else {
        ALONG_AXES(NAME(haar_inverse_body), 2, g, level, block, c, out, work);
    }
}

/* --- undecimated Haar frame: rows -------------------------------------------------------------- *
 * Rows of n numbers. The factor of a level, 2^-d, is a power of two: exact.                       */

/* A row and its first `shift` numbers once more, from which on it repeats: the periodic neighbour of entry j is entry
 * j + shift. */
INLINE void NAME(wrap_back)(ptrdiff_t n, ptrdiff_t shift, REAL *row)
{
    for (ptrdiff_t j = 0; j < shift; j++) row[n + j] = row[j];
}

/* A row and its last `shift` numbers once more before it: the periodic neighbour of entry j is entry j - shift. */
INLINE void NAME(wrap_front)(ptrdiff_t n, ptrdiff_t shift, REAL *row)
{
    for (ptrdiff_t j = -1; j >= -shift; j--) row[j] = row[n + j];
}

INLINE void NAME(frame_pairs)(ptrdiff_t n, ptrdiff_t shift, const REAL *restrict p, REAL *restrict low,
                              REAL *restrict high)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) {
        REAL a = (REAL)0.5 * p[j], b = (REAL)0.5 * p[j + shift];
        low[j] = a + b;
        high[j] = a - b;
    }
}

/* Without restrict, and differences after the first stores: GCC then loads every entry once. */
INLINE void NAME(frame_blocks)(ptrdiff_t n, ptrdiff_t shift, const REAL *p, const REAL *q, REAL scale, REAL *ll,
                               REAL *lh, REAL *hl, REAL *hh)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) {
        REAL a = p[j], b = p[j + shift], c = q[j], d = q[j + shift];
        REAL s = scale * (a + c), t = scale * (b + d);
        ll[j] = s + t;
        lh[j] = s - t;
        s = scale * (a - c), t = scale * (b - d);
        hl[j] = s + t;
        hh[j] = s - t;
    }
}

/* The sum of what a slab gives itself and what an earlier one gave it; now receives what it gives a later one. */
INLINE REAL NAME(pass_on)(REAL low, REAL high, REAL *now, const REAL *before)
{
    *now = low - high;
    return (low + high) + *before;
}

/* The approximation of a row: as it stands (last level), or the sum that the level after left open. */
#define OPEN_SUM(j) (top ? low[j] : scale * (sum[j] + moved[j]))

/* One row of a 2-D level; sum and difference receive the new open sum. */
INLINE void NAME(adjoint_blocks)(const int top, ptrdiff_t n, const REAL *low, REAL *sum, const REAL *moved, REAL scale,
                                 const REAL *const band[7], REAL *now, const REAL *before, ptrdiff_t held,
                                 REAL *difference)
{
    const REAL *lh = band[0], *hl = band[1], *hh = band[2];
    SIMD() for (ptrdiff_t j = 0; j < n; j++) {
        REAL a = NAME(pass_on)(OPEN_SUM(j), hl[j], now + j, before + j);
        REAL b = NAME(pass_on)(lh[j], hh[j], now + held + j, before + held + j);
        sum[j] = a + b;
        difference[j] = a - b;
    }
}

/* --- undecimated Haar frame: all levels of the slabs start <= i < stop --------------------------- *
 * Level l pairs the slabs i and i + 2^l. Bands: the last approximation, then the details of the      *
 * levels, last level first. ring[l] holds the slabs i & mask[l] that a level still needs.            */

#define FRAME_BAND(l, k) ((1 + (ptrdiff_t)(level - 1 - (l)) * details + (k)) * size)

/* Each level runs as far behind as its pairs reach; beyond stop only approximations are wanted. */
INLINE void NAME(frame_forward_body)(const int d, const Grid *g, int level, ptrdiff_t start, ptrdiff_t stop,
                                     const REAL *x, REAL *out, REAL *work)
{
    const ptrdiff_t row = g->n2 * g->parts, slab = plane_size(g), size = g->n0 * slab, rows = g->n1;
    const ptrdiff_t end = stop + reach_of(g, level);
    const int details = (1 << d) - 1;
    ptrdiff_t shift0[MAX_LEVEL], shift2[MAX_LEVEL], pitch[MAX_LEVEL], mask[MAX_LEVEL];
    REAL *ring[MAX_LEVEL], *band[7], *spare, *sums, *differences;
    for (int l = 0; l < level; l++) {
        shift0[l] = shift_of(l, g->n0);
        shift2[l] = shift_of(l, g->n2) * g->parts;
        pitch[l] = aligned(row + shift2[l]);
        mask[l] = ring_size(shift0[l]) - 1;
        ring[l] = work;
        work += (mask[l] + 1) * rows * pitch[l];
    }
    sums = work;
    differences = sums + rows * aligned(2 * row);
    spare = differences + rows * aligned(2 * row);
    for (ptrdiff_t i = start; i < end; i++) {
        const REAL *source = x + i % g->n0 * slab;
        REAL *image = ring[0] + (i & mask[0]) * rows * pitch[0];
        for (ptrdiff_t j = 0; j < rows; j++) {
            memcpy(image + j * pitch[0], source + j * row, row * sizeof(REAL));
            NAME(wrap_back)(row, shift2[0], image + j * pitch[0]);
        }
        ptrdiff_t at = i;
        for (int l = 0; l < level && at - shift0[l] >= start; l++) {
            const int last = l + 1 == level;
            const ptrdiff_t from = pitch[l], n = rows * from, to = last ? row : pitch[l + 1], shift = shift2[l];
            const REAL *q = ring[l] + (at & mask[l]) * n, *p = ring[l] + ((at - shift0[l]) & mask[l]) * n;
            at -= shift0[l];
            REAL *low = last ? out + at * slab : ring[l + 1] + (at & mask[l + 1]) * rows * to;
            for (int k = 0; k < details; k++)
                band[k] = at < stop ? out + FRAME_BAND(l, k) + at * slab : spare + k * aligned(slab);
            if (d == 1) NAME(frame_pairs)(row, shift, p, low, band[0]);
            if (d == 2) NAME(frame_blocks)(row, shift, p, q, (REAL)0.25, low, band[0], band[1], band[2]);
            if (d == 3) {
                const ptrdiff_t shift1 = shift_of(l, rows);
                NAME(butterfly)(n, p, q, sums, differences);
                for (ptrdiff_t j = 0; j < rows; j++) {
                    const ptrdiff_t here = j * from, there = (j + shift1) % rows * from, r = j * row;
                    NAME(frame_blocks)(row, shift, sums + here, sums + there, (REAL)0.125, low + j * to, band[0] + r,
                                       band[1] + r, band[2] + r);
                    NAME(frame_blocks)(row, shift, differences + here, differences + there, (REAL)0.125, band[3] + r,
                                       band[4] + r, band[5] + r, band[6] + r);
                }
            }
            if (!last)
                for (ptrdiff_t j = 0; j < rows; j++) NAME(wrap_back)(row, shift2[l + 1], low + j * to);
        }
    }
}

/* All levels take the same slab in turn, the last level first; before start only what is passed on to the slabs
 * from start on is wanted. A level adds along n0, then n1, and leaves the addition along n2, of the rows of sum
 * and the shifted ones of moved, to the level that reads the result. */
INLINE void NAME(frame_adjoint_body)(const int d, const Grid *g, int level, ptrdiff_t start, ptrdiff_t stop,
                                     const REAL *c, REAL *out, REAL *work)
{
    const ptrdiff_t row = g->n2 * g->parts, slab = plane_size(g), size = g->n0 * slab, rows = g->n1;
    const ptrdiff_t held = aligned(slab), first = start - reach_of(g, level), pitch = 2 * aligned(row);
    const int details = (1 << d) - 1, kept = d == 3 ? 4 : 2;  /* kept: slabs passed on together */
    const REAL scale = (REAL)(d == 1 ? 0.5 : d == 2 ? 0.25 : 0.125);
    ptrdiff_t shift0[MAX_LEVEL], shift2[MAX_LEVEL], mask[MAX_LEVEL];
    REAL *ring[MAX_LEVEL], *sum = work, *difference[2], *moved, *part[4];
    moved = difference[0] = sum + held;
    difference[1] = difference[0] + rows * pitch;
    work = difference[1] + rows * pitch;
    for (int k = 0; k < 4; k++) part[k] = work + k * held;
    work += 4 * held;
    for (int l = 0; l < level; l++) {
        shift0[l] = shift_of(l, g->n0);
        shift2[l] = shift_of(l, g->n2) * g->parts;
        mask[l] = ring_size(shift0[l]) - 1;
        ring[l] = work;
        work += (mask[l] + 1) * kept * held;
    }
    for (ptrdiff_t i = first; i < stop; i++) {
        const ptrdiff_t at = (i < 0 ? (i + 1) % g->n0 + g->n0 - 1 : i % g->n0) * slab, age = i - first;
        ptrdiff_t begin = first;
        for (int l = level - 1; l >= 0 && i >= begin; l--) {
            begin += shift0[l];
            const int top = l + 1 == level;
            const ptrdiff_t shift = shift2[l], shift1 = d == 3 ? shift_of(l, rows) : 0;
            const REAL *low = c + at, *band[7];
            REAL *other = difference[l & 1] + aligned(shift);
            REAL *now = ring[l] + (age & mask[l]) * kept * held;
            const REAL *before = i < begin ? now : ring[l] + ((age - shift0[l]) & mask[l]) * kept * held;
            for (int k = 0; k < details; k++) band[k] = c + FRAME_BAND(l, k) + at;
            if (d == 1) {
                const REAL *high = band[0];
                SIMD() for (ptrdiff_t j = 0; j < row; j++) {
                    REAL a = OPEN_SUM(j), b = high[j];
                    sum[j] = a + b;
                    other[j] = a - b;
                }
            }
            if (d == 2 && top)
                NAME(adjoint_blocks)(1, row, low, sum, moved, scale, band, now, before, held, other);
            if (d == 2 && !top)
                NAME(adjoint_blocks)(0, row, low, sum, moved, scale, band, now, before, held, other);
            if (d == 3)
                for (ptrdiff_t r = 0; r < rows; r++)
                    SIMD() for (ptrdiff_t m = 0; m < row; m++) {
                        const ptrdiff_t j = r * row + m;
                        REAL a = top ? low[j] : scale * (sum[j] + moved[r * pitch + m]);
                        part[0][j] = NAME(pass_on)(a, band[3][j], now + j, before + j);
                        part[1][j] = NAME(pass_on)(band[0][j], band[4][j], now + held + j, before + held + j);
                        part[2][j] = NAME(pass_on)(band[1][j], band[5][j], now + 2 * held + j, before + 2 * held + j);
                        part[3][j] = NAME(pass_on)(band[2][j], band[6][j], now + 3 * held + j, before + 3 * held + j);
                    }
            for (ptrdiff_t r = 0; r < rows; r++) {
                if (d == 3) {
                    const ptrdiff_t here = r * row, there = (r < shift1 ? r + rows - shift1 : r - shift1) * row;
                    SIMD() for (ptrdiff_t m = 0; m < row; m++) {
                        const ptrdiff_t j = here + m, k = there + m;
                        REAL a = (part[0][j] + part[2][j]) + (part[0][k] - part[2][k]);
                        REAL b = (part[1][j] + part[3][j]) + (part[1][k] - part[3][k]);
                        sum[j] = a + b;
                        other[r * pitch + m] = a - b;
                    }
                }
                NAME(wrap_front)(row, shift, other + r * pitch);
            }
            moved = other - shift;
        }
        if (i >= start)
            for (ptrdiff_t r = 0; r < rows; r++)
                SIMD() for (ptrdiff_t m = 0; m < row; m++)
                    out[i * slab + r * row + m] = scale * (sum[r * row + m] + moved[r * pitch + m]);
    }
}

ROW NAME(frame_forward_block)(const Grid *g, int level, ptrdiff_t start, ptrdiff_t stop, const REAL *x, REAL *out,
                              REAL *work)
{
    ALONG_AXES(NAME(frame_forward_body), g, level, start, stop, x, out, work);
}

ROW NAME(frame_adjoint_block)(const Grid *g, int level, ptrdiff_t start, ptrdiff_t stop, const REAL *c, REAL *out,
                              REAL *work)
{
    ALONG_AXES(NAME(frame_adjoint_body), g, level, start, stop, c, out, work);
}

/* --- undecimated frame of a filter pair: one level -------------------------------------------------- *
 * Every pixel is gathered from its taps, 2^l apart, so no entry depends on how rows are shared out.    *
 * Bands of a level: k = 0 the approximation, `low`, the others in `details`; the bits of k are the     *
 * filters, 0 low-pass and 1 high-pass, along n0, n1, n2 (the last d of them).                          */

typedef struct {
    REAL low[MAX_TAPS], high[MAX_TAPS];
} NAME(Filters);

INLINE NAME(Filters) NAME(filters_of)(const int taps, const double *values)
{
    NAME(Filters) f;
    for (int k = 0; k < taps; k++) {
        f.low[k] = (REAL)values[k];
        f.high[k] = (REAL)values[taps + k];
    }
    return f;
}

/* p[k] <- row i + k shift of `rows` periodic rows of n numbers */
INLINE void NAME(rows_from)(const int taps, const REAL *x, ptrdiff_t i, ptrdiff_t shift, ptrdiff_t rows, ptrdiff_t n,
                            const REAL **p)
{
    for (int k = 0; k < taps; k++, i = (i + shift) % rows) p[k] = x + i * n;
}

/* low, high <- the sums over k of the filters times p[k]. As in frame_blocks, GCC loads every entry once. */
INLINE void NAME(analyse)(const int taps, ptrdiff_t n, const REAL *const *p, const NAME(Filters) f, REAL *low,
                          REAL *high)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) {
        REAL u[MAX_TAPS], sum;
        UNROLL for (int k = 0; k < taps; k++) u[k] = p[k][j];
        sum = f.low[0] * u[0];
        UNROLL for (int k = 1; k < taps; k++) sum += f.low[k] * u[k];
        low[j] = sum;
        sum = f.high[0] * u[0];
        UNROLL for (int k = 1; k < taps; k++) sum += f.high[k] * u[k];
        high[j] = sum;
    }
}

/* out <- the sum over k of the low-pass filter times p[k] and the high-pass filter times q[k] */
INLINE void NAME(synthesise)(const int taps, ptrdiff_t n, const REAL *const *p, const REAL *const *q,
                             const NAME(Filters) f, REAL *restrict out)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) {
        REAL a = f.low[0] * p[0][j], b = f.high[0] * q[0][j];
        UNROLL for (int k = 1; k < taps; k++) {
            a += f.low[k] * p[k][j];
            b += f.high[k] * q[k][j];
        }
        out[j] = a + b;
    }
}

/* The same of p, q to `next` and of p + 1, q + 1 to `out`: two rows one shift apart have all taps but one in common. */
INLINE void NAME(synthesise_pair)(const int taps, ptrdiff_t n, const REAL *const *p, const REAL *const *q,
                                  const NAME(Filters) f, REAL *next, REAL *out)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) {
        REAL u[MAX_TAPS + 1], v[MAX_TAPS + 1], a, b;
        UNROLL for (int k = 0; k <= taps; k++) {
            u[k] = p[k][j];
            v[k] = q[k][j];
        }
        a = f.low[0] * u[0], b = f.high[0] * v[0];
        UNROLL for (int k = 1; k < taps; k++) {
            a += f.low[k] * u[k];
            b += f.high[k] * v[k];
        }
        next[j] = a + b;
        a = f.low[0] * u[1], b = f.high[0] * v[1];
        UNROLL for (int k = 1; k < taps; k++) {
            a += f.low[k] * u[k + 1];
            b += f.high[k] * v[k + 1];
        }
        out[j] = a + b;
    }
}

/* Along n2: the bands of a line, which has room for `reach` numbers after its n, and the line of two bands, which
 * have as much before them. */
INLINE void NAME(analyse_line)(const int taps, ptrdiff_t n, ptrdiff_t shift, const NAME(Filters) f, REAL *line, REAL *low,
                             REAL *high)
{
    const REAL *p[MAX_TAPS];
    NAME(wrap_back)(n, (taps - 1) * shift, line);
    for (int k = 0; k < taps; k++) p[k] = line + k * shift;
    NAME(analyse)(taps, n, p, f, low, high);
}

INLINE void NAME(synthesise_line)(const int taps, ptrdiff_t n, ptrdiff_t shift, const NAME(Filters) f, REAL *low, REAL *high,
                            REAL *out)
{
    const REAL *p[MAX_TAPS], *q[MAX_TAPS];
    NAME(wrap_front)(n, (taps - 1) * shift, low);
    NAME(wrap_front)(n, (taps - 1) * shift, high);
    for (int k = 0; k < taps; k++) {
        p[k] = low - k * shift;
        q[k] = high - k * shift;
    }
    NAME(synthesise)(taps, n, p, q, f, out);
}

/* Along n2 and the axis before it, of `rows` rows, for the rows start <= i < stop of a plane x with the bands k. */
INLINE void NAME(analyse_rows_body)(const int taps, const double *values, const Grid *g, int l, ptrdiff_t rows,
                                  ptrdiff_t start, ptrdiff_t stop, const REAL *x, REAL *const *band, REAL *work)
{
    const ptrdiff_t row = g->n2 * g->parts, shift = shift_of(l, rows), shift2 = shift_of(l, g->n2) * g->parts;
    const NAME(Filters) f = NAME(filters_of)(taps, values);
    const REAL *p[MAX_TAPS];
    REAL *low = work, *high = work + filter_pitch(g, taps, l);
    for (ptrdiff_t i = start; i < stop; i++) {
        NAME(rows_from)(taps, x, i, shift, rows, row, p);
        NAME(analyse)(taps, row, p, f, low, high);
        NAME(analyse_line)(taps, row, shift2, f, low, band[0] + i * row, band[1] + i * row);
        NAME(analyse_line)(taps, row, shift2, f, high, band[2] + i * row, band[3] + i * row);
    }
}

/* Two rows one shift apart at a time; where there is no second one it is computed in vain. */
INLINE void NAME(synthesise_rows_body)(const int taps, const double *values, const Grid *g, int l, ptrdiff_t rows,
                                 ptrdiff_t start, ptrdiff_t stop, const REAL *const *band, REAL *x, REAL *work)
{
    const ptrdiff_t row = g->n2 * g->parts, shift = shift_of(l, rows), shift2 = shift_of(l, g->n2) * g->parts;
    const ptrdiff_t phases = shift ? shift : 1, step = shift ? 2 * shift : 1;
    const NAME(Filters) f = NAME(filters_of)(taps, values);
    const REAL *p[MAX_TAPS + 1], *q[MAX_TAPS + 1];
    REAL *line[4];
    for (int k = 0; k < 4; k++) line[k] = work + k * filter_pitch(g, taps, l) + aligned(filter_reach(g, taps, l));
    for (ptrdiff_t phase = start; phase < start + phases; phase++)
        for (ptrdiff_t i = phase; i < stop; i += step) {
            for (int b = 0; b < 2; b++) {
                NAME(rows_from)(taps + 1, band[b], (i + shift) % rows, rows - shift, rows, row, p);
                NAME(rows_from)(taps + 1, band[b + 2], (i + shift) % rows, rows - shift, rows, row, q);
                NAME(synthesise_pair)(taps, row, p, q, f, line[b + 2], line[b]);
            }
            NAME(synthesise_line)(taps, row, shift2, f, line[0], line[1], x + i * row);
            if (shift && i + shift < stop)
                NAME(synthesise_line)(taps, row, shift2, f, line[2], line[3], x + (i + shift) * row);
        }
}

/* One axis: the line x, or the lines of the two bands, copied to where there is room around them. */
INLINE void NAME(analyse_axis_body)(const int taps, const double *values, const Grid *g, int l, const REAL *x, REAL *low,
                                  REAL *high, REAL *work)
{
    const ptrdiff_t row = g->n2 * g->parts;
    memcpy(work, x, row * sizeof(REAL));
    NAME(analyse_line)(taps, row, shift_of(l, g->n2) * g->parts, NAME(filters_of)(taps, values), work, low, high);
}

INLINE void NAME(synthesise_axis_body)(const int taps, const double *values, const Grid *g, int l, const REAL *low,
                                 const REAL *high, REAL *x, REAL *work)
{
    const ptrdiff_t row = g->n2 * g->parts;
    REAL *p = work + aligned(filter_reach(g, taps, l)), *q = p + filter_pitch(g, taps, l);
    memcpy(p, low, row * sizeof(REAL));
    memcpy(q, high, row * sizeof(REAL));
    NAME(synthesise_line)(taps, row, shift_of(l, g->n2) * g->parts, NAME(filters_of)(taps, values), p, q, x);
}

/* Along n0 in 3-D: slab i of x split in two, and of the bands low, high joined, n numbers each. */
INLINE void NAME(analyse_slabs_body)(const int taps, const double *values, ptrdiff_t i, ptrdiff_t shift, ptrdiff_t slabs,
                                   ptrdiff_t n, const REAL *x, REAL *low, REAL *high)
{
    const REAL *p[MAX_TAPS];
    NAME(rows_from)(taps, x, i, shift, slabs, n, p);
    NAME(analyse)(taps, n, p, NAME(filters_of)(taps, values), low, high);
}

INLINE void NAME(synthesise_slabs_body)(const int taps, const double *values, ptrdiff_t i, ptrdiff_t shift, ptrdiff_t slabs,
                                  ptrdiff_t n, const REAL *low, const REAL *high, REAL *x)
{
    const REAL *p[MAX_TAPS], *q[MAX_TAPS];
    NAME(rows_from)(taps, low, i, slabs - shift, slabs, n, p);
    NAME(rows_from)(taps, high, i, slabs - shift, slabs, n, q);
    NAME(synthesise)(taps, n, p, q, NAME(filters_of)(taps, values), x);
}

FILTER_ROW(analyse_rows, (FILTER_AXES, ptrdiff_t rows, ptrdiff_t start, ptrdiff_t stop, const REAL *x, REAL *const *band,
                        REAL *work), g, l, rows, start, stop, x, band, work)
FILTER_ROW(synthesise_rows, (FILTER_AXES, ptrdiff_t rows, ptrdiff_t start, ptrdiff_t stop, const REAL *const *band, REAL *x,
                       REAL *work), g, l, rows, start, stop, band, x, work)
FILTER_ROW(analyse_axis, (FILTER_AXES, const REAL *x, REAL *low, REAL *high, REAL *work), g, l, x, low, high, work)
FILTER_ROW(synthesise_axis, (FILTER_AXES, const REAL *low, const REAL *high, REAL *x, REAL *work), g, l, low, high, x, work)
FILTER_ROW(analyse_slabs, (FILTER_TAPS, ptrdiff_t i, ptrdiff_t shift, ptrdiff_t slabs, ptrdiff_t n, const REAL *x,
                         REAL *low, REAL *high), i, shift, slabs, n, x, low, high)
FILTER_ROW(synthesise_slabs, (FILTER_TAPS, ptrdiff_t i, ptrdiff_t shift, ptrdiff_t slabs, ptrdiff_t n, const REAL *low,
                        const REAL *high, REAL *x), i, shift, slabs, n, low, high, x)

#define FILTER_BAND(k, i) (((k) ? details + ((k) - 1) * size : low) + (i) * slab)

/* The slabs start <= i < stop of one level. */
PLANE NAME(filter_bank_forward_block)(FILTER_AXES, ptrdiff_t start, ptrdiff_t stop, const REAL *x, REAL *low,
                                      REAL *details, REAL *work)
{
    const ptrdiff_t slab = plane_size(g), size = g->n0 * slab;
    REAL *band[8], *plane = work + filter_lines(g, taps, l), *other = plane + aligned(slab);
    for (int k = 0; k < 1 << g->d; k++) band[k] = FILTER_BAND(k, 0);
    if (g->d == 1) NAME(analyse_axis)(taps, values, g, l, x, low, details, work);
    if (g->d == 2) NAME(analyse_rows)(taps, values, g, l, g->n0, start, stop, x, band, work);
    if (g->d == 3)
        for (ptrdiff_t i = start; i < stop; i++) {
            for (int k = 0; k < 8; k++) band[k] = FILTER_BAND(k, i);
            NAME(analyse_slabs)(taps, values, i, shift_of(l, g->n0), g->n0, slab, x, plane, other);
            NAME(analyse_rows)(taps, values, g, l, g->n1, 0, g->n1, plane, band, work);
            NAME(analyse_rows)(taps, values, g, l, g->n1, 0, g->n1, other, band + 4, work);
        }
}

PLANE NAME(filter_bank_adjoint_block)(FILTER_AXES, ptrdiff_t start, ptrdiff_t stop, const REAL *low,
                                      const REAL *details, REAL *x, REAL *work)
{
    const ptrdiff_t slab = plane_size(g), size = g->n0 * slab;
    const REAL *band[4];
    REAL *plane[4];
    for (int k = 0; k < 4; k++) {
        plane[k] = work + filter_lines(g, taps, l) + k * aligned(slab);
        if (k < 1 << g->d) band[k] = g->d == 3 ? plane[k] : FILTER_BAND(k, 0);
    }
    if (g->d == 1) NAME(synthesise_axis)(taps, values, g, l, low, details, x, work);
    if (g->d == 2) NAME(synthesise_rows)(taps, values, g, l, g->n0, start, stop, band, x, work);
    if (g->d == 3)
        for (ptrdiff_t i = start; i < stop; i++) {
            for (int k = 0; k < 4; k++)
                NAME(synthesise_slabs)(taps, values, i, shift_of(l, g->n0), g->n0, slab, FILTER_BAND(k, 0),
                                 FILTER_BAND(k + 4, 0), plane[k]);
            NAME(synthesise_rows)(taps, values, g, l, g->n1, 0, g->n1, band, x + i * slab, work);
        }
}

/* --- coefficients: the one-field split z = T x (mathematics.md 4c), elementwise ----------------------- *
 * parts = 1: numbers; parts = 2: complex elements, clipped by their modulus. n counts elements.           *
 * weights (NULL: all 1) multiply the bounds, one an element.                                              */

#define WEIGHTED(value, j) (weighted ? weights[j] * (value) : (value))

/* Complex elements, m of them from number `at` on, with their `factors`: the weights, or ones, as with no weight to
 * load GCC keeps re and im side by side and computes every root and quotient twice. */
#define BY_CHUNKS(call) \
    REAL ones[ROW_CHUNK]; \
    for (ptrdiff_t j = 0; j < ROW_CHUNK; j++) ones[j] = 1; \
    FOR_CHUNKS(start, stop, n) { \
        const ptrdiff_t m = stop - start, at = 2 * start; \
        const REAL *factors = weights ? weights + start : ones; \
        call; \
    }

INLINE REAL NAME(modulus)(const int parts, REAL re, REAL im)
{
    return parts == 1 ? NAME(absolute)(re) : SQRT(re * re + im * im);
}

INLINE REAL NAME(clip_scale)(REAL re, REAL im, REAL t) { return NAME(ball_scale)(NAME(modulus)(2, re, im), t); }

/* w <- relaxation t + (1 - relaxation)(w - c) + dual_scale c, c = clip(w, bound); out <- w - 2 clip(w, new_bound) */
INLINE void NAME(update_coefficients_body)(const int parts, const int weighted, ptrdiff_t n, const REAL *t,
                                           REAL *restrict w, REAL relaxation, REAL bound, REAL new_bound,
                                           REAL dual_scale, const REAL *restrict weights, REAL *out)
{
    const REAL kept = 1 - relaxation, carried = dual_scale - kept;
    if (parts == 1) {
        SIMD() for (ptrdiff_t j = 0; j < n; j++) {
            REAL a = relaxation * t[j] + (kept * w[j] + carried * NAME(clip)(w[j], WEIGHTED(bound, j)));
            w[j] = a;
            out[j] = a - 2 * NAME(clip)(a, WEIGHTED(new_bound, j));
        }
    } else {
        SIMD() for (ptrdiff_t j = 0; j < n; j++) {
            REAL re = w[2 * j], im = w[2 * j + 1];
            REAL factor = kept + carried * NAME(clip_scale)(re, im, WEIGHTED(bound, j));
            re = relaxation * t[2 * j] + factor * re;
            im = relaxation * t[2 * j + 1] + factor * im;
            w[2 * j] = re;
            w[2 * j + 1] = im;
            factor = 1 - 2 * NAME(clip_scale)(re, im, WEIGHTED(new_bound, j));
            out[2 * j] = factor * re;
            out[2 * j + 1] = factor * im;
        }
    }
}

ROW NAME(update_coefficients)(int parts, ptrdiff_t n, const REAL *t, REAL *restrict w, REAL relaxation, REAL bound,
                              REAL new_bound, REAL dual_scale, const REAL *weights, REAL *out)
{
    if (parts == 2) {
        BY_CHUNKS(NAME(update_coefficients_body)(2, 1, m, t + at, w + at, relaxation, bound, new_bound, dual_scale,
                                                 factors, out + at))
    } else if (weights)
        NAME(update_coefficients_body)(1, 1, n, t, w, relaxation, bound, new_bound, dual_scale, weights, out);
    else
        NAME(update_coefficients_body)(1, 0, n, t, w, relaxation, bound, new_bound, dual_scale, 0, out);
}

INLINE void NAME(clip_coefficients_body)(const int parts, const int weighted, ptrdiff_t n, const REAL *w, REAL bound,
                                         const REAL *restrict weights, REAL *out)
{
    if (parts == 1) {
        SIMD() for (ptrdiff_t j = 0; j < n; j++) out[j] = NAME(clip)(w[j], WEIGHTED(bound, j));
    } else {
        SIMD() for (ptrdiff_t j = 0; j < n; j++) {
            REAL re = w[2 * j], im = w[2 * j + 1], scale = NAME(clip_scale)(re, im, WEIGHTED(bound, j));
            out[2 * j] = scale * re;
            out[2 * j + 1] = scale * im;
        }
    }
}

ROW NAME(clip_coefficients)(int parts, ptrdiff_t n, const REAL *w, REAL bound, const REAL *weights, REAL *out)
{
    if (parts == 2) {
        BY_CHUNKS(NAME(clip_coefficients_body)(2, 1, m, w + at, bound, factors, out + at))
    } else if (weights)
        NAME(clip_coefficients_body)(1, 1, n, w, bound, weights, out);
    else
        NAME(clip_coefficients_body)(1, 0, n, w, bound, 0, out);
}

/* acc[0..4] += weights |t|, Re <c, t>, |t - v|^2, |v|^2, |t|^2, acc[5] = max(acc[5], |t - v + c|), v = w - c */
INLINE void NAME(coefficient_status_body)(const int parts, const int weighted, ptrdiff_t n, const REAL *restrict t,
                                          const REAL *restrict w, REAL bound, const REAL *restrict weights,
                                          double *restrict acc)
{
    FOR_CHUNKS(start, stop, n) {
        REAL sum = 0, ct = 0, rr = 0, vv = 0, tt = 0, largest = 0;
        SIMD(reduction(+ : sum, ct, rr, vv, tt) reduction(max : largest)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL a0 = t[parts * j], a1 = parts > 1 ? t[parts * j + 1] : 0;
            REAL w0 = w[parts * j], w1 = parts > 1 ? w[parts * j + 1] : 0;
            REAL limit = WEIGHTED(bound, j), scale = parts > 1 ? NAME(clip_scale)(w0, w1, limit) : 0;
            REAL c0 = parts > 1 ? scale * w0 : NAME(clip)(w0, limit), c1 = scale * w1;
            REAL v0 = w0 - c0, v1 = w1 - c1, r0 = a0 - v0, r1 = a1 - v1;
            REAL size = NAME(modulus)(parts, r0 + c0, r1 + c1);
            sum += WEIGHTED(NAME(modulus)(parts, a0, a1), j);
            ct += c0 * a0 + c1 * a1;
            rr += r0 * r0 + r1 * r1;
            vv += v0 * v0 + v1 * v1;
            tt += a0 * a0 + a1 * a1;
            largest = size > largest ? size : largest;
        }
        acc[0] += sum;
        acc[1] += ct;
        acc[2] += rr;
        acc[3] += vv;
        acc[4] += tt;
        acc[5] = largest > acc[5] ? largest : acc[5];
    }
}

ROW NAME(coefficient_status)(int parts, ptrdiff_t n, const REAL *restrict t, const REAL *restrict w, REAL bound,
                             const REAL *weights, double *restrict acc)
{
    if (parts == 2 && weights) NAME(coefficient_status_body)(2, 1, n, t, w, bound, weights, acc);
    else if (parts == 2) NAME(coefficient_status_body)(2, 0, n, t, w, bound, 0, acc);
    else if (weights) NAME(coefficient_status_body)(1, 1, n, t, w, bound, weights, acc);
    else NAME(coefficient_status_body)(1, 0, n, t, w, bound, 0, acc);
}
