"""Vector files of other programs, each with what its reader needs: where the vector is added, how it is named, what cannot be said.

Read in the consumers' own sources; `tests/test_vector_consumers.py` reads the files back with the consumers themselves.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from saesteer.core.errors import SettingsError
from saesteer.core.files import write_atomically, write_json, write_text
from saesteer.engine.frozen import BlockVector

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
