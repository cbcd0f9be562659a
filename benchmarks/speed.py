"""Speed against a plain NumPy ADMM, SCICO and the arithmetic floor; medians of alternating runs in one process.

    python benchmarks/speed.py [--peers DIR] [--scico-python PATH] [--threads 2] [--out FILE]

(a) one fused iteration of the lower level (256x256, float32, isotropic, both FFTs and the checks included)
    against an iteration of the yardstick below, and against a floor: the fastest library's rfft2 + irfft2 and
    100 bytes a pixel at the measured triad bandwidth (25 numbers moved per pixel and iteration: see BYTES).
(b) ``solve_lower`` to a relative objective gap of 1e-4 against the yardstick and SCICO to the same gap, each with
    the fewest iterations (in steps of 5, found outside the timing) that reach it.
(c) lower level and bilevel solution of a 255x255 image, and ``deblur`` against its non-local means.
(d) ``import bioperf`` and a process's first ``solve_lower``.

The problem of (a) and (b) is a 15x15 Gaussian blur with noise 0.01 and weight 2e-3: with ``--peers DIR`` that of
``_problem.py`` in DIR with the optimum in ``_reference.json``, otherwise a synthetic image whose optimum a long
float64 solve finds.  SCICO runs where ``--scico-python`` names an interpreter that has it.
"""

import importlib.util
import json
import statistics
import subprocess
import sys

import numpy as np

try:
    from . import timing
    from .common import NOISE, TV_WEIGHT, blurred, gaussian_psf, image, problem, transfer_function
except ImportError:  # run as a file
    import timing
    from common import NOISE, TV_WEIGHT, blurred, gaussian_psf, image, problem, transfer_function

SIZE = 256
WEIGHT = 2e-3
FIXED_ITERATIONS = 100
# float32 numbers moved a pixel and iteration, FFTs included (d = 2): 25, of 4 bytes.
BYTES = 100
TINY = 1e-30


