"""A volume in slabs: who has which planes, the transforms, the halo exchange and the sums over all ranks."""

import functools
import itertools
import os

import numpy as np
from mpi4py import MPI
from mpi4py_fft.libfft import FFT as LocalFFT
from mpi4py_fft.pencil import Pencil, Subcomm

from .._validation import as_images, check_threads
from ..fft import FFT, spectrum_copies, workspace
from ..kernels import available_threads
from .agreement import same, together

__all__ = ["HALO", "Volume", "slab"]

# The planes behind a slab's own in its images: the next rank's first and the previous rank's last.
HALO = 2


def slab(shape, comm):
    """The planes of a volume that this rank has: a slice of the first axis.

    The first ranks have one plane more where they do not divide the axis.  ValueError, on every rank, if there are
    fewer planes than ranks.
    """
    size, rank = comm.Get_size(), comm.Get_rank()
    if shape[0] < size:
        raise ValueError(
            f"shape: {shape[0]} planes along the first axis are fewer than the {size} ranks; start at most {shape[0]}"
        )
    planes, rest = divmod(shape[0], size)
    start = rank * planes + min(rank, rest)
    return slice(start, start + planes + (rank < rest))


class Volume:
    """Volumes (or images) of one shape and dtype in slabs along the first axis, one a rank.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        A communicator of one rank is one that has the whole volume.
    shape : tuple of 2 or 3 int
        Of the whole volume.  At least as many planes along the first axis as ranks, and along the second (for images
        half as many columns), which the spectra are cut along.
    dtype : "float32" or "float64"
    threads : int, optional
        At most this many for the rank's kernels; by default its share of the cores that the ranks of its node may use
        together, at most OMP_NUM_THREADS.  The transforms run on one: start a rank a core where they take the time.

    Attributes
    ----------
    slab : slice
        This rank's planes.
    slab_shape : tuple of int
        The shape of the rank's part of an image.
    fft : SlabFFT

    Raises
    ------
    TypeError, ValueError
        On every rank, for unusable arguments on one or different ones.
    """

    def __init__(self, comm, shape, dtype="float32", *, threads=None):
        if not isinstance(comm, MPI.Intracomm):
            raise TypeError(f"comm: expected an mpi4py communicator, MPI.COMM_WORLD say, got {comm!r}")
        with together(comm):
            shape, dtype = _sizes(shape), _real(dtype)
            threads = check_threads(threads)
        same(comm, shape=shape, dtype=dtype.name)
        with together(comm):
            self.slab = slab(shape, comm)
            columns = shape[1] if len(shape) == 3 else shape[1] // 2 + 1
            if columns < comm.Get_size():
                raise ValueError(
                    f"shape: {shape} has {columns} columns of its spectrum along the second axis for {comm.Get_size()} "
                    f"ranks; start at most {columns}, or turn the volume so that its second axis is longer"
                )
        self.comm, self.shape, self.dtype = comm, shape, dtype
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.planes = self.slab.stop - self.slab.start
        self.slab_shape = (self.planes, *shape[1:])
        self.halo_shape = (self.planes + HALO, *shape[1:])
        self.allowed = threads or _share_of_cores(comm)
        self.fft = SlabFFT(self)

    def __repr__(self):
        planes = f"planes {self.slab.start} to {self.slab.stop - 1}"
        return f"Volume({self.shape}, {self.dtype.name}; rank {self.rank} of {self.size}: {planes})"

    def free(self):
        """Give the transforms' communicators and data types back to MPI; the volume is of no use afterwards."""
        self.fft.free()

    def scatter(self, array, root=0):
        """The slab of a whole array that rank ``root`` has (None elsewhere); for volumes that fit into its memory."""
        with together(self.comm):
            parts = None
            if self.rank == root:
                array = np.asarray(array)
                if array.shape != self.shape:
                    raise ValueError(f"array: expected shape {self.shape}, got {array.shape}")
        if self.rank == root:
            planes = [slice(*bounds) for bounds in self._bounds()]
            parts = [np.ascontiguousarray(array[part]) for part in planes]
        return self.comm.scatter(parts, root)

    def _bounds(self):
        planes, rest = divmod(self.shape[0], self.size)
        starts = [rank * planes + min(rank, rest) for rank in range(self.size + 1)]
        return itertools.pairwise(starts)

    def gather(self, part, root=0):
        """The whole array on rank ``root``, None elsewhere; for volumes that fit into its memory."""
        parts = self.comm.gather(np.ascontiguousarray(part), root)
        return None if parts is None else np.concatenate(parts)

    def check_slab(self, name, part):
        """The rank's slab as a C-contiguous array of the volume's dtype, or one error on every rank."""
        with together(self.comm):
            part = as_images(name, part)
            if part.shape != self.slab_shape:
                raise ValueError(
                    f"{name}: expected the slab of shape {self.slab_shape}, planes {self.slab.start} to "
                    f"{self.slab.stop - 1} of {self.shape}, got {part.shape}"
                )
            if part.dtype != self.dtype:
                raise TypeError(f"{name}: expected {self.dtype.name}, the volume's dtype, got {part.dtype}")
        return part

    def sum(self, values):
        """The sums over all ranks of a few numbers, in float64: added in the ranks' order, the same bits everywhere."""
        total, *others = self._gathered(values)
        for row in others:
            total += row
        return total.tolist()

    def max(self, value):
        """The largest of the ranks' numbers; NaN if one is."""
        return float(self._gathered([value]).max())

    def _gathered(self, values):
        own = np.array(values, np.float64)
        every = np.empty((self.size, own.size))
        self.comm.Allgather(own, every)
        return every

    def extended(self, part):
        """An image with halo planes, of the rank's slab."""
        image = np.empty(self.halo_shape, self.dtype)
        image[: self.planes] = part
        return self.exchange(image)

    def exchange(self, image):
        """Fill the halo planes of an image from the neighbours' slabs."""
        n, comm = self.planes, self.comm
        if self.size == 1:
            image[n], image[n + 1] = image[0], image[n - 1]
            return image
        before, after = (self.rank - 1) % self.size, (self.rank + 1) % self.size
        MPI.Request.Waitall([
            comm.Irecv(image[n], after, tag=1), comm.Irecv(image[n + 1], before, tag=2),
            comm.Isend(image[0], before, tag=1), comm.Isend(image[n - 1], after, tag=2),
        ])  # fmt: skip
        return image


