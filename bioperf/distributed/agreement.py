"""Errors that all ranks raise, and arguments that all ranks must give alike: nobody waits for a rank that has left."""

from contextlib import contextmanager

from ..io.errors import InputError, OutputError

__all__ = ["same", "together"]

# What can be made again from its message on another rank; others become a RuntimeError there.
_KINDS = (InputError, OutputError, TypeError, ValueError, ImportError, MemoryError)


@contextmanager
def together(comm):
    """What one rank raises in the block, which must not communicate, all raise at its end, with ``agreed`` set.

    The ranks that are fine raise the first rank's error, with that rank's number in the message.
    """
    own = None
    try:
        yield
    except Exception as error:
        own = error
    every = comm.allgather(None if own is None else _described(own))
    failed = [rank for rank, found in enumerate(every) if found is not None]
    if not failed:
        return
    kind, message = every[failed[0]]
    if len(set(every)) > 1:
        message = f"{message} (on rank {failed[0]} of {len(every)})"
    error = kind(message)
    error.agreed = True
    raise error from own


def _described(error):
    kind = next((kind for kind in _KINDS if isinstance(error, kind)), None)
    return (kind, str(error)) if kind else (RuntimeError, f"{type(error).__name__}: {error}")


def same(comm, /, **values):
    """ValueError on every rank if one of the values is not equal on all of them."""
    every = comm.allgather(values)
    with together(comm):
        for name, first in every[0].items():
            for rank, others in enumerate(every):
                if others[name] != first:
                    raise ValueError(
                        f"{name}: {first!r} on rank 0 and {others[name]!r} on rank {rank}; give every rank the same"
                    )
