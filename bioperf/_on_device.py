"""``solve_lower`` and ``solve_bio`` on a GPU: the batched iterations of ``bioperf.slots`` on its arrays."""

import time

import numpy as np

from ._kkt import LOWER_MAX_ITER, LOWER_TOL
from ._validation import batch_of, check_numbers, check_ratio
from .lower import LowerModel, without_iterating
from .slots import LowerBatch, Queue, UpperBatch, UpperItem
from .slots.device import DeviceBatch
from .solution import Solution, stack
from .targets import Deconvolution, FromArray, Identity, resolve_target


def lower_on_device(A, y, tv_weight, x0, device, options):
    """What ``solve_lower`` returns, for data in the device's memory or to be moved there."""
    begin = time.perf_counter()
    data = DeviceBatch(A, y, device)
    batch_shape = batch_of(data.shape, tv_weight=tv_weight)
    weights = check_numbers("tv_weight", tv_weight, batch_shape, strict=True).ravel()
    y, arrays = data.flat(data.y, batch_shape), data.arrays
    if x0 is not None:
        x0 = data.images("x0", x0, batch_shape)
    items, result = [None] * len(weights), arrays.results(len(weights))
    observed = data.problem.operator.data_image(y)
    ranges = arrays.ranges(observed)
    for weight, spread in zip(weights, ranges, strict=True):
        check_ratio("tv_weight", float(weight), float(spread), data.problem.dtype)
    for k in np.flatnonzero(weights > ranges):
        model = LowerModel(float(weights[k]), 0.0, None, options["isotropic"])
        items[k] = without_iterating(data.problem.host, y[k].cpu().numpy(), observed[k].cpu().numpy(), model)
        if items[k] is not None:
            result[k] = arrays.torch.as_tensor(items[k].x)
    rest = [k for k, item in enumerate(items) if item is None]
    if rest:
        queue = Queue(len(rest), arrays.results(len(rest)), names=rest)
        starts = None if x0 is None else x0[rest]
        LowerBatch(data.problem, arrays, queue, y[rest], observed[rest], weights[rest], starts, **options).run()
        for k, item in zip(rest, queue.solutions, strict=True):
            items[k] = item
        result[rest] = queue.result
    return _finished(items, batch_shape, data.result(result, batch_shape), begin)


def bio_on_device(A, y, target, tv_weight, lower, ybar, epsilon, kappa, x0, device, options):
    """What ``solve_bio`` returns, for data in the device's memory or to be moved there."""
    data = DeviceBatch(A, y, device)
    isotropic = options["isotropic"]
    lower_shape = batch_of(data.shape, tv_weight=tv_weight)
    batch_shape = batch_of(lower_shape, epsilon=epsilon, kappa=kappa)
    tv_weights = check_numbers("tv_weight", tv_weight, lower_shape, strict=True)
    epsilons = check_numbers("epsilon", epsilon, batch_shape).ravel()
    kappas = check_numbers("kappa", kappa, batch_shape).ravel()
    begin = time.perf_counter()
    solution = lower if isinstance(lower, Solution) else None
    if lower is None:
        lower_options = {"isotropic": isotropic, "tol": LOWER_TOL, "max_iter": LOWER_MAX_ITER, "penalty": None}
        solution = lower_on_device(A, data.y, tv_weight, None, device, lower_options)
    xbar = data.images("lower", solution.x if solution is not None else lower, lower_shape)
    variations = data.arrays.total_variations(xbar, isotropic).reshape(lower_shape)
    bounds = (1 + kappas) * np.broadcast_to(variations, batch_shape).ravel()
    xbar = xbar.reshape(*lower_shape, *A.shape)
    if isinstance(ybar, str):
        ybar = data.y if ybar == "observation" else data.problem.operator(xbar)
    else:
        ybar = DeviceBatch(A, ybar, device).y
    images = _target_images(data, target, xbar, tv_weights, isotropic, batch_shape)
    start = data.flat(xbar, batch_shape) if x0 is None else data.images("x0", x0, batch_shape)
    items = [
        UpperItem(*values) for values in zip(data.flat(ybar, batch_shape), images, bounds, epsilons, start, strict=True)
    ]
    queue = Queue(len(items), data.arrays.results(len(items)))
    UpperBatch(data.problem, data.arrays, queue, items, **options).run()
    for found, item in zip(queue.solutions, items, strict=True):
        found.details |= {"target": item.target, "total_variation_bound": item.bound, "epsilon": item.epsilon}
    found = _finished(queue.solutions, batch_shape, data.result(queue.result, batch_shape), begin)
    found.details["lower"] = solution
    return found


def _target_images(data, target, xbar, tv_weights, isotropic, batch_shape):
    """D of each item, (count, *spatial): on the device where the target is simple, else made on the CPU."""
    A, arrays, lower_shape = data.problem.A, data.arrays, tv_weights.shape
    if not isinstance(target, str) and not callable(target):
        return data.images("target", target, batch_shape)
    target = resolve_target(target, None)
    if isinstance(target, FromArray):
        return data.images("target", target.array, batch_shape)
    y = data.y.expand(*lower_shape, *A.data_shape)
    if isinstance(target, Identity):
        return data.flat(data.problem.operator.data_image(y), batch_shape)
    if isinstance(target, Deconvolution) and target.alpha is not None and hasattr(A, "psf"):
        transfer = data.problem.transfer
        multiplier = (transfer.conj() + target.alpha) / (transfer.real**2 + transfer.imag**2 + target.alpha)
        operator = data.problem.operator
        return data.flat(operator.inverse(operator.forward(y).mul_(multiplier * operator.scale)), batch_shape)
    y, xbar = y.cpu().numpy(), xbar.cpu().numpy()
    found = np.stack([
        target(A, y, index, xbar=xbar[index], tv_weight=float(tv_weights[index]), isotropic=isotropic)
        for index in np.ndindex(lower_shape)
    ]).reshape(*lower_shape, *A.shape)  # fmt: skip
    return data.flat(arrays.torch.as_tensor(found, device=data.problem.device), batch_shape)


def _finished(items, batch_shape, x, begin):
    solution = stack(items, batch_shape, x)
    # also where the first item needed no iteration
    solution.backend, solution.fft, solution.threads = "cuda", "torch", 1
    solution.seconds = time.perf_counter() - begin
    if batch_shape:
        solution.details["layout"] = f"{len(items)} images side by side on the GPU"
    return solution
