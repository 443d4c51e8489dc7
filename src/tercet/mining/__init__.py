"""Hard negatives: candidates of an encoder's heads and of BM25, less what may be a positive.

Names are loaded when they are first asked for, so that a command's help needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tercet.mining.config import SOURCES, MineConfig, Source
    from tercet.mining.miner import MineReport, mine
    from tercet.mining.refresh import Answers, Refresher, follow

__all__ = [
    "SOURCES",
    "Answers",
    "MineConfig",
    "MineReport",
    "Refresher",
    "Source",
    "follow",
    "mine",
]
_HOMES = {
    "SOURCES": "config",
    "Answers": "refresh",
    "MineConfig": "config",
    "MineReport": "miner",
    "Refresher": "refresh",
    "Source": "config",
    "follow": "refresh",
    "mine": "miner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tercet.mining' has no attribute {name!r}")
    return getattr(import_module(f"tercet.mining.{_HOMES[name]}"), name)
