# cython: boundscheck=False, wraparound=False, cdivision=True
"""Compiled wavelet kernels: Haar bases and frames, and the one-field update of their coefficients."""

cimport numpy as cnp
from cython.parallel cimport prange, threadid
from libc.stdlib cimport calloc, free, malloc

from ._common cimport Grid, grid_of, image_size, is_single, number_type, pointer, ptrdiff_t, real, writable

cnp.import_array()

cdef enum:
    SEGMENT = 4096  # coefficients a thread takes at a time, and the unit of the partial sums


cdef extern from "wavelets.h" nogil:
    int MAX_LEVEL
    ptrdiff_t aligned(ptrdiff_t)
    ptrdiff_t haar_work(Grid *)
    ptrdiff_t frame_work(Grid *, int)
    ptrdiff_t filter_work(Grid *, int, int)
    void haar_forward_block_f(Grid *, int, ptrdiff_t, float *, float *, float *)
    void haar_forward_block_d(Grid *, int, ptrdiff_t, double *, double *, double *)
    void haar_inverse_block_f(Grid *, int, ptrdiff_t, float *, float *, float *)
    void haar_inverse_block_d(Grid *, int, ptrdiff_t, double *, double *, double *)
    void frame_forward_block_f(Grid *, int, ptrdiff_t, ptrdiff_t, float *, float *, float *)
    void frame_forward_block_d(Grid *, int, ptrdiff_t, ptrdiff_t, double *, double *, double *)
    void frame_adjoint_block_f(Grid *, int, ptrdiff_t, ptrdiff_t, float *, float *, float *)
    void frame_adjoint_block_d(Grid *, int, ptrdiff_t, ptrdiff_t, double *, double *, double *)
    void filter_bank_forward_block_f(int, double *, Grid *, int, ptrdiff_t, ptrdiff_t, float *, float *, float *, float *)
    void filter_bank_forward_block_d(int, double *, Grid *, int, ptrdiff_t, ptrdiff_t, double *, double *, double *, double *)
    void filter_bank_adjoint_block_f(int, double *, Grid *, int, ptrdiff_t, ptrdiff_t, float *, float *, float *, float *)
    void filter_bank_adjoint_block_d(int, double *, Grid *, int, ptrdiff_t, ptrdiff_t, double *, double *, double *, double *)
    void update_coefficients_f(int, ptrdiff_t, float *, float *, float, float, float, float, float *, float *)
    void update_coefficients_d(int, ptrdiff_t, double *, double *, double, double, double, double, double *, double *)
    void clip_coefficients_f(int, ptrdiff_t, float *, float, float *, float *)
    void clip_coefficients_d(int, ptrdiff_t, double *, double, double *, double *)
    void coefficient_status_f(int, ptrdiff_t, float *, float *, float, float *, double *)
    void coefficient_status_d(int, ptrdiff_t, double *, double *, double, double *, double *)


cdef void *new_work(ptrdiff_t count, int typenum, void **start) except NULL:
    """Memory to free; start receives its first cache line, from which on it holds `count` numbers."""
    cdef void *memory = malloc(count * (sizeof(float) if is_single(typenum) else sizeof(double)) + 64)
    if memory == NULL:
        raise MemoryError
    start[0] = <void *>((<size_t>memory + 63) & ~<size_t>63)
    return memory


ctypedef enum Direction:
    FORWARD
    BACKWARD


# --- Haar basis -----------------------------------------------------------------------------


cdef void run_haar(Direction direction, Grid g, int level, ptrdiff_t batch, real *x, real *out, real *work,
                   ptrdiff_t work_size, int threads) noexcept nogil:
    cdef ptrdiff_t task, block, at, size = image_size(&g)
    cdef ptrdiff_t blocks = g.n0 >> level if g.d > 1 else 1
    for task in prange(batch * blocks, num_threads=threads, schedule="static"):
        block = task % blocks
        at = task // blocks * size
        if real is float:
            if direction == FORWARD:
                haar_forward_block_f(&g, level, block, x + at, out + at, work + threadid() * work_size)
            else:
                haar_inverse_block_f(&g, level, block, x + at, out + at, work + threadid() * work_size)
        else:
            if direction == FORWARD:
                haar_forward_block_d(&g, level, block, x + at, out + at, work + threadid() * work_size)
            else:
                haar_inverse_block_d(&g, level, block, x + at, out + at, work + threadid() * work_size)


cdef inline bint divisible(Grid *g, int level) noexcept nogil:
    cdef ptrdiff_t rest = g.n2 | (g.n0 if g.d > 1 else 0) | (g.n1 if g.d > 2 else 0)
    return rest & ((<ptrdiff_t>1 << level) - 1) == 0


