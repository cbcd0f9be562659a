"""The upper level: bilevel integrative optimisation (BIO) of an image (mathematics.md 2, 4 and 6)."""

import numpy as np

from ._fourier import FourierProblem
from ._upper import (
    BALANCE_BY,
    DATA_TOL_FACTOR,
    UpperLevel,
    data_shrink,
    field_threshold,
    rescale_residual,
    stationarity,
)
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
from .lower import RELAXATION, solve_lower
from .solution import Solution, stack
from .targets import resolve_target

__all__ = ["YBAR", "solve_bio"]

CHECK_EVERY = 10
YBAR = ("admm", "apg", "apg-1e-2", "apg-1e-4", "apg-1e-6", "observation")
# Penalties in units of eta: they multiply |grad x|^2 and |A x|^2 as eta multiplies |x|^2.
FIELD_PENALTY = 1.0
DATA_PENALTY = 100.0
EXACT_DATA_PENALTY = 1000.0
SLACK_PENALTY = 3.0
# The penalties are balanced at these iterations, and then left alone: convergence is that of the fixed method.
BALANCE_AT = frozenset({10, 20, 40, 80, 160, 320})
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
    eta=1.0,
    splitting="ball",
    isotropic=False,
    tol=1e-3,
    max_iter=1000,
    x0=None,
    penalties=None,
    callback=None,
    threads=None,
):
    """Solve the relaxed bilevel problem (mathematics.md, eq. 1; the paper's eq. with epsilon = kappa = 0):

        min_x  eta/2 |x - D|^2   subject to   |A x - ybar| <= epsilon,   TV(x) <= (1 + kappa) TV(xbar)

    where xbar is a solution of the lower level min 1/2 |A x - y|^2 + tv_weight TV(x), ybar = A xbar and D
    is the target made from the data.  With epsilon = kappa = 0 the feasible points are the lower level's
    solutions; where that solution is unique it is the answer whatever D is.

    Splitting "ball" (mathematics.md 4b in the one-field form 4c), with a = 1.6, c = clip(q, theta):

    1. q <- a grad x + (1 - a)(q - c) + c            one pass, with the norm of the new field
    2. theta <- the threshold that puts |q - clip(q, theta)|_1 at the TV bound (0 inside)
    3. rhs = grad^T (q - 2 clip(q, theta))           one stencil pass
    4. X = (eta D + b_v F rhs + b_p conj(H)(Y + (2s - 1) r)) / (eta + b_p |H|^2 + b_v L)
    5. r <- a (H X - Y) + (1 - a s) r;  s = min(1, epsilon/|r|);  x = F^-1 X      with 4 in one pass

    Splitting "slack" (mathematics.md 4a, the paper's linear-programming form, anisotropic): ``kernels.slack_update``
    lists its updates.

    Parameters
    ----------
    A : Blur
        An operator diagonal in the Fourier basis, for images of shape ``A.shape``.
    y : ndarray, shape (..., *A.shape), float32 or float64
        Observed images; leading axes are a batch, solved item by item.
    target : str, ndarray, callable or Target
        D: "nlm", "identity", "deconv", an array of y's shape, a callable given y (one image at a time), or
        an object of ``bioperf.targets``.
    tv_weight : float
        The lower level's weight, > 0.
    lower : Solution or ndarray, optional
        xbar, if the lower level was solved before.
    ybar : {"admm", "apg", "apg-1e-2", "apg-1e-4", "apg-1e-6", "observation"} or ndarray
        A xbar with xbar by ADMM to tolerance or by FISTA to a relative change (1e-4 for "apg"), y itself,
        or the array, of y's shape (A x_true, say).
    epsilon : float
        Radius of the data constraint, absolute, in the units of ``|A x - ybar|_2`` of one image.
    kappa : float
        Relative slack on the total variation.
    eta : float
        Weight of the distance to the target; it scales the objective, not the solution.
    splitting : {"ball", "slack"}
    isotropic : bool
        The total variation's kind, at both levels; "slack" has the anisotropic one only.
    tol : float
        Converged: |objective - lower bound| relative to the larger of them (and at least to 1e-6 eta/2 |D|^2)
        and (TV - t)+ / t at most tol, and (|A x - ybar| - epsilon)+ / |ybar| at most tol/10.
    max_iter : int
    x0 : ndarray, optional
        Starting image(s); xbar by default.
    penalties : tuple of 2 floats, optional
        (b_v, b_p); chosen and balanced if None ("slack" uses the first alone).
    callback : callable, optional
        Called with a ``Progress`` every few iterations; returning True stops the run.
    threads : int, optional
        At most this many.

    Returns
    -------
    Solution
        ``lower_bound`` is the dual value of mathematics.md 6 at the current multipliers, a bound for any of them;
        ``infeasibility`` has "tv" and "data", as above; ``details`` has "lower" (xbar's Solution, or None),
        "target" (the image D), "penalties", "total_variation_bound" and "epsilon".

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument.
    DivergenceError
        If NaN or infinity appears; the message names the iteration.

    References
    ----------
    Liu et al., "Bilevel Integrative Optimization for Ill-posed Inverse Problems".
    """
    check_operator(A)
    threads = check_threads(threads)
    y = as_images("y", y, A.shape)
    check_number("tv_weight", tv_weight, strict=True)
    options = {
        "epsilon": check_number("epsilon", epsilon),
        "eta": check_number("eta", eta, strict=True),
        "isotropic": bool(isotropic),
        "tol": check_number("tol", tol, strict=True),
        "max_iter": check_count("max_iter", max_iter),
        "callback": check_callback(callback),
    }
    kappa = check_number("kappa", kappa)
    check_choice("splitting", splitting, ("ball", "slack"))
    if splitting == "slack" and isotropic:
        raise ValueError('splitting: "slack" is a linear programme and needs isotropic=False; use splitting="ball"')
    if penalties is not None:
        if not isinstance(penalties, tuple | list):
            raise TypeError(f"penalties: expected two numbers (b_v, b_p), got {penalties!r}")
        if len(penalties) != 2:
            raise ValueError(f"penalties: expected two numbers (b_v, b_p), got {len(penalties)}")
        penalties = tuple(check_number("penalties", b, strict=True) for b in penalties)
    if isinstance(ybar, str):
        check_choice("ybar", ybar, YBAR)
    else:
        ybar = as_images_like("ybar", ybar, y)
    if x0 is not None:
        x0 = as_images_like("x0", x0, y)
    target = resolve_target(target, y)
    xbar, lower_solution = _lower_image(A, y, lower, ybar, tv_weight, isotropic, threads)
    if isinstance(ybar, str):
        ybar = y if ybar == "observation" else A(xbar)

    problem = FourierProblem(A, y.dtype, threads)
    solve = _ball if splitting == "ball" else _slack
    batch_shape = y.shape[: y.ndim - len(A.shape)]
    items = []
    for index in np.ndindex(batch_shape):
        bound = (1 + kappa) * problem.total_variation(xbar[index], isotropic)
        image = target(A, y, index, xbar=xbar[index], tv_weight=tv_weight, isotropic=isotropic, threads=threads)
        start = xbar[index] if x0 is None else x0[index]
        item = solve(problem, ybar[index], image, bound, start, penalties, **options)
        item.details |= {"target": image, "total_variation_bound": bound, "epsilon": options["epsilon"]}
        items.append(item)
    solution = stack(items, batch_shape)
    solution.details["lower"] = lower_solution
    return solution


