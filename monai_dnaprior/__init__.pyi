from .denoisers.registry import create_denoiser, list_denoisers
from .files.reader import ScanReader
from .training.weights import load_weights, save_weights
from .transforms.array import Denoise, DNAPriorDenoise, IDDPDenoise, denoising_records
from .transforms.dictionary import (
    DenoiseD,
    Denoised,
    DenoiseDict,
    DNAPriorDenoiseD,
    DNAPriorDenoised,
    DNAPriorDenoiseDict,
    IDDPDenoiseD,
    IDDPDenoised,
    IDDPDenoiseDict,
)
from .transforms.inferer import DenoisingInferer, DNAPriorInferer, IDDPInferer

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
