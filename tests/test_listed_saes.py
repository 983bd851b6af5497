"""`saesteer saes` and the generated tables: what they say of an SAE is what happens when it is asked for."""

import re
from collections import Counter
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from saesteer.cli import app
from saesteer.reference.sae_docs import releases, releases_markdown
from saesteer.settings import SettingsError
from saesteer.sources.sae_sources import directory_file, every_source, listed_source, refusal
from studies import ROOT
from studies.pages.blocks import SAES


def test_what_is_said_of_every_listed_sae_is_what_asking_for_it_gives() -> None:
    """Of each release every eighth, asked for by release and id."""
    verdicts: Counter[bool] = Counter()
    for _, source in list(every_source())[::8]:
        reason = refusal(source)
        if reason is None:
            assert listed_source(source.release, source.id) == source
        else:
            with pytest.raises(SettingsError, match=re.escape(f"{source.name}: {reason}")):
                listed_source(source.release, source.id)
        verdicts[reason is None] += 1
    assert min(verdicts.values()) >= 1
    assert sum(verdicts.values()) > 1700


def test_counts_are_those_of_sae_lens_own_list() -> None:
    theirs: dict[str, Any] = yaml.load(directory_file().read_text(), Loader=yaml.CSafeLoader)
    ours = releases()
    assert {group.name for group in ours} == set(theirs)
    for release, entry in theirs.items():
        groups = [group for group in ours if group.name == release]
        assert sum(group.n for group in groups) == len(entry["saes"])
        assert {group.model for group in groups} == {entry["model"]}
        assert sum(group.n_neuronpedia for group in groups) == sum(1 for sae in entry["saes"] if sae.get("neuronpedia"))
    total, usable = sum(group.n for group in ours), sum(group.n for group in ours if group.reason is None)
    assert f"| {total:,} | {usable:,} |" in SAES.markdown(ROOT).splitlines()[-1]
    assert len(releases_markdown().splitlines()) == 2 + len(ours)
    assert usable == total - 41


def test_principled_refusals() -> None:
    refused = {group.form: group.reason or "" for group in releases() if group.reason}
    assert "cross-layer transcoder" in refused["mntss_clt_layer_transcoder"]
    assert "activations depend on the tokens before" in refused["temporal"]
    assert "had taken the value biases" in refused["connor_rob_hook_z"]
    assert len(refused) == 3


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (
            "llama_scope_lxr_8x",
            "llama_scope_lxr_8x: 32 of meta-llama/Llama-3.1-8B at resid_post; width 8x;"
            " 32 on Neuronpedia, the first llama3.1-8b/0-llamascope-res-32k; yes",
        ),
        ("QWEN3-1.7B-base-W32K-L0_50$", "qwen-scope-3-1.7b-base-w32k-l50: 28 of Qwen/Qwen3-1.7B-Base at resid_post; width 32k; yes"),
        (
            "gpt2-small-res-jb-feature",
            "gpt2-small-res-jb-feature-splitting: 8 of gpt2-small at resid_pre; width 768, 1536, 3072, 6144, 12288, 24576, 49152, 98304;"
            " 8 on Neuronpedia, the first gpt2-small/8-res_fs768-jb; yes",
        ),
    ],
)
def test_the_command(pattern: str, line: str) -> None:
    shown = CliRunner().invoke(app, ["saes", pattern])
    assert shown.exit_code == 0
    assert shown.output.splitlines()[0] == line
    assert shown.output.splitlines()[-1].endswith("SAEs can be used")


def test_a_pattern_that_is_none_is_refused() -> None:
    shown = CliRunner().invoke(app, ["saes", "("])
    assert shown.exit_code == 1
    assert "is not a regular expression" in shown.output
