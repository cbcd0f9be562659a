"""What both levels share where A^T A is diagonal in the Fourier basis: the operator, its spectra and the x-updates."""

import importlib.util
import math

import numpy as np

from ._upper import start_penalty
from .fft import plan_fft
from .kernels import available_threads, get_backend, threads_for

RELAXATION = 1.6


def intensity_range(image):
    """The image's range, the scale that the penalties refer to (a complex image's largest modulus; 1 if that is 0)."""
    if image.dtype.kind == "c":
        return float(np.abs(image).max()) or 1.0
    return float(image.max()) - float(image.min()) or 1.0


def compiled_iterations(kernels, fft):
    """The plan and the module of whole iterations without the interpreter, on one thread; or twice None.

    They need the compiled kernels and the package's own transforms.
    """
    plan = getattr(fft, "plan", None)
    if plan is None or kernels.name != "cython" or importlib.util.find_spec("bioperf.kernels.iterations") is None:
        return None, None
    from .kernels import iterations

    return plan, iterations


class Problem:
    """The images' side of a problem: kernels, transforms and the Laplacian's spectrum.

    ``scale`` and ``laplacian`` absorb the factor that the library's forward transform leaves out:
    a penalty enters the kernels as ``penalty * scale`` beside ``laplacian / scale``.
    """

    def __init__(self, A, dtype, threads=None):
        self.A, self.shape, self.dtype = A, A.shape, np.dtype(dtype)
        self.real_dtype = np.empty(0, dtype).real.dtype
        self.pixels = math.prod(A.shape)
        elements = self.pixels * (2 if self.dtype.kind == "c" else 1)
        self.allowed = threads or available_threads()
        self.threads = threads_for(elements, self.allowed)
        self.kernels = get_backend()
        self.fft = plan_fft(A.shape, dtype, threads=self.threads)
        self.scale = self.fft.scale
        self.laplacian = tuple(axis / self.real_dtype.type(self.scale) for axis in self.fft.laplacian())
        self.copies = self.fft.copies()
        self.field_shape = (len(A.shape), *A.shape)
        self.plan, self.iterations = None, None
        if self.threads == 1:
            self.plan, self.iterations = compiled_iterations(self.kernels, self.fft)
        # What rounding alone can make of a residual, relative to the terms that cancel in it.
        self.rounding = 2 * float(np.finfo(self.dtype).eps)

    def what_ran(self):
        return {"backend": self.kernels.name, "fft": self.fft.library, "threads": self.threads}

    def square_norm(self, spectrum):
        """|x|^2 from the Fourier coefficients of x."""
        power = spectrum.real**2 + spectrum.imag**2
        return self.pixels * float(np.sum(power * self.copies, dtype=np.float64))

    def zero_mean(self, spectrum):
        """The spectrum of grad^T p with its mean, 0 but for rounding, set to 0: a large penalty multiplies it."""
        spectrum[(0,) * spectrum.ndim] = 0
        return spectrum

    def total_variation(self, x, isotropic):
        field = np.zeros(self.field_shape, self.dtype)
        return self.kernels.field_status(x, field, 0.0, isotropic, threads=self.threads)[0]


class FourierProblem(Problem):
    """A problem whose data are Fourier coefficients: a blur's, or those that a mask lets through."""

    def __init__(self, A, dtype, threads=None):
        super().__init__(A, dtype, threads)
        self.transfer = A.transfer(dtype)

    def lower(self, y):
        return LowerData(self, y)

    def upper(self, item, eta):
        return UpperData(self, item, eta)


