"""Training on what the network meets on the way from k-space to an image."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bioperf.learning import training, trajectories
from bioperf.learning.training import Settings, train_denoiser
from bioperf.learning.trajectories import Trajectories, reconstruction
from bioperf.metrics import psnr
from bioperf.targets import Denoised

SIDE = 48


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(trajectories, "AT_A_TIME", 3)
    monkeypatch.setattr(training, "REFRESH", 3)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shapes(number, seed=0):
    rng = np.random.default_rng(seed)
    i, j = np.mgrid[:SIDE, :SIDE] / SIDE
    images = []
    for _ in range(number):
        discs = [(rng.random(2), rng.uniform(0.1, 0.4), rng.uniform(0.1, 0.4)) for _ in range(5)]
        image = sum(height * (np.hypot(i - c[0], j - c[1]) < radius) for c, radius, height in discs)
        images.append(np.rint(255 * image / max(image.max(), 1e-6)).astype(np.uint8))
    return images


def unchanged(images, level):
    return images


def test_pairs_are_inputs_of_the_rounds_and_their_truth():
    source = Trajectories(shapes(4), batch=5, side=16, seed=1)
    source.refresh(0, unchanged)
    parts = [truth for truth, *_ in source.pairs]
    assert len(source.pairs) >= 3 * Denoised.ROUNDS
    for truth, image, level in source.pairs:
        assert truth.shape == image.shape == (SIDE, SIDE) and 0 < level <= 0.05
        # an image that was held to its samples: close to the truth, and not the truth
        assert 0 < np.linalg.norm(image - truth) < 0.5 * max(np.linalg.norm(part) for part in parts)
    clean, given, level = source.draw(3)
    assert clean.shape == given.shape == (5, 1, 16, 16) and level.shape == (5,)
    assert {a.dtype for a in (clean, given, level)} == {np.dtype(np.float32)}


def test_patch_and_truth_are_cut_alike():
    source = Trajectories(shapes(2), batch=40, side=8, seed=0)
    rng = np.random.default_rng(0)
    truth = rng.random((SIDE, SIDE))
    source.pairs = [(truth, truth + 1, 0.02)]
    clean, given, level = source.draw(0)
    np.testing.assert_allclose(given, clean + 1, atol=1e-6)
    assert set(level) == {np.float32(0.02)}
    assert len({patch.tobytes() for patch in clean}) == 40


def test_a_batch_depends_on_seed_number_and_network_alone():
    images = shapes(3)

    def drawn(seed, k, denoise=unchanged):
        source = Trajectories(images, batch=2, side=16, seed=seed)
        source.refresh(6, denoise)
        return source.draw(k)[1]

    np.testing.assert_array_equal(drawn(1, 7), drawn(1, 7))
    assert not np.array_equal(drawn(1, 7), drawn(2, 7))
    assert not np.array_equal(drawn(1, 7), drawn(1, 8))
    # what the network makes of an image is its next input
    assert not np.array_equal(drawn(1, 7), drawn(1, 7, lambda images, level: 0.9 * images))


def test_a_perfect_network_gets_the_image_back():
    truth = shapes(1)[0].astype(np.float32) / 255
    low, high = np.inf, -np.inf

    def perfect(images, level):
        nonlocal low, high
        low, high = min(low, images.min()), max(high, images.max())
        return images

    plain = reconstruction(truth, perfect)
    assert -0.5 < low < high < 1.5
    assert psnr(plain, truth) > 15


def test_training_resumes_bit_for_bit(tmp_path):
    images = shapes(5)
    settings = Settings(steps=8, batch=2, patch=16, task="kspace", learning_rate=1e-3)
    rows = train_denoiser(images, tmp_path / "one.safetensors", settings, checkpoint_every=2, validation=images[:1])
    assert [row["step"] for row in rows] == [2, 4, 6, 8] and all(np.isfinite(row["psnr"]) for row in rows)
    other = tmp_path / "other.safetensors"
    # stops at 7: the checkpoint is that of step 6, where the reconstructions are made anew
    train_denoiser(images, other, settings, checkpoint_every=2, callback=lambda row: row["step"] == 7)
    assert not other.exists() and (tmp_path / "other.safetensors.checkpoint").exists()
    steps = []
    train_denoiser(images, other, settings, checkpoint_every=2, callback=lambda row: steps.append(row["step"]))
    assert steps == [7, 8]
    one, two = load_file(tmp_path / "one.safetensors"), load_file(other)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_loss_falls(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "REFRESH", 100)  # the same reconstructions throughout
    settings = Settings(steps=12, batch=4, patch=32, task="kspace", precision="float32")
    rows = train_denoiser(shapes(3), tmp_path / "w.safetensors", settings, checkpoint_every=3)
    assert rows[-1]["loss"] < rows[0]["loss"]
