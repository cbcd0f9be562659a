"""The job of ``bioperf tune``: from k-space, or images to simulate it from, to the weights of the model."""

import importlib.util
import math
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from ..io import (
    MAX_VALUES,
    InputError,
    check_reconstruction,
    check_writable,
    image_format,
    write_image,
    write_reconstruction,
    write_whole,
)
from ..io.nifti import is_nifti
from .base import Job
from .certificate import plain
from .errors import located
from .memory import tune_memory
from .options import at_least, boolean, choice, choices, number, text
from .tune_input import is_made, read_measured, simulate
from .tune_record import encode, record_of, sha256
from .tune_test import quality_on_test_images

__all__ = ["OWN_CRITERION", "Contour", "TuneJob", "Tuning"]

# Methods that go by the noise level, whatever the criterion: their values are not compared.
OWN_CRITERION = ("discrepancy", "sure")
_DESCENTS = ("bf-dca", "bf-dca-faithful", "hypergradient")
_METHODS = (*_DESCENTS, "grid", "random", "tpe", *OWN_CRITERION)
# Options that some methods have alone.
_OF_METHODS = {
    "batched": ("grid", "random"), "noise_std": OWN_CRITERION,
    "storage": ("tpe",), "study_name": ("tpe",), "n_jobs": ("tpe",),
}  # fmt: skip
_NAMED = (
    "method", "criterion", "trials", "seed", "noise_std", "wavelet", "level", "tol", "storage", "study_name", "threads"
)  # fmt: skip
# Of the grid behind a figure's contour, where none is among the methods.
_CONTOUR_TRIALS = 100


class Contour:
    """The criterion on a grid: the ``history`` of a grid search, where it is from in words, and its seconds."""

    def __init__(self, history, source, seconds=None):
        self.history, self.source, self.seconds = history, source, seconds

    def words(self, timings=True):
        """Where it is from, with the seconds it took."""
        return self.source if self.seconds is None or not timings else f"{self.source}, in {self.seconds:.3g} s"


@dataclass
class Tuning:
    """What ``TuneJob.solve`` found.

    Attributes
    ----------
    selections : list of Selection
        One a method.
    best : Selection
        The one with the smallest value of the criterion; the first where no method went by it.
    criterion : str
    quality : dict or None
        Of ``quality_on_test_images``.
    contour : Contour or None
        The grid behind the figure.
    x : ndarray or None
        All the images at the best weights, where they are to be written.
    threads : int or None
        As given.
    """

    selections: list
    best: object
    criterion: str
    quality: dict | None
    contour: Contour | None
    x: np.ndarray | None
    threads: int | None


