"""The blur against a sum of shifted images, its adjoint and spectrum, and what it refuses."""

import math

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator

from bioperf import Blur, as_linear_operator

# Error of a result relative to its largest entry.
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}
DTYPES = (np.float32, np.float64)
# image, psf: odd and even psfs, one pixel, one as large as the image
PAIRS = [
    ((1,), (1,)), ((12,), (3,)), ((13,), (4,)), ((7,), (7,)), ((8,), (8,)),
    ((9, 12), (1, 1)), ((9, 12), (3, 5)), ((10, 11), (4, 2)), ((7, 6), (7, 6)), ((6, 7), (1, 4)),
    ((5, 6, 7), (3, 2, 3)), ((4, 3, 5), (4, 3, 5)),
]  # fmt: skip
every_pair = pytest.mark.parametrize(("shape", "size"), PAIRS, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def data(shape, size, batch=(), dtype=np.float64):
    rng = np.random.default_rng([5, *shape, *size])
    psf = rng.random(size)
    return psf, *(rng.standard_normal((*batch, *shape)).astype(dtype) for _ in range(2))


def circular_convolution(x, psf):
    """Every entry of the psf times the image shifted by the entry's distance from the centre."""
    total = np.zeros_like(x, dtype=np.float64)
    axes = tuple(range(-psf.ndim, 0))
    for index in np.ndindex(psf.shape):
        shift = [k - n // 2 for k, n in zip(index, psf.shape, strict=True)]
        total += psf[index] * np.roll(x, shift, axes)
    return total


def assert_close(actual, expected, dtype):
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * max(1, np.abs(expected).max()))


@every_dtype
@pytest.mark.parametrize("batch", [(), (3,), (2, 1)], ids=str)
@every_pair
def test_is_a_circular_convolution(shape, size, batch, dtype):
    psf, x, _ = data(shape, size, batch, dtype)
    untouched = x.copy()
    assert_close(Blur(psf, shape)(x), circular_convolution(x.astype(np.float64), psf), dtype)
    np.testing.assert_array_equal(x, untouched)


@every_dtype
@every_pair
def test_adjoint_identity(shape, size, dtype):
    psf, x, z = data(shape, size, (2,), dtype)
    A = Blur(psf, shape)
    assert A.adjoint(z).dtype == dtype
    forward, backward = (float(np.vdot(*pair)) for pair in ((A(x), z), (x, A.adjoint(z))))
    scale = float(np.linalg.norm(A(x)) * np.linalg.norm(z))
    assert forward == pytest.approx(backward, abs=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize(("shape", "size"), [((9,), (3,)), ((8, 9), (4, 5)), ((6, 5, 7), (2, 3, 4))], ids=str)
def test_centre_convention(shape, size):
    """A psf of one point at (kh//2, kw//2) does nothing; elsewhere it shifts by the distance to that place."""
    x = np.random.default_rng(1).standard_normal(shape)
    centre = tuple(k // 2 for k in size)
    for place in (centre, (0,) * len(size), tuple(k - 1 for k in size)):
        psf = np.zeros(size)
        psf[place] = 1
        shift = [k - c for k, c in zip(place, centre, strict=True)]
        np.testing.assert_allclose(Blur(psf, shape)(x), np.roll(x, shift, range(x.ndim)), rtol=0, atol=1e-14)


@every_pair
def test_gram_spectrum_is_the_diagonal_of_the_normal_operator(shape, size):
    psf, x, _ = data(shape, size)
    A = Blur(psf, shape)
    assert A.gram_spectrum.shape == (*shape[:-1], shape[-1] // 2 + 1)
    assert A.gram_spectrum.dtype == np.float64
    filtered = np.fft.irfftn(A.gram_spectrum * np.fft.rfftn(x), shape, axes=range(len(shape)))
    np.testing.assert_allclose(filtered, A.adjoint(A(x)), rtol=0, atol=1e-12)


@every_pair
def test_norm_is_the_largest_singular_value(shape, size):
    psf, *_ = data(shape, size)
    A = Blur(psf, shape)
    n = math.prod(shape)
    dense = np.stack([A(e.reshape(shape)).ravel() for e in np.eye(n)], axis=1)
    assert A.norm() == pytest.approx(np.linalg.norm(dense, 2), rel=1e-12)
    gram = np.linalg.eigvalsh(dense.T @ dense)
    assert A.gram_spectrum.max() == pytest.approx(gram[-1], rel=1e-12)
    assert A.gram_spectrum.min() == pytest.approx(gram[0], abs=1e-12)


def test_as_linear_operator():
    psf, x, z = data((6, 7), (3, 4))
    A = Blur(psf, x.shape)
    operator = as_linear_operator(A)
    assert isinstance(operator, LinearOperator)
    assert operator.shape == (42, 42) and operator.dtype == np.float64
    np.testing.assert_array_equal(operator.matvec(x.ravel()), A(x).ravel())
    np.testing.assert_array_equal(operator.rmatvec(z.ravel()), A.adjoint(z).ravel())
    np.testing.assert_array_equal(operator @ x.ravel(), A(x).ravel())
    dense = operator @ np.eye(42)
    np.testing.assert_allclose(operator.H @ np.eye(42), dense.T, rtol=0, atol=1e-14)
    half = A.gram_spectrum
    spectrum = np.concatenate([half, half[:, 1 : (7 + 1) // 2][(-np.arange(6)) % 6, ::-1]], axis=1)
    eigenvalues = np.linalg.eigvalsh(dense.T @ dense)
    np.testing.assert_allclose(eigenvalues, np.sort(spectrum.ravel()), rtol=0, atol=1e-12)
    assert operator.matvec(x.ravel().astype(np.float32)).dtype == np.float64


def test_psf_as_list_of_integers_and_its_repr():
    A = Blur([[0, 1], [2, 1]], (4, 5))
    np.testing.assert_array_equal(A.psf, [[0.0, 1.0], [2.0, 1.0]])
    assert A.norm() == 4.0 and repr(A) == "Blur(psf of shape (2, 2), shape=(4, 5))"
    assert Blur([1.0, 1.0], 6).shape == (6,)


def test_the_psf_is_copied():
    psf = np.ones((3, 3))
    A, x = Blur(psf, (5, 5)), np.random.default_rng(2).random((5, 5))
    psf[...] = 0
    np.testing.assert_allclose(A(x), circular_convolution(x, np.ones((3, 3))), rtol=0, atol=1e-13)


@every_dtype
def test_thread_count_does_not_change_the_bits(monkeypatch, dtype):
    x = np.random.default_rng(3).random((530, 521)).astype(dtype)
    results = []
    for threads in (1, 2):
        monkeypatch.setattr("bioperf.operators.blur.threads_for", lambda elements, threads=threads: threads)
        A = Blur(np.ones((3, 4)) / 12, x.shape)
        results.append((A.transfer(dtype), A(x), A.adjoint(x)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


# --- what is refused ------------------------------------------------------------------------

GOOD = np.ones((3, 3)) / 9


def psf_with(value):
    psf = GOOD.copy()
    psf[1, 2] = value
    return psf


BAD_OPERATORS = [
    ("negative", ValueError, "psf: 1 entries are negative", psf_with(-0.1), (5, 5)),
    ("zero sum", ValueError, "psf: sums to zero", np.zeros((3, 3)), (5, 5)),
    ("NaN", ValueError, r"psf: .*NaN.*\(1, 2\)", psf_with(np.nan), (5, 5)),
    ("infinite", ValueError, r"psf: .*infinite.*\(1, 2\)", psf_with(np.inf), (5, 5)),
    ("complex", TypeError, "psf: .*complex128", GOOD + 0j, (5, 5)),
    ("text", TypeError, "psf: ", "motion", (5, 5)),
    ("boolean", TypeError, "psf: .*bool", np.ones((3, 3), bool), (5, 5)),
    ("empty", ValueError, "psf: empty", np.empty((0, 3)), (5, 5)),
    ("4 axes", ValueError, "psf: .*1, 2 or 3 axes", np.ones((1, 1, 1, 1)), (5, 5, 5, 5)),
    ("larger than the image", ValueError, r"psf: .*\(3, 3\).*\(5, 2\)", GOOD, (5, 2)),
    ("shape of other ndim", ValueError, r"shape: .*\(5,\)", GOOD, (5,)),
    ("shape of 3 axes", ValueError, r"shape: .*\(5, 5, 5\)", GOOD, (5, 5, 5)),
    ("zero size", ValueError, r"shape: .*\(5, 0\)", GOOD, (5, 0)),
    ("negative size", ValueError, r"shape: .*\(-5, 5\)", GOOD, (-5, 5)),
    ("fractional size", TypeError, "shape: ", GOOD, (5.5, 5)),
    ("no shape", TypeError, "shape: ", GOOD, None),
    ("shape in words", TypeError, "shape: ", GOOD, "5x5"),
    ("shape of no memory", ValueError, "shape: .*more pixels than any memory", GOOD, (2**40, 2**40)),
    ("ragged", TypeError, "psf: expected an array of numbers", [[1.0], [1.0, 2.0]], (5, 5)),
]
BAD_IMAGES = [
    ("integers", TypeError, "integer images", np.ones((5, 5), np.uint8)),
    ("booleans", TypeError, "integer images", np.ones((5, 5), bool)),
    ("complex", TypeError, "complex128", np.ones((5, 5), complex)),
    ("half precision", TypeError, "float16", np.ones((5, 5), np.float16)),
    ("text", TypeError, "float32 or float64", "image.png"),
    ("ragged", TypeError, "expected an array of numbers", [[1.0], [1.0, 2.0]]),
    ("masked", ValueError, "masked entries", np.ma.masked_less(np.arange(25.0).reshape(5, 5), 3)),
    ("NaN", ValueError, r"NaN.*\(0, 3\)", np.where(np.arange(25).reshape(5, 5) == 3, np.nan, 1.0)),
    ("infinite", ValueError, r"infinite.*\(0, 0\)", np.full((5, 5), -np.inf)),
    ("empty batch", ValueError, "empty", np.empty((0, 5, 5))),
    ("wrong shape", ValueError, r"\(\.\.\., 5, 5\), got \(5, 4\)", np.ones((5, 4))),
    ("too few axes", ValueError, r"\(\.\.\., 5, 5\), got \(5,\)", np.ones(5)),
]


@pytest.mark.parametrize(("error", "message", "psf", "shape"), [pytest.param(*r[1:], id=r[0]) for r in BAD_OPERATORS])
def test_bad_operators_are_refused(error, message, psf, shape):
    with pytest.raises(error, match=f"^{message}") as caught:
        Blur(psf, shape)
    assert caught.type is error


@pytest.mark.parametrize(("method", "name"), [("__call__", "x"), ("adjoint", "z")])
@pytest.mark.parametrize(("error", "message", "image"), [pytest.param(*r[1:], id=r[0]) for r in BAD_IMAGES])
def test_bad_images_are_refused(error, message, image, method, name):
    with pytest.raises(error, match=f"^{name}: .*{message}") as caught:
        getattr(Blur(GOOD, (5, 5)), method)(image)
    assert caught.type is error


@every_dtype
def test_foreign_byte_order_and_strided_images(dtype):
    psf, x, _ = data((8, 9), (3, 3), dtype=dtype)
    A = Blur(psf, x.shape)
    for view in (x.astype(x.dtype.newbyteorder()), np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2]):
        result = A(view)
        np.testing.assert_array_equal(result, A(x))
        assert result.dtype == dtype
