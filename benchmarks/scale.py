"""Large images: time per pixel and iteration beside that of 1024x1024, and peak memory in image-sized arrays.

    python benchmarks/scale.py [SIZE] [--iterations 20] [--threads T] [--out FILE]

float32, SIZE x SIZE (8192 by default), each case in a process of its own.  Memory is the process's highest
resident size during the solve less that before it (the input, the lower level's image and the libraries are
there already), divided by an image, less one for the output.  Times are between the first and the last check
of the run ("marginal") and of the whole call.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

try:
    from .common import TV_WEIGHT, problem
except ImportError:  # run as a file
    from common import TV_WEIGHT, problem

TILE, BASE, WANTED_ARRAYS, WANTED_RATIO = 512, 1024, 12, 2.0


class PeakMemory:
    """Highest resident size of this process in the block, in bytes above that at its start.

    The kernel's own high-water mark, reset at the start, where that is allowed; a sampling thread otherwise.
    """

    def __enter__(self):
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.method = "high-water mark"
        except OSError:
            self.method = "sampling"
        self.before = self.peak = self._read("VmRSS")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    @staticmethod
    def _read(name):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return 1024 * int(line.split()[1])
        raise OSError(f"no {name} in /proc/self/status: this needs Linux")

    def _sample(self):
        while not self._done.wait(0.005):
            self.peak = max(self.peak, self._read("VmRSS"))

    def __exit__(self, *exception):
        self._done.set()
        self._thread.join()
        if self.method == "high-water mark":
            self.peak = self._read("VmHWM")
        self.bytes = self.peak - self.before


def observation(size):
    """A tiled blurred image with noise, and a slightly smoothed copy for the lower level; float32."""
    _, y, psf = problem(TILE)
    repeats = -(-size // TILE)
    y = np.tile(y, (repeats, repeats))[:size, :size].copy()
    y += np.float32(0.005) * np.random.default_rng(2).standard_normal(y.shape, dtype=np.float32)
    return y, psf


def measure(size, level, iterations, threads):
    """One case in this process."""
    from bioperf import Blur, solve_bio, solve_lower

    def solve(A, y, lower):
        if level == "lower":
            return solve_lower(A, y, TV_WEIGHT, tol=1e-30, max_iter=iterations, threads=threads)
        return solve_bio(
            A, y, target="identity", tv_weight=TV_WEIGHT, lower=lower, epsilon=1e-3 * size, tol=1e-30,
            max_iter=iterations, threads=threads,
        )  # fmt: skip

    small, psf = observation(256)
    solve(Blur(psf, small.shape), small, small)  # libraries loaded, threads started
    y, psf = observation(size)
    lower = None
    if level == "upper":
        lower = y.copy()
        lower += np.roll(y, 1, 0)
        lower *= np.float32(0.5)
    A = Blur(psf, y.shape)
    start = time.perf_counter()
    with PeakMemory() as memory:
        solution = solve(A, y, lower)
    seconds = time.perf_counter() - start
    history = solution.history
    steps = history["iteration"][-1] - history["iteration"][0]
    marginal = (history["seconds"][-1] - history["seconds"][0]) / steps if steps else np.nan
    return {
        "size": size,
        "level": level,
        "iterations": int(solution.iterations),
        "ran": f"{solution.backend}/{solution.fft}, {solution.threads} threads",
        "seconds": seconds,
        "nanoseconds": 1e9 * seconds / solution.iterations / y.size,
        "marginal_nanoseconds": 1e9 * float(marginal) / y.size,
        "arrays": memory.bytes / y.nbytes - 1,
        "memory": memory.method,
    }


def measure_apart(size, level, options):
    """The case in a new process, so that memory freed by another does not hide its peak."""
    import importlib.util

    package = str(Path(importlib.util.find_spec("bioperf").origin).parents[1])
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH"))))
    command = [sys.executable, __file__, str(size), "--only", level, "--iterations", str(options.iterations)]
    if options.threads:
        command += ["--threads", str(options.threads)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return json.loads(output)


def markdown(rows):
    yield "| level | size | ns a pixel and iteration | marginal | seconds | arrays beyond input and output | ran |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row['level']} | {row['size']} | {row['nanoseconds']:.2f} | {row['marginal_nanoseconds']:.2f} "
            f"| {row['seconds']:.2f} | {row['arrays']:.1f} | {row['ran']} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", nargs="?", type=int, default=8192, metavar="SIZE")
    parser.add_argument("--iterations", type=int, default=20, metavar="N", help="at least 20 for marginal times")
    parser.add_argument("--threads", type=int, metavar="T")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON")
    parser.add_argument("--only", choices=("lower", "upper"), help="one case in this process, as JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.size, options.only, options.iterations, options.threads)))
        return

    # Three runs of the small size, the middle one counts; the large one is long enough by itself.
    rows = []
    for level in ("lower", "upper"):
        base = sorted((measure_apart(BASE, level, options) for _ in range(3)), key=lambda row: row["nanoseconds"])[1]
        rows += [base, measure_apart(options.size, level, options)]
    lines = list(markdown(rows))
    for level in ("lower", "upper"):
        base, large = (row for row in rows if row["level"] == level)
        ratio = large["nanoseconds"] / base["nanoseconds"]
        marginal = large["marginal_nanoseconds"] / base["marginal_nanoseconds"]
        lines.append(
            f"\n{level}: time per pixel and iteration {ratio:.2f} times that of {BASE} (marginal {marginal:.2f}; "
            f"wanted: <= {WANTED_RATIO:g}), peak {large['arrays']:.1f} arrays (wanted: < {WANTED_ARRAYS})"
        )
    print("\n".join(lines))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