class TuneJob(Job):
    """Select weights for the data in ``input``, k-space or (``simulate``) images, and record all in ``output``, JSON.

    ``mask`` is a file, or with ``simulate`` also "KIND:RATE" as of ``tune_input.simulate``; ``reference`` a file of the
    true images; ``image`` a path for the images at the best weights (NIfTI, NPY, TIFF, PNG of one slice); ``method``
    is one or a list (in a text: commas) of BF-DCA and its rivals.  The result is a ``Tuning``; the callback of
    ``solve`` gets the method and each row of its history.  For the rest see ``Job``.
    """

    FILES = ("mask", "reference")
    WRITTEN = ("image", "figure")
    OPTIONS: ClassVar = {
        "method": choices(*_METHODS),
        "criterion": choice("holdout", "supervised", "degenerate"),
        "simulate": boolean,
        "images": text,
        "test": text,
        "noise_std": number,
        "trials": at_least(1),
        "seed": at_least(0),
        "wavelet": text,
        "level": at_least(1),
        "isotropic": boolean,
        "tol": number,
        "batched": boolean,
        "jobs": at_least(1),
        "storage": text,
        "study_name": text,
        "key": text,
        "mask_key": text,
        "coils": boolean,
        "centred": boolean,
        "real": boolean,
        "max_values": at_least(1),
    }
    DEFAULTS: ClassVar = {
        "method": ["bf-dca"], "simulate": False, "trials": 100, "seed": 0, "wavelet": "haar", "level": 3,
        "isotropic": True, "tol": 1e-4, "batched": False, "jobs": 1, "max_values": MAX_VALUES,
    }  # fmt: skip
    SUFFIXES = (".json",)

    @classmethod
    def is_path(cls, name, value):
        return value is not None and not (name == "mask" and is_made(value))

    def read(self):
        self._began = time.perf_counter()
        given, image = self.options, self.files["image"]
        methods = list(dict.fromkeys(given["method"]))
        model = {name: given[name] for name in ("wavelet", "level", "isotropic", "tol")}
        reading = {"mask_path": self.files["mask"], "reference_path": self.files["reference"]}
        reading |= {name: given[name] for name in ("centred", "real", "coils", "key", "mask_key", "max_values")}
        names = ("criterion", "trials", "seed", "noise_std", "batched", "storage", "study_name")
        search = {name: given[name] for name in names} | {"n_jobs": given["jobs"]}

        _check_outputs({"OUT": self.output, "IMAGE": image, "FIG": self.files["figure"]})
        _check_methods(methods, given["wavelet"], search)
        data = _read(self.input, given["simulate"], reading, search)
        _check_apart(self.outputs, data.paths)
        shape = data.kspace.shape
        data.part(given["images"], given["test"])
        if given["images"] is not None:
            shape = (len(data.kspace) + (0 if data.test is None else len(data.test[0])), *shape[-2:])
        if image is not None and is_nifti(image) and (len(shape) > 4 or max(shape) > 32767):
            raise InputError(f"{image}: NIfTI does not hold images of shape {shape}; end the name in .npy")
        search |= {"criterion": _criterion(given["criterion"], data), "noise_std": data.noise_std}
        guided = [method for method in methods if method in OWN_CRITERION]
        if guided and not data.noise_std:
            raise InputError(f"--noise-std: {guided[0]} goes by the noise level; give one > 0")
        _check_storage(given["storage"])
        with _collected_warnings() as remarks, _located(data):
            problem, model_options = _problem(data, **model)

        self.shape, self.count = shape, math.prod(shape[:-2])
        self.remarks = [*([data.doubt] if data.doubt else []), *remarks]
        # ``solve`` collects the process's warnings
        self.concurrent, self._together = False, (1, data.mask.shape)
        self._memory = self._memory_of(problem, methods)
        self.loaded = SimpleNamespace(
            data=data, problem=problem, model=model_options, methods=methods, search=search,
            hashes=[{"path": str(path), "sha256": sha256(path)} for path in data.paths],
            settings={name: given[name] for name in ("simulate", "images", "test")} | reading | model | search,
        )  # fmt: skip

    def _memory_of(self, problem, methods):
        given, shape, figure = self.options, problem.A.shape, self.files["figure"] is not None
        batched = given["trials"] if given["batched"] else 0
        if figure and "grid" not in methods:
            batched = max(batched, _CONTOUR_TRIALS)
        wavelet = getattr(problem, "wavelet", None)
        bands = 0 if wavelet is None else math.prod(wavelet.coefficient_shape(shape)) // math.prod(shape)
        return tune_memory(
            shape, math.prod(problem.batch_shape), problem.A.image_dtype(problem.y).itemsize, methods, bands=bands,
            batched_trials=batched, figure=figure,
        )  # fmt: skip

    def solve(self, *, callback=None, threads=None):
        loaded, data = self.loaded, self.loaded.data
        search = loaded.search | {"threads": threads}
        with _collected_warnings() as remarks, _located(data):
            selections = [_select(loaded.problem, method, search, callback) for method in loaded.methods]
            best, quality, contour, x = _best(selections), None, None, None
            if data.test is not None:
                quality = quality_on_test_images(data, selections, loaded.model, threads)
            if self.files["figure"] is not None:
                contour = _contour(loaded.problem, selections, search)
            if self.files["image"] is not None:
                x = _reconstruct(data, best, self.shape, threads)
        self.remarks = list(dict.fromkeys([*self.remarks, *remarks]))
        return Tuning(selections, best, search["criterion"], quality, contour, x, threads)

    def write(self, result, *, timings=True, command=()):
        """As of ``Job``; ``command``, words of a command line, stand in the record."""
        image, figure = self.files["image"], self.files["figure"]
        if image is not None:
            _write(image, result.x, self.loaded.data.raw)
        if figure is not None:
            from .tune_figure import draw_tuning

            draw_tuning(figure, result.selections, result.contour, criterion=result.criterion, timings=timings)
        content = encode(
            record_of(
                command, self.loaded.settings | {"threads": result.threads}, self.loaded.hashes, self.loaded.data,
                result, seconds=time.perf_counter() - self._began, timings=timings,
            )
        )  # fmt: skip
        write_whole(self.output, lambda temporary: temporary.write_text(content, encoding="utf-8"))
        return self.outputs

    def certificate(self, result):
        """The best method's "status", "weights", "criterion" and "criterion_value", "metrics" there and what ran.

        "converged" is of all methods; "methods" has the status, the weights and the value of each.
        """
        best = result.best
        found = {name: getattr(best, name) for name in ("status", "method", "weights", "metrics")}
        found |= {
            "converged": all(selection.converged for selection in result.selections),
            "criterion": result.criterion,
            "criterion_value": best.best_criterion,
            "lower_solves": sum(selection.lower_solves for selection in result.selections),
            "iterations": sum(selection.iterations for selection in result.selections),
            "methods": {
                s.method: {"status": s.status, "weights": s.weights, "criterion_value": s.best_criterion}
                for s in result.selections
            },
            "backend": best.backend, "fft": best.fft, "threads": best.threads,
            "seconds": {selection.method: selection.seconds for selection in result.selections},
        }  # fmt: skip
        return plain(found)


