"""Losses and penalties: brute force for every prox and projection, finite differences, duality, refusals."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

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
)

# Against an interior-point solver, and of identities that hold but for the rounding.
BRUTE = 2e-6
ROUNDING = {np.float32: 2e-5, np.float64: 1e-11}
GROUPS = [[0, 5], [1], [2, 3, 7], [4, 6]]
SIZE = 8
WEIGHTS = [0.5, 1.0, 2.0, 0.7]
FREE = [0.0, 1.0, 2.0, 0.7]  # the first group is not penalised
FIELD = (2, 4)

PENALTIES = {
    "l1": L1(0.7),
    "group": GroupLasso(GROUPS, WEIGHTS),
    "group-free": GroupLasso(GROUPS, FREE),
    "group-one-weight": GroupLasso(GROUPS, 0.8),
    "sparse-group": SparseGroupLasso(GROUPS, (0.4, WEIGHTS)),
    "sparse-group-free": SparseGroupLasso(GROUPS, (0.4, FREE)),
    "sparse-group-l1": SparseGroupLasso(GROUPS, (0.4, 0.0)),
    "squared-l2": SquaredL2(1.3),
    "box": Box(-0.5, np.linspace(0, 2, SIZE)),
    "half-line": Box(lower=0.0),
    "zero": Zero(),
    "pixels": TotalVariation(FIELD[1:], isotropic=True, weight=0.6).outer,
}
NORMS = [name for name in PENALTIES if name.startswith(("l1", "group", "sparse", "pixels"))]

every_penalty = pytest.mark.parametrize("name", PENALTIES)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def shape_of(name):
    return FIELD if name == "pixels" else (SIZE,)


def points(name, dtype=np.float64, count=6):
    """Random points of several sizes, with ties and zeros."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((count, *shape_of(name))) * np.geomspace(0.1, 20, count).reshape(
        -1, *[1] * len(shape_of(name))
    )
    x[1].flat[[0, 5]] = 0
    x[2].flat[[1, 2, 3]] = 1.5
    return x.astype(dtype)


def naive_value(name, x):
    p = PENALTIES[name]
    if name == "l1":
        return 0.7 * np.abs(x).sum()
    if name == "pixels":
        return 0.6 * sum(math.hypot(*x[:, k]) for k in range(x.shape[1]))
    if name.startswith(("group", "sparse")):
        norms = sum(w * np.linalg.norm(x[g]) for w, g in zip(p.group_weights, GROUPS, strict=True))
        return norms + p.sparse_weight * np.abs(x).sum()
    if name == "squared-l2":
        return 0.65 * (x * x).sum()
    return 0.0 if name == "zero" or bool(np.all((x >= p.lower) & (x <= p.upper))) else np.inf


def cvxpy_value(cp, name, x):
    """The value as a CVXPY expression, or the constraints of an indicator."""
    p = PENALTIES[name]
    if name in ("box", "half-line"):
        bounds = [x >= np.maximum(p.lower, -1e3)] + ([x <= p.upper] if name == "box" else [])
        return 0.0, bounds
    if name == "l1":
        return 0.7 * cp.norm1(x), []
    if name == "pixels":
        return 0.6 * cp.sum(cp.norm(cp.reshape(x, FIELD, order="C"), axis=0)), []
    if name == "squared-l2":
        return 0.65 * cp.sum_squares(x), []
    if name == "zero":
        return 0.0, []
    norms = sum(w * cp.norm(x[g]) for w, g in zip(p.group_weights, GROUPS, strict=True))
    return norms + p.sparse_weight * cp.norm1(x), []


def minimise(cp, objective, constraints):
    problem = cp.Problem(cp.Minimize(objective), constraints)
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    assert problem.status in ("optimal", "optimal_inaccurate")
    return problem.value


