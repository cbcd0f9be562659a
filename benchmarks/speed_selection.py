"""Speed of the selection of hyper-parameters: iterations against NumPy's and a floor, selections against searches.

    python benchmarks/speed_selection.py [--parts abc] [--sizes 64 128 256] [--rounds 25] [--threads 2] [--out FILE]

(a) An iteration of the lower level (two balls, both FFTs, checks included) on one thread, float32 and float64,
    against the same iteration in NumPy and scipy.fft below (without checks), and against a floor: the fastest
    library's rfft2 + irfft2 and the numbers that an iteration must move (see LOWER_NUMBERS) at the bandwidth measured
    on a working set of that size; arithmetic is not in it.  Times are differences between long and short runs, so
    without set-up.
(b) The same for an iteration of BF-DCA's subproblem.
(c) Whole selections: BF-DCA against each search and the batched grid, seconds and criterion.

Runs alternate in one process; shown are medians, and the least in brackets.
"""

import argparse
import functools
import itertools
import statistics
from pathlib import Path

import numpy as np

try:
    from . import timing
    from .common import image
except ImportError:  # run as a file
    import timing
    from common import image

RATE, NOISE, LEVELS = 0.35, 0.05, 3
ALPHA, RHO_IMAGE, RHO_RADII = 16.0, 1e-4, 1e-5
# A tolerance that no gap meets.
NEVER = -1.0
TINY = 1e-30
SHORT, LONG = 40, 200
# Of what is too short to be timed once.
REPEATS = 50
# Radii in units of the true image's.
RADII = 0.8
# Numbers of the image's precision that an iteration must move a pixel beside its FFTs.  Lower level: x read, the
# coefficients and the field's two components read and written, read for the thresholds, read for the
# right-hand side, that written; its spectrum read and written, the data read, and half a number of the diagonal.
LOWER_NUMBERS = 1 + 6 + 3 + 3 + 1 + 3.5
# In the subproblem also the samples' split (half a spectrum's worth of numbers counts one a pixel) read and written
# and read for its multiplier, the data's share of the spectrum read, and the mask.
SUBPROBLEM_NUMBERS = LOWER_NUMBERS + 2 + 1 + 1 + 0.5
OURS = "BF-DCA"
RIVALS = {
    "grid, cold": {"method": "grid", "warm": False},
    "grid": {"method": "grid"},
    "grid, batched": {"method": "grid", "batched": True},
    "random": {"method": "random"},
    "TPE": {"method": "tpe"},
    "hypergradient": {"method": "hypergradient"},
    "BF-DCA, faithful": {"method": "bf-dca-faithful"},
}


def haar(x, levels=LEVELS):
    """Orthonormal 2-d Haar transform, bands in Mallat's layout."""
    y, n = x.copy(), x.shape[-1]
    for level in range(levels):
        m, h = n >> level, n >> level + 1
        block = y[:m, :m]
        a, b, c, d = block[::2, ::2], block[::2, 1::2], block[1::2, ::2], block[1::2, 1::2]
        s, t, p, q = a + b, c + d, a - b, c - d
        half = x.dtype.type(0.5)
        block[:h, :h], block[h:, :h], block[:h, h:], block[h:, h:] = (
            half * (s + t), half * (s - t), half * (p + q), half * (p - q)
        )  # fmt: skip
    return y


def haar_adjoint(y, levels=LEVELS):
    x, n = y.copy(), y.shape[-1]
    for level in reversed(range(levels)):
        m, h = n >> level, n >> level + 1
        block = x[:m, :m]
        a, b, c, d = block[:h, :h], block[h:, :h], block[:h, h:], block[h:, h:]
        s, t, p, q = a + b, a - b, c + d, c - d
        half = y.dtype.type(0.5)
        block[::2, ::2], block[::2, 1::2], block[1::2, ::2], block[1::2, 1::2] = (
            half * (s + p), half * (s - p), half * (t + q), half * (t - q)
        )  # fmt: skip
    return x


def gradient(x):
    return np.stack([np.roll(x, -1, 0) - x, np.roll(x, -1, 1) - x])


def gradient_adjoint(p):
    return np.roll(p[0], 1, 0) - p[0] + np.roll(p[1], 1, 1) - p[1]


