"""Fetch models and other files from the Hugging Face hub, at a pinned commit, into Hugging Face's own cache.

Of models only configuration, tokenizer and safetensors files are fetched, never pickled weights. Each file's bytes are compared with the
hash that the hub gave it (the cache names a file after it), so a damaged file is found whenever it came, with or without network.

huggingface_hub is imported inside the functions, and its endpoint (HF_ENDPOINT), offline mode (HF_HUB_OFFLINE) and token (HF_TOKEN,
`hf auth login`) are its own.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saesteer.core.errors import SaesteerError
from saesteer.core.files import file_digest
from saesteer.sources.embedding_model import LENGTHS, MODULES, POOLING

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

log = logging.getLogger(__name__)

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    MODULES,
    LENGTHS,
)
"""What is fetched of a model beside its weights, where the repository has it."""

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")

Choose = Callable[[str, Mapping[str, int]], list[str]]
"""From a repository's name and its files (name -> bytes), those that are fetched; refuses a repository that lacks what is needed."""


class HubError(SaesteerError, RuntimeError):
    """A repository, revision or file that cannot be had, with what to do about it."""


@dataclass(frozen=True)
class Fetched:
    """Files of one commit of a repository, on this machine."""

    folder: Path  # the commit's folder in Hugging Face's cache
    repo: str
    commit: str
    files: dict[str, str]  # name in the folder -> SHA-256 of its bytes


def fetch_model(repo: str, revision: str | None, cache_dir: Path | None) -> Fetched:
    """Download a model (or find it in the cache), check every file's bytes, and say what it is.

    `revision` is a commit, branch or tag, null the default branch; `cache_dir` holds Hugging Face's cache in `hub/`, null its default.
    """
    fetched = fetch_files(repo, revision, model_files, cache_dir, needed=SMALL_FILES)
    index = fetched.folder / _INDEX
    if _INDEX in fetched.files:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        missing = sorted(shard for shard in shards if not (_SHARD.fullmatch(shard) and (fetched.folder / shard).is_file()))
        if missing:
            raise HubError(
                f"{repo}: {missing[0]} is listed in {_INDEX} but is not in {fetched.folder}; fetch the model again where the hub is"
                " reachable"
            )
    if MODULES not in fetched.files:
        return fetched
    pooling = fetch_files(
        repo, fetched.commit, lambda _, listing: [name for name in listing if name == POOLING], cache_dir, inside=str(Path(POOLING).parent)
    )
    return replace(fetched, files=fetched.files | pooling.files)


def chosen(needed: Sequence[str], optional: Sequence[str], hint: str) -> Choose:
    """Those needed, and the optional ones that are there; `hint` goes on from what a repository is said to lack."""

    def choose(repo: str, listing: Mapping[str, int]) -> list[str]:
        if missing := [name for name in needed if name not in listing]:
            raise HubError(f"{repo} has no {missing[0]}{hint}")
        return [*needed, *(name for name in optional if name in listing)]

    return choose


def model_config(repo: str, revision: str | None, cache_dir: Path | None) -> dict[str, Any]:
    """A model's config.json: its family, width and depth, before anything large is downloaded."""
    names = ("config.json",)
    fetched = fetch_files(repo, revision, chosen(names, (), ": it is no model that transformers can load"), cache_dir, needed=names)
    return dict(json.loads((fetched.folder / "config.json").read_text(encoding="utf-8")))


def model_tokenizer(repo: str, revision: str | None, cache_dir: Path | None) -> Path:
    """Folder with a model's tokenizer and settings, without its weights."""
    names = ("config.json", "tokenizer.json")
    choose = chosen(names, ("tokenizer_config.json",), ": choose a repository with one")
    return fetch_files(repo, revision, choose, cache_dir, needed=names).folder


def repo_size(repo: str, revision: str | None) -> int:
    """Bytes that `fetch_model` downloads when nothing is there yet."""
    listing = file_sizes(repo, revision, "")
    return sum(listing[name] for name in model_files(repo, listing))


def file_sizes(repo: str, revision: str | None, inside: str) -> dict[str, int]:
    """Bytes of each file in a folder of a repository, "" its top."""
    with _explained(repo, revision):
        _, listing = _with_retries(lambda: _hub_listing(repo, revision, inside))
    return listing


