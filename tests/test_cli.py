"""The command line: exit statuses, one line an error, nothing written half, and the demonstration."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

import bioperf
from bioperf.cli import main
from bioperf.cli.app import run
from bioperf.cli.demo import motion_kernel
from bioperf.cli.report import certificate_rows, progress
from bioperf.io import png

# Where the package under test lies: the site-packages of an installed one, not the checkout around the tests.
ROOT = Path(bioperf.__file__).parents[1]
SIDE = 48


def scene(seed=0):
    """A small blurred photograph's likeness: boxes and discs under a 5x5 kernel with 1 % noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    image = 0.3 + 0.4 * (columns > 20) - 0.2 * ((rows - 24) ** 2 + (columns - 18) ** 2 < 90) + 0.1 * (rows > 36)
    blurred = bioperf.Blur(motion_kernel(5, 1), image.shape)(image)
    return (blurred + rng.normal(scale=0.01, size=image.shape)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the blurred image in several formats and its psf."""
    image = scene()
    eight = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    sixteen = np.rint(np.clip(image, 0, 1) * 65535).astype(np.uint16)
    iio.imwrite(tmp_path / "grey8.png", eight)
    (tmp_path / "colour16.png").write_bytes(png.encode(np.stack([sixteen] * 3, -1)))
    tifffile.imwrite(tmp_path / "stack16.tif", np.stack([sixteen, sixteen[::-1]]), photometric="minisblack")
    np.save(tmp_path / "stack.npy", np.stack([image, image.T]))
    np.save(tmp_path / "psf.npy", motion_kernel(5, 1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments, cwd=None):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "bioperf", *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_help_and_version_import_nothing_heavy():
    script = """
import json, sys
from bioperf.cli.app import run
codes = [run(arguments) for arguments in (["--help"], ["demo", "-h"], ["deblur", "--help"], ["--version"], [])]
print(json.dumps([codes, [m for m in ("matplotlib", "skimage", "numba", "scipy") if m in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    *shown, last = done.stdout.splitlines()
    codes, heavy = json.loads(last)
    assert codes[:4] == [0, 0, 0, 0] and codes[4] in (0, 2) and heavy == [], done.stderr
    assert sum("Usage: bioperf" in line for line in shown) >= 3
    assert f"bioperf {bioperf.__version__}" in shown and "Traceback" not in done.stderr


def test_info_in_a_process():
    done = call("info")
    assert done.returncode == 0, done.stderr
    for word in (bioperf.__version__, np.__version__, "cython", "numba", "reference", "cuda", "FFT", "threads"):
        assert word in done.stdout


def test_deblur_in_a_process(folder):
    done = call("deblur", "grey8.png", "--psf", "psf.npy", "-o", "out.png", "--strict", cwd=folder)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "converged" in done.stdout and "lower bound" in done.stdout and "wrote out.png" in done.stdout
    out = iio.imread(folder / "out.png")
    assert out.shape == (SIDE, SIDE) and out.dtype == np.uint8
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("source", "output", "shape", "dtype"),
    [
        ("colour16.png", "out.png", (SIDE, SIDE, 3), np.uint16),
        ("colour16.png", "out.tif", (SIDE, SIDE, 3), np.uint16),
        ("stack16.tif", "out.tif", (2, SIDE, SIDE), np.uint16),
        ("stack.npy", "out.npy", (2, SIDE, SIDE), np.float32),
        ("grey8.png", "out.npy", (SIDE, SIDE), np.float32),
    ],
)
def test_depth_colour_and_stacks_are_kept(folder, source, output, shape, dtype, capsys):
    assert run(["deblur", source, "--psf", "psf.npy", "-o", output, "--boundary", "periodic"]) == 0
    assert capsys.readouterr().err == ""
    out = {".png": lambda p: np.rint(bioperf_read(p) * 65535).astype(np.uint16), ".tif": tifffile.imread}.get(
        Path(output).suffix, np.load
    )(folder / output)
    assert out.shape == shape and out.dtype == dtype


def bioperf_read(path):
    from bioperf.io import read_image

    image, info = read_image(path)
    assert info.dtype == np.uint16
    return image


def test_the_file_is_what_the_library_returns(folder):
    options = ["--boundary", "periodic", "--anisotropic", "--target", "identity", "--noise-std", "0.01", "--quiet"]
    options += ["--tv-weight", "0.002", "--epsilon", "0.1", "--kappa", "0.01", "--threads", "1", "--tol", "1e-4"]
    assert run(["deblur", "stack.npy", "--psf", "psf.npy", "-o", "out.npy", *options]) == 0
    expected = bioperf.deblur(
        np.load("stack.npy"), np.load("psf.npy"), boundary="periodic", isotropic=False, target="identity",
        noise_std=0.01, tv_weight=0.002, epsilon=0.1, kappa=0.01, threads=1, tol=1e-4,
    )  # fmt: skip
    np.testing.assert_array_equal(np.load("out.npy"), expected.x)
    assert len(certificate_rows(expected)) > 8


def test_colours_of_an_npy_array(folder):
    np.save("colour.npy", np.stack([scene(), scene(1), scene(2)], -1))
    arguments = ["deblur", "colour.npy", "--psf", "psf.npy", "-o", "out.png", "-q", "--channel-axis", "-1"]
    assert run([*arguments, "--figure", "fig.png"]) == 0
    assert iio.imread("out.png").shape == (SIDE, SIDE, 3)
    figure = iio.imread("fig.png")
    assert figure.shape[1] == 1500 and figure.shape[2] == 3 and figure.std() > 20


def test_output_may_replace_its_input(folder):
    before = np.load("stack.npy")
    assert run(["deblur", "stack.npy", "--psf", "psf.npy", "-o", "stack.npy", "-q"]) == 0
    assert np.abs(np.load("stack.npy") - before).max() > 1e-3


def test_not_converged_is_status_3_only_with_strict(folder, capsys):
    arguments = ["deblur", "grey8.png", "--psf", "psf.npy", "-o", "out.png", "--max-iter", "3", "--tol", "1e-9"]
    assert run(arguments) == 0
    Path("out.png").unlink()
    capsys.readouterr()
    assert run([*arguments, "--strict", "--quiet"]) == 3
    streams = capsys.readouterr()
    assert streams.out == "" and streams.err.count("\n") == 1 and "not converged" in streams.err
    assert Path("out.png").exists()


def bad_files(folder):
    good = (folder / "grey8.png").read_bytes()
    (folder / "truncated.png").write_bytes(good[: len(good) // 2])
    np.save(folder / "nan.npy", np.full((SIDE, SIDE), np.nan, np.float32))
    np.save(folder / "pickled.npy", np.array([{}], object), allow_pickle=True)
    np.save(folder / "wide-psf.npy", np.ones((3, SIDE + 1)))
    np.save(folder / "negative-psf.npy", np.array([[0.5, -0.1], [0.3, 0.3]]))
    np.save(folder / "zero-psf.npy", np.zeros((3, 3)))
    (folder / "colour-psf.png").write_bytes((folder / "colour16.png").read_bytes())
    np.save(folder / "tiny.npy", np.ones((1, 1), np.float32))
    (folder / "folder.png").mkdir()


PROCESS_CASES = {
    "truncated PNG": (["truncated.png"], "truncated.png: the PNG file is truncated"),
    "missing file": (["none.png"], "none.png: no such file"),
    "NaN": (["nan.npy"], "nan.npy: 2304 values are NaN"),
    "pickled npy": (["pickled.npy"], "pickled.npy: holds pickled Python objects"),
    "psf larger than the image": (["grey8.png", "--psf", "wide-psf.npy"], "wide-psf.npy: .*exceeds"),
    "negative psf": (["grey8.png", "--psf", "negative-psf.npy"], "negative-psf.npy: 1 entries are negative"),
    "zero psf": (["grey8.png", "--psf", "zero-psf.npy"], "zero-psf.npy: .*sums to 0"),
    "unwritable output": (["grey8.png", "-o", "none/out.png"], "none/out.png: the folder .* does not exist"),
}
CASES = PROCESS_CASES | {
    "colour psf": (["grey8.png", "--psf", "colour-psf.png"], "colour-psf.png: .*in colour"),
    "missing psf": (["grey8.png", "--psf", "none.npy"], "none.npy: no such file"),
    "output is a folder": (["grey8.png", "-o", "folder.png"], "folder.png: is a folder"),
    "unknown output format": (["grey8.png", "-o", "out.jpg"], "out.jpg: unknown format"),
    "stack as PNG": (["stack.npy", "-o", "out.png"], "out.png: PNG holds one image"),
    "figure's format": (["grey8.png", "--figure", "fig.pdf"], "fig.pdf: the figure is drawn as PNG"),
    "figure's folder": (["grey8.png", "--figure", "none/fig.png"], "none/fig.png: the folder"),
    "pixel limit": (["grey8.png", "--max-pixels", "99"], "grey8.png: 2304 values exceed the limit of 99"),
    "one pixel": (["tiny.npy"], "exceeds the image's"),
    "zero noise": (["grey8.png", "--noise-std", "0"], "--noise-std: must be"),
    "negative weight": (["grey8.png", "--tv-weight", "-1"], "--tv-weight: must be"),
    "NaN weight": (["grey8.png", "--tv-weight", "nan"], "--tv-weight: must be"),
    "negative radius": (["grey8.png", "--epsilon", "-1"], "--epsilon: must be"),
    "negative slack": (["grey8.png", "--kappa", "-0.5"], "--kappa: must be"),
    "zero tolerance": (["grey8.png", "--tol", "0"], "--tol: must be"),
    "no iterations": (["grey8.png", "--max-iter", "0"], "--max-iter: must be"),
    "no threads": (["grey8.png", "--threads", "0"], "--threads"),
    "unknown target": (["grey8.png", "--target", "magic"], "--target.*magic"),
    "not a number": (["grey8.png", "--tol", "small"], "--tol.*number|--tol.*small"),
    "unknown option": (["grey8.png", "--speed", "3"], "--speed"),
    "no image": ([], "IMAGE"),
}


def command(extra):
    arguments = ["deblur", *extra]
    for option, value in (("--psf", "psf.npy"), ("-o", "out.npy")):
        if option not in extra:
            arguments += [option, value]
    return arguments


def check_refusal(code, out, err, expected, before, folder):
    assert code == 2, err
    assert out == "" and err.count("\n") == 1 and err.startswith("bioperf: ") and "Traceback" not in err
    assert re.search(expected, err), err
    assert listing(folder) == before


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_status_2_with_one_line(folder, capsys, name):
    bad_files(folder)
    before = listing(folder)
    extra, expected = CASES[name]
    code = run(command(extra))
    streams = capsys.readouterr()
    check_refusal(code, streams.out, streams.err, expected, before, folder)


def test_bad_input_in_processes(folder):
    bad_files(folder)
    before = listing(folder)
    for extra, expected in PROCESS_CASES.values():
        done = call(*command(extra), cwd=folder)
        check_refusal(done.returncode, done.stdout, done.stderr, expected, before, folder)


def test_outputs_are_checked_before_the_solve(folder, monkeypatch, capsys):
    monkeypatch.setattr(bioperf, "deblur", lambda *a, **k: pytest.fail("solved before the output was checked"))
    assert run(command(["grey8.png", "-o", "none/out.png"])) == 2


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (bioperf.DivergenceError("NaN by iteration 7"), 1, "DivergenceError: NaN by iteration 7; 'bioperf --debug"),
        (ValueError("array shapes\ndisagree"), 1, "ValueError: array shapes disagree; 'bioperf --debug"),
        (ValueError("kappa: too large"), 2, "--kappa: too large"),
    ],
)
def test_failures_in_the_solve_leave_nothing(folder, monkeypatch, capsys, error, status, words):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(bioperf, "deblur", fail)
    before = listing(folder)
    assert run(command(["grey8.png"])) == status
    err = capsys.readouterr().err.strip()
    assert "\n" not in err and words in err
    assert listing(folder) == before
    if status == 1:
        assert run(["--debug", *command(["grey8.png"])]) == status
        assert "Traceback" in capsys.readouterr().err


def test_interrupted_while_writing(folder, monkeypatch, capsys):
    def interrupted(file, *arguments, **options):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", interrupted)
    before = listing(folder)
    assert run(command(["grey8.png"])) == 130
    assert listing(folder) == before


def test_main_exits_with_the_status(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bioperf", "deblur", "none.png", "--psf", "none.npy", "-o", "out.png"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert run(["nonsense"]) == 2 and "nonsense" in capsys.readouterr().err


def test_progress_is_for_terminals(monkeypatch, capsys):
    with progress() as callback:
        assert callback is None
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress(quiet=True) as callback:
        assert callback is None
    with progress() as callback:
        solution = bioperf.deblur(scene(), motion_kernel(5, 1), callback=callback)
    assert solution.converged
    shown = capsys.readouterr().err
    assert "iteration" in shown and "gap" in shown and "level" in shown


def test_motion_kernels():
    for seed in range(5):
        kernel = motion_kernel(19, seed)
        assert kernel.shape == (19, 19) and kernel.min() >= 0 and abs(kernel.sum() - 1) < 1e-12
        np.testing.assert_array_equal(kernel, motion_kernel(19, seed))
        assert 10 < (kernel > 0).sum() < 200
    assert np.abs(motion_kernel(19, 0) - motion_kernel(19, 1)).max() > 0.01


def test_demo_writes_its_files_and_gains_quality(tmp_path, capsys):
    assert run(["demo", "--out", str(tmp_path / "new" / "demo")]) == 0
    streams = capsys.readouterr()
    names = ("before-after.png", "blurred.png", "psf.npy", "restored.png")
    assert tuple(sorted(os.listdir(tmp_path / "new" / "demo"))) == names
    for word in ("PSNR", "SSIM", "lower bound", "relative gap", "converged", "seconds", "backend", *names):
        assert word in streams.out.replace("\n", "")
    quality = dict(re.findall(r"(blurred|lower level|restored) +│ +(\d+\.\d+)", streams.out))
    quality = {name: float(psnr) for name, psnr in quality.items()}
    assert quality["restored"] >= quality["lower level"] > quality["blurred"] + 5
    picture = iio.imread(tmp_path / "new" / "demo" / "before-after.png")
    assert picture.shape[1] == 1500 and (tmp_path / "new" / "demo" / "before-after.png").stat().st_size < 700_000


def test_demo_refuses_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(["demo", "--out", str(tmp_path / "file" / "demo")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert os.listdir(tmp_path) == ["file"]
