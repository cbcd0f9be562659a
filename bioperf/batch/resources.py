"""What a run may use: cores and memory, as the scheduler, the container and the system grant them."""

import contextlib
import math
import os
import re
import sys
from pathlib import Path

__all__ = ["allocated_memory", "allocated_threads", "limited_pools", "parse_bytes", "show_bytes"]

# Of the memory that is granted or free: the rest is the interpreter's, the libraries' and the file system's.
MEMORY_SHARE = 0.8
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_CGROUPS = Path("/sys/fs/cgroup")


def allocated_threads(environ=None, cgroups=_CGROUPS):
    """Threads this process should use at most: the least of

    - the cores that it may run on (its affinity),
    - SLURM_CPUS_PER_TASK,
    - the CPU quota of its control group, in whole cores (containers),
    - OMP_NUM_THREADS.
    """
    from ..kernels import available_threads

    environ = os.environ if environ is None else environ
    limits = [available_threads()]
    if environ.get("SLURM_CPUS_PER_TASK", "").isdigit():
        limits.append(int(environ["SLURM_CPUS_PER_TASK"]))
    for folder in _groups(cgroups, "cpu"):
        quota, period = _words(folder / "cpu.max") or (
            *_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")
        ) or ("max", "1")  # fmt: skip
        if quota.isdigit() and period.isdigit() and int(period):
            limits.append(int(quota) // int(period))
    return max(1, min(limits))


def allocated_memory(environ=None, cgroups=_CGROUPS):
    """Bytes that this process should use at most: 0.8 times the least of

    - SLURM_MEM_PER_NODE, or SLURM_MEM_PER_CPU times SLURM_CPUS_ON_NODE (both in MiB),
    - the limit of its control group,
    - the memory that is free.
    """
    environ = os.environ if environ is None else environ
    limits = [_free_memory()]
    per_node, per_cpu, cpus = (
        int(environ[name]) if environ.get(name, "").isdigit() else 0
        for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE")
    )
    limits.append((per_node or per_cpu * max(cpus, 1)) * 2**20)
    for folder in _groups(cgroups, "memory"):
        words = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
        limits += [int(word) for word in words if word.isdigit()]
    return int(MEMORY_SHARE * min(limit for limit in limits if limit > 0))


def _groups(cgroups, controller):
    """The folders of this process's control group and of its ancestors, for version 2 and version 1."""
    for line in _own_groups():
        number, names, path = (*line.split(":", 2), "", "")[:3]
        if number != "0" and controller not in names.split(","):
            continue
        root = Path(cgroups) if number == "0" else Path(cgroups) / controller
        folder = root / path.lstrip("/")
        while folder != root.parent:
            yield folder
            folder = folder.parent


def _own_groups():
    try:
        return Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []


def _words(path):
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []


def _free_memory():
    with contextlib.suppress(OSError):
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
        if found:
            return int(found[1]) * 1024
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 4 * 2**30


def used_memory():
    """Bytes of this process that are in memory now."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 2**28


def peak_memory():
    """The most bytes that this process had in memory; 0 if the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def parse_bytes(text):
    """Bytes of "4G", "500M", "1.5 GiB" or "1000000" (K, M, G, T are powers of 1024).  Raises ValueError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if found is None or not 0 < float(found[1]) < math.inf:
        raise ValueError(f"expected a size such as 4G or 500M, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def show_bytes(count):
    """ "1.5 GiB"."""
    power = min(4, max(0, (int(abs(count)).bit_length() - 1) // 10))
    return f"{count / 1024**power:.{0 if power == 0 else 1}f} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


@contextlib.contextmanager
def limited_pools(threads):
    """BLAS in one thread, as the images are what runs side by side, and torch in at most ``threads``.

    The kernels and the transforms are told their threads with every call.
    """
    import threadpoolctl

    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
        if torch is not None:
            torch.set_num_threads(min(before, threads))
        try:
            yield
        finally:
            if torch is not None:
                torch.set_num_threads(before)
