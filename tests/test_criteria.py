"""The division of k-space samples: nothing leaks, nothing is lost, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioperf import MaskedFourier, masks
from bioperf.selection.criteria import fingerprint, image_metrics, relative_error, split_samples

SHAPES = [(40,), (41,), (24, 30), (25, 31), (24, 31), (8, 9, 10)]


def uneven(shape, rate=0.5, seed=0):
    """A mask that takes no account of k and -k."""
    return np.random.default_rng(seed).random(shape) < rate


def opposite(k, shape):
    return tuple(-i % n for i, n in zip(k, shape, strict=True))


def labels(split):
    """Where each sampled frequency went: 1 training, 2 validation, 3 test, 0 not sampled; overlaps add up."""
    return split.train + 2 * split.validation + 3 * split.test


def check_split(mask, split, calibration, paired):
    """Every property that holds for any mask, frequency by frequency; the zero frequency comes first."""
    where = labels(split)
    np.testing.assert_array_equal(where > 0, mask)
    assert int(split.train.sum() + split.validation.sum() + split.test.sum()) == mask.sum()
    for k in zip(*np.nonzero(mask), strict=True):
        mirror = opposite(k, mask.shape)
        if paired and mask[mirror]:
            assert where[k] == where[mirror]
        if all(min(i, n - i) <= calibration for i, n in zip(k, mask.shape, strict=True)):
            assert where[k] == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("paired", [True, False])
def test_the_parts_are_disjoint_and_cover_the_mask(shape, paired):
    mask = uneven(shape)
    split = split_samples(mask, calibration=1, seed=3, paired=paired)
    check_split(mask, split, 1, paired)
    assert all(part.dtype == bool and part.shape == shape for part in (split.train, split.validation, split.test))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_held_out_frequency_has_its_mirror_in_training(shape):
    split = split_samples(uneven(shape, 0.8), calibration=0)
    for held in (split.validation, split.test):
        for k in zip(*np.nonzero(held), strict=True):
            assert not split.train[opposite(k, shape)]
    loose = split_samples(uneven(shape, 0.8), calibration=0, paired=False)
    assert any(loose.train[opposite(k, shape)] for k in zip(*np.nonzero(loose.validation), strict=True))


def test_the_training_samples_of_a_real_image_do_not_tell_the_validation_samples():
    """Without pairs the mirrors give validation data away: an image that fits training data fits them too."""
    mask = uneven((32, 32), 0.7)
    x = np.random.default_rng(1).random((32, 32))

    def told(paired):
        split = split_samples(mask, calibration=0, paired=paired)
        y = MaskedFourier(split.train)(x)
        # the least-norm real image with these training samples
        spectrum = np.fft.fft2(x, norm="ortho")
        known = split.train | np.roll(np.flip(split.train), 1, (0, 1))
        least = np.fft.ifft2(np.where(known, spectrum, 0), norm="ortho").real
        np.testing.assert_allclose(MaskedFourier(split.train)(least), y, atol=1e-12)
        A = MaskedFourier(split.validation)
        return relative_error(A, least, A(x))

    assert told(paired=True) == pytest.approx(1.0)
    assert told(paired=False) < 0.9


@pytest.mark.parametrize("shape", SHAPES)
def test_a_centred_mask_gives_centred_parts(shape):
    mask = uneven(shape)
    first = split_samples(mask, calibration=2, seed=5)
    moved = split_samples(np.fft.fftshift(mask), calibration=2, seed=5, centred=True)
    np.testing.assert_array_equal(np.fft.fftshift(labels(first)), labels(moved))


@pytest.mark.parametrize("fractions", [(0.7, 0.15, 0.15), (0.5, 0.3, 0.2), (0.8, 0.2, 0.0), (0.0, 0.5, 0.5)])
@pytest.mark.parametrize("pattern", [masks.gaussian, masks.radial, masks.cartesian])
def test_the_shares_outside_the_block_are_the_fractions(pattern, fractions):
    mask = pattern((64, 60), 0.35)
    split = split_samples(mask, fractions=fractions, calibration=4)
    k = [np.abs(np.fft.fftfreq(n, 1 / n)) for n in mask.shape]
    outside = mask & ~((k[0][:, None] <= 4.5) & (k[1] <= 4.5))
    for share, part in zip(fractions, (split.train, split.validation, split.test), strict=True):
        assert abs((part & outside).sum() - share * outside.sum()) <= 2
    assert split.test.any() == (fractions[2] > 0)


def test_a_seed_gives_one_split_and_another_seed_another():
    mask = masks.gaussian((48, 48), 0.3)
    first = split_samples(mask, seed=1)
    np.testing.assert_array_equal(labels(first), labels(split_samples(mask, seed=1)))
    assert (labels(first) != labels(split_samples(mask, seed=2))).any()
    # zeros and ones are a mask as well
    np.testing.assert_array_equal(labels(first), labels(split_samples(mask.astype(float), seed=1)))


@given(
    shape=st.lists(st.integers(4, 9), min_size=1, max_size=3).map(tuple),
    rate=st.floats(0.3, 1.0),
    calibration=st.integers(0, 2),
    paired=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_mask(shape, rate, calibration, paired, seed):
    mask = uneven(shape, rate, seed)
    try:
        split = split_samples(mask, fractions=(0.4, 0.3, 0.3), calibration=calibration, seed=seed, paired=paired)
    except ValueError as error:
        outside = sum(
            any(min(i, n - i) > calibration for i, n in zip(k, shape, strict=True))
            for k in zip(*np.nonzero(mask), strict=True)
        )
        # 30 % of the samples outside the block are less than a pair
        assert not mask.any() or ("would be empty" in str(error) and outside <= 6)
        return
    assert split.train.any() and split.validation.any()
    check_split(mask, split, calibration, paired)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fractions": (0.7, 0.3)}, "fractions: expected three numbers"),
        ({"fractions": (0.7, 0.2, 0.2)}, "sum to 1"),
        ({"fractions": 0.7}, "fractions: expected three numbers"),
        ({"fractions": (1.2, -0.1, -0.1)}, "fractions: must be a finite number >= 0"),
        ({"fractions": (0.7, 0.15, float("nan"))}, "fractions: must be a finite number"),
        ({"fractions": (0.85, 0.0, 0.15)}, "fractions: the validation part would be empty; give it a share"),
        ({"fractions": (0.0, 0.5, 0.5), "mask": np.eye(32) > 0, "calibration": 0, "seed": 0}, None),
        ({"calibration": -1}, "calibration: must be at least 0"),
        ({"calibration": 16}, "validation part would be empty; lower calibration"),
        ({"seed": -1}, "seed: must be at least 0"),
        ({"mask": np.zeros((8, 8), bool)}, "mask: no frequency is sampled"),
        ({"mask": np.ones((2, 2, 2, 2), bool)}, "mask: expected 1, 2 or 3 axes"),
    ],
)
def test_unusable_arguments_are_named(arguments, message):
    arguments = {"mask": masks.gaussian((32, 32), 0.4)} | arguments
    if message is None:  # the zero frequency is training enough
        assert split_samples(arguments.pop("mask"), **arguments).train.sum() == 1
        return
    with pytest.raises(ValueError, match=message):
        split_samples(arguments.pop("mask"), **arguments)


def test_an_empty_training_part_is_refused():
    mask = np.ones((8, 8), bool)
    mask[0, 0] = False
    with pytest.raises(ValueError, match="the training part would be empty"):
        split_samples(mask, fractions=(0.0, 0.5, 0.5), calibration=0)


def test_errors_of_images_and_data():
    reference = np.array([[3.0, 0.0], [0.0, 4.0]])
    x = reference + np.array([[0.0, 0.5], [0.0, 0.0]])
    assert image_metrics(x, reference) == pytest.approx(
        {"rlne": 0.1, "psnr": 10 * np.log10(4.0**2 / (0.25 / 4))}, rel=1e-12
    )
    assert image_metrics(1j * x, 1j * reference) == pytest.approx(image_metrics(x, reference))
    assert image_metrics(reference, reference) == {"rlne": 0.0, "psnr": np.inf}
    assert image_metrics(x, None) == {}
    assert np.isnan(image_metrics(0 * x, 0 * x)["rlne"])
    assert relative_error(lambda x: 2 * x, reference, reference) == pytest.approx(1.0)
    assert np.isnan(relative_error(lambda x: x, reference, 0 * reference))


def test_a_fingerprint_knows_its_parts():
    mask = masks.gaussian((16, 16), 0.4)
    y = np.arange(4.0)
    first = fingerprint(MaskedFourier(mask), y, 3, "a")
    assert first == fingerprint(MaskedFourier(mask.copy()), y.copy(), 3, "a")
    others = [
        fingerprint(MaskedFourier(~mask), y, 3, "a"),
        fingerprint(MaskedFourier(mask, real=False), y, 3, "a"),
        fingerprint(MaskedFourier(mask), y + 1, 3, "a"),
        fingerprint(MaskedFourier(mask), y.reshape(2, 2), 3, "a"),
        fingerprint(MaskedFourier(mask), y, 4, "a"),
    ]
    assert len({first, *others}) == 6
