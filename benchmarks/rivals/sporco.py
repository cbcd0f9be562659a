"""SPORCO: TVL2Deconv, its own penalty rule, double precision; no problem of this kind for MRI.

It has backward differences and the origin of the psf at index 0.  Mirrored and shifted data make that forward
differences and a centred psf.
"""

import numpy as np
from sporco.admm.tvl2 import TVL2Deconv

PACKAGE, TV = "sporco", "isotropic"
METHODS = {"deblurring": "TVL2Deconv, automatic penalty"}


def _mirrored(a):
    """Index -i in place of i."""
    return np.roll(a[::-1, ::-1], (1, 1), (0, 1))


def deblurring(case):
    psf = np.ascontiguousarray(case.psf[::-1, ::-1])
    centre = [k - 1 - k // 2 for k in psf.shape]
    y = np.roll(_mirrored(case.y), centre, (0, 1))

    def make(iterations):
        # Without a tolerance it stops only at the limit.
        settings = {"Verbose": False, "MaxMainIter": iterations, "RelStopTol": 0.0, "gEvalY": False}
        solver = TVL2Deconv(psf, y, case.weight, TVL2Deconv.Options(settings))
        return lambda: _mirrored(solver.solve())

    return make
