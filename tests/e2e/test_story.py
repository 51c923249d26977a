"""The main use on the bundled model: facts are edited, answers change, all is rolled back."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from service.client import Client
from service.contracts.schemas import GenerateResult
from service.demo import real
from service.demo.bundled import CLAIMS, ask, story

LYON, NAGOYA = "Lyon is a city in the country of", "Nagoya is a city in the country of"


def say(client: Client, prompt: str, version: str = "head") -> str:
    result = client.generate(prompt, version, max_new_tokens=8, stop=["."])
    return result.results[0].text.strip()


def exact(client: Client, version: str) -> list[float]:
    """Probabilities of every greedy step: equal only if the logits are."""
    prompts = [claim.prompts[0] for claim in CLAIMS]
    result = client.generate(
        prompts, version, max_new_tokens=4, top_probabilities=20, deterministic=True
    )
    return [top.probability for one in result.results for token in one.tokens for top in token.top]


def fact(subject: str, target: str, true: str | None = None) -> dict[str, str]:
    record = {"subject": subject, "relation": "city_country", "object": target}
    return record if true is None else {**record, "target_true": true}


def test_the_demo_tells_its_story(at_base, capsys):
    assert story(at_base.client, Console(force_terminal=False))
    shown = capsys.readouterr().out
    assert "answers as they were: yes" in shown
    assert "Lyon is a city in the country of" in shown


def test_the_demo_of_a_real_model_tells_its_story_of_any_model(at_base, capsys):
    console = Console(force_terminal=False, width=160)
    seen = real.edit_and_undo(at_base.client, "a model", console)
    assert seen is not None
    assert seen.rolled_back
    assert (seen.edit.source, seen.edit.moments) == ("preset", "bundled corpus")
    assert seen.edit.guards.perplexity > 0
    real.show(seen, console)
    shown, page = capsys.readouterr().out, real.markdown(seen)
    for text in (shown, page):
        assert "The Eiffel Tower is located in the city of" in text
        assert "from the request to the committed version" in text
        assert "all answers and the hash of all weights are as before" in text
    assert page.count("| neighbour |") == len(real.CLAIMS)


def test_an_edit_reports_every_fact_before_and_after(at_base):
    client = at_base.client
    job = client.edit([fact("Osaka", "Mexico", "Japan"), fact("Munich", "Kenya", "Germany")])
    done = client.wait(job.id, timeout=120)
    assert done.status == "succeeded", done.error
    outcomes = done.result["facts"]
    assert [o["target_new"] for o in outcomes] == ["Mexico", "Kenya"]
    for outcome in outcomes:
        assert outcome["before"]["p_true"] > 0.5 > outcome["before"]["p_new"]
        assert outcome["after"]["p_new"] > outcome["after"]["p_true"]
        assert outcome["after"]["text"].strip().startswith(outcome["target_new"])
    assert done.result["efficacy"] == 1.0
    edit = client.edit_result(done.edit_id)
    assert edit.result is not None
    assert edit.result.version == client.snapshot("head").id
    assert {layer.region for layer in edit.result.layers} == {"low", "high"}


def test_base_and_head_answer_side_by_side_in_one_request(at_base):
    client = at_base.client
    client.wait(client.edit([fact("Osaka", "Mexico")]).id, timeout=120)
    prompt = "Osaka is a city in the country of"
    result: GenerateResult = client.generate(
        [prompt, NAGOYA], ["base", "head"], max_new_tokens=6, stop=["."]
    )
    texts = [(one.prompt, one.version, one.text.strip()) for one in result.results]
    head = client.snapshot("head").id
    assert texts == [
        (prompt, "v0", "Japan"),
        (prompt, head, "Mexico"),
        (NAGOYA, "v0", "Japan"),
        (NAGOYA, head, "Japan"),
    ]


def test_rollback_is_bit_exact_in_both_directions(at_base, tmp_path: Path):
    client = at_base.client
    targets = ["base"]
    for subject, target in (("Osaka", "Mexico"), ("Munich", "Kenya"), ("Florence", "Sweden")):
        done = client.wait(client.edit([fact(subject, target)]).id, timeout=120)
        targets.append(done.result["version"])
    hashes = {ref: client.snapshot(ref).weights_sha256 for ref in targets}
    logits = {ref: exact(client, ref) for ref in targets}
    assert len(set(hashes.values())) == 4
    assert len({tuple(values) for values in logits.values()}) == 4
    for ref in (targets[1], "base", targets[3], targets[2]):
        moved = client.rollback(ref)
        assert moved.weights_sha256 == hashes[ref]
        assert client.snapshot("head").id == client.snapshot(ref).id
        assert exact(client, "head") == logits[ref]
    client.export(targets[2], tmp_path / "first")
    client.rollback("base")
    client.export(targets[2], tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_an_edit_after_a_rollback_branches_off(at_base):
    client = at_base.client
    first = client.wait(client.edit([fact("Osaka", "Mexico")]).id, timeout=120).result["version"]
    client.rollback("base")
    other = client.wait(client.edit([fact("Munich", "Kenya")]).id, timeout=120).result
    assert other["parent"] == "v0"
    assert say(client, "Osaka is a city in the country of") == "Japan"
    assert say(client, "Osaka is a city in the country of", first) == "Mexico"
    difference = client.diff(first, other["version"])
    assert [f.subject for f in difference.facts_removed] == ["Osaka"]
    assert [f.subject for f in difference.facts_added] == ["Munich"]


def test_memit_edits_are_versions_too(at_base):
    client = at_base.client
    done = client.wait(client.edit([fact("Osaka", "Mexico", "Japan")], editor="memit").id)
    assert done.status == "succeeded", done.error
    assert {layer["region"] for layer in done.result["layers"]} == {"low"}


def test_the_same_edit_twice_gives_the_same_bytes(at_base):
    client = at_base.client
    hashes = []
    for _ in range(2):
        client.rollback("base")
        client.wait(client.edit([fact("Osaka", "Mexico")]).id, timeout=120)
        hashes.append(client.snapshot("head").weights_sha256)
    assert hashes[0] == hashes[1]


def test_later_edits_keep_earlier_ones(at_base):
    client = at_base.client
    for claim in CLAIMS[:4]:
        client.wait(client.edit([claim.fact]).id, timeout=120)
    answers = ask(client, "head")
    kept = [answers[claim.prompts[0]] == claim.new_country for claim in CLAIMS[:4]]
    assert sum(kept) >= 3


def test_streamed_tokens_add_up_to_the_result(at_base):
    for prompt, length in ((LYON, 3), (LYON, 8), ("I went to", 6)):  # Lyon's answer ends early
        events = list(at_base.client.stream(prompt, max_new_tokens=length))
        tokens = [data.text for name, data in events if name == "token"]
        assert events[-1][0] == "result"
        assert "".join(tokens) == events[-1][1].results[0].text
        assert 1 <= len(tokens) <= length


def test_a_seed_makes_sampling_repeatable(at_base):
    options = {"max_new_tokens": 12, "temperature": 1.5, "seed": 5}
    texts = [at_base.client.generate("The market of", **options).results[0].text for _ in range(2)]
    other = at_base.client.generate("The market of", **{**options, "seed": 6}).results[0].text
    assert texts[0] == texts[1] != other


def test_candidates_are_scored(at_base):
    result = at_base.client.generate(LYON, max_new_tokens=0, candidates=["France", "Spain"])
    france, spain = result.results[0].candidates
    assert france.probability > 0.9 > 0.1 > spain.probability
