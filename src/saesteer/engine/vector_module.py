"""A Python module that steers: a vector with a hook for transformers, TransformerLens, nnsight, SGLang and steering-vectors, and without
any file beside it. Nothing of it needs saesteer."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from saesteer.engine.frozen import BlockVector

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


def module_text(one: BlockVector, about: Mapping[str, Any]) -> str:
    """The module's text. What comes from elsewhere (concepts, names) stands in it as a literal only."""
    numbers = base64.b64encode(one.vector.numpy().astype("<f4").tobytes()).decode()
    return _MODULE % {
        "about": json.dumps(about, ensure_ascii=False, sort_keys=True),
        "block": one.block,
        "module": one.module,
        "vector": numbers,
    }
