"""The fused updates in the Fourier domain on CUDA: the formulas of ``_reference.py``.

Spectra of the items are (n0, n1, n2) with the last axis halved for real images; the transfer function, the Laplacian
and the copies are shared by the items.
"""

import numpy as np
from numba import cuda, types

from ._cuda_common import (
    THREADS,
    Grid,
    Launcher,
    at,
    block_sums,
    conjugate_times,
    expect,
    first_element,
    first_unit,
    flat_blocks,
    inner,
    items_of,
    kernel,
    line_count,
    plain,
    product,
    real,
    square,
    times,
    unit_line,
    unit_stride,
)


@kernel("T R T i i", dtypes="FD")
def _divide(numerator, denominator, out, size, blocks):
    _, e = first_element(blocks)
    while e < size:
        value, divisor = numerator[at(e)], denominator[at(e)]
        out[at(e)] = complex(value.real / divisor, value.imag / divisor)
        e += blocks * THREADS


def spectral_divide(numerator, denominator, out, threads=1):
    size = product(numerator.shape)
    blocks = flat_blocks(size)
    Launcher(numerator)(_divide, blocks, numerator, denominator, out, size, blocks)


@plain
def _line_laplacian(first, second, i, j, axes):
    """The Laplacian's part of a row: the outer sum without the last axis."""
    none = real(first, 0)
    return (first[at(i)] if axes > 1 else none) + (second[at(j)] if axes > 2 else none)


def _expect_spectra(items, grid, transfer, copies, **spectra):
    expect(grid.size, transfer=transfer)
    expect(grid.n2, copies=copies)
    expect(items * grid.size, **spectra)


def _axes(laplacian, shape):
    """The Laplacian's arrays along n0, n1 and n2; the last one's in place of those that the image has not."""
    if len(laplacian) != len(shape):
        raise ValueError(f"laplacian: expected {len(shape)} arrays, got {len(laplacian)}")
    for axis, (a, n) in enumerate(zip(laplacian, shape, strict=True)):
        expect(n, **{f"laplacian[{axis}]": a})
    last = laplacian[-1]
    return (
        laplacian[0] if len(laplacian) > 1 else last,
        laplacian[1] if len(laplacian) > 2 else last,
        last,
    )


@plain
def _pseudo_inverse(denominator):
    return real(denominator, 0) if denominator == real(denominator, 0) else real(denominator, 1) / denominator


# --- lower level ----------------------------------------------------------------------------


@kernel("T T T R R R D D R i D i i i i i", dtypes="FD", registers=64)
def _lower(
    r, transfer, data, first, second, third, penalties, shifts, copies, axes, partial, n0, n1, n2, shift, blocks
):
    item, unit = first_unit(blocks, shift)
    plane = n1 * n2
    size = n0 * plane
    units, stride = line_count(n0, n1, n2, shift), unit_stride(blocks, shift)
    penalty, added = real(r, penalties[at(item)]), real(r, shifts[at(item)])
    total = 0.0
    while unit < units:
        i, j, m = unit_line(unit, n1, n2, shift)
        if m < n2:
            e = i * plane + j * n2 + m
            along, weight = third[at(m)], copies[at(m)]
            a, y = transfer[at(e)], data[at(item * size + e)]
            denominator = square(a) + penalty * (_line_laplacian(first, second, i, j, axes) + along) + added
            value = conjugate_times(a, y) + times(penalty, r[at(item * size + e)])
            value = times(_pseudo_inverse(denominator), value)
            r[at(item * size + e)] = value
            total += np.float64(square(a * value - y) * weight)
        unit += stride
    sums = cuda.shared.array((1, THREADS), types.float64)
    sums[0, cuda.threadIdx.x] = total
    block_sums(sums, 0, partial)


def _run_lower(run, items, shape, r, transfer, data, laplacian, penalties, shifts, copies, squares):
    grid = Grid(shape, rows=1)
    _expect_spectra(items, grid, transfer, copies, r=r, data=data)
    expect(items, penalties=penalties, shifts=shifts, squares=squares)
    partial = run.scratch(items * grid.blocks)
    run(
        _lower, items * grid.blocks, r, transfer, data, *_axes(laplacian, shape), penalties, shifts, copies, len(shape),
        partial, *grid.arguments,
    )  # fmt: skip
    run.finish(partial, grid.blocks, 1, 0, squares)


def lower_spectrum(r, transfer, data, laplacian, penalty, shift, copies, threads=1):
    run = Launcher(r)
    square_sum = run.scratch(1)
    _run_lower(run, 1, r.shape, r, transfer, data, laplacian, *run.numbers(penalty, shift), copies, square_sum)
    return run.totals(square_sum)[0]


def lower_spectrum_batch(r, transfer, data, laplacian, penalties, shifts, copies, squares, threads=1):
    _run_lower(Launcher(r), items_of(r), r.shape[1:], r, transfer, data, laplacian, penalties, shifts, copies, squares)


