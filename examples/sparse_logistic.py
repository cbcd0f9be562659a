"""Sparse logistic regression with correlated features: which of many equally good models?

Features 20 ... 39 are copies of features 0 ... 19 (two sensors, one quantity).  The lasso is indifferent between a
feature and its copy; the upper level decides: the least norm, one of the two sensors, or a model known before.
"""

import numpy as np

from bioperf.bilevel import BilevelProblem, solve_bilevel
from bioperf.functions import L1, GroupLasso, Logistic, SquaredDistance

rng = np.random.default_rng(0)
features = rng.standard_normal((80, 20))
A = np.hstack([features, features])
truth = np.zeros(40)
truth[[0, 3, 7]] = 2.0, -1.5, 1.0
labels = (rng.random(80) < 1 / (1 + np.exp(-A @ truth))).astype(float)

# Least norm is 1/2 |x|^2; by sensor: the group lasso over the two sensors, one of them dearer than the other.
sensors = [range(20), range(20, 40)]
choices = {
    "least norm": {"objective": SquaredDistance()},
    "one sensor": {"objective": SquaredDistance(eta=0.01), "regulariser": GroupLasso(sensors, [1.0, 2.0])},
    "as known before": {"objective": SquaredDistance(np.roll(truth, 20))},
}
print(f"{'upper level':16} {'lower level':>12} {'|x_1|':>7} {'|x_2|':>7} {'nonzero':>7} {'gap':>8}  status")
for name, parts in choices.items():
    problem = BilevelProblem(A, Logistic(labels), L1(weight=3.0), **parts)
    solution = solve_bilevel(problem, tol=1e-8)
    x = solution.x
    lower = problem.loss.value(A @ x) + problem.penalty.value(x)
    first, second = np.linalg.norm(x[:20]), np.linalg.norm(x[20:])
    print(
        f"{name:16} {lower:12.6f} {first:7.3f} {second:7.3f} {np.count_nonzero(x):7} {solution.gap:8.0e}"
        f"  {solution.status.split(' (')[0]}"
    )
