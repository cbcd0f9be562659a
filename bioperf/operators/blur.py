"""Periodic convolution: what an unsteady or defocused camera does."""

import math

import numpy as np

from .._validation import as_images, check_scale, check_size, host_array, shown
from ..kernels import on_device, threads_for
from .device import apply

__all__ = ["Blur"]


class Blur:
    """Periodic convolution with a point spread function.

    Parameters
    ----------
    psf : array, d = 1, 2 or 3 axes
        Finite, non-negative, with a positive sum (1 keeps the brightness); any size up to the image's.
        Its centre ``(kh//2, kw//2)`` acts on the pixel itself.
    shape : tuple of int
        The image's spatial axes, as many as the psf has.

    Attributes
    ----------
    shape : tuple of int
        The spatial axes of both images, x and A x.
    gram_spectrum : ndarray, float64, shape (*shape[:-1], shape[-1]//2 + 1)
        The diagonal of A^T A in the Fourier basis, ``|H|^2`` (half spectrum of a real image).

    Raises
    ------
    TypeError, ValueError
        If the psf or the shape is none of the above; the message says which entry.
    """

    def __init__(self, psf, shape):
        psf = host_array("psf", psf)
        if psf.dtype.kind not in "fiu":
            raise TypeError(f"psf: expected a real array, got dtype {psf.dtype}")
        psf = as_images("psf", psf.astype(np.float64))
        shape = _as_shape(shape)
        if not 1 <= psf.ndim <= 3:
            raise ValueError(f"psf: expected 1, 2 or 3 axes, got shape {psf.shape}")
        if len(shape) != psf.ndim or min(shape) < 1:
            raise ValueError(f"shape: expected {psf.ndim} positive sizes for a psf of shape {psf.shape}, got {shape}")
        if any(k > n for k, n in zip(psf.shape, shape, strict=True)):
            raise ValueError(f"psf: shape {psf.shape} exceeds the image's {shape}; crop the psf or pad the image")
        if psf.min() < 0:
            raise ValueError(f"psf: {int((psf < 0).sum())} entries are negative; a point spread function is >= 0")
        if not psf.sum() > 0:
            raise ValueError("psf: sums to zero; pass a psf with at least one positive entry")
        self.psf, self.shape, self.data_shape = psf, shape, shape
        self._transfer = {}

    def __repr__(self):
        return f"Blur(psf of shape {self.psf.shape}, shape={self.shape})"

    def __getstate__(self):
        return self.__dict__ | {"_transfer": {}}

    def transfer(self, dtype=np.float64):
        """The transfer function H, half spectrum, complex64 or complex128 for a real dtype (cached)."""
        dtype = np.dtype(dtype)
        if dtype not in self._transfer:
            from scipy import fft

            kernel = np.zeros(self.shape, dtype)
            kernel[tuple(slice(k) for k in self.psf.shape)] = self.psf
            kernel = np.roll(kernel, [-(k // 2) for k in self.psf.shape], range(kernel.ndim))
            self._transfer[dtype] = fft.rfftn(kernel, workers=self._workers(), overwrite_x=True)
        return self._transfer[dtype]

    def check_data(self, name, y):
        """Blurred images (..., *shape), float32 or float64, checked and C-contiguous."""
        y = as_images(name, y, self.shape)
        check_scale(name, y, len(self.shape), gain=self.norm())
        return y

    def image_dtype(self, y):
        return y.dtype

    def data_image(self, y):
        return y

    def coefficients(self, y, fft):
        """The Fourier coefficients of one item's data, and the part of |A x - y|^2 that no image reaches."""
        return fft.coefficients(y), 0.0

    @property
    def gram_spectrum(self):
        transfer = self.transfer()
        return transfer.real**2 + transfer.imag**2

    def norm(self):
        """The operator's l2 norm, ``max |H|`` (the psf's sum, as the psf is >= 0)."""
        return float(self.psf.sum())

    def __call__(self, x):
        """Blurred images; x : (..., *shape), float32 or float64, as is the result, on the CPU or a GPU."""
        return self._convolve("x", x, conjugate=False)

    def adjoint(self, z):
        """A^T z: correlation with the psf; shapes and dtypes as in ``A(x)``."""
        return self._convolve("z", z, conjugate=True)

    def _workers(self):
        return threads_for(math.prod(self.shape) // 8)

    def _convolve(self, name, x, conjugate):
        if on_device(x):
            return apply(self, name, x, adjoint=conjugate)
        from scipy import fft

        x = as_images(name, x, self.shape)
        axes = range(-len(self.shape), 0)
        transfer = self.transfer(x.dtype)
        spectrum = fft.rfftn(x, axes=axes, workers=self._workers())
        spectrum *= transfer.conj() if conjugate else transfer
        return fft.irfftn(spectrum, self.shape, axes=axes, overwrite_x=True, workers=self._workers())


def _as_shape(shape):
    sizes = (shape,) if isinstance(shape, int | np.integer) else shape
    if not isinstance(sizes, tuple | list) or not all(isinstance(n, int | np.integer) for n in sizes):
        raise TypeError(f"shape: expected a tuple of integers, got {shown(shape)}")
    return check_size("shape", tuple(int(n) for n in sizes))
