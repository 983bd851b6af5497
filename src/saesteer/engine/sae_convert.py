"""Fetch an SAE and convert it to the plain files that `saesteer.engine.saes` reads, or to an `Sae` in memory.

The only modules that import sae-lens are this one's helpers, inside the functions that need it: importing it takes seconds and brings
training tools along. sae-lens reads each published form (`engine.sae_read`); its arithmetic becomes five tensors (`engine.sae_plain`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save, save_file

from saesteer.core.files import file_digest, safetensors_fault, value_digest, write_atomically, write_json
from saesteer.core.sites import SITES
from saesteer.engine.sae_plain import Plain, Spec, check_config, check_shape, plain, with_unit_rows
from saesteer.engine.sae_read import config_of, npz_shape, read
from saesteer.engine.saes import Sae, SaeMeta, placed, read_meta
from saesteer.settings import SaeSettings
from saesteer.sources.hub import Fetched, HubError, fetch_files
from saesteer.sources.pins import SAE_FILES, is_current, pin
from saesteer.sources.sae_sources import FORMS, SaeSource, files_of, folder_of, listed_source, local_source, sae_source, with_form

ALGORITHM_VERSION = 3


@dataclass(frozen=True)
class _Origin:
    """What the converted file will say of where it comes from."""

    source: str
    source_digest: str


def fetch_and_convert(settings: SaeSettings, layer: int, cache_dir: Path | None, out: Path) -> SaeMeta:
    """Convert the SAE of a layer, fetched from the hub at the pinned revision. What is current is left as it is.

    `cache_dir` holds Hugging Face's cache in `hub/`, null its default place.
    """
    expected = Spec(layer, settings.site, settings.d_model, settings.n_features)
    _check_request(expected, out)
    source, fetched, origin = _fetch(sae_source(settings, layer), settings.revision, cache_dir, expected)
    made_from = {"decoder_rows": settings.decoder_rows, "converter_version": ALGORITHM_VERSION}
    if is_current(out, asdict(origin) | asdict(expected) | made_from):
        return read_meta(out)
    return _write(origin, out, _fetched(source, fetched, expected), settings.decoder_rows)


def convert_sae(source: Path, layer: int, site: str, d_model: int, n_features: int, out: Path, decoder_rows: str = "as_trained") -> SaeMeta:
    """Read an SAE's folder in one of the forms (saesteer.sources.sae_sources.FORMS), check that it is the SAE asked for, write `out`
    (.safetensors, float32) and the JSON beside it. `decoder_rows` is the setting of that name."""
    expected = Spec(layer, site, d_model, n_features)
    _check_request(expected, out)
    return _write(_local_origin(source), out, _from_folder(source, expected), decoder_rows)


def check_sae(settings: SaeSettings, layer: int, cache_dir: Path | None) -> None:
    """Refuse the SAE of a layer that conversion would refuse, by its configuration; of one on the hub, that alone is fetched."""
    expected = Spec(layer, settings.site, settings.d_model, settings.n_features)
    if settings.path is None:
        _configured(sae_source(settings, layer), settings.revision, cache_dir, expected)
    else:
        _check_config(*_local(Path(settings.path.format(layer=layer))), expected)


def published_sae(release: str, sae_id: str, revision: str | None, cache_dir: Path | None, dtype: str, device: str) -> Sae:
    """An SAE of a release that sae-lens lists, fetched from the hub (or found in its cache) at a revision, null the newest."""
    source, fetched, origin = _fetch(listed_source(release, sae_id), revision, cache_dir, None)
    return _in_memory(origin, _fetched(source, fetched, None), dtype, device)


def sae_from_folder(folder: Path, dtype: str, device: str) -> Sae:
    """The SAE in a folder."""
    return _in_memory(_local_origin(folder), _from_folder(folder, None), dtype, device)


def sae_from_object(sae: Any, dtype: str, device: str) -> Sae:
    """The SAE that sae-lens has loaded or trained, an `sae_lens.SAE`."""
    made = plain("the SAE given", sae, None)
    return _in_memory(_Origin("an SAE object", hashlib.sha256(save(made.tensors)).hexdigest()), made, dtype, device)


def _in_memory(origin: _Origin, made: Plain, dtype: str, device: str) -> Sae:
    """As `_write` and `load_sae` give it, without a file; its SHA-256 is that of the file that would be written."""
    _check_numbers(origin, made)
    return placed(made.tensors, _meta(origin, made, hashlib.sha256(save(made.tensors)).hexdigest()), dtype, device)


def _check_request(expected: Spec, out: Path) -> None:
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: a converted SAE's name ends in .safetensors")
    if expected.site not in SITES:
        raise ValueError(f"site {expected.site!r} is not supported; supported: {', '.join(SITES)}")


def _write(origin: _Origin, out: Path, made: Plain, decoder_rows: str) -> SaeMeta:
    _check_numbers(origin, made)
    made = with_unit_rows(origin.source, made) if decoder_rows == "unit" else made
    write_atomically(out, lambda partial: save_file(made.tensors, partial))
    meta = _meta(origin, made, file_digest(out))
    write_json(out.with_suffix(".json"), asdict(meta))
    return meta


def _check_numbers(origin: _Origin, made: Plain) -> None:
    for name, tensor in made.tensors.items():
        if bool(tensor.isnan().any()):
            raise ValueError(f"{origin.source}: tensor {name} contains NaN; fetch or train this SAE again")


def _meta(origin: _Origin, made: Plain, sha256: str) -> SaeMeta:
    values = {name: value for name, value in vars(made).items() if name not in ("tensors", "spec")}
    return SaeMeta(**asdict(origin), converter_version=ALGORITHM_VERSION, sha256=sha256, **values, **asdict(made.spec))


def _fetch(source: SaeSource, revision: str | None, cache_dir: Path | None, expected: Spec | None) -> tuple[SaeSource, Fetched, _Origin]:
    """The SAE's files; its configuration first, so that an SAE that cannot be used is refused before its weights are downloaded."""
    source, configs = _configured(source, revision, cache_dir, expected)
    names = files_of(source)
    weights = _fetch_named(source, configs.commit or revision, cache_dir, (names.weights,), names.optional)
    fetched = replace(weights, files=configs.files | weights.files)
    return source, fetched, _Origin(f"{source.repo}@{fetched.commit}/{source.folder}", _digest(source, fetched))


