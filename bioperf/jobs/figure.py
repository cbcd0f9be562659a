"""Figures of a result: before and after a blur was undone, or a reconstruction from k-space, with the convergence."""

from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np

from ..io import write_whole

__all__ = ["Panel", "draw", "draw_reconstruction"]

WIDTH = 1500
INK, MUTED, _ACCENT = "#1f2933", "#52606d", "#f2b134"
# What is smaller is rounding, and is not drawn.
_FLOOR = 1e-9
TITLE = {"fontsize": 14, "fontweight": "bold"}
_GREY = {"cmap": "gray", "vmin": 0, "vmax": 1}
_CURVES = (
    ("gap", "relative gap", "#1b6ca8"),
    ("tv_infeasibility", "TV infeasibility", "#d1495b"),
    ("data_infeasibility", "data infeasibility", "#3a9d6e"),
    ("kkt_residual", "KKT residual", "#8a7fb5"),
)


@dataclass
class Panel:
    """One column: a title, an image (H, W) or (H, W, 3) in [0, 1], and (PSNR, SSIM) if there is a reference."""

    title: str
    image: np.ndarray
    quality: tuple | None = None


def draw(path, panels, psf, facts, history, *, stop=None, crop=None):
    """Draw the columns of ``panels``, the certificate and its curves; write a PNG of 1500 pixels' width.

    Parameters
    ----------
    path : str or Path
    panels : list of Panel
        Images of one shape; the psf is drawn into the second-last one, the blurred.
    psf : ndarray, shape (kh, kw)
    facts : list of (str, str)
        Names and values beside the images.
    history : dict of str -> ndarray
        A Solution's; the curves of a certificate are taken from it where present.
    stop : int, optional
        The iteration to mark as the end of the solve, where the history goes on.
    crop : tuple of 2 slices, optional
        The part to enlarge; the one with the strongest gradients by default.

    Raises
    ------
    OutputError
    """
    shape = panels[0].image.shape[:2]
    crop = crop or _liveliest(panels[-1].image)
    columns = len(panels) + 1
    column_width = 14.4 / columns
    crop_shape = tuple(part.stop - part.start for part in crop)
    heights = [shape[0] / shape[1], crop_shape[0] / crop_shape[1]]
    height = float(np.clip(column_width * sum(heights) + 1.1, 4.0, 24.0))
    with canvas(path, height) as figure:
        grid = figure.add_gridspec(2, columns, height_ratios=heights, width_ratios=[1] * len(panels) + [1.04])
        for k, panel in enumerate(panels):
            whole, part = figure.add_subplot(grid[0, k]), figure.add_subplot(grid[1, k])
            _draw_panel(whole, part, panel, crop)
            if k == len(panels) - 2:
                _draw_psf(whole, psf)
        handles = _draw_convergence(figure.add_subplot(grid[1, -1]), history, stop)
        _draw_facts(figure.add_subplot(grid[0, -1]), facts, handles, heights[0])


def draw_reconstruction(path, panels, mask, facts, history):
    """Draw three images, the k-space mask, the curves of the certificate and its facts; a PNG of 1500 pixels' width.

    Parameters
    ----------
    path : str or Path
    panels : list of 3 Panel
        Magnitude images of one shape.
    mask : ndarray of bool, shape (H, W)
        The samples taken, the zero frequency in the middle.
    facts, history
        As for ``draw``.

    Raises
    ------
    OutputError
    """
    aspect = panels[0].image.shape[0] / panels[0].image.shape[1]
    heights = [4.85 * aspect + 0.6, 4.85 * float(np.clip(aspect, 0.6, 0.9)) + 0.9]
    with canvas(path, float(np.clip(sum(heights), 4.0, 24.0))) as figure:
        # Each row is laid out by itself: the numbers at the curves do not move the images
        rows = [row.subgridspec(1, 3) for row in figure.add_gridspec(2, 1, height_ratios=heights)]
        for k, panel in enumerate(panels):
            _draw_image(figure.add_subplot(rows[0][k]), panel, pad=10)
        samples, curves, certificate = (figure.add_subplot(rows[1][k]) for k in range(3))
        _draw_image(samples, Panel(f"k-space samples, {mask.mean():.1%}", mask), pad=10)
        samples.set_anchor("N")
        curves.set_title("Convergence", **TITLE, pad=10)
        handles = _draw_convergence(curves, history, None)
        _draw_facts(certificate, facts, handles, None, pad=10)


