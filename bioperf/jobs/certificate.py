"""What was proved about a Solution: for a record, and in short for a figure; one image's part of a batch's."""

import math
from dataclasses import replace

import numpy as np

__all__ = ["bounds", "certificate_facts", "certificate_of", "one_of", "plain", "small", "words"]

_CHOSEN = ("noise_std", "tv_weight", "wavelet_weight", "epsilon", "kappa", "trust", "data_residual")


def certificate_of(solution):
    """A dict for JSON: a number for one image, a list of them (over all axes of the batch, and colours) for a batch.

    "status" in words, "converged" for all; "objective", "lower_bound", "gap", "infeasibility" by name, "kkt_residual",
    "iterations"; the choices made from the data; "backend", "fft", "threads"; "seconds" by stage, of a batch their
    sums, and "total", the wall time.
    """
    items = solution.details.get("items", [solution.details])

    def each(values):
        values = np.asarray(values)
        return plain(values.ravel() if values.ndim else values)

    found = {
        "status": solution.status,
        "converged": bool(np.all(solution.converged)),
        **{name: each(getattr(solution, name)) for name in ("objective", "lower_bound", "gap")},
        "infeasibility": {name: each(values) for name, values in solution.infeasibility.items()},
        **{name: each(getattr(solution, name)) for name in ("kkt_residual", "iterations")},
    }
    for name in _CHOSEN:
        values = [item[name] for item in items if name in item]
        if values:
            found[name] = plain(values if "items" in solution.details else values[0])
    found |= {name: getattr(solution, name) for name in ("backend", "fft", "threads")}
    clocks = [item["seconds"] for item in items if "seconds" in item]
    stages = clocks[0] if clocks else {}
    found["seconds"] = {stage: plain(sum(clock[stage] for clock in clocks)) for stage in stages}
    found["seconds"]["total"] = plain(solution.seconds)
    return found


def plain(value):
    """The value as JSON has it: arrays as lists, numbers that are not finite as None, paths as text."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def bounds(solution):
    """(name, text) of objective, bound and gap, of a batch those of the item with the largest gap."""
    gaps = np.abs(np.ravel(solution.gap))
    worst = int(np.argmax(gaps))
    return [
        ("objective", f"{np.ravel(solution.objective)[worst]:.6g}"),
        ("lower bound", f"{np.ravel(solution.lower_bound)[worst]:.6g}"),
        ("relative gap", small(gaps[worst])),
    ]


def one_of(solution, index):
    """The Solution of one image of a batch, counted over all its axes; its seconds, if timed alone."""
    if np.ndim(solution.objective) == 0:
        return solution
    numbers = {name: np.ravel(getattr(solution, name))[index] for name in ("objective", "lower_bound", "kkt_residual")}
    iterations, converged = np.ravel(solution.iterations)[index], np.ravel(solution.converged)[index]
    details = solution.details["items"][index]
    return replace(
        solution,
        x=solution.x.reshape(-1, *solution.x.shape[np.ndim(solution.objective) :])[index],
        infeasibility={name: np.ravel(values)[index] for name, values in solution.infeasibility.items()},
        iterations=iterations,
        converged=converged,
        status=f"{'' if converged else 'not '}converged in {iterations} iterations",
        history=solution.history[index],
        seconds=sum(details["seconds"].values()) if "seconds" in details else solution.seconds,
        details=details,
        **numbers,
    )


def certificate_facts(solution, details=(), timings=True):
    """The certificate in short for a figure, with the named numbers of the Solution's details."""
    labels = {"tv": "TV infeasibility", "data": "data infeasibility"}
    time = f"{solution.seconds:.2f} s, {solution.threads} thread{'s' * (solution.threads > 1)}"
    return [
        ("status", solution.status.partition(" (")[0]),
        *bounds(solution),
        *((labels.get(name, name), small(value)) for name, value in solution.infeasibility.items()),
        *((words(name), f"{solution.details[name]:.3g}") for name in details),
        *([("time", time)] if timings else []),
    ]


def words(name):
    """The name of a choice as it is shown."""
    return name.replace("_std", " level").replace("_", " ")


def small(values):
    """The largest of them, to two digits."""
    largest = float(np.max(values))
    return f"{largest:.1e}" if largest else "0"
