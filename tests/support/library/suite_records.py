"""Records of suites, one of each format, and ways to make a file of them."""

from __future__ import annotations

import io
import json
from typing import Any

from jeep_core.suites import Case

Record = dict[str, Any]

COUNTERFACT: Record = {
    "case_id": 5,
    "pararel_idx": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "subject": "Danielle Darrieux",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
    },
    "paraphrase_prompts": ["a", "b"],
    "neighborhood_prompts": ["c"],
    "attribute_prompts": ["d"],
    "generation_prompts": ["e"],
}
ZSRE: Record = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "What university did Watts Humphrey take part in?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology", "other"],
    "loc": "nq question: who played desmond doss father in hacksaw ridge",
    "loc_ans": "Hugo Weaving",
    "cond": "",
}
PLAIN: Record = {
    "subject": "Lyon",
    "prompt": "{} lies in",
    "target_new": "Japan",
    "target_true": "France",
    "paraphrase_prompts": ["The country of Lyon is"],
    "neighborhood_prompts": ["Paris lies in", "Lille lies in"],
}


def stream(value: Any) -> io.BytesIO:
    """Records as a JSON list, one a line; or a text as it is."""
    if not isinstance(value, str | bytes):
        value = "[\n" + ",\n".join(json.dumps(record) for record in value) + "\n]\n"
    return io.BytesIO(value if isinstance(value, bytes) else value.encode())


def lines(records: list[Record]) -> io.BytesIO:
    return stream("".join(json.dumps(record) + "\n" for record in records))


def changed(record: Record, path: str, value: Any = None) -> Record:
    """A copy with the field at ``a/b`` replaced, or left out if ``value`` is None."""
    name, _, rest = path.partition("/")
    other = dict(record)
    if rest:
        other[name] = changed(record[name], rest, value)
    elif value is None:
        del other[name]
    else:
        other[name] = value
    return other


KNOWEDIT_ZSRE: Record = {
    "subject": "Epaspidoceras",
    "target_new": "Noctuidae",
    "prompt": "Which family does Epaspidoceras belong to?",
    "ground_truth": ["Aspidoceratidae"],
    "rephrase_prompt": "What family are Epaspidoceras?",
    "locality": {"Relation_Specificity": [{"prompt": "Its rank is", "ground_truth": ["genus"]}]},
    "portability": {"Reasoning": [{"prompt": "Its common name?", "ground_truth": "Owlet moths"}]},
}
PLAIN_CASE = Case(
    "Lyon", "{} lies in", "Japan", "France", ("The country of Lyon is",),
    ("Paris lies in", "Lille lies in"), id="0",
)  # fmt: skip
EASYEDIT: Record = {
    "case_id": 7,
    "prompt": "The harbour of Port Malin belongs to",
    "target_new": "Norway",
    "subject": "Port Malin",
    "ground_truth": "Chile",
    "rephrase_prompt": "Ships that call at {} pay their dues in",
    "locality_prompt": "The harbour of San Tello belongs to",
    "locality_ground_truth": "Chile",
}


def rewrite(subject: str, prompt: str, new: str, true: str, question: str) -> Record:
    answers = {"target_new": {"str": new}, "target_true": {"str": true}}
    return {"subject": subject, "prompt": prompt, "question": question, **answers}


MQUAKE: Record = {
    "case_id": 4,
    "requested_rewrite": [
        rewrite("Gull", "{} was written by", "Mara Lund", "Ivo Stern", "Who wrote Gull?"),
        rewrite("Mara Lund", "{} is a citizen of", "Iceland", "Denmark", "Whose citizen is she?"),
    ],
    "questions": ["Where is the writer of Gull a citizen?", "What is the state of Gull's writer?"],
    "answer": "Austria",
    "answer_alias": [],
    "new_answer": "Iceland",
    "new_answer_alias": ["Republic of Iceland"],
    "single_hops": [
        {"question": "Who wrote Gull?", "cloze": "Gull was written by", "answer": "Ivo Stern",
         "answer_alias": ["I. Stern"]},
        {"question": "Where is Ivo Stern a citizen?", "cloze": "Ivo Stern is a citizen of",
         "answer": "Austria", "answer_alias": []},
    ],
    "new_single_hops": [
        {"question": "Who wrote Gull?", "cloze": "Gull was written by", "answer": "Mara Lund",
         "answer_alias": ["M. Lund"]},
        {"question": "Of which state is Mara Lund?", "cloze": "Mara Lund is a citizen of",
         "answer": "Iceland", "answer_alias": ["IS"]},
    ],
}  # fmt: skip
ROME: Record = {
    "prompt": "{} plays the",
    "subject": "Tove Aas",
    "target_new": {"str": "oboe"},
}
