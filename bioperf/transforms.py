"""Sparsifying transforms T with T^T T = I: orthonormal wavelets and cosines, and undecimated wavelet frames.

>>> T = UndecimatedWavelet("haar", level=3)
>>> c = T.forward(x)                    # (..., H, W) -> (..., 10, H, W)
>>> T.adjoint(c)                        # x

Each acts on the last ``ndim`` axes of float32, float64, complex64 or complex128 arrays (NaN stays NaN) and has

``forward(x, *, out=None, threads=None)``
    T x, (..., *spatial) -> (..., *coefficient_shape(spatial)), of the dtype of x.
``adjoint(c, *, out=None, threads=None)``
    T^T c.  As T^T T = I it is the left inverse, and ``inverse`` is another name for it.
``coefficient_shape(shape)`` and ``check(shape)``
    For images of that shape; a ValueError says which sizes the transform does not take and what to do.

``out``, C-contiguous, must not overlap the input.  ``threads`` is chosen by the size if None; the bits do not
depend on it.  TypeError or ValueError name the argument that is wrong.
"""

import functools
import itertools
import math

import numpy as np

from ._validation import check_count, check_threads, host_array, shown
from .kernels import get_backend, run_tasks, threads_for

__all__ = ["DCT", "UndecimatedWavelet", "Wavelet"]

HAAR = ("haar", "db1")

# The largest level that level=None stands for and the largest of all; the taps that the kernels of frames take; how
# far from orthonormal a filter may be.
DEFAULT_LEVEL, MAX_LEVEL, KERNEL_TAPS = 4, 62, (4, 6, 8)
FILTER_TOLERANCE = 1e-10


class _Transform:
    """Checks and outputs; a subclass has ``_forward(x, out, threads)`` and ``_adjoint(c, out, threads)``."""

    _bands = ()  # the axis of the bands, if there is one

    def __init__(self, ndim):
        self.ndim = check_count("ndim", ndim)
        if self.ndim > 3:
            raise ValueError(f"ndim: expected 1, 2 or 3 axes, got {ndim}")
        self._checked = set()

    def check(self, shape):
        """ValueError if the transform does not take images of that shape (a tuple of ``ndim`` sizes)."""
        if not isinstance(shape, tuple | list) or not all(isinstance(n, int | np.integer) for n in shape):
            raise TypeError(f"shape: expected a tuple of integers, got {shown(shape)}")
        if len(shape) != self.ndim or min(shape) < 1:
            raise ValueError(f"shape: {self!r} takes {self.ndim} positive sizes, got {tuple(shape)}; pass ndim")

    def coefficient_shape(self, shape):
        """Shape of the coefficients of one image; ValueError as ``check``."""
        self.check(shape)
        return (*self._bands, *shape)

    def forward(self, x, *, out=None, threads=None):
        """T x: (..., *spatial) -> (..., *coefficient_shape(spatial))."""
        x = _as_numbers("x", x, self.ndim)
        batch, shape = x.shape[: x.ndim - self.ndim], x.shape[x.ndim - self.ndim :]
        self._check_once(shape)
        out = _output(out, (*batch, *self._bands, *shape), "x", x)
        self._forward(x, out, _thread_count(threads, x.size))
        return out

    def adjoint(self, c, *, out=None, threads=None):
        """T^T c, the left inverse: (..., *coefficient_shape(spatial)) -> (..., *spatial)."""
        c = _as_numbers("c", c, self.ndim + len(self._bands))
        shape, axis = c.shape[c.ndim - self.ndim :], c.ndim - self.ndim - len(self._bands)
        self._check_once(shape)
        if c.shape[axis : c.ndim - self.ndim] != self._bands:
            raise ValueError(f"c: axis {-self.ndim - 1} must hold {self._bands[0]} bands, got shape {c.shape}")
        out = _output(out, (*c.shape[:axis], *shape), "c", c)
        self._adjoint(c, out, _thread_count(threads, out.size))
        return out

    def _check_once(self, shape):
        if shape not in self._checked:
            self.check(shape)
            self._checked.add(shape)

    def inverse(self, c, *, out=None, threads=None):
        """The image that has these coefficients: ``adjoint``, as T^T T = I."""
        return self.adjoint(c, out=out, threads=threads)


