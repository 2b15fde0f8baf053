"""A device that is pretended on the CPU: what would fail on a GPU fails here, and what would be slow there is counted.

:func:`install` makes ``device="pretended"`` known to a process that has taken no gradient yet, for good. The tensors of
the device are computed on the CPU, but

* an operation on tensors of both devices is refused (single numbers of the CPU, and indices, are not), and so are
  ``numpy()`` and a generator of the other device;
* a tensor of more bytes than ``WATCHED.largest`` is out of memory;
* ``WATCHED`` counts operations, waits of the host, and operations in double precision, the last two by their line in
  the package; what backward calls has no line.

Nothing is said of speed, of the order of sums, or of what a GPU's libraries cannot do.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import monai_dnaprior
from monai_dnaprior.fitting import devices, fit

NAME = "pretended"
PACKAGE = f"{Path(monai_dnaprior.__file__).parent}/"
HOST = torch.device("cpu")
FREE = {"detach", "alias", "lift_fresh", "_unsafe_view", "_reshape_alias", "is_pinned", "_has_same_storage_numel"}
WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "histc", "_unique2", "unique_dim",
    "unique_consecutive", "_linalg_check_errors",
}  # fmt: skip
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
COPIES = {"_to_copy", "copy_", "_copy_from"}
MADE = (
    "empty.memory_format", "empty_strided", "zeros", "ones", "full", "eye", "arange", "arange.start",
    "arange.start_step", "linspace", "rand", "randn", "rand.generator", "randn.generator",
)  # fmt: skip


class Watched:
    """What was seen since the last :meth:`reset`."""

    def __init__(self) -> None:
        self.largest = float("inf")
        self.reset()

    def reset(self) -> None:
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.doubles: Counter[str] = Counter()


WATCHED = Watched()


def line() -> str:
    """The innermost line of the package that led here, and its function."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE) and not code.co_name.startswith("<"):
            return f"{code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno} {code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside"


class DeviceTensor(torch.Tensor):
    """A tensor of the device, whose values are in ``host``."""

    host: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> DeviceTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls, host.size(), host.stride(), host.storage_offset(), dtype=host.dtype, device=torch.device(NAME, 0)
        )
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(function, args, kwargs or {})

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")
        return self.cpu().numpy()

    def as_subclass(self, cls: type) -> Any:
        """MetaTensors stay on the CPU."""
        return self.cpu().as_subclass(cls)

    def tolist(self) -> Any:
        WATCHED.waits[line()] += 1
        return self.host.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"{self.host!r} on {self.device}"


