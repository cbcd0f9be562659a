"""The record of ``bioperf tune``: what was done, on which files, by which versions, and all that was found."""

import hashlib
import json
import os
import platform
import re

from .._validation import without_password
from .certificate import plain
from .versions import versions

__all__ = ["encode", "record_of", "sha256", "without_password"]

_PACKAGES = ("numpy", "scipy", "optuna", "numba", "PyWavelets", "scikit-image", "ducc0", "pyfftw")
_OF_SELECTION = (
    "method", "criterion", "status", "converged", "weights", "values", "radii", "best_criterion", "metrics",
    "lower_solves", "iterations", "seconds", "backend", "fft", "threads", "history",
)  # fmt: skip
# Names that ``record_of`` leaves out on demand: the clock's, the machine's, and what the results do not depend on.
_OF_THE_RUN = ("seconds", "threads", "platform", "cores", "available_threads")


def record_of(command, settings, inputs, data, tuning, *, seconds, timings=True):
    """A dict for ``encode``.

    "command" (if one is given), "options", "inputs" (paths and SHA-256) and "environment" (versions, machine) are what
    a repetition needs; "problem" is what was read; "best" and "weights" are what was found; "methods" has every
    Selection with its whole history, "test" the quality on the images kept for testing, "contour" the grid behind the
    figure.  Without ``timings`` no seconds, no numbers of threads and nothing of the machine: the same work gives the
    same record.
    """
    from ..kernels import available_threads

    kspace, best, contour = data.kspace, tuning.best, tuning.contour
    record = {
        "command": ["bioperf", *(without_password(str(word)) for word in command)],
        "options": settings | {"storage": without_password(settings["storage"])},
        "seed": settings["seed"],
        "inputs": inputs,
        "environment": {
            "versions": versions(_PACKAGES),
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "available_threads": available_threads(),
        },
        "problem": {
            "shape": kspace.shape, "dtype": str(kspace.dtype), "real": data.A.real, "centred": data.A.centred,
            "sampled": float(data.mask.mean()), "noise_std": data.noise_std, "peak": data.peak,
            "facts": dict(data.facts),
        },
        "best": best.method,
        "weights": best.weights,
        "methods": [{name: getattr(selection, name) for name in _OF_SELECTION} for selection in tuning.selections],
        "test": tuning.quality,
        "contour": None if contour is None else {"source": contour.words(timings), "history": contour.history},
        "seconds": seconds,
    }  # fmt: skip
    if not command:
        del record["command"]
    return record if timings else _timeless(record)


def _timeless(value):
    """The record without what differs from run to run or from machine to machine, at any depth."""
    if isinstance(value, dict):
        return {name: _timeless(item) for name, item in value.items() if name not in _OF_THE_RUN}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def encode(record):
    """A record as JSON text: arrays as lists, NaN and infinite numbers as null, paths as text."""
    text = json.dumps(plain(record), indent=1, allow_nan=False, ensure_ascii=False)
    # Lists of numbers or words on one line each; a line break is never within a string
    return re.sub(r"\[\n\s+([^\[\]{}]*)\n\s+\]", _on_one_line, text) + "\n"


def _on_one_line(found):
    return "[" + re.sub(r"\n\s+", " ", found[1]) + "]"


def sha256(path):
    """Of the file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
