"""The data terms of mathematics.md 8: quadratics that are diagonal in the Fourier basis."""

import numpy as np


class Quadratic:
    """f(x) = 1/2 <x, G x> - <g, x> + c for a stack of images x, with G diagonal in the Fourier basis.

    1/2 |A x - y|^2 for ``Blur`` and ``MaskedFourier``, and 1/2 |x - reference|^2, are of this form; sums run over
    the stack.

    Attributes
    ----------
    gram : ndarray, shape (*spectrum,)
        G >= 0, in the problem's real dtype.
    observed : ndarray, shape (B, *spectrum)
        The Fourier coefficients of G^+ g: f(x) = floor + 1/2 <x - observed, G (x - observed)>.
    floor, at_zero : float
        min f, and f(0).
    """

    def __init__(self, problem, gram, observed, floor):
        self.problem, self.gram, self.observed, self.floor = problem, gram, observed, float(floor)
        self.linear = gram * observed
        # pixels / 2 times G and the copies of each coefficient: f = floor + sum of factor |X - observed|^2
        self.factor = (0.5 * problem.pixels * problem.copies * gram).astype(problem.real_dtype)
        self.weighted = observed * self.factor
        self.at_zero = self.value(np.zeros_like(observed))

    @classmethod
    def of_data(cls, problem, A, y):
        """1/2 |A x - y|^2 for data y : (B, *A.data_shape)."""
        transfer = A.transfer(problem.dtype)
        gram = (transfer.real**2 + transfer.imag**2).astype(problem.real_dtype)
        observed, floor = [], 0.0
        for item in y:
            data, unreachable = A.coefficients(item, problem.fft)
            image = np.divide(data, transfer, out=np.zeros_like(data), where=gram > 0)
            floor += 0.5 * (unreachable + problem.square_norm(np.where(gram > 0, 0, data)))
            observed.append(image)
        return cls(problem, gram, np.stack(observed), floor)

    @classmethod
    def of_reference(cls, problem, reference):
        """1/2 |x - reference|^2 for reference : (B, *shape)."""
        observed = np.stack([problem.fft.coefficients(image) for image in reference])
        return cls(problem, np.ones(observed.shape[1:], problem.real_dtype), observed, 0.0)

    def value(self, spectrum):
        """f of the images with these Fourier coefficients, (B, *spectrum)."""
        difference = spectrum - self.observed
        power = difference.real**2 + difference.imag**2
        return self.floor + float(np.sum(power * self.factor, dtype=np.float64))

    def moments(self, spectrum):
        """<x, G x> and <g, x>."""
        square = float(np.vdot(spectrum * self.factor, spectrum).real)
        cross = float(np.vdot(self.weighted, spectrum).real)
        return 2 * square, 2 * cross

    @property
    def image_term(self):
        """<g, G^+ g> = 2 (f(0) - floor)."""
        return 2 * (self.at_zero - self.floor)

    def plus(self, other, weight):
        """other + weight self, with the same images."""
        gram = other.gram + self.problem.real_dtype.type(weight) * self.gram
        linear = other.linear + self.problem.real_dtype.type(weight) * self.linear
        observed = np.divide(linear, gram, out=np.zeros_like(linear), where=gram > 0)
        joint = Quadratic(self.problem, gram, observed, 0.0)
        joint.floor = other.at_zero + weight * self.at_zero - joint.at_zero
        joint.at_zero = other.at_zero + weight * self.at_zero
        return joint
