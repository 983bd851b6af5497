"""YAML by the core schema of version 1.2 (yaml.org/spec/1.2.2, section 10.3): 010 is ten, and 1:30 and yes are texts.

PyYAML reads and writes version 1.1, in which they are 8, 90 and true.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from saesteer.core.errors import SettingsError
from saesteer.core.files import regular_file

_PLAIN = {
    "null": ("null|Null|NULL|~|", "nN~"),
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": ("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": ("<<", "<"),  # of version 1.1, which files use to share a section
}
"""Kind -> what plain scalars are of it, and the characters that they begin with."""
_MOST_BY_ALIASES = 10_000


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (as PyYAML declares it)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


for _kind, (_pattern, _first) in _PLAIN.items():
    _rule = (f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$"))
    for _character in (*_first, "") if _kind == "null" else _first:
        _Loader.yaml_implicit_resolvers.setdefault(_character, []).append(_rule)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(re.sub(r"\.(?=[a-z])", "", node.value.lower())))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file holding a mapping."""
    try:
        values = parse_yaml(regular_file(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(f"{path} is not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds no keys: expected lines such as `model: ...`")
    return values


def parse_yaml(text: str) -> Any:
    """What a document says. Refused where a mapping has a key twice, of which YAML takes the last, and where aliases make it many times
    as long as it is written."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _check(loader, root, len(text) + _MOST_BY_ALIASES)
        return loader.construct_document(root)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    finally:
        loader.dispose()


def _check(loader: _Loader, root: yaml.Node, most: int) -> None:
    left, n_values, checked = [root], 0, set[int]()
    while left:
        node, n_values = left.pop(), n_values + 1
        if n_values > most:
            raise yaml.YAMLError(f"with its aliases written out it has more than {most:,} values")
        if isinstance(node, yaml.MappingNode):
            if id(node) not in checked:
                _refuse_repeated(loader, node)
                checked.add(id(node))
            left += [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            left += node.value


def _refuse_repeated(loader: _Loader, node: yaml.MappingNode) -> None:
    before = set[Any]()
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
        value = loader.construct_object(key)
        if value in before:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} is given twice", key.start_mark)
        before.add(value)


def to_yaml(values: Any, **options: Any) -> str:
    """Values as a document that `parse_yaml` reads as them."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **options))


def quoted(text: str) -> str:
    """A text between quotation marks, on one line."""
    return to_yaml(text, default_style='"', width=float("inf")).strip()
