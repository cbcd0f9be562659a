"""One volume over MPI ranks, as many planes for each: time of an iteration by part, bytes sent beside their formula.

    python benchmarks/weak_scaling.py --planes 64 --side 256 --ranks 1 2 4 --out weak-scaling.json

Starts ``mpiexec`` itself, for each number of ranks in turn, ``--rounds`` times.  The formula: mathematics.md 11.
On a cluster: ``srun --mpi=pmi2 python benchmarks/weak_scaling.py --worker --planes 64 --side 1024`` prints one record.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

PARTS = ("transforms", "transposes", "halo", "sums", "kernels")
KINDS = ("transposes", "halo", "sums")
LEVELS = ("lower", "upper")
# Checks fall into the iterations between the two, as they do in a solve; and none into those of ``PLAIN``.
TIMED, PLAIN = (5, 25), (22, 24)
TV_WEIGHT = 2e-3
# Of a rank, in slabs: data, the transforms' arrays, x and its right-hand side, the field, spectra, the start.
VOLUMES = {"lower": 1 + 4 + 2 + 3 + 3 + 1, "upper": 2 + 4 + 2 + 3 + 5 + 2}


def bytes_sent(shape, ranks, itemsize, level, searches=0):
    """kind -> the bytes that a rank sends in an iteration, for slabs of one size and pairs of float64 ``searches``."""
    first, second, last = shape
    half = (first // ranks) * second * (last // 2 + 1)
    numbers = 1 if level == "lower" else 3 + 3 + 2 * searches
    return {
        "transposes": 2 * half * 2 * itemsize * (ranks - 1) // ranks,
        "halo": 2 * second * last * itemsize if ranks > 1 else 0,
        "sums": 8 * numbers * (ranks - 1),
    }


# --- a rank --------------------------------------------------------------------------------------------


class Meter:
    """Seconds by part and bytes sent by kind, since ``reset``."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.seconds, self.bytes = dict.fromkeys(PARTS, 0.0), dict.fromkeys(KINDS, 0)
        self.searches = 0

    def timed(self, part, function):
        def run(*arguments, **options):
            start = time.perf_counter()
            result = function(*arguments, **options)
            self.seconds[part] += time.perf_counter() - start
            return result

        return run


class Counted:
    """A communicator that counts what the iteration sends through it."""

    def __init__(self, comm, meter):
        self._comm, self._meter = comm, meter

    def __getattr__(self, name):
        return getattr(self._comm, name)

    def Isend(self, plane, *arguments, **options):
        self._meter.bytes["halo"] += plane.nbytes
        return self._comm.Isend(plane, *arguments, **options)

    def Allgather(self, own, every):
        self._meter.bytes["sums"] += own.nbytes * (self._comm.Get_size() - 1)
        self._comm.Allgather(own, every)

    def Alltoallw(self, sent, received):
        types, rank = sent[2], self._comm.Get_rank()
        self._meter.bytes["transposes"] += sum(t.Get_size() for k, t in enumerate(types) if k != rank)
        self._comm.Alltoallw(sent, received)


class _Timed:
    """The kernels, their time counted."""

    def __init__(self, kernels, meter):
        self._kernels, self._meter, self.name = kernels, meter, kernels.name

    def __getattr__(self, name):
        return self._meter.timed("kernels", getattr(self._kernels, name))


def metered(volume, meter):
    """The volume with everything in it that is measured."""
    from bioperf.distributed import kernels, problem

    fft = volume.fft
    volume.comm, fft.transfer.comm = Counted(volume.comm, meter), Counted(fft.transfer.comm, meter)
    for serial in (fft.planes, fft.columns):
        for direction in ("forward", "backward"):
            setattr(serial, direction, _Transform(getattr(serial, direction), meter))
    fft.transfer.forward = meter.timed("transposes", fft.transfer.forward)
    fft.transfer.backward = meter.timed("transposes", fft.transfer.backward)
    volume.exchange = meter.timed("halo", volume.exchange)
    volume._gathered = meter.timed("sums", volume._gathered)

    class MeteredKernels(kernels.SlabKernels):
        def __init__(self, volume):
            super().__init__(volume)
            self.own = _Timed(self.own, meter)
            for local in ("gradient", "field_divergence", "update_field_divergence"):
                setattr(self, local, getattr(self.own, local))

        def sum_above(self, *arguments, **options):
            meter.searches += 1
            return super().sum_above(*arguments, **options)

    problem.SlabKernels = MeteredKernels
    return volume


class _Transform:
    def __init__(self, transform, meter):
        self._transform, self._call = transform, meter.timed("transforms", transform)

    def __getattr__(self, name):
        return getattr(self._transform, name)

    def __call__(self, *arguments, **options):
        return self._call(*arguments, **options)


