"""Targets: the command line in this process, with options that say nothing good and files that are none; manifests,
journals and states of ``bioperf batch`` and of solvers."""

import contextlib
import functools
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from bioperf.io import InputError, read_image

from . import mutations
from .files import _XML, _complex, _hdf5_bytes, png_seeds, tiff_seeds
from .harness import check, refusal, target
from .mutations import damaged

SIDE = 16
WORDS = (
    "nan", "inf", "-inf", "-1", "0", "1", "2", "3", "0.5", "1e400", "-1e400", "1e-320", "1e300", "1e-30", "abc", "",
    " ",
    "--", "-", "9" * 400, "0x10", "1_0", "\u0661", "é", "\n", "a\nb", "none", "haar", "true", "1,5", "1:2", ":",
    "\udcff",
    "[bold]", "%s", "\x1b[31m", "none.npy", ".", "/", "x" * 300, "~", "*", "-0.0", "1e5", "cpu", "cuda", "2.0",
    "99999999999",
)  # fmt: skip
NAMES = (
    "out.png", "out.npy", "out.tif", "out.json", "out.nii", "out.nii.gz", "out.jpg", "out", "folder", "folder.png",
    "none/out.png",
    "image.png", "", ".", "..", "/dev/null", "/dev/full", "image.png/out.npy", "a b.npy", "line\nbreak.npy",
    "\udcff.npy",
    "n" * 300 + ".npy", "OUT.PNG", "out.PNG ", "link.npy", "loop.npy", "pipe.npy", "[red].npy", "é.png", "-o.npy",
    "out\0.npy",
)  # fmt: skip


@functools.cache
def _files():
    """Good inputs by name."""
    rng = np.random.default_rng(0)
    image = (rng.random((SIDE, SIDE)) * 255).astype(np.uint8)
    mask = rng.random((SIDE, SIDE)) < 0.6
    mask[:4, :4] = mask[-4:] = mask[:, -4:] = True
    kspace = np.fft.fft2(image / 255, norm="ortho").astype(np.complex64)
    stream = io.BytesIO()
    np.savez(stream, kspace=kspace, mask=mask)
    psf = np.outer([1, 2, 1], [1, 2, 1]) / 16

    def hdf5(file):
        file["kspace"], file["mask"], file["ismrmrd_header"] = (
            np.stack([np.stack([kspace] * 2)] * 2),
            np.ones(SIDE),
            _XML,
        )

    from bioperf.io import png

    return {
        "image.png": png.encode(image), "image.npy": mutations.npy_bytes(image.astype(np.float32) / 255),
        "stack.npy": mutations.npy_bytes(np.stack([image] * 3).astype(np.float32) / 255),
        "psf.npy": mutations.npy_bytes(psf),
        "k.npy": mutations.npy_bytes(kspace), "mask.npy": mutations.npy_bytes(mask), "k.npz": stream.getvalue(),
        "k.h5": _hdf5_bytes(hdf5)[0], "image.tif": tiff_seeds()[4],
        "coils.npy": mutations.npy_bytes(_complex((2, SIDE, SIDE))),
        "colour.png": png_seeds()[1],
    }  # fmt: skip


def _damage(case, name, data):
    if name.endswith(".npy") and case.chance(0.5):
        return mutations.npy_header(case.rng, data)
    if name.endswith(".png") and case.chance(0.5):
        return mutations.png_header(case.rng, data)
    return damaged(data, case.rng, head=300) if case.chance(0.9) else b""


