"""Runs of a batch: outputs with certificates, failures that stop nothing, resumes that lose and repeat nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import bioperf
from bioperf import masks
from bioperf.batch import preview_batch, read_manifest, run_batch
from bioperf.batch.journal import Journal, read_journals
from bioperf.batch.resources import used_memory
from bioperf.batch.run import LIBRARIES
from bioperf.cli.app import run
from bioperf.io import InputError, OutputError, write_image

ROOT = Path(bioperf.__file__).parents[1]
SIDE, COUNT = 32, 5


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Five blurred images, a psf, k-space with its mask, and manifests."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    scene = (0.3 + 0.4 * (columns > 13) - 0.2 * ((rows - 16) ** 2 + (columns - 12) ** 2 < 40)).astype(np.float32)
    psf = np.ones((3, 3)) / 9
    A = bioperf.Blur(psf, scene.shape)
    for k in range(COUNT):
        blurred = A(np.roll(scene, k, 0)) + rng.normal(scale=0.01, size=scene.shape)
        write_image(tmp_path / f"in{k}.png", blurred.astype(np.float32))
    np.save(tmp_path / "psf.npy", psf)
    mask = masks.radial(scene.shape, 0.5)
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "k.npy", bioperf.MaskedFourier(mask)(scene))
    lines = ["job,input,psf,mask,target,method,trials"]
    lines += [f"deblur,in{k}.png,psf.npy,,identity,," for k in range(COUNT)]
    lines += ["mri,k.npy,,mask.npy,identity,,", "tune,k.npy,,mask.npy,,random,3"]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outputs(out):
    """What a batch promises to give again: the bytes of all outputs."""
    sidecars = {f"{path}.json" for path in out.rglob("*")}
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and str(path) not in sidecars and not path.name.startswith("journal")
    }


def deblurring(**options):
    return read_manifest("in*.png", common={"psf": "psf.npy", "target": "identity"} | options)


def records(out):
    return read_journals(out)[0]


def call(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "bioperf", *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


def test_every_job_leaves_its_output_a_sidecar_and_a_line(folder):
    items = read_manifest("list.csv")
    items = [item for item in items if item.job != "tune"] + [item for item in items if item.job == "tune"]
    out = folder / "out"
    outcome = run_batch(items, out, threads=2)
    assert outcome.counts == {"done": COUNT + 2} and outcome.left == 0 and outcome.images == COUNT + 2
    assert set(outputs(out)) == {"in0.png", "in1.png", "in2.png", "in3.png", "in4.png", "k.npy", "k.json"}
    known = records(out)
    for item in items:
        sidecar = json.loads((out / f"{item.name}.json").read_text())
        assert sidecar["certificate"]["converged"] is True and sidecar["certificate"]["status"]
        assert sidecar["environment"]["versions"]["bioperf"] == bioperf.__version__
        assert sidecar["threads"] >= 1 and sidecar["seconds"]["solve"] > 0
        assert known[item.name]["status"] == "done" and known[item.name]["key"] == item.key
        for path, facts in sidecar["inputs"].items():
            assert facts["bytes"] == os.path.getsize(path) and len(facts["sha256"]) == 64
    assert json.loads((out / "in0.png.json").read_text())["certificate"]["lower_bound"] > 0
    single = folder / "single.png"
    assert run(["deblur", "in0.png", "--psf", "psf.npy", "--target", "identity", "-o", str(single), "-q"]) == 0
    assert single.read_bytes() == (out / "in0.png").read_bytes()


def test_failures_are_recorded_and_the_others_go_on(folder):
    (folder / "in1.png").write_bytes(b"no image")
    (folder / "in3.png").unlink()
    items = deblurring(max_iter="20") + read_manifest("list.csv")[-2:]
    items = [*items, *read_manifest(write_rows(folder, ["in3.png", "missing.npy"]))]
    outcome = run_batch(items, "out", threads=2)
    reasons = dict(outcome.failures)
    assert outcome.counts["done"] >= 2 and outcome.counts["failed"] == 3 and outcome.left == 0
    assert "in1.png" in reasons["in1.png"] and "no such file" in reasons["x0.png"].lower()
    assert records("out")["in1.png"]["status"] == "failed" and not Path("out/in1.png").exists()
    assert sorted(os.listdir(".")) == sorted({*os.listdir(".")})  # nothing beside the outputs
    assert not [name for name in os.listdir("out") if name.startswith(".")]


def write_rows(folder, names):
    path = folder / "rows.csv"
    rows = "".join(f"{name},psf.npy,x{k}.png\n" for k, name in enumerate(names))
    path.write_text("input,psf,output\n" + rows, encoding="utf-8")
    return path


def test_no_convergence_keeps_the_output_and_is_said(folder):
    items = deblurring(max_iter="5", tol="1e-9")
    outcome = run_batch(items, "out", threads=2)
    assert outcome.counts == {"not converged": COUNT} and len(outputs(Path("out"))) == COUNT
    assert all("not converged" in reason for _, reason in outcome.failures)
    again = run_batch(items, "out", threads=2, resume=True)
    assert again.counts == {"confirmed": COUNT} and len(again.failures) == COUNT  # the same bytes would come again
    common = ["--set", "psf=psf.npy", "--set", "target=identity", "--set", "tol=1e-9", "--set", "max_iter=5"]
    assert run(["batch", "in*.png", "--out", "out", "--resume", "-q", *common]) == 3


def test_resume_does_what_is_not_confirmed_and_nothing_else(folder):
    items, out = deblurring(), folder / "out"
    run_batch(items, out, threads=2)
    first, times = outputs(out), {path: path.stat().st_mtime_ns for path in out.glob("*.png")}

    assert run_batch(items, out, threads=2, resume=True).counts == {"confirmed": COUNT}
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.png")} == times

    (out / "in0.png").unlink()
    (out / "in1.png").write_bytes(first["in1.png"][:-1] + b"\0")
    (out / "in2.png.json").unlink()
    outcome = run_batch(items, out, threads=2, resume=True)
    assert outcome.counts == {"confirmed": COUNT - 3, "done": 3} and outputs(out) == first

    os.utime(folder / "in0.png")  # touched, not changed
    assert run_batch(items, out, threads=2, resume=True).counts == {"confirmed": COUNT}
    (folder / "in4.png").write_bytes((folder / "in3.png").read_bytes())
    assert run_batch(items, out, threads=2, resume=True).counts == {"confirmed": COUNT - 1, "done": 1}
    assert outputs(out)["in4.png"] == outputs(out)["in3.png"]

    outcome = run_batch(deblurring(tv_weight="0.02"), out, threads=2, resume=True)
    assert outcome.counts == {"done": COUNT} and outputs(out)["in0.png"] != first["in0.png"]


def test_outputs_do_not_depend_on_threads_or_on_the_shares(folder):
    items = read_manifest("list.csv")[:-1]
    run_batch(items, "one", threads=1)
    for k in range(3):
        run_batch(items[k::3], "shares", threads=3, task=(k, 3))
    assert outputs(Path("one")) == outputs(Path("shares"))
    assert sorted(path.name for path in Path("shares").glob("journal*")) == [
        f"journal-{k}-of-3.jsonl" for k in range(3)
    ]
    assert run_batch(items, "shares", threads=2, resume=True).counts == {"confirmed": len(items)}


def test_a_folder_with_a_batch_is_not_begun_anew(folder):
    run_batch(deblurring(), "out", threads=1)
    with pytest.raises(InputError, match="go on with --resume"):
        run_batch(deblurring(), "out", threads=1)
    Path("file").write_text("x")
    for out in ("file", "file/out"):
        with pytest.raises(OutputError, match="cannot be made"):
            run_batch(deblurring(), out, threads=1)


def test_no_output_replaces_an_input(folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (folder / "here").symlink_to(folder)
    for out in (".", folder, "here"):
        with pytest.raises(InputError, match="is an input of the batch"):
            run_batch(deblurring(), out)
        with pytest.raises(InputError, match="would be replaced"):
            preview_batch(deblurring(), out)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.name != "here"} == before


def test_damaged_journals_cost_work_and_nothing_else(folder):
    items, out = deblurring(), folder / "out"
    run_batch(items, out, threads=2)
    first, journal = outputs(out), out / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    hostile = [b"\xff\xfe\n", b"[" * 3000 + b"\n", b'{"item": "in0.png"}\n', b"null\n", b'{"item": 1, "time": 2}\n']
    journal.write_bytes(b"".join(hostile + lines[:-1]) + lines[-1][:40])  # killed in the middle of the last line
    lost = json.loads(lines[-1])["item"]
    outcome = run_batch(items, out, threads=2, resume=True)
    assert outcome.counts == {"confirmed": COUNT - 1, "done": 1} and outputs(out) == first
    assert records(out)[lost]["status"] == "done" and read_journals(out)[1] == len(hostile) + 1


def test_two_processes_on_one_journal_are_refused(folder):
    (folder / "out").mkdir()
    journal = Journal(folder / "out" / "journal.jsonl")
    try:
        with pytest.raises(OutputError, match="another process works on this batch"):
            run_batch(deblurring(), folder / "out", resume=True)
    finally:
        journal.close()
    assert run_batch(deblurring(), folder / "out", resume=True).counts == {"done": COUNT}


def test_max_failures_ends_the_run(folder):
    for k in range(COUNT):
        (folder / f"in{k}.png").write_bytes(b"no image")
    outcome = run_batch(deblurring(), "out", threads=1, max_failures=1)
    assert outcome.stopped == "failures" and outcome.counts["failed"] >= 2
    common = ["--set", "psf=psf.npy", "--out", "out2", "-q"]
    assert run(["batch", "in*.png", "--max-failures", "0", *common]) == 1


def test_an_item_larger_than_the_memory_fails_alone(folder):
    np.save("large.npy", np.zeros((3000, 3000), np.float32))
    rows = write_rows(folder, ["large.npy", "in0.png"])
    memory = max(used_memory(), LIBRARIES) + 2**27
    outcome = run_batch(read_manifest(rows), "out", threads=1, memory=memory)
    assert outcome.counts == {"failed": 1, "done": 1} and "--memory leaves" in outcome.failures[0][1]
    with pytest.raises(InputError, match="--memory"):
        run_batch(deblurring(), "out2", threads=1, memory=2**20)
    assert not Path("out2").exists()


def test_a_dry_run_reads_all_and_writes_nothing(folder, capsys):
    (folder / "in1.png").write_bytes(b"no image")
    preview = preview_batch(deblurring(), "out", threads=2)
    assert len(preview.sizes) == COUNT - 1 and [name for name, _ in preview.failures] == ["in1.png"]
    assert all(size > 4 * SIDE * SIDE for _, _, size, _ in preview.sizes)
    assert preview.peak <= preview.memory
    assert run(["batch", "list.csv", "--out", "out", "--dry-run"]) == 1
    printed = capsys.readouterr()
    assert "in1.png" in printed.err and "estimated peak" in printed.out and not Path("out").exists()
    (folder / "in1.png").write_bytes((folder / "in0.png").read_bytes())
    assert run(["batch", "list.csv", "--out", "out", "--dry-run", "-q"]) == 0


def test_the_command_says_by_its_status_how_it_went(folder, capsys):
    common = ["--set", "psf=psf.npy", "--set", "target=identity"]
    assert run(["batch", "in*.png", "--out", "out", *common]) == 0
    printed = capsys.readouterr().out
    assert "5 items" in printed and "images per second" in printed
    assert run(["batch", "in*.png", "--out", "out", "--resume", *common]) == 0
    assert "confirmed by journal and SHA-256" in capsys.readouterr().out
    (folder / "in1.png").write_bytes(b"no image")
    assert run(["batch", "in*.png", "--out", "out", "--resume", *common, "-q"]) == 1
    assert "in1.png" in capsys.readouterr().err
    for wrong in (
        ["--array-index", "1"],
        ["--array-index", "4", "--array-count", "4"],
        ["--memory", "lots"],
        ["--set", "psf"],
        ["--set", "psf=a.npy"],
        ["--set", "colour=red"],
        ["--workers", "2"],
        ["--cluster", "tcp://h:1", "--threads", "2"],
        ["--max-failures", "-1"],
    ):
        assert run(["batch", "in*.png", "--out", "new", *common, *wrong]) == 2, wrong
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1 and not printed.out, printed
    assert not Path("new").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="the system has no SIGUSR1")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_ends_the_run_and_resume_completes_it(folder, name):
    """The items are slow enough to be met in the middle by their tolerance, which is never reached."""
    common = ["--set", "psf=psf.npy", "--set", "target=identity", "--set", "tol=1e-14", "--set", "max_iter=3000"]
    command = [sys.executable, "-m", "bioperf", "batch", "in*.png", *common, "--threads", "1", "-q"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*command, "--out", "out", "--grace", "0.2"], env=environment, stderr=subprocess.PIPE)
    journal = folder / "out" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.exists() and b"\n" in journal.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(getattr(signal, name))
    _, error = process.communicate(timeout=60)
    assert process.returncode == (130 if name == "SIGINT" else 75), error
    assert name in error.decode() and "--resume" in error.decode()
    assert len(outputs(folder / "out")) < COUNT
    assert subprocess.run([*command, "--out", "out", "--resume"], env=environment).returncode == 3
    assert run(["batch", "in*.png", *common, "--out", "whole", "-q"]) == 3
    assert outputs(folder / "out") == outputs(folder / "whole") and len(outputs(folder / "out")) == COUNT


def test_a_full_disk_ends_the_run_and_resume_completes_it(folder):
    """The limit on the size of files stands for the full disk: the journal or an output meets it."""
    limited = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500)); from bioperf.cli import main; main(sys.argv[1:])"
    )
    common = ["--set", "psf=psf.npy", "--set", "target=identity", "--threads", "1", "-q"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", limited, "batch", "in*.png", "--out", "out", *common],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode in (1, 2) and "Traceback" not in result.stderr
    assert not [name for name in os.listdir("out") if name.startswith(".")]
    assert run(["batch", "in*.png", "--out", "out", "--resume", *common]) == 0
    run_batch(deblurring(), "whole", threads=1)
    assert outputs(Path("out")) == outputs(Path("whole"))
