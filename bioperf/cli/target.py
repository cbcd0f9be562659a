"""The options ``--target``, ``--weights`` and ``--device`` as a target."""

from ..io.errors import InputError
from .errors import located

__all__ = ["make_target"]


def make_target(name, weights, device):
    """What ``target=`` is given: the name, or a CNN with these weights on that device.  Raises InputError."""
    if name != "cnn":
        for option, wrong in (("--weights", weights is not None), ("--device", device != "cpu")):
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
