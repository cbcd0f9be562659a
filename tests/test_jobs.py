"""The jobs: they write what the library returns, the same bytes every time, and find what is wrong before the solve."""

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import typer

import bioperf
from bioperf import masks
from bioperf.cli.app import app, run
from bioperf.io import InputError, OutputError
from bioperf.jobs import JOBS, DeblurJob, MriJob, TuneJob, options
from bioperf.kernels import available_backends

ROOT = Path(bioperf.__file__).parents[1]
SIDE = 32


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a blurred image, colours and a stack, its psf, k-space of a slice and of several coils."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    image = 0.2 + 0.5 * (columns > 12) - 0.2 * ((rows - 16) ** 2 + (columns - 12) ** 2 < 60)
    psf = np.ones((3, 3)) / 9
    blurred = bioperf.Blur(psf, image.shape)(image) + 0.01 * rng.standard_normal(image.shape)
    eight = np.rint(np.clip(blurred, 0, 1) * 255).astype(np.uint8)
    np.save("psf.npy", psf)
    np.save("grey.npy", blurred.astype(np.float32))
    iio.imwrite("grey.png", eight)
    tifffile.imwrite("stack.tif", np.stack([eight, eight[::-1]]), photometric="minisblack")
    iio.imwrite("colour.png", np.stack([eight, eight, eight[::-1]], -1))
    mask = masks.radial((SIDE, SIDE), 0.5)
    spectrum = np.fft.fft2(image * np.exp(1j * columns / SIDE), norm="ortho") * mask
    np.save("mask.npy", mask)
    np.save("k.npy", spectrum.astype(np.complex64))
    np.save("slices.npy", np.stack([spectrum, 2 * spectrum]).astype(np.complex64))
    np.save("reference.npy", image.astype(np.float32))
    np.save("images.npy", np.stack([image, image.T, image[::-1]]).astype(np.float32))
    return tmp_path


def deblur(input="grey.npy", output="out.npy", **given):
    return DeblurJob(input, output, **{"psf": "psf.npy", "target": "identity", "max_iter": 30} | given)


def mri(input="k.npy", output="out.npy", **given):
    return MriJob(input, output, **{"mask": "mask.npy", "target": "identity", "max_iter": 20} | given)


def tune(input="images.npy", output="out.json", **given):
    simulated = {"simulate": True, "mask": "radial:0.4", "noise_std": 0.03, "tol": 1e-2}
    return TuneJob(input, output, **simulated | {"method": "grid", "trials": 4} | given)


def done(job, **how):
    """The result and the certificate, JSON to the letter, of a job from beginning to end."""
    job.read()
    result = job.solve(threads=1)
    assert job.write(result, **how) == job.outputs
    certificate = job.certificate(result)
    assert json.loads(json.dumps(certificate, allow_nan=False)) == certificate
    job.release()
    assert job.loaded is None
    return result, certificate


