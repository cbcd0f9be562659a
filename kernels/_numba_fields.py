"""The Numba backend's one-field updates (mathematics.md 4c), of one item or of a batch with a number each.

The loops are those of the batch, and one item is a batch of one: their bits agree.  Images as (items, n0, n1, n2) and
fields as (items, groups, size, n), otherwise as in ``_numba_common.py``.
"""

import numba
import numpy as np

from ._numba_common import (
    SEGMENT,
    _axis,
    _bounds,
    _combine_row,
    _difference_row,
    _grid,
    _groups,
    _inner,
    _magnitude_sums,
    _norm_row,
    _parallel,
    _read,
    _row,
    _run,
    _scalars,
    _totals,
    _update_row,
    _write,
    gradient_adjoint,
)


def _items(a):
    """The length of the first axis of an array that is not empty."""
    if a.ndim < 2 or a.size == 0:
        raise ValueError(f"expected one item or more along the first axis, got shape {a.shape}")
    return len(a)


def _each(items, *numbers):
    """Float64 arrays with a number for each item."""
    return tuple(_read(values, np.float64, items) for values in numbers)


def _one(*values):
    """The numbers of a batch of one."""
    return tuple(np.array([value], np.float64) for value in values)


def _cast(dtype, *numbers):
    """Numbers of the arrays' precision, as ``_scalars``."""
    with np.errstate(over="ignore"):
        return tuple(values.astype(dtype) for values in numbers)


def _add(partial, sums):
    """sums <- partial (items, rows, count) added over the rows, an item as it is added alone."""
    for k, rows in enumerate(partial):
        sums[k] = _totals(rows)


# --- clipped fields and magnitudes ----------------------------------------------------------


@_parallel
def _combine_segments(q, thresholds, field_weight, clip_weight, out):
    items, groups, _, n = q.shape
    pieces = (n + SEGMENT - 1) // SEGMENT
    for piece in numba.prange(items * pieces):
        item = piece // pieces
        a, b = _bounds(piece % pieces, n)
        work = np.empty(b - a, q.real.dtype)
        for k in range(groups):
            _combine_row(q[item, k], a, b, thresholds[item], field_weight, clip_weight, work, out[item, k], a)


