"""GGUF files as models: the numbers, the tokenizer, and files that are not used."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf_files import BLOCKS, as_stored, byte_pairs, sentence_pieces, small_model, write_gguf

import saesteer

TEXT = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 41, 51, 61, 71, 81], [1, 9, 8, 7, 30, 29, 28, 27, 100, 101, 102, 103]])


def vocabulary(architecture: str) -> dict[str, Any]:
    if architecture in ("gemma2", "gemma3", "phi3"):
        return sentence_pieces(architecture == "phi3")[1]
    return byte_pairs("qwen2" if "qwen" in architecture else "gpt-2")[1]


def written(architecture: str, folder: Path, kind: Kind = Kind.F32, **values: Any) -> tuple[Any, Path]:
    said = vocabulary(architecture)
    model = small_model(architecture, len(said["tokens"]))
    return model, write_gguf(model, architecture, folder / "model.gguf", said, kind, **values)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.Q8_0, Kind.Q4_1])
@pytest.mark.parametrize("architecture", BLOCKS)
def test_logits_are_those_of_the_dequantised_weights(architecture: str, kind: Kind, tmp_path: Path) -> None:
    model, path = written(architecture, tmp_path, kind)
    expected = as_stored(model, architecture, kind)(TEXT).logits
    lm = saesteer.load_model(path, cache_dir=tmp_path)
    assert torch.equal(lm.model(TEXT).logits, expected)
    assert lm.dtype == torch.float32
