"""The compiled Fourier transforms against the sums they stand for, on every width of vectors that the CPU has."""

import importlib
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

if os.environ.get("BIOPERF_REQUIRE_COMPILED", "0") not in ("", "0"):
    fourier = importlib.import_module("bioperf.kernels.fourier")
else:
    fourier = pytest.importorskip("bioperf.kernels.fourier", reason="not compiled", exc_type=ImportError)

DTYPES = (np.float32, np.float64, np.complex64, np.complex128)
SMOOTH = [n for n in range(1, 65) if not any(n % p == 0 for p in range(11, 65) if all(p % q for q in range(2, p)))]


def widths():
    """The widths of vectors in bytes that can be used here."""
    found = []
    for width in (16, 32, 64):
        try:
            fourier.Plan((4,), np.float32, vector_bytes=width)
        except ValueError:
            continue
        found.append(width)
    return found


every_width = pytest.mark.parametrize("width", widths())
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)


def numbers(shape, dtype, seed=0):
    rng = np.random.default_rng([seed, *shape])
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)


def forward(x, axes, *, width=0, threads=1):
    """The spectrum of x over its last axes, in an array that held NaN; x is not written."""
    plan = fourier.Plan(x.shape[-axes:], x.dtype, vector_bytes=width)
    before = x.copy()
    spectrum = np.full((*x.shape[:-axes], *plan.spectrum_shape), np.nan, plan.spectrum_dtype)
    assert plan.forward(x, spectrum, threads=threads) is spectrum
    np.testing.assert_array_equal(x, before)
    return spectrum


def inverse(spectrum, shape, dtype, *, width=0, threads=1):
    """The image of a spectrum (kept), in an array that held NaN."""
    plan = fourier.Plan(shape, dtype, vector_bytes=width)
    image = np.full((*spectrum.shape[: -len(shape)], *shape), np.nan, dtype)
    assert plan.inverse(spectrum.copy(), image, threads=threads) is image
    return image


def exact_forward(x, axes):
    x = x.astype(np.result_type(x, np.float64))
    along = tuple(range(-axes, 0))
    return np.fft.fftn(x, axes=along) if x.dtype.kind == "c" else np.fft.rfftn(x, axes=along)


def exact_inverse(spectrum, shape, dtype):
    spectrum, along = spectrum.astype(np.complex128), tuple(range(-len(shape), 0))
    if np.dtype(dtype).kind == "c":
        return np.fft.ifftn(spectrum, axes=along, norm="forward")
    return np.fft.irfftn(spectrum, shape, axes=along, norm="forward")


def assert_rounded(actual, exact):
    """Root mean square error within that of n log2 n operations, half an ulp each, with room for a factor of 2."""
    scale = np.sqrt(np.mean(np.abs(exact) ** 2))
    error = np.sqrt(np.mean(np.abs(actual - exact) ** 2))
    assert error <= np.finfo(actual.dtype).eps * (0.5 + 0.5 * math.sqrt(math.log2(exact.size + 1))) * scale