class SlabFFT(FFT):
    """The ``FFT`` of volumes in slabs, by mpi4py-fft: images are cut along the first axis, spectra along the second.

    Planes are transformed, every slab is cut along the second axis and exchanged, then columns along the first axis are
    transformed.  Images have their halo planes: ``forward`` does not read them, ``inverse`` fills them.  ``forward``
    returns the plan's own array, which the next transform overwrites.
    """

    library = "mpi4py-fft"

    def __init__(self, volume):
        super().__init__(volume.shape, volume.dtype, volume.allowed)
        self.volume = volume
        self._comms = Subcomm(volume.comm, [volume.size] + [1] * (len(self.shape) - 1), reorder=False)
        # By estimate: measured plans differ from run to run, and so would the last bits.
        plan = functools.partial(LocalFFT, planner_effort="FFTW_ESTIMATE", threads=1)
        by_planes = Pencil(self._comms, self.spectrum_shape, 1)
        by_columns = by_planes.pencil(0)
        self.planes = plan(volume.slab_shape, self.axes[1:], self.dtype)
        self.transfer = by_planes.transfer(by_columns, self.spectrum_dtype)
        self.columns = plan(by_columns.subshape, (0,), self.spectrum_dtype)
        parts = zip(by_columns.substart, by_columns.subshape, strict=True)
        self.slices = tuple(slice(start, start + count) for start, count in parts)

    @property
    def owns_mean(self):
        """Whether the coefficient of the frequency 0 is in this rank's part."""
        return all(part.start == 0 for part in self.slices)

    def empty(self, *kinds):
        local = self.columns.forward.output_array
        forms = {"image": (self.volume.halo_shape, self.dtype), "spectrum": (local.shape, local.dtype)}
        return workspace([forms[kind] for kind in kinds])

    def forward(self, x, out=None):
        self.planes.forward.input_array[...] = x[: self.volume.planes]
        self.planes.forward(normalize=False)
        self.transfer.forward(self.planes.forward.output_array, self.columns.forward.input_array)
        return self.columns.forward(normalize=False)

    def inverse(self, spectrum, out):
        own = self.columns.backward.input_array
        if spectrum is not own:
            own[...] = spectrum
        self.columns.backward(normalize=False)
        self.transfer.backward(self.columns.backward.output_array, self.planes.backward.input_array)
        out[: self.volume.planes] = self.planes.backward(normalize=False)
        return self.volume.exchange(out)

    def free(self):
        self.transfer.destroy()
        self._comms.destroy()

    def coefficients(self, x):
        (out,) = self.empty("spectrum")
        return np.multiply(self.forward(x), self.real_dtype.type(self.scale), out=out)

    def laplacian(self):
        return tuple(axis[part] for axis, part in zip(super().laplacian(), self.slices, strict=True))

    def copies(self):
        return spectrum_copies(self.shape[-1], self.dtype)[self.slices[-1]]


def _sizes(shape):
    if not isinstance(shape, tuple | list) or not all(isinstance(n, int | np.integer) for n in shape):
        raise TypeError(f"shape: expected a tuple of integers, got {shape!r}")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"shape: expected 2 or 3 positive sizes, got {tuple(shape)}")
    return tuple(int(n) for n in shape)


def _real(dtype):
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"dtype: expected float32 or float64, got {dtype}")
    return dtype


def _share_of_cores(comm):
    """The threads of a rank: its cores, divided among the ranks of the node that may run on them too."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    sharing = sum(not cores.isdisjoint(others) for others in node.allgather(cores))
    node.Free()
    return max(1, min(available_threads(), len(cores) // sharing))
