# cython: boundscheck=False, wraparound=False, cdivision=True
"""Compiled batched splits of mathematics.md 8: several problems side by side, each with its thresholds.

Images come first: N of them belong to K problems, N / K neighbours each; thresholds, radii and weights are
float64 arrays of K.  Sums are taken over segments in a fixed order whatever the thread count.
"""

cimport numpy as cnp
from cython.parallel cimport prange
from libc.math cimport INFINITY, fabs
from libc.stdlib cimport free, malloc

from ._common cimport Grid, complex_type, grid_of, image_size, is_single, number_type, plane_size, pointer, ptrdiff_t, real, real_type, writable

cnp.import_array()

cdef enum:
    SEGMENT = 4096
    MAX_NEWTON = 60
    MAX_STEPS = 40


cdef extern from "balls.h" nogil:
    void plane_pointers_f(Grid *, float *, ptrdiff_t, float **)
    void plane_pointers_d(Grid *, double *, ptrdiff_t, double **)
    void update_measured_plane_f(Grid *, float *, ptrdiff_t, float **, float, float, float, int, float *, ptrdiff_t)
    void update_measured_plane_d(Grid *, double *, ptrdiff_t, double **, double, double, double, int, double *, ptrdiff_t)
    void divergence_block_f(Grid *, float *, ptrdiff_t, ptrdiff_t, float, float, float, int, float *, float *)
    void divergence_block_d(Grid *, double *, ptrdiff_t, ptrdiff_t, double, double, double, int, double *, double *)
    void measured_coefficients_f(int, ptrdiff_t, float *, float *, float, float, float, float *)
    void measured_coefficients_d(int, ptrdiff_t, double *, double *, double, double, double, double *)
    void reflected_coefficients_f(int, ptrdiff_t, float *, float, float, float *)
    void reflected_coefficients_d(int, ptrdiff_t, double *, double, double, double *)
    void excess_f(ptrdiff_t, float *, float, double *)
    void excess_d(ptrdiff_t, double *, double, double *)
    void largest_f(ptrdiff_t, float *, double *)
    void largest_d(ptrdiff_t, double *, double *)
    void spectrum_step_f(ptrdiff_t, float *, float *, float *)
    void spectrum_step_d(ptrdiff_t, double *, double *, double *)
    void data_step_f(ptrdiff_t, float *, float *, float *, float *, float *, float *, float *, float *, float, float, float, float)
    void data_step_d(ptrdiff_t, double *, double *, double *, double *, double *, double *, double *, double *, double, double, double, double)
    void shrunk_power_f(ptrdiff_t, float *, float *, float, double *)
    void shrunk_power_d(ptrdiff_t, double *, double *, double, double *)


cdef inline ptrdiff_t segments(ptrdiff_t n) noexcept nogil:
    return (n + SEGMENT - 1) // SEGMENT


cdef inline ptrdiff_t length(ptrdiff_t n, ptrdiff_t segment) noexcept nogil:
    return min(<ptrdiff_t>SEGMENT, n - segment * SEGMENT)


cdef double *numbers(object a, ptrdiff_t count) except NULL:
    """float64 numbers, one a problem."""
    return <double *>pointer(a, cnp.NPY_FLOAT64, count)


cdef ptrdiff_t share(ptrdiff_t items, ptrdiff_t parts) except -1:
    """The items of each part, as the images of a problem."""
    if parts < 1 or items < parts or items % parts:
        raise ValueError(f"{items} items do not divide into {parts} equal parts")
    return items // parts


cdef inline int parts_of(int typenum) noexcept nogil:
    return 2 if typenum == cnp.NPY_COMPLEX64 or typenum == cnp.NPY_COMPLEX128 else 1


cdef inline int real_of(int typenum) noexcept nogil:
    return cnp.NPY_FLOAT32 if is_single(typenum) else cnp.NPY_FLOAT64


# --- fields and coefficients ----------------------------------------------------------------


