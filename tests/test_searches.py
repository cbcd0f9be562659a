"""Grid, random search and Optuna's samplers on a criterion in closed form; a study that is killed and resumed."""

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import bioperf
from bioperf import MaskedFourier, solve_bio, solve_lower
from bioperf.selection.problems import TVWavelet
from bioperf.selection.result import Recorder, Selection, Trial
from bioperf.selection.searches import grid, random, search_box, tpe

optuna = pytest.importorskip("optuna", reason='the searches "tpe" need Optuna: pip install bioperf[tune]')

NAMES = ("wavelet_radius", "tv_radius")
BOX = np.array([[0.1, 10.0], [1.0, 100.0]])


class Bowl:
    """criterion = |log values - log optimum|^2, reached after ten steps; counts what it computes."""

    def __init__(self, names=NAMES, box=BOX, optimum=(2.0, 7.0), fingerprint=None):
        self.names, self.box, self.start = names, box, np.sqrt(box[:, 0] * box[:, 1])
        self.optimum = np.array(optimum)
        if fingerprint:
            self.fingerprint = fingerprint
        self.calls, self.states, self.threads, self.watched = [], [], set(), False

    def evaluate(self, values, *, state=None, callback=None):
        self.calls.append(np.array(values))
        self.states.append(state)
        self.watched |= callback is not None
        self.threads.add(threading.get_ident())
        final = float(np.sum(np.log(np.asarray(values) / self.optimum) ** 2))
        for iterations in range(1, 11):
            criterion = final + 1 - iterations / 10
            if callback is not None and callback(iterations, criterion):
                break
        weights = dict.fromkeys(("wavelet_weight", "tv_weight"), float(1 / values[0]))
        return Trial(
            values=np.array(values), weights=weights, criterion=criterion, iterations=iterations, lower_solves=1,
            seconds=1e-3, converged=iterations == 10, x=np.array(values), metrics={"rlne": criterion / 2},
            state=("state of", *values),
        )  # fmt: skip

    def evaluate_many(self, list_of_values, *, chains=None, threads=None):
        self.chains, self.many_threads = chains, threads
        return [self.evaluate(values) for values in list_of_values]


def search(method, evaluator=None, callback=None, **options):
    """The evaluator, the recorder and the status of one search."""
    evaluator = evaluator or Bowl()
    recorder = Recorder(evaluator.names, callback=callback)
    return evaluator, recorder, method(evaluator, recorder, **options)


# --- the best of each method ------------------------------------------------------------------


@pytest.mark.parametrize("method", [grid, random, tpe])
def test_best_and_history(method):
    rows = []
    evaluator, recorder, status = search(method, callback=rows.append, trials=25)
    history = recorder.history()
    assert len(evaluator.calls) == 25 and status.startswith("completed") and "25 trials" in status
    columns = ["trial", "kind", "seconds", "lower_solves", "iterations", *NAMES, "wavelet_weight", "tv_weight"]
    assert list(history) == [*columns, "criterion", "best", "pruned", "rlne"]
    assert all(column.shape == (25,) for column in history.values())
    values = np.stack([history[name] for name in NAMES], axis=1)
    np.testing.assert_array_equal(values, evaluator.calls)
    np.testing.assert_allclose(history["criterion"], np.sum(np.log(values / evaluator.optimum) ** 2, axis=1))
    np.testing.assert_array_equal(history["best"], np.minimum.accumulate(history["criterion"]))
    np.testing.assert_array_equal(history["lower_solves"], np.arange(1, 26))
    np.testing.assert_array_equal(history["iterations"], 10 * np.arange(1, 26))
    np.testing.assert_array_equal(history["rlne"], history["criterion"] / 2)
    assert (np.diff(history["seconds"]) >= 0).all() and not history["pruned"].any()
    best = int(np.argmin(history["criterion"]))
    np.testing.assert_array_equal(recorder.best.x, values[best])
    assert recorder.best.criterion == history["best"][-1]
    assert ((values >= BOX[:, 0] * (1 - 1e-12)) & (values <= BOX[:, 1] * (1 + 1e-12))).all()
    # the callback saw the same rows
    assert [row["criterion"] for row in rows] == history["criterion"].tolist()
    assert list(rows[0]) == list(history)


