"""NPY files, without ever unpickling."""

import math
import os

import numpy as np

from .errors import InputError

__all__ = ["decode", "encode", "possible"]

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_MOST_AXES = 64


def decode(path, check_size):
    """The array in the file; ``check_size(shape)`` is called before it is read.  Raises InputError."""
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            shape, _, dtype = _HEADERS.get(version, np.lib.format.read_array_header_2_0)(file)
        except Exception as error:  # the header is parsed as Python: any of its errors
            raise InputError(f"{path}: is not an NPY file, or a damaged one; write it with numpy.save") from error
        if dtype.hasobject:
            raise InputError(f"{path}: holds pickled Python objects, which are not loaded; save a plain numeric array")
        if not possible(shape):
            raise InputError(f"{path}: the NPY file has impossible sizes; write it again with numpy.save")
        check_size(shape)
        expected = file.tell() + math.prod(shape) * dtype.itemsize
        if os.fstat(file.fileno()).st_size < expected:
            raise InputError(f"{path}: the NPY file is truncated; copy or write it again")
        file.seek(0)
        try:
            array = np.load(file, allow_pickle=False)
        except MemoryError:
            raise
        except Exception as error:  # numpy.load is stricter with headers than their reader, which mends old ones
            raise InputError(f"{path}: is a damaged NPY file; write it with numpy.save") from error
    return array.astype(dtype.newbyteorder("="), copy=False)


def possible(shape):
    """Whether an array may have that shape, which a header states."""
    return len(shape) <= _MOST_AXES and all(type(n) is int and 0 <= n < 2**63 for n in shape)


def encode(path, array):
    """Write the array to exactly that path (``numpy.save`` would append a suffix to "A.NPY")."""
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=False)