def _arguments(case, good, options, paths):
    """A good command line with one to three faults; the names of the files that it may write."""
    files = dict(_files())
    arguments = list(good)
    for _ in range(int(case.rng.integers(0, 3))):
        what = case.rng.random()
        if len(arguments) < 2:
            break
        if what < 0.3:
            name = case.pick([a for a in arguments if a in files] or sorted(files))
            files[name] = _damage(case, name, files[name])
        elif what < 0.65:
            arguments += [case.pick(options), case.pick((*WORDS, *sorted(files)))]
        elif what < 0.75:
            arguments += [case.pick(options)]
        elif what < 0.85:
            place = arguments.index(case.pick([a for a in arguments if a in paths] or arguments[-1:]))
            arguments[place] = case.pick(NAMES)
        elif what < 0.93:
            place = int(case.rng.integers(1, len(arguments)))
            arguments[place] = case.pick((*WORDS, *sorted(files)))
        else:
            del arguments[int(case.rng.integers(1, len(arguments)))]
    for name, data in files.items():
        (case.folder / name).write_bytes(data)
    for name in ("folder", "folder.png"):
        (case.folder / name).mkdir()
    (case.folder / "link.npy").symlink_to("nowhere/out.npy")
    (case.folder / "loop.npy").symlink_to("loop.npy")
    os.mkfifo(case.folder / "pipe.npy")
    return arguments


def _listing(folder):
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            stat = path.lstat()
            found[str(path.relative_to(folder))] = (stat.st_mtime_ns, stat.st_size) if path.is_file() else None
    return found


@contextlib.contextmanager
def _inside(folder):
    """The folder as the working one, and both streams as a terminal's would be: strict, UTF-8."""
    home, streams = os.getcwd(), (sys.stdout, sys.stderr)
    os.chdir(folder)
    sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    sys.stderr = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    try:
        yield sys.stdout, sys.stderr
    finally:
        sys.stdout, sys.stderr = streams
        os.chdir(home)


def _here(case, arguments):
    """Status and words on stderr, in this process."""
    from bioperf.cli import main

    with _inside(case.folder) as (out, err):
        try:
            main(arguments)
            status = "returned"
        except SystemExit as end:
            status = end.code
        finally:
            out.flush()
            err.flush()
    return status, err.buffer.getvalue().decode()


def _in_process(case, arguments):
    """The same of a process of its own."""
    import bioperf

    environment = os.environ | {
        "PYTHONPATH": str(Path(bioperf.__file__).parents[1]),
        "PYTHONIOENCODING": "utf-8:strict",
    }
    command = [sys.executable, "-m", "bioperf", *(os.fsencode(a.replace("\0", "")) for a in arguments)]
    done = subprocess.run(command, cwd=case.folder, env=environment, capture_output=True, timeout=60)
    return done.returncode, done.stderr.decode("utf-8", "backslashreplace")


def _run(case, arguments, *, allowed=(0, 2), kept=(), process=False):
    """The command's status, after a check of what it said and left."""
    case.note("arguments", arguments)
    before = _listing(case.folder)
    status, said = (_in_process if process else _here)(case, arguments)
    lines = said.splitlines()
    case.note("status", status, "stderr", said)
    check(status in allowed, f"status {status}: {said[:300]!r}")
    check("Traceback" not in said, "a traceback")
    after = _listing(case.folder)
    check(not [name for name in after if Path(name).name.startswith(".bioperf")], "temporary files are left")
    if status == 2:
        check(len(lines) == 1 and lines[0].startswith("bioperf: "), f"{len(lines)} lines: {said[:300]!r}")
        check(len(lines[0]) < 1500, f"a line of {len(lines[0])} characters")
        changed = {name for name in before.keys() | after.keys() if before.get(name, 0) != after.get(name, 0)}
        changed = {name for name in changed if after.get(name, 0) is not None and not name.startswith(tuple(kept))}
        check(not changed, f"status 2 and {sorted(changed)} written")
    return status


_COMMON = (
    "--tv-weight",
    "--epsilon",
    "--kappa",
    "--tol",
    "--max-iter",
    "--threads",
    "--noise-std",
    "--figure",
    "--target",
)


def _bounded(arguments):
    """Nothing that asks for hours or for all the memory: these are not faults."""
    counts = ("--rounds", "--max-iter", "--trials", "--steps")
    large = ("99999999999", "1e5", "9" * 400)
    pairs = zip(["", *arguments], arguments, strict=False)
    return [a for before, a in pairs if a not in large[:2] and not (a in large and before in counts)]