def magnitude(p):
    return np.sqrt(p[0] * p[0] + p[1] * p[1])


def shrink(z, threshold):
    return z - np.clip(z, -threshold, threshold)


def shrink_vectors(p, size, threshold):
    """The vectors p of length ``size``, shortened by the threshold."""
    return p * (1 - np.minimum(1, threshold / np.maximum(size, TINY)))


def tail(size, threshold):
    """Sum and number of the entries above the threshold."""
    above = size.ravel() > threshold
    return float(np.dot(size.ravel(), above)), np.count_nonzero(above)


def threshold_of_ball(size, radius, threshold):
    """tau with sum max(size - tau, 0) = radius, 0 inside the ball: Newton's method, from the last tau."""
    if size.sum() <= radius:
        return 0.0
    for _ in range(30):
        total, count = tail(size, threshold)
        if not count:
            threshold = 0.0
            continue
        new = max(0.0, (total - radius) / count)
        if abs(new - threshold) <= 1e-7 * new:
            break
        threshold = new
    return new


def multipliers(sizes, penalties, fit, fixed, model, start):
    """The 3 multipliers and the slack of BF-DCA's subproblem (mathematics.md 8), by an active-set Newton method.

    ``sizes``: the magnitudes of both fields; ``fit``: phi and the constant of f(w) = phi / (1 + mu_0/beta_0)^2 + f_0;
    ``fixed``: r^k, lambda^k, c_k; ``model``: alpha, rho_r; ``start``: mu and t of the last iteration.
    """
    (phi, floor), (radii, weights, level), (alpha, rho) = fit, fixed, model
    tolerance = 1e-10 if sizes[0].dtype == np.float64 else 1e-5
    largest = [penalty * float(size.max()) for size, penalty in zip(sizes, penalties[1:], strict=True)]
    for sliding in (True, False) if start[3] > 0 else (False, True):
        mu, t = np.array(start[:3]), max(start[3], 1e-6) if sliding else 0.0
        for _ in range(40):
            sums, slopes = np.empty(2), np.empty(2)
            for i, (size, penalty) in enumerate(zip(sizes, penalties[1:], strict=True)):
                total, count = tail(size, mu[i + 1] / penalty)
                sums[i] = total - count * mu[i + 1] / penalty
                slopes[i] = count / penalty + 1 / rho
            q = 1 + mu[0] / penalties[0]
            r = radii + (mu[1:] - mu[0] * weights) / rho
            value = phi / q**2 + floor
            excess = np.array([value + weights @ r - level, *(sums - r)]) - t
            slope = -2 * phi / penalties[0] / q**3
            active = excess - np.array([slope, *-slopes]) * mu > 0
            active[0] |= mu[0] > 0 and excess[0] >= 0
            residual = np.array([*np.where(active, excess, mu), mu.sum() - alpha])
            scales = np.where(active, tolerance * np.array([abs(level) + value, *(np.abs(r) + sums)]), 1e-12 * alpha)
            small = bool((np.abs(residual[:3]) <= scales).all())
            if small and (not sliding or abs(residual[3]) <= tolerance * alpha):
                mu = np.where(active, mu, 0)
                if (mu >= 0).all() and (r >= 0).all() and t >= 0 and mu.sum() <= alpha * (1 + tolerance):
                    return mu, np.maximum(r, 0), t
                break
            jacobian = np.eye(4)
            if active[0]:
                jacobian[0] = slope - weights @ weights / rho, *(weights / rho), -1
            for i in (0, 1):
                if active[i + 1]:
                    jacobian[i + 1, [0, i + 1, 3]] = weights[i] / rho, -slopes[i], -1
            jacobian[3] = (1, 1, 1, 0) if sliding else (0, 0, 0, 1)
            if not sliding:
                residual[3] = 0
            elif not active.any():
                break
            step = np.linalg.solve(jacobian, -residual)
            new, t = mu + step[:3], t + step[3]
            new[0] = new[0] if new[0] >= 0 else 0.1 * mu[0] * active[0]
            for i in (0, 1):
                new[i + 1] = max(new[i + 1], 0)
                if new[i + 1] >= largest[i]:
                    new[i + 1] = 0.5 * (min(mu[i + 1], largest[i]) + largest[i])
            mu = new
    raise ArithmeticError("the multipliers' Newton method did not converge")


