"""The wavelet kernels of every backend against the NumPy oracle, PyWavelets, and the identities of a tight frame."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioperf.kernels import get_backend

ORACLE = get_backend("reference")
DTYPES = (np.float32, np.float64, np.complex64, np.complex128)
# Error of a result relative to its largest entry, sums included.
TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-14}
SUM_TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-13}
# batch, spatial shape, level: every dimension, the deepest levels, sizes around the vector widths
BASES = [
    ((), (2,), 1), ((), (64,), 6), ((3,), (24,), 3),
    ((), (2, 2), 1), ((), (32, 32), 5), ((2, 3), (8, 12), 2), ((), (4, 6), 1), ((), (16, 208), 4), ((1,), (72, 40), 3),
    ((), (2, 2, 2), 1), ((2,), (8, 4, 12), 2), ((), (8, 16, 72), 3),
]  # fmt: skip
# odd, prime and even sizes, 1 x n, n x 1, shifts that wrap around once and more
FRAMES = [
    ((), (1,), 1), ((), (13,), 4), ((3,), (2,), 3), ((2,), (300,), 2),
    ((), (1, 1), 1), ((), (1, 9), 4), ((), (9, 1), 4), ((), (7, 5), 3), ((2, 2), (4, 6), 1), ((), (16, 24), 4),
    ((), (37, 300), 3), ((), (3, 50), 6), ((2,), (64, 61), 6),
    ((), (1, 5, 1), 2), ((), (4, 3, 5), 3), ((2,), (5, 1, 7), 3), ((), (8, 9, 24), 2),
]  # fmt: skip
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_basis = pytest.mark.parametrize(("batch", "shape", "level"), BASES, ids=str)
every_frame = pytest.mark.parametrize(("batch", "shape", "level"), FRAMES, ids=str)


def random(shape, dtype, seed=0):
    rng = np.random.default_rng([seed, *shape])
    a = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        a = a + 1j * rng.standard_normal(shape)
    a = a.astype(dtype)
    a.flags.writeable = False
    return a


def assert_close(actual, expected, dtype, table=TOLERANCE):
    assert actual.dtype == dtype and actual.shape == expected.shape
    limit = table[np.empty(0, dtype).real.dtype] * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)


def bands(level, ndim):
    return (2**ndim - 1) * level + 1


def frame_forward(kernels, x, level, ndim, threads=1):
    spatial = x.shape[x.ndim - ndim :]
    out = np.full((*x.shape[: x.ndim - ndim], bands(level, ndim), *spatial), np.nan, x.dtype)
    kernels.frame_forward(x, level, ndim, out, threads=threads)
    return out


def frame_adjoint(kernels, c, level, ndim, threads=1):
    out = np.full((*c.shape[: c.ndim - ndim - 1], *c.shape[c.ndim - ndim :]), np.nan, c.dtype)
    kernels.frame_adjoint(c, level, ndim, out, threads=threads)
    return out


@pytest.fixture
def pywt():
    return pytest.importorskip("pywt", reason="PyWavelets is the reference")


def inner(a, b):
    return np.vdot(a.astype(np.complex128), b.astype(np.complex128))


# --- Haar basis -----------------------------------------------------------------------------


@every_dtype
@every_basis
def test_haar_is_that_of_pywavelets(kernels, pywt, batch, shape, level, dtype):
    x = random((*batch, *shape), dtype)
    axes = tuple(range(-len(shape), 0))
    levels = pywt.wavedecn(x, "haar", "periodization", level, axes=axes)
    expected = pywt.coeffs_to_array(levels, axes=axes)[0].astype(dtype)
    assert_close(kernels.haar_forward(x, level=level, ndim=len(shape)), expected, dtype)


@every_dtype
@every_basis
def test_haar_inverse_and_norm(kernels, batch, shape, level, dtype):
    x, d = (random((*batch, *shape), dtype, seed) for seed in (1, 2))
    c = kernels.haar_forward(x, level=level, ndim=len(shape))
    assert_close(kernels.haar_inverse(c, level=level, ndim=len(shape)), x, dtype)
    image = kernels.haar_inverse(d, level=level, ndim=len(shape))
    assert_close(image, ORACLE.haar_inverse(d, level=level, ndim=len(shape)), dtype)
    limit = 10 * TOLERANCE[x.real.dtype] * inner(x, x).real
    assert abs(inner(c, c) - inner(x, x)) <= limit
    assert abs(inner(d, c) - inner(image, x)) <= limit


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@every_basis
def test_haar_bits_do_not_depend_on_the_threads(kernels, batch, shape, level, dtype):
    x = random((*batch, *shape), dtype)
    for function in (kernels.haar_forward, kernels.haar_inverse):
        alone = function(x, level=level, ndim=len(shape), threads=1)
        np.testing.assert_array_equal(function(x, level=level, ndim=len(shape), threads=2), alone)


def test_haar_of_a_constant_and_of_a_checkerboard(kernels):
    """A constant has one coefficient, N times the value, and the checkerboard lives in the finest diagonal band."""
    for shape in ((8,), (8, 8), (8, 8, 8)):
        c = kernels.haar_forward(np.full(shape, 3.0), level=3, ndim=len(shape))
        assert c.flat[0] == pytest.approx(3 * np.sqrt(8 ** len(shape)))
        np.testing.assert_allclose(c.ravel()[1:], 0, atol=1e-14)
        board = (-1.0) ** np.indices(shape).sum(axis=0)
        fine = kernels.haar_forward(board, level=1, ndim=len(shape))
        diagonal = fine[(slice(4, None),) * len(shape)]
        np.testing.assert_allclose(diagonal, np.sqrt(2 ** len(shape)), rtol=1e-14)
        assert np.abs(fine).sum() == pytest.approx(np.abs(diagonal).sum())


@every_dtype
def test_haar_takes_any_layout_and_an_output(kernels, dtype):
    x = random((8, 12, 3), dtype)
    expected = kernels.haar_forward(np.ascontiguousarray(x.transpose(2, 0, 1)), level=2)
    np.testing.assert_array_equal(kernels.haar_forward(x.transpose(2, 0, 1), level=2), expected)
    np.testing.assert_array_equal(kernels.haar_forward(x.transpose(2, 0, 1)[:, ::-1][:, ::-1], level=2), expected)
    out = np.empty((3, 8, 12), dtype)
    assert kernels.haar_forward(x.transpose(2, 0, 1), level=2, out=out) is out
    np.testing.assert_array_equal(out, expected)


X = np.ones((8, 12))
REFUSED = {
    "integers": (TypeError, "float32", lambda k: k.haar_forward(X.astype(int), level=1)),
    "level too deep": (ValueError, "divisible by 8", lambda k: k.haar_forward(X, level=3)),
    "odd size": (ValueError, "divisible by 2", lambda k: k.haar_inverse(np.ones((7, 8)), level=1)),
    "level 0": (ValueError, "level", lambda k: k.haar_forward(X, level=0)),
    "level 2.0": (ValueError, "level", lambda k: k.haar_forward(X, level=2.0)),
    "too few axes": (ValueError, "ndim", lambda k: k.haar_forward(np.ones(8), level=1)),
    "out of another shape": (ValueError, "out", lambda k: k.haar_forward(X, level=1, out=np.empty((12, 8)))),
    "out of another dtype": (ValueError, "out", lambda k: k.haar_forward(X, level=1, out=np.empty((8, 12), "f4"))),
    "in place": (ValueError, "overlap", lambda k: in_place(k)),
    "threads": (ValueError, "threads", lambda k: k.haar_forward(X, level=1, threads=0)),
}


def in_place(kernels):
    x = np.ones((8, 12))
    return kernels.haar_forward(x, level=1, out=x)


@pytest.mark.parametrize(("error", "word", "call"), REFUSED.values(), ids=REFUSED)
def test_refused_by_the_checked_entry_points(kernels, error, word, call):
    with pytest.raises(error, match=word):
        call(kernels)


# --- undecimated frame ----------------------------------------------------------------------


@every_dtype
@every_frame
def test_frame_matches_oracle(kernels, batch, shape, level, dtype):
    ndim = len(shape)
    x = random((*batch, *shape), dtype)
    c = random((*batch, bands(level, ndim), *shape), dtype)
    assert_close(frame_forward(kernels, x, level, ndim), frame_forward(ORACLE, x, level, ndim), dtype)
    assert_close(frame_adjoint(kernels, c, level, ndim), frame_adjoint(ORACLE, c, level, ndim), dtype)


@every_frame
def test_frame_is_parseval(kernels, batch, shape, level):
    ndim = len(shape)
    x = random((*batch, *shape), np.complex128)
    c = frame_forward(kernels, x, level, ndim)
    d = random(c.shape, np.complex128)
    assert_close(frame_adjoint(kernels, c, level, ndim), x, x.dtype)
    assert inner(c, c).real == pytest.approx(inner(x, x).real, rel=1e-13)
    limit = 1e-13 * np.linalg.norm(d) * np.linalg.norm(x)
    assert abs(inner(d, c) - inner(frame_adjoint(kernels, d, level, ndim), x)) <= limit


@given(
    shape=st.lists(st.integers(1, 20), min_size=1, max_size=3), level=st.integers(1, 6), seed=st.integers(0, 2**32 - 1)
)
def test_frame_has_a_left_inverse_at_every_size(kernels, shape, level, seed):
    x = random(tuple(shape), np.float64, seed)
    assert_close(frame_adjoint(kernels, frame_forward(kernels, x, level, x.ndim), level, x.ndim), x, x.dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@every_frame
def test_frame_bits_do_not_depend_on_the_threads(kernels, batch, shape, level, dtype):
    ndim = len(shape)
    x = random((*batch, *shape), dtype)
    c = random((*batch, bands(level, ndim), *shape), dtype)
    forward, adjoint = frame_forward(kernels, x, level, ndim), frame_adjoint(kernels, c, level, ndim)
    np.testing.assert_array_equal(frame_forward(kernels, x, level, ndim, 2), forward)
    np.testing.assert_array_equal(frame_adjoint(kernels, c, level, ndim, 2), adjoint)
    if kernels.name == "cython":  # uneven blocks, some of them empty
        np.testing.assert_array_equal(frame_forward(kernels, x, level, ndim, 5), forward)
        np.testing.assert_array_equal(frame_adjoint(kernels, c, level, ndim, 5), adjoint)


def test_first_frame_level_by_hand(kernels):
    """Bands of one level in 2-D: low-low, low-high, high-low, high-high, the last axis second."""
    x = random((5, 6), np.float64)
    right, below = np.roll(x, -1, 1), np.roll(x, -1, 0)
    diagonal = np.roll(below, -1, 1)
    expected = np.stack(
        [
            x + right + below + diagonal,
            x - right + below - diagonal,
            x + right - below - diagonal,
            x - right - below + diagonal,
        ]
    )
    assert_close(frame_forward(kernels, x, 1, 2), expected / 4, np.float64)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_frame_is_the_stationary_transform_of_pywavelets(kernels, pywt, level):
    x = random((16, 24), np.float64)
    approximation, *details = pywt.swtn(x, "haar", level, norm=True, trim_approx=True)
    expected = [approximation, *(band[key] for band in details for key in ("ad", "da", "dd"))]
    assert_close(frame_forward(kernels, x, level, 2), np.stack(expected), np.float64)


# --- undecimated frame of a filter pair ------------------------------------------------------

TAPS = (4, 6, 8)


def filter_pair(taps, seed=0):
    """Random filters with |L|^2 + |H|^2 = 1: rotations of (L, H), H two taps further on each time."""
    low, high = np.ones(1), np.ones(1)
    for step, angle in enumerate(np.random.default_rng([seed, taps]).uniform(0, 2 * np.pi, taps // 2)):
        low, high = np.append(low, np.zeros(1 + (step > 0))), np.append(np.zeros(1 + (step > 0)), high)
        low, high = np.cos(angle) * low + np.sin(angle) * high, np.cos(angle) * high - np.sin(angle) * low
    return np.stack([low, high]) * np.sqrt(0.5)


def bank_forward(kernels, x, filters, level, ndim, threads=1):
    spatial = x.shape[x.ndim - ndim :]
    out = np.full((*x.shape[: x.ndim - ndim], bands(level, ndim), *spatial), np.nan, x.dtype)
    kernels.filter_bank_forward(x, filters, level, ndim, out, threads=threads)
    return out


def bank_adjoint(kernels, c, filters, level, ndim, threads=1):
    out = np.full((*c.shape[: c.ndim - ndim - 1], *c.shape[c.ndim - ndim :]), np.nan, c.dtype)
    kernels.filter_bank_adjoint(c, filters, level, ndim, out, threads=threads)
    return out


def test_filter_bank_by_definition(kernels):
    """Two levels along one axis: c[i] = sum_k f[k] a[i + k s], periodic, also where the taps reach around the axis."""
    filters = filter_pair(6)
    for n in (1, 2, 5, 20):
        x = random((n,), np.float64)

        def correlation(a, taps, shift, n=n):
            return np.array([sum(tap * a[(i + k * shift) % n] for k, tap in enumerate(taps)) for i in range(n)])

        low = correlation(x, filters[0], 1)
        expected = [*(correlation(low, taps, 2) for taps in filters), correlation(x, filters[1], 1)]
        assert_close(bank_forward(kernels, x, filters, 2, 1), np.stack(expected), x.dtype)


@every_dtype
@every_frame
def test_filter_bank_matches_oracle(kernels, batch, shape, level, dtype):
    ndim = len(shape)
    x = random((*batch, *shape), dtype)
    c = random((*batch, bands(level, ndim), *shape), dtype)
    for taps in TAPS:
        f = filter_pair(taps)
        assert_close(bank_forward(kernels, x, f, level, ndim), bank_forward(ORACLE, x, f, level, ndim), dtype)
        assert_close(bank_adjoint(kernels, c, f, level, ndim), bank_adjoint(ORACLE, c, f, level, ndim), dtype)


@every_frame
def test_filter_bank_is_parseval(kernels, batch, shape, level):
    ndim = len(shape)
    x = random((*batch, *shape), np.complex128)
    for taps in TAPS:
        f = filter_pair(taps)
        c = bank_forward(kernels, x, f, level, ndim)
        d = random(c.shape, np.complex128)
        assert_close(bank_adjoint(kernels, c, f, level, ndim), x, x.dtype)
        assert inner(c, c).real == pytest.approx(inner(x, x).real, rel=1e-13)
        limit = 1e-13 * np.linalg.norm(d) * np.linalg.norm(x)
        assert abs(inner(d, c) - inner(bank_adjoint(kernels, d, f, level, ndim), x)) <= limit


@given(
    shape=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    level=st.integers(1, 6),
    taps=st.sampled_from(TAPS),
    seed=st.integers(0, 2**32 - 1),
)
def test_filter_bank_has_a_left_inverse_at_every_size(shape, level, taps, seed):
    x, f = random(tuple(shape), np.float64, seed), filter_pair(taps, seed)
    kernels = get_backend()
    assert_close(bank_adjoint(kernels, bank_forward(kernels, x, f, level, x.ndim), f, level, x.ndim), x, x.dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@every_frame
def test_filter_bank_bits_do_not_depend_on_the_threads(kernels, batch, shape, level, dtype):
    ndim = len(shape)
    x = random((*batch, *shape), dtype)
    c = random((*batch, bands(level, ndim), *shape), dtype)
    for taps in TAPS:
        f = filter_pair(taps)
        forward, adjoint = bank_forward(kernels, x, f, level, ndim), bank_adjoint(kernels, c, f, level, ndim)
        for threads in (2, 5) if kernels.name == "cython" else (2,):
            np.testing.assert_array_equal(bank_forward(kernels, x, f, level, ndim, threads), forward)
            np.testing.assert_array_equal(bank_adjoint(kernels, c, f, level, ndim, threads), adjoint)


@every_frame
def test_haar_frame_is_the_filter_bank_of_two_taps(kernels, batch, shape, level):
    ndim = len(shape)
    x = random((*batch, *shape), np.float64)
    haar = np.array([[0.5, 0.5, 0, 0], [0.5, -0.5, 0, 0]])
    c = bank_forward(kernels, x, haar, level, ndim)
    assert_close(c, frame_forward(kernels, x, level, ndim), x.dtype)
    assert_close(bank_adjoint(kernels, c, haar, level, ndim), frame_adjoint(kernels, c, level, ndim), x.dtype)


@pytest.mark.parametrize("filters", [np.ones((2, 2)), np.ones((2, 5)), np.ones((2, 10)), np.ones((2, 4), "f4")])
def test_compiled_filter_bank_refuses_other_filters(filters):
    kernels = get_backend()
    if kernels.name != "cython":
        pytest.skip("only the compiled kernel is made for certain numbers of taps")
    with pytest.raises(ValueError):
        bank_forward(kernels, np.ones((8, 8)), filters, 1, 2)


# --- coefficients ---------------------------------------------------------------------------

UPDATE = {"relaxation": 1.4, "threshold": 0.5, "new_threshold": 0.3, "dual_scale": 0.9}
SHAPES = [(1,), (7,), (513,), (10, 13, 17), (9001,)]


every_weight = pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])


def some_weights(like, weighted=True):
    """None, or random weights of the coefficients' shape, some of them 0."""
    weights = np.maximum(random(like.shape, like.real.dtype, 9), 0)
    return weights if weighted else None


