"""The transforms inside MONAI chains: containers, metadata, caches, workers, contexts."""

from __future__ import annotations

import inspect
import itertools
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import (
    CacheDataset,
    DataLoader,
    Dataset,
    MetaTensor,
    PersistentDataset,
    ThreadDataLoader,
    set_track_meta,
)
from monai.data.utils import pickle_hashing
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    InvertibleTransform,
    LazyTransform,
    LoadImaged,
    RandomizableTrait,
    SaveImaged,
    ScaleIntensityRanged,
    Spacingd,
)

from monai_dnaprior import (
    Denoise,
    DenoiseD,
    Denoised,
    DenoiseDict,
    DNAPriorDenoise,
    DNAPriorDenoiseD,
    DNAPriorDenoised,
    DNAPriorDenoiseDict,
    IDDPDenoise,
    IDDPDenoiseD,
    IDDPDenoised,
    IDDPDenoiseDict,
    IDDPInferer,
    denoising_records,
    load_weights,
    save_weights,
)
from monai_dnaprior.fitting.devices import computing_device

STEPS = 10
METHODS: dict[str, tuple[Callable, Callable]] = {
    "dna-prior": (partial(DNAPriorDenoise, steps=STEPS), partial(DNAPriorDenoised, steps=STEPS)),
    "iddp": (IDDPDenoise, IDDPDenoised),
}


def noisy_volume(*shape: int) -> torch.Tensor:
    return 1000 * torch.rand(shape or (1, 20, 24, 3), generator=torch.Generator().manual_seed(0))


def bits(image: Any) -> torch.Tensor:
    return image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)


def chain() -> Compose:
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            DNAPriorDenoised("image", steps=STEPS),
            Spacingd("image", pixdim=(1.5, 1.5, 3.0)),
            ScaleIntensityRanged("image", a_min=0, a_max=200, b_min=0, b_max=1, clip=True),
        ]
    )


FORMS = [(DNAPriorDenoise, DNAPriorDenoised), (IDDPDenoise, IDDPDenoised), (Denoise, Denoised)]


@pytest.mark.parametrize("forms", FORMS, ids=["dna-prior", "iddp", "any"])
def test_array_and_dictionary_forms_never_drift(forms: tuple[type, type]) -> None:
    array, dictionary = (dict(inspect.signature(form).parameters) for form in forms)
    names = [name for name in dictionary if name not in ("keys", "allow_missing_keys")]
    assert names == list(array)
    assert all(dictionary[name] == array[name] for name in array)
    keyword_only = [name for name, parameter in array.items() if parameter.kind is parameter.KEYWORD_ONLY]
    assert [name for name in array if name not in keyword_only] in ([], ["method", "options"])
    assert [name for name in dictionary if name != "options"][:: len(array.keys() - {"options"}) + 1] == [
        "keys", "allow_missing_keys"
    ]  # fmt: skip


def test_transforms_of_one_method_take_no_other_parameters() -> None:
    for form in (partial(DNAPriorDenoise, width=8), partial(IDDPDenoised, "image", spread=True)):
        with pytest.raises(TypeError, match=r"(width|spread) is no option of \w+Denoise; it has (preset|weights), "):
            form()


def test_aliases_name_the_dictionary_forms() -> None:
    assert DNAPriorDenoiseD is DNAPriorDenoiseDict is DNAPriorDenoised
    assert IDDPDenoiseD is IDDPDenoiseDict is IDDPDenoised
    assert DenoiseD is DenoiseDict is Denoised


def test_the_general_transform_takes_any_method_with_its_options() -> None:
    image = noisy_volume()
    assert torch.equal(Denoise("identity")(image), image)
    expected = DNAPriorDenoise(steps=STEPS, seed=2)(image)
    assert torch.equal(Denoise("dna-prior", steps=STEPS, seed=2)(image), expected)
    filtered = Denoised("image", "tv", sigma=0.2, residual=True)({"image": MetaTensor(image)})
    assert {record["stop_reason"] for record in denoising_records(filtered["image"])} == {"filter"}
    torch.testing.assert_close(bits(filtered["image"]) + bits(filtered["residual_image"]), image, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="is no known denoiser"):
        Denoised("image", "bm4d")