class Wavelet(_Transform):
    """Orthonormal periodised wavelet basis, T^T T = T T^T = I.

    Coefficients form one array of the image's shape, laid out as ``pywt.coeffs_to_array(pywt.wavedecn(x, name,
    "periodization", level))``: the approximation in the corner of low indices.

    Parameters
    ----------
    name : str
        "haar" runs on the compiled kernels; any other orthogonal family of PyWavelets ("db4", "sym8", "coif2", ...)
        on PyWavelets, on one thread.  Biorthogonal and continuous wavelets are refused: T^T T = I would not hold.
    level : int, optional
        Levels of decomposition.  Every spatial size must be divisible by ``2**level``: periodisation of odd sizes
        is not orthonormal.  None: for each shape the largest that its sizes permit and at which the filter is no
        longer than the approximation it filters, at most 4.
    ndim : int
        Spatial axes, 1, 2 or 3.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of the above.
    ImportError
        If PyWavelets is needed and missing.

    References
    ----------
    S. Mallat, A Wavelet Tour of Signal Processing, 3rd ed., sections 7.2 and 7.5.
    """

    def __init__(self, name="haar", level=None, *, ndim=2):
        super().__init__(ndim)
        self.name = _check_name(name)
        self.level = None if level is None else _check_level(level)
        self._taps, self._levels = 2, {}
        if name not in HAAR:
            filters = _orthogonal_filters(name)
            self._taps = len(filters[0])
            _check_orthonormal(name, *filters)

    def __repr__(self):
        return f"Wavelet({self.name!r}, level={self.level}, ndim={self.ndim})"

    def check(self, shape):
        """ValueError if a size is not divisible by ``2**level``, or permits no level where level is None."""
        super().check(shape)
        self.level_for(tuple(shape))

    def level_for(self, shape):
        """Levels used for images of that shape (a tuple); ValueError as ``check``."""
        if shape not in self._levels:
            self._levels[shape] = self._find_level(shape)
        return self._levels[shape]

    def _find_level(self, shape):
        if self.level is None:
            level = min(DEFAULT_LEVEL, *(_deepest(n, self._taps) for n in shape))
            wanted = f"even sizes of at least {2 * max(1, self._taps - 1)}"
            advice = "crop or pad to a power of two"
        else:
            level = self.level if all(n % 2**self.level == 0 for n in shape) else 0
            wanted = f"sizes divisible by {2**self.level}"
            advice = f"crop or pad to multiples of {2**self.level}" + (", take fewer levels" if self.level > 1 else "")
        if level == 0:
            raise ValueError(
                f"shape: {self!r} needs {wanted}, got {shape}; {advice}, or take UndecimatedWavelet or DCT, "
                f"which have no such condition"
            )
        return level

    def _forward(self, x, out, threads):
        level = self.level_for(x.shape[x.ndim - self.ndim :])
        if self.name in HAAR:
            get_backend().module.haar_forward(x, level, self.ndim, out, threads)
            return
        import pywt

        out[...] = x
        for step in range(level):
            corner = _corner(out, step, self.ndim)
            for key, band in pywt.dwtn(corner, self.name, "periodization", axes=range(-self.ndim, 0)).items():
                _half(corner, key)[...] = band

    def _adjoint(self, c, out, threads):
        level = self.level_for(c.shape[c.ndim - self.ndim :])
        if self.name in HAAR:
            get_backend().module.haar_inverse(c, level, self.ndim, out, threads)
            return
        import pywt

        out[...] = c
        for step in reversed(range(level)):
            corner = _corner(out, step, self.ndim)
            bands = {key: _half(corner, key) for key in map("".join, itertools.product("ad", repeat=self.ndim))}
            corner[...] = pywt.idwtn(bands, self.name, "periodization", axes=range(-self.ndim, 0))


