"""Real Fourier transforms for the solvers: one object a problem, its plans and work arrays reused.

``scipy.fft`` is always there; ducc0 (``pip install bioperf[fft]``) is faster for every size tried and what
"auto" takes where it is installed.  pyFFTW is on request, on one thread: its workers and OpenMP's wait
for the same cores actively, which cost a factor of 20 where it was measured.  With each library the
result has the same bits for any number of threads: pyFFTW plans by estimate, and ducc0 is given blocks
of lines whose bits do not depend on the cut.
"""

import functools
import importlib.util
import itertools
import math

import numpy as np

from .kernels import run_tasks

__all__ = ["LIBRARIES", "RealFFT", "available_libraries", "real_fft", "set_library", "workspace"]

LIBRARIES = ("scipy", "pyfftw", "ducc0")
_default = "auto"

# Elements from which more than one thread pays (measured on two cores).
THREADED_FROM = 350**2


def available_libraries():
    """Library name -> True, or the reason why it cannot be used."""
    return {
        name: True if importlib.util.find_spec(name) else f"not installed: pip install {name}" for name in LIBRARIES
    }


def set_library(name):
    """The library that the solvers use from now on: "auto", "scipy", "pyfftw" or "ducc0".

    Raises ValueError for another name and ImportError for a library that is not installed.
    """
    global _default
    if name != "auto":
        _require(name)
    _default = name


def _require(name):
    if name not in LIBRARIES:
        raise ValueError(f"unknown FFT library {name!r}; choose from {('auto', *LIBRARIES)}")
    if not importlib.util.find_spec(name):
        raise ImportError(f"FFT library {name!r} is not installed: pip install {name}")


def real_fft(shape, dtype, *, threads=1, library=None):
    """The transform pair (a ``RealFFT``) for real arrays of one shape (1, 2 or 3 axes) and dtype (float32, float64).

    ``library`` as in ``set_library``, whose choice None stands for; the errors are the same.
    """
    library = library or _default
    if library == "auto":
        library = "ducc0" if importlib.util.find_spec("ducc0") else "scipy"
    else:
        _require(library)
    if len(shape) == 1 or library == "pyfftw" or math.prod(shape) < THREADED_FROM:
        threads = 1
    return {"scipy": _SciPy, "pyfftw": _FFTW, "ducc0": _Ducc}[library](tuple(shape), np.dtype(dtype), threads)


def workspace(shapes_and_dtypes):
    """Uninitialised arrays whose starts differ by 192 bytes modulo 4 KiB, so that fields do not alias in cache."""
    arrays = []
    for k, (shape, dtype) in enumerate(shapes_and_dtypes):
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        raw = np.empty(size + 8192, np.uint8)
        start = (192 * (k + 1) - raw.ctypes.data) % 4096
        arrays.append(raw[start : start + size].view(dtype).reshape(shape))
    return arrays


class RealFFT:
    """``forward`` and ``inverse`` between real arrays and half spectra.

    The spectra are Fourier coefficients (``norm="forward"``: the inverse has no factor) up to ``scale``:
    ``scale * forward(x)`` are the coefficients and ``inverse(scale * forward(x))`` is x.  Both may
    overwrite their input, write into ``out`` where the library can, and return the array written.
    Arrays come from ``empty`` (the plans count on its alignment).
    """

    library: str

    def __init__(self, shape, dtype, threads):
        self.shape, self.dtype, self.threads = shape, dtype, threads
        self.scale = 1 / math.prod(shape)
        self.spectrum_shape = (*shape[:-1], shape[-1] // 2 + 1)
        self.spectrum_dtype = np.result_type(dtype, np.complex64)
        self.axes = tuple(range(len(shape)))

    def empty(self, *kinds):
        """New aligned arrays, one for each of "real" and "spectrum" in ``kinds``."""
        forms = {"real": (self.shape, self.dtype), "spectrum": (self.spectrum_shape, self.spectrum_dtype)}
        return workspace([forms[kind] for kind in kinds])

    def coefficients(self, x):
        """The Fourier coefficients of x (not overwritten), in a new array."""
        real, spectrum = self.empty("real", "spectrum")
        real[...] = x
        out = self.forward(real, spectrum)
        return np.multiply(out, self.dtype.type(self.scale), out=out)

    def laplacian(self):
        """Per axis 4 sin^2(pi k / N): their outer sum is the diagonal of grad^T grad."""
        return tuple(
            (4 * np.sin(np.pi * np.arange(count) / n) ** 2).astype(self.dtype)
            for count, n in zip(self.spectrum_shape, self.shape, strict=True)
        )

    def copies(self):
        """How often each coefficient of the last axis stands in the full spectrum: 1, 2, ..., 2[, 1]."""
        copies = np.full(self.spectrum_shape[-1], 2, self.dtype)
        copies[0] = 1
        if self.shape[-1] % 2 == 0:
            copies[-1] = 1
        return copies


class _Lines(RealFFT):
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
        for axis in self.axes[:-1]:
            self._along(spectrum, axis, False)
        self._rows(self._row_inverse, spectrum, out)
        return out


class _SciPy(_Lines):
    library = "scipy"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        from scipy import fft

        self._fft = fft

    def _whole_forward(self, x, out):
        return self._fft.rfftn(x, overwrite_x=True)

    def _whole_inverse(self, spectrum, out):
        return self._fft.irfftn(spectrum, self.shape, norm="forward", overwrite_x=True)

    def _row_forward(self, x, out):
        out[...] = self._fft.rfft(x)

    def _row_inverse(self, spectrum, out):
        out[...] = self._fft.irfft(spectrum, self.shape[-1], norm="forward", overwrite_x=True)

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
        return self._fft.r2c(x, axes=self.axes, out=out)

    def _whole_inverse(self, spectrum, out):
        return self._fft.c2r(
            spectrum, axes=self.axes, lastsize=self.shape[-1], forward=False, out=out, allow_overwriting_input=True
        )

    def _row_forward(self, x, out):
        self._fft.r2c(x, axes=(self.axes[-1],), out=out)

    def _row_inverse(self, spectrum, out):
        self._fft.c2r(spectrum, axes=(self.axes[-1],), lastsize=self.shape[-1], forward=False, out=out)

    def _lines(self, spectrum, axis, forward):
        self._fft.c2c(spectrum, axes=(axis,), forward=forward, out=spectrum)


class _FFTW(RealFFT):
    library = "pyfftw"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        import pyfftw

        real, spectrum = self.empty("real", "spectrum")
        # By estimate: measured plans differ from run to run, and so would the last bits.
        flags = ("FFTW_ESTIMATE", "FFTW_DESTROY_INPUT")
        plan = functools.partial(pyfftw.FFTW, axes=self.axes, flags=flags, threads=self.threads)
        self._forward = plan(real, spectrum)
        self._inverse = plan(spectrum, real, direction="FFTW_BACKWARD")

    def forward(self, x, out):
        self._forward.update_arrays(x, out)
        self._forward.execute()
        return out

    def inverse(self, spectrum, out):
        self._inverse.update_arrays(spectrum, out)
        self._inverse.execute()
        return out
