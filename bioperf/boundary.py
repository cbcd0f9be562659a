"""Photographs do not repeat: what lies beyond the frame is unknown, and is estimated with the image."""

import numpy as np

from .operators import Blur

__all__ = ["extend_periodically", "fill_margin"]


def extend_periodically(y, margins):
    """The image with ``margins[k]`` pixels appended to spatial axis k that lead smoothly back to its start.

    y : (..., *spatial); returns (..., *[n + m]).  The appended pixels interpolate linearly between the last
    and the first pixel along each axis in turn, so that the periodic continuation has no jump.
    """
    for axis, margin in zip(range(-len(margins), 0), margins, strict=True):
        if margin == 0:
            continue
        weight = (np.arange(1, margin + 1) / (margin + 1)).astype(y.dtype)
        weight = weight.reshape((-1,) + (1,) * (-axis - 1))
        last, first = np.take(y, [-1], axis), np.take(y, [0], axis)
        y = np.concatenate([y, last + weight * (first - last)], axis)
    return y


def fill_margin(y, psf, solve, rounds):
    """Extend y beyond its frame and estimate the margin by majorisation-minimisation.

    Least squares over the frame alone, |M(A x - y)|^2 with M the frame's indicator, is majorised by
    |A x - z|^2 with z = y inside and A x_k outside: each round solves for x with the margin filled in from
    the last one, with momentum (a majorisation step is a proximal gradient step; Hunter and Lange, 2004).

    Parameters
    ----------
    y : ndarray, shape (..., *spatial)
    psf : ndarray
    solve : callable (A, z, x0) -> ndarray
        The periodic problem on the extended domain.
    rounds : int

    Returns
    -------
    A : Blur on the extended domain; z : the extended data; x : the last solution; frame : the slices of y.
    """
    from scipy.fft import next_fast_len

    shape = y.shape[y.ndim - psf.ndim :]
    # The margin's size is free: take the next one whose transform is fast.
    margins = [
        next_fast_len(n + min(2 * (k // 2) + 8, n), real=True) - n for k, n in zip(psf.shape, shape, strict=True)
    ]
    frame = (Ellipsis, *(slice(n) for n in shape))
    z = extend_periodically(y, margins)
    A = Blur(psf, z.shape[y.ndim - psf.ndim :])
    x = previous = None
    for k in range(rounds):
        x, previous = solve(A, z, x), x
        # Nesterov's momentum on the margin's estimate, but for the one that is returned
        ahead = x if k in (0, rounds - 1) else x + y.dtype.type(k / (k + 3)) * (x - previous)
        z = A(ahead)
        z[frame] = y
    return A, z, x, frame
