"""Write the weights of every bundle: those that a seed makes for every fit, and those that the package ships."""

from pathlib import Path

import torch

from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.training.weights import load_weights

BUNDLES = Path(__file__).parent


def main() -> None:
    network = DNAPrior(seed=0).network(channels=1)
    torch.save(network.state_dict(), BUNDLES / "dnaprior_denoise" / "models" / "model.pt")
    torch.save(load_weights().network.state_dict(), BUNDLES / "iddp_denoise" / "models" / "model.pt")


if __name__ == "__main__":
    main()
