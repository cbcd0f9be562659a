"""The CUDA backend: one name per kernel, compiled by numba-cuda at the first call for arrays in device memory.

In Numba's simulator (NUMBA_ENABLE_CUDASIM=1) NumPy arrays and torch's CPU tensors stand for those.
"""

from ._cuda_arrays import DeviceArrays
from ._cuda_balls import (
    ball_thresholds,
    coupled_multipliers,
    data_step,
    field_divergences,
    measure_coefficients,
    reflect_coefficients,
    spectrum_step,
    update_fields,
)
from ._cuda_coils import coil_combine, coil_images, coil_pull, coil_update
from ._cuda_common import SIMULATED
from ._cuda_fields import (
    field_divergence,
    field_divergence_batch,
    field_status,
    field_status_batch,
    field_threshold_batch,
    gradient,
    gradient_adjoint,
    slack_update,
    sum_above,
    update_field,
    update_field_batch,
    update_field_divergence,
    update_field_divergence_batch,
)
from ._cuda_projections import (
    project_box,
    project_l1_ball,
    project_l2_ball,
    project_l21_ball,
    project_nonnegative,
    rank_one_solve,
    soft_threshold,
)
from ._cuda_spectral import (
    lower_kkt,
    lower_kkt_batch,
    lower_spectrum,
    lower_spectrum_batch,
    spectral_divide,
    upper_dual,
    upper_dual_batch,
    upper_spectrum,
    upper_spectrum_batch,
)
from ._cuda_wavelets import (
    clip_coefficients,
    coefficient_status,
    filter_bank_adjoint,
    filter_bank_forward,
    frame_adjoint,
    frame_forward,
    haar_forward,
    haar_inverse,
    update_coefficients,
)

NAME = "cuda"

if not SIMULATED:
    from numba.cuda.cudadrv import nvvm

    if not nvvm.is_available():
        raise ImportError("the compiler of the CUDA kernels, libNVVM, was not found (pip install nvidia-nvvm)")

arrays = DeviceArrays

__all__ = [
    "ball_thresholds",
    "clip_coefficients",
    "coefficient_status",
    "coil_combine",
    "coil_images",
    "coil_pull",
    "coil_update",
    "coupled_multipliers",
    "data_step",
    "field_divergence",
    "field_divergence_batch",
    "field_divergences",
    "field_status",
    "field_status_batch",
    "field_threshold_batch",
    "filter_bank_adjoint",
    "filter_bank_forward",
    "frame_adjoint",
    "frame_forward",
    "gradient",
    "gradient_adjoint",
    "haar_forward",
    "haar_inverse",
    "lower_kkt",
    "lower_kkt_batch",
    "lower_spectrum",
    "lower_spectrum_batch",
    "measure_coefficients",
    "project_box",
    "project_l1_ball",
    "project_l2_ball",
    "project_l21_ball",
    "project_nonnegative",
    "rank_one_solve",
    "reflect_coefficients",
    "slack_update",
    "soft_threshold",
    "spectral_divide",
    "spectrum_step",
    "sum_above",
    "update_coefficients",
    "update_field",
    "update_field_batch",
    "update_field_divergence",
    "update_field_divergence_batch",
    "update_fields",
    "upper_dual",
    "upper_dual_batch",
    "upper_spectrum",
    "upper_spectrum_batch",
]
