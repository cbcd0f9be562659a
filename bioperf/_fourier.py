"""The state that both levels share: one image's data, operator and work arrays in the Fourier domain."""

import math

import numpy as np

from .fft import real_fft
from .kernels import available_threads, get_backend, threads_for


class FourierProblem:
    """A blur and its data as Fourier coefficients, with the kernels bound to them.

    ``scale`` and ``laplacian`` absorb the factor that the library's forward transform leaves out:
    a penalty enters the kernels as ``penalty * scale`` beside ``laplacian / scale``.
    """

    def __init__(self, A, dtype, threads=None):
        self.shape, self.dtype = A.shape, np.dtype(dtype)
        self.pixels = math.prod(A.shape)
        self.threads = threads_for(self.pixels, threads or available_threads())
        self.kernels = get_backend()
        self.fft = real_fft(A.shape, dtype, threads=self.threads)
        self.transfer = A.transfer(dtype)
        self.scale = self.fft.scale
        self.laplacian = tuple(axis / self.dtype.type(self.scale) for axis in self.fft.laplacian())
        self.copies = self.fft.copies()
        self.field_shape = (len(A.shape), *A.shape)
        # What rounding alone can make of a residual, relative to the terms that cancel in it.
        self.rounding = 2 * float(np.finfo(self.dtype).eps)

    def what_ran(self):
        return {"backend": self.kernels.name, "fft": self.fft.library, "threads": self.threads}

    def square_norm(self, spectrum):
        """|x|^2 from the Fourier coefficients of x."""
        power = spectrum.real**2 + spectrum.imag**2
        return self.pixels * float(np.sum(power * self.copies, dtype=np.float64))

    def zero_mean(self, spectrum):
        """The spectrum of grad^T p with its mean, 0 but for rounding, set to 0: a large penalty multiplies it."""
        spectrum[(0,) * spectrum.ndim] = 0
        return spectrum

    def total_variation(self, x, isotropic):
        field = np.zeros(self.field_shape, self.dtype)
        return self.kernels.field_status(x, field, 0.0, isotropic, threads=self.threads)[0]
