"""Targets: the readers of files.  What is accepted is compared with a plain reader's result."""

import contextlib
import functools
import io
import itertools
import zlib
from pathlib import Path

import numpy as np

from bioperf.io import InputError, hdf5, read_image, read_kspace, read_mask, read_psf

from . import mutations, oracles
from .harness import check, refusal, target
from .mutations import damaged, pick

LIMIT = 1 << 16
EXPECTED_PATH_NAME = "input"


def scaled(values):
    if values.dtype in (np.uint8, np.uint16):
        return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    return values.astype(np.float32) if values.dtype == np.float16 else values


def same(found, expected, words):
    check(found.shape == expected.shape, f"{words}: shape {found.shape}, not {expected.shape}")
    check(found.dtype == expected.dtype, f"{words}: {found.dtype}, not {expected.dtype}")
    check(np.array_equal(found, expected, equal_nan=True), f"{words}: values differ from the plain reader's")


def image_or_refusal(path, expected, **options):
    """Read it, compare it with ``expected()``, and as a point spread function and a mask too."""
    try:
        image, info = read_image(path, max_pixels=LIMIT, **options)
    except InputError as error:
        accepted = refusal(error, path)
    else:
        accepted = True
        check(image.dtype in (np.float32, np.float64) and np.isfinite(image).all(), "not finite floats")
        check(image.flags.c_contiguous and image.size <= LIMIT and image.ndim >= 2, "not an image")
        values = expected()
        if values is not None:
            same(image, scaled(values), "image")
            check(info.dtype == values.dtype or values.dtype == bool, f"info says {info.dtype}")
    for read in (lambda: read_psf(path, max_pixels=LIMIT), lambda: read_mask(path, max_values=LIMIT)):
        try:
            found = read()
        except InputError as error:
            refusal(error, path)
        else:
            check(found.dtype == bool or abs(found.sum() - 1) < 1e-9, "a psf that does not sum to 1")
    return accepted


# PNG


@functools.cache
def png_seeds():
    from PIL import Image

    from bioperf.io import png

    rng = np.random.default_rng(0)
    grey = rng.integers(256, size=(9, 7)).astype(np.uint8)
    colour = rng.integers(256, size=(9, 7, 3)).astype(np.uint8)
    deep = rng.integers(65536, size=(9, 7)).astype(np.uint16)
    pictures = [Image.fromarray(grey), Image.fromarray(colour), Image.fromarray(deep)]
    pictures += [Image.fromarray(grey > 128), Image.fromarray(colour).quantize(11)]
    seeds = []
    for picture in pictures:
        for options in ({}, {"bits": 4}) if picture.mode == "P" else ({},):
            stream = io.BytesIO()
            picture.save(stream, "PNG", **options)
            seeds.append(stream.getvalue())
    seeds.append(png.encode(rng.integers(65536, size=(9, 7, 3)).astype(np.uint16)))
    for depth, interlaced in ((1, 0), (2, 0), (4, 0), (8, 1), (16, 1), (2, 1)):
        seeds.append(_raw_png(rng, 9, 7, depth, 0, interlaced))
    seeds.append(_raw_png(rng, 9, 7, 8, 2, 1))
    seeds.append(_raw_png(rng, 9, 7, 16, 2, 0))
    return seeds


