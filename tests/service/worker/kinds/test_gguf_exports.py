"""Export jobs of the format gguf: which file is made, what llama.cpp is asked, what is left."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from support.library import gguf_files, played_llama
from support.library.exported import loaded

from jeep_core.errors import MissingProgram, NotExportable
from jeep_core.exports.gguf.proof import Question, questions_of, replies_of
from jeep_core.models.library import Library, gguf_source_of
from jeep_core.models.loading import load
from jeep_core.models.views import ModelView
from service.contracts.exports import FORMATS
from service.contracts.schemas.exports import ExportResult, GgufExport
from service.worker.exports import gguf
from service.worker.versions.views import fact_of

from tests_exports_bench import FACTS, Bench
