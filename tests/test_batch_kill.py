"""A batch killed by SIGKILL at random moments and resumed: nothing lost, nothing half-written, the same bytes.

``pytest tests/test_batch_kill.py --kills 100`` for the whole campaign.
"""

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from test_batch_run import outputs, records

import bioperf
from bioperf.batch import read_manifest, run_batch
from bioperf.io import write_image

ROOT = Path(bioperf.__file__).parents[1]
COUNT, SIDE = 12, 48
OPTIONS = {"psf": "psf.npy", "target": "identity", "tol": "1e-6"}

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX systems")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    psf = np.ones((3, 3)) / 9
    np.save(tmp_path / "psf.npy", psf)
    scene = (np.add.outer(np.arange(SIDE), np.arange(SIDE)) % 17 > 8).astype(np.float32)
    A = bioperf.Blur(psf, scene.shape)
    for k in range(COUNT):
        blurred = A(np.roll(scene, k, 0)) + rng.normal(scale=0.01, size=scene.shape)
        write_image(tmp_path / f"in{k:02d}.png", (0.8 * blurred + 0.1).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_killed_at_random_moments_and_resumed(folder, request):
    run_batch(read_manifest("in*.png", common=OPTIONS), "whole", threads=1)
    expected = outputs(Path("whole"))
    settings = [word for name, value in OPTIONS.items() for word in ("--set", f"{name}={value}")]
    command = [
        sys.executable,
        "-m",
        "bioperf",
        "batch",
        "in*.png",
        *settings,
        "--threads",
        "2",
        "-q",
        "--resume",
        "--out",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}

    subprocess.run([*command, "timed"], env=environment, check=True, timeout=120)
    assert outputs(Path("timed")) == expected
    lines = Path("timed/journal.jsonl").read_text().splitlines()
    times = [datetime.fromisoformat(json.loads(line)["time"]) for line in lines]
    duration = (times[-1] - times[0]).total_seconds()

    rng = np.random.default_rng(0)
    done = []
    for k in range(request.config.getoption("--kills")):
        out = Path(f"out{k}")
        process = subprocess.Popen([*command, out], env=environment)
        journal, deadline = out / "journal.jsonl", time.monotonic() + 60
        while not journal.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(duration * rng.uniform(0, 1))
        process.kill()
        process.wait(timeout=60)
        finished = {path: path.stat().st_mtime_ns for path in out.glob("[!.]*.png")}
        known = records(out) if out.exists() else {}
        for name in (path.name for path in finished):
            assert (out / name).read_bytes() == expected[name]  # whole or not at all
        assert set(known) <= {path.name for path in finished}  # a line only for what is there
        done.append(len(known))

        subprocess.run([*command, out], env=environment, check=True, timeout=120)
        assert outputs(out) == expected and set(records(out)) == set(expected)
        kept = {path: path.stat().st_mtime_ns for path in finished if path.name in known}
        assert all(path.stat().st_mtime_ns == moment for path, moment in kept.items())  # not done again
        assert not [name for name in os.listdir(out) if name.startswith(".")]
    print(f"items done at the kills: {sorted(done)}")
