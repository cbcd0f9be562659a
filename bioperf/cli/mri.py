"""``bioperf mri``: from a file of k-space to an image."""

import math

__all__ = ["reconstruct_file"]


def reconstruct_file(kspace, output, *, quiet, threads, **files_and_options):
    """Reconstruct the file ``kspace`` into ``output``; returns the Solution.

    All that can be wrong with the arguments, the files or the places to write to is found before the solve
    starts: InputError or OutputError.  ``files_and_options`` are those of ``bioperf.jobs.MriJob``.
    """
    from ..jobs import MriJob

    job = MriJob(kspace, output, **files_and_options)
    job.read()

    from .report import certificate_rows, print_paths, print_rows, progress, warn

    for remark in job.remarks:
        warn(remark)
    with progress(quiet) as callback:
        solution = job.solve(callback=callback, threads=threads)
    written = job.write(solution)
    if not quiet:
        rows = _input_rows(job.loaded, solution) + certificate_rows(solution) + _quality_rows(job.loaded, solution)
        print_rows(f"{kspace.name}, reconstructed", rows)
        print_paths(written)
    return solution


def _input_rows(loaded, solution):
    raw, problem = loaded.raw, loaded.problem
    height, width = problem.mask.shape
    rows = [
        ("k-space", f"{raw.source}, {'centred' if problem.centred else 'unshifted'}"),
        ("samples", f"{problem.mask.mean():.1%} of {height} x {width}"),
        ("coils", problem.coils),
        ("image values", "complex" if solution.x.dtype.kind == "c" else "real"),
    ]
    if raw.noise_std is not None:
        rows.append(("noise scan", f"{raw.noise_std:.4g} a sample (not used; see --noise-std)"))
    return rows


def _quality_rows(loaded, solution):
    reference = loaded.reference
    if reference is None:
        return [("reference", f"not used; {loaded.unused_reference}")] if loaded.unused_reference else []
    psnr, ssim, rlne = reference.quality(solution.x)
    rows = [("reference", f"{reference.source}, peak {reference.peak:.4g}"), ("PSNR", f"{psnr:.2f} dB")]
    if math.isfinite(ssim):
        rows.append(("SSIM", f"{ssim:.4f}"))
    return [*rows, ("RLNE", f"{rlne:.4f}")]