@_parallel
def _above_segments(q, thresholds, wanted, partial):
    """Sum and count of the magnitudes above the thresholds, in the segments of the items ``wanted``."""
    _, groups, _, n = q.shape
    pieces = partial.shape[1]
    for piece in numba.prange(len(wanted) * pieces):
        item, segment = wanted[piece // pieces], piece % pieces
        a, b = _bounds(segment, n)
        work = np.empty(b - a, q.real.dtype)
        above, count = 0.0, 0.0
        for k in range(groups):
            _, group_above, group_count = _magnitude_sums(q[item, k], a, b, thresholds[item], work)
            above += group_above
            count += group_count
        partial[item, segment, 0] = above
        partial[item, segment, 1] = count


def _combine_items(q, shape, thresholds, field_weight, clip_weight, out, threads):
    """out <- field_weight q + clip_weight clip(q, thresholds) of a batch of fields of that (groups, size, n)."""
    real, shape = q.real.dtype, (len(thresholds), *shape)
    target, weights = _write(out, q.dtype, shape), _scalars(real, field_weight, clip_weight)
    _run(threads, _combine_segments, _read(q, q.dtype, shape), *_cast(real, thresholds), *weights, target)


def _above_items(q, shape, thresholds, wanted, threads):
    """Item -> sum and count of its magnitudes above its threshold, of the items ``wanted``."""
    partial = np.zeros((len(thresholds), -(-shape[-1] // SEGMENT), 2))
    field = _read(q, q.dtype, (len(thresholds), *shape))
    _run(threads, _above_segments, field, *_cast(q.real.dtype, thresholds), np.array(wanted, np.int64), partial)
    return {k: _totals(partial[k]) for k in wanted}


def _combine(q, shape, threshold, field_weight, clip_weight, out, threads):
    _combine_items(q, shape, *_one(threshold), field_weight, clip_weight, out, threads)


def _above(q, shape, threshold, threads):
    return _above_items(q, shape, *_one(threshold), [0], threads)[0]


def sum_above(q, threshold, isotropic, threads=1):
    return _above(q, _groups(len(q), q[0].size, isotropic), threshold, threads)


def field_threshold_batch(q, radii, isotropic, thresholds, sums, threads=1):
    """Newton's method on convex piecewise linear functions, side by side; see ``tv.pyx``."""
    items, d = _items(q), q.shape[1]
    _grid(q.shape[2:])
    radii, measured = _read(radii, np.float64, items).tolist(), _read(sums, np.float64, (items, 3)).tolist()
    found, shape = _write(thresholds, np.float64, items), _groups(d, q[0, 0].size, isotropic)
    q, trials, active = _read(q, q.dtype, (items, *shape)), np.zeros(items), {}
    for k, ((norm, above, count), radius) in enumerate(zip(measured, radii, strict=True)):
        if norm <= radius:
            continue
        size = float(shape[0] * shape[2])
        trials[k], active[k] = (norm - radius) / size, size
        if count > 0 and (above - radius) / count > trials[k]:
            trials[k], active[k] = (above - radius) / count, count
    while active:
        for k, (above, count) in _above_items(q, shape, trials, list(active), threads).items():
            following = (above - radii[k]) / count if count not in (0, active[k]) else trials[k]
            if following > trials[k] * (1 + 1e-12):
                trials[k], active[k] = following, count
            else:
                del active[k]
    found[:] = trials


# --- updates --------------------------------------------------------------------------------


@_parallel
def _update_planes(x, q, relaxation, thresholds, kept, carried, trials, partial):
    items, n0, n1, n2 = x.shape
    for plane in numba.prange(items * n0):
        item, i = plane // n0, plane % n0
        work, step = np.empty(n2, x.real.dtype), np.empty(n2, x.dtype)
        image, field, threshold, carry, trial = x[item], q[item], thresholds[item], carried[item], trials[item]
        for j in range(n1):
            a = (i * n1 + j) * n2
            for k in range(len(field)):
                _update_row(image, i, j, field, k, relaxation, threshold, kept, carry, work, step)
                total, above, count = _magnitude_sums(field[k], a, a + n2, trial, work)
                partial[item, i, 0] += total
                partial[item, i, 1] += above
                partial[item, i, 2] += count


def update_field_batch(x, q, relaxation, thresholds, dual_scales, isotropic, trials, sums, threads=1):
    items, real, d = _items(x), x.real.dtype, x.ndim - 1
    grid, kept = _grid(x.shape[1:]), 1 - relaxation
    thresholds, dual_scales, trials = _each(items, thresholds, dual_scales, trials)
    image, result = _read(x, x.dtype, (items, *grid)), _write(sums, np.float64, (items, 3))
    field = _write(q, x.dtype, (items, *_groups(d, x[0].size, isotropic)))
    bounds, carried, tried = _cast(real, thresholds, dual_scales - kept, trials)
    relaxation, kept = _scalars(real, relaxation, kept)
    partial = np.zeros((items, grid[0], 3))
    _run(threads, _update_planes, image, field, relaxation, bounds, kept, carried, tried, partial)
    _add(partial, result)


def update_field(x, q, relaxation, threshold, dual_scale, isotropic, trial, threads=1):
    sums = np.empty((1, 3))
    bound, scale, tried = _one(threshold, dual_scale, trial)
    update_field_batch(x[None], q[None], relaxation, bound, scale, isotropic, tried, sums, threads)
    return tuple(sums[0].tolist())


def field_divergence_batch(q, thresholds, isotropic, field_weight, clip_weight, out, threads=1):
    items, d, shape = _items(out), out.ndim - 1, out.shape[1:]
    _grid(shape)
    (thresholds,) = _each(items, thresholds)
    groups, p = _groups(d, out[0].size, isotropic), np.empty((items, d, *shape), out.dtype)
    _combine_items(q, groups, thresholds, field_weight, clip_weight, p, threads)
    gradient_adjoint(p, d, out, threads)


def field_divergence(q, threshold, isotropic, field_weight, clip_weight, out, threads=1):
    field_divergence_batch(q[None], *_one(threshold), isotropic, field_weight, clip_weight, out[None], threads)


def update_field_divergence_batch(x, q, relaxation, thresholds, new_thresholds, isotropic, out, threads=1):
    items = _items(x)
    _write(out, x.dtype, x.shape)
    _each(items, new_thresholds)
    ones, zeros = np.ones(items), np.zeros(items)
    update_field_batch(x, q, relaxation, thresholds, ones, isotropic, zeros, np.empty((items, 3)), threads)
    field_divergence_batch(q, new_thresholds, isotropic, 1.0, -2.0, out, threads)


def update_field_divergence(x, q, relaxation, threshold, new_threshold, isotropic, out, threads=1):
    bound, new_bound = _one(threshold, new_threshold)
    update_field_divergence_batch(x[None], q[None], relaxation, bound, new_bound, isotropic, out[None], threads)


@_row
def _status_sums(g, q, c):
    """<c, g>, |g - v|^2, |v|^2 and |g|^2 of one row, v = q - c; then g <- g - v + c."""
    cg, gv, vv, gg = 0.0, 0.0, 0.0, 0.0
    for m in range(len(g)):
        v = q[m] - c[m]
        e = g[m] - v
        cg += _inner(c[m], g[m])
        gv += _inner(e, e)
        vv += _inner(v, v)
        gg += _inner(g[m], g[m])
        g[m] = e + c[m]
    return cg, gv, vv, gg


@_row
def _largest(row, largest):
    for m in range(len(row)):
        value = np.float64(row[m])
        largest = value if value > largest or value != value else largest
    return largest


@_parallel
def _status_planes(x, q, thresholds, partial):
    items, n0, n1, n2 = x.shape
    _, groups, size, _ = q.shape
    zero, one = x.real.dtype.type(0), x.real.dtype.type(1)
    for plane in numba.prange(items * n0):
        item, i = plane // n0, plane % n0
        work = np.empty(n2, x.real.dtype)
        g, clipped = np.empty((size, n2), x.dtype), np.empty((size, n2), x.dtype)
        for j in range(n1):
            a = (i * n1 + j) * n2
            for k in range(groups):
                for c in range(size):
                    _difference_row(x[item], i, j, _axis(k * size + c, groups * size), g[c])
                total, _, _ = _magnitude_sums(g, 0, n2, zero, work)
                partial[item, i, 0] += total
                _combine_row(q[item, k], a, a + n2, thresholds[item], zero, one, work, clipped, 0)
                for c in range(size):
                    cg, gv, vv, gg = _status_sums(g[c], q[item, k, c, a : a + n2], clipped[c])
                    partial[item, i, 1] += cg
                    partial[item, i, 2] += gv
                    partial[item, i, 3] += vv
                    partial[item, i, 4] += gg
                _norm_row(g, 0, n2, work)
                partial[item, i, 5] = _largest(work, partial[item, i, 5])


def field_status_batch(x, q, thresholds, isotropic, sums, threads=1):
    items, d, grid = _items(x), x.ndim - 1, _grid(x.shape[1:])
    (thresholds,) = _each(items, thresholds)
    image, result = _read(x, x.dtype, (items, *grid)), _write(sums, np.float64, (items, 6))
    field = _read(q, x.dtype, (items, *_groups(d, x[0].size, isotropic)))
    partial = np.zeros((items, grid[0], 6))
    _run(threads, _status_planes, image, field, *_cast(x.real.dtype, thresholds), partial)
    _add(partial[:, :, :5], result[:, :5])
    result[:, 5] = partial[:, :, 5].max(axis=1)


def field_status(x, q, threshold, isotropic, threads=1):
    sums = np.empty((1, 6))
    field_status_batch(x[None], q[None], *_one(threshold), isotropic, sums, threads)
    return tuple(sums[0].tolist())
