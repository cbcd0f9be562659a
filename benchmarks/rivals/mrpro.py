"""MRpro (torch), single precision: PDHG on the stack of A and the periodic gradient; MRI only, anisotropic TV."""

import numpy as np
import torch
from mrpro.algorithms.optimizers import pdhg
from mrpro.operators import EinsumOp, FastFourierOp, FiniteDifferenceOp, LinearOperatorMatrix
from mrpro.operators.functionals import L1Norm, L2NormSquared

PACKAGE, TV = "mrpro", "anisotropic"
STEP = 3.0
METHODS = {"mri": f"pdhg, primal step {STEP:g}, the largest dual one"}


def mri(case):
    torch.set_num_threads(case.threads)
    # Its Fourier transform has both origins in the middle; differences do not mind where the image's is.
    mask = torch.from_numpy(np.fft.fftshift(case.mask).astype(np.complex64))
    x = np.fft.fftshift(np.fft.ifft2(case.y, norm="ortho")).astype(np.complex64)
    A = EinsumOp(mask, "y x, ... y x -> ... y x") @ FastFourierOp(dim=(-2, -1))
    start = torch.from_numpy(x)
    (y,) = A(start)
    gradient = FiniteDifferenceOp(dim=(-2, -1), mode="forward", pad_mode="circular")
    terms = L2NormSquared(target=y, weight=np.sqrt(0.5).item()) | L1Norm(weight=case.weight)
    stack = LinearOperatorMatrix(((A,), (gradient,)))
    steps = {"primal_stepsize": STEP, "dual_stepsize": 0.99 / (STEP * (1 + 8))}

    def make(iterations):
        def run():
            with torch.inference_mode():
                (found,) = pdhg(
                    f=terms, g=None, operator=stack, initial_values=(start,), max_iterations=iterations, **steps
                )
            return np.fft.ifftshift(found.numpy())

        return run

    return make
