"""GGUF files as models: the numbers, the tokenizer, and files that are not used."""

import json
import random
import struct
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf_files import BLOCKS, as_stored, byte_pairs, sentence_pieces, small_model, write_gguf
from oracles.gguf_tokens import TEXTS, byte_pair_ids, sentence_piece
from transformers import AutoModelForCausalLM

import saesteer
from saesteer.core.errors import SettingsError
from saesteer.core.tokens import load_tokens
from saesteer.engine.gguf_convert import convert, converted_gguf
from saesteer.settings import ModelSource
from saesteer.sources.gguf import config_of, read_gguf

IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 41, 51, 61, 71, 81], [1, 9, 8, 7, 30, 29, 28, 27, 100, 101, 102, 103]])
PIECES = ("gemma2", "gemma3", "phi3")


def vocabulary(architecture: str) -> dict[str, Any]:
    return sentence_pieces(architecture == "phi3") if architecture in PIECES else byte_pairs("qwen2" if "qwen" in architecture else "gpt-2")


def written(folder: Path, architecture: str = "llama", kind: Kind = Kind.F32, said: Mapping[str, Any] | None = None, **values: Any) -> Path:
    said = said or vocabulary(architecture)
    return write_gguf(small_model(architecture, len(said["tokens"])), architecture, folder / "model.gguf", said, kind, **values)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.Q8_0])
@pytest.mark.parametrize("architecture", BLOCKS)
def test_logits_are_those_of_the_dequantised_weights(architecture: str, kind: Kind, tmp_path: Path) -> None:
    lm = saesteer.load_model(written(tmp_path, architecture, kind), cache_dir=tmp_path)
    expected = as_stored(small_model(architecture, lm.n_vocab), architecture, kind)
    assert torch.equal(lm.model(IDS).logits, expected(IDS).logits)
    assert lm.dtype == torch.float32


