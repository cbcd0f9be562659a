"""Trials of a search on the workers of a Dask cluster."""

import concurrent.futures
import contextlib
import copy
import threading
import uuid

from .. import __version__
from ..kernels import available_threads
from ..lower import problem_for

__all__ = ["Workers", "check_client"]

# Bytes of a problem from which Dask would warn that a graph is large: this one is meant to be sent, once.
LARGEST_PROBLEM = "1 TiB"


def check_client(client):
    """None, or an open synchronous ``dask.distributed.Client``; otherwise TypeError, ValueError or ImportError."""
    if client is None:
        return None
    try:
        import distributed
    except ImportError as error:
        raise ImportError("client: needs dask.distributed: pip install bioperf[cluster]") from error
    if not isinstance(client, distributed.Client):
        raise TypeError(f"client: expected a dask.distributed.Client, got {repr(client)[:80]}")
    if client.asynchronous:
        raise TypeError("client: is asynchronous; create it with asynchronous=False")
    if client.status != "running":
        raise ValueError(f"client: is {client.status}, not running; connect a new one to the scheduler")
    return client


class Workers:
    """Evaluates chains of trials on the workers of a cluster; a context manager, which cancels what is left.

    The problem is sent to the scheduler once, and to a worker when it has its first chain; there the evaluator is
    made once.  A chain whose worker is lost is begun again on another, as often as the scheduler's
    ``allowed-failures`` says (3 by default).

    Parameters
    ----------
    client : distributed.Client
    problem : TVWavelet, TVWeight or BIORelaxation
        What needs to be solved once for all trials (``prepared``) is solved here.
    options : dict
        The arguments of ``problem.evaluator``, with "threads": at most so many for a worker; None leaves a worker
        the cores that its other tasks do not take.
    """

    def __init__(self, client, problem, options):
        self._client, self._futures = client, {}
        problem = problem.prepared() if hasattr(problem, "prepared") else copy.copy(problem)
        self._recipe = Recipe(problem, options)
        self._shared = None

    def __enter__(self):
        import dask

        with dask.config.set({"distributed.admin.large-graph-warning-threshold": LARGEST_PROBLEM}):
            self._shared = self._client.submit(_same, self._recipe, key=f"bioperf-problem-{uuid.uuid4().hex}")
        return self

    def __exit__(self, *error):
        with contextlib.suppress(OSError, RuntimeError):  # the scheduler may be lost
            self._client.cancel([*self._futures.values(), self._shared], force=True)
        self._futures.clear()

    def submit(self, values):
        """Evaluate a chain: a list of arrays of k values, each solved from the one before.

        Returns an object whose ``result()`` is the list of the ``Trial``s, as ``evaluate_many`` makes them, without
        states, and with the images of the chain's best alone.  It raises what the trial raised, or RuntimeError if
        the workers were lost.
        """
        key = f"bioperf-trials-{uuid.uuid4().hex}"
        self._futures[key] = self._client.submit(_solve, self._shared, [list(map(float, v)) for v in values], key=key)
        return _Chain(self._futures, key, values)


class _Chain:
    """The future of a chain, forgotten when its result was asked for."""

    def __init__(self, futures, key, values):
        self._futures, self._key, self._values = futures, key, values

    def result(self):
        import distributed

        future = self._futures[self._key]
        try:
            return future.result()
        except distributed.KilledWorker as error:
            raise RuntimeError(
                f"client: {error.allowed_failures + 1} workers in a row were lost with the trial at "
                f"{[float(value) for value in self._values[0]]} (killed for their memory, or by their machine?); see "
                "the workers' logs, or give them more memory"
            ) from error
        except concurrent.futures.CancelledError as error:
            raise RuntimeError("client: the trials were cancelled; did the scheduler stop?") from error
        finally:
            del self._futures[self._key]


class Recipe:
    """What a worker makes its evaluator from; pickled without it."""

    def __init__(self, problem, options):
        self.problem, self.options = problem, options
        self.made_by = self._here()
        self._evaluator, self._lock = None, threading.Lock()

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name not in ("_evaluator", "_lock")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._evaluator, self._lock = None, threading.Lock()

    def _here(self):
        """What decides the last bits of a result."""
        A = self.problem.A
        ran = problem_for(A, A.image_dtype(self.problem.y), 1).what_ran()
        return {"bioperf": __version__, "backend": ran["backend"], "FFT library": ran["fft"]}

    def evaluator(self, worker):
        with self._lock:
            if self._evaluator is None:
                here = self._here()
                for name, wanted in self.made_by.items():
                    if here[name] != wanted:
                        raise RuntimeError(
                            f"client: the worker {worker.address} has {name} {here[name]}, this process {wanted}, and "
                            "their results would differ; install the same packages on both"
                        )
                threads = self.options["threads"] or max(1, available_threads() // worker.state.nthreads)
                self._evaluator = self.problem.evaluator(**self.options | {"threads": threads})
        return self._evaluator


def _same(recipe):
    return recipe


def _solve(recipe, values):
    """On a worker: the trials of a chain."""
    from distributed import get_worker

    evaluator = recipe.evaluator(get_worker())
    if len(values) == 1:
        trials = [evaluator.evaluate(values[0])]
    else:
        trials = evaluator.evaluate_many(values, chains=[range(len(values))])
    best = min((trial for trial in trials if trial.admissible), key=lambda trial: trial.criterion, default=None)
    for trial in trials:
        trial.state = None
        if trial is not best:
            trial.x = None
    return trials
