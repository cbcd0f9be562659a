"""From k-space to image in one call: what is gained, what is chosen from the data, and what is refused."""

import numpy as np
import pytest

from bioperf import (
    MaskedFourier,
    MultiCoilFourier,
    UndecimatedWavelet,
    estimate_kspace_noise,
    hermitian_noise,
    masks,
    psnr,
    reconstruct_mri,
)
from bioperf.coils import simulate_maps
from bioperf.mri import default_mri_weight

SHAPE = (64, 60)
every_dtype = pytest.mark.parametrize("dtype", [np.complex64, np.complex128])


def picture(shape=SHAPE):
    """Ellipses of different brightness with a slope, in [0, 1]."""
    r, c = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    x = np.zeros(shape)
    for value, row, column, height, width in (
        (0.5, 0, 0, 0.8, 0.7), (0.3, -0.2, 0.2, 0.3, 0.2), (-0.3, 0.3, -0.2, 0.2, 0.3), (0.2, 0.4, 0.3, 0.1, 0.1),
    ):  # fmt: skip
        x[((r - row) / height) ** 2 + ((c - column) / width) ** 2 < 1] += value
    return x + 0.1 * (x > 0) * (r + 1)


def phase(shape=SHAPE):
    r, c = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.exp(1j * (0.8 * r + 0.5 * c * c))


def sampling(rate=0.35, shape=SHAPE, **options):
    return masks.gaussian(shape, rate, seed=1, **options)


def noise(shape, std, seed=0):
    rng = np.random.default_rng(seed)
    return std / np.sqrt(2) * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))


@pytest.fixture(scope="module")
def simple():
    """Mask, k-space of a complex image with a little noise, and the image."""
    x, mask = picture() * phase(), sampling()
    A = MaskedFourier(mask, real=False)
    return mask, (A(x) + mask * noise(SHAPE, 5e-3)).astype(np.complex64), x


# --- the noise level ------------------------------------------------------------------------


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("std", [0.1, 0.4])
def test_noise_from_the_border_and_from_symmetry(std, centred):
    x, mask = picture((128, 96)), sampling(0.5, (128, 96), centred=centred)
    y = MaskedFourier(mask, centred=centred)(x) + mask * noise(mask.shape, std)
    assert hermitian_noise(y, mask, centred=centred) == pytest.approx(std, rel=0.05)
    assert estimate_kspace_noise(y, mask, centred=centred) == pytest.approx(std, rel=0.15)
    assert estimate_kspace_noise(np.stack([y, 3 * y]), mask, centred=centred) == pytest.approx(
        np.sqrt(5) * estimate_kspace_noise(y, mask, centred=centred), rel=1e-12
    )


def test_symmetry_finds_no_noise_where_there_is_none():
    x, mask = picture(), sampling()
    y = MaskedFourier(mask)(x)
    assert hermitian_noise(y, mask) < 1e-14
    assert hermitian_noise(y * np.exp(0.3j), mask) > 1e-2


def test_symmetry_without_mirrored_samples_falls_back_on_the_border():
    mask = np.zeros((16, 16), bool)
    mask[1:8] = True
    y = mask * noise(mask.shape, 1.0)
    assert hermitian_noise(y, mask) == estimate_kspace_noise(y, mask)


def test_weight_rule():
    assert default_mri_weight(0.0, 2.0) == pytest.approx(2e-4)
    assert default_mri_weight(0.1, 2.0) == pytest.approx(5e-3)


# --- the reconstruction ---------------------------------------------------------------------


@every_dtype
def test_a_real_image_is_recognised_and_gains_at_every_stage(dtype):
    x, mask = picture(), sampling()
    y = MaskedFourier(mask)(x).astype(dtype)
    solution = reconstruct_mri(y, mask)
    assert solution.converged, solution.status
    assert solution.x.dtype == y.real.dtype and solution.details["noise_std"] < 1e-6
    quality = [psnr(solution.details[name], x) for name in ("zero_filled", "lower_image")] + [psnr(solution.x, x)]
    assert quality[0] + 8 < quality[1] + 0.5 < quality[2]
    assert solution.details["data_residual"] < 1e-4 and solution.details["epsilon"] < 1e-4
    assert max(solution.infeasibility.values()) <= 1e-2


