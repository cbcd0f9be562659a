"""Sensitivities of receive coils: estimated from the centre of k-space, or simulated."""

import functools
import math

import numpy as np

from ._validation import (
    as_complex_images,
    as_mask,
    check_count,
    check_flag,
    check_number,
    check_scale,
    check_size,
    host_array,
    shown,
)
from .operators import MaskedFourier

__all__ = ["calibration_region", "estimate_maps", "simulate_maps"]

LEAST, MOST = 6, 32  # samples of the calibration block along an axis
KAISER = 4.0


def estimate_maps(kspace, mask, *, calibration=None, support=0.05, centred=False):
    """Coil sensitivities from the fully sampled centre of k-space.

    The images of the calibration block, under a Kaiser window, are divided by their root sum of squares (McKenzie
    et al., Magn. Reson. Med. 47, 2002).  So the maps' phase is that of the smooth images, and the image that is
    reconstructed with them has the finer phase only.

    Measured beside ESPIRiT (Uecker et al., 2014; 6 x 6 kernels, maps faded out by the same support) on the 8-coil
    brain data of the SigPy tutorial, least-squares reconstruction from 90 % of the samples predicts the others
    with a relative error of 0.327 here, 0.324 there; on simulated coils, with blocks of 12 to 24 samples, the two
    reconstructions differ by less than 1 %.

    Parameters
    ----------
    kspace : ndarray, complex64 or complex128, shape (..., C, *spatial)
    mask : array of bool, shape (*spatial), or None
        The sampled frequencies; None if all are.
    calibration : int or tuple of int, optional
        Size of the block to use, along each axis.  By default the largest that is fully sampled, see
        ``calibration_region``, but at most 32.
    support : float in [0, 0.5]
        Where the calibration image is below this fraction of its brightest (the 99th percentile) the maps are 0,
        unless that place is enclosed by the object; they reach their full size at twice the fraction.  0 keeps
        maps everywhere.
    centred : bool
        Where k-space and the mask have the zero frequency; see ``MaskedFourier``.

    Returns
    -------
    ndarray, shape and dtype of ``kspace``
        Maps S with sum_c |S_c|^2 = 1 in the object and <= 1 everywhere, up to rounding.

    Raises
    ------
    TypeError, ValueError
        Also if fewer than 6 samples along an axis are fully sampled, or fewer than ``calibration``.
    """
    kspace, centred = host_array("kspace", kspace), check_flag("centred", centred)
    mask = np.ones(kspace.shape[-2:], bool) if mask is None else as_mask("mask", mask)
    kspace = as_complex_images("kspace", kspace, mask.shape)
    axes = tuple(range(-mask.ndim, 0))
    if kspace.ndim <= mask.ndim:
        raise ValueError(f"kspace: expected shape (..., coils, {', '.join(map(str, mask.shape))}), got {kspace.shape}")
    check_scale("kspace", kspace, mask.ndim + 1)
    support = check_number("support", support, maximum=0.5)
    window = _window(mask.shape, _block(mask, calibration, centred), centred).astype(kspace.real.dtype)

    images = MaskedFourier(window > 0, real=False, centred=centred).adjoint(kspace * window)
    brightness = np.sqrt(np.sum(images.real**2 + images.imag**2, axis=axes[0] - 1, keepdims=True))
    brightest = np.percentile(brightness, 99, axis=axes, keepdims=True)
    if not brightest.all():
        raise ValueError("kspace: the calibration block is zero; check the mask and where the zero frequency is")
    images /= np.maximum(brightness, np.finfo(brightness.dtype).tiny)
    if support:
        images *= _fade(brightness / brightest, support, mask.ndim).astype(brightness.dtype)
    return images


def calibration_region(mask, *, centred=False):
    """Size along each axis of the largest fully sampled block around the zero frequency.

    A block of n samples reaches from ``-(n//2)`` to ``(n - 1)//2``.  The largest cube is taken (an axis shorter
    than its side being covered whole), and its axes are then extended, the last first, as far as the mask allows.

    Parameters
    ----------
    mask : array of bool, 1, 2 or 3 axes
    centred : bool
        Where the mask has the zero frequency.

    Returns
    -------
    tuple of int
        Zeros if the zero frequency is not sampled.
    """
    mask, centred = as_mask("mask", mask), check_flag("centred", centred)
    # The size of the smallest block that reaches each place that is not sampled
    missing = np.argwhere(~(mask if centred else np.fft.fftshift(mask)))
    offset = missing - np.array(mask.shape) // 2
    reach = np.where(offset < 0, -2 * offset, 2 * offset + 1)
    block = np.minimum(mask.shape, reach.max(1).min() - 1 if len(reach) else max(mask.shape))
    for axis in reversed(range(mask.ndim)):
        others = np.delete(np.arange(mask.ndim), axis)
        in_the_way = reach[(reach[:, others] <= block[others]).all(1), axis]
        block[axis] = min(mask.shape[axis], in_the_way.min() - 1) if len(in_the_way) else mask.shape[axis]
    return tuple(block.tolist())


