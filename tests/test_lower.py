"""The lower level against an interior-point solver and the textbook iteration; its bounds, bits and refusals."""

import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import bioperf._fourier
import bioperf.lower
from bioperf import Blur, DivergenceError, fft, solve_lower
from bioperf.kernels import get_backend

# Difference of two solves that are the same but for the rounding, in images of range 1.
TOLERANCE = {np.float32: 1e-4, np.float64: 1e-10}
DTYPES = (np.float32, np.float64)
# Against the interior point: image and objective.
EXACT = 1e-6

every_tv = pytest.mark.parametrize("isotropic", [False, True], ids=["anisotropic", "isotropic"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_method = pytest.mark.parametrize("method", ["admm", "apg"])


# --- naive formulas and the interior point --------------------------------------------------


def gradient(x):
    return np.stack([np.roll(x, -1, axis) - x for axis in range(x.ndim)])


def gradient_adjoint(p):
    return sum(np.roll(p[axis], 1, axis) - p[axis] for axis in range(len(p)))


def magnitude(p, isotropic):
    return np.sqrt(np.sum(p * p, axis=0)) if isotropic else np.abs(p)


def total_variation(x, isotropic):
    return float(magnitude(gradient(x), isotropic).sum())


def lower_objective(A, x, y, weight, isotropic):
    return 0.5 * float(np.sum((A(x) - y) ** 2)) + weight * total_variation(x, isotropic)


def binomial_blur(shape):
    """Weights 1, 2, 1 along each axis: of even sizes it annihilates the highest frequency, and is rank deficient."""
    psf = functools.reduce(np.multiply.outer, [np.array([0.25, 0.5, 0.25])] * len(shape))
    return Blur(psf, shape)


def picture(shape, dtype=np.float64, seed=1, noise=0.02):
    """Blur, noisy data and truth: two boxes on a slope."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(shape)
    truth[tuple(slice(n // 5, n * 3 // 5 + 1) for n in shape)] = 1
    truth[tuple(slice(n * 3 // 5 + 1, n * 9 // 10) for n in shape)] = 0.5
    truth += np.linspace(0, 0.2, shape[-1])
    A = binomial_blur(shape)
    return A, (A(truth) + noise * rng.standard_normal(shape)).astype(dtype), truth


def column_matrix(function, shape):
    return np.stack([function(e.reshape(shape)).ravel() for e in np.eye(math.prod(shape))], axis=1)


def cvxpy_terms(A, isotropic):
    """CVXPY, a variable image, A x and TV(x) of it."""
    cp = pytest.importorskip("cvxpy", reason="cvxpy (the test extra) is not installed")
    x = cp.Variable(math.prod(A.shape))
    field = column_matrix(gradient, A.shape) @ x
    if isotropic:
        field = cp.norm(cp.reshape(field, (len(A.shape), x.size), order="C"), axis=0)
    return cp, x, column_matrix(A, A.shape) @ x, cp.norm1(field)


def minimise(cp, x, shape, objective, constraints=()):
    """The optimum by an interior-point method, to about 1e-10."""
    problem = cp.Problem(cp.Minimize(objective), list(constraints))
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    assert problem.status in ("optimal", "optimal_inaccurate")
    return SimpleNamespace(x=x.value.reshape(shape), objective=float(problem.value))


WEIGHT = 5e-3


@functools.cache
def interior_point(shape, isotropic):
    A, y, _ = picture(shape)
    cp, x, blurred, tv = cvxpy_terms(A, isotropic)
    return minimise(cp, x, shape, 0.5 * cp.sum_squares(blurred - y.ravel()) + WEIGHT * tv)


# --- the optimum ----------------------------------------------------------------------------


@every_tv
@pytest.mark.parametrize("shape", [(30,), (10, 10), (3, 5, 3)], ids=str)
@every_method
def test_agrees_with_the_interior_point(method, shape, isotropic):
    A, y, _ = picture(shape)
    optimum = interior_point(shape, isotropic)
    solution = solve_lower(A, y, WEIGHT, method=method, isotropic=isotropic, tol=1e-11, max_iter=20000)
    assert solution.converged, solution.status
    np.testing.assert_allclose(solution.x, optimum.x, rtol=0, atol=EXACT)
    assert solution.objective == pytest.approx(optimum.objective, abs=1e-9)
    assert solution.objective == pytest.approx(lower_objective(A, solution.x, y, WEIGHT, isotropic), rel=1e-12)
    assert solution.details["total_variation"] == pytest.approx(total_variation(solution.x, isotropic), rel=1e-12)


@every_tv
@pytest.mark.parametrize("start", ["data", "random", "zeros"])
@pytest.mark.parametrize("penalty", [None, 1e-3, 10.0])
def test_lower_bound_is_below_the_optimum_and_reaches_it(penalty, start, isotropic):
    A, y, _ = picture((10, 10))
    optimum = interior_point((10, 10), isotropic)
    x0 = {"data": y, "random": 5 * np.random.default_rng(2).standard_normal(y.shape), "zeros": np.zeros_like(y)}[start]
    solution = solve_lower(A, y, WEIGHT, isotropic=isotropic, x0=x0, penalty=penalty, tol=1e-12, max_iter=4000)
    bounds = solution.history["lower_bound"]
    assert np.all(bounds <= optimum.objective + 1e-9)
    assert np.all(solution.history["objective"] >= optimum.objective - 1e-9)
    assert solution.lower_bound == bounds.max()
    if penalty is None:
        assert solution.lower_bound >= optimum.objective - 1e-6
        assert -1e-9 <= solution.gap <= 1e-5


@every_method
@every_tv
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6])
def test_the_tolerance_bounds_the_distance_to_the_optimum(tol, isotropic, method):
    """Stopped by complementarity <= tol and KKT residual <= sqrt(tol)/4, the objective is within a small multiple."""
    A, y, _ = picture((10, 10))
    optimum = interior_point((10, 10), isotropic)
    solution = solve_lower(A, y, WEIGHT, method=method, isotropic=isotropic, tol=tol, max_iter=20000)
    assert solution.converged
    assert solution.history["complementarity"][-1] <= tol
    assert solution.kkt_residual <= 0.25 * np.sqrt(tol)
    assert solution.objective - optimum.objective <= 20 * tol * optimum.objective


# --- the textbook iteration -----------------------------------------------------------------


def textbook_admm(A, y, weight, penalty, isotropic, iterations, relaxation=1.6):
    """mathematics.md 3: v = grad x with the scaled multiplier d, over-relaxed; full transforms, fixed penalty."""
    axes = tuple(range(y.ndim))
    delta = np.zeros(y.shape)
    delta[(0,) * y.ndim] = 1
    transfer = np.fft.fftn(A(delta))
    laplacian = np.fft.fftn(gradient_adjoint(gradient(delta))).real
    x, v = y, gradient(y)
    d = np.zeros_like(v)
    iterates = []
    for _ in range(iterations):
        g = relaxation * gradient(x) + (1 - relaxation) * v
        size = magnitude(g + d, isotropic)
        v = (g + d) * np.maximum(0, 1 - weight / penalty / np.maximum(size, 1e-300))
        d = d + g - v
        right = np.conj(transfer) * np.fft.fftn(y) + penalty * np.fft.fftn(gradient_adjoint(v - d))
        x = np.fft.ifftn(right / (np.abs(transfer) ** 2 + penalty * laplacian), axes=axes).real
        iterates.append(x)
    return iterates


@every_tv
@pytest.mark.parametrize("shape", [(25,), (9, 12), (4, 5, 3)], ids=str)
def test_the_one_field_form_is_the_textbook_iteration(shape, isotropic):
    A, y, _ = picture(shape)
    expected = textbook_admm(A, y, WEIGHT, 0.07, isotropic, 60)
    for count in (1, 2, 3, 10, 60):
        solution = solve_lower(A, y, WEIGHT, isotropic=isotropic, penalty=0.07, tol=1e-15, max_iter=count)
        assert solution.iterations == count
        np.testing.assert_allclose(solution.x, expected[count - 1], rtol=0, atol=TOLERANCE[np.float64])


# --- invariance -----------------------------------------------------------------------------


@every_method
@every_tv
def test_single_precision_agrees_with_double(isotropic, method):
    images = {}
    for dtype in DTYPES:
        A, y, _ = picture((31, 24), dtype)
        tol = 1e-5 if method == "admm" else 1e-7
        solution = solve_lower(A, y, WEIGHT, isotropic=isotropic, method=method, tol=tol, max_iter=5000)
        assert solution.converged and solution.x.dtype == dtype
        images[dtype] = solution.x
    # APG adds the rounding of its inner prox, hundreds of steps an iteration.
    atol = TOLERANCE[np.float32] * (1 if method == "admm" else 3)
    np.testing.assert_allclose(images[np.float32], images[np.float64], rtol=0, atol=atol)


@every_dtype
@every_method
def test_scale_invariance(method, dtype):
    """Intensities and the weight times 255: the same iterations, the image times 255."""
    A, y, _ = picture((31, 24), dtype)
    one = solve_lower(A, y, WEIGHT, method=method)
    other = solve_lower(A, y * dtype(255), WEIGHT * 255, method=method)
    assert other.iterations == one.iterations and other.converged
    np.testing.assert_allclose(other.x / 255, one.x, rtol=0, atol=TOLERANCE[dtype])
    assert other.objective == pytest.approx(255**2 * one.objective, rel=TOLERANCE[dtype])


@every_dtype
@every_method
@every_tv
def test_batch_is_its_single_solves_bit_for_bit(isotropic, method, dtype):
    A, _, truth = picture((12, 15))
    noise = np.random.default_rng(4).standard_normal((2, 3, 12, 15))
    y = (A(truth) * np.array([1.0, 0.1, 3.0])[:, None, None] + 0.02 * noise).astype(dtype)
    options = {"isotropic": isotropic, "method": method, "max_iter": 300}
    batch = solve_lower(A, y, WEIGHT, **options)
    assert batch.x.shape == y.shape and batch.x.dtype == dtype
    assert batch.converged.shape == batch.iterations.shape == batch.lower_bound.shape == (2, 3)
    for k, index in enumerate(np.ndindex(2, 3)):
        single = solve_lower(A, y[index], WEIGHT, **options)
        np.testing.assert_array_equal(batch.x[index], single.x, strict=True)
        for name in ("objective", "lower_bound", "kkt_residual", "iterations", "converged"):
            assert getattr(batch, name)[index] == getattr(single, name)
        np.testing.assert_array_equal(batch.history[k]["objective"], single.history["objective"])


def test_batch_reports_the_item_that_did_not_converge():
    A, y, _ = picture((12, 15))
    batch = solve_lower(A, np.stack([np.zeros_like(y), y]), WEIGHT, max_iter=5)
    assert batch.converged.tolist() == [True, False]
    assert "1 of 2" in batch.status and "item 1: not converged" in batch.status


@pytest.mark.parametrize("library", ["scipy", "ducc0"])
@pytest.mark.parametrize("shape", [(365, 362), (384, 350), (52, 50, 54)], ids=str)
@every_dtype
def test_same_bits_twice_and_for_any_thread_count(dtype, shape, library):
    if fft.available_libraries()[library] is not True:
        pytest.skip(f"{library}: {fft.available_libraries()[library]}")
    A, y, _ = picture(shape, dtype)
    fft.set_library(library)
    try:
        first, again, two = (solve_lower(A, y, WEIGHT, max_iter=12, threads=n) for n in (1, 1, 2))
    finally:
        fft.set_library("auto")
    assert (first.threads, two.threads, two.fft) == (1, 2, library)
    for other in (again, two):
        np.testing.assert_array_equal(other.x, first.x, strict=True)
        for name in set(first.history) - {"seconds"}:
            np.testing.assert_array_equal(other.history[name], first.history[name])


@pytest.mark.parametrize("view", ["transposed", "every other", "big-endian", "read-only"])
def test_layout_of_the_data_does_not_matter(view):
    A, y, _ = picture((12, 15))
    plain = solve_lower(A, y, WEIGHT)
    if view == "transposed":
        data = np.asfortranarray(y)
    elif view == "every other":
        data = np.repeat(y, 2, axis=0)[::2]
    elif view == "big-endian":
        data = y.astype(">f8")
    else:
        data = y.copy()
        data.flags.writeable = False
    solution = solve_lower(A, data, WEIGHT)
    np.testing.assert_array_equal(solution.x, plain.x)
    assert solution.x.dtype == np.float64


# --- starting values, penalties, stopping ---------------------------------------------------


@every_tv
@every_method
def test_warm_start_takes_fewer_iterations(method, isotropic):
    A, y, _ = picture((31, 24))
    options = {"method": method, "isotropic": isotropic}
    cold = solve_lower(A, y, WEIGHT, **options)
    warm = solve_lower(A, y, WEIGHT, x0=solve_lower(A, y, WEIGHT, tol=1e-8, **options).x, **options)
    assert cold.converged and warm.converged
    assert warm.iterations < cold.iterations


@every_tv
@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_a_penalty_that_starts_off_by_100_is_corrected(monkeypatch, factor, isotropic):
    A, y, _ = picture((40, 50))
    usual = solve_lower(A, y, WEIGHT, isotropic=isotropic)
    monkeypatch.setattr(bioperf.lower, "PENALTY_FACTOR", factor * bioperf.lower.PENALTY_FACTOR)
    solution = solve_lower(A, y, WEIGHT, isotropic=isotropic)
    assert solution.converged
    assert solution.iterations <= 5 * usual.iterations
    assert solution.details["penalty"] != pytest.approx(factor * usual.details["penalty"], rel=0.5)
    assert solution.objective == pytest.approx(usual.objective, rel=1e-3)


@every_method
def test_iteration_limit(method):
    A, y, _ = picture((31, 24))
    solution = solve_lower(A, y, WEIGHT, method=method, tol=1e-14, max_iter=7)
    assert solution.iterations == 7 and solution.converged is False
    assert solution.status.startswith("not converged: iteration limit 7 reached")
    assert solution.history["iteration"].tolist() == [5, 7]
    assert np.all(np.diff(solution.history["seconds"]) >= 0)


@every_method
def test_relative_change_as_a_stopping_rule(method):
    A, y, _ = picture((31, 24))
    counts = []
    for change_tol in (1e-2, 1e-4):
        solution = solve_lower(A, y, WEIGHT, method=method, change_tol=change_tol, tol=1e-14)
        assert solution.converged
        previous = solve_lower(A, y, WEIGHT, method=method, tol=1e-14, max_iter=solution.iterations - 1).x
        assert np.linalg.norm(solution.x - previous) <= 1.001 * change_tol * np.linalg.norm(solution.x)
        counts.append(solution.iterations)
    assert counts[0] < counts[1]


@every_method
@pytest.mark.parametrize("answer", [True, np.bool_(True)], ids=["bool", "numpy bool"])
def test_callback_stops_the_run(method, answer):
    A, y, _ = picture((31, 24))
    seen = []

    def callback(info):
        seen.append((info.iteration, info.max_iter, info.objective, info.x.shape, info.measure > 1))
        return answer if info.iteration >= 15 else None

    solution = solve_lower(A, y, WEIGHT, method=method, tol=1e-12, max_iter=100, callback=callback)
    assert solution.iterations == 15 and not solution.converged
    assert "stopped by the callback at iteration 15" in solution.status
    assert [row[0] for row in seen] == solution.history["iteration"].tolist() == [5, 10, 15]
    assert [row[2] for row in seen] == solution.history["objective"].tolist()
    assert all(row[1] == 100 and row[3:] == ((31, 24), True) for row in seen)


def test_callback_that_does_not_stop_changes_nothing():
    A, y, _ = picture((31, 24))
    solution = solve_lower(A, y, WEIGHT, callback=lambda info: info.gap)
    np.testing.assert_array_equal(solution.x, solve_lower(A, y, WEIGHT).x)


class Broken:
    """The kernels, of which one writes NaN into its first argument at one call."""

    def __init__(self, name, call):
        self._kernels, self._name, self._left = get_backend(), name, call

    def __getattr__(self, name):
        function = getattr(self._kernels, name)
        if name != self._name:
            return function

        def broken(first, *rest, **keywords):
            result = function(first, *rest, **keywords)
            self._left -= 1
            if self._left == 0:
                first[...] = np.nan
                return (math.nan,) * len(result) if isinstance(result, tuple) else math.nan
            return result

        return broken


def test_divergence_names_the_iteration(monkeypatch):
    A, y, _ = picture((31, 24))
    monkeypatch.setattr(bioperf._fourier, "get_backend", lambda: Broken("lower_spectrum", 13))
    with pytest.raises(DivergenceError, match=r"lower level: .*NaN.*by iteration 15"):
        solve_lower(A, y, WEIGHT)


def test_apg_names_the_iteration_that_diverges():
    class Overflowing(Blur):
        calls = 0

        def __call__(self, x):
            self.calls += 1
            return super().__call__(x) if self.calls < 4 else np.full_like(x, np.inf)

    A, y, _ = picture((31, 24), np.float32)
    with pytest.raises(DivergenceError, match=r"lower level \(APG\).*by iteration 4"):
        solve_lower(Overflowing(A.psf, A.shape), y, WEIGHT, method="apg")


# --- extreme images and weights -------------------------------------------------------------


@every_dtype
@every_tv
@every_method
@pytest.mark.parametrize("level", [0.0, 0.3])
def test_constant_image_is_its_own_solution(level, method, isotropic, dtype):
    A = binomial_blur((12, 14))
    y = np.full(A.shape, level, dtype)
    solution = solve_lower(A, y, WEIGHT, method=method, isotropic=isotropic, max_iter=200)
    np.testing.assert_allclose(solution.x, y, rtol=1e-6, atol=0)
    assert solution.converged, solution.status


@every_dtype
@every_tv
@pytest.mark.parametrize("weight", [1.0, 1e3, 1e6])
def test_an_enormous_weight_leaves_the_mean(weight, isotropic, dtype):
    A, y, _ = picture((12, 14), dtype)
    solution = solve_lower(A, y, weight, isotropic=isotropic)
    np.testing.assert_allclose(solution.x, y.mean(), rtol=0, atol=TOLERANCE[np.float32])
    assert solution.converged, solution.status


@every_dtype
def test_a_small_weight_leaves_an_invertible_blur_inverted(dtype):
    A = Blur(np.array([[0, 1, 0], [1, 6, 1], [0, 1, 0]]) / 10, (12, 14))
    truth = picture((12, 14))[2].astype(dtype)
    solution = solve_lower(A, A(truth), 1e-8, max_iter=5000)
    np.testing.assert_allclose(solution.x, truth, rtol=0, atol=TOLERANCE[np.float32])
    # In single precision A^T(A x - y) rounds to more than |grad^T mu|, which is of the weight's order.
    assert solution.converged or dtype is np.float32, solution.status


@every_method
@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 9), (9, 1), (2, 2), (1, 4, 1)], ids=str)
def test_shortest_axes(shape, method):
    rng = np.random.default_rng(6)
    A = Blur(np.ones((1,) * len(shape)), shape)
    y = rng.random(shape)
    solution = solve_lower(A, y, 0.05, method=method, tol=1e-8, max_iter=5000)
    assert np.isfinite(solution.x).all()
    assert solution.objective <= lower_objective(A, y, y, 0.05, False) + 1e-9
    for _ in range(20):
        nearby = solution.x + 1e-2 * rng.standard_normal(shape)
        assert lower_objective(A, nearby, y, 0.05, False) >= solution.objective - 1e-7


# --- what is refused ------------------------------------------------------------------------

Y = np.random.default_rng(7).random((6, 8))
OPERATOR = binomial_blur(Y.shape)
HOLE = Y.copy()
HOLE[2, 5] = np.nan
BAD_VALUES = ((0, ValueError), (-1.0, ValueError), (np.nan, ValueError), (np.inf, ValueError), ("x", TypeError))
BAD_NUMBERS = [
    (name, value, error) for name in ("tv_weight", "tol", "penalty", "change_tol") for value, error in BAD_VALUES
]
REFUSED = [
    *((f"{name} {value}", error, name, {name: value}) for name, value, error in BAD_NUMBERS),
    ("tv_weight None", TypeError, "tv_weight", {"tv_weight": None}),
    ("tv_weight of another batch", ValueError, "tv_weight", {"y": np.stack([Y, Y]), "tv_weight": np.ones(3)}),
    *((f"{name} 0", ValueError, name, {name: 0}) for name in ("max_iter", "threads")),
    *((f"{name} negative", ValueError, name, {name: -3}) for name in ("max_iter", "threads")),
    *((f"{name} a fraction", TypeError, name, {name: 2.5}) for name in ("max_iter", "threads")),
    *((f"{name} a bool", TypeError, name, {name: True}) for name in ("max_iter", "threads")),
    ("no wavelet", ValueError, "wavelet: needed with", {"wavelet_weight": 0.1, "wavelet": None}),
    ("unknown method", ValueError, "method: .*'admm', 'apg'", {"method": "newton"}),
    ("no method", ValueError, "method", {"method": None}),
    ("callback", TypeError, "callback", {"callback": 3}),
    ("operator", TypeError, "A: ", {"A": None}),
    ("operator an array", TypeError, "A: ", {"A": np.ones((3, 3))}),
    ("x0 shape", ValueError, r"x0: .*6, 8\).*\(6, 7\)", {"x0": Y[:, :-1]}),
    ("x0 a batch", ValueError, "x0: ", {"x0": np.stack([Y, Y])}),
    ("x0 NaN", ValueError, "x0: .*NaN", {"x0": HOLE}),
    ("x0 integers", TypeError, "x0: integer", {"x0": np.ones(Y.shape, int)}),
    ("x0 for a batch", ValueError, "x0: ", {"y": np.stack([Y, Y]), "x0": np.stack([Y, Y, Y])}),
    ("y NaN", ValueError, r"y: 1 entries are NaN.*\(2, 5\)", {"y": HOLE}),
    ("y infinite", ValueError, "y: 48 entries", {"y": np.full(Y.shape, np.inf)}),
    ("y integers", TypeError, "y: integer.*255", {"y": np.ones(Y.shape, np.uint8)}),
    ("y complex", TypeError, "y: .*complex", {"y": Y + 0j}),
    ("y half", TypeError, "y: .*float16", {"y": Y.astype(np.float16)}),
    ("y empty", ValueError, "y: empty", {"y": np.empty((0, 6, 8))}),
    ("y shape", ValueError, r"y: .*6, 8\), got \(8, 6\)", {"y": Y.T}),
    ("y too few axes", ValueError, r"y: .*6, 8\), got \(8,\)", {"y": Y[0]}),
]


@pytest.mark.parametrize(("error", "message", "change"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_bad_input_is_refused(error, message, change):
    arguments = {"A": OPERATOR, "y": Y, "tv_weight": 0.01} | change
    with pytest.raises(error, match=f"^{message}") as caught:
        solve_lower(arguments.pop("A"), arguments.pop("y"), arguments.pop("tv_weight"), **arguments)
    assert caught.type is error
