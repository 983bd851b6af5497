"""GPUs that are only pretended, to find on a machine without one what would fail on one, and what would make it wait.

    with pretended_gpu(free_bytes=2**34) as events:  # Counter of (what, file:line): copies between the devices, waits for the GPU
        lm = load_language_model(folder, "bfloat16", "cuda")

In a test, or around the `yield` of a pytest fixture. Inside, "cuda" is a device, or `n_gpus` of them: its tensors are `Pretended`, say on
which they are, and hold their numbers in a CPU tensor, `.raw`. Code takes its branches for CUDA, autograd included; numbers are a CPU's.
Refused as on a GPU: operations on tensors of two devices (a CPU tensor without dimensions, or one used as an index, may stand beside),
`.numpy()`, products of integers or of two types, `out_dtype` where CUDA has none. Not shown: a GPU's rounding, kernels' limits, time,
streams.

With `contents`, tensors have shapes but no numbers, so that a model of any size costs nothing: what is copied from the GPU is what
`contents` makes of its shape. `WORK` then has each operation's FLOPs and bytes, and the most bytes that were held at once.

How: a wrapper subclass on the device "meta" (which autograd takes in a build without CUDA) whose Python attributes say cuda, and modes
for calls without such a tensor (factories, copies to the GPU). Modes hold for the thread that enters them.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

GPUS = [torch.device("cuda", number) for number in range(4)]
DEVICE = GPUS[0]
NAMES = {"cuda": DEVICE, torch.device("cuda"): DEVICE}
NAMES |= {name: gpu for number, gpu in enumerate(GPUS) for name in (number, f"cuda:{number}", gpu)}
aten = torch.ops.aten
INDEXING = {aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index_put}
SCALAR_BESIDE = {aten.where, aten.masked_fill, aten.masked_fill_, aten.fill, aten.fill_}
PRODUCTS = {aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.addmv, aten.mv, aten.dot}
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.equal, aten.repeat_interleave}
EVENTS: Counter[tuple[str, str]] = Counter()
Contents = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Work:
    """What was computed without numbers."""

    contents: Contents | None = None
    gpu: torch.device = DEVICE  # of the last operation
    operations: list[tuple[str, float, int, int]] = field(default_factory=list)
    """Name, FLOPs, bytes read and written, bytes of a number; views are none."""
    storages: Counter[int] = field(default_factory=Counter)
    held: int = 0
    peak: int = 0

    def hold(self, tensor: "Pretended") -> None:
        """Count a storage's bytes as long as a tensor has it."""
        storage = tensor.raw.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if not self.storages[key]:
            self.held += size
            self.peak = max(self.peak, self.held)
        self.storages[key] += 1
        tensor.share = _Share(self, key, size)

    def let_go(self, key: int, size: int) -> None:
        self.storages[key] -= 1
        if not self.storages[key]:
            del self.storages[key]
            self.held -= size

    def note(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """An operation on raw tensors, unless its result is a view of one of them."""
        into = [x for x in tree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        out = [x for x in tree.tree_leaves(result) if isinstance(x, torch.Tensor)]
        read = {x.untyped_storage()._cdata for x in into}
        in_place = func._schema.name.endswith("_")
        if out and not in_place and all(x.untyped_storage()._cdata in read for x in out):
            return
        packet = func.overloadpacket
        flops = flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else 0
        narrow = min((x.element_size() for x in into if x.is_floating_point()), default=4)
        self.operations.append((packet.__name__, flops, sum(x.numel() * x.element_size() for x in (*into, *out)), narrow))


@dataclass
class _Share:
    """A tensor's share of a storage, given up with the tensor. (Not a weak reference: tensors that have one cannot be swapped.)"""

    work: Work
    key: int
    size: int

    def __del__(self) -> None:
        self.work.let_go(self.key, self.size)


WORK = Work()


class Pretended(torch.Tensor):
    """A tensor of the pretended GPU."""

    raw: torch.Tensor
    share: _Share
    gpu: torch.device
    device = property(lambda self: self.gpu)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: torch.Tensor, gpu: torch.device = DEVICE) -> "Pretended":
        layout = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, raw.shape, **layout, device="meta", requires_grad=False)
        made.raw, made.gpu = raw, gpu
        if WORK.contents:
            WORK.hold(made)
        return made

    def _set_data(self, new: torch.Tensor) -> None:
        assert isinstance(new, Pretended) and (new.shape, new.dtype) == (self.shape, self.dtype)  # noqa: PT018
        self.raw, self.gpu = new.raw, new.gpu

    data = property(lambda self: self.detach(), _set_data)

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.raw!r})"

    def numpy(self, *_: Any, **__: Any) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __getitem__(self, index: Any) -> torch.Tensor:
        return super().__getitem__(_as_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_as_tensors(index), value)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _as_tensors(index: Any) -> Any:
    """Lists and arrays in an index as CPU tensors: torch would make them on "meta", without their numbers."""
    if isinstance(index, tuple):
        return tuple(_as_tensors(part) for part in index)
    if not isinstance(index, list | np.ndarray):
        return index
    _note("copied to the GPU, waiting")
    return torch.as_tensor(index) if len(index) else torch.zeros(0, dtype=torch.long)


