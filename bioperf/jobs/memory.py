"""Estimates of what a job's arrays take at most, in bytes, without the interpreter and its libraries.

An image solved takes some number of arrays of its size while it is solved, and fewer for as long as the result is
held.  The numbers were measured: the peak resident memory of a process (VmHWM) beyond what it had after a job of 64 x
64, one thread, Linux, Cython kernels, sizes of 128 to 2048.  Estimates were 0.9 to 1.6 times those peaks.
"""

import math
from typing import NamedTuple

__all__ = ["Memory", "deblur_memory", "mri_memory", "tune_memory"]

# Of a network's layers two of 64 channels of float32 are alive at a time; its library's own workspace.
_NETWORK, _WORKSPACE = 2 * 64 * 4, 40e6
_FIGURE, _FIGURE_PIXEL = 32e6, 42
_LEAST = 1e6


class Memory(NamedTuple):
    """Bytes held for all images, further ones for each that is being solved, and for the figure."""

    held: float
    solving: float
    drawing: float

    def peak(self, at_a_time=1):
        """While so many images are solved at a time."""
        return int(self.held + max(at_a_time * self.solving, self.drawing) + _LEAST)


def deblur_memory(shape, planes, itemsize, *, network, figure):
    """Of ``planes`` images of that shape, any margin included.

    Measured in images, with the 4 to 5 that are held for each: 16 to 19 with the target nlm (15 in float64), 14 with
    identity, 15 with deconv; with 8 images 46, with 16 of them 84.
    """
    pixels = math.prod(shape)
    solving = (14 * itemsize + _NETWORK * network) * pixels
    return Memory(4.3 * itemsize * pixels * planes + _WORKSPACE * network, solving, _drawing(pixels, figure))


def mri_memory(shape, count, coils, itemsize, *, network, figure):
    """Of ``count`` images of that shape, seen by ``coils`` coils (0: one, without a map); itemsize of complex numbers.

    Measured in complex images: 47 for one coil (real ones take two thirds of that), 77 for four and 108 for eight; each
    further image 6 and, of four coils, 13.
    """
    pixels = math.prod(shape)
    working = (41 + 6 * coils) * itemsize
    return Memory(
        (6 + 2 * coils) * itemsize * pixels * count + _WORKSPACE * network,
        max(working, (14 * itemsize + _NETWORK) * network) * pixels,
        _drawing(pixels, figure),
    )


# Images that a search takes for each image of the stack, with an orthogonal wavelet (measured; bf-dca 72 to 87), and
# for every further band of a redundant one; "batched": for every trial.
_SEARCHES = {
    "bf-dca": (82, 21), "bf-dca-faithful": (90, 22), "hypergradient": (65, 16), "grid": (52, 9.5), "random": (52, 9.5),
    "tpe": (52, 9.5), "discrepancy": (23, 2.2), "sure": (36, 2),
}  # fmt: skip
_BATCHED, _BATCHED_TRIAL, _BATCHED_BAND = 34, 5.1, 20
_TV_ALONE = {"discrepancy": 20, "sure": 34}


def tune_memory(shape, count, itemsize, methods, *, bands, batched_trials, figure):
    """Of ``count`` images in the stack; ``bands`` as many images as W x takes (0: no wavelet).

    ``batched_trials``: of a grid whose trials are solved at once, 0 if none is.
    """
    pixels = math.prod(shape)
    further = max(bands - 1, 0)
    images = [
        _SEARCHES[method][0] + _SEARCHES[method][1] * further if bands else _TV_ALONE.get(method, 22)
        for method in methods
    ]
    if batched_trials:
        images.append(_BATCHED + _BATCHED_TRIAL * batched_trials + _BATCHED_BAND * further)
    held = 8 * len(methods)
    stack = itemsize * pixels * count
    return Memory(held * stack, (max(images) - 8) * stack, _drawing(0, figure))


def _drawing(pixels, figure):
    return (_FIGURE + _FIGURE_PIXEL * pixels) * figure
