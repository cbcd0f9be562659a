"""``bioperf tune``: the record is what the library selects, every error is one line, nothing is written half."""

import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import typer
from rich.console import Console

import bioperf
import bioperf.selection
from bioperf import masks
from bioperf.cli import tune_report
from bioperf.cli.app import app, run
from bioperf.jobs import tune, tune_figure, tune_record
from bioperf.lower import intensity_range, solve_lower
from bioperf.mri import default_mri_weight

ROOT = Path(bioperf.__file__).parents[1]
SHAPE = (32, 32)
NOISE = 0.05


def phantom(seed):
    """Ellipses within the middle of the frame, values in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = np.zeros(SHAPE)
    for value, radius in ((0.5, 11), (0.3, 6), (-0.2, 4), (0.2, 2)):
        row, column = np.array(SHAPE) / 2 + rng.uniform(-2, 2, 2)
        image += value * (((rows - row) / 1.2) ** 2 + (columns - column) ** 2 < radius**2)
    return image.astype(np.float32)


def noise(number, seed=0):
    return NOISE * np.random.default_rng([seed, number]).standard_normal(SHAPE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with images, k-space of one image and of a stack, and a mask."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    stack = np.stack([phantom(k) for k in range(4)])
    mask = masks.radial(SHAPE, 0.4)
    A = bioperf.MaskedFourier(mask)
    np.save("images.npy", stack)
    np.save("mask.npy", mask)
    np.save("k.npy", A((stack[0] + noise(0)).astype(np.float32)))
    np.save("stack.npy", np.stack([A((x + noise(k)).astype(np.float32)) for k, x in enumerate(stack)]))
    return tmp_path


def call(*arguments, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "bioperf", *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def record(path="out.json"):
    """The record, which must be JSON to the letter."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=refuse)


def without_times(value):
    """A record without what differs between two equal runs."""
    if isinstance(value, dict):
        return {name: without_times(item) for name, item in value.items() if name not in ("seconds", "command")}
    return [without_times(item) for item in value] if isinstance(value, list) else value


SIMULATED = ["images.npy", "--simulate", "--mask", "radial:0.4", "--noise-std", str(NOISE)]


def select(y, reference, method="bf-dca", **options):
    problem = bioperf.selection.TVWavelet(
        bioperf.MaskedFourier(np.load("mask.npy")), y, reference=reference, wavelet=bioperf.Wavelet("haar", 3)
    )
    return bioperf.selection.select_hyperparameters(problem, method=method, **options)


