"""Fourier transforms for the solvers: one object a problem, its plans and work arrays reused.

Images of two or three axes whose lengths have no prime factor above 7 are transformed by the compiled kernels
("bioperf"): 2 to 3 times faster than ducc0 in float32 and up to 2 times in float64 where it was measured
(``benchmarks/roofline.py``), and compiled iterations can call them.  Others are ducc0's (``pip install bioperf[fft]``)
or, where it is not installed, ``scipy.fft``'s.  pyFFTW is on request, on one thread:
its workers and OpenMP's wait for the same cores actively, which cost a factor of 20 where it was measured.
With each library the result has the same bits for any number of threads: the kernels and ducc0 work on blocks of
lines whose bits do not depend on the cut, and pyFFTW plans by estimate.
"""

import functools
import importlib.util
import itertools
import math
import threading

import numpy as np

from .kernels import run_tasks

__all__ = ["FFT", "LIBRARIES", "available_libraries", "plan_fft", "set_library", "workspace"]

LIBRARIES = ("bioperf", "scipy", "pyfftw", "ducc0")
_default = "auto"

# Elements from which more than one thread pays (measured on two cores).
THREADED_FROM = 350**2

# The kernels transform 4 to 16 lines at once: with fewer rows or columns than this, ducc0 was faster.
_FEWEST_LINES = 8

_MODULES = {name: f"{__package__}.kernels.fourier" if name == "bioperf" else name for name in LIBRARIES}
_REMEDY = {
    name: "not compiled: build the package with GCC or Clang (pip install . ; from a checkout: pip install -e .)"
    if name == "bioperf"
    else f"not installed: pip install {name}"
    for name in LIBRARIES
}


def _installed(name):
    return importlib.util.find_spec(_MODULES[name]) is not None


def available_libraries():
    """Library name -> True, or the reason why it cannot be used."""
    return {name: True if _installed(name) else _REMEDY[name] for name in LIBRARIES}


def set_library(name):
    """The library that the solvers use from now on: "auto", "bioperf", "scipy", "pyfftw" or "ducc0".

    Raises ValueError for another name and ImportError for a library that is not installed.  "bioperf" refuses
    lengths with a prime factor above 7 (ValueError, from ``plan_fft``); "auto" takes another library for them.
    """
    global _default
    if name != "auto":
        _require(name)
    _default = name


def _require(name):
    if name not in LIBRARIES:
        raise ValueError(f"unknown FFT library {name!r}; choose from {('auto', *LIBRARIES)}")
    if not _installed(name):
        raise ImportError(f"FFT library {name!r} is {_REMEDY[name]}")


def _fastest(shape):
    if _installed("bioperf") and min(shape[-1], math.prod(shape[:-1])) >= _FEWEST_LINES:
        from .kernels import fourier

        if fourier.obstacle(shape) is None:
            return "bioperf"
    return "ducc0" if _installed("ducc0") else "scipy"


def plan_fft(shape, dtype, *, threads=1, library=None):
    """The transform pair (an ``FFT``) for images of one shape (1, 2 or 3 axes) and dtype.

    float32 and float64 images have half spectra, complex64 and complex128 images whole ones.  ``library`` as
    in ``set_library``, whose choice None stands for; the errors are the same.
    """
    shape, library = tuple(shape), library or _default
    if library == "auto":
        library = _fastest(shape)
    else:
        _require(library)
    if len(shape) == 1 or library == "pyfftw" or math.prod(shape) < THREADED_FROM:
        threads = 1
    transform = {"bioperf": _Compiled, "scipy": _SciPy, "pyfftw": _FFTW, "ducc0": _Ducc}[library]
    return transform(shape, np.dtype(dtype), threads)


_stagger = itertools.cycle(range(1, 21))


def workspace(shapes_and_dtypes):
    """Uninitialised arrays whose starts differ by 192 bytes modulo 4 KiB, so that fields do not alias in cache."""
    arrays = []
    for shape, dtype in shapes_and_dtypes:
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        raw = np.empty(size + 8192, np.uint8)
        start = (192 * next(_stagger) - raw.ctypes.data) % 4096
        arrays.append(raw[start : start + size].view(dtype).reshape(shape))
    return arrays


