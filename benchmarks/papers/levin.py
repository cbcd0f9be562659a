"""Quality on Levin's deblurring set, by two protocols, as in the paper's Tables 1 and 2.

    python benchmarks/papers/levin.py DATA_DIR [--protocol synthetic|real|both] [--exact] [--out DIR]

"synthetic": 4 images x 8 motion kernels, circular blur, noise of standard deviation 0.01.  Rows: the blurred
image, lower levels, and the relaxed problem of ``deblur`` with each target and every other choice left alone; for
the network (extra "torch") after one round and after the default's, with its image D as a row of its own, and the
last one by learned iterations; with ``--exact`` the exact bilevel problem (epsilon = kappa = 0, weight 1e-3,
anisotropic) for each target and each strategy for ybar.  "real": the set's photographs with known kernel, unknown
boundary, registered and cut.

A gain is over the row's own lower level; the smallest one tells whether any image lost by the upper level.
Writes levin-<protocol>.csv and .md, and levin-<protocol>-images.csv with a line for each image and row.
"""

import argparse
from pathlib import Path

from levin_data import BORDER, NOISE, Levin, inner
from networks import networks
from rich.console import Console
from rich.progress import Progress
from table import Table, timed

EXACT_WEIGHT, LOWER_WEIGHT = 1e-3, 1.2e-3
NETWORK_LEVEL = 0.03
YBAR = ("observation", "apg-1e-2", "apg-1e-4", "apg-1e-6", "admm", "truth")
PAPER = (("paper: FTVd", 29.38, 0.8819), ("paper: FISTA", 31.81, 0.9010), ("paper: BIO", 32.79, 0.9318))
KEYS = ("image", "kernel")


def relaxed_row(target):
    return f'deblur, target "{target}", defaults'


def synthetic(levin, pairs, strategies, max_iter, threads, advance):
    from bioperf import Blur, deblur, solve_bio, solve_lower

    table = Table(KEYS)
    targets = {name: name for name in ("nlm", "deconv", "identity")} | networks(NETWORK_LEVEL)
    for pair in pairs:
        truth, y, psf = levin.synthetic(*pair)
        A = Blur(psf, y.shape)
        table.add("blurred", pair, y, truth)
        for name, isotropic in (("isotropic", True), ("anisotropic", False)):
            lower, seconds = timed(solve_lower, A, y, LOWER_WEIGHT, isotropic=isotropic, threads=threads)
            table.add(f"lower level, {name}, weight {LOWER_WEIGHT:g}", pair, lower.x, truth, lower, seconds)
        for k, (name, target) in enumerate(targets.items()):
            solution, seconds = timed(deblur, y, psf, target=target, threads=threads)
            lower, parts = solution.details["lower"], solution.details["seconds"]
            if k == 0:
                table.add("lower level, default weight", pair, lower.x, truth, lower, parts["lower"])
            if name.startswith("cnn"):
                image = solution.details["target"]
                table.add(f'D of "{name}", time of D alone', pair, image, truth, None, parts["target"], lower.x)
            table.add(relaxed_row(name), pair, solution.x, truth, solution, seconds, lower.x)
        if "cnn" in targets:
            known = {name: solution.details[name] for name in ("target", "tv_weight", "epsilon", "kappa")}
            learned, upper = timed(
                solve_bio, A, y, lower=lower, isotropic=True, learned="deblur", threads=threads, **known
            )  # fmt: skip
            seconds = parts["lower"] + parts["target"] + upper
            table.add(f"{relaxed_row('cnn')}, learned iterations", pair, learned.x, truth, learned, seconds, lower.x)
        if strategies:
            exact_grid(table, pair, A, y, truth, strategies, max_iter, threads)
        advance()
    return table


