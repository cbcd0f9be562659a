"""Slabs from and into one NPY file on a file system that the ranks share; no rank has the whole in memory."""

import os

import numpy as np

from ..io.errors import InputError, OutputError
from ..io.whole import write_whole
from .agreement import together

__all__ = ["read_header", "read_slab", "read_small", "write_slabs"]


def read_header(path):
    """Shape and dtype of the array in an NPY file, on the rank that calls it.  Raises InputError."""
    array = _mapped(path)
    return array.shape, array.dtype


def read_slab(volume, path):
    """This rank's slab of the volume in an NPY file, by a memory map of the file.

    Parameters
    ----------
    volume : Volume
    path : str or Path
        An array of the volume's shape and dtype, as ``numpy.save`` writes it; on a file system that all ranks share.

    Returns
    -------
    ndarray, shape volume.slab_shape

    Raises
    ------
    InputError
        On every rank, if one cannot read its slab or the file has another shape or dtype.
    """
    with together(volume.comm):
        array = _mapped(path)
        if array.shape != volume.shape or array.dtype.newbyteorder("=") != volume.dtype:
            raise InputError(
                f"{path}: holds shape {array.shape} of {array.dtype}; the volume is {volume.shape} of {volume.dtype}"
            )
        return np.array(array[volume.slab], volume.dtype, order="C")


def read_small(path):
    """The whole array in an NPY file, on the rank that calls it.  Raises InputError."""
    return np.array(_mapped(path))


def _mapped(path):
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except Exception as error:  # the header is parsed as Python: any of its errors
        raise InputError(f"{path}: is not an NPY file, or a damaged one; write it with numpy.save") from error
    if not isinstance(array, np.memmap):
        raise InputError(f"{path}: is not an NPY file of one array; write it with numpy.save")
    return array


def write_slabs(volume, path, part):
    """Write every rank's slab into one NPY file, which appears whole or not at all.

    Rank 0 makes a temporary file of the whole size beside it, every rank writes its planes there, and rank 0 renames
    it when all have.

    Parameters
    ----------
    volume : Volume
    path : str or Path
        On a file system that all ranks share.
    part : ndarray, shape volume.slab_shape
        This rank's slab, in the volume's dtype.

    Raises
    ------
    OutputError
        On every rank, if the file cannot be made or one rank cannot write; the temporary file is removed.
    """
    part, comm = volume.check_slab("part", part), volume.comm
    error, told = None, False

    def write(temporary):
        nonlocal told
        start = _allocate(temporary, volume)
        told = True
        comm.bcast((str(temporary), start))
        for found in comm.gather(_write_part(temporary, start, part, volume)):
            if found is not None:
                raise OutputError(f"{path}: {found}; free space or choose another path")

    if volume.rank == 0:
        try:
            write_whole(path, write)
        except Exception as failure:
            error = failure
            if not told:
                comm.bcast(None)
    else:
        place = comm.bcast(None)
        if place is not None:
            comm.gather(_write_part(*place, part, volume))
    with together(comm):
        if error is not None:
            raise error


def _allocate(path, volume):
    """Write the header, extend the file to its size; where the first plane starts."""
    with open(path, "wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(volume.dtype), "fortran_order": False, "shape": volume.shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        file.truncate(start + int(np.prod(volume.shape, dtype=object)) * volume.dtype.itemsize)
    return start


def _write_part(path, start, part, volume):
    """None, or in words why this rank's planes could not be written."""
    try:
        with open(path, "rb+") as file:
            file.seek(start + volume.slab.start * (part.nbytes // volume.planes))
            file.write(memoryview(part).cast("B"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"rank {volume.rank} cannot write its planes there ({error.strerror or error})"
    return None
