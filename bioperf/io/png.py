"""PNG: the checks that a decoder leaves out, and 16-bit colour, which imageio (Pillow) would cut to 8 bits.

Format: W3C Recommendation "Portable Network Graphics", third edition (2025).
"""

import struct
import threading
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from .errors import InputError

__all__ = ["decode", "encode", "header"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
_CHANNELS = {GREY: 1, COLOUR: 3, PALETTE: 1, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
# First row, first column and distances of each pass of an interlaced image (section 8)
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_limit_lock = threading.Lock()


@dataclass
class Header:
    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    chunks: list


def header(path, data):
    """The image header and the chunks (type, content) of a PNG file, or InputError for a damaged one."""
    if not data.startswith(SIGNATURE):
        raise InputError(f"{path}: is not a PNG file, whatever its name says; convert it to PNG, TIFF or NPY")
    chunks, position = [], len(SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        length, kind = struct.unpack(">I4s", data[position : position + 8].ljust(8, b"\0"))
        end = position + 12 + length
        if end > len(data):
            raise InputError(f"{path}: the PNG file is truncated; copy or export it again")
        chunks.append((kind, data[position + 8 : end - 4]))
        (checksum,) = struct.unpack(">I", data[end - 4 : end])
        if zlib.crc32(data[position + 4 : end - 4]) != checksum:
            raise InputError(f"{path}: the PNG file is damaged (checksum of a block); copy or export it again")
        position = end
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise InputError(f"{path}: the PNG file has no valid header; export it again")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    if compression or filtering or interlace > 1 or colour not in _CHANNELS:
        raise InputError(f"{path}: the PNG file has a header of no known kind; export it again")
    return Header(width, height, depth, colour, interlace == 1, chunks)


def decode(path, data, head):
    """The pixels, (H, W) or (H, W, 3), uint8 or uint16; InputError if they cannot be had."""
    if head.colour in (GREY_ALPHA, COLOUR_ALPHA) or any(kind == b"tRNS" for kind, _ in head.chunks):
        raise InputError(f"{path}: has an alpha channel, which cannot be restored; save the image without transparency")
    if head.depth == 16 and head.colour == COLOUR:
        return _decode_colour16(path, head)
    _inflate(path, head)  # Pillow takes rows that are missing for black
    import imageio.v3 as iio

    try:
        with _no_pillow_limit():
            pixels = iio.imread(data, plugin="pillow", extension=".png", index=0)
    except Exception as error:
        raise InputError(f"{path}: cannot be decoded ({_line(error)}); export it again") from error
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    return pixels


@contextmanager
def _no_pillow_limit():
    """The caller has compared the size with its own limit; Pillow's is a global variable."""
    from PIL import Image

    with _limit_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _inflate(path, head):
    """The filtered rows, each after the number of its filter."""
    bits, size = _CHANNELS[head.colour] * head.depth, 0
    for top, left, down, right in _PASSES if head.interlaced else ((0, 0, 1, 1),):
        rows, columns = len(range(top, head.height, down)), len(range(left, head.width, right))
        size += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    try:
        stream = b"".join(content for kind, content in head.chunks if kind == b"IDAT")
        # With a byte more asked for, the checksum at the stream's end is compared
        raw = zlib.decompressobj().decompress(stream, size + 1)
    except zlib.error as error:
        raise InputError(f"{path}: cannot be decoded ({_line(error)}); export it again") from error
    if len(raw) < size:
        raise InputError(f"{path}: the PNG file holds too few pixels; export it again")
    return raw[:size]


def _decode_colour16(path, head):
    if head.interlaced:
        raise InputError(f"{path}: is an interlaced 16-bit PNG, which is not supported; save it without interlacing")
    rows = np.frombuffer(_inflate(path, head), np.uint8).reshape(head.height, 1 + 6 * head.width)
    if rows[:, 0].max() > 4:
        raise InputError(f"{path}: cannot be decoded (unknown PNG filter); export it again")
    pixels = _unfilter(rows[:, 0], rows[:, 1:].reshape(head.height, head.width, 6))
    return np.ascontiguousarray(pixels).view(">u2").astype(np.uint16)


def _unfilter(filters, coded):
    """Undo the row filters (section 9) along anti-diagonals, whose pixels depend on earlier ones only."""
    height, width, _ = coded.shape
    out = np.zeros((height + 1, width + 1, coded.shape[2]), np.int16)
    for diagonal in range(height + width - 1):
        r = np.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        c = diagonal - r
        kind = filters[r, None]
        left, up, corner = out[r + 1, c], out[r, c + 1], out[r, c]
        estimate = left + up - corner
        by_left, by_up, by_corner = abs(estimate - left), abs(estimate - up), abs(estimate - corner)
        nearest = np.where(by_up <= by_corner, up, corner)
        paeth = np.where((by_left <= by_up) & (by_left <= by_corner), left, nearest)
        predicted = np.select([kind == 1, kind == 2, kind == 3, kind == 4], [left, up, (left + up) // 2, paeth], 0)
        out[r + 1, c + 1] = (coded[r, c] + predicted) & 255
    return out[1:, 1:].astype(np.uint8)


def encode(pixels):
    """The bytes of a PNG file of (H, W) or (H, W, 3) pixels, uint8 or uint16."""
    if pixels.dtype == np.uint16 and pixels.ndim == 3:
        return _encode_colour16(pixels)
    import imageio.v3 as iio

    # Of photographs, whose rows hold differences, runs are all that repeats: four times as fast, and no larger.
    return iio.imwrite("<bytes>", pixels, plugin="pillow", extension=".png", compress_type=zlib.Z_RLE)


def _encode_colour16(pixels):
    height, width, _ = pixels.shape
    big_endian = np.ascontiguousarray(pixels, ">u2").view(np.uint8).reshape(height, 6 * width)
    # Every row by filter 2, its difference from the row above
    coded = np.full((height, 1 + 6 * width), 2, np.uint8)
    coded[:, 1:] = big_endian
    coded[1:, 1:] -= big_endian[:-1]
    head = struct.pack(">IIBBBBB", width, height, 16, COLOUR, 0, 0, 0)
    blocks = ((b"IHDR", head), (b"IDAT", zlib.compress(coded.tobytes(), 6)), (b"IEND", b""))
    return SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in blocks
    )


def _line(error):
    return str(error).strip().split("\n")[0] or type(error).__name__
