"""Volumes in slabs: equal to the solvers of one process, on 1, 2 and 4 ranks, and errors that all ranks raise.

The ranks run this file: ``mpiexec -n RANKS python tests/test_distributed.py MODE FOLDER``.
"""

import importlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import which
from types import SimpleNamespace

import numpy as np

import bioperf

RANKS = (1, 2, 4)
SECONDS = 120

# name: shape, dtype, psf, level, options; ARRAYS among the options stand for volumes of the case
ARRAYS = ("target", "ybar", "x0", "lower")
CASES = {
    "lower": ((18, 20, 21), "float64", (3, 4, 5), "lower", {}),
    "isotropic": ((18, 20, 21), "float64", (3, 4, 5), "lower", {"isotropic": True, "x0": True, "max_iter": 23}),
    "one plane a rank": ((4, 9, 8), "float64", (4, 3, 3), "lower", {"penalty": 0.5, "max_iter": 12}),
    "image": ((16, 18), "float64", (3, 3), "lower", {"max_iter": 20}),
    "constant": ((6, 5, 7), "float64", (1, 2, 3), "lower", {"tv_weight": 40.0}),
    "constant, isotropic": ((6, 5, 7), "float64", (1, 2, 3), "lower", {"tv_weight": 40.0, "isotropic": True}),
    "not constant": ((32, 4, 4), "float64", (1, 2, 3), "lower", {"tv_weight": 2.0, "max_iter": 20}),
    "bio": ((18, 20, 21), "float64", (3, 4, 5), "bio", {"target": True, "epsilon": 0.3, "kappa": 0.1}),
    "bio, isotropic": (
        (18, 20, 21), "float64", (3, 4, 5), "bio", {"target": True, "kappa": 0.2, "isotropic": True, "max_iter": 24},
    ),
    "identity": (
        (9, 8, 10), "float64", (3, 3, 2), "bio",
        {"target": "identity", "ybar": "observation", "epsilon": 0.4, "max_iter": 30},
    ),
    "given": (
        (9, 8, 10), "float64", (3, 3, 2), "bio",
        {"target": True, "ybar": True, "x0": True, "lower": True, "epsilon": 0.2, "eta": 2.0, "penalties": (2.0, 50.0),
         "max_iter": 15},
    ),
    "bio of an image": ((16, 18), "float64", (3, 3), "bio", {"target": True, "epsilon": 0.1, "isotropic": True}),
    "float32": ((18, 20, 21), "float32", (3, 4, 5), "lower", {}),
    "bio, float32": ((18, 20, 21), "float32", (3, 4, 5), "bio", {"target": True, "epsilon": 0.3, "kappa": 0.1}),
}  # fmt: skip
# Of x to the serial x, in units of the range: measured 6e-15 and 2e-6.
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}
NUMBERS = ("objective", "lower_bound", "kkt_residual")


