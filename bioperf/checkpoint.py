"""The state of a solve in a file, from which it goes on after an interruption.

``solve_lower`` and ``solve_bio`` write such files (``checkpoint=``); ``save_state`` and ``load_state`` are for other
iterations, and to look into one: ``load_state("run.npz")["upper"]["x"]`` is the image so far.

Format, version 1: an NPZ archive, uncompressed, without pickled objects, with the members

- ``NAME.npy`` for each array of the state; NAME is its place, keys joined by dots ("upper.q"),
- ``document.npy``: the UTF-8 bytes of a JSON object with "format": "bioperf state", "version": 1, "state": all that is
  not an array, nested as the state is, and "arrays": the SHA-256 of each array's dtype, shape and bytes by its name,
- ``sha256.npy``: the SHA-256 of the document, 32 bytes.

The state that a solver writes has "fingerprint" (what the solve depends on; arrays by their SHA-256), "stage" ("lower",
"target", "upper" or "solved"), for each level begun ("lower", "upper") the fields of the iteration or, of a level
solved, its "solution", and "target", the image D, if it was made from the data.
"""

import hashlib
import json
import math
import numbers
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from . import __version__
from ._validation import check_count, shown
from .fft import plan_fft
from .io.errors import InputError
from .io.npz import Archive
from .io.whole import check_writable, write_whole
from .kernels import get_backend
from .operators import Blur, MaskedFourier, MultiCoilFourier
from .progress import without_stop
from .solution import Solution

__all__ = ["load_state", "save_state"]

_FORMAT, _VERSION = "bioperf state", 1
_OWN_MEMBERS = ("document", "sha256")
_LONGEST_DOCUMENT = 1 << 24
# What makes an operator what it is, beside its shape
_OPERATORS = {
    Blur: ("psf",),
    MaskedFourier: ("mask", "real", "centred"),
    MultiCoilFourier: ("mask", "maps", "centred"),
}
_ANEW = "choose another path, or delete the file to solve anew"


def save_state(path, state):
    """Write a state, whole or not at all.

    Parameters
    ----------
    path : str or Path
        An existing file is replaced.
    state : dict
        Of str -> NumPy array of booleans or numbers (any shape and dtype), bool, int, float, str, None, lists of
        these five, or dict of the same kind.  Keys are without dots and slashes.

    Raises
    ------
    TypeError, ValueError
        For a state that is none of the above, naming the place.
    OutputError
        If the path cannot be written; its old content is then still there.
    """
    if not isinstance(state, dict):
        raise TypeError(f"state: expected a dict, got {type(state).__name__}")
    arrays = {}
    values = _values(state, "state", (), arrays)
    digests = {name: _digest(array) for name, array in arrays.items()}
    document = {"format": _FORMAT, "version": _VERSION, "state": values, "arrays": digests}
    document = json.dumps(document).encode()
    if len(document) > _LONGEST_DOCUMENT:
        raise ValueError(f"state: {len(document)} bytes of numbers and strings are too many; put them into arrays")
    arrays["document"] = np.frombuffer(document, np.uint8)
    arrays["sha256"] = np.frombuffer(hashlib.sha256(document).digest(), np.uint8)

    def write(temporary):
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    write_whole(path, write)


def load_state(path):
    """The state that ``save_state`` wrote, arrays and values alike (tuples as lists), after a check of its hashes.

    Nothing is unpickled, and never more memory asked for than the file is long.

    Raises
    ------
    InputError
        (a ValueError) If the file is missing, damaged, of another version of the format or none of this package.
    """
    # Before it is opened: a pipe would wait for a writer
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file; check the path")
    try:
        with zipfile.ZipFile(path) as file:
            return _read(Archive(path, file))
    except _OtherVersion as error:
        raise InputError(f"{path}: {error}; read it with the release that wrote it, {_ANEW}") from None
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); change its permissions") from None
    except MemoryError:
        raise InputError(f"{path}: does not fit in memory; use a machine with more, or {_ANEW}") from None
    except Exception as error:  # of whatever kind zipfile, json or the header's parser raises
        reason = " ".join(str(error).removeprefix(f"{path}: ").split(";")[0].split())[:100] or type(error).__name__
        raise InputError(f"{path}: is damaged or no state of bioperf ({reason}); {_ANEW}") from error


class _OtherVersion(Exception):
    pass


def _values(value, what, place, arrays):
    """What of a state is not an array; the arrays go into ``arrays`` by their names."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{what}: expected names as keys, got {key!r}")
            if not key.isprintable() or not key or set(key) & set("./\\") or (not place and key in _OWN_MEMBERS):
                raise ValueError(
                    f"{what}: the key {key!r} is not possible; choose another, printable, without dots and slashes"
                )
        found = {key: _values(part, f"{what}[{key!r}]", (*place, key), arrays) for key, part in value.items()}
        return {key: part for key, part in found.items() if not isinstance(value[key], np.ndarray)}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":
            raise TypeError(f"{what}: expected an array of numbers, got dtype {value.dtype}")
        arrays[".".join(place)] = np.asarray(value, value.dtype.newbyteorder("<"), order="C")
        return None
    return _plain(value, what)


def _plain(value, what):
    """A value as JSON has it."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(part, what) for part in value]
    raise TypeError(f"{what}: expected an array, a number, a string, a list or a dict, got {type(value).__name__}")


