"""The denoising network: seven dilated 3x3 convolutions that estimate the noise (Liu et al., BIO; mathematics.md, 9).

    image -> conv 1 -> conv 2 -> conv 3 -> conv 4 -> conv 3 -> conv 2 -> conv 1 -> noise / level

The numbers are the dilations; 64 channels, ReLU between, batch normalisation after the inner five.  The noise
level is a second input channel, in units of 0.1, and the output is in units of the level:
``denoised = image - level * network(image, level)``, so that nothing changes at level 0.
"""

import torch
from torch import nn

__all__ = ["CHANNELS", "DILATIONS", "DilatedDenoiser", "fold"]

DILATIONS = (1, 2, 3, 4, 3, 2, 1)
CHANNELS = 64
LEVEL_UNIT = 0.1


class DilatedDenoiser(nn.Module):
    """The network with (``normalised``) or without batch normalisation; about 186,000 parameters.

    ``forward(image, level)``: image (N, 1, H, W) with intensities in [0, 1], level (N,), in the same units;
    returns the denoised images, float32.
    """

    def __init__(self, normalised=True):
        super().__init__()
        last = len(DILATIONS) - 1
        self.convolutions = nn.ModuleList(
            nn.Conv2d(
                2 if i == 0 else CHANNELS,
                1 if i == last else CHANNELS,
                3,
                padding=dilation,
                dilation=dilation,
                bias=not normalised or i in (0, last),
            )
            for i, dilation in enumerate(DILATIONS)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS, momentum=0.02) for _ in range(last - 1) if normalised)

    def forward(self, image, level):
        level = level.view(-1, 1, 1, 1)
        x = torch.cat([image, (level / LEVEL_UNIT).expand_as(image)], dim=1)
        # bfloat16 would round weak noise off the image
        with torch.autocast(image.device.type, enabled=False):
            x = torch.relu(self.convolutions[0](x))
        for i, convolution in enumerate(self.convolutions[1:-1]):
            x = convolution(x)
            x = torch.relu_(self.norms[i](x) if self.norms else x)
        return image - level * self.convolutions[-1](x).float()


def fold(network):
    """The same function without batch normalisation: its scale and shift inside the convolutions, for inference."""
    folded = DilatedDenoiser(normalised=False).eval()
    with torch.no_grad():
        for i, (source, target) in enumerate(zip(network.convolutions, folded.convolutions, strict=True)):
            weight, bias = source.weight, source.bias
            if bias is None:
                norm = network.norms[i - 1]
                scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
                weight, bias = weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
            target.weight.copy_(weight)
            target.bias.copy_(bias)
    return folded
