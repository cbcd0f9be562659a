# cython: boundscheck=False, wraparound=False, cdivision=True
"""Compiled multi-coil kernels: images by sensitivity maps, and the data update in k-space.

Threads take segments of an image: one coil after the other, or of all coils where these are added up.
"""

cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ._common cimport complex_type, is_single, pointer, ptrdiff_t, real, writable

cnp.import_array()


cdef extern from "rows.h" nogil:
    void coil_image_f(ptrdiff_t, float *, float *, float *)
    void coil_image_d(ptrdiff_t, double *, double *, double *)
    void coil_add_f(ptrdiff_t, float *, float *, float *)
    void coil_add_d(ptrdiff_t, double *, double *, double *)
    void coil_update_f(ptrdiff_t, float *, float *, float *, float *, float, float, float, double *)
    void coil_update_d(ptrdiff_t, double *, double *, double *, double *, double, double, double, double *)
    void coil_pull_f(ptrdiff_t, float *, float *, float *, float, float *)
    void coil_pull_d(ptrdiff_t, double *, double *, double *, double, double *)


cdef enum:
    SEGMENT = 4096  # pixels


cdef inline ptrdiff_t segments(ptrdiff_t n) noexcept nogil:
    return (n + SEGMENT - 1) // SEGMENT


cdef inline ptrdiff_t length(ptrdiff_t n, ptrdiff_t start) noexcept nogil:
    return SEGMENT if start + SEGMENT < n else n - start


cdef int coil_count(object stack, Py_ssize_t pixels) except -1:
    """The length of the first axis of an array (coils, *spatial)."""
    if stack.ndim < 2 or stack.size != stack.shape[0] * pixels:
        raise ValueError(f"expected (coils, *spatial) with {pixels} pixels, got shape {stack.shape}")
    return stack.shape[0]


cdef int mask_type(int typenum) noexcept:
    return cnp.NPY_FLOAT32 if is_single(typenum) else cnp.NPY_FLOAT64


cdef void run_images(int coils, ptrdiff_t n, real *x, real *maps, real *out, int threads) noexcept nogil:
    cdef ptrdiff_t k, c, start, at, count = segments(n)
    for k in prange(coils * count, num_threads=threads, schedule="static"):
        c = k // count
        start = (k - c * count) * SEGMENT
        at = 2 * (c * n + start)
        if real is float:
            coil_image_f(length(n, start), x + 2 * start, maps + at, out + at)
        else:
            coil_image_d(length(n, start), x + 2 * start, maps + at, out + at)


def coil_images(x, maps, out, int threads=1):
    cdef int t = complex_type(x)
    cdef Py_ssize_t n = x.size
    cdef int coils = coil_count(maps, n)
    cdef void *a = pointer(x, t, n)
    cdef void *m = pointer(maps, t, coils * n)
    cdef void *o = writable(out, t, coils * n)
    if is_single(t):
        run_images[float](coils, n, <float *>a, <float *>m, <float *>o, threads)
    else:
        run_images[double](coils, n, <double *>a, <double *>m, <double *>o, threads)


cdef void run_combine(int coils, ptrdiff_t n, real *images, real *maps, real *out, int threads) noexcept nogil:
    cdef ptrdiff_t k, c, at
    for k in prange(segments(n), num_threads=threads, schedule="static"):
        memset(out + 2 * k * SEGMENT, 0, 2 * length(n, k * SEGMENT) * sizeof(real))
        for c in range(coils):
            at = 2 * (c * n + k * SEGMENT)
            if real is float:
                coil_add_f(length(n, k * SEGMENT), images + at, maps + at, out + 2 * k * SEGMENT)
            else:
                coil_add_d(length(n, k * SEGMENT), images + at, maps + at, out + 2 * k * SEGMENT)


def coil_combine(images, maps, out, int threads=1):
    cdef int t = complex_type(out)
    cdef Py_ssize_t n = out.size
    cdef int coils = coil_count(maps, n)
    cdef void *a = pointer(images, t, coils * n)
    cdef void *m = pointer(maps, t, coils * n)
    cdef void *o = writable(out, t, n)
    if is_single(t):
        run_combine[float](coils, n, <float *>a, <float *>m, <float *>o, threads)
    else:
        run_combine[double](coils, n, <double *>a, <double *>m, <double *>o, threads)


cdef void run_update(int coils, ptrdiff_t n, real *spectra, real *field, real *mask, real *data, double scale,
                     double relaxation, double shrink, double *partial, int threads) noexcept nogil:
    cdef ptrdiff_t k, c, start, at, count = segments(n)
    for k in prange(coils * count, num_threads=threads, schedule="static"):
        c = k // count
        start = (k - c * count) * SEGMENT
        at = 2 * (c * n + start)
        if real is float:
            coil_update_f(length(n, start), spectra + at, field + at, mask + start, data + at, scale,
                          relaxation, shrink, partial + 2 * k)
        else:
            coil_update_d(length(n, start), spectra + at, field + at, mask + start, data + at, scale,
                          relaxation, shrink, partial + 2 * k)


def coil_update(spectra, field, mask, data, double scale, double relaxation, double shrink, int threads=1):
    cdef int t = complex_type(field)
    cdef Py_ssize_t n = mask.size
    cdef int coils = coil_count(field, n)
    cdef void *s = pointer(spectra, t, coils * n)
    cdef void *f = writable(field, t, coils * n)
    cdef void *m = pointer(mask, mask_type(t), n)
    cdef void *y = pointer(data, t, coils * n)
    cdef ptrdiff_t k
    cdef double field_square = 0, misfit_square = 0
    cdef double *partial = <double *>calloc(2 * coils * segments(n) + 1, sizeof(double))
    if partial == NULL:
        raise MemoryError
    if is_single(t):
        run_update[float](coils, n, <float *>s, <float *>f, <float *>m, <float *>y, scale, relaxation, shrink, partial, threads)
    else:
        run_update[double](coils, n, <double *>s, <double *>f, <double *>m, <double *>y, scale, relaxation, shrink, partial, threads)
    for k in range(coils * segments(n)):
        field_square += partial[2 * k]
        misfit_square += partial[2 * k + 1]
    free(partial)
    return field_square, misfit_square


cdef void run_pull(int coils, ptrdiff_t n, real *field, real *mask, real *data, double shrink, real *out,
                   int threads) noexcept nogil:
    cdef ptrdiff_t k, c, start, at, count = segments(n)
    for k in prange(coils * count, num_threads=threads, schedule="static"):
        c = k // count
        start = (k - c * count) * SEGMENT
        at = 2 * (c * n + start)
        if real is float:
            coil_pull_f(length(n, start), field + at, mask + start, data + at, shrink, out + at)
        else:
            coil_pull_d(length(n, start), field + at, mask + start, data + at, shrink, out + at)


def coil_pull(field, mask, data, double shrink, out, int threads=1):
    cdef int t = complex_type(field)
    cdef Py_ssize_t n = mask.size
    cdef int coils = coil_count(field, n)
    cdef void *f = pointer(field, t, coils * n)
    cdef void *m = pointer(mask, mask_type(t), n)
    cdef void *y = pointer(data, t, coils * n)
    cdef void *o = writable(out, t, coils * n)
    if is_single(t):
        run_pull[float](coils, n, <float *>f, <float *>m, <float *>y, shrink, <float *>o, threads)
    else:
        run_pull[double](coils, n, <double *>f, <double *>m, <double *>y, shrink, <double *>o, threads)
