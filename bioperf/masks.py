"""Sampling masks of k-space: variable density, exact rate, fully sampled centre.

Every function returns a boolean array of the shape asked for, with exactly ``round(rate * size)`` samples
(``cartesian``: whole lines, ``round(rate * lines)`` of them); the same arguments give the same mask.  The zero
frequency is at index 0 as in the operators, or at ``n//2`` of each axis with ``centred=True``.

``calibration`` is the size of the fully sampled block around the zero frequency: an integer counts samples
along each undersampled axis (a tuple: one for each of them), a float is a fraction of each.  With None the
block takes 8 % of each axis, or less, so that it holds at most 0.32 of the samples, but the zero frequency at
least; that is fastMRI's choice at four-fold and at eight-fold acceleration (Zbontar et al., 2018).
"""

import functools
import math

import numpy as np

from ._validation import check_count, check_flag, check_number, check_size, shown

__all__ = ["cartesian", "gaussian", "poisson_disc", "radial"]


def cartesian(shape, rate, *, calibration=None, power=4.0, readout=0, seed=0, centred=False):
    """Whole lines along one axis, their positions at random with more of them near the centre.

    Parameters
    ----------
    shape : tuple of 2 or 3 int
    rate : float in (0, 1]
        Exactly ``round(rate * lines)`` lines are sampled.
    calibration : int, float, tuple or None
        Size of the fully sampled centre along each axis but ``readout``, see the module.
    power : float, >= 0
        Lines are drawn without replacement with weights ``(1 - r)^power + 0.02``, r being the distance from
        the centre of k-space in units of its half width (at most 1).
    readout : int
        The axis along which lines run; the default leaves the last axis for phase encoding, as in fastMRI
        files.
    seed : int
    centred : bool
        Where the zero frequency is, see the module.

    Returns
    -------
    ndarray, bool, of that shape

    Raises
    ------
    TypeError, ValueError
        Also if the calibration block alone has more lines than the rate allows.
    """
    shape = _as_shape(shape, (2, 3))
    if not isinstance(readout, int | np.integer) or not -len(shape) <= readout < len(shape):
        raise ValueError(f"readout: expected an axis of shape {shape}, got {shown(readout)}")
    readout = int(readout) % len(shape)
    lines = shape[:readout] + shape[readout + 1 :]
    power = check_number("power", power)
    with np.errstate(divide="ignore"):
        weights = np.log((1 - np.minimum(_radius(lines), 1)) ** power + 0.02)
    mask = _draw(lines, rate, calibration, weights, seed, "lines")
    return _place(np.broadcast_to(np.expand_dims(mask, readout), shape), centred)


def gaussian(shape, rate, *, calibration=None, width=0.35, seed=0, centred=False):
    """Single samples at random, their density a Gaussian around the zero frequency.

    Parameters
    ----------
    shape : tuple of 1, 2 or 3 int
    rate : float in (0, 1]
        Exactly ``round(rate * size)`` samples.
    calibration : int, float, tuple or None
        Size of the fully sampled centre along each axis, see the module.
    width : float, > 0
        The Gaussian's standard deviation in units of half the width of k-space.  Samples are drawn without
        replacement with weights ``exp(-r^2 / (2 width^2))``.
    seed, centred
        See ``cartesian``.

    Returns
    -------
    ndarray, bool, of that shape

    Raises
    ------
    TypeError, ValueError
        Also if the calibration block alone has more samples than the rate allows.
    """
    shape = _as_shape(shape, (1, 2, 3))
    width = check_number("width", width, strict=True)
    weights = -0.5 * (_radius(shape) / width) ** 2
    return _place(_draw(shape, rate, calibration, weights, seed, "samples"), centred)


