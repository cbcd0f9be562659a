"""Forward operators: what the camera or the scanner did to the image.

``A(x)`` and ``A.adjoint(z)`` work on NumPy arrays with leading batch axes.  The solvers ask further for

- ``A.shape`` and ``A.data_shape``, the axes of an image and of its data,
- ``A.check_data(name, y)``, the data checked, and ``A.image_dtype(y)``, what the images' dtype then is,
- ``A.data_image(y)``, the data as an image: y itself for a blur, the zero-filled image for MRI,
- and, where A^T A is diagonal in the Fourier basis, ``A.transfer(dtype)`` and ``A.coefficients(y, fft)``.
"""

from .blur import Blur
from .fourier import MaskedFourier
from .linear import as_linear_operator
from .multicoil import MultiCoilFourier

__all__ = ["Blur", "MaskedFourier", "MultiCoilFourier", "as_linear_operator"]
