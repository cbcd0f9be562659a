"""``read_image`` and ``write_image``: one pair for PNG, TIFF and NPY."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._validation import host_array
from . import npy, png, tiff
from .errors import InputError, OutputError
from .whole import write_whole

__all__ = ["MAX_PIXELS", "ImageInfo", "image_format", "read_image", "read_psf", "write_image"]

MAX_PIXELS = 2**28
_FORMATS = {".png": "png", ".tif": "tiff", ".tiff": "tiff", ".npy": "npy"}


@dataclass(frozen=True)
class ImageInfo:
    """What a file held: its format, its dtype, and the axis of the colours (-1 in PNG and TIFF) or None."""

    format: str
    dtype: np.dtype
    channel_axis: int | None = None


def image_format(path):
    """ "png", "tiff" or "npy" by the path's suffix, or None."""
    return _FORMATS.get(Path(path).suffix.lower())


def read_image(path, *, channel_axis=None, max_pixels=MAX_PIXELS):
    """Read one image or a stack.

    Parameters
    ----------
    path : str or Path
        A .png, .tif, .tiff or .npy file.  Grey or RGB; pages of a TIFF and leading axes of an NPY array are
        a batch.  Images with an alpha channel are refused: blending is not a blur.
    channel_axis : int, optional
        Which axis of an NPY array holds the colours; PNG and TIFF files say so themselves.
    max_pixels : int
        Refuse files with more values than this before reading them.

    Returns
    -------
    image : ndarray, shape (..., H, W) or with the colour axis
        8- and 16-bit integers (NPY included) as float32 divided by 255 or 65535; float32 and float64 as they
        are; float16 as float32.
    info : ImageInfo
        For ``write_image(..., like=info)``.

    Raises
    ------
    InputError
        For every file that cannot be used, "FILE: what is wrong; what to do".
    """
    pixels, info = _read(path, channel_axis, max_pixels)
    if info.dtype in (np.uint8, np.uint16):
        image = pixels.astype(np.float32)
        image /= np.float32(np.iinfo(info.dtype).max)
    elif info.dtype.kind == "f" and info.dtype.itemsize in (2, 4, 8):
        image = pixels.astype(np.float32) if info.dtype.itemsize == 2 else pixels
        _check_finite(path, image)
    else:
        raise InputError(f"{path}: values of type {info.dtype}; save it as uint8, uint16, float32 or float64")
    return np.ascontiguousarray(image), info


def read_psf(path, *, max_pixels=MAX_PIXELS):
    """Read a point spread function: float64, shape (kh, kw), >= 0, scaled to the sum 1.

    PNG, TIFF or NPY of any real type.  Raises InputError, also for colour, a stack, negative or NaN entries
    and a zero sum.
    """
    pixels, info = _read(path, None, max_pixels)
    if info.channel_axis is not None:
        raise InputError(f"{path}: the point spread function is in colour; save it as greyscale")
    if pixels.ndim != 2:
        raise InputError(f"{path}: expected a point spread function of 2 axes, got shape {pixels.shape}; save one")
    if pixels.dtype.kind not in "fiu":
        raise InputError(f"{path}: values of type {pixels.dtype}; save the point spread function as real numbers")
    psf = pixels.astype(np.float64)
    _check_finite(path, psf)
    if psf.min() < 0:
        count = int((psf < 0).sum())
        raise InputError(f"{path}: {count} entries are negative; a point spread function is >= 0, clip or correct it")
    with np.errstate(over="ignore"):
        total = psf.sum()
    if not 0 < total < np.inf:
        raise InputError(f"{path}: the point spread function sums to {total:g}; it needs a positive, finite sum")
    return psf / total


