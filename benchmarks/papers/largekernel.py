"""A large motion kernel on a colour photograph: the lower level, ``deblur`` by default and with the network.

    python benchmarks/papers/largekernel.py DATA_DIR [--image manmade_02] [--kernel 4] [--crop N] [--out DIR]

DATA_DIR holds ``largekernel/lai_subset.npz`` (Lai et al., CVPR 2016): RGB images and true-convolution kernels of 31 to
75 pixels.  Circular blur, noise of standard deviation 0.01 from ``default_rng(0)``.  Writes largekernel.csv, .md and
.png: before, lower level, restored, with a detail of each.
"""

import argparse
from pathlib import Path

import numpy as np
from table import Table, timed

NOISE = 0.01


def draw(path, panels, side):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(panels), figsize=(4.2 * len(panels), 6.6))
    for column, (title, image) in zip(axes.T, panels.items(), strict=True):
        shown = np.clip(image, 0, 1)
        top, left = ((n - side) // 2 for n in shown.shape[:2])
        for panel, part in zip(column, (shown, shown[top : top + side, left : left + side]), strict=True):
            panel.imshow(part, interpolation="nearest")
            panel.set_axis_off()
        column[0].set_title(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("--image", default="manmade_02")
    parser.add_argument("--kernel", type=int, default=4, choices=(1, 2, 3, 4))
    parser.add_argument("--crop", type=int, metavar="N", help="the middle N x N pixels only")
    parser.add_argument("--threads", type=int, metavar="T")
    parser.add_argument("--out", type=Path, default=Path("largekernel-results"), metavar="DIR")
    options = parser.parse_args()

    import bioperf

    with np.load(options.data_dir / "largekernel" / "lai_subset.npz", allow_pickle=False) as file:
        truth = (file[options.image] / 255).astype(np.float32)
        psf = file[f"kernel_{options.kernel}"]
    if options.crop:
        top, left = (max(0, (n - options.crop) // 2) for n in truth.shape[:2])
        truth = np.ascontiguousarray(truth[top : top + options.crop, left : left + options.crop])
    A = bioperf.Blur(psf / psf.sum(), truth.shape[:2])
    blurred = np.moveaxis(A(np.moveaxis(truth, -1, 0)), 0, -1)
    y = (blurred + NOISE * np.random.default_rng(0).standard_normal(blurred.shape)).astype(np.float32)

    table, panels = Table(("channel",)), {}

    def add(row, x, seconds=None, lower=None):
        for channel in range(3):
            below = None if lower is None else lower[..., channel]
            table.add(row, (channel,), x[..., channel], truth[..., channel], None, seconds, below)
        psnr, ssim = (np.mean([score[name] for score in table.rows[row]]) for name in ("psnr", "ssim"))
        panels[f"{row}\n{psnr:.2f} dB, SSIM {ssim:.3f}"] = x

    add("blurred", y)
    for k, target in enumerate(("nlm", "cnn")):
        solution, seconds = timed(bioperf.deblur, y, psf, target=target, channel_axis=-1, threads=options.threads)
        items = solution.details["items"]
        lower = np.stack([item["lower_image"] for item in items], axis=-1)
        if k == 0:
            add("lower level", lower, sum(item["seconds"]["lower"] for item in items))
        add(f'deblur, target "{target}"', solution.x, seconds, lower)
        parts = {name: sum(item["seconds"][name] for item in items) for name in ("lower", "target", "upper")}
        print(target, {name: round(value, 2) for name, value in parts.items()}, "seconds,", solution.status)
    size = f"{truth.shape[0]}x{truth.shape[1]}, kernel {psf.shape[0]}x{psf.shape[1]}"
    remarks = [f"{options.image}, {size}, circular blur, noise {NOISE:g}; PSNR and SSIM are means of three channels."]
    print(table.write(options.out, "largekernel", "A large kernel on a colour photograph", remarks))
    draw(options.out / "largekernel.png", panels, 160)


if __name__ == "__main__":
    main()
