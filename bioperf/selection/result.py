"""What a selection of hyper-parameters evaluates, records and returns."""

import threading
import time
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Recorder", "Selection", "Trial", "as_chains"]

# The total variation's weight beside a wavelet weight where the selection is wavelets alone (solve_lower needs > 0).
NEGLIGIBLE_TV = 1e-6


@dataclass(eq=False)
class Trial:
    """One evaluation of the criterion: the lower level (and the upper one, if there is one) at given values.

    Attributes
    ----------
    values : ndarray, shape (k,)
        The parameters, in the order and the units of the evaluator's ``names``.
    weights : dict of str -> float
        What they amount to: "wavelet_weight" and "tv_weight" in the units of the image's intensity, or
        "epsilon" in the units of |A x - y| and "kappa", relative.
    criterion : float
        What is minimised; of a pruned trial its last value.
    iterations, lower_solves : int
        Work done for this trial.
    seconds : float
        Wall time of this trial.
    converged : bool
    x : ndarray or None
        The images, shape (..., *A.shape); None if another process computed them.
    metrics : dict of str -> float
        "rlne", "psnr", "nre", "validation_error", "test_error", as far as the problem has them.
    state : object or None
        What a neighbouring trial may start from.
    pruned : bool
        Whether the trial was given up early.
    exact_fit : bool
        Whether the lower level may fit the data exactly, as far as it was solved: its lower bound is not above the
        least misfit.  The images are then decided by where the iteration stopped.
    """

    values: np.ndarray
    weights: dict
    criterion: float
    iterations: int
    lower_solves: int
    seconds: float
    converged: bool
    x: np.ndarray | None = field(repr=False)
    metrics: dict = field(default_factory=dict)
    state: object = field(default=None, repr=False)
    pruned: bool = False
    exact_fit: bool = False

    @property
    def unregularised(self):
        """Whether all weights are or may be 0: the trial has no use as a selection or a start (mathematics.md 8)."""
        return self.exact_fit or not any(self.weights.values())

    @property
    def admissible(self):
        """Whether the trial may be selected: a finite criterion, not pruned, and not ``unregularised``."""
        return bool(np.isfinite(self.criterion)) and not self.pruned and not self.unregularised


def as_chains(chains, count):
    """Lists that hold every index below count once, each index alone for None; otherwise ValueError."""
    chains = [[k] for k in range(count)] if chains is None else [list(chain) for chain in chains]
    if sorted(k for chain in chains for k in chain) != list(range(count)):
        raise ValueError(f"chains: expected every index below {count} once, got {chains}")
    return chains


class Recorder:
    """The history of a selection, its best trial and the user's callback; several threads may add to it.

    Parameters
    ----------
    names : sequence of str
        The parameters, as in the evaluator.
    callback : callable, optional
        Called with each row, a dict of the history's columns, one call at a time; returning True stops the search.

    Attributes
    ----------
    best : Trial or None
        The admissible trial with the smallest criterion, the earliest of equal ones.
    stopped : bool
        Whether the callback asked to stop.
    iterations, lower_solves : int
        Totals of what was computed here.
    """

    def __init__(self, names, *, callback=None):
        self.names = tuple(names)
        self.callback = callback
        self.best, self.stopped = None, False
        self.iterations = self.lower_solves = 0
        self.rows = []
        # The columns that trials bring, in the order of their first appearance.
        self._weights, self._metrics, self._extra = {}, {}, {}
        self._start = time.perf_counter()
        # The callback may read the history, so the lock can be taken again by its holder.
        self._lock = threading.RLock()

    @property
    def seconds(self):
        """Wall time since the recorder was made."""
        return time.perf_counter() - self._start

    def add(self, trial, *, kind="trial", seconds=None, **extra):
        """Append a trial as a row; True if the search is to stop.

        Parameters
        ----------
        trial : Trial
        kind : str
            The row's entry in the column "kind".  "resumed": computed by another process; such a row adds
            nothing to the work counted here and its "seconds" is NaN.
        seconds : float, optional
            The row's time since the start; now if None.
        **extra : float
            Further columns, NaN in rows without them.
        """
        with self._lock:
            resumed = kind == "resumed"
            if not resumed:
                self._count(trial)
            if trial.admissible and (self.best is None or trial.criterion < self.best.criterion):
                self.best = trial
            if seconds is None:
                seconds = np.nan if resumed else self.seconds
            row = {"trial": len(self.rows) + 1, "kind": kind, "seconds": seconds}
            row |= {"lower_solves": self.lower_solves, "iterations": self.iterations}
            row |= dict(zip(self.names, map(float, trial.values), strict=True)) | trial.weights
            row |= {"criterion": trial.criterion, "best": np.nan if self.best is None else self.best.criterion}
            row |= {"pruned": trial.pruned} | trial.metrics | extra
            for names, seen in (trial.weights, self._weights), (trial.metrics, self._metrics), (extra, self._extra):
                seen.update(dict.fromkeys(names))
            self.rows.append(row)
            if self.callback is not None:
                answer = self.callback(dict(row))
                self.stopped |= isinstance(answer, bool | np.bool_) and bool(answer)
            return self.stopped

    def recompute_best(self, trial):
        """Put ``trial``, the best one's values evaluated again, in its place; the work counts, without a row."""
        with self._lock:
            self._count(trial)
            self.best = trial

    def _count(self, trial):
        self.iterations += int(trial.iterations)
        self.lower_solves += int(trial.lower_solves)

    def history(self):
        """The rows as arrays by name, all of the same length; the same columns for every method.

        "trial" (1, 2, ...), "kind" (see ``add``), "seconds" since the start, "lower_solves" and "iterations" (totals so
        far), one column a parameter and one a weight, "criterion", "best" (the smallest so far among the
        admissible; NaN before the first), "pruned", one column a metric, then what ``add`` was given besides.
        A weight that is a parameter itself has one column.
        """
        with self._lock:
            rows = list(self.rows)
            names = ["trial", "kind", "seconds", "lower_solves", "iterations", *self.names, *self._weights]
            names += ["criterion", "best", "pruned", *self._metrics, *self._extra]
        kinds = {"trial": int, "kind": str, "lower_solves": int, "iterations": int, "pruned": bool}
        return {
            name: np.array([row.get(name, np.nan) for row in rows], dtype=kinds.get(name, float))
            for name in dict.fromkeys(names)
        }


