"""One Kafka node, broker and controller in one process (KRaft), on the loopback interface.

DIR/broker.properties   its settings, written anew at every start
DIR/broker.log          its log; DIR/broker.log.1 is the log before, moved there when it grew too long
DIR/data/               its topics; acknowledged messages survive kill -9 and restart
"""

from __future__ import annotations

import base64
import errno
import os
import random
import socket
import struct
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pipeline.broker.fetch import find_java, kafka_jars
from pipeline.store.directory import storage_errors
from rating.errors import StorageError, WorldError

HOST: Final = "127.0.0.1"

_START_LIMIT_S: Final = 90.0
_STOP_LIMIT_S: Final = 30.0
_POLL_S: Final = 0.02
_TOLD_LINES: Final = 20
_LOG_LIMIT_BYTES: Final = 16 << 20

# Below the ports that systems assign to outgoing connections. Otherwise a client that keeps reconnecting to a dead
# broker could get the broker's own port and connect to itself. Then the broker could not restart.
_FREE_PORTS: Final = range(20_000, 32_000)

# For one small broker, the serial collector and only the C1 compiler start fastest and need the least memory.
_JAVA_OPTIONS: Final = ("-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
_LOG_OPTIONS: Final = {
    "showDateTime": "true",
    "dateTimeFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    "log.org.apache.kafka.common.config": "warn",  # otherwise every start logs several hundred settings
}

_SETTINGS: Final = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    # A misspelt name must not become a topic with one partition. Many real clusters do not create topics either.
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    # A killed broker counts as alive for this long, and the restarted one waits until then (default 9 s).
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.dedupe.buffer.size": str(16 << 20),  # the default takes 128 MiB of the heap
}

# A Metadata request: version 1, correlation id 7, no client name, no topics. The answer lists the ready brokers.
_ASK_METADATA: Final = struct.pack(">ihhihi", 14, 3, 1, 7, -1, 0)


