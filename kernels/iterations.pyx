# cython: boundscheck=False, wraparound=False, cdivision=True
"""Whole iterations of both levels without the interpreter, one item a thread: its state stays in that core's cache.

The loops are those of ``tv`` and ``spectral`` and the transforms of ``fourier``, in the order of ``solve_lower`` and
``solve_bio``: the same bits as step by step.
"""

cimport numpy as cnp
from cython.parallel cimport prange, threadid
from libc.math cimport sqrt
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from ._batch cimport add_rows, items_of, numbers, writable_numbers
from ._common cimport Grid, grid_of, image_size, is_single, number_type, plane_size, pointer, ptrdiff_t, real, writable
from .fourier cimport FourierPlan, Plan, forward, inverse
from .spectral cimport Spectrum, Upper, laplacian_pointers, lower_rows, spectrum_of, upper_rows
from .tv cimport divergence_item, field_threshold, update_divergence_item, update_rows

cnp.import_array()


# The arrays of a batch, items first but for those that all share, and what one thread works with.
cdef struct Arrays:
    const FourierPlan *plan
    Grid g
    Spectrum s
    ptrdiff_t items, image, field, spectrum
    void *x
    void *q
    void *rhs
    void *spectra
    void *kept
    void *data
    void *transfer
    void *copies
    void *axes[3]
    char *scratch
    size_t scratch_bytes, rows_at, partial_at