def write_image(path, image, *, like=None):
    """Write an image so that the file appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        PNG stores integers, values outside [0, 1] clipped: 8 bits, or 16 where ``like`` is not an 8-bit image.
        TIFF keeps ``like``'s 8 or 16 bits or the floats.  NPY keeps the floats.
    image : ndarray, float32 or float64, shape (..., H, W) or with ``like``'s colour axis
    like : ImageInfo, optional
        From ``read_image``.  Without it PNG has 8 bits, TIFF and NPY hold floats, and the image is grey.

    Raises
    ------
    TypeError
        If the image is not an array of floats.
    InputError
        If the format cannot hold the image (a stack as PNG).
    OutputError
        If the path cannot be written.
    """
    image = host_array("image", image)
    if image.dtype.kind != "f" or image.ndim < 2 or image.size == 0:
        raise TypeError(f"image: expected floats in [0, 1] of 2 axes or more, got {image.dtype} of shape {image.shape}")
    kind = image_format(path)
    if kind is None:
        raise OutputError(f"{path}: unknown format {Path(path).suffix!r}; end the name in .png, .tif or .npy")
    channel_axis = None if like is None else like.channel_axis
    if kind == "npy":
        write_whole(path, lambda temporary: npy.encode(temporary, image))
        return
    if channel_axis is not None:
        image = np.moveaxis(image, channel_axis, -1)
    colour = channel_axis is not None and image.shape[-1] == 3
    depth = like.dtype if like is not None else np.dtype(np.uint8 if kind == "png" else image.dtype)
    if kind == "png":
        if image.ndim != (3 if colour else 2):
            raise InputError(f"{path}: PNG holds one image, not shape {image.shape}; write .tif or .npy")
        content = png.encode(_quantise(image, np.uint8 if depth == np.uint8 else np.uint16))
        write_whole(path, lambda temporary: temporary.write_bytes(content))
        return
    import tifffile

    pixels = _quantise(image, depth) if depth in (np.uint8, np.uint16) else image
    photometric = "rgb" if colour else "minisblack"
    write_whole(path, lambda temporary: tifffile.imwrite(temporary, pixels, photometric=photometric))


def _quantise(image, dtype):
    peak = np.iinfo(dtype).max
    return np.rint(np.clip(image, 0, 1) * peak).astype(dtype)


def _read(path, channel_axis, max_pixels):
    """The file's own values (at least 2 axes, not empty) and their ImageInfo."""
    path = Path(path)
    kind = image_format(path)
    check_file(path)
    if kind is None:
        raise InputError(f"{path}: unknown format {path.suffix!r}; convert it to PNG, TIFF or NPY")
    if kind != "npy" and channel_axis is not None:
        raise InputError(f"{path}: a {kind.upper()} file says which axis holds its colours; leave the channel axis out")

    def check_size(shape):
        if math.prod(shape) == 0:
            raise InputError(f"{path}: holds no values (shape {tuple(shape)}); give an image")
        if math.prod(shape) > max_pixels:
            raise InputError(
                f"{path}: {math.prod(shape)} values exceed the limit of {max_pixels}; "
                "crop it, or raise the limit (--max-pixels, max_pixels=)"
            )

    try:
        if kind == "npy":
            pixels = npy.decode(path, check_size)
            axis = _check_channel_axis(path, pixels, channel_axis)
        elif kind == "tiff":
            pixels, colour = tiff.decode(path, check_size)
            axis = -1 if colour else None
        else:
            data = path.read_bytes()
            head = png.header(path, data)
            check_size((head.height, head.width, 3 if head.colour in (png.COLOUR, png.PALETTE) else 1))
            pixels = png.decode(path, data, head)
            axis = -1 if pixels.ndim == 3 else None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error
    except MemoryError as error:
        raise InputError(f"{path}: does not fit in memory; crop it") from error
    if pixels.ndim - (axis is not None) < 2:
        raise InputError(f"{path}: expected an image of at least 2 axes, got shape {pixels.shape}; reshape it")
    return pixels, ImageInfo(kind, pixels.dtype, axis)


def _check_channel_axis(path, pixels, channel_axis):
    """The axis counted from the end, or None."""
    if channel_axis is None:
        return None
    if not -pixels.ndim <= channel_axis < pixels.ndim:
        raise InputError(f"{path}: shape {pixels.shape} has no axis {channel_axis}; give its colour axis")
    return channel_axis - pixels.ndim if channel_axis >= 0 else channel_axis


def check_file(path):
    try:
        found = path.exists()
    except OSError as error:  # a name too long, a loop of links, a folder that may not be searched
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    if not found:
        raise InputError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the path of a file")
    if not path.is_file():
        raise InputError(f"{path}: is not a regular file; copy its content to one")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; copy or export it again")


def _check_finite(path, image):
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.sum(image, dtype=np.float64)):
            return
    bad = ~np.isfinite(image)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{path}: {int(bad.sum())} values are NaN or infinite, the first at index {first}; fill or crop them"
        )