@target("cli-deblur", 6)
def deblur(case):
    options = (
        *_COMMON,
        "--psf",
        "--boundary",
        "--channel-axis",
        "--max-pixels",
        "--weights",
        "--device",
        "--strict",
        "-o",
        "--isotropic",
        "--bogus",
        "--debug",
        "--help",
    )
    source = case.pick(("image.png", "image.png", "image.npy", "stack.npy", "image.tif", "colour.png"))
    good = [
        "deblur",
        source,
        "--psf",
        "psf.npy",
        "-o",
        "out.npy",
        "--max-iter",
        "8",
        "-q",
        "--target",
        "identity",
        "--boundary",
        "periodic",
    ]
    arguments = _bounded(_arguments(case, good, options[:-2], ("out.npy",)))
    status = _run(case, arguments, allowed=(0, 2, 3))
    if status == 0 and "-o" in arguments and (case.folder / "out.npy").is_file():
        check(np.isfinite(read_image(case.folder / "out.npy")[0]).all(), "not finite")
    return status in (0, 3)


@target("cli-mri", 5)
def mri(case):
    options = (
        *_COMMON,
        "--mask",
        "--maps",
        "--coils",
        "--no-coils",
        "--key",
        "--mask-key",
        "--centred",
        "--real",
        "--rounds",
        "--wavelet-weight",
        "--sparsity-weight",
        "--max-values",
        "--magnitude",
        "--crop",
        "--slice",
        "--reference",
        "-o",
    )
    source, more = case.pick(
        (("k.npy", ["--mask", "mask.npy"]), ("k.npz", []), ("coils.npy", ["--mask", "mask.npy", "--maps", "none"]))
    )
    good = ["mri", source, "-o", "out.npy", "--max-iter", "5", "-q", "--target", "identity", *more]
    status = _run(case, _bounded(_arguments(case, good, options, ("out.npy",))), allowed=(0, 2))
    return status in (0, 3)


@target("cli-hdf5", 0.1)
def mri_hdf5(case):
    """HDF5 by its own reading process, which takes a fifth of a second."""
    good = ["mri", "k.h5", "-o", "out.npy", "--max-iter", "3", "-q", "--target", "identity", "--maps", "none"]
    return _run(case, _bounded(_arguments(case, good, ("--key", "--mask", "--mask-key", "--coils"), ("out.npy",)))) == 0


@target("cli-tune", 2)
def tune(case):
    options = (
        "--method",
        "--criterion",
        "--mask",
        "--reference",
        "--images",
        "--test",
        "--noise-std",
        "--trials",
        "--seed",
        "--wavelet",
        "--level",
        "--isotropic",
        "--tol",
        "--batched",
        "--jobs",
        "--storage",
        "--study-name",
        "--key",
        "--coils",
        "--centred",
        "--real",
        "--image",
        "--max-values",
        "--threads",
        "--strict",
        "-o",
        "--simulate",
    )
    source = case.pick(
        (
            ["image.npy", "--simulate", "--mask", "radial:0.5"],
            ["k.npy", "--mask", "mask.npy"],
            ["stack.npy", "--simulate", "--mask", "mask.npy"],
        )
    )
    good = [
        "tune",
        *source,
        "-o",
        "out.json",
        "--method",
        "random",
        "--trials",
        "2",
        "--tol",
        "1e-1",
        "-q",
        "--wavelet",
        "none",
    ]
    status = _run(
        case,
        _bounded(_arguments(case, good, options, ("out.json",))),
        allowed=(0, 2, 3),
        kept=("9", "1", "0", "none", "sqlite"),
    )
    if status == 0 and (case.folder / "out.json").is_file():
        json.loads((case.folder / "out.json").read_text(encoding="utf-8"))
    return status in (0, 3)


