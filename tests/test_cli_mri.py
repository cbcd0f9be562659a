"""``bioperf mri``: what it writes is what the library returns, every error is one line, nothing is written half."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import typer

import bioperf
from bioperf import masks
from bioperf.cli.app import app, run
from bioperf.cli.report import certificate_rows
from bioperf.io import read_image
from bioperf.jobs import figure
from bioperf.jobs.certificate import one_of

ROOT = Path(bioperf.__file__).parents[1]
SHAPE = (48, 40)
HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>48</x><y>40</y><z>1</z></matrixSize>
<fieldOfView_mm><x>96</x><y>60</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>24</x><y>40</y><z>1</z></matrixSize>
<fieldOfView_mm><x>48</x><y>60</y><z>5</z></fieldOfView_mm></reconSpace>
<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""


def phantom(seed=0):
    """Ellipses within the middle of the frame, values in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = np.zeros(SHAPE)
    for value, radius in ((0.5, 15), (0.3, 8), (-0.2, 5), (0.2, 3)):
        row, column = np.array(SHAPE) / 2 + rng.uniform(-2, 2, 2)
        image += value * (((rows - row) / 1.2) ** 2 + (columns - column) ** 2 < radius**2)
    return image.astype(np.float32)


def fourier(x):
    """Unshifted k-space of images with their origin first."""
    return np.fft.fft2(x, norm="ortho").astype(np.complex64)


def centred_fourier(x):
    moved = np.fft.fft2(np.fft.ifftshift(x, axes=(-2, -1)), norm="ortho")
    return np.fft.fftshift(moved, axes=(-2, -1)).astype(np.complex64)


def sensitivities():
    """Three smooth coils beside the object, root sum of squares 1."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    places = ((0, 20), (30, 0), (40, 40))
    maps = np.stack(
        [np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / 1800 + 0.5j * k) for k, (r, c) in enumerate(places)]
    )
    return (maps / np.sqrt((np.abs(maps) ** 2).sum(0))).astype(np.complex64)


def noise(shape, seed):
    rng = np.random.default_rng(seed)
    return (0.005 * (rng.normal(size=shape) + 1j * rng.normal(size=shape))).astype(np.complex64)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with k-space of one image, of a stack and of coils, and with masks."""
    monkeypatch.chdir(tmp_path)
    mask = masks.radial(SHAPE, 0.35)
    stack = np.stack([phantom(0), phantom(1), phantom(2)])
    np.save("mask.npy", mask)
    np.save("reference.npy", stack[0])
    np.save("k.npy", fourier(stack[0]) * mask)
    np.save("stack.npy", fourier(stack) * mask)
    centred = masks.radial(SHAPE, 0.35, centred=True)
    turned = stack[0] * np.exp(1j * np.linspace(0, 1, SHAPE[1]))
    np.savez("both.npz", kspace=(centred_fourier(turned) + noise(SHAPE, 3)) * centred, mask=centred)
    lines = masks.cartesian(SHAPE, 0.5, calibration=12, centred=True)
    coils = (centred_fourier(stack[0] * sensitivities()) + noise((3, *SHAPE), 4)) * lines
    np.savez("coils.npz", ksp=coils, mask=lines)
    np.save("maps.npy", sensitivities())
    return tmp_path


def fastmri(path="scan.h5"):
    """Two slices of three coils in fastMRI's layout with what the scanner shows as reference."""
    h5py = pytest.importorskip("h5py", reason="HDF5 needs the package h5py (extra mri)")
    stack = np.stack([phantom(0), phantom(1)])
    lines = masks.cartesian(SHAPE, 0.5, calibration=12, centred=True)
    kspace = centred_fourier(stack[:, None] * sensitivities()) + noise((2, 3, *SHAPE), 5)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace * lines
        file["mask"] = lines[0]
        file["ismrmrd_header"] = HEADER
        file["reconstruction_rss"] = stack[:, 12:36]
    return kspace * lines, lines, stack[:, 12:36]


