"""Deterministic problems from NumPy alone, rotating data sets and pinned threads."""

import itertools
import os

import numpy as np

NOISE = 0.01
TV_WEIGHT = 1.2e-3
# For k-space, of a sample, and the lower level of it.
KSPACE_NOISE, KSPACE_WEIGHT = 0.005, 1e-3
# Together larger than a second-level cache: one set used again and again flatters a kernel.
ROTATION_BYTES = 16 << 20


def pin_threads(threads):
    """Hold OpenMP and Numba in this process to that many threads; call it before they start."""
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)


def backend_or_skip(name):
    """The kernels of a backend; asv skips a benchmark whose setup raises NotImplementedError."""
    from bioperf.kernels import get_backend

    try:
        return get_backend(name)
    except ImportError as error:
        raise NotImplementedError(str(error)) from error


def rotating(make, at_least=2, at_most=64):
    """An endless cycle over data sets ``make(0), make(1), ...`` (tuples of arrays), ``ROTATION_BYTES`` together."""
    first = make(0)
    size = sum(a.nbytes for a in first if isinstance(a, np.ndarray))
    count = max(at_least, min(at_most, ROTATION_BYTES // max(size, 1)))
    return itertools.cycle([first, *(make(k) for k in range(1, count))])


def image(size):
    """Discs, bars, a ramp and a texture in [0, 1]; float64, (size, size)."""
    i, j = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
    x = 0.25 + 0.2 * j
    for row, column, radius, value in ((0.3, 0.35, 0.2, 0.85), (0.38, 0.42, 0.09, 0.15), (0.75, 0.7, 0.15, 0.6)):
        x[(i - row) ** 2 + (j - column) ** 2 < radius**2] = value
    x[(i > 0.55) & (i < 0.9) & (j > 0.1) & (j < 0.45) & (np.floor(j * 40) % 2 == 0)] = 0.95
    texture = (i < 0.45) & (j > 0.62)
    x[texture] = 0.5 + 0.2 * np.sin(2 * np.pi * (23 * i + 11 * j)[texture])
    return x


def motion_psf(size=17):
    """A curved camera path, rasterised by bilinear weights; float64, (size, size), sum 1."""
    t = np.linspace(-1, 1, 400)
    reach = (size - 3) / 2
    row = size // 2 + reach * (0.35 * t + 0.45 * np.sin(2.2 * t))
    column = size // 2 + reach * (0.95 * t * np.cos(0.6 * t))
    psf = np.zeros((size, size))
    for di, dj in itertools.product((0, 1), repeat=2):
        a, b = np.floor(row).astype(int), np.floor(column).astype(int)
        weight = (1 - np.abs(row - a - di)) * (1 - np.abs(column - b - dj))
        np.add.at(psf, (a + di, b + dj), weight)
    return psf / psf.sum()


def gaussian_psf(size=15, std=2.0):
    """A Gaussian on size x size pixels; float64, sum 1."""
    line = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * std**2))
    return np.outer(line, line) / line.sum() ** 2


def transfer_function(psf, shape):
    """The half spectrum of a psf whose centre (kh//2, kw//2) acts on the pixel itself."""
    kernel = np.zeros(shape)
    kernel[: psf.shape[0], : psf.shape[1]] = psf
    return np.fft.rfft2(np.roll(kernel, [-(k // 2) for k in psf.shape], (0, 1)))


def blurred(x, psf, noise=NOISE, seed=0):
    """Periodic blur and white Gaussian noise; float64."""
    y = np.fft.irfft2(transfer_function(psf, x.shape) * np.fft.rfft2(x), x.shape)
    return y + noise * np.random.default_rng(seed).standard_normal(x.shape)


def problem(size, dtype=np.float32, noise=NOISE):
    """Truth, observation and psf of the deblurring problem that the solvers are timed on."""
    x, psf = image(size), motion_psf(min(17, size // 2 * 2 - 1))
    return x.astype(dtype), blurred(x, psf, noise).astype(dtype), psf


def phased(x):
    """An image with a smooth phase; complex128."""
    i, j = np.meshgrid(*(np.linspace(-1, 1, n) for n in x.shape), indexing="ij")
    return x * np.exp(1j * (1.2 * i + 0.8 * j * j))


def kspace(A, x, noise=KSPACE_NOISE, seed=0):
    """Samples of a Fourier operator with complex noise of that standard deviation; complex128."""
    rng = np.random.default_rng(seed)
    error = rng.standard_normal(A.data_shape) + 1j * rng.standard_normal(A.data_shape)
    return A(x) + A.mask * (noise / np.sqrt(2)) * error
