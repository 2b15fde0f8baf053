"""The two methods as MONAI Inferers, for bundles and the servers that host them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type

from ..denoisers.dnaprior import DNAPrior
from ..denoisers.result import Result
from ..denoisers.trained import Trained
from .array import RECORDS_KEY, log_result, records_text
from .metadata import name_of, slicing_of
from .signature import takes_parameters_of
from .slicing import Slicing
from .volumes import denoise_volume


class DenoisingInferer(Inferer):
    """Denoise a batch of images or volumes with a denoiser that is handed its network.

    Args:
        denoiser: is called with ``noisy``, ``slice_indices`` and ``network``.
        slicing: see :class:`~monai_dnaprior.transforms.slicing.Slicing`.

    Call it with ``inputs``, (B, C, H, W) or (B, C, H, W, D), and ``network``. It returns a MetaTensor of the same shape
    and metadata for a MetaTensor, else a tensor.
    """

    @takes_parameters_of(Slicing)
    def __init__(self, denoiser: Callable[..., Result], **slicing: Any) -> None:
        super().__init__()
        self.denoiser, self.slicing = denoiser, Slicing(**slicing)

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        denoiser = partial(self.denoiser, network=network)
        results = [self._denoise(volume, denoiser) for volume in inputs]
        output = convert_to_dst_type(
            torch.stack([result.image for result in results]), dst=inputs, dtype=torch.float32
        )[0]
        if isinstance(output, MetaTensor):
            output.meta[RECORDS_KEY] = [records_text(result.records) for result in results]
        return output

    def _denoise(self, image: torch.Tensor, denoiser: Callable[..., Result]) -> Result:
        slicing, doubts = slicing_of(image, self.slicing)
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        result = denoise_volume(plain, denoiser, slicing)
        log_result(name_of(image), result, slicing, doubts)
        return result


class DNAPriorInferer(DenoisingInferer):
    """Denoise a batch of images or volumes, starting every fit from the weights of the given network.

    The network, a :class:`~monai_dnaprior.fitting.networks.SkipNet` with C output channels (1 if ``channel_wise``), is
    copied for each slice and never changed. With the network of the denoiser's own seed the result is that of
    :class:`~monai_dnaprior.transforms.array.DNAPriorDenoise`, bit for bit.

    Args:
        denoiser: a :class:`~monai_dnaprior.denoisers.dnaprior.DNAPrior`, or None for its default preset.
        slicing: see :class:`DenoisingInferer`.

    >>> denoiser = DNAPrior(steps=10, width=8)
    >>> volume = torch.rand(1, 1, 32, 32, 2, generator=torch.Generator().manual_seed(0))
    >>> DNAPriorInferer(denoiser)(inputs=volume, network=denoiser.network()).shape
    torch.Size([1, 1, 32, 32, 2])
    """

    @takes_parameters_of(Slicing)
    def __init__(self, denoiser: DNAPrior | None = None, **slicing: Any) -> None:
        super().__init__(denoiser or DNAPrior(), **slicing)


class IDDPInferer(DenoisingInferer):
    """Denoise a batch of images or volumes with one pass of the given network a slice.

    With the network that the package ships the result is that of
    :class:`~monai_dnaprior.transforms.array.IDDPDenoise`, bit for bit.

    Args:
        denoiser: a :class:`~monai_dnaprior.denoisers.trained.Trained`, or None for one with its defaults.
        slicing: see :class:`DenoisingInferer`.

    >>> volume = torch.rand(1, 1, 32, 32, 2, generator=torch.Generator().manual_seed(0))
    >>> IDDPInferer()(inputs=volume, network=Trained().network()).shape
    torch.Size([1, 1, 32, 32, 2])
    """

    @takes_parameters_of(Slicing)
    def __init__(self, denoiser: Trained | None = None, **slicing: Any) -> None:
        super().__init__(denoiser or Trained(), **slicing)
