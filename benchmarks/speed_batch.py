"""Batches against calls one by one, and against one thread: images per second, in turn, in one process.

    python benchmarks/speed_batch.py --out speed-batch.json

a  64 images of 256x256: one call with one thread, with all, and a call an image; lower level, both levels
b  one observation of 128x128 under 400 weights: one call, and 400 calls
"""

import numpy as np

try:
    from . import timing
    from .common import NOISE, TV_WEIGHT, blurred, image, motion_psf
except ImportError:  # run as a file
    import timing
    from common import NOISE, TV_WEIGHT, blurred, image, motion_psf


def stack(size, count):
    """A blur, the truth and ``count`` observations with noise of their own, float32."""
    import bioperf

    truth, psf = image(size), motion_psf()
    y = np.stack([blurred(truth, psf, seed=seed) for seed in range(count)]).astype(np.float32)
    return bioperf.Blur(psf, truth.shape), truth.astype(np.float32), y


def part_images(report, options):
    import bioperf

    threads = options.threads
    A, truth, y = stack(256, 64)
    goal = truth + 0.02 * np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    epsilon = 0.15 * NOISE * np.sqrt(truth.size)

    def lower(y, goal, threads):
        return bioperf.solve_lower(A, y, TV_WEIGHT, threads=threads)

    def both(y, goal, threads):
        return bioperf.solve_bio(A, y, target=goal, tv_weight=TV_WEIGHT, epsilon=epsilon, threads=threads)

    for name, solve in (("lower level", lower), ("both levels", both)):
        seconds = timing.medians(
            timing.alternate(
                options.rounds,
                one=lambda solve=solve: solve(y, goal, 1),
                all=lambda solve=solve: solve(y, goal, threads),
                single=lambda solve=solve: [solve(*item, threads) for item in zip(y, goal, strict=True)],
            )
        )
        what = f"64 images of 256x256, {name}: {64 / seconds['all']:.0f} images/s, {threads} threads"
        report.add(
            what,
            timing.milli(seconds["all"]),
            f"{timing.milli(seconds['one'])}, one thread",
            seconds["one"] / seconds["all"],
            "1.8",
        )
        report.add("", "", f"{timing.milli(seconds['single'])}, 64 calls", seconds["single"] / seconds["all"], "1.3")


def part_grid(report, options):
    import bioperf

    threads = options.threads
    A, _, y = stack(128, 1)
    weights = TV_WEIGHT * np.geomspace(0.1, 10, 400)
    seconds = timing.medians(
        timing.alternate(
            options.rounds,
            batch=lambda: bioperf.solve_lower(A, y[0], weights, threads=threads),
            single=lambda: [bioperf.solve_lower(A, y[0], float(weight), threads=threads) for weight in weights],
        )
    )
    what = f"400 weights on one image of 128x128, {threads} threads"
    report.add(
        what,
        timing.milli(seconds["batch"]),
        f"{timing.milli(seconds['single'])}, 400 calls",
        seconds["single"] / seconds["batch"],
        "5",
    )


PARTS = {"a": part_images, "b": part_grid}


def main():
    options = timing.parser(__doc__, "ab").parse_args()
    report = timing.Report(options)
    for letter, part in PARTS.items():
        if letter in options.parts:
            part(report, options)
    report.finish(options.out)


if __name__ == "__main__":
    main()
