"""From undersampled k-space to an image, or a stack of them, in one call."""

import math
import time

import numpy as np

from ._fourier import FourierProblem
from ._sparse import resolve_transform
from ._validation import (
    as_complex_images,
    as_images_like,
    as_mask,
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_ratio,
    check_scale,
    check_threads,
)
from .bio import solve_bio
from .lower import finished, intensity_range, solve_lower
from .noise import estimate_kspace_noise, hermitian_noise
from .operators import MaskedFourier, MultiCoilFourier
from .operators.fourier import mirrored
from .slots import Layout
from .targets import Target, is_module, non_local_means, resolve_target
from .transforms import UndecimatedWavelet

__all__ = ["default_mri_weight", "reconstruct_mri"]

# The rules below are calibrated on cardiac and tumour slices, not on the brain set (benchmarks/calibrate_mri.py).
WEIGHT_FACTOR, WEIGHT_FLOOR = 0.05, 1e-4
EPSILON_FACTOR = 0.6
# Of |A xbar - y|: the radius for several coils, and the largest one where the noise level is the border's.
COILS_MARGIN, BORDER_MARGIN = 1.02, 1.1
KAPPA = 0.15
SPARSITY = 0.15
# Strength of the non-local means of each round, and the coefficient size at which a weight is 1/2: of the range.
STRENGTHS = (0.03, 0.02)
PATCH_DISTANCE = 4
COEFFICIENT_SCALE = 0.003


def default_mri_weight(noise_std, spread=1.0):
    """The weight of both lower-level terms for complex noise of that standard deviation a sample.

    ``max(0.05 noise_std, 1e-4 spread)`` with spread the zero-filled image's range: where noise is weak, the
    artefacts of undersampling ask for the least weight that still lets the iteration converge quickly.
    """
    return max(WEIGHT_FACTOR * noise_std, WEIGHT_FLOOR * spread)


