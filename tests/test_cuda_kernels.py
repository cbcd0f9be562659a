"""The CUDA kernels against the NumPy oracle; without a GPU in Numba's simulator, on small shapes.

On a GPU, from this folder, with numba-cuda and torch (or CuPy) installed::

    python -m pytest test_cuda_kernels.py test_cuda_ptx.py

and with NVIDIA's checks of memory and of races in shared memory, which take minutes (``sanitizers/cuda.sh``)::

    compute-sanitizer --tool memcheck --error-exitcode 1 python -m pytest -q test_cuda_kernels.py
    compute-sanitizer --tool racecheck --error-exitcode 1 python -m pytest -q test_cuda_kernels.py

After an edit of kernels/_cuda_common.py remove what Numba has kept: ``find ../kernels -name '*.nb[ci]' -delete``.
"""

import subprocess
import sys

import numpy as np
import pytest
import test_batch_kernels as batches
import test_kernels as singles

from bioperf.kernels import available_backends, get_backend

STATE = available_backends()["cuda"]
if STATE is not True:
    pytest.skip(f"cuda: {STATE}", allow_module_level=True)

from on_device import GPU, KINDS, OnDevice, first_kind  # noqa: E402

# Tests of the other backends that need nothing but a backend; they take the fixture ``kernels`` below.
from test_batch_kernels import (  # noqa: E402, F401
    test_thresholds_give_the_radii,
    test_thresholds_of_fields_that_are_not_finite,
)
from test_kernels import (  # noqa: E402, F401
    test_balls_end_on_values_that_are_not_finite,
    test_complex_fields_at_the_threshold_exactly,
    test_complex_zeros,
    test_fields_at_the_threshold_exactly,
    test_frequencies_that_nothing_determines_are_zero,
    test_full_spectrum_of_a_complex_image,
    test_maps_at_the_threshold_exactly,
    test_nan_reaches_the_output,
    test_nan_reaches_the_sums,
    test_same_signatures_on_every_backend,
    test_unsampled_coefficients_stay_out_of_the_sums,
    test_zeros,
)

from bioperf.kernels import _cuda_fields  # noqa: E402

ORACLE = get_backend("reference")
SHAPES = [(1,), (7,), (1, 9), (9, 1), (5, 6), (13, 17), (3, 4, 5)]
# For what takes many launches, which cost more than the elements in the simulator.
FEW_SHAPES = [(7,), (5, 6), (3, 4, 5)]
if GPU:
    SHAPES += [(70001,), (511, 300), (1024, 1024), (40, 50, 60)]
    FEW_SHAPES = SHAPES
REAL = (np.float32, np.float64)
COMPLEX = (np.complex64, np.complex128)
on_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU: the simulator has no streams, graphs or large memory")


def shapes_of(dtype):
    return SHAPES if dtype in (np.float32, np.complex64) else FEW_SHAPES


@pytest.fixture(scope="module")
def kernels():
    return OnDevice(first_kind())


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]()


# --- against the oracle -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("case", singles.CASES)
def test_matches_oracle(kernels, case, dtype):
    for shape in shapes_of(dtype):
        data = singles.problem(shape, dtype)
        singles.assert_close(case(kernels, data, 1), case(ORACLE, data, 1), dtype)


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("case", singles.COMPLEX_CASES)
def test_complex_images_match_oracle(kernels, case, dtype):
    for shape in shapes_of(dtype):
        data = singles.problem(shape, dtype)
        singles.assert_close(case(kernels, data, 1), case(ORACLE, data, 1), dtype)


BATCHES = [
    pytest.param(case, norm, dtype, id="-".join([case.__name__, *label, str(np.dtype(dtype))]))
    for cases, norms, dtypes in (
        (batches.FIELD_CASES, (((True,), ["isotropic"]), ((False,), ["anisotropic"])), REAL + COMPLEX),
        (batches.SPECTRAL_CASES, (((), []),), REAL),
    )
    for case in cases
    for norm, label in norms
    for dtype in dtypes
]


@pytest.mark.parametrize(("case", "norm", "dtype"), BATCHES)
def test_batch_matches_oracle_and_its_items_alone(kernels, case, norm, dtype):
    """No item's bits depend on its neighbours, nor on how many there are."""
    for shape in FEW_SHAPES:
        data = batches.batch(3, shape, dtype)
        found = case.batch(kernels, data, *norm, 1)
        batches.assert_close(found, case.batch(ORACLE, data, *norm, 1), dtype)
        for i in range(3):
            for whole, alone in zip(found, case.one(kernels, data, i, *norm, 1), strict=True):
                if alone is not None:
                    np.testing.assert_array_equal(whole[i], alone)


