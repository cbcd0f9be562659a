"""``bioperf train-denoiser``: images in, weights of the network out, with a progress bar and a log."""

import math
import os
import shlex
from contextlib import contextmanager

from ..io.errors import InputError
from ..io.whole import check_writable
from ..jobs.errors import located
from ..learning import require_torch
from ..learning.patches import read_training_images
from .report import print_paths, print_rows

__all__ = ["train"]

# The options that set what the library names otherwise
_PLACES = {"lowest": "--levels", "highest": "--levels"}


def train(data, output, *, validation, initial, checkpoint_every, device, threads, restart, quiet, arguments, **given):
    """Train on the images of ``data`` and write ``output``; returns the rows of the log."""
    try:
        torch = require_torch("train-denoiser")
    except ImportError as error:
        raise InputError(str(error)) from error
    from ..learning.training import Settings, train_denoiser

    try:
        settings = Settings(**given)
    except (ValueError, TypeError) as error:
        options = {name: f"--{name.replace('_', '-')}" for name in given}
        raise located(error, options | _PLACES) from error
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device: no CUDA device is at hand; leave it out to train on the CPU")
    if any(os.path.exists(output) and os.path.exists(path) and output.samefile(path) for path in data):
        raise InputError(f"{output}: is read as well; give the weights a name of their own")
    check_writable(output)
    images = read_training_images(data, settings.patch)
    held = None if validation is None else read_training_images([validation], settings.patch)
    with _progress(settings.steps, quiet) as follow:
        rows = train_denoiser(
            images, output, settings, validation=held, initial=initial, checkpoint_every=checkpoint_every,
            device=device, threads=threads, restart=restart, callback=follow,
            note=shlex.join(["bioperf", *arguments]),
        )  # fmt: skip
    if not quiet:
        last = rows[-1]
        quality = [] if math.isnan(last["psnr"]) else [("validation PSNR", f"{last['psnr']:.2f} dB")]
        print_rows(
            "Denoiser trained",
            [
                ("images", str(len(images))),
                ("steps", str(last["step"])),
                ("loss", f"{last['loss']:.4f}"),
                *quality,
                ("seconds", f"{last['seconds']:.0f}"),
            ],
        )
        print_paths([output, f"{output}.csv"])
    return rows


@contextmanager
def _progress(steps, quiet):
    """A callback that shows the rows of the log; None if stderr is no terminal or quiet."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[quality]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("training", total=steps, quality="")

        def follow(row):
            text = {"quality": f"loss {row['loss']:.4f}, {row['psnr']:.2f} dB"} if "psnr" in row else {}
            bar.update(task, completed=row["step"], **text)

        yield follow
