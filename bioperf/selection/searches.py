"""Searches that need only values of the criterion: a grid, random points, and Optuna's samplers.

All of them work on the logarithms of the parameters, in a box.  Each takes an evaluator and a recorder, adds a row a
trial to the recorder, and returns the outcome in words.  An evaluator has

- ``names``, tuple of k str, and ``box``, array (k, 2): lowest and highest value of each parameter, > 0;
- ``evaluate(values, *, state=None, callback=None)`` -> ``Trial``, warm-started from a neighbour's ``Trial.state``;
  ``callback(iterations, criterion)`` is called at each check of the lower level, and True gives the trial up;
- ``evaluate_many(list of values, *, chains=None, threads=None)`` -> list of ``Trial``, on all cores; ``chains`` are
  lists of indices that are solved one after the other, each from its predecessor;
- for ``tpe`` optionally ``fingerprint``, a str that is the same for the same problem and criterion.
"""

import itertools

import numpy as np

from .._validation import check_count, check_number
from .result import Trial

__all__ = ["grid", "random", "search_box", "tpe"]

# Names in the studies' storage.
STUDY_ATTRIBUTE = TRIAL_ATTRIBUTE = "bioperf"
# Boxes that differ by no more, relatively, are the same: they follow from an image that was computed.
BOX_TOLERANCE = 1e-4


def grid(evaluator, recorder, *, trials, box=None, batched=False, warm=True, threads=None):
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
    if batched:
        chains = [list(range(first, first + row)) for first in range(0, len(points), row)] if warm else None
        return _batched(evaluator, recorder, points, chains, threads, f"grid of {size}")
    return _one_by_one(evaluator, recorder, points, warm, f"grid of {size}")


def random(evaluator, recorder, *, trials, box=None, seed=0, batched=False, warm=False, threads=None):
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
        Whether a trial starts from the state of the one before, unless all weights of that were 0; not batched.
    threads : int, optional
        Of ``evaluate_many``.

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
    if batched and warm:
        raise ValueError("warm: a chain of warm starts leaves nothing to run in parallel; pass batched=False")
    low, high = np.log(box).T
    points = list(np.exp(np.random.default_rng(seed).uniform(low, high, (trials, len(box)))))
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
):
    """Optuna's tree-structured Parzen estimator, or any sampler of Optuna, with pruning and studies that resume.

    With ``storage`` the study survives the process.  Called again with the same arguments, it continues: the trials
    finished before enter the history (of kind "resumed", in their order) without being computed again, trials that a
    killed process left running are marked failed, and new ones are made until ``trials`` are finished.  If the best
    trial comes from an earlier process, its values are evaluated once more for its images.  Failed trials
    do not count.  Only one process at a time may work on a study.

    Parameters
    ----------
    evaluator
        See the module.
    recorder : Recorder
    trials : int
        Finished trials (complete or pruned) wanted in total, those of earlier processes included.
    box : array of shape (k, 2), or dict of str -> (low, high), optional
        As for ``search_box``.
    seed : int
        Of the default sampler, so that the same call makes the same trials.  A study that already holds n trials
        goes on with the seed ``numpy.random.SeedSequence([seed, n])``, which does not repeat their points.
        With ``n_jobs`` > 1 Optuna seeds its threads anew and the seed has no effect.
    study : optuna.study.Study, optional
        A study of one's own, minimising; it brings its storage, its sampler and its pruner (Optuna's default prunes
        by the median).  Trials enqueued in it come first.
    storage : str or optuna storage, optional
        A URL such as "sqlite:///tune.db", or a storage object; in memory if None.
    study_name : str
        Needed with ``storage``: what to resume by.
    sampler : optuna.samplers.BaseSampler, optional
        ``TPESampler(seed=seed)`` if None.
    pruner : optuna.pruners.BasePruner, optional
        Asked at each check of the lower level, with the criterion so far; None prunes nothing.
    n_jobs : int
        Trials at a time, in threads.

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
    optuna = _import_optuna()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if study is None:
            study = _open_study(optuna, seed, storage, study_name, sampler, pruner)
        else:
            _check_study(optuna, study, storage=storage, study_name=study_name, sampler=sampler, pruner=pruner)
        finished = _finished(optuna, study)
        resumed = len(finished)
        box = _study_box(study, evaluator, box)
        _resume(optuna, study, evaluator, recorder, finished)
        if not recorder.stopped and trials > resumed:
            _optimise(optuna, study, evaluator, recorder, box, trials - resumed, n_jobs)
    finally:
        optuna.logging.set_verbosity(verbosity)
    status = _outcome(type(study.sampler).__name__, recorder, max(trials, resumed))
    if resumed:
        status += f", {resumed} of them from the study {study.study_name!r}"
    best = recorder.best
    if best is not None and best.x is None:
        recorder.recompute_best(evaluator.evaluate(best.values))
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


# --- Optuna -----------------------------------------------------------------------------------


def _import_optuna():
    try:
        import optuna
    except ImportError as error:
        raise ImportError('method: "tpe" needs Optuna: pip install bioperf[tune]') from error
    return optuna


def _open_study(optuna, seed, storage, study_name, sampler, pruner):
    """A new study, or the one of that name in the storage."""
    if storage is not None and study_name is None:
        raise ValueError('study_name: needed with storage, to resume by; pass study_name="tune", say')
    if storage is None and study_name is not None:
        raise ValueError('storage: needed with study_name, to keep the study in; pass storage="sqlite:///tune.db", say')
    if study_name is not None and not (isinstance(study_name, str) and study_name):
        raise TypeError(f"study_name: expected a name, got {study_name!r}")
    if isinstance(storage, str) and "://" not in storage:
        raise ValueError(f'storage: expected a URL, such as "sqlite:///tune.db", got {storage!r}')
    if storage is not None and not isinstance(storage, str | optuna.storages.BaseStorage):
        raise TypeError(f"storage: expected a URL or a storage of Optuna, got {storage!r}")
    _check_kind("sampler", sampler, optuna.samplers.BaseSampler)
    _check_kind("pruner", pruner, optuna.pruners.BasePruner)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=study_name,
            sampler=sampler,
            pruner=pruner or optuna.pruners.NopPruner(),
            direction="minimize",
            load_if_exists=True,
        )
    except Exception as error:  # of whatever library the URL names
        reason = str(error).partition("\n")[0]
        raise ValueError(f"storage: {storage!r} cannot be opened: {reason}") from error
    _check_direction(optuna, study, f"study_name: {study_name!r}")
    if sampler is None:
        held = len(study.get_trials(deepcopy=False))
        if held:
            seed = int(np.random.SeedSequence([seed, held]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed)
    return study


def _check_study(optuna, study, **others):
    """A study of the caller's own that can be minimised, and nothing beside it that it brings itself."""
    if not isinstance(study, optuna.study.Study):
        raise TypeError(f"study: expected a study of Optuna, got {study!r}")
    for name, value in others.items():
        if value is not None:
            raise ValueError(f"{name}: a study brings its own; leave out either {name} or study")
    _check_direction(optuna, study, "study")