cdef Arrays arrays_of(Plan plan, x, q, rhs, spectrum, kept, data, transfer, tuple laplacian, copies, int threads) except *:
    cdef Arrays a
    cdef int t = number_type(x), complex_type, real_type
    cdef ptrdiff_t size, rows
    complex_type = cnp.NPY_COMPLEX64 if is_single(t) else cnp.NPY_COMPLEX128
    real_type = cnp.NPY_FLOAT32 if is_single(t) else cnp.NPY_FLOAT64
    a.items, a.g, a.s = items_of(x), grid_of(x, x.ndim - 1), spectrum_of(spectrum, 1)
    if plan.shape != x.shape[1:] or plan.typenums[0] != t or plan.spectrum_shape != spectrum.shape[1:]:
        raise ValueError(f"plan: made for {plan.dtype} images of shape {plan.shape}, not for {x.dtype}, {x.shape[1:]}")
    a.plan = &plan.c
    a.image, a.spectrum = image_size(&a.g), 2 * a.s.rows * a.s.n2
    a.field = a.g.d * a.image
    a.x = writable(x, t, x.size)
    a.q = writable(q, t, a.g.d * x.size)
    a.rhs = writable(rhs, t, threads * (x.size // a.items))
    size = a.s.rows * a.s.n2
    a.spectra = writable(spectrum, complex_type, threads * size)
    a.kept = writable(kept, complex_type, a.items * size)
    a.data = pointer(data, complex_type, a.items * size)
    a.transfer = pointer(transfer, complex_type, size)
    a.copies = pointer(copies, real_type, a.s.n2)
    laplacian_pointers(laplacian, real_type, &a.s, a.axes)
    rows = max(a.g.n0, a.s.rows)
    a.rows_at = (plan.c.work_bytes + 63) // 64 * 64
    a.partial_at = a.rows_at + ((2 * a.g.d + 1) * plane_size(&a.g) * (4 if is_single(t) else 8) + 63) // 64 * 64
    # a line between the threads' parts, so that none writes what another holds
    a.scratch_bytes = a.partial_at + (3 * rows * sizeof(double) + 63) // 64 * 64 + 192
    a.scratch = <char *>malloc(a.scratch_bytes * threads)
    if a.scratch == NULL:
        raise MemoryError
    return a


cdef inline void x_update_starts(Arrays *a, real *rhs, real *spectrum, char *scratch) noexcept nogil:
    """The spectrum of the right-hand side; its mean is 0 but for rounding, which a large penalty would multiply."""
    forward(a.plan, rhs, spectrum, scratch)
    spectrum[0] = spectrum[1] = 0


cdef inline void x_update_ends(Arrays *a, ptrdiff_t item, real *x, real *spectrum, bint keep, char *scratch) noexcept nogil:
    if keep:
        memcpy(<real *>a.kept + item * a.spectrum, spectrum, a.spectrum * sizeof(real))
    inverse(a.plan, spectrum, x, scratch)


# --- lower level ----------------------------------------------------------------------------


cdef void lower_item(Arrays *a, ptrdiff_t item, int steps, double relaxation, double threshold, double new_threshold,
                     double weight, int isotropic, double *square, int thread, real *x) noexcept nogil:
    cdef real *q = <real *>a.q + item * a.field
    cdef real *rhs = <real *>a.rhs + thread * a.image
    cdef real *spectrum = <real *>a.spectra + thread * a.spectrum
    cdef char *scratch = a.scratch + thread * a.scratch_bytes
    cdef double *partial = <double *>(scratch + a.partial_at)
    cdef int step
    for step in range(steps):
        update_divergence_item(&a.g, x, q, relaxation, threshold if step == 0 else new_threshold, new_threshold,
                               isotropic, rhs, <real *>(scratch + a.rows_at))
        x_update_starts(a, rhs, spectrum, scratch)
        memset(partial, 0, a.s.rows * sizeof(double))
        lower_rows(&a.s, spectrum, <real *>a.transfer, <real *>a.data + item * a.spectrum, a.axes, weight, 0,
                   <real *>a.copies, 0, a.s.rows, partial)
        x_update_ends(a, item, x, spectrum, step == steps - 1, scratch)
    add_rows(partial, 1, a.s.rows, 1, square)


cdef void run_lower(Arrays *a, int steps, double relaxation, double *thresholds, double *new_thresholds, double *weights,
                    int isotropic, double *squares, int threads, real *x) noexcept nogil:
    cdef ptrdiff_t k
    for k in prange(a.items, num_threads=threads, schedule="dynamic", chunksize=1):
        lower_item(a, k, steps, relaxation, thresholds[k], new_thresholds[k], weights[k], isotropic, squares + k,
                   threadid(), x + k * a.image)
        thresholds[k] = new_thresholds[k]


def lower_iterations(Plan plan, x, q, rhs, spectrum, kept, data, transfer, tuple laplacian, copies, double relaxation,
                     thresholds, new_thresholds, weights, bint isotropic, squares, int steps, int threads=1):
    """``steps`` iterations of ``solve_lower`` (mathematics.md 4c) on every item.

    Arrays as of ``update_field_divergence_batch`` and ``lower_spectrum_batch``, but rhs and spectrum, which hold what is
    between the steps, one for each thread; thresholds become the new ones, squares
    and kept receive |A X - Y|^2 and X of the last x-update.
    """
    cdef Arrays a
    cdef int t = number_type(x)
    cdef ptrdiff_t items = items_of(x)
    cdef double *old = writable_numbers(thresholds, items)
    cdef double *new = numbers(new_thresholds, items)
    cdef double *penalties = numbers(weights, items)
    cdef double *result = writable_numbers(squares, items)
    a = arrays_of(plan, x, q, rhs, spectrum, kept, data, transfer, laplacian, copies, threads)
    with nogil:
        if is_single(t):
            run_lower[float](&a, steps, relaxation, old, new, penalties, isotropic, result, threads, <float *>a.x)
        else:
            run_lower[double](&a, steps, relaxation, old, new, penalties, isotropic, result, threads, <double *>a.x)
        free(a.scratch)


# --- upper level ----------------------------------------------------------------------------


cdef struct Balls:
    double pixels
    double *radii
    double *epsilons
    double *thresholds


cdef void upper_item(Arrays *a, Upper *u, Balls *b, ptrdiff_t item, int steps, int isotropic, double *squares, int thread,
                     real *residual, real *target) noexcept nogil:
    cdef real *x = <real *>a.x + item * a.image
    cdef real *q = <real *>a.q + item * a.field
    cdef real *rhs = <real *>a.rhs + thread * a.image
    cdef real *spectrum = <real *>a.spectra + thread * a.spectrum
    cdef char *scratch = a.scratch + thread * a.scratch_bytes
    cdef double *partial = <double *>(scratch + a.partial_at)
    cdef double sums[3]
    cdef double norm
    cdef int step
    for step in range(steps):
        memset(partial, 0, 3 * a.g.n0 * sizeof(double))
        update_rows(&a.g, x, q, 0, a.g.n0, u.relaxation, b.thresholds[item], 1, isotropic, b.thresholds[item], partial)
        add_rows(partial, 1, a.g.n0, 3, sums)
        b.thresholds[item] = field_threshold(&a.g, q, b.radii[item], isotropic, sums, partial, 1)
        divergence_item(&a.g, q, b.thresholds[item], isotropic, 1, -2, rhs, <real *>(scratch + a.rows_at))
        x_update_starts(a, rhs, spectrum, scratch)
        memset(partial, 0, 3 * a.s.rows * sizeof(double))
        upper_rows(&a.s, spectrum, <real *>NULL, target, <real *>a.transfer, <real *>a.data + item * a.spectrum,
                   residual, a.axes, u, item, <real *>a.copies, 0, a.s.rows, partial)
        add_rows(partial, 1, a.s.rows, 3, squares)
        norm = sqrt(b.pixels * squares[0])
        u.shrinks[item] = min(1.0, b.epsilons[item] / norm) if norm > 0 else 1.0
        x_update_ends(a, item, x, spectrum, step == steps - 1, scratch)


cdef void run_upper(Arrays *a, Upper *u, Balls *b, int steps, int isotropic, double *squares, int threads, real *residual,
                    real *target) noexcept nogil:
    cdef ptrdiff_t k
    for k in prange(a.items, num_threads=threads, schedule="dynamic", chunksize=1):
        upper_item(a, u, b, k, steps, isotropic, squares + 3 * k, threadid(),
                   residual + k * a.spectrum, target + k * a.spectrum)


def upper_iterations(Plan plan, x, q, rhs, spectrum, kept, target, data, residual, transfer, tuple laplacian, copies,
                     double eta, shifts, field_penalties, data_penalties, double relaxation, shrinks, thresholds, radii,
                     epsilons, bint isotropic, sums, int steps, int threads=1):
    """``steps`` iterations of ``solve_bio``'s splitting "ball" (mathematics.md 4c) on every item.

    Arrays as of ``update_field_batch`` and ``upper_spectrum_batch``, rhs and spectrum as above; thresholds and shrinks are those of the balls of
    total variation (``radii``) and of the data (``epsilons``) after the last iteration, sums those of its x-update,
    whose X kept receives.
    """
    cdef Arrays a
    cdef Upper u
    cdef Balls b
    cdef ptrdiff_t items = items_of(x)
    cdef int t = number_type(x), complex_type = cnp.NPY_COMPLEX64 if is_single(t) else cnp.NPY_COMPLEX128
    cdef void *D
    cdef void *E
    cdef double *result = writable_numbers(sums, 3 * items)
    u = Upper(eta, 0, relaxation, numbers(shifts, items), numbers(field_penalties, items), numbers(data_penalties, items),
              writable_numbers(shrinks, items))
    b = Balls(0, numbers(radii, items), numbers(epsilons, items), writable_numbers(thresholds, items))
    D = pointer(target, complex_type, data.size)
    E = writable(residual, complex_type, data.size)
    a = arrays_of(plan, x, q, rhs, spectrum, kept, data, transfer, laplacian, copies, threads)
    b.pixels = a.g.n0 * a.g.n1 * a.g.n2
    with nogil:
        if is_single(t):
            run_upper[float](&a, &u, &b, steps, isotropic, result, threads, <float *>E, <float *>D)
        else:
            run_upper[double](&a, &u, &b, steps, isotropic, result, threads, <double *>E, <double *>D)
        free(a.scratch)
