"""The TV + wavelet model's radii, judged by held-out samples or references."""

import dataclasses
import functools
import time

import numpy as np

from .._fourier import FourierProblem
from .._sparse import resolve_transform
from .._validation import (
    as_images_like,
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_operator,
    check_threads,
)
from ..lower import images_like, intensity_range
from ..operators import MaskedFourier, MultiCoilFourier
from ..transforms import Wavelet
from .constrained import TVWaveletModel
from .criteria import fingerprint, image_metrics, split_samples, with_mask
from .quadratic import Quadratic
from .result import Trial, as_chains

__all__ = ["CRITERIA", "TVWavelet", "set_data"]

CRITERIA = ("holdout", "supervised", "degenerate")
# The default search box and the descent methods' start, in units of |W x|_1 and TV(x) of the zero-filled images.
BOX, START = (0.2, 1.2), 0.5
LEVELS = 3


class TVWavelet:
    """min 1/2 |A x - y|^2 subject to |W x|_1 <= r_1, TV(x) <= r_2: the radii, hence the weights, are to be chosen.

    Leading axes of y are a stack that shares the radii: one variable, norms and criterion summed over the stack.

    Parameters
    ----------
    A : MaskedFourier or Blur
        The operator, for images of shape ``A.shape``; A^T A has to be diagonal in the Fourier basis.
    y : ndarray, shape (..., *A.data_shape)
        k-space (complex64 or complex128), or blurred images (float32 or float64).
    reference : ndarray, shape (..., *A.shape), optional
        The true images: needed by the criterion "supervised", otherwise only for the metrics.
    wavelet : str or transform, optional
        W with W^T W = I: "undecimated", "dct", an orthogonal PyWavelets family, or an object of
        ``bioperf.transforms``.  None: the orthonormal Haar basis, at most 3 levels as the sizes permit.
    isotropic : bool
    tol : float
        The lower level's certified gap, relative to f(0) = 1/2 |y|^2.
    max_iter : int
        Iterations of one lower-level solve.

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument.

    References
    ----------
    Problem (2.2) of "Bilevel Programming Approach for Image Restoration Problems with Automatically Hyperparameter
    Selection"; mathematics.md 8.
    """

    names = ("wavelet_radius", "tv_radius")

    def __init__(self, A, y, *, reference=None, wavelet=None, isotropic=True, tol=1e-4, max_iter=2000):
        if isinstance(A, MultiCoilFourier):
            raise TypeError(
                "A: with several coils A^T A is not diagonal in the Fourier basis; combine the coils first and pass a "
                "MaskedFourier, or choose tv_weight with TVWeight"
            )
        set_data(self, A, y, reference, isotropic, tol, max_iter)
        if not self.y.any():
            raise ValueError("y: all data are 0, so there is nothing to choose weights by")
        self.dtype = A.image_dtype(self.y)
        if wavelet is None:
            wavelet = _default_wavelet(A.shape)
        self.wavelet = resolve_transform("wavelet", wavelet, A.shape)

    def __repr__(self):
        return f"TVWavelet({self.A!r}, y of shape {self.y.shape}, wavelet={self.wavelet!r}, isotropic={self.isotropic})"

    def constrained(self, radii, *, state=None, threads=None):
        """Solve the lower level for given radii, on all data.

        Parameters
        ----------
        radii : sequence of 2 floats >= 0
            r_1 of |W x|_1 and r_2 of TV(x), summed over the stack, in the units of the image's intensity.
        state : LowerState, optional
            ``LowerSolution.state`` of neighbouring radii or weights, to start from.
        threads : int, optional

        Returns
        -------
        LowerSolution
            x of shape (..., *A.shape), both bounds of the value, and ``multipliers``: the weights of the penalised
            model with the same solution.

        Raises
        ------
        TypeError, ValueError
            Unless the radii are two finite numbers >= 0.
        DivergenceError
            If NaN or infinity appears.
        """
        return self._solved(self._model(threads).constrained, check_radii(radii), state)

    def penalised(self, weights, *, state=None, threads=None):
        """Solve min 1/2 |A x - y|^2 + w_1 |W x|_1 + w_2 TV(x) by the same iteration; otherwise as ``constrained``.

        weights : sequence of 2 floats >= 0
            In the units of the image's intensity.
        """
        return self._solved(self._model(threads).penalised, check_radii(weights, "weights"), state)

    def _model(self, threads):
        problem = FourierProblem(self.A, self.dtype, check_threads(threads))
        data = Quadratic.of_data(problem, self.A, self.y.reshape(-1, *self.A.data_shape))
        return TVWaveletModel(data, self.wavelet, self.isotropic)

    def _solved(self, solve, goal, state):
        solution = solve(goal, tol=self.tol, max_iter=self.max_iter, state=state)
        return dataclasses.replace(solution, x=solution.x.reshape(*self.batch_shape, *self.A.shape))

    def evaluator(self, criterion="holdout", *, seed=0, fractions=(0.70, 0.15, 0.15), calibration=4, threads=None):
        """The criterion as a function of the radii.

        Parameters
        ----------
        criterion : {"holdout", "supervised", "degenerate"}
            F(x) = 1/2 |P_val F x - y_val|^2 on held-out samples (``split_samples`` with ``fractions``, ``calibration``
            and ``seed``), 1/2 |x - reference|^2, or the misfit of the training data themselves, as in the paper's test
            on one image: its minimum says nothing.
        threads : int, optional
            At most so many.

        Raises
        ------
        TypeError, ValueError
            If the problem lacks what the criterion needs.
        """
        check_choice("criterion", criterion, CRITERIA)
        return TVWaveletEvaluator(self, criterion, seed, fractions, calibration, threads)


