"""OpenAI's own client against a whole service: completions, chats, streams, models, errors."""

from __future__ import annotations

import itertools

import httpx
import openai
import pytest
import torch

from jeep_core.decoding.generation import Sampling, generate
from jeep_core.models.loading import LoadedModel
from jeep_core.models.views import ModelView
from jeep_core.text.chat import render
from service.client import ApiError, Client

PROMPT = "Paris is a city in"
MESSAGES = [{"role": "user", "content": "The old towns"}]


def bare_ids(base: LoadedModel, text: str) -> list[int]:
    """Without BOS: none is added to what the interface is given."""
    return list(base.tokenizer.encode(text, add_special_tokens=False).ids)


def greedy(base: LoadedModel, ids: list[int], count: int) -> list[int]:
    """What the model writes, by plain passes."""
    ids, found = list(ids), []
    for _ in range(count):
        with torch.no_grad():
            best = int(base.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if best in base.eos_token_ids:
            break
        found.append(best)
        ids.append(best)
    return found


class TestModels:
    def test_versions_are_models(self, client: openai.OpenAI) -> None:
        found = {one.id: one for one in client.models.list()}
        assert {"head", "base", "v0"} <= found.keys()
        assert found["head"].model_extra == {"root": "tiny-chat", "version": "v0"}
        assert found["base"].object == "model"
        assert found["base"].created > 1_700_000_000

    @pytest.mark.parametrize("name", ["head", "v0", "tiny-chat", "tiny-chat@v0"])
    def test_a_model_by_any_of_its_names(self, client: openai.OpenAI, name: str) -> None:
        one = client.models.retrieve(name)
        assert one.id == name
        assert one.model_extra is not None
        assert one.model_extra["version"] == "v0"
        assert client.completions.create(model=name, prompt="The", max_tokens=1).model == name

    @pytest.mark.parametrize("name", ["nobody", "org/nobody@v0", "tiny-chat@v9", "v99"])
    def test_an_unknown_model_is_refused_by_every_call(
        self, client: openai.OpenAI, name: str
    ) -> None:
        for ask in (
            lambda: client.models.retrieve(name),
            lambda: client.completions.create(model=name, prompt="The"),
            lambda: client.chat.completions.create(model=name, messages=MESSAGES),
        ):
            with pytest.raises(openai.NotFoundError) as refused:
                ask()
            assert refused.value.code == "model_not_found"
            assert refused.value.param == "model"
            assert "no version is called" in str(refused.value)
            assert "GET /v1/models" in str(refused.value)
            assert '"head"' in refused.value.message.replace("\\", "")


class TestCompletions:
    def test_text_and_tokens_give_one_answer(
        self, client: openai.OpenAI, base: LoadedModel
    ) -> None:
        ids = bare_ids(base, PROMPT)
        expected = greedy(base, ids, 6)
        text = base.tokenizer.decode([*ids, *expected])[len(base.tokenizer.decode(ids)) :]
        answers = []
        for prompt in (PROMPT, ids, [PROMPT], [ids]):
            made = client.completions.create(
                model="head", prompt=prompt, max_tokens=6, temperature=0, logprobs=0
            )
            [choice] = made.choices
            assert choice.text == text
            assert made.usage is not None
            assert made.usage.prompt_tokens == len(ids)
            answers.append(choice.logprobs)
        assert all(one == answers[0] for one in answers)

    def test_echo_scores_every_token_and_the_next(
        self, client: openai.OpenAI, base: LoadedModel
    ) -> None:
        """As lm-eval asks: one entry more than the prompt has, null at the first place."""
        prompts = [bare_ids(base, text) for text in (PROMPT, "The", "Because the train was")]
        made = client.completions.create(
            model="head", prompt=prompts, max_tokens=1, temperature=0, logprobs=2, echo=True,
            seed=1234,
        )  # fmt: skip
        assert [one.index for one in made.choices] == [0, 1, 2]
        for ids, choice in zip(prompts, made.choices, strict=True):
            told = choice.logprobs
            assert told is not None
            assert told.token_logprobs is not None
            assert told.top_logprobs is not None
            assert told.tokens is not None
            assert len(told.token_logprobs) == len(told.top_logprobs) == len(ids) + 1
            assert told.token_logprobs[0] is told.top_logprobs[0] is None
            with torch.no_grad():
                logits = base.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            for i, token in enumerate(ids[1:]):
                assert told.token_logprobs[i + 1] == pytest.approx(
                    float(logits[i, token]), abs=1e-4
                )
            for i, best in enumerate(told.top_logprobs[1:]):
                assert max(best.values()) == pytest.approx(float(logits[i].max()), abs=1e-4)
                assert told.token_logprobs[i + 1] in best.values()
                is_best = i < len(ids) - 1 and int(logits[i].argmax()) == ids[i + 1]
                if is_best:
                    assert told.token_logprobs[i + 1] == max(best.values()), "to the bit"
            assert choice.text.startswith(base.tokenizer.decode(ids, skip_special_tokens=False))
            assert told.text_offset == list(
                itertools.accumulate(map(len, told.tokens[:-1]), initial=0)
            )

    def test_a_prompt_alone_is_scored(self, client: openai.OpenAI, base: LoadedModel) -> None:
        made = client.completions.create(
            model="head", prompt=PROMPT, max_tokens=0, logprobs=0, echo=True
        )
        [choice] = made.choices
        assert choice.text == PROMPT
        assert choice.finish_reason == "length"
        assert choice.logprobs is not None
        assert len(choice.logprobs.tokens or []) == len(bare_ids(base, PROMPT))
        [bare] = client.completions.create(
            model="head", prompt=PROMPT, max_tokens=0, echo=True
        ).choices
        assert (bare.text, bare.logprobs) == (PROMPT, None)

    def test_samples_have_their_own_numbers_and_a_seed_repeats_them(
        self, client: openai.OpenAI
    ) -> None:
        def ask(**more: int) -> list[str]:
            made = client.completions.create(
                model="head", prompt=[PROMPT, "The"], max_tokens=8, temperature=1.5, **more
            )
            assert [one.index for one in made.choices] == list(range(len(made.choices)))
            return [one.text for one in made.choices]

        first = ask(n=3, seed=5)
        assert len(first) == 6
        assert len(set(first[:3])) == 3
        assert ask(n=3, seed=5) == first
        assert ask(n=3, seed=6) != first
        assert ask(seed=5) == [first[0], first[3]]

    def test_stop_strings_and_the_models_own_end(
        self, client: openai.OpenAI, base: LoadedModel
    ) -> None:
        whole = client.completions.create(
            model="head", prompt=PROMPT, max_tokens=12, temperature=0
        ).choices[0]
        part = whole.text[3:5]
        stops = [part, *(f"never {i}" for i in range(6))]
        cut = client.completions.create(
            model="head", prompt=PROMPT, max_tokens=12, temperature=0, stop=stops
        ).choices[0]
        assert cut.text == whole.text[: whole.text.index(part)]
        assert cut.finish_reason == "stop"

    def test_a_special_token_as_stop_string_is_found(
        self, client: openai.OpenAI, base: LoadedModel
    ) -> None:
        """It shows in no text, and lm-eval names the end token so."""
        made = client.completions.create(
            model="head", prompt="The", max_tokens=3, temperature=0, stop=["</s>", "<s>"]
        )
        assert made.choices[0].finish_reason in ("stop", "length")

    def test_a_stream_is_the_answer_in_pieces(self, client: openai.OpenAI) -> None:
        asked = {
            "model": "head", "prompt": [PROMPT, "The"], "max_tokens": 6, "temperature": 0,
            "logprobs": 1, "echo": True, "n": 2,
        }  # fmt: skip
        whole = client.completions.create(**asked)
        stream = client.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        assert stream.response.headers["x-model-version"] == "v0"
        *chunks, last = stream
        assert last.choices == []
        assert last.usage == whole.usage
        assert all(one.usage is None for one in chunks)
        assert {one.model_extra["model_version"] for one in chunks if one.model_extra} == {"v0"}
        for choice in whole.choices:
            mine = [c for one in chunks for c in one.choices if c.index == choice.index]
            assert "".join(one.text for one in mine) == choice.text
            assert [one.finish_reason for one in mine][-1] == choice.finish_reason
            assert all(one.finish_reason is None for one in mine[:-1])
            parts = [one.logprobs for one in mine if one.logprobs]
            assert choice.logprobs is not None
            for name in ("tokens", "text_offset", "top_logprobs"):
                told = [item for one in parts for item in getattr(one, name) or []]
                assert told == getattr(choice.logprobs, name)

    def test_a_stream_without_usage_says_nothing_of_it(self, client: openai.OpenAI) -> None:
        chunks = list(client.completions.create(model="head", prompt="The", stream=True))
        assert all(one.choices for one in chunks)
        assert all("usage" not in one.model_fields_set for one in chunks)

    def test_what_is_unknown_is_ignored(self, client: openai.OpenAI) -> None:
        made = client.completions.create(
            model="head", prompt="The", max_tokens=1, user="me", presence_penalty=0,
            frequency_penalty=0, logit_bias={}, extra_body={"repetition_penalty": 1, "x": [1]},
        )  # fmt: skip
        assert len(made.choices) == 1

    def test_more_than_fits_is_cut(self, client: openai.OpenAI, base: LoadedModel) -> None:
        ids = [300] * (base.max_positions - 3)
        made = client.completions.create(model="head", prompt=ids, max_tokens=4000, temperature=0)
        assert made.usage is not None
        assert made.usage.completion_tokens <= 3

    def test_an_answer_names_its_version_in_header_and_body(self, client: openai.OpenAI) -> None:
        raw = client.completions.with_raw_response.create(model="head", prompt="The", max_tokens=1)
        assert raw.headers["x-model-version"] == "v0"
        made = raw.parse()
        assert made.model_extra == {"model_version": "v0"} | (made.model_extra or {})
        assert made.id.startswith("cmpl_")


class TestChat:
    def test_messages_are_written_by_the_models_template(
        self, client: openai.OpenAI, base: LoadedModel
    ) -> None:
        made = client.chat.completions.create(
            model="head", messages=MESSAGES, max_completion_tokens=6, temperature=0,
            logprobs=True, top_logprobs=2,
        )  # fmt: skip
        ids = bare_ids(base, render(base, MESSAGES))
        expected = greedy(base, ids, 6)
        [choice] = made.choices
        assert choice.message.role == "assistant"
        [plain] = generate(ModelView(base), [render(base, MESSAGES)], Sampling(6))
        assert choice.message.content == plain.text
        assert choice.logprobs is not None
        content = choice.logprobs.content or []
        assert len(content) == len(expected)
        for one, token in zip(content, plain.tokens, strict=True):
            assert one.logprob == pytest.approx(token.log_probability, abs=1e-4)
            assert len(one.top_logprobs) == 2
            assert one.top_logprobs[0].logprob == one.logprob
            assert one.bytes is None or bytes(one.bytes).decode() == one.token
        assert made.usage is not None
        assert made.usage.prompt_tokens == len(ids)
        assert made.object == "chat.completion"

    def test_parts_are_joined_and_a_developer_counts_as_the_system(
        self, client: openai.OpenAI
    ) -> None:
        def ask(messages: list[dict[str, object]]) -> str | None:
            made = client.chat.completions.create(
                model="head", messages=messages, max_tokens=6, temperature=0
            )
            return made.choices[0].message.content

        parts = [{"type": "text", "text": "The old "}, {"type": "text", "text": "towns"}]
        plain = [{"role": "system", "content": "a"}, *MESSAGES]
        assert ask([{"role": "developer", "content": "a"}, {"role": "user", "content": parts}]) == (
            ask(plain)
        )

    def test_a_stream_is_the_answer_in_pieces(self, client: openai.OpenAI) -> None:
        asked = {
            "model": "head", "messages": MESSAGES, "max_tokens": 6, "temperature": 1.0, "seed": 3,
            "n": 2, "logprobs": True, "top_logprobs": 1,
        }  # fmt: skip
        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True))
        assert {one.object for one in chunks} == {"chat.completion.chunk"}
        for choice in whole.choices:
            mine = [c for one in chunks for c in one.choices if c.index == choice.index]
            assert mine[0].delta.role == "assistant"
            assert "".join(one.delta.content or "" for one in mine) == choice.message.content
            assert mine[-1].finish_reason == choice.finish_reason
            told = [t for one in mine if one.logprobs for t in one.logprobs.content or []]
            assert choice.logprobs is not None
            assert told == choice.logprobs.content

    def test_messages_that_the_template_refuses(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(
                model="head", messages=[{"role": "robot", "content": "a"}]
            )
        assert refused.value.code == "messages_refused"
        assert "no role robot" in str(refused.value)

    def test_pictures_are_refused(self, client: openai.OpenAI) -> None:
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(
                model="head", messages=[{"role": "user", "content": [picture]}]
            )
        assert str(refused.value.param).startswith("messages[0].content")


REFUSED = [
    ({"prompt": "x", "max_tokens": -1}, "max_tokens"),
    ({"prompt": "x", "temperature": -1}, "temperature"),
    ({"prompt": "x", "logprobs": 21}, "logprobs"),
    ({"prompt": "x", "n": 0}, "n"),
    ({"prompt": "x", "n": 128, "best_of": 2}, None),
    ({"prompt": "x", "presence_penalty": 0.5}, "presence_penalty"),
    ({"prompt": "x", "logit_bias": {"5": 1}}, "logit_bias"),
    ({"prompt": "x", "suffix": "y"}, "suffix"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [["x"]]}, "prompt"),
    ({"prompt": ["x", 1]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [1, 999_999]}, "prompt"),
    ({"prompt": [[1], [2, 999_999]]}, "prompt[1]"),
    ({"prompt": [1, 999_999], "stream": True}, "prompt"),
    ({"prompt": {"x": 1}}, "prompt"),
    ({"prompt": ["x", ""]}, "prompt[1]"),
    ({"prompt": "x", "stop": ["y" * 20_000]}, "stop[0]"),
    ({"prompt": ["x"] * 200, "n": 2}, "n"),
    ({}, "prompt"),
]


