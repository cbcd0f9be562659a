"""Studies that several processes share: no trial twice, none lost, the same best; dead owners, leases, storages."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import bioperf
from bioperf.selection import studies
from bioperf.selection.searches import open_storage, tpe

optuna = pytest.importorskip("optuna", reason='the search "tpe" needs Optuna: pip install bioperf[tune]')
from test_searches import NAMES, Bowl, search  # noqa: E402

STATES = optuna.trial.TrialState
ELSEWHERE = {"place": "another machine", "pid": 1, "started": 1, "search": "?", "lease": 0}

# One of several processes on one study; it begins when all are there and may kill itself in a trial.
PROCESS = """
import json, os, signal, sys, time
from pathlib import Path
from bioperf.selection.searches import tpe
from test_searches import Bowl, search

storage, ready, number, dies = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "dies"

class Slow(Bowl):
    def evaluate(self, values, **options):
        time.sleep(0.05)
        if dies and len(self.calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(values, **options)

(ready / str(os.getpid())).touch()
while len(list(ready.iterdir())) < number:
    time.sleep(0.01)
evaluator, recorder, status = search(tpe, Slow(fingerprint="shared"), trials=24, storage=storage, study_name="shared")
history = recorder.history()
print(json.dumps({
    "kinds": history["kind"].tolist(), "radii": history["tv_radius"].tolist(), "calls": len(evaluator.calls),
    "again": "evaluated once more" in status, "best": recorder.best.values.tolist(), "x": recorder.best.x.tolist(),
}))
"""


def start(storage, ready, number, fate):
    path = os.pathsep.join([str(Path(bioperf.__file__).parents[1]), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, storage, str(ready), str(number), fate],
        env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("storage", ["journal:///{}/study.log", "sqlite:///{}/study.db"], ids=["journal", "sqlite"])
def test_processes_share_a_study(tmp_path, storage):
    storage, ready = storage.format(tmp_path), tmp_path / "ready"
    ready.mkdir()
    # one of those on the journal dies in its third trial
    fates = ["lives", "lives", "dies"] if storage.startswith("journal") else ["lives", "lives"]
    processes = [start(storage, ready, len(fates), fate) for fate in fates]
    outputs = [process.communicate(timeout=120) for process in processes]
    for process, fate, (_, errors) in zip(processes, fates, outputs, strict=True):
        assert process.returncode == (-9 if fate == "dies" else 0), errors
    living = [json.loads(out) for (out, _), fate in zip(outputs, fates, strict=True) if fate == "lives"]

    study = optuna.load_study(study_name="shared", storage=open_storage(storage))
    complete = [trial for trial in study.trials if trial.state == STATES.COMPLETE]
    assert len(complete) == 24
    points = [tuple(trial.params[name] for name in NAMES) for trial in complete]
    assert len(set(points)) == 24
    # nothing but the trial of the dead one failed, except trials that were asked for when enough were under way
    failed = [trial for trial in study.trials if trial.state == STATES.FAIL and trial.params]
    assert len(failed) == fates.count("dies") and len(failed) + 24 <= len(study.trials) < 24 + 5
    made = [[kind == "trial" for kind in one["kinds"]] for one in living]
    assert all(len(each) == 24 and any(each) for each in made)
    assert sum(map(sum, made)) == 24 - 2 * fates.count("dies")
    assert [one["calls"] for one in living] == [
        sum(each) + one["again"] for each, one in zip(made, living, strict=True)
    ]
    best = min(complete, key=lambda trial: trial.value)
    for one in living:
        assert sorted(one["radii"]) == sorted(point[1] for point in points)
        assert one["best"] == one["x"] == [best.params[name] for name in NAMES]


def begin_elsewhere(study, **owner):
    """A trial that another process has begun."""
    trial = study.ask()
    trial.set_user_attr(studies.OWNER_ATTRIBUTE, ELSEWHERE | owner)
    for name, (low, high) in zip(NAMES, Bowl().box, strict=True):
        trial.suggest_float(name, low, high, log=True)
    return trial


def end_elsewhere(study, trial):
    done = Bowl().evaluate([trial.params[name] for name in NAMES])
    trial.set_user_attr(studies.TRIAL_ATTRIBUTE, studies._stored(done))
    study.tell(trial, done.criterion)


def test_a_trial_under_way_elsewhere_is_waited_for(monkeypatch):
    monkeypatch.setattr(studies, "LEASE", 0.5)
    study = optuna.create_study()
    other = begin_elsewhere(study)

    def work():
        for lease in range(1, 15):
            time.sleep(0.1)
            other.set_user_attr(studies.OWNER_ATTRIBUTE, ELSEWHERE | {"lease": lease})
        end_elsewhere(study, other)

    thread = threading.Thread(target=work)
    thread.start()
    evaluator, recorder, _ = search(tpe, study=study, trials=4)
    thread.join()
    assert recorder.history()["kind"].tolist() == ["trial"] * 3 + ["resumed"]
    assert [trial.state for trial in study.trials] == [STATES.COMPLETE] * 4
    again = recorder.best.criterion == study.trials[0].value
    assert len(evaluator.calls) == 3 + again


@pytest.mark.parametrize("owned", [True, False])
def test_an_abandoned_trial_is_replaced(monkeypatch, owned):
    monkeypatch.setattr(studies, "LEASE", 0.5)
    study = optuna.create_study()
    other = begin_elsewhere(study) if owned else study.ask()
    states = []
    search(tpe, study=study, trials=3, callback=lambda row: states.append(study.trials[0].state))
    # left alone as long as there is other work
    assert states[:2] == [STATES.RUNNING] * 2
    assert [trial.state for trial in study.trials] == [STATES.FAIL] + [STATES.COMPLETE] * 3
    assert other.number == 0


def test_the_dead_of_this_machine_are_known_at_once():
    place = studies._place()
    if place is None:
        pytest.skip("no /proc here: the lease alone tells")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = {"place": place, "pid": child.pid, "started": studies._started(child.pid)}
    assert dead["started"] is not None
    child.communicate(b"\n")
    assert studies._started(child.pid) is None
    # another process that has the id of a dead one, and an earlier search of this process
    reused = {"place": place, "pid": os.getpid(), "started": studies._started(os.getpid()) - 1}
    ended = {"place": place, "pid": os.getpid(), "started": studies._started(os.getpid()), "search": "ended"}
    study = optuna.create_study()
    for owner in (dead, reused, ended):
        begin_elsewhere(study, **owner)
    search(tpe, study=study, trials=2, callback=lambda row: row["trial"] == 1)
    assert [trial.state for trial in study.trials] == [STATES.FAIL] * 3 + [STATES.COMPLETE]


def test_a_trial_that_others_took_for_abandoned_is_dropped(caplog):
    study = optuna.create_study()

    class Suspended(Bowl):
        def evaluate(self, values, **options):
            if not self.calls:
                study.tell(0, state=STATES.FAIL)
            return super().evaluate(values, **options)

    evaluator, recorder, _ = search(tpe, Suspended(), study=study, trials=3)
    assert [trial.state for trial in study.trials] == [STATES.FAIL] + [STATES.COMPLETE] * 3
    assert len(evaluator.calls) == 4 and len(recorder.rows) == 3 and "trial 0 of the study" in caplog.text


def test_the_last_trial_is_made_by_one(monkeypatch):
    study = optuna.create_study()
    ask = study.ask

    def at_once():
        """Another process asks at the same time and is the first."""
        monkeypatch.setattr(study, "ask", ask)
        other = begin_elsewhere(study)
        threading.Timer(0.5, end_elsewhere, (study, other)).start()
        return ask()

    monkeypatch.setattr(study, "ask", at_once)
    evaluator, recorder, status = search(tpe, study=study, trials=1)
    assert [trial.state for trial in study.trials] == [STATES.COMPLETE, STATES.FAIL]
    assert recorder.history()["kind"].tolist() == ["resumed"] and "evaluated once more" in status
    assert len(evaluator.calls) == 1 and not study.trials[1].params


def test_leases_are_renewed_and_end(monkeypatch):
    monkeypatch.setattr(studies, "RENEWAL", 0.02)
    study, leases = optuna.create_study(), []

    class Long(Bowl):
        def evaluate(self, values, **options):
            for _ in range(3):
                time.sleep(0.1)
                leases.append(study.trials[0].user_attrs[studies.OWNER_ATTRIBUTE]["lease"])
            return super().evaluate(values, **options)

    search(tpe, Long(), study=study, trials=1)
    assert 0 < leases[0] < leases[1] < leases[2]
    assert not studies._searches


def test_an_error_leaves_no_trial_running():
    class Failing(Bowl):
        def evaluate(self, values, **options):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().evaluate(values, **options)

    for n_jobs in (1, 3):
        study = optuna.create_study()
        with pytest.raises(KeyboardInterrupt):
            search(tpe, Failing(), study=study, trials=9, n_jobs=n_jobs)
        states = [trial.state for trial in study.trials]
        assert STATES.RUNNING not in states and STATES.FAIL in states and STATES.COMPLETE in states


def test_equal_criteria_have_one_best(tmp_path):
    class Flat(Bowl):
        def evaluate(self, values, **options):
            trial = super().evaluate(values, **options)
            trial.criterion = 1.0
            return trial

    study = optuna.create_study()
    other = begin_elsewhere(study)
    recorder = search(tpe, Flat(), study=study, trials=3, callback=lambda row: row["trial"] == 2)[1]
    # of those there are the first; then the one with the smaller number, which came later
    assert recorder.best.values[1] == study.trials[1].params["tv_radius"]
    other.set_user_attr(studies.TRIAL_ATTRIBUTE, study.trials[1].user_attrs[studies.TRIAL_ATTRIBUTE])
    study.tell(other, 1.0)
    recorder = search(tpe, Flat(), study=study, trials=3)[1]
    assert recorder.best.values[1] == study.trials[0].params["tv_radius"]


# --- storages ---------------------------------------------------------------------------------


def test_storages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url, path in {
        "journal:///relative.log": tmp_path / "relative.log",
        f"journal:///{tmp_path}/absolute.log": tmp_path / "absolute.log",
        "sqlite:///relative.db": tmp_path / "relative.db",
    }.items():
        options = {"storage": url, "study_name": "tune", "trials": 3}
        assert len(search(tpe, **options)[0].calls) == 3 and path.is_file()
        assert search(tpe, **options)[1].history()["kind"].tolist() == ["resumed"] * 3
    storage = optuna.storages.InMemoryStorage()
    assert open_storage(storage) is storage


@pytest.mark.parametrize(
    ("storage", "error", "message"),
    [
        ("study.log", ValueError, r"storage: study.log cannot be opened \(no URL\); give a URL such as sqlite:///"),
        ("journal://study.log", ValueError, r"cannot be opened \(an absolute path is journal:////scratch/tune.log\)"),
        ("journal:///", ValueError, "cannot be opened"),
        ("journal:////none/of/these/study.log", ValueError, r"cannot be opened \(.*No such file"),
        ("nosql://me:secret@x/y", ValueError, r"storage: nosql://me:\*\*\*@x/y cannot be opened"),
        (3, TypeError, "storage: expected a URL or a storage of Optuna, got 3"),
    ],
)
def test_storages_that_cannot_be_opened(storage, error, message):
    with pytest.raises(error, match=message) as caught:
        open_storage(storage)
    assert "secret" not in str(caught.value)


def test_a_journal_of_something_else_is_refused(tmp_path):
    path = tmp_path / "study.log"
    path.write_text("not a journal\nat all\n")
    with pytest.raises(ValueError, match=r"storage: .*study.log cannot be opened"):
        search(tpe, storage=f"journal:///{path}", study_name="tune", trials=3)


def test_no_two_processes_have_the_same_points():
    """A process's first number in the study seeds its sampler: no two have the same points."""
    options = {"storage": optuna.storages.InMemoryStorage(), "study_name": "seeds", "seed": 7}
    one = search(tpe, trials=3, **options)[0].calls
    two = search(tpe, trials=6, **options)[0].calls
    np.testing.assert_array_equal(one, search(tpe, trials=3, seed=7)[0].calls)
    assert not np.isin(np.array(two[:3]), search(tpe, trials=6, seed=7)[0].calls).any()
