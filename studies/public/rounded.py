"""An SAE's matrices in eight bits: each feature's encoder column and decoder row as integers from -127 to 127 times a scale of its own.

`saesteer.engine.sae_read` reads the form; sae-lens refuses it, as it has no tensor `W_enc`.
"""

import json
from pathlib import Path

import torch
from jaxtyping import Float, Int8
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS = "sae_weights.safetensors"


def rounded(rows: Float[Tensor, "feature d_model"]) -> tuple[Int8[Tensor, "feature d_model"], Float[Tensor, " feature"]]:
    """Integers and the scale of each row that gives its largest weight 127."""
    scale = rows.abs().amax(dim=1) / 127
    return (rows / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round().to(torch.int8), scale


def save_rounded(source: Path, out: Path) -> None:
    """The SAE of the folder `source` (sae-lens' form, JumpReLU or TopK), its matrices rounded."""
    weights = load_file(source / WEIGHTS)
    matrices = {"W_enc": weights.pop("W_enc").T, "W_dec": weights.pop("W_dec")}
    stored = {name: tensor.float() for name, tensor in weights.items()}
    for name, rows in matrices.items():
        stored[f"{name}.int8"], stored[f"{name}.scale"] = (tensor.contiguous() for tensor in rounded(rows.float()))
    out.mkdir(parents=True, exist_ok=True)
    save_file(stored, out / WEIGHTS)
    config = json.loads((source / "cfg.json").read_text(encoding="utf-8"))
    (out / "cfg.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
