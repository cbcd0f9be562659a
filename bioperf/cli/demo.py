"""``bioperf demo``: blur a bundled photograph, restore it, show what was gained."""

from pathlib import Path

import numpy as np

from ..io import OutputError, check_writable, write_image, write_whole

__all__ = ["KERNEL_SIZE", "NOISE_STD", "demonstrate", "motion_kernel"]

KERNEL_SIZE = 19
NOISE_STD = 0.01
# From here on single precision shows.
CURVE_ITERATIONS = 40
# Rows and columns of the part of the picture that is shown enlarged.
CROP = (slice(70, 206), slice(186, 322))


def motion_kernel(size, seed):
    """The trace of a shaking camera: a seeded random smooth path, drawn with soft ends and unit sum.

    A point moves with a velocity that is itself a damped random walk; its path is scaled to the frame,
    centred and drawn with bilinear weights.

    Parameters
    ----------
    size : int
        Width and height, odd, at least 5.
    seed : int

    Returns
    -------
    ndarray, float64, shape (size, size), >= 0, sum 1.
    """
    rng = np.random.default_rng(seed)
    steps = 2000
    velocity = np.zeros(2)
    heading = rng.normal(size=2)
    path = np.empty((steps, 2))
    position = np.zeros(2)
    for k in range(steps):
        velocity = 0.995 * velocity + 0.02 * rng.normal(size=2) + 0.0008 * heading
        position = position + velocity
        path[k] = position
    path -= (path.max(0) + path.min(0)) / 2
    path *= (size - 4) / 2 / np.abs(path).max()
    path += (size - 1) / 2

    kernel = np.zeros((size, size))
    corner = np.floor(path).astype(int)
    fraction = path - corner
    for row in (0, 1):
        for column in (0, 1):
            weight = np.abs(1 - row - fraction[:, 0]) * np.abs(1 - column - fraction[:, 1])
            np.add.at(kernel, (corner[:, 0] + row, corner[:, 1] + column), weight)
    return kernel / kernel.sum()


def demonstrate(out, *, seed=0, threads=None, quiet=False):
    """Run the demonstration into the folder ``out`` (made if missing); returns the Solution.

    Writes blurred.png, restored.png, psf.npy and before-after.png.  Raises OutputError before the solve if
    the folder cannot be made or written to.
    """
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made a folder ({error.strerror}); choose another --out") from error
    paths = {name: out / name for name in ("blurred.png", "restored.png", "psf.npy", "before-after.png")}
    for path in paths.values():
        check_writable(path)

    from skimage import data

    import bioperf

    from ..jobs.certificate import certificate_facts
    from ..jobs.figure import Panel, draw
    from .report import print_paths, progress

    original = data.camera().astype(np.float32) / 255
    psf = motion_kernel(KERNEL_SIZE, seed)
    noise = np.random.default_rng([seed, 1]).normal(scale=NOISE_STD, size=original.shape)
    blurred = bioperf.Blur(psf, original.shape)(original) + noise.astype(np.float32)
    with progress(quiet) as callback:
        solution = bioperf.deblur(blurred, psf, threads=threads, callback=callback)

    images = {"blurred": blurred, "lower level": solution.details["lower"].x, "restored": solution.x}
    quality = {name: (bioperf.psnr(x, original), bioperf.ssim(x, original)) for name, x in images.items()}

    write_image(paths["blurred.png"], blurred)
    write_image(paths["restored.png"], solution.x)
    write_whole(paths["psf.npy"], lambda path: np.save(path, psf))
    panels = [
        Panel("Original", original),
        Panel(f"Blurred, {NOISE_STD:.0%} noise", blurred, quality["blurred"]),
        Panel("Restored by bioperf", solution.x, quality["restored"]),
    ]
    history = _long_history(blurred, psf, solution, threads)
    draw(
        paths["before-after.png"],
        panels,
        psf,
        certificate_facts(solution),
        history,
        stop=solution.iterations,
        crop=CROP,
    )
    if not quiet:
        _print_result(quality, solution)
        print_paths(paths.values())
    return solution


def _long_history(blurred, psf, solution, threads):
    """The upper level's history, every 5 iterations, to far beyond the default tolerance: for the curves.

    A solve checks every 10 iterations and at its last: short solves of the same problem lie between.
    """
    import bioperf

    A, details = bioperf.Blur(psf, blurred.shape), solution.details
    problem = {name: details[name] for name in ("target", "lower", "tv_weight", "epsilon", "kappa")}

    def history(iterations):
        options = {"isotropic": True, "tol": 1e-9, "max_iter": iterations, "threads": threads}
        return bioperf.solve_bio(A, blurred, **problem, **options).history

    parts = [history(iterations) for iterations in (*range(5, CURVE_ITERATIONS, 10), CURVE_ITERATIONS)]
    rows = np.argsort(np.concatenate([part["iteration"] for part in parts]))
    merged = {name: np.concatenate([part[name] for part in parts])[rows] for name in parts[0]}
    first = np.unique(merged["iteration"], return_index=True)[1]
    return {name: values[first] for name, values in merged.items()}


def _print_result(quality, solution):
    from rich.console import Console
    from rich.table import Table

    from .report import certificate_rows, print_rows

    table = Table(title="Quality", title_justify="left")
    table.add_column("image", style="bold")
    table.add_column("PSNR (dB)", justify="right")
    table.add_column("SSIM", justify="right")
    for name, (psnr, ssim) in quality.items():
        table.add_row(name, f"{psnr:.2f}", f"{ssim:.4f}")
    Console().print(table)
    print_rows("Certificate", certificate_rows(solution))
