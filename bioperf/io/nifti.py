"""NIfTI-1 out, through nibabel."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from .._validation import host_array
from .errors import InputError, OutputError
from .whole import check_writable, write_whole

__all__ = ["check_nifti", "is_nifti", "write_nifti"]


def is_nifti(path):
    """Whether the name ends in .nii or .nii.gz."""
    return str(path).lower().endswith((".nii", ".nii.gz"))


def check_nifti(path):
    """Raise OutputError unless ``write_nifti`` can write to that path."""
    if not is_nifti(path):
        raise OutputError(f"{path}: unknown format {Path(path).suffix!r}; end the name in .nii or .nii.gz")
    if importlib.util.find_spec("nibabel") is None:
        raise OutputError(f"{path}: NIfTI needs the package nibabel; install it with: pip install 'bioperf[mri]'")
    check_writable(path)


def write_nifti(path, image, affine=None, *, voxel=None, magnitude=False):
    """Write an image, a stack of slices or a series of stacks so that the file appears whole or not at all.

    The axes are reversed: an image (H, W) becomes a volume (W, H, 1), slices (S, H, W) a volume (W, H, S) and a
    series (T, S, H, W) a series (W, H, S, T), so that NIfTI's first axis runs along the rows.  The values and
    their type are kept, without a scale factor.

    Parameters
    ----------
    path : str or Path
        .nii or .nii.gz.
    image : ndarray, float32, float64, complex64 or complex128, 2 to 4 axes
    affine : array, shape (4, 4), optional
        From the voxel indices (w, h, s) to scanner coordinates in mm (right, anterior, superior).  Without it the
        file says that the orientation is unknown (sform and qform codes 0).
    voxel : tuple of 3 float, optional
        Size in mm along H, W and across slices, for an unknown orientation; without it 1 each, in no unit.
    magnitude : bool
        Write ``|image|``; complex NIfTI files are allowed, but many viewers refuse them.

    Raises
    ------
    TypeError, ValueError
        If the image, the affine or the voxel is none of the above.
    OutputError
        If the path cannot be written, or nibabel is not installed.
    InputError
        If the image is too large for NIfTI-1 (32767 along an axis).
    """
    check_nifti(path)
    import nibabel

    image = host_array("image", image)
    if image.dtype.kind not in "fc" or image.real.dtype.itemsize not in (4, 8):
        raise TypeError(f"image: expected float32, float64, complex64 or complex128, got dtype {image.dtype}")
    if not 2 <= image.ndim <= 4 or image.size == 0:
        raise ValueError(f"image: expected 2 to 4 axes, got shape {image.shape}; write a part of it")
    if max(image.shape) > 32767:
        raise InputError(f"{path}: NIfTI holds at most 32767 values along an axis, not {image.shape}; write .npy")
    if affine is not None and voxel is not None:
        raise ValueError("voxel: the affine says it already; give one of the two")
    volume = np.abs(image) if magnitude else image
    volume = volume.reshape((1,) * (3 - volume.ndim) + volume.shape).transpose()
    if affine is None:
        file = nibabel.Nifti1Image(volume, None)
        height, width, depth = _check_voxel(voxel)
        file.header.set_zooms((width, height, depth) + (1.0,) * (volume.ndim - 3))
        file.header["descrip"] = b"bioperf; orientation unknown"
    else:
        file = nibabel.Nifti1Image(volume, _check_affine(affine))
        file.set_sform(file.affine, code="scanner")
        file.set_qform(file.affine, code="scanner")
        file.header["descrip"] = b"bioperf"
    if affine is not None or voxel is not None:
        file.header.set_xyzt_units("mm")
    content = file.to_bytes()
    if str(path).lower().endswith(".gz"):
        content = gzip.compress(content, 6, mtime=0)
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def _check_voxel(voxel):
    sizes = np.asarray((1.0, 1.0, 1.0) if voxel is None else voxel, float)
    if sizes.shape != (3,) or not np.isfinite(sizes).all() or not (sizes > 0).all():
        raise ValueError(f"voxel: expected 3 positive sizes in mm, got {voxel!r}")
    return sizes.tolist()


def _check_affine(affine):
    affine = np.asarray(affine, float)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or (affine[3] != (0, 0, 0, 1)).any():
        raise ValueError(f"affine: expected a 4 x 4 matrix whose last row is 0, 0, 0, 1, got {affine!r}")
    if not np.linalg.det(affine[:3, :3]):
        raise ValueError("affine: its upper left 3 x 3 part is singular")
    return affine
