"""The Numba backend: the formulas of ``_reference.py``, compiled at run time where nothing was compiled before.

The loops' layouts and their sums are those of ``_numba_common.py``.
"""

import functools
import math

import numba
import numpy as np

from ._numba_balls import (
    ball_thresholds,
    coupled_multipliers,
    data_step,
    field_divergences,
    measure_coefficients,
    reflect_coefficients,
    spectrum_step,
    update_fields,
)
from ._numba_common import (
    SEGMENT,
    _axis,
    _bounds,
    _clip,
    _combine_row,
    _difference_row,
    _grid,
    _groups,
    _inner,
    _magnitude,
    _magnitude_sums,
    _new_sums,
    _norm_row,
    _overload,
    _parallel,
    _read,
    _row,
    _run,
    _scalars,
    _times,
    _totals,
    _update_row,
    _write,
    gradient,
    gradient_adjoint,
)

NAME = "numba"

__all__ = [
    "ball_thresholds",
    "clip_coefficients",
    "coefficient_status",
    "coil_combine",
    "coil_images",
    "coil_pull",
    "coil_update",
    "coupled_multipliers",
    "data_step",
    "field_divergence",
    "field_divergences",
    "field_status",
    "filter_bank_adjoint",
    "filter_bank_forward",
    "frame_adjoint",
    "frame_forward",
    "gradient",
    "gradient_adjoint",
    "haar_forward",
    "haar_inverse",
    "lower_kkt",
    "lower_spectrum",
    "measure_coefficients",
    "project_box",
    "project_l1_ball",
    "project_l2_ball",
    "project_l21_ball",
    "project_nonnegative",
    "rank_one_solve",
    "reflect_coefficients",
    "slack_update",
    "soft_threshold",
    "spectral_divide",
    "spectrum_step",
    "sum_above",
    "update_coefficients",
    "update_field",
    "update_field_divergence",
    "update_fields",
    "upper_dual",
    "upper_spectrum",
]


# --- elementwise maps -----------------------------------------------------------------------