@pytest.mark.exhaustive
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])  # of the others transformers' reader leaves out what the file says
def test_logits_are_those_of_transformers_own_reader(architecture: str, tmp_path: Path) -> None:
    path = written(tmp_path, architecture, Kind.Q8_0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager")
    torch.testing.assert_close(saesteer.load_model(path, cache_dir=tmp_path).model(IDS).logits, model(IDS).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("split", ["gpt-2", "smollm", "qwen2"])
def test_byte_pairs_are_merged_as_the_file_says(split: str, tmp_path: Path) -> None:
    said = byte_pairs(split)
    folder, _ = converted_gguf(written(tmp_path, said=said), tmp_path)
    texts = [*TEXTS, "12 of 3412"]
    assert load_tokens(folder).token_ids(texts, "tokenizer") == byte_pair_ids(texts, said)


@pytest.mark.parametrize(("split", "begins"), [("llama-bpe", True), ("tekken", True), ("smollm", False)])
def test_a_file_that_says_nothing_of_bos_is_read_as_llama_cpp_reads_it(split: str, begins: bool, tmp_path: Path) -> None:
    """Its reader begins texts of Llama 3's and Mistral's tokenizers with one. No text is ended."""
    said = {key: value for key, value in byte_pairs(split).items() if key != "add_bos_token"} | {"add_eos_token": True}
    folder, _ = converted_gguf(written(tmp_path, said=said), tmp_path)
    (ids,), (alone,) = (
        read(["sea"]) for read in (lambda texts: load_tokens(folder).token_ids(texts, "tokenizer"), load_tokens(folder).ids_alone)
    )
    assert ids == ([1] * begins) + alone


@pytest.mark.parametrize(("architecture", "prefixed"), [("gemma2", False), ("gemma3", False), ("phi3", True), ("llama", True)])
def test_sentence_pieces_are_sentencepiece_s(architecture: str, prefixed: bool, tmp_path: Path) -> None:
    said = sentence_pieces(prefixed)
    folder, _ = converted_gguf(written(tmp_path, architecture, said=said), tmp_path)
    theirs, tokens = sentence_piece(said, prefixed), load_tokens(folder)
    assert tokens.token_ids(TEXTS, "tokenizer") == [[1, *theirs.encode(text)] for text in TEXTS]
    assert (tokens.bos_id, tokens.tokenizer.id_to_token(4)) == (1, "<0x01>")


def test_a_model_is_converted_once_and_named_by_its_bytes(tmp_path: Path) -> None:
    path = written(tmp_path)
    folder, digest = converted_gguf(path, tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    path = path.rename(tmp_path / "again.gguf")
    assert converted_gguf(path, tmp_path)[1] == digest
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert json.loads((folder / "gguf.json").read_text())["sha256"] == digest
    assert "license: mit" in (folder / "README.md").read_text()
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x3d")
    assert converted_gguf(path, tmp_path)[0] != folder


def test_of_two_jobs_at_once_the_second_waits_and_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model and a second model may be one file, and a job may read the first one's folder already."""
    path, calls = written(tmp_path), []

    def slow(*args: Any) -> None:
        calls.append(args)
        time.sleep(0.3)
        convert(*args)

    monkeypatch.setattr("saesteer.engine.gguf_convert.convert", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: converted_gguf(path, tmp_path), range(2))
    assert first == second
    assert len(calls) == 1


def edited(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert data.count(old) >= 1
    path.write_bytes(data.replace(old, new, 1))
    return path


def text_of(value: str) -> bytes:
    """A text as the header has it."""
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"GGUF", b"GGML", "is no GGUF file"),
        (b"GGUF\x03", b"GGUF\x01", "is of GGUF version 1, and 2 and 3 can be read"),
        (text_of("llama"), text_of("mamba"), "models of the architecture mamba cannot be converted from GGUF, only llama"),
        (text_of("llama.block_count"), text_of("llama.block_cound"), r"lacks llama\.block_count"),
        (text_of("llama.vocab_size"), text_of("llama.expert_num"), r"llama\.expert_num is \d+, which changes what the model computes"),
        (text_of("blk.0.attn_q.weight"), text_of("blk.0.attn_x.weight"), r"the tensor blk\.0\.attn_x\.weight is none of those of"),
        (text_of("blk.1.ffn_up.weight"), text_of("blk.9.ffn_up.weight"), r"the tensor blk\.9\.ffn_up\.weight is none of those of"),
        (text_of("gpt-2"), text_of("gpt-9"), r"its tokenizer \(tokenizer\.ggml\.model gpt2, pre gpt-9, .*\) is none of those"),
        (text_of("no"), text_of("on"), "no tokenizer can be made of its vocabulary"),
        (text_of("sail"), text_of("!!!!"), r"no tokenizer can be made|its token \d+ is"),
        (
            text_of("llama.block_count") + struct.pack("<II", 4, 2),
            text_of("llama.block_count") + struct.pack("<II", 4, 2**31),
            "2147483648 layers",
        ),
        (
            text_of("tokenizer.ggml.eos_token_id") + struct.pack("<II", 4, 2),
            text_of("tokenizer.ggml.eos_token_id") + struct.pack("<II", 4, 9999),
            "a special token is number 9999",
        ),
        (struct.pack("<Q", 2**62), b"", ""),
    ],
)
def test_what_would_be_another_model_is_refused_by_name(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    if not message:
        path.write_bytes(path.read_bytes()[:8] + old + path.read_bytes()[16:])
        message = "is truncated or damaged"
    else:
        edited(path, old, new)
    with pytest.raises(SettingsError, match=message):
        converted_gguf(path, tmp_path)
    assert {file.name for file in tmp_path.glob("gguf/*")} <= {".lock"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope__scaling__type": "yarn"}, r"llama\.rope\.scaling\.type is 'yarn', which changes what the model computes"),
        ({"rope__scaling__factor": 8.0}, r"llama\.rope\.scaling\.factor is 8\.0"),
        ({"logit_scale": 0.5}, r"llama\.logit_scale is 0\.5"),
    ],
)
def test_a_key_that_is_not_known_is_not_left_out(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        config_of(read_gguf(written(tmp_path, **values)))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = path.read_bytes()
    cuts = [*range(200), *range(200, len(data), 997), len(data) - 1]
    for cut in cuts:
        path.write_bytes(data[:cut])
        with pytest.raises(SettingsError, match=r"is truncated or damaged|is no GGUF file|is of GGUF version"):
            read_gguf(path)


def test_a_damaged_header_is_refused_or_read_but_nothing_else(tmp_path: Path) -> None:
    path = written(tmp_path)
    data, draw = path.read_bytes(), random.Random(0)
    n_header = min(tensor.start for tensor in read_gguf(path).tensors.values())
    n_refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(4, n_header)] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            config_of(read_gguf(path))
        except SettingsError:
            n_refused += 1
    assert n_refused > 30


def test_weights_that_are_no_numbers_leave_no_model(tmp_path: Path) -> None:
    path = written(tmp_path)
    tensor = read_gguf(path).tensors["blk.0.ffn_up.weight"]
    with path.open("r+b") as file:
        file.seek(tensor.start)
        file.write(np.float32("nan").tobytes())
    with pytest.raises(SettingsError, match=r"layers\.0\.mlp\.up_proj\.weight is not finite"):
        converted_gguf(path, tmp_path)
    assert {file.name for file in tmp_path.glob("gguf/*")} <= {".lock"}


def test_a_setting_for_a_package_is_no_part_of_other_models(tmp_path: Path) -> None:
    """Jobs depend on what a section says: those of experiments without a package stay done."""
    keys = {"path", "repo", "revision", "dtype", "bos"}
    assert set(ModelSource(path=tmp_path).model_dump(mode="json")) == keys
    package = {"name": "a", "version": "1", "sha256": "0" * 64, "file": "b"}
    assert set(ModelSource(package=package).model_dump(mode="json")) == keys | {"package"}
    with pytest.raises(ValueError, match=r"give one of path .*, not path and package"):
        ModelSource(path=tmp_path, package=package)
