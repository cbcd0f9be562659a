"""The run of a batch in one process: reading, solving and writing overlap, within the cores and the memory granted."""

import contextlib
import logging
import os
import queue
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..io.errors import InputError, OutputError
from .execution import Execution, confirmed, environment, make_folder
from .journal import DONE, Journal, journal_name, read_journals, remove_leftovers
from .resources import allocated_memory, allocated_threads, limited_pools, peak_memory, show_bytes, used_memory

__all__ = ["Outcome", "Preview", "preview_batch", "run_batch"]

_log = logging.getLogger(__name__)
# Read but not yet solved, per thread: enough that no solver waits for the disk.
READ_AHEAD = 2
WRITERS = 2
# What the interpreter and the libraries take at least, once everything that a solve needs is loaded.
LIBRARIES = 320 * 2**20
# After the grace a solve ends at its next check; one that does not is left to die with the process.
_LAST_CHECK = 5.0


@dataclass
class Outcome:
    """How a run ended.

    Attributes
    ----------
    counts : Counter
        Items by status: "done", "not converged", "failed", and "confirmed" for those that were done before.
    left : int
        Items that were not reached.
    failures : list of (str, str)
        Names and reasons of the items that failed or did not converge, now or before.
    images : int
        Solved in this run (an item may be a stack).
    seconds : float
        Wall time; ``busy`` has the seconds of reading, solving and writing, summed over the items.
    stopped : str or None
        Why the run ended before its items did: "signal", "failures" or "output".
    reason : str or None
        Of the stop, in words.
    first_solve : float or None
        Seconds from the start to the first solve.
    abandoned : bool
        Whether threads are still solving what was given up.
    peak_memory : int
        Of the process so far, in bytes; 0 if the system does not say.
    """

    counts: Counter = field(default_factory=Counter)
    left: int = 0
    failures: list = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0
    busy: Counter = field(default_factory=Counter)
    stopped: str | None = None
    reason: str | None = None
    first_solve: float | None = None
    abandoned: bool = False
    peak_memory: int = 0

    def count(self, kind, record):
        """One item more that was "confirmed" or has "ended", with its record of the journal."""
        self.left -= 1
        self.counts["confirmed" if kind == "confirmed" else record["status"]] += 1
        if record["status"] != DONE:
            self.failures.append((record["item"], record["reason"]))
        if kind == "ended":
            self.busy.update(record["seconds"])
            self.images += record["images"]


def run_batch(
    items,
    out,
    *,
    resume=False,
    task=None,
    threads=None,
    memory=None,
    max_failures=None,
    grace=25.0,
    notify=None,
):
    """Solve the items of a manifest and write each output whole, with a sidecar and a line in the journal.

    An item that fails is recorded with its reason and the others go on.  SIGTERM, SIGUSR1 and SIGINT (where this is the
    main thread) end the run: what is being solved is finished within ``grace`` seconds, and the journal is complete.

    Parameters
    ----------
    items : list of Item
        From ``read_manifest``, or a part of it by ``split``.
    out : str or Path
        The output folder, created if it is not there: NAME, NAME.json (sidecar) of every item, and the journal.
    resume : bool
        Skip the items that a journal in ``out`` says are done and whose inputs and outputs have not changed since; a
        run without it refuses a folder that has this journal.  The outputs are the same bytes either way.
    task : tuple (index, count), optional
        Of an array of tasks, each of which writes a journal of its own.
    threads : int, optional
        Images solved at a time, or threads of a large one; ``allocated_threads()`` by default.
    memory : int, optional
        Bytes for this process, which bound how many items are held at once; ``allocated_memory()`` by default.
    max_failures : int, optional
        End the run when more items than this have failed.
    grace : float
        Seconds for the running items after a signal.
    notify : callable, optional
        Called in the main thread with ("total", n), ("confirmed", k) and ("ended", record).

    Returns
    -------
    Outcome

    Raises
    ------
    InputError
        If ``out`` holds a batch and ``resume`` is False, or a journal cannot be read.
    OutputError
        If ``out`` cannot be used, or another process works on the same journal.
    """
    start = time.perf_counter()
    threads, memory, stop = threads or allocated_threads(), memory or allocated_memory(), Stop(grace)
    with opened(out, resume, task, items) as (journal, records), limited_pools(threads), stop.on_signals():
        notify = heeding(max_failures, stop, notify)
        pipeline = _Pipeline(items, out, records, journal, threads, memory, stop, notify, start)
        outcome = pipeline.run()
    outcome.stopped, outcome.reason = stop.why, stop.reason
    outcome.seconds, outcome.peak_memory = time.perf_counter() - start, peak_memory()
    return outcome


