"""What ``bioperf tune`` shows: a table of the trials while it runs, the selections and the test at its end."""

import math
from contextlib import contextmanager

from ..jobs.tune import OWN_CRITERION

__all__ = ["columns", "live_table", "print_quality", "print_selections"]

_WEIGHTS = ("wavelet_weight", "tv_weight", "epsilon", "kappa")
_BEST, _SHOWN = "★", 10


def columns(names):
    """The radii and the weights among the names of a history's columns."""
    return [name for name in names if name.endswith("_radius")], [name for name in _WEIGHTS if name in names]


def number(value, digits=4):
    """In a table; a dash for what is not there."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}g}"


def _fixed(value, decimals=4):
    return "–" if value is None or math.isnan(value) else f"{value:.{decimals}f}"


@contextmanager
def live_table(quiet=False):
    """A function (method, row) that shows a trial in a table on stderr; None if that is no terminal, or quiet."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.live import Live

    with Live(console=console, refresh_per_second=8, transient=True) as live:
        table = TrialTable()

        def show(method, row):
            table.add(method, row)
            live.update(table.render())

        yield show


class TrialTable:
    """The best trial of every finished method, and the best and the last ones of the method that runs."""

    def __init__(self):
        self.finished, self.method, self.rows, self.best = [], None, [], None

    def add(self, method, row):
        """Append a trial, a row of the history's columns."""
        if method != self.method:
            if self.best is not None:
                self.finished.append((self.method, self.best))
            self.method, self.rows, self.best = method, [], None
        self.rows.append(row)
        if row["criterion"] == row["best"]:
            self.best = row

    def render(self):
        from rich.table import Table

        radii, weights = columns(self.rows[-1])
        names = [*radii, *(name for name in weights if name not in radii)]
        table = Table(title=f"{self.method}, trial {len(self.rows)}", title_justify="left")
        table.add_column("")
        table.add_column("method")
        for name in ("trial", "seconds", "lower solves", *map(_label, names), "criterion"):
            table.add_column(name, justify="right")
        measured = any("psnr" in row for row in self.rows)
        if measured:
            table.add_column("PSNR (dB)", justify="right")
        shown = self.rows[-_SHOWN:]
        if self.best is not None and not any(row is self.best for row in shown):
            shown = [self.best, *shown[1:]]
        for method, row in [*self.finished, *((self.method, row) for row in shown)]:
            best = row is self.best or method != self.method
            cells = [_BEST if best else "", method, f"{row['trial']:.0f}", f"{row['seconds']:.2f}"]
            cells += [f"{row['lower_solves']:.0f}", *(number(row.get(name)) for name in (*names, "criterion"))]
            cells += [_fixed(row.get("psnr"), 2)] if measured else []
            table.add_row(*cells, style="dim" if row.get("pruned") else "bold" if row is self.best else None)
        return table


def print_selections(selections, best):
    """A row a method, in several tables if the terminal is narrow; ``best`` is marked."""
    from rich.console import Console

    metrics = dict.fromkeys(name for selection in selections for name in selection.metrics)
    weights = dict.fromkeys(name for selection in selections for name in selection.weights)
    radii = dict.fromkeys(name for selection in selections for name in columns(selection.values)[0])
    lines = [["method", *(_label(name) for name in (*weights, *radii)), "criterion", *map(_label, metrics)]]
    lines[0] += ["lower solves", "iterations", "seconds", "status"]
    for selection in selections:
        cells = [f"{_BEST} " * (selection is best and len(selections) > 1) + selection.method]
        cells += [number(selection.weights.get(name)) for name in weights]
        cells += [number(selection.values.get(name)) for name in radii]
        cells += ["–" if selection.method in OWN_CRITERION else number(selection.best_criterion, 5)]
        cells += [_fixed(selection.metrics.get(name), 2 if name == "psnr" else 4) for name in metrics]
        cells += [str(selection.lower_solves), str(selection.iterations), f"{selection.seconds:.2f}", selection.status]
        lines.append(cells)
    console = Console()
    first, *others = zip(*lines, strict=True)
    for k, part in enumerate(_parts(_width(first) + 1, others, console.width)):
        console.print(_table("Selected" if k == 0 else None, zip(first, *part, strict=True)))


def _parts(start, cells, width):
    """The columns in groups that each fit beside the first column, which takes ``start``."""
    parts, used = [[]], start
    for column in cells:
        if parts[-1] and used + _width(column) > width:
            parts, used = [*parts, []], start
        parts[-1].append(column)
        used += _width(column)
    return parts


def _width(column):
    """Of a column with its margin; the status may be folded."""
    name, *cells = column
    return 3 + (20 if name == "status" else max(map(len, (*cells, *name.split()))))


def _table(title, lines):
    """The first line is the header, the first column in bold; only the status is folded."""
    from rich.table import Table
    from rich.text import Text

    header, *lines = lines
    table = Table(title=title, title_justify="left")
    table.add_column(header[0], style="bold", no_wrap=True)
    for name in header[1:]:
        if name == "status":
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for cells in lines:
        table.add_row(*map(Text, cells))
    return table


def print_quality(quality):
    """Means over the test images, of the default rule and of every method's weights."""
    from rich.console import Console
    from rich.table import Table

    count = quality["images"]
    table = Table(title=f"On {count} test image{'s' * (count > 1)}, mean", title_justify="left")
    table.add_column("weights", style="bold")
    for name in ("PSNR (dB)", "SSIM", "RLNE", "better than default weights"):
        table.add_column(name, justify="right")
    for name, row in quality["by_weights"].items():
        cells = [f"{row['mean_psnr']:.2f}", _fixed(row["mean_ssim"]), f"{row['mean_rlne']:.4f}"]
        table.add_row(name, *cells, f"{row['better_than_default']} of {count}")
    Console().print(table)


def _label(name):
    capitals = {"psnr": "PSNR (dB)", "rlne": "RLNE", "nre": "NRE"}
    return capitals.get(name, name.replace("tv_", "TV_").replace("_", " "))
