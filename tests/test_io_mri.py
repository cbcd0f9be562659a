"""MRI files: what their own libraries write is read as it was meant, hostile files are refused with one line."""

import contextlib
import gzip
import importlib.util
import io
import json
import os
import struct
import subprocess
import sys
import threading
import zipfile
import zlib

import imageio.v3 as iio
import numpy as np
import pytest

from bioperf.io import (
    InputError,
    KSpace,
    OutputError,
    _hdf5_reader,
    check_reconstruction,
    hdf5,
    read_kspace,
    read_mask,
    write_nifti,
    write_reconstruction,
)

h5py = pytest.importorskip("h5py", reason="HDF5 needs the package h5py (extra mri)")
nibabel = pytest.importorskip("nibabel", reason="NIfTI needs the package nibabel (extra mri)")

FASTMRI_HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>16</x><y>12</y><z>1</z></matrixSize>
<fieldOfView_mm><x>440</x><y>240</y><z>7.5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>8</x><y>8</y><z>1</z></matrixSize>
<fieldOfView_mm><x>220</x><y>200</y><z>5</z></fieldOfView_mm></reconSpace>
<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""


def complex_values(shape, dtype=np.complex64, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)


def save_fastmri(path, kspace, mask=None, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=kspace, **options)
        file["ismrmrd_header"] = FASTMRI_HEADER
        file["reconstruction_rss" if kspace.ndim == 4 else "reconstruction_esc"] = np.ones((2, 8, 8), np.float32)
        file.attrs["max"] = 1.0
        file.attrs["patient_id"] = "none"
        if mask is not None:
            file["mask"] = mask


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("shape", [(16, 12), (3, 16, 12), (2, 3, 16, 12)], ids=str)
def test_npy_and_npz(tmp_path, dtype, shape):
    kspace = complex_values(shape, dtype)
    mask = np.random.default_rng(1).random((16, 12)) < 0.5
    np.save(tmp_path / "a.npy", np.asfortranarray(kspace).astype(kspace.dtype.newbyteorder(">")))
    np.savez(tmp_path / "a.npz", ksp=kspace, mask=mask)
    np.savez_compressed(tmp_path / "b.npz", other=kspace, words=np.array(["a"]), mask=mask.astype(np.uint8))
    for name in ("a.npy", "a.npz", "b.npz"):
        raw = read_kspace(tmp_path / name)
        assert isinstance(raw, KSpace) and raw.kspace.dtype == dtype and raw.kspace.flags.c_contiguous
        np.testing.assert_array_equal(raw.kspace, kspace)
        assert raw.coils is (len(shape) > 2) and raw.centred is None and raw.voxel is None and raw.reference is None
        if name.endswith("npz"):
            assert raw.mask.dtype == bool
            np.testing.assert_array_equal(raw.mask, mask)
        else:
            assert raw.mask is None


def test_coils_may_be_said_by_the_caller(tmp_path):
    np.save(tmp_path / "a.npy", complex_values((3, 16, 12)))
    np.save(tmp_path / "b.npy", complex_values((16, 12)))
    assert read_kspace(tmp_path / "a.npy").coils and not read_kspace(tmp_path / "a.npy", coils=False).coils
    save_fastmri(tmp_path / "c.h5", complex_values((2, 16, 12)))
    assert not read_kspace(tmp_path / "c.h5").coils and read_kspace(tmp_path / "c.h5", coils=True).coils
    with pytest.raises(InputError, match="at least 3 axes with coils"):
        read_kspace(tmp_path / "b.npy", coils=True)


@pytest.mark.parametrize("options", [{}, {"chunks": (1, 2, 8, 12), "compression": "gzip", "shuffle": True}], ids=str)
def test_fastmri_multi_coil(tmp_path, options):
    kspace = complex_values((2, 3, 16, 12))
    save_fastmri(tmp_path / "a.h5", kspace, **options)
    raw = read_kspace(tmp_path / "a.h5")
    np.testing.assert_array_equal(raw.kspace, kspace)
    assert raw.kspace.dtype == np.complex64 and raw.coils and raw.centred is True and raw.mask is None
    assert raw.voxel == (440 / 16, 240 / 12, 7.5) and raw.shown == (8, 10) and raw.reference.shape == (2, 8, 8)
    assert "fastMRI" in raw.source


