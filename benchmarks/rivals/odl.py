"""ODL, single precision: PDHG on the stack of A and the gradient; A is written here, as ODL 1.0 has no FFT."""

import numpy as np
import odl
from scipy import fft

PACKAGE, TV = "odl", "isotropic"
STEP = 3.0
METHODS = dict.fromkeys(("deblurring", "mri"), f"pdhg, primal step {STEP:g}, the largest dual one")


class _Linear(odl.Operator):
    """The operator of two functions on arrays."""

    def __init__(self, space, forward, backward):
        super().__init__(space, space, linear=True)
        self.functions = forward, backward

    def _call(self, x):
        return self.range.element(self.functions[0](x.asarray()))

    @property
    def adjoint(self):
        return _Linear(self.domain, *self.functions[::-1])


def _make(space, forward, backward, y, x0, case):
    A = _Linear(space, forward, backward)
    gradient = odl.Gradient(space, method="forward", pad_mode="periodic")
    fit = 0.5 * odl.functionals.L2NormSquared(space).translated(space.element(y))
    variation = case.weight * odl.functionals.GroupL1Norm(gradient.range)
    terms = odl.functionals.SeparableSum(fit, variation)
    stack, zero = odl.BroadcastOperator(A, gradient), odl.functionals.ZeroFunctional(space)
    steps = {"tau": STEP, "sigma": 0.99 / (STEP * (1 + 8))}

    def make(iterations):
        x = space.element(x0.copy())

        def run():
            odl.solvers.pdhg(x, zero, terms, stack, niter=iterations, **steps)
            return x.asarray()

        return run

    return make


def _space(y):
    # Cells of volume 1: inner products are plain sums.
    return odl.uniform_discr([0, 0], y.shape, y.shape, dtype=y.dtype)


def deblurring(case):
    y = case.y.astype(np.float32)
    H = np.fft.rfft2(case.kernel).astype(np.complex64)

    def blur(x, transfer):
        return fft.irfft2(transfer * fft.rfft2(x, workers=case.threads), x.shape, workers=case.threads)

    return _make(_space(y), lambda x: blur(x, H), lambda x: blur(x, np.conj(H)), y, y, case)


def mri(case):
    y, mask = case.y.astype(np.complex64), case.mask.astype(np.float32)

    def sample(x):
        return mask * fft.fft2(x, norm="ortho", workers=case.threads)

    def adjoint(k):
        return fft.ifft2(mask * k, norm="ortho", workers=case.threads)

    return _make(_space(y), sample, adjoint, y, adjoint(y), case)
