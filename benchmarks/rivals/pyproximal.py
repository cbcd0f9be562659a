"""PyProximal on PyLops, single precision: primal-dual on the stack of A and a periodic gradient.

PyLops' own gradient is not periodic and its convolutions pad with zeros: both operators are written here.
"""

import numpy as np
import pylops
import pyproximal
from pyproximal.optimization.primaldual import PrimalDual
from scipy import fft

PACKAGE, TV = "pyproximal", "isotropic"
STEP = 3.0
METHODS = dict.fromkeys(("deblurring", "mri"), f"PrimalDual, primal step {STEP:g}, the largest dual one")


def _operator(forward, backward, shape, dtype, rows):
    """The pylops operator of two functions on arrays."""
    n = int(np.prod(shape))

    def ahead(x):
        return forward(x.reshape(shape)).ravel()

    def back(p):
        return backward(p.reshape((rows, *shape) if rows > 1 else shape)).ravel()

    return pylops.FunctionOperator(ahead, back, rows * n, n, dtype=dtype)


def _gradient(x):
    return np.stack([np.roll(x, -1, axis) - x for axis in (0, 1)])


def _gradient_adjoint(p):
    return sum(np.roll(p[axis], 1, axis) - p[axis] for axis in (0, 1))


def _make(forward, backward, y, x0, case):
    A = _operator(forward, backward, y.shape, y.dtype, 1)
    gradient = _operator(_gradient, _gradient_adjoint, y.shape, y.dtype, 2)
    terms = [pyproximal.L2(b=y.ravel()), pyproximal.L21(ndim=2, sigma=case.weight)]
    terms = pyproximal.VStack(terms, nn=[y.size, 2 * y.size])
    steps = {"tau": STEP, "mu": 0.99 / (STEP * (1 + 8))}

    def make(iterations):
        x = x0.ravel().copy()

        def run():
            found = PrimalDual(
                _Zero(), terms, pylops.VStack([A, gradient]), x0=x, niter=iterations, **steps
            )  # fmt: skip
            return found.reshape(y.shape)

        return run

    return make


class _Zero(pyproximal.ProxOperator):
    """The functional 0."""

    def __init__(self):
        super().__init__(None, False)

    def __call__(self, x):
        return 0.0

    def prox(self, x, tau):
        return x

    def proxdual(self, x, tau):
        return np.zeros_like(x)


def deblurring(case):
    y = case.y.astype(np.float32)
    H = np.fft.rfft2(case.kernel).astype(np.complex64)

    def blur(x, transfer):
        return fft.irfft2(transfer * fft.rfft2(x, workers=case.threads), x.shape, workers=case.threads)

    return _make(lambda x: blur(x, H), lambda x: blur(x, np.conj(H)), y, y, case)


def mri(case):
    y, mask = case.y.astype(np.complex64), case.mask.astype(np.float32)

    def sample(x):
        return mask * fft.fft2(x, norm="ortho", workers=case.threads)

    def adjoint(k):
        return fft.ifft2(mask * k, norm="ortho", workers=case.threads)

    return _make(sample, adjoint, y, adjoint(y), case)
