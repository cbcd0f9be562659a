"""``bioperf tune``: the weights of total variation and wavelets selected from k-space, or from reference images."""

import importlib.util
import math
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..io import (
    InputError,
    check_reconstruction,
    check_writable,
    image_format,
    write_image,
    write_reconstruction,
    write_whole,
)
from ..io.nifti import is_nifti
from .errors import located
from .tune_input import read_measured, simulate
from .tune_report import OWN_CRITERION

__all__ = ["Contour", "tune_file"]

_OPTIONS = (
    "method", "criterion", "trials", "seed", "noise_std", "wavelet", "level", "tol", "storage", "study_name", "threads"
)  # fmt: skip
# Options that some methods have alone.
_OF_METHODS = {
    "batched": ("grid", "random"), "noise_std": OWN_CRITERION,
    "storage": ("tpe",), "study_name": ("tpe",), "n_jobs": ("tpe",),
}  # fmt: skip
_DESCENTS = ("bf-dca", "bf-dca-faithful", "hypergradient")
# The window of the structural similarity.
_SSIM_SIDE = 11
# Of the grid behind a figure's contour, where none is among the methods.
_CONTOUR_TRIALS = 100


class Contour:
    """The criterion on a grid: the ``history`` of a grid search, and where it is from, in words."""

    def __init__(self, history, source):
        self.history, self.source = history, source


def tune_file(
    path, output, *, simulated, reading, images, test, model, methods, image, figure, quiet, arguments, **options
):
    """Select weights for the data in ``path`` by every method, record it in ``output``; returns the Selections.

    All that can be wrong with the arguments, the files or the places to write to is found before the first
    method starts: InputError or OutputError.

    Parameters
    ----------
    simulated : bool
        ``path`` holds reference images, and their k-space is simulated.
    reading : dict
        Of ``read_measured``; ``simulate`` takes "mask_path", "centred", "mask_key" and "max_values" of it.
    images, test : str or None
        As of ``TuningData.part``.
    model : dict
        "wavelet" (an orthogonal family of PyWavelets, "undecimated" or "undecimated-NAME", or "none": total variation
        alone), "level", "isotropic" and "tol".
    methods : list of str
    image, figure : path or None
        For the images reconstructed with the best method's weights, and for the figure.
    arguments : list of str
        The command line, for the record.
    options
        Of ``bioperf.selection.select_hyperparameters``: criterion (None: "supervised" with a reference, else
        "holdout"), trials, seed, noise_std, batched, storage, study_name, n_jobs, threads.
    """
    start = time.perf_counter()
    methods = list(dict.fromkeys(methods))
    _check_outputs({"OUT": output, "IMAGE": image, "FIG": figure})
    _check_methods(methods, model["wavelet"], options)
    data = _read(path, simulated, reading, options)
    _check_apart((output, image, figure), data.paths)
    shape = data.kspace.shape
    data.part(images, test)
    if images is not None:
        shape = (len(data.kspace) + (0 if data.test is None else len(data.test[0])), *shape[-2:])
    if image is not None and is_nifti(image) and (len(shape) > 4 or max(shape) > 32767):
        raise InputError(f"{image}: NIfTI does not hold images of shape {shape}; end the name in .npy")
    options |= {"criterion": _criterion(options["criterion"], data), "noise_std": data.noise_std}
    guided = [method for method in methods if method in OWN_CRITERION]
    if guided and not data.noise_std:
        raise InputError(f"--noise-std: {guided[0]} goes by the noise level; give one > 0")

    _check_storage(options["storage"])

    from .report import print_paths, print_rows, warn
    from .tune_record import encode, record_of, sha256
    from .tune_report import live_table, print_quality, print_selections

    inputs = [{"path": str(name), "sha256": sha256(name)} for name in data.paths]
    if data.doubt:
        warn(data.doubt)
    try:
        with _collected_warnings() as remarks:
            problem, model_options = _problem(data, **model)
            with live_table(quiet) as show:
                selections = [_select(problem, method, options, show) for method in methods]
            best = _best(selections)
            quality = None if data.test is None else _on_test_images(data, selections, model_options, options)
            contour = None if figure is None else _contour(problem, selections, options)
            x = None if image is None else _reconstruct(data, best, shape, options["threads"])
    except (ValueError, TypeError) as error:
        raise located(error, _places(data)) from error
    for remark in dict.fromkeys(remarks):
        warn(remark)

    written = [output]
    if image is not None:
        _write(image, x, data.raw)
        written.append(image)
    if figure is not None:
        from .tune_figure import draw_tuning

        draw_tuning(figure, selections, contour, criterion=options["criterion"])
        written.append(figure)
    settings = {"simulate": simulated, "images": images, "test": test} | reading | model | options
    content = encode(
        record_of(
            arguments, settings, inputs, data, selections, best, test=quality, contour=contour,
            seconds=time.perf_counter() - start,
        )
    )  # fmt: skip
    write_whole(output, lambda temporary: temporary.write_text(content, encoding="utf-8"))
    if not quiet:
        rows = [*data.facts, ("criterion", options["criterion"])]
        print_rows(f"{Path(path).name}, weights selected", rows)
        print_selections(selections, best)
        if quality is not None:
            print_quality(quality)
        print_paths(written)
    return selections