@pytest.mark.parametrize("dtype", [bool, np.float32, np.uint8])
@pytest.mark.parametrize("axes", [(12,), (1, 12, 1), (16, 12)], ids=str)
def test_fastmri_single_coil_with_mask(tmp_path, dtype, axes):
    kspace = complex_values((2, 16, 12), np.complex128)
    stored = np.random.default_rng(2).random(axes) < 0.5
    save_fastmri(tmp_path / "a.hdf5", kspace, mask=stored.astype(dtype))
    raw = read_kspace(tmp_path / "a.hdf5")
    np.testing.assert_array_equal(raw.kspace, kspace)
    assert not raw.coils and raw.kspace.dtype == np.complex128
    expected = stored if axes == (16, 12) else np.tile(stored.ravel(), (16, 1))
    np.testing.assert_array_equal(raw.mask, expected)


def test_hdf5_by_another_name(tmp_path):
    kspace = complex_values((16, 12))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan/raw"] = kspace
        file["scan/pattern"] = np.eye(16, 12)
    raw = read_kspace(tmp_path / "a.h5", key="scan/raw", mask_path=tmp_path / "a.h5", mask_key="scan/pattern")
    np.testing.assert_array_equal(raw.kspace, kspace)
    np.testing.assert_array_equal(raw.mask, np.eye(16, 12, dtype=bool))
    assert raw.centred is None
    with pytest.raises(InputError, match=r"has no dataset 'kspace' \(it holds 'scan'\)"):
        read_kspace(tmp_path / "a.h5")
    # The name of the file is no option of Python's, whatever it is
    with h5py.File(tmp_path / "-c.h5", "w") as file:
        file["kspace"] = kspace
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        np.testing.assert_array_equal(read_kspace("-c.h5").kspace, kspace)
    finally:
        os.chdir(before)


def test_a_given_mask_lies_within_that_of_the_file(tmp_path):
    kspace, mask = complex_values((16, 12)), np.arange(12) % 3 < 2
    save_fastmri(tmp_path / "a.h5", kspace[None], mask=mask)
    np.save(tmp_path / "fewer.npy", np.arange(12) % 3 < 1)
    np.save(tmp_path / "more.npy", np.ones(12, bool))
    raw = read_kspace(tmp_path / "a.h5", mask_path=tmp_path / "fewer.npy")
    np.testing.assert_array_equal(raw.mask, np.tile(np.arange(12) % 3 < 1, (16, 1)))
    with pytest.raises(InputError, match="64 samples are not in the mask"):
        read_kspace(tmp_path / "a.h5", mask_path=tmp_path / "more.npy")


def test_masks_in_every_format(tmp_path):
    mask = np.random.default_rng(3).random((16, 12)) < 0.5
    np.save(tmp_path / "a.npy", mask)
    np.savez(tmp_path / "a.npz", radial=mask)
    np.savez(tmp_path / "b.npz", mask=mask.astype(float), radial=~mask)
    iio.imwrite(tmp_path / "a.png", mask.astype(np.uint8) * 255)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["mask"] = mask[None]
    for name in ("a.npy", "a.npz", "b.npz", "a.png", "a.h5"):
        read = read_mask(tmp_path / name)
        assert read.dtype == bool
        np.testing.assert_array_equal(read, mask)
        np.testing.assert_array_equal(read_mask(tmp_path / name, shape=(16, 12)), mask)
        with pytest.raises(InputError, match=r"mask of shape \(.*16, 12\) does not fit"):
            read_mask(tmp_path / name, shape=(16, 13))
    np.testing.assert_array_equal(read_mask(tmp_path / "b.npz", key="radial"), ~mask)
    bad = {
        "two.npy": (np.array([0, 2]), "other than 0 and 1"),
        "nan.npy": (np.array([0, np.nan]), "other than 0 and 1"),
        "none.npy": (np.zeros(4), "takes no sample"),
        "complex.npy": (np.ones(4, complex), "complex128"),
        "words.npy": (np.array(["a"]), "<U1"),
    }
    for name, (array, expected) in bad.items():
        np.save(tmp_path / name, array)
        with pytest.raises(InputError, match=expected):
            read_mask(tmp_path / name)
    np.savez(tmp_path / "c.npz", first=mask, second=mask)
    with pytest.raises(InputError, match=r"no array 'mask' \(its arrays: 'first', 'second'\)"):
        read_mask(tmp_path / "c.npz")


# ISMRMRD


def header(matrix=(16, 12, 1), centre=6, trajectory="cartesian"):
    from ismrmrd import xsd

    def space(sizes, view):
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(**dict(zip("xyz", sizes, strict=True))),
            fieldOfView_mm=xsd.fieldOfViewMm(**dict(zip("xyz", view, strict=True))),
        )

    encoding = xsd.encodingType(
        trajectory=xsd.trajectoryType(trajectory),
        encodedSpace=space(matrix, (400.0, 150.0, 6.0)),
        reconSpace=space((8, 12, 1), (200.0, 150.0, 6.0)),
        encodingLimits=xsd.encodingLimitsType(
            kspace_encoding_step_1=xsd.limitType(minimum=0, maximum=matrix[1] - 1, center=centre)
        ),
    )
    conditions = xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63500000)
    return xsd.ToXML(xsd.ismrmrdHeader(experimentalConditions=conditions, encoding=[encoding]))