def test_in_a_process(folder):
    """Tuned on two images, tested on two: the record and the images against the library."""
    options = ["--test", "2", "--method", "bf-dca", "--method", "grid", "--trials", "9", "--threads", "1"]
    outputs = ["-o", "out.json", "--image", "out.npy", "--figure", "figure.png"]
    done = call("tune", *SIMULATED, *options, *outputs, "--strict", cwd=folder)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for words in ("bf-dca", "wavelet", "radius", "criterion", "default weights", "wrote figure.png"):
        assert words in done.stdout
    found = record()
    stack, y = np.load("images.npy"), np.load("stack.npy")
    expected = select(y[:2], stack[:2], criterion="supervised", threads=1)
    ours = found["methods"][0]
    assert ours["weights"] == expected.weights and ours["values"] == expected.values
    assert ours["radii"] == list(expected.radii) and ours["best_criterion"] == expected.best_criterion
    assert ours["metrics"] == expected.metrics and ours["lower_solves"] == expected.lower_solves
    assert ours["history"].keys() == expected.history.keys()
    for name in expected.history.keys() - {"seconds", "kind"}:
        values = [np.nan if value is None else value for value in ours["history"][name]]
        np.testing.assert_array_equal(values, expected.history[name])
    assert [len(item["history"]["trial"]) for item in found["methods"]] == [len(expected.history["trial"]), 9]
    assert found["inputs"] == [
        {"path": "images.npy", "sha256": hashlib.sha256(Path("images.npy").read_bytes()).hexdigest()}
    ]
    assert found["command"][:3] == ["bioperf", "tune", "images.npy"] and found["seed"] == 0
    assert found["options"]["trials"] == 9 and found["options"]["threads"] == 1
    assert found["environment"]["versions"]["bioperf"] == bioperf.__version__
    assert found["environment"]["versions"]["numpy"] == np.__version__
    best = min(found["methods"], key=lambda item: item["best_criterion"])
    assert found["best"] == best["method"] and found["weights"] == best["weights"]
    assert iio.imread("figure.png").shape[1:] == (1500, 3)

    quality = found["test"]["by_weights"]
    tested = expected.apply(bioperf.MaskedFourier(np.load("mask.npy")), y[2:], threads=1).x
    pairs = list(zip(tested, stack[2:], strict=True))
    np.testing.assert_allclose(quality["bf-dca"]["psnr"], [bioperf.psnr(*pair) for pair in pairs])
    np.testing.assert_allclose(quality["bf-dca"]["rlne"], [bioperf.rlne(*pair) for pair in pairs])
    np.testing.assert_allclose(quality["bf-dca"]["mean_ssim"], np.mean([bioperf.ssim(*pair) for pair in pairs]))
    images = np.load("out.npy")
    assert images.shape == stack.shape
    chosen = next(item for item in found["methods"] if item["method"] == found["best"])
    for k, x in enumerate(images):
        terms = chosen["weights"] | {"wavelet": bioperf.Wavelet("haar", 3), "isotropic": True}
        np.testing.assert_allclose(
            x, solve_lower(bioperf.MaskedFourier(np.load("mask.npy")), y[k], **terms).x, atol=1e-6
        )
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_the_default_rule_on_test_images(folder):
    assert run(["tune", *SIMULATED, "--test", "0.25", "-o", "out.json", "-q", "--threads", "1"]) == 0
    found = record()["test"]
    A, y, truth = bioperf.MaskedFourier(np.load("mask.npy")), np.load("stack.npy")[3], phantom(3)
    weight = default_mri_weight(NOISE, intensity_range(A.adjoint(y)))
    assert found["images"] == 1 and found["default_weights"] == [weight]
    for name, wavelet in (
        ("default weights", bioperf.Wavelet("haar", 3)),
        ("reconstruct_mri's lower level", bioperf.UndecimatedWavelet("db2", 2)),
    ):
        x = solve_lower(A, y, weight, wavelet_weight=weight, wavelet=wavelet, isotropic=True).x
        np.testing.assert_allclose(found["by_weights"][name]["psnr"], [bioperf.psnr(x, truth)], atol=1e-4)
    rows = found["by_weights"]
    np.testing.assert_allclose(rows["zero-filled"]["psnr"], [bioperf.psnr(A.adjoint(y), truth)], atol=1e-4)
    assert rows["bf-dca"]["mean_psnr"] > rows["default weights"]["mean_psnr"] > rows["zero-filled"]["mean_psnr"]
    assert rows["bf-dca"]["better_than_default"] == 1 and rows["zero-filled"]["better_than_default"] == 0


def test_holdout_of_kspace(folder, capsys):
    """Without a reference samples are held out; the images are made from all samples."""
    assert run(["tune", "k.npy", "--mask", "mask.npy", "-o", "out.json", "--image", "out.npy", "--seed", "3"]) == 0
    streams = capsys.readouterr()
    assert streams.err == "" and "holdout" in streams.out and "PSNR" not in streams.out
    found = record()
    expected = select(np.load("k.npy"), None, criterion="holdout", seed=3)
    assert found["options"]["criterion"] == "holdout" and found["test"] is None and found["contour"] is None
    assert found["weights"] == pytest.approx(expected.weights, rel=1e-12)
    assert {"validation_error", "test_error"} <= found["methods"][0]["metrics"].keys()
    assert [item["path"] for item in found["inputs"]] == ["k.npy", "mask.npy"]
    x = expected.apply(bioperf.MaskedFourier(np.load("mask.npy")), np.load("k.npy")).x
    np.testing.assert_allclose(np.load("out.npy"), x, atol=1e-6)