@_parallel
def _clip_segments(x, lower, upper, out):
    for segment in numba.prange((x.size + SEGMENT - 1) // SEGMENT):
        a, b = _bounds(segment, x.size)
        source, target = x[a:b], out[a:b]
        for m in range(b - a):
            value = source[m]
            raised = lower if value < lower else value
            target[m] = upper if raised > upper else raised


@_parallel
def _affine_segments(x, scale, shift, out):
    for segment in numba.prange((x.size + SEGMENT - 1) // SEGMENT):
        a, b = _bounds(segment, x.size)
        source, target = x[a:b], out[a:b]
        for m in range(b - a):
            target[m] = scale * source[m] + shift


@_parallel
def _moment_segments(x, partial):
    for segment in numba.prange(len(partial)):
        a, b = _bounds(segment, x.size)
        source = x[a:b]
        total, squares = 0.0, 0.0
        for m in range(b - a):
            value = np.float64(source[m])
            total += value
            squares += value * value
        partial[segment, 0] = total
        partial[segment, 1] = squares


def _sum_and_squares(x, threads):
    partial = _new_sums(x.size, 2, SEGMENT)
    _run(threads, _moment_segments, _read(x, x.dtype, -1), partial)
    return _totals(partial)


def _affine(x, scale, shift, out, threads):
    target = _write(out, x.dtype, x.size)
    _run(threads, _affine_segments, _read(x, x.dtype, -1), *_scalars(x.dtype, scale, shift), target)


def soft_threshold(x, threshold, out, threads=1):
    _combine(x, (1, 1, x.size), threshold, 1, -1, out, threads)


def project_box(x, lower, upper, out, threads=1):
    target = _write(out, x.dtype, x.size)
    _run(threads, _clip_segments, _read(x, x.dtype, -1), *_scalars(x.dtype, lower, upper), target)


def project_nonnegative(x, out, threads=1):
    project_box(x, 0, np.inf, out, threads)


def rank_one_solve(c, diagonal, rank_one, out, threads=1):
    total, _ = _sum_and_squares(c, threads)
    shift = rank_one * total / (diagonal + rank_one * c.size) / diagonal
    _affine(c, 1 / diagonal, -shift, out, threads)


@_parallel
def _divide_segments(z, denominator, out):
    for segment in numba.prange((z.size + SEGMENT - 1) // SEGMENT):
        a, b = _bounds(segment, z.size)
        numerator, divisor, target = z[a:b], denominator[a:b], out[a:b]
        for m in range(b - a):
            target[m] = complex(numerator[m].real / divisor[m], numerator[m].imag / divisor[m])


def spectral_divide(numerator, denominator, out, threads=1):
    n, z = numerator.size, numerator.dtype
    target = _write(out, z, n)
    divisor = _read(denominator, numerator.real.dtype, n)
    _run(threads, _divide_segments, _read(numerator, z, n), divisor, target)


# --- magnitudes, clipped fields and projections onto balls ----------------------------------


@_parallel
def _combine_segments(q, threshold, field_weight, clip_weight, out):
    groups, _, n = q.shape
    for segment in numba.prange((n + SEGMENT - 1) // SEGMENT):
        a, b = _bounds(segment, n)
        work = np.empty(b - a, q.real.dtype)
        for k in range(groups):
            _combine_row(q[k], a, b, threshold, field_weight, clip_weight, work, out[k], a)


@_parallel
def _above_segments(q, threshold, partial):
    groups, _, n = q.shape
    for segment in numba.prange(len(partial)):
        a, b = _bounds(segment, n)
        work = np.empty(b - a, q.real.dtype)
        for k in range(groups):
            _, above, count = _magnitude_sums(q[k], a, b, threshold, work)
            partial[segment, 0] += above
            partial[segment, 1] += count


def _combine(q, shape, threshold, field_weight, clip_weight, out, threads):
    target = _write(out, q.dtype, shape)
    scalars = _scalars(q.real.dtype, threshold, field_weight, clip_weight)
    _run(threads, _combine_segments, _read(q, q.dtype, shape), *scalars, target)


def _above(q, shape, threshold, threads):
    partial = _new_sums(shape[-1], 2, SEGMENT)
    _run(threads, _above_segments, _read(q, q.dtype, shape), *_scalars(q.real.dtype, threshold), partial)
    return _totals(partial)


def sum_above(q, threshold, isotropic, threads=1):
    return _above(q, _groups(len(q), q[0].size, isotropic), threshold, threads)


def _ball_threshold(q, shape, radius, start, threads):
    """Newton's method for sum(max(magnitude - theta, 0)) = radius, as in ``projections.pyx``: a step from any
    point ends left of the root, steps from there increase, and an active set found twice has the root."""
    total, count = _above(q, shape, 0.0, threads)
    if total <= radius:
        return 0.0
    theta = (total - radius) / count
    if start > theta:
        total, active = _above(q, shape, start, threads)
        if active > 0 and (total - radius) / active > theta:
            theta, count = (total - radius) / active, active
    while True:
        total, active = _above(q, shape, theta, threads)
        if active in (0, count):
            return theta
        following, count = (total - radius) / active, active
        if not following > theta:
            return theta
        theta = following


def _project_ball(x, components, radius, threshold, out, threads):
    for k, item in enumerate(x):
        shape = (1, components, item.size // components)
        threshold[k] = _ball_threshold(item, shape, radius[k], threshold[k], threads)
        _combine(item, shape, threshold[k], 1, -1, out[k], threads)


def project_l1_ball(x, radius, threshold, out, threads=1):
    _project_ball(x, 1, radius, threshold, out, threads)


def project_l21_ball(x, radius, threshold, out, threads=1):
    _project_ball(x, x.shape[1], radius, threshold, out, threads)


def project_l2_ball(x, radius, out, threads=1):
    for item, limit, target in zip(x, radius, out, strict=True):
        norm = math.sqrt(_sum_and_squares(item, threads)[1])
        _affine(item, limit / norm if norm > limit else 1, 0, target, threads)


# --- fused updates of the one-field iteration (mathematics.md 4c) -------------------------------------


@_parallel
def _update_planes(x, q, relaxation, threshold, kept, carried, trial, partial):
    n0, n1, n2 = x.shape
    for i in numba.prange(n0):
        work, step = np.empty(n2, x.real.dtype), np.empty(n2, x.dtype)
        for j in range(n1):
            a = (i * n1 + j) * n2
            for k in range(len(q)):
                _update_row(x, i, j, q, k, relaxation, threshold, kept, carried, work, step)
                total, above, count = _magnitude_sums(q[k], a, a + n2, trial, work)
                partial[i, 0] += total
                partial[i, 1] += above
                partial[i, 2] += count


def update_field(x, q, relaxation, threshold, dual_scale, isotropic, trial, threads=1):
    grid, kept = _grid(x.shape), 1 - relaxation
    field = _write(q, x.dtype, _groups(x.ndim, x.size, isotropic))
    scalars = _scalars(x.real.dtype, relaxation, threshold, kept, dual_scale - kept, trial)
    partial = _new_sums(grid[0], 3)
    _run(threads, _update_planes, _read(x, x.dtype, grid), field, *scalars, partial)
    return _totals(partial)


def field_divergence(q, threshold, isotropic, field_weight, clip_weight, out, threads=1):
    p = np.empty_like(q)
    _combine(q, _groups(out.ndim, out.size, isotropic), threshold, field_weight, clip_weight, p, threads)
    gradient_adjoint(p, out.ndim, out, threads)


def update_field_divergence(x, q, relaxation, threshold, new_threshold, isotropic, out, threads=1):
    update_field(x, q, relaxation, threshold, 1.0, isotropic, 0.0, threads)
    field_divergence(q, new_threshold, isotropic, 1.0, -2.0, out, threads)


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
def _status_planes(x, q, threshold, partial):
    n0, n1, n2 = x.shape
    groups, size, _ = q.shape
    zero, one = x.real.dtype.type(0), x.real.dtype.type(1)
    for i in numba.prange(n0):
        work = np.empty(n2, x.real.dtype)
        g, clipped = np.empty((size, n2), x.dtype), np.empty((size, n2), x.dtype)
        for j in range(n1):
            a = (i * n1 + j) * n2
            for k in range(groups):
                for c in range(size):
                    _difference_row(x, i, j, _axis(k * size + c, groups * size), g[c])
                total, _, _ = _magnitude_sums(g, 0, n2, zero, work)
                partial[i, 0] += total
                _combine_row(q[k], a, a + n2, threshold, zero, one, work, clipped, 0)
                for c in range(size):
                    cg, gv, vv, gg = _status_sums(g[c], q[k, c, a : a + n2], clipped[c])
                    partial[i, 1] += cg
                    partial[i, 2] += gv
                    partial[i, 3] += vv
                    partial[i, 4] += gg
                _norm_row(g, 0, n2, work)
                partial[i, 5] = _largest(work, partial[i, 5])


def field_status(x, q, threshold, isotropic, threads=1):
    grid = _grid(x.shape)
    field = _read(q, x.dtype, _groups(x.ndim, x.size, isotropic))
    partial = _new_sums(grid[0], 6)
    _run(threads, _status_planes, _read(x, x.dtype, grid), field, *_scalars(x.real.dtype, threshold), partial)
    return (*_totals(partial[:, :5]), float(partial[:, 5].max()))


# --- fused updates in the Fourier domain ----------------------------------------------------
#
# Spectra as (rows, n2); the Laplacian is outer[row] + inner[m].


def _spectra(shape, dtype, *arrays):
    return tuple(_read(a, dtype, (-1, shape[-1])) for a in arrays)


def _laplacian(axes, shape, dtype):
    """The sum over all axes but the last, one number a row, and the last axis."""
    for axis, n in zip(axes, shape, strict=True):
        _read(axis, dtype, n)
    outer = functools.reduce(np.add.outer, axes[:-1], np.zeros((), dtype))
    return outer.reshape(-1), _read(axes[-1], dtype, -1)


@_row
def _pseudo_inverse(one, d):
    """1 / d, and 0 for a frequency that nothing determines (d = 0)."""
    return d if d == 0 else one / d


@_parallel
def _lower_rows(r, transfer, data, outer, inner, penalty, shift, copies, partial):
    rows, n = r.shape
    one = outer.dtype.type(1)
    for i in numba.prange(rows):
        sum_e = 0.0
        for m in range(n):
            a, y = transfer[i, m], data[i, m]
            inverse = _pseudo_inverse(one, _inner(a, a) + penalty * (outer[i] + inner[m]) + shift)
            x = _times(inverse, a.conjugate() * y + _times(penalty, r[i, m]))
            e = a * x - y
            r[i, m] = x
            sum_e += copies[m] * _inner(e, e)
        partial[i, 0] = sum_e


def lower_spectrum(r, transfer, data, laplacian, penalty, shift, copies, threads=1):
    z, real = r.dtype, r.real.dtype
    target = _write(r, z, (-1, r.shape[-1]))
    partial = _new_sums(len(target), 1)
    arguments = (*_spectra(r.shape, z, transfer, data), *_laplacian(laplacian, r.shape, real))
    copies = _read(copies, real, r.shape[-1])
    _run(threads, _lower_rows, target, *arguments, *_scalars(real, penalty, shift), copies, partial)
    return _totals(partial)[0]


@_parallel
def _kkt_rows(x, dual, transfer, data, penalty, copies, partial):
    rows, n = x.shape
    for i in numba.prange(rows):
        sum_e = 0.0
        for m in range(n):
            a = transfer[i, m]
            e = a.conjugate() * (a * x[i, m] - data[i, m]) + _times(penalty, dual[i, m])
            sum_e += copies[m] * _inner(e, e)
        partial[i, 0] = sum_e


def lower_kkt(x, dual, transfer, data, penalty, copies, threads=1):
    real = x.real.dtype
    spectra = _spectra(x.shape, x.dtype, x, dual, transfer, data)
    partial = _new_sums(len(spectra[0]), 1)
    copies = _read(copies, real, x.shape[-1])
    _run(threads, _kkt_rows, *spectra, *_scalars(real, penalty), copies, partial)
    return _totals(partial)[0]


@_parallel
def _upper_rows(
    r, residual, previous, target, transfer, data, outer, inner, eta, shift, field_penalty, data_penalty,
    proximal, relaxation, pull, carry, copies, partial,
):  # fmt: skip
    rows, n = r.shape
    one = outer.dtype.type(1)
    for i in numba.prange(rows):
        sum_p, sum_e, sum_d = 0.0, 0.0, 0.0
        for m in range(n):
            a, y, d, p = transfer[i, m], data[i, m], target[i, m], residual[i, m]
            numerator = _times(eta, d) + _times(field_penalty, r[i, m]) + _times(proximal, previous[i, m])
            numerator += _times(data_penalty, a.conjugate() * (y + _times(pull, p)))
            denominator = shift + data_penalty * _inner(a, a) + field_penalty * (outer[i] + inner[m])
            x = _times(_pseudo_inverse(one, denominator), numerator)
            e = a * x - y
            p = _times(relaxation, e) + _times(carry, p)
            r[i, m] = x
            residual[i, m] = p
            sum_p += copies[m] * _inner(p, p)
            sum_e += copies[m] * _inner(e, e)
            sum_d += copies[m] * _inner(x - d, x - d)
        partial[i, 0] = sum_p
        partial[i, 1] = sum_e
        partial[i, 2] = sum_d


def upper_spectrum(
    r, previous, target, transfer, data, residual, laplacian, eta, shift, field_penalty, data_penalty,
    proximal, relaxation, shrink, copies, threads=1,
):  # fmt: skip
    z, real = r.dtype, r.real.dtype
    if previous is None:
        previous, proximal = target, 0
    pull, carry = 2 * shrink - 1, 1 - relaxation * shrink
    updated = tuple(_write(a, z, (-1, r.shape[-1])) for a in (r, residual))
    spectra = _spectra(r.shape, z, previous, target, transfer, data)
    scalars = _scalars(real, eta, shift, field_penalty, data_penalty, proximal, relaxation, pull, carry)
    partial = _new_sums(len(updated[0]), 3)
    arguments = (*spectra, *_laplacian(laplacian, r.shape, real), *scalars, _read(copies, real, r.shape[-1]))
    _run(threads, _upper_rows, *updated, *arguments, partial)
    return _totals(partial)


@_parallel
def _dual_rows(dual, residual, target, transfer, data, field_penalty, data_weight, copies, partial):
    rows, n = dual.shape
    for i in numba.prange(rows):
        sum_qd, sum_qq, sum_ny, sum_nn = 0.0, 0.0, 0.0, 0.0
        for m in range(n):
            v = _times(data_weight, residual[i, m])
            q = _times(field_penalty, dual[i, m]) + transfer[i, m].conjugate() * v
            sum_qd += copies[m] * _inner(q, target[i, m])
            sum_qq += copies[m] * _inner(q, q)
            sum_ny += copies[m] * _inner(v, data[i, m])
            sum_nn += copies[m] * _inner(v, v)
        partial[i, 0] = sum_qd
        partial[i, 1] = sum_qq
        partial[i, 2] = sum_ny
        partial[i, 3] = sum_nn


def upper_dual(dual, residual, target, transfer, data, field_penalty, data_weight, copies, threads=1):
    real = dual.real.dtype
    spectra = _spectra(dual.shape, dual.dtype, dual, residual, target, transfer, data)
    partial = _new_sums(len(spectra[0]), 4)
    copies = _read(copies, real, dual.shape[-1])
    _run(threads, _dual_rows, *spectra, *_scalars(real, field_penalty, data_weight), copies, partial)
    return _totals(partial)


# --- multi-coil images -------------------------------------------------------------------------------
#
# As (coils, pixels), a mask or an image as (pixels,).


@_parallel
def _coil_images(x, maps, out):
    for segment in numba.prange((x.size + SEGMENT - 1) // SEGMENT):
        a, b = _bounds(segment, x.size)
        for c in range(len(maps)):
            for m in range(a, b):
                out[c, m] = maps[c, m] * x[m]


@_parallel
def _coil_combine(images, maps, out):
    for segment in numba.prange((out.size + SEGMENT - 1) // SEGMENT):
        a, b = _bounds(segment, out.size)
        out[a:b] = 0
        for c in range(len(maps)):
            for m in range(a, b):
                out[m] += maps[c, m].conjugate() * images[c, m]


@_parallel
def _coil_update(field, spectra, mask, data, scale, relaxation, sampled, unsampled, partial):
    zero = mask.dtype.type(0)
    for segment in numba.prange(len(partial)):
        a, b = _bounds(segment, mask.size)
        sum_f, sum_e = 0.0, 0.0
        for c in range(len(field)):
            for m in range(a, b):
                inside = mask[m] != 0
                e = _times(scale, spectra[c, m]) - data[c, m]
                f = _times(relaxation, e) + _times(sampled if inside else unsampled, field[c, m])
                field[c, m] = f
                sum_f += _inner(f, f) if inside else zero
                sum_e += _inner(e, e) if inside else zero
        partial[segment, 0] = sum_f
        partial[segment, 1] = sum_e


@_parallel
def _coil_pull(field, mask, data, sampled, out):
    one = mask.dtype.type(1)
    for segment in numba.prange((mask.size + SEGMENT - 1) // SEGMENT):
        a, b = _bounds(segment, mask.size)
        for c in range(len(field)):
            for m in range(a, b):
                out[c, m] = data[c, m] + _times(sampled if mask[m] != 0 else one, field[c, m])


def coil_images(x, maps, out, threads=1):
    n, z = x.size, x.dtype
    stack = (len(maps), n)
    _run(threads, _coil_images, _read(x, z, n), _read(maps, z, stack), _write(out, z, stack))


def coil_combine(images, maps, out, threads=1):
    n, z = out.size, out.dtype
    stack = (len(maps), n)
    _run(threads, _coil_combine, _read(images, z, stack), _read(maps, z, stack), _write(out, z, n))


def coil_update(spectra, field, mask, data, scale, relaxation, shrink, threads=1):
    n, z, real = mask.size, field.dtype, field.real.dtype
    stack = (len(field), n)
    target = _write(field, z, stack)
    arguments = _read(spectra, z, stack), _read(mask, real, n), _read(data, z, stack)
    scalars = _scalars(real, scale, relaxation, 1 - relaxation * shrink, 1 - relaxation)
    partial = _new_sums(n, 2, SEGMENT)
    _run(threads, _coil_update, target, *arguments, *scalars, partial)
    return _totals(partial)


def coil_pull(field, mask, data, shrink, out, threads=1):
    n, z, real = mask.size, field.dtype, field.real.dtype
    stack = (len(field), n)
    arguments = _read(field, z, stack), _read(mask, real, n), _read(data, z, stack)
    _run(threads, _coil_pull, *arguments, *_scalars(real, 2 * shrink - 1), _write(out, z, stack))


# --- fused update of the linear-programming form (mathematics.md 4a) ----------------------------------


@_row
def _slack_row(g, s1, s2, c, l1, l2, p, shift, penalty, proximal):
    """One component of one row; p receives the field for grad^T.  Returns the sums of c and |g|."""
    zero, one = g.dtype.type(0), g.dtype.type(1)
    w_scale, s_scale = one / (penalty + penalty + proximal), one / (penalty + proximal)
    total, variation = 0.0, 0.0
    for m in range(len(g)):
        w = (c[m] - shift) * w_scale
        m1 = l1[m] + penalty * (g[m] + s1[m] - w)
        m2 = l2[m] + penalty * (g[m] - s2[m] + w)
        a1 = (penalty * (w - g[m]) - m1 + proximal * s1[m]) * s_scale
        a2 = (penalty * (w + g[m]) + m2 + proximal * s2[m]) * s_scale
        a1 = zero if a1 < zero else a1
        a2 = zero if a2 < zero else a2
        l1[m] = m1
        l2[m] = m2
        s1[m] = a1
        s2[m] = a2
        c[m] = penalty * (a1 + a2) + m1 - m2 + proximal * w
        p[m] = penalty * (a2 - a1) - m2 - m1
        total += c[m]
        variation += abs(g[m])
    return total, variation


@_parallel
def _slack_planes(x, s1, s2, c, l1, l2, p, shift, penalty, proximal, partial):
    n0, n1, n2 = x.shape
    d = len(p)
    for i in numba.prange(n0):
        g = np.empty(n2, x.dtype)
        for k in range(d):
            for j in range(n1):
                _difference_row(x, i, j, _axis(k, d), g)
                rows = s1[k, i, j], s2[k, i, j], c[k, i, j], l1[k, i, j], l2[k, i, j], p[k, i, j]
                total, variation = _slack_row(g, *rows, shift, penalty, proximal)
                partial[i, 0] += total
                partial[i, 1] += variation


def slack_update(x, s1, s2, c, l1, l2, shift, penalty, proximal, out, threads=1):
    grid = _grid(x.shape)
    p = np.empty((x.ndim, *grid), x.dtype)
    fields = tuple(_write(field, x.dtype, p.shape) for field in (s1, s2, c, l1, l2))
    scalars = _scalars(x.dtype, shift, penalty, proximal)
    partial = _new_sums(grid[0], 2)
    _run(threads, _slack_planes, _read(x, x.dtype, grid), *fields, p, *scalars, partial)
    gradient_adjoint(p, x.ndim, out, threads)
    return _totals(partial)


# --- wavelets -------------------------------------------------------------------------------
#
# Images as real (batch, n0, n1, n2), a complex element of n2 being ``parts`` = 2 numbers.  ``first`` and ``second``
# are 2 where the transform acts on n0 and n1, else 1: a row of a band is a signed sum of rows, then of pairs along n2.

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
