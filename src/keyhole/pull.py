"""Fetching a model for the engine from the Hugging Face Hub, through huggingface_hub.

Its cache, token, HF_ENDPOINT, HF_HUB_OFFLINE, retries and progress bar are the library's own.
The snapshot stays in that cache; the models directory holds a link to it. The small files come
first, so that a model which the engine cannot run is refused before its weights are fetched.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from keyhole.engine.folder import CONFIG, GENERATION, TOKENIZER, WEIGHTS, read_architecture
from keyhole.engine.library import Library, is_model_name
from keyhole.errors import SetupError

SMALL_FILES = (CONFIG, GENERATION, TOKENIZER)


def pull(repo: str, *, revision: str | None, models_dir: Path) -> Path:
    """Fetch a repository's files and make it a model of the engine; raises SetupError.

    Returns the folder that the model's name now leads to.
    """
    if not is_model_name(repo):
        raise SetupError(
            f"{repo!r:.80} is not a repository's name.",
            hint="it looks like openai-community/gpt2",
        )
    snapshot = _download(repo, revision, SMALL_FILES)
    _check_has(snapshot, CONFIG, repo)
    read_architecture(repo, snapshot)
    _check_has(snapshot, TOKENIZER, repo)
    snapshot = _download(repo, snapshot.name, (*SMALL_FILES, WEIGHTS))
    _check_has(snapshot, WEIGHTS, repo)
    try:
        return _link(models_dir, repo, snapshot)
    except OSError as error:
        raise SetupError(f"{models_dir / repo} cannot be made: {error.strerror}.") from None


def _check_has(snapshot: Path, name: str, repo: str) -> None:
    if not (snapshot / name).exists():
        raise SetupError(
            f"{repo} has no {name}, which the engine needs.",
            hint="it reads GPT-2 in one safetensors file with a fast tokenizer,"
            " as openai-community/gpt2 has it",
        )


def _link(models_dir: Path, repo: str, snapshot: Path) -> Path:
    """Make the snapshot a model of that name, unless the engine cannot run it."""
    link = models_dir / repo
    link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if link.parent != models_dir and (link.parent / CONFIG).exists():
        raise SetupError(f"{link.parent} is a model itself.", hint=f"move it away to pull {repo}")
    before = _replace_link(link, snapshot)
    try:
        Library(models_dir).find(repo)
    except SetupError:
        _restore_link(link, before)
        raise
    return link


def _download(repo: str, revision: str | None, files: Sequence[str]) -> Path:
    # Imported here: half a second that no other command should wait for.
    from huggingface_hub import constants, snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(files)))
    except GatedRepoError:
        raise SetupError(
            f"{repo} is gated, and this token may not read it.",
            hint=f"ask for access at {constants.ENDPOINT}/{repo}, then run hf auth login",
        ) from None
    except RepositoryNotFoundError:
        raise SetupError(
            f"There is no model repository {repo} on {constants.ENDPOINT}, or it is private.",
            hint="check the name; for a private one set HF_TOKEN or run hf auth login",
        ) from None
    except RevisionNotFoundError:
        raise SetupError(f"{repo} has no revision '{revision}'.") from None
    except HFValidationError:
        raise SetupError(
            f"{repo!r:.80} is not a repository's name.", hint="it looks like openai-community/gpt2"
        ) from None
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HfHubHTTPError):
            raise _refusal(repo, constants.ENDPOINT, error.__cause__.response.status_code) from None
        raise SetupError(
            f"{repo} is not in the local cache, and the Hub was not reached.",
            hint="check the network, HF_ENDPOINT and HF_HUB_OFFLINE",
        ) from None
    except HfHubHTTPError as error:
        raise _refusal(repo, constants.ENDPOINT, error.response.status_code) from None
    except OSError as error:
        raise SetupError(f"{repo} could not be stored: {error.strerror or error}.") from None
    except Exception as error:  # noqa: BLE001  # two HTTP libraries stand below, each with its own
        raise SetupError(
            f"{repo} was not fetched: the connection to {constants.ENDPOINT} failed"
            f" ({type(error).__name__}).",
            hint="run it again: the files that are whole are kept",
        ) from None


def _refusal(repo: str, endpoint: str, status: int) -> SetupError:
    if status == 401:
        return SetupError(
            f"{endpoint} refused the token (401).", hint="run hf auth login, or set HF_TOKEN anew"
        )
    return SetupError(f"{endpoint} answered {status} for {repo}.")


def _replace_link(link: Path, folder: Path) -> Path | None:
    """Point the link at a folder, in one step; what it pointed at before, if anything."""
    before = link.readlink() if link.is_symlink() else None
    if link.exists() and before is None:
        raise SetupError(f"{link} is a folder of your own.", hint="move it away to pull the model")
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.symlink_to(folder, target_is_directory=True)
    fresh.replace(link)
    return before


def _restore_link(link: Path, before: Path | None) -> None:
    if before is None:
        link.unlink(missing_ok=True)
    else:
        _replace_link(link, before)
