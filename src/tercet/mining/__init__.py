"""Hard negatives: candidates of an encoder's heads and of BM25, less what may be a positive."""

from tercet.mining.config import SOURCES, MineConfig, Source
from tercet.mining.miner import MineReport, mine
from tercet.mining.refresh import Answers, Refresher, follow
from tercet.scorers import Scorer

__all__ = [
    "SOURCES",
    "Answers",
    "MineConfig",
    "MineReport",
    "Refresher",
    "Scorer",
    "Source",
    "follow",
    "mine",
]
