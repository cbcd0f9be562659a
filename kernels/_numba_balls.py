"""The Numba backend's batched splits (mathematics.md 8): several problems side by side, each with its thresholds.

Images come first: N of them belong to K problems, N / K neighbours each.  Spatial axes and fields are laid out as in
``_numba_common.py``; numbers of the problems are arrays of K in the images' precision.
"""

import numba
import numpy as np

from ._numba_common import (
    SEGMENT,
    _bounds,
    _clip,
    _combine_row,
    _grid,
    _groups,
    _inner,
    _magnitude,
    _norm_row,
    _parallel,
    _read,
    _row,
    _run,
    _scalars,
    _times,
    _update_row,
    _write,
    gradient_adjoint,
)

MAX_NEWTON = 60  # steps to a ball's threshold
MAX_STEPS = 40  # steps to the three multipliers


def _share(items, parts):
    """The items of each part, as the images of a problem."""
    if parts < 1 or items < parts or items % parts:
        raise ValueError(f"{items} items do not divide into {parts} equal parts")
    return items // parts


def _check_apart(name, written, read):
    if np.may_share_memory(written, read):
        raise ValueError(f"{name} must be an array of its own")


def _problems(dtype, images, *numbers):
    """Float64 numbers of the problems, in the arrays' precision."""
    problems = numbers[0].size
    _share(images, problems)
    with np.errstate(over="ignore"):
        return tuple(_read(values, np.float64, problems).astype(dtype) for values in numbers)


@_row
def _pieces(n):
    return (n + SEGMENT - 1) // SEGMENT


# --- fields and coefficients ----------------------------------------------------------------


@_parallel
def _update_planes(x, q, magnitudes, relaxation, kept, thresholds, carried):
    images, n0, n1, n2 = x.shape
    each = images // len(thresholds)
    for plane in numba.prange(images * n0):
        image, i = plane // n0, plane % n0
        problem = image // each
        work, step = np.empty(n2, x.real.dtype), np.empty(n2, x.dtype)
        for j in range(n1):
            a = (i * n1 + j) * n2
            for k in range(q.shape[1]):
                _update_row(
                    x[image], i, j, q[image], k, relaxation, thresholds[problem], kept, carried[problem], work, step
                )
                _norm_row(q[image, k], a, a + n2, magnitudes[image, k, a : a + n2])


def update_fields(x, q, magnitudes, relaxation, thresholds, dual_scales, isotropic, threads=1):
    images, real, d = len(x), x.real.dtype, x.ndim - 1
    grid, (groups, size, n) = _grid(x.shape[1:]), _groups(d, x[0].size, isotropic)
    bounds, scales = _problems(real, images, thresholds, dual_scales)
    relaxation, kept = _scalars(real, relaxation, 1 - relaxation)
    arrays = (
        _read(x, x.dtype, (images, *grid)),
        _write(q, x.dtype, (images, groups, size, n)),
        _write(magnitudes, real, (images, groups, n)),
    )
    _run(threads, _update_planes, *arrays, relaxation, kept, bounds, scales - kept)


@_parallel
def _reflect_fields(q, thresholds, weights, clip_weights, out):
    images, groups, _, n = q.shape
    each, pieces = images // len(thresholds), _pieces(n)
    for item in numba.prange(images * pieces):
        image = item // pieces
        a, b = _bounds(item % pieces, n)
        problem, work = image // each, np.empty(b - a, q.real.dtype)
        threshold, weight, clip_weight = thresholds[problem], weights[problem], clip_weights[problem]
        for k in range(groups):
            _combine_row(q[image, k], a, b, threshold, weight, clip_weight, work, out[image, k], a)


def field_divergences(q, thresholds, weights, isotropic, out, threads=1):
    images, real, d = len(out), out.real.dtype, out.ndim - 1
    _grid(out.shape[1:])
    bounds, factors = _problems(real, images, thresholds, weights)
    field = _read(q, out.dtype, (images, *_groups(d, out[0].size, isotropic)))
    p = np.empty_like(field)
    _run(threads, _reflect_fields, field, bounds, factors, -2 * factors, p)
    gradient_adjoint(p.reshape(images, d, *out.shape[1:]), d, out, threads)


