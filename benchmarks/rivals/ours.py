"""bioperf itself: ``solve_lower`` in single precision; None iterations: until its own test stops it at ``TOL``."""

import numpy as np

import bioperf

PACKAGE, VERSION, TV = "bioperf", bioperf.__version__, "isotropic or anisotropic"
METHODS = {"deblurring": "solve_lower", "mri": "solve_lower"}
TOL, NEVER = 1e-4, 1e-30


def _make(A, y, case):
    def make(iterations):
        stop = {"tol": TOL} if iterations is None else {"tol": NEVER, "max_iter": iterations}
        options = stop | {"isotropic": case.isotropic, "threads": case.threads}
        return lambda: bioperf.solve_lower(A, y, case.weight, **options).x

    return make


def deblurring(case):
    return _make(bioperf.Blur(case.psf, case.y.shape), case.y.astype(np.float32), case)


def mri(case):
    return _make(bioperf.MaskedFourier(case.mask, real=False), case.y.astype(np.complex64), case)
