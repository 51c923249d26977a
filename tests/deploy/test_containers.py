"""Dockerfiles and compose files: valid, and as restricted as the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
RESET = object()


class ComposeLoader(yaml.SafeLoader):
    """YAML with the tags by which an override removes or replaces something."""


ComposeLoader.add_constructor("!reset", lambda loader, node: RESET)
ComposeLoader.add_constructor(
    "!override", lambda loader, node: loader.construct_sequence(node, deep=True)
)


@cache
def load(name: str) -> dict[str, Any]:
    """A file, which no test changes."""
    return yaml.load((DEPLOY / name).read_text(), ComposeLoader)


@pytest.fixture
def services() -> dict[str, Any]:
    return load("compose.yaml")["services"]


@pytest.fixture(params=["api", "worker"])
def dockerfile(request: pytest.FixtureRequest) -> Path:
    return ROOT / "docker" / f"{request.param}.Dockerfile"


class TestDockerfiles:
    def test_the_linter_accepts_every_dockerfile(self, dockerfile: Path) -> None:
        lint = subprocess.run([BIN / "hadolint", dockerfile], capture_output=True, text=True)
        assert (lint.returncode, lint.stdout) == (0, "")

    def test_the_base_image_can_be_chosen(self, dockerfile: Path) -> None:
        stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?", dockerfile.read_text(), re.M)
        assert stages == [("${BASE_IMAGE}", "python"), ("python", "build"), ("python", "")]

    def test_containers_run_as_an_unprivileged_user(self, dockerfile: Path) -> None:
        assert re.findall(r"^USER (\S+)", dockerfile.read_text(), re.M) == ["10001:10001"]

    def test_the_health_check_asks_the_part_inside(self, dockerfile: Path) -> None:
        part = dockerfile.name.split(".")[0]
        assert f'CMD ["python3", "-m", "service.ops.health", "{part}"]' in dockerfile.read_text()

    def test_only_the_worker_s_image_has_torch(self) -> None:
        worker = (ROOT / "docker/worker.Dockerfile").read_text()
        assert "ARG EXTRAS=worker\n" in worker
        assert 'pip install --no-cache-dir ".[${EXTRAS}]"' in worker
        api = (ROOT / "docker/api.Dockerfile").read_text()
        assert "[worker]" not in api
        assert "pip install --no-cache-dir '.[api]'" in api


class TestCompose:
    @pytest.mark.parametrize("name", ["compose.yaml", "compose.cpu.yaml", "compose.gpus.yaml"])
    def test_the_compose_file_follows_the_specification(self, name: str, tmp_path: Path) -> None:
        file = tmp_path / name
        text = (DEPLOY / name).read_text().replace("!reset null", "{}")
        file.write_text(text.replace("!override", ""))
        command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file]
        check = subprocess.run(command, capture_output=True, text=True)
        assert check.returncode == 0, check.stdout

    def test_every_container_drops_its_privileges(self, services: dict[str, Any]) -> None:
        for name, service in services.items():
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["restart"] == "unless-stopped", name
            assert "privileged" not in service, name

    def test_only_the_api_and_the_dashboards_are_published_and_on_loopback(
        self, services: dict[str, Any]
    ) -> None:
        published = {name: s["ports"] for name, s in services.items() if "ports" in s}
        assert published.keys() == {"api", "grafana"}
        for ports in published.values():
            assert all(re.match(r"\$\{\w+:-127\.0\.0\.1:", port) for port in ports)

    def test_queue_workers_and_ray_cannot_reach_the_internet(
        self, services: dict[str, Any]
    ) -> None:
        networks = load("compose.yaml")["networks"]
        internal = {name for name, network in networks.items() if network == {"internal": True}}
        assert internal == {"queue", "lead", "ray"}
        for name in ("valkey", "worker", "follower", "ray-head", "ray-worker"):
            assert {*services[name]["networks"]} <= internal, name

    def test_workers_reserve_a_gpu_and_the_override_takes_that_back(
        self, services: dict[str, Any]
    ) -> None:
        for name in ("worker", "follower", "ray-worker"):
            [device] = services[name]["deploy"]["resources"]["reservations"]["devices"]
            assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
            assert load("compose.cpu.yaml")["services"][name]["deploy"] is RESET
        every = load("compose.gpus.yaml")["services"]["worker"]
        [device] = every["deploy"]["resources"]["reservations"]["devices"]
        assert (device["count"], device["capabilities"]) == ("all", ["gpu"])
        assert every["environment"] == {"JEEP_DEVICE": "${JEEP_DEVICE:-balanced}"}

    def test_the_worker_stays_offline_and_has_shared_memory(self) -> None:
        worker = load("compose.yaml")["services"]["worker"]
        assert worker["environment"]["HF_HUB_OFFLINE"] == "${HF_HUB_OFFLINE:-1}"
        assert worker["shm_size"] == "1gb"

    def test_secrets_are_files_that_git_does_not_take(self) -> None:
        whole = load("compose.yaml")
        for name, secret in whole["secrets"].items():
            assert secret["file"].startswith("./secrets/")
            if name.startswith("jeep_"):
                assert name.removeprefix("jeep_") in Settings.model_fields
        assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().split()
        assert "deploy/.env" in (ROOT / ".gitignore").read_text().split()

    def test_store_queue_and_cache_outlive_their_containers(self, services: dict[str, Any]) -> None:
        assert {"queue", "store", "cache"} <= load("compose.yaml")["volumes"].keys()
        assert {"store:/store", "cache:/cache"} < {*services["worker"]["volumes"]}
        assert "store:/store" in services["api"]["volumes"]
        assert services["valkey"]["volumes"] == ["queue:/data"]
        command = services["valkey"]["command"][-1]
        assert "--appendonly yes" in command
        # else it takes the memory of the host; as in Kubernetes
        assert "--maxmemory ${VALKEY_MAXMEMORY:-1400mb} --maxmemory-policy noeviction" in command
        base = (DEPLOY / "kubernetes/base/valkey.yaml").read_text()
        assert "--maxmemory 1400mb" in base

    def test_the_example_names_only_what_exists(self) -> None:
        example = (DEPLOY / "env.example").read_text()
        named = {*re.findall(r"^#? ?([A-Z][A-Z_]+)=", example, re.M)}
        used = {*re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text())}
        settings = {PREFIX + name.upper() for name in Settings.model_fields}
        assert named <= used | settings
        assert used - named <= {"GRAFANA_PUBLISH"}

    def test_files_that_are_mounted_exist(self, services: dict[str, Any]) -> None:
        mounted = [v.split(":")[0] for s in services.values() for v in s.get("volumes", ())]
        files = [name for name in mounted if name.startswith("./")]
        assert files
        assert [name for name in files if not (DEPLOY / name).exists()] == []
