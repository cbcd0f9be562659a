"""The fused updates of a batch: against the oracle, and item by item the bits of the updates of one item."""

from types import SimpleNamespace

import numpy as np
import pytest

from bioperf.kernels import get_backend

ORACLE = get_backend("reference")


def field_threshold(kernels, q, radius, isotropic, trial, sums):
    """The compiled search as it is on the host, pass by pass: Newton's method on a convex piecewise linear function."""
    norm, above, count = sums
    if norm <= radius:
        return 0.0
    size = q[0].size if isotropic else q.size
    theta, active = (norm - radius) / size, float(size)
    if count > 0 and (above - radius) / count > theta:
        theta, active = (above - radius) / count, count
    while True:
        above, count = kernels.sum_above(q, theta, isotropic)
        if count in (0, active):
            return theta
        following = (above - radius) / count
        if not following > theta * (1 + 1e-12):
            return theta
        theta, active = following, count


# Error of a result relative to its largest entry, sums included.
TOLERANCE = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12}

SPECTRAL = (np.float32, np.float64)
FIELDS = (*SPECTRAL, np.complex64)
# 1 x n, n x 1, odd, even and prime sizes; rows are cut at 256 and 512 elements, flat arrays at 4096.
SHAPES = [(7,), (600,), (1, 9), (9, 1), (13, 17), (5, 257), (16, 12), (3, 1030), (4, 1, 6), (3, 5, 7), (1, 1, 5)]
ITEMS = (1, 3, 5)
# Threads take whole items where there are enough of them, else rows: 1 and 2 items are split, 5 are not.
THREADS = (1, 2, 3)
THREADED_ITEMS = (1, 2, 5)
THREADED_SHAPES = [(600,), (1, 9), (13, 17), (3, 1030), (3, 5, 7)]