@functools.cache
def brute_force(name, kind, index, amount):
    """prox (kind "prox", amount = step) or projection (amount = level) of a point by the interior point."""
    cp = pytest.importorskip("cvxpy", reason="cvxpy (the test extra) is not installed")
    point = points(name)[index].ravel()
    x = cp.Variable(point.size)
    value, constraints = cvxpy_value(cp, name, x)
    distance = 0.5 * cp.sum_squares(x - point)
    if kind == "prox":
        minimise(cp, distance + amount * value, constraints)
    else:
        minimise(cp, distance, [*constraints, value <= amount])
    return x.value.reshape(shape_of(name))


# --- penalties ------------------------------------------------------------------------------


@every_penalty
def test_value(name):
    for x in points(name):
        assert PENALTIES[name].value(x) == pytest.approx(naive_value(name, x), rel=1e-13)
        assert PENALTIES[name].value(np.zeros_like(x)) == 0


@every_penalty
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_prox_against_brute_force(name):
    for index, step in ((0, 0.3), (1, 0.5), (2, 1.0), (3, 2.0), (5, 4.0)):
        p = PENALTIES[name].prox(points(name)[index], step)
        np.testing.assert_allclose(p, brute_force(name, "prox", index, step), rtol=0, atol=BRUTE)


@every_penalty
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_projection_against_brute_force(name):
    for index, level in ((1, 0.4), (2, 1.0), (3, 2.0), (4, 3.0)):
        p = PENALTIES[name].project_sublevel(points(name)[index], level)
        np.testing.assert_allclose(p, brute_force(name, "projection", index, level), rtol=0, atol=2 * BRUTE)


@every_penalty
@every_dtype
def test_prox_is_optimal_and_the_dual_agrees(name, dtype):
    """u = (x - p)/step is a subgradient at p: the Fenchel equality, which also checks the conjugate."""
    penalty = PENALTIES[name]
    for x in points(name, dtype):
        p = penalty.prox(x, 0.5)
        assert p.dtype == dtype and p.shape == x.shape
        u = penalty.clip_dual((x - p) / dtype(0.5))
        scale = float(np.linalg.norm(x)) ** 2
        assert penalty.value(p) + penalty.conjugate(u) - float(np.vdot(p, u)) == pytest.approx(
            0, abs=ROUNDING[dtype] * scale
        )


@every_penalty
@every_dtype
def test_projection_is_nearest_and_the_support_agrees(name, dtype):
    """u = x - p is normal to the set at p: <p, u> is the support function's value."""
    penalty = PENALTIES[name]
    for x in points(name, dtype):
        for level in (0.0, 0.3, 2.0):
            p = penalty.project_sublevel(x, level)
            assert p.dtype == dtype and p.shape == x.shape
            scale = float(np.linalg.norm(x)) ** 2
            assert penalty.value(p) <= level + ROUNDING[dtype] * (level + math.sqrt(scale))
            u = x - p
            if level == 0 and name in NORMS and name != "group-free":
                np.testing.assert_array_equal(p, 0)
            elif name != "group-free":  # where rounding in the free group makes the support infinite
                assert penalty.support(u, level) == pytest.approx(float(np.vdot(p, u)), abs=ROUNDING[dtype] * scale)


def test_a_group_of_weight_zero_is_left_alone():
    penalty, x = PENALTIES["group-free"], points("group-free")[3]
    for result in (penalty.prox(x, 100.0), penalty.project_sublevel(x, 0.0)):
        np.testing.assert_array_equal(result[GROUPS[0]], x[GROUPS[0]])
        np.testing.assert_array_equal(np.delete(result, GROUPS[0]), 0)
    assert penalty.dual_norm(x) == penalty.support(x, 0.0) == penalty.conjugate(x) == math.inf
    y = np.where(np.isin(np.arange(SIZE), GROUPS[0]), 0, x)
    assert 0 < penalty.dual_norm(y) < math.inf and penalty.conjugate(penalty.clip_dual(y)) == 0


