"""The general bilevel problem against an interior-point solver; its bound, its forms of A and f, its refusals."""

import functools
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import LinearOperator
from scipy.special import expit

from bioperf import Blur, DivergenceError
from bioperf.bilevel import BilevelProblem, solve_bilevel
from bioperf.functions import (
    L1,
    Box,
    GroupLasso,
    LeastSquares,
    Logistic,
    Poisson,
    SparseGroupLasso,
    SquaredDistance,
    SquaredL2,
    TotalVariation,
    Zero,
    _splitting,
)

# Against the interior point: x and objective.
EXACT = 1e-6
TOL = 1e-10


class LogCosh:
    """A strongly convex objective that is not quadratic: sum log(e^x + e^-x) + 1/4 |x - D|^2."""

    strong_convexity = 0.5

    def __init__(self, target):
        self.target = target

    def value(self, x):
        return float(np.sum(np.logaddexp(x, -x)) + 0.25 * np.sum((x - self.target) ** 2))

    def gradient(self, x):
        return (np.tanh(x) + 0.5 * (x - self.target)).astype(x.dtype)


# --- the oracle -----------------------------------------------------------------------------


def column_matrix(A, shape):
    return np.stack([A(e.reshape(shape)).ravel() for e in np.eye(math.prod(shape))], axis=1)


def difference_matrix(shape):
    return column_matrix(lambda x: np.stack([np.roll(x, -1, axis) - x for axis in range(x.ndim)]), shape)


def group_lists(penalty):
    return [np.flatnonzero(penalty.labels == k) for k in range(penalty.group_weights.size)]


def penalty_terms(cp, penalty, x):
    """A penalty as a CVXPY expression, and the constraints of an indicator."""
    if isinstance(penalty, Zero):
        return 0.0, []
    if isinstance(penalty, L1):
        return penalty.weight * cp.norm1(x), []
    if isinstance(penalty, SquaredL2):
        return 0.5 * penalty.weight * cp.sum_squares(x), []
    if isinstance(penalty, Box):
        return 0.0, [x >= penalty.lower.ravel(), x <= penalty.upper.ravel()]
    if isinstance(penalty, TotalVariation):
        field = difference_matrix(penalty.shape) @ x
        if penalty.isotropic:
            field = cp.norm(cp.reshape(field, (len(penalty.shape), x.size), order="C"), axis=0)
        return penalty.weight * cp.norm1(field), []
    norms = [w * cp.norm(x[g]) for w, g in zip(penalty.group_weights, group_lists(penalty), strict=True) if w]
    return sum(norms) + penalty.sparse_weight * cp.norm1(x), []


def loss_term(cp, loss, z):
    if isinstance(loss, LeastSquares):
        return 0.5 * cp.sum_squares(z - loss.b.ravel())
    if isinstance(loss, Logistic):
        return cp.sum(cp.logistic(z)) - loss.b @ z
    mean = z + np.broadcast_to(loss.background, loss.b.shape).ravel()
    return cp.sum(mean) - loss.b.ravel() @ cp.log(mean)


def objective_term(cp, objective, x):
    target = np.broadcast_to(np.ravel(objective.target), x.shape)
    if isinstance(objective, LogCosh):
        return cp.sum(cp.logistic(2 * x) - x) + 0.25 * cp.sum_squares(x - target)
    return 0.5 * objective.strong_convexity * cp.sum_squares(x - target)


def minimise(cp, x, objective, constraints):
    problem = cp.Problem(cp.Minimize(objective), constraints)
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12, max_iter=500)
    assert problem.status in ("optimal", "optimal_inaccurate"), problem.status
    return SimpleNamespace(x=x.value, objective=float(problem.value))


