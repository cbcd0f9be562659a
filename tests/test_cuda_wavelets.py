"""The CUDA wavelet kernels against the NumPy oracle; without a GPU in Numba's simulator, on small shapes."""

import numpy as np
import pytest
import test_wavelet_kernels as wavelets

from bioperf.kernels import available_backends, get_backend

STATE = available_backends()["cuda"]
if STATE is not True:
    pytest.skip(f"cuda: {STATE}", allow_module_level=True)

from on_device import GPU, KINDS, OnDevice, first_kind  # noqa: E402

# Tests of the other backends that need nothing but a backend; they take the fixture ``kernels`` below.
from test_wavelet_kernels import (  # noqa: E402, F401
    test_coefficients_at_the_threshold_exactly,
    test_each_weight_multiplies_its_own_threshold,
    test_first_frame_level_by_hand,
    test_haar_of_a_constant_and_of_a_checkerboard,
    test_nan_reaches_the_output,
    test_soft_threshold_is_what_the_clip_leaves,
    test_update_is_the_split_with_a_multiplier,
)

ORACLE = wavelets.ORACLE
DTYPES = wavelets.DTYPES if GPU else (np.float32, np.float64, np.complex64)
# batch, spatial shape, level
BASES = wavelets.BASES if GPU else [
    ((), (2,), 1), ((3,), (8,), 3), ((3,), (4, 12), 2), ((), (6, 2), 1), ((), (2, 2, 2), 1), ((1,), (4, 8, 4), 2),
]  # fmt: skip
# odd and prime sizes, 1 x n, n x 1, shifts that wrap around once and more
FRAMES = wavelets.FRAMES if GPU else [
    ((), (1,), 1), ((3,), (13,), 3), ((), (1, 1), 1), ((), (1, 9), 2), ((3,), (9, 1), 2), ((), (5, 7), 3),
    ((1,), (1, 3, 2), 2), ((), (3, 2, 5), 2),
]  # fmt: skip
TAPS = (4, 6, 8)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_basis = pytest.mark.parametrize(("batch", "shape", "level"), BASES, ids=str)
every_frame = pytest.mark.parametrize(("batch", "shape", "level"), FRAMES, ids=str)


@pytest.fixture(scope="module")
def kernels():
    return OnDevice(first_kind())


@every_dtype
@every_basis
def test_haar_matches_oracle(kernels, batch, shape, level, dtype):
    x, ndim = wavelets.random((*batch, *shape), dtype), len(shape)
    for name in ("haar_forward", "haar_inverse"):
        found = getattr(kernels, name)(x, level=level, ndim=ndim)
        wavelets.assert_close(found, getattr(ORACLE, name)(x, level=level, ndim=ndim), dtype)


@every_dtype
@every_frame
def test_frame_matches_oracle(kernels, batch, shape, level, dtype):
    ndim = len(shape)
    x = wavelets.random((*batch, *shape), dtype)
    c = wavelets.random((*batch, wavelets.bands(level, ndim), *shape), dtype)
    for function, a in ((wavelets.frame_forward, x), (wavelets.frame_adjoint, c)):
        wavelets.assert_close(function(kernels, a, level, ndim), function(ORACLE, a, level, ndim), dtype)


# Complex images are real ones of twice the width: one shape is enough in the simulator.
BANKS = [(*frame, dtype) for frame in FRAMES for dtype in DTYPES if GPU or dtype != np.complex64 or frame[1] == (5, 7)]


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize(("batch", "shape", "level", "dtype"), BANKS)
def test_filter_bank_matches_oracle(kernels, batch, shape, level, dtype, taps):
    ndim, filters = len(shape), wavelets.filter_pair(taps)
    x = wavelets.random((*batch, *shape), dtype)
    c = wavelets.random((*batch, wavelets.bands(level, ndim), *shape), dtype)
    for function, a in ((wavelets.bank_forward, x), (wavelets.bank_adjoint, c)):
        found, expected = (function(k, a, filters, level, ndim) for k in (kernels, ORACLE))
        wavelets.assert_close(found, expected, dtype)


