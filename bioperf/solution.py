"""What a solver returns."""

from dataclasses import dataclass, field

import numpy as np

__all__ = ["DivergenceError", "Solution"]


class DivergenceError(ArithmeticError):
    """An iteration produced NaN or infinity; the message names the iteration."""


@dataclass
class Solution:
    """A solver's result, with what was proved about it and what ran.

    For one image the numbers are floats and ``history`` maps a name to an array over the checks.  For a
    batch they are arrays of the batch's shape and ``history`` is a list with one such mapping an item.

    Attributes
    ----------
    x : ndarray
        The images, shape and dtype of the data.
    objective : float
        The objective at x.
    lower_bound : float
        A bound that the optimum is not below; the solver's docstring says how it is certified.
    infeasibility : dict of str -> float
        Named, relative violations of the constraints at x (empty for an unconstrained problem).
    kkt_residual : float
        The relative residual of the optimality condition at x.
    iterations : int
    converged : bool
        Whether every stopping test fell below ``tol``.
    status : str
        The outcome in words.
    history : dict of str -> ndarray
        What was measured at each check, by name; "iteration" and "seconds" always.
    seconds : float
        Wall time of the solve.
    backend, fft, threads : str, str, int
        What ran.
    details : dict
        Further results of a solver or a one-call function (weights chosen, lower-level solution, ...).
    """

    x: np.ndarray
    objective: float
    lower_bound: float
    infeasibility: dict
    kkt_residual: float
    iterations: int
    converged: bool
    status: str
    history: dict
    seconds: float
    backend: str
    fft: str
    threads: int
    details: dict = field(default_factory=dict)

    @property
    def gap(self):
        """``(objective - lower_bound) / max(|objective|, |lower_bound|)``."""
        scale = np.maximum(np.maximum(np.abs(self.objective), np.abs(self.lower_bound)), np.finfo(float).tiny)
        with np.errstate(invalid="ignore"):
            return (self.objective - self.lower_bound) / scale

    def __repr__(self):
        return (
            f"Solution({self.status}; x {self.x.shape} {self.x.dtype}, objective {np.max(self.objective):.6g}, "
            f"gap {np.max(self.gap):.1e}, {np.max(self.iterations)} iterations, {self.seconds:.3f} s, "
            f"{self.backend}/{self.fft}, {self.threads} threads)"
        )


def stack(items, batch_shape, x=None):
    """One Solution of a batch from the Solutions of its items, with the images x if they are together already."""
    if batch_shape == ():
        if x is not None:
            items[0].x = x
        return items[0]
    if x is None:
        x = np.stack([item.x for item in items]).reshape(*batch_shape, *items[0].x.shape)

    def gather(get, dtype=float):
        return np.array([get(item) for item in items], dtype).reshape(batch_shape)

    converged = gather(lambda s: s.converged, bool)
    count = int(converged.sum())
    if converged.all():
        status = f"converged: {count} of {len(items)}"
    else:
        worst = next(k for k, item in enumerate(items) if not item.converged)
        status = f"converged: {count} of {len(items)}; item {worst}: {items[worst].status}"
    first = items[0]
    return Solution(
        x=x,
        objective=gather(lambda s: s.objective),
        lower_bound=gather(lambda s: s.lower_bound),
        infeasibility={name: gather(lambda s, n=name: s.infeasibility[n]) for name in first.infeasibility},
        kkt_residual=gather(lambda s: s.kkt_residual),
        iterations=gather(lambda s: s.iterations, int),
        converged=converged,
        status=status,
        history=[item.history for item in items],
        seconds=sum(item.seconds for item in items),
        backend=first.backend,
        fft=first.fft,
        threads=first.threads,
        details={"items": [item.details for item in items]} if any(item.details for item in items) else {},
    )
