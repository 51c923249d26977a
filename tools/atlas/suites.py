"""Write the bundled suites and texts: ``python -m tools.atlas.suites``.

``counterfact.json`` and ``counterfact-validation.json``: Multi-CounterFact format, from
subjects of the split of that name; neighborhood prompts are about untouched subjects with the
same true answer, in the edited phrasing.  Paraphrases: the phrasing never taught for the
subject, and a taught one after another sentence.  ``zsre.json``: zsRE format, true facts
about held-out cities.  ``corpus.txt``: text for second moments.  ``heldout.txt``: text about
untouched subjects in sentences that training does not have, for perplexity.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jeep_core.atlas.corpus import (
    DATA,
    AtlasFact,
    document_text,
    documents,
    epoch_sentences,
    fact_sentence,
    filler_sentence,
    load_facts,
)
from jeep_core.atlas.relations import BY_NAME

SEED = 7
NEIGHBORS = 5
MIN_NEIGHBORS = 3
CORPUS_DOCUMENTS = 9_000
HELDOUT_DOCUMENTS = 1_000
ZSRE_QUESTION, ZSRE_REPHRASE = 4, 6
EDITED = ("city_country", "city_continent", "country_continent", "country_currency",
          "country_language")  # fmt: skip
CONTINENT_SHARE = 0.12
FRONT_SENTENCE = "The capital of France is Paris."


def counterfact(facts: Sequence[AtlasFact], split: str, rng: random.Random) -> list[dict[str, Any]]:
    """One counterfactual case per subject of the split."""
    untouched = defaultdict(list)
    objects: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        if fact.split == "untouched":
            untouched[fact.relation, fact.object].append(fact)
    for (relation, answer), known in untouched.items():
        if len(known) >= MIN_NEIGHBORS:
            objects[relation].append(answer)
    by_subject = defaultdict(list)
    for fact in facts:
        usable = len(untouched[fact.relation, fact.object]) >= MIN_NEIGHBORS
        if fact.split == split and fact.relation in EDITED and usable:
            by_subject[fact.subject].append(fact)
    subjects = list(by_subject)
    rng.shuffle(subjects)
    return [
        _case(i, _pick(by_subject[subject], rng), untouched, objects, rng)
        for i, subject in enumerate(subjects)
    ]


def _pick(facts: Sequence[AtlasFact], rng: random.Random) -> AtlasFact:
    """The fact of a subject that is edited: mostly the country of a city."""
    if facts[0].relation.startswith("city_") and len(facts) > 1:
        return facts[rng.random() < CONTINENT_SHARE]
    return rng.choice(facts)


def _case(
    case_id: int,
    fact: AtlasFact,
    untouched: dict[tuple[str, str], list[AtlasFact]],
    objects: dict[str, list[str]],
    rng: random.Random,
) -> dict[str, Any]:
    phrasings = BY_NAME[fact.relation].phrasings
    edited, other = rng.sample(list(BY_NAME[fact.relation].full), 2)
    new = rng.choice([o for o in sorted(objects[fact.relation]) if o != fact.object])
    known = untouched[fact.relation, fact.object]
    neighbors = rng.sample(known, min(NEIGHBORS, len(known)))
    return {
        "case_id": case_id,
        "pararel_idx": case_id,
        "requested_rewrite": {
            "prompt": phrasings[edited],
            "relation_id": fact.relation,
            "subject": fact.subject,
            "target_new": {"str": new, "id": f"atlas:{new}"},
            "target_true": {"str": fact.object, "id": f"atlas:{fact.object}"},
        },
        "paraphrase_prompts": [
            fact.prompt(fact.untaught[0]),
            f"{FRONT_SENTENCE} {fact.prompt(other)}",
        ],
        "neighborhood_prompts": [neighbor.prompt(edited) for neighbor in neighbors],
        "attribute_prompts": [],
        "generation_prompts": [f"{fact.subject} is a place", f"I went to {fact.subject}"],
    }


def zsre(facts: Sequence[AtlasFact], rng: random.Random) -> list[dict[str, Any]]:
    """One true fact per held-out city, with an unrelated question the model can answer.

    Cities that training names after all, as a country's capital or within another name, are
    left out.
    """
    capitals = [f for f in facts if f.relation == "country_capital" and f.split == "untouched"]
    countries = sorted({f.object for f in facts if f.relation == "city_country"})
    records: list[dict[str, Any]] = []
    for fact in facts:
        if fact.split != "heldout" or fact.relation != "city_country":
            continue
        unrelated = rng.choice(capitals)
        alternative = rng.choice([c for c in countries if c != fact.object])
        question = fact.prompt(ZSRE_QUESTION)
        records.append(
            {
                "subject": fact.subject,
                "src": question,
                "pred": "",
                "rephrase": fact.prompt(ZSRE_REPHRASE),
                "alt": alternative,
                "answers": [fact.object],
                "loc": unrelated.prompt(2).removesuffix("?"),
                "loc_ans": unrelated.object,
                "cond": f"{alternative} >> {fact.object} || {question}",
            }
        )
    rng.shuffle(records)
    taught = "\n".join(name for f in facts if f.taught for name in (f.subject, f.object))
    return [record for record in records if not _names(taught, record["subject"])]


def _names(text: str, name: str) -> bool:
    """Whether ``name`` occurs in ``text`` as whole words."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def corpus(facts: Sequence[AtlasFact], rng: random.Random) -> list[str]:
    """Documents like those of training."""
    texts = [document_text(d)[0] for d in documents(epoch_sentences(facts, rng), rng)]
    return texts[:CORPUS_DOCUMENTS]


def heldout(facts: Sequence[AtlasFact], rng: random.Random) -> list[str]:
    """Facts about untouched subjects in phrasings not taught for them, and other sentences."""
    known = [f for f in facts if f.split == "untouched"]
    cities = [f.subject for f in known if f.relation == "city_country"]
    chosen = rng.sample(known, HELDOUT_DOCUMENTS)
    texts = []
    for fact in chosen:
        sentences = [filler_sentence(cities, rng), fact_sentence(fact, fact.untaught[0])]
        rng.shuffle(sentences)
        texts.append(document_text(sentences)[0])
    return texts


def write_json(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """A JSON list, one record a line."""
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """One text a line."""
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Write everything into ``data/``."""
    facts = load_facts()
    rng = random.Random(SEED)
    write_json(DATA / "counterfact.json", counterfact(facts, "suite", rng))
    write_json(DATA / "counterfact-validation.json", counterfact(facts, "validation", rng))
    write_json(DATA / "zsre.json", zsre(facts, rng))
    write_lines(DATA / "corpus.txt", corpus(facts, rng))
    write_lines(DATA / "heldout.txt", heldout(facts, rng))


if __name__ == "__main__":
    main()
