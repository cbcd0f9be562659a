"""Penalties phi(x) and g(x): value, proximal map, projection onto the sublevel set {value <= level}, conjugate."""

import math

import numpy as np

from .._validation import check_number
from ..kernels import get_backend

__all__ = ["L1", "Box", "Penalty", "SquaredL2", "TotalVariation", "Zero"]


class Penalty:
    """A closed convex function of an array x, float32 or float64, with weights inside.

    A subclass has ``value`` and either ``_prox``, ``_project``, ``conjugate`` and ``support``, or an ``outer``
    penalty that has them and an ``operator`` (a linear map with ``operator(x)`` and ``operator.adjoint(p)``)
    such that value(x) = outer.value(operator(x)).

    Attributes
    ----------
    shape : tuple or None
        The shape that x must have; None: any.
    """

    shape = None
    operator = None

    @property
    def outer(self):
        return self

    def __repr__(self):
        return f"{type(self).__name__}()"

    def check_size(self, size):
        """ValueError if x cannot have that many entries."""
        if self.shape is not None and math.prod(self.shape) != size:
            raise ValueError(
                f"{type(self).__name__} is made for {self.shape}, {math.prod(self.shape)} entries, not {size}"
            )

    def prox(self, x, step):
        """The minimiser over u of value(u) + |u - x|^2 / (2 step), step > 0."""
        if not step > 0:
            raise ValueError(f"step: must be > 0, got {step}")
        return self._prox(_as_float(x), step)

    def project_sublevel(self, x, level):
        """The nearest point to x with value <= level, level >= 0."""
        if not level >= 0:
            raise ValueError(f"level: no point has a value <= {level}; pass a number >= 0")
        return self._project(_as_float(x), level)

    def excess(self, x, level):
        """By how much x leaves the sublevel set: (value - level)+, for a box the distance to it."""
        return max(0.0, self.value(x) - level)

    def clip_dual(self, y):
        """y, moved if need be into the conjugate's domain."""
        return y

    def face(self, u, tol):
        """The indicator of the points at which u is a subgradient; None if the sublevel set serves as well.

        With u a multiplier of the lower level these points with A x = ybar are its solutions, and the multipliers
        that the sublevel set lacks there exist.  ``tol`` is the relative accuracy of u: a point admitted because
        of it has a value that is at most tol too large, relatively.
        """
        return None


class Norm(Penalty):
    """A (semi)norm: all that follows from value and dual_norm."""

    def conjugate(self, y):
        """The supremum over x of <x, y> - value(x): 0 or infinity."""
        return 0.0 if self.dual_norm(y) <= 1 else float("inf")

    def support(self, y, level):
        """The supremum of <x, y> over value(x) <= level."""
        dual = self.dual_norm(y)
        return level * dual if math.isfinite(dual) else dual

    def clip_dual(self, y):
        dual = self.dual_norm(y)
        return y if dual <= 1 else y * ((1 - 8 * float(np.finfo(y.dtype).eps)) / dual)


class L1(Norm):
    """weight * sum |x|."""

    def __init__(self, weight=1.0):
        self.weight = check_number("weight", weight, strict=True)

    def value(self, x):
        return self.weight * float(np.sum(np.abs(x)))

    def dual_norm(self, y):
        return float(np.max(np.abs(y))) / self.weight

    def _prox(self, x, step):
        return get_backend().soft_threshold(x, step * self.weight)

    def _project(self, x, level):
        return get_backend().project_l1_ball(x, level / self.weight)

    def face(self, u, tol):
        return Face(*half_lines(u, self.weight * (1 - tol)))


class _PixelNorm(Norm):
    """weight * sum over the pixels of the l2 norm along axis 0."""

    def __init__(self, weight):
        self.weight = weight

    def value(self, x):
        return self.weight * float(np.sum(np.sqrt(np.sum(x * x, axis=0))))

    def dual_norm(self, y):
        return math.sqrt(float(np.max(np.sum(y * y, axis=0)))) / self.weight

    def _prox(self, x, step):
        norms = np.sqrt(np.sum(x * x, axis=0))
        return x * shrink_factor(norms, step * self.weight)

    def _project(self, x, level):
        return get_backend().project_l21_ball(x, level / self.weight)

    def face(self, u, tol):
        norms = np.sqrt(np.sum(u * u, axis=0))
        active = norms >= self.weight * (1 - tol)
        direction = u * divide(active, norms)
        return Face(0.0, 0.0, direction, lambda p: np.sum(p, axis=0))


class _Gradient:
    """Periodic forward differences of an image of the given shape: x -> (d, *shape)."""

    def __init__(self, shape):
        self.ndim = len(shape)

    def __call__(self, x):
        return get_backend().gradient(x, ndim=self.ndim)

    def adjoint(self, p):
        return get_backend().gradient_adjoint(p, ndim=self.ndim)


