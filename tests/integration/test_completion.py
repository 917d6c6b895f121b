"""Completion, asked for as bash, zsh and fish ask, and through bash itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from jobs.cli.app import COMMANDS
from pipeline.feeds.ready import ready_feeds
from schemas.choices import CardStatus, TriggerName

WEIR = Path(sys.executable).with_name("weir")
CASES = [
    ("weir re", ["rerate", "report", "rejected"]),
    ("weir rules ac", ["activate", "actions"]),
    ("weir cards --sta", ["--status"]),
    ("weir cards --status ", list(get_args(CardStatus))),
    ("weir cards --status su", ["suspended"]),
    ("weir rules list --trigger sms_mo", [name for name in get_args(TriggerName) if name.startswith("sms_mo")]),
    ("weir report --format ", ["html", "xlsx", "csv", "parquet"]),
    ("weir ingest --feed ", list(ready_feeds())),
    ("weir feeds show pl", ["plain"]),
    ("weir rejected list --feed pl", ["plain"]),
    ("weir ingest --feed ./", []),
    ("weir ingest --feed plain us", []),
    ("weir apply ", []),
]


def _ask(**environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **environment}
    return subprocess.run([WEIR], capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_bash(words: str, expected: list[str]) -> None:
    """One word a line; nothing where a file belongs, so that the shell completes files."""
    done = _ask(_WEIR_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    assert (0, "", expected) == (done.returncode, done.stderr, done.stdout.split())


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_fish(words: str, expected: list[str]) -> None:
    """A word and what it means a line; status 1 tells fish to complete files."""
    asked = {"_WEIR_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": words}
    done = _ask(**asked, _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert ("", expected) == (done.stderr, [line.split("\t")[0] for line in done.stdout.splitlines() if line])
    assert (0 if expected else 1) == _ask(**asked, _TYPER_COMPLETE_FISH_ACTION="is-args").returncode


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_zsh(words: str, expected: list[str]) -> None:
    """Code for zsh to evaluate: words with what they mean, or `_files`."""
    done = _ask(_WEIR_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=words)
    assert (0, "") == (done.returncode, done.stderr)
    if expected:
        assert done.stdout.startswith("_arguments '*: :((")
        assert expected == [line.split('"')[1] for line in done.stdout.replace("((", "((\n").splitlines()[1:]]
    else:
        assert "_files" == done.stdout.strip()


def test_every_command_is_offered_with_its_help() -> None:
    """An empty word completes to all commands, in zsh and fish with a line of help."""
    done = _ask(_WEIR_COMPLETE="complete_fish", _TYPER_COMPLETE_ARGS="weir ", _TYPER_COMPLETE_FISH_ACTION="get-args")
    offered = dict(line.split("\t") for line in done.stdout.splitlines() if line)
    assert {name: line for name, (_, line) in COMMANDS.items()} == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_names_the_command(shell: str) -> None:
    """What `--show-completion` prints, which `--install-completion` puts into place, asks `weir`."""
    done = _ask(_WEIR_COMPLETE=f"source_{shell}")
    assert (0, "") == (done.returncode, done.stderr)
    assert f"_WEIR_COMPLETE=complete_{shell}" in done.stdout


@pytest.mark.may_skip("there may be no bash")
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(("words", "expected"), CASES)
def test_bash_itself(tmp_path: Path, words: str, expected: list[str]) -> None:
    """Bash loads the script and fills COMPREPLY; where that stays empty it completes files (`-o default`)."""
    script = tmp_path / "weir.sh"
    script.write_text(_ask(_WEIR_COMPLETE="source_bash").stdout)
    cells = words.split(" ")
    listed = " ".join(f"'{cell}'" for cell in cells)
    asked = f"""
source {script}
complete -p weir
COMP_WORDS=({listed})
COMP_CWORD={len(cells) - 1}
_weir_completion weir
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    environment = {**os.environ, "PATH": f"{WEIR.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", asked], capture_output=True, text=True, env=environment, check=True, timeout=120
    )
    how, *offered = done.stdout.splitlines()
    assert "complete -o default -F _weir_completion weir" == how
    assert expected == [word for word in offered if word]
