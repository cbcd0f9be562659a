"""``write_reconstruction``: a reconstructed image as NIfTI, NPY or PNG, by the path's name."""

from pathlib import Path

import numpy as np

from .._validation import host_array
from . import npy
from .errors import InputError, OutputError
from .images import ImageInfo, write_image
from .nifti import check_nifti, is_nifti, write_nifti
from .whole import check_writable, write_whole

__all__ = ["check_reconstruction", "write_reconstruction"]

_PEAK_PERCENTILE = 99.9


def check_reconstruction(path):
    """Raise OutputError unless ``write_reconstruction`` can write to that path; to be called before the solve."""
    if is_nifti(path):
        check_nifti(path)
        return
    if Path(path).suffix.lower() not in (".npy", ".png"):
        raise OutputError(f"{path}: unknown format {Path(path).suffix!r}; end the name in .nii.gz, .nii, .npy or .png")
    check_writable(path)


def write_reconstruction(path, x, kspace=None, *, magnitude=False, crop=False, slice_index=None):
    """Write a reconstruction so that the file appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        .nii or .nii.gz: see ``write_nifti``, with the voxel size of ``kspace``.  .npy: the values as they are.
        .png: the magnitude of one slice, 16 bits, white being the 99.9th percentile of that slice.
    x : ndarray, float32, float64, complex64 or complex128, shape (..., H, W)
    kspace : KSpace, optional
        What ``read_kspace`` gave for this image.
    magnitude : bool
        Write ``|x|`` instead of x (PNG always does).
    crop : bool
        Write the central part only that the scanner shows, ``kspace.shown``; all of it if that is not known.
    slice_index : int, optional
        The slice to draw as PNG, counted over all leading axes; the middle one by default.

    Raises
    ------
    TypeError, ValueError
        If x is none of the above.
    InputError
        If the format cannot hold x, or there is no such slice.
    OutputError
        If the path cannot be written.
    """
    check_reconstruction(path)
    x = host_array("x", x)
    if x.dtype.kind not in "fc" or x.ndim < 2 or x.size == 0:
        raise TypeError(f"x: expected real or complex images of 2 axes or more, got {x.dtype} of shape {x.shape}")
    if crop and kspace is not None and kspace.shown is not None:
        x = central(x, kspace.shown)
    if is_nifti(path):
        if x.ndim > 4:
            raise InputError(f"{path}: NIfTI takes 4 axes here, not shape {x.shape}; write .npy")
        write_nifti(path, x, voxel=None if kspace is None else kspace.voxel, magnitude=magnitude)
    elif Path(path).suffix.lower() == ".npy":
        values = np.abs(x) if magnitude else x
        write_whole(path, lambda temporary: npy.encode(temporary, values))
    else:
        _write_png(path, x.reshape(-1, *x.shape[-2:]), slice_index)


def _write_png(path, slices, index):
    count = len(slices)
    if index is not None and not -count <= index < count:
        raise InputError(f"{path}: there is no slice {index} of {count}; choose one of them")
    shown = np.abs(slices[count // 2 if index is None else index])
    white = np.percentile(shown, _PEAK_PERCENTILE) or shown.max() or 1
    write_image(path, shown / shown.dtype.type(white), like=ImageInfo("png", np.dtype(np.uint16)))


def central(x, shape):
    """The central part of the last axes, the pixel n//2 staying at n//2."""
    part = [slice(n // 2 - k // 2, n // 2 - k // 2 + k) for n, k in zip(x.shape[-len(shape) :], shape, strict=True)]
    return x[(..., *part)]