def _raw_png(rng, height, width, depth, colour, interlaced):
    """Random filters and bytes."""
    import struct

    channels, rows = {0: 1, 2: 3}[colour], b""
    for top, left, down, right in oracles._PASSES if interlaced else ((0, 0, 1, 1),):
        lines, columns = len(range(top, height, down)), len(range(left, width, right))
        for _ in range(lines if columns else 0):
            rows += bytes([int(rng.integers(5))]) + rng.bytes((columns * channels * depth + 7) // 8)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return mutations.png_join([(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def _same_stream(data):
    """The pixels by the plain reader, or None where the two may differ: an animation's first frame."""
    kinds = [kind for kind, _ in mutations.png_chunks(data)]
    if b"acTL" in kinds or b"fcTL" in kinds or kinds.count(b"IHDR") > 1 or kinds.count(b"PLTE") > 1:
        return None
    try:
        return oracles.png(data)
    except zlib.error:  # beyond the pixels, where the package does not look
        return None


@target("png", 12)
def read_png(case):
    rng, data = case.rng, case.pick(png_seeds())
    what = rng.random()
    if what < 0.6:
        data = mutations.png_header(rng, data)
    elif what < 0.95:
        data = damaged(data, rng, head=60)
    path = case.write("input.png", data)
    return image_or_refusal(path, lambda: _same_stream(data))


# TIFF


@functools.cache
def tiff_seeds():
    import tifffile

    rng = np.random.default_rng(0)
    seeds = []
    for dtype in (np.uint8, np.uint16, np.float32, np.float64, np.float16):
        values = rng.integers(256, size=(9, 7)) if dtype in (np.uint8, np.uint16) else rng.random((9, 7))
        for options in ({}, {"byteorder": ">"}, {"rowsperstrip": 2}, {"compression": "zlib"}):
            stream = io.BytesIO()
            tifffile.imwrite(stream, values.astype(dtype), photometric="minisblack", **options)
            seeds.append(stream.getvalue())
    grey = rng.integers(256, size=(3, 9, 7)).astype(np.uint8)
    colour = rng.integers(256, size=(9, 7, 3)).astype(np.uint8)
    for values, options in (
        (grey, {"photometric": "minisblack"}), (colour, {"photometric": "rgb"}),
        (grey, {"photometric": "minisblack", "bigtiff": True}),
        (np.moveaxis(colour, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        (np.zeros((16, 32), np.uint8), {"photometric": "minisblack", "tile": (16, 16)}),
        (grey[0] > 128, {"photometric": "minisblack"}), (grey, {"photometric": "minisblack", "metadata": None}),
        (grey, {"photometric": "minisblack", "ome": True}), (grey, {"photometric": "minisblack", "imagej": True}),
        (colour, {"photometric": "rgb", "compression": "zlib", "predictor": False}),
    ):  # fmt: skip
        stream = io.BytesIO()
        tifffile.imwrite(stream, values, **options)
        seeds.append(stream.getvalue())
    return seeds


def _plain_tiff(data):
    """Pillow's pixels of a file of one page, or None where it reads another kind of file."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            if getattr(picture, "n_frames", 1) != 1 or picture.mode not in ("L", "I;16", "I;16B", "F", "RGB"):
                return None
            if (
                picture.tag_v2.get(274, 1) != 1
                or picture.tag_v2.get(266, 1) != 1
                or (339 in picture.tag_v2 and picture.mode == "L" and picture.tag_v2[339] != (1,))
            ):
                return None
            values = np.asarray(picture)
    except Exception:  # whatever Pillow raises on damaged files: no second opinion
        return None
    return values.astype(values.dtype.newbyteorder("="))


@target("tiff", 10)
def read_tiff(case):
    rng, data = case.rng, case.pick(tiff_seeds())
    what = rng.random()
    if what < 0.5:
        data = mutations.tiff_directory(rng, data)
    elif what < 0.97:
        data = damaged(data, rng, head=300)
    path = case.write("input.tif", data)

    def expected():
        plain = _plain_tiff(data)
        if plain is None:
            return None
        found = read_image(path, max_pixels=LIMIT)
        return plain if found[1].dtype == plain.dtype and found[0].shape == plain.shape else None

    return image_or_refusal(path, expected)


# NPY


@functools.cache
def npy_seeds():
    rng = np.random.default_rng(0)
    seeds = []
    for dtype in ("<f4", ">f4", "<f8", "<f2", "|u1", "<u2", ">u2", "<c8", "<c16", "|b1", "<i4"):
        values = (rng.random((9, 7)) * 200).astype(dtype)
        for array in (values, np.asfortranarray(values), values[None], np.stack([values] * 3, -1)):
            seeds.append(mutations.npy_bytes(array))
    seeds.append(mutations.npy_bytes(rng.random((9, 7)) > 0.4))
    return seeds


@target("npy", 14)
def read_npy(case):
    rng, data = case.rng, case.pick(npy_seeds())
    what = rng.random()
    if what < 0.6:
        data = mutations.npy_header(rng, data)
    elif what < 0.97:
        data = damaged(data, rng, head=140)
    path = case.write("input.npy", data)
    axis = case.pick((None, None, 0, 1, 2, -1, -3, 7))
    case.note("channel_axis", axis)
    accepted = image_or_refusal(path, lambda: oracles.npy(data), channel_axis=axis)
    try:
        kspace = read_kspace(path, max_values=LIMIT).kspace
    except InputError as error:
        refusal(error, path)
    else:
        accepted = True
        same(kspace, oracles.npy(data), "k-space")
    return accepted


# NPZ


@functools.cache
def npz_members():
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(4, 9, 7)) + 1j * rng.normal(size=(4, 9, 7))).astype(np.complex64)
    members = {
        "kspace.npy": values,
        "mask.npy": rng.random((9, 7)) < 0.5,
        "maps.npy": values[0],
        "note.npy": np.array("text"),
    }
    return {name: mutations.npy_bytes(array) for name, array in members.items()}


@target("npz", 8)
def read_npz(case):
    import zipfile

    data = mutations.npz(case.rng, npz_members())
    path = case.write("input.npz", data)
    accepted = False
    key = case.pick((None, None, None, "kspace", "maps", "mask", "none", "", "../k", "kspace.npy"))
    for read in (
        lambda: read_kspace(path, key=key, max_values=LIMIT),
        lambda: read_mask(path, key=key, max_values=LIMIT),
    ):
        try:
            found = read()
        except InputError as error:
            refusal(error, path)
            continue
        accepted = True
        kspace = getattr(found, "kspace", None)
        if kspace is not None:
            check(np.isfinite(kspace).all() and kspace.any() and kspace.dtype.kind == "c", "not k-space")
            held = []
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    # Damaged members that were not asked for are no concern; one too large to read whole may be it
                    with contextlib.suppress(Exception):
                        try:
                            held.append(oracles.npy(archive.read(name)))
                        except MemoryError:
                            held.append(kspace)
            check(
                any(a.shape == kspace.shape and np.array_equal(a, kspace) for a in held),
                f"is no array of the archive: key {key!r}, {kspace.shape} {kspace.dtype}, {[a.shape for a in held]}",
            )
    return accepted


# HDF5


class Forked:
    """``read_hdf5`` by a process that has imported h5py and is forked for each file: as fast, and as safe."""

    def __init__(self):
        self.process = None

    def __call__(self, path, wanted, *, name=None, max_values):
        import json
        import os
        import subprocess
        import sys

        from bioperf.io import _hdf5_reader

        out = Path(path).with_name("answer")
        if self.process is None:
            code = (
                "import os, runpy, sys, signal, json\n"
                "main = runpy.run_path(sys.argv[1])['main']\n"
                "for line in sys.stdin:\n"
                "    path, wanted, name, most, out = json.loads(line)\n"
                "    child = os.fork()\n"
                "    if child == 0:\n"
                "        signal.alarm(3)\n"
                "        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)\n"
                "        main(path, wanted, name, most)\n"
                "        sys.stdout.flush()\n"
                "        os._exit(0)\n"
                "    print(os.waitpid(child, 0)[1], flush=True)\n"
            )
            command = [sys.executable, "-c", code, _hdf5_reader.__file__]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        request = [str(path), wanted, name or "", str(max_values), str(out)]
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        self.process.stdout.readline()
        try:
            with open(out, "rb") as stream:
                facts, arrays = hdf5._receive(stream)
        except (ValueError, EOFError):
            raise InputError(f"{path}: is damaged (the HDF5 library failed on it); copy or export it again") from None
        finally:
            os.unlink(out)
        if "error" in facts:
            raise InputError(f"{path}: {facts['error']}")
        return facts, arrays


@functools.cache
def forked():
    return Forked()


_XML = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>16</x><y>12</y><z>1</z></matrixSize>
<fieldOfView_mm><x>440</x><y>240</y><z>7.5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>8</x><y>8</y><z>1</z></matrixSize>
<fieldOfView_mm><x>220</x><y>200</y><z>5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>11</maximum><center>6</center></kspace_encoding_step_1></encodingLimits>
<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""


def _complex(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def _hdf5_bytes(fill, **options):
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w", **options) as file:
        offset = fill(file)
    return stream.getvalue(), offset


@functools.cache
def hdf5_seeds():
    """Bytes, and where the values of "kspace" lie in them (or None)."""
    values = _complex((2, 2, 16, 12))

    def plain(file):
        file["kspace"] = values
        file["mask"] = np.ones(12)
        file["ismrmrd_header"] = _XML
        file["reconstruction_rss"] = np.ones((2, 8, 8), np.float32)
        file.attrs["max"] = 1.0
        return file["kspace"].id.get_offset()

    def packed(file):
        file.create_dataset("kspace", data=values, chunks=(1, 2, 16, 12), compression="gzip", shuffle=True)
        file["mask"] = np.ones(12, bool)

    def checked(file):
        file.create_dataset("kspace", data=values, chunks=(1, 2, 4, 4), fletcher32=True)

    seeds = [_hdf5_bytes(plain), _hdf5_bytes(packed), _hdf5_bytes(checked), _hdf5_bytes(plain, libver="latest")]
    ismrmrd = _ismrmrd_bytes()
    return seeds, ([(ismrmrd, None)] if ismrmrd else [])


def _ismrmrd_bytes():
    try:
        import ismrmrd
    except ImportError:
        return None
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.h5")
        with ismrmrd.Dataset(str(path), "dataset", create_if_needed=True) as file:
            file.write_xml_header(_XML)
            for line in range(12):
                acquisition = ismrmrd.Acquisition.from_array(
                    _complex((2, 16), line), center_sample=8, sample_time_us=10.0
                )
                acquisition.idx.kspace_encode_step_1 = line
                file.append_acquisition(acquisition)
        return path.read_bytes()


def _made_hdf5(case):
    """Files that no scanner writes: odd types, spaces, storage, links; and bombs."""
    import h5py

    def fill(file):
        kinds = (
            lambda: file.create_dataset("kspace",
                data=case.pick(("text", b"x", [1, 2], 5, np.nan, [[1j]], np.zeros((0, 4), "c8")))),
            lambda: file.create_dataset("kspace", shape=None, dtype="c8"),
            lambda: file.create_dataset("kspace", shape=case.pick(((), (2**40,), (2**30, 2**30), (4,), (4, 4))),
                dtype="c8", chunks=None),
            lambda: file.create_dataset("kspace", shape=(2**20, 2**20), dtype="c8", chunks=(16, 16)),
            lambda: file.create_dataset("kspace", shape=(16, 16), maxshape=(None, None), dtype="c16",
                chunks=(2**10, 2**10)),
            lambda: file.create_dataset("kspace", data=np.zeros(4, [("r", "f4"), ("j", "f4")])),
            lambda: file.create_dataset("kspace", data=np.zeros((4, 4), [("r", "f4"), ("i", "f8")])),
            lambda: file.create_dataset("kspace", shape=(3,), dtype=h5py.vlen_dtype(np.float32)),
            lambda: file.create_dataset("kspace", shape=(3, 3), dtype=h5py.ref_dtype),
            lambda: file.create_dataset("kspace", shape=(3, 3), dtype=h5py.string_dtype()),
            lambda: file.create_group("kspace"),
            lambda: file.__setitem__("kspace", h5py.SoftLink("/kspace")),
            lambda: file.__setitem__("kspace", h5py.SoftLink("/nowhere")),
            lambda: file.__setitem__("kspace", h5py.ExternalLink("other.h5", "/kspace")),
            lambda: file.create_dataset("kspace", shape=(4, 4), dtype="c8", external=[("/dev/zero", 0, 256)]),
            lambda: file.create_group("dataset").__setitem__("dataset", file["dataset"]),
            lambda: _fake_acquisitions(case, file),
            lambda: _bomb(file),
        )  # fmt: skip
        case.pick(kinds)()
        if case.chance(0.3):
            file["mask"] = case.pick(
                (
                    np.ones(4),
                    np.full((4, 4), 2),
                    np.zeros((4, 4), bool),
                    "m",
                    np.full((4, 4), np.nan),
                    np.ones((1, 4, 1)),
                )
            )
        return None

    return _hdf5_bytes(fill)[0]


def _bomb(file):
    data = file.create_dataset("kspace", (16, 16), "c8", chunks=(16, 16), compression="gzip")
    data.id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 26), 1))


def _fake_acquisitions(case, file):
    group = file.create_group("dataset")
    group["xml"] = case.pick(([_XML], [""], ["<x>" * 50], 5, ["<!DOCTYPE x>"], np.zeros(0), [_XML * 5000]))
    head = [("flags", "u8"), ("number_of_samples", "u2")] if case.chance(0.5) else "f8"
    group["data"] = np.zeros(case.pick((0, 3)), [("head", head), ("data", "f4")] if case.chance(0.7) else "f4")


def _kspace_or_refusal(case, path, expected=None, **options):
    import bioperf.io.kspace as module

    original, module.read_hdf5 = module.read_hdf5, forked()
    try:
        raw = read_kspace(path, max_values=LIMIT, **options)
    except InputError as error:
        return refusal(error, path, bombs=True)
    finally:
        module.read_hdf5 = original
    kspace = raw.kspace
    check(kspace.dtype in (np.complex64, np.complex128) and np.isfinite(kspace).all() and kspace.any(), "not k-space")
    check(kspace.ndim >= 2 and kspace.size <= LIMIT, f"k-space of shape {kspace.shape}")
    check(raw.mask is None or (raw.mask.dtype == bool and raw.mask.shape == kspace.shape[-2:]), "mask of another shape")
    check(raw.voxel is None or (np.isfinite(raw.voxel).all() and min(raw.voxel) > 0), f"voxel {raw.voxel}")
    check(raw.shown is None or all(0 < a <= b for a, b in zip(raw.shown, kspace.shape[-2:], strict=True)), "shown")
    if expected is not None:
        same(kspace, expected, "k-space")
    return True


@target("hdf5", 6)
def read_hdf5(case):
    rng = case.rng
    data, offset = case.pick(hdf5_seeds()[0])
    what, expected = rng.random(), None
    if what < 0.15:
        data = _made_hdf5(case)
        if case.chance(0.3):
            data = damaged(data, rng, head=2048)
    elif what < 0.3 and offset is not None:
        # Damage among the values alone: they are what is read
        size = 2 * 2 * 16 * 12 * 8
        values = bytearray(data[offset : offset + size])
        for _ in range(int(rng.integers(1, 5))):
            values[int(rng.integers(size))] = int(rng.integers(256))
        data = data[:offset] + bytes(values) + data[offset + size :]
        expected = np.frombuffer(bytes(values), np.complex64).reshape(2, 2, 16, 12)
    else:
        data = damaged(data, rng, head=6000)
    path = case.write("input.h5", data)
    key = case.pick((None,) * 6 + ("mask", "none", "/kspace", "dataset", "a/b", "\udcff"))
    if key == "\udcff":
        key = "é\n"
    case.note("key", key)
    return _kspace_or_refusal(case, path, expected if key is None else None, key=key)


@target("ismrmrd", 3)
def read_ismrmrd(case):
    seeds = hdf5_seeds()[1]
    if not seeds:
        return False
    data, rng = seeds[0][0], case.rng
    if case.chance(0.5):
        xml = data.find(b"<?xml")
        for _ in range(int(rng.integers(1, 3))):
            place = xml + int(rng.integers(len(_XML)))
            data = data[:place] + bytes([int(pick(rng, (0, 48, 57, 45, 46, 60, 62, 101, 255)))]) + data[place + 1 :]
    else:
        data = damaged(data, rng, head=8000)
    return _kspace_or_refusal(case, case.write("input.h5", data))


@target("ismrmrd-columns", 5)
def sort_columns(case):
    from bioperf.io import _hdf5_reader
    from bioperf.io.ismrmrd import parse_header, sort_acquisitions

    rng, count = case.rng, int(case.rng.integers(1, 14))
    columns = {name: np.zeros(count, np.int64) for name in (*_hdf5_reader.COUNTS, *_hdf5_reader.INDICES)}
    columns["sample_time_us"] = np.ones(count)
    columns["number_of_samples"][:], columns["active_channels"][:], columns["center_sample"][:] = 16, 2, 8
    columns["kspace_encode_step_1"][:] = rng.permutation(14)[:count] % 12
    for name in rng.choice(list(columns), int(rng.integers(0, 4))):
        where = rng.integers(count) if rng.random() < 0.7 else slice(None)
        columns[name][where] = (
            rng.integers(3) if rng.random() < 0.5 else rng.integers(20) if rng.random() < 0.7 else rng.integers(65536)
        )
    if case.chance(0.4):
        columns["flags"][rng.integers(count)] = (
            int(rng.integers(2**32)) & int(rng.integers(2**32)) & int(rng.integers(2**32)) & int(rng.integers(2**32))
        )
    total = int((columns["number_of_samples"] * columns["active_channels"]).sum())
    if total > LIMIT:
        return False
    columns["samples"] = _complex(total, int(rng.integers(1000)))
    xml = _XML
    if case.chance(0.3):
        xml = damaged(xml.encode(), rng, times=2).decode("utf8", "replace")
    case.note({name: list(values) for name, values in columns.items() if name != "samples"})
    try:
        kspace, mask, encoding, level, _ = sort_acquisitions("input.h5", xml, columns, LIMIT)
    except InputError as error:
        return refusal(error, "input.h5")
    check(level is None or np.isfinite(level), "noise level")
    encoding = parse_header(xml)
    height, width, _ = encoding.matrix
    centre = width // 2 if encoding.centre is None else encoding.centre
    expected, taken = oracles.acquisitions(columns, (height, width), centre)
    check(np.array_equal(mask, taken), "mask")
    check(np.allclose(kspace, expected, rtol=1e-5, atol=1e-5), "k-space")
    return True


@target("mask", 3)
def masks(case):
    """Masks of every shape and value in every format, with the shape that they are to fit."""
    rng = case.rng
    shape = case.pick(((9, 7), (7, 9), (1, 9, 7), (7,), (7, 1), (1, 7, 1), (9,), (2, 9, 7), (9, 7, 1), (1, 1), (9, 1)))
    values = (rng.random(shape) < 0.6).astype(case.pick((bool, np.uint8, np.float32, np.float64, np.int16, np.float16)))
    if case.chance(0.3):
        values = values * case.pick((0, 2, 255, 1.5))
    if case.chance(0.1) and values.dtype.kind == "f":
        values.flat[0] = case.pick((np.nan, np.inf, -0.0, -1))
    path = case.write("input.npy", mutations.npy_bytes(np.asarray(values)))
    fits = case.pick(((9, 7), (7, 9), (1, 1), (7, 7), None))
    case.note(shape, values.dtype, fits)
    try:
        mask = read_mask(path, shape=fits, max_values=LIMIT)
    except InputError as error:
        return refusal(error, path)
    check(mask.dtype == bool and mask.any() and (fits is None or mask.shape == fits), f"mask of shape {mask.shape}")
    check(np.isin(values, (0, 1)).all(), "other values than 0 and 1")
    stored = np.asarray(values) != 0
    if fits is not None and stored.size != mask.size:
        stored = np.broadcast_to(stored.reshape(fits[1]), fits)
    check(np.array_equal(mask.ravel(), stored.ravel()), "values")
    return True


@target("given-mask", 2)
def given_mask(case):
    """k-space whose mask is another file's."""
    data = case.write("kspace.npy", mutations.npy_bytes(_complex((9, 7))))
    seed = mutations.npy_bytes(np.random.default_rng(1).random((9, 7)) < 0.6)
    path = case.write(
        "mask.npy", mutations.npy_header(case.rng, seed) if case.chance(0.5) else damaged(seed, case.rng, head=140)
    )
    try:
        raw = read_kspace(data, mask_path=path, max_values=LIMIT)
    except InputError as error:
        return refusal(error, path)
    stored = oracles.npy(path.read_bytes())
    check(
        raw.mask.shape == (9, 7)
        and raw.mask.sum() == np.broadcast_to(stored != 0, stored.shape).sum() * (9 if stored.size == 7 else 1),
        "mask",
    )
    return True


# Weights and checkpoints


@functools.cache
def weight_seeds():
    import tempfile

    import torch

    from bioperf.learning.weights import write_tensors

    generator = torch.Generator().manual_seed(0)
    tensors = {f"layer.{k}": torch.randn(3, 2 + k, generator=generator) for k in range(3)}
    record = {"steps": 3, "settings": {"seed": 0}, "rows": [{"a": 1.5}]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "w")
        write_tensors(path, tensors, "denoiser", record)
        return path.read_bytes(), {name: tuple(t.shape) for name, t in tensors.items()}, record


@target("weights", 8)
def weights(case):
    from bioperf.learning.weights import read_tensors

    data, shapes, record = weight_seeds()
    original, _ = oracles.safetensors(data)
    data = mutations.safetensors_header(case.rng, data) if case.chance(0.6) else damaged(data, case.rng, head=700)
    path = case.write("input.safetensors", data)
    try:
        tensors, found = read_tensors(path, "denoiser", shapes if case.chance(0.8) else None)
    except InputError as error:
        return refusal(error, path)
    check(set(tensors) == set(original), "other names")
    for name, array in original.items():
        check(np.array_equal(tensors[name].numpy(), array), f"{name}: other values than those written")
    check(isinstance(found, dict), "the record is no dict")
    check(found == record or "record_sha256" not in oracles.safetensors(data)[1], "another record than the one written")
    return True


@functools.cache
def _training():
    """A tiny training's checkpoint and what continues it."""
    import tempfile

    import torch

    from bioperf.learning.training import Settings, _Run

    torch.set_num_threads(1)
    images = [np.random.default_rng(0).random((12, 12)).astype(np.float32)]
    settings = Settings(steps=5, batch=1, patch=8, precision="float32")
    run = _Run(torch, settings, images, None, "cpu")
    run.advance()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "w.checkpoint")
        rows = [{"step": 1, "seconds": 0.5, "loss": 1.0, "rate": 0.1, "psnr": 20.0}]
        run.save(path, {"seed": 0}, rows, 1.0)
        return run, path.read_bytes(), rows


_RECORDS = (
    {"step": 0}, {"step": 5}, {"step": -1}, {"step": 2.0}, {"step": True}, {"step": None}, {"step": 10**30},
    {"rows": None},
    {"rows": [5]}, {"rows": [{}]}, {"rows": {"a": 1}}, {"seconds": -1}, {"seconds": float("nan")}, {"seconds": "x"},
    {"seconds": float("inf")}, {"identity": None}, {"identity": []}, {"identity": {"seed": 1}},
    {"identity": {"x" * 900: 1}},
    {"seconds": 10**400}, {"rows": [{"step": "\n", "seconds": 1, "loss": 1, "rate": 1, "psnr": 1}]},
    {"step": "9\n" * 200},
)  # fmt: skip


@target("train-checkpoint", 1.5)
def train_checkpoint(case):
    """A checkpoint with a record that is not of this run, signed as the package signs it; or a damaged one."""
    import hashlib
    import json

    run, data, rows = _training()
    if case.chance(0.6):
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        record = {"identity": {"seed": 0}, "step": 1, "rows": rows, "seconds": 1.0}
        for _ in range(int(case.rng.integers(1, 3))):
            change = case.pick(_RECORDS)
            case.note(change)
            record |= change
        if case.chance(0.1):
            del record[case.pick(list(record))]
        text = json.dumps(record)
        header["__metadata__"] |= {"record": text, "record_sha256": hashlib.sha256(text.encode()).hexdigest()}
        text = json.dumps(header).encode()
        data = len(text).to_bytes(8, "little") + text + data[8 + length :]
    elif case.chance(0.5):
        data = mutations.safetensors_header(case.rng, data)
    else:
        data = damaged(data, case.rng, head=6000)
    path = case.write("w.checkpoint", data)
    try:
        found, seconds = run.restore(path, {"seed": 0})
    except InputError as error:
        return refusal(error, path)
    check(isinstance(found, list) and 0 <= seconds < np.inf and 0 < run.step < 5, "not a state of this run")
    return True


@target("stages", 2)
def stages(case):
    """Files of learned iterations, their values changed and signed again, or damaged."""
    import torch

    from bioperf.learning.stages import NAMES, LearnedStages
    from bioperf.learning.weights import write_tensors

    data = _stages_bytes(str(NAMES["deblur"]))
    path = case.folder / "input.safetensors"
    if case.chance(0.5):
        arrays, _ = oracles.safetensors(data)
        arrays = {name: array.copy() for name, array in arrays.items()}
        name = case.pick(sorted(arrays))
        what = case.rng.random()
        if what < 0.5:
            arrays[name].flat[0] = case.pick((np.nan, np.inf, -1, 0, 2, 1e38, 1.99))
        elif what < 0.7:
            arrays[name] = arrays[name].reshape(-1)[:-1]
        elif what < 0.8:
            arrays[name] = np.zeros(case.pick(((0,), (0, 2), (2, 2), (1,), (300, 2))), np.float32)
        elif what < 0.9:
            del arrays[name]
        else:
            arrays["other"] = arrays[name].copy()
        write_tensors(
            path, {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}, "stages", {}
        )
    else:
        path.write_bytes(
            mutations.safetensors_header(case.rng, data) if case.chance(0.5) else damaged(data, case.rng, head=700)
        )
    try:
        found = LearnedStages.read(path)
    except InputError as error:
        return refusal(error, path)
    check(found.stages >= 1 and all(np.isfinite(value).all() for value in found.parameters.values()), "not finite")
    return True


@functools.cache
def _stages_bytes(path):
    return Path(path).read_bytes()


@target("training-images", 2)
def training_images(case):
    from bioperf.learning.patches import read_training_images

    kind = case.pick(("npz", "npy", "png", "tif"))
    if kind == "npz":
        rng = np.random.default_rng(0)
        arrays = {
            "a": rng.random((2, 9, 9)),
            "b": (rng.random((9, 9)) * 255).astype(np.uint8),
            "peak": np.array([0.5, 1.0]),
        }
        data = mutations.npz(case.rng, {f"{name}.npy": mutations.npy_bytes(array) for name, array in arrays.items()})
    else:
        data = damaged(case.pick({"npy": npy_seeds, "png": png_seeds, "tif": tiff_seeds}[kind]()), case.rng, head=200)
    path = case.write(f"input.{kind}", data)
    try:
        images = read_training_images([case.folder if kind != "npz" and case.chance(0.2) else path], 4)
    except InputError as error:
        return refusal(error, None)
    for image in images:
        check(image.ndim == 2 and (image.dtype == np.uint8 or np.isfinite(image).all()), "not training images")
    return True


@target("xml", 2)
def headers(case):
    """ISMRMRD headers: damage, entities, depth."""
    from bioperf.io.ismrmrd import parse_header

    text = damaged(_XML.encode(), case.rng, times=3).decode("utf8", "replace")
    if case.chance(0.1):
        text = case.pick(
            (
                "<a>" * 100000,
                "<a " + "b='1' " * 20000 + "/>",
                "<!DOCTYPE a><a/>",
                "",
                "\0",
                _XML.replace("x>", "x>" + "<y/>" * 99),
                "<a>" * 3000 + "</a>" * 3000,
            )
        )
    case.note(text[:300])
    try:
        encoding = parse_header(text)
    except ValueError as error:
        return refusal(error)
    numbers = list(itertools.chain(encoding.matrix, encoding.field_of_view, encoding.shown_field_of_view))
    check(all(np.isfinite(number) and number > 0 for number in numbers), "sizes")
    return True
