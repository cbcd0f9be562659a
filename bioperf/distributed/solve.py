"""Both levels on volumes in slabs: the iterations of ``bioperf.lower`` and ``bioperf.bio`` on every rank's part."""

import functools
import time
import zlib
from dataclasses import replace

import numpy as np

from .._kkt import LOWER_MAX_ITER, LOWER_TOL
from .._validation import (
    check_callback,
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_ratio,
    check_scale,
)
from ..bio import ball_iterations, checked_penalties
from ..lower import LowerModel, admm, without_iterations
from ..operators import Blur
from ..slots import UpperItem
from ..solution import Solution
from .agreement import same, together
from .problem import Observed, SlabProblem
from .volume import Volume

__all__ = ["solve_bio", "solve_lower"]


def solve_lower(
    volume,
    y,
    psf,
    tv_weight,
    *,
    isotropic=False,
    tol=LOWER_TOL,
    max_iter=LOWER_MAX_ITER,
    x0=None,
    penalty=None,
    callback=None,
):
    """Solve min_x 1/2 |A x - y|^2 + tv_weight TV(x), A the periodic blur, on a volume in slabs.

    The iteration, the stopping tests and the certificate are those of ``bioperf.solve_lower``, whose result this is but
    for rounding: the transforms add in another order.

    Parameters
    ----------
    volume : Volume
    y : ndarray, shape volume.slab_shape
        This rank's slab of the blurred volume, in the volume's dtype.
    psf : array, as many axes as the volume
        The whole point spread function, the same on every rank; as of ``Blur``.
    tv_weight : float
        > 0.
    isotropic, tol, max_iter, penalty
        As in ``bioperf.solve_lower``.
    x0 : ndarray, shape volume.slab_shape, optional
        This rank's slab of the volume to start from; y by default.
    callback : callable, optional
        On any of the ranks.  Called with a ``Progress`` whose x is the rank's slab; if one returns True all stop.

    Returns
    -------
    Solution
        The same on every rank, but ``x`` is the rank's slab and "seconds" its time.

    Raises
    ------
    TypeError, ValueError
        On every rank, for input that is unusable on one of them, or that differs where it must not.
    DivergenceError
        On every rank, if NaN or infinity appears.
    """
    blur = _checked_blur(volume, psf)
    with together(volume.comm):
        options = {
            "tv_weight": check_number("tv_weight", tv_weight, strict=True),
            "isotropic": check_flag("isotropic", isotropic),
            "tol": check_number("tol", tol, strict=True),
            "max_iter": check_count("max_iter", max_iter),
            "penalty": None if penalty is None else check_number("penalty", penalty, strict=True),
        }
        check_ratio("penalty", options["penalty"] or 0.0, 1.0, volume.dtype, "the data term's weight")
        check_callback(callback)
    same(volume.comm, **options, x0=x0 is not None)
    observed = _observed(volume, y, blur, options["tv_weight"])
    if x0 is not None:
        x0 = _slab(volume, "x0", x0)
    return _lower(SlabProblem(volume, blur), observed, x0=x0, callback=_agreed(volume, callback), **options)


def solve_bio(
    volume,
    y,
    psf,
    *,
    target,
    tv_weight,
    lower=None,
    ybar="admm",
    epsilon=0.0,
    kappa=0.0,
    eta=1.0,
    isotropic=False,
    tol=1e-3,
    max_iter=1000,
    x0=None,
    penalties=None,
    callback=None,
):
    """Solve the relaxed bilevel problem (mathematics.md, eq. 1) on a volume in slabs, by splitting "ball".

    The iteration, the stopping tests and the certificate are those of ``bioperf.solve_bio``, whose result this is but
    for rounding.

    Parameters
    ----------
    volume, y, psf, tv_weight, isotropic, callback
        As in ``solve_lower``.
    target : "identity" or ndarray, shape volume.slab_shape
        D: the observation, or this rank's slab of a target.  "nlm", "deconv" and "cnn" are for images that one process
        has; make a target by other means.
    lower : Solution or ndarray, shape volume.slab_shape, optional
        xbar, if the lower level was solved before.
    ybar : "admm", "observation" or ndarray, shape volume.slab_shape
        A xbar, y itself, or this rank's slab.
    epsilon, kappa, eta, tol, max_iter, penalties
        As in ``bioperf.solve_bio``; epsilon is of the whole volume's norm.
    x0 : ndarray, shape volume.slab_shape, optional
        xbar by default.

    Returns
    -------
    Solution
        The same on every rank, but for slabs (``x``, "target") and times; ``details`` as of ``bioperf.solve_bio``.

    Raises
    ------
    TypeError, ValueError, DivergenceError
        As ``solve_lower``.
    """
    blur = _checked_blur(volume, psf)
    with together(volume.comm):
        weight = check_number("tv_weight", tv_weight, strict=True)
        epsilon, kappa = check_number("epsilon", epsilon), check_number("kappa", kappa)
        options = {
            "eta": check_number("eta", eta, strict=True),
            "isotropic": check_flag("isotropic", isotropic),
            "tol": check_number("tol", tol, strict=True),
            "max_iter": check_count("max_iter", max_iter),
        }
        check_ratio("eta", options["eta"], 1.0, volume.dtype, "that of the order of 1")
        penalties = checked_penalties(penalties)
        for b in penalties or ():
            check_ratio("penalties", b, options["eta"], volume.dtype, "eta")
        check_callback(callback)
        if isinstance(target, str):
            check_choice("target", target, ("identity",))
        if isinstance(ybar, str):
            check_choice("ybar", ybar, ("admm", "observation"))
        xbar = lower.x if isinstance(lower, Solution) else lower
    same(
        volume.comm, tv_weight=weight, epsilon=epsilon, kappa=kappa, penalties=penalties, x0=x0 is not None,
        target=_word(target), ybar=_word(ybar), lower=lower is not None, **options,
    )  # fmt: skip
    observed = _observed(volume, y, blur, weight)
    given = {"target": target, "ybar": ybar}
    given |= {name: a for name, a in (("lower", xbar), ("x0", x0)) if a is not None}
    given = {name: _slab(volume, name, a) for name, a in given.items() if not isinstance(a, str)}
    callback, isotropic = _agreed(volume, callback), options["isotropic"]
    begin = time.perf_counter()
    problem = SlabProblem(volume, blur)
    solution = lower if isinstance(lower, Solution) else None
    if lower is None:
        solution = _lower(
            problem, observed, tv_weight=weight, isotropic=isotropic, tol=LOWER_TOL, max_iter=LOWER_MAX_ITER,
            penalty=None, x0=None, callback=None,
        )  # fmt: skip
        given["lower"] = solution.x
    xbar = volume.extended(given["lower"])
    bound = (1 + kappa) * problem.total_variation(xbar, isotropic)
    data = observed.slab if isinstance(ybar, str) and ybar == "observation" else given.get("ybar")
    image = given.get("target", observed.slab)
    start = volume.extended(given["x0"]) if "x0" in given else xbar
    item = UpperItem(data, image, bound, epsilon, start, xbar)
    found = ball_iterations(problem, item, penalties, (None, 0.0), callback=callback, **options)
    found.x = found.x[: volume.planes]
    found.details |= {"target": image, "total_variation_bound": bound, "epsilon": epsilon, "lower": solution}
    found.seconds = time.perf_counter() - begin
    return found


