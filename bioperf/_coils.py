"""Several coils: A^H A is not diagonal, so the coil images s_c = S_c x are split off (mathematics.md 4e).

With p = max sum_c |S_c|^2 the term (p - sum_c |S_c|^2)^(1/2) x is one more, unmeasured coil: the x-update is
then diagonal in the Fourier basis, and so is each coil's own.  As in the one-field form a single array a coil
is kept, E = F s + d - Y, in which a sampled coefficient of s - Y is sigma E and of d is (1 - sigma) E; where
nothing was sampled sigma = 1.
"""

import functools
import math

import numpy as np

from ._fourier import RELAXATION, DataBall, Problem
from ._kkt import dual_value
from .fft import plan_fft, workspace
from .kernels import available_threads, run_tasks, threads_for
from .operators.fourier import to_unshifted


class CoilProblem(Problem):
    """A problem whose data are the k-space of several coils."""

    def __init__(self, A, dtype, threads=None):
        super().__init__(A, dtype, threads)
        # Coils have more work for a thread than images have; but one that loses its core stops them all.
        self.coil_threads = max(self.threads, threads_for(A.maps.size // 4, threads or available_threads()))
        maps = A.maps.astype(self.dtype, copy=False)
        power = np.sum(maps.real**2 + maps.imag**2, axis=0)
        self.maps, self.peak = maps, float(power.max())
        self.complement = self.real_dtype.type(self.peak) - power
        self.mask = A.sampled.astype(self.real_dtype)
        self.coil_fft = plan_fft(A.shape, dtype, threads=1)

    def what_ran(self):
        return super().what_ran() | {"threads": self.coil_threads}

    def lower(self, y):
        return LowerCoils(self, y)

    def upper(self, item, eta):
        return UpperCoils(self, item, eta)


class _Coils:
    """The split coil images of one item, and the x-update that both levels share."""

    def __init__(self, problem, y):
        self.problem, self.y = problem, y
        data = to_unshifted(y, problem.A.sampled, problem.A.centred)
        data *= problem.real_dtype.type(np.sqrt(problem.scale))
        self.data = np.ascontiguousarray(data, problem.dtype)
        self.field, self.spectra, self.images = workspace([(data.shape, problem.dtype)] * 3)
        self.free, self.total = problem.fft.empty("image", "image")
        (self.spectrum,) = problem.fft.empty("spectrum")
        self.denominator, self.weights = None, None

    def start(self, x):
        p = self.problem
        self._analyse(x)
        np.multiply(self.spectra, p.real_dtype.type(p.scale), out=self.field)
        self.field -= self.data
        self.free[...] = x
        self.sigma = 1.0

    def state(self):
        """What an iteration leaves to the next."""
        return {"coil_field": self.field, "coil_free": self.free, "sigma": self.sigma}

    def restore(self, kept):
        kept.fill(coil_field=self.field, coil_free=self.free)
        self.sigma = kept.number("sigma")

    def _each(self, function, source, target):
        """function(source[c], target[c]) into target[c] for every coil, one coil a thread."""

        threads, coils = self.problem.coil_threads, len(self.field)

        def run(first):
            for c in range(first, coils, threads):
                out = target[c]
                result = function(source[c], out)
                if result is not out:
                    out[...] = result

        run_tasks([functools.partial(run, first) for first in range(min(threads, coils))])

    def _analyse(self, x):
        """spectra <- F S x, without the factor ``scale``."""
        p = self.problem
        p.kernels.coil_images(x, p.maps, self.images, threads=p.coil_threads)
        self._each(p.coil_fft.forward, self.images, self.spectra)

    def _combine(self, spectra, out):
        """out <- sum_c conj(S_c) F^-1 spectra_c; the spectra and ``images`` are overwritten."""
        p = self.problem
        self._each(p.coil_fft.inverse, spectra, self.images)
        p.kernels.coil_combine(self.images, p.maps, out, threads=p.coil_threads)

    def _solve(self, rhs, x, coil_penalty, field_penalty, shift, target=None, eta=0.0):
        """x <- the minimiser over x with the splits as they are; sums over the new coil images."""
        p = self.problem
        weights = (coil_penalty, field_penalty, shift)
        if weights != self.weights:
            axes = [axis * p.real_dtype.type(p.scale * field_penalty) for axis in p.laplacian]
            self.denominator = functools.reduce(np.add.outer, axes)
            self.denominator += p.real_dtype.type(coil_penalty * p.peak + shift)
            self.weights = weights
        p.kernels.coil_pull(self.field, p.mask, self.data, self.sigma, self.spectra, threads=p.coil_threads)
        self._combine(self.spectra, self.total)
        self.total += p.complement * self.free
        self.total *= p.real_dtype.type(coil_penalty)
        rhs *= p.real_dtype.type(field_penalty)
        self.total += rhs
        if target is not None:
            self.total += p.real_dtype.type(eta) * target
        spectrum = p.fft.forward(self.total, self.spectrum)
        spectrum *= p.real_dtype.type(p.scale)
        p.kernels.module.spectral_divide(spectrum, self.denominator, spectrum, p.threads)
        x = p.fft.inverse(spectrum, x)
        self.free *= p.real_dtype.type(1 - RELAXATION)
        self.free += p.real_dtype.type(RELAXATION) * x
        self._analyse(x)
        squares = p.kernels.coil_update(
            self.spectra, self.field, p.mask, self.data, p.scale, RELAXATION, self.sigma, threads=p.coil_threads
        )
        return x, *(p.pixels * square for square in squares)


class LowerCoils(_Coils):
    """As ``LowerData``, for several coils."""

    constant, exact_multipliers = 0.0, False
    # Of the coils' split, beside 1 for the data: less converges faster at first, more to the last digits.
    penalty = 0.15

    def step(self, rhs, x, penalty, shift, keep):
        x, _, square = self._solve(rhs, x, self.penalty, penalty, shift)
        self.sigma = self.penalty / (1 + self.penalty)
        return x, square

    def kkt(self, dual, penalty):
        """|A^H(A x - y) + penalty dual| and |penalty dual| at the last x, once a step; dual is overwritten."""
        p = self.problem
        self.spectra *= p.real_dtype.type(p.scale)
        self.spectra -= self.data
        self.spectra *= p.mask
        self.data_pairing = p.pixels * float(np.vdot(self.spectra, self.data).real)
        self._combine(self.spectra, self.total)
        dual *= p.real_dtype.type(penalty)
        self.total += dual
        return float(np.linalg.norm(self.total)), float(np.linalg.norm(dual))

    def dual_bound(self, square, excess, zero_mean):
        """A lower bound: the dual value at r = A x - y and multipliers that satisfy stationarity exactly.

        What the clipped fields leave of it, the residual vector of ``kkt`` (call that first), is moved into
        them: ``excess(vector)`` returns by how much they then exceed their bounds.  Where that takes a vector
        of mean 0, x is moved by the constant that makes it so.
        """
        vector, along = self.total, -self.data_pairing
        if zero_mean:
            of_one, gram_of_one, back_of_data = self._constants
            gain = float(np.linalg.norm(of_one)) ** 2
            if gain == 0:
                return 0.0
            constant = -complex(vector.sum(dtype=np.complex128)) / gain
            square -= abs(constant) ** 2 * gain
            along -= (np.conj(constant) * back_of_data).real
            vector += self.problem.dtype.type(constant) * gram_of_one
        return dual_value(square, along - square, excess(vector))

    @functools.cached_property
    def _constants(self):
        """A 1, A^H A 1 and <A 1, y>."""
        A = self.problem.A
        of_one = A(np.ones(A.shape, self.problem.dtype))
        return of_one, A.adjoint(of_one), complex(np.vdot(of_one, self.y))


class UpperCoils(_Coils, DataBall):
    """As ``UpperData``, for several coils.

    The coils' split is a consensus, its residual nearly always the larger one: balancing by residuals would
    only ever shrink the other penalty, so the penalties stay as they start.
    """

    balanced = False

    def __init__(self, problem, item, eta):
        super().__init__(problem, problem.A(item.xbar) if item.ybar is None else item.ybar)
        self.epsilon, self.eta, self.target = item.epsilon, eta, np.asarray(item.target, problem.dtype)
        self.norm = math.sqrt(problem.pixels) * float(np.linalg.norm(self.data)) or 1.0
        self.target_square = float(np.linalg.norm(self.target)) ** 2

    def start_penalty(self):
        """A penalty to start from, in units of eta; not a large one: it weighs on unmeasured coefficients too."""
        return (60.0 if self.epsilon > 0 else 100.0) / self.problem.peak

    def start(self, x):
        super().start(x)
        self.x = x

    def step(self, rhs, x, field_penalty, data_penalty, shift, keep):
        x, square, misfit = self._solve(rhs, x, data_penalty, field_penalty, self.eta + shift, self.target, self.eta)
        self.sigma = self.shrink_for(math.sqrt(square))
        self.x = x
        return x, float(np.linalg.norm(x - self.target)), math.sqrt(misfit)

    def bound(self, dual, field_weight, data_penalty):
        """As ``UpperData.bound``."""
        p = self.problem
        # nu = data_penalty (1 - sigma) E on sampled coefficients
        np.multiply(self.field, p.mask * p.real_dtype.type(data_penalty * (1 - self.sigma)), out=self.spectra)
        ny = p.pixels * float(np.vdot(self.spectra, self.data).real)
        nn = p.pixels * float(np.vdot(self.spectra, self.spectra).real)
        self._combine(self.spectra, self.total)
        dual *= p.real_dtype.type(field_weight)
        self.total += dual
        qd, qq = float(np.vdot(self.total, self.target).real), float(np.linalg.norm(self.total)) ** 2
        error = float(np.linalg.norm(self.eta * (self.x - self.target) + self.total))
        return self.certify(qd, qq, ny, nn, error)

    def rescale(self, factor):
        """The same multipliers for a penalty times factor."""
        p = self.problem
        merged = self.sigma + (1 - self.sigma) / factor
        self.field *= 1 + p.mask * p.real_dtype.type(merged - 1)
        self.sigma = self.sigma / merged if self.epsilon > 0 else 0.0
