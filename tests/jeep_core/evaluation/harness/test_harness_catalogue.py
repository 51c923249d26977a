"""Tasks of lm-eval in a folder: which can be run, which leave it, and what they are made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jeep_core.evaluation.harness.catalogue import (
    BUNDLED,
    InvalidTask,
    UnknownTask,
    find,
    is_task,
    listed,
)

TASK = """\
task: mine
dataset_path: json
dataset_kwargs:
  data_files:
    test: data.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "data.jsonl").write_text('{"question": "?"}\n')
    (folder / "mine.yaml").write_text(TASK)
    return folder


def write(own: Path, text: str, name: str = "mine.yaml") -> None:
    (own / name).parent.mkdir(parents=True, exist_ok=True)
    (own / name).write_text(text)


def problem(own: Path, suite: str = "lm-eval:mine.yaml") -> str:
    with pytest.raises(InvalidTask) as caught:
        find(suite, own)
    return str(caught.value)


class TestBundled:
    def test_four_tasks_and_their_group_ship(self) -> None:
        found = {entry.name: entry for entry in listed(None)}
        assert {name: entry.kind for name, entry in found.items()} == {
            "general": "group", "general_answer": "loglikelihood",
            "general_choice": "multiple_choice", "general_text": "loglikelihood_rolling",
            "general_writing": "generate_until",
        }  # fmt: skip
        assert all(entry.bundled and entry.problem is None for entry in found.values())

    def test_a_group_is_all_its_tasks(self) -> None:
        found = find("lm-eval:general", None)
        assert [task.name for task in found.tasks] == [
            "general_choice", "general_answer", "general_writing", "general_text",
        ]  # fmt: skip
        assert find("lm-eval:general_text", None).sha256 != found.sha256

    def test_data_are_named_whole_wherever_the_process_is(self) -> None:
        [task] = find("lm-eval:general_answer", None).tasks
        assert task.data_files == {
            "train": (str(BUNDLED / "examples.jsonl"),), "test": (str(BUNDLED / "answer.jsonl"),),
        }  # fmt: skip
        assert BUNDLED / "_answers.yaml" in task.files

    def test_bundled_names_cannot_be_taken(self, own: Path) -> None:
        write(own, TASK.replace("mine", "general_text"), "other.yaml")
        [task] = find("lm-eval:general_text", own).tasks
        assert task.bundled
        assert [entry.bundled for entry in listed(own) if entry.name == "general_text"] == [True]


class TestOwn:
    def test_a_task_is_found_by_its_name_and_by_its_file(self, own: Path) -> None:
        write(own, TASK.replace("data.jsonl", "../data.jsonl"), "sub/deep.yaml")
        for suite in ("lm-eval:mine", "lm-eval:mine.yaml", "lm-eval:sub/deep.yaml"):
            [task] = find(suite, own).tasks
            assert (task.name, task.kind, task.bundled) == ("mine", "multiple_choice", False)

    def test_the_hash_changes_with_any_of_its_files(self, own: Path) -> None:
        write(own, "include: base.yaml\nprocess_docs: !function utils.tidy\n" + TASK)
        write(own, "num_fewshot: 1\n", "base.yaml")
        write(own, "def tidy(docs):\n    return docs\n", "utils.py")
        hashes = {find("lm-eval:mine", own).sha256}
        write(own, "num_fewshot: 22\n", "base.yaml")
        hashes.add(find("lm-eval:mine", own).sha256)
        write(own, "def tidy(docs):\n    return docs[:1]\n", "utils.py")
        hashes.add(find("lm-eval:mine", own).sha256)
        write(own, '{"question": "!"}\n', "data.jsonl")
        hashes.add(find("lm-eval:mine", own).sha256)
        assert len(hashes) == 4

    def test_what_a_file_says_is_above_what_it_includes(self, own: Path) -> None:
        write(own, "include: base.yaml\noutput_type: loglikelihood\ntask: mine\n")
        write(own, TASK, "base.yaml")
        [task] = find("lm-eval:mine.yaml", own).tasks
        assert task.kind == "loglikelihood"

    def test_patterns_name_several_files(self, own: Path) -> None:
        write(own, TASK.replace("data.jsonl", '"*.jsonl"'))
        write(own, "{}\n", "more.jsonl")
        [task] = find("lm-eval:mine", own).tasks
        assert [Path(one).name for one in task.data_files["test"]] == ["data.jsonl", "more.jsonl"]

    def test_a_wrong_file_is_listed_with_its_problem(self, own: Path) -> None:
        write(own, "task: [", "broken.yaml")
        write(own, TASK.replace("mine", "hub").replace("json\n", "allenai/ai2_arc\n"), "hub.yaml")
        found = {entry.name: entry.problem or "" for entry in listed(own) if not entry.bundled}
        assert found["mine"] == ""
        assert found["broken"].startswith("broken.yaml cannot be read: ")
        assert "dataset_path: 'allenai/ai2_arc' is not local" in found["hub"]


