"""The scripts of ``hpc/`` on a real Slurm of one node: arrays that are killed, preempted and requeued lose nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import slurm_cluster

from bioperf.batch import read_manifest, run_batch
from bioperf.kernels import available_threads

HPC = Path(__file__).resolve().parents[1] / "hpc"
if not HPC.is_dir():
    pytest.skip("the scripts of hpc/ are not part of this copy", allow_module_level=True)

# What is asked for beside the scripts' own settings, which are larger than the node.
SMALL = ("--cpus-per-task=1", "--mem=900M")
ITEMS, TASKS = 32, 4


def unavailable(reason):
    if os.environ.get("BIOPERF_REQUIRE_SLURM", "0") not in ("", "0"):
        pytest.fail(f"BIOPERF_REQUIRE_SLURM is set: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def cluster():
    if (reason := slurm_cluster.missing()) is not None:
        unavailable(reason)
    try:
        cluster = slurm_cluster.Cluster().__enter__()
    except RuntimeError as error:
        unavailable(f"Slurm does not start here: {error}")
    try:
        yield cluster
    finally:
        cluster.__exit__()


@pytest.fixture
def bioperf(tmp_path):
    """``BIOPERF=`` this interpreter's ``bioperf``, and no more threads than a task's processor."""
    command = tmp_path / "bioperf"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bioperf "$@"\n')
    command.chmod(0o755)
    return {"BIOPERF": str(command), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def stand_in(tmp_path):
    """``BIOPERF=`` a command that writes its arguments and its GPU, and ends with status $END, or 75 when signalled."""
    command = tmp_path / "stand-in"
    command.write_text(
        "#!/bin/bash\n"
        "trap 'exit 75' USR1 TERM\n"
        'echo "arguments: $*"; echo "gpu: ${CUDA_VISIBLE_DEVICES:-none}"\n'
        "for _ in $(seq ${SECONDS_TO_RUN:-0}0); do sleep 0.1; done\n"
        "exit ${END:-0}\n"
    )
    command.chmod(0o755)
    return {"BIOPERF": str(command)}


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """A manifest of ``ITEMS`` images of some tenths of a second each, and the outputs of an undisturbed run."""
    folder = tmp_path_factory.mktemp("batch")
    rng = np.random.default_rng(7)
    np.save(folder / "psf.npy", np.full((5, 5), 1 / 25))
    rows = ["input,psf,output,target,tol,max_iter"]
    for k in range(ITEMS):
        np.save(folder / f"image{k}.npy", rng.random((192, 192), dtype=np.float32))
        rows.append(f"image{k}.npy,psf.npy,restored{k}.npy,identity,1e-4,5000")
    manifest = folder / "list.csv"
    manifest.write_text("\n".join(rows) + "\n")
    outcome = run_batch(read_manifest(manifest), folder / "undisturbed")
    assert outcome.counts == {"done": ITEMS}
    return manifest, folder / "undisturbed"


def records(path):
    """The items' lines of a journal that are whole."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(ValueError):  # what a killed process left of one
            found.append(json.loads(line))
    return [record for record in found if "item" in record]


def journal(out, index, count=TASKS):
    return out / f"journal-{index}-of-{count}.jsonl"


