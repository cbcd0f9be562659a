"""The TV + wavelet model, bounded or penalised: two-block ADMM with a certificate (mathematics.md 8)."""

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from ..fft import plan_fft, workspace
from ..kernels import run_tasks, threads_for
from ..solution import DivergenceError
from ..transforms import Wavelet

RELAXATION = 1.7
CHECK_EVERY = 10
# At these iterations each split's penalty is set anew where its primal and dual changes differ by more than BALANCED.
BALANCE_AT = frozenset({20, 50, 100, 150, 200, 300, 400, 600, 800, 1200, 1600})
BALANCED, BALANCE_BY = 1.5, 3.0
# Problems solved side by side: beyond this their states leave the cache.
WIDTH = 8


@dataclass
class LowerState:
    """Where an ADMM run stopped: the start of one for neighbouring radii or weights.

    Attributes
    ----------
    coefficients, field : ndarray, shapes (B, *coefficients), (B, d, *shape)
        The one-field iterates w and q of the wavelet's and of the gradient's split.
    thresholds, penalties : ndarray of 2
        Those of the wavelet's and of the gradient's split.
    """

    coefficients: np.ndarray
    field: np.ndarray
    thresholds: np.ndarray
    penalties: np.ndarray


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


class Split:
    """Iterates of K problems side by side, B images each: u = W x and p = grad x in one-field form.

    An iteration works on parts, groups of images, one a thread; only the thresholds need all of a problem's images.
    """

    def __init__(self, problem, transform, isotropic, images, slots=1):
        self.problem, self.isotropic, self.images, self.slots = problem, isotropic, images, slots
        self.kernels = problem.kernels
        n = slots * images
        coefficient_shape = transform.coefficient_shape(problem.shape)
        measured = problem.shape if isotropic else problem.field_shape
        real, dtype, fft = problem.real_dtype, problem.dtype, problem.fft
        self.x, self.pulled, self.image, self.spectrum, self.t, self.w, self.q, self.m1, self.m2 = workspace([
            ((n, *problem.shape), dtype), ((n, *problem.shape), dtype), ((n, *problem.shape), dtype),
            ((n, *fft.spectrum_shape), fft.spectrum_dtype),
            ((n, *coefficient_shape), dtype), ((n, *coefficient_shape), dtype), ((n, *problem.field_shape), dtype),
            ((n, *coefficient_shape), real), ((n, *measured), real),
        ])  # fmt: skip
        self.inverse = np.empty((slots, *fft.spectrum_shape), real)
        self.penalties, self.thresholds = np.ones((2, slots)), np.zeros((2, slots))
        self.ones = np.ones(slots)
        self.forward_transform, self.adjoint_transform = _functions(transform, problem)
        self._arrange()

    def _arrange(self):
        """The parts: all images on the problem's threads, or several groups of images (of whole problems, if there
        are several) on one thread each."""
        n, pieces = self.slots * self.images, self.images if self.slots == 1 else self.slots
        threads = threads_of(self.problem, n)
        groups = 1 if n == 1 else min(threads, pieces)
        self.threads = threads if groups == 1 else 1
        self.fft = self.problem.fft
        if self.fft.threads != self.threads:
            self.fft = plan_fft(self.problem.shape, self.problem.dtype, threads=self.threads, library=self.fft.library)
        cuts = [pieces * k // groups for k in range(groups + 1)]
        each = n // pieces
        self.parts = [
            _Part(self, slice(a * each, b * each), slice(0, 1) if self.slots == 1 else slice(a, b))
            for a, b in itertools.pairwise(cuts)
        ]

    def narrow(self, slots):
        """Work on the first ``slots`` problems only."""
        n = slots * self.images
        for name in ("x", "pulled", "image", "spectrum", "t", "w", "q", "m1", "m2"):
            setattr(self, name, getattr(self, name)[:n])
        self.inverse, self.ones = self.inverse[:slots], self.ones[:slots]
        self.penalties, self.thresholds = self.penalties[:, :slots].copy(), self.thresholds[:, :slots].copy()
        self.slots = slots
        self._arrange()

    def move(self, source, target):
        """Let the problem in slot ``target`` be the one in slot ``source``."""
        a, b = self.span(source), self.span(target)
        for array in (self.w, self.q, self.x):
            array[b] = array[a]
        self.inverse[target] = self.inverse[source]
        for array in (self.penalties, self.thresholds):
            array[:, target] = array[:, source]

    def span(self, slot):
        return slice(slot * self.images, (slot + 1) * self.images)

    def start(self, slot, state):
        """From a state, or from 0."""
        part = self.span(slot)
        if state is None:
            self.w[part], self.q[part] = 0, 0
            self.thresholds[:, slot], self.penalties[:, slot] = 0, 1
        else:
            self.w[part], self.q[part] = state.coefficients, state.field
            self.thresholds[:, slot], self.penalties[:, slot] = state.thresholds, state.penalties

    def state(self, slot):
        part = self.span(slot)
        return LowerState(
            self.w[part].copy(), self.q[part].copy(), self.thresholds[:, slot].copy(), self.penalties[:, slot].copy()
        )

    def step(self, solve, relaxation, checked=()):
        """Everything of an iteration but the new thresholds: x, t = W x, the fields and their magnitudes.

        ``solve(part)`` replaces the spectra of a part, the transform of penalties_1 W^T(u - a) + penalties_2
        grad^T(p - b), by those of x.  Returns, for each slot in ``checked``, x's Fourier coefficients and ``status``
        before the fields changed.
        """
        spectra, rows = {}, {}
        wanted = {b for slot in checked for b in range(slot * self.images, (slot + 1) * self.images)}

        def run(part):
            part.pull()
            solve(part)
            mine = [b for b in range(part.images.start, part.images.stop) if b in wanted] if wanted else ()
            for b in mine:
                spectra[b] = self.spectrum[b].copy()
            part.analyse()
            for b in mine:
                rows[b] = self._status(b)
            part.update(relaxation)

        if len(self.parts) == 1:
            run(self.parts[0])
        else:
            run_tasks([functools.partial(run, part) for part in self.parts])
        found = {}
        for slot in checked:
            own = range(slot * self.images, (slot + 1) * self.images)
            found[slot] = np.stack([spectra[b] for b in own]), _summed([rows[b] for b in own])
        return found

    def find_thresholds(self, radii):
        """The thresholds that bring the fields into the balls of these radii, (2, K)."""
        find, threads = self.kernels.ball_thresholds, self.threads
        if len(self.parts) == 1:
            find(self.m1, radii[0], self.thresholds[0], threads=threads)
            find(self.m2, radii[1], self.thresholds[1], threads=threads)
        else:
            run_tasks([
                functools.partial(find, measured, limits, found)
                for measured, limits, found in zip((self.m1, self.m2), radii, self.thresholds, strict=True)
            ])  # fmt: skip

    def _status(self, b):
        tau, theta = self.thresholds[:, b // self.images]
        return (
            self.kernels.coefficient_status(self.t[b], self.w[b], tau, None, threads=self.threads),
            self.kernels.field_status(self.x[b], self.q[b], theta, self.isotropic, threads=self.threads),
        )

    def status(self, slot):
        """Sums over a slot's images: (|W x|_1, |Wx-u|^2, |u|^2, max |Wx-u+a|) and the same of grad x, TV and p."""
        return _summed([self._status(b) for b in range(*self.span(slot).indices(len(self.x)))])

    def split_images(self, slot):
        """u, a and p, b of a slot, as new arrays."""
        part = self.span(slot)
        a = np.empty_like(self.w[part])
        for b, out in enumerate(a):
            self.kernels.clip_coefficients(self.w[part][b], self.thresholds[0, slot], None, out, threads=self.threads)
        q = self.q[part]
        norm = np.sqrt(np.sum(np.abs(q) ** 2, axis=1, keepdims=True)) if self.isotropic else np.abs(q)
        theta = self.thresholds[1, slot]
        b = q * (theta / np.maximum(norm, max(theta, np.finfo(float).tiny))).astype(norm.dtype)
        return self.w[part] - a, a, q - b, b

    def rescale(self, slot, block, factor):
        """The penalty of block 0 (coefficients) or 1 (field) times factor, its multiplier the same."""
        u, a, p, b = self.split_images(slot)
        part = self.span(slot)
        real = self.problem.real_dtype.type(factor)
        if block == 0:
            self.w[part] = u + a / real
        else:
            self.q[part] = p + b / real
        self.penalties[block, slot] *= factor
        self.thresholds[block, slot] /= factor

    def adjoint(self, coefficients, out):
        """out <- W^T c for a slot's coefficients."""
        self.adjoint_transform(coefficients, out, self.threads)


class _Part:
    """Neighbouring images of a split, and the problems that they belong to: views of the split's arrays."""

    def __init__(self, split, images, slots):
        self.kernels, self.isotropic, self.threads, self.fft = split.kernels, split.isotropic, split.threads, split.fft
        self.forward, self.adjoint = split.forward_transform, split.adjoint_transform
        self.images, self.slots = images, slots
        for name in ("x", "pulled", "image", "spectrum", "t", "w", "q", "m1", "m2"):
            setattr(self, name, getattr(split, name)[images])
        self.inverse, self.ones = split.inverse[slots], split.ones[slots]
        self.one, self.two = (row[slots] for row in split.penalties)
        self.tau, self.theta = (row[slots] for row in split.thresholds)
        self.pairs = list(zip(self.pulled, self.spectrum, self.x, strict=True))

    def pull(self):
        """spectrum <- the transform of penalties_1 W^T(u - a) + penalties_2 grad^T(p - b), unscaled."""
        k, threads = self.kernels, self.threads
        k.field_divergences(self.q, self.theta, self.two, self.isotropic, self.pulled, threads=threads)
        k.reflect_coefficients(self.w, self.tau, self.one, self.t, threads=threads)
        self.adjoint(self.t, self.image, threads)
        np.add(self.pulled, self.image, out=self.pulled)
        for image, spectrum, _ in self.pairs:
            done = self.fft.forward(image, spectrum)
            if done is not spectrum:
                spectrum[...] = done

    def analyse(self):
        """x and t = W x from the spectrum, which is lost."""
        for _, spectrum, x in self.pairs:
            done = self.fft.inverse(spectrum, x)
            if done is not x:
                x[...] = done
        self.forward(self.x, self.t, self.threads)

    def update(self, relaxation):
        """The fields and their magnitudes, from x and t and the old thresholds."""
        k, threads = self.kernels, self.threads
        k.measure_coefficients(self.t, self.w, self.m1, relaxation, self.tau, self.ones, threads=threads)
        k.update_fields(self.x, self.q, self.m2, relaxation, self.theta, self.ones, self.isotropic, threads=threads)


def _summed(rows):
    """One row (norm, |difference|^2, |split|^2, largest) a split, over images."""
    sums = []
    for parts in zip(*rows, strict=True):
        columns = list(zip(*parts, strict=True))
        sums.append((sum(columns[0]), sum(columns[2]), sum(columns[3]), max(columns[5])))
    return sums


def threads_of(problem, images):
    """Threads for that many images side by side."""
    parts = 2 if problem.dtype.kind == "c" else 1
    return problem.threads if images == 1 else threads_for(images * parts * problem.pixels, problem.allowed)


def _functions(transform, problem):
    """W and W^T as functions of (source, target, threads), without the checks of the public methods where it pays."""
    if isinstance(transform, Wavelet) and transform.name in ("haar", "db1"):
        level, ndim, module = transform.level_for(problem.shape), len(problem.shape), problem.kernels.module
        return (
            lambda x, out, threads: module.haar_forward(x, level, ndim, out, threads),
            lambda c, out, threads: module.haar_inverse(c, level, ndim, out, threads),
        )
    return (
        lambda x, out, threads: transform.forward(x, out=out, threads=threads),
        lambda c, out, threads: transform.adjoint(c, out=out, threads=threads),
    )


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
        return self._solve([[(np.asarray(radii, float), state)]], None, tol, max_iter, callback)[0][0]

    def penalised(self, weights, *, tol=1e-4, max_iter=2000, state=None, callback=None):
        """A ``LowerSolution`` of the penalised model; ``value`` and ``lower_bound`` are of the whole objective."""
        weights = np.asarray(weights, float)
        return self._solve([[(weights, state)]], "penalised", tol, max_iter, callback)[0][0]

    def constrained_many(self, chains, *, tol=1e-4, max_iter=2000):
        """Several constrained problems side by side: chains of radii, each solved from the one before in its chain.

        Returns the solutions in the same nesting.  An item has the same bits whatever is solved beside it.
        """
        goals = [[(np.asarray(radii, float), None) for radii in chain] for chain in chains]
        return self._solve(goals, None, tol, max_iter, None)

    def _solve(self, chains, penalised, tol, max_iter, callback):
        split = self._take(min(len(chains), WIDTH))
        waiting = list(range(len(chains)))
        results = [[] for _ in chains]
        runs = []
        for slot in range(split.slots):
            runs.append(_Run(self, split, slot, waiting.pop(0), chains, penalised, tol, max_iter, callback))
        goals = np.array([run.goal for run in runs]).T.copy()

        def solve(part):
            linear = self.linear[part.images] if split.slots == 1 else self.linear
            split.kernels.spectrum_step(part.spectrum, linear, part.inverse, threads=part.threads)

        while runs:
            checking = [run for run in runs if run.checks()]
            balancing = [run.before_balance() for run in runs if run.balances()]
            found = split.step(solve, RELAXATION, [run.slot for run in checking])
            finished = [run for run in checking if run.check(*found[run.slot])]
            if penalised:
                np.divide(goals, split.penalties, out=split.thresholds)
            else:
                split.find_thresholds(goals)
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
                    split.move(last.slot, run.slot)
                    goals[:, run.slot] = goals[:, last.slot]
                    last.slot = run.slot
                    runs[run.slot] = last
                if runs:
                    split.narrow(len(runs))
                    goals = goals[:, : len(runs)].copy()
        if len(chains) == 1:
            self._idle.append(split)
        return results

    def _take(self, slots):
        """Arrays for so many problems; those of one problem are used again, by one thread at a time."""
        if slots == 1:
            try:
                return self._idle.pop()
            except IndexError:
                pass
        return Split(self.problem, self.transform, self.isotropic, len(self.quadratic.observed), slots)


class _Run:
    """One problem after another in a slot: its bounds, its checks and its penalties."""

    def __init__(self, model, split, slot, chain, chains, penalised, tol, max_iter, callback):
        self.model, self.split, self.slot, self.chains = model, split, slot, chains
        self.penalised, self.tol, self.max_iter, self.callback = penalised, tol, max_iter, callback
        self.begin(chain)

    def begin(self, chain):
        self.chain, self.position = chain, 0
        self.goal, state = self.chains[chain][0]
        self.split.start(self.slot, state)
        self._reset()
        return True

    def advance(self):
        """The next problem of the chain, from where this one stopped (from 0 if no ball was active)."""
        self.position += 1
        if self.position == len(self.chains[self.chain]):
            return False
        if not self.split.thresholds[:, self.slot].any():
            self.split.start(self.slot, None)
        self.goal, _ = self.chains[self.chain][self.position]
        self._reset()
        return True

    def _reset(self):
        self.done, self.lower_bound, self.value, self.best = 1, -np.inf, np.inf, None
        self._set_inverse()

    def _set_inverse(self):
        one, two = self.split.penalties[:, self.slot]
        real, scale = self.model.problem.real_dtype.type, self.model.problem.scale
        denominator = self.model.quadratic.gram + real(one) + real(two) * self.model.laplacian
        np.divide(real(scale), denominator, out=self.split.inverse[self.slot])

    def checks(self):
        return self.done % CHECK_EVERY == 0 or self.done == self.max_iter

    def check(self, spectrum, status):
        """Both bounds at x; whether to stop."""
        quadratic = self.model.quadratic
        (norm, _, _, largest), (tv, _, _, steepest) = status
        square, cross = quadratic.moments(spectrum)
        norms = np.array([norm, tv])
        bounds = self.split.penalties[:, self.slot] * (largest, steepest)
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
            images = self.split.x[self.split.span(self.slot)] * real
            self.value, self.best = value, (images, spectrum * real, norms * scale)
        self.converged = self.value - self.lower_bound <= self.tol * quadratic.at_zero
        stopped = self.callback is not None and bool(self.callback(self.done, self.best[1]))
        return self.converged or stopped or self.done >= self.max_iter

    def balances(self):
        return self.done in BALANCE_AT

    def before_balance(self):
        u, _, p, _ = self.split.split_images(self.slot)
        return self, (u, p)

    def balance(self, old):
        """Each penalty by the ratio of the relative primal to the relative dual change (spec of residual balancing)."""
        u, a, p, b = self.split.split_images(self.slot)
        (_, gap_u, _, _), (_, gap_p, _, _) = self.split.status(self.slot)
        changed = False
        for block, (gap, new, before, dual) in enumerate(((gap_u, u, old[0], a), (gap_p, p, old[1], b))):
            if self.split.thresholds[block, self.slot] == 0:
                continue
            size, moved = _norm(new), RELAXATION * _norm(new - before)
            primal = np.sqrt(gap) / max(size, 1e-12)
            ratio = np.sqrt(primal / max(moved / max(_norm(dual), 1e-300), 1e-300))
            if not 1 / BALANCED <= ratio <= BALANCED:
                self.split.rescale(self.slot, block, float(np.clip(ratio, 1 / BALANCE_BY, BALANCE_BY)))
                changed = True
        if changed:
            self._set_inverse()

    def solution(self):
        x, spectrum, norms = self.best
        split = self.split
        if self.penalised:
            multipliers = np.array(self.goal)
        else:
            multipliers = split.penalties[:, self.slot] * split.thresholds[:, self.slot]
        return LowerSolution(
            x, spectrum, float(self.value), float(self.lower_bound), multipliers, norms, self.done - 1,
            bool(self.converged), split.state(self.slot),
        )  # fmt: skip


def _norm(a):
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
