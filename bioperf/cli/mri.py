"""``bioperf mri``: from a file of k-space to an image."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..io import (
    InputError,
    check_reconstruction,
    check_writable,
    image_format,
    npy,
    read_kspace,
    write_reconstruction,
)
from ..io.nifti import is_nifti
from ..io.npz import open_archive
from ..io.reconstruction import central
from .errors import located

__all__ = ["reconstruct_file"]

_OPTIONS = (
    "noise_std", "target", "rounds", "tv_weight", "wavelet_weight", "epsilon", "kappa", "sparsity_weight", "real",
    "tol", "max_iter", "threads",
)  # fmt: skip
# Times the energy, or the density of samples, where the zero frequency is said not to be: more is suspicious.
_ENERGY_RATIO, _DENSITY_RATIO = 4.0, 2.0
_WHITE_PERCENTILE = 99.9
_ERROR_SCALE, _CHANGE_SCALE = 5, 2
# The window of the structural similarity.
_SSIM_SIDE = 11


@dataclass
class _Problem:
    """What ``reconstruct_mri`` is given, and the file or option that each argument came from."""

    kspace: np.ndarray
    mask: np.ndarray
    maps: np.ndarray | str | None
    centred: bool
    coils: str
    sources: dict

    @property
    def batch_shape(self):
        return self.kspace.shape[: self.kspace.ndim - 2 - (self.maps is not None)]

    @property
    def shape(self):
        """Of the images."""
        return (*self.batch_shape, *self.mask.shape)


@dataclass
class _Reference:
    """Magnitudes to compare with, shape (images, h, w), and where they came from."""

    images: np.ndarray
    source: str

    def __post_init__(self):
        self.peak = float(self.images.max())

    def of(self, x):
        """The magnitudes of images, the central part that has a reference: (images, h, w)."""
        magnitude = np.abs(central(x, self.images.shape[-2:])).reshape(self.images.shape)
        return magnitude.astype(self.images.dtype, copy=False)

    def quality(self, x, index=...):
        """PSNR in dB and, of images that hold its window, the mean SSIM (else nan); RLNE."""
        from ..metrics import psnr, rlne, ssim

        ours, theirs = (stack[index].reshape(-1, *stack.shape[-2:]) for stack in (self.of(x), self.images))
        similarity = math.nan
        if min(theirs.shape[-2:]) >= _SSIM_SIDE:
            similarity = float(np.mean([ssim(a, b, self.peak) for a, b in zip(ours, theirs, strict=True)]))
        return psnr(ours, theirs, self.peak), similarity, rlne(ours, theirs)


def reconstruct_file(
    path,
    output,
    *,
    mask_path,
    maps,
    coils,
    key,
    mask_key,
    centred,
    reference_path,
    magnitude,
    crop,
    slice_index,
    figure,
    max_values,
    quiet,
    **options,
):
    """Reconstruct the k-space in ``path`` into ``output``; returns the Solution.

    All that can be wrong with the arguments, the files or the places to write to is found before the solve
    starts: InputError or OutputError.

    Parameters
    ----------
    maps : str or None
        "estimate", "none" (every coil is an image by itself) or the path of an NPY or NPZ file; None: estimated
        if there are several coils.
    coils, centred : bool or None
        None: what the file says; coils as in ``read_kspace``, centred False where it does not say.
    slice_index : int or None
        The slice to draw, counted over all leading axes; None: the middle one.
    options
        Of ``bioperf.reconstruct_mri``.
    """
    if mask_path is None and mask_key is not None:
        mask_path = path
    raw = read_kspace(path, mask_path=mask_path, key=key, mask_key=mask_key, coils=coils, max_values=max_values)
    if raw.mask is None:
        raise InputError(f"{path}: has no sampling mask; name a file that has it with --mask")
    problem = _problem(path, raw, maps, bool(raw.centred) if centred is None else centred, max_values)
    problem.sources["mask"] = mask_path or path
    if options["real"] and problem.maps is not None:
        raise InputError("--real: images seen by several coils are complex; leave it out")
    doubt = doubtful_order(problem)
    _check_calibration(problem, doubt)
    if crop and raw.shown is None:
        raise InputError(f"{path}: does not say which part of the image the scanner shows; leave out --crop")
    drawn = _slice_to_draw(path, math.prod(problem.batch_shape), slice_index)
    _check_outputs(output, figure, problem.shape)
    reference, remark = _find_reference(reference_path, raw.reference, problem.shape, max_values)

    import bioperf

    from .report import certificate_rows, print_paths, print_rows, progress, warn

    if doubt:
        warn(doubt)
    try:
        with progress(quiet) as callback:
            solution = bioperf.reconstruct_mri(
                problem.kspace, problem.mask, maps=problem.maps, centred=problem.centred, callback=callback, **options
            )
    except (ValueError, TypeError) as error:
        raise located(error, problem.sources) from error
    write_reconstruction(output, solution.x, raw, magnitude=magnitude, crop=crop, slice_index=slice_index)
    written = [output]
    if figure is not None:
        _draw(figure, solution, drawn, problem, reference, raw.shown if crop else None)
        written.append(figure)
    if not quiet:
        rows = _input_rows(raw, problem, solution) + certificate_rows(solution) + _quality_rows(solution, reference)
        print_rows(f"{Path(path).name}, reconstructed", rows + remark)
        print_paths(written)
    return solution


def _problem(path, raw, maps, centred, max_values):
    sources = {name: f"--{name.replace('_', '-')}" for name in _OPTIONS}
    sources |= dict.fromkeys(("kspace", "shape", "wavelet", "transform"), path) | {"maps": "--maps"}
    kspace, count = raw.kspace, raw.kspace.shape[-3] if raw.coils else 1
    if not raw.coils:
        if maps not in (None, "none"):
            raise InputError(f"--maps: {path} has no axis of coils (its shape is {kspace.shape}); leave it out")
        maps, words = None, "1"
    elif maps is None and count == 1:
        kspace, words = kspace[..., 0, :, :], "1"
    elif maps == "none":
        maps, words = None, f"{count}, every one by itself"
    elif maps in (None, "estimate"):
        maps, words = "estimate", f"{count}, their maps estimated"
    else:
        sources["maps"], words = maps, f"{count}, their maps from {maps}"
        maps = _read_maps(maps, max_values)
    return _Problem(kspace, raw.mask, maps, centred, words, sources)


def _read_maps(path, max_values):
    """The array of an NPY file; of an NPZ file "maps" or the only complex one."""
    key = None
    if Path(path).suffix.lower() == ".npz" and Path(path).is_file():
        with open_archive(path) as archive:
            complex_names = [name for name in archive.names if archive.header(name)[1].kind == "c"]
        if len(complex_names) != 1:
            if "maps" not in complex_names:
                raise InputError(f"{path}: has no complex array 'maps'; save the coil maps by that name")
            key = "maps"
    return read_kspace(path, key=key, coils=False, max_values=max_values).kspace


def _check_calibration(problem, doubt):
    """InputError if maps are to be estimated and cannot be, of whichever slice; the doubt if that may be why."""
    if isinstance(problem.maps, str):
        from ..coils import estimate_maps

        try:
            for index in np.ndindex(problem.batch_shape):
                estimate_maps(problem.kspace[index], problem.mask, centred=problem.centred)
        except ValueError as error:
            raise (InputError(doubt) if doubt else located(error, problem.sources)) from error


def _slice_to_draw(path, count, index):
    if index is None:
        return count // 2
    if not -count <= index < count:
        raise InputError(f"--slice: {path} has no slice {index}; choose one from 0 to {count - 1}")
    return index % count


def _check_outputs(output, figure, shape):
    check_reconstruction(output)
    if is_nifti(output) and (len(shape) > 4 or max(shape) > 32767):
        raise InputError(f"{output}: NIfTI does not hold images of shape {shape}; end OUT in .npy")
    if figure is not None:
        if image_format(figure) != "png":
            raise InputError(f"{figure}: the figure is drawn as PNG; end FIG in .png")
        check_writable(figure)
        if Path(figure).resolve() == Path(output).resolve():
            raise InputError(f"{figure}: is OUT too; give the figure a name of its own")


def _find_reference(path, stored, shape, max_values):
    """The _Reference or None, and rows to print about one in the k-space's file that cannot be used."""
    if path is not None:
        return _as_reference(path, read_reference(path, max_values), shape), []
    if stored is None:
        return None, []
    try:
        return _as_reference("the file's own", np.asarray(stored), shape), []
    except InputError as error:
        return None, [("reference", f"not used; {error}")]


