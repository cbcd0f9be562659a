"""``bioperf deblur``: from file to file."""

from pathlib import Path

from ..io import InputError, check_writable, image_format, read_image, read_psf, write_image
from .errors import located

__all__ = ["deblur_file"]

_OPTIONS = ("noise_std", "target", "tv_weight", "epsilon", "kappa", "boundary", "tol", "max_iter", "threads")


def deblur_file(image_path, psf_path, output, *, figure, channel_axis, max_pixels, quiet, **options):
    """Restore ``image_path`` into ``output``; returns the Solution.

    All that can be wrong with the arguments, the files or the places to write to is found before the solve
    starts: InputError or OutputError.  ``options`` are those of ``bioperf.deblur``.
    """
    image, info = read_image(image_path, channel_axis=channel_axis, max_pixels=max_pixels)
    psf = read_psf(psf_path, max_pixels=max_pixels)
    spatial = _spatial_shape(image.shape, info.channel_axis)
    if any(k > n for k, n in zip(psf.shape, spatial, strict=True)):
        raise InputError(f"{psf_path}: the psf's shape {psf.shape} exceeds the image's {spatial}; crop the psf")
    _check_outputs(output, figure, image, info)

    import bioperf

    from .report import certificate_rows, print_paths, print_rows, progress

    try:
        with progress(quiet) as callback:
            solution = bioperf.deblur(image, psf, channel_axis=info.channel_axis, callback=callback, **options)
    except (ValueError, TypeError) as error:
        places = {name: f"--{name.replace('_', '-')}" for name in _OPTIONS} | {"y": image_path, "psf": psf_path}
        raise located(error, places) from error
    write_image(output, solution.x, like=info)
    written = [output]
    if figure is not None:
        _draw(figure, image, solution, psf, info)
        written.append(figure)
    if not quiet:
        print_rows(f"{Path(image_path).name}, restored", certificate_rows(solution))
        print_paths(written)
    return solution


def _spatial_shape(shape, channel_axis):
    if channel_axis is not None:
        shape = tuple(n for axis, n in enumerate(shape) if axis != len(shape) + channel_axis)
    return shape[-2:]


def _check_outputs(output, figure, image, info):
    kind = image_format(output)
    if kind is None:
        raise InputError(f"{output}: unknown format {Path(output).suffix!r}; end OUT in .png, .tif or .npy")
    if kind == "png" and image.ndim > (2 if info.channel_axis is None else 3):
        raise InputError(f"{output}: PNG holds one image, not shape {image.shape}; end OUT in .tif or .npy")
    check_writable(output)
    if figure is not None:
        if image_format(figure) != "png":
            raise InputError(f"{figure}: the figure is drawn as PNG; end FIG in .png")
        check_writable(figure)


def _draw(path, image, solution, psf, info):
    """The figure of the first image of a batch."""
    import numpy as np

    from .figure import Panel, draw
    from .report import certificate_facts

    def first(array):
        axes = 2
        if info.channel_axis is not None:
            array, axes = np.moveaxis(array, info.channel_axis, -1), 3
        return array.reshape(-1, *array.shape[-axes:])[0]

    history = solution.history[0] if isinstance(solution.history, list) else solution.history
    panels = [Panel("Blurred", first(image)), Panel("Restored", first(solution.x))]
    draw(path, panels, psf, certificate_facts(solution), history)