def test_tpe_comes_closer_than_its_random_start():
    _, recorder, _ = search(tpe, trials=60, seed=1)
    history = recorder.history()
    assert history["best"][-1] < 0.5 * history["best"][9]
    assert history["best"][-1] < 0.05


@pytest.mark.parametrize("method", [random, tpe])
def test_seed_decides_the_trials(method):
    def points(seed, trials=12):
        return np.array(search(method, trials=trials, seed=seed)[0].calls)

    np.testing.assert_array_equal(points(3), points(3))
    assert (points(3) != points(4)).all()
    # a longer search begins with the shorter one
    np.testing.assert_array_equal(points(3, 15)[:12], points(3))


def test_random_is_log_uniform():
    evaluator, _, _ = search(random, trials=4000, seed=0)
    unit = (np.log(evaluator.calls) - np.log(BOX[:, 0])) / np.log(BOX[:, 1] / BOX[:, 0])
    # 5 standard deviations of the mean and of the correlation of uniform samples
    np.testing.assert_allclose(unit.mean(axis=0), 0.5, atol=5 / np.sqrt(12 * 4000))
    assert abs(np.corrcoef(unit.T)[0, 1]) < 5 / np.sqrt(4000)


# --- the grid's order and its warm starts -----------------------------------------------------


def test_grid_is_serpentine():
    evaluator, _, status = search(grid, trials=9)
    low, middle, high = 1.0, 10.0, 100.0
    expected = [(0.1, low), (0.1, middle), (0.1, high), (1, high), (1, middle), (1, low), (10, low), (10, middle)]
    np.testing.assert_allclose(evaluator.calls, [*expected, (10, high)], rtol=1e-12)
    assert "grid of 3 x 3" in status
    # each from its predecessor
    assert evaluator.states[0] is None
    assert evaluator.states[1:] == [("state of", *values) for values in evaluator.calls[:-1]]


@pytest.mark.parametrize("axes", [1, 2, 3, 4])
def test_grid_steps_are_of_one_axis(axes):
    names, box = tuple("abcd"[:axes]), np.tile([1.0, 4.0], (axes, 1))
    evaluator, _, _ = search(grid, Bowl(names, box, np.ones(axes)), trials=3**axes)
    indices = np.rint(np.log2(evaluator.calls)).astype(int)
    assert len(np.unique(indices, axis=0)) == 3**axes
    np.testing.assert_array_equal(np.abs(np.diff(indices, axis=0)).sum(axis=1), 1)


@pytest.mark.parametrize(("trials", "made"), [(1, 1), (2, 4), (100, 100), (101, 121)])
def test_grid_rounds_up(trials, made):
    evaluator, _, _ = search(grid, trials=trials)
    assert len(evaluator.calls) == made
    if made == 1:
        np.testing.assert_allclose(evaluator.calls[0], evaluator.start)


def test_grid_trials_without_weights_warm_nothing_and_are_not_selected():
    class Flat(Bowl):
        """No regularisation in the upper half of the first parameter, and the smallest criterion there."""

        def evaluate(self, values, **options):
            trial = super().evaluate(values, **options)
            if values[0] > 1:
                trial.weights, trial.criterion = {"wavelet_weight": 0.0, "tv_weight": 0.0}, 0.0
            return trial

    evaluator, recorder, _ = search(grid, Flat(), trials=16)
    for before, state in zip(evaluator.calls, evaluator.states[1:], strict=False):
        assert (state is None) == (before[0] > 1)
    assert recorder.best.values[0] < 1 and recorder.best.criterion > 0


