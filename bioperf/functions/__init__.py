"""The parts that a bilevel problem is composed of (mathematics.md, "General form"): losses h, penalties phi and g,
and the objective f.

A loss acts on ``z = A x`` and has ``value``, ``gradient``, ``prox`` and ``conjugate``.  A penalty acts on x, of any
shape, and has ``value``, ``prox``, ``project_sublevel``, ``conjugate`` and ``support``; total variation, whose
prox has no closed form, declares ``outer`` and ``operator`` with value(x) = outer(operator(x)) instead.
"""

from .groups import GroupLasso, SparseGroupLasso
from .losses import LeastSquares, Logistic, Loss, Poisson
from .objectives import SquaredDistance
from .penalties import L1, Box, Penalty, SquaredL2, TotalVariation, Zero

__all__ = [
    "L1",
    "Box",
    "GroupLasso",
    "LeastSquares",
    "Logistic",
    "Loss",
    "Penalty",
    "Poisson",
    "SparseGroupLasso",
    "SquaredDistance",
    "SquaredL2",
    "TotalVariation",
    "Zero",
]