def test_importing_the_jobs_is_cheap():
    script = """
import sys
import bioperf.jobs
bioperf.jobs.DeblurJob("a", "b", psf="c")
heavy = "scipy numba torch optuna skimage matplotlib h5py nibabel pywt typer rich bioperf.cli".split()
print([name for name in heavy if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize(
    ("parse", "value", "expected"),
    [
        (options.number, "1e-3", 1e-3),
        (options.number, 2, 2.0),
        (options.number, "inf", np.inf),
        (options.integer, " 7", 7),
        (options.integer, 7.0, 7),
        (options.integer, -1, -1),
        (options.at_least(1), "1", 1),
        (options.boolean, "Yes", True),
        (options.boolean, "0", False),
        (options.boolean, 1, True),
        (options.boolean, False, False),
        (options.text, 0.5, "0.5"),
        (options.text, ":2", ":2"),
        (options.choice("a", "b"), " b ", "b"),
        (options.choices("a", "b"), "b, a", ["b", "a"]),
        (options.choices("a", "b"), ["a"], ["a"]),
    ],
)
def test_values_of_options(parse, value, expected):
    assert parse(value) == expected and type(parse(value)) is type(expected)
    assert parse(parse(value)) == expected


@pytest.mark.parametrize(
    ("parse", "value", "message"),
    [
        (options.number, "abc", "expected a number, got 'abc'"),
        (options.number, True, "expected a number, got True"),
        (options.number, [1], "expected a number"),
        (options.integer, "1.5", "expected an integer, got '1.5'"),
        (options.integer, 1.5, "expected an integer, got 1.5"),
        (options.integer, True, "expected an integer"),
        (options.at_least(1), "0", "expected an integer >= 1, got '0'"),
        (options.boolean, "maybe", "expected true or false, got 'maybe'"),
        (options.boolean, 2, "expected true or false"),
        (options.text, ["a"], "expected a text"),
        (options.text, True, "expected a text"),
        (options.choice("a", "b"), "c", "expected a or b, got 'c'"),
        (options.choices("a", "b"), "a,c", "expected a or b, got 'c'"),
        (options.choices("a", "b"), [], "expected a or b"),
    ],
)
def test_refused_values_of_options(parse, value, message):
    with pytest.raises(ValueError, match=message):
        parse(value)


def test_making_a_job_touches_no_file_and_knows_its_files():
    job = DeblurJob("none/a.png", "none/b.png", psf="none/p.npy", weights="none/w", figure="none/f.png", tol="1e-2")
    assert job.inputs == [Path("none/a.png"), Path("none/p.npy"), Path("none/w")]
    assert job.outputs == [Path("none/b.png"), Path("none/f.png")]
    assert job.options["tol"] == 1e-2 and job.options["boundary"] == "unknown" and job.options["epsilon"] is None
    assert MriJob("k", "x", maps="estimate", mask="k").inputs == [Path("k")]
    assert MriJob("k", "x", maps="m", reference="r").inputs == [Path("k"), Path("m"), Path("r")]
    assert TuneJob("k", "x", mask="radial:0.3", image="i").inputs == [Path("k")]
    assert TuneJob("k", "x", mask="m", image="i").outputs == [Path("x"), Path("i")]
    for wrong, message in (({"speed": 3}, "speed: is no file"), ({"psf": None}, "psf: missing")):
        with pytest.raises(TypeError, match=message):
            DeblurJob("a", "b", **{"psf": "p"} | wrong)
    with pytest.raises(InputError, match="tol: expected a number, got 'x'"):
        DeblurJob("a", "b", psf="p", tol="x")
    assert [job.output_suffix("a.TIF") for job in JOBS.values()] == [".TIF", ".npy", ".json"]
    assert all(job.output_suffix("a.png") in job.SUFFIXES for job in JOBS.values())


def test_options_and_defaults_are_those_of_the_command_line():
    own = {"output", "threads", "strict", "quiet", "image", "kspace", "data"}
    for name, kind in JOBS.items():
        parameters = {p.name: p.default for p in typer.main.get_command(app).commands[name].params}
        # The positional argument of deblur is the input, the option of tune an output
        shared = parameters.keys() - (own - {"image"} if name == "tune" else own)
        assert shared - {"help"} == set(kind.names())
        given = {key: parameters[key] for key in kind.OPTIONS if parameters[key] not in (None, [], ())}
        assert given == {key: value for key, value in kind.DEFAULTS.items() if key != "method"}
    assert TuneJob.DEFAULTS["method"] == ["bf-dca"]


def test_what_is_written_is_what_the_library_returns(folder):
    result, certificate = done(deblur())
    job = deblur()
    job.read()
    assert (job.shape, job.count, job.concurrent) == ((SIDE, SIDE), 1, True) and job.memory > 0
    expected = bioperf.deblur(
        np.load("grey.npy"), np.load("psf.npy"), boundary="unknown", target="identity", max_iter=30, threads=1
    )
    np.testing.assert_array_equal(np.load("out.npy"), expected.x)
    assert certificate["gap"] == float(expected.gap) and certificate["kkt_residual"] == expected.kkt_residual
    assert certificate["noise_std"] == expected.details["noise_std"] and certificate["status"] == expected.status
    assert set(certificate["seconds"]) == {"lower", "target", "upper", "total"}
    assert certificate["converged"] is bool(result.converged)


def test_certificates_of_stacks_and_colours(folder):
    for name, shape, count, items in (("stack.tif", (2, SIDE, SIDE), 2, 2), ("colour.png", (SIDE, SIDE, 3), 1, 3)):
        job = deblur(name, "out.tif")
        result, certificate = done(job)
        assert (job.shape, job.count) == (shape, count)
        for key in ("objective", "lower_bound", "gap", "kkt_residual", "iterations", "noise_std", "epsilon", "trust"):
            assert len(certificate[key]) == items, key
        assert certificate["objective"] == np.ravel(result.objective).tolist()
        assert all(len(values) == items for values in certificate["infeasibility"].values())


def test_certificate_has_no_nan(folder):
    job = deblur()
    job.read()
    result = job.solve(threads=1)
    found = job.certificate(replace(result, lower_bound=-np.inf, kkt_residual=np.nan, converged=np.bool_(False)))
    assert found["lower_bound"] is None and found["kkt_residual"] is None and found["converged"] is False
    json.dumps(found, allow_nan=False)


def test_mri_against_a_reference(folder):
    job = mri("slices.npy", magnitude="yes", coils="no")
    _, certificate = done(job)
    assert (job.shape, job.count) == ((2, SIDE, SIDE), 2) and np.load("out.npy").dtype == np.float32
    assert "psnr" not in certificate and len(certificate["data_residual"]) == 2
    job = mri(reference="reference.npy", maps="none")
    job.read()
    result = job.solve(threads=1)
    found, reference = job.certificate(result), np.load("reference.npy")
    assert found["psnr"] == pytest.approx(bioperf.psnr(np.abs(result.x), reference, reference.max()))
    assert found["ssim"] > 0.5 and found["rlne"] < 0.3


def test_tuning(folder):
    job = tune(method="grid,sure", test="1", image="x.npy")
    assert job.outputs == [Path("out.json"), Path("x.npy")]
    rows = []
    job.read()
    assert job.shape == (3, SIDE, SIDE) and job.count == 3 and not job.concurrent
    result = job.solve(callback=lambda method, row: rows.append((method, row["trial"])), threads=1)
    job.write(result)
    certificate, record = job.certificate(result), json.loads(Path("out.json").read_text())
    assert [method for method, _ in rows].count("grid") == 4 and rows[-1][0] == "sure"
    assert certificate["method"] == record["best"] == "grid" and certificate["weights"] == record["weights"]
    assert certificate["criterion"] == "supervised" and certificate["criterion_value"] == result.best.best_criterion
    assert set(certificate["methods"]) == {"grid", "sure"} and np.load("x.npy").shape == (3, SIDE, SIDE)
    assert "command" not in record and record["seconds"] > 0 and record["test"]["images"] == 1
    json.dumps(certificate, allow_nan=False)


SAME = {
    "PNG and figure": lambda: deblur("grey.png", "out.png", figure="figure.png"),
    "TIFF": lambda: deblur("stack.tif", "out.tif"),
    "NPY": deblur,
    "NIfTI and figure": lambda: mri("slices.npy", "out.nii.gz", coils=False, figure="figure.png"),
    "PNG of a slice": lambda: mri("k.npy", "out.png"),
    "record, figure and images": lambda: tune(
        method="bf-dca,discrepancy", trials=4, test="1", figure="figure.png", image="out.tif"
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_bytes_every_time(folder, monkeypatch, name):
    """Also on another machine, an hour later, with another number of threads."""
    if "NIfTI" in name:
        pytest.importorskip("nibabel", reason="NIfTI needs the package nibabel (extra mri)")
    monkeypatch.setattr(bioperf.jobs.tune, "_CONTOUR_TRIALS", 4)
    contents = []
    for threads in (1, 2):
        job = SAME[name]()
        job.read()
        result = job.solve(threads=threads)
        job.write(result, timings=False)
        contents.append([path.read_bytes() for path in job.outputs])
        for path in job.outputs:
            path.unlink()
        times = [sys.modules["time"].time() + 3600] * 9
        monkeypatch.setattr("time.time", lambda times=times: times[0])
        monkeypatch.setattr("os.cpu_count", lambda: 77)
        monkeypatch.setattr("platform.platform", lambda: "elsewhere")
    assert contents[0] == contents[1]


def test_no_time_stamps(folder):
    pytest.importorskip("nibabel", reason="NIfTI needs the package nibabel (extra mri)")
    done(deblur("stack.tif", "out.tif"))
    with tifffile.TiffFile("out.tif") as file:
        assert not [page for page in file.pages if "DateTime" in page.tags]
    done(mri(output="out.nii.gz"))
    head = Path("out.nii.gz").read_bytes()[:10]
    # RFC 1952: MTIME in bytes 4 to 7, no name of the file by flag 8
    assert head[:2] == b"\x1f\x8b" and head[4:8] == bytes(4) and not head[3] & 8
    assert gzip.decompress(Path("out.nii.gz").read_bytes())[:4] == (348).to_bytes(4, "little")


def test_record_without_timings(folder):
    def names(value):
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return {*(value if isinstance(value, dict) else ()), *(name for part in parts for name in names(part))}

    done(tune(figure="figure.png"))
    clocked = json.loads(Path("out.json").read_text())
    of_the_run = {"seconds", "threads", "platform", "cores", "available_threads"}
    assert of_the_run <= names(clocked)
    done(tune(figure="figure.png"), timings=False)
    found = json.loads(Path("out.json").read_text())
    assert names(found) == names(clocked) - of_the_run and " in " not in found["contour"]["source"]
    assert found["methods"][0]["history"]["criterion"] == clocked["methods"][0]["history"]["criterion"]


WRONG = {
    "noise": (lambda: deblur(noise_std=0), "--noise-std: must be"),
    "tolerance": (lambda: deblur(tol="nan"), "--tol: must be"),
    "iterations": (lambda: deblur(max_iter=0), "--max-iter: must be"),
    "radius": (lambda: mri(epsilon=-1), "--epsilon: must be"),
    "weight": (lambda: mri(tv_weight=0), "--tv-weight: must be"),
    "huge": (lambda: deblur("huge.npy"), "huge.npy: the largest magnitude"),
    "nothing sampled": (lambda: mri("zero.npy"), "zero.npy: all samples are 0"),
    "tuned to zero": (lambda: tune(tol=0), "--tol: must be"),
    "unknown wavelet": (lambda: tune(wavelet="haarr"), "--wavelet: "),
    "suffix": (lambda: deblur(output="out.jpg"), "out.jpg: unknown format"),
    "missing weights": (lambda: deblur(weights="w"), "--weights: is for --target cnn"),
    "network of mri": (lambda: mri(device="cuda"), "--device: is for --target cnn"),
}


@pytest.mark.parametrize("name", WRONG)
def test_read_finds_what_is_wrong(folder, name):
    np.save("huge.npy", np.full((SIDE, SIDE), 1e30, np.float32))
    np.save("zero.npy", np.where(np.load("mask.npy"), 0, 1).astype(np.complex64))
    make, message = WRONG[name]
    job, before = make(), sorted(os.listdir())
    with pytest.raises(InputError, match=message):
        job.read()
    assert sorted(os.listdir()) == before


def test_read_finds_where_nothing_can_be_written(folder):
    for make in (deblur, mri, tune):
        job = make(output="none/out.npy" if make is not tune else "none/out.json")
        with pytest.raises(OutputError, match=r"the folder .* does not exist"):
            job.read()


def test_memory_grows_with_what_is_solved(folder):
    def memory(job):
        job.read()
        return job.memory

    np.save("wide.npy", np.tile(np.load("grey.npy"), (8, 8)))
    np.save("wide64.npy", np.load("wide.npy").astype(float))
    np.save("coils.npy", np.tile(np.load("k.npy"), (4, 1, 1)))
    one = memory(deblur())
    assert 5 * one < memory(deblur("wide.npy")) < 64 * one
    # 15 to 20 images of float32 while one is solved
    assert 14 < memory(deblur("wide.npy")) / np.load("wide.npy").nbytes < 25
    assert 1.8 < memory(deblur("wide64.npy")) / memory(deblur("wide.npy")) < 2.1
    assert memory(deblur(figure="f.png")) > one + 2e7
    assert (
        memory(mri("coils.npy", coils=True, maps="coils.npy")) > memory(mri("coils.npy", coils=False)) > memory(mri())
    )
    assert memory(tune(method="bf-dca")) > memory(tune()) > memory(tune(wavelet="none"))
    assert memory(tune(batched=True, trials=100)) > 3 * memory(tune(batched=True, trials=4))
    job = deblur("stack.tif", "out.tif")
    assert memory(job) == job.memory_on(1) < job.memory_on(2) == job.memory_on(8)


def test_the_peak_in_a_process(folder):
    """What a solve of 384 x 384 takes at most (Linux), beyond what a small one left behind."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a process's memory cannot be reset here")
    script = """
import numpy as np
from bioperf.jobs import DeblurJob
def status(name):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
def solved(name):
    job = DeblurJob(name, "out.npy", psf="psf.npy", target="deconv", noise_std=0.01, tol=1, boundary="periodic")
    job.read()
    job.write(job.solve(threads=1))
    return job
solved("grey.npy")
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
print(solved("wide.npy").memory / (status("VmHWM") - before))
"""
    np.save("wide.npy", np.tile(np.load("grey.npy"), (12, 12)))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert 0.7 < float(found.stdout) < 2, found.stdout + found.stderr


