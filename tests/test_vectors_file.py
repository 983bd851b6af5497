"""Files of vectors, read and written here on one side and by safetensors' NumPy functions on the other."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from saesteer.core.files import text_id
from saesteer.core.tables import validate
from saesteer.engine.interventions import ActivationEdit, Addition, packed
from saesteer.engine.steering import Intervention
from saesteer.methods.fit.vectors_file import read_vectors, write_vectors
from saesteer.settings import SettingsError
from saesteer.steps.fits import FITS

D_MODEL = 4


def unit(*numbers: float) -> torch.Tensor:
    vector = torch.tensor(numbers, dtype=torch.float32)
    return vector / vector.norm()


def fit_row(concept: str, intervention: Intervention | None, method: str = "diffmean", layer: int = 3) -> dict[str, Any]:
    kind, (tensors, values) = (None, (None, None)) if intervention is None else (intervention.kind, packed(intervention))
    return {
        "layer": layer, "method": method, "concept_id": text_id(concept), "kind": kind, "tensors": tensors, "values": values,
        "features": [], "residual_change": None, "residual_norm": None, "n_texts": 8, "r2": None, "fit_seconds": 0.1,
        "reason": None if intervention else "no feature survives",
    }  # fmt: skip


def fits(*rows: dict[str, Any]) -> pl.DataFrame:
    return validate(FITS, pl.DataFrame(rows, schema=FITS.schema), "test")


def concept_rows(*concepts: str) -> pl.DataFrame:
    return pl.DataFrame({"concept_id": [text_id(concept) for concept in concepts], "concept": concepts})


SEA, CHESS = Addition(unit(1, 2, 0, -1), 3.5), Addition(unit(0, 0, -4, 3), None, "last")
FITTED = [fit_row("the sea, at night", SEA), fit_row("chess", CHESS), fit_row("law", None)]


@given(st.dictionaries(st.text(min_size=1).filter(lambda name: name != "__metadata__"), st.integers(1, 9), min_size=1, max_size=5))
def test_vectors_come_back_by_their_concepts_whatever_these_are_called(tmp_path_factory: pytest.TempPathFactory, names: dict[str, int]):
    path = tmp_path_factory.mktemp("vectors") / "vectors.safetensors"
    given_vectors = {name: np.arange(D_MODEL, dtype=np.float32) * size for name, size in names.items()}
    save_file(given_vectors, path)
    vectors = read_vectors(path, D_MODEL)
    assert set(vectors) == set(names)
    assert all(np.array_equal(vectors[name].numpy(), vector) for name, vector in given_vectors.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_number_formats_are_read_as_float32(tmp_path: Path, dtype: torch.dtype):
    save_torch({"a": torch.tensor([1.5, 0, 0, -2], dtype=dtype)}, tmp_path / "v")
    assert read_vectors(tmp_path / "v", D_MODEL)["a"].dtype == torch.float32
    assert read_vectors(tmp_path / "v", D_MODEL)["a"].tolist() == [1.5, 0, 0, -2]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(5), r"its shape is \[5\], but vectors at the SAE's hook point have \[4\]"),
        (torch.ones(1, 4), r"its shape is \[1, 4\]"),
        (torch.tensor([1.0, float("nan"), 0, 0]), "it holds NaN or infinite"),
        (torch.tensor([1e300, 0, 0, 0], dtype=torch.float64), "it holds NaN or infinite"),
        (torch.zeros(4), "its norm is 0.0"),
        (torch.full((4,), 1e-38), "its norm is 0.0"),
        (torch.full((4,), 3e38), "its norm is inf"),
        (torch.ones(4, dtype=torch.int64), "its type is torch.int64"),
    ],
)
def test_what_can_be_no_direction_is_refused_by_name(tmp_path: Path, tensor: torch.Tensor, message: str):
    path = tmp_path / "mine.safetensors"
    save_torch({"a good one": torch.ones(4), "the sea": tensor}, path)
    with pytest.raises(SettingsError, match=f"mine.safetensors, tensor 'the sea': {message}"):
        read_vectors(path, D_MODEL)


def test_what_is_no_file_of_vectors_is_refused(tmp_path: Path):
    path = tmp_path / "mine.safetensors"
    save_file({}, path)
    with pytest.raises(SettingsError, match="mine.safetensors holds no tensors: it needs one of 4 numbers"):
        read_vectors(path, D_MODEL)
    save_file({"a": np.ones(4, dtype=np.float32)}, path)
    broken = path.read_bytes()[:-3], b"", b"PK\x03\x04 a pickle or a zip", b"\x10\x00\x00\x00\x00\x00\x00\x00{not json at all}"
    for content in (None, *broken):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(SettingsError, match="mine.safetensors cannot be read as safetensors"):
            read_vectors(path, D_MODEL)


def test_a_methods_unit_vectors_are_written_by_concept(tmp_path: Path):
    path = tmp_path / "out" / "vectors.safetensors"
    other = fit_row("chess", Addition(unit(1, 1, 1, 1), 1.0), method="caa", layer=5)
    write_vectors(fits(*FITTED, other), concept_rows("chess", "law", "the sea, at night"), "diffmean", path)
    written = load_file(path)
    assert set(written) == {"the sea, at night", "chess"}
    assert written["the sea, at night"].tolist() == SEA.vector.tolist()
    assert written["chess"].tolist() == pytest.approx([0, 0, -0.8, 0.6])
    vectors = read_vectors(path, D_MODEL)
    assert all(torch.equal(vectors[name], one.vector) for name, one in (("chess", CHESS), ("the sea, at night", SEA)))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_equal_vectors_are_equal_bytes_in_any_order(tmp_path: Path):
    concepts = concept_rows("chess", "law", "the sea, at night")
    write_vectors(fits(*FITTED), concepts, "diffmean", tmp_path / "one")
    write_vectors(fits(*reversed(FITTED)), concepts.reverse(), "diffmean", tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize(
    ("rows", "method", "message"),
    [
        (FITTED, "pca", "no method 'pca' here. Known: diffmean"),
        ([*FITTED, fit_row("chess", CHESS, layer=5)], "diffmean", "fitted at layers 3, 5: choose one"),
        ([fit_row("love", SEA)], "diffmean", f"concept_id {text_id('love')} was not asked for"),
        (
            [fit_row("chess", ActivationEdit(torch.tensor([1]), torch.tensor([2.0])))],
            "diffmean",
            "interventions of kind activation_edit, which are no",
        ),
        ([fit_row("law", None)], "diffmean", r"abstains for every concept \(no feature survives\)"),
        (
            [fit_row("chess", Addition(torch.tensor([1.0, float("nan"), 0, 0]), 1.0))],
            "diffmean",
            "vectors, tensor 'chess': it holds NaN or infinite numbers",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, rows: list[dict[str, Any]], method: str, message: str):
    with pytest.raises(SettingsError, match=message):
        write_vectors(fits(*rows), concept_rows("chess", "law", "the sea, at night"), method, tmp_path / "vectors")
    assert list(tmp_path.iterdir()) == []