cdef apply_haar(Direction direction, x, int level, int ndim, out, int threads):
    cdef int t = number_type(x)
    cdef Grid g = grid_of(x, ndim)
    cdef ptrdiff_t n = x.size, batch = n // (g.n0 * g.n1 * g.n2), work_size = haar_work(&g)
    cdef void *source = pointer(x, t, n)
    cdef void *target = writable(out, t, n)
    cdef void *work
    cdef void *memory
    if source == target:
        raise ValueError("out must not be the input: it is still read while out is written")
    if not 1 <= level <= MAX_LEVEL or not divisible(&g, level):
        raise ValueError(f"level {level} needs sizes divisible by 2**level, got shape {x.shape}")
    memory = new_work(threads * work_size, t, &work)
    with nogil:
        if is_single(t):
            run_haar[float](direction, g, level, batch, <float *>source, <float *>target, <float *>work, work_size, threads)
        else:
            run_haar[double](direction, g, level, batch, <double *>source, <double *>target, <double *>work, work_size, threads)
    free(memory)


def haar_forward(x, int level, int ndim, out, int threads=1):
    apply_haar(FORWARD, x, level, ndim, out, threads)


def haar_inverse(c, int level, int ndim, out, int threads=1):
    apply_haar(BACKWARD, c, level, ndim, out, threads)


# --- undecimated Haar frame -----------------------------------------------------------------


cdef void run_frame(Direction direction, Grid g, int level, ptrdiff_t batch, real *x, real *c, real *work,
                    ptrdiff_t work_size, int threads) noexcept nogil:
    cdef ptrdiff_t task, block, item, start, stop, size = image_size(&g)
    cdef ptrdiff_t bands = ((1 << g.d) - 1) * level + 1, blocks = min(threads, g.n0) if batch < threads else 1
    for task in prange(batch * blocks, num_threads=threads, schedule="static"):
        item = task // blocks
        block = task - item * blocks
        start = block * g.n0 // blocks
        stop = (block + 1) * g.n0 // blocks
        if real is float:
            if direction == FORWARD:
                frame_forward_block_f(&g, level, start, stop, x + item * size, c + item * bands * size,
                                      work + threadid() * work_size)
            else:
                frame_adjoint_block_f(&g, level, start, stop, c + item * bands * size, x + item * size,
                                      work + threadid() * work_size)
        else:
            if direction == FORWARD:
                frame_forward_block_d(&g, level, start, stop, x + item * size, c + item * bands * size,
                                      work + threadid() * work_size)
            else:
                frame_adjoint_block_d(&g, level, start, stop, c + item * bands * size, x + item * size,
                                      work + threadid() * work_size)


cdef apply_frame(Direction direction, x, int level, int ndim, c, int threads):
    """x the image, c the bands, whichever of them is written."""
    cdef int t = number_type(x)
    cdef Grid g = grid_of(x, ndim)
    cdef ptrdiff_t n = x.size, batch = n // (g.n0 * g.n1 * g.n2), work_size
    cdef void *image
    cdef void *bands
    cdef void *work
    cdef void *memory
    if not 1 <= level <= MAX_LEVEL:
        raise ValueError(f"level must be between 1 and {MAX_LEVEL}, got {level}")
    if direction == FORWARD:
        image = pointer(x, t, n)
        bands = writable(c, t, n * (((1 << ndim) - 1) * level + 1))
    else:
        image = writable(x, t, n)
        bands = pointer(c, t, n * (((1 << ndim) - 1) * level + 1))
    work_size = frame_work(&g, level)
    memory = new_work(threads * work_size, t, &work)
    with nogil:
        if is_single(t):
            run_frame[float](direction, g, level, batch, <float *>image, <float *>bands, <float *>work, work_size, threads)
        else:
            run_frame[double](direction, g, level, batch, <double *>image, <double *>bands, <double *>work, work_size, threads)
    free(memory)


def frame_forward(x, int level, int ndim, out, int threads=1):
    apply_frame(FORWARD, x, level, ndim, out, threads)


def frame_adjoint(c, int level, int ndim, out, int threads=1):
    apply_frame(BACKWARD, out, level, ndim, c, threads)


# --- undecimated frame of a filter pair ------------------------------------------------------


cdef inline real *approximation(Direction direction, int depth, int level, real *x, real *c, real *spare) noexcept nogil:
    """Its place: the image or the first band at either end; between them `spare` and the array written take turns."""
    if direction == FORWARD:
        return x if depth == 0 else spare if (level - depth) % 2 else c
    return c if depth == level else spare if depth % 2 else x


