"""The options ``target``, ``weights`` and ``device`` as a target."""

from ..io import InputError
from .errors import located

__all__ = ["make_target", "require_gpu"]


def make_target(name, weights, device, *, levels_too=False):
    """What ``target=`` is given: the name, or a CNN with these weights on that device.  Raises InputError.

    ``levels_too``: the device is also that of the levels, and of use without a network.
    """
    if name != "cnn":
        for option, wrong in (("--weights", weights is not None), ("--device", device != "cpu" and not levels_too)):
            if wrong:
                raise InputError(f"{option}: is for --target cnn; add that or leave it out")
        return name
    from ..targets import CNN

    try:
        return CNN(weights, device=device)
    except ImportError as error:
        raise InputError(f"--target: {error}") from error
    except InputError:
        raise
    except ValueError as error:
        raise located(error, {"device": "--device"}) from error


def require_gpu():
    """InputError unless the levels can be solved on a GPU."""
    import numpy as np

    from ..slots.device import device_of

    try:
        device_of(np.empty(1), "cuda")
    except ImportError as error:
        raise InputError(f"--device: {error}") from error
