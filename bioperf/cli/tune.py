"""``bioperf tune``: the weights of total variation and wavelets selected from k-space, or from reference images."""

__all__ = ["tune_file"]


def tune_file(data, output, *, quiet, threads, arguments, **files_and_options):
    """Select weights for the file ``data`` by every method, record it in ``output``; returns the Selections.

    All that can be wrong with the arguments, the files or the places to write to is found before the first
    method starts: InputError or OutputError.  ``files_and_options`` are those of ``bioperf.jobs.TuneJob``,
    ``arguments`` the words of the command line, for the record.
    """
    from ..jobs import TuneJob

    job = TuneJob(data, output, **files_and_options)
    job.read()

    from .report import print_paths, print_rows, warn
    from .tune_report import live_table, print_quality, print_selections

    known = list(job.remarks)
    for remark in known:
        warn(remark)
    with live_table(quiet) as show:
        tuning = job.solve(callback=show, threads=threads)
    for remark in job.remarks[len(known) :]:
        warn(remark)
    written = job.write(tuning, command=arguments)
    if not quiet:
        rows = [*job.loaded.data.facts, ("criterion", tuning.criterion)]
        print_rows(f"{data.name}, weights selected", rows)
        print_selections(tuning.selections, tuning.best)
        if tuning.quality is not None:
            print_quality(tuning.quality)
        print_paths(written)
    return tuning.selections
