"""What was done: an append-only file of JSON lines, one an item, that outlives the process that writes it."""

import errno
import json
import logging
import os
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

from ..io.errors import InputError, OutputError
from ..io.whole import TEMPORARY

__all__ = ["Journal", "journal_name", "read_journals", "remove_leftovers"]

_log = logging.getLogger(__name__)

DONE, UNCONVERGED, FAILED = "done", "not converged", "failed"
# For another process that only looks whether there is one, as ``remove_leftovers`` does.
_LOCK_SECONDS = 2.0
_STATUSES = (DONE, UNCONVERGED, FAILED)


def journal_name(index=None, count=None):
    """ "journal.jsonl", or that of one task of an array."""
    return "journal.jsonl" if count is None else f"journal-{index}-of-{count}.jsonl"


class Journal:
    """The journal of one process, to be used by one thread at a time.

    Parameters
    ----------
    path : Path
        Created if it is not there; locked, so that a second process on the same journal is refused.

    Raises
    ------
    OutputError
        If it cannot be written, or another process has it.
    """

    def __init__(self, path):
        self.path = Path(path)
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error}); choose another --out") from error
        try:
            self._lock()
            # What a killed process left of a line gets its end, so that the next line is one of its own.
            if os.lseek(self._file, 0, os.SEEK_END):
                os.lseek(self._file, -1, os.SEEK_END)
                if os.read(self._file, 1) != b"\n":
                    self._write(b"\n")
        except BaseException:
            self.close()
            raise

    def append(self, *records):
        """Write these dicts, a line each, and wait until they are on the disk.  Raises OutputError."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = [json.dumps(record | {"time": now}, allow_nan=False, ensure_ascii=True) for record in records]
        self._write("".join(line + "\n" for line in lines).encode())

    def close(self):
        with suppress(OSError):
            os.close(self._file)

    def _lock(self):
        until = time.monotonic() + _LOCK_SECONDS
        while not _locked(self._file):
            if time.monotonic() > until:
                raise OutputError(
                    f"{self.path}: another process works on this batch; wait for it, or choose another --out"
                )
            time.sleep(0.05)

    def _write(self, data):
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error.strerror or error}); free space and go on with --resume"
            ) from error


def _locked(file):
    """Whether this process has the file for itself now."""
    try:
        import fcntl
    except ImportError:  # Windows, where no scheduler starts a second process on the same journal
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        _log.warning("the file system has no locks (%s): start no two processes on one journal", error.strerror)
    return True


def remove_leftovers(folder, own):
    """Delete the temporary files that killed processes left in a folder and below, unless another process works there.

    Whoever works there has locked its journal, and what begins meanwhile is newer.
    """
    now = time.time()
    with ExitStack() as stack:
        for path in Path(folder).glob("journal*.jsonl"):
            if path == own:
                continue
            try:
                file = stack.enter_context(open(path, "ab"))
            except OSError:
                return
            if not _locked(file):
                return
        for place, _, names in os.walk(folder):
            for name in names:
                if name.startswith(TEMPORARY):
                    path = os.path.join(place, name)
                    with suppress(OSError):
                        if os.stat(path).st_mtime < now:
                            os.unlink(path)


def read_journals(folder):
    """The last record of every item in the journals of a folder: dict of name -> dict, and the lines that are damaged.

    A line that is no record (what a killed process left of one) counts as not written: its item is done again.
    """
    records, damaged = {}, 0
    for path in sorted(Path(folder).glob("journal*.jsonl")):
        try:
            with open(path, "rb") as file:
                for line in file:
                    record = _record(line)
                    if record is None:
                        damaged += bool(line.strip())
                    elif "item" in record:
                        name = record["item"]
                        if name not in records or records[name]["time"] <= record["time"]:
                            records[name] = record
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    return records, damaged


def _record(line):
    """The dict of a line, or None unless it is one with all that a resumed batch looks at."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("time"), str):
        return None
    if "run" in record:
        return record
    checks = (
        isinstance(record.get("item"), str),
        record.get("status") in _STATUSES,
        isinstance(record.get("key"), str),
        _is_files(record.get("inputs"), 3),
        _is_files(record.get("outputs"), 2),
    )
    return record if all(checks) else None


def _is_files(files, length):
    """Whether it maps paths to [SHA-256, size] or [SHA-256, size, time of change]."""
    return isinstance(files, dict) and all(
        isinstance(facts, list)
        and len(facts) == length
        and isinstance(facts[0], str)
        and all(isinstance(fact, int) for fact in facts[1:])
        for facts in files.values()
    )
