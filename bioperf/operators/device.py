"""The operators on arrays in device memory, by torch's transforms; ``Blur`` and ``MaskedFourier`` call them."""

import math

import numpy as np

from ..fft import spectrum_copies
from ..kernels import on_device
from ..learning import require_torch

# Transforms and sums of a batch are done in groups of this many elements, and of as many items at most.
GROUP_ELEMENTS, GROUP_ITEMS = 1 << 21, 32


class DeviceOperator:
    """A ``Blur`` or ``MaskedFourier`` on one device.

    Libraries choose their algorithms by the size of a batch; here a batch is cut into groups of a size that the
    images' shape alone decides, so that an item's bits do not depend on its neighbours.

    Parameters
    ----------
    A : Blur or MaskedFourier
    dtype : numpy.dtype
        Of the images.
    device : torch.device

    Attributes
    ----------
    transfer : Tensor
        The multiplier of ``A.transfer(dtype)``.
    copies : Tensor
        How often each coefficient of the last axis stands in the full spectrum.
    group : int
        Items of a group.
    """

    def __init__(self, A, dtype, device):
        torch = require_torch("arrays on a GPU")
        self.A, self.dtype, self.device = A, np.dtype(dtype), device
        self.axes = tuple(range(-len(A.shape), 0))
        self.real = self.dtype.kind == "f"
        self.transfer = torch.as_tensor(A.transfer(dtype), device=device)
        self.copies = torch.as_tensor(spectrum_copies(A.shape[-1], self.dtype), device=device)
        self.scale = 1 / math.prod(A.shape)
        self.group = max(1, min(GROUP_ITEMS, GROUP_ELEMENTS // math.prod(A.shape)))
        self.torch = torch
        if not hasattr(A, "psf"):
            from .fourier import centring

            sampled = A.sampled.astype(np.complex128) * (centring(A.shape) if A.centred else 1)
            self.sampling = torch.as_tensor(sampled.astype(np.result_type(dtype, np.complex64)), device=device)

    def grouped(self, function, x):
        """``function`` of the items x (..., *spatial), group by group; the last one is filled up with zeros."""
        batch, spatial = x.shape[: x.ndim - len(self.axes)], x.shape[x.ndim - len(self.axes) :]
        x = x.reshape(-1, *spatial)
        missing = -len(x) % self.group
        if missing:
            x = self.torch.cat([x, x.new_zeros(missing, *spatial)])
        parts = [function(x[k : k + self.group]) for k in range(0, len(x), self.group)]
        found = self.torch.cat(parts)[: len(x) - missing]
        return found.reshape(*batch, *found.shape[1:])

    def forward(self, x):
        """The unscaled transforms of images (..., *spatial), half spectra of real ones."""
        return self.grouped(self.group_forward, x)

    def inverse(self, spectra):
        """The images of Fourier coefficients."""
        return self.grouped(self.group_inverse, spectra)

    def group_forward(self, x, out=None):
        fft = self.torch.fft
        return (fft.rfftn if self.real else fft.fftn)(x, dim=self.axes, out=out)

    def group_inverse(self, spectra, out=None):
        fft, shape = self.torch.fft, self.A.shape
        return (fft.irfftn if self.real else fft.ifftn)(spectra, s=shape, dim=self.axes, norm="forward", out=out)

    def _unitary(self, x, transform):
        return self.grouped(lambda group: transform(group, dim=self.axes, norm="ortho"), x)

    def __call__(self, x):
        if hasattr(self.A, "psf"):
            return self.inverse(self.forward(x).mul_(self.transfer * self.scale))
        spectrum = self._unitary(x, self.torch.fft.fftn) * self.sampling
        return self.torch.fft.fftshift(spectrum, self.axes) if self.A.centred else spectrum

    def adjoint(self, z):
        if hasattr(self.A, "psf"):
            return self.inverse(self.forward(z).mul_(self.transfer.conj() * self.scale))
        image = self._unitary(self._unshifted(z), self.torch.fft.ifftn)
        return image.real.contiguous() if self.real else image

    def _unshifted(self, z):
        return (self.torch.fft.ifftshift(z, self.axes) if self.A.centred else z) * self.sampling.conj()

    def data_image(self, y):
        return y if hasattr(self.A, "psf") else self.adjoint(y)

    def coefficients(self, y):
        """``A.coefficients`` of a batch: the data's spectra, and what no image reaches as a float64 tensor."""
        if hasattr(self.A, "psf"):
            return self.forward(y).mul_(self.scale), self.torch.zeros(len(y), dtype=self.torch.float64)
        data = self._unshifted(y) * math.sqrt(self.scale)
        square = self.square_norms(data, 1)
        if self.real:
            mirrored = self.torch.roll(self.torch.flip(data, self.axes), [1] * len(self.axes), self.axes)
            data = 0.5 * (data + mirrored.conj())[..., : self.A.shape[-1] // 2 + 1]
            transfer = self.transfer.real
            data = self.torch.where(transfer > 0, data / self.torch.where(transfer > 0, transfer, 1), 0)
        rest = (square - self.square_norms(data, self.copies)).clamp(min=0) / self.scale
        return data.contiguous(), rest

    def square_norms(self, spectra, copies):
        """Sums of copies |.|^2 an item, float64."""

        def of_group(group):
            return ((group.real**2 + group.imag**2) * copies).double().flatten(1).sum(1)

        return self.grouped(of_group, spectra)


def device_operator(A, dtype, device):
    """The ``DeviceOperator`` of an operator, made once for each dtype and device."""
    if not hasattr(A, "transfer"):
        raise ValueError(f"A: {type(A).__name__} works on the CPU only; pass NumPy arrays, device=None")
    made = A.__dict__.setdefault("_on_device", {})
    key = np.dtype(dtype).char, str(device)
    if key not in made:
        made[key] = DeviceOperator(A, dtype, device)
    return made[key]


def as_tensor(name, a, shape, kinds, device=None):
    """A contiguous tensor of finite numbers (..., *shape) on the device.

    ``kinds``: "f" for float32 and float64, "c" for complex64 and complex128, or both.  TypeError and ValueError as of
    ``bioperf._validation.as_images``.
    """
    torch = require_torch("arrays on a GPU")
    try:
        tensor = torch.as_tensor(a, device=device).detach()
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name}: expected an array of numbers, got {type(a).__name__}: {error}") from None
    real, complex_ = (torch.float32, torch.float64), (torch.complex64, torch.complex128)
    allowed = (real if "f" in kinds else ()) + (complex_ if "c" in kinds else ())
    if tensor.dtype not in allowed:
        raise TypeError(f"{name}: expected {' or '.join(str(kind)[6:] for kind in allowed)}, got {tensor.dtype}")
    if tensor.numel() == 0:
        raise ValueError(f"{name}: empty array of shape {tuple(tensor.shape)}")
    if tuple(tensor.shape[-len(shape) :]) != tuple(shape):
        raise ValueError(f"{name}: expected shape (..., {', '.join(map(str, shape))}), got {tuple(tensor.shape)}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name}: {int((~torch.isfinite(tensor)).sum())} entries are NaN or infinite")
    return tensor.contiguous()


def numpy_dtype(tensor):
    """The NumPy dtype of a tensor."""
    return np.dtype(str(tensor.dtype)[6:])


def image_kinds(A):
    """The kinds of numbers that A's images have, as ``as_tensor`` takes them."""
    return "f" if getattr(A, "real", hasattr(A, "psf")) else "fc"


def apply(A, name, x, *, adjoint):
    """A x or A^T x of an array in device memory."""
    of_data = adjoint and not hasattr(A, "psf")
    tensor = as_tensor(name, x, A.shape, "c" if of_data else image_kinds(A))
    dtype = numpy_dtype(tensor)
    if of_data and image_kinds(A) == "f":
        dtype = np.empty(0, dtype).real.dtype
    operator = device_operator(A, dtype, tensor.device)
    return like(operator.adjoint(tensor) if adjoint else operator(tensor), x)


def like(tensor, given):
    """The tensor as an array of the kind that was given: torch's, CuPy's or NumPy's."""
    if isinstance(given, np.ndarray):
        return tensor.cpu().numpy()
    if type(given).__module__.split(".")[0] == "cupy":
        import cupy

        return cupy.from_dlpack(tensor)
    return tensor


def to_host(a):
    """A NumPy array of an array in device memory, or of one that NumPy takes."""
    return require_torch("arrays on a GPU").as_tensor(a).detach().cpu().numpy() if on_device(a) else a


def from_host(a, given, device):
    """A NumPy array as an array of the kind that was given."""
    if not on_device(given):
        return a
    return like(require_torch("arrays on a GPU").as_tensor(a, device=device), given)
