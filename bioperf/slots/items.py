"""Items of a batch in slots: each stops by its own tests, and the next one takes its place."""

import threading
import time

import numpy as np

from ..progress import diverged
from ..solution import Solution


def is_among(iterations, chosen):
    """Which of the iterations are among a set of a few."""
    found = np.zeros(iterations.shape, bool)
    for iteration in chosen:
        found |= iterations == iteration
    return found


class Queue:
    """Items that wait to be solved, and where their results go; several threads may take from it.

    Parameters
    ----------
    count : int
        Items.
    result : array, shape (count, *spatial)
        Receives the images.
    workers : int, optional
        Who share the items: nobody takes more than half of a fair share of what is left, so that all end together.
        None: whoever asks takes what it wants.
    names : sequence of int, optional
        What the items are called in an error; 0, 1, ... by default.
    """

    def __init__(self, count, result, workers=None, names=None):
        self.count, self.result, self.solutions, self.workers = count, result, [None] * count, workers
        self.names = range(count) if names is None else names
        self._next, self._lock = 0, threading.Lock()

    def take(self, wanted):
        """The numbers of the next items, at most so many."""
        with self._lock:
            if self.workers:
                wanted = min(wanted, -(-(self.count - self._next) // (2 * self.workers)))
            first, self._next = self._next, min(self.count, self._next + wanted)
            return np.arange(first, self._next)

    def close(self):
        """Let nobody take further items."""
        with self._lock:
            self._next = self.count


def run_batches(make, queue, layout):
    """Solve the queue's items by a batch ``make()`` a worker of the layout; returns the Solutions."""

    def work(_):
        try:
            make().run()
        finally:
            queue.close()  # it is empty, or a worker failed

    layout.each(work, range(layout.workers))
    return queue.solutions


class Batch:
    """A solver's state for several items, one a slot; a subclass has the iteration.

    The first ``active`` slots are iterated together.  At a check the items that have ended leave; items that wait take
    their slots, and when none wait the last slots fill the gaps once ``arrays.idle_share`` of the slots are idle.
    No number of one item enters another's.

    Parameters
    ----------
    problem : FourierProblem
    arrays : HostArrays or DeviceArrays
    queue : Queue
    max_iter, check_every : int
    """

    stage = "solve"

    def __init__(self, problem, arrays, queue, max_iter, check_every):
        self.problem, self.arrays, self.kernels = problem, arrays, arrays.kernels
        self.queue, self.max_iter, self.check_every = queue, max_iter, check_every
        self.capacity = arrays.capacity(queue.count)
        self.active = 0
        self._images, self._numbers, self._rows = [], [], []
        self.item, self.done, self.alive = self.number(int), self.number(int), self.number(bool)
        self.begun = self.number()
        self.x, self.q, self.data = (self.images(kind) for kind in ("image", "field", "spectrum"))
        self.rhs = arrays.empty(self.capacity, "image")
        self.spectrum, self.kept = (arrays.empty(self.capacity, "spectrum") for _ in range(2))

    def images(self, kind):
        """Every slot's image, field or spectrum."""
        array = self.arrays.empty(self.capacity, kind)
        self._images.append(array)
        return array

    def number(self, dtype=float):
        """A number for every slot, on the host."""
        array = np.zeros(self.capacity, dtype)
        self._numbers.append(array)
        return array

    def device_number(self):
        """A number for every slot where the kernels read and write it."""
        array = self.arrays.numbers(self.capacity)
        self._numbers.append(array)
        return array

    def run(self):
        """Solve items until the queue is empty; its ``result`` has the images and its ``solutions`` the rest."""
        self._fill(range(self.capacity))
        while self.active:
            now = slice(self.active)
            alive, done = self.alive[now], self.done[now]
            to_check = np.minimum(self.check_every - done % self.check_every, self.max_iter - done)
            steps = int(to_check[alive].min())
            self.advance(steps)
            done += steps
            due = alive & ((done % self.check_every == 0) | (done == self.max_iter))
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # ``record`` looks for them
                ended = np.flatnonzero(self.check(due))
            if ended.size:
                self._leave(ended)
        for item, history in self._histories():
            self.queue.solutions[item].history = history
            self.complete(self.queue.solutions[item])

    def complete(self, solution):
        """What a solution takes from its history."""

    def record(self, due, **row):
        """Keep the numbers of a check for the history of the slots that were due."""
        bad = due & ~np.isfinite(row["objective"])
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            name = self.queue.names[self.item[first]]
            raise diverged(f"{self.stage}, item {name} of the batch", int(self.done[first]))
        now = slice(self.active)
        seconds = time.perf_counter() - self.begun[now]
        row = {"iteration": self.done[now], "seconds": seconds, **row}
        self._rows.append((self.item[now][due], {name: np.array(value[due]) for name, value in row.items()}))

    def solution(self, slot, objective, lower_bound, infeasibility, kkt_residual, converged, status, details):
        """The result of the item in a slot, which has ended."""
        return Solution(
            x=self.queue.result[self.item[slot]],
            objective=objective,
            lower_bound=lower_bound,
            infeasibility=infeasibility,
            kkt_residual=kkt_residual,
            iterations=int(self.done[slot]),
            converged=bool(converged),
            status=status,
            history={},
            seconds=time.perf_counter() - float(self.begun[slot]),
            **{**self.problem.what_ran(), "threads": self.arrays.threads},
            details=details,
        )

    def _histories(self):
        """(item, what was recorded of it by name) for every item."""
        if not self._rows:
            return
        items = np.concatenate([item for item, _ in self._rows])
        order = np.argsort(items, kind="stable")
        own, starts = np.unique(items[order], return_index=True)
        columns = {
            name: np.split(np.concatenate([row[name] for _, row in self._rows])[order], starts[1:])
            for name in self._rows[0][1]
        }
        for k, item in enumerate(own):
            yield item, {name: parts[k] for name, parts in columns.items()}

    def _fill(self, slots):
        """Waiting items into these slots, as many as there are."""
        items = self.queue.take(len(slots))
        if items.size:
            slots = list(slots)[: items.size]
            self.item[slots], self.done[slots], self.begun[slots] = items, 0, time.perf_counter()
            self.alive[slots] = True
            self.active = max(self.active, slots[-1] + 1)
            self.load(slots, items)

    def _leave(self, ended):
        items = self.item[ended]
        self.queue.result[items] = self.x[ended]
        for slot, item in zip(ended, items, strict=True):
            self.queue.solutions[item] = self.finish(slot)
        self.alive[ended] = False
        self._fill(ended)
        empty = np.flatnonzero(~self.alive[: self.active])
        if empty.size > self.active * self.arrays.idle_share:
            for slot in empty[::-1]:
                self.active -= 1
                last = self.active
                if slot != last:
                    for array in (*self._images, *self._numbers):
                        array[slot] = array[last]