def _check_outputs(outputs):
    named = {}
    for name, path in outputs.items():
        if path is None:
            continue
        if name == "OUT" and path.suffix.lower() != ".json":
            raise InputError(f"{path}: the record is JSON; end OUT in .json")
        if name == "FIG" and image_format(path) != "png":
            raise InputError(f"{path}: the figure is drawn as PNG; end FIG in .png")
        if name == "IMAGE" and image_format(path) != "tiff":
            check_reconstruction(path)
        else:
            check_writable(path)
        other = named.setdefault(path.resolve(), name)
        if other != name:
            raise InputError(f"{path}: is {other} too; give {name} a name of its own")


def _check_apart(outputs, inputs):
    read = {path.resolve() for path in inputs}
    for path in outputs:
        if path.resolve() in read:
            raise InputError(f"{path}: is read as well; give the output a name of its own")


def _check_methods(methods, wavelet, search):
    descents = [method for method in methods if method in _DESCENTS]
    if wavelet == "none" and descents:
        raise InputError(
            f"--method: {descents[0]} moves two bounds, and --wavelet none leaves one; choose grid, random, tpe, "
            "discrepancy or sure"
        )
    for name, unset in (("batched", False), ("storage", None), ("study_name", None), ("n_jobs", 1)):
        if search[name] != unset and not set(_OF_METHODS[name]) & set(methods):
            option = "jobs" if name == "n_jobs" else name.replace("_", "-")
            raise InputError(f"--{option}: is for --method {' or '.join(_OF_METHODS[name])}; add that or leave it out")
    if "tpe" in methods and importlib.util.find_spec("optuna") is None:
        raise InputError("--method: tpe needs Optuna; pip install bioperf[tune], or choose another")
    storage, name = search["storage"], search["study_name"]
    if (storage is None) != (name is None):
        missing, other = ("--storage", "--study-name") if storage is None else ("--study-name", "--storage")
        raise InputError(f"{missing}: {other} needs it, to keep a study and resume it; give both or none")


def _check_storage(storage):
    if storage is None:
        return
    from ..selection.searches import open_storage

    try:
        open_storage(storage)
    except ValueError as error:
        raise InputError(f"--{error}") from error


