"""How far each kernel, and an iteration of either level, is from what the machine's memory and FFTs allow.

    python benchmarks/roofline.py [--sizes 256 4096] [--dtype float32] [--threads 1] [--out FILE.md] [--out FILE.json]
    python benchmarks/roofline.py --device cuda --sizes 1024 4096

1. Bandwidth of copy (a = b) and triad (a = b + s c), compiled loops: over arrays far beyond the caches, and over arrays
   that together are as large as what an iteration works on.  Counted are the bytes that the loop names, 2 and 3 numbers
   an element; that a cache reads what it is about to overwrite is not, here and below.
2. rfft2 + irfft2 of the FFT libraries at hand.
3. Each kernel: the bytes and operations of traffic.py.  Floors: those bytes at either triad bandwidth.
4. An iteration of the lower and of the upper level, its checks included: two solves of different length, the difference
   of their times by that of their iterations, so that set-up cancels; penalties given, so that none is balanced.  Its
   kernels and transforms are counted by listening to the solver.  Floors: the fastest FFT pair, and the kernels' bytes
   at triad bandwidth from main memory or in the caches; the latter is the honest one for an image that fits there.
   "Beside" is the iteration less its kernels and transforms, each timed alone: Python, the NumPy passes of the checks,
   and what one kernel evicts of the next one's data.
5. The same of a 16x16 image, where arithmetic takes no time: the overhead of an iteration.

A kernel timed alone finds its arrays where its last call left them: in the caches, if they fit.  Times are medians,
with the minimum beside them.  Run it on an idle machine.
"""

import argparse
import collections
import contextlib
import functools
import importlib.util
import math
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np

try:
    from . import timing, traffic
    from .common import TV_WEIGHT, pin_threads, problem
except ImportError:  # run as a file
    import timing
    import traffic
    from common import TV_WEIGHT, pin_threads, problem

FAR_BYTES = 3 << 28  # of the arrays that are far beyond the caches, together
TINY_SIZE = 16
LARGEST = 1 << 31  # bytes of one kernel's arrays; those that need more are left out
NEVER = 1e-30  # a tolerance that is not reached
PENALTY, PENALTIES = 0.05, (1.0, 100.0)
MOVED = {"copy": 2, "triad": 3}  # numbers an element
LEVELS = {"lower": "solve_lower, isotropic", "upper": "solve_bio, isotropic, the lower level given"}
# In units of the image, what an iteration works on: x, the right-hand side, the field (2), and spectra, the transfer
# function, the data's and the one worked on; the upper level has two more, the target's and the residual's.
WORKING_SET = 8
# Seconds that one measurement of something short takes, and that all rounds of something long may take.
BATCH_SECONDS, LONG_SECONDS = 0.01, 60.0
HEARD_SIZE = 512  # the size of the images whose calls are counted is at most this


# --- clocks ------------------------------------------------------------------------------------------


class HostClock:
    name = "cpu"

    def synchronise(self):
        """Nothing to wait for."""

    def seconds(self, function, repeats):
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        return (time.perf_counter() - start) / repeats


class DeviceClock:
    """Times between events on the device's stream: launches overlap, as they do in a solver."""

    name = "cuda"

    def __init__(self, torch):
        self.torch = torch

    def synchronise(self):
        self.torch.cuda.synchronize()

    def seconds(self, function, repeats):
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.synchronise()
        start.record()
        for _ in range(repeats):
            function()
        end.record()
        end.synchronize()
        return 1e-3 * start.elapsed_time(end) / repeats


def timed(clock, function, rounds):
    """(median, least) seconds of a call, over rounds of as many calls as fill BATCH_SECONDS."""
    function()
    clock.synchronise()
    once = clock.seconds(function, 1)
    repeats = max(1, min(10_000, math.ceil(BATCH_SECONDS / max(once, 1e-7))))
    rounds = max(3, min(rounds, int(LONG_SECONDS / (repeats * once))))
    values = [clock.seconds(function, repeats) for _ in range(rounds)]
    return statistics.median(values), min(values)


