"""SigPy, single precision: its TV is the l1 norm of periodic differences, anisotropic; all its images are complex."""

import numpy as np
import sigpy
from sigpy.app import LinearLeastSquares

PACKAGE, TV = "sigpy", "anisotropic"
STEP = 3.0
METHODS = dict.fromkeys(("deblurring", "mri"), f"LinearLeastSquares, PDHG, primal step {STEP:g}, the largest dual one")


def _make(A, y, x0, case, result=lambda x: x):
    G = sigpy.linop.FiniteDifference(A.ishape)
    proximal = sigpy.prox.L1Reg(G.oshape, case.weight)

    def make(iterations):
        # The app overwrites its start.
        app = LinearLeastSquares(
            A, y, x=x0.copy(), proxg=proximal, G=G, solver="PrimalDualHybridGradient", tau=STEP,
            sigma=0.99 / (STEP * (1 + 8)), max_iter=iterations, show_pbar=False,
        )  # fmt: skip
        return lambda: result(app.run())

    return make


def deblurring(case):
    F = sigpy.linop.FFT(case.y.shape, center=False)
    H = np.fft.fft2(case.kernel).astype(np.complex64)
    y = case.y.astype(np.complex64)
    return _make(F.H * sigpy.linop.Multiply(case.y.shape, H) * F, y, y, case, np.real)


def mri(case):
    y = case.y.astype(np.complex64)
    A = sigpy.linop.Multiply(y.shape, case.mask.astype(np.complex64)) * sigpy.linop.FFT(y.shape, center=False)
    return _make(A, y, A.H(y), case)
