"""``jeep store``: every kind of damage is found, sizes add up, a dry run changes nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.library.tiny import random_model
from support.service.edit_runner import MODEL
from support.service.played_worker.jobs import edit_job
from support.service.thin_versions import add_chain
from typer.testing import CliRunner

from jeep_core.models.loading import load
from jeep_core.storage.files import save_whole
from jeep_core.storage.looking import files_below
from service.cli import app
from service.settings import Settings
from service.store import Store
from service.store.maintenance.verify import verify
from service.worker.members.publishing import publish
from service.worker.versions.collect_command import _model_of
from service.worker.versions.collect_command import main as collect
from service.worker.versions.retention import Keeper


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """v0 to v4, of which v1 and v2 are thin; a job, a name, a network, a suite's files."""
    store = Store.open(tmp_path_factory.mktemp("whole"))
    base = random_model("gptj")
    add_chain(base, store, 4)
    Keeper(base, store, newest=2).collect()
    store.names.give("good", "v3")
    edit_job(store)
    store.base.prefixes_file.write_text('["One"]')
    moment = {"moment": torch.eye(3, dtype=torch.float64), "count": torch.tensor([7])}
    save_whole(store.base.moments_folder / "one.safetensors", moment, {"layer": "µ"})
    (store.base.moments_folder / "of-an-earlier-release.safetensors").write_bytes(
        store.tensors.path(store.versions.read("v4").tensors[0].sha256).read_bytes()
    )
    network = store.base.networks_folder / "abc/mend.safetensors"
    network.parent.mkdir(parents=True, exist_ok=True)
    network.write_bytes(b"network")
    sha256 = hashlib.sha256(b"network").hexdigest()
    network.with_suffix(".json").write_text(json.dumps({"sha256": sha256}))
    return store


@pytest.fixture
def copy(whole: Store, tmp_path: Path) -> Store:
    """A copy that the tests damage."""
    shutil.copytree(whole.root, tmp_path / "store")
    return Store.open(tmp_path / "store")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def dense(store: Store) -> Path:
    return store.tensors.path(store.versions.read("v4").tensors[0].sha256)


def factor(store: Store) -> Path:
    ref = next(a for a in store.versions.read("v1").artifacts if a.name.startswith("u."))
    return store.tensors.path(ref.sha256)


def ties(store: Store) -> Path:
    thin = store.versions.thin("v1")
    assert thin is not None
    return store.tensors.path(thin.refs()[0].sha256)


def job(store: Store) -> Path:
    return next((store.root / "jobs").glob("*.json"))


def write(name: str, text: str) -> Callable[[Store], Path]:
    def damage(store: Store) -> Path:
        (store.root / name).parent.mkdir(exist_ok=True)
        (store.root / name).write_text(text)
        return store.root / name

    return damage


def flipped(find: Callable[[Store], Path]) -> Callable[[Store], Path]:
    def damage(store: Store) -> Path:
        path = find(store)
        flip(path)
        return path

    return damage


def removed(find: Callable[[Store], Path]) -> Callable[[Store], Path]:
    def damage(store: Store) -> Path:
        path = find(store)
        path.unlink()
        return path

    return damage


def other_id(store: Store) -> Path:
    path = store.root / "versions" / "v3" / "manifest.json"
    path.write_text(path.read_text().replace('"id":"v3"', '"id":"v9"', 1))
    return path


DAMAGES: dict[str, tuple[Callable[[Store], Path], str]] = {
    "a tensor": (flipped(dense), "rebuilds this part of v4"),
    "a tensor is gone": (removed(dense), "rebuilds this part of v4"),
    "a factor": (flipped(factor), "backup"),
    "a factor is gone": (removed(factor), "backup"),
    "ties": (flipped(ties), "backup"),
    "thin.json": (write("versions/v1/thin.json", "{"), "backup"),
    "a manifest": (write("versions/v3/manifest.json", "{"), "backup"),
    "a manifest of another version": (other_id, "backup"),
    "head": (write("head.json", "{"), "takes head from the reflog"),
    "the reflog": (write("reflog.jsonl", "{\n"), "remove the line"),
    "names": (write("names.json", '{"good": "v77"}'), "backup"),
    "names, half": (write("names.json", '{"good": '), "backup"),
    "the counter": (write("counter.json", "x"), "remove it"),
    "the model's hash": (write("model.json", "{}"), "backup"),
    "what the worker published": (write("model/info.json", "{}"), "start the worker"),
    "a job": (lambda store: write(f"jobs/{job(store).name}", "{")(store), "unknown"),
    "an API key": (write("keys/key_1.json", "{}"), "jeep keys create"),
    "a suite": (write("suites/own.json", "{}"), "upload it again"),
    "prefixes": (write("base/prefixes.json", "["), "computed again"),
    "moments": (write("base/moments/one.safetensors", "short"), "computed again"),
    "a bit of moments": (
        flipped(lambda store: store.base.moments_folder / "one.safetensors"),
        "computed again",
    ),
    "a kept probe": (write("base/probes/abc.json", "{"), "computed again"),
    "a network's record": (write("base/hypernetworks/abc/mend.json", "{}"), "train it again"),
    "a network": (write("base/hypernetworks/abc/mend.safetensors", "other"), "train it again"),
}


