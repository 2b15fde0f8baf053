"""Write the initial weights of every bundle: the network of the default preset, as its seed makes it."""

from pathlib import Path

import torch

from monai_dnaprior.priors import DNAPrior

BUNDLES = Path(__file__).parent


def main() -> None:
    network = DNAPrior(seed=0).network(channels=1)
    torch.save(network.state_dict(), BUNDLES / "dnaprior_denoise" / "models" / "model.pt")


if __name__ == "__main__":
    main()
