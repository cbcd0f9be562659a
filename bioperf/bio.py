"""The upper level: bilevel integrative optimisation (BIO) of an image (mathematics.md 2, 4 and 6)."""

import math
import time
from pathlib import Path

import numpy as np

from ._fourier import RELAXATION, FourierProblem, UpperData
from ._safeguard import LearnedIterations, LearnedProblem, check_learned
from ._sparse import SparseTerm, resolve_transform
from ._upper import (
    BALANCE_AT,
    BALANCE_BY,
    CHECK_EVERY,
    DATA_TOL_FACTOR,
    FIELD_PENALTY,
    UpperLevel,
    field_threshold,
)
from ._validation import (
    as_images,
    as_images_like,
    batch_of,
    check_callback,
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_numbers,
    check_operator,
    check_ratio,
    check_threads,
    host_array,
    shown,
)
from .fft import workspace
from .lower import finished, images_like, intensity_range, problem_for, solve_lower
from .operators import MultiCoilFourier
from .slots import HostArrays, Layout, Queue, UpperBatch, UpperItem, run_batches
from .slots.device import device_of, refuse_on_device
from .solution import Solution
from .targets import FromArray, resolve_target

__all__ = ["YBAR", "solve_bio"]

YBAR = ("admm", "apg", "apg-1e-2", "apg-1e-4", "apg-1e-6", "observation")
# Of T x in units of eta, and in proportion to the weight if that is large: the threshold is then 1/300 of the
# image's range.
SPARSE_PENALTY = 300.0
SLACK_PENALTY = 3.0
SLACK_BALANCE_AT = frozenset({40, 80, 160, 320, 640, 1280, 2560})


