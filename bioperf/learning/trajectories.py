"""What the network meets between two looks at k-space: the images of ``Denoised``'s rounds, with their truth."""

import numpy as np

from .. import masks
from ..lower import intensity_range, solve_lower
from ..mri import default_mri_weight
from ..operators import MaskedFourier
from ..targets.denoised import Denoised, to_unit
from ..transforms import UndecimatedWavelet
from .patches import as_floats, turned

__all__ = ["Trajectories", "reconstruction"]

AT_A_TIME = 16
LARGEST_SIDE = 256
RATES, HIGHEST_NOISE = (0.15, 0.4), 0.02


class Trajectories:
    """Batches of patches of what ``Denoised`` hands to its denoiser, and of the truth.

    At every ``refresh`` 16 images are sampled (a radial, Gaussian or Cartesian mask, 15 to 40 %; half of
    them without noise; a quarter of them with a smooth phase, as complex images) and reconstructed with the network as
    it then is.  Its inputs on the way are what batches are drawn from (data aggregation; Ross, Gordon and Bagnell,
    2011).  Batch k depends on the seed, k and that network.
    """

    def __init__(self, images, *, batch, side, seed):
        self.images, self.batch, self.side, self.seed = images, batch, side, seed
        self.pairs = []

    def refresh(self, k, denoise):
        """Reconstruct other images; denoise is the network as a function of images (N, H, W) and a level."""
        rng = np.random.default_rng([self.seed, k, 1])
        self.pairs = [pair for _ in range(AT_A_TIME) for pair in self._trajectory(rng, denoise)]

    def draw(self, k):
        """Clean patches and those of the reconstructions, (batch, 1, side, side), and levels, (batch,), float32."""
        rng = np.random.default_rng([self.seed, k])
        clean, given = np.empty((2, self.batch, 1, self.side, self.side), np.float32)
        level = np.empty(self.batch, np.float32)
        for p in range(self.batch):
            truth, image, level[p] = self.pairs[rng.integers(len(self.pairs))]
            i, j = (rng.integers(n - self.side + 1) for n in truth.shape)
            turns, flip = rng.integers(4), rng.integers(2)
            for out, whole in ((clean, truth), (given, image)):
                out[p, 0] = turned(whole[i : i + self.side, j : j + self.side], turns, flip)
        return clean, given, level

    def _trajectory(self, rng, denoise):
        """(truth, image, level) of each round; real and imaginary parts are images of their own."""
        image = as_floats(self.images[rng.integers(len(self.images))])
        i, j = (rng.integers(max(0, n - LARGEST_SIDE) + 1) for n in image.shape)
        truth = turned(image[i : i + LARGEST_SIDE, j : j + LARGEST_SIDE], rng.integers(4), rng.integers(2))
        real = rng.random() < 0.75
        if not real:
            across, down = (np.linspace(-np.pi, np.pi, n) for n in truth.shape)
            a, b, c = rng.uniform(-1, 1, 3)
            truth = truth * np.exp(1j * (np.pi * a + b * across[:, None] + c * down)).astype(np.complex64)
        make = (masks.radial, masks.radial, masks.gaussian, masks.cartesian)[rng.integers(4)]
        A = MaskedFourier(make(truth.shape, rng.uniform(*RATES), seed=int(rng.integers(2**31))), real=real)
        noise = max(0.0, rng.uniform(-HIGHEST_NOISE, HIGHEST_NOISE))
        y = A(np.ascontiguousarray(truth))
        error = rng.standard_normal((2, *y.shape), np.float32) * np.float32(noise / np.sqrt(2))
        y += (error[0] + 1j * error[1]) * A.mask

        inputs = []

        def remember(images, level):
            inputs.append((images.astype(np.float32), level))
            return denoise(images, level)

        Denoised(remember)(A, y, (), xbar=_lower_level(A, y, noise), noise_std=noise)
        clean = to_unit(truth, A.data_image(y))
        return [(c, x, level) for images, level in inputs for c, x in zip(clean, images, strict=True)]


def reconstruction(truth, denoise):
    """``Denoised``'s image from 20 % of the truth's k-space, a radial mask, without noise."""
    A = MaskedFourier(masks.radial(truth.shape, 0.2))
    y = A(truth)
    return Denoised(denoise)(A, y, (), xbar=_lower_level(A, y, 0.0), noise_std=0.0)


def _lower_level(A, y, noise):
    """The image that ``reconstruct_mri`` starts from."""
    weight = default_mri_weight(noise, intensity_range(A.data_image(y)))
    options = {"isotropic": True, "wavelet": UndecimatedWavelet("db2", 2), "wavelet_weight": weight}
    return solve_lower(A, y, weight, tol=1e-3, threads=1, **options).x
