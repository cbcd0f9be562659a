"""Checks that every public function shares: one clear error that says what, where and what to do."""

import numpy as np

from .kernels import on_device


def as_images(name, a, shape=None, ndim=None):
    """A C-contiguous float32 or float64 array of finite images (..., *shape).

    Raises TypeError for integer, boolean, complex or non-numeric input and ValueError for an empty
    array, a shape that does not end in ``shape`` (or has fewer than ``ndim`` axes), NaN or infinity.
    """
    if not isinstance(a, np.ndarray):
        a = _on_host(name, a)
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


def _on_host(name, a):
    if on_device(a):
        raise TypeError(f"{name}: lies in a GPU's memory, this runs on the CPU; pass {name}.cpu().numpy()")
    return np.asarray(a)


def as_complex_images(name, a, shape=None, *, real=False):
    """``as_images`` for complex64 or complex128 arrays; ``real`` accepts real ones too and converts them."""
    if not isinstance(a, np.ndarray):
        a = _on_host(name, a)
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
    mask = np.asarray(mask)
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


def check_number(name, value, minimum=0.0, *, strict=False, maximum=None):
    """A finite float in range, or ValueError/TypeError naming the argument."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number, got {value!r}") from None
    if not np.isfinite(number) or number < minimum or (strict and number == minimum):
        raise ValueError(f"{name}: must be a finite number {'>' if strict else '>='} {minimum:g}, got {value!r}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name}: must be at most {maximum:g}, got {value!r}")
    return number


def check_numbers(name, values, shape, minimum=0.0, *, strict=False):
    """float64 numbers of that shape from a number or an array that broadcasts to it, checked as ``check_number``."""
    numbers = np.asarray(values)
    if numbers.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected a number, or numbers for the items of the batch, got {values!r}")
    values = numbers.astype(np.float64)
    low = values <= minimum if strict else values < minimum
    if values.size == 0 or low.any() or not np.isfinite(values).all():
        raise ValueError(f"{name}: must be finite {'>' if strict else '>='} {minimum:g}, got {values}")
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        raise ValueError(f"{name}: shape {values.shape} does not fit a batch of shape {shape}") from None


def batch_of(batch_shape, **values):
    """The common batch shape of data and of arguments with a number for each item."""
    for name, value in values.items():
        try:
            batch_shape = np.broadcast_shapes(batch_shape, np.shape(value))
        except ValueError:
            raise ValueError(f"{name}: shape {np.shape(value)} does not fit a batch of shape {batch_shape}") from None
    return batch_shape


def check_count(name, value, minimum=1):
    """An integer >= minimum, or TypeError/ValueError naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name}: must be at least {minimum}, got {value}")
    return int(value)


def check_threads(threads):
    """None or an integer >= 1, or TypeError/ValueError."""
    return None if threads is None else check_count("threads", threads)


def check_callback(callback):
    """None or a callable, or TypeError."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback: expected a function of one argument, got {callback!r}")
    return callback


def check_operator(A):
    """An operator diagonal in the Fourier basis, or TypeError."""
    if not callable(getattr(A, "check_data", None)):
        raise TypeError(
            f"A: expected an operator of bioperf (Blur, MaskedFourier or MultiCoilFourier), got {repr(A)[:80]}"
        )


def check_choice(name, value, choices):
    """One of the strings in ``choices``, or ValueError listing them."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
    return value
