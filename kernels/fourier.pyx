# cython: cdivision=True
"""Compiled discrete Fourier transforms of 1, 2 or 3 axes whose lengths have no prime factor above 7."""

import operator

import numpy as np

cimport numpy as cnp
from cython.parallel cimport prange, threadid
from libc.stdlib cimport free, malloc

cnp.import_array()


cdef extern from "fourier.h" nogil:
    ptrdiff_t fourier_obstacle(ptrdiff_t)
    int fourier_make(FourierPlan *, int, const ptrdiff_t *, int, int, int)
    void fourier_plane_forward(const FourierPlan *, const void *, void *, ptrdiff_t, void *, int)
    void fourier_plane_inverse(const FourierPlan *, void *, void *, ptrdiff_t, void *, int)
    void fourier_columns(const FourierPlan *, int, void *, ptrdiff_t, void *, int)
    void fourier_pack(const FourierPlan *, void *)
    void fourier_unpack(const FourierPlan *, void *)


cdef tuple WHICH = ("image", "spectrum")

# Scratch memory is a few lines of each axis, for every lane of a vector.
LONGEST = 65536


def obstacle(shape):
    """Why there is no plan for images of this shape (1, 2 or 3 axes), or None."""
    if not 1 <= len(shape) <= 3:
        return f"{len(shape)} axes: 1, 2 or 3 can be transformed"
    for axis, n in enumerate(shape):
        if not 1 <= n <= LONGEST:
            return f"axis {axis} has length {n}: 1 to {LONGEST} can be transformed"
        if fourier_obstacle(n):
            return f"axis {axis} has length {n}, of which {fourier_obstacle(n)} is a prime factor: only 2, 3, 5 and 7 can be transformed"
    return None


cdef void forward(const FourierPlan *plan, const void *image, void *spectrum, void *work) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(plan.plane_units):
        fourier_plane_forward(plan, image, spectrum, i, work, 0)
    for i in range(plan.column_units[0]):
        fourier_columns(plan, 0, spectrum, i, work, 0)
    fourier_unpack(plan, spectrum)


cdef void inverse(const FourierPlan *plan, void *spectrum, void *image, void *work) noexcept nogil:
    cdef ptrdiff_t i
    fourier_pack(plan, spectrum)
    for i in range(plan.column_units[0]):
        fourier_columns(plan, 1, spectrum, i, work, 0)
    for i in range(plan.plane_units):
        fourier_plane_inverse(plan, spectrum, image, i, work, 0)


cdef void forward_team(const FourierPlan *plan, const void *image, void *spectrum, void *work, int threads) noexcept nogil:
    cdef ptrdiff_t i
    for i in prange(plan.plane_units, num_threads=threads, schedule="static"):
        fourier_plane_forward(plan, image, spectrum, i, work, threadid())
    for i in prange(plan.column_units[0], num_threads=threads, schedule="static"):
        fourier_columns(plan, 0, spectrum, i, work, threadid())
    fourier_unpack(plan, spectrum)


cdef void inverse_team(const FourierPlan *plan, void *spectrum, void *image, void *work, int threads) noexcept nogil:
    cdef ptrdiff_t i
    fourier_pack(plan, spectrum)
    for i in prange(plan.column_units[0], num_threads=threads, schedule="static"):
        fourier_columns(plan, 1, spectrum, i, work, threadid())
    for i in prange(plan.plane_units, num_threads=threads, schedule="static"):
        fourier_plane_inverse(plan, spectrum, image, i, work, threadid())


cdef void run_items(const FourierPlan *plan, bint backwards, char *image, char *spectrum, ptrdiff_t items, char *work,
                    int threads) noexcept nogil:
    """Every item on one thread; fewer items than threads one after the other by the team. The bits are the same."""
    cdef ptrdiff_t i
    cdef size_t a = plan.image_bytes, b = plan.spectrum_bytes
    if items >= threads:
        for i in prange(items, num_threads=threads, schedule="static"):
            if backwards:
                inverse(plan, spectrum + i * b, image + i * a, work + threadid() * plan.work_bytes)
            else:
                forward(plan, image + i * a, spectrum + i * b, work + threadid() * plan.work_bytes)
        return
    for i in range(items):
        if backwards:
            inverse_team(plan, spectrum + i * b, image + i * a, work, threads)
        else:
            forward_team(plan, image + i * a, spectrum + i * b, work, threads)


