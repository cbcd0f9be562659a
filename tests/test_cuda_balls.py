"""The CUDA kernels of TV + wavelet models against the oracle; without a GPU in Numba's simulator, on small shapes."""

from types import SimpleNamespace

import numpy as np
import pytest
import test_ball_kernels as balls

from bioperf.kernels import available_backends

STATE = available_backends()["cuda"]
if STATE is not True:
    pytest.skip(f"cuda: {STATE}", allow_module_level=True)

from on_device import GPU, KINDS, OnDevice, first_kind  # noqa: E402

# Tests of the other backends that need nothing but a backend; they take the fixture ``kernels`` below.
from test_ball_kernels import (  # noqa: E402, F401
    test_magnitudes_at_the_threshold_exactly,
    test_newton_gives_up_on_values_that_are_not_finite,
    test_the_calls_that_are_refused_are_accepted_unchanged,
)

ORACLE, REAL = balls.ORACLE, balls.DTYPES
SHAPES = balls.SHAPES if GPU else [(1,), (7,), (1, 9), (9, 1), (5, 7), (3, 2, 5)]
LAYOUTS = [[(1, 1), (3, 1)], [(1, 3), (2, 1)], [(2, 2)]]  # K problems of N / K images: a row for each shape in turn
every_case = pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(*case.values, dtype, id=f"{case.id}-{np.dtype(dtype).name}")
        for cases, dtypes in ((balls.IMAGE_CASES, balls.ALL_DTYPES if GPU else (*REAL, np.complex64)),
                              (balls.REAL_CASES, REAL))
        for case in cases
        for dtype in dtypes
    ],
)  # fmt: skip


@pytest.fixture(scope="module")
def kernels():
    return OnDevice(first_kind())


@every_case
def test_matches_oracle(kernels, case, dtype):
    for k, shape in enumerate(SHAPES):
        for layout in LAYOUTS[k % 3]:
            data = balls.batch(shape, dtype, *layout)
            balls.assert_close(case(kernels, data, 1), case(ORACLE, data, 1), dtype)


@every_case
def test_problems_do_not_touch_each_other(kernels, case, dtype):
    """K problems at once have the bits of each problem alone."""
    data = balls.batch((13, 17) if GPU else (3, 5), dtype, 3, 2)
    together = case(kernels, data, 1)
    for problem in range(3):
        one, part = SimpleNamespace(**vars(data)), slice(2 * problem, 2 * problem + 2)
        for name in ("x", "q", "t", "w", "r", "z", "base", "observed"):
            setattr(one, name, getattr(data, name)[part])
        # the data step belongs to one problem: all share its diagonal
        first = 0 if case is balls.data_step else problem
        one.inverse = data.inverse[first : first + 1]
        for name in ("thresholds", "scales", "weights", "radii"):
            setattr(one, name, getattr(data, name)[problem : problem + 1])
        for alone, stacked in zip(case(kernels, one, 1), together, strict=True):
            own = stacked[problem : problem + 1] if stacked.shape == (3,) else stacked[part]
            np.testing.assert_array_equal(alone, own, strict=True)


