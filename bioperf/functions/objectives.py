"""The upper level's smooth objective f."""

import numpy as np

from .._validation import check_finite, check_number

__all__ = ["SquaredDistance"]


class SquaredDistance:
    """f(x) = eta/2 |x - D|^2.

    It shows what the solver asks of an objective: ``value(x)`` and ``gradient(x)``, f strongly convex, and,
    optionally, ``strong_convexity`` (a modulus m > 0, f - m/2 |.|^2 convex: without it there is no lower bound),
    ``quadratic`` (True if the gradient is affine), ``hessian_product(x, v)`` (else differences of gradients
    serve), ``shape`` (of x).

    Parameters
    ----------
    target : float or ndarray of x's shape
        D; 0 asks for the solution of least norm.
    eta : float
        > 0.
    """

    quadratic = True

    def __init__(self, target=0.0, eta=1.0):
        target = np.asarray(target)
        if target.dtype.kind not in "fiu":
            raise TypeError(f"target: expected real numbers, got dtype {target.dtype}")
        target = target if target.dtype.kind == "f" and target.ndim else target.astype(np.float64)
        check_finite("target", target)
        self.target = target if target.ndim else float(target)
        self.shape = target.shape if target.ndim else None
        self.strong_convexity = check_number("eta", eta, strict=True)

    def __repr__(self):
        target = self.target if self.shape is None else f"array of shape {self.shape}"
        return f"SquaredDistance(target={target}, eta={self.strong_convexity:g})"

    def value(self, x):
        return 0.5 * self.strong_convexity * float(np.sum((x - self.target) ** 2))

    def gradient(self, x):
        return np.asarray(self.strong_convexity * (x - self.target), x.dtype)
