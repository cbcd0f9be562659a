"""What a target is."""


class Target:
    """Makes the image D of the upper level; subclass it for a target that needs more than y.

    ``target(A, y, index, *, xbar, tv_weight, isotropic, threads, noise_std=None)`` is called once an image and
    returns an array of the shape and dtype of ``y[index]``.

    Parameters
    ----------
    A : Blur
    y : ndarray, shape (..., *A.shape)
        All the data; ``index`` is the image's place in the batch axes.
    xbar : ndarray, shape A.shape
        The lower level's solution for that image.
    tv_weight, isotropic, threads
        As given to the solver.
    noise_std : float, optional
        The noise level, where the caller knows it.
    """

    def __call__(self, A, y, index, **context):
        raise NotImplementedError