class TestVerify:
    def test_a_whole_store_has_no_findings(self, copy: Store) -> None:
        report = verify(copy)
        assert report.findings == []
        assert (report.versions, report.thin) == (5, 2)

    @pytest.mark.parametrize("kind", DAMAGES)
    def test_damage_is_found_by_its_file_with_advice(self, copy: Store, kind: str) -> None:
        damage, advice = DAMAGES[kind]
        path = damage(copy).relative_to(copy.root).as_posix()
        found = {one.path: one.advice for one in verify(Store(copy.root)).findings}
        assert advice in found[path]

    def test_a_thin_version_without_its_factors_is_named(self, copy: Store) -> None:
        factor(copy).unlink()
        whats = [one.what for one in verify(copy).findings]
        assert any("cannot be rebuilt without v1: u." in what for what in whats)

    def test_a_head_that_names_no_version_is_found(self, copy: Store) -> None:
        shutil.rmtree(copy.root / "versions" / "v4")
        found = {one.path: one.what for one in verify(Store(copy.root)).findings}
        assert found["head.json"] == "names v4, which is not there"
        assert found["reflog.jsonl"] == "names v4, which are not there"

    def test_a_broken_chain_is_found(self, copy: Store) -> None:
        shutil.rmtree(copy.root / "versions" / "v2")
        found = {one.path: one.what for one in verify(Store(copy.root)).findings}
        assert found["versions/v4/manifest.json"] == "its parents do not lead to v0"

    def test_the_advice_for_a_damaged_tensor_works(self, copy: Store) -> None:
        flip(dense(copy))
        dense(copy).unlink()
        Keeper(random_model("gptj"), copy, newest=2).collect()
        assert verify(copy).findings == []


class TestCommands:
    def run(self, *arguments: str) -> tuple[int, str]:
        shown = CliRunner().invoke(app, ["store", *arguments])
        return shown.exit_code, shown.output

    def test_the_verify_command_lists_findings(self, copy: Store) -> None:
        code, output = self.run("verify", "--store", str(copy.root))
        assert (code, "5 versions (2 thin)" in output, "nothing damaged" in output) == (0, 1, 1)
        flip(dense(copy))
        code, output = self.run("verify", "--store", str(copy.root))
        assert code == 1
        assert dense(copy).name in output

    def test_du_counts_every_byte_once(self, copy: Store) -> None:
        copy.tensors.put("w", "F32", [1], b"lost")
        code, output = self.run("du", "--json", "--store", str(copy.root))
        assert code == 0
        told = json.loads(output)
        sizes = [entry.stat().st_size for entry in files_below(copy.root)]
        assert told["bytes"] == sum(sizes) == sum(k["bytes"] for k in told["kinds"].values())
        assert told["kinds"]["tensors that nothing names"]["files"] == 1
        assert {"tensors of versions", "factors", "manifests"} <= told["kinds"].keys()
        assert "tensors of versions" in self.run("du", "--store", str(copy.root))[1]

    def test_a_dry_run_tells_what_a_round_then_does(self, copy: Store) -> None:
        before = sorted(copy.root.glob("**/*"))
        code, output = self.run("gc", "--dry-run", "--keep", "1", "--store", str(copy.root))
        assert code == 0
        lines = {line.split()[0]: line for line in output.splitlines()}
        assert "named good" in lines["v3"]
        assert "head" in lines["v4"]
        assert "are dropped" in lines["v1"]
        assert sorted(copy.root.glob("**/*")) == before

    def test_the_commands_refuse_a_path_that_is_no_store(self, tmp_path: Path) -> None:
        code, output = self.run("verify", "--store", str(tmp_path))
        assert code == 2
        assert "is no store" in output

    def test_gc_works_without_a_worker_and_refuses_beside_one(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        base = load(str(MODEL), device="cpu", dtype="float32")
        store = Store.open(tmp_path / "store")
        add_chain(base, store, 3)
        settings = Settings(
            store=store.root, model=str(MODEL), device="cpu", dtype="float32", keep_versions=1
        )
        with store.worker_lock():
            assert collect(settings) == 1
        assert "another worker already uses this store" in capsys.readouterr().err
        assert collect(settings) == 0
        assert "v2: tensors dropped" in capsys.readouterr().out
        assert store.versions.missing(store.versions.read("v1"))
        assert verify(store).findings == []

    def test_gc_takes_the_model_that_the_store_was_served_with(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("JEEP_MODEL", "JEEP_DTYPE"):
            monkeypatch.delenv(name, raising=False)
        base = load(str(MODEL), device="cpu", dtype="float32")
        store = Store.open(tmp_path / "store")
        add_chain(base, store, 3)
        served = Settings(store=store.root, model=str(MODEL), device="cpu", dtype="float32")
        publish(store, base, served)
        unnamed = Settings(store=store.root, device="cpu", keep_versions=1)
        assert collect(unnamed) == 0
        assert "v2: tensors dropped" in capsys.readouterr().out
        moved = Settings(store=store.root, model="moved", device="cpu")
        assert _model_of(store, moved) == ("moved", "float32"), "the same weights elsewhere"
        run = CliRunner().invoke(
            app, ["store", "gc", "--model", "./no", "--store", str(store.root)]
        )
        assert run.exit_code == 1
        assert "no is not there" in capsys.readouterr().err + run.output
