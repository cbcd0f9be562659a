"""Where an error of the library came from, in the words of the command line."""

from ..io import InputError

__all__ = ["located"]


def located(error, places):
    """The error under the file or option that ``places`` has for its argument's name; others as they are."""
    name, found, text = str(error).partition(":")
    return InputError(f"{places[name]}:{text}") if found and name in places else error
