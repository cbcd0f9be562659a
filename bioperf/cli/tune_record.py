"""The record of ``bioperf tune``: what was done, on which files, by which versions, and all that was found."""

import hashlib
import json
import math
import os
import platform
import re
from importlib import metadata

import numpy as np

__all__ = ["encode", "record_of", "sha256", "without_password"]

_PACKAGES = ("numpy", "scipy", "optuna", "numba", "PyWavelets", "scikit-image", "ducc0", "pyfftw")


def record_of(arguments, settings, inputs, data, selections, best, *, test, contour, seconds):
    """A dict for ``encode``.

    "command", "options", "inputs" (paths and SHA-256) and "environment" (versions, machine) are what a repetition
    needs; "problem" is what was read; "best" and "weights" are what was found; "methods" has every Selection with its
    whole history, "test" the quality on the images kept for testing, "contour" the grid behind the figure.
    """
    from .. import __version__
    from ..kernels import available_threads

    kspace = data.kspace
    return {
        "command": ["bioperf", *(without_password(str(word)) for word in arguments)],
        "options": settings | {"storage": without_password(settings["storage"])},
        "seed": settings["seed"],
        "inputs": inputs,
        "environment": {
            "versions": {"bioperf": __version__, "python": platform.python_version()}
            | {name: _version(name) for name in _PACKAGES},
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
        "methods": [_of_selection(selection) for selection in selections],
        "test": test,
        "contour": None if contour is None else {"source": contour.source, "history": contour.history},
        "seconds": seconds,
    }  # fmt: skip


def _of_selection(selection):
    names = (
        "method", "criterion", "status", "converged", "weights", "values", "radii", "best_criterion", "metrics",
        "lower_solves", "iterations", "seconds", "backend", "fft", "threads", "history",
    )  # fmt: skip
    return {name: getattr(selection, name) for name in names}


def encode(record):
    """A record as JSON text: arrays as lists, NaN and infinite numbers as null, paths as text."""
    text = json.dumps(_plain(record), indent=1, allow_nan=False, ensure_ascii=False)
    # Lists of numbers or words on one line each; a line break is never within a string
    return re.sub(r"\[\n\s+([^\[\]{}]*)\n\s+\]", _on_one_line, text) + "\n"


def _on_one_line(found):
    return "[" + re.sub(r"\n\s+", " ", found[1]) + "]"


def _plain(value):
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _version(name):
    """None if not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def sha256(path):
    """Of the file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_password(text):
    """A text with the password of a database's URL taken out."""
    return re.sub(r"(://[^:/@\s]*):[^/\s]*@", r"\1:***@", text) if isinstance(text, str) else text
