"""Speed of the MRI part against a plain NumPy ADMM, SCICO, PyWavelets and CG; medians of alternating runs.

    python benchmarks/speed_mri.py [--peers DIR] [--scico-python PATH] [--threads 2] [--out FILE]

(a) ``solve_lower`` for a complex image and isotropic TV to a relative objective gap of 1e-4 against the yardstick
    (rivals/yardstick.py) and SCICO (its x-update by conjugate gradients, to 1e-5: with 1e-4 it stalls above the
    gap) to the same gap, each with the fewest iterations (in steps of 5, found outside the timing) that reach it.
(b) ``reconstruct_mri`` of a real and of a complex image, one coil, by stage.
(c) Haar transform and undecimated frames, forward and back, against PyWavelets and against copying the bytes that
    they must move; float32, one thread.
(d) Memory of ``reconstruct_mri`` for a stack of slices seen by several coils, in a process of its own.
(e) Several coils: the splitting of the coil images against an ADMM whose x-update takes a few steps of conjugate
    gradients, warm-started, with either of two preconditioners: the matrix that the splitting inverts, and the
    circulant matrix nearest to that of the x-update (T. Chan, 1988).  Of the numbers of steps and the penalties
    tried, the one with the fewest Fourier transforms to the gap; the splitting has its own penalties.

The problem of (a) is 256x256, a quarter of k-space, noise 0.005 and weight 1e-3: with ``--peers DIR`` that of
``_problem.py`` in DIR with the optimum in ``_reference.json``, otherwise a synthetic image whose optimum a long
float64 solve finds.  SCICO runs where ``--scico-python`` names an interpreter that has it.
"""

import contextlib
import functools
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

try:
    from . import timing
    from .cases import Reconstruction, one_coil
    from .common import KSPACE_WEIGHT, image, kspace, phased
    from .rivals.yardstick import PENALTY, mri_admm
except ImportError:  # run as a file
    import timing
    from cases import Reconstruction, one_coil
    from common import KSPACE_WEIGHT, image, kspace, phased
    from rivals.yardstick import PENALTY, mri_admm

SIZE, COILS = 256, 8
TINY = 1e-30
# Of the ADMM with conjugate gradients: steps an iteration, and penalties in units of weight / range.
CG_STEPS, CG_PENALTIES = (1, 2), (15.0, 30.0, 60.0)
PRECONDITIONERS = ("splitting", "circulant")


def part_gap(report, options):
    from bioperf import solve_lower

    case, threads = one_coil(options.peers), options.threads
    A, y = case.A, case.y.astype(np.complex64)

    def ours(count):
        return solve_lower(A, y, case.weight, isotropic=True, tol=TINY, max_iter=count, threads=threads).x

    def certified():
        return solve_lower(A, y, case.weight, isotropic=True, tol=timing.GAP, threads=threads)

    def plain(count):
        return mri_admm(y, A.mask, case.weight, count, PENALTY, threads)

    solvers = ours, plain, certified
    timing.compare_to_gap(report, "a", case, solvers, options.rounds, threads, options.scico_python)


