"""The group lasso and the sparse group lasso: l2 norms of disjoint groups of entries, and the l1 norm."""

import numpy as np
from scipy.optimize import brentq

from .._validation import check_number
from ..kernels import get_backend
from .penalties import Face, Norm, divide, half_lines, shrink_factor

__all__ = ["GroupLasso", "SparseGroupLasso"]

NEWTON_STEPS = 100


class SparseGroupLasso(Norm):
    """a * sum |x| + sum over the groups of w_g |x_g|_2 (Simon et al., 2013).

    Parameters
    ----------
    groups : sequence of sequences of int
        Indices into x flattened; each of 0 ... n-1 in exactly one group.
    weights : (float, float or sequence of one float a group)
        a >= 0 and w_g >= 0, not all of them 0.
    """

    def __init__(self, groups, weights=(1.0, 1.0)):
        if not isinstance(weights, tuple | list) or len(weights) != 2:
            raise TypeError(
                f"weights: expected a pair (weight of the l1 norm, weight or weights of the groups), got {weights!r}"
            )
        self.labels, count = _partition(groups)
        self.sparse_weight = check_number("weights", weights[0])
        group_weights = np.asarray(weights[1])
        if group_weights.dtype.kind not in "fiu":
            raise TypeError(f"weights: expected numbers, got {weights[1]!r}")
        if group_weights.ndim and group_weights.shape != (count,):
            raise ValueError(f"weights: expected one for each of the {count} groups, got shape {group_weights.shape}")
        if not np.all(np.isfinite(group_weights)) or group_weights.min() < 0:
            raise ValueError("weights: must be finite and >= 0")
        self.group_weights = np.broadcast_to(group_weights.astype(np.float64), (count,))
        if self.sparse_weight == 0 and not self.group_weights.any():
            raise ValueError("weights: all are 0; use Zero()")

    def __repr__(self):
        return f"{type(self).__name__}({self.group_weights.size} groups of {self.labels.size} entries)"

    def check_size(self, size):
        if size != self.labels.size:
            raise ValueError(f"groups: they partition {self.labels.size} entries, x has {size}")

    def _norms(self, x):
        """The groups' l2 norms, float64."""
        square = np.square(x, dtype=np.float64).ravel()
        return np.sqrt(np.bincount(self.labels, square, self.group_weights.size))

    def _spread(self, values, x):
        """One value a group -> an array of x's shape and dtype."""
        return values[self.labels].reshape(x.shape).astype(x.dtype)

    def value(self, x):
        self.check_size(x.size)
        total = float(np.dot(self.group_weights, self._norms(x)))
        return total + self.sparse_weight * float(np.sum(np.abs(x))) if self.sparse_weight else total

    def _prox(self, x, step):
        self.check_size(x.size)
        if self.sparse_weight:
            x = get_backend().soft_threshold(x, step * self.sparse_weight)
        return x * self._spread(shrink_factor(self._norms(x), step * self.group_weights), x)

    def _project(self, x, level):
        if self.value(x) <= level:
            return x.copy()
        if level == 0:
            return x * self._spread((self.group_weights == 0) & (self.sparse_weight == 0), x)
        if not self.sparse_weight:
            norms = self._norms(x)
            theta = _weighted_l1_threshold(norms, self.group_weights, level)
            return x * self._spread(shrink_factor(norms, theta * self.group_weights), x)
        # the value of prox(x, theta) falls from value(x) to 0
        wide = x.astype(np.float64)
        theta = brentq(
            lambda t: self.value(self._prox(wide, t)) - level,
            0.0, self._largest_ratio(wide) * (1 + 1e-12), xtol=np.finfo(float).tiny, rtol=4 * np.finfo(float).eps,
        )  # fmt: skip
        return self._prox(wide, theta).astype(x.dtype)

    def _largest_ratio(self, y):
        """The least t with |soft(y_g, t a)| <= t w_g for every group with a weight: Newton's method from t = 0
        on these convex, decreasing functions of t, which comes from the left."""
        a, weights = self.sparse_weight, self.group_weights
        size = np.abs(np.asarray(y, np.float64)).ravel()
        ratio = np.zeros(weights.size)
        for _ in range(NEWTON_STEPS):
            above = np.maximum(size - a * ratio[self.labels], 0)
            norms = self._norms(above)
            slope = a * divide(np.bincount(self.labels, above, weights.size), norms) + weights
            following = ratio + divide(norms - ratio * weights, slope)
            if not np.any(following > ratio * (1 + 4 * np.finfo(float).eps)):
                break
            ratio = following
        return float(ratio.max())

    def dual_norm(self, y):
        """max over the groups of the least t with |soft(y_g, t a)| <= t w_g; infinite where a group weighs nothing."""
        if not self.sparse_weight and np.any(self._norms(y)[self.group_weights == 0] > 0):
            return float("inf")
        return self._largest_ratio(y)

    def face(self, u, tol):
        a, weights = self.sparse_weight, self.group_weights
        lower, upper = half_lines(u, a * (1 - tol)) if a else (-np.inf, np.inf)
        weighted = weights[self.labels].reshape(u.shape) > 0
        soft = np.sign(u) * np.maximum(np.abs(u) - a, 0)
        norms = self._norms(soft)
        active = (weights > 0) & (norms >= weights * (1 - tol))
        direction = soft * self._spread(divide(active, norms), soft)

        def total(x):
            return self._spread(np.bincount(self.labels, x.ravel(), weights.size), x)

        return Face(np.where(weighted, 0, lower), np.where(weighted, 0, upper), direction, total)


class GroupLasso(SparseGroupLasso):
    """sum over the groups of w_g |x_g|_2 (Yuan and Lin, 2006); weights: w_g >= 0, one number or one a group."""

    def __init__(self, groups, weights=1.0):
        super().__init__(groups, (0.0, weights))


def _weighted_l1_threshold(norms, weights, level):
    """theta with sum w (n - theta w)+ = level for numbers n >= 0 with sum w n > level."""
    active = weights > 0
    norms, weights = norms[active], weights[active]
    order = np.argsort(-norms / weights, kind="stable")
    norms, weights = norms[order], weights[order]
    theta = (np.cumsum(weights * norms) - level) / np.cumsum(weights * weights)
    above = norms > theta * weights
    above[0] = True  # also where a tiny level is lost in rounding
    return float(theta[np.flatnonzero(above)[-1]])


def _partition(groups):
    """One label an index, and the number of groups, from index lists that partition 0 ... n-1."""
    try:
        members = [np.asarray(group) for group in groups]
    except TypeError:
        raise TypeError(f"groups: expected a sequence of index sequences, got {groups!r}") from None
    if not members or any(m.ndim != 1 or m.size == 0 or m.dtype.kind not in "iu" for m in members):
        raise TypeError("groups: expected a sequence of non-empty sequences of integers, one a group")
    flat = np.concatenate(members)
    if flat.min() < 0:
        raise ValueError(f"groups: index {flat.min()} is negative")
    counts = np.bincount(flat)
    if counts.max() > 1:
        raise ValueError(
            f"groups: index {int(np.argmax(counts > 1))} is in more than one group; groups must not overlap"
        )
    if counts.min() < 1:
        raise ValueError(f"groups: index {int(np.argmin(counts))} is in no group; every entry of x needs one")
    labels = np.empty(flat.size, np.intp)
    labels[flat] = np.repeat(np.arange(len(members)), [m.size for m in members])
    return labels, len(members)