@_parallel
def _measure_segments(t, w, magnitudes, relaxation, kept, thresholds, carried):
    images, n = t.shape
    each, pieces = images // len(thresholds), _pieces(n)
    for item in numba.prange(images * pieces):
        image = item // pieces
        a, b = _bounds(item % pieces, n)
        threshold, scale = thresholds[image // each], carried[image // each]
        source, field, measured = t[image, a:b], w[image, a:b], magnitudes[image, a:b]
        for m in range(b - a):
            value = _times(kept, field[m]) + _times(scale, _clip(field[m], threshold))
            value += _times(relaxation, source[m])
            field[m] = value
            measured[m] = _magnitude(value)


def measure_coefficients(t, w, magnitudes, relaxation, thresholds, dual_scales, threads=1):
    images, real = len(t), t.real.dtype
    _check_apart("w", w, t)
    bounds, scales = _problems(real, images, thresholds, dual_scales)
    relaxation, kept = _scalars(real, relaxation, 1 - relaxation)
    source = _read(t, t.dtype, (images, -1))
    arrays = source, _write(w, t.dtype, source.shape), _write(magnitudes, real, source.shape)
    _run(threads, _measure_segments, *arrays, relaxation, kept, bounds, scales - kept)


@_parallel
def _reflect_segments(w, thresholds, weights, two, out):
    images, n = w.shape
    each, pieces = images // len(thresholds), _pieces(n)
    for item in numba.prange(images * pieces):
        image = item // pieces
        a, b = _bounds(item % pieces, n)
        threshold, weight = thresholds[image // each], weights[image // each]
        source, target = w[image, a:b], out[image, a:b]
        for m in range(b - a):
            target[m] = _times(weight, source[m] - _times(two, _clip(source[m], threshold)))


def reflect_coefficients(w, thresholds, weights, out, threads=1):
    images, real = len(w), w.real.dtype
    _check_apart("out", out, w)
    bounds, factors = _problems(real, images, thresholds, weights)
    source = _read(w, w.dtype, (images, -1))
    _run(threads, _reflect_segments, source, bounds, factors, *_scalars(real, 2), _write(out, w.dtype, source.shape))


# --- thresholds of l1 and l21 balls ---------------------------------------------------------


@_parallel
def _excess_segments(m, taus, wanted, partial):
    """Per segment of the rows ``wanted`` of m (problems, n): sum of max(m - tau, 0) and the count above tau."""
    n, zero = m.shape[1], m.dtype.type(0)
    pieces = _pieces(n)
    for item in numba.prange(len(wanted) * pieces):
        k, segment = wanted[item // pieces], item % pieces
        a, b = _bounds(segment, n)
        source, tau = m[k, a:b], taus[k]
        total, count = 0.0, 0
        for i in range(b - a):
            above = source[i] - tau
            total += above if above > zero else zero
            count += above > zero
        partial[k, segment, 0] = total
        partial[k, segment, 1] = count


@_row
def _ordered_sums(partial):
    """The sums of two columns, always in the order of the rows."""
    first, second = 0.0, 0.0
    for row in range(len(partial)):
        first += partial[row, 0]
        second += partial[row, 1]
    return first, second


@_row
def _largest(m):
    top = m.dtype.type(0)
    for i in range(m.size):
        top = m[i] if m[i] > top else top
    return np.float64(top)


@_row
def _find_thresholds(m, radii, thresholds):
    """Newton's method per problem, as in ``balls.pyx``: monotone from the left, done when the active set stays."""
    problems, n = m.shape
    taus, active = np.empty(problems, m.dtype), np.full(problems, -1.0)
    partial = np.empty((problems, _pieces(n), 2))
    wanted, left = np.empty(problems, np.int64), 0
    for k in range(problems):
        if radii[k] <= 0:
            thresholds[k] = _largest(m[k])
        else:
            taus[k] = thresholds[k] if thresholds[k] > 0 else 0.0
            wanted[left] = k
            left += 1
    for _ in range(MAX_NEWTON):
        if left == 0:
            break
        _excess_segments(m, taus, wanted[:left], partial)
        unsolved = 0
        for item in range(left):
            k = wanted[item]
            total, count = _ordered_sums(partial[k])
            tau = np.float64(taus[k])
            following = tau + (total - radii[k]) / count if count > 0 else 0.0
            thresholds[k] = max(following, 0.0)
            inside = following <= 0 and tau == 0
            if not inside and not (count > 0 and count == active[k]):
                active[k] = count if following > 0 else -1.0
                taus[k] = thresholds[k]
                wanted[unsolved] = k
                unsolved += 1
        left = unsolved


def ball_thresholds(magnitudes, radii, thresholds, threads=1):
    problems = radii.size
    _share(magnitudes.size, problems)
    m = _read(magnitudes, magnitudes.dtype, (problems, -1))
    limits, found = _read(radii, np.float64, problems), _write(thresholds, np.float64, problems)
    _run(threads, _find_thresholds, m, limits, found)


# --- spectra --------------------------------------------------------------------------------


@_parallel
def _spectrum_segments(r, linear, inverse):
    images, n = r.shape
    each, pieces = images // len(inverse), _pieces(n)
    for item in numba.prange(images * pieces):
        image = item // pieces
        a, b = _bounds(item % pieces, n)
        target, source, scale = r[image, a:b], linear[image % len(linear), a:b], inverse[image // each, a:b]
        for m in range(b - a):
            target[m] = _times(scale[m], source[m] + target[m])


def spectrum_step(r, linear, inverse, threads=1):
    images, z = len(r), r.dtype
    _share(_share(images, len(inverse)), len(linear))
    target = _write(r, z, (images, -1))
    n = target.shape[1]
    arrays = _read(linear, z, (len(linear), n)), _read(inverse, r.real.dtype, (len(inverse), n))
    _run(threads, _spectrum_segments, target, *arrays)


@_parallel
def _data_segments(r, z, power, base, observed, gram, inverse, factor, one, penalty, curvature, a, kept, dual_scale):
    images, n = r.shape
    pieces, zero = _pieces(n), gram.dtype.type(0)
    for item in numba.prange(images * pieces):
        image = item // pieces
        start, stop = _bounds(item % pieces, n)
        target, field, measured = r[image, start:stop], z[image, start:stop], power[image, start:stop]
        pull, data = base[image, start:stop], observed[image, start:stop]
        diagonal, scale, weight = gram[start:stop], inverse[start:stop], factor[start:stop]
        for m in range(stop - start):
            on = one if diagonal[m] > zero else zero
            s = one / (one + curvature * diagonal[m])
            x = target[m] + pull[m] + _times(penalty, data[m] + _times(s + s - one, field[m]))
            x = _times(scale[m], x)
            split = _times(a * on, x - data[m]) + _times((kept * s + dual_scale * (one - s)) * on, field[m])
            target[m] = x
            field[m] = split
            measured[m] = weight[m] * _inner(split, split)


def data_step(
    r, z, power, base, observed, gram, inverse, factor, penalty, curvature, relaxation, dual_scale, threads=1
):
    images, dtype, real = len(r), r.dtype, r.real.dtype
    spectra = [_write(a, dtype, (images, -1)) for a in (r, z)]
    shape = spectra[0].shape
    written = *spectra, _write(power, real, shape)
    read = [_read(a, dtype, shape) for a in (base, observed)]
    read += [_read(a, real, shape[1]) for a in (gram, inverse, factor)]
    scalars = _scalars(real, 1, penalty, curvature, relaxation, 1 - relaxation, dual_scale)
    _run(threads, _data_segments, *written, *read, *scalars)


# --- the three multipliers of the subproblem ------------------------------------------------
#
# Rows 0: data, 1: coefficients, 2: field.  ``rows`` (5, 3) holds their penalties, sigma and, in columns 1 and 2, the
# rates, centres and weights of the radii.


@_parallel
def _shrunk_segments(power, gram, curvature, partial):
    """Per segment the sum of power / (1 + curvature gram)^2 and its derivative in curvature."""
    images, n = power.shape
    pieces, one = _pieces(n), gram.dtype.type(1)
    for item in numba.prange(images * pieces):
        image = item // pieces
        a, b = _bounds(item % pieces, n)
        source, diagonal = power[image, a:b], gram[a:b]
        value, slope = 0.0, 0.0
        for m in range(b - a):
            s = one / (one + curvature * diagonal[m])
            shrunk = source[m] * s * s
            value += shrunk
            slope += shrunk * s * diagonal[m]
        partial[item, 0] = value
        partial[item, 1] = -2 * slope


@_row
def _excess(m, tau, partial):
    _excess_segments(m, np.full(1, tau, m.dtype), np.zeros(1, np.int64), partial)
    return _ordered_sums(partial[0])


@_row
def _solve_linear(a, b, n):
    """b <- a^-1 b by elimination with row pivoting; False where a is singular."""
    for i in range(n):
        pivot = i
        for j in range(i + 1, n):
            pivot = j if abs(a[j, i]) > abs(a[pivot, i]) else pivot
        if a[pivot, i] == 0:
            return False
        for k in range(n):
            a[i, k], a[pivot, k] = a[pivot, k], a[i, k]
        b[i], b[pivot] = b[pivot], b[i]
        for j in range(i + 1, n):
            factor = a[j, i] / a[i, i]
            for k in range(i, n):
                a[j, k] -= factor * a[i, k]
            b[j] -= factor * b[i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            b[i] -= a[i, k] * b[k]
        b[i] /= a[i, i]
    return True


@_row
def _linear_model(m1, m2, power, gram, rows, constant, mu, t, work, value, slope, scale, radius):
    """The three constraints at (mu, t), their own derivatives, the size of their terms, and the radii."""
    penalty, sigma, rate, centre, weight = rows
    _shrunk_segments(power, gram, gram.dtype.type(mu[0] / penalty[0]), work[0])
    found, steepness = _ordered_sums(work[0])
    value[0] = constant + found - sigma[0] * t
    slope[0] = steepness / penalty[0]
    scale[0] = found + abs(constant)
    for i in range(1, 3):
        radius[i] = centre[i] + (mu[i] - mu[0] * rate[i]) / weight[i]
        if i == 1:
            found, count = _excess(m1, mu[i] / penalty[i], work[1])
        else:
            found, count = _excess(m2, mu[i] / penalty[i], work[2])
        value[i] = found - radius[i] - sigma[i] * t
        slope[i] = -count / penalty[i] - 1 / weight[i]
        scale[i] = found + abs(radius[i])
        value[0] += rate[i] * radius[i]
        slope[0] -= rate[i] * rate[i] / weight[i]
        scale[0] += abs(rate[i] * radius[i])


@_row
def _newton(m1, m2, power, gram, rows, constant, alpha, tol, top, work, mu, t, violated):
    """Semismooth Newton on mu (in place) and, where t may be positive, t: whether it succeeded, and t."""
    _, sigma, rate, _, weight = rows
    value, slope, scale, radius = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    active, jacobian, step = np.empty(3, np.bool_), np.empty((4, 4)), np.empty(4)
    t = t if violated else 0.0
    for _ in range(MAX_STEPS):
        _linear_model(m1, m2, power, gram, rows, constant, mu, t, work, value, slope, scale, radius)
        if not abs(value[0]) + abs(value[1]) + abs(value[2]) < np.inf:
            return False, t
        jacobian[:] = 0
        error, total = 0.0, 0.0
        for i in range(3):
            # Would the constraint hold at multiplier 0, by the linear model?
            active[i] = value[i] - slope[i] * mu[i] > 0
            step[i] = -value[i] if active[i] else -mu[i]
            jacobian[i, i] = slope[i] if active[i] else 1.0
            jacobian[i, 3] = -sigma[i] if active[i] else 0.0
            jacobian[3, i] = sigma[i]
            error = max(error, abs(step[i]) / (tol * scale[i] if active[i] else tol * alpha))
            total += sigma[i] * mu[i]
        for i in range(1, 3):
            jacobian[0, i] = rate[i] / weight[i] if active[0] else 0.0
            jacobian[i, 0] = rate[i] / weight[i] if active[i] else 0.0
        step[3] = alpha - total
        if violated:
            error = max(error, abs(step[3]) / (tol * alpha))
        if error <= 1:
            total = 0.0
            for i in range(3):
                mu[i] = mu[i] if active[i] else 0.0
                total += sigma[i] * mu[i]
            allowed = violated or total <= alpha * (1 + tol)
            return allowed and t >= 0 and mu[0] >= 0 and radius[1] >= 0 and radius[2] >= 0, t
        if violated and not (active[0] or active[1] or active[2]):
            return False, t
        if not _solve_linear(jacobian, step, 4 if violated else 3):
            return False, t
        t += step[3] if violated else 0.0
        for i in range(3):
            following = mu[i] + step[i]
            if following < 0:
                following = 0.1 * mu[i] if i == 0 and active[0] else 0.0
            if i > 0 and following >= top[i]:
                following = 0.5 * (mu[i] + top[i]) if mu[i] < top[i] else 0.5 * top[i]
            mu[i] = following
    return False, t


@_row
def _solve_coupled(m1, m2, power, gram, rows, constant, alpha, tol, result):
    """result holds mu and t; Newton with t > 0 or t = 0 first as at the start, then the other way.  Last, success."""
    work = (
        np.empty((len(power) * _pieces(gram.size), 2)),
        np.empty((1, _pieces(m1.size), 2)),
        np.empty((1, _pieces(m2.size), 2)),
    )
    top = np.array([0.0, rows[0, 1] * _largest(m1[0]), rows[0, 2] * _largest(m2[0])])
    start = result[3]
    for attempt in range(2):
        mu = result[:3].copy()
        violated = (start > 0) == (attempt == 0)
        first = start if start > 0 else 1e-3
        solved, t = _newton(m1, m2, power, gram, rows, constant, alpha, tol, top, work, mu, first, violated)
        if solved:
            result[:3] = mu
            result[3] = t
            result[4] = 1
            break


def coupled_multipliers(
    coefficients, fields, power, gram, penalties, sigma, rates, centres, weights, constant, alpha, start, threads=1
):
    real = coefficients.dtype
    m1, m2 = (_read(m, real, (1, -1)) for m in (coefficients, fields))
    gram = _read(gram, real, -1)
    _share(power.size, gram.size)
    radii = ([0.0, *row] for row in (rates, centres, weights))
    rows = np.array([penalties, sigma, *radii], np.float64)
    result = np.array([*start, 0], np.float64)
    tol = 1e-6 if real == np.float32 else 1e-11  # float32 data carry a relative error of their own
    numbers = rows, float(constant), float(alpha), tol, result
    _run(threads, _solve_coupled, m1, m2, _read(power, real, (-1, gram.size)), gram, *numbers)
    return bool(result[4]), tuple(result[:4].tolist())
