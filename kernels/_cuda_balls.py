"""The CUDA backend's batched splits (mathematics.md 8): several problems side by side, each with its thresholds.

N images, the items of a launch, belong to K problems, ``each`` neighbours to one; numbers of the problems are float64
device arrays (K,), which the kernels read.  Fields are walked as in ``_cuda_fields.py``.
"""

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
    check_sizes,
    clip,
    first_element,
    first_unit,
    flat_blocks,
    kernel,
    larger,
    magnitude,
    product,
    quotient,
    real,
    reduce_block,
    square,
    times,
    unit_count,
    unit_place,
    unit_stride,
    zero,
)
from ._cuda_fields import _norm, _split, _split_at, _updated, measure_field, search_thresholds

MAX_PASSES = 60  # of Newton's method on a ball's threshold, after those of ``search_thresholds``
MAX_STEPS = 40  # of Newton's method on the three multipliers


def _share(items, parts):
    """The items of each part, as the images of a problem."""
    if parts < 1 or items < parts or items % parts:
        raise ValueError(f"{items} items do not divide into {parts} equal parts")
    return items // parts


def _problems(images, **numbers):
    """The images of a problem, where each of the arrays has a number for each problem."""
    counts = {name: product(values.shape) for name, values in numbers.items()}
    problems = next(iter(counts.values()))
    for name, count in counts.items():
        if count != problems:
            raise ValueError(f"{name}: expected a number for each of {problems} problems, got {count}")
    return _share(images, problems)


# --- fields and coefficients ----------------------------------------------------------------


@kernel("T T R r D D i i i i i i i i")
def _update_measured(
    x, q, magnitudes, relaxation, thresholds, dual_scales, each, d, isotropic, n0, n1, n2, shift, blocks
):
    item, unit = first_unit(blocks, shift)
    problem = quotient(item, each)
    plane = n1 * n2
    size = n0 * plane
    units, stride = unit_count(n0, n1, n2, shift), unit_stride(blocks, shift)
    kept = real(x, 1) - relaxation
    threshold, dual_scale = real(x, thresholds[at(problem)]), real(x, dual_scales[at(problem)])
    while unit < units:
        i, j, m = unit_place(unit, n1, n2, shift)
        if m < n2:
            right = 1 if m + 1 < n2 else -m
            below = n2 if j + 1 < n1 else -j * n2
            stop = min(i + ROWS, n0)
            here = i * plane + j * n2 + m
            source, target = item * size + here, item * d * size + here
            measured = source if isotropic else target
            value = x[at(source)]
            step_a, step_b, a, b = zero(x), zero(x), zero(x), zero(x)
            while i < stop:
                last = target + (d - 1) * size
                step_c, c = x[at(source + right)] - value, q[at(last)]
                if d > 1:
                    following = x[at(source + (plane if i + 1 < n0 else -i * plane))]
                    step_a, a = following - value, q[at(target)]
                    if d > 2:
                        step_b, b = x[at(source + below)] - value, q[at(target + size)]
                    value = following
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
                if isotropic:
                    magnitudes[at(measured)] = _norm(a, b, c)
                else:
                    magnitudes[at(measured + (d - 1) * size)] = magnitude(c)
                    if d > 1:
                        magnitudes[at(measured)] = magnitude(a)
                    if d > 2:
                        magnitudes[at(measured + size)] = magnitude(b)
                source += plane
                target += plane
                measured += plane
                i += 1
        unit += stride


def update_fields(x, q, magnitudes, relaxation, thresholds, dual_scales, isotropic, threads=1):
    run, grid, images, d = Launcher(x), Grid(x.shape[1:]), len(x), len(x.shape) - 1
    each = _problems(images, thresholds=thresholds, dual_scales=dual_scales)
    check_sizes(images * d * grid.size, q=q)
    check_sizes(images * grid.size * (1 if isotropic else d), magnitudes=magnitudes)
    numbers = relaxation, thresholds, dual_scales, each, d, isotropic
    run(_update_measured, images * grid.blocks, x, q, magnitudes, *numbers, *grid.arguments)


