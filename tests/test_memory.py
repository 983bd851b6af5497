"""Free memory, batches from it, and going on with fewer rows: by hand, and with faults put in."""

import logging
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
import test_invariance
import torch
from engine_models import model_and_sae
from polars.testing import assert_frame_equal

from saesteer.engine import activations, generate, logit_lens, memory, output_score, perplexity
from saesteer.engine.activations import sparse_activations
from saesteer.engine.memory import (
    GIB,
    Halving,
    control_group_bytes,
    free_bytes,
    is_out_of_memory,
    rows_that_fit,
)

CPU = torch.device("cpu")


def activations_step() -> test_invariance.Step:
    """Texts of so few lengths that more than the fewest go together."""
    lm, sae = model_and_sae("gemma2", 1)
    ids = [[1, *(40 + (i * 7 + place) % 100 for place in range(i % 30))] for i in range(80)]
    texts = pl.DataFrame({"text_id": [f"{i:03d}" for i in range(80)], "token_ids": ids})

    def run(places: list[int], _batch: int | None) -> pl.DataFrame:
        with test_invariance.at_a_time(activations, 64):
            return pl.concat(sparse_activations(lm, {1: sae}, texts[places])).sort("text_id")

    return test_invariance.Step(80, run)


STEPS = (
    partial(test_invariance.output_score_step, "gemma2"),
    partial(test_invariance.sweep_step, "gemma2", n=120),
    partial(test_invariance.perplexity_step, "gemma2"),
    test_invariance.lens_step,
    activations_step,
)
FULL = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


def test_what_running_out_of_memory_looks_like() -> None:
    for allocate in (lambda: torch.empty(2**45), lambda: bytearray(2**60)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_a_batch_is_a_power_of_two_within_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 1000 * 2**20)
    sizes = [rows_that_fit(mib * 2**20, CPU, (512, 4096)) for mib in (0, 1, 2, 3, 7, 8, 15, 16, 900)]
    assert sizes == [512, 256, 128, 128, 64, 32, 32, 32, 32]  # 500 / 3 is 166, 500 / 7 is 71, 500 / 8 is 62
    assert rows_that_fit(1, torch.device("cuda"), (512, 4096)) == 4096


