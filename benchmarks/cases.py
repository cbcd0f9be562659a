"""The two problems that whole packages are compared on: deblurring, and MRI from one coil; NumPy and bioperf.

With ``peers``, a folder, they are those of its ``_problem.py`` with the optima of its ``_reference.json``; without it
a synthetic image, whose optimum a long float64 solve finds.  ``_problem.py`` has ``deblur()`` -> (truth, y),
``psf15()``, ``mri()`` -> (truth, y, mask) and the weights ``LAM_DEBLUR`` and ``LAM_MRI``.
"""

import json

import numpy as np

try:
    from .common import KSPACE_WEIGHT, blurred, gaussian_psf, image, kspace, phased
    from .timing import GAP, LIMIT, STEP, fewest, load
except ImportError:  # run as a file
    from common import KSPACE_WEIGHT, blurred, gaussian_psf, image, kspace, phased
    from timing import GAP, LIMIT, STEP, fewest, load

SIZE, WEIGHT = 256, 2e-3
# The kinds of total variation, and their names in _reference.json.
KINDS = {"isotropic": "iso-per", "anisotropic": "aniso-per", "anisotropic, Neumann": "aniso-neu"}


def total_variation(x, tv):
    """The sum over the pixels of the norms of forward differences, float64; "Neumann": none across the edges."""
    steps = [np.roll(x, -1, axis) - x for axis in (0, 1)]
    if "Neumann" in tv:
        steps[0][-1], steps[1][:, -1] = 0, 0
    magnitudes = [np.abs(step) for step in steps]
    return float((np.hypot(*magnitudes) if tv.startswith("isotropic") else sum(magnitudes)).sum())


class Case:
    """A problem min 1/2 |A x - y|^2 + weight TV(x): its data in double precision, and its optimum.

    ``source`` says which problem, ``tv`` is one of ``KINDS``; ``truth`` may be None.
    """

    def __init__(self, A, y, weight, *, tv="isotropic", source="synthetic image", truth=None, optimum=None):
        self.A, self.y, self.weight, self.tv, self.source, self.truth = A, y, weight, tv, source, truth
        self.optimum = self.solved() if optimum is None else optimum

    @property
    def isotropic(self):
        return self.tv.startswith("isotropic")

    def objective(self, x):
        x = np.asarray(x, self.exact)
        residual = self.forward(x) - self.y
        return 0.5 * float(np.sum(np.abs(residual) ** 2)) + self.weight * total_variation(x, self.tv)

    def gap(self, x):
        return (self.objective(x) - self.optimum) / self.optimum

    def psnr(self, x):
        return -10 * float(np.log10(np.mean(np.abs(x - self.truth) ** 2)))

    def fewest(self, run, gap=GAP, limit=LIMIT, step=STEP):
        """The smallest multiple of step with ``run(count)`` within the gap; SystemExit if none is within the limit."""
        count, reached = fewest(lambda count: self.gap(run(count)), gap, limit, step)
        if reached > gap:
            raise SystemExit(f"no gap of {gap:g} within {limit} iterations")
        return count

    def solved(self):
        """The optimum by a long solve in double precision."""
        from bioperf import solve_lower

        if "Neumann" in self.tv:
            return self.objective(_neumann(self))
        x = solve_lower(self.A, self.y, self.weight, isotropic=self.isotropic, tol=1e-11, max_iter=50_000).x
        return self.objective(x)


class Deblurring(Case):
    """A 15x15 Gaussian blur with noise 0.01 and weight 2e-3."""

    name, key, exact = "deblurring", "deblur", np.float64

    def __init__(self, peers=None, tv="isotropic"):
        from bioperf import Blur

        if peers is None:
            truth, self.psf = image(SIZE), gaussian_psf()
            rest = blurred(truth, self.psf), WEIGHT
        else:
            problem = load(peers / "_problem.py")
            (truth, y), self.psf = problem.deblur(), problem.psf15()
            rest = y, problem.LAM_DEBLUR
        A = Blur(self.psf, truth.shape)
        self.transfer = A.transfer(np.float64)
        super().__init__(A, *rest, tv=tv, truth=truth, **_reference(peers, self.key, tv))

    def forward(self, x):
        return np.fft.irfft2(self.transfer * np.fft.rfft2(x), x.shape)

    def arrays(self):
        """What a package needs."""
        kernel = np.fft.irfft2(self.transfer, self.y.shape)
        return {"y": self.y, "psf": self.psf, "kernel": kernel, "weight": self.weight}


class Reconstruction(Case):
    """k-space samples of a complex image; any Fourier operator."""

    name, key, exact = "mri", "mri", np.complex128

    def forward(self, x):
        return self.A(x)

    def arrays(self):
        """What a package needs, of one coil."""
        return {"y": self.y, "mask": np.asarray(self.A.mask, np.float64), "weight": self.weight}


def one_coil(peers=None, tv="isotropic"):
    """A quarter of k-space, noise 0.005 and weight 1e-3."""
    from bioperf import MaskedFourier, masks

    if peers is None:
        truth, A = phased(image(SIZE)), MaskedFourier(masks.gaussian((SIZE, SIZE), 0.25), real=False)
        y, weight = kspace(A, truth), KSPACE_WEIGHT
    else:
        problem = load(peers / "_problem.py")
        truth, y, mask = problem.mri()
        A, weight = MaskedFourier(mask, real=False), problem.LAM_MRI
    return Reconstruction(A, y, weight, tv=tv, truth=truth, **_reference(peers, Reconstruction.key, tv))


def _reference(peers, key, tv):
    if peers is None:
        return {}
    optima = json.loads((peers / "_reference.json").read_text())
    optimum = optima.get(f"{key}-{KINDS[tv]}")
    return {"source": "the peers' problem", "optimum": optimum and optimum["F"]}


def _neumann(case, penalty=0.05, iterations=3000):
    """Deblurring by ADMM with v = grad x and w = x: cosines diagonalise this gradient, exponentials the blur."""
    from scipy import fft

    y, H = case.y, case.transfer
    row, column = (2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in y.shape)
    smoothing, sharpening = 1 / (row[:, None] + column + 1), 1 / (np.abs(H) ** 2 + penalty)
    data = np.conj(H) * np.fft.rfft2(y)
    v, d = np.zeros((2, *y.shape)), np.zeros((2, *y.shape))
    w, e = y.copy(), np.zeros_like(y)
    for _ in range(iterations):
        back = v - d
        back[0, -1], back[1, :, -1] = 0, 0
        adjoint = sum(np.roll(back[axis], 1, axis) - back[axis] for axis in (0, 1))
        x = fft.idctn(smoothing * fft.dctn(adjoint + w - e))
        w = np.fft.irfft2(sharpening * (data + penalty * np.fft.rfft2(x + e)), y.shape)
        e += x - w
        gradient = np.stack([np.roll(x, -1, axis) - x for axis in (0, 1)])
        gradient[0, -1], gradient[1, :, -1] = 0, 0
        d += gradient
        v = d - np.clip(d, -case.weight / penalty, case.weight / penalty)
        d -= v
    return x
