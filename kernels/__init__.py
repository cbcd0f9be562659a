"""The hot loops of bioperf, the same names and signatures on every backend.

>>> from bioperf.kernels import get_backend
>>> kernels = get_backend()                    # the fastest that is installed
>>> p = kernels.gradient(x)                    # (..., H, W) -> (..., 2, H, W)

Arrays are C-ordered float32 or float64 (complex64 or complex128 for spectra); leading axes are a batch.  Those of the
CUDA backend are in device memory (torch's tensors, CuPy's and Numba's arrays) and so are their results.
A new backend is one module with the functions of ``_reference.py`` and one line in ``_MODULES``.
"""

import functools
import importlib
import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from . import _driver
from ._threads import available_threads, threads_for

__all__ = [
    "Backend", "available_backends", "available_threads", "get_backend", "on_device", "run_tasks", "squares_range",
    "threads_for",
]  # fmt: skip

# In the order of preference of "auto", which takes CUDA for arrays in device memory alone.
_MODULES = {"cython": "._cython", "numba": "._numba", "reference": "._reference", "cuda": "._cuda"}
_REMEDY = {
    "cython": "build the package with a C compiler (pip install . ; from a checkout: pip install -e .)",
    "numba": "pip install numba",
    "cuda": "they need an NVIDIA GPU with its driver, and pip install 'bioperf[cuda]'",
}


@functools.cache
def _load(name):
    try:
        if name == "cuda":
            _driver.require()
        return importlib.import_module(_MODULES[name], __name__)
    except ImportError as error:
        return f"{error}; {_REMEDY[name]}"


def available_backends():
    """Name -> True, or the reason (str) why the backend cannot be used here."""
    return {name: True if not isinstance(_load(name), str) else _load(name) for name in _MODULES}


@functools.cache
def _backend(name):
    module = _load(name)
    if isinstance(module, str):
        raise ImportError(f"backend {name!r} is not available: {module}")
    return Backend(module)


@functools.cache
def _auto():
    for name in _MODULES:
        if name != "cuda" and not isinstance(_load(name), str):
            return _backend(name)
    raise AssertionError("the reference backend always loads")


def get_backend(name="auto", like=None):
    """A backend by name: "cython", "numba", "reference", "cuda" or "auto" (the first of these that works).

    Parameters
    ----------
    name : str
        A backend asked for by name is used or refused, never replaced by another.
    like : array, optional
        The array to be worked on: for one in device memory "auto" is "cuda", for all others never.

    Raises
    ------
    ImportError
        If the backend is not available; the message says what to install.
    ValueError
        If there is no backend of that name.
    """
    if name == "auto":
        return _backend("cuda") if on_device(like) else _auto()
    if name not in _MODULES:
        raise ValueError(f"unknown backend {name!r}; choose from {['auto', *_MODULES]}")
    return _backend(name)


def on_device(a):
    """Whether an array lies in a GPU's memory: a CUDA tensor of torch, a CuPy array, ..."""
    # A tensor that requires a gradient raises where it is asked for the interface.
    return a is not None and (getattr(a, "is_cuda", False) or hasattr(a, "__cuda_array_interface__"))


def run_tasks(tasks):
    """Call every task, one a thread, on the kernels' own threads where they are compiled; wait for all."""
    module = _load("cython")
    if isinstance(module, str):
        futures = [_pool().submit(task) for task in tasks[1:]]
        tasks[0]()
        for future in futures:
            future.result()
    else:
        module.run_tasks(tasks)


@functools.cache
def _pool():
    return ThreadPoolExecutor(max(1, available_threads() - 1), thread_name_prefix="bioperf")


if hasattr(os, "register_at_fork"):  # a forked process has none of its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


_WANTED = {
    "f": "float32 or float64",
    "c": "complex64 or complex128",
    "fc": "float32 or float64, or complex64 or complex128",
}


class HostArrays:
    """What the checked entry points do with NumPy arrays; the CUDA backend has its own for device arrays."""

    @staticmethod
    def read(name, a):
        return np.asarray(a)

    @staticmethod
    def dtype(a):
        return a.dtype

    @staticmethod
    def contiguous(name, a):
        return np.asarray(a, a.dtype.newbyteorder("="), order="C")

    @staticmethod
    def cast(name, a, dtype):
        return np.asarray(a, dtype)

    @staticmethod
    def empty(shape, dtype, like):
        return np.empty(shape, dtype)

    @staticmethod
    def is_output(out, like):
        return isinstance(out, np.ndarray)

    @staticmethod
    def writable(out):
        return out.flags.c_contiguous and out.flags.writeable

    @staticmethod
    def overlap(a, b):
        return np.may_share_memory(a, b)

    @staticmethod
    def largest(a):
        return max(float(a.max()), -float(a.min()))