@pytest.mark.parametrize(("case", "norm", "dtype"), [row for row in BATCHES if GPU or row.values[2] == np.float32])
def test_same_bits_in_every_run(kernels, case, norm, dtype):
    data = batches.batch(2, FEW_SHAPES[-1], dtype)
    first = case.batch(kernels, data, *norm, 1)
    for _ in range(10 if GPU else 1):
        batches.assert_same_bits(case.batch(kernels, data, *norm, 1), first)


# --- update and divergence by pieces ----------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 300, 3000])
@pytest.mark.parametrize("shape", [(7,), (9, 1), (1, 9), (13, 17), (8, 5, 6), (5, 1, 3)], ids=str)
def test_pieces_do_not_change_the_bits(kernels, monkeypatch, shape, chunk):
    """Rows of an item, items and whole batches at a time; 8 rows are a whole number of pieces, 5, 9 and 13 are not."""
    data = batches.batch(3, shape, np.float64)
    for isotropic in (True, False):
        monkeypatch.setattr(_cuda_fields, "CHUNK", 1 << 24)
        whole = batches.UpdateFieldDivergence.batch(kernels, data, isotropic, 1)
        monkeypatch.setattr(_cuda_fields, "CHUNK", chunk)
        batches.assert_same_bits(batches.UpdateFieldDivergence.batch(kernels, data, isotropic, 1), whole)


def test_pieces_cover_every_row_once():
    for shape in ((7,), (5, 6), (64, 10), (67, 3, 4)):
        grid = _cuda_fields.Grid(shape)
        for size in (1, 1 << 20, 1 << 25, 1 << 30):
            rows = np.zeros((5, grid.n0), int)
            for item, items, first, count in _cuda_fields._pieces(5, grid, size):
                rows[item : item + items, first : first + count] += 1
            assert np.all(rows == 1)


# --- thresholds -------------------------------------------------------------------------------


def norm_left(q, theta, isotropic):
    magnitude = np.sqrt(np.sum(np.abs(q) ** 2, axis=0)) if isotropic else np.abs(q)
    return np.maximum(magnitude.astype(np.float64) - theta, 0).sum()


@pytest.mark.parametrize("dtype", REAL + COMPLEX)
@pytest.mark.parametrize("isotropic", [True, False])
def test_thresholds_match_oracle(kernels, isotropic, dtype):
    for seed, shape in enumerate(FEW_SHAPES):
        data, q, sums, radii = batches.updated(kernels, 3, shape, dtype, isotropic, seed % 5)
        expected, found = np.zeros(3), data.trials.copy()
        ORACLE.field_threshold_batch(q, radii, isotropic, expected, sums)
        kernels.field_threshold_batch(q, radii, isotropic, found, sums)
        scale = max(1.0, float(np.abs(q).max()))
        np.testing.assert_allclose(found, expected, rtol=0, atol=20 * singles.tolerance(dtype) * scale)
        alone = data.trials[2:].copy()
        kernels.field_threshold_batch(q[2:], radii[2:], isotropic, alone, sums[2:])
        assert alone[0] == found[2]


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_bound_on_what_the_passes_leave(kernels, monkeypatch, passes):
    """|q - clip(q, theta)| - radius <= 4**-passes (|q| - radius) size / count, from below, for a hard field."""
    magnitudes = 10.0 ** -np.arange(0, 12, 0.05)
    q = np.stack([magnitudes, magnitudes[::-1].copy()])[:, None]
    norms = q.sum(axis=(1, 2))
    radii = np.array([1e-3, 0.2]) * norms
    sums = np.stack([norms, norms, np.full(2, float(magnitudes.size))], axis=1)
    monkeypatch.setattr(_cuda_fields, "PASSES", passes)
    found = np.zeros(2)
    kernels.field_threshold_batch(q, radii, False, found, sums)
    for k in range(2):
        left, count = norm_left(q[k], found[k], False), np.count_nonzero(np.abs(q[k]) > found[k])
        assert left >= radii[k] * (1 - 1e-12)
        assert left - radii[k] <= 4.0**-passes * (norms[k] - radii[k]) * magnitudes.size / count
    assert passes > 1 or norm_left(q[0], found[0], False) > 1.01 * radii[0]


