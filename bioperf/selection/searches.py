"""Searches that need only values of the criterion: a grid, random points, and Optuna's samplers.

All of them work on the logarithms of the parameters, in a box.  Each takes an evaluator and a recorder, adds a row a
trial to the recorder, and returns the outcome in words.  An evaluator has

- ``names``, tuple of k str, and ``box``, array (k, 2): lowest and highest value of each parameter, > 0;
- ``evaluate(values, *, state=None, callback=None)`` -> ``Trial``, warm-started from a neighbour's ``Trial.state``;
  ``callback(iterations, criterion)`` is called at each check of the lower level, and True gives the trial up;
- ``evaluate_many(list of values, *, chains=None, threads=None)`` -> list of ``Trial``, on all cores; ``chains`` are
  lists of indices that are solved one after the other, each from its predecessor;
- for ``tpe`` optionally ``fingerprint``, a str that is the same for the same problem and criterion.

With ``workers``, a ``workers.Workers``, the trials are evaluated by the processes of a Dask cluster.
"""

import collections
import contextlib
import functools
import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .._validation import check_count, check_number
from .studies import LOOK, SharedStudy, import_optuna, open_storage, open_study

__all__ = ["grid", "open_storage", "random", "search_box", "tpe"]

# Chains of trials that are handed to the workers ahead of the one that is recorded next.
AHEAD = 256


def grid(evaluator, recorder, *, trials, box=None, batched=False, warm=True, threads=None, workers=None):
    """The criterion on a grid, equally spaced in the logarithms, both ends of the box included.

    With n points an axis, the smallest n for which n^k >= ``trials``: the number of trials is rounded up to the next
    k-th power.  The last parameter varies fastest and every row is walked in the direction opposite to the one
    before (in serpentine order), so that consecutive trials are neighbours in one parameter.

    Parameters
    ----------
    evaluator
        See the module.
    recorder : Recorder
    trials : int
    box : array of shape (k, 2), or dict of str -> (low, high), optional
        As for ``search_box``.
    batched : bool
        The rows of the grid in parallel, ``evaluator.evaluate_many`` with a chain a row.  All trials are then
        recorded at the end, in the order of the grid, with the time when the batch ended; a callback cannot
        stop the search.
    warm : bool
        Whether a trial starts from the state of its predecessor, unless all weights of that were 0.
    threads : int, optional
        Of ``evaluate_many``.
    workers : Workers, optional
        A row of the grid is one task: the trials are bit for bit those of ``batched=True``, whose rows do not start
        from each other either.  With ``warm=False`` every trial is a task, the same as in any other way.  The last
        parameter's points are a row, so one parameter is a single task unless ``warm=False``.  Trials enter the
        history in the order of the grid as they are there, and a callback can stop the search.

    Returns
    -------
    str

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument.
    """
    trials = check_count("trials", trials)
    box = search_box(evaluator, box)
    points = _grid_points(box, trials)
    row = _points_an_axis(trials, len(box))
    size = " x ".join([str(row)] * len(box))
    if workers is not None:
        return _on_workers(workers, recorder, points, row if warm else 1, f"grid of {size}")
    if batched:
        chains = [list(range(first, first + row)) for first in range(0, len(points), row)] if warm else None
        return _batched(evaluator, recorder, points, chains, threads, f"grid of {size}")
    return _one_by_one(evaluator, recorder, points, warm, f"grid of {size}")


def random(evaluator, recorder, *, trials, box=None, seed=0, batched=False, warm=False, threads=None, workers=None):
    """The criterion at random points, independent and log-uniform in the box.

    Parameters
    ----------
    evaluator
        See the module.
    recorder : Recorder
    trials : int
    box : array of shape (k, 2), or dict of str -> (low, high), optional
        As for ``search_box``.
    seed : int
        Of ``numpy.random.default_rng``; a longer search with the same seed begins with the same points.
    batched : bool
        The trials in parallel, by ``evaluator.evaluate_many``.  They are then recorded at the end, with the time when
        the batch ended; a callback cannot stop the search.
    warm : bool
        Whether a trial starts from the state of the one before, unless all weights of that were 0; not batched, and
        not with ``workers``.
    threads : int, optional
        Of ``evaluate_many``.
    workers : Workers, optional
        Every trial is one task, bit for bit the trial of a run without.  They enter the history in their order as they
        are there, and a callback can stop the search.

    Returns
    -------
    str

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument.
    """
    trials = check_count("trials", trials)
    seed = check_count("seed", seed, 0)
    box = search_box(evaluator, box)
    if warm and (batched or workers is not None):
        remedy = "pass batched=False" if workers is None else "leave out client, or warm"
        raise ValueError(f"warm: a chain of warm starts leaves nothing to run in parallel; {remedy}")
    low, high = np.log(box).T
    points = list(np.exp(np.random.default_rng(seed).uniform(low, high, (trials, len(box)))))
    if workers is not None:
        return _on_workers(workers, recorder, points, 1, "random search")
    if batched:
        return _batched(evaluator, recorder, points, None, threads, "random search")
    return _one_by_one(evaluator, recorder, points, warm, "random search")