@kernel("T D D i i i T i i i i i")
def _reflected_divergence(q, thresholds, weights, each, d, isotropic, out, n0, n1, n2, shift, blocks):
    """out <- weight grad^T(q - 2 c)"""
    item, unit = first_unit(blocks, shift)
    problem = quotient(item, each)
    plane = n1 * n2
    size = n0 * plane
    units, stride = unit_count(n0, n1, n2, shift), unit_stride(blocks, shift)
    threshold, weight = real(q, thresholds[at(problem)]), real(q, weights[at(problem)])
    one, minus_two = real(q, 1), real(q, -2)
    while unit < units:
        i, j, m = unit_place(unit, n1, n2, shift)
        if m < n2:
            left = 1 if m else 1 - n2
            above = n2 if j else (1 - n1) * n2
            stop = min(i + ROWS, n0)
            here = i * plane + j * n2 + m
            target, source = item * size + here, item * d * size + here
            before, a, b = zero(q), zero(q), zero(q)
            if d > 1:
                up = source - (plane if i else (1 - n0) * plane)
                before = _split_at(q, up, 0, d, size, threshold, one, minus_two, isotropic)
            while i < stop:
                c, scale = q[at(source + (d - 1) * size)], threshold
                if d > 1:
                    a = q[at(source)]
                if d > 2:
                    b = q[at(source + size)]
                if isotropic:
                    scale = ball_scale(_norm(a, b, c), threshold)
                value = _split_at(q, source - left, d - 1, d, size, threshold, one, minus_two, isotropic)
                value -= _split(c, threshold, scale, one, minus_two, isotropic)
                if d > 1:
                    a = _split(a, threshold, scale, one, minus_two, isotropic)
                    value += before - a
                    before = a
                if d > 2:
                    value += _split_at(q, source - above, 1, d, size, threshold, one, minus_two, isotropic)
                    value -= _split(b, threshold, scale, one, minus_two, isotropic)
                out[at(target)] = times(weight, value)
                source += plane
                target += plane
                i += 1
        unit += stride


def field_divergences(q, thresholds, weights, isotropic, out, threads=1):
    run, grid, images, d = Launcher(out), Grid(out.shape[1:]), len(out), len(out.shape) - 1
    each = _problems(images, thresholds=thresholds, weights=weights)
    check_sizes(images * d * grid.size, q=q)
    run(
        _reflected_divergence, images * grid.blocks, q, thresholds, weights, each, d, isotropic, out, *grid.arguments
    )  # fmt: skip


@kernel("T T R r D D i i i")
def _measure(t, w, magnitudes, relaxation, thresholds, dual_scales, each, size, blocks):
    item, e = first_element(blocks)
    problem, start = quotient(item, each), item * size
    kept = real(t, 1) - relaxation
    threshold, dual_scale = real(t, thresholds[at(problem)]), real(t, dual_scales[at(problem)])
    while e < size:
        old = w[at(start + e)]
        c = clip(old, threshold)
        new = times(relaxation, t[at(start + e)]) + times(kept, old - c) + times(dual_scale, c)
        w[at(start + e)] = new
        magnitudes[at(start + e)] = magnitude(new)
        e += blocks * THREADS


def measure_coefficients(t, w, magnitudes, relaxation, thresholds, dual_scales, threads=1):
    run, images, size = Launcher(t), len(t), product(t.shape[1:])
    each, blocks = _problems(images, thresholds=thresholds, dual_scales=dual_scales), flat_blocks(size)
    check_sizes(images * size, w=w, magnitudes=magnitudes)
    numbers = relaxation, thresholds, dual_scales
    run(_measure, images * blocks, t, w, magnitudes, *numbers, each, size, blocks)


@kernel("T D D T i i i")
def _reflect(w, thresholds, weights, out, each, size, blocks):
    item, e = first_element(blocks)
    problem, start = quotient(item, each), item * size
    threshold, weight, two = real(w, thresholds[at(problem)]), real(w, weights[at(problem)]), real(w, 2)
    while e < size:
        value = w[at(start + e)]
        out[at(start + e)] = times(weight, value - times(two, clip(value, threshold)))
        e += blocks * THREADS


def reflect_coefficients(w, thresholds, weights, out, threads=1):
    run, images, size = Launcher(w), len(w), product(w.shape[1:])
    each, blocks = _problems(images, thresholds=thresholds, weights=weights), flat_blocks(size)
    check_sizes(images * size, out=out)
    run(_reflect, images * blocks, w, thresholds, weights, out, each, size, blocks)


# --- thresholds of l1 and l21 balls ---------------------------------------------------------


