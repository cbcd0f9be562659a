"""The lower level's stopping test, shared by its two methods."""

import numpy as np

CHECK_EVERY = 5
# The KKT residual enters the gap times the distance to the solution, itself of its order: sqrt(tol) times this.
KKT_FACTOR = 0.25


def rounding_floors(problem, y, gamma):
    """What rounding alone makes of |A^T(Ax - y) + grad^T mu| and of TV(x), for images of y's size."""
    size, root = float(np.linalg.norm(y)), np.sqrt(y.size)
    return problem.rounding * (size + 4 * gamma * root), problem.rounding * root * size / 2


def beyond_rounding(value, rounding, scale):
    """(value - rounding)+ / scale, and 0 where only rounding is left."""
    excess = value - rounding
    if not excess > 0:
        return 0.0 if excess <= 0 else float("nan")
    return float(excess / max(scale, np.finfo(float).tiny))
