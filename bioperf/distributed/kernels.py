"""The kernels on a rank's slab: each rank runs those of ``bioperf.kernels``; what they sum is summed over all ranks.

An image has two planes behind the n of its slab: n, the next rank's first, and n + 1, the previous rank's last.  The
kernels' periodic differences then are the whole volume's in all planes but n: plane n - 1 is followed by n, and n + 1
by 0.  So is the adjoint in the slab's planes.  The field of plane n + 1 is updated here as it is on the previous rank,
so that images alone are exchanged, once an iteration.  The field of plane n, which is followed by the wrong one, enters
no plane of the slab.  What the two planes add to a sum is taken out again.
"""

import numpy as np

from ..kernels import _reference, get_backend
from .volume import HALO

__all__ = ["SlabKernels"]


class SlabKernels:
    """What the solvers of one image call of a backend; ``x``, ``q`` and ``out`` have halo planes, spectra are local.

    Sums are those of the whole volume, on every rank.
    """

    def __init__(self, volume):
        self.volume, self.own = volume, get_backend()
        self.name = self.own.name
        for local in ("gradient", "field_divergence", "update_field_divergence"):
            setattr(self, local, getattr(self.own, local))

    def update_field(self, x, q, relaxation, threshold, dual_scale, isotropic, trial, threads=1):
        sums = self.own.update_field(x, q, relaxation, threshold, dual_scale, isotropic, trial, threads=threads)
        halo = self._halo(q)
        norm, _ = self.own.sum_above(halo, 0.0, isotropic)
        above = self.own.sum_above(halo, trial, isotropic)
        return tuple(self.volume.sum(np.subtract(sums, (norm, *above))))

    def sum_above(self, q, threshold, isotropic, threads=1):
        sums = self.own.sum_above(q, threshold, isotropic, threads=threads)
        return tuple(self.volume.sum(np.subtract(sums, self.own.sum_above(self._halo(q), threshold, isotropic))))

    def field_threshold_batch(self, q, radii, isotropic, thresholds, sums, threads=1):
        """Of one field, by the steps of the compiled kernels: Newton's method on a convex piecewise linear function."""
        (field,), (radius,), ((norm, above, count),) = q, radii, sums
        thresholds[0] = 0.0
        if norm <= radius:
            return
        active = np.prod(self.volume.shape, dtype=float) * (1 if isotropic else len(field))
        theta = (norm - radius) / active
        if count > 0 and (above - radius) / count > theta:
            theta, active = (above - radius) / count, count
        while True:
            above, count = self.sum_above(field, theta, isotropic, threads=threads)
            if count in (0, active):
                break
            following = (above - radius) / count
            if not following > theta * (1 + 1e-12):
                break
            theta, active = following, count
        thresholds[0] = theta

    def field_status(self, x, q, threshold, isotropic, threads=1):
        n = self.volume.planes
        # the halo planes' gradients: plane n + 1 follows plane n here, and plane 0 follows plane n + 1
        g = self.own.gradient(np.stack([x[n], x[n + 1], x[0]]), ndim=x.ndim)[:, :HALO]
        # in plane n a field with g - v + c = 0, which does not matter to the largest of those
        magnitude = _reference._magnitude(g[:, 0], isotropic)
        growth = 1 + 2 * threshold / np.maximum(magnitude, max(threshold, np.finfo(x.dtype).tiny))
        q[:, n] = g[:, 0] * np.where(magnitude <= threshold, -1, growth)
        *sums, largest = self.own.field_status(x, q, threshold, isotropic, threads=threads)
        c = _reference._clip_field(q[:, n:], threshold, isotropic)
        v = q[:, n:] - c
        parts = (_reference._magnitude(g, isotropic), c * g, (g - v) ** 2, v * v, g * g)
        halo = [np.sum(part, dtype=np.float64) for part in parts]
        return (*self.volume.sum(np.subtract(sums, halo)), self.volume.max(largest))

    def _halo(self, q):
        return np.ascontiguousarray(q[:, self.volume.planes :])

    def lower_spectrum(self, *arguments, threads=1):
        return float(self.volume.sum([self.own.lower_spectrum(*arguments, threads=threads)])[0])

    def upper_spectrum(self, *arguments, threads=1):
        return tuple(self.volume.sum(self.own.upper_spectrum(*arguments, threads=threads)))

    def lower_kkt_batch(self, *arguments, threads=1):
        self.own.lower_kkt_batch(*arguments, threads=threads)
        self._sum_in_place(arguments[-1])

    def upper_dual_batch(self, *arguments, threads=1):
        self.own.upper_dual_batch(*arguments, threads=threads)
        self._sum_in_place(arguments[-1])

    def _sum_in_place(self, sums):
        sums[0] = self.volume.sum(sums[0])