def update(kernels, t, w, threads=1, in_place=False, weights=None):
    w = w.copy()
    out = t.copy() if in_place else np.full(t.shape, np.nan, t.dtype)
    kernels.update_coefficients(out if in_place else t, w, **UPDATE, weights=weights, out=out, threads=threads)
    return w, out


def clip(kernels, w, threshold, threads=1, weights=None):
    out = np.full(w.shape, np.nan, w.dtype)
    kernels.clip_coefficients(w, threshold, weights, out, threads=threads)
    return out


@every_dtype
@every_weight
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_coefficients_match_oracle(kernels, shape, weighted, dtype):
    t, w = (random(shape, dtype, seed) for seed in (1, 2))
    weights = some_weights(w, weighted)
    results = (update(kernels, t, w, weights=weights), update(ORACLE, t, w, weights=weights))
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected, dtype)
    assert_close(clip(kernels, w, 0.5, weights=weights), clip(ORACLE, w, 0.5, weights=weights), dtype)
    sums, expected = (np.array(k.coefficient_status(t, w, 0.5, weights)) for k in (kernels, ORACLE))
    assert_close(sums, expected, np.float64, {np.dtype(np.float64): SUM_TOLERANCE[t.real.dtype]})


@every_dtype
@every_weight
def test_coefficient_bits_do_not_depend_on_the_threads_or_the_output(kernels, weighted, dtype):
    t, w = (random((3, 5000), dtype, seed) for seed in (1, 2))
    weights = some_weights(w, weighted)
    alone = update(kernels, t, w, weights=weights)
    for case in ({"threads": 2}, {"in_place": True}):
        for one, other in zip(update(kernels, t, w, weights=weights, **case), alone, strict=True):
            np.testing.assert_array_equal(one, other)
    status, other = (kernels.coefficient_status(t, w, 0.5, weights, threads=threads) for threads in (1, 2))
    assert status == other
    clipped, other = (clip(kernels, w, 0.5, threads, weights) for threads in (1, 2))
    np.testing.assert_array_equal(clipped, other)


