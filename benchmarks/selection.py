"""Selection of hyper-parameters on synthetic k-space: time, criterion and work of each method side by side."""

import importlib.util

import numpy as np

from .common import image, pin_threads

THREADS = 1
pin_threads(THREADS)

RATE, NOISE = 0.35, 0.05
TRIALS = 25


class Select:
    """A real image seen by 35 % of k-space on spokes; ``TRIALS`` trials a search."""

    params = (["bf-dca", "bf-dca-faithful", "hypergradient", "grid", "random", "tpe"], [64, 128])
    param_names = ("method", "size")
    timeout = 300
    criterion = "supervised"

    def setup(self, method, size):
        if method == "tpe" and not importlib.util.find_spec("optuna"):
            raise NotImplementedError('the method "tpe" needs Optuna: pip install bioperf[tune]')
        from bioperf import MaskedFourier, masks
        from bioperf.selection import TVWavelet

        x = image(size)
        A = MaskedFourier(masks.radial(x.shape, RATE))
        y = A(x + NOISE * np.random.default_rng(0).standard_normal(x.shape))
        self.problem = TVWavelet(A, y, reference=x)
        self.selection = self.select(method)

    def select(self, method):
        from bioperf.selection import select_hyperparameters

        return select_hyperparameters(
            self.problem, method=method, criterion=self.criterion, trials=TRIALS, threads=THREADS
        )

    def time_select(self, method, size):
        self.select(method)

    def track_criterion(self, method, size):
        return self.selection.best_criterion

    track_criterion.unit = "half squared error"

    def track_lower_solves(self, method, size):
        return int(self.selection.lower_solves)

    track_lower_solves.unit = "lower-level problems"

    def track_iterations(self, method, size):
        return int(self.selection.iterations)

    track_iterations.unit = "iterations"


class SelectHeldOut(Select):
    """Judged by samples kept back."""

    criterion = "holdout"
    params = (["bf-dca", "grid"], [64, 128])
