"""The batched kernels of TV + wavelet models against the NumPy oracle, brute force and optimality conditions.

Several problems stand side by side: N images, K problems of N / K neighbours, thresholds and radii per problem.
"""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq

from bioperf.kernels import get_backend

ORACLE = get_backend("reference")
DTYPES = (np.float32, np.float64)
ALL_DTYPES = (*DTYPES, np.complex64, np.complex128)
# Error of a result relative to its largest entry.
TOLERANCE = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12}
# Error of a ball's threshold relative to the largest magnitude.
THRESHOLD_TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-13}
# Error of multipliers relative to alpha: Newton's method stops at a relative 1e-6 and 1e-11 of the constraints' sums.
MULTIPLIER_TOLERANCE = {np.dtype(np.float32): 2e-4, np.dtype(np.float64): 2e-9}
# Odd, even, prime, 1 x n and n x 1; rows are cut at 256 and 512 elements, flat arrays at 4096.
SHAPES = [
    (1,), (7,), (4099,), (1, 9), (9, 1), (13, 17), (16, 12), (5, 257), (1, 1, 5), (4, 1, 6), (3, 7, 2), (2, 3, 600),
]  # fmt: skip
LARGE = [(9001,), (37, 259), (5, 6, 261)]
# K problems of N / K images: a row for each shape in turn
LAYOUTS = [[(problems, (problems + shift) % 3 + 1) for problems in (1, 2, 3)] for shift in (0, 1, 2)]


def real_of(dtype):
    return np.empty(0, dtype).real.dtype


def assert_close(actual, expected, dtype):
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        limit = TOLERANCE[real_of(dtype)] * max(1.0, float(np.abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=0, atol=limit)


def skip_long_compilation(kernels, dtype):
    if kernels.name == "numba" and dtype == np.complex128:
        pytest.skip("Numba takes 10 s to compile the complex loops for one precision; complex64 is tested")


def batch(shape, dtype, problems=2, each=2):
    """Read-only random data of K problems; what a kernel updates in place is copied first."""
    return SimpleNamespace(**vars(_batch(shape, dtype, problems, each)))


@functools.cache
def _batch(shape, dtype, problems, each):
    rng = np.random.default_rng([problems, each, *shape])
    images, real = problems * each, real_of(dtype)

    def random(*size, dtype=dtype):
        values = rng.standard_normal(size)
        return (values + 1j * rng.standard_normal(size) if np.dtype(dtype).kind == "c" else values).astype(dtype)

    spectral = np.result_type(dtype, np.complex64)
    a = SimpleNamespace(d=len(shape), each=each, x=random(images, *shape), q=random(images, len(shape), *shape))
    a.t, a.w = random(images, *shape), random(images, *shape)
    a.thresholds, a.scales, a.weights = rng.uniform(0.1, 1.5, (3, problems))
    a.radii = rng.uniform(0.05, 0.9, problems) * each * np.prod(shape)
    a.r, a.z, a.base, a.observed = (random(images, *shape, dtype=spectral) for _ in range(4))
    a.linear, a.shared = random(each, *shape, dtype=spectral), random(1, *shape, dtype=spectral)
    a.inverse = rng.uniform(0.2, 2, (problems, *shape)).astype(real)
    a.gram = rng.choice([0, 0.5, 1], shape).astype(real)
    a.factor = (a.gram * rng.choice([0.5, 1], shape)).astype(real)
    a.z, a.observed = a.z * (a.gram > 0), a.observed * (a.gram > 0)
    for value in vars(a).values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return a


def magnitudes_of(a, isotropic):
    return np.full(a.x.shape if isotropic else a.q.shape, np.nan, real_of(a.x.dtype))


def update_fields(k, a, threads, isotropic):
    q, m = a.q.copy(), magnitudes_of(a, isotropic)
    k.update_fields(a.x, q, m, 1.6, a.thresholds, a.scales, isotropic, threads=threads)
    return q, m


def field_divergences(k, a, threads, isotropic):
    out = np.full_like(a.x, np.nan)
    k.field_divergences(a.q, a.thresholds, a.weights, isotropic, out, threads=threads)
    return (out,)


def measure_coefficients(k, a, threads):
    w, m = a.w.copy(), magnitudes_of(a, True)
    k.measure_coefficients(a.t, w, m, 1.6, a.thresholds, a.scales, threads=threads)
    return w, m


def reflect_coefficients(k, a, threads):
    out = np.full_like(a.w, np.nan)
    k.reflect_coefficients(a.w, a.thresholds, a.weights, out, threads=threads)
    return (out,)


def ball_thresholds(k, a, threads):
    thresholds = a.thresholds.copy()
    k.ball_thresholds(np.abs(a.w), a.radii, thresholds, threads=threads)
    return (thresholds,)


def spectrum_step(k, a, threads):
    r, other = a.r.copy(), a.r.copy()
    k.spectrum_step(r, a.linear, a.inverse, threads=threads)
    k.spectrum_step(other, a.shared, a.inverse, threads=threads)
    return r, other


STEP = {"penalty": 0.7, "curvature": 0.4, "relaxation": 1.6, "dual_scale": 0.9}


def data_step(k, a, threads):
    r, z, power = a.r.copy(), a.z.copy(), np.full(a.r.shape, np.nan, a.gram.dtype)
    k.data_step(r, z, power, a.base, a.observed, a.gram, a.inverse[0], a.factor, **STEP, threads=threads)
    return r, z, power


def field_case(case, isotropic):
    name = f"{case.__name__}-{'isotropic' if isotropic else 'anisotropic'}"
    return pytest.param(lambda k, a, threads: case(k, a, threads, isotropic), id=name)


IMAGE_CASES = [
    *(field_case(case, isotropic) for case in (update_fields, field_divergences) for isotropic in (True, False)),
    *(pytest.param(case, id=case.__name__) for case in (measure_coefficients, reflect_coefficients)),
]
# Those that know no complex images: their spectra always are.
REAL_CASES = [pytest.param(case, id=case.__name__) for case in (ball_thresholds, spectrum_step, data_step)]
every_case = pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(*case.values, dtype, id=f"{case.id}-{np.dtype(dtype).name}")
        for cases, dtypes in ((IMAGE_CASES, ALL_DTYPES), (REAL_CASES, DTYPES))
        for case in cases
        for dtype in dtypes
    ],
)