def _read(path, simulated, reading, search):
    if not simulated:
        return read_measured(path, noise_std=search["noise_std"], **reading)
    wrong = {"--reference": reading["reference_path"], "--key": reading["key"], "--coils": reading["coils"]}
    wrong["--complex"] = False if reading["real"] is False else None
    for option, value in wrong.items():
        if value is not None:
            raise InputError(f"{option}: --simulate takes real images that are their own reference; leave it out")
    return simulate(
        path, mask=reading["mask_path"], noise_std=search["noise_std"], seed=search["seed"],
        centred=reading["centred"], mask_key=reading["mask_key"], max_values=reading["max_values"],
    )  # fmt: skip


def _criterion(criterion, data):
    if criterion == "supervised" and data.reference is None:
        raise InputError("--criterion: supervised needs images to compare with; give --reference, or choose holdout")
    return criterion or ("holdout" if data.reference is None else "supervised")


@contextmanager
def _located(data):
    """Errors of the library under the file or option that their argument came from."""
    places = {name: f"--{name.replace('_', '-')}" for name in _NAMED}
    places |= {"n_jobs": "--jobs", "name": "--wavelet", "shape": data.sources["y"]} | data.sources
    try:
        yield
    except (ValueError, TypeError) as error:
        raise located(error, places) from error


def _problem(data, wavelet, level, isotropic, tol):
    """The selection's problem, and its model as ``solve_lower`` takes it."""
    from ..selection import TVWavelet, TVWeight

    shared = {"reference": data.reference, "isotropic": isotropic, "tol": tol}
    if wavelet == "none":
        return TVWeight(data.A, data.kspace, **shared), {"isotropic": isotropic}
    transform = _transform(wavelet, level)
    return TVWavelet(data.A, data.kspace, wavelet=transform, **shared), {"isotropic": isotropic, "wavelet": transform}


def _transform(name, level):
    """W by the option's name: "haar", "undecimated" (Haar), "undecimated-db2", ..."""
    from ..transforms import UndecimatedWavelet, Wavelet

    if name.startswith("undecimated"):
        return UndecimatedWavelet(name.removeprefix("undecimated").removeprefix("-") or "haar", level)
    return Wavelet(name, level)


def _select(problem, method, search, show=None):
    from ..selection import select_hyperparameters

    others = {name for name, owners in _OF_METHODS.items() if method not in owners}
    callback = None if show is None else lambda row: show(method, row)
    given = {name: search[name] for name in search if name not in others}
    return select_hyperparameters(problem, method=method, callback=callback, **given)


def _best(selections):
    """The one with the smallest value of the criterion; the first where no method went by it."""
    comparable = [s for s in selections if s.method not in OWN_CRITERION and math.isfinite(s.best_criterion)]
    return min(comparable, key=lambda selection: selection.best_criterion, default=selections[0])


def _contour(problem, selections, search):
    """The grid behind the figure's contour; None for one parameter."""
    if len(problem.names) != 2:
        return None
    for selection in selections:
        if selection.method == "grid":
            return Contour(selection.history, "the trials of the method grid")
    grid = _select(problem, "grid", search | {"trials": _CONTOUR_TRIALS, "batched": True})
    side = math.isqrt(len(grid.history["criterion"]))
    return Contour(grid.history, f"a {side} x {side} grid computed for the figure", grid.seconds)


def _reconstruct(data, selection, shape, threads):
    """All the images of the input, from all their samples, with the selected weights."""
    stacks = [data.kspace] if data.test is None else [data.kspace, data.test[0]]
    x = [selection.apply(data.A, y, threads=threads).x for y in stacks]
    return np.concatenate([part.reshape(-1, *data.mask.shape) for part in x]).reshape(shape)


def _write(path, x, raw):
    if image_format(path) == "tiff":
        write_image(path, np.abs(x) if x.dtype.kind == "c" else x)
    else:
        write_reconstruction(path, x, raw)


@contextmanager
def _collected_warnings():
    """A list that user warnings go to; other kinds are shown as ever."""
    remarks = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def collect(message, category, *place, **options):
            if category is UserWarning:
                remarks.append(str(message))
            else:
                show(message, category, *place, **options)

        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = collect
        yield remarks
