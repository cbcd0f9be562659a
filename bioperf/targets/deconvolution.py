"""D(y) = argmin |A x - y|^2 + alpha |x - y|^2: deconvolution held to the observation."""

import numpy as np

from .._validation import check_number
from ..lower import intensity_range
from ..noise import estimate_noise
from .base import Target


class Deconvolution(Target):
    """Regularised deconvolution, ``X = (conj(H) + alpha) Y / (|H|^2 + alpha)`` in the Fourier domain.

    Parameters
    ----------
    alpha : float, optional
        Weight of staying at y, > 0 (the paper's: 1e-4).  None: one in proportion to the noise estimated
        from y, 1e-2 at a noise level of 1 % of the range.
    """

    concurrent = True

    def __init__(self, alpha=None):
        self.alpha = None if alpha is None else check_number("alpha", alpha, strict=True)

    def __call__(self, A, y, index, *, noise_std=None, **context):
        if not hasattr(A, "psf"):
            raise ValueError('target "deconv" is for a blur; pass "nlm" or "identity" for k-space')
        from scipy import fft

        image = y[index]
        alpha = self.alpha
        if alpha is None:
            alpha = max((noise_std or estimate_noise(image, image.ndim)) / intensity_range(image), 1e-6)
        transfer = A.transfer(image.dtype)
        spectrum = fft.rfftn(image)
        spectrum *= (transfer.conj() + image.dtype.type(alpha)) / (
            transfer.real**2 + transfer.imag**2 + image.dtype.type(alpha)
        )
        return np.ascontiguousarray(fft.irfftn(spectrum, image.shape))
