"""Quality on compressed sensing MRI: real images, noise-free, one coil; the paper's Fig. 8 in kind.

    python benchmarks/papers/csmri.py DATA_DIR [--sets brain chest tumour] [--masks radial cartesian gaussian]
        [--rates 20 30] [--images N] [--out DIR]

Rows: the zero-filled image; lower levels, total variation (weight 3e-4) alone and with a wavelet of the same weight;
the bilevel problem with the zero-filled image as target, exact (epsilon = kappa = 0) and, as the paper has it, with
rho |T x|_1 of one weight for all coefficients and kappa = 1; the same with non-local means of the lower level (TV
and wavelet) as target, with and without that term; ``reconstruct_mri`` with its lower level, one round, and its
defaults; and with the network as target (extra "torch"), after one round and after the default's, its image D a row
of its own.  The two values of rho come from a coarse grid on cardiac slices.

A gain is over the lower level of ``reconstruct_mri``; the smallest one tells whether any image lost.  Seconds are
those of the whole way from k-space: a bilevel row's hold its lower level's and its target's.

Writes, for each set, mask and rate, csmri-<set>-<mask>-<rate>.csv and .md and csmri-<set>-<mask>-<rate>-images.csv
with a line for each image and row, and for each set and mask csmri-<set>-<mask>.png, seconds against PSNR.
"""

import argparse
import functools
from pathlib import Path

import numpy as np
from csmri_data import KINDS, SETS, images, mask
from networks import networks
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from table import Table, timed

WEIGHT, STRENGTH, NETWORK_LEVEL = 3e-4, 0.01, 0.02
RHO_ZERO_FILLED, RHO_MEANS = 0.3, 1e-3
DEFAULT = "reconstruct_mri"

# Row -> colour in the figure: lower levels blue, bilevel problems green and orange, the one call red.
COLOURS = {
    "zero-filled": "#8c8c8c",
    "TV": "#9ecae1",
    "TV, isotropic": "#4292c6",
    "TV + DWT (db4)": "#2171b5",
    "TV, isotropic + undecimated (db2)": "#08306b",
    "BIO, zero-filled, exact": "#c7e9c0",
    "BIO, zero-filled + DCT": "#74c476",
    "BIO, zero-filled + DWT": "#238b45",
    "BIO, nlm": "#fdae6b",
    "BIO, nlm + DCT": "#f16913",
    "BIO, nlm + DWT": "#a63603",
    f"{DEFAULT}, 1 round": "#e377c2",
    DEFAULT: "#cb181d",
    "D of cnn, 1 round, time of D alone": "#bcbddc",
    f"{DEFAULT}, cnn, 1 round": "#807dba",
    "D of cnn, time of D alone": "#9e9ac8",
    f"{DEFAULT}, cnn": "#54278f",
}

# Ending of a row -> marker and size of its mean; the first that fits.
MARKERS = dict.fromkeys((DEFAULT, "1 round", "cnn"), ("D", 85)) | {
    "+ DCT": ("s", 50),
    "+ DWT": ("^", 40),
    "": ("o", 110),
}

# Printed elsewhere: mean PSNR and SSIM of the whole brain set with the radial masks.
QUOTED = {
    ("brain", "radial", 20): (
        ("quoted: TV", 33.48, 0.8856),
        ("quoted: TV + DWT (db4)", 33.92, 0.8962),
        ("quoted: ISTA-Net+ (trained)", 37.66, 0.9466),
    ),
    ("brain", "radial", 30): (
        ("quoted: TV", 36.62, 0.9341),
        ("quoted: TV + DWT (db4)", 37.18, 0.9405),
        ("quoted: ISTA-Net+ (trained)", 40.05, 0.9633),
    ),
}


def score(table, key, truth, sampled, max_iter, threads):
    """Every row of the table for one image."""
    from bioperf import MaskedFourier, reconstruct_mri, solve_bio, solve_lower
    from bioperf.targets import non_local_means

    A = MaskedFourier(sampled)
    y = A(truth.astype(np.float32))
    one_call, one_call_seconds = timed(reconstruct_mri, y, sampled, threads=threads)
    base = one_call.details["lower_image"]

    def add(row, x, solution=None, seconds=None):
        table.add(row, (key,), x, truth, solution, seconds, base)

    add("zero-filled", *timed_image(A.adjoint, y))

    lower_level = functools.partial(timed, solve_lower, A, y, WEIGHT, threads=threads)
    wavelet = {"wavelet_weight": WEIGHT, "wavelet": "db4"}
    variation, variation_seconds = lower_level()
    add("TV", variation.x, variation, variation_seconds)
    solution, seconds = lower_level(isotropic=True)
    add("TV, isotropic", solution.x, solution, seconds)
    both, both_seconds = lower_level(**wavelet)
    add("TV + DWT (db4)", both.x, both, both_seconds)
    undecimated = one_call.details["lower"]
    add("TV, isotropic + undecimated (db2)", base, undecimated, one_call.details["seconds"]["lower"])

    def bilevel(row, lower, earlier, **model):
        model |= {"tv_weight": WEIGHT, "lower": lower, "max_iter": max_iter, "threads": threads}
        solution, seconds = timed(solve_bio, A, y, **model)
        add(row, solution.x, solution, earlier + seconds)

    bilevel("BIO, zero-filled, exact", variation, variation_seconds, target="identity")
    means, _, seconds = timed_image(non_local_means, both.x, STRENGTH)
    for name, target, rho, lower, earlier in (
        ("zero-filled", "identity", RHO_ZERO_FILLED, variation, variation_seconds),
        ("nlm", means, RHO_MEANS, both, both_seconds + seconds),
    ):
        if name == "nlm":
            bilevel("BIO, nlm", lower, earlier, target=target, kappa=1.0)
        for transform, short in (("dct", "DCT"), ("db4", "DWT")):
            bilevel(
                f"BIO, {name} + {short}", lower, earlier, target=target, kappa=1.0, sparsity_weight=rho,
                transform=transform,
            )  # fmt: skip

    solution, seconds = timed(reconstruct_mri, y, sampled, rounds=1, threads=threads)
    add(f"{DEFAULT}, 1 round", solution.x, solution, seconds)
    add(DEFAULT, one_call.x, one_call, one_call_seconds)
    for name, target in networks(NETWORK_LEVEL).items():
        solution, seconds = timed(reconstruct_mri, y, sampled, target=target, threads=threads)
        add(f"D of {name}, time of D alone", solution.details["target"], None, solution.details["seconds"]["target"])
        add(f"{DEFAULT}, {name}", solution.x, solution, seconds)


