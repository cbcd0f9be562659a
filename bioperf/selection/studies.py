"""Optuna's studies on one process or on several at once, which share a storage and the number of trials.

A trial that is being made carries its owner in the study: the process, and a lease, a count that the process raises
every ``RENEWAL`` seconds.  Other processes leave it alone, and take it for abandoned, and mark it failed, if

- its process is dead, where that can be seen: on the same machine (boot and process namespace included), on Linux; or
- its lease has not changed for ``LEASE`` seconds by the clock of the process that looks: no two clocks are compared.

A process that was suspended for longer than that finds its trial failed; it drops the result and goes on.  This rule
is the same for every storage, so Optuna's own heartbeat, which some storages have, is not used.
"""

import logging
import os
import socket
import threading
import time
import uuid
import warnings
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from .._validation import without_password
from .result import Trial

__all__ = ["SharedStudy", "import_optuna", "open_storage", "open_study"]

# Names in the studies' storage.
STUDY_ATTRIBUTE = TRIAL_ATTRIBUTE = "bioperf"
OWNER_ATTRIBUTE = "bioperf_owner"
# Boxes that differ by no more, relatively, are the same: they follow from an image that was computed.
BOX_TOLERANCE = 1e-4
# Seconds: after which a trial whose lease was not renewed is abandoned, between renewals, and between two looks at a
# study whose last trials other processes are making.
LEASE, RENEWAL, LOOK = 300.0, 30.0, 0.25
# Seconds that a writer to a file of SQLite waits for another.
SQLITE_TIMEOUT = 60
JOURNAL = "journal:///"
REMEDY = f"give a URL such as sqlite:///tune.db or {JOURNAL}tune.log"

_logger = logging.getLogger(__name__)
# The searches under way in this process.
_searches = set()


def import_optuna():
    try:
        import optuna
    except ImportError as error:
        raise ImportError('method: "tpe" needs Optuna: pip install bioperf[tune]') from error
    return optuna


def open_storage(storage):
    """The storage of Optuna's studies that a URL names.

    Parameters
    ----------
    storage : str or optuna storage
        "journal:///tune.log": a file that processes on several nodes may share, also over NFS (version 3 or later);
        it is created if its folder exists.  As in SQLite's URLs a path after three slashes is relative, one after
        four absolute.  "sqlite:///tune.db": a file for the processes of one machine.  Or the URL of another
        database, as SQLAlchemy has it; or a storage object, which is returned.

    Returns
    -------
    optuna.storages.BaseStorage

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        If the URL is none, or its storage cannot be opened.
    ImportError
        Without Optuna.
    """
    optuna = import_optuna()
    if isinstance(storage, optuna.storages.BaseStorage):
        return storage
    if not isinstance(storage, str):
        raise TypeError(f"storage: expected a URL or a storage of Optuna, got {storage!r}")
    shown = without_password(storage)
    if "://" not in storage:
        raise ValueError(f"storage: {shown} cannot be opened (no URL); {REMEDY}")
    try:
        if storage.startswith("journal:"):
            return _open_journal(optuna, storage)
        return _open_database(optuna, storage)
    except Exception as error:  # of whatever library the URL names
        reason = without_password(str(error).partition("\n")[0]) or type(error).__name__
        raise ValueError(f"storage: {shown} cannot be opened ({reason}); {REMEDY}") from error


def _open_journal(optuna, url):
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path = url.removeprefix(JOURNAL)
    if path == url or not path:
        raise ValueError(f"an absolute path is {JOURNAL}/scratch/tune.log")
    return optuna.storages.JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


def _open_database(optuna, url):
    options = {"connect_args": {"timeout": SQLITE_TIMEOUT}} if url.startswith("sqlite:") else {}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except Exception:
        # Of two processes that create the same tables one fails: they are there at the second attempt.
        time.sleep(LOOK)
        return optuna.storages.RDBStorage(url, engine_kwargs=options)


def open_study(optuna, *, seed, study, storage, study_name, sampler, pruner):
    """The caller's study, or a new one, or the one of that name in the storage; and whether its sampler is ours."""
    if study is not None:
        _check_study(optuna, study, storage=storage, study_name=study_name, sampler=sampler, pruner=pruner)
        return study, False
    if storage is not None and study_name is None:
        raise ValueError('study_name: needed with storage, to resume by; pass study_name="tune", say')
    if storage is None and study_name is not None:
        raise ValueError('storage: needed with study_name, to keep the study in; pass storage="sqlite:///tune.db", say')
    if study_name is not None and not (isinstance(study_name, str) and study_name):
        raise TypeError(f"study_name: expected a name, got {study_name!r}")
    _check_kind("sampler", sampler, optuna.samplers.BaseSampler)
    _check_kind("pruner", pruner, optuna.pruners.BasePruner)
    storage = None if storage is None else open_storage(storage)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=study_name,
            sampler=sampler or optuna.samplers.TPESampler(seed=seed),
            pruner=pruner or optuna.pruners.NopPruner(),
            direction="minimize",
            load_if_exists=True,
        )
    except Exception as error:  # of whatever library the storage uses
        reason = without_password(str(error).partition("\n")[0])
        raise ValueError(f"storage: the study {study_name!r} in it cannot be opened ({reason})") from error
    _check_direction(optuna, study, f"study_name: {study_name!r}")
    return study, sampler is None


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


