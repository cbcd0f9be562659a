"""Proximal ADMM for min_x F(x) + sum_i G_i(K_i x), F smooth, G_i with a prox (mathematics.md, "General form")."""

import math

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator, cg

from ..solution import DivergenceError

CHECK_EVERY = 10
# The multipliers' step: below (1 + sqrt 5)/2 the semi-proximal ADMM converges (Fazel et al., 2013).
STEP = 1.6
# Proximal weights, in units of the penalties.
PROXIMAL = 1e-3
# The penalties are balanced at iterations 10, 20, 40, 80, ..., by at most a factor of 10.
BALANCE_FIRST, BALANCE_BY = 10, 10.0
# Up to this many unknowns the x-update of a quadratic F is a triangular solve.
DIRECT_SIZE = 512
NEWTON_STEPS, SHORTEST = 20, 1e-4
POWER_STEPS = 20
# What is smaller than this times the size that data or objective suggest counts as 0 where residuals are relative.
SMALL = 1e-3


class Block:
    """One term G(K x): its copy z of K x, its unscaled multiplier and its penalty.

    ``function`` is G, with ``prox(v, step)``; ``operator`` is K, with ``operator(x)`` and ``operator.adjoint(z)``,
    or None for the identity.  ``subgradient`` is an element of dG(z).
    """

    def __init__(self, name, function, operator, x):
        self.name, self.function, self.operator = name, function, operator
        self.image = self.apply(x)
        self.z, self.multiplier = self.image.copy(), np.zeros_like(self.image)
        self.square_norm = 1.0 if operator is None else self._square_norm(x)
        self.penalty = 1.0

    def apply(self, x):
        return x if self.operator is None else self.operator(x)

    def adjoint(self, z):
        return z if self.operator is None else self.operator.adjoint(z)

    def _square_norm(self, x):
        """|K|^2 by the power method."""
        v = probe(x)
        for _ in range(POWER_STEPS):
            v = self.adjoint(self.apply(v / (norm(v) or 1.0)))
        return norm(v)

    def update(self):
        """z, and the subgradient that its optimality condition leaves."""
        weight = self.penalty * (1 + PROXIMAL)
        v = (self.penalty * (self.image + PROXIMAL * self.z) + self.multiplier) / weight
        z = self.function.prox(v, 1 / weight)
        self.subgradient, self.change, self.z = weight * (v - z), norm(z - self.z), z

    def residual(self, image, size):
        """|K x - z| relative to the larger of the two, or to what a vector x of that size would make of it."""
        return norm(image - self.z) / (max(norm(image), norm(self.z), size * math.sqrt(self.square_norm)) or 1.0)

    def balance(self, size):
        """Multiply the penalty by the root of (relative primal residual) / (relative dual residual)."""
        primal = self.residual(self.image, size)
        dual = self.penalty * self.change / (norm(self.multiplier) or math.inf)
        if primal > 0 and dual > 0:  # 0 where z cannot move, as with an equality
            self.penalty *= min(max(math.sqrt(primal / dual), 1 / BALANCE_BY), BALANCE_BY)


