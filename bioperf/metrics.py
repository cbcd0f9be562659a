"""Image quality and data residuals, by the protocol that the benchmarks use."""

import math

import numpy as np

from ._validation import as_images, check_number, check_ratio, check_scale, shown

__all__ = ["nre", "psnr", "rlne", "ssim"]

# Pixels along each axis: 3.5 standard deviations to both sides, as scikit-image cuts it off.
_WINDOW = 11


def _pair(x, reference):
    x, reference = as_images("x", x), as_images("reference", reference)
    if x.shape != reference.shape:
        raise ValueError(f"x: expected the reference's shape {reference.shape}, got {x.shape}")
    check_scale("x", x, x.ndim, dtype=np.float64, small=True)
    check_scale("reference", reference, reference.ndim, dtype=np.float64)
    return x.astype(np.float64), reference.astype(np.float64)


def _relative(difference, reference, name):
    size = np.linalg.norm(reference)
    if size == 0:
        raise ValueError(f"{name}: all zero, a relative error is not defined")
    return float(np.linalg.norm(difference) / size)


def psnr(x, reference, data_range=1.0):
    """Peak signal-to-noise ratio in dB of x clipped to [0, data_range].

    x, reference : float32 or float64 arrays of one shape; TypeError or ValueError otherwise.
    """
    x, reference = _pair(x, reference)
    data_range = check_number("data_range", data_range, strict=True)
    check_ratio("data_range", data_range, 1.0, np.float64, "that of the order of 1")
    error = np.mean((np.clip(x, 0, data_range) - reference) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


def ssim(x, reference, data_range=1.0):
    """Structural similarity (Wang et al., 2004: Gaussian weights, sigma 1.5) of one image of 2 or 3 axes.

    scikit-image's, with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``, of x clipped to
    [0, data_range]; x, reference : float32 or float64 arrays of one shape, TypeError or ValueError otherwise.
    """
    from skimage.metrics import structural_similarity

    data_range = check_number("data_range", data_range, strict=True)
    check_ratio("data_range", data_range, 1.0, np.float64, "that of the order of 1")
    x, reference = _pair(x, reference)
    if not 2 <= x.ndim <= 3 or min(x.shape) < _WINDOW:
        raise ValueError(f"x: the window of {_WINDOW} pixels does not fit shape {x.shape}; give a larger image")
    # a power of two, so that no bit of the result depends on it: the fourth power of the range is taken
    scale = 1.0 if 1e-60 < data_range < 1e60 else 2.0 ** -math.frexp(data_range)[1]
    x, reference, data_range = x * scale, reference * scale, data_range * scale
    return float(
        structural_similarity(
            np.clip(x, 0, data_range),
            reference,
            data_range=data_range,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def rlne(x, reference):
    """Relative l2-norm error ``|x - reference| / |reference|`` of one shape; ValueError for a zero reference."""
    x, reference = _pair(x, reference)
    return _relative(x - reference, reference, "reference")


def nre(A, x, y):
    """Normalised residual ``|A x - y| / |y|`` of an operator and its data; ValueError for y = 0 or other shapes."""
    if not callable(A):
        raise TypeError(f"A: expected an operator, a function of x, got {shown(A)}")
    residual, y = _pair(A(x), y)
    return _relative(residual - y, y, "y")