# --- bandwidth ---------------------------------------------------------------------------------------


@functools.cache
def _loops():
    """Compiled copy and triad: each thread runs over its part of the arrays ``repeats`` times.

    Nothing that a compiler can see makes one run the same as the one before, which could then be left out.
    """
    import numba

    @numba.njit(parallel=True, fastmath=True)
    def copy(a, b, c, repeats, threads):
        for t in numba.prange(threads):
            part = slice(a.size * t // threads, a.size * (t + 1) // threads)
            one, other = a[part], b[part]
            for _ in range(repeats):
                for k in range(one.size):
                    one[k] = other[k]
                one, other = other, one

    @numba.njit(parallel=True, fastmath=True)
    def triad(a, b, c, repeats, threads):
        for t in numba.prange(threads):
            part = slice(a.size * t // threads, a.size * (t + 1) // threads)
            to, one, other = a[part], b[part], c[part]
            for r in range(repeats):
                s = other[r % other.size]
                for k in range(to.size):
                    to[k] = one[k] + s * other[k]

    return {"copy": copy, "triad": triad}


def host_bandwidth(total, dtype, threads, rounds):
    """Bytes a second (median, best) of copy and triad over arrays of ``total`` bytes together."""
    import numba

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    found = {}
    for name, moved in MOVED.items():
        a, b, c = (np.full(total // moved // dtype.itemsize, value, dtype) for value in (1, 1, 0.5))
        repeats = max(1, (32 << 20) // (moved * a.nbytes))
        run = functools.partial(_loops()[name], a, b, c, repeats, threads)
        found[name] = [repeats * moved * a.nbytes / seconds for seconds in timed(HostClock(), run, rounds)]
    return found


def device_bandwidth(total, dtype, clock, rounds):
    torch, found = clock.torch, {}
    for name, moved in MOVED.items():
        form = {"dtype": getattr(torch, dtype.name), "device": "cuda"}
        a, b, c = (torch.ones(total // moved // dtype.itemsize, **form) for _ in range(3))
        run = functools.partial(a.copy_, b)
        if name == "triad":
            run = functools.partial(torch.add, b, c, alpha=0.5, out=a)
        found[name] = [moved * a.numel() * dtype.itemsize / seconds for seconds in timed(clock, run, rounds)]
    return found


# --- Fourier transforms ------------------------------------------------------------------------------


def fft_pairs(shape, threads, dtype=np.float32):
    """ "library threads" -> function that does one rfft2 and one irfft2 of a real image."""
    from scipy import fft

    dtype = np.dtype(dtype)
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    spectrum = np.empty((shape[0], shape[1] // 2 + 1), np.result_type(dtype, np.complex64))
    pairs = {}
    for count in sorted({1, threads}):
        pairs[f"scipy {count}"] = lambda n=count: fft.irfft2(fft.rfft2(x, workers=n), s=shape, workers=n)
        if importlib.util.find_spec("ducc0"):
            import ducc0

            def ducc(n=count):
                ducc0.fft.r2c(x, axes=(0, 1), out=spectrum, nthreads=n)
                ducc0.fft.c2r(spectrum, axes=(0, 1), lastsize=shape[1], forward=False, out=x, nthreads=n, inorm=2)

            pairs[f"ducc0 {count}"] = ducc
        if importlib.util.find_spec("pyfftw"):
            import pyfftw

            a = pyfftw.empty_aligned(shape, dtype)
            b = pyfftw.empty_aligned(spectrum.shape, spectrum.dtype)
            flags = ("FFTW_MEASURE", "FFTW_DESTROY_INPUT")
            forward = pyfftw.FFTW(a, b, axes=(0, 1), flags=flags, threads=count)
            inverse = pyfftw.FFTW(b, a, axes=(0, 1), direction="FFTW_BACKWARD", flags=flags, threads=count)
            a[...] = x

            def fftw(forward=forward, inverse=inverse):
                forward()
                inverse()

            pairs[f"pyfftw {count}"] = fftw
        if importlib.util.find_spec("mkl_fft"):
            from mkl_fft.interfaces import scipy_fft as mkl

            pairs[f"mkl_fft {count}"] = lambda n=count: mkl.irfft2(mkl.rfft2(x, workers=n), s=shape, workers=n)
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(threads)
        image = torch.from_numpy(x.copy())
        pairs[f"torch {threads}"] = lambda: torch.fft.irfft2(torch.fft.rfft2(image), s=shape)
    return pairs | own_pair(shape, threads, dtype, "bioperf")


def own_pair(shape, threads, dtype, library=None):
    """The pair of a plan of ``bioperf.fft``, by its name; none if it has not got the library."""
    from bioperf.fft import available_libraries, plan_fft

    if library is not None and available_libraries().get(library) is not True:
        return {}
    fft = plan_fft(shape, dtype, threads=threads, library=library)
    x, spectrum = fft.empty("image", "spectrum")
    x[...] = 0  # there and back multiplies by the number of pixels
    return {f"{fft.library} {fft.threads}": lambda: fft.inverse(fft.forward(x, spectrum), x)}


def device_fft_pairs(shape, dtype, torch):
    image = torch.zeros(shape, dtype=getattr(torch, dtype.name), device="cuda")
    return {"torch (cuFFT)": lambda: torch.fft.irfft2(torch.fft.rfft2(image), s=shape)}


# --- kernels -----------------------------------------------------------------------------------------


def kernel_rows(size, machine, names=None, items=traffic.ITEMS):
    """Time, bytes and operations of each kernel (or those of the names) on images of size x size, or batches."""
    from bioperf.kernels import threads_for

    arrays = traffic.Arrays((size, size), machine.dtype, machine.place, items)
    threads = threads_for(size * size, machine.threads)
    for kernel in traffic.KERNELS:
        if names is not None and kernel.name not in names:
            continue
        row = {"kernel": kernel.name, "size": size, "reads": kernel.reads, "writes": kernel.writes}
        row |= {"bytes": kernel.bytes(arrays), "flops": kernel.operations(arrays)}
        if size % 16 and kernel.name.startswith("haar"):
            yield row | {"left_out": "needs a size divisible by 16"}
        elif sum(arrays.nbytes(name) for name in {*kernel.reads, *kernel.writes}) > LARGEST:
            yield row | {"left_out": f"arrays of more than {LARGEST >> 30} GiB"}
        else:
            call = kernel.bound(machine.kernels, arrays, threads)
            row["seconds"], row["least"] = timed(machine.clock, call, machine.rounds)
            yield row
        arrays.clear()


# --- iterations --------------------------------------------------------------------------------------


class Solve:
    """Solves of either level of one image, of any number of iterations."""

    def __init__(self, level, size, dtype, threads, place=lambda a: a):
        from bioperf import Blur

        _, y, psf = problem(size, dtype)
        self.level, self.threads, self.y = level, threads, place(y)
        self.A, self.epsilon = Blur(psf, y.shape), 1.5e-3 * size
        self.lower = place((0.5 * (y + np.roll(y, 1, 0))).astype(dtype))

    def __call__(self, count):
        from bioperf import solve_bio, solve_lower

        common = {"isotropic": True, "tol": NEVER, "max_iter": count, "threads": self.threads}
        if self.level == "lower":
            solution = solve_lower(self.A, self.y, TV_WEIGHT, penalty=PENALTY, **common)
        else:
            solution = solve_bio(
                self.A, self.y, target="identity", tv_weight=TV_WEIGHT, lower=self.lower, epsilon=self.epsilon,
                penalties=PENALTIES, **common,
            )  # fmt: skip
        if int(solution.iterations) != count:
            raise RuntimeError(f"the solve ended after {solution.iterations} of {count} iterations: {solution.status}")
        return solution


@contextlib.contextmanager
def listening(kernels):
    """Counts of the calls of kernels and transforms, by name, that are made in the block, step by step.

    Where small images run whole compiled iterations these make the same calls without the interpreter.
    """
    from bioperf import _fourier
    from bioperf.fft import FFT

    compiled = _fourier.compiled_iterations
    counts, before = collections.Counter(), dict(vars(kernels))

    def counted(name, function):
        @functools.wraps(function)
        def call(*arguments, **options):
            counts[name] += 1
            return function(*arguments, **options)

        return call

    classes = [FFT]
    for kind in classes:
        classes += kind.__subclasses__()
    methods = [
        (kind, name, vars(kind)[name]) for kind in classes for name in ("forward", "inverse") if name in vars(kind)
    ]
    try:
        _fourier.compiled_iterations = lambda kernels, fft: (None, None)
        for name in traffic.facade(kernels):
            setattr(kernels, name, counted(name, getattr(kernels, name)))
        for kind, name, method in methods:
            setattr(kind, name, counted(name, method))
        yield counts
    finally:
        _fourier.compiled_iterations = compiled
        vars(kernels).clear()
        vars(kernels).update(before)
        for kind, name, method in methods:
            setattr(kind, name, method)


def calls_of_an_iteration(solve, kernels, short=10, long=30):
    """Name -> calls an iteration, "forward" and "inverse" for the transforms: whole checks fall between the two."""
    found = []
    for count in (short, long):
        with listening(kernels) as counts:
            solve(count)
        found.append(counts)
    found[1].subtract(found[0])
    return {name: calls / (long - short) for name, calls in found[1].items() if calls}


def seconds_of_an_iteration(solve, clock, rounds):
    """(median, least) seconds, by solves of two lengths in turn; the longer ones take BATCH_SECONDS together."""

    def run(count, repeats=1):
        def measured():
            start = time.perf_counter()
            for _ in range(repeats):
                solve(count)
            clock.synchronise()
            return (time.perf_counter() - start) / repeats

        return measured

    run(10)()
    guess = run(20)() / 20
    # A small image is solved to the last bit after some two hundred iterations.
    steps = 10 * min(8, max(1, math.ceil(0.1 * BATCH_SECONDS / guess)))
    repeats = max(1, math.ceil(BATCH_SECONDS / (guess * (10 + steps))))
    rounds = max(3, min(rounds, int(LONG_SECONDS / (guess * repeats * (20 + steps)))))
    seconds = timing.in_turn(rounds, short=run(10, repeats), long=run(10 + steps, repeats))
    differences = [(b - a) / steps for a, b in zip(seconds["short"], seconds["long"], strict=True)]
    return statistics.median(differences), (min(seconds["long"]) - min(seconds["short"])) / steps


class Machine:
    """What the measurements of one run share."""

    def __init__(self, options):
        from bioperf.kernels import get_backend

        self.dtype, self.threads, self.rounds = np.dtype(options.dtype), options.threads, options.rounds
        self.device, self.torch, self.clock = options.device, None, HostClock()
        if self.device == "cuda":
            import torch

            self.torch, self.clock, self.threads = torch, DeviceClock(torch), 1
        self.kernels = get_backend("cuda" if self.device == "cuda" else "auto")

    def place(self, a):
        return self.torch.from_numpy(np.ascontiguousarray(a)).cuda() if self.torch else a

    def bandwidth(self, total):
        if self.torch:
            return device_bandwidth(total, self.dtype, self.clock, self.rounds)
        return host_bandwidth(total, self.dtype, self.threads, self.rounds)

    def fft_pairs(self, size):
        if self.torch:
            return device_fft_pairs((size, size), self.dtype, self.torch)
        return fft_pairs((size, size), self.threads, self.dtype)

    def facts(self):
        import bioperf

        facts = {
            "bioperf": bioperf.__version__, "numpy": np.__version__, "python": platform.python_version(),
            "processor": timing.processor(), "cores": os.cpu_count(), "device": self.device,
            "backend": self.kernels.name, "threads": self.threads, "dtype": self.dtype.name, "rounds": self.rounds,
        }  # fmt: skip
        return facts | ({"gpu": self.torch.cuda.get_device_name()} if self.torch else {})

    def iteration(self, level, size):
        """What is measured of an iteration: seconds, calls, bytes, and the time of its parts alone."""
        from bioperf.kernels import get_backend

        solve = Solve(level, size, self.dtype, self.threads, self.place)
        solution = solve(10)
        row = {"level": level, "size": size, "ran": f"{solution.backend}/{solution.fft}, {solution.threads} threads"}
        row["seconds"], row["least"] = seconds_of_an_iteration(solve, self.clock, self.rounds)
        # On a device an iteration is one recorded graph: its calls are those of the same iteration on the host.
        heard = Solve(level, min(size, HEARD_SIZE), self.dtype, self.threads)
        row["calls"] = calls = calls_of_an_iteration(heard, get_backend("auto"))
        arrays = traffic.Arrays((size, size), self.dtype, items=1)
        table = {kernel.name: kernel for kernel in traffic.KERNELS}
        used = {name: count for name, count in calls.items() if name not in ("forward", "inverse")}
        row["transforms"] = calls.get("forward", 0) + calls.get("inverse", 0)
        row["bytes"] = sum(count * table[name].bytes(arrays) for name, count in used.items())
        row["flops"] = sum(count * table[name].operations(arrays) for name, count in used.items())
        if not self.torch:
            alone = {entry["kernel"]: entry["seconds"] for entry in kernel_rows(size, self, used, items=1)}
            (pair,) = own_pair((size, size), solution.threads, self.dtype).values()
            row["kernels_alone"] = sum(count * alone[name] for name, count in used.items())
            row["transforms_alone"] = 0.5 * row["transforms"] * timed(self.clock, pair, self.rounds)[0]
            row["beside"] = row["seconds"] - row["kernels_alone"] - row["transforms_alone"]
        return row


def measure(machine, sizes):
    """Everything, as the JSON says it."""
    data = machine.facts() | {
        "bandwidth": {"far": machine.bandwidth(FAR_BYTES)},
        "fft": {},
        "kernels": [],
        "iterations": [],
    }
    for size in sizes:
        data["bandwidth"][size] = machine.bandwidth(WORKING_SET * size * size * machine.dtype.itemsize)
        pairs = {name: timed(machine.clock, pair, machine.rounds) for name, pair in machine.fft_pairs(size).items()}
        data["fft"][size] = pairs
        data["kernels"] += kernel_rows(size, machine)
        for level in LEVELS:
            row = machine.iteration(level, size)
            pair = 0.5 * row["transforms"] * min(median for median, _ in pairs.values())
            for name, where in (("floor_far", "far"), ("floor_near", size)):
                row[name] = pair + row["bytes"] / data["bandwidth"][where]["triad"][0]
            row["fft_floor"] = pair
            data["iterations"].append(row)
    data["overhead"] = [machine.iteration(level, TINY_SIZE) for level in LEVELS]
    return data


# --- report ------------------------------------------------------------------------------------------


def micro(seconds):
    return f"{1e6 * seconds:.3g}"


def giga(value):
    return f"{value / 1e9:.1f}"


def table(header, rows):
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def markdown(data):
    where = data.get("gpu") or f"{data['processor']}, {data['cores']} cores, {data['threads']} thread(s) used"
    yield f"bioperf {data['bioperf']}, {where}, {data['dtype']}, kernels: {data['backend']}. Times in microseconds."
    yield ""
    yield "## Bandwidth, GB/s"
    yield ""
    sets = {"far": f"{FAR_BYTES >> 20} MiB"}
    sets |= {size: f"working set of {size}x{size}" for size in data["bandwidth"] if size != "far"}
    yield from table(
        ("arrays together", "copy", "best", "triad", "best"),
        (
            [sets[key], *(giga(v) for name in ("copy", "triad") for v in value[name])]
            for key, value in data["bandwidth"].items()
        ),
    )
    yield "## rfft2 + irfft2"
    yield ""
    yield from table(
        ("library, threads", "size", "median", "least"),
        ([name, str(size), *map(micro, pair)] for size, pairs in data["fft"].items() for name, pair in pairs.items()),
    )
    yield "## Kernels"
    yield ""
    yield from table(
        (
            "kernel", "size", "reads", "writes", "KiB", "time", "least", "GB/s", "GFLOP/s", "floor, memory", "ratio",
            "floor, working set", "ratio",
        ),
        (kernel_cells(row, data["bandwidth"]) for row in data["kernels"]),
    )  # fmt: skip
    yield from (f"- {name} is not counted: {why}" for name, why in traffic.UNCOUNTED.items())
    yield ""
    yield "## Iterations"
    yield ""
    yield from table(
        (
            "level", "size", "ran", "time", "least", "transforms", "fastest FFTs", "KiB", "floor, memory", "ratio",
            "floor, working set", "ratio", "kernels alone", "own FFTs alone", "beside",
        ),
        (iteration_cells(row) for row in data["iterations"]),
    )  # fmt: skip
    yield "Calls an iteration:"
    yield ""
    for row in data["iterations"]:
        calls = ", ".join(f"{name} {count:g}" for name, count in sorted(row["calls"].items()))
        yield f"- {row['level']}, {row['size']}: {calls}"
    yield ""
    yield f"## {TINY_SIZE}x{TINY_SIZE}: the overhead of an iteration"
    yield ""
    yield from table(
        ("level", "ran", "time", "least", "kernels alone", "own FFTs alone", "beside"),
        (
            [row["level"], row["ran"], micro(row["seconds"]), micro(row["least"]), *parts(row)]
            for row in data["overhead"]
        ),
    )


def parts(row):
    return [micro(row[name]) if name in row else "" for name in ("kernels_alone", "transforms_alone", "beside")]


def against(seconds, floors):
    return [cell for floor in floors for cell in (micro(floor), f"{seconds / floor:.2f}")]


def kernel_cells(row, bandwidth):
    first = [
        row["kernel"],
        str(row["size"]),
        " ".join(row["reads"]),
        " ".join(row["writes"]),
        f"{row['bytes'] / 1024:.0f}",
    ]
    if "left_out" in row:
        return [*first, row["left_out"], *[""] * 7]
    seconds = row["seconds"]
    rates = [giga(row["bytes"] / seconds), giga(row["flops"] / seconds)]
    floors = [row["bytes"] / bandwidth[key]["triad"][0] for key in ("far", row["size"])]
    return [*first, micro(seconds), micro(row["least"]), *rates, *against(seconds, floors)]


def iteration_cells(row):
    first = [LEVELS[row["level"]], str(row["size"]), row["ran"], micro(row["seconds"]), micro(row["least"])]
    floors = against(row["seconds"], (row["floor_far"], row["floor_near"]))
    return [
        *first,
        f"{row['transforms']:g}",
        micro(row["fft_floor"]),
        f"{row['bytes'] / 1024:.0f}",
        *floors,
        *parts(row),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 4096], metavar="N", help="even, at least 32")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", type=int, default=1, metavar="T")
    parser.add_argument("--rounds", type=int, default=15, metavar="N")
    parser.add_argument("--out", type=Path, action="append", default=[], metavar="FILE", help=".md or .json")
    options = parser.parse_args()
    timing.check_paths(options.out)
    if any(size < 32 or size % 2 for size in options.sizes):
        raise SystemExit(f"--sizes: expected even numbers from 32 on, got {options.sizes}")
    pin_threads(options.threads)
    if options.device == "cuda":
        why = without_device()
        if why:
            raise SystemExit(f"--device cuda: {why}")
    elif not importlib.util.find_spec("numba"):
        raise SystemExit("the bandwidth's loops are compiled by Numba: pip install numba")
    data = measure(Machine(options), options.sizes)
    timing.write(list(markdown(data)), data, options.out)


def without_device():
    """Why nothing can be measured on a GPU here, or None."""
    from bioperf.kernels import available_backends

    if not importlib.util.find_spec("torch"):
        return "no torch: pip install torch"
    import torch

    if not torch.cuda.is_available():
        return "no CUDA device that torch can use"
    state = available_backends()["cuda"]
    return None if state is True else str(state)


if __name__ == "__main__":
    main()
