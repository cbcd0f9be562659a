"""The kernels of every backend, on one thread: the figures that regressions are judged by."""

import numpy as np

from .common import (
    BACKENDS,
    DEVICE_ROTATION_BYTES,
    ROTATION_BYTES,
    THREADS,
    Prepared,
    backend_or_skip,
    motion_psf,
    noise,
    on_device,
    pin_threads,
    rotating,
    synchroniser,
    transfer_function,
)

pin_threads(THREADS)

REAL, COMPLEX, COILS = ["float32", "float64"], ["complex64", "complex128"], 8
SIZES, FEW_SIZES, VOLUMES = [64, 128, 256, 512, 1024, 2048, 4096], [64, 256, 1024], [64, 128]
# Where one call of the formulas in NumPy takes seconds, nobody compares with it.
REFERENCE_UP_TO = 1 << 21


class _Kernel(Prepared):
    """``make`` the arrays of data set ``seed``, ``call`` the kernel on them; another set at each call."""

    params = (BACKENDS, [THREADS], REAL, SIZES)
    param_names = ("backend", "threads", "dtype", "size")
    repeat, warmup_time = (5, 100, 0.3), 0.1
    ndim = 2

    def prepare(self, backend, threads, dtype, size, *choice):
        self.shape = (size,) * self.ndim
        if backend == "reference" and size**self.ndim > REFERENCE_UP_TO:
            raise NotImplementedError(f"the reference is measured up to {REFERENCE_UP_TO} pixels")
        self.kernels, self.threads = backend_or_skip(backend), threads
        self.dtype, self.complex = np.dtype(dtype), np.result_type(dtype, np.complex64)
        self.real = np.empty(0, dtype).real.dtype
        self.choose(*choice)
        together = DEVICE_ROTATION_BYTES if backend == "cuda" else ROTATION_BYTES
        self.sets = rotating(lambda seed: on_device(backend, self.make(seed)), together=together)
        self.synchronise = synchroniser(backend)
        try:
            self.time_call()  # compile and start the threads outside the timing
        except AttributeError as error:
            if error.obj is not self.kernels:
                raise
            raise NotImplementedError(f"this version has no kernel {error.name!r}") from error

    def choose(self):
        """Keep the parameters beyond the size."""

    def time_call(self, *parameters):
        self.call(*next(self.sets))
        self.synchronise()

    def field(self, seed, *shape):
        return noise(seed, shape, self.dtype)

    def spectrum(self, seed):
        """Half of the Fourier coefficients of an image of white noise, as far as a kernel can tell."""
        return noise(seed, (*self.shape[:-1], self.shape[-1] // 2 + 1), self.complex) / self.shape[0]

    def fourier_data(self):
        """Transfer function, Laplacian and the coefficients' copies; for a volume the same blur in each plane."""
        plane = transfer_function(motion_psf(), self.shape[-2:]).astype(self.complex)
        counts = (*self.shape[:-1], plane.shape[-1])
        laplacian = tuple((4 * np.sin(np.pi * np.arange(n) / self.shape[0]) ** 2).astype(self.real) for n in counts)
        copies = np.full(counts[-1], 2, self.real)
        copies[[0, -1]] = 1
        return np.ascontiguousarray(np.broadcast_to(plane, counts)), laplacian, copies


class _Volume:
    """The same of a volume."""

    params = (BACKENDS, [THREADS], REAL, VOLUMES)
    ndim = 3


class Gradient(_Kernel):
    def make(self, seed):
        return self.field(seed, *self.shape), np.empty((self.ndim, *self.shape), self.real)

    def call(self, x, out):
        self.kernels.gradient(x, ndim=self.ndim, out=out, threads=self.threads)


class GradientVolume(_Volume, Gradient):
    pass


class GradientAdjoint(_Kernel):
    def make(self, seed):
        return self.field(seed, self.ndim, *self.shape), np.empty(self.shape, self.real)

    def call(self, p, out):
        self.kernels.gradient_adjoint(p, ndim=self.ndim, out=out, threads=self.threads)


class GradientAdjointVolume(_Volume, GradientAdjoint):
    pass


class UpdateFieldDivergence(_Kernel):
    """The lower level's pass over the field: update, clip and divergence."""

    params = (*_Kernel.params, ["anisotropic", "isotropic"])
    param_names = (*_Kernel.param_names, "tv")

    def choose(self, tv="anisotropic"):
        self.isotropic = tv == "isotropic"

    def make(self, seed):
        x, q = self.field(seed, *self.shape), self.field(seed, self.ndim, *self.shape)
        return x, q, np.empty(self.shape, self.dtype)

    def call(self, x, q, out):
        self.kernels.update_field_divergence(x, q, 1.6, 0.5, 0.5, self.isotropic, out, threads=self.threads)


class UpdateFieldDivergenceVolume(_Volume, UpdateFieldDivergence):
    param_names = _Kernel.param_names


class UpdateFieldDivergenceComplex(UpdateFieldDivergence):
    params = (BACKENDS, [THREADS], COMPLEX, FEW_SIZES, ["anisotropic", "isotropic"])


class FieldDivergence(_Kernel):
    """The upper level's stencil pass."""

    def make(self, seed):
        return self.field(seed, self.ndim, *self.shape), np.empty(self.shape, self.real)

    def call(self, q, out):
        self.kernels.field_divergence(q, 0.5, False, 1.0, -2.0, out, threads=self.threads)


class FieldDivergenceVolume(_Volume, FieldDivergence):
    pass


class ProjectL1Ball(_Kernel):
    """A field onto the ball of half its norm; "warm" starts from the threshold of the last projection."""

    params = (*_Kernel.params, ["cold", "warm"])
    param_names = (*_Kernel.param_names, "start")

    def choose(self, start):
        self.cold = start == "cold"

    def make(self, seed):
        x = self.field(seed, 2, *self.shape)
        return x, 0.5 * float(np.abs(x).sum(dtype=np.float64)), np.zeros(()), np.empty_like(x)

    def call(self, x, radius, threshold, out):
        if self.cold:
            threshold[...] = 0
        self.kernels.project_l1_ball(x, radius, threshold=threshold, out=out, threads=self.threads)


class SoftThreshold(_Kernel):
    def make(self, seed):
        x = self.field(seed, *self.shape)
        return x, np.empty_like(x)

    def call(self, x, out):
        self.kernels.soft_threshold(x, 0.5, out=out, threads=self.threads)


class LowerSpectrum(_Kernel):
    """The lower level's x-update in the Fourier domain."""

    def make(self, seed):
        transfer, laplacian, copies = self.fourier_data()
        return self.spectrum(seed), transfer, self.spectrum(seed + 1000), laplacian, copies, np.empty_like(transfer)

    def call(self, r, transfer, data, laplacian, copies, work):
        work[...] = r  # updated in place: without the copy the input would drift away
        self.kernels.lower_spectrum(work, transfer, data, laplacian, 0.05, 0.0, copies, threads=self.threads)


class LowerSpectrumVolume(_Volume, LowerSpectrum):
    pass


class UpperSpectrum(_Kernel):
    """The upper level's x-update and data-ball update in the Fourier domain."""

    def make(self, seed):
        data, target, residual = (self.spectrum(seed + 1000 * k) for k in (1, 2, 3))
        transfer, laplacian, copies = self.fourier_data()
        return self.spectrum(seed), target, transfer, data, residual, laplacian, copies, np.empty_like(data)

    def call(self, r, target, transfer, data, residual, laplacian, copies, work):
        work[...] = r
        # shrink 0.5 makes the residual's update a contraction, so that it keeps its size over the calls
        self.kernels.upper_spectrum(
            work, None, target, transfer, data, residual, laplacian, 1.0, 1.0, 1.0, 100.0, 0.0, 1.6, 0.5, copies,
            threads=self.threads,
        )  # fmt: skip


class UpperSpectrumVolume(_Volume, UpperSpectrum):
    pass


class _Items(_Kernel):
    """Items side by side that share an operator, each with parameters of its own: a batch's kernels."""

    params = (BACKENDS, [THREADS], REAL, [64, 128, 256], [1, 16])
    param_names = (*_Kernel.param_names, "items")

    def choose(self, items):
        self.items = items

    def spectra(self, seed):
        return np.stack([self.spectrum(seed + 100 * item) for item in range(self.items)])


class UpdateFieldDivergenceBatch(_Items):
    def make(self, seed):
        x, q = self.field(seed, self.items, *self.shape), self.field(seed, self.items, 2, *self.shape)
        return x, q, np.full(self.items, 0.5), np.ones_like(x)

    def call(self, x, q, thresholds, out):
        update = self.kernels.update_field_divergence_batch
        update(x, q, 1.6, thresholds, thresholds, False, out, threads=self.threads)


class LowerSpectrumBatch(_Items):
    def make(self, seed):
        transfer, laplacian, copies = self.fourier_data()
        r, data, penalties = self.spectra(seed), self.spectra(seed + 10_000), np.full(self.items, 0.05)
        shifts, squares = np.zeros(self.items), np.zeros(self.items)
        return r, transfer, data, laplacian, penalties, shifts, copies, squares, np.ones_like(r)

    def call(self, r, transfer, data, laplacian, penalties, shifts, copies, squares, work):
        work[...] = r  # updated in place, as above
        self.kernels.lower_spectrum_batch(
            work, transfer, data, laplacian, penalties, shifts, copies, squares, threads=self.threads
        )


class UpperSpectrumBatch(_Items):
    def make(self, seed):
        r, target, data, residual = (self.spectra(seed + 10_000 * k) for k in range(4))
        transfer, laplacian, copies = self.fourier_data()
        ones = np.ones(self.items)
        return (
            r, target, transfer, data, residual, laplacian, ones, 100 * ones, ones / 2, copies,
            np.zeros((self.items, 3)), np.ones_like(r),
        )  # fmt: skip

    def call(self, r, target, transfer, data, residual, laplacian, ones, strong, halves, copies, sums, work):
        work[...] = r
        self.kernels.upper_spectrum_batch(
            work, target, transfer, data, residual, laplacian, 1.0, ones, ones, strong, 1.6, halves, copies, sums,
            threads=self.threads,
        )  # fmt: skip


# Large outputs below are filled, so that no page of theirs is touched for the first time inside the timing.


class _Coils(_Kernel):
    """Eight coils; maps, spectra and fields are complex."""

    params = (BACKENDS, [THREADS], COMPLEX, [64, 256])

    def coils(self, seed):
        return self.field(seed, COILS, *self.shape)

    def mask(self, seed):
        return (np.random.default_rng(seed).random(self.shape) < 0.3).astype(self.real)


class CoilImages(_Coils):
    def make(self, seed):
        return self.field(seed, *self.shape), self.coils(seed), np.ones((COILS, *self.shape), self.complex)

    def call(self, x, maps, out):
        self.kernels.coil_images(x, maps, out, threads=self.threads)


class CoilCombine(_Coils):
    def make(self, seed):
        return self.coils(seed), self.coils(seed + 1000), np.empty(self.shape, self.complex)

    def call(self, images, maps, out):
        self.kernels.coil_combine(images, maps, out, threads=self.threads)


class CoilUpdate(_Coils):
    """The update of the split coil images in the Fourier domain."""

    def make(self, seed):
        mask = self.mask(seed)
        return self.coils(seed), self.coils(seed + 1000), mask, mask * self.coils(seed + 2000)

    def call(self, spectra, field, mask, data):
        self.kernels.coil_update(spectra, field, mask, data, 1.0, 1.6, 0.5, threads=self.threads)


class CoilPull(_Coils):
    """The coils' share of the x-update's right-hand side."""

    def make(self, seed):
        mask, field = self.mask(seed), self.coils(seed)
        return field, mask, mask * self.coils(seed + 1000), np.ones_like(field)

    def call(self, field, mask, data, out):
        self.kernels.coil_pull(field, mask, data, 0.5, out, threads=self.threads)


class Haar(_Kernel):
    """Four levels of the orthonormal transform."""

    params = (BACKENDS, [THREADS], [*REAL, "complex64"], SIZES, ["forward", "inverse"])
    param_names = (*_Kernel.param_names, "direction")

    def choose(self, direction="forward"):
        self.direction = direction

    def make(self, seed):
        return self.field(seed, *self.shape), np.empty(self.shape, self.dtype)

    def call(self, x, out):
        transform = getattr(self.kernels, f"haar_{self.direction}")
        transform(x, level=4, ndim=self.ndim, out=out, threads=self.threads)


class HaarVolume(_Volume, Haar):
    param_names = _Kernel.param_names


class Frame(_Kernel):
    """Two levels of the undecimated transform, seven bands: Haar, and the four taps of Daubechies' "db2"."""

    params = (BACKENDS, [THREADS], [*REAL, "complex64"], [64, 256], ["haar", "db2"], ["forward", "adjoint"])
    param_names = (*_Kernel.param_names, "wavelet", "direction")

    def choose(self, wavelet, direction):
        root = np.sqrt(3)
        low = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / 8
        self.filters = np.stack([low, low[::-1] * [1, -1, 1, -1]])
        self.wavelet, self.direction = wavelet, direction

    def make(self, seed):
        shapes = [self.shape, (7, *self.shape)]
        source, target = shapes if self.direction == "forward" else shapes[::-1]
        return self.field(seed, *source), np.ones(target, self.dtype)

    def call(self, source, out):
        if self.wavelet == "haar":
            getattr(self.kernels, f"frame_{self.direction}")(source, 2, 2, out, threads=self.threads)
        else:
            transform = getattr(self.kernels, f"filter_bank_{self.direction}")
            transform(source, self.filters, 2, 2, out, threads=self.threads)


class UpdateCoefficients(_Kernel):
    """The update of a frame's seven bands, with one threshold or one for each coefficient."""

    params = (BACKENDS, [THREADS], [*REAL, *COMPLEX], [64, 256], ["one weight", "weights"])
    param_names = (*_Kernel.param_names, "weighting")

    def choose(self, weighting):
        self.weighted = weighting == "weights"

    def make(self, seed):
        t, w = self.field(seed, 7, *self.shape), self.field(seed + 1000, 7, *self.shape)
        return t, w, np.abs(self.field(seed + 2000, 7, *self.shape)) if self.weighted else None, np.ones_like(t)

    def call(self, t, w, weights, out):
        self.kernels.update_coefficients(t, w, 1.6, 0.5, 0.5, 1.0, weights, out, threads=self.threads)


class _Problems(_Kernel):
    """Constrained models side by side, an image each."""

    params = (BACKENDS, [THREADS], REAL, FEW_SIZES, [1, 4])
    param_names = (*_Kernel.param_names, "problems")

    def choose(self, problems):
        self.problems = problems


class UpdateFields(_Problems):
    """The update of the isotropic fields, with their magnitudes."""

    def make(self, seed):
        x, q = self.field(seed, self.problems, *self.shape), self.field(seed, self.problems, 2, *self.shape)
        return x, q, np.ones_like(x), np.linspace(0.3, 0.6, self.problems), np.ones(self.problems)

    def call(self, x, q, magnitudes, thresholds, scales):
        self.kernels.update_fields(x, q, magnitudes, 1.6, thresholds, scales, True, threads=self.threads)


class BallThresholds(_Problems):
    """Balls of half the norm; "warm" starts from the thresholds of the last call."""

    params = (*_Problems.params, ["cold", "warm"])
    param_names = (*_Problems.param_names, "start")

    def choose(self, problems, start):
        self.problems, self.cold = problems, start == "cold"

    def make(self, seed):
        magnitudes = np.abs(self.field(seed, self.problems, *self.shape))
        return magnitudes, 0.5 * magnitudes.sum(axis=(1, 2), dtype=np.float64), np.zeros(self.problems)

    def call(self, magnitudes, radii, thresholds):
        if self.cold:
            thresholds[...] = 0
        self.kernels.ball_thresholds(magnitudes, radii, thresholds, threads=self.threads)


class DataStep(_Kernel):
    """The subproblem's x-update and its split of the data, in the Fourier domain."""

    params = (BACKENDS, [THREADS], REAL, FEW_SIZES)

    def make(self, seed):
        spectra = [self.spectrum(seed + 1000 * k)[None] for k in range(4)]
        gram = (np.random.default_rng(seed).random(spectra[0].shape[1:]) < 0.3).astype(self.real)
        power = np.ones(spectra[0].shape, self.real)
        return *spectra, gram, 1 / (1 + gram), 0.5 * gram, np.empty_like(spectra[0]), power

    def call(self, r, z, base, observed, gram, inverse, factor, work, power):
        work[...] = r  # updated in place: without the copy the input would drift away
        self.kernels.data_step(
            work, z, power, base, observed, gram, inverse, factor, 1.0, 1.0, 1.6, 1.0, threads=self.threads
        )
