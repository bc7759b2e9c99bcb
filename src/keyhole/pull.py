"""Fetching a model for the engine from the Hugging Face Hub, through huggingface_hub.

Its cache, token, HF_ENDPOINT, HF_HUB_OFFLINE, resuming and progress bar are the library's own.
The snapshot stays in that cache; the models directory holds a link to it.
"""

from __future__ import annotations

import os
from pathlib import Path

from keyhole.engine.library import Library, is_model_name
from keyhole.errors import SetupError

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")


def pull(repo: str, *, revision: str | None, models_dir: Path) -> Path:
    """Fetch a repository's files and make it a model of the engine; raises SetupError.

    Returns the folder that the model's name now leads to.
    """
    if not is_model_name(repo):
        raise SetupError(
            f"{repo!r:.80} is not a repository's name.",
            hint="it looks like openai-community/gpt2",
        )
    snapshot = _download(repo, revision)
    link = models_dir / repo
    link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = _replace_link(link, snapshot)
    try:
        Library(models_dir).find(repo)
    except SetupError:
        _restore_link(link, before)
        raise
    return link


def _download(repo: str, revision: str | None) -> Path:
    # Imported here: half a second that no other command should wait for.
    from huggingface_hub import constants, snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(FILES)))
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
    except LocalEntryNotFoundError:
        raise SetupError(
            f"{repo} is not in the local cache, and the Hub was not reached.",
            hint="check the network, HF_ENDPOINT and HF_HUB_OFFLINE",
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise SetupError(f"{constants.ENDPOINT} answered {status} for {repo}.") from None
    except OSError as error:
        raise SetupError(f"{repo} could not be stored: {error.strerror or error}.") from None


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
