"""The configuration file: where it is found, what is wrong in it, and that it holds no secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import Config, load_config, read_secret
from rating.errors import ConfigError

SECTIONS = ", ".join(sorted(Config.__struct_fields__))
WHOLE = """
[outbox]
file = "out/all.ndjson"
attempts = 3

[[outbox.files]]
name = "devices"
path = "-"

[[outbox.webhooks]]
name = "ops"
url = "https://example.com/weir"
secret_file = "secrets/ops"
allow = ["10.0.0.0/8", "::1"]

[outbox.email]
host = "mail.example.com"
sender = "weir@example.com"
user = "weir"
password_env = "MAIL_PASSWORD"

[[outbox.routes]]
actions = ["notify"]
channels = ["email"]
to = ["email", "ops", "file"]
"""


def refused(folder: Path, text: str) -> str:
    """What is said of a file with this text."""
    file = folder / "weir.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    return str(error.value).replace(str(file), "weir.toml")


def test_a_whole_file_is_read_with_paths_beside_it(tmp_path: Path) -> None:
    """Everything that is written is there; paths are relative to the folder of the file; the rest has defaults."""
    (tmp_path / "weir.toml").write_text(WHOLE)
    outbox = load_config(tmp_path / "weir.toml").outbox
    assert (str(tmp_path / "out/all.ndjson"), 3, 8) == (outbox.file, outbox.attempts, outbox.workers)
    assert ("-", str(tmp_path / "secrets/ops")) == (outbox.files[0].path, outbox.webhooks[0].secret_file)
    assert outbox.email is not None
    assert (("email", "ops", "file"), "starttls") == (outbox.routes[0].to, outbox.email.security)


def test_weir_toml_of_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path weir.toml is read where there is one, else the defaults hold."""
    monkeypatch.chdir(tmp_path)
    assert Config() == load_config(None)
    (tmp_path / "weir.toml").write_text("[outbox]\nattempts = 7\n")
    assert 7 == load_config(None).outbox.attempts


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    """A path that was given and is not there is an error, not the defaults."""
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[outbox]\nattemps = 3", "weir.toml:2: outbox.attemps: found 3; expected no field of this name"),
        ("[outbox]\nattempts = 0", "weir.toml:2: outbox.attempts: found 0; expected 1 to 1000"),
        ('[outbox]\nworkers = "8"', 'weir.toml:2: outbox.workers: found "8"; expected a whole number'),
        ("[inbox]", f"weir.toml:1: inbox: found an unknown table; expected one of {SECTIONS}"),
        ("outbox = 1", "weir.toml:1: outbox: found 1; expected a table"),
        ("[outbox]\nx =", "weir.toml:2: file: found what is not TOML"),
        ('[[outbox.routes]]\nto = ["opps"]', 'weir.toml:2: outbox.routes[0].to[0]: found "opps"; expected a dest'),
        ("[[outbox.routes]]\nto = []", "outbox.routes[0].to: found an array of 0; expected at least one destination"),
        (
            '[[outbox.routes]]\nto = ["file"]\nactions = ["suspend"]\nchannels = ["sms"]',
            "weir.toml:4: outbox.routes[0].channels",
        ),
        ('[[outbox.webhooks]]\nname = "a"', "outbox.webhooks[0].secret_env: found nothing; expected one of"),
        (
            '[[outbox.webhooks]]\nname = "a"\nurl = "https://u:p@example.com/"\nsecret_env = "S"',
            "weir.toml:3: outbox.webhooks[0].url",
        ),
        (
            '[[outbox.webhooks]]\nname = "file"\nsecret_env = "S"',
            'weir.toml:2: outbox.webhooks[0].name: found "file"; expected a name of its own',
        ),
        (
            '[[outbox.webhooks]]\nname = "a"\nsecret_env = "S"\nallow = ["10.0.0.1/8"]',
            "weir.toml:4: outbox.webhooks[0].allow[0]",
        ),
        ('[outbox.email]\nhost = "h"\nsender = "x"', 'outbox.email.sender: found "x"; expected a mail address'),
        (
            '[outbox.email]\nhost = "h"\nsender = "a@b"\nuser = "u"\npassword_env = "P"\nsecurity = "none"',
            "weir.toml:6: outbox.email.security",
        ),
        ('[outbox.email]\nhost = "h"\nsender = "a@b"\nuser = "u"', "weir.toml:4: outbox.email.user"),
        ('[clickhouse]\npassword = "x"', "weir.toml:2: clickhouse.password: found a secret in the file"),
        (
            '[clickhouse]\nurl = "ch:8123"',
            "clickhouse.url: found what is no address of a server; expected a URL such as",
        ),
        ('[clickhouse]\nurl = "https://u:p@ch/"', "weir.toml:2: clickhouse.url"),
        (
            '[clickhouse]\nurl = "http://ch:8123"\nuser = "u"\npassword_env = "P"',
            'clickhouse.url: found "http://ch:8123"; expected an https URL: a password does not go out in the clear',
        ),
        ('[clickhouse]\nurl = "https://ch"\npath = "here"', "weir.toml:3: clickhouse.path"),
        ('[clickhouse]\nurl = "https://ch"\npassword_env = "P"', "clickhouse.user: found nothing; expected the user"),
        ('[clickhouse]\nuser = "u"', 'clickhouse.user: found "u"; expected no such field without url'),
        ('[clickhouse]\ndatabase = "a`b"', "clickhouse.database: found"),
        ("[clickhouse]\npatience_s = -1", "clickhouse.patience_s: found -1; expected 0 to 86400"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    """Each message names file, line, field, what was found and what is expected."""
    assert said in refused(tmp_path, text)


@pytest.mark.parametrize("field", ["secret", "password"])
def test_secrets_in_the_file_are_refused_and_not_shown(tmp_path: Path, field: str) -> None:
    """A secret in the file is an error that names the right fields and does not repeat the secret."""
    said = refused(tmp_path, f'[[outbox.webhooks]]\nname = "a"\nsecret_env = "S"\n{field} = "hush"')
    assert f"weir.toml:4: outbox.webhooks[0].{field}: found a secret in the file; expected {field}_env" in said
    assert "hush" not in said


def test_secrets_come_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """White space around a secret is no part of it; one that is not there is an error that names the place."""
    (tmp_path / "secret").write_text("from file\n")
    monkeypatch.setenv("OPS", " from environment ")
    assert "from environment" == read_secret("OPS", None, "webhook ops")
    assert "from file" == read_secret(None, str(tmp_path / "secret"), "webhook ops")
    assert read_secret(None, None, "email") is None
    with pytest.raises(ConfigError, match="webhook ops: found no secret in environment variable ABSENT"):
        read_secret("ABSENT", None, "webhook ops")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret(None, str(tmp_path / "none"), "webhook ops")
