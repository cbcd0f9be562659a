"""The Levin et al. (CVPR 2009) images and motion kernels from ``levin.npz``, by the two protocols.

The file holds ``images`` (4, 255, 255) uint8, ``blurred`` (4, 8, 255, 255), ``conv_kernel_1 ... conv_kernel_8``
(true convolution) and ``shifts`` (4, 8, 2) with ``blurred(p) ~ conv(image, conv_kernel)(p - shift)``.
"""

from pathlib import Path

import numpy as np

NOISE = 0.01
BORDER = 15


class Levin:
    """DATA_DIR is the folder of ``levin.npz``, the folder above it, or the file."""

    def __init__(self, data_dir, dtype=np.float32):
        path = Path(data_dir)
        candidates = [path, path / "levin.npz", path / "levin" / "levin.npz"]
        found = [p for p in candidates if p.is_file()]
        if not found:
            raise SystemExit(f"no levin.npz in {path}")
        with np.load(found[0], allow_pickle=False) as file:
            self._arrays = {name: file[name] for name in file.files}
        self.dtype = np.dtype(dtype)

    def pairs(self, limit=None):
        """(i, j) with i = 0..3 and j = 1..8; a limit takes them evenly from the 32."""
        everything = [(i, j) for i in range(4) for j in range(1, 9)]
        if not limit or limit >= len(everything):
            return everything
        # Diagonal order: a few pairs already differ in image and in kernel.
        order = [(k % 4, (k + k // 8) % 8 + 1) for k in range(32)]
        return sorted(order[:limit])

    def truth(self, i):
        return self._arrays["images"][i] / 255.0

    def psf(self, j):
        return self._arrays[f"conv_kernel_{j}"]

    def synthetic(self, i, j):
        """Truth (float64), circularly blurred observation with noise of ``default_rng(1000 i + j)``, psf."""
        from bioperf import Blur

        x, psf = self.truth(i), self.psf(j)
        noise = np.random.default_rng(1000 * i + j).standard_normal(x.shape)
        return x, (Blur(psf, x.shape)(x) + NOISE * noise).astype(self.dtype), psf

    def real(self, i, j):
        """Truth, photograph, psf."""
        y = self._arrays["blurred"][i, j - 1]
        y = y / 255.0 if y.dtype == np.uint8 else y
        return self.truth(i), y.astype(self.dtype), self.psf(j)

    def register(self, image, i, j):
        """A restoration of photograph (i, j) on the truth's grid, by a cubic spline."""
        from scipy.ndimage import shift

        return shift(image.astype(np.float64), -self._arrays["shifts"][i, j - 1], order=3, mode="nearest")


def inner(image):
    """The image without the ``BORDER`` pixels at each side, which the real protocol leaves out."""
    return image[..., BORDER:-BORDER, BORDER:-BORDER]
