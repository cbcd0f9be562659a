"""Batches on the workers of a Dask cluster: the bytes of a local run, workers that are killed, items that kill them."""

# ruff: noqa: F811 (pytest finds a fixture by its name)
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import bioperf
from bioperf.batch import cluster as on_cluster
from bioperf.batch import run_batch
from bioperf.batch.cluster import run_on_cluster
from bioperf.batch.manifest import Item, read_manifest
from bioperf.cli.app import run
from bioperf.io import InputError, OutputError, write_image

distributed = pytest.importorskip("distributed", reason="--cluster needs Dask: pip install bioperf[cluster]")
from test_batch_run import COUNT, ROOT, deblurring, folder, outputs, records, write_rows  # noqa: E402, F401


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, worker_dashboard_address=None
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


def test_the_bytes_of_a_local_run(folder, client):
    items, notes = read_manifest("list.csv"), []
    outcome = run_on_cluster(items, "far", cluster=client, notify=lambda kind, value: notes.append((kind, value)))
    assert outcome.counts == {"done": COUNT + 2} and outcome.left == 0 and outcome.images == COUNT + 2
    run_batch(items, "near", threads=1)
    far, near = outputs(Path("far")), outputs(Path("near"))
    # a record of tune has the paths of its inputs, as the workers were given them
    assert far.pop("k.json").replace(f"{folder}/".encode(), b"") == near.pop("k.json").replace(
        f"{folder}/".encode(), b""
    )
    assert far == near
    assert notes[0] == ("total", COUNT + 2) and [kind for kind, _ in notes[1:]] == ["ended"] * (COUNT + 2)
    here, there = records("far"), records("near")
    for name, record in here.items():
        assert record["inputs"] == there[name]["inputs"] and record["key"] == there[name]["key"]
        assert (Path("far") / f"{name}.json").exists() and record["seconds"]["solve"] > 0
    # each continues what the other has done
    assert run_batch(items, "far", threads=1, resume=True).counts == {"confirmed": COUNT + 2}
    os.unlink("near/in2.png")
    notes.clear()
    outcome = run_on_cluster(
        items, "near", cluster=client, resume=True, notify=lambda kind, value: notes.append(kind)
    )  # fmt: skip
    assert outcome.counts == {"confirmed": COUNT + 1, "done": 1} and outputs(Path("near"))["in2.png"] == far["in2.png"]
    assert sorted(notes) == ["confirmed"] * (COUNT + 1) + ["ended", "total"]
    with pytest.raises(InputError, match="go on with --resume"):
        run_on_cluster(items, "near", cluster=client)


def test_failures_are_recorded_and_the_others_go_on(folder, client):
    (folder / "in1.png").write_bytes(b"no image")
    items = [*deblurring(), *read_manifest(write_rows(folder, ["missing.npy"]))]
    outcome = run_on_cluster(items, "out", cluster=client)
    assert outcome.counts == {"done": COUNT - 1, "failed": 2} and outcome.left == 0 and outcome.stopped is None
    near = run_batch(items, "near", threads=1)
    # the workers were given absolute paths
    found, expected = (
        sorted((name, reason.replace(f"{folder}/", "")) for name, reason in one.failures) for one in (outcome, near)
    )
    assert found == expected
    assert records("out")["in1.png"]["status"] == "failed"
    for k in range(COUNT):
        (folder / f"in{k}.png").write_bytes(b"no image")
    outcome = run_on_cluster(deblurring(), "out2", cluster=client, max_failures=1)
    assert outcome.stopped == "failures" and outcome.counts["failed"] >= 2


def many(folder, count=16, side=64):
    rng = np.random.default_rng(1)
    for k in range(count):
        write_image(folder / f"many{k}.png", rng.random((side, side)).astype(np.float32))
    return read_manifest("many*.png", common={"psf": "psf.npy", "target": "identity"})


def test_a_killed_worker_costs_nothing(folder, client):
    items, before = many(folder), client.run(os.getpid)
    ended = []

    def kill(kind, value):
        if kind == "ended":
            ended.append(value["item"])
            if len(ended) == 2:
                os.kill(next(iter(before.values())), signal.SIGKILL)

    outcome = run_on_cluster(items, "far", cluster=client, notify=kill)
    assert outcome.left == 0 and not outcome.counts["failed"] and sorted(ended) == sorted(item.name for item in items)
    client.wait_for_workers(2, timeout=60)
    assert set(client.run(os.getpid).values()) != set(before.values())
    run_batch(items, "near", threads=1)
    assert outputs(Path("far")).keys() >= outputs(Path("near")).keys()
    assert {name: data for name, data in outputs(Path("far")).items() if ".bioperf-" not in name} == outputs(
        Path("near")
    )


@dataclasses.dataclass(frozen=True)
class Poison(Item):
    """Ends every process but the driver."""

    driver: int = 0

    def make_job(self, out):
        if os.getpid() != self.driver:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().make_job(out)


