"""Images to compare a reconstruction with."""

import math
from dataclasses import dataclass

import numpy as np

from ..io import InputError, image_format, npy
from ..io.reconstruction import central

__all__ = ["Reference", "find_reference", "read_reference"]

# The window of the structural similarity.
_SSIM_SIDE = 11


@dataclass
class Reference:
    """Magnitudes to compare with, shape (images, h, w), and where they came from."""

    images: np.ndarray
    source: str

    def __post_init__(self):
        self.peak = float(self.images.max())

    def of(self, x):
        """The magnitudes of images, the central part that has a reference: (images, h, w)."""
        magnitude = np.abs(central(x, self.images.shape[-2:])).reshape(self.images.shape)
        return magnitude.astype(self.images.dtype, copy=False)

    def quality(self, x, index=...):
        """PSNR in dB and, of images that hold its window, the mean SSIM (else nan); RLNE."""
        from ..metrics import psnr, rlne, ssim

        ours, theirs = (stack[index].reshape(-1, *stack.shape[-2:]) for stack in (self.of(x), self.images))
        similarity = math.nan
        if min(theirs.shape[-2:]) >= _SSIM_SIDE:
            similarity = float(np.mean([ssim(a, b, self.peak) for a, b in zip(ours, theirs, strict=True)]))
        return psnr(ours, theirs, self.peak), similarity, rlne(ours, theirs)


def find_reference(path, stored, shape, max_values):
    """The Reference in a file, or the one stored with k-space, for images of that shape.

    Returns
    -------
    Reference or None
    str or None
        Why the stored one cannot be used.

    Raises
    ------
    InputError
        For a file that cannot be used.
    """
    if path is not None:
        return _as_reference(path, read_reference(path, max_values), shape), None
    if stored is None:
        return None, None
    try:
        return _as_reference("the file's own", np.asarray(stored), shape), None
    except InputError as error:
        return None, str(error)


def read_reference(path, max_values):
    """The array of an NPY file.  Raises InputError."""

    def check_size(shape):
        if math.prod(shape) > max_values:
            raise InputError(f"{path}: {math.prod(shape)} values exceed the limit of {max_values}; raise --max-values")

    if image_format(path) != "npy":
        raise InputError(f"{path}: the reference is read as NPY; save it with numpy.save as .npy")
    try:
        return npy.decode(path, check_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


def _as_reference(source, image, shape):
    if image.dtype.kind not in "fc" or image.real.dtype.itemsize not in (4, 8):
        raise InputError(f"{source}: values of type {image.dtype}; save floats in the units of the reconstruction")
    count, fits = math.prod(shape[:-2]), image.ndim >= 2 and image.size
    if not fits or math.prod(image.shape[:-2]) != count or any(np.subtract(shape[-2:], image.shape[-2:]) < 0):
        raise InputError(f"{source}: shape {image.shape} is no reference for images of shape {shape}; give one that is")
    magnitude = np.abs(image).reshape(count, *image.shape[-2:])
    if not np.isfinite(magnitude).all() or not magnitude.any():
        raise InputError(f"{source}: is zero, or has NaN or infinite values; give another reference")
    return Reference(magnitude, str(source))
