"""Gradients and the fused updates of total variation on CUDA: the formulas of ``_reference.py``.

A thread walks down the rows of one column of a unit (see ``_cuda_common.py``) with one pixel's components in
registers: a along n0, b along n1 and c along n2, 0 where the image has no such axis.
"""

import math

import numpy as np
from numba import cuda, types

from ._cuda_common import (
    ROWS,
    THREADS,
    Grid,
    Launcher,
    at,
    ball_scale,
    block_sums,
    clip,
    expect,
    first_element,
    first_unit,
    flat_blocks,
    gather_sums,
    inner,
    items_of,
    kernel,
    larger,
    line_count,
    magnitude,
    plain,
    product,
    real,
    square,
    times,
    unit_count,
    unit_line,
    unit_place,
    unit_stride,
    zero,
)

# The Newton passes of a batch's thresholds, and the elements of a thread in one of them.
PASSES = 12
_PASS_ELEMENTS = 16

# Bytes of the field that one update and the divergence after it work on, so that the second reads from the L2 cache:
# 50 MB on an H100 and 40 MB on an A100, in two halves.
CHUNK = 1 << 24


# --- gradient -------------------------------------------------------------------------------


@kernel("T T i i i i i i")
def _gradient(x, p, d, n0, n1, n2, shift, blocks):
    item, unit = first_unit(blocks, shift)
    plane = n1 * n2
    size = n0 * plane
    units, stride = unit_count(n0, n1, n2, shift), unit_stride(blocks, shift)
    while unit < units:
        i, j, m = unit_place(unit, n1, n2, shift)
        if m < n2:
            right = 1 if m + 1 < n2 else -m
            below = n2 if j + 1 < n1 else -j * n2
            stop = min(i + ROWS, n0)
            here = i * plane + j * n2 + m
            source, target = item * size + here, item * d * size + here
            value = x[at(source)]
            while i < stop:
                p[at(target + (d - 1) * size)] = x[at(source + right)] - value
                if d > 2:
                    p[at(target + size)] = x[at(source + below)] - value
                if d > 1:
                    following = x[at(source + (plane if i + 1 < n0 else -i * plane))]
                    p[at(target)] = following - value
                    value = following
                source += plane
                target += plane
                i += 1
        unit += stride


@kernel("T T i i i i i i")
def _adjoint(p, out, d, n0, n1, n2, shift, blocks):
    item, unit = first_unit(blocks, shift)
    plane = n1 * n2
    size = n0 * plane
    units, stride = unit_count(n0, n1, n2, shift), unit_stride(blocks, shift)
    while unit < units:
        i, j, m = unit_place(unit, n1, n2, shift)
        if m < n2:
            left = 1 if m else 1 - n2
            above = n2 if j else (1 - n1) * n2
            stop = min(i + ROWS, n0)
            here = i * plane + j * n2 + m
            target, source = item * size + here, item * d * size + here
            before = p[at(source - (plane if i else (1 - n0) * plane))]
            while i < stop:
                last = source + (d - 1) * size
                value = p[at(last - left)] - p[at(last)]
                if d > 1:
                    following = p[at(source)]
                    value += before - following
                    before = following
                if d > 2:
                    value += p[at(source + size - above)] - p[at(source + size)]
                out[at(target)] = value
                source += plane
                target += plane
                i += 1
        unit += stride