def _default_wavelet(shape):
    level = min(LEVELS, *((n & -n).bit_length() - 1 for n in shape))
    if level == 0:
        raise ValueError(
            f"wavelet: the Haar basis needs even sizes, the images are {shape}; pass wavelet='undecimated' or 'dct'"
        )
    return Wavelet("haar", level, ndim=len(shape))


class TVWaveletEvaluator:
    """The criterion F at the lower level's solution for given radii (mathematics.md 8).

    Attributes
    ----------
    names : tuple of str
    box, start : ndarray, shapes (2, 2) and (2,)
        The search box [0.2, 1.2] p(x_zf), and 0.5 p(x_zf), with p the norms of the zero-filled images.
    model : TVWaveletModel
        The lower level on the training data.
    upper : Quadratic
        F.
    split : Split or None
        The division of the samples ("holdout").
    scale : float
        The range of the zero-filled images' intensities.
    """

    def __init__(self, problem, criterion, seed, fractions, calibration, threads):
        self.tv_wavelet, self.criterion, self.names, self.split = problem, criterion, problem.names, None
        A, y = problem.A, problem.y.reshape(-1, *problem.A.data_shape)
        self.problem = FourierProblem(A, problem.dtype, threads)
        self.test = None
        if criterion == "holdout":
            if not isinstance(A, MaskedFourier):
                raise TypeError(
                    "criterion: 'holdout' holds out k-space samples, which a blur does not have; give a reference "
                    "(criterion='supervised'), or the noise level (method='discrepancy' or 'sure')"
                )
            self.split = split_samples(
                A.mask, fractions=fractions, calibration=calibration, seed=seed, centred=A.centred, paired=A.real
            )
            training, self.upper, self.test = (
                self._held(A, y, part) for part in (self.split.train, self.split.validation, self.split.test)
            )
        else:
            training = Quadratic.of_data(self.problem, A, y)
            self.upper = training
            if criterion == "supervised":
                if problem.reference is None:
                    raise ValueError("reference: criterion='supervised' compares with the true images; pass them")
                self.upper = Quadratic.of_reference(self.problem, problem.reference.reshape(-1, *A.shape))
        self.model = TVWaveletModel(training, problem.wavelet, problem.isotropic)
        zero_filled = np.stack([self._image(spectrum) for spectrum in training.linear])
        self.norms = self.model.norms(zero_filled)
        if not np.all(self.norms > 0):
            raise ValueError("y: the zero-filled images are constant, so their variation gives no scale for the radii")
        self.scale = max(intensity_range(image) for image in zero_filled)
        self.box = self.norms[:, None] * np.array(BOX)
        self.start = START * self.norms

    def _held(self, A, y, mask):
        """1/2 |P F x - y|^2 on a part of the samples; None for no samples."""
        if not mask.any():
            return None
        return Quadratic.of_data(self.problem, with_mask(A, mask), np.where(mask, y, 0))

    def _image(self, spectrum):
        (image,) = self.problem.fft.empty("image")
        return self.problem.fft.inverse(spectrum.copy(), image)

    @functools.cached_property
    def fingerprint(self):
        """The same for the same problem and criterion."""
        p = self.tv_wavelet
        parts = () if self.split is None else (self.split.train, self.split.validation, self.split.test)
        return fingerprint(
            p.A, p.y, p.reference, repr(p.wavelet), p.isotropic, p.tol, p.max_iter, self.criterion, *parts
        )

    def lower(self, radii, *, state=None, tol=None, callback=None):
        """The lower level's ``LowerSolution`` at these radii; errors as ``evaluate``."""
        radii = check_radii(radii)
        p = self.tv_wavelet
        watch = None
        if callback is not None:

            def watch(iterations, spectrum):
                return callback(iterations, self.upper.value(spectrum))

        return self.model.constrained(radii, tol=tol or p.tol, max_iter=p.max_iter, state=state, callback=watch)

    def trial(self, radii, lower, *, seconds, iterations=0, criterion=None, lower_solves=1):
        """The ``Trial`` of a lower-level solution; ``iterations`` were made besides its own."""
        p = self.tv_wavelet
        x = lower.x.reshape(*p.batch_shape, *p.A.shape)
        return Trial(
            values=np.array(radii, float),
            weights=dict(zip(("wavelet_weight", "tv_weight"), lower.multipliers.tolist(), strict=True)),
            criterion=self.upper.value(lower.spectrum) if criterion is None else criterion,
            iterations=lower.iterations + iterations,
            lower_solves=lower_solves,
            seconds=seconds,
            converged=lower.converged,
            x=x,
            metrics=self._metrics(x, lower.spectrum),
            state=lower.state,
            exact_fit=not lower.lower_bound > self.model.quadratic.floor,
        )

    def evaluate(self, values, *, state=None, callback=None):
        """One trial.

        Parameters
        ----------
        values : sequence of 2 floats >= 0
            The radii r_1 of |W x|_1 and r_2 of TV(x), summed over the stack.
        state : LowerState, optional
            ``Trial.state`` of a neighbour, to start from.
        callback : callable, optional
            ``callback(iterations, criterion)`` at every check with the criterion at the best feasible images so far;
            True stops the trial, which then is ``pruned``.

        Raises
        ------
        TypeError, ValueError
            Unless the radii are two finite numbers >= 0.
        """
        begin = time.perf_counter()
        stopped = []

        def watch(iterations, criterion):
            if callback(iterations, criterion):
                stopped.append(True)
            return bool(stopped)

        lower = self.lower(values, state=state, callback=None if callback is None else watch)
        trial = self.trial(values, lower, seconds=time.perf_counter() - begin)
        trial.pruned = bool(stopped) and not lower.converged
        return trial

    def evaluate_many(self, values, *, chains=None, threads=None):
        """The trials of a list of radii as one batched solve, several problems side by side in every kernel call.

        Parameters
        ----------
        values : sequence of sequences of 2 floats
        chains : list of lists of int, optional
            Indices into ``values``; those of one chain are solved one after the other, each starting from the
            one before.  By default every trial stands alone.
        threads : int, optional
            Not used here: the evaluator's own number counts, and the results do not depend on it.

        Returns
        -------
        list of Trial, in the order of ``values``; their ``seconds`` are equal shares of the whole.
        """
        begin = time.perf_counter()
        values = [check_radii(radii) for radii in values]
        chains = as_chains(chains, len(values))
        p = self.tv_wavelet
        solved = self.model.constrained_many(
            [[values[k] for k in chain] for chain in chains], tol=p.tol, max_iter=p.max_iter
        )
        share = (time.perf_counter() - begin) / max(1, len(values))
        trials = [None] * len(values)
        for chain, solutions in zip(chains, solved, strict=True):
            for k, lower in zip(chain, solutions, strict=True):
                trials[k] = self.trial(values[k], lower, seconds=share)
        return trials

    def metrics(self, x):
        """Errors of images x : (..., *A.shape)."""
        images = np.asarray(x, self.problem.dtype).reshape(-1, *self.problem.shape)
        return self._metrics(x, np.stack([self.problem.fft.coefficients(image) for image in images]))

    def _metrics(self, x, spectrum):
        quadratics = {"nre": self.model.quadratic}
        if self.criterion == "holdout":
            quadratics |= {"validation_error": self.upper, "test_error": self.test}
        errors = {
            name: float(np.sqrt(max(0.0, f.value(spectrum)) / f.at_zero))
            for name, f in quadratics.items()
            if f is not None and f.at_zero > 0
        }
        return image_metrics(x, self.tv_wavelet.reference) | errors


def set_data(problem, A, y, reference, isotropic, tol, max_iter):
    """The checked attributes that every problem has."""
    check_operator(A)
    problem.A, problem.y = A, A.check_data("y", y)
    problem.batch_shape = problem.y.shape[: problem.y.ndim - len(A.data_shape)]
    problem.isotropic = check_flag("isotropic", isotropic)
    problem.tol = check_number("tol", tol, strict=True)
    problem.max_iter = check_count("max_iter", max_iter)
    if reference is not None:
        reference = as_images_like("reference", reference, images_like(A, problem.y, problem.batch_shape))
    problem.reference = reference


def check_radii(radii, name="radii"):
    """Two finite numbers >= 0, or TypeError/ValueError."""
    radii = np.array([check_number(name, value) for value in np.atleast_1d(radii)])
    if radii.size != 2:
        raise ValueError(f"{name}: expected 2 numbers (for |W x|_1 and for TV), got {radii.size}")
    return radii
