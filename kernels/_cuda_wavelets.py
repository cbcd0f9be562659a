"""The CUDA backend's wavelets: the Haar basis, undecimated frames, and the fused updates of their coefficients.

The transforms are real: a complex element is two numbers side by side (``parts`` = 2), and sizes count numbers.
"""

import sys

import numpy as np
from numba import cuda, types

from ._cuda_common import (
    ROWS,
    THREADS,
    Launcher,
    at,
    block_sums,
    check_sizes,
    clip,
    dtype_of,
    first_element,
    flat_blocks,
    inner,
    is_tensor,
    kernel,
    larger,
    magnitude,
    plain,
    product,
    quotient,
    real,
    square,
    times,
    zero,
)

_HAAR = np.array([[0.5, 0.5], [0.5, -0.5]])


def _numbers(a):
    """The array as real numbers, and how many of them an element has."""
    dtype = dtype_of(a)
    if dtype.kind != "c":
        return a, 1
    if is_tensor(a):
        return sys.modules["torch"].view_as_real(a), 2
    return a.view(dtype.char.lower()), 2


# --- Haar basis -----------------------------------------------------------------------------
#
# A level takes an image (n0, n1, n2), n0 = n1 = 1 in 1-D and n1 = 1 in 2-D, to 2^d bands (h0, h1, h2), which stand
# in the transform's rows of ``pitch1`` and planes of ``pitch0`` numbers.  Its approximation is an image of its own but
# at the last level.  A thread takes one place of all bands; ``first`` and ``second`` are 2 where the transform acts on
# n0 and n1, else 1.


@plain
def _band_place(e, h1, h2):
    """(i, j, m) of the element e of a band."""
    line = quotient(e, h2)
    i = quotient(line, h1)
    return i, line - i * h1, e - line * h2


@plain
def _pair_start(m, parts):
    """The number m of a band's row belongs to the numbers a and a + parts of the image's row: a."""
    return m + (m & ~(parts - 1))


@plain
def _pair_sums(image, index, parts):
    a, b = image[at(index)], image[at(index + parts)]
    return a + b, a - b


@plain
def _lines_sums(image, index, plane, parts):
    """Low and high along n2 of a pair of lines' sum, then of their difference; ``plane`` 0: of one line."""
    low, high = _pair_sums(image, index, parts)
    if plane == 0:
        return low, high, zero(image), zero(image)
    other_low, other_high = _pair_sums(image, index + plane, parts)
    return low + other_low, high + other_high, low - other_low, high - other_high


@plain
def _write_pair(image, index, parts, low, high):
    image[at(index)] = low + high
    image[at(index + parts)] = low - high


@plain
def _write_lines(image, index, plane, parts, ll, lh, hl, hh):
    """The inverse of ``_lines_sums``, not normalised."""
    if plane == 0:
        _write_pair(image, index, parts, ll, lh)
    else:
        _write_pair(image, index, parts, ll + hl, lh + hh)
        _write_pair(image, index + plane, parts, ll - hl, lh - hh)


@kernel("R R R r i i i i i i i i i i i", dtypes="fd")
def _haar_split(image, low, bands, scale, first, second, parts, h0, h1, h2, pitch0, pitch1, size, last, blocks):
    item, e = first_element(blocks)
    n1, n2, count = second * h1, 2 * h2, h0 * h1 * h2
    plane = n1 * n2 if first == 2 else 0
    while e < count:
        i, j, m = _band_place(e, h1, h2)
        source = ((item * first * h0 + first * i) * n1 + second * j) * n2 + _pair_start(m, parts)
        target = item * size + i * pitch0 + j * pitch1 + m
        ll, lh, hl, hh = _lines_sums(image, source, plane, parts)
        if second == 2:
            a, b, c, d = _lines_sums(image, source + n2, plane, parts)
            there = target + h1 * pitch1
            bands[at(there)] = scale * (ll - a)
            bands[at(there + h2)] = scale * (lh - b)
            if first == 2:
                there += h0 * pitch0
                bands[at(there)] = scale * (hl - c)
                bands[at(there + h2)] = scale * (hh - d)
            ll, lh, hl, hh = ll + a, lh + b, hl + c, hh + d
        low[at(target if last else item * count + e)] = scale * ll
        bands[at(target + h2)] = scale * lh
        if first == 2:
            there = target + h0 * pitch0
            bands[at(there)] = scale * hl
            bands[at(there + h2)] = scale * hh
        e += blocks * THREADS


