"""The facts of a line of versions."""

from __future__ import annotations

from support.service.builders import add_version

from service.store import Store
from service.store.history import facts_of, governing, without


def fact(subject: str, target: str, prompt: str = "{} lies in") -> dict[str, str]:
    return {"subject": subject, "prompt": prompt, "target_new": target}


def said(store: Store, version: str) -> list[tuple[str, str, str | None]]:
    entries = facts_of(store.versions.lineage(version))
    return [(one.text, one.target_new, one.superseded_by) for one in entries]


def test_the_next_later_batch_supersedes_a_fact(based: Store) -> None:
    one = add_version(based, edit_id="a", facts=[fact("Lyon", "Peru"), fact("Nice", "Peru")])
    two = add_version(based, one, edit_id="b", facts=[fact("Lyon", "Chile")])
    three = add_version(based, two, edit_id="c", facts=[fact("Lyon", "Japan")])
    assert said(based, three) == [
        ("Lyon lies in", "Japan", None),
        ("Lyon lies in", "Chile", "c"),
        ("Lyon lies in", "Peru", "b"),
        ("Nice lies in", "Peru", None),
    ]
    assert said(based, two)[:2] == [
        ("Lyon lies in", "Chile", None),
        ("Lyon lies in", "Peru", "b"),
    ]


def test_facts_are_the_same_after_nfc_and_trimming(based: Store) -> None:
    one = add_version(based, edit_id="a", facts=[fact("Orl\u00e9ans", "Peru")])
    two = add_version(based, one, edit_id="b", facts=[fact(" Orle\u0301ans", "Chile")])
    assert [one.state for one in facts_of(based.versions.lineage(two))] == ["live", "superseded"]


def test_white_space_at_the_end_of_a_prompt_makes_another_fact(based: Store) -> None:
    """It makes other tokens, so the first batch still holds."""
    one = add_version(based, edit_id="a", facts=[fact("Lyon", "Peru", "Q: {}? A:")])
    two = add_version(based, one, edit_id="b", facts=[fact("Lyon", "Rome", "Q: {}? A:\n")])
    assert [one.state for one in facts_of(based.versions.lineage(two))] == ["live", "live"]


def test_another_question_about_a_subject_is_another_fact(based: Store) -> None:
    one = add_version(based, edit_id="a", facts=[fact("Lyon", "Peru")])
    two = add_version(based, one, edit_id="b", facts=[fact("Lyon", "Rome", "{} twins with")])
    assert [one.state for one in facts_of(based.versions.lineage(two))] == ["live", "live"]


def test_a_line_of_versions_is_split_at_a_batch(based: Store) -> None:
    one = add_version(based, edit_id="a")
    two = add_version(based, one, edit_id="b")
    three = add_version(based, two, edit_id="c")
    line = based.versions.lineage(three)
    parts = without(line, "b")
    assert parts is not None
    assert [[version.id for version in part] for part in parts] == [["v0", one], [three]]
    assert without(line, "d") is None


def test_the_last_batch_about_a_question_governs_it(based: Store) -> None:
    one = add_version(
        based, edit_id="a", facts=[fact("Orl\u00e9ans", "Peru"), fact("Nice", "Peru")]
    )
    two = add_version(based, one, edit_id="b", facts=[fact(" Orle\u0301ans", "Chile")])
    found = governing(based.versions.lineage(two))
    assert [(one.version, one.index, one.fact.target_new) for one in found.values()] == [
        (two, 0, "Chile"),
        (one, 1, "Peru"),
    ]
