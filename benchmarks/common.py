"""What the suite's classes share: backends, pinned threads, one preparation a process; problems from NumPy alone."""

import contextlib
import itertools
import math
import os
import sys
import time

import numpy as np

# Every class has the same ones, whatever is installed.
BACKENDS = ["cython", "numba", "reference", "cuda"]
THREADS = 1

NOISE = 0.01
TV_WEIGHT = 1.2e-3
# For k-space, of a sample, and the lower level of it.
KSPACE_NOISE, KSPACE_WEIGHT = 0.005, 1e-3
# Together larger than a core's second-level cache, and a GPU's: one set used again and again flatters a kernel.
ROTATION_BYTES, DEVICE_ROTATION_BYTES = 16 << 20, 128 << 20


def pin_threads(threads):
    """Hold OpenMP and Numba in this process to that many threads; call it before they start."""
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)


class Prepared:
    """A class of the suite whose parameters begin with backend and threads, and whose data are made once a process.

    asv calls ``setup`` before every timed call, on the same object.
    """

    timeout = 600
    # Twice a few calls, each timed by itself: the least number, the most, and seconds.
    rounds, number, repeat, warmup_time = 2, 1, (3, 10, 2.0), 0.0
    prepared = None

    def setup(self, *parameters):
        if self.prepared != parameters:
            pin_threads(parameters[1])
            self.prepare(*parameters)
            self.prepared = parameters


def backend_or_skip(name):
    """The kernels of a backend; asv skips a benchmark whose setup raises NotImplementedError."""
    from bioperf.kernels import get_backend

    try:
        kernels = get_backend(name)
        if name == "cuda":
            import torch  # its tensors are the device arrays
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    if name == "cuda" and not torch.cuda.is_available():
        raise NotImplementedError("no CUDA device")
    return kernels


def use_backend(name):
    """Make the solvers of this process take that backend: they take the first that loads, those before it are hidden.

    To be called before any kernel is loaded.  "cuda" needs the solvers' data on the device instead (``on_device``).
    """
    before = {"cython": [], "numba": ["_cython"], "reference": ["_cython", "_numba"], "cuda": []}[name]
    for module in (f"bioperf.kernels.{module}" for module in before):
        if sys.modules.get(module):
            raise RuntimeError(f"{module} is loaded already")
        sys.modules[module] = None
    backend_or_skip(name)


@contextlib.contextmanager
def skipping_refusals(backend):
    """What the solvers refuse on a GPU is n/a, no failure."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if backend == "cuda" and any(word in str(error) for word in ("GPU", "cuda")):
            raise NotImplementedError(str(error)) from error
        raise


def require_ran(backend, solution):
    if solution.backend != backend:
        raise NotImplementedError(f"the solver ran on the backend {solution.backend!r}")


def on_device(backend, values):
    """The arrays among the values as CUDA tensors for "cuda", unchanged for the others; numbers stay on the host."""
    if backend != "cuda":
        return values
    import torch

    return tuple(
        on_device(backend, value) if isinstance(value, tuple)
        else torch.from_numpy(value).cuda() if isinstance(value, np.ndarray) and value.ndim
        else value
        for value in values
    )  # fmt: skip


def on_host(x):
    return x.cpu().numpy() if hasattr(x, "cpu") else x


def synchroniser(backend):
    """What a timed call ends with: the wait for the device, nothing on the host."""
    if backend != "cuda":
        return lambda: None
    import torch

    return torch.cuda.synchronize


def fastest(call, times=3):
    """Seconds of the fastest of so many calls."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def rotating(make, at_least=2, at_most=64, together=ROTATION_BYTES):
    """An endless cycle over data sets ``make(0), make(1), ...`` (tuples of arrays), so many bytes together."""
    first = make(0)
    size = sum(getattr(a, "nbytes", 0) for a in first)
    count = max(at_least, min(at_most, together // max(size, 1)))
    return itertools.cycle([first, *(make(k) for k in range(1, count))])


def noise(seed, shape, dtype):
    """Standard normal values, real or complex; large arrays repeat a block, since drawing them would take seconds."""
    dtype = np.dtype(dtype)
    real = np.empty(0, dtype).real.dtype
    block = min(math.prod(shape), 262_139)  # a prime: no row repeats the one above it
    rng = np.random.default_rng([seed, *shape])
    return np.resize(rng.standard_normal(block * (dtype.itemsize // real.itemsize), real).view(dtype), shape)


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
