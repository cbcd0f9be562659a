"""Damage to bytes: flips, truncations, splices, lying numbers, swapped words; and headers rewritten field by field."""

import ast
import io
import json
import re
import struct
import zipfile
import zlib

import numpy as np

EXTREMES = (0, 1, 2, 3, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_TEXT_NUMBERS = (
    b"0", b"-1", b"1", b"65535", b"65536", b"4294967296", b"18446744073709551616", b"1e400", b"nan", b"-inf", b"1e-400",
    b"9" * 400, b"0x10", b"1_0", b"", b"1.5", b"null", b"true", b"[]", b"{}", b'""',
)  # fmt: skip


def damaged(data, rng, *, head=None, times=4):
    """The bytes with 1 to ``times`` pieces of damage, most of them in the first ``head`` bytes."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, times + 1))):
        if not data:
            break
        reach = len(data) if head is None or rng.random() < 0.3 else min(head, len(data))
        place = int(rng.integers(reach))
        _DAMAGE[int(rng.integers(len(_DAMAGE)))](data, place, rng)
    return bytes(data)


def _flip(data, place, rng):
    data[place] ^= 1 << int(rng.integers(8))


def _byte(data, place, rng):
    data[place] = int(rng.integers(256))


def _truncate(data, place, rng):
    del data[place:]


def _grow(data, place, rng):
    data[place:place] = rng.bytes(int(rng.integers(1, 64)))


def _splice(data, place, rng):
    start = int(rng.integers(len(data)))
    block = data[start : start + int(rng.integers(1, 256))]
    if rng.random() < 0.5:
        data[place:place] = block
    else:
        data[place : place + len(block)] = block


def _cut(data, place, rng):
    del data[place : place + int(rng.integers(1, 64))]


def _swap(data, place, rng):
    size = int(rng.choice((2, 4, 8)))
    data[place : place + size] = data[place : place + size][::-1]


def _number(data, place, rng):
    size = int(rng.choice((1, 2, 4, 8)))
    values = (*EXTREMES, len(data), len(data) - 1, len(data) + 1)
    value = int(values[int(rng.integers(len(values)))]) & (256**size - 1)
    data[place : place + size] = value.to_bytes(size, str(rng.choice(("little", "big"))))


def _text_number(data, place, rng):
    found = list(re.finditer(rb"-?\d+", bytes(data[: 1 << 14])))
    if found:
        match = found[int(rng.integers(len(found)))]
        data[match.start() : match.end()] = _TEXT_NUMBERS[int(rng.integers(len(_TEXT_NUMBERS)))]


_DAMAGE = (_flip, _flip, _byte, _byte, _truncate, _grow, _splice, _cut, _swap, _number, _number, _text_number)


def pick(rng, choices):
    return choices[int(rng.integers(len(choices)))]


# NPY


NPY_TYPES = (
    "<f4", ">f4", "<f8", ">f8", "<f2", "<c8", ">c16", "|b1", "|u1", "<u2", ">i4", "<i8", "|S4", "<U3", "|O", "|V8",
    "|V0",
    "<f16", "<c32", "<M8[s]", "<m8[ns]", "|S0", "<f3", "", "f4,f4", [("a", "<f4"), ("b", "<f8")], [("a", "|O")],
    [("a", "<f4", (3,))], None, 5,
)  # fmt: skip
NPY_SHAPES = (
    (), (0,), (1,), (9, 7), (7, 9), (63,), (3, 3, 7), (9, 0), (-1, 7), (-9, -7), (2**31, 2**31), (2**63, 2), (2**64,),
    (10**3000, 10**3000), (1,) * 40, (9, 7.0), (True, 63), "63", [9, 7], None, (9, 7, 1), (1, 9, 7), (2**40, 0),
    (9, 8), (2**20,), (16, 16), (2**62, 4),
)  # fmt: skip


def npy_header(rng, data):
    """The file with one or more entries of its header replaced; the header's length is right unless it lies."""
    size = 2 if data[6:7] == b"\1" else 4
    length = int.from_bytes(data[8 : 8 + size], "little")
    try:
        entries = ast.literal_eval(data[8 + size : 8 + size + length].decode("latin1").strip())
    except (SyntaxError, ValueError, RecursionError):  # damaged before
        return data
    for _ in range(int(rng.integers(1, 3))):
        what = rng.random()
        if what < 0.4:
            entries["descr"] = pick(rng, NPY_TYPES)
        elif what < 0.8:
            entries["shape"] = pick(rng, NPY_SHAPES)
        elif what < 0.9:
            entries["fortran_order"] = pick(rng, (True, False, 1, None, "no"))
        else:
            entries[pick(rng, ("extra", "shape ", ""))] = 1
    text = repr(entries)
    if rng.random() < 0.05:
        text = pick(rng, ("[" * 300 + "]" * 300, "(" * 5000, text + " " * 9000, "{}", "", "\0" * 20, "-" * 3000 + "1"))
    text = text.encode("latin1", "replace") + b"\n"
    text = text.rjust(0) + b" " * (-len(text) % 64)
    magic, body = b"\x93NUMPY", data[8 + size + length :]
    version = int(pick(rng, (1, 1, 1, 2, 3, 0, 4, 255)))
    width = 2 if version == 1 else 4
    stated = len(text) if rng.random() < 0.9 else int(pick(rng, EXTREMES))
    return magic + bytes([version, 0]) + (stated & (256**width - 1)).to_bytes(width, "little") + text + body


def npy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


# NPZ


def npz(rng, members):
    """An archive of the members (name -> bytes), some of them damaged, repeated, renamed or bombs."""
    stream = io.BytesIO()
    members = list(members.items())
    for _ in range(int(rng.integers(0, 3))):
        k, what = int(rng.integers(len(members))), rng.random()
        name, data = members[k]
        if what < 0.35:
            members[k] = name, npy_header(rng, data)
        elif what < 0.6:
            members[k] = name, damaged(data, rng, head=128)
        elif what < 0.7:
            members.append((name, damaged(data, rng)))
        elif what < 0.8:
            members[k] = (
                pick(rng, ("../k.npy", "/k.npy", "kspace", "kspace.npy/", "\u2028.npy", ".npy", "n" * 300)),
                data,
            )
        elif what < 0.9:
            members[k] = name, data + bytes(int(rng.integers(1, 1 << 16)))
        else:
            members[k] = name, npy_bytes(np.zeros(0, np.complex64))[:-1] + bytes(1 << 22)
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members:
            kind = pick(rng, (zipfile.ZIP_STORED,) * 4 + (zipfile.ZIP_DEFLATED,) * 3 + (zipfile.ZIP_BZIP2,))
            if rng.random() < 0.02:
                kind = zipfile.ZIP_LZMA
            info = zipfile.ZipInfo(name)
            archive.writestr(info, data, kind)
    data = stream.getvalue()
    if rng.random() < 0.4:
        data = bytearray(data)
        # the central directory, or a local header: sizes, methods, flags, offsets
        for _ in range(int(rng.integers(1, 3))):
            place = data.find(pick(rng, (b"PK\1\2", b"PK\3\4", b"PK\5\6")))
            _DAMAGE[int(rng.integers(len(_DAMAGE)))](data, min(len(data) - 1, place + int(rng.integers(4, 46))), rng)
            if len(data) < 64:
                break
        data = bytes(data)
    return damaged(data, rng) if rng.random() < 0.2 else data


# PNG


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_chunks(data):
    chunks, position = [], 8
    while position + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        chunks.append((kind, data[position + 8 : position + 8 + length]))
        position += 12 + length
    return chunks


def png_join(chunks, rng=None):
    """The file; with a generator now and then a checksum or a length lies."""
    parts = [PNG_SIGNATURE]
    for kind, content in chunks:
        length, checksum = len(content), zlib.crc32(kind + content)
        if rng is not None and rng.random() < 0.02:
            length = int(pick(rng, EXTREMES)) & 0xFFFFFFFF
        if rng is not None and rng.random() < 0.02:
            checksum ^= 1
        parts.append(struct.pack(">I", length) + kind + content + struct.pack(">I", checksum))
    return b"".join(parts)


def png_header(rng, data):
    """The file with its header's fields, its chunks' order or its pixels' stream changed, and right checksums."""
    chunks = png_chunks(data)
    for _ in range(int(rng.integers(1, 4)) if chunks else 0):
        what, k = rng.random(), int(rng.integers(len(chunks)))
        kind, content = chunks[k]
        if what < 0.35 and len(chunks[0][1]) == 13:
            fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
            field = int(rng.integers(7))
            if field < 2:
                fields[field] = int(pick(rng, (0, 1, 2, 5, 8, 9, 100, 2**16, 2**31 - 1, 2**31, 2**32 - 1)))
            else:
                fields[field] = int(pick(rng, (0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 255)))
            chunks[0] = b"IHDR", struct.pack(">IIBBBBB", *fields)
        elif what < 0.45:
            chunks.insert(int(rng.integers(len(chunks))), (kind, content))
        elif what < 0.52:
            del chunks[k]
        elif what < 0.6:
            other = int(rng.integers(len(chunks)))
            chunks[k], chunks[other] = chunks[other], chunks[k]
        elif what < 0.8:
            chunks = [
                (b"IDAT", _recompressed(content, rng)) if kind == b"IDAT" else (kind, content)
                for kind, content in chunks
            ]
        elif what < 0.95:
            extra = pick(rng, _PNG_EXTRA)
            chunks.insert(int(rng.integers(len(chunks))), extra)
        else:
            chunks[k] = kind, damaged(content or b"\0", rng)
        if not chunks:
            break
    return png_join(chunks, rng)


def _recompressed(content, rng):
    try:
        raw = zlib.decompress(content)
    except zlib.error:
        return content
    what = rng.random()
    if what < 0.1:
        raw += bytes(1 << 22)
    elif what < 0.2:
        raw = raw[: int(rng.integers(len(raw) + 1))]
    elif raw:
        raw = bytearray(raw)
        for _ in range(int(rng.integers(1, 4))):
            raw[int(rng.integers(len(raw)))] = int(rng.integers(256)) if rng.random() < 0.5 else int(rng.integers(6))
        raw = bytes(raw)
    return zlib.compress(raw, int(rng.integers(10)))


_PNG_EXTRA = (
    (b"tRNS", b"\0\0"), (b"tRNS", b"\0" * 6), (b"PLTE", bytes(range(30))), (b"PLTE", b""), (b"PLTE", bytes(769)),
    (b"gAMA", struct.pack(">I", 45455)), (b"gAMA", b""), (b"pHYs", b"\0" * 3), (b"tEXt", b"a\0b"),
    (b"tEXt", b"\xff" * 9),
    (b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 22), 9)), (b"iCCP", b"k\0\0" + zlib.compress(bytes(1 << 22), 9)),
    (b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(1 << 22), 9)), (b"acTL", struct.pack(">II", 2, 0)),
    (b"acTL", struct.pack(">II", 2**31, 0)), (b"fcTL", bytes(26)), (b"fdAT", bytes(30)),
    (b"eXIf", b"II*\0\x08\0\0\0\xff\xff"),
    (b"IEND", b""), (b"IHDR", bytes(13)), (b"IDAT", b""), (b"sRGB", b""), (b"cHRM", b"\0"), (b"sBIT", b"\x05"),
    (b"ABCD", b""),
    (b"\xff\xfe\0\0", b""), (b"hIST", b""), (b"bKGD", b""), (b"tIME", b""),
)  # fmt: skip


