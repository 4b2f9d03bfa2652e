"""Secrets come in by environment or file, and never come out again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr

from projector.config import Settings, load_settings
from projector.errors import ConfigError
from projector.logging import without_passwords

SECRET = "hunter2-and-more"
SECRETS = [name for name, field in Settings.model_fields.items() if field.annotation is SecretStr]
URLS = [name for name in SECRETS if name.endswith("_url")]
# What the settings must have beside a secret for it to be used.
BESIDE = {
    "kafka_sasl_password": {
        "PROJECTOR_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "PROJECTOR_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "PROJECTOR_KAFKA_SASL_USERNAME": "projector",
    },
    "kafka_ssl_keyfile_password": {
        "PROJECTOR_KAFKA_SECURITY_PROTOCOL": "SSL",
        "PROJECTOR_KAFKA_SSL_CERTFILE": "client.pem",
    },
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in URLS:
        monkeypatch.delenv(f"PROJECTOR_{name.upper()}", raising=False)
    return monkeypatch


def _value(name: str) -> str:
    return f"postgresql://projector:{SECRET}@db/log" if name in URLS else SECRET


def _set(environment: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)


def _run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, *words]
    return subprocess.run(argv, env=variables, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_may_come_from_a_file(environment: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    file.write_text(_value(name) + "\n")
    _set(environment, {**BESIDE.get(name, {}), f"PROJECTOR_{name.upper()}_FILE": str(file)})
    settings = load_settings()
    assert getattr(settings, name).get_secret_value() == _value(name)
    # What a child process is given is the secret itself.
    assert settings.environment()[f"PROJECTOR_{name.upper()}"] == _value(name)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_given_twice_is_refused(environment: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    file.write_text(_value(name))
    variable = f"PROJECTOR_{name.upper()}"
    _set(environment, {**BESIDE.get(name, {}), variable: _value(name), f"{variable}_FILE": str(file)})
    with pytest.raises(ConfigError, match=f"both {variable} and {variable}_FILE") as caught:
        load_settings()
    assert SECRET not in str(caught.value)


def test_a_secret_file_that_cannot_be_read_is_named(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(SECRET.encode() + b"\xff\xfe")
    for name in "absent", "empty", "binary", ".":
        environment.setenv("PROJECTOR_LLM_API_KEY_FILE", str(tmp_path / name))
        with pytest.raises(ConfigError, match="PROJECTOR_LLM_API_KEY_FILE") as caught:
            load_settings()
        assert SECRET not in str(caught.value)


def test_only_the_newlines_at_the_end_of_a_file_are_dropped(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(" two words \r\n")
    environment.setenv("PROJECTOR_LLM_API_KEY_FILE", str(tmp_path / "secret"))
    assert load_settings().llm_api_key.get_secret_value() == " two words "


def test_settings_of_a_connection_survive_the_way_to_a_child_process(environment: pytest.MonkeyPatch) -> None:
    given = {
        **BESIDE["kafka_sasl_password"],
        "PROJECTOR_KAFKA_SASL_PASSWORD": SECRET,
        "PROJECTOR_KAFKA_SSL_CAFILE": "/etc/ca.pem",
        "PROJECTOR_KAFKA_SSL_CERTFILE": "/etc/client.pem",
        "PROJECTOR_KAFKA_SSL_KEYFILE": "/etc/client.key",
        "PROJECTOR_KAFKA_SSL_KEYFILE_PASSWORD": SECRET,
    }
    _set(environment, given)
    passed_on = load_settings().environment()
    assert {name: value for name, value in passed_on.items() if "KAFKA_S" in name} == given


SASL = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "projector"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({**SASL}, ("KAFKA_SECURITY_PROTOCOL=SASL_SSL", "KAFKA_SASL_PASSWORD")),
        ({**SASL, "KAFKA_SASL_PASSWORD": SECRET, "KAFKA_SASL_MECHANISM": ""}, ("=SASL_SSL", "KAFKA_SASL_MECHANISM")),
        ({**SASL, "KAFKA_SASL_PASSWORD": SECRET, "KAFKA_SASL_USERNAME": ""}, ("=SASL_SSL", "KAFKA_SASL_USERNAME")),
        ({"KAFKA_SASL_PASSWORD": SECRET}, ("KAFKA_SECURITY_PROTOCOL=PLAINTEXT", "KAFKA_SASL_PASSWORD")),
        ({"KAFKA_SASL_USERNAME": "a", "KAFKA_SECURITY_PROTOCOL": "SSL"}, ("PROTOCOL=SSL", "KAFKA_SASL_USERNAME")),
        ({"KAFKA_SSL_CAFILE": "ca.pem"}, ("KAFKA_SECURITY_PROTOCOL=PLAINTEXT", "KAFKA_SSL_CAFILE")),
        (
            {
                **SASL,
                "KAFKA_SASL_PASSWORD": SECRET,
                "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
                "KAFKA_SSL_CAFILE": "c",
            },
            ("KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT", "KAFKA_SSL_CAFILE"),
        ),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_KEYFILE": "k"}, ("KAFKA_SSL_KEYFILE", "KAFKA_SSL_CERTFILE")),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_KEYFILE_PASSWORD": SECRET},
            ("KAFKA_SSL_KEYFILE_PASSWORD", "KAFKA_SSL_CERTFILE"),
        ),
        ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")),
        ({**SASL, "KAFKA_SASL_PASSWORD": SECRET, "KAFKA_SASL_MECHANISM": "GSSAPI"}, ("KAFKA_SASL_MECHANISM", "PLAIN")),
    ],
)
def test_half_a_connection_is_refused_by_the_names_of_both_settings(
    environment: pytest.MonkeyPatch, given: dict[str, str], named: tuple[str, ...]
) -> None:
    _set(environment, {f"PROJECTOR_{name}": value for name, value in given.items()})
    with pytest.raises(ConfigError) as caught:
        load_settings()
    for name in named:
        assert name in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("sign", ["@", "/", ":", "%", "#", "?", " "])
def test_no_url_with_a_raw_password_is_quoted_in_an_error(sign: str) -> None:
    """What libpq says about such a URL repeats a part of the password."""
    url = f"postgresql://projector:{SECRET}{sign}word-end@127.0.0.1:1/log"
    done = _run("-m", "projector", "migrate", PROJECTOR_DATABASE_URL=url)
    assert done.returncode != 0
    assert "PROJECTOR_DATABASE_URL" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert "word-end" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", URLS)
def test_a_url_with_a_raw_password_is_refused_with_the_way_to_write_it(
    environment: pytest.MonkeyPatch, name: str
) -> None:
    environment.setenv(f"PROJECTOR_{name.upper()}", f"postgresql://projector:{SECRET}@word-end@db/log")
    with pytest.raises(ConfigError, match=f"PROJECTOR_{name.upper()}.*%40 for @") as caught:
        load_settings()
    assert SECRET not in str(caught.value)
    assert "word-end" not in str(caught.value)


def test_the_settings_in_force_are_printed_without_the_secrets_of_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    variables = BESIDE["kafka_sasl_password"] | {"PROJECTOR_KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "secret")}
    done = _run("-m", "projector", "config", "--json", **variables)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout
    assert orjson.loads(done.stdout)["PROJECTOR_KAFKA_SASL_USERNAME"] == "projector"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("to postgresql://anna:pass@db:5432/log now", "to postgresql://anna:***@db:5432/log now"),
        ("to postgresql://anna:p@ss:w/rd@db/log now", "to postgresql://anna:***@db/log now"),
        ("host=db password=pass user=anna", "host=db password=*** user=anna"),
        (r"host=db password='p \' q' user=anna", "host=db password=*** user=anna"),
        ("sasl_plain_password='pass', acks=1", "sasl_plain_password=***, acks=1"),
        ("{'password': 'pass', 'user': 'anna'}", "{'password': ***, 'user': 'anna'}"),
        ('{"sslpassword": "pass"}', '{"sslpassword": ***}'),
        ("PROJECTOR_KAFKA_SASL_PASSWORD=pass", "PROJECTOR_KAFKA_SASL_PASSWORD=***"),
        ("password authentication failed for user anna", "password authentication failed for user anna"),
        ("http://127.0.0.1:8080/v1 and anna@example.org", "http://127.0.0.1:8080/v1 and anna@example.org"),
        ("postgresql://db:5432/log", "postgresql://db:5432/log"),
    ],
)
def test_passwords_are_masked_wherever_text_quotes_them(text: str, masked: str) -> None:
    assert without_passwords(text) == masked


LOGGED = f"""
import logging
from projector.config import Settings
from projector import logging as ours

ours.configure(Settings(log_format=FORMAT), "cdc")
url = "postgresql://projector:{SECRET}@db/log"
log = ours.get("test")
log.warning(url, reason=ValueError(url), places=[{{"to": url}}, (url,)], count=3, conninfo="password={SECRET} host=db")
logging.getLogger("library").error("cannot connect to %s", url)
for report in log.exception, logging.getLogger("library").exception:
    try:
        raise ValueError("cannot use " + url)
    except ValueError:
        report("failed")
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_log_line_holds_a_password(log_format: str) -> None:
    done = _run("-c", LOGGED.replace("FORMAT", repr(log_format)))
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stderr
    assert done.stderr.count("ValueError: cannot use postgresql://projector:***@db/log") == 2
    if log_format == "json":
        lines = [orjson.loads(line) for line in done.stderr.splitlines()]
        assert [line["level"] for line in lines] == ["warning", "error", "error", "error"]
        assert lines[0]["count"] == 3
        assert lines[0]["places"] == [
            {"to": "postgresql://projector:***@db/log"},
            ["postgresql://projector:***@db/log"],
        ]
