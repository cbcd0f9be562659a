"""A small part of the fuzzing campaign (tests/fuzz/campaign.py), the same in every run; and that it finds faults."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("h5py", reason="HDF5 needs the package h5py (extra mri)")
pytest.importorskip("torch", reason="weights need the extra torch")

from fuzz import campaign, files, harness, oracles

from bioperf.batch.manifest import read_manifest
from bioperf.io import InputError, read_image

CASES = 700
# A fifth of a second and more a case
SLOW = {"cli-process": 1, "cli-hdf5": 1, "cli-train": 2, "cli-tune": 6}


@pytest.mark.parametrize("name", list(campaign.targets()))
def test_a_part_of_the_campaign(name):
    whole = {target: stop for target, _, stop in campaign.shares(CASES, None)}
    failures, counts = campaign.here([(name, 0, SLOW.get(name, whole[name]))], seed=1)
    assert not failures, failures[0]
    assert sum(counts.values()) >= 1


def test_the_plain_png_reader_reads_what_pillow_reads(tmp_path):
    for data in files.png_seeds():
        (tmp_path / "a.png").write_bytes(data)
        image, info = read_image(tmp_path / "a.png")
        values = oracles.png(data)
        assert values.dtype == info.dtype or values.dtype == bool
        np.testing.assert_array_equal(image, files.scaled(values))


def test_many_columns_of_a_manifest_are_refused_at_once(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("input," + ",".join(map(str, range(150000))) + "\na.png" + "," * 150000)
    with pytest.raises(InputError, match=r"list.csv:2: psf: missing"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda case: 1 / 0, "ZeroDivisionError"),
        (lambda case: harness.refusal(ValueError("two\nlines")), "more than one line"),
        (lambda case: harness.refusal(ValueError("a: does not fit in memory; crop it")), "asked for too much memory"),
        (lambda case: files.same(np.ones(2), np.zeros(2), "image"), "values differ"),
    ],
)
def test_faults_are_failures(tmp_path, monkeypatch, fault, words):
    monkeypatch.setitem(harness.TARGETS, "faulty", harness.Target("faulty", 1, fault))
    accepted, said = campaign.run_case("faulty", 0, 0, tmp_path)
    assert accepted is None and words in said


def test_workers_run_the_cases_and_print_a_table(tmp_path):
    command = [
        sys.executable,
        campaign.__file__,
        "--cases",
        "30",
        "--jobs",
        "1",
        "--only",
        "xml",
        "--out",
        tmp_path / "out",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(campaign.__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0][:5] == ["target", "cases", "refused", "accepted", "failures"]
    assert rows[1][:2] == ["xml", "30"] and rows[1][4] == "0" and rows[2][:2] == ["all", "30"]
    assert not (tmp_path / "out").exists()