def acquire(data, line=0, *, flags=(), centre=8, dwell=10.0, **indices):
    import ismrmrd

    fields = dict(center_sample=centre, sample_time_us=dwell)
    fields |= {name: indices.pop(name) for name in ("discard_pre", "discard_post") if name in indices}
    acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, np.complex64), **fields)
    acquisition.idx.kspace_encode_step_1 = line
    for name, value in indices.items():
        setattr(acquisition.idx, name, value)
    for flag in flags:
        acquisition.setFlag(flag)
    return acquisition


def save_ismrmrd(path, acquisitions, xml=None):
    ismrmrd = pytest.importorskip("ismrmrd", reason="writing ISMRMRD files needs the package ismrmrd")
    with ismrmrd.Dataset(str(path), "dataset", create_if_needed=True) as file:
        file.write_xml_header(xml or header())
        for acquisition in acquisitions:
            file.append_acquisition(acquisition)


def test_ismrmrd_lines_are_sorted_and_averaged(tmp_path):
    ismrmrd = pytest.importorskip("ismrmrd", reason="writing ISMRMRD files needs the package ismrmrd")
    kspace = complex_values((2, 3, 16, 12))
    lines = [0, 3, 4, 5, 6, 7, 11]
    other = complex_values((3, 16), seed=9)
    acquisitions = [acquire(100 * complex_values((3, 16)), flags=[ismrmrd.ACQ_IS_NOISE_MEASUREMENT], dwell=40.0)]
    acquisitions += [acquire(other, 2, flags=[ismrmrd.ACQ_IS_PARALLEL_CALIBRATION])]
    for flag in (ismrmrd.ACQ_IS_NAVIGATION_DATA, ismrmrd.ACQ_IS_PHASECORR_DATA, ismrmrd.ACQ_IS_DUMMYSCAN_DATA):
        acquisitions += [acquire(other, 1, flags=[flag])]
    both = [ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING]
    for s in (1, 0):
        for line in np.random.default_rng(s).permutation(lines):
            for average, offset in ((0, other), (1, -other)):
                flags = both if line == 6 else []
                acquisitions += [acquire(kspace[s, :, :, line] + offset, line, slice=s, average=average, flags=flags)]
    save_ismrmrd(tmp_path / "a.h5", acquisitions)
    raw = read_kspace(tmp_path / "a.h5")
    expected = np.zeros_like(kspace)
    expected[..., lines] = kspace[..., lines]
    assert raw.kspace.dtype == np.complex64 and raw.coils and raw.centred is True
    np.testing.assert_allclose(raw.kspace, expected, atol=1e-6)
    np.testing.assert_array_equal(raw.mask, np.isin(np.arange(12), lines) & np.ones((16, 1), bool))
    assert raw.voxel == (25.0, 12.5, 6.0) and raw.shown == (8, 12)
    # A dwell time 4 times as long is 4 times less noise power
    noise = 100 * np.sqrt(np.mean(np.abs(complex_values((3, 16))) ** 2))
    assert raw.noise_std == pytest.approx(2 * noise, rel=1e-6)
    assert "28 lines, 5 others skipped, up to 2 averaged" in raw.source


def test_ismrmrd_partial_echoes_repetitions_and_the_centre(tmp_path):
    kspace = complex_values((2, 1, 3, 16, 12))
    acquisitions = []
    for repetition in range(2):
        for line in range(2, 12):
            # The first 6 samples are missing, one on each side is to be discarded, line 5 is the centre's
            data = kspace[repetition, 0, :, 5:, line]
            data = np.concatenate([data, np.full((3, 1), 99)], 1)
            place = dict(repetition=repetition, discard_pre=1, discard_post=1)
            acquisitions += [acquire(data, line - 1, centre=3, **place)]
    save_ismrmrd(tmp_path / "a.mrd", acquisitions, header(centre=5))
    raw = read_kspace(tmp_path / "a.mrd")
    mask = np.zeros((16, 12), bool)
    mask[6:, 2:] = True
    np.testing.assert_array_equal(raw.mask, mask)
    np.testing.assert_array_equal(raw.kspace, kspace * mask)
    assert raw.noise_std is None


