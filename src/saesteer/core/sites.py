"""Names of the sites at which SAEs sit in a decoder layer, as TransformerLens has them; what each means: saesteer.engine.sites."""

from typing import Literal, get_args

Site = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "hook_z", "mlp_out", "transcoder", "transcoder_normalized", "embedding"]
SITES: tuple[str, ...] = get_args(Site)

CENTRED_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "embedding")
"""Sites whose rows lose their mean where writing weights are centred; heads do not, and a norm's output has lost it before."""
