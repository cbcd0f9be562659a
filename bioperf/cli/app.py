"""The commands, their options and the exit statuses; the work is done in the modules beside it."""

import logging
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer

from ..io.errors import InputError, OutputError

__all__ = ["app", "run"]

DONE, FAILED, WRONG_INPUT, NOT_CONVERGED, INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    name="bioperf",
    help="Certified restoration of blurred images.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Target(StrEnum):
    nlm = "nlm"
    identity = "identity"
    deconv = "deconv"


class Boundary(StrEnum):
    periodic = "periodic"
    unknown = "unknown"


def run(arguments=None):
    """Run the command line (a list of str, or ``sys.argv[1:]``); returns the exit status."""
    state = SimpleNamespace(debug=False)
    # Its remarks on damaged files would stand beside the one line that this command prints.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    try:
        command = typer.main.get_command(app)
        status = command.main(args=arguments, prog_name="bioperf", standalone_mode=False, obj=state)
        sys.stdout.flush()
        # Ctrl-C reaches here as a status or as an exception, by typer's version
        return _interrupted() if status == INTERRUPTED else status or DONE
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except typer.Exit as error:
        return error.exit_code
    except (InputError, OutputError) as error:
        _explain(state, error)
        return WRONG_INPUT
    except BrokenPipeError:
        sys.stdout = None
        return FAILED
    except Exception as error:
        if hasattr(error, "format_message"):
            # A usage error, of click's or of typer's own classes by version; no arguments: help was printed
            message = error.format_message().strip()
            if message and not message.startswith("Usage:") and type(error).__name__ != "NoArgsIsHelpError":
                context = getattr(error, "ctx", None)
                _complain(f"{message.rstrip('.')}; see '{context.command_path if context else 'bioperf'} --help'")
            return WRONG_INPUT
        _explain(state, error, advice="; 'bioperf --debug ...' shows where")
        return FAILED


def _interrupted():
    _complain("interrupted; nothing was left half-written")
    return INTERRUPTED


def _explain(state, error, advice=""):
    if state.debug:
        traceback.print_exception(error)
        return
    text = " ".join(str(error).split()) or type(error).__name__
    if advice:
        text = f"{type(error).__name__}: {text}" if str(error) else text
    _complain(text + advice)


def _complain(message):
    from rich.console import Console

    message = " ".join(message.split())
    Console(stderr=True).print(f"bioperf: {message}", markup=False, highlight=False, soft_wrap=True)


def _print_version(wanted):
    if wanted:
        from bioperf import __version__

        typer.echo(f"bioperf {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Log what the library does and show the traceback of an error.")
    ] = False,
):
    context.obj.debug = debug
    if debug:
        logging.basicConfig(level=logging.INFO)
        logging.getLogger("bioperf").setLevel(logging.DEBUG)


Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, show_default="by size", help="At most this many threads.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no tables.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder for the results.")] = Path(
        "bioperf-demo"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the motion kernel and of the noise.")] = 0,
    threads: Threads = None,
    quiet: Quiet = False,
):
    """Blur and restore a bundled photograph; draw before and after, print the quality and the certificate."""
    from .demo import demonstrate

    demonstrate(out, seed=seed, threads=threads, quiet=quiet)


@app.command()
def deblur(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="PNG, TIFF or NPY; pages and leading axes are a batch.")
    ],
    psf: Annotated[Path, typer.Option("--psf", metavar="PSF", help="The point spread function: NPY, PNG or TIFF.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="PNG, TIFF or NPY; the bit depth is kept.")
    ],
    noise_std: Annotated[
        float | None,
        typer.Option(
            "--noise-std", metavar="S", show_default="estimated", help="Noise level for intensities from 0 to 1."
        ),
    ] = None,
    target: Annotated[Target, typer.Option("--target", help="What the result is drawn to.")] = Target.nlm,
    tv_weight: Annotated[
        float | None,
        typer.Option(
            "--tv-weight", metavar="G", show_default="from the noise level", help="Weight of the total variation."
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            "--epsilon",
            metavar="E",
            show_default="from the noise level",
            help="Radius of the data constraint, absolute.",
        ),
    ] = None,
    kappa: Annotated[
        float | None,
        typer.Option("--kappa", metavar="K", show_default="0", help="Relative slack on the total variation."),
    ] = None,
    boundary: Annotated[
        Boundary,
        typer.Option("--boundary", help="What lies beyond the frame; files are taken for photographs: unknown."),
    ] = Boundary.unknown,
    isotropic: Annotated[bool, typer.Option("--isotropic/--anisotropic", help="The kind of total variation.")] = True,
    channel_axis: Annotated[
        int | None, typer.Option("--channel-axis", metavar="AXIS", help="The colour axis of an NPY array.")
    ] = None,
    tol: Annotated[float, typer.Option("--tol", help="Tolerance of the certificate.")] = 1e-3,
    max_iter: Annotated[int, typer.Option("--max-iter", metavar="N", help="Iteration limit.")] = 1000,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", metavar="N", min=1, help="Refuse files with more values than this.")
    ] = 2**28,
    threads: Threads = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FIG", help="Draw before, after and convergence as PNG.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with status 3 if not converged (the output is written).")
    ] = False,
    quiet: Quiet = False,
):
    """Restore a blurred image, or a stack, given its point spread function."""
    from .deblur import deblur_file

    solution = deblur_file(
        image,
        psf,
        output,
        figure=figure,
        channel_axis=channel_axis,
        max_pixels=max_pixels,
        quiet=quiet,
        noise_std=noise_std,
        target=target.value,
        tv_weight=tv_weight,
        epsilon=epsilon,
        kappa=kappa,
        boundary=boundary.value,
        isotropic=isotropic,
        tol=tol,
        max_iter=max_iter,
        threads=threads,
    )
    if strict and not _all(solution.converged):
        _complain(f"{image}: {solution.status}; raise --max-iter or --tol (the output was written)")
        raise typer.Exit(NOT_CONVERGED)


def _all(flags):
    return bool(flags.all()) if hasattr(flags, "all") else bool(flags)


@app.command()
def info():
    """Print versions, backends and why one is missing, FFT libraries and threads."""
    from .info import print_info

    print_info()
