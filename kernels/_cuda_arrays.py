"""Device arrays in the checked entry points of ``Backend``: the counterpart of its ``HostArrays``."""

import sys

import numpy as np
from numba import cuda

from ._cuda_common import SIMULATED, Launcher, dtype_of, is_device_array, is_tensor, product


def _device(a):
    return a.device if is_tensor(a) else None


def _pointer(a):
    """(address, bytes) of an array's memory."""
    size = product(a.shape) * dtype_of(a).itemsize
    if is_tensor(a):
        return a.data_ptr(), size
    interface = a.__array_interface__ if SIMULATED else a.__cuda_array_interface__
    return interface["data"][0], size


def _contiguous(a):
    if is_tensor(a):
        return a.is_contiguous()
    if isinstance(a, np.ndarray):
        return a.flags.c_contiguous
    return cuda.as_cuda_array(a, sync=False).is_c_contiguous()


class DeviceArrays:
    """Checks, copies and allocations of torch's tensors, CuPy's and Numba's device arrays, each kind for itself."""

    dtype = staticmethod(dtype_of)

    @staticmethod
    def read(name, a):
        """The array with its own type, or what the message says."""
        if not is_device_array(a):
            where = f"{a.device} tensor" if is_tensor(a) else f"{type(a).__name__} in host memory"
            raise TypeError(
                f"{name}: expected an array in device memory for the CUDA kernels, got a {where}; move it there "
                f"(torch: x.cuda(), CuPy: cupy.asarray(x), Numba: numba.cuda.to_device(x)), or use get_backend('auto')"
            )
        if is_tensor(a) and str(a.dtype) == "torch.bfloat16":
            raise TypeError(f"{name}: expected float32 or float64, or complex64 or complex128, got bfloat16")
        return a.resolve_conj().resolve_neg() if is_tensor(a) else a

    @staticmethod
    def contiguous(name, a):
        if _contiguous(a):
            return a
        if is_tensor(a):
            return a.contiguous()
        library = sys.modules.get(type(a).__module__.partition(".")[0])
        if hasattr(library, "ascontiguousarray"):
            return library.ascontiguousarray(a)
        raise ValueError(f"{name}: expected a C-contiguous device array, got strides {a.strides}")

    @staticmethod
    def largest(a):
        """0, for unknown: to ask would be to wait for the device."""
        return 0.0

    @staticmethod
    def cast(name, a, dtype):
        if dtype_of(a) == dtype:
            return a
        if is_tensor(a):
            return a.to(getattr(sys.modules["torch"], dtype.name))
        if hasattr(a, "astype"):
            return a.astype(dtype)
        raise TypeError(f"{name}: expected {dtype}, got {dtype_of(a)}")

    @staticmethod
    def empty(shape, dtype, like):
        return Launcher(like).empty(shape, dtype)

    @staticmethod
    def is_output(out, like):
        """Whether out is an array to be written beside ``like``."""
        return is_device_array(out) and _device(out) == _device(like)

    @staticmethod
    def writable(out):
        return _contiguous(out) and (not isinstance(out, np.ndarray) or out.flags.writeable)

    @staticmethod
    def overlap(a, b):
        (start, size), (other, length) = _pointer(a), _pointer(b)
        return start < other + length and other < start + size
