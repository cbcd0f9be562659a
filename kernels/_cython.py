"""The compiled CPU backend: one name per kernel, gathered from the extension modules."""

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
from .spectral import lower_kkt, lower_spectrum, spectral_divide, upper_dual, upper_spectrum
from .team import run_tasks
from .tv import (
    field_divergence,
    field_status,
    gradient,
    gradient_adjoint,
    slack_update,
    sum_above,
    update_field,
    update_field_divergence,
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
    "field_divergences",
    "field_status",
    "filter_bank_adjoint",
    "filter_bank_forward",
    "frame_adjoint",
    "frame_forward",
    "gradient",
    "gradient_adjoint",
    "haar_forward",
    "haar_inverse",
    "lower_kkt",
    "lower_spectrum",
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
    "update_field_divergence",
    "update_fields",
    "upper_dual",
    "upper_spectrum",
]