# --- against the oracle, and the oracle against the kernels of one image ----------------------


def skip_the_oracle(kernels):
    if kernels is ORACLE:
        pytest.skip("the oracle itself")


@every_case
def test_matches_oracle(kernels, case, dtype):
    skip_the_oracle(kernels)
    skip_long_compilation(kernels, dtype)
    for k, shape in enumerate(SHAPES):
        for layout in LAYOUTS[k % 3]:
            data = batch(shape, dtype, *layout)
            assert_close(case(kernels, data, 1), case(ORACLE, data, 1), dtype)


@every_case
def test_thread_count_does_not_change_the_bits(kernels, case, dtype):
    skip_the_oracle(kernels)
    skip_long_compilation(kernels, dtype)
    for shape in LARGE:
        for layout in ((1, 1), (3, 1)):
            data = batch(shape, dtype, *layout)
            alone = case(kernels, data, 1)
            # five threads: uneven blocks, some of them empty
            for threads in (2, 5) if kernels.name == "cython" else (2,):
                for one, other in zip(case(kernels, data, threads), alone, strict=True):
                    np.testing.assert_array_equal(one, other, strict=True)
            assert_close(alone, case(ORACLE, data, 1), dtype)


@every_case
def test_problems_do_not_touch_each_other(kernels, case, dtype):
    """K problems at once have the bits of each problem alone."""
    skip_long_compilation(kernels, dtype)
    for shape in ((13, 17), (2, 3, 600)):
        data = batch(shape, dtype, 3, 2)
        together = case(kernels, data, 1)
        for problem in range(3):
            one, part = SimpleNamespace(**vars(data)), slice(2 * problem, 2 * problem + 2)
            for name in ("x", "q", "t", "w", "r", "z", "base", "observed"):
                setattr(one, name, getattr(data, name)[part])
            # the data step belongs to one problem: all share its diagonal
            first = 0 if case is data_step else problem
            one.inverse = data.inverse[first : first + 1]
            for name in ("thresholds", "scales", "weights", "radii"):
                setattr(one, name, getattr(data, name)[problem : problem + 1])
            for alone, stacked in zip(case(kernels, one, 1), together, strict=True):
                own = stacked[problem : problem + 1] if stacked.shape == (3,) else stacked[part]
                np.testing.assert_array_equal(alone, own, strict=True)


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("isotropic", [True, False])
def test_fields_are_those_of_the_kernels_of_one_image(kernels, isotropic, dtype):
    skip_long_compilation(kernels, dtype)
    for shape in ((13,), (5, 9), (3, 4, 5)):
        a = batch(shape, dtype, 2, 2)
        (q, m), (out,) = update_fields(kernels, a, 1, isotropic), field_divergences(kernels, a, 1, isotropic)
        for b in range(4):
            threshold, scale, weight = (values[b // 2] for values in (a.thresholds, a.scales, a.weights))
            field, divergence = a.q[b].copy(), np.empty_like(a.x[b])
            total, _, _ = kernels.update_field(a.x[b], field, 1.6, threshold, scale, isotropic, 0.0)
            kernels.field_divergence(a.q[b], threshold, isotropic, weight, -2 * weight, divergence)
            sizes = np.linalg.norm(field, axis=0) if isotropic else np.abs(field)
            assert_close((q[b], out[b], m[b]), (field, divergence, sizes.astype(m.dtype)), dtype)
            assert m[b].sum(dtype=float) == pytest.approx(total, rel=TOLERANCE[real_of(dtype)])


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_coefficients_are_those_of_the_kernel_of_one_image(kernels, dtype):
    skip_long_compilation(kernels, dtype)
    a = batch((5, 9), dtype, 2, 2)
    (w, m), (out,) = measure_coefficients(kernels, a, 1), reflect_coefficients(kernels, a, 1)
    for b in range(4):
        threshold, scale, weight = (values[b // 2] for values in (a.thresholds, a.scales, a.weights))
        new, reflected, clipped = a.w[b].copy(), np.empty_like(a.w[b]), np.empty_like(a.w[b])
        kernels.update_coefficients(a.t[b], new, 1.6, threshold, threshold, scale, None, reflected)
        kernels.clip_coefficients(a.w[b], threshold, None, clipped)
        assert_close((w[b], m[b]), (new, np.abs(new)), dtype)
        assert_close((out[b],), ((weight * (a.w[b] - 2 * clipped)).astype(dtype),), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_spectrum_step_by_broadcasting(kernels, dtype):
    """Every image of a problem has the problem's diagonal, and its own right-hand side or one for all."""
    a = batch((4, 9), dtype, 3, 2)
    own, shared = spectrum_step(kernels, a, 1)
    r, inverse = a.r.reshape(3, 2, 4, 9), a.inverse[:, None]
    assert_close((own,), (((r + a.linear) * inverse).reshape(6, 4, 9),), dtype)
    assert_close((shared,), (((r + a.shared) * inverse).reshape(6, 4, 9),), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [(1, 1), (1, 3)])
def test_data_step_is_a_step_of_admm(kernels, layout, dtype):
    """With q = observed + z the split's field: v = prox(q), u = q - v; x follows v - u, q <- a x + (1 - a) v + s u."""
    a = batch((5, 9), dtype, *layout)
    r, z, power = data_step(kernels, a, 1)
    on, shrink = a.gram > 0, 1 / (1 + STEP["curvature"] * a.gram)
    q = a.observed + a.z
    v = a.observed + shrink * a.z
    u = q - v
    x = (a.r + a.base + STEP["penalty"] * (v - u)) * a.inverse[0]
    q = STEP["relaxation"] * x + (1 - STEP["relaxation"]) * v + STEP["dual_scale"] * u
    expected = np.where(on, q - a.observed, 0)
    assert_close((r, z), (x, expected.astype(a.z.dtype)), dtype)
    assert_close((power,), ((a.factor * np.abs(expected) ** 2).astype(power.dtype),), dtype)
    assert np.all(z[:, ~on] == 0) and np.all(power[:, ~on] == 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isotropic", [True, False])
def test_magnitudes_at_the_threshold_exactly(kernels, isotropic, dtype):
    """Magnitudes 0, 5 and 10 and threshold 5: at the threshold nothing is above it, and its mirror image is -q."""
    q = np.array([[0, 3, -4, 5, 0, 6, -8], [0, 4, 3, 0, -5, 8, 6]], dtype).reshape(1, 2, 1, 7)
    above = q * (0.5 * (np.abs(q).max(axis=1) > 5)) if isotropic else np.sign(q) * np.maximum(np.abs(q) - 5, 0)
    out, unit, bound = np.empty((1, 1, 7), dtype), np.ones(1), np.array([5.0])
    kernels.field_divergences(q, bound, unit, isotropic, out)
    np.testing.assert_array_equal(out[0], ORACLE.gradient_adjoint((2 * above - q)[0].astype(dtype)))
    field, m = q.copy(), np.empty(out.shape if isotropic else q.shape, dtype)
    kernels.update_fields(np.zeros_like(out), field, m, 0.0, bound, np.zeros(1), isotropic)
    np.testing.assert_array_equal(field, above)
    np.testing.assert_array_equal(m, np.linalg.norm(above, axis=1).astype(dtype) if isotropic else np.abs(above))
    w = np.array([[0, -4.5, 5, -5, 5.5, -10]], dtype)
    reflected = np.empty_like(w)
    kernels.reflect_coefficients(w, bound, unit, reflected)
    np.testing.assert_array_equal(reflected, [[0, 4.5, -5, 5, -4.5, 0]])
    measured = np.empty_like(w)
    kernels.measure_coefficients(np.zeros_like(w), w, measured, 0.0, bound, np.zeros(1))
    np.testing.assert_array_equal(w, [[0, 0, 0, 0, 0.5, -5]])
    np.testing.assert_array_equal(measured, np.abs(w))


@every_case
def test_zeros_and_thresholds_of_zero(kernels, case, dtype):
    skip_long_compilation(kernels, dtype)
    data = batch((6, 9), dtype)
    data.thresholds = np.zeros(2)
    assert_close(case(kernels, data, 1), case(ORACLE, data, 1), dtype)
    for name in ("x", "q", "t", "w", "r", "z", "base", "linear", "shared", "observed"):
        setattr(data, name, np.zeros_like(getattr(data, name)))
    for result in case(kernels, data, 1):
        np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
@pytest.mark.parametrize("case", [*IMAGE_CASES, *REAL_CASES[1:]])
def test_nan_reaches_every_output(kernels, case, dtype):
    if dtype == np.complex64 and case in (spectrum_step, data_step):
        pytest.skip("spectra are complex for real images already")
    data = batch((6, 9), dtype)
    for name in ("x", "q", "t", "w", "r"):
        array = getattr(data, name).copy()
        array[..., 2, 3] = np.nan
        setattr(data, name, array)
    data.gram = np.ones_like(data.gram)
    for result in case(kernels, data, 1):
        assert np.isnan(result).any()


# --- thresholds of l1 and l21 balls -----------------------------------------------------------


def excess(m, tau):
    return float(np.maximum(m.astype(np.float64) - tau, 0).sum())


def threshold_by_brentq(m, radius):
    if excess(m, 0) <= radius:
        return 0.0
    top = float(m.max())
    return top if radius == 0 else brentq(lambda tau: excess(m, tau) - radius, 0, top, xtol=1e-300, rtol=1e-15)


def find(kernels, m, radii, start=0.0, threads=1):
    thresholds = np.full(len(radii), start)
    kernels.ball_thresholds(m, np.asarray(radii, float), thresholds, threads=threads)
    return thresholds


STARTS = (0.0, -5.0, 0.01, 0.5, 3.0, 1e30, 1e200, np.inf, np.nan)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 57, 4096, 4097, 9001])
def test_threshold_by_brentq_from_any_start(kernels, size, dtype):
    """What the array holds only starts the search: below, above, absurd, the result is the same."""
    rng = np.random.default_rng(size)
    m = np.abs(rng.standard_normal((4, size))).astype(dtype)
    fractions = np.array([1e-4, 0.2, 0.9, 1.5])
    radii = fractions * [excess(row, 0) for row in m]
    expected = [threshold_by_brentq(row, radius) for row, radius in zip(m, radii, strict=True)]
    assert expected[3] == 0 and min(expected[:3]) > 0
    limit = THRESHOLD_TOLERANCE[np.dtype(dtype)] * m.max()
    for start in STARTS:
        found = find(kernels, m, radii, start)
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit)
        assert found[3] == 0
    np.testing.assert_array_equal(find(kernels, m, radii, start, threads=2), found)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threshold_found_again_from_itself(kernels, dtype):
    m = np.abs(np.random.default_rng(1).standard_normal((2, 5000))).astype(dtype)
    found = find(kernels, m, [700.0, 30.0])
    again = found.copy()
    kernels.ball_thresholds(m, np.array([700.0, 30.0]), again)
    np.testing.assert_allclose(again, found, rtol=0, atol=THRESHOLD_TOLERANCE[np.dtype(dtype)] * m.max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", STARTS)
def test_radius_zero_the_sphere_and_beyond(kernels, start, dtype):
    m = np.array([[1, 4, 2, 0.5]] * 5, dtype)
    found = find(kernels, m, [0.0, 7.5, 7.6, 1e300, np.inf], start)
    np.testing.assert_allclose(found, [4, 0, 0, 0, 0], rtol=0, atol=THRESHOLD_TOLERANCE[np.dtype(dtype)])
    np.testing.assert_array_equal(found[2:], 0)
    np.testing.assert_array_equal(find(kernels, np.zeros((3, 9), dtype), [0.0, 1.0, np.inf], start), 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", [0.0, 1.0, 2.0, 2.5, 8.0])
def test_ties_and_magnitudes_at_the_threshold(kernels, start, dtype):
    """(3, 3, 2, 2, 1) with radius 2: tau = 2, which two magnitudes equal; equal magnitudes share the radius."""
    m = np.array([[3, 3, 2, 2, 1], [2, 2, 2, 2, 2], [8, 0, 0, 0, 0], [0, 0, 1, 0, 3]], dtype)
    found = find(kernels, m, [2.0, 4.0, 5.0, 1.0], start)
    np.testing.assert_allclose(found, [2, 1.2, 3, 2], rtol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fields_of_any_shape_and_several_images_share_a_ball(kernels, dtype):
    m = np.abs(np.random.default_rng(2).standard_normal((6, 2, 5, 7))).astype(dtype)
    radii = np.array([10.0, 60.0, 500.0])
    found = find(kernels, m, radii)
    joint = [threshold_by_brentq(part, radius) for part, radius in zip(m.reshape(3, -1), radii, strict=True)]
    np.testing.assert_allclose(found, joint, rtol=0, atol=THRESHOLD_TOLERANCE[np.dtype(dtype)] * m.max())


@given(
    m=arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1e6) | st.sampled_from([0.0, 1.0, 2.0])),
    radius=st.floats(0, 1e6),
    start=st.floats(0, 1e9) | st.sampled_from([0.0, 1.0, 2.0]),
)
def test_threshold_of_any_magnitudes(kernels, m, radius, start):
    (tau,) = find(kernels, m[None], [radius], start)
    rounding = 1e-13 * m.sum()
    assert 0 <= tau <= m.max()
    if excess(m, 0) <= radius:
        assert tau <= rounding
    else:
        assert excess(m, tau) == pytest.approx(radius, abs=rounding)
    np.testing.assert_allclose(tau, find(ORACLE, m[None], [radius])[0], rtol=0, atol=1e-13 * m.max())


def test_wide_ranges_of_magnitudes(kernels):
    """A geometric sequence drops a few magnitudes a step: the search takes its longest way there."""
    for ratio in (1.01, 1.5, 4.0):
        m = ratio ** np.arange(0.0, 300 if ratio < 2 else 200)
        for radius in (1e-3, 1.0, 1e3):
            (tau,) = find(kernels, m[None], [radius * m.max() * 1e-3])
            assert tau == pytest.approx(threshold_by_brentq(m, radius * m.max() * 1e-3), rel=1e-12)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_search_ends_on_values_that_are_not_finite(kernels, value):
    m = np.ones((1, 50))
    m[0, 20] = value
    for start in STARTS:
        assert find(kernels, m, [3.0], start).shape == (1,)
    assert find(kernels, np.ones((1, 50)), [value]).shape == (1,)


# --- the three multipliers of the subproblem ----------------------------------------------------
#
# Rows 0: data, 1: coefficients, 2: fields, as in mathematics.md 8.

KEYS = (
    "coefficients", "fields", "power", "gram", "penalties", "sigma", "rates", "centres", "weights", "constant", "alpha",
)  # fmt: skip


def solve(kernels, p, start=None, threads=1):
    """Whether it was solved, and (mu_0, mu_1, mu_2, t); the start is that of a subproblem's first iteration."""
    if start is None:
        mu_0 = p.alpha / (p.sigma[0] + p.rates @ p.sigma[1:])
        start = (mu_0, *(mu_0 * p.rates), 1e-3)
    done, found = kernels.coupled_multipliers(*(getattr(p, key) for key in KEYS), tuple(start), threads=threads)
    assert isinstance(done, bool) and len(found) == 4 and all(isinstance(value, float) for value in found)
    if not done:  # what is not solved is not touched: the caller takes another way
        assert kernels is not ORACLE and found == tuple(start)
    return done, np.array(found)


def rows_of(p, found):
    """The three constraints' values, the sizes of their terms, and the radii, at (mu, t)."""
    mu, t = found[:3], found[3]
    radii = np.maximum(0, p.centres + (mu[1:] - mu[0] * p.rates) / p.weights)
    data = float((p.power.astype(float) / (1 + mu[0] / p.penalties[0] * p.gram) ** 2).sum())
    sums = [excess(m, mu[i] / p.penalties[i]) for i, m in ((1, p.coefficients), (2, p.fields))]
    values = np.array([data + p.constant + p.rates @ radii, *(sums - radii)]) - p.sigma * t
    sizes = np.array([data + abs(p.constant) + p.rates @ radii, *(sums + radii)]) + p.sigma * t
    return values, sizes, radii


def assert_optimal(p, found):
    """The conditions of optimality of the (convex) block: signs, feasibility, complementarity, sigma . mu <= alpha."""
    tolerance = 10 * MULTIPLIER_TOLERANCE[p.gram.dtype]
    values, sizes, _ = rows_of(p, found)
    mu, t = found[:3], found[3]
    assert np.all(found >= 0)
    assert np.all(values <= tolerance * sizes)
    assert np.all(np.where(mu > tolerance * p.alpha, np.abs(values), 0) <= tolerance * sizes)
    assert p.sigma @ mu <= p.alpha * (1 + tolerance)
    if t > 0:
        assert p.sigma @ mu == pytest.approx(p.alpha, rel=tolerance)


def draw(seed, dtype, images=None):
    """Magnitudes, data and weights over several orders of magnitude; ``centres``, ``constant``, ``alpha`` are left."""
    rng = np.random.default_rng([seed, 8])
    p = SimpleNamespace(rng=rng)
    p.coefficients, p.fields = (rng.exponential(size=rng.integers(20, 400)).astype(dtype) for _ in range(2))
    p.gram = rng.choice([0, 0.5, 1], rng.integers(20, 300)).astype(dtype)
    p.power = (0.1 * p.gram * rng.exponential(size=(images or rng.integers(1, 4), p.gram.size))).astype(dtype)
    p.penalties, p.sigma = 10 ** rng.uniform(-0.5, 1.5, 3), rng.uniform(0.5, 2, 3)
    p.rates, p.weights = 10 ** rng.uniform(-2, 0, 2), 10 ** rng.uniform(-5, 0, 2)
    return p


def designed(seed, dtype, violated, inactive=(), held=0):
    """An instance with a known answer: multipliers first, then the centres, constant and alpha that they solve.

    ``inactive`` rows have multiplier 0; ``held`` radii are 0 although their multipliers would take them below.
    """
    p = draw(seed, dtype)
    rng, m = p.rng, (p.coefficients, p.fields)
    mu = np.array([0.1, 0.05, 0.05]) + rng.uniform(0, [3, 0.6, 0.6])
    mu *= p.penalties * [1, m[0].max(), m[1].max()]
    mu[list(inactive)] = 0
    reach = np.array([excess(m[i], mu[i + 1] / p.penalties[i + 1]) for i in range(2)]) / p.sigma[1:]
    t = 0.0
    if violated:
        t = float(reach.min() * (1 if held else rng.uniform(0.05, 0.5)))
    if held == 2:
        for i in range(2):
            mu[i + 1] = p.penalties[i + 1] * threshold_by_brentq(m[i], p.sigma[i + 1] * t)
    zero = np.array([held == 2 or (held == 1 and i == reach.argmin()) for i in range(2)])
    radii = np.where(zero, 0, (reach - t) * p.sigma[1:])
    for i in inactive:
        if i:
            radii[i - 1] *= rng.uniform(1.1, 2)
    p.alpha = float(p.sigma @ mu) * (1 if violated else rng.uniform(1.05, 3))
    p.centres = radii - (mu[1:] - mu[0] * p.rates) / p.weights - zero * rng.uniform(0.1, 2, 2)
    data = float((p.power.astype(float) / (1 + mu[0] / p.penalties[0] * p.gram) ** 2).sum())
    p.constant = p.sigma[0] * t - data - p.rates @ radii - (rng.uniform(0.1, 1) if 0 in inactive else 0)
    p.alpha = p.alpha or 1.0
    return p, np.array([*mu, t])


def error_of(p, found, truth):
    """Multipliers relative to alpha, t to what the constraints leave."""
    return max(np.abs(found - truth)[:3].max() / p.alpha, abs(found[3] - truth[3]) / max(truth[3], 1e-3))


INACTIVE = [(), (0,), (1,), (2,), (1, 2), (0, 1), (0, 1, 2)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("violated", [True, False])
@pytest.mark.parametrize("inactive", INACTIVE, ids=str)
def test_multipliers_that_are_known(kernels, inactive, violated, dtype):
    """t > 0 or t = 0, every set of active rows; what Newton's method solves is right, and it seldom gives up."""
    if violated and len(inactive) == 3:
        pytest.skip("without multipliers there is no violation")
    solved = []
    for seed in range(20 if kernels is not ORACLE else 5):
        p, truth = designed(seed, dtype, violated, inactive)
        done, found = solve(kernels, p)
        solved.append(done)
        if done:
            assert error_of(p, found, truth) <= MULTIPLIER_TOLERANCE[np.dtype(dtype)]
            assert_optimal(p, found)
    assert np.mean(solved) >= (0.9 if kernels is not ORACLE else 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_multipliers_do_not_depend_on_the_start(kernels, dtype):
    solved = []
    for seed in range(10):
        p, truth = designed(seed, dtype, violated=seed % 2 == 0)
        top = p.penalties[1:] * [p.coefficients.max(), p.fields.max()]
        near = truth * np.random.default_rng(seed).uniform(0.8, 1.25, 4)
        for start in (truth, near, np.zeros(4), [p.alpha, *top, 0], [1e-9, 0, 0, 1e6], [1e9, *(2 * top), 1]):
            done, found = solve(kernels, p, start)
            solved.append(done)
            if done:
                assert error_of(p, found, truth) <= MULTIPLIER_TOLERANCE[np.dtype(dtype)]
    assert np.mean(solved) >= 0.8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("held", [1, 2])
def test_radii_held_at_zero(kernels, held, dtype):
    """The oracle finds radii of 0; the compiled Newton methods may leave them to it, but never answer wrongly."""
    for seed in range(10):
        p, truth = designed(seed, dtype, violated=True, held=held)
        assert np.count_nonzero(rows_of(p, truth)[2]) == 2 - held
        done, found = solve(kernels, p)
        if done:
            assert error_of(p, found, truth) <= MULTIPLIER_TOLERANCE[np.dtype(dtype)]
            assert_optimal(p, found)


def natural(seed, dtype=np.float64):
    """Centres near the norms, a constant near the data's misfit: a subproblem's iterates, answer unknown."""
    p = draw(seed, dtype)
    rng = p.rng
    p.centres = rng.uniform(0.2, 1.1, 2) * [excess(p.coefficients, 0), excess(p.fields, 0)]
    p.constant = -float(p.rates @ p.centres) - float(p.power.sum()) * rng.uniform(-0.2, 1.2)
    p.alpha = 10 ** rng.uniform(-1, 2)
    return p


@pytest.fixture(scope="module")
def natural_answers():
    """200 instances with the oracle's answers."""
    return [(p, solve(ORACLE, p)[1]) for p in map(natural, range(200))]


def test_newton_agrees_with_nested_roots(kernels, natural_answers):
    solved = []
    for p, expected in natural_answers:
        done, found = solve(kernels, p)
        solved.append(done)
        if done:
            assert error_of(p, found, expected) <= MULTIPLIER_TOLERANCE[np.dtype(np.float64)]
            assert_optimal(p, found)
    assert np.mean(solved) >= (0.9 if kernels is not ORACLE else 1)
    # both kinds, and not all of them at the ends
    violations = np.array([answer[3] for _, answer in natural_answers])
    assert 0.1 < np.mean(violations > 0) < 0.9


def test_single_precision_agrees_with_nested_roots(kernels, natural_answers):
    solved = []
    for seed, (_, expected) in enumerate(natural_answers[:60]):
        p = natural(seed, np.float32)
        done, found = solve(kernels, p)
        solved.append(done)
        if done:
            assert error_of(p, found, expected) <= MULTIPLIER_TOLERANCE[np.dtype(np.float32)]
            assert_optimal(p, found)
    assert np.mean(solved) >= (0.9 if kernels is not ORACLE else 1)


@pytest.mark.parametrize("case", ["t > 0", "t = 0", "radius 0"])
def test_multipliers_solve_the_block(kernels, case):
    """The block itself by an interior-point method: u, p, w, r and t of the convex program in mathematics.md 8."""
    cp = pytest.importorskip("cvxpy", reason="cvxpy (the test extra) is not installed")
    rng = np.random.default_rng(5)
    q, y, gram = rng.standard_normal(6), rng.standard_normal(6), np.array([0, 0.5, 1, 1, 0.5, 1])
    z = [2 * rng.standard_normal(9), 2 * rng.standard_normal(8)]
    p = SimpleNamespace(coefficients=np.abs(z[0]), fields=np.abs(z[1]), gram=gram, power=0.5 * gram * (q - y) ** 2)
    p.penalties, p.sigma, p.rates = np.array([1.5, 0.8, 1.2]), np.array([1, 0.7, 1.3]), np.array([0.3, 0.5])
    p.weights, p.centres = np.array([0.2, 0.4]), np.array([4.0, 3.0])
    p.constant, p.alpha = -3.0, 1.5
    if case == "t = 0":
        p.alpha = 20.0
    if case == "radius 0":
        p.centres, p.weights = np.array([4.0, -9.0]), np.array([0.2, 2.0])
    u, v, w, r, t = cp.Variable(9), cp.Variable(8), cp.Variable(6), cp.Variable(2), cp.Variable()
    objective = p.alpha * t + 0.5 * cp.sum(cp.multiply(p.weights, cp.square(r - p.centres)))
    for penalty, variable, point in zip(p.penalties, (w, u, v), (q, *z), strict=True):
        objective += 0.5 * penalty * cp.sum_squares(variable - point)
    misfit = 0.5 * cp.sum(cp.multiply(gram, cp.square(w - y)))
    rows = [misfit + p.constant + p.rates @ r, cp.norm1(u) - r[0], cp.norm1(v) - r[1]]
    constraints = [row <= scale * t for row, scale in zip(rows, p.sigma, strict=True)]
    cp.Problem(cp.Minimize(objective), [*constraints, r >= 0, t >= 0]).solve(solver=cp.CLARABEL)
    done, found = solve(kernels, p)
    if not done:
        assert case == "radius 0" and kernels is not ORACLE
        pytest.skip("Newton's method left a radius of 0 to the nested roots")
    assert_optimal(p, found)
    mu = found[:3]
    np.testing.assert_allclose(found[3], t.value, atol=1e-5)
    np.testing.assert_allclose(rows_of(p, found)[2], r.value, atol=1e-4)
    np.testing.assert_allclose(mu, [row.dual_value for row in constraints], atol=1e-4)
    np.testing.assert_allclose(y + (q - y) / (1 + mu[0] / p.penalties[0] * gram), w.value, atol=1e-4)
    for i, variable in ((1, u), (2, v)):
        soft = np.sign(z[i - 1]) * np.maximum(np.abs(z[i - 1]) - mu[i] / p.penalties[i], 0)
        np.testing.assert_allclose(soft, variable.value, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_magnitudes_in_any_number_of_threads(kernels, dtype):
    """Sums over several segments and images have the same bits, and the answer is that of the oracle."""
    rng = np.random.default_rng(3)
    p = designed(3, dtype, violated=True)[0]
    p.coefficients, p.fields = (rng.exponential(size=(2, 45, 101)).astype(dtype) for _ in range(2))
    p.gram = rng.choice([0, 0.5, 1], 4500).astype(dtype).reshape(45, 100)
    p.power = (0.1 * p.gram * rng.exponential(size=(2, 45, 100))).astype(dtype)
    p.centres = np.array([2000.0, 3000.0])
    p.constant = -float(p.rates @ p.centres) - 0.3 * float(p.power.sum())
    done, found = solve(kernels, p)
    assert done
    assert_optimal(p, found)
    assert error_of(p, found, solve(ORACLE, p)[1]) <= MULTIPLIER_TOLERANCE[np.dtype(dtype)]
    for threads in (2, 5) if kernels.name == "cython" else (2,):
        np.testing.assert_array_equal(solve(kernels, p, threads=threads)[1], found)


def test_a_stack_of_images_is_one_long_image(kernels):
    p, _ = designed(4, np.float64, violated=True)
    images = len(p.power)
    expected = solve(kernels, p)[1]
    p.power, p.gram = p.power.reshape(1, -1), np.tile(p.gram, images)
    np.testing.assert_allclose(solve(kernels, p)[1], expected, rtol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["power", "constant", "centres"])
def test_newton_gives_up_on_values_that_are_not_finite(kernels, name, value):
    skip_the_oracle(kernels)
    p, _ = designed(0, np.float64, violated=True)
    if name == "constant":
        p.constant = value
    else:
        getattr(p, name).flat[0] = value
    assert not solve(kernels, p, (1.0, 1.0, 1.0, 1e-3))[0]


# --- what is refused --------------------------------------------------------------------------

A = batch((4, 5), np.float64, 2, 2)
P = designed(0, np.float64, violated=True)[0]
TWO, M, SPECTRA = np.ones(2), np.empty((4, 4, 5)), np.ones((4, 4, 5), complex)


def fields(k, **changes):
    a = {"x": A.x, "q": A.q.copy(), "magnitudes": M, "thresholds": TWO, "dual_scales": TWO, "isotropic": True}
    k.update_fields(relaxation=1.0, **(a | changes))


def divergences(k, **changes):
    a = {"q": A.q, "thresholds": TWO, "weights": TWO, "isotropic": True, "out": np.empty_like(A.x)}
    k.field_divergences(**(a | changes))


def coefficients(k, **changes):
    a = {"t": A.t, "w": A.w.copy(), "magnitudes": M, "thresholds": TWO, "dual_scales": TWO}
    k.measure_coefficients(relaxation=1.0, **(a | changes))


def reflections(k, **changes):
    k.reflect_coefficients(**({"w": A.w, "thresholds": TWO, "weights": TWO, "out": np.empty_like(A.w)} | changes))


def balls(k, **changes):
    k.ball_thresholds(**({"magnitudes": M, "radii": TWO, "thresholds": TWO.copy()} | changes))


def spectra(k, **changes):
    k.spectrum_step(**({"r": SPECTRA.copy(), "linear": A.linear, "inverse": A.inverse} | changes))


def data(k, **changes):
    a = {"r": A.r.copy(), "z": A.z.copy(), "power": M, "base": A.base, "observed": A.observed, "gram": A.gram}
    k.data_step(**(a | {"inverse": A.inverse[0], "factor": A.factor} | STEP | changes))


def multipliers(k, **changes):
    a = {key: getattr(P, key) for key in KEYS} | {"start": (1.0, 1.0, 1.0, 0.0)}
    k.coupled_multipliers(**(a | changes))


def shared_coefficients(k):
    coefficients(k, w=A.t.copy(), t=A.t)  # equal values in arrays of their own are fine
    w = A.w.copy()
    coefficients(k, w=w, t=w)


def shared_reflections(k):
    w = A.w.copy()
    reflections(k, w=w, out=w)


READ_ONLY = np.empty((4, 4, 5))
READ_ONLY.flags.writeable = False
THREE, EMPTY = np.ones(3), np.empty((0, 4, 5))
REFUSED = {
    "images that K does not divide": lambda k: fields(k, thresholds=THREE, dual_scales=THREE),
    "divergences that K does not divide": lambda k: divergences(k, thresholds=THREE, weights=THREE),
    "coefficients that K does not divide": lambda k: coefficients(k, thresholds=THREE, dual_scales=THREE),
    "reflections that K does not divide": lambda k: reflections(k, thresholds=THREE, weights=THREE),
    "magnitudes that K does not divide": lambda k: balls(k, radii=THREE, thresholds=THREE.copy()),
    "spectra that K does not divide": lambda k: spectra(k, inverse=np.ones((3, 4, 5))),
    "no problems": lambda k: coefficients(k, thresholds=np.empty(0), dual_scales=np.empty(0)),
    "no images": lambda k: coefficients(k, t=EMPTY, w=EMPTY.copy(), magnitudes=EMPTY.copy()),
    "no magnitudes": lambda k: balls(k, magnitudes=EMPTY),
    "fewer scales": lambda k: fields(k, dual_scales=np.ones(1)),
    "fewer thresholds": lambda k: balls(k, thresholds=np.ones(1)),
    "thresholds of single precision": lambda k: fields(k, thresholds=TWO.astype("f4")),
    "found thresholds of single precision": lambda k: balls(k, thresholds=TWO.astype("f4")),
    "four spatial axes": lambda k: fields(
        k, x=A.x.reshape(4, 2, 2, 1, 5), q=np.ones((4, 4, 2, 2, 1, 5)), magnitudes=np.empty((4, 2, 2, 1, 5))
    ),
    "field of fewer components": lambda k: fields(k, q=np.ones((4, 1, 4, 5))),
    "field of another dtype": lambda k: divergences(k, q=A.q.astype("f4")),
    "complex field of a real image": lambda k: fields(k, q=A.q.astype(complex)),
    "magnitudes of pixels, anisotropic": lambda k: fields(k, isotropic=False),
    "magnitudes of another dtype": lambda k: coefficients(k, magnitudes=M.astype("f4")),
    "complex magnitudes": lambda k: coefficients(k, magnitudes=M.astype(complex)),
    "read-only field": lambda k: fields(k, q=A.q),
    "read-only magnitudes": lambda k: fields(k, magnitudes=READ_ONLY),
    "read-only divergence": lambda k: divergences(k, out=READ_ONLY),
    "read-only coefficients": lambda k: coefficients(k, w=A.w),
    "read-only thresholds": lambda k: balls(k, thresholds=A.thresholds),
    "strided coefficients": lambda k: coefficients(k, w=np.asfortranarray(A.w)),
    "coefficients in the place of the image's": shared_coefficients,
    "reflections in place": shared_reflections,
    "linear terms that do not fit": lambda k: spectra(k, linear=np.ones((3, 4, 5), complex)),
    "no linear term": lambda k: spectra(k, linear=EMPTY.astype(complex)),
    "complex diagonal": lambda k: spectra(k, inverse=A.inverse.astype(complex)),
    "diagonal of another size": lambda k: spectra(k, inverse=np.ones((2, 4, 6))),
    "read-only spectrum": lambda k: spectra(k, r=A.r),
    "gram of another size": lambda k: data(k, gram=np.ones((4, 6))),
    "diagonal for every image": lambda k: data(k, inverse=np.ones((4, 4, 5))),
    "read-only split": lambda k: data(k, z=A.z),
    "base of fewer images": lambda k: data(k, base=A.base[:2]),
    "power of another dtype": lambda k: data(k, power=M.astype("f4")),
    "power of part of an image": lambda k: multipliers(k, power=np.ones(P.gram.size + 1)),
    "fields of another dtype": lambda k: multipliers(k, fields=P.fields.astype("f4")),
    "strided power": lambda k: multipliers(k, power=np.ones((P.gram.size, 2))[:, 0]),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_compiled_kernels_refuse_what_they_cannot_read_or_write(kernels, call):
    if kernels is ORACLE:
        pytest.skip("the oracle takes any layout")
    with pytest.raises(ValueError):
        call(kernels)


def test_the_calls_that_are_refused_are_accepted_unchanged(kernels):
    for call in (fields, divergences, coefficients, reflections, balls, spectra, data, multipliers):
        call(kernels)