def call(*arguments, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "bioperf", *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def printed(text, name):
    """The value in the table's row of that name."""
    return re.search(rf"│ {re.escape(name)} +│ (.*?) +│", text).group(1)


def test_in_a_process(folder):
    arguments = ["mri", "k.npy", "--mask", "mask.npy", "-o", "out.npy", "--reference", "reference.npy", "--strict"]
    done = call(*arguments, cwd=folder)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    out, reference = np.load("out.npy"), np.load("reference.npy")
    assert out.dtype == np.float32 and out.shape == SHAPE
    for word in ("converged in", "lower bound", "noise level", "tv weight", "wavelet weight", "epsilon", "kappa"):
        assert word in done.stdout
    assert "wrote out.npy" in done.stdout and "35.0% of 48 x 40" in done.stdout
    assert printed(done.stdout, "image values") == "real" and printed(done.stdout, "coils") == "1"
    assert re.fullmatch(r"[\d.]+ \(lower [\d.]+, target [\d.]+, upper [\d.]+\)", printed(done.stdout, "seconds"))
    peak = float(reference.max())
    magnitude = np.abs(out)
    assert printed(done.stdout, "PSNR") == f"{bioperf.psnr(magnitude, reference, peak):.2f} dB"
    assert printed(done.stdout, "SSIM") == f"{bioperf.ssim(magnitude, reference, peak):.4f}"
    assert printed(done.stdout, "RLNE") == f"{bioperf.rlne(magnitude, reference):.4f}"
    zero_filled = np.fft.ifft2(np.load("k.npy"), norm="ortho").real.astype(np.float32)
    assert bioperf.psnr(magnitude, reference, peak) > bioperf.psnr(zero_filled, reference, peak) + 3
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_the_file_is_what_the_library_returns(folder, capsys):
    options = ["--complex", "--noise-std", "0.01", "--target", "identity", "--rounds", "1", "--tv-weight", "0.002"]
    options += ["--wavelet-weight", "0.001", "--epsilon", "0.1", "--kappa", "0.2", "--sparsity-weight", "0.1"]
    options += ["--tol", "1e-2", "--max-iter", "60", "--threads", "1"]
    assert run(["mri", "k.npy", "--mask", "mask.npy", "-o", "out.npy", *options]) == 0
    expected = bioperf.reconstruct_mri(
        np.load("k.npy"), np.load("mask.npy"), real=False, noise_std=0.01, target="identity", rounds=1,
        tv_weight=0.002, wavelet_weight=0.001, epsilon=0.1, kappa=0.2, sparsity_weight=0.1, tol=1e-2, max_iter=60,
        threads=1,
    )  # fmt: skip
    out = np.load("out.npy")
    assert out.dtype == np.complex64
    np.testing.assert_array_equal(out, expected.x)
    shown = capsys.readouterr().out
    rows = dict(certificate_rows(expected))
    for name in ("objective", "lower bound", "epsilon", "data residual", "infeasibility, tv", "tv weight"):
        assert printed(shown, name) == rows[name]


def test_npz_with_its_mask_and_centred(folder, capsys):
    assert run(["mri", "both.npz", "-o", "out.npy", "--centred", "--quiet", "--tol", "1e-2"]) == 0
    assert capsys.readouterr() == ("", "")
    out = np.load("out.npy")
    assert out.dtype == np.complex64
    assert bioperf.rlne(np.abs(out), phantom(0)) < 0.1
    # The phase that both the data and the file have
    inside = phantom(0) > 0.4
    turn = np.broadcast_to(np.linspace(0, 1, SHAPE[1]), SHAPE)
    assert np.abs(np.angle(out) - turn)[inside].max() < 0.15
    part = np.load("both.npz")["mask"] & masks.radial(SHAPE, 0.2, centred=True)
    np.save("part.npy", part)
    arguments = ["mri", "both.npz", "-o", "out.npy", "--centred", "--mask", "part.npy", "--tol", "1e-2", "--magnitude"]
    assert run(arguments) == 0
    assert printed(capsys.readouterr().out, "samples") == f"{part.mean():.1%} of 48 x 40"
    assert np.load("out.npy").dtype == np.float32


def test_a_stack_is_a_batch(folder, capsys):
    np.save("stack-reference.npy", np.stack([phantom(0), phantom(1), phantom(2)]))
    arguments = ["mri", "stack.npy", "--no-coils", "--mask", "mask.npy", "--tol", "1e-2"]
    assert run([*arguments, "-o", "out.npy", "--reference", "stack-reference.npy"]) == 0
    shown = capsys.readouterr().out
    out = np.load("out.npy")
    assert out.shape == (3, *SHAPE) and "converged: 3 of 3" in shown and "images" in shown
    stack = np.load("stack-reference.npy")
    assert printed(shown, "PSNR") == f"{bioperf.psnr(np.abs(out), stack, float(stack.max())):.2f} dB"
    single = bioperf.reconstruct_mri(np.load("stack.npy")[1], np.load("mask.npy"), tol=1e-2)
    np.testing.assert_allclose(out[1], single.x, atol=2e-5)

    for option, index in ((["--slice", "2"], 2), (["--slice", "-3"], 0), ([], 1)):
        assert run([*arguments, "-o", "out.png", "--quiet", *option]) == 0
        drawn, info = read_image("out.png")
        white = np.percentile(np.abs(out[index]), 99.9)
        assert info.dtype == np.uint16
        np.testing.assert_allclose(drawn, np.clip(np.abs(out[index]) / white, 0, 1), atol=1e-3)


def test_one_of_a_batch(folder):
    kspace, mask = np.load("stack.npy")[:2], np.load("mask.npy")
    solution = bioperf.reconstruct_mri(kspace, mask, tol=1e-2)
    for index in (0, 1):
        alone = bioperf.reconstruct_mri(kspace[index], mask, tol=1e-2)
        item = one_of(solution, index)
        np.testing.assert_allclose(item.x, alone.x, atol=2e-5)
        assert item.converged == alone.converged and item.iterations == alone.iterations
        assert abs(item.gap - alone.gap) < 1e-4 and alone.status.startswith(item.status)
        assert item.history.keys() == alone.history.keys() and item.details.keys() <= alone.details.keys()
    assert one_of(alone, 0) is alone


def test_coils_with_maps_of_a_file(folder, capsys):
    arguments = ["mri", "coils.npz", "--centred", "-o", "out.npy", "--tol", "1e-2"]
    assert run([*arguments, "--maps", "maps.npy"]) == 0
    shown = capsys.readouterr().out
    assert printed(shown, "coils") == "3, their maps from maps.npy" and printed(shown, "image values") == "complex"
    out = np.load("out.npy")
    assert out.shape == SHAPE and bioperf.rlne(np.abs(out), phantom(0)) < 0.08
    archive = np.load("coils.npz")
    np.savez("all.npz", **archive, maps=sensitivities())
    for maps in ("maps.npy", "all.npz"):
        assert run([*arguments, "--maps", maps, "-q"]) == 0
        np.testing.assert_array_equal(np.load("out.npy"), out)

    assert run([*arguments, "--maps", "none"]) == 0
    assert printed(capsys.readouterr().out, "coils") == "3, every one by itself"
    apart = np.load("out.npy")
    assert run([*arguments, "--no-coils", "-q"]) == 0
    np.testing.assert_array_equal(np.load("out.npy"), apart)
    assert apart.shape == (3, *SHAPE)
    assert bioperf.rlne(np.sqrt((np.abs(apart) ** 2).sum(0)), phantom(0)) < 0.12


def test_one_coil_needs_no_maps(folder, capsys):
    np.save("one.npy", np.load("k.npy")[None])
    arguments = ["--mask", "mask.npy", "-o", "out.npy", "--tol", "1e-2", "-q"]
    assert run(["mri", "k.npy", *arguments]) == 0
    out = np.load("out.npy")
    assert run(["mri", "one.npy", *arguments]) == 0
    np.testing.assert_array_equal(np.load("out.npy"), out)


def test_fastmri_to_nifti(folder, capsys):
    nibabel = pytest.importorskip("nibabel", reason="NIfTI needs the package nibabel (extra mri)")
    kspace, lines, reference = fastmri()
    arguments = ["mri", "scan.h5", "-o", "out.nii.gz", "--magnitude", "--tol", "1e-2", "--figure", "figure.png"]
    assert run(arguments) == 0
    streams = capsys.readouterr()
    assert streams.err == "" and printed(streams.out, "coils") == "3, their maps estimated"
    volume = nibabel.load("out.nii.gz")
    assert volume.shape == (40, 48, 2) and volume.get_data_dtype() == np.float32
    np.testing.assert_allclose(volume.header.get_zooms(), (1.5, 2, 5))
    np.testing.assert_allclose(np.abs(np.diag(volume.affine)), (1.5, 2, 5, 1))
    expected = bioperf.reconstruct_mri(kspace, lines, maps="estimate", centred=True, tol=1e-2).x
    written = np.asarray(volume.dataobj).transpose()
    np.testing.assert_allclose(written, np.abs(expected), atol=2e-5)
    ours = written[:, 12:36]
    assert printed(streams.out, "PSNR") == f"{bioperf.psnr(ours, reference, float(reference.max())):.2f} dB"
    assert printed(streams.out, "RLNE") == f"{bioperf.rlne(ours, reference):.4f}"
    similarity = np.mean([bioperf.ssim(a, b, float(reference.max())) for a, b in zip(ours, reference, strict=True)])
    assert printed(streams.out, "SSIM") == f"{similarity:.4f}"
    assert bioperf.rlne(ours, reference) < 0.15
    assert iio.imread("figure.png").shape[1:] == (1500, 3)

    assert run(["mri", "scan.h5", "-o", "out.npy", "--crop", "--tol", "1e-2", "--maps", "maps.npy", "-q"]) == 0
    assert np.load("out.npy").shape == (2, 24, 40) and np.load("out.npy").dtype == np.complex64


def test_a_stored_reference_that_does_not_fit_is_not_used(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # the table on one line each
    fastmri()
    arguments = ["mri", "scan.h5", "-o", "out.npy", "--no-coils", "--tol", "1e-1", "--max-iter", "10"]
    assert run(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "not used; the file's own: shape (2, 24, 40) is no reference" in shown and "PSNR" not in shown


@pytest.mark.parametrize("reference", [["--reference", "reference.npy"], []], ids=["reference", "none"])
def test_figure(folder, monkeypatch, reference):
    drawn = []
    draw = figure.draw_reconstruction
    monkeypatch.setattr(figure, "draw_reconstruction", lambda *arguments: (drawn.append(arguments), draw(*arguments)))
    arguments = ["mri", "k.npy", "--mask", "mask.npy", "-o", "out.npy", "--figure", "figure.png", "--tol", "1e-2"]
    assert run([*arguments, *reference, "-q"]) == 0
    picture = iio.imread("figure.png")
    assert picture.shape[1:] == (1500, 3) and picture.std() > 40

    ((_, panels, mask, facts, history),) = drawn
    out = np.load("out.npy")
    white = np.percentile(np.abs(out), 99.9)
    zero_filled = np.fft.ifft2(np.load("k.npy"), norm="ortho").real
    other, change, scale = (zero_filled, out - zero_filled, 2)
    if reference:
        other, change, scale = (phantom(0), np.abs(out) - phantom(0), 5)
    for panel, expected in zip(panels, (other, out, scale * change), strict=True):
        np.testing.assert_allclose(panel.image, np.abs(expected) / white, atol=1e-5)
    assert panels[2].title.endswith(f"× {scale}") and ("dB" in panels[1].title) == bool(reference)
    np.testing.assert_array_equal(mask, np.fft.fftshift(np.load("mask.npy")))
    assert {"status", "relative gap", "noise level", "data residual"} <= {name for name, _ in facts}
    assert {"gap", "iteration"} <= history.keys()


def test_figure_of_one_slice(folder, monkeypatch):
    drawn = []
    monkeypatch.setattr(figure, "draw_reconstruction", lambda *arguments: drawn.append(arguments))
    arguments = ["mri", "stack.npy", "--no-coils", "--mask", "mask.npy", "-o", "out.npy", "--tol", "1e-2", "-q"]
    assert run([*arguments, "--figure", "figure.png", "--slice", "2"]) == 0
    out = np.abs(np.load("out.npy")[2])
    np.testing.assert_allclose(drawn[0][1][1].image, out / np.percentile(out, 99.9), atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 16), (16, 64), (1, 32)], ids=str)
def test_figures_of_odd_shapes(tmp_path, shape):
    image = np.random.default_rng(0).random(shape)
    history = {"iteration": np.array([10, 20]), "gap": np.array([0.1, 0.01])}
    panels = [figure.Panel(title, image) for title in "abc"]
    figure.draw_reconstruction(tmp_path / "f.png", panels, image > 0.5, [("status", "converged")], history)
    picture = iio.imread(tmp_path / "f.png")
    assert picture.shape[1] == 1500 and 400 <= picture.shape[0] <= 2400


def bad_files():
    Path("truncated.npy").write_bytes(Path("k.npy").read_bytes()[:2000])
    np.save("nan.npy", np.full(SHAPE, np.nan, np.complex64))
    np.save("zero.npy", np.zeros(SHAPE, np.complex64))
    np.save("line.npy", np.ones(40, np.complex64))
    np.save("wide-mask.npy", np.ones((48, 41), bool))
    np.save("grey-mask.npy", np.full(SHAPE, 0.5))
    np.save("many-coils.npy", np.ones((5, *SHAPE), np.complex64))
    np.save("wide-maps.npy", np.ones((3, 48, 41), np.complex64))
    np.save("series.npy", np.ones((1, 1, 1, *SHAPE), np.complex64))
    np.savez("unnamed.npz", a=sensitivities(), b=sensitivities())
    np.save("no-centre.npy", masks.cartesian(SHAPE, 0.5, calibration=0, power=0, seed=1) & (np.arange(40) % 2 == 1))
    np.save("large-reference.npy", np.ones((49, 40), np.float32))
    np.save("integers.npy", np.ones(SHAPE, np.uint8))
    Path("folder.npy").mkdir()


K, COILS = ["k.npy", "--mask", "mask.npy"], ["coils.npz", "--centred"]
CASES = {
    "missing file": (["none.npy"], "none.npy: no such file"),
    "unknown format": (["mask.png", "--mask", "mask.npy"], "mask.png: no such file"),
    "truncated": (["truncated.npy", "--mask", "mask.npy"], "truncated.npy: the NPY file is truncated"),
    "real values": (["reference.npy", "--mask", "mask.npy"], "reference.npy: values of type float32"),
    "NaN": (["nan.npy", "--mask", "mask.npy"], "nan.npy: 1920 values are NaN"),
    "zeros": (["zero.npy", "--mask", "mask.npy"], "zero.npy: all values are zero"),
    "one axis": (["line.npy", "--mask", "mask.npy"], "line.npy: expected k-space of at least 2 axes"),
    "no mask": (["k.npy"], "k.npy: has no sampling mask; name a file that has it with --mask"),
    "missing mask": (["k.npy", "--mask", "none.npy"], "none.npy: no such file"),
    "mask's shape": (["k.npy", "--mask", "wide-mask.npy"], "wide-mask.npy: the mask of shape .* does not fit"),
    "mask's values": (["k.npy", "--mask", "grey-mask.npy"], "grey-mask.npy: the mask has values other"),
    "key": (["both.npz", "--key", "raw"], "both.npz: has no array 'raw'"),
    "mask's key": (["both.npz", "--mask-key", "raw"], "both.npz: has no array 'raw'"),
    "coils that are not": ([*K, "--coils"], "k.npy: expected k-space of at least 3 axes with coils"),
    "maps without coils": ([*K, "--maps", "maps.npy"], "--maps: k.npy has no axis of coils"),
    "missing maps": ([*COILS, "--maps", "none.npy"], "none.npy: no such file"),
    "maps of other coils": ([*COILS, "--maps", "many-coils.npy"], r"many-coils.npy: expected shape \(3, 48, 40\)"),
    "maps of another size": ([*COILS, "--maps", "wide-maps.npy"], r"wide-maps.npy: expected shape \(..., 48, 40\)"),
    "maps without a name": ([*COILS, "--maps", "unnamed.npz"], "unnamed.npz: has no complex array 'maps'"),
    "maps from no centre": (["stack.npy", "--mask", "no-centre.npy"], "no-centre.npy: a block of .* is too small"),
    "maps from the wrong centre": (["coils.npz"], "coils.npz: most of the energy .* add --centred"),
    "real coils": ([*COILS, "--maps", "maps.npy", "--real"], "--real: images seen by several coils are complex"),
    "output's folder": ([*K, "-o", "none/out.npy"], "none/out.npy: the folder .* does not exist"),
    "output is a folder": ([*K, "-o", "folder.npy"], "folder.npy: is a folder"),
    "output's format": ([*K, "-o", "out.tif"], "out.tif: unknown format"),
    "too many axes": (["series.npy", "--mask", "mask.npy", "-o", "o.nii", "--no-coils"], "o.nii: NIfTI does not hold"),
    "figure's format": ([*K, "--figure", "fig.pdf"], "fig.pdf: the figure is drawn as PNG"),
    "figure's folder": ([*K, "--figure", "none/fig.png"], "none/fig.png: the folder"),
    "figure is the output": ([*K, "-o", "a.png", "--figure", "./a.png"], "a.png: is OUT too"),
    "crop to what": ([*K, "--crop"], "k.npy: does not say which part .* leave out --crop"),
    "no such slice": ([*K, "--slice", "1"], "--slice: k.npy has no slice 1; choose one from 0 to 0"),
    "missing reference": ([*K, "--reference", "none.npy"], r"none.npy: cannot be read \(No such file"),
    "reference's format": ([*K, "--reference", "mask.png"], "mask.png: the reference is read as NPY"),
    "reference's shape": ([*K, "--reference", "large-reference.npy"], "large-reference.npy: shape .* is no reference"),
    "reference's values": ([*K, "--reference", "integers.npy"], "integers.npy: values of type uint8"),
    "zero reference": ([*K, "--reference", "zero.npy"], "zero.npy: is zero"),
    "value limit": ([*K, "--max-values", "99"], "k.npy: 1920 values exceed the limit of 99; .*--max-values"),
    "negative noise": ([*K, "--noise-std", "-1"], "--noise-std: must be"),
    "zero weight": ([*K, "--tv-weight", "0"], "--tv-weight: must be"),
    "negative weight": ([*K, "--wavelet-weight", "-1"], "--wavelet-weight: must be"),
    "negative sparsity": ([*K, "--sparsity-weight", "-1"], "--sparsity-weight: must be"),
    "NaN radius": ([*K, "--epsilon", "nan"], "--epsilon: must be"),
    "negative slack": ([*K, "--kappa", "-0.5"], "--kappa: must be"),
    "zero tolerance": ([*K, "--tol", "0"], "--tol: must be"),
    "no iterations": ([*K, "--max-iter", "0"], "--max-iter"),
    "no rounds": ([*K, "--rounds", "0"], "--rounds"),
    "no threads": ([*K, "--threads", "0"], "--threads"),
    "unknown target": ([*K, "--target", "deconv"], "--target.*deconv"),
    "not a number": ([*K, "--slice", "middle"], "--slice"),
    "unknown option": ([*K, "--psf", "k.npy"], "--psf"),
    "no file": ([], "KSPACE"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_status_2_with_one_line(folder, capsys, name):
    bad_files()
    extra, expected = CASES[name]
    before = listing(folder)
    code = run(["mri", *extra, *([] if "-o" in extra else ["-o", "out.npy"])])
    streams = capsys.readouterr()
    assert code == 2, streams.err
    assert streams.out == "" and streams.err.count("\n") == 1 and streams.err.startswith("bioperf: ")
    assert re.search(expected, streams.err), streams.err
    assert listing(folder) == before


@pytest.mark.parametrize(
    "extra",
    [
        ["-o", "none/out.npy"],
        ["--figure", "none/figure.png"],
        ["--slice", "7"],
        ["--crop"],
        ["--reference", "none.npy"],
        ["--maps", "none.npy"],
    ],
    ids=lambda extra: extra[0],
)
def test_all_is_checked_before_the_solve(folder, monkeypatch, capsys, extra):
    monkeypatch.setattr(bioperf, "reconstruct_mri", lambda *a, **k: pytest.fail("solved before all was checked"))
    assert run(["mri", "coils.npz", "--centred", *extra, *([] if "-o" in extra else ["-o", "out.npy"])]) == 2


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (bioperf.DivergenceError("NaN by iteration 7"), 1, "DivergenceError: NaN by iteration 7; 'bioperf --debug"),
        (ValueError("array shapes\ndisagree"), 1, "ValueError: array shapes disagree; 'bioperf --debug"),
        (ValueError("kappa: too large"), 2, "--kappa: too large"),
        (ValueError("kspace: too loud"), 2, "k.npy: too loud"),
        (ValueError("mask: too thin"), 2, "mask.npy: too thin"),
    ],
)
def test_failures_in_the_solve_leave_nothing(folder, monkeypatch, capsys, error, status, words):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(bioperf, "reconstruct_mri", fail)
    before = listing(folder)
    assert run(["mri", *K, "-o", "out.npy", "--figure", "figure.png"]) == status
    err = capsys.readouterr().err.strip()
    assert "\n" not in err and words in err
    assert listing(folder) == before


def test_not_converged_is_status_3_only_with_strict(folder, capsys):
    arguments = ["mri", *K, "-o", "out.npy", "--max-iter", "1", "--tol", "1e-9"]
    assert run(arguments) == 0
    Path("out.npy").unlink()
    capsys.readouterr()
    assert run([*arguments, "--strict", "--quiet"]) == 3
    streams = capsys.readouterr()
    assert streams.out == "" and streams.err.count("\n") == 1
    assert streams.err.startswith("bioperf: k.npy: not converged") and Path("out.npy").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["both.npz"], "both.npz: most of the energy lies where --centred"),
        (["k.npy", "--mask", "mask.npy", "--centred"], "k.npy: most of the energy lies where --unshifted"),
        (["k.npy", "--mask", "turned.npy"], "turned.npy: samples are densest where --centred"),
        (["both.npz", "--centred"], None),
        (["k.npy", "--mask", "mask.npy"], None),
        (["k.npy", "--mask", "even.npy"], None),
    ],
)
def test_doubts_about_the_zero_frequency(folder, capsys, arguments, words):
    np.save("turned.npy", np.fft.fftshift(np.load("mask.npy")))
    np.save("even.npy", np.indices(SHAPE).sum(0) % 2 == 0)
    assert run(["mri", *arguments, "-o", "out.npy", "-q", "--max-iter", "1", "--rounds", "1", "--tol", "0.1"]) == 0
    err = capsys.readouterr().err
    if words is None:
        assert err == ""
    else:
        assert err.startswith("bioperf: warning: ") and words in err and err.count("\n") == 1


def test_defaults_are_the_library_s():
    command = next(command for command in app.registered_commands if command.callback.__name__ == "mri")
    ours = inspect.signature(command.callback).parameters
    theirs = inspect.signature(bioperf.reconstruct_mri).parameters
    shared = ours.keys() & theirs.keys() - {"kspace", "mask", "maps", "centred"}
    assert len(shared) == 12
    assert {name: ours[name].default for name in shared} == {name: theirs[name].default for name in shared}
    assert typer.main.get_command(app).commands["mri"].help
