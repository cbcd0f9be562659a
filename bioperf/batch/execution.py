"""One item, from its files to its outputs: read, solved and written, each step in whichever thread has time for it."""

import errno
import functools
import hashlib
import json
import logging
import math
import os
import platform
import socket
import threading
import time
from pathlib import Path

from ..io.errors import InputError, OutputError
from ..io.whole import write_whole
from ..jobs.versions import versions
from .journal import DONE, FAILED, UNCONVERGED
from .resources import show_bytes

__all__ = ["Execution", "confirmed"]

_log = logging.getLogger(__name__)
_PACKAGES = ("numpy", "scipy", "scikit-image", "PyWavelets", "numba", "ducc0", "pyfftw", "torch", "optuna")
# Files below this many bytes are read in one piece to be hashed.
_AT_ONCE = 2**24
# After these nothing else can be written either: the run ends instead of failing item by item.
_FATAL = frozenset({errno.ENOSPC, errno.EROFS, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)})


class Execution:
    """An item's three steps, to be called in this order; a step that fails makes the item's record.

    Attributes
    ----------
    record : dict or None
        The line of the journal, once the item has ended: "item", "job", "key", "status" ("done", "not converged",
        "failed"), "reason" in words, "images" (how many were solved), "inputs" (path: [SHA-256, bytes, time of
        change]), "outputs" (path below the output folder: [SHA-256, bytes]) and "seconds" by step.
    held : int
        The bytes that it was granted, for who grants them.
    given_up : bool
        Whether the solve was stopped before its end: there is no record, and nothing was written.
    """

    def __init__(self, item, out):
        self.item, self.out = item, Path(out)
        self.record, self.given_up, self.memory, self.shape, self.threads = None, False, 0, (), 1
        self.images = self.held = 0
        self._job = self._result = None
        self._inputs, self._seconds = {}, {}

    def read(self, allowed=1):
        """Read and check the item's files; True unless it has failed.

        Sets ``memory``, the bytes that it will need where it may use ``allowed`` threads, and ``shape``.
        """
        return self._step("read", self._read, allowed)

    def solve(self, threads, stop=None):
        """Solve it; ``stop`` is a callable that says whether to give up.  True unless it failed or was given up."""
        return self._step("solve", self._solve, threads, stop)

    def write(self):
        """Write outputs and sidecar, and make the record.  Raises OutputError where nothing more can be written."""
        self._step("write", self._write)
        self._release()

    def threads_of(self, allowed):
        """How many of ``allowed`` threads the solve takes: one for a small image, so that others run beside it."""
        from ..slots.layout import SIDE_BY_SIDE_PIXELS

        job = self._job
        small = math.prod(job.shape) <= SIDE_BY_SIDE_PIXELS and job.concurrent
        return 1 if small else allowed

    def fits(self, total):
        """Whether it needs no more than so many bytes; it has failed otherwise."""
        if self.memory > total:
            self.fail(f"needs {show_bytes(self.memory)}, and --memory leaves {show_bytes(total)} for images; raise it")
        return self.record is None

    def fail(self, reason):
        self.record = self._facts(FAILED, reason, {})
        self._release()

    def _release(self):
        if self._job is not None:
            self._job.release()
        self._job = self._result = None

    def _step(self, name, step, *arguments):
        start = time.perf_counter()
        try:
            step(*arguments)
        except (InputError, OutputError, ValueError, ArithmeticError, MemoryError, ImportError) as error:
            if isinstance(error, OSError) and getattr(error.__cause__, "errno", None) in _FATAL:
                raise
            self.fail(" ".join(str(error).split()) or type(error).__name__)
        except Exception as error:
            _log.exception("%s: unexpected", self.item.name)
            self.fail(f"{type(error).__name__}: {' '.join(str(error).split())}")
        self._seconds[name] = round(time.perf_counter() - start, 6)
        return self.record is None and not self.given_up

    def _read(self, allowed):
        self._job = self.item.make_job(self.out)
        for path in self._job.outputs:
            make_folder(path.parent, "the folder", "choose another output")
        for path in self._job.inputs:
            self._inputs[os.fspath(path)] = fingerprint(os.fspath(path))
        self._job.read()
        self.memory, self.shape = self._job.memory_on(self.threads_of(allowed)), self._job.shape

    def _solve(self, threads, stop):
        self.threads, callback = threads, None
        # A stack's items share the threads, and stop at no callback.
        if stop is not None and self._job.count == 1 and self.item.job != "tune":

            def callback(progress):
                self.given_up = self.given_up or stop()
                return self.given_up

        self._result = self._job.solve(callback=callback, threads=threads)
        self.images = self._job.count

    def _write(self):
        certificate = self._job.certificate(self._result)
        outputs = {}
        for path in self._job.write(self._result, timings=False):
            digest, size, _ = fingerprint(os.fspath(path))
            outputs[Path(os.path.relpath(path, self.out)).as_posix()] = [digest, size]
        converged = certificate["converged"]
        self.record = self._facts(
            DONE if converged else UNCONVERGED, None if converged else certificate["status"], outputs
        )
        sidecar = {
            "job": self.item.job,
            "input": self.item.input,
            "files": self.item.files,
            "written": self.item.written,
            "options": self.item.options,
            "inputs": {path: {"sha256": facts[0], "bytes": facts[1]} for path, facts in self._inputs.items()},
            "outputs": {name: {"sha256": facts[0], "bytes": facts[1]} for name, facts in outputs.items()},
            "certificate": certificate,
            "threads": self.threads,
            "seconds": self._seconds,
            "environment": environment(),
        }
        text = json.dumps(sidecar, indent=1, allow_nan=False, default=str)
        write_whole(sidecar_of(self.out, self.item), lambda temporary: temporary.write_text(text + "\n"))

    def _facts(self, status, reason, outputs):
        return {
            "item": self.item.name, "job": self.item.job, "key": self.item.key, "status": status, "reason": reason,
            "inputs": self._inputs, "outputs": outputs, "images": self.images, "seconds": self._seconds,
        }  # fmt: skip


