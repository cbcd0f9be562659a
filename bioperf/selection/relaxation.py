"""Hyper-parameters of the two levels of ``solve_bio``: the lower level's weight, and how far it is relaxed."""

import copy
import functools
import math
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .._validation import (
    check_choice,
    check_number,
    check_threads,
)
from ..bio import solve_bio
from ..deblurring import default_tv_weight
from ..kernels import available_threads
from ..lower import images_like, intensity_range, solve_lower
from ..mri import default_mri_weight
from ..noise import estimate_kspace_noise, estimate_noise, hermitian_noise
from ..operators import Blur
from ..targets import FromArray, resolve_target
from ..transforms import UndecimatedWavelet
from .criteria import fingerprint, image_metrics, relative_error, split_samples, with_mask
from .problems import set_data
from .result import Trial, as_chains

__all__ = ["BIORelaxation", "TVWeight"]

# Search boxes: of the blur's default weight, of the zero-filled image's range, and of |A xbar - y|.
BLUR_BOX = (10**-1.5, 10**1.5)
KSPACE_BOX = (1e-4, 1.0)
EPSILON_BOX = (0.01, 1.5)
KAPPA_BOX = (1e-3, 1.0)
KSPACE_START, EPSILON_START, KAPPA_START = 1e-2, 0.15, 0.03
# The least noise, of the range, that a blur's box is put around: rounding to 8 bits, which estimates often miss.
LEAST_NOISE = 1e-3
# Arguments of solve_bio that a BIORelaxation passes on.
BIO_OPTIONS = ("eta", "penalties", "sparsity_weight", "splitting", "transform", "wavelet", "wavelet_weight", "ybar")


class TVWeight:
    """The weight of min_x 1/2 |A x - y|^2 + tv_weight TV(x) as the parameter to be chosen.

    The images of a stack share the weight; criteria are sums over the stack.

    Parameters
    ----------
    A : Blur, MaskedFourier or MultiCoilFourier
    y : ndarray, shape (..., *A.data_shape)
        As in ``solve_lower``.
    reference : ndarray, shape (..., *A.shape), optional
        The true images: needed for criterion "supervised", used for the reported errors otherwise.
    isotropic : bool
    tol : float
        Of ``solve_lower``.
    max_iter : int

    Attributes
    ----------
    names : tuple of str
        ("tv_weight",)

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument.
    """

    names = ("tv_weight",)

    def __init__(self, A, y, *, reference=None, isotropic=False, tol=1e-4, max_iter=2000):
        set_data(self, A, y, reference, isotropic, tol, max_iter)

    def __repr__(self):
        return f"TVWeight({self.A!r}, data of shape {self.y.shape}, {'isotropic' if self.isotropic else 'anisotropic'})"

    @functools.cached_property
    def box(self):
        """ndarray (1, 2): three decades around deblur's rule; 1e-4 to 1 of the zero-filled range for k-space."""
        spread = intensity_range(self.A.data_image(self.y))
        if isinstance(self.A, Blur):
            limits = np.multiply(BLUR_BOX, self._rule(spread))
        else:
            limits = np.multiply(KSPACE_BOX, spread)
        return limits[None]

    @functools.cached_property
    def start(self):
        """ndarray (1,): deblur's rule; 1e-2 of the zero-filled image's range for k-space."""
        spread = intensity_range(self.A.data_image(self.y))
        return np.array([self._rule(spread) if isinstance(self.A, Blur) else KSPACE_START * spread])

    def _rule(self, spread):
        noise = estimate_noise(self.y, len(self.A.shape)) if min(self.A.shape) > 1 else 0.0
        return default_tv_weight(max(noise, LEAST_NOISE * spread), spread, self.isotropic)

    @property
    def identity(self):
        """What ``Evaluator.fingerprint`` knows the model by, beside what every problem has."""
        return ()

    def evaluator(self, criterion="supervised", *, seed=0, fractions=(0.70, 0.15, 0.15), calibration=4, threads=None):
        """What a search calls: see ``Evaluator``.

        Parameters
        ----------
        criterion : {"supervised", "holdout"}
            1/2 |x - reference|^2 with x from all the data, or, for k-space, 1/2 |P_val (F x - y)|^2 with x from
            the training samples of ``split_samples`` (in pairs for real images).
        seed, fractions, calibration
            Of the split.
        threads : int, optional
            At most this many.

        Raises
        ------
        ValueError
            If the criterion needs what the problem does not have.
        """
        check_choice("criterion", criterion, ("holdout", "supervised"))
        if criterion == "supervised":
            A, y, measure = self.A, self.y, Supervised(self)
        else:
            measure = HeldOut(self, seed, fractions, calibration)
            A, y = measure.A, measure.y

        def solve(values, index, x0, callback, threads):
            return solve_lower(
                A, y[index], values[0], isotropic=self.isotropic, tol=self.tol, max_iter=self.max_iter, x0=x0,
                callback=callback, threads=threads,
            )  # fmt: skip

        return Evaluator(self, measure, solve, A.data_image(y), 1, threads)


