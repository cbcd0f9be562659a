"""Fourier transforms for other compiled families: no Python and no allocation in a call.

One image a call, in the caller's arrays; ``work`` holds ``plan.work_bytes`` at any alignment, a team's that times
``threads``.  The spectrum of a real image is the half spectrum.  Both directions are sums without a factor;
``inverse`` overwrites its spectrum.  A plan (``Plan.c``) is never written after it is made: threads share it.
"""

from libc.stddef cimport ptrdiff_t


cdef extern from "fourier_plan.h" nogil:
    ctypedef struct FourierPlan:
        int axes
        size_t image_bytes, spectrum_bytes, work_bytes
        ptrdiff_t plane_units
        ptrdiff_t column_units[2]
        void *tables


cdef class Plan:
    cdef FourierPlan c
    cdef readonly tuple shape, spectrum_shape
    cdef readonly object dtype, spectrum_dtype
    cdef readonly int vector_bytes
    cdef int typenums[2]
    cdef ptrdiff_t lengths[2][3]
    cdef void *idle
    cdef int idle_threads

    cdef void *data(self, object array, int which, ptrdiff_t *items) except NULL
    cdef int run(self, bint backwards, object image, object spectrum, int threads) except -1


# On the calling thread, and by a team.
cdef void forward(const FourierPlan *plan, const void *image, void *spectrum, void *work) noexcept nogil
cdef void inverse(const FourierPlan *plan, void *spectrum, void *image, void *work) noexcept nogil
cdef void forward_team(const FourierPlan *plan, const void *image, void *spectrum, void *work, int threads) noexcept nogil
cdef void inverse_team(const FourierPlan *plan, void *spectrum, void *image, void *work, int threads) noexcept nogil