def solve_bio(
    A,
    y,
    *,
    target,
    tv_weight,
    lower=None,
    ybar="admm",
    epsilon=0.0,
    kappa=0.0,
    sparsity_weight=0.0,
    transform=None,
    wavelet_weight=0.0,
    wavelet="haar",
    eta=1.0,
    splitting="ball",
    isotropic=False,
    tol=1e-3,
    max_iter=1000,
    x0=None,
    penalties=None,
    learned=None,
    callback=None,
    threads=None,
    device=None,
    checkpoint=None,
    checkpoint_every=50,
):
    """Solve the relaxed bilevel problem (mathematics.md, eq. 1; the paper's eq. with epsilon = kappa = 0):

        min_x  eta/2 |x - D|^2 + sparsity_weight |T x|_1
        subject to   |A x - ybar| <= epsilon,   TV(x) <= (1 + kappa) TV(xbar)

    where xbar is a solution of the lower level min 1/2 |A x - y|^2 + tv_weight TV(x) + wavelet_weight |W x|_1,
    ybar = A xbar and D is the target made from the data.  With epsilon = kappa = 0 the feasible points are the
    lower level's solutions; where that solution is unique it is the answer whatever D is.

    Splitting "ball" (mathematics.md 4b in the one-field form 4c), with a = 1.6, c = clip(q, theta):

    1. q <- a grad x + (1 - a)(q - c) + c            one pass, with the norm of the new field
    2. theta <- the threshold that puts |q - clip(q, theta)|_1 at the TV bound (0 inside)
    3. rhs = grad^T (q - 2 clip(q, theta))           one stencil pass
    4. X = (eta D + b_v F rhs + b_p conj(H)(Y + (2s - 1) r)) / (eta + b_p |H|^2 + b_v L)
    5. r <- a (H X - Y) + (1 - a s) r;  s = min(1, epsilon/|r|);  x = F^-1 X      with 4 in one pass

    T x is split by z = T x in the same form (T^T T = I adds its penalty to step 4's denominator), and with
    several coils so are the coil images (mathematics.md 4e).

    Splitting "slack" (mathematics.md 4a, the paper's linear-programming form, anisotropic): ``kernels.slack_update``
    lists its updates.

    Parameters
    ----------
    A : Blur, MaskedFourier or MultiCoilFourier
        The operator, for images of shape ``A.shape``.
    y : ndarray, shape (..., *A.data_shape)
        Data: images (float32 or float64) for a blur, k-space (complex64 or complex128) for the others;
        leading axes are a batch of independent items.
    target : str, ndarray, callable or Target
        D: "nlm", "cnn" (a network, extra "torch"), "identity" (the observation; zero-filled for k-space), "deconv"
        (a blur's), an array of images (..., *A.shape), a callable image -> image given the observation (zero-filled
        for k-space), one at a time, a ``torch.nn.Module`` that denoises, or an object of ``bioperf.targets``.
    tv_weight : float or ndarray
        The lower level's weight, > 0; an array has one for each item of the batch, and makes a batch of one image.
    wavelet_weight, wavelet
        The lower level's second term, as in ``solve_lower``.
    lower : Solution or ndarray, optional
        xbar, if the lower level was solved before.
    ybar : {"admm", "apg", "apg-1e-2", "apg-1e-4", "apg-1e-6", "observation"} or ndarray
        A xbar with xbar by ADMM to tolerance or by FISTA to a relative change (1e-4 for "apg"), y itself,
        or the array, of y's shape (A x_true, say).  k-space that no real image has counts by its nearest one.
    epsilon : float or ndarray
        Radius of the data constraint, absolute, in the units of ``|A x - ybar|_2`` of one image; an array as of
        ``tv_weight``.
    kappa : float or ndarray
        Relative slack on the total variation; an array as of ``tv_weight``.
    sparsity_weight : float or ndarray, shape transform.coefficient_shape(A.shape)
        rho >= 0, or one for each coefficient: sum_k rho_k |T x|_k; 0 leaves the term out.
    transform : str or transform
        T: "undecimated" (Haar), "dct", the name of an orthogonal PyWavelets family, or an object of
        ``bioperf.transforms``; needed with a sparsity_weight.
    eta : float
        Weight of the distance to the target; it scales the objective, not the solution.
    splitting : {"ball", "slack"}
    isotropic : bool
        The total variation's kind, at both levels; "slack" has the anisotropic one of real images only.
    tol : float
        Converged: |objective - lower bound| relative to the larger of them (and at least to 1e-6 eta/2 |D|^2)
        and (TV - t)+ / t at most tol, and (|A x - ybar| - epsilon)+ / |ybar| at most tol/10.
    max_iter : int
    x0 : ndarray, optional
        Starting image(s); xbar by default.
    penalties : tuple of 2 floats, optional
        (b_v, b_p); chosen and balanced if None ("slack" uses the first alone).
    learned : "deblur", str, Path or object, optional
        Learned iterations, for splitting "ball" with a Blur or a MaskedFourier: in the first ``learned.stages``
        iterations the penalties and the relaxation are learned, and iterates are proposed, which are kept if they pass
        a check that preserves the convergence to the solution whatever is proposed (mathematics.md 10). The name of
        stages in the package (trained for ``deblur``), the path of a file of ``learning.unrolled.train_stages``
        (both need the extra "torch"), or an object with

        - ``stages``, a number of iterations,
        - ``penalties(k)``, k = 0, 1, ...: (b_v, b_p) in units of eta, or None; a given ``penalties`` has precedence,
        - ``relaxation(k)``, in (0, 2); after the last stage its penalties and relaxation stay,
        - ``propose(state)``, a ``LearnedState`` (bioperf/_safeguard.py): (q, residual), either None to leave it, or
          None for no proposal,
        - optionally ``bind(problem)``, a ``LearnedProblem``, which returns such an object for one item.
    callback : callable, optional
        Called with a ``Progress`` every few iterations; returning True stops the run.
    threads : int, optional
        At most this many.
    device : str or torch.device, optional
        As in ``solve_lower``.  On a GPU: splitting "ball" without a sparse or wavelet term, ybar "admm", "observation"
        or an array; targets that are arrays, "identity" and "deconv" are made there, others on the CPU.
    checkpoint, checkpoint_every : optional
        As in ``solve_lower``; both levels and the image D go into the one file.  D is not made a second time, xbar not
        solved for again.  A ``target`` or ``learned`` that is an object is known by its class only.  In learned stages
        nothing is written: a run that ends in them begins the upper level anew.

    Small images of a batch run one a thread, each until it has converged itself; ``details["layout"]`` says so.  Bit
    for bit, an item's result is what it is alone, whatever its neighbours are.

    Returns
    -------
    Solution
        ``lower_bound`` is the dual value of mathematics.md 6 at the current multipliers, a bound for any of them;
        ``infeasibility`` has "tv" and "data", as above; ``details`` has "lower" (xbar's Solution, or None),
        "target" (the image D), "penalties", "total_variation_bound" and "epsilon"; and of a learned solve
        "learned": how many iterates were "proposed" and "kept", in how many "stages".

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument.
    InputError, OutputError
        As of ``solve_lower``, for the checkpoint.
    DivergenceError
        If NaN or infinity appears; the message names the iteration.

    References
    ----------
    Liu et al., "Bilevel Integrative Optimization for Ill-posed Inverse Problems".
    """
    check_operator(A)
    threads, isotropic = check_threads(threads), check_flag("isotropic", isotropic)
    place = device_of(y, device)
    if place is not None:
        refuse_on_device(
            splitting=splitting != "ball", sparsity_weight=np.any(sparsity_weight), callback=callback, learned=learned,
            wavelet_weight=np.any(wavelet_weight), ybar=isinstance(ybar, str) and ybar.startswith("apg"),
            checkpoint=checkpoint,
        )  # fmt: skip
        from ._on_device import bio_on_device

        options = {
            "eta": check_number("eta", eta, strict=True), "isotropic": bool(isotropic), "max_iter": max_iter,
            "tol": check_number("tol", tol, strict=True), "penalties": checked_penalties(penalties),
        }  # fmt: skip
        check_count("max_iter", max_iter)
        return bio_on_device(A, y, target, tv_weight, lower, ybar, epsilon, kappa, x0, place, options)
    y = A.check_data("y", y)
    lower_level = {"tv_weight": tv_weight, "wavelet_weight": wavelet_weight, "wavelet": wavelet}
    lower_level |= {"isotropic": bool(isotropic), "threads": threads}
    own_shape = y.shape[: y.ndim - len(A.data_shape)]
    lower_shape = batch_of(own_shape, tv_weight=tv_weight, wavelet_weight=wavelet_weight)
    batch_shape = batch_of(lower_shape, epsilon=epsilon, kappa=kappa)
    tv_weights = check_numbers("tv_weight", tv_weight, lower_shape, strict=True)
    check_numbers("wavelet_weight", wavelet_weight, lower_shape)
    epsilons = check_numbers("epsilon", epsilon, batch_shape)
    kappas = check_numbers("kappa", kappa, batch_shape)
    transform = resolve_transform("transform", transform, A.shape)
    sparsity_weight = _sparsity_weight(sparsity_weight, transform, A, y)
    if transform is None and np.any(sparsity_weight):
        raise ValueError('transform: needed with sparsity_weight > 0; pass "undecimated", say')
    options = {
        "eta": check_number("eta", eta, strict=True),
        "isotropic": bool(isotropic),
        "tol": check_number("tol", tol, strict=True),
        "max_iter": check_count("max_iter", max_iter),
    }
    check_callback(callback)
    check_choice("splitting", splitting, ("ball", "slack"))
    if splitting == "slack" and isotropic:
        raise ValueError('splitting: "slack" is a linear programme and needs isotropic=False; use splitting="ball"')
    if splitting == "slack" and (isinstance(A, MultiCoilFourier) or A.image_dtype(y).kind == "c"):
        raise ValueError(
            'splitting: "slack" is for real images and an operator diagonal in the Fourier basis; use "ball"'
        )
    penalties = checked_penalties(penalties)
    given = ybar
    if isinstance(ybar, str):
        check_choice("ybar", ybar, YBAR)
    else:
        ybar = _of_batch("ybar", ybar, y, A.data_shape, batch_shape)
    images = images_like(A, y, own_shape)
    check_ratio("eta", options["eta"], 1.0, images.dtype, "that of the order of 1")
    for b in penalties or ():
        check_ratio("penalties", b, options["eta"], images.dtype, "eta")
    spread = options["eta"] * float(np.abs(y).max()) if np.any(sparsity_weight) else 1.0
    check_ratio("sparsity_weight", float(np.max(sparsity_weight)), spread or 1.0, images.dtype, "eta times the data")
    if x0 is not None:
        x0 = _of_batch("x0", x0, images, A.shape, batch_shape)
    asked = target
    target = resolve_target(target, images_like(A, y, _batch_of_target(target, A, own_shape, batch_shape)))
    saved = level = None
    if checkpoint is not None:
        from .checkpoint import Level, open_checkpoint

        xbar = lower.x if isinstance(lower, Solution) else lower
        saved = open_checkpoint(
            checkpoint, checkpoint_every, batch_shape, "solve_bio", A, y, **options, splitting=splitting, ybar=ybar,
            tv_weight=tv_weights, wavelet_weight=np.asarray(wavelet_weight), epsilon=epsilons, kappa=kappas, x0=x0,
            wavelet=resolve_transform("wavelet", wavelet, A.shape) if np.any(wavelet_weight) else None,
            sparsity_weight=sparsity_weight, transform=transform, penalties=penalties,
            target=target.array if isinstance(target, FromArray) else asked,
            lower=None if lower is None else np.asarray(xbar), learned=_learned_file(learned),
        )  # fmt: skip
        lower_level["checkpoint"] = Level(saved, "lower", "target")
        level = Level(saved, "upper")
    begin = time.perf_counter()
    xbar, lower_solution = _lower_image(A, y, lower, given, images, lower_shape, lower_level)
    fitted = isinstance(given, str) and given != "observation"
    if isinstance(given, str) and not fitted:
        ybar = np.broadcast_to(y, (*batch_shape, *A.data_shape))

    problem = problem_for(A, images.dtype, threads)
    if learned is not None:
        learned = _resolve_learned(learned, splitting, problem)
    # what does not depend on epsilon and kappa is computed once for all of them
    observed = np.broadcast_to(y, (*lower_shape, *A.data_shape))
    starts, variations, goals = {}, {}, {}
    if isinstance(target, FromArray):
        target = FromArray(np.broadcast_to(target.array, (*batch_shape, *A.shape)))
    items = []
    for index in np.ndindex(batch_shape):
        own = _own_index(index, lower_shape)
        if own not in variations:
            starts[own], variations[own] = xbar[own], problem.total_variation(xbar[own], isotropic)
        if isinstance(target, FromArray):
            image = target.array[index]
        elif saved is not None and saved.target is not None:
            image = saved.target
        elif own not in goals:
            weight = float(tv_weights[own])
            image = goals[own] = target(
                A, observed, own, xbar=xbar[own], tv_weight=weight, isotropic=isotropic, threads=threads
            )
            if saved is not None:
                saved.save("upper", target=image)
        else:
            image = goals[own]
        data, bound = None if fitted else ybar[index], (1 + float(kappas[index])) * variations[own]
        start = starts[own] if x0 is None else x0[index]
        items.append(UpperItem(data, image, bound, float(epsilons[index]), start, starts[own]))

    plain, together = splitting == "ball" and not np.any(sparsity_weight), None
    layout = Layout(len(items) if callback is None and learned is None else 1, A.shape, threads)
    if layout.together and plain and isinstance(problem, FourierProblem):
        queue = Queue(len(items), np.empty((len(items), *A.shape), problem.dtype), layout.workers)

        def make():
            return UpperBatch(problem, HostArrays(problem), queue, items, penalties=penalties, **options)

        solutions, together = run_batches(make, queue, layout), queue.result
    else:
        solve = ball_iterations if splitting == "ball" else _slack
        options |= {"callback": callback} | ({} if learned is None else {"learned": learned})
        if level is not None:
            options["level"] = level

        def one(item):
            if level is not None and level.solution is not None:
                return level.solution
            own = problem if layout.workers == 1 else problem_for(A, problem.dtype, layout.threads)
            return solve(own, item, penalties, (transform, sparsity_weight), **options)

        solutions = layout.each(one, items)
    if level is not None:
        level.finish(solutions[0], options["max_iter"])
    for solution, item in zip(solutions, items, strict=True):
        solution.details |= {"target": item.target, "total_variation_bound": item.bound, "epsilon": item.epsilon}
    solution = finished(solutions, batch_shape, begin, layout, together)
    solution.details["lower"] = lower_solution
    return solution


