"""The Numba backend: the formulas of ``_reference.py``, compiled at run time where nothing was compiled before.

The loops' layouts and their sums are those of ``_numba_common.py``.
"""

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
    _difference_row,
    _grid,
    _inner,
    _new_sums,
    _parallel,
    _read,
    _row,
    _run,
    _scalars,
    _times,
    _totals,
    _write,
    gradient,
    gradient_adjoint,
)
from ._numba_fields import (
    _above,
    _combine,
    field_divergence,
    field_divergence_batch,
    field_status,
    field_status_batch,
    field_threshold_batch,
    sum_above,
    update_field,
    update_field_batch,
    update_field_divergence,
    update_field_divergence_batch,
)
from ._numba_spectral import (
    lower_kkt,
    lower_kkt_batch,
    lower_spectrum,
    lower_spectrum_batch,
    upper_dual,
    upper_dual_batch,
    upper_spectrum,
    upper_spectrum_batch,
)
from ._numba_wavelets import (
    clip_coefficients,
    coefficient_status,
    filter_bank_adjoint,
    filter_bank_forward,
    frame_adjoint,
    frame_forward,
    haar_forward,
    haar_inverse,
    update_coefficients,
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
    "field_divergence_batch",
    "field_divergences",
    "field_status",
    "field_status_batch",
    "field_threshold_batch",
    "filter_bank_adjoint",
    "filter_bank_forward",
    "frame_adjoint",
    "frame_forward",
    "gradient",
    "gradient_adjoint",
    "haar_forward",
    "haar_inverse",
    "lower_kkt",
    "lower_kkt_batch",
    "lower_spectrum",
    "lower_spectrum_batch",
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
    "update_field_batch",
    "update_field_divergence",
    "update_field_divergence_batch",
    "update_fields",
    "upper_dual",
    "upper_dual_batch",
    "upper_spectrum",
    "upper_spectrum_batch",
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


# --- projections onto balls ------------------------------------------------------------------


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