def reconstruct_mri(
    kspace,
    mask,
    *,
    maps=None,
    noise_std=None,
    target="nlm",
    rounds=None,
    tv_weight=None,
    wavelet_weight=None,
    wavelet=None,
    epsilon=None,
    kappa=None,
    sparsity_weight=None,
    transform=None,
    real=None,
    centred=False,
    isotropic=True,
    tol=1e-2,
    max_iter=500,
    callback=None,
    threads=None,
):
    """Reconstruct images from undersampled k-space: ``solve_bio``'s relaxed problem, every choice made from the data.

    1. The noise level is estimated and the lower level (TV and an undecimated wavelet, both with
       ``default_mri_weight``) solved: xbar.
    2. In each round D is the target made from the last image (xbar in the first): "nlm" is non-local means
       with a strength of 3 %, then 2 % of the range.
    3. The upper level min 1/2 |x - D|^2 + sum_k rho_k |T x|_k subject to |A x - y| <= epsilon and
       TV(x) <= (1 + kappa) TV(xbar) is solved to the certificate, T the undecimated wavelet.  The weights
       rho_k = sparsity_weight range s^2 / (s^2 + |T D|_k^2), s = 0.3 % of the range, spare the coefficients
       that the target, held to the data, has (reweighted l1; Candes, Wakin and Boyd, 2008).
       epsilon = 0.6 noise_std sqrt(samples), for a real image half the frequencies of which k or -k is sampled,
       at most 1.1 |A xbar - y| where noise_std was estimated from the border of k-space; for several coils
       1.02 |A xbar - y|.  kappa = 0.15.

    Parameters
    ----------
    kspace : ndarray, complex64 or complex128
        (..., *mask.shape), or (..., C, *mask.shape) with coil maps: whole grids, ignored where not sampled; leading
        axes are a batch of slices (volumes with a mask of 3 axes).
    mask : array of bool, shape (*spatial)
    maps : ndarray or str, optional
        Coil sensitivities, (C, *spatial) or one set a slice, (..., C, *spatial); "estimate": from the fully
        sampled centre of each slice's k-space (``bioperf.coils.estimate_maps``).  None: one coil.
    noise_std : float, optional
        Standard deviation of the complex noise of a sample, E|n|^2 = noise_std^2; 0 for noise-free data.  None:
        for a real image from the samples' departure from Hermitian symmetry (``hermitian_noise``), else from
        the border of k-space (``estimate_kspace_noise``).
    target : str, ndarray, callable or Target
        As in ``solve_bio``; callables and "nlm" act on the last image.
    rounds : int, optional
        How often steps 2 and 3 are done; None: twice, and once for an array or a target that takes turns with
        the data itself ("cnn", ``Target.rounds_of_solver``).
    tv_weight, wavelet_weight, epsilon, kappa, sparsity_weight : float, optional
        As in ``solve_bio``; chosen as above if None (sparsity_weight: 0.15, in units of the range; 0 leaves
        the term out).
    wavelet, transform : str or transform, optional
        W of the lower level and T of the upper; by default ``UndecimatedWavelet("db2", 2)`` for both.
    real : bool, optional
        Whether the images are real-valued.  None: with one coil, if the samples are Hermitian up to
        1e-3 of their norm; with several, never.
    centred : bool
        Where kspace and mask have the zero frequency: False, at index 0; True, in the middle (scanners' files).
    isotropic : bool
    tol : float
        As in ``solve_bio``, of the last round (earlier ones stop at 5 tol); 1e-2 is within 0.02 dB of the converged
        image on every slice tried.
    max_iter, callback, threads
        As in ``solve_bio``.

    Returns
    -------
    Solution
        As of ``solve_bio``, of the last round; x : (..., *spatial), complex, or real if ``real``.  ``details`` has
        also "lower" and "lower_image", "zero_filled", "noise_std", "tv_weight", "wavelet_weight", "epsilon", "kappa",
        "data_residual" (|A x - y| / |y|), "maps" (None for one coil) and "seconds" by stage.  For a batch these
        stand in ``details["items"]``.

    Raises
    ------
    TypeError, ValueError
        For unusable input, naming the argument.
    """
    mask = as_mask("mask", mask)
    kspace = as_complex_images("kspace", kspace, mask.shape)
    if not np.any(kspace[..., mask]):
        raise ValueError("kspace: all samples are 0; check that mask and kspace have the zero frequency in one place")
    d = mask.ndim
    coils = maps is not None
    if coils and kspace.ndim == d:
        raise ValueError(f"kspace: with maps expected shape (..., coils, {str(mask.shape)[1:]}, got {kspace.shape}")
    check_scale("kspace", kspace, d + coils)
    if isinstance(maps, str):
        check_choice("maps", maps, ("estimate",))
    batch_shape = kspace.shape[: kspace.ndim - d - coils]
    if coils and not isinstance(maps, str):
        maps = _maps_of_each(maps, kspace, batch_shape, mask.shape)
    if tv_weight is not None:
        check_number("tv_weight", tv_weight, strict=True)
    for name, value in (
        ("noise_std", noise_std), ("wavelet_weight", wavelet_weight), ("epsilon", epsilon), ("kappa", kappa),
        ("sparsity_weight", sparsity_weight),
    ):  # fmt: skip
        if value is not None:
            check_number(name, value)
    if rounds is not None:
        rounds = check_count("rounds", rounds)
    tol = check_number("tol", tol, strict=True)
    max_iter, threads = check_count("max_iter", max_iter), check_threads(threads)
    centred, isotropic = check_flag("centred", centred), check_flag("isotropic", isotropic)
    real = None if real is None else check_flag("real", real)
    if wavelet is None:
        wavelet = UndecimatedWavelet("db2", 2 if max(mask.shape) > 2 else 1, ndim=d)
    wavelet = resolve_transform("wavelet", wavelet, mask.shape)
    transform = resolve_transform("transform", wavelet if transform is None else transform, mask.shape)
    if real is None:
        real = not coils and is_hermitian(kspace, mask, centred)
    elif real and coils:
        raise ValueError("real: images seen by several coils are complex; leave real=None")
    if not isinstance(target, str | Target) and not callable(target):
        target = _target_images(target, batch_shape, mask.shape, kspace, real)
        rounds = 1
    elif is_module(target) or (isinstance(target, str) and target != "nlm"):
        target = resolve_target(target, kspace)
    if rounds is None:
        rounds = target.rounds_of_solver if isinstance(target, Target) else Target.rounds_of_solver
    model = {
        "tv_weight": tv_weight, "wavelet_weight": wavelet_weight, "wavelet": wavelet, "isotropic": bool(isotropic),
        "epsilon": epsilon, "kappa": KAPPA if kappa is None else kappa, "transform": transform,
        "sparsity": SPARSITY if sparsity_weight is None else sparsity_weight,
    }  # fmt: skip
    options = {"tol": tol, "max_iter": max_iter, "callback": callback, "threads": threads}

    begin = time.perf_counter()
    free = callback is None and (isinstance(target, str | np.ndarray) or getattr(target, "concurrent", False))
    layout = Layout(math.prod(batch_shape) if free else 1, mask.shape, threads)
    options["threads"] = layout.threads

    def reconstruct(index):
        y = np.ascontiguousarray(kspace[index])
        start = time.perf_counter()
        A = _operator(y, mask, maps if isinstance(maps, str | None) else maps[index], real, centred)
        clock = {"maps": time.perf_counter() - start} if isinstance(maps, str) else {}
        goal = target[index] if isinstance(target, np.ndarray) else target
        item = _reconstruct(A, y, noise_std, goal, rounds, model, options)
        item.details["seconds"] = clock | item.details["seconds"]
        return item

    solution = finished(layout.each(reconstruct, list(np.ndindex(batch_shape))), batch_shape, begin, layout)
    solution.seconds = time.perf_counter() - begin
    return solution


