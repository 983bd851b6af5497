"""How much memory is free, how many rows fit into it, and going on with fewer when it runs out.

A batch is a matter of speed only: rows come out the same whatever it is (to the bit on a CPU in float32), so it is chosen by what is free
when a job starts and halved when that was too much. For the same reason this module has no ALGORITHM_VERSION.
"""

import gc
import logging
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from saesteer.engine.models import MIN_ROWS, LanguageModel

SHARE = 0.5
"""Share of the free memory that a batch is planned for: estimates are rough, allocators waste some, and other programs may want theirs."""

GIB = 2**30

Result = TypeVar("Result")

log = logging.getLogger(__name__)


_GROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
"""Version of control groups -> files of a group's limit and use, and the entry of memory.stat that the kernel can reclaim at any time."""


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated: on a GPU what the driver has free and what PyTorch holds unused."""
    if device.type != "cuda":
        return free_host_bytes()
    held_unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + held_unused


def free_host_bytes() -> int:
    """The least of what the machine has available, what the process's address space may still grow by (`ulimit -v`), and what its control
    groups leave it (SLURM's --mem, a container's limit)."""
    limits = [psutil.virtual_memory().available]
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most != resource.RLIM_INFINITY:
        limits.append(most - psutil.Process().memory_info().vms)
    limits.extend(control_group_bytes(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))
    return max(0, min(limits))


def control_group_bytes(membership: Path, root: Path) -> Iterator[int]:
    """What each memory limit of the process's control groups, and of the groups above them, leaves (/proc/PID/cgroup, /sys/fs/cgroup;
    versions 1 and 2). Nothing where there are none."""
    for line in membership.read_text().splitlines() if membership.is_file() else []:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "memory" if controllers else root
        innermost = mount / group.lstrip("/")
        limit, used, reclaimable = _GROUP_FILES[1 if controllers else 2]
        for folder in [innermost, *innermost.parents][: len(innermost.parts) - len(mount.parts) + 1]:
            file = folder / limit
            if file.is_file() and (most := file.read_text().strip()) != "max":
                counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield int(most) - int((folder / used).read_text()) + int(counts.get(reclaimable, 0))


def rows_that_fit(row_bytes: int, device: torch.device, most: tuple[int, int], step: int = 0, tile: int = 0) -> int:
    """`rows_within` what is free, at most `most` (on a CPU, on a GPU)."""
    usual, free = most[device.type == "cuda"], free_bytes(device)
    rows = rows_within(free, row_bytes, usual, step, tile)
    if rows < usual:
        log.info("memory: %d rows at a time instead of %d, since %.2f GiB are free on %s", rows, usual, free / GIB, device.type)
    return rows


def rows_within(free: int, row_bytes: int, most: int, step: int = 0, tile: int = 0) -> int:
    """How many rows of `row_bytes` bytes to take together: a batch may have `SHARE` of the free bytes. At least `MIN_ROWS` and at most
    `most`, rounded down to a power of two so that shapes repeat. Where forwards have `tile` rows, each of these needs `step` bytes more;
    where not even one such tile fits, as many rows as fit into one smaller forward."""
    fitting = min(most, max(0, int(SHARE * free) - tile * step) // max(1, row_bytes))
    rows = max(MIN_ROWS, 2 ** (max(1, fitting).bit_length() - 1))
    return rows if rows >= tile else rows_within(free, row_bytes + step, most)


def forward_bytes(lm: LanguageModel, n_positions: int, n_cached: int = 0) -> int:
    """About the bytes that one row of a forward of `n_positions` after `n_cached` earlier ones needs at once, caches and logits apart: what
    one block's matrices put out, some copies of the residual, and attention weights, all in float32, as norms and softmaxes make it."""
    weights = [weight for weight in lm.blocks[0].parameters() if weight.ndim == 2]
    width = sum(max(weight.shape) for weight in weights) + 8 * lm.d_model
    heads = int(getattr(lm.model.config.get_text_config(decoder=True), "num_attention_heads", 1))
    seen = n_positions + n_cached
    return 4 * (n_positions * width + 4 * n_cached * lm.d_model + 3 * heads * n_positions * seen)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, of a GPU or of the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    texts = ("not enough memory", "can't allocate memory", "Cannot allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


class Halving:
    """Runs work on rows in batches, and halves the batch for good when memory runs out; one object a step, so that what one call learned
    holds for the next."""

    def __init__(self, what: str, device: torch.device, least: int = MIN_ROWS) -> None:
        self.what = what  # the step, for the log and the error
        self.device = device
        self.least = least
        self.divisor = 1  # of the batches asked for
        self.logged_divisor = 1

    def over(self, n_rows: int, batch: int, work: Callable[[slice, int], Result]) -> Iterator[Result]:
        """`work(rows, batch)` for one slice of up to `batch` rows after the other. A slice that does not fit is begun again with half as
        many rows; what came before it stays."""
        start = 0
        while start < n_rows:
            size = max(self.least, batch // self.divisor)
            part = slice(start, min(start + size, n_rows))
            if finished := self._attempt(part, size, work):
                start = part.stop
                yield finished[0]
            else:
                gc.collect()
                if torch.cuda.is_initialized():
                    torch.cuda.empty_cache()

    def _attempt(self, part: slice, size: int, work: Callable[[slice, int], Result]) -> tuple[Result] | None:
        """What `work` gives; None when memory ran out. Returns from the handler first, because its exception keeps the tensors alive."""
        try:
            result = work(part, size)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if size <= self.least:
                raise MemoryError(
                    f"{self.what}: memory ran out even at {size} rows at a time, the fewest possible ({free_bytes(self.device) / GIB:.2f}"
                    f" GiB free on {self.device.type} now). Give the job more memory (mem_mb of the rule, ulimit -v), run it on a larger"
                    " GPU, or there set the model's dtype to bfloat16; what is finished is kept"
                ) from error
            self.divisor *= 2
            return None
        if self.logged_divisor != self.divisor:
            self.logged_divisor = self.divisor
            log.warning("%s: memory ran out; going on with %d rows at a time, which fit", self.what, size)
        return (result,)