@kernel("R R R r i i i i i i i i i i i", dtypes="fd")
def _haar_join(low, bands, image, scale, first, second, parts, h0, h1, h2, pitch0, pitch1, size, last, blocks):
    """The inverse of ``_haar_split``."""
    item, e = first_element(blocks)
    n1, n2, count = second * h1, 2 * h2, h0 * h1 * h2
    plane = n1 * n2 if first == 2 else 0
    while e < count:
        i, j, m = _band_place(e, h1, h2)
        target = ((item * first * h0 + first * i) * n1 + second * j) * n2 + _pair_start(m, parts)
        source = item * size + i * pitch0 + j * pitch1 + m
        ll, lh = scale * low[at(source if last else item * count + e)], scale * bands[at(source + h2)]
        hl, hh = zero(image), zero(image)
        if first == 2:
            there = source + h0 * pitch0
            hl, hh = scale * bands[at(there)], scale * bands[at(there + h2)]
        if second == 2:
            there = source + h1 * pitch1
            a, b = scale * bands[at(there)], scale * bands[at(there + h2)]
            c, d = zero(image), zero(image)
            if first == 2:
                there += h0 * pitch0
                c, d = scale * bands[at(there)], scale * bands[at(there + h2)]
            _write_lines(image, target + n2, plane, parts, ll - a, lh - b, hl - c, hh - d)
            ll, lh, hl, hh = ll + a, lh + b, hl + c, hh + d
        _write_lines(image, target, plane, parts, ll, lh, hl, hh)
        e += blocks * THREADS


class _HaarLevels:
    """What the levels' launches share, forward and inverse."""

    def __init__(self, a, level, ndim):
        shape = tuple(a.shape[a.ndim - ndim :])
        if any(n % (1 << level) for n in shape):
            raise ValueError(f"level {level} needs spatial sizes divisible by {1 << level}, got {shape}")
        self.numbers, self.parts = _numbers(a)
        self.run, self.level = Launcher(self.numbers), level
        self.n = (shape[0] if ndim > 1 else 1, shape[1] if ndim > 2 else 1, shape[-1] * self.parts)
        self.size = product(self.n)
        self.items = product(self.numbers.shape) // self.size
        self.first, self.second = 2 if ndim > 1 else 1, 2 if ndim > 2 else 1
        self.scale = 0.5 ** (ndim / 2)

    def corner(self, step):
        """The shape of the approximation after so many steps."""
        n0, n1, n2 = self.n
        return n0 >> step if self.first == 2 else n0, n1 >> step if self.second == 2 else n1, n2 >> step

    def low(self, step):
        return self.run.scratch(self.items * product(self.corner(step)), self.run.real)

    def launch(self, kernel, step, *arrays):
        half, (_, n1, n2) = self.corner(step + 1), self.n
        blocks = flat_blocks(product(half), 1)
        pitches = n1 * n2, n2, self.size
        flags = step + 1 == self.level, blocks
        self.run(
            kernel, self.items * blocks, *arrays, self.scale, self.first, self.second, self.parts, *half, *pitches,
            *flags,
        )  # fmt: skip


def haar_forward(x, level, ndim, out, threads=1):
    haar, (bands, _) = _HaarLevels(x, level, ndim), _numbers(out)
    check_sizes(product(x.shape), out=out)
    image = haar.numbers
    for step in range(level):
        low = haar.low(step + 1) if step + 1 < level else bands
        haar.launch(_haar_split, step, image, low, bands)
        image = low


def haar_inverse(c, level, ndim, out, threads=1):
    haar, (out_numbers, _) = _HaarLevels(c, level, ndim), _numbers(out)
    check_sizes(product(c.shape), out=out)
    low = haar.numbers
    for step in reversed(range(level)):
        image = haar.low(step) if step else out_numbers
        haar.launch(_haar_join, step, low, haar.numbers, image)
        low = image


# --- undecimated frame of a filter pair -------------------------------------------------------
#
# Images and bands are (items, bands, volume): a kernel is given an array, how many bands it has, and which one is
# meant.  A volume is ``planes`` planes (n0, n2).  Taps are a shift apart that is less than the axis is long, so that
# one subtraction keeps an index on it.  In 2-D a level is one kernel: a thread filters along n2 row after row, keeps
# what the taps along n0 need of it, and writes ROWS rows of the bands, a shift apart like the taps.  A first axis (the
# only one, or that of a volume before its planes) has kernels that need no division: it wraps where the array does.


@plain
def _forwards(index, shift, n):
    index += shift
    return index - n if index >= n else index


@plain
def _backwards(index, shift, n):
    index -= shift
    return index + n if index < 0 else index


