"""What ``bioperf tune`` works on: k-space from a file, or k-space simulated from reference images."""

import re
from dataclasses import dataclass, field

import numpy as np

from ..io import InputError, KSpace, image_format, read_image, read_kspace, read_mask
from .order import doubtful_order
from .reference import read_reference

__all__ = ["TuningData", "is_made", "read_measured", "simulate"]

_MADE_MASKS = {"cartesian": "cartesian", "gaussian": "gaussian", "poisson": "poisson_disc", "radial": "radial"}
_DENSITY_RATIO = 2.0
MOST_NOISE = 1e6


@dataclass
class TuningData:
    """Single-coil k-space of one image or of a stack, and the file or option that each part of it came from.

    Attributes
    ----------
    A : MaskedFourier
    kspace : ndarray, complex, shape (..., H, W)
    reference : ndarray of that shape, real or (where A's images are) complex, or None
    peak : float or None
        The data range of PSNR and SSIM; None without a reference.
    noise_std : float or None
        Of a complex sample, in the units of k-space; None: not known.
    paths : list
        Every file that was read.
    sources : dict of str -> path or str
        By the name of an argument of the library.
    facts : list of (str, str)
        Rows to print.
    raw : KSpace, optional
        What a file of k-space said.
    doubt : str, optional
        A sentence if the zero frequency seems to lie elsewhere than said.
    """

    A: object
    kspace: np.ndarray
    reference: np.ndarray | None
    peak: float | None
    noise_std: float | None
    paths: list
    sources: dict
    facts: list
    raw: KSpace | None = None
    doubt: str | None = None
    test: tuple | None = field(default=None, repr=False)

    # What the doubt about the zero frequency is judged by
    @property
    def mask(self):
        return self.A.mask

    @property
    def centred(self):
        return self.A.centred

    def part(self, images, test):
        """Keep the ``images`` "START:STOP" of the stack, and the last ``test`` of these in ``self.test`` only.

        ``test`` is a number of images or, with a decimal point, a share of the stack; it needs a reference.
        Raises InputError.
        """
        count = self._whole_stack("--images" if images is not None else "--test") if images or test else 1
        if images is not None:
            chosen = _range(self.sources["y"], images, count)
            self._keep(chosen)
            count = len(self.kspace)
        tested = 0
        if test is not None:
            if self.reference is None:
                raise InputError("--test: images are tested against a reference; give one with --reference")
            tested = _test_count(test, self.sources["y"], count)
            self.test = self.kspace[count - tested :], self.reference[count - tested :]
            self._keep(slice(0, count - tested))
        number = int(np.prod(self.kspace.shape[:-2]))
        height, width = self.mask.shape
        self.facts += [
            ("samples", f"{self.mask.mean():.1%} of {height} x {width}"),
            ("images", f"{number}, {'real' if self.A.real else 'complex'}" + f"; {tested} for testing" * bool(tested)),
        ]

    def _whole_stack(self, option):
        """Make the leading axes one; its length."""
        if self.kspace.ndim == 2:
            raise InputError(f"{option}: {self.sources['y']} holds one image; leave it out")
        self.kspace = self.kspace.reshape(-1, *self.mask.shape)
        if self.reference is not None:
            self.reference = self.reference.reshape(self.kspace.shape)
        return len(self.kspace)

    def _keep(self, chosen):
        self.kspace = self.kspace[chosen]
        if self.reference is not None:
            self.reference = self.reference[chosen]