@pytest.mark.parametrize("name", [name for name in NORMS if name != "group-free"])
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_dual_norm_against_brute_force(name):
    cp = pytest.importorskip("cvxpy", reason="cvxpy (the test extra) is not installed")
    for y in points(name)[[0, 2, 4]]:
        x = cp.Variable(y.size)
        largest = -minimise(cp, -(y.ravel() @ x), [cvxpy_value(cp, name, x)[0] <= 1])
        assert PENALTIES[name].dual_norm(y) == pytest.approx(largest, rel=1e-8)
        assert PENALTIES[name].support(y, 0.25) == pytest.approx(0.25 * largest, rel=1e-8)
        scaled = PENALTIES[name].clip_dual(y)
        assert PENALTIES[name].dual_norm(scaled) <= 1 and PENALTIES[name].conjugate(scaled) == 0
        assert largest < 1 or PENALTIES[name].dual_norm(scaled) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("name", [*NORMS, "squared-l2"])
def test_face_is_the_set_where_u_is_a_subgradient(name):
    """value(x) = <u, x> - conjugate(u) on it, with the prox's own point on it; a point off it is not left alone."""
    penalty = PENALTIES[name]
    rng = np.random.default_rng(5)
    for x in points(name)[2:5]:
        p = penalty.prox(x, 1.0)
        u = x - p
        face = penalty.face(u, 1e-9)
        np.testing.assert_allclose(face.prox(p, 1.0), p, rtol=0, atol=1e-12)
        for _ in range(5):
            q = face.prox(5 * rng.standard_normal(x.shape), 1.0)
            conjugate = penalty.conjugate(penalty.clip_dual(u * (1 - 1e-15)))
            assert penalty.value(q) + conjugate == pytest.approx(float(np.vdot(u, q)), rel=1e-8, abs=1e-10)
            assert face.value(face.prox(q, 1.0)) == 0 or np.allclose(face.prox(q, 1.0), q, rtol=0, atol=1e-13)
    assert not np.allclose(face.prox(-p, 1.0), -p)


def test_face_holds_every_point_that_shares_the_subgradient():
    """Not only the prox's: half-lines and rays reach as far as the subdifferential allows."""
    u = np.array([0.7, -0.7, 0.3, 0.7])
    np.testing.assert_array_equal(
        PENALTIES["l1"].face(u, 1e-9).prox(np.array([5.0, 5.0, 5.0, -5.0]), 1.0), [5.0, 0.0, 0.0, 0.0]
    )
    penalty = GroupLasso([[0, 1], [2, 3]], [5.0, 5.0])
    face = penalty.face(np.array([3.0, 4.0, 1.0, 1.0]), 1e-9)
    np.testing.assert_allclose(face.prox(np.array([3.0, 4.0, 9.0, 9.0]) * 7, 1.0), [21, 28, 0, 0], rtol=1e-14)
    np.testing.assert_array_equal(face.prox(np.array([-3.0, -4.0, 9.0, 9.0]), 1.0), 0)


entries = st.lists(st.floats(-50, 50, allow_subnormal=False), min_size=SIZE, max_size=SIZE)


@every_penalty
@given(a=entries, b=entries, level=st.floats(0, 60), step=st.floats(1e-3, 100))
def test_projection_and_prox_are_firm(name, a, b, level, step):
    """Firmly non-expansive, which contains non-expansive; the projection is idempotent and feasible."""
    penalty = PENALTIES[name]
    a, b = np.array(a).reshape(shape_of(name)), np.array(b).reshape(shape_of(name))
    for function in (lambda x: penalty.project_sublevel(x, level), lambda x: penalty.prox(x, step)):
        p, q = function(a), function(b)
        assert np.sum((p - q) ** 2) <= np.vdot(p - q, a - b) + 1e-9
    p = penalty.project_sublevel(a, level)
    assert penalty.value(p) <= level * (1 + 1e-12) + 1e-12
    np.testing.assert_allclose(penalty.project_sublevel(p, level), p, rtol=0, atol=1e-10)


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("shape", [(7,), (4, 5), (2, 3, 4)], ids=str)
def test_total_variation(shape, isotropic):
    rng = np.random.default_rng(0)
    x, p = rng.standard_normal(shape), rng.standard_normal((len(shape), *shape))
    penalty = TotalVariation(shape, isotropic=isotropic, weight=0.3)
    field = np.stack([np.roll(x, -1, axis) - x for axis in range(x.ndim)])
    expected = np.sqrt(np.sum(field**2, axis=0)).sum() if isotropic else np.abs(field).sum()
    assert penalty.value(x) == pytest.approx(0.3 * expected, rel=1e-13)
    assert penalty.value(x) == penalty.outer.value(penalty.operator(x))
    assert np.vdot(penalty.operator(x), p) == pytest.approx(np.vdot(x, penalty.operator.adjoint(p)), rel=1e-12)
    for refused in (lambda: penalty.prox(x, 1.0), lambda: penalty.project_sublevel(x, 1.0)):
        with pytest.raises(TypeError, match=r"no closed-form .* \.outer and \.operator"):
            refused()