def _of_batch(name, array, like, item_shape, batch_shape):
    """An array of the data's own batch, or of the whole batch that the parameters make of it, as the latter."""
    whole = np.broadcast_to(like, (*batch_shape, *item_shape))
    array = host_array(name, array)
    if array.shape == whole.shape:
        return as_images_like(name, array, whole)
    return np.broadcast_to(as_images_like(name, array, like), whole.shape)


def _batch_of_target(target, A, own_shape, batch_shape):
    """The batch axes that a target's array, if it is one, has."""
    if isinstance(target, str) or callable(target):
        return own_shape
    return batch_shape if host_array("target", target).shape == (*batch_shape, *A.shape) else own_shape


def _own_index(index, shape):
    """The item of a batch that index falls on when the batch is broadcast."""
    return tuple(0 if size == 1 else k for k, size in zip(index[len(index) - len(shape) :], shape, strict=True))


def checked_penalties(penalties):
    if penalties is None:
        return None
    if not isinstance(penalties, tuple | list):
        raise TypeError(f"penalties: expected two numbers (b_v, b_p), got {shown(penalties)}")
    if len(penalties) != 2:
        raise ValueError(f"penalties: expected two numbers (b_v, b_p), got {len(penalties)}")
    return tuple(check_number("penalties", b, strict=True) for b in penalties)


