"""Learned iterations against the plain method with its automatic penalties, on Levin's set and on Set12.

    python benchmarks/papers/learned.py DATA_DIR [--stages FILE] [--problems N] [--out FILE]
    python benchmarks/papers/learned.py DATA_DIR --train FILE

DATA_DIR holds ``levin.npz`` and ``set12.npz`` (for training ``bsds_train.npz``), there or in folders ``levin`` and
``natural``.  Each problem is the upper level of ``deblur`` with all its choices; x* is its solution in float64 to 1e-7.
Set12 is blurred by random motion kernels, with noise of 0.5 to 4 %.  Written: the distance |x - x*|/|x*|, gap and
infeasibilities after the learned stages, and the iterations that the plain method needs for that distance (between its
checks, every 10, by log-linear interpolation) and for its own stopping test; seconds of both until that test.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
from levin_data import Levin

from bioperf import Blur, deblur, solve_bio
from bioperf.cli.demo import motion_kernel

NOISE, EPSILON = (0.005, 0.04), 0.15
SIDE, PROBLEMS, STEPS = 64, 160, 240


def archive(folder, name):
    for path in (folder / name, folder / "natural" / name):
        if path.is_file():
            return np.load(path, allow_pickle=False)
    raise SystemExit(f"no {name} in {folder}")


def observed(image, rng):
    """A blur, the blurred and noisy image, and the noise's standard deviation."""
    A = Blur(motion_kernel(int(rng.choice([9, 13, 17, 21, 25])), int(rng.integers(2**30))), image.shape)
    noise = float(np.exp(rng.uniform(*np.log(NOISE))))
    return A, A(image) + noise * rng.standard_normal(image.shape), noise


def upper_level(y, psf, noise):
    """The arguments of ``solve_bio`` with which ``deblur`` solves its upper level, the target being trusted."""
    restored = deblur(y, psf, noise_std=noise, tol=1e-2)
    details = restored.details
    epsilon = EPSILON * details["noise_std"] * math.sqrt(y.size)
    known = {"target": details["target"], "lower": details["lower_image"], "tv_weight": details["tv_weight"]}
    return known | {"epsilon": epsilon, "isotropic": True}


def training_problems(folder, count, seed=0):
    from bioperf.learning.unrolled import stage_problem

    rng = np.random.default_rng(seed)
    with archive(folder, "bsds_train.npz") as file:
        images = file["landscape"]
    problems = []
    while len(problems) < count:
        image = images[rng.integers(len(images))]
        i, j = (rng.integers(n - SIDE + 1) for n in image.shape)
        image = image[i : i + SIDE, j : j + SIDE] / 255
        if image.std() < 0.05:
            continue
        A, y, noise = observed(image, rng)
        known = upper_level(y, A.psf, noise)
        # other targets and relaxations than the default ones, too
        if rng.random() < 0.3:
            known["target"] = "deconv"
        known["epsilon"] *= rng.choice([0.6, 1.0, 1.0, 1.7])
        known["kappa"] = rng.choice([0.0, 0.0, 0.0, 0.5])
        problems.append(stage_problem(A, y, tol=1e-6, max_iter=1000, **known))
    return problems


def test_problems(folder, count):
    levin = Levin(folder, np.float64)
    for i, j in levin.pairs(count):
        _, y, psf = levin.synthetic(i, j)
        yield f"Levin {i},{j}", Blur(psf / psf.sum(), y.shape), y, None
    with archive(folder, "set12.npz") as file:
        for k, name in enumerate(sorted(file.files)[:count]):
            image = file[name][:256, :256] / 255
            yield f"Set12 {name}", *observed(image, np.random.default_rng([7, k]))


def compare(A, y, noise, learned):
    """A row of the table."""
    exact = upper_level(y, A.psf, noise)
    reference = solve_bio(A, y, tol=1e-7, max_iter=2000, **exact).x
    y = y.astype(np.float32)
    given = {name: v.astype(np.float32) if isinstance(v, np.ndarray) else v for name, v in exact.items()}

    def distance(x):
        return np.linalg.norm(x - reference) / np.linalg.norm(reference)

    curve = [(0, distance(given["lower"]))]
    solve_bio(A, y, tol=1e-9, max_iter=200, callback=lambda p: curve.append((p.iteration, distance(p.x))), **given)
    first = solve_bio(A, y, tol=1e-9, max_iter=10, learned=learned, **given)
    reached = distance(first.x)
    done, distances = (np.array(column, float) for column in zip(*curve, strict=True))
    below = np.flatnonzero(distances <= reached)
    needed = math.inf
    if below.size:
        k = max(1, below[0])
        share = math.log(distances[k - 1] / reached) / math.log(distances[k - 1] / distances[k])
        needed = done[k - 1] + 10 * min(1.0, share)
    plain, fast = (solve_bio(A, y, learned=each, **given) for each in (None, learned))
    counts = first.details["learned"]
    return {
        "plain at 10": distances[1],
        "learned at 10": reached,
        "gap": abs(first.gap),
        "TV": first.infeasibility["tv"],
        "data": first.infeasibility["data"],
        "plain needs": needed,
        "plain stops": plain.iterations,
        "learned stops": fast.iterations,
        "plain seconds": plain.seconds,
        "learned seconds": fast.seconds,
        "kept": counts["kept"],
        "proposed": counts["proposed"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("--train", type=Path, metavar="FILE", help="train stages and write them there")
    parser.add_argument("--stages", default="deblur", metavar="FILE", help="stages to measure (default: the package's)")
    parser.add_argument("--problems", type=int, default=12, metavar="N", help="of each set (default 12)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there, too")
    options = parser.parse_args()

    if options.train:
        from bioperf.learning.unrolled import train_stages

        problems = training_problems(options.data_dir, PROBLEMS)
        note = f"python benchmarks/papers/learned.py DATA_DIR --train {options.train.name}"

        def show(row):
            if row["step"] % 20 == 0:
                print(f"step {row['step']}: loss {row['loss']:.3f}", file=sys.stderr, flush=True)
            return False

        train_stages(problems, options.train, steps=STEPS, threads=1, callback=show, note=note)
        return

    rows = []
    for name, A, y, noise in test_problems(options.data_dir, options.problems):
        rows.append((name, compare(A, y, noise, options.stages)))
        print(name, file=sys.stderr, flush=True)
    columns = list(rows[0][1])
    lines = ["| problem | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    groups = [("median, " + kind, [row for name, row in rows if name.startswith(kind)]) for kind in ("Levin", "Set12")]
    medians = [(name, {c: float(np.median([row[c] for row in group])) for c in columns}) for name, group in groups]
    for name, row in rows + medians:
        lines.append(f"| {name} | " + " | ".join(f"{row[c]:.3g}" for c in columns) + " |")
    table = "\n".join(lines)
    print(table)
    if options.out:
        options.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