def test_a_reference_beside_kspace(folder, capsys):
    """A stack of slices with its reference is the simulated problem."""
    arguments = ["--method", "grid", "--trials", "4", "--threads", "1", "-q"]
    assert run(["tune", *SIMULATED, *arguments, "-o", "simulated.json"]) == 0
    stack = ["stack.npy", "--no-coils", "--mask", "mask.npy", "--reference", "images.npy"]
    assert run(["tune", *stack, *arguments, "-o", "out.json"]) == 0
    simulated, found = record("simulated.json"), record()
    assert found["options"]["criterion"] == "supervised" and found["problem"]["peak"] == float(
        np.load("images.npy").max()
    )
    assert without_times(found["methods"]) == without_times(simulated["methods"])
    np.savez("both.npz", kspace=np.load("stack.npy")[:, None], mask=np.load("mask.npy"))
    np.save("four.npy", np.load("images.npy"))
    assert run(["tune", "both.npz", "--reference", "four.npy", *arguments, "-o", "out.json"]) == 0
    assert without_times(record()["methods"]) == without_times(simulated["methods"])


def test_simulation_is_reproducible(folder):
    arguments = ["tune", *SIMULATED, "--method", "random", "--trials", "3", "--threads", "1", "-q"]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run([*arguments, "-o", f"{name}.json", "--seed", str(seed)]) == 0
    a, b, c = (record(f"{name}.json") for name in "abc")
    assert without_times(a) == without_times(b)
    assert a["methods"][0]["history"]["criterion"] != c["methods"][0]["history"]["criterion"]


def test_images_of_a_stack(folder, monkeypatch):
    """--images and --test choose as slices do, and the noise of an image stays its own."""
    seen = []
    choose = bioperf.selection.select_hyperparameters
    monkeypatch.setattr(bioperf.selection, "select_hyperparameters", lambda p, **o: (seen.append(p), choose(p, **o))[1])
    arguments = ["tune", *SIMULATED, "--images", "1:", "--test", "1", "--method", "grid", "--trials", "1", "-q"]
    assert run([*arguments, "-o", "out.json", "--image", "out.tif"]) == 0
    ((problem),) = seen
    np.testing.assert_array_equal(problem.reference, np.load("images.npy")[1:3])
    np.testing.assert_array_equal(problem.y, np.load("stack.npy")[1:3])
    assert iio.imread("out.tif").shape == (3, *SHAPE)


def test_one_parameter_and_the_noise_level(folder, capsys):
    methods = [word for name in ("discrepancy", "sure", "grid") for word in ("--method", name)]
    arguments = ["tune", *SIMULATED, "--wavelet", "none", *methods, "--trials", "9", "--figure", "figure.png"]
    assert run([*arguments, "-o", "out.json"]) == 0
    found = record()
    assert found["best"] == "grid" and found["contour"] is None
    assert all(item["weights"].keys() == {"tv_weight"} for item in found["methods"])
    picture = iio.imread("figure.png")
    assert picture.shape[1:] == (1500, 3) and picture.std() > 20


def test_undecimated_wavelets(folder):
    """The model of reconstruct_mri's lower level can be tuned."""
    arguments = ["tune", *SIMULATED, "--test", "3", "--wavelet", "undecimated-db2", "--level", "2", "--threads", "1"]
    assert run([*arguments, "-o", "out.json", "--image", "out.npy", "-q"]) == 0
    found = record()
    rows = found["test"]["by_weights"]
    assert rows["default weights"]["psnr"] == rows["reconstruct_mri's lower level"]["psnr"]
    assert rows["bf-dca"]["mean_psnr"] > rows["default weights"]["mean_psnr"]
    terms = found["weights"] | {"wavelet": bioperf.UndecimatedWavelet("db2", 2), "isotropic": True}
    x = solve_lower(bioperf.MaskedFourier(np.load("mask.npy")), np.load("stack.npy")[3], **terms).x
    np.testing.assert_allclose(np.load("out.npy")[3], x, atol=1e-6)