def _resolve_learned(learned, splitting, problem):
    """The object for what a user may pass: a name, a path or an object."""
    if splitting != "ball" or not isinstance(problem, FourierProblem):
        raise ValueError(
            'learned: is for splitting="ball" and the operators Blur and MaskedFourier; leave it out for others'
        )
    if isinstance(learned, str | Path):
        from .learning.stages import LearnedStages

        learned = LearnedStages.named(learned)
    return check_learned(learned)


def _learned_file(learned):
    """The file of what a user may pass, or the object."""
    if not isinstance(learned, str | Path):
        return learned
    from .learning.stages import NAMES

    return Path(NAMES.get(learned, learned))


def _sparsity_weight(weight, transform, A, y):
    """rho as a float, or as an array of the coefficients' shape in the images' real dtype."""
    weight = host_array("sparsity_weight", weight)
    if weight.ndim == 0:
        return check_number("sparsity_weight", weight)
    weight = as_images("sparsity_weight", weight)
    if transform is not None and weight.shape != transform.coefficient_shape(A.shape):
        shape = transform.coefficient_shape(A.shape)
        raise ValueError(f"sparsity_weight: expected a number or shape {shape} for {transform!r}, got {weight.shape}")
    if weight.min() < 0:
        raise ValueError(f"sparsity_weight: {int((weight < 0).sum())} entries are negative; weights are >= 0")
    return weight.astype(y.real.dtype, copy=False) if weight.any() else 0.0


