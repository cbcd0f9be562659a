"""BF-DCA: the radii by difference-of-convex bilevel programming (mathematics.md 8), as published and safeguarded."""

import time

import numpy as np

from .local_model import propose
from .subproblem import Linearised, Subproblem

__all__ = ["EXACT_AT_START", "Path", "faithful", "safeguarded"]

RHO_X = 1e-4
# rho_r times the stack's pixels: radii are sums over all of them.
RHO_R_PIXELS = 0.04
# Radii of an exact fit count for the model as this much worse than the best: nothing is to be gained there.
UNREGULARISED = 1.05
# Tolerances of the lower level, in units of the problem's, on the path and in the refinement; those below COARSE are
# worth their iterations only where F is below HOPELESS times the best at COARSE.
COARSE, FINE, HOPELESS = 3.0, 0.3, 1.02
EXACT_AT_START = (
    "the lower level fits the data exactly at the first radii, as far as it was solved; start with smaller ones"
)


def _prepare(evaluator, start, rho_r):
    """The subproblem, the first radii and rho_r."""
    problem, images = evaluator.problem, len(evaluator.upper.observed)
    # The constraints' rows in units of the data's: radii are intensities, the data row is their square.
    sigma = (1.0, 1.0 / evaluator.scale, 1.0 / evaluator.scale)
    subproblem = Subproblem(evaluator.model, evaluator.upper, sigma)
    radii = evaluator.start.copy() if start is None else np.array(start, float)
    if rho_r is None:
        rho_r = RHO_R_PIXELS / (problem.pixels * images)
    return subproblem, radii, np.broadcast_to(np.asarray(rho_r, float), 2)


def _linearised(lower, spectrum, radii, alpha, rho_x, rho_r):
    """phi_k at (x_k, r_k) from the lower level's solution there."""
    constant = lower.value + float(lower.multipliers @ radii)
    return Linearised(spectrum, radii, lower.multipliers, constant, alpha, rho_x, rho_r)


def faithful(
    evaluator, recorder, *, start=None, alpha=1.0, increment=1.0, alpha_max=20.0, rho_x=RHO_X, rho_r=None,
    tol=2e-3, max_outer=30, theta=0.1, gap=1.0,
):  # fmt: skip
    """Algorithm A, the paper's: solve the lower level at r_k, minimise phi_k, raise alpha by a fixed increment.

    x_0 = 0; stops when |z_{k+1} - z_k| / sqrt(1 + |z_k|^2) and the violation t are both below ``tol``.  The
    subproblems' gaps are at most ``gap`` / (k + 1)^2 and ``theta`` times the decrease.  The paper states none
    of the values of the parameters; these were chosen on a phantom.

    Returns the trial at the last radii, which need not be the best one, the outcome in words and whether the stopping
    test was met; ``recorder`` has a row an outer iteration, for the lower level's solution at r_k (never for
    x_{k+1}, which has seen the upper level's data).
    """
    subproblem, radii, rho_r = _prepare(evaluator, start, rho_r)
    problem = evaluator.problem
    spectrum, state, lower_state = None, None, None
    stopped = converged = False
    for k in range(max_outer):
        begin = time.perf_counter()
        lower = evaluator.lower(radii, state=lower_state)
        lower_state = lower.state if lower.multipliers.any() else None
        if spectrum is None:
            spectrum = np.zeros_like(lower.spectrum)
        point = _linearised(lower, spectrum, radii, alpha, rho_x, rho_r)
        if k == 0:
            parts = (evaluator.model.quadratic.at_zero, 0.0, 0.0, evaluator.upper.at_zero)
            state = subproblem.start_from(lower, lower.multipliers, alpha)
        merit = parts[3] + alpha * subproblem.violation(parts, radii, point)
        solved = subproblem.solve(point, state, merit=merit, theta=theta, gap=gap / (k + 1) ** 2, max_iter=2000)
        state, parts = solved.state, solved.parts
        trial = evaluator.trial(radii, lower, seconds=time.perf_counter() - begin, iterations=solved.iterations)
        stopped = recorder.add(
            trial, kind="iteration", alpha=alpha, subproblem_iterations=solved.iterations, merit=merit / alpha,
            violation=solved.violation, subproblem_gap=solved.gap,
        )  # fmt: skip
        change = sum(problem.square_norm(d) for d in solved.spectrum - spectrum)
        size = sum(problem.square_norm(part) for part in spectrum)
        change += float(np.sum((solved.radii - radii) ** 2))
        size += float(np.sum(radii**2))
        spectrum, radii = solved.spectrum, solved.radii
        converged = np.sqrt(change / (1 + size)) < tol and solved.violation < tol
        if stopped or converged:
            break
        alpha = min(alpha + increment, alpha_max)
    if not stopped:
        begin = time.perf_counter()
        lower = evaluator.lower(radii, state=lower_state)
        trial = evaluator.trial(radii, lower, seconds=time.perf_counter() - begin)
        recorder.add(trial, kind="last", alpha=alpha)
    what = "converged" if converged else "stopped by the callback" if stopped else "not converged: limit reached"
    return trial, f"{what} after {k + 1} outer iterations", bool(converged)


