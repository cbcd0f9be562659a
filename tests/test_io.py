"""Files in and out: depth and colour kept, hostile files refused with one line, outputs whole or absent."""

import base64
import io
import os
import struct
import zlib
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from bioperf.io import (
    ImageInfo,
    InputError,
    OutputError,
    check_writable,
    png,
    read_image,
    read_psf,
    write_image,
    write_whole,
)


def pixels(dtype, *shape, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def save(path, array):
    if path.suffix == ".png":
        path.write_bytes(png.encode(array))
    elif path.suffix == ".npy":
        np.save(path, array)
    else:
        tifffile.imwrite(path, array, photometric="rgb" if array.shape[-1] == 3 else "minisblack")


def raw(path):
    return np.load(path) if path.suffix == ".npy" else tifffile.imread(path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(13, 17), (13, 17, 3)], ids=["grey", "colour"])
def test_integer_images_survive_a_round_trip(tmp_path, suffix, dtype, shape):
    array = pixels(dtype, *shape)
    save(tmp_path / f"in{suffix}", array)
    image, info = read_image(tmp_path / f"in{suffix}")
    assert image.dtype == np.float32 and image.shape == shape and image.min() >= 0 and image.max() <= 1
    assert info.dtype == dtype and info.channel_axis == (-1 if len(shape) == 3 else None)
    write_image(tmp_path / f"out{suffix}", image, like=info)
    again, info_again = read_image(tmp_path / f"out{suffix}")
    np.testing.assert_array_equal(again, image)
    assert info_again == info


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
@pytest.mark.parametrize("shape", [(9, 8), (4, 9, 8)], ids=["image", "stack"])
def test_floats_are_kept_as_they_are(tmp_path, suffix, dtype, shape):
    array = 3 * pixels(dtype, *shape) - 1
    save(tmp_path / f"in{suffix}", array)
    image, info = read_image(tmp_path / f"in{suffix}")
    assert image.dtype == dtype and info.channel_axis is None
    np.testing.assert_array_equal(image, array)
    write_image(tmp_path / f"out{suffix}", image, like=info)
    out = raw(tmp_path / f"out{suffix}")
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, array)


def test_tiff_pages_and_planar_colour(tmp_path):
    stack = pixels(np.uint16, 3, 9, 8)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    image, info = read_image(tmp_path / "stack.tif")
    assert image.shape == (3, 9, 8) and info.channel_axis is None
    write_image(tmp_path / "out.tif", image, like=info)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), stack)
    tifffile.imwrite(tmp_path / "planar.tif", stack, photometric="rgb", planarconfig="separate")
    image, info = read_image(tmp_path / "planar.tif")
    assert image.shape == (9, 8, 3) and info.channel_axis == -1


def test_integer_npy_is_scaled_like_an_image(tmp_path):
    array = pixels(np.uint8, 6, 7)
    np.save(tmp_path / "a.npy", array)
    image, info = read_image(tmp_path / "a.npy")
    np.testing.assert_array_equal(image, array.astype(np.float32) / np.float32(255))
    write_image(tmp_path / "a.png", image, like=info)
    np.testing.assert_array_equal(iio.imread(tmp_path / "a.png"), array)


def test_npy_byte_order_fortran_order_and_channels(tmp_path):
    array = pixels(np.float64, 3, 6, 7)
    np.save(tmp_path / "a.npy", np.asfortranarray(array).astype(">f8"))
    image, info = read_image(tmp_path / "a.npy", channel_axis=0)
    assert image.dtype == np.float64 and image.flags.c_contiguous and info.channel_axis == -3
    np.testing.assert_array_equal(image, array)
    write_image(tmp_path / "a.tif", image.astype(np.float32), like=info)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), np.moveaxis(array, 0, -1).astype(np.float32))


