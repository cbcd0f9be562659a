"""What the commands print: tables on stdout, a progress bar on stderr."""

import math
from contextlib import contextmanager

import numpy as np

from ..jobs.certificate import bounds, small, words

__all__ = ["certificate_rows", "print_paths", "print_rows", "progress", "warn"]

_CHOICES = ("noise_std", "tv_weight", "wavelet_weight", "epsilon", "kappa", "data_residual")


def print_rows(title, rows):
    """A table of two columns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    Console().print(table)


def print_paths(paths):
    """One path a line, never wrapped."""
    from rich.console import Console

    console = Console()
    for path in paths:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


def warn(message):
    """One line on stderr."""
    from rich.console import Console

    Console(stderr=True).print(f"bioperf: warning: {message}", markup=False, highlight=False, soft_wrap=True)


def certificate_rows(solution):
    """(name, text) of what was proved about a Solution, and what ran; of a batch the worst of each."""
    items = solution.details.get("items", [solution.details])
    rows = [("status", solution.status)]
    if np.size(solution.objective) > 1:
        rows += [("images", f"{np.size(solution.objective)}; the worst certificate among them follows")]
    rows += bounds(solution)
    rows += [(f"infeasibility, {name}", small(value)) for name, value in solution.infeasibility.items()]
    rows += [("KKT residual", small(solution.kkt_residual))]
    for name in _CHOICES:
        values = [item[name] for item in items if name in item]
        if values:
            rows.append((words(name), f"{np.max(values):.4g}"))
    clocks = [item["seconds"] for item in items if "seconds" in item]
    stages = ", ".join(f"{stage} {sum(clock[stage] for clock in clocks):.3f}" for stage in (clocks and clocks[0]))
    rows += [
        ("seconds", f"{solution.seconds:.3f}" + f" ({stages})" * bool(stages)),
        ("backend", f"{solution.backend}, FFT {solution.fft}, {solution.threads} thread{'s' * (solution.threads > 1)}"),
    ]
    return rows


@contextmanager
def progress(quiet=False):
    """A solver's callback that shows stage, iteration, gap and time; None if stderr is no terminal or quiet.

    The bar is the way to the tolerance in decades: full when every stopping test is met.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("iteration {task.fields[iteration]}  gap {task.fields[gap]:.1e}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        follow = _Follow(bar)
        yield follow


class _Follow:
    def __init__(self, bar):
        self.bar, self.stage, self.iteration, self.task, self.worst = bar, None, 0, None, 0.0

    def __call__(self, info):
        if info.stage != self.stage or info.iteration <= self.iteration:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.task, self.worst = self.bar.add_task(info.stage, total=1.0, iteration=0, gap=abs(info.gap)), 0.0
        self.stage, self.iteration = info.stage, info.iteration
        measure = info.measure if math.isfinite(info.measure) else 1e6
        decades = math.log10(max(measure, 1.0))
        self.worst = max(self.worst, decades, 1e-3)
        self.bar.update(self.task, completed=1 - decades / self.worst, iteration=info.iteration, gap=abs(info.gap))
