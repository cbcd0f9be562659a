"""NumPy oracle of every kernel: the formula as it is written in the paper, nothing else.

Compiled backends are tested against this module, and it runs where none of them can.  Shapes are
those of the public kernels (see ``bioperf.kernels``); ``threads`` is accepted and ignored.
"""

import numpy as np

NAME = "reference"


# --- gradient -------------------------------------------------------------------------------


def gradient(x, ndim, out, threads=1):
    for axis in range(ndim):
        step = np.roll(x, -1, axis - ndim) - x
        out[(Ellipsis, axis) + (slice(None),) * ndim] = step


def gradient_adjoint(p, ndim, out, threads=1):
    out[...] = 0
    for axis in range(ndim):
        component = p[(Ellipsis, axis) + (slice(None),) * ndim]
        out += np.roll(component, 1, axis - ndim) - component


# --- elementwise maps and projections -------------------------------------------------------


def soft_threshold(x, threshold, out, threads=1):
    out[...] = np.sign(x) * np.maximum(np.abs(x) - threshold, 0)


def project_box(x, lower, upper, out, threads=1):
    np.clip(x, lower, upper, out=out)


def project_nonnegative(x, out, threads=1):
    np.maximum(x, 0, out=out)


def project_l2_ball(x, radius, out, threads=1):
    """x, out: (items, n); radius: (items,) float64."""
    for item, limit, target in zip(x, radius, out, strict=True):
        norm = np.sqrt(np.sum(np.square(item, dtype=np.float64)))
        target[...] = item * (limit / norm) if norm > limit else item


def _threshold_by_sorting(magnitude, radius):
    """The root of sum(max(magnitude - theta, 0)) = radius, 0 inside the ball (Duchi et al., 2008)."""
    magnitude = magnitude.astype(np.float64).ravel()
    if magnitude.sum() <= radius:
        return 0.0
    if radius == 0:
        return float(magnitude.max())
    descending = np.sort(magnitude)[::-1]
    excess = np.cumsum(descending) - radius
    active = max(np.count_nonzero(descending * np.arange(1, magnitude.size + 1) > excess) - 1, 0)
    return float(excess[active] / (active + 1))


def project_l1_ball(x, radius, threshold, out, threads=1):
    """x, out: (items, n); radius, threshold: (items,) float64; threshold receives the thresholds."""
    for k, (item, limit) in enumerate(zip(x, radius, strict=True)):
        threshold[k] = _threshold_by_sorting(np.abs(item), limit)
        out[k] = item - np.clip(item, -threshold[k], threshold[k])


def project_l21_ball(x, radius, threshold, out, threads=1):
    """x, out: (items, d, n), groups along d; radius, threshold: (items,) float64."""
    for k, (item, limit) in enumerate(zip(x, radius, strict=True)):
        threshold[k] = _threshold_by_sorting(np.sqrt(np.sum(item * item, axis=0)), limit)
        out[k] = item - _clip_field(item, threshold[k], True)


def rank_one_solve(c, diagonal, rank_one, out, threads=1):
    """w with (diagonal I + rank_one e e^T) w = c, by the Sherman-Morrison formula."""
    total = c.sum(dtype=np.float64)
    out[...] = (c - rank_one * total / (diagonal + rank_one * c.size)) / diagonal


def spectral_divide(numerator, denominator, out, threads=1):
    np.divide(numerator, denominator, out=out)


# --- fused updates of the one-field iteration (mathematics.md 4c) -------------------------------------
#
# q is the field (d, *spatial); c = clip(q, -threshold, threshold), by component or by pixel norm.


def _gradient(x):
    return np.stack([np.roll(x, -1, axis) - x for axis in range(x.ndim)])


def _divergence(p):
    return sum(np.roll(p[axis], 1, axis) - p[axis] for axis in range(len(p)))


def _magnitude(q, isotropic):
    return np.sqrt(np.sum(q * q, axis=0)) if isotropic else np.abs(q)


def _clip_field(q, threshold, isotropic):
    if not isotropic:
        return np.clip(q, -threshold, threshold).astype(q.dtype)
    norm = _magnitude(q, True)
    scale = threshold / np.maximum(np.maximum(norm, threshold), np.finfo(q.dtype).tiny)
    return (q * scale).astype(q.dtype)


def update_field(x, q, relaxation, threshold, dual_scale, isotropic, trial, threads=1):
    """q <- a grad x + (1-a)(q - c) + dual_scale c, in place.

    With a = 0 that is the field for a penalty divided by dual_scale.

    Returns the l1 (l21) norm of the new field, and the sum and the count of magnitudes above ``trial``.
    """
    c = _clip_field(q, threshold, isotropic)
    q[...] = relaxation * _gradient(x) + (1 - relaxation) * (q - c) + dual_scale * c
    return (float(_magnitude(q, isotropic).sum(dtype=np.float64)), *sum_above(q, trial, isotropic))


def sum_above(q, threshold, isotropic, threads=1):
    """Sum and count of the magnitudes of q that exceed the threshold."""
    magnitude = _magnitude(q, isotropic)
    above = magnitude > threshold
    return float(magnitude[above].sum(dtype=np.float64)), float(np.count_nonzero(above))


def field_divergence(q, threshold, isotropic, field_weight, clip_weight, out, threads=1):
    """out <- grad^T(field_weight q + clip_weight c)."""
    out[...] = _divergence(field_weight * q + clip_weight * _clip_field(q, threshold, isotropic))


