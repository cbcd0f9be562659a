"""bioperf beside other packages on the same two problems, each to the same true gap; runs in turn, medians.

    python benchmarks/peers.py --problems DIR --python scico=PATH --python odl=PATH --out peers.md --out peers.json

Deblurring and MRI from one coil, 256x256, total variation (cases.py): with ``--problems DIR`` those of
``_problem.py`` in DIR, otherwise synthetic images.  The optimum is the lowest objective of a long float64 solve and,
with DIR, of ``_reference.json``.  ``rivals/`` has a file for each package: those that this interpreter, or the one of
``--python``, can import are run, the others stand in the table as not installed.

- Every package, bioperf too, runs in a process of its own that is held to ``--threads`` cores.
- Each gets the fewest iterations with which its image has a relative objective gap of 1e-4 to the optimum, found by
  doubling and bisection before anything is timed; no package tests for the gap inside the timing.  bioperf's own
  stopping test (tol = 1e-4, without knowing the optimum) is timed beside it: "certified".
- bioperf and the package take turns, and the ratio is that of the medians of those runs.  Constructing a package's
  solver is not timed; all of ``solve_lower`` is.
- A package that does not reach the gap within ``--limit`` iterations, or a solve of ``--seconds``, is reported at the
  best gap of those that were tried.
- The packages' penalties and steps are the best of several tried on the peers' problems by hand; bioperf has its
  defaults.  Single precision where the package can.
- The objective is the one the package can minimise: isotropic TV, or anisotropic, and bioperf then minimises the same.
  Differences are periodic; a package that leaves out those across the edges is held to the optimum of that problem,
  and bioperf to that of the periodic one.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

try:
    from . import cases, timing
except ImportError:  # run as a file
    import cases
    import timing

# In the table's order, with how to install each.
RIVALS = {
    "yardstick": "pip install numpy scipy",
    "scico": "pip install scico",
    "odl": "pip install odl scipy",
    "pyproximal": "pip install pyproximal pylops scipy",
    "sporco": "pip install sporco",
    "bart": "apt-get install bart",
    "deepinv": "pip install deepinv",
    "mrpro": "pip install mrpro",
    "sigpy": "pip install sigpy",
    "prox_tv": "apt-get install liblapacke-dev; pip install prox-tv scipy",
}
PROBLEMS = {"deblurring": cases.Deblurring, "mri": cases.one_coil}
LIMIT, LEAST_ROUNDS = 4000, 3


class Ours:
    """bioperf's process, and what it needs on each case."""

    def __init__(self, options, folder):
        self.options, self.cases = options, {}
        self.rival = timing.Rival("ours", sys.executable, options.threads, folder)
        if self.rival.missing:
            raise SystemExit(f"this interpreter has no bioperf: {self.rival.missing}")

    def case(self, problem, tv):
        if (problem, tv) not in self.cases:
            case = self.cases[problem, tv] = PROBLEMS[problem](self.options.problems, tv)
            if self.options.problems:
                case.optimum = min(case.optimum, case.solved())
        return self.cases[problem, tv]

    def prepare(self, case):
        """Set the case up; the counts of iterations to the gap and of the certified solve, with gaps and PSNRs."""
        self.rival.prepare(case, case.isotropic)
        if not hasattr(case, "ours"):
            count, _ = timing.fewest(lambda n: case.gap(self.rival.run(n)), timing.GAP, LIMIT)
            case.ours = {
                "gap": {"iterations": count} | quality(case, self.rival.run(count)),
                "certified": {"iterations": self._certified(case)} | quality(case, self.rival.run(None)),
            }
        return case.ours

    def _certified(self, case):
        """The iterations that the solve took in the other process: the same on any number of threads."""
        from bioperf import solve_lower

        y = case.y.astype("f4" if case.y.dtype.kind == "f" else "c8")
        return int(solve_lower(case.A, y, case.weight, isotropic=case.isotropic, tol=timing.GAP).iterations)


def quality(case, x):
    return {"gap": case.gap(x), "psnr": case.psnr(x)}


def compare(ours, rival, problem, options):
    """One package on one problem: what the row and the JSON say."""
    case = ours.case(problem, rival.tv)
    row = {"package": rival.name, "version": rival.version, "problem": problem, "tv": rival.tv}
    row["method"] = rival.prepare(case)
    count, _ = timing.fewest(lambda n: case.gap(rival.run(n)), timing.GAP, options.limit, patience=options.seconds)
    row |= {"iterations": count} | quality(case, rival.run(count))
    our_case = ours.case(problem, rival.tv.removesuffix(", Neumann"))
    row["ours"] = ours.prepare(our_case)
    counts = {name: row["ours"][name]["iterations"] for name in ("gap", "certified")}
    once = rival.seconds(count)
    rounds = max(LEAST_ROUNDS, min(options.rounds, int(options.seconds / once)))
    seconds = timing.in_turn(
        rounds, ours=lambda: ours.rival.seconds(counts["gap"]), certified=lambda: ours.rival.seconds(None),
        package=lambda: rival.seconds(count),
    )  # fmt: skip
    return row | {"seconds": seconds, "reached": row["gap"] <= timing.GAP}