class UndecimatedWavelet(_Transform):
    """Undecimated (a trous) periodic wavelet frame: translation-invariant and Parseval, T^T T = I (not T T^T).

    Each level filters the approximation before it by the low-pass and the high-pass filter along every axis, their
    taps 1, 2, 4, ... pixels apart and their transfer functions scaled to ``|L|^2 + |H|^2 = 1``, and keeps every pixel:
    ``B = (2**ndim - 1) level + 1`` bands of the image's size, ordered as ``pywt.swtn(trim_approx=True)``: the
    approximation, then the details of each level, last level first; in a level, high-pass along the last axis first
    (2-D: low-high, high-low, high-high).  For "haar" the filters are (a[i] + a[i + s]) / 2 and (a[i] - a[i + s]) / 2.

    Parameters
    ----------
    name : str
        "haar", and of the orthogonal families of PyWavelets the filters of up to 8 taps ("db2" to "db4", "sym2" to
        "sym4", "coif1"), run on the compiled kernels; longer filters as Fourier multipliers.
    level : int
        Levels; ``2**(level - 1)``, the largest distance between taps, must be below the largest size (level 1 is
        always possible).  Sizes may be any.
    ndim : int
        Spatial axes, 1, 2 or 3.

    Raises
    ------
    TypeError, ValueError, ImportError
        As ``Wavelet``.

    References
    ----------
    S. Mallat, A Wavelet Tour of Signal Processing, 3rd ed., section 5.2.2; G. Nason and B. Silverman, The
    stationary wavelet transform and some statistical applications, 1995.
    """

    def __init__(self, name="haar", level=3, *, ndim=2):
        super().__init__(ndim)
        self.name = _check_name(name)
        self.level = _check_level(level)
        self._bands = ((2**self.ndim - 1) * self.level + 1,)
        self._filters = self._fourier = None
        if name not in HAAR:
            low, _ = _orthogonal_filters(name)
            if len(low) in KERNEL_TAPS:
                self._filters = _parseval_pair(low)
            else:
                self._fourier = _FourierFrame(name, self.level, self.ndim)

    def __repr__(self):
        return f"UndecimatedWavelet({self.name!r}, level={self.level}, ndim={self.ndim})"

    def check(self, shape):
        """ValueError if ``2**(level - 1)`` is not below the largest size."""
        super().check(shape)
        if self.level > 1 and 2 ** (self.level - 1) >= max(shape):
            raise ValueError(
                f"shape: level {self.level} has taps {2 ** (self.level - 1)} pixels apart, got sizes {tuple(shape)}; "
                f"take level <= {max(1, math.ceil(math.log2(max(shape))))}"
            )

    def _forward(self, x, out, threads):
        if self._fourier:
            self._fourier.forward(x, out, threads)
        elif self._filters is not None:
            get_backend().filter_bank_forward(x, self._filters, self.level, self.ndim, out, threads)
        else:
            get_backend().frame_forward(x, self.level, self.ndim, out, threads)

    def _adjoint(self, c, out, threads):
        if self._fourier:
            self._fourier.adjoint(c, out, threads)
        elif self._filters is not None:
            get_backend().filter_bank_adjoint(c, self._filters, self.level, self.ndim, out, threads)
        else:
            get_backend().frame_adjoint(c, self.level, self.ndim, out, threads)


class DCT(_Transform):
    """Orthonormal discrete cosine transform of type 2 over all of the image, any size: T^T T = T T^T = I.

    ``scipy.fft.dctn(x, type=2, norm="ortho")``; complex images are transformed as two real ones.  On one thread.

    Parameters
    ----------
    ndim : int
        Spatial axes, 1, 2 or 3.
    """

    def __init__(self, *, ndim=2):
        super().__init__(ndim)

    def __repr__(self):
        return f"DCT(ndim={self.ndim})"

    def _forward(self, x, out, threads):
        from scipy import fft

        out[...] = fft.dctn(x, norm="ortho", axes=range(-self.ndim, 0))

    def _adjoint(self, c, out, threads):
        from scipy import fft

        out[...] = fft.idctn(c, norm="ortho", axes=range(-self.ndim, 0))


