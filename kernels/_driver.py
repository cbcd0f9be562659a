"""Whether CUDA kernels can run here, found without importing Numba: its CUDA half takes 0.75 s."""

import ctypes
import importlib.util
import os
import sys


def simulated():
    """Whether Numba's simulator stands for the device."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def missing_gpu():
    """Why no GPU can be used, or None if one can."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver was found ({library})"
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver finds no GPU that can be used"
    return None


def require():
    """Raises ImportError, which says why, where the CUDA kernels cannot run."""
    if importlib.util.find_spec("numba_cuda") is None:
        raise ImportError("numba-cuda is not installed")
    reason = None if simulated() else missing_gpu()
    if reason:
        raise ImportError(reason)