def batch(items, shape, dtype, seed=0):
    """Read-only random data of a batch with parameters of its items; what a kernel updates is copied first."""
    rng = np.random.default_rng([seed, items, *shape])
    real, spectral = np.empty(0, dtype).real.dtype, np.result_type(dtype, np.complex64)
    half = (*shape[:-1], shape[-1] // 2 + 1)

    def field(*size):
        values = rng.standard_normal(size)
        return (values if real == dtype else values + 1j * rng.standard_normal(size)).astype(dtype)

    def spectrum(*size):
        return (rng.standard_normal((*size, *half)) + 1j * rng.standard_normal((*size, *half))).astype(spectral)

    data = SimpleNamespace(items=items, x=field(items, *shape), q=field(items, len(shape), *shape))
    data.laplacian = tuple(
        (2 - 2 * np.cos(2 * np.pi * np.arange(m) / n)).astype(real) for m, n in zip(half, shape, strict=True)
    )
    data.copies = np.where((np.arange(half[-1]) == 0) | (2 * np.arange(half[-1]) == shape[-1]), 1, 2).astype(real)
    data.transfer = spectrum()
    for name in ("r", "target", "observed", "residual", "dual"):
        setattr(data, name, spectrum(items))
    # A threshold of 0 keeps the whole field; one item has it.
    for name in ("thresholds", "new_thresholds", "trials", "shifts", "shrinks"):
        setattr(data, name, rng.uniform(0.1, 1.2, items))
    data.thresholds[items // 2] = 0
    for name in ("dual_scales", "penalties", "field_penalties", "data_penalties", "data_weights"):
        setattr(data, name, rng.uniform(0.5, 1.5, items))
    for value in vars(data).values():
        for array in value if isinstance(value, tuple) else [value]:
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
    return data


# Each case runs the batch and returns its arrays and sums; ``one`` runs an item alone and returns the same of the item.


class UpdateField:
    @staticmethod
    def batch(k, a, isotropic, threads):
        q, sums = a.q.copy(), np.full((a.items, 3), np.nan)
        k.update_field_batch(a.x, q, 1.4, a.thresholds, a.dual_scales, isotropic, a.trials, sums, threads=threads)
        return q, sums

    @staticmethod
    def one(k, a, i, isotropic, threads):
        q = a.q[i].copy()
        numbers = a.thresholds[i], a.dual_scales[i], isotropic, a.trials[i]
        return q, k.update_field(a.x[i], q, 1.4, *numbers, threads=threads)


class UpdateFieldDivergence:
    @staticmethod
    def batch(k, a, isotropic, threads):
        q, out = a.q.copy(), np.empty_like(a.x)
        numbers = a.thresholds, a.new_thresholds, isotropic
        k.update_field_divergence_batch(a.x, q, 1.4, *numbers, out, threads=threads)
        return q, out

    @staticmethod
    def one(k, a, i, isotropic, threads):
        q, out = a.q[i].copy(), np.empty_like(a.x[i])
        numbers = a.thresholds[i], a.new_thresholds[i], isotropic
        k.update_field_divergence(a.x[i], q, 1.4, *numbers, out, threads=threads)
        return q, out


class FieldDivergence:
    @staticmethod
    def batch(k, a, isotropic, threads):
        out = np.empty_like(a.x)
        k.field_divergence_batch(a.q, a.thresholds, isotropic, 0.8, -1.9, out, threads=threads)
        return (out,)

    @staticmethod
    def one(k, a, i, isotropic, threads):
        out = np.empty_like(a.x[i])
        k.field_divergence(a.q[i], a.thresholds[i], isotropic, 0.8, -1.9, out, threads=threads)
        return (out,)


class FieldStatus:
    @staticmethod
    def batch(k, a, isotropic, threads):
        sums = np.full((a.items, 6), np.nan)
        k.field_status_batch(a.x, a.q, a.thresholds, isotropic, sums, threads=threads)
        return (sums,)

    @staticmethod
    def one(k, a, i, isotropic, threads):
        return (k.field_status(a.x[i], a.q[i], a.thresholds[i], isotropic, threads=threads),)


class LowerSpectrum:
    @staticmethod
    def batch(k, a, threads):
        r, squares = a.r.copy(), np.full(a.items, np.nan)
        numbers = a.laplacian, a.penalties, a.shifts, a.copies, squares
        k.lower_spectrum_batch(r, a.transfer, a.observed, *numbers, threads=threads)
        return r, squares

    @staticmethod
    def one(k, a, i, threads):
        r = a.r[i].copy()
        numbers = a.laplacian, a.penalties[i], a.shifts[i], a.copies
        return r, k.lower_spectrum(r, a.transfer, a.observed[i], *numbers, threads=threads)


class LowerKkt:
    @staticmethod
    def batch(k, a, threads):
        sums = np.full((a.items, 2), np.nan)
        k.lower_kkt_batch(a.r, a.dual, a.transfer, a.observed, a.penalties, a.copies, sums, threads=threads)
        return sums[:, 0].copy(), sums[:, 1].copy()

    @staticmethod
    def one(k, a, i, threads):
        return (
            k.lower_kkt(a.r[i], a.dual[i], a.transfer, a.observed[i], a.penalties[i], a.copies, threads=threads),
            None,
        )


class UpperSpectrum:
    @staticmethod
    def batch(k, a, threads):
        r, residual, sums = a.r.copy(), a.residual.copy(), np.full((a.items, 3), np.nan)
        numbers = 0.5, a.shifts, a.field_penalties, a.data_penalties, 1.4, a.shrinks, a.copies
        arrays = a.target, a.transfer, a.observed, residual, a.laplacian
        k.upper_spectrum_batch(r, *arrays, *numbers, sums, threads=threads)
        return r, residual, sums

    @staticmethod
    def one(k, a, i, threads):
        r, residual = a.r[i].copy(), a.residual[i].copy()
        numbers = 0.5, a.shifts[i], a.field_penalties[i], a.data_penalties[i], 0.0, 1.4, a.shrinks[i], a.copies
        arrays = None, a.target[i], a.transfer, a.observed[i], residual, a.laplacian
        return r, residual, k.upper_spectrum(r, *arrays, *numbers, threads=threads)


class UpperDual:
    @staticmethod
    def batch(k, a, threads):
        sums = np.full((a.items, 5), np.nan)
        numbers = 0.5, a.field_penalties, a.data_weights, a.copies
        arrays = a.dual, a.r, a.residual, a.target, a.transfer, a.observed
        k.upper_dual_batch(*arrays, *numbers, sums, threads=threads)
        return sums[:, :4].copy(), sums[:, 4].copy()

    @staticmethod
    def one(k, a, i, threads):
        arrays = a.dual[i], a.residual[i], a.target[i], a.transfer, a.observed[i]
        numbers = a.field_penalties[i], a.data_weights[i], a.copies
        return k.upper_dual(*arrays, *numbers, threads=threads), None


FIELD_CASES = (UpdateField, UpdateFieldDivergence, FieldDivergence, FieldStatus)
SPECTRAL_CASES = (LowerSpectrum, LowerKkt, UpperSpectrum, UpperDual)
NORMS = [pytest.param(True, id="isotropic"), pytest.param(False, id="anisotropic")]


def every_case():
    """The case, its arguments after the item, and the dtype, of every kernel and norm."""
    for case in FIELD_CASES:
        for isotropic in (True, False):
            name = f"{case.__name__}-{'isotropic' if isotropic else 'anisotropic'}"
            yield from (pytest.param(case, (isotropic,), t, id=f"{name}-{np.dtype(t)}") for t in FIELDS)
    for case in SPECTRAL_CASES:
        yield from (pytest.param(case, (), t, id=f"{case.__name__}-{np.dtype(t)}") for t in SPECTRAL)


CASES = list(every_case())


def assert_close(actual, expected, dtype):
    tolerance = TOLERANCE[np.empty(0, dtype).real.dtype]
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        scale = max(1.0, float(np.max(np.abs(other))))
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * scale)


def assert_same_bits(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.parametrize(("case", "norm", "dtype"), CASES)
def test_matches_oracle(kernels, case, norm, dtype):
    for shape in SHAPES:
        data = batch(3, shape, dtype)
        assert_close(case.batch(kernels, data, *norm, 1), case.batch(ORACLE, data, *norm, 1), dtype)


@pytest.mark.parametrize("items", ITEMS)
@pytest.mark.parametrize(("case", "norm", "dtype"), CASES)
def test_items_have_the_bits_of_items_alone(kernels, case, norm, dtype, items):
    for shape in SHAPES:
        data = batch(items, shape, dtype)
        together = case.batch(kernels, data, *norm, 1)
        for i in range(items):
            for values, alone in zip(together, case.one(kernels, data, i, *norm, 1), strict=True):
                if alone is not None:
                    np.testing.assert_array_equal(values[i], np.asarray(alone))


@pytest.mark.parametrize("items", THREADED_ITEMS)
@pytest.mark.parametrize(("case", "norm", "dtype"), CASES)
def test_thread_count_does_not_change_the_bits(kernels, case, norm, dtype, items):
    for shape in THREADED_SHAPES:
        data = batch(items, shape, dtype)
        alone = case.batch(kernels, data, *norm, 1)
        for threads in THREADS[1:]:
            assert_same_bits(case.batch(kernels, data, *norm, threads), alone)


@pytest.mark.parametrize(("case", "norm", "dtype"), CASES)
def test_neighbours_do_not_change_the_bits(kernels, case, norm, dtype):
    """The last of five items is the first of the batch turned round, where its arrays begin elsewhere in memory."""
    for shape in SHAPES:
        data = batch(5, shape, dtype)
        turned = SimpleNamespace(**vars(data))
        for name, value in vars(data).items():
            if isinstance(value, np.ndarray) and name not in ("transfer", "copies"):
                setattr(turned, name, value[::-1].copy())
        expected = [values[::-1].copy() for values in case.batch(kernels, data, *norm, 1)]
        assert_same_bits(case.batch(kernels, turned, *norm, 1), expected)


@pytest.mark.parametrize(("case", "norm", "dtype"), CASES)
def test_zeros(kernels, case, norm, dtype):
    data = batch(2, (6, 9), dtype)
    for name in ("x", "q", "r", "residual", "dual"):
        setattr(data, name, np.zeros_like(getattr(data, name)))
    assert_close(case.batch(kernels, data, *norm, 1), case.batch(ORACLE, data, *norm, 1), dtype)


# --- thresholds -----------------------------------------------------------------------------


def updated(kernels, items, shape, dtype, isotropic, seed=0):
    """A field and its sums, with radii from 0 to more than its norm; for one item three seeds give the three kinds."""
    data = batch(items, shape, dtype, seed)
    q, sums = UpdateField.batch(kernels, data, isotropic, 1)
    fractions = np.roll([0.3, 0.0, 1.5, 0.02, 0.9], -seed)[:items]
    return data, q, sums, fractions * sums[:, 0]


@pytest.mark.parametrize("dtype", FIELDS)
@pytest.mark.parametrize("isotropic", NORMS)
@pytest.mark.parametrize("items", THREADED_ITEMS)
def test_thresholds_have_the_bits_of_the_search_of_one_item(kernels, isotropic, dtype, items):
    for seed, shape in enumerate(THREADED_SHAPES):
        data, q, sums, radii = updated(kernels, items, shape, dtype, isotropic, seed)
        given, exact = sums.copy(), np.zeros(items)
        ORACLE.field_threshold_batch(q, radii, isotropic, exact, sums)
        if kernels.name == "reference":  # it sorts instead
            alone = exact
        else:
            arguments = zip(q, radii, data.trials, map(tuple, sums.tolist()), strict=True)
            alone = [field_threshold(kernels, f, r, isotropic, t, s) for f, r, t, s in arguments]
        np.testing.assert_allclose(alone, exact, rtol=0, atol=20 * TOLERANCE[q.real.dtype] * np.abs(q).max())
        np.testing.assert_array_equal(exact == 0, radii >= sums[:, 0])
        for threads in THREADS:
            thresholds = data.trials.copy()
            kernels.field_threshold_batch(q, radii, isotropic, thresholds, given, threads=threads)
            np.testing.assert_array_equal(thresholds, alone)
        np.testing.assert_array_equal(given, sums)


@pytest.mark.parametrize("isotropic", NORMS)
def test_thresholds_give_the_radii(kernels, isotropic):
    """Without the oracle: what the clipped field leaves has the norm asked for."""
    data, q, sums, radii = updated(kernels, 5, (13, 17), np.float64, isotropic)
    thresholds = data.trials.copy()
    kernels.field_threshold_batch(q, radii, isotropic, thresholds, sums)
    magnitude = np.sqrt(np.sum(q**2, axis=1, keepdims=True)) if isotropic else np.abs(q)
    left = np.maximum(magnitude - thresholds[:, None, None, None], 0).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(left, np.minimum(radii, sums[:, 0]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("isotropic", NORMS)
def test_thresholds_of_fields_that_are_not_finite(kernels, isotropic):
    """The search ends, and the finite items keep their numbers."""
    if kernels.name == "reference":
        pytest.skip("the oracle sorts; the searches of the compiled backends could loop")
    data, q, sums, radii = updated(kernels, 5, (8, 9), np.float64, isotropic)
    expected = data.trials.copy()
    kernels.field_threshold_batch(q, radii, isotropic, expected, sums)
    q[1, 0, 2, 3], q[3, 1, 4, 4] = np.nan, np.inf
    sums[1], sums[3] = (np.nan, 1.0, 2.0), (np.inf, np.inf, 5.0)
    found = data.trials.copy()
    kernels.field_threshold_batch(q, radii, isotropic, found, sums)
    np.testing.assert_array_equal(found[[0, 2, 4]], expected[[0, 2, 4]])
    assert not np.isfinite(found[1]) and not np.isfinite(found[3])


# --- arguments ------------------------------------------------------------------------------

# Arguments by name; each is made too small, of another dtype, and strided, and what is written read-only.
ARGUMENTS = {
    "update_field_batch": "x q! 1.4 thresholds dual_scales iso trials sums3!",
    "update_field_divergence_batch": "x q! 1.4 thresholds new_thresholds iso out!",
    "field_divergence_batch": "q thresholds iso 0.8 -1.9 out!",
    "field_status_batch": "x q thresholds iso sums6!",
    "field_threshold_batch": "q radii iso new_thresholds! sums3",
    "lower_spectrum_batch": "r! transfer observed laplacian penalties shifts copies squares!",
    "lower_kkt_batch": "r dual transfer observed penalties copies sums2!",
    "upper_spectrum_batch": (
        "r! target transfer observed residual! laplacian 0.5 shifts field_penalties data_penalties 1.4 shrinks copies "
        "sums3!"
    ),
    "upper_dual_batch": "dual r residual target transfer observed 0.5 field_penalties data_weights copies sums5!",
}


def arguments_of(name):
    """The names of the arguments, whether each is written, and their values."""
    data = batch(3, (6, 8), np.float64)
    data.iso, data.out, data.squares, data.radii = True, np.zeros_like(data.x), np.zeros(3), np.ones(3)
    for count in (2, 3, 5, 6):
        setattr(data, f"sums{count}", np.zeros((3, count)))
    names = ARGUMENTS[name].split()
    written = [label.endswith("!") for label in names]
    names = [label.rstrip("!") for label in names]
    values = [getattr(data, label) if label[0].isalpha() else float(label) for label in names]
    values = [v.copy() if isinstance(v, np.ndarray) else v for v in values]
    return names, written, values


def wrong(value, written, decides):
    """(what is wrong, a value with that fault) of an array; one that decides the precision may have either."""
    yield "short", value[:-1].copy()
    yield "long", np.concatenate([value, value[:1]])
    if not decides:
        yield "dtype", value.astype(np.complex64 if value.dtype.kind == "c" else np.float32)
    yield "strided", np.repeat(value, 2, axis=-1)[..., ::2]
    if written:
        fixed = value.copy()
        fixed.flags.writeable = False
        yield "read-only", fixed


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_arguments_raise(kernels, name):
    if kernels.name == "reference":
        pytest.skip("the oracle checks nothing")
    function = getattr(kernels, name)
    names, written, values = arguments_of(name)
    function(*values)
    for position, value in enumerate(values):
        if not isinstance(value, np.ndarray):
            continue
        decides = name == "field_threshold_batch" and names[position] == "q"
        for fault, replaced in wrong(value, written[position], decides):
            changed = [*values[:position], replaced, *values[position + 1 :]]
            with pytest.raises((ValueError, TypeError)):
                function(*changed)
                pytest.fail(f"{name}: {names[position]} ({fault}) was accepted")


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if "laplacian" in ARGUMENTS[name]])
def test_a_wrong_laplacian_raises(kernels, name):
    if kernels.name == "reference":
        pytest.skip("the oracle checks nothing")
    names, _, values = arguments_of(name)
    at = names.index("laplacian")
    first, second = values[at]
    for laplacian in ((second,), (first[:-1], second), (first, second[1:]), (first, second.astype(np.float32))):
        with pytest.raises((ValueError, TypeError)):
            getattr(kernels, name)(*values[:at], laplacian, *values[at + 1 :])


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_batch_of_nothing_raises(kernels, name):
    if kernels.name == "reference":
        pytest.skip("the oracle checks nothing")
    names, _, values = arguments_of(name)
    shared = ("transfer", "laplacian", "copies")
    empty = [
        value[:0].copy() if isinstance(value, np.ndarray) and label not in shared else value
        for label, value in zip(names, values, strict=True)
    ]
    with pytest.raises(ValueError, match="one item or more"):
        getattr(kernels, name)(*empty)
