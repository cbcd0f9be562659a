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
# q is the field (d, *spatial), real or complex as the image; c = clip(q, threshold), by component (by its modulus) or
# by pixel norm.  <a, b> is the real inner product, the sum of Re(conj(a) b).


def _gradient(x):
    return np.stack([np.roll(x, -1, axis) - x for axis in range(x.ndim)])


def _divergence(p):
    return sum(np.roll(p[axis], 1, axis) - p[axis] for axis in range(len(p)))


def _magnitude(q, isotropic):
    return np.sqrt(np.sum(np.abs(q) ** 2, axis=0)) if isotropic else np.abs(q)


def _clip_field(q, threshold, isotropic):
    if not isotropic and not np.iscomplexobj(q):
        return np.clip(q, -threshold, threshold).astype(q.dtype)
    norm = _magnitude(q, isotropic)
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
        total((np.conj(c) * g).real),
        total(np.abs(g - v) ** 2),
        total(np.abs(v) ** 2),
        total(np.abs(g) ** 2),
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


def _pseudo_inverse(denominator):
    return np.divide(1, denominator, out=np.zeros_like(denominator), where=denominator != 0)


def lower_spectrum(r, transfer, data, laplacian, penalty, shift, copies, threads=1):
    """r <- X = (conj(A) Y + penalty r) / (|A|^2 + penalty L + shift), in place; returns |A X - Y|^2.

    X is 0 where the denominator is: a frequency that neither the data nor the penalties determine.
    """
    denominator = np.abs(transfer) ** 2 + penalty * _laplacian(laplacian) + shift
    r[...] = (np.conj(transfer) * data + penalty * r) * _pseudo_inverse(denominator)
    residual = transfer * r - data
    return _inner(residual, residual, copies)


def lower_kkt(x, dual, transfer, data, penalty, copies, threads=1):
    """|conj(A)(A X - Y) + penalty M|^2 with M the spectrum of grad^T c."""
    e = np.conj(transfer) * (transfer * x - data) + penalty * dual
    return _inner(e, e, copies)


def upper_spectrum(
    r, previous, target, transfer, data, residual, laplacian, eta, shift, field_penalty, data_penalty,
    proximal, relaxation, shrink, copies, threads=1,
):  # fmt: skip
    """The x-update and the data-ball update of mathematics.md 4c, r <- X and residual <- r_p in place.

    X = (eta D + proximal X_previous + field_penalty r + data_penalty conj(A)(Y + (2 shrink - 1) r_p))
        / (shift + data_penalty |A|^2 + field_penalty L)
    r_p <- relaxation (A X - Y) + (1 - relaxation shrink) r_p

    ``shift`` is eta + proximal + the penalties of all terms whose operator is the identity; X is 0 where the
    denominator is.  Returns |r_p|^2, |A X - Y|^2 and |X - D|^2.  Without ``previous`` there is no proximal term.
    """
    denominator = shift + data_penalty * np.abs(transfer) ** 2 + field_penalty * _laplacian(laplacian)
    numerator = eta * target + field_penalty * r
    numerator += data_penalty * np.conj(transfer) * (data + (2 * shrink - 1) * residual)
    if previous is not None:
        numerator += proximal * previous
    r[...] = numerator * _pseudo_inverse(denominator)
    e = transfer * r - data
    residual[...] = relaxation * e + (1 - relaxation * shrink) * residual
    return _inner(residual, residual, copies), _inner(e, e, copies), _inner(r - target, r - target, copies)


def upper_dual(dual, residual, target, transfer, data, field_penalty, data_weight, copies, threads=1):
    """<Q, D>, |Q|^2, <N, Y>, |N|^2 with N = data_weight r_p and Q = field_penalty M + conj(A) N (mathematics.md 6)."""
    n = data_weight * residual
    q = field_penalty * dual + np.conj(transfer) * n
    return _inner(q, target, copies), _inner(q, q, copies), _inner(n, data, copies), _inner(n, n, copies)


# --- the fused updates of a batch ---------------------------------------------------------------------
#
# ``name_batch`` is ``name`` item by item: arrays have the items first (all but transfer, laplacian and copies, which
# they share), a parameter that differs between items is a float64 array with one number for each, and the sums go
# into a float64 array (N, count).  No item's numbers depend on the others'.


def update_field_batch(x, q, relaxation, thresholds, dual_scales, isotropic, trials, sums, threads=1):
    for k, image in enumerate(x):
        sums[k] = update_field(image, q[k], relaxation, thresholds[k], dual_scales[k], isotropic, trials[k])