@every_dtype
def test_each_weight_multiplies_its_own_threshold(kernels, dtype):
    """Entries of one weight are clipped as by the threshold times that weight; a weight of 0 leaves w itself."""
    t, w = (random((600,), dtype, seed) for seed in (1, 2))
    weights = np.repeat(np.array([0, 0.5, 2], w.real.dtype), 200)
    field, out = update(kernels, t, w, weights=weights)
    clipped = clip(kernels, w, 0.5, weights=weights)
    np.testing.assert_array_equal(clipped[:200], 0)
    for part, weight in ((slice(200), 0), (slice(200, 400), 0.5), (slice(400, 600), 2)):
        np.testing.assert_allclose(clipped[part], clip(kernels, w[part], 0.5 * weight), rtol=1e-6)
        assert (np.abs(clipped[part]) <= 0.5 * weight * (1 + 1e-6)).all()
        assert (np.abs(field[part] - out[part]) <= 2 * 0.3 * weight + 1e-6).all()
    plain, weighted = (kernels.coefficient_status(t, w, 0.5, case) for case in (None, np.full(600, 2, w.real.dtype)))
    assert weighted[0] == pytest.approx(2 * plain[0], rel=1e-6)
    assert weighted[1:] == pytest.approx(kernels.coefficient_status(t, w, 1.0, None)[1:], rel=1e-5)