class TotalVariation(Penalty):
    """weight * TV(x), periodic, of an image of 1, 2 or 3 axes.

    Its prox and its projection have no closed form, and ``prox`` and ``project_sublevel`` say so: the solver
    splits it, as ``outer`` (a norm of the differences) of ``operator`` (the differences).

    Parameters
    ----------
    shape : tuple of int
    isotropic : bool
        Whether to sum the l2 norms of the pixels' differences (True) or their l1 norms (False).
    """

    def __init__(self, shape, *, isotropic=False, weight=1.0):
        shape = (shape,) if isinstance(shape, int | np.integer) else shape
        if not isinstance(shape, tuple | list) or not all(isinstance(n, int | np.integer) and n > 0 for n in shape):
            raise TypeError(f"shape: expected a tuple of positive integers, got {shape!r}")
        if not 1 <= len(shape) <= 3:
            raise ValueError(f"shape: expected 1, 2 or 3 axes, got {shape}")
        self.shape = tuple(int(n) for n in shape)
        self.weight = check_number("weight", weight, strict=True)
        self.isotropic = bool(isotropic)
        self.operator = _Gradient(self.shape)
        self._outer = _PixelNorm(self.weight) if isotropic else L1(self.weight)

    @property
    def outer(self):
        return self._outer

    def value(self, x):
        return self._outer.value(self.operator(x))

    def _prox(self, x, step):
        raise TypeError("TotalVariation has no closed-form prox; use its .outer and .operator, as solve_bilevel does")

    def _project(self, x, level):
        raise TypeError("TotalVariation has no closed-form projection; use its .outer and .operator")


class SquaredL2(Penalty):
    """weight/2 * |x|^2."""

    def __init__(self, weight=1.0):
        self.weight = check_number("weight", weight, strict=True)

    def value(self, x):
        return 0.5 * self.weight * float(np.sum(x * x))

    def _prox(self, x, step):
        return x / (1 + step * self.weight)

    def _project(self, x, level):
        return get_backend().project_l2_ball(x, math.sqrt(2 * level / self.weight))

    def conjugate(self, y):
        return float(np.sum(y * y)) / (2 * self.weight)

    def support(self, y, level):
        return math.sqrt(2 * level / self.weight) * float(np.linalg.norm(y))

    def face(self, u, tol):
        return Box(u / self.weight, u / self.weight)


class Box(Penalty):
    """The indicator of lower <= x <= upper; numbers or arrays of x's shape, infinite for no bound."""

    def __init__(self, lower=-np.inf, upper=np.inf):
        self.lower, self.upper = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
        try:
            shape = np.broadcast_shapes(self.lower.shape, self.upper.shape)
        except ValueError:
            raise ValueError(f"lower, upper: shapes {self.lower.shape} and {self.upper.shape} do not match") from None
        if not (np.all(self.lower < np.inf) and np.all(self.upper > -np.inf)):
            raise ValueError("lower, upper: must be numbers; -numpy.inf below and numpy.inf above mean no bound")
        wrong = int(np.sum(self.lower > self.upper))
        if wrong:
            raise ValueError(f"lower, upper: lower > upper in {wrong} of {math.prod(shape)} entries")
        self.shape = shape or None

    def value(self, x):
        return 0.0 if np.array_equal(self._prox(x, 1.0), x) else float("inf")

    def _prox(self, x, step):
        return np.clip(x, self.lower.astype(x.dtype), self.upper.astype(x.dtype))

    def _project(self, x, level):
        return self._prox(x, 1.0)

    def excess(self, x, level):
        return float(np.linalg.norm(x - self._prox(x, 1.0)))

    def conjugate(self, y):
        above = np.multiply(self.upper, y, where=y > 0, out=np.zeros(y.shape))
        below = np.multiply(self.lower, y, where=y < 0, out=np.zeros(y.shape))
        return float(np.sum(above) + np.sum(below))

    def support(self, y, level):
        return self.conjugate(y)


class Face(Penalty):
    """The indicator of a sum of a box about 0 with bounds 0 or infinite, and of rays: c_g d_g, c_g >= 0, on groups
    where the box is 0.  ``total`` sums over the groups, broadcast to x."""

    def __init__(self, lower, upper, direction=0.0, total=None):
        self.lower, self.upper, self.direction, self.total = lower, upper, direction, total

    def value(self, x):
        return 0.0 if np.array_equal(self._prox(x, 1.0), x) else float("inf")

    def _prox(self, x, step):
        inside = np.clip(x, self.lower, self.upper).astype(x.dtype, copy=False)
        if self.total is not None:
            inside = inside + self.direction * np.maximum(self.total(x * self.direction), 0)
        return inside

    def conjugate(self, y):
        """0 (on the polar cone, to which ``clip_dual`` projects)."""
        return 0.0

    def clip_dual(self, y):
        return y - self._prox(y, 1.0)


class Zero(Penalty):
    """0: no penalty."""

    def value(self, x):
        return 0.0

    def _prox(self, x, step):
        return x.copy()

    def _project(self, x, level):
        return x.copy()

    def conjugate(self, y):
        return float("inf") if np.any(y) else 0.0

    def support(self, y, level):
        return self.conjugate(y)

    def clip_dual(self, y):
        return np.zeros_like(y)


def _as_float(x):
    x = np.asarray(x)
    if x.dtype.kind != "f" or x.dtype.itemsize not in (4, 8):
        raise TypeError(f"x: expected float32 or float64, got dtype {x.dtype}")
    return x


def shrink_factor(norms, threshold):
    """max(0, 1 - threshold / norm), 0 where the norm is 0."""
    return np.where(norms > 0, np.maximum(0, 1 - divide(threshold, norms)), 0).astype(norms.dtype, copy=False)


def divide(numerator, denominator):
    """numerator / denominator, and 0 where the denominator is not positive."""
    return np.divide(numerator, denominator, where=denominator > 0, out=np.zeros_like(denominator))


def half_lines(u, threshold):
    """Bounds that leave x >= 0 where u >= threshold, x <= 0 where u <= -threshold, and x = 0 between."""
    return np.where(u <= -threshold, -np.inf, 0.0), np.where(u >= threshold, np.inf, 0.0)
