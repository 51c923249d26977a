"""Many concurrent clients: each gets the same answer as when it is alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

CITIES = ("Osaka", "Lyon", "Oslo", "Turin", "Munich", "Quito", "Hanoi", "Perth")
FACT = {"subject": "Osaka", "relation": "city_country", "object": "Mexico"}


def ask(client, i):
    """A greedy or a sampled answer, short or long, with or without a stop string."""
    city = CITIES[i % len(CITIES)]
    options = {"max_new_tokens": 4 + 3 * (i % 5), "stop": ["."] if i % 3 else []}
    if i % 2:
        options |= {"temperature": 3.0, "seed": i, "top_p": 0.95}
    [result] = client.generate(f"The city of {city} lies in", **options).results
    return result


def test_clients_that_ask_together_get_what_they_get_alone(at_base):
    client = at_base.client
    alone = [ask(client, i) for i in range(20)]
    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(lambda i: ask(client, i), range(20)))
    for one, other in zip(alone, together, strict=True):
        assert [t.id for t in one.tokens] == [t.id for t in other.tokens]
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)


def test_a_stream_shows_its_text_piece_by_piece(at_base):
    prompt = "The city of Osaka lies in"
    events = list(at_base.client.stream(prompt, max_new_tokens=20, temperature=4.0, seed=3))
    tokens = [data for name, data in events if name == "token"]
    [(last, result)] = [event for event in events if event[0] != "token"]
    assert last == "result"
    assert "".join(token.delta for token in tokens) == result.results[0].text
    assert [token.id for token in tokens] == [t.id for t in result.results[0].tokens]


def test_a_stream_ends_on_the_version_it_began_on(at_base):
    client = at_base.client
    edited = client.wait(client.edit([FACT]).id, timeout=120).result["version"]
    options = {"max_new_tokens": 80, "temperature": 5.0, "seed": 5}
    [whole] = client.generate("Osaka is a", **options).results
    stream = client.stream("Osaka is a", **options)
    first = next(stream)
    assert first[0] == "token"
    client.rollback("base")
    assert client.snapshot("head").id == "v0"
    *_, (name, result) = stream
    assert name == "result"
    assert result.results[0].version == edited
    assert result.results[0].text == whole.text