def _lower_image(A, y, lower, ybar, images, lower_shape, options):
    """xbar and, if it was solved here or given as one, its Solution."""
    if isinstance(lower, Solution):
        return _of_batch("lower", lower.x, images, A.shape, lower_shape), lower
    if lower is not None:
        return _of_batch("lower", lower, images, A.shape, lower_shape), None
    if isinstance(ybar, str) and ybar.startswith("apg"):
        change = float(ybar[4:] or 1e-4)
        solution = solve_lower(A, y, method="apg", change_tol=change, tol=1e-12, max_iter=20000, **options)
    else:
        solution = solve_lower(A, y, **options)
    return solution.x, solution


class _Ball:
    """The iteration of splitting "ball" on one item.

    After ``split`` the fields (q, the sparse term's, ``data.residual``) are all that the rest depends on: the z of the
    Douglas-Rachford operator T, which ``image`` and the next ``split`` apply (mathematics.md 4c).
    """

    _NUMBERS = ("theta", "field_penalty", "data_penalty", "relaxation")

    def __init__(self, problem, data, image, bound, x0, penalties, sparse_model, options):
        self.problem, self.data, self.bound = problem, data, bound
        self.isotropic, self.eta = options["isotropic"], options["eta"]
        if penalties is None:
            penalties = (FIELD_PENALTY * self.eta, data.start_penalty() * self.eta)
        self.field_penalty, self.data_penalty = penalties
        self.relaxation, self.step_options = RELAXATION, {}
        transform, sparsity_weight = sparse_model
        self.sparse = None
        if np.any(sparsity_weight):
            sparse_penalty = SPARSE_PENALTY * float(np.max(sparsity_weight)) / intensity_range(image)
            self.sparse = SparseTerm(problem, transform, sparsity_weight, max(self.eta, sparse_penalty))

        self.x, self.rhs = problem.fft.empty("image", "image")
        (self.q,) = workspace([(problem.field_shape, problem.dtype)])
        self.x[...] = x0
        problem.kernels.gradient(self.x, ndim=len(problem.shape), out=self.q, threads=problem.threads)
        data.start(self.x)
        if self.sparse:
            self.sparse.start(self.x)
        self.theta = 0.0

    def state(self):
        """What an iteration leaves to the next."""
        own = {name: getattr(self, name) for name in self._NUMBERS}
        return {"x": self.x, "q": self.q} | own | self.data.state() | (self.sparse.state() if self.sparse else {})

    def restore(self, kept):
        kept.fill(x=self.x, q=self.q)
        for name in self._NUMBERS:
            setattr(self, name, kept.number(name))
        self.data.restore(kept)
        if self.sparse:
            self.sparse.restore(kept)

    @property
    def penalties(self):
        return self.field_penalty, self.data_penalty

    def weights(self):
        """The weights of q, the sparse term's field and the residual in the norm in which T is averaged."""
        return self.field_penalty, self.sparse.penalty if self.sparse else 0.0, self.data_penalty

    def split(self):
        """Steps 1 and 2 of ``solve_bio``."""
        p, theta = self.problem, self.theta
        sums = p.kernels.update_field(
            self.x, self.q, self.relaxation, theta, 1.0, self.isotropic, theta, threads=p.threads
        )
        self.theta = field_threshold(p.kernels, self.q, self.bound, self.isotropic, theta, sums, p.threads)

    def image(self, keep, split=True):
        """Steps 3 to 5; |x - D| and |A x - ybar|.  ``split``: the sparse term's field is to be updated, too."""
        p, sparse = self.problem, self.sparse
        p.kernels.field_divergence(self.q, self.theta, self.isotropic, 1.0, -2.0, self.rhs, threads=p.threads)
        if sparse:
            weight = sparse.penalty / self.field_penalty
            if split:
                sparse.analyse(self.x)
                sparse.update(self.relaxation, self.rhs, weight)
            else:
                sparse.add_split(self.rhs, weight)
        self.x, distance, misfit = self.data.step(
            self.rhs, self.x, *self.penalties, sparse.penalty if sparse else 0.0, keep, **self.step_options
        )
        return distance, misfit

    def step(self, keep):
        self.split()
        return self.image(keep)

    @property
    def compiled(self):
        """Whether ``iterate`` can be used."""
        return self.problem.iterations and not self.sparse and isinstance(self.data, UpperData)

    def iterate(self, steps):
        """``steps`` times ``step`` by one compiled call, the last one kept for the certificate."""
        self.theta, distance, misfit = self.data.iterate(
            self.x, self.q, self.rhs, self.bound, self.relaxation, self.theta, *self.penalties, self.isotropic, steps
        )
        return distance, misfit

    def certificate(self, distance):
        """TV(x), the objective, the lower bound and the KKT residual."""
        p, sparse = self.problem, self.sparse
        tv = p.kernels.field_status(self.x, self.q, self.theta, self.isotropic, threads=p.threads)[0]
        objective = 0.5 * self.eta * distance * distance
        p.kernels.field_divergence(self.q, self.theta, self.isotropic, 0.0, 1.0, self.rhs, threads=p.threads)
        if sparse:
            sparse.analyse(self.x)
            objective += sparse.weight * sparse.status()[0]
            sparse.add_dual(self.rhs, sparse.penalty / self.field_penalty)
        lower_bound, kkt = self.data.bound(self.rhs, *self.penalties)
        return tv, objective, lower_bound - self.bound * self.field_penalty * self.theta, kkt

    def scale_field_penalty(self, factor):
        """The penalty times factor, the multiplier the same."""
        self.field_penalty *= factor
        p = self.problem
        p.kernels.update_field(self.x, self.q, 0.0, self.theta, 1 / factor, self.isotropic, 0.0, threads=p.threads)
        self.theta /= factor

    def scale_data_penalty(self, factor):
        """The penalty times factor, the multiplier the same."""
        self.data_penalty *= factor
        self.data.rescale(factor)

    def set_penalties(self, field_penalty, data_penalty):
        """Other penalties, the multipliers the same."""
        if field_penalty != self.field_penalty:
            self.scale_field_penalty(field_penalty / self.field_penalty)
        if data_penalty != self.data_penalty:
            self.scale_data_penalty(data_penalty / self.data_penalty)

    def set_relaxation(self, relaxation):
        self.relaxation, self.step_options = relaxation, {"relaxation": relaxation}

    def set_fields(self, q, residual, theta=None, shrink=None):
        """Other fields, with the threshold and the factor that belong to them (computed if None)."""
        p, data = self.problem, self.data
        self.q[...] = q
        if theta is None:
            norm, _ = p.kernels.sum_above(self.q, 0.0, self.isotropic, threads=p.threads)
            above = p.kernels.sum_above(self.q, self.theta, self.isotropic, threads=p.threads)
            theta = field_threshold(
                p.kernels, self.q, self.bound, self.isotropic, self.theta, (norm, *above), p.threads
            )
        data.residual[...] = residual
        if shrink is None:
            shrink = data.shrink_for(math.sqrt(p.square_norm(data.residual)))
        self.theta, data.shrink = theta, shrink


