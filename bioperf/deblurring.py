"""From a blurred image and its point spread function to the restored image, in one call."""

import math
import time

import numpy as np

from ._fourier import FourierProblem
from ._validation import (
    as_images,
    check_axis,
    check_choice,
    check_flag,
    check_number,
    check_ratio,
    check_scale,
    check_threads,
    host_array,
)
from .bio import solve_bio
from .boundary import extend_periodically, fill_margin
from .lower import finished, intensity_range, solve_lower
from .noise import estimate_noise
from .operators import Blur
from .operators.device import from_host, to_host
from .slots import Layout
from .slots.device import device_of, refuse_on_device
from .targets import FromArray, Target, resolve_target

__all__ = ["deblur", "default_tv_weight", "target_trust"]

# The rules below are calibrated on Set12 and BSDS500 images with random motion kernels, not on Levin's set
# (benchmarks/calibrate.py).
WEIGHT_FACTOR, WEIGHT_POWER = 0.81, 1.46
# A target is trusted fully up to the first number and not at all from the second.
RESIDUAL_RANGE = (1.3, 1.6)
BOUNDARY_ROUNDS = 12


def default_tv_weight(noise_std, spread=1.0, isotropic=True):
    """The lower level's weight for white noise of that standard deviation.

    ``WEIGHT_FACTOR * spread * (noise_std / spread) ** WEIGHT_POWER`` with spread the image's range: the fit
    of the weight of best mean PSNR at noise levels of 0.2 to 4 % (benchmarks/calibrate.py); 0.8 times that
    for the anisotropic total variation, which is larger by about that factor.
    """
    weight = WEIGHT_FACTOR * spread * (max(noise_std, 1e-5 * spread) / spread) ** WEIGHT_POWER
    return weight if isotropic else 0.8 * weight


def target_trust(A, y, image, total_variation_bound, noise_std, isotropic=True, variation_range=Target.variation_range):
    """How far to believe a target, from 0 to 1: whether it could itself be the answer.

    A good target explains the data up to the noise, |A D - y| <= 1.3 noise_std sqrt(n), and has no more
    total variation than the constraint allows.  Trust fades to 0 at 1.6 noise_std sqrt(n) and at the end of
    variation_range, 1.15 times the bound by default: an unsharp target fails the first test, one with amplified noise
    the second.

    Parameters
    ----------
    A : Blur
    y, image : ndarray, shape A.shape
        The data and the target D.
    total_variation_bound : float
    noise_std : float
    isotropic : bool
    variation_range : tuple of 2 floats
        In units of the bound: ``Target.variation_range``.

    Returns
    -------
    float in [0, 1]
    """
    residual = float(np.linalg.norm(A(image) - y)) / max(noise_std * math.sqrt(y.size), np.finfo(float).tiny)
    problem = FourierProblem(A, y.dtype)
    variation = problem.total_variation(image, isotropic) / max(total_variation_bound, np.finfo(float).tiny)

    def fade(value, limits):
        return min(1.0, max(0.0, (limits[1] - value) / (limits[1] - limits[0])))

    return fade(residual, RESIDUAL_RANGE) * fade(variation, variation_range)