@every_case
def test_zeros_and_thresholds_of_zero(kernels, case, dtype):
    balls.test_zeros_and_thresholds_of_zero(kernels, case, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
@pytest.mark.parametrize("case", balls.IMAGE_CASES)
def test_nan_reaches_every_output(kernels, case, dtype):
    balls.test_nan_reaches_every_output(kernels, case, dtype)


@pytest.mark.parametrize("kind", list(KINDS)[1:])
@pytest.mark.parametrize("case", [*balls.IMAGE_CASES, *balls.REAL_CASES])
def test_every_kind_of_array(kind, case):
    data = balls.batch((3, 5), np.float32, 2, 2)
    balls.assert_close(case(OnDevice(KINDS[kind]()), data, 1), case(ORACLE, data, 1), np.float32)


# --- thresholds of l1 and l21 balls -----------------------------------------------------------


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("size", [1, 57] + [9001, 1 << 20] * GPU)
def test_threshold_by_brentq_from_any_start(kernels, size, dtype):
    """What the array holds only starts the search: below, above, absurd, the result is the same."""
    m = np.abs(np.random.default_rng(size).standard_normal((2, size))).astype(dtype)
    starts = np.array([-5, 0.5, 1e200, np.nan])
    radii = np.array([0.2, 1.5]) * [balls.excess(row, 0) for row in m]
    expected = balls.threshold_by_brentq(m[0], radii[0])
    thresholds = np.repeat(starts, 2)
    kernels.ball_thresholds(np.concatenate([m] * 4), np.tile(radii, 4), thresholds)
    limit = balls.THRESHOLD_TOLERANCE[np.dtype(dtype)] * m.max()
    np.testing.assert_allclose(thresholds[::2], expected, rtol=0, atol=limit)
    np.testing.assert_array_equal(thresholds[1::2], 0)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("start", [0.0, 3.0, np.nan])
def test_exact_radii_and_ties(kernels, start, dtype):
    balls.test_radius_zero_the_sphere_and_beyond(kernels, start, dtype)
    balls.test_ties_and_magnitudes_at_the_threshold(kernels, start, dtype)


@pytest.mark.parametrize("ratio", [1.01, 1.5, 4.0])
def test_wide_ranges_of_magnitudes(kernels, ratio):
    """A geometric sequence drops a few magnitudes a step: the passes do not suffice, and one block goes on."""
    m = ratio ** np.arange(0.0, 300 if ratio < 2 else 200)
    radii = np.array([1e-6, 1e-3, 1.0]) * m.max()
    expected = [balls.threshold_by_brentq(m, radius) for radius in radii]
    np.testing.assert_allclose(balls.find(kernels, np.stack([m] * 3), radii), expected, rtol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_search_ends_on_values_that_are_not_finite(kernels, value):
    m = np.ones((2, 50))
    m[0, 20] = value
    found = balls.find(kernels, m, [3.0, 10.0])
    assert found[1] == pytest.approx(0.8)
    assert balls.find(kernels, np.ones((1, 50)), [value]).shape == (1,)


# --- the three multipliers of the subproblem ----------------------------------------------------


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("violated", [True, False])
@pytest.mark.parametrize("inactive", [(), (0,), (1, 2)], ids=str)
def test_multipliers_that_are_known(kernels, inactive, violated, dtype):
    """t > 0 or t = 0, every kind of active rows; what Newton's method solves is right, and it seldom gives up."""
    solved = []
    for seed in range(20 if GPU else 1):
        p, truth = balls.designed(seed, dtype, violated, inactive)
        start = None if GPU else truth * np.random.default_rng(seed).uniform(0.8, 1.25, 4)
        done, found = balls.solve(kernels, p, None if start is None else tuple(start.tolist()))
        solved.append(done)
        if done:
            assert balls.error_of(p, found, truth) <= balls.MULTIPLIER_TOLERANCE[np.dtype(dtype)]
            balls.assert_optimal(p, found)
    assert np.mean(solved) >= (0.9 if GPU else 1)


@pytest.mark.parametrize("seed", range(100 if GPU else 2))
def test_newton_agrees_with_nested_roots(kernels, seed):
    p = balls.natural(seed)
    done, found = balls.solve(kernels, p)
    assert done
    assert balls.error_of(p, found, balls.solve(ORACLE, p)[1]) <= balls.MULTIPLIER_TOLERANCE[np.dtype(np.float64)]
    balls.assert_optimal(p, found)
    again = balls.solve(kernels, p)[1]
    np.testing.assert_array_equal(again, found)


@pytest.mark.skipif(not GPU, reason="80 steps that fail take long in the simulator")
@pytest.mark.parametrize("held", [1, 2])
def test_radii_held_at_zero_are_left_to_the_oracle_or_right(kernels, held):
    p, truth = balls.designed(1, np.float64, violated=True, held=held)
    done, found = balls.solve(kernels, p)
    if done:
        assert balls.error_of(p, found, truth) <= balls.MULTIPLIER_TOLERANCE[np.dtype(np.float64)]
    else:
        assert balls.solve(ORACLE, p)[0]


# --- what is refused --------------------------------------------------------------------------

# What only the host's arrays can be: a device array is never read-only, and the kernels work in place anywhere.
ONLY_ON_HOST = ("read-only", "strided", "coefficients in the place of", "reflections in place")
REFUSED = {name: call for name, call in balls.REFUSED.items() if not name.startswith(ONLY_ON_HOST)}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_arrays_that_do_not_fit_are_refused(kernels, call):
    with pytest.raises((ValueError, TypeError)):
        call(kernels)