@target("cli-train", 1.5)
def train(case):
    options = (
        "--steps",
        "--batch",
        "--patch",
        "--levels",
        "--learning-rate",
        "--seed",
        "--precision",
        "--validation",
        "--init",
        "--checkpoint-every",
        "--device",
        "--restart",
        "--threads",
        "--out",
        "--bogus",
    )
    good = [
        "train-denoiser",
        "image.png",
        "-o",
        "w.safetensors",
        "--steps",
        "1",
        "--batch",
        "1",
        "--patch",
        "8",
        "-q",
        "--precision",
        "float32",
    ]
    if case.chance(0.8):
        # Most are refused before a step is taken
        good[1] = case.pick(("none.png", "psf.npy", "folder", "k.npz", "mask.npy"))
    arguments = _bounded(_arguments(case, good, options, ("w.safetensors",)))
    return _run(case, arguments, kept=("w.safetensors", "out")) == 0


@target("cli-process", 0.05)
def process(case):
    """A few in processes of their own, a second each."""
    good = ["deblur", "image.png", "--psf", "psf.npy", "-o", "out.npy", "--max-iter", "8", "--boundary", "periodic"]
    good = case.pick((good, ["mri", "k.npy", "--mask", "mask.npy", "-o", "out.npy", "--max-iter", "3"]))
    arguments = _arguments(case, [*good, "--target", "identity"], (*_COMMON, "-o", "--mask", "--bogus"), ("out.npy",))
    return _run(case, _bounded(arguments), process=True) == 0


@target("cli-words", 3)
def words(case):
    """Words in any order."""
    commands = (
        "deblur",
        "mri",
        "tune",
        "train-denoiser",
        "batch",
        "info",
        "demo",
        "",
        "--version",
        "--debug",
        "deblurr",
    )
    options = ("-o", "--out", "--psf", "--mask", "--seed", "--threads", "-q", "--job", "--resume", "--help", "--set")
    count = int(case.rng.integers(0, 7))
    arguments = [case.pick(commands)] + [case.pick(case.pick((WORDS, NAMES, options, commands))) for _ in range(count)]
    if arguments[0] == "demo":
        arguments += ["--threads", "0"]
    if "--debug" in arguments or "demo" in arguments[1:]:
        return False
    _arguments(case, ["deblur", "image.png"], ("-q",), ())
    return _run(case, _bounded(arguments), allowed=(0, 1, 2) if arguments[0] == "batch" else (0, 2), kept=NAMES) == 0


# Batches


def _manifest(case, intact=0.1):
    """The bytes of a manifest and its suffix, damaged."""
    rows = [
        {"input": "image.npy", "psf": "psf.npy", "output": "a.npy", "max_iter": "3", "target": "identity",
            "boundary": "periodic"},
        {"input": "image.png", "psf": "psf.npy", "max_iter": "3", "target": "identity", "boundary": "periodic"},
    ]  # fmt: skip
    keys = (
        *rows[0],
        "job",
        "figure",
        "noise_std",
        "mask",
        "bogus",
        "",
        " input",
        "threads",
        "tol",
        "é",
        "x" * 200,
        "OUTPUT",
        "isotropic",
    )
    values = (
        *WORDS,
        *NAMES,
        "mri",
        "tune",
        "deblur",
        "psf.npy",
        "../up.npy",
        "/abs.npy",
        "journal.jsonl",
        "a.npy",
        "a.npy.json",
        1,
        1.5,
        None,
        True,
        [],
        {},
        [1],
        {"a": 1},
        10**400,
        -1,
        1e300,
    )
    intact = case.chance(intact)
    for _ in range(0 if intact else int(case.rng.integers(1, 4))):
        row = case.pick(rows)
        what = case.rng.random()
        if what < 0.7:
            row[case.pick(keys)] = case.pick(values)
        elif what < 0.85 and row:
            del row[case.pick(list(row))]
        else:
            rows.append(dict(row))
    if case.chance(0.5):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if case.chance(0.2):
            text += case.pick(
                (
                    "[]",
                    "1",
                    "null",
                    "{",
                    '{"input": "a", "input": "b"}',
                    "[" * 5000,
                    '{"input": NaN}',
                    "\0",
                    "9" * 5000,
                    '"' + "x" * 3000,
                )
            )
        data, suffix = text.encode("utf-8", "surrogatepass"), case.pick((".jsonl", ".jsonl", ".ndjson"))
    else:
        names = list(dict.fromkeys(name for row in rows for name in row))
        quote = str.replace
        lines = [",".join(names)] + [
            ",".join(f'"{quote(str(row.get(n, "")), chr(34), chr(34) * 2)}"' for n in names) for row in rows
        ]
        if case.chance(0.1):
            lines[0] = case.pick(
                (
                    "",
                    "input," * 3,
                    "input," + ",".join(map(str, range(150000))),
                    '"input',
                    "input;psf",
                    "\ufeffinput,psf",
                )
            )
        data, suffix = "\r\n".join(lines).encode("utf-8", "surrogateescape"), ".csv"
    if not intact and case.chance(0.3):
        data = damaged(data, case.rng)
    return data, suffix if case.chance(0.95) else case.pick((".txt", "", ".json"))