class TestUnknown:
    @pytest.mark.parametrize("suite", ["lm-eval:", "lm-eval:nothing", "lm-eval:../mine"])
    def test_a_name_that_no_file_has(self, suite: str, own: Path) -> None:
        with pytest.raises(UnknownTask, match="take one of general, general_answer"):
            find(suite, own)

    def test_the_name_that_may_have_been_meant(self, own: Path) -> None:
        with pytest.raises(UnknownTask, match=r"; did you mean 'general'.*\? take one of general,"):
            find("lm-eval:genral", own)

    @pytest.mark.parametrize(
        "path", ["nothing.yaml", "../outside.yaml", "/etc/passwd.yaml", "sub/../../outside.yaml"]
    )
    def test_a_path_that_leaves_the_folder_is_not_there(self, path: str, own: Path) -> None:
        write(own.parent, TASK, "outside.yaml")
        with pytest.raises(UnknownTask, match="is no file in JEEP_LM_EVAL_TASKS"):
            find(f"lm-eval:{path}", own)

    def test_a_link_that_leaves_the_folder_is_not_there(self, own: Path) -> None:
        write(own.parent, TASK, "outside.yaml")
        (own / "link.yaml").symlink_to(own.parent / "outside.yaml")
        with pytest.raises(UnknownTask):
            find("lm-eval:link.yaml", own)
        assert "link.yaml" not in [entry.file for entry in listed(own)]

    def test_a_file_needs_a_folder_of_the_operators(self) -> None:
        with pytest.raises(UnknownTask, match="set JEEP_LM_EVAL_TASKS"):
            find("lm-eval:general_text.yaml", None)

    def test_only_the_prefix_makes_a_task(self) -> None:
        assert is_task("lm-eval:x")
        assert not is_task("atlas-zsre")


class TestRefused:
    @pytest.mark.parametrize(
        "value", ["../secret.jsonl", "/etc/passwd", "https://example.org/x.jsonl", "none.jsonl"]
    )
    def test_data_of_elsewhere(self, value: str, own: Path) -> None:
        write(own.parent, "{}\n", "secret.jsonl")
        write(own, TASK.replace("data.jsonl", json.dumps(value)))
        assert "dataset_kwargs.data_files.test" in problem(own)

    @pytest.mark.parametrize("function", ["os.system", "posix.system", "x", "...x.y"])
    def test_functions_of_elsewhere(self, function: str, own: Path) -> None:
        write(own, TASK + f"process_docs: !function {function}\n")
        assert f"!function {function}: there is no" in problem(own)

    @pytest.mark.parametrize("name", ["../outside.yaml", "/etc/hosts", "none.yaml"])
    def test_includes_of_elsewhere(self, name: str, own: Path) -> None:
        write(own.parent, TASK, "outside.yaml")
        write(own, f"include: {name}\n" + TASK)
        assert "include: " in problem(own)

    def test_files_that_include_one_another(self, own: Path) -> None:
        write(own, "include: other.yaml\n" + TASK)
        write(own, "include: mine.yaml\n", "other.yaml")
        assert "the files include one another" in problem(own)

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            ("metric_list:\n  - metric: rouge\n    hf_evaluate: true\n", "hf_evaluate fetches"),
            ("doc_to_image: picture\n", "doc_to_image: models here read text only"),
            ("unsafe_code: true\n", "code that a model writes is not run here"),
            ("x: !!python/object/apply:os.system ['true']\n", "cannot be read"),
        ],
    )
    def test_what_is_not_run_here(self, more: str, said: str, own: Path) -> None:
        write(own, TASK + more)
        assert said in problem(own)

    def test_a_file_without_a_task(self, own: Path) -> None:
        write(own, TASK.replace("task: mine\n", ""))
        assert problem(own) == "mine.yaml: task: the name of the task is missing"

    def test_a_group_whose_task_is_missing(self, own: Path) -> None:
        write(own, "group: both\ntask:\n  - mine\n  - yours\n", "both.yaml")
        assert "its task 'yours' is in no file of the folder" in problem(own, "lm-eval:both")

    def test_a_group_of_anything_but_names(self, own: Path) -> None:
        write(own, "group: both\ntask:\n  - task: mine\n    num_fewshot: 3\n", "both.yaml")
        assert "a group has a list of names of tasks" in problem(own, "lm-eval:both")
