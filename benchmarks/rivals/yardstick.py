"""No package: ADMM with an exact Fourier x-update as one writes it in NumPy and scipy.fft, in single precision."""

import functools

import numpy as np
import scipy

PACKAGE, VERSION, TV = "NumPy + scipy.fft", f"{np.__version__} + {scipy.__version__}", "isotropic"
PENALTY = 0.05
METHODS = dict.fromkeys(("deblurring", "mri"), f"ADMM, exact Fourier x-update, penalty {PENALTY}")


def admm(x, data, gram, transforms, weight, iterations, penalty):
    """min 1/2 |A x - y|^2 + weight TV(x), isotropic, from x on; x's dtype.

    ``data`` and ``gram`` are A^H y and A^H A in the Fourier basis, ``transforms`` there and back.
    """
    forward, inverse = transforms
    real = x.real.dtype.type
    row, column = (2 - 2 * np.cos(2 * np.pi * np.arange(k) / n) for k, n in zip(gram.shape, x.shape, strict=True))
    denominator = (gram + penalty * (row[:, None] + column)).astype(real)
    threshold, penalty, tiny = real(weight / penalty), real(penalty), np.finfo(real).tiny
    v0, v1 = np.roll(x, -1, 0) - x, np.roll(x, -1, 1) - x
    d0, d1 = np.zeros_like(x), np.zeros_like(x)
    for _ in range(iterations):
        p0, p1 = v0 - d0, v1 - d1
        divergence = np.roll(p0, 1, 0) - p0 + np.roll(p1, 1, 1) - p1
        x = inverse((data + penalty * forward(divergence)) / denominator)
        g0, g1 = np.roll(x, -1, 0) - x + d0, np.roll(x, -1, 1) - x + d1
        norm = np.sqrt(np.abs(g0) ** 2 + np.abs(g1) ** 2) if np.iscomplexobj(x) else np.sqrt(g0 * g0 + g1 * g1)
        shrink = np.maximum(0, 1 - threshold / np.maximum(norm, tiny))
        v0, v1 = g0 * shrink, g1 * shrink
        d0, d1 = g0 - v0, g1 - v1
    return x


def deblur_admm(y, transfer, weight, iterations, penalty, workers):
    """Deblurring, dtype of y; ``transfer``: the half spectrum of the psf."""
    from scipy import fft

    H = transfer.astype(np.result_type(y.dtype, np.complex64))
    forward = functools.partial(fft.rfft2, workers=workers)
    inverse = functools.partial(fft.irfft2, s=y.shape, workers=workers)
    return admm(y, np.conj(H) * forward(y), np.abs(H) ** 2, (forward, inverse), weight, iterations, penalty)


def mri_admm(y, mask, weight, iterations, penalty, workers):
    """MRI from one coil, a complex image, dtype of y."""
    from scipy import fft

    forward, inverse = (functools.partial(f, norm="ortho", workers=workers) for f in (fft.fft2, fft.ifft2))
    return admm(inverse(y), y, mask, (forward, inverse), weight, iterations, penalty)


def deblurring(case):
    transfer, y = np.fft.rfft2(case.kernel), case.y.astype(np.float32)
    return lambda count: lambda: deblur_admm(y, transfer, case.weight, count, PENALTY, case.threads)


def mri(case):
    y = case.y.astype(np.complex64)
    return lambda count: lambda: mri_admm(y, case.mask, case.weight, count, PENALTY, case.threads)
