"""Batches of both levels: each item as it is alone, whatever its neighbours, the threads and the order are."""

import numpy as np
import pytest

import bioperf._fourier
import bioperf.slots.arrays
import bioperf.slots.layout
from bioperf import (
    Blur,
    DivergenceError,
    MaskedFourier,
    MultiCoilFourier,
    deblur,
    reconstruct_mri,
    solve_bio,
    solve_lower,
)
from bioperf.kernels import get_backend
from bioperf.slots import Layout

TV_WEIGHTS = np.array([1e-3, 4e-3, 2e-4, 1e-2, 3e-3])
EPSILONS = np.array([0.1, 0.02, 0.2, 0.5, 0.01])
KAPPAS = np.array([0.0, 0.1, 0.01, 0.0, 1.0])


def scene(shape=(20, 22), dtype=np.float64, count=5):
    """A blur and blurred images of as many noise levels."""
    rng = np.random.default_rng(len(shape))
    x = np.kron(rng.random([(n + 3) // 4 for n in shape]), np.ones([4] * len(shape)))[tuple(slice(n) for n in shape)]
    A = Blur(np.ones([min(3, n) for n in shape]) / np.prod([min(3, n) for n in shape]), shape)
    noise = np.resize([0.01, 0.03, 0.002, 0.05, 0.01], count).reshape(-1, *[1] * len(shape))
    return A, (A(x) + noise * rng.standard_normal((count, *shape))).astype(dtype)


def kspace(real, count=3):
    rng = np.random.default_rng(5)
    mask = rng.random((16, 15)) < 0.5
    mask[0, 0] = True
    A = MaskedFourier(mask, real=real)
    x = np.kron(rng.random((4, 5)), np.ones((4, 3)))
    return A, A(x + 0.05 * rng.standard_normal((count, 16, 15)))


def assert_same(item, alone):
    """Solutions equal bit for bit; ``item`` is (batch, index)."""
    batch, index = item
    np.testing.assert_array_equal(batch.x[index], alone.x, strict=True)
    for name in ("objective", "lower_bound", "kkt_residual", "iterations", "converged"):
        assert getattr(batch, name)[index] == getattr(alone, name), name
    for name, values in alone.infeasibility.items():
        assert batch.infeasibility[name][index] == values
    history = batch.history[np.ravel_multi_index(index, batch.iterations.shape)]
    assert set(history) == set(alone.history)
    for name in set(history) - {"seconds"}:
        np.testing.assert_array_equal(history[name], alone.history[name])


def lower(A, y, k=slice(None), **options):
    return solve_lower(A, y, TV_WEIGHTS[: len(y) if isinstance(k, slice) else None][k], **options)


def upper(A, y, k=slice(None), **options):
    values = {"tv_weight": TV_WEIGHTS, "epsilon": EPSILONS, "kappa": KAPPAS}
    parameters = {name: np.resize(value, len(y) if isinstance(k, slice) else 5)[k] for name, value in values.items()}
    return solve_bio(A, y, target="identity", **{"max_iter": 80} | parameters | options)


LEVELS = pytest.mark.parametrize("level", [lower, upper])


@pytest.mark.parametrize("isotropic", [False, True], ids=["anisotropic", "isotropic"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@LEVELS
def test_an_item_with_its_own_numbers_is_what_it_is_alone(level, dtype, isotropic):
    A, y = scene(dtype=dtype)
    batch = level(A, y, isotropic=isotropic)
    assert batch.x.shape == y.shape and batch.x.dtype == dtype
    assert len(set(batch.iterations.tolist())) > 1, "the items are to stop on their own"
    for k in range(len(y)):
        assert_same((batch, (k,)), level(A, y[k], k, isotropic=isotropic))


@pytest.mark.parametrize("shape", [(19,), (1, 9), (9, 1), (5, 6, 7), (64, 64), (22, 13)], ids=str)
@LEVELS
def test_shapes(level, shape):
    A, y = scene(shape)
    batch = level(A, y)
    for k in (0, 3):
        assert_same((batch, (k,)), level(A, y[k], k))


@pytest.mark.parametrize("real", [True, False])
@LEVELS
def test_kspace(level, real):
    A, y = kspace(real)
    batch = level(A, y)
    for k in range(len(y)):
        assert_same((batch, (k,)), level(A, y[k], k))


@pytest.mark.parametrize("threads", [1, 2, 3])
@LEVELS
def test_neighbours_order_slots_and_threads_do_not_matter(level, threads, monkeypatch):
    """One or two slots for seven items: each is refilled several times, in another order than the items'."""
    A, y = scene(count=7)
    item = bioperf.slots.arrays.STATE_IMAGES * y[0].nbytes
    reference = level(A, y[:5])
    for memory in (item, 2 * item, 1 << 23):
        monkeypatch.setattr(bioperf.slots.arrays, "MEMORY", memory)
        others = level(A, np.concatenate([y[:5], 100 * y[5:]])[:5], threads=threads)
        for k in range(5):
            np.testing.assert_array_equal(others.x[k], reference.x[k])
            assert others.iterations[k] == reference.iterations[k]


@pytest.mark.parametrize("name", ["numba", "reference"])
@LEVELS
def test_other_backends(level, name, monkeypatch):
    monkeypatch.setattr(bioperf._fourier, "get_backend", lambda: get_backend(name))
    A, y = scene((9, 10))
    batch = level(A, y, max_iter=25)
    assert batch.backend == name
    for k in (0, 1, 4):
        alone = level(A, y[k], k, max_iter=25)
        np.testing.assert_array_equal(batch.x[k], alone.x)
    monkeypatch.undo()
    np.testing.assert_allclose(batch.x, level(A, y, max_iter=25).x, atol=1e-10)


@pytest.mark.parametrize("library", ["scipy", "ducc0", "pyfftw"])
@LEVELS
def test_every_fft_library(level, library):
    fft = pytest.importorskip("bioperf.fft")
    if fft.available_libraries()[library] is not True:
        pytest.skip(f"{library} is not installed")
    fft.set_library(library)
    try:
        A, y = scene((15, 17), np.float32)
        batch = level(A, y)
        assert batch.fft == library
        for k in (0, 2):
            assert_same((batch, (k,)), level(A, y[k], k))
    finally:
        fft.set_library("auto")


# --- a grid of weights is one batch -----------------------------------------------------------


def test_weights_make_a_batch_of_one_image():
    A, y = scene()
    weights = np.geomspace(1e-4, 10, 12).reshape(3, 4)
    grid = solve_lower(A, y[0], weights)
    assert grid.x.shape == (3, 4, *A.shape)
    for index in np.ndindex(3, 4):
        np.testing.assert_array_equal(grid.x[index], solve_lower(A, y[0], weights[index]).x)
    assert grid.iterations[-1, -1] == 0, "the constant image, without iterating"


def test_weights_broadcast_over_images():
    A, y = scene()
    grid = solve_lower(A, y[:2], np.array([[1e-3], [1e-2], [3e-2]]), wavelet_weight=0)
    assert grid.x.shape == (3, 2, *A.shape)
    np.testing.assert_array_equal(grid.x[1, 1], solve_lower(A, y[1], 1e-2).x)


def test_radii_and_slacks_share_the_lower_level_and_the_target():
    A, y = scene()
    calls = []

    def target(image):
        calls.append(image)
        return 0.9 * image

    grid = solve_bio(A, y[:2], target=target, tv_weight=1e-3, epsilon=np.array([[0.1], [0.2], [0.4]]), kappa=[0.0, 0.2])
    assert grid.x.shape == (3, 2, *A.shape) and len(calls) == 2
    assert grid.details["lower"].x.shape == (2, *A.shape)
    alone = solve_bio(A, y[1], target=target, tv_weight=1e-3, epsilon=0.2, kappa=0.2)
    np.testing.assert_array_equal(grid.x[1, 1], alone.x)


@pytest.mark.parametrize("name", ["lower", "ybar", "x0", "target"])
def test_arrays_of_the_data_s_own_batch_serve_the_whole_grid(name):
    A, y = scene()
    given = {"target": "identity", "lower": y[0], name: y[1]}
    grid = solve_bio(A, y[0], tv_weight=1e-3, epsilon=np.array([0.1, 0.3]), max_iter=30, **given)
    for k, epsilon in enumerate((0.1, 0.3)):
        alone = solve_bio(A, y[0], tv_weight=1e-3, epsilon=epsilon, max_iter=30, **given)
        np.testing.assert_array_equal(grid.x[k], alone.x)
    whole = given | {name: np.stack([y[1], y[1]])} if name in ("ybar", "x0", "target") else given
    np.testing.assert_array_equal(
        solve_bio(A, y[0], tv_weight=1e-3, epsilon=np.array([0.1, 0.3]), max_iter=30, **whole).x, grid.x
    )


def test_wavelet_weights_differ_too():
    A, y = scene((16, 16))
    weights = np.array([0.0, 1e-3, 1e-2])
    grid = solve_lower(A, y[0], 1e-3, wavelet_weight=weights)
    for k, weight in enumerate(weights):
        np.testing.assert_array_equal(grid.x[k], solve_lower(A, y[0], 1e-3, wavelet_weight=float(weight)).x)


def test_coils():
    rng = np.random.default_rng(3)
    mask, maps = rng.random((12, 12)) < 0.6, rng.standard_normal((2, 12, 12)) + 1j * rng.standard_normal((2, 12, 12))
    A = MultiCoilFourier(mask, maps / np.sqrt(np.sum(np.abs(maps) ** 2, axis=0)))
    y = A(rng.random((3, 12, 12)) + 0j)
    batch = solve_lower(A, y, [1e-3, 1e-2, 3e-3], max_iter=30)
    np.testing.assert_array_equal(batch.x[1], solve_lower(A, y[1], 1e-2, max_iter=30).x)


# --- layout -----------------------------------------------------------------------------------


def test_the_layout_is_chosen_by_size_and_reported(monkeypatch):
    A, y = scene((20, 22))
    assert "one image a thread, 2 at a time" in solve_lower(A, y, 1e-3, threads=2).details["layout"]
    assert solve_lower(A, y, 1e-3, threads=2).threads == 2
    monkeypatch.setattr(bioperf.slots.layout, "SIDE_BY_SIDE_PIXELS", 20 * 22 - 1)
    large = solve_lower(A, y, 1e-3, threads=2)
    assert "one image after another" in large.details["layout"]
    monkeypatch.undo()
    np.testing.assert_array_equal(large.x, solve_lower(A, y, 1e-3, threads=2).x)


def test_one_image_a_thread_raises_the_first_error_and_starts_no_more():
    begun = []

    def work(k):
        begun.append(k)
        if k == 1:
            raise RuntimeError("item 1")
        return k

    layout = Layout(1000, (4, 4), 2)
    assert layout.workers == 2
    with pytest.raises(RuntimeError, match="item 1"):
        layout.each(work, range(1000))
    assert len(begun) < 1000


@pytest.mark.parametrize("target", ["nlm", "deconv"])
def test_deblur_is_the_same_one_image_a_thread(target):
    A, y = scene((24, 25), np.float32, 3)
    batch = deblur(y, A.psf, target=target, threads=2)
    assert "one image a thread" in batch.details["layout"]
    for k in range(3):
        np.testing.assert_array_equal(batch.x[k], deblur(y[k], A.psf, target=target, threads=1).x)


def test_a_target_of_the_caller_is_called_from_one_thread():
    import threading

    A, y = scene((20, 20), np.float32, 4)
    seen = []

    def target(image):
        seen.append(threading.get_ident())
        return image

    batch = deblur(y, A.psf, target=target, threads=2)
    assert set(seen) == {threading.get_ident()} and "one image after another" in batch.details["layout"]


def test_mri_is_the_same_one_image_a_thread():
    A, y = kspace(True)
    batch = reconstruct_mri(y, A.mask, real=True, threads=2, max_iter=20)
    assert "one image a thread" in batch.details["layout"]
    np.testing.assert_array_equal(batch.x[2], reconstruct_mri(y[2], A.mask, real=True, threads=1, max_iter=20).x)


def test_a_callback_sees_every_item_in_turn():
    A, y = scene()
    seen = []
    solve_lower(A, y, 1e-3, callback=lambda progress: seen.append(progress.iteration))
    assert seen.count(5) == len(y)


# --- errors -----------------------------------------------------------------------------------


def test_an_item_that_diverges_is_named(monkeypatch):
    A, y = scene(dtype=np.float32)
    coefficients, spoilt = A.coefficients, y[3].copy()

    def broken(image, fft):
        found, rest = coefficients(image, fft)
        return found * (np.nan if np.array_equal(image, spoilt) else 1), rest

    monkeypatch.setattr(A, "coefficients", broken)
    with pytest.raises(DivergenceError, match="item 3"):
        solve_lower(A, y, [1e-3, 100.0, 1e-3, 1e-3, 1e-3])  # item 1 needs no iteration


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"tv_weight": np.ones((3, 2))}, r"tv_weight: shape \(3, 2\) does not fit a batch of shape \(5,\)"),
        ({"tv_weight": [1e-3, 1e-3, 0.0, 1e-3, 1e-3]}, "tv_weight: must be finite > 0"),
        ({"tv_weight": [1e-3, np.nan, 1e-3, 1e-3, 1e-3]}, "tv_weight: must be finite > 0"),
        ({"tv_weight": []}, "tv_weight"),
        ({"tv_weight": 1e-3, "epsilon": np.ones(4)}, "epsilon: shape"),
        ({"tv_weight": 1e-3, "kappa": [0, 0, 0, 0, -1]}, "kappa: must be finite >= 0"),
        ({"tv_weight": 1e-3, "epsilon": np.ones((2, 1)), "x0": np.ones((3, 5, 20, 22))}, "x0: expected shape"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    A, y = scene()
    with pytest.raises(ValueError, match=message):
        solve_bio(A, y, target="identity", **arguments)


@pytest.mark.parametrize("value", ["many", None, [1e-3, None, 1e-3, 1e-3, 1e-3], True, 1j])
def test_things_that_are_not_numbers_are_refused(value):
    A, y = scene()
    with pytest.raises(TypeError, match="tv_weight: expected a number"):
        solve_lower(A, y, value)
