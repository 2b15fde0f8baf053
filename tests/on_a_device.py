"""What computes on a GPU, on a device that is pretended: ``test_on_a_device.py`` runs this.

The same images come out as on the CPU; nothing waits for the device within the steps of a fit, or computes in double
precision there, but where it is said why.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHORT
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, ScaleIntensityd
from pretended_device import NAME, WATCHED, install
from torch import Tensor

from monai_dnaprior import DenoiseDict, create_denoiser, denoising_records, list_denoisers
from monai_dnaprior.denoisers import per_image, trained
from monai_dnaprior.denoisers.dnaprior import DNAPrior
from monai_dnaprior.denoisers.per_image import NoisyImage
from monai_dnaprior.denoisers.trained import Trained
from monai_dnaprior.fitting.batch import FitRequest, Stack
from monai_dnaprior.fitting.fit import CHECK_EVERY, fit
from monai_dnaprior.fitting.stopping import Discrepancy, MovingVariance
from monai_dnaprior.noise.estimate import NoiseKind
from monai_dnaprior.noise.model import NoiseModel
from monai_dnaprior.noise.models import add_noise
from monai_dnaprior.training.data import NoisyCrops
from monai_dnaprior.training.objectives import create_objective
from monai_dnaprior.training.trainer import DenoisingTrainer
from monai_dnaprior.training.unet import DenoisingUNet
from monai_dnaprior.transforms.slicing import Slicing
from monai_dnaprior.transforms.volumes import denoise_volume

install()  # before the first gradient

FEW_STEPS: dict[str, dict[str, Any]] = {
    "dna-prior": {**SHORT, "steps": 2},
    "dip": {**SHORT, "steps": 2},
    "dip-tv": {**SHORT, "steps": 2},
    "dsp": {**SHORT, "steps": 2},
    "wire": {"steps": 2, "hidden": 4},
    "ds-n2n": {"steps": 2, "width": 4},
    "self2self": {"steps": 2, "width": 4, "scales": 2},
}
MOST_OPERATIONS = {"default": 165, "paper": 390}  # of a step of two fits
IN_DOUBLE = {  # where a GPU computes in double precision, which takes some of them 64 times as long as single
    "noise/estimate.py estimate_sigma": "once a slice of magnitudes: a median that is to equal the CPU's",
    "noise/estimate.py median_deviation": "as above",
    "noise/estimate.py fine_kurtosis": "as above: fourth powers of small differences",
    "noise/estimate.py second_differences": "as above: differences of values that are nearly equal",
    "noise/estimate.py varying_pixels": "as above: comparisons",
    "noise/model.py covariance": "once an image: one small matrix",
    "noise/model.py spectrum": "once an image of correlated noise: its spectrum, which spans many orders of magnitude",
    "noise/spectrum.py spectrum_of": "as above",
    "denoisers/trained.py limit_bands": "as above",
    "denoisers/nonlocal_bayes.py of": "as above",
    "noise/intensity.py intensity_range": "once a volume, of some of its voxels",
    "noise/rician.py without_rician_bias": "once a volume: squares of large intensities",
    "transforms/volumes.py look": "once a slice: large intensities that differ little",
    "transforms/volumes.py denoise_parts": "as above",
    "transforms/volumes.py denoise_volume": "as above",
}


def in_places(counts: Counter[str]) -> set[str]:
    """The files and functions among lines."""
    return {f"{line.split(':')[0]} {line.split()[-1]}" for line in counts}


@pytest.fixture(autouse=True)
def double_precision_is_accounted_for() -> Iterator[None]:
    WATCHED.reset()
    yield
    assert in_places(WATCHED.doubles) <= set(IN_DOUBLE), WATCHED.doubles


def noisy_images(count: int, height: int = 48, width: int = 40) -> Tensor:
    rows, columns = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 2, width), indexing="ij")
    clean = (0.5 + 0.4 * torch.sin(rows * columns)).expand(count, 1, height, width)
    return add_noise(clean, "gaussian:25", seed=0)


# what a GPU refuses


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda here, there: here + there, "same device"),
        (lambda here, there: torch.cat([there, here]), "same device"),
        (lambda here, there: there[here > 0], "same device"),
        (lambda here, there: here.numpy(), "can't convert"),
        (lambda here, there: here.clone().normal_(generator=torch.Generator()), "generator"),
        (lambda here, there: there.clone().normal_(generator=torch.Generator(NAME)), "generator"),
        (lambda here, there: here.repeat(80, 1), "out of memory"),
    ],
    ids=["sum", "joined", "index", "numpy", "generator", "generator on the CPU", "memory"],
)
def test_what_a_gpu_refuses_is_refused(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[Tensor, Tensor], Any], words: str
) -> None:
    monkeypatch.setattr(WATCHED, "largest", 1000)
    there = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises((RuntimeError, TypeError), match=words):
        call(there.to(NAME), there)


def test_operations_waits_and_double_precision_are_counted() -> None:
    here = torch.ones(2, 3).to(NAME)
    WATCHED.reset()
    assert (here[:, 1:].T * 2).sum().item() == 8
    assert here.tolist() == [[1.0] * 3] * 2
    assert dict(WATCHED.operations) == {"mul": 1, "sum": 1, "_local_scalar_dense": 1}
    assert dict(WATCHED.waits) == {"outside": 2}
    assert not WATCHED.doubles
    here.double()
    assert dict(WATCHED.doubles) == {"outside": 1}
    WATCHED.reset()


# what computes with torch


@pytest.mark.parametrize("name", list_denoisers())
def test_a_method_makes_what_it_makes_on_the_cpu(name: str) -> None:
    noisy, denoiser = noisy_images(2), create_denoiser(name, **FEW_STEPS.get(name, {}))
    there, here = denoiser(noisy), denoiser(noisy.to(NAME))
    assert here.image.device.type == NAME
    torch.testing.assert_close(here.image.cpu(), there.image, atol=1e-3, rtol=0)
    assert [record.steps for record in here.records] == [record.steps for record in there.records]


@pytest.mark.parametrize(
    "denoiser",
    [
        DNAPrior(**FEW_STEPS["dna-prior"], refinements=1),
        DNAPrior(**FEW_STEPS["dna-prior"], restarts=2, shrink=(1, 2), refinements=0),
        DNAPrior(**FEW_STEPS["dna-prior"], precision="bfloat16", refinements=0),
        DNAPrior.from_preset("paper", **FEW_STEPS["dip"]),
        Trained(refinements=1),
        Trained(ensemble=True, tile=64),
    ],
    ids=["refined", "restarts", "bfloat16", "paper", "iddp refined", "iddp in tiles"],
)
@pytest.mark.parametrize("known", [False, True], ids=["white", "correlated"])
def test_so_do_their_variants(denoiser: Any, known: bool) -> None:
    noisy = noisy_images(1, 40, 80)
    lag = torch.arange(-4, 5.0)
    correlation = torch.exp(-(lag**2 + lag[:, None] ** 2) / 2)
    noise = [NoiseModel(0.1, correlation, 1 + 0.1 * torch.ones_like(noisy).cumsum(-1) / 80)] if known else None
    here = [each.to(torch.device(NAME)) for each in noise] if noise else None
    there, image = denoiser(noisy, noise=noise).image, denoiser(noisy.to(NAME), noise=here).image
    rounded = getattr(denoiser, "precision", "") == "bfloat16"
    torch.testing.assert_close(image.cpu(), there, atol=0.1 if rounded else 1e-3, rtol=0)


@pytest.mark.parametrize("name", ["dna-prior", "iddp"])
def test_images_without_noise_are_left_alone(name: str) -> None:
    flat, weak = torch.ones(1, 1, 48, 40), 0.5 + 1e-3 * noisy_images(1)
    result = create_denoiser(name)(torch.cat([flat, weak]).to(NAME))
    assert [record.stop_reason for record in result.records] == ["constant", "clean"]
    assert torch.equal(result.image.cpu(), torch.cat([flat, weak]))


def test_a_volume_in_a_chain() -> None:
    volume = MetaTensor(1000 * noisy_images(3).movedim(0, -1), affine=torch.eye(4))
    transforms = [
        ScaleIntensityd("image"),
        DenoiseDict("image", "dna-prior", device=NAME, residual=True, rician=True, **FEW_STEPS["dna-prior"]),
        DenoiseDict("image", "iddp", device=NAME, neighbours=1, noise=0.1),
    ]
    output = Compose(transforms)({"image": volume})
    assert output["image"].device.type == "cpu"
    assert {record["device"] for record in denoising_records(output["image"])} == {f"{NAME}:0"}


def made_requests(prior: DNAPrior, count: int, **others: Any) -> list[FitRequest]:
    """The fits of some images on the device."""
    requests, network = [], prior.place_network(prior.network(), torch.device(NAME))
    for number, noisy in enumerate(noisy_images(count, 32, 32).to(NAME).split(1)):
        image = NoisyImage(noisy, torch.ones_like(noisy, dtype=torch.bool), NoiseModel(0.1))
        made = next(prior.fit_small(image, network, number, 2))
        requests.append(dataclasses.replace(made, **others))
    return requests


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_step_is_that_of_the_cpu(preset: str, count: int) -> None:
    """Loss, estimate and gradients in double precision, where rounding hides nothing."""
    prior = DNAPrior.from_preset(preset, **({"width": 4} if preset == "paper" else {}))
    first, *others = made_requests(prior, count)
    objective = first.objective.join([one.objective for one in others])
    noisy = torch.cat([one.noisy for one in (first, *others)])
    networks, seen = [prior.network().double() for _ in range(count)], []
    for device in (NAME, "cpu"):
        own = [copy.deepcopy(network).to(device) for network in networks]
        module = Stack(own) if others else own[0]
        moved = {name: getattr(objective, name) for name in ("z", "input_noise", "tv_weight")}
        moved = {name: value.double().to(device) for name, value in moved.items() if value is not None}
        drawn = [torch.zeros(moved["z"].shape[1:], dtype=torch.float64, device=device)] * count
        scored = dataclasses.replace(objective, **moved, draws=[partial(torch.clone, one) for one in drawn])
        losses, estimate = scored(noisy.double().to(device), module)
        losses.sum().backward()
        named = dict(zip(own[0].state_dict(), module.parameters(), strict=True))
        seen.append([losses, estimate, *(weight.grad for name, weight in named.items() if has_effect(named, name))])
    for here, there in zip(*seen, strict=True):
        torch.testing.assert_close(here.cpu(), there, atol=1e-10, rtol=1e-10)
    WATCHED.reset()


def has_effect(weights: Mapping[str, Tensor], name: str) -> bool:
    """Whether a weight is no bias before a normalisation, whose gradient is zero but for rounding."""
    kernel = weights[name.replace(".bias", ".weight")]
    return not name.endswith(".bias") or kernel.ndim < 4 or name.startswith("head")


def test_fits_that_end_each_at_its_own_step() -> None:
    rules = [[Discrepancy(10.0)], [MovingVariance(warm_up=0, patience=1)], []]
    requests = made_requests(DNAPrior(**SHORT), 3, steps=4 * CHECK_EVERY)
    requests = [dataclasses.replace(one, rules=own) for one, own in zip(requests, rules, strict=True)]
    results = fit(requests)
    assert [result.stop_reason for result in results] == ["discrepancy", "variance", "steps"]
    assert results[0].steps == CHECK_EVERY < results[1].steps < results[2].steps == 4 * CHECK_EVERY


def test_too_little_memory_halves_a_batch_and_ends_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = noisy_images(4, 32, 32).movedim(0, -1).to(NAME)
    prior = DNAPrior(**FEW_STEPS["dna-prior"], refinements=0)
    warnings = []
    for largest in (600_000, 300_000):
        monkeypatch.setattr(WATCHED, "largest", largest)
        result = denoise_volume(volume, prior, Slicing(batch_size=4))
        warnings.append([" ".join(record.warnings) for record in result.records])
    assert all("4 slices at once: halved" in text and "CPU" not in text for text in warnings[0])
    assert all("2 slices at once: halved" in text and "denoised on the CPU" in text for text in warnings[1])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["iddp", "noise2void", "neighbor2neighbor", "supervised"])
def test_three_steps_of_training(name: str, precision: str) -> None:
    objective = create_objective(name)
    network = DenoisingUNet(features=(4, 8), heads=objective.heads).to(NAME)
    images = list(noisy_images(3))
    crops = NoisyCrops(images, noise=["gaussian:5:25"], needs=objective.needs, side=16, length=6, seed=0)
    losses: list[float] = []
    trainer = DenoisingTrainer(
        device=NAME, objective=objective, network=network, optimizer=torch.optim.Adam(network.parameters(), 1e-3),
        max_epochs=1, train_data_loader=DataLoader(crops, batch_size=2), precision=precision,
    )  # fmt: skip
    trainer.add_event_handler("ITERATION_COMPLETED", lambda engine: losses.append(engine.state.output["loss"].item()))
    trainer.run()
    assert len(losses) == 3


# what takes time


def test_the_noise_of_images_is_measured_on_the_cpu_and_not_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a second for 256×256 pixels, of which a device would wait all but milliseconds."""
    seen: list[tuple[str, int]] = []

    def measured(noisy: Tensor, kind: NoiseKind) -> NoiseModel:
        seen.append((noisy.device.type, threading.get_native_id()))
        return NoiseModel(0.1)

    for module in (per_image, trained):
        monkeypatch.setattr(module, "measure_noise", measured)
    for denoiser in (DNAPrior(**FEW_STEPS["dna-prior"], refinements=0), Trained(refinements=1)):
        seen.clear()
        denoiser(noisy_images(2).to(NAME))
        assert [device for device, _ in seen] == ["cpu"] * 2
        assert threading.get_native_id() not in {thread for _, thread in seen}


