"""Suites: facts to edit with the prompts that test them, in the formats that the field uses.

Nothing here needs torch, so that an upload can be validated by a process without it.
"""

from jeep_core.suites.cases import Case, InvalidSuite, Question, RecordProblem, Report, Style, Suite
from jeep_core.suites.formats.registry import AUTO, FORMATS, STYLES
from jeep_core.suites.hub import hub_file
from jeep_core.suites.loading import SuiteReader, load_counterfact, load_suite, load_zsre

__all__ = [
    "AUTO",
    "FORMATS",
    "STYLES",
    "Case",
    "InvalidSuite",
    "Question",
    "RecordProblem",
    "Report",
    "Style",
    "Suite",
    "SuiteReader",
    "hub_file",
    "load_counterfact",
    "load_suite",
    "load_zsre",
]
