# What every compiled family needs: pointers to checked arrays, and the row loops.
cimport numpy as cnp
from libc.stddef cimport ptrdiff_t

ctypedef fused real:
    float
    double


cdef extern from "rows.h" nogil:
    ctypedef struct Grid:
        int d, parts
        ptrdiff_t n0, n1, n2
    ptrdiff_t plane_size(Grid *)
    ptrdiff_t image_size(Grid *)


cdef inline cnp.ndarray checked(object a, int typenum, Py_ssize_t size):
    """The array itself; kernels trust shapes but never read a wrong dtype, layout or size."""
    cdef cnp.ndarray array
    if not isinstance(a, cnp.ndarray):
        raise TypeError(f"expected a numpy array, got {type(a).__name__}")
    array = a
    if cnp.PyArray_TYPE(array) != typenum or not cnp.PyArray_IS_C_CONTIGUOUS(array):
        raise ValueError(f"expected a C-contiguous array of the kernel's dtype, got {array.dtype} with strides {a.strides}")
    if cnp.PyArray_SIZE(array) != size:
        raise ValueError(f"expected {size} elements, got shape {a.shape}")
    return array


cdef inline void *pointer(object a, int typenum, Py_ssize_t size) except NULL:
    return cnp.PyArray_DATA(checked(a, typenum, size))


cdef inline void *writable(object a, int typenum, Py_ssize_t size) except NULL:
    cdef cnp.ndarray array = checked(a, typenum, size)
    if not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError("output array is read-only")
    return cnp.PyArray_DATA(array)


cdef inline int real_type(object a) except -1:
    """NPY_FLOAT32 or NPY_FLOAT64."""
    cdef int typenum
    if not isinstance(a, cnp.ndarray):
        raise TypeError(f"expected a numpy array, got {type(a).__name__}")
    typenum = cnp.PyArray_TYPE(<cnp.ndarray>a)
    if typenum == cnp.NPY_FLOAT32 or typenum == cnp.NPY_FLOAT64:
        return typenum
    raise TypeError(f"expected float32 or float64, got {a.dtype}")


cdef inline int number_type(object a) except -1:
    """The type number of a real or complex array of either precision."""
    cdef int typenum
    if not isinstance(a, cnp.ndarray):
        raise TypeError(f"expected a numpy array, got {type(a).__name__}")
    typenum = cnp.PyArray_TYPE(<cnp.ndarray>a)
    if typenum in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64, cnp.NPY_COMPLEX64, cnp.NPY_COMPLEX128):
        return typenum
    raise TypeError(f"expected float32, float64, complex64 or complex128, got {a.dtype}")


cdef inline int complex_type(object a) except -1:
    """NPY_COMPLEX64 or NPY_COMPLEX128."""
    cdef int typenum = number_type(a)
    if typenum == cnp.NPY_COMPLEX64 or typenum == cnp.NPY_COMPLEX128:
        return typenum
    raise TypeError(f"expected complex64 or complex128, got {a.dtype}")


cdef inline bint is_single(int typenum) noexcept nogil:
    """Whether the numbers, or their real and imaginary parts, are float32."""
    return typenum == cnp.NPY_FLOAT32 or typenum == cnp.NPY_COMPLEX64


cdef inline Grid grid_of(object x, int d) except *:
    """The spatial grid of the last d axes of x; the batch axes are left out."""
    cdef Grid g
    cdef cnp.ndarray a = x
    cdef int n = cnp.PyArray_NDIM(a)
    if d < 1 or d > 3 or n < d:
        raise ValueError(f"expected 1, 2 or 3 spatial axes, got {d} of shape {x.shape}")
    g.d = d
    g.parts = 2 if cnp.PyArray_ISCOMPLEX(a) else 1
    g.n2 = cnp.PyArray_DIM(a, n - 1)
    g.n1 = cnp.PyArray_DIM(a, n - 2) if d == 3 else 1
    g.n0 = cnp.PyArray_DIM(a, n - d) if d > 1 else 1
    return g