def _check_direction(optuna, study, what):
    if study.directions != [optuna.study.StudyDirection.MINIMIZE]:
        raise ValueError(f'{what}: its study does not minimise one value; create it with direction="minimize"')


def _check_kind(name, value, kind):
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name}: expected an object of optuna.{name}s, got {value!r}")


def _finished(optuna, study):
    """The trials that need not be made again, in their order."""
    states = optuna.trial.TrialState
    finished = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))
    if any(TRIAL_ATTRIBUTE not in trial.user_attrs for trial in finished):
        raise ValueError(f"study_name: {study.study_name!r} holds trials that bioperf did not make; take another name")
    return finished


def _study_box(study, evaluator, box):
    """The box of the study: this one if the study is new, else its own after a comparison of the two problems.

    The boxes may differ by the rounding of another machine.
    """
    problem = {"names": list(evaluator.names), "box": box.tolist()}
    problem["fingerprint"] = getattr(evaluator, "fingerprint", None)
    stored = study.user_attrs.get(STUDY_ATTRIBUTE)
    if stored is None:
        study.set_user_attr(STUDY_ATTRIBUTE, problem)
        return box
    different = None
    if stored["names"] != problem["names"]:
        different = f"other parameters ({', '.join(stored['names'])})"
    elif stored["fingerprint"] != problem["fingerprint"]:
        different = "other data, another model or another criterion"
    elif not np.allclose(stored["box"], box, rtol=BOX_TOLERANCE, atol=0):
        different = f"another box ({stored['box']}, not {problem['box']})"
    if different:
        raise ValueError(
            f"study_name: {study.study_name!r} was made for {different}; call with the same, or take another name"
        )
    return np.array(stored["box"])


def _resume(optuna, study, evaluator, recorder, finished):
    """Put the study's finished trials into the history, and fail those that a killed process left running."""
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    for trial in finished:
        values = np.array([trial.params[name] for name in evaluator.names])
        recorder.add(Trial(values=values, x=None, **trial.user_attrs[TRIAL_ATTRIBUTE]), kind="resumed")


def _optimise(optuna, study, evaluator, recorder, box, trials, n_jobs):
    """Make ``trials`` trials, recording each when the study holds it."""
    finished, errors = {}, []
    prunes = not isinstance(study.pruner, optuna.pruners.NopPruner)

    def objective(optuna_trial):
        values = np.array(
            [
                optuna_trial.suggest_float(name, *map(float, bounds), log=True)
                for name, bounds in zip(evaluator.names, box, strict=True)
            ]
        )
        hopeless = False

        def report(iterations, criterion):
            nonlocal hopeless
            optuna_trial.report(float(criterion), int(iterations))
            hopeless = hopeless or optuna_trial.should_prune()
            return hopeless

        trial = evaluator.evaluate(values, callback=report if prunes else None)
        trial.pruned = hopeless and not trial.converged
        optuna_trial.set_user_attr(TRIAL_ATTRIBUTE, _stored(trial))
        finished[optuna_trial.number] = trial
        if trial.pruned:
            raise optuna.TrialPruned
        # Optuna takes a NaN for a failure; it is only the worst value
        return float(trial.criterion) if np.isfinite(trial.criterion) else np.inf

    def record(study, optuna_trial):
        if recorder.add(finished.pop(optuna_trial.number)):
            study.stop()

    def kept(function):
        """Optuna's threads lose the errors of the last trials: they are kept, to be raised at the end."""

        def call(*arguments):
            try:
                return function(*arguments)
            except optuna.TrialPruned:
                raise
            except BaseException as error:
                errors.append(error)
                raise

        return call

    study.optimize(kept(objective), n_trials=trials, n_jobs=n_jobs, callbacks=[kept(record)])
    if errors:
        raise errors[0]


def _stored(trial):
    """What a finished trial leaves in the study: everything but the images and the state, as JSON has it."""
    return {
        "weights": {name: float(weight) for name, weight in trial.weights.items()},
        "criterion": float(trial.criterion),
        "iterations": int(trial.iterations),
        "lower_solves": int(trial.lower_solves),
        "seconds": float(trial.seconds),
        "converged": bool(trial.converged),
        "metrics": {name: float(value) for name, value in trial.metrics.items()},
        "pruned": bool(trial.pruned),
        "exact_fit": bool(trial.exact_fit),
    }
