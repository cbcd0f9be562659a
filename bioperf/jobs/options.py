"""The values of a job's options from text (a command line, CSV) or JSON: ``parse(value) -> value`` or ValueError."""

import operator

__all__ = ["boolean", "choice", "choices", "integer", "number", "text"]

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def number(value):
    """A float, NaN and infinity included: what may be one is for the library to say."""
    if not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    raise ValueError(f"expected a number, got {value!r}")


def integer(value):
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, bool):
        try:
            return int(value) if isinstance(value, str) else operator.index(value)
        except (TypeError, ValueError):
            pass
    raise ValueError(f"expected an integer, got {value!r}")


def at_least(minimum):
    """A converter of integers from there on."""

    def parse(value):
        parsed = integer(value)
        if parsed < minimum:
            raise ValueError(f"expected an integer >= {minimum}, got {value!r}")
        return parsed

    return parse


def boolean(value):
    found = value if isinstance(value, bool) else _WORDS.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"expected true or false, got {value!r}")
    return found


def text(value):
    """A str; of a number its decimal digits, as a cell of a table may have become one."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"expected a text, got {value!r}")
    return str(value)


def choice(*names):
    """A converter of one word among the names."""

    def parse(value):
        word = str(value).strip()
        if word not in names:
            raise ValueError(f"expected {_listed(names)}, got {value!r}")
        return word

    return parse


def choices(*names):
    """A converter of a list of words among the names, or of one text with commas between them."""
    parse_one = choice(*names)

    def parse(value):
        words = value if isinstance(value, list | tuple) else str(value).split(",")
        return [parse_one(word) for word in words] or parse_one("")

    return parse


def _listed(names):
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
