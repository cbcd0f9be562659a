"""How stable the bilevel solution is: the paper's Fig. 1, and its Theorems 2 and 3 as a rate.

    python benchmarks/papers/stability.py DATA_DIR [--out DIR]

(a) PSNR and relative change over the iterations of the exact problem for each strategy for ybar and each
    target, Levin image 1 with kernel 1, noise 0.01, weight 1e-3, anisotropic, started at the observation.
    The solver reports every ten iterations; the change is that between two reports.
(b) Distance of the converged answer to the bilevel solution against the error delta = F(xbar) - F* of the
    lower level that it was given, the lower level solved to a ladder of tolerances.  A 64x64 part of image 1
    and a 2x2 box blur, which is rank-deficient (|H| = 0 along both Nyquist lines: 127 of 4096
    dimensions), float64.  The reference is solved to 1e-13 and 1e-9, an upper level of the ladder to a
    relative gap of its delta.

Writes iterations.csv/.png, rate.csv/.png and stability.md.
"""

import argparse
import csv
import logging
from pathlib import Path

import numpy as np
from levin_data import NOISE, Levin

logger = logging.getLogger("stability")

WEIGHT = 1e-3
REFERENCE_GAP = 1e-9
STRATEGIES = ("observation", "apg-1e-2", "apg-1e-4", "apg-1e-6", "admm", "truth")
LADDER = tuple(10.0 ** (-k / 2) for k in range(4, 15))  # 1e-2 ... 1e-7


def iteration_curves(levin, strategies, iterations, threads):
    """Rows (target, ybar, iteration, psnr, relative_change)."""
    from bioperf import Blur, psnr, solve_bio
    from bioperf.targets import Deconvolution

    truth, y, psf = levin.synthetic(0, 1)
    A = Blur(psf, y.shape)
    targets = {
        "identity": "identity",
        "deconv": "deconv",
        "deconv, alpha 1e-4": Deconvolution(alpha=1e-4),
        "nlm": "nlm",
    }
    rows, lowers = [], {}
    for name, target in targets.items():
        for strategy in strategies:
            source = strategy if strategy.startswith("apg") else "admm"
            previous = y.copy()
            mine = [(name, strategy, 0, psnr(y, truth), np.nan)]

            def note(info, mine=mine, name=name, strategy=strategy, previous=previous):
                change = float(np.linalg.norm(info.x - previous) / np.linalg.norm(info.x))
                mine.append((name, strategy, info.iteration, psnr(info.x, truth), change))
                previous[...] = info.x

            # The callback is the upper level's alone; a tolerance out of reach keeps it running.
            solution = solve_bio(
                A, y, target=target, tv_weight=WEIGHT, lower=lowers.get(source), x0=y, tol=1e-12,
                ybar=A(truth.astype(y.dtype)) if strategy == "truth" else strategy,
                max_iter=iterations, callback=note, threads=threads,
            )  # fmt: skip
            lowers.setdefault(source, solution.details["lower"])
            rows += mine
            logger.info("%s, ybar %s: %.2f dB, %s", name, strategy, mine[-1][3], solution.status)
    return rows, psnr(lowers["admm"].x, truth)