def filtered_png(array, filters):
    """A 16-bit colour PNG whose rows use the given filters, encoded by the definition."""
    height, width, _ = array.shape
    rows = np.ascontiguousarray(array, ">u2").view(np.uint8).reshape(height, -1).astype(int)
    padded = np.zeros((height + 1, 6 * width + 6), int)
    padded[1:, 6:] = rows
    coded = bytearray()
    for r, kind in zip(range(height), filters, strict=True):
        coded.append(kind)
        for k in range(6 * width):
            left, up, corner = padded[r + 1, k], padded[r, k + 6], padded[r, k]
            p = left + up - corner
            paeth = min((left, up, corner), key=lambda value, p=p: abs(p - value))
            coded.append(int(rows[r, k] - (0, left, up, (left + up) // 2, paeth)[kind]) % 256)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(bytes(coded))), chunk(b"IEND", b""))
    )


def test_every_png_filter_in_16_bit_colour(tmp_path):
    array = pixels(np.uint16, 11, 7, 3)
    data = filtered_png(array, [k % 5 for k in range(11)])
    (tmp_path / "a.png").write_bytes(data)
    image, info = read_image(tmp_path / "a.png")
    assert info.dtype == np.uint16
    np.testing.assert_array_equal(np.rint(image * 65535).astype(np.uint16), array)
    # Pillow keeps the upper bytes only, which checks the encoder of this test and that of the package.
    np.testing.assert_array_equal(iio.imread(data, extension=".png"), array >> 8)
    np.testing.assert_array_equal(iio.imread(png.encode(array), extension=".png"), array >> 8)


@pytest.mark.parametrize("name", ["A.NPY", "A.TIFF", "A.PNG", "ä" * 100 + ".npy"])
def test_names_are_kept_to_the_letter(tmp_path, name):
    image = np.rint(pixels(np.float32, 5, 6) * 255) / np.float32(255)
    write_image(tmp_path / name, image)
    assert os.listdir(tmp_path) == [name]
    np.testing.assert_array_equal(read_image(tmp_path / name)[0], image)


def test_clipping_and_default_depths(tmp_path):
    image = np.array([[-0.5, 0.0, 0.25], [0.5, 1.0, 7.0]], np.float32)
    write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(iio.imread(tmp_path / "a.png"), [[0, 0, 64], [128, 255, 255]])
    write_image(tmp_path / "b.png", image, like=ImageInfo("npy", np.dtype(np.float32)))
    assert iio.imread(tmp_path / "b.png").dtype == np.uint16
    with pytest.raises(InputError, match="PNG holds one image"):
        write_image(tmp_path / "c.png", np.stack([image, image]))
    with pytest.raises(TypeError, match="expected floats"):
        write_image(tmp_path / "c.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(OutputError, match="unknown format"):
        write_image(tmp_path / "c.jpg", image)
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]


def png_bytes(dtype=np.uint8, *shape):
    return png.encode(pixels(dtype, *(shape or (48, 48))))


def tiff_bytes(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def npy_bytes(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npy_header(text):
    content = text.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content)) + content


def huge_png():
    head = b"IHDR" + struct.pack(">IIBBBBB", 2**30, 2**30, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + head
        + struct.pack(">I", zlib.crc32(head))
        + (b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND")))
    )


def rewritten_png(interlace=0, rows=48, flaw=0):
    """A grey image of 48 x 48 with that method of interlacing, pixels for some rows only, or a wrong last byte."""
    head = struct.pack(">IIBBBBB", 48, 48, 8, 0, 0, 0, interlace)
    pixels = zlib.compress(bytes(49 * rows))
    pixels = pixels[:-1] + bytes([pixels[-1] ^ flaw])
    blocks = ((b"IHDR", head), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in blocks
    )


# A damaged file of 339 bytes: its directory names a place inside itself as the next, and that names it.
LOOP = (
    "eNrz9NRi4GBgYOBjYGBkYWAEstiBmBHMXiG43OD6tEnPGBg4gWJMjMxgeZBqZiQ2G5QNwnyMTAxCQHobEAtCzQMRokhqxKDiIDPF"
    "oWwvIJZiZAWzbwDxbCj7ARBrQPWCCEOg+TxA5gsGCKhWKs5ILEhVslKI1jXUUTCPrWVAB4xouCQzLS0tMydVr6ASRV3FHEZ7hgP/"
    "by5ucvXjEmbRubDsZcPsH7sWdve/d7+wmiHldi/H4V03dMTusHaJ+FTnpLMzyjOtblvqOPdwUun/c78T139edn3Dlms9CnIAmYI5"
    "bQ=="
)


def looping_tiff():
    """A list of pages on which tifffile goes round for ever."""
    return zlib.decompress(base64.b64decode(LOOP))


def tiff_field(data, tag, kind=None, count=None, value=None, new=None):
    """The file with the type, the count or the value of a field of its first directory changed."""
    (start,) = struct.unpack("<I", data[4:8])
    (fields,) = struct.unpack("<H", data[start : start + 2])
    for place in range(start + 2, start + 2 + 12 * fields, 12):
        found = struct.unpack("<HHII", data[place : place + 12])
        if found[0] == tag:
            pairs = zip(found[1:], (kind, count, value), strict=True)
            fields = [old if wanted is None else wanted for old, wanted in pairs]
            return data[:place] + struct.pack("<HHII", new or tag, *fields) + data[place + 12 :]
    raise LookupError(tag)


def inflating_tiff():
    """A compressed strip of 64 MiB of zeros in place of 2304 pixels."""
    data, bomb = tiff_bytes(GREY, compression="zlib"), zlib.compress(bytes(2**26), 9)
    place = len(data) + len(data) % 2
    data = tiff_field(tiff_field(data, 273, value=place), 279, kind=4, count=1, value=len(bomb))
    return data.ljust(place, b"\0") + bomb


def flipped(data, position):
    return data[:position] + bytes([data[position] ^ 255]) + data[position + 1 :]


GREY = pixels(np.uint8, 48, 48)
BAD = {
    "truncated.png": (lambda: png_bytes()[:-900], "truncated"),
    "truncated16.png": (lambda: png_bytes(np.uint16, 48, 48, 3)[:200], "truncated"),
    "signature-only.png": (lambda: png_bytes()[:8], "truncated"),
    "damaged.png": (lambda: flipped(png_bytes(), 300), "damaged"),
    "text.png": (lambda: b"not an image at all", "not a PNG"),
    "empty.png": (lambda: b"", "empty"),
    "alpha.png": (lambda: iio.imwrite("<bytes>", pixels(np.uint8, 8, 8, 4), extension=".png"), "alpha channel"),
    "huge.png": (huge_png, "exceed the limit"),
    "interlace.png": (lambda: rewritten_png(interlace=4), "header of no known kind"),
    "checksum.png": (lambda: rewritten_png(flaw=1), "incorrect data check"),
    "few-pixels.png": (lambda: rewritten_png(rows=40), "too few pixels"),
    "no-place.tif": (lambda: tiff_field(tiff_bytes(GREY), 273, value=0), "lacks a part of its pixels"),
    "one-strip.tif": (lambda: tiff_field(tiff_bytes(GREY, rowsperstrip=9), 273, count=1), "lacks a part of its pixel"),
    "short-strip.tif": (lambda: tiff_field(tiff_bytes(GREY), 279, value=48), "too few pixels"),
    "loop.tif": (looping_tiff, "save the image as greyscale or RGB"),
    "order.tif": (
        lambda: tiff_field(tiff_bytes(pixels(np.uint8, 8, 8, 3), photometric="rgb"), 284, value=9),
        "in no known way",
    ),
    "both.tif": (lambda: tiff_field(tiff_bytes(GREY), 296, new=324), "in strips and in tiles"),
    "word.tif": (lambda: tiff_field(tiff_bytes(GREY), 278, kind=12, count=1), "no numbers|cannot be decoded"),
    "inflating.tif": (inflating_tiff, "inflates to more than its pixels"),
    "truncated.tif": (lambda: tiff_bytes(GREY)[:-900], "truncated|cannot be decoded|not a usable"),
    "cut-header.tif": (lambda: tiff_bytes(GREY)[:20], "not a usable|cannot be decoded|holds 0 images"),
    "text.tif": (lambda: b"not an image at all", "not a usable TIFF"),
    "alpha.tif": (
        lambda: tiff_bytes(pixels(np.uint8, 8, 8, 4), photometric="rgb", extrasamples=["unassalpha"]),
        "alpha channel",
    ),
    "white-is-zero.tif": (lambda: tiff_bytes(GREY, photometric="miniswhite"), "greyscale or RGB"),
    "int32.tif": (lambda: tiff_bytes(GREY.astype(np.int32)), "int32"),
    "nan.tif": (lambda: tiff_bytes(np.full((8, 8), np.nan, np.float32)), "64 values are NaN"),
    "pickled.npy": (lambda: npy_bytes(np.array([{}, []], object), allow_pickle=True), "pickled"),
    "pickle.npy": (lambda: b"\x80\x04\x95\x00", "not an NPY file"),
    "archive.npy": (lambda: b"PK\x03\x04" + bytes(60), "not an NPY file"),
    "truncated.npy": (lambda: npy_bytes(GREY)[:-1], "truncated"),
    "lying.npy": (lambda: npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (999999, 99), }"), "truncated"),
    "huge.npy": (lambda: npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 99999)}"), "limit"),
    "negative.npy": (lambda: npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -4)}"), "impossible"),
    "digits.npy": (
        lambda: npy_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**3000}, {10**3000})}}"),
        "impossible sizes",
    ),
    "truth.npy": (lambda: npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4)}"), "impossible"),
    "code.npy": (lambda: npy_header("__import__('os').system('true')"), "not an NPY file"),
    "no-values.npy": (lambda: npy_bytes(np.zeros((0, 4), np.float32)), "holds no values"),
    "one-axis.npy": (lambda: npy_bytes(np.zeros(4, np.float32)), "at least 2 axes"),
    "complex.npy": (lambda: npy_bytes(np.zeros((4, 4), complex)), "complex128"),
    "boolean.npy": (lambda: npy_bytes(np.zeros((4, 4), bool)), "bool"),
    "int64.npy": (lambda: npy_bytes(np.zeros((4, 4), np.int64)), "int64"),
    "infinite.npy": (lambda: npy_bytes(np.array([[0, np.inf], [0, 0]])), r"1 values are NaN or infinite.*\(0, 1\)"),
    "photo.jpg": (lambda: b"\xff\xd8\xff", "unknown format"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_bad_file_has_its_one_error(tmp_path, name):
    make, expected = BAD[name]
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(InputError, match=expected) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < len(str(path)) + 160


def test_missing_files_folders_and_limits(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path / "folder.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(InputError, match="not a regular file"):
            read_image(tmp_path / "pipe.png")
    for name in ("a.png", "a.tif", "a.npy"):
        save(tmp_path / name, GREY)
        with pytest.raises(InputError, match="2304 values exceed the limit of 100"):
            read_image(tmp_path / name, max_pixels=100)
        assert read_image(tmp_path / name, max_pixels=2304)[0].shape == (48, 48)
    with pytest.raises(InputError, match="leave the channel axis out"):
        read_image(tmp_path / "a.png", channel_axis=0)
    with pytest.raises(InputError, match="has no axis 5"):
        read_image(tmp_path / "a.npy", channel_axis=5)


def test_random_damage_is_read_or_refused(tmp_path):
    rng = np.random.default_rng(5)
    sources = {
        "a.png": png_bytes(np.uint8, 9, 9),
        "b.png": png_bytes(np.uint16, 9, 9, 3),
        "c.tif": tiff_bytes(pixels(np.uint16, 9, 9)),
        "d.npy": npy_bytes(pixels(np.float32, 9, 9)),
    }
    for name, data in sources.items():
        for _ in range(60):
            (tmp_path / name).write_bytes(flipped(data, int(rng.integers(len(data)))))
            try:
                read_image(tmp_path / name)
            except InputError as error:
                assert "\n" not in str(error)


def test_psf_files(tmp_path):
    for name, array in {"a.npy": np.ones((5, 3), int), "b.png": np.full((5, 3), 200, np.uint8)}.items():
        save(tmp_path / name, array)
        psf = read_psf(tmp_path / name)
        assert psf.dtype == np.float64 and psf.shape == (5, 3)
        np.testing.assert_allclose(psf, 1 / 15, rtol=1e-12)
    bad = {
        "colour.png": (pixels(np.uint8, 5, 5, 3), "in colour"),
        "stack.npy": (np.ones((2, 5, 5)), "2 axes"),
        "negative.npy": (np.array([[1.0, -1.0], [1.0, 1.0]]), "1 entries are negative"),
        "zero.npy": (np.zeros((3, 3)), "sums to 0"),
        "nan.npy": (np.full((3, 3), np.nan), "NaN"),
        "overflow.npy": (np.full((3, 3), 1e308), "sums to inf"),
        "complex.npy": (np.ones((3, 3), complex), "real numbers"),
    }
    for name, (array, expected) in bad.items():
        save(tmp_path / name, array)
        with pytest.raises(InputError, match=expected):
            read_psf(tmp_path / name)


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    target.chmod(0o640)

    def half(path):
        path.write_text("ne")
        raise KeyboardInterrupt

    def full(path):
        path.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(KeyboardInterrupt):
        write_whole(target, half)
    with pytest.raises(OutputError, match="No space left"):
        write_whole(target, full)
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    write_whole(target, lambda path: path.write_text("new"))
    assert target.read_text() == "new" and target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_whole(tmp_path / "link.txt", lambda path: path.write_text("new"))
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"


def test_unwritable_places(tmp_path):
    (tmp_path / "file").write_text("")
    cases = {
        tmp_path / "none" / "a.png": "does not exist",
        tmp_path / "file" / "a.png": "not a folder",
        tmp_path: "is a folder",
        Path("/dev/null"): "not a regular file",
    }
    for path, expected in cases.items():
        with pytest.raises(OutputError, match=expected):
            check_writable(path)
    check_writable(tmp_path / "a.png")
    check_writable(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]
