"""How many threads: what the process may use, and what a problem of a given size can use."""

import os

# Elements a thread must have to itself: at 256 x 256 a second thread saved a tenth of the time where both
# cores were idle, and cost a factor of 10 where another process held one of them.
ELEMENTS_PER_THREAD = 65536


def available_threads():
    """Cores this process may run on, at most OMP_NUM_THREADS where that is set."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(1, min(cores, int(limit))) if limit.isdigit() and int(limit) > 0 else cores


def threads_for(elements, limit=None):
    """Threads for a problem of that many elements, at most ``limit`` (default: ``available_threads()``)."""
    return max(1, min(limit or available_threads(), elements // ELEMENTS_PER_THREAD))