def test_a_complex_image(simple):
    mask, y, x = simple
    solution = reconstruct_mri(y, mask)
    assert solution.converged and solution.x.dtype == np.complex64
    solution = reconstruct_mri(y, mask, noise_std=5e-3)
    guess = reconstruct_mri(y, mask)
    assert guess.details["noise_std"] > 5e-3, "the edges reach the border of so small a k-space"

    def error(image):
        return np.linalg.norm(image - x)

    assert (
        error(solution.x) < 0.9 * error(solution.details["lower_image"]) < 0.5 * error(solution.details["zero_filled"])
    )
    excess = np.linalg.norm(MaskedFourier(mask, real=False)(solution.x) - y) - solution.details["epsilon"]
    assert excess <= 1e-3 * np.linalg.norm(y)


def test_several_coils_beat_the_zero_filled_image():
    x, mask = picture() * phase(), sampling(0.25)
    maps = simulate_maps(SHAPE, 4).astype(np.complex64)
    A = MultiCoilFourier(mask, maps)
    y = (A(x) + mask * noise(A.data_shape, 5e-3)).astype(np.complex64)
    solution = reconstruct_mri(y, mask, maps=maps)
    assert solution.converged, solution.status
    inside = np.sum(np.abs(maps) ** 2, axis=0) > 0.5
    error = [np.linalg.norm((image - x)[inside]) for image in (solution.x, solution.details["zero_filled"])]
    assert error[0] < 0.35 * error[1]
    np.testing.assert_array_equal(solution.details["maps"], maps)


def test_maps_are_estimated_from_the_calibration_region():
    x, mask = picture() * phase(), sampling(0.4, calibration=16)
    A = MultiCoilFourier(mask, simulate_maps(SHAPE, 4).astype(np.complex64))
    solution = reconstruct_mri(A(x.astype(np.complex64)), mask, maps="estimate")
    assert solution.converged and solution.details["maps"].shape == (4, *SHAPE)
    power = np.sum(np.abs(solution.details["maps"]) ** 2, axis=0)
    assert power.max() <= 1 + 1e-5
    assert solution.details["data_residual"] < 0.1


@pytest.mark.parametrize("shape", [(24,), (1, 1), (1, 9), (16, 20, 12)], ids=str)
def test_one_and_three_axes(shape):
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.standard_normal(shape) > 1, axis=0).astype(float)
    x.flat[0] = 1
    mask = rng.random(shape) < 0.6
    mask[(0,) * len(shape)] = True
    target = "identity" if len(shape) == 1 else "nlm"
    solution = reconstruct_mri(MaskedFourier(mask)(x), mask, target=target)
    assert solution.x.shape == shape and solution.converged


# --- what does not depend on how it is asked --------------------------------------------------


def test_a_batch_is_its_slices_alone_bit_for_bit(simple):
    mask, y, _ = simple
    together = reconstruct_mri(np.stack([y, 2 * y[::-1, ::-1]]), mask, noise_std=0.01)
    alone = reconstruct_mri(2 * y[::-1, ::-1], mask, noise_std=0.01)
    np.testing.assert_array_equal(together.x[1], alone.x)
    assert len(together.details["items"]) == 2 and together.converged.shape == (2,)


def test_one_set_of_maps_serves_all_slices_and_each_may_have_its_own():
    maps = simulate_maps(SHAPE, 3).astype(np.complex64)
    x, mask = (picture() * phase()).astype(np.complex64), sampling()
    y = MultiCoilFourier(mask, maps)(np.stack([x, x[::-1]]))
    shared = reconstruct_mri(y, mask, maps=maps, rounds=1)
    own = reconstruct_mri(y, mask, maps=np.stack([maps, maps]), rounds=1)
    np.testing.assert_array_equal(shared.x, own.x)


def test_scale_does_not_matter(simple):
    mask, y, _ = simple
    one, thousand = reconstruct_mri(y, mask), reconstruct_mri(y * np.float32(1024), mask)
    assert np.linalg.norm(thousand.x / 1024 - one.x) < 1e-3 * np.linalg.norm(one.x)


def test_centred_files_give_the_centred_image(simple):
    mask, y, _ = simple
    # not "nlm": scikit-image's does not treat the image as periodic
    plain = reconstruct_mri(y, mask, target="identity")
    moved = reconstruct_mri(np.fft.fftshift(y), np.fft.fftshift(mask), target="identity", centred=True)
    assert np.linalg.norm(np.fft.ifftshift(moved.x) - plain.x) < 1e-3 * np.linalg.norm(plain.x)