def _digest(array):
    """SHA-256 of an array's dtype, shape and bytes, little-endian and in C order."""
    array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    found = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    found.update(array.reshape(-1).view(np.uint8))
    return found.hexdigest()


def _read(archive):
    members = {info.filename: info for info in archive.file.infolist()}
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise ValueError("compressed members")
    if sum(info.file_size for info in members.values()) > Path(archive.path).stat().st_size:
        raise ValueError("members longer than the file")

    def read(name, longest=math.inf):
        limit = min(longest, members[f"{name}.npy"].file_size)

        def check(shape, dtype):
            if dtype.kind not in "biufc" or math.prod(shape) * dtype.itemsize > limit:
                raise ValueError(f"'{name}' is not what its header says")

        return archive.read(name, check)

    document = read("document", _LONGEST_DOCUMENT).tobytes()
    if hashlib.sha256(document).digest() != read("sha256", 32).tobytes():
        raise ValueError("its document does not have the hash it should have")
    document = json.loads(document)
    if document["format"] != _FORMAT:
        raise ValueError("another format")
    if document["version"] != _VERSION:
        raise _OtherVersion(f"is a state of format {document['version']!r}, and this bioperf reads {_VERSION}")
    state = document["state"]
    for name, digest in document["arrays"].items():
        array = read(name)
        if _digest(array) != digest:
            raise ValueError(f"'{name}' does not have the hash it should have")
        array = np.asarray(array, order="C")
        *place, key = name.split(".")
        parent = state
        for part in place:
            parent = parent.setdefault(part, {})
        parent[key] = array
    if not isinstance(state, dict):
        raise ValueError("no state in it")
    return state


class Checkpoint:
    """The file of one solve.

    Parameters
    ----------
    path : str or Path
    every : int
        Iterations between two states, at least.
    fingerprint : dict
        What the solve depends on.
    shape, dtype
        Of its images.

    Attributes
    ----------
    state : dict
        What the file holds, or will.

    Raises
    ------
    InputError
        If the file is there and is not of this problem.
    OutputError
        If no file can be written there.
    """

    def __init__(self, path, every, fingerprint, shape, dtype):
        self.path, self.every, self.shape, self.dtype = path, every, shape, dtype
        if not Path(path).is_file():
            check_writable(path)
            self.state = {"fingerprint": fingerprint}
            return
        self.state = load_state(path)
        kept = self.state.get("fingerprint")
        if not isinstance(kept, dict) or not isinstance(self.state.get("stage"), str):
            raise InputError(f"{path}: is not the state of a solve; {_ANEW}")
        differing = [_difference(name, kept, fingerprint) for name in sorted(fingerprint | kept)]
        differing = ", ".join(words for words in differing if words)
        if differing:
            raise InputError(
                f"{path}: is the state of another problem, by {differing[:300]}; pass what it was begun with, {_ANEW}"
            )
        if self.state.get("stage") != "solved":
            check_writable(path)

    def save(self, stage, **parts):
        """Write the state with these parts new."""
        self.state |= {"stage": stage, **parts}
        save_state(self.path, self.state)

    @property
    def target(self):
        """The image D made before, or None."""
        found = self.state.get("target")
        if found is None or (
            isinstance(found, np.ndarray) and found.shape == self.shape and found.dtype.kind == self.dtype.kind
        ):
            return found
        raise InputError(f"{self.path}: is not a state of this solver (its target is no image); {_ANEW}")


def _difference(name, kept, fingerprint):
    """In what a fingerprint differs, in words, or None."""
    there, here = kept.get(name), fingerprint.get(name)
    if not isinstance(there, np.ndarray) and there == here:
        return None
    words = f"{name} ({there!r} there, {here!r} here)"
    return words if len(words) < 80 else name


