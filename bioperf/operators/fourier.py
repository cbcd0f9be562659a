"""Subsampled Fourier transforms: what a single-coil MRI scanner measures."""

import functools

import numpy as np

from .._validation import as_complex_images, as_images, as_mask, check_flag, check_scale
from ..kernels import on_device, threads_for
from .device import apply

__all__ = ["MaskedFourier"]


class MaskedFourier:
    """The unitary Fourier transform of an image, known where the mask is true: y = P F x.

    Data are whole k-space grids with zeros where nothing was measured (other values there are ignored).

    Parameters
    ----------
    mask : array of bool (or of 0 and 1), 1, 2 or 3 axes
        The sampled frequencies, at least one.
    real : bool
        Whether the images are real-valued.  Then k and -k carry the same information, and A^T A is diagonal
        with the Hermitian-symmetrised mask (M(k) + M(-k)) / 2.
    centred : bool
        Where the mask and the data have the zero frequency: False, at index 0, as ``numpy.fft`` does; True, in the
        middle (``N // 2``), and images are centred alike, F = fftshift fft ifftshift, as scanners' files do.

    Attributes
    ----------
    shape, data_shape : tuple of int
        The axes of an image and of its k-space, the mask's both.
    mask : ndarray of bool
        As given.
    gram_spectrum : ndarray, float64
        The diagonal of A^T A in the Fourier basis, zero frequency first; the half spectrum
        (*shape[:-1], shape[-1]//2 + 1) for real images.

    Raises
    ------
    TypeError, ValueError
        For a mask that is none of the above.
    """

    def __init__(self, mask, *, real=True, centred=False):
        self.mask = as_mask("mask", mask)
        self.shape = self.data_shape = self.mask.shape
        self.real, self.centred = check_flag("real", real), check_flag("centred", centred)
        self.sampled = np.fft.ifftshift(self.mask) if centred else self.mask
        self._transfer = {}

    def __repr__(self):
        share = f"{self.mask.mean():.1%}"
        return f"MaskedFourier(mask of shape {self.shape}, {share} sampled, real={self.real}, centred={self.centred})"

    def check_data(self, name, y):
        """k-space (..., *shape), complex64 or complex128, checked and C-contiguous, 0 where it is not sampled."""
        y = np.where(self.mask, as_complex_images(name, y, self.shape), 0)
        check_scale(name, y, len(self.shape))
        return y

    def image_dtype(self, y):
        return y.real.dtype if self.real else y.dtype

    def data_image(self, y):
        """The zero-filled image A^T y."""
        return self.adjoint(y)

    @property
    def gram_spectrum(self):
        if not self.real:
            return self.sampled.astype(np.float64)
        both = 0.5 * (self.sampled + mirrored(self.sampled.astype(np.float64)))
        return np.ascontiguousarray(both[..., : self.shape[-1] // 2 + 1])

    def __getstate__(self):
        return self.__dict__ | {"_transfer": {}}

    def transfer(self, dtype):
        """A multiplier H with |H|^2 = ``gram_spectrum``, complex64 or complex128 for an image dtype (cached)."""
        dtype = np.result_type(dtype, np.complex64)
        if dtype not in self._transfer:
            self._transfer[dtype] = np.sqrt(self.gram_spectrum).astype(dtype)
        return self._transfer[dtype]

    def coefficients(self, y, fft):
        """Y with |A x - y|^2 = |H X - Y|^2 + rest for every image, and the rest, which no image reaches."""
        data = to_unshifted(y, self.sampled, self.centred)
        data *= data.real.dtype.type(np.sqrt(fft.scale))
        square = _square(data)
        if self.real:
            data = 0.5 * (data + mirrored(data).conj())[..., : self.shape[-1] // 2 + 1]
            transfer = self.transfer(fft.dtype).real
            data = np.divide(data, transfer, out=np.zeros_like(data), where=transfer > 0)
        kept = float(np.sum((data.real**2 + data.imag**2) * fft.copies(), dtype=np.float64))
        return np.ascontiguousarray(data, fft.spectrum_dtype), max(0.0, square - kept) / fft.scale

    def norm(self):
        """The operator's l2 norm: 1, or sqrt(1/2) if no frequency of a real image is sampled with its mirror."""
        return float(np.sqrt(self.gram_spectrum.max()))

    def __call__(self, x):
        """k-space of images x : (..., *shape), float32 or float64 (complex too unless ``real``)."""
        if on_device(x):
            return apply(self, "x", x, adjoint=False)
        x = as_images("x", x, self.shape) if self.real else as_complex_images("x", x, self.shape, real=True)
        return from_unshifted(unitary(x, len(self.shape)), self.sampled, self.centred)

    def adjoint(self, z):
        """A^T z: the zero-filled image, real if ``real`` (the adjoint in the real inner product)."""
        if on_device(z):
            return apply(self, "z", z, adjoint=True)
        z = as_complex_images("z", z, self.shape)
        image = unitary(to_unshifted(z, self.sampled, self.centred), len(self.shape), inverse=True)
        return np.ascontiguousarray(image.real) if self.real else image


def unitary(x, ndim, inverse=False):
    """The unitary Fourier transform over the last ndim axes."""
    from scipy import fft

    transform = fft.ifftn if inverse else fft.fftn
    return transform(x, axes=range(-ndim, 0), norm="ortho", workers=threads_for(x.size // 8))


def mirrored(spectrum):
    """The spectrum at -k."""
    axes = tuple(range(spectrum.ndim))
    return np.roll(np.flip(spectrum, axes), 1, axes)


def to_unshifted(y, sampled, centred):
    """Measured k-space with the zero frequency first, of an image with its origin first; 0 where not sampled.

    The only place, with its inverse, where centred data are converted.
    """
    if centred:
        axes = range(-sampled.ndim, 0)
        return np.fft.ifftshift(y, axes) * (sampled * centring(sampled.shape).conj()).astype(y.dtype)
    return np.where(sampled, y, 0)


def from_unshifted(spectrum, sampled, centred):
    """The inverse of ``to_unshifted`` on sampled frequencies."""
    if centred:
        spectrum *= (sampled * centring(sampled.shape)).astype(spectrum.dtype)
        return np.fft.fftshift(spectrum, range(-sampled.ndim, 0))
    spectrum *= sampled
    return spectrum


@functools.lru_cache(maxsize=8)
def centring(shape):
    """exp(2 pi i k (N//2) / N): what moving the image's middle to index 0 does to its spectrum."""
    axes = [np.exp(2j * np.pi * ((np.arange(n) * (n // 2)) % n) / n) for n in shape]
    return functools.reduce(np.multiply.outer, axes)


def _square(a):
    return float(np.sum(a.real**2 + a.imag**2, dtype=np.float64))