class BIORelaxation:
    """How far the upper level may leave the lower one, epsilon and kappa of ``solve_bio``, as the parameters.

    The lower level is solved and the target made once; a trial is one upper-level solve.  The images of a stack
    share epsilon (the radius for each image), kappa and the lower level's weights.

    Parameters
    ----------
    A : Blur, MaskedFourier or MultiCoilFourier
    y : ndarray, shape (..., *A.data_shape)
        As in ``solve_bio``.
    reference : ndarray, shape (..., *A.shape)
        The true images.
    target : str, ndarray, callable or Target
        As in ``solve_bio``.
    tv_weight : float, optional
        The lower level's.  None: ``deblur``'s rule, or ``reconstruct_mri``'s for k-space, the latter with
        an undecimated wavelet term of the same weight if ``wavelet_weight`` is not given.
    noise_std : float, optional
        For these rules and the target; estimated from the data if None.
    isotropic : bool
        The total variation's kind, at both levels.
    tol, max_iter
        Of ``solve_bio``.
    **bio_options
        eta, penalties, sparsity_weight, splitting, transform, wavelet, wavelet_weight and ybar of ``solve_bio``.

    Attributes
    ----------
    names : tuple of str
        ("epsilon", "kappa")
    lower : Solution
        The lower level's, solved on first use.
    target_images : ndarray, shape (..., *A.shape)
        D, made on first use.

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument.
    """

    names = ("epsilon", "kappa")

    def __init__(
        self, A, y, *, reference, target="nlm", tv_weight=None, noise_std=None, isotropic=True, tol=1e-3,
        max_iter=1000, **bio_options,
    ):  # fmt: skip
        set_data(self, A, y, reference, isotropic, tol, max_iter)
        if self.reference is None:
            raise ValueError("reference: epsilon and kappa are chosen by the distance to the true images; pass them")
        unknown = sorted(set(bio_options) - set(BIO_OPTIONS))
        if unknown:
            raise TypeError(f"{unknown[0]}: not an option of BIORelaxation; these are {', '.join(BIO_OPTIONS)}")
        for name, value in (("tv_weight", tv_weight), ("noise_std", noise_std)):
            if value is not None:
                check_number(name, value, strict=True)
        self.target = resolve_target(target, self._images)
        self.noise_std = self._noise() if noise_std is None else float(noise_std)
        spread = intensity_range(A.data_image(self.y))
        if tv_weight is None and isinstance(A, Blur):
            tv_weight = default_tv_weight(self.noise_std, spread, self.isotropic)
        elif tv_weight is None:
            tv_weight = default_mri_weight(self.noise_std, spread)
            levels = 2 if max(A.shape) > 2 else 1
            bio_options = {
                "wavelet_weight": tv_weight, "wavelet": UndecimatedWavelet("db2", levels, ndim=len(A.shape)),
            } | bio_options  # fmt: skip
        self.tv_weight, self.bio_options = float(tv_weight), bio_options
        self._threads = None

    def __repr__(self):
        return f"BIORelaxation({self.A!r}, data of shape {self.y.shape}, tv_weight={self.tv_weight:.3g})"

    def _noise(self):
        if isinstance(self.A, Blur):
            return estimate_noise(self.y, len(self.A.shape))
        estimate = hermitian_noise if self.A.real else estimate_kspace_noise
        return estimate(self.y, self.A.mask, centred=self.A.centred)

    def prepared(self):
        """A copy with the lower level solved and the target made, and without what made it: for other processes."""
        prepared = copy.copy(self)
        prepared.__dict__ |= {"lower": self.lower, "target_images": self.target_images, "target": None}
        return prepared

    @property
    def _images(self):
        return images_like(self.A, self.y, self.batch_shape)

    @functools.cached_property
    def lower(self):
        wavelet = {name: self.bio_options[name] for name in ("wavelet_weight", "wavelet") if name in self.bio_options}
        return solve_lower(self.A, self.y, self.tv_weight, isotropic=self.isotropic, threads=self._threads, **wavelet)

    @functools.cached_property
    def target_images(self):
        images = np.empty_like(self._images, subok=False, order="C")
        for index in np.ndindex(self.batch_shape):
            images[index] = self.target(
                self.A, self.y, index, xbar=self.lower.x[index], tv_weight=self.tv_weight, noise_std=self.noise_std,
                isotropic=self.isotropic, threads=self._threads,
            )  # fmt: skip
        return images

    @functools.cached_property
    def _residual(self):
        """|A xbar - y| of one image, the root mean square over the stack; at least 1e-6 of the data's size."""
        residual = float(np.linalg.norm(self.A(self.lower.x) - self.y))
        return max(residual, 1e-6 * float(np.linalg.norm(self.y)), np.finfo(float).tiny) / math.sqrt(
            math.prod(self.batch_shape)
        )

    @property
    def box(self):
        """ndarray (2, 2): epsilon 0.01 to 1.5 times |A xbar - y| of one image, kappa 1e-3 to 1."""
        return np.array([np.multiply(EPSILON_BOX, self._residual), KAPPA_BOX])

    @property
    def start(self):
        """ndarray (2,): 0.15 |A xbar - y| and 0.03."""
        return np.array([EPSILON_START * self._residual, KAPPA_START])

    @property
    def bio_arguments(self):
        """The arguments of ``solve_bio`` for other data; without the target and ybar if these are arrays."""
        arguments = {"tv_weight": self.tv_weight, "isotropic": self.isotropic, "tol": self.tol}
        arguments |= {"max_iter": self.max_iter} | self.bio_options
        if not isinstance(arguments.get("ybar", ""), str):
            del arguments["ybar"]
        return arguments if isinstance(self.target, FromArray) else arguments | {"target": self.target}

    @property
    def identity(self):
        """What ``Evaluator.fingerprint`` knows the model by, beside what every problem has."""
        options = (part for name in sorted(self.bio_options) for part in (name, self.bio_options[name]))
        return (self.tv_weight, self.noise_std, self.target_images, *options)

    def evaluator(self, criterion="supervised", *, seed=0, fractions=(0.70, 0.15, 0.15), calibration=4, threads=None):
        """What a search calls (see ``Evaluator``), with criterion 1/2 |x - reference|^2; solves the lower level.

        seed, fractions and calibration belong to criteria that this problem does not have.
        """
        if criterion != "supervised":
            raise ValueError(
                f'criterion: BIORelaxation has "supervised" alone, got {criterion!r}; epsilon and kappa decide how '
                "far the data are left, which held-out data do not judge"
            )
        self._threads = check_threads(threads)
        lower, images, ybar = self.lower.x, self.target_images, self.bio_options.get("ybar", "admm")

        def solve(values, index, x0, callback, threads):
            options = self.bio_options if isinstance(ybar, str) else self.bio_options | {"ybar": ybar[index]}
            return solve_bio(
                self.A, self.y[index], target=images[index], tv_weight=self.tv_weight, lower=lower[index],
                epsilon=values[0], kappa=values[1], isotropic=self.isotropic, tol=self.tol, max_iter=self.max_iter,
                x0=x0, callback=callback, threads=threads, **options,
            )  # fmt: skip

        return Evaluator(self, Supervised(self), solve, lower, 0, threads)


