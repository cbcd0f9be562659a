"""Learned iterations of ``solve_bio``: penalties fitted to the problem, and extrapolations of the fields."""

from pathlib import Path

import numpy as np

from ..io.errors import InputError
from ..kernels import get_backend
from . import require_torch
from .weights import read_tensors, write_tensors

__all__ = ["NAMES", "LearnedStages", "features"]

NAMES = {"deblur": Path(__file__).parent.parent / "weights" / "stages.safetensors"}
FEATURES = 4
# Features are held within this many standard deviations of those trained on.
FARTHEST = 3.0
RELAXATIONS = (0.2, 1.95)


def features(problem):
    """Four numbers of a problem that change neither with its units nor with its size.

    The logarithms of the root mean squares of ``x0 - D``, of the data ball's radius and of ``grad x0``, and of the
    mean gradient of D, all relative to the mean gradient that the TV bound allows.

    Parameters
    ----------
    problem : LearnedProblem

    Returns
    -------
    ndarray, float64, shape (4,)
    """
    x0, target = problem.x0, problem.target
    pixels = x0.size
    unit = problem.total_variation_bound / pixels
    squares = _gradient_squares(x0)
    numbers = np.array(
        [
            np.sqrt(np.mean(np.abs(x0 - target) ** 2, dtype=np.float64)),
            problem.epsilon / np.sqrt(pixels),
            np.sqrt(squares.sum(dtype=np.float64) / pixels),
            _total_variation(target, problem.isotropic) / pixels,
        ]
    )
    tiny = np.finfo(np.float32).tiny
    return np.log(np.maximum(numbers, tiny)) - np.log(max(unit, tiny))


def _gradient_squares(x):
    field = np.empty((x.ndim, *x.shape), x.dtype)
    get_backend().gradient(np.ascontiguousarray(x), ndim=x.ndim, out=field)
    return np.abs(field) ** 2


def _total_variation(x, isotropic):
    squares = _gradient_squares(x)
    magnitudes = np.sqrt(squares.sum(axis=0) if isotropic else squares)
    return magnitudes.sum(dtype=np.float64)


class LearnedStages:
    """Stages for ``solve_bio(..., learned=...)``.

    With the standardised ``features`` f of a problem, held within 3 of 0, all stages have the penalties
    ``exp(offset + f slope)``, in units of eta, and one relaxation; stage k proposes

        q + e_k0 (q - q_before),   residual + e_k1 (residual - residual_before)

    Penalties that stay make every stage the same operator T, for which the theorem of the check holds throughout
    (mathematics.md 10).

    Parameters
    ----------
    parameters : dict of str -> ndarray
        "mean", "scale" (4,): of the features; "offset" (2,), "slope" (4, 2); "relaxation" (1,), in (0, 2);
        "extrapolation" (stages, 2).

    Raises
    ------
    ValueError
        For other names, shapes or values.
    """

    def __init__(self, parameters):
        parameters = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
        stages = len(parameters.get("extrapolation", ()))
        shapes = {
            "mean": (FEATURES,),
            "scale": (FEATURES,),
            "offset": (2,),
            "slope": (FEATURES, 2),
            "relaxation": (1,),
            "extrapolation": (stages, 2),
        }
        found = {name: value.shape for name, value in parameters.items()}
        if found != shapes or not stages:
            raise ValueError(f"parameters: expected arrays of the shapes {shapes}, got {found}")
        if not all(np.isfinite(value).all() for value in parameters.values()):
            raise ValueError("parameters: NaN or infinite values")
        if not (0 < parameters["relaxation"][0] < 2 and parameters["scale"].min() > 0):
            raise ValueError("parameters: relaxation must be in (0, 2), and scale positive")
        self.parameters, self.stages = parameters, stages

    @classmethod
    def named(cls, name):
        """Stages of the package by name, or those of a file.  Raises InputError, and ImportError without torch."""
        return cls.read(NAMES.get(name, name))

    @classmethod
    def read(cls, path):
        """The stages of a file that ``write`` wrote."""
        require_torch("learned iterations from a file")
        tensors, _ = read_tensors(path, "stages")
        try:
            return cls({name: tensor.numpy() for name, tensor in tensors.items()})
        except ValueError as error:
            raise InputError(f"{path}: does not hold stages of this version ({error}); train them again") from error

    def write(self, path, record):
        """Write the parameters (float32) with a record, a dict for JSON."""
        torch = require_torch("writing learned iterations")
        tensors = {name: torch.tensor(value, dtype=torch.float32) for name, value in self.parameters.items()}
        write_tensors(path, tensors, "stages", record)

    def standardise(self, values):
        p = self.parameters
        return np.clip((values - p["mean"]) / p["scale"], -FARTHEST, FARTHEST)

    def bind(self, problem):
        """The stages of one item."""
        p = self.parameters
        b_v, b_p = np.exp(p["offset"] + self.standardise(features(problem)) @ p["slope"])
        return BoundStages((float(b_v), float(b_p)), float(p["relaxation"][0]), p["extrapolation"])


class BoundStages:
    """``LearnedStages`` for one item.

    Parameters
    ----------
    penalties : tuple of 2 floats
        (b_v, b_p) in units of eta.
    relaxation : float
    extrapolation : array, shape (stages, 2)
    """

    def __init__(self, penalties, relaxation, extrapolation):
        self._penalties, self._relaxation, self._extrapolation = penalties, relaxation, extrapolation
        self.stages = len(extrapolation)

    def penalties(self, k):
        return self._penalties

    def relaxation(self, k):
        return self._relaxation

    def propose(self, state):
        pairs = (state.q, state.previous_q), (state.residual, state.previous_residual)
        coefficients = self._extrapolation[state.iteration - 1]
        if not np.any(coefficients):
            return None
        return tuple(_extrapolated(*pair, c) for pair, c in zip(pairs, coefficients, strict=True))


def _extrapolated(now, before, coefficient):
    """now + coefficient (now - before); None if that is now."""
    if coefficient == 0:
        return None
    field = now - before
    field *= field.real.dtype.type(coefficient)
    field += now
    return field