@kernel("T T T T D R D i i i i i", dtypes="FD", registers=64)
def _lower_kkt(x, dual, transfer, data, penalties, copies, partial, n0, n1, n2, shift, blocks):
    item, unit = first_unit(blocks, shift)
    plane = n1 * n2
    size = n0 * plane
    units, stride = line_count(n0, n1, n2, shift), unit_stride(blocks, shift)
    penalty = real(x, penalties[at(item)])
    total, total_dual = 0.0, 0.0
    while unit < units:
        i, j, m = unit_line(unit, n1, n2, shift)
        if m < n2:
            e = i * plane + j * n2 + m
            weight = copies[at(m)]
            a = transfer[at(e)]
            term = times(penalty, dual[at(item * size + e)])
            error = conjugate_times(a, a * x[at(item * size + e)] - data[at(item * size + e)]) + term
            total += np.float64(square(error) * weight)
            total_dual += np.float64(square(term) * weight)
        unit += stride
    sums = cuda.shared.array((2, THREADS), types.float64)
    sums[0, cuda.threadIdx.x] = total
    sums[1, cuda.threadIdx.x] = total_dual
    block_sums(sums, 0, partial)


def _run_lower_kkt(run, items, shape, x, dual, transfer, data, penalties, copies, sums):
    grid = Grid(shape, rows=1)
    _expect_spectra(items, grid, transfer, copies, x=x, dual=dual, data=data)
    expect(items, penalties=penalties)
    expect(2 * items, sums=sums)
    partial = run.scratch(items * grid.blocks * 2)
    run(_lower_kkt, items * grid.blocks, x, dual, transfer, data, penalties, copies, partial, *grid.arguments)
    run.finish(partial, grid.blocks, 2, 0, sums)


def lower_kkt(x, dual, transfer, data, penalty, copies, threads=1):
    run = Launcher(x)
    sums = run.scratch(2)
    _run_lower_kkt(run, 1, x.shape, x, dual, transfer, data, *run.numbers(penalty), copies, sums)
    return run.totals(sums)[0]


def lower_kkt_batch(x, dual, transfer, data, penalties, copies, sums, threads=1):
    _run_lower_kkt(Launcher(x), items_of(x), x.shape[1:], x, dual, transfer, data, penalties, copies, sums)


# --- upper level ----------------------------------------------------------------------------


@kernel("T T i T T T T R R R r D D D r r D R i D i i i i i", dtypes="FD", registers=64)
def _upper(
    r, previous, has_previous, target, transfer, data, residual, first, second, third, eta, shifts, field_penalties,
    data_penalties, proximal, relaxation, shrinks, copies, axes, partial, n0, n1, n2, shift, blocks,
):  # fmt: skip
    item, unit = first_unit(blocks, shift)
    plane = n1 * n2
    size = n0 * plane
    units, stride = line_count(n0, n1, n2, shift), unit_stride(blocks, shift)
    added, field_penalty = real(r, shifts[at(item)]), real(r, field_penalties[at(item)])
    data_penalty, shrink = real(r, data_penalties[at(item)]), real(r, shrinks[at(item)])
    pull, kept = shrink + shrink - real(r, 1), real(r, 1) - relaxation * shrink
    total, total_error, total_distance = 0.0, 0.0, 0.0
    while unit < units:
        i, j, m = unit_line(unit, n1, n2, shift)
        if m < n2:
            e = i * plane + j * n2 + m
            along, weight = third[at(m)], copies[at(m)]
            own = at(item * size + e)
            a, y, d, p = transfer[at(e)], data[own], target[own], residual[own]
            denominator = added + data_penalty * square(a)
            denominator += field_penalty * (_line_laplacian(first, second, i, j, axes) + along)
            value = times(eta, d) + times(field_penalty, r[own])
            value += times(data_penalty, conjugate_times(a, y + times(pull, p)))
            if has_previous:
                value += times(proximal, previous[own])
            value = times(_pseudo_inverse(denominator), value)
            r[own] = value
            error = a * value - y
            p = times(relaxation, error) + times(kept, p)
            residual[own] = p
            total += np.float64(square(p) * weight)
            total_error += np.float64(square(error) * weight)
            total_distance += np.float64(square(value - d) * weight)
        unit += stride
    sums = cuda.shared.array((3, THREADS), types.float64)
    sums[0, cuda.threadIdx.x] = total
    sums[1, cuda.threadIdx.x] = total_error
    sums[2, cuda.threadIdx.x] = total_distance
    block_sums(sums, 0, partial)


def _run_upper(
    run, items, shape, r, previous, target, transfer, data, residual, laplacian, eta, shifts, field_penalties,
    data_penalties, proximal, relaxation, shrinks, copies, sums,
):  # fmt: skip
    grid, has_previous = Grid(shape, rows=1), previous is not None
    _expect_spectra(items, grid, transfer, copies, r=r, target=target, data=data, residual=residual)
    if has_previous:
        expect(items * grid.size, previous=previous)
    expect(items, shifts=shifts, field_penalties=field_penalties, data_penalties=data_penalties, shrinks=shrinks)
    expect(3 * items, sums=sums)
    partial = run.scratch(items * grid.blocks * 3)
    run(
        _upper, items * grid.blocks, r, previous if has_previous else r, has_previous, target, transfer, data, residual,
        *_axes(laplacian, shape), eta, shifts, field_penalties, data_penalties, proximal, relaxation, shrinks, copies,
        len(shape), partial, *grid.arguments,
    )  # fmt: skip
    run.finish(partial, grid.blocks, 3, 0, sums)


