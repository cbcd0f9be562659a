"""ISMRMRD raw data: Cartesian acquisitions sorted into k-space, and the header's sizes.

Format: S. J. Inati et al., "ISMRM Raw data format", Magn. Reson. Med. 77 (2017).
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np

from .errors import InputError

__all__ = ["Encoding", "parse_header", "sort_acquisitions"]


def _bit(number):
    """The flag of that number, counted from 1 as in the format."""
    return 1 << (number - 1)


MOST = 65535  # of anything that an acquisition's header counts
NOISE = _bit(19)
REVERSED = _bit(22)
# Parallel calibration (alone), navigation, phase correction, feedback, dummy, surface coil, phase stabilisation
SKIPPED = sum(_bit(number) for number in (20, 23, 24, 26, 27, 28, 29, 30, 31))
CALIBRATION_AND_IMAGING = _bit(21)


@dataclass(frozen=True)
class Encoding:
    """Sizes of the first encoding; axes are readout, phase encoding, slice (or partition)."""

    trajectory: str
    matrix: tuple
    field_of_view: tuple
    shown_field_of_view: tuple
    centre: int | None

    def shown(self, shape):
        """(H, W) of the central part of an image of that shape that the scanner shows."""
        pairs = zip(shape, self.shown_field_of_view, self.field_of_view, strict=False)
        return tuple(min(n, max(1, round(n * shown / whole))) for n, shown, whole in pairs)

    def voxel(self, shape):
        """Size in mm along readout, phase encoding and slice of an image of that shape."""
        whole = self.field_of_view
        return (whole[0] / shape[0], whole[1] / shape[1], whole[2] / self.matrix[2])


def parse_header(xml):
    """The Encoding that an ISMRMRD XML header describes.  Raises ValueError."""
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ValueError("the header defines entities")
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ValueError(f"the header is not XML: {error}") from error

    def find(path):
        found = root.find("/".join(f"{{*}}{part}" for part in path.split("/")))
        if found is None or not found.text:
            raise ValueError(f"the header lacks {path}")
        return found.text.strip()

    def number(path, convert, least, most):
        text = find(path)
        with suppress(ValueError):
            value = convert(text)
            if least <= value <= most:
                return value
        raise ValueError(f"the header's {path} is {text[:20]!r}")

    def matrix(space):
        return tuple(number(f"encoding/{space}/matrixSize/{axis}", int, 1, MOST) for axis in "xyz")

    def field_of_view(space):
        return tuple(number(f"encoding/{space}/fieldOfView_mm/{axis}", float, 1e-6, 1e6) for axis in "xyz")

    try:
        centre = number("encoding/encodingLimits/kspace_encoding_step_1/center", int, 0, MOST)
    except ValueError:
        centre = None
    return Encoding(
        trajectory=find("encoding/trajectory"),
        matrix=matrix("encodedSpace"),
        field_of_view=field_of_view("encodedSpace"),
        shown_field_of_view=field_of_view("reconSpace"),
        centre=centre,
    )


def sort_acquisitions(path, xml, columns, max_values):
    """k-space, mask, the Encoding, the noise level and a sentence on what was done.

    Parameters
    ----------
    path : Path
        For messages.
    xml : str
    columns : dict of str -> ndarray
        The acquisitions' headers, one entry an acquisition, and their ``samples`` end to end.
    max_values : int

    Returns
    -------
    kspace : ndarray, complex64, shape ([repetitions,] slices, coils, readout, phase encoding), centred
    mask : ndarray, bool, shape (readout, phase encoding)
    encoding : Encoding
    noise_std : float or None
    remark : str

    Raises
    ------
    InputError
    """
    try:
        encoding = parse_header(xml)
    except ValueError as error:
        raise InputError(f"{path}: {error}; export it again") from error
    height, width, partitions = encoding.matrix
    if encoding.trajectory != "cartesian":
        raise InputError(f"{path}: has the trajectory {encoding.trajectory[:20]!r}; convert it to a Cartesian one")
    if partitions > 1:
        raise InputError(f"{path}: is encoded in 3-D ({partitions} partitions); transform along them, then save slices")
    samples = columns["samples"]
    ends = np.cumsum(columns["number_of_samples"] * columns["active_channels"])
    flags = columns["flags"]
    noise = (flags & NOISE) != 0
    imaging = ~noise & (((flags & SKIPPED) == 0) | ((flags & CALIBRATION_AND_IMAGING) != 0))
    lines = np.flatnonzero(imaging)
    _check_lines(path, columns, lines)
    coils = int(columns["active_channels"][lines[0]])

    frames = np.stack([columns[name][lines] for name in ("repetition", "phase", "contrast", "set")], 1)
    frames, frame = np.unique(frames, axis=0, return_inverse=True)
    slices, slice_ = np.unique(columns["slice"][lines], return_inverse=True)
    shape = (len(frames), len(slices), coils, height, width)
    if math.prod(shape) > max_values:
        raise InputError(
            f"{path}: k-space of {' x '.join(map(str, shape))} exceeds the limit of {max_values} values; "
            "raise the limit (--max-values, max_values=)"
        )
    kspace = np.zeros(shape, np.complex64)
    count = np.zeros((len(frames), len(slices), height, width), np.int32)
    centre = width // 2 if encoding.centre is None else encoding.centre
    for line, f, s in zip(lines, frame.ravel(), slice_.ravel(), strict=True):
        acquired = samples[: ends[line]][-coils * columns["number_of_samples"][line] :].reshape(coils, -1)
        first, last = columns["discard_pre"][line], acquired.shape[1] - columns["discard_post"][line]
        row = first - columns["center_sample"][line] + height // 2
        column = columns["kspace_encode_step_1"][line] - centre + width // 2
        if not (0 <= row <= row + last - first <= height and 0 <= column < width):
            raise InputError(f"{path}: acquisition {line} lies outside the encoded {height} x {width}; export it again")
        rows = slice(row, row + last - first)
        with np.errstate(invalid="ignore", over="ignore"):  # the caller refuses NaN and infinity
            kspace[f, s, :, rows, column] += acquired[:, first:last]
        count[f, s, rows, column] += 1
    with np.errstate(invalid="ignore"):
        kspace /= np.maximum(count, 1)[:, :, None]
    mask = count > 0
    if (mask != mask[0, 0]).any():
        raise InputError(f"{path}: its slices or repetitions are sampled differently; save each in a file of its own")

    skipped = len(flags) - len(lines)
    remark = f"{len(lines)} lines, {skipped} others skipped, up to {count.max()} averaged, readout oversampling kept"
    level = _noise_level(columns, noise, samples, ends, lines)
    return kspace[0] if len(frames) == 1 else kspace, mask[0, 0], encoding, level, remark


def _check_lines(path, columns, lines):
    if not len(lines):
        raise InputError(f"{path}: holds no imaging data; give the file of the scan")
    if len(set(columns["active_channels"][lines])) > 1:
        raise InputError(f"{path}: the number of coils changes between acquisitions; export it again")
    if not (columns["active_channels"][lines] > 0).all() or not (columns["number_of_samples"][lines] > 0).all():
        raise InputError(f"{path}: has acquisitions without samples; export it again")
    if columns["encoding_space_ref"][lines].any():
        raise InputError(f"{path}: has several encodings; save each in a file of its own")
    if columns["trajectory_dimensions"][lines].any():
        raise InputError(f"{path}: its acquisitions have trajectories; regrid them to Cartesian k-space")
    if (columns["flags"][lines] & REVERSED).any():
        raise InputError(f"{path}: has reversed readouts (echo-planar); correct and reverse them first")


def _noise_level(columns, noise, samples, ends, lines):
    """Root mean square of the noise scan, scaled to the imaging bandwidth, or None."""
    starts = ends - columns["number_of_samples"] * columns["active_channels"]
    scans = [k for k in np.flatnonzero(noise) if ends[k] > starts[k]]
    dwell = columns["sample_time_us"]
    if not scans or not (dwell[scans] > 0).all() or not dwell[lines[0]] > 0:
        return None
    power = np.mean([np.mean(np.abs(samples[starts[k] : ends[k]]) ** 2) * dwell[k] for k in scans])
    return float(np.sqrt(power / dwell[lines[0]]))
