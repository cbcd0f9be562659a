"""Calibrate the rules of ``bioperf.deblur`` on natural images under random motion kernels.

    python benchmarks/calibrate.py DATA_DIR [--images N] [--out FILE]

DATA_DIR holds ``set12.npz`` (grey uint8 images) and, if at hand, ``bsds_train.npz`` (``landscape``).  Printed:

1. For each noise level the lower level's weight of best mean PSNR, and the fit factor * noise^power.
2. For each noise level the mean PSNR and SSIM of ``deblur`` and its smallest gain over the lower level, over
   the target's strength and epsilon.  The rules take a point on the plateau common to all levels.
3. The trust in each kind of target and the gain at a fixed epsilon: why the limits stand where they do.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np

import bioperf
from bioperf.cli.demo import motion_kernel
from bioperf.targets import Deconvolution, Identity, NonLocalMeans

NOISE = (0.005, 0.01, 0.02, 0.04)
SIZE = 256


def images(folder, count):
    with np.load(folder / "set12.npz", allow_pickle=False) as file:
        pictures = [file[name] for name in sorted(file.files)][:count]
    if (folder / "bsds_train.npz").exists():
        with np.load(folder / "bsds_train.npz", allow_pickle=False) as file:
            landscape = file["landscape"]
        pictures += list(landscape[:: max(1, len(landscape) // count)][:count])
    for picture in pictures:
        top, left = ((n - SIZE) // 2 for n in picture.shape)
        yield (picture[top : top + SIZE, left : left + SIZE] / 255).astype(np.float32)


def problems(folder, count, noise):
    for k, image in enumerate(images(folder, count)):
        A = bioperf.Blur(motion_kernel((13, 17, 21, 27)[k % 4], 100 + k), image.shape)
        observed = A(image) + noise * np.random.default_rng(7000 + k).standard_normal(image.shape)
        yield image, A, observed.astype(np.float32)


def best_weight(cases, noise):
    """The weight of best mean PSNR: a parabola through the best of a geometric grid and its neighbours."""
    weights = 0.7 * noise**1.5 * 1.4 ** np.arange(-4.0, 5.0)
    means = [
        np.mean(
            [bioperf.psnr(bioperf.solve_lower(A, y, w, isotropic=True, tol=1e-3).x, image) for image, A, y in cases]
        )
        for w in weights
    ]
    at = int(np.clip(np.argmax(means), 1, len(means) - 2))
    a, b, _ = np.polyfit(np.log(weights[at - 1 : at + 2]), means[at - 1 : at + 2], 2)
    return float(np.exp(-b / (2 * a))), max(means)


def quality(cases):
    rows = []
    for image, A, y in cases:
        solution = bioperf.deblur(y, A.psf)
        lower = bioperf.psnr(solution.details["lower_image"], image)
        restored = bioperf.psnr(solution.x, image)
        rows.append((restored, bioperf.ssim(solution.x, image), restored - lower))
    rows = np.array(rows)
    return rows[:, 0].mean(), rows[:, 1].mean(), rows[:, 2].min()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=6, help="of each set (default 6)")
    parser.add_argument("--out", type=Path, help="write the tables there, too")
    arguments = parser.parse_args()
    cases = {noise: list(problems(arguments.data, arguments.images, noise)) for noise in NOISE}
    lines = ["| noise | best weight | mean PSNR |", "|---|---|---|"]
    best = []
    for noise in NOISE:
        weight, mean = best_weight(cases[noise], noise)
        best.append(weight)
        lines.append(f"| {noise} | {weight:.2e} | {mean:.2f} |")
    power, intercept = np.polyfit(np.log(NOISE), np.log(best), 1)
    lines += ["", f"fit: {np.exp(intercept):.2f} noise^{power:.2f}", ""]

    lines += ["| strength factor | epsilon factor | " + " | ".join(f"noise {noise}" for noise in NOISE) + " |"]
    lines += ["|" + "---|" * (2 + len(NOISE))]
    factor, model = NonLocalMeans.FACTOR, NonLocalMeans.exact_model
    for NonLocalMeans.FACTOR, epsilon in itertools.product((0.036, 0.042, 0.048), (0.1, 0.15, 0.2)):
        NonLocalMeans.exact_model = (epsilon, model[1])
        cells = ["{:.2f}/{:.4f} (gain >= {:+.2f})".format(*quality(cases[noise])) for noise in NOISE]
        lines.append(f"| {NonLocalMeans.FACTOR} | {epsilon} | " + " | ".join(cells) + " |")
    NonLocalMeans.FACTOR, NonLocalMeans.exact_model = factor, model

    lines += ["", "| noise | target | trust | gain at the full epsilon |", "|---|---|---|---|"]
    for noise, (name, target) in itertools.product(
        NOISE, {"nlm": NonLocalMeans(), "deconv": Deconvolution(), "identity": Identity()}.items()
    ):
        trust, gains = [], []
        for image, A, y in cases[noise]:
            trust.append(bioperf.deblur(y, A.psf, target=target).details["trust"])
            full = bioperf.deblur(y, A.psf, target=target, epsilon=epsilon * noise * SIZE)
            gains.append(bioperf.psnr(full.x, image) - bioperf.psnr(full.details["lower_image"], image))
        lines.append(
            f"| {noise} | {name} | {min(trust):.2f} to {max(trust):.2f} | {min(gains):+.2f} to {max(gains):+.2f} |"
        )
    report = "\n".join(lines)
    print(report)
    if arguments.out:
        arguments.out.write_text(report + "\n")


if __name__ == "__main__":
    main()