def poisson_disc(shape, rate, *, calibration=None, slope=8.0, seed=0, centred=False):
    """Samples at random that keep a distance, which grows from the centre outwards (Poisson-disc sampling).

    Positions are visited in random order; one is sampled if it lies outside the discs of all those before.  The
    disc at distance r from the zero frequency has the radius ``scale * (1 + slope * r)`` (r in units of half
    the width of k-space, the radius in samples), with the scale found by bisection: the largest that leaves
    enough samples.  The surplus is taken away at random, so any two samples outside the calibration block
    are at least the smaller of their two radii apart.

    Parameters
    ----------
    shape : tuple of 2 int
    rate : float in (0, 1]
        Exactly ``round(rate * size)`` samples.
    calibration : int, float, tuple or None
        Size of the fully sampled centre along each axis, see the module.
    slope : float, >= 0
        0 is uniform density.
    seed, centred
        See ``cartesian``.

    Returns
    -------
    ndarray, bool, of that shape

    Raises
    ------
    TypeError, ValueError
        Also if the calibration block alone has more samples than the rate allows.

    References
    ----------
    M. Lustig, J. M. Pauly, SPIRiT, Magn. Reson. Med. 64 (2010), section on sampling; the random visiting
    order is R. L. Cook's dart throwing, ACM Trans. Graph. 5 (1986), on the grid.
    """
    shape = _as_shape(shape, (2,))
    growth = 1 + check_number("slope", slope) * _radius(shape)
    mask, count = _calibrated(shape, rate, calibration, "samples")
    outside = np.flatnonzero(~mask)
    order = outside[np.argsort(_rng(seed).random(outside.size), kind="stable")]
    throw = _compiled_darts()
    # At scale 0 no disc holds a neighbour, at the diagonal's length one disc holds all.
    smallest, largest, chosen = 0.0, math.hypot(*shape), order
    while count and largest - smallest > 1e-6 * largest and len(chosen) > count:
        scale = (smallest + largest) / 2
        accepted = throw(order, scale * growth)
        if len(accepted) >= count:
            smallest, chosen = scale, accepted
        else:
            largest = scale
    mask.ravel()[chosen[:count]] = True
    return _place(mask, centred)


def radial(shape, rate, *, calibration=0, seed=0, centred=False):
    """Equally spaced spokes through the zero frequency, drawn on the grid from edge to edge.

    The number of spokes is the smallest that reaches the rate; the last ones are left off, or drawn around
    the centre only, so that the count is exact.  The mask is symmetric under k -> -k (modulo the shape), but
    for at most one sample, if the calibration block is: odd sizes or 0.

    Parameters
    ----------
    shape : tuple of 2 int
    rate : float in (0, 1]
        Exactly ``round(rate * size)`` samples.
    calibration : int, float, tuple or None
        Size of a fully sampled centre along each axis, see the module; 0 leaves it to the spokes.
    seed : int
        Turns the spokes: 0 starts with one along the last axis, others at a random angle.
    centred
        See ``cartesian``.

    Returns
    -------
    ndarray, bool, of that shape

    Raises
    ------
    TypeError, ValueError
        Also if the calibration block alone has more samples than the rate allows.
    """
    shape = _as_shape(shape, (2,))
    mask, count = _calibrated(shape, rate, calibration, "samples")
    turn = _rng(seed).random() if check_count("seed", seed, 0) else 0.0
    total = count + int(mask.sum())
    fewest, most = 0, 1
    while len(_spokes(shape, most, turn, mask)) < total:
        fewest, most = most, 2 * most
    while most - fewest > 1:
        spokes = (fewest + most) // 2
        fewest, most = (spokes, most) if len(_spokes(shape, spokes, turn, mask)) < total else (fewest, spokes)
    mask.ravel()[_spokes(shape, most, turn, mask)[:total]] = True
    return _place(mask, centred)