# TIFF


def tiff_directory(rng, data):
    """The file with entries of its first directory changed: tag, type, count or value; or where the next is."""
    order = "<" if data[:2] == b"II" else ">"
    if struct.unpack(order + "H", data[2:4])[0] != 42:
        return damaged(data, rng, head=200)
    (start,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[start : start + 2])
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        place = start + 2 + 12 * int(rng.integers(count))
        tag, kind, number, value = struct.unpack(order + "HHII", data[place : place + 12])
        what = rng.random()
        if what < 0.15:
            tag = int(pick(rng, _TIFF_TAGS))
        elif what < 0.3:
            kind = int(pick(rng, (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 18, 99, 65535)))
        elif what < 0.5:
            number = int(pick(rng, (0, 1, 2, 3, 4, 100, 2**16, 2**31, 2**32 - 1)))
        elif what < 0.9:
            small = int(rng.integers(0, 20)) << (16 if order == ">" and kind == 3 and rng.random() < 0.9 else 0)
            value = small if rng.random() < 0.6 else int(pick(rng, EXTREMES)) & 0xFFFFFFFF
        elif what < 0.95:
            end = start + 2 + 12 * count
            data[end : end + 4] = struct.pack(order + "I", int(pick(rng, (start, 8, 1, len(data), 2**32 - 1))))
        else:
            data[start : start + 2] = struct.pack(order + "H", int(pick(rng, (0, 1, count + 1, 65535))))
        data[place : place + 12] = struct.pack(order + "HHII", tag, kind, number, value)
    return bytes(data)


