"""Images in and out: PNG, TIFF and NPY files, read with clear refusals and written whole or not at all.

>>> from bioperf.io import read_image, write_image
>>> image, info = read_image("blurred.png")               # float32 in [0, 1]
>>> write_image("restored.png", image, like=info)         # the same bit depth and colour
"""

from .errors import InputError, OutputError
from .images import MAX_PIXELS, ImageInfo, image_format, read_image, read_psf, write_image
from .whole import check_writable, write_whole

__all__ = [
    "MAX_PIXELS",
    "ImageInfo",
    "InputError",
    "OutputError",
    "check_writable",
    "image_format",
    "read_image",
    "read_psf",
    "write_image",
    "write_whole",
]
