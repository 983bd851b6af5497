"""YAML by the core schema of YAML 1.2, in experiment files, configurations and on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workflow_folder import ROOT, Folder

from saesteer.core.errors import SettingsError
from saesteer.core.yaml_1_2 import read_yaml, to_yaml
from saesteer.settings import ExplicitFeatures, Workflow, experiment_of, load_experiment, load_workflow, read_workflow
from saesteer.workflow.project import check_configfile

MICRO = load_experiment("micro", ROOT / "config/experiments").model_dump(mode="json")

# From the tables of YAML 1.2.2, section 10.3.2.
SCALARS = {
    "010": 10, "0003": 3, "0141": 141, "0592": 592, "-012": -12, "+5": 5, "0o14": 12, "0x1F": 31, "0b11": "0b11", "1_000": "1_000",
    "3:20": "3:20", "1:30": "1:30", "1:30.5": "1:30.5", "2001-01-01": "2001-01-01", "2001-01-01 10:00:00": "2001-01-01 10:00:00",
    "yes": "yes", "No": "No", "on": "on", "OFF": "OFF", "y": "y", "n": "n", "true": True, "False": False, "TRUE": True, "tRUE": "tRUE",
    "null": None, "~": None, "": None, "nULL": "nULL", "1e3": 1000.0, "1E-3": 0.001, "1.": 1.0, ".5": 0.5, "-.5e2": -50.0, "1.5": 1.5,
    "0.": 0.0, ".inf": float("inf"), "-.INF": float("-inf"), "e3": "e3", "=": "=", "1.2.3": "1.2.3", "'010'": "010", '"yes"': "yes",
}  # fmt: skip


def read(folder: Path, text: str) -> dict[str, Any]:
    (folder / "some.yaml").write_text(text, encoding="utf-8")
    return read_yaml(folder / "some.yaml")


def test_scalars_are_those_of_the_core_schema(tmp_path: Path) -> None:
    read_so = {scalar: read(tmp_path, f"key: {scalar}\n")["key"] for scalar in SCALARS}
    assert {scalar: (value, type(value)) for scalar, value in read_so.items()} == {
        scalar: (value, type(value)) for scalar, value in SCALARS.items()
    }


@given(st.integers(-(10**6), 10**6), st.integers(0, 5))
def test_leading_zeros_mean_nothing(tmp_path_factory: pytest.TempPathFactory, number: int, n_zeros: int) -> None:
    digits = f"{'-' * (number < 0)}{'0' * n_zeros}{abs(number)}"
    assert read(tmp_path_factory.getbasetemp(), f"key: [{digits}]\n") == {"key": [number]}


def test_features_keep_their_numbers(tmp_path: Path) -> None:
    """As the command line reads 2/0141; 8 and 9 do not make a number decimal that would be octal without them."""
    values = read(tmp_path, "kind: explicit\nfeatures:\n  2: [0003, 0141, 0592, 0653]\n")
    assert ExplicitFeatures.model_validate(values).features == {2: (3, 141, 592, 653)}


REFUSED = {
    "selection: {random_draws: 3:20}": "selection.random_draws: .*integer.*'3:20'",
    "sweep: {factors: [0, 1:30]}": "sweep.factors.1: '1:30' is no decimal number",
    "layers: [yes]": "layers.0: .*integer.*'yes'",
    "layers: [true]": "layers.0: true and false are no numbers",
    "features: {kind: explicit, features: {2: [true]}}": "features.explicit.features.2.0: true and false are no numbers",
    "features: {kind: explicit, features: {true: [2]}}": "features.explicit.features.*true and false are no numbers",
    "sweep: {n_samples: true}": "sweep.n_samples: true and false are no numbers",
    "sweep: {temperature: false}": "sweep.temperature: true and false are no numbers",
    "sweep: {factors: [0, true]}": "sweep.factors.1: .*True",
    "selection: {thresholds: [true, 0.5]}": "selection.thresholds.0: true and false are no numbers",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_number_is_refused_where_one_belongs(tmp_path: Path, text: str) -> None:
    ((section, given_values),) = read(tmp_path, text).items()
    values = MICRO[section] | given_values if isinstance(given_values, dict) and "kind" not in given_values else given_values
    with pytest.raises(SettingsError, match=REFUSED[text]):
        experiment_of(MICRO | {section: values})


@pytest.mark.parametrize(
    "text",
    [
        "{2: [1], 2: [3]}",
        "{2: [1], 02: [3]}",
        "{2: [1], 0x2: [3]}",
        "{2: [1], 2.0: [3]}",
        "{a: 1, 'a': 2}",
        "{a: 1, ? !!str a : 2}",
        "{~: 1, null: 2}",
        "{true: 1, True: 2}",
        "[{b: {a: 1, \"\\x61\": 2}}]",
    ],
)  # fmt: skip
def test_a_key_that_is_given_twice_is_refused_however_it_is_written(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"some.yaml is not readable as YAML: the key .* is given twice"):
        read(tmp_path, f"features: {text}\n")


def test_what_is_merged_may_be_overridden(tmp_path: Path) -> None:
    text = "base: &base {a: 1, b: 2}\nover: {<<: *base, b: 3}\n"
    assert read(tmp_path, text)["over"] == {"a": 1, "b": 3}


def bomb(levels: int, width: int) -> str:
    """Lists of lists of aliases: a few hundred bytes that stand for width to the power of levels."""
    lists = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, levels + 1)]
    return "\n".join(["a0: &a0 [1]", *lists])


HOSTILE = {
    "lists of aliases": (bomb(7, 9), "more than 10,"),
    "merged aliases": (
        "\n".join(["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{p: *a{n - 1}, q: *a{n - 1}}}" for n in range(1, 24)]),
        "more than 10,",
    ),
    "an alias of what it stands in": ("a: &a [*a]", "more than 10,"),
    "nested too deeply": ("a: " + "[" * 2_000, "nested too deeply"),
    "a program": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "a key that is a list": ("? [a]\n: 1", "unhashable"),
    "two documents": ("a: 1\n---\nb: 2", "single document"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_yaml_is_refused_at_once(tmp_path: Path, what: str) -> None:
    text, message = HOSTILE[what]
    with pytest.raises(SettingsError, match=rf"(?s)some\.yaml is not readable as YAML: .*{message}"):
        read(tmp_path, text)


def test_a_long_file_and_a_list_used_again_are_read(tmp_path: Path) -> None:
    features = json.dumps({str(layer): list(range(400)) for layer in range(20)})
    assert len(read(tmp_path, f"features: {features}\n")["features"]) == 20
    values = read(tmp_path, "grid: &grid [0.5, 1]\nsections: [*grid, *grid]\n")
    assert values["sections"] == [[0.5, 1], [0.5, 1]]


CONFIGURATIONS = {
    "part_seconds: 1:30": "part_seconds is 90 .*'1:30'",
    "part_seconds: 010": "part_seconds is 8 .*10",
    "experiments: [yes]": "experiments.0 is True .*'yes'",
    "experiments: [micro]\nexperiments: [tiny]": "the key experiments is given twice",
    "published_digests: {on: x}": "published_digests",
    "a0: &a0 [1]\n" + bomb(7, 9).partition("\n")[2]: "more than 10,",
}


def test_a_configuration_that_snakemake_reads_otherwise_is_refused(tmp_path: Path) -> None:
    """Snakemake reads its configuration by YAML 1.1 and gives it as values."""
    from snakemake.common.configfile import load_configfile

    path = tmp_path / "config.yaml"
    for text, message in CONFIGURATIONS.items():
        path.write_text(f"{text}\n")
        with pytest.raises(SettingsError, match=message):
            check_configfile(path, load_configfile(path))
    path.write_text("experiments: [micro, '010']\npart_seconds: 1e1\ncache_dir: ~\n")
    check_configfile(path, load_configfile(path))
    assert read_workflow(path).part_seconds == 10


def test_the_command_lines_values_are_decimal_too() -> None:
    """As Snakemake parses `--config part_seconds=010 experiments=[010,yes]`."""
    from snakemake.cli import parse_config

    given_values = parse_config(["part_seconds=010", "experiments=[010,yes]"])
    assert load_workflow(given_values) == Workflow(part_seconds=10, experiments=("010", "yes"))
    for value in ("1:30", "yes", "true"):
        with pytest.raises(SettingsError, match="part_seconds: "):
            load_workflow(parse_config([f"part_seconds={value}", "experiments=[micro]"]))


def test_snakemake_refuses_its_configuration_so(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (tmp_path / "config/config.yaml").write_text("experiments: [micro]\npart_seconds: 1:30\n")
    code, output = folder.run("-n")
    assert code == 1
    assert "config/config.yaml: part_seconds is 90 by YAML 1.1, as which Snakemake reads it, but part_seconds: '1:30' by YAML 1.2" in output


TEXTS = ("0o7", "1e3", "010", "yes", "1:30", "~", "", "=", "a\n# b", "\x7f\x85 \u2028", "\N{GRINNING FACE}", "<<")


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_written_is_read(tmp_path: Path, text: str) -> None:
    values = {"text": text, "list": [text, 8, 1e-05, True, None], text: 1}
    (tmp_path / "some.yaml").write_text(to_yaml(values), encoding="utf-8")
    assert read_yaml(tmp_path / "some.yaml") == values
