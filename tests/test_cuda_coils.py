"""The CUDA multi-coil kernels against the NumPy oracle; without a GPU in Numba's simulator, on small shapes."""

import numpy as np
import pytest
import test_kernels as singles

from bioperf.kernels import available_backends

STATE = available_backends()["cuda"]
if STATE is not True:
    pytest.skip(f"cuda: {STATE}", allow_module_level=True)

from on_device import GPU, KINDS, OnDevice, first_kind  # noqa: E402

ORACLE = singles.ORACLE
SHAPES = [(1,), (7,), (1, 9), (9, 1), (5, 6), (3, 4, 5)]
if GPU:
    SHAPES += [(70001,), (511, 300), (40, 50, 60)]
CASES = [singles.coil_images, singles.coil_combine, singles.coil_update, singles.coil_pull]
every_dtype = pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)


@pytest.fixture(scope="module")
def kernels():
    return OnDevice(first_kind())


@every_dtype
@every_case
def test_matches_oracle(kernels, case, dtype):
    for shape in SHAPES:
        data = singles.problem(shape, dtype)
        singles.assert_close(case(kernels, data, 1), case(ORACLE, data, 1), dtype)


@every_dtype
def test_one_coil(kernels, dtype):
    data = singles.problem((5, 6), dtype)
    for name in ("images", "maps", "coil_spectra", "coil_field", "coil_data"):
        setattr(data, name, getattr(data, name)[:1].copy())
    for case in CASES:
        singles.assert_close(case(kernels, data, 1), case(ORACLE, data, 1), dtype)


@every_dtype
def test_only_sampled_coefficients_are_summed(kernels, dtype):
    data = singles.problem((5, 6), dtype)
    spectra, field = np.where(data.mask == 0, np.nan, data.coil_spectra).astype(dtype), data.coil_field.copy()
    sums = kernels.coil_update(spectra, field, data.mask, data.coil_data, 0.8, 1.4, 0.3)
    assert isinstance(sums, tuple) and all(isinstance(value, float) for value in sums)
    singles.assert_close([sums], [singles.coil_update(ORACLE, data, 1)[1]], dtype)
    assert np.isnan(field[:, data.mask == 0]).all()


@pytest.mark.parametrize("kind", list(KINDS)[1:])
@every_case
def test_every_kind_of_array(kind, case):
    data = singles.problem((5, 6), np.complex64)
    singles.assert_close(case(OnDevice(KINDS[kind]()), data, 1), case(ORACLE, data, 1), np.complex64)


def test_masks_of_nothing_and_of_everything(kernels):
    data = singles.problem((5, 6), np.complex64)
    for value in (0, 1):
        data.mask = np.full_like(data.mask, value)
        data.coil_data = data.coil_data * value
        for case in CASES:
            singles.assert_close(case(kernels, data, 1), case(ORACLE, data, 1), np.complex64)


@pytest.mark.parametrize(
    "call",
    [
        lambda k, a: k.coil_images(a.x, a.maps[:2].copy(), np.empty_like(a.maps)),
        lambda k, a: k.coil_images(a.x, a.maps.astype("c8"), np.empty_like(a.maps)),
        lambda k, a: k.coil_combine(a.images[:2].copy(), a.maps, np.empty_like(a.x)),
        lambda k, a: k.coil_pull(a.coil_field, a.mask.astype("f4"), a.coil_data, 1.0, np.empty_like(a.coil_field)),
        lambda k, a: k.coil_pull(a.coil_field, a.mask, a.coil_data, 1.0, np.empty_like(a.coil_field[:2])),
        lambda k, a: k.coil_images(a.x[:1].copy(), a.maps[..., :4].copy(), np.empty_like(a.maps)),
    ],
    ids=["coils", "precision", "images", "mask", "out", "pixels"],
)
def test_arrays_that_do_not_fit_are_refused(kernels, call):
    with pytest.raises((ValueError, TypeError)):
        call(kernels, singles.problem((5, 6), np.complex128))