@pytest.mark.parametrize("dtype", REAL if GPU else [np.float32])
@pytest.mark.parametrize("ball", singles.BALLS if GPU else ["l2", "l1", "l21 d=2"])
def test_projections_onto_balls(kernels, ball, dtype):
    singles.test_radius_zero_and_huge(kernels, ball, dtype)
    singles.test_batched_radius_equals_single_projections(kernels, ball, dtype)
    if ball != "l2":
        singles.test_magnitudes_all_equal(kernels, ball, dtype)
        singles.test_scalar_radius_is_one_item(kernels, ball)


@pytest.mark.parametrize("start", [-5.0, 0.0, 0.4, 3.0, 1e200, np.inf])
@pytest.mark.parametrize("ball", ["l1", "l21 d=2"])
def test_projections_start_anywhere(kernels, ball, start):
    shape, project, norm = singles.BALLS[ball]
    v = np.random.default_rng(2).standard_normal((2, *shape)).astype(np.float32)
    radius = np.array([0.3 * norm(v[0]), 2 * norm(v[1])])
    threshold, cold = np.full(2, start), np.zeros(2)
    np.testing.assert_allclose(
        project(kernels, v, radius, threshold=threshold), project(kernels, v, radius, threshold=cold), atol=2e-5
    )
    assert threshold[0] == pytest.approx(cold[0], rel=2e-5) and threshold[1] == 0


# --- the checked entry points -----------------------------------------------------------------


@pytest.mark.parametrize("name", singles.ENTRY_POINTS)
def test_every_kind_of_array(kind, name):
    """What comes in decides what comes out; ``out`` is written and returned, also in place."""
    backend, data = get_backend("cuda"), singles.problem((5, 6), np.float64)
    expected = singles.ENTRY_POINTS[name](ORACLE, data)
    for key in ("x", "q", "r", "denominator"):
        setattr(data, key, kind.to_device(getattr(data, key)))
    call = singles.ENTRY_POINTS[name]
    found = call(backend, data)
    assert kind.holds(found)
    singles.assert_close([kind.to_host(found)], [expected], np.float64)
    out = kind.to_device(np.zeros_like(expected))
    assert call(backend, data, out=out) is out
    np.testing.assert_array_equal(kind.to_host(out), kind.to_host(found))
    if name in singles.ELEMENTWISE:
        source = {"spectral_divide": "r", "project_l21_ball": "q"}.get(name, "x")
        assert call(backend, data, out=getattr(data, source)) is getattr(data, source)
        np.testing.assert_array_equal(kind.to_host(getattr(data, source)), kind.to_host(found))


def test_tensors_of_any_layout():
    torch = pytest.importorskip("torch")
    device = "cuda" if GPU else "cpu"
    if GPU and not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    x = np.random.default_rng(3).standard_normal((6, 10))
    tensor = torch.from_numpy(x).to(device)
    backend = get_backend("cuda")
    np.testing.assert_array_equal(backend.gradient(tensor[::2, 1::2]).cpu(), ORACLE.gradient(x[::2, 1::2]))
    spectrum = torch.fft.fft2(tensor).conj()
    np.testing.assert_allclose(backend.gradient(spectrum).cpu(), ORACLE.gradient(np.fft.fft2(x).conj()), atol=1e-12)
    with pytest.raises(TypeError, match=r"x: expected float32 or float64.*bfloat16"):
        backend.gradient(tensor.to(torch.bfloat16))


REFUSED = [
    (error, word, call, name)
    for name, error, word, call in singles.REFUSED
    # Copies to the device are contiguous and writable.
    if name not in ("out read-only", "out strided", "extended precision")
]


@pytest.mark.parametrize(("error", "word", "call"), [pytest.param(*row[:3], id=row[3]) for row in REFUSED])
def test_refused_by_the_checked_entry_points(kernels, error, word, call):
    with pytest.raises(error, match=word):
        call(kernels)


@pytest.mark.parametrize("value", [[[1.0, 2.0]], 3.0, None], ids=str)
def test_what_is_not_in_device_memory_is_refused(value):
    with pytest.raises(TypeError, match=r"x: expected an array in device memory.*move it there"):
        get_backend("cuda").gradient(value)


