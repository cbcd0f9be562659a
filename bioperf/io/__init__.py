"""Files in and out: images (PNG, TIFF, NPY) and MRI raw data (NPY, NPZ, HDF5, ISMRMRD; NIfTI out), read with clear
refusals and written whole or not at all.

>>> from bioperf.io import read_image, read_kspace, write_image
>>> image, info = read_image("blurred.png")               # float32 in [0, 1]
>>> write_image("restored.png", image, like=info)         # the same bit depth and colour
>>> raw = read_kspace("volume.h5")                        # complex k-space, its mask, what else the file says
"""

from .errors import InputError, OutputError
from .images import MAX_PIXELS, ImageInfo, image_format, read_image, read_psf, write_image
from .kspace import MAX_VALUES, KSpace, read_kspace, read_mask
from .nifti import write_nifti
from .reconstruction import check_reconstruction, write_reconstruction
from .whole import check_writable, write_whole

__all__ = [
    "MAX_PIXELS",
    "MAX_VALUES",
    "ImageInfo",
    "InputError",
    "KSpace",
    "OutputError",
    "check_reconstruction",
    "check_writable",
    "image_format",
    "read_image",
    "read_kspace",
    "read_mask",
    "read_psf",
    "write_image",
    "write_nifti",
    "write_reconstruction",
    "write_whole",
]
