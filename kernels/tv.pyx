# cython: boundscheck=False, wraparound=False, cdivision=True
"""Compiled total-variation kernels: gradient, its adjoint, and the one-field updates of mathematics.md 4c.

Real and complex images alike; a complex array is read as interleaved pairs of its real type.
"""

cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdlib cimport calloc, free, malloc

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


cdef tuple totals(double *partial, ptrdiff_t rows, int count):
    """Column sums of the per-plane partial sums, in a fixed order whatever the thread count."""
    cdef double sums[6]
    cdef ptrdiff_t i
    cdef int k
    for k in range(count):
        sums[k] = 0
    for i in range(rows):
        for k in range(count):
            sums[k] += partial[i * count + k]
    return tuple([sums[k] for k in range(count)])


cdef double *new_sums(ptrdiff_t count) except NULL:
    cdef double *sums = <double *>calloc(count, sizeof(double))
    if sums == NULL:
        raise MemoryError
    return sums


cdef void *new_work(Grid *g, int blocks, int typenum) except NULL:
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


cdef void run_update(Grid g, real *x, real *q, double relaxation, double threshold, double dual_scale,
                     int isotropic, double trial, double *partial, int threads) noexcept nogil:
    cdef ptrdiff_t i
    for i in prange(g.n0, num_threads=threads, schedule="static"):
        update_item(&g, x, q, i, relaxation, threshold, dual_scale, isotropic, trial, partial)


cdef void update_item(Grid *g, real *x, real *q, ptrdiff_t i, double relaxation, double threshold, double dual_scale,
                      int isotropic, double trial, double *partial) noexcept nogil:
    cdef real *planes[3]
    if real is float:
        plane_pointers_f(g, q, i, planes)
        update_plane_f(g, x, i, planes, relaxation, threshold, dual_scale, isotropic, 1, trial, partial + 3 * i)
    else:
        plane_pointers_d(g, q, i, planes)
        update_plane_d(g, x, i, planes, relaxation, threshold, dual_scale, isotropic, 1, trial, partial + 3 * i)


def update_field(x, q, double relaxation, double threshold, double dual_scale, bint isotropic, double trial, int threads=1):
    cdef int t = number_type(x)
    cdef Grid g = grid_of(x, x.ndim)
    cdef Py_ssize_t n = x.size
    cdef void *a = pointer(x, t, n)
    cdef void *b = writable(q, t, n * g.d)
    cdef double *partial = new_sums(3 * g.n0)
    with nogil:
        if is_single(t):
            run_update[float](g, <float *>a, <float *>b, relaxation, threshold, dual_scale, isotropic, trial, partial, threads)
        else:
            run_update[double](g, <double *>a, <double *>b, relaxation, threshold, dual_scale, isotropic, trial, partial, threads)
    sums = totals(partial, g.n0, 3)
    free(partial)
    return sums


cdef void above_item(Grid *g, real *q, ptrdiff_t i, double threshold, int isotropic, double *partial) noexcept nogil:
    cdef real *planes[3]
    if real is float:
        plane_pointers_f(g, q, i, planes)
        above_plane_f(g, planes, threshold, isotropic, partial + 2 * i)
    else:
        plane_pointers_d(g, q, i, planes)
        above_plane_d(g, planes, threshold, isotropic, partial + 2 * i)


cdef void run_above(Grid g, real *q, double threshold, int isotropic, double *partial, int threads) noexcept nogil:
    cdef ptrdiff_t i
    for i in prange(g.n0, num_threads=threads, schedule="static"):
        above_item(&g, q, i, threshold, isotropic, partial)


def sum_above(q, double threshold, bint isotropic, int threads=1):
    cdef int t = number_type(q)
    cdef Grid g = grid_of(q, q.ndim - 1)
    cdef void *a = pointer(q, t, g.d * g.n0 * g.n1 * g.n2)
    cdef double *partial = new_sums(2 * g.n0)
    with nogil:
        if is_single(t):
            run_above[float](g, <float *>a, threshold, isotropic, partial, threads)
        else:
            run_above[double](g, <double *>a, threshold, isotropic, partial, threads)
    sums = totals(partial, g.n0, 2)
    free(partial)
    return sums


cdef void run_divergence(Grid g, real *q, double threshold, int isotropic, double field_weight, double clip_weight,
                         real *out, real *work, int blocks) noexcept nogil:
    cdef ptrdiff_t b, start, stop, size = (2 * g.d + 1) * plane_size(&g)
    for b in prange(blocks, num_threads=blocks, schedule="static"):
        start = b * g.n0 // blocks
        stop = (b + 1) * g.n0 // blocks
        if real is float:
            divergence_block_f(&g, q, start, stop, threshold, field_weight, clip_weight, isotropic, out, work + b * size)
        else:
            divergence_block_d(&g, q, start, stop, threshold, field_weight, clip_weight, isotropic, out, work + b * size)


