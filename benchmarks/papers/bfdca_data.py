"""Images, noise and k-space for the selection of hyper-parameters.

"phantom" is Shepp and Logan's at 64x64; "<set>-<k>" is slice k of a set that ``csmri_data.py`` reads, at 128x128
("brain" is "brain-0"), its range mapped to [0, 1].  Both are resized with anti-aliasing.

Noise acts on the image, and the scanner sees y = M F (x + n).  White Gaussian noise of an image is white in k-space
with the same standard deviation (F unitary), Hermitian since n is real; impulses stay impulses only this way.
"""

import csmri_data
import numpy as np

PHANTOM_SIZE, SIZE = 64, 128
RATE = 0.35
# Name -> kind and level: standard deviation, or the share of the pixels that become the least or greatest value.
NOISE = {"gaussian": ("gaussian", 0.05), "gaussian-low": ("gaussian", 0.01), "saltpepper": ("saltpepper", 0.05)}


def picture(folder, name):
    """One image, float64 in [0, 1]."""
    from skimage.data import shepp_logan_phantom
    from skimage.transform import resize

    if name == "phantom":
        return np.clip(resize(shepp_logan_phantom(), (PHANTOM_SIZE,) * 2, anti_aliasing=True), 0, 1)
    group, _, index = name.partition("-")
    if group not in csmri_data.SETS or not (index or "0").isdecimal():
        raise SystemExit(f"no image {name!r}: phantom, or one of {', '.join(csmri_data.SETS)} with or without -<slice>")
    slices, k = csmri_data.images(folder, group), int(index or 0)
    if k >= len(slices):
        raise SystemExit(f"no image {name!r}: {group} has the slices 0 to {len(slices) - 1}")
    x = resize(slices[k], (SIZE, SIZE), anti_aliasing=True)
    return (x - x.min()) / (x.max() - x.min())


def spread(folder, count):
    """Names of ``count`` slices of each set, spread over it."""
    for group in csmri_data.SETS:
        total = len(csmri_data.images(folder, group))
        yield from (f"{group}-{k * total // count}" for k in range(count))


def noisy(x, noise, rng):
    """Images with noise of that name in ``NOISE``."""
    kind, level = NOISE[noise]
    if kind == "gaussian":
        return x + level * rng.standard_normal(x.shape)
    u = rng.random(x.shape)
    return np.where(u < level / 2, x.min(), np.where(u < level, x.max(), x))


def scan(x, noise, rng, rate=RATE, dtype=np.float64):
    """The operator, samples y and the images themselves, in the precision of ``dtype``; x: (..., n, n).

    The mask has equally spaced spokes through the zero frequency and is the same for every seed.
    """
    from bioperf import MaskedFourier, masks

    A = MaskedFourier(masks.radial(x.shape[-2:], rate))
    y = A(noisy(x, noise, rng))
    return A, y.astype(np.result_type(dtype, np.complex64)), x.astype(dtype)
