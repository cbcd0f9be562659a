"""What the solvers of one image need to know of a volume in slabs: a ``FourierProblem`` of a rank's part."""

import math

import numpy as np

from .._fourier import FourierProblem, LowerData
from ..kernels import threads_for
from ..operators import Blur
from .kernels import SlabKernels

__all__ = ["Observed", "SlabProblem"]


class SlabProblem(FourierProblem):
    """A blur of a volume in slabs; ``shape`` is the slab's, ``pixels`` the volume's.

    Parameters
    ----------
    volume : Volume
    blur : Blur
        Of the whole volume; its transfer function is computed here, slab by slab.
    """

    def __init__(self, volume, blur):
        self.volume, self.A, self.shape, self.dtype = volume, _Data(), volume.slab_shape, volume.dtype
        self.real_dtype = self.dtype
        self.pixels = math.prod(volume.shape)
        self.allowed = volume.allowed
        self.threads = threads_for(math.prod(volume.halo_shape), self.allowed)
        self.kernels, self.fft = SlabKernels(volume), volume.fft
        self.scale = self.fft.scale
        self.laplacian = tuple(axis / self.dtype.type(self.scale) for axis in self.fft.laplacian())
        self.copies = self.fft.copies()
        self.field_shape = (len(volume.shape), *volume.halo_shape)
        self.plan = self.iterations = None
        self.rounding = 2 * float(np.finfo(self.dtype).eps)
        self.transfer = self._transfer(blur.psf)

    def _transfer(self, psf):
        """This rank's part of the transfer function, as ``Blur.transfer`` has the whole."""
        volume = self.volume
        kernel = np.zeros(volume.slab_shape, self.dtype)
        for k, plane in enumerate(psf):
            at = (k - len(psf) // 2) % volume.shape[0] - volume.slab.start
            if 0 <= at < volume.planes:
                kernel[at][tuple(slice(n) for n in plane.shape)] = plane
                kernel[at] = np.roll(kernel[at], [-(n // 2) for n in plane.shape], range(plane.ndim))
        return self.fft.forward(kernel).copy()

    def lower(self, y):
        return LowerData(self, y.slab)

    def what_ran(self):
        return super().what_ran() | {"fft": f"{self.fft.library}, {self.volume.size} ranks"}

    def square_norm(self, spectrum):
        power = spectrum.real**2 + spectrum.imag**2
        return self.pixels * float(self.volume.sum([np.sum(power * self.copies, dtype=np.float64)])[0])

    def zero_mean(self, spectrum):
        return super().zero_mean(spectrum) if self.fft.owns_mean else spectrum

    def mean_of(self, spectrum):
        """The coefficient of the frequency 0, real, on every rank."""
        mean = spectrum[(0,) * spectrum.ndim].real if self.fft.owns_mean else 0.0
        return float(self.volume.sum([mean])[0])


class _Data:
    """What the data of a solve ask of their operator; a rank has no use for the transfer function of the whole."""

    coefficients = Blur.coefficients


class Observed:
    """A rank's slab of the data, with what the solvers ask of the whole.

    ``numpy.linalg.norm`` and ``size`` are the whole volume's; ``range`` is that of its intensities and ``largest`` its
    largest magnitude.
    """

    def __init__(self, volume, slab):
        self.slab, self.size = slab, math.prod(volume.shape)
        low, high = -volume.max(-float(slab.min())), volume.max(float(slab.max()))
        self.range, self.largest = high - low or 1.0, max(high, -low)
        square = np.vdot(slab, slab) if slab.dtype == np.float64 else np.sum(np.square(slab, dtype=np.float64))
        self._norm = math.sqrt(volume.sum([square])[0])

    def __array_function__(self, function, types, args, kwargs):
        return self._norm if function is np.linalg.norm else NotImplemented
