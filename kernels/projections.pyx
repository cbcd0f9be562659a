# cython: boundscheck=False, wraparound=False, cdivision=True
"""Compiled elementwise maps and projections onto balls, one radius per item of a batch."""

cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdlib cimport calloc, free

from ._common cimport pointer, ptrdiff_t, real, real_type, writable

cnp.import_array()

cdef enum:
    SEGMENT = 4096  # elements a thread takes at a time, and the unit of the partial sums


cdef extern from "rows.h" nogil:
    void soft_f(ptrdiff_t, float *, float, float *)
    void soft_d(ptrdiff_t, double *, double, double *)
    void box_f(ptrdiff_t, float *, float, float, float *)
    void box_d(ptrdiff_t, double *, double, double, double *)
    void nonnegative_f(ptrdiff_t, float *, float *)
    void nonnegative_d(ptrdiff_t, double *, double *)
    void affine_f(ptrdiff_t, float *, float, float, float *)
    void affine_d(ptrdiff_t, double *, double, double, double *)
    void sum_f(ptrdiff_t, float *, double *)
    void sum_d(ptrdiff_t, double *, double *)
    void sum_squares_f(ptrdiff_t, float *, double *)
    void sum_squares_d(ptrdiff_t, double *, double *)
    void above_f(int, ptrdiff_t, float *, float *, float *, float, double *)
    void above_d(int, ptrdiff_t, double *, double *, double *, double, double *)
    void split_f(int, ptrdiff_t, float *, float *, float *, float, float, float, float *, float *, float *)
    void split_d(int, ptrdiff_t, double *, double *, double *, double, double, double, double *, double *, double *)


ctypedef enum Map:
    SOFT
    BOX
    NONNEGATIVE
    AFFINE


cdef inline ptrdiff_t segments(ptrdiff_t n) noexcept nogil:
    return (n + SEGMENT - 1) // SEGMENT


cdef inline ptrdiff_t length(ptrdiff_t n, ptrdiff_t start) noexcept nogil:
    return SEGMENT if start + SEGMENT < n else n - start


cdef void run_map(Map kind, ptrdiff_t n, real *x, double a, double b, real *out, int threads) noexcept nogil:
    cdef ptrdiff_t k, at
    for k in prange(segments(n), num_threads=threads, schedule="static"):
        at = k * SEGMENT
        if real is float:
            if kind == SOFT:
                soft_f(length(n, at), x + at, a, out + at)
            elif kind == BOX:
                box_f(length(n, at), x + at, a, b, out + at)
            elif kind == NONNEGATIVE:
                nonnegative_f(length(n, at), x + at, out + at)
            else:
                affine_f(length(n, at), x + at, a, b, out + at)
        else:
            if kind == SOFT:
                soft_d(length(n, at), x + at, a, out + at)
            elif kind == BOX:
                box_d(length(n, at), x + at, a, b, out + at)
            elif kind == NONNEGATIVE:
                nonnegative_d(length(n, at), x + at, out + at)
            else:
                affine_d(length(n, at), x + at, a, b, out + at)


cdef apply_map(Map kind, x, double a, double b, out, int threads):
    cdef int t = real_type(x)
    cdef ptrdiff_t n = x.size
    cdef void *source = pointer(x, t, n)
    cdef void *target = writable(out, t, n)
    if t == cnp.NPY_FLOAT32:
        run_map[float](kind, n, <float *>source, a, b, <float *>target, threads)
    else:
        run_map[double](kind, n, <double *>source, a, b, <double *>target, threads)


def soft_threshold(x, double threshold, out, int threads=1):
    apply_map(SOFT, x, threshold, 0, out, threads)


def project_box(x, double lower, double upper, out, int threads=1):
    apply_map(BOX, x, lower, upper, out, threads)


def project_nonnegative(x, out, int threads=1):
    apply_map(NONNEGATIVE, x, 0, 0, out, threads)


# --- sums over one item ---------------------------------------------------------------------


ctypedef enum Sum:
    PLAIN
    SQUARES


cdef void segment_sum(Sum kind, ptrdiff_t n, real *x, double *acc) noexcept nogil:
    if real is float:
        if kind == PLAIN:
            sum_f(n, x, acc)
        else:
            sum_squares_f(n, x, acc)
    else:
        if kind == PLAIN:
            sum_d(n, x, acc)
        else:
            sum_squares_d(n, x, acc)


cdef double run_sum(Sum kind, ptrdiff_t n, real *x, double *partial, int threads) noexcept nogil:
    cdef ptrdiff_t k
    cdef double total = 0
    for k in prange(segments(n), num_threads=threads, schedule="static"):
        partial[k] = 0
        segment_sum(kind, length(n, k * SEGMENT), x + k * SEGMENT, partial + k)
    for k in range(segments(n)):
        total = total + partial[k]
    return total


cdef void run_above(int d, ptrdiff_t n, real *x, double threshold, double *partial, int threads, double *sums) noexcept nogil:
    """Sum and count of the magnitudes above the threshold; x holds d components of n elements."""
    cdef ptrdiff_t k, at
    cdef ptrdiff_t second = n if d > 1 else 0, third = 2 * n if d > 2 else 0
    for k in prange(segments(n), num_threads=threads, schedule="static"):
        at = k * SEGMENT
        partial[2 * k] = partial[2 * k + 1] = 0
        if real is float:
            above_f(d, length(n, at), x + at, x + second + at, x + third + at, threshold, partial + 2 * k)
        else:
            above_d(d, length(n, at), x + at, x + second + at, x + third + at, threshold, partial + 2 * k)
    sums[0] = sums[1] = 0
    for k in range(segments(n)):
        sums[0] += partial[2 * k]
        sums[1] += partial[2 * k + 1]


