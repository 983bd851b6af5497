"""Names of the hook points at which SAEs sit in a decoder layer, as TransformerLens has them; what each means:
saesteer.engine.hook_points."""

from typing import Literal, get_args

HookPointName = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_out", "hook_z", "mlp_out", "transcoder", "transcoder_normalized", "embedding"
]
HOOK_POINTS: tuple[str, ...] = get_args(HookPointName)

MODULE_OUTPUTS = {"attn_module": "attn_out", "mlp_module": "mlp_out"}
"""Where SAEs sit whose files name the module itself, in an experiment whose setting says what the module adds. The two differ in families
that normalise the module's output before they add it (Gemma 2), or add the residual inside the module (Bloom)."""

CENTRED_HOOK_POINTS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "embedding")
"""Hook points whose rows lose their mean where writing weights are centred; heads do not, and a norm's output has lost it before."""