def exact_grid(table, pair, A, y, truth, strategies, max_iter, threads):
    """Each target with each ybar; a strategy's lower level is solved once, and its time counted in every row."""
    from bioperf import solve_bio
    from bioperf.targets import Deconvolution

    targets = {
        "identity": "identity",
        "deconv": "deconv",
        "deconv, alpha 1e-4": Deconvolution(alpha=1e-4),
        "nlm": "nlm",
    }
    lowers = {}
    for target_name, target in targets.items():
        for strategy in strategies:
            # With the truth as ybar the bound on TV still comes from the lower level by ADMM.
            source = strategy if strategy.startswith("apg") else "admm"
            ybar = A(truth.astype(y.dtype)) if strategy == "truth" else strategy
            known = lowers.get(source)
            solution, seconds = timed(
                solve_bio, A, y, target=target, tv_weight=EXACT_WEIGHT, lower=known, ybar=ybar, max_iter=max_iter,
                threads=threads,
            )  # fmt: skip
            lower = lowers.setdefault(source, solution.details["lower"])
            if known is None:
                table.add(f"exact: lower level, {source}", pair, lower.x, truth, lower, lower.seconds)
            else:
                seconds += lower.seconds
            table.add(f"exact BIO, {target_name}, ybar {strategy}", pair, solution.x, truth, solution, seconds, lower.x)


def real(levin, pairs, threads, advance):
    from bioperf import deblur

    table, learned = Table(KEYS), networks(NETWORK_LEVEL).get("cnn")
    for pair in pairs:
        truth, y, psf = levin.real(*pair)

        def score(row, image, *rest, pair=pair, truth=truth, lower=None):
            registered = [None if a is None else inner(levin.register(a, *pair)) for a in (image, lower)]
            table.add(row, pair, registered[0], inner(truth), *rest, lower=registered[1])

        score("blurred", y)
        solution, seconds = timed(deblur, y, psf, boundary="unknown", threads=threads)
        lower = solution.details["lower"]
        framed = solution.details["lower_image"]  # lower.x, of the extended domain, cut to the frame
        score("lower level, default weight", framed, lower, solution.details["seconds"]["lower"])
        score(relaxed_row("nlm"), solution.x, solution, seconds, lower=framed)
        if learned:
            solution, seconds = timed(deblur, y, psf, boundary="unknown", target=learned, threads=threads)
            score(relaxed_row("cnn"), solution.x, solution, seconds, lower=framed)
        advance()
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR", help="the folder with levin.npz or levin/levin.npz")
    parser.add_argument("--out", type=Path, default=Path("levin-results"), metavar="DIR")
    parser.add_argument("--protocol", choices=("synthetic", "real", "both"), default="both")
    parser.add_argument("--exact", action="store_true", help="the exact problem for each target and ybar too (long)")
    parser.add_argument("--ybar", nargs="+", choices=YBAR, default=YBAR, help="strategies of --exact (default: all)")
    parser.add_argument("--images", type=int, metavar="N", help="N of the 32 pairs, spread over both")
    parser.add_argument("--max-iter", type=int, default=1000, metavar="N", help="limit of the exact problem")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", type=int, metavar="T")
    options = parser.parse_args()

    levin = Levin(options.data_dir, options.dtype)
    pairs = levin.pairs(options.images)
    protocols = ("synthetic", "real") if options.protocol == "both" else (options.protocol,)
    console = Console(stderr=True)
    for protocol in protocols:
        with Progress(console=console) as progress:
            task = progress.add_task(f"Levin, {protocol}", total=len(pairs))

            def advance(progress=progress, task=task):
                progress.advance(task)

            if protocol == "synthetic":
                strategies = options.ybar if options.exact else ()
                table = synthetic(levin, pairs, strategies, options.max_iter, options.threads, advance)
            else:
                table = real(levin, pairs, options.threads, advance)
        measured = f"{len(pairs)} of 32 pairs, {options.dtype}, PSNR and SSIM of the result clipped to [0, 1]."
        if protocol == "synthetic":
            remarks = [
                f"{measured} Noise of standard deviation {NOISE:g}.",
                "The paper's rows are its printed figures; its noise setting is not stated: compare gains, not levels.",
                "Gains are over the row's own lower level; seconds include it.",
            ]
            title, quoted = "Levin, synthetic blur", PAPER
        else:
            remarks = [f"{measured} Registered by the set's shifts, {BORDER} pixels cut at each side."]
            title, quoted = "Levin, real camera shake", ()
        print(table.write(options.out, f"levin-{protocol}", title, remarks, quoted))


if __name__ == "__main__":
    main()
