"""prox-tv: the exact proximal operator of anisotropic TV without the differences across the edges, double precision.

FISTA around it is written here; the package has no solver for an operator, and real images only.
"""

import numpy as np
import prox_tv
from scipy import fft

PACKAGE, TV = "prox-tv", "anisotropic, Neumann"
METHODS = {"deblurring": "FISTA, step 1, tv1_2d"}


def deblurring(case):
    y, shape, workers = case.y, case.y.shape, case.threads
    H = np.fft.rfft2(case.kernel)
    back, gram = np.conj(H) * np.fft.rfft2(y), np.abs(H) ** 2

    def make(iterations):
        def run():
            x, z, t = y, y, 1.0
            for _ in range(iterations):
                gradient = fft.irfft2(gram * fft.rfft2(z, workers=workers) - back, shape, workers=workers)
                following = prox_tv.tv1_2d(z - gradient, case.weight, n_threads=workers)
                grown = (1 + np.sqrt(1 + 4 * t * t)) / 2
                z = following + (t - 1) / grown * (following - x)
                x, t = following, grown
            return x

        return run

    return make