class SharedStudy:
    """A study that other processes may work on at the same time, until it holds as many finished trials as wanted.

    A context manager: on leaving it the trials that were asked for and not told are marked failed.

    Parameters
    ----------
    optuna : module
    study : optuna.study.Study
    evaluator, recorder
        As of ``searches``.
    box : array (k, 2)
        Of this problem; an existing study's own is used after a comparison.
    trials : int
        Finished trials (complete or pruned) wanted in total.
    seed : int or None
        Of the sampler if that is the default one; None leaves the study's sampler as it is.

    Attributes
    ----------
    best : Trial or None
        The admissible trial with the smallest criterion, of equal ones that with the smallest number: the same for
        every process once all trials are finished.
    resumed : int
        Trials in the recorder that other processes made.
    """

    def __init__(self, optuna, study, evaluator, recorder, *, box, trials, seed):
        self.study, self.best, self.resumed = study, None, 0
        self._optuna, self._recorder, self._names = optuna, recorder, evaluator.names
        self._wanted, self._seed = trials, seed
        self._box = self._agree(evaluator, box)
        self._mine, self._recorded, self._rank, self._leases = {}, set(), None, {}
        self._search = uuid.uuid4().hex
        self._owner = {"place": _place(), "pid": os.getpid(), "started": _started(os.getpid()), "search": self._search}
        self._left = threading.Event()

    def __enter__(self):
        _searches.add(self._search)
        threading.Thread(target=self._renew, name="bioperf-lease", daemon=True).start()
        return self

    def __exit__(self, *error):
        self._left.set()
        for number in list(self._mine):
            self._fail(self._mine.pop(number).number)
        _searches.discard(self._search)

    def look(self):
        """Record the trials that others finished and fail those they abandoned.

        Returns the number of finished trials, and of those that are being made, here or elsewhere.
        """
        finished, running = self._numbers()
        return len(finished), len(running)

    def ask(self):
        """A new trial of the study and its values; None if others have made those that were missing."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")
            trial = self.study.ask()
        self._mine[trial.number] = trial
        if self._seed is not None:
            # No other process has this number, so none has the same sequence of points.
            self._sow(trial.number)
        trial.set_user_attr(OWNER_ATTRIBUTE, self._owner | {"lease": 0})
        # Of several processes that ask for the last trial at once the one with the smallest number makes it.
        finished, running = self._numbers()
        if sum(number < trial.number for number in (*finished, *running)) >= self._wanted:
            self._fail(self._mine.pop(trial.number).number)
            return None
        bounds = zip(self._names, self._box.tolist(), strict=True)
        return trial, np.array([trial.suggest_float(name, low, high, log=True) for name, (low, high) in bounds])

    def hopeless(self, optuna_trial, iterations, criterion):
        """Whether the pruner gives a trial up at this value, or another process took it for abandoned."""
        try:
            optuna_trial.report(float(criterion), int(iterations))
        except RuntimeError:
            if not self._failed(optuna_trial.number):
                raise
            return True
        return optuna_trial.should_prune()

    def tell(self, optuna_trial, trial):
        """Put a finished ``Trial`` into the study and the recorder; dropped if it was taken for abandoned."""
        states = self._optuna.trial.TrialState
        # Optuna takes a NaN for a failure; it is only the worst value
        value = float(trial.criterion) if np.isfinite(trial.criterion) else np.inf
        outcome = {"state": states.PRUNED} if trial.pruned else {"values": value}
        try:
            optuna_trial.set_user_attr(TRIAL_ATTRIBUTE, _stored(trial))
            told = self.study.tell(optuna_trial, skip_if_finished=True, **outcome)
            dropped = told.state == states.FAIL
        except RuntimeError:
            dropped = self._failed(optuna_trial.number)
            if not dropped:
                raise
        del self._mine[optuna_trial.number]
        if dropped:
            _logger.warning(
                "trial %d of the study %r is dropped: its lease was not renewed for %g s and another process took it "
                "for abandoned", optuna_trial.number, self.study.study_name, LEASE,
            )  # fmt: skip
            return
        self._recorded.add(optuna_trial.number)
        self._rate(optuna_trial.number, trial)
        self._recorder.add(trial)

    def _agree(self, evaluator, box):
        """The study's box: this one if the study is new, else its own after a comparison of the two problems.

        The boxes may differ by the rounding of another machine.
        """
        for trial in self.study.get_trials(deepcopy=False):
            self._check_origin(trial)
        problem = {"names": list(evaluator.names), "box": box.tolist()}
        problem["fingerprint"] = getattr(evaluator, "fingerprint", None)
        if STUDY_ATTRIBUTE not in self.study.user_attrs:
            self.study.set_user_attr(STUDY_ATTRIBUTE, problem)
        # that of another process, if both created the study
        stored = self.study.user_attrs[STUDY_ATTRIBUTE]
        different = None
        if stored["names"] != problem["names"]:
            different = f"other parameters ({', '.join(stored['names'])})"
        elif stored["fingerprint"] != problem["fingerprint"]:
            different = "other data, another model or another criterion"
        elif not np.allclose(stored["box"], box, rtol=BOX_TOLERANCE, atol=0):
            different = f"another box ({stored['box']}, not {problem['box']})"
        if different:
            raise ValueError(
                f"study_name: {self.study.study_name!r} was made for {different}; call with the same, or take another "
                "name"
            )
        return np.array(stored["box"])

    def _numbers(self):
        """The numbers of the finished trials, each of them recorded, and of those that are being made."""
        states = self._optuna.trial.TrialState
        finished, running = [], []
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state in (states.COMPLETE, states.PRUNED):
                finished.append(trial.number)
                if trial.number not in self._recorded:
                    self._record(trial)
            elif trial.state == states.RUNNING:
                if trial.number in self._mine or not self._abandoned(trial):
                    running.append(trial.number)
                else:
                    self._fail(trial.number)
        return finished, running

    def _check_origin(self, frozen):
        states = self._optuna.trial.TrialState
        if frozen.state in (states.COMPLETE, states.PRUNED) and TRIAL_ATTRIBUTE not in frozen.user_attrs:
            raise ValueError(
                f"study_name: {self.study.study_name!r} holds trials that bioperf did not make; take another name"
            )

    def _record(self, frozen):
        """Enter another process's finished trial into the history."""
        self._check_origin(frozen)
        values = np.array([frozen.params[name] for name in self._names])
        trial = Trial(values=values, x=None, **frozen.user_attrs[TRIAL_ATTRIBUTE])
        self._recorded.add(frozen.number)
        self.resumed += 1
        self._rate(frozen.number, trial)
        self._recorder.add(trial, kind="resumed")

    def _rate(self, number, trial):
        rank = (trial.criterion, number)
        if trial.admissible and (self._rank is None or rank < self._rank):
            self._rank, self.best = rank, trial

    def _abandoned(self, frozen):
        """Whether nobody is making a running trial of which this search is not the owner."""
        owner = frozen.user_attrs.get(OWNER_ATTRIBUTE)
        if owner is None and frozen.datetime_start < datetime.now() - timedelta(seconds=LEASE):
            return True
        if owner is not None and owner["place"] is not None and owner["place"] == self._owner["place"]:
            if owner["pid"] == self._owner["pid"] and owner["started"] == self._owner["started"]:
                return owner["search"] not in _searches
            return _started(owner["pid"]) != owner["started"]
        lease = None if owner is None else owner["lease"]
        seen, since = self._leases.get(frozen.number, (None, None))
        if since is None or seen != lease:
            self._leases[frozen.number] = lease, time.monotonic()
            return False
        return time.monotonic() - since > LEASE

    def _failed(self, number):
        return self.study.get_trials(deepcopy=False)[number].state == self._optuna.trial.TrialState.FAIL

    def _fail(self, number):
        try:
            self.study.tell(number, state=self._optuna.trial.TrialState.FAIL, skip_if_finished=True)
        except RuntimeError:
            _logger.debug("trial %d was finished by another process meanwhile", number, exc_info=True)

    def _renew(self):
        lease = 0
        while not self._left.wait(RENEWAL):
            lease += 1
            for trial in list(self._mine.values()):
                try:
                    trial.set_user_attr(OWNER_ATTRIBUTE, self._owner | {"lease": lease})
                except Exception as error:  # of whatever library the storage uses; the next renewal may succeed
                    if trial.number in self._mine:
                        _logger.warning("the lease of trial %d was not renewed: %s", trial.number, error)

    def _sow(self, number):
        """Seed the sampler by the first number that this process was given."""
        if number:
            seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
            self.study.sampler = self._optuna.samplers.TPESampler(seed=seed)
        self._seed = None


def _place():
    """A machine since its start, and the namespace in which process ids count; None where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def _started(pid):
    """When a living process of this machine began, in ticks since the machine's start; None if there is none."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


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
