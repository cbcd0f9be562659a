# cython: boundscheck=False, wraparound=False, cdivision=True
"""Compiled total-variation kernels: gradient, its adjoint, and the one-field updates of mathematics.md 4c.

Real and complex images alike; a complex array is read as interleaved pairs of its real type.
"""

cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdlib cimport free, malloc

from ._batch cimport add_rows, blocks_of, items_of, new_sums, numbers, totals, writable_numbers
from ._common cimport Grid, grid_of, image_size, is_single, number_type, plane_size, pointer, ptrdiff_t, real, real_type, writable

cnp.import_array()


cdef extern from "rows.h" nogil:
    void gradient_plane_f(Grid *, float *, ptrdiff_t, float **)
    void gradient_plane_d(Grid *, double *, ptrdiff_t, double **)
    void adjoint_block_f(Grid *, float *, ptrdiff_t, float *)
    void adjoint_block_d(Grid *, double *, ptrdiff_t, double *)
    void plane_pointers_f(Grid *, float *, ptrdiff_t, float **)
    void plane_pointers_d(Grid *, double *, ptrdiff_t, double **)
    void update_plane_f(Grid *, float *, ptrdiff_t, float **, float, float, float, int, int, float, double *)
    void update_plane_d(Grid *, double *, ptrdiff_t, double **, double, double, double, int, int, double, double *)
    void status_plane_f(Grid *, float *, ptrdiff_t, float **, float, int, double *)
    void status_plane_d(Grid *, double *, ptrdiff_t, double **, double, int, double *)
    void update_halo_f(Grid *, float *, float *, ptrdiff_t, float, float, float, int, float *)
    void update_halo_d(Grid *, double *, double *, ptrdiff_t, double, double, double, int, double *)
    void update_divergence_block_f(Grid *, float *, float *, ptrdiff_t, ptrdiff_t, float, float, float, int, float *, float *)
    void update_divergence_block_d(Grid *, double *, double *, ptrdiff_t, ptrdiff_t, double, double, double, int, double *, double *)
    void divergence_block_f(Grid *, float *, ptrdiff_t, ptrdiff_t, float, float, float, int, float *, float *)
    void divergence_block_d(Grid *, double *, ptrdiff_t, ptrdiff_t, double, double, double, int, double *, double *)
    void slack_plane_f(Grid *, float *, ptrdiff_t, float **, float **, float **, float **, float **, float, float, float, float **, double *)
    void slack_plane_d(Grid *, double *, ptrdiff_t, double **, double **, double **, double **, double **, double, double, double, double **, double *)
    void above_plane_f(Grid *, float **, float, int, double *)
    void above_plane_d(Grid *, double **, double, int, double *)


cdef void *new_work(Grid *g, ptrdiff_t blocks, int typenum) except NULL:
    cdef void *work = malloc(blocks * (2 * g.d + 1) * plane_size(g) * (4 if is_single(typenum) else 8))
    if work == NULL:
        raise MemoryError
    return work


# --- gradient -------------------------------------------------------------------------------


cdef void gradient_item(Grid *g, real *x, ptrdiff_t i, real *p) noexcept nogil:
    cdef real *planes[3]
    if real is float:
        plane_pointers_f(g, p, i, planes)
        gradient_plane_f(g, x, i, planes)
    else:
        plane_pointers_d(g, p, i, planes)
        gradient_plane_d(g, x, i, planes)


cdef void run_gradient(Grid g, real *x, real *p, ptrdiff_t batch, int adjoint, int threads) noexcept nogil:
    cdef ptrdiff_t k, item, i, size = image_size(&g)
    for k in prange(batch * g.n0, num_threads=threads, schedule="static"):
        item = k // g.n0
        i = k - item * g.n0
        if adjoint == 0:
            gradient_item(&g, x + item * size, i, p + item * g.d * size)
        elif real is float:
            adjoint_block_f(&g, p + item * g.d * size, i, x + item * size)
        else:
            adjoint_block_d(&g, p + item * g.d * size, i, x + item * size)