def _spokes(shape, spokes, turn, calibration):
    """Flat indices of the samples on equi-angular diameters, each once: the calibration block, then spoke
    after spoke from the centre outwards, k beside -k."""
    reach = np.arange(1, max(shape) // 2 + 1)
    steps = np.concatenate([[0], np.stack([reach, -reach], 1).ravel()])
    angles = np.pi * (np.arange(spokes) + turn)[:, None] / spokes
    direction = np.stack([np.sin(angles), np.cos(angles)])
    # One sample a step along the axis that is closer to the spoke's direction
    offsets = np.rint(direction / np.abs(direction).max(0) * steps).astype(int)
    half = np.array(shape)[:, None, None] // 2
    rows, columns = (offsets + half)[:, (np.abs(offsets) <= half).all(0)]
    drawn = rows % shape[0] * shape[1] + columns % shape[1]
    drawn = np.concatenate([np.flatnonzero(calibration), drawn])
    return drawn[np.sort(np.unique(drawn, return_index=True)[1])]


def _throw_darts(order, radius):
    """The members of ``order`` (flat indices), in turn, that lie outside the discs of those accepted before."""
    height, width = radius.shape
    blocked = np.zeros((height, width), np.bool_)
    accepted = np.empty_like(order)
    count = 0
    for index in order:
        row, column = index // width, index % width
        if blocked[row, column]:
            continue
        accepted[count] = index
        count += 1
        square = radius[row, column] ** 2
        reach = int(radius[row, column])
        for i in range(max(0, row - reach), min(height, row + reach + 1)):
            for j in range(max(0, column - reach), min(width, column + reach + 1)):
                if (i - row) ** 2 + (j - column) ** 2 < square:
                    blocked[i, j] = True
    return accepted[:count]


@functools.cache
def _compiled_darts():
    import numba

    return numba.njit(cache=True)(_throw_darts)


def _draw(shape, rate, calibration, log_weights, seed, unit):
    """The calibration block and a sample without replacement, its probabilities in proportion to the weights.

    The largest of the logarithms plus Gumbel noise win (Efraimidis and Spirakis, Inf. Process. Lett. 97, 2006).
    """
    mask, count = _calibrated(shape, rate, calibration, unit)
    uniform = _rng(seed).random(shape)
    keys = log_weights - np.log(-np.log1p(-uniform) + np.finfo(float).tiny)
    keys[mask] = -np.inf
    mask.ravel()[np.argsort(-keys, axis=None, kind="stable")[:count]] = True
    return mask


def _calibrated(shape, rate, calibration, unit):
    """A centred mask of the calibration block only, and how many samples are to be added."""
    rate = check_number("rate", rate, strict=True, maximum=1)
    size = math.prod(shape)
    total = round(rate * size)
    if total == 0:
        raise ValueError(f"rate: {rate:g} of {size} {unit} is none of them; raise it")
    block = _block(shape, rate, calibration)
    if math.prod(block) > total:
        raise ValueError(
            f"calibration: {' x '.join(map(str, block))} {unit} are more than the {total} of the rate {rate:g}; "
            "lower it or raise the rate"
        )
    mask = np.zeros(shape, bool)
    mask[tuple(slice(n // 2 - k // 2, n // 2 - k // 2 + k) for n, k in zip(shape, block, strict=True))] = True
    return mask, total - math.prod(block)


def _block(shape, rate, calibration):
    """The calibration block's size along each axis."""
    if calibration is None:
        fraction = min(0.08, (0.32 * rate) ** (1 / len(shape)))
        return tuple(max(1, int(fraction * n)) for n in shape)
    sizes = calibration if isinstance(calibration, tuple | list) else (calibration,) * len(shape)
    if len(sizes) != len(shape):
        raise ValueError(f"calibration: expected {len(shape)} sizes, one for each undersampled axis, got {calibration}")
    block = []
    for size, n in zip(sizes, shape, strict=True):
        if isinstance(size, float | np.floating):
            block.append(round(check_number("calibration", size, maximum=1) * n))
        elif check_count("calibration", size, 0) > n:
            raise ValueError(f"calibration: {size} samples exceed the axis of {n}; lower it")
        else:
            block.append(int(size))
    return tuple(block) if all(block) else (0,) * len(shape)


def _radius(shape):
    """Distance from the zero frequency (centred) in units of half the width of each axis."""
    squares = [((np.arange(n) - n // 2) / max(n / 2, 1)) ** 2 for n in shape]
    return np.sqrt(functools.reduce(np.add.outer, squares))


def _place(mask, centred):
    """The mask, drawn with the zero frequency in the middle, as the caller wants it."""
    return np.ascontiguousarray(mask if check_flag("centred", centred) else np.fft.ifftshift(mask))


def _rng(seed):
    return np.random.default_rng(check_count("seed", seed, 0))


def _as_shape(shape, dimensions):
    if not isinstance(shape, tuple | list):
        raise TypeError(f"shape: expected a tuple of integers, got {shown(shape)}")
    if len(shape) not in dimensions:
        raise ValueError(f"shape: expected {' or '.join(map(str, dimensions))} axes, got {tuple(shape)}")
    return check_size("shape", tuple(check_count("shape", n) for n in shape))
