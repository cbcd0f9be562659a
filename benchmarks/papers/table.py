"""The scores of a paper's table: by row and image, their means as CSV and Markdown."""

import csv
import time

import numpy as np

# Measure -> heading and format; the function of that name in ``bioperf.metrics``.
MEASURES = {"psnr": ("PSNR / dB", ".2f"), "ssim": ("SSIM", ".4f"), "rlne": ("RLNE", ".4f")}


class Table:
    """Scores by row; a row keeps the order in which it was first seen.

    ``keys`` name the numbers that a score belongs to (the image's, say).
    """

    def __init__(self, keys, measures=("psnr", "ssim")):
        self.keys, self.measures, self.rows = keys, measures, {}

    def add(self, row, key, x, truth, solution=None, seconds=None, lower=None):
        """Score x; ``lower`` is the image over which its PSNR gains."""
        from bioperf import metrics

        score = dict(zip(self.keys, key, strict=True))
        score |= {name: getattr(metrics, name)(x, truth) for name in self.measures}
        if lower is not None:
            score["gain"] = score["psnr"] - metrics.psnr(lower, truth)
        if solution is not None:
            score |= {"iterations": int(solution.iterations), "converged": int(bool(solution.converged))}
        if seconds is not None:
            score["seconds"] = seconds
        self.rows.setdefault(row, []).append(score)

    def summary(self):
        for row, scores in self.rows.items():

            def collect(name, reduce, scores=scores):
                values = [s[name] for s in scores if name in s]
                return float(reduce(values)) if values else None

            converged = [s["converged"] for s in scores if "converged" in s]
            yield {
                "row": row,
                **{name: collect(name, np.mean) for name in self.measures},
                "smallest_gain": collect("gain", min),
                "seconds": collect("seconds", np.mean),
                "iterations": collect("iterations", np.mean),
                "converged": sum(converged) if converged else None,
                "images": len(scores),
            }

    def write(self, out, name, title, remarks, quoted=()):
        """CSV and Markdown; ``quoted`` are (row, psnr, ssim) printed elsewhere."""
        rows = [dict(zip(("row", "psnr", "ssim"), given, strict=True)) for given in quoted] + list(self.summary())
        columns = ("row", *self.measures, "smallest_gain", "seconds", "iterations", "converged", "images")
        out.mkdir(parents=True, exist_ok=True)
        with open(out / f"{name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        with open(out / f"{name}-images.csv", "w", newline="") as file:
            names = ("row", *self.keys, *self.measures, "gain", "seconds", "iterations", "converged")
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows({"row": row, **score} for row, scores in self.rows.items() for score in scores)
        text = "\n".join([f"# {title}", "", *self._markdown(rows), "", *remarks, ""])
        (out / f"{name}.md").write_text(text)
        return text

    def _markdown(self, rows):
        headings = [MEASURES[name][0] for name in self.measures]
        yield f"| | {' | '.join(headings)} | smallest gain / dB | seconds | iterations | converged |"
        yield "|---" * (len(headings) + 5) + "|"
        forms = {name: MEASURES[name][1] for name in self.measures}
        forms |= {"smallest_gain": "+.3f", "seconds": ".3f", "iterations": ".1f"}
        for row in rows:
            cells = ["" if row.get(name) is None else format(row[name], form) for name, form in forms.items()]
            converged = "" if row.get("converged") is None else f"{row['converged']} of {row['images']}"
            yield f"| {' | '.join([row['row'], *cells, converged])} |"


def timed(function, *arguments, **options):
    start = time.perf_counter()
    solution = function(*arguments, **options)
    return solution, time.perf_counter() - start