def _note(what: str) -> None:
    """Count an event at the innermost line outside torch, jaxtyping and this file."""
    frame: Any = sys._getframe(1)
    while frame.f_code.co_filename == __file__ or {"torch", "jaxtyping"} & set(frame.f_code.co_filename.split("/")):
        frame = frame.f_back
    EVENTS[what, f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"] += 1


def _note_waits(func: Any, args: Any, to_gpu: bool, kwargs: dict[str, Any]) -> None:
    """Count what copies between the devices, or makes the host wait for the GPU."""
    packet = func.overloadpacket
    masks = packet in INDEXING and any(isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    if masks or packet in WAITS:
        _note(f"waited for ({packet.__name__})")
    if packet in (aten._to_copy, aten.copy_):
        source, arrives = (args[0], to_gpu) if packet is aten._to_copy else (args[1], isinstance(args[0], Pretended))
        if isinstance(source, Pretended) != arrives:  # a copy within the GPU makes nobody wait
            _note(("copied to the GPU" if arrives else "copied from the GPU") + ("" if kwargs.get("non_blocking") else ", waiting"))


def _refuse(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    """What CUDA would refuse."""
    packet = func.overloadpacket
    beside = [x for x in tensors if not isinstance(x, Pretended)]
    if len(beside) == len(tensors) or packet in (aten.copy_, aten._to_copy):
        return
    gpus = {x.gpu for x in tensors if isinstance(x, Pretended) and x.dim()}
    if len(gpus) > 1:
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but found {sorted(map(str, gpus))}")
    if packet in INDEXING and isinstance(args[0], Pretended):
        beside = [x for x in args[2:3] if isinstance(x, torch.Tensor) and not isinstance(x, Pretended)]  # the values put
    if packet in INDEXING | SCALAR_BESIDE or torch.Tag.pointwise in func.tags:
        beside = [x for x in beside if x.dim()]
    if beside:
        raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but found cuda:0 and cpu, {[x.shape for x in beside]}")
    types = {x.dtype for x in tensors}
    if packet in PRODUCTS and (len(types) > 1 or not all(dtype.is_floating_point or dtype.is_complex for dtype in types)):
        raise RuntimeError(f"{func}: not on cuda for {types}")
    if func is aten.mm.dtype and (args[2] not in types and (args[2] != torch.float32 or not types <= {torch.float16, torch.bfloat16})):
        raise RuntimeError("out_dtype must be the same as input dtype or fp32 for fp16/bf16 inputs")


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation, on the device that its arguments or its keyword `device` say."""
    flat, spec = tree.tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    given = {id(x.raw): x for x in tensors if isinstance(x, Pretended)}
    wanted = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    # Operations made of others ask for "meta", where the wrappers are; so does transformers, by a default, while it builds a model.
    to_gpu = wanted == "cuda" or (wanted == "meta" and (bool(given) or torch.get_default_device().type != "meta"))
    if not given and not to_gpu:
        return func(*args, **kwargs)
    _refuse(func, args, tensors)
    _note_waits(func, args, to_gpu or wanted is None, kwargs)
    if WORK.contents and func is aten._local_scalar_dense.default:
        return WORK.contents(args[0]).item()
    named = NAMES.get(kwargs.get("device")) if wanted == "cuda" else None
    # A mask that attention makes inside an operation has no tensor beside it: it belongs where the last operation was.
    gpu = named or next((x.gpu for x in given.values() if x.dim()), next((x.gpu for x in given.values()), WORK.gpu))
    WORK.gpu = gpu
    inside = [_inside(x) for x in flat]
    raw_args, raw_kwargs = tree.tree_unflatten(inside, spec)
    raw_kwargs.pop("pin_memory", None)
    if func is aten.mm.dtype:
        result = raw_args[0].to(raw_args[2]) @ raw_args[1].to(raw_args[2])  # which CPUs have not
    elif func is aten._to_copy.default and to_gpu and given and args[0].gpu == gpu and raw_kwargs.get("dtype") in (None, args[0].dtype):
        result = raw_args[0].view_as(raw_args[0])  # there already: on a GPU `to` gives the tensor itself
    else:
        result = func(*raw_args, **raw_kwargs)
    if any(x.shape != x.raw.shape for x in given.values()):
        raise NotImplementedError(f"pretended GPU: {func} changes a shape in place")
    to_cpu = (wanted and not to_gpu) or (func is aten.copy_.default and not isinstance(args[0], Pretended))
    if WORK.contents:
        WORK.note(func, raw_args, raw_kwargs, result)
        if to_cpu:
            result = WORK.contents(result) if wanted else args[0].copy_(WORK.contents(result))
    if to_cpu:
        return result
    return tree.tree_map_only(torch.Tensor, lambda x: given.get(id(x)) if id(x) in given else Pretended(x, gpu), result)


def _inside(x: Any) -> Any:
    """An argument as the operation on raw tensors is given it."""
    if isinstance(x, Pretended):
        return x.raw
    if isinstance(x, torch.device):
        return torch.device("meta" if WORK.contents else "cpu")
    return torch.empty_like(x, device="meta") if WORK.contents and isinstance(x, torch.Tensor) else x


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Indexed(TorchFunctionMode):
    """Gives the device "cuda" its index, which torch would otherwise ask CUDA's library for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.device and isinstance(args[0], int):
            return NAMES[args[0]]
        if func is torch.Tensor.cuda:
            return args[0].to(NAMES[args[1]] if len(args) > 1 and args[1] is not None else DEVICE)
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], str | int | torch.device):
            args = (args[0], NAMES.get(args[1], args[1]), *args[2:])
        if kwargs.get("device") is None or kwargs["device"] not in NAMES:
            return func(*args, **kwargs)
        gpu = NAMES[kwargs["device"]]
        if func not in (torch.tensor, torch.as_tensor, torch.asarray):
            return func(*args, **{**kwargs, "device": gpu})
        leaf = kwargs.pop("requires_grad", False)  # these copy where no mode sees it
        return func(*args, **{**kwargs, "device": None}).to(gpu).requires_grad_(leaf)


@contextmanager
def pretended_gpu(free_bytes: int = 2**37, contents: Contents | None = None, n_gpus: int = 1) -> Iterator[Counter[tuple[str, str]]]:
    """Within the context "cuda" is a device, or several, each with so much free memory; gives the counter of events."""
    WORK.__init__(contents)  # type: ignore[misc]
    answers = {"device_count": n_gpus, "current_device": 0, "is_initialized": True, "mem_get_info": (free_bytes, free_bytes)}
    answers |= {"memory_reserved": 0, "memory_allocated": 0, "get_rng_state": torch.empty(0)}
    answers |= dict.fromkeys(("_lazy_init", "empty_cache", "set_rng_state", "manual_seed_all"))
    swapping = torch.__future__.set_swap_module_params_on_conversion  # else Module.to sets .data in C++, which leaves `.raw` behind
    EVENTS.clear()
    with ExitStack() as patches:
        patches.callback(swapping, torch.__future__.get_swap_module_params_on_conversion())
        swapping(True)
        for name, answer in answers.items():
            patches.enter_context(mock.patch.object(torch.cuda, name, lambda *_, answer=answer, **__: answer))
        patches.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda self, *_: self))
        patches.enter_context(mock.patch.dict(os.environ, HF_DEACTIVATE_ASYNC_LOAD="1"))  # other threads have no modes
        patches.enter_context(_Indexed())
        patches.enter_context(_Factories())
        yield EVENTS
