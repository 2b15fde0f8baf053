r"""IDDP for correlated, uneven noise: one training on one device within so many seconds.

    python benchmarks/train_phases.py --objective iddp --output demo/phases

Images, crops and noise live on the device, and a step is one CUDA graph; on a CPU, or where a graph cannot be captured,
the same steps run one by one. A GPU of 2024 needs six minutes for the weights in benchmarks/results. Two processes, one
with ``--objective supervised``, may share one GPU and the folder.

The loss of IDDP sees a noisy image y = x + n and the law of its noise alone: covariance and map σ(p), known here
because the noise is made (training_noise.py). A first guide comes from recorruption (R2R): with n' fresh noise of
that law,

    y₊ = y + n',   y₋ = y − n',   ‖F(y₊) − y₋‖²,

and since the noises of y₊ and y₋ are independent where they are Gaussian, F(y₊) may be drawn to y₋: no blur is needed,
which correlated noise survives, and the identity is no solution. In the second half IDDP's own term joins:

    n = y₊ − sg F(y₊),   n₂ = σ(p) F⁻¹[ |F(n / σ(p))| e^{iφ} ],   y₂ = sg F(y₊) + n₂,
    α ‖F(y₊) − y₋‖² + β ‖F(y₂) − sg F(y₊)‖²

with random phases φ, drawn anew each step, in place of the source's random signs. Signs make white noise of any
residual: on correlated noise y₂ would have other noise than the image. Of white noise both make noise of the same
statistics. y₂ and its target are the same inner window, at another offset and orientation than y₊ was seen at. The grid
of the network's strides lies elsewhere in it, so that its traces in the prior cannot be learnt, and it has no seam.

Writes OUTPUT/OBJECTIVE.safetensors (averaged weights) and adds to OUTPUT/train.jsonl, which table_phases.py reads.

Sources: Pang, Zheng, Quan, Ji, "Recorrupted-to-Recorrupted: unsupervised deep learning for image denoising", CVPR
2021, doi:10.1109/CVPR46437.2021.00208. Lin et al., "Self-supervised image denoising using implicit deep denoiser
prior", AAAI 2023, doi:10.1609/aaai.v37i2.25245.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from table_phases import measure
from torch import Tensor
from training_images import Pool, Windows, load_named
from training_noise import recorrupted, renoised_by_phases, renoised_by_signs

from monai_dnaprior import create_denoiser
from monai_dnaprior.training.objectives import IDDP, Objective, Supervised
from monai_dnaprior.training.trainer import initial_network
from monai_dnaprior.training.weights import TrainedNetwork, save_weights

FEATURES, RESIDUAL_UNITS = (24, 48, 96, 160, 224), 2
RENOISED = {"phases": renoised_by_phases, "signs": renoised_by_signs}
# Never trained on: the other MR patient, CT by number (neighbours are kin), PET's coronal slices of one scanner,
# microscopy by the hash of the experiment, the last ultrasounds.
HELD_BACK = "pgbm003 tcga_005 tcga_006 sts001_cor dsb_e dsb_f busi_06"
LARGEST_OFFSET = 16  # of the inner window
STATED = "objective seed renoise alpha beta warm_up last rate batch side cut seconds".split()


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    log = Log(options)
    images = load_named(options.data / "train", options.cut, every=8 if options.tiny else 1)
    beginnings = options.held.split()
    held = {name: image for name, image in images.items() if name.split("/")[-1].startswith(tuple(beginnings))}
    seen = [image for name, image in images.items() if name not in held]
    log(images=len(seen), held=len(held), held_back=beginnings, torch=torch.__version__)
    torch.backends.cudnn.benchmark = True
    try:
        training = Training(Pool(seen, 2 * options.side, options.device), options, log, images=len(seen))
        training.run()
    except Exception as error:
        if not options.graph:
            raise
        traceback.print_exc()
        log(failed="graph", error=f"{type(error).__name__}: {error}"[:400])
        start_anew(options)
    torch.backends.cudnn.benchmark = False  # many shapes, few passes
    torch.backends.cudnn.allow_tf32 = False
    files = {"shipped": None, options.objective: str(training.path)}
    for line in measure({name: denoiser(file) for name, file in files.items()}, held, options.data, options.device):
        log(**line)
    log(end=True, seconds=round(time.time() - options.started, 1))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", default="iddp", choices=("iddp", "supervised"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="with train, images and pairs_real")
    parser.add_argument("--output", type=Path, default=Path("demo/phases"), help="folder of weights and log")
    parser.add_argument("--seconds", type=float, default=380, help="wall time of all, after the imports")
    parser.add_argument("--reserve", type=float, default=18, help="seconds of them for measuring and saving")
    parser.add_argument("--device", default="cuda", type=torch.device, help="cuda or cpu")
    parser.add_argument("--tiny", action="store_true", help="a small network on few images, to see that it runs")
    parser.add_argument("--no-graph", dest="graph", action="store_false", help="step by step")
    parser.add_argument("--start", type=Path, help="weights to start from, of the same network")
    parser.add_argument("--features", type=int, nargs="+", default=FEATURES, help="channels of every scale")
    parser.add_argument("--residual-units", type=int, default=RESIDUAL_UNITS)
    parser.add_argument("--held", default=HELD_BACK, help="beginnings of the names that are held back, with spaces")
    parser.add_argument("--cut", type=int, default=384, help="largest side of an image; its middle is taken")
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--renoise", default="phases", choices=RENOISED)
    parser.add_argument("--warm-up", type=float, default=0.5, help="part of the time without IDDP's own term")
    parser.add_argument("--last", type=float, default=0.1, help="part of the time, at its end, on larger crops")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side", type=int, default=96, help="of a crop, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--started", type=float, default=time.time(), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.graph = options.graph and options.device.type == "cuda"
    if options.tiny:
        options.batch, options.side, options.features = 2, 48, [size // 8 for size in options.features]
    return options


def denoiser(weights: str | None) -> Callable[[Tensor], Tensor]:
    """The network alone, on images of any noise level."""
    trained = create_denoiser("iddp", weights=weights, limited=False, clean_sigma=0)
    return lambda noisy: trained(noisy).image


def start_anew(options: argparse.Namespace) -> None:
    """A capture that fails may leave generator and context unusable: begin again, eager, with the time that is left."""
    saved = options.output / f"{options.objective}.safetensors"
    more = ["--start", str(saved)] if saved.exists() and saved.stat().st_mtime > options.started else []
    os.execv(sys.executable, [sys.executable, *sys.argv, "--no-graph", "--started", str(options.started), *more])


class Log:
    """Lines of JSON in a file that several processes may share, each line one short write."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.path, self.run, self.started = options.output / "train.jsonl", options.objective, options.started

    def __call__(self, **values: Any) -> None:
        line = json.dumps({"run": self.run, "at": round(time.time() - self.started, 1), **values})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