def safeguarded(
    evaluator, recorder, *, start=None, alpha=4.0, extrapolation=4.0, extrapolation_max=16.0, rho_x=RHO_X, rho_r=None,
    theta=0.4, path_tol=0.02, radius=0.06, least_radius=0.006, tol=3e-5, max_outer=20, max_refinements=12,
    max_iter=600,
):  # fmt: skip
    """Algorithm B: steps of BF-DCA, kept only where the criterion at the lower level's solution decreases.

    F(x(r_k)) is monotone over the accepted iterates by construction, and radii where the model fits the data exactly,
    or may as far as it was solved, are never accepted.  Where one lambda_i is 0, r_i is lowered to the norm of the
    solution, which stays the same: otherwise F would not depend on r_i there.

    1. The path: r+ = r + extrapolation (r_phi - r) with r_phi from phi_k's minimiser; the extrapolation doubles with
       each success, falls to a quarter where the step ends at an exact fit, and the path ends at the first other
       failure or decrease below ``path_tol``.  A small alpha makes long, biased steps: they lead to the basin of the
       minimiser, not to it.
    2. Refinement: steps of a quadratic model of F in log r within a trust region of ``radius``, through all radii
       tried; it ends when the region is smaller than ``least_radius`` or after ``max_refinements`` steps that
       decrease F by less than ``path_tol``.

    The lower level is solved to 3 times the problem's tolerance on the path, and in the refinement, where values that
    differ by 1e-4 are compared, to 0.3 times, unless F is 2 % above the best already at 3 times.  The paper's
    convergence theorem does not cover extrapolation and refinement.

    Parameters
    ----------
    start : ndarray of 2, optional
        Half the zero-filled images' norms by default; small enough for lambda > 0.
    alpha : float
        Weight of the linearised constraints in phi_k.
    extrapolation, extrapolation_max : float
    rho_x, rho_r : float
        Proximal weights; rho_r is 0.04 / pixels of the stack by default.
    theta : float
        The subproblem's certified gap, relative to the decrease.
    tol : float
        A model that promises no decrease by this part of F narrows the region.

    Returns the best trial, the outcome in words and whether one of its own tests ended it.
    """
    path = Path(evaluator, recorder)
    subproblem, radii, rho_r = _prepare(evaluator, start, rho_r)
    state, inner = None, 0

    def stretched():
        return np.maximum(path.radii + extrapolation * (solved.radii - path.radii), 0.2 * path.radii)

    for outer in range(max_outer):
        before = path.value
        accepted = path.visit(radii, COARSE, "accepted", "rejected", inner, alpha=alpha, extrapolation=extrapolation)
        if path.trial.unregularised:
            return None, EXACT_AT_START, False
        if not accepted and path.overshot and extrapolation > 1 and not path.stopped:
            extrapolation = max(1.0, extrapolation / 4)
            radii, inner = stretched(), 0
            continue
        if path.stopped or not accepted or path.value > before * (1 - path_tol):
            break
        if outer:
            extrapolation = min(2 * extrapolation, extrapolation_max)
        lower, radii = path.lower, path.radii
        point = _linearised(lower, lower.spectrum, radii, alpha, rho_x, rho_r)
        if state is None:
            state = subproblem.start_from(lower, lower.multipliers, alpha)
        solved = subproblem.solve(point, state, merit=path.value, theta=theta, max_iter=max_iter)
        state, inner = solved.state, solved.iterations
        radii = stretched()

    steps = 0
    while not path.stopped and radius >= least_radius and steps < max_refinements:
        step, predicted = propose(np.array(path.points), np.array(path.values), np.log(path.radii), radius)
        if predicted is not None and predicted < tol * abs(path.value):
            radius /= 2
            continue
        length, before = np.abs(step).max() / radius, path.value
        accepted = path.visit(np.exp(np.log(path.radii) + step), FINE, "refined", "rejected", radius=radius)
        steps += path.value > before * (1 - path_tol)
        if predicted is not None:
            if not accepted or length < 0.4:
                radius /= 2
            elif length > 0.9:
                radius *= 1.5
    if path.stopped:
        return path.trial, f"stopped by the callback after {path.visits} lower-level solves", False
    if radius < least_radius:
        status = f"converged: no decrease within {least_radius:g} of the radii, relative"
    else:
        status = f"limit of {max_refinements} refinements reached, within {radius:.2g} of the radii, relative"
    return path.trial, f"{status}; {path.visits} lower-level solves", True


