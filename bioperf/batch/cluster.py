"""The run of a batch on the workers of a Dask cluster, which read, solve and write on a file system that all share.

The driver hands out items a window at a time, takes account of what has ended, and alone writes the journal.
"""

import collections
import contextlib
import dataclasses
import os
import queue
import threading
import time
import uuid
from concurrent.futures import CancelledError, ThreadPoolExecutor

from ..io.errors import InputError, OutputError
from .execution import Execution, confirmed
from .resources import allocated_memory, allocated_threads, show_bytes, used_memory
from .run import LIBRARIES, Budget, Outcome, Stop, heeding, opened

__all__ = ["run_on_cluster"]

# Items with the scheduler at a time, per thread of the workers, and at least: what keeps them busy, and makes an
# adaptive cluster ask for more.
WINDOW, LEAST_WINDOW = 2, 8
# Slurm jobs at most where --workers does not say how many.
MOST_JOBS = 10
# Of a worker's memory, for the program and the images: Dask pauses a worker at 0.8.
MEMORY_SHARE = 0.7
CONNECT_SECONDS = 30
LOST = "--cluster: the scheduler was lost; start it again and go on with --resume"
# After the grace a solve ends at its next check.
LAST_CHECK = 5.0


def run_on_cluster(
    items, out, *, cluster, workers=None, resume=False, task=None, max_failures=None, grace=25.0, notify=None
):
    """Solve the items of a manifest on the workers of a cluster, with the outputs, bit for bit, of ``run_batch``.

    An item whose worker is lost (a killed process, a machine that ends) goes to another, as often as the scheduler's
    ``allowed-failures`` says (3 by default).  Items lost so often are tried once more at the end, one at a time, since
    any of those on a worker may have ended it; one that still loses its workers is recorded as failed.  If the driver
    is killed, the items that were being solved have outputs but no line in the journal: ``resume`` solves them again.

    Parameters
    ----------
    items, out, resume, task, max_failures, grace, notify
        Of ``run_batch``.  The folders of inputs and outputs have to have the same paths on all machines; relative ones
        are relative to the driver's folder.
    cluster : str or distributed.Client
        The address of a Dask scheduler; "slurm", for workers in Slurm jobs of their own, asked for by dask-jobqueue as
        its configuration says (``~/.config/dask/jobqueue.yaml``, or the environment: DASK_JOBQUEUE__SLURM__CORES,
        __MEMORY, __QUEUE, __WALLTIME, ...); or a client that is connected.
    workers : int, optional
        Slurm jobs.  None: as many as there is work for, at most ``MOST_JOBS``.

    Returns
    -------
    Outcome
        Without a peak of the memory, which is the workers'.

    Raises
    ------
    InputError
        As ``run_batch``, and if Dask is not installed, no scheduler answers, or Slurm jobs cannot be asked for.
    OutputError
        As ``run_batch``.
    """
    start, stop = time.perf_counter(), Stop(grace)
    with contextlib.ExitStack() as stack:
        journal, records = stack.enter_context(opened(out, resume, task, items))
        stack.enter_context(stop.on_signals())
        client = stack.enter_context(_connected(cluster, workers))
        run = _Run(client, items, out, records, journal, stop, heeding(max_failures, stop, notify))
        outcome = stack.enter_context(run).outcome
        run.run()
    outcome.stopped, outcome.reason = stop.why, stop.reason
    outcome.seconds = time.perf_counter() - start
    return outcome


@contextlib.contextmanager
def _connected(cluster, workers):
    """A client of the scheduler; Slurm jobs that were asked for end with it."""
    try:
        import distributed
    except ImportError as error:
        raise InputError("--cluster: needs Dask; pip install bioperf[cluster]") from error
    with contextlib.ExitStack() as stack:
        if isinstance(cluster, distributed.Client):
            yield cluster
            return
        address = stack.enter_context(_slurm(workers)) if cluster == "slurm" else cluster
        try:
            client = stack.enter_context(distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False))
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise InputError(
                f"--cluster: no scheduler answers at {cluster} ({reason}); give an address such as tcp://node:8786, "
                "or slurm"
            ) from error
        yield client