def gradient(x, int ndim, out, int threads=1):
    cdef int t = number_type(x)
    cdef Grid g = grid_of(x, ndim)
    cdef Py_ssize_t n = x.size, batch = n // (g.n0 * g.n1 * g.n2)
    cdef void *a = pointer(x, t, n)
    cdef void *b = writable(out, t, n * ndim)
    with nogil:
        if is_single(t):
            run_gradient[float](g, <float *>a, <float *>b, batch, 0, threads)
        else:
            run_gradient[double](g, <double *>a, <double *>b, batch, 0, threads)


def gradient_adjoint(p, int ndim, out, int threads=1):
    cdef int t = number_type(out)
    cdef Grid g = grid_of(out, ndim)
    cdef Py_ssize_t n = out.size, batch = n // (g.n0 * g.n1 * g.n2)
    cdef void *a = writable(out, t, n)
    cdef void *b = pointer(p, t, n * ndim)
    with nogil:
        if is_single(t):
            run_gradient[float](g, <float *>a, <float *>b, batch, 1, threads)
        else:
            run_gradient[double](g, <double *>a, <double *>b, batch, 1, threads)


# --- one-field updates ----------------------------------------------------------------------
#
# Of one item, or of a batch with a number each: the loops are those of the batch, and one item is a batch of one.


cdef void update_rows(Grid *g, real *x, real *q, ptrdiff_t start, ptrdiff_t stop, double relaxation, double threshold,
                      double dual_scale, int isotropic, double trial, double *partial) noexcept nogil:
    cdef real *planes[3]
    cdef ptrdiff_t i
    for i in range(start, stop):
        if real is float:
            plane_pointers_f(g, q, i, planes)
            update_plane_f(g, x, i, planes, relaxation, threshold, dual_scale, isotropic, 1, trial, partial + 3 * i)
        else:
            plane_pointers_d(g, q, i, planes)
            update_plane_d(g, x, i, planes, relaxation, threshold, dual_scale, isotropic, 1, trial, partial + 3 * i)


cdef void run_update(Grid g, ptrdiff_t items, real *x, real *q, double relaxation, double *thresholds,
                     double *dual_scales, int isotropic, double *trials, double *partial, int threads) noexcept nogil:
    cdef ptrdiff_t k, item, b, size = image_size(&g), blocks = blocks_of(items, g.n0, threads)
    for k in prange(items * blocks, num_threads=threads, schedule="static"):
        item = k // blocks
        b = k - item * blocks
        update_rows(&g, x + item * size, q + item * g.d * size, b * g.n0 // blocks, (b + 1) * g.n0 // blocks, relaxation,
                    thresholds[item], dual_scales[item], isotropic, trials[item], partial + 3 * item * g.n0)


def update_field(x, q, double relaxation, double threshold, double dual_scale, bint isotropic, double trial, int threads=1):
    cdef int t = number_type(x)
    cdef Grid g = grid_of(x, x.ndim)
    cdef Py_ssize_t n = x.size
    cdef void *a = pointer(x, t, n)
    cdef void *b = writable(q, t, n * g.d)
    cdef double *partial = new_sums(3 * g.n0)
    with nogil:
        if is_single(t):
            run_update[float](g, 1, <float *>a, <float *>b, relaxation, &threshold, &dual_scale, isotropic, &trial, partial, threads)
        else:
            run_update[double](g, 1, <double *>a, <double *>b, relaxation, &threshold, &dual_scale, isotropic, &trial, partial, threads)
    sums = totals(partial, g.n0, 3)
    free(partial)
    return sums


