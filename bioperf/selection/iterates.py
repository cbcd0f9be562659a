"""ADMM iterates of the TV + wavelet model: several problems, and several images, side by side (mathematics.md 8)."""

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from ..fft import plan_fft, workspace
from ..kernels import run_tasks, threads_for
from ..transforms import Wavelet

# Pixels from which groups of images run on threads of their own: below, waiting for each other costs more.
APART_FROM = 200**2


@dataclass
class LowerState:
    """Where an ADMM run stopped: the start of one for neighbouring radii or weights.

    Attributes
    ----------
    coefficients, field : ndarray, shapes (B, *coefficients), (B, d, *shape)
        The one-field iterates w and q of the wavelet's and of the gradient's split.
    thresholds, penalties : ndarray of 2
        Those of the wavelet's and of the gradient's split.
    """

    coefficients: np.ndarray
    field: np.ndarray
    thresholds: np.ndarray
    penalties: np.ndarray


class Iterates:
    """Iterates of K problems side by side, B images each: u = W x and p = grad x in one-field form.

    An iteration works on parts, groups of images, one a thread; only the thresholds need all of a problem's images.
    """

    def __init__(self, problem, transform, isotropic, images, slots=1):
        self.problem, self.isotropic, self.images, self.slots = problem, isotropic, images, slots
        self.kernels = problem.kernels
        n = slots * images
        coefficient_shape = transform.coefficient_shape(problem.shape)
        measured = problem.shape if isotropic else problem.field_shape
        real, dtype, fft = problem.real_dtype, problem.dtype, problem.fft
        self.x, self.pulled, self.image, self.spectrum, self.t, self.w, self.q, self.m1, self.m2 = workspace([
            ((n, *problem.shape), dtype), ((n, *problem.shape), dtype), ((n, *problem.shape), dtype),
            ((n, *fft.spectrum_shape), fft.spectrum_dtype),
            ((n, *coefficient_shape), dtype), ((n, *coefficient_shape), dtype), ((n, *problem.field_shape), dtype),
            ((n, *coefficient_shape), real), ((n, *measured), real),
        ])  # fmt: skip
        self.inverse = np.empty((slots, *fft.spectrum_shape), real)
        self.penalties, self.thresholds = np.ones((2, slots)), np.zeros((2, slots))
        self.ones = np.ones(slots)
        self.forward_transform, self.adjoint_transform = _functions(transform, problem)
        self._arrange()

    def _arrange(self):
        """The parts: groups of images, of whole problems if there are several, on one thread each unless alone."""
        n, pieces = self.slots * self.images, self.images if self.slots == 1 else self.slots
        threads = threads_of(self.problem, n)
        groups = min(threads, pieces) if n > 1 else 1
        self.threads = threads if groups == 1 else 1
        self.fft = self.problem.fft
        if n > 1 and self.fft.threads > 1:
            self.fft = plan_fft(self.problem.shape, self.problem.dtype, threads=1, library=self.fft.library)
        cuts = [pieces * k // groups for k in range(groups + 1)]
        each = n // pieces
        self.parts = [
            _Part(self, slice(a * each, b * each), slice(0, 1) if self.slots == 1 else slice(a, b))
            for a, b in itertools.pairwise(cuts)
        ]

    def narrow(self, slots):
        """Work on the first ``slots`` problems only."""
        n = slots * self.images
        for name in ("x", "pulled", "image", "spectrum", "t", "w", "q", "m1", "m2"):
            setattr(self, name, getattr(self, name)[:n])
        self.inverse, self.ones = self.inverse[:slots], self.ones[:slots]
        self.penalties, self.thresholds = self.penalties[:, :slots].copy(), self.thresholds[:, :slots].copy()
        self.slots = slots
        self._arrange()

    def move(self, source, target):
        """Let the problem in slot ``target`` be the one in slot ``source``."""
        a, b = self.span(source), self.span(target)
        for array in (self.w, self.q, self.x):
            array[b] = array[a]
        self.inverse[target] = self.inverse[source]
        for array in (self.penalties, self.thresholds):
            array[:, target] = array[:, source]

    def span(self, slot):
        return slice(slot * self.images, (slot + 1) * self.images)

    def start(self, slot, state):
        """From a state, or from 0."""
        part = self.span(slot)
        if state is None:
            self.w[part], self.q[part] = 0, 0
            self.thresholds[:, slot], self.penalties[:, slot] = 0, 1
        else:
            self.w[part], self.q[part] = state.coefficients, state.field
            self.thresholds[:, slot], self.penalties[:, slot] = state.thresholds, state.penalties

    def state(self, slot):
        part = self.span(slot)
        return LowerState(
            self.w[part].copy(), self.q[part].copy(), self.thresholds[:, slot].copy(), self.penalties[:, slot].copy()
        )

    def step(self, solve, relaxation, checked=()):
        """Everything of an iteration but the new thresholds: x, t = W x, the fields and their magnitudes.

        ``solve(part)`` replaces the spectra of a part, the transform of penalties_1 W^T(u - a) + penalties_2
        grad^T(p - b), by those of x.  Returns, for each slot in ``checked``, x's Fourier coefficients and ``status``
        before the fields changed.
        """
        spectra, rows = {}, {}
        wanted = {b for slot in checked for b in range(slot * self.images, (slot + 1) * self.images)}

        def run(part):
            part.pull()
            solve(part)
            mine = [b for b in range(part.images.start, part.images.stop) if b in wanted] if wanted else ()
            for b in mine:
                spectra[b] = self.spectrum[b].copy()
            part.analyse()
            for b in mine:
                rows[b] = self._status(b)
            part.update(relaxation)

        if len(self.parts) == 1:
            run(self.parts[0])
        else:
            run_tasks([functools.partial(run, part) for part in self.parts])
        found = {}
        for slot in checked:
            own = range(slot * self.images, (slot + 1) * self.images)
            found[slot] = np.stack([spectra[b] for b in own]), _summed([rows[b] for b in own])
        return found

    def find_thresholds(self, radii):
        """The thresholds that bring the fields into the balls of these radii, (2, K)."""
        find, threads = self.kernels.ball_thresholds, self.threads
        if len(self.parts) == 1:
            find(self.m1, radii[0], self.thresholds[0], threads=threads)
            find(self.m2, radii[1], self.thresholds[1], threads=threads)
        else:
            run_tasks([
                functools.partial(find, measured, limits, found)
                for measured, limits, found in zip((self.m1, self.m2), radii, self.thresholds, strict=True)
            ])  # fmt: skip

    def _status(self, b):
        tau, theta = self.thresholds[:, b // self.images]
        return (
            self.kernels.coefficient_status(self.t[b], self.w[b], tau, None, threads=self.threads),
            self.kernels.field_status(self.x[b], self.q[b], theta, self.isotropic, threads=self.threads),
        )

    def status(self, slot):
        """Sums over a slot's images: (|W x|_1, |Wx-u|^2, |u|^2, max |Wx-u+a|) and the same of grad x, TV and p."""
        return _summed([self._status(b) for b in range(*self.span(slot).indices(len(self.x)))])

    def split_images(self, slot):
        """u, a and p, b of a slot, as new arrays; the magnitudes have to be those of the fields."""
        part = self.span(slot)
        w, q, m2 = self.w[part], self.q[part], self.m2[part]
        tau, theta = self.thresholds[:, slot]
        a = np.empty_like(w)
        for old, out in zip(w, a, strict=True):
            self.kernels.clip_coefficients(old, tau, None, out, threads=self.threads)
        scale = np.maximum(m2, m2.dtype.type(max(theta, np.finfo(m2.dtype).tiny)))
        np.divide(m2.dtype.type(theta), scale, out=scale)
        b = q * (scale[:, None] if self.isotropic else scale)
        return w - a, a, q - b, b

    def rescale(self, slot, block, factor, primal, dual):
        """The penalty of block 0 (u, a) or 1 (p, b) times factor, its multiplier the same."""
        field = (self.w, self.q)[block][self.span(slot)]
        np.multiply(dual, self.problem.real_dtype.type(1 / factor), out=field)
        field += primal
        self.penalties[block, slot] *= factor
        self.thresholds[block, slot] /= factor

    def adjoint(self, coefficients, out):
        """out <- W^T c for a slot's coefficients."""
        self.adjoint_transform(coefficients, out, self.threads)


class _Part:
    """Neighbouring images, and the problems that they belong to: views of the iterates' arrays."""

    def __init__(self, iterates, images, slots):
        self.kernels, self.fft, self.threads = iterates.kernels, iterates.fft, iterates.threads
        self.isotropic = iterates.isotropic
        self.forward, self.adjoint = iterates.forward_transform, iterates.adjoint_transform
        self.images = images
        for name in ("x", "pulled", "image", "spectrum", "t", "w", "q", "m1", "m2"):
            setattr(self, name, getattr(iterates, name)[images])
        self.inverse, self.ones = iterates.inverse[slots], iterates.ones[slots]
        self.one, self.two = (row[slots] for row in iterates.penalties)
        self.tau, self.theta = (row[slots] for row in iterates.thresholds)
        self.pairs = list(zip(self.pulled, self.spectrum, self.x, strict=True))

    def pull(self):
        """spectrum <- the transform of penalties_1 W^T(u - a) + penalties_2 grad^T(p - b), unscaled."""
        k, threads = self.kernels, self.threads
        k.field_divergences(self.q, self.theta, self.two, self.isotropic, self.pulled, threads=threads)
        k.reflect_coefficients(self.w, self.tau, self.one, self.t, threads=threads)
        self.adjoint(self.t, self.image, threads)
        np.add(self.pulled, self.image, out=self.pulled)
        for image, spectrum, _ in self.pairs:
            done = self.fft.forward(image, spectrum)
            if done is not spectrum:
                spectrum[...] = done

    def analyse(self):
        """x and t = W x from the spectrum, which is lost."""
        for _, spectrum, x in self.pairs:
            done = self.fft.inverse(spectrum, x)
            if done is not x:
                x[...] = done
        self.forward(self.x, self.t, self.threads)

    def update(self, relaxation):
        """The fields and their magnitudes, from x and t and the old thresholds."""
        k, threads = self.kernels, self.threads
        k.measure_coefficients(self.t, self.w, self.m1, relaxation, self.tau, self.ones, threads=threads)
        k.update_fields(self.x, self.q, self.m2, relaxation, self.theta, self.ones, self.isotropic, threads=threads)


def _summed(rows):
    """One row (norm, |difference|^2, |split|^2, largest) a split, over images."""
    sums = []
    for parts in zip(*rows, strict=True):
        columns = list(zip(*parts, strict=True))
        sums.append((sum(columns[0]), sum(columns[2]), sum(columns[3]), max(columns[5])))
    return sums


def threads_of(problem, images):
    """Threads for that many images side by side."""
    if images == 1:
        return problem.threads
    parts = 2 if problem.dtype.kind == "c" else 1
    return threads_for(images * parts * problem.pixels, problem.allowed) if problem.pixels >= APART_FROM else 1


def _functions(transform, problem):
    """W and W^T as functions of (source, target, threads), without the checks of the public methods where it pays."""
    if isinstance(transform, Wavelet) and transform.name in ("haar", "db1"):
        level, ndim, module = transform.level_for(problem.shape), len(problem.shape), problem.kernels.module
        return (
            lambda x, out, threads: module.haar_forward(x, level, ndim, out, threads),
            lambda c, out, threads: module.haar_inverse(c, level, ndim, out, threads),
        )
    return (
        lambda x, out, threads: transform.forward(x, out=out, threads=threads),
        lambda c, out, threads: transform.adjoint(c, out=out, threads=threads),
    )
