"""Speed against a plain NumPy ADMM, SCICO and the arithmetic floor; medians of alternating runs in one process.

    python benchmarks/speed.py [--peers DIR] [--scico-python PATH] [--threads 2] [--out FILE]

(a) one fused iteration of the lower level (256x256, float32, isotropic, both FFTs and the checks included)
    against an iteration of the yardstick (rivals/yardstick.py), and against a floor: the fastest library's
    rfft2 + irfft2 and 100 bytes a pixel at the measured triad bandwidth (25 numbers moved per pixel and
    iteration: see BYTES; roofline.py counts them kernel by kernel).
(b) ``solve_lower`` to a relative objective gap of 1e-4 against the yardstick and SCICO to the same gap, each with
    the fewest iterations (in steps of 5, found outside the timing) that reach it.
(c) lower level and bilevel solution of a 255x255 image, and ``deblur`` against its non-local means.
(d) ``import bioperf`` and a process's first ``solve_lower``.

The problem of (a) and (b) is a 15x15 Gaussian blur with noise 0.01 and weight 2e-3: with ``--peers DIR`` that of
``_problem.py`` in DIR with the optimum in ``_reference.json``, otherwise a synthetic image whose optimum a long
float64 solve finds.  SCICO runs where ``--scico-python`` names an interpreter that has it.
"""

import statistics
import subprocess
import sys

import numpy as np

try:
    from . import timing
    from .cases import Deblurring
    from .common import NOISE, TV_WEIGHT, problem
    from .rivals.yardstick import PENALTY, deblur_admm
    from .roofline import FAR_BYTES, fft_pairs, host_bandwidth
except ImportError:  # run as a file
    import timing
    from cases import Deblurring
    from common import NOISE, TV_WEIGHT, problem
    from rivals.yardstick import PENALTY, deblur_admm
    from roofline import FAR_BYTES, fft_pairs, host_bandwidth

FIXED_ITERATIONS = 100
# float32 numbers moved a pixel and iteration, FFTs included (d = 2): 25, of 4 bytes.
BYTES = 100
TINY = 1e-30


def part_iteration(report, case, rounds, threads):
    from bioperf import Blur, solve_lower

    y, A = case.y.astype(np.float32), Blur(case.psf, case.y.shape)

    def ours(count):
        return solve_lower(A, y, case.weight, isotropic=True, tol=TINY, max_iter=count, threads=threads)

    def plain():
        deblur_admm(y, case.transfer, case.weight, FIXED_ITERATIONS, PENALTY, threads)

    pairs = fft_pairs(y.shape, threads)
    seconds = timing.alternate(
        rounds, ours=lambda: ours(FIXED_ITERATIONS), twice=lambda: ours(2 * FIXED_ITERATIONS), plain=plain
    )
    repeats = 20
    ffts = timing.alternate(rounds, **{name: timing.repeated(pair, repeats) for name, pair in pairs.items()})
    median = timing.medians(seconds)
    fft_median = {name: value / repeats for name, value in timing.medians(ffts).items()}
    library = min(fft_median, key=fft_median.get)
    bandwidth = host_bandwidth(FAR_BYTES, y.dtype, threads, rounds)["triad"][0]
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
        return deblur_admm(y, case.transfer, case.weight, count, PENALTY, threads)

    solvers = ours, plain, certified
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
