"""The solvers and the one-call functions on synthetic problems: time, memory, iterations, gap and PSNR side by side.

``track_gap`` is the certified, relative distance of the objective to its lower bound.
"""

import importlib.util

import numpy as np

from .common import (
    BACKENDS,
    KSPACE_WEIGHT,
    NOISE,
    THREADS,
    TV_WEIGHT,
    Prepared,
    image,
    kspace,
    on_device,
    on_host,
    phased,
    pin_threads,
    problem,
    require_ran,
    skipping_refusals,
    synchroniser,
    use_backend,
)

pin_threads(THREADS)


class _Solver(Prepared):
    """``make`` the data, ``solve`` the problem on one thread."""

    params = (BACKENDS, [THREADS], [256])
    param_names = ("backend", "threads", "size")

    def prepare(self, backend, threads, size, *choice):
        use_backend(backend)
        self.backend, self.threads, self.synchronise = backend, threads, synchroniser(backend)
        with skipping_refusals(backend):
            self.make(size, *choice)
            self.solution = self.solve(*choice)
        require_ran(backend, self.solution)

    def on_device(self, array):
        return on_device(self.backend, (array,))[0]

    def time_solve(self, backend, threads, size, *choice):
        self.solve(*choice)
        self.synchronise()

    def peakmem_solve(self, backend, threads, size, *choice):
        self.solve(*choice)
        self.synchronise()

    def track_iterations(self, *parameters):
        return int(self.solution.iterations)

    track_iterations.unit = "iterations"

    def track_gap(self, *parameters):
        return float(self.solution.gap)

    track_gap.unit = "relative"


class _Image(_Solver):
    """Scored against the truth, complex images by their magnitude."""

    def track_psnr(self, *parameters):
        from bioperf import psnr

        return psnr(np.abs(on_host(self.solution.x)), np.abs(self.truth))

    track_psnr.unit = "dB"


class _Blurred(_Image):
    """A blurred image in float32."""

    def make(self, size, *choice):
        from bioperf import Blur

        self.truth, y, self.psf = problem(size)
        self.A, self.y = Blur(self.psf, y.shape), self.on_device(y)
        self.choose(*choice)

    def choose(self, *choice):
        """Prepare what a parameter beyond the size asks for."""


class LowerLevel(_Blurred):
    params = (BACKENDS, [THREADS], [255, 256], ["anisotropic", "isotropic"])
    param_names = (*_Solver.param_names, "tv")

    def solve(self, tv):
        from bioperf import solve_lower

        return solve_lower(self.A, self.y, TV_WEIGHT, isotropic=tv == "isotropic", threads=self.threads)


class _Upper(_Blurred):
    """The upper level alone: the lower level and the target are prepared outside the timing."""

    param_names = (*_Solver.param_names, "problem")
    splitting = "ball"

    def choose(self, problem):
        from bioperf import solve_lower

        self.lower = solve_lower(self.A, self.y, TV_WEIGHT, threads=self.threads)
        # A target that brings something new, without a denoiser's time: the truth with a little noise.
        noise = np.random.default_rng(1).standard_normal(self.truth.shape).astype(self.truth.dtype)
        self.target = self.on_device(self.truth + np.float32(0.02) * noise)
        self.epsilon = 0.15 * NOISE * np.sqrt(self.truth.size) if problem == "relaxed" else 0.0

    def solve(self, problem):
        from bioperf import solve_bio

        return solve_bio(
            self.A, self.y, target=self.target, tv_weight=TV_WEIGHT, lower=self.lower, epsilon=self.epsilon,
            splitting=self.splitting, threads=self.threads,
        )  # fmt: skip


class Ball(_Upper):
    params = (BACKENDS, [THREADS], [255, 256], ["exact", "relaxed"])


class Slack(_Upper):
    params = (BACKENDS, [THREADS], [64], ["exact", "relaxed"])
    splitting = "slack"


class Deblur(_Blurred):
    """The one call with its defaults."""

    params = (BACKENDS, [THREADS], [256], ["nlm", "cnn", "identity", "deconv"])
    param_names = (*_Solver.param_names, "target")

    def choose(self, target):
        if target == "cnn" and importlib.util.find_spec("torch") is None:
            raise NotImplementedError('the target "cnn" needs torch: pip install bioperf[torch]')

    def solve(self, target):
        from bioperf import deblur

        return deblur(self.y, self.psf, target=target, threads=self.threads)


class _Kspace(_Image):
    """A quarter of k-space in complex64 of a real image, of a complex one, or of one seen by eight coils."""

    def make(self, size, kind, *choice):
        from bioperf import MaskedFourier, MultiCoilFourier, masks
        from bioperf.coils import simulate_maps

        x, mask = image(size), masks.gaussian((size, size), 0.25)
        x = x if kind == "real" else phased(x)
        self.maps = simulate_maps(x.shape, 8).astype(np.complex64) if kind == "coils" else None
        self.A = MaskedFourier(mask, real=kind == "real") if self.maps is None else MultiCoilFourier(mask, self.maps)
        self.y = self.on_device(kspace(self.A, x).astype(np.complex64))
        self.truth = x.astype(np.float32 if kind == "real" else np.complex64)


class KspaceLowerLevel(_Kspace):
    params = (BACKENDS, [THREADS], [256], ["real", "complex", "coils"], ["TV", "TV + undecimated"])
    param_names = (*_Solver.param_names, "image", "model")

    def solve(self, kind, model):
        from bioperf import UndecimatedWavelet, solve_lower

        weight = KSPACE_WEIGHT if model == "TV + undecimated" else 0.0
        return solve_lower(
            self.A, self.y, KSPACE_WEIGHT, wavelet_weight=weight, wavelet=UndecimatedWavelet("db2", 2), isotropic=True,
            threads=self.threads,
        )  # fmt: skip


class ReconstructMRI(_Kspace):
    """The one call with its defaults."""

    params = (BACKENDS, [THREADS], [256], ["real", "complex", "coils"])
    param_names = (*_Solver.param_names, "image")

    def solve(self, kind):
        from bioperf import reconstruct_mri

        real = None if self.maps is not None else kind == "real"
        return reconstruct_mri(self.y, self.A.mask, maps=self.maps, real=real, threads=self.threads)


class Bilevel(_Solver):
    """The general form: sparse logistic regression, a quarter of its columns twice; size is their number."""

    params = (BACKENDS, [THREADS], [80], ["exact", "relaxed"])
    param_names = (*_Solver.param_names, "problem")

    def make(self, size, problem):
        if self.backend == "cuda":
            raise NotImplementedError("the general form runs on the host")
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
