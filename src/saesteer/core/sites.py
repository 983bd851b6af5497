"""Names of the sites at which SAEs sit in a decoder layer, as TransformerLens has them; what each means: saesteer.engine.sites."""

from typing import Literal, get_args

Site = Literal[
    "resid_pre", "resid_mid", "resid_post", "attn_out", "hook_z", "mlp_out", "transcoder", "transcoder_normalized", "embedding"
]
SITES: tuple[str, ...] = get_args(Site)
