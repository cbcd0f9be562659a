"""The commands, their options and the exit statuses; the work is done in the modules beside it."""

import logging
import sys
import traceback
import warnings
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
    help="Certified restoration of blurred images and of undersampled MRI.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Target(StrEnum):
    nlm = "nlm"
    cnn = "cnn"
    identity = "identity"
    deconv = "deconv"


class MriTarget(StrEnum):
    nlm = "nlm"
    cnn = "cnn"
    identity = "identity"


class Precision(StrEnum):
    bfloat16 = "bfloat16"
    float32 = "float32"


class Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


class Boundary(StrEnum):
    periodic = "periodic"
    unknown = "unknown"


class Method(StrEnum):
    bf_dca = "bf-dca"
    bf_dca_faithful = "bf-dca-faithful"
    hypergradient = "hypergradient"
    grid = "grid"
    random = "random"
    tpe = "tpe"
    discrepancy = "discrepancy"
    sure = "sure"


class Job(StrEnum):
    deblur = "deblur"
    mri = "mri"
    tune = "tune"


class Criterion(StrEnum):
    holdout = "holdout"
    supervised = "supervised"
    degenerate = "degenerate"


def run(arguments=None):
    """Run the command line (a list of str, or ``sys.argv[1:]``); returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    state = SimpleNamespace(debug=False, arguments=arguments)
    # Its remarks on damaged files would stand beside the one line that this command prints.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", "Reading `.npy` or `.npz` file required additional header parsing", UserWarning)
    # Names of files need not be text
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
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
Strict = Annotated[bool, typer.Option("--strict", help="Exit with status 3 if not converged (the output is written).")]
TvWeight = Annotated[
    float | None,
    typer.Option(
        "--tv-weight", metavar="G", show_default="from the noise level", help="Weight of the total variation."
    ),
]
Epsilon = Annotated[
    float | None,
    typer.Option(
        "--epsilon", metavar="E", show_default="from the noise level", help="Radius of the data constraint, absolute."
    ),
]
Coils = Annotated[
    bool | None,
    typer.Option("--coils/--no-coils", show_default="by the file", help="Whether axis -3 is the coils."),
]
Centred = Annotated[
    bool | None,
    typer.Option(
        "--centred/--unshifted",
        show_default="by the format; NPY and NPZ: unshifted",
        help="Where the zero frequency is: in the middle, or at index 0.",
    ),
]
Real = Annotated[
    bool | None,
    typer.Option("--real/--complex", show_default="by the samples' symmetry", help="The values of the image."),
]
MaxValues = Annotated[
    int, typer.Option("--max-values", metavar="N", min=1, help="Refuse files with more values than this.")
]
Isotropic = Annotated[bool, typer.Option("--isotropic/--anisotropic", help="The kind of total variation.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="W",
        show_default="the package's",
        help="Of the target cnn, as train-denoiser writes them.",
    ),
]
OfNetwork = Annotated[Device, typer.Option("--device", help="Where the target cnn is computed.")]
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
    weights: Weights = None,
    device: Annotated[
        Device, typer.Option("--device", help="Where both levels are solved and the target cnn is computed.")
    ] = Device.cpu,
    tv_weight: TvWeight = None,
    epsilon: Epsilon = None,
    kappa: Annotated[
        float | None,
        typer.Option("--kappa", metavar="K", show_default="0", help="Relative slack on the total variation."),
    ] = None,
    boundary: Annotated[
        Boundary,
        typer.Option("--boundary", help="What lies beyond the frame; files are taken for photographs: unknown."),
    ] = Boundary.unknown,
    isotropic: Isotropic = True,
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
    strict: Strict = False,
    quiet: Quiet = False,
):
    """Restore a blurred image, or a stack, given its point spread function."""
    from .deblur import deblur_file

    solution = deblur_file(
        image,
        output,
        psf=psf,
        figure=figure,
        channel_axis=channel_axis,
        max_pixels=max_pixels,
        quiet=quiet,
        noise_std=noise_std,
        target=target.value,
        weights=weights,
        device=device.value,
        tv_weight=tv_weight,
        epsilon=epsilon,
        kappa=kappa,
        boundary=boundary.value,
        isotropic=isotropic,
        tol=tol,
        max_iter=max_iter,
        threads=threads,
    )
    if strict:
        _require_convergence(image, solution)


@app.command()
def mri(
    kspace: Annotated[
        Path,
        typer.Argument(metavar="KSPACE", help="NPY, NPZ, HDF5 (fastMRI's layout) or ISMRMRD; slices are a batch."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="NIfTI (.nii, .nii.gz), NPY, or PNG of one slice.")
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            metavar="MASK",
            show_default="in KSPACE",
            help="The samples taken, in the order of k-space: NPY, NPZ, HDF5, or a black and white PNG or TIFF.",
        ),
    ] = None,
    maps: Annotated[
        str | None,
        typer.Option(
            "--maps",
            metavar="FILE|estimate|none",
            show_default="estimate",
            help="Coil sensitivities: NPY or NPZ; from the centre of k-space; none: every coil by itself.",
        ),
    ] = None,
    coils: Coils = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="NAME", help="The array, dataset or group in KSPACE.")
    ] = None,
    mask_key: Annotated[
        str | None, typer.Option("--mask-key", metavar="NAME", help="The array or dataset in MASK, or in KSPACE.")
    ] = None,
    centred: Centred = None,
    real: Real = None,
    noise_std: Annotated[
        float | None,
        typer.Option(
            "--noise-std",
            metavar="S",
            show_default="estimated",
            help="Noise level of a complex sample, in the units of k-space.",
        ),
    ] = None,
    target: Annotated[MriTarget, typer.Option("--target", help="What the result is drawn to.")] = MriTarget.nlm,
    weights: Weights = None,
    device: OfNetwork = Device.cpu,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            metavar="N",
            min=1,
            show_default="nlm 2, cnn 1",
            help="How often target and upper level are solved.",
        ),
    ] = None,
    tv_weight: TvWeight = None,
    wavelet_weight: Annotated[
        float | None,
        typer.Option(
            "--wavelet-weight", metavar="W", show_default="from the noise level", help="Weight of the wavelets."
        ),
    ] = None,
    epsilon: Epsilon = None,
    kappa: Annotated[
        float | None,
        typer.Option("--kappa", metavar="K", show_default="calibrated", help="Relative slack on the total variation."),
    ] = None,
    sparsity_weight: Annotated[
        float | None,
        typer.Option(
            "--sparsity-weight",
            metavar="R",
            show_default="calibrated",
            help="Weight of the upper level's wavelets, in units of the image's range.",
        ),
    ] = None,
    tol: Annotated[float, typer.Option("--tol", help="Tolerance of the certificate.")] = 1e-2,
    max_iter: Annotated[int, typer.Option("--max-iter", metavar="N", min=1, help="Iteration limit.")] = 500,
    max_values: MaxValues = 2**28,
    magnitude: Annotated[bool, typer.Option("--magnitude", help="Write the magnitude; PNG always has it.")] = False,
    crop: Annotated[bool, typer.Option("--crop", help="Write the central part that the scanner shows.")] = False,
    slice_index: Annotated[
        int | None,
        typer.Option(
            "--slice", metavar="N", show_default="the middle one", help="The slice in PNG output and in the figure."
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="REF",
            show_default="a reconstruction in KSPACE",
            help="NPY image to compare magnitudes with, the central part if smaller.",
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FIG", help="Draw images, mask and convergence as PNG.")
    ] = None,
    threads: Threads = None,
    strict: Strict = False,
    quiet: Quiet = False,
):
    """Reconstruct an image, or a stack, from undersampled k-space."""
    from .mri import reconstruct_file

    solution = reconstruct_file(
        kspace,
        output,
        mask=mask,
        maps=maps,
        coils=coils,
        key=key,
        mask_key=mask_key,
        centred=centred,
        reference=reference,
        magnitude=magnitude,
        crop=crop,
        slice_index=slice_index,
        figure=figure,
        max_values=max_values,
        quiet=quiet,
        real=real,
        noise_std=noise_std,
        target=target.value,
        weights=weights,
        device=device.value,
        rounds=rounds,
        tv_weight=tv_weight,
        wavelet_weight=wavelet_weight,
        epsilon=epsilon,
        kappa=kappa,
        sparsity_weight=sparsity_weight,
        tol=tol,
        max_iter=max_iter,
        threads=threads,
    )
    if strict:
        _require_convergence(kspace, solution)


def _require_convergence(path, solution):
    flags = solution.converged
    if not (flags.all() if hasattr(flags, "all") else flags):
        _complain(f"{path}: {solution.status}; raise --max-iter or --tol (the output was written)")
        raise typer.Exit(NOT_CONVERGED)


@app.command()
def tune(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="k-space of one coil (NPY, NPZ, HDF5, ISMRMRD), or with --simulate images (PNG, TIFF, NPY); a stack "
            "shares its weights.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="All that was done and found, as JSON.")
    ],
    method: Annotated[
        list[Method] | None,
        typer.Option("--method", show_default="bf-dca", help="How to search; give several to compare them."),
    ] = None,
    criterion: Annotated[
        Criterion | None,
        typer.Option(
            "--criterion", show_default="supervised with a reference, else holdout", help="What is minimised."
        ),
    ] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="INPUT holds reference images: simulate their k-space.")
    ] = False,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            metavar="MASK|KIND:RATE",
            show_default="in INPUT",
            help="The samples taken, a file as for mri; with --simulate also radial:0.35, cartesian:0.3, gaussian:0.3 "
            "or poisson:0.3.",
        ),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="REF", help="The true images of k-space: NPY, PNG or TIFF.")
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="START:STOP", show_default="all", help="Of the stack, these only.")
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            "--test",
            "--test-fraction",
            metavar="N|SHARE",
            help="Keep the last N images, or a share such as 0.5, to test the weights on (needs a reference).",
        ),
    ] = None,
    noise_std: Annotated[
        float | None,
        typer.Option(
            "--noise-std",
            metavar="S",
            show_default="not known; --simulate: 0",
            help="Noise level of a complex sample; with --simulate that of the noise added to the images.",
        ),
    ] = None,
    trials: Annotated[int, typer.Option("--trials", metavar="N", min=1, help="Of grid, random and tpe.")] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the mask, noise, division of samples, search.")] = 0,
    wavelet: Annotated[
        str,
        typer.Option(
            "--wavelet", metavar="NAME", help="haar, db2, ..., undecimated or undecimated-db2, ...; none: only the TV."
        ),
    ] = "haar",
    level: Annotated[int, typer.Option("--level", metavar="N", min=1, help="Of the wavelet's decomposition.")] = 3,
    isotropic: Isotropic = True,
    tol: Annotated[float, typer.Option("--tol", help="Tolerance of the lower level.")] = 1e-4,
    batched: Annotated[bool, typer.Option("--batched", help="Grid and random: trials on all cores at once.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", min=1, help="Tpe: trials at a time.")] = 1,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URL", help="Tpe: keeps the study: sqlite:///F.db, journal:///F.log."),
    ] = None,
    study_name: Annotated[
        str | None,
        typer.Option("--study-name", metavar="NAME", help="Tpe: the study in it; one that is there goes on."),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="NAME", help="The array, dataset or group in INPUT.")
    ] = None,
    mask_key: Annotated[
        str | None, typer.Option("--mask-key", metavar="NAME", help="The array or dataset in MASK, or in INPUT.")
    ] = None,
    coils: Coils = None,
    centred: Centred = None,
    real: Real = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image", metavar="IMAGE", help="Write the images at the best weights: NIfTI, NPY, TIFF, PNG of one slice."
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure",
            metavar="FIG",
            help="Draw the searches and the criterion as PNG; computes a grid if no method does.",
        ),
    ] = None,
    max_values: MaxValues = 2**28,
    threads: Threads = None,
    strict: Strict = False,
    quiet: Quiet = False,
):
    """Select the weights of total variation and wavelets, by one method or several, and record how."""
    from .tune import tune_file

    selections = tune_file(
        data,
        output,
        method=[item.value for item in method or [Method.bf_dca]],
        criterion=None if criterion is None else criterion.value,
        simulate=simulate,
        mask=mask,
        reference=reference,
        images=images,
        test=test,
        noise_std=noise_std,
        trials=trials,
        seed=seed,
        wavelet=wavelet,
        level=level,
        isotropic=isotropic,
        tol=tol,
        batched=batched,
        jobs=jobs,
        storage=storage,
        study_name=study_name,
        key=key,
        mask_key=mask_key,
        coils=coils,
        centred=centred,
        real=real,
        max_values=max_values,
        image=image,
        figure=figure,
        threads=threads,
        quiet=quiet,
        arguments=context.obj.arguments,
    )
    unfinished = [f"{selection.method} {selection.status}" for selection in selections if not selection.converged]
    if strict and unfinished:
        _complain(f"{data}: {'; '.join(unfinished)} (the output was written)")
        raise typer.Exit(NOT_CONVERGED)


@app.command()
def batch(
    manifest: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST",
            help="CSV or JSON Lines, a row an item (input, psf or mask, options), or a quoted pattern such as "
            "'scans/*.png'.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="For the outputs, their sidecars and the journal.")],
    job: Annotated[Job, typer.Option("--job", help="Of rows that name none.")] = Job.deblur,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            show_default=False,
            help="A file or an option of the job for all rows that do not give it: --set psf=psf.npy; repeat it.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip what DIR's journals and the outputs' SHA-256 confirm.")
    ] = False,
    array_index: Annotated[
        int | None, typer.Option("--array-index", metavar="I", help="Do the I-th share, from 0 ...")
    ] = None,
    array_count: Annotated[
        int | None, typer.Option("--array-count", metavar="N", help="... of N shares of the manifest.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", metavar="N", min=1, show_default="what the scheduler grants", help="Images solved at a time."
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="SIZE", show_default="80 % of what is granted or free", help="For the whole, as 4G."
        ),
    ] = None,
    max_failures: Annotated[
        int | None,
        typer.Option("--max-failures", metavar="N", min=0, show_default="no limit", help="Stop after more than N."),
    ] = None,
    grace: Annotated[
        float,
        typer.Option("--grace", metavar="SECONDS", min=0, help="For the running items after SIGTERM or SIGUSR1."),
    ] = 25.0,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster", metavar="ADDRESS|slurm", help="Solve on the workers of a Dask scheduler, or of Slurm jobs."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Slurm jobs of --cluster slurm.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check every input, estimate the memory, solve nothing.")
    ] = False,
    quiet: Quiet = False,
):
    """Run the jobs of a manifest; killed at any moment, --resume goes on and gives the same bytes.

    Exit status: 0 all done, 1 some items failed, 2 wrong arguments or nothing can be written, 3 some did not converge,
    75 stopped by a signal with items left.
    """
    from .batch import run_manifest

    status = run_manifest(
        manifest,
        out,
        job=job.value,
        settings=settings or [],
        array=(array_index, array_count),
        dry_run=dry_run,
        cluster=cluster,
        workers=workers,
        memory=memory,
        threads=threads,
        quiet=quiet,
        resume=resume,
        max_failures=max_failures,
        grace=grace,
    )
    if status:
        raise typer.Exit(status)


@app.command()
def train_denoiser(
    context: typer.Context,
    data: Annotated[
        list[Path],
        typer.Argument(metavar="DATA", help="Folders of images; PNG, TIFF, NPY files; NPZ archives of images."),
    ],
    output: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="The weights, safetensors; OUT.checkpoint is continued.")
    ],
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Steps of Adam.")] = 40000,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Patches a step.")] = 8,
    patch: Annotated[int, typer.Option("--patch", metavar="N", min=8, help="Pixels along a patch's side.")] = 64,
    levels: Annotated[
        tuple[float, float],
        typer.Option("--levels", metavar="LO HI", help="Range of the noise level, for intensities from 0 to 1."),
    ] = (0.0, 0.11),
    learning_rate: Annotated[float, typer.Option("--learning-rate", metavar="R", help="The highest one.")] = 1e-3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of start, patches and noise.")] = 0,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Of the inner layers while training.")
    ] = Precision.bfloat16,
    validation: Annotated[
        Path | None,
        typer.Option("--validation", metavar="DATA", show_default="every 25th image", help="Images to validate on."),
    ] = None,
    initial: Annotated[
        Path | None, typer.Option("--init", metavar="W", show_default="random", help="Weights to start from.")
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option("--checkpoint-every", metavar="N", min=1, help="Steps between checkpoints.")
    ] = 1000,
    device: Annotated[Device, typer.Option("--device", help="Where to train.")] = Device.cpu,
    restart: Annotated[bool, typer.Option("--restart", help="Ignore OUT.checkpoint.")] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, show_default="torch's", help="Threads of torch.")
    ] = None,
    quiet: Quiet = False,
):
    """Train the network of the target "cnn" on images, from checkpoint to checkpoint."""
    from .train import train

    train(
        data,
        output,
        steps=steps,
        batch=batch,
        patch=patch,
        lowest=levels[0],
        highest=levels[1],
        learning_rate=learning_rate,
        seed=seed,
        precision=precision.value,
        validation=validation,
        initial=initial,
        checkpoint_every=checkpoint_every,
        device=device.value,
        restart=restart,
        threads=threads,
        quiet=quiet,
        arguments=context.obj.arguments,
    )


@app.command()
def info():
    """Print versions, backends and why one is missing, FFT libraries and threads."""
    from .info import print_info

    print_info()
