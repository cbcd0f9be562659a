"""Checks that every public function shares: one clear error that says what, where and what to do."""

import math
import os
import re

import numpy as np

from .kernels import on_device, squares_range

_MOST_THREADS = max(16, os.cpu_count() or 1)


def as_images(name, a, shape=None, ndim=None):
    """A C-contiguous float32 or float64 array of finite images (..., *shape).

    Raises TypeError for integer, boolean, complex or non-numeric input and ValueError for an empty
    array, a shape that does not end in ``shape`` (or has fewer than ``ndim`` axes), NaN or infinity.
    """
    a = host_array(name, a)
    if a.dtype.kind in "iub":
        scale = f" / {np.iinfo(a.dtype).max}" if a.dtype.kind in "iu" else ""
        raise TypeError(f"{name}: integer images are not converted silently; pass {name}.astype(numpy.float32){scale}")
    if a.dtype.kind != "f" or a.dtype.itemsize not in (4, 8):
        raise TypeError(f"{name}: expected float32 or float64, got dtype {a.dtype}")
    if a.size == 0:
        raise ValueError(f"{name}: empty array of shape {a.shape}")
    if shape is not None and a.shape[-len(shape) :] != tuple(shape):
        raise ValueError(f"{name}: expected shape (..., {', '.join(map(str, shape))}), got {a.shape}")
    if ndim is not None and a.ndim < ndim:
        raise ValueError(f"{name}: expected at least {ndim} axes, got shape {a.shape}")
    check_finite(name, a)
    return np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("="))


def host_array(name, a):
    """A plain NumPy array of the same values; TypeError for what is none, ValueError where entries are masked.

    Subclasses lose what they add: their arithmetic need not be that of numbers.
    """
    if type(a) is np.ndarray:
        return a
    if not isinstance(a, np.ndarray) and on_device(a):
        raise TypeError(f"{name}: lies in a GPU's memory, this runs on the CPU; pass {name}.cpu().numpy()")
    if np.ma.isMaskedArray(a) and np.ma.getmaskarray(a).any():
        raise ValueError(f"{name}: has masked entries, which are no data; fill them or crop the array")
    try:
        return np.asarray(a)
    except Exception as error:  # of whatever kind the object's own conversion raises
        raise TypeError(f"{name}: expected an array of numbers, got {shown(a)}") from error