def update_field_divergence_batch(x, q, relaxation, thresholds, new_thresholds, isotropic, out, threads=1):
    for k, image in enumerate(x):
        update_field_divergence(image, q[k], relaxation, thresholds[k], new_thresholds[k], isotropic, out[k])


def field_divergence_batch(q, thresholds, isotropic, field_weight, clip_weight, out, threads=1):
    for k, field in enumerate(q):
        field_divergence(field, thresholds[k], isotropic, field_weight, clip_weight, out[k])


def field_status_batch(x, q, thresholds, isotropic, sums, threads=1):
    for k, image in enumerate(x):
        sums[k] = field_status(image, q[k], thresholds[k], isotropic)


def field_threshold_batch(q, radii, isotropic, thresholds, sums, threads=1):
    """thresholds <- theta with |q - clip(q, theta)| = radius in the l1 (l21) norm, 0 inside the ball.

    ``sums`` (N, 3) are those of ``update_field_batch`` for the trials that ``thresholds`` hold, which are where the
    compiled backends start to search.
    """
    for k, field in enumerate(q):
        thresholds[k] = _threshold_by_sorting(_magnitude(field, isotropic), radii[k])


def lower_spectrum_batch(r, transfer, data, laplacian, penalties, shifts, copies, squares, threads=1):
    for k, spectrum in enumerate(r):
        squares[k] = lower_spectrum(spectrum, transfer, data[k], laplacian, penalties[k], shifts[k], copies)


def lower_kkt_batch(x, dual, transfer, data, penalties, copies, sums, threads=1):
    """``lower_kkt``, and |penalty M|^2 as the second of sums (N, 2)."""
    for k, spectrum in enumerate(x):
        sums[k, 0] = lower_kkt(spectrum, dual[k], transfer, data[k], penalties[k], copies)
        sums[k, 1] = penalties[k] ** 2 * _inner(dual[k], dual[k], copies)


def upper_spectrum_batch(
    r, target, transfer, data, residual, laplacian, eta, shifts, field_penalties, data_penalties, relaxation, shrinks,
    copies, sums, threads=1,
):  # fmt: skip
    """``upper_spectrum`` without a proximal term; sums (N, 3)."""
    for k, spectrum in enumerate(r):
        sums[k] = upper_spectrum(
            spectrum, None, target[k], transfer, data[k], residual[k], laplacian, eta, shifts[k], field_penalties[k],
            data_penalties[k], 0.0, relaxation, shrinks[k], copies,
        )  # fmt: skip


def upper_dual_batch(
    dual, x, residual, target, transfer, data, eta, field_penalties, data_weights, copies, sums, threads=1
):
    """``upper_dual``, and |eta (X - D) + Q|^2 as the fifth of sums (N, 5)."""
    for k, spectrum in enumerate(dual):
        error = eta * (x[k] - target[k]) + field_penalties[k] * spectrum
        error += data_weights[k] * np.conj(transfer) * residual[k]
        sums[k, :4] = upper_dual(
            spectrum, residual[k], target[k], transfer, data[k], field_penalties[k], data_weights[k], copies
        )
        sums[k, 4] = _inner(error, error, copies)


# --- multi-coil images -------------------------------------------------------------------------------
#
# x and mask (*spatial); maps, images, spectra, data and field (coils, *spatial).  The mask holds 1 where k-space is
# sampled and 0 elsewhere, in the real type of the images; data are 0 where it is.


def coil_images(x, maps, out, threads=1):
    """out[c] <- maps[c] x."""
    np.multiply(maps, x, out=out)


def coil_combine(images, maps, out, threads=1):
    """out <- sum over c of conj(maps[c]) images[c]."""
    out[...] = np.sum(np.conj(maps) * images, axis=0)


def _coil_shrink(mask, shrink):
    return np.where(mask != 0, shrink, 1).astype(mask.dtype)


def coil_update(spectra, field, mask, data, scale, relaxation, shrink, threads=1):
    """field <- relaxation (S - data) + (1 - relaxation sigma) field, in place; S = scale spectra.

    sigma is ``shrink`` where the mask is 1 and 1 elsewhere: the projection p = data + sigma field lets the
    coefficients that were not sampled be anything, and the sampled ones lie in a ball about the data.

    Returns |field|^2 and |S - data|^2 over the sampled coefficients.
    """
    sampled, sigma = mask != 0, _coil_shrink(mask, shrink)
    e = scale * spectra - data
    field[...] = relaxation * e + (1 - relaxation * sigma) * field
    return tuple(float(np.sum(np.abs(a[:, sampled]) ** 2, dtype=np.float64)) for a in (field, e))


