"""One call for every way to choose hyper-parameters."""

import contextlib
import math
import warnings

import numpy as np

from .._validation import check_callback, check_choice, check_count, check_flag, check_threads
from ..lower import problem_for
from . import baselines, bfdca, hypergradient, searches
from .iterates import threads_of
from .problems import TVWavelet, check_radii
from .relaxation import BIORelaxation, TVWeight
from .result import Recorder, Selection
from .workers import Workers, check_client

__all__ = ["select_hyperparameters"]

DESCENTS = {
    "bf-dca": bfdca.safeguarded,
    "bf-dca-faithful": bfdca.faithful,
    "hypergradient": hypergradient.descend,
}
SEARCHES = ("grid", "random", "tpe")
BASELINES = ("discrepancy", "sure")
# The training misfit should be so many times the lower level's tolerance.
MISFIT_FACTOR = 10
METHODS = (*DESCENTS, *SEARCHES, *BASELINES)


def select_hyperparameters(
    problem,
    *,
    method="bf-dca",
    criterion="holdout",
    trials=100,
    seed=0,
    noise_std=None,
    start=None,
    box=None,
    fractions=(0.70, 0.15, 0.15),
    calibration=4,
    batched=False,
    study=None,
    storage=None,
    study_name=None,
    sampler=None,
    pruner=None,
    n_jobs=1,
    client=None,
    callback=None,
    threads=None,
    **options,
):
    """Choose the hyper-parameters of a model by bilevel programming, or by a search.

    min over parameters of F(x) subject to x solving the lower level for them, with F the ``criterion``.

    Parameters
    ----------
    problem : TVWavelet, TVWeight or BIORelaxation
        The model, its data and, if there are, the true images.
    method : str
        For a ``TVWavelet``: "bf-dca" (algorithm B of mathematics.md 8: BF-DCA safeguarded by the criterion itself),
        "bf-dca-faithful" (algorithm A: as published) and "hypergradient".  For every problem: "grid", "random" and
        "tpe" (Optuna).  Where the noise level is known: "discrepancy" and "sure", for ``TVWeight`` and ``TVWavelet``;
        both use all data and no ``criterion``.
    criterion : {"holdout", "supervised", "degenerate"}
        Held-out k-space samples, the distance to the reference images, or the misfit of the training data
        themselves, the paper's test on one image, which all large enough radii minimise (a warning says so).
    trials : int
        Evaluations of a search; a grid rounds up to equal numbers an axis.
    seed : int
        Of the split of the samples and of the searches: the same arguments give the same result, bit for bit, on any
        number of threads (except for "tpe" where several processes share the study, or prune with ``n_jobs`` > 1).
    noise_std : float, optional
        Standard deviation of the noise, for "discrepancy" and "sure" (their conventions: ``baselines``).
    start : sequence of floats, optional
        Where a descent begins; by default half the norms of the zero-filled images.
    box : array (k, 2) or dict of str -> (low, high), optional
        What a search covers, on a logarithmic scale; by default the problem's own.
    fractions, calibration
        Of the split of the samples: ``split_samples``.
    batched : bool
        For "grid" and "random": whether to solve all trials side by side.
    study, storage, study_name, sampler, pruner, n_jobs
        For "tpe": Optuna's; with ``storage`` and ``study_name`` a killed search resumes, and several processes may
        share one (``searches.tpe``).  ``n_jobs`` trials at a time are made, in threads or by the client's workers.
    client : distributed.Client, optional
        For the searches: the workers of this Dask cluster evaluate the trials, on any scheduler.  The result is the
        same, bit for bit, as here with ``batched=True`` for "grid" (the rows are the tasks), with the same ``n_jobs``
        for "tpe", and in any way for "random"; the history has the same order.  Workers need the same packages.
        One that is lost is replaced by others.  Needs ``pip install bioperf[cluster]``.
    callback : callable, optional
        Called with each row of the history as a dict; returning True ends the search there.
    threads : int, optional
        At most so many, here or on each worker.
    **options
        Passed to the method: ``bfdca.safeguarded``, ``bfdca.faithful``, ``hypergradient.descend``, ``searches`` or
        ``baselines``.

    Returns
    -------
    Selection
        ``weights`` carry over to new data (``Selection.apply``), radii do not.  After "holdout" the ``x`` is the lower
        level's solution from the training samples at the selected radii; ``apply`` uses all samples.

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument.
    ImportError
        For "tpe" without Optuna, for ``client`` without Dask.
    RuntimeError
        If several of the client's workers were lost with the same trial.

    Examples
    --------
    >>> problem = bioperf.TVWavelet(bioperf.MaskedFourier(mask), kspace)
    >>> selection = bioperf.select_hyperparameters(problem)
    >>> x = selection.apply(problem.A, problem.y).x
    """
    check_choice("method", method, METHODS)
    check_callback(callback)
    threads = check_threads(threads)
    seed = check_count("seed", seed, 0)
    trials = check_count("trials", trials)
    if not callable(getattr(problem, "evaluator", None)):
        raise TypeError(f"problem: expected TVWavelet, TVWeight or BIORelaxation, got {repr(problem)[:80]}")
    if method in DESCENTS and not isinstance(problem, TVWavelet):
        raise TypeError(f"method: {method!r} is for TVWavelet, not {type(problem).__name__}; take one of {SEARCHES}")
    if method in BASELINES and not isinstance(problem, TVWavelet | TVWeight):
        raise TypeError(f"method: {method!r} is for TVWeight and TVWavelet; take one of {SEARCHES}")
    study_options = {"study": study, "storage": storage, "study_name": study_name, "sampler": sampler, "pruner": pruner}
    n_jobs = check_count("n_jobs", n_jobs)
    batched = check_flag("batched", batched)
    unused = {"batched": batched or None, "start": start, "n_jobs": None if n_jobs == 1 else n_jobs}
    _check_unused(method, study_options | unused)
    if client is not None and method not in SEARCHES:
        raise ValueError(
            f"client: method {method!r} takes one step after the other, which workers cannot share; take one of "
            f"{SEARCHES}, or leave out client"
        )
    if client is not None and batched:
        raise ValueError("batched: solves the trials in this process, client on workers; leave out either of them")
    check_client(client)

    recorder = Recorder(problem.names, callback=callback)
    if method in BASELINES:
        if noise_std is None:
            raise ValueError(f"noise_std: method={method!r} needs the noise level; see bioperf.estimate_noise")
        if method == "sure":
            options = {"seed": seed, **options}
        run = getattr(baselines, method)
        best, status = run(problem, recorder, noise_std=noise_std, box=box, threads=threads, **options)
        return _selection(problem, method, method, recorder, best, status, status.startswith("converged"), threads)

    asked = {
        "criterion": criterion, "seed": seed, "fractions": fractions, "calibration": calibration, "threads": threads,
    }  # fmt: skip
    evaluator = problem.evaluator(**asked)
    if criterion == "degenerate":
        warnings.warn(
            "criterion='degenerate' judges by the data that the lower level fits: F(r) = v(r) does not increase with "
            "the radii, so all radii beyond those of the zero-filled images are optimal, and start, alpha and stopping "
            "rule decide the selection; take 'holdout', or 'supervised' with a reference",
            UserWarning,
            stacklevel=2,
        )
    if method in DESCENTS:
        if start is not None:
            start = check_radii(start)
            if not start.all():
                raise ValueError("start: the radii to begin at must be > 0")
        best, status, converged = DESCENTS[method](evaluator, recorder, start=start, **options)
    else:
        given = {"trials": trials, "box": box}
        if method == "tpe":
            given |= {"seed": seed, "n_jobs": n_jobs} | study_options
        else:
            given |= {"batched": batched, "threads": threads} | ({"seed": seed} if method == "random" else {})
        with contextlib.ExitStack() as stack:
            if client is not None:
                given["workers"] = stack.enter_context(Workers(client, problem, asked))
            status = getattr(searches, method)(evaluator, recorder, **given, **options)
        best, converged = recorder.best, status.startswith("completed")
    if best is None:
        raise ValueError(
            f"problem: no trial of method={method!r} can be selected ({status}): each fits the data exactly, with all "
            "weights 0, or was pruned; move start or box to smaller values"
        )
    _doubt_tolerance(problem, criterion, best)
    return _selection(problem, method, criterion, recorder, best, status, converged, threads)


