"""What is learned from images: the denoiser's network, its training images, its weight files and its training."""

import csv
import hashlib
import io
import json
import math
import os
import pickle
import re
import subprocess
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file, save

import bioperf
from bioperf.io import InputError, OutputError
from bioperf.io import png as png_format
from bioperf.learning import require_torch, training, weights
from bioperf.learning.network import CHANNELS, DILATIONS, DilatedDenoiser, fold
from bioperf.learning.patches import Patches, as_training_image, digest_of, read_training_images
from bioperf.learning.training import Settings, train_denoiser
from bioperf.learning.weights import digest, read_tensors, write_tensors

ROOT = Path(bioperf.__file__).parents[1]
SMALL = {"batch": 2, "patch": 16}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shapes(number, side=80, seed=0):
    """Smooth random shapes, uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    images = []
    for _ in range(number):
        image = np.full((side, side), rng.random())
        for _ in range(6):
            centre, radius = rng.random(2), rng.uniform(0.1, 0.4)
            distance = np.hypot(rows - centre[0], columns - centre[1])
            image += rng.uniform(-0.5, 0.5) / (1 + np.exp((distance - radius) * 2 * side))
        images.append(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
    return images


def listing(folder):
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*.*")}


# Network


def shaken_network(seed=0):
    """In eval mode, with statistics and scales as after a training."""
    torch.manual_seed(seed)
    network = DilatedDenoiser().eval()
    for norm in network.norms:
        for tensor, low, high in (
            (norm.weight.data, 0.5, 1.5), (norm.bias.data, -0.3, 0.3),
            (norm.running_mean, -0.3, 0.3), (norm.running_var, 0.3, 3.0),
        ):  # fmt: skip
            tensor.uniform_(low, high)
    return network


def test_network_is_that_of_the_paper():
    network = DilatedDenoiser()
    assert DILATIONS == (1, 2, 3, 4, 3, 2, 1) and CHANNELS == 64
    assert [layer.dilation for layer in network.convolutions] == [(d, d) for d in DILATIONS]
    assert [layer.in_channels for layer in network.convolutions] == [2] + 6 * [64]
    assert [layer.out_channels for layer in network.convolutions] == 6 * [64] + [1]
    assert all(layer.kernel_size == (3, 3) for layer in network.convolutions) and len(network.norms) == 5
    for one in (network, fold(network)):
        assert sum(4 * t.numel() for t in one.state_dict().values() if t.is_floating_point()) < 1_000_000


def test_receptive_field_is_33_pixels():
    network = shaken_network()
    # so that no ReLU and no cancellation hides a path
    for layer in network.convolutions:
        layer.weight.data.abs_()
        if layer.bias is not None:
            layer.bias.data.abs_()
    for norm in network.norms:
        norm.bias.data.abs_()
        norm.running_mean.abs_().neg_()
    image = torch.rand(1, 1, 49, 45)
    level = torch.tensor([0.1])
    with torch.inference_mode():
        before = network(image, level)
        image[0, 0, 25, 21] += 1
        changed = (network(image, level) != before)[0, 0].numpy()
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (25 - 16, 25 + 16, 21 - 16, 21 + 16)


@pytest.mark.parametrize("shape", [(2, 1, 24, 31), (1, 1, 5, 1)])
def test_folded_network_is_the_same_function(shape):
    network = shaken_network()
    folded = fold(network)
    assert not folded.training and not folded.norms
    image, level = torch.rand(shape), torch.linspace(0.03, 0.1, shape[0])
    with torch.inference_mode():
        expected, found = network(image, level), folded(image, level)
    assert (expected - image).abs().max() > 1e-3
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


def test_without_noise_nothing_changes():
    network = shaken_network()
    image = torch.rand(2, 1, 20, 20)
    with torch.inference_mode():
        denoised = network(image, torch.tensor([0.0, 0.1]))
    assert torch.equal(denoised[0], image[0]) and not torch.equal(denoised[1], image[1])


# Weight files


def small_tensors():
    rng = np.random.default_rng(3)
    return {
        "a.weight": torch.from_numpy(rng.standard_normal((3, 2), np.float32)),
        "a.bias": torch.from_numpy(rng.standard_normal(3, np.float32)),
        "scale": torch.tensor(0.5),
    }


RECORD = {"steps": 40, "psnr": 31.25, "note": "café ☃ \udcff"}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.safetensors"
    write_tensors(path, small_tensors(), "denoiser", RECORD)
    return path


def metadata_of(path):
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]


def refusal(path, *arguments):
    """The one line that says why the file cannot be read: it names the file and what to do."""
    with pytest.raises(InputError) as caught:
        read_tensors(path, *(arguments or ("denoiser",)))
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < len(str(path)) + 250
    return text.removeprefix(f"{path}: ")


def test_weights_survive_a_round_trip(file):
    expected = {name: tuple(tensor.shape) for name, tensor in small_tensors().items()}
    tensors, record = read_tensors(str(file), "denoiser", expected)
    assert set(tensors) == set(expected) and record == RECORD
    for name, tensor in small_tensors().items():
        assert tensors[name].dtype == torch.float32 and torch.equal(tensors[name], tensor)
    # other programs read them too
    assert torch.equal(load_file(file)["scale"], torch.tensor(0.5))


def test_layouts_do_not_matter(tmp_path):
    weight = torch.rand(4, 3, 3, 3)
    for name, tensor in (("a", weight), ("b", weight.contiguous(memory_format=torch.channels_last))):
        write_tensors(tmp_path / name, {"w": tensor}, "denoiser", {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert digest({"w": weight}) == digest(read_tensors(tmp_path / "b", "denoiser")[0])
    assert digest({"w": weight}) != digest({"v": weight}) != digest({"v": weight.reshape(3, 4, 3, 3)})


def test_files_without_the_hash_of_the_record_are_read(file):
    metadata = {name: text for name, text in metadata_of(file).items() if name != "record_sha256"}
    file.write_bytes(save(small_tensors(), metadata))
    assert read_tensors(file, "denoiser")[1] == RECORD


def test_only_float32_and_json_are_written(tmp_path):
    path = tmp_path / "w"
    with pytest.raises(TypeError, match=r"'a' is torch\.float64, expected torch\.float32"):
        write_tensors(path, {"a": torch.zeros(2, dtype=torch.float64)}, "denoiser", {})
    with pytest.raises(TypeError):
        write_tensors(path, {"a": torch.zeros(2)}, "denoiser", {"path": tmp_path})
    with pytest.raises(OutputError, match="does not exist"):
        write_tensors(tmp_path / "none" / "w", {"a": torch.zeros(2)}, "denoiser", {})
    assert not list(tmp_path.iterdir())


def remade(**changes):
    """A file whose tensors and hash agree, with other metadata."""

    def make(path):
        metadata = {name: text for name, text in (metadata_of(path) | changes).items() if text is not None}
        return save(small_tensors(), metadata)

    return make


def retyped(dtype):
    def make(path):
        tensors = small_tensors() | {"scale": torch.ones(2).to(dtype)}
        return save(tensors, metadata_of(path))

    return make


def reheaded(change):
    """A file whose header was changed as text."""

    def make(path):
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = change(content[8:end].decode().rstrip()).encode()
        return len(header).to_bytes(8, "little") + header + content[end:]

    return make


def flipped(place):
    def make(path):
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        return bytes(content)

    return make


def renamed(header):
    return header.replace('"a.bias"', '"b.bias"')


def saved_by_torch(path):
    content = io.BytesIO()
    torch.save(small_tensors(), content)
    return content.getvalue()


HOSTILE = {
    "empty": (lambda path: b"", "the file is empty"),
    "7 bytes": (lambda path: path.read_bytes()[:7], "not a safetensors file, or a truncated one"),
    "8 bytes": (lambda path: path.read_bytes()[:8], "not a safetensors file, or a truncated one"),
    "half the header": (lambda path: path.read_bytes()[:100], "not a safetensors file, or a truncated one"),
    "one byte short": (lambda path: path.read_bytes()[:-1], "truncated one"),
    "one byte more": (lambda path: path.read_bytes() + b"\0", "not a safetensors file"),
    "header of 2^63 bytes": (lambda path: (2**63).to_bytes(8, "little") + path.read_bytes()[8:], "header ends behind"),
    "header of 2^64 - 1 bytes": (lambda path: b"\xff" * 8 + path.read_bytes()[8:], "header ends behind"),
    "no header": (lambda path: bytes(8) + path.read_bytes()[8:], "not a safetensors file"),
    "bit in the data": (flipped(-3), "SHA-256 differs"),
    "renamed tensor": (reheaded(renamed), "SHA-256 differs"),
    "tensor of doubles": (retyped(torch.float64), "'scale' is \\(2,\\) float64, not \\(2,\\) float32"),
    "tensor of bfloat16": (retyped(torch.bfloat16), "'scale' is \\(2,\\) bfloat16"),
    "tensor of integers": (retyped(torch.int64), "'scale' is \\(2,\\) int64"),
    "pickle": (lambda path: pickle.dumps({"a": 1}), "not a safetensors file"),
    "torch.save": (saved_by_torch, "not a safetensors file"),
    "NPY": (lambda path: b"\x93NUMPY" + bytes(200), "not a safetensors file"),
    "no metadata": (lambda path: save(small_tensors()), "holds something else, not a denoiser"),
    "other format": (remade(format="pt"), "holds something else, not a denoiser"),
    "no kind": (remade(kind=None), "holds None, not a denoiser"),
    "other kind": (remade(kind="checkpoint"), "holds 'checkpoint', not a denoiser"),
    "long kind": (remade(kind="x\n" * 1000), "not a denoiser"),
    "no hash": (remade(sha256=None), "SHA-256 differs"),
    "record is no JSON": (remade(record="{", record_sha256=None), "the record of how it was made is damaged"),
    "record is a list": (remade(record="[]", record_sha256=None), "the record of how it was made is damaged"),
    "deep record": (remade(record="[" * 10**5, record_sha256=None), "the record of how it was made is damaged"),
    "long number": (remade(record="9" * 10**4, record_sha256=None), "the record of how it was made is damaged"),
    "other record": (remade(record="{}"), "the record of how it was made is damaged"),
    "unknown metadata": (remade(more="x"), "the record of how it was made is damaged"),
    "null metadata": (reheaded(lambda h: '{"__metadata__":null}'), "the metadata are not text"),
    "metadata of numbers": (reheaded(lambda h: '{"__metadata__":{"format":3}}'), "the metadata are not text"),
    "metadata of lists": (reheaded(lambda h: '{"__metadata__":[["format","bioperf"]]}'), "the metadata are not text"),
    "header is a list": (reheaded(lambda h: f"[{h}]"), "the metadata are not text"),
    "header is a number": (reheaded(lambda h: "7"), "the metadata are not text"),
    "deep header": (reheaded(lambda h: "[" * 10**5), "not a safetensors file"),
    "header in UTF-16": (lambda path: b"\4" + bytes(7) + "{}".encode("utf-16-le"), "not a safetensors file"),
    "name twice": (reheaded(lambda h: h[:-1] + ',"scale"' + h.partition('"scale"')[2].split("}")[0] + "}}"), "twice"),
    "metadata twice": (reheaded(lambda h: '{"__metadata__":{},' + h[1:]), "a name occurs twice"),
    "offsets beyond the end": (reheaded(lambda h: h.replace("[36,40]", "[36,99]")), "not a safetensors file"),
    "unknown type": (reheaded(lambda h: h.replace("F32", "F99", 1)), "not a safetensors file"),
    "no offsets": (reheaded(lambda h: h.replace("data_offsets", "offsets")), "not a safetensors file"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(file, name):
    make, expected = HOSTILE[name]
    content = make(file)
    assert content != file.read_bytes()
    file.write_bytes(content)
    found = refusal(file)
    assert re.search(expected, found), found


def test_what_is_no_file_is_refused(file, tmp_path, monkeypatch):
    assert "no such file" in refusal(tmp_path / "none")
    assert "is a folder" in refusal(tmp_path)
    monkeypatch.setattr(weights, "MAX_BYTES", 100)
    assert "larger than" in refusal(file)


def test_other_networks_are_refused(file):
    right = {name: tuple(tensor.shape) for name, tensor in small_tensors().items()}
    assert "'a.bias' is (3,) float32, not (4,) float32" in refusal(file, "denoiser", right | {"a.bias": (4,)})
    assert "first that differs: 'b'" in refusal(file, "denoiser", right | {"b": (4,)})
    assert "first that differs: 'scale'" in refusal(file, "denoiser", {"a.weight": (3, 2), "a.bias": (3,)})
    file.write_bytes(reheaded(renamed)(file))
    assert "first that differs: 'a.bias'" in refusal(file, "denoiser", right)


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_is_unpickled(tmp_path):
    trap, path = tmp_path / "trap", tmp_path / "weights.safetensors"
    content = pickle.dumps(_Touch(trap))
    pickle.loads(content).close()
    assert trap.exists()
    trap.unlink()
    for hostile in (
        pickle.dumps(_Touch(trap)),
        pickle.dumps(_Touch(trap), protocol=0),
        len(content).to_bytes(8, "little") + content,  # in the header's place
    ):
        path.write_bytes(hostile)
        refusal(path)
    torch.save({"a": _Touch(trap)}, path)
    refusal(path)
    assert not trap.exists()


def test_damaged_files_are_read_right_or_refused(file, monkeypatch):
    good = file.read_bytes()
    rng = np.random.default_rng(5)
    first = [good[:i] + bytes([good[i] ^ 1 << bit]) + good[i + 1 :] for i in range(16) for bit in range(8)]
    damaged = first + [good[:i] for i in range(len(good))]
    for _ in range(2000):
        content = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            content[rng.integers(len(good))] ^= 1 << rng.integers(8)
        if rng.integers(4) == 0:
            i, j = np.sort(rng.integers(len(good), size=2))
            content[i:j] = rng.bytes(int(rng.integers(0, 9)))
        damaged.append(bytes(content))
    expected, read = small_tensors(), 0
    for content in damaged:
        # thousands of files would take long to write
        monkeypatch.setattr(weights, "_content", lambda path, content=content: content)
        try:
            tensors, record = read_tensors(file, "denoiser")
        except InputError as error:
            assert str(error).startswith(f"{file}: ")
            continue
        read += 1
        assert record == RECORD and set(tensors) == set(expected)
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert read < len(damaged) / 20


# Training images


def test_images_of_every_kind_become_grey(tmp_path):
    rng = np.random.default_rng(0)
    eight = rng.integers(0, 256, (20, 24), np.uint8)
    sixteen = rng.integers(0, 65536, (20, 24), np.uint16)
    colour = rng.integers(0, 256, (20, 24, 3), np.uint8)
    iio.imwrite(tmp_path / "a.png", eight)
    (tmp_path / "b.PNG").write_bytes(png_format.encode(sixteen))
    tifffile.imwrite(tmp_path / "c.tif", colour, photometric="rgb")
    tifffile.imwrite(
        tmp_path / "d.tiff", np.stack([eight, eight.T[:20, :].repeat(2, 1)[:, :24]]), photometric="minisblack"
    )
    np.save(tmp_path / "e.npy", sixteen / 65535)
    np.save(tmp_path / "f.npy", (eight / 255).astype(np.float16))
    np.save(tmp_path / "small.npy", eight[:9])
    (tmp_path / "notes.txt").write_text("not an image")
    images = read_training_images([tmp_path], 16)
    assert [image.dtype.str for image in images] == ["|u1", "<f4", "|u1", "|u1", "|u1", "<f4", "<f4"]
    np.testing.assert_array_equal(images[0], eight)
    np.testing.assert_allclose(images[1], sixteen / 65535, atol=1e-7)
    grey = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(images[2] - grey).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(images[3], eight)
    np.testing.assert_array_equal(images[5], (sixteen / 65535).astype(np.float32))
    np.testing.assert_allclose(images[6], eight / 255, atol=1e-3)
    # files and one path alone, in the order given
    again = read_training_images([tmp_path / "c.tif", str(tmp_path / "a.png")], 16)
    np.testing.assert_array_equal(again[1], eight)
    np.testing.assert_array_equal(read_training_images(str(tmp_path / "a.png"), 16)[0], eight)


def test_images_of_archives(tmp_path):
    rng = np.random.default_rng(0)
    stack, one = rng.integers(0, 256, (2, 3, 20, 24), np.uint8), rng.integers(0, 256, (30, 20), np.uint8)
    np.savez(tmp_path / "a.npz", stack=stack, labels=np.array(["x", "y"]), one=one, number=3.0)
    images = read_training_images([tmp_path / "a.npz"], 16)
    assert len(images) == 7 and all(image.dtype == np.uint8 for image in images)
    np.testing.assert_array_equal(np.stack(images[:6]), stack.reshape(6, 20, 24))
    np.testing.assert_array_equal(images[6], one)
    counts = rng.integers(0, 500, (3, 20, 24), np.uint16)
    peak = counts.max((1, 2))
    for shape in (3, (3, 1, 1)):
        np.savez_compressed(tmp_path / "b.npz", counts=counts, peak=peak.reshape(shape))
        for image, raw, top in zip(read_training_images([tmp_path / "b.npz"], 16), counts, peak, strict=True):
            assert image.dtype == np.float32
            np.testing.assert_allclose(image, raw / top, rtol=1e-6)
    np.savez(tmp_path / "c.npz", big=counts.astype(">u2"), signed=counts.astype(np.int16), real=counts / 500)
    big, signed, real = read_training_images([tmp_path / "c.npz"], 16)[::3]
    np.testing.assert_allclose(big, counts[0] / 65535, rtol=1e-6)
    np.testing.assert_allclose(signed, counts[0] / 32767, rtol=1e-6)
    np.testing.assert_allclose(real, counts[0] / 500, rtol=1e-6)


def unusable(folder):
    """By name: what makes a path under the folder unusable, and the words of the refusal."""
    good = np.zeros((20, 20), np.float32)
    nan = good.copy()
    nan[3, 4] = np.nan

    def npy(array):
        return lambda path: np.save(path.with_suffix(".npy"), array, allow_pickle=True)

    def npz(**arrays):
        return lambda path: np.savez(path.with_suffix(".npz"), **arrays)

    def text(suffix):
        return lambda path: path.with_suffix(suffix).write_text("text")

    return {
        "NaN": (npy(nan), "1 entries|1 values are NaN"),
        "infinite": (npz(a=np.stack([good, nan + np.inf])), "NaN or infinite"),
        "objects": (npy(np.array([[{}]], object)), "pickled Python objects"),
        "objects in an archive": (npz(a=np.array([[{}]], object)), "pickled Python objects"),
        "integers of 32 bits": (npy(np.zeros((20, 20), np.int32)), "values of type int32"),
        "booleans": (npy(np.zeros((20, 20), bool)), "values of type bool"),
        "complex": (npz(a=np.zeros((20, 20), complex)), "values of type complex128"),
        "0 to 255 as floats": (npy(np.linspace(0, 255, 400).reshape(20, 20)), "values from 0 to 255; scale"),
        "negative integers": (npz(a=np.full((20, 20), -30000, np.int16)), "values from -0.9.* to -0.9"),
        "texts": (npz(a=np.full((20, 20), "word")), "values of type <U4"),
        "only texts": (npz(a=np.array(["word", "word"])), "holds no array of two or more axes"),
        "empty archive": (npz(), "holds no array of two or more axes|NPZ"),
        "empty array": (npz(a=np.zeros((3, 0, 0))), "'a' holds no values"),
        "peak of texts": (npz(a=good[None], peak=np.array(["x"])), "values of type <U1"),
        "peak of zero": (npz(a=good[None], peak=np.zeros(1)), "'peak' must be finite and > 0"),
        "peak of NaN": (npz(a=good[None], peak=np.full(1, np.nan)), "'peak' must be finite and > 0"),
        "tiny peak": (npz(a=good[None] + 1, peak=np.full(1, 1e-320)), "NaN or infinite"),
        "peaks missing": (npz(a=good[None].repeat(3, 0), peak=np.ones(2)), "2 numbers, 'a' 3 images"),
        "only a peak": (npz(peak=np.ones((20, 20))), "holds no array of two or more axes"),
        "small": (npy(good[:15]), "no image has 16 or more pixels along both axes"),
        "colour last": (npy(np.zeros((40, 40, 3), np.float32)), "no image has 16 or more pixels"),
        "text as PNG": (text(".png"), "PNG"),
        "text as TIFF": (text(".tif"), "TIFF"),
        "text as NPY": (text(".npy"), "NPY"),
        "text as NPZ": (text(".npz"), "cannot be read as NPZ"),
        "empty NPZ": (lambda path: path.with_suffix(".npz").touch(), "the file is empty"),
        "text": (text(".txt"), "unknown format '.txt'"),
        "empty folder": (lambda path: path.mkdir(), "holds no PNG, TIFF or NPY image"),
        "missing NPZ": (lambda path: path.with_suffix(".npz"), "no such file"),
        "missing folder": (lambda path: path, "no such file"),
    }


@pytest.mark.parametrize("name", unusable(Path()))
def test_unusable_images_are_refused(tmp_path, name):
    make, expected = unusable(tmp_path)[name]
    path = make(tmp_path / "it")
    path = next(tmp_path.iterdir(), path)
    with pytest.raises(InputError, match=expected) as caught:
        read_training_images([path], 16)
    assert str(caught.value).startswith(f"{path}: ") and ";" in str(caught.value) and "\n" not in str(caught.value)


def test_one_bad_image_among_good_ones_is_named(tmp_path):
    for i, image in enumerate(shapes(2)):
        iio.imwrite(tmp_path / f"{i}.png", image)
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"1\.png: "):
        read_training_images([tmp_path], 16)
    (tmp_path / "1.png").unlink()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: the folder holds no"):
        read_training_images([tmp_path, tmp_path / "empty"], 16)


def test_arrays_that_cannot_be_trained_on_are_named():
    good = shapes(1, 20)[0]
    assert as_training_image("x", good) is good
    assert as_training_image("x", good / 255).dtype == np.float32
    for wrong, error, words in (
        (good.astype(np.uint16), TypeError, r"images\[1\]: expected uint8, or floats"),
        (good[None], ValueError, r"images\[1\]: expected 2 axes of 16 or more pixels, got shape \(1, 20, 20\)"),
        (good[:10], ValueError, r"images\[1\]: expected 2 axes of 16 or more pixels, got shape \(10, 20\)"),
        (good / 1.0, ValueError, r"images\[1\]: values from .* scale the intensities to \[0, 1\]"),
        (np.full((20, 20), np.nan), ValueError, r"images\[1\]: 400 entries are NaN"),
    ):
        with pytest.raises(error, match=words):
            train_denoiser([good, wrong], os.devnull + "x", Settings(**SMALL))


# Patches


def drawn(images, k=7, **options):
    options = {"batch": 16, "side": 8, "levels": (0.02, 0.1), "seed": 0} | options
    return Patches(images, **options).draw(k)


def test_a_batch_depends_on_seed_and_number_alone():
    images = shapes(3, 20)
    patches = Patches(images, batch=4, side=8, levels=(0, 0.1), seed=5)
    after_others = [patches.draw(k) for k in (0, 1, 7)][-1]
    for found, expected in zip(after_others, drawn(images, 7, batch=4, levels=(0, 0.1), seed=5), strict=True):
        np.testing.assert_array_equal(found, expected)
    for other in (drawn(images, 8), drawn(images, 7, seed=1)):
        assert not any(np.array_equal(a, b) for a, b in zip(other, drawn(images, 7), strict=True))


def test_patches_are_those_of_the_images():
    """The draws of the docstring, once more by hand; this also fixes which patches a seed gives."""
    images = [*shapes(2, 20), (shapes(1, 30, 1)[0] / 255).astype(np.float32)[:, :18]]
    clean, noisy, level = drawn(images)
    assert clean.shape == noisy.shape == (16, 1, 8, 8) and level.shape == (16,)
    assert {a.dtype for a in (clean, noisy, level)} == {np.dtype(np.float32)}
    rng = np.random.default_rng([0, 7])
    for patch in clean[:, 0]:
        image = images[rng.integers(3)]
        i, j = rng.integers(image.shape[0] - 7), rng.integers(image.shape[1] - 7)
        expected = np.rot90(image[i : i + 8, j : j + 8], rng.integers(4))
        expected = expected.T if rng.integers(2) else expected
        np.testing.assert_allclose(patch, expected / (255 if image.dtype == np.uint8 else 1), atol=1e-7)
    np.testing.assert_array_equal(level, rng.uniform(0.02, 0.1, 16).astype(np.float32))
    assert clean.min() >= 0 and clean.max() <= 1


def test_all_orientations_and_noise_levels_occur():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (8, 8), np.uint8)
    clean, noisy, level = drawn([image], batch=2000)
    turned = [np.rot90(part, k) for part in (image, image.T) for k in range(4)]
    counts = [sum(np.array_equal(np.rint(patch * 255), one) for patch in clean[:, 0]) for one in turned]
    assert sum(counts) == 2000 and min(counts) > 180
    assert level.min() >= 0.02 and level.max() <= 0.1 and np.ptp(level) > 0.078 and abs(level.mean() - 0.06) < 2e-3
    unit = ((noisy - clean) / level[:, None, None, None]).ravel()
    # 128,000 values: 5 standard deviations of the mean, the spread and the fourth moment
    assert abs(unit.mean()) < 5 / 357 and abs(unit.std() - 1) < 5 / 506 and abs((unit**4).mean() - 3) < 5 * 9.8 / 357


def test_digest_tells_images_apart():
    def of(*images):
        return digest_of(list(images))

    a, b = shapes(2, 20)
    assert of(a, b) == of(a.copy(), np.asfortranarray(b))
    other = a.copy()
    other[3, 3] ^= 1
    assert len({of(a, b), of(b, a), of(a), of(other, b), of(a.reshape(10, 40), b), of(a / np.float32(255), b)}) == 6


# Training


def final(path):
    return read_tensors(path, "denoiser")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def stop_at(step):
    return lambda row: row["step"] == step


def test_ten_steps_learn_something(tmp_path):
    losses = []
    settings = Settings(steps=10, batch=4, patch=24, learning_rate=2e-3, lowest=0.09, precision="float32")
    images = shapes(8)
    rows = train_denoiser(images, tmp_path / "w", settings, callback=lambda row: losses.append(row["loss"]))
    # At the start the loss is about that of doing nothing, level^2 / (level + 0.01)^2 = 0.83; with other seeds the
    # quotient of the means is 0.77 to 0.85.
    assert len(losses) == 10 and 0.7 < losses[0] < 1.2
    assert np.mean(losses[-3:]) < 0.92 * np.mean(losses[:2])
    assert [row["step"] for row in rows] == [10] and rows[0]["rate"] < 1e-4 and math.isnan(rows[0]["psnr"])
    assert {path.name for path in tmp_path.iterdir()} == {"w", "w.csv"}
    tensors, record = final(tmp_path / "w")
    assert record["steps"] == 10 and record["seed"] == 0 and record["initial"] is None
    assert set(record) == set(asdict(settings)) | {"images", "initial", "threads", "torch", "note"}
    network = DilatedDenoiser()
    assert set(tensors) == {name for name, t in network.state_dict().items() if t.is_floating_point()}


def test_rate_warms_up_and_falls():
    settings = Settings(steps=1000, learning_rate=2.0)
    rates = [settings.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == 2.0
    assert all(a > b for a, b in pairwise(rates[10:])) and 0 < rates[-1] < 1e-5
    assert all(math.isfinite(Settings(steps=n).rate(step)) for n in (1, 2, 3) for step in range(n + 1))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_interrupted_runs_end_bit_for_bit_the_same(tmp_path, precision):
    images = shapes(26, 32)
    settings = Settings(steps=8, precision=precision, **SMALL)
    options = {"checkpoint_every": 3}
    whole, parts, twice = tmp_path / "whole", tmp_path / "parts", tmp_path / "twice"
    rows = train_denoiser(images, whole, settings, **options)
    assert [row["step"] for row in rows] == [3, 6, 8] and all(10 < row["psnr"] < 40 for row in rows)
    # at a checkpoint, between two, in the steps with fixed statistics
    for step in (3, 4, 7):
        assert train_denoiser(images, parts, settings, callback=stop_at(step), **options)[-1]["step"] <= step
        assert {path.name for path in tmp_path.iterdir() if "parts" in path.name} <= {"parts.checkpoint", "parts.csv"}
        assert not list(tmp_path.glob(".*"))
    assert read_tensors(tmp_path / "parts.checkpoint", "checkpoint")[1]["step"] == 7
    resumed = train_denoiser(images, parts, settings, **options)
    train_denoiser(images, twice, settings, **options)
    assert same(final(whole)[0], final(parts)[0]) and whole.read_bytes() == parts.read_bytes() == twice.read_bytes()
    assert [(row["step"], row["psnr"]) for row in resumed] == [(row["step"], row["psnr"]) for row in rows]
    assert all(a["seconds"] < b["seconds"] for a, b in pairwise(resumed))
    logged = list(csv.DictReader((tmp_path / "parts.csv").read_text().splitlines()))
    assert [(int(row["step"]), float(row["psnr"])) for row in logged] == [(row["step"], row["psnr"]) for row in rows]
    assert not list(tmp_path.glob("*.checkpoint"))


def test_killed_between_checkpoints(tmp_path, monkeypatch):
    images, settings = shapes(2, 32), Settings(steps=5, precision="float32", **SMALL)
    train_denoiser(images, tmp_path / "whole", settings, checkpoint_every=2)
    advance = training._Run.advance

    def killed(run):
        if run.step == 3:
            raise KeyboardInterrupt
        return advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            train_denoiser(images, tmp_path / "parts", settings, checkpoint_every=2)
    assert read_tensors(tmp_path / "parts.checkpoint", "checkpoint")[1]["step"] == 2
    train_denoiser(images, tmp_path / "parts", settings, checkpoint_every=2)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()


def test_stopping_at_the_last_step_is_finishing(tmp_path):
    rows = train_denoiser(shapes(2, 32), tmp_path / "w", Settings(steps=2, **SMALL), callback=stop_at(2))
    assert rows[-1]["step"] == 2 and {path.name for path in tmp_path.iterdir()} == {"w", "w.csv"}


@pytest.fixture
def stopped(tmp_path):
    """A run of three steps, stopped after the first: images, output, settings."""
    images, out, settings = shapes(2, 32), tmp_path / "w", Settings(steps=3, precision="float32", **SMALL)
    train_denoiser(images, out, settings, callback=stop_at(1))
    return images, out, settings


def test_checkpoints_of_other_runs_are_refused(stopped, tmp_path):
    images, out, settings = stopped
    write_tensors(tmp_path / "initial", dict(training._floats(DilatedDenoiser())), "denoiser", {})
    before = listing(tmp_path)
    other = asdict(settings) | {"seed": 1, "highest": 0.2}
    for arguments, options, words in (
        ((images, out, Settings(**other)), {}, "other highest, seed; give the same, or restart"),
        ((shapes(2, 32, seed=1), out, settings), {}, "other images; "),
        ((images, out, settings), {"initial": tmp_path / "initial"}, "other initial; "),
    ):
        with pytest.raises(InputError, match=words) as caught:
            train_denoiser(*arguments, **options)
        assert str(caught.value).startswith(f"{out}.checkpoint: ")
    assert listing(tmp_path) == before
    train_denoiser(images, out, Settings(**other), restart=True)
    fresh = tmp_path / "fresh"
    train_denoiser(images, fresh, Settings(**other))
    assert out.read_bytes() == fresh.read_bytes() and not list(tmp_path.glob("*.checkpoint"))


HOSTILE_RECORDS = {
    "nothing": lambda record: {},
    "no identity": lambda record: record | {"identity": None},
    "identity is a list": lambda record: record | {"identity": ["steps"]},
    "identity is empty": lambda record: record | {"identity": {}},
    "more in the identity": lambda record: record | {"identity": record["identity"] | {"more": None}},
    "less in the identity": lambda record: record | {"identity": {"steps": 3}},
    "no step": lambda record: {name: record[name] for name in ("identity", "rows", "seconds")},
    "step is text": lambda record: record | {"step": "1"},
    "step is a fraction": lambda record: record | {"step": 1.0},
    "step is true": lambda record: record | {"step": True},
    "step 0": lambda record: record | {"step": 0},
    "step -1": lambda record: record | {"step": -1},
    "the last step": lambda record: record | {"step": 3},
    "step 10^4000": lambda record: record | {"step": 10**4000},
    "step is a list": lambda record: record | {"step": [1] * 1000},
    "no rows": lambda record: {name: record[name] for name in ("identity", "step", "seconds")},
    "rows are text": lambda record: record | {"rows": "step"},
    "rows of numbers": lambda record: record | {"rows": [1, 2]},
    "rows with more": lambda record: record | {"rows": [dict.fromkeys([*training._COLUMNS, "x"], 1)]},
    "rows with less": lambda record: record | {"rows": [{"step": 1}]},
    "rows of texts": lambda record: record | {"rows": [dict.fromkeys(training._COLUMNS, "x")]},
    "no seconds": lambda record: {name: record[name] for name in ("identity", "step", "rows")},
    "seconds are text": lambda record: record | {"seconds": "9"},
    "seconds are infinite": lambda record: record | {"seconds": math.inf},
    "seconds are NaN": lambda record: record | {"seconds": math.nan},
    "seconds are negative": lambda record: record | {"seconds": -1},
}


def test_hostile_checkpoints_are_refused(stopped):
    images, out, settings = stopped
    place = out.with_name("w.checkpoint")
    tensors, record = read_tensors(place, "checkpoint")
    for name, change in HOSTILE_RECORDS.items():
        write_tensors(place, tensors, "checkpoint", change(record))
        with pytest.raises(InputError, match="restart") as caught:
            train_denoiser(images, out, settings)
        assert str(caught.value).startswith(f"{place}: ") and len(str(caught.value)) < 400, name
    few = {name: tensor for name, tensor in tensors.items() if not name.startswith("second.")}
    for content, kind in ((few, "checkpoint"), (tensors, "denoiser")):
        write_tensors(place, content, kind, record)
        with pytest.raises(InputError, match=r"w\.checkpoint: "):
            train_denoiser(images, out, settings)
    place.write_bytes(b"half")
    with pytest.raises(InputError, match=r"w\.checkpoint: is not a safetensors file"):
        train_denoiser(images, out, settings)
    assert not out.exists()
    # as it was, it is continued
    write_tensors(place, tensors, "checkpoint", record)
    assert train_denoiser(images, out, settings)[-1]["step"] == 3


def test_fine_tuning_starts_from_the_given_weights(tmp_path):
    images = shapes(2, 32)
    start = training._floats(shaken_network(4))
    write_tensors(tmp_path / "start", start, "denoiser", {})
    settings = Settings(steps=1, learning_rate=1e-30, precision="float32", **SMALL)
    train_denoiser(images, tmp_path / "w", settings, initial=tmp_path / "start")
    tensors, record = final(tmp_path / "w")
    assert record["initial"] == digest(start)
    # the statistics of batch normalisation are kept, too
    assert all(torch.equal(tensor, start[name]) for name, tensor in tensors.items())
    for wrong, words in (
        (training._floats(fold(shaken_network())), "the arrays are not this network's"),
        (start | {"norms.0.bias": torch.zeros(3)}, r"'norms.0.bias' is \(3,\) float32, not \(64,\) float32"),
    ):
        write_tensors(tmp_path / "wrong", wrong, "denoiser", {})
        with pytest.raises(InputError, match=words):
            train_denoiser(images, tmp_path / "x", settings, initial=tmp_path / "wrong")
    assert not list(tmp_path.glob("x*"))


@pytest.mark.filterwarnings("error")
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    settings = Settings(steps=20, learning_rate=1e30, precision="float32", **SMALL)
    with pytest.raises(FloatingPointError, match=r"step \d+: the loss is not finite; lower the learning rate"):
        train_denoiser(shapes(26, 32), tmp_path / "w", settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "none" / "w", "none/w: the folder .* does not exist"),
        (lambda folder: (folder / "w").mkdir() or folder / "w", "w: is a folder"),
        (lambda folder: (folder / "w.csv").mkdir() or folder / "w", "w.csv: is a folder"),
        (lambda folder: (folder / "w.checkpoint").mkdir() or folder / "w", "w.checkpoint: is a folder"),
    ],
    ids=["missing folder", "folder", "folder for the log", "folder for the checkpoint"],
)
def test_outputs_are_checked_before_the_first_step(tmp_path, monkeypatch, make, words):
    out = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(training._Run, "advance", lambda run: pytest.fail("trained before the output was checked"))
    with pytest.raises(OutputError, match=words):
        train_denoiser(shapes(2, 32), out, Settings(**SMALL))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"steps": 0}, ValueError, "steps: must be at least 1"),
        ({"steps": 2.0}, TypeError, "steps: expected an integer"),
        ({"batch": True}, TypeError, "batch: expected an integer"),
        ({"patch": 7}, ValueError, "patch: must be at least 8"),
        ({"seed": -1}, ValueError, "seed: must be at least 0"),
        ({"lowest": -0.1}, ValueError, "lowest: must be"),
        ({"lowest": 0.2}, ValueError, "highest: must be at least lowest = 0.2"),
        ({"highest": 1.5}, ValueError, "highest: must be at most 1"),
        ({"highest": math.nan}, ValueError, "highest: must be a finite number"),
        ({"learning_rate": 0}, ValueError, "learning_rate: must be"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate: expected a number"),
        ({"precision": "float16"}, ValueError, "precision: expected one of 'bfloat16', 'float32'"),
    ],
)
def test_settings_are_checked(given, error, words):
    with pytest.raises(error, match=words):
        Settings(**given)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"images": []}, ValueError, "images: none"),
        ({"settings": {"steps": 2}}, TypeError, "settings: expected Settings"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every: must be at least 1"),
        ({"threads": 0}, ValueError, "threads: must be at least 1"),
        ({"device": "tpu"}, ValueError, "device: expected one of 'cpu', 'cuda'"),
        ({"callback": 3}, TypeError, "callback: expected a function"),
        ({"note": Path("x")}, TypeError, "note: expected text"),
        ({"validation": [np.zeros(3)]}, ValueError, r"validation\[0\]: expected 2 axes"),
    ],
)
def test_arguments_are_checked_before_the_first_step(tmp_path, monkeypatch, given, error, words):
    monkeypatch.setattr(training._Run, "advance", lambda run: pytest.fail("trained before the arguments were checked"))
    given = {"images": shapes(2, 32), "settings": Settings(steps=1, **SMALL)} | given
    with pytest.raises(error, match=words):
        train_denoiser(given.pop("images"), tmp_path / "w", given.pop("settings"), **given)
    assert not list(tmp_path.iterdir())


def test_cuda_that_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device: no CUDA device is at hand"):
        train_denoiser(shapes(2, 32), tmp_path / "w", Settings(steps=1, **SMALL), device="cuda")


def test_numbers_of_numpy_and_stacks_will_do(tmp_path):
    stack = np.stack(shapes(3, 32))
    settings = Settings(
        steps=np.int64(2), batch=np.int32(2), patch=np.int16(16), seed=np.uint8(0), learning_rate=np.float32(2**-9),
        highest=np.float64(0.25), precision="float32",
    )  # fmt: skip
    plain = Settings(steps=2, batch=2, patch=16, learning_rate=2**-9, highest=0.25, precision="float32")
    assert settings == plain
    train_denoiser(stack, tmp_path / "a", settings, validation=stack[:1], checkpoint_every=1)
    train_denoiser(list(stack), tmp_path / "b", plain)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    (first,) = (row for row in csv.DictReader((tmp_path / "a.csv").read_text().splitlines()) if row["step"] == "1")
    assert float(first["psnr"]) > 5


def test_random_state_of_the_caller_is_left_alone(tmp_path):
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    train_denoiser(shapes(2, 32), tmp_path / "w", Settings(steps=1, **SMALL))
    assert torch.equal(torch.rand(3), expected)


# Without torch


def python(code):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


EVERYTHING_ELSE = """
import numpy as np, bioperf, bioperf.learning, bioperf.targets, bioperf.selection
from bioperf.cli.app import run
y = np.random.default_rng(0).random((24, 24), dtype=np.float32)
assert bioperf.deblur(y, np.ones((3, 3)) / 9, target="nlm", noise_std=0.02, max_iter=20).x.shape == y.shape
assert run(["info"]) == 0 and run(["--help"]) == 0 and run(["train-denoiser", "--help"]) == 0
"""


@pytest.mark.parametrize("state", ["blocked", "installed"])
def test_the_rest_works_without_torch(state):
    blocked = "import sys; sys.modules.update(torch=None, safetensors=None)\n" if state == "blocked" else "import sys\n"
    found = "assert not any(sys.modules.get(m) for m in ('torch', 'safetensors')), 'imported'\n"
    done = python(blocked + EVERYTHING_ELSE + found + "print('all of it')")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "all of it", done.stderr


def test_require_torch_says_how_to_install_it(monkeypatch):
    assert require_torch("this test") is torch
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"this test needs PyTorch and safetensors: pip install bioperf\[torch\]"):
        require_torch("this test")
    with pytest.raises(ImportError, match=r"training needs .*bioperf\[torch\]"):
        train_denoiser(shapes(2, 32), "w")