def yardstick(y, transfer, weight, iterations, penalty, workers):
    """ADMM for isotropic TV with an exact Fourier x-update, in plain NumPy and scipy.fft, dtype of y."""
    from scipy import fft

    rows, columns = y.shape
    real = y.dtype.type
    H = transfer.astype(np.result_type(y.dtype, np.complex64))
    row = 2 - 2 * np.cos(2 * np.pi * np.arange(rows) / rows)
    column = 2 - 2 * np.cos(2 * np.pi * np.arange(columns // 2 + 1) / columns)
    denominator = (np.abs(H) ** 2 + penalty * (row[:, None] + column)).astype(y.dtype)
    data = np.conj(H) * fft.rfft2(y, workers=workers)
    threshold, penalty = real(weight / penalty), real(penalty)
    v0, v1 = np.roll(y, -1, 0) - y, np.roll(y, -1, 1) - y
    d0, d1 = np.zeros_like(y), np.zeros_like(y)
    for _ in range(iterations):
        p0, p1 = v0 - d0, v1 - d1
        divergence = np.roll(p0, 1, 0) - p0 + np.roll(p1, 1, 1) - p1
        spectrum = (data + penalty * fft.rfft2(divergence, workers=workers)) / denominator
        x = fft.irfft2(spectrum, s=y.shape, workers=workers)
        g0, g1 = np.roll(x, -1, 0) - x + d0, np.roll(x, -1, 1) - x + d1
        norm = np.sqrt(g0 * g0 + g1 * g1)
        shrink = np.maximum(0, 1 - threshold / np.maximum(norm, real(TINY)))
        v0, v1 = g0 * shrink, g1 * shrink
        d0, d1 = g0 - v0, g1 - v1
    return x


class Deblurring(timing.Case):
    """The problem of (a) and (b): observation in float64, psf, objective and optimum."""

    def __init__(self, peers):
        self.psf, self.weight = gaussian_psf(), WEIGHT
        if peers is None:
            self.source, self.optimum = "synthetic image", None
            self.y = blurred(image(SIZE), self.psf)
        else:
            self.source = "the peers' problem"
            module = timing.load(peers / "_problem.py")
            self.y, self.psf, self.weight = module.deblur()[1], module.psf15(), module.LAM_DEBLUR
            self.optimum = json.loads((peers / "_reference.json").read_text())["deblur-iso-per"]["F"]
        self.transfer = transfer_function(self.psf, self.y.shape)
        if self.optimum is None:
            from bioperf import Blur, solve_lower

            A = Blur(self.psf, self.y.shape)
            long = solve_lower(A, self.y, self.weight, isotropic=True, tol=1e-11, max_iter=50_000)
            self.optimum = self.objective(long.x)

    def objective(self, x):
        x = np.asarray(x, np.float64)
        residual = np.fft.irfft2(self.transfer * np.fft.rfft2(x), x.shape) - self.y
        variation = np.hypot(np.roll(x, -1, 0) - x, np.roll(x, -1, 1) - x).sum()
        return 0.5 * float((residual**2).sum()) + self.weight * float(variation)


def fft_pairs(shape, threads):
    """(library, threads) -> function that does one rfft2 and one irfft2 in float32."""
    from scipy import fft

    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    spectrum = np.empty((shape[0], shape[1] // 2 + 1), np.complex64)
    pairs = {}
    for count in sorted({1, threads}):
        pairs["scipy", count] = lambda n=count: fft.irfft2(fft.rfft2(x, workers=n), s=shape, workers=n)
        if importlib.util.find_spec("ducc0"):
            import ducc0

            def ducc(n=count):
                ducc0.fft.r2c(x, axes=(0, 1), out=spectrum, nthreads=n)
                ducc0.fft.c2r(spectrum, axes=(0, 1), lastsize=shape[1], forward=False, out=x, nthreads=n, inorm=2)

            pairs["ducc0", count] = ducc
        if importlib.util.find_spec("pyfftw"):
            import pyfftw

            a = pyfftw.empty_aligned(shape, np.float32)
            b = pyfftw.empty_aligned(spectrum.shape, np.complex64)
            flags = ("FFTW_MEASURE", "FFTW_DESTROY_INPUT")
            forward = pyfftw.FFTW(a, b, axes=(0, 1), flags=flags, threads=count)
            inverse = pyfftw.FFTW(b, a, axes=(0, 1), direction="FFTW_BACKWARD", flags=flags, threads=count)
            a[...] = x

            def fftw(forward=forward, inverse=inverse):
                forward()
                inverse()

            pairs["pyfftw", count] = fftw
    return pairs


def triad_bandwidth(threads, elements=1 << 24, rounds=15):
    """Bytes a second of a = b + s c over arrays far larger than the caches, three float32 moved an element."""
    import numba

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))

    @numba.njit(parallel=True, fastmath=True)
    def triad(a, b, c, s):
        for k in numba.prange(a.size):
            a[k] = b[k] + s * c[k]

    a, b, c = (np.ones(elements, np.float32) for _ in range(3))
    seconds = timing.alternate(rounds, triad=lambda: triad(a, b, c, np.float32(1.5)))["triad"]
    return 12 * elements / statistics.median(seconds)


SCICO = """
import sys
import numpy as np
import scico.numpy as snp
from scico import functional, linop, loss
from scico.optimize.admm import ADMM, CircularConvolveSolver

file = np.load(sys.argv[1])
psf, weight, penalty = file["psf"].astype(np.float32), float(file["weight"]), float(file["penalty"])
y = snp.array(file["y"].astype(np.float32))
center = [k // 2 for k in psf.shape]
A = linop.CircularConvolve(h=snp.array(psf), input_shape=y.shape, h_center=center)
C = linop.FiniteDifference(y.shape, circular=True)


def make(count):
    return ADMM(
        f=loss.SquaredL2Loss(y=y, A=A), g_list=[weight * functional.L21Norm()], C_list=[C], rho_list=[penalty], x0=y,
        maxiter=count, subproblem_solver=CircularConvolveSolver(),
        itstat_options={"display": False, "itstat_func": lambda o: (), "fields": {}},
    )
"""


def part_iteration(report, case, rounds, threads):
    from bioperf import Blur, solve_lower

    y, A = case.y.astype(np.float32), Blur(case.psf, case.y.shape)

    def ours(count):
        return solve_lower(A, y, case.weight, isotropic=True, tol=TINY, max_iter=count, threads=threads)

    def plain():
        yardstick(y, case.transfer, case.weight, FIXED_ITERATIONS, timing.YARDSTICK_PENALTY, threads)

    pairs = fft_pairs(y.shape, threads)
    seconds = timing.alternate(
        rounds, ours=lambda: ours(FIXED_ITERATIONS), twice=lambda: ours(2 * FIXED_ITERATIONS), plain=plain
    )
    repeats = 20
    ffts = timing.alternate(rounds, **{f"{name} {n}": timing.repeated(f, repeats) for (name, n), f in pairs.items()})
    median = timing.medians(seconds)
    fft_median = {name: value / repeats for name, value in timing.medians(ffts).items()}
    library = min(fft_median, key=fft_median.get)
    bandwidth = triad_bandwidth(threads)
    traffic = BYTES * y.size / bandwidth
    floor = fft_median[library] + traffic
    iteration, plain_iteration = median["ours"] / FIXED_ITERATIONS, median["plain"] / FIXED_ITERATIONS
    added = (median["twice"] - median["ours"]) / FIXED_ITERATIONS
    solution = ours(timing.STEP)
    report.data["iteration"] = {
        "seconds": iteration, "marginal_seconds": added, "yardstick_seconds": plain_iteration, "floor_seconds": floor,
        "fft_pairs": fft_median, "triad_bytes_per_second": bandwidth, "traffic_seconds": traffic,
        "ran": f"{solution.backend}/{solution.fft}, {solution.threads} threads",
    }  # fmt: skip
    report.add(
        "(a) fused iteration against the yardstick's", timing.micro(iteration), timing.micro(plain_iteration),
        plain_iteration / iteration, ">= 3",
    )  # fmt: skip
    parts = (
        f"FFT pair, {library.replace(' ', ' on ')} thread(s), {timing.micro(fft_median[library])} + {BYTES} B a pixel"
    )
    report.add(
        f"(a) fused iteration over the floor ({parts} at {bandwidth / 1e9:.1f} GB/s {timing.micro(traffic)})",
        timing.micro(iteration), timing.micro(floor), iteration / floor, "<= 2",
    )  # fmt: skip
    report.add(
        "(a) the same without set-up, iterations 101 to 200", timing.micro(added), timing.micro(floor), added / floor
    )


def part_gap(report, case, rounds, threads, scico_python):
    from bioperf import Blur, solve_lower

    y, A = case.y.astype(np.float32), Blur(case.psf, case.y.shape)

    def ours(count):
        return solve_lower(A, y, case.weight, isotropic=True, tol=TINY, max_iter=count, threads=threads).x

    def certified():
        return solve_lower(A, y, case.weight, isotropic=True, tol=timing.GAP, threads=threads)

    def plain(count):
        return yardstick(y, case.transfer, case.weight, count, timing.YARDSTICK_PENALTY, threads)

    arrays = {"y": case.y, "psf": case.psf, "weight": case.weight, "penalty": timing.YARDSTICK_PENALTY}
    solvers = ours, plain, certified, (SCICO, arrays)
    timing.compare_to_gap(report, "b", case, solvers, rounds, threads, scico_python, (">= 3", ">= 6"))


def part_whole(report, rounds, threads):
    from skimage.restoration import denoise_nl_means

    from bioperf import Blur, deblur, solve_bio, solve_lower
    from bioperf.targets import NonLocalMeans

    truth, y, psf = problem(255)
    A = Blur(psf, y.shape)
    noise = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
    target = truth + np.float32(0.02) * noise
    epsilon = 0.15 * NOISE * np.sqrt(y.size)

    def both(isotropic, epsilon):
        lower = solve_lower(A, y, TV_WEIGHT, isotropic=isotropic, threads=threads)
        return solve_bio(
            A, y, target=target, tv_weight=TV_WEIGHT, lower=lower, isotropic=isotropic, epsilon=epsilon,
            threads=threads,
        )  # fmt: skip

    rough = solve_lower(A, y, 0.5 * TV_WEIGHT, isotropic=True, tol=1e-3, threads=threads).x
    strength = getattr(NonLocalMeans, "STRENGTH", 4.0) * NOISE

    def means():
        denoise_nl_means(
            rough, patch_size=5, patch_distance=9, h=0.8 * strength, sigma=strength, fast_mode=True
        )  # fmt: skip

    seconds = timing.alternate(
        rounds, exact=lambda: both(False, 0.0), relaxed=lambda: both(True, epsilon), means=means,
        deblur=lambda: deblur(y, psf, target="nlm", threads=threads),
    )  # fmt: skip
    median = timing.medians(seconds)
    runs = {"exact": both(False, 0.0), "relaxed": both(True, epsilon)}
    iterations = {
        name: (int(run.details["lower"].iterations), int(run.iterations), bool(run.converged))
        for name, run in runs.items()
    }
    report.data["whole"] = {"seconds": median, "lower_upper_iterations_converged": iterations}
    for name in runs:
        lower, upper, converged = iterations[name]
        what = f"(c) lower level + BIO, 255x255, {name} ({lower} + {upper} iterations{'' if converged else ', no end'})"
        report.add(what, timing.milli(median[name]), "0.12 s (paper: 2.7 s)", median[name] / 0.12, "< 1")
    allowed = 2 * median["means"] + median["relaxed"]
    report.add(
        f"(c) deblur, nlm, against twice its non-local means ({timing.milli(median['means'])}) + lower level + BIO",
        timing.milli(median["deblur"]), timing.milli(allowed), median["deblur"] / allowed, "< 1",
    )  # fmt: skip


FRESH = """
import sys, time
start = time.perf_counter()
import bioperf
imported = time.perf_counter() - start
import numpy as np
start = time.perf_counter()
from bioperf import Blur, solve_lower
loaded = time.perf_counter() - start
y = np.random.default_rng(0).random((256, 256)).astype(np.float32)
A = Blur(np.full((5, 5), 0.04), y.shape)
calls = []
for _ in range(4):
    start = time.perf_counter()
    solve_lower(A, y, 1e-3, max_iter=20, threads=int(sys.argv[1]))
    calls.append(time.perf_counter() - start)
print(imported, loaded, calls[0], min(calls[1:]), int("numba" in sys.modules))
"""


def part_start(report, rounds, threads):
    lines = []
    environment = timing.with_package()
    for _ in range(rounds):
        command = [sys.executable, "-c", FRESH, str(threads)]
        output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        lines.append([float(value) for value in output.split()])
    imported, loaded, first, again, numba = (statistics.median(column) for column in zip(*lines, strict=True))
    report.data["start"] = {
        "import": imported, "solvers": loaded, "first_call": first, "later_call": again, "numba_loaded": bool(numba),
    }  # fmt: skip
    report.add("(d) import bioperf", timing.milli(imported), "0.25 s", imported / 0.25, "< 1")
    report.add(
        "(d) and its solvers, with NumPy and SciPy",
        timing.milli(loaded + imported),
        "0.25 s",
        (loaded + imported) / 0.25,
    )
    remark = "Numba loaded" if numba else "Numba not loaded: nothing compiled"
    report.add(
        f"(d) first solve_lower of a process, 20 iterations ({remark})",
        timing.milli(first),
        timing.milli(again),
        first / again,
    )


def main():
    options = timing.parser(__doc__, "abcd").parse_args()
    report = timing.Report(options)
    rounds, threads = options.rounds, options.threads
    if set(options.parts) & set("ab"):
        case = Deblurring(options.peers)
    if "a" in options.parts:
        part_iteration(report, case, rounds, threads)
    if "b" in options.parts:
        part_gap(report, case, rounds, threads, options.scico_python)
    if "c" in options.parts:
        part_whole(report, max(3, rounds // 3), threads)
    if "d" in options.parts:
        part_start(report, max(3, rounds // 5), threads)
    report.finish(options.out)


if __name__ == "__main__":
    main()