def spectrum_of(shape, dtype, seed=1):
    """Any spectrum: a half spectrum that is not Hermitian in its first and last column."""
    half = shape if np.dtype(dtype).kind == "c" else (*shape[:-1], shape[-1] // 2 + 1)
    return numbers(half, np.result_type(dtype, np.complex64), seed)


def assert_pair(shape, dtype, width=0):
    x, spectrum = numbers(shape, dtype), spectrum_of(shape, dtype)
    assert_rounded(forward(x, len(shape), width=width), exact_forward(x, len(shape)))
    assert_rounded(inverse(spectrum, shape, dtype, width=width), exact_inverse(spectrum, shape, dtype))


# --- against the sums -----------------------------------------------------------------------


@pytest.mark.parametrize("n", SMOOTH)
def test_every_short_length_against_the_sum_itself(n):
    z = numbers((n,), np.complex128)
    turns = np.outer(np.arange(n), np.arange(n)) % n / n
    matrix = np.exp(-2j * np.pi * turns)
    np.testing.assert_allclose(forward(z, 1), matrix @ z, rtol=0, atol=2e-14 * n)
    np.testing.assert_allclose(inverse(z, (n,), np.complex128), matrix.conj() @ z, rtol=0, atol=2e-14 * n)
    np.testing.assert_allclose(forward(z.real.copy(), 1), (matrix @ z.real)[: n // 2 + 1], rtol=0, atol=2e-14 * n)


@every_dtype
@every_width
def test_every_short_length_as_rows_and_as_columns(width, dtype):
    for n in SMOOTH:
        for shape in ((n,), (1, n), (n, 1), (3, n), (n, 6), (n, 35), (2, n, 3), (3, 2, n)):
            assert_pair(shape, dtype, width)


@every_dtype
@every_width
@pytest.mark.parametrize(
    "shape",
    [(256, 256), (135, 343), (1024, 40), (40, 1125), (2048, 18), (9, 4096), (6, 56, 81), (16, 15, 14), (2, 1, 98)],
    ids=str,
)  # fmt: skip
def test_longer_lengths(shape, dtype, width):
    assert_pair(shape, dtype, width)


# Images from FAR_BYTES on (fourier.h) are cut into wider blocks of columns: whole blocks, and a last one in part.
@every_dtype
@every_width
def test_large_images(width, dtype):
    shape = {4: (1050, 1600), 8: (1050, 800), 16: (1050, 405)}[np.dtype(dtype).itemsize]
    assert_pair(shape, dtype, width)


smooth = st.builds(
    lambda *powers: math.prod(p**k for p, k in zip((2, 3, 5, 7), powers, strict=True)),
    *(st.integers(0, most) for most in (6, 3, 2, 2)),
)


@every_dtype
@given(first=smooth, last=smooth)
def test_random_lengths(dtype, first, last):
    if first * last <= 30_000:
        assert_pair((first, last), dtype)


# --- properties ------------------------------------------------------------------------------


@every_dtype
@every_width
@pytest.mark.parametrize("shape", [(60,), (48, 50), (21, 45), (10, 12, 14)], ids=str)
def test_there_and_back_and_parseval(shape, dtype, width):
    x = numbers(shape, dtype)
    spectrum = forward(x, len(shape), width=width)
    assert_rounded(inverse(spectrum, shape, dtype, width=width) / x.size, x.astype(np.result_type(dtype, np.float64)))
    copies = np.ones(spectrum.shape[-1])
    if x.dtype.kind == "f":
        copies[1 : (shape[-1] + 1) // 2] = 2
    power = np.sum(copies * np.abs(spectrum.astype(np.complex128)) ** 2)
    assert power == pytest.approx(
        x.size * np.sum(np.abs(x.astype(np.complex128)) ** 2), rel=8 * float(np.finfo(dtype).eps)
    )


@every_dtype
@pytest.mark.parametrize("shape", [(3, 64, 60), (5, 35, 45), (4, 7, 6, 50), (2, 3, 128)], ids=str)
def test_bits_do_not_depend_on_threads_or_on_the_batch(shape, dtype):
    for axes in range(1, min(3, len(shape) - 1) + 1):
        x, half = numbers(shape, dtype), spectrum_of(shape, dtype)
        there = forward(x, axes)
        back = inverse(half, shape[-axes:], dtype)
        for threads in (2, 3):
            np.testing.assert_array_equal(forward(x, axes, threads=threads), there)
            np.testing.assert_array_equal(inverse(half, shape[-axes:], dtype, threads=threads), back)
        for item in (index for index in np.ndindex(shape[:-axes]) if sum(index) < 3):
            np.testing.assert_array_equal(forward(x[item], axes, threads=2), there[item])
            np.testing.assert_array_equal(inverse(half[item], shape[-axes:], dtype, threads=2), back[item])


@every_dtype
def test_an_array_of_any_offset_has_the_same_bits(dtype):
    x = numbers((40, 42), dtype)
    there = forward(x, 2)
    for offset in (1, 3):
        shifted = np.empty(x.size + offset, dtype)[offset:].reshape(x.shape)
        shifted[...] = x
        np.testing.assert_array_equal(forward(shifted, 2), there)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_images_in_place(dtype):
    x = numbers((50, 48), dtype)
    plan = fourier.Plan(x.shape, dtype)
    own = x.copy()
    plan.forward(own, own)
    np.testing.assert_array_equal(own, forward(x, 2))
    there = own.copy()
    plan.inverse(own, own)
    np.testing.assert_array_equal(own, inverse(there, x.shape, dtype))


@every_dtype
def test_lines_do_not_leak_into_each_other(dtype):
    """A row, or a column, of NaN stays in its own row or column of a one-axis transform."""
    x = numbers((40, 48), dtype)
    x[5, 7] = np.nan
    spectrum = forward(x, 1)
    assert np.isnan(spectrum[5]).all() and not np.isnan(np.delete(spectrum, 5, 0)).any()
    assert np.isnan(inverse(spectrum, (48,), dtype)[5]).all()
    assert np.isnan(forward(x, 2)).all()


@every_dtype
def test_zeros_denormals_and_infinities(dtype):
    shape, real = (24, 30), np.empty(0, dtype).real.dtype
    assert not forward(np.zeros(shape, dtype), 2).any()
    tiny = np.full(shape, np.finfo(real).smallest_subnormal, dtype)
    total = forward(tiny, 2)[0, 0]
    assert total == 720 * np.finfo(real).smallest_subnormal
    x = np.ones(shape, dtype)
    x[3, 4] = np.inf
    assert not np.isfinite(forward(x, 2)).any()


@every_dtype
def test_an_impulse_and_a_wave(dtype):
    x = np.zeros((20, 28), dtype)
    x[0, 0] = 3
    np.testing.assert_array_equal(forward(x, 2), np.full_like(forward(x, 2), 3))
    i, j = np.indices(x.shape)
    wave = np.cos(2 * np.pi * ((84 * i + 100 * j) % 560) / 560).astype(dtype)
    expected = np.zeros(forward(x, 2).shape)
    expected[3, 5] = 280
    if wave.dtype.kind == "c":
        expected[17, 23] = 280
    np.testing.assert_allclose(forward(wave, 2), expected, rtol=0, atol=560 * np.finfo(dtype).eps)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((97,), r"shape: axis 0 has length 97, of which 97 is a prime factor: only 2, 3, 5 and 7"),
        ((8, 22), r"axis 1 has length 22, of which 11 is"),
        ((4, 13 * 17, 8), r"axis 1 has length 221, of which 13 is"),
        ((4, 0), r"axis 1 has length 0"),
        ((2**17,), r"axis 0 has length 131072: 1 to 65536"),
        ((), r"0 axes: 1, 2 or 3"),
        ((2, 2, 2, 2), r"4 axes: 1, 2 or 3"),
    ],
)
def test_shapes_that_are_refused(shape, message):
    assert fourier.obstacle(shape) is not None
    with pytest.raises(ValueError, match=message):
        fourier.Plan(shape, np.float32)


def test_dtypes_and_widths_that_are_refused():
    for dtype in (np.float16, np.int32, np.longdouble, np.dtype(np.float32).newbyteorder()):
        with pytest.raises(TypeError, match="dtype: expected float32"):
            fourier.Plan((4, 4), dtype)
    with pytest.raises(ValueError, match=r"vector_bytes: .* no vectors of 24 bytes"):
        fourier.Plan((4, 4), np.float32, vector_bytes=24)
    assert fourier.Plan((4, 4), np.float32).vector_bytes == max(widths())


def test_arrays_that_are_refused():
    plan = fourier.Plan((4, 6), np.float32)
    x, spectrum = np.zeros((4, 6), np.float32), np.zeros((4, 4), np.complex64)
    assert (plan.shape, plan.spectrum_shape, plan.dtype) == ((4, 6), (4, 4), np.float32)
    frozen, frozen_image = spectrum.copy(), x.copy()
    frozen.flags.writeable = frozen_image.flags.writeable = False
    plan.forward(frozen_image, spectrum)
    raw = np.zeros(64, np.float32)
    for image, out, message in (
        (x.astype(np.float64), spectrum, "image: expected .* dtype float32, got .* dtype float64"),
        (x, spectrum.astype(np.complex128), "spectrum: expected .* dtype complex64"),
        (x, np.zeros((4, 6), np.complex64), r"spectrum: expected a C-contiguous array of shape \(..., 4, 4\)"),
        (np.zeros((6, 4), np.float32), spectrum, r"image: expected a C-contiguous array of shape \(..., 4, 6\)"),
        (np.zeros(6, np.float32), spectrum, "image: expected"),
        (np.zeros((6, 4), np.float32).T, spectrum, "image: expected a C-contiguous"),
        (x, np.zeros((4, 8), np.complex64)[:, ::2], "spectrum: expected a C-contiguous"),
        (np.zeros((2, 4, 6), np.float32), spectrum, "image and spectrum: the leading axes"),
        (raw[:24].reshape(4, 6), raw[:32].view(np.complex64).reshape(4, 4), "must not be the same memory"),
        (x, frozen, "read-only"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            plan.forward(image, out)
        with pytest.raises(ValueError, match=message):
            plan.inverse(out, image)
    with pytest.raises(ValueError, match="read-only"):
        plan.inverse(spectrum, frozen_image)
    with pytest.raises(TypeError, match="image: expected a numpy array, got list"):
        plan.forward([[0.0]], spectrum)
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        plan.forward(x, spectrum, threads=0)
    empty = plan.forward(np.zeros((0, 4, 6), np.float32), np.zeros((0, 4, 4), np.complex64))
    assert empty.size == 0