_TIFF_TAGS = (254, 256, 257, 258, 259, 262, 266, 270, 273, 277, 278, 279, 282, 284, 305, 317, 320, 322, 323, 324, 325,
    330,
              338, 339, 347, 32997, 33628, 34118, 34412, 50838, 51123, 65000)  # fmt: skip


# safetensors


def safetensors_header(rng, data):
    """The file with its header's entries changed: shapes, types, offsets, metadata, names."""
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    for _ in range(int(rng.integers(1, 4))):
        name, what = pick(rng, names), rng.random()
        entry = header.get(name)
        if not isinstance(entry, dict):
            continue
        if what < 0.2:
            entry["shape"] = pick(rng, ([], [0], [-1], [2**63], [1, 2, 3], [2**32, 2**32], "x", None, [1.5], [1] * 200))
        elif what < 0.35:
            entry["dtype"] = pick(rng, ("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "XX", None, 3, ["F32"]))
        elif what < 0.5:
            entry["data_offsets"] = pick(
                rng, ([0, 0], [0, 2**63], [-4, 4], [8, 4], [0], "0,4", [0, len(body)], [4, 8, 12])
            )
        elif what < 0.6:
            header[pick(rng, ("other", "", "x" * 500, "a\nb", "\ud800", name + " "))] = dict(entry)
        elif what < 0.7:
            del header[name]
            names.remove(name)
            if not names:
                break
        elif what < 0.9 and isinstance(header.get("__metadata__"), dict):
            key = pick(rng, ("format", "kind", "sha256", "record", "record_sha256", "other"))
            header["__metadata__"][key] = pick(
                rng,
                (
                    "",
                    "bioperf",
                    "checkpoint",
                    "x" * 3000,
                    "{}",
                    "[" * 3000,
                    "\ud800",
                    '{"a": NaN}',
                    None,
                    1,
                    "denoiser",
                ),
            )
        elif what < 0.95:
            header["__metadata__"] = pick(rng, (None, [], "x", {}, {"a": {}}))
        else:
            header = pick(rng, ([], "x", None, 0, {"__metadata__": {}}))
            break
    text = json.dumps(header).encode()
    if rng.random() < 0.1 and len(text) > 4:
        # an entry twice
        text = text[:-1] + b"," + text[1:] if rng.random() < 0.7 else text[: len(text) // 2]
    stated = len(text) if rng.random() < 0.93 else int(pick(rng, EXTREMES)) & (2**64 - 1)
    return stated.to_bytes(8, "little") + text + body