@pytest.mark.usefixtures("global_random_state_is_left_alone")
@pytest.mark.parametrize("form", [DNAPriorDenoise, DNAPriorDenoised, IDDPDenoise, IDDPDenoised])
def test_neither_random_nor_lazy_nor_invertible(form: type) -> None:
    assert not issubclass(form, (RandomizableTrait, LazyTransform, InvertibleTransform))


@pytest.mark.parametrize(
    "container", [torch.Tensor.numpy, torch.as_tensor, MetaTensor], ids=["numpy", "tensor", "MetaTensor"]
)
@pytest.mark.parametrize("dtype", [torch.int16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 20, 24, 3), (3, 9, 13)], ids=["volume", "colour"])
@pytest.mark.parametrize("method", METHODS)
def test_every_container_comes_back_as_it_is(
    method: str, container: Callable, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    array_form, dictionary_form = METHODS[method]
    image = container(noisy_volume(*shape).to(dtype))
    before = bits(image).clone()
    output = array_form()(image)
    assert type(output) is type(image)
    assert output.shape == image.shape
    assert output.dtype in (torch.float32, np.float32)
    assert torch.equal(bits(image), before)
    plain = array_form()(noisy_volume(*shape).to(dtype))
    assert torch.equal(bits(output), plain)
    dictionary = dictionary_form("image")({"image": image, "other": 1})
    assert torch.equal(bits(dictionary["image"]), plain)
    assert dictionary["other"] == 1


@pytest.mark.parametrize("method", METHODS)
def test_metadata_and_history_survive_and_gain_the_records(method: str, nifti_path: Path) -> None:
    image = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])({"image": nifti_path})["image"]
    image.applied_operations = [{"class": "Before"}]
    output = METHODS[method][0]()(image)
    assert torch.equal(output.affine, image.affine)
    assert output.meta["filename_or_obj"] == str(nifti_path)
    assert output.applied_operations == [{"class": "Before"}]
    records = denoising_records(output)
    assert len(records) == 3
    assert set(records[0]) >= {"sigma", "steps", "stop_reason", "seconds", "seed", "trace", "warnings"}
    assert "denoising" not in image.meta
    with pytest.raises(ValueError, match="image has no denoising records"):
        denoising_records(image)


def test_without_metadata_tracking_tensors_stay_tensors() -> None:
    set_track_meta(False)
    try:
        output = DNAPriorDenoise(steps=STEPS)(noisy_volume())
    finally:
        set_track_meta(True)
    assert type(output) is torch.Tensor


def test_spread_is_in_the_units_of_the_image_and_needs_restarts() -> None:
    image = MetaTensor(noisy_volume(), affine=2 * torch.eye(4))
    options = {"steps": STEPS, "restarts": 2, "residual": True, "spread": True}
    denoised, residual, spread = DNAPriorDenoise(**options)(image)
    assert spread.shape == image.shape
    assert torch.equal(spread.affine, image.affine)
    assert bits(spread)[bits(image).isfinite()].max() > 0
    in_other_units = DNAPriorDenoise(**options)(1024 * image)[2]
    torch.testing.assert_close(bits(in_other_units), 1024 * bits(spread), rtol=1e-2, atol=1e-2)
    dictionary = DNAPriorDenoised("image", **options)({"image": image})
    assert sorted(dictionary) == ["image", "residual_image", "spread_image"]
    for key, expected in zip(sorted(dictionary), (denoised, residual, spread), strict=True):
        assert torch.equal(dictionary[key], expected)
    with pytest.raises(
        ValueError, match="spread=True needs a fit that is restarted; set the option restarts to at least 2"
    ):
        DNAPriorDenoise(spread=True)
    with pytest.raises(ValueError, match="spread=True needs"):
        Denoised("image", "tv", spread=True)


