"""The upper level against an interior-point solver and the textbook iteration; its certificate, targets and bits."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_lower import (
    WEIGHT,
    Broken,
    binomial_blur,
    cvxpy_terms,
    gradient,
    gradient_adjoint,
    interior_point,
    magnitude,
    minimise,
    picture,
    total_variation,
)

import bioperf._fourier
from bioperf import Blur, DivergenceError, estimate_noise, fft, solve_bio, solve_lower, targets
from bioperf.bio import YBAR
from bioperf.kernels import get_backend

# Difference of two solves that are the same but for the rounding, in images of range 1.
TOLERANCE = {np.float32: 1e-4, np.float64: 1e-9}
DTYPES = (np.float32, np.float64)
# Against the interior point. The objective is flat around the optimum on a ball: the image is known less well.
EXACT_OBJECTIVE = EXACT_IMAGE = 1e-6
# (kappa, epsilon)
RELAXATIONS = [(0.0, 0.0), (0.05, 0.0), (0.05, 0.1), (0.0, 0.1)]
FORMS = [("ball", False), ("ball", True), ("slack", False)]

every_tv = pytest.mark.parametrize("isotropic", [False, True], ids=["anisotropic", "isotropic"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_form = pytest.mark.parametrize(("splitting", "isotropic"), FORMS, ids=["ball", "ball-isotropic", "slack"])
every_relaxation = pytest.mark.parametrize(("kappa", "epsilon"), RELAXATIONS)


# --- the small problem and its optimum ------------------------------------------------------


@functools.cache
def small(isotropic):
    """The 10x10 problem with a rank-deficient blur, xbar by the interior point and a target far from it."""
    A, y, truth = picture((10, 10))
    target = truth + 0.3 * np.random.default_rng(8).standard_normal(truth.shape)
    xbar = interior_point(A.shape, isotropic).x
    return SimpleNamespace(A=A, y=y, xbar=xbar, ybar=A(xbar), target=target, tv=total_variation(xbar, isotropic))


@functools.cache
def optimum(isotropic, kappa, epsilon):
    """min 1/2 |x - D|^2, |A x - ybar| <= epsilon, TV(x) <= (1 + kappa) TV(xbar) by the interior point."""
    p = small(isotropic)
    cp, x, blurred, tv = cvxpy_terms(p.A, isotropic)
    misfit = blurred - p.ybar.ravel()
    constraints = [tv <= (1 + kappa) * p.tv, misfit == 0 if epsilon == 0 else cp.norm(misfit) <= epsilon]
    return minimise(cp, x, p.A.shape, 0.5 * cp.sum_squares(x - p.target.ravel()), constraints)


@functools.cache
def solved(splitting, isotropic, kappa, epsilon):
    p = small(isotropic)
    return solve_bio(
        p.A, p.y, target=p.target, tv_weight=WEIGHT, lower=p.xbar, kappa=kappa, epsilon=epsilon,
        isotropic=isotropic, splitting=splitting, tol=1e-12, max_iter=40000,
        # The automatic choice aims at 1e-3; to go this far the linear-programming form wants a large penalty.
        penalties=None if splitting == "ball" else (100.0, 100.0),
    )  # fmt: skip


@every_relaxation
@every_form
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_agrees_with_the_interior_point(splitting, isotropic, kappa, epsilon):
    p, expected = small(isotropic), optimum(isotropic, kappa, epsilon)
    solution = solved(splitting, isotropic, kappa, epsilon)
    assert solution.objective == pytest.approx(expected.objective, abs=EXACT_OBJECTIVE)
    assert solution.objective == pytest.approx(0.5 * np.sum((solution.x - p.target) ** 2), rel=1e-12)
    np.testing.assert_allclose(solution.x, expected.x, rtol=0, atol=EXACT_IMAGE)
    # a bound at every check, and a tight one at the end
    assert np.all(solution.history["lower_bound"] <= expected.objective + EXACT_OBJECTIVE)
    assert abs(solution.gap) <= (1e-6 if splitting == "ball" else 1e-5)
    assert solution.infeasibility["tv"] <= 1e-7 and solution.infeasibility["data"] <= 1e-7


@every_relaxation
def test_both_splittings_agree(kappa, epsilon):
    ball, slack = (solved(splitting, False, kappa, epsilon) for splitting in ("ball", "slack"))
    np.testing.assert_allclose(ball.x, slack.x, rtol=0, atol=EXACT_IMAGE)
    assert ball.objective == pytest.approx(slack.objective, abs=EXACT_OBJECTIVE)


# --- the textbook iteration -----------------------------------------------------------------


def project_field(q, radius, isotropic):
    project = get_backend("reference").project_l21_ball if isotropic else get_backend("reference").project_l1_ball
    return project(q[None], np.array([radius]))[0]


def textbook_ball(A, x, ybar, target, bound, epsilon, eta, penalties, isotropic, iterations, relaxation=1.6):
    """mathematics.md 4b with v, d_v, p, d_p explicit; full transforms, fixed penalties; ends with a p-update."""
    field_penalty, data_penalty = penalties
    delta = np.zeros(x.shape)
    delta[(0,) * x.ndim] = 1
    transfer = np.fft.fftn(A(delta))
    laplacian = np.fft.fftn(gradient_adjoint(gradient(delta))).real
    denominator = data_penalty * np.abs(transfer) ** 2 + eta + field_penalty * laplacian

    def update_p(p, dual):
        q = relaxation * A(x) + (1 - relaxation) * p
        offset = q + dual - ybar
        norm = np.linalg.norm(offset)
        p = ybar + offset * (min(1.0, epsilon / norm) if norm > 0 else 1.0)
        return p, dual + q - p

    v, p = gradient(x), A(x)
    dual_v, dual_p = np.zeros_like(v), np.zeros_like(p)
    p, dual_p = update_p(p, dual_p)
    for _ in range(iterations):
        g = relaxation * gradient(x) + (1 - relaxation) * v
        v = project_field(g + dual_v, bound, isotropic)
        dual_v = dual_v + g - v
        right = eta * target + field_penalty * gradient_adjoint(v - dual_v) + data_penalty * A.adjoint(p - dual_p)
        x = np.fft.ifftn(np.fft.fftn(right) / denominator).real
        p, dual_p = update_p(p, dual_p)
    return x, field_penalty * dual_v, data_penalty * dual_p


def naive_bound(A, target, ybar, bound, epsilon, eta, mu, nu, isotropic):
    """mathematics.md 6 as it is written."""
    q = gradient_adjoint(mu) + A.adjoint(nu)
    return float(
        np.vdot(q, target)
        - np.vdot(q, q) / (2 * eta)
        - bound * magnitude(mu, isotropic).max()
        - np.vdot(nu, ybar)
        - epsilon * np.linalg.norm(nu)
    )


@every_tv
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("start", ["xbar", "elsewhere"])
@pytest.mark.parametrize("shape", [(10, 10), (21,), (4, 5, 3)], ids=str)
def test_the_one_field_form_is_the_textbook_iteration(shape, start, epsilon, isotropic):
    A, y, truth = picture(shape)
    rng = np.random.default_rng(9)
    xbar = solve_lower(A, y, WEIGHT, isotropic=isotropic).x
    target = truth + 0.3 * rng.standard_normal(shape)
    x0 = xbar if start == "xbar" else rng.standard_normal(shape)
    bound, penalties, eta = 1.05 * total_variation(xbar, isotropic), (0.8, 60.0), 1.3
    options = {"isotropic": isotropic, "epsilon": epsilon, "kappa": 0.05, "eta": eta, "penalties": penalties}
    for count in (1, 2, 60):
        solution = solve_bio(
            A, y, target=target, tv_weight=WEIGHT, lower=xbar, x0=x0, tol=1e-15, max_iter=count, **options
        )
        x, mu, nu = textbook_ball(A, x0, A(xbar), target, bound, epsilon, eta, penalties, isotropic, count)
        np.testing.assert_allclose(solution.x, x, rtol=0, atol=TOLERANCE[np.float64])
        expected = naive_bound(A, target, A(xbar), bound, epsilon, eta, mu, nu, isotropic)
        assert solution.lower_bound == pytest.approx(expected, rel=1e-8, abs=1e-9)
        stationarity = eta * (x - target) + gradient_adjoint(mu) + A.adjoint(nu)
        scale = np.linalg.norm(gradient_adjoint(mu) + A.adjoint(nu))
        if scale > 1e-6:  # the multipliers are 0 up to rounding while neither constraint is active
            assert solution.kkt_residual == pytest.approx(np.linalg.norm(stationarity) / scale, rel=1e-6, abs=1e-9)
    assert solution.details["penalties"] == penalties


# --- the certificate ------------------------------------------------------------------------


@functools.cache
def near_optimal_multipliers(isotropic, kappa, epsilon):
    p = small(isotropic)
    return textbook_ball(
        p.A, p.xbar, p.ybar, p.target, (1 + kappa) * p.tv, epsilon, 1.0, (3.0, 300.0), isotropic, 1500
    )[1:]


@every_tv
@pytest.mark.parametrize(("kappa", "epsilon"), [(0.05, 0.0), (0.05, 0.1)])
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(-0.5, 1.5),
    size=st.tuples(*[st.sampled_from([0.0, 1e-3, 0.1, 10.0])] * 2),
)
def test_any_multipliers_give_a_lower_bound(isotropic, kappa, epsilon, seed, share, size):
    p, rng = small(isotropic), np.random.default_rng(seed)
    mu, nu = (
        share * dual + noise * rng.standard_normal(dual.shape)
        for dual, noise in zip(near_optimal_multipliers(isotropic, kappa, epsilon), size, strict=True)
    )
    bound = naive_bound(p.A, p.target, p.ybar, (1 + kappa) * p.tv, epsilon, 1.0, mu, nu, isotropic)
    assert bound <= optimum(isotropic, kappa, epsilon).objective + EXACT_OBJECTIVE


@every_tv
@pytest.mark.parametrize(("kappa", "epsilon"), [(0.05, 0.0), (0.05, 0.1)])
def test_the_bound_is_attained(isotropic, kappa, epsilon):
    p = small(isotropic)
    mu, nu = near_optimal_multipliers(isotropic, kappa, epsilon)
    bound = naive_bound(p.A, p.target, p.ybar, (1 + kappa) * p.tv, epsilon, 1.0, mu, nu, isotropic)
    assert bound == pytest.approx(optimum(isotropic, kappa, epsilon).objective, rel=1e-4)


@pytest.mark.parametrize("shape", [(10, 10), (9, 7), (15,), (4, 3, 5)], ids=str)
def test_upper_dual_is_the_formula(kernels, shape):
    rng = np.random.default_rng(10)
    A, y, target = picture(shape)
    transform = fft.plan_fft(shape, np.float64)
    mu, residual = rng.standard_normal((len(shape), *shape)), rng.standard_normal(shape)
    nu, (mu_weight, nu_weight) = 0.3 * residual, (0.7, 0.3)
    spectra = [transform.coefficients(image) for image in (gradient_adjoint(mu / mu_weight), residual, target)]
    qd, qq, ny, nn = kernels.upper_dual(
        *spectra, A.transfer(), transform.coefficients(y), mu_weight, nu_weight, transform.copies()
    )
    n, bound, epsilon, eta = y.size, 3.0, 0.2, 1.7
    value = n * (qd - qq / (2 * eta) - ny) - bound * np.abs(mu).max() - epsilon * np.sqrt(n * nn)
    assert value == pytest.approx(naive_bound(A, target, y, bound, epsilon, eta, mu, nu, False), rel=1e-12)


@every_relaxation
@every_form
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_lower_bounds_from_bad_starts_and_penalties(splitting, isotropic, kappa, epsilon):
    p, rng = small(isotropic), np.random.default_rng(11)
    limit = optimum(isotropic, kappa, epsilon).objective + EXACT_OBJECTIVE
    for penalties in ((0.01, 1.0), (100.0, 0.1), None):
        solution = solve_bio(
            p.A, p.y, target=p.target, tv_weight=WEIGHT, lower=p.xbar, kappa=kappa, epsilon=epsilon,
            isotropic=isotropic, splitting=splitting, tol=1e-12, max_iter=300, penalties=penalties,
            x0=5 * rng.standard_normal(p.y.shape),
        )  # fmt: skip
        assert np.all(solution.history["lower_bound"] <= limit)


# --- what the answer means ------------------------------------------------------------------


def scene(shape=(64, 64), dtype=np.float64, seed=1):
    """A textured picture under a motion blur with 1 % noise: the Levin problem in small."""
    rng = np.random.default_rng(seed)
    _, _, truth = picture(shape)
    rows, columns = np.indices(shape)
    truth = 0.6 * truth + 0.1 * np.sin(rows / 2.0) * np.cos(columns / 3.0) + 0.2
    psf = np.zeros((11, 13))
    path = np.cumsum(rng.standard_normal((60, 2)), axis=0)
    path = 5 * path / np.abs(path).max()
    for a, b in np.round(path).astype(int):
        psf[5 + a, 6 + b] += 1
    A = Blur(psf / psf.sum(), shape)
    return A, (A(truth) + 0.01 * rng.standard_normal(shape)).astype(dtype), truth


@every_form
@pytest.mark.parametrize(("kappa", "epsilon"), [(0.0, 0.0), (0.05, 0.0), (0.0, 0.2), (0.05, 0.2)])
def test_feasible_when_converged(splitting, isotropic, kappa, epsilon):
    A, y, _ = scene()
    solution = solve_bio(
        A, y, target="deconv", tv_weight=1e-3, kappa=kappa, epsilon=epsilon, isotropic=isotropic,
        splitting=splitting, max_iter=5000, penalties=(3.0, 3.0) if splitting == "slack" else None,
    )  # fmt: skip
    assert solution.converged, solution.status
    xbar = solution.details["lower"].x
    bound, ybar = (1 + kappa) * total_variation(xbar, isotropic), A(xbar)
    tv = max(0.0, total_variation(solution.x, isotropic) - bound) / bound
    data = max(0.0, np.linalg.norm(A(solution.x) - ybar) - epsilon) / np.linalg.norm(ybar)
    assert tv <= 1e-3 and data <= 1e-4 and abs(solution.gap) <= 1e-3
    assert solution.infeasibility["tv"] == pytest.approx(tv, abs=1e-12)
    assert solution.infeasibility["data"] == pytest.approx(data, abs=1e-12)
    assert solution.details["total_variation_bound"] == pytest.approx(bound) and solution.details["epsilon"] == epsilon
    distance = 0.5 * np.sum((solution.x - solution.details["target"]) ** 2)
    assert solution.objective == pytest.approx(distance, rel=1e-10)


@pytest.mark.parametrize(("kappa", "epsilon"), [(0.0, 0.0), (0.05, 0.0), (0.0, 0.2), (0.05, 0.2)])
def test_slack_converges_without_a_penalty_set_by_hand(kappa, epsilon):
    """With penalty 3 it takes 550 to 2460 iterations here."""
    A, y, _ = scene()
    solution = solve_bio(
        A, y, target="deconv", tv_weight=1e-3, kappa=kappa, epsilon=epsilon, splitting="slack", max_iter=5000
    )
    assert solution.converged, solution.status


@every_dtype
@pytest.mark.parametrize("target", ["nlm", "deconv", "identity"])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_feasible_within_60_iterations_without_a_penalty_set_by_hand(target, epsilon, dtype):
    A, y, _ = scene(dtype=dtype)
    solution = solve_bio(A, y, target=target, tv_weight=1e-3, epsilon=epsilon, max_iter=60)
    assert solution.iterations <= 60
    assert solution.infeasibility["tv"] <= 1e-3 and solution.infeasibility["data"] <= 1e-4


@every_tv
@pytest.mark.parametrize("target", ["identity", "random", "constant"])
def test_unique_lower_solution_is_the_answer_whatever_the_target(target, isotropic):
    A = Blur(np.array([[0, 1, 0], [1, 6, 1], [0, 1, 0]]) / 10, (24, 26))
    truth = picture(A.shape)[2]
    rng = np.random.default_rng(12)
    y = A(truth) + 0.02 * rng.standard_normal(A.shape)
    xbar = solve_lower(A, y, WEIGHT, isotropic=isotropic, tol=1e-8).x
    D = {"identity": "identity", "random": rng.standard_normal(A.shape), "constant": np.full(A.shape, 0.5)}[target]
    solution = solve_bio(A, y, target=D, tv_weight=WEIGHT, lower=xbar, isotropic=isotropic, tol=1e-6, max_iter=5000)
    assert solution.converged, solution.status
    np.testing.assert_allclose(solution.x, xbar, rtol=0, atol=1e-5)


@every_form
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_eta_scales_the_objective_and_not_the_solution(splitting, isotropic, epsilon):
    p = small(isotropic)
    options = {"lower": p.xbar, "epsilon": epsilon, "isotropic": isotropic, "splitting": splitting, "max_iter": 200}
    one, many = (solve_bio(p.A, p.y, target=p.target, tv_weight=WEIGHT, eta=eta, **options) for eta in (1.0, 250.0))
    np.testing.assert_allclose(many.x, one.x, rtol=0, atol=TOLERANCE[np.float64])
    assert many.objective == pytest.approx(250 * one.objective) and many.iterations == one.iterations
    assert many.lower_bound == pytest.approx(250 * one.lower_bound)


@every_dtype
@every_form
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_scale_invariance(splitting, isotropic, epsilon, dtype):
    """Intensities, the weight and epsilon times 255: the same iterations, the image times 255."""
    A, y, truth = scene((32, 33), dtype)
    options = {"kappa": 0.05, "isotropic": isotropic, "splitting": splitting, "max_iter": 100}
    one, other = (
        solve_bio(A, y * dtype(s), target=s * truth, tv_weight=1e-3 * s, epsilon=epsilon * s, **options)
        for s in (1.0, 255.0)
    )
    assert other.iterations == one.iterations and other.converged == one.converged
    np.testing.assert_allclose(other.x / 255, one.x, rtol=0, atol=TOLERANCE[dtype])
    assert other.objective == pytest.approx(255**2 * one.objective, rel=10 * TOLERANCE[dtype])


def test_check_before_a_constraint_is_active():
    """All multipliers are 0 then: the bound is 0, and the relative KKT residual must not overflow."""
    A, y, _ = scene()
    solution = solve_bio(A, 255 * y, target="identity", tv_weight=0.255, epsilon=1e4, kappa=1, max_iter=1)
    assert solution.lower_bound == 0
    assert np.isfinite(solution.kkt_residual)


@pytest.mark.parametrize("ybar", YBAR)
def test_ybar_by_name(ybar):
    A, y, _ = scene((32, 33))
    epsilon = 0.05
    if ybar == "observation":
        # no image of TV(xbar) or less comes nearer to y than xbar: a little more makes the problem feasible
        epsilon = 1.05 * np.linalg.norm(A(solve_lower(A, y, 1e-3).x) - y)
    solution = solve_bio(A, y, target="deconv", tv_weight=1e-3, ybar=ybar, epsilon=epsilon, max_iter=5000)
    assert solution.converged, solution.status
    lower = solution.details["lower"]
    data = y if ybar == "observation" else A(lower.x)
    # the constraint is active: the target lies outside
    assert 0.94 * epsilon <= np.linalg.norm(A(solution.x) - data) <= 1.01 * epsilon
    if ybar.startswith("apg"):
        tolerance = {"apg": 1e-4, "apg-1e-2": 1e-2, "apg-1e-4": 1e-4, "apg-1e-6": 1e-6}[ybar]
        assert lower.history["change"][-1] <= tolerance
        assert np.all(lower.history["change"][:-1] > tolerance)
        assert solution.details["total_variation_bound"] == pytest.approx(total_variation(lower.x, False))
    else:
        np.testing.assert_array_equal(lower.x, solve_lower(A, y, 1e-3).x)


def test_ybar_as_an_array():
    A, y, truth = scene((32, 33))
    epsilon = 0.1
    solution = solve_bio(A, y, target="deconv", tv_weight=1e-3, ybar=A(truth), epsilon=epsilon, kappa=9, max_iter=5000)
    assert solution.converged, solution.status
    assert np.linalg.norm(A(solution.x) - A(truth)) == pytest.approx(epsilon, rel=0.01)


@pytest.mark.parametrize("as_solution", [True, False])
def test_lower_level_given(as_solution):
    A, y, _ = scene((32, 33))
    lower = solve_lower(A, y, 1e-3)
    given = lower if as_solution else lower.x
    solution = solve_bio(A, y, target="deconv", tv_weight=1e-3, lower=given)
    np.testing.assert_array_equal(solution.x, solve_bio(A, y, target="deconv", tv_weight=1e-3).x)
    assert solution.details["lower"] is (lower if as_solution else None)


# --- invariance -----------------------------------------------------------------------------


@every_form
@every_relaxation
def test_single_precision_agrees_with_double(splitting, isotropic, kappa, epsilon):
    images = []
    A, y, truth = scene((40, 37))
    target = truth + 0.05 * np.random.default_rng(13).standard_normal(truth.shape)
    xbar = solve_lower(A, y, 1e-3, isotropic=isotropic, tol=1e-6).x
    for dtype in DTYPES:
        solution = solve_bio(
            A, y.astype(dtype), target=target, tv_weight=1e-3, lower=xbar.astype(dtype), kappa=kappa, epsilon=epsilon,
            isotropic=isotropic, splitting=splitting, max_iter=300, penalties=(10.0, 300.0),
        )  # fmt: skip
        assert solution.x.dtype == dtype
        images.append(solution.x)
    np.testing.assert_allclose(*images, rtol=0, atol=TOLERANCE[np.float32])


@every_dtype
@every_form
def test_batch_is_its_single_solves_bit_for_bit(splitting, isotropic, dtype):
    A, _, truth = scene((16, 18))
    noise = np.random.default_rng(14).standard_normal((2, 3, 16, 18))
    y = (A(truth) * np.array([1.0, 0.1, 3.0])[:, None, None] + 0.01 * noise).astype(dtype)
    options = {"tv_weight": 1e-3, "epsilon": 0.05, "isotropic": isotropic, "splitting": splitting, "max_iter": 200}
    batch = solve_bio(A, y, target="deconv", **options)
    assert batch.x.shape == y.shape and batch.x.dtype == dtype
    assert batch.converged.shape == batch.infeasibility["tv"].shape == (2, 3)
    for k, index in enumerate(np.ndindex(2, 3)):
        single = solve_bio(A, y[index], target="deconv", **options)
        np.testing.assert_array_equal(batch.x[index], single.x, strict=True)
        for name in ("objective", "lower_bound", "kkt_residual", "iterations", "converged"):
            assert getattr(batch, name)[index] == getattr(single, name)
        np.testing.assert_array_equal(batch.details["items"][k]["target"], single.details["target"])
        np.testing.assert_array_equal(batch.history[k]["gap"], single.history["gap"])


@pytest.mark.parametrize("shape", [(365, 362), (384, 350)], ids=str)
@every_form
def test_same_bits_twice_and_for_any_thread_count(splitting, isotropic, shape):
    A, y, _ = scene(shape, np.float32)
    options = {"epsilon": 0.5, "isotropic": isotropic, "splitting": splitting, "max_iter": 11}
    options |= {"target": "deconv", "tv_weight": 1e-3, "lower": y}
    first, again, two = (solve_bio(A, y, threads=n, **options) for n in (1, 1, 2))
    assert (first.threads, two.threads) == (1, 2)
    for other in (again, two):
        np.testing.assert_array_equal(other.x, first.x, strict=True)
        for name in set(first.history) - {"seconds"}:
            np.testing.assert_array_equal(other.history[name], first.history[name])


# --- stopping -------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("answer", [True, np.bool_(True)], ids=["bool", "numpy bool"])
def test_callback_stops_the_run(splitting, isotropic, answer):
    A, y, _ = scene((32, 33))
    seen = []

    def callback(info):
        seen.append((info.iteration, info.objective, info.stage, info.x.shape, info.measure > 1))
        return answer if info.iteration >= 30 else None

    solution = solve_bio(
        A, y, target="deconv", tv_weight=1e-3, isotropic=isotropic, splitting=splitting, tol=1e-9, callback=callback,
        max_iter=200,
    )  # fmt: skip
    assert solution.iterations == 30 and not solution.converged
    assert "stopped by the callback at iteration 30" in solution.status
    assert [row[0] for row in seen] == solution.history["iteration"].tolist() == [10, 20, 30]
    assert all(splitting in row[2] and row[3:] == ((32, 33), True) for row in seen)


@pytest.mark.parametrize("splitting", ["ball", "slack"])
def test_iteration_limit(splitting):
    A, y, _ = scene((32, 33))
    solution = solve_bio(A, y, target="deconv", tv_weight=1e-3, splitting=splitting, tol=1e-12, max_iter=13)
    assert solution.iterations == 13 and solution.converged is False
    assert solution.status.startswith("not converged: iteration limit 13 reached")
    assert solution.history["iteration"].tolist() == [10, 13]


@every_form
def test_divergence_names_the_iteration(monkeypatch, splitting, isotropic):
    A, y, _ = scene((32, 33))
    monkeypatch.setattr(bioperf._fourier, "get_backend", lambda: Broken("upper_spectrum", 13))
    with pytest.raises(DivergenceError, match=rf"upper level \({splitting}\): .*NaN.*by iteration 20"):
        solve_bio(A, y, target="deconv", tv_weight=1e-3, lower=y, isotropic=isotropic, splitting=splitting)


# --- degenerate problems --------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("level", [0.0, 0.3])
def test_constant_data_leave_a_constant_image(level, epsilon, splitting, isotropic):
    """Total variation bounded by zero: the answer is the constant nearest to the target that the data allow."""
    A = binomial_blur((12, 14))
    y = np.full(A.shape, level)
    target = y + 0.1 + np.random.default_rng(15).standard_normal(A.shape)
    solution = solve_bio(A, y, target=target, tv_weight=1e-3, epsilon=epsilon, isotropic=isotropic, splitting=splitting)
    shift = np.clip(np.mean(target - y), -epsilon / np.sqrt(y.size), epsilon / np.sqrt(y.size))
    np.testing.assert_allclose(solution.x, level + shift, rtol=0, atol=1e-4)
    assert solution.converged, solution.status


@every_form
@pytest.mark.parametrize(("kappa", "epsilon"), [(0.0, 0.0), (0.5, 1.0)])
def test_feasible_target_is_the_answer(kappa, epsilon, splitting, isotropic):
    """The optimum is 0 then, and a gap relative to it would never be small."""
    A, y, _ = scene((32, 33))
    xbar = solve_lower(A, y, 1e-3, isotropic=isotropic).x
    solution = solve_bio(
        A, y, target=xbar, tv_weight=1e-3, lower=xbar, kappa=kappa, epsilon=epsilon, isotropic=isotropic,
        splitting=splitting,
    )  # fmt: skip
    np.testing.assert_allclose(solution.x, xbar, rtol=0, atol=1e-6)
    assert solution.converged, solution.status


# --- targets --------------------------------------------------------------------------------


def target_of(A, y, target, **options):
    solution = solve_bio(A, y, target=target, tv_weight=1e-3, max_iter=1, **options)
    image = solution.details["target"]
    assert image.shape == y.shape and image.dtype == y.dtype
    return image, solution


@every_dtype
@pytest.mark.parametrize("target", ["identity", targets.Identity()], ids=["name", "object"])
def test_identity_target(target, dtype):
    A, y, _ = scene((16, 18), dtype)
    np.testing.assert_array_equal(target_of(A, y, target)[0], y)


@every_dtype
@pytest.mark.parametrize("shape", [(16, 18), (15,), (5, 4, 7)], ids=str)
@pytest.mark.parametrize("alpha", [1e-4, 1e-2])
def test_deconvolution_target_is_the_closed_form(alpha, shape, dtype):
    A, y, _ = picture(shape, dtype)
    delta = np.zeros(shape)
    delta[(0,) * len(shape)] = 1
    transfer = np.fft.fftn(A(delta))
    spectrum = np.fft.fftn(y.astype(np.float64)) * (transfer.conj() + alpha) / (np.abs(transfer) ** 2 + alpha)
    image = target_of(A, y, targets.Deconvolution(alpha=alpha))[0]
    np.testing.assert_allclose(image, np.fft.ifftn(spectrum).real, rtol=0, atol=TOLERANCE[dtype])


def test_deconvolution_target_minimises_its_objective_and_follows_the_noise():
    A, y, _ = scene((32, 33))
    image = target_of(A, y, targets.Deconvolution(alpha=1e-2))[0]
    slope = A.adjoint(A(image) - y) + 1e-2 * (image - y)
    np.testing.assert_allclose(slope, 0, rtol=0, atol=1e-12)
    alpha = estimate_noise(y) / (y.max() - y.min())
    by_noise, by_alpha = target_of(A, y, "deconv")[0], target_of(A, y, targets.Deconvolution(alpha=alpha))[0]
    np.testing.assert_allclose(by_noise, by_alpha, rtol=0, atol=1e-12)


@every_dtype
@pytest.mark.parametrize("shape", [(24, 26), (7, 8, 9)], ids=str)
def test_nlm_target_is_the_filtered_rough_solution(shape, dtype):
    from skimage.restoration import denoise_nl_means

    A, y, _ = picture(shape, dtype)
    s = 4 * estimate_noise(y, y.ndim)
    image, solution = target_of(A, y, targets.NonLocalMeans(strength=s, under=0.5))
    rough = solve_lower(A, y, 0.5e-3, x0=solution.details["lower"].x, tol=1e-3).x
    expected = denoise_nl_means(rough, patch_size=5, patch_distance=9, h=0.8 * s, sigma=s, fast_mode=True)
    np.testing.assert_allclose(image, expected, rtol=0, atol=TOLERANCE[dtype])
    unfiltered = target_of(A, y, targets.NonLocalMeans(strength=1e-30, under=0.5))[0]
    np.testing.assert_allclose(unfiltered, rough, rtol=0, atol=TOLERANCE[dtype])
    assert total_variation(image, False) < 0.95 * total_variation(rough, False)
    chosen = target_of(A, y, targets.NonLocalMeans(under=0.5))[0]
    assert total_variation(chosen, False) < total_variation(rough, False)


def test_array_target_keeps_the_data_dtype_and_the_array():
    A, y, truth = scene((16, 18), np.float32)
    given = truth.copy()
    image, _ = target_of(A, y, given)
    np.testing.assert_array_equal(image, truth.astype(np.float32))
    np.testing.assert_array_equal(given, truth)


def test_callable_target_is_given_a_copy_of_each_image():
    A, y, _ = scene((16, 18))
    y = np.stack([y, 2 * y])
    before, seen = y.copy(), []

    def half(image):
        seen.append(image.copy())
        image *= 0.5
        return image

    solution = solve_bio(A, y, target=half, tv_weight=1e-3, max_iter=1)
    np.testing.assert_array_equal(seen, before)
    np.testing.assert_array_equal(y, before)
    np.testing.assert_array_equal([item["target"] for item in solution.details["items"]], before / 2)


@pytest.mark.parametrize(
    ("error", "message", "function"),
    [
        (ValueError, r"target\(y\): .*\(6, 8\).*\(6, 7\)", lambda y: y[:, 1:]),
        (ValueError, r"target\(y\): .*NaN", lambda y: y * np.nan),
        (TypeError, r"target\(y\): integer", lambda y: y.astype(int)),
        (TypeError, r"target\(y\): ", lambda y: None),
    ],
    ids=["shape", "NaN", "integers", "nothing"],
)
def test_bad_result_of_a_callable_is_refused(error, message, function):
    with pytest.raises(error, match=f"^{message}") as caught:
        solve_bio(OPERATOR, Y, target=function, tv_weight=1e-3)
    assert caught.type is error


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, "alpha", lambda: targets.Deconvolution(alpha=0)),
        (ValueError, "alpha", lambda: targets.Deconvolution(alpha=np.nan)),
        (TypeError, "alpha", lambda: targets.Deconvolution(alpha="x")),
        (ValueError, "strength", lambda: targets.NonLocalMeans(strength=-1)),
        (ValueError, "under", lambda: targets.NonLocalMeans(under=1.5)),
        (ValueError, "under", lambda: targets.NonLocalMeans(under=0)),
    ],
)
def test_bad_target_parameters_are_refused(error, message, make):
    with pytest.raises(error, match=f"^{message}: "):
        make()


# --- what is refused ------------------------------------------------------------------------

Y = np.random.default_rng(16).random((6, 8))
OPERATOR = binomial_blur(Y.shape)
HOLE = Y.copy()
HOLE[2, 5] = np.nan
TWO = np.stack([Y, Y])
BAD_STRICT = ((0, ValueError), (-1.0, ValueError), (np.nan, ValueError), (np.inf, ValueError), ("x", TypeError))
IMAGES = ("target", "ybar", "lower", "x0")
REFUSED = [
    *((f"{name} {v}", e, name, {name: v}) for name in ("tv_weight", "eta", "tol") for v, e in BAD_STRICT),
    *((f"{name} {v}", e, name, {name: v}) for name in ("epsilon", "kappa") for v, e in BAD_STRICT[1:]),
    *((f"{name} None", TypeError, name, {name: None}) for name in ("tv_weight", "eta", "tol", "epsilon", "kappa")),
    ("max_iter 0", ValueError, "max_iter", {"max_iter": 0}),
    ("max_iter a fraction", TypeError, "max_iter", {"max_iter": 1.5}),
    ("threads 0", ValueError, "threads", {"threads": 0}),
    ("threads 0 with lower", ValueError, "threads", {"threads": 0, "lower": Y}),
    ("threads a fraction with lower", TypeError, "threads", {"threads": 1.5, "lower": Y}),
    ("one penalty", ValueError, "penalties", {"penalties": (1.0,)}),
    ("three penalties", ValueError, "penalties", {"penalties": (1.0, 2.0, 3.0)}),
    ("penalty 0", ValueError, "penalties", {"penalties": (1.0, 0.0)}),
    ("penalty NaN", ValueError, "penalties", {"penalties": (np.nan, 1.0)}),
    ("penalty in words", TypeError, "penalties", {"penalties": ("a", "b")}),
    ("penalties a number", TypeError, "penalties", {"penalties": 5.0}),
    ("splitting", ValueError, "splitting: .*'ball', 'slack'", {"splitting": "simplex"}),
    ("isotropic slack", ValueError, "splitting: .*isotropic=False", {"splitting": "slack", "isotropic": True}),
    ("target name", ValueError, "target: .*'nlm', 'identity', 'deconv'", {"target": "cnn2"}),
    ("target None", TypeError, "target", {"target": None}),
    ("ybar name", ValueError, "ybar: .*'observation'", {"ybar": "apg-1e-3"}),
    ("ybar None", TypeError, "ybar", {"ybar": None}),
    ("lower in words", TypeError, "lower", {"lower": "xbar"}),
    *((f"{name} shape", ValueError, rf"{name}: .*\(6, 8\).*\(8, 6\)", {name: Y.T}) for name in IMAGES),
    *((f"{name} a batch", ValueError, rf"{name}: .*\(6, 8\)", {name: TWO}) for name in IMAGES),
    *((f"{name} of one for two", ValueError, rf"{name}: .*\(2, 6", {name: Y, "y": TWO}) for name in IMAGES),
    *((f"{name} NaN", ValueError, rf"{name}: .*NaN.*\(2, 5\)", {name: HOLE}) for name in (*IMAGES, "y")),
    *((f"{name} integers", TypeError, f"{name}: integer", {name: np.ones((6, 8), int)}) for name in (*IMAGES, "y")),
    *((f"{name} complex", TypeError, f"{name}: .*complex", {name: Y + 0j}) for name in (*IMAGES, "y")),
    ("y empty", ValueError, "y: empty", {"y": np.empty((0, 6, 8))}),
    ("y shape", ValueError, r"y: .*6, 8\), got \(8, 6\)", {"y": Y.T}),
    ("operator", TypeError, "A: ", {"A": None}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "change"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_bad_input_is_refused(error, message, change):
    arguments = {"A": OPERATOR, "y": Y, "target": "identity", "tv_weight": 0.01} | change
    with pytest.raises(error, match=f"^{message}") as caught:
        solve_bio(arguments.pop("A"), arguments.pop("y"), **arguments)
    assert caught.type is error


def test_nlm_refuses_signals():
    y = np.random.default_rng(17).random(20)
    with pytest.raises(ValueError, match='"nlm" needs images of 2 or 3 axes'):
        solve_bio(binomial_blur((20,)), y, target="nlm", tv_weight=0.01)