@dataclass(eq=False)
class Selection:
    """Hyper-parameters selected on data, the images that they give there, and how they were found.

    Attributes
    ----------
    method, criterion : str
        As given to ``select_hyperparameters``.
    weights : dict of str -> float
        The selected weights: "wavelet_weight" and "tv_weight" of ``solve_lower``, in the units of the image's
        intensity, or "epsilon" (in the units of |A x - y|) and "kappa" (relative) of ``solve_bio``.
    radii : ndarray, shape (2,), or None
        The selected bounds on |W x|_1 and TV(x), summed over the stack, where the search was over those.
    values : dict of str -> float
        The parameters that were searched, by name.
    x : ndarray, shape (..., *A.shape)
        The images at the selected values.
    best_criterion : float
        The criterion there.
    metrics : dict of str -> float
        "rlne", "psnr", "nre", "validation_error", "test_error" there, as far as the problem has them.
    history : dict of str -> ndarray
        A row a trial or outer iteration; ``Recorder.history`` lists the columns.
    lower_solves, iterations : int
        Totals: lower-level problems solved, and iterations in them.
    seconds : float
        Wall time.
    status : str
        The outcome in words.
    converged : bool
        Whether the method's own stopping test ended it; of a search, whether all trials were made.
    backend, fft, threads : str, str, int
        What ran.
    details : dict
        What ``apply`` needs ("wavelet" and "isotropic", or "bio": the arguments of ``solve_bio``), and further
        results of the method.
    """

    method: str
    criterion: str
    weights: dict
    radii: np.ndarray | None
    values: dict
    x: np.ndarray = field(repr=False)
    best_criterion: float
    metrics: dict
    history: dict = field(repr=False)
    lower_solves: int
    iterations: int
    seconds: float
    status: str
    converged: bool
    backend: str
    fft: str
    threads: int
    details: dict = field(default_factory=dict, repr=False)

    def apply(self, A, y, **options):
        """The penalised model with the selected weights on other data (mathematics.md 8: it is those that carry over).

        ``solve_lower`` for "tv_weight" (and "wavelet_weight"), ``solve_bio`` for "epsilon" and "kappa".  A selected
        "tv_weight" of 0 beside a wavelet weight becomes 1e-6 times that weight: ``solve_lower`` needs one > 0.

        Parameters
        ----------
        A : Blur, MaskedFourier or MultiCoilFourier
            The operator, for images of the kind and noise that the selection was made for.
        y : ndarray, shape (..., *A.data_shape)
        **options
            Passed to the solver (``tol``, ``max_iter``, ``x0``, ``target``, ...); they replace what the selection
            says.

        Returns
        -------
        Solution

        Raises
        ------
        ValueError
            If all selected weights are 0, or as the solver.
        """
        if "epsilon" in self.weights:
            from ..bio import solve_bio

            return solve_bio(A, y, **{**self.details["bio"], **self.weights, **options})
        from ..lower import solve_lower

        wavelet_weight = self.weights.get("wavelet_weight", 0.0)
        tv_weight = max(self.weights["tv_weight"], NEGLIGIBLE_TV * wavelet_weight)
        if not tv_weight > 0:
            raise ValueError("weights: all selected weights are 0, so there is no model to apply; select them again")
        model = {"tv_weight": tv_weight, "isotropic": self.details["isotropic"]}
        if wavelet_weight:
            model |= {"wavelet_weight": wavelet_weight, "wavelet": self.details["wavelet"]}
        return solve_lower(A, y, **{**model, **options})

    def __repr__(self):
        weights = ", ".join(f"{name} {weight:.4g}" for name, weight in self.weights.items())
        return (
            f"Selection({self.method}, {self.criterion}: {self.status}; {weights}, "
            f"criterion {self.best_criterion:.6g}, {self.lower_solves} lower solves, {self.seconds:.3f} s, "
            f"{self.backend}/{self.fft}, {self.threads} threads)"
        )