def read_measured(path, *, mask_path, reference_path, noise_std, centred, real, coils, key, mask_key, max_values):
    """TuningData of a file of k-space.

    Parameters
    ----------
    mask_path, reference_path : path or None
        The mask may be in the file.  The reference: NPY, or PNG and TIFF for real images, of k-space's shape.
    centred, real, coils : bool or None
        None: as the file says, or the symmetry of its samples; centred False where it does not say.

    Raises
    ------
    InputError
    """
    from ..mri import is_hermitian
    from ..operators import MaskedFourier

    if is_made(mask_path):
        raise InputError(f"--mask: {mask_path} is made for --simulate; name a file with the samples that were taken")
    if mask_path is None and mask_key is not None:
        mask_path = path
    raw = read_kspace(path, mask_path=mask_path, key=key, mask_key=mask_key, coils=coils, max_values=max_values)
    if raw.mask is None:
        raise InputError(f"{path}: has no sampling mask; name a file that has it with --mask")
    kspace, sources = raw.kspace, dict.fromkeys(("y", "kspace"), path) | {"mask": mask_path or path}
    if raw.coils:
        if kspace.shape[-3] > 1:
            raise InputError(
                f"{path}: axis -3 of shape {kspace.shape} is taken for {kspace.shape[-3]} coils, and weights are "
                "selected for one; add --no-coils if it counts slices, or tune with --simulate on images"
            )
        kspace = kspace[..., 0, :, :]
    if not kspace[..., raw.mask].any():
        raise InputError(f"{path}: all samples in the mask are 0; check that both have the zero frequency in one place")
    centred = bool(raw.centred) if centred is None else centred
    real = is_hermitian(kspace, raw.mask, centred) if real is None else real
    reference, paths = None, [path] + [mask_path] * (mask_path not in (None, path))
    if reference_path is not None:
        reference = _reference(reference_path, kspace.shape, real, max_values)
        paths.append(reference_path)
        sources["reference"] = reference_path
    data = TuningData(
        A=MaskedFourier(raw.mask, real=real, centred=centred),
        kspace=kspace,
        reference=reference,
        peak=None if reference is None else float(np.abs(reference).max()),
        noise_std=noise_std,
        paths=paths,
        sources=sources,
        facts=[("k-space", f"{raw.source}, {'centred' if centred else 'unshifted'}")],
        raw=raw,
    )
    data.doubt = doubtful_order(data)
    return data


def simulate(path, *, mask, noise_std, seed, centred, mask_key, max_values):
    """TuningData of k-space simulated from the reference images in a file, y = A (x + n).

    Parameters
    ----------
    path
        PNG, TIFF or NPY with intensities in [0, 1], integers scaled to it; pages and leading axes are a stack.
    mask : str or path
        A file, or "cartesian:RATE", "gaussian:RATE", "poisson:RATE", "radial:RATE" by ``bioperf.masks``.
    noise_std : float or None
        Standard deviation of the white noise n added to the images; None is 0.
    seed : int
        Of a mask that is made, and of the noise, which is another one for every image of the stack.
    centred : bool or None
        Where a mask's file has the zero frequency; None is False.

    Raises
    ------
    InputError
    """
    from ..operators import MaskedFourier

    if mask is None:
        raise InputError("--mask: --simulate needs one; name a file, or make one: radial:0.35")
    noise_std = 0.0 if noise_std is None else noise_std
    if not 0 <= noise_std <= MOST_NOISE:
        raise InputError(f"--noise-std: must be from 0 to {MOST_NOISE:g} for intensities up to 1, got {noise_std}")
    images, info = read_image(path, max_pixels=max_values)
    if info.channel_axis is not None:
        raise InputError(f"{path}: is in colour; convert it to grey")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise InputError(f"{path}: intensities from {low:.4g} to {high:.4g}; scale them to [0, 1]")
    if not images.any():
        raise InputError(f"{path}: all values are zero; give images")
    shape, centred, sources, doubt = images.shape[-2:], bool(centred), {"y": path, "reference": path}, None
    if made := is_made(mask):
        if mask_key is not None:
            raise InputError(f"--mask-key: {mask} is made and not read; leave it out")
        samples, paths = _make_mask(*made.groups(), shape, seed, centred), [path]
        sources["mask"] = "--mask"
    else:
        samples, paths = read_mask(mask, key=mask_key, shape=shape, max_values=max_values), [path, mask]
        sources["mask"], doubt = mask, _doubtful_mask(mask, samples, centred)
    A = MaskedFourier(samples, centred=centred)
    kspace = np.empty(images.shape, np.result_type(images.dtype, np.complex64))
    for number, index in enumerate(np.ndindex(images.shape[:-2])):
        noise = noise_std * np.random.default_rng([seed, number]).standard_normal(shape)
        kspace[index] = A((images[index] + noise).astype(images.dtype))
    return TuningData(
        A=A,
        kspace=kspace,
        reference=images,
        peak=1.0,
        noise_std=noise_std,
        paths=paths,
        sources=sources,
        facts=[("k-space", f"simulated, noise {noise_std:g}, seed {seed}, mask {mask}")],
        doubt=doubt,
    )


