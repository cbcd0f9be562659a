"""The lower level: min_x 1/2 |A x - y|^2 + gamma TV(x) + gamma_w |W x|_1 (mathematics.md 3)."""

import functools
import time
from dataclasses import dataclass

import numpy as np

from ._apg import solve_apg
from ._coils import CoilProblem
from ._fourier import RELAXATION, FourierProblem, LowerData, intensity_range
from ._kkt import (
    BALANCE_AT,
    BALANCED,
    CHECK_EVERY,
    KKT_FACTOR,
    LOWER_MAX_ITER,
    LOWER_TOL,
    PENALTY_FACTOR,
    beyond_rounding,
    dual_value,
    rounding_floors,
)
from ._sparse import SparseTerm, resolve_transform
from ._validation import (
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
)
from .fft import workspace
from .operators import MultiCoilFourier
from .progress import Record, outcome
from .slots import HostArrays, Layout, LowerBatch, Queue, run_batches
from .slots.device import device_of, refuse_on_device
from .solution import Solution, stack

__all__ = ["solve_lower"]

SPARSE_PENALTY_FACTOR = 30.0


def solve_lower(
    A,
    y,
    tv_weight,
    *,
    wavelet_weight=0.0,
    wavelet="haar",
    isotropic=False,
    method="admm",
    tol=LOWER_TOL,
    max_iter=LOWER_MAX_ITER,
    x0=None,
    penalty=None,
    change_tol=None,
    callback=None,
    threads=None,
    device=None,
    checkpoint=None,
    checkpoint_every=50,
):
    """Solve min_x 1/2 |A x - y|^2 + tv_weight TV(x) + wavelet_weight |W x|_1 with a certified stop.

    ADMM in one-field form (mathematics.md 4c): with v = grad x, clip threshold theta = tv_weight / penalty and
    c = clip(q, theta), an iteration is

    1. q <- a grad x + (1 - a)(q - c) + c            one pass over the field, with
    2. rhs = grad^T (q - 2 c)                        in the same pass
    3. X = (conj(H) Y + penalty F rhs) / (|H|^2 + penalty L),  x = F^-1 X

    The wavelet term is split by z = W x in the same form, which adds its own penalty to step 3's denominator
    (W^T W = I).  With several coils A^H A is not diagonal and the coil images are split off as well
    (mathematics.md 4e).

    "apg" is FISTA on the same problem with an inner TV prox (Beck and Teboulle, 2009), the paper's other
    lower-level method.

    Parameters
    ----------
    A : Blur, MaskedFourier or MultiCoilFourier
        The operator, for images of shape ``A.shape``.
    y : ndarray, shape (..., *A.data_shape)
        Data: images (float32 or float64) for a blur, k-space (complex64 or complex128) for the others;
        leading axes are a batch of independent items.
    tv_weight : float or ndarray
        gamma > 0, in the units of the image's intensity; an array has one for each item of the batch, and makes a batch
        of one image: a grid of weights is one call.
    wavelet_weight : float or ndarray
        gamma_w >= 0; 0 leaves the term out.  An array as of ``tv_weight``.
    wavelet : str or transform
        W: "undecimated" (Haar), "dct", the name of an orthogonal PyWavelets family, or an object of
        ``bioperf.transforms``.
    isotropic : bool
        Whether TV sums the l2 norms of the pixels' gradients (True) or their l1 norms (False, the paper's).
    method : {"admm", "apg"}
    tol : float
        Stop when the complementarity (tv_weight TV(x) - <mu, grad x>, and the same of
        the wavelet term) is at most tol times the objective and
        the relative KKT residual |A^T(Ax - y) + grad^T mu| / |grad^T mu| at most sqrt(tol)/4: the residual
        enters the gap multiplied by the distance to the solution, which is itself of its order.
    max_iter : int
    x0 : ndarray, optional
        Starting image(s), shape (..., *A.shape); by default y, or the zero-filled images of k-space.
    penalty : float, optional
        ADMM's penalty of the TV split. None: chosen from tv_weight and the image's range, then balanced.
    change_tol : float, optional
        Stop as well when |x - x_previous| <= change_tol |x| ("apg": the paper's rule, tested every iteration).
    callback : callable, optional
        Called with a ``Progress`` at each check; returning True stops the run.
    threads : int, optional
        At most this many; by default what the process may use, fewer for small images.
    device : str or torch.device, optional
        "cuda" moves NumPy arrays to a GPU and the result back.  Arrays in a GPU's memory (torch's, CuPy's, ...) are
        solved there without it.  There: "admm" without a wavelet term, operators ``Blur`` and ``MaskedFourier``,
        neither callback, change_tol nor checkpoint; needs the extra "cuda".
    checkpoint : str or Path, optional
        A file for the state of the iteration, of one item (no batch); ``bioperf.checkpoint`` has its format.  If it is
        there the solve goes on from it and ends bit for bit where it would have ended without an interruption (in
        x, the numbers and the history but for "seconds", which add up), with any ``threads`` on the same kind of CPU.
        It is written at the first check after ``checkpoint_every`` iterations, at that where the callback stops
        the run, and at the end; it stays then, and the same call returns the same Solution at once.  A file of other
        data, weights or options (``callback`` and ``threads`` may change), of another version, or a damaged one is
        refused and left as it is.  A ``wavelet`` object that is not of ``bioperf.transforms`` is known by its class.
    checkpoint_every : int

    Small images of a batch run one a thread, each until it has converged itself; ``details["layout"]`` says so.  Bit
    for bit, an item's result is what it is alone, whatever its neighbours are.

    Returns
    -------
    Solution
        ``objective``, ``kkt_residual`` as above, and ``lower_bound``: the dual value at the multiplier that
        satisfies stationarity exactly, scaled into its bound; the optimum is not below it (up to
        rounding), whatever the iteration did.  ``details`` has "total_variation" and "penalty".

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument.
    InputError, OutputError
        (bioperf.io; ValueError and OSError) If the checkpoint is not of this problem, or cannot be written; what the
        file held before is then still there.
    DivergenceError
        If NaN or infinity appears; the message names the iteration.
    """
    check_operator(A)
    check_callback(callback)
    threads = check_threads(threads)
    tol = check_number("tol", tol, strict=True)
    max_iter = check_count("max_iter", max_iter)
    check_choice("method", method, ("admm", "apg"))
    isotropic = check_flag("isotropic", isotropic)
    if penalty is not None:
        penalty = check_number("penalty", penalty, strict=True)
    if change_tol is not None:
        change_tol = check_number("change_tol", change_tol, strict=True)
    place = device_of(y, device)
    if place is not None:
        refuse_on_device(
            method=method != "admm", wavelet_weight=np.any(wavelet_weight), callback=callback, change_tol=change_tol,
            checkpoint=checkpoint,
        )  # fmt: skip
        from ._on_device import lower_on_device

        options = {"isotropic": bool(isotropic), "tol": tol, "max_iter": max_iter, "penalty": penalty}
        return lower_on_device(A, y, tv_weight, x0, place, options)
    y = A.check_data("y", y)
    batch_shape = y.shape[: y.ndim - len(A.data_shape)]
    batch_shape = batch_of(batch_shape, tv_weight=tv_weight, wavelet_weight=wavelet_weight)
    models = lower_models(A, tv_weight, wavelet_weight, wavelet, isotropic, batch_shape)
    y = [np.broadcast_to(y, (*batch_shape, *A.data_shape))[index] for index in np.ndindex(batch_shape)]
    if x0 is not None:
        x0 = as_images_like("x0", x0, images_like(A, y[0], batch_shape))
        x0 = [x0[index] for index in np.ndindex(batch_shape)]
    level = None
    if checkpoint is not None:
        from .checkpoint import lower_level

        level = lower_level(
            checkpoint, checkpoint_every, batch_shape, A, y[0], models[0], method=method, tol=tol, max_iter=max_iter,
            penalty=penalty, change_tol=change_tol, x0=None if x0 is None else x0[0],
        )  # fmt: skip
        if level.solution is not None:
            return level.solution

    begin = time.perf_counter()
    problem = problem_for(A, A.image_dtype(y[0]), threads)
    check_ratio("penalty", penalty or 0.0, 1.0, problem.dtype, "the data term's weight")
    observed = [A.data_image(item) for item in y]
    items = [without_iterating(problem, *item) for item in zip(y, observed, models, strict=True)]
    rest = [k for k, item in enumerate(items) if item is None]
    layout, images = Layout(len(rest), A.shape, threads), None
    plain = method == "admm" and callback is None and change_tol is None and isinstance(problem, FourierProblem)
    if layout.together and plain and not any(model.transform for model in models):
        data, images_of_data = [y[k] for k in rest], [observed[k] for k in rest]
        starts = None if x0 is None else [x0[k] for k in rest]
        weights = np.array([models[k].tv_weight for k in rest])
        options = {"isotropic": bool(isotropic), "tol": tol, "max_iter": max_iter, "penalty": penalty}
        queue = Queue(len(rest), np.empty((len(rest), *A.shape), problem.dtype), layout.workers, rest)

        def make():
            return LowerBatch(problem, HostArrays(problem), queue, data, images_of_data, weights, starts, **options)

        solutions = run_batches(make, queue, layout)
        if len(rest) == len(items):
            images = queue.result
    else:
        if callback is not None:
            layout = Layout(1, A.shape, threads)
        solve = admm if method == "admm" else solve_apg

        def one(k):
            own = problem if layout.workers == 1 else problem_for(A, problem.dtype, layout.threads)
            start = observed[k] if x0 is None else x0[k]
            spread = intensity_range(observed[k])
            return solve(own, y[k], models[k], tol, max_iter, start, spread, penalty, change_tol, callback, level)

        solutions = layout.each(one, rest)
    for k, solution in zip(rest, solutions, strict=True):
        items[k] = solution
    if level is not None:
        level.finish(items[0], max_iter)
    return finished(items, batch_shape, begin, layout, images)


