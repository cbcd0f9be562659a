"""BF-DCA's convex subproblem (mathematics.md 8): two-block ADMM whose second block is solved exactly."""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from ..fft import workspace
from ..kernels import get_backend
from ..solution import DivergenceError
from .constrained import CHECK_EVERY, balance_factor, norm
from .iterates import Iterates, LowerState

RELAXATION = 1.6
BALANCE_EVERY, BALANCES = 30, 40
# The radii count as settled when they move by less than this part of their step from r_k, or of r_k times FLOOR.
SETTLED, SETTLED_FLOOR = 0.1, 1e-3
# A gap below this part of the merit is not worth another iteration.
GAP_FLOOR = 1e-7


@dataclass
class SubproblemState:
    """Where a run stopped; ``data`` is the field z of the data's split, ``mu`` = (mu_0, mu_1, mu_2, t)."""

    splits: LowerState
    data: np.ndarray
    data_penalty: float
    mu: np.ndarray
    alpha: float


@dataclass
class SubproblemSolution:
    """An approximate minimiser of phi_k with its certificate.

    Attributes
    ----------
    spectrum : ndarray, shape (B, *spectrum)
        Fourier coefficients of the images.
    radii : ndarray of 2
    value, lower_bound : float
        phi_k there, and what its minimum is not below.
    violation : float
        The largest scaled violation t of the linearised constraints.
    mu : ndarray of 3
        Multipliers of the data, the wavelet and the TV constraint.
    parts : tuple of 4 floats
        f, |W x|_1, TV and F at the images.
    iterations : int
    converged : bool
    state : SubproblemState
    """

    spectrum: np.ndarray
    radii: np.ndarray
    value: float
    lower_bound: float
    violation: float
    mu: np.ndarray
    parts: tuple
    iterations: int
    converged: bool
    state: SubproblemState

    @property
    def gap(self):
        return self.value - self.lower_bound


@dataclass(frozen=True)
class Linearised:
    """The subproblem's data: phi_k at (x_k, r_k) with v(r) >= v(r_k) - lambda . (r - r_k).

    ``constant`` is v(r_k) + lambda . r_k; rho_x, rho_r the proximal weights of images and radii.
    """

    spectrum: np.ndarray
    radii: np.ndarray
    multipliers: np.ndarray
    constant: float
    alpha: float
    rho_x: float
    rho_r: np.ndarray