def update_field_batch(x, q, double relaxation, thresholds, dual_scales, bint isotropic, trials, sums, int threads=1):
    cdef int t = number_type(x)
    cdef ptrdiff_t items = items_of(x), n = x.size
    cdef Grid g = grid_of(x, x.ndim - 1)
    cdef void *a = pointer(x, t, n)
    cdef void *b = writable(q, t, n * g.d)
    cdef double *bounds = numbers(thresholds, items)
    cdef double *scales = numbers(dual_scales, items)
    cdef double *tried = numbers(trials, items)
    cdef double *result = writable_numbers(sums, 3 * items)
    cdef double *partial = new_sums(3 * items * g.n0)
    with nogil:
        if is_single(t):
            run_update[float](g, items, <float *>a, <float *>b, relaxation, bounds, scales, isotropic, tried, partial, threads)
        else:
            run_update[double](g, items, <double *>a, <double *>b, relaxation, bounds, scales, isotropic, tried, partial, threads)
        add_rows(partial, items, g.n0, 3, result)
        free(partial)


cdef void above_rows(Grid *g, real *q, ptrdiff_t start, ptrdiff_t stop, double threshold, int isotropic,
                     double *partial) noexcept nogil:
    cdef real *planes[3]
    cdef ptrdiff_t i
    for i in range(start, stop):
        partial[2 * i] = partial[2 * i + 1] = 0
        if real is float:
            plane_pointers_f(g, q, i, planes)
            above_plane_f(g, planes, threshold, isotropic, partial + 2 * i)
        else:
            plane_pointers_d(g, q, i, planes)
            above_plane_d(g, planes, threshold, isotropic, partial + 2 * i)


