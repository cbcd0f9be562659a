# One item's updates in the Fourier domain, for loops that run whole iterations (iterations.pyx).
from libc.stddef cimport ptrdiff_t

from ._common cimport real

cdef struct Spectrum:
    ptrdiff_t rows, n1, n2
    int d

# What the upper level's spectra share: numbers of the iteration, and one of each item.
cdef struct Upper:
    double eta, proximal, relaxation
    double *shifts
    double *field_penalties
    double *data_penalties
    double *shrinks

cdef Spectrum spectrum_of(object a, int first) except *
cdef void laplacian_pointers(tuple laplacian, int t, Spectrum *s, void **axes) except *
cdef void lower_rows(Spectrum *s, real *r, real *A, real *Y, void **axes, double penalty, double shift, real *copies,
                     ptrdiff_t start, ptrdiff_t stop, double *partial) noexcept nogil
cdef void upper_rows(Spectrum *s, real *r, real *previous, real *D, real *A, real *Y, real *residual, void **axes,
                     Upper *u, ptrdiff_t item, real *copies, ptrdiff_t start, ptrdiff_t stop, double *partial) noexcept nogil