@every_dtype
def test_update_is_the_split_with_a_multiplier(kernels, dtype):
    """v and c kept apart (mathematics.md 4b): h = a t + (1-a) v;  w = h + c;  c = w clipped to the new threshold."""
    t, w = (random((40,), dtype, seed) for seed in (1, 2))
    c = w * np.minimum(1, 0.5 / np.abs(w))
    new = 1.4 * t + (1 - 1.4) * (w - c) + 0.9 * c
    clipped = new * np.minimum(1, 0.3 / np.abs(new))
    for actual, expected in zip(update(kernels, t, w), (new, new - 2 * clipped), strict=True):
        assert_close(actual, expected, dtype)


def test_coefficients_at_the_threshold_exactly(kernels):
    w = np.array([-10, -5, -2.5, 0, 2.5, 5, 10])
    np.testing.assert_array_equal(clip(kernels, w, 5.0), [-5, -5, -2.5, 0, 2.5, 5, 5])
    np.testing.assert_array_equal(clip(kernels, w, 0.0), np.zeros(7))
    z = np.array([3 + 4j, -6 - 8j, 1.5 - 2j, 0, 5j])
    np.testing.assert_allclose(clip(kernels, z, 5.0), [3 + 4j, -3 - 4j, 1.5 - 2j, 0, 5j], rtol=1e-15)
    np.testing.assert_array_equal(clip(kernels, z, 0.0), np.zeros(5))


