# What a batch of items needs: numbers by item, the rows' split between threads, and sums in a fixed order.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t
from libc.stdlib cimport calloc

from ._common cimport pointer, writable


cdef inline ptrdiff_t items_of(object a) except -1:
    """The length of the first axis of an array that is not empty."""
    if a.ndim < 2 or a.size == 0:
        raise ValueError(f"expected one item or more along the first axis, got shape {a.shape}")
    return a.shape[0]


cdef inline double *numbers(object a, ptrdiff_t count) except NULL:
    return <double *>pointer(a, cnp.NPY_FLOAT64, count)


cdef inline double *writable_numbers(object a, ptrdiff_t count) except NULL:
    return <double *>writable(a, cnp.NPY_FLOAT64, count)


cdef inline double *new_sums(ptrdiff_t count) except NULL:
    cdef double *sums = <double *>calloc(count, sizeof(double))
    if sums == NULL:
        raise MemoryError
    return sums


cdef inline ptrdiff_t blocks_of(ptrdiff_t items, ptrdiff_t rows, int threads) noexcept nogil:
    """The blocks of rows of an item: 1 where every thread has an item, which then stays in its core's cache."""
    return 1 if items >= threads else min(<ptrdiff_t>threads, rows)


cdef inline void add_rows(double *partial, ptrdiff_t items, ptrdiff_t rows, int count, double *sums) noexcept nogil:
    """sums (items, count) <- partial (items, rows, count) over the rows, in a fixed order whatever the thread count."""
    cdef ptrdiff_t item, row
    cdef int k
    for item in range(items):
        for k in range(count):
            sums[item * count + k] = 0
        for row in range(rows):
            for k in range(count):
                sums[item * count + k] += partial[(item * rows + row) * count + k]


cdef inline tuple totals(double *partial, ptrdiff_t rows, int count):
    cdef double sums[6]
    cdef int k
    add_rows(partial, 1, rows, count, sums)
    return tuple([sums[k] for k in range(count)])
