"""Reading settings: extends, presets, and messages that say which file and key."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from saesteer.core.errors import SettingsError, did_you_mean
from saesteer.core.yaml_1_2 import read_yaml
from saesteer.settings.base import Settings, experiment_name
from saesteer.settings.experiment import Comparison, Experiment, Scores, Sweep, Workflow

T = TypeVar("T", bound="Settings")

KINDS: dict[str, type[Scores] | type[Sweep] | type[Comparison]] = {"scores": Scores, "sweep": Sweep, "comparison": Comparison}
DEFAULT_KIND = "sweep"
_SECTIONS = frozenset(name for kind in KINDS.values() for name in kind.model_fields)
_OF_THE_SHIPPED_MODEL = ("saes.path", "max_activating_examples.texts", "concepts.topics", "perplexity.model.path", "judge.oracle")
"""Keys of an experiment on the shipped world whose values were made for its model."""

_SECTION = "a section with keys of its own belongs here"
_FORMS = dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), _SECTION)
_FORMS["tuple_type"] = "a list belongs here, in brackets: [a, b]"
"""What pydantic says in Python's terms, in YAML's."""

PRESETS: dict[str, dict[str, Any]] = read_yaml(Path(__file__).with_name("presets.yaml"))
"""Name -> the conventions of a paper's own program."""


def load_workflow(values: Mapping[str, Any], source: str = "the configuration") -> Workflow:
    """Validate a workflow configuration that was read already (Snakemake merges files and command line)."""
    return _validated(Workflow, values, source)


def read_workflow(path: Path) -> Workflow:
    """The settings of a configuration file."""
    if not path.is_file():
        raise SettingsError(
            f"there is no {path} here: go to the folder of a project (--configfile names another configuration in it); `saesteer init`"
            " makes this folder a project"
        )
    return load_workflow(read_yaml(path), str(path))


def load_experiment(name: str, *folders: Path, kind: str | None = None) -> Experiment:
    """Read NAME.yaml from the first folder that has it, lay it over the experiment it extends, validate. `kind`: as if the file said so,
    since an experiment of another kind can be made of the sections that it has or extends."""
    values = _merged(name, folders, seen=())
    return experiment_of(values | ({"kind": kind} if kind else {}), str(_file_of(name, folders)))


def derived_from(name: str, workflow: Workflow) -> str | None:
    """The experiment that one of those in the folder of derived ones extends; None of any other experiment."""
    path = _file_of(name, workflow.all_experiments_dirs)
    return read_yaml(path).get("extends") if path.parent == workflow.derived_dir and path.is_file() else None


def _file_of(name: str, folders: Sequence[Path]) -> Path:
    """The experiment's file, or where the first folder would have it."""
    paths = [folder / f"{experiment_name(name)}.yaml" for folder in folders]
    return next((path for path in paths if path.is_file()), paths[0])


def experiment_of(values: Mapping[str, Any], source: str = "the experiment") -> Experiment:
    """Validate the values of an experiment. Sections of other kinds than its own are left out."""
    kind = _kind_of(values, source)
    unread = _unread(values, kind)
    return _validated(KINDS[kind], {key: value for key, value in values.items() if key not in unread}, source)


def _kind_of(values: Mapping[str, Any], source: str) -> str:
    kind = str(values.get("kind", DEFAULT_KIND))
    if kind not in KINDS:
        raise SettingsError(f"{source}: kind: an experiment is of kind {', '.join(KINDS)}, not {kind!r}.{did_you_mean(kind, list(KINDS))}")
    return kind


def _merged(name: str, folders: Sequence[Path], seen: tuple[str, ...]) -> dict[str, Any]:
    """The values of an experiment file, laid over its preset's and over those of the experiment that it extends."""
    path = _file_of(name, folders)
    if not path.is_file():
        names = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
        raise SettingsError(f"experiment {name!r}: there is no file {path}.{did_you_mean(name, names)} Known: {', '.join(names) or 'none'}")
    if name in seen:
        raise SettingsError(f"{path}: key 'extends' runs in a circle: {' -> '.join((*seen, name))}")
    written = read_yaml(path)
    base, preset = written.get("extends"), PRESETS.get(str(written.get("preset")), {})
    inherited = _merged(str(base), folders, (*seen, name)) if base else {}
    kind = _kind_of({**inherited, **written}, str(path))
    if unread := _unread(written, kind):
        what, listed = "them" if unread[1:] else "it", ", ".join(unread)
        raise SettingsError(f"{path}: an experiment of kind {kind} does not read {listed}: {_remedy(what, unread)}")
    if preset and set(preset) == set(_unread(preset, kind)):
        remedy, listed = _remedy("the preset", preset), ", ".join(preset)
        raise SettingsError(f"{path}: preset {written['preset']} sets {listed} only, which kind {kind} does not read: {remedy}")
    values = _overlaid(preset, written)
    return _extended(path, str(base), inherited, values, kind) if base else values