def test_figure_with_and_without_a_grid(folder, monkeypatch):
    drawn = []
    draw = tune_figure.draw_tuning
    monkeypatch.setattr(tune_figure, "draw_tuning", lambda *a, **k: (drawn.append(a), draw(*a, **k)))
    arguments = ["tune", *SIMULATED, "--images", ":1", "-o", "out.json", "--figure", "figure.png", "-q"]
    monkeypatch.setattr(tune, "_CONTOUR_TRIALS", 9)
    assert run([*arguments, "--method", "grid", "--trials", "16", "--method", "bf-dca"]) == 0
    found = record()
    assert found["contour"]["source"] == "the trials of the method grid"
    assert found["contour"]["history"] == found["methods"][0]["history"]
    assert run([*arguments, "--method", "bf-dca"]) == 0
    found = record()
    assert found["contour"]["source"].startswith("a 3 x 3 grid computed for the figure")
    assert len(found["contour"]["history"]["criterion"]) == 9 and len(found["methods"]) == 1
    assert [len(arguments[1]) for arguments in drawn] == [2, 1]
    picture = iio.imread("figure.png")
    assert picture.shape[1:] == (1500, 3) and picture.std() > 20


@pytest.mark.parametrize(
    "values", [[3.0], [2.0, 2.0, 2.0, 2.0], [0.0, 1.0, 2.0, 1e6], [np.nan, 1.0, 2.0, 3.0]], ids=str
)
def test_figures_of_degenerate_searches(tmp_path, values):
    """One trial, a flat criterion, one that vanishes, one that is not finite."""
    side = int(np.sqrt(len(values)))
    first, second = np.meshgrid(10.0 ** np.arange(1, side + 1), 10.0 ** np.arange(1, side + 1))
    best = np.minimum.accumulate(np.nan_to_num(values, nan=np.inf))
    history = {
        "kind": np.array(["trial"] * len(values)), "seconds": np.full(len(values), 0.5), "psnr": np.ones(len(values)),
        "wavelet_radius": first.ravel(), "tv_radius": second.ravel(), "criterion": np.array(values), "best": best,
    }  # fmt: skip
    selections = [
        SimpleNamespace(
            method=method, history=history, best_criterion=best[-1], seconds=0.5,
            values={"wavelet_radius": 10.0, "tv_radius": 10.0},
        )
        for method in ("grid", "bf-dca", "sure")
    ]  # fmt: skip
    tune_figure.draw_tuning(tmp_path / "f.png", selections, tune.Contour(history, "words"), criterion="holdout")
    assert iio.imread(tmp_path / "f.png").shape[1:] == (1500, 3)


def test_running_best_of_a_history():
    history = {
        "criterion": np.array([5.0, np.nan, 6.0, 3.0, 4.0]),
        "best": np.array([np.nan, np.nan, 6.0, 3.0, 3.0]),
        "seconds": np.array([np.nan, np.nan, 2.0, 3.0, 4.0]),
    }
    np.testing.assert_array_equal(tune_figure._best_rows(history), [False, False, True, True, False])
    np.testing.assert_array_equal(tune_figure._times(history), [2, 2, 2, 3, 4])
    np.testing.assert_array_equal(
        tune_figure._filled(np.array([np.nan, 1.0, np.nan, 2.0, np.nan])), [np.nan, 1.0, 1.0, 2.0, 2.0]
    )
    columns, rows, table = tune_figure._table([1, 2, 2, 1], [5, 5, 7, 7], [10.0, 20.0, 40.0, 30.0])
    assert list(columns) == [1, 2] and list(rows) == [5, 7]
    np.testing.assert_array_equal(table, [[10, 20], [30, 40]])


