"""The command ``bioperf``."""

import sys

__all__ = ["main"]


def main(arguments=None):
    """Run the command with the arguments given (``sys.argv`` by default) and exit with its status.

    0: done; 1: failed; 2: the arguments or the input are wrong; 3: not converged with ``--strict``;
    130: interrupted.
    """
    from .app import run

    sys.exit(run(arguments))
