"""How a batch shares the threads: small images one a thread, large ones all threads an image."""

import math
from concurrent.futures import ThreadPoolExecutor

from ..kernels import available_threads

# Up to this many pixels what an image needs is in one core's caches, and a second thread for it saves little.
SIDE_BY_SIDE_PIXELS = 512**2


class Layout:
    """The layout of ``count`` images of a shape on at most ``threads`` threads (None: those of the process)."""

    def __init__(self, count, shape, threads=None):
        allowed = threads or available_threads()
        self.together = count > 1 and math.prod(shape) <= SIDE_BY_SIDE_PIXELS
        self.workers = min(allowed, count) if self.together else 1
        self.threads = 1 if self.workers > 1 else threads

    def words(self, threads):
        """What a result says of it, where the solver used that many threads."""
        if self.together:
            return f"one image a thread, {self.workers} at a time"
        return f"one image after another, {threads} threads each"

    def each(self, function, items):
        """[function(item) for item in items], ``workers`` at a time; the first error once all that began have ended."""
        if self.workers == 1:
            return [function(item) for item in items]
        with ThreadPoolExecutor(self.workers, thread_name_prefix="bioperf-item") as pool:
            futures = [pool.submit(function, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
