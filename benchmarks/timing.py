"""What the speed scripts share: alternating runs, a common goal for different solvers, SCICO beside them, the table."""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

GAP, STEP, LIMIT = 1e-4, 5, 1000
YARDSTICK_PENALTY = 0.05


def alternate(rounds, **functions):
    """Seconds of each function over the rounds, taken in turn after one call each to warm up."""
    for function in functions.values():
        function()
    seconds = {name: [] for name in functions}
    for k in range(rounds):
        names = list(functions) if k % 2 == 0 else list(functions)[::-1]
        for name in names:
            start = time.perf_counter()
            functions[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds):
    return {name: statistics.median(values) for name, values in seconds.items()}


def repeated(function, repeats):
    """A function long enough to be timed."""

    def run():
        for _ in range(repeats):
            function()

    return run


def micro(seconds):
    return f"{seconds * 1e6:.0f} us"


def milli(seconds):
    return f"{seconds * 1e3:.1f} ms"


def load(path):
    """The module in a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_package():
    """This process's environment for a fresh interpreter that finds the same bioperf."""
    environment = dict(os.environ)
    package = str(Path(importlib.util.find_spec("bioperf").origin).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH"))))
    return environment


def parser(description, parts):
    """The arguments of a speed script whose parts are named by one letter each."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, metavar="DIR", help="the folder with _problem.py and _reference.json")
    parser.add_argument("--scico-python", metavar="PATH", help="an interpreter that has scico")
    parser.add_argument("--threads", type=int, default=2, metavar="T")
    parser.add_argument("--rounds", type=int, default=25, metavar="N")
    parser.add_argument("--parts", default=parts, help=f"which of {', '.join(parts)} (default: all)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON")
    return parser


class Report:
    """Rows of the table: what was measured, its figure, what it is compared with, and the ratio asked for."""

    def __init__(self, options):
        import bioperf

        self.rows = []
        self.data = {
            "bioperf": bioperf.__version__, "numpy": np.__version__, "python": platform.python_version(),
            "machine": platform.machine(), "cores": os.cpu_count(), "threads": options.threads,
            "rounds": options.rounds,
        }  # fmt: skip

    def add(self, what, ours, other="", ratio=None, wanted=""):
        ratio = "" if ratio is None else f"{ratio:.2f}"
        self.rows.append((what, ours, other, ratio, wanted))

    def markdown(self):
        yield "| | measured | against | ratio | wanted |"
        yield "|---|---|---|---|---|"
        yield from (f"| {' | '.join(row)} |" for row in self.rows)

    def finish(self, out):
        """Print the table; everything measured as JSON into ``out``, if that is given."""
        print("\n".join(self.markdown()))
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(self.data | {"table": self.rows}, indent=1) + "\n")


class Case:
    """A problem that several solvers solve: ``objective(x)`` and its ``optimum``, ``source`` says which problem."""

    source, optimum = "", None

    def gap(self, x):
        return (self.objective(x) - self.optimum) / self.optimum

    def fewest(self, run, gap=GAP, limit=LIMIT):
        """The smallest iteration count, in steps, with ``run(count)`` within the gap: by doubling, then bisection."""

        def reached(steps):
            return self.gap(run(steps * STEP)) <= gap

        low, high = 0, 1
        while not reached(high):
            low, high = high, 2 * high
            if high * STEP > 2 * limit:
                raise SystemExit(f"no gap of {gap:g} within {limit} iterations")
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reached(middle) else (middle, high)
        return high * STEP


SCICO_LOOP = """
import json, sys, time

print(json.dumps({"version": __import__("scico").__version__}), flush=True)
for line in sys.stdin:
    count, path = json.loads(line)
    solver = make(count)
    start = time.perf_counter()
    x = solver.solve().block_until_ready()
    seconds = time.perf_counter() - start
    if path:
        np.save(path, np.asarray(x))
    print(json.dumps({"seconds": seconds}), flush=True)
"""


class Scico:
    """SCICO in its own interpreter, one solve at a request, statistics off; construction is not timed.

    ``script`` reads the arrays from the .npz file that its first argument names, and defines ``make(iterations)``.
    """

    def __init__(self, python, script, arrays, threads, folder):
        self.folder = Path(folder)
        np.savez(self.folder / "case.npz", **arrays)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["OMP_NUM_THREADS"] = str(threads)
        self.process = subprocess.Popen(
            [python, "-c", script + SCICO_LOOP, str(self.folder / "case.npz")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.version = self._read()["version"]

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the interpreter of --scico-python ended: is scico installed there?")
        return json.loads(line)

    def _ask(self, count, path=""):
        self.process.stdin.write(json.dumps([count, str(path)]) + "\n")
        self.process.stdin.flush()
        return self._read()["seconds"]

    def run(self, count):
        path = self.folder / "x.npy"
        self._ask(count, path)
        return np.load(path)

    def seconds(self, count):
        return self._ask(count)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def compare_to_gap(report, part, case, solvers, rounds, threads, scico_python, wanted=("", "")):
    """``solve_lower`` against the yardstick and SCICO, each with the fewest iterations that reach the gap.

    ``solvers``: ours(count) and plain(count) -> x, certified() -> Solution at tol = GAP, and SCICO's
    (script, arrays).  ``wanted``: what is asked of the ratio to the yardstick and to SCICO.
    """
    ours, plain, certified, (script, arrays) = solvers
    counts = {"ours": case.fewest(ours), "plain": case.fewest(plain)}
    functions = {
        "ours": lambda: ours(counts["ours"]),
        "certified": certified,
        "plain": lambda: plain(counts["plain"]),
    }
    scico, inside = None, []
    with tempfile.TemporaryDirectory() as folder:
        if scico_python:
            scico = Scico(scico_python, script, arrays, threads, folder)
            counts["scico"] = case.fewest(scico.run)
            functions["scico"] = lambda: inside.append(scico.seconds(counts["scico"]))
        seconds = alternate(rounds, **functions)
        if scico:
            seconds["scico"] = inside[1:]  # the solver's own time, without the warm-up and the pipe
            scico.close()
    median = medians(seconds)
    stopped = certified()
    report.data["gap"] = {
        "gap": GAP, "seconds": median, "iterations": counts | {"certified": int(stopped.iterations)},
        "certified_true_gap": case.gap(stopped.x), "problem": case.source, "optimum": case.optimum,
        "scico_version": scico.version if scico else None,
    }  # fmt: skip

    def shown(name, count):
        return f"{milli(median[name])} ({count} iterations)"

    us, stop = shown("ours", counts["ours"]), shown("certified", int(stopped.iterations))
    others = {"plain": ("the yardstick", wanted[0])}
    if scico:
        others["scico"] = (f"scico {scico.version}", wanted[1])
    for k, (name, (title, ratio_wanted)) in enumerate(others.items()):
        what = "the same" if k else f"solve_lower to a gap of {GAP:g}"
        remark = "" if k else f" ({case.source})"
        report.add(
            f"({part}) {what} against {title}{remark}", us, shown(name, counts[name]),
            median[name] / median["ours"], ratio_wanted,
        )  # fmt: skip
    for k, (name, (title, _)) in enumerate(others.items()):
        what = "the same"
        if not k:
            what = f"solve_lower(tol={GAP:g}), stopped by its own test at a true gap of {case.gap(stopped.x):.1e},"
        report.add(
            f"({part}) {what} against {title.split()[0] if k else title}", stop, shown(name, counts[name]),
            median[name] / median["certified"],
        )  # fmt: skip