def ball_iterations(problem, item, penalties, sparse_model, learned=None, level=None, **options):
    data = problem.upper(item, options["eta"])
    upper = UpperLevel(problem, data, item.bound, options, "upper level (ball)")
    ball = _Ball(problem, data, item.target, item.bound, item.x0, penalties, sparse_model, options)
    automatic, max_iter, first_balance = penalties is None, options["max_iter"], 0
    step = ball.step
    if learned is not None:
        given = LearnedProblem(item.x0, item.target, item.bound, item.epsilon, options["eta"], options["isotropic"])
        learned = LearnedIterations(ball, learned, given, tune=automatic)
        step, first_balance = learned.step, learned.stages

    done = 0
    if level is not None and level.begun:
        done = upper.resume(level)
        with level.restoring() as kept:
            ball.restore(kept)
            if learned is not None:
                ball.set_relaxation(ball.relaxation)
                learned.restore(kept, done)
    while True:
        # by what the last check measured
        due = done in BALANCE_AT and done > first_balance
        if automatic and data.balanced and due and abs(upper.gap) > upper.tol:
            factor, tighter = upper.balance()
            if tighter == "tv":
                ball.scale_field_penalty(factor)
            else:
                ball.scale_data_penalty(factor)

        steps = min(CHECK_EVERY - done % CHECK_EVERY, max_iter - done)
        if learned is None and ball.compiled:
            distance, misfit = ball.iterate(steps)
        else:
            for k in range(steps):
                distance, misfit = step(k == steps - 1)
        done += steps

        tv, objective, lower_bound, kkt = ball.certificate(distance)
        converged, stopped = upper.check(
            done, ball.x, tv, objective, lower_bound, misfit,
            kkt_residual=kkt, field_penalty=ball.field_penalty, data_penalty=ball.data_penalty,
        )  # fmt: skip
        ended = converged or done == max_iter
        if level is not None and level.due(done, stopped, ended) and (learned is None or learned.past):
            level.keep(upper.record, **ball.state(), **({} if learned is None else learned.state()))
        if ended or stopped:
            break

    solution = upper.solution(ball.x, done, converged, stopped, ball.penalties)
    if learned is not None:
        solution.details["learned"] = learned.details()
    return solution


