"""Parallel imaging: several receive coils, each with its own sensitivity."""

import numpy as np

from .._validation import as_complex_images, as_mask, check_flag, check_scale
from .fourier import from_unshifted, to_unshifted, unitary

__all__ = ["MultiCoilFourier"]


class MultiCoilFourier:
    """k-space of an image seen by C coils, y_c = P F (S_c x) (SENSE; Pruessmann et al., 1999).

    Parameters
    ----------
    mask : array of bool (or of 0 and 1), shape (*spatial)
        The sampled frequencies, the same for every coil.
    maps : ndarray, complex64 or complex128, shape (C, *spatial)
        The coils' sensitivities S_c; 0 where the object is not.
    centred : bool
        Where mask and data have the zero frequency; see ``MaskedFourier``.

    Attributes
    ----------
    shape, data_shape : tuple of int
        The axes of an image, (*spatial), and of its k-space, (C, *spatial).
    gram_spectrum : None
        A^T A is not diagonal in the Fourier basis.

    Raises
    ------
    TypeError, ValueError
        For a mask or maps that are none of the above.
    """

    gram_spectrum = None
    real = False

    def __init__(self, mask, maps, *, centred=False):
        self.mask = as_mask("mask", mask)
        self.shape = self.mask.shape
        self.maps = as_complex_images("maps", maps, self.shape)
        if self.maps.ndim != len(self.shape) + 1:
            raise ValueError(f"maps: expected shape (coils, {', '.join(map(str, self.shape))}), got {self.maps.shape}")
        if not self.maps.any():
            raise ValueError("maps: all sensitivities are 0")
        check_scale("maps", self.maps, self.maps.ndim)
        self._norm = float(np.sqrt(np.sum(self.maps.real**2 + self.maps.imag**2, axis=0, dtype=np.float64).max()))
        self.data_shape = self.maps.shape
        self.centred = check_flag("centred", centred)
        self.sampled = np.fft.ifftshift(self.mask) if centred else self.mask

    def __repr__(self):
        share = f"{self.mask.mean():.1%}"
        return (
            f"MultiCoilFourier({len(self.maps)} coils of shape {self.shape}, {share} sampled, centred={self.centred})"
        )

    def check_data(self, name, y):
        """k-space (..., C, *shape), complex64 or complex128, checked and C-contiguous, 0 where it is not sampled."""
        y = np.where(self.mask, as_complex_images(name, y, self.data_shape), 0)
        check_scale(name, y, len(self.data_shape), gain=self._norm)
        return y

    def image_dtype(self, y):
        return y.dtype

    def data_image(self, y):
        """The coil-combined zero-filled image A^T y."""
        return self.adjoint(y)

    def norm(self):
        """An upper bound of the operator's l2 norm, the largest root sum of squares of the maps."""
        return self._norm

    def __call__(self, x):
        """k-space (..., C, *shape) of images (..., *shape), real or complex."""
        x = as_complex_images("x", x, self.shape, real=True)
        images = x[(..., None, *(slice(None),) * len(self.shape))] * self.maps.astype(x.dtype, copy=False)
        return from_unshifted(unitary(images, len(self.shape)), self.sampled, self.centred)

    def adjoint(self, z):
        """A^H z = sum_c conj(S_c) F^-1 P z_c."""
        z = as_complex_images("z", z, self.data_shape)
        images = unitary(to_unshifted(z, self.sampled, self.centred), len(self.shape), inverse=True)
        images *= self.maps.conj().astype(z.dtype, copy=False)
        return images.sum(axis=-len(self.shape) - 1)
