"""Models that are large for a machine: weights go from their files to the GPU, and are spread over several where one is too small."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from engine_models import TINY, prompt_of, save_model, sweep_rows, tiny_model, tiny_sae, tiny_tokenizer
from polars.testing import assert_frame_equal
from pretended_gpu import pretended_gpu
from small_adapters import a_lora
from transformers import AutoConfig, AutoModelForCausalLM

from saesteer.engine.activations import sparse_activations
from saesteer.engine.continuation import Sampling
from saesteer.engine.generate import steered_texts
from saesteer.engine.generations import feature_texts
from saesteer.engine.interventions import packed, unpacked
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import LanguageModel, load_language_model
from saesteer.engine.output_score import output_scores
from saesteer.engine.perplexity import continuation_nll
from saesteer.engine.saes import TENSORS, Sae
from saesteer.engine.steering import Intervention
from saesteer.sources import model_size
from saesteer.sources.model_size import bytes_of_weights, n_gpus

MIB = 2**20
SHARD = 64 * MIB
LOADING = """
import sys, threading
from pathlib import Path
import torch
from pretended_gpu import pretended_gpu
from saesteer.engine.weights import load_weights

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

before, peak, done = anonymous(), [0], threading.Event()

def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], anonymous())

watcher = threading.Thread(target=watch, daemon=True)
with pretended_gpu(contents=lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype)):
    watcher.start()
    model = load_weights(Path(sys.argv[1]), "bfloat16", "cuda")
    done.set(); watcher.join()
    print(peak[0] - before, sum(weight.numel() * weight.itemsize for weight in model.parameters()))
"""


@pytest.mark.exhaustive
def test_the_host_holds_no_copy_of_the_weights(tmp_path: Path) -> None:
    """Files of float32, loaded in bfloat16 into a pretended GPU that holds no numbers, so that all that is counted is the host's. Pages of
    mapped files are not: the system drops them when memory is short."""
    config = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 8, "vocab_size": 4000}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **config)).save_pretrained(tmp_path, max_shard_size=SHARD)
    tiny_tokenizer().save_pretrained(tmp_path)
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOADING, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    held, on_gpu = (int(number) for number in done.stdout.split())
    assert len(list(tmp_path.glob("*.safetensors"))) > 5
    assert on_gpu > 250 * MIB
    assert held <= 1.2 * SHARD + 64 * MIB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tiny_model("llama"), tmp_path_factory.mktemp("spread"))


def steps(lm: LanguageModel, sae: Sae) -> dict[str, pl.DataFrame]:
    """What a step that runs a model makes, of each kind."""
    lens, _ = top_logit_lens_tokens(lm, sae.W_dec[[5, 0]].roll(1, dims=0), 20)
    texts = pl.DataFrame({"text_id": ["a", "b"], "token_ids": [[1, 40, 60, 41], [1, 70, 71, 72, 73, 90]]})
    rated = pl.DataFrame({"row": [0, 1], "prefix": ["From ba be", "From ba"], "text": [" dibo tuda.", " be di"]})
    return {
        "output scores": output_scores(lm, sae, 2, [5, 0], lens, prompt_of("llama"), 10.0),
        "codes": pl.concat(sparse_activations(lm, {2: sae}, texts)),
        "perplexity": continuation_nll(lm, rated),
        "texts": pl.concat(feature_texts(lm, sae, 2, sweep_rows(12), TINY, Sampling(8, 0.0), 3))
        .drop("seconds")
        .sort("feature", "factor", "prefix_id"),
    }


@pytest.mark.parametrize("hook_point", [pytest.param("resid_pre", marks=pytest.mark.exhaustive), "resid_post"])
def test_a_model_over_two_gpus_gives_what_it_gives_on_one(folder: Path, hook_point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretended ones, which refuse operations on tensors of both."""
    sae = tiny_sae(2, hook_point=hook_point)
    expected = steps(load_language_model(folder, "float32", "cpu"), sae)
    monkeypatch.setattr(model_size, "ON_ONE", 0.0)
    with pretended_gpu(n_gpus=2):
        lm = load_language_model(folder, "float32", "cuda")
        places = {str(weight.device) for weight in lm.model.parameters()}
        made = steps(lm, replace(sae, **{name: getattr(sae, name).to(lm.device) for name in TENSORS}))
    assert places == {"cuda:0", "cuda:1"}
    for step, frame in made.items():
        assert_frame_equal(frame, expected[step], rel_tol=1e-4, abs_tol=1e-5)


