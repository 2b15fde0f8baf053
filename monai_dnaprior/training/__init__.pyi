from .data import EpochSampler, NoisyCrops, at_half_size, held_back, load_images, noisy_pairs
from .objectives import create_objective
from .trainer import (
    Checkpoints,
    DenoisingTrainer,
    TrainingLog,
    WeightsSaver,
    initial_network,
    plateau_then_linear,
)
from .unet import DenoisingUNet

__all__ = [
    "Checkpoints",
    "DenoisingTrainer",
    "DenoisingUNet",
    "EpochSampler",
    "NoisyCrops",
    "TrainingLog",
    "WeightsSaver",
    "at_half_size",
    "create_objective",
    "held_back",
    "initial_network",
    "load_images",
    "noisy_pairs",
    "plateau_then_linear",
]
