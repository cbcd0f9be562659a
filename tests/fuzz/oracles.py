"""Slow, plain readers of the formats, which share no code with the package's or with its libraries."""

import ast
import json
import math
import struct
import zlib

import numpy as np

from .mutations import png_chunks

_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def npy(data):
    """The array of an NPY file, or ValueError."""
    size = 2 if data[6] == 1 else 4
    length = int.from_bytes(data[8 : 8 + size], "little")
    text = data[8 + size : 8 + size + length].decode("utf-8" if data[6] > 2 else "latin1").strip()
    try:
        header = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        # NumPy mends headers of Python 2
        header = ast.literal_eval(text.replace("L", ""))
    dtype, shape = np.dtype(header["descr"]), header["shape"]
    array = np.frombuffer(data, dtype, math.prod(shape), 8 + size + length)
    return array.reshape(shape, order="F" if header["fortran_order"] else "C").astype(dtype.newbyteorder("="))


def safetensors(data):
    """The arrays of a file of float32 tensors, and its metadata."""
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.pop("__metadata__", {})
    arrays = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        arrays[name] = np.frombuffer(body[start:stop], "<f4").reshape(entry["shape"])
    return arrays, metadata


def png(data):
    """The pixels (H, W) or (H, W, 3), uint8 or uint16, of a PNG file without transparency.

    W3C Recommendation "Portable Network Graphics", third edition (2025): sections 7 to 9, byte by byte.
    """
    chunks = png_chunks(data)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    channels = {0: 1, 2: 3, 3: 1}[colour]
    palette, stream = None, b""
    for kind, content in chunks:
        if kind == b"PLTE" and colour == 3:
            palette = np.frombuffer(content[: len(content) // 3 * 3], np.uint8).reshape(-1, 3)
        if kind == b"IDAT":
            stream += content
        if kind == b"IEND":
            break
    raw, position = zlib.decompressobj().decompress(stream), 0
    values = np.zeros((height, width, channels), np.uint16)
    for top, left, down, right in _PASSES if interlaced else ((0, 0, 1, 1),):
        rows, columns = len(range(top, height, down)), len(range(left, width, right))
        if rows == 0 or columns == 0:
            continue
        length, step = (columns * channels * depth + 7) // 8, max(1, channels * depth // 8)
        above = bytes(length)
        for row in range(rows):
            kind, line = raw[position], bytearray(raw[position + 1 : position + 1 + length])
            position += 1 + length
            if len(line) < length:
                raise ValueError("too few pixels")
            for i in range(length):
                a, b = line[i - step] if i >= step else 0, above[i]
                c = above[i - step] if i >= step else 0
                line[i] = (line[i] + (0, a, b, (a + b) // 2, _paeth(a, b, c))[kind]) & 255
            above = bytes(line)
            bits = np.unpackbits(np.frombuffer(above, np.uint8))[: columns * channels * depth]
            weights = 1 << np.arange(depth)[::-1]
            values[top + row * down, left::right] = (bits.reshape(columns, channels, depth) * weights).sum(-1)
    if colour == 3:
        # The specification leaves it open what an index beyond the palette shows; libpng and Pillow take black
        return np.concatenate([palette, np.zeros((256 - len(palette), 3), np.uint8)])[values[..., 0]]
    if depth < 8:
        values = values * (255 // (2**depth - 1))
    values = values.astype(np.uint16 if depth == 16 else np.uint8)
    return values if channels == 3 else values[..., 0]


def _paeth(a, b, c):
    p = a + b - c
    distances = abs(p - a), abs(p - b), abs(p - c)
    return (a, b, c)[distances.index(min(distances))]


def acquisitions(columns, matrix, centre):
    """k-space (frames, slices, coils, readout, lines) and mask of ISMRMRD acquisitions, line by line."""
    height, width = matrix
    placed, start = {}, 0
    for k in range(len(columns["flags"])):
        count, coils = int(columns["number_of_samples"][k]), int(columns["active_channels"][k])
        samples = columns["samples"][start : start + count * coils]
        start += count * coils
        flags = int(columns["flags"][k])
        skipped = any(flags >> (bit - 1) & 1 for bit in (20, 23, 24, 26, 27, 28, 29, 30, 31))
        if flags >> 18 & 1 or (skipped and not flags >> 20 & 1):
            continue
        frame = tuple(int(columns[name][k]) for name in ("repetition", "phase", "contrast", "set"))
        column = int(columns["kspace_encode_step_1"][k]) - centre + width // 2
        for j in range(int(columns["discard_pre"][k]), count - int(columns["discard_post"][k])):
            row = j - int(columns["center_sample"][k]) + height // 2
            if not (0 <= row < height and 0 <= column < width):
                raise ValueError("outside")
            values = [samples[c * count + j] for c in range(coils)]
            placed.setdefault((frame, int(columns["slice"][k]), row, column), []).append(values)
    frames, slices = sorted({key[0] for key in placed}), sorted({key[1] for key in placed})
    coils = len(next(iter(placed.values()))[0])
    kspace = np.zeros((len(frames), len(slices), coils, height, width), np.complex64)
    mask = np.zeros((height, width), bool)
    for (frame, slice_, row, column), values in placed.items():
        total = np.zeros(coils, np.complex64)
        for value in values:
            total += np.array(value, np.complex64)
        kspace[frames.index(frame), slices.index(slice_), :, row, column] = total / np.float32(len(values))
        mask[row, column] = True
    return kspace[0] if len(frames) == 1 else kspace, mask
