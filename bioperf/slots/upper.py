"""The upper level on a batch: the ball iteration of ``bioperf.bio`` on items side by side."""

from dataclasses import dataclass

import numpy as np

from .._fourier import RELAXATION
from .._upper import (
    BALANCE_AT,
    BALANCE_BY,
    CHECK_EVERY,
    DATA_TOL_FACTOR,
    FIELD_PENALTY,
    OBJECTIVE_FLOOR,
    start_penalty,
)
from ..progress import outcome
from .items import Batch, is_among


@dataclass(frozen=True)
class UpperItem:
    """The upper level's problem of one item: ybar, D, the bounds of TV(x) and |A x - ybar|, and where to start.

    ``ybar`` None stands for A xbar.
    """

    ybar: np.ndarray | None
    target: np.ndarray
    bound: float
    epsilon: float
    x0: np.ndarray
    xbar: np.ndarray | None = None


class UpperBatch(Batch):
    """min eta/2 |x - D|^2 subject to |A x - ybar| <= epsilon and TV(x) <= bound, as ``solve_bio`` solves it alone.

    Parameters
    ----------
    problem, arrays, queue
        As for ``Batch``.
    items : sequence of UpperItem
    eta, isotropic, tol, max_iter, penalties
        As for ``solve_bio``.
    """

    stage = "upper level (ball)"

    def __init__(self, problem, arrays, queue, items, *, eta, isotropic, tol, max_iter, penalties):
        super().__init__(problem, arrays, queue, max_iter, CHECK_EVERY)
        self.items = items
        self.eta, self.isotropic, self.tol, self.fixed_penalties = eta, isotropic, tol, penalties
        self.target, self.residual = self.images("spectrum"), self.images("spectrum")
        self.bound, self.epsilon, self.norm, self.target_square = (self.number() for _ in range(4))
        self.field_penalty, self.data_penalty = self.number(), self.number()
        self.theta, self.trial, self.shrink, self.radius, self.ball = (self.device_number() for _ in range(5))
        self.field_weight, self.data_weight, self.multiplier = (self.device_number() for _ in range(3))
        self.ones, self.shift = arrays.numbers(self.capacity), arrays.numbers(self.capacity)
        arrays.put(self.ones, slice(None), 1.0)
        arrays.put(self.shift, slice(None), eta)
        self.sums, self.squares = arrays.numbers(self.capacity, 3), arrays.numbers(self.capacity, 3)
        self.status, self.dual_sums = arrays.numbers(self.capacity, 6), arrays.numbers(self.capacity, 5)

    def load(self, slots, items):
        p, a = self.problem, self.arrays
        given = [self.items[item] for item in items]
        epsilon, bound = (np.array(values) for values in zip(*((g.epsilon, g.bound) for g in given), strict=True))
        self.bound[slots], self.epsilon[slots] = bound, epsilon
        start = a.stack([g.x0 for g in given])
        fitted = given[0].ybar is None
        if fitted:
            own = all(g.x0 is g.xbar for g in given)
            data = p.transfer * a.image_coefficients(start if own else a.stack([g.xbar for g in given]))
        else:
            data, _ = a.coefficients(a.stack([g.ybar for g in given]))
        target = a.image_coefficients(a.stack([g.target for g in given]))
        self.data[slots], self.target[slots] = data, target
        norm = np.sqrt(a.square_norms(data))
        self.norm[slots], self.target_square[slots] = np.where(norm > 0, norm, 1.0), a.square_norms(target)
        self.x[slots] = start
        a.gradient(self.x, self.q, slots)
        residual = 0 * data if fitted and own else p.transfer * a.image_coefficients(start) - data
        self.residual[slots] = residual
        a.put(self.ball, slots, epsilon)
        a.put(self.radius, slots, bound)
        a.put(self.theta, slots, 0.0)
        norm = np.sqrt(a.square_norms(residual))
        a.put(self.shrink, slots, np.where(norm > 0, np.minimum(1.0, epsilon / np.where(norm > 0, norm, 1.0)), 1.0))
        if self.fixed_penalties is None:
            self.field_penalty[slots] = FIELD_PENALTY * self.eta
            self.data_penalty[slots] = start_penalty(epsilon) * self.eta
        else:
            self.field_penalty[slots], self.data_penalty[slots] = self.fixed_penalties
        self._set_weights(slots)

    def _set_weights(self, slots):
        self.arrays.put(self.field_weight, slots, self.field_penalty[slots] * self.problem.scale)
        self.arrays.put(self.data_weight, slots, self.data_penalty[slots])

    def advance(self, steps):
        now, a = slice(self.active), self.arrays
        if a.iterations:
            p = self.problem
            a.iterations.upper_iterations(
                a.plan, self.x[now], self.q[now], self.rhs[:1], self.spectrum[:1], self.kept[now], self.target[now],
                self.data[now], self.residual[now], p.transfer, p.laplacian, p.copies, self.eta, self.shift[now],
                self.field_weight[now], self.data_weight[now], RELAXATION, self.shrink[now], self.theta[now],
                self.radius[now], self.ball[now], self.isotropic, self.squares[now], steps,
            )  # fmt: skip
        else:
            for step in range(steps):
                a.run((self.active, step == steps - 1), self._iterate, now, step == steps - 1)

    def _iterate(self, now, keep):
        self._split(now)
        self._image(now, keep)

    def _split(self, now):
        """The fields' update and the projection onto the total variation's ball."""
        q, theta, sums, threads = self.q[now], self.theta[now], self.sums[now], self.arrays.threads
        self.trial[now] = theta
        self.kernels.update_field_batch(
            self.x[now], q, RELAXATION, theta, self.ones[now], self.isotropic, self.trial[now], sums, threads=threads
        )
        self.kernels.field_threshold_batch(q, self.radius[now], self.isotropic, theta, sums, threads=threads)

    def _image(self, now, keep):
        """The x-update and the data ball's; ``keep`` keeps the spectrum for the certificate."""
        p, a, rhs, spectrum = self.problem, self.arrays, self.rhs[now], self.spectrum[now]
        self.kernels.field_divergence_batch(
            self.q[now], self.theta[now], self.isotropic, 1.0, -2.0, rhs, threads=a.threads
        )
        a.forward(self.rhs, self.spectrum, now)
        a.zero_mean(spectrum)
        self.kernels.upper_spectrum_batch(
            spectrum, self.target[now], p.transfer, self.data[now], self.residual[now], p.laplacian, self.eta,
            self.shift[now], self.field_weight[now], self.data_weight[now], RELAXATION, self.shrink[now], p.copies,
            self.squares[now], threads=a.threads,
        )  # fmt: skip
        a.shrink(self.squares[now, 0], self.ball[now], self.shrink[now])
        if keep:
            self.kept[now] = spectrum
        a.inverse(self.spectrum, self.x, now)

    def check(self, due):
        p, a, now = self.problem, self.arrays, slice(self.active)
        a.run((self.active, "certificate"), self._measure, now)
        _, misfit, distance = np.sqrt(p.pixels * a.host(self.squares[now])).T
        tv, theta, shrink = a.host(self.status[now, 0]), a.host(self.theta[now]), a.host(self.shrink[now])
        objective = 0.5 * self.eta * distance * distance
        lower_bound, kkt = self._bound(now, theta)
        bound, epsilon, norm = self.bound[now], self.epsilon[now], self.norm[now]
        # A bound or an objective that is 0 but for rounding is compared with rounding.
        bound_scale = np.maximum(bound, np.sqrt(float(np.finfo(p.dtype).eps) * p.pixels) * norm)
        floor = np.maximum(OBJECTIVE_FLOOR * self.eta * self.target_square[now], np.finfo(float).tiny)
        gap = (objective - lower_bound) / np.maximum(np.maximum(np.abs(objective), np.abs(lower_bound)), floor)
        tv_excess = np.maximum(0.0, tv - bound) / bound_scale
        data_excess = np.maximum(0.0, misfit - epsilon) / norm
        measure = np.maximum(np.maximum(np.abs(gap), tv_excess) / self.tol, data_excess / (DATA_TOL_FACTOR * self.tol))
        done = self.done[now]
        self.record(
            due, objective=objective, lower_bound=lower_bound, gap=gap, tv_infeasibility=tv_excess,
            data_infeasibility=data_excess, kkt_residual=kkt, field_penalty=self.field_penalty[now],
            data_penalty=self.data_penalty[now],
        )  # fmt: skip
        converged = measure <= 1
        ended = due & (converged | (done == self.max_iter))
        if self.fixed_penalties is None:
            self._balance(
                due & ~ended & is_among(done, BALANCE_AT) & (np.abs(gap) > self.tol), gap < 0,
                data_excess > DATA_TOL_FACTOR * tv_excess, shrink,
            )  # fmt: skip
        self.numbers_at_check = objective, lower_bound, gap, tv_excess, data_excess, kkt, converged
        return ended

    def _measure(self, now):
        """TV(x), and the sums of the lower bound at the multipliers of mathematics.md 6."""
        p, a, rhs, spectrum = self.problem, self.arrays, self.rhs[now], self.spectrum[now]
        self.kernels.field_status_batch(
            self.x[now], self.q[now], self.theta[now], self.isotropic, self.status[now], threads=a.threads
        )
        self.kernels.field_divergence_batch(
            self.q[now], self.theta[now], self.isotropic, 0.0, 1.0, rhs, threads=a.threads
        )
        a.forward(self.rhs, self.spectrum, now)
        self.multiplier[now] = self.data_weight[now] * (1 - self.shrink[now])
        self.kernels.upper_dual_batch(
            spectrum, self.kept[now], self.residual[now], self.target[now], p.transfer, self.data[now], self.eta,
            self.field_weight[now], self.multiplier[now], p.copies, self.dual_sums[now], threads=a.threads,
        )  # fmt: skip

    def _bound(self, now, theta):
        """The lower bound and the KKT residual, as ``UpperData.bound`` has them."""
        p = self.problem
        qd, qq, ny, nn, error = p.pixels * self.arrays.host(self.dual_sums[now]).T
        value = qd - qq / (2 * self.eta) - ny - self.epsilon[now] * np.sqrt(nn)
        rounding = float(np.finfo(p.dtype).eps) * self.eta * np.sqrt(self.target_square[now])
        kkt = np.sqrt(error) / np.maximum(np.maximum(np.sqrt(qq), rounding), np.finfo(float).tiny)
        return value - self.bound[now] * self.field_penalty[now] * theta, kkt

    def _balance(self, due, infeasible, data_leads, shrink):
        """As ``UpperLevel.balance`` says for the slots due, the multipliers the same."""
        a = self.arrays
        factor = np.where(infeasible, BALANCE_BY, 1 / BALANCE_BY)
        of_data = infeasible == data_leads
        for slots in a.groups(np.flatnonzero(due & of_data)):
            self.data_penalty[slots] *= factor[slots]
            merged = shrink[slots] + (1 - shrink[slots]) / factor[slots]
            self.residual[slots] *= a.per_item(merged, self.residual)
            a.put(self.shrink, slots, np.where(self.epsilon[slots] > 0, shrink[slots] / merged, 0.0))
            self._set_weights(slots)
        for slots in a.groups(np.flatnonzero(due & ~of_data)):
            self.field_penalty[slots] *= factor[slots]
            q, inverse = self.q[slots], a.device(1 / factor[slots])
            self.kernels.update_field_batch(
                self.x[slots], q, 0.0, self.theta[slots], inverse, self.isotropic, self.trial[slots],
                self.sums[slots], threads=a.threads,
            )  # fmt: skip
            self.q[slots] = q
            self.theta[slots] /= a.device(factor[slots])
            self._set_weights(slots)

    def finish(self, slot):
        values = [float(values[slot]) for values in self.numbers_at_check]
        objective, lower_bound, gap, tv_excess, data_excess, kkt, converged = values
        done = int(self.done[slot])
        measured = f"gap {gap:.1e}, TV {tv_excess:.1e}, data {data_excess:.1e}, tol {self.tol:g}"
        return self.solution(
            slot, objective, lower_bound, {"tv": tv_excess, "data": data_excess}, kkt, converged,
            outcome(bool(converged), False, done, measured),
            {"penalties": (float(self.field_penalty[slot]), float(self.data_penalty[slot]))},
        )  # fmt: skip
