"""The Numba backend's wavelets: orthonormal Haar transforms, undecimated frames and their one-field updates.

Images as real (batch, n0, n1, n2), a complex element of n2 being ``parts`` = 2 numbers.  ``first`` and ``second``
are 2 where the transform acts on n0 and n1, else 1: a row of a band is a signed sum of rows, then of pairs along n2.
"""

import numba
import numpy as np

from ._numba_common import (
    SEGMENT,
    _bounds,
    _clip,
    _grid,
    _inner,
    _magnitude,
    _new_sums,
    _overload,
    _parallel,
    _read,
    _row,
    _run,
    _scalars,
    _times,
    _totals,
    _write,
)

_HAAR = np.array([[0.5, 0.5], [0.5, -0.5]])


@_row
def _add_row(row, sign, total):
    if sign > 0:
        for m in range(len(total)):
            total[m] += row[m]
    else:
        for m in range(len(total)):
            total[m] -= row[m]


@_row
def _sign(a, b, c, d):
    return 1 - 2 * ((a * b + c * d) % 2)


@_parallel
def _haar_split(low, parts, first, second, scale, out):
    """One level of the image ``low`` into the corner of ``out``."""
    batch, n0, n1, n2 = low.shape
    h0, h1, h2 = n0 // first, n1 // second, n2 // 2
    for slab in numba.prange(batch * h0):
        item, i = slab // h0, slab % h0
        total = np.empty(n2, low.dtype)
        for j in range(h1):
            for k in range(first):
                for h in range(second):
                    total[:] = 0
                    for a in range(first):
                        for b in range(second):
                            _add_row(low[item, first * i + a, second * j + b], _sign(a, k, b, h), total)
                    target = out[item, i + k * h0, j + h * h1]
                    for m in range(h2):
                        a = m + m // parts * parts
                        target[m] = scale * (total[a] + total[a + parts])
                        target[h2 + m] = scale * (total[a] - total[a + parts])


