"""The solvers on a synthetic deblurring problem: time, memory, iterations, gap and PSNR side by side."""

import numpy as np

from .common import NOISE, TV_WEIGHT, pin_threads, problem

THREADS = 1
pin_threads(THREADS)


class _Solver:
    """``prepare`` makes the data, ``solve`` runs the solver; one image of float32, one thread."""

    params = ([256],)
    param_names = ("size",)
    timeout = 300

    def setup(self, size, *choice):
        from bioperf import Blur

        self.truth, self.y, self.psf = problem(size)
        self.A = Blur(self.psf, self.y.shape)
        self.prepare(*choice)
        self.solution = self.solve(*choice)

    def prepare(self, *choice):
        pass

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

    def track_psnr(self, size, *choice):
        from bioperf import psnr

        return psnr(self.solution.x, self.truth)

    track_psnr.unit = "dB"


class LowerLevel(_Solver):
    params = ([255, 256], ["anisotropic", "isotropic"])
    param_names = ("size", "tv")

    def solve(self, tv):
        from bioperf import solve_lower

        return solve_lower(self.A, self.y, TV_WEIGHT, isotropic=tv == "isotropic", threads=THREADS)


class _Upper(_Solver):
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


class Deblur(_Solver):
    """The one call with its defaults."""

    params = ([256], ["nlm", "identity", "deconv"])
    param_names = ("size", "target")

    def solve(self, target):
        from bioperf import deblur

        return deblur(self.y, self.psf, target=target, threads=THREADS)