@kernel("T D D D i", dtypes="fd")
def _end_search(m, radii, thresholds, state, size):
    """Newton's method where ``search_thresholds`` has not ended: one block for an item, which passes in turn."""
    item, t = np.int64(cuda.blockIdx.x), cuda.threadIdx.x
    sums = cuda.shared.array((2, THREADS), types.float64)
    theta, active, passes = thresholds[at(item)], state[at(2 * item)], 0
    if state[at(2 * item + 1)] != 0.0:
        passes = MAX_PASSES
    while passes < MAX_PASSES:
        trial, above, count, e = real(m, theta), 0.0, 0, np.int64(t)
        while e < size:
            value = m[at(item * size + e)]
            if value > trial:
                above += value
                count += 1
            e += THREADS
        sums[0, t] = above
        sums[1, t] = count
        reduce_block(sums, 2, 0)
        above, total = sums[0, 0], sums[1, 0]
        cuda.syncthreads()
        passes += 1
        if total == 0.0 or total == active:
            passes = MAX_PASSES
        else:
            active, theta = total, max(theta, (above - radii[at(item)]) / total)
    if t == 0:
        thresholds[at(item)] = theta


def ball_thresholds(magnitudes, radii, thresholds, threads=1):
    run, problems = Launcher(magnitudes), product(radii.shape)
    size = _share(product(magnitudes.shape), problems)
    check_sizes(problems, thresholds=thresholds)
    sums = run.scratch((problems, 3))
    measure_field(run, problems, 1, size, magnitudes, thresholds, False, sums)
    state = search_thresholds(run, problems, 1, size, magnitudes, radii, False, thresholds, sums)
    run(_end_search, problems, magnitudes, radii, thresholds, state, size)


# --- spectra --------------------------------------------------------------------------------


@kernel("T T R i i i i", dtypes="FD")
def _spectrum_step(r, linear, inverse, shared, each, size, blocks):
    item, e = first_element(blocks)
    start, own = item * size, quotient(item, each) * size
    term = (item - quotient(item, shared) * shared) * size
    while e < size:
        r[at(start + e)] = times(inverse[at(own + e)], linear[at(term + e)] + r[at(start + e)])
        e += blocks * THREADS


def spectrum_step(r, linear, inverse, threads=1):
    run, images, size = Launcher(r), len(r), product(r.shape[1:])
    each, blocks = _share(images, len(inverse)), flat_blocks(size)
    _share(each, len(linear))  # one for all, or one for each image of a problem
    check_sizes(len(linear) * size, linear=linear)
    check_sizes(len(inverse) * size, inverse=inverse)
    run(_spectrum_step, images * blocks, r, linear, inverse, len(linear), each, size, blocks)


@kernel("T T R T T R R R r r r r i i", dtypes="FD")
def _data_step(
    r, z, power, base, observed, gram, inverse, factor, penalty, curvature, relaxation, dual_scale, size, blocks
):
    item, e = first_element(blocks)
    one, start = real(r, 1), item * size
    while e < size:
        here, diagonal = start + e, gram[at(e)]
        y, split = observed[at(here)], z[at(here)]
        s = one / (one + curvature * diagonal)
        x = times(inverse[at(e)], r[at(here)] + base[at(here)] + times(penalty, y + times(s + s - one, split)))
        if diagonal > 0:
            split = times(relaxation, x - y) + times((one - relaxation) * s + dual_scale * (one - s), split)
        else:
            split = zero(r)
        r[at(here)] = x
        z[at(here)] = split
        power[at(here)] = factor[at(e)] * square(split)
        e += blocks * THREADS


def data_step(
    r, z, power, base, observed, gram, inverse, factor, penalty, curvature, relaxation, dual_scale, threads=1
):
    run, images, size = Launcher(r), len(r), product(r.shape[1:])
    blocks = flat_blocks(size)
    check_sizes(images * size, z=z, power=power, base=base, observed=observed)
    check_sizes(size, gram=gram, inverse=inverse, factor=factor)
    arrays = r, z, power, base, observed, gram, inverse, factor
    run(_data_step, images * blocks, *arrays, penalty, curvature, relaxation, dual_scale, size, blocks)