def solution_set(cp, problem, matrix, xbar):
    """The lower level's solutions without phi <= phi(xbar): x = B c with A B c = A xbar, c >= 0 where so marked.

    The columns of B are what the subgradient u = -A^T h'(A xbar) lets x be made of: coordinates that are not
    penalised, one direction for each group (each coordinate of the l1 norm) where u is as large as it may be.
    """
    penalty, size = problem.penalty, xbar.size
    u = -matrix.T @ problem.loss.gradient((matrix @ xbar).reshape(problem.loss.b.shape)).ravel()
    if isinstance(penalty, L1):
        groups, weights, a = [[i] for i in range(size)], np.full(size, penalty.weight), 0.0
    elif isinstance(penalty, Box | Zero):
        groups, weights, a = [list(range(size))], [0.0], 0.0
    else:
        groups, weights, a = group_lists(penalty), penalty.group_weights, penalty.sparse_weight
    columns, signed = [], []
    for g, w in zip(groups, weights, strict=True):
        directions = np.eye(len(g))
        if w > 0:
            soft = np.sign(u[g]) * np.maximum(np.abs(u[g]) - a, 0)
            active = np.linalg.norm(soft) > w - 1e-6
            # strict complementarity, or the oracle could not tell
            assert active or np.linalg.norm(soft) < w - 1e-3
            directions = soft[None] / w if active else []
        for direction in directions:
            columns.append(np.zeros(size))
            columns[-1][g] = direction
            signed.append(w > 0)
    B, signed = np.stack(columns, axis=1), np.array(signed)
    left, values, right = np.linalg.svd(matrix @ B)
    rank = int(np.sum(values > 1e-8 * values[0]))
    start = right[:rank].T @ ((left[:, :rank].T @ (matrix @ xbar)) / values[:rank])
    c = start + right[rank:].T @ cp.Variable(len(right) - rank)
    return B @ c, [c[np.flatnonzero(signed)] >= 0] if signed.any() else []


def oracle(problem, matrix):
    """Both levels by the interior point: xbar, x, the objectives and t."""
    cp = pytest.importorskip("cvxpy", reason="cvxpy (the test extra) is not installed")
    x = cp.Variable(math.prod(problem.shape))
    phi, domain = penalty_terms(cp, problem.penalty, x)
    lower = minimise(cp, x, loss_term(cp, problem.loss, matrix @ x) + phi, domain)
    value, level = problem.penalty.value, math.inf
    if problem.epsilon == problem.kappa == 0:
        x, constraints = solution_set(cp, problem, matrix, lower.x)
        constraints += penalty_terms(cp, problem.penalty, x)[1]
    else:
        level = 0.0 if domain else (1 + problem.kappa) * value(lower.x.reshape(problem.shape))
        misfit = matrix @ x - matrix @ lower.x
        constraints = [misfit == 0] if problem.epsilon == 0 else [cp.norm(misfit) <= problem.epsilon]
        constraints += domain or ([] if isinstance(problem.penalty, Zero) else [phi <= level])
    g, more = penalty_terms(cp, problem.regulariser, x)
    upper = minimise(cp, x, objective_term(cp, problem.objective, x) + g, [*constraints, *more])
    return SimpleNamespace(xbar=lower.x, lower=lower.objective, x=upper.x, objective=upper.objective)


# --- problems -------------------------------------------------------------------------------


