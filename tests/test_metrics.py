"""Quality measures by hand and against scikit-image, the noise estimate, and the frame of a photograph."""

import itertools

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from bioperf import Blur, estimate_noise, nre, psnr, rlne, solve_lower, ssim
from bioperf.boundary import extend_periodically, fill_margin

DTYPES = (np.float32, np.float64)
# Relative error of a measure.
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def scene(shape, seed=1):
    """Boxes of random height on a slope, in [0, 1]."""
    rng = np.random.default_rng(seed)
    x = np.zeros(shape)
    for _ in range(12):
        start = [rng.integers(n) for n in shape]
        x[tuple(slice(a, a + n // 4 + 1) for a, n in zip(start, shape, strict=True))] += 0.3 * rng.random()
    x += np.linspace(0, 0.2, shape[-1])
    return x / x.max()


# --- quality --------------------------------------------------------------------------------


@every_dtype
def test_values_computed_by_hand(dtype):
    reference = np.full((4, 5), 0.5, dtype)
    x = reference + dtype(0.1)
    assert psnr(x, reference) == pytest.approx(20.0, rel=TOLERANCE[dtype])
    assert psnr(255 * x, 255 * reference, data_range=255) == pytest.approx(20.0, rel=TOLERANCE[dtype])
    assert rlne(x, reference) == pytest.approx(0.2, rel=10 * TOLERANCE[dtype])
    assert nre(lambda image: 2 * image, x, reference) == pytest.approx(1.4, rel=10 * TOLERANCE[dtype])
    assert psnr(reference, reference) == np.inf
    assert rlne(reference, reference) == nre(np.array, reference, reference) == 0
    assert all(type(value) is float for value in (psnr(x, reference), rlne(x, reference)))


def test_psnr_clips_the_image_to_the_range():
    reference = np.array([0.0, 1.0])
    assert psnr(np.array([-3.0, 7.0]), reference) == np.inf
    assert psnr(np.array([-3.0, 0.9]), reference) == pytest.approx(10 * np.log10(1 / (0.01 / 2)))


@every_dtype
@pytest.mark.parametrize("shape", [(24, 31), (12, 13, 14)], ids=str)
@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_agrees_with_scikit_image(data_range, shape, dtype):
    reference = (data_range * scene(shape)).astype(dtype)
    x = reference + dtype(0.1 * data_range) * np.random.default_rng(2).standard_normal(shape).astype(dtype)
    clipped, exact = np.clip(x, 0, data_range).astype(np.float64), reference.astype(np.float64)
    expected = peak_signal_noise_ratio(exact, clipped, data_range=data_range)
    assert psnr(x, reference, data_range) == pytest.approx(expected, rel=TOLERANCE[np.float64])
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(clipped, exact, data_range=data_range, **options)
    assert ssim(x, reference, data_range) == pytest.approx(expected, rel=TOLERANCE[np.float64])
    assert 0 < ssim(x, reference, data_range) < 1 and ssim(reference, reference, data_range) == 1


ONE, HOLE = np.ones((16, 16)), np.where(np.eye(16) == 1, np.nan, 1.0)
BLUR = Blur(np.ones((3, 3)), ONE.shape)
BAD_PAIRS = [
    ("another shape", ValueError, r"x: .*\(16, 16\).*\(15, 16\)", ONE[1:], ONE),
    ("integers", TypeError, "x: integer", ONE.astype(np.uint8), ONE),
    ("integer reference", TypeError, "reference: integer", ONE, ONE.astype(np.uint8)),
    ("NaN", ValueError, "x: 16 entries are NaN", HOLE, ONE),
    ("NaN in the reference", ValueError, "reference: 16 entries", ONE, HOLE),
    ("empty", ValueError, "x: empty", ONE[:0], ONE[:0]),
    ("complex", TypeError, "x: .*complex", ONE + 0j, ONE),
]


@pytest.mark.parametrize("measure", [psnr, ssim, rlne])
@pytest.mark.parametrize(("error", "message", "x", "reference"), [pytest.param(*r[1:], id=r[0]) for r in BAD_PAIRS])
def test_bad_pairs_are_refused(error, message, x, reference, measure):
    with pytest.raises(error, match=f"^{message}") as caught:
        measure(x, reference)
    assert caught.type is error


@pytest.mark.parametrize(
    ("name", "call"),
    [
        pytest.param("reference", lambda: rlne(ONE, 0 * ONE), id="rlne of a zero reference"),
        pytest.param("y", lambda: nre(BLUR, ONE, 0 * ONE), id="nre of zero data"),
        pytest.param("data_range", lambda: psnr(ONE, ONE / 2, 0.0), id="psnr of no range"),
        pytest.param("data_range", lambda: psnr(ONE, ONE / 2, -1.0), id="psnr of a negative range"),
        pytest.param("data_range", lambda: psnr(ONE, ONE / 2, 1e200), id="psnr of a range without a square"),
        pytest.param("x", lambda: ssim(ONE[:5], ONE[:5]), id="ssim of less than its window"),
    ],
)
def test_undefined_measures_are_refused(name, call):
    with pytest.raises(ValueError, match=f"^{name}: "):
        call()


# --- noise ----------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("sigma", [0.004, 0.02, 0.1])
@pytest.mark.parametrize("shape", [(128, 127), (4001,), (28, 31, 30)], ids=str)
def test_noise_of_a_blurred_image(shape, sigma, dtype):
    rng = np.random.default_rng(3)
    blurred = Blur(np.full((7,) * len(shape), 7.0 ** -len(shape)), shape)(scene(shape))
    y = (blurred + sigma * rng.standard_normal(shape)).astype(dtype)
    assert estimate_noise(y, ndim=len(shape)) == pytest.approx(sigma, rel=0.1)
    assert estimate_noise(255 * y, ndim=len(shape)) == pytest.approx(255 * estimate_noise(y, len(shape)), rel=1e-5)


def test_noise_of_a_batch_and_of_none():
    rng = np.random.default_rng(4)
    y = 0.05 * rng.standard_normal((3, 64, 64))
    assert estimate_noise(y) == pytest.approx(0.05, rel=0.1)
    assert estimate_noise(np.full((8, 9), 0.7)) == 0


@pytest.mark.parametrize(
    ("error", "message", "y"),
    [
        (TypeError, "y: integer", np.ones((8, 8), np.uint8)),
        (ValueError, "y: .*2 pixels", np.ones((8, 1))),
        (ValueError, "y: .*2 axes", np.ones(8)),
        (ValueError, "y: .*NaN", np.full((8, 8), np.nan)),
        (ValueError, "y: empty", np.ones((0, 8))),
    ],
    ids=["integers", "one pixel", "axes", "NaN", "empty"],
)
def test_noise_of_bad_images_is_refused(error, message, y):
    with pytest.raises(error, match=f"^{message}") as caught:
        estimate_noise(y)
    assert caught.type is error


# --- what lies beyond the frame -------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize(
    ("shape", "margins"),
    [((9,), (5,)), ((9, 12), (4, 7)), ((9, 12), (0, 3)), ((3, 8, 9), (4, 1)), ((5, 6, 7), (2, 3, 4))],
    ids=str,
)
def test_extension_has_no_jump_and_keeps_the_frame(shape, margins, dtype):
    y = np.random.default_rng(5).random(shape).astype(dtype)
    extended = extend_periodically(y, margins)
    spatial = shape[len(shape) - len(margins) :]
    assert extended.dtype == dtype
    assert extended.shape[-len(margins) :] == tuple(n + m for n, m in zip(spatial, margins, strict=True))
    frame = (Ellipsis, *(slice(n) for n in spatial))
    np.testing.assert_array_equal(extended[frame], y)
    for axis, n, margin in zip(range(-len(margins), 0), spatial, margins, strict=True):
        # from the last pixel of the frame through the margin and back to the first: equal steps
        steps = np.take(np.roll(extended, -1, axis) - extended, range(n - 1, n + margin), axis)
        jump = np.abs(np.take(extended, 0, axis) - np.take(extended, n - 1, axis)).max()
        assert np.abs(steps).max() == pytest.approx(jump / (margin + 1), rel=1e-4)


def masked_objective(A, x, y, frame, weight):
    tv = sum(np.abs(np.roll(x, -1, axis) - x).sum() for axis in range(-2, 0))
    return 0.5 * np.sum((A(x)[frame] - y) ** 2) + weight * tv


def test_filled_margin_lowers_the_masked_objective_and_keeps_the_data():
    rng = np.random.default_rng(6)
    truth = scene((60, 64))
    psf = rng.random((5, 8))
    psf /= psf.sum()
    y = Blur(psf, truth.shape)(truth)[8:-8, 8:-8] + 0.01 * rng.standard_normal((44, 48))
    weight, calls, values = 1e-3, [], []

    def solve(A, z, x0):
        x = solve_lower(A, z, weight, x0=x0, tol=1e-6, max_iter=4000).x
        frame = (slice(44), slice(48))
        np.testing.assert_array_equal(z[frame], y)
        calls.append((z, x0))
        values.append(masked_objective(A, x, y, frame, weight))
        return x

    A, z, x, frame = fill_margin(y, psf, solve, 4)
    # 56 and 64 with the least margin, and the next sizes whose transform is fast
    assert A.shape == z.shape == x.shape == (60, 64)
    np.testing.assert_array_equal(z[frame], y)
    outside = np.ones(z.shape, bool)
    outside[frame] = False
    np.testing.assert_array_equal(z[outside], A(x)[outside])
    np.testing.assert_array_equal(calls[0][0], extend_periodically(y, (16, 16)))
    assert calls[0][1] is None and all(x0 is not None for _, x0 in calls[1:]) and len(calls) == 4
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(values))
    assert values[-1] < 0.98 * values[0]


def test_margin_of_a_small_image_is_about_its_size():
    y = np.random.default_rng(7).random((2, 6, 30))
    A, z, x, frame = fill_margin(y, np.ones((5, 5)) / 25, lambda A, z, x0: z.copy(), 2)
    assert A.shape == (12, 45) and z.shape == x.shape == (2, 12, 45)
    np.testing.assert_array_equal(z[frame], y)
