# cython: boundscheck=False, wraparound=False, cdivision=True
"""Compiled updates in the Fourier domain: the FFT-diagonal x-update and the sums taken along with it."""

cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdlib cimport free

from ._batch cimport add_rows, blocks_of, items_of, new_sums, numbers, totals, writable_numbers
from ._common cimport complex_type, pointer, ptrdiff_t, real, writable

cnp.import_array()


cdef extern from "rows.h" nogil:
    void divide_f(ptrdiff_t, float *, float *, float *)
    void divide_d(ptrdiff_t, double *, double *, double *)
    void lower_spectrum_f(ptrdiff_t, float *, float *, float *, float *, float, float, float, float *, double *)
    void lower_spectrum_d(ptrdiff_t, double *, double *, double *, double *, double, double, double, double *, double *)
    void lower_kkt_f(ptrdiff_t, float *, float *, float *, float *, float, float *, double *)
    void lower_kkt_d(ptrdiff_t, double *, double *, double *, double *, double, double *, double *)
    void scaled_squares_f(ptrdiff_t, float *, float, float *, double *)
    void scaled_squares_d(ptrdiff_t, double *, double, double *, double *)
    void upper_spectrum_f(ptrdiff_t, float *, float *, float *, float *, float *, float *, float *, float, float, float, float, float, float, float, float, float *, double *)
    void upper_spectrum_d(ptrdiff_t, double *, double *, double *, double *, double *, double *, double *, double, double, double, double, double, double, double, double, double *, double *)
    void upper_dual_f(ptrdiff_t, float *, float *, float *, float *, float *, float, float, float *, double *)
    void upper_dual_d(ptrdiff_t, double *, double *, double *, double *, double *, double, double, double *, double *)
    void upper_kkt_f(ptrdiff_t, float *, float *, float *, float *, float *, float, float, float, float *, double *)
    void upper_kkt_d(ptrdiff_t, double *, double *, double *, double *, double *, double, double, double, double *, double *)


cdef Spectrum spectrum_of(object a, int first) except *:
    """The spectrum of the axes from ``first`` on."""
    cdef Spectrum s
    cdef cnp.ndarray array = a
    cdef int axes = cnp.PyArray_NDIM(array)
    s.d = axes - first
    if s.d < 1 or s.d > 3:
        raise ValueError(f"expected a spectrum of 1, 2 or 3 axes, got shape {a.shape[first:]}")
    s.n2 = cnp.PyArray_DIM(array, axes - 1)
    s.n1 = cnp.PyArray_DIM(array, axes - 2) if s.d == 3 else 1
    s.rows = s.n1 * (cnp.PyArray_DIM(array, first) if s.d > 1 else 1)
    return s


cdef inline int real_of(int typenum) noexcept nogil:
    return cnp.NPY_FLOAT32 if typenum == cnp.NPY_COMPLEX64 else cnp.NPY_FLOAT64


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


# --- the lower and the upper level ----------------------------------------------------------
#
# Of one item, or of a batch with a number each that shares transfer, laplacian and copies: the loops are those of the
# batch, and one item is a batch of one.  A thread takes a block of the rows of an item.


cdef void lower_rows(Spectrum *s, real *r, real *A, real *Y, void **axes, double penalty, double shift, real *copies,
                     ptrdiff_t start, ptrdiff_t stop, double *partial) noexcept nogil:
    cdef ptrdiff_t i, at
    for i in range(start, stop):
        at = 2 * i * s.n2
        if real is float:
            lower_spectrum_f(s.n2, r + at, A + at, Y + at, <float *>axes[0], outer(s, axes, i, False), penalty, shift,
                             copies, partial + i)
        else:
            lower_spectrum_d(s.n2, r + at, A + at, Y + at, <double *>axes[0], outer(s, axes, i, True), penalty, shift,
                             copies, partial + i)


