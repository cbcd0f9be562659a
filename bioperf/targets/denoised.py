"""D(y) by a denoiser: it takes turns with a regularised inverse, at falling noise levels ("plug and play")."""

import inspect

import numpy as np

from .._fourier import FourierProblem
from .._validation import as_images_like, check_count, check_number
from ..lower import intensity_range
from ..noise import estimate_kspace_noise, estimate_noise, hermitian_noise
from ..operators import MultiCoilFourier
from .base import Target

__all__ = ["Denoised", "from_callable", "is_module"]

LEVEL_NAMES = ("level", "sigma", "noise_level", "noise_std")
CONJUGATE_GRADIENTS = 8


class Denoised(Target):
    """Half-quadratic splitting with a denoiser in the place of a prior (mathematics.md, 9).

    From the image that it is given (the lower level's solution), for levels s_1 > ... > s_K in geometric progression:

    1. x = argmin |A x - y|^2 + weight (noise / s_k)^2 |x - z|^2, in the Fourier domain (for several coils by eight
       steps of conjugate gradients); for k-space x <- z + 1.9 (x - z) in all rounds but the last
    2. z = denoise(x, s_k)

    D is the last z.  Images are shifted and scaled to the range [0, 1] of the data image (y, or the zero-filled image)
    for the denoiser, so that units do not matter.

    Parameters
    ----------
    denoise : callable (images, level) -> images
        images : ndarray, shape (N, H, W), float32 or float64, in [0, 1] but for overshoots; level in the same units.
        Real and imaginary parts of a complex image, and the slices of a volume, are images of their own.
    rounds : int, optional
        K; None: 8 for a blur, 24 for k-space.
    levels : tuple of 2 floats, optional
        (s_1, s_K) in units of the range.  None: for a blur 0.1 to 1.2 times the noise level (at least 0.001); for
        k-space 0.06 to 0.004, and at least the noise level.
    weight : float, optional
        Weight of the denoised image in step 1, 0.25 by default.

    References
    ----------
    Zhang, Zuo, Gu and Zhang, "Learning deep CNN denoiser prior for image restoration", CVPR 2017, eq. 6.
    """

    # An error of the psf is amplified by the rounds; the lower level's total variation holds it down.
    exact_model, uncertain_model = (0.25, 0.5), (0.1, 0.0)
    rounds_of_solver = 1
    ROUNDS, KSPACE_ROUNDS = 8, 24
    KSPACE_LEVELS, KSPACE_RELAXATION = (0.06, 0.004), 1.9
    WEIGHT = 0.25

    def __init__(self, denoise, *, rounds=None, levels=None, weight=None):
        if not callable(denoise):
            raise TypeError(f"denoise: expected a function of images and a level, got {denoise!r}")
        self.denoise = denoise
        self.rounds = None if rounds is None else check_count("rounds", rounds)
        if levels is not None:
            if not isinstance(levels, tuple | list) or len(levels) != 2:
                raise ValueError(f"levels: expected two numbers (first, last), got {levels!r}")
            levels = tuple(check_number("levels", level, strict=True) for level in levels)
        self.levels = levels
        self.weight = self.WEIGHT if weight is None else check_number("weight", weight, strict=True)

    def __call__(self, A, y, index, *, xbar, noise_std=None, threads=None, **context):
        data = y[index]
        image = A.data_image(data)
        if image.ndim < 2:
            raise ValueError(f"target: a denoiser needs images of 2 or 3 axes, got shape {image.shape}")
        spread = intensity_range(image)
        noise = _noise(A, data) if noise_std is None else noise_std
        inverse = _inverse_for(A, data, xbar, threads)
        denoise = self.denoiser_for(A, threads)
        z = xbar
        levels = self._schedule(A, noise / spread)
        for k, level in enumerate(levels):
            x = inverse(z, max(self.weight * (noise / (spread * level)) ** 2, np.finfo(z.dtype).eps))
            if not hasattr(A, "psf") and k < len(levels) - 1:
                x = z + z.real.dtype.type(self.KSPACE_RELAXATION) * (x - z)
            unit = _to_unit(x, image)
            z = _from_unit(as_images_like("target: the denoised image", denoise(unit, float(level)), unit), x, image)
        return z

    def denoiser_for(self, A, threads):
        """The function of images and level, for this operator."""
        return self.denoise

    def _schedule(self, A, noise):
        """The levels of the rounds, in units of the range."""
        rounds = self.rounds or (self.ROUNDS if hasattr(A, "psf") else self.KSPACE_ROUNDS)
        if self.levels is not None:
            first, last = self.levels
        elif hasattr(A, "psf"):
            first, last = 0.1, max(1.2 * noise, 1e-3)
        else:
            first, last = (max(level, noise) for level in self.KSPACE_LEVELS)
        return np.geomspace(max(first, last), last, rounds) if rounds > 1 else np.array([last])


def _to_unit(x, data_image):
    """The image as the denoiser sees it: (N, H, W), real, in the range [0, 1] of the data image.

    Real and imaginary part of a complex image are scaled by its largest modulus.
    """
    low, spread = _scale(data_image)
    parts = np.stack([x.real, x.imag]) if x.dtype.kind == "c" else x
    return ((parts - parts.dtype.type(low)) / parts.dtype.type(spread)).reshape(-1, *x.shape[-2:])


