"""The operators for the rest of the ecosystem."""

import math

import numpy as np

__all__ = ["as_linear_operator"]


def as_linear_operator(A):
    """The operator as a ``scipy.sparse.linalg.LinearOperator`` on flattened images, in double precision.

    Parameters
    ----------
    A : Blur, MaskedFourier or MultiCoilFourier

    Returns
    -------
    LinearOperator of shape (size of the data, size of an image)
        complex128 for the Fourier operators.  Where images are real but data complex (``MaskedFourier`` with
        ``real=True``) rmatvec is the adjoint in the real inner product, Re <A x, z>.
    """
    from scipy.sparse.linalg import LinearOperator

    data = np.zeros(A.data_shape, np.float64 if A.shape == A.data_shape and hasattr(A, "psf") else np.complex128)
    image = A.image_dtype(data)
    return LinearOperator(
        (math.prod(A.data_shape), math.prod(A.shape)),
        matvec=lambda x: A((x if image.kind == "c" else x.real).reshape(A.shape).astype(image)).ravel(),
        rmatvec=lambda z: A.adjoint(z.reshape(A.data_shape).astype(data.dtype)).ravel(),
        dtype=data.dtype,
    )
