from .denoisers.registry import create_denoiser, list_denoisers
from .files.reader import ScanReader
from .inferer import DenoisingInferer, DNAPriorInferer, IDDPInferer
from .method_transforms import (
    DNAPriorDenoise,
    DNAPriorDenoiseD,
    DNAPriorDenoised,
    DNAPriorDenoiseDict,
    IDDPDenoise,
    IDDPDenoiseD,
    IDDPDenoised,
    IDDPDenoiseDict,
)
from .training import objectives as objectives
from .training import unet as unet
from .training.weights import load_weights, save_weights
from .transforms import Denoise, DenoiseD, Denoised, DenoiseDict, denoising_records

__version__: str

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
    "DenoisingInferer",
    "IDDPDenoise",
    "IDDPDenoiseD",
    "IDDPDenoiseDict",
    "IDDPDenoised",
    "IDDPInferer",
    "ScanReader",
    "create_denoiser",
    "denoising_records",
    "list_denoisers",
    "load_weights",
    "save_weights",
]
