"""The Fourier operators against the plain transform, their adjoints, spectra and coefficients, and what they refuse."""

import numpy as np
import pytest

from bioperf import MaskedFourier, MultiCoilFourier, as_linear_operator
from bioperf.fft import plan_fft

TOLERANCE = {np.dtype("float32"): 4e-6, np.dtype("float64"): 1e-13}
SHAPES = [(1,), (8,), (9,), (4, 6), (5, 7), (1, 6), (7, 1), (3, 4, 5), (2, 5, 4)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_kind = pytest.mark.parametrize("real", [True, False], ids=["real", "complex"])
every_order = pytest.mark.parametrize("centred", [False, True], ids=["unshifted", "centred"])


def setup(shape, real, dtype=np.float64, batch=(), share=0.5):
    """A mask without symmetry, an image and k-space."""
    rng = np.random.default_rng([3, *shape])
    mask = rng.random(shape) < share
    mask.flat[rng.integers(mask.size)] = True
    x = rng.standard_normal((*batch, *shape))
    if not real:
        x = x + 1j * rng.standard_normal(x.shape)
    z = rng.standard_normal((*batch, *shape)) + 1j * rng.standard_normal((*batch, *shape))
    complex_dtype = np.result_type(dtype, np.complex64)
    return mask, x.astype(dtype if real else complex_dtype), z.astype(complex_dtype)


def inner(a, b):
    return float(np.sum(a.conj() * b).real)


@every_dtype
@every_order
@every_kind
@every_shape
def test_is_the_masked_unitary_transform(shape, real, centred, dtype):
    mask, x, _ = setup(shape, real, dtype, (2,))
    axes = tuple(range(1, x.ndim))
    if centred:
        whole = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)
    else:
        whole = np.fft.fftn(x, axes=axes, norm="ortho")
    y = MaskedFourier(mask, real=real, centred=centred)(x)
    assert y.dtype == np.result_type(dtype, np.complex64)
    np.testing.assert_allclose(y, whole * mask, rtol=0, atol=TOLERANCE[np.dtype(dtype)] * 10)
    assert not y[:, ~mask].any()


@every_dtype
@every_order
@every_kind
@every_shape
def test_adjoint_identity(shape, real, centred, dtype):
    mask, x, z = setup(shape, real, dtype, (2,))
    A = MaskedFourier(mask, real=real, centred=centred)
    back = A.adjoint(z)
    assert back.dtype == x.dtype
    size = np.linalg.norm(x) * np.linalg.norm(z)
    assert abs(inner(A(x), z) - inner(x, back)) <= TOLERANCE[np.dtype(dtype)] * size


@every_order
@every_kind
@every_shape
def test_gram_spectrum_is_the_diagonal_of_the_normal_operator(shape, real, centred):
    mask, x, _ = setup(shape, real)
    A = MaskedFourier(mask, real=real, centred=centred)
    forward = np.fft.rfftn if real else np.fft.fftn
    np.testing.assert_allclose(forward(A.adjoint(A(x))), A.gram_spectrum * forward(x), rtol=0, atol=1e-12)
    assert A.norm() == pytest.approx(np.sqrt(A.gram_spectrum.max()))


@every_dtype
@every_order
@every_kind
@every_shape
def test_coefficients_give_the_distance_to_the_data(shape, real, centred, dtype):
    """|A x - y|^2 = |H X - Y|^2 + rest, for data that no image has as well."""
    mask, x, z = setup(shape, real, dtype)
    A = MaskedFourier(mask, real=real, centred=centred)
    y = A.check_data("y", z)
    assert not y[~mask].any()
    fft = plan_fft(shape, x.dtype)
    data, rest = A.coefficients(y, fft)
    error = A.transfer(x.dtype) * fft.coefficients(x) - data
    square = x.size * float(np.sum(np.abs(error) ** 2 * fft.copies())) + rest
    assert square == pytest.approx(np.linalg.norm(A(x) - y) ** 2, rel=1e2 * TOLERANCE[np.dtype(dtype)])
    assert rest == pytest.approx(0, abs=1e-5 * square) or real


def test_centred_masks_are_the_unshifted_ones_moved():
    """The image is the same; only where k-space has its origin differs."""
    mask, _, z = setup((6, 7), False)
    image = MaskedFourier(np.fft.ifftshift(mask), real=False).adjoint(np.fft.ifftshift(z))
    moved = MaskedFourier(mask, real=False, centred=True).adjoint(z)
    np.testing.assert_allclose(moved, np.fft.fftshift(image), rtol=0, atol=1e-13)


