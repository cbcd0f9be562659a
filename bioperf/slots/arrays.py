"""Where a batch's arrays are, and its transforms there."""

import numpy as np

from .._fourier import compiled_iterations, intensity_range
from ..fft import plan_fft, workspace

# A slot's arrays together, in images: what an iteration needs of it, and all of them.
STATE_IMAGES, SLOT_IMAGES = 6, 12
# What the slots of a thread may take together: near the caches, but enough slots for one check to serve several.
MEMORY, SLOTS = 1 << 22, 32


class HostArrays:
    """NumPy arrays of one thread.

    Attributes
    ----------
    idle_share : float
        The share of idle slots from which the rest close up.
    """

    idle_share = 0.0
    threads = 1

    def __init__(self, problem):
        self.problem, self.kernels = problem, problem.kernels
        shape, dtype = problem.shape, problem.dtype
        self.fft = fft = plan_fft(shape, dtype, threads=1, library=problem.fft.library)
        # pyFFTW's plans are for arrays of one alignment, which the items of a batch do not have.
        self._aligned = fft.empty("image", "spectrum") if fft.library == "pyfftw" else None
        self.plan, self.iterations = compiled_iterations(self.kernels, fft)
        self._kinds = {
            "image": (shape, dtype),
            "field": (problem.field_shape, dtype),
            "spectrum": (fft.spectrum_shape, fft.spectrum_dtype),
        }

    def capacity(self, count):
        """Slots for items of which there are so many."""
        item = STATE_IMAGES * self.problem.pixels * self.problem.dtype.itemsize
        return min(count, max(1, min(SLOTS, MEMORY // item)))

    def empty(self, count, kind):
        shape, dtype = self._kinds[kind]
        return workspace([((count, *shape), dtype)])[0]

    def numbers(self, *shape):
        """Float64 zeros that kernels read and write."""
        return np.zeros(shape)

    def results(self, count):
        return np.empty((count, *self.problem.shape), self.problem.dtype)

    def run(self, key, function, *arguments):
        """Do what ``function`` does; ``key`` stands for what it does, so that it can be recorded and replayed."""
        function(*arguments)

    def groups(self, slots):
        """The slots as indices that one update at a time takes."""
        return [slice(slot, slot + 1) for slot in slots]

    def stretches(self, slots, active):
        """Slices of slots that together hold these, of the ``active`` ones."""
        return [slice(slot, slot + 1) for slot in slots]

    def per_item(self, numbers, array):
        """A number for each item, in the real type of the array, to multiply its items by."""
        return numbers.astype(array.real.dtype).reshape(-1, *[1] * (array.ndim - 1))

    def stack(self, items):
        return np.stack(items)

    def coefficients(self, y):
        """The operator's Fourier coefficients of the data, and what of each item's data no image reaches."""
        found = [self.problem.A.coefficients(item, self.fft) for item in y]
        return np.stack([data for data, _ in found]), np.array([rest for _, rest in found])

    def image_coefficients(self, images):
        return np.stack([self.fft.coefficients(image) for image in images])

    def ranges(self, images):
        return np.array([intensity_range(image) for image in images])

    def norms(self, y):
        return np.array([float(np.linalg.norm(item)) for item in y])

    def square_norms(self, spectra):
        return np.array([self.problem.square_norm(spectrum) for spectrum in spectra])

    def gradient(self, x, q, slots):
        for slot in slots:
            self.kernels.gradient(x[slot], ndim=len(self.problem.shape), out=q[slot], threads=1)

    def zero_mean(self, spectra):
        """grad^T p has mean 0 but for rounding, which a large penalty multiplies."""
        spectra[(slice(None), *[0] * len(self.problem.shape))] = 0

    def put(self, numbers, slots, values):
        numbers[slots] = values

    def host(self, numbers):
        """Numbers that kernels wrote, on the host."""
        return numbers

    def device(self, numbers):
        """Numbers of the host where kernels read them."""
        return numbers

    def shrink(self, squares, radii, shrinks):
        """shrinks <- the factors that bring residuals of these squared norms into their balls."""
        norms = np.sqrt(self.problem.pixels * squares)
        np.divide(radii, norms, out=shrinks, where=norms > 0)
        shrinks[norms == 0] = 1
        np.minimum(shrinks, 1, out=shrinks)

    def forward(self, images, spectra, slots):
        """The transforms of the items in a slice of the slots; the images may be overwritten."""
        self._each(self.fft.forward, 0, images[slots], spectra[slots])

    def inverse(self, spectra, images, slots):
        self._each(self.fft.inverse, 1, spectra[slots], images[slots])

    def _each(self, transform, own, sources, targets):
        for source, target in zip(sources, targets, strict=True):
            if self._aligned:
                self._aligned[own][...] = source
                found = transform(self._aligned[own], self._aligned[1 - own])
            else:
                found = transform(source, target)
            if found is not target:
                target[...] = found
