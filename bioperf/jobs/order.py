"""Whether k-space and mask have the zero frequency where they are said to have it."""

import numpy as np

__all__ = ["doubtful_order"]

# Times the energy, or the density of samples, where the zero frequency is said not to be: more is suspicious.
_ENERGY_RATIO, _DENSITY_RATIO = 4.0, 2.0


def doubtful_order(problem):
    """A sentence if the zero frequency seems to lie elsewhere than said, in k-space or in the mask.

    ``problem`` has kspace, mask, centred, and in sources the files "kspace" and "mask" came from.
    """
    said, other = ("--centred", "--unshifted")[:: 1 if problem.centred else -1]

    def around(array, centred):
        """The array's block of 1/8 of each axis around the zero frequency."""
        rows, columns = (
            (np.arange(max(1, n // 8)) - n // 16 + (n // 2 if centred else 0)) % n for n in array.shape[-2:]
        )
        return array[..., rows[:, None], columns]

    here, there = (np.linalg.norm(around(problem.kspace, c)) ** 2 for c in (problem.centred, not problem.centred))
    if there > _ENERGY_RATIO * here:
        return (
            f"{problem.sources['kspace']}: most of the energy lies where {other} has the zero frequency, but it is "
            f"taken as {said[2:]}; add {other} unless that is meant"
        )
    here, there = (around(problem.mask, c).mean() for c in (problem.centred, not problem.centred))
    if there > _DENSITY_RATIO * here:
        return (
            f"{problem.sources['mask']}: samples are densest where {other} has the zero frequency, but k-space is "
            f"{said[2:]}; save the mask in the order of k-space"
        )
    return None
