"""Both levels on k-space, real and complex, one coil and several, against an interior-point solver."""

import functools
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from bioperf import DCT, MaskedFourier, MultiCoilFourier, UndecimatedWavelet, Wavelet, solve_bio, solve_lower
from bioperf.kernels import get_backend

EXACT = 1e-6
SHAPE = (6, 8)
TV_WEIGHT, WAVELET_WEIGHT = 2e-2, 1e-2
KINDS = ("real", "complex", "coils")
TRANSFORMS = {
    "none": None,
    "dct": DCT(),
    "haar": Wavelet("haar", level=1),
    "undecimated": UndecimatedWavelet(level=2),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_tv = pytest.mark.parametrize("isotropic", [False, True], ids=["anisotropic", "isotropic"])
every_transform = pytest.mark.parametrize("transform", TRANSFORMS)


def smooth_maps(shape, coils=3):
    rng = np.random.default_rng(4)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    centres = rng.uniform(-1, 1, (coils, len(shape)))
    distance = np.stack([sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) for centre in centres])
    maps = np.exp(-distance + 1j * np.arange(coils).reshape(-1, *[1] * len(shape)))
    maps[:, 0] = 0  # outside the object
    return maps


@functools.cache
def problem(kind, shape=SHAPE, share=0.5, seed=2):
    """An operator with a mask without symmetry, noisy data and the truth."""
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < share
    mask[(0,) * len(shape)] = True
    x = np.zeros(shape)
    x[tuple(slice(n // 4, n * 3 // 4) for n in shape)] = 1
    x += np.linspace(0, 0.3, shape[-1])
    if kind != "real":
        x = x * np.exp(1j * np.linspace(0, 1.5, shape[0]))[(slice(None),) + (None,) * (len(shape) - 1)]
    A = MultiCoilFourier(mask, smooth_maps(shape)) if kind == "coils" else MaskedFourier(mask, real=kind == "real")
    noise = rng.standard_normal(A.data_shape) + 1j * rng.standard_normal(A.data_shape)
    return A, A.check_data("y", A(x) + 0.03 * noise), x


# --- the model in dense real matrices, for the interior point --------------------------------


def gradient(x):
    return np.stack([np.roll(x, -1, axis) - x for axis in range(x.ndim)])


def real_pairs(a):
    """Real and imaginary parts as a last axis."""
    return np.stack([a.real, a.imag], axis=-1)


def matrix(function, A, kind):
    """The real matrix of a linear map of images, rows in pairs (real, imaginary) of each output entry."""
    units = np.eye(math.prod(A.shape))
    columns = [real_pairs(function(e.reshape(A.shape))).ravel() for e in units]
    if kind != "real":
        columns += [real_pairs(function(1j * e.reshape(A.shape))).ravel() for e in units]
    return np.stack(columns, axis=1)


def norm_of_groups(cp, vector, members):
    """Sum of l2 norms; ``members`` consecutive entries form a group."""
    return cp.sum(cp.norm(cp.reshape(vector, (vector.size // members, members), order="C"), axis=1))


def terms(kind, isotropic, transform):
    cp = pytest.importorskip("cvxpy", reason="cvxpy (the test extra) is not installed")
    A, y, _ = problem(kind)
    n = math.prod(A.shape)
    x = cp.Variable(n if kind == "real" else 2 * n)
    by_pixel = matrix(lambda u: np.moveaxis(gradient(u), 0, -1), A, kind)
    tv = norm_of_groups(cp, by_pixel @ x, 2 * len(A.shape) if isotropic else 2)
    sparse = norm_of_groups(cp, matrix(transform.forward, A, kind) @ x, 2) if transform else 0
    return cp, A, y, x, matrix(A, A, kind) @ x, tv, sparse


def minimise(cp, x, A, kind, objective, constraints=()):
    model = cp.Problem(cp.Minimize(objective), list(constraints))
    with warnings.catch_warnings():
        # It cannot always reach what is asked for and warns; with refined linear solves it gets near enough.
        warnings.simplefilter("ignore", UserWarning)
        model.solve(
            solver="CLARABEL", tol_gap_abs=1e-13, tol_gap_rel=1e-13, tol_feas=1e-12, iterative_refinement_reltol=1e-15,
            iterative_refinement_abstol=1e-15, iterative_refinement_max_iter=30,
        )  # fmt: skip
    assert model.status in ("optimal", "optimal_inaccurate")
    value = x.value if kind == "real" else x.value[: x.size // 2] + 1j * x.value[x.size // 2 :]
    return SimpleNamespace(x=value.reshape(A.shape), objective=float(model.value))


@functools.cache
def lower_optimum(kind, isotropic, transform):
    cp, A, y, x, ax, tv, sparse = terms(kind, isotropic, TRANSFORMS[transform])
    fit = 0.5 * cp.sum_squares(ax - real_pairs(y).ravel())
    return minimise(cp, x, A, kind, fit + TV_WEIGHT * tv + WAVELET_WEIGHT * sparse)


def wavelet_options(transform):
    return {} if transform == "none" else {"wavelet_weight": WAVELET_WEIGHT, "wavelet": TRANSFORMS[transform]}


# --- the lower level ------------------------------------------------------------------------


@every_transform
@every_tv
@every_kind
def test_lower_level_agrees_with_the_interior_point(kind, isotropic, transform):
    A, y, _ = problem(kind)
    optimum = lower_optimum(kind, isotropic, transform)
    tol = 2e-10 if kind == "coils" else 1e-12
    solution = solve_lower(A, y, TV_WEIGHT, isotropic=isotropic, tol=tol, max_iter=40000, **wavelet_options(transform))
    assert solution.converged, solution.status
    np.testing.assert_allclose(solution.x, optimum.x, rtol=0, atol=EXACT)
    assert solution.objective == pytest.approx(optimum.objective, abs=1e-9)
    assert solution.lower_bound <= optimum.objective + 1e-9
    assert solution.lower_bound == pytest.approx(optimum.objective, rel=1e-3)


@pytest.mark.parametrize("transform", ["none", "undecimated"])
@every_kind
def test_apg_agrees_with_the_interior_point(kind, transform):
    A, y, _ = problem(kind)
    optimum = lower_optimum(kind, True, transform)
    solution = solve_lower(
        A, y, TV_WEIGHT, isotropic=True, method="apg", tol=1e-8, max_iter=2000, **wavelet_options(transform)
    )
    np.testing.assert_allclose(solution.x, optimum.x, rtol=0, atol=3e-4)
    assert solution.objective == pytest.approx(optimum.objective, rel=1e-7)


@every_kind
def test_every_check_has_a_bound_below_the_optimum(kind):
    A, y, _ = problem(kind)
    for transform in ("none", "undecimated"):
        optimum = lower_optimum(kind, True, transform).objective
        solution = solve_lower(A, y, TV_WEIGHT, isotropic=True, tol=1e-10, max_iter=500, **wavelet_options(transform))
        assert np.all(solution.history["lower_bound"] <= optimum * (1 + 1e-9))
        assert np.all(solution.history["objective"] >= optimum * (1 - 1e-9))


# --- the upper level ------------------------------------------------------------------------


@functools.cache
def upper_case(kind, isotropic, transform, epsilon, kappa):
    """Target, xbar of a tight lower-level solve, and the interior-point optimum of the upper level."""
    cp, A, y, x, ax, tv, sparse = terms(kind, isotropic, TRANSFORMS[transform])
    rng = np.random.default_rng(8)
    xbar = solve_lower(A, y, TV_WEIGHT, isotropic=isotropic, tol=1e-13, max_iter=50000).x
    target = xbar + 0.2 * rng.standard_normal(A.shape)
    if kind != "real":
        target = target + 0.2j * rng.standard_normal(A.shape)
    weight = 0.05 if transform != "none" else 0.0
    d = target.ravel() if kind == "real" else np.concatenate([target.real.ravel(), target.imag.ravel()])
    residual = ax - real_pairs(A(xbar)).ravel()
    bound = (1 + kappa) * float(np.sum(magnitudes(gradient(xbar), isotropic)))
    constraints = [tv <= bound, cp.norm(residual) <= epsilon if epsilon else residual == 0]
    optimum = minimise(cp, x, A, kind, 0.5 * cp.sum_squares(x - d) + weight * sparse, constraints)
    return target, xbar, weight, optimum


def magnitudes(field, isotropic):
    return np.sqrt(np.sum(np.abs(field) ** 2, axis=0)) if isotropic else np.abs(field)


@pytest.mark.parametrize(("epsilon", "kappa"), [(0.1, 0.05), (0.0, 0.1), (0.05, 0.02)])
@every_transform
@every_tv
@every_kind
def test_upper_level_agrees_with_the_interior_point(kind, isotropic, transform, epsilon, kappa):
    A, y, _ = problem(kind)
    target, xbar, weight, optimum = upper_case(kind, isotropic, transform, epsilon, kappa)
    solution = solve_bio(
        A, y, target=target, tv_weight=TV_WEIGHT, lower=xbar, epsilon=epsilon, kappa=kappa, isotropic=isotropic,
        sparsity_weight=weight, transform=TRANSFORMS[transform], tol=1e-11, max_iter=20000,
    )  # fmt: skip
    np.testing.assert_allclose(solution.x, optimum.x, rtol=0, atol=EXACT)
    assert solution.objective == pytest.approx(optimum.objective, rel=1e-6)
    assert np.all(solution.history["lower_bound"] <= optimum.objective * (1 + 1e-7))
    assert solution.lower_bound == pytest.approx(optimum.objective, rel=1e-5)
    assert max(solution.infeasibility.values()) < 1e-6


@pytest.mark.parametrize(("kind", "splitting"), [*((kind, "ball") for kind in KINDS), ("real", "slack")])
def test_a_weight_for_each_coefficient(kind, splitting):
    transform = TRANSFORMS["undecimated"]
    cp, A, y, x, ax, tv, _ = terms(kind, False, None)
    rng = np.random.default_rng(12)
    rho = (
        0.1
        * rng.random(transform.coefficient_shape(A.shape))
        * (rng.random(transform.coefficient_shape(A.shape)) < 0.8)
    )
    target, xbar, _, _ = upper_case(kind, False, "none", 0.1, 0.05)
    groups = matrix(transform.forward, A, kind) @ x
    norms = cp.norm(cp.reshape(groups, (groups.size // 2, 2), order="C"), axis=1)
    d = target.ravel() if kind == "real" else np.concatenate([target.real.ravel(), target.imag.ravel()])
    bound = 1.05 * float(np.sum(np.abs(gradient(xbar))))
    constraints = [tv <= bound, cp.norm(ax - real_pairs(A(xbar)).ravel()) <= 0.1]
    optimum = minimise(cp, x, A, kind, 0.5 * cp.sum_squares(x - d) + rho.ravel() @ norms, constraints)
    options = {"penalties": (10.0, 10.0)} if splitting == "slack" else {}
    solution = solve_bio(
        A, y, target=target, tv_weight=TV_WEIGHT, lower=xbar, epsilon=0.1, kappa=0.05, sparsity_weight=rho,
        transform=transform, splitting=splitting, tol=1e-11, max_iter=20000, **options,
    )  # fmt: skip
    np.testing.assert_allclose(solution.x, optimum.x, rtol=0, atol=EXACT if splitting == "ball" else 1e-5)
    assert solution.objective == pytest.approx(optimum.objective, rel=1e-5)
    assert np.all(solution.history["lower_bound"] <= optimum.objective * (1 + 1e-7))


@pytest.mark.parametrize("transform", ["none", "dct", "undecimated"])
def test_slack_splitting_agrees_with_the_interior_point(transform):
    A, y, _ = problem("real")
    target, xbar, weight, optimum = upper_case("real", False, transform, 0.1, 0.05)
    solution = solve_bio(
        A, y, target=target, tv_weight=TV_WEIGHT, lower=xbar, epsilon=0.1, kappa=0.05, splitting="slack",
        sparsity_weight=weight, transform=TRANSFORMS[transform], penalties=(10.0, 10.0), tol=1e-12, max_iter=20000,
    )  # fmt: skip
    np.testing.assert_allclose(solution.x, optimum.x, rtol=0, atol=1e-5)
    assert solution.lower_bound == pytest.approx(optimum.objective, rel=1e-4)


# --- what does not depend on how it is asked --------------------------------------------------


@every_kind
def test_a_batch_is_its_single_solves_bit_for_bit(kind):
    A, y, _ = problem(kind)
    batch = np.stack([y, 2 * y])
    together = solve_lower(A, batch, TV_WEIGHT, wavelet_weight=WAVELET_WEIGHT, wavelet="undecimated")
    for k in range(2):
        alone = solve_lower(A, batch[k], TV_WEIGHT, wavelet_weight=WAVELET_WEIGHT, wavelet="undecimated")
        np.testing.assert_array_equal(together.x[k], alone.x)
    upper = solve_bio(A, batch, target="identity", tv_weight=TV_WEIGHT, epsilon=0.1, kappa=0.1)
    alone = solve_bio(A, batch[1], target="identity", tv_weight=TV_WEIGHT, epsilon=0.1, kappa=0.1)
    np.testing.assert_array_equal(upper.x[1], alone.x)


@every_kind
def test_same_bits_for_any_thread_count(kind):
    A, y, _ = problem(kind, (400, 330), seed=5)
    options = {"wavelet_weight": WAVELET_WEIGHT, "wavelet": "undecimated", "max_iter": 12}
    y = y.astype(np.complex64)
    one = solve_lower(A, y, TV_WEIGHT, threads=1, **options)
    two = solve_lower(A, y, TV_WEIGHT, threads=2, **options)
    assert one.threads == 1
    np.testing.assert_array_equal(one.x, two.x)


@every_kind
def test_single_precision_agrees_with_double(kind):
    A, y, _ = problem(kind)
    options = {"wavelet_weight": WAVELET_WEIGHT, "wavelet": "undecimated", "tol": 1e-6, "isotropic": True}
    double = solve_lower(A, y, TV_WEIGHT, **options)
    single = solve_lower(A, y.astype(np.complex64), TV_WEIGHT, **options)
    assert single.x.dtype == (np.float32 if kind == "real" else np.complex64)
    np.testing.assert_allclose(single.x, double.x, rtol=0, atol=1e-3)


def test_complex_data_of_a_real_image_give_that_image():
    """With a symmetric mask and Hermitian data the complex model has the real model's solution."""
    rng = np.random.default_rng(3)
    mask = rng.random(SHAPE) < 0.4
    mask |= np.roll(np.flip(mask), 1, (0, 1))
    x = rng.random(SHAPE)
    y = MaskedFourier(mask)(x)
    real, whole = (
        solve_lower(MaskedFourier(mask, real=r), y, 1e-2, isotropic=True, tol=1e-10, max_iter=5000)
        for r in (True, False)
    )
    np.testing.assert_allclose(whole.x, real.x, rtol=0, atol=1e-6)


@every_kind
def test_an_unsampled_mean_is_zero(kind):
    """The mean of one coil's image is then in no term: the iteration leaves it 0."""
    rng = np.random.default_rng(3)
    mask = rng.random(SHAPE) < 0.5
    mask[0, 0] = False
    A = MultiCoilFourier(mask, smooth_maps(SHAPE)) if kind == "coils" else MaskedFourier(mask, real=kind == "real")
    y = A(rng.standard_normal(SHAPE))
    solution = solve_lower(A, y, 1e-2, tol=1e-6)
    assert solution.converged
    if kind != "coils":
        assert abs(solution.x.mean()) < 1e-12


@every_kind
def test_a_weight_beyond_everything_gives_zero_with_a_proof(kind):
    A, y, _ = problem(kind)
    solution = solve_lower(A, y, 1.0, wavelet_weight=100.0, wavelet="haar")
    assert solution.iterations == 0 and solution.converged and not solution.x.any()
    assert solution.lower_bound == solution.objective == pytest.approx(0.5 * np.linalg.norm(y) ** 2)


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_a_tv_weight_beyond_everything_gives_a_constant(kind):
    A, y, _ = problem(kind)
    solution = solve_lower(A, y, 100.0)
    assert solution.iterations == 0 and np.ptp(np.abs(solution.x)) == 0


def test_every_coil_map_scale_gives_the_same_image():
    """y and the maps times 10, the weight times 100: the same problem."""
    A, y, _ = problem("coils")
    first = solve_lower(A, y, TV_WEIGHT, tol=1e-10, max_iter=20000)
    scaled = MultiCoilFourier(A.mask, 10 * A.maps)
    second = solve_lower(scaled, 10 * y, 100 * TV_WEIGHT, tol=1e-10, max_iter=20000)
    np.testing.assert_allclose(second.x, first.x, rtol=0, atol=1e-5)


# --- bad input ------------------------------------------------------------------------------

A, Y = MaskedFourier(np.ones((4, 4), bool)), np.ones((4, 4), complex)
BAD = {
    "real data": (lambda: solve_lower(A, Y.real, 1.0), TypeError, "y: expected complex64 or complex128"),
    "shape": (lambda: solve_lower(A, Y[:3], 1.0), ValueError, r"y: expected shape \(\.\.\., 4, 4\)"),
    "NaN": (lambda: solve_lower(A, Y * np.nan, 1.0), ValueError, "y: 16 entries are NaN"),
    "wavelet weight": (lambda: solve_lower(A, Y, 1.0, wavelet_weight=-1), ValueError, "wavelet_weight: must be"),
    "wavelet": (lambda: solve_lower(A, Y, 1.0, wavelet_weight=1, wavelet=3), TypeError, "wavelet: expected a name"),
    "axes": (
        lambda: solve_lower(A, Y, 1.0, wavelet_weight=1, wavelet=DCT(ndim=3)), ValueError, "wavelet: .* is for 3 axes"
    ),
    "no transform": (
        lambda: solve_bio(A, Y, target="identity", tv_weight=1.0, sparsity_weight=1.0), ValueError, "transform: needed"
    ),
    "weights' shape": (
        lambda: solve_bio(A, Y, target="identity", tv_weight=1.0, sparsity_weight=np.ones(3), transform="dct"),
        ValueError, r"sparsity_weight: expected a number or shape \(4, 4\)"
    ),
    "negative weights": (
        lambda: solve_bio(A, Y, target="identity", tv_weight=1.0, sparsity_weight=-np.ones((4, 4)), transform="dct"),
        ValueError, "sparsity_weight: 16 entries are negative"
    ),
    "slack of a complex image": (
        lambda: solve_bio(MaskedFourier(A.mask, real=False), Y, target="identity", tv_weight=1.0, splitting="slack"),
        ValueError, 'splitting: "slack" is for real images',
    ),
    "deconv of k-space": (lambda: solve_bio(A, Y, target="deconv", tv_weight=1.0), ValueError, 'target "deconv"'),
    "target's shape": (
        lambda: solve_bio(A, Y, target=np.ones((3, 4)), tv_weight=1.0), ValueError, r"target: expected shape \(4, 4\)"
    ),
    "complex target of a real image": (
        lambda: solve_bio(A, Y, target=Y, tv_weight=1.0), TypeError, "target: expected float32 or float64"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


def test_the_backend_that_ran_is_named():
    solution = solve_lower(A, Y, 0.1, max_iter=3)
    assert solution.backend == get_backend().name
