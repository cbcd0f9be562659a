/* Included by rows.h after rows_template.h: one plane (n1 x n2 pixels, one row in 2-D) of a field at a
 * time. q and p are arrays of d pointers to the plane's components. The forward difference along n2
 * wraps around, so the last TAIL pixels of a row see their neighbours through a short copy. */

/* The row function for real or for complex components. */
#define PICK(name) (parts == 1 ? NAME(name) : NAME(complex_##name))

/* Part 0: the pixels of row j before the tail; part 1: the tail. Returns the pixels' number. */
INLINE ptrdiff_t NAME(neighbours)(const int parts, const Grid *g, const REAL *x, ptrdiff_t i, ptrdiff_t j, int part,
                                  ptrdiff_t *at, const REAL **pixel, const REAL *next[3], REAL tail[2 * TAIL])
{
    const ptrdiff_t length = g->n2 < TAIL ? g->n2 : TAIL, row = parts * g->n2;
    const ptrdiff_t shift = part ? row - parts * length : 0;
    const REAL *start = x + (i * g->n1 + j) * row;
    int k = 0;
    *at = j * row + shift;
    *pixel = start + shift;
    next[0] = next[1] = next[2] = start;
    if (g->d > 1) next[k++] = x + ((i + 1 == g->n0 ? 0 : i + 1) * g->n1 + j) * row + shift;
    if (g->d > 2) next[k++] = x + (i * g->n1 + (j + 1 == g->n1 ? 0 : j + 1)) * row + shift;
    next[k] = start + parts;
    if (!part) return g->n2 - length;
    memcpy(tail, start + shift + parts, parts * (length - 1) * sizeof(REAL));
    memcpy(tail + parts * (length - 1), start, parts * sizeof(REAL));
    next[k] = tail;
    return length;
}

#define FOR_PARTS \
    for (ptrdiff_t j = 0; j < g->n1; j++) \
        for (int part = g->n2 <= TAIL; part < 2; part++)

INLINE void NAME(gradient_rows)(const int parts, const Grid *g, const REAL *x, ptrdiff_t i, REAL *const p[3])
{
    const REAL *pixel, *next[3];
    REAL tail[2 * TAIL];
    ptrdiff_t at;
    FOR_PARTS {
        ptrdiff_t n = NAME(neighbours)(parts, g, x, i, j, part, &at, &pixel, next, tail);
        for (int k = 0; k < g->d; k++) NAME(subtract)(parts * n, next[k], pixel, p[k] + at);
    }
}

PLANES(gradient_plane, NAME(gradient_rows), (const Grid *g, const REAL *x, ptrdiff_t i, REAL *const p[3]), g, x, i, p)

INLINE void NAME(adjoint_rows)(const int parts, const Grid *g, const REAL *before, REAL *const p[3], REAL *out)
{
    const REAL *inner = p[g->d - 1];
    for (ptrdiff_t j = 0; j < g->n1; j++) {
        ptrdiff_t row = parts * g->n2, at = j * row, above = (j ? j - 1 : g->n1 - 1) * row;
        PICK(adjoint)(g->d, g->n2, before + at, p[0] + at, p[1] + above, p[1] + at, inner + at, out + at);
    }
}

PLANES(adjoint_plane, NAME(adjoint_rows), (const Grid *g, const REAL *before, REAL *const p[3], REAL *out), g, before, p,
       out)

INLINE void NAME(update_rows)(const int parts, const Grid *g, const REAL *x, ptrdiff_t i, REAL *const q[3],
                              REAL relaxation, REAL t, REAL dual_scale, int isotropic, int sums, REAL trial, double *acc)
{
    const REAL *pixel, *next[3];
    REAL tail[2 * TAIL];
    ptrdiff_t at;
    FOR_PARTS {
        ptrdiff_t n = NAME(neighbours)(parts, g, x, i, j, part, &at, &pixel, next, tail);
        for (int k = 0; k < (isotropic ? 1 : g->d); k++) {
            int d = isotropic ? g->d : 1;
            REAL *q1 = q[1] + at, *q2 = q[2] + at;
            if (sums)
                PICK(update_sums)(d, n, pixel, next[k], next[1], next[2], q[k] + at, q1, q2, relaxation, t, dual_scale,
                                  trial, acc);
            else
                PICK(update)(d, n, pixel, next[k], next[1], next[2], q[k] + at, q1, q2, relaxation, t, dual_scale);
        }
    }
}