def _check_outputs(outputs):
    named = {}
    for name, path in outputs.items():
        if path is None:
            continue
        if name == "OUT" and Path(path).suffix.lower() != ".json":
            raise InputError(f"{path}: the record is JSON; end OUT in .json")
        if name == "FIG" and image_format(path) != "png":
            raise InputError(f"{path}: the figure is drawn as PNG; end FIG in .png")
        if name == "IMAGE" and image_format(path) != "tiff":
            check_reconstruction(path)
        else:
            check_writable(path)
        other = named.setdefault(Path(path).resolve(), name)
        if other != name:
            raise InputError(f"{path}: is {other} too; give {name} a name of its own")


def _check_apart(outputs, inputs):
    read = {Path(path).resolve() for path in inputs}
    for path in outputs:
        if path is not None and Path(path).resolve() in read:
            raise InputError(f"{path}: is read as well; give the output a name of its own")


def _check_methods(methods, wavelet, options):
    descents = [method for method in methods if method in _DESCENTS]
    if wavelet == "none" and descents:
        raise InputError(
            f"--method: {descents[0]} moves two bounds, and --wavelet none leaves one; choose grid, random, tpe, "
            "discrepancy or sure"
        )
    for name, unset in (("batched", False), ("storage", None), ("study_name", None), ("n_jobs", 1)):
        if options[name] != unset and not set(_OF_METHODS[name]) & set(methods):
            option = "jobs" if name == "n_jobs" else name.replace("_", "-")
            raise InputError(f"--{option}: is for --method {' or '.join(_OF_METHODS[name])}; add that or leave it out")
    if "tpe" in methods and importlib.util.find_spec("optuna") is None:
        raise InputError("--method: tpe needs Optuna; pip install bioperf[tune], or choose another")
    storage, name = options["storage"], options["study_name"]
    if (storage is None) != (name is None):
        missing, other = ("--storage", "--study-name") if storage is None else ("--study-name", "--storage")
        raise InputError(f"{missing}: {other} needs it, to keep a study and resume it; give both or none")


def _check_storage(storage):
    if storage is None:
        return
    import optuna

    from .tune_record import without_password

    try:
        optuna.storages.get_storage(storage)
    except Exception as error:  # of the database's driver, whichever that is
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"--storage: {without_password(storage)} cannot be opened ({without_password(reason)}); "
            "give a URL such as sqlite:///tune.db"
        ) from error


def _read(path, simulated, reading, options):
    if not simulated:
        return read_measured(path, noise_std=options["noise_std"], **reading)
    wrong = {"--reference": reading["reference_path"], "--key": reading["key"], "--coils": reading["coils"]}
    wrong["--complex"] = False if reading["real"] is False else None
    for option, value in wrong.items():
        if value is not None:
            raise InputError(f"{option}: --simulate takes real images that are their own reference; leave it out")
    return simulate(
        path, mask=reading["mask_path"], noise_std=options["noise_std"], seed=options["seed"],
        centred=reading["centred"], mask_key=reading["mask_key"], max_values=reading["max_values"],
    )  # fmt: skip


