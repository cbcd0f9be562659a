"""A quadratic model of the criterion in log r through the radii tried so far, for steps within a trust region."""

import numpy as np

# Points within so many trust radii count for the model, and as spread around its centre.
REACH, NEAR = 5.0, 2.5
# The spread below which a direction counts as not yet explored.
LEAST_SPREAD = 0.6
# Keeps the curvature finite where the points do not determine it, as a part of the sum of squares.
RIDGE = 1e-3
# Steps are chosen on a grid: the model may be concave, and the region is a square.
GRID = np.stack(np.meshgrid(*[np.linspace(-1, 1, 41)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
SQUARES = np.stack([0.5 * GRID[:, 0] ** 2, GRID[:, 0] * GRID[:, 1], 0.5 * GRID[:, 1] ** 2], axis=1)


def propose(points, values, centre, radius):
    """The next step from the centre, in log r, and the decrease that the model predicts for it.

    Where the points near the centre leave a direction unexplored the step explores it, and the prediction is
    None.  Otherwise it is the model's minimiser over the square |step|_inf <= radius.

    Parameters
    ----------
    points : ndarray, shape (n, k), k = 2
        The logarithms tried.
    values : ndarray, shape (n,)
        The criterion there.
    centre : ndarray, shape (k,)
    radius : float
    """
    steps = (points - centre) / radius
    distance = np.abs(steps).max(axis=1)
    slope, curvature = _fit(steps[distance <= REACH], values[distance <= REACH], distance[distance <= REACH])
    _, spread, directions = np.linalg.svd(np.vstack([steps[distance <= NEAR], np.zeros((2, 2))]))
    if spread[1] < LEAST_SPREAD:
        direction = directions[1] / np.abs(directions[1]).max()
        return radius * (-direction if slope @ direction > 0 else direction), None
    model = GRID @ slope + SQUARES @ curvature
    best = int(np.argmin(model))
    return radius * GRID[best], float(-model[best])


def _fit(steps, values, distance):
    """Slope and second derivatives (11, 12, 22) at 0 of the least-squares quadratic; far points count less."""
    one, two = steps.T
    basis = np.stack([np.ones_like(one), one, two, 0.5 * one**2, one * two, 0.5 * two**2], axis=1)
    weights = 1 / (1 + (distance / 2) ** 4)
    normal = basis.T @ (weights[:, None] * basis) + np.diag([1e-12, 1e-9, 1e-9, RIDGE, RIDGE, RIDGE])
    solution = np.linalg.solve(normal, basis.T @ (weights * values))
    return solution[1:3], solution[3:]
