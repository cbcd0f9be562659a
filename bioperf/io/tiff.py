"""TIFF through tifffile: grey or RGB pages, a stack of pages is a batch."""

import lzma
import math
import zlib

import numpy as np

from .errors import InputError

__all__ = ["decode"]

# By the format's numbers: compressions whose decoders have no limit of their own
_INFLATERS = {8: zlib.decompressobj, 32946: zlib.decompressobj, 34925: lzma.LZMADecompressor}
_LARGEST_TILE = 2**24
# Bytes that a strip or tile may hold beyond its pixels: a last strip may be written in full
_SPARE = 4096


def decode(path, check_size):
    """The pixels (..., H, W) or (..., H, W, 3) in their own dtype, and whether they are in colour.

    ``check_size(shape)`` is called before any pixel is read.  Raises InputError.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = _only_series(path, file)
            page = series.keyframe
            _check_fields(path, page)
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
    # The list of pages may lead back into itself, which is noticed here only: the series would go round for ever
    len(file.pages)
    if len(file.series) != 1:
        raise InputError(f"{path}: holds {len(file.series)} images of different kinds; save the one to restore alone")
    return file.series[0]


def _check_fields(path, page):
    """Fields of damaged files may be text or several numbers."""
    sizes = (*page.shape, *page.chunks, *page.chunked, page.bitspersample, page.samplesperpixel)
    if page.planarconfig not in (1, 2):
        raise InputError(f"{path}: the TIFF file orders its colours in no known way; export it again")
    if 273 in page.tags and 324 in page.tags:
        raise InputError(f"{path}: the TIFF file has its pixels in strips and in tiles; export it again")
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise InputError(f"{path}: the TIFF file has sizes that are no numbers; export it again")


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
    """A decoder fills what is missing with zeros or leaves it to chance, and inflates whatever it is given."""
    keyframe, inflater = series.keyframe, _INFLATERS.get(int(series.keyframe.compression))
    bits = keyframe.bitspersample * keyframe.samplesperpixel
    values = min(math.prod(keyframe.chunks), max(math.prod(keyframe.shape), _LARGEST_TILE))
    largest = (values * keyframe.bitspersample + 7) // 8
    for page in series.pages:
        if page is None:
            raise InputError(f"{path}: the TIFF file lacks a page; copy or export it again")
        places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        if len(places) != math.prod(keyframe.chunked) or not all(offset and count for offset, count in places):
            raise InputError(f"{path}: the TIFF file lacks a part of its pixels; export it again")
        if any(offset + count > file.filehandle.size for offset, count in places):
            raise InputError(f"{path}: the TIFF file is truncated; copy or export it again")
        stored = sum(count for _, count in places)
        if keyframe.compression == 1 and stored < keyframe.imagelength * (keyframe.imagewidth * bits // 8):
            raise InputError(f"{path}: the TIFF file holds too few pixels; export it again")
        for offset, count in places if inflater else ():
            file.filehandle.seek(offset)
            if len(inflater().decompress(file.filehandle.read(count), largest + _SPARE)) == largest + _SPARE:
                raise InputError(f"{path}: the TIFF file inflates to more than its pixels; export it again")


def _line(error):
    return str(error).strip().split("\n")[0] or type(error).__name__
