"""``bioperf train-denoiser``: exit statuses, one line an error, nothing written half, runs that are continued."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import bioperf
from bioperf.cli.app import run
from bioperf.cli.train import train
from bioperf.io import InputError
from bioperf.learning import training
from bioperf.learning.patches import read_training_images
from bioperf.learning.training import Settings, train_denoiser
from bioperf.learning.weights import read_tensors

ROOT = Path(bioperf.__file__).parents[1]
SMALL = ["--steps", "4", "--patch", "16", "--batch", "2", "--threads", "1"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a folder of images and some files that are none."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:24, :32]
    for i in range(3):
        image = 0.5 + 0.3 * np.sin(rows / rng.uniform(2, 6) + i) * np.cos(columns / rng.uniform(2, 6))
        iio.imwrite(tmp_path / "images" / f"{i}.png", np.rint(255 * image).astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*extra, data="images", output="w.safetensors"):
    return ["train-denoiser", *([data] if data else []), "-o", output, *SMALL, *extra]


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_in_a_process(folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    before = listing(folder)
    done = subprocess.run(
        [sys.executable, "-m", "bioperf", *command()], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for words in ("Denoiser trained", "images", "steps", "loss", "wrote w.safetensors", "wrote w.safetensors.csv"):
        assert words in done.stdout
    # no PSNR where no image is kept for validation
    assert "PSNR" not in done.stdout and "nan" not in done.stdout
    assert {path.name for path in set(listing(folder)) - set(before)} == {"w.safetensors", "w.safetensors.csv"}
    with open("w.safetensors.csv") as file:
        (row,) = csv.DictReader(file)
    assert list(row) == ["step", "seconds", "loss", "rate", "psnr"] and row["step"] == "4"


def test_the_file_is_what_the_library_writes(folder, capsys):
    options = ["--levels", "0.02", "0.08", "--learning-rate", "0.002", "--seed", "3", "--precision", "float32"]
    assert run(command("--validation", "images/1.png", *options)) == 0
    assert re.search(r"validation PSNR.* \d+\.\d\d dB", capsys.readouterr().out)
    tensors, record = read_tensors("w.safetensors", "denoiser")
    settings = Settings(
        steps=4, batch=2, patch=16, lowest=0.02, highest=0.08, learning_rate=0.002, seed=3, precision="float32"
    )
    train_denoiser(read_training_images(["images"], 16), "library", settings, threads=1, note=record["note"])
    assert Path("library").read_bytes() == Path("w.safetensors").read_bytes()
    assert record["note"].startswith("bioperf train-denoiser images -o w.safetensors --steps 4")
    assert len(tensors) == 29


def test_quiet_and_several_paths(folder, capsys):
    np.savez("more.npz", stack=np.zeros((2, 20, 20), np.uint8))
    assert run([*command("--quiet"), "more.npz", "images/0.png"]) == 0
    assert capsys.readouterr() == ("", "")


def test_progress_is_for_terminals(folder, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    assert run(command("--checkpoint-every", "2", "--validation", "images")) == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "training" in shown and re.search(r"4/4.*loss \d\.\d+, \d+\.\d\d dB", shown)


def bad_files(folder):
    good = (folder / "images" / "0.png").read_bytes()
    (folder / "truncated.png").write_bytes(good[: len(good) // 2])
    (folder / "empty").mkdir()
    (folder / "folder.safetensors").mkdir()
    np.savez(folder / "text.npz", a=np.full((20, 20), "word"))
    np.save(folder / "nan.npy", np.full((20, 20), np.nan, np.float32))
    np.save(folder / "bright.npy", np.linspace(0, 255, 400, dtype=np.float32).reshape(20, 20))
    (folder / "junk.safetensors").write_bytes(b"\x80\x04junk" * 99)


CASES = {
    "missing data": (command(data="none"), "none: no such file"),
    "missing archive": (command(data="none.npz"), "none.npz: no such file"),
    "no data": (command(data=None), "DATA"),
    "no output": (["train-denoiser", "images"], "--out"),
    "empty folder": (command(data="empty"), "empty: the folder holds no PNG, TIFF or NPY image"),
    "truncated PNG": (command(data="truncated.png"), "truncated.png: the PNG file is truncated"),
    "texts": (command(data="text.npz"), "text.npz: values of type <U4"),
    "NaN": (command(data="nan.npy"), "nan.npy: 400 values are NaN"),
    "0 to 255 as floats": (command(data="bright.npy"), "bright.npy: values from 0 to 255; scale"),
    "patch larger than the images": (command("--patch", "25"), "images: no image has 25 or more pixels"),
    "missing validation": (command("--validation", "none"), "none: no such file"),
    "missing weights": (command("--init", "none"), "none: no such file"),
    "junk as weights": (command("--init", "junk.safetensors"), "junk.safetensors: is not a safetensors file"),
    "missing folder": (command(output="none/w"), "none/w: the folder .* does not exist"),
    "output is a folder": (command(output="folder.safetensors"), "folder.safetensors: is a folder"),
    "output is an input": (command(data="images/0.png", output="images/0.png"), "images/0.png: is read as well"),
    "levels the other way": (command("--levels", "0.1", "0.05"), "--levels: must be at least lowest = 0.1"),
    "negative level": (command("--levels", "-0.1", "0.1"), "--levels: must be a finite number >= 0"),
    "levels of NaN": (command("--levels", "0", "nan"), "--levels: must be a finite number > 0"),
    "level above 1": (command("--levels", "0", "25"), "--levels: must be at most 1"),
    "one level": (command("--levels", "0.1"), "--levels"),
    "no steps": (command("--steps", "0"), "--steps"),
    "no patches": (command("--batch", "0"), "--batch"),
    "small patch": (command("--patch", "4"), "--patch"),
    "negative seed": (command("--seed", "-1"), "--seed"),
    "no learning rate": (command("--learning-rate", "0"), "--learning-rate: must be a finite number > 0"),
    "learning rate of NaN": (command("--learning-rate", "nan"), "--learning-rate: must be"),
    "no checkpoints": (command("--checkpoint-every", "0"), "--checkpoint-every"),
    "no threads": (command("--threads", "0"), "--threads"),
    "unknown precision": (command("--precision", "float16"), "--precision.*float16"),
    "unknown device": (command("--device", "tpu"), "--device.*tpu"),
    "no CUDA": (command("--device", "cuda"), "--device: no CUDA device is at hand; leave it out"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_status_2_with_one_line(folder, capsys, monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(training._Run, "advance", lambda run: pytest.fail("trained before the input was checked"))
    bad_files(folder)
    before = listing(folder)
    arguments, expected = CASES[name]
    code = run(arguments)
    streams = capsys.readouterr()
    assert code == 2, streams.err
    assert streams.out == "" and streams.err.count("\n") == 1 and streams.err.startswith("bioperf: ")
    assert re.search(expected, streams.err), streams.err
    assert listing(folder) == before


def test_without_torch(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    before = listing(folder)
    assert run(command()) == 2
    err = capsys.readouterr().err
    assert err == "bioperf: train-denoiser needs PyTorch and safetensors: pip install bioperf[torch]\n"
    assert listing(folder) == before


def test_interrupted_runs_are_continued(folder, capsys, monkeypatch):
    assert run(command("--checkpoint-every", "2", output="whole")) == 0
    advance = training._Run.advance

    def interrupted(state):
        if state.step == 3:
            raise KeyboardInterrupt
        return advance(state)

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "advance", interrupted)
        assert run(command("--checkpoint-every", "2", output="parts")) == 130
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "interrupted" in err
    assert {path.name for path in folder.glob("parts*")} == {"parts.checkpoint", "parts.csv"}
    # with other settings it is refused, and stays
    before = listing(folder)
    assert run(command("--checkpoint-every", "2", "--seed", "1", output="parts")) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "parts.checkpoint: is of a run with other seed; " in err and "--restart" in err
    assert listing(folder) == before
    assert run(command("--checkpoint-every", "2", output="parts")) == 0
    assert {path.name for path in folder.glob("parts*")} == {"parts", "parts.csv"}
    whole, parts = (read_tensors(name, "denoiser")[0] for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_restart_and_fine_tuning(folder, capsys):
    assert run(command("-q")) == 0
    Path("v.checkpoint").write_bytes(b"of something else")
    arguments = command("--init", "w.safetensors", "-q", output="v")
    assert run(arguments) == 2 and "v.checkpoint: is not a safetensors file" in capsys.readouterr().err
    assert run([*arguments, "--restart"]) == 0
    assert not Path("v.checkpoint").exists()
    assert re.fullmatch("[0-9a-f]{64}", read_tensors("v", "denoiser")[1]["initial"])


def test_a_loss_that_is_not_finite_is_status_1(folder, capsys):
    before = listing(folder)
    assert run(command("--learning-rate", "1e30", "--precision", "float32")) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "the loss is not finite; lower the learning rate" in err
    assert listing(folder) == before


def test_help_names_every_option(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["train-denoiser", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Usage: bioperf train-denoiser" in shown
    for words in (
        "--out",
        "--steps",
        "--levels",
        "--init",
        "--restart",
        "--validation",
        "--checkpoint-every",
        "[default",
    ):
        assert words in shown


def test_errors_of_the_library_are_those_of_options(folder):
    with pytest.raises(InputError, match=r"^--learning-rate: expected a number, got 'fast'$"):
        train(
            [Path("images")], Path("w"), validation=None, initial=None, checkpoint_every=1, device="cpu", threads=None,
            restart=False, quiet=True, arguments=[], learning_rate="fast",
        )  # fmt: skip
