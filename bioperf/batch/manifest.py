"""The list of items: CSV, JSON Lines or a glob, checked row by row before anything runs."""

import csv
import glob
import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..io.errors import InputError
from ..jobs import JOBS

__all__ = ["Item", "read_manifest", "split"]

_COLUMNS = ("job", "input", "output")
_WILDCARDS = frozenset("*?[")
_RESERVED = "journal"
_MAX_LINE = 2**20


@dataclass(frozen=True)
class Item:
    """One row.

    Attributes
    ----------
    name : str
        The output's path below the output folder, with "/"; unique in the manifest.
    job : str
        "deblur", "mri" or "tune".
    input : str
        The path of the input.
    files : dict of str -> str
        Further files to read, by the job's name for them ("psf", "mask", ...).
    written : dict of str -> str
        Further files to write ("figure", ...), as ``name``.
    options : dict
        The job's options, converted.
    place : str
        Where the row stands, for messages: "list.csv:3".
    """

    name: str
    job: str
    input: str
    files: dict = field(default_factory=dict)
    written: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    place: str = ""

    @property
    def key(self):
        """SHA-256 of what is asked for, but for the contents of the files."""
        asked = [self.job, self.name, sorted(self.files), self.written, self.options]
        text = json.dumps(asked, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def make_job(self, out):
        """The job that writes into the folder ``out``."""
        written = {name: os.path.join(out, path) for name, path in self.written.items()}
        return JOBS[self.job](self.input, os.path.join(out, self.name), **self.files, **written, **self.options)


def read_manifest(source, *, job="deblur", common=None):
    """The items of a manifest.

    Parameters
    ----------
    source : str or Path
        A .csv file (a header, then a row an item), a .jsonl or .ndjson file (an object a line), or a glob such as
        "scans/**/*.h5".  Columns: "input"; "job" and "output" if wanted; the names of the job's files and options.
        Paths are relative to the manifest's folder.  Empty cells count as not given.
    job : str
        Of rows that name none.
    common : dict of str -> str, optional
        Files and options of all rows that do not give them; paths relative to the working directory.

    Returns
    -------
    list of Item

    Raises
    ------
    InputError
        "FILE:LINE: what is wrong; what to do" for the first row that cannot be used: an unknown column, a value of
        the wrong kind, an output outside the folder, or one that two rows share.
    """
    if job not in JOBS:
        raise InputError(f"--job: unknown job {job!r}; choose one of {', '.join(JOBS)}")
    common = _parsed("--set", job, dict(common or {}), "")
    items, taken = [], {}
    for place, row, folder, default in _rows(source):
        item = _item(place, row, folder, default, job, common)
        names = (item.name, item.name + ".json", *item.written.values())
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"{place}: two of its outputs are {name!r}; give each a name of its own")
            other = taken.setdefault(name, place)
            if other is not place:
                raise InputError(
                    f"{place}: writes {name!r}, which {other} writes as well; give one of them another output"
                )
        items.append(item)
    if not items:
        raise InputError(f"{source}: lists no items; add rows, or correct the pattern")
    return items


def split(items, index, count):
    """The items of task ``index`` of ``count``: every count-th, so that rows added at the end move no others."""
    if count < 1:
        raise InputError(f"--array-count: expected 1 or more tasks, got {count}")
    if not 0 <= index < count:
        raise InputError(f"--array-index: expected 0 to {count - 1} of {count} tasks, got {index}")
    return items[index::count]


def _rows(source):
    """(place, row, folder of its paths, default name of the output without its suffix or None) of every row."""
    path = Path(source)
    try:
        exists, is_file = "\0" not in str(source) and path.exists(), path.is_file()
    except OSError as error:
        raise InputError(f"{str(source)[:200]}: cannot be read ({error.strerror}); check the path") from error
    if not exists:
        if _WILDCARDS & set(str(source)):
            return _matches(str(source))
        raise InputError(
            f"{str(source)[:200]!r}: no such file; check the path, or quote a pattern such as 'scans/*.png'"
        )
    if not is_file:
        raise InputError(f"{source}: is not a file; give a manifest, or a pattern such as '{source}/*.png'")
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise InputError(f"{source}: unknown kind of manifest {path.suffix!r}; end its name in .csv or .jsonl")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return [(place, row, path.parent, None) for place, row in read(path, file)]
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from error
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error}); check the path") from error