def spectrum_copies(length, dtype):
    """How often each coefficient of the last axis stands in the full spectrum; 1, 2, ..., 2[, 1] for real images."""
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        return np.ones(length, np.empty(0, dtype).real.dtype)
    copies = np.full(length // 2 + 1, 2, dtype)
    copies[0] = 1
    if length % 2 == 0:
        copies[-1] = 1
    return copies


class FFT:
    """``forward`` and ``inverse`` between images and their spectra (half spectra for real images).

    The spectra are Fourier coefficients (``norm="forward"``: the inverse has no factor) up to ``scale``:
    ``scale * forward(x)`` are the coefficients and ``inverse(scale * forward(x))`` is x.  Both may
    overwrite their input, write into ``out`` where the library can, and return the array written.
    Arrays come from ``empty`` (the plans count on its alignment).
    """

    library: str

    def __init__(self, shape, dtype, threads):
        self.shape, self.dtype, self.threads = shape, dtype, threads
        self.real = dtype.kind == "f"
        self.scale = 1 / math.prod(shape)
        self.spectrum_shape = (*shape[:-1], shape[-1] // 2 + 1) if self.real else shape
        self.spectrum_dtype = np.result_type(dtype, np.complex64)
        self.real_dtype = np.empty(0, dtype).real.dtype
        self.axes = tuple(range(len(shape)))
        # The bits depend on the order of the axes: forward the last one first; inverse too for complex images.
        self.order = self.axes if self.real else (self.axes[-1], *self.axes[:-1])

    def empty(self, *kinds):
        """New aligned arrays, one for each of "image" and "spectrum" in ``kinds``."""
        forms = {"image": (self.shape, self.dtype), "spectrum": (self.spectrum_shape, self.spectrum_dtype)}
        return workspace([forms[kind] for kind in kinds])

    def coefficients(self, x):
        """The Fourier coefficients of x (not overwritten), in a new array."""
        image, spectrum = self.empty("image", "spectrum")
        image[...] = x
        out = self.forward(image, spectrum)
        return np.multiply(out, self.real_dtype.type(self.scale), out=out)

    def laplacian(self):
        """Per axis 4 sin^2(pi k / N): their outer sum is the diagonal of grad^T grad."""
        return tuple(
            (4 * np.sin(np.pi * np.arange(count) / n) ** 2).astype(self.real_dtype)
            for count, n in zip(self.spectrum_shape, self.shape, strict=True)
        )

    def copies(self):
        """``spectrum_copies`` of the last axis."""
        return spectrum_copies(self.shape[-1], self.dtype)


class _Compiled(FFT):
    library = "bioperf"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        from .kernels import fourier

        reason = fourier.obstacle(self.shape)
        if reason is not None:
            raise ValueError(f"FFT library 'bioperf': {reason}; choose 'auto', or crop or pad the image")
        self.plan = fourier.Plan(self.shape, self.dtype)

    def forward(self, x, out):
        return self.plan.forward(x, out, self.threads)

    def inverse(self, spectrum, out):
        return self.plan.inverse(spectrum, out, self.threads)


class _Lines(FFT):
    """A transform put together from transforms of blocks of lines, one block a thread."""

    _BLOCK = 64  # a multiple of every SIMD width in lines, so that no line's bits depend on the cut

    def _cut(self, length):
        """Slices of whole blocks, one a thread."""
        blocks = -(-length // self._BLOCK)
        inner = [blocks * k // self.threads * self._BLOCK for k in range(1, self.threads)]
        cuts = [0, *(min(length, cut) for cut in inner), length]
        return [slice(start, stop) for start, stop in itertools.pairwise(cuts) if start < stop]

    def _rows(self, function, source, target):
        rows = self._cut(len(source))
        run_tasks([functools.partial(function, source[cut], target[cut]) for cut in rows])

    def _along(self, spectrum, axis, forward):
        cuts = self._cut(spectrum.shape[1 if axis == 0 else 0])
        parts = [spectrum[:, cut] if axis == 0 else spectrum[cut] for cut in cuts]
        run_tasks([functools.partial(self._lines, part, axis, forward) for part in parts])

    def forward(self, x, out):
        if self.threads == 1:
            return self._whole_forward(x, out)
        self._rows(self._row_forward, x, out)
        for axis in self.axes[:-1]:
            self._along(out, axis, True)
        return out

    def inverse(self, spectrum, out):
        if self.threads == 1:
            return self._whole_inverse(spectrum, out)
        if not self.real:
            self._rows(self._row_inverse, spectrum, out)
            spectrum = out
        for axis in self.axes[:-1]:
            self._along(spectrum, axis, False)
        if self.real:
            self._rows(self._row_inverse, spectrum, out)
        return out


class _SciPy(_Lines):
    library = "scipy"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        from scipy import fft

        self._fft = fft

    def _whole_forward(self, x, out):
        forward = self._fft.rfftn if self.real else self._fft.fftn
        return forward(x, axes=self.order, overwrite_x=True)

    def _whole_inverse(self, spectrum, out):
        inverse = self._fft.irfftn if self.real else self._fft.ifftn
        shape = [self.shape[axis] for axis in self.order]
        return inverse(spectrum, shape, axes=self.order, norm="forward", overwrite_x=True)

    def _row_forward(self, x, out):
        out[...] = (self._fft.rfft if self.real else self._fft.fft)(x)

    def _row_inverse(self, spectrum, out):
        inverse = self._fft.irfft if self.real else self._fft.ifft
        out[...] = inverse(spectrum, self.shape[-1], norm="forward", overwrite_x=True)

    def _lines(self, spectrum, axis, forward):
        if forward:
            spectrum[...] = self._fft.fft(spectrum, axis=axis)
        else:
            spectrum[...] = self._fft.ifft(spectrum, axis=axis, norm="forward")


class _Ducc(_Lines):
    library = "ducc0"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        import ducc0

        self._fft = ducc0.fft

    def _whole_forward(self, x, out):
        return self._forward(x, self.order, out)

    def _whole_inverse(self, spectrum, out):
        return self._inverse(spectrum, self.order, out)

    def _row_forward(self, x, out):
        self._forward(x, self.axes[-1:], out)

    def _row_inverse(self, spectrum, out):
        self._inverse(spectrum, self.axes[-1:], out)

    def _forward(self, x, axes, out):
        return (self._fft.r2c if self.real else self._fft.c2c)(x, axes=axes, out=out)

    def _inverse(self, spectrum, axes, out):
        if not self.real:
            return self._fft.c2c(spectrum, axes=axes, forward=False, out=out)
        return self._fft.c2r(
            spectrum, axes=axes, lastsize=self.shape[-1], forward=False, out=out, allow_overwriting_input=True
        )

    def _lines(self, spectrum, axis, forward):
        self._fft.c2c(spectrum, axes=(axis,), forward=forward, out=spectrum)


class _FFTW(FFT):
    library = "pyfftw"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        import pyfftw

        image, spectrum = self.empty("image", "spectrum")
        # By estimate: measured plans differ from run to run, and so would the last bits.
        flags = ("FFTW_ESTIMATE", "FFTW_DESTROY_INPUT")
        plan = functools.partial(pyfftw.FFTW, axes=self.axes, flags=flags, threads=self.threads)
        self._forward = plan(image, spectrum)
        self._inverse = plan(spectrum, image, direction="FFTW_BACKWARD")
        # A plan holds the arrays it works on: one call at a time.
        self._lock = threading.Lock()

    def forward(self, x, out):
        return self._run(self._forward, x, out)

    def inverse(self, spectrum, out):
        return self._run(self._inverse, spectrum, out)

    def _run(self, plan, source, target):
        with self._lock:
            plan.update_arrays(source, target)
            plan.execute()
        return target