def field_divergence(q, double threshold, bint isotropic, double field_weight, double clip_weight, out, int threads=1):
    cdef int t = number_type(out), blocks
    cdef Grid g = grid_of(out, out.ndim)
    cdef Py_ssize_t n = out.size
    cdef void *a = pointer(q, t, n * g.d)
    cdef void *b = writable(out, t, n)
    cdef void *work
    blocks = min(threads, g.n0)
    work = new_work(&g, blocks, t)
    with nogil:
        if is_single(t):
            run_divergence[float](g, <float *>a, threshold, isotropic, field_weight, clip_weight, <float *>b, <float *>work, blocks)
        else:
            run_divergence[double](g, <double *>a, threshold, isotropic, field_weight, clip_weight, <double *>b, <double *>work, blocks)
    free(work)


cdef void run_update_divergence(Grid g, real *x, real *q, double relaxation, double threshold,
                                double new_threshold, int isotropic, real *out, real *work, int blocks) noexcept nogil:
    cdef ptrdiff_t b, start, size = (2 * g.d + 1) * plane_size(&g)
    for b in prange(blocks, num_threads=blocks, schedule="static"):
        start = b * g.n0 // blocks
        if real is float:
            update_halo_f(&g, x, q, start, relaxation, threshold, new_threshold, isotropic, work + b * size)
        else:
            update_halo_d(&g, x, q, start, relaxation, threshold, new_threshold, isotropic, work + b * size)
    for b in prange(blocks, num_threads=blocks, schedule="static"):
        start = b * g.n0 // blocks
        if real is float:
            update_divergence_block_f(&g, x, q, start, (b + 1) * g.n0 // blocks, relaxation, threshold,
                                      new_threshold, isotropic, out, work + b * size)
        else:
            update_divergence_block_d(&g, x, q, start, (b + 1) * g.n0 // blocks, relaxation, threshold,
                                      new_threshold, isotropic, out, work + b * size)


def update_field_divergence(x, q, double relaxation, double threshold, double new_threshold,
                            bint isotropic, out, int threads=1):
    cdef int t = number_type(x), blocks
    cdef Grid g = grid_of(x, x.ndim)
    cdef Py_ssize_t n = x.size
    cdef void *a = pointer(x, t, n)
    cdef void *b = writable(q, t, n * g.d)
    cdef void *c = writable(out, t, n)
    cdef void *work
    if a == c:
        raise ValueError("out must not be x: the stencil still reads it")
    blocks = min(threads, g.n0)
    work = new_work(&g, blocks, t)
    with nogil:
        if is_single(t):
            run_update_divergence[float](g, <float *>a, <float *>b, relaxation, threshold, new_threshold,
                                         isotropic, <float *>c, <float *>work, blocks)
        else:
            run_update_divergence[double](g, <double *>a, <double *>b, relaxation, threshold, new_threshold,
                                          isotropic, <double *>c, <double *>work, blocks)
    free(work)


cdef void status_item(Grid *g, real *x, real *q, ptrdiff_t i, double threshold, int isotropic, double *partial) noexcept nogil:
    cdef real *planes[3]
    if real is float:
        plane_pointers_f(g, q, i, planes)
        status_plane_f(g, x, i, planes, threshold, isotropic, partial + 6 * i)
    else:
        plane_pointers_d(g, q, i, planes)
        status_plane_d(g, x, i, planes, threshold, isotropic, partial + 6 * i)


cdef void run_status(Grid g, real *x, real *q, double threshold, int isotropic, double *partial, int threads) noexcept nogil:
    cdef ptrdiff_t i
    for i in prange(g.n0, num_threads=threads, schedule="static"):
        status_item(&g, x, q, i, threshold, isotropic, partial)


def field_status(x, q, double threshold, bint isotropic, int threads=1):
    cdef int t = number_type(x)
    cdef ptrdiff_t i
    cdef double largest = 0
    cdef Grid g = grid_of(x, x.ndim)
    cdef Py_ssize_t n = x.size
    cdef void *a = pointer(x, t, n)
    cdef void *b = pointer(q, t, n * g.d)
    cdef double *partial = new_sums(6 * g.n0)
    with nogil:
        if is_single(t):
            run_status[float](g, <float *>a, <float *>b, threshold, isotropic, partial, threads)
        else:
            run_status[double](g, <double *>a, <double *>b, threshold, isotropic, partial, threads)
    sums = totals(partial, g.n0, 6)
    for i in range(g.n0):
        largest = max(largest, partial[6 * i + 5])
    free(partial)
    return (*sums[:5], largest)


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