def rows_of(name, python, ours, folder, options):
    """The rows of one package: a row for each problem that it solves, or one that says why there is none."""
    try:
        rival = timing.Rival(name, python, options.threads, folder)
    except RuntimeError as error:
        return [{"package": name, "none": str(error)}]
    if rival.missing:
        known = rival.missing.startswith("No module named") or rival.missing.startswith("no command")
        why = f"not installed: {RIVALS[name]}" if known else f"cannot be imported: {rival.missing}"
        return [{"package": name, "none": why}]
    rows = []
    for problem in options.only_problems:
        if problem not in rival.problems:
            continue
        try:
            rows.append(compare(ours, rival, problem, options))
        except RuntimeError as error:
            rows.append({"package": name, "version": rival.version, "problem": problem, "none": f"failed: {error}"})
    rival.close()
    return rows


HEADER = (
    "problem", "package", "TV", "iterations", "gap", "PSNR", "time", "bioperf in turn", "ratio", "certified", "ratio",
)  # fmt: skip


def cells(row):
    """A row of the table."""
    title = row["package"] + (f" {row['version']}" if "version" in row else "")
    if "none" in row:
        return [row.get("problem", ""), title, row["none"].replace("|", "/").splitlines()[0], *[""] * 8]
    median = timing.medians(row["seconds"])
    gap = f"{row['gap']:.1e}" + ("" if row["reached"] else " (not reached: the best tried)")
    tv = row["tv"] + ("; bioperf: periodic" if "Neumann" in row["tv"] else "")
    shown = [row["problem"], title, tv, str(row["iterations"]), gap, f"{row['psnr']:.2f}"]
    shown.append(timing.milli(median["package"]))
    for name, seconds in (("gap", median["ours"]), ("certified", median["certified"])):
        ours = row["ours"][name]
        shown.append(f"{timing.milli(seconds)} ({ours['iterations']} iterations, gap {ours['gap']:.1e})")
        shown.append(f"{median['package'] / seconds:.2f}")
    return shown


def markdown(rows, facts):
    yield (
        f"bioperf {facts['bioperf']}, {facts['processor']}, {facts['cores']} cores; every process held to "
        f"{facts['threads']} of them; {facts['source']}; to a relative gap of {timing.GAP:g}."
    )
    yield ""
    yield f"| {' | '.join(HEADER)} |"
    yield "|" + "---|" * len(HEADER)
    yield from (f"| {' | '.join(cells(row))} |" for row in rows)
    yield ""
    methods = {}
    for row in rows:
        if "method" in row:
            methods.setdefault((row["package"], row["method"]), []).append(row["problem"])
    yield from (f"- {package}, {' and '.join(on)}: {method}" for (package, method), on in methods.items())


def interpreters(pairs):
    """name=path of the options as a dict; SystemExit for an unknown name."""
    found = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    if len(found) != len(pairs) or set(found) - set(RIVALS):
        raise SystemExit(f"--python: expected NAME=PATH with NAME one of {', '.join(RIVALS)}, each once, got {pairs}")
    for name, path in found.items():
        if shutil.which(path) is None:
            raise SystemExit(f"--python {name}: no interpreter at {path}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=Path, metavar="DIR", help="the folder with _problem.py and _reference.json")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="the interpreter that has the package NAME"
    )
    parser.add_argument("--only", nargs="+", choices=RIVALS, default=list(RIVALS), metavar="NAME", help="packages")
    parser.add_argument("--only-problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), metavar="PROBLEM")
    parser.add_argument("--threads", type=int, default=1, metavar="T", help="cores of each process")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help=f"at most; at least {LEAST_ROUNDS}")
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="of all timed runs of a package on a problem, and the longest solve while the iterations are found",
    )
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="N", help="iterations that a package may need")
    parser.add_argument("--out", type=Path, action="append", default=[], metavar="FILE", help=".md or .json")
    options = parser.parse_args()
    timing.check_paths(options.out)
    pythons = interpreters(options.python)
    import bioperf

    with tempfile.TemporaryDirectory() as folder:
        ours, rows = Ours(options, folder), []
        for name in options.only:
            rows += rows_of(name, pythons.get(name, sys.executable), ours, folder, options)
        ours.rival.close()
    rows.sort(key=lambda row: [*PROBLEMS, None].index(row.get("problem")))
    sources = {case.source: None for case in ours.cases.values()}
    optima = {f"{problem}, {tv}": case.optimum for (problem, tv), case in ours.cases.items()}
    facts = {
        "bioperf": bioperf.__version__, "processor": timing.processor(), "cores": os.cpu_count(),
        "threads": options.threads, "gap": timing.GAP, "python": platform.python_version(),
        "source": ", ".join(sources), "optima": optima,
    }  # fmt: skip
    timing.write(list(markdown(rows, facts)), facts | {"rows": rows}, options.out)


if __name__ == "__main__":
    main()
