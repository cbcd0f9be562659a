"""``read_kspace`` and ``read_mask``: MRI raw data from NPY, NPZ, HDF5 (fastMRI's layout) and ISMRMRD files."""

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import npy
from .errors import InputError
from .hdf5 import read_hdf5
from .images import check_file, image_format, read_image
from .ismrmrd import parse_header, sort_acquisitions
from .npz import open_archive

__all__ = ["MAX_VALUES", "KSpace", "read_kspace", "read_mask"]

MAX_VALUES = 2**28
_SUFFIXES = {".npy": "npy", ".npz": "npz", ".h5": "hdf5", ".hdf5": "hdf5", ".mrd": "hdf5"}
_KSPACE_NAMES = ("kspace", "ksp")
_EXPECTED = "end the name in .npy, .npz or .h5"


@dataclass(frozen=True, eq=False)
class KSpace:
    """What a file of raw data held.

    Attributes
    ----------
    kspace : ndarray, complex64 or complex128, shape (..., H, W) or (..., coils, H, W)
        As stored.  Lines run along axis -2 and are counted along axis -1 in fastMRI and ISMRMRD files.
    mask : ndarray, bool, shape (H, W), or None
        The samples taken, in the same order as k-space; None if neither the file nor the caller says.
    coils : bool
        Whether axis -3 is the coils.
    centred : bool or None
        Whether the zero frequency is at ``n//2``; None where the format does not say (NPY, NPZ).
    voxel : tuple of 3 float, or None
        Size in mm of the image's voxels along H, W and across slices.
    shown : tuple of 2 int, or None
        (H, W) of the central part of the image that the scanner shows, without readout oversampling.
    noise_std : float or None
        From a noise scan, ``sqrt(E|n|^2)`` of one sample of one coil, no averaging allowed for.
    reference : ndarray or None
        A reconstruction stored in the file, shape (slices, h, w), as fastMRI's ``reconstruction_rss``.
    source : str
        The format and what was done, in words.
    """

    kspace: np.ndarray
    mask: np.ndarray | None
    coils: bool
    centred: bool | None
    source: str
    voxel: tuple | None = None
    shown: tuple | None = None
    noise_std: float | None = None
    reference: np.ndarray | None = None


def read_kspace(path, *, mask_path=None, key=None, mask_key=None, coils=None, max_values=MAX_VALUES):
    """Read k-space, and the mask that comes with it.

    Parameters
    ----------
    path : str or Path
        .npy: a complex array.  .npz: the array ``key``, or "kspace", "ksp", or the only complex one; the array
        "mask" too if there is one.  .h5, .hdf5: fastMRI's layout, a dataset "kspace" of shape (slices, coils,
        H, W) or (slices, H, W) and, optionally, "mask"; or ISMRMRD (.mrd too), a group "dataset" of
        Cartesian acquisitions, which are sorted: noise, calibration and navigation left out, averages
        averaged, shape ([repetitions,] slices, coils, readout, phase encoding), readout oversampling kept.
    mask_path : str or Path, optional
        A file for ``read_mask``, in the same order as k-space.  If the file of k-space has a mask too, this one
        must lie within it.
    key, mask_key : str, optional
        The name of an array in an NPZ file, of a dataset or group in an HDF5 file.
    coils : bool, optional
        Whether axis -3 is the coils.  Without it: in NPY and NPZ files if there are 3 axes or more, in fastMRI's
        layout if there are 4 or more.
    max_values : int
        Refuse files with more values than this before reading them.

    Returns
    -------
    KSpace

    Raises
    ------
    InputError
        For every file that cannot be used, "FILE: what is wrong; what to do": also for links to and storage in
        other files, real values, NaN or infinite values, or zeros alone.
    """
    path = Path(path)
    kind = _check_path(path)
    mask, facts = None, {"centred": None, "source": kind.upper()}
    if kind == "hdf5":
        kspace, mask, facts = _read_hdf5(path, key, max_values)
    elif kind == "npz":
        kspace, mask = _read_npz(path, key, max_values)
    else:
        kspace = _read_npy(path, "c", max_values)
    _check_kspace(path, kspace)
    usual = facts.pop("coils", kspace.ndim >= 3)
    coils = usual if coils is None else bool(coils)
    if kspace.ndim < 2 + coils:
        axes = "3 axes with coils" if coils else "2 axes"
        raise InputError(f"{path}: expected k-space of at least {axes}, got shape {kspace.shape}; reshape it")
    if mask is not None:
        mask = _as_mask(path, mask, kspace.shape[-2:])
    if mask_path is not None:
        given = read_mask(mask_path, key=mask_key, shape=kspace.shape[-2:], max_values=max_values)
        if mask is not None and (given & ~mask).any():
            count = int((given & ~mask).sum())
            raise InputError(f"{mask_path}: {count} samples are not in the mask of {path}; take a mask within that one")
        mask = given
    return KSpace(kspace=np.ascontiguousarray(kspace), mask=mask, coils=coils, **facts)