def coil_pull(field, mask, data, shrink, out, threads=1):
    """out <- data + (2 sigma - 1) field, sigma as in ``coil_update``."""
    out[...] = data + (2 * _coil_shrink(mask, shrink) - 1) * field


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


# --- wavelets -------------------------------------------------------------------------------
#
# Real or complex.  Haar bands stand as in ``pywt.coeffs_to_array`` (the approximation in the corner of
# low indices).  Bands of the undecimated frame: the approximation, then the details of each level, last
# level first, and in a level high-pass along the last axis first (2-D: low-high, high-low, high-high).


def _corner(a, level, ndim):
    return a[(Ellipsis, *(slice(n >> level) for n in a.shape[a.ndim - ndim :]))]


def haar_forward(x, level, ndim, out, threads=1):
    """The orthonormal periodised transform ``pywt.wavedecn(x, "haar", "periodization", level)``."""
    out[...] = x
    for step in range(level):
        corner = _corner(out, step, ndim)
        for axis in range(-ndim, 0):
            even, odd = (np.take(corner, range(k, corner.shape[axis], 2), axis) for k in (0, 1))
            corner[...] = np.concatenate([even + odd, even - odd], axis) * np.sqrt(0.5)


def haar_inverse(c, level, ndim, out, threads=1):
    out[...] = c
    for step in reversed(range(level)):
        corner = _corner(out, step, ndim)
        for axis in range(corner.ndim - ndim, corner.ndim):
            low, high = np.split(corner, 2, axis)
            corner[...] = np.stack([low + high, low - high], axis + 1).reshape(corner.shape) * np.sqrt(0.5)


# The Haar frame's filters.  A filter pair is (2, taps) float64, low-pass then high-pass, scaled to |L|^2 + |H|^2 = 1.
_HAAR = np.array([[0.5, 0.5], [0.5, -0.5]])


def frame_forward(x, level, ndim, out, threads=1):
    """Per level and axis (a[i] + a[i + s]) / 2 and (a[i] - a[i + s]) / 2, s = 1, 2, 4, ..., periodic: T^T T = I."""
    filter_bank_forward(x, _HAAR, level, ndim, out)


def frame_adjoint(c, level, ndim, out, threads=1):
    filter_bank_adjoint(c, _HAAR, level, ndim, out)


def _correlate(a, taps, shift, axis):
    """sum over k of taps[k] a[i + k shift], periodic."""
    return sum(float(tap) * np.roll(a, -k * shift, axis) for k, tap in enumerate(taps))


def filter_bank_forward(x, filters, level, ndim, out, threads=1):
    """Per level and axis the correlations with both filters, their taps 1, 2, 4, ... apart, periodic.

    The compiled kernel takes pairs of 4, 6 or 8 taps.
    """
    approximation, bands = x, []
    for step in range(level):
        parts = [approximation]
        for axis in range(-ndim, 0):
            parts = [_correlate(part, taps, 2**step, axis) for part in parts for taps in filters]
        approximation, *details = parts
        bands = details + bands
    out[...] = np.stack([approximation, *bands], axis=-ndim - 1)


def filter_bank_adjoint(c, filters, level, ndim, out, threads=1):
    approximation, *bands = np.moveaxis(c, -ndim - 1, 0)
    count = 2**ndim - 1
    for step in reversed(range(level)):
        parts, bands = [approximation, *bands[:count]], bands[count:]
        for axis in range(-1, -ndim - 1, -1):
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [sum(_correlate(a, f, -(2**step), axis) for a, f in zip(p, filters, strict=True)) for p in pairs]
        (approximation,) = parts
    out[...] = approximation


def _clip_modulus(w, threshold):
    if w.dtype.kind == "f":
        return np.clip(w, -threshold, threshold).astype(w.dtype)
    modulus = np.abs(w)
    scale = threshold / np.maximum(np.maximum(modulus, threshold), np.finfo(w.dtype).tiny)
    return (w * scale).astype(w.dtype)


# ``weights`` below: None, or reals >= 0 of the coefficients' shape that multiply the thresholds.


def _weighted(threshold, weights):
    return threshold if weights is None else threshold * weights


def clip_coefficients(w, threshold, weights, out, threads=1):
    """out <- w, its modulus at most the threshold."""
    out[...] = _clip_modulus(w, _weighted(threshold, weights))


