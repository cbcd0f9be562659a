"""``deblur``: the rules that choose for the user, colour, batches, unknown boundaries, and what it refuses."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from test_bio import scene

import bioperf
from bioperf.cli.demo import motion_kernel
from bioperf.deblurring import default_tv_weight, target_trust
from bioperf.targets import Target

NOISE = 0.01


def photograph(shape=(64, 64), seed=0, dtype=np.float64, noise=NOISE):
    """Smooth areas, edges and texture, blurred periodically by a motion kernel."""
    rng = np.random.default_rng(seed)
    image = gaussian_filter(rng.standard_normal(shape), 6, mode="wrap")
    image = 0.5 + 0.25 * np.sign(image) + 0.1 * gaussian_filter(rng.standard_normal(shape), 2, mode="wrap")
    psf = motion_kernel(9, seed)
    A = bioperf.Blur(psf, shape)
    return image, psf, (A(image) + noise * rng.standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_defaults_restore_and_certify(dtype):
    image, psf, y = photograph(dtype=dtype)
    solution = bioperf.deblur(y, psf)
    assert solution.converged and solution.x.dtype == dtype and solution.x.shape == y.shape
    assert abs(solution.gap) <= 1e-3 and max(solution.infeasibility.values()) <= 1e-3
    restored = bioperf.psnr(solution.x, image)
    assert restored > bioperf.psnr(y, image) + 3
    assert restored >= bioperf.psnr(solution.details["lower_image"], image)
    assert solution.details["noise_std"] == pytest.approx(NOISE, rel=0.2)
    assert set(solution.details["seconds"]) == {"lower", "target", "upper"}
    assert solution.seconds >= sum(solution.details["seconds"].values())


@pytest.mark.parametrize("target", ["identity", "deconv"])
def test_a_poor_target_costs_nothing(target):
    image, psf, y = photograph()
    solution = bioperf.deblur(y, psf, target=target)
    assert solution.details["trust"] == 0 and solution.details["epsilon"] == 0
    loss = bioperf.psnr(solution.details["lower_image"], image) - bioperf.psnr(solution.x, image)
    assert loss <= 0.05


def test_trust_fades_with_residual_and_variation():
    image, psf, y = photograph()
    A = bioperf.Blur(psf, y.shape)
    variation = np.sum(np.hypot(*(np.roll(image, -1, axis) - image for axis in (0, 1))))
    assert target_trust(A, y, image, variation, NOISE) == pytest.approx(1.0)
    assert 0 < target_trust(A, y, image, variation / 1.1, NOISE) < 1
    assert target_trust(A, y, image, variation / 1.2, NOISE) == 0
    assert target_trust(A, y, y, 10 * variation, NOISE) == 0
    assert 0 < target_trust(A, y, image, variation, NOISE / 1.45) < 1


def test_weight_rule_scales_with_the_image():
    assert default_tv_weight(255 * NOISE, 255) == pytest.approx(255 * default_tv_weight(NOISE))
    assert default_tv_weight(0.02) > default_tv_weight(0.01) > default_tv_weight(0.0) > 0
    _, psf, y = photograph()
    one, other = bioperf.deblur(y, psf), bioperf.deblur(255 * y, psf)
    np.testing.assert_allclose(other.x / 255, one.x, rtol=0, atol=1e-6)


def test_choices_of_the_caller_are_kept():
    _, psf, y = photograph()
    given = {"noise_std": 0.02, "tv_weight": 3e-3, "epsilon": 0.1, "kappa": 0.05}
    solution = bioperf.deblur(y, psf, **given)
    assert {name: solution.details[name] for name in given} == given
    assert solution.details["trust"] is None
    exact = bioperf.deblur(y, psf, epsilon=0)
    np.testing.assert_allclose(exact.x, exact.details["lower_image"], rtol=0, atol=2e-2)


def test_psf_is_normalised():
    _, psf, y = photograph()
    np.testing.assert_array_equal(bioperf.deblur(y, psf * 64).x, bioperf.deblur(y, psf).x)


def test_a_batch_is_its_images_alone():
    frames = [photograph(seed=seed) for seed in (0, 1)]
    psf = frames[0][1]
    y = np.stack([frame[2] for frame in frames])
    batch = bioperf.deblur(y, psf)
    assert batch.converged.shape == (2,) and batch.converged.all() and batch.objective.shape == (2,)
    for k in range(2):
        np.testing.assert_array_equal(batch.x[k], bioperf.deblur(y[k], psf).x)


@pytest.mark.parametrize("axis", [-1, 0])
def test_colour_channels_share_one_weight(axis):
    planes = np.stack([photograph(seed=3)[2] * scale for scale in (1.0, 0.8, 0.5)])
    psf = photograph(seed=3)[1]
    y = np.moveaxis(planes, 0, axis)
    solution = bioperf.deblur(y, psf, channel_axis=axis)
    assert solution.x.shape == y.shape and solution.converged.shape == (3,)
    weights = {item["tv_weight"] for item in solution.details["items"]}
    assert len(weights) == 1
    alone = bioperf.deblur(planes[1], psf, tv_weight=weights.pop(), noise_std=solution.details["items"][1]["noise_std"])
    np.testing.assert_array_equal(np.moveaxis(solution.x, axis, 0)[1], alone.x)
    target = np.moveaxis(planes, 0, axis)
    given = bioperf.deblur(y, psf, channel_axis=axis, target=target, epsilon=0.5)
    np.testing.assert_array_equal(np.moveaxis(given.details["items"][2]["target"], 0, 0), planes[2])


def test_unknown_boundary_beats_the_periodic_model_on_a_cut():
    image, psf, _ = photograph((110, 116), seed=4)
    blurred = bioperf.Blur(psf, image.shape)(image) + NOISE * np.random.default_rng(1).standard_normal(image.shape)
    frame = (slice(16, 90), slice(18, 95))
    y, truth = np.ascontiguousarray(blurred[frame]), image[frame]
    unknown, periodic = (bioperf.deblur(y, psf, boundary=boundary) for boundary in ("unknown", "periodic"))
    assert unknown.x.shape == y.shape == unknown.details["target"].shape
    assert bioperf.psnr(unknown.x, truth) > bioperf.psnr(periodic.x, truth) + 1


def test_targets_of_every_kind():
    _, psf, y = photograph()

    class Doubled(Target):
        def __call__(self, A, y, index, *, xbar, noise_std, **context):
            assert noise_std > 0
            return xbar

    for target in (y, lambda image: image * 0.5, Doubled()):
        assert bioperf.deblur(y, psf, target=target).x.shape == y.shape


def test_one_and_three_axes():
    rng = np.random.default_rng(0)
    signal = np.repeat(rng.random(12), 8)
    psf = np.ones(5) / 5
    y = bioperf.Blur(psf, signal.shape)(signal) + 0.01 * rng.standard_normal(signal.shape)
    solution = bioperf.deblur(y, psf, target="identity")
    assert bioperf.psnr(solution.x, signal) > bioperf.psnr(y, signal)
    volume = np.kron(rng.random((3, 4, 4)), np.ones((4, 4, 4)))
    cube = np.ones((3, 3, 3)) / 27
    y = bioperf.Blur(cube, volume.shape)(volume) + 0.01 * rng.standard_normal(volume.shape)
    solution = bioperf.deblur(y, cube)
    assert bioperf.psnr(solution.x, volume) > bioperf.psnr(y, volume) + 3


def test_callback_and_threads_reach_the_solvers():
    _, psf, y = photograph()
    stages = []
    bioperf.deblur(y, psf, callback=lambda info: stages.append(info.stage), threads=1)
    assert set(stages) == {"lower level", "upper level (ball)"}


BAD = {
    "NaN": (ValueError, "y: .*NaN", {"y": np.full((8, 8), np.nan)}),
    "infinity": (ValueError, "y: .*infinite", {"y": np.full((8, 8), np.inf)}),
    "integers": (TypeError, "y: integer.*astype", {"y": np.zeros((8, 8), np.uint8)}),
    "empty": (ValueError, "y: empty", {"y": np.zeros((0, 8))}),
    "too few axes": (ValueError, "y: ", {"y": np.zeros(8)}),
    "negative psf": (ValueError, "psf: .*negative", {"psf": -np.ones((3, 3))}),
    "zero psf": (ValueError, "psf: sums to zero", {"psf": np.zeros((3, 3))}),
    "psf with NaN": (ValueError, "psf: ", {"psf": np.full((3, 3), np.nan)}),
    "large psf": (ValueError, "psf: .*exceeds", {"psf": np.ones((9, 3))}),
    "zero noise": (ValueError, "noise_std: ", {"noise_std": 0.0}),
    "negative noise": (ValueError, "noise_std: ", {"noise_std": -1.0}),
    "zero weight": (ValueError, "tv_weight: ", {"tv_weight": 0.0}),
    "infinite weight": (ValueError, "tv_weight: ", {"tv_weight": np.inf}),
    "negative epsilon": (ValueError, "epsilon: ", {"epsilon": -0.1}),
    "negative kappa": (ValueError, "kappa: ", {"kappa": -0.1}),
    "unknown target": (ValueError, "target: .*'nlm'", {"target": "magic"}),
    "target of another shape": (ValueError, "target: ", {"target": np.zeros((8, 9))}),
    "unknown boundary": (ValueError, "boundary: ", {"boundary": "mirror"}),
    "no channel axis": (ValueError, "y: ", {"channel_axis": -1}),
    "zero threads": (ValueError, "threads: ", {"threads": 0}),
    "zero tolerance": (ValueError, "tol: ", {"tol": 0}),
    "no iterations": (ValueError, "max_iter: ", {"max_iter": 0}),
}


@pytest.mark.parametrize(("error", "message", "changed"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused(error, message, changed):
    arguments = {"y": np.random.default_rng(0).random((8, 8)), "psf": np.ones((3, 3))} | changed
    with pytest.raises(error, match=message):
        bioperf.deblur(**arguments)


def test_same_bits_twice():
    A, y, _ = scene((32, 40))
    np.testing.assert_array_equal(bioperf.deblur(y, A.psf).x, bioperf.deblur(y, A.psf).x)