# --- the three multipliers of the subproblem ------------------------------------------------
#
# Rows 0: data, 1: coefficients, 2: fields.  The sums over the arrays are the device's: each has the same number of
# blocks, whose shares stand in one array, so that one kernel adds them up and one copy brings them to the host.


@kernel("R R r D i i i", dtypes="fd")
def _shrunk(power, gram, curvature, partial, images, size, blocks):
    """The sum of power / (1 + curvature gram)^2 and its derivative in curvature."""
    _, e = first_element(blocks)
    one, value, slope = real(gram, 1), 0.0, 0.0
    while e < size:
        diagonal = gram[at(e)]
        s = one / (one + curvature * diagonal)
        here, k = e, 0
        while k < images:
            shrunk = power[at(here)] * s * s
            value += shrunk
            slope += shrunk * s * diagonal
            here += size
            k += 1
        e += blocks * THREADS
    sums = cuda.shared.array((2, THREADS), types.float64)
    sums[0, cuda.threadIdx.x] = value
    sums[1, cuda.threadIdx.x] = -2 * slope
    block_sums(sums, 0, partial)


@kernel("R r D i i", dtypes="fd")
def _excess(m, tau, partial, size, blocks):
    """The sum of max(m - tau, 0) and the count above tau."""
    _, e = first_element(blocks)
    total, count = 0.0, 0
    while e < size:
        above = m[at(e)] - tau
        if above > 0:
            total += above
            count += 1
        e += blocks * THREADS
    sums = cuda.shared.array((2, THREADS), types.float64)
    sums[0, cuda.threadIdx.x] = total
    sums[1, cuda.threadIdx.x] = count
    block_sums(sums, 0, partial)


@kernel("R D i i", dtypes="fd")
def _largest(m, partial, size, blocks):
    _, e = first_element(blocks)
    largest = 0.0
    while e < size:
        largest = larger(largest, np.float64(m[at(e)]))
        e += blocks * THREADS
    sums = cuda.shared.array((1, THREADS), types.float64)
    sums[0, cuda.threadIdx.x] = largest
    block_sums(sums, 1, partial)


class _Sums:
    """The sums over power, coefficients and fields that the three constraints are made of."""

    def __init__(self, coefficients, fields, power, gram):
        self.run, self.gram, self.power = Launcher(coefficients), gram, power
        self.magnitudes = [(m, product(m.shape)) for m in (coefficients, fields)]
        self.size = product(gram.shape)
        self.images = _share(product(power.shape), self.size)
        self.blocks = flat_blocks(max(self.size, *(size for _, size in self.magnitudes)))
        self.partial, self.sums = self.run.scratch(6 * self.blocks), self.run.scratch((3, 2))

    def shares(self, columns):
        """The blocks' shares of the three sums."""
        count = columns * self.blocks
        return [self.partial[k * count : (k + 1) * count] for k in range(3)]

    def tops(self):
        """The largest magnitude of the coefficients and of the fields."""
        tops = self.run.scratch((2, 1))
        for (m, size), share in zip(self.magnitudes, self.shares(1), strict=False):
            self.run(_largest, self.blocks, m, share, size, self.blocks)
        self.run.finish(self.partial, self.blocks, 1, 1, tops)
        return self.run.totals(tops)

    def at(self, curvature, taus):
        """(value, derivative) of the shrunk power's sum, and (excess, count) of the magnitudes above each tau."""
        first, *shares = self.shares(2)
        sizes = self.images, self.size, self.blocks
        self.run(_shrunk, self.blocks, self.power, self.gram, curvature, first, *sizes)
        for (m, size), tau, share in zip(self.magnitudes, taus, shares, strict=True):
            self.run(_excess, self.blocks, m, tau, share, size, self.blocks)
        self.run.finish(self.partial, self.blocks, 2, 0, self.sums)
        found = self.run.totals(self.sums)
        return list(zip(found[::2], found[1::2], strict=True))


