"""What both splittings of the upper level share: the test for convergence, the certificate, the result."""

import numpy as np

from .progress import Record, outcome
from .solution import Solution

BALANCE_BY = 3.0
# The data constraint is the tighter one: its violation is measured against |ybar| and must be below tol times this.
DATA_TOL_FACTOR = 0.1
# A gap is relative to the objective, or to this times eta |D|^2: a distance of 0.1 % of D counts as near 0.
OBJECTIVE_FLOOR = 0.5e-6


class UpperLevel:
    """What both splittings share: the spectra, the test for convergence and the result."""

    def __init__(self, problem, data, image, bound, options, stage):
        self.problem, self.bound = problem, bound
        self.kernels, self.fft, self.threads = problem.kernels, problem.fft, problem.threads
        self.eta, self.epsilon, self.tol = options["eta"], options["epsilon"], options["tol"]
        self.isotropic, self.max_iter = options["isotropic"], options["max_iter"]
        self.data, self.target = self.fft.coefficients(data), self.fft.coefficients(image)
        self.data_norm = np.sqrt(problem.square_norm(self.data)) or 1.0
        # A bound or an objective that is 0 but for rounding is compared with rounding.
        eps, target_square = float(np.finfo(problem.dtype).eps), problem.square_norm(self.target)
        self.bound_scale = max(bound, np.sqrt(eps * problem.pixels) * self.data_norm)
        self.objective_floor = max(OBJECTIVE_FLOOR * self.eta * target_square, np.finfo(float).tiny)
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

    def balance(self):
        """The factor for a penalty, and whose: "tv" or "data".

        An objective below the bound means an infeasible x: the constraint that is violated more pulls too
        weakly.  One above it means that the multipliers lag: the constraint violated less pulls too hard.
        """
        data_leads = self.data_excess > DATA_TOL_FACTOR * self.tv_excess
        if self.gap < 0:
            return BALANCE_BY, "data" if data_leads else "tv"
        return 1 / BALANCE_BY, "tv" if data_leads else "data"

    def dual_bound(self, dual, field_weight, residual, data_weight, field_norm):
        """mathematics.md 6: <q, D> - |q|^2/(2 eta) - t |mu|_inf - <nu, ybar> - epsilon |nu|, and |q|."""
        pixels = self.problem.pixels
        qd, qq, ny, nn = (
            pixels * value
            for value in self.kernels.upper_dual(
                dual, residual, self.target, self.problem.transfer, self.data, field_weight, data_weight,
                self.problem.copies, threads=self.threads,
            )
        )  # fmt: skip
        return qd - qq / (2 * self.eta) - self.bound * field_norm - ny - self.epsilon * np.sqrt(nn), np.sqrt(qq)

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
    Newton's method on a convex piecewise linear function: exact when the active set stays the same.
    """
    norm, above, count = sums
    if norm <= radius:
        return 0.0
    size = q[0].size if isotropic else q.size
    theta, active = (norm - radius) / size, float(size)
    if count > 0 and (above - radius) / count > theta:
        theta, active = (above - radius) / count, count
    while True:
        above, count = kernels.sum_above(q, theta, isotropic, threads=threads)
        if count in (0, active):
            return theta
        following = (above - radius) / count
        if not following > theta * (1 + 1e-12):
            return theta
        theta, active = following, count


def data_shrink(epsilon, norm):
    return min(1.0, epsilon / norm) if norm > 0 else 1.0


def rescale_residual(residual, shrink, factor, epsilon):
    """The data constraint's residual for a penalty times factor: p stays, its scaled multiplier shrinks."""
    merged = shrink + (1 - shrink) / factor
    residual *= residual.real.dtype.type(merged)
    return shrink / merged if epsilon > 0 else 0.0


def stationarity(problem, upper, kept, dual, residual, weights, dual_norm):
    """|eta (x - D) + q| / |q|: the relative KKT residual of the x-update at the new multipliers.

    Where no constraint is active q is 0, and the residual is taken relative to the rounding of eta D.
    """
    # row by row, in place of whole spectra: the memory of a solve is counted
    for row in np.ndindex(kept.shape[:-1]):
        kept[row] -= upper.target[row]
        kept[row] *= upper.eta
        kept[row] += weights[0] * dual[row] + weights[1] * np.conj(problem.transfer[row]) * residual[row]
    rounding = float(np.finfo(problem.dtype).eps) * upper.eta * np.sqrt(problem.square_norm(upper.target))
    return float(np.sqrt(problem.square_norm(kept)) / max(dual_norm, rounding, np.finfo(float).tiny))