@_parallel
def _haar_join(c, parts, first, second, scale, low):
    """The inverse of ``_haar_split``."""
    batch, n0, n1, n2 = low.shape
    h0, h1, h2 = n0 // first, n1 // second, n2 // 2
    for slab in numba.prange(batch * n0):
        item, i = slab // n0, slab % n0
        total = np.empty(n2, low.dtype)
        for j in range(n1):
            total[:] = 0
            for k in range(first):
                for h in range(second):
                    row = c[item, i // first + k * h0, j // second + h * h1]
                    _add_row(row, _sign(i % first, k, j % second, h), total)
            target = low[item, i, j]
            for m in range(h2):
                a = m + m // parts * parts
                target[a] = scale * (total[m] + total[h2 + m])
                target[a + parts] = scale * (total[m] - total[h2 + m])


def _wavelet_axes(ndim):
    return 2 if ndim > 1 else 1, 2 if ndim > 2 else 1


def _numbers(a):
    """The array as real numbers, and how many an element has."""
    real = a.real.dtype
    return (a, 1) if a.dtype == real else (a.view(real), 2)


def _sizes(a, ndim, step=0):
    """(n0, n1, n2) of the spatial axes, halved ``step`` times."""
    return _grid(tuple(n >> step for n in a.shape[a.ndim - ndim :]))


def haar_forward(x, level, ndim, out, threads=1):
    (x, parts), (out, _) = _numbers(x), _numbers(out)
    low = _read(x, x.dtype, (-1, *_sizes(x, ndim)))
    target = _write(out, x.dtype, low.shape)
    (scale,) = _scalars(x.dtype, 0.5 ** (ndim / 2))
    for step in range(level):
        _run(threads, _haar_split, low, parts, *_wavelet_axes(ndim), scale, target)
        n0, n1, n2 = _sizes(x, ndim, step + 1)
        low = _read(target[:, :n0, :n1, :n2].copy(), x.dtype, (-1, n0, n1, n2))


def haar_inverse(c, level, ndim, out, threads=1):
    (c, parts), (out, _) = _numbers(c), _numbers(out)
    work = _read(c, c.dtype, (-1, *_sizes(c, ndim))).copy()
    (scale,) = _scalars(c.dtype, 0.5 ** (ndim / 2))
    for step in reversed(range(level)):
        n0, n1, n2 = _sizes(c, ndim, step)
        low = np.empty((len(work), n0, n1, n2), c.dtype) if step else _write(out, c.dtype, work.shape)
        _run(threads, _haar_join, work, parts, *_wavelet_axes(ndim), scale, low)
        if step:
            work[:, :n0, :n1, :n2] = low


@_row
def _add_multiple(row, factor, total):
    for m in range(len(total)):
        total[m] += factor * row[m]


@_parallel
def _frame_split(low, shifts, along0, along1, along2, low_band, bands, first):
    """One undecimated level: the approximation to ``low_band``, the details from ``bands[:, first]`` on.

    ``bands`` is (batch, bands, n0, n1, n2); ``along0``, ``along1``, ``along2`` hold the filters along each axis.
    """
    batch, n0, n1, n2 = low.shape
    s0, s1, s2 = shifts
    taps = along2.shape[1]
    for slab in numba.prange(batch * n0):
        item, i = slab // n0, slab % n0
        total = np.empty(n2 + (taps - 1) * s2, low.dtype)
        for j in range(n1):
            for k in range(len(along0)):
                for h in range(len(along1)):
                    total[:n2] = 0
                    for a in range(along0.shape[1]):
                        for b in range(along1.shape[1]):
                            row = low[item, (i + a * s0) % n0, (j + b * s1) % n1]
                            _add_multiple(row, along0[k, a] * along1[h, b], total[:n2])
                    for m in range(n2, len(total)):
                        total[m] = total[m - n2]
                    band = 2 * (len(along1) * k + h)
                    target = low_band[item, i, j] if band == 0 else bands[item, first + band - 1, i, j]
                    other = bands[item, first + band, i, j]
                    target[:] = 0
                    other[:] = 0
                    for t in range(taps):
                        _add_multiple(total[t * s2 : t * s2 + n2], along2[0, t], target)
                        _add_multiple(total[t * s2 : t * s2 + n2], along2[1, t], other)


@_parallel
def _frame_join(low_band, bands, first, shifts, along0, along1, along2, low):
    """The adjoint of ``_frame_split``."""
    batch, n0, n1, n2 = low.shape
    s0, s1, s2 = shifts
    taps = along2.shape[1]
    reach = (taps - 1) * s2
    for slab in numba.prange(batch * n0):
        item, i = slab // n0, slab % n0
        smooth, rough = np.empty(reach + n2, low.dtype), np.empty(reach + n2, low.dtype)
        for j in range(n1):
            smooth[:] = 0
            rough[:] = 0
            for k in range(len(along0)):
                for h in range(len(along1)):
                    band = 2 * (len(along1) * k + h)
                    for a in range(along0.shape[1]):
                        for b in range(along1.shape[1]):
                            y, z = (i - a * s0) % n0, (j - b * s1) % n1
                            row = low_band[item, y, z] if band == 0 else bands[item, first + band - 1, y, z]
                            factor = along0[k, a] * along1[h, b]
                            _add_multiple(row, factor, smooth[reach:])
                            _add_multiple(bands[item, first + band, y, z], factor, rough[reach:])
            for m in range(reach - 1, -1, -1):
                smooth[m] = smooth[m + n2]
                rough[m] = rough[m + n2]
            target = low[item, i, j]
            target[:] = 0
            for t in range(taps):
                start = reach - t * s2
                _add_multiple(smooth[start : start + n2], along2[0, t], target)
                _add_multiple(rough[start : start + n2], along2[1, t], target)


def _first_detail(step, level, ndim):
    return 1 + (level - 1 - step) * (2**ndim - 1)


def _shifts(step, grid, parts):
    n0, n1, n2 = grid
    return 2**step % n0, 2**step % n1, 2**step % (n2 // parts) * parts


def _along_axes(filters, ndim, dtype):
    """The filters along n0, n1 and n2; an axis that is not there has the tap 1."""
    filters = filters.astype(dtype)
    return [filters if ndim > needed else np.ones((1, 1), dtype) for needed in (1, 2, 0)]


def frame_forward(x, level, ndim, out, threads=1):
    filter_bank_forward(x, _HAAR, level, ndim, out, threads)


def frame_adjoint(c, level, ndim, out, threads=1):
    filter_bank_adjoint(c, _HAAR, level, ndim, out, threads)


def filter_bank_forward(x, filters, level, ndim, out, threads=1):
    (x, parts), (out, _) = _numbers(x), _numbers(out)
    grid = _sizes(x, ndim)
    low = _read(x, x.dtype, (-1, *grid))
    bands = _write(out, x.dtype, (len(low), _first_detail(-1, level, ndim), *grid))
    along = _along_axes(filters, ndim, x.dtype)
    for step in range(level):
        following = np.empty(low.shape, x.dtype)
        first = _first_detail(step, level, ndim)
        _run(threads, _frame_split, low, _shifts(step, grid, parts), *along, following, bands, first)
        low = _read(following, x.dtype, low.shape)
    bands[:, 0] = low


def filter_bank_adjoint(c, filters, level, ndim, out, threads=1):
    (c, parts), (out, _) = _numbers(c), _numbers(out)
    grid = _sizes(out, ndim)
    image = _write(out, c.dtype, (-1, *grid))
    bands = _read(c, c.dtype, (len(image), _first_detail(-1, level, ndim), *grid))
    low = np.ascontiguousarray(bands[:, 0])
    along = _along_axes(filters, ndim, c.dtype)
    for step in reversed(range(level)):
        low, source = np.empty(image.shape, c.dtype) if step else image, _read(low, c.dtype, low.shape)
        first = _first_detail(step, level, ndim)
        _run(threads, _frame_join, source, bands, first, _shifts(step, grid, parts), *along, low)


def _part(weights, a, b):
    """weights[a:b]; None, where there are no weights, stays None."""
    return weights if weights is None else weights[a:b]


@_overload(_part)
def _part_by_type(weights, a, b):
    if isinstance(weights, numba.types.NoneType):
        return lambda weights, a, b: None
    return lambda weights, a, b: weights[a:b]


def _weighted(value, weights, m):
    return value if weights is None else value * weights[m]


@_overload(_weighted)
def _weighted_by_type(value, weights, m):
    if isinstance(weights, numba.types.NoneType):
        return lambda value, weights, m: value
    return lambda value, weights, m: value * weights[m]


def _read_weights(weights, like):
    return None if weights is None else _read(weights, like.real.dtype, like.size)


@_parallel
def _coefficient_segments(t, w, relaxation, threshold, new_threshold, kept, carried, two, weights, out):
    for segment in numba.prange((t.size + SEGMENT - 1) // SEGMENT):
        a, b = _bounds(segment, t.size)
        source, field, target, part = t[a:b], w[a:b], out[a:b], _part(weights, a, b)
        for m in range(b - a):
            value = _times(kept, field[m]) + _times(carried, _clip(field[m], _weighted(threshold, part, m)))
            value += _times(relaxation, source[m])
            field[m] = value
            target[m] = value - _times(two, _clip(value, _weighted(new_threshold, part, m)))


def update_coefficients(t, w, relaxation, threshold, new_threshold, dual_scale, weights, out, threads=1):
    kept = 1 - relaxation
    values = (relaxation, threshold, new_threshold, kept, dual_scale - kept, 2)
    scalars = _scalars(t.real.dtype, *values)
    weights = _read_weights(weights, t)
    field, target = _write(w, t.dtype, -1), _write(out, t.dtype, -1)
    _run(threads, _coefficient_segments, _read(t, t.dtype, -1), field, *scalars, weights, target)


@_parallel
def _clip_coefficients(w, threshold, weights, out):
    for segment in numba.prange((w.size + SEGMENT - 1) // SEGMENT):
        a, b = _bounds(segment, w.size)
        source, target, part = w[a:b], out[a:b], _part(weights, a, b)
        for m in range(b - a):
            target[m] = _clip(source[m], _weighted(threshold, part, m))


def clip_coefficients(w, threshold, weights, out, threads=1):
    weights, target = _read_weights(weights, w), _write(out, w.dtype, -1)
    _run(threads, _clip_coefficients, _read(w, w.dtype, -1), *_scalars(w.real.dtype, threshold), weights, target)


@_parallel
def _coefficient_sums(t, w, threshold, weights, partial):
    for segment in numba.prange(len(partial)):
        a, b = _bounds(segment, t.size)
        image, field, part = t[a:b], w[a:b], _part(weights, a, b)
        total, ct, rr, vv, tt, largest = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for m in range(b - a):
            c = _clip(field[m], _weighted(threshold, part, m))
            v = field[m] - c
            r = image[m] - v
            total += _weighted(_magnitude(image[m]), part, m)
            ct += _inner(c, image[m])
            rr += _inner(r, r)
            vv += _inner(v, v)
            tt += _inner(image[m], image[m])
            size = np.float64(_magnitude(r + c))
            largest = size if size > largest or size != size else largest
        partial[segment, 0] = total
        partial[segment, 1] = ct
        partial[segment, 2] = rr
        partial[segment, 3] = vv
        partial[segment, 4] = tt
        partial[segment, 5] = largest


def coefficient_status(t, w, threshold, weights, threads=1):
    partial = _new_sums(t.size, 6, SEGMENT)
    flat, weights = (_read(a, t.dtype, -1) for a in (t, w)), _read_weights(weights, t)
    _run(threads, _coefficient_sums, *flat, *_scalars(t.real.dtype, threshold), weights, partial)
    return (*_totals(partial[:, :5]), float(partial[:, 5].max()))
