"""What ran, for the records of jobs and batches."""

import platform
from importlib import metadata

__all__ = ["versions"]


def versions(packages):
    """Of bioperf, Python and these packages: dict of name -> str, None for a package that is not installed."""
    from .. import __version__

    return {"bioperf": __version__, "python": platform.python_version()} | {name: _version(name) for name in packages}


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
