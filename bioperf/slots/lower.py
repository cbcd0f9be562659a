"""The lower level on a batch: the iteration of ``bioperf.lower`` on items side by side."""

import numpy as np

from .._fourier import RELAXATION
from .._kkt import (
    BALANCE_AT,
    BALANCED,
    CHECK_EVERY,
    KKT_FACTOR,
    PENALTY_FACTOR,
    beyond_rounding_each,
    dual_value_each,
    rounding_floors,
)
from ..progress import outcome
from .items import Batch, is_among


class LowerBatch(Batch):
    """min 1/2 |A x - y|^2 + gamma TV(x) for every item, as ``solve_lower`` solves it alone.

    Parameters
    ----------
    problem, arrays, queue
        As for ``Batch``.
    y, observed : sequences of an array an item
        The data, and the operator's images of them (``A.data_image``).
    weights : ndarray, shape (count,)
        gamma of each item.
    x0 : sequence of an array an item, or None
    isotropic, tol, max_iter, penalty
        As for ``solve_lower``.
    """

    stage = "lower level"

    def __init__(self, problem, arrays, queue, y, observed, weights, x0, *, isotropic, tol, max_iter, penalty):
        super().__init__(problem, arrays, queue, max_iter, CHECK_EVERY)
        self.y, self.observed, self.weights, self.x0 = y, observed, weights, x0
        self.isotropic, self.tol, self.fixed_penalty = isotropic, tol, penalty
        self.kkt_tol = KKT_FACTOR * np.sqrt(tol)
        self.gamma, self.penalty, self.constant, self.rounding, self.tv_rounding = (self.number() for _ in range(5))
        self.factor, self.square = self.number(), self.number()
        self.theta, self.new_theta, self.weight = (self.device_number() for _ in range(3))
        self.zeros, self.squares = arrays.numbers(self.capacity), arrays.numbers(self.capacity)
        self.status, self.sums = arrays.numbers(self.capacity, 6), arrays.numbers(self.capacity, 3)
        self.kkt_sums = arrays.numbers(self.capacity, 2)

    def load(self, slots, items):
        arrays, y, gamma = self.arrays, self.arrays.stack([self.y[item] for item in items]), self.weights[items]
        images = arrays.stack([self.observed[item] for item in items])
        self.data[slots], rest = arrays.coefficients(y)
        self.x[slots] = images if self.x0 is None else arrays.stack([self.x0[item] for item in items])
        arrays.gradient(self.x, self.q, slots)
        self.gamma[slots], self.constant[slots], self.factor[slots] = gamma, 0.5 * rest, 1.0
        penalty = self.fixed_penalty
        self.penalty[slots] = PENALTY_FACTOR * gamma / arrays.ranges(images) if penalty is None else penalty
        size = int(np.prod(y.shape[1:]))
        self.rounding[slots], self.tv_rounding[slots] = rounding_floors(self.problem, arrays.norms(y), size, gamma)
        arrays.put(self.theta, slots, 0.0)
        self._set_penalty(slots)

    def _set_penalty(self, slots):
        self.arrays.put(self.new_theta, slots, self.gamma[slots] / self.penalty[slots])
        self.arrays.put(self.weight, slots, self.penalty[slots] * self.problem.scale)

    def advance(self, steps):
        now, a = slice(self.active), self.arrays
        to_rescale = np.flatnonzero(self.factor[now] != 1)
        if to_rescale.size:
            self._split(now)
            for slots in a.groups(to_rescale):
                self._rescale(slots)
            self._image(now, keep=steps == 1)
            steps -= 1
        if a.iterations and steps:
            p = self.problem
            a.iterations.lower_iterations(
                a.plan, self.x[now], self.q[now], self.rhs[:1], self.spectrum[:1], self.kept[now], self.data[now],
                p.transfer, p.laplacian, p.copies, RELAXATION, self.theta[now], self.new_theta[now], self.weight[now],
                self.isotropic, self.squares[now], steps,
            )  # fmt: skip
        else:
            for step in range(steps):
                a.run((self.active, step == steps - 1), self._iterate, now, step == steps - 1)
        self.square[now] = self.problem.pixels * a.host(self.squares[now])

    def _iterate(self, now, keep):
        self._split(now)
        self._image(now, keep)

    def _split(self, now):
        """Steps 1 and 2 of ``solve_lower``."""
        self.kernels.update_field_divergence_batch(
            self.x[now], self.q[now], RELAXATION, self.theta[now], self.new_theta[now], self.isotropic, self.rhs[now],
            threads=self.arrays.threads,
        )  # fmt: skip
        self.theta[now] = self.new_theta[now]

    def _image(self, now, keep):
        """Step 3; ``keep`` keeps the spectrum for the KKT residual."""
        p, a, spectrum = self.problem, self.arrays, self.spectrum[now]
        a.forward(self.rhs, self.spectrum, now)
        a.zero_mean(spectrum)
        self.kernels.lower_spectrum_batch(
            spectrum, p.transfer, self.data[now], p.laplacian, self.weight[now], self.zeros[now], p.copies,
            self.squares[now], threads=a.threads,
        )  # fmt: skip
        if keep:
            self.kept[now] = spectrum
        a.inverse(self.spectrum, self.x, now)

    def _rescale(self, slots):
        """Other penalties between the two halves of an iteration, the multipliers the same."""
        a, q, factor = self.arrays, self.q[slots], self.factor[slots]
        self.kernels.update_field_batch(
            self.x[slots], q, 0.0, self.theta[slots], a.device(factor), self.isotropic, self.zeros[slots],
            self.sums[slots], threads=a.threads,
        )  # fmt: skip
        self.penalty[slots] /= factor
        self.factor[slots] = 1.0
        self._set_penalty(slots)
        self.theta[slots] = self.new_theta[slots]
        rhs = self.rhs[slots]
        self.kernels.field_divergence_batch(q, self.theta[slots], self.isotropic, 1.0, -2.0, rhs, threads=a.threads)
        self.q[slots], self.rhs[slots] = q, rhs

    def check(self, due):
        now, a = slice(self.active), self.arrays
        a.run((self.active, "status"), self._measure, now)
        tv, clip_pairing, gv, vv, gg, largest = a.host(self.status[now]).T
        gamma, penalty, done, square = self.gamma[now], self.penalty[now], self.done[now], self.square[now]
        objective = 0.5 * square + self.constant[now] + gamma * tv
        # mu = penalty (grad x - v + c) satisfies stationarity exactly: the x-update says so.
        pairing = penalty * (clip_pairing + 0.5 * (gg + gv - vv))
        slack, excess = gamma * tv - penalty * clip_pairing, penalty * largest / gamma
        lower_bound = dual_value_each(square, pairing, excess) + self.constant[now]
        complementarity = beyond_rounding_each(slack, gamma * self.tv_rounding[now], objective)
        last = done == self.max_iter
        balance = (self.fixed_penalty is None) & is_among(done, BALANCE_AT) & (gv > 0)
        wanted = due & ((complementarity <= self.tol) | balance | last)
        kkt = np.where(wanted, self._kkt_residual(now, np.flatnonzero(wanted)), np.nan)
        converged = (complementarity <= self.tol) & (kkt <= self.kkt_tol)
        self.record(
            due, objective=objective, lower_bound=lower_bound, complementarity=complementarity, kkt_residual=kkt,
            penalty=penalty,
        )  # fmt: skip
        ended = due & (converged | last)
        ratio = BALANCED * kkt / np.maximum(complementarity, np.finfo(float).eps)
        change = due & balance & ~ended & ~((ratio >= 0.5) & (ratio <= 2))
        self.factor[now] = np.where(change, np.clip(np.sqrt(ratio), 0.05, 20.0), 1.0)
        self.numbers_at_check = objective, tv, complementarity, kkt, converged
        return ended

    def _measure(self, now):
        self.kernels.field_status_batch(
            self.x[now], self.q[now], self.theta[now], self.isotropic, self.status[now], threads=self.arrays.threads
        )

    def _kkt_residual(self, now, wanted):
        """|A^T(Ax - y) + grad^T mu| / |grad^T mu| at x and the clipped field's multiplier, where it is wanted."""
        for slots in self.arrays.stretches(wanted, self.active):
            self.arrays.run((slots.stop, "kkt"), self._measure_kkt, slots)
        error, size = np.sqrt(self.problem.pixels * self.arrays.host(self.kkt_sums[now])).T
        return beyond_rounding_each(error, self.rounding[now], size)

    def _measure_kkt(self, slots):
        p, a, rhs, spectrum = self.problem, self.arrays, self.rhs[slots], self.spectrum[slots]
        self.kernels.field_divergence_batch(
            self.q[slots], self.theta[slots], self.isotropic, 0.0, 1.0, rhs, threads=a.threads
        )
        a.forward(self.rhs, self.spectrum, slots)
        self.kernels.lower_kkt_batch(
            self.kept[slots], spectrum, p.transfer, self.data[slots], self.weight[slots], p.copies,
            self.kkt_sums[slots], threads=a.threads,
        )  # fmt: skip

    def finish(self, slot):
        objective, tv, complementarity, kkt, converged = (float(values[slot]) for values in self.numbers_at_check)
        done = int(self.done[slot])
        measured = f"complementarity {complementarity:.1e}, KKT residual {kkt:.1e}, tol {self.tol:g}"
        return self.solution(
            slot, objective, np.nan, {}, kkt, converged, outcome(converged, False, done, measured),
            {"total_variation": tv, "penalty": float(self.penalty[slot])},
        )  # fmt: skip

    def complete(self, solution):
        solution.lower_bound = float(np.max(solution.history["lower_bound"]))