def squares_range(dtype):
    """The magnitudes whose squares the dtype's arithmetic holds: sqrt(tiny)/eps to eps sqrt(max), eps its rounding.

    Such a number m has a normal square, and so have its own rounding eps m and the sums over up to 1/eps^2 of them: the
    solvers take all three in the dtype of the data.
    """
    limits = np.finfo(dtype)
    return float(np.sqrt(limits.tiny) / limits.eps), float(limits.eps * np.sqrt(limits.max))


def _times_power(a, exponent, out=None):
    """a times 2^exponent, exactly but where it leaves the dtype's range; a itself for exponent 0."""
    if exponent == 0:
        return a
    with np.errstate(over="ignore"):
        return np.ldexp(a, exponent, out=out)


def _describe(a):
    return f"shape {tuple(a.shape)} and dtype {a.dtype}" if hasattr(a, "dtype") else type(a).__name__


def _radius(radius, shape, axes_needed):
    radius = np.array(radius, dtype=np.float64, order="C")
    if tuple(shape[: radius.ndim]) != radius.shape or len(shape) - radius.ndim < axes_needed:
        raise ValueError(f"radius: shape {radius.shape} does not match the leading axes of {tuple(shape)}")
    if not np.all(radius >= 0):
        raise ValueError("radius: must be >= 0 and not NaN")
    return radius


