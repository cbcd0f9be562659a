"""Cores and memory as schedulers, containers and the system grant them."""

import os

import numpy as np
import pytest

from bioperf.batch import resources
from bioperf.batch.resources import allocated_memory, allocated_threads, limited_pools, parse_bytes, show_bytes
from bioperf.kernels import available_threads


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A file system of control groups in which this process stands at /job/step (version 2) and /old (version 1)."""
    (tmp_path / "job" / "step").mkdir(parents=True)
    for controller in ("cpu", "memory"):
        (tmp_path / controller / "old").mkdir(parents=True)
    monkeypatch.setattr(resources, "_own_groups", lambda: ["7:cpu,cpuacct:/old", "5:memory:/old", "0::/job/step"])
    return tmp_path


def test_the_least_of_all_limits_on_cores_counts(groups, monkeypatch):
    monkeypatch.setattr("bioperf.kernels.available_threads", lambda: 8)
    assert allocated_threads({}, groups) == 8
    assert allocated_threads({"SLURM_CPUS_PER_TASK": "3"}, groups) == 3
    assert allocated_threads({"SLURM_CPUS_PER_TASK": "40"}, groups) == 8
    (groups / "job" / "cpu.max").write_text("550000 100000\n")
    (groups / "job" / "step" / "cpu.max").write_text("max 100000\n")
    assert allocated_threads({}, groups) == 5
    (groups / "cpu" / "old" / "cpu.cfs_quota_us").write_text("50000\n")
    (groups / "cpu" / "old" / "cpu.cfs_period_us").write_text("100000\n")
    assert allocated_threads({}, groups) == 1
    (groups / "cpu" / "old" / "cpu.cfs_quota_us").write_text("-1\n")
    assert allocated_threads({}, groups) == 5


def test_never_more_threads_than_cores():
    assert 1 <= allocated_threads() <= available_threads() <= (os.cpu_count() or 1)
    assert allocated_threads({"SLURM_CPUS_PER_TASK": "100000"}) <= available_threads()


def test_the_least_of_all_limits_on_memory_counts(groups, monkeypatch):
    gigabyte = 2**30
    monkeypatch.setattr(resources, "_free_memory", lambda: 10 * gigabyte)
    assert allocated_memory({}, groups) == 8 * gigabyte
    assert allocated_memory({"SLURM_MEM_PER_NODE": "5120"}, groups) == 4 * gigabyte
    assert allocated_memory({"SLURM_MEM_PER_CPU": "640", "SLURM_CPUS_ON_NODE": "4"}, groups) == 2 * gigabyte
    (groups / "job" / "memory.max").write_text(f"{5 * gigabyte // 2}\n")
    (groups / "job" / "step" / "memory.max").write_text("max\n")
    assert allocated_memory({"SLURM_MEM_PER_NODE": "5120"}, groups) == 2 * gigabyte
    (groups / "memory" / "old" / "memory.limit_in_bytes").write_text(f"{5 * gigabyte // 4}\n")
    assert allocated_memory({}, groups) == gigabyte


def test_sizes_read_and_shown():
    assert [parse_bytes(text) for text in ("4G", "500M", "1.5 GiB", "1000", "2kb", " 1T ")] == [
        4 * 2**30, 500 * 2**20, 3 * 2**29, 1000, 2048, 2**40
    ]  # fmt: skip
    for text in ("", "0", "G", "-4G", "4X", "1e9", "nan", "4GG"):
        with pytest.raises(ValueError, match="expected a size such as"):
            parse_bytes(text)
    assert [show_bytes(count) for count in (0, 1023, 1024, 3 * 2**29, 5 * 2**40)] == [
        "0 bytes", "1023 bytes", "1.0 KiB", "1.5 GiB", "5.0 TiB"
    ]  # fmt: skip


def test_pools_are_limited_and_given_back():
    import threadpoolctl

    np.ones((4, 4)) @ np.ones((4, 4))

    def widths():
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    before = widths()
    assert before
    with limited_pools(1):
        assert set(widths()) == {1}
    assert widths() == before
