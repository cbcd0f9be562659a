"""Several items at once: the iterations of both levels on a batch, items stopping on their own.

``items.py`` runs the items through slots, ``lower.py`` and ``upper.py`` are the two levels, ``arrays.py`` holds what
depends on where the arrays are, and ``layout.py`` decides how a batch shares the threads.  What an item computes is,
bit for bit, what it computes alone.
"""

from .arrays import HostArrays
from .items import Queue, run_batches
from .layout import Layout
from .lower import LowerBatch
from .upper import UpperBatch, UpperItem

__all__ = ["HostArrays", "Layout", "LowerBatch", "Queue", "UpperBatch", "UpperItem", "run_batches"]
