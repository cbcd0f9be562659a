# cython: boundscheck=False, wraparound=False, cdivision=True
"""Compiled updates in the Fourier domain: the FFT-diagonal x-update and the sums taken along with it."""

cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdlib cimport calloc, free

from ._common cimport complex_type, pointer, ptrdiff_t, real, writable

cnp.import_array()


cdef extern from "rows.h" nogil:
    void divide_f(ptrdiff_t, float *, float *, float *)
    void divide_d(ptrdiff_t, double *, double *, double *)
    void lower_spectrum_f(ptrdiff_t, float *, float *, float *, float *, float, float, float, float *, double *)
    void lower_spectrum_d(ptrdiff_t, double *, double *, double *, double *, double, double, double, double *, double *)
    void lower_kkt_f(ptrdiff_t, float *, float *, float *, float *, float, float *, double *)
    void lower_kkt_d(ptrdiff_t, double *, double *, double *, double *, double, double *, double *)
    void upper_spectrum_f(ptrdiff_t, float *, float *, float *, float *, float *, float *, float *, float, float, float, float, float, float, float, float, float *, double *)
    void upper_spectrum_d(ptrdiff_t, double *, double *, double *, double *, double *, double *, double *, double, double, double, double, double, double, double, double, double *, double *)
    void upper_dual_f(ptrdiff_t, float *, float *, float *, float *, float *, float, float, float *, double *)
    void upper_dual_d(ptrdiff_t, double *, double *, double *, double *, double *, double, double, double *, double *)


cdef struct Spectrum:
    ptrdiff_t rows, n1, n2
    int d
    double *partial


cdef Spectrum spectrum_of(object a) except *:
    cdef Spectrum s
    cdef cnp.ndarray array = a
    s.d = cnp.PyArray_NDIM(array)
    if s.d < 1 or s.d > 3:
        raise ValueError(f"expected a spectrum of 1, 2 or 3 axes, got shape {a.shape}")
    s.n2 = cnp.PyArray_DIM(array, s.d - 1)
    s.n1 = cnp.PyArray_DIM(array, 1) if s.d == 3 else 1
    s.rows = cnp.PyArray_SIZE(array) // s.n2 if s.n2 else 0
    s.partial = NULL
    return s


cdef int allocate(Spectrum *s, int sums) except -1:
    s.partial = <double *>calloc(s.rows * sums + 1, sizeof(double))
    if s.partial == NULL:
        raise MemoryError
    return 0


cdef tuple finish(Spectrum *s, int sums):
    """Sums over the rows in a fixed order, whatever the thread count."""
    cdef double total[4]
    cdef ptrdiff_t i
    cdef int k
    for k in range(sums):
        total[k] = 0
    for i in range(s.rows):
        for k in range(sums):
            total[k] += s.partial[i * sums + k]
    free(s.partial)
    return tuple([total[k] for k in range(sums)])


