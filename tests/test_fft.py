"""The FFT libraries against numpy.fft, their bits over threads, and the spectra that the solvers count on."""

import importlib.util
import itertools
import math

import numpy as np
import pytest

from bioperf import Blur, fft, solve_lower
from bioperf.kernels import get_backend

# Error of a result relative to its largest entry.
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14, np.complex64: 2e-6, np.complex128: 1e-14}
DTYPES = (np.float32, np.float64, np.complex64, np.complex128)
# even, odd and prime sizes, and the shortest
SHAPES = [
    (1,), (2,), (16,), (15,), (97,),
    (1, 6), (6, 1), (12, 10), (9, 15), (8, 7), (31, 29),
    (4, 6, 8), (5, 3, 9), (7, 1, 11), (3, 2, 1),
]  # fmt: skip
SMALL = [(300,), (60, 40), (13, 7, 5)]
LARGE = [(352, 350), (353, 401), (375, 343), (1500, 84), (40, 3136), (50, 51, 52), (50, 54, 56)]


def smooth(shape):
    """Whether no prime factor is above 7, as the compiled kernels need it."""
    return all((2 * 3 * 5 * 7) ** 12 % n == 0 for n in shape)


def every_library_and_shape(shapes):
    """Each library with the shapes that it takes."""
    return pytest.mark.parametrize(
        ("library", "shape"),
        [
            pytest.param(
                name,
                shape,
                id=f"{name}-{shape}",
                marks=pytest.mark.skipif(state is not True, reason=f"{name}: {state}"),
            )
            for name, state in fft.available_libraries().items()
            for shape in shapes
            if name != "bioperf" or smooth(shape)
        ],
    )


every_library = pytest.mark.parametrize(
    "library",
    [
        pytest.param(name, marks=pytest.mark.skipif(state is not True, reason=f"{name}: {state}"))
        for name, state in fft.available_libraries().items()
    ],
)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture
def automatic():
    yield
    fft.set_library("auto")


def image(shape, dtype=np.float64):
    rng = np.random.default_rng([3, *shape])
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)


def numpy_coefficients(x):
    return (np.fft.fftn if x.dtype.kind == "c" else np.fft.rfftn)(
        x.astype(np.result_type(x, np.float64)), norm="forward"
    )


def assert_close(actual, expected, dtype):
    assert actual.dtype == np.result_type(dtype, actual.dtype) and actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * max(1, np.abs(expected).max()))


# --- the transforms -------------------------------------------------------------------------


@every_dtype
@every_library_and_shape(SHAPES)
def test_matches_numpy(library, shape, dtype):
    x = image(shape, dtype)
    untouched = x.copy()
    transform = fft.plan_fft(shape, dtype, library=library)
    assert transform.library == library
    coefficients = transform.coefficients(x)
    assert coefficients.dtype == np.result_type(dtype, np.complex64)
    assert_close(coefficients, numpy_coefficients(x), dtype)
    np.testing.assert_array_equal(x, untouched)

    real, spectrum = transform.empty("image", "spectrum")
    real[...] = x
    assert_close(transform.scale * transform.forward(real, spectrum), coefficients, dtype)
    back = transform.inverse(coefficients, real)
    assert back.dtype == dtype
    assert_close(back, untouched, dtype)


@every_dtype
@every_library_and_shape([*SMALL, *LARGE])
def test_thread_count_does_not_change_the_bits(library, shape, dtype):
    results = []
    for threads in (1, 2, 3):
        transform = fft.plan_fft(shape, dtype, threads=threads, library=library)
        alone = shape in SMALL or library == "pyfftw"
        assert transform.threads == (1 if alone else threads)
        coefficients = transform.coefficients(image(shape, dtype))
        (real,) = transform.empty("image")
        results.append((coefficients.copy(), transform.inverse(coefficients, real).copy()))
    for other in results[1:]:
        for one, reference in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(one, reference, strict=True)
    assert_close(results[0][1], image(shape, dtype), dtype)


def test_the_threaded_shapes_are_above_the_limit():
    assert all(math.prod(shape) < fft.THREADED_FROM for shape in SMALL)
    assert all(math.prod(shape) >= fft.THREADED_FROM for shape in LARGE)


# --- work arrays ----------------------------------------------------------------------------


def test_workspace_is_aligned_staggered_and_disjoint():
    forms = [((5, 7), np.float32), ((3, 4, 6), np.complex128), ((11,), np.float64)] * 9
    arrays = fft.workspace(forms)
    spans = []
    for array, (shape, dtype) in zip(arrays, forms, strict=True):
        assert array.shape == shape and array.dtype == dtype
        assert array.flags.c_contiguous and array.flags.writeable
        start = array.ctypes.data
        assert start % 64 == 0
        spans.append((start, start + array.nbytes))
    steps = {(second - first) % 4096 for (first, _), (second, _) in itertools.pairwise(spans)}
    assert steps <= {192, 4096 - 19 * 192}
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(sorted(spans)))


@every_dtype
def test_transform_arrays_come_from_one_workspace(dtype):
    transform = fft.plan_fft((9, 8), dtype)
    real, spectrum = transform.empty("image", "spectrum")
    assert (real.shape, real.dtype) == ((9, 8), dtype)
    whole = np.dtype(dtype).kind == "c"
    assert (spectrum.shape, spectrum.dtype) == ((9, 8 if whole else 5), np.result_type(dtype, np.complex64))
    assert (spectrum.ctypes.data - real.ctypes.data) % 4096 in (192, 4096 - 19 * 192)