def read_reference(path, max_values):
    def check_size(shape):
        if math.prod(shape) > max_values:
            raise InputError(f"{path}: {math.prod(shape)} values exceed the limit of {max_values}; raise --max-values")

    if image_format(path) != "npy":
        raise InputError(f"{path}: the reference is read as NPY; save it with numpy.save as .npy")
    try:
        return npy.decode(path, check_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


def _as_reference(source, image, shape):
    if image.dtype.kind not in "fc" or image.real.dtype.itemsize not in (4, 8):
        raise InputError(f"{source}: values of type {image.dtype}; save floats in the units of the reconstruction")
    count, fits = math.prod(shape[:-2]), image.ndim >= 2 and image.size
    if not fits or math.prod(image.shape[:-2]) != count or any(np.subtract(shape[-2:], image.shape[-2:]) < 0):
        raise InputError(f"{source}: shape {image.shape} is no reference for images of shape {shape}; give one that is")
    magnitude = np.abs(image).reshape(count, *image.shape[-2:])
    if not np.isfinite(magnitude).all() or not magnitude.any():
        raise InputError(f"{source}: is zero, or has NaN or infinite values; give another reference")
    return _Reference(magnitude, str(source))


def doubtful_order(problem):
    """A sentence if the zero frequency seems to lie elsewhere than said, in k-space or in the mask."""
    said, other = ("--centred", "--unshifted")[:: 1 if problem.centred else -1]

    def around(array, centred):
        """The array's block of 1/8 of each axis around the zero frequency."""
        rows, columns = (
            (np.arange(max(1, n // 8)) - n // 16 + (n // 2 if centred else 0)) % n for n in array.shape[-2:]
        )
        return array[..., rows[:, None], columns]

    here, there = (np.linalg.norm(around(problem.kspace, c)) ** 2 for c in (problem.centred, not problem.centred))
    if there > _ENERGY_RATIO * here:
        return (
            f"{problem.sources['kspace']}: most of the energy lies where {other} has the zero frequency, but it is "
            f"taken as {said[2:]}; add {other} unless that is meant"
        )
    here, there = (around(problem.mask, c).mean() for c in (problem.centred, not problem.centred))
    if there > _DENSITY_RATIO * here:
        return (
            f"{problem.sources['mask']}: samples are densest where {other} has the zero frequency, but k-space is "
            f"{said[2:]}; save the mask in the order of k-space"
        )
    return None


def _input_rows(raw, problem, solution):
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


def _quality_rows(solution, reference):
    if reference is None:
        return []
    psnr, ssim, rlne = reference.quality(solution.x)
    rows = [("reference", f"{reference.source}, peak {reference.peak:.4g}"), ("PSNR", f"{psnr:.2f} dB")]
    if math.isfinite(ssim):
        rows.append(("SSIM", f"{ssim:.4f}"))
    return [*rows, ("RLNE", f"{rlne:.4f}")]


def _draw(path, solution, index, problem, reference, shown):
    """The figure of one slice."""
    from .figure import Panel, draw_reconstruction
    from .report import certificate_facts, one_of

    item = one_of(solution, index)
    zero_filled = item.details["zero_filled"]
    if reference is not None:
        shown = reference.images.shape[-2:]
    image, before, change = (
        np.abs(central(a, shown or problem.mask.shape)) for a in (item.x, zero_filled, item.x - zero_filled)
    )
    title, scale = "Reconstruction", _CHANGE_SCALE
    names = ("Zero-filled", title, f"Change from zero-filled, × {scale}")
    if reference is not None:
        before, scale = reference.images[index], _ERROR_SCALE
        change = np.abs(image - before)
        psnr, ssim, _ = reference.quality(solution.x, index)
        title += f", {psnr:.2f} dB" + f", SSIM {ssim:.3f}" * math.isfinite(ssim)
        names = ("Reference", title, f"Error, × {scale}")
    white = float(np.percentile(image, _WHITE_PERCENTILE)) or 1.0
    scaled = (before / white, image / white, change * (scale / white))
    panels = [Panel(name, picture) for name, picture in zip(names, scaled, strict=True)]
    facts = certificate_facts(item, ("noise_std", "epsilon", "data_residual"))
    mask = problem.mask if problem.centred else np.fft.fftshift(problem.mask)
    draw_reconstruction(path, panels, mask, facts, item.history)
