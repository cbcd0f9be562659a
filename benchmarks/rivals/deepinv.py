"""deepinv (torch), single precision: PDCP, exact proximal map of the data; the gradient is written here.

Its own TVPrior has no differences across the edges and takes the real and the imaginary part apart.
"""

import numpy as np
import torch
from deepinv.optim import PDCP
from deepinv.optim.data_fidelity import L2
from deepinv.optim.prior import L12Prior
from deepinv.physics import MRI, BlurFFT

PACKAGE, TV = "deepinv", "isotropic"
STEP = 5.0
METHOD = f"PDCP, exact proximal map of the data, primal step {STEP:g}, the largest dual one"
METHODS = dict.fromkeys(("deblurring", "mri"), METHOD)


def _gradient(x):
    """(1, channels, H, W) -> (1, H, W, 2 channels): the prior's norm is over the last axis."""
    return torch.cat([torch.roll(x, -1, axis) - x for axis in (2, 3)], 1).movedim(1, 3)


def _gradient_adjoint(p):
    parts = p.movedim(3, 1).chunk(2, 1)
    return sum(torch.roll(part, 1, axis) - part for part, axis in zip(parts, (2, 3), strict=True))


def _make(physics, y, x0, case, result):
    torch.set_num_threads(case.threads)
    start = {"est": (x0, x0, torch.zeros_like(_gradient(x0)))}

    def make(iterations):
        model = PDCP(
            K=_gradient, K_adjoint=_gradient_adjoint, data_fidelity=L2(), prior=L12Prior(), g_first=True,
            lambda_reg=case.weight, stepsize=STEP, stepsize_dual=0.99 / (8 * STEP), max_iter=iterations,
            custom_init=lambda y, physics: start,
        )  # fmt: skip

        def run():
            with torch.no_grad():
                return result(model(y, physics)[0].numpy())

        return run

    return make


def deblurring(case):
    y, psf = (torch.from_numpy(a.astype(np.float32))[None, None] for a in (case.y, case.psf))
    physics = BlurFFT(img_size=y.shape[1:], filter=psf)
    return _make(physics, y, y, case, lambda channels: channels[0])


def _channels(a):
    return torch.from_numpy(np.stack([a.real, a.imag]).astype(np.float32))[None]


def mri(case):
    # Its Fourier transform has both origins in the middle; differences do not mind where the image's is.
    mask = np.fft.fftshift(case.mask)
    x = np.fft.fftshift(np.fft.ifft2(case.y, norm="ortho"))
    y = mask * np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x), norm="ortho"))
    physics = MRI(mask=torch.from_numpy(mask.astype(np.float32))[None, None], img_size=(2, *mask.shape))
    return _make(physics, _channels(y), _channels(x), case, lambda c: np.fft.ifftshift(c[0] + 1j * c[1]))