def _maps_of_each(maps, kspace, batch_shape, shape):
    maps = as_complex_images("maps", maps, shape)
    check_scale("maps", maps, maps.ndim, dtype=kspace.dtype)
    coils = kspace.shape[len(batch_shape)]
    if maps.shape not in ((coils, *shape), kspace.shape):
        wanted = f"({coils}, {str(shape)[1:]}" + (f" or {kspace.shape}" if batch_shape else "")
        raise ValueError(f"maps: expected shape {wanted} for k-space of shape {kspace.shape}, got {maps.shape}")
    return np.broadcast_to(maps.astype(kspace.dtype, copy=False), kspace.shape)


def _target_images(target, batch_shape, shape, kspace, real):
    like = np.broadcast_to(np.zeros((), kspace.real.dtype if real else kspace.dtype), (*batch_shape, *shape))
    return as_images_like("target", target, like)


def _operator(y, mask, maps, real, centred):
    if maps is None:
        return MaskedFourier(mask, real=real, centred=centred)
    if isinstance(maps, str):
        from .coils import estimate_maps

        maps = estimate_maps(y, mask, centred=centred)
    return MultiCoilFourier(mask, maps, centred=centred)


def is_hermitian(kspace, mask, centred):
    """Whether enough samples have their mirror sampled to say so, and these agree to 1e-3 of all samples' size."""
    sampled = np.fft.ifftshift(mask) if centred else mask
    if np.count_nonzero(sampled & mirrored(sampled)) < 16:
        return False
    samples = kspace[..., mask]
    size = float(np.linalg.norm(samples)) / math.sqrt(samples.size)
    return hermitian_noise(kspace, mask, centred=centred) <= 1e-3 * size


