"""The other bundled model: another architecture and tokenizer, the same guarantees."""

from __future__ import annotations

from service.demo.bundled import CLAIMS, ask

TOP = {"max_new_tokens": 4, "top_probabilities": 20, "deterministic": True}


def test_llama_is_edited_and_rolled_back_bit_by_bit(llama):
    client = llama.client
    prompts = [claim.prompts[0] for claim in CLAIMS]

    def exact() -> list[object]:
        return [one.tokens for one in client.generate(prompts, **TOP).results]

    said, logits, weights = ask(client, "base"), exact(), client.snapshot("base").weights_sha256
    known = [claim for claim in CLAIMS if said[claim.prompts[0]] == claim.country]
    assert len(known) >= len(CLAIMS) - 2

    done = client.wait(client.edit([claim.fact for claim in CLAIMS]).id, timeout=240)
    assert done.status == "succeeded", done.error
    assert {layer["region"] for layer in done.result["layers"]} == {"low", "high"}
    assert done.result["efficacy"] >= 0.75
    edited = ask(client, "head")
    moved = [edited[claim.prompts[0]] == claim.new_country for claim in CLAIMS]
    assert moved == [outcome["success"] for outcome in done.result["facts"]]
    assert sum(moved) >= len(CLAIMS) / 2

    assert client.rollback("base").weights_sha256 == weights
    assert (ask(client, "head"), exact()) == (said, logits)

    done = client.wait(client.edit([CLAIMS[0].fact], editor="memit").id, timeout=240)
    assert done.status == "succeeded", done.error
    assert done.result["parent"] == "v0"