def compute(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Check and count an operation, and compute it on the CPU."""
    name = function._schema.name.removeprefix("aten::")
    given = [value for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)]
    if name in COPIES:
        return copy(function, name, args, kwargs)
    refuse(name, args, given)
    hosts = {id(tensor.host): tensor for tensor in given if isinstance(tensor, DeviceTensor)}
    target = kwargs.get("device")
    here = target is not None and torch.device(target).type == HOST.type
    on_host = {key: HOST if key == "device" and value is not None else value for key, value in kwargs.items()}
    made = function(*tree_map(host_of, args), **tree_map(host_of, on_host))
    note(name, function, [*given, *(value for value in tree_iter(made) if isinstance(value, torch.Tensor))], args)

    def back(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or here:
            return value
        same = hosts.get(id(value))
        if same is not None and (same.shape, same.stride()) != (value.shape, value.stride()):
            with torch._C._DisableTorchDispatch():  # in place, as squeeze_: the shape that is known outside follows
                same.as_strided_(value.shape, value.stride(), value.storage_offset())
        return same if same is not None else place(value)

    return tree_map(back, made)


def place(host: torch.Tensor) -> DeviceTensor:
    """A tensor of the CPU as one of the device, if there is memory for it."""
    if host.numel() * host.element_size() > WATCHED.largest:
        raise torch.OutOfMemoryError(f"{NAME} out of memory: {host.numel() * host.element_size()} bytes")
    return DeviceTensor(host.resolve_conj().resolve_neg())  # which a GPU need not know: values are the same


def host_of(value: Any) -> Any:
    return value.host if isinstance(value, DeviceTensor) else value


def copy(function: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """Within the device, or between it and the host, which waits then."""
    if name == "_to_copy":
        (source,), target = args, torch.device(kwargs.get("device") or NAME)
        if target.type == "meta":  # without values
            return function(host_of(source), **kwargs)
        made = function(host_of(source), **{**kwargs, "device": HOST})
        note_copy(source, made, to_device=target.type == NAME)
        return place(made) if target.type == NAME else made
    destination, source = args[:2] if name == "copy_" else args[1::-1]
    note_copy(source, destination, to_device=isinstance(destination, DeviceTensor))
    host_of(destination).copy_(host_of(source))
    return destination


def note_copy(source: torch.Tensor, destination: torch.Tensor, *, to_device: bool) -> None:
    if to_device and isinstance(source, DeviceTensor):
        note("copy_", None, [source, destination], ())
    else:
        WATCHED.waits[line()] += 1


def refuse(name: str, args: Any, given: list[torch.Tensor]) -> None:
    """Refuse what a GPU does not do."""
    others = [tensor for tensor in given if not isinstance(tensor, DeviceTensor) and tensor.ndim > 0]
    if name in INDEXED and isinstance(args[0], DeviceTensor):
        others = [tensor for tensor in others if tensor.dtype not in (torch.bool, torch.int64)]
    if others:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} has some of cpu and {NAME}.")


def note(name: str, function: Any, seen: list[torch.Tensor], args: Any) -> None:
    """Count an operation that takes time on a device: no view, and nothing that only takes memory."""
    if name in FREE or name.startswith(("empty", "new_empty")) or (function is not None and function.is_view):
        return
    WATCHED.operations[name] += 1
    masked = name in INDEXED and any(getattr(index, "dtype", None) == torch.bool for index in args[1])
    if name in WAITS or masked:
        WATCHED.waits[line()] += 1
    if any(tensor.dtype in (torch.float64, torch.complex128) and tensor.numel() > 1 for tensor in seen):
        WATCHED.doubles[line()] += 1


class DeviceGenerator(torch.Generator):
    """A generator that may be of the device."""

    def __new__(cls, device: Any = HOST) -> DeviceGenerator:
        made = super().__new__(cls, HOST)
        made.place = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place


class GeneratorsAtHome(TorchFunctionMode):
    """Refuse a generator of one device where something is drawn on the other."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        generator = (kwargs or {}).get("generator")
        if isinstance(generator, torch.Generator) and isinstance(made, torch.Tensor):
            here, there = made.device.type, generator.device.type
            if here != there:
                raise RuntimeError(f"Expected a '{here}' device type for generator but found '{there}'.")
        return made


def install() -> None:
    """Make the device known, to the package too."""
    _setup_privateuseone_for_python_backend(NAME)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    library = torch.library.Library("aten", "IMPL")
    for name in MADE:
        library.impl(name, made_on_the_device(name), "PrivateUse1")
    library.impl("_copy_from", copied, "PrivateUse1")
    for name, function in (("conv2d", torch.conv2d), ("conv_transpose2d.input", torch.conv_transpose2d)):
        library.impl(name, partial(convolve_rounded, function), "AutocastPrivateUse1")
    others = torch.library.Library("_", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    LIBRARIES.extend([library, others])
    torch.Generator = DeviceGenerator  # type: ignore[misc]
    module = getattr(torch, NAME)
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    devices.KINDS = (*devices.KINDS, NAME)  # type: ignore[assignment]
    fit.BATCHED_ON = (*fit.BATCHED_ON, NAME)  # type: ignore[assignment]
    GeneratorsAtHome().__enter__()


LIBRARIES: list[torch.library.Library] = []  # what they register goes with them


def made_on_the_device(name: str) -> Callable[..., torch.Tensor]:
    operation, _, overload = name.partition(".")
    function = getattr(getattr(torch.ops.aten, operation), overload or "default")

    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        host = function(*args, **{**kwargs, "device": HOST})
        note(operation, function, [host], args)
        return place(host)

    return make


def copied(source: torch.Tensor, destination: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    return copy(None, "_copy_from", (source, destination), {})


def convolve_rounded(function: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
    """What autocast makes of a convolution."""
    with torch.autocast(NAME, enabled=False):
        return function(*(value.bfloat16() if isinstance(value, torch.Tensor) else value for value in args))
