"""``bioperf batch``: a manifest's items, with a bar, a summary and a status that says how it went."""

import os
import sys
import time
from contextlib import contextmanager

from ..io.errors import InputError
from .report import print_rows

__all__ = ["INTERRUPTED", "REQUEUE", "run_manifest"]

# EX_TEMPFAIL of sysexits.h: what Slurm's RequeueExit and the scripts in hpc/ look for.
REQUEUE, INTERRUPTED = 75, 130
# Seconds between two lines of a log, where stderr is no terminal.
_LOG_EVERY = 60.0
_FAILURES_SHOWN = 10


def run_manifest(manifest, out, *, job, settings, array, dry_run, cluster, workers, memory, threads, quiet, **options):
    """Run the items of a manifest; returns the exit status.

    Parameters
    ----------
    manifest, job
        Of ``bioperf.batch.read_manifest``.
    settings : list of str
        "NAME=VALUE" for all rows.
    array : tuple (index, count)
        Both None: all items.
    cluster, workers
        Of ``bioperf.batch.cluster.run_on_cluster``; cluster None: this process solves.
    memory : str or None
        As "4G".
    threads, options
        Of ``bioperf.batch.run_batch``.
    """
    _check_together(array, cluster, workers, threads, memory, dry_run)
    common = _pairs(settings)

    from .. import batch
    from ..batch.resources import parse_bytes

    try:
        memory = None if memory is None else parse_bytes(memory)
    except ValueError as error:
        raise InputError(f"--memory: {error}") from error
    items = batch.read_manifest(manifest, job=job, common=common)
    task = None
    if array[1] is not None:
        task = array
        items = batch.split(items, *array)
        if not items:
            return 0
    if dry_run:
        with _progress(quiet) as notify:
            preview = batch.preview_batch(items, out, threads=threads, memory=memory, notify=notify)
        _print_preview(preview, quiet)
        return 1 if preview.failures else 0
    try:
        with _progress(quiet) as notify:
            if cluster is None:
                outcome = batch.run_batch(
                    items, out, task=task, threads=threads, memory=memory, notify=notify, **options
                )
            else:
                from ..batch.cluster import run_on_cluster

                outcome = run_on_cluster(
                    items, out, cluster=cluster, workers=workers, task=task, notify=notify, **options
                )
    except KeyboardInterrupt:
        _leave(INTERRUPTED, f"bioperf: {out}: interrupted; nothing was left half-written, go on with --resume\n")
    status = _report(out, outcome, len(items), quiet)
    if outcome.abandoned:
        _leave(status)
    return status


def _check_together(array, cluster, workers, threads, memory, dry_run):
    if (array[0] is None) != (array[1] is None):
        given, missing = ("--array-index", "--array-count")[:: 1 if array[1] is None else -1]
        raise InputError(f"{missing}: {given} needs it; give both or none")
    if workers is not None and cluster != "slurm":
        raise InputError("--workers: is for --cluster slurm; add that or leave it out")
    for option, given in (("--threads", threads), ("--memory", memory), ("--dry-run", dry_run)):
        if cluster is not None and given:
            raise InputError(f"{option}: is not for --cluster, whose workers have their own; leave it out")


def _pairs(settings):
    pairs = {}
    for text in settings:
        name, equals, value = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equals or not name or not value:
            raise InputError(f"--set: expected NAME=VALUE, got {text!r}")
        if name in pairs:
            raise InputError(f"--set: {name} is given twice; give it once")
        pairs[name] = value
    return pairs


def _report(out, outcome, count, quiet):
    """Print the summary; the exit status."""
    if not quiet:
        _print_summary(outcome, count)
    if outcome.stopped == "output":
        _say(outcome.reason)
        return 2
    if outcome.stopped == "signal":
        _say(f"{out}: {outcome.reason}; {outcome.left} of {count} items are left, go on with --resume")
        return INTERRUPTED if outcome.reason == "SIGINT" else REQUEUE
    for name, reason in outcome.failures[:_FAILURES_SHOWN]:
        _say(f"{name}: {reason}")
    if len(outcome.failures) > _FAILURES_SHOWN:
        _say(f"{len(outcome.failures) - _FAILURES_SHOWN} more; the journal in {out} has them all")
    if outcome.stopped == "failures":
        _say(f"{out}: {outcome.reason}; {outcome.left} items are left, go on with --resume")
    if outcome.counts["failed"]:
        return 1
    return 3 if outcome.failures else 0