def simulate_maps(shape, coils, *, distance=1.5):
    """Smooth sensitivities of coils on a circle around the image, for tests and benchmarks.

    A coil's magnitude falls with the inverse distance to it, its phase turns with the direction, as in a birdcage
    coil.

    Parameters
    ----------
    shape : tuple of 2 or 3 int
        In 3-D the circle lies in the last two axes and the coils alternate between two heights.
    coils : int
    distance : float, > sqrt(2)
        The circle's radius in units of half the image's width.

    Returns
    -------
    ndarray, complex128, shape (coils, *shape), with sum_c |S_c|^2 = 1 everywhere

    Raises
    ------
    TypeError, ValueError
    """
    if not isinstance(shape, tuple | list) or len(shape) not in (2, 3):
        raise ValueError(f"shape: expected a tuple of 2 or 3 sizes, got {shown(shape)}")
    shape = tuple(check_count("shape", n) for n in shape)
    check_size("coils", (check_count("coils", coils), *shape))
    distance = check_number("distance", distance, math.sqrt(2), strict=True, maximum=1e6)
    grid = [(np.arange(n) - n // 2) / max(n / 2, 1) for n in shape]
    angles = 2 * np.pi * np.arange(coils) / coils
    maps = np.empty((coils, *shape), complex)
    for c, angle in enumerate(angles):
        place = (0.5 * (-1) ** c, distance * np.sin(angle), distance * np.cos(angle))[-len(shape) :]
        offsets = np.meshgrid(*(axis - at for axis, at in zip(grid, place, strict=True)), indexing="ij")
        direction = np.exp(1j * (np.arctan2(offsets[-2], offsets[-1]) - angle))
        maps[c] = direction / np.sqrt(sum(offset**2 for offset in offsets))
    return maps / np.sqrt(np.sum(np.abs(maps) ** 2, axis=0))


def _block(mask, calibration, centred):
    """The size of the calibration block, checked."""
    found = calibration_region(mask, centred=centred)
    if calibration is None:
        wanted = tuple(min(MOST, n) for n in found)
    elif isinstance(calibration, tuple | list):
        wanted = tuple(check_count("calibration", n) for n in calibration)
    else:
        wanted = (check_count("calibration", calibration),) * mask.ndim
    if len(wanted) != mask.ndim:
        raise ValueError(f"calibration: expected {mask.ndim} sizes, got {shown(wanted)}")
    if any(n > m for n, m in zip(wanted, found, strict=True)):
        raise ValueError(
            f"calibration: {shown(wanted)} is not fully sampled, only {found} around the zero frequency is"
        )
    if any(n < min(LEAST, m) for n, m in zip(wanted, mask.shape, strict=True)):
        raise ValueError(
            f"mask: a block of {wanted} fully sampled around the zero frequency is too small, {LEAST} along each axis "
            "are needed; check where the zero frequency is (centred), or pass maps from elsewhere"
        )
    return wanted


def _window(shape, block, centred):
    """A Kaiser window on the block, 0 elsewhere."""
    axes = []
    for n, size in zip(shape, block, strict=True):
        inside = (np.arange(size) - size // 2) * 2 / (size + 1)
        axes.append(np.zeros(n))
        axes[-1][n // 2 - size // 2 :][:size] = np.i0(KAISER * np.sqrt(1 - inside**2)) / np.i0(KAISER)
    window = functools.reduce(np.multiply.outer, axes)
    return window if centred else np.fft.ifftshift(window)


def _fade(brightness, support, ndim):
    """0 below ``support``, 1 from twice that on and in what such places enclose; shape (..., 1, *spatial)."""
    from scipy import ndimage

    ramp = np.clip(brightness / support - 1, 0, 1)
    fade = ramp * ramp * (3 - 2 * ramp)
    for item in fade.reshape(-1, *fade.shape[-ndim:]):
        item[ndimage.binary_fill_holes(item == 1)] = 1
    return fade