def part_stages(report, options):
    from bioperf import MaskedFourier, masks, reconstruct_mri

    sampled = masks.radial((SIZE, SIZE), 0.2)
    rounds = max(3, options.rounds // 5)
    functions, runs = {}, {"real": [], "complex": []}
    for name, x in (("real", image(SIZE)), ("complex", phased(image(SIZE)))):
        A = MaskedFourier(sampled, real=name == "real")
        y = kspace(A, x).astype(np.complex64)

        def run(name=name, y=y):
            runs[name].append(reconstruct_mri(y, sampled, real=name == "real", threads=options.threads))

        functions[name] = run
    median = timing.medians(timing.alternate(rounds, **functions))
    report.data["stages"] = {}
    for name, solutions in runs.items():
        stages = [solution.details["seconds"] for solution in solutions[1:]]
        stages = timing.medians({stage: [seconds[stage] for seconds in stages] for stage in stages[0]})
        last = solutions[-1]
        lower = last.details["lower"]
        report.data["stages"][name] = stages | {
            "total": median[name], "lower_iterations": int(lower.iterations), "iterations": int(last.iterations),
            "converged": bool(last.converged), "ran": f"{last.backend}/{last.fft}, {last.threads} threads",
        }  # fmt: skip
        parts = ", ".join(f"{stage} {timing.milli(value)}" for stage, value in stages.items())
        report.add(f"(b) reconstruct_mri, {name} image: {parts}", timing.milli(median[name]))


def part_transforms(report, options, repeats=20):
    import pywt

    from bioperf import UndecimatedWavelet, Wavelet

    x = image(SIZE).astype(np.float32)
    report.data["transforms"] = {}
    for name, level, transform in (
        ("haar", 4, Wavelet("haar", 4)),
        ("haar", 2, UndecimatedWavelet("haar", 2)),
        ("db2", 2, UndecimatedWavelet("db2", 2)),
    ):
        coefficients = np.empty(transform.coefficient_shape(x.shape), x.dtype)
        back = np.empty_like(x)
        # A copy of half the coefficients and half the image's size moves what one direction must move.
        source = np.zeros((coefficients.size + x.size) // 2, x.dtype)
        copied = np.zeros_like(source)

        def ours(transform=transform, coefficients=coefficients, back=back):
            transform.forward(x, out=coefficients, threads=1)
            transform.adjoint(coefficients, out=back, threads=1)

        def peer(name=name, level=level, transform=transform):
            if isinstance(transform, Wavelet):
                pywt.waverec2(pywt.wavedec2(x, name, "periodization", level), name, "periodization")
            else:
                pywt.iswt2(pywt.swt2(x, name, level, trim_approx=True, norm=True), name, norm=True)

        def copies(source=source, copied=copied):
            np.copyto(copied, source)
            np.copyto(copied, source)

        functions = {"ours": ours, "pywavelets": peer, "copies": copies}
        functions = {key: timing.repeated(function, repeats) for key, function in functions.items()}
        seconds = timing.alternate(options.rounds, **functions)
        median = {key: value / repeats for key, value in timing.medians(seconds).items()}
        moved = 4 * source.nbytes
        report.data["transforms"][repr(transform)] = median | {"bytes": moved}
        what = f"(c) {transform!r}, there and back,"
        against = f"{moved / x.size:.0f} B a pixel, copied at {moved / median['copies'] / 1e9:.0f} GB/s"
        ours_shown = timing.micro(median["ours"])
        report.add(
            f"{what} against PyWavelets {pywt.__version__}", ours_shown, timing.micro(median["pywavelets"]),
            median["pywavelets"] / median["ours"],
        )  # fmt: skip
        report.add(
            f"{what} over the floor ({against})", ours_shown, timing.micro(median["copies"]),
            median["ours"] / median["copies"],
        )  # fmt: skip


STACK = """
import json, sys, time
from pathlib import Path
import numpy as np
from bioperf import reconstruct_mri


def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


imported = peak()
folder, threads = Path(sys.argv[1]), int(sys.argv[2])
small = np.random.default_rng(0).standard_normal((2, 32, 32)).astype(np.complex64)
reconstruct_mri(small, np.ones((32, 32), bool), maps=np.ones_like(small), threads=threads)
called = peak()
kspace, maps, mask = (np.load(folder / f"{name}.npy") for name in ("kspace", "maps", "mask"))
loaded = peak()
start = time.perf_counter()
solution = reconstruct_mri(kspace, mask, maps=maps, threads=threads)
result = {
    "seconds": time.perf_counter() - start, "imported": imported, "called": called, "loaded": loaded,
    "peak": peak(),
    "kspace": kspace.nbytes, "images": solution.x.nbytes, "converged": int(np.sum(solution.converged)),
}
print(json.dumps(result))
"""


def stack_of_slices(slices, size, coils):
    """k-space (slices, coils, size, size) in complex64, maps and mask."""
    from bioperf import MultiCoilFourier, masks
    from bioperf.coils import simulate_maps

    maps = simulate_maps((size, size), coils).astype(np.complex64)
    A = MultiCoilFourier(masks.cartesian((size, size), 0.3), maps)
    x = phased(image(size)).astype(np.complex64)
    stack = np.empty((slices, coils, size, size), np.complex64)
    for k in range(slices):
        stack[k] = kspace(A, np.roll(x, 5 * k, 0), seed=k)
    return stack, maps, A.mask


def part_memory(report, options):
    slices, size, coils = options.stack
    with tempfile.TemporaryDirectory() as folder:
        for name, array in zip(("kspace", "maps", "mask"), stack_of_slices(slices, size, coils), strict=True):
            np.save(Path(folder) / f"{name}.npy", array)
        command = [sys.executable, "-c", STACK, folder, str(options.threads)]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=timing.with_package())
    measured = json.loads(run.stdout)
    report.data["memory"] = measured | {"stack": options.stack}
    what = f"{slices} slices of {size}x{size}, {coils} coils, complex64 ({measured['kspace'] / 2**20:.0f} MiB)"
    peak = measured["peak"]
    report.add(
        f"(d) peak memory of reconstruct_mri: {what}, in {measured['seconds']:.1f} s", mebi(peak),
        f"{mebi(measured['imported'])} after the import, {mebi(measured['called'])} after a first small call",
    )  # fmt: skip
    own = peak - measured["imported"]
    report.add(
        "(d) less the import's, against the k-space", mebi(own), mebi(measured["kspace"]), own / measured["kspace"]
    )
    own, one = peak - measured["loaded"] - measured["images"], measured["kspace"] / slices
    report.add("(d) beyond libraries, input and output, against one slice's k-space", mebi(own), mebi(one), own / one)


def mebi(count):
    return f"{count / 2**20:.1f} MiB"


@contextlib.contextmanager
def counted_transforms():
    """A list that grows by one entry with every Fourier transform of an image that the solvers' plans do."""
    import bioperf._coils
    import bioperf._fourier
    from bioperf.fft import plan_fft

    done = []

    def counting(method):
        def run(source, out):
            done.append(1)
            return method(source, out)

        return run

    def plan(*arguments, **options):
        fft = plan_fft(*arguments, **options)
        fft.forward, fft.inverse = counting(fft.forward), counting(fft.inverse)
        return fft

    modules = (bioperf._coils, bioperf._fourier)
    try:
        for module in modules:
            module.plan_fft = plan
        yield done
    finally:
        for module in modules:
            module.plan_fft = plan_fft


def admm_with_cg(A, y, weight, iterations, penalty, steps, preconditioner, threads):
    """ADMM with the one split v = grad x, in the one-field form; the x-update by preconditioned CG.

    A^H A with the splitting's own kernels and transforms.  Preconditioner "splitting": max sum_c |S_c|^2 + penalty
    grad^T grad; "circulant": the circulant matrix nearest to A^H A, the mask convolved with the coils' power
    spectrum, in place of its first term.
    """
    from bioperf._coils import CoilProblem, LowerCoils

    problem = CoilProblem(A, y.dtype, threads)
    kernels, fft, coils = problem.kernels, problem.fft, LowerCoils(problem, y)
    gram = problem.peak
    if preconditioner == "circulant":
        power = np.sum(np.abs(np.fft.fft2(problem.maps, norm="forward")) ** 2, axis=0)
        gram = np.maximum(np.fft.ifft2(np.fft.fft2(power) * np.fft.fft2(problem.mask)).real, 0)
    gram = gram + penalty * functools.reduce(np.add.outer, fft.laplacian())
    filtering = (fft.scale / gram).astype(problem.real_dtype)
    sampled = problem.mask * problem.real_dtype.type(fft.scale)
    penalty = problem.real_dtype.type(penalty)

    def system(p):
        coils._analyse(p)
        coils.spectra *= sampled
        coils._combine(coils.spectra, coils.total)
        field = kernels.gradient(p, threads=problem.threads)
        return coils.total + penalty * kernels.gradient_adjoint(field, threads=problem.threads)

    def precondition(r):
        work, spectrum = fft.empty("image", "spectrum")
        work[...] = r
        return fft.inverse(fft.forward(work, spectrum) * filtering, work)

    back = np.empty_like(coils.total)
    coils._combine(coils.data.copy(), back)
    x, rhs, last = back.copy(), np.zeros_like(back), np.zeros_like(back)
    q, theta, threshold = kernels.gradient(x, threads=problem.threads), 0.0, weight / float(penalty)
    r = back - system(x)
    for _ in range(iterations):
        kernels.update_field_divergence(x, q, 1.6, theta, threshold, True, rhs, threads=problem.threads)
        theta = threshold
        r += penalty * (rhs - last)
        last[...] = rhs
        direction, previous = np.zeros_like(r), np.inf
        for _ in range(steps):
            z = precondition(r)
            square = np.vdot(r, z).real
            direction = z + problem.real_dtype.type(square / previous) * direction
            previous = square
            product = system(direction)
            step = problem.real_dtype.type(square / np.vdot(direction, product).real)
            x += step * direction
            r -= step * product
    return x


def part_coils(report, options):
    from bioperf import MultiCoilFourier, masks, solve_lower
    from bioperf.coils import simulate_maps
    from bioperf.lower import intensity_range

    threads = options.threads
    A = MultiCoilFourier(masks.gaussian((SIZE, SIZE), 0.2), simulate_maps((SIZE, SIZE), COILS))
    y = kspace(A, phased(image(SIZE)))
    case = Reconstruction(A, y, KSPACE_WEIGHT)
    y = y.astype(np.complex64)

    def split(count):
        return solve_lower(A, y, KSPACE_WEIGHT, isotropic=True, tol=TINY, max_iter=count, threads=threads).x

    def transforms(run, count):
        with counted_transforms() as done:
            run(count)
        return len(done)

    count = case.fewest(split)
    found = {"splitting of coils": (transforms(split, count), f"{count} iterations", functools.partial(split, count))}
    unit = KSPACE_WEIGHT / intensity_range(A.data_image(y))
    tried = []
    for preconditioner in PRECONDITIONERS:
        best = None
        for steps, factor in itertools.product(CG_STEPS, CG_PENALTIES):

            def with_cg(count, steps=steps, factor=factor, preconditioner=preconditioner):
                return admm_with_cg(A, y, KSPACE_WEIGHT, count, factor * unit, steps, preconditioner, threads)

            try:
                count = case.fewest(with_cg, limit=640)
            except SystemExit:  # not within the limit
                continue
            cost = transforms(with_cg, count)
            tried.append((preconditioner, steps, factor, count, cost))
            if best is None or cost < best[0]:
                best = cost, f"{count} iterations of {steps} step(s)", functools.partial(with_cg, count)
        if best:
            found[preconditioner] = best
    rounds = max(3, options.rounds // 5)
    median = timing.medians(timing.alternate(rounds, **{name: entry[2] for name, entry in found.items()}))
    report.data["coils"] = {
        "seconds": median, "transforms": {name: entry[0] for name, entry in found.items()},
        "coils": COILS, "gap": timing.GAP, "cg": tried,
    }  # fmt: skip
    (ours, (cost, shown, _)), *others = found.items()
    for name, (other, other_shown, _) in others:
        report.add(
            f"(e) {COILS} coils to a gap of {timing.GAP:g}, Fourier transforms: the splitting against ADMM with "
            f'CG, preconditioner "{name}"',
            f"{cost} ({shown})", f"{other} ({other_shown})", other / cost,
        )  # fmt: skip
        report.add(
            "(e) the same in seconds", timing.milli(median[ours]), timing.milli(median[name]),
            median[name] / median[ours],
        )  # fmt: skip


PARTS = {"a": part_gap, "b": part_stages, "c": part_transforms, "d": part_memory, "e": part_coils}


def main():
    parser = timing.parser(__doc__, "abcde")
    parser.add_argument(
        "--stack", nargs=3, type=int, default=[16, 320, 8], metavar=("SLICES", "SIZE", "COILS"), help="of part (d)"
    )
    options = parser.parse_args()
    report = timing.Report(options)
    for letter, part in PARTS.items():
        if letter in options.parts:
            part(report, options)
    report.finish(options.out)


if __name__ == "__main__":
    main()