def test_cold_grid_and_warm_random():
    assert set(search(grid, trials=9, warm=False)[0].states) == {None}
    assert set(search(random, trials=5)[0].states) == {None}
    evaluator, _, _ = search(random, trials=5, warm=True)
    assert evaluator.states[1:] == [("state of", *values) for values in evaluator.calls[:-1]]


def test_batches():
    evaluator, recorder, _ = search(grid, trials=9, batched=True, threads=2)
    assert evaluator.chains == [[0, 1, 2], [3, 4, 5], [6, 7, 8]] and evaluator.many_threads == 2
    history = recorder.history()
    single = search(grid, trials=9)[1].history()
    assert len(set(history["seconds"])) == 1
    for name in history.keys() - {"seconds"}:
        np.testing.assert_array_equal(history[name], single[name])
    assert search(grid, trials=9, batched=True, warm=False)[0].chains is None
    evaluator, recorder, _ = search(random, trials=7, seed=5, batched=True)
    assert evaluator.chains is None
    np.testing.assert_array_equal(evaluator.calls, search(random, trials=7, seed=5)[0].calls)


# --- the recorder -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", [grid, random, tpe])
def test_callback_stops(method):
    evaluator, recorder, status = search(method, callback=lambda row: row["trial"] == 5, trials=25)
    assert len(evaluator.calls) == len(recorder.rows) == 5
    assert recorder.stopped and status.startswith("stopped by the callback") and "5 of 25" in status


@pytest.mark.parametrize("method", [grid, random, tpe])
def test_values_that_are_not_finite(method):
    class Broken(Bowl):
        def evaluate(self, values, **options):
            trial = super().evaluate(values, **options)
            trial.criterion = np.nan
            return trial

    _, recorder, status = search(method, Broken(), trials=9)
    assert recorder.best is None and len(recorder.rows) == 9 and "none is admissible" in status
    assert np.isnan(recorder.history()["best"]).all()


def test_recorder_fills_columns_and_keeps_the_first_of_equals():
    recorder = Recorder(("a",))

    def trial(value, criterion, **metrics):
        return Trial(np.array([value]), {"tv_weight": value}, criterion, 5, 2, 0.1, True, np.ones(3), metrics)

    assert recorder.add(trial(1.0, 2.0)) is False
    recorder.add(trial(2.0, 2.0, psnr=30.0), kind="start", penalty=16.0)
    history = recorder.history()
    assert list(history)[-4:] == ["best", "pruned", "psnr", "penalty"]
    np.testing.assert_array_equal(history["psnr"], [np.nan, 30])
    np.testing.assert_array_equal(history["penalty"], [np.nan, 16])
    assert history["kind"].tolist() == ["trial", "start"]
    assert recorder.best.values == 1 and recorder.lower_solves == 4 and recorder.iterations == 10
    # a weight that is the parameter has one column, and no rows give empty columns
    names = list(Recorder(("tv_weight",)).history())
    assert names == [
        "trial",
        "kind",
        "seconds",
        "lower_solves",
        "iterations",
        "tv_weight",
        "criterion",
        "best",
        "pruned",
    ]


# --- Optuna -----------------------------------------------------------------------------------


def test_threads_make_the_same_trials_however_long_each_takes():
    class Uneven(Bowl):
        """The first of every two trials takes longer."""

        def evaluate(self, values, **options):
            time.sleep(0.01 * (len(self.calls) % 2 == self.slow))
            return super().evaluate(values, **options)

    def points(slow, n_jobs=3):
        evaluator = Uneven()
        evaluator.slow = slow
        history = search(tpe, evaluator, trials=16, n_jobs=n_jobs)[1].history()
        return np.stack([history[name] for name in NAMES], axis=1)

    np.testing.assert_array_equal(points(0), points(1))
    # with fewer at a time the sampler knows more of them: the same random start, other points after it
    np.testing.assert_array_equal(points(0)[:10], points(0, 1)[:10])
    assert (points(0)[10:] != points(0, 1)[10:]).all()


