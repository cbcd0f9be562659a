"""Every sparsifying transform: T^T T = I, PyWavelets and SciPy as references, and what is refused."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bioperf.transforms as package
from bioperf.transforms import DCT, UndecimatedWavelet, Wavelet

pywt = pytest.importorskip("pywt", reason="PyWavelets has the filters")

DTYPES = (np.float32, np.float64, np.complex64, np.complex128)
TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 2e-14}
# transform, spatial shape
CASES = [
    (Wavelet(), (32, 48)), (Wavelet(level=1), (2, 6)), (Wavelet(ndim=1), (96,)), (Wavelet(level=2, ndim=3), (4, 8, 12)),
    (Wavelet("db4"), (32, 40)), (Wavelet("db2", level=2), (4, 12)), (Wavelet("coif1", level=1), (2, 10)),
    (Wavelet("db3", ndim=1), (40,)), (Wavelet("db2", level=1, ndim=3), (4, 6, 8)),
    (UndecimatedWavelet(), (13, 17)), (UndecimatedWavelet(level=4), (1, 9)), (UndecimatedWavelet(level=1), (1, 1)),
    (UndecimatedWavelet(level=2, ndim=1), (7,)), (UndecimatedWavelet(level=2, ndim=3), (5, 4, 3)),
    (UndecimatedWavelet("db4"), (13, 16)), (UndecimatedWavelet("sym5", level=2), (1, 9)),
    (UndecimatedWavelet("db2", level=2, ndim=1), (12,)), (UndecimatedWavelet("coif1", level=2, ndim=3), (5, 4, 3)),
    (UndecimatedWavelet("db5", level=2, ndim=1), (12,)), (UndecimatedWavelet("sym6", level=2, ndim=3), (5, 4, 3)),
    (DCT(), (13, 16)), (DCT(ndim=1), (1,)), (DCT(ndim=3), (3, 4, 5)),
]  # fmt: skip
every_case = pytest.mark.parametrize(("transform", "shape"), CASES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def random(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng([seed, *shape])
    a = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        a = a + 1j * rng.standard_normal(shape)
    return a.astype(dtype)


def assert_close(actual, expected, dtype):
    assert actual.dtype == dtype and actual.shape == expected.shape
    limit = TOLERANCE[np.empty(0, dtype).real.dtype] * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)


def inner(a, b):
    return np.vdot(a.astype(np.complex128), b.astype(np.complex128))


# --- what holds for each --------------------------------------------------------------------


@every_dtype
@every_case
def test_tight_frame(transform, shape, dtype):
    x = random((2, *shape), dtype)
    c = transform.forward(x)
    assert c.shape == (2, *transform.coefficient_shape(shape))
    assert_close(transform.adjoint(c), x, dtype)
    np.testing.assert_array_equal(transform.inverse(c), transform.adjoint(c))
    d = random(c.shape, dtype, 1)
    limit = TOLERANCE[x.real.dtype] * np.linalg.norm(d) * np.linalg.norm(x)
    assert abs(inner(c, c) - inner(x, x)) <= limit
    assert abs(inner(d, c) - inner(transform.adjoint(d), x)) <= limit


@every_case
def test_linear_over_complex_numbers_and_batches(transform, shape):
    x = random((2, 3, *shape), np.complex128)
    c = transform.forward(x)
    assert_close(c, transform.forward(x.real.copy()) + 1j * transform.forward(x.imag.copy()), x.dtype)
    assert_close(c[1, 2], transform.forward(x[1, 2]), x.dtype)
    image = transform.adjoint(c)
    parts = transform.adjoint(c.real.copy()) + 1j * transform.adjoint(c.imag.copy())
    assert_close(image, parts, x.dtype)
    assert_close(image[1, 2], transform.adjoint(c[1, 2]), x.dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@every_case
def test_bits_do_not_depend_on_the_threads(transform, shape, dtype):
    x = random((3, *shape), dtype)
    c = transform.forward(x, threads=1)
    np.testing.assert_array_equal(transform.forward(x, threads=2), c)
    np.testing.assert_array_equal(transform.forward(x), c)
    np.testing.assert_array_equal(transform.adjoint(c, threads=2), transform.adjoint(c, threads=1))


@every_case
def test_outputs_and_layouts(transform, shape):
    x = random((2, *shape), np.float32)
    x.flags.writeable = False
    untouched = x.copy()
    c = transform.forward(x)
    out = np.empty((2, *transform.coefficient_shape(shape)), np.float32)
    assert transform.forward(x, out=out) is out
    np.testing.assert_array_equal(out, c)
    np.testing.assert_array_equal(transform.forward(np.asfortranarray(x)), c)
    np.testing.assert_array_equal(transform.forward(x.astype(">f4")), c)
    image = np.empty_like(untouched)
    assert transform.adjoint(c, out=image) is image
    np.testing.assert_array_equal(image, transform.adjoint(np.asfortranarray(c)))
    np.testing.assert_array_equal(x, untouched)


@every_case
def test_repr_reproduces_and_pickle_keeps_it(transform, shape):
    again = eval(repr(transform))
    assert repr(again) == repr(transform) and type(again) is type(transform)
    x = random(shape)
    for other in (again, pickle.loads(pickle.dumps(transform))):
        np.testing.assert_array_equal(other.forward(x), transform.forward(x))


@every_case
def test_nan_stays(transform, shape):
    x = random(shape)
    x.flat[0] = np.nan
    assert np.isnan(transform.forward(x)).any()


@given(
    shape=st.lists(st.integers(1, 16), min_size=1, max_size=3),
    name=st.sampled_from(["haar", "db2", "sym4", "dmey"]),
    level=st.integers(1, 4),
)
def test_undecimated_takes_every_size(shape, name, level):
    transform = UndecimatedWavelet(name, level, ndim=len(shape))
    if level > 1 and 2 ** (level - 1) >= max(shape):
        with pytest.raises(ValueError, match="level <="):
            transform.check(tuple(shape))
        return
    x = random(tuple(shape))
    assert_close(transform.adjoint(transform.forward(x)), x, x.dtype)


# --- references -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Level value:UserWarning")
@every_dtype
@pytest.mark.parametrize("name", ["haar", "db1", "db2", "db4", "sym8", "coif2"])
@pytest.mark.parametrize(("shape", "level"), [((32,), 1), ((64, 96), 2), ((32, 16, 16), 1)], ids=str)
def test_wavelet_is_that_of_pywavelets(name, shape, level, dtype):
    x = random((2, *shape), dtype)
    axes = tuple(range(-len(shape), 0))
    levels = pywt.wavedecn(x, name, "periodization", level, axes=axes)
    expected = pywt.coeffs_to_array(levels, axes=axes)[0]
    assert_close(Wavelet(name, level, ndim=len(shape)).forward(x), expected.astype(dtype), dtype)


def test_dct_is_that_of_scipy():
    from scipy import fft

    x = random((3, 7, 10))
    assert_close(DCT().forward(x), fft.dctn(x, type=2, norm="ortho", axes=(1, 2)), x.dtype)
    n, k = np.arange(10), np.arange(10)[:, None]
    matrix = np.sqrt(np.where(k == 0, 1, 2) / 10) * np.cos(np.pi * (2 * n + 1) * k / 20)
    assert_close(DCT(ndim=1).forward(x), x @ matrix.T, x.dtype)


@every_dtype
@pytest.mark.parametrize("name", ["haar", "db2", "db3", "db4", "sym4"])
@pytest.mark.parametrize("shape", [(9,), (64,), (13, 16), (1, 9), (7, 5), (6, 5, 8)], ids=str)
def test_frame_kernels_are_the_fourier_multipliers(name, shape, dtype):
    level, ndim = 3, len(shape)
    x, kernel = random((2, *shape), dtype), UndecimatedWavelet(name, level, ndim=ndim)
    assert kernel._fourier is None
    fourier = package._FourierFrame(name, level, ndim)
    c, image = kernel.forward(x), np.empty_like(x)
    out = np.empty_like(c)
    fourier.forward(x, out, 1)
    d = random(c.shape, dtype, 1)
    fourier.adjoint(d, image, 1)
    # PyWavelets' table of sym4 is orthonormal only to 1e-12.
    rest = 1e-11 if name == "sym4" else 0
    for actual, expected in ((c, out), (kernel.adjoint(d), image)):
        assert actual.dtype == dtype
        limit = TOLERANCE[x.real.dtype] * max(1.0, np.abs(expected).max()) + rest
        np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("name", ["db2", "db3", "db4", "sym2", "sym3", "sym4", "coif1"])
def test_filters_of_the_frame_kernels_are_parseval(name):
    """Autocorrelations of low and high sum to the unit impulse, and the filters are those of PyWavelets."""
    filters = UndecimatedWavelet(name)._filters
    total = sum(np.correlate(taps, taps, "full") for taps in filters)
    impulse = np.zeros(len(total))
    impulse[len(total) // 2] = 1
    np.testing.assert_allclose(total, impulse, rtol=0, atol=1e-15)
    wavelet = pywt.Wavelet(name)
    expected = np.stack([wavelet.rec_lo, wavelet.rec_hi]) * np.sqrt(0.5)
    np.testing.assert_allclose(filters, expected, rtol=0, atol=5e-12)


def test_long_filters_of_a_frame_are_fourier_multipliers():
    assert UndecimatedWavelet("db5")._filters is None and UndecimatedWavelet("db5")._fourier is not None


def shifted_onto(band, reference):
    """The band rolled to where its correlation with the reference is largest."""
    correlation = np.fft.ifft2(np.fft.fft2(reference) * np.conj(np.fft.fft2(band))).real
    return np.roll(band, np.unravel_index(np.argmax(correlation), band.shape), (0, 1))


@pytest.mark.parametrize("name", ["db2", "db4", "sym6", "coif1"])
@pytest.mark.parametrize("shape", [(16, 32), (48, 24)], ids=str)
def test_undecimated_bands_are_those_of_pywavelets_up_to_a_shift(name, shape):
    x = random(shape)
    approximation, *details = pywt.swt2(x, name, 3, norm=True, trim_approx=True)
    expected = [approximation, *(band for high_low, low_high, high in details for band in (low_high, high_low, high))]
    c = UndecimatedWavelet(name).forward(x)
    assert len(c) == len(expected)
    for band, reference in zip(c, expected, strict=True):
        np.testing.assert_allclose(shifted_onto(band, reference), reference, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["haar", "db4"])
def test_undecimated_is_translation_invariant(name):
    x = random((12, 15))
    transform = UndecimatedWavelet(name, level=2)
    moved = transform.forward(np.roll(x, (3, -4), (0, 1)))
    assert_close(moved, np.roll(transform.forward(x), (3, -4), (1, 2)), x.dtype)


@pytest.mark.parametrize(
    "transform", [Wavelet("db4", level=2), Wavelet(level=2), UndecimatedWavelet("db4", level=2)], ids=repr
)
def test_details_of_a_constant_vanish(transform):
    c = transform.forward(np.full((32, 32), 2.0))
    if c.ndim == 3:
        np.testing.assert_allclose(c[0], 2, rtol=1e-12)
        c[0] = 0
    else:
        np.testing.assert_allclose(c[:8, :8], 8, rtol=1e-12)
        c[:8, :8] = 0
    np.testing.assert_allclose(c, 0, atol=1e-11)


# --- levels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "level"),
    [
        ("haar", (256, 256), 4), ("haar", (8, 64), 3), ("haar", (2, 6), 1), ("haar", (24, 36), 2),
        ("db4", (256, 256), 4), ("db4", (64, 256), 3), ("db4", (14, 14), 1), ("sym8", (32, 64), 1),
    ],
)  # fmt: skip
def test_level_by_shape(name, shape, level):
    transform = Wavelet(name)
    assert transform.level_for(shape) == level
    if shape[0] == shape[1]:
        assert level == min(4, pywt.dwt_max_level(shape[0], name))
    x = random(shape)
    np.testing.assert_array_equal(transform.forward(x), Wavelet(name, level).forward(x))


def test_one_transform_for_several_shapes():
    transform = Wavelet()
    for shape in ((16, 16), (6, 4), (32, 8), (16, 16)):
        x = random(shape)
        assert_close(transform.adjoint(transform.forward(x)), x, x.dtype)


# --- what is refused ------------------------------------------------------------------------

X = np.ones((8, 8))
READ_ONLY = np.empty((8, 8))
READ_ONLY.flags.writeable = False
REFUSED = [
    ("name not a string", TypeError, "name", lambda: Wavelet(4)),
    ("unknown wavelet", ValueError, "name: 'db99' is unknown", lambda: Wavelet("db99")),
    ("biorthogonal", ValueError, "name: 'bior2.2' is a biorthogonal", lambda: Wavelet("bior2.2")),
    ("biorthogonal frame", ValueError, "biorthogonal", lambda: UndecimatedWavelet("rbio1.3")),
    ("continuous", ValueError, "name: 'morl' is a continuous", lambda: Wavelet("morl")),
    ("continuous frame", ValueError, "continuous", lambda: UndecimatedWavelet("mexh")),
    ("not quite orthonormal", ValueError, "name: .*'dmey'", lambda: Wavelet("dmey")),
    ("level 0", ValueError, "level", lambda: Wavelet(level=0)),
    ("level of a float", TypeError, "level", lambda: UndecimatedWavelet(level=2.0)),
    ("level a boolean", TypeError, "level", lambda: Wavelet(level=True)),
    ("no level of a frame", TypeError, "level", lambda: UndecimatedWavelet(level=None)),
    ("level 63", ValueError, "level", lambda: UndecimatedWavelet(level=63)),
    ("ndim 0", ValueError, "ndim", lambda: DCT(ndim=0)),
    ("ndim 4", ValueError, "ndim", lambda: Wavelet(ndim=4)),
    ("ndim of a float", TypeError, "ndim", lambda: DCT(ndim=2.0)),
    ("odd size", ValueError, r"even sizes.*\(7, 8\).*crop or pad", lambda: Wavelet().check((7, 8))),
    ("filter too long", ValueError, "even sizes of at least 14", lambda: Wavelet("db4").check((8, 64))),
    ("not divisible", ValueError, "divisible by 8.*UndecimatedWavelet", lambda: Wavelet(level=3).check((8, 12))),
    ("not divisible, at work", ValueError, "divisible by 16", lambda: Wavelet(level=4).forward(X)),
    ("not divisible, adjoint", ValueError, "divisible by 16", lambda: Wavelet("db2", level=4).adjoint(X)),
    ("taps too far apart", ValueError, "level <= 3", lambda: UndecimatedWavelet(level=4).check((8, 5))),
    ("shape of other axes", ValueError, "shape.*ndim", lambda: DCT().coefficient_shape((8,))),
    ("shape a number", TypeError, "shape", lambda: DCT(ndim=1).check(8)),
    ("empty shape", ValueError, "shape", lambda: DCT().check((0, 8))),
    ("integers", TypeError, "x: expected float32", lambda: Wavelet().forward(X.astype(int))),
    ("half precision", TypeError, "c: expected float32", lambda: DCT().adjoint(X.astype(np.float16))),
    ("too few axes", ValueError, "x: expected at least 2 axes", lambda: DCT().forward(np.ones(8))),
    ("no bands", ValueError, "c: expected at least 3 axes", lambda: UndecimatedWavelet().adjoint(X)),
    ("other bands", ValueError, "c: axis -3 must hold 10 bands", lambda: UndecimatedWavelet().adjoint(X[None])),
    ("empty", ValueError, "x: empty", lambda: DCT().forward(np.empty((0, 8, 8)))),
    ("out a list", TypeError, "out", lambda: DCT().forward(X, out=[])),
    ("out of another shape", ValueError, "out", lambda: UndecimatedWavelet().forward(X, out=np.empty((8, 8)))),
    ("out of another dtype", ValueError, "out", lambda: Wavelet().forward(X, out=np.empty((8, 8), np.float32))),
    ("out read-only", ValueError, "out", lambda: Wavelet().forward(X, out=READ_ONLY)),
    ("out strided", ValueError, "out", lambda: DCT().forward(X, out=np.empty((8, 8)).T)),
    ("in place", ValueError, "overlap x", lambda: Wavelet().forward(X, out=X)),
    ("in place, adjoint", ValueError, "overlap c", lambda: DCT().adjoint(X, out=X)),
    ("no thread", ValueError, "threads", lambda: DCT().forward(X, threads=0)),
    ("half a thread", TypeError, "threads", lambda: Wavelet().forward(X, threads=0.5)),
]


@pytest.mark.parametrize(("error", "words", "call"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_refused(error, words, call):
    with pytest.raises(error, match=words) as caught:
        call()
    assert caught.type is error


def test_other_wavelets_ask_for_pywavelets(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pywt", None)
    for make in (Wavelet, UndecimatedWavelet):
        with pytest.raises(ImportError, match="pip install PyWavelets"):
            make("db4")
        x = random((8, 8))
        assert_close(make("haar").adjoint(make("haar").forward(x)), x, x.dtype)