cdef void run_above(Grid *g, real *q, double threshold, int isotropic, double *partial, int threads) noexcept nogil:
    cdef ptrdiff_t b, blocks = blocks_of(1, g.n0, threads)
    if blocks == 1:
        above_rows(g, q, 0, g.n0, threshold, isotropic, partial)
    else:
        for b in prange(blocks, num_threads=threads, schedule="static"):
            above_rows(g, q, b * g.n0 // blocks, (b + 1) * g.n0 // blocks, threshold, isotropic, partial)


def sum_above(q, double threshold, bint isotropic, int threads=1):
    cdef int t = number_type(q)
    cdef Grid g = grid_of(q, q.ndim - 1)
    cdef void *a = pointer(q, t, g.d * g.n0 * g.n1 * g.n2)
    cdef double *partial = new_sums(2 * g.n0)
    with nogil:
        if is_single(t):
            run_above[float](&g, <float *>a, threshold, isotropic, partial, threads)
        else:
            run_above[double](&g, <double *>a, threshold, isotropic, partial, threads)
    sums = totals(partial, g.n0, 2)
    free(partial)
    return sums


cdef double field_threshold(Grid *g, real *q, double radius, int isotropic, double *sums, double *partial,
                            int threads) noexcept nogil:
    """theta with |q - clip(q, theta)| = radius in the l1 (l21) norm, 0 inside the ball.

    ``sums`` are those of ``update_field`` for a trial threshold, so that a good trial costs no pass.
    Newton's method on a convex piecewise linear function: exact when the active set stays the same.
    """
    cdef double norm = sums[0], theta, following, active = g.n0 * g.n1 * g.n2 * (1 if isotropic else g.d)
    cdef double above[2]
    if norm <= radius:
        return 0
    theta = (norm - radius) / active
    if sums[2] > 0 and (sums[1] - radius) / sums[2] > theta:
        theta = (sums[1] - radius) / sums[2]
        active = sums[2]
    while True:
        run_above(g, q, theta, isotropic, partial, threads)
        add_rows(partial, 1, g.n0, 2, above)
        if above[1] == 0 or above[1] == active:
            return theta
        following = (above[0] - radius) / above[1]
        if not following > theta * (1 + 1e-12):
            return theta
        theta = following
        active = above[1]


cdef void run_thresholds(Grid g, ptrdiff_t items, real *q, double *radii, int isotropic, double *thresholds, double *sums,
                         double *partial, int threads) noexcept nogil:
    cdef ptrdiff_t k, size = g.d * image_size(&g)
    if blocks_of(items, g.n0, threads) == 1:
        for k in prange(items, num_threads=threads, schedule="static"):
            thresholds[k] = field_threshold(&g, q + k * size, radii[k], isotropic, sums + 3 * k, partial + 2 * k * g.n0, 1)
    else:
        for k in range(items):
            thresholds[k] = field_threshold(&g, q + k * size, radii[k], isotropic, sums + 3 * k, partial, threads)


def field_threshold_batch(q, radii, bint isotropic, thresholds, sums, int threads=1):
    cdef int t = number_type(q)
    cdef ptrdiff_t items = items_of(q)
    cdef Grid g = grid_of(q, q.ndim - 2)
    cdef void *a = pointer(q, t, items * g.d * g.n0 * g.n1 * g.n2)
    cdef double *bounds = numbers(radii, items)
    cdef double *measured = numbers(sums, 3 * items)
    cdef double *result = writable_numbers(thresholds, items)
    cdef double *partial = new_sums(2 * items * g.n0)
    with nogil:
        if is_single(t):
            run_thresholds[float](g, items, <float *>a, bounds, isotropic, result, measured, partial, threads)
        else:
            run_thresholds[double](g, items, <double *>a, bounds, isotropic, result, measured, partial, threads)
        free(partial)


cdef void run_divergence(Grid g, ptrdiff_t items, ptrdiff_t blocks, real *q, double *thresholds, int isotropic,
                         double field_weight, double clip_weight, real *out, real *work, int threads) noexcept nogil:
    cdef ptrdiff_t k, item, b, start, stop, size = image_size(&g), room = (2 * g.d + 1) * plane_size(&g)
    for k in prange(items * blocks, num_threads=threads, schedule="static"):
        item = k // blocks
        b = k - item * blocks
        start = b * g.n0 // blocks
        stop = (b + 1) * g.n0 // blocks
        if real is float:
            divergence_block_f(&g, q + item * g.d * size, start, stop, thresholds[item], field_weight, clip_weight,
                               isotropic, out + item * size, work + k * room)
        else:
            divergence_block_d(&g, q + item * g.d * size, start, stop, thresholds[item], field_weight, clip_weight,
                               isotropic, out + item * size, work + k * room)


cdef void divergence_item(Grid *g, real *q, double threshold, int isotropic, double field_weight, double clip_weight,
                          real *out, real *work) noexcept nogil:
    if real is float:
        divergence_block_f(g, q, 0, g.n0, threshold, field_weight, clip_weight, isotropic, out, work)
    else:
        divergence_block_d(g, q, 0, g.n0, threshold, field_weight, clip_weight, isotropic, out, work)


cdef void divergences(Grid g, int t, ptrdiff_t items, ptrdiff_t blocks, void *q, double *thresholds, int isotropic,
                      double field_weight, double clip_weight, void *out, void *work, int threads) noexcept nogil:
    if is_single(t):
        run_divergence[float](g, items, blocks, <float *>q, thresholds, isotropic, field_weight, clip_weight,
                              <float *>out, <float *>work, threads)
    else:
        run_divergence[double](g, items, blocks, <double *>q, thresholds, isotropic, field_weight, clip_weight,
                               <double *>out, <double *>work, threads)


def field_divergence(q, double threshold, bint isotropic, double field_weight, double clip_weight, out, int threads=1):
    cdef int t = number_type(out)
    cdef Grid g = grid_of(out, out.ndim)
    cdef Py_ssize_t n = out.size
    cdef void *a = pointer(q, t, n * g.d)
    cdef void *b = writable(out, t, n)
    cdef ptrdiff_t blocks = blocks_of(1, g.n0, threads)
    cdef void *work = new_work(&g, blocks, t)
    with nogil:
        divergences(g, t, 1, blocks, a, &threshold, isotropic, field_weight, clip_weight, b, work, threads)
    free(work)


def field_divergence_batch(q, thresholds, bint isotropic, double field_weight, double clip_weight, out, int threads=1):
    cdef int t = number_type(out)
    cdef ptrdiff_t items = items_of(out), n = out.size
    cdef Grid g = grid_of(out, out.ndim - 1)
    cdef void *a = pointer(q, t, n * g.d)
    cdef void *b = writable(out, t, n)
    cdef double *bounds = numbers(thresholds, items)
    cdef ptrdiff_t blocks = blocks_of(items, g.n0, threads)
    cdef void *work = new_work(&g, items * blocks, t)
    with nogil:
        divergences(g, t, items, blocks, a, bounds, isotropic, field_weight, clip_weight, b, work, threads)
    free(work)


cdef void run_update_divergence(Grid g, ptrdiff_t items, ptrdiff_t blocks, real *x, real *q, double relaxation,
                                double *thresholds, double *new_thresholds, int isotropic, real *out, real *work,
                                int threads) noexcept nogil:
    cdef ptrdiff_t k, item, b, start, stop, size = image_size(&g), room = (2 * g.d + 1) * plane_size(&g)
    for k in prange(items * blocks, num_threads=threads, schedule="static"):
        item = k // blocks
        start = (k - item * blocks) * g.n0 // blocks
        if real is float:
            update_halo_f(&g, x + item * size, q + item * g.d * size, start, relaxation, thresholds[item],
                          new_thresholds[item], isotropic, work + k * room)
        else:
            update_halo_d(&g, x + item * size, q + item * g.d * size, start, relaxation, thresholds[item],
                          new_thresholds[item], isotropic, work + k * room)
    for k in prange(items * blocks, num_threads=threads, schedule="static"):
        item = k // blocks
        b = k - item * blocks
        start = b * g.n0 // blocks
        stop = (b + 1) * g.n0 // blocks
        if real is float:
            update_divergence_block_f(&g, x + item * size, q + item * g.d * size, start, stop, relaxation, thresholds[item],
                                      new_thresholds[item], isotropic, out + item * size, work + k * room)
        else:
            update_divergence_block_d(&g, x + item * size, q + item * g.d * size, start, stop, relaxation, thresholds[item],
                                      new_thresholds[item], isotropic, out + item * size, work + k * room)


cdef void update_divergence_item(Grid *g, real *x, real *q, double relaxation, double threshold, double new_threshold,
                                 int isotropic, real *out, real *work) noexcept nogil:
    if real is float:
        update_halo_f(g, x, q, 0, relaxation, threshold, new_threshold, isotropic, work)
        update_divergence_block_f(g, x, q, 0, g.n0, relaxation, threshold, new_threshold, isotropic, out, work)
    else:
        update_halo_d(g, x, q, 0, relaxation, threshold, new_threshold, isotropic, work)
        update_divergence_block_d(g, x, q, 0, g.n0, relaxation, threshold, new_threshold, isotropic, out, work)


cdef void update_divergences(Grid g, int t, ptrdiff_t items, ptrdiff_t blocks, void *x, void *q, double relaxation,
                             double *thresholds, double *new_thresholds, int isotropic, void *out, void *work,
                             int threads) noexcept nogil:
    if is_single(t):
        run_update_divergence[float](g, items, blocks, <float *>x, <float *>q, relaxation, thresholds, new_thresholds,
                                     isotropic, <float *>out, <float *>work, threads)
    else:
        run_update_divergence[double](g, items, blocks, <double *>x, <double *>q, relaxation, thresholds, new_thresholds,
                                      isotropic, <double *>out, <double *>work, threads)


def update_field_divergence(x, q, double relaxation, double threshold, double new_threshold,
                            bint isotropic, out, int threads=1):
    cdef int t = number_type(x)
    cdef Grid g = grid_of(x, x.ndim)
    cdef Py_ssize_t n = x.size
    cdef void *a = pointer(x, t, n)
    cdef void *b = writable(q, t, n * g.d)
    cdef void *c = writable(out, t, n)
    cdef ptrdiff_t blocks = blocks_of(1, g.n0, threads)
    cdef void *work
    if a == c:
        raise ValueError("out must not be x: the stencil still reads it")
    work = new_work(&g, blocks, t)
    with nogil:
        update_divergences(g, t, 1, blocks, a, b, relaxation, &threshold, &new_threshold, isotropic, c, work, threads)
    free(work)


def update_field_divergence_batch(x, q, double relaxation, thresholds, new_thresholds, bint isotropic, out, int threads=1):
    cdef int t = number_type(x)
    cdef ptrdiff_t items = items_of(x), n = x.size
    cdef Grid g = grid_of(x, x.ndim - 1)
    cdef void *a = pointer(x, t, n)
    cdef void *b = writable(q, t, n * g.d)
    cdef void *c = writable(out, t, n)
    cdef double *bounds = numbers(thresholds, items)
    cdef double *new_bounds = numbers(new_thresholds, items)
    cdef ptrdiff_t blocks = blocks_of(items, g.n0, threads)
    cdef void *work
    if a == c:
        raise ValueError("out must not be x: the stencil still reads it")
    work = new_work(&g, items * blocks, t)
    with nogil:
        update_divergences(g, t, items, blocks, a, b, relaxation, bounds, new_bounds, isotropic, c, work, threads)
    free(work)


cdef void status_rows(Grid *g, real *x, real *q, ptrdiff_t start, ptrdiff_t stop, double threshold, int isotropic,
                      double *partial) noexcept nogil:
    cdef real *planes[3]
    cdef ptrdiff_t i
    for i in range(start, stop):
        if real is float:
            plane_pointers_f(g, q, i, planes)
            status_plane_f(g, x, i, planes, threshold, isotropic, partial + 6 * i)
        else:
            plane_pointers_d(g, q, i, planes)
            status_plane_d(g, x, i, planes, threshold, isotropic, partial + 6 * i)


cdef void run_status(Grid g, ptrdiff_t items, real *x, real *q, double *thresholds, int isotropic, double *partial,
                     double *sums, int threads) noexcept nogil:
    cdef ptrdiff_t k, i, item, b, size = image_size(&g), blocks = blocks_of(items, g.n0, threads)
    cdef double largest
    for k in prange(items * blocks, num_threads=threads, schedule="static"):
        item = k // blocks
        b = k - item * blocks
        status_rows(&g, x + item * size, q + item * g.d * size, b * g.n0 // blocks, (b + 1) * g.n0 // blocks,
                    thresholds[item], isotropic, partial + 6 * item * g.n0)
    add_rows(partial, items, g.n0, 6, sums)
    for item in range(items):
        largest = 0
        for i in range(item * g.n0, (item + 1) * g.n0):
            largest = max(largest, partial[6 * i + 5])
        sums[6 * item + 5] = largest


def field_status(x, q, double threshold, bint isotropic, int threads=1):
    cdef int t = number_type(x)
    cdef Grid g = grid_of(x, x.ndim)
    cdef Py_ssize_t n = x.size
    cdef void *a = pointer(x, t, n)
    cdef void *b = pointer(q, t, n * g.d)
    cdef double sums[6]
    cdef double *partial = new_sums(6 * g.n0)
    with nogil:
        if is_single(t):
            run_status[float](g, 1, <float *>a, <float *>b, &threshold, isotropic, partial, sums, threads)
        else:
            run_status[double](g, 1, <double *>a, <double *>b, &threshold, isotropic, partial, sums, threads)
        free(partial)
    return sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]


