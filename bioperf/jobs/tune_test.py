"""How good selected weights are on images that nothing was tuned on."""

import math

import numpy as np

__all__ = ["quality_on_test_images"]

# The window of the structural similarity.
_SSIM_SIDE = 11


def quality_on_test_images(data, selections, model, threads):
    """The quality of the selected weights and of the package's default rule on images that nothing was tuned on.

    The default rule is ``default_mri_weight``, once in the model that was tuned ("default weights") and once in
    the lower level of ``reconstruct_mri``, whose wavelets are undecimated.

    Parameters
    ----------
    data : TuningData
        With images for testing.
    selections : list of Selection
    model : dict
        "isotropic", and "wavelet" where the model has one, as ``solve_lower`` takes them.
    threads : int or None

    Returns
    -------
    dict
        "images" (how many), "peak", "default_weights" of each, and "by_weights": a row a method and a rule with PSNR in
        dB, SSIM and RLNE of every image, their means, and how many images are better than with the default weights.
    """
    from ..lower import intensity_range, solve_lower
    from ..mri import default_mri_weight
    from ..noise import estimate_kspace_noise, hermitian_noise
    from ..transforms import UndecimatedWavelet

    y, reference = data.test
    A, noise_std = data.A, data.noise_std
    estimate = hermitian_noise if A.real else estimate_kspace_noise
    undecimated = {"isotropic": True, "wavelet": UndecimatedWavelet("db2", 2 if max(A.shape) > 2 else 1)}
    weights, default, lower = [], [], []
    for item in y:
        level = estimate(item, A.mask, centred=A.centred) if noise_std is None else noise_std
        weight = default_mri_weight(level, intensity_range(A.data_image(item)))
        for terms, found in ((model, default), (undecimated, lower)):
            terms = terms | ({"wavelet_weight": weight} if "wavelet" in terms else {})
            found.append(solve_lower(A, item, weight, threads=threads, **terms).x)
        weights.append(weight)
    stacks = {"zero-filled": A.data_image(y), "default weights": default, "reconstruct_mri's lower level": lower}
    stacks |= {s.method: s.apply(A, y, threads=threads).x for s in selections}
    table = {name: _quality(x, reference, data.peak) for name, x in stacks.items()}
    by_default = np.array(table["default weights"]["psnr"])
    for row in table.values():
        row["better_than_default"] = int(np.sum(np.array(row["psnr"]) > by_default))
    return {"images": len(y), "peak": data.peak, "default_weights": weights, "by_weights": table}


def _quality(x, reference, peak):
    """PSNR, SSIM and RLNE of every image's magnitude, and their means; SSIM is NaN where its window does not fit."""
    from ..metrics import psnr, rlne, ssim

    pairs = [(np.abs(a), np.abs(b)) if np.iscomplexobj(b) else (a, b) for a, b in zip(x, reference, strict=True)]
    fits = min(reference.shape[-2:]) >= _SSIM_SIDE
    values = {
        "psnr": [psnr(a, b, peak) for a, b in pairs],
        "ssim": [ssim(a, b, peak) if fits else math.nan for a, b in pairs],
        "rlne": [rlne(a, b) for a, b in pairs],
    }
    return {f"mean_{name}": float(np.mean(numbers)) for name, numbers in values.items()} | values