def finished(items, batch_shape, begin, layout, images=None):
    """The Solution of a batch that began then, with its images if they are together; of a single item, that item."""
    solution = stack(items, batch_shape, None if images is None else images.reshape(*batch_shape, *images.shape[1:]))
    if batch_shape:
        solution.seconds, solution.threads = time.perf_counter() - begin, max(solution.threads, layout.workers)
        solution.details["layout"] = layout.words(solution.threads)
    return solution


@dataclass(frozen=True)
class LowerModel:
    """The terms beside 1/2 |A x - y|^2."""

    tv_weight: float
    sparse_weight: float
    transform: object
    isotropic: bool


def lower_models(A, tv_weight, wavelet_weight, wavelet, isotropic, batch_shape):
    """The checked ``LowerModel`` of each item of a batch, of a solver's arguments."""
    tv_weights = check_numbers("tv_weight", tv_weight, batch_shape, strict=True)
    sparse_weights = check_numbers("wavelet_weight", wavelet_weight, batch_shape)
    transform = resolve_transform("wavelet", wavelet, A.shape) if sparse_weights.any() else None
    if transform is None and sparse_weights.any():
        raise ValueError('wavelet: needed with wavelet_weight > 0; pass "undecimated", say')
    return [
        LowerModel(float(tv), float(sparse), transform if sparse else None, bool(isotropic))
        for tv, sparse in zip(tv_weights.ravel(), sparse_weights.ravel(), strict=True)
    ]