def _slurm(workers):
    try:
        import dask
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise InputError("--cluster: slurm needs dask-jobqueue; pip install bioperf[cluster]") from error
    for name in ("cores", "memory"):
        if dask.config.get(f"jobqueue.slurm.{name}", None) is None:
            raise InputError(
                "--cluster: slurm needs to know what to ask for in a job; set DASK_JOBQUEUE__SLURM__CORES=4 and "
                "DASK_JOBQUEUE__SLURM__MEMORY=8GB, say (and what else the site wants: __QUEUE, __ACCOUNT, __WALLTIME)"
            )
    try:
        cluster = SLURMCluster()
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"--cluster: Slurm jobs cannot be asked for ({error}); see dask-jobqueue") from error
    if workers is None:
        cluster.adapt(minimum_jobs=1, maximum_jobs=MOST_JOBS)
    else:
        cluster.scale(jobs=workers)
    return cluster


class _Run:
    """The driver's side: one thread that hands out items and takes account, and others that confirm what was done."""

    def __init__(self, client, items, out, records, journal, stop, notify):
        self.client, self.items, self.out, self.records = client, items, os.fspath(out), records
        self.journal, self.stop, self.notify = journal, stop, notify
        self.outcome, self.start = Outcome(left=len(items)), time.perf_counter()
        self.name, self.folder = uuid.uuid4().hex, os.getcwd()
        self.ready, self.suspects, self.pending = collections.deque(), collections.deque(), {}
        self.events = queue.Queue()  # see run.py: no SimpleQueue for the main thread
        self.threads = self.counted = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Cancel what nobody waits for, and forget the run on the workers."""
        self._tell("end")
        with contextlib.suppress(OSError, RuntimeError):
            self.client.cancel(list(self.pending), force=True)

    def run(self):
        self.notify("total", len(self.items))
        known = collections.deque()
        for item in self.items:
            (known if item.name in self.records else self.ready).append(item)
        self.to_confirm = len(known)
        threads = allocated_threads()
        with ThreadPoolExecutor(threads, thread_name_prefix="bioperf-confirm") as crew:
            for _ in range(min(threads, len(known))):
                crew.submit(self._confirm, known)
            while self.outcome.left and not self.stop:
                try:
                    self._hand_out()
                except (OSError, RuntimeError):  # a connection that was closed, timed out, or is a client's no more
                    self.stop.set("output", LOST)
                self._take_account(timeout=0.1)
        if self.stop:
            self._end()

    def _end(self):
        """Let the workers finish what they are solving, within the grace, and take nothing up."""
        self._tell("close")
        while self.pending and not self.stop.overdue():
            self._take_account(timeout=0.1)
        if self.pending:
            self._tell("give up")
            until = time.monotonic() + LAST_CHECK
            while self.pending and time.monotonic() < until:
                self._take_account(timeout=0.1)

    def _confirm(self, known):
        with contextlib.suppress(IndexError):
            while not self.stop:
                item = known.popleft()
                holds = confirmed(item, self.records[item.name], self.out)
                self.events.put(("confirmed" if holds else "again", item))

    def _hand_out(self):
        while self.ready and len(self.pending) < self._window():
            self._submit(self.ready.popleft(), alone=False)
        if self.suspects and not (self.ready or self.pending or self.to_confirm):
            self._submit(self.suspects.popleft(), alone=True)

    def _window(self):
        if time.monotonic() > self.counted + 1:
            self.threads, self.counted = sum(self.client.nthreads().values()), time.monotonic()
        return max(LEAST_WINDOW, WINDOW * self.threads)

    def _submit(self, item, alone):
        key = f"bioperf-item-{uuid.uuid4().hex}"
        future = self.client.submit(_work, self.name, item, self.out, self.folder, _installed(), key=key)
        self.pending[future] = item, alone
        future.add_done_callback(lambda future: self.events.put(("ended", future)))

    def _take_account(self, timeout):
        """Of all that has happened since, waiting at most ``timeout`` seconds for the first of it."""
        happened = []
        with contextlib.suppress(queue.Empty):
            happened.append(self.events.get(timeout=timeout))
            while True:
                happened.append(self.events.get_nowait())
        ended = []
        for kind, what in happened:
            if kind == "ended":
                record = self._result(what)
                if record is not None:
                    ended.append(record)
                continue
            self.to_confirm -= 1
            if kind == "again":
                self.ready.append(what)
            else:
                self._count("confirmed", self.records[what.name])
        if ended:
            try:
                self.journal.append(*ended)
            except OutputError as error:
                self.stop.set("output", str(error))
                return
            for record in ended:
                self._count("ended", record)

    def _count(self, kind, record):
        if kind == "ended" and self.outcome.first_solve is None:
            self.outcome.first_solve = time.perf_counter() - self.start
        self.outcome.count(kind, record)
        self.notify(kind, record)

    def _result(self, future):
        """The record of an item that has ended, or None."""
        import distributed

        item, alone = self.pending.pop(future)
        try:
            return future.result()
        except distributed.KilledWorker as error:
            if not alone:
                self.suspects.append(item)
                return None
            lost = Execution(item, self.out)
            times = error.allowed_failures + 1
            lost.fail(
                f"its worker was lost {times} times while nothing else was solved (killed for its memory?); give the "
                "workers more memory, or see their logs"
            )
            return lost.record
        except CancelledError:
            self.stop.set("output", LOST)
        except OutputError as error:
            self.stop.set("output", str(error))
        except Exception as error:  # of the cluster: what is wrong with an item is in its record
            self.stop.set("output", f"--cluster: a worker failed ({type(error).__name__}: {error})")
        return None

    def _tell(self, word):
        """Say something to all workers, if the scheduler is still there, without waiting for them."""
        with contextlib.suppress(OSError, RuntimeError):
            self.client.run(_heed, self.name, word, wait=False, on_error="ignore")


# --- on a worker ------------------------------------------------------------------------------


class _Room:
    """What the items of a run share on a worker: its cores and its memory, and what the driver said."""

    def __init__(self, worker):
        import threadpoolctl

        # as locally: the images are what runs side by side
        self.pools = threadpoolctl.threadpool_limits(limits=1, user_api="blas")
        limit = worker.memory_manager.memory_limit or allocated_memory()
        self.cores = Budget(worker.state.nthreads)
        self.memory = Budget(int(MEMORY_SHARE * limit) - max(used_memory(), LIBRARIES))
        self.closed = self.given_up = False

    def __bool__(self):
        return self.closed

    def overdue(self):
        return self.given_up


_rooms, _rooms_lock = {}, threading.Lock()


def _room(worker, run):
    with _rooms_lock:
        if (worker.id, run) not in _rooms:
            _rooms[worker.id, run] = _Room(worker)
        return _rooms[worker.id, run]


async def _heed(run, word, dask_worker):
    if word == "end":
        with _rooms_lock:
            _rooms.pop((dask_worker.id, run), None)
        return
    room = _room(dask_worker, run)
    room.closed, room.given_up = True, word == "give up"


def _installed():
    """What decides the last bits of a result."""
    from .. import __version__
    from ..fft import available_libraries
    from ..kernels import get_backend

    libraries = ", ".join(name for name, usable in available_libraries().items() if usable is True)
    return {"bioperf": __version__, "backend": get_backend().name, "FFT libraries": libraries}


def _work(run, item, out, folder, installed):
    """All three steps of an item: its record, or None if the run ends before it."""
    from distributed import get_worker

    worker = get_worker()
    here = _installed()
    for name, there in installed.items():
        if here[name] != there:
            raise RuntimeError(
                f"{worker.address} has {name} {here[name]}, the driver {there}; install the same packages on both"
            )
    room = _room(worker, run)
    if room:
        return None
    given = item
    if os.getcwd() != folder:
        out = os.path.join(folder, out)
        files = {name: os.path.join(folder, path) for name, path in item.files.items()}
        item = dataclasses.replace(item, input=os.path.join(folder, item.input), files=files)
    execution = Execution(item, out)
    if _solve(execution, room):
        _rename_inputs(execution.record, item, given, out)
    return execution.record


def _solve(execution, room):
    """Whether the item has a record: no if the run ends before it."""
    if not execution.read(room.cores.total):
        return True
    needs = execution.memory
    if needs > room.memory.total:
        left = show_bytes(max(0, room.memory.total))
        execution.fail(f"needs {show_bytes(needs)}, and its worker has {left} for images; give the workers more memory")
        return True
    if not room.memory.take(needs, room):
        return False
    try:
        threads = execution.threads_of(room.cores.total)
        if not room.cores.take(threads, room):
            return False
        try:
            solved = execution.solve(threads, room.overdue)
        finally:
            room.cores.give_back(threads)
        if solved:
            execution.write()
    finally:
        room.memory.give_back(needs)
    return execution.record is not None


def _rename_inputs(record, item, given, out):
    """Let the record name the inputs as the manifest does."""
    if item is given:
        return
    with contextlib.suppress(Exception):  # a job that cannot be made has read nothing
        names = [[os.fspath(path) for path in one.make_job(out).inputs] for one in (item, given)]
        renamed = dict(zip(*names, strict=True))
        record["inputs"] = {renamed[path]: facts for path, facts in record["inputs"].items()}