@plain
def _run_start(run, shift):
    """The first row of a run of rows: run c + k shift has the rows c + (k ROWS + r) shift, r < ROWS."""
    apart = max(shift, 1)
    block = quotient(run, apart)
    return run - block * apart + block * apart * _run_length(shift)


@plain
def _run_length(shift):
    """Where the shift is 0, the rows of the taps are all the same, and another row needs others."""
    return ROWS if shift > 0 else 1


def _split_lines(image, low, bands, step, size, low_count, low_band, count, band, blocks, smooth, rough):
    """The first axis of a volume of ``size`` numbers, ``step`` of them apart."""
    item, e = first_element(blocks)
    source = item * size
    low_start, start = (item * low_count + low_band) * size, (item * count + band) * size
    while e < size:
        a, b, x = zero(image), zero(image), e
        for t in range(len(smooth)):
            value = image[at(source + x)]
            a += smooth[t] * value
            b += rough[t] * value
            x = _forwards(x, step, size)
        low[at(low_start + e)] = a
        bands[at(start + e)] = b
        e += blocks * THREADS


def _join_lines(low, bands, image, step, size, low_count, low_band, count, band, blocks, smooth, rough):
    item, e = first_element(blocks)
    target = item * size
    low_start, start = (item * low_count + low_band) * size, (item * count + band) * size
    while e < size:
        total, x = zero(image), e
        for t in range(len(smooth)):
            total += smooth[t] * low[at(low_start + x)] + rough[t] * bands[at(start + x)]
            x = _backwards(x, step, size)
        image[at(target + e)] = total
        e += blocks * THREADS


def _split_planes(
    image, low, bands, n0, n2, planes, shift0, shift2, runs, low_count, low_band, count, band, blocks, smooth, rough
):
    item, e = first_element(blocks)
    volume = quotient(item, planes)
    size = n0 * n2
    whole, offset = planes * size, (item - volume * planes) * size
    low_start = (volume * low_count + low_band) * whole + offset
    start, source = (volume * count + band) * whole + offset, item * size
    apart, length, reach = max(shift0, 1), _run_length(shift0), len(smooth) - 1
    while e < runs * n2:
        run = quotient(e, n2)
        m = e - run * n2
        i = _run_start(run, shift0)
        y, k = i, 0
        lows, highs = smooth, smooth  # of the rows of the taps
        while k < reach + length and i < n0:
            a, b, x = zero(image), zero(image), m
            for t in range(len(smooth)):
                value = image[at(source + y * n2 + x)]
                a += smooth[t] * value
                b += rough[t] * value
                x = _forwards(x, shift2, n2)
            lows, highs = lows[1:] + (a,), highs[1:] + (b,)
            y = _forwards(y, shift0, n0)
            if k >= reach:
                ll, lh, hl, hh = zero(image), zero(image), zero(image), zero(image)
                for t in range(len(smooth)):
                    ll += smooth[t] * lows[t]
                    lh += smooth[t] * highs[t]
                    hl += rough[t] * lows[t]
                    hh += rough[t] * highs[t]
                here = i * n2 + m
                low[at(low_start + here)] = ll
                bands[at(start + here)] = lh
                bands[at(start + whole + here)] = hl
                bands[at(start + 2 * whole + here)] = hh
                i += apart
            k += 1
        e += blocks * THREADS


def _join_planes(
    low, bands, image, n0, n2, planes, shift0, shift2, runs, low_count, low_band, count, band, blocks, smooth, rough
):
    item, e = first_element(blocks)
    volume = quotient(item, planes)
    size = n0 * n2
    whole, offset = planes * size, (item - volume * planes) * size
    low_start = (volume * low_count + low_band) * whole + offset
    start, target = (volume * count + band) * whole + offset, item * size
    apart, length, reach = max(shift0, 1), _run_length(shift0), len(smooth) - 1
    back = reach * shift0
    back -= quotient(back, n0) * n0
    while e < runs * n2:
        run = quotient(e, n2)
        m = e - run * n2
        i = _run_start(run, shift0)
        y, k = _backwards(i, back, n0), 0
        lows, highs = smooth, smooth
        while k < reach + length and i < n0:
            a, b, x = zero(image), zero(image), m
            for t in range(len(smooth)):
                here = y * n2 + x
                first = start + here
                a += smooth[t] * low[at(low_start + here)] + rough[t] * bands[at(first)]
                b += smooth[t] * bands[at(first + whole)] + rough[t] * bands[at(first + 2 * whole)]
                x = _backwards(x, shift2, n2)
            lows, highs = lows[1:] + (a,), highs[1:] + (b,)
            y = _forwards(y, shift0, n0)
            if k >= reach:
                total = zero(image)
                for t in range(len(smooth)):
                    total += smooth[t] * lows[reach - t] + rough[t] * highs[reach - t]
                image[at(target + i * n2 + m)] = total
                i += apart
            k += 1
        e += blocks * THREADS