def problem_for(A, dtype, threads):
    return (CoilProblem if isinstance(A, MultiCoilFourier) else FourierProblem)(A, dtype, threads)


def images_like(A, y, batch_shape):
    """An array with the shape and dtype of the images of data y, without memory of its own."""
    return np.broadcast_to(np.zeros((), A.image_dtype(y)), (*batch_shape, *A.shape))


def without_iterating(problem, y, observed, model):
    """The solution for weights so large that it is a constant image or 0, with its proof; else None."""
    spread = intensity_range(observed)
    check_ratio("tv_weight", model.tv_weight, spread, problem.dtype)
    check_ratio("wavelet_weight", model.sparse_weight, spread, problem.dtype)
    if max(model.tv_weight, model.sparse_weight) <= spread:
        return None
    if model.sparse_weight:
        x = np.zeros(problem.shape, problem.dtype)
        back = problem.A.adjoint(y)
        # mu = 0, omega = T A^T y satisfies stationarity at x = 0
        if not float(np.abs(model.transform.forward(back)).max()) <= model.sparse_weight:
            return None
        objective, what = 0.5 * float(np.linalg.norm(y)) ** 2, "the image 0"
    else:
        if not isinstance(problem, FourierProblem):
            return None
        found = _constant_solution(problem, y, model)
        if found is None:
            return None
        (x, objective), what = found, "the constant image"
    return without_iterations(problem, x, objective, what)


def without_iterations(problem, x, objective, what):
    """The Solution x that was proved optimal without an iteration; ``what`` it is, in words."""
    record = Record("lower level", 0, None)
    record.add(
        0, x, 0.0, objective=objective, lower_bound=objective, complementarity=0.0, kkt_residual=0.0, penalty=np.nan
    )
    return Solution(
        x=x,
        objective=objective,
        lower_bound=objective,
        infeasibility={},
        kkt_residual=0.0,
        iterations=0,
        converged=True,
        status=f"converged in 0 iterations (the weight is so large that {what} is optimal)",
        history=record.history(),
        seconds=record.seconds,
        **problem.what_ran(),
        details={"total_variation": 0.0, "penalty": np.nan},
    )