def deblur(
    y,
    psf,
    *,
    noise_std=None,
    target="nlm",
    tv_weight=None,
    epsilon=None,
    kappa=None,
    boundary="periodic",
    isotropic=True,
    channel_axis=None,
    tol=1e-3,
    max_iter=1000,
    callback=None,
    threads=None,
    device=None,
):
    """Restore blurred images: ``solve_bio``'s relaxed bilevel problem, every choice made from the data.

    1. The noise level is estimated (``estimate_noise``), the lower level's weight follows from it
       (``default_tv_weight``) and the lower level is solved: xbar.
    2. The target D is computed; "nlm" is non-local means of an under-regularised lower-level solution.
    3. epsilon = 0.15 noise_std sqrt(n) times ``target_trust``, kappa = 0: a target that could not itself be the answer
       gets epsilon = 0, and the result is then xbar.  Denoisers ("cnn") have 0.25 and kappa = 0.5 times that trust,
       and for an unknown boundary, where the psf is taken for an estimate, 0.1 and kappa = 0.
    4. The upper level is solved to the certificate.

    Parameters
    ----------
    y : ndarray, shape (..., *spatial), float32 or float64
        Blurred images, as many spatial axes (1, 2 or 3) as the psf; leading axes are a batch of independent
        images.
    psf : ndarray
        Point spread function, >= 0; it is normalised to sum 1.  Its centre is ``(kh//2, kw//2)``.
    noise_std : float, optional
        Standard deviation of the noise, > 0, in the units of y.
    target : str, ndarray, callable or Target
        As in ``solve_bio``; "cnn" is better and slower than "nlm".
    tv_weight, epsilon, kappa : float, optional
        As in ``solve_bio``; chosen as above if None.
    boundary : {"periodic", "unknown"}
        Whether the image repeats beyond its frame, or what lies there is unknown (photographs): then the
        frame is extended by a margin that is estimated with the image (``bioperf.boundary``).
    isotropic : bool
    channel_axis : int, optional
        Axis of the colour channels: restored channel by channel with one noise level and weight.
    tol, max_iter, callback, threads
        As in ``solve_bio``.
    device : str or torch.device, optional
        As in ``solve_bio``: the levels of one image after another are solved on a GPU, the rest is done on the CPU.

    Returns
    -------
    Solution
        As of ``solve_bio``; ``details`` has also "lower_image", "noise_std", "tv_weight", "kappa", "trust"
        (None for a given epsilon) and "seconds" by stage.  For a batch or colour these stand in
        ``details["items"]``, one an image or channel, and ``details["layout"]`` says how they shared the threads
        (one after another if there is a callback or the target is a function of the caller's).

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument.
    """
    psf, isotropic, threads = host_array("psf", psf), check_flag("isotropic", isotropic), check_threads(threads)
    d = psf.ndim
    given, place = y, device_of(y, device)
    if place is not None:
        refuse_on_device(callback=callback)
        y = to_host(y)
    y = as_images("y", y, ndim=d if channel_axis is None else d + 1)
    channel_axis = None if channel_axis is None else check_axis("channel_axis", channel_axis, y.ndim)
    check_scale("y", y, d if channel_axis is None else d + 1)
    check_choice("boundary", boundary, ("periodic", "unknown"))
    for name, value in (("noise_std", noise_std), ("tv_weight", tv_weight)):
        if value is not None:
            check_number(name, value, strict=True)
    for name, value in (("epsilon", epsilon), ("kappa", kappa)):
        if value is not None:
            check_number(name, value)
    target = resolve_target(target, y)
    if isinstance(target, FromArray):
        target = target.array

    if channel_axis is None:
        planes, channels = y, 0
    else:
        planes, channels = np.moveaxis(y, channel_axis, -d - 1), 1
        if isinstance(target, np.ndarray):
            target = np.moveaxis(target, channel_axis, -d - 1)
    A = Blur(psf, planes.shape[-d:])
    A = Blur(A.psf / A.psf.sum(), A.shape)
    options = {"isotropic": isotropic, "tol": tol, "max_iter": max_iter, "callback": callback, "threads": threads}
    options["device"] = None if place is None else "cuda"

    begin = time.perf_counter()
    images = []
    for index in np.ndindex(planes.shape[: planes.ndim - d - channels]):
        group = planes[index]
        noise, spread = noise_std or estimate_noise(group, d), intensity_range(group)
        check_ratio("noise_std", noise_std or 0.0, spread, y.dtype)
        weight = tv_weight or default_tv_weight(noise, spread, isotropic)
        for channel in np.ndindex(group.shape[:channels]):
            goal = target[index][channel] if isinstance(target, np.ndarray) else target
            images.append((np.ascontiguousarray(group[channel]), goal, noise, weight))
    free = callback is None and place is None and (isinstance(target, np.ndarray) or target.concurrent)
    layout = Layout(len(images) if free else 1, A.shape, threads)
    options["threads"] = layout.threads

    def restore(image):
        return _restore(A, image[0], boundary, *image[1:], epsilon, kappa, options)

    solution = finished(layout.each(restore, images), planes.shape[:-d], begin, layout)
    solution.seconds = time.perf_counter() - begin
    if channel_axis is not None:
        solution.x = np.ascontiguousarray(np.moveaxis(solution.x, -d - 1, channel_axis))
    if place is not None:
        solution.x = from_host(solution.x, given, place)
    return solution


def _restore(A, y, boundary, target, noise_std, tv_weight, epsilon, kappa, options):
    """One image: lower level, target, trust, upper level; the frame cut out where it was extended."""
    shared = {name: options[name] for name in ("isotropic", "threads", "callback", "device")}
    frame, x0, clock = (), None, [time.perf_counter()]
    if boundary == "periodic":
        data = y
    else:

        def solve(A, z, x0):
            return solve_lower(A, z, tv_weight, x0=x0, tol=1e-3, **shared).x

        A, data, x0, frame = fill_margin(y, A.psf, solve, BOUNDARY_ROUNDS)
        if isinstance(target, np.ndarray):
            target = extend_periodically(target, [n - m for n, m in zip(A.shape, y.shape, strict=True)])
    lower = solve_lower(A, data, tv_weight, x0=x0, **shared)
    clock.append(time.perf_counter())

    target = resolve_target(target, data)
    factor, relaxed = target.exact_model if boundary == "periodic" else target.uncertain_model
    image = target(
        A, data, (), xbar=lower.x, tv_weight=tv_weight, noise_std=noise_std, isotropic=options["isotropic"],
        threads=options["threads"],
    )  # fmt: skip
    trust = None
    if epsilon is None:
        bound = (1 + max(target.exact_model[1], kappa or 0.0)) * lower.details["total_variation"]
        trust = target_trust(A, data, image, bound, noise_std, options["isotropic"], target.variation_range)
        epsilon = factor * trust * noise_std * math.sqrt(data.size)
        relaxed *= trust
    kappa = relaxed if kappa is None else kappa
    clock.append(time.perf_counter())

    solution = solve_bio(
        A, data, target=image, tv_weight=tv_weight, lower=lower, epsilon=epsilon, kappa=kappa, **options
    )
    clock.append(time.perf_counter())
    solution.x = np.ascontiguousarray(solution.x[frame])
    solution.details |= {
        "lower_image": lower.x[frame],
        "target": image[frame],
        "noise_std": noise_std,
        "tv_weight": tv_weight,
        "kappa": kappa,
        "trust": trust,
        "seconds": dict(zip(("lower", "target", "upper"), np.diff(clock).tolist(), strict=True)),
    }
    return solution
