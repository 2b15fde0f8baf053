"""Trained networks in and out of files: safetensors with the configuration, never a pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from monai.config import PathLike
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files.disk import hash_of, write_whole
from .objectives import OBJECTIVES, Objective, create_objective
from .unet import DenoisingUNet

SHIPPED = Path(__file__).with_name("iddp.safetensors")  # for white noise
SHIPPED_CORRELATED = Path(__file__).with_name("iddp_correlated.safetensors")
FORMAT = "monai-dnaprior-1"
RETIRED = ("stop_gradient", "largest_shift")  # options of objectives in files of earlier versions


@dataclass(frozen=True)
class TrainedNetwork:
    """A network, what it was trained for, and how.

    Attributes:
        network: in evaluation mode, its parameters without gradients.
        objective: says what the network's output means.
        training: anything that tells where the weights are from: data, noise, steps.
    """

    network: DenoisingUNet
    objective: Objective
    training: dict[str, Any] = field(default_factory=dict)


def save_weights(path: PathLike, trained: TrainedNetwork) -> str:
    """Write a trained network as safetensors, whole or not at all, and return the file's SHA-256."""
    path = Path(path)
    description = {
        "format": FORMAT,
        "network": trained.network.configuration,
        "objective": {"name": objective_name(trained.objective), **asdict(trained.objective)},
        "training": trained.training,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.network.state_dict().items()}
    write_whole(path, save(tensors, metadata={"monai_dnaprior": json.dumps(description, sort_keys=True)}))
    return hash_of(path)


def load_weights(path: PathLike = SHIPPED, *, sha256: str | None = None) -> TrainedNetwork:
    """Read a trained network.

    Args:
        path: a file that :func:`save_weights` wrote; by default the weights of IDDP that the package ships.
        sha256: what the file's SHA-256 must be, if it is known.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another hash, a file that is cut off, a pickle or anything else that is no safetensors, or one that
            does not hold a network of ours. Nothing is unpickled.

    >>> load_weights().objective.needs
    'none'
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights={str(path)!r} is no file; give one that save_weights wrote, or None.")
    found = hash_of(path)
    if sha256 is not None and found != sha256.lower():
        raise ValueError(f"weights={str(path)!r} has the SHA-256 {found}, not {sha256.lower()}; fetch the file again.")
    return read_network(path, found)


@lru_cache(maxsize=4)
def read_network(path: Path, sha256: str) -> TrainedNetwork:
    """The network of a file whose contents have this hash."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("monai_dnaprior", "{}")
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 it is no dictionary
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"weights={str(path)!r} is no safetensors file, or is cut off: {error}.") from error
    try:
        description = json.loads(text)
        if description["format"] != FORMAT:
            raise ValueError("it is of another format")
        network, options = build_network(description["network"], tensors), dict(description["objective"])
        options = {name: value for name, value in options.items() if name not in RETIRED}
        objective = create_objective(options.pop("name"), **options)
        return TrainedNetwork(network.eval().requires_grad_(False), objective, description["training"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"weights={str(path)!r} holds no network of this package: {reason}.") from error


def build_network(configuration: dict[str, Any], tensors: dict[str, Tensor]) -> DenoisingUNet:
    """A network of these weights; whatever its configuration says, it takes no more time and memory than they do."""
    if len(configuration["features"]) * (1 + configuration["residual_units"]) > len(tensors):
        raise ValueError("it says that it has more layers than it has")
    network = DenoisingUNet(**{**configuration, "seed": None})
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return network


def objective_name(objective: Objective) -> str:
    return next(name for name, kind in OBJECTIVES.items() if type(objective) is kind)