def _word(value):
    return value if isinstance(value, str) else "a slab"


def _checked_blur(volume, psf):
    if not isinstance(volume, Volume):
        raise TypeError(f"volume: expected a bioperf.distributed.Volume, got {volume!r}")
    with together(volume.comm):
        blur = Blur(psf, volume.shape)
    same(volume.comm, psf=f"shape {blur.psf.shape}, checksum {zlib.crc32(blur.psf.tobytes()):08x}")
    return blur


def _observed(volume, y, blur, tv_weight):
    observed = Observed(volume, volume.check_slab("y", y))
    with together(volume.comm):
        check_scale("y", np.array([observed.largest], volume.dtype), 1, gain=blur.norm())
        check_ratio("tv_weight", tv_weight, observed.range, volume.dtype)
    return observed


def _slab(volume, name, part):
    part = volume.check_slab(name, part)
    with together(volume.comm):
        check_scale(name, part, part.ndim, small=True)
    return part


def _agreed(volume, callback):
    """A callback that every rank calls at the same checks, and that stops all if one rank's returns True."""
    if not any(volume.comm.allgather(callback is not None)):
        return None

    def agreed(progress):
        stop = False
        with together(volume.comm):
            if callback is not None:
                stop = callback(replace(progress, x=progress.x[: volume.planes]))
        return bool(volume.max(isinstance(stop, bool | np.bool_) and bool(stop)))

    return agreed


def _lower(problem, observed, *, tv_weight, isotropic, tol, max_iter, x0, penalty, callback):
    model = LowerModel(tv_weight, 0.0, None, isotropic)
    solution = _constant(problem, observed, model)
    if solution is None:
        start = problem.volume.extended(observed.slab if x0 is None else x0)
        solution = admm(problem, observed, model, tol, max_iter, start, observed.range, penalty, None, callback)
        solution.x = solution.x[: problem.volume.planes]
    return solution


def _constant(problem, observed, model):
    """The solution for a weight so large that it is a constant, with its proof, else None (``_constant_solution``)."""
    if model.tv_weight <= observed.range:
        return None
    fft, volume = problem.fft, problem.volume
    data = fft.coefficients(observed.slab)
    gain = problem.mean_of(problem.transfer)
    value = problem.dtype.type(problem.mean_of(data) / gain)
    # mu = -grad L^+ A^T(A c - y) satisfies stationarity exactly; |mu| <= gamma makes c a solution
    total = functools.reduce(np.add.outer, fft.laplacian())
    if fft.owns_mean:
        data[(0,) * data.ndim], total[(0,) * data.ndim] = 0, 1
    (potential,) = fft.empty("image")
    fft.inverse(np.conj(problem.transfer) * data / total, potential)
    mu = problem.kernels.gradient(potential, ndim=data.ndim)[:, : volume.planes]
    largest = np.sqrt(np.max(np.sum(mu * mu, axis=0))) if model.isotropic else np.max(np.abs(mu))
    if not volume.max(largest) <= model.tv_weight:
        return None
    x, objective = np.full(volume.slab_shape, value, problem.dtype), 0.5 * problem.square_norm(data)
    return without_iterations(problem, x, objective, "the constant image")
