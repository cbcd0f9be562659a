"""Every kernel of every backend against the NumPy oracle, brute force and the defining inequalities."""

import inspect
import os
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import bioperf.kernels as package
from bioperf.kernels import available_backends, available_threads, get_backend, threads_for
from bioperf.kernels._threads import ELEMENTS_PER_THREAD

ORACLE = get_backend("reference")

# Error of a result relative to its largest entry, sums included.
TOLERANCE = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12}

DTYPES = (np.float32, np.float64)
COMPLEX = (np.complex64, np.complex128)
REAL_OF = {np.complex64: np.float32, np.complex128: np.float64}
# 1 x n, n x 1, odd, even and prime sizes; rows are cut at 256 and 512 elements, flat arrays at 4096.
SHAPES = [
    (1,), (2,), (7,), (256,), (4099,),
    (1, 9), (9, 1), (13, 17), (16, 12), (5, 257), (2, 512), (4, 1030),
    (1, 1, 5), (4, 1, 6), (4, 5, 6), (3, 7, 2), (2, 3, 600),
]  # fmt: skip
LARGE = [(9001,), (37, 1030), (5, 6, 261)]
FIELD_UPDATE = {"relaxation": 1.4, "threshold": 0.4}


def tolerance(dtype):
    return TOLERANCE[np.empty(0, dtype).real.dtype]


def assert_close(actual, expected, dtype):
    """Arrays and tuples of sums equal up to the tolerance of dtype, of the same types."""
    for one, other in zip(actual, expected, strict=True):
        if isinstance(other, np.ndarray):
            assert one.dtype == other.dtype and one.shape == other.shape
        else:
            assert all(type(value) is float for value in np.atleast_1d(np.array(one, object)))
        scale = max(1.0, float(np.max(np.abs(other))))
        np.testing.assert_allclose(one, other, rtol=tolerance(dtype), atol=tolerance(dtype) * scale)


def skip_long_compilation(kernels, dtype):
    if kernels.name == "numba" and dtype == np.complex128:
        pytest.skip("Numba takes 20 s to compile the complex loops for one precision; complex64 is tested")


