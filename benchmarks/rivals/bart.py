"""BART, single precision: the command ``bart pics``, its start and its files included; no deblurring.

Its FFT is centred and its differences are backward: shifts of both spaces and mirrored data make that forward
differences.
"""

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

PACKAGE, TV = "bart", "isotropic"
PENALTY, STEPS = 0.05, 10
METHODS = {"mri": f"bart pics, ADMM with {STEPS} CG steps, penalty {PENALTY}, the command and its files included"}

if not shutil.which("bart"):
    raise ImportError("no command bart")
VERSION = subprocess.run(["bart", "version"], capture_output=True, text=True, check=True).stdout.strip().lstrip("v")


def _write(path, a):
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{' '.join(map(str, a.shape + (1,) * (16 - a.ndim)))}\n")
    a.astype(np.complex64).ravel("F").tofile(path.with_suffix(".cfl"))


def _read(path, shape):
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(shape, order="F")


def _mirrored(a):
    return np.roll(a[::-1, ::-1], (1, 1), (0, 1))


def mri(case):
    folder = tempfile.TemporaryDirectory()
    files = {name: Path(folder.name) / name for name in ("data", "pattern", "maps", "image")}
    centred = functools.partial(np.fft.ifftshift, axes=(0, 1))
    # The image with index 0 at its centre: bart's transform puts it there.
    x = np.fft.fftshift(_mirrored(np.fft.ifft2(case.y, norm="ortho")))
    mask = np.fft.fftshift(_mirrored(case.mask))
    _write(files["data"], mask * np.fft.fftshift(np.fft.fft2(centred(x), norm="ortho")))
    _write(files["pattern"], mask)
    _write(files["maps"], np.ones(case.y.shape))

    def make(iterations):
        command = ["bart", "pics", "-w", "1", "-i", str(iterations), "-m", "-u", str(PENALTY), "-C", str(STEPS)]
        command += [
            "-R",
            f"T:3:0:{case.weight:g}",
            "-p",
            *(str(files[k]) for k in ("pattern", "data", "maps", "image")),
        ]

        def run(folder=folder):  # which is removed with the last reference to it
            subprocess.run(command, check=True, capture_output=True)
            return _mirrored(centred(_read(files["image"], case.y.shape)))

        return run

    return make
