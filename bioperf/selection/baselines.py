"""One-parameter choices for a known noise level: the discrepancy principle and Stein's unbiased risk estimate.

Both work on all data and on one number s, the total variation's weight in

    x_s = argmin_x 1/2 |A x - y|^2 + s (TV(x) + ratio |W x|_1)

(without the wavelet term for a ``TVWeight``).  The noise has standard deviation sigma = ``noise_std``:

- a blur's is white, sigma a pixel;
- that of k-space of real images is white on the image, sigma a pixel: y = A (xbar + n).  Under the unitary
  transform it has E|n_k|^2 = sigma^2, and n_-k = conj n_k;
- that of k-space of complex images, one coil or several, is complex and white, E|n_k|^2 = sigma^2 a sample.

Then E|noise|^2 = m sigma^2 with m the number of pixels, or of samples in all coils; where k and -k are both sampled,
m counts the independent real values of a real image's data.  Data that no real image has, y_-k != conj y_k, count as
the nearest ones that it can have: receiver noise, which differs at k and -k, leaves its level divided by sqrt 2 there.
"""

import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import optimize

from .._fourier import FourierProblem
from .._validation import check_count, check_number, check_threads
from ..deblurring import default_tv_weight
from ..kernels import available_threads
from ..lower import images_like, intensity_range, solve_lower
from ..operators import Blur
from .criteria import image_metrics, relative_error
from .result import Trial

__all__ = ["discrepancy", "sure"]

# The default box of s: in units of deblur's rule for that noise, and of the noise for k-space.
BLUR_BOX = (10**-1.5, 10**1.5)
KSPACE_BOX = (1e-2, 1e1)
# The walk to a bracket goes in steps of this factor.
STEP = 4.0
# The size of SURE's probe in units of the noise; its scan's number of points; how well log s is found.
PROBE = 0.1
SCAN = 13
LOG_TOL = 0.05
STREAM = 0x50524F42


def discrepancy(problem, recorder, *, noise_std, box=None, ratio=1.0, tol=1e-3, trials=50, threads=None):
    """The s for which the residual is the noise: |A x_s - y| = noise_std sqrt(m) (Morozov, 1966).

    The residual grows with s.  From the middle of the box s moves by factors of 4 until the residual has crossed
    the target; Brent's method in log s does the rest.

    Parameters
    ----------
    problem : TVWeight or TVWavelet
    recorder : Recorder
        Gets a row for each x_s, its criterion | |A x_s - y| / (noise_std sqrt(m)) - 1 |.
    noise_std : float, > 0
        sigma; the module says of what.
    box : pair of floats, array of shape (1, 2) or dict {"tv_weight": pair}, optional
        Where s may lie; by default within a factor of 32 of deblur's rule for that noise, or 0.01 to 10 times
        the noise for k-space.
    ratio : float, > 0
        wavelet_weight / tv_weight of a ``TVWavelet``.
    tol : float
        The criterion at which the search ends.
    trials : int
        At most so many.
    threads : int, optional

    Returns
    -------
    (Trial, str)
        The x_s whose residual is nearest to the target, and the outcome in words, which begins with "converged",
        "not converged" or "stopped".

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument.
    """
    family = _Penalised(problem, noise_std, ratio, threads)
    low, high = np.log(family.box(box))
    tol = check_number("tol", tol, strict=True)
    search = _Search(recorder, check_count("trials", trials))
    target = math.sqrt(family.noise_square)
    quotients, last = {}, None

    def mismatch(log_s):
        """log(residual / target); 0, which ends Brent's method, within the tolerance."""
        nonlocal last
        if log_s not in quotients:
            search.check()
            begin = time.perf_counter()
            last = family.solve(log_s, x0=None if last is None else last.x)
            quotients[log_s] = math.sqrt(family.residual_square(last.x)) / target
            search.add(family.trial(log_s, last, (last,), abs(quotients[log_s] - 1), begin))
        quotient = quotients[log_s]
        return 0.0 if abs(quotient - 1) <= tol else math.log(max(quotient, np.finfo(float).tiny))

    try:
        here = before = 0.5 * (low + high)
        first = value = mismatch(here)
        while first * value > 0:
            step = math.copysign(math.log(STEP), -first)
            before, here = here, min(max(here + step, low), high)
            if here == before:
                return search.best, _unreachable(here, value)
            value = mismatch(here)
        if value:
            optimize.brentq(mismatch, min(before, here), max(before, here), xtol=1e-8, maxiter=10 * trials)
    except _Stop as stop:
        return search.best, str(stop)
    error = search.best.criterion
    outcome = "converged" if error <= tol else "not converged"
    return search.best, f"{outcome}: the residual is within {error:.1e} of noise_std sqrt(m), relative"