def read_mask(path, *, key=None, shape=None, max_values=MAX_VALUES):
    """Read a sampling mask.

    Parameters
    ----------
    path : str or Path
        .npy, .npz (the array ``key``, "mask", or the only one), .h5 (the dataset ``key`` or "mask") with the
        values 0 and 1, or a black and white .png or .tif.
    key : str, optional
    shape : tuple of 2 int, optional
        (H, W) of k-space.  A mask of one axis chooses along the last of them.
    max_values : int

    Returns
    -------
    ndarray, bool, of that shape, or as stored but for leading axes of length 1

    Raises
    ------
    InputError
    """
    path = Path(path)
    if image_format(path) in ("png", "tiff"):
        mask = read_image(path, max_pixels=max_values)[0]
        return _as_mask(path, mask, shape)
    kind = _check_path(path)
    if kind == "hdf5":
        mask = read_hdf5(path, "mask", name=key, max_values=max_values)[1]["mask"]
    elif kind == "npz":
        with open_archive(path) as archive:
            name = _choose(archive, key, ("mask",), archive.names)
            mask = archive.read(name, lambda *header: _check_header(path, *header, "biuf", max_values))
    else:
        mask = _read_npy(path, "biuf", max_values)
    return _as_mask(path, mask, shape)


def _check_path(path):
    """The kind of file by its suffix."""
    check_file(path)
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: unknown format {path.suffix!r}; {_EXPECTED}")
    return kind


def _read_npy(path, kinds, max_values):
    # The file holds as many bytes as its header says: the type may wait
    try:
        array = npy.decode(path, lambda shape: _check_shape(path, shape, max_values))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the file") from error
    except MemoryError as error:
        raise InputError(f"{path}: does not fit in memory; split it") from error
    _check_header(path, array.shape, array.dtype, kinds, max_values)
    return array


def _read_npz(path, key, max_values):
    """k-space and the mask or None."""
    with open_archive(path) as archive:
        complex_names = [name for name in archive.names if archive.header(name)[1].kind == "c"]
        name = _choose(archive, key, _KSPACE_NAMES, complex_names)
        kspace = archive.read(name, lambda *header: _check_header(path, *header, "c", max_values))
        if "mask" not in archive.names:
            return kspace, None
        return kspace, archive.read("mask", lambda *header: _check_header(path, *header, "biuf", max_values))


def _choose(archive, key, usual, candidates):
    """The name asked for, or one of the usual, or the only candidate."""
    wanted = (key,) if key is not None else usual
    for name in wanted:
        if name in archive.names:
            return name
    if key is None and len(candidates) == 1:
        return candidates[0]
    held = ", ".join(repr(name[:60]) for name in archive.names[:8]) or "none"
    raise InputError(f"{archive.path}: has no array {wanted[0][:60]!r} (its arrays: {held}); name the one to read")


def _read_hdf5(path, name, max_values):
    """k-space, the mask or None, and the other attributes of KSpace that the file gives."""
    facts, arrays = read_hdf5(path, "kspace", name=name, max_values=max_values)
    if facts["layout"] == "ismrmrd":
        kspace, mask, encoding, noise_std, remark = sort_acquisitions(path, facts["xml"], arrays, max_values)
        known = {"coils": True, "centred": True, "noise_std": noise_std, "source": f"ISMRMRD ({remark})"}
        return kspace, mask, known | _sizes(encoding, kspace.shape)
    kspace = arrays["kspace"]
    known = {"coils": kspace.ndim >= 4, "centred": None, "source": f"HDF5, dataset '{facts['name']}'"}
    if facts["name"] == "kspace":
        known |= {"centred": True, "source": "HDF5, fastMRI's layout", "reference": arrays.get("reference")}
        with suppress(KeyError, ValueError):
            known |= _sizes(parse_header(facts["xml"]), kspace.shape)
    return kspace, arrays.get("mask"), known


def _sizes(encoding, shape):
    return {"voxel": encoding.voxel(shape[-2:]), "shown": encoding.shown(shape[-2:])}


def _check_shape(path, shape, max_values):
    if math.prod(shape) == 0 or len(shape) == 0:
        raise InputError(f"{path}: holds no array of values (shape {tuple(shape)}); give k-space or a mask")
    if math.prod(shape) > max_values:
        raise InputError(
            f"{path}: {math.prod(shape)} values exceed the limit of {max_values}; "
            "raise the limit (--max-values, max_values=)"
        )


def _check_header(path, shape, dtype, kinds, max_values):
    if dtype.kind not in kinds or dtype.itemsize > 16:
        expected = "complex64 or complex128" if kinds == "c" else "a mask of 0 and 1"
        raise InputError(f"{path}: values of type {str(dtype)[:60]}; save {expected}")
    _check_shape(path, shape, max_values)


def _check_kspace(path, kspace):
    """InputError for NaN, infinite values and zeros alone."""
    bad = ~np.isfinite(kspace)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"{path}: {int(bad.sum())} values are NaN or infinite, the first at index {first}; export it again"
        )
    if not kspace.any():
        raise InputError(f"{path}: all values are zero; export it again")


def _as_mask(path, mask, shape):
    """A bool array, of that (H, W) if given."""
    stored = mask.shape
    while mask.ndim > 1 and mask.shape[0] == 1 and mask.ndim > (2 if shape is None else 1):
        mask = mask[0]
    if shape is not None:
        shape = tuple(shape)
        # fastMRI's masks may be (1, W, 1): the axis of lines, then that of real and imaginary parts
        if mask.shape in (shape[1:], (*shape[1:], 1)):
            mask = np.broadcast_to(mask.reshape(shape[1]), shape)
        if mask.shape != shape:
            raise InputError(f"{path}: the mask of shape {stored} does not fit k-space of {shape}; give one that does")
    taken = mask != 0
    if (mask[taken] != 1).any():
        raise InputError(f"{path}: the mask has values other than 0 and 1; save it as booleans")
    if not taken.any():
        raise InputError(f"{path}: the mask takes no sample; give one with some")
    return np.ascontiguousarray(taken)
