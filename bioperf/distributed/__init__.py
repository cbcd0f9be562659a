"""One volume larger than one node: the solvers on slabs, one a rank of an MPI communicator (mathematics.md 11).

>>> from mpi4py import MPI
>>> from bioperf import distributed
>>> volume = distributed.Volume(MPI.COMM_WORLD, (2048, 2048, 2048), "float32")
>>> y = distributed.read_slab(volume, "Y.npy")
>>> solution = distributed.solve_lower(volume, y, psf, tv_weight=2e-3)
>>> distributed.write_slabs(volume, "OUT.npy", solution.x)

Every rank makes every call, with the same arguments but for the slabs, and gets the same Solution but for x, its slab.
An error that one rank finds is raised on all of them.  Needs the extra "mpi".
"""

try:
    import mpi4py_fft  # noqa: F401
    from mpi4py import MPI  # noqa: F401
except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without a library of MPI
    raise ImportError(
        f"bioperf.distributed needs mpi4py and mpi4py-fft ({error}): pip install bioperf[mpi], with an MPI (the wheel "
        "mpich, or the cluster's) and the headers of FFTW, which mpi4py-fft is built from (Debian: libfftw3-dev)"
    ) from error

from .files import read_slab, write_slabs
from .solve import solve_bio, solve_lower
from .volume import Volume, slab

__all__ = ["Volume", "read_slab", "slab", "solve_bio", "solve_lower", "write_slabs"]
