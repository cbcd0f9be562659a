"""Selection of hyper-parameters on synthetic k-space: time, criterion and work of each method side by side."""

import importlib.util
import math
import warnings

import numpy as np

from .common import BACKENDS, THREADS, Prepared, image, pin_threads, require_ran, use_backend

pin_threads(THREADS)

RATE, NOISE = 0.35, 0.05
TRIALS = 25


class Select(Prepared):
    """A real image seen by 35 % of k-space on spokes; ``TRIALS`` trials a search."""

    params = (
        BACKENDS, [THREADS], [64, 128], ["bf-dca", "bf-dca-faithful", "hypergradient", "grid", "random", "tpe"],
    )  # fmt: skip
    param_names = ("backend", "threads", "size", "method")
    criterion = "supervised"

    def prepare(self, backend, threads, size, method):
        if backend == "cuda":
            raise NotImplementedError("the selection runs on the host")
        if backend == "reference" and size > 64:
            raise NotImplementedError("the reference is measured at 64 x 64: larger ones take minutes")
        if method == "tpe" and not importlib.util.find_spec("optuna"):
            raise NotImplementedError('the method "tpe" needs Optuna: pip install bioperf[tune]')
        use_backend(backend)
        from bioperf import MaskedFourier, masks
        from bioperf.selection import TVWavelet

        self.truth = image(size)
        self.A = MaskedFourier(masks.radial(self.truth.shape, RATE))
        self.y = self.A(self.truth + NOISE * np.random.default_rng(0).standard_normal(self.truth.shape))
        self.threads, self.problem = threads, TVWavelet(self.A, self.y, reference=self.truth)
        self.selection = self.select(method)
        require_ran(backend, self.selection)

    def select(self, method):
        from bioperf.selection import select_hyperparameters

        with warnings.catch_warnings(action="ignore"):  # about the tolerance, once a call
            return select_hyperparameters(
                self.problem, method=method, criterion=self.criterion, trials=TRIALS, threads=self.threads
            )

    def time_select(self, backend, threads, size, method):
        self.select(method)

    def peakmem_select(self, backend, threads, size, method):
        self.select(method)

    def track_criterion(self, *parameters):
        return self.selection.best_criterion

    track_criterion.unit = "half squared error"

    def track_lower_solves(self, *parameters):
        return int(self.selection.lower_solves)

    track_lower_solves.unit = "lower-level problems"

    def track_iterations(self, *parameters):
        return int(self.selection.iterations)

    track_iterations.unit = "iterations"

    def track_gap(self, *parameters):
        """Of the lower level with the selected weights; NaN where they are all 0 and there is none."""
        if not any(self.selection.weights.values()):
            return math.nan
        return float(self.selection.apply(self.A, self.y, threads=self.threads).gap)

    track_gap.unit = "relative"

    def track_psnr(self, *parameters):
        from bioperf import psnr

        return psnr(self.selection.x, self.truth)

    track_psnr.unit = "dB"


class SelectHeldOut(Select):
    """Judged by samples kept back."""

    criterion = "holdout"
    params = (BACKENDS, [THREADS], [64, 128], ["bf-dca", "grid"])
