"""The job of ``bioperf mri``: a file of undersampled k-space, one slice or a stack, to images."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from .._validation import check_count, check_number, check_scale
from ..io import (
    MAX_VALUES,
    InputError,
    check_reconstruction,
    check_writable,
    image_format,
    read_kspace,
    write_reconstruction,
)
from ..io.nifti import is_nifti
from ..io.npz import open_archive
from ..io.reconstruction import central
from .base import Job
from .certificate import certificate_facts, certificate_of, one_of, plain
from .errors import located
from .memory import mri_memory
from .options import at_least, boolean, choice, integer, number, text
from .order import doubtful_order
from .reference import find_reference
from .target import make_target

__all__ = ["MriJob", "MriProblem"]

# Those of ``bioperf.reconstruct_mri`` that are handed on as they are.
_OF_MRI = (
    "noise_std", "rounds", "tv_weight", "wavelet_weight", "epsilon", "kappa", "sparsity_weight", "real", "tol",
    "max_iter",
)  # fmt: skip
_WHITE_PERCENTILE = 99.9
_ERROR_SCALE, _CHANGE_SCALE = 5, 2


@dataclass
class MriProblem:
    """What ``reconstruct_mri`` is given, and the file or option that each argument came from.

    ``coils`` is what was done with them, in words.
    """

    kspace: np.ndarray
    mask: np.ndarray
    maps: np.ndarray | str | None
    centred: bool
    coils: str
    sources: dict

    @property
    def batch_shape(self):
        return self.kspace.shape[: self.kspace.ndim - 2 - (self.maps is not None)]

    @property
    def shape(self):
        """Of the images."""
        return (*self.batch_shape, *self.mask.shape)


class MriJob(Job):
    """Reconstruct the k-space in ``input`` (NPY, NPZ, HDF5, ISMRMRD) into ``output``, NIfTI, NPY or PNG.

    ``mask`` is a file unless k-space's has it; ``maps`` a file of coil sensitivities, "estimate" or "none" (every coil
    is an image by itself), by default "estimate" if there are several coils; ``reference`` a file of images to compare
    with; ``weights`` those of the target "cnn".  ``coils``, ``centred`` and ``real`` are as the file says where they
    are left out, ``slice_index`` is counted over all leading axes.  The result is a Solution.  For the rest see
    ``Job``.
    """

    FILES = ("mask", "maps", "reference", "weights")
    OPTIONS: ClassVar = {
        "coils": boolean,
        "key": text,
        "mask_key": text,
        "centred": boolean,
        "real": boolean,
        "noise_std": number,
        "target": choice("nlm", "cnn", "identity"),
        "device": choice("cpu", "cuda"),
        "rounds": at_least(1),
        "tv_weight": number,
        "wavelet_weight": number,
        "epsilon": number,
        "kappa": number,
        "sparsity_weight": number,
        "tol": number,
        "max_iter": at_least(1),
        "max_values": at_least(1),
        "magnitude": boolean,
        "crop": boolean,
        "slice_index": integer,
    }
    DEFAULTS: ClassVar = {
        "target": "nlm", "device": "cpu", "tol": 1e-2, "max_iter": 500, "max_values": MAX_VALUES, "magnitude": False,
        "crop": False,
    }  # fmt: skip
    SUFFIXES = (".npy", ".nii.gz", ".nii", ".png")

    @classmethod
    def is_path(cls, name, value):
        return value is not None and not (name == "maps" and value in ("estimate", "none"))

    def read(self):
        path, given, files = self.input, self.options, self.files
        limit = given["max_values"]
        target = make_target(given["target"], files["weights"], given["device"])
        mask_path = path if files["mask"] is None and given["mask_key"] is not None else files["mask"]
        raw = read_kspace(
            path, mask_path=mask_path, key=given["key"], mask_key=given["mask_key"], coils=given["coils"],
            max_values=limit,
        )  # fmt: skip
        if raw.mask is None:
            raise InputError(f"{path}: has no sampling mask; name a file that has it with --mask")
        centred = bool(raw.centred) if given["centred"] is None else given["centred"]
        problem = _problem(path, raw, files["maps"], centred, limit)
        problem.sources["mask"] = mask_path or path
        if given["real"] and problem.maps is not None:
            raise InputError("--real: images seen by several coils are complex; leave it out")
        doubt = doubtful_order(problem)
        _check_calibration(problem, doubt)
        if given["crop"] and raw.shown is None:
            raise InputError(f"{path}: does not say which part of the image the scanner shows; leave out --crop")
        count = math.prod(problem.batch_shape)
        drawn = _slice_to_draw(path, count, given["slice_index"])
        _check_outputs(self.output, files["figure"], problem.shape)
        reference, unused = find_reference(files["reference"], raw.reference, problem.shape, limit)
        self._check_values(problem)
        self.shape, self.count = problem.shape, count
        self.remarks = [doubt] if doubt else []
        self.concurrent = isinstance(target, str)
        self._together = (count if self.concurrent else 1, problem.mask.shape)
        self._memory = mri_memory(
            problem.mask.shape, count, 0 if problem.maps is None else problem.kspace.shape[-3],
            problem.kspace.itemsize, network=given["target"] == "cnn" and given["device"] == "cpu",
            figure=files["figure"] is not None,
        )  # fmt: skip
        self.loaded = SimpleNamespace(
            raw=raw, problem=problem, reference=reference, unused_reference=unused, target=target, drawn=drawn
        )

    def _check_values(self, problem):
        """What ``bioperf.reconstruct_mri`` would refuse."""
        if not problem.kspace[..., problem.mask].any():
            raise InputError(
                f"{self.input}: all samples are 0; check that mask and kspace have the zero frequency in one place"
            )
        try:
            check_scale("kspace", problem.kspace, 2 + (problem.maps is not None))
            for name in ("tv_weight", "noise_std", "wavelet_weight", "epsilon", "kappa", "sparsity_weight", "tol"):
                if self.options[name] is not None:
                    check_number(name, self.options[name], strict=name in ("tv_weight", "tol"))
            check_count("max_iter", self.options["max_iter"])
        except ValueError as error:
            raise located(error, problem.sources) from error

    def solve(self, *, callback=None, threads=None):
        import bioperf

        problem = self.loaded.problem
        try:
            return bioperf.reconstruct_mri(
                problem.kspace, problem.mask, maps=problem.maps, centred=problem.centred, target=self.loaded.target,
                callback=callback, threads=threads, **{name: self.options[name] for name in _OF_MRI},
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            raise located(error, problem.sources) from error

    def write(self, result, *, timings=True):
        given = {name: self.options[name] for name in ("magnitude", "crop", "slice_index")}
        write_reconstruction(self.output, result.x, self.loaded.raw, **given)
        if self.files["figure"] is not None:
            self._draw(result, timings)
        return self.outputs

    def certificate(self, result):
        """As of ``Job``; against a reference also "psnr" in dB, "ssim" and "rlne" of all images."""
        found = certificate_of(result)
        if self.loaded is not None and self.loaded.reference is not None:
            quality = self.loaded.reference.quality(result.x)
            found |= plain(dict(zip(("psnr", "ssim", "rlne"), quality, strict=True)))
        return found

    def _draw(self, solution, timings):
        """The figure of one slice."""
        from .figure import Panel, draw_reconstruction

        problem, reference, index = self.loaded.problem, self.loaded.reference, self.loaded.drawn
        shown = self.loaded.raw.shown if self.options["crop"] else None
        item = one_of(solution, index)
        zero_filled = item.details["zero_filled"]
        if reference is not None:
            shown = reference.images.shape[-2:]
        image, before, change = (
            np.abs(central(a, shown or problem.mask.shape)) for a in (item.x, zero_filled, item.x - zero_filled)
        )
        title, scale = "Reconstruction", _CHANGE_SCALE
        names = ("Zero-filled", title, f"Change from zero-filled, × {scale}")
        if reference is not None:
            before, scale = reference.images[index], _ERROR_SCALE
            change = np.abs(image - before)
            psnr, ssim, _ = reference.quality(solution.x, index)
            title += f", {psnr:.2f} dB" + f", SSIM {ssim:.3f}" * math.isfinite(ssim)
            names = ("Reference", title, f"Error, × {scale}")
        white = float(np.percentile(image, _WHITE_PERCENTILE)) or 1.0
        scaled = (before / white, image / white, change * (scale / white))
        panels = [Panel(name, picture) for name, picture in zip(names, scaled, strict=True)]
        facts = certificate_facts(item, ("noise_std", "epsilon", "data_residual"), timings)
        mask = problem.mask if problem.centred else np.fft.fftshift(problem.mask)
        draw_reconstruction(self.files["figure"], panels, mask, facts, item.history)


def _problem(path, raw, maps, centred, max_values):
    sources = {name: f"--{name.replace('_', '-')}" for name in (*_OF_MRI, "target", "threads")}
    sources |= dict.fromkeys(("kspace", "shape", "wavelet", "transform"), path) | {"maps": "--maps"}
    kspace, count = raw.kspace, raw.kspace.shape[-3] if raw.coils else 1
    if not raw.coils:
        if maps not in (None, "none"):
            raise InputError(f"--maps: {path} has no axis of coils (its shape is {kspace.shape}); leave it out")
        maps, words = None, "1"
    elif maps is None and count == 1:
        kspace, words = kspace[..., 0, :, :], "1"
    elif maps == "none":
        maps, words = None, f"{count}, every one by itself"
    elif maps in (None, "estimate"):
        maps, words = "estimate", f"{count}, their maps estimated"
    else:
        sources["maps"], words = maps, f"{count}, their maps from {maps}"
        maps = _read_maps(maps, max_values)
    return MriProblem(kspace, raw.mask, maps, centred, words, sources)


def _read_maps(path, max_values):
    """The array of an NPY file; of an NPZ file "maps" or the only complex one."""
    key = None
    if Path(path).suffix.lower() == ".npz" and os.path.isfile(path):
        with open_archive(path) as archive:
            complex_names = [name for name in archive.names if archive.header(name)[1].kind == "c"]
        if len(complex_names) != 1:
            if "maps" not in complex_names:
                raise InputError(f"{path}: has no complex array 'maps'; save the coil maps by that name")
            key = "maps"
    return read_kspace(path, key=key, coils=False, max_values=max_values).kspace


def _check_calibration(problem, doubt):
    """InputError if maps are to be estimated and cannot be, of whichever slice; the doubt if that may be why."""
    if isinstance(problem.maps, str):
        from ..coils import estimate_maps

        try:
            for index in np.ndindex(problem.batch_shape):
                estimate_maps(problem.kspace[index], problem.mask, centred=problem.centred)
        except ValueError as error:
            raise (InputError(doubt) if doubt else located(error, problem.sources)) from error


def _slice_to_draw(path, count, index):
    if index is None:
        return count // 2
    if not -count <= index < count:
        raise InputError(f"--slice: {path} has no slice {index}; choose one from 0 to {count - 1}")
    return index % count


def _check_outputs(output, figure, shape):
    check_reconstruction(output)
    if is_nifti(output) and (len(shape) > 4 or max(shape) > 32767):
        raise InputError(f"{output}: NIfTI does not hold images of shape {shape}; end OUT in .npy")
    if figure is not None:
        if image_format(figure) != "png":
            raise InputError(f"{figure}: the figure is drawn as PNG; end FIG in .png")
        check_writable(figure)
        if os.path.realpath(figure) == os.path.realpath(output):
            raise InputError(f"{figure}: is OUT too; give the figure a name of its own")