def measure(options):
    """The record of this rank, for both levels."""
    from mpi4py import MPI

    from bioperf import distributed

    comm, meter = MPI.COMM_WORLD, Meter()
    ranks = comm.Get_size()
    shape = (options.planes * ranks, options.side, options.side)
    volume = metered(distributed.Volume(comm, shape, options.dtype, threads=options.threads), meter)
    rng = np.random.default_rng(comm.Get_rank())
    y = np.zeros(volume.slab_shape, volume.dtype)
    y[:, options.side // 4 : -(options.side // 4)] = 1
    y += 0.02 * rng.standard_normal(y.shape, np.float32)
    target = y + np.float32(0.05) * rng.standard_normal(y.shape, np.float32)
    target, psf = target.astype(volume.dtype), np.ones((3, 3, 3)) / 27

    def run(level, iterations):
        meter.reset()
        comm.Barrier()
        start = time.perf_counter()
        common = {"tol": 1e-14, "max_iter": iterations}
        if level == "lower":
            found = distributed.solve_lower(volume, y, psf, TV_WEIGHT, **common)
        else:
            given = {"target": target, "lower": y, "epsilon": 0.1 * 0.02 * np.sqrt(np.prod(shape))}
            found = distributed.solve_bio(volume, y, psf, tv_weight=TV_WEIGHT, **given, **common)
        assert found.iterations == iterations
        return {"seconds": meter.seconds | {"all": time.perf_counter() - start}, "bytes": dict(meter.bytes)} | {
            "searches": meter.searches, "ran": f"{found.backend}, {found.threads} threads"
        }  # fmt: skip

    record = {"shape": shape, "ranks": ranks, "dtype": options.dtype}
    for level in LEVELS:
        plain = [run(level, count) for count in PLAIN]
        first, last = (min((run(level, count) for _ in range(options.repeats)), key=_whole) for count in TIMED)
        steps, timed = PLAIN[1] - PLAIN[0], TIMED[1] - TIMED[0]
        record[level] = {
            "seconds": {name: (last["seconds"][name] - first["seconds"][name]) / timed for name in last["seconds"]},
            "bytes": {kind: (plain[1]["bytes"][kind] - plain[0]["bytes"][kind]) / steps for kind in KINDS},
            "searches": (plain[1]["searches"] - plain[0]["searches"]) / steps,
            "ran": last["ran"],
        }
        # the largest so far of the process: "upper", which needs more, comes last
        record[level]["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return comm.gather(record)


def _whole(run):
    return run["seconds"]["all"]


# --- the table -----------------------------------------------------------------------------------------


def launch(ranks, options):
    """The records of the ranks of one run."""
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    own = [sys.executable, __file__, "--worker", "--planes", options.planes, "--side", options.side]
    own += ["--dtype", options.dtype, "--repeats", options.repeats, "--threads", options.threads]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    command = [mpiexec, "-n", str(ranks), *map(str, own)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def rows(results, cores, threads):
    """Lines of the table: for a level and a number of ranks the run whose slowest rank took the least time."""
    for level in LEVELS:
        alone = None
        for ranks, runs in results.items():
            every = min(runs, key=lambda run: max(rank[level]["seconds"]["all"] for rank in run))
            seconds = {name: max(rank[level]["seconds"][name] for rank in every) for name in (*PARTS, "all")}
            alone = alone or seconds["all"]
            shape, itemsize = every[0]["shape"], np.dtype(every[0]["dtype"]).itemsize
            formula = bytes_sent(shape, ranks, itemsize, level, every[0][level]["searches"])
            counted = every[0][level]["bytes"]
            slab = np.prod(shape, dtype=float) / ranks * itemsize / 2**20
            crowded = " (oversubscribed)" if ranks * threads > cores else ""
            peak = max(rank[level]["peak MiB"] for rank in every)
            cells = [level, f"{ranks}{crowded}", "x".join(map(str, shape)), f"{1e3 * seconds['all']:.1f}"]
            cells += [f"{alone / seconds['all']:.2f}", *(f"{1e3 * seconds[part]:.1f}" for part in PARTS)]
            cells += [f"{sum(found.values()) / 1e6:.3f}" for found in (formula, counted)]
            cells += [f"{VOLUMES[level] * slab:.0f}", f"{peak:.0f}"]
            yield f"| {' | '.join(cells)} |"


HEAD = (
    "| level | ranks | volume | ms an iteration | efficiency | " + " | ".join(PARTS) + " | MB sent a rank, formula "
    "| counted | MiB a rank, arrays | peak |\n|" + "---|" * (9 + len(PARTS))
)


def parser():
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--planes", type=int, default=32, help="planes for each rank")
    made.add_argument("--side", type=int, default=192, help="rows and columns of a plane")
    made.add_argument("--dtype", default="float32")
    made.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    made.add_argument("--threads", type=int, default=1, help="for each rank")
    made.add_argument("--rounds", type=int, default=3, help="times that each number of ranks is started")
    made.add_argument("--repeats", type=int, default=2, help="solves in a start, of which the fastest counts")
    made.add_argument("--out", help="a JSON file for all records")
    made.add_argument("--worker", action="store_true", help="be one rank, started by mpiexec or srun")
    return made


def main(arguments=None):
    options = parser().parse_args(arguments)
    if options.worker:
        every = measure(options)
        if every is not None:
            print(json.dumps(every))
        return
    results = {ranks: [] for ranks in options.ranks}
    for _ in range(options.rounds):
        for ranks, runs in results.items():
            runs.append(launch(ranks, options))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(HEAD)
    for line in rows(results, cores, options.threads):
        print(line)
    print(f"\n{cores} cores, {options.dtype}, {results[options.ranks[0]][0][0]['lower']['ran']} a rank")
    if options.out:
        Path(options.out).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
