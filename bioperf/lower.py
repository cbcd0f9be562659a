"""The lower level: total-variation restoration, min_x 1/2 |A x - y|^2 + gamma TV(x) (mathematics.md 3)."""

import functools

import numpy as np

from ._apg import solve_apg
from ._fourier import FourierProblem
from ._kkt import CHECK_EVERY, KKT_FACTOR, beyond_rounding, rounding_floors
from ._validation import (
    as_images,
    as_images_like,
    check_callback,
    check_choice,
    check_count,
    check_number,
    check_operator,
    check_threads,
)
from .fft import workspace
from .progress import Record, outcome
from .solution import Solution, stack

__all__ = ["solve_lower"]

RELAXATION = 1.6
# Penalty gamma / (image range) times this: within a few iterations of the best one on every problem tried.
PENALTY_FACTOR = 30.0
# At these iterations the penalty is set anew if one stopping test lags behind the other.
BALANCE_AT = frozenset({10, 20, 40, 80, 160, 320})
BALANCED = 0.04  # complementarity over KKT residual when neither test lags, at tol = 1e-4


def solve_lower(
    A,
    y,
    tv_weight,
    *,
    isotropic=False,
    method="admm",
    tol=1e-4,
    max_iter=2000,
    x0=None,
    penalty=None,
    change_tol=None,
    callback=None,
    threads=None,
):
    """Solve min_x 1/2 |A x - y|^2 + tv_weight TV(x) with a certified stop.

    ADMM in one-field form (mathematics.md 4c): with v = grad x, clip threshold theta = tv_weight / penalty and
    c = clip(q, theta), an iteration is

    1. q <- a grad x + (1 - a)(q - c) + c            one pass over the field, with
    2. rhs = grad^T (q - 2 c)                        in the same pass
    3. X = (conj(H) Y + penalty F rhs) / (|H|^2 + penalty L),  x = F^-1 X

    "apg" is FISTA on the same problem with an inner TV prox (Beck and Teboulle, 2009), the paper's other
    lower-level method.

    Parameters
    ----------
    A : Blur
        An operator diagonal in the Fourier basis, for images of shape ``A.shape``.
    y : ndarray, shape (..., *A.shape), float32 or float64
        Observed images; leading axes are a batch, solved item by item.
    tv_weight : float
        gamma > 0, in the units of the image's intensity.
    isotropic : bool
        Whether TV sums the l2 norms of the pixels' gradients (True) or their l1 norms (False, the paper's).
    method : {"admm", "apg"}
    tol : float
        Stop when the complementarity (tv_weight TV(x) - <mu, grad x>) is at most tol times the objective and
        the relative KKT residual |A^T(Ax - y) + grad^T mu| / |grad^T mu| at most sqrt(tol)/4: the residual
        enters the gap multiplied by the distance to the solution, which is itself of its order.
    max_iter : int
    x0 : ndarray, optional
        Starting image(s), the shape of y; y by default.
    penalty : float, optional
        ADMM's penalty. None: chosen from tv_weight and the data's range, then balanced.
    change_tol : float, optional
        Stop as well when |x - x_previous| <= change_tol |x| ("apg": the paper's rule, tested every iteration).
    callback : callable, optional
        Called with a ``Progress`` at each check; returning True stops the run.
    threads : int, optional
        At most this many; by default what the process may use, fewer for small images.

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
    DivergenceError
        If NaN or infinity appears; the message names the iteration.
    """
    check_operator(A)
    check_callback(callback)
    threads = check_threads(threads)
    y = as_images("y", y, A.shape)
    gamma = check_number("tv_weight", tv_weight, strict=True)
    tol = check_number("tol", tol, strict=True)
    max_iter = check_count("max_iter", max_iter)
    check_choice("method", method, ("admm", "apg"))
    if penalty is not None:
        penalty = check_number("penalty", penalty, strict=True)
    if change_tol is not None:
        change_tol = check_number("change_tol", change_tol, strict=True)
    if x0 is not None:
        x0 = as_images_like("x0", x0, y)

    problem = FourierProblem(A, y.dtype, threads)
    solve = _admm if method == "admm" else solve_apg
    batch_shape = y.shape[: y.ndim - len(A.shape)]
    items = []
    for index in np.ndindex(batch_shape):
        start = y[index] if x0 is None else x0[index]
        flat = _constant_solution(problem, y[index], gamma, isotropic) if gamma > intensity_range(y[index]) else None
        if flat is not None:
            items.append(flat)
            continue
        items.append(solve(problem, y[index], gamma, isotropic, tol, max_iter, start, penalty, change_tol, callback))
    return stack(items, batch_shape)


def intensity_range(y):
    """The data's range, the scale that the penalties refer to (1 for a constant image)."""
    spread = float(y.max()) - float(y.min())
    return spread if spread > 0 else 1.0


def dual_value(residual_square, pairing, excess):
    """max over s <= 1/excess of -s^2/2 |r|^2 - s <r, y>: a feasible dual value, where r = A x - y has
    A^T r + grad^T mu = 0 exactly, <mu, grad x> = pairing and |mu| <= excess * gamma."""
    along = residual_square + pairing  # -<r, y>, as <r, A x> = -<mu, grad x>
    scale = min(1.0, 1.0 / excess) if excess > 0 else 1.0
    if residual_square > 0:
        scale = min(scale, max(0.0, along / residual_square))
    return scale * along - 0.5 * scale * scale * residual_square