class _FourierFrame:
    """The undecimated transform of any orthogonal filter pair, its bands one Fourier multiplier each.

    Threads take whole bands: a library's own would cut the lines otherwise, and the last bits with them.
    """

    def __init__(self, name, level, ndim):
        self.name, self.level, self.ndim = name, level, ndim
        self.axes = tuple(range(-ndim, 0))

    def forward(self, x, out, threads):
        bands = np.moveaxis(out, -self.ndim - 1, 0)
        spectrum = self._transform(x)
        for functions, details in zip(self._functions(x), reversed(self._cut(bands)), strict=True):
            low, *high = _multipliers(functions)
            for group in _groups(list(zip(high, details, strict=True)), threads):
                run_tasks([functools.partial(self._invert, spectrum * factor, band) for factor, band in group])
            spectrum *= low
        self._invert(spectrum, bands[0])

    def adjoint(self, c, out, threads):
        bands = np.moveaxis(c, -self.ndim - 1, 0)
        spectrum = self._transform(bands[0])
        for functions, details in zip(reversed(self._functions(out)), self._cut(bands), strict=True):
            low, *high = _multipliers(functions)
            spectrum *= low.conj()
            for group in _groups(list(zip(high, details, strict=True)), threads):
                spectra = [None] * len(group)
                run_tasks([functools.partial(self._store, spectra, k, band) for k, (_, band) in enumerate(group)])
                for (factor, _), transformed in zip(group, spectra, strict=True):
                    spectrum += factor.conj() * transformed
        self._invert(spectrum, out)

    def _cut(self, bands):
        """The details of each level, last level first."""
        count = 2**self.ndim - 1
        return [bands[1 + count * k : 1 + count * (k + 1)] for k in range(self.level)]

    def _functions(self, x):
        return [
            [_transfer_functions(self.name, step, axis, x.shape[axis], x.dtype) for axis in self.axes]
            for step in range(self.level)
        ]

    def _transform(self, x):
        from scipy import fft

        return (fft.rfftn if x.dtype.kind == "f" else fft.fftn)(x, axes=self.axes)

    def _store(self, spectra, k, band):
        spectra[k] = self._transform(band)

    def _invert(self, spectrum, out):
        from scipy import fft

        transform = fft.irfftn if out.dtype.kind == "f" else fft.ifftn
        out[...] = transform(spectrum, out.shape[out.ndim - self.ndim :], axes=self.axes)


def _groups(items, size):
    return [items[k : k + size] for k in range(0, len(items), size)]


def _multipliers(functions):
    """The products of one transfer function an axis, low-pass first, the last axis changing fastest."""
    return (functools.reduce(np.multiply, choice) for choice in itertools.product(*functions))


