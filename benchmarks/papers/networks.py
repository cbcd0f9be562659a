"""The targets of the papers' tables that need torch."""

import functools
import sys


@functools.cache
def networks(level):
    """Name of the row -> target: the network after one round at that level, and with its defaults.

    Empty, with a remark, where torch is missing.
    """
    from bioperf.targets import CNN

    try:
        return {"cnn, 1 round": CNN(rounds=1, levels=(level, level)), "cnn": CNN()}
    except ImportError as error:
        print(f"without the rows of the network: {error}", file=sys.stderr)
        return {}