def is_made(mask):
    """The match of a mask that is made, "KIND:RATE"; None for None and for a path."""
    return None if mask is None else re.fullmatch(rf"({'|'.join(_MADE_MASKS)}):(.*)", str(mask))


def _make_mask(kind, rate, shape, seed, centred):
    from .. import masks

    try:
        return getattr(masks, _MADE_MASKS[kind])(shape, float(rate), seed=seed, centred=centred)
    except ValueError as error:
        raise InputError(f"--mask: {kind}:{rate} cannot be made ({error}); give a rate such as {kind}:0.35") from error


def _doubtful_mask(path, mask, centred):
    """A sentence if the mask is densest where it is not said to have the zero frequency."""

    def density(centred):
        middle = mask if centred else np.fft.fftshift(mask)
        return middle[tuple(slice(n // 2 - n // 16, n // 2 - n // 16 + max(1, n // 8)) for n in mask.shape)].mean()

    if density(not centred) <= _DENSITY_RATIO * density(centred):
        return None
    said, other = ("--centred", "--unshifted")[:: 1 if centred else -1]
    return (
        f"{path}: samples are densest where {other} has the zero frequency, but the mask is taken as {said[2:]}; "
        f"add {other} unless that is meant"
    )


def _reference(path, shape, real, max_values):
    if real and image_format(path) in ("png", "tiff"):
        reference = read_image(path, max_pixels=max_values)[0]
    else:
        reference = read_reference(path, max_values)
    if reference.dtype.kind not in "fc" or reference.real.dtype.itemsize not in (4, 8):
        raise InputError(f"{path}: values of type {reference.dtype}; save floats in the units of the reconstruction")
    if reference.shape != shape:
        raise InputError(f"{path}: shape {reference.shape} is no reference for images of shape {shape}; give one")
    if real != (reference.dtype.kind == "f"):
        held, option = ("real", "--real") if reference.dtype.kind == "f" else ("complex", "--complex")
        raise InputError(
            f"{path}: has {held} values, but the images are not taken for {held}; add {option} if they are"
        )
    if not np.isfinite(reference).all() or not reference.any():
        raise InputError(f"{path}: is zero, or has NaN or infinite values; give another reference")
    return reference


def _range(path, images, count):
    """The slice of a stack of that length."""
    parts = re.fullmatch(r"(-?\d+)?:(-?\d+)?", images)
    if not parts:
        raise InputError(f"--images: expected START:STOP, got {images!r}")
    chosen = slice(*(None if part is None else int(part) for part in parts.groups()))
    if not range(*chosen.indices(count)):
        raise InputError(f"--images: {images} takes none of the {count} in {path}; choose others")
    return chosen


def _test_count(test, path, count):
    """How many of that many images are kept for testing."""
    try:
        wanted = float(test) * count if "." in test else int(test)
    except ValueError:
        raise InputError(f"--test: expected a number of images or a share such as 0.5, got {test!r}") from None
    wanted = round(wanted) if np.isfinite(wanted) else 0
    if not 0 < wanted < count:
        raise InputError(
            f"--test: {test} of {count} images of {path} leaves none to test, or none to tune on; change it"
        )
    return wanted