def _doubt_tolerance(problem, criterion, best):
    """Warn if the lower level's certified gap, tol f(0), may be as large as the misfit that the radii decide on."""
    misfit = best.metrics.get("nre", np.inf) ** 2
    if isinstance(problem, TVWavelet) and criterion != "degenerate" and misfit < MISFIT_FACTOR * problem.tol:
        warnings.warn(
            f"tol: at the selected radii the misfit is only {misfit:.1e} of the data's energy, not far above the lower "
            f"level's tolerance {problem.tol:g}; pass TVWavelet tol={max(misfit / MISFIT_FACTOR**2, 1e-9):.0e} or less",
            UserWarning,
            stacklevel=3,
        )


def _check_unused(method, arguments):
    """ValueError for an argument that the method does not have."""
    owners = {"batched": ("grid", "random"), "start": tuple(DESCENTS)}
    for name, value in arguments.items():
        owner = owners.get(name, ("tpe",))
        if value is not None and method not in owner:
            raise ValueError(f"{name}: is for method {' or '.join(map(repr, owner))}, not {method!r}")


def _selection(problem, method, criterion, recorder, best, status, converged, threads):
    bio = isinstance(problem, BIORelaxation)
    details = {"bio": problem.bio_arguments} if bio else {"isotropic": problem.isotropic}
    if isinstance(problem, TVWavelet):
        details["wavelet"] = problem.wavelet
    return Selection(
        method=method,
        criterion=criterion,
        weights=dict(best.weights),
        radii=np.array(best.values) if isinstance(problem, TVWavelet) else None,
        values=dict(zip(recorder.names, map(float, best.values), strict=True)),
        x=best.x,
        best_criterion=float(best.criterion),
        metrics=dict(best.metrics),
        history=recorder.history(),
        lower_solves=recorder.lower_solves,
        iterations=recorder.iterations,
        seconds=recorder.seconds,
        status=status,
        converged=bool(converged),
        details=details,
        **_what_ran(problem, threads),
    )


def _what_ran(problem, threads):
    shared = problem_for(problem.A, problem.A.image_dtype(problem.y), threads)
    ran = shared.what_ran()
    if isinstance(problem, TVWavelet):
        ran["threads"] = threads_of(shared, max(1, math.prod(problem.batch_shape)))
    return ran
