"""Batches of images in one call, on one thread: time, images per second and memory over the number of images."""

import numpy as np

from .common import (
    BACKENDS,
    NOISE,
    THREADS,
    TV_WEIGHT,
    Prepared,
    blurred,
    fastest,
    image,
    motion_psf,
    on_device,
    pin_threads,
    require_ran,
    skipping_refusals,
    synchroniser,
    use_backend,
)

pin_threads(THREADS)

# Together the formulas in NumPy take minutes; a batch of theirs costs what its images cost.
REFERENCE_UP_TO = 4


class _Batch(Prepared):
    """``images`` observations of one scene, each with noise of its own, blurred by one psf; float32."""

    params = (BACKENDS, [THREADS], [128, 256], [1, 4, 16, 64])
    param_names = ("backend", "threads", "size", "images")
    repeat = (2, 5, 2.0)

    def prepare(self, backend, threads, size, images, *choice):
        if backend == "reference" and images > REFERENCE_UP_TO:
            raise NotImplementedError(f"the reference is measured up to {REFERENCE_UP_TO} images")
        use_backend(backend)
        from bioperf import Blur

        self.threads, self.images, self.synchronise = threads, images, synchroniser(backend)
        self.truth, psf = image(size), motion_psf()
        self.A = Blur(psf, self.truth.shape)
        self.make(backend, psf, *choice)
        with skipping_refusals(backend):
            solution = self.solve()
        self.solutions = solution if isinstance(solution, list) else [solution]
        require_ran(backend, self.solutions[0])

    def make(self, backend, psf):
        y = np.stack([blurred(self.truth, psf, seed=seed) for seed in range(self.images)]).astype(np.float32)
        (self.y,) = on_device(backend, (y,))

    def time_batch(self, *parameters):
        self.solve()
        self.synchronise()

    def peakmem_batch(self, *parameters):
        self.solve()
        self.synchronise()

    def track_images_per_second(self, *parameters):
        return self.images / fastest(self.time_batch)

    track_images_per_second.unit = "images/s"

    def track_iterations(self, *parameters):
        """A mean over the images."""
        return float(np.mean([np.mean(solution.iterations) for solution in self.solutions]))

    track_iterations.unit = "iterations"

    def track_gap(self, *parameters):
        """The largest of the images."""
        return float(np.max([np.max(solution.gap) for solution in self.solutions]))

    track_gap.unit = "relative"


class LowerLevelBatch(_Batch):
    def solve(self):
        from bioperf import solve_lower

        return solve_lower(self.A, self.y, TV_WEIGHT, threads=self.threads)


class BothLevelsBatch(_Batch):
    """The lower level and the upper one, a target given."""

    def make(self, backend, psf):
        super().make(backend, psf)
        noise = np.random.default_rng(1).standard_normal((self.images, *self.truth.shape))
        (self.target,) = on_device(backend, ((self.truth + 0.02 * noise).astype(np.float32),))
        self.epsilon = 0.15 * NOISE * np.sqrt(self.truth.size)

    def solve(self):
        from bioperf import solve_bio

        return solve_bio(
            self.A, self.y, target=self.target, tv_weight=TV_WEIGHT, epsilon=self.epsilon, threads=self.threads
        )


class GridOfWeights(_Batch):
    """One observation with as many weights, in one call as a batch, and one after the other."""

    params = (*_Batch.params, ["batched", "one by one"])
    param_names = ("backend", "threads", "size", "weights", "call")

    def make(self, backend, psf, call):
        y = blurred(self.truth, psf).astype(np.float32)
        self.weights, self.batched = TV_WEIGHT * np.geomspace(0.25, 4, self.images), call == "batched"
        stack = np.ascontiguousarray(np.broadcast_to(y, (self.images, *y.shape)))
        (self.y,) = on_device(backend, (stack,))

    def solve(self):
        from bioperf import solve_lower

        if not self.batched:
            pairs = zip(self.y, self.weights, strict=True)
            return [solve_lower(self.A, y, float(weight), threads=self.threads) for y, weight in pairs]
        try:
            return solve_lower(self.A, self.y, self.weights, threads=self.threads)
        except (TypeError, ValueError) as error:
            if "tv_weight" in str(error):  # commits before the batched engine take one weight a call
                raise NotImplementedError(str(error)) from error
            raise
