"""The job of ``bioperf deblur``: a blurred image or a stack, and its point spread function, to the restored one."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from .._validation import check_count, check_number, check_scale
from ..io import MAX_PIXELS, InputError, check_writable, image_format, read_image, read_psf, write_image
from .base import Job
from .certificate import certificate_facts, certificate_of
from .errors import located
from .memory import deblur_memory
from .options import at_least, boolean, choice, integer, number
from .target import make_target, require_gpu

__all__ = ["DeblurJob"]

# Those of ``bioperf.deblur`` that are handed on as they are.
_OF_DEBLUR = ("noise_std", "tv_weight", "epsilon", "kappa", "boundary", "isotropic", "tol", "max_iter")
_NAMED = ("noise_std", "target", "tv_weight", "epsilon", "kappa", "boundary", "tol", "max_iter", "threads", "device")


class DeblurJob(Job):
    """Restore ``input``, an image or a stack (PNG, TIFF, NPY), into ``output``, PNG, TIFF or NPY.

    The file ``psf`` (NPY, PNG, TIFF) is the point spread function, ``weights`` those of the target "cnn".  The result
    is a Solution.  With the device "cuda" the levels are solved on the GPU, and a callback is not called.  For the
    rest see ``Job``.
    """

    FILES = ("psf", "weights")
    REQUIRED = ("psf",)
    OPTIONS: ClassVar = {
        "noise_std": number,
        "target": choice("nlm", "cnn", "identity", "deconv"),
        "device": choice("cpu", "cuda"),
        "tv_weight": number,
        "epsilon": number,
        "kappa": number,
        "boundary": choice("periodic", "unknown"),
        "isotropic": boolean,
        "channel_axis": integer,
        "tol": number,
        "max_iter": integer,
        "max_pixels": at_least(1),
    }
    DEFAULTS: ClassVar = {
        "target": "nlm", "device": "cpu", "boundary": "unknown", "isotropic": True, "tol": 1e-3, "max_iter": 1000,
        "max_pixels": MAX_PIXELS,
    }  # fmt: skip
    SUFFIXES = (".png", ".tif", ".tiff", ".npy")

    @classmethod
    def output_suffix(cls, input):
        return Path(input).suffix

    def read(self):
        given, psf_path = self.options, self.files["psf"]
        target = make_target(given["target"], self.files["weights"], given["device"], levels_too=True)
        if given["device"] == "cuda":
            require_gpu()
        limit = given["max_pixels"]
        image, info = read_image(self.input, channel_axis=given["channel_axis"], max_pixels=limit)
        psf = read_psf(psf_path, max_pixels=limit)
        shape = image.shape
        if info.channel_axis is not None:
            shape = tuple(n for axis, n in enumerate(shape) if axis != len(shape) + info.channel_axis)
        if any(k > n for k, n in zip(psf.shape, shape[-2:], strict=True)):
            raise InputError(f"{psf_path}: the psf's shape {psf.shape} exceeds the image's {shape[-2:]}; crop the psf")
        self._check_outputs(image, info)
        self._check_values(image, info)
        self.shape, self.count = image.shape, int(np.prod(shape[:-2]))
        self.concurrent = given["device"] == "cpu" and isinstance(target, str)
        margins = [
            min(2 * (k // 2) + 8, n) if given["boundary"] == "unknown" else 0
            for k, n in zip(psf.shape, shape[-2:], strict=True)
        ]
        frame, planes = tuple(np.add(shape[-2:], margins).tolist()), image.size // math.prod(shape[-2:])
        self._together = (planes if self.concurrent else 1, frame)
        network = given["target"] == "cnn" and given["device"] == "cpu"
        self._memory = deblur_memory(
            frame, planes, image.itemsize, network=network, figure=self.files["figure"] is not None
        )
        self.loaded = SimpleNamespace(image=image, info=info, psf=psf, target=target)

    def _check_outputs(self, image, info):
        output, figure = self.output, self.files["figure"]
        kind = image_format(output)
        if kind is None:
            raise InputError(f"{output}: unknown format {Path(output).suffix!r}; end OUT in .png, .tif or .npy")
        if kind == "png" and image.ndim > (2 if info.channel_axis is None else 3):
            raise InputError(f"{output}: PNG holds one image, not shape {image.shape}; end OUT in .tif or .npy")
        check_writable(output)
        if figure is not None:
            if image_format(figure) != "png":
                raise InputError(f"{figure}: the figure is drawn as PNG; end FIG in .png")
            check_writable(figure)

    def _check_values(self, image, info):
        """What ``bioperf.deblur`` would refuse."""
        try:
            check_scale("y", image, 2 if info.channel_axis is None else 3)
            for name in ("noise_std", "tv_weight", "epsilon", "kappa", "tol"):
                if self.options[name] is not None:
                    check_number(name, self.options[name], strict=name not in ("epsilon", "kappa"))
            check_count("max_iter", self.options["max_iter"])
        except ValueError as error:
            raise located(error, self._places()) from error

    def _places(self):
        return {name: f"--{name.replace('_', '-')}" for name in _NAMED} | {"y": self.input, "psf": self.files["psf"]}

    def solve(self, *, callback=None, threads=None):
        import bioperf

        loaded, on_gpu = self.loaded, self.options["device"] == "cuda"
        try:
            return bioperf.deblur(
                loaded.image, loaded.psf, channel_axis=loaded.info.channel_axis, target=loaded.target,
                callback=None if on_gpu else callback, threads=threads, device="cuda" if on_gpu else None,
                **{name: self.options[name] for name in _OF_DEBLUR},
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            raise located(error, self._places()) from error

    def write(self, result, *, timings=True):
        write_image(self.output, result.x, like=self.loaded.info)
        if self.files["figure"] is not None:
            self._draw(result, timings)
        return self.outputs

    def _draw(self, solution, timings):
        """The figure of the first image of a stack."""
        from .figure import Panel, draw

        channel_axis = self.loaded.info.channel_axis

        def first(array):
            axes = 2
            if channel_axis is not None:
                array, axes = np.moveaxis(array, channel_axis, -1), 3
            return array.reshape(-1, *array.shape[-axes:])[0]

        history = solution.history[0] if isinstance(solution.history, list) else solution.history
        panels = [Panel("Blurred", first(self.loaded.image)), Panel("Restored", first(solution.x))]
        facts = certificate_facts(solution, timings=timings)
        draw(self.files["figure"], panels, self.loaded.psf, facts, history)

    def certificate(self, result):
        return certificate_of(result)