ISMRMRD_BAD = {
    "noise only": (lambda m: [acquire(np.ones((2, 16)), flags=[m.ACQ_IS_NOISE_MEASUREMENT])], {}, "no imaging data"),
    "spiral": (lambda m: [acquire(np.ones((2, 16)))], {"trajectory": "spiral"}, "trajectory 'spiral'"),
    "3-D": (lambda m: [acquire(np.ones((2, 16)))], {"matrix": (16, 12, 4)}, "3-D .4 partitions"),
    "reversed": (lambda m: [acquire(np.ones((2, 16)), flags=[m.ACQ_IS_REVERSE])], {}, "reversed readouts"),
    "outside": (lambda m: [acquire(np.ones((2, 16)), 12)], {}, "outside the encoded 16 x 12"),
    "too long": (lambda m: [acquire(np.ones((2, 20)))], {}, "outside the encoded"),
    "coils": (lambda m: [acquire(np.ones((2, 16))), acquire(np.ones((3, 16)))], {}, "number of coils changes"),
    "masks": (lambda m: [acquire(np.ones((2, 16)), line, slice=line) for line in range(2)], {}, "sampled differently"),
    "huge": (lambda m: [acquire(np.ones((2, 16)))], {"matrix": (60000, 60000, 1)}, "exceeds the limit .*--max-values"),
}


@pytest.mark.parametrize("name", ISMRMRD_BAD)
def test_ismrmrd_that_cannot_be_used(tmp_path, name):
    ismrmrd = pytest.importorskip("ismrmrd", reason="writing ISMRMRD files needs the package ismrmrd")
    make, options, expected = ISMRMRD_BAD[name]
    save_ismrmrd(tmp_path / "a.h5", make(ismrmrd), header(**options))
    with pytest.raises(InputError, match=expected):
        read_kspace(tmp_path / "a.h5")