def update_field_divergence(x, q, relaxation, threshold, new_threshold, isotropic, out, threads=1):
    """``update_field`` (dual_scale 1) and then out <- grad^T(q - 2 clip(q, new_threshold)), in one pass."""
    update_field(x, q, relaxation, threshold, 1.0, isotropic, 0.0)
    field_divergence(q, new_threshold, isotropic, 1.0, -2.0, out)


def field_status(x, q, threshold, isotropic, threads=1):
    """TV(x), <c, grad x>, |grad x - v|^2, |v|^2, |grad x|^2 and max |grad x - v + c| with v = q - c, as float64."""
    g, c = _gradient(x), _clip_field(q, threshold, isotropic)
    v = q - c

    def total(a):
        return float(np.sum(a, dtype=np.float64))

    return (
        total(_magnitude(g, isotropic)),
        total(c * g),
        total((g - v) ** 2),
        total(v * v),
        total(g * g),
        float(_magnitude(g - v + c, isotropic).max()),
    )


# --- fused updates in the Fourier domain ----------------------------------------------------
#
# Half spectra of real images (last axis N//2 + 1).  ``laplacian`` holds one array per axis, whose
# outer sum is the diagonal of grad^T grad.  Sums weigh each coefficient by ``copies``, the number of
# its copies in the full spectrum (an array along the last axis: 1, 2, ..., 2 and, if N is copies, 1).


def _laplacian(axes):
    total = axes[0]
    for axis in axes[1:]:
        total = total[..., None] + axis
    return total


def _inner(a, b, copies):
    return float(np.sum((np.conj(a) * b).real * copies, dtype=np.float64))


def lower_spectrum(r, transfer, data, laplacian, penalty, copies, threads=1):
    """r <- X = (conj(A) Y + penalty r) / (|A|^2 + penalty L), in place; returns |A X - Y|^2."""
    denominator = np.abs(transfer) ** 2 + penalty * _laplacian(laplacian)
    r[...] = (np.conj(transfer) * data + penalty * r) / denominator
    residual = transfer * r - data
    return _inner(residual, residual, copies)


def lower_kkt(x, dual, transfer, data, penalty, copies, threads=1):
    """|conj(A)(A X - Y) + penalty M|^2 with M the spectrum of grad^T c."""
    e = np.conj(transfer) * (transfer * x - data) + penalty * dual
    return _inner(e, e, copies)


def upper_spectrum(
    r, previous, target, transfer, data, residual, laplacian, eta, field_penalty, data_penalty,
    proximal, relaxation, shrink, copies, threads=1,
):  # fmt: skip
    """The x-update and the data-ball update of mathematics.md 4c, r <- X and residual <- r_p in place.

    X = (eta D + proximal X_previous + field_penalty r + data_penalty conj(A)(Y + (2 shrink - 1) r_p)) / den
    r_p <- relaxation (A X - Y) + (1 - relaxation shrink) r_p

    Returns |r_p|^2, |A X - Y|^2 and |X - D|^2.  Without ``previous`` there is no proximal term.
    """
    proximal = 0.0 if previous is None else proximal
    denominator = eta + proximal + data_penalty * np.abs(transfer) ** 2 + field_penalty * _laplacian(laplacian)
    numerator = eta * target + field_penalty * r
    numerator += data_penalty * np.conj(transfer) * (data + (2 * shrink - 1) * residual)
    if previous is not None:
        numerator += proximal * previous
    r[...] = numerator / denominator
    e = transfer * r - data
    residual[...] = relaxation * e + (1 - relaxation * shrink) * residual
    return _inner(residual, residual, copies), _inner(e, e, copies), _inner(r - target, r - target, copies)


def upper_dual(dual, residual, target, transfer, data, field_penalty, data_weight, copies, threads=1):
    """<Q, D>, |Q|^2, <N, Y>, |N|^2 with N = data_weight r_p and Q = field_penalty M + conj(A) N (mathematics.md 6)."""
    n = data_weight * residual
    q = field_penalty * dual + np.conj(transfer) * n
    return _inner(q, target, copies), _inner(q, q, copies), _inner(n, data, copies), _inner(n, n, copies)


# --- fused update of the linear-programming form (mathematics.md 4a) ----------------------------------


def slack_update(x, s1, s2, c, l1, l2, shift, penalty, proximal, out, threads=1):
    """Multipliers, slacks and the right-hand side of the w-update in one pass over the fields.

    The bound w is stored as c with w = (c - shift) / (2 penalty + proximal), so that the rank-one
    correction of the last w-update costs no pass of its own.  In this order::

        l1 += penalty (grad x + s1 - w);  l2 += penalty (grad x - s2 + w)
        s1 = max(0, (penalty (w - grad x) - l1 + proximal s1) / (penalty + proximal))
        s2 = max(0, (penalty (w + grad x) + l2 + proximal s2) / (penalty + proximal))
        c  = penalty (s1 + s2) + l1 - l2 + proximal w
        out = grad^T (penalty (s2 - s1) - l2 - l1)

    Returns the sum of c and TV(x).
    """
    g = _gradient(x)
    w = (c - shift) / (2 * penalty + proximal)
    l1 += penalty * (g + s1 - w)
    l2 += penalty * (g - s2 + w)
    s1[...] = np.maximum(0, (penalty * (w - g) - l1 + proximal * s1) / (penalty + proximal))
    s2[...] = np.maximum(0, (penalty * (w + g) + l2 + proximal * s2) / (penalty + proximal))
    c[...] = penalty * (s1 + s2) + l1 - l2 + proximal * w
    out[...] = _divergence(penalty * (s2 - s1) - l2 - l1)
    return float(c.sum(dtype=np.float64)), float(np.abs(g).sum(dtype=np.float64))