def test_values_outside_the_mask_are_ignored(simple):
    mask, y, _ = simple
    other = np.where(mask, y, np.complex64(7))
    np.testing.assert_array_equal(reconstruct_mri(other, mask).x, reconstruct_mri(y, mask).x)


def test_choices_of_the_caller_are_kept(simple):
    mask, y, _ = simple
    chosen = {"noise_std": 0.02, "tv_weight": 2e-3, "wavelet_weight": 1e-3, "epsilon": 0.3, "kappa": 0.2}
    solution = reconstruct_mri(y, mask, rounds=1, wavelet="haar", transform="dct", sparsity_weight=0, **chosen)
    assert {name: solution.details[name] for name in chosen} == chosen
    assert reconstruct_mri(y, mask, real=True).x.dtype == np.float32
    for transform in ("dct", UndecimatedWavelet(level=1)):
        assert reconstruct_mri(y, mask, transform=transform, rounds=1).converged


def test_targets(simple):
    mask, y, x = simple
    given = reconstruct_mri(y, mask, target=x.astype(np.complex64))
    np.testing.assert_array_equal(given.details["target"], x.astype(np.complex64))
    seen = []

    def denoiser(image):
        seen.append(image)
        return 0.9 * image

    reconstruct_mri(y, mask, target=denoiser)
    assert len(seen) == 2 and seen[0].shape == SHAPE and not np.array_equal(seen[0], seen[1])
    assert np.linalg.norm(given.x - x) < np.linalg.norm(reconstruct_mri(y, mask, target="identity").x - x)


def test_callback_and_threads_reach_the_solvers(simple):
    mask, y, _ = simple
    stages = []
    solution = reconstruct_mri(y, mask, callback=lambda progress: stages.append(progress.stage), threads=1)
    assert {"lower level", "upper level (ball)"} <= set(stages) and solution.threads == 1


# --- bad input ------------------------------------------------------------------------------

MASK, Y = np.ones((8, 8), bool), np.ones((8, 8), complex)
MAPS = np.ones((2, 8, 8), complex) / 2
BAD = {
    "real k-space": ({"kspace": Y.real}, TypeError, "kspace: expected complex64"),
    "shape": ({"kspace": Y[:5]}, ValueError, r"kspace: expected shape \(\.\.\., 8, 8\)"),
    "NaN": ({"kspace": Y * np.nan}, ValueError, "kspace: 64 entries are NaN"),
    "empty mask": ({"mask": ~MASK}, ValueError, "mask: no frequency is sampled"),
    "no coil axis": ({"maps": MAPS}, ValueError, "kspace: with maps expected shape"),
    "coils": ({"kspace": np.stack([Y] * 3), "maps": MAPS}, ValueError, r"maps: expected shape \(3, 8, 8\)"),
    "maps' name": ({"kspace": np.stack([Y] * 2), "maps": "guess"}, ValueError, "maps: expected one of 'estimate'"),
    "real with coils": (
        {"kspace": np.stack([Y] * 2), "maps": MAPS, "real": True}, ValueError, "real: images seen by several coils"
    ),
    "noise": ({"noise_std": -1}, ValueError, "noise_std: must be"),
    "weight": ({"tv_weight": 0}, ValueError, "tv_weight: must be a finite number > 0"),
    "epsilon": ({"epsilon": np.inf}, ValueError, "epsilon: must be"),
    "rounds": ({"rounds": 0}, ValueError, "rounds: must be at least 1"),
    "target": ({"target": "magic"}, ValueError, "target: expected one of"),
    "target's shape": ({"target": np.ones((4, 4))}, ValueError, r"target: expected shape \(8, 8\)"),
    "wavelet": ({"wavelet": "bior2.2"}, ValueError, "bior2.2"),
    "odd size": ({"kspace": Y[:7, :7], "mask": MASK[:7, :7], "wavelet": "haar"}, ValueError, "7"),
    "nothing measured": ({"kspace": 0 * Y}, ValueError, "kspace: all samples are 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    change, error, message = BAD[case]
    arguments = {"kspace": Y, "mask": MASK} | change
    with pytest.raises(error, match=message):
        reconstruct_mri(**arguments)
