"""Steering frozen to a constant vector, and the files in which other programs take it, each with what its reader needs: where the vector
is added, how it is named, what cannot be said.

P1's steering (arXiv 2505.20063) takes a_max anew at each position. Frozen, a_max is one number, its median over neutral prompts. That is
another intervention, so its texts are to be measured like any other's. Files are as the consumers' own sources read them;
`tests/test_vector_consumers.py` reads them back with the consumers themselves.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from saesteer.core.errors import SettingsError
from saesteer.core.files import write_atomically, write_json, write_text
from saesteer.engine.finite import check_finite
from saesteer.engine.hook_points import hook_point_of, reading, sae_hook_point
from saesteer.engine.interventions import Addition
from saesteer.engine.models import LanguageModel, pad_rows
from saesteer.engine.saes import Sae, largest_activation
from saesteer.engine.steering import Intervention

About = Mapping[str, Any]
"""What a file says of its vector, as JSON values: model, SAE, factor, expected effect."""

_MODULE = '''"""A steering vector, written by saesteer: what it is and what it was measured to do is in ABOUT.

    with steered(model):  # a model of transformers
        model.generate(...)

    model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{BLOCK}.hook_resid_post", add)])  # TransformerLens

    with model.trace(prompt):  # nnsight, where the block puts out a tensor
        block = model.get(MODULE)
        block.output = add(block.output)

    SteeringVector({BLOCK: VECTOR}, "decoder_block")  # steering-vectors

    --forward-hooks '[{"name": "steering", "target_modules": ["<MODULE>"], "hook_factory": "<this module>:sglang_hook", "config": {}}]'
"""

import base64
import json
from contextlib import contextmanager

import torch

ABOUT = json.loads(%(about)r)
BLOCK = %(block)d  # 0-based: VECTOR is added to what this decoder block puts out, at every position
MODULE = %(module)r  # the block in a model of transformers
VECTOR = torch.frombuffer(bytearray(base64.b64decode(%(vector)r)), dtype=torch.float32)  # the strength is in it


def add(value, *args, **kwargs):
    """A residual stream [..., d_model] with the vector added."""
    return value + VECTOR.to(value)


def forward_hook(module, args, output):
    """What a forward hook of torch gives back, for blocks that put out a tensor and for those that put out a tuple."""
    return (add(output[0]), *output[1:]) if isinstance(output, tuple) else add(output)


@contextmanager
def steered(model):
    """Within the context, every forward of a model of transformers is steered."""
    handle = model.get_submodule(MODULE).register_forward_hook(forward_hook)
    try:
        yield model
    finally:
        handle.remove()


def sglang_hook(config):
    """A hook factory for SGLang's --forward-hooks."""
    return forward_hook