def field_status_batch(x, q, thresholds, bint isotropic, sums, int threads=1):
    cdef int t = number_type(x)
    cdef ptrdiff_t items = items_of(x), n = x.size
    cdef Grid g = grid_of(x, x.ndim - 1)
    cdef void *a = pointer(x, t, n)
    cdef void *b = pointer(q, t, n * g.d)
    cdef double *bounds = numbers(thresholds, items)
    cdef double *result = writable_numbers(sums, 6 * items)
    cdef double *partial = new_sums(6 * items * g.n0)
    with nogil:
        if is_single(t):
            run_status[float](g, items, <float *>a, <float *>b, bounds, isotropic, partial, result, threads)
        else:
            run_status[double](g, items, <double *>a, <double *>b, bounds, isotropic, partial, result, threads)
        free(partial)


# --- linear-programming form ----------------------------------------------------------------


cdef void slack_item(Grid *g, real *x, real **fields, ptrdiff_t i, double shift, double penalty, double proximal,
                     double *partial) noexcept nogil:
    cdef real *s1[3]
    cdef real *s2[3]
    cdef real *c[3]
    cdef real *l1[3]
    cdef real *l2[3]
    cdef real *p[3]
    if real is float:
        plane_pointers_f(g, fields[0], i, s1)
        plane_pointers_f(g, fields[1], i, s2)
        plane_pointers_f(g, fields[2], i, c)
        plane_pointers_f(g, fields[3], i, l1)
        plane_pointers_f(g, fields[4], i, l2)
        plane_pointers_f(g, fields[5], i, p)
        slack_plane_f(g, x, i, s1, s2, c, l1, l2, shift, penalty, proximal, p, partial + 2 * i)
    else:
        plane_pointers_d(g, fields[0], i, s1)
        plane_pointers_d(g, fields[1], i, s2)
        plane_pointers_d(g, fields[2], i, c)
        plane_pointers_d(g, fields[3], i, l1)
        plane_pointers_d(g, fields[4], i, l2)
        plane_pointers_d(g, fields[5], i, p)
        slack_plane_d(g, x, i, s1, s2, c, l1, l2, shift, penalty, proximal, p, partial + 2 * i)