def _lower_image(A, y, lower, ybar, tv_weight, isotropic, threads):
    """xbar and, if it was solved here or given as one, its Solution."""
    if isinstance(lower, Solution):
        return as_images_like("lower", lower.x, y), lower
    if lower is not None:
        return as_images_like("lower", lower, y), None
    options = {"isotropic": isotropic, "threads": threads}
    if isinstance(ybar, str) and ybar.startswith("apg"):
        change = float(ybar[4:] or 1e-4)
        solution = solve_lower(A, y, tv_weight, method="apg", change_tol=change, tol=1e-12, max_iter=20000, **options)
    else:
        solution = solve_lower(A, y, tv_weight, **options)
    return solution.x, solution


def _ball(problem, data, image, bound, x0, penalties, **options):
    upper = UpperLevel(problem, data, image, bound, options, "upper level (ball)")
    kernels, fft, threads, pixels = problem.kernels, problem.fft, problem.threads, problem.pixels
    isotropic, epsilon, eta, max_iter = upper.isotropic, upper.epsilon, upper.eta, upper.max_iter
    automatic = penalties is None
    if automatic:
        penalties = (FIELD_PENALTY * eta, (DATA_PENALTY if epsilon > 0 else EXACT_DATA_PENALTY) * eta)
    field_penalty, data_penalty = penalties

    x, rhs, spectrum, residual = fft.empty("real", "real", "spectrum", "spectrum")
    (q,) = workspace([(problem.field_shape, problem.dtype)])
    x[...] = x0
    kernels.gradient(x, ndim=len(problem.shape), out=q, threads=threads)
    np.multiply(problem.transfer, fft.coefficients(x), out=residual)
    residual -= upper.data
    shrink = data_shrink(epsilon, np.sqrt(problem.square_norm(residual)))
    theta = 0.0

    for done in range(1, max_iter + 1):
        sums = kernels.update_field(x, q, RELAXATION, theta, 1.0, isotropic, theta, threads=threads)
        theta = field_threshold(kernels, q, bound, isotropic, theta, sums, threads)
        kernels.field_divergence(q, theta, isotropic, 1.0, -2.0, rhs, threads=threads)
        spectrum = problem.zero_mean(fft.forward(rhs, spectrum))
        residual_square, misfit_square, distance_square = kernels.upper_spectrum(
            spectrum, None, upper.target, problem.transfer, upper.data, residual, problem.laplacian, eta,
            field_penalty * problem.scale, data_penalty, 0.0, RELAXATION, shrink, problem.copies, threads=threads,
        )  # fmt: skip
        shrink = data_shrink(epsilon, np.sqrt(pixels * residual_square))
        check = done % CHECK_EVERY == 0 or done == max_iter
        if check:
            kept = spectrum.copy()
        x = fft.inverse(spectrum, x)
        if not check:
            continue

        tv = kernels.field_status(x, q, theta, isotropic, threads=threads)[0]
        kernels.field_divergence(q, theta, isotropic, 0.0, 1.0, rhs, threads=threads)
        dual = fft.forward(rhs, spectrum)
        weights = field_penalty * problem.scale, data_penalty * (1 - shrink)
        lower_bound, dual_norm = upper.dual_bound(dual, weights[0], residual, weights[1], field_penalty * theta)
        kkt = stationarity(problem, upper, kept, dual, residual, weights, dual_norm)
        del kept
        converged, stopped = upper.check(
            done, x, tv, 0.5 * eta * pixels * distance_square, lower_bound, np.sqrt(pixels * misfit_square),
            kkt_residual=kkt, field_penalty=field_penalty, data_penalty=data_penalty,
        )  # fmt: skip
        if converged or stopped:
            break
        if automatic and done in BALANCE_AT and abs(upper.gap) > upper.tol:
            factor, tighter = upper.balance()
            if tighter == "tv":
                field_penalty *= factor
                kernels.update_field(x, q, 0.0, theta, 1 / factor, isotropic, 0.0, threads=threads)
                theta /= factor
            else:
                data_penalty *= factor
                shrink = rescale_residual(residual, shrink, factor, epsilon)

    return upper.solution(x, done, converged, stopped, (field_penalty, data_penalty))