class Backend:
    """Checked entry points over one backend's loops; the fused updates are the module's own.

    Every method takes ``out`` (allocated if None, may be the input where the map is elementwise) and
    returns it, and ``threads`` (by size if None).  Non-contiguous input is copied.

    NumPy arrays may have any scale here.  The fused updates, and all kernels on a GPU, take squares in the dtype of
    their arrays: the solvers refuse data that are not in ``squares_range``.
    """

    def __init__(self, module):
        self.name = module.NAME
        self.module = module
        self._arrays = getattr(module, "arrays", HostArrays)
        for fused in (
            "update_field", "sum_above", "field_divergence", "update_field_divergence", "field_status",
            "lower_spectrum", "lower_kkt", "upper_spectrum", "upper_dual", "slack_update",
            "coil_images", "coil_combine", "coil_update", "coil_pull",
            "frame_forward", "frame_adjoint", "filter_bank_forward", "filter_bank_adjoint",
            "update_coefficients", "coefficient_status", "clip_coefficients",
            "update_fields", "field_divergences", "measure_coefficients", "reflect_coefficients", "ball_thresholds",
            "spectrum_step", "data_step", "coupled_multipliers",
            "update_field_batch", "update_field_divergence_batch", "field_divergence_batch", "field_status_batch",
            "field_threshold_batch", "lower_spectrum_batch", "lower_kkt_batch", "upper_spectrum_batch",
            "upper_dual_batch",
        ):  # fmt: skip
            setattr(self, fused, getattr(module, fused))

    def __repr__(self):
        return f"<bioperf backend {self.name!r}>"

    def _array(self, name, a, kinds="f"):
        """The argument as a C-contiguous array of a dtype that the loops know, copied only if it is not one."""
        a = self._arrays.read(name, a)
        dtype = self._arrays.dtype(a)
        if dtype.kind not in kinds or dtype.itemsize // (2 if dtype.kind == "c" else 1) not in (4, 8):
            raise TypeError(f"{name}: expected {_WANTED[kinds]}, got {dtype}")
        if math.prod(a.shape) == 0:
            raise ValueError(f"{name}: empty array of shape {tuple(a.shape)}")
        return self._arrays.contiguous(name, a)

    def _output(self, out, shape, like):
        dtype = self._arrays.dtype(like)
        if out is None:
            return self._arrays.empty(shape, dtype, like)
        found = self._arrays.is_output(out, like)
        if not found or tuple(out.shape) != shape or self._arrays.dtype(out) != dtype:
            raise ValueError(f"out: expected an array of shape {shape} and dtype {dtype}, got {_describe(out)}")
        if not self._arrays.writable(out):
            raise ValueError("out: expected a writable C-contiguous array")
        return out

    def gradient(self, x, *, ndim=2, out=None, threads=None):
        """Periodic forward differences along the last ``ndim`` axes.

        x : (..., *spatial), real or complex -> (..., ndim, *spatial); component k is ``x[i+1] - x[i]`` along
        spatial axis k.
        """
        x = self._array("x", x, "fc")
        _check_ndim(len(x.shape), ndim)
        out = self._output(out, (*x.shape[:-ndim], ndim, *x.shape[-ndim:]), x)
        self.module.gradient(x, ndim, out, _thread_count(threads, x))
        return out

    def gradient_adjoint(self, p, *, ndim=2, out=None, threads=None):
        """The adjoint of ``gradient`` (minus the divergence): (..., ndim, *spatial) -> (..., *spatial)."""
        p = self._array("p", p, "fc")
        _check_ndim(len(p.shape) - 1, ndim)
        if p.shape[-ndim - 1] != ndim:
            raise ValueError(f"p: axis {-ndim - 1} must hold {ndim} components, got shape {tuple(p.shape)}")
        out = self._output(out, (*p.shape[: -ndim - 1], *p.shape[-ndim:]), p)
        self.module.gradient_adjoint(p, ndim, out, _thread_count(threads, p))
        return out

    def soft_threshold(self, x, threshold, *, out=None, threads=None):
        """``sign(x) max(|x| - threshold, 0)``, threshold >= 0: the prox of the l1 norm."""
        if not threshold >= 0:
            raise ValueError(f"threshold: must be >= 0, got {threshold}")
        return self._map(self.module.soft_threshold, x, (float(threshold),), out, threads)

    def project_nonnegative(self, x, *, out=None, threads=None):
        """``max(x, 0)``."""
        return self._map(self.module.project_nonnegative, x, (), out, threads)

    def project_box(self, x, lower, upper, *, out=None, threads=None):
        """``min(max(x, lower), upper)``, lower <= upper."""
        if not lower <= upper:
            raise ValueError(f"box: needs lower <= upper, got [{lower}, {upper}]")
        return self._map(self.module.project_box, x, (float(lower), float(upper)), out, threads)

    def _map(self, function, x, arguments, out, threads):
        x = self._array("x", x)
        out = self._output(out, tuple(x.shape), x)
        function(x, *arguments, out, _thread_count(threads, x))
        return out

    def project_l2_ball(self, x, radius, *, out=None, threads=None):
        """Nearest point with l2 norm at most ``radius``; a radius of shape (B,) projects B items apart."""
        x = self._array("x", x)
        radius = _radius(radius, x.shape, 0)
        out = self._output(out, tuple(x.shape), x)
        items = _items(x.shape, radius)
        x, exponent = self._of_order_one(x)
        radius = _times_power(radius, exponent).reshape(-1)
        self.module.project_l2_ball(x.reshape(items), radius, out.reshape(items), _thread_count(threads, x))
        return _times_power(out, -exponent, out)

    def project_l1_ball(self, x, radius, *, threshold=None, out=None, threads=None):
        """Nearest point with ``sum |x| <= radius``: soft thresholding at the exact threshold, in O(n).

        A radius of shape (B, ...) projects each item of the leading axes apart.  ``threshold`` (float64,
        the radius' shape, or None) starts the search and receives the thresholds found (0: inside).
        """
        x = self._array("x", x)
        radius = _radius(radius, x.shape, 0)
        return self._project_ball(
            self.module.project_l1_ball, x, _items(x.shape, radius), radius, threshold, out, threads
        )

    def project_l21_ball(self, x, radius, *, threshold=None, out=None, threads=None):
        """Nearest field with ``sum over pixels of the l2 norm over the components <= radius``.

        x : (*radius.shape, d, *spatial), d = 1, 2 or 3; otherwise as ``project_l1_ball``.
        """
        x = self._array("x", x)
        radius = _radius(radius, x.shape, 1)
        components = x.shape[radius.ndim]
        if not 1 <= components <= 3:
            raise ValueError(f"x: axis {radius.ndim} must hold 1, 2 or 3 components, got shape {tuple(x.shape)}")
        items = _items(x.shape, radius, components)
        return self._project_ball(self.module.project_l21_ball, x, items, radius, threshold, out, threads)

    def _project_ball(self, function, x, items, radius, threshold, out, threads):
        if threshold is None:
            threshold = np.zeros(radius.shape)
        elif not isinstance(threshold, np.ndarray) or threshold.dtype != np.float64 or threshold.shape != radius.shape:
            raise ValueError(f"threshold: expected a float64 array of shape {radius.shape}, got {_describe(threshold)}")
        out = self._output(out, tuple(x.shape), x)
        x, exponent = self._of_order_one(x)
        found = _times_power(np.array(threshold), exponent).reshape(-1)
        scaled = _times_power(radius, exponent).reshape(-1)
        function(x.reshape(items), scaled, found, out.reshape(items), _thread_count(threads, x))
        threshold[...] = _times_power(found, -exponent).reshape(radius.shape)
        return _times_power(out, -exponent, out)

    def _of_order_one(self, x):
        """x times a power of two, and its exponent: 0 unless squares of x leave the range of its dtype."""
        largest = self._arrays.largest(x)
        low, high = squares_range(self._arrays.dtype(x))
        if largest == 0 or low <= largest <= high:
            return x, 0
        exponent = -math.frexp(largest)[1]
        return _times_power(x, exponent), exponent

    def rank_one_solve(self, c, diagonal, rank_one, *, out=None, threads=None):
        """w with ``(diagonal I + rank_one e e^T) w = c``, e the vector of ones (the w-update of mathematics.md 4a)."""
        if not (diagonal > 0 and rank_one >= 0):
            raise ValueError(f"rank_one_solve: needs diagonal > 0 and rank_one >= 0, got {diagonal}, {rank_one}")
        return self._map(self.module.rank_one_solve, c, (float(diagonal), float(rank_one)), out, threads)

    def spectral_divide(self, numerator, denominator, *, out=None, threads=None):
        """``numerator / denominator``: a complex spectrum by a real, positive one of the same shape."""
        numerator = self._array("numerator", numerator, "c")
        denominator = self._arrays.read("denominator", denominator)
        if self._arrays.dtype(denominator).kind not in "fiu":
            raise TypeError(f"denominator: expected a real array, got dtype {denominator.dtype}")
        if denominator.shape != numerator.shape:
            raise ValueError(f"denominator: expected shape {tuple(numerator.shape)}, got {tuple(denominator.shape)}")
        real = np.empty(0, self._arrays.dtype(numerator)).real.dtype
        denominator = self._arrays.contiguous("denominator", self._arrays.cast("denominator", denominator, real))
        out = self._output(out, tuple(numerator.shape), numerator)
        self.module.spectral_divide(numerator, denominator, out, _thread_count(threads, numerator))
        return out

    # --- wavelets ---------------------------------------------------------------------------

    def haar_forward(self, x, *, level, ndim=2, out=None, threads=None):
        """Orthonormal periodised Haar coefficients of the last ``ndim`` axes, ``level`` levels deep.

        x : (..., *spatial), real or complex, sizes divisible by ``2**level`` -> the same shape, laid out as
        ``pywt.coeffs_to_array(pywt.wavedecn(x, "haar", "periodization", level))``.  ``out`` must not be x.
        """
        return self._haar(self.module.haar_forward, "x", x, level, ndim, out, threads)

    def haar_inverse(self, c, *, level, ndim=2, out=None, threads=None):
        """The inverse, and the adjoint, of ``haar_forward`` of the same level."""
        return self._haar(self.module.haar_inverse, "c", c, level, ndim, out, threads)

    def _haar(self, function, name, x, level, ndim, out, threads):
        x = self._array(name, x, "fc")
        _check_ndim(len(x.shape), ndim)
        if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level < 63:
            raise ValueError(f"level: expected an integer >= 1, got {level!r}")
        if any(n % (1 << level) for n in x.shape[-ndim:]):
            raise ValueError(
                f"{name}: level {level} needs spatial sizes divisible by {1 << level}, got {tuple(x.shape[-ndim:])}; "
                f"crop or pad the array, or use fewer levels"
            )
        out = self._output(out, tuple(x.shape), x)
        if self._arrays.overlap(x, out):
            raise ValueError(f"out: must not overlap {name}, which is still read while out is written")
        function(x, level, ndim, out, _thread_count(threads, x))
        return out


def _check_ndim(available, ndim):
    if not isinstance(ndim, int) or ndim not in (1, 2, 3) or available < ndim:
        raise ValueError(f"ndim: expected 1, 2 or 3 spatial axes and at least that many in the array, got {ndim}")


def _items(shape, radius, *components):
    """The shape (items, *components, n) of an array of which each item has a radius."""
    return radius.size, *components, math.prod(shape[radius.ndim + len(components) :])


def _thread_count(threads, a):
    if threads is None:
        return threads_for(math.prod(a.shape))
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads: expected an integer >= 1 or None, got {threads!r}")
    return threads