def tpe(
    evaluator,
    recorder,
    *,
    trials,
    box=None,
    seed=0,
    study=None,
    storage=None,
    study_name=None,
    sampler=None,
    pruner=None,
    n_jobs=1,
    workers=None,
):
    """Optuna's tree-structured Parzen estimator, or any sampler of Optuna, with pruning and studies that are shared.

    With ``storage`` the study survives the process, and several processes, on several nodes, may work on it at once.
    Each makes trials until the study holds ``trials`` finished ones (complete or pruned; failed ones do not count),
    exactly: the last ones are not made twice, a process that has nothing left to do waits for those that others are
    making, and all return the same best trial.  Trials of other processes, earlier or at work, enter the history as
    rows of kind "resumed", without being computed again; if the best is one of them, its values are evaluated once
    more for its images.  Trials that a dead process left running are marked failed and replaced (``studies`` says
    how they are told from those of the living: at once on the same machine, else after ``studies.LEASE`` seconds).

    Trials enter study and history in the order in which they were begun, ``n_jobs`` of them at a time: the same
    arguments, ``n_jobs`` included, make the same trials, bit for bit, in threads or on ``workers`` and however long
    each takes.  Left to chance are the trials of a study that several processes share, and with ``n_jobs`` > 1 what
    a pruner gives up.

    Parameters
    ----------
    evaluator
        See the module.
    recorder : Recorder
    trials : int
        Finished trials wanted in the study, those of other processes included.
    box : array of shape (k, 2), or dict of str -> (low, high), optional
        As for ``search_box``.
    seed : int
        Of the default sampler.  A process whose first trial is the study's n-th, counted from 0, takes the seed
        ``numpy.random.SeedSequence([seed, n])`` (for n = 0 ``seed`` itself), so that no points are repeated.
    study : optuna.study.Study, optional
        A study of one's own, minimising; it brings its storage, its sampler and its pruner (Optuna's default prunes
        by the median).  Trials enqueued in it come first.
    storage : str or optuna storage, optional
        Of ``open_storage``: "journal:///tune.log" for several nodes, "sqlite:///tune.db", ...; in memory if None.
    study_name : str
        Needed with ``storage``: what to resume by.
    sampler : optuna.samplers.BaseSampler, optional
        ``TPESampler`` if None.
    pruner : optuna.pruners.BasePruner, optional
        Asked at each check of the lower level, with the criterion so far; None prunes nothing.  Not with ``workers``.
    n_jobs : int
        Trials at a time, in threads or on the workers.
    workers : Workers, optional
        Where the trials are evaluated; the sampler stays here.

    Returns
    -------
    str

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument, and for a study of another problem, box or kind.
    ImportError
        Without Optuna.
    """
    trials = check_count("trials", trials)
    if check_count("seed", seed, 0) >= 2**32:
        raise ValueError(f"seed: must be below 2**32 (NumPy's RandomState, which Optuna uses), got {seed}")
    n_jobs = check_count("n_jobs", n_jobs)
    box = search_box(evaluator, box)
    optuna = import_optuna()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study, ours = open_study(
            optuna, seed=seed, study=study, storage=storage, study_name=study_name, sampler=sampler, pruner=pruner
        )
        if workers is not None and not isinstance(study.pruner, optuna.pruners.NopPruner):
            raise ValueError(
                "pruner: nothing is pruned on the workers of a client; leave out either of them (a study of Optuna "
                "brings a pruner unless it is created with pruner=optuna.pruners.NopPruner())"
            )
        with SharedStudy(
            optuna, study, evaluator, recorder, box=box, trials=trials, seed=seed if ours else None
        ) as shared:
            _optimise(optuna, shared, evaluator, recorder, trials, n_jobs, workers)
    finally:
        optuna.logging.set_verbosity(verbosity)
    status = _outcome(type(study.sampler).__name__, recorder, trials)
    if shared.resumed:
        status += f", {shared.resumed} of them from the study {study.study_name!r}"
    recorder.best = shared.best
    if shared.best is not None and shared.best.x is None:
        values = shared.best.values
        recorder.recompute_best(evaluator.evaluate(values) if workers is None else workers.submit([values]).result()[0])
        status += "; the best of those was evaluated once more for its images"
    return status