def design(rows=14, columns=10, copies=6, seed=0):
    """A rank-deficient design: columns 10 ... 15 copy columns 0 ... 5 (pairs of them: groups of two copy groups)."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((rows, columns))
    truth = np.zeros(columns + copies)
    truth[[0, 1, 4, 8]] = [1.5, -1.0, 1.0, 0.7]
    return rng, np.concatenate([A, A[:, :copies]], axis=1), truth


PAIRS = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12, 13], [14, 15]]
MIXED = [[0, 11], [1, 10], [2, 3, 12, 13], [4], [14], [5, 15], [6, 7, 8, 9]]


def regression(kind, penalty, objective=None, regulariser=None, **relaxation):
    rng, A, truth = design()
    if kind == "logistic":
        loss = Logistic(rng.random(14) < expit(2 * A @ truth))
    else:
        loss = LeastSquares(A @ truth + 0.1 * rng.standard_normal(14))
    objective = SquaredDistance() if objective is None else objective(rng.standard_normal(16))
    return BilevelProblem(A, loss, penalty, objective, regulariser or Zero(), **relaxation), A


def deconvolution(shape, isotropic, weight=0.6, exposure=30, **relaxation):
    """Counts seen through a rank-deficient blur (weights 1, 2, 1 on even sizes), background 1."""
    rng = np.random.default_rng(2)
    truth = np.full(shape, 0.3)
    truth[tuple(slice(n // 4, n // 2 + 1) for n in shape)] = 1.0
    psf = functools.reduce(np.multiply.outer, [np.array([0.25, 0.5, 0.25])] * len(shape))
    matrix = exposure * column_matrix(Blur(psf, shape), shape)
    b = rng.poisson(matrix @ truth.ravel() + 1.0)
    target = truth + 0.2 * rng.standard_normal(shape)
    phi = TotalVariation(shape, isotropic=isotropic, weight=weight)
    return BilevelProblem(matrix, Poisson(b, 1.0), phi, SquaredDistance(target), **relaxation), matrix


def boxed(box_is, **relaxation):
    """Bounds at the lower level (phi, many solutions) or at the upper (g, over the lasso's)."""
    rng, A, truth = design(rows=6)
    b = A @ np.clip(truth, -0.2, 1) + 0.3 * rng.standard_normal(6)
    target = SquaredDistance(rng.standard_normal(16))
    if box_is == "penalty":
        return BilevelProblem(A, LeastSquares(b), Box(np.full(16, -0.2), 0.3), target, **relaxation), A
    return BilevelProblem(A, LeastSquares(b), L1(0.5), target, Box(-0.6, 0.35), **relaxation), A


SPARSE_GROUP = SparseGroupLasso(PAIRS, (0.2, np.linspace(0.6, 0.6, 8)))
PROBLEMS = {
    "logistic-least-norm": lambda: regression("logistic", L1(0.5)),
    "logistic-target": lambda: regression("logistic", L1(0.5), SquaredDistance),
    "logistic-group-sparse": lambda: regression("logistic", L1(0.5), None, GroupLasso(MIXED, 0.4)),
    "logistic-relaxed": lambda: regression("logistic", L1(0.5), SquaredDistance, None, epsilon=0.2, kappa=0.05),
    "squares-sparse-group": lambda: regression("squares", SPARSE_GROUP, SquaredDistance),
    "squares-sparse-group-kappa": lambda: regression("squares", SPARSE_GROUP, SquaredDistance, kappa=0.05),
    "squares-sparse-group-relaxed": lambda: regression(
        "squares", SPARSE_GROUP, SquaredDistance, kappa=0.05, epsilon=0.3
    ),
    "squares-group": lambda: regression("squares", GroupLasso(PAIRS, 0.5), SquaredDistance, L1(0.3)),
    "squares-group-free": lambda: regression("squares", GroupLasso(PAIRS, [0.0] + [0.5] * 7), SquaredDistance),
    "squares-group-free-kappa": lambda: regression(
        "squares", GroupLasso(PAIRS, [0.0] + [0.5] * 7), SquaredDistance, kappa=0.1
    ),
    "squares-no-penalty": lambda: regression("squares", Zero(), SquaredDistance),
    "squares-ridge-relaxed": lambda: regression("squares", SquaredL2(0.3), SquaredDistance, L1(0.2), kappa=0.1),
    "log-cosh": lambda: regression("logistic", L1(0.5), LogCosh),
    "log-cosh-relaxed": lambda: regression("squares", L1(0.5), LogCosh, GroupLasso(MIXED, 0.4), epsilon=0.3),
    "box-penalty": lambda: boxed("penalty"),
    "box-penalty-relaxed": lambda: boxed("penalty", epsilon=0.2),
    "box-regulariser": lambda: boxed("regulariser", epsilon=0.2, kappa=0.3),
    "poisson-1d": lambda: deconvolution((20,), False, epsilon=3.0),
    "poisson-1d-tight-tv": lambda: deconvolution((20,), False, epsilon=1.0, kappa=0.05),
    "poisson-1d-zero-counts": lambda: deconvolution((20,), False, weight=0.3, exposure=3, epsilon=0.5),
    "poisson-2d": lambda: deconvolution((6, 6), False, epsilon=3.0),
    "poisson-2d-isotropic": lambda: deconvolution((6, 6), True, epsilon=3.0),
    "poisson-2d-kappa": lambda: deconvolution((6, 6), True, kappa=0.1),
    "tv-regulariser": lambda: regression_tv(),
}
every_problem = pytest.mark.parametrize("name", PROBLEMS)


def regression_tv():
    rng, A, truth = design()
    loss = LeastSquares(A @ truth + 0.1 * rng.standard_normal(14))
    target = SquaredDistance(rng.standard_normal(16))
    return BilevelProblem(A, loss, L1(0.5), target, TotalVariation(16, weight=0.3), epsilon=0.4), A


@functools.cache
def optimum(name):
    return oracle(*PROBLEMS[name]())


@functools.cache
def solved(name):
    return solve_bilevel(PROBLEMS[name]()[0], tol=TOL)


# --- the optimum ----------------------------------------------------------------------------


@every_problem
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_agrees_with_the_interior_point(name):
    problem, _ = PROBLEMS[name]()
    expected, solution = optimum(name), solved(name)
    assert solution.converged, solution.status
    assert solution.x.shape == problem.shape and solution.x.dtype == problem.dtype == np.float64
    np.testing.assert_allclose(solution.x.ravel(), expected.x, rtol=0, atol=EXACT)
    assert solution.objective == pytest.approx(expected.objective, rel=EXACT, abs=EXACT)
    assert solution.objective == problem.objective.value(solution.x) + problem.regulariser.value(solution.x)
    lower = solution.details["lower"]
    assert lower.converged and lower.objective == pytest.approx(expected.lower, rel=1e-8)


@every_problem
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_certificate(name):
    """A bound at every check, tight at the end; the infeasibility is what it says; the history holds both."""
    (problem, matrix), expected, solution = PROBLEMS[name](), optimum(name), solved(name)
    assert np.all(solution.history["lower_bound"] <= expected.objective + 1e-6)
    assert solution.lower_bound == solution.history["lower_bound"].max() >= expected.objective - 1e-6
    xbar, t = solution.details["lower_image"], solution.details["penalty_bound"]
    assert t == (1 + problem.kappa) * problem.penalty.value(xbar)
    misfit = np.linalg.norm(matrix @ (solution.x - xbar).ravel())
    excess = max(0.0, misfit - problem.epsilon) / np.linalg.norm(matrix @ xbar.ravel())
    assert solution.infeasibility["data"] == pytest.approx(excess, abs=1e-13) and excess <= TOL
    if not isinstance(problem.penalty, Box):
        assert problem.penalty.value(solution.x) <= t * (1 + TOL)
    assert max(solution.infeasibility.values()) <= TOL and solution.kkt_residual <= TOL
    assert solution.history["kkt_residual"][-1] == solution.kkt_residual
    assert solution.history["iteration"][-1] == solution.iterations
    assert solution.details["constraint"] == ("face" if name in FACES else "ball")


FACES = [
    "logistic-least-norm", "logistic-target", "logistic-group-sparse", "squares-sparse-group", "squares-group",
    "squares-group-free", "log-cosh",
]  # fmt: skip


@pytest.mark.parametrize("name", FACES)
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_the_upper_level_chooses_among_many_solutions(name):
    """These lower levels have more than one solution, so that agreement above is the upper level's doing."""
    (problem, matrix), solution = PROBLEMS[name](), solved(name)
    xbar = solution.details["lower_image"]
    lower = [problem.loss.value(matrix @ x) + problem.penalty.value(x) for x in (xbar, solution.x)]
    assert lower[1] == pytest.approx(lower[0], rel=1e-9)
    # all of a coefficient in one of two copies is a solution as well
    merged = [solution.x.copy(), solution.x.copy()]
    merged[0][:6], merged[0][10:] = solution.x[:6] + solution.x[10:], 0
    merged[1][2:6], merged[1][12:] = 0, solution.x[2:6] + solution.x[12:]
    for target in merged:
        other = solve_bilevel(problem_with(problem, objective=SquaredDistance(target), regulariser=Zero()), tol=1e-6)
        np.testing.assert_allclose(other.x, target, rtol=0, atol=1e-4)
    assert max(np.linalg.norm(target - solution.x) for target in merged) > 0.1


def problem_with(problem, **changes):
    names = ("A", "loss", "penalty", "objective", "regulariser", "epsilon", "kappa")
    return BilevelProblem(**{name: getattr(problem, name) for name in names} | changes)


def test_least_norm_shares_equally_among_copies():
    """The minimal-norm solution gives each of two equal columns the same coefficient."""
    x = solved("logistic-least-norm").x
    np.testing.assert_allclose(x[:6], x[10:], rtol=0, atol=1e-9)
    assert np.abs(x[:6]).max() > 0.1


def test_the_regularised_copy_is_exactly_sparse():
    x = solved("logistic-group-sparse").x
    zero = [not x[g].any() for g in MIXED]
    assert any(zero) and all(np.abs(x[g]).max() > 1e-6 for g, none in zip(MIXED, zero, strict=True) if not none)
    box = PROBLEMS["box-regulariser"]()[0].regulariser
    assert box.value(solved("box-regulariser").x) == 0


@pytest.mark.parametrize("name", ["logistic-least-norm", "logistic-target", "logistic-group-sparse"])
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_the_ball_form_of_a_polyhedral_penalty(name):
    solution = solve_bilevel(PROBLEMS[name]()[0], constraint="ball", tol=TOL)
    assert solution.converged and solution.details["constraint"] == "ball"
    np.testing.assert_allclose(solution.x, optimum(name).x, rtol=0, atol=EXACT)


def test_the_ball_form_of_a_curved_penalty_is_slow_and_says_so():
    """phi <= phi(xbar) touches A x = ybar: no multiplier, no linear convergence, but an honest status."""
    solution = solve_bilevel(PROBLEMS["squares-sparse-group"]()[0], constraint="ball", tol=TOL, max_iter=300)
    assert not solution.converged and solution.status.startswith("not converged: iteration limit 300")
    error = np.abs(solution.x - solved("squares-sparse-group").x).max()
    assert 1e-4 < error < 0.5


@pytest.mark.parametrize("isotropic", [False, True])
def test_total_variation_with_many_solutions(isotropic):
    """One averaged sample: every monotone signal between has the same TV; the face takes the target's shape."""
    A = np.zeros((2, 8))
    A[0, 0] = A[1, 4] = 1.0
    target = np.array([0.0, 0.5, 0.2, 0.9, 1.0, 0.8, 0.9, 0.1])
    phi = TotalVariation(8, isotropic=isotropic, weight=0.1)
    problem = BilevelProblem(A, LeastSquares([0.0, 1.0]), phi, SquaredDistance(target))
    solution = solve_bilevel(problem, tol=1e-9)
    assert solution.converged and solution.details["constraint"] == "face"
    # ybar = (0.2, 0.8): 2 * 0.1 pulls each; between them the nearest monotone signals
    expected = [0.2, 0.35, 0.35, 0.8, 0.8, 0.8, 0.8, 0.2]
    np.testing.assert_allclose(solution.x, expected, rtol=0, atol=1e-7)


# --- forms of the problem -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["logistic-group-sparse", "log-cosh-relaxed", "poisson-2d-isotropic"])
def test_conjugate_gradients_agree_with_the_triangular_solve(name, monkeypatch):
    monkeypatch.setattr(_splitting, "DIRECT_SIZE", 0)
    solution = solve_bilevel(PROBLEMS[name]()[0], tol=TOL)
    assert solution.converged
    np.testing.assert_allclose(solution.x, solved(name).x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["sparse", "operator", "hessian", "quotients"])
def test_other_forms_of_the_same_problem(kind):
    problem, A = PROBLEMS["log-cosh"]()
    f = problem.objective
    if kind == "sparse":
        problem = problem_with(problem, A=sparse.csr_array(A))
    elif kind == "operator":
        operator = LinearOperator(A.shape, matvec=lambda x: A @ x, rmatvec=lambda z: A.T @ z)
        problem = problem_with(problem, A=operator)
    elif kind == "hessian":
        exact = SimpleNamespace(
            value=f.value, gradient=f.gradient, strong_convexity=0.5,
            hessian_product=lambda x, v: v / np.cosh(x) ** 2 + 0.5 * v,
        )  # fmt: skip
        problem = problem_with(problem, objective=exact)
    else:
        problem, _ = PROBLEMS["logistic-target"]()
        f = problem.objective
        plain = SimpleNamespace(value=f.value, gradient=f.gradient)
        solution = solve_bilevel(problem_with(problem, objective=plain), tol=TOL)
        assert solution.converged and solution.lower_bound == -math.inf
        assert np.all(np.isnan(solution.history["gap"]))
        np.testing.assert_allclose(solution.x, solved("logistic-target").x, rtol=0, atol=1e-8)
        return
    np.testing.assert_allclose(solve_bilevel(problem, tol=TOL).x, solved("log-cosh").x, rtol=0, atol=1e-8)


def test_an_operator_on_images_is_the_same_as_its_matrix():
    shape = (6, 5)
    blur = Blur(np.full((3, 3), 1 / 9), shape)
    rng = np.random.default_rng(0)
    b, target = rng.random(shape), rng.random(shape)
    parts = (TotalVariation(shape, weight=0.02), SquaredDistance(target))
    image = BilevelProblem(blur, LeastSquares(b), *parts, epsilon=0.1)
    flat = BilevelProblem(column_matrix(blur, shape), LeastSquares(b.ravel()), *parts, epsilon=0.1)
    assert image.shape == flat.shape == shape
    a, c = (solve_bilevel(problem, tol=1e-9) for problem in (image, flat))
    assert a.converged and a.x.shape == shape
    np.testing.assert_allclose(a.x, c.x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["logistic-group-sparse", "squares-sparse-group-kappa", "poisson-2d"])
def test_single_precision(name):
    problem, A = PROBLEMS[name]()
    loss = problem.loss.astype(np.float32)
    single = problem_with(problem, A=A.astype(np.float32), loss=loss)
    assert single.dtype == np.float32
    solution = solve_bilevel(single, tol=3e-5)
    assert solution.converged and solution.x.dtype == solution.details["lower_image"].dtype == np.float32
    np.testing.assert_allclose(solution.x, solved(name).x, rtol=0, atol=5e-3)


def test_integer_labels_take_the_precision_of_A():
    A = np.eye(3, dtype=np.float32)
    assert BilevelProblem(A, Logistic([0, 1, 1]), L1(), SquaredDistance()).dtype == np.float32
    assert BilevelProblem(A, Logistic([0.0, 1, 1]), L1(), SquaredDistance()).dtype == np.float64


def test_a_given_lower_level_is_not_solved_again():
    problem, _ = PROBLEMS["squares-sparse-group"]()
    first = solved("squares-sparse-group")
    for lower in (first.details["lower"], first.details["lower_image"]):
        again = solve_bilevel(problem, lower=lower, tol=TOL)
        np.testing.assert_allclose(again.x, first.x, rtol=0, atol=1e-9)
        assert again.details["lower"] is (lower if lower is first.details["lower"] else None)
    # any solution of the lower level will do: the bilevel solution itself
    again = solve_bilevel(problem, lower=first.x, tol=TOL)
    np.testing.assert_allclose(again.x, first.x, rtol=0, atol=1e-8)
    # one that is far from a solution has no face
    coarse = solve_bilevel(problem, lower=first.x + 1e-3, tol=TOL, max_iter=10)
    assert coarse.details["constraint"] == "ball" and not coarse.converged


def test_runs_are_reproducible():
    problem, _ = PROBLEMS["poisson-2d"]()
    np.testing.assert_array_equal(solve_bilevel(problem, tol=TOL).x, solved("poisson-2d").x)


def test_penalty_so_large_that_the_lower_level_is_zero():
    problem, _ = regression("squares", L1(1e3), SquaredDistance)
    solution = solve_bilevel(problem, tol=1e-9)
    assert solution.converged
    np.testing.assert_allclose(solution.x, 0, atol=1e-9)
    assert solution.details["lower"].gap <= 1e-9


def test_constant_lower_level_of_total_variation():
    problem, _ = deconvolution((6, 6), False, weight=1e3, epsilon=1.0)
    solution = solve_bilevel(problem, tol=1e-8)
    assert solution.converged and np.ptp(solution.x) <= 1e-5


def test_lower_bound_of_the_lower_level():
    assert np.any(PROBLEMS["poisson-1d-zero-counts"]()[0].loss.b == 0)
    for name in PROBLEMS:
        lower = solved(name).details["lower"]
        assert np.all(np.isfinite(lower.history["lower_bound"]))
        assert np.all(lower.history["lower_bound"] <= lower.objective + 1e-9)
        # trivial where phi is composed, and where it leaves coordinates free (their dual would have to be exactly 0)
        if PROBLEMS[name]()[0].penalty.operator is None and "free" not in name and "no-penalty" not in name:
            assert lower.gap <= 1e-7, name


# --- the run --------------------------------------------------------------------------------


def test_callback_sees_both_levels_and_stops_each():
    seen = []

    def callback(progress):
        seen.append((progress.stage, progress.iteration, progress.measure))
        return progress.iteration >= 20

    problem, _ = PROBLEMS["poisson-1d"]()
    solution = solve_bilevel(problem, tol=1e-12, callback=callback)
    assert [row[:2] for row in seen] == [
        (stage, iteration) for stage in ("lower level", "upper level") for iteration in (10, 20)
    ]
    assert not solution.converged
    assert solution.status.startswith("lower level stopped by the callback at iteration 20")
    assert "upper level stopped by the callback at iteration 20" in solution.status


def test_iteration_limit_is_reported():
    solution = solve_bilevel(PROBLEMS["poisson-1d"]()[0], tol=1e-12, max_iter=7)
    assert not solution.converged and solution.iterations == 7
    assert solution.status.startswith("lower level not converged: iteration limit 7 reached")


def test_converged_means_that_the_measure_is_below_one():
    measures = []
    solution = solve_bilevel(
        PROBLEMS["squares-group"]()[0], tol=1e-6, callback=lambda progress: measures.append(progress.measure)
    )
    assert solution.converged and measures[-1] <= 1
    row = {name: values[-1] for name, values in solution.history.items()}
    tests = (abs(row["gap"]), row["kkt_residual"], row["penalty_infeasibility"], 10 * row["data_infeasibility"])
    assert measures[-1] == pytest.approx(max(tests) / 1e-6)


@pytest.mark.parametrize("broken", ["value", "gradient"])
def test_divergence_is_reported(broken):
    """An objective that is NaN from some iterate on."""
    calls = []

    def gradient(x):
        calls.append(1)
        return x * (math.nan if broken == "gradient" and len(calls) > 200 else 1.0)

    parts = SimpleNamespace(value=lambda x: math.nan if broken == "value" else 0.0, gradient=gradient)
    problem = problem_with(PROBLEMS["squares-sparse-group-kappa"]()[0], objective=parts)
    with pytest.raises(DivergenceError, match=r"NaN or infinite (by|at) iteration"):
        solve_bilevel(problem, tol=1e-12)


def test_the_example_runs(capsys):
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "sparse_logistic.py"), run_name="__main__")
    assert capsys.readouterr().out.count("converged") >= 3