def test_threads(tmp_path):
    gate = threading.Barrier(2, timeout=60)

    class Gated(Bowl):
        """Goes on only if two trials are under way at a time."""

        def evaluate(self, values, **options):
            gate.wait()
            return super().evaluate(values, **options)

    storage = f"sqlite:///{tmp_path / 'study.db'}"
    evaluator, recorder, _ = search(tpe, Gated(), trials=12, n_jobs=2, storage=storage, study_name="threads")
    history = recorder.history()
    assert len(evaluator.threads) == 2 and len(history["trial"]) == 12
    np.testing.assert_array_equal(history["lower_solves"], np.arange(1, 13))
    assert sorted(history["wavelet_radius"]) == sorted(values[0] for values in evaluator.calls)
    assert recorder.best.criterion == history["criterion"].min()
    np.testing.assert_array_equal(recorder.best.x, recorder.best.values)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_errors_of_a_trial_are_raised(n_jobs):
    class Failing(Bowl):
        def evaluate(self, values, **options):
            if len(self.calls) == 3:
                raise bioperf.DivergenceError("the iterate became NaN")
            return super().evaluate(values, **options)

    with pytest.raises(bioperf.DivergenceError, match="the iterate became NaN"):
        # the error falls into the last trials, which Optuna's threads do not look at
        search(tpe, Failing(), trials=4, n_jobs=n_jobs)

    def callback(row):
        raise KeyError("in the callback")

    with pytest.raises(KeyError, match="in the callback"):
        search(tpe, callback=callback, trials=1, n_jobs=n_jobs)


def test_pruning():
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
    evaluator, recorder, status = search(tpe, trials=40, seed=2, pruner=pruner)
    history = recorder.history()
    pruned = history["pruned"]
    assert 5 < pruned.sum() < 35 and f"({pruned.sum()} pruned)" in status
    assert not pruned[:5].any()
    work = np.diff(history["iterations"], prepend=0)
    assert (work[pruned] < 10).all() and (work[~pruned] == 10).all()
    final = np.sum(np.log(np.array(evaluator.calls) / evaluator.optimum) ** 2, axis=1)
    # those given up were worse than the median of those finished
    assert final[pruned].min() > np.median(final[~pruned])
    assert recorder.best.criterion == history["criterion"][~pruned].min()
    # nothing is pruned, nor written into the study at every check, unless a pruner is given
    unpruned, recorder, _ = search(tpe, trials=40, seed=2)
    assert not recorder.history()["pruned"].any() and evaluator.watched and not unpruned.watched


