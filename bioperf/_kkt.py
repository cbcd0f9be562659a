"""The lower level's stopping test, shared by its two methods."""

import numpy as np

# What ``solve_lower`` takes by default.
LOWER_TOL, LOWER_MAX_ITER = 1e-4, 2000
CHECK_EVERY = 5
# Penalty gamma / (image range) times this: within a few iterations of the best one on every problem tried.
PENALTY_FACTOR = 30.0
# At these iterations the penalty is set anew if one stopping test lags behind the other.
BALANCE_AT = frozenset({10, 20, 40, 80, 160, 320})
BALANCED = 0.04  # complementarity over KKT residual when neither test lags, at tol = 1e-4
# The KKT residual enters the gap times the distance to the solution, itself of its order: sqrt(tol) times this.
KKT_FACTOR = 0.25


def dual_value(residual_square, pairing, excess):
    """max over s <= 1/excess of -s^2/2 |r|^2 - s <r, y>: a feasible dual value, where r = A x - y has
    A^T r + grad^T mu + T^T omega = 0 exactly, <mu, grad x> + <omega, T x> = pairing, and the multipliers are
    at most excess times their bounds."""
    along = residual_square + pairing  # -<r, y>, as <r, A x> = -pairing
    scale = min(1.0, 1.0 / excess) if excess > 0 else 1.0
    if residual_square > 0:
        scale = min(scale, max(0.0, along / residual_square))
    return scale * along - 0.5 * scale * scale * residual_square


def dual_value_each(residual_square, pairing, excess):
    """``dual_value`` of arrays with a number for each item."""
    along = residual_square + pairing
    scale = np.minimum(1.0, 1.0 / np.where(excess > 0, excess, 1.0))
    square = np.where(residual_square > 0, residual_square, 1.0)
    scale = np.where(residual_square > 0, np.minimum(scale, np.maximum(0.0, along / square)), scale)
    return scale * along - 0.5 * scale * scale * residual_square


def rounding_floors(problem, size, count, gamma):
    """What rounding alone makes of |A^T(Ax - y) + grad^T mu| and of TV(x), for ``count`` data of norm ``size``."""
    root = np.sqrt(count)
    return problem.rounding * (size + 4 * gamma * root), problem.rounding * root * size / 2


def beyond_rounding(value, rounding, scale):
    """(value - rounding)+ / scale, and 0 where only rounding is left."""
    excess = value - rounding
    if not excess > 0:
        return 0.0 if excess <= 0 else float("nan")
    return float(excess / max(scale, np.finfo(float).tiny))


def beyond_rounding_each(value, rounding, scale):
    """``beyond_rounding`` of arrays with a number for each item."""
    excess = value - rounding
    return np.where(excess > 0, excess / np.maximum(scale, np.finfo(float).tiny), np.where(excess <= 0, 0.0, np.nan))