cdef void run_filters(Direction direction, int taps, double *filters, Grid g, int level, ptrdiff_t batch, real *x,
                      real *c, real *spare, real *work, ptrdiff_t work_size, int threads) noexcept nogil:
    cdef ptrdiff_t task, item, start, stop, size = image_size(&g), details = (1 << g.d) - 1
    cdef ptrdiff_t blocks = min(threads, g.n0) if batch < threads else 1
    cdef real *fine
    cdef real *coarse
    cdef real *bands
    cdef int step, depth
    for step in range(level):
        depth = step if direction == FORWARD else level - 1 - step
        for task in prange(batch * blocks, num_threads=threads, schedule="static"):
            item = task // blocks
            start = (task - item * blocks) * g.n0 // blocks
            stop = (task - item * blocks + 1) * g.n0 // blocks
            bands = c + item * (details * level + 1) * size
            fine = approximation(direction, depth, level, x + item * size, bands, spare + item * size)
            coarse = approximation(direction, depth + 1, level, x + item * size, bands, spare + item * size)
            bands = bands + (1 + (level - 1 - depth) * details) * size
            if real is float:
                if direction == FORWARD:
                    filter_bank_forward_block_f(taps, filters, &g, depth, start, stop, fine, coarse, bands,
                                                work + threadid() * work_size)
                else:
                    filter_bank_adjoint_block_f(taps, filters, &g, depth, start, stop, coarse, bands, fine,
                                                work + threadid() * work_size)
            else:
                if direction == FORWARD:
                    filter_bank_forward_block_d(taps, filters, &g, depth, start, stop, fine, coarse, bands,
                                                work + threadid() * work_size)
                else:
                    filter_bank_adjoint_block_d(taps, filters, &g, depth, start, stop, coarse, bands, fine,
                                                work + threadid() * work_size)


cdef apply_filters(Direction direction, x, filters, int level, int ndim, c, int threads):
    """x the image, c the bands, whichever of them is written."""
    cdef int t = number_type(x), taps = filters.size // 2
    cdef Grid g = grid_of(x, ndim)
    cdef ptrdiff_t n = x.size, batch = n // (g.n0 * g.n1 * g.n2), bands = ((1 << ndim) - 1) * level + 1
    cdef ptrdiff_t work_size, spare_size
    cdef double *values = <double *>pointer(filters, cnp.NPY_FLOAT64, 2 * taps)
    cdef void *image
    cdef void *coefficients
    cdef void *spare
    cdef void *memory
    if not 1 <= level <= MAX_LEVEL or taps not in (4, 6, 8):
        raise ValueError(f"expected 1 to {MAX_LEVEL} levels and 4, 6 or 8 taps, got {level} and {taps}")
    if direction == FORWARD:
        image, coefficients = pointer(x, t, n), writable(c, t, n * bands)
    else:
        image, coefficients = writable(x, t, n), pointer(c, t, n * bands)
    work_size = filter_work(&g, taps, level)
    spare_size = aligned(batch * image_size(&g)) if level > 1 else 0
    memory = new_work(spare_size + threads * work_size, t, &spare)
    with nogil:
        if is_single(t):
            run_filters[float](direction, taps, values, g, level, batch, <float *>image, <float *>coefficients,
                               <float *>spare, <float *>spare + spare_size, work_size, threads)
        else:
            run_filters[double](direction, taps, values, g, level, batch, <double *>image, <double *>coefficients,
                                <double *>spare, <double *>spare + spare_size, work_size, threads)
    free(memory)


def filter_bank_forward(x, filters, int level, int ndim, out, int threads=1):
    apply_filters(FORWARD, x, filters, level, ndim, out, threads)


def filter_bank_adjoint(c, filters, int level, int ndim, out, int threads=1):
    apply_filters(BACKWARD, out, filters, level, ndim, c, threads)


# --- coefficients: the one-field split z = T x (mathematics.md 4c) --------------------------


cdef inline int parts_of(int typenum) noexcept nogil:
    """The real numbers in an element."""
    return 2 if typenum == cnp.NPY_COMPLEX64 or typenum == cnp.NPY_COMPLEX128 else 1


cdef inline ptrdiff_t segments(ptrdiff_t n) noexcept nogil:
    return (n + SEGMENT - 1) // SEGMENT


cdef inline ptrdiff_t length(ptrdiff_t n, ptrdiff_t segment) noexcept nogil:
    return min(SEGMENT, n - segment * SEGMENT)


cdef void *weights_of(object weights, int typenum, ptrdiff_t n) except? NULL:
    """Real numbers, one a coefficient, or NULL for None."""
    if weights is None:
        return NULL
    return pointer(weights, cnp.NPY_FLOAT32 if is_single(typenum) else cnp.NPY_FLOAT64, n)


