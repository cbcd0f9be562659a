"""Calibrate the rules of ``bioperf.reconstruct_mri`` on cardiac and tumour slices (never on the brain set).

    python benchmarks/calibrate_mri.py DATA_DIR [--images N] [--noise S ...] [--out FILE]

DATA_DIR holds ``chest/chest.npz``, ``tumour/tumour.npz`` and ``brain/masks.npz`` (masks only).  For each noise level
and each constant of ``bioperf.mri`` in turn, the others left at their values, the mean PSNR of both masks and all
slices is printed, with the smallest gain over the lower level: each constant stands on a plateau.
"""

import argparse
from pathlib import Path

import numpy as np

import bioperf
from bioperf import mri

# Constant -> the values tried; the one in use is among them.
GRID = {
    "WEIGHT_FLOOR": (5e-5, 1e-4, 2e-4, 4e-4),
    "WEIGHT_FACTOR": (0.02, 0.05, 0.1),
    "EPSILON_FACTOR": (0.3, 0.6, 0.9),
    "KAPPA": (0.0, 0.05, 0.15, 0.5),
    "SPARSITY": (0.05, 0.15, 0.5),
    "STRENGTHS": ((0.02,), (0.02, 0.02), (0.03, 0.02), (0.04, 0.03), (0.03, 0.02, 0.02)),
    "COEFFICIENT_SCALE": (0.0015, 0.003, 0.006),
}


def slices(folder, count):
    with np.load(folder / "chest" / "chest.npz", allow_pickle=False) as file:
        chest = file["counts"] / file["peak"][:, None, None]
    with np.load(folder / "tumour" / "tumour.npz", allow_pickle=False) as file:
        tumour = file["images"] / 255
    for images in (chest, tumour):
        yield from images[:: max(1, len(images) // count)][:count].astype(np.float32)


def measurements(folder, count, noise):
    with np.load(folder / "brain" / "masks.npz", allow_pickle=False) as file:
        masks = [np.fft.ifftshift(file[name]) for name in ("radial_20", "radial_30")]
    for k, image in enumerate(slices(folder, count)):
        rng = np.random.default_rng(9000 + k)
        for mask in masks:
            y = bioperf.MaskedFourier(mask)(image)
            error = rng.standard_normal(y.shape) + 1j * rng.standard_normal(y.shape)
            yield image, mask, (y + mask * noise / np.sqrt(2) * error).astype(np.complex64)


def scores(cases, noise):
    """Mean PSNR of the lower level and of the result, and the smallest gain."""
    rounds = len(mri.STRENGTHS)
    pairs = []
    for image, mask, y in cases:
        solution = bioperf.reconstruct_mri(y, mask, noise_std=noise, real=True, rounds=rounds)
        pairs.append([bioperf.psnr(x, image) for x in (solution.details["lower_image"], solution.x)])
    lower, result = np.array(pairs).T
    return lower.mean(), result.mean(), (result - lower).min()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("--images", type=int, default=3, metavar="N", help="slices of each set (default 3)")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.01], metavar="S")
    parser.add_argument("--only", nargs="+", choices=GRID, default=list(GRID), metavar="NAME", help="constants to vary")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown")
    options = parser.parse_args()

    lines = [
        "| noise | constant | value | lower level / dB | result / dB | smallest gain / dB |",
        "|---|---|---|---|---|---|",
    ]
    for noise in options.noise:
        cases = list(measurements(options.data_dir, options.images, noise))
        for name in options.only:
            kept = getattr(mri, name)
            for value in GRID[name]:
                setattr(mri, name, value)
                lower, result, gain = scores(cases, noise)
                mark = " (in use)" if value == kept else ""
                lines.append(f"| {noise:g} | {name} | {value}{mark} | {lower:.2f} | {result:.2f} | {gain:+.2f} |")
                print(lines[-1], flush=True)
            setattr(mri, name, kept)
    if options.out:
        options.out.write_text("\n".join(["# Calibration of reconstruct_mri", "", *lines, ""]))


if __name__ == "__main__":
    main()
