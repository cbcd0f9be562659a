"""What every family of the Numba backend needs: views, threads, complex numbers, differences and clipped fields.

Images reach the loops as (n0, n1, n2), with n0 = n1 = 1 in 1-D and n1 = 1 in 2-D, and fields as
(groups, size, n), a group being the components that share one norm: (1, d, n) isotropic, (d, 1, n)
anisotropic.  So each loop is written once.

Threads take whole segments, rows or planes, each with float64 sums of its own in ``partial`` that are added
in a fixed order: any number of threads gives the same bits.  Comparisons send NaN to the branch that keeps it.
"""

import functools
import math

import numba
import numpy as np

SEGMENT = 4096  # elements a thread takes at a time from a flat array

# Sums may be reordered to be vectorised; nothing is assumed about NaN and infinity.
_OPTIONS = {"cache": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz"}}
_row = numba.njit(**_OPTIONS)
_parallel = numba.njit(parallel=True, **_OPTIONS)


def _run(threads, kernel, *arguments):
    before = numba.get_num_threads()
    numba.set_num_threads(max(1, min(threads, numba.config.NUMBA_NUM_THREADS)))
    try:
        kernel(*arguments)
    finally:
        numba.set_num_threads(before)


def _write(a, dtype, shape):
    """A view of an array to be written; a copy would lose the result."""
    if a.dtype != dtype or not a.flags.c_contiguous or not a.flags.writeable:
        raise ValueError(f"expected a writable C-contiguous array of {dtype}, got {a.dtype} with strides {a.strides}")
    return a.reshape(shape)


def _read(a, dtype, shape):
    """A read-only view, whatever the array allows: one compiled version serves both."""
    if a.dtype != dtype or not a.flags.c_contiguous:
        raise ValueError(f"expected a C-contiguous array of {dtype}, got {a.dtype} with strides {a.strides}")
    view = a.reshape(shape)
    view.flags.writeable = False
    return view


def _grid(shape):
    if not 1 <= len(shape) <= 3:
        raise ValueError(f"expected 1, 2 or 3 spatial axes, got shape {shape}")
    return (shape[0] if len(shape) > 1 else 1, shape[1] if len(shape) > 2 else 1, shape[-1])


def _groups(components, size, isotropic):
    return (1, components, size) if isotropic else (components, 1, size)


def _scalars(dtype, *values):
    """Numbers of the arrays' precision: a Python float would carry float32 loops to float64."""
    with np.errstate(over="ignore"):
        return tuple(np.array(values, np.float64).astype(dtype))


def _new_sums(n, columns, segment=1):
    return np.zeros((-(-n // segment), columns))


def _totals(partial):
    return tuple(partial.sum(axis=0).tolist())


# --- real and complex numbers ---------------------------------------------------------------


_overload = functools.partial(
    numba.extending.overload, jit_options={name: _OPTIONS[name] for name in ("error_model", "fastmath")}
)


def _times(scale, z):
    """scale z for a real scale, which a complex product would first make complex."""
    return scale * z


@_overload(_times)
def _times_by_type(scale, z):
    if isinstance(z, numba.types.Complex):
        return lambda scale, z: complex(scale * z.real, scale * z.imag)
    return lambda scale, z: scale * z


@_row
def _inner(a, b):
    """Re(conj(a) b)"""
    return a.real * b.real + a.imag * b.imag


def _magnitude(z):
    return abs(z)


@_overload(_magnitude)
def _magnitude_by_type(z):
    if isinstance(z, numba.types.Complex):
        return lambda z: math.sqrt(z.real * z.real + z.imag * z.imag)
    return lambda z: abs(z)


def _clip(z, threshold):
    """z with its magnitude lowered to the threshold."""
    return z * min(1, threshold / abs(z)) if z else z


@_overload(_clip)
def _clip_by_type(z, threshold):
    def clip_real(z, threshold):
        lowered = threshold if z > threshold else z
        return -threshold if lowered < -threshold else lowered

    def clip_complex(z, threshold):
        magnitude = math.sqrt(z.real * z.real + z.imag * z.imag)
        scale = threshold / magnitude
        return z if magnitude <= threshold else complex(scale * z.real, scale * z.imag)

    return clip_complex if isinstance(z, numba.types.Complex) else clip_real


# --- gradient -------------------------------------------------------------------------------


@_row
def _axis(component, components):
    """The axis of (n0, n1, n2) of a field's component: the last component belongs to n2."""
    return 2 if component == components - 1 else component


@_row
def _difference_row(x, i, j, axis, out):
    """Forward differences of x at row (i, j)."""
    n0, n1, n2 = x.shape
    here = x[i, j]
    if axis == 2:
        for m in range(n2 - 1):
            out[m] = here[m + 1] - here[m]
        out[n2 - 1] = here[0] - here[n2 - 1]
    else:
        following = x[(i + 1) % n0, j] if axis == 0 else x[i, (j + 1) % n1]
        for m in range(n2):
            out[m] = following[m] - here[m]


@_parallel
def _gradient_planes(x, p):
    batch, n0, n1, _ = x.shape
    d = p.shape[1]
    for plane in numba.prange(batch * n0):
        item, i = plane // n0, plane % n0
        for k in range(d):
            for j in range(n1):
                _difference_row(x[item], i, j, _axis(k, d), p[item, k, i, j])


@_parallel
def _adjoint_planes(p, out):
    batch, n0, n1, n2 = out.shape
    d = p.shape[1]
    for plane in numba.prange(batch * n0):
        item, i = plane // n0, plane % n0
        for j in range(n1):
            target, here = out[item, i, j], p[item, d - 1, i, j]
            target[0] = here[n2 - 1] - here[0]
            for m in range(1, n2):
                target[m] = here[m - 1] - here[m]
            for k in range(d - 1):
                here = p[item, k, i, j]
                before = p[item, k, (i - 1) % n0, j] if k == 0 else p[item, k, i, (j - 1) % n1]
                for m in range(n2):
                    target[m] += before[m] - here[m]


def gradient(x, ndim, out, threads=1):
    grid = _grid(x.shape[-ndim:])
    p = _write(out, x.dtype, (-1, ndim, *grid))
    _run(threads, _gradient_planes, _read(x, x.dtype, (-1, *grid)), p)


def gradient_adjoint(p, ndim, out, threads=1):
    grid = _grid(out.shape[-ndim:])
    x = _write(out, p.dtype, (-1, *grid))
    _run(threads, _adjoint_planes, _read(p, p.dtype, (-1, ndim, *grid)), x)


# --- segments, magnitudes and clipped fields ------------------------------------------------


@_row
def _bounds(segment, n):
    return segment * SEGMENT, min((segment + 1) * SEGMENT, n)


@_row
def _norm_row(q, a, b, out):
    """Norms over the components of q (size, n) at the pixels a <= m < b."""
    n = b - a
    first = q[0, a:b]
    if len(q) == 1:
        for m in range(n):
            out[m] = _magnitude(first[m])
        return
    for m in range(n):
        out[m] = _inner(first[m], first[m])
    for k in range(1, len(q)):
        component = q[k, a:b]
        for m in range(n):
            out[m] += _inner(component[m], component[m])
    for m in range(n):
        out[m] = math.sqrt(out[m])


@_row
def _combine_row(q, a, b, threshold, field_weight, clip_weight, work, out, start):
    """out <- field_weight q + clip_weight c, c the clipped q, at the pixels start, ... of out."""
    n = b - a
    if len(q) == 1:
        component, target = q[0, a:b], out[0, start : start + n]
        for m in range(n):
            target[m] = _times(field_weight, component[m]) + _times(clip_weight, _clip(component[m], threshold))
        return
    _norm_row(q, a, b, work)
    inside = field_weight + clip_weight
    for m in range(n):
        norm = work[m]
        shrink = threshold / norm if norm != 0 else norm
        work[m] = inside if norm < threshold else field_weight + clip_weight * shrink
    for k in range(len(q)):
        component, target = q[k, a:b], out[k, start : start + n]
        for m in range(n):
            target[m] = _times(work[m], component[m])


@_row
def _magnitude_sums(q, a, b, threshold, work):
    """Sum of the magnitudes, and sum and count of those above the threshold."""
    _norm_row(q, a, b, work)
    zero = work.dtype.type(0)
    total, above, count = 0.0, 0.0, 0
    for m in range(b - a):
        value = work[m]
        total += value
        above += value if value > threshold else zero
        count += value > threshold
    return total, above, np.float64(count)


@_row
def _update_row(x, i, j, q, k, relaxation, threshold, kept, carried, work, step):
    """q <- relaxation grad x + kept q + carried c of the group k in row (i, j), c the clipped q."""
    _, n1, n2 = x.shape
    groups, size, _ = q.shape
    a = (i * n1 + j) * n2
    _combine_row(q[k], a, a + n2, threshold, kept, carried, work, q[k], a)
    for c in range(size):
        _difference_row(x, i, j, _axis(k * size + c, groups * size), step)
        target = q[k, c, a : a + n2]
        for m in range(n2):
            target[m] += _times(relaxation, step[m])