def test_live_table_marks_the_best(capsys):
    with tune_report.live_table() as show:
        assert show is None  # stderr is no terminal here
    table = tune_report.TrialTable()
    best = np.inf
    for k, value in enumerate([3.0, 1.0, *np.linspace(2, 4, 20)]):
        best = min(best, value)
        row = {"trial": k + 1, "seconds": 0.1 * k, "lower_solves": k + 1, "iterations": 9, "tv_weight": 0.25}
        table.add("grid" if k else "sure", row | {"criterion": value, "best": best, "pruned": False, "psnr": 20.0 + k})
    console = Console(file=StringIO(), width=120)
    console.print(table.render())
    text = console.file.getvalue()
    marked = [line for line in text.splitlines() if "★" in line]
    assert len(marked) == 2 and re.search(r"sure +│ +1 ", marked[0]) and re.search(r"grid +│ +2 .*21\.00", marked[1])
    assert "tv weight" in text.lower() and "22" in text.splitlines()[-2] and len(text.splitlines()) < 18


def test_columns_that_do_not_fit_go_to_another_table():
    columns = [["abc def", "12"], ["g", "12345"], ["status", "x" * 99]]
    assert [tune_report._width(column) for column in columns] == [6, 8, 23]
    assert tune_report._parts(10, columns, 47) == [columns]
    assert tune_report._parts(10, columns, 46) == [columns[:2], columns[2:]]
    assert tune_report._parts(10, columns, 12) == [[column] for column in columns]


def test_encoding():
    text = tune_record.encode(
        {"a": np.array([1.0, np.nan, np.inf]), "b": [np.float32(0.5), np.bool_(True)], "c": Path("x/y"), "d": "[\\n 1]"}
    )
    assert json.loads(text) == {"a": [1.0, None, None], "b": [0.5, True], "c": "x/y", "d": "[\\n 1]"}
    assert '"a": [1.0, null, null]' in text
    url = "postgresql://me:se:cret@host:5432/db"
    assert tune_record.without_password(url) == "postgresql://me:***@host:5432/db"
    assert tune_record.without_password("sqlite:///a@b.db") == "sqlite:///a@b.db"


def test_a_study_resumes(folder):
    pytest.importorskip("optuna", reason="tpe needs the package optuna (extra tune)")
    study = ["--method", "tpe", "--storage", "sqlite:///tune.db", "--study-name", "s", "--threads", "1"]
    arguments = ["tune", *SIMULATED, "--images", ":1", *study, "-o", "out.json", "-q"]
    assert run([*arguments, "--trials", "2"]) == 0
    first = record()["methods"][0]["history"]
    assert run([*arguments, "--trials", "3"]) == 0
    second = record()["methods"][0]["history"]
    assert second["kind"] == ["resumed", "resumed", "trial"] and second["criterion"][:2] == first["criterion"]