INSIDE = ["resid_mid", "attn_out", "mlp_out", "hook_z"]


def steered_in_the_first_block(lm: LanguageModel, hook_point: str, adapter: Intervention) -> list[pl.DataFrame]:
    """Texts steered at a hook point in the first block, and by an adapter of all blocks' weights."""
    sae = tiny_sae(0, hook_point=hook_point)
    sae = replace(sae, **{name: getattr(sae, name).to(lm.device) for name in TENSORS})
    rows = pl.DataFrame({"row": [0, 1], "intervention": 0, "prompt": 0, "factor": ["1", "2"], "stream": [1, 2]})
    rows = rows.cast({"row": pl.UInt32, "stream": pl.UInt64})
    adapted = steered_texts(lm, sae, 0, rows, [unpacked(adapter.kind, *packed(adapter))], [[1, 40, 60, 41]], Sampling(4, 0.0))
    of_features = pl.concat(feature_texts(lm, sae, 0, sweep_rows(4), TINY, Sampling(4, 0.0), 3))
    return [
        frame.drop("seconds", strict=False).sort(pl.col("^(row|feature|factor|prefix_id)$")) for frame in (of_features, pl.concat(adapted))
    ]


@pytest.mark.parametrize("hook_point", ["hook_z", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in INSIDE[:-1])])
def test_what_lies_in_a_block_is_steered_on_that_blocks_gpu(folder: Path, hook_point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_one = load_language_model(folder, "float32", "cpu")
    adapter = a_lora(on_one)
    expected = steered_in_the_first_block(on_one, hook_point, adapter)
    monkeypatch.setattr(model_size, "ON_ONE", 0.0)
    with pretended_gpu(n_gpus=2):
        lm = load_language_model(folder, "float32", "cuda")
        assert next(lm.blocks[0].parameters()).device != lm.device
        made = steered_in_the_first_block(lm, hook_point, adapter)
    for frame, of_one in zip(made, expected, strict=True):
        assert_frame_equal(frame, of_one, rel_tol=1e-4, abs_tol=1e-5)


def test_where_weights_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_gpu(n_gpus=2):
        lm = load_language_model(folder, "float32", "cuda")
        assert {str(weight.device) for weight in lm.model.parameters()} == {"cuda:0"}
    monkeypatch.setattr(model_size, "ON_ONE", 0.0)
    monkeypatch.setattr(model_size, "OF_EACH", 1e-7)
    with pretended_gpu(n_gpus=2), pytest.raises(MemoryError, match=r"do not fit into .* on the 2 GPUs of this job; give it more"):
        load_language_model(folder, "float32", "cuda")


def test_how_many_gpus_a_model_needs(folder: Path) -> None:
    weights = bytes_of_weights(folder, "float32")
    assert weights == 4 * sum(weight.numel() for weight in tiny_model("llama").model.parameters())
    assert bytes_of_weights(folder, "bfloat16") * 2 == bytes_of_weights(folder, "tf32") == weights
    gib = 2**30
    sizes = {(18 * gib, 80): 1, (54 * gib, 80): 1, (108 * gib, 80): 2, (141 * gib, 80): 3, (18 * gib, 24): 1, (37 * gib, 24): 2}
    assert {(n_bytes, gpu): n_gpus(n_bytes, gpu * gib) for n_bytes, gpu in sizes} == sizes
