"""Self-supervised denoising of medical images, as MONAI transforms and bundles. Not a medical device."""

from .denoisers import create_denoiser, list_denoisers
from .inferer import DNAPriorInferer
from .reader import ScanReader
from .transforms import (
    Denoise,
    DenoiseD,
    Denoised,
    DenoiseDict,
    DNAPriorDenoise,
    DNAPriorDenoiseD,
    DNAPriorDenoised,
    DNAPriorDenoiseDict,
    denoising_records,
)

__version__ = "0.1.0"

__all__ = [
    "DNAPriorDenoise",
    "DNAPriorDenoiseD",
    "DNAPriorDenoiseDict",
    "DNAPriorDenoised",
    "DNAPriorInferer",
    "Denoise",
    "DenoiseD",
    "DenoiseDict",
    "Denoised",
    "ScanReader",
    "create_denoiser",
    "denoising_records",
    "list_denoisers",
]