def test_residual_is_input_minus_output_and_zero_where_nothing_was_seen() -> None:
    image = MetaTensor(noisy_volume(), affine=2 * torch.eye(4))
    image[0, 1, 1, 1] = float("nan")
    output, residual = DNAPriorDenoise(steps=STEPS, residual=True)(image)
    seen = bits(image).isfinite()
    total = bits(output) + bits(residual)
    torch.testing.assert_close(total[seen], bits(image)[seen], rtol=1e-5, atol=1e-3)
    assert bits(residual)[~seen].item() == 0
    assert torch.equal(residual.affine, image.affine)
    dictionary = DNAPriorDenoised("image", steps=STEPS, residual=True)({"image": image})
    assert torch.equal(dictionary["residual_image"], residual)


def test_whole_chain_keeps_geometry_to_the_file_and_can_be_inverted(nifti_path: Path, tmp_path: Path) -> None:
    source = nibabel.load(nifti_path)
    pre = chain()
    item = pre({"image": nifti_path})
    assert item["image"].shape[-1] == 3
    inverse = pre.inverse(item)
    np.testing.assert_allclose(inverse["image"].affine, source.affine, atol=1e-5)
    assert inverse["image"].shape[1:] == source.shape
    denoised = Compose(
        [
            *pre.transforms[:3],
            SaveImaged("image", output_dir=tmp_path / "out", output_postfix="denoised", print_log=False),
        ]
    )
    denoised({"image": nifti_path})
    saved = nibabel.load(tmp_path / "out" / "case" / "case_denoised.nii.gz")
    np.testing.assert_allclose(saved.affine, source.affine, atol=1e-5)
    assert saved.get_data_dtype() == np.float32
    assert 0 < np.abs(saved.get_fdata() - source.get_fdata()).mean() < 20


@pytest.fixture
def files(nifti_path: Path) -> list[dict[str, str]]:
    """Two scans of equal size."""
    image = nibabel.load(nifti_path)
    other = nifti_path.with_name("other.nii.gz")
    nibabel.save(nibabel.Nifti1Image(image.get_fdata()[::-1].astype(np.float32), image.affine), other)
    return [{"image": str(nifti_path)}, {"image": str(other)}]


def loaded(dataset: Any, loader: type = DataLoader, **options: Any) -> torch.Tensor:
    return torch.cat([bits(batch["image"]) for batch in loader(dataset, batch_size=1, **options)])


LOADERS: dict[str, tuple[type, dict[str, Any]]] = {
    "none": (DataLoader, {}),
    "fork": (DataLoader, {"num_workers": 2, "multiprocessing_context": "fork"}),
    "spawn": (DataLoader, {"num_workers": 1, "multiprocessing_context": "spawn"}),
    "threads": (ThreadDataLoader, {"num_workers": 1, "use_thread_workers": True}),
}


@pytest.mark.parametrize(
    ("dataset", "workers"),
    [("plain", "spawn"), *itertools.product(["plain", "cache", "persistent"], ["none", "fork", "threads"])],
)
def test_datasets_and_loaders_all_give_the_same_bits(
    files: list[dict[str, str]], tmp_path: Path, dataset: str, workers: str
) -> None:
    expected = torch.stack([bits(chain()(item)["image"]) for item in files])
    made: Any = {
        "plain": lambda: PersistentDataset(files, chain(), cache_dir=None),
        "cache": lambda: CacheDataset(files, chain(), num_workers=2, progress=False),
        "persistent": lambda: PersistentDataset(
            files, chain(), tmp_path / "cache", hash_transform=pickle_hashing, track_meta=True, weights_only=False
        ),
    }[dataset]()
    loader, options = LOADERS[workers]
    assert torch.equal(loaded(made, loader, **options), expected)
    if dataset == "persistent":
        assert len(list((tmp_path / "cache").iterdir())) == len(files)
        assert torch.equal(loaded(made, loader, **options), expected)


