"""Before and after with a learned target: a bundled photograph, the lower level, non-local means and the network.

python examples/learned_target.py [OUT.png]            (pip install bioperf[torch])
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from skimage import data

import bioperf
from bioperf.cli.demo import motion_kernel

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NOISE = 0.01


def main():
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "learned-target.png")
    image = data.camera().astype(np.float32) / 255
    psf = motion_kernel(25, 3)
    A = bioperf.Blur(psf, image.shape)
    y = (A(image) + NOISE * np.random.default_rng(0).standard_normal(image.shape)).astype(np.float32)
    nlm, cnn = (bioperf.deblur(y, psf, target=target) for target in ("nlm", "cnn"))
    panels = {
        "blurred": y, "lower level": cnn.details["lower_image"], 'target "nlm"': nlm.x, 'target "cnn"': cnn.x,
    }  # fmt: skip

    figure, axes = plt.subplots(2, len(panels), figsize=(13, 6.8))
    for column, (title, x) in zip(axes.T, panels.items(), strict=True):
        column[0].set_title(f"{title}\n{bioperf.psnr(x, image):.2f} dB, SSIM {bioperf.ssim(x, image):.3f}", fontsize=11)
        for panel, part in zip(column, (x, x[80:230, 170:320]), strict=True):
            panel.imshow(part, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set_axis_off()
    figure.tight_layout()
    figure.savefig(out, dpi=75)
    print(f"{cnn.status}; wrote {out}")


if __name__ == "__main__":
    main()