class Level:
    """One level of a checkpoint, "lower" or "upper": what its iteration restores and keeps.

    ``following`` is the stage of the solve when the level is solved.
    """

    def __init__(self, checkpoint, name, following="solved"):
        self.checkpoint, self.name, self.following = checkpoint, name, following
        self.last = 0

    @property
    def _state(self):
        found = self.checkpoint.state.get(self.name, {})
        return found if isinstance(found, dict) else {}

    @property
    def begun(self):
        """Whether there is an iteration to restore."""
        return "iteration" in self._state

    @property
    def solution(self):
        """The level's Solution if it was solved before, or None."""
        if "solution" not in self._state:
            return None
        with self.restoring() as kept:
            values = dict(kept["solution"])
            shape, dtype = self.checkpoint.shape, self.checkpoint.dtype
            if values["x"].shape != shape or values["x"].dtype != dtype:
                raise ValueError(f"x is no image of shape {shape} and dtype {dtype}")
            values["details"] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in values["details"].items()
            }
            return Solution(**values)

    @contextmanager
    def restoring(self):
        """The ``Kept`` state; what is missing in it or does not fit becomes one InputError."""
        try:
            yield Kept(self._state)
        except InputError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
            raise InputError(f"{self.checkpoint.path}: is not a state of this solver ({reason}); {_ANEW}") from error

    def resume(self, record):
        """The iteration to go on from, with its history in the record."""
        with self.restoring() as kept:
            self.last = record.resume(kept["history"])
            if not 0 < self.last < record.max_iter or self.last != kept["iteration"]:
                raise ValueError(f"iteration {kept['iteration']} of {record.max_iter}")
        return self.last

    def due(self, done, stopped, ended):
        """Whether the state is to be kept at this check; one that ended the level is not."""
        return not ended and (stopped or done - self.last >= self.checkpoint.every)

    def keep(self, record, **fields):
        """Write the state of an iteration: the fields and the record's history."""
        self.last = record.rows[-1]["iteration"]
        fields |= {"iteration": self.last, "history": record.history()}
        self.checkpoint.save(self.name, **{self.name: fields})

    def finish(self, solution, max_iter):
        """Write the level's result, unless the callback stopped it."""
        if "solution" in self._state or not (solution.converged or solution.iterations >= max_iter):
            return
        values = vars(solution) | {"status": without_stop(solution.status, max_iter)}
        self.checkpoint.save(self.following, **{self.name: {"solution": values}})


class Kept:
    """The fields that an iteration kept."""

    def __init__(self, fields):
        self._fields = fields

    def __getitem__(self, name):
        return self._fields[name]

    def number(self, name):
        value = self._fields[name]
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}")
        if (name.endswith("penalty") and value <= 0) or (name.endswith("theta") and value < 0):
            raise ValueError(f"{name} is {value!r}")
        return value

    def fill(self, **arrays):
        """Kept arrays into these; they are dropped, a volume's would double the memory."""
        for name, out in arrays.items():
            kept = self._fields.pop(name)
            if kept.shape != out.shape or kept.dtype != out.dtype:
                raise ValueError(f"{name} has shape {kept.shape} and dtype {kept.dtype}")
            out[...] = kept


def open_checkpoint(path, every, batch_shape, solver, A, y, **options):
    """The ``Checkpoint`` of a solver's arguments, checked.

    ``options``: whatever else the result depends on.  The threads are not among it: they change no bit.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"checkpoint: expected the path of a file, got {shown(path)}")
    every = check_count("checkpoint_every", every)
    if batch_shape:
        raise ValueError(
            f"checkpoint: is for one item, not a batch of shape {batch_shape}; solve the items one by one, each with a "
            "path of its own, or files with 'bioperf batch'"
        )
    dtype = A.image_dtype(y)
    own = {
        "bioperf": __version__,
        "solver": solver,
        "backend": get_backend().name,
        "fft": plan_fft(A.shape, dtype).library,
        "dtype": str(dtype),
        "A": _described_operator(A),
        "y": _digest(y),
    }
    described = {name: _described(value) for name, value in options.items()}
    return Checkpoint(path, every, own | described, A.shape, dtype)


def lower_level(checkpoint, every, batch_shape, A, y, model, **options):
    """The ``Level`` of ``solve_lower``'s arguments; one of ``solve_bio`` is taken as it is."""
    if isinstance(checkpoint, Level):
        return checkpoint
    checkpoint = open_checkpoint(
        checkpoint, every, batch_shape, "solve_lower", A, y, tv_weight=model.tv_weight,
        wavelet_weight=model.sparse_weight, wavelet=model.transform, isotropic=model.isotropic, **options,
    )  # fmt: skip
    return Level(checkpoint, "lower")


def _described_operator(A):
    for kind, parts in _OPERATORS.items():
        if isinstance(A, kind):
            return [kind.__name__, list(A.shape), *(_described(getattr(A, part)) for part in parts)]
    raise ValueError(
        f"checkpoint: is for Blur, MaskedFourier and MultiCoilFourier, not {type(A).__name__}; leave it out"
    )


def _described(value):
    """A value as it stands in a fingerprint: arrays and files by their SHA-256, foreign objects by their names only."""
    if isinstance(value, np.ndarray):
        return _digest(value) if value.ndim else value.item()
    if isinstance(value, Path):
        return hashlib.sha256(value.read_bytes()).hexdigest() if value.is_file() else str(value)
    if value is None or isinstance(value, str | numbers.Real | np.bool_ | list | tuple):
        return _plain(value, "checkpoint")
    if type(value).__module__ == "bioperf.transforms":
        return repr(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