def problem(name):
    """Blur, data and keyword arguments of a case."""
    shape, dtype, size, _, options = CASES[name]
    rng = np.random.default_rng(len(name))
    psf = rng.random(size)
    A = bioperf.Blur(psf / psf.sum(), shape)
    sharp = np.zeros(shape)
    sharp[tuple(slice(n // 4, 3 * n // 4) for n in shape)] = 1
    volumes = {"y": A(sharp) + 0.02 * rng.standard_normal(shape)}
    for array in ARRAYS:
        volumes[array] = np.clip(volumes["y"] + 0.1 * rng.standard_normal(shape), 0, 1)
    volumes = {array: volume.astype(dtype) for array, volume in volumes.items()}
    options = {"tv_weight": 0.01} | {k: volumes[k] if v is True and k in ARRAYS else v for k, v in options.items()}
    return A, volumes["y"], options


def serial(name):
    A, y, options = problem(name)
    if CASES[name][3] == "lower":
        return bioperf.solve_lower(A, y, options.pop("tv_weight"), **options)
    return bioperf.solve_bio(A, y, **options)


# --- what the ranks run --------------------------------------------------------------------------------


def main(mode, folder):
    """What one rank does; rank 0 writes the results of all into the folder."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    record = {"solve": _solve, "errors": _errors}[mode](comm, Path(folder))
    every = comm.gather(record)
    if every is not None:
        (Path(folder) / f"{mode}-{comm.Get_size()}.json").write_text(json.dumps(every))


def _solve(comm, folder):
    from bioperf import distributed

    record = {}
    for name, (shape, dtype, _, level, _) in CASES.items():
        A, y, options = problem(name)
        volume = distributed.Volume(comm, shape, dtype, threads=1)
        own = {k: np.ascontiguousarray(v[volume.slab]) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        part = volume.scatter(y if comm.Get_rank() == 0 else None)
        if level == "lower":
            found = distributed.solve_lower(volume, part, A.psf, own.pop("tv_weight"), **own)
        else:
            found = distributed.solve_bio(volume, part, A.psf, **own)
        history = {k: v.tolist() for k, v in found.history.items() if k != "seconds"}
        record[name] = {"iterations": found.iterations, "status": found.status, "converged": found.converged}
        record[name] |= {number: getattr(found, number) for number in NUMBERS} | {"history": history}
        record[name] |= {"infeasibility": found.infeasibility, "slab": [volume.slab.start, volume.slab.stop]}
        distributed.write_slabs(volume, folder / f"{name}-{comm.Get_size()}.npy", found.x)
        whole = volume.gather(found.x)
        if whole is not None:
            assert np.array_equal(whole, np.load(folder / f"{name}-{comm.Get_size()}.npy"))
        volume.free()
    return record | ({"threads": _with_threads(comm)} if comm.Get_size() < 4 else {})


def _with_threads(comm):
    """Whether two threads change no bit, and how many ran."""
    from bioperf import distributed

    y = np.random.default_rng(1).random((80, 64, 64), np.float32)
    images, threads = [], []
    for count in (1, 2):
        volume = distributed.Volume(comm, y.shape, y.dtype, threads=count)
        found = distributed.solve_lower(volume, y[volume.slab], np.ones((1, 3, 1)) / 3, 0.1, max_iter=3)
        images.append(found.x)
        threads.append(found.threads)
        volume.free()
    return {"same": bool(np.array_equal(*images)), "threads": threads}


def _errors(comm, folder):
    """name -> the kind and the message of the error that this rank got."""
    from bioperf import distributed
    from bioperf.distributed import files

    rank, size = comm.Get_rank(), comm.Get_size()
    volume = distributed.Volume(comm, (8, 6, 7))
    y = np.random.default_rng(0).random(volume.slab_shape, np.float32)
    psf = np.ones((3, 1, 3)) / 9
    last = rank == size - 1
    holed = np.where(np.arange(y.size).reshape(y.shape) == (13 if last else -1), np.float32(np.nan), y)
    other = Path(folder) / "other.npy"
    if rank == 0:
        np.save(other, np.zeros((8, 6, 8), np.float32))
        (Path(folder) / "text.npy").write_text("no array")
    comm.Barrier()

    def lower(y=y, psf=psf, weight=0.1, **options):
        return distributed.solve_lower(volume, y, psf, weight, **options)

    def bio(target="identity", **options):
        return distributed.solve_bio(volume, y, psf, target=target, tv_weight=0.1, **options)

    def callback(progress):
        assert progress.x.shape == volume.slab_shape
        raise KeyError("mine")

    def spoil(progress):
        progress.x[...] = np.nan

    def written_by_some():
        write, files._write_part = files._write_part, lambda *_: f"rank {rank} has no space" if last else None
        try:
            distributed.write_slabs(volume, Path(folder) / "never.npy", y)
        finally:
            files._write_part = write

    calls = {
        "few planes": lambda: distributed.Volume(comm, (size - 1, 6, 7)),
        "few columns": lambda: distributed.Volume(comm, (8, size - 1, 7)),
        "shapes differ": lambda: distributed.Volume(comm, (8 + last, 6, 7)),
        "dtypes differ": lambda: distributed.Volume(comm, (8, 6, 7), "float64" if last else "float32"),
        "comm": lambda: distributed.Volume("world", (8, 6, 7)),
        "slab": lambda: lower(y[:-1] if last else y),
        "NaN": lambda: lower(holed),
        "dtype": lambda: lower(y.astype(float) if last else y),
        "integers": lambda: lower(y.astype(int)),
        "weights differ": lambda: lower(weight=0.2 if last else 0.1),
        "weight": lambda: lower(weight=-1 if last else 0.1),
        "flag": lambda: lower(isotropic="no"),
        "ratio": lambda: lower(weight=1e30),
        "target's scale": lambda: bio(y * np.float32(1e30 if last else 1)),
        "scale": lambda: lower(y * np.float32(1e-30)),
        "psf": lambda: lower(psf=-psf),
        "psfs differ": lambda: lower(psf=psf * (2 if last else 1)),
        "x0 of some": lambda: lower(x0=y if last else None),
        "target": lambda: bio("nlm"),
        "no target": lambda: bio(None),
        "target's slab": lambda: bio(y[:-1] if last else y),
        "callback": lambda: lower(tol=1e-12, callback=callback if last else None),
        "no file": lambda: distributed.read_slab(volume, Path(folder) / "none.npy"),
        "no array": lambda: distributed.read_slab(volume, Path(folder) / "text.npy"),
        "other file": lambda: distributed.read_slab(volume, other),
        "no folder": lambda: distributed.write_slabs(volume, Path(folder) / "none" / "out.npy", y),
        "no space": written_by_some,
        "diverged": lambda: lower(tol=1e-12, callback=spoil if last else None),
    }
    record = {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:
            record[name] = [type(error).__name__, str(error)]
        else:
            record[name] = None
    stopped = lower(tol=1e-12, callback=(lambda progress: progress.iteration >= 10) if last else None)
    return record | {"stopped": stopped.status}


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.exit()

# --- what pytest runs ----------------------------------------------------------------------------------

import pytest  # noqa: E402

# that of mpi4py's own MPI first: a launcher of another one starts processes that do not see each other
LAUNCHER = which("mpiexec", path=str(Path(sys.executable).parent)) or which("mpiexec")
MISSING = [name for name in ("mpi4py", "mpi4py_fft") if importlib.util.find_spec(name) is None]
MISSING += [] if LAUNCHER else ["mpiexec"]
needs_mpi = pytest.mark.skipif(bool(MISSING), reason=f"missing: {MISSING}; pip install mpich 'bioperf[mpi]'")


def launch(ranks, *arguments):
    """The finished process of ``mpiexec -n ranks python ...``."""
    root = str(Path(bioperf.__file__).parents[1])
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PMI_", "SLURM_"))}
    # idle ranks must not hold the cores that busy ones need
    environment = inherited | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": root}
    command = [LAUNCHER, "-n", str(ranks), sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)


def results(mode, ranks, folder):
    done = launch(ranks, __file__, mode, folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / f"{mode}-{ranks}.json").read_text())


@pytest.fixture(scope="module")
def oracle():
    return {name: serial(name) for name in CASES}


@pytest.fixture(scope="module", params=RANKS)
def solved(request, tmp_path_factory):
    """All cases on so many ranks: the records of the ranks, and the volumes that they wrote."""
    folder = tmp_path_factory.mktemp("slabs")
    every = results("solve", request.param, folder)
    volumes = {name: np.load(folder / f"{name}-{request.param}.npy") for name in CASES}
    return SimpleNamespace(every=every, volumes=volumes, ranks=request.param)


@needs_mpi
@pytest.mark.parametrize("name", CASES)
def test_slabs_give_what_one_process_gives(solved, oracle, name):
    expected, x, own = oracle[name], solved.volumes[name], solved.every[0][name]
    double = x.dtype == np.float64
    assert x.dtype == expected.x.dtype
    assert np.abs(x - expected.x).max() <= TOLERANCE[x.dtype.name]
    assert (own["iterations"], own["converged"]) == (expected.iterations, expected.converged)
    assert own["status"] == expected.status or not double
    rounding = {"rtol": 1e-9, "atol": 1e-11} if double else {"rtol": 2e-3, "atol": 1e-5}
    for number in NUMBERS:
        np.testing.assert_allclose(own[number], getattr(expected, number), **rounding)
    assert own["infeasibility"].keys() == expected.infeasibility.keys()
    for constraint, value in expected.infeasibility.items():
        np.testing.assert_allclose(own["infeasibility"][constraint], value, **rounding)
    assert own["history"].keys() | {"seconds"} == expected.history.keys()
    if double:
        for column, values in own["history"].items():
            np.testing.assert_allclose(values, expected.history[column], rtol=1e-7, atol=1e-9)


@needs_mpi
def test_all_ranks_have_the_same_numbers_and_together_all_planes(solved):
    assert len(solved.every) == solved.ranks
    for name, (shape, *_) in CASES.items():
        bounds = [rank[name].pop("slab") for rank in solved.every]
        assert [bounds[0][0], bounds[-1][1]] == [0, shape[0]]
        assert all(before[1] == after[0] for before, after in itertools.pairwise(bounds))
        assert max(b - a for a, b in bounds) - min(b - a for a, b in bounds) <= 1
        first = json.dumps(solved.every[0][name])
        assert all(json.dumps(rank[name]) == first for rank in solved.every)


@needs_mpi
def test_threads_change_no_bit(solved):
    if solved.ranks == 4:
        pytest.skip("four ranks of two threads are too many for a test")
    for rank in solved.every:
        assert rank["threads"] == {"same": True, "threads": [1, 2]}


WRONG = {
    "few planes": ("ValueError", "fewer than the {ranks} ranks"),
    "few columns": ("ValueError", "along the second axis for {ranks} ranks"),
    "shapes differ": ("ValueError", "shape: (8, 6, 7) on rank 0 and (9, 6, 7) on rank {last}"),
    "dtypes differ": ("ValueError", "dtype: 'float32' on rank 0 and 'float64' on rank {last}"),
    "comm": ("TypeError", "comm: expected an mpi4py communicator"),
    "slab": ("ValueError", "y: expected the slab of shape (2, 6, 7), planes 6 to 7 of (8, 6, 7), got (1, 6, 7)"),
    "NaN": ("ValueError", "y: 1 entries are NaN or infinite, the first at index (0, 1, 6) (on rank {last} of {ranks})"),
    "dtype": ("TypeError", "y: expected float32, the volume's dtype, got float64"),
    "integers": ("TypeError", "y: integer images are not converted"),
    "weights differ": ("ValueError", "tv_weight: 0.1 on rank 0 and 0.2 on rank {last}"),
    "weight": ("ValueError", "tv_weight: must be a finite number > 0, got -1 (on rank {last} of {ranks})"),
    "flag": ("TypeError", "isotropic: expected True or False"),
    "ratio": ("ValueError", "tv_weight: 1.0e+30 is "),
    "target's scale": ("ValueError", "target: "),
    "scale": ("ValueError", "y: "),
    "psf": ("ValueError", "psf: 9 entries are negative"),
    "psfs differ": ("ValueError", "psf: 'shape (3, 1, 3), checksum"),
    "x0 of some": ("ValueError", "x0: False on rank 0 and True on rank {last}"),
    "target": ("ValueError", "target: expected one of 'identity', got 'nlm'"),
    "no target": ("TypeError", "target: expected float32 or float64, got dtype object"),
    "target's slab": ("ValueError", "target: expected the slab of shape (2, 6, 7)"),
    "callback": ("RuntimeError", "KeyError: 'mine' (on rank {last} of {ranks})"),
    "no file": ("InputError", "none.npy: cannot be read (No such file or directory)"),
    "no array": ("InputError", "text.npy: is not an NPY file"),
    "other file": ("InputError", "other.npy: holds shape (8, 6, 8) of float32; the volume is (8, 6, 7)"),
    "no folder": ("OutputError", "does not exist; create it"),
    "no space": ("OutputError", "never.npy: rank {last} has no space"),
    "diverged": ("DivergenceError", "lower level: the iterate became NaN or infinite"),
}


@needs_mpi
def test_an_error_on_one_rank_is_raised_on_all(tmp_path):
    ranks = 4
    every = results("errors", ranks, tmp_path)
    assert len(every) == ranks
    assert every[0].keys() == {*WRONG, "stopped"}
    for name, (kind, words) in WRONG.items():
        for rank in every:
            assert rank[name] is not None, name
            assert rank[name] == every[0][name]
            assert rank[name][0] == kind, rank[name]
            assert words.format(ranks=ranks, last=ranks - 1) in rank[name][1]
    assert all(rank["stopped"].startswith("stopped by the callback at iteration 10 ") for rank in every)
    assert {path.name for path in tmp_path.iterdir()} == {"errors-4.json", "other.npy", "text.npy"}


@needs_mpi
def test_command_restores_a_file(tmp_path):
    A, y, options = problem("bio")
    files = {name: tmp_path / f"{name}.npy" for name in ("y", "psf", "target", "out")}
    for name, array in (("y", y), ("psf", A.psf), ("target", options["target"])):
        np.save(files[name], array)
    # an array in Fortran's order has its planes all over the file
    np.save(files["y"], np.asfortranarray(y))
    arguments = (
        "-m",
        "bioperf.distributed",
        files["y"],
        "--psf",
        files["psf"],
        "-o",
        files["out"],
        "--tv-weight",
        ".01",
    )
    upper = ("--target", files["target"], "--epsilon", 0.3, "--kappa", 0.1)
    done = launch(2, *arguments, *upper)
    assert done.returncode == 0, done.stderr
    assert "y.npy, restored" in done.stdout and done.stdout.count("wrote ") == 1
    assert np.abs(np.load(files["out"]) - serial("bio").x).max() <= TOLERANCE["float64"]

    before = files["out"].read_bytes()
    np.save(files["y"], np.where(y == y[17, 3, 4], np.nan, y))
    refused = launch(2, *arguments, *upper)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"bioperf: {files['y']}: 1 entries are NaN or infinite" in refused.stderr
    assert "on rank 1 of 2" in refused.stderr
    assert files["out"].read_bytes() == before


@needs_mpi
def test_bytes_sent_are_those_of_the_formula():
    """mathematics.md 11, by the benchmark that states it."""
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "weak_scaling.py"
    if not script.exists():
        pytest.skip("the benchmarks are not part of this copy")
    module = importlib.util.spec_from_file_location("weak_scaling", script)
    benchmark = importlib.util.module_from_spec(module)
    module.loader.exec_module(benchmark)
    done = launch(2, script, "--worker", "--planes", 4, "--side", 8, "--dtype", "float64", "--repeats", 1)
    assert done.returncode == 0, done.stderr
    for rank in json.loads(done.stdout):
        for level in benchmark.LEVELS:
            searches = rank[level]["searches"]
            expected = benchmark.bytes_sent(rank["shape"], 2, 8, level, searches)
            assert rank[level]["bytes"] == expected
            # N_0 = N_1 = N_2 = 8, H = 5; a rank keeps half of what it transforms
            assert expected["transposes"] == 2 * (4 * 8 * 5) * 16 // 2
            assert expected["halo"] == 2 * 8 * 8 * 8
            assert expected["sums"] == (8 if level == "lower" else 48 + 16 * searches)
            assert searches > 0 or level == "lower"


@needs_mpi
def test_processes_that_do_not_see_each_other_are_refused(tmp_path):
    np.save(tmp_path / "y.npy", np.zeros((4, 4, 4)))
    command = [sys.executable, "-m", "bioperf.distributed", "y.npy", "--psf", "y.npy", "-o", "out.npy"]
    environment = os.environ | {"SLURM_STEP_NUM_TASKS": "3", "PYTHONPATH": str(Path(bioperf.__file__).parents[1])}
    done = subprocess.run(
        [*command, "--tv-weight", "1"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 2
    assert "3 processes were started and MPI sees one" in done.stderr
    assert not (tmp_path / "out.npy").exists()


def test_missing_mpi_is_one_error_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py_fft", None)
    monkeypatch.delitem(sys.modules, "bioperf.distributed", raising=False)
    with pytest.raises(ImportError, match=r"pip install bioperf\[mpi\]"):
        importlib.import_module("bioperf.distributed")