def test_where_no_full_tile_fits_one_smaller_tile_is_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row keeps 3 MiB, a forward needs 2 MiB more for each row: 5 MiB where all rows are in one."""
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 8000 * 2**20)
    sizes = [rows_that_fit(3 * 2**20, torch.device("cuda"), (512, 4096), 2 * 2**20, tile) for tile in (32, 512, 1024, 2048)]
    assert sizes == [1024, 512, 512, 512]  # 3936 / 3 is 1312, 2976 / 3 is 992; 1952 / 3 is 650, fewer than 1024, so 4000 / 5 is 800


def test_free_memory_is_the_least_of_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < free_bytes(CPU) <= psutil.virtual_memory().available * 1.1
    monkeypatch.setattr(memory, "control_group_bytes", lambda *_args: iter([3 * GIB, 2 * GIB]))
    assert free_bytes(CPU) == 2 * GIB
    used = psutil.Process().memory_info().vms
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (used + GIB, resource.RLIM_INFINITY))
    assert abs(free_bytes(CPU) - GIB) < GIB / 4
    monkeypatch.setattr(memory, "control_group_bytes", lambda *_args: iter([-5]))
    assert free_bytes(CPU) == 0


def test_control_groups_of_both_versions(tmp_path: Path) -> None:
    def group(folder: str, **files: str) -> None:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (tmp_path / folder / name.replace("__", ".")).write_text(text + "\n")

    group("job/step", memory__max="max", memory__current="70", memory__stat="anon 1\ninactive_file 20")
    group("job", memory__max="100", memory__current="70", memory__stat="anon 1\ninactive_file 20")
    group("memory/job", memory__limit_in_bytes="90", memory__usage_in_bytes="60", memory__stat="cache 1\ntotal_inactive_file 5")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/job/step\n")
    assert list(control_group_bytes(membership, tmp_path)) == [100 - 70 + 20]
    membership.write_text("5:cpu:/\n4:hugetlb,memory:/job\n")
    assert list(control_group_bytes(membership, tmp_path)) == [90 - 60 + 5]
    membership.write_text("0::/not/seen/from/in/here\n")
    assert list(control_group_bytes(membership, tmp_path)) == []
    assert list(control_group_bytes(tmp_path / "none", tmp_path)) == []


def _limited(most: int, seen: list[int]) -> Callable[[slice, int], list[int]]:
    def work(rows: slice, _batch: int) -> list[int]:
        seen.append(rows.stop - rows.start)
        if seen[-1] > most:
            raise RuntimeError(FULL)
        return list(range(rows.start, rows.stop))

    return work


def test_halving_goes_on_from_the_row_it_was_at_and_remembers(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []
    halving = Halving("sweep", CPU)
    with caplog.at_level(logging.WARNING, "saesteer"):
        parts = list(halving.over(1000, 512, _limited(100, seen)))
        assert [row for part in parts for row in part] == list(range(1000))
        assert seen == [512, 256, 128, *[64] * 15, 40]
        seen.clear()
        assert [row for part in halving.over(70, 512, _limited(100, seen)) for row in part] == list(range(70))
        assert seen == [64, 6]
    assert [record.getMessage() for record in caplog.records] == ["sweep: memory ran out; going on with 64 rows at a time, which fit"]


def test_an_error_when_even_the_fewest_rows_do_not_fit_and_other_errors_pass() -> None:
    seen: list[int] = []
    with pytest.raises(MemoryError, match=r"sweep: memory ran out even at 32 rows at a time, .* GiB free on cpu now.* more memory"):
        list(Halving("sweep", CPU).over(1000, 128, _limited(31, seen)))
    assert seen == [128, 64, 32]

    def broken(_rows: slice, _batch: int) -> None:
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        list(Halving("sweep", CPU).over(10, 10, broken))


def test_the_failed_attempts_tensors_are_gone_before_the_next() -> None:
    alive: list[int] = []

    class Big:
        def __init__(self) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    def work(rows: slice, _batch: int) -> int:
        assert not alive
        held = Big()
        if rows.stop - rows.start > 32:
            raise RuntimeError(FULL)
        del held
        return rows.start

    assert list(Halving("sweep", CPU).over(64, 64, work)) == [0, 32]


def _failing_above(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, n_rows: int, place: int) -> list[int]:
    """Let a function of a module run out of memory for more than `n_rows` rows in its argument number `place`."""
    real, failed = getattr(module, name), []

    def limited(*args: Any) -> Any:
        if len(args[place]) > n_rows:
            failed.append(len(args[place]))
            raise RuntimeError(FULL)
        return real(*args)

    monkeypatch.setattr(module, name, limited)
    return failed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "module", "name", "place", "above"),
    [
        (STEPS[0], output_score, "hidden_after_prompt", 3, 32),
        (STEPS[1], generate, "_start", 1, 40),
        (STEPS[2], perplexity, "_sums", 1, 33),
        (STEPS[3], logit_lens, "final_norm", 1, 40),
        (STEPS[4], activations, "readings", 1, 40),
    ],
)
def test_rows_are_bit_equal_when_memory_runs_out(
    make: Callable[[], test_invariance.Step], module: Any, name: str, place: int, above: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = make()
    whole = step.run(list(range(step.n)), None)
    failed = _failing_above(monkeypatch, module, name, above, place)
    assert_frame_equal(step.run(list(range(step.n)), None), whole, check_exact=True)
    assert failed


def test_a_batch_comes_from_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """With next to nothing free, every step takes the fewest rows at a time, and rows are the same."""
    steps = [make() for make in STEPS]
    whole = [step.run(list(range(step.n)), None) for step in steps]
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 1)
    for step, expected in zip(steps, whole, strict=True):
        assert_frame_equal(step.run(list(range(step.n)), None), expected, check_exact=True)