def test_an_item_that_kills_every_worker_fails_alone(folder, client, cluster, monkeypatch):
    cloudpickle = pytest.importorskip("cloudpickle", reason="comes with dask.distributed")
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    items = deblurring()
    items[1] = Poison(**vars(items[1]), driver=os.getpid())
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        outcome = run_on_cluster(items, "out", cluster=client)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert outcome.counts == {"done": COUNT - 1, "failed": 1} and outcome.left == 0
    assert outcome.failures[0][0] == items[1].name and "its worker was lost 1 times" in outcome.failures[0][1]
    assert records("out")[items[1].name]["status"] == "failed"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="the system has no SIGUSR1")
def test_a_signal_ends_the_run_and_resume_completes_it(folder, client, cluster):
    common = ["--set", "psf=psf.npy", "--set", "target=identity", "--set", "tol=1e-14", "--set", "max_iter=2000"]
    command = [sys.executable, "-m", "bioperf", "batch", "in*.png", *common, "--out", "far", "--grace", "0.2", "-q"]
    process = subprocess.Popen(
        [*command, "--cluster", cluster.scheduler_address],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE,
    )  # fmt: skip
    journal, deadline = folder / "far" / "journal.jsonl", time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 1) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75 and b"SIGUSR1" in error, error
    assert 1 <= len(outputs(folder / "far")) < COUNT
    items = deblurring(tol="1e-14", max_iter="2000")
    assert run_on_cluster(items, "far", cluster=client, resume=True).left == 0
    run_batch(items, "near", threads=1)
    assert outputs(Path("far")) == outputs(Path("near"))


def test_an_item_larger_than_its_worker_fails_alone(folder, client, monkeypatch):
    np.save("large.npy", np.zeros((400, 400), np.float32))
    items = read_manifest(write_rows(folder, ["large.npy", "in0.png"]))

    def limit(dask_worker, share=1e-3):
        from bioperf.batch import cluster

        cluster.MEMORY_SHARE, cluster.LIBRARIES, cluster.used_memory = share, 0, lambda: 0

    client.run(limit)
    try:
        outcome = run_on_cluster(items, "out", cluster=client)
    finally:
        client.run(limit, share=on_cluster.MEMORY_SHARE)
    assert outcome.counts == {"failed": 1, "done": 1} and "give the workers more memory" in outcome.failures[0][1]


def test_workers_with_other_packages_end_the_run(folder, client, monkeypatch):
    monkeypatch.setattr(on_cluster, "_installed", lambda: {"bioperf": "0.0"})
    outcome = run_on_cluster(deblurring(), "out", cluster=client)
    assert outcome.stopped == "output" and outcome.left == COUNT
    assert f"has bioperf {bioperf.__version__}, the driver 0.0; install the same" in outcome.reason


def test_what_cannot_be_connected(folder, monkeypatch, capsys):
    monkeypatch.setattr(on_cluster, "CONNECT_SECONDS", 0.5)
    for address in ("tcp://127.0.0.1:9", "nonsense://x", ""):
        with pytest.raises(InputError, match=r"--cluster: no scheduler answers at .*; give an address such as tcp:"):
            run_on_cluster(deblurring(), f"out{len(address)}", cluster=address)
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert run(["batch", "in*.png", "--set", "psf=psf.npy", "--out", "out", "--cluster", "tcp://h:1"]) == 2
    assert capsys.readouterr().err == "bioperf: --cluster: needs Dask; pip install bioperf[cluster]\n"
    assert not list(folder.glob("out*"))  # what is set right can be begun without --resume


@pytest.mark.filterwarnings("ignore:Port:UserWarning")
def test_jobs_of_a_scheduler(folder, monkeypatch):
    """dask-jobqueue's own stand-in for Slurm, whose jobs are processes of this machine."""
    dask_jobqueue = pytest.importorskip("dask_jobqueue", reason="--cluster slurm needs dask-jobqueue")
    import dask
    from dask_jobqueue.local import LocalCluster

    asked = []

    class Jobs(LocalCluster):
        def __init__(self):
            super().__init__(cores=1, memory="2GB", python=sys.executable)

        def scale(self, n=None, jobs=0, **options):
            asked.append(jobs)
            super().scale(n, jobs, **options)

    monkeypatch.setattr(dask_jobqueue, "SLURMCluster", Jobs)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(InputError, match="set DASK_JOBQUEUE__SLURM__CORES=4 and"):
        run_on_cluster(deblurring(), "out", cluster="slurm")
    with dask.config.set({"jobqueue.slurm.cores": 1, "jobqueue.slurm.memory": "2GB"}):
        with pytest.raises(OutputError, match="the output folder cannot be made"):
            run_on_cluster(deblurring(), "in0.png", cluster="slurm", workers=1)
        assert not asked
        outcome = run_on_cluster(deblurring(), "out1", cluster="slurm", workers=1)
    assert outcome.counts == {"done": COUNT} and asked[0] == 1