PLANES(update_plane, NAME(update_rows),
       (const Grid *g, const REAL *x, ptrdiff_t i, REAL *const q[3], REAL relaxation, REAL t, REAL dual_scale,
        int isotropic, int sums, REAL trial, double *acc),
       g, x, i, q, relaxation, t, dual_scale, isotropic, sums, trial, acc)

/* m: the magnitudes of the plane's pixels, or of its components one after the other, `stride` pixels apart */
INLINE void NAME(update_measured_rows)(const int parts, const Grid *g, const REAL *x, ptrdiff_t i, REAL *const q[3],
                                       REAL relaxation, REAL t, REAL dual_scale, int isotropic, REAL *m,
                                       ptrdiff_t stride)
{
    const REAL *pixel, *next[3];
    REAL tail[2 * TAIL];
    ptrdiff_t at;
    FOR_PARTS {
        ptrdiff_t n = NAME(neighbours)(parts, g, x, i, j, part, &at, &pixel, next, tail);
        for (int k = 0; k < (isotropic ? 1 : g->d); k++)
            PICK(update_measured)(isotropic ? g->d : 1, n, pixel, next[k], next[1], next[2], q[k] + at, q[1] + at,
                                  q[2] + at, relaxation, t, dual_scale, m + k * stride + at / parts);
    }
}

PLANES(update_measured_plane, NAME(update_measured_rows),
       (const Grid *g, const REAL *x, ptrdiff_t i, REAL *const q[3], REAL relaxation, REAL t, REAL dual_scale,
        int isotropic, REAL *m, ptrdiff_t stride),
       g, x, i, q, relaxation, t, dual_scale, isotropic, m, stride)

INLINE void NAME(status_rows)(const int parts, const Grid *g, const REAL *x, ptrdiff_t i, REAL *const q[3], REAL t,
                              int isotropic, double *acc)
{
    const REAL *pixel, *next[3];
    REAL tail[2 * TAIL];
    ptrdiff_t at;
    FOR_PARTS {
        ptrdiff_t n = NAME(neighbours)(parts, g, x, i, j, part, &at, &pixel, next, tail);
        for (int k = 0; k < (isotropic ? 1 : g->d); k++)
            PICK(status)(isotropic ? g->d : 1, n, pixel, next[k], next[1], next[2], q[k] + at, q[1] + at, q[2] + at, t,
                         acc);
    }
}

PLANES(status_plane, NAME(status_rows),
       (const Grid *g, const REAL *x, ptrdiff_t i, REAL *const q[3], REAL t, int isotropic, double *acc),
       g, x, i, q, t, isotropic, acc)

INLINE void NAME(split_rows)(const int parts, const Grid *g, REAL *const q[3], REAL t, REAL field_weight,
                             REAL clip_weight, int isotropic, REAL *const p[3])
{
    const ptrdiff_t row = parts * g->n2;
    for (ptrdiff_t at = 0; at < g->n1 * row; at += row)
        for (int k = 0; k < (isotropic ? 1 : g->d); k++)
            PICK(split)(isotropic ? g->d : 1, g->n2, q[k] + at, q[1] + at, q[2] + at, t, field_weight, clip_weight,
                        p[k] + at, p[1] + at, p[2] + at);
}

PLANES(split_plane, NAME(split_rows),
       (const Grid *g, REAL *const q[3], REAL t, REAL field_weight, REAL clip_weight, int isotropic, REAL *const p[3]),
       g, q, t, field_weight, clip_weight, isotropic, p)

INLINE void NAME(above_rows)(const int parts, const Grid *g, REAL *const q[3], REAL t, int isotropic, double *acc)
{
    for (int k = 0; k < (isotropic ? 1 : g->d); k++)
        PICK(above)(isotropic ? g->d : 1, g->n1 * g->n2, q[k], q[1], q[2], t, acc);
}

PLANES(above_plane, NAME(above_rows), (const Grid *g, REAL *const q[3], REAL t, int isotropic, double *acc), g, q, t,
       isotropic, acc)

PLANE NAME(slack_plane)(const Grid *g, const REAL *x, ptrdiff_t i, REAL *const s1[3], REAL *const s2[3],
                        REAL *const c[3], REAL *const l1[3], REAL *const l2[3], REAL shift, REAL penalty,
                        REAL proximal, REAL *const p[3], double *acc)
{
    const REAL *pixel, *next[3];
    REAL tail[2 * TAIL];
    ptrdiff_t at;
    FOR_PARTS {
        ptrdiff_t n = NAME(neighbours)(1, g, x, i, j, part, &at, &pixel, next, tail);
        for (int k = 0; k < g->d; k++)
            NAME(slack)(n, pixel, next[k], s1[k] + at, s2[k] + at, c[k] + at, l1[k] + at, l2[k] + at, shift, penalty,
                        proximal, p[k] + at, acc);
    }
}