class LowerData:
    """1/2 |A x - y|^2 of one item and the lower level's x-update.

    ``constant`` is the part of the objective that no image changes; ``exact_multipliers``: after an x-update
    the multipliers of the unclipped fields satisfy stationarity exactly.
    """

    exact_multipliers = True

    def __init__(self, problem, y):
        self.problem = problem
        self.data, unreachable = problem.A.coefficients(y, problem.fft)
        self.constant = 0.5 * unreachable
        self.spectrum, self.kept = problem.fft.empty("spectrum", "spectrum")

    def start(self, x):
        """No state depends on the first image."""

    def state(self):
        """What an iteration leaves to the next: nothing, the x-update depends on its arguments only."""
        return {}

    def restore(self, kept):
        """As ``state``."""

    def step(self, rhs, x, penalty, shift, keep):
        """x <- the minimiser of 1/2 |A x - y|^2 + penalty/2 |grad x|^2 + shift/2 |x|^2 - penalty <rhs, x>.

        Returns x and |A x - y|^2 without the constant; ``keep`` keeps what ``kkt`` needs.
        """
        p = self.problem
        spectrum = p.fft.forward(rhs, self.spectrum)
        if not shift:
            p.zero_mean(spectrum)
        square = p.pixels * p.kernels.lower_spectrum(
            spectrum, p.transfer, self.data, p.laplacian, penalty * p.scale, shift, p.copies, threads=p.threads
        )
        if keep:
            self.kept[...] = spectrum
        return p.fft.inverse(spectrum, x), square

    def iterate(self, x, q, rhs, relaxation, theta, new_theta, penalty, isotropic, steps):
        """Several iterations of ``solve_lower`` by one compiled call; |A x - y|^2 as of ``step``."""
        p, square = self.problem, np.zeros(1)
        p.iterations.lower_iterations(
            p.plan, x[None], q[None], rhs[None], self.spectrum[None], self.kept[None], self.data[None], p.transfer,
            p.laplacian, p.copies, relaxation, np.array([theta]), np.array([new_theta]), np.array([penalty * p.scale]),
            isotropic, square, steps,
        )  # fmt: skip
        return p.pixels * float(square[0])

    def kkt(self, dual, penalty):
        """|A^T(A x - y) + penalty dual| at the kept x, and |penalty dual|; dual is overwritten."""
        p = self.problem
        dual, sums = p.fft.forward(dual, self.spectrum), np.zeros((1, 2))
        p.kernels.lower_kkt_batch(
            self.kept[None], dual[None], p.transfer, self.data[None], np.array([penalty * p.scale]), p.copies, sums,
            threads=p.threads,
        )  # fmt: skip
        error, size = (math.sqrt(p.pixels * square) for square in sums[0])
        return error, size


class DataBall:
    """The constraint |A x - ybar| <= epsilon beside eta/2 |x - D|^2: what does not depend on how A is split."""

    def shrink_for(self, norm):
        """The factor that brings a residual of that norm into the ball."""
        return min(1.0, self.epsilon / norm) if norm > 0 else 1.0

    def certify(self, qd, qq, ny, nn, error):
        """The bound of mathematics.md 6 but for the field's part, from <q, D>, |q|^2, <nu, ybar> and |nu|^2, and
        the residual |eta (x - D) + q| relative to |q| (where no constraint is active q is 0, and the rounding of
        eta D takes its place)."""
        value = qd - qq / (2 * self.eta) - ny - self.epsilon * math.sqrt(nn)
        rounding = float(np.finfo(self.problem.dtype).eps) * self.eta * math.sqrt(self.target_square)
        return value, error / max(math.sqrt(qq), rounding, np.finfo(float).tiny)


