"""The target "cnn": the package's denoising network in the place of the denoiser (extra "torch")."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .._validation import as_images, check_choice, check_number
from ..io.errors import InputError
from ..learning import require_torch
from .denoised import Denoised

__all__ = ["CNN", "WEIGHTS"]

# The package's weights -> SHA-256 of their values (``learning.weights.digest``); their cards stand beside them.
WEIGHTS = {
    "natural": "a64f50790d93ff906af9f531f0450f69ded8c09e524294f064db09a99af2b2e7",
    "mri": "04496237a1cbbc0beaea94b0712ac2b48318032d909a71a87e750fa12ba3c0a3",
}
FOLDER = Path(__file__).resolve().parent.parent / "weights"


class CNN(Denoised):
    """``Denoised`` by the paper's network, seven dilated convolutions, trained as a denoiser for a range of levels.

    Parameters
    ----------
    weights : str or Path, optional
        "natural" (natural images), "mri" (MR images), or a file that ``bioperf train-denoiser`` wrote.  None:
        "natural" for a blur, "mri" for k-space.
    device : str
        "cpu" or "cuda".
    rounds, levels, weight
        As in ``Denoised``.

    Raises
    ------
    ImportError
        Without torch and safetensors.
    InputError
        For weights that are missing, truncated, changed or of another network.
    ValueError
        For a device that is not at hand.

    The network computes in float32; float64 images are converted for it and back.
    """

    def __init__(self, weights=None, *, device="cpu", rounds=None, levels=None, weight=None):
        self.torch = require_torch('target "cnn"')
        check_choice("device", str(device).partition(":")[0], ("cpu", "cuda"))
        if str(device).startswith("cuda") and not self.torch.cuda.is_available():
            raise ValueError('device: no CUDA device is at hand; use device="cpu"')
        self.device = self.torch.device(device)
        self.weights, self.networks = weights, {}
        if weights is not None:
            self.network(weights)
        super().__init__(self.apply, rounds=rounds, levels=levels, weight=weight)

    def denoiser_for(self, A, threads):
        name = self.weights or ("natural" if hasattr(A, "psf") else "mri")
        return lambda images, level: self._denoise(self.network(name), images, level, threads)

    def apply(self, images, level, *, threads=None):
        """The denoised images themselves, without an operator.

        Parameters
        ----------
        images : ndarray, shape (..., H, W), float32 or float64
            Intensities in [0, 1].
        level : float
            The noise's standard deviation, in the same units.
        threads : int, optional
            Of torch; None leaves them as they are.

        Returns
        -------
        ndarray of the same shape and dtype
        """
        images = as_images("images", images, ndim=2)
        level = check_number("level", level)
        stack = images.reshape(-1, *images.shape[-2:])
        return self._denoise(self.network(self.weights or "natural"), stack, level, threads).reshape(images.shape)

    def network(self, name):
        """The network with these weights, batch normalisation folded; loaded and checked once."""
        if name not in self.networks:
            from ..learning.network import DilatedDenoiser, fold
            from ..learning.weights import digest, read_tensors

            network = DilatedDenoiser().eval()
            shapes = {k: tuple(t.shape) for k, t in network.state_dict().items() if t.is_floating_point()}
            shipped = isinstance(name, str) and name in WEIGHTS
            path = FOLDER / f"{name}.safetensors" if shipped else Path(name)
            tensors, _ = read_tensors(path, "denoiser", shapes)
            if shipped and digest(tensors) != WEIGHTS[name]:
                raise InputError(f"{path}: not the weights of this version (SHA-256 differs); install bioperf again")
            network.load_state_dict(tensors, strict=False)
            folded = fold(network).to(self.device, memory_format=self.torch.channels_last)
            self.networks[name] = folded.requires_grad_(False)
        return self.networks[name]

    def _denoise(self, network, images, level, threads):
        torch = self.torch
        result = np.empty_like(images)
        with torch.inference_mode(), _threads(torch, threads):
            level = torch.tensor([level], dtype=torch.float32, device=self.device)
            # one at a time: the activations of a stack would leave the cache
            for image, out in zip(images, result, strict=True):
                tensor = torch.from_numpy(image).to(self.device, torch.float32)[None, None]
                out[...] = network(tensor, level)[0, 0].cpu().numpy()
        return result


@contextmanager
def _threads(torch, threads):
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