def until(condition, what, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"{what} within {seconds} s"
        time.sleep(0.02)


def states(tasks):
    return {index: task["JobState"] for index, task in tasks.items()}


def log_of(folder, job):
    path = folder / f"slurm-{job}.out"
    return path.read_text() if path.exists() else ""


def logs_in(folder):
    return "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(folder.glob("slurm-*.out")))


def test_a_disturbed_array_gives_the_bytes_of_an_undisturbed_run(cluster, batch, bioperf, tmp_path):
    manifest, undisturbed = batch
    out = tmp_path / "out"
    job = cluster.submit(
        *SMALL, f"--array=0-{TASKS - 1}", HPC / "array.sbatch", manifest, out, "--quiet",
        environment=bioperf, cwd=tmp_path,
    )  # fmt: skip

    # one is killed without a word, one is told that its time is over, and a job that needs the whole node preempts all
    until(lambda: records(journal(out, 0)), "task 0 has done an item")
    killed = cluster.processes(cluster.tasks(job)["0"])
    assert killed
    for process in killed:
        os.kill(process, signal.SIGKILL)
    until(lambda: records(journal(out, 1)), "task 1 has done an item")
    cluster.run("scancel", "--signal=USR1", "--batch", f"{job}_1")
    urgent = cluster.submit("--partition=urgent", f"--cpus-per-task={slurm_cluster.CPUS}", "--wrap=true", cwd=tmp_path)
    assert sum(len(records(journal(out, k))) for k in range(TASKS)) < ITEMS
    cluster.wait(urgent)
    tasks = cluster.wait(job, timeout=120)
    assert states(tasks) == {"0": "FAILED", "1": "COMPLETED", "2": "COMPLETED", "3": "COMPLETED"}, logs_in(tmp_path)
    restarts = [int(tasks[str(k)]["Restarts"]) for k in range(TASKS)]
    assert restarts[0] == 0 and restarts[1] >= 1 and restarts[2] + restarts[3] >= 1

    cluster.run("scontrol", "requeue", f"{job}_0")
    tasks = cluster.wait(job, timeout=120)
    assert set(states(tasks).values()) == {"COMPLETED"}, logs_in(tmp_path)

    names = [f"restored{k}.npy" for k in range(ITEMS)]
    for k, name in enumerate(names):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()
        sidecar = json.loads((out / f"{name}.json").read_text())
        assert sidecar["certificate"]["converged"]
        done = [record for record in records(journal(out, k % TASKS)) if record["item"] == name]
        # what the kill caught between an item's output and its line is done twice, to the same bytes
        assert {record["status"] for record in done} == {"done"}
        assert {record["outputs"][name][0] for record in done} == {sidecar["outputs"][name]["sha256"]}
    expected = {*names, *(f"{name}.json" for name in names), *(journal(out, k).name for k in range(TASKS))}
    assert {path.name for path in out.iterdir()} == expected


def test_threads_and_memory_are_those_of_the_allocation(cluster, tmp_path):
    code = "from bioperf.batch.resources import *; print(allocated_threads(), allocated_memory())"
    for processors in (1, 2):
        step = cluster.run("srun", "--ntasks=1", f"--cpus-per-task={processors}", sys.executable, "-c", code)
        assert int(step.stdout.split()[0]) == min(processors, available_threads())
    script = tmp_path / "ask"
    script.write_text(f"#!/bin/sh\nsrun '{sys.executable}' -c '{code}'\n")
    job = cluster.submit("--cpus-per-task=1", "--mem=700M", script, cwd=tmp_path)
    cluster.wait(job)
    assert log_of(tmp_path, job) == f"1 {int(0.8 * 700 * 2**20)}\n"


@pytest.mark.parametrize(
    "array, shares, expected",
    [
        (None, None, {"0": "0 1"}),
        ("2-8:3", None, {"2": "0 3", "5": "1 3", "8": "2 3"}),
        ("3,7", "9", {"3": "3 9", "7": "7 9"}),
    ],
)
def test_shares_of_a_manifest(cluster, stand_in, tmp_path, array, shares, expected):
    options = () if array is None else (f"--array={array}",)
    settings = stand_in | ({} if shares is None else {"BIOPERF_SHARES": shares})
    job = cluster.submit(
        *SMALL, *options, HPC / "array.sbatch", "list.csv", "out", "--set", "tol=1e-4",
        environment=settings, cwd=tmp_path,
    )  # fmt: skip
    tasks = cluster.wait(job)
    assert states(tasks) == dict.fromkeys(expected, "COMPLETED")
    for task, share in expected.items():
        index, count = share.split()
        line = f"batch list.csv --out out --resume --array-index {index} --array-count {count} --set tol=1e-4"
        assert f"arguments: {line}\n" in log_of(tmp_path, job if array is None else f"{job}_{task}")


def test_an_array_with_gaps_must_say_how_many_shares_there_are(cluster, stand_in, tmp_path):
    job = cluster.submit(
        *SMALL, "--array=3,7", HPC / "array.sbatch", "list.csv", "out", environment=stand_in, cwd=tmp_path
    )
    tasks = cluster.wait(job)
    assert {task["ExitCode"] for task in tasks.values()} == {"2:0"}
    assert "set BIOPERF_SHARES" in log_of(tmp_path, f"{job}_3")


def test_a_gpu_job_has_its_gpu_and_asks_for_it(cluster, stand_in, tmp_path):
    job = cluster.submit(*SMALL, HPC / "gpu.sbatch", "list.csv", "out", environment=stand_in, cwd=tmp_path)
    assert states(cluster.wait(job)) == {"0": "COMPLETED"}
    assert "--array-count 1 --set device=cuda\n" in log_of(tmp_path, job)
    assert "gpu: 0\n" in log_of(tmp_path, job)


@pytest.mark.parametrize("status", [1, 3])
def test_the_status_of_the_run_is_that_of_the_job(cluster, stand_in, tmp_path, status):
    job = cluster.submit(
        *SMALL, HPC / "array.sbatch", "list.csv", "out", environment=stand_in | {"END": str(status)}, cwd=tmp_path
    )
    task = cluster.wait(job)["0"]
    assert (task["JobState"], task["ExitCode"], task["Restarts"]) == ("FAILED", f"{status}:0", "0")


def test_requeues_end(cluster, stand_in, tmp_path):
    settings = stand_in | {"END": "75", "BIOPERF_RESTARTS": "1"}
    job = cluster.submit(*SMALL, HPC / "array.sbatch", "list.csv", "out", environment=settings, cwd=tmp_path)
    task = cluster.wait(job)["0"]
    assert (task["JobState"], task["ExitCode"], task["Restarts"]) == ("FAILED", "75:0", "1")
    assert "items are left after 1 restarts" in log_of(tmp_path, job)


def test_a_cancelled_job_stays_cancelled(cluster, stand_in, tmp_path):
    settings = stand_in | {"SECONDS_TO_RUN": "60"}
    job = cluster.submit(*SMALL, HPC / "array.sbatch", "list.csv", "out", environment=settings, cwd=tmp_path)
    until(lambda: cluster.tasks(job)["0"]["JobState"] == "RUNNING", "the job has started")
    until(lambda: "gpu:" in log_of(tmp_path, job), "its run has started")
    cluster.run("scancel", job)
    task = cluster.wait(job, until=lambda tasks: tasks["0"]["JobState"] not in ("RUNNING", "COMPLETING"))["0"]
    assert (task["JobState"], task["Restarts"]) == ("CANCELLED", "0")


def test_both_scripts_have_the_same_body():
    array, gpu = ((HPC / name).read_text() for name in ("array.sbatch", "gpu.sbatch"))
    mark = "# From here on array.sbatch and gpu.sbatch are the same.\n"
    assert array.partition(mark)[2] == gpu.partition(mark)[2] != ""


@pytest.mark.parametrize("script", ["array.sbatch", "gpu.sbatch"])
def test_a_missing_argument_is_said(script):
    done = subprocess.run(["bash", HPC / script, "list.csv"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_a_cluster_ends_with_the_process_that_started_it():
    if (reason := slurm_cluster.missing()) is not None:
        unavailable(reason)
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from slurm_cluster import Cluster\n"
        "with Cluster() as cluster:\n"
        "    job = cluster.submit('--wrap=sleep 1000', cwd='/')\n"
        "    cluster.wait(job, until=lambda tasks: tasks['0']['JobState'] == 'RUNNING')\n"
        "    print(cluster.folder, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with owner:
        folder = Path(owner.stdout.readline().strip())
        assert folder.name.startswith("bioperf-slurm-")
        owner.kill()
    until(lambda: not folder.exists(), "the cluster's folder is gone")
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _reads(path, str(folder))]
    assert left == []


def _reads(path, text):
    with suppress(OSError):
        return text in path.read_text(errors="replace")
    return False