def _reconstruct(A, y, noise_std, target, rounds, model, options):
    """One slice or volume: lower level, then the rounds of target and upper level."""
    shared = {"isotropic": model["isotropic"], "threads": options["threads"], "callback": options["callback"]}
    clock = {"lower": time.perf_counter(), "target": 0.0, "upper": 0.0}
    y = A.check_data("kspace", y)
    zero_filled = A.data_image(y)
    spread = intensity_range(zero_filled)
    check_ratio("noise_std", noise_std or 0.0, spread, y.dtype)
    certain = A.real or noise_std is not None
    if noise_std is None:
        estimate = hermitian_noise if A.real else estimate_kspace_noise
        noise_std = estimate(y, A.mask, centred=A.centred)
    weight = default_mri_weight(noise_std, spread)
    tv_weight = weight if model["tv_weight"] is None else model["tv_weight"]
    wavelet_weight = weight if model["wavelet_weight"] is None else model["wavelet_weight"]
    lower = solve_lower(
        A, y, tv_weight, wavelet_weight=wavelet_weight, wavelet=model["wavelet"], tol=0.1 * options["tol"], **shared
    )
    epsilon = _default_epsilon(A, y, lower.x, noise_std, certain) if model["epsilon"] is None else model["epsilon"]
    clock["lower"] = time.perf_counter() - clock["lower"]

    solution = lower
    for k in range(rounds):
        start = time.perf_counter()
        strength = STRENGTHS[min(k, len(STRENGTHS) - 1)] * spread
        image = _target_image(target, A, y, solution.x, strength, tv_weight, noise_std, shared)
        held = _held_to_data(A, y, image, epsilon, options["threads"])
        rho = model["sparsity"]
        if rho:
            square = np.abs(model["transform"].forward(held, threads=options["threads"])) ** 2
            scale = held.real.dtype.type((COEFFICIENT_SCALE * spread) ** 2)
            rho = held.real.dtype.type(rho * spread) * (scale / (scale + square))
        clock["target"] += time.perf_counter() - start
        start = time.perf_counter()
        solution = solve_bio(
            A, y, target=image, tv_weight=tv_weight, lower=lower, ybar="observation", epsilon=epsilon,
            kappa=model["kappa"], sparsity_weight=rho, transform=model["transform"], x0=held,
            isotropic=model["isotropic"], **options | {"tol": options["tol"] * (1 if k == rounds - 1 else 5)},
        )  # fmt: skip
        clock["upper"] += time.perf_counter() - start
    residual = float(np.linalg.norm(A(solution.x) - y)) / max(float(np.linalg.norm(y)), np.finfo(float).tiny)
    solution.details |= {
        "lower_image": lower.x, "zero_filled": zero_filled, "noise_std": noise_std, "tv_weight": tv_weight,
        "wavelet_weight": wavelet_weight, "epsilon": epsilon, "kappa": model["kappa"], "data_residual": residual,
        "maps": getattr(A, "maps", None), "seconds": clock,
    }  # fmt: skip
    return solution


def _default_epsilon(A, y, xbar, noise_std, certain):
    """0.6 noise_std sqrt(complex numbers that the data determine); for several coils what xbar leaves of the data.

    Several coils have more samples than there are unknowns, and most of the noise is in no image's data.  A level
    read off the border of k-space may be the image's own detail: then the radius stays near what xbar leaves.
    """
    left = float(np.linalg.norm(A(xbar) - y))
    if isinstance(A, MultiCoilFourier):
        return COILS_MARGIN * left
    samples = 0.5 * (A.sampled | mirrored(A.sampled)).sum() if A.real else A.mask.sum()
    epsilon = EPSILON_FACTOR * noise_std * math.sqrt(samples)
    return epsilon if certain else min(epsilon, BORDER_MARGIN * left)


def _target_image(target, A, y, image, strength, tv_weight, noise_std, shared):
    if isinstance(target, np.ndarray):
        return target
    if isinstance(target, str) and target == "nlm":
        return non_local_means(image, strength, patch_distance=PATCH_DISTANCE)
    if callable(target) and not isinstance(target, Target):
        return as_images_like("target(x)", target(image.copy()), image)
    return target(
        A, y, (), xbar=image, tv_weight=tv_weight, noise_std=noise_std, isotropic=shared["isotropic"],
        threads=shared["threads"],
    )  # fmt: skip


def _held_to_data(A, y, image, epsilon, threads):
    """The image with its samples moved to within epsilon of the data: the nearest such image for one coil."""
    if isinstance(A, MultiCoilFourier):
        residual = A(image) - y
        norm = float(np.linalg.norm(residual))
        step = max(0.0, 1 - epsilon / norm) / A.norm() ** 2 if norm > 0 else 0.0
        return image - image.real.dtype.type(step) * A.adjoint(residual)
    problem = FourierProblem(A, image.dtype, threads)
    data, _ = A.coefficients(y, problem.fft)
    spectrum = problem.fft.coefficients(image)
    residual = problem.transfer * spectrum - data
    norm = math.sqrt(problem.square_norm(residual))
    if norm > epsilon:
        sampled = problem.transfer != 0
        residual *= problem.real_dtype.type(1 - epsilon / norm)
        spectrum -= np.divide(residual, problem.transfer, out=np.zeros_like(residual), where=sampled)
    return problem.fft.inverse(spectrum, *problem.fft.empty("image"))
