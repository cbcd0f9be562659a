"""What all jobs share: their arguments, the files of one, and its three steps."""

from pathlib import Path
from typing import ClassVar

from ..io import InputError

__all__ = ["Job"]


class Job:
    """The work of one command on one input: ``read``, then ``solve``, then ``write``.

    Making a job touches no file and imports nothing heavy.

    Parameters
    ----------
    input, output : str or Path
        The file to read and the file to write; an existing one is replaced.
    figure : str or Path, optional
        For a picture of the result, PNG.
    files_and_options
        Paths by the names in ``FILES``, of those ``REQUIRED`` all, and values by the names in ``OPTIONS``; those left
        out or None are as in ``DEFAULTS``.

    Raises
    ------
    TypeError
        For an unknown or missing keyword.
    InputError
        For a value that its converter refuses.

    Attributes
    ----------
    shape : tuple of int
        Of the images, after ``read``.
    count : int
        How many independent images these are.
    memory : int
        Bytes: an estimate of what the arrays take at most, from ``read`` to ``write``, while one image after another is
        solved; without the interpreter and its libraries (``bioperf.jobs.memory``).
    concurrent : bool
        Whether several such jobs may be solved side by side in one process, after ``read``.
    remarks : list of str
        What is suspicious about the input or the solve, a sentence each.
    """

    FILES = ()
    REQUIRED = ()
    WRITTEN = ("figure",)
    OPTIONS: ClassVar = {}
    DEFAULTS: ClassVar = {}
    SUFFIXES = ()

    def __init__(self, input, output, *, figure=None, **files_and_options):
        given = {"figure": figure} | files_and_options
        for name in given:
            if name not in (*self.FILES, *self.WRITTEN, *self.OPTIONS):
                raise TypeError(f"{name}: is no file or option of this job; it has {', '.join(self.names())}")
        for name in self.REQUIRED:
            if given.get(name) is None:
                raise TypeError(f"{name}: missing; give the path of a file")
        self.input, self.output = Path(input), Path(output)
        self.files = {name: self._path(name, given.get(name)) for name in (*self.FILES, *self.WRITTEN)}
        self.options = {name: self.DEFAULTS.get(name) for name in self.OPTIONS}
        for name, parse in self.OPTIONS.items():
            if given.get(name) is not None:
                try:
                    self.options[name] = parse(given[name])
                except ValueError as error:
                    raise InputError(f"{name}: {error}") from error
        self.shape = self.count = self.loaded = self._memory = self._together = None
        self.remarks, self.concurrent = [], True

    @classmethod
    def names(cls):
        """Of all keywords: files to read, files to write, options."""
        return (*cls.FILES, *cls.WRITTEN, *cls.OPTIONS)

    @classmethod
    def is_path(cls, name, value):
        """Whether the argument of that name in ``FILES`` is the path of a file with this value."""
        return value is not None

    @classmethod
    def output_suffix(cls, input):
        """What the output's name ends in where the user gives none."""
        return cls.SUFFIXES[0]

    def _path(self, name, value):
        if value is None:
            return None
        return Path(value) if name in self.WRITTEN or self.is_path(name, value) else str(value)

    @property
    def inputs(self):
        """Paths of the files that ``read`` reads, each once."""
        paths = [self.input, *(self.files[name] for name in self.FILES if self.is_path(name, self.files[name]))]
        return list(dict.fromkeys(paths))

    @property
    def outputs(self):
        """Paths of the files that ``write`` writes."""
        return [self.output, *(self.files[name] for name in self.WRITTEN if self.files[name] is not None)]

    @property
    def memory(self):
        return self._memory.peak()

    def memory_on(self, threads):
        """As ``memory``, with as many images of a stack at a time as are solved on so many threads."""
        from ..slots import Layout

        return self._memory.peak(Layout(*self._together, threads).workers)

    def read(self):
        """Read the files and check all that can be wrong with them, the options and the places to write to.

        Raises
        ------
        InputError, OutputError
        """
        raise NotImplementedError

    def solve(self, *, callback=None, threads=None):
        """The result, on at most so many threads, which do not change its bits."""
        raise NotImplementedError

    def write(self, result, *, timings=True):
        """Write the outputs, each whole or not at all; returns their paths.

        Without ``timings`` nothing that was measured by a clock, or that is the machine's, is written: the same job
        gives the same bytes.  The job and the result still hold their arrays then: see ``release``.
        """
        raise NotImplementedError

    def certificate(self, result):
        """What was proved and what ran as a dict for JSON; numbers that are not finite are None."""
        raise NotImplementedError

    def release(self):
        """Let go of the arrays that ``read`` loaded."""
        self.loaded = None
