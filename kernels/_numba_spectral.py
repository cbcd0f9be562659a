"""The Numba backend's updates in the Fourier domain, of one item or of a batch with a number each.

The loops are those of the batch, and one item is a batch of one: their bits agree.  Spectra as (items, rows, n2),
the transfer function as (rows, n2); the Laplacian is outer[row] + inner[m].
"""

import functools

import numba
import numpy as np

from ._numba_common import _inner, _parallel, _read, _row, _run, _scalars, _times, _write
from ._numba_fields import _add, _cast, _each, _items, _one


def _spectra(like, transfer, *arrays):
    """The transfer function as (rows, n2) and the batch's arrays as (items, rows, n2)."""
    if not 2 <= like.ndim <= 4:
        raise ValueError(f"expected spectra of 1, 2 or 3 axes, got shape {like.shape[1:]}")
    z, shape = like.dtype, _rows(like)
    return _read(transfer, z, shape[1:]), *(_read(a, z, shape) for a in arrays)


def _rows(spectra):
    items, n = len(spectra), spectra.shape[-1]
    return items, spectra[0].size // n, n


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
def _lower_rows(r, transfer, data, outer, inner, penalties, shifts, copies, partial):
    items, rows, n = r.shape
    one = outer.dtype.type(1)
    for row in numba.prange(items * rows):
        item, i = row // rows, row % rows
        penalty, shift = penalties[item], shifts[item]
        sum_e = 0.0
        for m in range(n):
            a, y = transfer[i, m], data[item, i, m]
            inverse = _pseudo_inverse(one, _inner(a, a) + penalty * (outer[i] + inner[m]) + shift)
            x = _times(inverse, a.conjugate() * y + _times(penalty, r[item, i, m]))
            e = a * x - y
            r[item, i, m] = x
            sum_e += copies[m] * _inner(e, e)
        partial[item, i, 0] = sum_e


def lower_spectrum_batch(r, transfer, data, laplacian, penalties, shifts, copies, squares, threads=1):
    items, real, n = _items(r), r.real.dtype, r.shape[-1]
    transfer, data = _spectra(r, transfer, data)
    target, result = _write(r, r.dtype, data.shape), _write(squares, np.float64, (items, 1))
    axes, numbers = _laplacian(laplacian, r.shape[1:], real), _cast(real, *_each(items, penalties, shifts))
    partial = np.zeros((*data.shape[:2], 1))
    _run(threads, _lower_rows, target, transfer, data, *axes, *numbers, _read(copies, real, n), partial)
    _add(partial, result)


def lower_spectrum(r, transfer, data, laplacian, penalty, shift, copies, threads=1):
    square = np.empty(1)
    lower_spectrum_batch(r[None], transfer, data[None], laplacian, *_one(penalty, shift), copies, square, threads)
    return float(square[0])


@_parallel
def _kkt_rows(x, dual, transfer, data, penalties, copies, partial):
    items, rows, n = x.shape
    for row in numba.prange(items * rows):
        item, i = row // rows, row % rows
        penalty = penalties[item]
        sum_e, sum_m = 0.0, 0.0
        for m in range(n):
            a, pull = transfer[i, m], _times(penalty, dual[item, i, m])
            e = a.conjugate() * (a * x[item, i, m] - data[item, i, m]) + pull
            sum_e += copies[m] * _inner(e, e)
            sum_m += copies[m] * _inner(pull, pull)
        partial[item, i, 0] = sum_e
        partial[item, i, 1] = sum_m


def lower_kkt_batch(x, dual, transfer, data, penalties, copies, sums, threads=1):
    items, real, n = _items(x), x.real.dtype, x.shape[-1]
    transfer, spectra, dual, data = _spectra(x, transfer, x, dual, data)
    numbers, result = _cast(real, *_each(items, penalties)), _write(sums, np.float64, (items, 2))
    partial = np.zeros((*spectra.shape[:2], 2))
    _run(threads, _kkt_rows, spectra, dual, transfer, data, *numbers, _read(copies, real, n), partial)
    _add(partial, result)


def lower_kkt(x, dual, transfer, data, penalty, copies, threads=1):
    sums = np.empty((1, 2))
    lower_kkt_batch(x[None], dual[None], transfer, data[None], *_one(penalty), copies, sums, threads)
    return float(sums[0, 0])


@_parallel
def _upper_rows(
    r, residual, previous, target, transfer, data, outer, inner, eta, shifts, field_penalties, data_penalties,
    proximal, relaxation, pulls, carries, copies, partial,
):  # fmt: skip
    items, rows, n = r.shape
    one = outer.dtype.type(1)
    for row in numba.prange(items * rows):
        item, i = row // rows, row % rows
        shift, field_penalty, data_penalty = shifts[item], field_penalties[item], data_penalties[item]
        pull, carry = pulls[item], carries[item]
        sum_p, sum_e, sum_d = 0.0, 0.0, 0.0
        for m in range(n):
            a, y, d, p = transfer[i, m], data[item, i, m], target[item, i, m], residual[item, i, m]
            numerator = _times(eta, d) + _times(field_penalty, r[item, i, m])
            numerator += _times(proximal, previous[item, i, m])
            numerator += _times(data_penalty, a.conjugate() * (y + _times(pull, p)))
            denominator = shift + data_penalty * _inner(a, a) + field_penalty * (outer[i] + inner[m])
            x = _times(_pseudo_inverse(one, denominator), numerator)
            e = a * x - y
            p = _times(relaxation, e) + _times(carry, p)
            r[item, i, m] = x
            residual[item, i, m] = p
            sum_p += copies[m] * _inner(p, p)
            sum_e += copies[m] * _inner(e, e)
            sum_d += copies[m] * _inner(x - d, x - d)
        partial[item, i, 0] = sum_p
        partial[item, i, 1] = sum_e
        partial[item, i, 2] = sum_d