def shown(value):
    """The value in a message: one line, not too long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # the object's own
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:76]} ..."


def as_complex_images(name, a, shape=None, *, real=False):
    """``as_images`` for complex64 or complex128 arrays; ``real`` accepts real ones too and converts them."""
    a = host_array(name, a)
    if real and a.dtype.kind != "c":
        a = as_images(name, a, shape)
        return a.astype(np.result_type(a.dtype, np.complex64))
    if a.dtype.kind != "c" or a.dtype.itemsize not in (8, 16):
        raise TypeError(f"{name}: expected complex64 or complex128, got dtype {a.dtype}")
    if a.size == 0:
        raise ValueError(f"{name}: empty array of shape {a.shape}")
    if shape is not None and a.shape[-len(shape) :] != tuple(shape):
        raise ValueError(f"{name}: expected shape (..., {', '.join(map(str, shape))}), got {a.shape}")
    check_finite(name, a)
    return np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("="))


def as_mask(name, mask):
    """A boolean array of 1, 2 or 3 axes with at least one True, from booleans or zeros and ones."""
    mask = host_array(name, mask)
    if not 1 <= mask.ndim <= 3 or mask.size == 0:
        raise ValueError(f"{name}: expected 1, 2 or 3 axes, got shape {mask.shape}")
    if mask.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected booleans (or 0 and 1), got dtype {mask.dtype}")
    sampled = mask.astype(bool)
    if not np.array_equal(sampled, mask):
        raise ValueError(f"{name}: expected only 0 and 1 (False and True), got other values")
    if not sampled.any():
        raise ValueError(f"{name}: no frequency is sampled")
    return np.ascontiguousarray(sampled)


def as_images_like(name, a, y):
    """``as_images`` of exactly y's shape, in y's dtype; real images stand for complex ones where y is complex."""
    a = as_images(name, a) if y.dtype.kind == "f" else as_complex_images(name, a, real=True)
    if a.shape != y.shape:
        raise ValueError(f"{name}: expected shape {y.shape}, got {a.shape}")
    check_scale(name, a, a.ndim, dtype=y.dtype, small=True)
    return a.astype(y.dtype, copy=False)


def check_finite(name, a):
    """ValueError with the number and the first place of NaN or infinite entries."""
    # The sum is NaN or infinite if an entry is: one pass, and no mask in the usual case.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.sum(a, dtype=np.complex128 if a.dtype.kind == "c" else np.float64)):
            return
    bad = ~np.isfinite(a)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{name}: {int(bad.sum())} entries are NaN or infinite, the first at index {first}")


def check_scale(name, a, item_ndim, *, gain=1.0, dtype=None, small=False):
    """ValueError if the entries leave ``squares_range`` of the dtype (the array's if None).

    That is asked of the largest magnitude of every item (the last ``item_ndim`` axes) that is not 0, and, for an
    operator of norm ``gain``, of A A^T y and its inverse.  ``small``: small entries do no harm, beside others that set
    the scale.
    """
    parts, axes = a.view(a.real.dtype), tuple(range(-item_ndim, 0))
    largest = np.maximum(parts.max(axis=axes), -parts.min(axis=axes)).astype(np.float64)
    check_largest(name, largest, a.dtype if dtype is None else dtype, gain=gain, small=small)


def check_largest(name, largest, dtype, *, gain=1.0, small=False):
    """``check_scale`` of the largest magnitude of each item."""
    dtype = np.empty(0, dtype).real.dtype
    low, high = squares_range(dtype)
    with np.errstate(over="ignore"):
        reach = np.square(np.maximum(gain, 1 / np.float64(gain)))
    bad = largest > high / reach
    if not small:
        bad |= (largest < low * reach) & (largest > 0)
    if not bad.any():
        return
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    item = f" of item {', '.join(map(str, first))}" if first else ""
    operator = f" and the operator's norm is {gain:.1e}" if reach > 1e3 else ""
    also, precision = (" and the operator" if operator else ""), (" or pass float64" if dtype == np.float32 else "")
    raise ValueError(
        f"{name}: the largest magnitude{item} is {largest[first]:.1e}{operator}; {dtype} holds the squares of "
        f"{low:.0e} to {high:.0e}: rescale {name}{also} to the order of 1, and the weights with it{precision}"
    )


def check_ratio(name, value, size, dtype, of="the data's range"):
    """ValueError if a number is so far from ``size`` that the ratio, unless it is 0, leaves ``squares_range``."""
    dtype = np.empty(0, dtype).real.dtype
    low, high = squares_range(dtype)
    if value == 0 or low * size <= value <= high * size:
        return
    which, change = ("large", "lower") if value > size else ("small", "raise")
    raise ValueError(
        f"{name}: {value:.1e} is too {which} beside {of}, {size:.1e}: {dtype} holds the squares of ratios of "
        f"{low:.0e} to {high:.0e}; {change} it"
    )


def check_number(name, value, minimum=0.0, *, strict=False, maximum=None):
    """A finite float in range, or ValueError/TypeError naming the argument."""
    try:
        if isinstance(value, str | bytes | bytearray):
            raise TypeError
        number = float(value)
    except OverflowError:
        number = float("inf")
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number, got {shown(value)}") from None
    if not np.isfinite(number) or number < minimum or (strict and number == minimum):
        raise ValueError(f"{name}: must be a finite number {'>' if strict else '>='} {minimum:g}, got {shown(value)}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name}: must be at most {maximum:g}, got {shown(value)}")
    return number


def check_numbers(name, values, shape, minimum=0.0, *, strict=False):
    """float64 numbers of that shape from a number or an array that broadcasts to it, checked as ``check_number``."""
    numbers = host_array(name, values)
    if numbers.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected a number, or numbers for the items of the batch, got {shown(values)}")
    values = numbers.astype(np.float64)
    low = values <= minimum if strict else values < minimum
    if values.size == 0 or low.any() or not np.isfinite(values).all():
        raise ValueError(f"{name}: must be finite {'>' if strict else '>='} {minimum:g}, got {shown(values)}")
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        raise ValueError(f"{name}: shape {values.shape} does not fit a batch of shape {shape}") from None


def batch_of(batch_shape, **values):
    """The common batch shape of data and of arguments with a number for each item."""
    for name, value in values.items():
        shape = host_array(name, value).shape
        try:
            batch_shape = np.broadcast_shapes(batch_shape, shape)
        except ValueError:
            raise ValueError(f"{name}: shape {shape} does not fit a batch of shape {batch_shape}") from None
    return batch_shape


def check_count(name, value, minimum=1):
    """An integer >= minimum, or TypeError/ValueError naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected an integer, got {shown(value)}")
    if value < minimum:
        raise ValueError(f"{name}: must be at least {minimum}, got {shown(value)}")
    return int(value)


def check_flag(name, value):
    """True or False (or 1 or 0), or TypeError: other values have a truth, but hardly the one that was meant."""
    if isinstance(value, bool | np.bool_ | int | np.integer) and value in (0, 1):
        return bool(value)
    raise TypeError(f"{name}: expected True or False, got {shown(value)}")


def check_axis(name, axis, ndim):
    """An integer that counts one of that many axes, from either end, or TypeError/ValueError."""
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise TypeError(f"{name}: expected the number of an axis, got {shown(axis)}")
    if not -ndim <= axis < ndim:
        raise ValueError(f"{name}: there is no axis {axis} of {ndim}")
    return int(axis)


def check_size(name, shape):
    """The shape, or ValueError for one of more pixels than any memory holds."""
    if math.prod(shape) > 2**45:
        raise ValueError(f"{name}: {shown(shape)} are more pixels than any memory holds")
    return shape


def check_threads(threads):
    """None or an integer >= 1, or TypeError/ValueError; at most 16, or as many as there are processors.

    OpenMP's library ends the process where it cannot start a thread, or overflows the stack with their records.
    """
    return None if threads is None else min(check_count("threads", threads), _MOST_THREADS)


def check_callback(callback):
    """None or a callable, or TypeError."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback: expected a function of one argument, got {shown(callback)}")
    return callback


def check_operator(A):
    """An operator diagonal in the Fourier basis, or TypeError."""
    if not callable(getattr(A, "check_data", None)):
        raise TypeError(f"A: expected an operator of bioperf (Blur, MaskedFourier or MultiCoilFourier), got {shown(A)}")


def check_choice(name, value, choices):
    """One of the strings in ``choices``, or ValueError listing them."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {shown(value)}")
    return value


def without_password(text):
    """A text, for messages and records, with the password of a database's URL taken out."""
    return re.sub(r"(://[^:/@\s]*):[^/\s]*@", r"\1:***@", text) if isinstance(text, str) else text