def _unread(values: Iterable[str], kind: str) -> list[str]:
    """The sections that only experiments of other kinds have."""
    return [key for key in values if key in _SECTIONS and key not in KINDS[kind].model_fields]


def _remedy(what: str, sections: Iterable[str]) -> str:
    readers = [kind for kind in KINDS if not _unread(sections, kind)]
    return f"remove {what}" + (f", or write kind: {' or '.join(readers)}" if readers else "")


def _extended(path: Path, base: str, inherited: dict[str, Any], values: dict[str, Any], kind: str) -> dict[str, Any]:
    """`values` laid on those of the experiment that they extend, whose sections of other kinds stay for a file that extends this one in
    turn. Refused where they name another model than the shipped one, but keep what belongs to that."""
    merged = _overlaid(inherited, values)
    same_model = all(_at(merged, key) == _at(inherited, key) for key in ("model.path", "model.repo", "model.package"))
    if inherited.get("seed_of_world") is None or same_model:
        return merged
    for section in _unread((key.split(".")[0] for key in _OF_THE_SHIPPED_MODEL), kind):
        merged.pop(section, None)
    shipped = [key for key in _OF_THE_SHIPPED_MODEL if _at(merged, key) is not None and _at(values, key) is None]
    if shipped:
        raise SettingsError(
            f"{path}: its model is not that of {base}, which it extends, but {', '.join(shipped)} would be {base}'s and belong to the"
            " shipped model: give your own (of concepts and judge also kind: none), or start from `saesteer init`"
        )
    return merged | {"seed_of_world": values.get("seed_of_world")}


def _at(values: Any, key: str) -> Any:
    """The value of a key such as `model.path`; None where there is none."""
    for name in key.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, key by key; what is of another kind, and a map of layers to features, replaces the old one whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if _is_section(old) and _is_section(value) and value.get("kind", old.get("kind")) == old.get("kind"):
            merged[key] = _overlaid(old, value)
        else:
            merged[key] = value
    return merged


def _is_section(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and all(isinstance(name, str) and not name.isdigit() for name in value)


def _validated(kind: type[T], values: Mapping[str, Any], source: str) -> T:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_problem(kind, item)}" for item in error.errors())
        raise SettingsError(f"{source} cannot be used:\n{problems}") from None


def _problem(kind: type[BaseModel], item: Any) -> str:
    path = tuple(str(part) for part in item["loc"])
    where = ".".join(path) or "(top level)"
    unknown, valid = [], []
    if item["type"] == "extra_forbidden":
        unknown, valid = [path[-1]], _keys_at(kind, path[:-1])
    elif item["type"] == "union_tag_not_found":
        valid = _keys_at(kind, path)
        unknown = [key for key in item["input"] if key not in valid] if isinstance(item["input"], Mapping) else []
    if unknown:
        return f"{where}: unknown key {unknown[0]!r}.{did_you_mean(unknown[0], valid)} Valid here: {', '.join(valid)}"
    if item["type"] == "union_tag_not_found":
        return f"{where}: the key kind is missing; add it"
    if item["type"] == "union_tag_invalid":
        context = item["ctx"]
        return f"{where}: kind {context['tag']!r} cannot be used here; kinds that can: {context['expected_tags'].replace(chr(39), '')}"
    if item["type"] == "missing":
        return f"{where}: this key is missing; add it"
    what_is_wrong = _FORMS.get(item["type"]) or item["msg"].removeprefix("Value error, ")
    return f"{where}: {what_is_wrong} (given: {item['input']!r:.80})"


def _keys_at(kind: Any, path: tuple[str, ...]) -> list[str]:
    """Keys valid at a place in the settings tree. Where a section is of several kinds, the path names the kind after the section."""
    members = [kind] if isinstance(kind, type) else [member for member in get_args(kind) if isinstance(member, type)]
    of_kind = [member for member in members if "kind" in _fields(member)]
    if len(of_kind) > 1 and path:
        members = [member for member in of_kind if path[0] in get_args(_fields(member)["kind"].annotation)]
        path = path[1:]
    if not path:
        return sorted({name for member in members for name in _fields(member)})
    return next((_keys_at(fields[path[0]].annotation, path[1:]) for fields in map(_fields, members) if path[0] in fields), [])


def _fields(section: Any) -> dict[str, Any]:
    return dict(getattr(section, "model_fields", {}))
