"""Data of any scale: the results scale with them, or one error says which argument does not fit and what to do."""

import re

import numpy as np
import pytest

from bioperf import (
    Blur,
    MaskedFourier,
    MultiCoilFourier,
    coils,
    deblur,
    estimate_kspace_noise,
    estimate_noise,
    psnr,
    reconstruct_mri,
    rlne,
    solve_bio,
    solve_lower,
    ssim,
)
from bioperf.kernels import squares_range

SHAPE = (16, 18)
PSF = np.ones((3, 3)) / 9
DTYPES = [np.float32, np.float64]
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_tv = pytest.mark.parametrize("isotropic", [False, True])


def scene(kind, dtype):
    """An operator and its data, of the order of 1."""
    rng = np.random.default_rng(0)
    x = np.zeros(SHAPE)
    x[4:11, 5:14], x[2:7, 2:7] = 1, 0.5
    mask = rng.random(SHAPE) < 0.6
    mask[0, 0] = True
    if kind == "blur":
        A, dtype = Blur(PSF, SHAPE), np.dtype(dtype)
    else:
        A = MaskedFourier(mask) if kind == "fourier" else MultiCoilFourier(mask, coils.simulate_maps(SHAPE, 2))
        dtype = np.result_type(dtype, np.complex64)
    y = A(x)
    return A, (y + 0.02 * rng.standard_normal(y.shape) * (y != 0)).astype(dtype)


def inner_powers(dtype):
    """Powers of two near both ends of what is accepted, and two between."""
    low, high = squares_range(dtype)
    return [2.0 ** int(np.ceil(np.log2(low)) + 6), 2.0**-20, 2.0**20, 2.0 ** int(np.floor(np.log2(high)) - 6)]


def times(a, scale):
    return (a * np.asarray(scale, a.real.dtype)).astype(a.dtype)


def assert_scaled(found, alone, scale):
    """Bit for bit: a power of two leaves every rounding as it is."""
    np.testing.assert_array_equal(found.x, times(alone.x, scale))
    assert (found.iterations, found.converged, found.status) == (alone.iterations, alone.converged, alone.status)
    assert (found.objective, found.lower_bound) == (alone.objective * scale**2, alone.lower_bound * scale**2)
    assert found.kkt_residual == alone.kkt_residual and found.infeasibility == alone.infeasibility
    assert alone.converged and np.isfinite(found.x).all()


# --- kernels ------------------------------------------------------------------------------------------


def kernel_powers(dtype):
    limits = np.finfo(dtype)
    return [
        2.0**e for e in (limits.minexp + 30, limits.minexp // 2 - 3, -30, 30, limits.maxexp // 2, limits.maxexp - 12)
    ]


@every_dtype
def test_kernels_scale_exactly(kernels, dtype):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 2, 8, 8)).astype(dtype)
    radius, start = np.array([3.0, 40.0]), np.array([0.1, 0.0])
    spectrum = (x + 1j * x[::-1]).astype(np.result_type(dtype, np.complex64))
    maps = {
        "l1": lambda x, s: kernels.project_l1_ball(x, radius * s),
        "l1 from a threshold": lambda x, s: kernels.project_l1_ball(x, radius * s, threshold=start * s),
        "l21": lambda x, s: kernels.project_l21_ball(x, radius * s),
        "l2": lambda x, s: kernels.project_l2_ball(x, radius * s),
        "soft": lambda x, s: kernels.soft_threshold(x, 0.3 * s),
        "box": lambda x, s: kernels.project_box(x, -0.2 * s, 0.7 * s),
        "rank one": lambda x, s: kernels.rank_one_solve(x, 2.0, 0.3),
        "gradient": lambda x, s: kernels.gradient(x),
        "adjoint": lambda x, s: kernels.gradient_adjoint(x),
        "haar": lambda x, s: kernels.haar_forward(x, level=3),
        "inverse": lambda x, s: kernels.haar_inverse(x, level=3),
        "division": lambda x, s: kernels.spectral_divide(times(spectrum, s), np.full(x.shape, 3.0)),
    }
    for name, function in maps.items():
        alone = function(x, 1.0)
        for scale in kernel_powers(dtype):
            found = function(times(x, scale), scale)
            # what is smaller than the smallest normal number has lost bits
            atol = 4 * float(np.finfo(dtype).smallest_subnormal) * x.size
            np.testing.assert_allclose(found, times(alone, scale), rtol=1e-6, atol=atol, err_msg=f"{name} at {scale}")


