"""D(y) = non-local means of an under-regularised lower-level solution: the default target."""

import numpy as np

from .._validation import check_number
from ..lower import intensity_range, solve_lower
from ..noise import estimate_noise
from .base import Target


class NonLocalMeans(Target):
    """scikit-image's non-local means (patch 5, distance 9) of a lower-level solution with too small a weight.

    The lower level removes noise and, with it, texture that does not fit its model.  With 0.4 times the weight
    it keeps more of both; non-local means then averages the noise away over similar patches and keeps
    what repeats.

    Parameters
    ----------
    strength : float, optional
        Standard deviation of the noise that is averaged away, in the units of the image: the filter has
        h = 0.8 strength, sigma = strength.  None: 0.042 range (noise / 1 % of the range)^0.3 with the noise
        level given or estimated from y: deconvolution amplifies weak noise more than strong noise, as the
        lower level's weight grows with it.  For k-space 0.02 range.
    under : float
        The under-regularised solution's weight relative to the lower level's, in (0, 1].

    Images of 2 and 3 axes only (scikit-image's limit).
    """

    # Measured on Set12 with random motion kernels (benchmarks/calibrate.py).
    FACTOR, POWER = 0.042, 0.3
    # What undersampling leaves of artefacts hardly depends on the noise.
    KSPACE_FACTOR = 0.02

    concurrent = True

    def __init__(self, strength=None, under=0.4):
        self.strength = None if strength is None else check_number("strength", strength, strict=True)
        self.under = check_number("under", under, strict=True, maximum=1.0)

    def __call__(self, A, y, index, *, xbar, tv_weight, isotropic, noise_std=None, threads=None, **context):
        image = A.data_image(y[index])
        if image.ndim not in (2, 3):
            raise ValueError(f'target "nlm" needs images of 2 or 3 axes, got shape {image.shape}')
        rough = solve_lower(
            A, y[index], self.under * tv_weight, isotropic=isotropic, x0=xbar, tol=1e-3, threads=threads
        ).x
        strength = self.strength
        if strength is None:
            spread = intensity_range(image)
            if hasattr(A, "psf"):
                noise = noise_std or estimate_noise(image, image.ndim)
                strength = self.FACTOR * spread * (100 * noise / spread) ** self.POWER
            else:
                strength = self.KSPACE_FACTOR * spread
        return non_local_means(rough, strength)


def non_local_means(image, strength, patch_distance=9):
    """scikit-image's fast non-local means, patch 5, h = 0.8 strength, sigma = strength; complex images as two channels.

    Parameters
    ----------
    image : ndarray of 2 or 3 axes, real or complex
    strength : float
        In the units of the image; one that rounding drowns leaves the image as it is.
    patch_distance : int
        How far patches are looked for, in pixels.
    """
    from skimage.restoration import denoise_nl_means

    if strength <= np.finfo(image.dtype).eps * float(np.abs(image).max()):
        return image
    options = {"patch_size": 5, "patch_distance": patch_distance, "h": 0.8 * strength, "sigma": strength}
    if image.dtype.kind == "c":
        parts = np.stack([image.real, image.imag], axis=-1)
        parts = np.reshape(denoise_nl_means(parts, channel_axis=-1, fast_mode=True, **options), parts.shape)
        return (parts[..., 0] + 1j * parts[..., 1]).astype(image.dtype)
    # it drops axes of one pixel
    smooth = np.reshape(denoise_nl_means(image, fast_mode=True, **options), image.shape)
    return np.ascontiguousarray(smooth, dtype=image.dtype)
