"""Image quality and data residuals, by the protocol that the benchmarks use."""

import numpy as np

from ._validation import as_images, check_number

__all__ = ["nre", "psnr", "rlne", "ssim"]


def _pair(x, reference):
    x, reference = as_images("x", x), as_images("reference", reference)
    if x.shape != reference.shape:
        raise ValueError(f"x: expected the reference's shape {reference.shape}, got {x.shape}")
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
    error = np.mean((np.clip(x, 0, data_range) - reference) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


def ssim(x, reference, data_range=1.0):
    """Structural similarity (Wang et al., 2004: Gaussian weights, sigma 1.5) of one image of 2 or 3 axes.

    scikit-image's, with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``, of x clipped to
    [0, data_range]; x, reference : float32 or float64 arrays of one shape, TypeError or ValueError otherwise.
    """
    from skimage.metrics import structural_similarity

    data_range = check_number("data_range", data_range, strict=True)
    x, reference = _pair(x, reference)
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
    residual, y = _pair(A(x), y)
    return _relative(residual - y, y, "y")