def _criterion(criterion, data):
    if criterion == "supervised" and data.reference is None:
        raise InputError("--criterion: supervised needs images to compare with; give --reference, or choose holdout")
    return criterion or ("holdout" if data.reference is None else "supervised")


def _places(data):
    """Where each argument of the library came from."""
    options = {name: f"--{name.replace('_', '-')}" for name in _OPTIONS}
    return options | {"n_jobs": "--jobs", "name": "--wavelet", "shape": data.sources["y"]} | data.sources


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


def _select(problem, method, options, show=None):
    from ..selection import select_hyperparameters

    others = {name for name, owners in _OF_METHODS.items() if method not in owners}
    callback = None if show is None else lambda row: show(method, row)
    given = {name: options[name] for name in options if name not in others}
    return select_hyperparameters(problem, method=method, callback=callback, **given)


def _best(selections):
    """The one with the smallest value of the criterion; the first where no method went by it."""
    comparable = [s for s in selections if s.method not in OWN_CRITERION and math.isfinite(s.best_criterion)]
    return min(comparable, key=lambda selection: selection.best_criterion, default=selections[0])


def _contour(problem, selections, options):
    """The grid behind the figure's contour; None for one parameter."""
    if len(problem.names) != 2:
        return None
    for selection in selections:
        if selection.method == "grid":
            return Contour(selection.history, "the trials of the method grid")
    grid = _select(problem, "grid", options | {"trials": _CONTOUR_TRIALS, "batched": True})
    side = math.isqrt(len(grid.history["criterion"]))
    return Contour(grid.history, f"a {side} x {side} grid computed for the figure, in {grid.seconds:.3g} s")


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


def _on_test_images(data, selections, model, options):
    """The quality of the selected weights and of the package's default rule on images that nothing was tuned on.

    The default rule is ``default_mri_weight``, once in the model that was tuned ("default weights") and once in
    the lower level of ``reconstruct_mri``, whose wavelets are undecimated.
    """
    from ..lower import intensity_range, solve_lower
    from ..mri import default_mri_weight
    from ..noise import estimate_kspace_noise, hermitian_noise
    from ..transforms import UndecimatedWavelet

    y, reference = data.test
    A, threads, noise_std = data.A, options["threads"], data.noise_std
    estimate = hermitian_noise if A.real else estimate_kspace_noise
    undecimated = {"isotropic": True, "wavelet": UndecimatedWavelet("db2", 2 if max(A.shape) > 2 else 1)}
    weights, default, lower = [], [], []
    for item in y:
        level = estimate(item, A.mask, centred=A.centred) if noise_std is None else noise_std
        weight = default_mri_weight(level, intensity_range(A.data_image(item)))
        for terms, found in ((model, default), (undecimated, lower)):
            terms = terms | ({"wavelet_weight": weight} if "wavelet" in terms else {})
            found.append(solve_lower(A, item, weight, threads=threads, **terms).x)
        weights.append(weight)
    stacks = {"zero-filled": A.data_image(y), "default weights": default, "reconstruct_mri's lower level": lower}
    stacks |= {s.method: s.apply(A, y, threads=threads).x for s in selections}
    table = {name: _quality(x, reference, data.peak) for name, x in stacks.items()}
    by_default = np.array(table["default weights"]["psnr"])
    for row in table.values():
        row["better_than_default"] = int(np.sum(np.array(row["psnr"]) > by_default))
    return {"images": len(y), "peak": data.peak, "default_weights": weights, "by_weights": table}


def _quality(x, reference, peak):
    """PSNR, SSIM and RLNE of every image's magnitude, and their means; SSIM is NaN where its window does not fit."""
    from ..metrics import psnr, rlne, ssim

    pairs = [(np.abs(a), np.abs(b)) if np.iscomplexobj(b) else (a, b) for a, b in zip(x, reference, strict=True)]
    fits = min(reference.shape[-2:]) >= _SSIM_SIDE
    values = {
        "psnr": [psnr(a, b, peak) for a, b in pairs],
        "ssim": [ssim(a, b, peak) if fits else math.nan for a, b in pairs],
        "rlne": [rlne(a, b) for a, b in pairs],
    }
    return {f"mean_{name}": float(np.mean(numbers)) for name, numbers in values.items()} | values


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