def test_pruned_trials_are_not_selected():
    class Never(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number > 0

    class Falling(Bowl):
        def evaluate(self, values, **options):
            trial = super().evaluate(values, **options)
            trial.criterion = 5.0 - len(self.calls)
            return trial

    _, recorder, _ = search(tpe, Falling(), trials=4, pruner=Never())
    assert recorder.best.criterion == 4.0 and recorder.history()["criterion"].min() == 1.0


def test_sampler_and_study_of_the_caller():
    evaluator, _, status = search(tpe, trials=8, sampler=optuna.samplers.RandomSampler(seed=0))
    assert "RandomSampler" in status and len(evaluator.calls) == 8
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.enqueue_trial({"wavelet_radius": 2.0, "tv_radius": 7.0})
    evaluator, recorder, _ = search(tpe, trials=8, study=study)
    np.testing.assert_array_equal(evaluator.calls[0], (2.0, 7.0))
    assert recorder.best.criterion < 1e-12 and len(study.trials) == 8
    assert study.trials[3].user_attrs["bioperf"]["metrics"] == {"rlne": study.trials[3].value / 2}
    # it goes on from there
    evaluator, recorder, _ = search(tpe, trials=10, study=study)
    assert len(evaluator.calls) == 3 and recorder.history()["kind"].tolist() == ["resumed"] * 8 + ["trial"] * 2


def test_optuna_is_silent_and_its_verbosity_restored(caplog):
    logger, before = logging.getLogger("optuna"), optuna.logging.get_verbosity()
    logger.addHandler(caplog.handler)
    try:
        optuna.logging.set_verbosity(optuna.logging.DEBUG)
        search(tpe, trials=3)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(before)
        logger.removeHandler(caplog.handler)
    assert not caplog.records


def test_missing_optuna_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install bioperf\[tune\]"):
        search(tpe, trials=3)
    assert len(search(grid, trials=4)[0].calls) == 4


# --- studies that outlive their process -------------------------------------------------------

KILLED = """
import os, sys
from bioperf.selection.problems import TVWavelet
from bioperf.selection.result import Recorder
from bioperf.selection.searches import tpe
from test_searches import Bowl

class Dying(Bowl):
    def evaluate(self, values, **options):
        if len(self.calls) == 6:
            os._exit(9)
        return super().evaluate(values, **options)

tpe(Dying(fingerprint="the same"), Recorder(Bowl().names), trials=20, seed=4, storage=sys.argv[1], study_name="killed")
"""


def test_killed_study_resumes(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    path = os.pathsep.join([str(Path(bioperf.__file__).parents[1]), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, storage], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 9, done.stderr

    options = {"seed": 4, "storage": storage, "study_name": "killed"}
    uninterrupted = np.array(search(tpe, trials=7, seed=4)[0].calls)
    evaluator, recorder, status = search(tpe, Bowl(fingerprint="the same"), trials=20, **options)
    history = recorder.history()
    assert history["kind"].tolist() == ["resumed"] * 6 + ["trial"] * 14
    assert "20 trials, 6 of them from the study 'killed'" in status
    # the first six are those of the process that died, with all that they had measured
    values = np.stack([history[name] for name in NAMES], axis=1)
    np.testing.assert_array_equal(values[:6], uninterrupted[:6])
    np.testing.assert_allclose(history["criterion"], np.sum(np.log(values / evaluator.optimum) ** 2, axis=1))
    np.testing.assert_array_equal(history["rlne"], history["criterion"] / 2)
    np.testing.assert_array_equal(np.isnan(history["seconds"]), np.arange(20) < 6)
    # and are not computed again, nor their points sampled again
    again = int("evaluated once more" in status)
    assert len(evaluator.calls) == 14 + again
    assert not np.isin(np.array(evaluator.calls[:14]), uninterrupted).any()
    np.testing.assert_array_equal(history["lower_solves"], np.maximum(np.arange(20) - 5, 0))
    assert recorder.lower_solves == 14 + again
    study = optuna.load_study(study_name="killed", storage=storage)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 6 + ["FAIL"] + ["COMPLETE"] * 14

    # with all trials there, the best is evaluated once for its images
    evaluator, recorder, status = search(tpe, Bowl(fingerprint="the same"), trials=20, **options)
    assert len(evaluator.calls) == recorder.lower_solves == 1 and "evaluated once more for its images" in status
    np.testing.assert_array_equal(recorder.best.x, values[np.argmin(history["criterion"])])
    assert recorder.best.criterion == history["criterion"].min() and len(recorder.rows) == 20

    for other, message in [
        (Bowl(fingerprint="another"), "was made for other data"),
        (Bowl(box=BOX * 2, fingerprint="the same"), "was made for another box"),
        (
            Bowl(names=("a", "b"), fingerprint="the same"),
            r"was made for other parameters \(wavelet_radius, tv_radius\)",
        ),
    ]:
        with pytest.raises(ValueError, match=f"study_name: 'killed' {message}"):
            search(tpe, other, trials=21, **options)
    # the rounding of another machine is no other box: the study keeps its own
    nearly = Bowl(box=BOX * (1 + 1e-12), fingerprint="the same")
    assert len(search(tpe, nearly, trials=21, **options)[1].rows) == 21
    distributions = optuna.load_study(study_name="killed", storage=storage).trials[-1].distributions
    assert [(d.low, d.high, d.log) for d in distributions.values()] == [(*bounds, True) for bounds in BOX.tolist()]


def test_interrupt_leaves_a_study_to_resume(tmp_path):
    class Interrupted(Bowl):
        def evaluate(self, values, **options):
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().evaluate(values, **options)

    options = {"trials": 8, "storage": f"sqlite:///{tmp_path / 'study.db'}", "study_name": "interrupted"}
    with pytest.raises(KeyboardInterrupt):
        search(tpe, Interrupted(), **options)
    _, recorder, _ = search(tpe, **options)
    assert recorder.history()["kind"].tolist() == ["resumed"] * 3 + ["trial"] * 5


def test_pruned_and_not_finite_trials_resume(tmp_path):
    class Patchy(Bowl):
        def evaluate(self, values, **options):
            trial = super().evaluate(values, **options)
            if len(self.calls) == 2:
                trial.criterion = np.nan
            return trial

    pruner = optuna.pruners.MedianPruner(n_startup_trials=3)
    storage = optuna.storages.InMemoryStorage()
    options = {"trials": 20, "storage": storage, "study_name": "patchy"}
    first = search(tpe, Patchy(), pruner=pruner, **options)[1].history()
    evaluator, recorder, _ = search(tpe, Patchy(), pruner=pruner, **options)
    again = recorder.history()
    assert first["pruned"].any() and np.isnan(first["criterion"][1]) and len(evaluator.calls) == 1
    for name in first.keys() - {"kind", "seconds", "lower_solves", "iterations"}:
        np.testing.assert_array_equal(again[name], first[name])


# --- on images --------------------------------------------------------------------------------


def phantom_problem():
    """Two boxes in 16 x 16 pixels from 70 % of their k-space, in pairs, with noise."""
    rng = np.random.default_rng(0)
    truth = np.zeros((16, 16))
    truth[3:13, 4:12], truth[6:10, 7:14] = 1.0, 0.5
    mask = rng.random(truth.shape) < 0.5
    mask |= np.roll(mask[::-1, ::-1], 1, axis=(0, 1))
    mask[0, 0] = True
    A = MaskedFourier(mask)
    return TVWavelet(A, A(truth + 0.15 * rng.standard_normal(truth.shape)), reference=truth)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (grid, {}),
        (grid, {"batched": True}),
        (random, {}),
        (random, {"batched": True}),
        (tpe, {}),
        (tpe, {"n_jobs": 2}),
        (tpe, {"pruner": optuna.pruners.MedianPruner()}),
    ],
    ids=["grid", "grid-batched", "random", "random-batched", "tpe", "tpe-threads", "tpe-pruned"],
)
def test_search_of_radii(method, options):
    problem = phantom_problem()
    evaluator = problem.evaluator("supervised", threads=1)
    _, recorder, _ = search(method, evaluator, trials=36, **options)
    history, best = recorder.history(), recorder.best
    error = 0.5 * float(np.sum((best.x - problem.reference) ** 2))
    assert best.criterion == pytest.approx(error, rel=1e-9) == history["best"][-1]
    # every trial alone, from a cold start: threads change nothing, a warm start no more than the gap permits
    again = [evaluator.evaluate(values) for values in zip(*(history[name] for name in evaluator.names), strict=True)]
    cold = np.array([trial.criterion for trial in again])
    # (with weights of 0 the lower level has many solutions)
    same = ~history["pruned"] & [trial.admissible for trial in again]
    np.testing.assert_allclose(history["criterion"][same], cold[same], rtol=0.01 if method is grid else 0)
    # the box is worth a search, and it is searched
    assert cold.min() < 0.6 * evaluator.evaluate(evaluator.start).criterion
    finest = search(grid, evaluator, trials=256, batched=True)[1].best.criterion
    assert best.criterion < 1.25 * finest
    if "pruner" in options:
        assert history["iterations"][-1] < sum(trial.iterations for trial in again) and history["pruned"].any()


def test_images_of_a_resumed_study_are_those_of_its_first_run(tmp_path):
    options = {"storage": f"sqlite:///{tmp_path / 'study.db'}", "study_name": "radii", "trials": 12}
    _, first, _ = search(tpe, phantom_problem().evaluator("holdout", threads=1), **options)
    _, second, status = search(tpe, phantom_problem().evaluator("holdout", threads=1), **options)
    assert "evaluated once more" in status and second.lower_solves == 1
    np.testing.assert_array_equal(second.best.x, first.best.x)
    assert second.best.metrics == first.best.metrics and second.best.weights == first.best.weights
    with pytest.raises(ValueError, match="study_name: 'radii' was made for other data, another model or another crit"):
        search(tpe, phantom_problem().evaluator("supervised", threads=1), **options)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [grid, random, tpe])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"trials": 0}, ValueError, "trials: must be at least 1, got 0"),
        ({"trials": 2.5}, TypeError, "trials: expected an integer"),
        ({"box": [(1, 2), (-1, 2)]}, ValueError, "box: lowest tv_radius: must be a finite number > 0, got .*-1"),
        ({"box": [(1, 2), (0, 2)]}, ValueError, "box: lowest tv_radius: must be a finite number > 0"),
        ({"box": [(2, 1), (1, 2)]}, ValueError, "box: wavelet_radius needs low < high, got low = 2 and high = 1"),
        ({"box": [(2, 2), (1, 2)]}, ValueError, "box: wavelet_radius needs low < high"),
        ({"box": [(2, np.inf), (1, 2)]}, ValueError, "box: highest wavelet_radius: must be a finite number"),
        ({"box": [(1, 2)]}, ValueError, r"box: expected shape \(2, 2\).*wavelet_radius, tv_radius, got \(1, 2\)"),
        ({"box": "wide"}, TypeError, "box: expected a pair"),
        ({"box": {"tv_radius": 3}}, TypeError, "box: expected a pair"),
        ({"box": {"tv_weight": (1, 2)}}, ValueError, "box: no parameter is named 'tv_weight'; there are 'wavelet_rad"),
    ],
)
def test_bad_input(method, options, error, message):
    evaluator = Bowl()
    with pytest.raises(error, match=message):
        search(method, evaluator, **{"trials": 4, **options})
    assert not evaluator.calls


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed: must be at least 0"),
        ({"seed": 2**32}, ValueError, r"seed: must be below 2\*\*32"),
        ({"n_jobs": 0}, ValueError, "n_jobs: must be at least 1"),
        ({"storage": "sqlite:///study.db"}, ValueError, "study_name: needed with storage"),
        ({"study_name": "tune"}, ValueError, "storage: needed with study_name"),
        ({"study_name": 3, "storage": "sqlite:///study.db"}, TypeError, "study_name: expected a name, got 3"),
        ({"study_name": "tune", "storage": "study.db"}, ValueError, r"storage: study.db cannot be opened \(no URL\)"),
        ({"study_name": "tune", "storage": 3}, TypeError, "storage: expected a URL or a storage of Optuna, got 3"),
        ({"study_name": "tune", "storage": "sqlite:////none/x.db"}, ValueError, r"storage: .* cannot be opened \("),
        ({"study_name": "tune", "storage": "nosql://x"}, ValueError, r"storage: nosql://x cannot be opened \("),
        ({"sampler": "tpe"}, TypeError, "sampler: expected an object of optuna.samplers, got 'tpe'"),
        ({"pruner": "median"}, TypeError, "pruner: expected an object of optuna.pruners, got 'median'"),
        ({"study": "tune"}, TypeError, "study: expected a study of Optuna, got 'tune'"),
    ],
)
def test_bad_input_for_optuna(options, error, message):
    evaluator = Bowl()
    with pytest.raises(error, match=message):
        search(tpe, evaluator, **{"trials": 4, **options})
    assert not evaluator.calls


