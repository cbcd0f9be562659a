"""The compiled CPU backend: one name per kernel, gathered from the extension modules."""

import os

from .balls import (
    ball_thresholds,
    coupled_multipliers,
    data_step,
    field_divergences,
    measure_coefficients,
    reflect_coefficients,
    spectrum_step,
    update_fields,
)
from .coils import coil_combine, coil_images, coil_pull, coil_update
from .projections import (
    project_box,
    project_l1_ball,
    project_l2_ball,
    project_l21_ball,
    project_nonnegative,
    rank_one_solve,
    soft_threshold,
)
from .spectral import (
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
from .team import end_threads, run_tasks
from .tv import (
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
from .wavelets import (
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

NAME = "cython"

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=end_threads)

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
    "run_tasks",
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