def _constant_solution(problem, y, gamma, isotropic):
    """The constant image, if a dual field proves that it is optimal for this (large) weight, else None.

    c minimises |A c - y| over the constants; mu = -grad L^+ A^T(A c - y) satisfies stationarity exactly, so
    |mu| <= gamma makes c a solution, with the objective as its lower bound.
    """
    record = Record("lower level", 0, None)
    data = problem.fft.coefficients(y)
    mean = (0,) * len(problem.shape)
    gain = problem.transfer[mean].real
    value = problem.dtype.type(data[mean].real / gain)
    gradient = np.conj(problem.transfer) * -data
    laplacian = problem.fft.laplacian()
    total = functools.reduce(np.add.outer, laplacian)
    total[mean] = 1
    gradient /= total
    gradient[mean] = 0
    (potential,) = problem.fft.empty("real")
    mu = problem.kernels.gradient(problem.fft.inverse(gradient, potential), ndim=len(problem.shape))
    largest = np.sqrt(np.max(np.sum(mu * mu, axis=0))) if isotropic else np.max(np.abs(mu))
    if not largest <= gamma:
        return None
    x = np.full(problem.shape, value)
    data[mean] = 0
    objective = 0.5 * problem.square_norm(data)
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
        status="converged in 0 iterations (the weight is so large that the constant image is optimal)",
        history=record.history(),
        seconds=record.seconds,
        **problem.what_ran(),
        details={"total_variation": 0.0, "penalty": np.nan},
    )


def _admm(problem, y, gamma, isotropic, tol, max_iter, x0, penalty, change_tol, callback):
    kernels, fft, threads, pixels = problem.kernels, problem.fft, problem.threads, problem.pixels
    record = Record("lower level", max_iter, callback)
    automatic = penalty is None
    if automatic:
        penalty = PENALTY_FACTOR * gamma / intensity_range(y)

    data = fft.coefficients(y)
    x, rhs, spectrum, kept = fft.empty("real", "real", "spectrum", "spectrum")
    (q,) = workspace([(problem.field_shape, problem.dtype)])
    x[...] = x0
    kernels.gradient(x, ndim=len(problem.shape), out=q, threads=threads)
    theta, residual_square = 0.0, np.inf
    rounding, tv_rounding = rounding_floors(problem, y, gamma)
    previous = x.copy() if change_tol is not None else None
    converged = stopped = False
    kkt_tol = KKT_FACTOR * np.sqrt(tol)

    def kkt_residual():
        """|A^T(Ax - y) + grad^T mu| / |grad^T mu| for x = F^-1 kept and mu = penalty clip(q, theta)."""
        kernels.field_divergence(q, theta, isotropic, 0.0, 1.0, rhs, threads=threads)
        dual = fft.forward(rhs, spectrum)
        weight = penalty * problem.scale
        square = kernels.lower_kkt(kept, dual, problem.transfer, data, weight, problem.copies, threads=threads)
        size = weight**2 * problem.square_norm(dual) / pixels
        return beyond_rounding(np.sqrt(square * pixels), rounding, np.sqrt(size * pixels))

    for done in range(max_iter + 1):
        check = done > 0 and (done % CHECK_EVERY == 0 or done == max_iter)
        if check:
            tv, clip_pairing, gv, vv, gg, largest = kernels.field_status(x, q, theta, isotropic, threads=threads)
            objective = 0.5 * residual_square + gamma * tv
            # mu = penalty (grad x - v + c) satisfies stationarity exactly: the x-update says so.
            pairing = penalty * (clip_pairing + 0.5 * (gg + gv - vv))
            lower_bound = dual_value(residual_square, pairing, penalty * largest / gamma)
            complementarity = beyond_rounding(gamma * tv - penalty * clip_pairing, gamma * tv_rounding, objective)
            kkt = kkt_residual() if complementarity <= tol or done == max_iter else np.nan
            converged = complementarity <= tol and kkt <= kkt_tol
            if previous is not None:
                change = float(np.linalg.norm(x - previous) / max(float(np.linalg.norm(x)), np.finfo(float).tiny))
                converged = converged or change <= change_tol
            measure = max(complementarity / tol, 0.0 if np.isnan(kkt) else kkt / kkt_tol)
            stopped = record.add(
                done, x, measure, objective=objective, lower_bound=lower_bound,
                complementarity=complementarity, kkt_residual=kkt, penalty=penalty,
            )  # fmt: skip
            if converged or stopped or done == max_iter:
                break
        if previous is not None:
            previous[...] = x

        new_theta = gamma / penalty
        kernels.update_field_divergence(x, q, RELAXATION, theta, new_theta, isotropic, rhs, threads=threads)
        theta = new_theta
        if automatic and check and done in BALANCE_AT and gv > 0:
            # Both grow or fall with the penalty, the KKT residual with its square against the complementarity.
            ratio = BALANCED * kkt_residual() / max(complementarity, np.finfo(float).eps)
            if not 0.5 <= ratio <= 2:
                factor = float(np.clip(np.sqrt(ratio), 0.05, 20.0))
                kernels.update_field(x, q, 0.0, theta, factor, isotropic, 0.0, threads=threads)
                penalty /= factor
                theta = gamma / penalty
            kernels.field_divergence(q, theta, isotropic, 1.0, -2.0, rhs, threads=threads)

        spectrum = problem.zero_mean(fft.forward(rhs, spectrum))
        residual_square = pixels * kernels.lower_spectrum(
            spectrum, problem.transfer, data, problem.laplacian, penalty * problem.scale, problem.copies,
            threads=threads,
        )  # fmt: skip
        if (done + 1) % CHECK_EVERY == 0 or done + 1 == max_iter:
            kept[...] = spectrum
        x = fft.inverse(spectrum, x)

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
