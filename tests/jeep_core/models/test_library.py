"""The model directory: packages are fetched once, files converted once, folders named."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.library import folders, gguf_files
from support.library.package_index import LICENCE, offered, write_wheel

from jeep_core.errors import UnsupportedModel
from jeep_core.models import packages
from jeep_core.models.catalogue import CATALOGUE, Offer
from jeep_core.models.checkpoints.source import locate
from jeep_core.models.library import RECORD, Library
from jeep_core.models.loading import load


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    model = gguf_files.random_model("qwen2")
    gguf_files.write(path, "qwen2", model, gguf_files.Kind.Q8_0, change=_licence)
    return path


def _licence(writer: gguf_files.gguf.GGUFWriter) -> None:
    writer.add_license("mit")


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "models")


@pytest.fixture
def offer(
    request: pytest.FixtureRequest, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Offer:
    """A model in one package, or in as many as the test asks for."""
    return offered(gguf, tmp_path / "index", monkeypatch, parts=getattr(request, "param", 1))


in_parts = pytest.mark.parametrize("offer", [3], indirect=True, ids=["three packages"])


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The packages that pip was asked for."""
    asked: list[str] = []
    original = packages._fetched

    def fetch(package: packages.Package, *rest: object) -> Path:
        asked.append(package.name)
        return original(package, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(packages, "_fetched", fetch)
    return asked


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels of the index are copied; pip, which takes a second, is asked for what it lacks."""
    original = packages._fetched

    def fetch(package: packages.Package, folder: Path, *rest: object) -> Path:
        for wheel in (tmp_path / "index").glob(f"{package.name.replace('-', '_')}-*"):
            folder.mkdir(parents=True, exist_ok=True)
            return Path(shutil.copy(wheel, folder))
        return original(package, folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(packages, "_fetched", fetch)


def silent(what: str, done: int, total: int) -> None:
    """Hears nothing."""


def visible(library: Library) -> list[str]:
    return sorted(p.name for p in library.root.iterdir() if not p.name.startswith("."))


def refusal(attempt: Callable[[], object]) -> str:
    with pytest.raises(UnsupportedModel) as refused:
        attempt()
    return str(refused.value)


class TestPackages:
    @in_parts
    def test_a_model_is_fetched_converted_and_served(
        self, library: Library, offer: Offer, fetched: list[str], gguf: Path
    ) -> None:
        heard: list[tuple[str, int, int]] = []
        model = library.get("small", "auto", lambda *progress: heard.append(progress))
        assert fetched == ["small-part0", "small-part1", "small-part2"]
        steps = list(dict.fromkeys(what for what, _, _ in heard))
        assert steps == ["downloading", "unpacking", "converting"]
        assert all(0 <= done <= total for _, done, total in heard)
        assert (model.name, model.kind, model.dtype) == ("small", "package", "float32")
        assert (model.folder / "LICENCE").read_text() == LICENCE
        assert model.source == "small-part0==1.0, small-part1==1.0, small-part2==1.0"
        assert model.licence == "free (https://example.org/licence)"
        assert model.sha256 == offer.sha256
        loaded = load("small", "cpu", models_dir=library.root)
        direct = load(str(gguf), "cpu", models_dir=library.root / "other")
        assert loaded.model_hash == direct.model_hash
        assert list((library.root / ".downloads").iterdir()) == []

    def test_a_model_that_is_here_is_not_fetched_again(
        self, library: Library, offer: Offer, copied: None, fetched: list[str]
    ) -> None:
        first = library.get("small", "auto", silent)
        fetched.clear()
        assert library.get("small", "auto", silent) == first
        assert library.get("small", "float32", silent) == first
        assert fetched == []
        assert library.get("small", "float16", silent).dtype == "float16"
        assert visible(library) == ["small"]

    @in_parts
    def test_it_goes_on_where_it_was_cut_off(
        self, library: Library, offer: Offer, copied: None, fetched: list[str], tmp_path: Path
    ) -> None:
        last = next((tmp_path / "index").glob("small_part2-*"))
        aside = last.rename(tmp_path / last.name)
        said = refusal(lambda: library.get("small", "auto", silent))
        assert said.startswith("small-part2==1.0 cannot be fetched (No matching distribution")
        assert "\n" not in said
        assert visible(library) == []
        half = library.root / ".downloads" / "small" / "small_part1-1.0-py3-none-any.whl"
        half.write_bytes(half.read_bytes()[:-10])  # as a kill would leave it
        fetched.clear()
        aside.rename(last)
        library.get("small", "auto", silent)
        assert fetched == ["small-part1", "small-part2"]

    def test_another_wheel_of_the_same_name_is_refused(
        self, library: Library, offer: Offer, tmp_path: Path
    ) -> None:
        write_wheel(tmp_path / "index", "small-part0", "small_part0/part", b"something else")
        said = refusal(lambda: library.get("small", "auto", silent))
        assert said.startswith("the small-part0==1.0 that the package index has is not the one")
        assert visible(library) == []

    def test_parts_that_make_another_file_are_refused(
        self, library: Library, offer: Offer, copied: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        changed = Offer(**{**vars(offer), "sha256": "0" * 64})
        monkeypatch.setitem(CATALOGUE, "small", changed)  # type: ignore[arg-type]
        said = refusal(lambda: library.get("small", "auto", silent))
        assert "do not hold the file that was meant" in said
        assert visible(library) == []

    def test_no_index_is_said_in_plain_words(
        self, library: Library, offer: Offer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.delenv("PIP_FIND_LINKS")
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        monkeypatch.setenv("PIP_RETRIES", "1")
        said = refusal(lambda: library.get("small", "auto", silent))
        assert "the package index cannot be reached: try again with a network" in said

    def test_no_pip_is_said_with_what_to_install(
        self, library: Library, offer: Offer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.metadata.distributions", lambda **_: iter(()))
        assert "-m ensurepip" in refusal(lambda: library.get("small", "auto", silent))

    def test_an_unknown_name_is_refused_with_the_one_that_is_meant(self, library: Library) -> None:
        said = refusal(lambda: library.get("smollm-135m", "auto", silent))
        assert "did you mean 'smollm2-135m'?" in said

    def test_two_at_once_fetch_once(
        self, library: Library, offer: Offer, copied: None, fetched: list[str]
    ) -> None:
        found: list[str] = []
        waited: list[str] = []

        def get() -> None:
            model = library.get("small", "auto", lambda what, *_: waited.append(what))
            found.append(model.name)

        threads = [threading.Thread(target=get) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == ["small"] * 3
        assert fetched == ["small-part0"]
        assert "waiting for another process that makes small" in waited


class TestFiles:
    def test_a_file_is_converted_once_by_its_content(
        self, library: Library, gguf: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        folder = locate(str(gguf), library)
        assert "tiny.Q8_0.gguf: converting" in caplog.text
        stamp = (folder / "model.safetensors").stat().st_mtime_ns
        moved = tmp_path / "other name.GGUF"
        moved.write_bytes(gguf.read_bytes())
        assert locate(str(moved), library) == folder
        assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
        [name] = visible(library)
        assert name.startswith("tiny.Q8_0-")
        assert library.find(name) is not None

    def test_a_file_gets_the_name_that_is_asked_for(self, library: Library, gguf: Path) -> None:
        model = library.add(str(gguf), "mine", "float16", silent)
        assert (model.name, model.kind, model.dtype) == ("mine", "gguf", "float16")
        assert (model.source, model.licence) == (str(gguf), "mit")
        assert model.quantisation == "Q8_0, F32"
        assert load("mine", "cpu", models_dir=library.root).name == "mine"
        assert library.add(str(gguf), None, "auto", silent).name == "tiny.Q8_0"

    def test_a_folder_of_an_older_converter_is_made_again(
        self, library: Library, gguf: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library.add(str(gguf), "mine", "auto", silent)
        monkeypatch.setattr("jeep_core.models.library.VERSION", 2)
        assert library.add(str(gguf), "mine", "auto", silent).converter == 2
        assert visible(library) == ["mine"]

    def test_what_fails_leaves_nothing(
        self, library: Library, gguf: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

        monkeypatch.setattr("jeep_core.models.gguf.convert.write", full)
        with pytest.raises(OSError, match="No space left"):
            library.add(str(gguf), "mine", "auto", silent)
        assert visible(library) == []
        assert not [p for p in library.root.iterdir() if p.is_dir()]

    def test_what_a_killed_process_left_is_removed(self, library: Library, gguf: Path) -> None:
        left = library.root / ".unfinished-mine"
        left.mkdir(parents=True)
        (left / "model.safetensors").write_bytes(b"half")
        assert library.names() == []
        model = library.add(str(gguf), "mine", "auto", silent)
        assert not left.exists()
        assert (model.folder / "tokenizer.json").exists()

    def test_without_a_directory_the_sentence_says_how_to_name_one(self, gguf: Path) -> None:
        assert "models_dir=, --models-dir, JEEP_MODELS" in refusal(lambda: load(str(gguf)))


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folders.write_folder(tmp_path / "own model", "gpt2")
        return tmp_path / "own model"

    def test_a_folder_stays_where_it_is(self, library: Library, folder: Path) -> None:
        model = library.add(str(folder), None, "auto", silent)
        assert (model.name, model.kind, model.folder) == ("own-model", "folder", folder)
        assert [p.name for p in (library.root / "own-model").iterdir()] == [RECORD]
        assert locate("own-model", library) == folder
        assert library.add(str(folder), "own-model", "auto", silent) == model

    def test_a_folder_that_is_gone_is_named(self, library: Library, folder: Path) -> None:
        library.add(str(folder), "mine", "auto", silent)
        folder.rename(folder.with_name("elsewhere"))
        assert "is not there any more: add it again" in refusal(lambda: locate("mine", library))

    def test_a_model_of_the_hub_is_taken_from_its_cache(
        self, library: Library, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        where = "jeep_core.models.checkpoints.source.snapshot_download"
        monkeypatch.setattr(where, lambda *_, **__: str(folder))
        model = library.add("owner/name", None, "auto", silent)
        assert (model.name, model.kind, model.source) == ("name", "hub", "owner/name")

    def test_offline_a_model_of_the_hub_is_refused(
        self, library: Library, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        said = refusal(lambda: library.add("owner/no-such-name", None, "auto", silent))
        assert "no copy is in the cache" in said

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("atlas-gptj", "comes with jeep"), ("smollm2-135m", "comes with jeep"),
            ("../x", "is no name for a model"), (".x", "is no name"), ("a/b", "is no name"),
            ("taken", "is here already, from"),
        ],
    )  # fmt: skip
    def test_a_name_that_is_taken_or_none_is_refused(
        self, name: str, said: str, library: Library, folder: Path, tmp_path: Path
    ) -> None:
        folders.write_folder(tmp_path / "other", "gpt2")
        library.add(str(tmp_path / "other"), "taken", "auto", silent)
        assert said in refusal(lambda: library.add(str(folder), name, "auto", silent))

    def test_what_is_no_model_is_refused(self, library: Library, tmp_path: Path) -> None:
        (tmp_path / "x.txt").write_text("no model")
        (tmp_path / "empty").mkdir()
        for source, said in (
            (str(tmp_path / "x.txt"), "is no GGUF file"),
            (str(tmp_path / "empty"), "it has no config.json"),
            ("./not-here", "is not there: name a model folder, a GGUF file"),
        ):
            assert said in refusal(lambda source=source: library.add(source, None, "auto", silent))
        assert not library.root.exists()

    def test_a_damaged_record_is_named_and_harms_no_other(
        self, library: Library, folder: Path, gguf: Path
    ) -> None:
        library.add(str(folder), "mine", "auto", silent)
        (library.root / "mine" / RECORD).write_text(json.dumps({"name": "mine"}))
        assert "is damaged: remove" in refusal(lambda: locate("mine", library))
        assert locate(str(gguf), library).is_dir()


class TestNames:
    def test_one_that_can_be_had_says_how(self, library: Library) -> None:
        said = refusal(lambda: locate("smollm2-135m", library))
        assert said == (
            f"smollm2-135m is not here yet in {library.root}: get it once with jeep models get "
            "smollm2-135m"
        )

    def test_without_a_directory_the_folder_is_asked_for(self) -> None:
        said = refusal(lambda: locate("smollm2-135m"))
        assert "name its folder" in said
        assert "models_dir" in said

    def test_a_folder_here_comes_before_a_name(
        self, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folders.write_folder(tmp_path / "mine", "gpt2")
        folders.write_folder(tmp_path / "elsewhere" / "mine", "gpt2")
        library.add(str(tmp_path / "elsewhere" / "mine"), "mine", "auto", silent)
        monkeypatch.chdir(tmp_path)
        assert locate("mine", library) == Path("mine")
        monkeypatch.chdir(library.root)
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        assert locate("mine", library) == tmp_path / "elsewhere" / "mine"

    def test_pins_are_whole(self) -> None:
        for offer in CATALOGUE.values():
            hashes = [offer.sha256, *(package.sha256 for package in offer.packages)]
            assert all(len(h) == 64 and int(h, 16) for h in hashes)
            assert any(package.member for package in offer.packages)
