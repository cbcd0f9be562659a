"""Magnitude images and k-space masks for compressed sensing MRI, from ``.npz`` files in one folder.

``brain/brain.npz`` holds ``images`` (23, 256, 256) uint8, ``chest/chest.npz`` ``counts`` (50, 256, 256) uint16 and
``peak`` (50,), ``tumour/tumour.npz`` ``images`` (30, 256, 256) uint8.  ``brain/masks.npz`` has ``radial_<rate>``,
``brain/masks_generated.npz`` ``<kind>_<rate>_256``, both with the zero frequency in the middle.
"""

from pathlib import Path

import numpy as np

SETS = ("brain", "chest", "tumour")
KINDS = ("radial", "cartesian", "gaussian")


def images(folder, name, count=None):
    """(n, 256, 256), float64 in [0, 1]; a count takes that many, spread evenly over the set."""
    with _open(Path(folder) / name / f"{name}.npz") as file:
        stack = file["counts"] / file["peak"][:, None, None] if name == "chest" else file["images"] / 255
    if not count or count >= len(stack):
        return stack
    return stack[np.arange(count) * len(stack) // count]


def mask(folder, kind, rate):
    """The sampled frequencies, (256, 256) bool, zero frequency first; ``rate`` in per cent."""
    radial = kind == "radial"
    path = Path(folder) / "brain" / ("masks.npz" if radial else "masks_generated.npz")
    name = f"{kind}_{rate}" if radial else f"{kind}_{rate}_256"
    with _open(path) as file:
        if name not in file.files:
            raise SystemExit(f"no {name} in {path}; it has {', '.join(file.files)}")
        return np.fft.ifftshift(file[name])


def _open(path):
    if not path.is_file():
        raise SystemExit(f"no {path}")
    return np.load(path, allow_pickle=False)
