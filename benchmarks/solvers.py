"""The solvers on synthetic problems, deblurring and k-space: time, memory, iterations, gap and PSNR side by side."""

import importlib.util

import numpy as np

from .common import KSPACE_WEIGHT, NOISE, TV_WEIGHT, image, kspace, phased, pin_threads, problem

THREADS = 1
pin_threads(THREADS)


class _Solver:
    """``make`` the data, ``solve`` the problem; one thread."""

    params = ([256],)
    param_names = ("size",)
    timeout = 300

    def setup(self, size, *choice):
        self.make(size, *choice)
        self.solution = self.solve(*choice)

    def time_solve(self, size, *choice):
        self.solve(*choice)

    def peakmem_solve(self, size, *choice):
        self.solve(*choice)

    def track_iterations(self, size, *choice):
        return int(self.solution.iterations)

    track_iterations.unit = "iterations"

    def track_gap(self, size, *choice):
        return float(self.solution.gap)

    track_gap.unit = "relative"


class _Image(_Solver):
    """Scored against the truth, complex images by their magnitude."""

    def track_psnr(self, size, *choice):
        from bioperf import psnr

        return psnr(np.abs(self.solution.x), np.abs(self.truth))

    track_psnr.unit = "dB"


class _Blurred(_Image):
    """A blurred image in float32."""

    def make(self, size, *choice):
        from bioperf import Blur

        self.truth, self.y, self.psf = problem(size)
        self.A = Blur(self.psf, self.y.shape)
        self.prepare(*choice)

    def prepare(self, *choice):
        pass


class LowerLevel(_Blurred):
    params = ([255, 256], ["anisotropic", "isotropic"])
    param_names = ("size", "tv")

    def solve(self, tv):
        from bioperf import solve_lower

        return solve_lower(self.A, self.y, TV_WEIGHT, isotropic=tv == "isotropic", threads=THREADS)


class _Upper(_Blurred):
    """The upper level alone: the lower level and the target are prepared outside the timing."""

    splitting = "ball"

    def prepare(self, problem):
        from bioperf import solve_lower

        self.lower = solve_lower(self.A, self.y, TV_WEIGHT, threads=THREADS)
        # A target that brings something new, without a denoiser's time: the truth with a little noise.
        noise = np.random.default_rng(1).standard_normal(self.y.shape).astype(self.y.dtype)
        self.target = self.truth + np.float32(0.02) * noise
        self.epsilon = 0.15 * NOISE * np.sqrt(self.y.size) if problem == "relaxed" else 0.0

    def solve(self, problem):
        from bioperf import solve_bio

        return solve_bio(
            self.A, self.y, target=self.target, tv_weight=TV_WEIGHT, lower=self.lower, epsilon=self.epsilon,
            splitting=self.splitting, threads=THREADS,
        )  # fmt: skip


class Ball(_Upper):
    params = ([255, 256], ["exact", "relaxed"])
    param_names = ("size", "problem")


class Slack(_Upper):
    params = ([64], ["exact", "relaxed"])
    param_names = ("size", "problem")
    splitting = "slack"


class Deblur(_Blurred):
    """The one call with its defaults."""

    params = ([256], ["nlm", "cnn", "identity", "deconv"])
    param_names = ("size", "target")

    def prepare(self, target):
        if target == "cnn" and importlib.util.find_spec("torch") is None:
            raise NotImplementedError("the target cnn needs torch")  # asv's word for a benchmark to skip

    def solve(self, target):
        from bioperf import deblur

        return deblur(self.y, self.psf, target=target, threads=THREADS)


class _Kspace(_Image):
    """A quarter of k-space in complex64 of a real image, of a complex one, or of one seen by eight coils."""

    def make(self, size, kind, *choice):
        from bioperf import MaskedFourier, MultiCoilFourier, masks
        from bioperf.coils import simulate_maps

        x, mask = image(size), masks.gaussian((size, size), 0.25)
        x = x if kind == "real" else phased(x)
        self.maps = simulate_maps(x.shape, 8).astype(np.complex64) if kind == "coils" else None
        A = MaskedFourier(mask, real=kind == "real") if self.maps is None else MultiCoilFourier(mask, self.maps)
        self.A, self.y = A, kspace(A, x).astype(np.complex64)
        self.truth = x.astype(np.float32 if kind == "real" else np.complex64)


class KspaceLowerLevel(_Kspace):
    params = ([256], ["real", "complex", "coils"], ["TV", "TV + undecimated"])
    param_names = ("size", "image", "model")

    def solve(self, kind, model):
        from bioperf import UndecimatedWavelet, solve_lower

        weight = KSPACE_WEIGHT if model == "TV + undecimated" else 0.0
        return solve_lower(
            self.A, self.y, KSPACE_WEIGHT, wavelet_weight=weight, wavelet=UndecimatedWavelet("db2", 2), isotropic=True,
            threads=THREADS,
        )  # fmt: skip


class ReconstructMRI(_Kspace):
    """The one call with its defaults."""

    params = ([256], ["real", "complex", "coils"])
    param_names = ("size", "image")

    def solve(self, kind):
        from bioperf import reconstruct_mri

        real = None if self.maps is not None else kind == "real"
        return reconstruct_mri(self.y, self.A.mask, maps=self.maps, real=real, threads=THREADS)


class Bilevel(_Solver):
    """The general form: sparse logistic regression, a quarter of its columns twice; size is their number."""

    params = ([80], ["exact", "relaxed"])
    param_names = ("size", "problem")

    def make(self, size, problem):
        from bioperf import BilevelProblem
        from bioperf.functions import L1, Logistic, SquaredDistance

        rng = np.random.default_rng(0)
        A = rng.standard_normal((size, size - size // 4))
        A = np.concatenate([A, A[:, : size // 4]], axis=1)
        truth = np.zeros(size)
        truth[:5] = 1.5, -1.0, 1.0, 0.7, -0.8
        labels = rng.random(size) < 1 / (1 + np.exp(-2 * A @ truth))
        relaxation = {"epsilon": 0.1, "kappa": 0.05} if problem == "relaxed" else {}
        self.problem = BilevelProblem(A, Logistic(labels), L1(2.0), SquaredDistance(), **relaxation)

    def solve(self, problem):
        from bioperf import solve_bilevel

        return solve_bilevel(self.problem)
