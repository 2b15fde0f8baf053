"""The U-Net that is trained on many images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn.functional import pad

from ..checks import check_whole
from ..fitting.networks import seeded_weights

LEAKY = ("LeakyReLU", {"negative_slope": 0.1, "inplace": True})


class DenoisingUNet(nn.Module):
    r"""MONAI's U-Net as a denoiser: it makes what is removed, :math:`F(y) = y - U(y)`, from images of any size.

    It has no normalisation: the amplitude of the noise is what a denoiser goes by.

    Args:
        channels: of an image, C.
        heads: output images for one input, C channels each; the first is the input less what the network removes, the
        others begin at zero.
        features: channels of every scale; each but the last halves its input with a 3×3 convolution of stride 2.
        residual_units: further convolutions at every scale, with a short cut past them.
        seed: the initial weights depend on this number alone; the global random state is neither read nor changed.
            None for no weights, until some are assigned.

    Shapes: (B, C, H, W) to (B, heads · C, H, W), float32. Sides that the halvings do not fit are extended by their last
    row and column.

    Source: Ronneberger, Fischer, Brox, "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015,
    doi:10.1007/978-3-319-24574-4_28, as ``monai.networks.nets.UNet``.

    >>> network = DenoisingUNet(features=(4, 8, 8))
    >>> network(torch.zeros(2, 1, 7, 5)).shape
    torch.Size([2, 1, 7, 5])
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        heads: int = 1,
        features: Sequence[int] = (32, 64, 128, 128),
        residual_units: int = 0,
        seed: int | None = 0,
    ) -> None:
        super().__init__()
        check_whole(1, channels=channels, heads=heads, **{f"features[{i}]": size for i, size in enumerate(features)})
        check_whole(0, residual_units=residual_units, seed=0 if seed is None else seed)
        if len(features) < 2:
            raise ValueError(f"features={tuple(features)} must name the channels of at least two scales.")
        self.configuration: dict[str, Any] = {
            "channels": channels, "heads": heads, "features": list(features), "residual_units": residual_units
        }  # fmt: skip
        self.channels = channels
        self.multiple = 2 ** (len(features) - 1)
        with seeded_weights(self, seed):
            self.network = UNet(
                spatial_dims=2,
                in_channels=channels,
                out_channels=heads * channels,
                channels=features,
                strides=(2,) * (len(features) - 1),
                num_res_units=residual_units,
                act=LEAKY,
                norm=None,  # type: ignore[arg-type]
            )

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        padded = pad(image, (0, -width % self.multiple, 0, -height % self.multiple), "replicate")
        removed = self.network(padded)[..., :height, :width]
        return torch.cat([image - removed[:, : self.channels], -removed[:, self.channels :]], 1)