def test_batches_of_different_records_can_be_collated(files: list[dict[str, str]]) -> None:
    pre = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), DNAPriorDenoised("image", steps=STEPS)])
    batch = next(iter(DataLoader(PersistentDataset(files, pre, cache_dir=None), batch_size=2)))["image"]
    assert batch.shape[0] == 2
    assert all(isinstance(text, str) for text in batch.meta["denoising"])


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_contexts_of_evaluators_change_nothing(context: Callable, nifti_path: Path) -> None:
    expected = chain()({"image": nifti_path})["image"]
    with context():
        output = chain()({"image": nifti_path})["image"]
    assert torch.equal(output, expected)


@pytest.mark.parametrize(
    ("code", "other_code"),
    [
        (f"DNAPriorDenoised('image', steps={STEPS})", f"DNAPriorDenoised('image', steps={STEPS + 1})"),
        ("IDDPDenoised('image')", "IDDPDenoised('image', refinements=1)"),
    ],
    ids=METHODS,
)
def test_pickled_state_is_the_same_before_after_a_call_and_in_another_process(code: str, other_code: str) -> None:
    transform = eval(code)
    before = pickle_hashing(transform)
    output = transform({"image": noisy_volume()})["image"]
    assert pickle_hashing(transform) == before
    assert torch.equal(pickle.loads(pickle.dumps(transform))({"image": noisy_volume()})["image"], output)
    script = f"from monai.data.utils import pickle_hashing; from monai_dnaprior import *; print(pickle_hashing({code}))"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert other.stdout.strip() == str(before)
    assert pickle_hashing(eval(other_code)) != before


def test_other_weights_change_the_pickled_state(tmp_path: Path) -> None:
    trained = load_weights()
    path = tmp_path / "some.safetensors"
    hashes = set()
    for note in ("one", "other"):
        save_weights(path, replace(trained, training={"note": note}))
        hashes.add(pickle_hashing(IDDPDenoised("image", weights=str(path))))
    assert len(hashes) == 2


def test_what_was_removed_is_no_hindrance_to_resampling(nifti_path: Path) -> None:
    """Spacingd takes what begins with the key and an underscore for metadata, if the image is from a NIfTI file."""
    chain = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Denoised("image", "median", residual=True),
            Spacingd("image", pixdim=(3.0, 3.0, 3.0)),
        ]
    )
    result = chain({"image": nifti_path})
    assert result["image"].shape != result["residual_image"].shape == (1, 20, 24, 3)


def test_the_records_of_a_batch_are_refused_with_the_remedy() -> None:
    image = Denoise("median")(MetaTensor(noisy_volume()))
    (batch,) = DataLoader([image], batch_size=1)
    with pytest.raises(ValueError, match="pass it through decollate_batch first"):
        denoising_records(batch)


def test_cuda_inside_a_worker_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: object())
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    with pytest.raises(RuntimeError, match="num_workers=0, or use monai.data.ThreadDataLoader"):
        DNAPriorDenoise(steps=STEPS, device="cuda")(noisy_volume())


