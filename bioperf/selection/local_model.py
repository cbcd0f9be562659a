"""A quadratic model of the criterion in log r through the radii tried so far, for steps within a trust region."""

import numpy as np

# Points within so many trust radii count for the model, and as spread around its centre.
REACH, NEAR = 5.0, 2.5
# The spread below which a direction counts as not yet explored.
LEAST_SPREAD = 0.6
# Keeps the curvature finite where the points do not determine it, as a part of the sum of squares.
RIDGE = 1e-3
# Steps are chosen on a grid of so many points an axis: the model may be concave, and the region is a square.
POINTS = 41


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
    axis = np.linspace(-1, 1, POINTS)
    trials = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    model = trials @ slope + 0.5 * np.einsum("ij,jk,ik->i", trials, curvature, trials)
    best = int(np.argmin(model))
    return radius * trials[best], float(-model[best])


def _fit(steps, values, distance):
    """Slope and curvature at 0 of the weighted least-squares quadratic; far points count less."""
    one, two = steps.T
    basis = np.stack([np.ones_like(one), one, two, 0.5 * one**2, one * two, 0.5 * two**2], axis=1)
    weights = 1 / (1 + (distance / 2) ** 4)
    normal = basis.T @ (weights[:, None] * basis) + np.diag([1e-12, 1e-9, 1e-9, RIDGE, RIDGE, RIDGE])
    _, a, b, aa, ab, bb = np.linalg.solve(normal, basis.T @ (weights * values))
    return np.array([a, b]), np.array([[aa, ab], [ab, bb]])