/* --- blocks of planes: the stencil of grad^T keeps one plane of the axis n0 behind ------------
 *
 * A block's work array holds 2 d + 1 planes: p (d), the plane before (1), a copy of q (d).      */

INLINE void NAME(plane_pointers)(const Grid *g, REAL *field, ptrdiff_t i, REAL *planes[3])
{
    ptrdiff_t plane = plane_size(g), image = g->n0 * plane;
    for (int k = 0; k < 3; k++) planes[k] = field + (k < g->d ? k : 0) * image + i * plane;
}

INLINE REAL *NAME(work_pointers)(const Grid *g, REAL *work, REAL *p[3], REAL *copy[3])
{
    ptrdiff_t plane = plane_size(g);
    for (int k = 0; k < 3; k++) {
        p[k] = work + (k < g->d ? k : 0) * plane;
        copy[k] = work + (g->d + 1 + (k < g->d ? k : 0)) * plane;
    }
    return work + g->d * plane;
}

/* First component of the split field on the plane before `start`, from x and the old q. */
PLANE NAME(update_halo)(const Grid *g, const REAL *x, REAL *q, ptrdiff_t start, REAL relaxation, REAL t,
                        REAL new_t, int isotropic, REAL *work)
{
    REAL *planes[3], *p[3], *copy[3], *before = NAME(work_pointers)(g, work, p, copy);
    ptrdiff_t i = start ? start - 1 : g->n0 - 1, plane = plane_size(g);
    NAME(plane_pointers)(g, q, i, planes);
    for (int k = 0; k < g->d; k++) memcpy(copy[k], planes[k], plane * sizeof(REAL));
    NAME(update_plane)(g, x, i, copy, relaxation, t, 1, isotropic, 0, 0, 0);
    NAME(split_plane)(g, copy, new_t, 1, -2, isotropic, p);
    memcpy(before, p[0], plane * sizeof(REAL));
}

/* q <- update, out <- grad^T(q - 2 clip(q, new_t)) for the planes start <= i < stop, after update_halo. */
PLANE NAME(update_divergence_block)(const Grid *g, const REAL *x, REAL *q, ptrdiff_t start, ptrdiff_t stop,
                                    REAL relaxation, REAL t, REAL new_t, int isotropic, REAL *out,
                                    REAL *work)
{
    REAL *planes[3], *p[3], *copy[3], *before = NAME(work_pointers)(g, work, p, copy);
    ptrdiff_t plane = plane_size(g);
    for (ptrdiff_t i = start; i < stop; i++) {
        NAME(plane_pointers)(g, q, i, planes);
        NAME(update_plane)(g, x, i, planes, relaxation, t, 1, isotropic, 0, 0, 0);
        NAME(split_plane)(g, planes, new_t, 1, -2, isotropic, p);
        NAME(adjoint_plane)(g, before, p, out + i * plane);
        REAL *swap = before;
        before = p[0];
        p[0] = swap;
        if (g->d == 1) p[1] = p[2] = p[0];
    }
}

/* out <- grad^T(field_weight q + clip_weight clip(q, t)) for the planes start <= i < stop. */
PLANE NAME(divergence_block)(const Grid *g, REAL *q, ptrdiff_t start, ptrdiff_t stop, REAL t, REAL field_weight,
                             REAL clip_weight, int isotropic, REAL *out, REAL *work)
{
    REAL *planes[3], *p[3], *copy[3], *before = NAME(work_pointers)(g, work, p, copy);
    ptrdiff_t plane = plane_size(g);
    for (ptrdiff_t i = start - 1; i < stop; i++) {
        NAME(plane_pointers)(g, q, i < 0 ? g->n0 - 1 : i, planes);
        NAME(split_plane)(g, planes, t, field_weight, clip_weight, isotropic, p);
        if (i >= start) NAME(adjoint_plane)(g, before, p, out + i * plane);
        REAL *swap = before;
        before = p[0];
        p[0] = swap;
        if (g->d == 1) p[1] = p[2] = p[0];
    }
}

PLANE NAME(adjoint_block)(const Grid *g, REAL *p, ptrdiff_t i, REAL *out)
{
    REAL *planes[3];
    ptrdiff_t plane = plane_size(g);
    NAME(plane_pointers)(g, p, i, planes);
    NAME(adjoint_plane)(g, p + (i ? i - 1 : g->n0 - 1) * plane, planes, out + i * plane);
}

#undef PICK
