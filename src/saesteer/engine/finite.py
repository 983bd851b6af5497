"""Numbers that leave a forward are finite, or what needs them stops and says which row, in which format and where.

A processor that computes wrongly at times and a format that is too narrow for a model both give NaN and infinities. Hidden states, logits
and losses are checked where they leave the model (models.hidden_states, head.raw_logits); sampled tokens row by row (engine.sampling).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from saesteer.core.errors import NotFiniteError, SettingsError
from saesteer.core.files import safetensors_fault
from saesteer.engine.quantised import tensors_in

_TOO_NARROW = "use float32, or bfloat16 on a GPU"


def fault(what: str, like: Tensor, otherwise: str = "run again; where the same row is refused again, steer it less or use float32") -> str:
    """Why numbers cannot be used, and what to do; `like` is a weight that they were made with."""
    dtype = str(like.dtype).removeprefix("torch.")
    return f"{what} not finite in {dtype} on {like.device.type}: {_TOO_NARROW if like.dtype == torch.float16 else otherwise}"


def _sum_is_finite(values: Tensor) -> bool:
    """Whether all are surely finite: a sum is not, where one of them is not. It takes a tenth of the time of a look at each."""
    return not bool(~values.sum(dtype=torch.promote_types(values.dtype, torch.float32)).isfinite())


def check_finite(what: str, values: Float[Tensor, "row *any"], like: Tensor) -> None:
    """Refuse numbers that are not all finite, by the first such row."""
    values = values.detach()
    if _sum_is_finite(values):
        return
    bad = (~values.isfinite()).reshape(len(values), -1).any(dim=1).nonzero()
    if len(bad):
        raise NotFiniteError(fault(what, like), int(bad[0]))


def check_logits(logits: Float[Tensor, "row vocab"], like: Tensor) -> None:
    """Refuse logits of which some are NaN or infinite; those of tokens that can never come may be -inf."""
    if not _sum_is_finite(logits.detach()):
        check_finite("logits are", logits.detach().amax(dim=-1), like)


def check_weights(what: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse weights of which some are not finite, by their tensor's name."""
    for name, tensor in tensors:
        for part in tensors_in(tensor):
            if part.is_floating_point() and not _sum_is_finite(part) and bool((~part.isfinite()).any()):
                raise SettingsError(fault(f"{what}: tensor {name} is", part, "fetch or train it again"))


def check_files(files: Iterable[Path]) -> None:
    """Refuse safetensors files with weights that are not finite; a tensor at a time is in memory. Unreadable ones are refused elsewhere."""
    for file in files:
        if safetensors_fault(file) is None:
            with safe_open(file, framework="pt") as opened:
                check_weights(str(file), ((name, opened.get_tensor(name).float()) for name in opened.keys()))  # noqa: SIM118


@contextmanager
def rows_named(name: str | Callable[[int], str]) -> Iterator[None]:
    """Within the context, a refusal begins with its row's name, or what its place among those that are computed together is called."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(f"{name if isinstance(name, str) else name(error.row)}: {error}", error.row) from error
