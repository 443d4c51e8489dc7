"""Where the files of a published dataset lie: a local copy, or the hub with its cache.

Knows nothing of what the files hold.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tercet.errors import InputError


@dataclass(frozen=True)
class Fetched:
    """The folder of a dataset's files; `source` says which: dataset@commit, or the local folder."""

    folder: Path
    source: str

    def matching(self, *patterns: str) -> list[Path]:
        """The files of the first pattern that has any, in the order of the numbers in their names.

        Raises InputError naming the patterns where there are none.
        """
        for pattern in patterns:
            found = [path for path in self.folder.glob(pattern) if path.is_file()]
            if found:
                return sorted(found, key=_numbers_first)
        raise InputError(f"{self.folder}: no file {' or '.join(patterns)}")

    def one(self, *patterns: str) -> Path:
        """The one file of the first pattern that has any; raises InputError."""
        found = self.matching(*patterns)
        if len(found) > 1:
            raise InputError(f"{found[0].parent}: {found[0].name} and {found[1].name}: which?")
        return found[0]


@dataclass(frozen=True)
class Dataset:
    """A dataset of the hub, or a local copy of its files.

    The copy lies in `local` itself, or in a folder there that is named as the dataset is.
    """

    repo: str  # "miracl/miracl"
    local: Path | None = None

    def fetch(self, *patterns: str) -> Fetched:
        """The folder, with at least a file that fits each pattern ("a.jsonl|b/*.parquet": either).

        Raises InputError naming the files that are missing, and how to get them.
        """
        wanted = [alternatives.split("|") for alternatives in patterns]
        if self.local is not None:
            return self._local(wanted)
        folder = self._download([pattern for some in wanted for pattern in some])
        if missing := _missing(folder, wanted):
            raise InputError(
                f"{self.repo} on the hub (commit {folder.name}): no {missing[0]}; "
                f"{self._advice(wanted)}"
            )
        return Fetched(folder, f"{self.repo}@{folder.name}")

    def _local(self, wanted: Sequence[Sequence[str]]) -> Fetched:
        assert self.local is not None
        if not self.local.is_dir():
            raise InputError(f"{self.local}: no such folder")
        tried = {
            folder: _missing(folder, wanted)
            for folder in (self.local, self.local / self.repo.split("/")[-1])
        }
        for folder, missing in tried.items():
            if not missing:
                return Fetched(folder, str(folder))
        absent = min(tried.values(), key=len)
        raise InputError(
            f"{self.local}: no {', no '.join(absent)}: a copy of the dataset {self.repo} of the "
            "hub has them"
        )

    def _download(self, patterns: list[str]) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )

        advice = self._advice([patterns])
        try:
            return Path(snapshot_download(self.repo, repo_type="dataset", allow_patterns=patterns))
        except GatedRepoError as error:
            what = "the hub asks you to accept its terms and log in (hf auth login)"
            cause: Exception = error
        except RepositoryNotFoundError as error:
            what, cause = "the hub has no such dataset, or it is private", error
        except LocalEntryNotFoundError as error:
            what, cause = "the hub cannot be reached, and its cache has no copy", error
        except (HfHubHTTPError, OSError) as error:
            first = str(error).strip().split("\n", 1)[0]
            what, cause = f"the hub did not deliver it: {first}", error
        raise InputError(f"dataset {self.repo}: {what}; {advice}") from cause

    def _advice(self, wanted: Sequence[Sequence[str]]) -> str:
        names = ", ".join(pattern for some in wanted for pattern in some)
        return (
            f"fetch {names} of huggingface.co/datasets/{self.repo} elsewhere and give the folder "
            "they lie in with --local DIR"
        )


def _missing(folder: Path, wanted: Sequence[Sequence[str]]) -> list[str]:
    """Of each list of patterns that no file fits, the patterns."""
    return [
        " or ".join(some)
        for some in wanted
        if not any(path.is_file() for pattern in some for path in folder.glob(pattern))
    ]


def _numbers_first(path: Path) -> list[tuple[int, str]]:
    """docs-2 before docs-10."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]