def update_coefficients(t, w, relaxation, threshold, new_threshold, dual_scale, weights, out, threads=1):
    """The one-field update (mathematics.md 4c) of the split z = T x, t = T x; out may be t.

    w <- relaxation t + (1 - relaxation)(w - c) + dual_scale c with c = clip(w, threshold), in place, and then
    out <- w - 2 clip(w, new_threshold).
    """
    c = _clip_modulus(w, _weighted(threshold, weights))
    w[...] = relaxation * t + (1 - relaxation) * (w - c) + dual_scale * c
    out[...] = w - 2 * _clip_modulus(w, _weighted(new_threshold, weights))


def coefficient_status(t, w, threshold, weights, threads=1):
    """sum weights |t|, Re <c, t>, |t - v|^2, |v|^2, |t|^2, max |t - v + c|; c = clip(w, threshold), v = w - c."""
    c = _clip_modulus(w, _weighted(threshold, weights))
    v = w - c

    def inner(a, b):
        return float(np.sum((np.conj(a) * b).real, dtype=np.float64))

    residual = t - v
    return (
        float(np.sum(_weighted(np.abs(t), weights), dtype=np.float64)),
        inner(c, t),
        inner(residual, residual),
        inner(v, v),
        inner(t, t),
        float(np.abs(residual + c).max()),
    )


# --- batched splits (mathematics.md 8) -----------------------------------------------------------------
#
# N images first; thresholds, dual_scales, weights and radii are float64 arrays of K problems, N / K neighbouring images
# each.  ``magnitudes`` are those of the new fields (N, *spatial), of their components (N, d, *spatial) where TV is
# anisotropic, or of the new coefficients.


