"""What a choice of hyper-parameters is judged by: held-out samples, a reference, and the errors that are reported."""

import hashlib
from dataclasses import dataclass

import numpy as np

from .._validation import as_mask, check_count, check_number, shown
from ..operators import MaskedFourier, MultiCoilFourier
from ..operators.fourier import mirrored

__all__ = ["Split", "fingerprint", "image_metrics", "relative_error", "split_samples", "with_mask"]

STREAM = 0x53504C54


@dataclass(frozen=True)
class Split:
    """The parts of a sampling mask, boolean arrays of its shape and convention; disjoint, their union is the mask."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_samples(mask, *, fractions=(0.70, 0.15, 0.15), calibration=4, seed=0, centred=False, paired=True):
    """Divide the sampled frequencies at random into training, validation and test samples (mathematics.md 8).

    The block |k_i| <= calibration around the zero frequency is for training; the samples outside it are divided
    by ``fractions``, to the nearest pair.

    Parameters
    ----------
    mask : array of bool (or of 0 and 1), 1, 2 or 3 axes
    fractions : tuple of 3 floats >= 0 that sum to 1
        The shares of training, validation and test, of the samples outside the block.  The test part may be
        empty, the others may not.
    calibration : int, >= 0
        Half the width of the block; 0 keeps the zero frequency alone.
    seed : int, >= 0
        The same arguments give the same split.
    centred : bool
        Where the mask, and with it the parts, have the zero frequency: False, at index 0; True, in the middle.
    paired : bool
        Whether k and -k (modulo the shape) always belong to the same part, also where one of them is not sampled.
        Needed for real images: y(-k) = conj y(k) would let the training samples tell the others.

    Returns
    -------
    Split

    Raises
    ------
    TypeError, ValueError
        For unusable arguments, and if the training or the validation part would be empty.
    """
    mask = as_mask("mask", mask)
    shares = _as_fractions(fractions)
    calibration = check_count("calibration", calibration, 0)
    # Not the stream of the plain seed, from which the mask itself may have been drawn.
    rng = np.random.default_rng([check_count("seed", seed, 0), STREAM])

    sampled = np.fft.ifftshift(mask) if centred else mask
    outside = np.flatnonzero(sampled & ~_central_block(mask.shape, calibration))
    # k and -k are one orbit, called by the smaller of their indices.
    orbit = np.arange(mask.size).reshape(mask.shape)
    if paired:
        orbit = np.minimum(orbit, mirrored(orbit))
    _, member, sizes = np.unique(orbit.ravel()[outside], return_inverse=True, return_counts=True)
    # The orbits in random order along [0, 1], as long as they have samples: a part takes those whose middle it holds.
    order = rng.permutation(sizes.size)
    middle = np.empty(sizes.size)
    middle[order] = (np.cumsum(sizes[order]) - 0.5 * sizes[order]) / max(outside.size, 1)
    validation, test = middle < shares[1], (middle >= shares[1]) & (middle < shares[1] + shares[2])

    parts = []
    for chosen in (validation, test):
        part = np.zeros(mask.shape, bool)
        part.ravel()[outside[chosen[member]]] = True
        parts.append(part)
    train = sampled & ~parts[0] & ~parts[1]
    for name, part in (("validation", parts[0]), ("training", train)):
        if not part.any():
            raise ValueError(
                f"mask: {outside.size} of its {int(sampled.sum())} samples lie outside the calibration block, too few "
                f"for fractions={shares}: the {name} part would be empty; lower calibration (now {calibration}), "
                "raise that part's fraction or sample more"
            )
    if centred:
        train, *parts = (np.fft.fftshift(part) for part in (train, *parts))
    return Split(train, *parts)


def _as_fractions(fractions):
    try:
        shares = tuple(check_number("fractions", share) for share in fractions)
    except TypeError:
        shares = ()
    if len(shares) != 3 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"fractions: expected three numbers >= 0 that sum to 1 (training, validation, test), got {shown(fractions)}"
        )
    if shares[1] == 0:
        raise ValueError("fractions: the validation part would be empty; give it a share > 0, say (0.7, 0.15, 0.15)")
    return shares


def _central_block(shape, calibration):
    """Where every |k_i| <= calibration, zero frequency first."""
    block = np.ones(shape, bool)
    for axis, size in enumerate(shape):
        near = np.abs(np.fft.fftfreq(size, 1 / size)) <= calibration + 0.5
        block &= near.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return block


def with_mask(A, mask):
    """The same operator for other samples."""
    if isinstance(A, MultiCoilFourier):
        return MultiCoilFourier(mask, A.maps, centred=A.centred)
    return MaskedFourier(mask, real=A.real, centred=A.centred)


def relative_error(A, x, y):
    """|A x - y| / |y| over a whole stack; y as the operator's data, 0 where not sampled.

    On all samples or the training ones this is the normalised residual (NRE), on the held-out ones the
    validation or test error.  NaN where y is 0.
    """
    size = float(np.linalg.norm(y))
    return float(np.linalg.norm(A(x) - y)) / size if size else float("nan")


def image_metrics(x, reference):
    """{"rlne": |x - r| / |r|, "psnr": 10 log10(max|r|^2 N / |x - r|^2)} over a whole stack (mathematics.md 8).

    x, reference : ndarray of one shape, real or complex; nothing is clipped.  {} without a reference;
    infinite or NaN where a denominator is 0.
    """
    if reference is None:
        return {}
    square = float(np.sum(np.abs(x - reference) ** 2, dtype=np.float64))
    size = float(np.sum(np.abs(reference) ** 2, dtype=np.float64))
    peak = float(np.abs(reference).max()) ** 2 * reference.size
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "rlne": float(np.sqrt(np.float64(square) / size)),
            "psnr": float(10 * np.log10(np.float64(peak) / square)),
        }


def fingerprint(*parts):
    """A str that is the same for the same parts: arrays by entries, operators by what they hold, others by repr."""
    digest = hashlib.sha256()
    for part in parts:
        if callable(getattr(part, "check_data", None)):
            held = (getattr(part, name, None) for name in ("psf", "mask", "maps", "shape", "real", "centred"))
            part = fingerprint(type(part).__name__, *held)
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape} ".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(f"{part!r}\n".encode())
    return digest.hexdigest()
