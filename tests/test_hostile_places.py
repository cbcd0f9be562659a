"""Places that cannot be written to or read from: one clear line, status 2, nothing half-written, the old file kept."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bioperf
from bioperf.cli.app import run

ROOT = Path(bioperf.__file__).parents[1]
SIDE = 48
DEBLUR = [
    "deblur",
    "image.npy",
    "--psf",
    "psf.npy",
    "--max-iter",
    "3",
    "--target",
    "identity",
    "--boundary",
    "periodic",
]
MRI = ["mri", "k.npy", "--mask", "mask.npy", "--max-iter", "3", "--target", "identity"]
TUNE = [
    "tune",
    "k.npy",
    "--mask",
    "mask.npy",
    "--method",
    "random",
    "--trials",
    "2",
    "--wavelet",
    "none",
    "--tol",
    "0.1",
]
TRAIN = ["train-denoiser", "image.npy", "--steps", "1", "--batch", "1", "--patch", "8", "--precision", "float32"]
COMMANDS = {"deblur": (DEBLUR, ".npy"), "mri": (MRI, ".npy"), "tune": (TUNE, ".json"), "train": (TRAIN, ".safetensors")}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with an image, its psf, k-space and its mask."""
    image = np.random.default_rng(0).random((SIDE, SIDE)).astype(np.float32)
    mask = bioperf.masks.gaussian(image.shape, 0.5, seed=1)
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "psf.npy", np.ones((3, 3)) / 9)
    np.save(tmp_path / "k.npy", (np.fft.fft2(image, norm="ortho") * mask).astype(np.complex64))
    np.save(tmp_path / "mask.npy", mask)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(name, out):
    if name == "train":
        pytest.importorskip("torch", reason="training needs the extra torch")
    arguments, suffix = COMMANDS[name]
    return [*arguments, "-q", "-o", str(out) + suffix]


def listing(folder):
    found = {}
    for path in Path(folder).rglob("*"):
        found[path] = path.read_bytes() if path.is_file() and not path.is_symlink() else path.lstat().st_mode
    return found


def refused(arguments, capsys, folder, words):
    """Status 2 with one line that has these words, and the folder as it was."""
    before = listing(folder)
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("bioperf: ") and words in said, said
    assert listing(folder) == before


PLACES = {
    "inside a file": ("image.npy/out", "image.npy is not a folder"),
    "no folder": ("none/out", "does not exist"),
    "a folder": ("folder", "is a folder"),
    "link into nothing": ("link", "does not exist"),
    "link to itself": ("loop", "is a link to itself"),
    "a pipe": ("pipe", "not a regular file"),
    "a device": ("full", "not a regular file"),
    "a name too long": ("n" * 300, "is no path to write to"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", COMMANDS)
def test_outputs_that_cannot_be(folder, capsys, monkeypatch, name, place):
    out, words = PLACES[place]
    suffix = COMMANDS[name][1]
    (folder / f"folder{suffix}").mkdir()
    (folder / f"link{suffix}").symlink_to(f"nowhere/out{suffix}")
    (folder / f"loop{suffix}").symlink_to(f"loop{suffix}")
    (folder / f"full{suffix}").symlink_to("/dev/full")
    os.mkfifo(folder / f"pipe{suffix}")
    for solver in ("deblur", "reconstruct_mri", "solve_lower"):
        monkeypatch.setattr(bioperf, solver, lambda *a, **k: pytest.fail("solved before the output was checked"))
    refused(command(name, out), capsys, folder, words)


@pytest.mark.parametrize("name", ["deblur", "mri", "tune"])
@pytest.mark.parametrize("place", ["pipe", "loop", "device", "folder", "missing folder", "long", "unreadable"])
def test_inputs_that_cannot_be_read(folder, capsys, name, place):
    source = folder / "input.npy"
    if place == "pipe":
        os.mkfifo(source)
    elif place == "loop":
        source.symlink_to("input.npy")
    elif place == "device":
        source.symlink_to("/dev/zero")
    elif place == "folder":
        source.mkdir()
    elif place == "missing folder":
        source = folder / "image.npy" / "input.npy"
    elif place == "long":
        source = Path("n" * 300 + ".npy")
    else:
        if os.geteuid() == 0:
            pytest.skip("permissions do not bind the superuser")
        np.save(source, np.ones((4, 4)))
        source.chmod(0)
    arguments = command(name, "out")
    arguments[1] = str(source)
    before = {path for path in folder.iterdir()}
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"bioperf: {source}"), said
    assert {path for path in folder.iterdir()} == before


@pytest.fixture
def mounted(folder):
    """A function that mounts a small file system at folder/disk."""
    disk = folder / "disk"
    disk.mkdir()
    made = []

    def mount(*options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", disk], capture_output=True)
        if done.returncode:
            pytest.skip("no file system can be mounted here")
        made.append(disk)
        return disk

    try:
        yield mount
    finally:
        for place in made:
            subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs the superuser")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_keeps_the_old_file(folder, mounted, capsys, name):
    disk, arguments = mounted("size=64k"), command(name, "disk/out")
    out = Path(arguments[-1])
    out.write_text("old")
    with pytest.raises(OSError), open(disk / "rest", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    refused(arguments, capsys, disk, "No space left")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs the superuser")
@pytest.mark.parametrize("name", [*COMMANDS, "demo"])
def test_a_read_only_disk(folder, mounted, capsys, name):
    mounted("ro")
    arguments = ["demo", "-q", "--out", "disk"] if name == "demo" else command(name, "disk/out")
    refused(arguments, capsys, folder, "Read-only file system")


@pytest.mark.parametrize("out", ["image.npy", "image.npy/demo", "link", "pipe", "n" * 300])
def test_demo_refuses_its_folder(folder, capsys, out):
    (folder / "link").symlink_to("link")
    os.mkfifo(folder / "pipe")
    refused(["demo", "-q", "--out", out], capsys, folder, out)


def call(*arguments, limit=None):
    """In a process of its own, with strict UTF-8 streams and a limit on the size of files."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8:strict"}
    script = "import resource, signal, sys\n"
    if limit is not None:
        script += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        script += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    script += "from bioperf.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, timeout=120)


def test_the_limit_on_the_size_of_files(folder):
    (folder / "out.npy").write_bytes(b"old")
    before = listing(folder)
    done = call(*DEBLUR, "-o", "out.npy", limit=4096)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1, done.stderr
    assert done.stderr.startswith(b"bioperf: out.npy: cannot be written (")
    assert listing(folder) == before


def test_a_header_of_python_2_is_read_without_remarks(folder):
    data = (folder / "image.npy").read_bytes()
    (folder / "image.npy").write_bytes(data.replace(b"(48, 48), ", b"(48L, 48L)"))
    done = call(*DEBLUR, "-q", "-o", "out.npy")
    assert done.returncode == 0 and done.stderr == b"", done.stderr


@pytest.mark.parametrize("name", ["a b.npy", "line\nbreak.npy", "[bold]x.npy", "-é.npy", b"\xff.npy"])
def test_odd_names_are_names(folder, name):
    """Read from, written to, and printed."""
    source = os.path.join(os.fsencode(folder), b"in-" + os.fsencode(name))
    os.rename(folder / "image.npy", source)
    out = os.path.join(os.fsencode(folder), os.fsencode(name))
    done = call("deblur", source, *DEBLUR[2:], "-o", out)
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    assert np.isfinite(np.load(os.fsdecode(out))).all()
    os.truncate(source, 50)
    done = call("deblur", source, *DEBLUR[2:], "-o", out)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1, done.stderr
