"""Raw sources to training rows by their structure: titles, headings, answers, code, translations.

Every reader yields units and what they gave; a Job cuts the work into parts. Knows nothing of
tokens and models.
"""

from tercet.data.pairs.job import STRUCTURES, PairsJob
from tercet.data.pairs.report import lines, report_path

__all__ = ["STRUCTURES", "PairsJob", "lines", "report_path"]
