"""How time grows with pixels and falls with threads, for a fixed number of the lower level's iterations."""

import numpy as np

from .common import (
    BACKENDS,
    THREADS,
    TV_WEIGHT,
    Prepared,
    blurred,
    fastest,
    image,
    motion_psf,
    on_device,
    pin_threads,
    problem,
    require_ran,
    synchroniser,
    use_backend,
)

pin_threads(THREADS)

ITERATIONS = 20
# Each in a process of its own.
COUNTS = [1, 2, 4, 8, 16, 32]


class _Iterations(Prepared):
    """``ITERATIONS`` iterations of the lower level in float32, whatever the problem: none stops before."""

    param_names = ("backend", "threads", "size")
    repeat = (3, 10, 1.0)
    images = 1

    def prepare(self, backend, threads, size):
        use_backend(backend)
        from bioperf import Blur
        from bioperf.kernels import available_threads

        # The least of the cores and of what ``setup`` has pinned; asv forks from a process without OpenMP or Numba.
        if threads > available_threads():
            raise NotImplementedError(f"this process may use {available_threads()} cores")

        self.threads, self.synchronise = threads, synchroniser(backend)
        self.pixels = self.images * size * size
        y, psf = self.observe(size)
        self.A = Blur(psf, (size, size))
        (self.y,) = on_device(backend, (y,))
        require_ran(backend, self.solve())

    def observe(self, size):
        _, y, psf = problem(size)
        return y, psf

    def solve(self):
        from bioperf import solve_lower

        return solve_lower(self.A, self.y, TV_WEIGHT, tol=1e-14, max_iter=ITERATIONS, threads=self.threads)

    def time_iterations(self, *parameters):
        self.solve()
        self.synchronise()

    def peakmem_iterations(self, *parameters):
        self.solve()
        self.synchronise()

    def track_nanoseconds(self, *parameters):
        """A pixel and iteration; the start of the solve is shared out among them."""
        return 1e9 * fastest(self.time_iterations) / (ITERATIONS * self.pixels)

    track_nanoseconds.unit = "ns a pixel and iteration"


class OverPixels(_Iterations):
    params = (BACKENDS, [THREADS], [64, 128, 256, 512, 1024, 2048, 4096])

    def prepare(self, backend, threads, size):
        if backend == "reference" and size > 1024:
            raise NotImplementedError("the reference is measured up to 1024 x 1024")
        super().prepare(backend, threads, size)


class OverThreads(_Iterations):
    """One image: the threads share its rows."""

    params = (BACKENDS, COUNTS, [512, 2048])

    def prepare(self, backend, threads, size):
        if backend not in ("cython", "numba"):
            raise NotImplementedError(f"the backend {backend!r} has no threads to choose")
        super().prepare(backend, threads, size)


class BatchOverThreads(OverThreads):
    """Sixteen images: the threads can share them out."""

    params = (BACKENDS, COUNTS, [256])
    images = 16

    def observe(self, size):
        x, psf = image(size), motion_psf()
        return np.stack([blurred(x, psf, seed=seed) for seed in range(self.images)]).astype(np.float32), psf
