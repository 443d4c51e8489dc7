"""Prints the lowest versions that pyproject.toml allows as constraints for pip.

What constraints.txt pins is left out.
"""

import re
import tomllib
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
pinned = re.findall(
    r"^[\w-]+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
)
extras = project["project"]["optional-dependencies"].values()
for spec in chain(
    project["project"]["dependencies"], *extras, project["dependency-groups"]["tests"]
):
    lowest = re.match(r"([\w-]+)>=([\w.]+)", spec)
    if lowest and lowest[1] not in pinned:
        print(f"{lowest[1]}=={lowest[2]}")