@target("manifest", 8)
def manifests(case):
    from bioperf.batch.manifest import read_manifest

    data, suffix = _manifest(case)
    path = case.write(f"list{suffix}", data)
    common = {} if case.chance(0.7) else {case.pick(("psf", "tol", "bogus", "figure", "mask")): case.pick(WORDS)}
    job = case.pick(("deblur", "deblur", "mri", "tune", "bogus", ""))
    case.note(job, common, data[:300])
    try:
        items = read_manifest(path, job=job, common=common)
    except InputError as error:
        return refusal(error)
    names = [name for item in items for name in (item.name, *item.written.values())]
    check(len(set(names)) == len(names), "two rows write the same file")
    for name in names:
        place = os.path.normpath(os.path.join("/out", name))
        check(place.startswith("/out/") and "\0" not in name, f"{name!r} lies outside the output folder")
    for item in items:
        check(isinstance(item.key, str) and item.place.startswith(str(path)), "place")
    return True


def _record(name, status):
    digest = "0" * 64
    files = {"inputs": {"image.npy": [digest, 10, 1]}, "outputs": {name: [digest, 10]}}
    return {"item": name, "status": status, "key": "k", "error": None} | files


@target("journal", 4)
def journals(case):
    from bioperf.batch.journal import DONE, FAILED, Journal, read_journals

    place = case.folder / "journal.jsonl"
    journal = Journal(place)
    journal.append(*(_record(f"{k}.npy", DONE) for k in range(3)), _record("x", FAILED))
    journal.close()
    data = place.read_bytes()
    if case.chance(0.5):
        lines = data.splitlines()
        k = int(case.rng.integers(len(lines)))
        record = json.loads(lines[k])
        record[case.pick((*record, "other"))] = case.pick(
            (None, 1, -1.5, True, [], {}, [[]], "x", "", "\ud800", 10**400, "done", "failed", "\n" * 9, {"a": [1]})
        )
        if case.chance(0.2):
            del record[case.pick(list(record))]
        lines[k] = json.dumps(record).encode()
        data = b"\n".join(lines)
    if case.chance(0.6):
        data = damaged(data, case.rng)
    if case.chance(0.05):
        data += case.pick((b"[" * 100000, b"\xff\xfe" * 50, b"1" * 5000 + b"\n", b"{}\n" * 1000, b'{"item": NaN}\n'))
    place.write_bytes(data)
    case.note(data[:400])
    records, number = read_journals(case.folder)[:2]
    check(isinstance(records, dict) and all(isinstance(name, str) for name in records), "records")
    check(isinstance(number, int) and number >= 0, "damaged lines")
    again = Journal(place)
    again.append(_record("new.npy", DONE))
    again.close()
    check("new.npy" in read_journals(case.folder)[0], "a line written after damage is not read")
    return number == 0


