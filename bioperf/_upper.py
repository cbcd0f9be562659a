"""What both splittings of the upper level share: the test for convergence, the penalties, the result."""

import numpy as np

from .progress import Record, outcome
from .solution import Solution

CHECK_EVERY = 10
# A penalty in units of eta: it multiplies |grad x|^2 as eta multiplies |x|^2.
FIELD_PENALTY = 1.0
# The penalties are balanced at these iterations, and then left alone: convergence is that of the fixed method.
BALANCE_AT = frozenset({10, 20, 40, 80, 160, 320})
BALANCE_BY = 3.0
# The data constraint is the tighter one: its violation is measured against |ybar| and must be below tol times this.
DATA_TOL_FACTOR = 0.1
# A gap is relative to the objective, or to this times eta |D|^2: a distance of 0.1 % of D counts as near 0.
OBJECTIVE_FLOOR = 0.5e-6


def start_penalty(epsilon):
    """A data penalty to start from, in units of eta, for one radius or for each of an array."""
    return np.where(np.asarray(epsilon) > 0, 100.0, 1000.0)


class UpperLevel:
    """The test for convergence, the balance of the penalties and the result.

    ``data`` is the data's side of the item (``UpperData`` or ``UpperCoils``).
    """

    def __init__(self, problem, data, bound, options, stage):
        self.problem, self.bound, self.epsilon = problem, bound, data.epsilon
        self.tol, self.max_iter, self.data_norm = options["tol"], options["max_iter"], data.norm
        # A bound or an objective that is 0 but for rounding is compared with rounding.
        eps = float(np.finfo(problem.dtype).eps)
        self.bound_scale = max(bound, np.sqrt(eps * problem.pixels) * data.norm)
        self.objective_floor = max(OBJECTIVE_FLOOR * data.eta * data.target_square, np.finfo(float).tiny)
        self.record = Record(stage, self.max_iter, options["callback"])

    def check(self, done, x, tv, objective, lower_bound, residual, **row):
        """Record a check; whether it is converged, and whether the callback stops."""
        self.gap = (objective - lower_bound) / max(abs(objective), abs(lower_bound), self.objective_floor)
        self.tv_excess = max(0.0, tv - self.bound) / self.bound_scale
        self.data_excess = max(0.0, residual - self.epsilon) / self.data_norm
        self.objective = objective
        data_tol = DATA_TOL_FACTOR * self.tol
        measure = max(abs(self.gap) / self.tol, self.tv_excess / self.tol, self.data_excess / data_tol)
        stopped = self.record.add(
            done, x, measure, objective=objective, lower_bound=lower_bound, gap=self.gap,
            tv_infeasibility=self.tv_excess, data_infeasibility=self.data_excess, **row,
        )  # fmt: skip
        return measure <= 1, stopped

    def resume(self, level):
        """The iteration to go on from, with what its check measured."""
        done = level.resume(self.record)
        with level.restoring():
            row = self.record.rows[-1]
            self.gap, self.objective = row["gap"], row["objective"]
            self.tv_excess, self.data_excess = row["tv_infeasibility"], row["data_infeasibility"]
        return done

    def balance(self):
        """The factor for a penalty, and whose: "tv" or "data".

        An objective below the bound means an infeasible x: the constraint that is violated more pulls too
        weakly.  One above it means that the multipliers lag: the constraint violated less pulls too hard.
        """
        data_leads = self.data_excess > DATA_TOL_FACTOR * self.tv_excess
        if self.gap < 0:
            return BALANCE_BY, "data" if data_leads else "tv"
        return 1 / BALANCE_BY, "tv" if data_leads else "data"

    def solution(self, x, done, converged, stopped, penalties):
        history = self.record.history()
        measured = f"gap {self.gap:.1e}, TV {self.tv_excess:.1e}, data {self.data_excess:.1e}, tol {self.tol:g}"
        return Solution(
            x=x,
            objective=self.objective,
            lower_bound=float(history["lower_bound"][-1]),
            infeasibility={"tv": self.tv_excess, "data": self.data_excess},
            kkt_residual=float(history["kkt_residual"][-1]),
            iterations=done,
            converged=bool(converged),
            status=outcome(converged, stopped, done, measured),
            history=history,
            seconds=self.record.seconds,
            **self.problem.what_ran(),
            details={"penalties": penalties},
        )


def field_threshold(kernels, q, radius, isotropic, trial, sums, threads):
    """theta with |q - clip(q, theta)| = radius in the l1 (l21) norm, 0 inside the ball.

    ``sums`` are those of ``update_field`` for the trial threshold, so that a good trial costs no pass.
    """
    threshold = np.array([trial], dtype=float)
    kernels.field_threshold_batch(
        q[None], np.array([radius], dtype=float), isotropic, threshold, np.array([sums]), threads=threads
    )
    return float(threshold[0])
