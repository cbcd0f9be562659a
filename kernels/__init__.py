"""The hot loops of bioperf, the same names and signatures on every backend.

>>> from bioperf.kernels import get_backend
>>> kernels = get_backend()                    # the fastest that is installed
>>> p = kernels.gradient(x)                    # (..., H, W) -> (..., 2, H, W)

Arrays are C-ordered float32 or float64 (complex64 or complex128 for spectra); leading axes are a batch.
A new backend is one module with the functions of ``_reference.py`` and one line in ``_MODULES``.
"""

import functools
import importlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ._threads import available_threads, threads_for

__all__ = ["Backend", "available_backends", "available_threads", "get_backend", "run_tasks", "threads_for"]

# In the order of preference of "auto".
_MODULES = {"cython": "._cython", "numba": "._numba", "reference": "._reference"}
_REMEDY = {
    "cython": "build the package with a C compiler (pip install . ; from a checkout: pip install -e .)",
    "numba": "pip install numba",
    "cuda": "the CUDA kernels are not part of this release",
}


@functools.cache
def _load(name):
    try:
        return importlib.import_module(_MODULES[name], __name__)
    except ImportError as error:
        return f"{error}; {_REMEDY[name]}"


def available_backends():
    """Name -> True, or the reason (str) why the backend cannot be used here."""
    state = {name: True if not isinstance(_load(name), str) else _load(name) for name in _MODULES}
    state["cuda"] = _REMEDY["cuda"]
    return state


@functools.cache
def _backend(name):
    module = _load(name)
    if isinstance(module, str):
        raise ImportError(f"backend {name!r} is not available: {module}")
    return Backend(module)


@functools.cache
def _auto():
    for name in _MODULES:
        if not isinstance(_load(name), str):
            return _backend(name)
    raise AssertionError("the reference backend always loads")


def get_backend(name="auto", like=None):
    """A backend by name: "cython", "numba", "reference" or "auto" (the first of these that works).

    Parameters
    ----------
    name : str
        A backend asked for by name is used or refused, never replaced by another.
    like : array, optional
        The array to be worked on; one in device memory asks "auto" for the CUDA kernels.

    Raises
    ------
    ImportError
        If the backend is not available; the message says what to install.
    ValueError
        If there is no backend of that name.
    """
    on_device = like is not None and hasattr(like, "__cuda_array_interface__")
    if name == "cuda" or (name == "auto" and on_device):
        raise ImportError(f"backend 'cuda' is not available: {_REMEDY['cuda']}")
    if name == "auto":
        return _auto()
    if name not in _MODULES:
        raise ValueError(f"unknown backend {name!r}; choose from {['auto', *_MODULES, 'cuda']}")
    return _backend(name)


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


_WANTED = {
    "f": "float32 or float64",
    "c": "complex64 or complex128",
    "fc": "float32 or float64, or complex64 or complex128",
}


def _array(name, a, kinds="f"):
    a = np.asarray(a)
    if a.dtype.kind not in kinds or a.dtype.itemsize // (2 if a.dtype.kind == "c" else 1) not in (4, 8):
        raise TypeError(f"{name}: expected {_WANTED[kinds]}, got {a.dtype}")
    if a.size == 0:
        raise ValueError(f"{name}: empty array of shape {a.shape}")
    return np.asarray(a, a.dtype.newbyteorder("="), order="C")


def _output(out, shape, dtype):
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out: expected an array of shape {shape} and dtype {dtype}, got {_describe(out)}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError("out: expected a writable C-contiguous array")
    return out


def _describe(a):
    return f"shape {a.shape} and dtype {a.dtype}" if isinstance(a, np.ndarray) else type(a).__name__


def _radius(radius, shape, axes_needed):
    radius = np.array(radius, dtype=np.float64, order="C")
    if shape[: radius.ndim] != radius.shape or len(shape) - radius.ndim < axes_needed:
        raise ValueError(f"radius: shape {radius.shape} does not match the leading axes of {shape}")
    if not np.all(radius >= 0):
        raise ValueError("radius: must be >= 0 and not NaN")
    return radius


