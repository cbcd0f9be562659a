"""The kernels of every backend, on one thread: the figures that regressions are judged by."""

import numpy as np

from .common import backend_or_skip, motion_psf, pin_threads, rotating, transfer_function

THREADS = 1
pin_threads(THREADS)


class _Kernel:
    params = (["cython", "numba", "reference"], ["float32", "float64"], [64, 256, 1024])
    param_names = ("backend", "dtype", "size")
    timeout = 300

    def setup(self, backend, dtype, size):
        self.kernels = backend_or_skip(backend)
        self.real, self.complex = np.dtype(dtype), np.result_type(dtype, np.complex64)
        self.shape = (size, size)
        self.sets = rotating(self.make)
        self.call(*next(self.sets))  # compile and start the threads outside the timing

    def field(self, seed, *shape):
        return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(self.real)

    def spectrum(self, seed):
        """Fourier coefficients of an image of white noise."""
        return np.fft.rfft2(self.field(seed, *self.shape), norm="forward").astype(self.complex)

    def fourier_data(self):
        transfer = transfer_function(motion_psf(), self.shape).astype(self.complex)
        rows, columns = self.shape[0], self.shape[1] // 2 + 1
        laplacian = tuple(
            (4 * np.sin(np.pi * np.arange(count) / self.shape[0]) ** 2).astype(self.real) for count in (rows, columns)
        )
        copies = np.full(columns, 2, self.real)
        copies[[0, -1]] = 1
        return transfer, laplacian, copies

    def time_call(self, backend, dtype, size):
        self.call(*next(self.sets))


class Gradient(_Kernel):
    def make(self, seed):
        return self.field(seed, *self.shape), np.empty((2, *self.shape), self.real)

    def call(self, x, out):
        self.kernels.gradient(x, out=out, threads=THREADS)


class GradientAdjoint(_Kernel):
    def make(self, seed):
        return self.field(seed, 2, *self.shape), np.empty(self.shape, self.real)

    def call(self, p, out):
        self.kernels.gradient_adjoint(p, out=out, threads=THREADS)


class UpdateFieldDivergence(_Kernel):
    """The lower level's pass over the field: update, clip and divergence."""

    params = (*_Kernel.params, [False, True])
    param_names = (*_Kernel.param_names, "isotropic")

    def setup(self, backend, dtype, size, isotropic):
        self.isotropic = isotropic
        super().setup(backend, dtype, size)

    def make(self, seed):
        return self.field(seed, *self.shape), self.field(seed, 2, *self.shape), np.empty(self.shape, self.real)

    def call(self, x, q, out):
        self.kernels.update_field_divergence(x, q, 1.6, 0.5, 0.5, self.isotropic, out, threads=THREADS)

    def time_call(self, backend, dtype, size, isotropic):
        self.call(*next(self.sets))


class FieldDivergence(_Kernel):
    """The upper level's stencil pass."""

    def make(self, seed):
        return self.field(seed, 2, *self.shape), np.empty(self.shape, self.real)

    def call(self, q, out):
        self.kernels.field_divergence(q, 0.5, False, 1.0, -2.0, out, threads=THREADS)


class ProjectL1Ball(_Kernel):
    """A field onto the ball of half its norm; "warm" starts from the threshold of the last projection."""

    params = (*_Kernel.params, ["cold", "warm"])
    param_names = (*_Kernel.param_names, "start")

    def setup(self, backend, dtype, size, start):
        super().setup(backend, dtype, size)

    def make(self, seed):
        x = self.field(seed, 2, *self.shape)
        threshold = np.zeros(())
        radius = 0.5 * float(np.abs(x).sum(dtype=np.float64))
        self.kernels.project_l1_ball(x, radius, threshold=threshold, threads=THREADS)
        return x, radius, threshold, np.empty_like(x)

    def call(self, x, radius, threshold, out):
        self.kernels.project_l1_ball(x, radius, threshold=threshold, out=out, threads=THREADS)

    def time_call(self, backend, dtype, size, start):
        x, radius, threshold, out = next(self.sets)
        if start == "cold":
            threshold[...] = 0
        self.call(x, radius, threshold, out)


class SoftThreshold(_Kernel):
    def make(self, seed):
        x = self.field(seed, *self.shape)
        return x, np.empty_like(x)

    def call(self, x, out):
        self.kernels.soft_threshold(x, 0.5, out=out, threads=THREADS)


class LowerSpectrum(_Kernel):
    """The lower level's x-update in the Fourier domain."""

    def make(self, seed):
        self.transfer, self.laplacian, self.copies = self.fourier_data()
        return self.spectrum(seed), self.spectrum(seed + 1000), np.empty_like(self.transfer)

    def call(self, r, data, work):
        work[...] = r  # updated in place: without the copy the input would drift away
        self.kernels.lower_spectrum(work, self.transfer, data, self.laplacian, 0.05, self.copies, threads=THREADS)


class UpperSpectrum(_Kernel):
    """The upper level's x-update and data-ball update in the Fourier domain."""

    def make(self, seed):
        self.transfer, self.laplacian, self.copies = self.fourier_data()
        data, target, residual = (self.spectrum(seed + 1000 * k) for k in (1, 2, 3))
        return self.spectrum(seed), target, data, residual, np.empty_like(data)

    def call(self, r, target, data, residual, work):
        work[...] = r
        # shrink 0.5 makes the residual's update a contraction, so that it keeps its size over the calls
        self.kernels.upper_spectrum(
            work, None, target, self.transfer, data, residual, self.laplacian, 1.0, 1.0, 100.0, 0.0, 1.6, 0.5,
            self.copies, threads=THREADS,
        )  # fmt: skip
