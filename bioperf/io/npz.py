"""NPZ archives, without ever unpickling, or unpacking more than an array's header says."""

import zipfile
from contextlib import contextmanager

import numpy as np

from .errors import InputError
from .npy import possible

__all__ = ["Archive", "open_archive"]

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What NumPy accepts as a header, with its magic string
_LONGEST_HEADER = 20000


@contextmanager
def open_archive(path):
    """The Archive at that path; whatever its reading raises becomes an InputError."""
    try:
        with zipfile.ZipFile(path) as file:
            yield Archive(path, file)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path}: does not fit in memory; split it") from error
    except Exception as error:  # of whatever kind zipfile, zlib or the header's parser raises
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{path}: cannot be read as NPZ ({reason}); write it with numpy.savez") from error


class Archive:
    """The arrays of an open archive: ``names``, their headers and, after a check, their values."""

    def __init__(self, path, file):
        self.path, self.file = path, file
        self.names = [name[:-4] for name in file.namelist() if name.endswith(".npy")]

    def header(self, name):
        """Shape and dtype, from the first bytes."""
        with self.file.open(f"{name}.npy") as member:
            return self._header(name, member)

    def read(self, name, check):
        """The array, after ``check(shape, dtype)`` let it pass."""
        with self.file.open(f"{name}.npy") as member:
            shape, dtype = self._header(name, member)
            check(shape, dtype)
        with self.file.open(f"{name}.npy") as member:
            array = np.lib.format.read_array(member, allow_pickle=False)
            # Also compares the checksum, which is due at the end
            if member.read(1):
                raise InputError(f"{self.path}: {_quoted(name)} has more bytes than its header says; write it again")
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def _header(self, name, member):
        stream = _Limited(member)
        version = np.lib.format.read_magic(stream)
        shape, _, dtype = _HEADERS.get(version, np.lib.format.read_array_header_2_0)(stream)
        if dtype.hasobject:
            raise InputError(
                f"{self.path}: {_quoted(name)} holds pickled Python objects, which are not loaded; "
                "save a plain numeric array"
            )
        if not possible(shape):
            raise InputError(f"{self.path}: {_quoted(name)} has impossible sizes; write it again with numpy.savez")
        return shape, dtype


class _Limited:
    """A stream that ends after the longest header."""

    def __init__(self, stream):
        self.stream, self.left = stream, _LONGEST_HEADER

    def read(self, size):
        content = self.stream.read(min(size, self.left))
        self.left -= len(content)
        return content


def _quoted(name):
    """A name from the file in a message: no line breaks, not too long."""
    return repr(name[:60])
