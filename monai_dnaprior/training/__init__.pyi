from .budget import Budget, plateau_then_linear, warm_up_then_cosine
from .data import EpochSampler, NoisyCrops, at_half_size, held_back, load_images, noisy_pairs
from .objectives import create_objective
from .pool import RecorruptedCrops
from .trainer import (
    Checkpoints,
    DenoisingTrainer,
    GradientLimit,
    TrainingLog,
    WeightAverage,
    WeightsSaver,
    initial_network,
)
from .unet import DenoisingUNet

__all__ = [
    "Budget",
    "Checkpoints",
    "DenoisingTrainer",
    "DenoisingUNet",
    "EpochSampler",
    "GradientLimit",
    "NoisyCrops",
    "RecorruptedCrops",
    "TrainingLog",
    "WeightAverage",
    "WeightsSaver",
    "at_half_size",
    "create_objective",
    "held_back",
    "initial_network",
    "load_images",
    "noisy_pairs",
    "plateau_then_linear",
    "warm_up_then_cosine",
]