# --- losses ---------------------------------------------------------------------------------


def losses(dtype=np.float64):
    rng = np.random.default_rng(1)
    counts = np.array([0, 4, 1, 0, 2, 7, 3, 1, 12])
    return {
        "least-squares": LeastSquares(rng.standard_normal(9).astype(dtype)),
        "logistic": Logistic((rng.random(9) < 0.5).astype(dtype)),
        "logistic-frequencies": Logistic(rng.random(9).astype(dtype)),
        "poisson": Poisson(1 + counts.astype(dtype)),
        "poisson-background": Poisson(counts.astype(dtype), rng.random(9).astype(dtype)),
    }


every_loss = pytest.mark.parametrize("name", losses())


def inside(loss, seed=2):
    """A point of the domain."""
    z = np.random.default_rng(seed).standard_normal(loss.b.shape).astype(loss.b.dtype)
    return np.abs(z) + loss.b.dtype.type(0.1) if isinstance(loss, Poisson) else 2 * z


def test_losses_are_the_negative_log_likelihoods():
    z = losses()
    loss = z["logistic"]
    x = inside(loss)
    assert loss.value(x) == pytest.approx(-stats.bernoulli.logpmf(loss.b, 1 / (1 + np.exp(-x))).sum(), rel=1e-12)
    loss = z["poisson-background"]
    x, y = inside(loss), inside(loss, 3)
    mean = stats.poisson(x + loss.background), stats.poisson(y + loss.background)
    expected = (mean[1].logpmf(loss.b) - mean[0].logpmf(loss.b)).sum()  # log b! cancels
    assert loss.value(x) - loss.value(y) == pytest.approx(expected, rel=1e-10)
    loss = z["least-squares"]
    assert loss.value(loss.b + 2) == pytest.approx(18, rel=1e-14)
    assert not z["poisson-background"].strictly_convex and z["poisson"].strictly_convex


@every_loss
def test_loss_gradient_by_finite_differences(name):
    loss = losses()[name]
    z = inside(loss)
    width = 1e-6
    differences = [(loss.value(z + width * e) - loss.value(z - width * e)) / (2 * width) for e in np.eye(z.size)]
    np.testing.assert_allclose(loss.gradient(z), differences, rtol=0, atol=1e-7)


def test_squared_distance_gradient_by_finite_differences():
    rng = np.random.default_rng(4)
    f, x = SquaredDistance(rng.standard_normal((2, 3)), eta=1.7), rng.standard_normal((2, 3))
    basis = np.eye(6).reshape(6, 2, 3)
    differences = [(f.value(x + 1e-5 * e) - f.value(x - 1e-5 * e)) / 2e-5 for e in basis]
    np.testing.assert_allclose(f.gradient(x).ravel(), differences, rtol=0, atol=1e-9)
    assert f.value(x) == pytest.approx(0.85 * np.sum((x - f.target) ** 2))


