"""The part store: only missing rows are computed, nothing is lost, nothing damaged is read."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saesteer.core import store
from saesteer.core.machine import process_table
from saesteer.core.store import StoreError, WantedRows, complete, read_manifest, read_rows, unnamed_parts
from saesteer.core.tables import TableError
from saesteer.steps.output_score import OUTPUT_SCORE

LAYER = 5


def wanted(features, version: int = 1) -> WantedRows:
    return WantedRows(LAYER, [pl.DataFrame({"feature": list(features)})], {"algorithm_version": version})


def rows_of(keys: pl.DataFrame) -> pl.DataFrame:
    """What a deterministic step would compute for the keys."""
    score = (pl.col("feature").cast(pl.Float64) / 1024).alias("output_score")
    return keys.with_columns(
        score, min_rank=pl.lit(0, pl.UInt32), max_prob=pl.lit(0.5), delta_token_confidence=pl.lit(0.1), a_max=pl.lit(1.0)
    )


class Step:
    """A step that counts the rows it computes, and can fail after some of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.computed = folder, []

    def run(self, features, fail_after: int | None = None, version: int = 1) -> int:
        def compute(missing):
            for number, row in enumerate(missing.iter_slices(1)):
                if fail_after is not None and number >= fail_after:
                    raise RuntimeError("the card fell off the bus")
                self.computed.append(row["feature"][0])
                yield rows_of(row)

        return complete(self.folder, OUTPUT_SCORE, [wanted(features, version)], compute, self.manifest)

    @property
    def manifest(self) -> Path:
        return self.folder / "layers_05-05.json"

    def parts(self) -> list[Path]:
        return sorted(self.folder.glob("*/layer_05/*.parquet"))

    def read(self) -> pl.DataFrame:
        return read_rows(OUTPUT_SCORE, [self.manifest])


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step(tmp_path / "output_score")


def test_second_run_computes_nothing_and_changes_no_byte(step: Step) -> None:
    step.run([3, 1, 2])
    before = {path: path.read_bytes() for path in step.folder.rglob("*.*")}
    assert step.run([3, 1, 2]) == 0
    assert {path: path.read_bytes() for path in step.folder.rglob("*.*")} == before


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sets(st.integers(0, 30), min_size=1, max_size=12), st.none() | st.integers(0, 5)), min_size=1, max_size=6))
def test_any_history_of_changes_and_failures_gives_the_same_rows(tmp_path_factory: pytest.TempPathFactory, history) -> None:
    step = Step(tmp_path_factory.mktemp("store"))
    for features, fail_after in history:
        try:
            step.run(sorted(features), fail_after)
        except RuntimeError:
            step.run(sorted(features))
    features = sorted(history[-1][0])
    assert len(step.computed) == len(set(step.computed)), "a row was computed twice"
    keys = pl.DataFrame({"layer": [LAYER] * len(features), "feature": features}, schema=OUTPUT_SCORE.key_schema)
    assert step.read().equals(rows_of(keys))


def test_failure_keeps_finished_rows(step: Step) -> None:
    with pytest.raises(RuntimeError, match="fell off"):
        step.run(range(10), fail_after=4)
    assert not step.manifest.exists()
    step.computed.clear()
    assert step.run(range(10)) == 6
    assert step.computed == [4, 5, 6, 7, 8, 9]


def test_new_algorithm_version_computes_again_and_keeps_the_old_parts(step: Step) -> None:
    step.run([1, 2])
    old = step.parts()
    assert step.run([1, 2], version=2) == 2
    assert set(old) < set(step.parts())
    assert unnamed_parts(step.folder, [step.manifest]) == sorted([*old, old[0].parents[1] / "fingerprint.json"])


