"""Settings: read from the environment, wrong ones refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, is_secret, load_settings
from service.settings import joined as settings_module


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"JEEP_{name.upper()}", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setattr(settings_module, "_SECRETS", "/nonexistent")


def test_the_environment_sets_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEEP_STORE", "/data/store")
    assert load_settings().store == Path("/data/store")


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEEP_PORT", "9000")
    assert load_settings(port=9001).port == 9001


def test_a_flag_that_was_not_given_leaves_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEEP_PORT", "9000")
    assert load_settings(port=None).port == 9000


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEEP_REDIS_URL", "")
    assert load_settings().redis_url is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("JEEP_PORT", "99999"),
        ("JEEP_PORT", "tcp://10.0.0.1:80"),
        ("JEEP_DEVICE", "gpu"),
        ("JEEP_DEVICE", "0-3@gpu"),
        ("JEEP_DEVICE", "0-3@cuda:0,3-5@cuda:1"),
        ("JEEP_DEVICE", "tp"),
        ("JEEP_DTYPE", "int4"),
        ("JEEP_REDIS_URL", "localhost:6379"),
        ("JEEP_MAX_FACTS", "0"),
        ("JEEP_GENERATE_TIMEOUT_S", "nan"),
        ("JEEP_CORPUS", "/no/such/corpus.txt"),
        ("JEEP_PRESETS", "/no/such/folder"),
        ("JEEP_LEASE_RENEW_S", "29"),
        ("JEEP_MOMENTS", "../elsewhere"),
        ("JEEP_FACTOR_MEMORY_MB", "0"),
        ("JEEP_EDIT_SHARE", "0"),
        ("JEEP_READ_SHARE", "1.5"),
        ("JEEP_DECODE_THREADS", "0"),
        ("JEEP_EXECUTOR", "threads"),
        ("JEEP_EXECUTOR_WORKERS", "0"),
        ("JEEP_EXECUTOR_ADDRESS", "ray://head:10001/x"),
        ("JEEP_EXECUTOR_ADDRESS", "http://head"),
        ("JEEP_AUTH", "maybe"),
        ("JEEP_RATE_PER_MINUTE", "-1"),
        ("JEEP_MAX_STREAMS", "0"),
        ("JEEP_CONSOLE", "maybe"),
        ("JEEP_CONSOLE_HOURS", "0"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable):
        load_settings()


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(port=-1, job_tries=0)
    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == [
        "JEEP_PORT",
        "JEEP_JOB_TRIES",
    ]


def test_a_child_process_gets_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(store=Path("elsewhere"), port=1234, threads=2, lease_renew_s=1.5)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_the_key_of_a_judge_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEEP_JUDGE_KEY", "sk-hidden")
    settings = load_settings()
    assert settings.judge_key is not None
    assert settings.judge_key.get_secret_value() == "sk-hidden"
    assert "sk-hidden" not in repr(settings)
    assert not any("sk-hidden" in value for value in settings.environment().values())


def test_secrets_are_in_no_dump_of_the_settings() -> None:
    secret = {name for name, field in Settings.model_fields.items() if is_secret(field)}
    assert secret == {"redis_password", "store_key", "judge_key"}
    assert all(Settings.model_fields[name].exclude for name in secret)


class TestSecretFiles:
    @pytest.fixture
    def secrets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        monkeypatch.setenv("JEEP_REDIS_URL", "redis://valkey:6379/0")
        (tmp_path / "jeep_redis_password").write_text("p@ss/wort\n")
        return tmp_path

    def test_a_setting_may_be_a_file_among_the_secrets(self, secrets: Path) -> None:
        settings = load_settings()
        assert settings.redis_url == "redis://:p%40ss%2Fwort@valkey:6379/0"
        assert "wort" not in repr(settings.redis_password)

    def test_containers_find_theirs_in_one_place(
        self, secrets: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CREDENTIALS_DIRECTORY")
        monkeypatch.setattr(settings_module, "_SECRETS", str(secrets))
        assert load_settings().redis_password is not None

    def test_a_variable_wins_over_a_file(
        self, secrets: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("JEEP_REDIS_PASSWORD", "other")
        assert load_settings().redis_url == "redis://:other@valkey:6379/0"

    @pytest.mark.parametrize(
        ("url", "whole"),
        [
            ("redis://me@host:1", "redis://me:p%40ss%2Fwort@host:1"),
            ("redis://:own@host:1", "redis://:own@host:1"),
            ("rediss://[::1]:6380/1", "rediss://:p%40ss%2Fwort@[::1]:6380/1"),
            ("unix:///run/valkey.sock", "unix://:p%40ss%2Fwort@/run/valkey.sock"),
        ],
    )
    def test_the_password_joins_an_address_without_one(
        self, secrets: Path, url: str, whole: str
    ) -> None:
        assert load_settings(redis_url=url).redis_url == whole

    def test_a_child_process_can_log_in_too(
        self, secrets: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = load_settings()
        monkeypatch.delenv("CREDENTIALS_DIRECTORY")
        for name, value in settings.environment().items():
            monkeypatch.setenv(name, value)
        assert load_settings().redis_url == settings.redis_url


@pytest.mark.parametrize(
    "address", ["http://me:s3cret@host", "http://host?key=s3cret", "http://h#x"]
)
def test_the_address_of_an_api_holds_no_secret(address: str) -> None:
    with pytest.raises(SettingsError, match=r"JEEP_STORE_URL: .*JEEP_STORE_KEY"):
        load_settings(store_url=address)


@pytest.mark.parametrize("password", ["s3cret/x", "s3cret#x", "s3cret?x"])
def test_a_password_that_is_not_quoted_is_refused_and_not_shown(password: str) -> None:
    with pytest.raises(SettingsError, match=r"JEEP_REDIS_URL: .*percent-encoded") as refused:
        load_settings(redis_url=f"redis://:{password}@host:6379/0")
    assert "s3cret" not in str(refused.value)


def test_a_password_in_a_query_is_not_shown_either() -> None:
    with pytest.raises(SettingsError, match=r"password=…&db=1") as refused:
        load_settings(redis_url="ftp://host?password=s3cret&db=1")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("name", ["redis_url", "store_url"])
def test_a_refused_address_is_shown_without_its_password(name: str) -> None:
    with pytest.raises(SettingsError, match="//…@host") as refused:
        load_settings(**{name: "ftp://me:s3cret@host"})
    assert "s3cret" not in str(refused.value)
