"""Losses h(z) of z = A x: least squares, logistic regression, Poisson counts."""

import numpy as np
from scipy.special import expit, xlogy

from .._validation import check_finite, check_number
from .penalties import divide

__all__ = ["LeastSquares", "Logistic", "Loss", "Poisson"]

NEWTON_STEPS = 60


class Loss:
    """A convex, separable loss h with data b; z has b's shape, float32 or float64.

    A subclass has ``value(z)``, ``gradient(z)``, ``prox(z, step)`` (the minimiser over u of
    h(u) + |u - z|^2 / (2 step)) and ``conjugate(u)`` (the supremum over z of <u, z> - h(z)).

    Attributes
    ----------
    b : ndarray
        The data; float32 data make a float32 problem, integers are converted.
    strictly_convex : bool
        Whether every coordinate of A x is the same at all solutions of the lower level.
    """

    strictly_convex = True

    def __init__(self, b):
        b = np.asarray(b)
        if b.dtype.kind not in "fiub" or (b.dtype.kind == "f" and b.dtype.itemsize not in (4, 8)):
            raise TypeError(f"b: expected real numbers (float32, float64 or integers), got dtype {b.dtype}")
        if b.size == 0:
            raise ValueError(f"b: empty array of shape {b.shape}")
        self.integer = b.dtype.kind != "f"
        b = b.astype(np.float64) if self.integer else b
        check_finite("b", b)
        self.b = b

    def __repr__(self):
        return f"{type(self).__name__}(b of shape {self.b.shape})"

    def astype(self, dtype):
        """The same loss with its data in another precision."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, b=self.b.astype(dtype, copy=False))
        return other


class LeastSquares(Loss):
    """h(z) = 1/2 |z - b|^2."""

    def value(self, z):
        return 0.5 * float(np.sum((z - self.b) ** 2))

    def gradient(self, z):
        return z - self.b

    def prox(self, z, step):
        return (z + step * self.b) / (1 + step)

    def conjugate(self, u):
        return 0.5 * float(np.sum(u * u)) + float(np.sum(u * self.b))


class Logistic(Loss):
    """h(z) = sum log(1 + exp z) - <b, z>, the negative log-likelihood of labels b (0 or 1, or a frequency between)."""

    def __init__(self, b):
        super().__init__(b)
        if self.b.min() < 0 or self.b.max() > 1:
            wrong = int(np.sum((self.b < 0) | (self.b > 1)))
            raise ValueError(f"b: {wrong} labels are outside [0, 1]; code the two classes as 0 and 1")

    def value(self, z):
        return float(np.sum(np.logaddexp(0, z) - self.b * z))

    def gradient(self, z):
        return expit(z) - self.b

    def prox(self, z, step):
        """Newton's method on u - z + step (expit(u) - b) = 0.

        The root is in z + step [b - 1, b].  Expit is convex below 0 and concave above: from the point of that
        interval nearest to 0 the iterates approach the root from one side, without overshoot.
        """
        u = np.clip(np.zeros_like(z), z + step * (self.b - 1), z + step * self.b)
        rounding = 4 * float(np.finfo(z.dtype).eps) * (np.abs(z) + step)
        for _ in range(NEWTON_STEPS):
            chance = expit(u)
            residual = u - z + step * (chance - self.b)
            if np.all(np.abs(residual) <= rounding):
                break
            u = u - residual / (1 + step * chance * (1 - chance))
        return u

    def conjugate(self, u):
        p = u + self.b
        rounding = 8 * float(np.finfo(p.dtype).eps)
        if p.min() < -rounding or p.max() > 1 + rounding:
            return float("inf")
        p = np.clip(p, 0, 1)
        return float(np.sum(xlogy(p, p) + xlogy(1 - p, 1 - p)))


class Poisson(Loss):
    """h(z) = sum(z + c) - <b, log(z + c)>, the negative log-likelihood of counts b with means z + c, c >= 0.

    (Up to log b!, which does not depend on z.  The paper prints -sum log z + <b, z>, which is the likelihood of
    waiting times b with rates z, not that of counts.)  The domain is z + c >= 0, and > 0 where b > 0.  Where a
    count is 0 the loss is linear, and A x is then not the same at all solutions of the lower level.

    Parameters
    ----------
    b : ndarray of counts >= 0, not necessarily integers
    background : float or ndarray of b's shape
        c, known counts that do not come from x.
    """

    def __init__(self, b, background=0.0):
        super().__init__(b)
        if self.b.min() < 0:
            raise ValueError(f"b: {int(np.sum(self.b < 0))} counts are negative; counts are >= 0")
        if np.ndim(background) == 0:
            self.background = check_number("background", background)
        else:
            self.background = np.asarray(background, dtype=self.b.dtype)
            if self.background.shape != self.b.shape:
                raise ValueError(f"background: expected shape {self.b.shape}, got {self.background.shape}")
            check_finite("background", self.background)
            if self.background.min() < 0:
                raise ValueError("background: must be >= 0")
        self.strictly_convex = bool(self.b.min() > 0)

    def astype(self, dtype):
        other = super().astype(dtype)
        if isinstance(self.background, np.ndarray):
            other.background = self.background.astype(dtype, copy=False)
        return other

    def value(self, z):
        mean = z + self.background
        if mean.min() < 0 or np.any((mean == 0) & (self.b > 0)):
            return float("inf")
        return float(np.sum(mean - xlogy(self.b, mean)))

    def gradient(self, z):
        mean = z + self.background
        if mean.min() < 0 or np.any((mean == 0) & (self.b > 0)):
            raise ValueError("z: z + background must be > 0 where b > 0, and >= 0 elsewhere")
        return 1 - divide(self.b, mean)

    def prox(self, z, step):
        """The larger root of u^2 - (z + c - step) u - step b = 0, minus c."""
        half = 0.5 * (z + self.background - step)
        root = np.sqrt(half * half + step * self.b)
        # half + root, without cancellation where half < 0
        return np.where(half >= 0, half + root, divide(step * self.b, root - half)) - self.background

    def conjugate(self, u):
        if u.max() > 1 or np.any((u == 1) & (self.b > 0)):
            return float("inf")
        return float(np.sum(xlogy(self.b, self.b) - self.b - xlogy(self.b, 1 - u) - u * self.background))