@contextmanager
def canvas(path, height):
    """A figure of that height in inches; written to the path at the end."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {"font.family": "DejaVu Sans", "font.size": 11, "text.color": INK, "axes.labelcolor": INK}
    with rc_context(style):
        figure = Figure(figsize=(WIDTH / 100, height), dpi=100, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.01, hspace=0.01)
        yield figure
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
    content = _compact(buffer)
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def _draw_panel(whole, part, panel, crop):
    from matplotlib.patches import Rectangle

    _draw_image(whole, panel)
    rows, columns = crop
    corner = (columns.start - 0.5, rows.start - 0.5)
    frame = {"fill": False, "edgecolor": _ACCENT, "linewidth": 2}
    whole.add_patch(Rectangle(corner, columns.stop - columns.start, rows.stop - rows.start, **frame))
    part.imshow(np.clip(panel.image, 0, 1)[crop], interpolation="bicubic", **_GREY)
    _frame(part, _ACCENT, 2.5)


def _draw_image(axes, panel, pad=24):
    axes.imshow(np.clip(panel.image, 0, 1), **_GREY)
    axes.set_title(panel.title, **TITLE, pad=pad)
    if panel.quality:
        text = "PSNR {:.2f} dB    SSIM {:.3f}".format(*panel.quality)
        axes.text(0.5, 1.02, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=12)
    _frame(axes, INK, 1)


def _frame(axes, colour, width):
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=width)


def _draw_psf(whole, psf):
    inset = whole.inset_axes((0.7, 0.02, 0.28, 0.28))
    inset.imshow(psf, cmap="gray", interpolation="nearest")
    inset.set_title("blur kernel", fontsize=9, color="white", pad=3)
    _frame(inset, "white", 1.5)


def _draw_facts(axes, facts, handles, aspect, pad=24):
    axes.set_box_aspect(aspect)
    axes.set_title("Certificate", **TITLE, pad=pad)
    axes.set_axis_off()
    step = min(0.115, 0.8 / max(1, len(facts)))
    for k, (name, value) in enumerate(facts):
        height = 0.97 - k * step
        axes.text(0.04, height, name, transform=axes.transAxes, va="top", fontsize=11, color=MUTED)
        axes.text(0.98, height, value, transform=axes.transAxes, va="top", ha="right", fontsize=11)
    if handles:
        axes.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0.0, -0.04), ncols=2, frameon=False, fontsize=9.5,
            handlelength=1.4, columnspacing=1.2,
        )  # fmt: skip


def _draw_convergence(axes, history, stop):
    handles = []
    for name, label, colour in _CURVES:
        if name in history:
            values = np.abs(np.asarray(history[name], float))
            shown = values > _FLOOR
            look = {"marker": "o", "markersize": 3, "linewidth": 1.8, "color": colour}
            label = label if shown.any() else f"{label}: 0"
            handles += axes.plot(history["iteration"][shown], values[shown], label=label, **look)
    axes.set_yscale("log")
    if stop is not None:
        axes.axvline(stop, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        place = {"textcoords": "offset points", "xycoords": ("data", "axes fraction"), "fontsize": 9, "color": MUTED}
        axes.annotate("stopped here", (stop, 0.94), (4, 2), **place)
    axes.set_xlabel("iteration of the upper level")
    axes.yaxis.tick_right()
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.grid(True, which="major", color="#e3e8ed", linewidth=0.8)
    axes.minorticks_off()
    axes.xaxis.get_major_locator().set_params(integer=True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("bottom", "right"))
        spine.set_color(MUTED)
    return handles


def _liveliest(image):
    """The square, a quarter of the shorter side, with the largest sum of gradient magnitudes."""
    grey = image.mean(-1) if image.ndim == 3 else image
    side = max(8, min(grey.shape) // 4)
    side = min(side, *grey.shape)
    strength = sum(np.abs(np.diff(grey, axis=axis, append=0)) for axis in (0, 1)).astype(float)
    strength[:, -1], strength[-1] = 0, 0
    total = np.pad(strength.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    boxes = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    row, column = np.unravel_index(np.argmax(boxes), boxes.shape)
    return slice(int(row), int(row) + side), slice(int(column), int(column) + side)


def _compact(buffer):
    """The same picture as PNG without an alpha channel."""
    from PIL import Image

    buffer.seek(0)
    out = BytesIO()
    Image.open(buffer).convert("RGB").save(out, "PNG", optimize=True)
    return out.getvalue()
