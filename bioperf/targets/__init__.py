"""The data-driven targets D of the upper level: what makes an image from the observation."""

from .._validation import as_images_like, check_choice
from .base import Target
from .deconvolution import Deconvolution
from .nlm import NonLocalMeans

__all__ = [
    "NAMES",
    "Deconvolution",
    "FromArray",
    "FromCallable",
    "Identity",
    "NonLocalMeans",
    "Target",
    "resolve_target",
]

NAMES = ("nlm", "identity", "deconv")


class Identity(Target):
    """D(y) = y, the observation itself."""

    def __call__(self, A, y, index, **context):
        return y[index]


class FromArray(Target):
    """Targets made by the caller: an array of the data's shape."""

    def __init__(self, array):
        self.array = array

    def __call__(self, A, y, index, **context):
        return self.array[index]


class FromCallable(Target):
    """D(y) = function(y), one image at a time; the result is checked."""

    def __init__(self, function):
        self.function = function

    def __call__(self, A, y, index, **context):
        return as_images_like("target(y)", self.function(y[index].copy()), y[index])


def resolve_target(target, y):
    """The target object for what a user may pass: a name, an array, a callable image -> image or a target."""
    if isinstance(target, str):
        check_choice("target", target, NAMES)
        return {"nlm": NonLocalMeans, "identity": Identity, "deconv": Deconvolution}[target]()
    if isinstance(target, Target):
        return target
    if callable(target):
        return FromCallable(target)
    return FromArray(as_images_like("target", target, y))