def check_access(repo: str) -> None:
    """Refuse a repository that this user may not read: it does not exist, is private, or its licence was not accepted."""
    from huggingface_hub import HfApi

    with _explained(repo, None):
        _with_retries(lambda: HfApi().model_info(repo))  # whose answer is read, so that no other server's is taken for the hub's
        _with_retries(lambda: HfApi().auth_check(repo))


def model_files(repo: str, listing: Mapping[str, int]) -> list[str]:
    """Names of the files of a model that are fetched: small ones and the weights that transformers loads, at the top of the repository."""
    for name in ("config.json", "tokenizer.json"):
        if name not in listing:
            raise HubError(f"{repo} has no {name}; needed are config.json, tokenizer.json and safetensors: choose a repository with them")
    if _WEIGHTS in listing:
        weights = [_WEIGHTS]
    elif _INDEX in listing:
        weights = [_INDEX, *sorted(name for name in listing if _SHARD.fullmatch(name))]
    else:
        unusable = sorted(name for name in listing if name.endswith((".bin", ".pt", ".pth", ".safetensors", ".h5", ".gguf")))
        raise HubError(
            f"{repo} has neither {_WEIGHTS} nor {_INDEX} (weights there: {', '.join(unusable) or 'none'}); pickled weights are never"
            " loaded: choose a repository or revision with safetensors"
        )
    return [name for name in SMALL_FILES if name in listing] + weights


def fetch_files(
    repo: str, revision: str | None, choose: Choose, cache_dir: Path | None, needed: tuple[str, ...] = (), inside: str = ""
) -> Fetched:
    """Fetch the files that `choose` picks among those at the top of a repository, or below the folder `inside`, and check their bytes.

    Where the hub cannot be reached the cache answers, if it has the files; `needed` are names that must not be missing from it.
    """
    from huggingface_hub import snapshot_download

    def download() -> tuple[Path, list[str]]:
        commit, listing = _hub_listing(repo, revision, inside)
        names = choose(repo, listing)
        patterns = [glob.escape(name) for name in names]
        folder = Path(snapshot_download(repo, revision=revision, cache_dir=_hub_cache(cache_dir), allow_patterns=patterns))
        if folder.name != commit:
            raise HubError(
                f"{repo}: {revision or 'main'} moved from commit {commit} to {folder.name} meanwhile; run the same command again"
            )
        return folder, names

    started = time.monotonic()
    with _explained(repo, revision):
        try:
            folder, names = _with_retries(download)
        except Exception as error:
            if not _unreachable(error):
                raise
            folder = _cached_folder(repo, revision, cache_dir, needed, _reason(error))
            cached = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            names = choose(repo, {path.relative_to(folder).as_posix(): path.stat().st_size for path in cached})
            log.warning("%s: the hub did not answer (%s); using commit %s from the cache", repo, _reason(error), folder.name)
    files = {name: _checked_digest(repo, folder / name) for name in names}
    n_bytes = sum((folder / name).stat().st_size for name in names)
    log.info("%s at commit %s: %d files, %d bytes, %.1f s", repo, folder.name, len(names), n_bytes, time.monotonic() - started)
    return Fetched(folder, repo, folder.name, files)


def _hub_listing(repo: str, revision: str | None, inside: str) -> tuple[str, dict[str, int]]:
    """The commit a revision stands for now, and the bytes of its files at the top or below a folder."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    commit = str(api.model_info(repo, revision=revision).sha)
    entries = api.list_repo_tree(repo, path_in_repo=inside or None, recursive=bool(inside), revision=commit)
    return commit, {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}


def _with_retries(call: Callable[[], Any]) -> Any:
    """huggingface_hub retries downloads but not questions to its API."""
    from huggingface_hub import get_session
    from tenacity import before_sleep_log

    from saesteer.sources.http import COMMAND, opening, retrying

    with opening():
        get_session()
    return retrying(COMMAND, _transient, before_sleep_log(log, logging.WARNING))(call)()


def _transient(error: BaseException) -> bool:
    """Whether the same request may well succeed in a moment: the hub is busy or broke off. A refused connection is not transient."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError

    from saesteer.sources.http import is_transient

    if isinstance(error, HfHubHTTPError):
        return error.response is not None and is_transient(error.response.status_code)
    if isinstance(error, LocalEntryNotFoundError):
        return error.__cause__ is not None and _transient(error.__cause__)
    return isinstance(error, HTTPError) and "Connect" not in type(error).__name__