def _print_summary(outcome, count):
    from ..batch.resources import show_bytes

    counts = outcome.counts
    rows = [(name, str(counts[name])) for name in ("done", "not converged", "failed") if counts[name]]
    if counts["confirmed"]:
        rows.append(("done before", f"{counts['confirmed']}, confirmed by journal and SHA-256"))
    if outcome.left:
        rows.append(("left", str(outcome.left)))
    rows.append(("seconds", f"{outcome.seconds:.1f}"))
    if outcome.images:
        rows.append(("images per second", f"{outcome.images / max(outcome.seconds, 1e-9):.1f}"))
        steps = ", ".join(f"{step} {outcome.busy[step]:.1f}" for step in ("read", "solve", "write"))
        rows.append(("busy seconds, all threads", steps))
    if outcome.peak_memory:
        rows.append(("peak memory", show_bytes(outcome.peak_memory)))
    print_rows(f"{count} items", rows)


def _print_preview(preview, quiet):
    from ..batch.resources import show_bytes

    for name, reason in preview.failures:
        _say(f"{name}: {reason}")
    if quiet:
        return
    rows = [("items that can be solved", str(len(preview.sizes))), ("that cannot", str(len(preview.failures)))]
    kinds = {}
    for _, shape, size, threads in preview.sizes:
        kinds.setdefault((shape, size, threads), []).append(size)
    for (shape, size, threads), all_of in sorted(kinds.items(), key=lambda kind: -kind[0][1])[:10]:
        shown = " x ".join(map(str, shape))
        rows.append((shown, f"{len(all_of)} items, {show_bytes(size)} and {_threads(threads)} each"))
    if len(kinds) > 10:
        rows.append(("other shapes", str(len(kinds) - 10)))
    rows += [
        ("threads", str(preview.threads)),
        ("memory granted", show_bytes(preview.memory)),
        ("estimated peak", show_bytes(preview.peak)),
    ]
    print_rows("Dry run: nothing was solved, nothing written", rows)


def _threads(count):
    return f"{count} thread{'s' * (count > 1)}"


def _say(message):
    from rich.console import Console

    Console(stderr=True).print(f"bioperf: {message}", markup=False, highlight=False, soft_wrap=True)


def _leave(status, message=""):
    """End the process although threads still solve what was given up."""
    sys.stdout.flush()
    sys.stderr.write(message)
    sys.stderr.flush()
    os._exit(status)


@contextmanager
def _progress(quiet):
    """A ``notify``: a bar on a terminal, a line a minute in a log, None if quiet."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet:
        yield None
    elif not console.is_terminal:
        yield _Log()
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} images/s"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console, transient=True) as bar:
            yield _Bar(bar)


class _Count:
    """Items ended and images per second since the first that was solved."""

    def __init__(self):
        self.total = self.ended = self.images = self.failed = 0
        self.start = time.perf_counter()

    def __call__(self, kind, value):
        if kind == "total":
            self.total = value
        else:
            self.ended += 1
            if kind == "ended":
                self.images += value["images"]
                self.failed += value["status"] != "done"
        self.show()

    @property
    def rate(self):
        return self.images / max(time.perf_counter() - self.start, 1e-9)


class _Bar(_Count):
    def __init__(self, bar):
        super().__init__()
        self.bar, self.task = bar, bar.add_task("batch", total=None, rate=0.0)

    def show(self):
        failed = f"batch, {self.failed} failed" if self.failed else "batch"
        self.bar.update(self.task, total=self.total, completed=self.ended, rate=self.rate, description=failed)


class _Log(_Count):
    def __init__(self):
        super().__init__()
        self.next = time.perf_counter() + _LOG_EVERY

    def show(self):
        now = time.perf_counter()
        if now < self.next or not self.ended:
            return
        self.next = now + _LOG_EVERY
        left = (now - self.start) / self.ended * (self.total - self.ended)
        line = f"{self.ended} of {self.total}, {self.failed} failed, {self.rate:.1f} images/s, {left / 60:.0f} min left"
        sys.stderr.write(f"bioperf: {line}\n")
        sys.stderr.flush()
