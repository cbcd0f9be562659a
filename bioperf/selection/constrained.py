"""The TV + wavelet model, bounded or penalised: two-block ADMM with a certificate (mathematics.md 8)."""

import functools
from dataclasses import dataclass

import numpy as np

from ..solution import DivergenceError
from .iterates import Iterates, LowerState

RELAXATION = 1.7
CHECK_EVERY = 10
# At these iterations each split's penalty is set anew where its primal and dual changes differ by more than BALANCED.
BALANCE_AT = frozenset({20, 50, 100, 150, 200, 300, 400, 600, 800, 1200, 1600})
BALANCED, BALANCE_BY = 1.5, 3.0
# In place of a norm of 0 where it divides, such that no quotient overflows.
TINY = 1e-140
# At most so many problems side by side, and so many bytes: their iterates stay in the cache.
WIDTH, WIDTH_BYTES = 8, 4 << 20


@dataclass
class LowerSolution:
    """A solution of the lower level with its certificate.

    Attributes
    ----------
    x : ndarray, shape (B, *shape)
        Feasible images.
    spectrum : ndarray, shape (B, *spectrum)
        Their Fourier coefficients.
    value, lower_bound : float
        The objective at x, and what no feasible x falls below.
    multipliers : ndarray of 2
        lambda of the two balls: -dv/dr where v is smooth (or the given weights).
    norms : ndarray of 2
        |W x|_1 and TV(x).
    iterations : int
    converged : bool
        Whether value - lower_bound <= tol f(0).
    state : LowerState
    """

    x: np.ndarray
    spectrum: np.ndarray
    value: float
    lower_bound: float
    multipliers: np.ndarray
    norms: np.ndarray
    iterations: int
    converged: bool
    state: LowerState


