"""The kernels of every backend, on one thread: the figures that regressions are judged by."""

import numpy as np

from .common import backend_or_skip, motion_psf, pin_threads, rotating, transfer_function

THREADS = 1
pin_threads(THREADS)

BACKENDS, COMPLEX, COILS = ["cython", "numba", "reference"], ["complex64", "complex128"], 8


class _Kernel:
    params = (BACKENDS, ["float32", "float64"], [64, 256, 1024])
    param_names = ("backend", "dtype", "size")
    timeout = 300

    def setup(self, backend, dtype, size):
        self.kernels = backend_or_skip(backend)
        self.dtype, self.complex = np.dtype(dtype), np.result_type(dtype, np.complex64)
        self.real = np.empty(0, dtype).real.dtype
        self.shape = (size, size)
        self.sets = rotating(self.make)
        self.call(*next(self.sets))  # compile and start the threads outside the timing

    def field(self, seed, *shape):
        rng = np.random.default_rng([seed, *shape])
        field = rng.standard_normal(shape)
        if self.dtype.kind == "c":
            field = field + 1j * rng.standard_normal(shape)
        return field.astype(self.dtype)

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
        return self.field(seed, *self.shape), self.field(seed, 2, *self.shape), np.empty(self.shape, self.dtype)

    def call(self, x, q, out):
        self.kernels.update_field_divergence(x, q, 1.6, 0.5, 0.5, self.isotropic, out, threads=THREADS)

    def time_call(self, backend, dtype, size, isotropic):
        self.call(*next(self.sets))


class UpdateFieldDivergenceComplex(UpdateFieldDivergence):
    params = (BACKENDS, COMPLEX, *UpdateFieldDivergence.params[2:])


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
        self.kernels.lower_spectrum(work, self.transfer, data, self.laplacian, 0.05, 0.0, self.copies, threads=THREADS)


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
            work, None, target, self.transfer, data, residual, self.laplacian, 1.0, 1.0, 1.0, 100.0, 0.0, 1.6, 0.5,
            self.copies, threads=THREADS,
        )  # fmt: skip


# Large outputs below are filled, so that no page of theirs is touched for the first time inside the timing.


class _Coils(_Kernel):
    """Eight coils; maps, spectra and fields are complex."""

    params = (BACKENDS, COMPLEX, [64, 256])

    def coils(self, seed):
        return self.field(seed, COILS, *self.shape)

    def mask(self, seed):
        return (np.random.default_rng(seed).random(self.shape) < 0.3).astype(self.real)


class CoilImages(_Coils):
    def make(self, seed):
        return self.field(seed, *self.shape), self.coils(seed), np.ones((COILS, *self.shape), self.complex)

    def call(self, x, maps, out):
        self.kernels.coil_images(x, maps, out, threads=THREADS)


class CoilCombine(_Coils):
    def make(self, seed):
        return self.coils(seed), self.coils(seed + 1000), np.empty(self.shape, self.complex)

    def call(self, images, maps, out):
        self.kernels.coil_combine(images, maps, out, threads=THREADS)


class CoilUpdate(_Coils):
    """The update of the split coil images in the Fourier domain."""

    def make(self, seed):
        mask = self.mask(seed)
        return self.coils(seed), self.coils(seed + 1000), mask, mask * self.coils(seed + 2000)

    def call(self, spectra, field, mask, data):
        self.kernels.coil_update(spectra, field, mask, data, 1.0, 1.6, 0.5, threads=THREADS)


class CoilPull(_Coils):
    """The coils' share of the x-update's right-hand side."""

    def make(self, seed):
        mask, field = self.mask(seed), self.coils(seed)
        return field, mask, mask * self.coils(seed + 1000), np.ones_like(field)

    def call(self, field, mask, data, out):
        self.kernels.coil_pull(field, mask, data, 0.5, out, threads=THREADS)


class Haar(_Kernel):
    """Four levels of the orthonormal transform."""

    params = (BACKENDS, [*_Kernel.params[1], "complex64"], _Kernel.params[2], ["forward", "inverse"])
    param_names = (*_Kernel.param_names, "direction")

    def setup(self, backend, dtype, size, direction):
        self.direction = direction
        super().setup(backend, dtype, size)

    def make(self, seed):
        return self.field(seed, *self.shape), np.empty(self.shape, self.dtype)

    def call(self, x, out):
        getattr(self.kernels, f"haar_{self.direction}")(x, level=4, out=out, threads=THREADS)

    def time_call(self, backend, dtype, size, direction):
        self.call(*next(self.sets))