def test_both_levels_on_a_gpu(folder, monkeypatch):
    calls = []
    monkeypatch.setattr(bioperf.jobs.deblur, "require_gpu", lambda: None)
    monkeypatch.setattr(bioperf, "deblur", lambda *a, **given: calls.append(given))
    for device in ("cpu", "cuda"):
        job = deblur(device=device, target="nlm")
        job.read()
        job.solve(callback=print)
        assert job.concurrent is (device == "cpu")
    assert [(given["device"], given["callback"]) for given in calls] == [(None, print), ("cuda", None)]


def test_a_solve_on_a_gpu(folder):
    """Where no GPU is, on Numba's simulator."""
    if available_backends()["cuda"] is not True:
        pytest.skip(f"no CUDA kernels here: {available_backends()['cuda']}")
    np.save("tiny.npy", np.load("grey.npy")[:6, 10:15])
    results = []
    arguments = ["--psf", "psf.npy", "-o", "out.npy", "--target", "deconv", "--noise-std", "0.01", "--max-iter", "10"]
    for device in ("cpu", "cuda"):
        assert run(["deblur", "tiny.npy", *arguments, "--boundary", "periodic", "--device", device, "-q"]) == 0
        results.append(np.load("out.npy"))
    np.testing.assert_allclose(results[1], results[0], atol=2e-3)


def test_no_gpu_is_one_line(folder):
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    environment |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    arguments = ["deblur", "grey.npy", "--psf", "psf.npy", "-o", "out.npy", "--device", "cuda"]
    found = subprocess.run(
        [sys.executable, "-m", "bioperf", *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 2 and found.stdout == "" and not Path("out.npy").exists()
    assert found.stderr.startswith("bioperf: --device: ") and found.stderr.count("\n") == 1