cdef void laplacian_pointers(tuple laplacian, int t, Spectrum *s, void **axes) except *:
    """Pointers to the axes' arrays, the last axis first; NULL for an axis that is not there."""
    if len(laplacian) != s.d:
        raise ValueError(f"laplacian: expected {s.d} arrays, got {len(laplacian)}")
    axes[1] = axes[2] = NULL
    axes[0] = pointer(laplacian[s.d - 1], t, s.n2)
    if s.d == 2:
        axes[2] = pointer(laplacian[0], t, s.rows)
    if s.d == 3:
        axes[1] = pointer(laplacian[1], t, s.n1)
        axes[2] = pointer(laplacian[0], t, s.rows // s.n1)


cdef inline double outer(Spectrum *s, void **axes, ptrdiff_t row, bint double_precision) noexcept nogil:
    cdef double value = 0
    cdef ptrdiff_t i = row // s.n1, j = row - i * s.n1
    if axes[2] != NULL:
        value = (<double *>axes[2])[i] if double_precision else (<float *>axes[2])[i]
    if axes[1] != NULL:
        value += (<double *>axes[1])[j] if double_precision else (<float *>axes[1])[j]
    return value


cdef void run_divide(Spectrum s, real *z, real *d, real *out, int threads) noexcept nogil:
    cdef ptrdiff_t i
    for i in prange(s.rows, num_threads=threads, schedule="static"):
        if real is float:
            divide_f(s.n2, z + 2 * i * s.n2, d + i * s.n2, out + 2 * i * s.n2)
        else:
            divide_d(s.n2, z + 2 * i * s.n2, d + i * s.n2, out + 2 * i * s.n2)


def spectral_divide(numerator, denominator, out, int threads=1):
    cdef int t = complex_type(numerator)
    cdef Py_ssize_t n = numerator.size
    cdef void *z = pointer(numerator, t, n)
    cdef void *o = writable(out, t, n)
    cdef Spectrum s
    s.n2 = numerator.shape[numerator.ndim - 1]
    s.rows = n // s.n2 if s.n2 else 0
    if t == cnp.NPY_COMPLEX64:
        run_divide[float](s, <float *>z, <float *>pointer(denominator, cnp.NPY_FLOAT32, n), <float *>o, threads)
    else:
        run_divide[double](s, <double *>z, <double *>pointer(denominator, cnp.NPY_FLOAT64, n), <double *>o, threads)


cdef void run_lower(Spectrum s, real *r, real *A, real *Y, void **axes, double penalty, double shift, real *copies,
                    int threads) noexcept nogil:
    cdef ptrdiff_t i, at
    for i in prange(s.rows, num_threads=threads, schedule="static"):
        at = 2 * i * s.n2
        if real is float:
            lower_spectrum_f(s.n2, r + at, A + at, Y + at, <float *>axes[0], outer(&s, axes, i, False), penalty, shift,
                             copies, s.partial + i)
        else:
            lower_spectrum_d(s.n2, r + at, A + at, Y + at, <double *>axes[0], outer(&s, axes, i, True), penalty, shift,
                             copies, s.partial + i)


def lower_spectrum(r, transfer, data, tuple laplacian, double penalty, double shift, copies, int threads=1):
    cdef int t = complex_type(r), element
    cdef Py_ssize_t n = r.size
    cdef void *R = writable(r, t, n)
    cdef void *A = pointer(transfer, t, n)
    cdef void *Y = pointer(data, t, n)
    cdef void *axes[3]
    cdef void *c
    cdef Spectrum s
    element = cnp.NPY_FLOAT32 if t == cnp.NPY_COMPLEX64 else cnp.NPY_FLOAT64
    s = spectrum_of(r)
    laplacian_pointers(laplacian, element, &s, axes)
    c = pointer(copies, element, s.n2)
    allocate(&s, 1)
    if t == cnp.NPY_COMPLEX64:
        run_lower[float](s, <float *>R, <float *>A, <float *>Y, axes, penalty, shift, <float *>c, threads)
    else:
        run_lower[double](s, <double *>R, <double *>A, <double *>Y, axes, penalty, shift, <double *>c, threads)
    return finish(&s, 1)[0]


cdef void run_kkt(Spectrum s, real *X, real *M, real *A, real *Y, double penalty, real *copies, int threads) noexcept nogil:
    cdef ptrdiff_t i, at
    for i in prange(s.rows, num_threads=threads, schedule="static"):
        at = 2 * i * s.n2
        if real is float:
            lower_kkt_f(s.n2, X + at, M + at, A + at, Y + at, penalty, copies, s.partial + i)
        else:
            lower_kkt_d(s.n2, X + at, M + at, A + at, Y + at, penalty, copies, s.partial + i)


def lower_kkt(x, dual, transfer, data, double penalty, copies, int threads=1):
    cdef int t = complex_type(x)
    cdef Py_ssize_t n = x.size
    cdef void *X = pointer(x, t, n)
    cdef void *M = pointer(dual, t, n)
    cdef void *A = pointer(transfer, t, n)
    cdef void *Y = pointer(data, t, n)
    cdef void *c
    cdef Spectrum s = spectrum_of(x)
    c = pointer(copies, cnp.NPY_FLOAT32 if t == cnp.NPY_COMPLEX64 else cnp.NPY_FLOAT64, s.n2)
    allocate(&s, 1)
    if t == cnp.NPY_COMPLEX64:
        run_kkt[float](s, <float *>X, <float *>M, <float *>A, <float *>Y, penalty, <float *>c, threads)
    else:
        run_kkt[double](s, <double *>X, <double *>M, <double *>A, <double *>Y, penalty, <double *>c, threads)
    return finish(&s, 1)[0]


cdef void run_upper(Spectrum s, real *r, real *previous, real *D, real *A, real *Y, real *residual, void **axes,
                    double eta, double shift, double field_penalty, double data_penalty, double proximal,
                    double relaxation, double shrink, real *copies, int threads) noexcept nogil:
    cdef ptrdiff_t i, at
    for i in prange(s.rows, num_threads=threads, schedule="static"):
        at = 2 * i * s.n2
        if real is float:
            upper_spectrum_f(s.n2, r + at, previous + at if previous != NULL else NULL, D + at, A + at, Y + at,
                             residual + at, <float *>axes[0], outer(&s, axes, i, False), eta, shift,
                             field_penalty, data_penalty, proximal, relaxation, shrink, copies, s.partial + 3 * i)
        else:
            upper_spectrum_d(s.n2, r + at, previous + at if previous != NULL else NULL, D + at, A + at, Y + at,
                             residual + at, <double *>axes[0], outer(&s, axes, i, True), eta, shift,
                             field_penalty, data_penalty, proximal, relaxation, shrink, copies, s.partial + 3 * i)


def upper_spectrum(r, previous, target, transfer, data, residual, tuple laplacian, double eta, double shift,
                   double field_penalty, double data_penalty, double proximal, double relaxation, double shrink, copies,
                   int threads=1):
    cdef int t = complex_type(r), element
    cdef Py_ssize_t n = r.size
    cdef void *R = writable(r, t, n)
    cdef void *P = NULL if previous is None else pointer(previous, t, n)
    cdef void *D = pointer(target, t, n)
    cdef void *A = pointer(transfer, t, n)
    cdef void *Y = pointer(data, t, n)
    cdef void *E = writable(residual, t, n)
    cdef void *axes[3]
    cdef void *c
    cdef Spectrum s
    element = cnp.NPY_FLOAT32 if t == cnp.NPY_COMPLEX64 else cnp.NPY_FLOAT64
    s = spectrum_of(r)
    laplacian_pointers(laplacian, element, &s, axes)
    c = pointer(copies, element, s.n2)
    allocate(&s, 3)
    if t == cnp.NPY_COMPLEX64:
        run_upper[float](s, <float *>R, <float *>P, <float *>D, <float *>A, <float *>Y, <float *>E, axes, eta,
                         shift, field_penalty, data_penalty, proximal, relaxation, shrink, <float *>c, threads)
    else:
        run_upper[double](s, <double *>R, <double *>P, <double *>D, <double *>A, <double *>Y, <double *>E, axes, eta,
                          shift, field_penalty, data_penalty, proximal, relaxation, shrink, <double *>c, threads)
    return finish(&s, 3)


cdef void run_dual(Spectrum s, real *M, real *residual, real *D, real *A, real *Y, double field_penalty,
                   double data_weight, real *copies, int threads) noexcept nogil:
    cdef ptrdiff_t i, at
    for i in prange(s.rows, num_threads=threads, schedule="static"):
        at = 2 * i * s.n2
        if real is float:
            upper_dual_f(s.n2, M + at, residual + at, D + at, A + at, Y + at, field_penalty, data_weight, copies, s.partial + 4 * i)
        else:
            upper_dual_d(s.n2, M + at, residual + at, D + at, A + at, Y + at, field_penalty, data_weight, copies, s.partial + 4 * i)


def upper_dual(dual, residual, target, transfer, data, double field_penalty, double data_weight, copies, int threads=1):
    cdef int t = complex_type(dual)
    cdef Py_ssize_t n = dual.size
    cdef void *M = pointer(dual, t, n)
    cdef void *E = pointer(residual, t, n)
    cdef void *D = pointer(target, t, n)
    cdef void *A = pointer(transfer, t, n)
    cdef void *Y = pointer(data, t, n)
    cdef void *c
    cdef Spectrum s = spectrum_of(dual)
    c = pointer(copies, cnp.NPY_FLOAT32 if t == cnp.NPY_COMPLEX64 else cnp.NPY_FLOAT64, s.n2)
    allocate(&s, 4)
    if t == cnp.NPY_COMPLEX64:
        run_dual[float](s, <float *>M, <float *>E, <float *>D, <float *>A, <float *>Y, field_penalty, data_weight, <float *>c, threads)
    else:
        run_dual[double](s, <double *>M, <double *>E, <double *>D, <double *>A, <double *>Y, field_penalty, data_weight, <double *>c, threads)
    return finish(&s, 4)
