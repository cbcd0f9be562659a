"""Files that appear whole or not at all."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from .errors import OutputError

__all__ = ["check_writable", "write_whole"]

# What the names of unfinished files begin with.
TEMPORARY = ".bioperf-"


def check_writable(path):
    """Raise OutputError unless a file can be created at (or replaced at) ``path``; nothing is left there.

    To be called before a long computation whose result goes to ``path``.
    """
    target, temporary = _places(path)
    _create(path, target, temporary)
    temporary.unlink()


def write_whole(path, write):
    """Write a file so that ``path`` holds its old content or all of the new, whatever happens.

    Parameters
    ----------
    path : str or Path
        An existing file is replaced and keeps its permissions; a symbolic link stays, its target is replaced.
    write : callable (Path) -> None
        Writes the content to the temporary path that it is given, in the same folder and with the same
        suffix.

    Raises
    ------
    OutputError
        If the file cannot be created, written or replaced.  Other exceptions of ``write`` pass through.
        In every case the temporary file is removed.
    """
    target, temporary = _places(path)
    _create(path, target, temporary)
    try:
        try:
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            os.replace(temporary, target)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({_reason(error)}); free space or choose another") from error
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _places(path):
    """The file to replace (symbolic links followed) and a temporary path beside it."""
    try:
        target = Path(os.path.realpath(path))
        target.exists()
    except (OSError, ValueError) as error:  # too long, with a zero byte, below a folder that may not be searched
        raise OutputError(f"{path}: is no path to write to ({_reason(error)}); choose another") from error
    return target, target.with_name(f"{TEMPORARY}{secrets.token_hex(6)}{target.suffix}")


def _create(path, target, temporary):
    folder = target.parent
    if not folder.exists():
        raise OutputError(f"{path}: the folder {folder} does not exist; create it or choose another")
    if not folder.is_dir():
        raise OutputError(f"{path}: {folder} is not a folder; choose another path")
    if target.is_dir():
        raise OutputError(f"{path}: is a folder; give the path of a file")
    if target.is_symlink():
        raise OutputError(f"{path}: is a link to itself; choose another path")
    if target.exists() and not target.is_file():
        raise OutputError(f"{path}: is not a regular file; choose another path")
    if target.exists() and not os.access(target, os.W_OK):
        raise OutputError(f"{path}: is write-protected; choose another path or change its permissions")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise OutputError(
            f"{path}: no file can be created in {folder} ({_reason(error)}); choose another folder"
        ) from error


def _reason(error):
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _sync_folder(folder):
    """Make the replacement itself durable, where the system lets a folder be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
