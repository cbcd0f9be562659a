"""The network of the target "cnn" as a denoiser: PSNR on Set12, and its time beside torch's own forward pass.

    python benchmarks/papers/denoising.py DATA_DIR [--weights natural|mri|FILE] [--levels 12.75 15 25] [--threads T]

DATA_DIR holds ``natural/set12.npz``.  Noise of standard deviation level/255 from ``default_rng(0)``, image by image in
the order of their names; the result is clipped to [0, 1].  DnCNN-S: Zhang et al., TIP 2017, a network a level.
"""

import argparse
import time
from pathlib import Path

import numpy as np

DNCNN_S = {15.0: 32.859, 25.0: 30.436}


def alternating(functions, rounds):
    """Median seconds of each function, run in turn."""
    times = [[] for _ in functions]
    for _ in range(rounds + 1):
        for function, record in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            record.append(time.perf_counter() - start)
    return [float(np.median(record[1:])) for record in times]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("--weights", default="natural")
    parser.add_argument("--levels", type=float, nargs="+", default=[12.75, 15.0, 25.0], metavar="L")
    parser.add_argument("--threads", type=int, default=2, metavar="T")
    options = parser.parse_args()

    import torch

    from bioperf import psnr
    from bioperf.targets import CNN

    torch.set_num_threads(options.threads)
    network = CNN(options.weights)
    with np.load(options.data_dir / "natural" / "set12.npz", allow_pickle=False) as file:
        images = [(file[name] / 255).astype(np.float32) for name in sorted(file.files)]
    print(f"| level | noisy | {options.weights} | DnCNN-S |\n|---|---|---|---|")
    for level in options.levels:
        rng = np.random.default_rng(0)
        values = []
        for clean in images:
            noisy = clean + np.float32(level / 255) * rng.standard_normal(clean.shape, np.float32)
            denoised = np.clip(network.apply(noisy, level / 255), 0, 1)
            values.append((psnr(noisy, clean), psnr(denoised, clean)))
        before, after = np.mean(values, axis=0)
        print(f"| {level:g}/255 | {before:.2f} | {after:.2f} | {DNCNN_S.get(level, '')} |", flush=True)

    image = np.random.default_rng(0).random((256, 256), np.float32)
    plain = network.network(options.weights)
    tensor, level = torch.from_numpy(image)[None, None], torch.tensor([0.05])

    def forward():
        with torch.inference_mode():
            plain(tensor, level)

    ours, theirs = alternating([lambda: network.apply(image, 0.05), forward], 15)
    print(
        f"\nOne 256x256 image, {options.threads} threads: CNN.apply {1e3 * ours:.1f} ms, torch's forward pass "
        f"{1e3 * theirs:.1f} ms, ratio {ours / theirs:.2f}"
    )


if __name__ == "__main__":
    main()