def draw_curves(rows, lower_psnr, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    targets = list(dict.fromkeys(row[0] for row in rows))
    figure, axes = plt.subplots(
        2, len(targets), figsize=(4 * len(targets), 7), sharex=True, sharey="row", squeeze=False
    )
    for column, target in enumerate(targets):
        for strategy in dict.fromkeys(row[1] for row in rows):
            curve = np.array([row[2:] for row in rows if row[:2] == (target, strategy)], float)
            axes[0, column].plot(curve[:, 0], curve[:, 1], label=strategy)
            axes[1, column].semilogy(curve[1:, 0], np.maximum(curve[1:, 2], 1e-9))
        axes[0, column].axhline(lower_psnr, color="grey", linestyle=":", linewidth=1)
        axes[0, column].set_title(f"target: {target}")
        axes[1, column].set_xlabel("iteration")
    axes[0, 0].set_ylabel("PSNR / dB (dotted: lower level)")
    axes[1, 0].set_ylabel("relative change")
    axes[0, 0].legend(title="ybar", fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def lower_objective(A, x, y, weight):
    field = [np.roll(x, -1, axis) - x for axis in (0, 1)]
    return 0.5 * float(np.sum((A(x) - y) ** 2)) + weight * float(sum(np.abs(g).sum() for g in field))


def rate(levin, ladder, threads, max_iter=100_000):
    """Rows (tol, delta, lower_distance, distance), each relative to |x*|; the target is the observation."""
    from bioperf import Blur, solve_bio, solve_lower

    truth = levin.truth(0)[96:160, 96:160]
    A = Blur(np.full((2, 2), 0.25), truth.shape)
    y = A(truth) + NOISE * np.random.default_rng(1).standard_normal(truth.shape)

    def upper(lower, tol):
        solution = solve_bio(
            A, y, target="identity", tv_weight=WEIGHT, lower=lower, tol=tol, max_iter=max_iter,
            threads=threads,
        )  # fmt: skip
        logger.info("upper level: %s", solution.status)
        return solution

    exact_lower = solve_lower(A, y, WEIGHT, tol=1e-13, max_iter=max_iter, threads=threads)
    logger.info("reference of the lower level: %s", exact_lower.status)
    best = lower_objective(A, exact_lower.x, y, WEIGHT)
    exact = upper(exact_lower, REFERENCE_GAP).x
    size = float(np.linalg.norm(exact))
    rows = []
    for tol in ladder:
        lower = solve_lower(A, y, WEIGHT, tol=tol, max_iter=max_iter, threads=threads)
        delta = (lower_objective(A, lower.x, y, WEIGHT) - best) / best
        # A bilevel problem built on an inexact lower level is thin: its gap closes slowly, and need not
        # fall below the error that it was given.
        found = upper(lower, max(delta, REFERENCE_GAP))
        row = (
            tol,
            delta,
            float(np.linalg.norm(lower.x - exact_lower.x)) / size,
            float(np.linalg.norm(found.x - exact)) / size,
            bool(found.converged),
        )
        rows.append(row)
        logger.info("tol %.1e: delta %.2e, |xbar - xbar*| %.2e, |x - x*| %.2e", *row[:4])
    return rows, bool(exact_lower.converged)


def fit(error, distance):
    """Slope and factor of distance = factor error^slope over the positive entries; NaN with fewer than two."""
    error, distance = np.asarray(error), np.asarray(distance)
    usable = (error > 0) & (distance > 0)
    if usable.sum() < 2 or np.ptp(np.log(error[usable])) == 0:
        return np.nan, np.nan
    slope, offset = np.polyfit(np.log(error[usable]), np.log(distance[usable]), 1)
    return float(slope), float(np.exp(offset))


def draw_rate(rows, fits, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, delta, lower_distance, distance = (np.array(column) for column in list(zip(*rows, strict=True))[:4])
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    labels = ("relative objective error of the lower level", "relative distance of the lower level's image")
    for axis, error, (slope, factor), label in zip(axes, (delta, lower_distance), fits, labels, strict=True):
        usable = (error > 0) & (distance > 0)
        axis.loglog(error[usable], distance[usable], "o")
        ends = np.array([error[usable].min(), error[usable].max()])
        axis.loglog(ends, factor * ends**slope, "-", label=f"rate {slope:.2f}")
        axis.set_xlabel(label)
        axis.legend()
    axes[0].set_ylabel("relative distance to the bilevel solution")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def write_csv(path, names, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR", help="the folder with levin.npz or levin/levin.npz")
    parser.add_argument("--out", type=Path, default=Path("stability-results"), metavar="DIR")
    parser.add_argument("--part", choices=("iterations", "rate", "both"), default="both")
    parser.add_argument("--ybar", nargs="+", choices=STRATEGIES, default=STRATEGIES, help="strategies (default: all)")
    parser.add_argument("--iterations", type=int, default=300, metavar="N")
    parser.add_argument("--threads", type=int, metavar="T")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.out.mkdir(parents=True, exist_ok=True)
    levin = Levin(options.data_dir)
    lines = ["# Stability of the bilevel solution", ""]

    if options.part in ("iterations", "both"):
        rows, lower_psnr = iteration_curves(levin, options.ybar, options.iterations, options.threads)
        write_csv(options.out / "iterations.csv", ("target", "ybar", "iteration", "psnr", "relative_change"), rows)
        draw_curves(rows, lower_psnr, options.out / "iterations.png")
        lines += [
            f"Levin image 1, kernel 1, noise {NOISE:g}, weight {WEIGHT:g}, anisotropic, exact problem, started at the "
            f"observation; lower level {lower_psnr:.2f} dB. `iterations.png` has the curves.",
            "",
            f"| target | ybar | best PSNR (iteration) | PSNR at {options.iterations} | last relative change |",
            "|---|---|---|---|---|",
        ]
        for key in dict.fromkeys(row[:2] for row in rows):
            mine = [row for row in rows if row[:2] == key]
            best = max(mine, key=lambda row: row[3])
            lines.append(f"| {key[0]} | {key[1]} | {best[3]:.2f} ({best[2]}) | {mine[-1][3]:.2f} | {mine[-1][4]:.1e} |")
        lines.append("")

    if options.part in ("rate", "both"):
        rows, trusted = rate(levin, LADDER, options.threads)
        names = ("lower_tol", "delta", "lower_distance", "distance", "upper_converged")
        write_csv(options.out / "rate.csv", names, rows)
        columns = list(zip(*rows, strict=True))
        fits = [fit(columns[k], columns[3]) for k in (1, 2)]
        draw_rate(rows, fits, options.out / "rate.png")
        lines += [
            "64x64 part of Levin image 1, 2x2 box blur (127 of 4096 dimensions in its kernel), noise "
            f"{NOISE:g}, weight {WEIGHT:g}, float64; all relative. `rate.png` has the plot."
            + ("" if trusted else " The lower level's reference did not reach its tolerance."),
            "",
            f"Fitted: distance to the bilevel solution ~ delta^**{fits[0][0]:.2f}**, delta = F(xbar) - F*;"
            f" ~ |xbar - xbar*|^**{fits[1][0]:.2f}**.",
            "",
            "| tolerance | delta | lower level's distance | distance | upper level converged |",
            "|---|---|---|---|---|",
            *(f"| {t:.1e} | {d:.2e} | {a:.2e} | {b:.2e} | {'yes' if c else 'no'} |" for t, d, a, b, c in rows),
            "",
        ]
    text = "\n".join(lines)
    (options.out / "stability.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
