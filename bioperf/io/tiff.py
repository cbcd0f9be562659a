"""TIFF through tifffile: grey or RGB pages, a stack of pages is a batch."""

import numpy as np

from .errors import InputError

__all__ = ["decode"]


def decode(path, check_size):
    """The pixels (..., H, W) or (..., H, W, 3) in their own dtype, and whether they are in colour.

    ``check_size(shape)`` is called before any pixel is read.  Raises InputError.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = _only_series(path, file)
            page = series.keyframe
            colour = _is_colour(path, page)
            check_size(series.shape)
            _check_complete(path, file, series)
            pixels, axes = series.asarray(), series.axes
    except InputError:
        raise
    except tifffile.TiffFileError as error:
        raise InputError(f"{path}: is not a usable TIFF file ({_line(error)}); export it again") from error
    except MemoryError:
        raise
    except Exception as error:  # of whatever kind the decoder or its codecs raise on damaged data
        raise InputError(f"{path}: cannot be decoded ({_line(error)}); save it as uncompressed TIFF") from error
    if colour:
        pixels = np.moveaxis(pixels, axes.index("S"), -1)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    return pixels, colour


def _only_series(path, file):
    if len(file.series) != 1:
        raise InputError(f"{path}: holds {len(file.series)} images of different kinds; save the one to restore alone")
    return file.series[0]


def _is_colour(path, page):
    kind = getattr(page.photometric, "name", str(page.photometric))
    if page.extrasamples:
        raise InputError(f"{path}: has an alpha channel, which cannot be restored; save the image without transparency")
    if kind == "RGB" and page.samplesperpixel == 3:
        return True
    if kind == "MINISBLACK" and page.samplesperpixel == 1:
        return False
    raise InputError(f"{path}: {page.samplesperpixel} samples a pixel, {kind}; save the image as greyscale or RGB")


def _check_complete(path, file, series):
    """A decoder may fill missing strips with zeros: refuse them here."""
    for page in series.pages:
        if page is None:
            raise InputError(f"{path}: the TIFF file lacks a page; copy or export it again")
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if offset + count > file.filehandle.size:
                raise InputError(f"{path}: the TIFF file is truncated; copy or export it again")


def _line(error):
    return str(error).strip().split("\n")[0] or type(error).__name__
