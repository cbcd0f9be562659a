"""Batches in a GPU's memory: torch's transforms, the CUDA kernels, and iterations recorded as CUDA graphs."""

import numpy as np

from .._fourier import FourierProblem
from .._validation import check_choice, check_largest
from ..kernels import get_backend, on_device
from ..kernels._driver import simulated
from ..learning import require_torch
from ..operators import MultiCoilFourier
from ..operators.device import as_tensor, device_operator, image_kinds, like, numpy_dtype
from .arrays import SLOT_IMAGES

# What the slots of a batch may take of the memory that is free.
SHARE_OF_MEMORY = 0.6


def device_of(y, device):
    """The torch device that a solve runs on, or None for the CPU.

    Raises
    ------
    ValueError
        For a device that is neither None, "cpu" nor a CUDA device.
    ImportError
        If the GPU cannot be used, saying why.
    """
    if device is None and not on_device(y):
        return None
    if device is not None:
        check_choice("device", str(device).split(":")[0], ("cpu", "cuda"))
        if str(device) == "cpu":
            if on_device(y):
                raise ValueError('device: "cpu" for an array in GPU memory; move it with .cpu(), or leave device out')
            return None
    get_backend("cuda")
    torch = require_torch("arrays on a GPU")
    if simulated():
        return torch.device("cpu")
    return torch.as_tensor(y).device if device is None else torch.device(device)


def refuse_on_device(**unsupported):
    """ValueError for the first argument that solves on a GPU do not have."""
    for name, is_used in unsupported.items():
        if is_used:
            raise ValueError(f"{name}: not available on a GPU; leave it out, or solve on the CPU (NumPy arrays)")


class DeviceProblem:
    """A ``FourierProblem`` whose spectra are on a device."""

    def __init__(self, A, dtype, device):
        if isinstance(A, MultiCoilFourier):
            raise ValueError("A: MultiCoilFourier is not available on a GPU; solve on the CPU (NumPy arrays)")
        host = FourierProblem(A, dtype, threads=1)
        self.host, self.device, self.operator = host, device, device_operator(A, dtype, device)
        for name in ("A", "shape", "dtype", "real_dtype", "pixels", "scale", "rounding", "field_shape"):
            setattr(self, name, getattr(host, name))
        torch = self.operator.torch
        self.transfer, self.copies = self.operator.transfer, self.operator.copies
        self.laplacian = tuple(torch.as_tensor(axis, device=device) for axis in host.laplacian)

    def what_ran(self):
        return {"backend": "cuda", "fft": "torch", "threads": 1}


