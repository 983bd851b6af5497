"""SAEs of what a block's MLP puts out, as sparsify trains them, and mlp_out, what is added to the residual: where the two differ."""

from pathlib import Path

import pytest
import torch
from engine_models import tiny_model
from model_families import RUN
from torch import Tensor

from saesteer.engine import hook_points
from saesteer.engine.block_parts import probe_ids
from saesteer.engine.models import residuals_at
from saesteer.engine.structure import block_residual
from saesteer.settings import SettingsError, load_experiment
from saesteer.workflow.checks import check_model_config
from saesteer.workflow.families import MLP_OUT_DIFFERS

ROOT = Path(__file__).parents[1]
FEW = ["gemma2", "gemma3_text", "olmo2", "llama", "bloom", "gpt_neox"]


@pytest.mark.parametrize("family", [*FEW, *(pytest.param(one, marks=pytest.mark.exhaustive) for one in sorted(RUN) if one not in FEW)])
def test_families_whose_mlp_module_does_not_put_out_what_is_added_are_known(family: str) -> None:
    """What a plain hook on the block's module `mlp` sees is what mlp_out reads, but for those."""
    lm = tiny_model(family)
    modules = dict(lm.blocks[1].named_children())
    mlp = next((modules[name] for name in ("mlp", "feed_forward", "ffn", "moe", "block_sparse_moe") if name in modules), None)
    try:
        read = hook_points.reading(lm, probe_ids(lm), hook_points.hook_point_of(lm, 1, "mlp_out")).read
    except ValueError as error:
        assert "cannot be made out" in str(error)  # noqa: PT017
        return
    seen: list[Tensor] = []
    if mlp is not None:
        handle = mlp.register_forward_hook(lambda _module, _args, output: seen.append(block_residual(output).clone()))
        residuals_at(lm, probe_ids(lm), [2])
        handle.remove()
        assert torch.equal(seen[0], read) is (family not in MLP_OUT_DIFFERS)


@pytest.mark.parametrize(
    ("model_type", "named", "refused"),
    [("gemma3_text", "layers.3.mlp", True), ("gemma3_text", "layers.3", False), ("llama", "layers.3.mlp", False)],
)
def test_saes_of_the_mlps_own_output_are_refused_where_a_norm_follows(model_type: str, named: str, refused: bool) -> None:
    micro = load_experiment("micro", ROOT / "config/experiments")
    saes = micro.saes.model_copy(update={"path": f"my/saes/{named.replace('3', '{layer}')}", "hook_point": "mlp_out"})
    config = {"text_config": {"model_type": model_type, "hidden_size": saes.d_model, "num_hidden_layers": 8}}
    experiment = micro.model_copy(update={"saes": saes})
    if not refused:
        check_model_config("own", experiment, config, "my/model")
        return
    with pytest.raises(SettingsError, match=r"layers\.\d\.mlp read the MLP's own output, .* family gemma3_text"):
        check_model_config("own", experiment, config, "my/model")