class Supervised:
    """1/2 |x - reference|^2 of an item, and the errors of the stack."""

    split = None

    def __init__(self, problem):
        if problem.reference is None:
            raise ValueError(
                'reference: criterion "supervised" needs the true images; without them use criterion="holdout" '
                '(k-space), or noise_std with method="discrepancy" or "sure"'
            )
        self.problem = problem

    def value(self, index, x):
        return 0.5 * _square(x - self.problem.reference[index])

    def metrics(self, x):
        p = self.problem
        return image_metrics(x, p.reference) | {"nre": relative_error(p.A, x, p.y)}


class HeldOut:
    """1/2 |P_val (F x - y)|^2 of an item; A and y are the training samples'."""

    def __init__(self, problem, seed, fractions, calibration):
        A = problem.A
        if isinstance(A, Blur):
            raise ValueError(
                'criterion: "holdout" sets samples of k-space aside, and a blurred image has none; pass reference '
                'with criterion="supervised", or noise_std with method="discrepancy" or "sure"'
            )
        self.split = split_samples(
            A.mask, fractions=fractions, calibration=calibration, seed=seed, centred=A.centred, paired=A.real
        )
        self.reference = problem.reference
        self.A, self.validation = (with_mask(A, mask) for mask in (self.split.train, self.split.validation))
        self.y, self.y_validation = (np.where(B.mask, problem.y, 0) for B in (self.A, self.validation))
        self.test = with_mask(A, self.split.test) if self.split.test.any() else None
        self.y_test = np.where(self.split.test, problem.y, 0)

    def value(self, index, x):
        return 0.5 * _square(self.validation(x) - self.y_validation[index])

    def metrics(self, x):
        metrics = image_metrics(x, self.reference) | {
            "nre": relative_error(self.A, x, self.y),
            "validation_error": relative_error(self.validation, x, self.y_validation),
        }
        if self.test is not None:
            metrics["test_error"] = relative_error(self.test, x, self.y_test)
        return metrics


