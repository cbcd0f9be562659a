"""Training images: files of a folder, or arrays, kept as they are stored; and seeded batches of patches."""

import hashlib
import logging
import os
from pathlib import Path

import numpy as np

from .._validation import check_finite
from ..io.errors import InputError
from ..io.images import check_file, image_format, read_image
from ..io.npz import open_archive

__all__ = ["Patches", "as_training_image", "digest_of", "read_training_images"]

logger = logging.getLogger(__name__)

MAX_VALUES = 2**32
# Intensities are in [0, 1], give or take the noise and ringing of a measured image; 0 to 255 is a mistake.
LOWEST, HIGHEST = -0.5, 1.5
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


def read_training_images(paths, smallest):
    """The grey images in files and folders, as a list of 2-D uint8 (or, from other types, float32) arrays.

    Parameters
    ----------
    paths : sequence of Path, or one
        Folders (all their PNG, TIFF and NPY images, by name) and files; of an NPZ archive every array of two or
        more axes, leading axes being a stack.  Integers count as fractions of their type's largest value, floats
        are in [0, 1]; the arrays of an archive that holds an array "peak" are divided by it, one number an image.
        Colour becomes grey.
    smallest : int
        Pixels along each axis that an image must have; smaller ones are left out.

    Raises
    ------
    InputError
        For files that cannot be used, and where nothing is left.
    """
    paths = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    fitting, small = [], 0
    for file in (file for path in paths for file in _files(path)):
        images = _archive(file) if file.suffix.lower() == ".npz" else _file(file)
        for image in images:
            if min(image.shape) < smallest:
                small += 1
                continue
            try:
                fitting.append(as_training_image(str(file), image, smallest))
            except ValueError as error:
                raise InputError(f"{error}; correct the file or leave it out") from error
    if not fitting:
        raise InputError(
            f"{', '.join(map(str, paths)) or 'DATA'}: no image has {smallest} or more pixels along both axes; "
            "give a folder of PNG, TIFF or NPY images, or an NPZ archive"
        )
    if small:
        logger.info("%d images have fewer than %d pixels along an axis and are left out", small, smallest)
    return fitting


def as_training_image(name, image, smallest=1):
    """A 2-D array as it is if uint8, else as float32; TypeError or ValueError naming it if it cannot be trained on."""
    image = np.asarray(image)
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        raise TypeError(f"{name}: expected uint8, or floats in [0, 1], got dtype {image.dtype}")
    if image.ndim != 2 or min(image.shape) < smallest:
        raise ValueError(f"{name}: expected 2 axes of {smallest} or more pixels, got shape {image.shape}")
    if image.dtype == np.uint8:
        return image
    check_finite(name, image)
    low, high = float(image.min()), float(image.max())
    if not LOWEST <= low <= high <= HIGHEST:
        raise ValueError(f"{name}: values from {low:g} to {high:g}; scale the intensities to [0, 1]")
    return image.astype(np.float32, copy=False)


def _files(path):
    if not os.path.isdir(path):  # which does not raise
        return [path]
    try:
        files = sorted(file for file in path.iterdir() if image_format(file))
    except OSError as error:
        raise InputError(f"{path}: cannot be listed ({error.strerror or error}); check the folder") from error
    if not files:
        raise InputError(f"{path}: the folder holds no PNG, TIFF or NPY image; give another, or an NPZ archive's path")
    return files


def _file(path):
    image, info = read_image(path, max_pixels=MAX_VALUES)
    if info.channel_axis is not None:
        image = np.moveaxis(image, info.channel_axis, -1) @ _GREY
    if info.dtype == np.uint8:
        image = np.rint(image * 255).astype(np.uint8)
    return image.reshape(-1, *image.shape[-2:])


def _archive(path):
    """The images of an archive, in the order of its arrays."""

    def check(shape, dtype):
        if np.prod(shape, dtype=float) > MAX_VALUES:
            raise InputError(f"{path}: more than {MAX_VALUES} values; split it")
        if dtype.kind not in "uif":
            raise InputError(f"{path}: values of type {dtype}; save images as uint8, uint16 or floats")

    check_file(path)
    with open_archive(path) as archive:
        names = [name for name in archive.names if name != "peak" and len(archive.header(name)[0]) >= 2]
        arrays = {name: archive.read(name, check) for name in names}
        peak = archive.read("peak", check).reshape(-1, 1, 1) if "peak" in archive.names else None
    if not arrays:
        raise InputError(f"{path}: holds no array of two or more axes; save images in it")
    if peak is not None and not (np.isfinite(peak).all() and (peak > 0).all()):
        raise InputError(f"{path}: 'peak' must be finite and > 0; correct it or leave it out")
    for name, array in arrays.items():
        if not array.size:
            raise InputError(f"{path}: {name!r} holds no values (shape {array.shape}); leave it out")
        stack = array.reshape(-1, *array.shape[-2:])
        if peak is not None and len(peak) != len(stack):
            raise InputError(
                f"{path}: 'peak' holds {len(peak)} numbers, {name!r} {len(stack)} images; give one number an image"
            )
        if peak is not None:
            with np.errstate(over="ignore"):
                stack = stack / peak
        elif stack.dtype.kind in "iu" and stack.dtype != np.uint8:
            stack = stack / np.iinfo(stack.dtype).max
        yield from stack


class Patches:
    """Batches of patches with white Gaussian noise; batch k depends on the seed and k alone.

    Parameters
    ----------
    images : list of 2-D ndarrays, uint8 or float32
        At least one, each of ``side`` or more pixels along both axes (``as_training_image``).
    batch, side : int
    levels : (float, float)
        The noise level of each patch is uniform between these.
    seed : int
    """

    def __init__(self, images, *, batch, side, levels, seed):
        self.images, self.batch, self.side, self.levels, self.seed = images, batch, side, levels, seed

    def draw(self, k):
        """Clean and noisy patches, (batch, 1, side, side), and levels, (batch,), float32."""
        rng = np.random.default_rng([self.seed, k])
        clean = np.empty((self.batch, 1, self.side, self.side), np.float32)
        for patch in clean[:, 0]:
            image = self.images[rng.integers(len(self.images))]
            i, j = (rng.integers(n - self.side + 1) for n in image.shape)
            cut = image[i : i + self.side, j : j + self.side]
            patch[...] = _turned(cut, rng.integers(4), rng.integers(2))
            if image.dtype == np.uint8:
                patch /= 255
        level = rng.uniform(*self.levels, self.batch).astype(np.float32)
        noisy = clean + level[:, None, None, None] * rng.standard_normal(clean.shape, np.float32)
        return clean, noisy, level


def _turned(image, turns, flip):
    """One of the eight orientations."""
    image = np.rot90(image, turns)
    return image.T if flip else image


def digest_of(images):
    """SHA-256 of the images, to tell a run's data from another's."""
    total = hashlib.sha256()
    for image in images:
        total.update(str((image.shape, image.dtype.str)).encode())
        total.update(np.ascontiguousarray(image))
    return total.hexdigest()