class TVWaveletModel:
    """The lower level of hyper-parameter selection, for a stack of images as one variable.

    Constrained (paper's (2.1)): min f(x) subject to |W x|_1 <= r_1, TV(x) <= r_2.
    Penalised (paper's (1.2)): min f(x) + w_1 |W x|_1 + w_2 TV(x).

    Both run the same ADMM; in the first the thresholds are found, in the second they are weights over penalties:

    1. X = (g + F(b_1 W^T(u - a) + b_2 grad^T(p - b))) / (G + b_1 + b_2 L)
    2. w = alpha W x + (1 - alpha) u + a,      u = w - a,  a = clip(w, tau_1)
    3. q = alpha grad x + (1 - alpha) p + b,   p = q - b,  b = clip(q, tau_2)

    The multipliers mu_1 = b_1 (W x - u + a), mu_2 = b_2 (grad x - p + b) with u, a, p, b from before 2 and 3 satisfy
    G x - g + W^T mu_1 + grad^T mu_2 = 0 exactly, which gives a lower bound at every check, and x scaled into
    both balls an upper one.

    Parameters
    ----------
    quadratic : Quadratic
        f.
    transform : a transform of ``bioperf.transforms`` with T^T T = I
    isotropic : bool
    """

    def __init__(self, quadratic, transform, isotropic=True):
        self.quadratic, self.transform, self.isotropic = quadratic, transform, bool(isotropic)
        self.problem = quadratic.problem
        self.linear = quadratic.linear / self.problem.real_dtype.type(self.problem.scale)
        laplacian = functools.reduce(np.add.outer, self.problem.fft.laplacian())
        self.laplacian = laplacian.astype(self.problem.real_dtype)
        self._idle = []

    def norms(self, x):
        """|W x|_1 and TV(x) of a stack."""
        coefficients = sum(float(np.sum(np.abs(self.transform.forward(image)), dtype=np.float64)) for image in x)
        return np.array([coefficients, sum(self.problem.total_variation(image, self.isotropic) for image in x)])

    def constrained(self, radii, *, tol=1e-4, max_iter=2000, state=None, callback=None):
        """A ``LowerSolution`` of the constrained model.

        Stops when value - lower_bound <= tol f(0).  ``callback(iterations, spectrum)`` is called at each check with
        the Fourier coefficients of the best feasible images so far; returning True stops the run.
        """
        return self._solve([[(np.asarray(radii, float), state)]], False, tol, max_iter, callback)[0][0]

    def penalised(self, weights, *, tol=1e-4, max_iter=2000, state=None, callback=None):
        """A ``LowerSolution`` of the penalised model; ``value`` and ``lower_bound`` are of the whole objective."""
        weights = np.asarray(weights, float)
        return self._solve([[(weights, state)]], True, tol, max_iter, callback)[0][0]

    def constrained_many(self, chains, *, tol=1e-4, max_iter=2000):
        """Several constrained problems side by side: chains of radii, each solved from the one before in its chain.

        Returns the solutions in the same nesting.  An item has the same bits whatever is solved beside it.
        """
        goals = [[(np.asarray(radii, float), None) for radii in chain] for chain in chains]
        return self._solve(goals, False, tol, max_iter, None)

    def _solve(self, chains, penalised, tol, max_iter, callback):
        state = 14 * self.problem.pixels * len(self.quadratic.observed) * self.problem.dtype.itemsize
        iterates = self._take(min(len(chains), WIDTH, max(1, WIDTH_BYTES // state)))
        waiting = list(range(len(chains)))
        results = [[] for _ in chains]
        runs = []
        for slot in range(iterates.slots):
            runs.append(_Run(self, iterates, slot, waiting.pop(0), chains, penalised, tol, max_iter, callback))
        goals = np.array([run.goal for run in runs]).T.copy()

        def solve(part):
            linear = self.linear[part.images] if iterates.slots == 1 else self.linear
            iterates.kernels.spectrum_step(part.spectrum, linear, part.inverse, threads=part.threads)

        while runs:
            checking = [run for run in runs if run.checks()]
            balancing = [run.before_balance() for run in runs if run.balances()]
            found = iterates.step(solve, RELAXATION, [run.slot for run in checking])
            finished = [run for run in checking if run.check(*found[run.slot])]
            if penalised:
                np.divide(goals, iterates.penalties, out=iterates.thresholds)
            else:
                iterates.find_thresholds(goals)
            for run, old in balancing:
                run.balance(old)
            for run in runs:
                run.done += 1
            for run in reversed(finished):
                results[run.chain].append(run.solution())
                if run.advance() or (waiting and run.begin(waiting.pop(0))):
                    goals[:, run.slot] = run.goal
                    continue
                last = runs.pop()
                if last is not run:
                    iterates.move(last.slot, run.slot)
                    goals[:, run.slot] = goals[:, last.slot]
                    last.slot = run.slot
                    runs[run.slot] = last
                if runs:
                    iterates.narrow(len(runs))
                    goals = goals[:, : len(runs)].copy()
        if len(chains) == 1:
            self._idle.append(iterates)
        return results

    def _take(self, slots):
        """Arrays for so many problems; those of one problem are used again, by one thread at a time."""
        if slots == 1:
            try:
                return self._idle.pop()
            except IndexError:
                pass
        return Iterates(self.problem, self.transform, self.isotropic, len(self.quadratic.observed), slots)


class _Run:
    """One problem after another in a slot: its bounds, its checks and its penalties."""

    def __init__(self, model, iterates, slot, chain, chains, penalised, tol, max_iter, callback):
        self.model, self.iterates, self.slot, self.chains = model, iterates, slot, chains
        self.penalised, self.tol, self.max_iter, self.callback = penalised, tol, max_iter, callback
        self.begin(chain)

    def begin(self, chain):
        self.chain, self.position = chain, 0
        self.goal, state = self.chains[chain][0]
        self.iterates.start(self.slot, state)
        self._reset()
        return True

    def advance(self):
        """The next problem of the chain, from where this one stopped (from 0 if no ball was active)."""
        self.position += 1
        if self.position == len(self.chains[self.chain]):
            return False
        if not self.iterates.thresholds[:, self.slot].any():
            self.iterates.start(self.slot, None)
        self.goal, _ = self.chains[self.chain][self.position]
        self._reset()
        return True

    def _reset(self):
        self.done, self.lower_bound, self.value, self.best = 1, -np.inf, np.inf, None
        self._set_inverse()

    def _set_inverse(self):
        one, two = self.iterates.penalties[:, self.slot]
        real, scale = self.model.problem.real_dtype.type, self.model.problem.scale
        denominator = self.model.quadratic.gram + real(one) + real(two) * self.model.laplacian
        np.divide(real(scale), denominator, out=self.iterates.inverse[self.slot])

    def checks(self):
        return self.done % CHECK_EVERY == 0 or self.done == self.max_iter

    def check(self, spectrum, status):
        """Both bounds at x; whether to stop."""
        quadratic = self.model.quadratic
        (norm, _, _, largest), (tv, _, _, steepest) = status
        square, cross = quadratic.moments(spectrum)
        norms = np.array([norm, tv])
        bounds = self.iterates.penalties[:, self.slot] * (largest, steepest)
        if not np.isfinite(square + norm + tv):
            raise DivergenceError(
                f"lower level: the iterate became NaN or infinite by iteration {self.done}; rescale the data to order 1"
            )
        if self.penalised:
            weight = float(self.goal @ norms)
            scale = _minimise_scaled(square, cross - weight, np.inf)
            value = 0.5 * scale * scale * square - scale * (cross - weight) + quadratic.at_zero
            with np.errstate(divide="ignore"):
                limit = float(np.min(np.where(bounds > 0, self.goal / np.where(bounds > 0, bounds, 1), np.inf)))
            lower = _scaled_dual(quadratic, square, cross, 0.0, limit)
        else:
            with np.errstate(divide="ignore"):
                limit = float(np.min(np.where(norms > 0, self.goal / np.where(norms > 0, norms, 1), np.inf)))
            scale = _minimise_scaled(square, cross, limit)
            value = 0.5 * scale * scale * square - scale * cross + quadratic.at_zero
            lower = _scaled_dual(quadratic, square, cross, float(self.goal @ bounds), np.inf)
        self.lower_bound = max(self.lower_bound, lower)
        if value < self.value:
            real = self.model.problem.real_dtype.type(scale)
            images = self.iterates.x[self.iterates.span(self.slot)] * real
            self.value, self.best = value, (images, spectrum * real, norms * scale)
        self.converged = self.value - self.lower_bound <= self.tol * quadratic.at_zero
        stopped = self.callback is not None and bool(self.callback(self.done, self.best[1]))
        return self.converged or stopped or self.done >= self.max_iter

    def balances(self):
        return self.done in BALANCE_AT

    def before_balance(self):
        u, _, p, _ = self.iterates.split_images(self.slot)
        return self, (u, p)

    def balance(self, old):
        """Each penalty by its ``balance_factor``."""
        u, a, p, b = self.iterates.split_images(self.slot)
        (_, gap_u, _, _), (_, gap_p, _, _) = self.iterates.status(self.slot)
        changed = False
        for block, (gap, new, before, dual) in enumerate(((gap_u, u, old[0], a), (gap_p, p, old[1], b))):
            factor = balance_factor(np.sqrt(gap), new, RELAXATION * (new - before), dual)
            if factor != 1:
                self.iterates.rescale(self.slot, block, factor, new, dual)
                changed = True
        if changed:
            self._set_inverse()

    def solution(self):
        x, spectrum, norms = self.best
        iterates = self.iterates
        if self.penalised:
            multipliers = np.array(self.goal)
        else:
            multipliers = iterates.penalties[:, self.slot] * iterates.thresholds[:, self.slot]
        return LowerSolution(
            x, spectrum, float(self.value), float(self.lower_bound), multipliers, norms, self.done - 1,
            bool(self.converged), iterates.state(self.slot),
        )  # fmt: skip


def balance_factor(gap, primal, moved, dual):
    """A factor for the penalty of a split: the root of its relative primal over its relative dual change, within
    1 / BALANCE_BY and BALANCE_BY; 1 where it is within BALANCED of 1 or no constraint is active."""
    size = norm(dual)
    if size == 0:
        return 1.0
    ratio = np.sqrt((gap / max(norm(primal), TINY)) / max(norm(moved) / size, TINY))
    return 1.0 if 1 / BALANCED <= ratio <= BALANCED else float(np.clip(ratio, 1 / BALANCE_BY, BALANCE_BY))


def norm(a):
    return float(np.sqrt(np.vdot(a, a).real))


def _minimise_scaled(square, cross, limit):
    """s in [0, limit] with the smallest 1/2 s^2 square - s cross."""
    return max(0.0, min(limit, cross / square if square > 0 else (limit if np.isfinite(limit) else 0.0)))


def _scaled_dual(quadratic, square, cross, support, limit):
    """The largest dual value at s times the multipliers, 0 <= s <= limit.

    With S = s (g - G x) and ``support`` = r . |mu|: c - 1/2 <g - S, G^+(g - S)> - s support.
    """
    image = quadratic.image_term
    curvature = image - 2 * cross + square
    slope = image - cross - support
    scale = max(0.0, min(limit, slope / curvature if curvature > 0 else 0.0))
    return quadratic.floor + scale * slope - 0.5 * scale * scale * curvature