class UpperData(DataBall):
    """|A x - ybar| <= epsilon of one item and the upper level's x-update; ybar counts as far as images reach it."""

    balanced = True

    def __init__(self, problem, item, eta):
        self.problem, self.epsilon, self.eta = problem, item.epsilon, eta
        if item.ybar is None:
            self.data = problem.transfer * problem.fft.coefficients(item.xbar)
        else:
            self.data, _ = problem.A.coefficients(item.ybar, problem.fft)
        self.target = problem.fft.coefficients(item.target)
        self.spectrum, self.residual = problem.fft.empty("spectrum", "spectrum")
        self.norm = math.sqrt(problem.square_norm(self.data)) or 1.0
        self.target_square = problem.square_norm(self.target)
        self.shrink = 1.0

    def start_penalty(self):
        """A data penalty to start from, in units of eta."""
        return float(start_penalty(self.epsilon))

    def start(self, x):
        p = self.problem
        np.multiply(p.transfer, p.fft.coefficients(x), out=self.residual)
        self.residual -= self.data
        self.shrink = self.shrink_for(math.sqrt(p.square_norm(self.residual)))

    def state(self):
        """What an iteration leaves to the next (``previous`` is in the caller's hands)."""
        return {"residual": self.residual, "shrink": self.shrink}

    def restore(self, kept):
        kept.fill(residual=self.residual)
        self.shrink = kept.number("shrink")

    def step(self, rhs, x, field_penalty, data_penalty, shift, keep, proximal=0.0, relaxation=RELAXATION):
        """The x-update and the data ball's (mathematics.md 4c), with shift/2 |x|^2 beside the other terms.

        Returns x, |x - D| and |A x - ybar|; ``keep`` keeps what ``bound`` needs.
        """
        p = self.problem
        previous = self.previous if proximal else None
        spectrum = p.fft.forward(rhs, self.spectrum)
        if not shift:
            p.zero_mean(spectrum)
        squares = p.kernels.upper_spectrum(
            spectrum, previous, self.target, p.transfer, self.data, self.residual, p.laplacian, self.eta,
            self.eta + proximal + shift, field_penalty * p.scale, data_penalty, proximal, relaxation, self.shrink,
            p.copies, threads=p.threads,
        )  # fmt: skip
        residual, misfit, distance = (math.sqrt(p.pixels * square) for square in squares)
        self.shrink = self.shrink_for(residual)
        if proximal:
            previous[...] = spectrum
        if keep:
            self.kept = spectrum.copy()
        return p.fft.inverse(spectrum, x), distance, misfit

    def iterate(self, x, q, rhs, bound, relaxation, theta, field_penalty, data_penalty, isotropic, steps):
        """Several iterations of splitting "ball" by one compiled call; theta, |x - D| and |A x - ybar|."""
        p, sums, theta, shrink = self.problem, np.zeros((1, 3)), np.array([theta]), np.array([self.shrink])
        self.kept = np.empty_like(self.spectrum)
        p.iterations.upper_iterations(
            p.plan, x[None], q[None], rhs[None], self.spectrum[None], self.kept[None], self.target[None],
            self.data[None], self.residual[None], p.transfer, p.laplacian, p.copies, self.eta, np.array([self.eta]),
            np.array([field_penalty * p.scale]), np.array([data_penalty]), relaxation, shrink, theta,
            np.array([bound]), np.array([self.epsilon]), isotropic, sums, steps,
        )  # fmt: skip
        self.shrink = float(shrink[0])
        _, misfit, distance = (math.sqrt(p.pixels * float(square)) for square in sums[0])
        return float(theta[0]), distance, misfit

    def bound(self, dual, field_weight, data_penalty):
        """The certificate of mathematics.md 6 at q = field_weight dual + A^T nu, and the KKT residual.

        Returns <q, D> - |q|^2/(2 eta) - <nu, ybar> - epsilon |nu| and |eta (x - D) + q| / |q|; dual is overwritten.
        """
        p = self.problem
        dual, sums = p.fft.forward(dual, self.spectrum), np.zeros((1, 5))
        p.kernels.upper_dual_batch(
            dual[None], self.kept[None], self.residual[None], self.target[None], p.transfer, self.data[None], self.eta,
            np.array([field_weight * p.scale]), np.array([data_penalty * (1 - self.shrink)]), p.copies, sums,
            threads=p.threads,
        )  # fmt: skip
        self.kept = None
        qd, qq, ny, nn, error = (p.pixels * float(value) for value in sums[0])
        return self.certify(qd, qq, ny, nn, math.sqrt(error))

    def rescale(self, factor):
        """The same multiplier for a data penalty times factor: p stays, the scaled multiplier shrinks."""
        merged = self.shrink + (1 - self.shrink) / factor
        self.residual *= self.residual.real.dtype.type(merged)
        self.shrink = self.shrink / merged if self.epsilon > 0 else 0.0
