"""Solves that are interrupted and go on: the same bits as without, and files that are refused and left as they are."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import bioperf
import bioperf.checkpoint
from bioperf import (
    Blur,
    MaskedFourier,
    MultiCoilFourier,
    Solution,
    load_state,
    save_state,
    solve_bio,
    solve_lower,
)
from bioperf.fft import set_library
from bioperf.io import InputError, OutputError

UNDECIMATED = {"wavelet": "undecimated", "wavelet_weight": 1e-3}
SPARSE = {"transform": "undecimated", "sparsity_weight": 1e-3}


def blocks(shape, seed=0):
    rng = np.random.default_rng(seed)
    return np.kron(rng.random([(n + 3) // 4 for n in shape]), np.ones([4] * len(shape)))[tuple(map(slice, shape))], rng


def blurred(dtype, shape=(20, 22)):
    x, rng = blocks(shape)
    A = Blur(np.ones([3] * len(shape)) / 3 ** len(shape), shape)
    return A, (A(x) + 0.01 * rng.standard_normal(shape)).astype(dtype)


def kspace(dtype, real=False, coils=0):
    x, rng = blocks((16, 15))
    mask = rng.random((16, 15)) < 0.5
    mask[0, 0] = True
    A = MaskedFourier(mask, real=real)
    if coils:
        A = MultiCoilFourier(mask, rng.standard_normal((coils, 16, 15)) + 1j * rng.standard_normal((coils, 16, 15)))
    return A, A(x + 0.03 * rng.standard_normal((16, 15))).astype(np.result_type(dtype, np.complex64))


def volume(dtype):
    return blurred(dtype, (8, 9, 10))


def odd(dtype):
    """Of a size that has no compiled iterations."""
    return blurred(dtype, (17, 19))


def real_kspace(dtype):
    return kspace(dtype, real=True)


def coil_kspace(dtype):
    return kspace(dtype, coils=3)


LOWER = {
    "blur": (blurred, {}),
    "isotropic volume": (volume, {"isotropic": True}),
    "not compiled": (odd, {}),
    "wavelets": (blurred, UNDECIMATED),
    "change": (blurred, {"change_tol": 1e-5, "penalty": 0.1}),
    "k-space": (kspace, {"x0": np.zeros((16, 15))}),
    "real k-space": (real_kspace, {}),
    "coils": (coil_kspace, {"tv_weight": 0.05}),
    "coils, wavelets": (coil_kspace, {"tv_weight": 0.05, **UNDECIMATED}),
    "apg": (blurred, {"method": "apg", "tol": 3e-3}),
    "apg, wavelets": (kspace, {"method": "apg", "change_tol": 3e-3, **UNDECIMATED}),
    "limit": (blurred, {"tol": 1e-12, "max_iter": 43}),
    "apg, limit": (blurred, {"method": "apg", "max_iter": 12}),
    "weight so large": (blurred, {"tv_weight": 50.0}),
}
BIO = {
    "ball": (blurred, {"epsilon": 0.05}),
    "isotropic volume": (volume, {"isotropic": True, "kappa": 0.1, "tol": 1e-6, "max_iter": 60, "target": "deconv"}),
    "not compiled": (odd, {"epsilon": 0.05, "target": "identity"}),
    "sparse": (blurred, {"epsilon": 0.05, "target": "deconv", **SPARSE}),
    "k-space": (kspace, {"epsilon": 0.05, "target": "identity", **UNDECIMATED}),
    "real k-space": (real_kspace, {"epsilon": 0.05, "target": "identity", "ybar": "observation", "max_iter": 60}),
    "coils": (coil_kspace, {"epsilon": 0.5, "kappa": 0.05, "target": "identity", "tv_weight": 0.05, "max_iter": 60}),
    "coils, sparse": (coil_kspace, {"epsilon": 0.5, "target": "identity", "tv_weight": 0.05, "max_iter": 60, **SPARSE}),
    "slack": (blurred, {"epsilon": 0.05, "splitting": "slack", "tol": 1e-4, "max_iter": 90}),
    "slack, sparse": (blurred, {"epsilon": 0.05, "splitting": "slack", "max_iter": 90, **SPARSE}),
    "apg": (blurred, {"epsilon": 0.05, "ybar": "apg-1e-2"}),
    "limit": (blurred, {"epsilon": 0.05, "tol": 1e-9, "max_iter": 43}),
}
CASES = [(solve_lower, name) for name in LOWER] + [(solve_bio, name) for name in BIO]


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(params=CASES, ids=[f"{solver.__name__}: {name}" for solver, name in CASES])
def solve(request, dtype):
    """solve(**options) of one problem."""
    solver, name = request.param
    make, chosen = (LOWER if solver is solve_lower else BIO)[name]
    A, y = make(dtype)
    chosen = {"tv_weight": 2e-3, **({} if solver is solve_lower else {"target": "nlm"}), **chosen}
    return lambda **options: solver(A, y, **chosen, **options)


def assert_same(found, expected, place="solution"):
    """Bit for bit and type for type, but for the seconds."""
    assert type(found) is type(expected) or {type(found), type(expected)} <= {float, np.float64}, place
    if isinstance(expected, Solution):
        found, expected = vars(found), vars(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for name in expected.keys() - {"seconds"}:
            assert_same(found[name], expected[name], f"{place}.{name}")
    elif isinstance(expected, tuple | list):
        assert len(found) == len(expected), place
        for pair in zip(found, expected, strict=True):
            assert_same(*pair, place)
    else:
        np.testing.assert_array_equal(found, expected, place, strict=isinstance(expected, np.ndarray))


def stop(progress):
    return True


def ended(solution):
    return not solution.status.startswith("stopped")


def until_ended(run, limit=100):
    for _ in range(limit):
        solution = run()
        if ended(solution):
            return solution
    raise AssertionError(f"not ended after {limit} runs")


def test_stopped_at_every_check_it_ends_bit_for_bit_as_without(solve, tmp_path):
    plain, path = solve(), tmp_path / "run.npz"
    assert_same(until_ended(lambda: solve(checkpoint=path, callback=stop)), plain)
    content = path.read_bytes()
    assert_same(solve(checkpoint=str(path)), plain)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


class Killed(BaseException):
    pass


def test_killed_after_any_write_it_ends_bit_for_bit_as_without(solve, tmp_path, monkeypatch):
    plain, path, save = solve(), tmp_path / "run.npz", bioperf.checkpoint.save_state
    stages = []

    def save_and_die(path, state):
        save(path, state)
        stages.append(state["stage"])
        raise Killed

    monkeypatch.setattr(bioperf.checkpoint, "save_state", save_and_die)
    for _ in range(60):
        try:
            found = solve(checkpoint=path, checkpoint_every=15)
            break
        except Killed:
            pass
    assert_same(found, plain)
    assert stages[-1] == "solved"
    if "lower" in plain.details:
        assert stages.index("target") < stages.index("upper") or stages[0] == "upper"


def test_killed_between_writes_it_goes_on_from_the_last(dtype, tmp_path):
    A, y = blurred(dtype)
    path = tmp_path / "run.npz"
    seen = []

    def die(progress):
        seen.append(progress.iteration)
        if progress.iteration == 35:
            raise Killed

    with pytest.raises(Killed):
        solve_lower(A, y, 2e-3, checkpoint=path, checkpoint_every=12, callback=die)
    state = load_state(path)
    assert state["stage"] == "lower" and state["lower"]["iteration"] == 30 and seen[-1] == 35
    assert state["lower"]["x"].dtype == dtype
    found = solve_lower(A, y, 2e-3, checkpoint=path, callback=lambda progress: seen.append(progress.iteration))
    assert seen[7] == 35
    assert_same(found, solve_lower(A, y, 2e-3))
    assert np.all(np.diff(found.history["seconds"]) >= 0)


def python(code, *arguments):
    environment = os.environ | {"PYTHONPATH": str(Path(bioperf.__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


# The problem is the same in every process.
PROBLEM = """
import os, sys
import numpy as np
from bioperf import Blur, solve_bio, solve_lower
A = Blur(np.ones((3, 3)) / 9, (20, 22))
y = A(np.kron(np.random.default_rng(3).random((5, 6)), np.ones((4, 4)))[:, :22])
options = {"tv_weight": 2e-3, "target": "nlm", "epsilon": 0.05, "tol": 1e-5}
"""


def test_another_process_goes_on_from_a_killed_one(tmp_path):
    path = tmp_path / "run.npz"
    kill = "lambda progress: progress.iteration == 30 and os._exit(9)"
    code = f"{PROBLEM}\nsolve_bio(A, y, **options, checkpoint=sys.argv[1], checkpoint_every=10, callback={kill})"
    done = python(code, path)
    assert done.returncode == 9, done.stderr
    assert load_state(path)["upper"]["iteration"] == 20
    names = {}
    exec(PROBLEM, names)
    run = names["solve_bio"](names["A"], names["y"], **names["options"], checkpoint=path)
    assert_same(run, names["solve_bio"](names["A"], names["y"], **names["options"]))


@pytest.mark.parametrize("stages", [4, 10, 25])
def test_learned_iterations_go_on_after_their_stages(tmp_path, stages):
    class Proposer:
        def __init__(self):
            self.stages = stages

        def penalties(self, k):
            return 1.5, 60.0

        def relaxation(self, k):
            return 1.4

        def propose(self, state):
            return state.q + 0.3 * (state.q - state.previous_q), None

    A, y = blurred(np.float64)
    options = {"tv_weight": 2e-3, "target": "nlm", "epsilon": 0.05, "tol": 1e-6, "learned": Proposer()}
    plain, path = solve_bio(A, y, **options), tmp_path / "run.npz"
    assert plain.details["learned"]["kept"] > 0 and plain.iterations > 30
    seen = []

    def stop_once(progress):
        seen.append(progress.iteration)
        return seen.count(progress.iteration) == 1

    assert_same(until_ended(lambda: solve_bio(A, y, **options, checkpoint=path, callback=stop_once)), plain)
    # stopped within its stages it begins anew
    assert seen.count(10) == (1 if stages <= 10 else 3) and seen.count(30) == 1


def test_the_target_is_made_and_xbar_solved_for_once(tmp_path):
    A, y = blurred(np.float64)
    path, calls = tmp_path / "run.npz", []

    def target(image):
        calls.append(image)
        return image + 0.01 * len(calls)

    options = {"tv_weight": 2e-3, "target": target, "epsilon": 0.05}
    first = solve_bio(A, y, **options, checkpoint=path, callback=stop)
    found = solve_bio(A, y, **options, checkpoint=path)
    assert len(calls) == 1
    np.testing.assert_array_equal(found.details["target"], y + 0.01)
    assert_same(found.details["lower"], first.details["lower"])
    assert found.details["lower"].seconds == first.details["lower"].seconds
    given = {"tv_weight": 2e-3, "target": y, "lower": found.details["lower"], "epsilon": 0.05}
    other = until_ended(lambda: solve_bio(A, y, **given, checkpoint=tmp_path / "given.npz", callback=stop))
    assert_same(other, solve_bio(A, y, **given))
    assert "target" not in load_state(tmp_path / "given.npz") and "lower" not in load_state(tmp_path / "given.npz")


def test_it_goes_on_with_other_threads_to_the_same_bits(dtype, tmp_path):
    shape = (384, 352)
    x, rng = blocks(shape)
    A = Blur(np.ones((3, 3)) / 9, shape)
    y = (A(x) + 0.01 * rng.standard_normal(shape)).astype(dtype)
    upper = {"tv_weight": 2e-3, "target": y, "epsilon": 2.0, "lower": 0.9 * y}
    for solver, options in ((solve_lower, {"tv_weight": 2e-3}), (solve_bio, upper)):
        options |= {"max_iter": 20, "tol": 1e-9}
        path = tmp_path / f"{solver.__name__}.npz"
        one = solver(A, y, **options, checkpoint=path, callback=stop, threads=1)
        two = solver(A, y, **options, checkpoint=path, threads=2)
        assert one.iterations <= 10 and (one.threads, two.threads) == (1, 2)
        two.threads = 1
        assert_same(two, solver(A, y, **options, threads=1))


OTHER = {
    "y": lambda A, y: (solve_lower, A, y + 1e-12, {}),
    "dtype": lambda A, y: (solve_lower, A, y.astype(np.float32), {}),
    "A": lambda A, y: (solve_lower, Blur(np.ones((5, 5)) / 25, A.shape), y, {}),
    r"tv_weight \(0.002 there, 0.003 here\)": lambda A, y: (solve_lower, A, y, {"tv_weight": 3e-3}),
    "wavelet": lambda A, y: (solve_lower, A, y, UNDECIMATED),
    r"isotropic \(False there, True here\)": lambda A, y: (solve_lower, A, y, {"isotropic": True}),
    "method": lambda A, y: (solve_lower, A, y, {"method": "apg"}),
    "tol": lambda A, y: (solve_lower, A, y, {"tol": 1e-5}),
    "max_iter": lambda A, y: (solve_lower, A, y, {"max_iter": 10}),
    "x0": lambda A, y: (solve_lower, A, y, {"x0": y}),
    "penalty": lambda A, y: (solve_lower, A, y, {"penalty": 0.1}),
    r"solver \('solve_lower' there, 'solve_bio' here\)": lambda A, y: (solve_bio, A, y, {"target": "nlm"}),
}


@pytest.mark.parametrize("what", OTHER)
def test_the_state_of_another_problem_is_refused(what, tmp_path):
    A, y = blurred(np.float64)
    path = tmp_path / "run.npz"
    solve_lower(A, y, 2e-3, checkpoint=path, callback=stop)
    content = path.read_bytes()
    solver, A, y, options = OTHER[what](A, y)
    with pytest.raises(InputError, match=rf"run\.npz: is the state of another problem, by .*{what}.*; pass"):
        solver(A, y, **({"tv_weight": 2e-3} | options), checkpoint=path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "what, options",
    [
        ("target", {"target": "identity"}),
        ("target", {"target": np.zeros((20, 22))}),
        ("epsilon", {"epsilon": 0.1}),
        ("sparsity_weight", SPARSE),
        ("splitting", {"splitting": "slack"}),
        ("ybar", {"ybar": "observation"}),
        ("lower", {"lower": np.zeros((20, 22))}),
        ("penalties", {"penalties": (1.0, 2.0)}),
        ("learned", {"learned": "deblur"}),
    ],
)
def test_the_state_of_another_upper_level_is_refused(what, options, tmp_path):
    A, y = blurred(np.float64)
    given = {"tv_weight": 2e-3, "target": "nlm", "epsilon": 0.05, "max_iter": 10}
    solve_bio(A, y, **given, checkpoint=tmp_path / "run.npz")
    with pytest.raises(InputError, match=f"another problem, by .*{what}"):
        solve_bio(A, y, **(given | options), checkpoint=tmp_path / "run.npz")


def test_the_state_of_another_release_or_library_is_refused(tmp_path, monkeypatch):
    A, y = blurred(np.float64)
    path = tmp_path / "run.npz"
    solve_lower(A, y, 2e-3, checkpoint=path)
    begun_with = load_state(path)["fingerprint"]["fft"]
    set_library("scipy")
    try:
        if begun_with != "scipy":
            with pytest.raises(InputError, match=rf"fft \('{begun_with}' there, 'scipy' here\)"):
                solve_lower(A, y, 2e-3, checkpoint=path)
    finally:
        set_library("auto")
    monkeypatch.setattr(bioperf.checkpoint, "__version__", "7.0")
    with pytest.raises(InputError, match=rf"bioperf \('{bioperf.__version__}' there, '7.0' here\)"):
        solve_lower(A, y, 2e-3, checkpoint=path)
    monkeypatch.setattr(bioperf.checkpoint, "_VERSION", 2)
    with pytest.raises(InputError, match="is a state of format 1, and this bioperf reads 2; read it with the release"):
        solve_lower(A, y, 2e-3, checkpoint=path)


def begun(tmp_path):
    """A problem and the path of its state, begun."""
    A, y = blurred(np.float64, (8, 8))
    path = tmp_path / "run.npz"
    solve_lower(A, y, 2e-3, checkpoint=path, callback=stop)
    return A, y, path


class Trap:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


def hostile(path):
    """Damaged files by what is wrong with them."""
    good = path.read_bytes()
    members = {info.filename: zipfile.ZipFile(path).read(info.filename) for info in zipfile.ZipFile(path).infolist()}

    def archive(compression=zipfile.ZIP_STORED, **replaced):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as file:
            for name, content in (members | {f"{name}.npy": content for name, content in replaced.items()}).items():
                if content is not None:
                    file.writestr(name, content)
        return buffer.getvalue()

    def npy(array, **options):
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, **options)
        return buffer.getvalue()

    def header(shape, dtype="<f8"):
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
        return buffer.getvalue()

    def documented(content):
        """With that document, and a hash of it."""
        digest = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
        return archive(document=npy(np.frombuffer(content, np.uint8)), sha256=npy(digest))

    yield "empty", b""
    yield "text", b"iteration 5"
    yield from ((f"cut at {share}", good[: int(len(good) * share)]) for share in (0.1, 0.5, 0.9, 0.999))
    yield "pickled", archive(**{"lower.q": npy(np.array([Trap()], object), allow_pickle=True)})
    yield "pickled document", archive(document=npy(np.array([Trap()], object), allow_pickle=True))
    yield "other array", archive(**{"lower.q": npy(np.zeros((2, 8, 8)))})
    yield "missing array", archive(**{"lower.q": None})
    yield "missing document", archive(document=None)
    yield "bomb", archive(**{"lower.q": header((1 << 44,))})
    yield "bomb of bytes", archive(document=header((1 << 40,), "|u1"))
    yield "compressed bomb", archive(zipfile.ZIP_DEFLATED, **{"lower.q": header((1 << 22,)) + bytes(1 << 25)})
    yield "negative", archive(**{"lower.q": header((-1, 8, 8))})
    yield "no JSON", documented(b"{")
    yield "deep JSON", documented(b"[" * 100_000)
    yield "no document", documented(b"5")
    yield "another format", documented(b'{"format": "bioperf weights", "version": 1}')
    yield "no state", documented(b'{"format": "bioperf state", "version": 1, "state": [], "arrays": {}}')


def test_hostile_files_are_refused_and_left_as_they_are(tmp_path, monkeypatch):
    A, y, path = begun(tmp_path)
    monkeypatch.chdir(tmp_path)
    for what, content in hostile(path):
        path.write_bytes(content)
        for read in (lambda: load_state(path), lambda: solve_lower(A, y, 2e-3, checkpoint=path)):
            with pytest.raises(InputError, match=r"run\.npz: is damaged or no state of bioperf .*; choose") as caught:
                read()
            assert len(str(caught.value)) < len(str(path)) + 250, what
        assert path.read_bytes() == content, what
    assert os.listdir(tmp_path) == ["run.npz"]


def test_flipped_bits_are_found(tmp_path):
    _, _, path = begun(tmp_path)
    good, state = path.read_bytes(), load_state(path)
    rng, refused = np.random.default_rng(0), 0
    for place in rng.choice(len(good), 150, replace=False):
        content = bytearray(good)
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            # what the archive says of dates and padding is not the state
            assert_same(load_state(path), state)
        except InputError:
            refused += 1
    assert refused > 100


def damaged(state):
    """States that are whole files, and cannot be this solver's."""
    fields = state["lower"]
    yield {}
    yield state | {"fingerprint": 5}
    for name in ("x", "q", "theta", "penalty", "balance", "history", "iteration"):
        yield (
            state
            | {"lower": {key: value for key, value in fields.items() if key != name} | {"iteration": 5}}
            | ({"lower": {**fields, "iteration": -5}} if name == "iteration" else {})
        )
    yield state | {"lower": fields | {"x": fields["x"][:4]}}
    yield state | {"lower": fields | {"q": fields["q"].astype(np.float32)}}
    yield state | {"lower": fields | {"theta": "a"}}
    yield state | {"lower": fields | {"theta": np.zeros(3)}}
    yield state | {"lower": fields | {"penalty": float("nan")}}
    yield state | {"lower": fields | {"history": {}}}
    yield state | {"lower": fields | {"history": fields["history"] | {"iteration": np.array([1 << 40])}}}
    yield state | {"lower": {"solution": {}}}
    yield state | {"lower": {"solution": {"x": np.zeros((9, 9)), "details": {}}}}