def test_the_training_criterion_is_warned_of(folder, capsys):
    assert run(["tune", *SIMULATED, "--images", ":1", "--criterion", "degenerate", "-o", "out.json", "-q"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("bioperf: warning: ") and err.count("\n") == 1 and "degenerate" in err


def test_a_tolerance_too_large_for_the_noise_is_warned_of(folder, capsys):
    """The lower level's gap is relative to the data's energy, of which little noise leaves a small part."""
    arguments = ["tune", *SIMULATED[:-1], "0.005", "--images", ":1", "-o", "out.json", "-q"]
    assert run(arguments) == 0
    err = capsys.readouterr().err
    advised = re.search(r"bioperf: warning: tol: .* pass TVWavelet tol=(\S+) or less\n", err)[1]
    assert err.count("\n") == 1 and 1e-9 <= float(advised) < 1e-5
    assert run([*arguments, "--tol", advised]) == 0
    assert capsys.readouterr().err == ""


def test_doubt_about_a_mask(folder, capsys):
    np.save("turned.npy", np.fft.fftshift(np.load("mask.npy")))
    arguments = ["tune", "images.npy", "--simulate", "--images", ":1", "--mask", "turned.npy", "--method", "grid"]
    arguments += ["--trials", "1", "-o", "out.json", "-q"]
    assert run(arguments) == 0
    err = capsys.readouterr().err
    assert "turned.npy: samples are densest where --centred has the zero frequency" in err and err.count("\n") == 1
    assert run([*arguments, "--centred"]) == 0
    assert capsys.readouterr().err == ""


def bad_files():
    stack = np.load("images.npy")
    np.save("bright.npy", 2 * stack)
    np.save("dark.npy", 0 * stack)
    iio.imwrite("colour.png", np.ones((*SHAPE, 3), np.uint8) * np.array([9, 99, 199], np.uint8))
    np.save("line.npy", np.ones(SHAPE[1], np.complex64))
    np.save("odd.npy", np.ones((30, 30), np.float32))
    np.save("wide-mask.npy", np.ones((32, 33), bool))
    np.save("coils.npy", np.ones((3, *SHAPE), np.complex64))
    np.save("turned.npy", np.load("k.npy") * np.exp(1j * np.random.default_rng(0).uniform(0, 6, SHAPE)))
    np.save("outside.npy", np.where(np.load("mask.npy"), 0, 1).astype(np.complex64))
    Path("folder.json").mkdir()


K, ONE = ["k.npy", "--mask", "mask.npy"], [*SIMULATED, "--images", ":1"]
CASES = {
    "missing file": (["none.npy"], "none.npy: no such file"),
    "images as k-space": (["images.npy", "--mask", "mask.npy"], "images.npy: values of type float32"),
    "no mask": (["k.npy"], "k.npy: has no sampling mask; name a file that has it with --mask"),
    "mask's shape": (["k.npy", "--mask", "wide-mask.npy"], "wide-mask.npy: the mask of shape"),
    "made mask for k-space": (["k.npy", "--mask", "radial:0.3"], "--mask: radial:0.3 is made for --simulate"),
    "samples outside": (["outside.npy", "--mask", "mask.npy"], "outside.npy: all samples in the mask are 0"),
    "coils": (["coils.npy", "--mask", "mask.npy"], "coils.npy: axis -3 .* 3 coils.*add --no-coils"),
    "one axis": (["line.npy", "--mask", "mask.npy"], "line.npy: expected k-space of at least 2 axes"),
    "no mask to simulate": (["images.npy", "--simulate"], "--mask: --simulate needs one"),
    "unknown mask": (["images.npy", "--simulate", "--mask", "spiral:0.3"], "spiral:0.3: no such file"),
    "mask's rate": (["images.npy", "--simulate", "--mask", "radial:x"], "--mask: radial:x cannot be made"),
    "mask's rate too large": (["images.npy", "--simulate", "--mask", "radial:2"], "--mask: radial:2 cannot be made"),
    "key of a made mask": ([*SIMULATED, "--mask-key", "a"], "--mask-key: radial:0.4 is made and not read"),
    "bright images": (["bright.npy", *SIMULATED[1:]], "bright.npy: intensities from 0 to .*scale them"),
    "dark images": (["dark.npy", *SIMULATED[1:]], "dark.npy: all values are zero"),
    "colour": (["colour.png", *SIMULATED[1:]], "colour.png: is in colour"),
    "k-space as images": (["k.npy", *SIMULATED[1:]], "k.npy: values of type complex64"),
    "reference of simulated": ([*SIMULATED, "--reference", "images.npy"], "--reference: --simulate takes"),
    "complex simulated": ([*SIMULATED, "--complex"], "--complex: --simulate takes"),
    "negative noise": ([*SIMULATED[:-1], "-1"], "--noise-std: must be"),
    "NaN noise": ([*SIMULATED[:-1], "nan"], "--noise-std: must be"),
    "noise without a square": ([*SIMULATED[:-1], "1e300"], "--noise-std: must be from 0 to 1e\\+06"),
    "images": ([*SIMULATED, "--images", "1"], "--images: expected START:STOP, got '1'"),
    "none of the images": ([*SIMULATED, "--images", "4:"], "--images: 4: takes none of the 4"),
    "images of one": ([*K, "--images", ":1"], "--images: k.npy holds one image"),
    "test of one": ([*K, "--reference", "odd.npy", "--test", "1"], "odd.npy: shape"),
    "all for testing": ([*SIMULATED, "--test", "4"], "--test: 4 of 4 images .* leaves none"),
    "none for testing": ([*SIMULATED, "--test", "0.01"], "--test: 0.01 of 4 images"),
    "test in words": ([*SIMULATED, "--test", "half"], "--test: expected a number"),
    "test without reference": (
        ["stack.npy", "--no-coils", "--mask", "mask.npy", "--test", "1"], "--test: images are tested against a refer"
    ),
    "reference's shape": ([*K, "--reference", "images.npy"], r"images.npy: shape \(4, 32, 32\) is no reference"),
    "real reference of complex": (
        ["turned.npy", "--mask", "mask.npy", "--complex", "--reference", "odd.npy"], "odd.npy: shape"
    ),
    "missing reference": ([*K, "--reference", "none.npy"], "none.npy: cannot be read"),
    "supervised by nothing": ([*K, "--criterion", "supervised"], "--criterion: supervised needs images"),
    "unknown criterion": ([*K, "--criterion", "best"], "--criterion.*best"),
    "unknown method": ([*K, "--method", "newton"], "--method.*newton"),
    "noise unknown": ([*K, "--method", "sure"], "--noise-std: sure goes by the noise level"),
    "storage without tpe": ([*ONE, "--storage", "sqlite:///a.db"], "--storage: is for --method tpe"),
    "jobs without tpe": ([*ONE, "--jobs", "2"], "--jobs: is for --method tpe"),
    "a batch of what": ([*ONE, "--batched"], "--batched: is for --method grid or random"),
    "descent in one parameter": ([*ONE, "--wavelet", "none"], "--method: bf-dca moves two bounds"),
    "storage without a name": ([*ONE, "--method", "tpe", "--storage", "sqlite:///a"], "--study-name: --storage needs"),
    "name without a storage": ([*ONE, "--method", "tpe", "--study-name", "a"], "--storage: --study-name needs"),
    "storage's URL": (
        [*ONE, "--method", "tpe", "--storage", "a.db", "--study-name", "a"], "--storage: a.db cannot be opened"
    ),
    "unknown wavelet": ([*ONE, "--wavelet", "haarr"], "--wavelet: "),
    "level too deep": ([*ONE, "--level", "6"], "level=6.* divisible by 64"),
    "sizes": (["odd.npy", *SIMULATED[1:]], "odd.npy: .*30"),
    "zero tolerance": ([*ONE, "--tol", "0"], "--tol: must be"),
    "no trials": ([*ONE, "--trials", "0"], "--trials"),
    "no threads": ([*ONE, "--threads", "0"], "--threads"),
    "value limit": ([*SIMULATED, "--max-values", "99"], "images.npy: 4096 values exceed the limit of 99"),
    "output's format": ([*ONE, "-o", "out.csv"], "out.csv: the record is JSON; end OUT in .json"),
    "output's folder": ([*ONE, "-o", "none/out.json"], "none/out.json: the folder .* does not exist"),
    "output is a folder": ([*ONE, "-o", "folder.json"], "folder.json: is a folder"),
    "figure's format": ([*ONE, "--figure", "fig.pdf"], "fig.pdf: the figure is drawn as PNG"),
    "figure's folder": ([*ONE, "--figure", "none/fig.png"], "none/fig.png: the folder"),
    "image's format": ([*ONE, "--image", "out.jpg"], "out.jpg: unknown format"),
    "image is the figure": ([*ONE, "--image", "a.png", "--figure", "./a.png"], "a.png: is IMAGE too"),
    "image is the input": ([*ONE, "--image", "./images.npy"], "images.npy: is read as well"),
    "no file": ([], "INPUT"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_status_2_with_one_line(folder, capsys, name):
    bad_files()
    extra, expected = CASES[name]
    before = listing(folder)
    code = run(["tune", *extra, *([] if "-o" in extra else ["-o", "out.json"])])
    streams = capsys.readouterr()
    assert code == 2, streams.err
    assert streams.out == "" and streams.err.count("\n") == 1 and streams.err.startswith("bioperf: ")
    assert re.search(expected, streams.err), streams.err
    assert listing(folder) == before


@pytest.mark.parametrize(
    "extra",
    [
        ["-o", "none/out.json"],
        ["--figure", "none/figure.png"],
        ["--image", "none/out.npy"],
        ["--test", "7"],
        ["--method", "sure", "--noise-std", "0"],
    ],
    ids=lambda extra: extra[0],
)
def test_all_is_checked_before_the_search(folder, monkeypatch, extra):
    monkeypatch.setattr(
        bioperf.selection, "select_hyperparameters", lambda *a, **k: pytest.fail("searched before all was checked")
    )
    assert run(["tune", *SIMULATED, *extra, *([] if "-o" in extra else ["-o", "out.json"])]) == 2


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (bioperf.DivergenceError("NaN by iteration 7"), 1, "DivergenceError: NaN by iteration 7; 'bioperf --debug"),
        (ValueError("array shapes\ndisagree"), 1, "ValueError: array shapes disagree; 'bioperf --debug"),
        (ValueError("n_jobs: too many"), 2, "--jobs: too many"),
        (ValueError("study_name: too loud"), 2, "--study-name: too loud"),
        (ValueError("y: too thin"), 2, "images.npy: too thin"),
    ],
)
def test_failures_in_the_search_leave_nothing(folder, monkeypatch, capsys, error, status, words):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(bioperf.selection, "select_hyperparameters", fail)
    before = listing(folder)
    assert run(["tune", *SIMULATED, "-o", "out.json", "--image", "out.npy", "--figure", "figure.png"]) == status
    err = capsys.readouterr().err.strip()
    assert "\n" not in err and words in err
    assert listing(folder) == before


def test_a_record_that_cannot_be_written_leaves_the_old_one(folder, monkeypatch, capsys):
    """The disk fills up between the check and the writing."""
    Path("out.json").write_text("old")
    real = Path.write_text

    def fill_up(path, text, **options):
        real(path, text[: len(text) // 2], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill_up)
    assert run(["tune", *ONE, "--method", "grid", "--trials", "1", "-o", "out.json"]) == 2
    assert "out.json: cannot be written (No space left on device)" in capsys.readouterr().err
    assert Path("out.json").read_bytes() == b"old"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_not_converged_is_status_3_only_with_strict(folder, monkeypatch, capsys):
    choose = bioperf.selection.select_hyperparameters
    monkeypatch.setattr(
        bioperf.selection,
        "select_hyperparameters",
        lambda *a, **k: replace(choose(*a, **k), converged=False, status="not converged: limit reached"),
    )
    arguments = ["tune", *ONE, "--method", "grid", "--trials", "1", "-o", "out.json"]
    assert run(arguments) == 0
    Path("out.json").unlink()
    capsys.readouterr()
    assert run([*arguments, "--strict", "--quiet"]) == 3
    streams = capsys.readouterr()
    assert streams.out == "" and streams.err.count("\n") == 1
    assert streams.err.startswith("bioperf: images.npy: grid not converged") and record()["best"] == "grid"


def test_defaults_are_the_library_s():
    command = next(command for command in app.registered_commands if command.callback.__name__ == "tune")
    ours = inspect.signature(command.callback).parameters
    theirs = inspect.signature(bioperf.selection.select_hyperparameters).parameters
    problem = inspect.signature(bioperf.selection.TVWavelet).parameters
    for name in ("trials", "seed", "noise_std", "batched", "storage", "study_name", "threads"):
        assert ours[name].default == theirs[name].default
    assert ours["jobs"].default == theirs["n_jobs"].default
    assert [ours[name].default for name in ("isotropic", "tol")] == [
        problem["isotropic"].default,
        problem["tol"].default,
    ]
    assert typer.main.get_command(app).commands["tune"].help