class Path:
    """The radii visited by a descent, and the best of them."""

    def __init__(self, evaluator, recorder):
        self.evaluator, self.recorder = evaluator, recorder
        self.value, self.radii, self.lower, self.trial = np.inf, None, None, None
        self.points, self.values = [], []
        self.visits, self.stopped, self.overshot = 0, False, False

    def visit(self, radii, factor, success, failure, iterations=0, solves=0, **extra):
        """Solve the lower level at these radii, to ``factor`` times the problem's tolerance; whether F decreased.

        ``iterations`` and ``solves`` of other problems led there; ``success`` or ``failure`` is the row's kind.
        """
        begin = time.perf_counter()
        lower = self.lower
        for part in (COARSE, factor) if factor < COARSE else (factor,):
            state = None if lower is None else lower.state
            lower = self.evaluator.lower(radii, state=state, tol=part * self.evaluator.tv_wavelet.tol)
            iterations += lower.iterations
            value = self.evaluator.upper.value(lower.spectrum)
            if value > HOPELESS * self.value:
                break
        iterations -= lower.iterations
        self.visits += 1
        trial = self.evaluator.trial(
            radii, lower, seconds=time.perf_counter() - begin, iterations=iterations, criterion=value,
            lower_solves=1 + solves,
        )  # fmt: skip
        regularised = not trial.unregularised
        self.overshot = not regularised
        accepted = self.lower is None or (regularised and value < self.value)
        self.stopped = self.recorder.add(trial, kind=success if accepted else failure, **extra)
        self._remember(radii, value if regularised else max(value, UNREGULARISED * self.value))
        if accepted:
            idle = lower.multipliers == 0
            tight = np.where(idle, np.minimum(radii, lower.norms), radii)
            if regularised and idle.any() and np.all(tight > 0):
                radii = tight
                self._remember(radii, value)
            self.value, self.radii, self.lower, self.trial = value, radii, lower, trial
        return accepted

    def _remember(self, radii, value):
        self.points.append(np.log(radii))
        self.values.append(value)