class Broker:
    """A broker in `directory` at 127.0.0.1:`port` (None: a free port); a context manager.

    `settings` override Weir's settings of the broker and are passed on unchecked.
    """

    def __init__(self, directory: Path, port: int | None = None, settings: Mapping[str, str] | None = None) -> None:
        self.directory = directory.absolute()
        self.port = free_port() if port is None else port
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start_bytes = 0

    @property
    def address(self) -> str:
        """The bootstrap server for clients, as host:port."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running broker. Raises WorldError if it is not running."""
        if self._process is None:
            raise WorldError(f"the broker at {self.address} is not running; start it first")
        return self._process.pid

    @property
    def log(self) -> Path:
        """The path of the log of the broker."""
        return self.directory / "broker.log"

    def start(self, limit_s: float = _START_LIMIT_S) -> None:
        """Start the broker. On return it answers requests, and has all messages acknowledged before in `directory`.

        Raises WorldError and leaves no process if Java, Maven or the port is not available, or if the broker ends or
        does not answer within `limit_s` seconds. If the broker itself failed, the message contains the end of its log.
        """
        if self._process is not None:
            raise WorldError(f"the broker at {self.address} runs already, as process {self.pid}")
        java = find_java()
        if not _is_free(self.port):
            raise WorldError(f"{self.address}: another process listens there; stop it, or choose another port")
        class_path = os.pathsep.join(str(jar) for jar in kafka_jars())
        command = [java, *_JAVA_OPTIONS]
        command += [f"-Dorg.slf4j.simpleLogger.{name}={value}" for name, value in _LOG_OPTIONS.items()]
        command += ["-cp", class_path]
        with storage_errors(self.directory, "keep a broker there"):
            properties = self._write_properties()
            self._limit_log()
            # meta.properties is the last file that formatting writes.
            if not (self.directory / "data" / "meta.properties").exists():
                self._format(command, properties)
            self._process = self._spawn([*command, "kafka.Kafka", str(properties)])
        try:
            self._wait_ready(limit_s)
        except BaseException:  # Ctrl-C as well
            self.kill()
            raise

    def stop(self, limit_s: float = _STOP_LIMIT_S) -> None:
        """Stop the broker and wait for its end; kill it after `limit_s` seconds. No-op if it is not running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(limit_s)
            self._process = None
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the broker (kill -9) and wait for its end. No-op if it is not running."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wait(self) -> None:
        """Wait while the broker runs. Raises WorldError with the end of its log when it ends."""
        if self._process is not None:
            status = self._process.wait()
            self._process = None
            raise self._failed(f"ended with status {status}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _write_properties(self) -> Path:
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        controller = f"{HOST}:{free_port(self.port)}"
        settings = _SETTINGS | {
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.quorum.voters": f"1@{controller}",
            "log.dirs": str(data),
        }
        path = self.directory / "broker.properties"
        lines = [f"{name}={_escaped(value)}\n" for name, value in (settings | self._settings).items()]
        path.write_text("".join(lines), encoding="utf-8")
        return path

    def _limit_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT_BYTES:
            self.log.replace(self.log.with_name("broker.log.1"))
        self._log_start_bytes = self.log.stat().st_size if self.log.exists() else 0

    def _format(self, command: list[str], properties: Path) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = [*command, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "--config", str(properties)]
        formatting = self._spawn(tool)
        try:
            status = formatting.wait(_START_LIMIT_S)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            formatting.kill()
            formatting.wait()
        if status != 0:
            raise self._failed("could not format its directory")

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        # A session of its own, so that Ctrl-C on the terminal reaches only Weir, which then stops the broker.
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory, start_new_session=True
            )

    def _wait_ready(self, limit_s: float) -> None:
        assert self._process is not None
        deadline_s = time.monotonic() + limit_s
        while not _answers(self.port):
            status = self._process.poll()
            if status is not None:
                raise self._failed(f"ended with status {status} as it started")
            if time.monotonic() > deadline_s:
                raise self._failed(f"did not answer within {limit_s:.0f} s")
            time.sleep(_POLL_S)

    def _failed(self, what: str) -> WorldError:
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start_bytes)
                said = log.read().decode(errors="replace")
        except OSError as error:
            raise StorageError(f"{self.log}: cannot read: {error.strerror}") from error
        advice = "look at the end of its log"
        if "UnsupportedClassVersionError" in said:
            advice = "it needs a Java of 17 or later: install one, or name one in JAVA_HOME"
        elif "Failed to acquire lock" in said:
            advice = f"another broker runs on {self.directory}: stop it, or choose another directory"
        told = "\n".join(said.splitlines()[-_TOLD_LINES:])
        return WorldError(f"the broker at {self.address} {what}; {advice}. {self.log} ends:\n{told}")


def free_port(other_than: int = 0) -> int:
    """Return a free port of the loopback interface other than `other_than`. Raises WorldError if there is none."""
    # Draw at random, so that two processes that ask at the same time rarely get the same port.
    for port in random.SystemRandom().sample(_FREE_PORTS, len(_FREE_PORTS)):
        if port != other_than and _is_free(port):
            return port
    raise WorldError(f"no free port between {_FREE_PORTS[0]} and {_FREE_PORTS[-1]}; stop what holds them")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise WorldError(f"{HOST}:{port}: {error.strerror}; choose a port above 1023") from error
    return True


def _answers(port: int) -> bool:
    """Return whether the metadata that `port` gives lists a ready broker."""
    try:
        with socket.create_connection((HOST, port), timeout=5) as connection, connection.makefile("rb") as answer:
            connection.sendall(_ASK_METADATA)
            head = answer.read(12)
    except OSError:
        return False
    return len(head) == 12 and struct.unpack(">iii", head)[2] > 0


def _escaped(value: str) -> str:
    """Return `value` as written in a Java properties file: backslashes and non-ASCII characters become escapes."""
    units = value.encode("utf-16-be")
    codes = struct.unpack(f">{len(units) // 2}H", units)
    return "".join(chr(code) if 32 <= code < 127 and code != 92 else f"\\u{code:04x}" for code in codes)
