# One item's one-field updates, for loops that run whole iterations (iterations.pyx).
from libc.stddef cimport ptrdiff_t

from ._common cimport Grid, real

cdef void update_rows(Grid *g, real *x, real *q, ptrdiff_t start, ptrdiff_t stop, double relaxation, double threshold,
                      double dual_scale, int isotropic, double trial, double *partial) noexcept nogil
cdef double field_threshold(Grid *g, real *q, double radius, int isotropic, double *sums, double *partial,
                            int threads) noexcept nogil
cdef void divergence_item(Grid *g, real *q, double threshold, int isotropic, double field_weight, double clip_weight,
                          real *out, real *work) noexcept nogil
cdef void update_divergence_item(Grid *g, real *x, real *q, double relaxation, double threshold, double new_threshold,
                                 int isotropic, real *out, real *work) noexcept nogil