class DeviceArrays:
    """Tensors of one device; what ``HostArrays`` does for NumPy arrays.

    Work is recorded as a CUDA graph the second time that it is done, and replayed from then on.
    """

    idle_share = 0.5
    threads = 1
    iterations = None

    def __init__(self, problem):
        self.problem, self.operator, self.kernels = problem, problem.operator, get_backend("cuda")
        self.torch, self.place = problem.operator.torch, problem.device
        self._graphs = {}
        torch, shape = self.torch, problem.shape
        self.dtype = getattr(torch, problem.dtype.name)
        spectrum = (*shape[:-1], shape[-1] // 2 + 1) if problem.dtype.kind == "f" else shape
        self._kinds = {
            "image": (shape, self.dtype),
            "field": (problem.field_shape, self.dtype),
            "spectrum": (spectrum, getattr(torch, np.result_type(problem.dtype, np.complex64).name)),
        }

    def run(self, key, function, *arguments):
        if self.place.type != "cuda":
            function(*arguments)
            return
        graph = self._graphs.get(key)
        if graph is None:
            # compiles kernels and makes plans, which a graph must not
            function(*arguments)
            self._graphs[key] = "seen"
            return
        if graph == "seen":
            graph = self._graphs[key] = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph):
                function(*arguments)
        graph.replay()

    def groups(self, slots):
        return [slots] if len(slots) else []

    def stretches(self, slots, active):
        return [slice(0, active)] if len(slots) else []

    def capacity(self, count):
        group = self.operator.group
        count = -(-count // group) * group
        if self.place.type != "cuda":
            return count
        free, _ = self.torch.cuda.mem_get_info(self.place)
        item = (SLOT_IMAGES + 2 * len(self.problem.shape)) * self.problem.pixels * self.problem.dtype.itemsize
        return max(group, min(count, int(SHARE_OF_MEMORY * free) // item // group * group))

    def empty(self, count, kind):
        shape, dtype = self._kinds[kind]
        return self.torch.zeros((count, *shape), dtype=dtype, device=self.place)

    def numbers(self, *shape):
        return self.torch.zeros(shape, dtype=self.torch.float64, device=self.place)

    def results(self, count):
        return self.empty(count, "image")

    def host(self, numbers):
        return numbers.cpu().numpy()

    def device(self, numbers):
        return self.torch.as_tensor(numbers, dtype=self.torch.float64, device=self.place)

    def put(self, numbers, slots, values):
        numbers[slots] = self.device(values)

    def per_item(self, numbers, array):
        numbers = self.torch.as_tensor(numbers, dtype=array.real.dtype, device=self.place)
        return numbers.reshape(-1, *[1] * (array.ndim - 1))

    def stack(self, items):
        return self.torch.stack(list(items))

    def coefficients(self, y):
        spectra, rest = self.operator.coefficients(y)
        return spectra, self.host(rest)

    def image_coefficients(self, images):
        return self.operator.forward(images).mul_(self.problem.scale)

    def ranges(self, images):
        flat = images.flatten(1)
        found = flat.abs().amax(1) if images.is_complex() else flat.amax(1) - flat.amin(1)
        found = self.host(found).astype(float)
        return np.where(found > 0, found, 1.0)

    def norms(self, y):
        copies = self.torch.ones((), dtype=y.real.dtype, device=self.place)
        return np.sqrt(self.host(self.operator.square_norms(y.to(self._kinds["spectrum"][1]), copies)))

    def square_norms(self, spectra):
        return self.problem.pixels * self.host(self.operator.square_norms(spectra, self.problem.copies))

    def gradient(self, x, q, slots):
        q[slots] = self.kernels.gradient(x[slots].contiguous(), ndim=len(self.problem.shape))

    def total_variations(self, x, isotropic):
        """TV of each image, on the host."""
        zeros, sums = self.numbers(len(x)), self.numbers(len(x), 6)
        field = self.torch.zeros((len(x), *self.problem.field_shape), dtype=self.dtype, device=self.place)
        self.kernels.field_status_batch(x.contiguous(), field, zeros, isotropic, sums)
        return self.host(sums[:, 0])

    def zero_mean(self, spectra):
        spectra[(slice(None), *[0] * len(self.problem.shape))] = 0

    def shrink(self, squares, radii, shrinks):
        norms = (self.problem.pixels * squares).sqrt()
        shrinks.copy_(self.torch.where(norms > 0, (radii / norms).clamp(max=1.0), 1.0))

    def forward(self, images, spectra, slots):
        for group in self._groups(slots.stop):
            self.operator.group_forward(images[group], out=spectra[group])

    def inverse(self, spectra, images, slots):
        for group in self._groups(slots.stop):
            self.operator.group_inverse(spectra[group], out=images[group])

    def _groups(self, count):
        size = self.operator.group
        return [slice(start, start + size) for start in range(0, count, size)]


class DeviceBatch:
    """Data of a batch on a device, checked: what ``solve_lower`` and ``solve_bio`` do there with it.

    Parameters
    ----------
    A : Blur or MaskedFourier
    y : array, shape (..., *A.data_shape)
        In device memory, or NumPy's.
    device : torch.device
    """

    def __init__(self, A, y, device):
        blur = hasattr(A, "psf")
        torch = require_torch("arrays on a GPU")
        self.y = as_tensor("y", y, A.shape, "f" if blur else "c", device)
        if not blur:
            self.y = torch.where(torch.as_tensor(A.mask, device=device), self.y, 0)
        dtype = numpy_dtype(self.y)
        parts = self.y if blur else torch.view_as_real(self.y)
        largest = parts.abs().flatten(self.y.ndim - len(A.shape)).amax(-1).cpu().numpy().astype(np.float64)
        check_largest("y", largest, dtype, gain=A.norm())
        if not blur and image_kinds(A) == "f":
            dtype = np.empty(0, dtype).real.dtype
        self.given, self.shape = y, tuple(self.y.shape[: self.y.ndim - len(A.shape)])
        self.problem = DeviceProblem(A, dtype, device)
        self.arrays = DeviceArrays(self.problem)

    def images(self, name, a, batch_shape):
        """Images (count, *A.shape) of the batch on the device, from an array of it or of the data's own batch."""
        kinds = "f" if self.problem.dtype.kind == "f" else "fc"
        tensor = as_tensor(name, a, self.problem.shape, kinds, self.problem.device)
        own = tuple(tensor.shape[: tensor.ndim - len(self.problem.shape)])
        if own not in (batch_shape, self.shape):
            raise ValueError(f"{name}: expected shape {(*batch_shape, *self.problem.shape)}, got {tuple(tensor.shape)}")
        return self.flat(tensor.to(self.arrays.dtype), batch_shape)

    def flat(self, tensor, batch_shape):
        """(count, *spatial) of a tensor whose batch axes broadcast to batch_shape."""
        spatial = self.problem.shape
        return tensor.expand(*batch_shape, *spatial).reshape(-1, *spatial)

    def result(self, x, batch_shape):
        """The images (count, *spatial) as the kind of array that the data were."""
        return like(x.reshape(*batch_shape, *self.problem.shape), self.given)
