"""The types of a GGUF file that can be asked for; needs no torch."""

from __future__ import annotations

from enum import StrEnum


class GgufType(StrEnum):
    """How the matrices of a file are stored, by llama.cpp's names.

    ``SOURCE``: as in the GGUF file that the model came from, tensor by tensor.
    """

    SOURCE = "source"
    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"
    Q4_K_M = "Q4_K_M"


class EditedType(StrEnum):
    """How the edited matrices are stored.

    ``SAME``: as the type asks for, like all others.  The others keep more of an edit: a quantised
    matrix is rounded to steps that can be larger than what the edit has changed.
    """

    SAME = "same"
    Q8_0 = "Q8_0"
    F16 = "F16"
