"""Elementwise maps, projections and the rank-one solve on CUDA: the formulas of ``_reference.py``.

The radii and thresholds of the projections are NumPy arrays, as on the other backends.
"""

import math

import numpy as np
from numba import cuda, types

from ._cuda_common import (
    THREADS,
    Launcher,
    at,
    ball_scale,
    block_sums,
    clip,
    first_element,
    flat_blocks,
    kernel,
    product,
    real,
    square,
)
from ._cuda_fields import measure_field, search_thresholds

# --- elementwise ----------------------------------------------------------------------------


@kernel("T r T i i", dtypes="fd")
def _soft(x, threshold, out, size, blocks):
    _, e = first_element(blocks)
    while e < size:
        value = x[at(e)]
        out[at(e)] = value - clip(value, threshold)
        e += blocks * THREADS


@kernel("T r r T i i", dtypes="fd")
def _box(x, lower, upper, out, size, blocks):
    _, e = first_element(blocks)
    while e < size:
        value = x[at(e)]
        raised = lower if value < lower else value
        out[at(e)] = upper if raised > upper else raised
        e += blocks * THREADS


@kernel("T T i i", dtypes="fd")
def _nonnegative(x, out, size, blocks):
    _, e = first_element(blocks)
    while e < size:
        value = x[at(e)]
        out[at(e)] = real(x, 0) if value < real(x, 0) else value
        e += blocks * THREADS


def _map(kernel, x, *arguments):
    size = product(x.shape)
    blocks = flat_blocks(size)
    Launcher(x)(kernel, blocks, x, *arguments, size, blocks)


def soft_threshold(x, threshold, out, threads=1):
    _map(_soft, x, threshold, out)


def project_box(x, lower, upper, out, threads=1):
    _map(_box, x, lower, upper, out)


def project_nonnegative(x, out, threads=1):
    _map(_nonnegative, x, out)


# --- balls ----------------------------------------------------------------------------------


@kernel("T D i i", dtypes="fd")
def _squares(x, partial, size, blocks):
    """Squares in float64: no float32 overflows."""
    item, e = first_element(blocks)
    total = 0.0
    while e < size:
        value = np.float64(x[at(item * size + e)])
        total += value * value
        e += blocks * THREADS
    sums = cuda.shared.array((1, THREADS), types.float64)
    sums[0, cuda.threadIdx.x] = total
    block_sums(sums, 0, partial)


@kernel("T D D T i i", dtypes="fd")
def _shrink_to_ball(x, radii, sums, out, size, blocks):
    item, e = first_element(blocks)
    norm, radius = math.sqrt(sums[at(item)]), radii[at(item)]
    factor = real(x, 1.0 if norm <= radius else radius / norm)
    while e < size:
        value = x[at(item * size + e)]
        out[at(item * size + e)] = factor * value
        e += blocks * THREADS


def project_l2_ball(x, radius, out, threads=1):
    run, (items, size) = Launcher(x), x.shape
    blocks = flat_blocks(size)
    partial, sums = run.scratch(items * blocks), run.scratch((items, 1))
    run(_squares, items * blocks, x, partial, size, blocks)
    run.finish(partial, blocks, 1, 0, sums)
    run(_shrink_to_ball, items * blocks, x, run.to_device(radius), sums, out, size, blocks)


@kernel("T D T i i i", dtypes="fd")
def _excess(x, thresholds, out, d, size, blocks):
    """out <- x - clip(x, theta), by the norm over d components if d is not 0."""
    item, e = first_element(blocks)
    threshold = real(x, thresholds[at(item)])
    field = item * max(d, 1) * size
    while e < size:
        if d == 0:
            value = x[at(field + e)]
            out[at(field + e)] = value - clip(value, threshold)
        else:
            total = square(x[at(field + e)])
            if d > 1:
                total += square(x[at(field + size + e)])
            if d > 2:
                total += square(x[at(field + 2 * size + e)])
            scale = ball_scale(math.sqrt(total), threshold)
            k = 0
            while k < d:
                value = x[at(field + k * size + e)]
                out[at(field + k * size + e)] = value - scale * value
                k += 1
        e += blocks * THREADS


def _project(run, items, d, size, x, radius, threshold, isotropic, out):
    radii, thresholds, sums = run.to_device(radius), run.to_device(threshold), run.scratch((items, 3))
    measure_field(run, items, d, size, x, thresholds, isotropic, sums)
    search_thresholds(run, items, d, size, x, radii, isotropic, thresholds, sums, wait=True)
    blocks = flat_blocks(size)
    run(_excess, items * blocks, x, thresholds, out, d if isotropic else 0, size, blocks)
    threshold[...] = run.to_host(thresholds)


def project_l1_ball(x, radius, threshold, out, threads=1):
    items, size = x.shape
    _project(Launcher(x), items, 1, size, x, radius, threshold, False, out)


def project_l21_ball(x, radius, threshold, out, threads=1):
    items, d, size = x.shape
    _project(Launcher(x), items, d, size, x, radius, threshold, True, out)


# --- the rank-one solve ---------------------------------------------------------------------


@kernel("T D i i", dtypes="fd")
def _sum(x, partial, size, blocks):
    _, e = first_element(blocks)
    total = 0.0
    while e < size:
        total += np.float64(x[at(e)])
        e += blocks * THREADS
    sums = cuda.shared.array((1, THREADS), types.float64)
    sums[0, cuda.threadIdx.x] = total
    block_sums(sums, 0, partial)


@kernel("T D d d T i i", dtypes="fd")
def _solve(c, sums, diagonal, rank_one, out, size, blocks):
    _, e = first_element(blocks)
    shift = real(c, rank_one * sums[0] / (diagonal + rank_one * size))
    scale = real(c, diagonal)
    while e < size:
        out[at(e)] = (c[at(e)] - shift) / scale
        e += blocks * THREADS


def rank_one_solve(c, diagonal, rank_one, out, threads=1):
    run, size = Launcher(c), product(c.shape)
    blocks = flat_blocks(size)
    partial, sums = run.scratch(blocks), run.scratch((1, 1))
    run(_sum, blocks, c, partial, size, blocks)
    run.finish(partial, blocks, 1, 0, sums)
    run(_solve, blocks, c, sums, diagonal, rank_one, out, size, blocks)