class Backend:
    """Checked entry points over one backend's loops; the fused updates are the module's own.

    Every method takes ``out`` (allocated if None, may be the input where the map is elementwise) and
    returns it, and ``threads`` (by size if None).  Non-contiguous input is copied.
    """

    def __init__(self, module):
        self.name = module.NAME
        self.module = module
        for fused in (
            "update_field", "sum_above", "field_divergence", "update_field_divergence", "field_status",
            "lower_spectrum", "lower_kkt", "upper_spectrum", "upper_dual", "slack_update",
            "coil_images", "coil_combine", "coil_update", "coil_pull",
            "frame_forward", "frame_adjoint", "filter_bank_forward", "filter_bank_adjoint",
            "update_coefficients", "coefficient_status", "clip_coefficients",
            "update_fields", "field_divergences", "measure_coefficients", "reflect_coefficients", "ball_thresholds",
            "spectrum_step", "data_step", "coupled_multipliers",
        ):  # fmt: skip
            setattr(self, fused, getattr(module, fused))

    def __repr__(self):
        return f"<bioperf backend {self.name!r}>"

    def gradient(self, x, *, ndim=2, out=None, threads=None):
        """Periodic forward differences along the last ``ndim`` axes.

        x : (..., *spatial), real or complex -> (..., ndim, *spatial); component k is ``x[i+1] - x[i]`` along
        spatial axis k.
        """
        x = _array("x", x, "fc")
        _check_ndim(x.ndim, ndim)
        out = _output(out, (*x.shape[:-ndim], ndim, *x.shape[-ndim:]), x.dtype)
        self.module.gradient(x, ndim, out, _thread_count(threads, x.size))
        return out

    def gradient_adjoint(self, p, *, ndim=2, out=None, threads=None):
        """The adjoint of ``gradient`` (minus the divergence): (..., ndim, *spatial) -> (..., *spatial)."""
        p = _array("p", p, "fc")
        _check_ndim(p.ndim - 1, ndim)
        if p.shape[-ndim - 1] != ndim:
            raise ValueError(f"p: axis {-ndim - 1} must hold {ndim} components, got shape {p.shape}")
        out = _output(out, (*p.shape[: -ndim - 1], *p.shape[-ndim:]), p.dtype)
        self.module.gradient_adjoint(p, ndim, out, _thread_count(threads, p.size))
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
        x = _array("x", x)
        out = _output(out, x.shape, x.dtype)
        function(x, *arguments, out, _thread_count(threads, x.size))
        return out

    def project_l2_ball(self, x, radius, *, out=None, threads=None):
        """Nearest point with l2 norm at most ``radius``; a radius of shape (B,) projects B items apart."""
        x = _array("x", x)
        radius = _radius(radius, x.shape, 0)
        out = _output(out, x.shape, x.dtype)
        items = (radius.size, -1)
        self.module.project_l2_ball(
            x.reshape(items), radius.reshape(-1), out.reshape(items), _thread_count(threads, x.size)
        )
        return out

    def project_l1_ball(self, x, radius, *, threshold=None, out=None, threads=None):
        """Nearest point with ``sum |x| <= radius``: soft thresholding at the exact threshold, in O(n).

        A radius of shape (B, ...) projects each item of the leading axes apart.  ``threshold`` (float64,
        the radius' shape, or None) starts the search and receives the thresholds found (0: inside).
        """
        x = _array("x", x)
        radius = _radius(radius, x.shape, 0)
        return self._project_ball(self.module.project_l1_ball, x, (radius.size, -1), radius, threshold, out, threads)

    def project_l21_ball(self, x, radius, *, threshold=None, out=None, threads=None):
        """Nearest field with ``sum over pixels of the l2 norm over the components <= radius``.

        x : (*radius.shape, d, *spatial), d = 1, 2 or 3; otherwise as ``project_l1_ball``.
        """
        x = _array("x", x)
        radius = _radius(radius, x.shape, 1)
        components = x.shape[radius.ndim]
        if not 1 <= components <= 3:
            raise ValueError(f"x: axis {radius.ndim} must hold 1, 2 or 3 components, got shape {x.shape}")
        items = (radius.size, components, -1)
        return self._project_ball(self.module.project_l21_ball, x, items, radius, threshold, out, threads)

    def _project_ball(self, function, x, items, radius, threshold, out, threads):
        if threshold is None:
            threshold = np.zeros(radius.shape)
        elif not isinstance(threshold, np.ndarray) or threshold.dtype != np.float64 or threshold.shape != radius.shape:
            raise ValueError(f"threshold: expected a float64 array of shape {radius.shape}, got {_describe(threshold)}")
        out = _output(out, x.shape, x.dtype)
        found = np.array(threshold).reshape(-1)
        function(x.reshape(items), radius.reshape(-1), found, out.reshape(items), _thread_count(threads, x.size))
        threshold[...] = found.reshape(radius.shape)
        return out

    def rank_one_solve(self, c, diagonal, rank_one, *, out=None, threads=None):
        """w with ``(diagonal I + rank_one e e^T) w = c``, e the vector of ones (the w-update of mathematics.md 4a)."""
        if not (diagonal > 0 and rank_one >= 0):
            raise ValueError(f"rank_one_solve: needs diagonal > 0 and rank_one >= 0, got {diagonal}, {rank_one}")
        return self._map(self.module.rank_one_solve, c, (float(diagonal), float(rank_one)), out, threads)

    def spectral_divide(self, numerator, denominator, *, out=None, threads=None):
        """``numerator / denominator``: a complex spectrum by a real, positive one of the same shape."""
        numerator = _array("numerator", numerator, "c")
        denominator = np.asarray(denominator)
        if denominator.dtype.kind not in "fiu":
            raise TypeError(f"denominator: expected a real array, got dtype {denominator.dtype}")
        denominator = np.ascontiguousarray(denominator, dtype=numerator.real.dtype)
        if denominator.shape != numerator.shape:
            raise ValueError(f"denominator: expected shape {numerator.shape}, got {denominator.shape}")
        out = _output(out, numerator.shape, numerator.dtype)
        self.module.spectral_divide(numerator, denominator, out, _thread_count(threads, numerator.size))
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
        x = _array(name, x, "fc")
        _check_ndim(x.ndim, ndim)
        if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level < 63:
            raise ValueError(f"level: expected an integer >= 1, got {level!r}")
        if any(n % (1 << level) for n in x.shape[x.ndim - ndim :]):
            raise ValueError(
                f"{name}: level {level} needs spatial sizes divisible by {1 << level}, got {x.shape[x.ndim - ndim :]}; "
                f"crop or pad the array, or use fewer levels"
            )
        out = _output(out, x.shape, x.dtype)
        if np.may_share_memory(x, out):
            raise ValueError(f"out: must not overlap {name}, which is still read while out is written")
        function(x, level, ndim, out, _thread_count(threads, x.size))
        return out


def _check_ndim(available, ndim):
    if not isinstance(ndim, int) or ndim not in (1, 2, 3) or available < ndim:
        raise ValueError(f"ndim: expected 1, 2 or 3 spatial axes and at least that many in the array, got {ndim}")


def _thread_count(threads, elements):
    if threads is None:
        return threads_for(elements)
    if not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads: expected an integer >= 1 or None, got {threads!r}")
    return threads
