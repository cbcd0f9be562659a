"""The term weight |T x|_1 of either level, split by z = T x in the one-field form of mathematics.md 4c."""

import numpy as np

from ._validation import shown
from .fft import workspace


def resolve_transform(name, transform, shape):
    """The transform for what a user may pass: None, a name, or an object; checked for images of that shape."""
    if transform is None:
        return None
    from .transforms import DCT, UndecimatedWavelet, Wavelet

    if isinstance(transform, str):
        special = {"dct": DCT, "undecimated": UndecimatedWavelet}
        make = special.get(transform)
        transform = make(ndim=len(shape)) if make else Wavelet(transform, ndim=len(shape))
    if not all(callable(getattr(transform, method, None)) for method in ("forward", "adjoint", "coefficient_shape")):
        raise TypeError(f"{name}: expected a name or an object of bioperf.transforms, got {shown(transform)}")
    if transform.ndim != len(shape):
        raise ValueError(f"{name}: {transform!r} is for {transform.ndim} axes, the images have {len(shape)}: pass ndim")
    transform.check(shape)
    return transform


class SparseTerm:
    """w = T x + d with z = w - clip(w, theta), d = clip(w, theta), for T^T T = I.

    Parameters
    ----------
    problem : Problem
    transform : a transform of ``bioperf.transforms``
    weight : float or ndarray
        One for all coefficients, or one for each.
    penalty : float
        Of the split; theta = weight / penalty.
    """

    def __init__(self, problem, transform, weight, penalty):
        self.kernels, self.threads = problem.kernels, problem.threads
        self.transform, self.penalty = transform, penalty
        self.weight, self.weights = float(np.max(weight)), None
        if np.ndim(weight):
            self.weights = np.ascontiguousarray(weight / self.weight, problem.real_dtype)
        shape = transform.coefficient_shape(problem.shape)
        self.coefficients, self.field = workspace([(shape, problem.dtype)] * 2)
        (self.image,) = workspace([(problem.shape, problem.dtype)])
        self.theta = 0.0
        self.rounding = 0.5 * problem.rounding * np.sqrt(self.field.size)

    def start(self, x):
        self.analyse(x)
        self.field[...] = self.coefficients

    def analyse(self, x):
        """T x, which ``update`` and ``status`` read."""
        self.transform.forward(x, out=self.coefficients, threads=self.threads)

    def update(self, relaxation, rhs, weight):
        """The z- and multiplier updates; rhs += weight T^T(z - d)."""
        theta = self.weight / self.penalty
        self.kernels.update_coefficients(
            self.coefficients, self.field, relaxation, self.theta, theta, 1.0, self.weights, self.coefficients,
            threads=self.threads,
        )  # fmt: skip
        self.theta = theta
        self._add(self.coefficients, rhs, weight)

    def status(self):
        """|T x|_1, <d, T x>, <T x - z + d, T x> and max |T x - z + d|, after ``analyse``."""
        norm, pairing, tz, zz, tt, largest = self.kernels.coefficient_status(
            self.coefficients, self.field, self.theta, self.weights, threads=self.threads
        )
        return norm, pairing, pairing + 0.5 * (tt + tz - zz), largest

    def add_dual(self, rhs, weight):
        """rhs += weight T^T d; the analysed T x is lost."""
        self.kernels.clip_coefficients(self.field, self.theta, self.weights, self.coefficients, threads=self.threads)
        self._add(self.coefficients, rhs, weight)

    def add_split(self, rhs, weight):
        """rhs += weight T^T(z - d); the analysed T x is lost."""
        self.kernels.clip_coefficients(self.field, self.theta, self.weights, self.coefficients, threads=self.threads)
        self.coefficients *= -2
        self.coefficients += self.field
        self._add(self.coefficients, rhs, weight)

    def dual_excess(self, vector):
        """max |penalty d - T vector| / weight: how far the multiplier leaves its bound when it takes up vector."""
        clipped = np.empty_like(self.field)
        self.kernels.clip_coefficients(self.field, self.theta, self.weights, clipped, threads=self.threads)
        clipped *= clipped.real.dtype.type(self.penalty)
        self.analyse(vector)
        clipped -= self.coefficients
        return float(np.abs(clipped).max()) / self.weight

    def rescale(self, factor):
        """The penalty times factor, the multiplier the same."""
        clipped = np.empty_like(self.field)
        self.kernels.clip_coefficients(self.field, self.theta, self.weights, clipped, threads=self.threads)
        clipped *= self.field.real.dtype.type(1 / factor - 1)
        self.field += clipped
        self.penalty *= factor
        self.theta /= factor

    def state(self):
        """What an iteration leaves to the next."""
        return {"sparse_field": self.field, "sparse_theta": self.theta, "sparse_penalty": self.penalty}

    def restore(self, kept):
        kept.fill(sparse_field=self.field)
        self.theta, self.penalty = kept.number("sparse_theta"), kept.number("sparse_penalty")

    def _add(self, coefficients, rhs, weight):
        image = self.transform.adjoint(coefficients, out=self.image, threads=self.threads)
        image *= image.real.dtype.type(weight)
        rhs += image