def _upper(
    r, previous, target, transfer, data, residual, laplacian, eta, shifts, field_penalties, data_penalties, proximal,
    relaxation, shrinks, copies, sums, threads,
):  # fmt: skip
    """``upper_spectrum`` of a batch."""
    items, real, n = _items(r), r.real.dtype, r.shape[-1]
    transfer, *spectra, data = _spectra(r, transfer, previous, target, data)
    updated = tuple(_write(a, r.dtype, data.shape) for a in (r, residual))
    result, axes = _write(sums, np.float64, (items, 3)), _laplacian(laplacian, r.shape[1:], real)
    *weights, shrinks = _each(items, shifts, field_penalties, data_penalties, shrinks)
    *weights, pulls, carries = _cast(real, *weights, 2 * shrinks - 1, 1 - relaxation * shrinks)
    eta, proximal, relaxation = _scalars(real, eta, proximal, relaxation)
    partial = np.zeros((*data.shape[:2], 3))
    arguments = (*updated, *spectra, transfer, data, *axes, eta, *weights, proximal, relaxation, pulls, carries)
    _run(threads, _upper_rows, *arguments, _read(copies, real, n), partial)
    _add(partial, result)


def upper_spectrum_batch(
    r, target, transfer, data, residual, laplacian, eta, shifts, field_penalties, data_penalties, relaxation, shrinks,
    copies, sums, threads=1,
):  # fmt: skip
    _upper(
        r, target, target, transfer, data, residual, laplacian, eta, shifts, field_penalties, data_penalties, 0,
        relaxation, shrinks, copies, sums, threads,
    )  # fmt: skip


def upper_spectrum(
    r, previous, target, transfer, data, residual, laplacian, eta, shift, field_penalty, data_penalty,
    proximal, relaxation, shrink, copies, threads=1,
):  # fmt: skip
    if previous is None:
        previous, proximal = target, 0
    sums = np.empty((1, 3))
    shift, field_penalty, data_penalty, shrink = _one(shift, field_penalty, data_penalty, shrink)
    _upper(
        r[None], previous[None], target[None], transfer, data[None], residual[None], laplacian, eta, shift,
        field_penalty, data_penalty, proximal, relaxation, shrink, copies, sums, threads,
    )  # fmt: skip
    return tuple(sums[0].tolist())


@_parallel
def _dual_rows(dual, x, residual, target, transfer, data, eta, field_penalties, data_weights, copies, partial):
    items, rows, n = dual.shape
    for row in numba.prange(items * rows):
        item, i = row // rows, row % rows
        field_penalty, data_weight = field_penalties[item], data_weights[item]
        sum_qd, sum_qq, sum_ny, sum_nn, sum_e = 0.0, 0.0, 0.0, 0.0, 0.0
        for m in range(n):
            d, v = target[item, i, m], _times(data_weight, residual[item, i, m])
            q = _times(field_penalty, dual[item, i, m]) + transfer[i, m].conjugate() * v
            e = _times(eta, x[item, i, m] - d) + q
            sum_qd += copies[m] * _inner(q, d)
            sum_qq += copies[m] * _inner(q, q)
            sum_ny += copies[m] * _inner(v, data[item, i, m])
            sum_nn += copies[m] * _inner(v, v)
            sum_e += copies[m] * _inner(e, e)
        partial[item, i, 0] = sum_qd
        partial[item, i, 1] = sum_qq
        partial[item, i, 2] = sum_ny
        partial[item, i, 3] = sum_nn
        partial[item, i, 4] = sum_e


def upper_dual_batch(
    dual, x, residual, target, transfer, data, eta, field_penalties, data_weights, copies, sums, threads=1
):
    items, real, n = _items(dual), dual.real.dtype, dual.shape[-1]
    transfer, *spectra, data = _spectra(dual, transfer, dual, x, residual, target, data)
    weights, result = _each(items, field_penalties, data_weights), _write(sums, np.float64, (items, 5))
    partial = np.zeros((*data.shape[:2], 5))
    arguments = (*spectra, transfer, data, *_scalars(real, eta), *_cast(real, *weights), _read(copies, real, n))
    _run(threads, _dual_rows, *arguments, partial)
    _add(partial, result)


def upper_dual(dual, residual, target, transfer, data, field_penalty, data_weight, copies, threads=1):
    sums, weights = np.empty((1, 5)), _one(field_penalty, data_weight)
    arrays = dual[None], target[None], residual[None], target[None]
    upper_dual_batch(*arrays, transfer, data[None], 0.0, *weights, copies, sums, threads)
    return tuple(sums[0, :4].tolist())