@every_loss
@every_dtype
@pytest.mark.parametrize("step", [1e-4, 0.3, 1.0, 50.0, 1e6])
def test_loss_prox_is_optimal(name, dtype, step):
    """The minimiser of a scalar convex function: gradient(p) + (p - z)/step = 0 (>= 0 at the domain's end)."""
    loss = losses(dtype)[name]
    for size in (0.0, 1.0, 30.0, -30.0):
        z = (size * np.linspace(0.2, 1.5, loss.b.size)).astype(dtype)
        p = loss.prox(z, step)
        assert p.dtype == dtype
        assert math.isfinite(loss.value(p))
        slope = step * loss.gradient(p).astype(np.float64) + (p - z)
        allowed = ROUNDING[dtype] * (1 + np.abs(z) + step)
        end = np.zeros(p.shape, bool)
        if isinstance(loss, Poisson):
            background = np.broadcast_to(loss.background, p.shape).astype(np.float64)
            mean = np.maximum(p + background, 1e-30)
            end = (loss.b == 0) & (mean <= ROUNDING[dtype])
            # rounding of p, times the loss' second derivative
            allowed += 8 * np.finfo(dtype).eps * step * loss.b / mean**2 * (np.abs(p) + background)
        assert np.all(np.where(end, slope >= -allowed, np.abs(slope) <= allowed))


@every_dtype
@pytest.mark.parametrize("step", [0.1, 3.0, 22.0, 300.0])
def test_logistic_prox_of_many_points_at_once(step, dtype):
    """Points that converge early stay put while others still move."""
    z = np.linspace(-40, 40, 2001).astype(dtype)
    for label in (0.0, 0.3, 1.0):
        p = Logistic(np.full(z.shape, label, dtype)).prox(z, step).astype(np.float64)
        residual = p - z + step * (1 / (1 + np.exp(-p)) - dtype(label))
        assert np.abs(residual).max() <= ROUNDING[dtype] * (40 + step)


@every_loss
def test_loss_conjugate(name):
    """The Fenchel equality at a gradient, the inequality elsewhere, infinity outside the domain."""
    loss = losses()[name]
    z = inside(loss)
    u = loss.gradient(z)
    assert loss.conjugate(u) == pytest.approx(float(np.vdot(z, u)) - loss.value(z), rel=1e-10)
    other = loss.gradient(inside(loss, 7))
    assert loss.conjugate(other) > float(np.vdot(z, other)) - loss.value(z)
    if name != "least-squares":
        assert loss.conjugate(u + 5) == math.inf


def test_the_domain_of_the_poisson_loss():
    loss = Poisson(np.array([0, 2]))
    assert loss.value(np.array([0.0, 1.0])) == 1.0
    np.testing.assert_array_equal(loss.gradient(np.array([0.0, 1.0])), [1.0, -1.0])
    for z in ([-0.1, 1.0], [1.0, 0.0]):
        assert loss.value(np.array(z)) == math.inf
        with pytest.raises(ValueError, match=r"z: z \+ background must be > 0 where b > 0"):
            loss.gradient(np.array(z))
    assert loss.conjugate(np.array([1.0, 0.0])) == pytest.approx(2 * math.log(2) - 2)
    assert loss.conjugate(np.array([0.0, 1.0])) == math.inf


# --- refusals -------------------------------------------------------------------------------