@pytest.mark.parametrize(
    "damage",
    [
        "truncated",
        "one bit flipped",
        "replaced by another sound file",
    ],
)
def test_damaged_part_is_set_aside_and_computed_again(step: Step, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    step.run([1, 2, 3])
    before = step.read()
    (part,) = step.parts()
    data = part.read_bytes()
    other = {"truncated": data[:-7], "one bit flipped": data[:40] + bytes([data[40] ^ 1]) + data[41:]}
    if damage in other:
        part.write_bytes(other[damage])
    else:
        rows_of(wanted([1, 2, 3]).keys(OUTPUT_SCORE)).with_columns(output_score=pl.lit(0.9)).write_parquet(part)
    with pytest.raises(StoreError, match=part.name):
        step.read()
    assert step.run([1, 2, 3]) == 3
    assert step.read().equals(before)
    assert part.name in caplog.text
    assert list(step.folder.rglob("*.corrupt"))


@pytest.mark.parametrize(("features", "of_twin"), [([1], [1]), ([1, 2], [2, 3])])
def test_of_two_parts_with_a_key_the_first_by_name_serves(step: Step, features: list[int], of_twin: list[int]) -> None:
    step.run(features)
    (part,) = step.parts()
    twin = rows_of(wanted(of_twin).keys(OUTPUT_SCORE)).with_columns(output_score=pl.lit(0.75))
    added = store.write_part(part.parent, twin)
    every = sorted({*features, *of_twin})
    assert step.run(every) == 0
    twin_is_first = added.name < part.name
    by_twin = set(of_twin) if twin_is_first else set(of_twin) - set(features)
    assert step.read()["output_score"].to_list() == [0.75 if feature in by_twin else feature / 1024 for feature in every]
    serving = [Path(entry["path"]).name for entry in read_manifest(step.manifest)["layers"]["5"]["parts"]]
    assert serving == sorted({part.name, added.name} if features != of_twin else {min(part.name, added.name)})


def test_missing_part_is_named(step: Step) -> None:
    step.run([1, 2])
    (part,) = step.parts()
    part.unlink()
    with pytest.raises(StoreError, match=f"{part.name} is missing"):
        step.read()


def test_rows_that_break_the_schema_are_refused(step: Step) -> None:
    def compute(missing):
        yield rows_of(missing).with_columns(output_score=pl.lit(float("nan")))

    with pytest.raises(TableError, match="column output_score is NaN"):
        complete(step.folder, OUTPUT_SCORE, [wanted([1])], compute, step.manifest)
    assert not step.parts()


def test_step_that_skips_a_key_is_an_error(step: Step) -> None:
    with pytest.raises(StoreError, match=r"1 wanted keys were not computed.*'feature': 2"):
        complete(step.folder, OUTPUT_SCORE, [wanted([1, 2])], lambda missing: [rows_of(missing.head(1))], step.manifest)


def test_fingerprint_is_spelt_out_beside_the_parts(step: Step) -> None:
    step.run([1])
    (path,) = step.folder.glob("*/fingerprint.json")
    assert '"algorithm_version": 1' in path.read_text()
    assert path.parent.name == wanted([1]).fingerprint_digest


def test_layers_in_turn_go_to_parts_of_their_own(tmp_path: Path) -> None:
    wants = [WantedRows(layer, [pl.DataFrame({"feature": [1, 2]})], {}) for layer in (0, 1)]

    def compute(missing):
        for feature in (1, 2):
            for layer in (0, 1):
                yield rows_of(missing.filter((pl.col("layer") == layer) & (pl.col("feature") == feature)))

    complete(tmp_path, OUTPUT_SCORE, wants, compute, tmp_path / "m.json")
    assert [part.parent.name for part in sorted(tmp_path.glob("*/*/*.parquet"))] == ["layer_00", "layer_01"]


def test_a_part_that_another_job_writes_in_the_meantime_is_not_set_aside(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs with shares of a layer's features write into one folder."""
    step.run([1])
    sound_parts = store.sound_parts

    def and_then_another_writes(folder: Path) -> list[Path]:
        parts = sound_parts(folder)
        store.write_part(folder, rows_of(wanted([7]).keys(OUTPUT_SCORE)))
        return parts

    monkeypatch.setattr(store, "sound_parts", and_then_another_writes)
    step.run([2])
    assert not list(step.folder.rglob("*.corrupt"))


def test_rows_before_one_that_cannot_be_stored_are_kept(step: Step) -> None:
    def compute(missing: pl.DataFrame):
        for row in missing.iter_slices(1):
            yield rows_of(row).with_columns(output_score=pl.when(pl.col("feature") == 3).then(pl.lit(float("nan"))).otherwise(0.5))

    with pytest.raises(TableError, match="output_score is NaN or infinite at .*'feature': 3"):
        complete(step.folder, OUTPUT_SCORE, [wanted([1, 2, 3])], compute, step.manifest)
    assert step.run([1, 2, 3]) == 1


def test_full_disk_names_the_problem_and_loses_nothing(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file-size limit makes the kernel refuse the write, as a full disk does."""
    program = textwrap.dedent(f"""
        import resource, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_store import Step
        step = Step(Path({str(step.folder)!r}))
        step.run([1, 2, 3])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        step.run(range(50))
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the disk is full: free some space and run the same command again; what is finished is kept" in done.stderr
    assert step.read()["feature"].to_list() == [1, 2, 3]
    assert not list(step.folder.rglob("*.partial"))


def test_temporary_files_of_killed_processes_are_cleared_away_and_those_of_live_ones_stay(step: Step) -> None:
    step.run([1])
    (part,) = step.parts()
    killed = subprocess.Popen([sys.executable, "-c", "pass"])
    killed.wait()
    here = process_table()
    of_dead, of_live, of_other = (f"{writer}.abc.partial" for writer in (f"{here}-{killed.pid}", f"{here}-{os.getpid()}", "elsewhere-1"))
    left = [part.parent / f".{'0' * 64}.parquet.{of_dead}", step.folder / f".{step.manifest.name}.{of_dead}"]
    live = [part.parent / f".{'1' * 64}.parquet.{of_live}", part.parent / f".{'2' * 64}.parquet.{of_other}"]
    for path in (*left, *live):
        path.write_bytes(b"half")
    step.run([1, 2])
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in live)
    assert step.read()["feature"].to_list() == [1, 2]
