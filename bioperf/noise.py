"""The noise level of an observed image or of k-space, from the data alone."""

import numpy as np

from ._validation import as_complex_images, as_images, as_mask, check_count, check_flag, check_scale
from .operators.fourier import mirrored

__all__ = ["estimate_kspace_noise", "estimate_noise", "hermitian_noise"]


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
    ndim = check_count("ndim", ndim)
    y = as_images("y", y, ndim=ndim)
    detail = y.astype(np.float64, copy=False)
    for axis in range(-ndim, 0):
        if detail.shape[axis] < 2:
            raise ValueError(f"y: needs at least 2 pixels along each spatial axis, got shape {y.shape}")
        n = detail.shape[axis] // 2 * 2
        even, odd = (np.take(detail, range(start, n, 2), axis) for start in (0, 1))
        with np.errstate(over="ignore"):
            detail = (odd - even) / np.sqrt(2)
    check_scale("y", detail, detail.ndim, small=True)
    return float(np.median(np.abs(detail)) / 0.6744897501960817)


def estimate_kspace_noise(kspace, mask, *, centred=False):
    """Standard deviation of the complex noise of a sample, from the border of k-space.

    The samples of highest spatial frequency, 5 % of them and at least 32, hold little of the image there;
    of complex Gaussian noise the median of |n|^2 is ln 2 sigma^2.  An image with much fine detail raises the
    estimate.

    Parameters
    ----------
    kspace : ndarray, complex64 or complex128, shape (..., *mask.shape)
        Leading axes (coils, slices): the root mean square of their levels.
    mask : array of bool
    centred : bool
        Whether the zero frequency is in the middle.

    Returns
    -------
    float, sqrt(E|n|^2), in the units of kspace.

    Raises
    ------
    TypeError, ValueError
        For arrays that are none of the above.
    """
    mask, centred = as_mask("mask", mask), check_flag("centred", centred)
    kspace = as_complex_images("kspace", kspace, mask.shape)
    check_scale("kspace", kspace, mask.ndim, dtype=np.float64)
    frequencies = np.meshgrid(*(np.fft.fftfreq(n) for n in mask.shape), indexing="ij")
    radius = np.sqrt(sum(f * f for f in frequencies))
    if centred:
        radius = np.fft.fftshift(radius)
    distance = radius[mask]
    outermost = np.argsort(distance, kind="stable")[-max(32, round(0.05 * distance.size)) :]
    power = np.abs(kspace[..., mask][..., outermost].astype(np.complex128)) ** 2
    return float(np.sqrt(np.mean(np.median(power, axis=-1)) / np.log(2)))


def hermitian_noise(kspace, mask, *, centred=False):
    """Standard deviation of the complex noise of a sample of real-valued images, from symmetry.

    Without noise y(k) = conj y(-k); the difference is noise alone, with E|.|^2 = 2 sigma^2.

    Parameters and errors as of ``estimate_kspace_noise``, whose estimate it falls back on where fewer than 16
    samples have their mirror sampled.

    Returns
    -------
    float, sqrt(E|n|^2), in the units of kspace.
    """
    mask, centred = as_mask("mask", mask), check_flag("centred", centred)
    kspace = as_complex_images("kspace", kspace, mask.shape)
    check_scale("kspace", kspace, mask.ndim, dtype=np.float64)
    axes = tuple(range(-mask.ndim, 0))
    sampled, data = (np.fft.ifftshift(mask), np.fft.ifftshift(kspace, axes)) if centred else (mask, kspace)
    both = sampled & mirrored(sampled)
    if both.sum() < 16:
        return estimate_kspace_noise(kspace, mask, centred=centred)
    difference = data - np.roll(np.flip(data, axes), 1, axes).conj()
    power = np.abs(difference[..., both].astype(np.complex128)) ** 2
    return float(np.sqrt(0.5 * np.mean(power)))