def heeding(max_failures, stop, notify):
    """``notify``, or nothing, with the limit on failures watched."""
    failed = 0

    def report(kind, value):
        nonlocal failed
        if kind == "ended" and value["status"] != DONE:
            failed += 1
            if max_failures is not None and failed > max_failures:
                stop.set("failures", f"more than {max_failures} items failed")
        if notify is not None:
            notify(kind, value)

    return report


def for_items(memory):
    """The bytes of ``memory`` that are left for images.  Raises InputError if there are none."""
    program = max(used_memory(), LIBRARIES)
    if memory <= program:
        raise InputError(
            f"--memory: {show_bytes(memory)} is less than the program itself takes; give {show_bytes(2 * program)}"
        )
    return memory - program


def check_apart(items, out):
    """InputError if an output would replace a file that is read."""
    folders = {}

    def resolved(path):
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        return os.path.join(folders[folder], name)

    read = {resolved(path) for item in items for path in (item.input, *item.files.values())}
    for item in items:
        for name in (item.name, f"{item.name}.json", *item.written.values()):
            path = os.path.join(out, name)
            if resolved(path) in read:
                raise InputError(f"{path}: is an input of the batch and would be replaced; choose another --out")


@dataclass
class Preview:
    """What a run would meet, from reading all inputs and solving none.

    ``sizes`` has (name, shape, bytes, threads) of every item that can be solved, ``failures`` (name, reason) of the
    others; ``memory`` is what may be used, ``peak`` an estimate of what will be: the program and the largest items side
    by side.
    """

    sizes: list
    failures: list
    threads: int
    memory: int
    peak: int


def preview_batch(items, out, *, threads=None, memory=None, notify=None):
    """Read and check every input as ``run_batch`` would, write nothing, and estimate the memory: a ``Preview``."""
    threads, memory = threads or allocated_threads(), memory or allocated_memory()
    check_apart(items, out)
    total, notify = for_items(memory), notify or (lambda kind, value: None)
    sizes, failures = [], []
    notify("total", len(items))
    with tempfile.TemporaryDirectory(prefix="bioperf-") as folder, ThreadPoolExecutor(threads) as pool:

        def look(item):
            execution = Execution(item, folder)
            if not (execution.read(threads) and execution.fits(total)):
                return item.name, None, execution.record["reason"], 0
            return item.name, execution.shape, execution.memory, execution.threads_of(threads)

        for name, shape, facts, needed in pool.map(look, items):
            if shape is None:
                failures.append((name, facts))
            else:
                sizes.append((name, shape, facts, needed))
            notify("read", name)
    largest = sorted((size for _, _, size, _ in sizes), reverse=True)[: threads * (1 + READ_AHEAD) + WRITERS]
    peak = LIBRARIES + min(sum(largest), total)
    return Preview(sizes, failures, threads, memory, peak)


@contextlib.contextmanager
def opened(out, resume, task, items):
    """The run's journal, with a first line about it, and the records of the journals in the folder."""
    from .. import __version__

    check_apart(items, out)
    out = Path(out)
    make_folder(out, "the output folder", "choose another")
    path = out / journal_name(*(task or ()))
    if not resume and path.exists():
        raise InputError(f"{path}: the folder holds a batch; go on with --resume, or choose another --out")
    fresh = not path.exists()
    journal = Journal(path)
    try:
        remove_leftovers(out, path)
        records, damaged = read_journals(out) if resume else ({}, 0)
        if damaged:
            _log.info("%s: %d damaged lines, their items are looked at again", out, damaged)
        journal.append({"run": __version__, "items": len(items), "host": environment()["host"], "resume": resume})
        yield journal, records
    except InputError:  # nothing has begun: what is set right needs no --resume
        if fresh:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                out.rmdir()
        raise
    finally:
        journal.close()


