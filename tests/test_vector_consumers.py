"""Vector files read back by the programs that they are for: `make test-extras` installs these. Their logits are ours, and those of a plain
hook."""

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import WORLD, shipped_model, shipped_sae
from gguf_files import write_gguf
from small_adapters import left_as_it_was
from test_steered_model import VECTOR
from test_vector_export import ABOUT, FACTOR, IDS, LAYER, SCALE, imported, plainly_steered, vector_of

from saesteer.engine.interventions import Addition
from saesteer.engine.steering import steered_model
from saesteer.engine.vector_formats import FORMATS


def needs(package: str) -> Any:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"could not import {package!r}")


ADDED = FACTOR * (SCALE * VECTOR)


def written(to: str, path: Path) -> Path:
    FORMATS[to].write(path, vector_of(shipped_model()), ABOUT)
    return path


def ours() -> torch.Tensor:
    lm = shipped_model()
    with torch.no_grad(), steered_model(lm, shipped_sae(LAYER), LAYER, Addition(VECTOR, SCALE), FACTOR):
        return lm.model(IDS).logits


def check(logits: torch.Tensor) -> None:
    torch.testing.assert_close(logits, ours(), rtol=0, atol=1e-4)
    torch.testing.assert_close(logits, plainly_steered(), rtol=0, atol=1e-4)
    assert (logits - shipped_model().model(IDS).logits).abs().max() > 1


@needs("gguf")
def test_llama_cpps_reader(tmp_path: Path) -> None:
    """One tensor by the one name that its loader takes, in its one number format; what is said of it is kept."""
    from gguf import GGMLQuantizationType, GGUFReader

    reader = GGUFReader(written("gguf", tmp_path / "a.gguf"))
    (tensor,) = reader.tensors
    assert (tensor.name, tensor.tensor_type, tensor.shape.tolist()) == ("direction.6", GGMLQuantizationType.F32, [128])
    assert tensor.data.tolist() == ADDED.tolist()
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert json.loads(reader.get_field("saesteer.about").contents()) == ABOUT


def logits_of(model: Path, directions: dict[int, np.ndarray]) -> torch.Tensor:
    """llama.cpp's logits of every text of IDS, with directions added to what each block gives."""
    from benchmarks.llama_cpp import Context

    config = shipped_model().model.config
    sizes = (config.hidden_size, config.num_hidden_layers, config.vocab_size)
    context = Context(model, len(IDS), IDS.shape[1], *sizes)
    if directions:
        context.add(directions)
    logits = context.logits(IDS.tolist())
    context.close()
    return torch.from_numpy(logits)


@needs("xllamacpp")
@torch.no_grad()
def test_llama_cpps_logits_and_greedy_tokens_are_ours(tmp_path: Path) -> None:
    """Of the shipped model, converted to GGUF. Both within 0.02, since llama.cpp reads GELU from a table in half precision; the vector
    moves them by more than 1."""
    from gguf import GGUFReader

    model = shipped_model().model
    write_gguf(model, "gemma2", tmp_path / "model.gguf", {"model": "no_vocab"}, vocab_size=model.config.vocab_size)
    directions = {int(one.name.removeprefix("direction.")): one.data for one in GGUFReader(written("gguf", tmp_path / "a.gguf")).tensors}
    plain = model(IDS).logits
    for theirs, expected in ((logits_of(tmp_path / "model.gguf", {}), plain), (logits_of(tmp_path / "model.gguf", directions), ours())):
        torch.testing.assert_close(theirs, expected, rtol=0, atol=0.02)
        assert torch.equal(theirs.argmax(dim=2), expected.argmax(dim=2))
    assert (ours() - plain).abs().max() > 1


@needs("repeng")
@torch.no_grad()
def test_repeng(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.4 was written for NumPy 1, whose name of float64 it spells out."""
    monkeypatch.setattr(np, "float_", np.float64, raising=False)
    from repeng import ControlModel, ControlVector

    vector = ControlVector.import_gguf(written("repeng", tmp_path / "a.gguf"))
    assert (vector.model_type, list(vector.directions)) == ("gemma2", [LAYER])
    model = ControlModel(copy.deepcopy(shipped_model().model), [LAYER])
    model.set_control(vector, 1.0)
    check(torch.cat([model(row[None]).logits for row in IDS]))  # it takes no batch that shares its positions


@needs("lm_eval")
@torch.no_grad()
def test_lm_evals_steered_model(tmp_path: Path) -> None:
    from lm_eval.models.hf_steered import SteeredModel

    path = written("lm-eval", tmp_path / "a.pt")
    model = SteeredModel(pretrained=str(WORLD / "model"), steer_path=str(path), device="cpu", dtype="float32")
    check(model._model_call(IDS))


@needs("steering_vectors")
@torch.no_grad()
def test_steering_vectors(tmp_path: Path) -> None:
    from steering_vectors import SteeringVector

    module = imported(written("python", tmp_path / "steering.py"))
    lm = shipped_model()
    with left_as_it_was(lm), SteeringVector({module.BLOCK: module.VECTOR}, "decoder_block").apply(lm.model):
        logits = lm.model(IDS).logits
    check(logits)


@needs("nnsight")
@torch.no_grad()
def test_nnsight(tmp_path: Path) -> None:
    from nnsight import NNsight

    module = imported(written("python", tmp_path / "steering.py"))
    model = NNsight(shipped_model().model)
    with model.trace(IDS):
        block = model.get(module.MODULE)
        block.output = module.add(block.output)
        logits = model.output.logits.save()
    check(logits)