def _configured(source: SaeSource, revision: str | None, cache_dir: Path | None, expected: Spec | None) -> tuple[SaeSource, Fetched]:
    """The SAE with its form, and its configuration, which is checked; of a form without one, no files."""
    source = _with_form_on_hub(source, revision, cache_dir) if source.loader is None else source
    names, configs = files_of(source), Fetched(Path(), source.repo, "", {})
    if names.configs:
        configs = _fetch_named(source, revision, cache_dir, names.configs, ())
    _check_config(source, configs, expected)
    return source, configs


def _with_form_on_hub(source: SaeSource, revision: str | None, cache_dir: Path | None) -> SaeSource:
    """The SAE of a repository that is in no list, with the form that its files' names tell."""
    told: list[SaeSource] = []

    def choose(repo: str, listing: Mapping[str, int]) -> list[str]:
        told.append(with_form(source, listing))
        return list(files_of(told[-1]).configs)

    fetch_files(source.repo, revision, choose, cache_dir, inside=source.folder)
    return told[-1]


def _fetch_named(
    source: SaeSource, revision: str | None, cache_dir: Path | None, wanted: tuple[str, ...], extra: tuple[str, ...]
) -> Fetched:
    def choose(repo: str, listing: Mapping[str, int]) -> list[str]:
        for name in wanted:
            if name not in listing:
                raise HubError(f"{repo} has no {name}, which an SAE of this form ({source.loader}) consists of; check the id and revision")
        return [*wanted, *(name for name in extra if name in listing)]

    return fetch_files(source.repo, revision, choose, cache_dir, needed=wanted + extra, inside=folder_of(source))


def _digest(source: SaeSource, fetched: Fetched) -> str:
    """Of the files and of what sae-lens' list adds to them. The commit is no part of it: the same bytes are the same SAE."""
    return value_digest([source.loader, source.norm_scaling_factor, dict(source.overrides), fetched.files])


def _check_config(source: SaeSource, fetched: Fetched, expected: Spec | None) -> None:
    """Refuse what the configuration tells, where it is known without the weights."""
    if FORMS[str(source.loader)].config_first:
        check_config(source.name, config_of(source, fetched), expected, source.norm_scaling_factor is not None)


def _fetched(source: SaeSource, fetched: Fetched, expected: Spec | None) -> Plain:
    weights = fetched.folder / files_of(source).weights
    if weights.suffix == ".npz" and expected:
        check_shape(source.name, npz_shape(weights), expected)
    return plain(source.name, read(source, fetched), expected)


def _local_origin(folder: Path) -> _Origin:
    return _Origin(folder.as_posix(), pin(folder, patterns=SAE_FILES)["digest"])


def _local(folder: Path) -> tuple[SaeSource, Fetched]:
    """A folder is part of a repository on this machine."""
    source = local_source(folder)
    names, repository = files_of(source), Path(source.release)
    there = (name for name in (*names.configs, names.weights, *names.optional) if (repository / name).is_file())
    return source, Fetched(repository, source.repo, "", dict.fromkeys(there, ""))


def _from_folder(folder: Path, expected: Spec | None) -> Plain:
    source, fetched = _local(folder)
    _check_config(source, fetched, expected)
    weights = fetched.folder / files_of(source).weights
    if weights.suffix == ".safetensors" and (fault := safetensors_fault(weights)):
        raise ValueError(f"{weights}: not a readable safetensors file ({fault}); fetch or copy it again")
    return _fetched(source, fetched, expected)