@pytest.mark.parametrize(("body", "param"), REFUSED)
def test_wrong_fields_are_named(
    client: openai.OpenAI, body: dict[str, object], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/completions", body={"model": "head", **body}, cast_to=object)
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert len(str(refused.value)) > len("Error code: 400 - ")


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": "x"},
        {"messages": [{"content": "x"}]},
        {"messages": MESSAGES, "tools": [{"type": "function"}]},
        {"messages": MESSAGES, "response_format": {"type": "json_object"}},
        {"messages": MESSAGES, "top_logprobs": 2},
        {"messages": MESSAGES, "max_tokens": 0},
    ],
)
def test_wrong_fields_of_a_chat_are_named(client: openai.OpenAI, body: dict[str, object]) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/chat/completions", body={"model": "head", **body}, cast_to=object)
    assert any(name in str(refused.value) for name in body)


def test_a_prompt_that_is_too_long_has_the_code_that_programs_know(
    client: openai.OpenAI, base: LoadedModel
) -> None:
    for prompt in ([300] * base.max_positions, [[300], [300] * 70]):
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="head", prompt=prompt)
        assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="none of the model's"):
        client.completions.create(model="head", prompt=[300, 10**6])


class TestTokenizer:
    """As lm-eval's remote tokenizer asks, at the root."""

    def test_tokens_of_a_text_decode_to_it_and_special_ones_are_whole(
        self, whole: str, base: LoadedModel
    ) -> None:
        with httpx.Client(base_url=whole) as http:
            body = {"prompt": "<s>The train", "add_special_tokens": False, "model": "x"}
            found = http.post("/tokenize", json=body).json()
            assert found["tokens"][0] == 1, "a special token is one id"
            assert found["tokens"] == bare_ids(base, "<s>The train")
            assert found["count"] == len(found["tokens"])
            added = http.post("/tokenize", json={"prompt": "The train"}).json()
            assert added["tokens"][0] == 1
            back = http.post("/detokenize", json={"tokens": found["tokens"]}).json()
            assert back["prompt"].endswith("The train")
            assert back["prompt"].startswith("<s>")
            info = http.get("/tokenizer_info").json()
            assert (info["bos_token"], info["eos_token"]) == ("<s>", "</s>")
            assert info["chat_template"] == base.chat.source if base.chat else None
            wrong = http.post("/detokenize", json={"tokens": [10**6]})
            assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/tokens/0")
            messages = {"prompt": [{"role": "user", "content": "x"}]}
            assert http.post("/tokenize", json=messages).status_code == 422


def test_the_projects_own_client_completes_chats_and_raises_refusals(
    whole: str, base: LoadedModel
) -> None:
    with Client(whole) as client:
        assert "base" in [one.id for one in client.models()]
        made = client.complete("The", max_tokens=2, temperature=0, logprobs=1)
        assert made.model_version == "v0"
        assert made.choices[0].logprobs is not None
        chat = client.chat(MESSAGES, model="base", max_tokens=2, temperature=0)
        assert chat.choices[0].message.role == "assistant"
        said = client.chat("The old towns", max_tokens=2, temperature=0)
        assert said.choices[0].message == chat.choices[0].message
        with pytest.raises(ApiError, match="404 model_not_found"):
            client.complete("The", model="nobody")
