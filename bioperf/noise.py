"""The noise level of an observed image, from the image alone."""

import numpy as np

from ._validation import as_images

__all__ = ["estimate_noise"]


def estimate_noise(y, ndim=2):
    """Standard deviation of white Gaussian noise in one image (or the mean over leading axes).

    The median absolute deviation of the finest diagonal Haar coefficients over 0.6745 (Donoho and
    Johnstone, 1994): blur leaves hardly any image content there.

    Parameters
    ----------
    y : ndarray, shape (..., *spatial), float32 or float64
    ndim : int
        Number of spatial axes, each of at least 2 pixels.

    Returns
    -------
    float, in the units of y.

    Raises
    ------
    TypeError, ValueError
        If y is not finite float images with at least 2 pixels along each spatial axis.
    """
    y = as_images("y", y, ndim=ndim)
    detail = y.astype(np.float64, copy=False)
    for axis in range(-ndim, 0):
        if detail.shape[axis] < 2:
            raise ValueError(f"y: needs at least 2 pixels along each spatial axis, got shape {y.shape}")
        n = detail.shape[axis] // 2 * 2
        even, odd = (np.take(detail, range(start, n, 2), axis) for start in (0, 1))
        detail = (odd - even) / np.sqrt(2)
    return float(np.median(np.abs(detail)) / 0.6744897501960817)
