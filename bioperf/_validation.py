"""Checks that every public function shares: one clear error that says what, where and what to do."""

import numpy as np


def as_images(name, a, shape=None, ndim=None):
    """A C-contiguous float32 or float64 array of finite images (..., *shape).

    Raises TypeError for integer, boolean, complex or non-numeric input and ValueError for an empty
    array, a shape that does not end in ``shape`` (or has fewer than ``ndim`` axes), NaN or infinity.
    """
    if not isinstance(a, np.ndarray):
        a = np.asarray(a)
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


def as_images_like(name, a, y):
    """``as_images`` of exactly y's shape, in y's dtype."""
    a = as_images(name, a)
    if a.shape != y.shape:
        raise ValueError(f"{name}: expected shape {y.shape}, got {a.shape}")
    return a.astype(y.dtype, copy=False)


def check_finite(name, a):
    """ValueError with the number and the first place of NaN or infinite entries."""
    # The sum is NaN or infinite if an entry is: one pass, and no mask in the usual case.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.sum(a, dtype=np.float64)):
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
    if not callable(getattr(A, "transfer", None)):
        raise TypeError(
            f"A: expected an operator diagonal in the Fourier basis such as bioperf.Blur, got {repr(A)[:80]}"
        )


def check_choice(name, value, choices):
    """One of the strings in ``choices``, or ValueError listing them."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
    return value
