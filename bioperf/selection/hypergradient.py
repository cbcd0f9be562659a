"""Quasi-Newton descent on the criterion itself with value-function hypergradients (mathematics.md 8)."""

import dataclasses

import numpy as np

from .bfdca import EXACT_AT_START, Path
from .constrained import TVWaveletModel

__all__ = ["descend"]

# The longest step in log r, the line search's factor, and its trials.
LONGEST, BACKTRACK, TRIALS = 0.5, 0.3, 3


def descend(
    evaluator, recorder, *, start=None, alpha=32.0, first_step=0.4, tol=5e-4, radius_tol=4e-3, patience=2,
    max_evaluations=24,
):  # fmt: skip
    """BFGS in log r on F(x(r)) with the gradient alpha lambda(r) - m(r).

    lambda and m are the multipliers of min f and of min F + alpha f over the same two balls.  The difference of
    the minima, min (F + alpha f) - alpha v(r), has this gradient, which tends to dF(x(r))/dr as alpha grows: the limit
    that BF-DCA's subproblem has with the radii frozen.  Only radii at which F(x(r)) decreases and lambda is not 0 are
    accepted; where BFGS does not descend it starts again from a shorter gradient step.  Two lower-level solves an
    accepted step; it may end where lambda_1 = 0, as F does not depend on r_1 there.

    Returns the best trial, the outcome in words and whether its own test ended it.
    """
    path = Path(evaluator, recorder)
    slope_at = _Slope(evaluator, alpha)
    path.visit(evaluator.start if start is None else np.array(start, float), 1.0, "accepted", "rejected")
    if path.trial.unregularised:
        return None, EXACT_AT_START, False
    slope = slope_at(path)
    inverse, step, slow = None, first_step, 0
    status, converged = f"not converged: limit of {max_evaluations} evaluations reached", False
    while not path.stopped and path.visits < max_evaluations:
        direction = None if inverse is None else -inverse @ slope
        if direction is None or direction @ slope >= 0:
            inverse, direction = None, -slope * (step / max(np.abs(slope).max(), np.finfo(float).tiny))
        direction *= min(1.0, LONGEST / max(np.abs(direction).max(), np.finfo(float).tiny))
        before, value = np.log(path.radii), path.value
        if not _search(path, before, direction, radius_tol, max_evaluations, slope_at):
            if inverse is not None:
                inverse, step = None, max(0.25 * step, 2 * radius_tol)
            elif not path.stopped and path.visits < max_evaluations:
                status, converged = f"converged: no decrease within {radius_tol:g} of the radii, relative", True
                break
            continue
        following = slope_at(path)
        inverse = _update(inverse, np.log(path.radii) - before, following - slope)
        slope = following
        slow = slow + 1 if path.value > value * (1 - tol) else 0
        if slow >= patience:
            status, converged = f"converged: {patience} decreases below {tol:g}, relative", True
            break
    if path.stopped:
        status = "stopped by the callback"
    return path.trial, f"{status}; {path.visits} evaluations", converged


class _Slope:
    """d F / d log r at a path's best radii; ``iterations`` and ``solves`` since they were last taken."""

    def __init__(self, evaluator, alpha):
        model = evaluator.model
        self.alpha, self.state, self.iterations, self.solves = alpha, None, 0, 0
        joint = model.quadratic.plus(evaluator.upper, alpha)
        self.joint = TVWaveletModel(joint, model.transform, model.isotropic)
        self.options = {"tol": evaluator.tv_wavelet.tol, "max_iter": evaluator.tv_wavelet.max_iter}

    def __call__(self, path):
        state = self.state
        if state is None:
            start = path.lower.state
            state = dataclasses.replace(start, penalties=self.alpha * start.penalties)
        solved = self.joint.constrained(path.radii, state=state, **self.options)
        self.state = solved.state
        self.iterations, self.solves = self.iterations + solved.iterations, self.solves + 1
        return (self.alpha * path.lower.multipliers - solved.multipliers) * path.radii

    def take(self):
        taken = self.iterations, self.solves
        self.iterations = self.solves = 0
        return taken


def _search(path, logs, direction, radius_tol, max_evaluations, slope_at):
    """Shorten the step until F decreases; whether it did."""
    length = 1.0
    for _ in range(TRIALS):
        if length * np.abs(direction).max() < radius_tol or path.stopped or path.visits >= max_evaluations:
            return False
        iterations, solves = slope_at.take()
        if path.visit(
            np.exp(logs + length * direction), 1.0, "accepted", "rejected", iterations, solves, alpha=slope_at.alpha
        ):
            return True
        length *= BACKTRACK
    return False


def _update(inverse, moved, change):
    """BFGS; unchanged where the curvature along the step is not positive."""
    product = change @ moved
    if not product > 1e-10 * np.linalg.norm(change) * np.linalg.norm(moved):
        return inverse
    if inverse is None:
        inverse = np.eye(2) * product / (change @ change)
    left = np.eye(2) - np.outer(moved, change) / product
    return left @ inverse @ left.T + np.outer(moved, moved) / product