def _constant_solution(problem, y, model):
    """The constant image and its objective, if a dual field proves that it is optimal for this weight, else None.

    c minimises |A c - y| over the constants; mu = -grad L^+ A^T(A c - y) satisfies stationarity exactly, so
    |mu| <= gamma makes c a solution, with the objective as its lower bound.
    """
    data, unreachable = problem.A.coefficients(y, problem.fft)
    mean = (0,) * len(problem.shape)
    gain = problem.transfer[mean].real
    value = (
        problem.dtype.type(data[mean] / gain if problem.dtype.kind == "c" else data[mean].real / gain) if gain else 0
    )
    gradient = np.conj(problem.transfer) * -data
    if not _largest_gradient(problem, gradient, model.isotropic) <= model.tv_weight:
        return None
    x = np.full(problem.shape, value, problem.dtype)
    data[mean] = 0
    return x, 0.5 * (problem.square_norm(data) + unreachable)


def _largest_gradient(problem, coefficients, isotropic, field=0):
    """max |field - grad L^+ g| by component or pixel, g given by its Fourier coefficients, which are overwritten."""
    mean = (0,) * len(problem.shape)
    total = functools.reduce(np.add.outer, problem.fft.laplacian())
    total[mean] = 1
    coefficients /= total
    coefficients[mean] = 0
    (potential,) = problem.fft.empty("image")
    mu = field - problem.kernels.gradient(problem.fft.inverse(coefficients, potential), ndim=len(problem.shape))
    return np.sqrt(np.max(np.sum(np.abs(mu) ** 2, axis=0))) if isotropic else np.max(np.abs(mu))


def _clipped(q, theta, isotropic):
    norm = np.sqrt(np.sum(np.abs(q) ** 2, axis=0)) if isotropic else np.abs(q)
    return q * (theta / np.maximum(norm, max(theta, np.finfo(float).tiny))).astype(norm.dtype)