class _Rows:
    """The constraints' penalties and sigma, and the radii's rates, centres and weights in places 1 and 2."""

    def __init__(self, penalties, sigma, rates, centres, weights, constant, alpha):
        radii = ([0.0, *row] for row in (rates, centres, weights))
        rows = (np.array(row, np.float64) for row in (penalties, sigma, *radii))
        self.penalty, self.sigma, self.rate, self.centre, self.weight = rows
        self.constant, self.alpha = float(constant), float(alpha)

    def evaluate(self, sums, mu, t):
        """The constraints at (mu, t), their own derivatives, the size of their terms, and the radii (0 in place 0)."""
        (found, steepness), *above = sums.at(mu[0] / self.penalty[0], mu[1:] / self.penalty[1:])
        value, slope, scale = np.zeros(3), np.zeros(3), np.zeros(3)
        value[0], slope[0], scale[0] = self.constant + found, steepness / self.penalty[0], found + abs(self.constant)
        radius = np.zeros(3)
        for i, (excess, count) in enumerate(above, 1):
            radius[i] = self.centre[i] + (mu[i] - mu[0] * self.rate[i]) / self.weight[i]
            value[i], scale[i] = excess - radius[i], excess + abs(radius[i])
            slope[i] = -count / self.penalty[i] - 1 / self.weight[i]
            value[0] += self.rate[i] * radius[i]
            slope[0] -= self.rate[i] * self.rate[i] / self.weight[i]
            scale[0] += abs(self.rate[i] * radius[i])
        return value - self.sigma * t, slope, scale, radius


def _newton(sums, rows, tol, tops, mu, t, violated):
    """Semismooth Newton on mu and, where t may be positive, t: (mu, t), or None where it fails."""
    t = t if violated else 0.0
    size = 4 if violated else 3
    for _ in range(MAX_STEPS):
        value, slope, scale, radius = rows.evaluate(sums, mu, t)
        if not np.isfinite(value).all():
            return None
        # Would the constraint hold at multiplier 0, by the linear model?
        active = value - slope * mu > 0
        step, jacobian = np.append(np.where(active, -value, -mu), rows.alpha - rows.sigma @ mu), np.zeros((4, 4))
        for i in range(3):
            jacobian[i, i] = slope[i] if active[i] else 1.0
            jacobian[i, 3] = -rows.sigma[i] if active[i] else 0.0
            jacobian[3, i] = rows.sigma[i]
        for i in (1, 2):
            jacobian[0, i] = rows.rate[i] / rows.weight[i] if active[0] else 0.0
            jacobian[i, 0] = rows.rate[i] / rows.weight[i] if active[i] else 0.0
        limits = np.append(np.where(active, tol * scale, tol * rows.alpha), tol * rows.alpha)[:size]
        if np.all(np.abs(step[:size]) <= limits):
            mu = np.where(active, mu, 0.0)
            allowed = violated or rows.sigma @ mu <= rows.alpha * (1 + tol)
            return (mu, t) if allowed and t >= 0 and mu[0] >= 0 and (radius >= 0).all() else None
        if violated and not active.any():
            return None
        try:
            step = np.linalg.solve(jacobian[:size, :size], step[:size])
        except np.linalg.LinAlgError:
            return None
        t += step[3] if violated else 0.0
        following = mu + step[:3]
        for i in range(3):
            if following[i] < 0:
                following[i] = 0.1 * mu[i] if i == 0 and active[0] else 0.0
            if i > 0 and following[i] >= tops[i - 1]:
                following[i] = 0.5 * (mu[i] + tops[i - 1]) if mu[i] < tops[i - 1] else 0.5 * tops[i - 1]
        mu = following
    return None


def coupled_multipliers(
    coefficients, fields, power, gram, penalties, sigma, rates, centres, weights, constant, alpha, start, threads=1
):
    """As on the CPU: semismooth Newton with t > 0 or t = 0 first as in ``start``, then the other way.

    The four arrays are the device's, all the other arguments the host's.  Sums over the arrays come to the host once
    for each evaluation, and there the scalar method runs: this is a step of the selection's subproblem, whose few
    evaluations wait for the device, and cannot be captured in a CUDA graph.
    """
    sums = _Sums(coefficients, fields, power, gram)
    rows = _Rows(penalties, sigma, rates, centres, weights, constant, alpha)
    tol = 1e-6 if sums.run.real == np.float32 else 1e-11  # float32 data carry a relative error of their own
    start = tuple(float(number) for number in start)
    mu, t = np.array(start[:3]), start[3]
    tops = rows.penalty[1:] * sums.tops()
    for violated in (t > 0, t <= 0):
        found = _newton(sums, rows, tol, tops, mu, t if t > 0 else 1e-3, violated)
        if found is not None:
            mu, t = found
            return True, (*mu.tolist(), float(t))
    return False, start