class Frame(_Kernel):
    """Two levels of the undecimated transform, seven bands: Haar, and the four taps of Daubechies' "db2"."""

    params = (BACKENDS, ["float32", "float64", "complex64"], [64, 256], ["haar", "db2"], ["forward", "adjoint"])
    param_names = (*_Kernel.param_names, "wavelet", "direction")

    def setup(self, backend, dtype, size, wavelet, direction):
        root = np.sqrt(3)
        low = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / 8
        self.filters = np.stack([low, low[::-1] * [1, -1, 1, -1]])
        self.wavelet, self.direction = wavelet, direction
        super().setup(backend, dtype, size)

    def make(self, seed):
        shapes = [self.shape, (7, *self.shape)]
        source, target = shapes if self.direction == "forward" else shapes[::-1]
        return self.field(seed, *source), np.ones(target, self.dtype)

    def call(self, source, out):
        if self.wavelet == "haar":
            getattr(self.kernels, f"frame_{self.direction}")(source, 2, 2, out, threads=THREADS)
        else:
            transform = getattr(self.kernels, f"filter_bank_{self.direction}")
            transform(source, self.filters, 2, 2, out, threads=THREADS)

    def time_call(self, backend, dtype, size, wavelet, direction):
        self.call(*next(self.sets))


class UpdateCoefficients(_Kernel):
    """The update of a frame's seven bands, with one threshold or one for each coefficient."""

    params = (BACKENDS, [*_Kernel.params[1], *COMPLEX], [64, 256], ["one weight", "weights"])
    param_names = (*_Kernel.param_names, "weighting")

    def setup(self, backend, dtype, size, weighting):
        self.weighted = weighting == "weights"
        super().setup(backend, dtype, size)

    def make(self, seed):
        t, w = self.field(seed, 7, *self.shape), self.field(seed + 1000, 7, *self.shape)
        return t, w, np.abs(self.field(seed + 2000, 7, *self.shape)) if self.weighted else None, np.ones_like(t)

    def call(self, t, w, weights, out):
        self.kernels.update_coefficients(t, w, 1.6, 0.5, 0.5, 1.0, weights, out, threads=THREADS)

    def time_call(self, backend, dtype, size, weighting):
        self.call(*next(self.sets))


class _Problems(_Kernel):
    """Constrained models side by side, an image each."""

    params = (*_Kernel.params, [1, 4])
    param_names = (*_Kernel.param_names, "problems")

    def setup(self, backend, dtype, size, problems):
        self.problems = problems
        super().setup(backend, dtype, size)

    def time_call(self, backend, dtype, size, problems):
        self.call(*next(self.sets))


class UpdateFields(_Problems):
    """The update of the isotropic fields, with their magnitudes."""

    def make(self, seed):
        x, q = self.field(seed, self.problems, *self.shape), self.field(seed, self.problems, 2, *self.shape)
        return x, q, np.ones_like(x), np.linspace(0.3, 0.6, self.problems), np.ones(self.problems)

    def call(self, x, q, magnitudes, thresholds, scales):
        self.kernels.update_fields(x, q, magnitudes, 1.6, thresholds, scales, True, threads=THREADS)


class BallThresholds(_Problems):
    """Balls of half the norm; "warm" starts from the thresholds of the last call."""

    params = (*_Problems.params, ["cold", "warm"])
    param_names = (*_Problems.param_names, "start")

    def setup(self, backend, dtype, size, problems, start):
        super().setup(backend, dtype, size, problems)

    def make(self, seed):
        magnitudes = np.abs(self.field(seed, self.problems, *self.shape))
        radii, thresholds = 0.5 * magnitudes.sum(axis=(1, 2), dtype=np.float64), np.zeros(self.problems)
        self.kernels.ball_thresholds(magnitudes, radii, thresholds, threads=THREADS)
        return magnitudes, radii, thresholds

    def call(self, magnitudes, radii, thresholds):
        self.kernels.ball_thresholds(magnitudes, radii, thresholds, threads=THREADS)

    def time_call(self, backend, dtype, size, problems, start):
        magnitudes, radii, thresholds = next(self.sets)
        if start == "cold":
            thresholds[...] = 0
        self.call(magnitudes, radii, thresholds)


class DataStep(_Kernel):
    """The subproblem's x-update and its split of the data, in the Fourier domain."""

    def make(self, seed):
        spectra = [self.spectrum(seed + 1000 * k)[None] for k in range(4)]
        self.gram = (np.random.default_rng(seed).random(spectra[0].shape[1:]) < 0.3).astype(self.real)
        self.inverse, self.factor = 1 / (1 + self.gram), 0.5 * self.gram
        return *spectra, np.empty_like(spectra[0]), np.ones(spectra[0].shape, self.real)

    def call(self, r, z, base, observed, work, power):
        work[...] = r  # updated in place: without the copy the input would drift away
        self.kernels.data_step(
            work, z, power, base, observed, self.gram, self.inverse, self.factor, 1.0, 1.0, 1.6, 1.0, threads=THREADS
        )
