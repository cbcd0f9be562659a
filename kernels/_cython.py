"""The compiled CPU backend: one name per kernel, gathered from the extension modules."""

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

NAME = "cython"

__all__ = [
    "field_divergence",
    "field_status",
    "gradient",
    "gradient_adjoint",
    "lower_kkt",
    "lower_spectrum",
    "project_box",
    "project_l1_ball",
    "project_l2_ball",
    "project_l21_ball",
    "project_nonnegative",
    "rank_one_solve",
    "run_tasks",
    "slack_update",
    "soft_threshold",
    "spectral_divide",
    "sum_above",
    "update_field",
    "update_field_divergence",
    "upper_dual",
    "upper_spectrum",
]
