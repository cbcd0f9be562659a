"""The figure of ``bioperf tune``: criterion and PSNR over time, and the criterion over the parameters."""

import numpy as np

from .figure import INK, MUTED, TITLE, canvas
from .tune import OWN_CRITERION

__all__ = ["draw_tuning"]

_COLOURS = {
    "bf-dca": "#1b6ca8",
    "bf-dca-faithful": "#5fb0d9",
    "hypergradient": "#8a7fb5",
    "grid": "#52606d",
    "random": "#a9744f",
    "tpe": "#d1495b",
    "discrepancy": "#3a9d6e",
    "sure": "#d99a00",
}
# Methods that walk, and whose steps are drawn.
_PATHS = ("bf-dca-faithful", "hypergradient", "bf-dca")
# Levels of the contour: excess over the grid's smallest value.
_LEVELS = np.array([0.01, 0.05, 0.2, 0.5, 1, 2, 5, 10, 50])
# What is drawn of the running best: up to that multiple of the least criterion, down to so many dB below the best.
_WORST, _DECIBELS = 3.0, 6.0
_GRID = {"color": "#e3e8ed", "linewidth": 0.8}


def draw_tuning(path, selections, contour, *, criterion, timings=True):
    """Draw how the methods searched; write a PNG of 1500 pixels' width.

    Parameters
    ----------
    path : str or Path
    selections : list of Selection
        Their histories give the running best over the seconds, and the steps of BF-DCA and of the hypergradient.
    contour : Contour or None
        A grid search over two parameters; None for one parameter: the trials of all methods make a curve.
    criterion : str
        What the methods minimised, in a word.
    timings : bool
        Draw over the seconds; else over the number of lower-level solves, which is the same in every run.

    Raises
    ------
    OutputError
    """
    measured = [selection for selection in selections if "psnr" in selection.history]
    compared = [selection for selection in selections if selection.method not in OWN_CRITERION]
    legend_rows = -(-len(selections) // 4)
    with canvas(path, 5.6 + 0.28 * legend_rows) as figure:
        figure.get_layout_engine().set(h_pad=0.12)
        axes = list(np.ravel(figure.subplots(1, 1 + bool(compared) + bool(measured))))
        panels = iter(axes)
        if compared:
            title = f"Best criterion so far ({criterion})"
            _draw_running(next(panels), compared, "criterion", title, timings, log=True)
        if measured:
            _draw_running(next(panels), measured, "psnr", "PSNR (dB) of the best trial so far", timings)
        if contour is None:
            _draw_curve(next(panels), selections)
        else:
            _draw_contour(next(panels), selections, contour, timings)
        for ax in axes:
            ax.tick_params(which="both", colors=MUTED, labelsize=9)
            ax.set_box_aspect(0.9 if len(axes) == 3 else 0.7)
            for side, spine in ax.spines.items():
                spine.set_visible(side in ("bottom", "left"))
                spine.set_color(MUTED)
        figure.legend(
            handles=[_handle(selection, timings) for selection in selections], loc="outside lower center",
            ncols=min(4, len(selections)), frameon=False, fontsize=10.5, handlelength=1.6, columnspacing=2.0,
        )  # fmt: skip


def _handle(selection, timings):
    from matplotlib.lines import Line2D

    found = "" if selection.method in OWN_CRITERION else f"{selection.best_criterion:.4g} in "
    effort = f"{selection.seconds:.3g} s" if timings else f"{selection.lower_solves} lower solves"
    label = f"{selection.method}: {found}{effort}"
    return Line2D([], [], color=_COLOURS[selection.method], linewidth=2.0, label=label)


def _draw_running(axes, selections, name, title, timings, log=False):
    """That column of the best trial so far over the seconds or the lower-level solves, a line a method."""
    for selection in selections:
        history = selection.history
        steps, effort = _best_rows(history), _times(history) if timings else np.maximum(history["lower_solves"], 1)
        known = np.isfinite(effort)
        effort = effort[known]
        values = _filled(np.where(steps, history[name], np.nan))[known]
        look = {"color": _COLOURS[selection.method], "linewidth": 2.0}
        axes.plot(effort, values, drawstyle="steps-post", **look)
        axes.plot(effort[-1:], values[-1:], "o", markersize=7, color=look["color"])
    axes.set_title(title, **TITLE, pad=10)
    axes.set_xlabel("seconds" if timings else "lower-level solves")
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    low, high = axes.get_ylim()
    least = min(selection.best_criterion for selection in selections)
    if log and least > 0:
        axes.set_yscale("log")
        axes.set_ylim(top=max(min(high, _WORST * least), 1.01 * least))
        _plain_ticks(axes.yaxis)
    elif not log:
        axes.set_ylim(bottom=max(low, high - _DECIBELS))
    axes.grid(True, which="major", **_GRID)


def _times(history):
    """The seconds of each row, those that earlier processes made at the first known time."""
    seconds = np.asarray(history["seconds"], float)
    return np.where(np.isfinite(seconds), seconds, np.nanmin(seconds) if np.isfinite(seconds).any() else np.nan)


def _best_rows(history):
    """The rows that were the best when they were made."""
    value = np.asarray(history["criterion"], float)
    return (value == np.asarray(history["best"], float)) & np.isfinite(value)


def _filled(values):
    """NaN replaced by the last value before it."""
    index = np.where(np.isfinite(values), np.arange(len(values)), -1)
    index = np.maximum.accumulate(index)
    return np.where(index >= 0, values[np.maximum(index, 0)], np.nan)


def _draw_contour(axes, selections, contour, timings):
    """The criterion of the grid in two parameters, the steps of the methods that walk, where each method ended."""
    names = [name for name in contour.history if name.endswith("_radius")]
    columns, rows, values = _table(*(contour.history[name] for name in (*names, "criterion")))
    axes.set_xscale("log")
    axes.set_yscale("log")
    if min(values.shape) > 1:
        _shade(axes, columns, rows, values)
    for method in _PATHS:
        for selection in selections:
            if selection.method == method:
                _draw_path(axes, selection, names)
    for selection in selections:
        if all(name in selection.values for name in names):
            place = [selection.values[name] for name in names]
            look = {"markeredgecolor": "white", "markeredgewidth": 1.0, "zorder": 6}
            axes.plot(*place, "*", markersize=15, color=_COLOURS[selection.method], clip_on=False, **look)
    for axis, name in zip((axes.xaxis, axes.yaxis), names, strict=True):
        axis.set_label_text(name.replace("tv_", "TV ").replace("_", " "))
        _plain_ticks(axis)
    axes.set_title("Criterion over the radii", **TITLE, pad=10)
    axes.set_xlabel(f"{axes.get_xlabel()}\n\n", linespacing=1.2)
    note = f"○ start   ★ selected\ncontours: {contour.words(timings)}"
    axes.annotate(note, (0.5, 0), (0, -36), xycoords="axes fraction", textcoords="offset points", ha="center",
                  va="top", fontsize=9, color=MUTED)  # fmt: skip


def _shade(axes, columns, rows, values):
    """Contours of the excess over the smallest value."""
    from matplotlib.ticker import FuncFormatter

    smallest = max(np.nanmin(values), 1e-6 * np.nanmax(values), np.finfo(float).tiny)
    excess = np.log10(np.maximum(values / smallest, 1))
    highest = float(np.nanmax(excess))
    levels = np.log10(1 + _LEVELS)
    levels = levels[levels < highest]
    axes.contourf(columns, rows, excess, levels=[0, *levels, max(highest, 1e-9)], cmap="Greys", alpha=0.45)
    if len(levels):
        lines = axes.contour(columns, rows, excess, levels=levels, colors=MUTED, linewidths=0.7)
        percent = FuncFormatter(lambda level, _: f"+{100 * (10**level - 1):.0f} %")
        axes.clabel(lines, fmt=percent, fontsize=8, colors=INK)


def _table(first, second, values):
    """Both axes, and the values as an array (second, first)."""
    columns, i = np.unique(first, return_inverse=True)
    rows, j = np.unique(second, return_inverse=True)
    table = np.full((len(rows), len(columns)), np.nan)
    table[j, i] = values
    return columns, rows, table


def _draw_path(axes, selection, names):
    """The steps that were kept as a line, the others as small crosses; an open circle where they begin."""
    history, colour = selection.history, _COLOURS[selection.method]
    if not all(name in history for name in names):
        return
    x, y = (np.asarray(history[name], float) for name in names)
    # As published BF-DCA keeps every step, whatever the criterion
    kept = np.ones(len(x), bool) if selection.method == "bf-dca-faithful" else _best_rows(history)
    axes.plot(x[~kept], y[~kept], "x", markersize=4, color=colour, alpha=0.6, zorder=4)
    axes.plot(x[kept], y[kept], "-", linewidth=3.4, color="white", alpha=0.8, zorder=4)
    axes.plot(x[kept], y[kept], ".-", linewidth=1.8, markersize=7, color=colour, zorder=5)
    axes.plot(x[:1], y[:1], "o", markersize=9, markerfacecolor="white", color=colour, markeredgewidth=1.8, zorder=5)


def _draw_curve(axes, selections):
    """All trials' criterion over the one parameter, and where each method ended."""
    name = next(iter(selections[0].values))
    for selection in selections:
        history, colour = selection.history, _COLOURS[selection.method]
        if selection.method in OWN_CRITERION:
            axes.axvline(selection.values[name], color=colour, linewidth=1.5, linestyle=(0, (4, 3)))
            continue
        order = np.argsort(history[name])
        axes.plot(history[name][order], history["criterion"][order], ".-", color=colour, linewidth=1, markersize=5)
        look = {"markersize": 15, "color": colour, "markeredgecolor": "white", "zorder": 6}
        axes.plot(selection.values[name], selection.best_criterion, "*", **look)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis)
    axes.set_xlabel(name.replace("tv_", "TV ").replace("_", " "))
    axes.set_title("Criterion of all trials", **TITLE, pad=10)
    axes.grid(True, which="major", **_GRID)


def _plain_ticks(axis):
    """Numbers such as 0.02 and 50 instead of powers of ten on a logarithmic axis, and enough of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low) if low > 0 else 0
    wide = LogLocator(subs=(1.0,) if decades > 3 else (1.0, 2.0, 5.0))
    axis.set_major_locator(wide if decades > 0.9 else MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