def make_folder(folder, what, advice):
    """Make it, and those above it, where it is missing; OutputError, which calls it ``what``, where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: {what} cannot be made ({error.strerror or error}); {advice}") from error


def confirmed(item, record, out):
    """Whether what a record of the journal says of an item still holds, so that it need not be done again.

    Asked the same, its inputs unchanged (by size and time, else by their SHA-256), its outputs as they were
    written (by their SHA-256), its sidecar there.
    """
    if record is None or record["status"] == FAILED or record["key"] != item.key or not record["outputs"]:
        return False
    try:
        if set(record["inputs"]) != {os.fspath(path) for path in item.make_job(out).inputs}:
            return False
        for path, (digest, size, changed) in record["inputs"].items():
            status = os.stat(path)
            if (status.st_size, status.st_mtime_ns) != (size, changed) and fingerprint(path)[0] != digest:
                return False
        if not os.path.exists(sidecar_of(out, item)):
            return False
        for name, (digest, size) in record["outputs"].items():
            path = os.path.join(out, name)
            if os.stat(path).st_size != size or sha256_of(path) != digest:
                return False
    except (OSError, ValueError):
        return False
    return True


def sidecar_of(out, item):
    return os.path.join(out, item.name + ".json")


_fingerprints, _fingerprints_lock = {}, threading.Lock()


def fingerprint(path):
    """[SHA-256, bytes, time of change in ns] of a file; computed once for a file that does not change."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    known = (status.st_size, status.st_mtime_ns, status.st_ino)
    with _fingerprints_lock:
        found = _fingerprints.get(path)
    if found is None or found[0] != known:
        found = known, sha256_of(path)
        with _fingerprints_lock:
            if len(_fingerprints) > 1000:
                _fingerprints.clear()
            _fingerprints[path] = found
    return [found[1], status.st_size, status.st_mtime_ns]


def sha256_of(path):
    try:
        with open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size < _AT_ONCE:
                return hashlib.sha256(file.read()).hexdigest()
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


@functools.cache
def environment():
    """Versions and machine, for the sidecars."""
    installed = {name: version for name, version in versions(_PACKAGES).items() if version is not None}
    return {"versions": installed, "platform": platform.platform(), "host": socket.gethostname()}
