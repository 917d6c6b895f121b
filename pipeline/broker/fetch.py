"""The jars of the Apache Kafka server: fetched once with Maven, cached, and used only if every digest is right.

Maven's own settings determine the source of the files. `python -m pipeline.broker.fetch` fetches them ahead of time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pipeline.broker.pins import JARS, KAFKA_VERSION, SCALA_LINE, SLF4J_VERSION
from pipeline.store.directory import storage_errors
from rating.errors import WorldError

# A fixed release of the plugin keeps Maven from looking for the newest. Other releases would copy the same files.
_COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
_FETCH_LIMIT_S: Final = 900.0
_TOLD_LINES: Final = 12

_PROJECT: Final = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>weir</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_{SCALA_LINE}</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>{SLF4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""


def find_java() -> str:
    """Return the path of `java` in $JAVA_HOME, else on $PATH. Raises WorldError if there is none."""
    home = os.environ.get("JAVA_HOME")
    if home:
        java = shutil.which("java", path=str(Path(home, "bin")))
        if java is None:
            raise WorldError(f"JAVA_HOME={home}: no bin/java in it; name a Java of 17 or later, or unset JAVA_HOME")
        return java
    java = shutil.which("java")
    if java is None:
        raise WorldError(
            "no `java` on the PATH; a Kafka broker needs a Java runtime of 17 or later: install one "
            "(Debian: openjdk-17-jre-headless), or name one in JAVA_HOME"
        )
    return java


def _find_maven() -> str:
    maven = shutil.which("mvn")
    if maven is None:
        raise WorldError(
            f"no `mvn` on the PATH; Apache Kafka {KAFKA_VERSION} is fetched with Maven 3.6.3 or later: "
            f"install it (Debian: maven), or fill {_home()} from a machine that has it"
        )
    return maven


def lacking() -> str:
    """Return a sentence about what must be installed before a broker can start here; "" if nothing is missing."""
    try:
        find_java()
        if not _complete(_home()):
            _find_maven()
    except WorldError as error:
        return str(error)
    return ""


def kafka_jars() -> list[Path]:
    """Return the jars of the broker, sorted by name. Fetch them if the cache lacks any; all match their pinned digests.

    The cache is $WEIR_CACHE, else ~/.cache/weir. The files of a download that was killed are never used. Raises
    WorldError if Maven is missing or fails, or if its files are not the pinned ones.
    """
    home = _home()
    if not _complete(home):
        with storage_errors(home, "fill the cache (WEIR_CACHE names another place)"), _alone(home.parent):
            if not _complete(home):  # else another process fetched them meanwhile
                _fetch(home)
    return [home / name for name in sorted(JARS)]


def _home() -> Path:
    cache = os.environ.get("WEIR_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "weir").absolute() / "kafka" / KAFKA_VERSION


def _wrong_jars(home: Path) -> list[str]:
    """Return the names of pinned files that are missing or have another digest. 45 MB take 0.05 s."""
    return [name for name, digest in JARS.items() if _digest(home / name) != digest]


def _complete(home: Path) -> bool:
    return home.is_dir() and not _wrong_jars(home)


def _digest(jar: Path) -> str:
    try:
        with jar.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the lock of `directory`, which is created if missing. The system releases it when the process dies."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(home: Path) -> None:
    """Fetch the jars and move them to `home` in one step. The caller holds the lock."""
    maven = _find_maven()
    for unfinished in home.parent.glob("*.part"):  # left by fetches that were killed
        shutil.rmtree(unfinished)
    part = Path(tempfile.mkdtemp(dir=home.parent, suffix=".part"))
    try:
        (part / "pom.xml").write_text(_PROJECT, encoding="utf-8")
        _run_maven(maven, part)
        wrong = _wrong_jars(part / "jars")
        if wrong:
            raise WorldError(
                f"Maven handed out other files than Apache Kafka {KAFKA_VERSION}'s: {', '.join(wrong)}: "
                "the SHA-256 is not the pinned one; remove them from Maven's local repository, check the "
                "registry that its settings name, then try again"
            )
        if home.exists():  # damaged or incomplete
            shutil.rmtree(home)
        (part / "jars").rename(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _run_maven(maven: str, part: Path) -> None:
    command = [maven, "-B", "-q", "-C", "-f", str(part / "pom.xml"), _COPY]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={part / 'jars'}"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_FETCH_LIMIT_S,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        raise WorldError(f"Maven did not finish within {_FETCH_LIMIT_S:.0f} s; try again later") from expired
    if done.returncode != 0:
        said = "\n".join(line for line in done.stdout.splitlines() if line.strip()[:7] != "[ERROR]" or line[7:].strip())
        raise WorldError(
            f"Maven could not fetch Apache Kafka {KAFKA_VERSION} (exit status {done.returncode}); check the "
            "network and Maven's settings, then try again. It said:\n" + "\n".join(said.splitlines()[:_TOLD_LINES])
        )


if __name__ == "__main__":
    try:
        kafka_jars()
    except WorldError as error:
        sys.exit(f"fetch: {error}")