@functools.lru_cache(maxsize=256)
def _transfer_functions(name, step, axis, n, dtype):
    """(low, high) of one level along one axis (counted from the end), scaled to |low|^2 + |high|^2 = 1.

    Correlation with the filters, their taps ``2**step`` apart, at the frequencies of n pixels: those of the half
    spectrum along the last axis of real images.
    """
    k = np.arange(n // 2 + 1 if axis == -1 and dtype.kind == "f" else n)
    filters = _orthogonal_filters(name)
    turns = np.outer(k * (2**step % n) % n, np.arange(len(filters[0]))) % n
    low, high = (np.exp(2j * np.pi / n * turns) @ taps for taps in filters)
    norm = np.sqrt(np.abs(low) ** 2 + np.abs(high) ** 2)
    spread = (-1,) + (1,) * (-1 - axis)
    return [(t / norm).astype(np.result_type(dtype, np.complex64)).reshape(spread) for t in (low, high)]


def _deepest(n, taps):
    """The largest level with n divisible by 2**level and (taps - 1) 2**level <= n."""
    level = 0
    while n % 2 ** (level + 1) == 0 and (taps - 1) * 2 ** (level + 1) <= n:
        level += 1
    return level


def _corner(a, step, ndim):
    """The approximation of that step in an array of coefficients."""
    return a[(Ellipsis, *(slice(n >> step) for n in a.shape[a.ndim - ndim :]))]


def _half(corner, key):
    """The band of a level that PyWavelets calls ``key``: "a" or "d" for each axis."""
    sizes = corner.shape[corner.ndim - len(key) :]
    halves = (slice(n // 2) if band == "a" else slice(n // 2, None) for n, band in zip(sizes, key, strict=True))
    return corner[(Ellipsis, *halves)]


def _check_name(name):
    if not isinstance(name, str):
        raise TypeError(f"name: expected the name of a wavelet, got {shown(name)}")
    return name


def _check_level(level):
    level = check_count("level", level)
    if level > MAX_LEVEL:
        raise ValueError(f"level: must be at most {MAX_LEVEL}, got {level}")
    return level


def _orthogonal_filters(name):
    """(low-pass, high-pass) reconstruction filters, float64, of an orthogonal wavelet of PyWavelets."""
    try:
        import pywt
    except ImportError as error:
        raise ImportError(f"name: {name!r} needs PyWavelets: pip install PyWavelets ('haar' does not)") from error
    kinds = [kind for kind in ("discrete", "continuous") if name in pywt.wavelist(kind=kind)]
    if kinds == ["discrete"] and pywt.Wavelet(name).orthogonal:
        wavelet = pywt.Wavelet(name)
        return np.array(wavelet.rec_lo), np.array(wavelet.rec_hi)
    found = "a biorthogonal wavelet" if kinds == ["discrete"] else "a continuous wavelet" if kinds else "unknown"
    raise ValueError(
        f"name: {name!r} is {found}; T^T T = I needs an orthogonal one: 'haar', or of the families db, sym and coif "
        f"('db4', 'sym8', 'coif2', ...; pywt.wavelist(kind='discrete'))"
    )


def _parseval_pair(low):
    """The (2, taps) filters of a frame, |L|^2 + |H|^2 = 1 to rounding: PyWavelets' tables are exact to 1e-11 only.

    Newton's method on sum_k h[k] h[k + 2m] = (m == 0), by the smallest change, from the scaling filter h; the
    high-pass filter is its quadrature mirror (-1)^k h[taps - 1 - k] (Mallat, theorem 7.3).
    """
    taps = len(low)
    for _ in range(3):
        ahead = np.stack([np.append(low[2 * m :], np.zeros(2 * m)) for m in range(taps // 2)])
        behind = np.stack([np.append(np.zeros(2 * m), low[: taps - 2 * m]) for m in range(taps // 2)])
        defect = ahead @ low
        defect[0] -= 1
        low = low - np.linalg.lstsq(ahead + behind, defect, rcond=None)[0]
    return np.stack([low, (-1.0) ** np.arange(taps) * low[::-1]]) * np.sqrt(0.5)


def _check_orthonormal(name, low, high):
    """ValueError for filters that are orthogonal only approximately ("dmey")."""
    for a, b, value in ((low, low, 1), (high, high, 1), (low, high, 0)):
        products = np.correlate(a, b, "full")[(len(a) - 1) % 2 :: 2]
        products[len(products) // 2] -= value
        error = np.abs(products).max()
        if error > FILTER_TOLERANCE:
            raise ValueError(f"name: the filters of {name!r} are orthonormal only to {error:.0e}; take another family")


def _as_numbers(name, a, ndim):
    """A C-contiguous array of native float32, float64, complex64 or complex128 of at least ndim axes."""
    a = host_array(name, a)
    if a.dtype.kind not in "fc" or a.dtype.itemsize // (2 if a.dtype.kind == "c" else 1) not in (4, 8):
        raise TypeError(
            f"{name}: expected float32, float64, complex64 or complex128, got {a.dtype}; convert it, say by astype"
        )
    if a.ndim < ndim:
        raise ValueError(f"{name}: expected at least {ndim} axes, got shape {a.shape}")
    if a.size == 0:
        raise ValueError(f"{name}: empty array of shape {a.shape}")
    return np.asarray(a, a.dtype.newbyteorder("="), order="C")


def _output(out, shape, name, source):
    if out is None:
        return np.empty(shape, source.dtype)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected an array, got {type(out).__name__}")
    if out.shape != shape or out.dtype != source.dtype:
        raise ValueError(
            f"out: expected shape {shape} and dtype {source.dtype}, got shape {out.shape} and dtype {out.dtype}"
        )
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError("out: expected a writable C-contiguous array")
    if np.may_share_memory(out, source):
        raise ValueError(f"out: must not overlap {name}")
    return out


def _thread_count(threads, elements):
    return threads_for(elements) if threads is None else check_threads(threads)