def _matches(pattern):
    parts = Path(pattern).parts
    fixed = next(k for k, part in enumerate(parts) if _WILDCARDS & set(part))
    root = Path(*parts[: min(fixed, len(parts) - 1)])
    found = sorted(name for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))
    if not found:
        raise InputError(f"{pattern}: matches no file; correct the pattern")
    return [(name, {"input": name}, "", Path(os.path.relpath(name, root)).as_posix()) for name in found]


def _csv_rows(path, file):
    reader = csv.reader(_short_lines(path, file), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for name, count in Counter(header).items():
            if count > 1 or not name:
                raise InputError(f"{path}:1: column {name!r} is empty or stands there twice; name each column once")
        if "input" not in header:
            raise InputError(f"{path}:1: has no column 'input'; begin with a line of column names")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            place = f"{path}:{reader.line_num}"
            if len(cells) != len(header):
                raise InputError(f"{place}: has {len(cells)} cells, the header {len(header)}; correct the row")
            yield place, {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip()}
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: is not CSV ({error}); correct the row") from error


def _json_rows(path, file):
    for number, line in enumerate(_short_lines(path, file), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line, object_pairs_hook=_once, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: is not JSON ({error}); write one object a line") from error
        if not isinstance(row, dict):
            raise InputError(f"{place}: expected an object, got {type(row).__name__}; write one object a line")
        yield place, {name: value for name, value in row.items() if value is not None and value != ""}


def _short_lines(path, file):
    for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), ""), 1):
        if len(line) >= _MAX_LINE or "\0" in line:
            raise InputError(
                f"{path}:{number}: the line is longer than {_MAX_LINE} or has zero bytes; is it a manifest?"
            )
        yield line


def _once(pairs):
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands there twice")
    return dict(pairs)


def _no_constant(name):
    raise ValueError(f"{name} is no number of JSON")


def _item(place, row, folder, default, job, common):
    own_job = row.pop("job", job)
    if not isinstance(own_job, str) or own_job not in JOBS:
        raise InputError(f"{place}: job: unknown job {own_job!r}; choose one of {', '.join(JOBS)}")
    kind = JOBS[own_job]
    source = _path(place, "input", row.pop("input", None), folder)
    name = row.pop("output", None)
    if name is None:
        stem = PurePosixPath(os.path.basename(source) if default is None else default)
        name = str(stem.with_suffix("") if stem.suffix else stem).removesuffix(".nii") + kind.output_suffix(source)
    name = _below(place, "output", name)
    given = _parsed(place, own_job, row, folder)
    values = {name: value for name, value in common.items() if name in kind.names()} | given
    for required in kind.REQUIRED:
        if required not in values:
            raise InputError(f"{place}: {required}: missing; add the column, or --set {required}=FILE")
    files = {name: values.pop(name) for name in kind.FILES if name in values}
    written = {name: values.pop(name) for name in kind.WRITTEN if name in values}
    return Item(name, own_job, source, files, written, values, place)


def _parsed(place, job, row, folder):
    """The row's values as the job takes them."""
    kind, values = JOBS[job], {}
    for name, value in row.items():
        if name in kind.FILES:
            values[name] = _path(place, name, value, folder) if kind.is_path(name, value) else value
        elif name in kind.WRITTEN:
            values[name] = _below(place, name, value)
        elif name in kind.OPTIONS:
            try:
                values[name] = kind.OPTIONS[name](value)
            except (ValueError, TypeError) as error:
                raise InputError(f"{place}: {name}: {error}") from error
        else:
            known = ", ".join(dict.fromkeys((*_COLUMNS, *kind.names())))
            raise InputError(f"{place}: {job} has no option {name!r}; known are {known}")
    return values


def _path(place, name, value, folder):
    if not isinstance(value, str) or not value or "\0" in value:
        raise InputError(f"{place}: {name}: expected a path, got {value!r}")
    return os.path.join(folder, value)


def _below(place, column, name):
    """The path of a file to write, below the output folder."""
    if not isinstance(name, str) or not name or set(name) & {"\0", "\n", "\r"}:
        raise InputError(f"{place}: {column}: expected a path below the output folder, got {name!r}")
    path = PurePosixPath(name.replace(os.sep, "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise InputError(f"{place}: {column}: {name!r} is not below the output folder; give a path without '..'")
    if len(path.parts) == 1 and path.name.startswith(_RESERVED) and path.suffix == ".jsonl":
        raise InputError(f"{place}: {column}: {name!r} is a journal's name; choose another")
    return str(path)
