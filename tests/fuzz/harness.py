"""What a case is, what it may do, and the targets that the campaign runs through."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["TARGETS", "Case", "Failure", "check", "refusal", "target"]

TARGETS = {}


class Failure(AssertionError):
    """What the package did and must not do."""


@dataclass
class Case:
    """One case: its random numbers, its own empty folder, and words for the report if it fails."""

    rng: np.random.Generator
    folder: Path
    notes: list = field(default_factory=list)

    def note(self, *words):
        self.notes.append(" ".join(map(str, words))[:2000])

    def chance(self, probability):
        return self.rng.random() < probability

    def pick(self, choices):
        return choices[int(self.rng.integers(len(choices)))]

    def write(self, name, content):
        path = self.folder / name
        path.write_bytes(content)
        return path


@dataclass(frozen=True)
class Target:
    name: str
    share: float
    run: object


def target(name, share):
    """Register ``run(case) -> bool`` (whether the input was accepted); ``share`` is its part of the cases."""

    def register(run):
        TARGETS[name] = Target(name, share, run)
        return run

    return register


def check(condition, words):
    if not condition:
        raise Failure(words)


# Of a file that is a few kilobytes long: nothing in it may ask for more than the limit that the reader was given.
_TOO_MUCH = ("does not fit in memory", "cannot be started", "needs more memory")


def refusal(error, path=None, bombs=False):
    """Check an InputError's words: one line of moderate length that begins with the path."""
    text = str(error)
    check("\n" not in text and "\r" not in text, f"more than one line: {text!r}")
    check(path is None or text.startswith(f"{path}: "), f"does not begin with the path: {text!r}")
    check(len(text) < 500 + (0 if path is None else len(str(path))), f"{len(text)} characters: {text[:600]!r}")
    check(bombs or not any(words in text for words in _TOO_MUCH), f"asked for too much memory: {text!r}")
    return False