def upper_spectrum(
    r, previous, target, transfer, data, residual, laplacian, eta, shift, field_penalty, data_penalty,
    proximal, relaxation, shrink, copies, threads=1,
):  # fmt: skip
    run = Launcher(r)
    sums = run.scratch(3)
    shifts, field_penalties, data_penalties, shrinks = run.numbers(shift, field_penalty, data_penalty, shrink)
    _run_upper(
        run, 1, r.shape, r, previous, target, transfer, data, residual, laplacian, eta, shifts, field_penalties,
        data_penalties, proximal, relaxation, shrinks, copies, sums,
    )  # fmt: skip
    return run.totals(sums)


def upper_spectrum_batch(
    r, target, transfer, data, residual, laplacian, eta, shifts, field_penalties, data_penalties, relaxation, shrinks,
    copies, sums, threads=1,
):  # fmt: skip
    _run_upper(
        Launcher(r), items_of(r), r.shape[1:], r, None, target, transfer, data, residual, laplacian, eta, shifts,
        field_penalties, data_penalties, 0.0, relaxation, shrinks, copies, sums,
    )  # fmt: skip


@kernel("T T i T T T T r D D R D i i i i i", dtypes="FD", registers=64)
def _upper_dual(
    dual, x, has_x, residual, target, transfer, data, eta, field_penalties, data_weights, copies, partial,
    n0, n1, n2, shift, blocks,
):  # fmt: skip
    item, unit = first_unit(blocks, shift)
    plane = n1 * n2
    size = n0 * plane
    units, stride = line_count(n0, n1, n2, shift), unit_stride(blocks, shift)
    field_penalty, data_weight = real(dual, field_penalties[at(item)]), real(dual, data_weights[at(item)])
    with_target, square_q, with_data, square_n, square_error = 0.0, 0.0, 0.0, 0.0, 0.0
    while unit < units:
        i, j, m = unit_line(unit, n1, n2, shift)
        if m < n2:
            e = i * plane + j * n2 + m
            weight = copies[at(m)]
            own = at(item * size + e)
            d = target[own]
            n = times(data_weight, residual[own])
            q = times(field_penalty, dual[own]) + conjugate_times(transfer[at(e)], n)
            with_target += np.float64(inner(q, d) * weight)
            square_q += np.float64(square(q) * weight)
            with_data += np.float64(inner(n, data[own]) * weight)
            square_n += np.float64(square(n) * weight)
            if has_x:
                square_error += np.float64(square(times(eta, x[own] - d) + q) * weight)
        unit += stride
    sums = cuda.shared.array((5, THREADS), types.float64)
    sums[0, cuda.threadIdx.x] = with_target
    sums[1, cuda.threadIdx.x] = square_q
    sums[2, cuda.threadIdx.x] = with_data
    sums[3, cuda.threadIdx.x] = square_n
    sums[4, cuda.threadIdx.x] = square_error
    block_sums(sums, 0, partial)


def _run_upper_dual(
    run, items, shape, dual, x, residual, target, transfer, data, eta, field_penalties, data_weights, copies, sums
):
    grid, has_x = Grid(shape, rows=1), x is not None
    _expect_spectra(items, grid, transfer, copies, dual=dual, residual=residual, target=target, data=data)
    if has_x:
        expect(items * grid.size, x=x)
    expect(items, field_penalties=field_penalties, data_weights=data_weights)
    expect(5 * items, sums=sums)
    partial = run.scratch(items * grid.blocks * 5)
    run(
        _upper_dual, items * grid.blocks, dual, x if has_x else dual, has_x, residual, target, transfer, data, eta,
        field_penalties, data_weights, copies, partial, *grid.arguments,
    )  # fmt: skip
    run.finish(partial, grid.blocks, 5, 0, sums)


def upper_dual(dual, residual, target, transfer, data, field_penalty, data_weight, copies, threads=1):
    run = Launcher(dual)
    sums = run.scratch((1, 5))
    field_penalties, data_weights = run.numbers(field_penalty, data_weight)
    _run_upper_dual(
        run, 1, dual.shape, dual, None, residual, target, transfer, data, 0.0, field_penalties, data_weights, copies,
        sums,
    )  # fmt: skip
    return run.totals(sums)[:4]


def upper_dual_batch(
    dual, x, residual, target, transfer, data, eta, field_penalties, data_weights, copies, sums, threads=1
):
    _run_upper_dual(
        Launcher(dual), items_of(dual), dual.shape[1:], dual, x, residual, target, transfer, data, eta, field_penalties,
        data_weights, copies, sums,
    )  # fmt: skip