def _unreachable(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    transport = isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError)
    return transport or isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | json.JSONDecodeError) or _transient(error)


def _reason(error: BaseException) -> str:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, json.JSONDecodeError):
        return "something other than the hub answered, perhaps a login page: log in to the network, or correct the proxy or HF_ENDPOINT"
    if isinstance(error, HfHubHTTPError):
        return f"HTTP {error.response.status_code}"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"


@contextmanager
def _explained(repo: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub answers into what to do about it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.errors import HFValidationError as BadName

    page, hub = f"{constants.ENDPOINT}/{repo}", f"the hub at {constants.ENDPOINT}"
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    try:
        yield
    except GatedRepoError as error:
        raise HubError(
            f"{repo} is gated{_sentence(error)}: accept its licence at {page}, then {log_in} (a fine-grained token has to allow gated"
            " repositories), and run the same command again"
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(f"{repo}: no such repository at {page}; check its name, or, if it is private, {log_in}") from error
    except RevisionNotFoundError as error:
        raise HubError(f"{repo} has no revision {revision!r}; its commits and branches are listed at {page}/commits/main") from error
    except BadName as error:
        raise HubError(f"{repo!r} is not the name of a repository (owner/name): {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        advice = f"the token is wrong or has expired: {log_in} with another" if status == 401 else f"try again later, or {log_in}"
        raise HubError(f"{repo}: {hub} answered HTTP {status}{_sentence(error)}: {advice}") from error
    except Exception as error:
        if not _unreachable(error):
            raise
        raise HubError(f"{repo}: {hub} cannot be reached ({_reason(error)}); check the network") from error


def _sentence(error: HfHubHTTPError) -> str:
    """What the hub itself says of a refusal, after a comma."""
    return f", {' '.join(error.server_message.split())}" if error.server_message else ""


def _cached_folder(repo: str, revision: str | None, cache_dir: Path | None, needed: tuple[str, ...], reason: str) -> Path:
    """The commit's folder in the cache; refused when it is not there, or when the cache knows that needed files are missing from it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    cache = _hub_cache(cache_dir)
    try:
        return Path(snapshot_download(repo, revision=revision, cache_dir=cache, local_files_only=True, allow_patterns=list(needed)))
    except LocalEntryNotFoundError as error:
        option = f" --cache-dir {cache}" if cache_dir else ""
        raise HubError(
            f"{repo} at {revision or 'main'} is not, or not wholly, in the cache {cache}, and it cannot be downloaded ({reason}). Where the"
            f" hub can be reached, run `hf download {repo} --revision {revision or 'main'}{option}`, or run this command there; then make"
            " that cache visible here, or copy it"
        ) from error


def hugging_face_folder() -> Path:
    """The folder of Hugging Face's own files."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME)


def _hub_cache(cache_dir: Path | None) -> Path:
    from huggingface_hub import constants

    return cache_dir / "hub" if cache_dir else Path(constants.HF_HUB_CACHE)


def _checked_digest(repo: str, file: Path) -> str:
    """A file's SHA-256, refused when its bytes are not those that the hub has: the cache names a file after its hash there.

    That is SHA-256 for large files (LFS), git's SHA-1 of a blob for the others.
    """
    from huggingface_hub.utils.sha import git_hash

    digest = file_digest(file)
    expected = Path(os.readlink(file)).name if file.is_symlink() else ""
    if len(expected) == 64:
        actual = digest
    elif len(expected) == 40:
        actual = git_hash(file.read_bytes())
    else:
        log.warning("%s: the cache does not say which bytes %s should have (it keeps no links); they are not compared", repo, file.name)
        return digest
    if actual != expected:
        raise HubError(
            f"{repo}: {file.name} has hash {actual[:12]}..., but the hub gives it {expected[:12]}...; it is not used: delete"
            f" {file.resolve()} and run the same command again"
        )
    return digest