def search_box(evaluator, box=None):
    """The box to search as a float64 array (k, 2) of [low, high] per parameter; the evaluator's if None.

    Parameters
    ----------
    evaluator
    box : array of shape (k, 2), or dict of str -> (low, high), optional
        In the parameters' units; parameters that a dict leaves out keep the evaluator's bounds.

    Raises
    ------
    TypeError, ValueError
        Unless 0 < low < high < infinity for every parameter, and for unknown names.
    """
    names = evaluator.names
    default = np.array(evaluator.box, float)
    if isinstance(box, dict):
        unknown = [name for name in box if name not in names]
        if unknown:
            raise ValueError(f"box: no parameter is named {unknown[0]!r}; there are {', '.join(map(repr, names))}")
        box = [box.get(name, bounds) for name, bounds in zip(names, default, strict=True)]
    try:
        box = default if box is None else np.array(box, float)
    except (TypeError, ValueError):
        raise TypeError(f"box: expected a pair (low, high) for each of {', '.join(names)}, got {box!r}") from None
    if box.shape != (len(names), 2):
        raise ValueError(
            f"box: expected shape ({len(names)}, 2), a pair (low, high) for each of {', '.join(names)}, got {box.shape}"
        )
    for name, (low, high) in zip(names, box, strict=True):
        low = check_number(f"box: lowest {name}", low, strict=True)
        if not check_number(f"box: highest {name}", high, strict=True) > low:
            raise ValueError(f"box: {name} needs low < high, got low = {low:g} and high = {high:g}")
    return box


def _points_an_axis(trials, axes):
    return next(n for n in itertools.count(1) if n**axes >= trials)


def _grid_points(box, trials):
    """The points of the grid in serpentine order."""
    n = _points_an_axis(trials, len(box))
    # one point: the middle of the box
    axes = [np.geomspace(low, high, n) if n > 1 else np.sqrt([low * high]) for low, high in box]
    walk = [()]
    for _ in axes:
        # every second walk over the new axis goes back
        walk = [(*head, k) for j, head in enumerate(walk) for k in (range(n) if j % 2 == 0 else reversed(range(n)))]
    return [np.array([axis[k] for axis, k in zip(axes, indices, strict=True)]) for indices in walk]


def _one_by_one(evaluator, recorder, points, warm, what):
    state = None
    for values in points:
        trial = evaluator.evaluate(values, state=state)
        state = trial.state if warm and not trial.unregularised else None
        if recorder.add(trial):
            break
    return _outcome(what, recorder, len(points))


def _batched(evaluator, recorder, points, chains, threads, what):
    found = evaluator.evaluate_many(points, chains=chains, threads=threads)
    seconds = recorder.seconds
    for trial in found:
        recorder.add(trial, seconds=seconds)
    return _outcome(what, recorder, len(points))


def _on_workers(workers, recorder, points, chain, what):
    """Chains of ``chain`` consecutive points, each chain a task, recorded in the order of the points."""
    chains = (points[first : first + chain] for first in range(0, len(points), chain))
    pending = collections.deque(workers.submit(values) for values in itertools.islice(chains, AHEAD))
    while pending and not recorder.stopped:
        for trial in pending.popleft().result():
            if recorder.add(trial):
                break
        pending.extend(workers.submit(values) for values in itertools.islice(chains, 1))
    return _outcome(what, recorder, len(points))


def _outcome(what, recorder, wanted):
    made = len(recorder.rows)
    pruned = sum(row["pruned"] for row in recorder.rows)
    if made < wanted:
        status = f"stopped by the callback: {what}, {made} of {wanted} trials made"
    else:
        status = f"completed: {what}, {made} trials"
    if pruned:
        status += f" ({pruned} pruned)"
    if recorder.best is None:
        status += "; none is admissible (a finite criterion and a weight > 0)"
    return status


def _optimise(optuna, shared, evaluator, recorder, trials, n_jobs, workers):
    """Make trials, ``n_jobs`` at a time and told in the order of their beginning, until the study holds ``trials``."""
    prunes = not isinstance(shared.study.pruner, optuna.pruners.NopPruner)

    def evaluate(optuna_trial, values):
        hopeless = False

        def report(iterations, criterion):
            nonlocal hopeless
            hopeless = hopeless or shared.hopeless(optuna_trial, iterations, criterion)
            return hopeless

        trial = evaluator.evaluate(values, callback=report if prunes else None)
        trial.pruned = hopeless and not trial.converged
        return trial

    with contextlib.ExitStack() as stack:
        if workers is not None:

            def begin(optuna_trial, values):
                future = workers.submit([values])
                return lambda: future.result()[0]

        elif n_jobs > 1:
            pool = stack.enter_context(ThreadPoolExecutor(n_jobs, thread_name_prefix="bioperf"))

            def begin(optuna_trial, values):
                return pool.submit(evaluate, optuna_trial, values).result

        else:

            def begin(optuna_trial, values):
                return functools.partial(evaluate, optuna_trial, values)

        begun = collections.deque()
        finished, running = shared.look()
        while not recorder.stopped:
            while len(begun) < n_jobs and finished + running < trials:
                asked = shared.ask()
                if asked is not None:
                    begun.append((asked[0], begin(*asked)))
                finished, running = shared.look()
            if begun:
                optuna_trial, result = begun.popleft()
                shared.tell(optuna_trial, result())
            elif finished >= trials:
                break
            else:
                # the last ones are being made by others
                time.sleep(LOOK)
            finished, running = shared.look()