def _slack(problem, item, penalties, sparse_model, level=None, **options):
    kernels, fft, threads = problem.kernels, problem.fft, problem.threads
    bound, eta, max_iter = item.bound, options["eta"], options["max_iter"]
    data = problem.upper(item, eta)
    upper = UpperLevel(problem, data, bound, options, "upper level (slack)")
    transform, rho = sparse_model
    sparse = bool(np.any(rho))
    automatic = penalties is None
    penalty = SLACK_PENALTY * eta if automatic else penalties[0]
    proximal = 1e-3 * eta

    x, rhs = fft.empty("image", "image")
    s1, s2, c, l1, l2 = workspace([(problem.field_shape, problem.dtype)] * 5)
    d, size = len(problem.shape), c.size
    x[...] = item.x0
    data.previous = fft.coefficients(x)
    # w = |grad x| with the slacks that make both constraints equalities, all multipliers 0
    diagonal = 2 * penalty + proximal
    kernels.gradient(x, ndim=d, out=c, threads=threads)
    np.multiply(np.maximum(c, 0), 2, out=s2)
    np.multiply(np.maximum(-c, 0), 2, out=s1)
    np.abs(c, out=c)
    total_w = float(np.sum(c, dtype=np.float64))
    c *= problem.dtype.type(diagonal)
    for field in (l1, l2, data.residual):
        field[...] = 0
    data.shrink = shift = multiplier = 0.0
    slack = max(0.0, bound - total_w)
    if sparse:
        z = transform.forward(x, threads=threads)
        lz = np.zeros_like(z)

    def balance(done):
        nonlocal c, penalty, shift, diagonal
        feasible = upper.tv_excess <= upper.tol and upper.data_excess <= DATA_TOL_FACTOR * upper.tol
        due = automatic and done in SLACK_BALANCE_AT
        if not (due and (upper.gap < -upper.tol or (upper.gap > upper.tol and feasible))):
            return
        factor = BALANCE_BY if upper.gap < 0 else 1 / BALANCE_BY
        c -= problem.dtype.type(shift)
        penalty, shift, previous_diagonal = penalty * factor, 0.0, diagonal
        diagonal = 2 * penalty + proximal
        c *= problem.dtype.type(diagonal / previous_diagonal)
        data.rescale(factor)

    def arrays():
        found = {"x": x, "s1": s1, "s2": s2, "c": c, "l1": l1, "l2": l2, "previous": data.previous}
        return found | ({"z": z, "lz": lz} if sparse else {})

    first = 1
    if level is not None and level.begun:
        first = upper.resume(level) + 1
        with level.restoring() as kept:
            kept.fill(**arrays())
            data.restore(kept)
            names = ("penalty", "shift", "multiplier", "slack", "total_w")
            penalty, shift, multiplier, slack, total_w = (kept.number(name) for name in names)
        diagonal = 2 * penalty + proximal
        balance(first - 1)

    for done in range(first, max_iter + 1):
        # lambda_1, lambda_2, s_1, s_2, and c but for its constant
        total_c, _ = kernels.slack_update(x, s1, s2, c, l1, l2, shift, penalty, proximal, rhs, threads=threads)
        multiplier += penalty * (total_w + slack - bound)
        slack = max(0.0, (penalty * (bound - total_w) - multiplier + proximal * slack) / (penalty + proximal))
        if sparse:
            # lambda_z, z
            tx = transform.forward(x, threads=threads)
            lz += penalty * (z - tx)
            z = (penalty * tx - lz + proximal * z) / (penalty + proximal)
            threshold = rho / (penalty + proximal)
            z -= np.clip(z, -threshold, threshold)
            rhs += transform.adjoint(penalty * z + lz, threads=threads)
        # w = (2 beta + tau + beta e e^T)^-1 c by its rank-one inverse, kept as a shift of the stored c
        constant = penalty * (bound - slack) - multiplier
        shift = penalty * (total_c + size * constant) / (diagonal + penalty * size) - constant
        total_w = (total_c - size * shift) / diagonal
        # x, and lambda_x = penalty (1 - shrink) residual
        rhs *= problem.dtype.type(0.5 / penalty)
        check = done % CHECK_EVERY == 0 or done == max_iter
        x, distance, misfit = data.step(
            rhs, x, 2 * penalty, penalty, penalty if sparse else 0.0, check, proximal, relaxation=1.0
        )
        if not check:
            continue

        mu = l1 + l2
        tv = problem.total_variation(x, False)
        objective = 0.5 * eta * distance * distance
        kernels.gradient_adjoint(mu, ndim=d, out=rhs, threads=threads)
        if sparse:
            objective += float(np.sum(rho * np.abs(transform.forward(x)), dtype=np.float64))
            rhs += transform.adjoint(np.clip(-lz, -rho, rho), threads=threads)
        lower_bound, kkt = data.bound(rhs, 1.0, penalty)
        lower_bound -= bound * float(np.abs(mu).max())
        converged, stopped = upper.check(
            done, x, tv, objective, lower_bound, misfit,
            kkt_residual=kkt, field_penalty=penalty, data_penalty=penalty,
        )  # fmt: skip
        if level is not None and level.due(done, stopped, converged or done == max_iter):
            level.keep(
                upper.record, penalty=penalty, shift=shift, multiplier=multiplier, slack=slack, total_w=total_w,
                **arrays(), **data.state(),
            )  # fmt: skip
        if converged or stopped:
            break
        balance(done)

    return upper.solution(x, done, converged, stopped, (penalty, penalty))