def _each(images, values):
    return np.repeat(values, len(images) // len(values))


def update_fields(x, q, magnitudes, relaxation, thresholds, dual_scales, isotropic, threads=1):
    """``update_field`` image by image, keeping the magnitudes."""
    for image, field, measured, threshold, scale in zip(
        x, q, magnitudes, _each(x, thresholds), _each(x, dual_scales), strict=True
    ):
        update_field(image, field, relaxation, threshold, scale, isotropic, 0.0)
        measured[...] = _magnitude(field, isotropic)


def field_divergences(q, thresholds, weights, isotropic, out, threads=1):
    """out <- weight grad^T(q - 2 clip(q, threshold)) image by image."""
    for field, threshold, weight, image in zip(q, _each(q, thresholds), _each(q, weights), out, strict=True):
        field_divergence(field, threshold, isotropic, weight, -2 * weight, image)


def measure_coefficients(t, w, magnitudes, relaxation, thresholds, dual_scales, threads=1):
    """w <- a t + (1-a)(w - c) + dual_scale c with c = clip(w, threshold), keeping |w|."""
    for new, old, measured, threshold, scale in zip(
        t, w, magnitudes, _each(t, thresholds), _each(t, dual_scales), strict=True
    ):
        c = _clip_modulus(old, threshold)
        old[...] = relaxation * new + (1 - relaxation) * (old - c) + scale * c
        measured[...] = np.abs(old)


def reflect_coefficients(w, thresholds, weights, out, threads=1):
    """out <- weight (w - 2 clip(w, threshold))."""
    for old, threshold, weight, new in zip(w, _each(w, thresholds), _each(w, weights), out, strict=True):
        new[...] = weight * (old - 2 * _clip_modulus(old, threshold))


def ball_thresholds(magnitudes, radii, thresholds, threads=1):
    """thresholds <- tau_k with the sum of max(m - tau_k, 0) equal to radii[k], 0 inside; what they hold is a start."""
    for k, measured in enumerate(magnitudes.reshape(len(radii), -1)):
        thresholds[k] = _threshold_by_sorting(measured, radii[k])


def spectrum_step(r, linear, inverse, threads=1):
    """r <- X = (linear + r) inverse.

    r : (N, *spectrum), linear : (B, *spectrum) with B = 1 or N / K, inverse : (K, *spectrum).
    """
    each = len(r) // len(inverse)
    for k, spectrum in enumerate(r):
        spectrum[...] = (linear[k % len(linear)] + spectrum) * inverse[k // each]


def data_step(
    r, z, power, base, observed, gram, inverse, factor, penalty, curvature, relaxation, dual_scale, threads=1
):
    """The x-update and the data split's update of the subproblem, in place.

    With s = 1 / (1 + curvature gram), z the split's field relative to ``observed`` and 0 where gram is:
    r <- X = (r + base + penalty (observed + (2 s - 1) z)) inverse,
    z <- a (X - observed) + ((1 - a) s + dual_scale (1 - s)) z and power <- factor |z|^2.
    """
    shrink = 1 / (1 + curvature * gram)
    r[...] = (r + base + penalty * (observed + (2 * shrink - 1) * z)) * inverse
    carry = (1 - relaxation) * shrink + dual_scale * (1 - shrink)
    z[...] = np.where(gram > 0, relaxation * (r - observed) + carry * z, 0)
    power[...] = factor * np.abs(z) ** 2


def coupled_multipliers(
    coefficients, fields, power, gram, penalties, sigma, rates, centres, weights, constant, alpha, start, threads=1
):
    """The subproblem's block of three multipliers and the violation t, by nested monotone roots (mathematics.md 8).

    min over r, t >= 0 of alpha t + sum weights_i/2 (r_i - centres_i)^2 + the distance terms, with
    sum power / (1 + mu_0/penalties_0 gram)^2 + constant + rates . r <= sigma_0 t and, for the magnitudes m of
    the coefficients (i = 1) and of the fields (i = 2), sum max(m - mu_i/penalties_i, 0) - r_i <= sigma_i t.

    ``start`` (mu_0, mu_1, mu_2, t) helps the compiled backends' Newton method; here it is not used.  Returns
    whether it was solved and (mu_0, mu_1, mu_2, t).  The radii are
    max(0, centres_i + (mu_i - mu_0 rates_i) / weights_i).
    """
    if not np.isfinite([constant, *centres, power.sum(), coefficients.sum(), fields.sum()]).all():
        return False, tuple(start)
    sorted_sums = []
    for m in (coefficients, fields):
        ordered = np.sort(m.ravel().astype(np.float64))[::-1]
        sorted_sums.append((ordered, np.concatenate(([0.0], np.cumsum(ordered)))))
    power = power.astype(np.float64)

    def threshold(i, offset, slope):
        """tau >= 0 with the sum of max(m - tau, 0) = offset + slope tau; 0 where the sum of m is below."""
        m, sums = sorted_sums[i]
        if sums[-1] <= offset:
            return 0.0
        if slope == 0 and offset <= 0:
            return float(m[0])
        count = np.arange(1, m.size + 1)
        above = m * (count + slope) > sums[1:] - offset
        k = m.size if above.all() else int(np.argmin(above))
        if k + slope == 0:  # an offset below the rounding of the largest magnitude
            return float(m[0])
        return max(0.0, float((sums[k] - offset) / (k + slope)))

    def excess(i, tau):
        """The sum of max(m - tau, 0)."""
        m, sums = sorted_sums[i]
        k = int(np.count_nonzero(m > tau))
        return float(sums[k] - k * tau)

    def multiplier(i, mu_0, t):
        """mu_i and r_i for given mu_0 and t: r_i is either free or held at 0."""
        penalty, room = penalties[i + 1], sigma[i + 1] * t
        free = centres[i] - mu_0 * rates[i] / weights[i]
        tau = threshold(i, room + free, penalty / weights[i])
        # free + mu / weights[i], without its cancellation: the branch depends on the sign
        r = excess(i, tau) - room if tau > 0 else free
        if r > 0:
            return penalty * tau, r
        return penalty * threshold(i, room, 0.0), 0.0

    def data_row(mu_0, t):
        solved = [multiplier(i, mu_0, t) for i in range(2)]
        value = float(np.sum(power / (1 + mu_0 / penalties[0] * gram) ** 2)) + constant - sigma[0] * t
        return value + sum(rate * r for rate, (_, r) in zip(rates, solved, strict=True)), solved

    def at(t):
        """mu for given t."""
        top = alpha / sigma[0]
        if data_row(0.0, t)[0] <= 0:
            mu_0 = 0.0
        elif data_row(top, t)[0] >= 0:
            mu_0 = top
        else:
            mu_0 = _decreasing_root(lambda mu: data_row(mu, t)[0], 0.0, top)
        return mu_0, *(mu for mu, _ in data_row(mu_0, t)[1])

    def surplus(t):
        # The data row does not hold at this t for any multiplier that alpha allows: t must grow.
        if data_row(alpha / sigma[0], t)[0] > 0:
            return alpha
        return float(np.dot(sigma, at(t))) - alpha

    if surplus(0.0) <= 0:
        return True, (*at(0.0), 0.0)
    upper = 1e-3
    while surplus(upper) > 0:
        upper *= 4
        if not upper < 1e300:
            return False, tuple(start)
    t = _decreasing_root(surplus, 0.0, upper)
    return True, (*at(t), t)


def _decreasing_root(function, low, high):
    """A root of a decreasing function with function(low) > 0 >= function(high)."""
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=1e-15 * high, rtol=4 * np.finfo(float).eps, maxiter=500))
