"""HDF5 files, read by a process of their own.

On damaged files the HDF5 library may not only raise: of thousands with a few bytes changed, one in a thousand
made it crash or loop (HDF5 2.0), and a compressed chunk may ask for any amount of memory.  The reading process
has a limit on memory and on time, and whatever becomes of it is an InputError here.  Starting it takes a fifth
of a second.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from .errors import InputError

__all__ = ["read_hdf5"]

SECONDS = 60.0
BYTES_PER_SECOND = 2**22


def read_hdf5(path, wanted, *, name=None, max_values):
    """What the file says about itself and its arrays, by name.

    Parameters
    ----------
    path : Path
        An existing file.
    wanted : "kspace" or "mask"
        The datasets of fastMRI's layout or the acquisitions of ISMRMRD; or one mask.
    name : str, optional
        The dataset or group to read instead of the usual ones.
    max_values : int

    Returns
    -------
    facts : dict, arrays : dict of str -> ndarray

    Raises
    ------
    InputError
    """
    if importlib.util.find_spec("h5py") is None:
        raise InputError(f"{path}: HDF5 needs the package h5py; install it with: pip install 'bioperf[mri]'")
    program = Path(__file__).with_name("_hdf5_reader.py")
    # -P: the program's folder is not searched for modules
    command = [sys.executable, "-P", str(program), str(path), wanted, name or "", str(max_values)]
    places = os.pathsep.join(place for place in sys.path if place)
    environment = os.environ | {"PYTHONPATH": places, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    seconds = SECONDS + os.path.getsize(path) / BYTES_PER_SECOND
    quiet = subprocess.DEVNULL
    late = threading.Event()
    try:
        with subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, env=environment) as process:
            timer = threading.Timer(seconds, lambda: (late.set(), process.kill()))
            timer.start()
            try:
                facts, arrays = _receive(process.stdout)
            finally:
                timer.cancel()
                process.kill()
    except (ValueError, EOFError):
        reason = f"reading it took more than {seconds:.0f} s" if late.is_set() else "the HDF5 library failed on it"
        raise InputError(f"{path}: is damaged ({reason}); copy or export it again") from None
    except MemoryError as error:
        raise InputError(f"{path}: does not fit in memory; split it") from error
    except OSError as error:
        raise InputError(f"{path}: the process that reads it cannot be started ({error}); free memory") from error
    if "error" in facts:
        raise InputError(f"{path}: {facts['error']}")
    return facts, arrays


def _receive(stream):
    facts = json.loads(stream.readline())
    arrays = {}
    for name, dtype, shape in facts["arrays"]:
        array = np.empty(math.prod(shape), dtype)
        if stream.readinto(array.view(np.uint8)) != array.nbytes:
            raise EOFError
        arrays[name] = array.reshape(shape)
    return facts, arrays
