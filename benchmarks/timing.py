"""What the speed scripts share: alternating runs, a common goal for different solvers, other packages, the table."""

import argparse
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

GAP, STEP, LIMIT = 1e-4, 5, 2000


def in_turn(rounds, **measures):
    """What each of the functions returns over the rounds, called in turn after one call each to warm up."""
    for measure in measures.values():
        measure()
    values = {name: [] for name in measures}
    for k in range(rounds):
        names = list(measures) if k % 2 == 0 else list(measures)[::-1]
        for name in names:
            values[name].append(measures[name]())
    return values


def seconds_of(function):
    """A function that returns the seconds of a call."""

    def run():
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return run


def alternate(rounds, **functions):
    """Seconds of each function over the rounds, taken in turn after one call each to warm up."""
    return in_turn(rounds, **{name: seconds_of(function) for name, function in functions.items()})


def fewest(gap_of, gap, limit, step=1, patience=math.inf):
    """The smallest multiple of step with ``gap_of(count) <= gap``, by doubling and bisection, and its gap.

    The best of those tried if none within the limit is, or if a call took longer than ``patience`` (seconds).
    """
    tried = {}

    def reached(steps):
        start = time.perf_counter()
        tried[steps * step] = gap_of(steps * step)
        return tried[steps * step] <= gap, time.perf_counter() - start

    low, high, last = 0, 1, max(1, limit // step)
    while True:
        found, seconds = reached(high)
        if found:
            break
        if high == last or seconds > patience:
            return min(tried.items(), key=lambda item: item[1])
        low, high = high, min(2 * high, last)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle)[0] else (middle, high)
    return high * step, tried[high * step]


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


def processor():
    """The processor's name, as far as the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def check_paths(paths):
    """SystemExit, before anything is measured, for a path that ``write`` cannot serve."""
    for path in paths:
        if path.suffix not in (".md", ".json"):
            raise SystemExit(f"--out: expected a file that ends in .md or .json, got {path}")


def write(lines, data, paths):
    """Print the lines, and write them or the data into each path, as its ending says (.md or .json)."""
    print("\n".join(lines))
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n" if path.suffix == ".md" else json.dumps(data, indent=1) + "\n")


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


class Rival:
    """A package of ``rivals/`` in a process of its own, under its own interpreter; construction is not timed."""

    def __init__(self, name, python, threads, folder):
        self.name, self.folder = name, Path(folder)
        # another package's interpreter must not find this one's modules
        environment = with_package() if name == "ours" else {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self.log = self.folder / f"{name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, str(Path(__file__).with_name("rivals") / "worker.py"), name, str(threads)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
            )  # fmt: skip
        found = self._read()
        self.missing, self.version = found.get("missing"), found.get("version")
        self.problems, self.tv = found.get("problems", []), found.get("tv")

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended: {self.log.read_text().strip()[-300:]}")
        return json.loads(line)

    def _ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply = self._read()
        if "error" in reply:
            raise RuntimeError(f"{self.name}: {reply['error']}")
        return reply

    def prepare(self, case, isotropic=True):
        """Set up a ``Case``; how the package will solve it, in words."""
        file = self.folder / f"{self.name}.npz"
        np.savez(file, **case.arrays())
        return self._ask(do="prepare", problem=case.name, file=str(file), isotropic=isotropic)["method"]

    def run(self, count):
        """The image after that many iterations."""
        file = self.folder / f"{self.name}.npy"
        self._ask(do="run", iterations=count, save=str(file))
        return np.load(file)

    def seconds(self, count):
        return self._ask(do="run", iterations=count, save="")["seconds"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def compare_to_gap(report, part, case, solvers, rounds, threads, scico_python, wanted=("", "")):
    """``solve_lower`` against the yardstick and SCICO, each with the fewest iterations that reach the gap.

    ``solvers``: ours(count) and plain(count) -> x, certified() -> Solution at tol = GAP.
    ``wanted``: what is asked of the ratio to the yardstick and to SCICO.
    """
    ours, plain, certified = solvers
    counts = {"ours": case.fewest(ours), "plain": case.fewest(plain)}
    functions = {
        "ours": seconds_of(lambda: ours(counts["ours"])),
        "certified": seconds_of(certified),
        "plain": seconds_of(lambda: plain(counts["plain"])),
    }
    scico = None
    with tempfile.TemporaryDirectory() as folder:
        if scico_python:
            scico = Rival("scico", scico_python, threads, folder)
            if scico.missing:
                raise SystemExit(f"--scico-python: {scico.missing}")
            scico.prepare(case)
            counts["scico"] = case.fewest(scico.run)
            functions["scico"] = lambda: scico.seconds(counts["scico"])  # the solver's own, without the pipe
        seconds = in_turn(rounds, **functions)
        if scico:
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