@every_dtype
def test_soft_threshold_is_what_the_clip_leaves(kernels, dtype):
    w = random((50,), dtype)
    real = w.real.copy()
    assert_close(real - clip(kernels, real, 0.4), kernels.soft_threshold(real, 0.4), real.dtype)
    shrunk = np.abs(w - clip(kernels, w, 0.4))
    assert_close(shrunk, np.maximum(np.abs(w) - 0.4, 0).astype(shrunk.dtype), shrunk.dtype)


@every_dtype
def test_nan_reaches_the_output(kernels, dtype):
    w = random((10,), dtype).copy()
    w[3] = np.nan
    t = np.ones(10, dtype)
    assert np.isnan(clip(kernels, w, 0.4)[3])
    assert all(np.isnan(a[3]) for a in update(kernels, t, w))
    assert np.isnan(kernels.coefficient_status(t, w, 0.4, None)[2])


STRIDED = np.asfortranarray(np.ones((4, 5)))
READ_ONLY = random((4, 5), np.float64)
OTHER = np.ones((4, 5), np.float32)
FIELD = np.ones((4, 5))
DB1 = np.array([[0.5, 0.5, 0, 0], [0.5, -0.5, 0, 0]])
REFUSED_FUSED = {
    "strided coefficients": lambda k: k.clip_coefficients(STRIDED, 0.4, None, np.empty((4, 5))),
    "read-only out": lambda k: k.clip_coefficients(FIELD, 0.4, None, READ_ONLY),
    "another dtype": lambda k: k.coefficient_status(FIELD, OTHER, 0.4, None),
    "read-only field": lambda k: k.update_coefficients(FIELD, READ_ONLY, **UPDATE, weights=None, out=np.empty((4, 5))),
    "weights of another dtype": lambda k: k.clip_coefficients(FIELD, 0.4, OTHER, np.empty((4, 5))),
    "complex weights": lambda k: k.coefficient_status(FIELD * 1j, FIELD * 1j, 0.4, FIELD * 1j),
    "weights of another size": lambda k: k.update_coefficients(
        FIELD, FIELD.copy(), **UPDATE, weights=np.ones(5), out=np.empty((4, 5))
    ),
    "bands of another size": lambda k: k.frame_forward(FIELD, 1, 2, np.empty((3, 4, 5))),
    "bands of another size, filters": lambda k: k.filter_bank_forward(FIELD, DB1, 1, 2, np.empty((3, 4, 5))),
    "image of another size, filters": lambda k: k.filter_bank_adjoint(np.ones((4, 4, 5)), DB1, 1, 2, np.empty((4, 6))),
    "image of another size": lambda k: k.frame_adjoint(np.ones((4, 4, 5)), 1, 2, np.empty((4, 6))),
    "image of another dtype": lambda k: k.frame_adjoint(np.ones((4, 4, 5)), 1, 2, OTHER.copy()),
}


@pytest.mark.parametrize("call", REFUSED_FUSED.values(), ids=REFUSED_FUSED)
def test_compiled_fused_kernels_refuse_what_they_cannot_write(kernels, call):
    if kernels is ORACLE:
        pytest.skip("the oracle takes any layout")
    with pytest.raises(ValueError):
        call(kernels)
