"""Sampling masks: exact rates, full centres, densities and distances, the same mask from the same seed."""

import numpy as np
import pytest

from bioperf import masks

PATTERNS = [masks.cartesian, masks.gaussian, masks.poisson_disc, masks.radial]
SHAPES = [(64, 64), (48, 65), (61, 40), (7, 6)]
RATES = [0.1, 0.2, 1 / 3, 0.5, 0.77, 1.0]


def centred_block(mask, block):
    return mask[tuple(slice(n // 2 - k // 2, n // 2 - k // 2 + k) for n, k in zip(mask.shape, block, strict=True))]


def radius(shape):
    squares = [((np.arange(n) - n // 2) / (n / 2)) ** 2 for n in shape]
    return np.sqrt(squares[0][:, None] + squares[1])


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_number_of_samples_is_exact(pattern, shape, rate):
    mask = pattern(shape, rate)
    assert mask.dtype == bool and mask.shape == shape
    if pattern is masks.cartesian:
        lines = mask.all(0)
        assert lines.sum() == round(rate * shape[1]) and mask.sum() == shape[0] * lines.sum()
    else:
        assert mask.sum() == round(rate * mask.size)


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_seed_gives_one_mask_and_centred_moves_its_origin(pattern, seed):
    first = pattern((50, 37), 0.3, seed=seed)
    np.testing.assert_array_equal(pattern((50, 37), 0.3, seed=seed), first)
    np.testing.assert_array_equal(pattern((50, 37), 0.3, seed=seed, centred=True), np.fft.fftshift(first))
    assert first[0, 0] and (pattern((50, 37), 0.3, seed=seed + 1) != first).any()


@pytest.mark.parametrize("calibration, block", [(9, (9, 9)), (0.25, (16, 12)), ((4, 10), (4, 10)), (0, (0, 0))])
@pytest.mark.parametrize("pattern", PATTERNS[1:])
def test_calibration_block_is_full(pattern, calibration, block):
    mask = pattern((64, 48), 0.2, calibration=calibration, centred=True)
    assert centred_block(mask, block).all() and mask.sum() == round(0.2 * mask.size)


def test_default_calibration():
    for rate, lines in ((0.25, 25), (0.125, 12), (0.5, 25)):
        mask = masks.cartesian((16, 320), rate, centred=True)
        assert centred_block(mask, (16, lines)).all()
    for pattern in (masks.gaussian, masks.poisson_disc):
        assert centred_block(pattern((100, 75), 0.1, centred=True), (8, 6)).all()
        # 0.32 of 0.001 * 40000 samples
        assert centred_block(pattern((200, 200), 0.001, centred=True), (3, 3)).all()


def test_cartesian_lines_along_each_axis():
    mask = masks.cartesian((32, 40), 0.3, calibration=5, readout=1, centred=True)
    assert mask.all(1).sum() == round(0.3 * 32) and centred_block(mask, (5, 40)).all()
    np.testing.assert_array_equal(masks.cartesian((40, 32), 0.3, calibration=5, centred=True), mask.T)
    volume = masks.cartesian((6, 24, 20), 0.25, calibration=(4, 6), readout=-3, centred=True)
    np.testing.assert_array_equal(volume, np.broadcast_to(volume[0], volume.shape))
    assert volume[0].sum() == round(0.25 * 24 * 20) and centred_block(volume[0], (4, 6)).all()


@pytest.mark.parametrize("shape", [(40,), (20, 16, 12)])
def test_gaussian_in_one_and_three_dimensions(shape):
    mask = masks.gaussian(shape, 0.3, calibration=3)
    assert mask.shape == shape and mask.sum() == round(0.3 * mask.size)
    assert mask[np.ix_(*[[-1, 0, 1]] * len(shape))].all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_density_falls_with_the_distance_from_the_centre(pattern):
    """Mean density over seeds in rings of equal width, outside the calibration block."""
    r = radius((96, 96))
    if pattern is masks.cartesian:
        r = np.broadcast_to(r[48], r.shape)
    rings = [(r >= a) & (r < b) for a, b in ((0.1, 0.3), (0.3, 0.6), (0.6, 1.0))]
    drawn = np.mean([pattern((96, 96), 0.15, seed=seed, centred=True) for seed in range(10)], axis=0)
    inner, middle, outer = (drawn[ring].mean() for ring in rings)
    assert inner > 1.5 * middle > 2 * outer > 0


def test_parameters_steer_the_density():
    r = radius((64, 64))

    def spread(mask):
        return r[mask].mean()

    def mask(pattern, **options):
        return pattern((64, 64), 0.2, centred=True, **options)

    assert spread(mask(masks.gaussian, width=0.2)) < spread(mask(masks.gaussian, width=0.6))
    assert spread(mask(masks.poisson_disc, slope=8.0)) < spread(mask(masks.poisson_disc, slope=1.0))
    assert spread(mask(masks.cartesian, power=8)) < spread(mask(masks.cartesian, power=1))
    # Uniform density: the mean radius of the square
    assert abs(spread(mask(masks.poisson_disc, slope=0, calibration=0)) - r.mean()) < 0.03
    # A Gaussian so narrow that its weights underflow fills a disc
    narrow = mask(masks.gaussian, width=0.01, calibration=0)
    assert r[narrow].max() < 1.3 * np.sqrt(0.2 * 4 / np.pi)


def closest(points, others):
    distance = np.hypot(*(points[:, None] - others).transpose(2, 0, 1))
    return np.where(distance > 0, distance, np.inf)


@pytest.mark.parametrize("slope", [0.0, 2.0, 8.0])
def test_poisson_disc_keeps_the_distance_it_promises(slope):
    """The scale is not reported: the largest that the pairs allow must be one that fills the plane."""
    shape, rate, block = (72, 90), 0.12, 6
    mask = masks.poisson_disc(shape, rate, slope=slope, calibration=block, centred=True, seed=3)
    outside = mask.copy()
    centred_block(outside, (block, block))[:] = False
    points = np.argwhere(outside)
    growth = 1 + slope * radius(shape)[outside]
    scale = (closest(points, points) / np.minimum.outer(growth, growth)).min()
    # Discs of half the radii do not overlap; random darts without the surplus fill 0.4 to 0.6 of the plane
    filled = np.pi * (scale * growth / 2) ** 2
    assert 0.35 < filled.sum() / mask.size < 0.7
    # Independent samples of the same density would touch: the control of this test
    random = np.random.default_rng(3).permutation(mask.size)[: len(points)]
    random = np.stack(np.unravel_index(random, shape), 1)
    assert closest(random, random).min() == 1


@pytest.mark.parametrize("shape", [(64, 64), (51, 51), (40, 63)])
@pytest.mark.parametrize("rate", [0.1, 0.237, 0.6])
@pytest.mark.parametrize("options", [{}, {"seed": 4}, {"calibration": 9}])
def test_radial_masks_are_symmetric_but_for_one_sample(shape, rate, options):
    mask = masks.radial(shape, rate, **options)
    mirrored = np.roll(mask[::-1, ::-1], 1, (0, 1))
    assert (mask & ~mirrored).sum() <= 1


def test_radial_spokes_reach_the_edges():
    mask = masks.radial((64, 64), 0.2, centred=True)
    assert mask[32].all() and mask[0].any() and mask[-1].any() and mask[:, 0].any()
    # The first spokes are whole; around the centre all samples are taken
    assert mask[30:35, 30:35].all()


BAD = [
    (dict(rate=0), "rate: must be a finite number > 0"),
    (dict(rate=1.2), "rate: must be at most 1"),
    (dict(rate=float("nan")), "rate: must be a finite number"),
    (dict(rate=1e-6), "rate: 1e-06 of .* is none of them"),
    (dict(calibration=30, rate=0.1), "calibration: .* are more than the"),
    (dict(calibration=99), "calibration: 99 samples exceed the axis"),
    (dict(calibration=-1), "calibration: must be at least 0"),
    (dict(calibration=(1, 2, 3)), "calibration: expected [12] sizes"),
    (dict(shape=(4,) * 4), "shape: expected .* axes"),
    (dict(shape=(4, 0)), "shape: must be at least 1"),
    (dict(seed=-1), "seed: must be at least 0"),
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("options, message", BAD)
def test_bad_arguments_have_one_error(pattern, options, message):
    with pytest.raises(ValueError, match=message):
        pattern(**(dict(shape=(32, 32), rate=0.2) | options))


def test_wrong_types_and_pattern_options():
    for options in (dict(shape=32, rate=0.2), dict(shape=(32, 32.0), rate=0.2), dict(shape=(8, 8), rate="x")):
        with pytest.raises(TypeError, match=r"(shape|rate): expected"):
            masks.gaussian(**options)
    for pattern, options in (
        (masks.gaussian, dict(width=0)),
        (masks.poisson_disc, dict(slope=-1)),
        (masks.cartesian, dict(power=-1)),
        (masks.cartesian, dict(readout=2)),
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            pattern((16, 16), 0.5, **options)