# --- choice of the library ------------------------------------------------------------------


def without(monkeypatch, *missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in missing else find(name, *rest))


compiled = pytest.mark.skipif(
    fft.available_libraries()["bioperf"] is not True, reason=f"bioperf: {fft.available_libraries()['bioperf']}"
)


@compiled
def test_auto_takes_the_kernels_for_images_that_suit_them(monkeypatch):
    def chosen(shape):
        return fft.plan_fft(shape, np.float32).library

    for shape in ((8, 8), (64, 49), (3, 5, 30), (256, 256)):
        assert chosen(shape) == "bioperf"
    # prime factors above 7, one axis, few rows, few columns
    for shape in ((64, 62), (253, 256), (13, 16, 16), (4096,), (7, 64), (64, 7)):
        assert chosen(shape) == ("ducc0" if importlib.util.find_spec("ducc0") else "scipy")
    without(monkeypatch, "bioperf.kernels.fourier")
    assert chosen((64, 64)) == chosen((64, 62))


@compiled
def test_the_kernels_refuse_other_lengths(automatic):
    rough = [shape for shape in SHAPES + LARGE if not smooth(shape)]
    assert len(rough) > 4
    for shape in rough:
        with pytest.raises(ValueError, match=r"'bioperf': axis .* prime factor: only 2, 3, 5 and 7 .* choose 'auto'"):
            fft.plan_fft(shape, np.float64, library="bioperf")
    fft.set_library("bioperf")
    with pytest.raises(ValueError, match="axis 1 has length 13, of which 13"):
        fft.plan_fft((16, 13), np.float32)


def test_unknown_library(automatic):
    for choose in (fft.set_library, lambda name: fft.plan_fft((4, 4), np.float64, library=name)):
        with pytest.raises(ValueError, match=r"unknown FFT library 'fftpack'.*'auto'.*'scipy'"):
            choose("fftpack")
    assert fft.plan_fft((4, 4), np.float64).library in fft.LIBRARIES


@pytest.mark.parametrize(
    ("name", "module", "remedy"),
    [
        ("pyfftw", "pyfftw", "not installed: pip install pyfftw"),
        ("ducc0", "ducc0", "not installed: pip install ducc0"),
        ("bioperf", "bioperf.kernels.fourier", "not compiled: build the package with GCC or Clang"),
    ],
)
def test_missing_library_is_refused_by_name(monkeypatch, automatic, name, module, remedy):
    without(monkeypatch, module)
    assert remedy in fft.available_libraries()[name]
    for choose in (fft.set_library, lambda library: fft.plan_fft((4, 4), np.float64, library=library)):
        with pytest.raises(ImportError, match=f"{name}.*{remedy}"):
            choose(name)


def test_scipy_stands_in_for_missing_libraries_under_auto(monkeypatch):
    without(monkeypatch, "pyfftw", "ducc0", "bioperf.kernels.fourier")
    assert fft.available_libraries()["scipy"] is True
    for shape in ((4, 4), (64, 64)):
        assert fft.plan_fft(shape, np.float64).library == "scipy"


@every_library
def test_set_library_is_honoured_by_a_solve(automatic, library):
    y = image((12, 15))
    A = Blur(np.ones((3, 3)) / 9, y.shape)
    plain = solve_lower(A, y, 0.1, max_iter=40)
    fft.set_library(library)
    chosen = solve_lower(A, y, 0.1, max_iter=40)
    assert chosen.fft == library
    np.testing.assert_allclose(chosen.x, plain.x, rtol=0, atol=1e-12)
    fft.set_library("auto")
    assert solve_lower(A, y, 0.1, max_iter=40).fft == plain.fft


# --- spectra --------------------------------------------------------------------------------


@every_dtype
@every_shape
def test_laplacian_is_the_diagonal_of_gradient_adjoint_gradient(shape, dtype):
    kernels, whole = get_backend("reference"), np.dtype(dtype).kind == "c"
    x = image(shape, np.complex128 if whole else np.float64)
    transform = fft.plan_fft(shape, dtype)
    laplacian = transform.laplacian()
    assert all(axis.dtype == transform.real_dtype for axis in laplacian)
    inverse = np.fft.ifftn if whole else np.fft.irfftn
    filtered = inverse(sum(np.ix_(*laplacian)) * numpy_coefficients(x), shape, axes=range(len(shape)), norm="forward")
    direct = kernels.gradient_adjoint(kernels.gradient(x, ndim=len(shape)), ndim=len(shape))
    assert_close(filtered, direct, dtype)


@every_dtype
@every_shape
def test_copies_by_parseval(shape, dtype):
    x = image(shape, np.complex128 if np.dtype(dtype).kind == "c" else np.float64)
    transform = fft.plan_fft(shape, dtype)
    copies = transform.copies()
    power = np.abs(numpy_coefficients(x)) ** 2
    assert copies.dtype == transform.real_dtype and copies.sum() == shape[-1]
    assert x.size * np.sum(power * copies) == pytest.approx(np.sum(np.abs(x) ** 2), rel=1e-12)
