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

    Attributes
    ----------
    exact_model, uncertain_model : tuple of 2 floats
        What ``deblur`` takes for this target: epsilon in units of noise_std sqrt(n), and kappa.  The second for
        photographs (unknown boundary), whose psf is an estimate.
    variation_range : tuple of 2 floats
        The D's total variation, relative to the bound of the exact model, up to which ``deblur`` trusts it fully and
        from which not at all.
    rounds_of_solver : int
        How often ``reconstruct_mri`` makes the target anew from its last image.
    concurrent : bool
        Whether it may be called from several threads at once, as for a batch of small images.
    """

    exact_model = uncertain_model = (0.15, 0.0)
    variation_range = (1.0, 1.15)
    rounds_of_solver = 2
    concurrent = False

    def __call__(self, A, y, index, **context):
        raise NotImplementedError