class Subproblem:
    """min over x, r >= 0 of F(x) + rho_x/2 |x - x_k|^2 + sum rho_r/2 (r - r_k)^2
    + alpha max(0, (f(x) + lambda . r - c_k)/s_0, (|W x|_1 - r_1)/s_1, (TV(x) - r_2)/s_2)   (paper's (2.8)).

    Blocks {x} and {u = W x, p = grad x, w = F x where the training samples are, r, t}: the second is a prox with three
    multipliers, found by Newton's method, or where that fails by nested monotone roots.

    Parameters
    ----------
    model : TVWaveletModel
        The lower level, with the training data.
    upper : Quadratic
        F.
    sigma : three floats > 0
        Scales of the constraints.
    """

    def __init__(self, model, upper, sigma=(1.0, 1.0, 1.0)):
        self.model, self.upper, self.sigma = model, upper, np.asarray(sigma, float)
        self.problem = model.problem
        training = model.quadratic
        images = len(training.observed)
        self.iterates = Iterates(self.problem, model.transform, model.isotropic, images)
        fft, real = self.problem.fft, self.problem.real_dtype
        self.z, self.base = workspace([((images, *fft.spectrum_shape), fft.spectrum_dtype)] * 2)
        self.power, self.clipped = workspace([
            ((images, *fft.spectrum_shape), real), (self.iterates.t.shape, self.problem.dtype),
        ])  # fmt: skip
        self.support = (training.gram > 0).astype(real)

    def parts(self, spectrum, norms):
        """(f, |W x|_1, TV, F) of images given by their coefficients and norms."""
        return self.model.quadratic.value(spectrum), norms[0], norms[1], self.upper.value(spectrum)

    def violation(self, parts, radii, point):
        """t of the paper's (2.10)."""
        f, one, two, _ = parts
        rows = (f + point.multipliers @ radii - point.constant, one - radii[0], two - radii[1])
        return max(0.0, *(row / scale for row, scale in zip(rows, self.sigma, strict=True)))

    def value(self, parts, spectrum, radii, point):
        """phi_k."""
        proximal = 0.5 * point.rho_x * sum(self.problem.square_norm(d) for d in spectrum - point.spectrum)
        step = 0.5 * float(np.sum(point.rho_r * (radii - point.radii) ** 2))
        return parts[3] + proximal + step + point.alpha * self.violation(parts, radii, point)

    def start_from(self, lower, multipliers, alpha):
        """A state from a ``LowerSolution``: its multipliers times mu_0 = alpha / (s_0 + lambda . s)."""
        mu_0 = alpha / (self.sigma[0] + float(multipliers @ self.sigma[1:]))
        training = self.model.quadratic
        data = (lower.spectrum - training.observed) * (training.gram + 1) * self.support
        splits = dataclasses.replace(lower.state, penalties=mu_0 * lower.state.penalties)
        mu = np.array([mu_0, mu_0 * multipliers[0], mu_0 * multipliers[1], 1e-3])
        return SubproblemState(splits, data, mu_0, mu, alpha)

    def solve(self, point, state, *, merit=None, theta=0.2, gap=np.inf, max_iter=600):
        """Minimise phi_k until its gap is at most ``gap`` and ``theta`` times the decrease below ``merit``,
        and the radii have settled.

        Parameters
        ----------
        point : Linearised
        state : SubproblemState
            A start: ``start_from``, or that of the solve before.
        merit : float, optional
            phi_k at (x_k, r_k); None leaves the relative test out.
        gap : float
            Absolute tolerance of the certified gap.
        """
        problem, iterates = self.problem, self.iterates
        real, scale = problem.real_dtype.type, problem.scale
        iterates.start(0, state.splits)
        self.z[...] = state.data
        growth = point.alpha / state.alpha
        iterates.penalties *= growth
        penalty, mu = state.data_penalty * growth, np.array(state.mu)
        mu[:3] *= growth
        curvature = state.mu[0] / state.data_penalty
        np.multiply(self.upper.linear + real(point.rho_x) * point.spectrum, real(1 / scale), out=self.base)

        def set_inverse():
            diagonal = self.upper.gram + real(point.rho_x) + real(penalty) * self.support
            diagonal += real(iterates.penalties[0, 0]) + real(iterates.penalties[1, 0]) * self.model.laplacian
            np.divide(real(scale), diagonal, out=iterates.inverse[0])

        set_inverse()
        best, lower_bound, previous, settled, balances = None, -np.inf, None, False, 0
        converged = False
        for done in range(1, max_iter + 1):
            check = done % CHECK_EVERY == 0 or done == max_iter
            balance = done % BALANCE_EVERY == 0 and balances < BALANCES
            if balance:
                before = iterates.split_images(0), self._data_parts(curvature)
            found = iterates.step(
                functools.partial(self._data_step, penalty, curvature), RELAXATION, [0] if check or balance else []
            )
            if check or balance:
                spectrum, ((one, _, _, _), (two, _, _, _)) = found[0]
            mu = self._multipliers(point, penalty, mu)
            iterates.thresholds[:, 0] = mu[1:3] / iterates.penalties[:, 0]
            curvature = mu[0] / penalty
            if check:
                reached = self._radii(point, mu)
                if previous is not None:
                    step = np.maximum(np.abs(reached - point.radii), SETTLED_FLOOR * point.radii)
                    settled = bool(np.all(np.abs(reached - previous) <= SETTLED * step))
                previous = reached
            if check and (settled or done == max_iter):
                # the bounds cost several iterations: not before they can end the run
                parts = self.parts(spectrum, (one, two))
                if not np.isfinite(parts).all():
                    raise DivergenceError(
                        f"subproblem: the iterate became NaN or infinite by iteration {done}; rescale the data"
                    )
                radii = self._best_radii(parts, point, mu[3])
                value = self.value(parts, spectrum, radii, point)
                if best is None or value < best[0]:
                    best = value, spectrum, radii, parts
                lower_bound = max(lower_bound, self._lower_bound(point, mu))
                wanted = gap if merit is None else min(gap, max(theta * (merit - best[0]), GAP_FLOOR * abs(merit)))
                converged = settled and best[0] - lower_bound <= wanted
                if converged:
                    break
            if balance:
                balances += 1
                penalty, changed = self._balance(before, spectrum, penalty, curvature)
                if changed:
                    curvature = mu[0] / penalty
                    set_inverse()
        value, spectrum, radii, parts = best
        return SubproblemSolution(
            spectrum, radii, value, lower_bound, self.violation(parts, radii, point), mu[:3].copy(), parts, done,
            converged,
            SubproblemState(iterates.state(0), self.z.copy(), penalty, mu, point.alpha),
        )  # fmt: skip

    def _data_step(self, penalty, curvature, part):
        """The x-update of a part's images, and the data split's update."""
        training, images = self.model.quadratic, part.images
        part.kernels.data_step(
            part.spectrum, self.z[images], self.power[images], self.base[images], training.observed[images],
            training.gram, part.inverse[0], training.factor, penalty / self.problem.scale, curvature, RELAXATION, 1.0,
            threads=part.threads,
        )  # fmt: skip

    def _multipliers(self, point, penalty, start):
        iterates, training = self.iterates, self.model.quadratic
        arguments = (
            iterates.m1, iterates.m2, self.power, training.gram, (penalty, *iterates.penalties[:, 0]), self.sigma,
            point.multipliers, point.radii, point.rho_r, training.floor - point.constant, point.alpha, tuple(start),
        )  # fmt: skip
        found, mu = iterates.kernels.coupled_multipliers(*arguments, threads=iterates.threads)
        if not found:
            found, mu = get_backend("reference").coupled_multipliers(*arguments)
            if not found:
                raise DivergenceError("subproblem: its multipliers are not finite; rescale the data")
        return np.array(mu)

    def _radii(self, point, mu):
        return np.maximum(0.0, point.radii + (mu[1:3] - mu[0] * point.multipliers) / point.rho_r)

    def _lower_bound(self, point, mu):
        """The dual value at mu and the clipped multipliers of the splits, which are within mu exactly."""
        iterates, problem, training = self.iterates, self.problem, self.model.quadratic
        real = problem.real_dtype.type
        one, two = iterates.penalties[:, 0]
        value = 0.0
        hessian = self.upper.gram + real(point.rho_x) + real(mu[0]) * training.gram
        for b, image in enumerate(iterates.image):
            kernels, theta, threads = iterates.kernels, iterates.thresholds[:, 0], iterates.threads
            kernels.clip_coefficients(iterates.w[b], theta[0], None, self.clipped[b], threads=threads)
            kernels.field_divergence(iterates.q[b], theta[1], iterates.isotropic, 0.0, two, image, threads=threads)
        pulled = iterates.pulled
        iterates.adjoint(self.clipped, pulled)
        pulled *= real(one)
        pulled += iterates.image
        for b, image in enumerate(pulled):
            dual = problem.fft.coefficients(image)
            right = self.upper.linear[b] + real(point.rho_x) * point.spectrum[b]
            right = right + real(mu[0]) * training.linear[b] - dual
            power = (right.real**2 + right.imag**2) / hessian
            value -= 0.5 * problem.pixels * float(np.sum(power * problem.copies, dtype=np.float64))
            value += 0.5 * point.rho_x * problem.square_norm(point.spectrum[b])
        value += self.upper.at_zero + mu[0] * (training.at_zero - point.constant)
        slopes = mu[0] * point.multipliers - mu[1:3]
        radii = np.maximum(0.0, point.radii - slopes / point.rho_r)
        return value + float(np.sum(slopes * radii + 0.5 * point.rho_r * (radii - point.radii) ** 2))

    def _best_radii(self, parts, point, start):
        """The minimiser of phi_k(x, .)."""
        f, norms = parts[0], parts[1:3]
        scale, *scales = self.sigma.tolist()
        rows = list(
            zip(norms, scales, *(a.tolist() for a in (point.multipliers, point.radii, point.rho_r)), strict=True)
        )

        def at(t):
            """sigma . mu - alpha and r for a given t; infinite where the data row cannot be met."""
            room = point.constant - f + scale * t
            floors = [max(0.0, norm - s * t) for norm, s, *_ in rows]
            mu_0 = _multiplier(rows, floors, room)
            if mu_0 is None:
                return np.inf, floors
            surplus, radii = scale * mu_0 - point.alpha, []
            for floor, (_, s, rate, centre, weight) in zip(floors, rows, strict=True):
                free = centre - mu_0 * rate / weight
                radii.append(max(floor, free))
                if floor > max(0.0, free):
                    surplus += s * weight * (floor - free)
            return surplus, radii

        surplus, radii = at(0.0)
        if surplus <= 0:
            return np.array(radii)
        upper = max(start, 1e-6)
        while at(upper)[0] > 0:
            upper *= 4
            if not upper < 1e300:
                raise DivergenceError("subproblem: no radii satisfy its constraints; rescale the data")
        limited = point.alpha
        t = brentq(lambda t: min(at(t)[0], limited), 0.0, upper, xtol=1e-14 * upper, rtol=1e-12)
        return np.array(at(t if at(t)[0] < limited else upper)[1])

    def _data_parts(self, curvature):
        """w - observed and e of the data's split."""
        shrunk = self.z / (1 + self.problem.real_dtype.type(curvature) * self.model.quadratic.gram)
        return shrunk, self.z - shrunk

    def _balance(self, before, spectrum, penalty, curvature):
        """Penalties by the ratio of relative primal to relative dual change, as the lower level's."""
        (u_old, _, p_old, _), (w_old, _) = before
        u, a, p, b = self.iterates.split_images(0)
        w, e = self._data_parts(curvature)
        (_, gap_u, _, _), (_, gap_p, _, _) = self.iterates.status(0)
        gap_w = norm((spectrum - self.model.quadratic.observed) * self.support - w)
        rows = [(np.sqrt(gap_u), u, u_old, a), (np.sqrt(gap_p), p, p_old, b), (gap_w, w, w_old, e)]
        changed = False
        for block, (gap, new, old, dual) in enumerate(rows):
            factor = balance_factor(gap, new, RELAXATION * (new - old), dual)
            if factor == 1:
                continue
            changed = True
            if block < 2:
                self.iterates.rescale(0, block, factor, new, dual)
            else:
                penalty *= factor
                self.z[...] = w + e / self.problem.real_dtype.type(factor)
        return penalty, changed


def _multiplier(rows, floors, room):
    """mu_0 >= 0 with sum of rate max(floor, centre - mu_0 rate / weight) = room; 0 where less is taken up, None if the
    floors take up more."""
    held, free = 0.0, []
    for floor, (_, _, rate, centre, weight) in zip(floors, rows, strict=True):
        if rate > 0 and centre > floor:
            # at this multiplier the radius meets its floor
            free.append(((centre - floor) * weight / rate, rate, centre, weight, floor))
        else:
            held += rate * max(floor, centre)
    if held + sum(rate * centre for _, rate, centre, _, _ in free) <= room:
        return 0.0
    if held + sum(rate * floor for _, rate, _, _, floor in free) >= room:
        return None
    free.sort()
    while free:
        slope = sum(rate * rate / weight for _, rate, _, weight, _ in free)
        total = held + sum(rate * centre for _, rate, centre, _, _ in free)
        mu_0 = (total - room) / slope if slope > 0 else np.inf
        meets, rate, _, _, floor = free.pop(0)
        if mu_0 <= meets or not free:
            return min(mu_0, meets) if not free else mu_0
        held += rate * floor
    return None