def test_states_that_do_not_fit_are_refused(tmp_path):
    A, y, path = begun(tmp_path)
    for state in damaged(load_state(path)):
        save_state(path, state)
        with pytest.raises(InputError, match=r"run\.npz: is not (a|the) state of .*; choose another path, or delete"):
            solve_lower(A, y, 2e-3, checkpoint=path)


def test_paths_that_cannot_be_written_are_refused_before_the_solve(tmp_path):
    A, y = blurred(np.float64, (8, 8))

    def never(progress):
        raise AssertionError("it was solved")

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing" / "run.npz", tmp_path, tmp_path / "pipe"):
        with pytest.raises(OutputError, match=str(path)):
            solve_lower(A, y, 2e-3, checkpoint=path, callback=never)
        with pytest.raises(OutputError, match=str(path)):
            solve_bio(A, y, tv_weight=2e-3, target="nlm", checkpoint=path, callback=never)
    for path in (tmp_path / "missing.npz", tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match="there is no such file; check"):
            load_state(path)


# As a user to whom root's files do not belong; modules are to be found before.
UNPRIVILEGED = f"""{PROBLEM}
import encodings.cp437, bioperf.checkpoint, bioperf.lower
try:
    solve_lower(A, y, 2e-3)
    os.getuid() or os.setuid(65534)
    solve_lower(A, y, 2e-3, checkpoint=sys.argv[1])
except OSError as error:
    print(type(error).__name__, error)
"""