def test_cuda_inside_a_thread_of_a_data_loader_is_not_refused() -> None:
    def device(_: int) -> str:
        assert torch.utils.data.get_worker_info() is not None
        try:
            return str(computing_device("cuda"))
        except RuntimeError as error:
            return str(error)

    loader = ThreadDataLoader(Dataset([0], device), num_workers=1, use_thread_workers=True)
    assert ["worker" in text for (text,) in loader] == [False]


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, first, second = (torch.device(name) for name in ("cpu", "cuda:0", "cuda:1"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert (computing_device(), computing_device("cpu")) == (cpu, cpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (computing_device(near=cpu), computing_device(near=second), computing_device("cpu")) == (first, second, cpu)
    for rank, device in (("1", second), ("2", first)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert computing_device("auto") == device
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: object())
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    assert computing_device("auto") == cpu


def test_records_name_the_device() -> None:
    assert {record["device"] for record in denoising_records(Denoise("tv")(MetaTensor(noisy_volume())))} == {"cpu"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_missing_gpu_is_said_in_one_line() -> None:
    with pytest.raises(RuntimeError, match="device='cuda:0' is not available on this machine; use device='cpu'"):
        DNAPriorDenoise(steps=STEPS, device="cuda:0")(noisy_volume())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -5}, "steps=-5 must be a whole number, at least 1"),
        ({"preset": "fastest"}, "preset='fastest' is unknown; choose one of default, fast, instant, best, paper"),
        ({"tv_weight": -1.0}, "tv_weight=-1.0 must be a finite number, 0 or more"),
        ({"slice_dim": 3}, "slice_dim=3 is no spatial axis; choose one of -3 to 2"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number, at least 1"),
        ({"rician": "false"}, "rician='false' must be True or False"),
        ({"residual": 1}, "residual=1 must be True or False"),
        ({"device": "gpu"}, "device='gpu' is not supported; choose 'auto' .*, 'cpu' or 'cuda'"),
        ({"device": "mps"}, "device='mps' is not supported; choose 'auto'"),
        ({"device": None}, "device='None' is not supported; choose 'auto'"),
        ({"seed": -1}, "seed=-1 must be a whole number, at least 0"),
    ],
)
@pytest.mark.parametrize(
    "form", [DNAPriorDenoise, lambda **options: DNAPriorDenoised("image", **options)], ids=["array", "dictionary"]
)
def test_bad_parameters_are_refused_by_the_constructor(form: Callable, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        form(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((1, 0, 4), np.float32), ValueError, "is empty"),
        (np.zeros((1, 4, 4), np.complex64), TypeError, "is complex"),
        (np.zeros((1, 4, 4), bool), TypeError, "is a mask"),
        (np.zeros((4, 4), np.float32), ValueError, "EnsureChannelFirst"),
    ],
    ids=["empty", "complex", "bool", "dimensions"],
)
def test_bad_images_are_refused(image: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DNAPriorDenoise()(image)


def load(*slices: np.ndarray, folder: Path, spacing: tuple[float, ...] = (1, 1, 1)) -> list[MetaTensor]:
    """Images as LoadImage and EnsureChannelFirst give them."""
    paths = [folder / f"{number}.nii" for number in range(len(slices))]
    for path, values in zip(paths, slices, strict=True):
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.diag([*spacing, 1])), path)
    chain = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    return [chain({"image": path})["image"] for path in paths]