@every_order
@pytest.mark.parametrize("shape", [(6,), (5, 6), (3, 4, 4)], ids=str)
def test_several_coils(shape, centred):
    mask, x, _ = setup(shape, False)
    rng = np.random.default_rng(1)
    maps = rng.standard_normal((3, *shape)) + 1j * rng.standard_normal((3, *shape))
    A = MultiCoilFourier(mask, maps, centred=centred)
    single = MaskedFourier(mask, real=False, centred=centred)
    np.testing.assert_allclose(A(x), single(maps * x), rtol=0, atol=1e-13)
    z = rng.standard_normal((2, 3, *shape)) + 1j * rng.standard_normal((2, 3, *shape))
    batch = np.stack([x, 2 * x])
    assert abs(inner(A(batch), z) - inner(batch, A.adjoint(z))) < 1e-11
    dense = as_linear_operator(A) @ np.eye(x.size)
    assert A.norm() >= np.linalg.norm(dense, 2) > 0.5 * A.norm()
    assert A.data_shape == (3, *shape) and A.gram_spectrum is None
    np.testing.assert_array_equal(A(x.real), A(x.real + 0j))


@every_kind
def test_as_linear_operator(real):
    mask, x, z = setup((4, 5), real)
    A = MaskedFourier(mask, real=real)
    operator = as_linear_operator(A)
    assert operator.shape == (20, 20) and operator.dtype == np.complex128
    np.testing.assert_array_equal(operator.matvec(x.ravel()), A(x).ravel())
    np.testing.assert_array_equal(operator.rmatvec(z.ravel()), A.adjoint(z).ravel())


BAD_MASKS = {
    "no sample": (np.zeros((4, 4), bool), ValueError, "mask: no frequency is sampled"),
    "other values": (np.full((4, 4), 0.5), ValueError, "mask: expected only 0 and 1"),
    "NaN": (np.full((4, 4), np.nan), ValueError, "mask: expected only 0 and 1"),
    "complex": (np.ones((4, 4), complex), TypeError, "mask: expected booleans"),
    "text": (np.array(["a"]), TypeError, "mask: expected booleans"),
    "no axis": (np.array(True), ValueError, "mask: expected 1, 2 or 3 axes"),
    "four axes": (np.ones((2, 2, 2, 2), bool), ValueError, "mask: expected 1, 2 or 3 axes"),
    "empty": (np.ones((0, 3), bool), ValueError, "mask: expected 1, 2 or 3 axes"),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_bad_masks_are_refused(case):
    mask, error, message = BAD_MASKS[case]
    with pytest.raises(error, match=message):
        MaskedFourier(mask)
    with pytest.raises(error, match=message):
        MultiCoilFourier(mask, np.ones((2, 4, 4), complex))


MASK = np.ones((4, 4), bool)
BAD_CALLS = {
    "real k-space": (lambda: MaskedFourier(MASK).adjoint(np.ones((4, 4))), TypeError, "z: expected complex64"),
    "complex image": (lambda: MaskedFourier(MASK)(np.ones((4, 4), complex)), TypeError, "x: expected float32"),
    "integer image": (lambda: MaskedFourier(MASK, real=False)(np.ones((4, 4), int)), TypeError, "x: integer images"),
    "shape": (
        lambda: MaskedFourier(MASK).adjoint(np.ones((4, 5), complex)),
        ValueError,
        r"z: expected shape \(\.\.\., 4",
    ),
    "NaN": (lambda: MaskedFourier(MASK).adjoint(np.full((4, 4), np.nan + 0j)), ValueError, "z: 16 entries are NaN"),
    "maps' axes": (lambda: MultiCoilFourier(MASK, np.ones((4, 4), complex)), ValueError, "maps: expected shape"),
    "maps' shape": (lambda: MultiCoilFourier(MASK, np.ones((2, 4, 5), complex)), ValueError, "maps: expected shape"),
    "real maps": (lambda: MultiCoilFourier(MASK, np.ones((2, 4, 4))), TypeError, "maps: expected complex64"),
    "no coil sees": (lambda: MultiCoilFourier(MASK, np.zeros((2, 4, 4), complex)), ValueError, "maps: all sensitiv"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_are_refused(case):
    call, error, message = BAD_CALLS[case]
    with pytest.raises(error, match=message):
        call()
