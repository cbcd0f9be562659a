"""``bioperf deblur``: from file to file."""

__all__ = ["deblur_file"]


def deblur_file(image, output, *, quiet, threads, **files_and_options):
    """Restore the file ``image`` into ``output``; returns the Solution.

    All that can be wrong with the arguments, the files or the places to write to is found before the solve
    starts: InputError or OutputError.  ``files_and_options`` are those of ``bioperf.jobs.DeblurJob``.
    """
    from ..jobs import DeblurJob

    job = DeblurJob(image, output, **files_and_options)
    job.read()

    from .report import certificate_rows, print_paths, print_rows, progress

    with progress(quiet) as callback:
        solution = job.solve(callback=callback, threads=threads)
    written = job.write(solution)
    if not quiet:
        print_rows(f"{image.name}, restored", certificate_rows(solution))
        print_paths(written)
    return solution