cdef void run_slack(Grid g, real *x, void **arrays, double shift, double penalty, double proximal, real *out,
                    double *partial, int threads) noexcept nogil:
    cdef ptrdiff_t i
    cdef real *fields[6]
    for i in range(6):
        fields[i] = <real *>arrays[i]
    for i in prange(g.n0, num_threads=threads, schedule="static"):
        slack_item(&g, x, fields, i, shift, penalty, proximal, partial)
    for i in prange(g.n0, num_threads=threads, schedule="static"):
        if real is float:
            adjoint_block_f(&g, fields[5], i, out)
        else:
            adjoint_block_d(&g, fields[5], i, out)


def slack_update(x, s1, s2, c, l1, l2, double shift, double penalty, double proximal, out, int threads=1):
    cdef int t = real_type(x), k
    cdef Grid g = grid_of(x, x.ndim)
    cdef Py_ssize_t n = x.size
    cdef void *a = pointer(x, t, n)
    cdef void *b = writable(out, t, n)
    cdef void *arrays[6]
    cdef double *partial
    for k, field in enumerate((s1, s2, c, l1, l2)):
        arrays[k] = writable(field, t, n * g.d)
    partial = new_sums(2 * g.n0)
    arrays[5] = malloc(n * g.d * x.itemsize)
    if arrays[5] == NULL:
        free(partial)
        raise MemoryError
    with nogil:
        if t == cnp.NPY_FLOAT32:
            run_slack[float](g, <float *>a, arrays, shift, penalty, proximal, <float *>b, partial, threads)
        else:
            run_slack[double](g, <double *>a, arrays, shift, penalty, proximal, <double *>b, partial, threads)
    sums = totals(partial, g.n0, 2)
    free(partial)
    free(arrays[5])
    return sums