def operations(counts: Counter[str]) -> int:
    """A gradient of a slice is two: zeros, and a copy into them."""
    return sum(counts.values()) + counts["slice_backward"] + counts["select_backward"]


def one_step(requests: Sequence[FitRequest]) -> tuple[int, Counter[str]]:
    """Operations and waits of one step between checks: of a fit of nine steps, less those of eight."""
    seen = []
    for steps in (8, 9):
        made = [dataclasses.replace(one, steps=steps) for one in requests]
        WATCHED.reset()
        fit(made)
        seen.append((operations(WATCHED.operations), WATCHED.waits))
    return seen[1][0] - seen[0][0], seen[1][1] - seen[0][1]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_step_has_few_operations_and_waits_for_nothing(preset: str, count: int) -> None:
    prior = DNAPrior.from_preset(preset, **({"width": 4} if preset == "paper" else {}))
    requests = made_requests(prior, count)
    number, waits = one_step(requests)
    assert number <= MOST_OPERATIONS[preset]
    assert not waits


def test_a_check_waits_for_losses_and_residuals_of_all_images_at_once() -> None:
    requests = made_requests(DNAPrior(), 3, steps=2 * CHECK_EVERY, rules=[Discrepancy(0.0)])
    WATCHED.reset()
    fit(requests)
    assert sum(WATCHED.waits.values()) == 4