def _square(a):
    return float(np.sum(a.real**2 + a.imag**2 if a.dtype.kind == "c" else a * a, dtype=np.float64))


class Evaluator:
    """The criterion as a function of the parameters, one or several at a time.

    Attributes
    ----------
    names : tuple of str
    box : ndarray (k, 2)
        Where to search, on a logarithmic scale.
    start : ndarray (k,)
    split : Split or None
        The division of the samples ("holdout").
    fingerprint : str
        The same for the same problem and criterion.
    """

    def __init__(self, problem, measure, solve, first_images, lower_solves, threads):
        self.names, self.box, self.start = problem.names, problem.box.copy(), problem.start.copy()
        self.split, self.metrics = measure.split, measure.metrics
        self._problem, self._measure, self._solve = problem, measure, solve
        self._first, self._lower_solves, self._threads = first_images, lower_solves, check_threads(threads)

    @functools.cached_property
    def fingerprint(self):
        p, split = self._problem, self.split
        parts = () if split is None else (split.train, split.validation, split.test)
        model = (type(p).__name__, p.isotropic, p.tol, p.max_iter, *p.identity)
        return fingerprint(p.A, p.y, p.reference, *model, type(self._measure).__name__, *parts)

    def evaluate(self, values, *, state=None, callback=None):
        """One trial.

        Parameters
        ----------
        values : sequence of k floats > 0
        state : object, optional
            ``Trial.state`` of a neighbour, to start from.
        callback : callable, optional
            ``callback(iterations, criterion)`` at every check of the solver, with the criterion at the present
            images; True stops the trial, which then is ``pruned``.

        Returns
        -------
        Trial
            iterations: the sum over the stack.
        """
        return self._evaluate(values, state, callback, self._threads)

    def evaluate_many(self, values, *, chains=None, threads=None):
        """The trials of a list of values, on several threads, one problem a thread.

        Parameters
        ----------
        values : sequence of sequences of k floats
        chains : list of lists of int, optional
            Indices into ``values``; those of one chain are solved one after the other, each starting from the
            one before.  By default every trial stands alone.  The results do not depend on ``threads``.
        threads : int, optional

        Returns
        -------
        list of Trial, in the order of ``values``
        """
        values = list(values)
        chains = as_chains(chains, len(values))
        workers = check_threads(threads) or self._threads or available_threads()
        inner = max(1, workers // max(1, len(chains)))
        trials = [None] * len(values)

        def run(chain):
            state = None
            for k in chain:
                trials[k] = self._evaluate(values[k], state, None, inner)
                state = trials[k].state

        with ThreadPoolExecutor(min(workers, max(1, len(chains))), thread_name_prefix="bioperf") as pool:
            list(pool.map(run, chains))
        return trials

    def _evaluate(self, values, state, callback, threads):
        begin = time.perf_counter()
        values = _as_values(values, self.names)
        images = np.array(self._first if state is None else state)
        items = list(np.ndindex(self._problem.batch_shape))
        parts = {}
        if callback is not None:
            parts = {index: self._measure.value(index, images[index]) for index in items}
        iterations, converged, pruned = 0, True, False
        for index in items:
            watch = None
            if callback is not None:

                def watch(progress, index=index, before=iterations):
                    parts[index] = self._measure.value(index, progress.x)
                    return bool(callback(before + progress.iteration, sum(parts.values())))

            solution = self._solve(values, index, images[index], watch, threads)
            images[index] = solution.x
            iterations += solution.iterations
            converged &= solution.converged
            pruned = solution.status.startswith("stopped")
            if pruned:
                break
        return Trial(
            values=values,
            weights=dict(zip(self.names, values.tolist(), strict=True)),
            criterion=sum(self._measure.value(index, images[index]) for index in items),
            iterations=iterations,
            lower_solves=self._lower_solves,
            seconds=time.perf_counter() - begin,
            converged=converged,
            x=images,
            metrics=self.metrics(images),
            state=images,
            pruned=pruned,
        )


def _as_values(values, names):
    values = np.array([check_number("values", value, strict=True) for value in np.atleast_1d(values)])
    if values.size != len(names):
        raise ValueError(f"values: expected {len(names)} numbers ({', '.join(names)}), got {values.size}")
    return values