cdef inline real *part_of(real *weights, ptrdiff_t segment) noexcept nogil:
    return NULL if weights == NULL else weights + segment * SEGMENT


cdef void run_update(int parts, ptrdiff_t n, real *t, real *w, double relaxation, double threshold, double new_threshold,
                     double dual_scale, real *weights, real *out, int threads) noexcept nogil:
    cdef ptrdiff_t k, at
    for k in prange(segments(n), num_threads=threads, schedule="static"):
        at = k * SEGMENT * parts
        if real is float:
            update_coefficients_f(parts, length(n, k), t + at, w + at, relaxation, threshold, new_threshold, dual_scale,
                                  part_of(weights, k), out + at)
        else:
            update_coefficients_d(parts, length(n, k), t + at, w + at, relaxation, threshold, new_threshold, dual_scale,
                                  part_of(weights, k), out + at)


def update_coefficients(t, w, double relaxation, double threshold, double new_threshold, double dual_scale, weights, out,
                        int threads=1):
    cdef int typenum = number_type(t), parts = parts_of(typenum)
    cdef ptrdiff_t n = t.size
    cdef void *a = pointer(t, typenum, n)
    cdef void *b = writable(w, typenum, n)
    cdef void *c = writable(out, typenum, n)
    cdef void *factors = weights_of(weights, typenum, n)
    if b == a or b == c:
        raise ValueError("w must be an array of its own")
    with nogil:
        if is_single(typenum):
            run_update[float](parts, n, <float *>a, <float *>b, relaxation, threshold, new_threshold, dual_scale,
                              <float *>factors, <float *>c, threads)
        else:
            run_update[double](parts, n, <double *>a, <double *>b, relaxation, threshold, new_threshold, dual_scale,
                               <double *>factors, <double *>c, threads)


cdef void run_clip(int parts, ptrdiff_t n, real *w, double threshold, real *weights, real *out,
                   int threads) noexcept nogil:
    cdef ptrdiff_t k, at
    for k in prange(segments(n), num_threads=threads, schedule="static"):
        at = k * SEGMENT * parts
        if real is float:
            clip_coefficients_f(parts, length(n, k), w + at, threshold, part_of(weights, k), out + at)
        else:
            clip_coefficients_d(parts, length(n, k), w + at, threshold, part_of(weights, k), out + at)


def clip_coefficients(w, double threshold, weights, out, int threads=1):
    cdef int typenum = number_type(w), parts = parts_of(typenum)
    cdef ptrdiff_t n = w.size
    cdef void *a = pointer(w, typenum, n)
    cdef void *b = writable(out, typenum, n)
    cdef void *factors = weights_of(weights, typenum, n)
    with nogil:
        if is_single(typenum):
            run_clip[float](parts, n, <float *>a, threshold, <float *>factors, <float *>b, threads)
        else:
            run_clip[double](parts, n, <double *>a, threshold, <double *>factors, <double *>b, threads)


cdef void run_status(int parts, ptrdiff_t n, real *t, real *w, double threshold, real *weights, double *partial,
                     int threads) noexcept nogil:
    cdef ptrdiff_t k, at
    for k in prange(segments(n), num_threads=threads, schedule="static"):
        at = k * SEGMENT * parts
        if real is float:
            coefficient_status_f(parts, length(n, k), t + at, w + at, threshold, part_of(weights, k), partial + 6 * k)
        else:
            coefficient_status_d(parts, length(n, k), t + at, w + at, threshold, part_of(weights, k), partial + 6 * k)


def coefficient_status(t, w, double threshold, weights, int threads=1):
    cdef int typenum = number_type(t), parts = parts_of(typenum)
    cdef ptrdiff_t n = t.size, k, m
    cdef void *a = pointer(t, typenum, n)
    cdef void *b = pointer(w, typenum, n)
    cdef void *factors = weights_of(weights, typenum, n)
    cdef double sums[6]
    cdef double *partial = <double *>calloc(6 * segments(n) + 1, sizeof(double))
    if partial == NULL:
        raise MemoryError
    with nogil:
        if is_single(typenum):
            run_status[float](parts, n, <float *>a, <float *>b, threshold, <float *>factors, partial, threads)
        else:
            run_status[double](parts, n, <double *>a, <double *>b, threshold, <double *>factors, partial, threads)
    for m in range(6):
        sums[m] = 0
    for k in range(segments(n)):
        for m in range(5):
            sums[m] += partial[6 * k + m]
        sums[5] = max(sums[5], partial[6 * k + 5])
    free(partial)
    return sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]