def _for_taps(spec, function):
    """The kernels of a function for each number of taps: their loops are unrolled, the taps in registers."""
    return {taps: kernel(f"{spec} r{taps} r{taps}", dtypes="fd")(function) for taps in (2, 4, 6, 8)}


_SPLIT_LINES = _for_taps("R R R i i i i i i i", _split_lines)
_JOIN_LINES = _for_taps("R R R i i i i i i i", _join_lines)
_SPLIT_PLANES = _for_taps("R R R i i i i i i i i i i i", _split_planes)
_JOIN_PLANES = _for_taps("R R R i i i i i i i i i i i", _join_planes)


class _Bank:
    """The levels' launches.  A band is given as (array, how many bands that has, which of them)."""

    def __init__(self, image, bands, filters, level, ndim):
        if filters.dtype != np.float64 or filters.shape not in [(2, taps) for taps in _SPLIT_LINES]:
            raise ValueError(
                f"filters: expected float64 of shape (2, taps) with {list(_SPLIT_LINES)} taps, got {filters.dtype} of "
                f"shape {filters.shape}"
            )
        shape = tuple(image.shape[image.ndim - ndim :])
        (self.image, parts), (self.bands, _) = _numbers(image), _numbers(bands)
        self.run, self.taps, self.filters = Launcher(self.image), filters.shape[1], filters.tolist()
        self.axes, self.n0, self.size = ndim, shape[0], product(shape) * parts
        self.plane = shape[-2] if ndim > 1 else 1, shape[-1] * parts
        self.parts, self.items = parts, product(self.image.shape) // self.size
        self.details = 2**ndim - 1
        self.count = self.details * level + 1
        check_sizes(self.items * self.count * self.size, bands=self.bands)

    def first_detail(self, step):
        return self.count - (step + 1) * self.details

    def volume(self):
        return self.run.scratch(self.items * self.size, self.run.real)

    def _lines(self, kernels, step, arrays, places):
        blocks, row = flat_blocks(self.size, 1), self.size // self.n0
        arguments = 2**step % self.n0 * row, self.size, *places, blocks, *self.filters
        self.run(kernels[self.taps], self.items * blocks, *arrays, *arguments)

    def _planes(self, kernels, step, arrays, places):
        n0, n2 = self.plane
        shift0, shift2 = 2**step % n0, 2**step % (n2 // self.parts) * self.parts
        apart, length = max(shift0, 1), ROWS if shift0 else 1
        runs = apart * -(-n0 // (apart * length))
        planes, blocks = self.size // (n0 * n2), flat_blocks(runs * n2, 1)
        arguments = n0, n2, planes, shift0, shift2, runs, *places, blocks, *self.filters
        self.run(kernels[self.taps], self.items * planes * blocks, *arrays, *arguments)

    def split(self, step, image, low):
        """One level of the image: its low band and its details."""
        array, *place = low
        band = self.count, self.first_detail(step)
        if self.axes < 3:
            launch, kernels = (self._lines, _SPLIT_LINES) if self.axes == 1 else (self._planes, _SPLIT_PLANES)
            launch(kernels, step, (image, array, self.bands), (*place, *band))
            return
        halves = self.volume(), self.volume()
        self._lines(_SPLIT_LINES, step, (image, *halves), (1, 0, 1, 0))
        self._planes(_SPLIT_PLANES, step, (halves[0], array, self.bands), (*place, *band))
        band = self.count, band[1] + 3, self.count, band[1] + 4
        self._planes(_SPLIT_PLANES, step, (halves[1], self.bands, self.bands), band)

    def join(self, step, low, image):
        """The adjoint of ``split``."""
        array, *place = low
        band = self.count, self.first_detail(step)
        if self.axes < 3:
            launch, kernels = (self._lines, _JOIN_LINES) if self.axes == 1 else (self._planes, _JOIN_PLANES)
            launch(kernels, step, (array, self.bands, image), (*place, *band))
            return
        halves = self.volume(), self.volume()
        self._planes(_JOIN_PLANES, step, (array, self.bands, halves[0]), (*place, *band))
        band = self.count, band[1] + 3, self.count, band[1] + 4
        self._planes(_JOIN_PLANES, step, (self.bands, self.bands, halves[1]), band)
        self._lines(_JOIN_LINES, step, (*halves, image), (1, 0, 1, 0))


def filter_bank_forward(x, filters, level, ndim, out, threads=1):
    bank = _Bank(x, out, filters, level, ndim)
    image = bank.image
    for step in range(level):
        low = (bank.volume(), 1, 0) if step + 1 < level else (bank.bands, bank.count, 0)
        bank.split(step, image, low)
        image = low[0]


def filter_bank_adjoint(c, filters, level, ndim, out, threads=1):
    bank = _Bank(out, c, filters, level, ndim)
    low = bank.bands, bank.count, 0
    for step in reversed(range(level)):
        image = bank.volume() if step else bank.image
        bank.join(step, low, image)
        low = image, 1, 0


def frame_forward(x, level, ndim, out, threads=1):
    filter_bank_forward(x, _HAAR, level, ndim, out)


def frame_adjoint(c, level, ndim, out, threads=1):
    filter_bank_adjoint(c, _HAAR, level, ndim, out)


# --- coefficients ---------------------------------------------------------------------------
#
# ``weighted`` is 0 where there are no weights, whose array is then not read.


@plain
def _bound(threshold, weights, weighted, e):
    return threshold * weights[at(e)] if weighted else threshold


@kernel("T r R i T i i")
def _clip_all(w, threshold, weights, weighted, out, size, blocks):
    _, e = first_element(blocks)
    while e < size:
        out[at(e)] = clip(w[at(e)], _bound(threshold, weights, weighted, e))
        e += blocks * THREADS


@kernel("T T r r r r R i T i i")
def _update_all(t, w, relaxation, threshold, new_threshold, dual_scale, weights, weighted, out, size, blocks):
    _, e = first_element(blocks)
    kept, two = real(t, 1) - relaxation, real(t, 2)
    while e < size:
        old = w[at(e)]
        c = clip(old, _bound(threshold, weights, weighted, e))
        new = times(relaxation, t[at(e)]) + times(kept, old - c) + times(dual_scale, c)
        w[at(e)] = new
        out[at(e)] = new - times(two, clip(new, _bound(new_threshold, weights, weighted, e)))
        e += blocks * THREADS


@kernel("T T r R i D i i")
def _measure_all(t, w, threshold, weights, weighted, partial, size, blocks):
    _, e = first_element(blocks)
    norm, product, distance, split, image, largest = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    while e < size:
        value, field = t[at(e)], w[at(e)]
        c = clip(field, _bound(threshold, weights, weighted, e))
        v = field - c
        r = value - v
        norm += _bound(magnitude(value), weights, weighted, e)
        product += inner(c, value)
        distance += square(r)
        split += square(v)
        image += square(value)
        largest = larger(largest, np.float64(magnitude(r + c)))
        e += blocks * THREADS
    sums = cuda.shared.array((6, THREADS), types.float64)
    sums[0, cuda.threadIdx.x] = norm
    sums[1, cuda.threadIdx.x] = product
    sums[2, cuda.threadIdx.x] = distance
    sums[3, cuda.threadIdx.x] = split
    sums[4, cuda.threadIdx.x] = image
    sums[5, cuda.threadIdx.x] = largest
    block_sums(sums, 1, partial)


def _weights(run, weights, size):
    """The weights' array for a kernel, and whether it holds any."""
    if weights is None:
        return run.scratch(1, run.real), 0
    check_sizes(size, weights=weights)
    return weights, 1


def clip_coefficients(w, threshold, weights, out, threads=1):
    run, size = Launcher(w), product(w.shape)
    check_sizes(size, out=out)
    blocks = flat_blocks(size)
    run(_clip_all, blocks, w, threshold, *_weights(run, weights, size), out, size, blocks)


def update_coefficients(t, w, relaxation, threshold, new_threshold, dual_scale, weights, out, threads=1):
    run, size = Launcher(t), product(t.shape)
    check_sizes(size, w=w)
    check_sizes(size, out=out)
    blocks, numbers = flat_blocks(size), (relaxation, threshold, new_threshold, dual_scale)
    run(_update_all, blocks, t, w, *numbers, *_weights(run, weights, size), out, size, blocks)


def coefficient_status(t, w, threshold, weights, threads=1):
    run, size = Launcher(t), product(t.shape)
    check_sizes(size, w=w)
    blocks = flat_blocks(size)
    partial, sums = run.scratch(6 * blocks), run.scratch(6)
    run(_measure_all, blocks, t, w, threshold, *_weights(run, weights, size), partial, size, blocks)
    run.finish(partial, blocks, 6, 1, sums)
    return run.totals(sums)
