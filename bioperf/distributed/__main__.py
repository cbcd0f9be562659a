"""A file restored by all ranks: ``mpiexec -n RANKS python -m bioperf.distributed Y.npy --psf PSF.npy ...``.

Exit status as of ``bioperf``: 0 done, 1 failed, 2 the arguments or the input are wrong, 3 not converged with --strict.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

DONE, FAILED, WRONG_INPUT, NOT_CONVERGED = 0, 1, 2, 3

# What a launcher tells a process of the number of those it started.
_STARTED = ("SLURM_STEP_NUM_TASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")


def restore(
    y: Annotated[Path, typer.Argument(metavar="Y.npy", help="The blurred volume, float32 or float64.")],
    psf: Annotated[Path, typer.Option("--psf", metavar="PSF.npy", help="The point spread function, as many axes.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.npy", help="Where the result goes.")],
    tv_weight: Annotated[float, typer.Option("--tv-weight", metavar="G", help="Weight of the total variation.")],
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="D", help='The upper level too: "identity", or D.npy, a volume like Y.'),
    ] = None,
    epsilon: Annotated[float, typer.Option("--epsilon", metavar="E", help="Radius of the data constraint.")] = 0.0,
    kappa: Annotated[float, typer.Option("--kappa", metavar="K", help="Relative slack on the total variation.")] = 0.0,
    isotropic: Annotated[bool, typer.Option("--isotropic/--anisotropic", help="The kind of total variation.")] = False,
    tol: Annotated[float | None, typer.Option("--tol", metavar="T", help="Of the last level solved.")] = None,
    max_iter: Annotated[int | None, typer.Option("--max-iter", metavar="N", min=1)] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, show_default="by cores", help="Of every rank.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 3 if not converged.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table.")] = False,
):
    """Restore a volume that is cut into slabs, one a rank; files are on a file system that all ranks share."""
    from mpi4py import MPI

    from ..io import check_writable
    from ..io.errors import InputError
    from ..jobs.errors import located
    from . import Volume, read_slab, solve_bio, solve_lower, write_slabs
    from .agreement import same, together
    from .files import read_header, read_small

    comm = MPI.COMM_WORLD
    with together(comm):
        started = max(int(os.environ.get(name) or 1) for name in _STARTED)
        if comm.Get_size() == 1 and started > 1:
            raise InputError(
                f"{started} processes were started and MPI sees one: the launcher is of another MPI than mpi4py's; "
                "with the wheel mpich use its own mpiexec or 'srun --mpi=pmi2'"
            )
        if target is None and (epsilon or kappa):
            raise InputError("--epsilon, --kappa: are of the upper level; give a --target, identity say")
        shape, dtype = read_header(y)
        if dtype.kind != "f" or dtype.itemsize not in (4, 8):
            raise InputError(f"{y}: holds {dtype}; save the volume as float32 or float64")
        kernel = read_small(psf)
        if comm.Get_rank() == 0:
            check_writable(output)
    same(comm, **{str(y): (shape, dtype.name)})
    volume = Volume(comm, shape, dtype, threads=threads)
    options = {"isotropic": isotropic} | {
        name: value for name, value in (("tol", tol), ("max_iter", max_iter)) if value is not None
    }
    observed = read_slab(volume, y)
    goal = target if target in (None, "identity") else read_slab(volume, target)
    try:
        if goal is None:
            solution = solve_lower(volume, observed, kernel, tv_weight, **options)
        else:
            upper = {"target": goal, "tv_weight": tv_weight, "epsilon": epsilon, "kappa": kappa}
            solution = solve_bio(volume, observed, kernel, **upper, **options)
    except (ValueError, TypeError) as error:
        places = {name: f"--{name.replace('_', '-')}" for name in ("tv_weight", "epsilon", "kappa", *options)}
        found = located(error, places | {"y": y, "psf": psf, "target": target})
        found.agreed = getattr(error, "agreed", False)
        raise found from error
    write_slabs(volume, output, solution.x)
    if comm.Get_rank() == 0 and not quiet:
        from ..cli.report import certificate_rows, print_paths, print_rows

        print_rows(f"{y.name}, restored", certificate_rows(solution))
        print_paths([output])
    raise typer.Exit(NOT_CONVERGED if strict and not solution.converged else DONE)


def run(arguments=None):
    """Run the command line on this rank; returns the exit status.

    Rank 0 speaks for all: what the others would print goes nowhere.  An error that is not on every rank ends all.
    """
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    if comm.Get_rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
    app.command()(restore)
    try:
        command = typer.main.get_command(app)
        status = command.main(
            args=sys.argv[1:] if arguments is None else list(arguments), prog_name="python -m bioperf.distributed",
            standalone_mode=False,
        )  # fmt: skip
        sys.stdout.flush()
        return status or DONE
    except typer.Exit as error:
        return error.exit_code
    except Exception as error:
        from ..solution import DivergenceError

        if hasattr(error, "format_message"):
            _complain(comm, f"{error.format_message().strip().rstrip('.')}; see '--help'")
            return WRONG_INPUT
        if isinstance(error, DivergenceError):
            _complain(comm, str(error))
            return FAILED
        if getattr(error, "agreed", False):
            _complain(comm, str(error))
            return WRONG_INPUT if isinstance(error, ValueError | TypeError | OSError) else FAILED
        traceback.print_exc()
        sys.stderr.flush()
        comm.Abort(FAILED)


def _complain(comm, message):
    if comm.Get_rank() == 0:
        print(f"bioperf: {' '.join(message.split())}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run())