def test_studies_that_cannot_be_used():
    for name, value in {"storage": "sqlite:///a.db", "sampler": optuna.samplers.RandomSampler()}.items():
        with pytest.raises(ValueError, match=f"{name}: a study brings its own; leave out either"):
            search(tpe, trials=4, study=optuna.create_study(), **{name: value})
    with pytest.raises(ValueError, match=r'study: its study does not minimise one value; .*direction="minimize"'):
        search(tpe, trials=4, study=optuna.create_study(direction="maximize"))
    foreign = optuna.create_study(study_name="foreign")
    foreign.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(ValueError, match="study_name: 'foreign' holds trials that bioperf did not make"):
        search(tpe, trials=4, study=foreign)
    assert not foreign.user_attrs


def test_random_in_a_batch_is_not_warm():
    with pytest.raises(ValueError, match=r"warm: .*pass batched=False"):
        search(random, trials=4, warm=True, batched=True)


def test_box_by_name():
    box = search_box(Bowl(), {"tv_radius": (2, 3)})
    np.testing.assert_array_equal(box, [BOX[0], (2, 3)])
    evaluator = Bowl()
    search_box(evaluator)[:] = 5
    assert evaluator.box is BOX and BOX[0, 0] == 0.1


# --- the selection ----------------------------------------------------------------------------


