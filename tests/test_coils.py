"""Coil sensitivities: simulated ones are found again, in either order of k-space, and reconstruct as well."""

import itertools

import numpy as np
import pytest

from bioperf import masks
from bioperf.coils import calibration_region, estimate_maps, simulate_maps
from bioperf.operators import MultiCoilFourier


def phantom(shape, hole=False):
    """An ellipse with smooth texture and phase on a dark background, and where it is."""
    y, x = np.meshgrid(*((np.arange(n) - n // 2) / (n / 2) for n in shape), indexing="ij")
    radius = np.hypot(y / 0.75, x / 0.6)
    inside = radius < 1
    bright = inside & ~((radius < 0.4) & hole)
    texture = 1 + 0.3 * np.cos(9 * x + 4 * y) + 0.2 * np.sin(14 * y)
    return bright * texture * np.exp(1j * (x + y * x + 0.5)), inside


def unaligned(maps, truth):
    """1 - |cosine| between the vectors of the coils: the phase of the image is free."""
    norm = np.linalg.norm(maps, axis=0)
    return 1 - np.abs((maps.conj() * truth).sum(0)) / np.where(norm > 0, norm, 1)


def measured(mask, centred, dtype=np.complex128, noise=0.0, coils=6, hole=False):
    shape = mask.shape
    truth = simulate_maps(shape, coils)
    image, inside = phantom(shape, hole)
    rng = np.random.default_rng(4)
    y = MultiCoilFourier(np.ones(shape), truth, centred=centred)(image)
    y = y + noise * (rng.normal(size=y.shape) + 1j * rng.normal(size=y.shape))
    return (y * mask).astype(dtype), truth, image, inside


@pytest.mark.parametrize("shape", [(40, 32), (17, 24), (6, 20, 16)], ids=str)
def test_simulated_maps_are_smooth_and_normalised(shape):
    maps = simulate_maps(shape, 8)
    assert maps.shape == (8, *shape) and maps.dtype == np.complex128
    np.testing.assert_allclose(np.sum(np.abs(maps) ** 2, axis=0), 1, rtol=1e-12)
    for axis in range(1, maps.ndim):
        assert np.abs(np.diff(maps, axis=axis)).mean() < 2 / shape[axis - 1]
    flat = maps.reshape(8, -1)
    gram = np.abs(flat @ flat.conj().T)
    assert np.linalg.cond(gram) < 1e4 and gram.max() / gram.min() < 20


def brute_force_region(mask):
    """All blocks: first the longest shortest side, then the last axes in turn."""

    def full(block):
        places = [slice(n // 2 - k // 2, n // 2 - k // 2 + k) for n, k in zip(mask.shape, block, strict=True)]
        return mask[tuple(places)].all()

    blocks = [b for b in itertools.product(*(range(n + 1) for n in mask.shape)) if full(b)]
    # A mask may be longer along one axis than another is in all
    scored = {b: min(k if k < n else max(mask.shape) for k, n in zip(b, mask.shape, strict=True)) for b in blocks}
    return max((b for b in blocks), key=lambda b: (scored[b], b[::-1]))


@pytest.mark.parametrize("seed", range(30))
def test_calibration_region_against_all_blocks(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(3, 12, size=2 + seed % 2)) if seed % 3 else (9, 10)
    mask = rng.random(shape) < rng.choice([0.3, 0.9, 0.99])
    block = [int(rng.integers(1, n + 1)) for n in shape]
    mask[tuple(slice(n // 2 - k // 2, n // 2 - k // 2 + k) for n, k in zip(shape, block, strict=True))] = True
    assert calibration_region(mask, centred=True) == brute_force_region(mask)
    assert calibration_region(np.fft.ifftshift(mask)) == brute_force_region(mask)


def test_calibration_region_of_the_masks():
    assert calibration_region(masks.poisson_disc((64, 64), 0.1, calibration=15)) == (15, 15)
    assert calibration_region(masks.cartesian((64, 60), 0.2, calibration=7)) >= (64, 7)
    assert calibration_region(np.ones((5, 9))) == (5, 9)
    off = np.ones((8, 8))
    off[0, 0] = 0
    assert min(calibration_region(off)) == 0 and min(calibration_region(off, centred=True)) == 7


MASKS = {
    "poisson-disc": lambda: masks.poisson_disc((96, 80), 0.25, calibration=20),
    "cartesian": lambda: masks.cartesian((96, 80), 0.4, calibration=16),
    "all": lambda: np.ones((96, 80), bool),
}


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_simulated_maps_are_found(name, centred):
    mask = MASKS[name]()
    mask = np.fft.fftshift(mask) if centred else mask
    y, truth, _, inside = measured(mask, centred)
    maps = estimate_maps(y, mask, centred=centred)
    power = np.sum(np.abs(maps) ** 2, axis=0)
    assert maps.shape == y.shape and maps.dtype == y.dtype
    assert power.max() <= 1 + 1e-12
    np.testing.assert_allclose(power[inside], 1, rtol=1e-12)
    assert unaligned(maps, truth)[..., inside].max() < 0.02 and unaligned(maps, truth)[inside].mean() < 1e-3
    # The corners are far from the object
    assert not maps[:, :6, :6].any()
    everywhere = estimate_maps(y, mask, centred=centred, support=0)
    np.testing.assert_allclose(np.sum(np.abs(everywhere) ** 2, axis=0), 1, rtol=1e-12)
    # With the wrong order the block around the supposed zero frequency is another one
    if name == "poisson-disc":
        with pytest.raises(ValueError, match="too small"):
            estimate_maps(y, mask, centred=not centred)


def conjugate_gradients(A, y, iterations=25, weight=1e-3):
    x = np.zeros(A.shape, complex)
    r = A.adjoint(y)
    p, rr = r, np.vdot(r, r).real
    for _ in range(iterations):
        q = A.adjoint(A(p)) + weight * p
        step = rr / np.vdot(p, q).real
        x, r = x + step * p, r - step * q
        rr, before = np.vdot(r, r).real, rr
        p = r + rr / before * p
    return x


@pytest.mark.parametrize("calibration", [8, 12, 20])
def test_estimated_maps_reconstruct_about_as_well_as_the_true_ones(calibration):
    mask = masks.poisson_disc((96, 80), 0.3, calibration=calibration)
    y, truth, image, _ = measured(mask, False, noise=0.01)
    errors = []
    for maps in (truth, estimate_maps(y, mask)):
        x = conjugate_gradients(MultiCoilFourier(mask, maps), y)
        errors.append(np.linalg.norm(np.abs(x) - np.abs(image)) / np.linalg.norm(image))
    assert errors[1] < 1.05 * errors[0] < 0.2
    # Maps of other coils do not
    x = conjugate_gradients(MultiCoilFourier(mask, simulate_maps(mask.shape, 6)[::-1]), y)
    assert np.linalg.norm(np.abs(x) - np.abs(image)) / np.linalg.norm(image) > 1.5 * errors[0]


def test_dark_places_within_the_object_keep_their_maps():
    mask = np.ones((96, 80), bool)
    y, _, image, inside = measured(mask, False, hole=True)
    power = np.sum(np.abs(estimate_maps(y, mask)) ** 2, axis=0)
    assert (image[inside] == 0).any()
    np.testing.assert_allclose(power[inside], 1, rtol=1e-12)


def test_a_batch_is_its_items_and_float32_is_kept():
    mask = masks.gaussian((48, 40), 0.3, calibration=12)
    y = np.stack([measured(mask, False)[0], measured(mask, False, noise=0.1)[0]])
    maps = estimate_maps(y, mask)
    for item, single in zip(maps, y, strict=True):
        np.testing.assert_allclose(item, estimate_maps(single, mask), atol=1e-12)
    single = estimate_maps(y.astype(np.complex64), mask)
    assert single.dtype == np.complex64
    np.testing.assert_allclose(single, maps, atol=1e-4)
    np.testing.assert_array_equal(estimate_maps(y, mask, calibration=12), maps)
    assert (estimate_maps(y, mask, calibration=(8, 10)) != maps).any()
    # What was not sampled does not count
    np.testing.assert_array_equal(estimate_maps(np.where(mask, y, 7), mask), maps)
    np.testing.assert_array_equal(estimate_maps(y[0], None, calibration=12), maps[0])


def test_volumes():
    shape = (12, 24, 20)
    truth = simulate_maps(shape, 4)
    y = MultiCoilFourier(np.ones(shape), truth)(np.ones(shape))
    maps = estimate_maps(y, np.ones(shape))
    assert maps.shape == truth.shape and unaligned(maps, truth).mean() < 0.01


def test_bad_arguments_have_one_error():
    mask = masks.gaussian((48, 40), 0.3, calibration=12)
    y = measured(mask, False)[0]
    for change, message in (
        (dict(kspace=y[0]), r"kspace: expected shape \(..., coils, 48, 40\), got \(48, 40\)"),
        (dict(mask=mask[1:]), "kspace: expected shape"),
        (dict(kspace=0 * y), "kspace: the calibration block is zero"),
        (dict(kspace=np.where(y == y.max(), np.nan, y)), "kspace: 1 entries are NaN"),
        (dict(calibration=30), r"calibration: \(30, 30\) is not fully sampled"),
        (dict(calibration=4), r"mask: a block of \(4, 4\) .* is too small"),
        (dict(calibration=(12, 12, 12)), "calibration: expected 2 sizes"),
        (dict(support=0.7), "support: must be at most"),
        (dict(mask=masks.gaussian((48, 40), 0.3, calibration=3)), "mask: a block of .* too small"),
    ):
        with pytest.raises(ValueError, match=message):
            estimate_maps(**(dict(kspace=y, mask=mask) | change))
    with pytest.raises(TypeError, match="kspace: expected complex64"):
        estimate_maps(y.real, mask)
    for options, message in ((dict(distance=1.2), "distance"), (dict(coils=0), "coils"), (dict(shape=(4,)), "shape")):
        with pytest.raises(ValueError, match=message):
            simulate_maps(**(dict(shape=(8, 8), coils=4) | options))
