"""The tables and tools of the benchmark scripts; nothing is asserted of a time."""

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from bioperf.kernels import get_backend

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not part of this copy", allow_module_level=True)
sys.path.append(str(ROOT))

from benchmarks import cases, peers, timing, traffic  # noqa: E402
from benchmarks.rivals import yardstick  # noqa: E402


@pytest.fixture
def arrays():
    return traffic.Arrays((32, 48), np.float64)


def names_of(kernel):
    """The arrays among a kernel's arguments."""
    arguments = (*kernel.arguments, *kernel.options.values())
    special = (traffic.LAPLACIAN, traffic.COPIES, traffic.FILTERS)
    return {a for a in arguments if isinstance(a, str) and a not in special}


def test_every_kernel_of_the_facade_is_counted():
    counted = [kernel.name for kernel in traffic.KERNELS]
    assert len(set(counted)) == len(counted)
    assert traffic.facade(get_backend("reference")) == {*counted, *traffic.UNCOUNTED}


@pytest.mark.parametrize("kernel", traffic.KERNELS, ids=lambda kernel: kernel.name)
def test_traffic_is_what_the_formula_reads_and_writes(kernel, arrays):
    named = {*kernel.reads, *kernel.writes}
    assert names_of(kernel) <= named

    def outputs(changed=None):
        fresh = traffic.Arrays((32, 48), np.float64)
        for name in named:
            if name == changed:
                # magnitudes and denominators stay positive, a mask changes where it is sampled
                fresh[name][...] = 1 - fresh[name] if name[0] == "m" else 0.8 * fresh[name]
        before = {name: fresh[name].copy() for name in named}
        result = kernel.bound(get_backend("reference"), fresh, 1)()
        numbers = result if isinstance(result, float | tuple) else ()
        written = {name for name in named if not np.array_equal(fresh[name], before[name])}
        return written, [*(fresh[name] for name in kernel.writes), np.array(numbers, float)]

    written, expected = outputs()
    assert written == set(kernel.writes)
    for name in kernel.reads:
        sums = name not in kernel.writes and not kernel.writes
        found = outputs(name)[1]
        different = any(not np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
        # kernels of a batch return their sums in an array of the caller's
        assert different or (sums and kernel.name.endswith(("_batch", "thresholds")))


def test_bytes_by_hand(arrays):
    table = {kernel.name: kernel for kernel in traffic.KERNELS}
    n, half = 32 * 48, 32 * 25
    assert table["update_field_divergence"].bytes(arrays) == 8 * (n + 2 * n + 2 * n + n)
    assert table["lower_spectrum"].bytes(arrays) == 16 * 4 * half
    assert table["upper_spectrum"].bytes(arrays) == 16 * 7 * half
    assert table["lower_spectrum_batch"].bytes(arrays) == 16 * half * (3 * traffic.ITEMS + 1)
    assert table["coil_images"].bytes(arrays) == 16 * n * (1 + 2 * traffic.COILS)
    assert table["gradient"].operations(arrays) == 2 * n


def test_calls_of_an_iteration_leave_the_kernels_as_they_were():
    from benchmarks import roofline

    kernels = get_backend()
    before = dict(vars(kernels))
    lower = roofline.calls_of_an_iteration(roofline.Solve("lower", 32, np.float32, 1), kernels)
    upper = roofline.calls_of_an_iteration(roofline.Solve("upper", 32, np.float32, 1), kernels)
    for calls in (lower, upper):
        assert 1 <= calls["forward"] < 1.5 and calls["inverse"] == 1
        assert set(calls) - {"forward", "inverse"} <= {kernel.name for kernel in traffic.KERNELS}
    assert lower["lower_spectrum"] == upper["upper_spectrum"] == 1
    assert vars(kernels) == before


@pytest.mark.parametrize("needed", [1, 2, 3, 17, 64])
def test_fewest_finds_the_smallest_count(needed):
    assert timing.fewest(lambda count: 1 / count, 1 / needed, 100) == (needed, 1 / needed)
    assert timing.fewest(lambda count: 1 / count, 1 / needed, 100, step=5)[0] == 5 * -(-needed // 5)


def test_fewest_returns_the_best_where_the_gap_is_out_of_reach():
    tried = []

    def gap(count):
        tried.append(count)
        return 1.0 + abs(count - 8)

    assert timing.fewest(gap, 0.5, 40) == (8, 1.0)
    assert max(tried) <= 40


@pytest.mark.parametrize("tv", cases.KINDS)
def test_total_variation_by_loops(tv):
    x = np.random.default_rng(0).standard_normal((4, 5)) + 1j * np.random.default_rng(1).standard_normal((4, 5))
    total = 0.0
    for i in range(4):
        for j in range(5):
            down = abs(x[(i + 1) % 4, j] - x[i, j]) if i < 3 or "Neumann" not in tv else 0.0
            right = abs(x[i, (j + 1) % 5] - x[i, j]) if j < 4 or "Neumann" not in tv else 0.0
            total += np.hypot(down, right) if tv == "isotropic" else down + right
    assert cases.total_variation(x, tv) == pytest.approx(total, rel=1e-12)


class Small(cases.Deblurring):
    """A small deblurring problem."""

    def __init__(self, tv="isotropic"):
        from benchmarks.common import blurred, gaussian_psf, image
        from bioperf import Blur

        self.psf = gaussian_psf(5)
        truth = image(32)
        A = Blur(self.psf, truth.shape)
        self.transfer = A.transfer(np.float64)
        cases.Case.__init__(self, A, blurred(truth, self.psf), 2e-3, tv=tv, truth=truth)


def test_optimum_without_differences_across_the_edges():
    # the optimum's subgradient inequality, against images near it and against the periodic optimum
    case, periodic = Small("anisotropic, Neumann"), Small("anisotropic")
    assert case.optimum < periodic.optimum
    x = cases._neumann(case)
    rng = np.random.default_rng(0)
    for size in (1e-1, 1e-2, 1e-3):
        assert case.gap(x + size * rng.standard_normal(x.shape)) > 0
        assert case.gap(x + size) > 0
    assert case.gap(cases._neumann(case, penalty=0.1, iterations=3000)) == pytest.approx(0, abs=1e-6)


def test_a_package_in_its_own_process(tmp_path):
    case = Small()
    rival = timing.Rival("yardstick", sys.executable, 1, tmp_path)
    assert rival.missing is None and rival.version.startswith(np.__version__)
    assert rival.problems == ["deblurring", "mri"]
    assert rival.prepare(case) == yardstick.METHODS["deblurring"]
    x = rival.run(40)
    np.testing.assert_array_equal(
        x, yardstick.deblur_admm(case.y.astype(np.float32), case.transfer, case.weight, 40, yardstick.PENALTY, 1)
    )
    assert 0 < case.gap(rival.run(300)) < 1e-4 < case.gap(x)
    assert rival.seconds(1) > 0
    with pytest.raises(RuntimeError, match="yardstick: TypeError"):
        rival.run("many")
    rival.close()


def test_a_package_that_is_missing(tmp_path):
    if importlib.util.find_spec("prox_tv"):
        pytest.skip("prox-tv is installed")
    options = argparse.Namespace(threads=1, only_problems=["deblurring"])
    (row,) = peers.rows_of("prox_tv", sys.executable, None, tmp_path, options)
    assert row == {"package": "prox_tv", "none": f"not installed: {peers.RIVALS['prox_tv']}"}
    assert peers.cells(row)[2] == row["none"]
    assert len(peers.cells(row)) == len(peers.HEADER)