cdef double ball_threshold(int d, ptrdiff_t n, real *x, double radius, double start, double *partial, int threads) noexcept nogil:
    """Newton's method for sum(max(|x| - theta, 0)) = radius: the function is convex, decreasing and
    piecewise linear, so from any start the second step is left of the root, the steps then increase,
    and an active set that stays the same has the exact root."""
    cdef double sums[2]
    cdef double theta, count, following
    run_above(d, n, x, 0.0, partial, threads, sums)
    if sums[0] <= radius:
        return 0.0
    theta = (sums[0] - radius) / sums[1]
    count = sums[1]
    if start > theta:
        run_above(d, n, x, start, partial, threads, sums)
        if sums[1] > 0:
            following = (sums[0] - radius) / sums[1]
            if following > theta:
                theta = following
                count = sums[1]
    while True:
        run_above(d, n, x, theta, partial, threads, sums)
        if sums[1] == count or sums[1] == 0:
            return theta
        count = sums[1]
        following = (sums[0] - radius) / count
        if following <= theta:
            return theta
        theta = following


cdef void run_split(int d, ptrdiff_t n, real *x, double threshold, real *out, int threads) noexcept nogil:
    cdef ptrdiff_t k, at
    cdef ptrdiff_t second = n if d > 1 else 0, third = 2 * n if d > 2 else 0
    for k in prange(segments(n), num_threads=threads, schedule="static"):
        at = k * SEGMENT
        if real is float:
            split_f(d, length(n, at), x + at, x + second + at, x + third + at, threshold, 1, -1,
                    out + at, out + second + at, out + third + at)
        else:
            split_d(d, length(n, at), x + at, x + second + at, x + third + at, threshold, 1, -1,
                    out + at, out + second + at, out + third + at)


cdef double *new_partial(ptrdiff_t n) except NULL:
    cdef double *partial = <double *>calloc(2 * segments(n) + 1, sizeof(double))
    if partial == NULL:
        raise MemoryError
    return partial


def project_l2_ball(x, double[::1] radius, out, int threads=1):
    cdef int t = real_type(x)
    cdef ptrdiff_t k, n, items = radius.shape[0]
    cdef void *source = pointer(x, t, x.size)
    cdef void *target = writable(out, t, x.size)
    cdef double norm
    cdef double *partial
    n = x.size // items
    partial = new_partial(n)
    for k in range(items):
        if t == cnp.NPY_FLOAT32:
            norm = run_sum[float](SQUARES, n, <float *>source + k * n, partial, threads) ** 0.5
            run_map[float](AFFINE, n, <float *>source + k * n, min(1.0, radius[k] / norm) if norm > 0 else 1.0, 0,
                           <float *>target + k * n, threads)
        else:
            norm = run_sum[double](SQUARES, n, <double *>source + k * n, partial, threads) ** 0.5
            run_map[double](AFFINE, n, <double *>source + k * n, min(1.0, radius[k] / norm) if norm > 0 else 1.0, 0,
                            <double *>target + k * n, threads)
    free(partial)


cdef project_ball(x, int d, double[::1] radius, double[::1] threshold, out, int threads):
    cdef int t = real_type(x)
    cdef ptrdiff_t k, n, items = radius.shape[0]
    cdef void *source = pointer(x, t, x.size)
    cdef void *target = writable(out, t, x.size)
    cdef double *partial
    n = x.size // (items * d)
    partial = new_partial(n)
    for k in range(items):
        if t == cnp.NPY_FLOAT32:
            threshold[k] = ball_threshold[float](d, n, <float *>source + k * d * n, radius[k], threshold[k], partial, threads)
            run_split[float](d, n, <float *>source + k * d * n, threshold[k], <float *>target + k * d * n, threads)
        else:
            threshold[k] = ball_threshold[double](d, n, <double *>source + k * d * n, radius[k], threshold[k], partial, threads)
            run_split[double](d, n, <double *>source + k * d * n, threshold[k], <double *>target + k * d * n, threads)
    free(partial)


def project_l1_ball(x, radius, threshold, out, int threads=1):
    project_ball(x, 1, radius, threshold, out, threads)


def project_l21_ball(x, radius, threshold, out, int threads=1):
    project_ball(x, x.shape[1], radius, threshold, out, threads)


def rank_one_solve(c, double diagonal, double rank_one, out, int threads=1):
    cdef int t = real_type(c)
    cdef ptrdiff_t n = c.size
    cdef void *source = pointer(c, t, n)
    cdef void *target = writable(out, t, n)
    cdef double *partial = new_partial(n)
    cdef double shift
    if t == cnp.NPY_FLOAT32:
        shift = rank_one * run_sum[float](PLAIN, n, <float *>source, partial, threads) / (diagonal + rank_one * n) / diagonal
        run_map[float](AFFINE, n, <float *>source, 1 / diagonal, -shift, <float *>target, threads)
    else:
        shift = rank_one * run_sum[double](PLAIN, n, <double *>source, partial, threads) / (diagonal + rank_one * n) / diagonal
        run_map[double](AFFINE, n, <double *>source, 1 / diagonal, -shift, <double *>target, threads)
    free(partial)
