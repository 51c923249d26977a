"""The rule by which a prompt and its answer become one text."""

from __future__ import annotations

import pytest

from jeep_core.text.joining import join_of, joined


@pytest.mark.parametrize(
    ("prompt", "answer", "text"),
    [
        ("Lyon is in", "France", "Lyon is in France"),
        ("Lyon is in", " France", "Lyon is in France"),
        ("Lyon is in", "\nFrance", "Lyon is in\nFrance"),
        ("Q: Where?\nA:", "France", "Q: Where?\nA: France"),
        ("Q: Where?\nA:\n", "France", "Q: Where?\nA:\nFrance"),
        ("<|assistant|>\n", "France", "<|assistant|>\nFrance"),
        ("<|assistant|>", "France", "<|assistant|>France"),
        ("<answer>", "France", "<answer>France"),
        ("in <b>Lyon</b>", "France", "in <b>Lyon</b> France"),
        ("[INST] Where? [/INST]", "France", "[INST] Where? [/INST] France"),
        ("if x < 3 and y >", "5", "if x < 3 and y > 5"),
        ("the answer (", "France", "the answer (France"),
        ("the answer )", "France", "the answer ) France"),
        ('it is called "', "France", 'it is called "France'),
        ('called "Lyon"', "in France", 'called "Lyon" in France'),
        ("genannt „", "Lyon", "genannt „Lyon"),
        ("genannt „Lyon“", "liegt", "genannt „Lyon“ liegt"),
        ("appelé «", "Lyon", "appelé «Lyon"),
        ("appelé « Lyon »", "est", "appelé « Lyon » est"),
        ("called ‘", "Lyon", "called ‘Lyon"),
        ("called ‘Lyon’", "is", "called ‘Lyon’ is"),
        ("called 'Lyon'", "is", "called 'Lyon' is"),
        ("doesn't say 'Lyon'", "is", "doesn't say 'Lyon' is"),
        ("la capitale de l'", "Italie", "la capitale de l'Italie"),
        ("la capitale de l’", "Italie", "la capitale de l’Italie"),
        ("Saint-", "Denis", "Saint-Denis"),
        ("1939–", "1945", "1939–1945"),
        ("Lyon –", "France", "Lyon – France"),
        ("km/", "h", "km/h"),
        ("it costs $", "5", "it costs $5"),
        ("it costs 5 $", "in", "it costs 5 $in"),
        ("it costs 5€", "in", "it costs 5€ in"),
        ("he writes C#", "and", "he writes C# and"),
        ("日本の首都は", "東京", "日本の首都は東京"),
        ("the capital is", "東京", "the capital is東京"),
        ("日本の首都は", " 東京", "日本の首都は 東京"),
        ("答：", "Tokyo", "答：Tokyo"),
        ("เมืองหลวงคือ", "โตเกียว", "เมืองหลวงคือโตเกียว"),
        ("일본의 수도는", "도쿄", "일본의 수도는 도쿄"),
        ("Lyon", ", in France", "Lyon, in France"),
        ("Lyon", "'s river", "Lyon's river"),
        ("in the", "'90s", "in the '90s"),
        ("written in", ".NET", "written in .NET"),
        ("about", "50", "about 50"),
        ("about 50", "% of", "about 50% of"),
        ("(Lyon", ") is", "(Lyon) is"),
        ("called", '"Lyon"', 'called "Lyon"'),
        ('"called Lyon', '", he said', '"called Lyon", he said'),
        ("at", "-5 degrees", "at -5 degrees"),
        ("he saw", "(once)", "he saw (once)"),
        ("", "France", "France"),
    ],
)
def test_the_texts_decide_on_the_blank(prompt: str, answer: str, text: str) -> None:
    assert joined(prompt, answer) == text
    assert join_of(prompt, answer) == ("space" if f"{prompt} {answer}" == text else "none")


def test_the_request_can_decide_on_the_blank() -> None:
    assert joined("is in", "France", "none") == "is inFrance"
    assert joined("首都は", "東京", "space") == "首都は 東京"
    assert joined("A:\n", "France", "space") == "A:\n France"
    assert joined("is in", " France", "space") == "is in France"
    assert joined("is in", " France", "none") == "is in France"
