"""P1's steering of one feature, as arithmetic."""

from jaxtyping import Float
from torch import Tensor

ALGORITHM_VERSION = 1


def amplify(
    residual: Float[Tensor, "*row d_model"],
    direction: Float[Tensor, "*#row d_model"],
    factor: Float[Tensor, "*#row"],
    a_max: Float[Tensor, "*#row"],
) -> Float[Tensor, "*row d_model"]:
    """`residual + factor * a_max * direction`, row by row: "amplify" of P1 (arXiv 2505.20063), section 3.

    The SAE's reconstruction error stays in the residual: adding here equals decoding the edited activations and adding the error. Factor 0
    changes nothing.
    """
    # For an SAE of a model with centred writing weights this is the same edit. That model's residual is this one less its mean; both get
    # the same addition, so they go on differing by a multiple of (1, ..., 1). Every LayerNorm removes such a multiple, whatever it is, so
    # each block adds what it adds there but for another such multiple, and the logits are equal (test_transformer_lens compares them).
    return residual + ((factor * a_max)[..., None] * direction).to(residual.dtype)