class Training:
    """Network, optimiser and averaged weights, and the loop over the time."""

    def __init__(self, pool: Pool, options: argparse.Namespace, log: Log, *, images: int) -> None:
        self.pool, self.options, self.log, self.images = pool, options, log, images
        self.device, self.on_gpu = options.device, options.device.type == "cuda"
        self.path = options.output / f"{options.objective}.safetensors"
        network = initial_network(
            weights=options.start, features=options.features, residual_units=options.residual_units, seed=options.seed
        )
        self.network = network.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.parameters = list(self.network.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=torch.zeros((), device=self.device),  # a tensor, which graphs hold
            betas=(0.9, 0.99),
            weight_decay=1e-4,
            fused=self.on_gpu,
            capturable=self.on_gpu,
        )
        self.sums = torch.zeros(4, device=self.device)  # fidelity, regularity, norm, steps
        self.norm = torch.full((), math.inf, device=self.device)  # running norm of the gradient
        self.steps = self.crops = self.updates = 0
        self.began = self.saved = time.time()

    def run(self) -> None:
        options = self.options
        shapes = {"first": (options.batch, options.side), "last": (max(1, options.batch // 4), 2 * options.side)}
        shapes["main"] = shapes["first"]
        regular = options.objective == "iddp"
        prepared = {stage: self.prepared(regular and stage != "first", *shape) for stage, shape in shapes.items()}
        self.recover()  # from the steps that captures need
        self.sums.zero_()
        self.began = self.saved = told = time.time()
        end = options.started + options.seconds - options.reserve
        self.log(began=True, graph=options.graph, train_s=round(end - told, 1),
                 weights=sum(parameter.numel() for parameter in self.parameters), features=options.features,
                 units=options.residual_units, device=self.device_name(),
                 **{name: getattr(options, name) for name in STATED})  # fmt: skip
        scale, counted, least = 1.0, 0, math.inf
        while (now := time.time()) < end:
            progress = (now - self.began) / (end - self.began)
            warm, cosine = min(1, progress / 0.02 + 0.01), 0.5 + 0.5 * math.cos(math.pi * progress)
            self.set_rate(scale * (options.rate * warm * cosine + 1e-6))
            stage = "last" if progress > 1 - options.last else "main" if progress > options.warm_up else "first"
            prepared[stage]()
            self.steps, self.crops = self.steps + 1, self.crops + shapes[stage][0]
            if self.steps % 10 == 0 or not self.on_gpu:
                self.averaged()
            if self.steps % 10 == 0 and self.on_gpu:
                torch.cuda.synchronize()  # else the host runs ahead of the clock
            if now - told > 5:
                fidelity, regularity, norm, steps = self.sums.tolist()
                self.sums.zero_()
                means = {"fidelity": fidelity / steps, "regularity": regularity / steps, "norm": round(norm / steps, 3)}
                self.log(stage=stage, steps=self.steps, crops=self.crops,
                         steps_s=round((self.steps - counted) / (now - told), 1), **means)  # fmt: skip
                told, counted = now, self.steps
                if not math.isfinite(sum(means.values())) or (progress > 0.05 and means["fidelity"] > 20 * least):
                    scale /= 2
                    self.recover()
                    self.log(recovered=True, scale=scale)
                else:
                    least = min(least, means["fidelity"])
            if now - self.saved > 60:
                self.save(finished=False)
        self.save(finished=True)
        seconds = time.time() - self.began
        self.log(trained=True, steps=self.steps, crops=self.crops, seconds=round(seconds, 1),
                 crops_s=round(self.crops / seconds))  # fmt: skip

    def prepared(self, regular: bool, count: int, side: int) -> Callable[[], None]:
        """The step as a CUDA graph, after three eager ones at rate 0, or else as it is."""
        if not self.options.graph:
            return lambda: self.step(regular, count, side)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.step(regular, count, side)
        torch.cuda.current_stream().wait_stream(aside)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step(regular, count, side)
        graph.replay()
        torch.cuda.synchronize()
        if not all(parameter.isfinite().all() for parameter in self.parameters):
            raise RuntimeError("the replayed step broke the weights")
        return graph.replay

    def step(self, regular: bool, count: int, side: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            clean = self.pool.crops(count, side)
            noisy, second, deviation, level = recorrupted(clean)
            weight = 0.05 / (level + 2 / 255)  # else strong noise is all that is learnt

        def loss(difference: Tensor) -> Tensor:  # summed over pixels: means are drowned by Adam's epsilon
            return (weight * difference.square()).sum() / count

        estimate = self.passed(noisy)
        fidelity = loss(estimate - (clean if self.options.objective == "supervised" else second))
        total, regularity = fidelity, torch.zeros_like(fidelity)
        if regular:
            again, prior = self.noised_again(noisy, estimate.detach(), deviation)
            regularity = loss(self.passed(again) - prior)
            total = self.options.alpha * fidelity + self.options.beta * regularity
        total.backward()
        norm = self.limit_gradients()
        losses = [part.detach() / side**2 for part in (fidelity, regularity)]
        self.sums += torch.stack([*losses, norm, torch.ones_like(norm)])
        self.optimizer.step()

    def passed(self, images: Tensor) -> Tensor:
        # convolutions in bfloat16; rounded weights are not kept, which would break graphs
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu, cache_enabled=False):
            return self.network(images).float()

    @torch.no_grad()
    def noised_again(self, noisy: Tensor, prior: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """The prior noised anew and itself, in the same inner windows."""
        again = prior + RENOISED[self.options.renoise](noisy - prior, deviation)
        count = len(prior)
        number = torch.arange(count, device=self.device)
        corner = torch.randint(LARGEST_OFFSET + 1, (count, 2), device=self.device)
        inner = Windows(number, corner, prior.shape[-1] - LARGEST_OFFSET)
        return inner(again), inner(prior)

    @torch.no_grad()
    def limit_gradients(self) -> Tensor:
        """Scale gradients of more than twice their running norm; returns the norm before."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        for gradient in gradients:
            gradient.nan_to_num_(0, 0, 0)
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        limit = 2 * self.norm
        torch._foreach_mul_(gradients, torch.where(norm > limit, limit / norm, torch.ones_like(norm)))
        follows = self.norm.lerp(torch.minimum(norm, limit), 0.02)
        self.norm.copy_(torch.where(self.norm.isfinite(), follows, norm))
        return norm

    def set_rate(self, rate: float) -> None:
        self.optimizer.param_groups[0]["lr"].fill_(rate)

    def averaged(self) -> None:
        """An average over the last hundred updates, over all of them at first."""
        self.updates += 1
        share = max(0.01, 1 / self.updates)
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.parameters], share)

    @torch.no_grad()
    def recover(self) -> None:
        """After numbers that are none: back to the averaged weights, moments zero."""
        for parameter, average in zip(self.parameters, self.average, strict=True):
            parameter.copy_(average.nan_to_num())
        for state in self.optimizer.state.values():
            state["exp_avg"].zero_()
            state["exp_avg_sq"].zero_()
        self.norm.fill_(math.inf)

    def save(self, *, finished: bool) -> None:
        options, network = self.options, copy.deepcopy(self.network).cpu()
        for parameter, average in zip(network.parameters(), self.average, strict=True):
            parameter.data.copy_(average)
        objective: Objective = Supervised()
        if options.objective == "iddp":  # what its signs and blur are replaced by stands in the module's docstring
            objective = IDDP(fidelity_weight=options.alpha, regularity_weight=options.beta, blur=1,
                             warm_up=options.warm_up)  # fmt: skip
        training = {
            **{name: getattr(options, name) for name in STATED},
            "images": self.images, "held_back": options.held.split(), "noise": "benchmarks/training_noise.py",
            "steps": self.steps, "crops": self.crops, "trained_s": round(time.time() - self.began, 1),
            "finished": finished, "device": self.device_name(), "versions": {"torch": torch.__version__},
        }  # fmt: skip
        save_weights(self.path, TrainedNetwork(network.eval().requires_grad_(False), objective, training))
        self.saved = time.time()

    def device_name(self) -> str:
        return torch.cuda.get_device_name() if self.on_gpu else str(self.device)


if __name__ == "__main__":
    main()