def test_a_batch_is_not_taken_for_a_volume(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(100, 10, (4, 20, 24))
    images = load(*noise, folder=tmp_path)
    (batch,) = DataLoader(images, batch_size=4)
    for form in (Denoise("median"), lambda image: Denoised("image", "median")({"image": image})):
        with pytest.raises(
            ValueError, match=r"image.shape=\(4, 1, 20, 24\) is a batch; put the transform before"
        ) as caught:
            form(batch)
        assert "\n" not in str(caught.value)
    for plain in (torch.stack([bits(image) for image in images]), noise[:, None]):
        with pytest.raises(ValueError, match="slices of 1×20 pixels; if this is a batch .* set slice_dim=0"):
            Denoise("median")(plain)
    denoised = IDDPInferer()(inputs=batch, network=load_weights().network)
    assert torch.equal(denoised[2].as_tensor(), IDDPDenoise()(images[2]).as_tensor())


def test_one_slice_across_is_denoised_where_the_axis_is_given(tmp_path: Path) -> None:
    (image,) = load(np.random.default_rng(0).normal(100, 10, (1, 20, 24)), folder=tmp_path)
    with pytest.raises(ValueError, match="set slice_dim=0"):
        Denoise("median")(image)
    assert len(denoising_records(Denoise("median", slice_dim=0)(image))) == 1
    (thick,) = load(image[0].numpy(), folder=tmp_path, spacing=(4, 1, 1))
    assert len(denoising_records(Denoise("median")(thick))) == 1


def test_a_lost_channel_axis_is_refused(tmp_path: Path) -> None:
    (image,) = load(np.random.default_rng(0).normal(100, 10, (20, 24, 12)), folder=tmp_path)
    lost = LoadImaged("image")({"image": tmp_path / "0.nii"})["image"]
    for refuse in (Denoise("median"), lambda one: IDDPInferer()(inputs=one[None], network=load_weights().network)):
        with pytest.raises(ValueError, match="has no channel axis, its metadata say; put EnsureChannelFirstd before"):
            refuse(lost)
    assert len(denoising_records(Denoise("median")(image))) == 12
    assert len(denoising_records(Denoise("median")(image[..., 3]))) == 1  # a slice of it has a channel


def logged(caplog: pytest.LogCaptureFixture, image: Any, **options: Any) -> tuple[str, str]:
    """The level and the text of the one line that a transform logs."""
    with caplog.at_level("INFO", logger="monai_dnaprior"):
        caplog.clear()
        Denoise("median", **options)(image)
    (record,) = caplog.records
    return record.levelname, record.getMessage()


@pytest.mark.parametrize(
    ("shape", "options", "doubt"),
    [((12, 20, 24), {}, "12 channels are denoised together"), ((5, 8, 9, 3), {}, "5 channels are denoised together"),
     ((5, 8, 9, 3), {"channel_wise": True}, ""), ((4, 3, 20, 24), {}, "slices of 3×20 pixels; if this is a batch"),
     ((3, 8, 9), {}, ""), ((4, 8, 9, 3), {}, "")],
)  # fmt: skip
def test_what_is_doubtful_about_axes_is_logged(
    caplog: pytest.LogCaptureFixture, shape: tuple[int, ...], options: dict, doubt: str
) -> None:
    level, text = logged(caplog, noisy_volume(*shape), **options)
    assert level == ("WARNING" if doubt else "INFO")
    assert doubt in text


def test_a_volume_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    volume = np.random.default_rng(0).normal(100, 10, (20, 3, 24))
    volume[:, 1] = 7
    (image,) = load(volume, folder=tmp_path, spacing=(1, 5, 1))
    level, text = logged(caplog, image)
    assert level == "INFO"
    assert text.startswith(
        f"{tmp_path / '0.nii'}: 2 of 3 slices denoised; 1 left alone: nothing to fit; cut along axis 1"
    )
    assert " on cpu" in text
    level, text = logged(caplog, image, slice_dim=-1)
    assert level == "WARNING"
    assert "warning: slice_dim=-1 cuts across thick slices" in text


def test_missing_keys_raise_unless_allowed() -> None:
    with pytest.raises(KeyError, match="image"):
        DNAPriorDenoised("image")({"label": 1})
    assert DNAPriorDenoised("image", allow_missing_keys=True)({"label": 1}) == {"label": 1}


def test_chain_on_a_real_scan(shared_data: Path) -> None:
    path = sorted((shared_data / "volumes/Task04_Hippocampus/imagesTr").glob("*.nii.gz"))[0]
    image = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])({"image": path})["image"][..., :4]
    output = DNAPriorDenoise(steps=STEPS)(image)
    assert torch.equal(output.affine, image.affine)
    assert len(denoising_records(output)) == 4


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g"])
@pytest.mark.parametrize("order", "<>")
def test_arrays_of_every_real_type_and_byte_order_are_denoised(kind: str, order: str) -> None:
    """Read-only too, as arrays are that lie in a file."""
    plain = np.random.default_rng(0).integers(1, 100, (1, 12, 10, 2))
    array = plain.astype(np.dtype(kind).newbyteorder(order))
    array.flags.writeable = False
    assert np.array_equal(Denoise("median")(array), Denoise("median")(plain))
    denoised = Denoised("image", "median")({"image": array})["image"]
    assert denoised.dtype == np.float32
    assert np.array_equal(denoised, Denoise("median")(plain))