@pytest.mark.parametrize("xml", ["<a", "<ismrmrdHeader/>", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"])
def test_ismrmrd_headers_that_cannot_be_used(tmp_path, xml):
    save_ismrmrd(tmp_path / "a.h5", [acquire(np.ones((2, 16)))], xml)
    with pytest.raises(InputError, match="the header"):
        read_kspace(tmp_path / "a.h5")


# Hostile files


def npz_of(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy_header(text):
    content = text.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content)) + content


def npy_of(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def hdf5_of(write):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write(file)
    return buffer.getvalue()


def inflating(file):
    """A chunk of 2 KiB whose compressed form unpacks to 1.5 GiB."""
    dataset = file.create_dataset("kspace", (16, 16), np.complex64, chunks=(16, 16), compression="gzip")
    packer = zlib.compressobj(1)
    zeros = bytes(2**20)
    dataset.id.write_direct_chunk((0, 0), b"".join(packer.compress(zeros) for _ in range(1536)) + packer.flush())


def outside(file):
    file.create_dataset("kspace", (4, 4), np.complex64, external=[("/etc/passwd", 0, 128)])


def virtual(file):
    layout = h5py.VirtualLayout((4, 4), np.complex64)
    layout[:] = h5py.VirtualSource("/elsewhere.h5", "kspace", (4, 4))
    file.create_virtual_dataset("kspace", layout)


VALUES = complex_values((8, 8))
HUGE = dict(shape=(99999, 99999), dtype=np.complex64, chunks=(256, 256), compression="gzip")
NAN = np.where(np.eye(8) > 0, np.nan, VALUES).astype(np.complex64)
BAD = {
    "text.npy": (lambda: b"no array at all", "not an NPY file"),
    "real.npy": (lambda: npy_of(np.ones((8, 8))), "type float64; save complex64 or complex128"),
    "structure.npy": (lambda: npy_of(np.zeros((8, 8), [("r", "f4"), ("i", "f4")])), "save complex64"),
    "objects.npy": (lambda: npy_of(np.array([{}, []], object), allow_pickle=True), "pickled"),
    "one-axis.npy": (lambda: npy_of(VALUES[0]), "at least 2 axes"),
    "huge.npy": (lambda: npy_header("{'descr': '<c8', 'fortran_order': False, 'shape': (99999, 99999)}"), "max-values"),
    "nan.npy": (lambda: npy_of(NAN), r"8 values are NaN or infinite, the first at index \(0, 0\)"),
    "zero.npy": (lambda: npy_of(0 * VALUES), "all values are zero"),
    "empty.npy": (lambda: b"", "empty"),
    "text.npz": (lambda: b"no archive at all", "cannot be read as NPZ"),
    "truncated.npz": (lambda: npz_of(kspace=npy_of(VALUES))[:-40], "cannot be read as NPZ"),
    "nothing.npz": (lambda: npz_of(), r"no array 'kspace' \(its arrays: none\)"),
    "two.npz": (lambda: npz_of(a=npy_of(VALUES), b=npy_of(VALUES)), "no array 'kspace'"),
    "real.npz": (lambda: npz_of(kspace=npy_of(np.ones((8, 8)))), "type float64"),
    "pickled.npz": (lambda: npz_of(kspace=npy_of(np.array([{}], object), allow_pickle=True)), "pickled"),
    "short.npz": (lambda: npz_of(kspace=npy_of(VALUES)[:-8]), "cannot be read as NPZ"),
    "long.npz": (lambda: npz_of(kspace=npy_of(VALUES) + b"x"), "more bytes than its header says"),
    "bomb.npz": (
        lambda: npz_of(kspace=npy_header("{'descr': '<c8', 'fortran_order': False, 'shape': (99999, 99999)}")),
        "9999800001 values exceed the limit of 268435456; raise the limit .--max-values",
    ),
    "wide.npz": (
        lambda: npz_of(kspace=npy_header("{'descr': 'V999999999', 'fortran_order': False, 'shape': (9,)}")),
        "save complex64",
    ),
    "long-header.npz": (
        lambda: npz_of(kspace=b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**28) + bytes(2**20)),
        "cannot be read as NPZ",
    ),
    "text.h5": (lambda: b"no HDF5 at all", "cannot be read as HDF5"),
    "truncated.h5": (
        lambda: hdf5_of(lambda f: f.create_dataset("kspace", data=VALUES))[:-64],
        "cannot be read as HDF5",
    ),
    "real.h5": (lambda: hdf5_of(lambda f: f.create_dataset("kspace", data=np.ones((8, 8)))), "type float64"),
    "words.h5": (lambda: hdf5_of(lambda f: f.create_dataset("kspace", data=["a", "b"])), "type object"),
    "structure.h5": (
        lambda: hdf5_of(lambda f: f.create_dataset("kspace", data=np.zeros((8, 8), [("x", "f4"), ("y", "f4")]))),
        "store complex64",
    ),
    "group.h5": (lambda: hdf5_of(lambda f: f.create_group("kspace")), "no dataset 'kspace'"),
    "empty-type.h5": (
        lambda: hdf5_of(lambda f: f.create_dataset("kspace", data=h5py.Empty(np.complex64))),
        "holds no array of values",
    ),
    "one-axis.h5": (lambda: hdf5_of(lambda f: f.create_dataset("kspace", data=VALUES[0])), "at least 2 axes"),
    "bomb.h5": (
        lambda: hdf5_of(lambda f: f.create_dataset("kspace", **HUGE)),
        "'kspace' has 9999800001 values, more than the limit of 268435456; raise the limit .--max-values",
    ),
    "chunk.h5": (
        lambda: hdf5_of(
            lambda f: f.create_dataset(
                "kspace", (8, 8), "c8", maxshape=(None, None), chunks=(20000, 20000), compression="gzip"
            )
        ),
        "chunks of 400000000 values",
    ),
    "inflating.h5": (lambda: hdf5_of(inflating), "cannot be read as HDF5|needs more memory"),
    "mask-bomb.h5": (
        lambda: hdf5_of(lambda f: (f.create_dataset("kspace", data=VALUES), f.create_dataset("mask", **HUGE))),
        "'mask' holds values of type complex64; store 0 and 1",
    ),
    "soft-link.h5": (lambda: hdf5_of(lambda f: f.update({"kspace": h5py.SoftLink("/other")})), "is a link"),
    "link.h5": (lambda: hdf5_of(lambda f: f.update({"kspace": h5py.ExternalLink("/a.h5", "b")})), "is a link"),
    "outside.h5": (lambda: hdf5_of(outside), "in other files"),
    "virtual.h5": (lambda: hdf5_of(virtual), "in other files"),
    "nan.h5": (lambda: hdf5_of(lambda f: f.create_dataset("kspace", data=NAN)), "8 values are NaN"),
    "image.jpg": (lambda: b"\xff\xd8\xff", "unknown format"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_bad_file_has_its_one_error(tmp_path, name):
    make, expected = BAD[name]
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(InputError, match=expected) as caught:
        read_kspace(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and "; " in message
    assert len(message) < len(str(path)) + 200


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_names_with_line_breaks_are_quoted(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        path.write_bytes(npz_of(**{"o\nther": npy_of(np.ones(3))}))
    else:
        path.write_bytes(hdf5_of(lambda f: f.create_dataset("o\nther", data=np.ones(3))))
    for read in (read_kspace, read_mask):
        with pytest.raises(InputError, match=r"no (array|dataset) 'wan\\nted' .*'o\\nther'") as caught:
            read(path, key="wan\nted")
        assert "\n" not in str(caught.value)


def test_missing_files_and_the_limit(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_kspace(tmp_path / "none.h5")
    save_fastmri(tmp_path / "a.h5", complex_values((2, 3, 16, 12)))
    np.save(tmp_path / "a.npy", VALUES)
    np.savez(tmp_path / "a.npz", kspace=VALUES)
    for name, count in (("a.h5", 1152), ("a.npy", 64), ("a.npz", 64)):
        assert read_kspace(tmp_path / name, max_values=count).kspace.size == count
        with pytest.raises(InputError, match=f"{count} values.*limit of {count - 1}.*--max-values"):
            read_kspace(tmp_path / name, max_values=count - 1)


def test_missing_packages_are_named_with_the_extra(tmp_path, monkeypatch):
    save_fastmri(tmp_path / "a.h5", complex_values((2, 3, 16, 12)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package h5py.*pip install 'bioperf\[mri\]'"):
        read_kspace(tmp_path / "a.h5")
    with pytest.raises(OutputError, match=r"needs the package nibabel.*pip install 'bioperf\[mri\]'"):
        write_nifti(tmp_path / "a.nii", np.ones((4, 4)))


@pytest.mark.parametrize(
    "program, expected",
    [
        ("import os; os.abort()", "the HDF5 library failed"),
        ("print('{', flush=True)", "the HDF5 library failed"),
        ('print(\'{"arrays": [["a", "<c8", [4]]]}\', flush=True)', "the HDF5 library failed"),
        ("import time; time.sleep(60)", "took more than 0 s"),
    ],
    ids=["crash", "half a line", "half an array", "hang"],
)
def test_whatever_becomes_of_the_reading_process(tmp_path, monkeypatch, program, expected):
    (tmp_path / "_hdf5_reader.py").write_text(program)
    (tmp_path / "a.h5").write_bytes(b"x")
    monkeypatch.setattr(hdf5, "__file__", str(tmp_path / "hdf5.py"))
    if "sleep" in program:
        monkeypatch.setattr(hdf5, "SECONDS", 0.4)
    with pytest.raises(InputError, match=f"is damaged .*{expected}"):
        read_kspace(tmp_path / "a.h5")


def damaged(data, rng):
    """A few bytes changed, three times in four near the beginning, or the end cut off."""
    data = bytearray(data)
    if rng.random() < 0.2:
        return bytes(data[: int(rng.integers(1, len(data)))])
    reach = len(data) if rng.random() < 0.25 else min(len(data), 4096)
    for position in rng.integers(reach, size=int(rng.integers(1, 5))):
        data[position] = int(rng.integers(256))
    return bytes(data)


def test_randomly_damaged_npy_and_npz_are_read_or_refused(tmp_path):
    rng = np.random.default_rng(7)
    np.savez(tmp_path / "a.npz", kspace=VALUES, mask=np.ones(8))
    np.savez_compressed(tmp_path / "b.npz", kspace=VALUES, mask=np.ones(8))
    np.save(tmp_path / "c.npy", VALUES)
    refused = 0
    for path in sorted(tmp_path.iterdir()):
        data = path.read_bytes()
        for _ in range(150):
            path.write_bytes(damaged(data, rng))
            try:
                read_kspace(path)
            except InputError as error:
                assert "\n" not in str(error)
                refused += 1
    assert 150 < refused < 450


class Lasting:
    """``read_hdf5`` by one process for many files, started again where the HDF5 library crashes or hangs."""

    def __init__(self):
        self.process, self.lost = None, 0

    def __call__(self, path, wanted, *, name, max_values):
        if self.process is None:
            code = (
                "import runpy, sys; main = runpy.run_path(sys.argv[1])['main']\n"
                "for line in sys.stdin: main(*line.rstrip('\\n').split('|'))"
            )
            command = [sys.executable, "-c", code, _hdf5_reader.__file__]
            pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            self.process = subprocess.Popen(command, **pipes)
        timer = threading.Timer(5, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(f"{path}|{wanted}|{name or ''}|{max_values}\n".encode())
            self.process.stdin.flush()
            facts, arrays = hdf5._receive(self.process.stdout)
        except (ValueError, EOFError, BrokenPipeError):
            self.lost += 1
            self.stop()
            return hdf5.read_hdf5(path, wanted, name=name, max_values=max_values)
        finally:
            timer.cancel()
        if "error" in facts:
            raise InputError(f"{path}: {facts['error']}")
        return facts, arrays

    def stop(self):
        if self.process is not None:
            self.process.kill()
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()
            self.process = None


def test_randomly_damaged_hdf5_is_read_or_refused(tmp_path, monkeypatch):
    rng = np.random.default_rng(11)
    save_fastmri(tmp_path / "a.h5", complex_values((2, 2, 16, 12)), mask=np.ones(12))
    save_fastmri(tmp_path / "b.h5", complex_values((2, 2, 16, 12)), chunks=(1, 2, 16, 12), compression="gzip")
    sources = [(tmp_path / "a.h5").read_bytes(), (tmp_path / "b.h5").read_bytes()]
    if importlib.util.find_spec("ismrmrd"):
        save_ismrmrd(tmp_path / "c.h5", [acquire(complex_values((2, 16)), line) for line in range(12)])
        sources += [(tmp_path / "c.h5").read_bytes()]
    lasting, refused, path = Lasting(), 0, tmp_path / "damaged.h5"
    monkeypatch.setattr(hdf5, "SECONDS", 5.0)
    monkeypatch.setattr("bioperf.io.kspace.read_hdf5", lasting)
    try:
        for k in range(400):
            path.write_bytes(damaged(sources[k % len(sources)], rng))
            try:
                assert np.isfinite(read_kspace(path, max_values=100000).kspace).all()
            except InputError as error:
                assert "\n" not in str(error)
                refused += 1
    finally:
        lasting.stop()
    assert lasting.lost <= 6 and 100 < refused < 350, (lasting.lost, refused)


def test_damaged_ismrmrd_columns_are_sorted_or_refused():
    """What passes the reading process is no better than the file: any numbers in the headers."""
    from bioperf.io.ismrmrd import sort_acquisitions

    pytest.importorskip("ismrmrd", reason="writing ISMRMRD headers needs the package ismrmrd")
    xml = header()
    xml = xml if isinstance(xml, str) else xml.decode()
    rng = np.random.default_rng(13)
    refused = 0
    for _ in range(200):
        columns = {name: np.zeros(12, np.int64) for name in (*_hdf5_reader.COUNTS, *_hdf5_reader.INDICES)}
        columns |= {"sample_time_us": np.ones(12)}
        columns["number_of_samples"][:], columns["active_channels"][:], columns["center_sample"][:] = 16, 2, 8
        columns["kspace_encode_step_1"][:] = np.arange(12)
        names = list(columns)
        for name in rng.choice(names, 2):
            columns[name][rng.integers(12)] = rng.integers(20) if rng.random() < 0.7 else rng.integers(65536)
        total = int((columns["number_of_samples"] * columns["active_channels"]).sum())
        if total > 10**6:  # refused by the reading process
            continue
        columns["samples"] = np.ones(total, np.complex64)
        try:
            kspace, mask, *_ = sort_acquisitions("a.h5", xml, columns, 10**6)
            assert np.isfinite(kspace).all() and mask.any()
        except InputError:
            refused += 1
    assert 20 < refused < 180


# NIfTI and reconstructions


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6), (3, 4, 5, 6)], ids=str)
def test_nifti_axes_and_values(tmp_path, suffix, dtype, shape):
    image = complex_values(shape, np.complex128)
    image = (image if np.dtype(dtype).kind == "c" else image.real).astype(dtype)
    path = tmp_path / f"a{suffix}"
    write_nifti(path, image, voxel=(2.0, 0.5, 4.0))
    assert os.listdir(tmp_path) == [path.name]
    content = path.read_bytes()
    file = nibabel.Nifti1Image.from_bytes(gzip.decompress(content) if suffix.lower().endswith("gz") else content)
    stored = np.asanyarray(file.dataobj)
    assert file.get_data_dtype() == dtype and stored.dtype == dtype
    assert stored.shape == {2: (6, 5, 1), 3: (6, 5, 4), 4: (6, 5, 4, 3)}[len(shape)]
    np.testing.assert_array_equal(np.squeeze(stored.T), image)
    assert file.header.get_zooms()[:3] == (0.5, 2.0, 4.0)
    assert int(file.header["sform_code"]) == 0 and int(file.header["qform_code"]) == 0
    assert b"orientation unknown" in file.header["descrip"].item()


def test_nifti_affine_and_magnitude(tmp_path):
    image = complex_values((4, 5, 6))
    affine = np.array([[0, 2.0, 0, -10], [1.5, 0, 0, 7], [0, 0, 3.0, 1], [0, 0, 0, 1]])
    write_nifti(tmp_path / "a.nii", image, affine, magnitude=True)
    file = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_allclose(file.affine, affine, rtol=1e-6)
    assert int(file.header["sform_code"]) == 1 and int(file.header["qform_code"]) == 1
    assert file.header.get_xyzt_units()[0] == "mm" and file.get_data_dtype() == np.float32
    np.testing.assert_array_equal(file.get_fdata(dtype=np.float32).T, np.abs(image))
    write_nifti(tmp_path / "b.nii.gz", image.real)
    first = (tmp_path / "b.nii.gz").read_bytes()
    assert nibabel.load(tmp_path / "b.nii.gz").header.get_zooms() == (1, 1, 1)
    assert nibabel.load(tmp_path / "b.nii.gz").header.get_xyzt_units()[0] == "unknown"
    write_nifti(tmp_path / "b.nii.gz", image.real)
    assert (tmp_path / "b.nii.gz").read_bytes() == first


def test_nifti_refusals(tmp_path):
    image = np.ones((4, 5), np.float32)
    path = tmp_path / "a.nii"
    for bad, error in (
        (lambda: write_nifti(path, np.ones((4, 5), int)), (TypeError, "image: expected float32")),
        (lambda: write_nifti(path, np.ones(5)), (ValueError, "image: expected 2 to 4 axes")),
        (lambda: write_nifti(path, np.ones((1, 40000))), (InputError, "32767")),
        (lambda: write_nifti(path, image, np.eye(3)), (ValueError, "affine: expected a 4 x 4")),
        (lambda: write_nifti(path, image, np.diag([0, 1, 1, 1])), (ValueError, "affine: .* singular")),
        (lambda: write_nifti(path, image, voxel=(1, 2)), (ValueError, "voxel: expected 3 positive")),
        (lambda: write_nifti(path, image, np.eye(4), voxel=(1, 1, 1)), (ValueError, "voxel: the affine")),
        (lambda: write_nifti(tmp_path / "a.img", image), (OutputError, r"end the name in .nii")),
        (lambda: write_nifti(tmp_path / "none" / "a.nii", image), (OutputError, "does not exist")),
    ):
        with pytest.raises(error[0], match=error[1]):
            bad()
    assert os.listdir(tmp_path) == []


def test_reconstructions_by_the_name_of_the_file(tmp_path):
    x = complex_values((3, 16, 12))
    raw = KSpace(complex_values((3, 16, 12)), None, False, True, "test", voxel=(2.0, 1.0, 5.0), shown=(8, 10))
    write_reconstruction(tmp_path / "a.npy", x, raw)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), x)
    write_reconstruction(tmp_path / "b.npy", x, raw, magnitude=True, crop=True)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), np.abs(x[:, 4:12, 1:11]))
    write_reconstruction(tmp_path / "a.nii.gz", x, raw)
    file = nibabel.load(tmp_path / "a.nii.gz")
    assert file.header.get_zooms() == (1.0, 2.0, 5.0)
    np.testing.assert_array_equal(np.asanyarray(file.dataobj).T, x)
    for options, chosen in (({}, x[1]), ({"slice_index": -1}, x[2])):
        write_reconstruction(tmp_path / "a.png", x, raw, **options)
        pixels = iio.imread(tmp_path / "a.png")
        white = np.percentile(np.abs(chosen), 99.9)
        assert pixels.dtype == np.uint16
        np.testing.assert_allclose(pixels / 65535, np.minimum(np.abs(chosen) / white, 1), atol=2e-5)
    with pytest.raises(InputError, match="no slice 3 of 3"):
        write_reconstruction(tmp_path / "a.png", x, slice_index=3)
    with pytest.raises(OutputError, match=r"unknown format '.tif'"):
        check_reconstruction(tmp_path / "a.tif")
    with pytest.raises(TypeError, match="x: expected real or complex images"):
        write_reconstruction(tmp_path / "a.npy", np.ones((4, 4), int))
    with pytest.raises(InputError, match="NIfTI takes 4 axes"):
        write_reconstruction(tmp_path / "a.nii", np.ones((2, 2, 2, 4, 4)))
    write_reconstruction(tmp_path / "zero.png", np.zeros((4, 4)))
    assert not iio.imread(tmp_path / "zero.png").any()


def test_the_reading_process_imports_nothing_of_the_package():
    """It starts in a fifth of a second because of that."""
    code = "import sys, json, runpy; runpy.run_path(sys.argv[1]); print(json.dumps(list(sys.modules)))"
    out = subprocess.run([sys.executable, "-P", "-c", code, _hdf5_reader.__file__], capture_output=True, check=True)
    assert not [name for name in json.loads(out.stdout) if name.startswith(("bioperf", "scipy", "numba"))]
