"""Releases and ids against sae-lens' own list and loaders; what names tell is refused before anything is downloaded; `saesteer saes`."""

import re
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from saesteer.cli import app
from saesteer.core.hook_points import HOOK_POINTS
from saesteer.reference.sae_docs import Release, releases, releases_markdown
from saesteer.settings import SaeSettings
from saesteer.sources.sae_sources import FORMS, directory_file, neuronpedia_source, sae_source
from studies import ROOT
from studies.pages.tables import saes_markdown

SIZES = {"d_model": 16, "n_features": 64}


def listed(release: str, sae_id: str, hook_point: str = "resid_post", **more: Any) -> SaeSettings:
    return SaeSettings(release=release, id=sae_id, hook_point=hook_point, **SIZES, **more)


@pytest.fixture(scope="module")
def directory() -> dict[str, Any]:
    """The whole list, parsed at once."""
    values: dict[str, Any] = yaml.load(directory_file().read_text(), Loader=yaml.CSafeLoader)
    return values


@pytest.mark.slow
def test_every_listed_sae_is_found_or_refused_by_name(directory: dict[str, Any]) -> None:
    """All releases (up to 40 SAEs of each), with the layer and hook point that the id itself tells."""
    n_resolved, n_refused = 0, 0
    for release, entry in directory.items():
        for sae in entry["saes"][:: max(1, len(entry["saes"]) // 40)]:
            for layer, hook_point in _guesses(f"{sae['id']} {sae['path']}"):
                try:
                    source = sae_source(listed(release, sae["id"], hook_point), layer)
                except ValueError as error:
                    message = str(error)
                    continue
                n_resolved += 1
                assert (source.repo, source.folder) == (entry["repo_id"], str(sae["path"]))
                assert source.loader == (entry["conversion_func"] or "sae_lens")
                assert source.neuronpedia == sae.get("neuronpedia")
                assert source.norm_scaling_factor == sae.get("norm_scaling_factor")
                break
            else:
                n_refused += 1
                assert sae["id"] in message
                assert any(word in message for word in ("transcoder", "none of the hook points", "activations depend", "heads"))
    assert n_resolved > 1600
    assert 0 < n_refused < 50


def _guesses(name: str) -> list[tuple[int, str]]:
    match = re.search(r"(?:blocks\.|layers?_?|-?[lL])(\d+)", name)
    layer = int(match[1]) if match else 0
    return [(0 if hook_point == "embedding" else layer, hook_point) for hook_point in HOOK_POINTS]


@pytest.mark.slow
def test_hooks_told_by_names_are_those_of_sae_lens(directory: dict[str, Any]) -> None:
    from sae_lens.loading.pretrained_sae_loaders import get_gemma_2_config_from_hf

    n = 0
    for release, entry in directory.items():
        if entry["conversion_func"] != "gemma_2":
            continue
        for sae in entry["saes"]:
            hook = get_gemma_2_config_from_hf(entry["repo_id"], sae["path"], "cpu")["hook_name"]
            hook_point, layer = ("embedding", 0) if hook == "hook_embed" else (hook.split("hook_")[1], int(hook.split(".")[1]))
            assert sae_source(listed(release, sae["id"], "hook_z" if hook_point == "z" else hook_point), layer).hook == hook
            n += 1
    assert n > 1000


@pytest.mark.parametrize(
    ("settings", "layer", "source"),
    [
        (
            listed("gpt2-small-res-jb", "blocks.{layer}.hook_resid_pre", "resid_pre"),
            6,
            ("jbloom/GPT2-Small-SAEs-Reformatted", "blocks.6.hook_resid_pre", "sae_lens", "gpt2-small/6-res-jb"),
        ),
        (
            listed("qwen-scope-3-1.7b-base-w32k-l50", "layer{layer}"),
            3,
            ("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", "layer3.sae.pt", "qwen_scope", None),
        ),
        (SaeSettings(repo="me/saes", id="run/{layer}", **SIZES), 3, ("me/saes", "run/3", None, None)),
    ],
)
def test_published_addresses(settings: SaeSettings, layer: int, source: tuple[str, ...]) -> None:
    resolved = sae_source(settings, layer)
    assert (resolved.repo, resolved.folder, resolved.loader, resolved.neuronpedia) == source
    assert neuronpedia_source(settings, layer) == source[3]


def test_a_folder_has_no_neuronpedia_source() -> None:
    assert neuronpedia_source(SaeSettings(path="saes/{layer}", **SIZES), 3) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            listed("gemma-scope-2b-res-canonical", "layer_3"),
            r"no release 'gemma-scope-2b-res-canonical'. Did you mean 'gemma-scope-2b-pt-res-c",
        ),
        (listed("gpt2-small-res-jb", "blocks.3.resid_pre"), r"has no SAE 'blocks.3.resid_pre'. Did you mean 'blocks.3.hook_resid_pre"),
        (listed("gpt2-small-res-jb", "blocks.3.hook_resid_pre"), r"is at resid_pre of layer 3, but resid_post of layer 3 was asked for"),
        (
            listed("gpt2-small-res-jb", "blocks.5.hook_resid_pre", "resid_pre"),
            r"is at resid_pre of layer 5, but resid_pre of layer 3 was asked",
        ),
        (listed("gpt2-small-resid-mid-v5-32k", "blocks.3.hook_resid_mid"), r"is at resid_mid of layer 3, but resid_post of layer 3 was"),
        (listed("gpt2-small-attn-out-v5-32k", "blocks.3.hook_attn_out"), r"is at attn_out of layer 3, but resid_post"),
        (listed("gemma-scope-2b-pt-mlp-canonical", "layer_3/width_16k/canonical"), r"is at mlp_out of layer 3, but"),
        (listed("gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_6"), r"is at embedding of layer 0, but"),
        (listed("gemma-scope-2-1b-pt-att-all", "layer_3_width_16k_l0_big"), r"is at hook_z of layer 3, but"),
        (listed("gemma-scope-2-1b-pt-transcoders-all", "layer_3_width_16k_l0_big"), r"is at transcoder of layer 3, but"),
        (listed("llama_scope_lxm_8x", "l3m_8x"), r"is at mlp_out of layer 3, but"),
        (listed("gpt2-small-hook-z-kk", "blocks.3.hook_z"), r"heads from which TransformerLens had taken the value biases"),
        (listed("qwen-scope-3-1.7b-base-w32k-l50", "layer4"), r"is at resid_post of layer 4, but resid_post of layer 3 was asked for"),
        (listed("mntss-gemma-2-2b-2.5m-clt-as-per-layer", "layer_3"), r"it is a cross-layer transcoder"),
        (listed("gemma-scope-2b-pt-transcoders", "layer_3/width_16k/average_l0_54"), r"is at transcoder_normalized of layer 3, but"),
        (listed("mwhanna-qwen3-4b-transcoders", "layer_3"), r"is at transcoder of layer 3, but"),
        (listed("temporal-sae-gemma-2-2b", "blocks.12.hook_resid_post"), r"activations depend on the tokens before"),
        (SaeSettings(repo="me/saes", id="blocks.3.hook_mlp_out", **SIZES), r"is at mlp_out of layer 3, but"),
        (
            SaeSettings(repo="me/saes", id="blocks.3.hook_mlp_in", **SIZES),
            r"it reads 'blocks.3.hook_mlp_in', which is none of the hook points",
        ),
        (SaeSettings(path="saes/{layer}", **SIZES), r"saes/\{layer\}: this SAE is a folder"),
    ],
)
def test_what_names_tell_is_refused(settings: SaeSettings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sae_source(settings, 3)


def test_every_form_is_one_that_sae_lens_loads() -> None:
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS

    assert set(FORMS) <= set(NAMED_PRETRAINED_SAE_LOADERS)


@pytest.fixture(scope="module")
def ours() -> tuple[Release, ...]:
    return releases()


def test_counts_are_those_of_sae_lens_own_list(directory: dict[str, Any], ours: tuple[Release, ...]) -> None:
    assert {group.name for group in ours} == set(directory)
    for release, entry in directory.items():
        groups = [group for group in ours if group.name == release]
        assert sum(group.n for group in groups) == len(entry["saes"])
        assert {group.model for group in groups} == {entry["model"]}
        assert sum(group.n_neuronpedia for group in groups) == sum(1 for sae in entry["saes"] if sae.get("neuronpedia"))
    total, usable = sum(group.n for group in ours), sum(group.n for group in ours if group.reason is None)
    assert f"| {total:,} | {usable:,} |" in saes_markdown(ROOT).splitlines()[-1]
    assert len(releases_markdown().splitlines()) == 2 + len(ours)
    assert usable == total - 41


def test_the_command() -> None:
    shown = CliRunner().invoke(app, ["saes", "QWEN3-1.7B-base-W32K-L0_50$|gpt2-small-res-jb-feature"])
    assert shown.exit_code == 0
    assert shown.output.splitlines()[:2] == [
        "gpt2-small-res-jb-feature-splitting: 8 of gpt2-small at resid_pre; width 768, 1536, 3072, 6144, 12288, 24576, 49152, 98304;"
        " 8 on Neuronpedia, the first gpt2-small/8-res_fs768-jb; yes",
        "qwen-scope-3-1.7b-base-w32k-l50: 28 of Qwen/Qwen3-1.7B-Base at resid_post; width 32k; yes",
    ]
    assert shown.output.splitlines()[-1].endswith("SAEs can be used")


def test_a_pattern_that_is_none_is_refused() -> None:
    shown = CliRunner().invoke(app, ["saes", "("])
    assert shown.exit_code == 1
    assert "is not a regular expression" in shown.output