def assert_same_bits(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def problem(shape, dtype, seed=0):
    """Read-only random data of every kernel; what a kernel updates in place is copied first."""
    rng = np.random.default_rng([seed, *shape])
    real, spectral = np.empty(0, dtype).real.dtype, np.result_type(dtype, np.complex64)
    half = (*shape[:-1], shape[-1] // 2 + 1)

    def field(*size):
        values = rng.standard_normal(size)
        return (values if real == dtype else values + 1j * rng.standard_normal(size)).astype(dtype)

    def spectrum():
        return (rng.standard_normal(half) + 1j * rng.standard_normal(half)).astype(spectral)

    data = SimpleNamespace(d=len(shape), x=field(*shape), q=field(len(shape), *shape))
    data.slack = [field(len(shape), *shape) for _ in range(5)]
    data.laplacian = tuple(
        (2 - 2 * np.cos(2 * np.pi * np.arange(m) / n)).astype(real) for m, n in zip(half, shape, strict=True)
    )
    data.copies = np.where((np.arange(half[-1]) == 0) | (2 * np.arange(half[-1]) == shape[-1]), 1, 2).astype(real)
    for name in ("r", "previous", "target", "transfer", "observed", "residual", "dual"):
        setattr(data, name, spectrum())
    data.denominator = np.abs(data.transfer) + real.type(0.1)
    if real != dtype:
        data.mask = (rng.random(shape) < 0.4).astype(real)
        for name in ("images", "maps", "coil_spectra", "coil_field"):
            setattr(data, name, field(3, *shape))
        data.coil_data = field(3, *shape) * data.mask
    for value in vars(data).values():
        for array in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
    return data


def update_field(k, a, isotropic, threads):
    q = a.q.copy()
    return q, k.update_field(a.x, q, **FIELD_UPDATE, dual_scale=0.9, isotropic=isotropic, trial=0.5, threads=threads)


def field_divergence(k, a, isotropic, threads):
    out = np.empty_like(a.x)
    k.field_divergence(a.q, 0.4, isotropic, 0.8, -1.9, out, threads=threads)
    return (out,)


def update_field_divergence(k, a, isotropic, threads):
    q, out = a.q.copy(), np.empty_like(a.x)
    k.update_field_divergence(a.x, q, **FIELD_UPDATE, new_threshold=0.3, isotropic=isotropic, out=out, threads=threads)
    return q, out


def field_status(k, a, isotropic, threads):
    return (k.field_status(a.x, a.q, 0.4, isotropic, threads=threads),)


def sum_above(k, a, isotropic, threads):
    return (k.sum_above(a.q, 0.4, isotropic, threads=threads),)


def project_field(k, a, isotropic, threads):
    project = k.project_l21_ball if isotropic else k.project_l1_ball
    threshold, radius = np.zeros(1), np.array([0.2 * a.x.size])
    return project(a.q[None], radius, threshold=threshold, threads=threads), threshold


def slack_update(k, a, threads):
    fields, out = [field.copy() for field in a.slack], np.empty_like(a.x)
    sums = k.slack_update(a.x, *fields, 0.3, 1.1, 0.2, out, threads=threads)
    return *fields, out, sums


def lower_spectrum(k, a, threads):
    r = a.r.copy()
    return r, k.lower_spectrum(r, a.transfer, a.observed, a.laplacian, 0.7, 0.1, a.copies, threads=threads)


def lower_kkt(k, a, threads):
    return (k.lower_kkt(a.r, a.dual, a.transfer, a.observed, 0.6, a.copies, threads=threads),)


def upper_spectrum(k, a, threads, previous=None, proximal=0.0):
    r, residual = a.r.copy(), a.residual.copy()
    weights = {"eta": 0.5, "shift": 0.8 + proximal, "field_penalty": 0.6, "data_penalty": 0.7, "proximal": proximal}
    weights |= {"relaxation": 1.4, "shrink": 0.3}
    sums = k.upper_spectrum(
        r,
        previous,
        a.target,
        a.transfer,
        a.observed,
        residual,
        a.laplacian,
        **weights,
        copies=a.copies,
        threads=threads,
    )
    return r, residual, sums


def upper_spectrum_proximal(k, a, threads):
    return upper_spectrum(k, a, threads, a.previous, 0.2)


def upper_dual(k, a, threads):
    return (k.upper_dual(a.dual, a.residual, a.target, a.transfer, a.observed, 0.6, 0.3, a.copies, threads=threads),)


def coil_images(k, a, threads):
    out = np.empty_like(a.maps)
    k.coil_images(a.x, a.maps, out, threads=threads)
    return (out,)


def coil_combine(k, a, threads):
    out = np.empty_like(a.x)
    k.coil_combine(a.images, a.maps, out, threads=threads)
    return (out,)


def coil_update(k, a, threads):
    field = a.coil_field.copy()
    sums = k.coil_update(a.coil_spectra, field, a.mask, a.coil_data, 0.8, 1.4, 0.3, threads=threads)
    return field, sums


def coil_pull(k, a, threads):
    out = np.empty_like(a.images)
    k.coil_pull(a.coil_field, a.mask, a.coil_data, 0.3, out, threads=threads)
    return (out,)


FIELD_CASES = (update_field, field_divergence, update_field_divergence, field_status, sum_above, project_field)
FUSED_CASES = (
    slack_update, lower_spectrum, lower_kkt, upper_spectrum, upper_spectrum_proximal, upper_dual,
)  # fmt: skip
# Checked entry points: name -> (kernels, data, further keywords) -> array
ENTRY_POINTS = {
    "gradient": lambda k, a, **kw: k.gradient(a.x, ndim=a.d, **kw),
    "gradient_adjoint": lambda k, a, **kw: k.gradient_adjoint(a.q, ndim=a.d, **kw),
    "soft_threshold": lambda k, a, **kw: k.soft_threshold(a.x, 0.4, **kw),
    "project_box": lambda k, a, **kw: k.project_box(a.x, -0.3, 0.6, **kw),
    "project_nonnegative": lambda k, a, **kw: k.project_nonnegative(a.x, **kw),
    "project_l2_ball": lambda k, a, **kw: k.project_l2_ball(a.x, 0.5, **kw),
    "project_l1_ball": lambda k, a, **kw: k.project_l1_ball(a.x, 0.6, **kw),
    "project_l21_ball": lambda k, a, **kw: k.project_l21_ball(a.q, 0.6, **kw),
    "rank_one_solve": lambda k, a, **kw: k.rank_one_solve(a.x, 1.3, 0.4, **kw),
    "spectral_divide": lambda k, a, **kw: k.spectral_divide(a.r, a.denominator, **kw),
}
ELEMENTWISE = [name for name in ENTRY_POINTS if not name.startswith("gradient")]


def entry_point_case(name):
    def case(k, a, threads):
        return (ENTRY_POINTS[name](k, a, threads=threads),)

    return case


def field_cases(cases):
    return (
        pytest.param(
            lambda k, a, threads, case=case, i=isotropic: case(k, a, i, threads), id=f"{case.__name__}-{label}"
        )
        for case in cases
        for isotropic, label in ((True, "isotropic"), (False, "anisotropic"))
    )


CASES = [
    *(pytest.param(entry_point_case(name), id=name) for name in ENTRY_POINTS),
    *(pytest.param(case, id=case.__name__) for case in FUSED_CASES),
    *field_cases(FIELD_CASES),
]
# Those of complex images
COMPLEX_CASES = [
    *(pytest.param(entry_point_case(name), id=name) for name in ("gradient", "gradient_adjoint")),
    *field_cases(case for case in FIELD_CASES if case is not project_field),
    *(pytest.param(case, id=case.__name__) for case in (coil_images, coil_combine, coil_update, coil_pull)),
]


# --- against the oracle ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_matches_oracle(kernels, case, shape, dtype):
    data = problem(shape, dtype)
    assert_close(case(kernels, data, 1), case(ORACLE, data, 1), dtype)


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("case", COMPLEX_CASES)
def test_complex_images_match_oracle(kernels, case, dtype):
    skip_long_compilation(kernels, dtype)
    for shape in SHAPES:
        data = problem(shape, dtype)
        assert_close(case(kernels, data, 1), case(ORACLE, data, 1), dtype)


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("case", COMPLEX_CASES)
def test_thread_count_does_not_change_the_bits_of_complex_images(kernels, case, dtype):
    skip_long_compilation(kernels, dtype)
    for shape in LARGE:
        data = problem(shape, dtype)
        alone = case(kernels, data, 1)
        assert_same_bits(case(kernels, data, 2), alone)
        assert_close(alone, case(ORACLE, data, 1), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_thread_count_does_not_change_the_bits(kernels, case, shape, dtype):
    data = problem(shape, dtype)
    alone = case(kernels, data, 1)
    assert_same_bits(case(kernels, data, 2), alone)
    assert_close(alone, case(ORACLE, data, 1), dtype)


@pytest.mark.parametrize("case", CASES)
def test_zeros(kernels, case):
    data = problem((6, 9), np.float64)
    for name in ("x", "q", "r", "residual", "dual"):
        setattr(data, name, np.zeros_like(getattr(data, name)))
    assert_close(case(kernels, data, 1), case(ORACLE, data, 1), np.float64)


@pytest.mark.parametrize("case", COMPLEX_CASES)
def test_complex_zeros(kernels, case):
    data = problem((6, 9), np.complex64)
    for name in ("x", "q", "images", "coil_spectra", "coil_field", "mask"):
        setattr(data, name, np.zeros_like(getattr(data, name)))
    assert_close(case(kernels, data, 1), case(ORACLE, data, 1), np.complex64)


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("shape", [(8,), (13, 17), (4, 5, 6)], ids=str)
@pytest.mark.parametrize("isotropic", [True, False])
def test_phase_of_a_complex_image(kernels, isotropic, shape, dtype):
    """A common phase turns the fields and leaves every sum: complex images do as real ones, without the oracle."""
    skip_long_compilation(kernels, dtype)
    data, turned = problem(shape, REAL_OF[dtype]), problem(shape, dtype)
    phase = np.exp(0.7j).astype(dtype)
    turned.x, turned.q = phase * data.x, phase * data.q
    for case in (update_field, field_divergence, update_field_divergence, field_status, sum_above):
        expected = [
            phase * value if isinstance(value, np.ndarray) else value for value in case(kernels, data, isotropic, 1)
        ]
        assert_close(case(kernels, turned, isotropic, 1), expected, dtype)


def test_same_signatures_on_every_backend(kernels):
    for name, function in inspect.getmembers(ORACLE.module, inspect.isfunction):
        if not name.startswith("_"):
            assert list(inspect.signature(getattr(kernels.module, name)).parameters) == list(
                inspect.signature(function).parameters
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isotropic", [True, False])
def test_fields_at_the_threshold_exactly(kernels, isotropic, dtype):
    """Magnitudes 0, 5 and 10 and threshold 5: a magnitude at the threshold is clipped to itself and not above it."""
    q = np.array([[0, 3, -4, 5, 0, 6, -8], [0, 4, 3, 0, -5, 8, 6]], dtype).reshape(2, 1, 7)
    assert kernels.sum_above(q, 5.0, isotropic) == ((20.0, 2.0) if isotropic else (28.0, 4.0))
    out = np.empty(q.shape[1:], dtype)
    kernels.field_divergence(q, 5.0, isotropic, 1.0, -1.0, out)
    above = q * (0.5 * (np.abs(q).max(axis=0) > 5)) if isotropic else np.sign(q) * np.maximum(np.abs(q) - 5, 0)
    np.testing.assert_array_equal(out, ORACLE.gradient_adjoint(above.astype(dtype)))


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("isotropic", [True, False])
def test_complex_fields_at_the_threshold_exactly(kernels, isotropic, dtype):
    skip_long_compilation(kernels, dtype)
    q = np.array([[0, 3, -4j, 5, 0, 6j, 3 - 4j], [0, 4j, 3, 0, -5j, 8, 0]], dtype).reshape(2, 1, 7)
    assert kernels.sum_above(q, 5.0, isotropic) == ((10.0, 1.0) if isotropic else (14.0, 2.0))
    out = np.empty(q.shape[1:], dtype)
    kernels.field_divergence(q, 5.0, isotropic, 1.0, -1.0, out)
    above = np.zeros_like(q)
    above[:, 0, 5] = (3j, 4) if isotropic else (1j, 3)
    np.testing.assert_allclose(
        out, ORACLE.gradient_adjoint(above), rtol=0, atol=1e-6 if dtype == np.complex64 else 1e-15
    )
    assert np.all(out[:, 2:4] == 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_maps_at_the_threshold_exactly(kernels, dtype):
    x = np.array([-2, -0.5, -0.25, 0, 0.25, 0.5, 2], dtype)
    np.testing.assert_array_equal(kernels.soft_threshold(x, 0.5), np.array([-1.5, 0, 0, 0, 0, 0, 1.5], dtype))
    np.testing.assert_array_equal(kernels.soft_threshold(x, 0.0), x)
    np.testing.assert_array_equal(kernels.project_box(x, -0.5, 0.25), np.clip(x, -0.5, 0.25))
    np.testing.assert_array_equal(kernels.project_box(x, 0.5, 0.5), np.full_like(x, 0.5))
    np.testing.assert_array_equal(kernels.project_nonnegative(x), np.array([0, 0, 0, 0, 0.25, 0.5, 2], dtype))


# --- layouts --------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["every other", "reversed", "transposed"])
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_non_contiguous_input(kernels, name, view):
    data = problem((6, 10), np.float32)
    plain = ENTRY_POINTS[name](kernels, data)
    for key in ("x", "q", "r", "denominator"):
        array = getattr(data, key)
        if view == "every other":
            array = np.repeat(array, 2, axis=-1)[..., ::2]
        elif view == "reversed":
            array = array[..., ::-1].copy()[..., ::-1]
        else:
            array = np.asfortranarray(array)
        assert not array.flags.c_contiguous
        setattr(data, key, array)
    assert_same_bits([ENTRY_POINTS[name](kernels, data)], [plain])


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_foreign_byte_order(kernels, name):
    """Files often hold big-endian numbers; their bits must not be taken for native ones."""
    data = problem((6, 10), np.float32)
    plain = ENTRY_POINTS[name](kernels, data)
    for key in ("x", "q", "r", "denominator"):
        array = getattr(data, key)
        setattr(data, key, array.astype(array.dtype.newbyteorder()))
    np.testing.assert_array_equal(ENTRY_POINTS[name](kernels, data), plain)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_out_is_written_and_returned(kernels, name):
    data = problem((6, 10), np.float64)
    plain = ENTRY_POINTS[name](kernels, data)
    out = np.full_like(plain, np.nan)
    assert ENTRY_POINTS[name](kernels, data, out=out) is out
    assert_same_bits([out], [plain])


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_in_place(kernels, name):
    data = problem((6, 10), np.float64)
    plain = ENTRY_POINTS[name](kernels, data)
    key = {"project_l21_ball": "q", "spectral_divide": "r"}.get(name, "x")
    own = getattr(data, key).copy()
    setattr(data, key, own)
    assert_same_bits([ENTRY_POINTS[name](kernels, data, out=own)], [plain])


# --- gradient -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*DTYPES, *COMPLEX])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_gradient_of_a_batch(kernels, ndim, dtype):
    skip_long_compilation(kernels, dtype)
    x = np.random.default_rng(1).standard_normal((2, 3, 5, 7)).astype(dtype)
    if dtype in COMPLEX:
        x = x + 1j * x[..., ::-1]
    p = kernels.gradient(x, ndim=ndim)
    assert p.shape == (*x.shape[:-ndim], ndim, *x.shape[-ndim:])
    for axis in range(ndim):
        component = np.take(p, axis, axis=-ndim - 1)
        np.testing.assert_array_equal(component, np.roll(x, -1, axis - ndim) - x)
    batch = np.stack([kernels.gradient_adjoint(item, ndim=ndim) for item in p])
    assert_same_bits([kernels.gradient_adjoint(p, ndim=ndim)], [batch])


@pytest.mark.parametrize("dtype", [*DTYPES, *COMPLEX])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_adjoint_identity(kernels, shape, dtype):
    skip_long_compilation(kernels, dtype)
    data = problem(shape, dtype)
    x, p = data.x, data.q
    left = np.vdot(kernels.gradient(x, ndim=x.ndim), p)
    right = np.vdot(x, kernels.gradient_adjoint(p, ndim=x.ndim))
    assert abs(left - right) <= tolerance(dtype) * np.sum(np.abs(p)) * np.abs(x).max()


# --- projections ----------------------------------------------------------------------------


def magnitudes(x, components):
    return np.sqrt(np.sum(np.square(x.astype(np.float64).reshape(components, -1)), axis=0))


def ball_threshold(magnitude, radius):
    """The root of sum(max(magnitude - theta, 0)) = radius by bisection."""
    low, high = 0.0, float(magnitude.max())
    if magnitude.sum() <= radius:
        return 0.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if np.maximum(magnitude - middle, 0).sum() > radius else (low, middle)
    return 0.5 * (low + high)


# name -> (shape of x, project(kernels, x, radius, **keywords), the ball's norm)
BALLS = {
    "l2": ((13, 17), lambda k, x, r, **kw: k.project_l2_ball(x, r), lambda x: np.linalg.norm(x.astype(np.float64))),
    "l1": ((13, 17), lambda k, x, r, **kw: k.project_l1_ball(x, r, **kw), lambda x: magnitudes(x, 1).sum()),
    "l1 long": ((9001,), lambda k, x, r, **kw: k.project_l1_ball(x, r, **kw), lambda x: magnitudes(x, 1).sum()),
} | {
    f"l21 d={d}": (
        (d, 13, 17),
        lambda k, x, r, **kw: k.project_l21_ball(x, r, **kw),
        lambda x, d=d: magnitudes(x, d).sum(),
    )
    for d in (1, 2, 3)
}
every_ball = pytest.mark.parametrize("ball", BALLS)
threshold_ball = pytest.mark.parametrize("ball", [name for name in BALLS if name != "l2"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fraction", [1e-3, 0.3, 0.999])
@every_ball
def test_ball_projection_is_the_nearest_feasible_point(kernels, ball, fraction, dtype):
    shape, project, norm = BALLS[ball]
    rng = np.random.default_rng(3)
    v = rng.standard_normal(shape).astype(dtype)
    radius = fraction * norm(v)
    p = project(kernels, v, radius)
    assert p.dtype == dtype
    assert norm(p) == pytest.approx(radius, rel=tolerance(dtype) * 10)
    for _ in range(20):
        z = rng.standard_normal(shape)
        z *= rng.uniform(0, 1) * radius / norm(z)
        slack = tolerance(dtype) * np.abs(v).max() * (norm(v) + radius)
        assert np.vdot(v.astype(np.float64) - p, z - p) <= slack
    again = project(kernels, p, radius)
    np.testing.assert_allclose(again, p, rtol=tolerance(dtype), atol=tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@threshold_ball
def test_ball_threshold_by_bisection_from_any_start(kernels, ball, dtype):
    """A threshold handed over only starts the search: from below, above or an absurd one, the result is the same."""
    shape, project, norm = BALLS[ball]
    components = shape[0] if ball.startswith("l21") else 1
    for seed, fraction in enumerate((1e-6, 0.05, 0.5, 0.9)):
        v = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
        radius = np.array([fraction * norm(v)])
        expected = ball_threshold(magnitudes(v, components), radius[0])
        cold = project(kernels, v[None], radius)
        for start in (0.0, -5.0, 0.3 * expected, expected, 1.001 * expected, 3 * expected, 1e200, np.inf):
            threshold = np.array([start])
            warm = project(kernels, v[None], radius, threshold=threshold)
            assert threshold[0] == pytest.approx(expected, rel=tolerance(dtype))
            np.testing.assert_allclose(warm, cold, rtol=tolerance(dtype), atol=tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@every_ball
def test_radius_zero_and_huge(kernels, ball, dtype):
    shape, project, norm = BALLS[ball]
    v = np.random.default_rng(4).standard_normal(shape).astype(dtype)
    np.testing.assert_allclose(project(kernels, v, 0.0), 0, atol=tolerance(dtype))
    for radius in (2 * norm(v), 1e300, np.inf):
        np.testing.assert_array_equal(project(kernels, v, radius), v)
    np.testing.assert_array_equal(project(kernels, np.zeros_like(v), 0.0), 0)


@pytest.mark.parametrize("dtype", DTYPES)
@threshold_ball
def test_magnitudes_all_equal(kernels, ball, dtype):
    shape, project, norm = BALLS[ball]
    v = np.full(shape, 0.1, dtype)
    radius = 0.5 * norm(v)
    np.testing.assert_allclose(project(kernels, v, radius), 0.5 * v, rtol=tolerance(dtype))
    np.testing.assert_allclose(project(kernels, v, 0.0), 0, atol=tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@every_ball
def test_batched_radius_equals_single_projections(kernels, ball, dtype):
    shape, project, norm = BALLS[ball]
    v = np.random.default_rng(5).standard_normal((3, *shape)).astype(dtype)
    radius = np.array([0.0, 0.4, 2.0]) * norm(v[0])
    batched = project(kernels, v, radius)
    single = np.concatenate([project(kernels, v[k : k + 1], radius[k : k + 1]) for k in range(3)])
    assert_same_bits([batched], [single])
    assert_same_bits(
        [project(kernels, v[:, None].repeat(2, axis=1), np.stack([radius, radius], axis=1))[:, 1]], [single]
    )


@threshold_ball
def test_scalar_radius_is_one_item(kernels, ball):
    shape, project, norm = BALLS[ball]
    v = np.random.default_rng(6).standard_normal(shape)
    threshold, expected = np.zeros(()), np.zeros(1)
    one = project(kernels, v[None], np.array([0.3 * norm(v)]), threshold=expected)[0]
    assert_same_bits([project(kernels, v, 0.3 * norm(v), threshold=threshold)], [one])
    assert threshold == expected[0] > 0


@every_ball
def test_read_only_radius(kernels, ball):
    shape, project, _ = BALLS[ball]
    v, radius = np.ones((2, *shape)), np.array([1.0, 2.0])
    radius.flags.writeable = False
    np.testing.assert_array_equal(project(kernels, v, radius), project(kernels, v, radius.copy()))


finite = st.floats(-1e3, 1e3)
vectors = arrays(np.float64, st.integers(1, 40), elements=finite)
pairs = st.integers(1, 40).flatmap(lambda n: st.tuples(*[arrays(np.float64, n, elements=finite)] * 2))


@given(v=vectors, radius=st.floats(0, 1e4))
def test_l1_projection_is_soft_thresholding_onto_the_ball(kernels, v, radius):
    threshold = np.zeros(1)
    p = kernels.project_l1_ball(v[None], [radius], threshold=threshold)[0]
    rounding = 1e-12 * np.abs(v).sum()
    assert np.abs(p).sum() == pytest.approx(min(radius, np.abs(v).sum()), abs=rounding)
    np.testing.assert_allclose(p, ORACLE.soft_threshold(v, threshold[0]), rtol=0, atol=1e-15)


@given(pair=pairs, radius=st.floats(0, 1e3))
def test_projections_are_nonexpansive(kernels, pair, radius):
    for project in (
        lambda v: kernels.project_l1_ball(v, radius),
        lambda v: kernels.project_l2_ball(v, radius),
        lambda v: kernels.project_box(v, -radius, radius / 2),
        kernels.project_nonnegative,
    ):
        a, b = (project(v) for v in pair)
        assert np.linalg.norm(a - b) <= np.linalg.norm(pair[0] - pair[1]) + 1e-10


@given(pair=pairs, threshold=st.floats(0, 1e3))
def test_soft_threshold_minimises_its_prox_objective(kernels, pair, threshold):
    x, z = pair

    def objective(u):
        return 0.5 * (u - x) ** 2 + threshold * np.abs(u)

    p = kernels.soft_threshold(x, threshold)
    assert np.all(objective(p) <= objective(z) + 1e-9)
    assert np.all(objective(p) <= objective(p + 1e-3) + 1e-9)
    assert np.all(objective(p) <= objective(p - 1e-3) + 1e-9)


# --- solves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 7, 50])
@pytest.mark.parametrize(("diagonal", "rank_one"), [(1.3, 0.0), (0.2, 1.7), (5.0, 0.01)])
def test_rank_one_solve(kernels, n, diagonal, rank_one, dtype):
    c = np.random.default_rng(7).standard_normal(n).astype(dtype)
    dense = diagonal * np.eye(n) + rank_one * np.ones((n, n))
    assert_close([kernels.rank_one_solve(c, diagonal, rank_one)], [np.linalg.solve(dense, c).astype(dtype)], dtype)


def test_spectral_divide_inverts_a_periodic_filter(kernels):
    data = problem((12, 15), np.float64)
    laplacian = data.laplacian[0][:, None] + data.laplacian[1]
    image = np.fft.irfft2(kernels.spectral_divide(np.fft.rfft2(data.x), 1 + laplacian), s=data.x.shape)
    restored = image + kernels.gradient_adjoint(kernels.gradient(image))
    assert_close([restored], [data.x], np.float64)


def test_lower_spectrum_solves_the_normal_equations(kernels):
    """grad^T grad has the outer sum of the axes' arrays as its diagonal, and sums are over the full spectrum."""
    data = problem((6, 8), np.float64)
    r = data.r.copy()
    square = kernels.lower_spectrum(r, data.transfer, data.observed, data.laplacian, 0.7, 0.2, data.copies)
    laplacian = data.laplacian[0][:, None] + data.laplacian[1]
    normal = (np.abs(data.transfer) ** 2 + 0.7 * laplacian + 0.2) * r
    assert_close([normal], [np.conj(data.transfer) * data.observed + 0.7 * data.r], np.float64)
    residual = np.abs(data.transfer * r - data.observed) ** 2
    assert square == pytest.approx(np.sum(residual[:, 0]) + 2 * np.sum(residual[:, 1:4]) + np.sum(residual[:, 4]))


def complex_problem(shape, dtype):
    """``problem`` for a complex image: full spectra, each coefficient once."""
    data, full = problem(shape, dtype), problem((*shape[:-1], 2 * shape[-1] - 1), dtype, seed=1)
    for name in ("r", "previous", "target", "transfer", "observed", "residual", "dual"):
        setattr(data, name, getattr(full, name))
    data.laplacian = tuple((2 - 2 * np.cos(2 * np.pi * np.arange(n) / n)).astype(dtype) for n in shape)
    data.copies = np.ones(shape[-1], dtype)
    return data


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [lower_spectrum, lower_kkt, upper_spectrum, upper_spectrum_proximal, upper_dual])
def test_full_spectra(kernels, case, dtype):
    for shape in SHAPES:
        data = complex_problem(shape, dtype)
        assert data.r.shape == shape
        assert_close(case(kernels, data, 1), case(ORACLE, data, 1), dtype)


def test_full_spectrum_of_a_complex_image(kernels):
    """The x-update in the Fourier domain is the solution of its normal equations in the image domain."""
    data = complex_problem((5, 8), np.float64)
    rhs = np.fft.ifft2(data.r)
    r = data.r.copy()
    kernels.lower_spectrum(r, data.transfer, data.observed, data.laplacian, 0.7, 0.2, data.copies)
    x = np.fft.ifft2(r)
    blurred = np.fft.ifft2(np.abs(data.transfer) ** 2 * np.fft.fft2(x))
    rough = sum(2 * x - np.roll(x, 1, axis) - np.roll(x, -1, axis) for axis in (0, 1))
    expected = np.fft.ifft2(np.conj(data.transfer) * data.observed) + 0.7 * rhs
    assert_close([blurred + 0.7 * rough + 0.2 * x], [expected], np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_frequencies_that_nothing_determines_are_zero(kernels, dtype):
    """A mask without the mean leaves the mean to the shift; without one it is 0, and nothing else changes."""
    data = complex_problem((4, 7), dtype)
    transfer = data.transfer.copy()
    transfer[0, 0] = 0
    r = data.r.copy()
    square = kernels.lower_spectrum(r, transfer, data.observed, data.laplacian, 0.7, 0.0, data.copies)
    assert r[0, 0] == 0 and np.all(r.ravel()[1:] != 0) and np.isfinite(square)
    expected = data.r.copy()
    ORACLE.lower_spectrum(expected, transfer, data.observed, data.laplacian, 0.7, 0.0, data.copies)
    assert_close([r], [expected], dtype)
    weights = {"field_penalty": 0.6, "data_penalty": 0.7, "proximal": 0.0, "relaxation": 1.4, "shrink": 0.3}
    results = []
    for k in (kernels, ORACLE):
        r, residual = data.r.copy(), data.residual.copy()
        spectra = r, None, data.target, transfer, data.observed, residual, data.laplacian
        sums = k.upper_spectrum(*spectra, 0.0, 0.0, copies=data.copies, **weights)
        results.append((r, residual, sums))
    assert results[0][0][0, 0] == 0 and np.all(results[0][0].ravel()[1:] != 0)
    assert_close(*results, dtype)


# --- multi-coil images ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", COMPLEX)
def test_coils_adjoint_identity(kernels, dtype):
    skip_long_compilation(kernels, dtype)
    data = problem((13, 17), dtype)
    (images,), (combined,) = coil_images(kernels, data, 1), coil_combine(kernels, data, 1)
    left, right = np.vdot(images, data.images), np.vdot(data.x, combined)
    assert abs(left - right) <= tolerance(dtype) * np.sum(np.abs(images * data.images))


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("radius", [0.0, 2.0, 1e6])
def test_coil_update_is_a_step_of_admm(kernels, radius, dtype):
    """The field is q - data: q <- a S + (1 - a) p + u, u = q - p, p the q in the ball about the sampled data."""
    skip_long_compilation(kernels, dtype)
    data = problem((13, 17), dtype)
    a, mask = 1.4, data.mask != 0

    def project(q):
        p, distance = q.copy(), np.linalg.norm((q - data.coil_data)[:, mask])
        p[:, mask] = (data.coil_data + min(1, radius / distance) * (q - data.coil_data))[:, mask]
        return p, min(1, radius / distance)

    q = data.coil_field + data.coil_data
    p, shrink = project(q)
    expected = a * data.coil_spectra + (1 - a) * p + (q - p)
    field = data.coil_field.copy()
    square, misfit = kernels.coil_update(data.coil_spectra, field, data.mask, data.coil_data, 1.0, a, shrink)
    assert_close([field], [expected - data.coil_data], dtype)
    assert square == pytest.approx(np.linalg.norm(field[:, mask]) ** 2, rel=tolerance(dtype))
    misfits = (data.coil_spectra - data.coil_data)[:, mask]
    assert misfit == pytest.approx(np.linalg.norm(misfits) ** 2, rel=tolerance(dtype))
    # What the image update is drawn to: p - u = 2 p - q
    p, shrink = project(field + data.coil_data)
    out = np.empty_like(field)
    kernels.coil_pull(field, data.mask, data.coil_data, shrink, out)
    assert_close([out], [2 * p - field - data.coil_data], dtype)


def test_unsampled_coefficients_stay_out_of_the_sums(kernels):
    data = problem((4, 9), np.complex64)
    spectra = np.where(data.mask == 0, np.nan, data.coil_spectra)
    field = data.coil_field.copy()
    sums = kernels.coil_update(spectra, field, data.mask, data.coil_data, 0.8, 1.4, 0.3)
    assert_close([sums], [coil_update(ORACLE, data, 1)[1]], np.complex64)
    assert np.isnan(field[:, data.mask == 0]).all() and np.isfinite(field[:, data.mask == 1]).all()


# --- NaN ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_nan_reaches_the_output(kernels, name, dtype):
    data = problem((6, 10), dtype)
    for key in ("x", "q", "r"):
        array = getattr(data, key).copy()
        array[..., 2, 3] = np.nan
        setattr(data, key, array)
    assert np.any(np.isnan(ENTRY_POINTS[name](kernels, data)))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@every_ball
def test_balls_end_on_values_that_are_not_finite(kernels, ball, value):
    shape, project, _ = BALLS[ball]
    v = np.random.default_rng(8).standard_normal((1, *shape))
    v[..., -1] = value
    assert not np.all(np.isfinite(project(kernels, v, np.array([0.5]))))


@pytest.mark.parametrize("isotropic", [True, False])
def test_nan_reaches_the_sums(kernels, isotropic):
    data = problem((6, 10), np.float64)
    data.x = data.x.copy()
    data.x[2, 3] = np.nan
    q, sums = update_field(kernels, data, isotropic, 1)
    assert np.isnan(q).any() and np.isnan(sums[0])
    assert np.isnan(field_status(kernels, data, isotropic, 1)[0][0])
    assert np.isnan(slack_update(kernels, data, 1)[-1]).all()


# --- what is refused ------------------------------------------------------------------------

X, Q, Z = np.ones((4, 5)), np.ones((2, 4, 5)), np.ones(3, complex)
A = problem((4, 5), np.float64)
C = problem((4, 5), np.complex128)
READ_ONLY = np.empty((4, 5))
READ_ONLY.flags.writeable = False
REFUSED = [
    ("integers", TypeError, "float32 or float64", lambda k: k.gradient(np.ones((4, 5), int))),
    ("half precision", TypeError, "float32 or float64", lambda k: k.soft_threshold(X.astype(np.float16), 1.0)),
    ("complex image", TypeError, "float32 or float64", lambda k: k.project_nonnegative(Z)),
    ("complex field", TypeError, "float32 or float64", lambda k: k.project_l21_ball(Q.astype(complex), 1.0)),
    ("extended precision", TypeError, "complex64", lambda k: k.gradient(np.ones((4, 5), np.clongdouble))),
    (
        "complex gradient into real",
        ValueError,
        "dtype",
        lambda k: k.gradient(X.astype(complex), out=np.empty((2, 4, 5))),
    ),
    ("empty", ValueError, "empty", lambda k: k.soft_threshold(np.empty((0, 3)), 1.0)),
    ("too few axes", ValueError, "ndim", lambda k: k.gradient(np.ones(4), ndim=2)),
    ("4 axes", ValueError, "ndim", lambda k: k.gradient(np.ones((2, 2, 2, 2)), ndim=4)),
    ("components", ValueError, "components", lambda k: k.gradient_adjoint(np.ones((3, 4, 5)))),
    ("4 components", ValueError, "components", lambda k: k.project_l21_ball(np.ones((1, 4, 5)), np.ones(1))),
    ("out of wrong shape", ValueError, "out", lambda k: k.gradient(X, out=np.empty((4, 5)))),
    ("out of wrong dtype", ValueError, "dtype", lambda k: k.soft_threshold(X, 1.0, out=X.astype(np.float32))),
    ("out a list", ValueError, "out", lambda k: k.soft_threshold(X, 1.0, out=[1.0])),
    ("out read-only", ValueError, "writable", lambda k: k.soft_threshold(X, 1.0, out=READ_ONLY)),
    ("out strided", ValueError, "contiguous", lambda k: k.soft_threshold(X, 1.0, out=np.empty((5, 4)).T)),
    ("negative radius", ValueError, "radius", lambda k: k.project_l1_ball(X, -1.0)),
    ("NaN radius", ValueError, "radius", lambda k: k.project_l2_ball(X, np.nan)),
    ("one negative radius", ValueError, "radius", lambda k: k.project_l21_ball(Q[None], np.array([-1.0]))),
    ("radius of wrong shape", ValueError, "radius", lambda k: k.project_l1_ball(X, np.ones(3))),
    ("start a list", ValueError, "threshold", lambda k: k.project_l1_ball(X, np.ones(4), threshold=[0.0] * 4)),
    ("start float32", ValueError, "threshold", lambda k: k.project_l1_ball(X, np.ones(4), threshold=np.zeros(4, "f4"))),
    ("negative threshold", ValueError, "threshold", lambda k: k.soft_threshold(X, -1e-9)),
    ("NaN threshold", ValueError, "threshold", lambda k: k.soft_threshold(X, np.nan)),
    ("lower above upper", ValueError, "lower", lambda k: k.project_box(X, 1.0, 0.5)),
    ("NaN bound", ValueError, "lower", lambda k: k.project_box(X, np.nan, 1.0)),
    ("singular system", ValueError, "diagonal", lambda k: k.rank_one_solve(X, 0.0, 1.0)),
    ("negative rank one", ValueError, "rank_one", lambda k: k.rank_one_solve(X, 1.0, -1.0)),
    ("real spectrum", TypeError, "complex64", lambda k: k.spectral_divide(X, X)),
    ("denominator", ValueError, "denominator", lambda k: k.spectral_divide(Z, np.ones(2))),
]


@pytest.mark.parametrize(("error", "word", "call"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_refused_by_the_checked_entry_points(kernels, error, word, call):
    with pytest.raises(error, match=word) as caught:
        call(kernels)
    assert caught.type is error


STRIDED = np.asfortranarray(np.ones((2, 4, 5)))
REFUSED_FUSED = {
    "field of another dtype": lambda k: k.update_field(
        X, Q.astype(np.float32), **FIELD_UPDATE, dual_scale=0.9, isotropic=True, trial=0
    ),
    "field of another size": lambda k: k.update_field(
        X, np.ones((1, 4, 5)), **FIELD_UPDATE, dual_scale=0.9, isotropic=True, trial=0
    ),
    "real field of a complex image": lambda k: k.update_field(
        X.astype(complex), Q, **FIELD_UPDATE, dual_scale=0.9, isotropic=True, trial=0
    ),
    "complex field of a real image": lambda k: k.field_status(X, Q.astype(complex), 0.4, True),
    "real out of a complex field": lambda k: k.field_divergence(
        Q.astype(complex), 0.4, True, 1.0, -1.0, np.empty((4, 5))
    ),
    "maps of another precision": lambda k: k.coil_images(C.x, C.maps.astype("c8"), np.empty_like(C.maps)),
    "images of fewer coils": lambda k: k.coil_combine(C.images[:2], C.maps, np.empty_like(C.x)),
    "read-only coil field": lambda k: k.coil_update(C.coil_spectra, C.coil_field, C.mask, C.coil_data, 1.0, 1.0, 1.0),
    "mask of another precision": lambda k: k.coil_pull(
        C.coil_field, C.mask.astype("f4"), C.coil_data, 1.0, np.empty_like(C.coil_field)
    ),
    "out of fewer coils": lambda k: k.coil_pull(
        C.coil_field, C.mask, C.coil_data, 1.0, np.empty_like(C.coil_field[:2])
    ),
    "strided field": lambda k: k.update_field(X, STRIDED, **FIELD_UPDATE, dual_scale=0.9, isotropic=True, trial=0),
    "read-only out": lambda k: k.field_divergence(Q, 0.4, True, 1.0, -1.0, READ_ONLY),
    "read-only spectrum": lambda k: k.lower_spectrum(A.r, A.transfer, A.observed, A.laplacian, 0.7, 0.0, A.copies),
    "strided slacks": lambda k: k.slack_update(X, STRIDED, *[np.ones((2, 4, 5))] * 4, 0.0, 1.0, 0.0, np.empty((4, 5))),
}


@pytest.mark.parametrize("call", REFUSED_FUSED.values(), ids=REFUSED_FUSED)
def test_compiled_fused_updates_refuse_what_they_cannot_write(kernels, call):
    if kernels is ORACLE:
        pytest.skip("the oracle takes any layout")
    with pytest.raises(ValueError):
        call(kernels)


# --- choice of the backend and the threads --------------------------------------------------


def test_backend_by_name():
    state = available_backends()
    assert state["reference"] is True and (state["cuda"] is True or "bioperf[cuda]" in state["cuda"])
    assert get_backend().name == next(name for name in state if state[name] is True)
    assert get_backend("reference") is ORACLE and "reference" in repr(ORACLE)


def test_unknown_and_missing_backends(monkeypatch):
    with pytest.raises(ValueError, match="unknown backend 'fortran'"):
        get_backend("fortran")
    monkeypatch.setattr(package, "_load", lambda name: "no driver")
    monkeypatch.setattr(package, "_backend", package._backend.__wrapped__)
    for choice in ({"name": "cuda"}, {"like": SimpleNamespace(__cuda_array_interface__={})}):
        with pytest.raises(ImportError, match="'cuda' is not available: no driver"):
            get_backend(**choice)


def test_slower_backend_never_replaces_a_named_one(monkeypatch):
    load = package._load
    monkeypatch.setattr(package, "_load", lambda name: "no compiler" if name == "cython" else load(name))
    assert package._auto.__wrapped__().name in ("numba", "reference")
    with pytest.raises(ImportError, match="no compiler"):
        package._backend.__wrapped__("cython")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [(None, 4), ("", 4), ("1", 1), ("3", 3), ("64", 4), ("0", 4), ("-2", 4), ("many", 4), ("2,4", 2)],
)
def test_available_threads(monkeypatch, setting, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    if setting is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert available_threads() == expected


def test_available_threads_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_threads() == 1


def test_threads_for(monkeypatch):
    monkeypatch.setattr("bioperf.kernels._threads.available_threads", lambda: 4)
    share = ELEMENTS_PER_THREAD
    assert [threads_for(n) for n in (1, share, 2 * share, 3 * share + 1, 100 * share)] == [1, 1, 2, 3, 4]
    assert [threads_for(100 * share, limit) for limit in (1, 2, 8, None)] == [1, 2, 8, 4]


def test_numba_thread_setting_is_left_alone():
    if available_backends()["numba"] is not True:
        pytest.skip(f"numba: {available_backends()['numba']}")
    import numba

    before = numba.get_num_threads()
    get_backend("numba").soft_threshold(X, 1.0, threads=1)
    assert numba.get_num_threads() == before