def _from_unit(unit, x, data_image):
    """The inverse of ``_to_unit``, for an image like x."""
    low, spread = _scale(data_image)
    parts = unit * unit.dtype.type(spread) + unit.dtype.type(low)
    if x.dtype.kind == "c":
        real, imaginary = parts.reshape(2, *x.shape)
        parts = real + 1j * imaginary
    return np.ascontiguousarray(parts.reshape(x.shape), dtype=x.dtype)


def _scale(data_image):
    return 0.0 if data_image.dtype.kind == "c" else float(data_image.min()), intensity_range(data_image)


def _noise(A, y):
    if hasattr(A, "psf"):
        return estimate_noise(y, y.ndim)
    if getattr(A, "real", False):
        return hermitian_noise(y, A.mask, centred=A.centred)
    return estimate_kspace_noise(y, A.mask, centred=A.centred)


def _inverse_for(A, y, image, threads):
    """(z, rho) -> argmin |A x - y|^2 + rho |x - z|^2."""
    if isinstance(A, MultiCoilFourier):
        return lambda z, rho: _conjugate_gradients(A, y, z, rho)
    problem = FourierProblem(A, image.dtype, threads)
    data, _ = A.coefficients(y, problem.fft)
    transfer, fft = problem.transfer, problem.fft
    square = transfer.real**2 + transfer.imag**2
    back = transfer.conj() * data

    def inverse(z, rho):
        rho = square.dtype.type(rho)
        spectrum = fft.coefficients(z) * rho
        spectrum += back
        spectrum /= square + rho
        return fft.inverse(spectrum, *fft.empty("image"))

    return inverse


def _conjugate_gradients(A, y, z, rho):
    rho = z.real.dtype.type(rho)
    x = z
    residual = A.adjoint(y - A(z))
    direction, square = residual, _inner(residual, residual)
    for _ in range(CONJUGATE_GRADIENTS):
        if square == 0:
            break
        image = A.adjoint(A(direction)) + rho * direction
        step = z.real.dtype.type(square / _inner(direction, image))
        x, residual = x + step * direction, residual - step * image
        following = _inner(residual, residual)
        direction = residual + z.real.dtype.type(following / square) * direction
        square = following
    return x


def _inner(a, b):
    # not by BLAS, whose bits depend on its threads
    return float(np.sum(a.real * b.real + a.imag * b.imag, dtype=np.float64))


def from_callable(denoiser, *, takes_level=None, rounds=None, levels=None, weight=None):
    """A target from any denoiser: a function of scikit-image, a denoiser of deepinv, a ``torch.nn.Module``.

    Parameters
    ----------
    denoiser : callable
        A function image -> image or (image, level) -> image of one ndarray, shape (H, W); or a ``torch.nn.Module``
        that takes and returns tensors of shape (1, 1, H, W), on whatever device its parameters are.
    takes_level : bool, optional
        Whether it is given the noise level as its second argument.  None: if its second parameter is named level,
        sigma, noise_level or noise_std.
    rounds, levels, weight
        As in ``Denoised``; one round by default for a denoiser that takes no level.

    Returns
    -------
    Denoised

    Raises
    ------
    TypeError, ValueError
        For something that cannot be called, and when used if the result is not an image of the same shape.

    Examples
    --------
    >>> target = from_callable(lambda image: skimage.restoration.denoise_tv_chambolle(image, 0.02))
    >>> target = from_callable(deepinv.models.DRUNet(in_channels=1, out_channels=1))
    >>> solution = deblur(y, psf, target=target)
    """
    if not callable(denoiser):
        raise TypeError(f"denoiser: expected a function or a torch.nn.Module, got {denoiser!r}")
    module = is_module(denoiser)
    if takes_level is None:
        takes_level = _takes_level(denoiser.forward if module else denoiser)
    one = _of_module(denoiser) if module else denoiser

    def denoise(images, level):
        return np.stack([np.asarray(one(image.copy(), *([level] if takes_level else []))) for image in images])

    if rounds is None and not takes_level:
        rounds = 1
    return Denoised(denoise, rounds=rounds, levels=levels, weight=weight)


def is_module(thing):
    """Whether it is a torch.nn.Module; does not import torch."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in type(thing).__mro__)
    return "torch.nn.modules.module.Module" in names


def _takes_level(function):
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    return len(parameters) > 1 and parameters[1].name in LEVEL_NAMES


def _of_module(module):
    """The module as a function of one ndarray, in float32 or its parameters' precision."""
    import torch

    def apply(image, *level):
        like = next(module.parameters(), torch.zeros(()))
        tensor = torch.from_numpy(image).to(like.device, like.dtype if like.is_floating_point() else torch.float32)
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            with torch.inference_mode():
                result = module(tensor[None, None], *level)
        finally:
            for part, training in modes:
                part.training = training
        if not isinstance(result, torch.Tensor) or result.numel() != image.size:
            found = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise ValueError(f"target: the module returned {found} for an image of shape (1, 1, *{image.shape})")
        return result.reshape(image.shape).to("cpu", torch.float64).numpy().astype(image.dtype)

    return apply