# --- refusals -------------------------------------------------------------------------------

GOOD = {"A": np.eye(4), "loss": LeastSquares(np.ones(4)), "penalty": L1(), "objective": SquaredDistance()}
NO_ADJOINT = LinearOperator((4, 4), matvec=lambda x: x, dtype=np.float64)
BAD_PROBLEMS = {
    "A-rows": ({"A": np.ones((3, 4))}, ValueError, r"A: A x has 3 entries, but the loss has 4 data"),
    "A-axes": ({"A": np.ones(4)}, ValueError, r"A: expected two axes, got shape \(4,\)"),
    "A-nan": ({"A": np.full((4, 4), np.nan)}, ValueError, r"A: 16 entries are NaN or infinite"),
    "A-sparse-nan": ({"A": sparse.csr_array(np.diag([1, np.nan, 1, 1]))}, ValueError, r"A: 1 entries are NaN"),
    "A-complex": ({"A": 1j * np.eye(4)}, TypeError, r"A: expected a real operator, got dtype complex128"),
    "A-type": ({"A": "matrix"}, TypeError, r"A: expected an array, a sparse matrix, a LinearOperator .* got 'matrix'"),
    "A-adjoint": ({"A": NO_ADJOINT}, TypeError, r"A: has no adjoint; give the LinearOperator an rmatvec"),
    "loss-type": ({"loss": np.ones(4)}, TypeError, r"loss: expected a Loss, got array"),
    "penalty-type": ({"penalty": 0.5}, TypeError, r"penalty: expected a Penalty, got 0.5"),
    "regulariser-type": ({"regulariser": None}, TypeError, r"regulariser: expected a Penalty, got None"),
    "objective-type": ({"objective": np.ones(4)}, TypeError, r"objective: expected an object with value\(x\) and"),
    "target-size": ({"objective": SquaredDistance(np.ones(5))}, ValueError, r"objective: made for x of shape \(5,\)"),
    "shapes": (
        {"objective": SquaredDistance(np.ones(4)), "penalty": TotalVariation((2, 2))},
        ValueError, r"penalty: made for x of shape \(2, 2\), but objective for \(4,\)",
    ),
    "groups": ({"penalty": GroupLasso([[0, 1], [2]])}, ValueError, r"groups: they partition 3 entries, x has 4"),
    "box-size": ({"regulariser": Box(np.zeros(3))}, ValueError, r"regulariser: made for x of shape \(3,\)"),
    "gradient": (
        {"objective": SimpleNamespace(value=np.sum, gradient=lambda x: x[:2])},
        ValueError, r"objective: its gradient has shape \(2,\), x has \(4,\)",
    ),
    "epsilon": ({"epsilon": -1}, ValueError, r"epsilon: must be a finite number >= 0, got -1"),
    "kappa": ({"kappa": np.nan}, ValueError, r"kappa: must be a finite number >= 0, got nan"),
    "kappa-text": ({"kappa": "a"}, TypeError, r"kappa: expected a number, got 'a'"),
    "zero-counts": ({"loss": Poisson([1, 0, 2, 3])}, ValueError, r"loss: some counts are 0, .*set epsilon > 0"),
}  # fmt: skip
BAD_CALLS = {
    "problem": (lambda p: solve_bilevel(None), TypeError, r"problem: expected a BilevelProblem, got None"),
    "tol": (lambda p: solve_bilevel(p, tol=0), ValueError, r"tol: must be a finite number > 0"),
    "lower_tol": (lambda p: solve_bilevel(p, lower_tol=-1), ValueError, r"lower_tol: must be a finite number > 0"),
    "max_iter": (lambda p: solve_bilevel(p, max_iter=0), ValueError, r"max_iter: must be at least 1"),
    "constraint": (
        lambda p: solve_bilevel(p, constraint="x"),
        ValueError,
        r"constraint: expected one of 'auto', 'ball'",
    ),
    "callback": (lambda p: solve_bilevel(p, callback=1), TypeError, r"callback: expected a function"),
    "lower-shape": (
        lambda p: solve_bilevel(p, lower=np.ones(3)),
        ValueError,
        r"lower: expected shape \(4,\), got \(3,\)",
    ),
    "linear": (
        lambda p: solve_bilevel(problem_with(p, objective=SimpleNamespace(value=np.sum, gradient=np.ones_like))),
        ValueError, r"objective: must be strongly convex and finite; its second derivative at xbar is 0",
    ),
    "lower-nan": (lambda p: solve_bilevel(p, lower=np.full(4, np.nan)), ValueError, r"lower: 4 entries are NaN"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_PROBLEMS)
def test_bad_problems_are_refused_with_one_clear_error(case):
    changes, kind, message = BAD_PROBLEMS[case]
    with pytest.raises(kind, match=message):
        BilevelProblem(**GOOD | changes)


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_are_refused_with_one_clear_error(case):
    call, kind, message = BAD_CALLS[case]
    with pytest.raises(kind, match=message):
        call(BilevelProblem(**GOOD))


def test_a_lower_level_outside_the_domain_is_refused():
    box = BilevelProblem(**GOOD | {"penalty": Box(0.0, 1.0)})
    with pytest.raises(ValueError, match="lower: its penalty is infinite"):
        solve_bilevel(box, lower=np.full(4, 2.0))
    counts = BilevelProblem(**GOOD | {"loss": Poisson(np.ones(4))})
    with pytest.raises(ValueError, match="lower: A x is outside the domain of the loss"):
        solve_bilevel(counts, lower=-np.ones(4))