class Plain:
    """Both iterations for one real image, in plain NumPy and scipy.fft (orthonormal), on one thread.

    ``gram`` d and ``linear`` g of a quadratic 1/2 sum (d |X|^2 - 2 Re conj(g) X) are half spectra; the penalties 1
    suit images in [0, 1].
    """

    def __init__(self, gram, linear, constant, truth):
        from scipy import fft

        self.forward = functools.partial(fft.rfft2, norm="ortho", workers=1)
        self.inverse = functools.partial(fft.irfft2, s=truth.shape, norm="ortho", workers=1)
        self.gram, self.linear, self.constant = gram, linear, constant
        self.truth = self.forward(truth)
        n = truth.shape[0]
        line = (2 - 2 * np.cos(2 * np.pi * np.arange(n) / n)).astype(truth.dtype)
        self.laplacian = line[:, None] + line[: n // 2 + 1]
        self.copies = np.full(n // 2 + 1, 2, truth.dtype)
        self.copies[[0, -1]] = 1
        self.shape, self.dtype = truth.shape, truth.dtype

    def lower(self, radii, iterations, relaxation=1.7):
        """min f(x) subject to |Wx|_1 <= r_1 and TV(x) <= r_2: x, its state and the multipliers (penalties are 1)."""
        real = self.dtype.type
        u, a = np.zeros(self.shape, self.dtype), np.zeros(self.shape, self.dtype)
        p, b = np.zeros((2, *self.shape), self.dtype), np.zeros((2, *self.shape), self.dtype)
        denominator = self.gram + real(1) + self.laplacian
        first = second = 0.0
        for _ in range(iterations):
            x = self.inverse((self.linear + self.forward(haar_adjoint(u - a) + gradient_adjoint(p - b))) / denominator)
            z = real(relaxation) * haar(x) + real(1 - relaxation) * u + a
            size = np.abs(z)
            first = threshold_of_ball(size, radii[0], first)
            u = shrink(z, real(first))
            a = z - u
            z = real(relaxation) * gradient(x) + real(1 - relaxation) * p + b
            size = magnitude(z)
            second = threshold_of_ball(size, radii[1], second)
            p = shrink_vectors(z, size, real(second))
            b = z - p
        return x, (u, p, a, b), np.array([first, second])

    def subproblem(self, lower, radii, iterations, relaxation=1.6):
        """BF-DCA's subproblem at the lower level's solution, judged by the image itself: x and the new radii."""
        real = self.dtype.type
        xk, (u, p, a, b), weights = lower
        previous = self.forward(xk)
        sampled = self.gram > 0
        fit = self.gram * (previous.real**2 + previous.imag**2) - 2 * (self.linear.conj() * previous).real
        level = 0.5 * float((self.copies * fit).sum()) + self.constant + float(weights @ radii)
        floor = self.constant - 0.5 * float((self.copies * np.abs(self.linear) ** 2).sum())
        unit = ALPHA / (1 + float(weights.sum()))
        penalties = [unit] * 3
        w, e = np.where(sampled, previous, 0), np.where(sampled, previous - self.linear, 0)
        mu, t, r = unit * np.array([1.0, *weights]), 1e-3, radii
        denominator = 1 + real(RHO_IMAGE) + real(unit) * (self.gram + 1 + self.laplacian)
        fixed = self.truth + real(RHO_IMAGE) * previous
        for _ in range(iterations):
            back = self.forward(haar_adjoint(u - a) + gradient_adjoint(p - b))
            spectrum = (fixed + real(unit) * (w - e + back)) / denominator
            x = self.inverse(spectrum)
            z1 = real(relaxation) * haar(x) + real(1 - relaxation) * u + a
            z2 = real(relaxation) * gradient(x) + real(1 - relaxation) * p + b
            z0 = np.where(sampled, real(relaxation) * spectrum + real(1 - relaxation) * w + e, 0)
            sizes = np.abs(z1), magnitude(z2)
            misfit = np.where(sampled, z0 - self.linear, 0)
            phi = 0.5 * float((self.copies * (misfit.real**2 + misfit.imag**2)).sum())
            mu, r, t = multipliers(
                sizes, penalties, (phi, floor), (radii, weights, level), (ALPHA, RHO_RADII), [*mu, t]
            )
            u, p = shrink(z1, real(mu[1] / unit)), shrink_vectors(z2, sizes[1], real(mu[2] / unit))
            w = np.where(sampled, self.linear + misfit / real(1 + mu[0] / unit), 0)
            a, b, e = z1 - u, z2 - p, z0 - w
        return x, r


class Case:
    """A synthetic image, its samples on spokes closed under k -> -k, and radii between which both balls are active."""

    def __init__(self, size, dtype):
        from bioperf import MaskedFourier, masks

        x = image(size)
        sampled = masks.radial(x.shape, RATE)
        self.A = MaskedFourier(sampled | np.roll(np.flip(sampled), 1, (0, 1)))
        y = self.A(x + NOISE * np.random.default_rng(0).standard_normal(x.shape))
        self.x, self.y = x.astype(dtype), y.astype(np.result_type(dtype, np.complex64))
        self.radii = RADII * np.array([np.abs(haar(x)).sum(), magnitude(gradient(x)).sum()])

    def problem(self):
        from bioperf.selection import TVWavelet

        return TVWavelet(self.A, self.y, reference=self.x)

    def evaluator(self):
        return self.problem().evaluator("supervised", threads=1)

    def plain(self):
        half = self.x.shape[1] // 2 + 1
        constant = 0.5 * float(np.linalg.norm(self.y)) ** 2
        gram, linear = (np.ascontiguousarray(a[:, :half]) for a in (self.A.gram_spectrum, self.y))
        return Plain(gram.astype(self.x.dtype), linear, constant, self.x)


def fft_pairs(shape, dtype):
    """Library -> function that does ``REPEATS`` times one rfft2 and one irfft2 on one thread."""
    from bioperf.fft import available_libraries, plan_fft

    pairs = {}
    for library, available in available_libraries().items():
        if available is True:
            fft = plan_fft(shape, dtype, threads=1, library=library)
            work, spectrum = fft.empty("image", "spectrum")
            work[...] = 1

            def pair(fft=fft, work=work, spectrum=spectrum):
                fft.inverse(fft.forward(work, spectrum), work)

            pairs[library] = timing.repeated(pair, REPEATS)
    return pairs


def triads(size, dtype):
    """a = b + s c and b = a + s c on one thread, ``REPEATS`` times, the three arrays together of that many bytes."""
    import numba

    @numba.njit(fastmath=True)
    def triad(a, b, c, s, repeats):
        for _ in range(repeats):
            for k in range(a.size):
                a[k] = b[k] + s * c[k]
            for k in range(a.size):
                b[k] = a[k] + s * c[k]

    a, b, c = (np.ones(int(size) // (3 * np.dtype(dtype).itemsize), dtype) for _ in range(3))
    return functools.partial(triad, a, b, c, np.dtype(dtype).type(1e-3), REPEATS)


def measured(ours, plain, numbers, case, rounds):
    """Seconds of an iteration, ours and NumPy's, and the floor; the functions take an iteration count."""
    dtype, moved = case.x.dtype, numbers * case.x.nbytes
    pairs = fft_pairs(case.x.shape, dtype)
    solvers = {"ours": ours, "numpy": plain}
    functions = {
        (name, count): functools.partial(run, count) for name, run in solvers.items() for count in (SHORT, LONG)
    }
    runs = timing.alternate(
        rounds, **{str(key): function for key, function in (functions | pairs).items()}, triads=triads(moved, dtype)
    )
    result = {"size": len(case.x), "dtype": dtype.name}
    for name in solvers:
        result[name] = {
            word: (reduce(runs[str((name, LONG))]) - reduce(runs[str((name, SHORT))])) / (LONG - SHORT)
            for word, reduce in (("median", statistics.median), ("least", min))
        }
    library = min(pairs, key=lambda name: min(runs[name]))
    transforms, traffic = min(runs[library]) / REPEATS, min(runs["triads"]) / (2 * REPEATS)
    return result | {
        "floor": transforms + traffic, "fft": library, "fft_seconds": transforms, "bytes_a_pixel": moved / case.x.size,
        "bytes_per_second": moved / traffic,
    }  # fmt: skip


def iterations(report, options, letter, title, numbers, runners):
    """The rows of an iteration at every size and precision; ``runners(case)``: what ``measured`` takes."""
    report.data[title] = []
    for size, dtype in itertools.product(options.sizes, (np.float32, np.float64)):
        case = Case(size, dtype)
        result = measured(*runners(case), numbers, case, options.rounds)
        report.data[title].append(result)
        ours, plain, floor = (result[name] for name in ("ours", "numpy", "floor"))
        name = f"({letter}) {title}, {size}x{size}, {result['dtype']}:"
        cells = [f"{timing.micro(seconds['median'])} ({timing.micro(seconds['least'])})" for seconds in (ours, plain)]
        report.add(f"{name} an iteration against NumPy's", *cells, plain["median"] / ours["median"])
        parts = (
            f"FFT pair, {result['fft']}, {timing.micro(result['fft_seconds'])} + {result['bytes_a_pixel']:.0f} B a "
            f"pixel at {result['bytes_per_second'] / 1e9:.0f} GB/s"
        )
        report.add(
            f"{name} the least over the floor ({parts})", timing.micro(ours["least"]), timing.micro(floor),
            ours["least"] / floor,
        )  # fmt: skip


def part_lower(report, options):
    def runners(case):
        model, plain = case.evaluator().model, case.plain()
        return (
            lambda count: model.constrained(case.radii, tol=NEVER, max_iter=count),
            lambda count: plain.lower(case.radii, count),
        )

    iterations(report, options, "a", "lower level", LOWER_NUMBERS, runners)


def part_subproblem(report, options):
    from bioperf.selection.subproblem import Linearised, Subproblem

    def runners(case):
        evaluator, plain = case.evaluator(), case.plain()
        lower = evaluator.model.constrained(case.radii, max_iter=5000)
        weights = lower.multipliers
        point = Linearised(
            lower.spectrum, case.radii, weights, lower.value + float(weights @ case.radii), ALPHA, RHO_IMAGE,
            np.full(2, RHO_RADII),
        )  # fmt: skip
        subproblem = Subproblem(evaluator.model, evaluator.upper)
        start = subproblem.start_from(lower, weights, ALPHA)
        known = plain.lower(case.radii, lower.iterations)
        return (
            lambda count: subproblem.solve(point, start, gap=NEVER, max_iter=count),
            lambda count: plain.subproblem(known, case.radii, count),
        )

    iterations(report, options, "b", "subproblem", SUBPROBLEM_NUMBERS, runners)


def part_whole(report, options):
    from bioperf.selection import select_hyperparameters

    report.data["selections"] = []
    rounds = max(3, options.rounds // 8)
    choices = {OURS: {"method": "bf-dca"}} | RIVALS
    for size, criterion in itertools.product(options.sizes, ("holdout", "supervised")):
        problem, found = Case(size, np.float64).problem(), {}

        def run(name, problem=problem, criterion=criterion, found=found):
            found[name] = select_hyperparameters(
                problem, criterion=criterion, trials=options.trials, threads=options.threads, **choices[name]
            )

        seconds = timing.alternate(rounds, **{name: functools.partial(run, name) for name in choices})
        median = timing.medians(seconds)
        values = {name: float(selection.best_criterion) for name, selection in found.items()}
        solves = {name: int(selection.lower_solves) for name, selection in found.items()}
        report.data["selections"].append(
            {"size": size, "criterion": criterion, "seconds": seconds, "F": values, "lower_solves": solves}
        )
        for name in RIVALS:
            cells = [f"{timing.milli(median[key])}, {solves[key]} solves, F {values[key]:.4g}" for key in (OURS, name)]
            report.add(f"(c) {size}x{size}, {criterion}: {OURS} against {name}", *cells, median[name] / median[OURS])


PARTS = {"a": part_lower, "b": part_subproblem, "c": part_whole}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="abc", help="which of a, b, c (default: all)")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128, 256], metavar="N")
    parser.add_argument("--trials", type=int, default=100, metavar="N", help="of each search of part (c)")
    parser.add_argument("--rounds", type=int, default=25, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="T", help="of part (c)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON")
    options = parser.parse_args()
    report = timing.Report(options)
    for letter, part in PARTS.items():
        if letter in options.parts:
            part(report, options)
    report.finish(options.out)


if __name__ == "__main__":
    main()
