"""Where a model lies: a local folder, or files of a Hugging Face hub id in its cache.

Only the files of the reference layout are fetched, and one form of the weights. Works offline from
the hub's cache. Knows nothing of what the files hold.
"""

import re
from pathlib import Path

from tercet.errors import InputError, ModelError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SMALL_FILES = [
    "config.json",
    "tercet.json",
    "tokenizer.json",
    "sparse_linear.pt",
    "colbert_linear.pt",
    "sparse_linear.safetensors",
    "colbert_linear.safetensors",
]
_SAFETENSORS = [
    "model.safetensors",
    "model.safetensors.index.json",
    "model-?????-of-?????.safetensors",
]
_PIECES = ["sentencepiece.bpe.model"]
_BIN = ["pytorch_model.bin"]


def fetch(source: str | Path, revision: str | None = None) -> Path:
    """The local folder of a model; raises ModelError in words where it cannot be had.

    revision pins a branch, tag or commit of a hub id; raises InputError where given for a folder.
    """
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise InputError(f"{folder} is a folder: a revision is for hub ids only")
        return folder
    if folder.exists():
        raise ModelError(f"{folder} is a file: give the folder of a checkpoint, or a hub id")
    if not isinstance(source, str) or not _HUB_ID.fullmatch(source):
        raise ModelError(f"{source}: no such folder")
    found = _download(source, revision, _SMALL_FILES + _SAFETENSORS)
    if not (found / "tokenizer.json").exists():
        found = _download(source, revision, _PIECES)
    if not any(found.glob("model*.safetensors*")):
        found = _download(source, revision, _BIN)
    return found


def _download(source: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        what = "the hub asks you to accept its terms and log in (hf auth login)"
        cause: Exception = error
    except RepositoryNotFoundError as error:
        what, cause = "no such folder here and no such model on the hub (or it is private)", error
    except RevisionNotFoundError as error:
        what, cause = f"the hub has no revision {revision!r} of it", error
    except LocalEntryNotFoundError as error:
        what = "no such folder here, the hub cannot be reached, and its cache has no copy"
        cause = error
    except HFValidationError as error:
        what, cause = "neither a folder nor a hub id", error
    except (HfHubHTTPError, OSError) as error:
        first = str(error).strip().split("\n", 1)[0]
        what, cause = f"the hub did not deliver it: {first}", error
    raise ModelError(f"{source}: {what}") from cause