@pytest.mark.parametrize(("shape", "level"), [((12,), 2), ((4, 4), 2), ((2, 2, 2), 1)], ids=str)
def test_images_do_not_touch_each_other(kernels, shape, level):
    """A batch has the bits of each image alone."""
    ndim = len(shape)
    x = wavelets.random((3, *shape), np.float32)
    c = wavelets.random((3, wavelets.bands(level, ndim), *shape), np.float32)
    calls = [
        (lambda a: kernels.haar_forward(a, level=level, ndim=ndim), x),
        (lambda a: kernels.haar_inverse(a, level=level, ndim=ndim), x),
        (lambda a: wavelets.frame_forward(kernels, a, level, ndim), x),
        (lambda a: wavelets.frame_adjoint(kernels, a, level, ndim), c),
        (lambda a: wavelets.bank_forward(kernels, a, wavelets.filter_pair(4), level, ndim), x),
        (lambda a: wavelets.bank_adjoint(kernels, a, wavelets.filter_pair(4), level, ndim), c),
    ]
    for call, arrays in calls:
        together = call(arrays)
        for k in range(3):
            np.testing.assert_array_equal(call(arrays[k : k + 1])[0], together[k])


@pytest.mark.parametrize("filters", [np.ones((2, 3)), np.ones((2, 10)), np.ones((3, 4)), np.ones((2, 4), "f4")])
def test_other_filters_are_refused(kernels, filters):
    with pytest.raises(ValueError, match="filters"):
        wavelets.bank_forward(kernels, np.ones((4, 4)), filters, 1, 2)


# --- coefficients ---------------------------------------------------------------------------

SHAPES = wavelets.SHAPES if GPU else [(1,), (7,), (3, 5, 13)]


@every_dtype
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_coefficients_match_oracle(kernels, shape, weighted, dtype):
    wavelets.test_coefficients_match_oracle(kernels, shape, weighted, dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_update_into_its_own_transform(kind, dtype):
    kind, values = KINDS[kind](), [wavelets.random((40,), dtype, seed) for seed in (1, 2)]
    t, w = (kind.to_device(a) for a in values)
    get_backend("cuda").update_coefficients(t, w, **wavelets.UPDATE, weights=None, out=t)
    for found, expected in zip((w, t), wavelets.update(ORACLE, *values), strict=True):
        wavelets.assert_close(kind.to_host(found), expected, dtype)


@pytest.mark.parametrize("kind", list(KINDS)[1:])
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_every_kind_of_array(kind, dtype):
    kernels, ndim = OnDevice(KINDS[kind]()), 2
    x = wavelets.random((4, 8), dtype)
    c = wavelets.random((wavelets.bands(2, ndim), 4, 8), dtype)
    found = kernels.haar_forward(x, level=2)
    wavelets.assert_close(found, ORACLE.haar_forward(x, level=2), dtype)
    for function, a in ((wavelets.frame_forward, x), (wavelets.frame_adjoint, c)):
        wavelets.assert_close(function(kernels, a, 2, ndim), function(ORACLE, a, 2, ndim), dtype)
    wavelets.test_coefficients_match_oracle(kernels, (7,), True, dtype)


def test_status_of_nan_and_of_zeros(kernels):
    w = wavelets.random((9,), np.float32).copy()
    w[8] = np.nan
    assert np.isnan(kernels.coefficient_status(w, w, 0.5, None)).all()
    assert kernels.coefficient_status(np.zeros(9, "f4"), np.zeros(9, "f4"), 0.0, None) == (0.0,) * 6


REFUSED = {
    "weights of another size": lambda k: k.clip_coefficients(np.ones(4), 0.4, np.ones(5), np.ones(4)),
    "out of another size": lambda k: k.clip_coefficients(np.ones(4), 0.4, None, np.ones(5)),
    "field of another size": lambda k: k.coefficient_status(np.ones(4), np.ones(5), 0.4, None),
    "field of another dtype": lambda k: k.coefficient_status(np.ones(4), np.ones(4, "f4"), 0.4, None),
    "complex weights": lambda k: k.clip_coefficients(np.ones(4), 0.4, np.ones(4, complex), np.ones(4)),
    "bands of another size": lambda k: k.frame_forward(np.ones((4, 5)), 1, 2, np.empty((3, 4, 5))),
    "image of another size": lambda k: k.frame_adjoint(np.ones((4, 4, 5)), 1, 2, np.empty((4, 6))),
    "image of another dtype": lambda k: k.frame_adjoint(np.ones((4, 4, 5)), 1, 2, np.empty((4, 5), "f4")),
    "a host array": lambda k: k.kernels.clip_coefficients([1.0], 0.4, None, [1.0]),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_arrays_that_do_not_fit_are_refused(kernels, call):
    with pytest.raises((ValueError, TypeError)):
        call(kernels)
