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
        lower level's weight grows with it.
    under : float
        The under-regularised solution's weight relative to the lower level's, in (0, 1].

    Images of 2 and 3 axes only (scikit-image's limit).
    """

    # Measured on Set12 with random motion kernels (benchmarks/calibrate.py).
    FACTOR, POWER = 0.042, 0.3

    def __init__(self, strength=None, under=0.4):
        self.strength = None if strength is None else check_number("strength", strength, strict=True)
        self.under = check_number("under", under, strict=True, maximum=1.0)

    def __call__(self, A, y, index, *, xbar, tv_weight, isotropic, noise_std=None, threads=None, **context):
        from skimage.restoration import denoise_nl_means

        image = y[index]
        if image.ndim not in (2, 3):
            raise ValueError(f'target "nlm" needs images of 2 or 3 axes, got shape {image.shape}')
        rough = solve_lower(A, image, self.under * tv_weight, isotropic=isotropic, x0=xbar, tol=1e-3, threads=threads).x
        strength = self.strength
        if strength is None:
            noise = noise_std or estimate_noise(image, image.ndim)
            spread = intensity_range(image)
            strength = self.FACTOR * spread * (100 * noise / spread) ** self.POWER
        if strength <= np.finfo(image.dtype).eps * float(np.abs(image).max()):
            return rough
        smooth = denoise_nl_means(
            rough, patch_size=5, patch_distance=9, h=0.8 * strength, sigma=strength, fast_mode=True
        )
        return np.ascontiguousarray(smooth, dtype=image.dtype)
