"""Where a batch's arrays are, and its transforms there."""

import functools
import importlib.util

import numpy as np

from .._fourier import intensity_range
from ..fft import plan_fft, workspace
from ..kernels import run_tasks

# A slot's fields and spectra together, in images of the field's dtype (four fields of d components counted as d).
SLOT_IMAGES = 12
# What the slots of a batch may take together.
MEMORY = 1 << 28


def compiled_iterations():
    """The module of whole compiled iterations, or None where it was not built."""
    if importlib.util.find_spec("bioperf.kernels.iterations") is None:
        return None
    from ..kernels import iterations

    return iterations


class HostArrays:
    """NumPy arrays, one item a thread.

    Attributes
    ----------
    idle_share : float
        The share of idle slots from which the rest close up.

    Parameters
    ----------
    problem : FourierProblem
    threads : int
        Over the items.
    """

    idle_share = 0.0

    def __init__(self, problem, threads):
        self.problem, self.kernels, self.threads = problem, problem.kernels, threads
        shape, dtype = problem.shape, problem.dtype
        self.ffts = [plan_fft(shape, dtype, threads=1, library=problem.fft.library) for _ in range(threads)]
        fft = self.ffts[0]
        # pyFFTW's plans are for arrays of one alignment, which the items of a batch do not have.
        pairs = [each.empty("image", "spectrum") for each in self.ffts] if fft.library == "pyfftw" else []
        self._aligned = dict(zip(self.ffts, pairs, strict=False))
        # Whole iterations without the interpreter, where the transforms are the package's own.
        self.plan = getattr(fft, "plan", None)
        self.iterations = compiled_iterations() if self.kernels.name == "cython" and self.plan is not None else None
        self._kinds = {
            "image": (shape, dtype),
            "field": (problem.field_shape, dtype),
            "spectrum": (fft.spectrum_shape, fft.spectrum_dtype),
        }

    def capacity(self, count):
        """Slots for a batch of that many items: as many as ``MEMORY`` holds, and one for each thread at least."""
        item = SLOT_IMAGES * self.problem.pixels * self.problem.dtype.itemsize
        return max(1, min(count, max(self.threads, MEMORY // item // self.threads * self.threads)))

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

    def per_item(self, numbers, array):
        """A number for each item, in the real type of the array, to multiply its items by."""
        return numbers.astype(array.real.dtype).reshape(-1, *[1] * (array.ndim - 1))

    def stack(self, items):
        return np.stack(items)

    def data_images(self, y):
        """The operator's images of the data (zero-filled for k-space)."""
        return np.stack([self.problem.A.data_image(item) for item in y])

    def coefficients(self, y):
        """The operator's Fourier coefficients of the data, and what of each item's data no image reaches."""
        found = [self.problem.A.coefficients(item, self.ffts[0]) for item in y]
        return np.stack([data for data, _ in found]), np.array([rest for _, rest in found])

    def image_coefficients(self, images):
        return np.stack([self.ffts[0].coefficients(image) for image in images])

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

    def forward(self, images, spectra, count):
        """The transforms of the first ``count`` items; the images may be overwritten."""
        self._share(self._forward, images[:count], spectra[:count])

    def inverse(self, spectra, images, count):
        self._share(self._inverse, spectra[:count], images[:count])

    def _share(self, transform, sources, targets):
        count = len(sources)
        parts = min(self.threads, count)
        cuts = [count * k // parts for k in range(parts + 1)]
        tasks = [
            functools.partial(transform, self.ffts[k], sources[cuts[k] : cuts[k + 1]], targets[cuts[k] : cuts[k + 1]])
            for k in range(parts)
        ]
        if parts == 1:
            tasks[0]()
        else:
            run_tasks(tasks)

    def _forward(self, fft, images, spectra):
        for image, spectrum in zip(images, spectra, strict=True):
            if self._aligned:
                own, target = self._aligned[fft]
                own[...] = image
                found = fft.forward(own, target)
            else:
                found = fft.forward(image, spectrum)
            if found is not spectrum:
                spectrum[...] = found

    def _inverse(self, fft, spectra, images):
        for spectrum, image in zip(spectra, images, strict=True):
            if self._aligned:
                target, own = self._aligned[fft]
                own[...] = spectrum
                found = fft.inverse(own, target)
            else:
                found = fft.inverse(spectrum, image)
            if found is not image:
                image[...] = found
