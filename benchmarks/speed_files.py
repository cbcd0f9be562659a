"""``bioperf batch`` against the solver alone, its memory, and how soon a resumed batch solves.

    python benchmarks/speed_files.py --images 500 --out speed-files.json

a  500 images of 256x256 from PNG files to PNG files, against one call of ``deblur`` on the images in memory, in turn
   and the memory of the process meanwhile
b  10,000 finished items and one that is not: seconds from the start of the process to its solve
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

try:
    from . import timing
    from .common import blurred, image, motion_psf
except ImportError:  # run as a file
    import timing
    from common import blurred, image, motion_psf

SIZE, FINISHED = 256, 10_000
TARGETS = ("nlm", "identity")
# From the start of the process to the first solve: what comes before ``run_batch`` counts as well.
_RESUME = """
import sys, time
from bioperf.batch import read_manifest, run_batch
items = read_manifest(sys.argv[1])
outcome = run_batch(items, sys.argv[2], resume=True, threads=int(sys.argv[3]))
after = outcome.seconds - outcome.first_solve
print(time.time() - float(sys.argv[4]) - after, outcome.seconds, outcome.counts["confirmed"], outcome.counts["done"])
"""


def make_files(folder, count):
    """Blurred images, their psf, a manifest for each target; the images as they are read."""
    from bioperf.io import read_image, write_image

    truth, psf = image(SIZE), motion_psf()
    np.save(folder / "psf.npy", psf)
    y = []
    for k in range(count):
        path = folder / f"{k:05d}.png"
        write_image(path, blurred(np.roll(truth, 7 * k, (0, 1)), psf, seed=k).astype(np.float32))
        y.append(read_image(path)[0])
    for target in TARGETS:
        rows = "".join(f"{k:05d}.png,psf.npy,{target},periodic\n" for k in range(count))
        (folder / f"{target}.csv").write_text("input,psf,target,boundary\n" + rows)
    return np.stack(y), psf


class Watch:
    """The memory of this process, taken twice a second while it is entered."""

    def __enter__(self):
        self.bytes, self._end = [], threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self):
        from bioperf.batch.resources import used_memory

        while not self._end.wait(0.5):
            self.bytes.append(used_memory())

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()


def part_throughput(report, options, folder):
    import bioperf
    from bioperf.batch import read_manifest, run_batch

    y, psf = make_files(folder, options.images)
    for target in TARGETS:
        items, watches = read_manifest(folder / f"{target}.csv"), []

        def files(items=items, watches=watches):
            out = folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            with Watch() as watch:
                outcome = run_batch(items, out, threads=options.threads)
            assert outcome.counts == {"done": options.images}, outcome
            watches.append(watch.bytes)

        def solver(target=target):
            bioperf.deblur(y, psf, target=target, threads=options.threads)

        seconds = timing.medians(timing.alternate(options.rounds, files=files, solver=solver))
        rate = options.images / seconds["files"]
        report.add(
            f"{options.images} images of {SIZE}x{SIZE}, files to files, target {target}",
            f"{rate:.1f} images/s",
            f"{options.images / seconds['solver']:.1f} images/s, the solver on arrays",
            seconds["solver"] / seconds["files"],
            "0.9",
        )
        memory = watches[-1]
        quarters = [max(memory[k * len(memory) // 4 : (k + 1) * len(memory) // 4] or [0]) for k in range(4)]
        shown = ", ".join(f"{size / 2**20:.0f}" for size in quarters)
        report.add("", f"MiB in the quarters of a run: {shown}", "", quarters[-1] / max(quarters[0], 1), "flat")


def part_resume(report, options, folder):
    from bioperf.batch import read_manifest, run_batch
    from bioperf.batch.execution import fingerprint

    make_files(folder, 1)
    (source,) = read_manifest(folder / "identity.csv")
    run_batch([source], folder / "one", threads=1)
    lines = (folder / "one" / "journal.jsonl").read_text().splitlines()
    record, out, content = json.loads(lines[-1]), folder / "many", (folder / "one" / source.name).read_bytes()
    out.mkdir()
    rows = ["input,psf,target,boundary"]
    for k in range(options.finished + 1):
        os.link(folder / "00000.png", folder / f"x{k:05d}.png")
        rows.append(f"x{k:05d}.png,psf.npy,identity,periodic")
    (folder / "many.csv").write_text("\n".join(rows) + "\n")
    items = read_manifest(folder / "many.csv")
    with open(out / "journal.jsonl", "w") as journal:
        for item in items[: options.finished]:
            (out / item.name).write_bytes(content)
            (out / f"{item.name}.json").write_text("{}")
            inputs = {path: fingerprint(path) for path in (item.input, item.files["psf"])}
            outputs = {item.name: record["outputs"][source.name]}
            journal.write(
                json.dumps(record | {"item": item.name, "key": item.key, "inputs": inputs, "outputs": outputs}) + "\n"
            )
    results = []
    for _ in range(options.rounds):
        (out / items[-1].name).unlink(missing_ok=True)
        command = [sys.executable, "-c", _RESUME, folder / "many.csv", out, options.threads, repr(time.time())]
        printed = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout
        start, seconds, confirmed, done = map(float, printed.split())
        assert (confirmed, done) == (options.finished, 1), printed
        results.append((start, seconds))
    start, seconds = np.median(results, axis=0)
    report.add(
        f"resumed, {options.finished} items finished, one not: until it is solved", f"{start:.2f} s",
        f"{seconds:.2f} s until all are confirmed", start, "2",
    )  # fmt: skip


PARTS = {"a": part_throughput, "b": part_resume}


def main():
    parser = timing.parser(__doc__, "ab")
    parser.add_argument("--images", type=int, default=500, metavar="N")
    parser.add_argument("--finished", type=int, default=FINISHED, metavar="N")
    options = parser.parse_args()
    report = timing.Report(options)
    for letter, part in PARTS.items():
        if letter in options.parts:
            with tempfile.TemporaryDirectory() as folder:
                part(report, options, Path(folder))
    report.finish(options.out)


if __name__ == "__main__":
    main()