def admm(problem, y, model, tol, max_iter, x0, spread, penalty, change_tol, callback, level=None):
    kernels, fft, threads = problem.kernels, problem.fft, problem.threads
    gamma, isotropic = model.tv_weight, model.isotropic
    record = Record("lower level", max_iter, callback)
    data = problem.lower(y)
    automatic = penalty is None
    if automatic:
        penalty = PENALTY_FACTOR * gamma / spread
    sparse = None
    if model.sparse_weight:
        ratio = SPARSE_PENALTY_FACTOR / PENALTY_FACTOR * model.sparse_weight / gamma
        sparse = SparseTerm(problem, model.transform, model.sparse_weight, penalty * ratio)

    x, rhs = fft.empty("image", "image")
    (q,) = workspace([(problem.field_shape, problem.dtype)])
    x[...] = x0
    data.start(x)
    kernels.gradient(x, ndim=len(problem.shape), out=q, threads=threads)
    if sparse:
        sparse.start(x)
    theta, residual_square = 0.0, np.inf
    rounding, tv_rounding = rounding_floors(problem, float(np.linalg.norm(y)), y.size, gamma)
    norm_rounding = gamma * tv_rounding
    if sparse:
        norm_rounding += sparse.weight * sparse.rounding * float(np.linalg.norm(y))
    previous = x.copy() if change_tol is not None else None
    converged = stopped = False
    kkt_tol = KKT_FACTOR * np.sqrt(tol)

    def kkt_residual():
        """|A^T(Ax - y) + grad^T mu + T^T omega| / |grad^T mu + T^T omega| at x and the clipped fields' multipliers."""
        kernels.field_divergence(q, theta, isotropic, 0.0, 1.0, rhs, threads=threads)
        if sparse:
            sparse.add_dual(rhs, sparse.penalty / penalty)
        error, size = data.kkt(rhs, penalty)
        return beyond_rounding(error, rounding, size)

    def dual_excess(vector):
        """How far the clipped fields' multipliers leave their bounds when they take up the vector."""
        if sparse:
            return max(1.0, sparse.dual_excess(vector))
        clipped = penalty * _clipped(q, theta, isotropic)
        return _largest_gradient(problem, fft.coefficients(vector), isotropic, clipped) / gamma

    compiled = problem.iterations and isinstance(data, LowerData) and sparse is None and previous is None
    done = resumed = 0
    if level is not None and level.begun:
        done = resumed = level.resume(record)
        with level.restoring() as kept:
            kept.fill(x=x, q=q)
            theta, penalty, balance = (kept.number(name) for name in ("theta", "penalty", "balance"))
            complementarity, kkt = (record.rows[-1][name] for name in ("complementarity", "kkt_residual"))
            data.restore(kept)
            if sparse:
                sparse.restore(kept)
    while True:
        check = done > 0 and (done % CHECK_EVERY == 0 or done == max_iter)
        if sparse and done > 0:
            sparse.analyse(x)
        if check and done != resumed:
            tv, clip_pairing, gv, vv, gg, largest = kernels.field_status(x, q, theta, isotropic, threads=threads)
            objective = 0.5 * residual_square + data.constant + gamma * tv
            # mu = penalty (grad x - v + c) satisfies stationarity exactly: the x-update says so.
            pairing = penalty * (clip_pairing + 0.5 * (gg + gv - vv))
            slack, excess = gamma * tv - penalty * clip_pairing, penalty * largest / gamma
            if sparse:
                norm, sparse_clip_pairing, sparse_pairing, largest = sparse.status()
                objective += sparse.weight * norm
                slack += sparse.weight * norm - sparse.penalty * sparse_clip_pairing
                pairing += sparse.penalty * sparse_pairing
                excess = max(excess, sparse.penalty * largest / sparse.weight)
            complementarity = beyond_rounding(slack, norm_rounding, objective)
            balance = automatic and done in BALANCE_AT and gv > 0
            last = done == max_iter
            kkt = kkt_residual() if complementarity <= tol or balance or last else np.nan
            if data.exact_multipliers:
                lower_bound = dual_value(residual_square, pairing, excess) + data.constant
            else:
                lower_bound = 0.0 if np.isnan(kkt) else data.dual_bound(residual_square, dual_excess, not sparse)
            converged = complementarity <= tol and kkt <= kkt_tol
            if previous is not None:
                change = float(np.linalg.norm(x - previous) / max(float(np.linalg.norm(x)), np.finfo(float).tiny))
                converged = converged or change <= change_tol
            measure = max(complementarity / tol, 0.0 if np.isnan(kkt) else kkt / kkt_tol)
            stopped = record.add(
                done, x, measure, objective=objective, lower_bound=lower_bound,
                complementarity=complementarity, kkt_residual=kkt, penalty=penalty,
            )  # fmt: skip
            if level is not None and level.due(done, stopped, converged or last):
                level.keep(
                    record, x=x, q=q, theta=theta, penalty=penalty, balance=balance, **data.state(),
                    **(sparse.state() if sparse else {}),
                )  # fmt: skip
            if converged or stopped or last:
                break
        if previous is not None:
            previous[...] = x

        new_theta = gamma / penalty
        if compiled and not (check and balance):
            steps = min(CHECK_EVERY - done % CHECK_EVERY, max_iter - done)
            residual_square = data.iterate(x, q, rhs, RELAXATION, theta, new_theta, penalty, isotropic, steps)
            theta = new_theta
            done += steps
            continue
        kernels.update_field_divergence(x, q, RELAXATION, theta, new_theta, isotropic, rhs, threads=threads)
        theta = new_theta
        if sparse:
            if check and not np.isnan(kkt):
                sparse.analyse(x)  # the KKT residual took its place
            sparse.update(RELAXATION, rhs, sparse.penalty / penalty)
        if check and balance:
            # Both grow or fall with the penalty, the KKT residual with its square against the complementarity.
            ratio = BALANCED * kkt / max(complementarity, np.finfo(float).eps)
            if not 0.5 <= ratio <= 2:
                factor = float(np.clip(np.sqrt(ratio), 0.05, 20.0))
                kernels.update_field(x, q, 0.0, theta, factor, isotropic, 0.0, threads=threads)
                penalty /= factor
                theta = gamma / penalty
                kernels.field_divergence(q, theta, isotropic, 1.0, -2.0, rhs, threads=threads)
                if sparse:
                    sparse.rescale(1 / factor)
                    sparse.add_split(rhs, sparse.penalty / penalty)
        done += 1
        keep = done % CHECK_EVERY == 0 or done == max_iter
        x, residual_square = data.step(rhs, x, penalty, sparse.penalty if sparse else 0.0, keep)

    history = record.history()
    measured = f"complementarity {complementarity:.1e}, KKT residual {kkt:.1e}, tol {tol:g}"
    return Solution(
        x=x,
        objective=objective,
        lower_bound=float(np.max(history["lower_bound"])),
        infeasibility={},
        kkt_residual=kkt,
        iterations=done,
        converged=bool(converged),
        status=outcome(converged, stopped, done, measured),
        history=history,
        seconds=record.seconds,
        **problem.what_ran(),
        details={"total_variation": tv, "penalty": penalty},
    )
