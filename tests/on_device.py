"""The CUDA backend for tests that know NumPy arrays, on each kind of array in device memory that is here."""

import inspect

import numpy as np
import pytest

from bioperf.kernels import get_backend
from bioperf.kernels._driver import simulated

GPU = not simulated()

# Parameters of projections and filter banks, and of the multipliers, that are NumPy arrays on every backend.
ON_HOST = ("radius", "threshold", "filters")
ROWS = ("penalties", "sigma", "rates", "centres", "weights")


class NumPyKind:
    """What the simulator takes for an array in device memory."""

    to_device = staticmethod(np.array)
    to_host = staticmethod(np.asarray)

    @staticmethod
    def holds(a):
        return isinstance(a, np.ndarray)


class TorchKind:
    def __init__(self):
        self.torch = pytest.importorskip("torch")
        if GPU and not self.torch.cuda.is_available():
            pytest.skip("this torch has no CUDA")

    def to_device(self, a):
        tensor = self.torch.from_numpy(np.array(a))
        return tensor.cuda() if GPU else tensor

    def to_host(self, a):
        return a.cpu().numpy()

    def holds(self, a):
        return isinstance(a, self.torch.Tensor)


class NumbaKind:
    def __init__(self):
        from numba import cuda

        self.cuda = cuda

    def to_device(self, a):
        return self.cuda.to_device(np.array(a))

    def to_host(self, a):
        return a.copy_to_host()

    def holds(self, a):
        return self.cuda.is_cuda_array(a)


class CuPyKind(NumbaKind):
    """Its results are Numba's arrays."""

    def __init__(self):
        super().__init__()
        self.cupy = pytest.importorskip("cupy")

    def to_device(self, a):
        return self.cupy.asarray(a)

    def to_host(self, a):
        return self.cupy.asnumpy(self.cupy.asarray(a))


KINDS = {"torch": TorchKind, "numba": NumbaKind, "cupy": CuPyKind} if GPU else {"numpy": NumPyKind, "torch": TorchKind}


def first_kind():
    """NumPy's in the simulator; on a GPU torch's if it is here, else Numba's."""
    try:
        return next(iter(KINDS.values()))()
    except pytest.skip.Exception:
        return NumbaKind()


class OnDevice:
    """A backend of NumPy arrays over the CUDA kernels: copies go to the device, and what was written comes back.

    A read-only array must come back as it was.
    """

    def __init__(self, kind):
        self.kernels, self.kind, self.name = get_backend("cuda"), kind, "cuda"
        self.module = self.kernels.module

    def __getattr__(self, name):
        function = getattr(self.kernels, name)
        parameters = list(inspect.signature(function).parameters)
        keep = ON_HOST if name.startswith("project_") or "filters" in parameters else ()
        keep = ROWS if name == "coupled_multipliers" else keep

        def call(*arguments, **keywords):
            copies = []

            def move(value):
                if isinstance(value, tuple):
                    return tuple(move(one) for one in value)
                if not isinstance(value, np.ndarray):
                    return value
                copies.append((value, self.kind.to_device(value)))
                return copies[-1][1]

            given = dict(zip(parameters, arguments, strict=False)) | keywords
            result = function(**{key: value if key in keep else move(value) for key, value in given.items()})
            for host, device in copies:
                found = self.kind.to_host(device)
                if host.flags.writeable:
                    host[...] = found
                else:
                    np.testing.assert_array_equal(found, host)
            return self.kind.to_host(result) if self.kind.holds(result) else result

        return call