class Stop:
    """Whether the run is to end, why, and until when what is running may go on."""

    def __init__(self, grace):
        self.grace, self.why, self.reason, self.deadline = grace, None, None, None
        self._lock = threading.RLock()  # a signal may meet its own thread in ``set``

    def __bool__(self):
        return self.why is not None

    def set(self, why, reason):
        with self._lock:
            if self.why is None:
                self.why, self.reason, self.deadline = why, reason, time.monotonic() + self.grace

    def overdue(self):
        """Whether the grace has passed."""
        return self.deadline is not None and time.monotonic() > self.deadline

    @contextlib.contextmanager
    def on_signals(self):
        """Let SIGTERM, SIGUSR1 and SIGINT end the run; a second SIGINT ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number, _):
            if number == signal.SIGINT and self.why is not None:
                raise KeyboardInterrupt
            self.set("signal", signal.Signals(number).name)

        names = [name for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
        before = {name: signal.signal(getattr(signal, name), handle) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)


class Budget:
    """A number (of cores, of bytes) that items hold shares of; who comes first gets first."""

    def __init__(self, total):
        self.total, self.free = total, total
        self._turn, self._changed = threading.Lock(), threading.Condition()

    def take(self, amount, stop):
        """Wait for that much; False if the run is to end."""
        with self._turn, self._changed:
            while self.free < amount and not stop:
                self._changed.wait(0.1)
            if stop:
                return False
            self.free -= amount
            return True

    def give_back(self, amount):
        with self._changed:
            self.free += amount
            self._changed.notify_all()

    def whole(self, until):
        """Wait, to a time of ``time.monotonic`` or without an end, until all is given back: whether it is."""
        with self._changed:
            while self.free < self.total and (until is None or time.monotonic() < until):
                self._changed.wait(0.1)
            return self.free == self.total


class _Pipeline:
    """A thread that reads, threads that solve and threads that write; the main thread reports and heeds signals."""

    def __init__(self, items, out, records, journal, threads, memory, stop, notify, start):
        self.items, self.out, self.records, self.journal = items, out, records, journal
        self.threads, self.stop, self.notify = threads, stop, notify
        self.outcome, self.start = Outcome(left=len(items)), start
        self.cores, self.memory = Budget(threads), Budget(for_items(memory))
        self.ahead, self.error = threading.Semaphore(READ_AHEAD * threads), None
        # No SimpleQueue for the main thread: in CPython 3.11 one that a signal meets forgets its timeout.
        self.to_read, self.events, self.journal_lock = queue.SimpleQueue(), queue.Queue(), threading.Lock()

    def run(self):
        self.notify("total", len(self.items))
        known = deque()
        for item in self.items:
            if item.name in self.records:
                known.append(item)
            else:
                self.to_read.put(item)
        self.solvers = ThreadPoolExecutor(self.threads, thread_name_prefix="bioperf-solve")
        self.writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="bioperf-write")
        steps = [(self._confirm, known)] * self.threads + [(self._read,)]
        crew = [threading.Thread(target=self._kept, args=step, daemon=True) for step in steps]
        for thread in crew:
            thread.start()
        while self.outcome.left and not self.stop:
            self._report(timeout=0.1)
        self.to_read.put(None)
        for thread in crew:
            thread.join(_LAST_CHECK)
        self.solvers.shutdown(wait=False, cancel_futures=True)
        until = None if self.stop.deadline is None else self.stop.deadline + _LAST_CHECK
        self.outcome.abandoned = not self.cores.whole(until)
        self.writers.shutdown(wait=True)
        self._report()
        if self.error is not None:
            raise self.error
        return self.outcome

    def _report(self, timeout=None):
        """Take account of what has ended since, waiting at most ``timeout`` seconds for the first of it."""
        with contextlib.suppress(queue.Empty):
            kind, record = self.events.get(timeout is not None, timeout)
            while True:
                self.outcome.count(kind, record)
                self.notify(kind, record)
                kind, record = self.events.get_nowait()

    def _confirm(self, known):
        with contextlib.suppress(IndexError):
            while not self.stop:
                item = known.popleft()
                record = self.records[item.name]
                if confirmed(item, record, self.out):
                    self.events.put(("confirmed", record))
                else:
                    self.to_read.put(item)

    def _read(self):
        while (item := self.to_read.get()) is not None and not self.stop:
            execution = Execution(item, self.out)
            while not self.ahead.acquire(timeout=0.1):
                if self.stop:
                    return
            if not (execution.read(self.threads) and execution.fits(self.memory.total)):
                self.ahead.release()
                self._submit(self.writers, self._end, execution)
            elif self.memory.take(execution.memory, self.stop):
                execution.held = execution.memory
                self._submit(self.solvers, self._solve, execution)

    def _solve(self, execution):
        threads = execution.threads_of(self.threads)
        if not self.cores.take(threads, self.stop):
            return
        try:
            self.ahead.release()
            if self.outcome.first_solve is None:
                self.outcome.first_solve = time.perf_counter() - self.start
            solved = execution.solve(threads, self.stop.overdue)
            if not execution.given_up:
                self._submit(self.writers, self._write if solved else self._end, execution)
        finally:
            self.cores.give_back(threads)

    def _write(self, execution):
        execution.write()
        self._end(execution)

    def _end(self, execution):
        """The item's line in the journal, which makes it done."""
        with self.journal_lock:
            self.journal.append(execution.record)
        self.memory.give_back(execution.held)
        self.events.put(("ended", execution.record))

    def _submit(self, pool, step, execution):
        with contextlib.suppress(RuntimeError):  # the run has ended
            pool.submit(self._kept, step, execution)

    def _kept(self, step, *arguments):
        """A step in a thread, whose errors end the run: an item that nobody follows would be waited for for ever."""
        try:
            step(*arguments)
        except OutputError as error:
            self.stop.set("output", str(error))
        except BaseException as error:
            self.error = error
            self.stop.set("error", f"{type(error).__name__}: {error}")