'''
"""A Python module that steers: a vector with a hook for transformers, TransformerLens, nnsight, SGLang and steering-vectors, which needs no
file beside it and no saesteer."""


@dataclass(frozen=True)
class BlockVector:
    """A constant vector that is added to what a decoder block puts out."""

    direction: Float[Tensor, " d_model"]  # what factor 1 adds, in float32 on the host
    factor: float
    block: int  # 0-based; -1: added to what the first block is given
    n_blocks: int
    positions: Literal["all", "last"]  # every one, or the prompt's last and those behind it
    model_type: str  # as in the model's config.json
    module: str  # name of the block in transformers' model; "" for block -1
    base_module: str  # the same below the model's `base_model`

    @property
    def vector(self) -> Float[Tensor, " d_model"]:
        """What is added: the strength is in it."""
        return self.factor * self.direction


def check_constant(intervention: Intervention) -> Addition:
    """The intervention, if it adds a vector without looking at the text; otherwise it is refused."""
    if isinstance(intervention, Addition):
        return intervention
    raise SettingsError(f"this fit {intervention.not_constant}: it is no constant added vector, so no vector file can hold it")


@torch.no_grad()
def median_a_max(lm: LanguageModel, sae: Sae, layer: int, prompts: Sequence[Sequence[int]]) -> float:
    """The median over prompts (token ids) of a_max at the last token, where P1's steering starts."""
    hook_point = sae_hook_point(lm, layer, sae.meta)
    rows = (reading(lm, torch.tensor([list(prompt)], device=lm.device), hook_point).read[:, -1] for prompt in prompts)
    largest = torch.cat([largest_activation(sae, pad_rows(row))[:1] for row in rows])
    check_finite("feature activations are", largest, sae.W_enc)
    a_max = median(largest.tolist())
    if not a_max > 0:
        raise SettingsError(f"layer {layer}: no feature is active at the last token of the neutral prompts (median), so a_max is 0 there")
    return a_max


def block_vector(lm: LanguageModel, layer: int, hook_point: str, addition: Addition, factor: float) -> BlockVector:
    """What a frozen addition at an SAE's hook point adds to a block's output; refused where that is no place between two blocks."""
    place = hook_point_of(lm, layer, hook_point).place
    if place.module is not None:
        raise SettingsError(
            f"hook point {hook_point} lies inside decoder block {layer}, but other programs add vectors between blocks: take an SAE at"
            " resid_pre, resid_post or mlp_out, or a transcoder"
        )
    assert addition.scale is not None
    block = place.depth - 1
    direction = (addition.scale * addition.vector.float()).cpu()
    names = ["", ""]
    if block >= 0:
        models = (lm.model, lm.model.base_model)
        names = [next(name for name, module in model.named_modules() if module is lm.blocks[block]) for model in models]
    return BlockVector(direction, factor, block, lm.n_layers, addition.positions, lm.model.config.model_type, *names)


@dataclass(frozen=True)
class Format:
    """A form of file."""

    write: Callable[[Path, BlockVector, About], None]
    usage: Callable[[Path, BlockVector], str]  # how its reader is told to use the file
    has_about: bool  # whether the file has a place for what is said about it; else a JSON file lies beside it
    first: int = 0  # block to whose output its reader can add
    why_not: str = ""
    positions: Literal["all", "last"] = "all"  # last: its reader can start where P1's steering does
    suffix: str = ""  # that its reader insists on


def check_suffix(name: str, path: Path) -> None:
    """Refuse a file that a format's readers would not take, before a model is loaded."""
    suffix = FORMATS[name].suffix
    if suffix and path.suffix != suffix:
        raise SettingsError(f"{path}: readers of {name} take files that end in {suffix}: name it so")
    if suffix == ".py" and not path.stem.isidentifier():
        raise SettingsError(f"{path}: Python imports no module of such a name: take letters, digits and _")


def check_format(name: str, added: BlockVector) -> None:
    """Refuse what a format cannot express, and what is not finite, before anything is measured for it."""
    form = FORMATS[name]
    if not bool(added.vector.isfinite().all()):
        raise SettingsError(
            f"the vector at factor {added.factor:g} is not finite in float32: lower the factor, or check the SAE or the fit"
        )
    if added.block < 0 and name != "neuronpedia":
        raise SettingsError(f"{name} adds to what a decoder block puts out, and this vector is added before block 0: take a later layer")
    if added.block >= 0 and added.block not in range(form.first, added.n_blocks):
        raise SettingsError(f"{name} cannot add a vector to what block {added.block} puts out: {form.why_not}")


def _write_gguf(path: Path, added: BlockVector, about: About) -> None:
    """llama.cpp reads tensors `direction.N` and nothing else; repeng wants the model's type too."""
    import gguf

    def write(partial: Path) -> None:
        writer = gguf.GGUFWriter(partial, "controlvector")
        writer.add_string("controlvector.model_hint", added.model_type)
        writer.add_uint32("controlvector.layer_count", 1)
        writer.add_string("saesteer.about", json.dumps(about, ensure_ascii=False, sort_keys=True))
        writer.add_tensor(f"direction.{added.block}", added.vector.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    write_atomically(path, write)


def _write_lm_eval(path: Path, added: BlockVector, _about: About) -> None:
    entry = {"steering_vector": added.direction, "steering_coefficient": added.factor, "action": "add", "bias": None, "head_index": None}
    write_atomically(path, lambda partial: torch.save({added.base_module: entry}, partial))


def _write_safetensors(path: Path, added: BlockVector, about: About) -> None:
    metadata = {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for name, value in about.items()}
    write_atomically(path, lambda partial: save_file({about["label"]: added.vector.contiguous()}, partial, metadata))


def _write_python(path: Path, added: BlockVector, about: About) -> None:
    """What comes from elsewhere (concepts, names) stands in the module as a literal only."""
    values = {
        "about": json.dumps(about, ensure_ascii=False, sort_keys=True),
        "block": added.block,
        "module": added.module,
        "vector": base64.b64encode(added.vector.numpy().astype("<f4").tobytes()).decode(),
    }
    write_text(path, _MODULE % values)


def _write_neuronpedia(path: Path, added: BlockVector, about: About) -> None:
    hook_point = max(added.block, 0), "hook_resid_pre" if added.block < 0 else "hook_resid_post"
    write_json(path, neuronpedia_body(about["neuronpedia_model"], *hook_point, added.direction, added.factor, about["label"]))


def neuronpedia_body(model: str, layer: int, hook: str, vector: torch.Tensor, strength: float, label: str) -> dict[str, Any]:
    """The body of POST /api/vector/new, of a vector that is added `strength` times."""
    if len(vector) > _NEURONPEDIA_WIDTH:
        raise SettingsError(f"Neuronpedia takes vectors of at most {_NEURONPEDIA_WIDTH} numbers, and this one has {len(vector)}")
    if not abs(strength) <= _NEURONPEDIA_STRENGTH:
        raise SettingsError(f"Neuronpedia takes strengths from -{_NEURONPEDIA_STRENGTH} to {_NEURONPEDIA_STRENGTH}, not {strength:g}")
    return {
        "modelId": model,
        "layerNumber": layer,
        "hookType": hook,
        "vector": vector.tolist(),
        "vectorDefaultSteerStrength": strength,
        "vectorLabel": label,
    }


_NEURONPEDIA_WIDTH, _NEURONPEDIA_STRENGTH = 24_576, 300
_VECTORS = "ADDRESS/api/vector/new"


def _easysteer_request(path: Path, added: BlockVector) -> str:
    vector = {"source": str(path), "algorithm": "direct", "scale": 1.0, "layers": [added.block], "normalize": False}
    apply = {"prompt_positions": [-1]} if added.positions == "last" else {"prompt": "all"}
    return json.dumps({"vectors": [vector | {"apply": apply | {"generation": "all"}}], "conflict": "priority"})


FORMATS = {
    "gguf": Format(
        _write_gguf,
        lambda path, added: f"llama-cli --model MODEL.gguf --control-vector {path}",
        has_about=True,
        first=1,
        why_not="llama.cpp takes directions from 1 on (block 0's output is impossible there)",
    ),
    "repeng": Format(
        _write_gguf,
        lambda path, added: f'ControlModel(model, [{added.block}]).set_control(ControlVector.import_gguf("{path}"), 1.0)',
        has_about=True,
    ),
    "easysteer": Format(_write_gguf, _easysteer_request, has_about=True, positions="last", suffix=".gguf"),
    "lm-eval": Format(
        _write_lm_eval,
        lambda path, added: f"lm_eval --model steered --model_args pretrained=MODEL,steer_path={path} --tasks TASKS",
        has_about=False,
        suffix=".pt",
    ),
    "neuronpedia": Format(
        _write_neuronpedia,
        lambda path, added: f'curl -H "x-api-key: $NEURONPEDIA_API_KEY" -H "Content-Type: application/json" -d @{path} {_VECTORS}',
        has_about=False,
    ),
    "safetensors": Format(
        _write_safetensors,
        lambda path, added: f"add its one tensor to what decoder block {added.block} (0-based) puts out, at every position",
        has_about=True,
    ),
    "python": Format(
        _write_python,
        lambda path, added: f"from {path.stem} import steered; with steered(model): model.generate(...)",
        has_about=True,
        suffix=".py",
    ),
}
"""Name -> form."""
