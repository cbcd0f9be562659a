"""What a solve reports while it runs: the callback, the history, and the watch for divergence."""

import time
from dataclasses import dataclass

import numpy as np

from .solution import DivergenceError

__all__ = ["Progress"]

_AT_LIMIT = "not converged: iteration limit"


@dataclass
class Progress:
    """What a callback is given at each check; returning True stops the run.

    ``measure`` is the largest of the stopping tests divided by its tolerance (1 or less: converged).
    """

    iteration: int
    max_iter: int
    x: np.ndarray
    objective: float
    gap: float
    measure: float
    seconds: float
    stage: str


def diverged(stage, iteration):
    """The error of an iterate that became NaN or infinite."""
    return DivergenceError(
        f"{stage}: the iterate became NaN or infinite by iteration {iteration}; "
        "rescale data and weights to the order of 1, or leave the penalty to be chosen"
    )


class Record:
    """The history of one solve, the callback, and the watch for divergence."""

    def __init__(self, stage, max_iter, callback):
        self.stage, self.max_iter, self.callback = stage, max_iter, callback
        self.start = time.perf_counter()
        self.rows = []

    @property
    def seconds(self):
        return time.perf_counter() - self.start

    def add(self, iteration, x, measure, **row):
        """Append a row; True if the callback asks to stop."""
        if not np.isfinite(row["objective"]):
            raise diverged(self.stage, iteration)
        self.rows.append({"iteration": iteration, "seconds": self.seconds, **row})
        if self.callback is None:
            return False
        scale = max(abs(row["objective"]), abs(row["lower_bound"]), np.finfo(float).tiny)
        gap = (row["objective"] - row["lower_bound"]) / scale
        info = Progress(iteration, self.max_iter, x, row["objective"], gap, measure, self.seconds, self.stage)
        answer = self.callback(info)
        return isinstance(answer, bool | np.bool_) and bool(answer)

    def resume(self, history):
        """Go on after the rows of a history, its time included; the last iteration of it."""
        names = list(history)
        columns = zip(*(history[name].tolist() for name in names), strict=True)
        self.rows = [dict(zip(names, row, strict=True)) for row in columns]
        self.start -= self.rows[-1]["seconds"]
        return self.rows[-1]["iteration"]

    def history(self):
        return {name: np.array([row[name] for row in self.rows]) for name in self.rows[-1]}


def without_stop(status, iterations):
    """The ``outcome`` of a run at its limit, had the callback not stopped it there."""
    return status.replace(f"stopped by the callback at iteration {iterations} ", f"{_AT_LIMIT} {iterations} reached ")


def outcome(converged, stopped, iterations, measured):
    if converged:
        return f"converged in {iterations} iterations ({measured})"
    if stopped:
        return f"stopped by the callback at iteration {iterations} ({measured})"
    return f"{_AT_LIMIT} {iterations} reached ({measured})"