def timed_image(function, *arguments):
    """What ``add`` takes of an image without a Solution."""
    x, seconds = timed(function, *arguments)
    return x, None, seconds


def draw(tables, title, quoted, path):
    """Seconds against PSNR, a panel a rate: a small dot an image, a large mark the mean; levels as lines.

    ``quoted``: rate -> rows printed elsewhere, of which the last is drawn.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = plt.subplots(1, len(tables), figsize=(4.8 * len(tables) + 3.0, 5.2), sharex=True, squeeze=False)
    for panel, (rate, table) in zip(axes[0], tables.items(), strict=True):
        for row, scores in table.rows.items():
            seconds, quality = np.array([(s["seconds"], s["psnr"]) for s in scores]).T
            if row == "zero-filled":
                panel.axhline(quality.mean(), color=COLOURS[row], linestyle="--", linewidth=1.2, label=row)
                continue
            panel.scatter(seconds, quality, s=10, color=COLOURS[row], alpha=0.45, linewidths=0)
            marker, size = next(style for ending, style in MARKERS.items() if row.endswith(ending))
            panel.scatter(
                seconds.mean(), quality.mean(), s=size, color=COLOURS[row], label=row, marker=marker, zorder=3,
                edgecolors="white", linewidths=0.8,
            )  # fmt: skip
        for row, level, _ in quoted.get(rate, ())[-1:]:
            panel.axhline(level, color="black", linestyle=":", linewidth=1.2, label=row)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_title(f"{rate} % sampled", fontsize=11)
        panel.set_xlabel("seconds an image")
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("PSNR / dB")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.suptitle(title)
    figure.tight_layout(rect=(0, 0, 1 - 2.9 / figure.get_figwidth(), 1))
    edge = axes[0, -1].get_position()
    figure.legend(
        handles, labels, loc="center left", bbox_to_anchor=(edge.x1 + 0.01, (edge.y0 + edge.y1) / 2), frameon=False,
        fontsize=9,
    )  # fmt: skip
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["brain"])
    parser.add_argument("--masks", nargs="+", choices=KINDS, default=["radial"])
    parser.add_argument("--rates", nargs="+", type=int, default=[20, 30], metavar="RATE", help="per cent")
    parser.add_argument("--images", type=int, metavar="N", help="N of each set, spread over it (default: all)")
    parser.add_argument("--max-iter", type=int, default=1000, metavar="N", help="limit of the bilevel rows")
    parser.add_argument("--threads", type=int, metavar="T")
    parser.add_argument("--out", type=Path, default=Path("csmri-results"), metavar="DIR")
    options = parser.parse_args()

    stacks = {name: images(options.data_dir, name, options.images) for name in options.sets}
    masks = {(kind, rate): mask(options.data_dir, kind, rate) for kind in options.masks for rate in options.rates}
    limits = options.max_iter, options.threads
    first = next(iter(stacks.values()))[0]
    warm_up = next(iter(masks.values()))
    score(Table(("image",)), 0, first[:64, :64], warm_up[::4, ::4], *limits)  # libraries loaded, threads started

    console = Console(stderr=True)
    columns = TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    texts = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(masks) * sum(len(stack) for stack in stacks.values()))
        for name, stack in stacks.items():
            for kind in options.masks:
                tables = {}
                for rate in options.rates:
                    progress.update(task, description=f"{name}, {kind} {rate} %")
                    tables[rate] = table = Table(("image",), ("psnr", "ssim", "rlne"))
                    for k, truth in enumerate(stack):
                        score(table, k, truth, masks[kind, rate], *limits)
                        progress.advance(task)
                    share = f"{masks[kind, rate].mean():.2%} of k-space sampled"
                    remarks = [
                        f"{len(stack)} images, real, noise-free, {share}, float32; PSNR and SSIM of the result "
                        "clipped to [0, 1].",
                        f'Gains are over the lower level of `{DEFAULT}` (the row "TV, isotropic + undecimated").',
                        "Seconds from k-space to image, the lower level and the target included; iterations are those "
                        "of the row's last solve.",
                    ]
                    quoted = QUOTED.get((name, kind, rate), ())
                    if quoted:
                        remarks.append("The quoted rows are of the whole set of 23 images.")
                    title = f"Compressed sensing MRI: {name}, {kind} mask, {rate} %"
                    texts.append(table.write(options.out, f"csmri-{name}-{kind}-{rate}", title, remarks, quoted))
                title = f"{name}, {kind} mask: {len(stack)} images"
                quoted = {rate: QUOTED.get((name, kind, rate), ()) for rate in options.rates}
                draw(tables, title, quoted, options.out / f"csmri-{name}-{kind}.png")
    print("\n".join(texts))


if __name__ == "__main__":
    main()