cdef void run_lower(Spectrum s, ptrdiff_t items, real *r, real *A, real *Y, void **axes, double *penalties,
                    double *shifts, real *copies, double *partial, int threads) noexcept nogil:
    cdef ptrdiff_t k, item, b, at, blocks = blocks_of(items, s.rows, threads)
    for k in prange(items * blocks, num_threads=threads, schedule="static"):
        item = k // blocks
        b = k - item * blocks
        at = 2 * item * s.rows * s.n2
        lower_rows(&s, r + at, A, Y + at, axes, penalties[item], shifts[item], copies, b * s.rows // blocks,
                   (b + 1) * s.rows // blocks, partial + item * s.rows)


cdef double *lower(Spectrum s, int t, ptrdiff_t items, r, transfer, data, tuple laplacian, double *penalties,
                   double *shifts, copies, int threads) except NULL:
    """The updates of a batch; returns the sums of every row."""
    cdef ptrdiff_t n = s.rows * s.n2
    cdef void *R = writable(r, t, items * n)
    cdef void *A = pointer(transfer, t, n)
    cdef void *Y = pointer(data, t, items * n)
    cdef void *c = pointer(copies, real_of(t), s.n2)
    cdef void *axes[3]
    cdef double *partial
    laplacian_pointers(laplacian, real_of(t), &s, axes)
    partial = new_sums(items * s.rows)
    with nogil:
        if t == cnp.NPY_COMPLEX64:
            run_lower[float](s, items, <float *>R, <float *>A, <float *>Y, axes, penalties, shifts, <float *>c, partial, threads)
        else:
            run_lower[double](s, items, <double *>R, <double *>A, <double *>Y, axes, penalties, shifts, <double *>c, partial, threads)
    return partial


def lower_spectrum(r, transfer, data, tuple laplacian, double penalty, double shift, copies, int threads=1):
    cdef int t = complex_type(r)
    cdef Spectrum s = spectrum_of(r, 0)
    cdef double *partial = lower(s, t, 1, r, transfer, data, laplacian, &penalty, &shift, copies, threads)
    sums = totals(partial, s.rows, 1)
    free(partial)
    return sums[0]


def lower_spectrum_batch(r, transfer, data, tuple laplacian, penalties, shifts, copies, squares, int threads=1):
    cdef int t = complex_type(r)
    cdef ptrdiff_t items = items_of(r)
    cdef Spectrum s = spectrum_of(r, 1)
    cdef double *p = numbers(penalties, items)
    cdef double *q = numbers(shifts, items)
    cdef double *result = writable_numbers(squares, items)
    cdef double *partial = lower(s, t, items, r, transfer, data, laplacian, p, q, copies, threads)
    add_rows(partial, items, s.rows, 1, result)
    free(partial)


cdef void kkt_rows(Spectrum *s, real *X, real *M, real *A, real *Y, double penalty, real *copies, int squares,
                   ptrdiff_t start, ptrdiff_t stop, double *partial) noexcept nogil:
    cdef ptrdiff_t i, at, count = 1 + squares
    for i in range(start, stop):
        at = 2 * i * s.n2
        if real is float:
            lower_kkt_f(s.n2, X + at, M + at, A + at, Y + at, penalty, copies, partial + count * i)
            if squares:
                scaled_squares_f(s.n2, M + at, penalty, copies, partial + count * i + 1)
        else:
            lower_kkt_d(s.n2, X + at, M + at, A + at, Y + at, penalty, copies, partial + count * i)
            if squares:
                scaled_squares_d(s.n2, M + at, penalty, copies, partial + count * i + 1)


cdef void run_kkt(Spectrum s, ptrdiff_t items, real *X, real *M, real *A, real *Y, double *penalties, real *copies,
                  int squares, double *partial, int threads) noexcept nogil:
    cdef ptrdiff_t k, item, b, at, blocks = blocks_of(items, s.rows, threads)
    for k in prange(items * blocks, num_threads=threads, schedule="static"):
        item = k // blocks
        b = k - item * blocks
        at = 2 * item * s.rows * s.n2
        kkt_rows(&s, X + at, M + at, A, Y + at, penalties[item], copies, squares, b * s.rows // blocks,
                 (b + 1) * s.rows // blocks, partial + item * s.rows * (1 + squares))


cdef double *kkt(Spectrum s, int t, ptrdiff_t items, x, dual, transfer, data, double *penalties, copies, int squares,
                 int threads) except NULL:
    """The sums of every row of a batch: |conj(A)(A X - Y) + penalty M|^2, with ``squares`` |penalty M|^2 too."""
    cdef ptrdiff_t n = s.rows * s.n2
    cdef void *X = pointer(x, t, items * n)
    cdef void *M = pointer(dual, t, items * n)
    cdef void *A = pointer(transfer, t, n)
    cdef void *Y = pointer(data, t, items * n)
    cdef void *c = pointer(copies, real_of(t), s.n2)
    cdef double *partial = new_sums(items * s.rows * (1 + squares))
    with nogil:
        if t == cnp.NPY_COMPLEX64:
            run_kkt[float](s, items, <float *>X, <float *>M, <float *>A, <float *>Y, penalties, <float *>c, squares, partial, threads)
        else:
            run_kkt[double](s, items, <double *>X, <double *>M, <double *>A, <double *>Y, penalties, <double *>c, squares, partial, threads)
    return partial


def lower_kkt(x, dual, transfer, data, double penalty, copies, int threads=1):
    cdef int t = complex_type(x)
    cdef Spectrum s = spectrum_of(x, 0)
    cdef double *partial = kkt(s, t, 1, x, dual, transfer, data, &penalty, copies, 0, threads)
    sums = totals(partial, s.rows, 1)
    free(partial)
    return sums[0]


def lower_kkt_batch(x, dual, transfer, data, penalties, copies, sums, int threads=1):
    cdef int t = complex_type(x)
    cdef ptrdiff_t items = items_of(x)
    cdef Spectrum s = spectrum_of(x, 1)
    cdef double *p = numbers(penalties, items)
    cdef double *result = writable_numbers(sums, 2 * items)
    cdef double *partial = kkt(s, t, items, x, dual, transfer, data, p, copies, 1, threads)
    add_rows(partial, items, s.rows, 2, result)
    free(partial)


cdef void upper_rows(Spectrum *s, real *r, real *previous, real *D, real *A, real *Y, real *residual, void **axes,
                     Upper *u, ptrdiff_t item, real *copies, ptrdiff_t start, ptrdiff_t stop, double *partial) noexcept nogil:
    cdef ptrdiff_t i, at
    for i in range(start, stop):
        at = 2 * i * s.n2
        if real is float:
            upper_spectrum_f(s.n2, r + at, previous + at if previous != NULL else NULL, D + at, A + at, Y + at,
                             residual + at, <float *>axes[0], outer(s, axes, i, False), u.eta, u.shifts[item],
                             u.field_penalties[item], u.data_penalties[item], u.proximal, u.relaxation, u.shrinks[item],
                             copies, partial + 3 * i)
        else:
            upper_spectrum_d(s.n2, r + at, previous + at if previous != NULL else NULL, D + at, A + at, Y + at,
                             residual + at, <double *>axes[0], outer(s, axes, i, True), u.eta, u.shifts[item],
                             u.field_penalties[item], u.data_penalties[item], u.proximal, u.relaxation, u.shrinks[item],
                             copies, partial + 3 * i)


cdef void run_upper(Spectrum s, ptrdiff_t items, real *r, real *previous, real *D, real *A, real *Y, real *residual,
                    void **axes, Upper u, real *copies, double *partial, int threads) noexcept nogil:
    cdef ptrdiff_t k, item, b, at, blocks = blocks_of(items, s.rows, threads)
    for k in prange(items * blocks, num_threads=threads, schedule="static"):
        item = k // blocks
        b = k - item * blocks
        at = 2 * item * s.rows * s.n2
        upper_rows(&s, r + at, previous + at if previous != NULL else NULL, D + at, A, Y + at, residual + at, axes, &u,
                   item, copies, b * s.rows // blocks, (b + 1) * s.rows // blocks, partial + 3 * item * s.rows)


cdef double *upper(Spectrum s, int t, ptrdiff_t items, r, previous, target, transfer, data, residual, tuple laplacian,
                   Upper u, copies, int threads) except NULL:
    """The updates of a batch; returns the sums of every row."""
    cdef ptrdiff_t n = s.rows * s.n2
    cdef void *R = writable(r, t, items * n)
    cdef void *P = NULL if previous is None else pointer(previous, t, items * n)
    cdef void *D = pointer(target, t, items * n)
    cdef void *A = pointer(transfer, t, n)
    cdef void *Y = pointer(data, t, items * n)
    cdef void *E = writable(residual, t, items * n)
    cdef void *c = pointer(copies, real_of(t), s.n2)
    cdef void *axes[3]
    cdef double *partial
    laplacian_pointers(laplacian, real_of(t), &s, axes)
    partial = new_sums(3 * items * s.rows)
    with nogil:
        if t == cnp.NPY_COMPLEX64:
            run_upper[float](s, items, <float *>R, <float *>P, <float *>D, <float *>A, <float *>Y, <float *>E, axes, u,
                             <float *>c, partial, threads)
        else:
            run_upper[double](s, items, <double *>R, <double *>P, <double *>D, <double *>A, <double *>Y, <double *>E, axes, u,
                              <double *>c, partial, threads)
    return partial


def upper_spectrum(r, previous, target, transfer, data, residual, tuple laplacian, double eta, double shift,
                   double field_penalty, double data_penalty, double proximal, double relaxation, double shrink, copies,
                   int threads=1):
    cdef int t = complex_type(r)
    cdef Spectrum s = spectrum_of(r, 0)
    cdef Upper u = Upper(eta, proximal, relaxation, &shift, &field_penalty, &data_penalty, &shrink)
    cdef double *partial = upper(s, t, 1, r, previous, target, transfer, data, residual, laplacian, u, copies, threads)
    sums = totals(partial, s.rows, 3)
    free(partial)
    return sums


def upper_spectrum_batch(r, target, transfer, data, residual, tuple laplacian, double eta, shifts, field_penalties,
                         data_penalties, double relaxation, shrinks, copies, sums, int threads=1):
    cdef int t = complex_type(r)
    cdef ptrdiff_t items = items_of(r)
    cdef Spectrum s = spectrum_of(r, 1)
    cdef Upper u = Upper(eta, 0, relaxation, numbers(shifts, items), numbers(field_penalties, items),
                         numbers(data_penalties, items), numbers(shrinks, items))
    cdef double *result = writable_numbers(sums, 3 * items)
    cdef double *partial = upper(s, t, items, r, None, target, transfer, data, residual, laplacian, u, copies, threads)
    add_rows(partial, items, s.rows, 3, result)
    free(partial)


cdef void dual_rows(Spectrum *s, real *M, real *X, real *residual, real *D, real *A, real *Y, double eta,
                    double field_penalty, double data_weight, real *copies, ptrdiff_t start, ptrdiff_t stop,
                    double *partial) noexcept nogil:
    cdef ptrdiff_t i, at, count = 4 if X == NULL else 5
    for i in range(start, stop):
        at = 2 * i * s.n2
        if real is float:
            upper_dual_f(s.n2, M + at, residual + at, D + at, A + at, Y + at, field_penalty, data_weight, copies,
                         partial + count * i)
            if X != NULL:
                upper_kkt_f(s.n2, M + at, X + at, residual + at, D + at, A + at, eta, field_penalty, data_weight, copies,
                            partial + count * i + 4)
        else:
            upper_dual_d(s.n2, M + at, residual + at, D + at, A + at, Y + at, field_penalty, data_weight, copies,
                         partial + count * i)
            if X != NULL:
                upper_kkt_d(s.n2, M + at, X + at, residual + at, D + at, A + at, eta, field_penalty, data_weight, copies,
                            partial + count * i + 4)


cdef void run_dual(Spectrum s, ptrdiff_t items, real *M, real *X, real *residual, real *D, real *A, real *Y, double eta,
                   double *field_penalties, double *data_weights, real *copies, double *partial, int threads) noexcept nogil:
    cdef ptrdiff_t k, item, b, at, blocks = blocks_of(items, s.rows, threads), count = 4 if X == NULL else 5
    for k in prange(items * blocks, num_threads=threads, schedule="static"):
        item = k // blocks
        b = k - item * blocks
        at = 2 * item * s.rows * s.n2
        dual_rows(&s, M + at, X + at if X != NULL else NULL, residual + at, D + at, A, Y + at, eta, field_penalties[item],
                  data_weights[item], copies, b * s.rows // blocks, (b + 1) * s.rows // blocks,
                  partial + count * item * s.rows)


cdef double *dual_sums(Spectrum s, int t, ptrdiff_t items, dual, x, residual, target, transfer, data, double eta,
                       double *field_penalties, double *data_weights, copies, int threads) except NULL:
    """The sums of every row of a batch: four of ``upper_dual``, with x a fifth, |eta (X - D) + Q|^2."""
    cdef ptrdiff_t n = s.rows * s.n2
    cdef void *M = pointer(dual, t, items * n)
    cdef void *X = NULL if x is None else pointer(x, t, items * n)
    cdef void *E = pointer(residual, t, items * n)
    cdef void *D = pointer(target, t, items * n)
    cdef void *A = pointer(transfer, t, n)
    cdef void *Y = pointer(data, t, items * n)
    cdef void *c = pointer(copies, real_of(t), s.n2)
    cdef double *partial = new_sums(items * s.rows * (4 if x is None else 5))
    with nogil:
        if t == cnp.NPY_COMPLEX64:
            run_dual[float](s, items, <float *>M, <float *>X, <float *>E, <float *>D, <float *>A, <float *>Y, eta,
                            field_penalties, data_weights, <float *>c, partial, threads)
        else:
            run_dual[double](s, items, <double *>M, <double *>X, <double *>E, <double *>D, <double *>A, <double *>Y, eta,
                             field_penalties, data_weights, <double *>c, partial, threads)
    return partial


def upper_dual(dual, residual, target, transfer, data, double field_penalty, double data_weight, copies, int threads=1):
    cdef int t = complex_type(dual)
    cdef Spectrum s = spectrum_of(dual, 0)
    cdef double *partial = dual_sums(s, t, 1, dual, None, residual, target, transfer, data, 0, &field_penalty, &data_weight,
                                     copies, threads)
    sums = totals(partial, s.rows, 4)
    free(partial)
    return sums


def upper_dual_batch(dual, x, residual, target, transfer, data, double eta, field_penalties, data_weights, copies, sums,
                     int threads=1):
    cdef int t = complex_type(dual)
    cdef ptrdiff_t items = items_of(dual)
    cdef Spectrum s = spectrum_of(dual, 1)
    cdef double *p = numbers(field_penalties, items)
    cdef double *w = numbers(data_weights, items)
    cdef double *result = writable_numbers(sums, 5 * items)
    cdef double *partial
    if x is None:
        raise TypeError("expected a numpy array, got NoneType")
    partial = dual_sums(s, t, items, dual, x, residual, target, transfer, data, eta, p, w, copies, threads)
    add_rows(partial, items, s.rows, 5, result)
    free(partial)