cdef class Plan:
    """The transform pair for images of one shape and dtype, float32, float64, complex64 or complex128.

    Lengths have no prime factor above 7 (``obstacle``).  A spectrum has the shape of the image, or of its half spectrum
    (``spectrum_shape``) where the image is real.  ``vector_bytes`` (16, 32 or 64) is the width of the vectors; the
    default is the widest that the CPU runs.  Last bits may differ between widths, and between nothing else.
    Raises ValueError for other shapes and widths, TypeError for other dtypes.
    """

    def __cinit__(self, shape, dtype, *, int vector_bytes=0):
        cdef int axis, width
        self.idle = NULL
        self.shape = tuple([operator.index(n) for n in shape])
        reason = obstacle(self.shape)
        if reason is not None:
            raise ValueError(f"shape: {reason}")
        self.dtype = np.dtype(dtype)
        if self.dtype.char not in "fdFD" or not self.dtype.isnative:
            raise TypeError(f"dtype: expected float32, float64, complex64 or complex128, got {self.dtype}")
        real_image = self.dtype.kind == "f"
        self.spectrum_dtype = np.result_type(self.dtype, np.complex64)
        self.spectrum_shape = (*self.shape[:-1], self.shape[-1] // 2 + 1) if real_image else self.shape
        for axis in range(len(self.shape)):
            self.lengths[0][axis] = self.shape[axis]
            self.lengths[1][axis] = self.spectrum_shape[axis]
        self.typenums = [self.dtype.num, self.spectrum_dtype.num]
        width = fourier_make(&self.c, len(self.shape), self.lengths[0], self.dtype.char in "fF", not real_image, vector_bytes)
        if width < 0:
            raise MemoryError
        if width == 0:
            raise ValueError(f"vector_bytes: this CPU, or this build, has no vectors of {vector_bytes} bytes")
        self.vector_bytes = width

    def __dealloc__(self):
        free(self.idle)
        free(self.c.tables)

    cdef void *data(self, object array, int which, ptrdiff_t *items) except NULL:
        """The data of the image (0) or spectrum (1); ``items``: how many the leading axes hold."""
        cdef int axis, d = self.c.axes, batch
        cdef cnp.ndarray a
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{WHICH[which]}: expected a numpy array, got {type(array).__name__}")
        a = array
        batch = cnp.PyArray_NDIM(a) - d
        fits = batch >= 0 and cnp.PyArray_TYPE(a) == self.typenums[which] and cnp.PyArray_IS_C_CONTIGUOUS(a)
        for axis in range(d if batch >= 0 else 0):
            fits = fits and cnp.PyArray_DIM(a, batch + axis) == self.lengths[which][axis]
        if not fits:
            shape, dtype = (self.spectrum_shape, self.spectrum_dtype) if which else (self.shape, self.dtype)
            raise ValueError(
                f"{WHICH[which]}: expected a C-contiguous array of shape (..., {', '.join(map(str, shape))}) and dtype {dtype}, "
                f"got shape {array.shape} and dtype {array.dtype} with strides {array.strides}"
            )
        items[0] = 1
        for axis in range(batch):
            items[0] *= cnp.PyArray_DIM(a, axis)
        return cnp.PyArray_DATA(a)

    cdef int run(self, bint backwards, object image, object spectrum, int threads) except -1:
        cdef ptrdiff_t items, others
        cdef void *a = self.data(image, 0, &items)
        cdef void *b = self.data(spectrum, 1, &others)
        cdef void *work
        if items != others:
            raise ValueError(f"image and spectrum: the leading axes of shapes {image.shape} and {spectrum.shape} differ")
        if not cnp.PyArray_ISWRITEABLE(spectrum) or backwards and not cnp.PyArray_ISWRITEABLE(image):
            raise ValueError("output array is read-only")
        if a == b and self.dtype.kind == "f":
            raise ValueError("image and spectrum must not be the same memory: their rows differ in length")
        if threads < 1:
            raise ValueError(f"threads: expected at least 1, got {threads}")

        # The scratch memory of the last call, unless another call is in it or it is too small.
        work = self.idle
        if work != NULL and self.idle_threads >= threads:
            self.idle = NULL
        else:
            work = malloc(threads * self.c.work_bytes)
            if work == NULL:
                raise MemoryError
        with nogil:
            run_items(&self.c, backwards, <char *>a, <char *>b, items, <char *>work, threads)
        free(self.idle)
        self.idle = work
        self.idle_threads = threads
        return 0

    def forward(self, image, spectrum, int threads=1):
        """``spectrum[k] = sum_j image[j] exp(-2 pi i j k / N)`` for every item; does not write ``image``.

        image : (..., *shape); spectrum : (..., *spectrum_shape), written and returned.
        """
        self.run(False, image, spectrum, threads)
        return spectrum

    def inverse(self, spectrum, image, int threads=1):
        """``image[j] = sum_k spectrum[k] exp(2 pi i j k / N)`` for every item; overwrites ``spectrum``.

        Of a half spectrum only the part counts that belongs to a real image.
        """
        self.run(True, image, spectrum, threads)
        return image