@pytest.mark.skipif(GPU, reason="NumPy arrays are device arrays in the simulator alone")
@pytest.mark.parametrize("name", batches.ARGUMENTS)
def test_wrong_arguments_raise(name):
    batches.test_wrong_arguments_raise(get_backend("cuda"), name)
    batches.test_a_batch_of_nothing_raises(get_backend("cuda"), name)
    if "laplacian" in batches.ARGUMENTS[name]:
        batches.test_a_wrong_laplacian_raises(get_backend("cuda"), name)


@pytest.mark.skipif(GPU, reason="NumPy arrays are device arrays in the simulator alone")
@pytest.mark.parametrize("call", singles.REFUSED_FUSED.values(), ids=singles.REFUSED_FUSED)
def test_fused_updates_refuse_what_they_cannot_write(call):
    with pytest.raises(ValueError):
        call(get_backend("cuda"))


@on_gpu
def test_host_arrays_are_refused(kind):
    with pytest.raises(TypeError, match=r"x: expected an array in device memory.*ndarray in host memory"):
        get_backend("cuda").gradient(np.ones((4, 5)))
    with pytest.raises(ValueError, match="out"):
        get_backend("cuda").gradient(kind.to_device(np.ones((4, 5))), out=np.empty((2, 4, 5)))


# --- choice of the backend --------------------------------------------------------------------


def test_auto_takes_cuda_for_device_arrays_alone(kind):
    assert get_backend(like=np.ones(3)).name != "cuda"
    if GPU:
        assert get_backend(like=kind.to_device(np.ones(3))).name == "cuda"


@pytest.mark.parametrize("statement", ["import bioperf", "bioperf.kernels.get_backend(like=np.ones(3))"])
def test_host_arrays_import_no_cuda(statement):
    script = f"import sys, numpy as np, bioperf.kernels; {statement}; assert 'numba.cuda' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.skipif(GPU, reason="says what is missing where no GPU can be used")
def test_what_is_missing_is_said(monkeypatch):
    script = """
from bioperf.kernels import available_backends, get_backend
state = available_backends()["cuda"]
assert ("driver" in state or "GPU" in state) and "pip install 'bioperf[cuda]'" in state, state
try:
    get_backend("cuda")
except ImportError as error:
    assert state in str(error)
else:
    raise AssertionError("cuda was not refused")
"""
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    subprocess.run([sys.executable, "-c", script], check=True)


# --- on a GPU ---------------------------------------------------------------------------------


@on_gpu
def test_launchers_are_captured_in_a_graph():
    """In-place and batch launchers replay: they neither wait nor copy nor allocate outside torch's pool."""
    torch = pytest.importorskip("torch")
    backend, data = get_backend("cuda"), batches.batch(3, (64, 48), np.float32)
    to_device = KINDS["torch"]().to_device
    x, thresholds, radii = (to_device(a) for a in (data.x, data.thresholds, np.full(3, 50.0)))
    scales, trials, sums = to_device(data.dual_scales), to_device(data.trials), to_device(np.zeros((3, 3)))

    def step(q, out, found):
        backend.update_field_batch(x, q, 1.4, thresholds, scales, True, trials, sums)
        found.copy_(trials)
        backend.field_threshold_batch(q, radii, True, found, sums)
        backend.update_field_divergence_batch(x, q, 1.4, thresholds, found, True, out)
        backend.update_field_divergence(x[0], q[0], 1.4, 0.3, 0.2, True, out[0])

    expected = to_device(data.q), torch.empty_like(x), torch.empty_like(trials)
    step(*expected)
    found = to_device(data.q), torch.empty_like(x), torch.empty_like(trials)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(*found)
    found[0].copy_(to_device(data.q))
    graph.replay()
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@on_gpu
def test_the_stream_of_torch_is_used():
    torch = pytest.importorskip("torch")
    backend, stream = get_backend("cuda"), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = torch.zeros(1 << 26, device="cuda")
        for _ in range(20):
            x += 1
        y = backend.soft_threshold(x, 1.0)
        assert float(y.min()) == float(y.max()) == 19.0


@on_gpu
def test_more_than_2_to_31_elements():
    torch = pytest.importorskip("torch")
    size = (1 << 31) + 5
    if torch.cuda.mem_get_info()[0] < 3 * 4 * size:
        pytest.skip("needs 26 GB of free device memory")
    x = torch.ones(size, device="cuda")
    x[-1] = -3
    y = get_backend("cuda").project_nonnegative(x)
    assert float(y[-1]) == 0 and float(y[-2]) == 1 and float(y.sum(dtype=torch.float64)) == size - 1