@target("cli-batch", 3)
def batch(case):
    data, suffix = _manifest(case, 0.5)
    _arguments(case, ["deblur", "image.png"], ("-q",), ())
    name = f"list{suffix}"
    (case.folder / name).write_bytes(data)
    arguments = [
        "batch",
        name,
        "--out",
        case.pick(("results", "results", "folder", "image.png", "none/a", "link.npy", "loop.npy", "pipe.npy", "é", "")),
        "-q",
    ]
    for _ in range(int(case.rng.integers(0, 3))):
        arguments += [
            case.pick(
                (
                    "--job",
                    "--set",
                    "--array-index",
                    "--array-count",
                    "--memory",
                    "--threads",
                    "--max-failures",
                    "--grace",
                    "--workers",
                    "--dry-run",
                    "--resume",
                )
            ),
            case.pick(WORDS),
        ]
    arguments = _bounded(arguments)
    if case.chance(0.1):
        (case.folder / "results").mkdir()
        (case.folder / "results" / "journal.jsonl").write_bytes(
            damaged(b'{"item": "a.npy", "status": "done"}\n', case.rng)
        )
        arguments.append("--resume")
    case.note(data[:300])
    return _run_batch(case, arguments)


def _run_batch(case, arguments):
    from bioperf.cli import main

    case.note("arguments", arguments)
    with _inside(case.folder) as (_, err):
        try:
            main(arguments)
            status = "returned"
        except SystemExit as end:
            status = end.code
        finally:
            err.flush()
            said = err.buffer.getvalue().decode()
    case.note("status", status, "stderr", said)
    check(status in (0, 1, 2, 3), f"status {status}: {said[:300]!r}")
    check("Traceback" not in said and "shows where" not in said, f"an unexpected error: {said[:300]!r}")
    check(status != 2 or len(said.splitlines()) == 1, f"status 2 with {len(said.splitlines())} lines: {said[:300]!r}")
    check(not [p for p in case.folder.rglob(".bioperf*")], "temporary files are left")
    return status in (0, 3)


# States of solvers


@functools.cache
def _state():
    """The bytes of a real state, and the state."""
    import tempfile

    import bioperf
    from bioperf.checkpoint import load_state

    from .calls import data

    d = data()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s.npz")
        # Stopped on its way
        bioperf.solve_lower(
            d["A"],
            d["y"],
            0.01,
            tol=1e-12,
            max_iter=200,
            checkpoint=path,
            checkpoint_every=5,
            callback=lambda p: p.iteration >= 40,
        )
        return path.read_bytes(), load_state(path)


def _equal(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
    return a == b or (a != a and b != b)


@target("load-state", 5)
def load(case):
    from bioperf.checkpoint import load_state

    data, state = _state()
    if case.chance(0.3):
        import zipfile

        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        data = mutations.npz(case.rng, members)
    else:
        data = damaged(data, case.rng, times=3)
    path = case.write("s.npz", data)
    try:
        found = load_state(path)
    except InputError as error:
        return refusal(error, path)
    check(_equal(found, state), "another state than the one written")
    return True


@target("resume", 2)
def resume(case):
    """A state whose content is another, signed by the package itself: refused, or the solve ends as it should."""
    import bioperf
    from bioperf.checkpoint import save_state

    from .calls import ANYTHING, _damaged_array, check_solution, data

    d = data()
    state = _copied(_state()[1])
    place = case.pick((state, state.get("lower", state), state["fingerprint"]))
    level = place.get("solution", place) if isinstance(place, dict) else place
    place = level if isinstance(level, dict) else place
    key = case.pick(sorted(place))
    value = place[key]
    place[key] = (
        _damaged_array(case, value)
        if isinstance(value, np.ndarray) and value.ndim and case.chance(0.7)
        else case.pick(ANYTHING)
    )
    if case.chance(0.2):
        del place[key]
    case.note(key, repr(place.get(key))[:200])
    path = case.folder / "s.npz"
    try:
        save_state(path, state)
    except (TypeError, ValueError):
        return False
    try:
        solution = bioperf.solve_lower(
            d["A"], d["y"], 0.01, tol=1e-12, max_iter=200, checkpoint=path, checkpoint_every=5
        )
    except InputError as error:
        return refusal(error, path)
    except bioperf.DivergenceError:
        return False
    check_solution(solution)
    return True


def _copied(state):
    return {key: _copied(value) if isinstance(value, dict) else value for key, value in state.items()}