def test_iddps_networks_are_copied_to_the_device_once() -> None:
    trained.copy_shared.cache_clear()
    waits = []
    for _ in range(2):
        WATCHED.reset()
        Trained()(noisy_images(2).to(NAME))
        waits.append(sum(number for line, number in WATCHED.waits.items() if "copy_to" in line))
    assert waits[0] > waits[1] == 0


def test_a_batch_copies_its_first_network_to_the_device_once() -> None:
    waits = []
    for count in (2, 4):
        WATCHED.reset()
        DNAPrior(**FEW_STEPS["dna-prior"], refinements=0, shrink=1)(noisy_images(count).to(NAME))
        waits.append(Counter({line: number for line, number in WATCHED.waits.items() if "place_network" in line}))
    assert waits[0] == waits[1]
    assert sum(waits[0].values()) == len(list(DNAPrior(**SHORT).network().parameters()))


def test_the_benchmark_of_a_gpu_is_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    gpu = importlib.import_module("gpu")
    words = ["gpu.py", "--tiny", f"--device={NAME}", f"--output={tmp_path}", "--data=absent/images"]
    monkeypatch.setattr("sys.argv", words)
    gpu.main()
    lines = gpu.read(tmp_path)
    assert [line for line in lines if "error" in line] == []
    assert {line["part"] for line in lines} == set(gpu.PARTS) - {"table", "weights"}
    assert "| `default` | 3 |" in gpu.show_table(
        {part: [line for line in lines if line["part"] == part] for part in gpu.PARTS}
    )
    WATCHED.reset()