def _unreachable(log_s, value):
    size, advice = ("smallest", "small for these data or this operator; raise it or lower the box")
    if value < 0:
        size, advice = ("largest", "large for these data; lower it or raise the box")
    return (
        f"not converged: at the {size} weight of the box, {math.exp(log_s):.3g}, the residual is still "
        f"{math.exp(value):.3g} times noise_std sqrt(m): noise_std is too {advice}"
    )


def sure(problem, recorder, *, noise_std, box=None, ratio=1.0, seed=0, trials=30, threads=None):
    """The s of least estimated predicted risk |A x_s - A xbar|^2 (Stein, 1981, by a Monte Carlo divergence).

        SURE(s) = |A x_s(y) - y|^2 - m sigma^2 + 2 sigma^2 <b, (A x_s(y + delta b) - A x_s(y)) / delta>

    with one probe b, distributed as the noise / sigma and the same for all s, and delta = sigma / 10 (Ramani, Blu and
    Unser, IEEE Trans. Image Process. 17, 2008).  Its expectation over noise and probe is the risk's, but for the
    curvature of x_s within delta; for k-space the probe lies among the data that the images can have.  Up to 13 points
    of equal ratio are followed by Brent's bounded method in log s, to 5 %, between the neighbours of the best one.

    The predicted risk sees what A lets through, for k-space nothing between the samples: its s need not be the
    image's best one.

    Parameters
    ----------
    problem, noise_std, box, ratio, threads
        As of ``discrepancy``.
    recorder : Recorder
        Gets a row for each s, its criterion SURE(s), which may be negative.
    seed : int
        Of the probe.
    trials : int, >= 3
        At most so many values of s, each with two lower-level solves.

    Returns
    -------
    (Trial, str)
        The trial of least SURE, and the outcome in words, as of ``discrepancy``.

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument.
    """
    family = _Penalised(problem, noise_std, ratio, threads)
    low, high = np.log(family.box(box))
    search = _Search(recorder, check_count("trials", trials, 3))
    scan = np.linspace(low, high, min(SCAN, trials))
    probe = family.probe(check_count("seed", seed, 0))
    delta = PROBE * family.noise_std
    shifted = (family.y + delta * probe).astype(family.y.dtype)

    def evaluate(log_s, run, threads):
        """x_s and SURE(s); both solves start from the same image, so that their errors cancel."""
        begin = time.perf_counter()
        pair = list(run(lambda y: family.solve(log_s, y, threads=threads), (family.y, shifted)))
        response = family.A(pair[1].x) - family.A(pair[0].x)
        divergence = float(np.vdot(probe, response).real) / delta
        value = family.residual_square(pair[0].x) - family.noise_square + 2 * family.noise_std**2 * divergence
        return family.trial(log_s, pair[0], pair, value, begin)

    workers = family.threads or available_threads()
    with ThreadPoolExecutor(workers, thread_name_prefix="bioperf") as pool:

        def value(log_s):
            search.check()
            return search.add(evaluate(log_s, pool.map, max(1, workers // 2)))

        try:
            inner = max(1, workers // len(scan))
            values = [search.add(trial) for trial in pool.map(lambda log_s: evaluate(log_s, map, inner), scan)]
            best = int(np.argmin(values))
            bounds = scan[max(best - 1, 0)], scan[min(best + 1, len(scan) - 1)]
            optimize.minimize_scalar(value, bounds=bounds, method="bounded", options={"xatol": LOG_TOL})
        except _Stop as stop:
            pool.shutdown(cancel_futures=True)
            return search.best, str(stop)
    s = search.best.weights["tv_weight"]
    if min(math.log(s) - low, high - math.log(s)) <= 2 * LOG_TOL:
        return search.best, f"not converged: SURE is least at the end of the box, weight {s:.3g}; widen the box"
    return search.best, f"converged: SURE is least at weight {s:.3g}, to {LOG_TOL:.0%}"


class _Stop(Exception):
    """The end of a search before its time, in words."""


class _Search:
    """What was tried: recorded, counted and, in ``best``, the trial of least criterion."""

    def __init__(self, recorder, trials):
        self.recorder, self.trials = recorder, trials
        self.count, self.best = 0, None

    def check(self):
        """Called before a trial: is there one left?"""
        if self.count == self.trials:
            raise _Stop(f"not converged: trial limit {self.trials} reached")

    def add(self, trial):
        """Record the trial and return its criterion."""
        self.count += 1
        if self.best is None or trial.criterion < self.best.criterion:
            self.best = trial
        if self.recorder.add(trial):
            raise _Stop(f"stopped by the callback at trial {self.count}")
        return trial.criterion


class _Penalised:
    """x_s of a problem, and its noise: ``noise_square`` is m sigma^2."""

    def __init__(self, problem, noise_std, ratio, threads):
        self.problem, self.A, self.y = problem, problem.A, problem.y
        self.noise_std = check_number("noise_std", noise_std, strict=True)
        self.threads = check_threads(threads)
        self.wavelet = getattr(problem, "wavelet", None)
        self.ratio = check_number("ratio", ratio, strict=True) if self.wavelet is not None else 0.0
        self.batch_shape = self.y.shape[: self.y.ndim - len(self.A.data_shape)]
        self.images = images_like(self.A, self.y, self.batch_shape)
        self.fourier = None if self.A.gram_spectrum is None else FourierProblem(self.A, self.images.dtype, threads)
        sampled = getattr(self.A, "mask", np.ones(self.A.shape, bool))
        self.sampled = np.broadcast_to(sampled, self.y.shape)
        self.noise_square = float(self.sampled.sum()) * self.noise_std**2
        self.unreachable = 0.0
        if self.fourier is not None:
            for index in np.ndindex(self.batch_shape):
                self.unreachable += 2 * self.fourier.lower(self.y[index]).constant

    def box(self, box):
        """(low, high) of s."""
        if box is None:
            if not isinstance(self.A, Blur):
                return np.multiply(KSPACE_BOX, self.noise_std)
            rule = default_tv_weight(self.noise_std, intensity_range(self.y), self.problem.isotropic)
            return np.multiply(BLUR_BOX, rule)
        if isinstance(box, dict):
            if list(box) != ["tv_weight"]:
                raise ValueError(f"box: the one parameter here is 'tv_weight', got {', '.join(map(repr, box))}")
            box = box["tv_weight"]
        try:
            low, high = np.asarray(box, float).reshape(2)
        except (TypeError, ValueError):
            raise ValueError(f"box: expected a pair (low, high) of tv_weight, got {box!r}") from None
        low = check_number("box: lowest tv_weight", low, strict=True)
        if not check_number("box: highest tv_weight", high, strict=True) > low:
            raise ValueError(f"box: tv_weight needs low < high, got low = {low:g} and high = {high:g}")
        return np.array([low, high])

    def probe(self, seed):
        """Noise of standard deviation 1, by the module's conventions."""
        # Not the stream of the plain seed, from which the noise itself may have been simulated.
        rng = np.random.default_rng([seed, STREAM])
        if isinstance(self.A, Blur):
            return rng.standard_normal(self.y.shape)
        if self.A.real:
            return self.A(rng.standard_normal(self.images.shape))
        parts = rng.standard_normal((2, *self.y.shape))
        return np.where(self.sampled, parts[0] + 1j * parts[1], 0) / math.sqrt(2)

    def solve(self, log_s, y=None, *, x0=None, threads=None):
        s = math.exp(log_s)
        wavelet = {"wavelet_weight": self.ratio * s, "wavelet": self.wavelet} if self.ratio else {}
        return solve_lower(
            self.A, self.y if y is None else y, s, isotropic=self.problem.isotropic, tol=self.problem.tol,
            max_iter=self.problem.max_iter, x0=x0, threads=threads or self.threads, **wavelet,
        )  # fmt: skip

    def residual_square(self, x):
        """|A x - y|^2 but for what no image reaches."""
        return max(0.0, float(np.linalg.norm(self.A(x) - self.y)) ** 2 - self.unreachable)

    def trial(self, log_s, solution, solved, criterion, begin):
        """The Trial of x_s: its values are s, or for a ``TVWavelet`` |W x_s|_1 and TV(x_s)."""
        s, x = math.exp(log_s), solution.x
        weights, values = {"tv_weight": s}, [s]
        if self.ratio:
            weights = {"wavelet_weight": self.ratio * s, "tv_weight": s}
            values = [float(np.abs(self.wavelet.forward(x)).sum(dtype=np.float64)), self._total_variation(x)]
        return Trial(
            values=np.array(values),
            weights=weights,
            criterion=criterion,
            iterations=sum(int(np.sum(item.iterations)) for item in solved),
            lower_solves=len(solved),
            seconds=time.perf_counter() - begin,
            converged=all(bool(np.all(item.converged)) for item in solved),
            x=x,
            metrics=image_metrics(x, self.problem.reference) | {"nre": relative_error(self.A, x, self.y)},
            state=None,
        )

    def _total_variation(self, x):
        images = (x[index] for index in np.ndindex(self.batch_shape))
        return sum(self.fourier.total_variation(image, self.problem.isotropic) for image in images)