def test_a_folder_without_permission():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.npz"
        names = {}
        exec(PROBLEM, names)
        solve_lower(names["A"], names["y"], 2e-3, checkpoint=path, callback=stop)
        content = path.read_bytes()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        new, old = python(UNPRIVILEGED, Path(folder) / "new.npz"), python(UNPRIVILEGED, path)
        Path(folder).chmod(0o755)
        assert new.stdout.startswith(f"OutputError {folder}/new.npz: no file can be created in {folder}"), new.stderr
        assert old.stdout.startswith(f"OutputError {path}: is write-protected"), old.stderr
        assert path.read_bytes() == content and os.listdir(folder) == ["run.npz"]


def test_a_full_disk_leaves_the_state_before(tmp_path):
    path = tmp_path / "run.npz"
    code = f"""{PROBLEM}
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def limit(progress):
    if progress.iteration == 15:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

solve_lower(A, y, 2e-3, checkpoint=sys.argv[1], checkpoint_every=10, callback=limit)
"""
    done = python(code, path)
    assert done.returncode == 1
    assert "OutputError" in done.stderr and "cannot be written (File too large); free space" in done.stderr
    assert load_state(path)["lower"]["iteration"] == 10
    assert list(tmp_path.iterdir()) == [path]


def test_arguments_that_have_no_checkpoint(tmp_path):
    A, y = blurred(np.float64)
    path = tmp_path / "run.npz"
    for batch in ({"tv_weight": 2e-3, "y": np.stack([y, y])}, {"tv_weight": [1e-3, 2e-3], "y": y}):
        for solver, more in ((solve_lower, {}), (solve_bio, {"target": "nlm"})):
            with pytest.raises(ValueError, match=r"checkpoint: is for one item, not a batch of shape \(2,\); solve"):
                solver(A, **batch, **more, checkpoint=path)
    with pytest.raises(TypeError, match="checkpoint: expected the path of a file, got 5"):
        solve_lower(A, y, 2e-3, checkpoint=5)
    for every, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="checkpoint_every"):
            solve_lower(A, y, 2e-3, checkpoint=path, checkpoint_every=every)

    class Own(MaskedFourier):
        pass

    class Foreign:
        shape = data_shape = A.shape
        check_data, image_dtype, transfer, coefficients, data_image = (
            A.check_data, A.image_dtype, A.transfer, A.coefficients, A.data_image
        )  # fmt: skip

    solve_lower(Own(np.ones((20, 22), bool)), y.astype(complex), 2e-3, checkpoint=tmp_path / "own.npz")
    with pytest.raises(ValueError, match="checkpoint: is for Blur, MaskedFourier and MultiCoilFourier, not Foreign"):
        solve_lower(Foreign(), y, 2e-3, checkpoint=path)
    assert not path.exists()