class Splitting:
    """The iteration; ``run`` it.  Residuals are relative to ``reference``, a size of F's gradient (the data term's in
    the lower level), at least, and to the size of x that it and the curvature suggest."""

    def __init__(self, smooth, blocks, x, reference, curvature):
        self.smooth, self.blocks, self.x, self.reference, self.curvature = smooth, blocks, x, reference, curvature
        self.small = SMALL * reference / (curvature or 1.0)
        self.iteration, self.grams = 0, None
        self.quadratic = getattr(smooth, "quadratic", False)
        if self.quadratic and x.size <= DIRECT_SIZE:
            self.grams = [_dense(hessian_product(smooth, x), x)]
            self.grams += [_dense(lambda e, b=block: b.adjoint(b.apply(e)), x) for block in blocks]
        self._factorise()

    def _factorise(self):
        """The proximal weight of x, and the factors of a small x-update's matrix."""
        self.proximal = PROXIMAL * max([self.curvature, *(b.penalty * b.square_norm for b in self.blocks)])
        if self.grams is not None:
            matrix = self.grams[0] + self.proximal * np.eye(self.x.size)
            matrix += sum(block.penalty * gram for block, gram in zip(self.blocks, self.grams[1:], strict=True))
            self.factor = cho_factor(matrix)

    def run(self, report, max_iter, record):
        """Iterate until the measure of ``report(self)``, which answers (x, measure, row), is at most 1.

        Returns the last x and row, whether it converged, and whether the callback stopped it.
        """
        balance_at = BALANCE_FIRST
        while True:
            self.iteration += 1
            for block in self.blocks:
                block.update()
            self._update_x()
            for block in self.blocks:
                block.image = block.apply(self.x)
                block.multiplier = block.multiplier + STEP * block.penalty * (block.image - block.z)
            done = self.iteration
            if done % CHECK_EVERY and done != max_iter:
                continue
            x, measure, row = report(self)
            row |= {f"{block.name}_penalty": block.penalty for block in self.blocks}
            stopped = record.add(done, x, measure, **row)
            if measure <= 1 or stopped or done == max_iter:
                return x, row, measure <= 1, stopped
            if done == balance_at:
                balance_at *= 2
                for block in self.blocks:
                    block.balance(self.small)
                self._factorise()

    def _update_x(self):
        """x <- argmin F(x) + sum beta_i/2 |K_i x - z_i + y_i/beta_i|^2 + tau/2 |x - x_k|^2 by Newton's method (one
        step if F is quadratic), to a tolerance that is summable over the iterations."""
        x = self.x
        gradient, scale = self._gradient(x)
        size = norm(gradient)
        if not math.isfinite(size):
            raise DivergenceError(
                f"the x-update's gradient became NaN or infinite at iteration {self.iteration}; "
                "check the objective's gradient, or rescale data and weights to the order of 1"
            )
        rounding = 4 * float(np.finfo(x.dtype).eps) * scale
        tol = max(min(0.1 * size, scale / self.iteration**1.5), rounding)
        for _ in range(NEWTON_STEPS):
            if size <= tol:
                break
            direction, length = self._newton_direction(x, gradient, tol), 1.0
            if self.quadratic:
                x = x + direction
                break
            while True:
                trial = x + length * direction
                gradient, _ = self._gradient(trial)
                if norm(gradient) <= (1 - 0.1 * length) * size or length < SHORTEST:
                    break
                length *= 0.5
            if length < SHORTEST:  # only rounding is left
                break
            x, size = trial, norm(gradient)
        self.x = x

    def _gradient(self, x):
        """The x-update's gradient, and the size of its largest part."""
        parts = [self.smooth.gradient(x)]
        for block in self.blocks:
            image = block.image if x is self.x else block.apply(x)
            parts.append(block.adjoint(block.multiplier + block.penalty * (image - block.z)))
        return sum(parts) + self.proximal * (x - self.x), max(map(norm, parts))

    def _newton_direction(self, x, gradient, tol):
        right = -gradient.ravel()
        if self.grams is not None:
            return cho_solve(self.factor, right.astype(np.float64)).reshape(x.shape).astype(x.dtype)
        hessian = hessian_product(self.smooth, x)

        def product(v):
            v = v.reshape(x.shape)
            parts = [block.penalty * block.adjoint(block.apply(v)) for block in self.blocks]
            return (hessian(v) + self.proximal * v + sum(parts)).ravel()

        matrix = LinearOperator((x.size, x.size), matvec=product, dtype=x.dtype)
        direction, _ = cg(matrix, right, rtol=0.0, atol=0.5 * tol, maxiter=10 * x.size)
        return direction.reshape(x.shape).astype(x.dtype)

    def point(self):
        """The last block's z that is a copy of x itself (exactly sparse, or inside its box), or x if there is none."""
        return next((block.z for block in reversed(self.blocks) if block.operator is None), self.x)

    def kkt_residual(self, x):
        """|grad F(x) + sum K_i^T y_i|, y_i in dG_i(z_i), relative to its largest part (at least the reference), or
        |K_i x - z_i| relative to |K_i x|, whichever is largest."""
        parts = [self.smooth.gradient(x)] + [block.adjoint(block.subgradient) for block in self.blocks]
        residuals = [norm(sum(parts)) / (max([self.reference, *map(norm, parts)]) or 1.0)]
        return max(residuals + [block.residual(block.apply(x), self.small) for block in self.blocks])


def norm(a):
    return float(np.linalg.norm(a))


def probe(x):
    """A fixed random direction of x's shape and dtype."""
    return np.random.default_rng(0).standard_normal(x.shape).astype(x.dtype)


def hessian_product(f, x):
    """v -> f''(x) v: the objective's own, exact differences where f is quadratic, else a difference quotient."""
    if callable(getattr(f, "hessian_product", None)):
        return lambda v: f.hessian_product(x, v)
    if getattr(f, "quadratic", False):
        at_zero = f.gradient(np.zeros_like(x))
        return lambda v: f.gradient(v) - at_zero
    slope, width = f.gradient(x), math.sqrt(np.finfo(x.dtype).eps) * (1 + norm(x))

    def product(v):
        step = width / (norm(v) or 1.0)
        return (f.gradient(x + step * v) - slope) / step

    return product


def _dense(function, x):
    """The matrix of a linear map from x's space to itself, float64."""
    columns = [function(e.reshape(x.shape)) for e in np.eye(x.size, dtype=x.dtype)]
    return np.stack([np.asarray(column, np.float64).ravel() for column in columns], axis=1)
