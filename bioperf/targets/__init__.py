"""The data-driven targets D of the upper level: what makes an image from the observation."""

from .._validation import as_images_like, check_choice
from .base import Target
from .cnn import CNN
from .deconvolution import Deconvolution
from .denoised import Denoised, from_callable, is_module
from .nlm import NonLocalMeans, non_local_means

__all__ = [
    "CNN",
    "NAMES",
    "Deconvolution",
    "Denoised",
    "FromArray",
    "FromCallable",
    "Identity",
    "NonLocalMeans",
    "Target",
    "from_callable",
    "is_module",
    "non_local_means",
    "resolve_target",
]

NAMES = ("nlm", "identity", "deconv", "cnn")


class Identity(Target):
    """D(y) = y, the observation itself; for k-space the zero-filled image."""

    concurrent = True

    def __call__(self, A, y, index, **context):
        return A.data_image(y[index])


class FromArray(Target):
    """Targets made by the caller: an array of the data's shape."""

    concurrent = True

    def __init__(self, array):
        self.array = array

    def __call__(self, A, y, index, **context):
        return self.array[index]


class FromCallable(Target):
    """D = function(observation), one image at a time (zero-filled for k-space); the result is checked."""

    def __init__(self, function):
        self.function = function

    def __call__(self, A, y, index, **context):
        observed = A.data_image(y[index])
        return as_images_like("target(y)", self.function(observed.copy()), observed)


def resolve_target(target, images):
    """The target object for what a user may pass: a name, an array like ``images``, a callable or a target."""
    if isinstance(target, str):
        check_choice("target", target, NAMES)
        return {"nlm": NonLocalMeans, "identity": Identity, "deconv": Deconvolution, "cnn": CNN}[target]()
    if isinstance(target, Target):
        return target
    if is_module(target):
        return from_callable(target)
    if callable(target):
        return FromCallable(target)
    return FromArray(as_images_like("target", target, images))