def test_refused_on_a_gpu(tmp_path):
    pytest.importorskip("torch", reason="solves on a GPU need torch")
    A, y = blurred(np.float32, (8, 8))
    with pytest.raises(ValueError, match="checkpoint: not available on a GPU"):
        solve_lower(A, y, 2e-3, device="cuda", checkpoint=tmp_path / "run.npz")
    with pytest.raises(ValueError, match="checkpoint: not available on a GPU"):
        solve_bio(A, y, tv_weight=2e-3, target="identity", device="cuda", checkpoint=tmp_path / "run.npz")


def test_state_round_trip_and_its_format(tmp_path):
    rng = np.random.default_rng(0)
    state = {
        "iteration": 7,
        "text": "grün",
        "flags": [True, None, 1.5, "a"],
        "numbers": {"nan": float("nan"), "infinite": -np.inf, "zero": -0.0, "third": np.float32(1 / 3)},
        "level": {
            "x": rng.standard_normal((3, 4)).astype(np.float32),
            "deep": {"z": rng.standard_normal(5) * (1 + 2j), "empty": np.zeros((0, 3))},
            "single": np.array(2.5),
            "mask": np.array([True, False]),
        },
        "fortran": np.asfortranarray(rng.integers(0, 9, (4, 3))),
        "swapped": rng.standard_normal(3).astype(">f8"),
        "file": np.array([np.nan, -0.0]),
        "none": {},
    }
    path = tmp_path / "state.npz"
    save_state(path, state)
    found = load_state(path)
    assert found.keys() == state.keys() and found["numbers"]["third"] == float(np.float32(1 / 3))
    assert np.copysign(1, found["numbers"]["zero"]) == -1 and np.copysign(1, found["file"][1]) == -1
    expected = state | {"swapped": state["swapped"].astype(float), "numbers": found["numbers"]}
    assert_same(found, expected)

    with np.load(path, allow_pickle=False) as archive:
        document = json.loads(archive["document"].tobytes())
        assert archive["sha256"].tobytes() == hashlib.sha256(archive["document"].tobytes()).digest()
        assert (document["format"], document["version"]) == ("bioperf state", 1)
        x = archive["level.x"]
        expected = hashlib.sha256(b"<f4(3, 4)" + x.tobytes()).hexdigest()
        assert document["arrays"]["level.x"] == expected
        assert set(archive.files) == {*document["arrays"], "document", "sha256"}

    first = path.read_bytes()
    save_state(path, found)
    assert path.read_bytes() != first  # not the order of "fortran", which is C's now: compare once more
    second = path.read_bytes()
    save_state(path, load_state(path))
    assert path.read_bytes() == second


@pytest.mark.parametrize(
    "state, error, words",
    [
        ([], TypeError, "state: expected a dict, got list"),
        ({1: 2}, TypeError, "state: expected names as keys, got 1"),
        ({"a": {"b.c": 1}}, ValueError, r"state\['a'\]: the key 'b.c'"),
        ({"../a": np.zeros(1)}, ValueError, "the key '../a'"),
        ({"document": np.zeros(1)}, ValueError, "the key 'document'"),
        ({"a": {"b": object()}}, TypeError, r"state\['a'\]\['b'\]: expected an array, a number"),
        ({"a": [np.zeros(2)]}, TypeError, r"state\['a'\]: expected an array"),
        ({"a": np.array([None])}, TypeError, "dtype object"),
        ({"a": "b" * (1 << 24)}, ValueError, "too many; put them into arrays"),
    ],
)
def test_what_is_no_state(state, error, words, tmp_path):
    with pytest.raises(error, match=words):
        save_state(tmp_path / "state.npz", state)
    assert not any(tmp_path.iterdir())
