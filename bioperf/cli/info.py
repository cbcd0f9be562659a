"""``bioperf info``: what is installed and what would run."""

import platform
import sys
from importlib import metadata
from pathlib import Path

import bioperf
from bioperf.kernels import available_backends, available_threads
from bioperf.kernels._driver import simulated

from .report import print_rows

__all__ = ["print_info"]

_PACKAGES = (
    "numpy", "scipy", "numba", "scikit-image", "PyWavelets", "imageio", "tifffile", "matplotlib", "typer", "rich",
    "ducc0", "pyfftw", "h5py", "nibabel", "optuna", "torch", "safetensors", "numba-cuda",
)  # fmt: skip


def print_info():
    """Print versions, backends, FFT libraries, threads and the state of the installation."""
    backends = available_backends()
    print_rows(
        "Versions",
        [
            ("bioperf", bioperf.__version__),
            ("Python", f"{platform.python_version()} on {platform.platform()}"),
            *((name, _version(name)) for name in _PACKAGES),
        ],
    )
    rows = [(f"backend {name}", _state(state)) for name, state in backends.items()]
    if backends["cuda"] is True and simulated():
        rows[-1] = ("backend cuda", "simulated by Numba, for tests: NUMBA_ENABLE_CUDASIM is set")
    rows += [(f"FFT {name}", _state(state)) for name, state in bioperf.fft.available_libraries().items()]
    rows += [
        ("threads", str(available_threads())),
        ("installed in", str(Path(bioperf.__file__).parent)),
        ("kernels", _installation(backends["cython"] is True)),
    ]
    print_rows("What can run", rows)


def _state(state):
    return "available" if state is True else f"missing: {state}"


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _installation(compiled):
    if compiled:
        return "compiled"
    if (Path(bioperf.__file__).parents[1] / "setup.py").exists():
        return (
            "not compiled: this is a source checkout without its extensions; run "
            f"'{Path(sys.executable).name} -m pip install -e .' in it or leave the folder"
        )
    return "not compiled: installed without a C compiler; Numba or NumPy run instead, slower"
