/* Included by rows.h after rows_template.h: one plane (n1 x n2 pixels, one row in 2-D) of a field at a
 * time. q and p are arrays of d pointers to the plane's components. The forward difference along n2
 * wraps around, so the last TAIL pixels of a row see their neighbours through a short copy. */

/* Part 0: the pixels of row j before the tail; part 1: the tail. Returns the pixels' number. */
INLINE ptrdiff_t NAME(neighbours)(const Grid *g, const REAL *x, ptrdiff_t i, ptrdiff_t j, int part, ptrdiff_t *at,
                                  const REAL **pixel, const REAL *next[3], REAL tail[TAIL])
{
    const ptrdiff_t length = g->n2 < TAIL ? g->n2 : TAIL, shift = part ? g->n2 - length : 0;
    const REAL *start = x + (i * g->n1 + j) * g->n2;
    int k = 0;
    *at = j * g->n2 + shift;
    *pixel = start + shift;
    next[0] = next[1] = next[2] = start;
    if (g->d > 1) next[k++] = x + ((i + 1 == g->n0 ? 0 : i + 1) * g->n1 + j) * g->n2 + shift;
    if (g->d > 2) next[k++] = x + (i * g->n1 + (j + 1 == g->n1 ? 0 : j + 1)) * g->n2 + shift;
    next[k] = start + 1;
    if (!part) return g->n2 - length;
    memcpy(tail, start + shift + 1, (length - 1) * sizeof(REAL));
    tail[length - 1] = start[0];
    next[k] = tail;
    return length;
}

#define FOR_PARTS \
    for (ptrdiff_t j = 0; j < g->n1; j++) \
        for (int part = g->n2 <= TAIL; part < 2; part++)

PLANE NAME(gradient_plane)(const Grid *g, const REAL *x, ptrdiff_t i, REAL *const p[3])
{
    const REAL *pixel, *next[3];
    REAL tail[TAIL];
    ptrdiff_t at;
    FOR_PARTS {
        ptrdiff_t n = NAME(neighbours)(g, x, i, j, part, &at, &pixel, next, tail);
        for (int k = 0; k < g->d; k++) NAME(subtract)(n, next[k], pixel, p[k] + at);
    }
}

PLANE NAME(adjoint_plane)(const Grid *g, const REAL *before, REAL *const p[3], REAL *out)
{
    const REAL *inner = p[g->d - 1];
    for (ptrdiff_t j = 0; j < g->n1; j++) {
        ptrdiff_t at = j * g->n2, above = (j ? j - 1 : g->n1 - 1) * g->n2;
        NAME(adjoint)(g->d, g->n2, before + at, p[0] + at, p[1] + above, p[1] + at, inner + at, out + at);
    }
}

PLANE NAME(update_plane)(const Grid *g, const REAL *x, ptrdiff_t i, REAL *const q[3], REAL relaxation, REAL t,
                         REAL dual_scale, int isotropic, int sums, REAL trial, double *acc)
{
    const REAL *pixel, *next[3];
    REAL tail[TAIL];
    ptrdiff_t at;
    FOR_PARTS {
        ptrdiff_t n = NAME(neighbours)(g, x, i, j, part, &at, &pixel, next, tail);
        for (int k = 0; k < (isotropic ? 1 : g->d); k++) {
            int d = isotropic ? g->d : 1;
            REAL *q1 = q[1] + at, *q2 = q[2] + at;
            if (sums)
                NAME(update_sums)(d, n, pixel, next[k], next[1], next[2], q[k] + at, q1, q2, relaxation, t, dual_scale,
                                  trial, acc);
            else
                NAME(update)(d, n, pixel, next[k], next[1], next[2], q[k] + at, q1, q2, relaxation, t, dual_scale);
        }
    }
}

PLANE NAME(status_plane)(const Grid *g, const REAL *x, ptrdiff_t i, REAL *const q[3], REAL t, int isotropic,
                         double *acc)
{
    const REAL *pixel, *next[3];
    REAL tail[TAIL];
    ptrdiff_t at;
    FOR_PARTS {
        ptrdiff_t n = NAME(neighbours)(g, x, i, j, part, &at, &pixel, next, tail);
        for (int k = 0; k < (isotropic ? 1 : g->d); k++)
            NAME(status)(isotropic ? g->d : 1, n, pixel, next[k], next[1], next[2], q[k] + at, q[1] + at, q[2] + at, t,
                         acc);
    }
}

PLANE NAME(split_plane)(const Grid *g, REAL *const q[3], REAL t, REAL field_weight, REAL clip_weight, int isotropic,
                        REAL *const p[3])
{
    for (ptrdiff_t at = 0; at < g->n1 * g->n2; at += g->n2)
        for (int k = 0; k < (isotropic ? 1 : g->d); k++)
            NAME(split)(isotropic ? g->d : 1, g->n2, q[k] + at, q[1] + at, q[2] + at, t, field_weight, clip_weight,
                        p[k] + at, p[1] + at, p[2] + at);
}

PLANE NAME(slack_plane)(const Grid *g, const REAL *x, ptrdiff_t i, REAL *const s1[3], REAL *const s2[3],
                        REAL *const c[3], REAL *const l1[3], REAL *const l2[3], REAL shift, REAL penalty,
                        REAL proximal, REAL *const p[3], double *acc)
{
    const REAL *pixel, *next[3];
    REAL tail[TAIL];
    ptrdiff_t at;
    FOR_PARTS {
        ptrdiff_t n = NAME(neighbours)(g, x, i, j, part, &at, &pixel, next, tail);
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
    ptrdiff_t plane = g->n1 * g->n2;
    for (int k = 0; k < 3; k++) planes[k] = field + (k < g->d ? k : 0) * g->n0 * plane + i * plane;
}

INLINE REAL *NAME(work_pointers)(const Grid *g, REAL *work, REAL *p[3], REAL *copy[3])
{
    ptrdiff_t plane = g->n1 * g->n2;
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
    ptrdiff_t i = start ? start - 1 : g->n0 - 1, plane = g->n1 * g->n2;
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
    ptrdiff_t plane = g->n1 * g->n2;
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
    ptrdiff_t plane = g->n1 * g->n2;
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
    REAL *planes[3], *before[3];
    NAME(plane_pointers)(g, p, i, planes);
    NAME(plane_pointers)(g, p, i ? i - 1 : g->n0 - 1, before);
    NAME(adjoint_plane)(g, before[0], planes, out + i * g->n1 * g->n2);
}