@every_dtype
def test_projections_return_scaled_thresholds(kernels, dtype):
    x = np.random.default_rng(2).standard_normal((2, 2, 9, 7)).astype(dtype)
    for project in (kernels.project_l1_ball, kernels.project_l21_ball):
        expected = np.zeros(())
        project(x, 5.0, threshold=expected)
        for scale in kernel_powers(dtype)[1:]:
            found = np.zeros(())
            project(times(x, scale), 5.0 * scale, threshold=found)
            np.testing.assert_allclose(found / scale, expected, rtol=1e-6)


@every_dtype
def test_projections_of_denormals_stay_in_the_ball(kernels, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = (np.random.default_rng(3).integers(-200, 200, (2, 6, 5)) * tiny).astype(dtype)
    size = float(np.sum(np.abs(x), dtype=np.float64))
    found = kernels.project_l1_ball(x, 0.25 * size)
    assert 0 < float(np.sum(np.abs(found), dtype=np.float64)) <= 0.25 * size + x.size * float(tiny)
    np.testing.assert_array_equal(kernels.project_l2_ball(x, 0.0), 0)
    np.testing.assert_array_equal(kernels.project_l21_ball(x, 1.0), x)


# --- solvers ------------------------------------------------------------------------------------------


@every_dtype
@every_tv
@pytest.mark.parametrize("wavelet_weight", [0.0, 0.005])
@pytest.mark.parametrize("kind", ["blur", "fourier", "coils"])
def test_lower_level_scales(kind, wavelet_weight, isotropic, dtype):
    A, y = scene(kind, dtype)

    def solve(s):
        return solve_lower(A, times(y, s), 0.01 * s, wavelet_weight=wavelet_weight * s, isotropic=isotropic)

    alone = solve(1.0)
    for scale in inner_powers(dtype):
        assert_scaled(solve(scale), alone, scale)


@every_dtype
@pytest.mark.parametrize("kind", ["blur", "fourier", "coils"])
@pytest.mark.parametrize("options", [{}, {"epsilon": 0.1, "kappa": 0.1}, {"sparsity_weight": 0.003, "epsilon": 0.1}])
def test_upper_level_scales(kind, options, dtype):
    A, y = scene(kind, dtype)
    units = {name: value for name, value in options.items() if name != "kappa"}
    rest = {"kappa": options.get("kappa", 0.0), "transform": "dct", "isotropic": True, "target": "identity"}

    def solve(s):
        own = {name: value * s for name, value in units.items()}
        return solve_bio(A, times(y, s), tv_weight=0.01 * s, **own, **rest)

    alone = solve(1.0)
    for scale in inner_powers(dtype):
        assert_scaled(solve(scale), alone, scale)


@every_dtype
def test_slack_splitting_and_apg_scale(dtype):
    A, y = scene("blur", dtype)

    def slack(s):
        return solve_bio(
            A, times(y, s), target="identity", tv_weight=0.01 * s, epsilon=0.1 * s, splitting="slack", max_iter=2000
        )

    def apg(s):
        return solve_lower(A, times(y, s), 0.01 * s, method="apg")

    for solve in (slack, apg):
        alone = solve(1.0)
        for scale in inner_powers(dtype):
            assert_scaled(solve(scale), alone, scale)


@every_dtype
def test_one_calls_scale(dtype):
    """What they choose from the data scales with them; targets round at other places."""
    _, y = scene("blur", dtype)
    M, k = scene("fourier", dtype)
    calls = [
        lambda s: deblur(times(y, s), PSF),
        lambda s: deblur(times(y, s), PSF, target="deconv", boundary="unknown"),
        lambda s: reconstruct_mri(times(k, s), M.mask),
    ]
    for call in calls:
        alone = call(1.0)
        assert alone.converged
        for scale in inner_powers(dtype):
            found = call(scale)
            assert found.converged
            np.testing.assert_allclose(
                found.x / dtype(scale), alone.x, rtol=0, atol=2e-3 if dtype == np.float32 else 1e-9
            )
            for name in ("noise_std", "tv_weight", "epsilon"):
                assert found.details[name] == pytest.approx(alone.details[name] * scale, rel=1e-3)


def test_estimates_and_metrics_scale():
    rng = np.random.default_rng(4)
    x, reference = rng.random((2, 20, 20))
    kspace, mask = rng.standard_normal((20, 20)) * (1 + 1j), np.ones((20, 20), bool)
    for e in (-300, -30, 30, 300):
        assert estimate_noise(x * 2.0**e) == estimate_noise(x) * 2.0**e
        assert estimate_kspace_noise(kspace * 2.0**e, mask) == estimate_kspace_noise(kspace, mask) * 2.0**e
        assert rlne(x * 2.0**e, reference * 2.0**e) == rlne(x, reference)
        scaled = x * 2.0**e, reference * 2.0**e, 2.0**e
        assert psnr(*scaled) == pytest.approx(psnr(x, reference), rel=1e-14)
        assert ssim(*scaled) == pytest.approx(ssim(x, reference), rel=1e-12)


# --- what does not fit is refused ---------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1e15, 1e30])
@pytest.mark.parametrize("kind", ["blur", "fourier", "coils"])
def test_data_beyond_the_squares_are_refused(kind, scale):
    A, y = scene(kind, np.float32)
    with np.errstate(under="ignore"):
        y = times(y, scale)
    message = r"the largest magnitude is \S+; float32 holds the squares of 9e-13 to 2e\+12: rescale .* float64"
    with pytest.raises(ValueError, match="y: " + message):
        solve_lower(A, y, 0.01 * scale)
    with pytest.raises(ValueError, match="y: " + message):
        solve_bio(A, y, target="identity", tv_weight=0.01 * scale)
    with pytest.raises(ValueError, match=message):
        if kind == "blur":
            deblur(y, PSF)
        else:
            reconstruct_mri(y, A.mask, maps=getattr(A, "maps", None))
    double = y.astype(np.result_type(y, np.float64))
    assert solve_lower(A, double, 0.01 * scale).converged


def test_an_item_beyond_the_squares_is_named_and_zero_is_not():
    A, y = scene("blur", np.float32)
    y = np.stack([y, np.zeros_like(y), y])
    assert solve_lower(A, y, 0.01).converged.all()
    y[2] *= np.float32(1e-30)
    with pytest.raises(ValueError, match="y: the largest magnitude of item 2 is"):
        solve_lower(A, y, 0.01)


@pytest.mark.parametrize("value", [1e-300, 1e-30, 1e30, 1e300])
@pytest.mark.parametrize("kind", ["blur", "fourier", "coils"])
def test_weights_that_float32_cannot_weigh_are_refused(kind, value):
    A, y = scene(kind, np.float32)
    bio = {"target": "identity", "tv_weight": 0.01, "transform": "dct"}
    cases = {
        "tv_weight": lambda: solve_lower(A, y, value),
        "wavelet_weight": lambda: solve_lower(A, y, 0.01, wavelet_weight=value),
        "penalty": lambda: solve_lower(A, y, 0.01, penalty=value),
        "eta": lambda: solve_bio(A, y, **bio, eta=value),
        "penalties": lambda: solve_bio(A, y, **bio, penalties=(1.0, value)),
        "sparsity_weight": lambda: solve_bio(A, y, **bio, sparsity_weight=value),
    }
    for name, call in cases.items():
        with pytest.raises(
            ValueError, match=rf"{name}: {re.escape(f'{value:.1e}')} is too (large|small) beside .*; (lower|raise) it"
        ):
            call()
    for name in ("epsilon", "kappa"):
        assert np.isfinite(solve_bio(A, y, **bio, max_iter=50, **{name: value}).x).all()


@pytest.mark.parametrize("value", [1e20, 1e300])
def test_other_arrays_that_float32_cannot_square_are_refused(value):
    A, y = scene("blur", np.float32)
    huge = np.full(SHAPE, value)
    for name in ("x0", "target", "ybar", "lower"):
        with pytest.raises(ValueError, match=f"{name}: the largest magnitude is"):
            solve_bio(A, y, **{"target": "identity", "tv_weight": 0.01} | {name: huge})
    refused = r"y: .* and the operator's norm is .* rescale y and the operator|psf: sums to .* scale it to"
    with pytest.raises(ValueError, match=refused):
        solve_lower(Blur(PSF * value, SHAPE), y, 0.01)
    with pytest.raises(ValueError, match="noise_std"):
        deblur(y, PSF, noise_std=value)
    M, k = scene("coils", np.float32)
    with pytest.raises(ValueError, match="maps: the largest magnitude"):
        reconstruct_mri(k, M.mask, maps=M.maps * value)
    for call in (lambda: psnr(y, y, value * value), lambda: rlne(y, np.full(SHAPE, 1e200))):
        if value > 1e200:
            with pytest.raises(ValueError, match=r"data_range|reference"):
                call()


def test_tiny_arrays_beside_data_of_order_one_do_no_harm():
    A, y = scene("blur", np.float32)
    tiny = np.full(SHAPE, 1e-42, np.float32)
    solution = solve_bio(A, y, target=tiny, x0=tiny, tv_weight=0.01, epsilon=0.1)
    assert solution.converged and np.isfinite(solution.x).all()


# --- extreme images -----------------------------------------------------------------------------------


@every_dtype
@every_tv
@pytest.mark.parametrize("level", [0.0, 0.7, -3.0, 1e5])
def test_constant_images(level, isotropic, dtype):
    A, y = Blur(PSF, SHAPE), np.full(SHAPE, level, dtype)
    eps = float(np.finfo(dtype).eps) * abs(level)
    found = [solve_lower(A, y, 0.01, isotropic=isotropic, method=method) for method in ("admm", "apg")]
    found += [solve_bio(A, y, target=target, tv_weight=0.01, epsilon=0.1) for target in ("nlm", "deconv")]
    found += [deblur(y, PSF, boundary=boundary, isotropic=isotropic) for boundary in ("periodic", "unknown")]
    for solution in found:
        assert solution.converged
        np.testing.assert_allclose(solution.x, level, rtol=0, atol=200 * eps)


@every_dtype
@pytest.mark.parametrize("shape", [(1,), (2,), (1, 1), (1, 2), (7, 1), (1, 7), (1, 1, 1), (1, 1, 5)])
def test_images_of_a_few_pixels(shape, dtype):
    A = Blur(np.ones((1,) * len(shape)), shape)
    y = np.random.default_rng(5).random(shape).astype(dtype)
    lower = solve_lower(A, y, 0.01, tol=1e-6)
    # TV's subgradients sum to 0: the mean is the data's
    assert lower.converged and float(lower.x.mean()) == pytest.approx(float(y.mean()), rel=1e-5)
    assert lower.lower_bound <= lower.objective * (1 + 1e-5) + 1e-9
    upper = solve_bio(A, y, target="identity", tv_weight=0.01, epsilon=0.01)
    assert upper.converged and np.linalg.norm(upper.x - lower.x) <= 0.01 + 1e-3 * np.linalg.norm(y)
    restored = deblur(y, A.psf, noise_std=0.01, target="identity", boundary="unknown")
    assert restored.converged and restored.x.shape == shape


@every_dtype
@every_tv
def test_mixed_denormals_are_zeros(isotropic, dtype):
    A, y = scene("blur", dtype)
    limits = np.finfo(dtype)
    y[::2] = 0
    spoilt = y.copy()
    spoilt[::2] = 3 * limits.smallest_subnormal
    spoilt[::4, ::3] = -limits.tiny / 2
    for solve in (
        lambda y: solve_lower(A, y, 0.01, isotropic=isotropic),
        lambda y: solve_bio(A, y, target="identity", tv_weight=0.01, epsilon=0.1, isotropic=isotropic),
    ):
        found, expected = solve(spoilt), solve(y)
        assert found.converged
        np.testing.assert_allclose(found.x, expected.x, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)


@every_dtype
@pytest.mark.parametrize("value", [1e6, -1e10])
def test_one_huge_outlier(value, dtype):
    """Certified, or said not to be; the bound holds either way up to the rounding of the outlier."""
    A, y = scene("blur", dtype)
    y[5, 5] = value
    lower = solve_lower(A, y, 0.01)
    upper = solve_bio(A, y, target="identity", tv_weight=0.01, lower=lower, epsilon=0.1)
    rounding = 100 * np.finfo(dtype).eps * value**2
    for solution in (lower, upper):
        assert np.isfinite(solution.x).all()
        assert solution.lower_bound <= solution.objective + 1e-3 * abs(solution.objective) + rounding
        assert solution.converged == solution.status.startswith("converged")
