"""[kafka] and [worker]: their defaults, what is wrong in them, and what the environment puts over them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pipeline.config import Config, Kafka, Token, Worker, load_config
from rating.errors import ConfigError

WHOLE = """
[kafka]
servers = ["kafka-1:9093", "[::1]:9094"]
prefix = "fleet."
partitions = 4
security = "sasl_tls"
mechanism = "SCRAM-SHA-512"
user = "weir"
password_file = "secrets/kafka"
ca_file = "ca.pem"
cert_file = "weir.pem"
key_file = "weir.key"
key_password_env = "KEY"

[worker]
history = "landed"
feeds = ["mappings/mine.toml"]
log_format = "json"

[[worker.tokens]]
token_file = "secrets/acme"
accounts = ["acme"]

[[worker.tokens]]
token_env = "OPERATOR"
accounts = "*"
"""


def loaded(folder: Path, text: str) -> Config:
    """The configuration of a file with this text."""
    (folder / "weir.toml").write_text(text)
    return load_config(folder / "weir.toml")


def refused(folder: Path, text: str) -> str:
    """What is said of a file with this text."""
    with pytest.raises(ConfigError) as error:
        loaded(folder, text)
    return str(error.value).replace(str(folder / "weir.toml"), "weir.toml")


def test_whole_sections_are_read_with_paths_beside_the_file(tmp_path: Path) -> None:
    """Everything that is written is there, paths of secrets, certificates, mappings and history beside the file."""
    config = loaded(tmp_path, WHOLE)
    kafka, worker = config.kafka, config.worker
    assert (kafka.addresses, kafka.raw) == (("kafka-1:9093", "[::1]:9094"), 4)
    assert (kafka.encrypted, kafka.sasl) == (True, True)
    beside = [kafka.password_file, kafka.ca_file, kafka.cert_file, kafka.key_file, worker.history, *worker.feeds]
    names = ["secrets/kafka", "ca.pem", "weir.pem", "weir.key", "landed", "mappings/mine.toml"]
    assert beside == [str(tmp_path / name) for name in names]
    assert worker.tokens == (
        Token(accounts=("acme",), token_file=str(tmp_path / "secrets/acme")),
        Token(accounts="*", token_env="OPERATOR"),
    )


def test_servers_are_a_list_or_one_text(tmp_path: Path) -> None:
    """One text may name several brokers, with commas."""
    assert loaded(tmp_path, '[kafka]\nservers = "a:1, b:2"').kafka.addresses == ("a:1", "b:2")
    assert Config().kafka.addresses == ("127.0.0.1:9092",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[kafka]\nservers = "kafka"', 'weir.toml:2: kafka.servers: found "kafka"; expected host:port such as'),
        ('[kafka]\nservers = ["a:1", "b"]', 'weir.toml:2: kafka.servers[1]: found "b"; expected host:port'),
        ('[kafka]\nservers = "a:0"', 'kafka.servers: found "a:0"'),
        ('[kafka]\nservers = "a:70000"', 'kafka.servers: found "a:70000"'),
        ('[kafka]\nservers = "u:p@a:1"', 'kafka.servers: found "u:p@a:1"'),
        ('[kafka]\nservers = "a:1/x"', 'kafka.servers: found "a:1/x"'),
        ("[kafka]\nservers = []", "kafka.servers: found an array of 0; expected at least one broker"),
        ("[kafka]\nservers = 9092", "kafka.servers: found 9092"),
        ('[kafka]\nprefix = "weir/"', 'kafka.prefix: found "weir/"; expected at most 200 letters'),
        ("[kafka]\npartitions = 0", "kafka.partitions: found 0; expected 1 to 1000"),
        ("[kafka]\nlimit_bytes = 1000", "kafka.limit_bytes: found 1000; expected 50000 to 16777216"),
        ('[kafka]\nsecurity = "ssl"', 'kafka.security: found "ssl"; expected one of plain, sasl, sasl_tls, tls'),
        ('[kafka]\npassword = "x"', "kafka.password: found a secret in the file; expected password_env"),
        ('[kafka]\nkey_password = "x"', "kafka.key_password: found a secret in the file; expected key_password_env"),
        ('[kafka]\nuser = "u"', 'kafka.user: found "u"; expected no such field without security'),
        ('[kafka]\nca_file = "c"', "expected no such field without security"),
        ('[kafka]\nsecurity = "sasl"\npassword_env = "P"', "kafka.user: found nothing; expected the user"),
        ('[kafka]\nsecurity = "sasl"\nuser = "u"', "kafka.password_env: found nothing; expected one of"),
        (
            '[kafka]\nsecurity = "sasl"\nuser = "u"\npassword_env = "P"\npassword_file = "p"',
            "kafka.password_env: found both password_env and password_file; expected one of them",
        ),
        (
            '[kafka]\nservers = ["localhost:9092", "kafka:9092"]\nsecurity = "sasl"\nuser = "u"\npassword_env = "P"',
            'weir.toml:3: kafka.security: found "sasl"; expected "sasl_tls": a password does not go out in the clear',
        ),
        ('[kafka]\nsecurity = "tls"\nkey_file = "k"', "kafka.key_file: found a key without its certificate"),
        ('[worker]\napp = "my app"', 'worker.app: found "my app"; expected letters'),
        ("[worker]\nweb_port = 0", "worker.web_port: found 0; expected 1 to 65535"),
        ("[worker]\ntick_s = -1", "worker.tick_s: found -1; expected 0 to 86400"),
        ("[worker]\nclickhouse = 1", "worker.clickhouse: found 1; expected true or false"),
        ('[worker]\nfeeds = ["mine"]', "worker.feeds[0]: found"),
        ('[worker]\nadvertised_url = "me:1"', "worker.advertised_url: found what no worker can be reached at"),
        ('[[worker.tokens]]\naccounts = "acme"\ntoken_env = "T"', 'worker.tokens[0].accounts: found "acme"'),
        ('[[worker.tokens]]\naccounts = []\ntoken_env = "T"', "worker.tokens[0].accounts: found an array of 0"),
        ('[[worker.tokens]]\naccounts = "*"', "worker.tokens[0].token_env: found nothing; expected one of"),
        ('[[worker.tokens]]\naccounts = "*"\ntoken = "x"', "worker.tokens[0].token: found a secret in the file"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, said: str) -> None:
    """Each message names the field, what was found and what is expected."""
    assert said in refused(tmp_path, text)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_password_stays_on_this_machine_without_tls(tmp_path: Path, host: str) -> None:
    """Without encryption a password goes to a broker on the loopback interface."""
    text = f'[kafka]\nservers = "{host}:1"\nsecurity = "sasl"\nuser = "u"\npassword_env = "P"'
    assert loaded(tmp_path, text).kafka.sasl


def test_the_environment_goes_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain fields come from WEIR_<PART>_<FIELD>, over the file and without one; empty ones count as not given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    for name, value in {
        "KAFKA_SERVERS": "a:1,b:2", "KAFKA_PARTITIONS": "3", "KAFKA_SECURITY": "tls", "KAFKA_CA_FILE": "here.pem",
        "WORKER_CLICKHOUSE": "True", "WORKER_HISTORY": "landed", "WORKER_APP": "",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"WEIR_{name}", value)
    given = Kafka(servers="a:1,b:2", partitions=3, security="tls", ca_file=str(tmp_path / "here.pem"))
    asked = Worker(clickhouse=True, history=str(tmp_path / "landed"))
    assert load_config(None) == Config(kafka=given, worker=asked)
    (tmp_path / "elsewhere/weir.toml").write_text('[kafka]\nservers = 7\nprefix = "p."\n[worker]\napp = "mine"')
    config = load_config(tmp_path / "elsewhere/weir.toml")
    assert config.kafka == msgspec.structs.replace(given, prefix="p.")
    assert config.worker == msgspec.structs.replace(asked, app="mine")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("WEIR_KAFKA_PARTITIONS", "many", '$WEIR_KAFKA_PARTITIONS: kafka.partitions: found "many"; expected a whole'),
        ("WEIR_KAFKA_PARTITIONS", "0", "$WEIR_KAFKA_PARTITIONS: kafka.partitions: found 0; expected 1 to 1000"),
        ("WEIR_KAFKA_SECURITY", "ssl", '$WEIR_KAFKA_SECURITY: kafka.security: found "ssl"; expected one of'),
        ("WEIR_WORKER_CLICKHOUSE", "yes", '$WEIR_WORKER_CLICKHOUSE: worker.clickhouse: found "yes"; expected true'),
    ],
)
def test_what_is_wrong_in_the_environment_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    """The error for a wrong value names the variable that has it, not a line of the file."""
    monkeypatch.setenv(variable, value)
    assert said in refused(tmp_path, "[kafka]\n[worker]\n")


def test_names_that_are_no_fields_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists, tables and unknown names are not taken: a variable may hold the password itself, or a service's port."""
    for name in (
        "WEIR_KAFKA_PASSWORD",
        "WEIR_KAFKA_PORT",
        "WEIR_WORKER_FEEDS",
        "WEIR_WORKER_TOKENS",
        "WEIR_OUTBOX_FILE",
    ):
        monkeypatch.setenv(name, "tcp://x")
    assert loaded(tmp_path, "") == Config()


def test_origins_are_topics_with_their_number_of_partitions(tmp_path: Path) -> None:
    """A number that is none, and more partitions than the state can know, are refused with their line."""
    config = loaded(tmp_path, '[worker]\norigins = { "carrier.cdr" = 12 }\n')
    assert config.worker.origins == {"carrier.cdr": 12}
    assert "1 to 1000" in refused(tmp_path, '[worker]\norigins = { "carrier.cdr" = 0 }\n')
    assert "at most 1000 partitions" in refused(tmp_path, "[worker]\norigins = { a = 600, b = 600 }\n")