cdef void update_plane(Grid *g, real *x, real *q, real *m, ptrdiff_t i, double relaxation, double threshold,
                       double dual_scale, int isotropic) noexcept nogil:
    cdef real *planes[3]
    cdef ptrdiff_t pixels = g.n0 * g.n1 * g.n2, at = i * g.n1 * g.n2
    if real is float:
        plane_pointers_f(g, q, i, planes)
        update_measured_plane_f(g, x, i, planes, relaxation, threshold, dual_scale, isotropic, m + at, pixels)
    else:
        plane_pointers_d(g, q, i, planes)
        update_measured_plane_d(g, x, i, planes, relaxation, threshold, dual_scale, isotropic, m + at, pixels)


cdef void run_fields(Grid g, ptrdiff_t images, ptrdiff_t each, real *x, real *q, real *m, double relaxation,
                     double *thresholds, double *dual_scales, int isotropic, int threads) noexcept nogil:
    cdef ptrdiff_t k, b, size = image_size(&g), measured = g.n0 * g.n1 * g.n2 * (1 if isotropic else g.d)
    for k in prange(images * g.n0, num_threads=threads, schedule="static"):
        b = k // g.n0
        update_plane(&g, x + b * size, q + b * g.d * size, m + b * measured, k - b * g.n0, relaxation,
                     thresholds[b // each], dual_scales[b // each], isotropic)


def update_fields(x, q, magnitudes, double relaxation, thresholds, dual_scales, bint isotropic, int threads=1):
    cdef int t = number_type(x)
    cdef Grid g = grid_of(x, x.ndim - 1)
    cdef ptrdiff_t images = x.shape[0], n = x.size, problems = thresholds.size
    cdef ptrdiff_t each = share(images, problems)
    cdef void *a = pointer(x, t, n)
    cdef void *b = writable(q, t, n * g.d)
    cdef void *m = writable(magnitudes, real_of(t), n * (1 if isotropic else g.d))
    cdef double *bounds = numbers(thresholds, problems)
    cdef double *scales = numbers(dual_scales, problems)
    with nogil:
        if is_single(t):
            run_fields[float](g, images, each, <float *>a, <float *>b, <float *>m, relaxation, bounds, scales, isotropic, threads)
        else:
            run_fields[double](g, images, each, <double *>a, <double *>b, <double *>m, relaxation, bounds, scales, isotropic, threads)


cdef void run_divergences(Grid g, ptrdiff_t images, ptrdiff_t each, int blocks, real *q, double *thresholds,
                          double *weights, int isotropic, real *out, real *work, int threads) noexcept nogil:
    cdef ptrdiff_t k, b, block, start, stop, size = image_size(&g), room = (2 * g.d + 1) * plane_size(&g)
    for k in prange(images * blocks, num_threads=threads, schedule="static"):
        b = k // blocks
        block = k - b * blocks
        start = block * g.n0 // blocks
        stop = (block + 1) * g.n0 // blocks
        if real is float:
            divergence_block_f(&g, q + b * g.d * size, start, stop, thresholds[b // each], weights[b // each],
                               -2 * weights[b // each], isotropic,
                               out + b * size, work + k * room)
        else:
            divergence_block_d(&g, q + b * g.d * size, start, stop, thresholds[b // each], weights[b // each],
                               -2 * weights[b // each], isotropic,
                               out + b * size, work + k * room)


def field_divergences(q, thresholds, weights, bint isotropic, out, int threads=1):
    cdef int t = number_type(out), blocks
    cdef Grid g = grid_of(out, out.ndim - 1)
    cdef ptrdiff_t images = out.shape[0], n = out.size, problems = thresholds.size
    cdef ptrdiff_t each = share(images, problems)
    cdef void *a = pointer(q, t, n * g.d)
    cdef void *b = writable(out, t, n)
    cdef double *bounds = numbers(thresholds, problems)
    cdef double *factors = numbers(weights, problems)
    cdef void *work
    blocks = 1 if images >= threads else <int>min(threads, g.n0)
    work = malloc(images * blocks * (2 * g.d + 1) * plane_size(&g) * (4 if is_single(t) else 8))
    if work == NULL:
        raise MemoryError
    with nogil:
        if is_single(t):
            run_divergences[float](g, images, each, blocks, <float *>a, bounds, factors, isotropic, <float *>b, <float *>work, threads)
        else:
            run_divergences[double](g, images, each, blocks, <double *>a, bounds, factors, isotropic, <double *>b, <double *>work, threads)
    free(work)


cdef void run_coefficients(int parts, ptrdiff_t images, ptrdiff_t each, ptrdiff_t n, real *t, real *w, real *m,
                           double relaxation, double *thresholds, double *dual_scales, int threads) noexcept nogil:
    cdef ptrdiff_t k, b, s, at, pieces = segments(n)
    for k in prange(images * pieces, num_threads=threads, schedule="static"):
        b = k // pieces
        s = k - b * pieces
        at = b * n + s * SEGMENT
        if real is float:
            measured_coefficients_f(parts, length(n, s), t + at * parts, w + at * parts, relaxation,
                                    thresholds[b // each], dual_scales[b // each], m + at)
        else:
            measured_coefficients_d(parts, length(n, s), t + at * parts, w + at * parts, relaxation,
                                    thresholds[b // each], dual_scales[b // each], m + at)


def measure_coefficients(t, w, magnitudes, double relaxation, thresholds, dual_scales, int threads=1):
    cdef int typenum = number_type(t)
    cdef ptrdiff_t images = t.shape[0], n = t.size, problems = thresholds.size
    cdef ptrdiff_t each = share(images, problems)
    cdef void *a = pointer(t, typenum, n)
    cdef void *b = writable(w, typenum, n)
    cdef void *m = writable(magnitudes, real_of(typenum), n)
    cdef double *bounds = numbers(thresholds, problems)
    cdef double *scales = numbers(dual_scales, problems)
    if a == b:
        raise ValueError("w must be an array of its own")
    with nogil:
        if is_single(typenum):
            run_coefficients[float](parts_of(typenum), images, each, n // images, <float *>a, <float *>b, <float *>m,
                                    relaxation, bounds, scales, threads)
        else:
            run_coefficients[double](parts_of(typenum), images, each, n // images, <double *>a, <double *>b, <double *>m,
                                     relaxation, bounds, scales, threads)


cdef void run_reflections(int parts, ptrdiff_t images, ptrdiff_t each, ptrdiff_t n, real *w, double *thresholds,
                          double *weights, real *out, int threads) noexcept nogil:
    cdef ptrdiff_t k, b, s, at, pieces = segments(n)
    for k in prange(images * pieces, num_threads=threads, schedule="static"):
        b = k // pieces
        s = k - b * pieces
        at = (b * n + s * SEGMENT) * parts
        if real is float:
            reflected_coefficients_f(parts, length(n, s), w + at, thresholds[b // each], weights[b // each], out + at)
        else:
            reflected_coefficients_d(parts, length(n, s), w + at, thresholds[b // each], weights[b // each], out + at)


def reflect_coefficients(w, thresholds, weights, out, int threads=1):
    cdef int typenum = number_type(w)
    cdef ptrdiff_t images = w.shape[0], n = w.size, problems = thresholds.size
    cdef ptrdiff_t each = share(images, problems)
    cdef void *a = pointer(w, typenum, n)
    cdef void *b = writable(out, typenum, n)
    cdef double *bounds = numbers(thresholds, problems)
    cdef double *factors = numbers(weights, problems)
    if a == b:
        raise ValueError("out must be an array of its own")
    with nogil:
        if is_single(typenum):
            run_reflections[float](parts_of(typenum), images, each, n // images, <float *>a, bounds, factors, <float *>b, threads)
        else:
            run_reflections[double](parts_of(typenum), images, each, n // images, <double *>a, bounds, factors, <double *>b, threads)


# --- thresholds of l1 and l21 balls ---------------------------------------------------------


cdef void excess(real *m, ptrdiff_t n, double t, double *partial, int threads, double *result) noexcept nogil:
    """result[0], result[1] = sum of max(m - t, 0) and the count above t."""
    cdef ptrdiff_t s, pieces = segments(n)
    for s in prange(pieces, num_threads=threads, schedule="static"):
        partial[2 * s] = 0
        partial[2 * s + 1] = 0
        if real is float:
            excess_f(length(n, s), m + s * SEGMENT, <float>t, partial + 2 * s)
        else:
            excess_d(length(n, s), m + s * SEGMENT, t, partial + 2 * s)
    result[0] = 0
    result[1] = 0
    for s in range(pieces):
        result[0] += partial[2 * s]
        result[1] += partial[2 * s + 1]


cdef double largest(real *m, ptrdiff_t n) noexcept nogil:
    cdef double top = 0
    if real is float:
        largest_f(n, m, &top)
    else:
        largest_d(n, m, &top)
    return top


cdef double ball_threshold(real *m, ptrdiff_t n, double radius, double start, double *partial, int threads) noexcept nogil:
    """tau >= 0 with the sum of max(m - tau, 0) equal to radius, 0 inside the ball: Newton, monotone from the left."""
    cdef double tau = start if start > 0 else 0, following, active = -1
    cdef double found[2]
    cdef int _
    if radius <= 0:
        return largest(m, n)
    for _ in range(MAX_NEWTON):
        if real is float:
            tau = <float>tau
        excess(m, n, tau, partial, threads, found)
        following = tau + (found[0] - radius) / found[1] if found[1] > 0 else 0
        if following <= 0 and tau == 0:
            return 0
        if found[1] > 0 and found[1] == active:
            return max(following, 0.0)
        active = found[1] if following > 0 else -1
        tau = max(following, 0.0)
    return tau


cdef void run_thresholds(ptrdiff_t problems, ptrdiff_t n, real *m, double *radii, double *thresholds, double *partial,
                         int threads) noexcept nogil:
    cdef ptrdiff_t k
    if problems >= threads:
        for k in prange(problems, num_threads=threads, schedule="dynamic"):
            thresholds[k] = ball_threshold(m + k * n, n, radii[k], thresholds[k], partial + 2 * k * segments(n), 1)
    else:
        for k in range(problems):
            thresholds[k] = ball_threshold(m + k * n, n, radii[k], thresholds[k], partial, threads)


def ball_thresholds(magnitudes, radii, thresholds, int threads=1):
    cdef int t = real_type(magnitudes)
    cdef ptrdiff_t problems = radii.size, n = magnitudes.size
    cdef ptrdiff_t each = share(n, problems)
    cdef void *m = pointer(magnitudes, t, n)
    cdef double *limits = numbers(radii, problems)
    cdef double *found = <double *>writable(thresholds, cnp.NPY_FLOAT64, problems)
    cdef double *partial = <double *>malloc(2 * problems * segments(each) * sizeof(double))
    if partial == NULL:
        raise MemoryError
    with nogil:
        if is_single(t):
            run_thresholds[float](problems, each, <float *>m, limits, found, partial, threads)
        else:
            run_thresholds[double](problems, each, <double *>m, limits, found, partial, threads)
    free(partial)


# --- spectra --------------------------------------------------------------------------------


cdef void run_spectra(ptrdiff_t images, ptrdiff_t each, ptrdiff_t shared, ptrdiff_t n, real *r, real *linear,
                      real *inverse, int threads) noexcept nogil:
    cdef ptrdiff_t k, b, s, at, pieces = segments(n)
    for k in prange(images * pieces, num_threads=threads, schedule="static"):
        b = k // pieces
        s = k - b * pieces
        at = s * SEGMENT
        if real is float:
            spectrum_step_f(length(n, s), r + 2 * (b * n + at), linear + 2 * (b % shared * n + at),
                            inverse + b // each * n + at)
        else:
            spectrum_step_d(length(n, s), r + 2 * (b * n + at), linear + 2 * (b % shared * n + at),
                            inverse + b // each * n + at)


def spectrum_step(r, linear, inverse, int threads=1):
    cdef int t = complex_type(r)
    cdef ptrdiff_t images = r.shape[0], problems = inverse.shape[0], shared = linear.shape[0]
    cdef ptrdiff_t each = share(images, problems), n = r.size // images
    share(each, shared)  # one for all, or one for each image of a problem
    cdef void *a = writable(r, t, images * n)
    cdef void *b = pointer(linear, t, shared * n)
    cdef void *c = pointer(inverse, real_of(t), problems * n)
    with nogil:
        if is_single(t):
            run_spectra[float](images, each, shared, n, <float *>a, <float *>b, <float *>c, threads)
        else:
            run_spectra[double](images, each, shared, n, <double *>a, <double *>b, <double *>c, threads)


cdef void run_data(ptrdiff_t images, ptrdiff_t n, real *r, real *z, real *power, real *base, real *observed, real *gram,
                   real *inverse, real *factor, double penalty, double curvature, double relaxation, double dual_scale,
                   int threads) noexcept nogil:
    cdef ptrdiff_t k, b, s, at, whole, pieces = segments(n)
    for k in prange(images * pieces, num_threads=threads, schedule="static"):
        b = k // pieces
        s = k - b * pieces
        at = s * SEGMENT
        whole = b * n + at
        if real is float:
            data_step_f(length(n, s), r + 2 * whole, z + 2 * whole, power + whole, base + 2 * whole, observed + 2 * whole,
                        gram + at, inverse + at, factor + at, penalty, curvature, relaxation, dual_scale)
        else:
            data_step_d(length(n, s), r + 2 * whole, z + 2 * whole, power + whole, base + 2 * whole, observed + 2 * whole,
                        gram + at, inverse + at, factor + at, penalty, curvature, relaxation, dual_scale)


def data_step(r, z, power, base, observed, gram, inverse, factor, double penalty, double curvature, double relaxation,
              double dual_scale, int threads=1):
    cdef int t = complex_type(r), u = real_of(t)
    cdef ptrdiff_t images = r.shape[0], n = r.size // images, whole = images * n
    cdef void *spectra[4]
    cdef void *diagonals[4]
    cdef int k
    spectra[0] = writable(r, t, whole)
    spectra[1] = writable(z, t, whole)
    spectra[2] = pointer(base, t, whole)
    spectra[3] = pointer(observed, t, whole)
    diagonals[0] = writable(power, u, whole)
    for k, a in enumerate((gram, inverse, factor)):
        diagonals[k + 1] = pointer(a, u, n)
    with nogil:
        if is_single(t):
            run_data[float](images, n, <float *>spectra[0], <float *>spectra[1], <float *>diagonals[0], <float *>spectra[2],
                            <float *>spectra[3], <float *>diagonals[1], <float *>diagonals[2], <float *>diagonals[3],
                            penalty, curvature, relaxation, dual_scale, threads)
        else:
            run_data[double](images, n, <double *>spectra[0], <double *>spectra[1], <double *>diagonals[0], <double *>spectra[2],
                             <double *>spectra[3], <double *>diagonals[1], <double *>diagonals[2], <double *>diagonals[3],
                             penalty, curvature, relaxation, dual_scale, threads)


# --- the three multipliers of the subproblem ------------------------------------------------


cdef struct Coupled:
    # rows 0: data, 1: coefficients, 2: field; rates[i] are the radii's multipliers lambda
    ptrdiff_t count[3]
    ptrdiff_t images
    double penalty[3]
    double sigma[3]
    double rate[3]
    double centre[3]
    double weight[3]
    double constant, alpha
    int threads


cdef void shrunk(real *p, real *d, Coupled *c, double curvature, double *partial, double *result) noexcept nogil:
    cdef ptrdiff_t k, b, s, n = c.count[0], pieces = segments(n)
    for k in prange(c.images * pieces, num_threads=c.threads, schedule="static"):
        b = k // pieces
        s = k - b * pieces
        partial[2 * k] = 0
        partial[2 * k + 1] = 0
        if real is float:
            shrunk_power_f(length(n, s), p + b * n + s * SEGMENT, d + s * SEGMENT, <float>curvature, partial + 2 * k)
        else:
            shrunk_power_d(length(n, s), p + b * n + s * SEGMENT, d + s * SEGMENT, curvature, partial + 2 * k)
    result[0] = 0
    result[1] = 0
    for k in range(c.images * pieces):
        result[0] += partial[2 * k]
        result[1] += partial[2 * k + 1]


cdef bint solve_linear(double *a, double *b, int n) noexcept nogil:
    """b <- a^-1 b by elimination with row pivoting; a has rows of 4."""
    cdef int i, j, k, pivot
    cdef double swap, factor
    for i in range(n):
        pivot = i
        for j in range(i + 1, n):
            if fabs(a[4 * j + i]) > fabs(a[4 * pivot + i]):
                pivot = j
        if a[4 * pivot + i] == 0:
            return False
        for k in range(n):
            swap = a[4 * i + k]
            a[4 * i + k] = a[4 * pivot + k]
            a[4 * pivot + k] = swap
        swap = b[i]
        b[i] = b[pivot]
        b[pivot] = swap
        for j in range(i + 1, n):
            factor = a[4 * j + i] / a[4 * i + i]
            for k in range(i, n):
                a[4 * j + k] -= factor * a[4 * i + k]
            b[j] -= factor * b[i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            b[i] -= a[4 * i + k] * b[k]
        b[i] /= a[4 * i + i]
    return True


cdef bint newton(Coupled *c, real *m1, real *m2, real *p, real *d, double tol, double *top, double *partial,
                 double *mu, double *slack, bint violated) noexcept nogil:
    """Semismooth Newton on (mu_0, mu_1, mu_2[, t]); False where it fails, and the caller takes another way."""
    cdef double found[2]
    cdef double value[3]
    cdef double slope[3]
    cdef double r[3]
    cdef double a[16]
    cdef double step[4]
    cdef double scale[3]
    cdef double following
    cdef bint active[3]
    cdef int _, i, size = 4 if violated else 3
    if not violated:
        slack[0] = 0
    for _ in range(MAX_STEPS):
        shrunk(p, d, c, mu[0] / c.penalty[0], partial, found)
        value[0] = c.constant + found[0] - c.sigma[0] * slack[0]
        slope[0] = found[1] / c.penalty[0]
        scale[0] = found[0] + fabs(c.constant)
        for i in range(1, 3):
            r[i] = c.centre[i] + (mu[i] - mu[0] * c.rate[i]) / c.weight[i]
            excess(m1 if i == 1 else m2, c.count[i], mu[i] / c.penalty[i], partial, c.threads, found)
            value[i] = found[0] - r[i] - c.sigma[i] * slack[0]
            slope[i] = -found[1] / c.penalty[i] - 1 / c.weight[i]
            scale[i] = found[0] + fabs(r[i])
            value[0] += c.rate[i] * r[i]
            slope[0] -= c.rate[i] * c.rate[i] / c.weight[i]
            scale[0] += fabs(c.rate[i] * r[i])
        if not fabs(value[0]) + fabs(value[1]) + fabs(value[2]) < INFINITY:
            return False
        for i in range(3):
            # would the constraint hold at multiplier 0, by the linear model?
            active[i] = value[i] - slope[i] * mu[i] > 0
        for i in range(16):
            a[i] = 0
        for i in range(3):
            step[i] = -value[i] if active[i] else -mu[i]
            a[5 * i] = slope[i] if active[i] else 1
            if violated and active[i]:
                a[4 * i + 3] = -c.sigma[i]
        for i in range(1, 3):
            if active[0]:
                a[i] = c.rate[i] / c.weight[i]
            if active[i]:
                a[4 * i] = c.rate[i] / c.weight[i]
        if violated:
            step[3] = c.alpha
            for i in range(3):
                a[12 + i] = c.sigma[i]
                step[3] -= c.sigma[i] * mu[i]
        following = 0
        for i in range(3):
            following = max(following, fabs(step[i]) / (tol * scale[i] if active[i] else tol * c.alpha))
        if violated:
            following = max(following, fabs(step[3]) / (tol * c.alpha))
        if following <= 1:
            following = 0
            for i in range(3):
                if not active[i]:
                    mu[i] = 0
                following += c.sigma[i] * mu[i]
            if not violated and following > c.alpha * (1 + tol):
                return False
            return slack[0] >= 0 and r[1] >= 0 and r[2] >= 0 and mu[0] >= 0
        if violated and not (active[0] or active[1] or active[2]):
            return False
        if not solve_linear(a, step, size):
            return False
        if violated:
            slack[0] += step[3]
        for i in range(3):
            following = mu[i] + step[i]
            if following < 0:
                following = 0.1 * mu[i] if i == 0 and active[0] else 0
            if i > 0 and following >= top[i]:
                following = 0.5 * (mu[i] + top[i]) if mu[i] < top[i] else 0.5 * top[i]
            mu[i] = following
    return False


cdef bint run_coupled(Coupled *c, real *m1, real *m2, real *p, real *d, double *partial, double *mu, double *slack) noexcept nogil:
    cdef double top[3]
    cdef double trial[3]
    cdef double t
    cdef int i, _
    cdef bint violated = slack[0] > 0
    # float32 sums carry a relative error of their own
    cdef double tol = 1e-6 if sizeof(real) == 4 else 1e-11
    top[1] = c.penalty[1] * largest(m1, c.count[1])
    top[2] = c.penalty[2] * largest(m2, c.count[2])
    for _ in range(2):
        for i in range(3):
            trial[i] = mu[i]
        t = slack[0] if slack[0] > 0 else 1e-3
        if newton(c, m1, m2, p, d, tol, top, partial, trial, &t, violated):
            for i in range(3):
                mu[i] = trial[i]
            slack[0] = t
            return True
        violated = not violated
    return False


def coupled_multipliers(coefficients, fields, power, gram, penalties, sigma, rates, centres, weights, double constant,
                        double alpha, start, int threads=1):
    cdef int t = real_type(coefficients), i
    cdef Coupled c
    cdef double mu[3]
    cdef double slack = start[3]
    cdef bint done
    cdef void *m1 = pointer(coefficients, t, coefficients.size)
    cdef void *m2 = pointer(fields, t, fields.size)
    cdef void *p = pointer(power, t, power.size)
    cdef void *d = pointer(gram, t, gram.size)
    cdef double *partial
    c.count[0], c.count[1], c.count[2] = gram.size, coefficients.size, fields.size
    c.images = share(power.size, gram.size)
    c.constant, c.alpha, c.threads = constant, alpha, threads
    for i in range(3):
        c.penalty[i], c.sigma[i], mu[i] = penalties[i], sigma[i], start[i]
    for i in range(1, 3):
        c.rate[i], c.centre[i], c.weight[i] = rates[i - 1], centres[i - 1], weights[i - 1]
    partial = <double *>malloc(2 * (segments(c.count[1]) + segments(c.count[2]) + c.images * segments(c.count[0])) * sizeof(double))
    if partial == NULL:
        raise MemoryError
    with nogil:
        if is_single(t):
            done = run_coupled[float](&c, <float *>m1, <float *>m2, <float *>p, <float *>d, partial, mu, &slack)
        else:
            done = run_coupled[double](&c, <double *>m1, <double *>m2, <double *>p, <double *>d, partial, mu, &slack)
    free(partial)
    return done, (mu[0], mu[1], mu[2], slack)