X = np.ones(SIZE)
BAD = {
    "loss-nan": (lambda: LeastSquares([1.0, np.nan]), ValueError, r"b: 1 entries are NaN or infinite"),
    "loss-empty": (lambda: LeastSquares(np.zeros(0)), ValueError, r"b: empty array of shape \(0,\)"),
    "loss-complex": (lambda: LeastSquares(1j * X), TypeError, r"b: expected real numbers .*complex128"),
    "loss-text": (lambda: Logistic(["a"]), TypeError, r"b: expected real numbers"),
    "labels": (lambda: Logistic([-1, 1, 1]), ValueError, r"b: 1 labels are outside \[0, 1\]; code the two classes"),
    "counts": (lambda: Poisson([1, -2, -3]), ValueError, r"b: 2 counts are negative"),
    "background": (lambda: Poisson([1, 2], -1.0), ValueError, r"background: must be a finite number >= 0"),
    "backgrounds": (lambda: Poisson([1, 2], [1.0, -1.0]), ValueError, r"background: must be >= 0"),
    "background-shape": (lambda: Poisson([1, 2], [1.0, 1, 1]), ValueError, r"background: expected shape \(2,\)"),
    "background-nan": (lambda: Poisson([1, 2], [1.0, np.nan]), ValueError, r"background: 1 entries are NaN"),
    "weight": (lambda: L1(-1.0), ValueError, r"weight: must be a finite number > 0, got -1.0"),
    "weight-zero": (lambda: SquaredL2(0), ValueError, r"weight: must be a finite number > 0"),
    "weight-nan": (lambda: L1(np.nan), ValueError, r"weight: must be a finite number > 0"),
    "weight-text": (lambda: TotalVariation((4,), weight="a"), TypeError, r"weight: expected a number, got 'a'"),
    "overlap": (lambda: GroupLasso([[0, 1], [1, 2]]), ValueError, r"groups: index 1 is in more than one group"),
    "missing": (lambda: GroupLasso([[0, 1], [3]]), ValueError, r"groups: index 2 is in no group"),
    "negative-index": (lambda: GroupLasso([[0, -1]]), ValueError, r"groups: index -1 is negative"),
    "empty-group": (lambda: GroupLasso([[0], []]), TypeError, r"groups: expected a sequence of non-empty"),
    "no-groups": (lambda: GroupLasso([]), TypeError, r"groups: expected a sequence of non-empty"),
    "groups-number": (lambda: GroupLasso(3), TypeError, r"groups: expected a sequence of index sequences, got 3"),
    "groups-float": (lambda: GroupLasso([[0.5]]), TypeError, r"groups: expected .* integers"),
    "group-weights": (lambda: GroupLasso(GROUPS, [1, 1, 1, -1]), ValueError, r"weights: must be finite and >= 0"),
    "group-weights-text": (lambda: GroupLasso(GROUPS, "a"), TypeError, r"weights: expected numbers, got 'a'"),
    "group-weights-number": (
        lambda: GroupLasso(GROUPS, [1, 2]),
        ValueError,
        r"weights: expected one for each of the 4",
    ),
    "group-weights-zero": (lambda: GroupLasso(GROUPS, 0.0), ValueError, r"weights: all are 0; use Zero\(\)"),
    "pair": (lambda: SparseGroupLasso(GROUPS, 1.0), TypeError, r"weights: expected a pair"),
    "sparse-weight": (lambda: SparseGroupLasso(GROUPS, (-1, 1)), ValueError, r"weights: must be a finite number >= 0"),
    "group-size": (lambda: GroupLasso(GROUPS).prox(np.ones(3), 1), ValueError, r"groups: they partition 8 .* x has 3"),
    "box": (lambda: Box(1.0, [2.0, 0.0]), ValueError, r"lower > upper in 1 of 2 entries"),
    "box-nan": (lambda: Box(np.nan, 1.0), ValueError, r"lower, upper: must be numbers"),
    "box-infinite": (lambda: Box(np.inf, np.inf), ValueError, r"lower, upper: must be numbers"),
    "box-shapes": (lambda: Box([0, 0], [1, 1, 1]), ValueError, r"shapes \(2,\) and \(3,\) do not match"),
    "tv-shape": (lambda: TotalVariation((4, 0)), TypeError, r"shape: expected a tuple of positive integers"),
    "tv-axes": (lambda: TotalVariation((2, 2, 2, 2)), ValueError, r"shape: expected 1, 2 or 3 axes"),
    "level": (lambda: L1().project_sublevel(X, -1.0), ValueError, r"level: no point has a value <= -1.0"),
    "step": (lambda: L1().prox(X, 0.0), ValueError, r"step: must be > 0, got 0.0"),
    "x-integer": (lambda: L1().prox(np.ones(3, int), 1.0), TypeError, r"x: expected float32 or float64, got dtype int"),
    "target": (lambda: SquaredDistance([np.nan]), ValueError, r"target: 1 entries are NaN"),
    "target-complex": (lambda: SquaredDistance(1j), TypeError, r"target: expected real numbers"),
    "eta": (lambda: SquaredDistance(0.0, eta=0), ValueError, r"eta: must be a finite number > 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_one_clear_error(case):
    call, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        call()