def _slack(problem, data, image, bound, x0, penalties, **options):
    upper = UpperLevel(problem, data, image, bound, options, "upper level (slack)")
    kernels, fft, threads, pixels = problem.kernels, problem.fft, problem.threads, problem.pixels
    epsilon, eta, max_iter = upper.epsilon, upper.eta, upper.max_iter
    automatic = penalties is None
    penalty = SLACK_PENALTY * eta if automatic else penalties[0]
    proximal = 1e-3 * eta

    x, rhs, spectrum, previous, residual = fft.empty("real", "real", "spectrum", "spectrum", "spectrum")
    s1, s2, c, l1, l2 = workspace([(problem.field_shape, problem.dtype)] * 5)
    d, size = len(problem.shape), c.size
    x[...] = x0
    previous[...] = fft.coefficients(x)
    # w = |grad x| with the slacks that make both constraints equalities, all multipliers 0
    diagonal = 2 * penalty + proximal
    kernels.gradient(x, ndim=d, out=c, threads=threads)
    np.multiply(np.maximum(c, 0), 2, out=s2)
    np.multiply(np.maximum(-c, 0), 2, out=s1)
    np.abs(c, out=c)
    total_w = float(np.sum(c, dtype=np.float64))
    c *= problem.dtype.type(diagonal)
    for field in (l1, l2, residual):
        field[...] = 0
    shift = shrink = multiplier = 0.0
    slack = max(0.0, bound - total_w)
    laplacian = tuple(problem.dtype.type(2 * penalty) * axis for axis in problem.laplacian)

    for done in range(1, max_iter + 1):
        # lambda_1, lambda_2, s_1, s_2, and c but for its constant
        total_c, _ = kernels.slack_update(x, s1, s2, c, l1, l2, shift, penalty, proximal, rhs, threads=threads)
        multiplier += penalty * (total_w + slack - bound)
        slack = max(0.0, (penalty * (bound - total_w) - multiplier + proximal * slack) / (penalty + proximal))
        # w = (2 beta + tau + beta e e^T)^-1 c by its rank-one inverse, kept as a shift of the stored c
        constant = penalty * (bound - slack) - multiplier
        shift = penalty * (total_c + size * constant) / (diagonal + penalty * size) - constant
        total_w = (total_c - size * shift) / diagonal
        # x, and lambda_x = penalty (1 - shrink) residual
        spectrum = problem.zero_mean(fft.forward(rhs, spectrum))
        residual_square, misfit_square, distance_square = kernels.upper_spectrum(
            spectrum, previous, upper.target, problem.transfer, upper.data, residual, laplacian, eta,
            problem.scale, penalty, proximal, 1.0, shrink, problem.copies, threads=threads,
        )  # fmt: skip
        shrink = data_shrink(epsilon, np.sqrt(pixels * residual_square))
        previous[...] = spectrum
        x = fft.inverse(spectrum, x)
        if done % CHECK_EVERY and done != max_iter:
            continue

        mu = l1 + l2
        tv = problem.total_variation(x, False)
        kernels.gradient_adjoint(mu, ndim=d, out=rhs, threads=threads)
        dual = fft.forward(rhs, spectrum)
        weights = problem.scale, penalty * (1 - shrink)
        lower_bound, dual_norm = upper.dual_bound(dual, weights[0], residual, weights[1], float(np.abs(mu).max()))
        kkt = stationarity(problem, upper, previous.copy(), dual, residual, weights, dual_norm)
        converged, stopped = upper.check(
            done, x, tv, 0.5 * eta * pixels * distance_square, lower_bound, np.sqrt(pixels * misfit_square),
            kkt_residual=kkt, field_penalty=penalty, data_penalty=penalty,
        )  # fmt: skip
        if converged or stopped:
            break
        feasible = upper.tv_excess <= upper.tol and upper.data_excess <= DATA_TOL_FACTOR * upper.tol
        if automatic and done in SLACK_BALANCE_AT and (upper.gap < -upper.tol or (upper.gap > upper.tol and feasible)):
            factor = BALANCE_BY if upper.gap < 0 else 1 / BALANCE_BY
            c -= problem.dtype.type(shift)
            penalty, shift, previous_diagonal = penalty * factor, 0.0, diagonal
            diagonal = 2 * penalty + proximal
            c *= problem.dtype.type(diagonal / previous_diagonal)
            laplacian = tuple(problem.dtype.type(2 * penalty) * axis for axis in problem.laplacian)
            shrink = rescale_residual(residual, shrink, factor, epsilon)

    return upper.solution(x, done, converged, stopped, (penalty, penalty))
