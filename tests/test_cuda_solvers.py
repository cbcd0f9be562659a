"""The solvers on device arrays: under Numba's simulator on tiny images, the same tests on a GPU where there is one.

Torch does the transforms in both; what the simulator cannot show is the recording of CUDA graphs.
"""

import numpy as np
import pytest

from bioperf import Blur, MaskedFourier, MultiCoilFourier, deblur, solve_bio, solve_lower
from bioperf.kernels import available_backends

pytest.importorskip("torch", reason="torch is not installed: pip install bioperf[torch]")
if available_backends()["cuda"] is not True:
    pytest.skip(f"no CUDA kernels here: {available_backends()['cuda']}", allow_module_level=True)

TOLERANCE = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12}
WEIGHTS = np.array([1e-3, 4e-2])


def blurred(dtype=np.float64, shape=(6, 5), count=2):
    rng = np.random.default_rng(0)
    A = Blur(np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16, shape)
    return A, (A(rng.random((count, *shape))) + 0.01 * rng.standard_normal((count, *shape))).astype(dtype)


def sampled(real, centred=False):
    rng = np.random.default_rng(1)
    mask = rng.random((6, 5)) < 0.6
    mask[0, 0] = True
    A = MaskedFourier(mask, real=real, centred=centred)
    return A, A(rng.random((2, 6, 5)))


def assert_agree(device, host):
    """The same iterations and, but for rounding, the same numbers."""
    assert device.backend == "cuda" and type(device.x) is type(host.x)
    tolerance = TOLERANCE[host.x.real.dtype]
    assert device.x.dtype == host.x.dtype
    np.testing.assert_allclose(device.x, host.x, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(device.iterations, host.iterations)
    for name in ("objective", "lower_bound"):
        np.testing.assert_allclose(getattr(device, name), getattr(host, name), rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("isotropic", [False, True], ids=["anisotropic", "isotropic"])
def test_lower_level_of_a_blur(dtype, isotropic):
    A, y = blurred(dtype)
    options = {"isotropic": isotropic, "max_iter": 13}
    assert_agree(solve_lower(A, y, WEIGHTS, device="cuda", **options), solve_lower(A, y, WEIGHTS, **options))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_upper_level_of_a_blur(dtype):
    A, y = blurred(dtype)
    options = {"target": "identity", "tv_weight": WEIGHTS, "epsilon": np.array([0.1, 0.3]), "kappa": 0.05}
    options |= {"max_iter": 12, "lower": y}
    assert_agree(solve_bio(A, y, device="cuda", **options), solve_bio(A, y, **options))


@pytest.mark.parametrize("real, centred", [(True, False), (True, True), (False, True)])
def test_kspace(real, centred):
    A, y = sampled(real, centred)
    device, host = (solve_lower(A, y, WEIGHTS, max_iter=10, device=where) for where in ("cuda", None))
    assert_agree(device, host)
    options = {"target": "identity", "tv_weight": 1e-3, "epsilon": 0.2, "max_iter": 10, "lower": host.x}
    assert_agree(solve_bio(A, y, device="cuda", **options), solve_bio(A, y, **options))


def test_an_item_does_not_depend_on_its_neighbours():
    A, y = blurred(count=3)
    together = solve_lower(A, y, 1e-3, max_iter=10, device="cuda")
    for k in range(3):
        alone = solve_lower(A, y[k], 1e-3, max_iter=10, device="cuda")
        np.testing.assert_array_equal(together.x[k], alone.x)
        assert together.lower_bound[k] == alone.lower_bound


def test_idle_items_leave_and_the_others_go_on():
    """A weight beyond the image's range is solved without iterating; small weights need more checks than large ones."""
    A, y = blurred(shape=(4, 4), count=4)
    weights = np.array([5.0, 0.3, 3e-2, 0.2])
    host = solve_lower(A, y, weights, max_iter=45)
    assert len(set(host.iterations.tolist())) > 2
    assert_agree(solve_lower(A, y, weights, max_iter=45, device="cuda"), host)


def test_a_grid_of_radii_shares_one_lower_level():
    A, y = blurred(shape=(4, 3))
    options = {"target": "identity", "tv_weight": 1e-2, "epsilon": np.array([[0.1], [0.2]]), "max_iter": 10}
    device = solve_bio(A, y, device="cuda", **options | {"lower": y})
    assert device.x.shape == (2, 2, *A.shape)
    assert_agree(device, solve_bio(A, y, **options | {"lower": y}))


@pytest.mark.parametrize("target", ["deconv", "nlm", "array", "callable"])
def test_targets(target):
    A, y = blurred()
    target = {"array": 0.5 * y, "callable": lambda image: 0.9 * image}.get(target, target)
    options = {"target": target, "tv_weight": 1e-3, "epsilon": 0.1, "max_iter": 10, "lower": y}
    assert_agree(solve_bio(A, y, device="cuda", **options), solve_bio(A, y, **options))


def test_deblur():
    A, y = blurred(np.float32)
    options = {"target": "deconv", "noise_std": 0.01, "max_iter": 10}
    device, host = (deblur(y[0], A.psf, device=where, **options) for where in ("cuda", None))
    assert device.details["trust"] == pytest.approx(host.details["trust"], abs=1e-3)
    np.testing.assert_allclose(device.x, host.x, atol=2e-3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"method": "apg"}, "method: not available on a GPU"),
        ({"wavelet_weight": 1e-3}, "wavelet_weight: not available on a GPU"),
        ({"callback": print}, "callback: not available on a GPU"),
        ({"device": "tpu"}, "device: expected one of 'cpu', 'cuda'"),
        ({"tv_weight": np.ones(3)}, "tv_weight: shape"),
        ({"x0": np.zeros((3, 6, 5))}, "x0: expected shape"),
    ],
)
def test_what_a_gpu_does_not_solve_is_refused(arguments, message):
    A, y = blurred()
    with pytest.raises(ValueError, match=message):
        solve_lower(A, y, **{"tv_weight": 1e-3, "device": "cuda"} | arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"splitting": "slack"}, "splitting: not available on a GPU"),
        ({"sparsity_weight": 1.0, "transform": "dct"}, "sparsity_weight: not available"),
        ({"ybar": "apg-1e-4"}, "ybar: not available"),
        ({"y": np.full((6, 5), np.nan)}, "y: 30 entries are NaN"),
        ({"y": np.zeros((6, 6))}, r"y: expected shape \(..., 6, 5\)"),
    ],
)
def test_what_a_gpu_does_not_solve_is_refused_at_the_upper_level_too(arguments, message):
    A, y = blurred()
    with pytest.raises(ValueError, match=message):
        solve_bio(A, **{"y": y, "tv_weight": 1e-3, "target": "identity", "device": "cuda"} | arguments)


def test_integers_are_refused():
    A, y = blurred()
    with pytest.raises(TypeError, match="y: expected float32 or float64"):
        solve_lower(A, (100 * y).astype(np.uint8), 1e-3, device="cuda")


def test_coils_are_refused():
    rng = np.random.default_rng(0)
    A = MultiCoilFourier(rng.random((6, 5)) < 0.5, rng.standard_normal((2, 6, 5)) + 0j)
    with pytest.raises(ValueError, match="A: MultiCoilFourier"):
        solve_lower(A, A(rng.random((6, 5)) + 0j), 1e-3, device="cuda")