def gradient(x, ndim, out, threads=1):
    run, grid, size = Launcher(x), Grid(x.shape[-ndim:]), product(x.shape)
    expect(ndim * size, out=out)
    run(_gradient, size // grid.size * grid.blocks, x, out, ndim, *grid.arguments)


def gradient_adjoint(p, ndim, out, threads=1):
    run, grid, size = Launcher(p), Grid(p.shape[-ndim:]), product(out.shape)
    expect(ndim * size, p=p)
    run(_adjoint, size // grid.size * grid.blocks, p, out, ndim, *grid.arguments)


# --- one pixel ------------------------------------------------------------------------------


@plain
def _norm(a, b, c):
    return math.sqrt(square(a) + square(b) + square(c))


@plain
def _measure(a, b, c, trial, isotropic):
    """The norm (the sum of the magnitudes), and the sum and the count of what exceeds the trial threshold."""
    none = real(trial, 0)
    if isotropic:
        norm = _norm(a, b, c)
        return norm, norm if norm > trial else none, int(norm > trial)
    one, two, three = magnitude(a), magnitude(b), magnitude(c)
    above = (one if one > trial else none) + (two if two > trial else none) + (three if three > trial else none)
    return one + two + three, above, int(one > trial) + int(two > trial) + int(three > trial)


@plain
def _clipped(q, threshold, scale, isotropic):
    """A component of the clipped field; ``scale`` is the pixel's factor where that is isotropic."""
    return times(scale, q) if isotropic else clip(q, threshold)


@plain
def _split(q, threshold, scale, field_weight, clip_weight, isotropic):
    """field_weight q + clip_weight c, c the clipped q; ``scale`` is the pixel's factor where that is isotropic."""
    if isotropic:
        return times(field_weight + clip_weight * scale, q)
    return times(field_weight, q) + times(clip_weight, clip(q, threshold))


@plain
def _split_at(q, pixel, component, d, size, threshold, field_weight, clip_weight, isotropic):
    """``_split`` of a component of the pixel, which is the place of its first component."""
    own = q[at(pixel + component * size)]
    scale = threshold
    if isotropic:
        total = square(q[at(pixel)])
        if d > 1:
            total += square(q[at(pixel + size)])
        if d > 2:
            total += square(q[at(pixel + 2 * size)])
        scale = ball_scale(math.sqrt(total), threshold)
    return _split(own, threshold, scale, field_weight, clip_weight, isotropic)


@plain
def _updated(step, q, relaxation, kept, dual_scale, threshold, scale, isotropic):
    """relaxation step + kept (q - c) + dual_scale c"""
    if isotropic:
        return times(relaxation, step) + times(kept * (real(threshold, 1) - scale) + dual_scale * scale, q)
    c = clip(q, threshold)
    return times(relaxation, step) + times(kept, q - c) + times(dual_scale, c)


# --- the field's update ---------------------------------------------------------------------


@kernel("T T r D D D i i i D i i i i i i i i", registers=64)
def _update(
    x, q, relaxation, thresholds, dual_scales, trials, d, isotropic, measured, partial, item0, row0, height,
    n0, n1, n2, shift, blocks,
):  # fmt: skip
    """q <- its update in the rows row0 <= i < row0 + n0 of ``height`` of the items item0, ...

    With ``measured`` also the sums; without, dual_scale is 1.
    """
    item, unit = first_unit(blocks, shift)
    item += item0
    plane = n1 * n2
    size = height * plane
    units, stride = line_count(n0, n1, n2, shift), unit_stride(blocks, shift)
    kept = real(x, 1) - relaxation
    threshold, dual_scale, trial = real(x, thresholds[at(item)]), real(x, 1), real(x, 0)
    if measured:
        dual_scale, trial = real(x, dual_scales[at(item)]), real(x, trials[at(item)])
    total, total_above, total_count = 0.0, 0.0, 0
    while unit < units:
        i, j, m = unit_line(unit, n1, n2, shift)
        if m < n2:
            i += row0
            here = i * plane + j * n2 + m
            source, target = item * size + here, item * d * size + here
            last = target + (d - 1) * size
            value, c, a, b = x[at(source)], q[at(last)], zero(x), zero(x)
            step_c, step_a, step_b = x[at(source + (1 if m + 1 < n2 else -m))] - value, zero(x), zero(x)
            if d > 1:
                step_a = x[at(source + (plane if i + 1 < height else -i * plane))] - value
                a = q[at(target)]
            if d > 2:
                step_b = x[at(source + (n2 if j + 1 < n1 else -j * n2))] - value
                b = q[at(target + size)]
            scale = threshold
            if isotropic:
                scale = ball_scale(_norm(a, b, c), threshold)
            c = _updated(step_c, c, relaxation, kept, dual_scale, threshold, scale, isotropic)
            q[at(last)] = c
            if d > 1:
                a = _updated(step_a, a, relaxation, kept, dual_scale, threshold, scale, isotropic)
                q[at(target)] = a
            if d > 2:
                b = _updated(step_b, b, relaxation, kept, dual_scale, threshold, scale, isotropic)
                q[at(target + size)] = b
            if measured:
                norm, above, count = _measure(a, b, c, trial, isotropic)
                total += np.float64(norm)
                total_above += np.float64(above)
                total_count += count
        unit += stride
    if measured:
        sums = cuda.shared.array((3, THREADS), types.float64)
        sums[0, cuda.threadIdx.x] = total
        sums[1, cuda.threadIdx.x] = total_above
        sums[2, cuda.threadIdx.x] = total_count
        block_sums(sums, 0, partial)


@kernel("T r r D i i T i i i i i i i i")
def _divergence(
    q, field_weight, clip_weight, thresholds, d, isotropic, out, item0, row0, height, n0, n1, n2, shift, blocks
):
    """out <- grad^T(field_weight q + clip_weight c) in the rows row0 <= i < row0 + n0 of the items item0, ..."""
    item, unit = first_unit(blocks, shift)
    item += item0
    plane = n1 * n2
    size = height * plane
    units, stride = unit_count(n0, n1, n2, shift), unit_stride(blocks, shift)
    threshold = real(q, thresholds[at(item)])
    while unit < units:
        i, j, m = unit_place(unit, n1, n2, shift)
        if m < n2:
            left = 1 if m else 1 - n2
            above = n2 if j else (1 - n1) * n2
            stop = min(i + ROWS, n0) + row0
            i += row0
            here = i * plane + j * n2 + m
            target, source = item * size + here, item * d * size + here
            before, a, b = zero(q), zero(q), zero(q)
            if d > 1:
                up = source - (plane if i else (1 - height) * plane)
                before = _split_at(q, up, 0, d, size, threshold, field_weight, clip_weight, isotropic)
            while i < stop:
                last = source + (d - 1) * size
                c, scale = q[at(last)], threshold
                if d > 1:
                    a = q[at(source)]
                if d > 2:
                    b = q[at(source + size)]
                if isotropic:
                    scale = ball_scale(_norm(a, b, c), threshold)
                value = _split_at(q, source - left, d - 1, d, size, threshold, field_weight, clip_weight, isotropic)
                value -= _split(c, threshold, scale, field_weight, clip_weight, isotropic)
                if d > 1:
                    a = _split(a, threshold, scale, field_weight, clip_weight, isotropic)
                    value += before - a
                    before = a
                if d > 2:
                    back = _split_at(q, source - above, 1, d, size, threshold, field_weight, clip_weight, isotropic)
                    value += back - _split(b, threshold, scale, field_weight, clip_weight, isotropic)
                out[at(target)] = value
                source += plane
                target += plane
                i += 1
        unit += stride


def _run_update(run, items, shape, x, q, relaxation, thresholds, dual_scales, isotropic, trials, sums):
    grid, d = Grid(shape, rows=1), len(shape)
    expect(items * grid.size, x=x)
    expect(items * d * grid.size, q=q)
    expect(items, thresholds=thresholds, dual_scales=dual_scales, trials=trials)
    expect(3 * items, sums=sums)
    partial = run.scratch(items * grid.blocks * 3)
    run(
        _update, items * grid.blocks, x, q, relaxation, thresholds, dual_scales, trials, d, isotropic, True, partial,
        0, 0, grid.n0, *grid.arguments,
    )  # fmt: skip
    run.finish(partial, grid.blocks, 3, 0, sums)


def update_field(x, q, relaxation, threshold, dual_scale, isotropic, trial, threads=1):
    run = Launcher(x)
    thresholds, dual_scales, trials = run.numbers(threshold, dual_scale, trial)
    sums = run.scratch(3)
    _run_update(run, 1, x.shape, x, q, relaxation, thresholds, dual_scales, isotropic, trials, sums)
    return run.totals(sums)


def update_field_batch(x, q, relaxation, thresholds, dual_scales, isotropic, trials, sums, threads=1):
    _run_update(
        Launcher(x), items_of(x), x.shape[1:], x, q, relaxation, thresholds, dual_scales, isotropic, trials, sums
    )  # fmt: skip


def _run_divergence(run, items, shape, q, thresholds, isotropic, field_weight, clip_weight, out):
    grid, d = Grid(shape), len(shape)
    expect(items * grid.size, out=out)
    expect(items * d * grid.size, q=q)
    expect(items, thresholds=thresholds)
    run(
        _divergence, items * grid.blocks, q, field_weight, clip_weight, thresholds, d, isotropic, out,
        0, 0, grid.n0, *grid.arguments,
    )  # fmt: skip


def field_divergence(q, threshold, isotropic, field_weight, clip_weight, out, threads=1):
    run = Launcher(q)
    _run_divergence(run, 1, q.shape[1:], q, *run.numbers(threshold), isotropic, field_weight, clip_weight, out)


def field_divergence_batch(q, thresholds, isotropic, field_weight, clip_weight, out, threads=1):
    _run_divergence(Launcher(q), items_of(q), q.shape[2:], q, thresholds, isotropic, field_weight, clip_weight, out)


# --- update and divergence in one call ------------------------------------------------------
#
# The divergence needs the new field of the pixels to the left and above, which other blocks update in place.  One
# kernel for both would read and write 2 d + 2 numbers a pixel and recompute the edges of its tiles from an old field
# that a first kernel must save before it is overwritten; two kernels over everything 3 d + 2, d of them a second
# reading of the field.  Here the two kernels take turns on pieces of the batch (whole items, or rows of large ones)
# whose field stays in the L2 cache until the second has read it: 2 d + 2 numbers a pixel from memory, no edges.  The
# first row needs the last one, above it: it is done again at the end.


def _pieces(items, grid, bytes_of_item):
    """(first item, items, first row, rows) of the pieces, in order."""
    if grid.n0 == 1 or bytes_of_item <= CHUNK:
        step = max(1, CHUNK // bytes_of_item)
        return [(k, min(step, items - k), 0, grid.n0) for k in range(0, items, step)]
    rows = max(ROWS, CHUNK * grid.n0 // bytes_of_item // ROWS * ROWS)
    return [(k, 1, row, min(rows, grid.n0 - row)) for k in range(items) for row in range(0, grid.n0, rows)]


def _run_update_divergence(run, items, shape, x, q, relaxation, thresholds, new_thresholds, isotropic, out):
    whole, d = Grid(shape), len(shape)
    height = whole.n0
    expect(items * whole.size, x=x, out=out)
    expect(items * d * whole.size, q=q)
    expect(items, thresholds=thresholds, new_thresholds=new_thresholds)

    def piece(rows, unit_rows):
        return Grid((rows, *shape[1:]) if rows < height else shape, unit_rows)

    def update(item, count, row, rows):
        grid = piece(rows, 1)
        run(
            _update, count * grid.blocks, x, q, relaxation, thresholds, thresholds, thresholds, d, isotropic, False,
            thresholds, item, row, height, *grid.arguments,
        )  # fmt: skip

    def divergence(item, count, row, rows):
        grid = piece(rows, ROWS)
        run(
            _divergence, count * grid.blocks, q, 1.0, -2.0, new_thresholds, d, isotropic, out,
            item, row, height, *grid.arguments,
        )  # fmt: skip

    for item, count, row, rows in _pieces(items, whole, d * whole.size * run.dtype.itemsize):
        update(item, count, row, rows)
        divergence(item, count, row, rows)
        if rows < height and row + rows == height:
            divergence(item, count, 0, 1)


def update_field_divergence(x, q, relaxation, threshold, new_threshold, isotropic, out, threads=1):
    run = Launcher(x)
    numbers = run.numbers(threshold, new_threshold)
    _run_update_divergence(run, 1, x.shape, x, q, relaxation, *numbers, isotropic, out)


def update_field_divergence_batch(x, q, relaxation, thresholds, new_thresholds, isotropic, out, threads=1):
    _run_update_divergence(
        Launcher(x), items_of(x), x.shape[1:], x, q, relaxation, thresholds, new_thresholds, isotropic, out
    )


# --- measures -------------------------------------------------------------------------------


@kernel("T T D i i D i i i i i", registers=64)
def _status(x, q, thresholds, d, isotropic, partial, n0, n1, n2, shift, blocks):
    item, unit = first_unit(blocks, shift)
    plane = n1 * n2
    size = n0 * plane
    units, stride = line_count(n0, n1, n2, shift), unit_stride(blocks, shift)
    threshold = real(x, thresholds[at(item)])
    variation, pairing, distance, split, steps, largest = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    while unit < units:
        i, j, m = unit_line(unit, n1, n2, shift)
        if m < n2:
            here = i * plane + j * n2 + m
            source, target = item * size + here, item * d * size + here
            value, c, a, b = x[at(source)], q[at(target + (d - 1) * size)], zero(x), zero(x)
            step_c, step_a, step_b = x[at(source + (1 if m + 1 < n2 else -m))] - value, zero(x), zero(x)
            if d > 1:
                step_a = x[at(source + (plane if i + 1 < n0 else -i * plane))] - value
                a = q[at(target)]
            if d > 2:
                step_b = x[at(source + (n2 if j + 1 < n1 else -j * n2))] - value
                b = q[at(target + size)]
            scale = threshold
            if isotropic:
                scale = ball_scale(_norm(a, b, c), threshold)
                variation += np.float64(_norm(step_a, step_b, step_c))
            else:
                variation += np.float64(magnitude(step_a) + magnitude(step_b) + magnitude(step_c))
            clip_a = _clipped(a, threshold, scale, isotropic)
            clip_b = _clipped(b, threshold, scale, isotropic)
            clip_c = _clipped(c, threshold, scale, isotropic)
            a, b, c = a - clip_a, b - clip_b, c - clip_c
            pairing += np.float64(inner(clip_a, step_a) + inner(clip_b, step_b) + inner(clip_c, step_c))
            split += np.float64(square(a) + square(b) + square(c))
            steps += np.float64(square(step_a) + square(step_b) + square(step_c))
            a, b, c = step_a - a, step_b - b, step_c - c
            distance += np.float64(square(a) + square(b) + square(c))
            a, b, c = a + clip_a, b + clip_b, c + clip_c
            if isotropic:
                largest = larger(largest, _norm(a, b, c))
            else:
                largest = larger(larger(larger(largest, magnitude(a)), magnitude(b)), magnitude(c))
        unit += stride
    sums = cuda.shared.array((6, THREADS), types.float64)
    sums[0, cuda.threadIdx.x] = variation
    sums[1, cuda.threadIdx.x] = pairing
    sums[2, cuda.threadIdx.x] = distance
    sums[3, cuda.threadIdx.x] = split
    sums[4, cuda.threadIdx.x] = steps
    sums[5, cuda.threadIdx.x] = largest
    block_sums(sums, 1, partial)


def _run_status(run, items, shape, x, q, thresholds, isotropic, sums):
    grid = Grid(shape, rows=1)
    expect(items * grid.size, x=x)
    expect(items * len(shape) * grid.size, q=q)
    expect(items, thresholds=thresholds)
    expect(6 * items, sums=sums)
    partial = run.scratch(items * grid.blocks * 6)
    run(_status, items * grid.blocks, x, q, thresholds, len(shape), isotropic, partial, *grid.arguments)
    run.finish(partial, grid.blocks, 6, 1, sums)


def field_status(x, q, threshold, isotropic, threads=1):
    run = Launcher(x)
    sums = run.scratch(6)
    _run_status(run, 1, x.shape, x, q, *run.numbers(threshold), isotropic, sums)
    return run.totals(sums)


def field_status_batch(x, q, thresholds, isotropic, sums, threads=1):
    _run_status(Launcher(x), items_of(x), x.shape[1:], x, q, thresholds, isotropic, sums)


# --- sums above a threshold, and the threshold of a radius ----------------------------------------
#
# theta with N(theta) = sum max(|q| - theta, 0) = radius, by Newton's method as in ``_upper.field_threshold``: N is
# convex, decreasing and piecewise linear, so the iterates rise to the root and stay below it but for rounding.  With
# the excess f = N - radius and the count g of magnitudes above theta, f'/f + g'/g <= 1 from one iterate to the next,
# hence f g falls by a factor of 4 a pass at least: after P passes that did not suffice
#
#     |q - clip(q, theta)| - radius <= 4**-P (|q| - radius) size / g,
#
# 6e-8 (|q| - radius) size / g for 12 passes.  A good trial needs 1 to 3.


@kernel("D D D D I i i", dtypes="d")
def _start_search(sums, radii, thresholds, state, arrived, size, items):
    """The first iterate from the sums for the trials; ``state`` (items, 2): the active count, whether it has ended."""
    item = cuda.grid(1)
    if item < items:
        norm, above, count = sums[at(3 * item)], sums[at(3 * item + 1)], sums[at(3 * item + 2)]
        radius = radii[at(item)]
        theta, active = (norm - radius) / size, float(size)
        if count > 0.0 and (above - radius) / count > theta:
            theta, active = (above - radius) / count, count
        inside = norm <= radius
        thresholds[at(item)] = 0.0 if inside else theta
        state[at(2 * item)] = active
        state[at(2 * item + 1)] = 1.0 if inside else 0.0
        arrived[at(item)] = 0


@plain
def _pixel_sums(q, field, pixel, stride, d, size, threshold, isotropic):
    """Sums of ``_measure`` over the pixels pixel, pixel + stride, ... of the field."""
    total, total_above, total_count = 0.0, 0.0, 0
    a, b = zero(q), zero(q)
    while pixel < size:
        c = q[at(field + pixel + (d - 1) * size)]
        if d > 1:
            a = q[at(field + pixel)]
        if d > 2:
            b = q[at(field + pixel + size)]
        norm, above, count = _measure(a, b, c, threshold, isotropic)
        total += np.float64(norm)
        total_above += np.float64(above)
        total_count += count
        pixel += stride
    return total, total_above, total_count


@kernel("T D i i D i i")
def _measure_field(q, thresholds, d, isotropic, partial, size, blocks):
    item, pixel = first_element(blocks)
    threshold = real(q, thresholds[at(item)])
    total, above, count = _pixel_sums(
        q, item * d * size, pixel, blocks * THREADS, d, size, threshold, isotropic
    )  # fmt: skip
    sums = cuda.shared.array((3, THREADS), types.float64)
    sums[0, cuda.threadIdx.x] = total
    sums[1, cuda.threadIdx.x] = above
    sums[2, cuda.threadIdx.x] = count
    block_sums(sums, 0, partial)


@kernel("T D D D I i i D i i")
def _search(q, radii, thresholds, state, arrived, d, isotropic, partial, size, blocks):
    """One Newton pass of every item whose search goes on; the item's last block to arrive makes the step."""
    item, pixel = first_element(blocks)
    if state[at(2 * item + 1)] == 0.0:
        theta = thresholds[at(item)]
        _, above, count = _pixel_sums(
            q, item * d * size, pixel, blocks * THREADS, d, size, real(q, theta), isotropic
        )  # fmt: skip
        sums = cuda.shared.array((2, THREADS), types.float64)
        last = cuda.shared.array(1, types.int32)
        sums[0, cuda.threadIdx.x] = above
        sums[1, cuda.threadIdx.x] = count
        block_sums(sums, 0, partial)
        cuda.threadfence()
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            last[0] = 1 if cuda.atomic.add(arrived, item, 1) == blocks - 1 else 0
        cuda.syncthreads()
        if last[0]:
            cuda.threadfence()
            gather_sums(partial, item, blocks, 2, 0, sums)
            if cuda.threadIdx.x == 0:
                above, count = sums[0, 0], sums[1, 0]
                ended = count == 0.0 or count == state[at(2 * item)]
                if not ended:
                    following = (above - radii[at(item)]) / count
                    ended = not following > theta * (1 + 1e-12)
                    if not ended:
                        thresholds[at(item)] = following
                        state[at(2 * item)] = count
                if ended:
                    state[at(2 * item + 1)] = 1.0
                arrived[at(item)] = 0


def measure_field(run, items, d, size, q, thresholds, isotropic, sums):
    """sums (items, 3) <- norm, and sum and count of what exceeds the threshold; d components of ``size`` pixels."""
    blocks = flat_blocks(size, _PASS_ELEMENTS)
    partial = run.scratch(items * blocks * 3)
    run(_measure_field, items * blocks, q, thresholds, d, isotropic, partial, size, blocks)
    run.finish(partial, blocks, 3, 0, sums)


def search_thresholds(run, items, d, size, q, radii, isotropic, thresholds, sums, wait=False):
    """thresholds <- those of the radii; ``sums`` are those of ``measure_field`` for what thresholds hold.

    PASSES Newton passes, or with ``wait``, which looks at the device, as many as it takes.
    Returns each item's (active count, whether its search has ended).
    """
    expect(items * d * size, q=q)
    expect(items, radii=radii, thresholds=thresholds)
    expect(3 * items, sums=sums)
    blocks = flat_blocks(size, _PASS_ELEMENTS)
    state, arrived, partial = run.scratch(2 * items), run.scratch(items, "int64"), run.scratch(items * blocks * 2)
    values = size if isotropic else d * size
    run(_start_search, -(-items // THREADS), sums, radii, thresholds, state, arrived, values, items)
    while True:
        for _ in range(PASSES):
            run(_search, items * blocks, q, radii, thresholds, state, arrived, d, isotropic, partial, size, blocks)
        if not wait or run.to_host(state)[1::2].all():
            return state


def sum_above(q, threshold, isotropic, threads=1):
    run, sums = Launcher(q), Launcher(q).scratch(3)
    measure_field(run, 1, q.shape[0], product(q.shape[1:]), q, *run.numbers(threshold), isotropic, sums)
    return run.totals(sums)[1:]


def field_threshold_batch(q, radii, isotropic, thresholds, sums, threads=1):
    search_thresholds(Launcher(q), items_of(q), q.shape[1], product(q.shape[2:]), q, radii, isotropic, thresholds, sums)


# --- the linear-programming form ------------------------------------------------------------


@plain
def _nonnegative(value):
    return real(value, 0) if value < 0 else value


@kernel("T T T T T T r r r T i D i i i i i", dtypes="fd")
def _slacks(x, s1, s2, c, l1, l2, shift, penalty, proximal, p, d, partial, n0, n1, n2, shift_width, blocks):
    """Multipliers, slacks and bounds; p <- penalty (s2 - s1) - l2 - l1."""
    _, unit = first_unit(blocks, shift_width)
    plane = n1 * n2
    size = n0 * plane
    units, stride = unit_count(n0, n1, n2, shift_width), unit_stride(blocks, shift_width)
    bound_scale = real(x, 1) / (penalty + penalty + proximal)
    slack_scale = real(x, 1) / (penalty + proximal)
    total, variation = 0.0, 0.0
    while unit < units:
        i, j, m = unit_place(unit, n1, n2, shift_width)
        if m < n2:
            stop = min(i + ROWS, n0)
            here = i * plane + j * n2 + m
            while i < stop:
                k = 0
                while k < d:
                    if k == d - 1:
                        neighbour = here + (1 if m + 1 < n2 else -m)
                    elif k == 0:
                        neighbour = here + (plane if i + 1 < n0 else -i * plane)
                    else:
                        neighbour = here + (n2 if j + 1 < n1 else -j * n2)
                    step = x[at(neighbour)] - x[at(here)]
                    variation += np.float64(abs(step))
                    e = at(k * size + here)
                    w = (c[e] - shift) * bound_scale
                    one, two = s1[e], s2[e]
                    first, second = l1[e] + penalty * (step + one - w), l2[e] + penalty * (step - two + w)
                    one = _nonnegative((penalty * (w - step) - first + proximal * one) * slack_scale)
                    two = _nonnegative((penalty * (w + step) + second + proximal * two) * slack_scale)
                    w = penalty * (one + two) + first - second + proximal * w
                    l1[e], l2[e], s1[e], s2[e], c[e] = first, second, one, two, w
                    p[e] = penalty * (two - one) - second - first
                    total += np.float64(w)
                    k += 1
                here += plane
                i += 1
        unit += stride
    sums = cuda.shared.array((2, THREADS), types.float64)
    sums[0, cuda.threadIdx.x] = total
    sums[1, cuda.threadIdx.x] = variation
    block_sums(sums, 0, partial)


def slack_update(x, s1, s2, c, l1, l2, shift, penalty, proximal, out, threads=1):
    run, grid = Launcher(x), Grid(x.shape)
    d, sums, partial = len(x.shape), run.scratch(2), run.scratch(grid.blocks * 2)
    expect(d * grid.size, s1=s1, s2=s2, c=c, l1=l1, l2=l2)
    expect(grid.size, out=out)
    p = run.scratch(d * grid.size, run.dtype)
    run(
        _slacks, grid.blocks, x, s1, s2, c, l1, l2, shift, penalty, proximal, p, d, partial, *grid.arguments
    )  # fmt: skip
    run.finish(partial, grid.blocks, 2, 0, sums)
    run(_adjoint, grid.blocks, p, out, d, *grid.arguments)
    return run.totals(sums)