def selection(weights, details, status="completed"):
    return Selection(
        method="grid", criterion="supervised", weights=weights, radii=None, values={}, x=np.zeros((8, 8)),
        best_criterion=1.5, metrics={}, history={}, lower_solves=4, iterations=40, seconds=0.5, status=status,
        converged=True, backend="cython", fft="scipy", threads=1, details=details,
    )  # fmt: skip


def kspace(seed):
    rng = np.random.default_rng(seed)
    A = MaskedFourier(rng.random((8, 8)) < 0.6)
    return A, A(rng.random((8, 8)))


def test_apply_is_the_penalised_model():
    A, y = kspace(1)
    details = {"wavelet": "haar", "isotropic": True}
    both = selection({"wavelet_weight": 0.01, "tv_weight": 0.02}, details).apply(A, y, tol=1e-6)
    direct = solve_lower(A, y, 0.02, wavelet_weight=0.01, wavelet="haar", isotropic=True, tol=1e-6)
    np.testing.assert_array_equal(both.x, direct.x)
    # the total variation alone, needs no wavelet; options replace what the selection says
    alone = selection({"tv_weight": 0.02}, {"isotropic": True}).apply(A, y, isotropic=False)
    np.testing.assert_array_equal(alone.x, solve_lower(A, y, 0.02).x)
    # wavelets alone: a total variation too small to matter
    wavelets = selection({"wavelet_weight": 0.01, "tv_weight": 0.0}, details).apply(A, y)
    direct = solve_lower(A, y, 1e-8, wavelet_weight=0.01, wavelet="haar", isotropic=True)
    np.testing.assert_array_equal(wavelets.x, direct.x)
    with pytest.raises(ValueError, match="weights: all selected weights are 0"):
        selection({"wavelet_weight": 0.0, "tv_weight": 0.0}, details).apply(A, y)


def test_apply_is_the_relaxed_bilevel_problem():
    A, y = kspace(2)
    arguments = {"target": "identity", "tv_weight": 0.02, "isotropic": True}
    weights = {"epsilon": 0.05, "kappa": 0.1}
    applied = selection(weights, {"bio": arguments}).apply(A, y, max_iter=50)
    np.testing.assert_array_equal(applied.x, solve_bio(A, y, **arguments, **weights, max_iter=50).x)


def test_selection_in_one_line():
    text = repr(selection({"wavelet_weight": 0.0123456, "tv_weight": 0.02}, {}))
    assert "\n" not in text and "0.01235" in text and "supervised" in text and "4 lower solves" in text
