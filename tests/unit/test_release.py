"""scripts/release refuses to tag what is not one dated version, committed as a whole."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the script and a change log whose newest version is 1.2.3."""
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    for name in ("release", "environment.sh"):
        shutil.copy(ROOT / "scripts" / name, folder / "scripts" / name)
    (folder / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1.2.3"\n')
    (folder / "CHANGELOG.md").write_text("# Change log\n\n## 1.2.3 (2027-01-31)\n\n## 1.2.2 (2027-01-01)\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "--quiet", "--message", "x")
    return folder


def git(folder: Path, *arguments: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("heading", "said"),
    [
        ("## 1.2.4 (2027-02-28)", "found '## 1.2.4 (2027-02-28)'; expected '## 1.2.3 (YYYY-MM-DD)'"),
        ("## 1.2.3 (unreleased)", "found '## 1.2.3 (unreleased)'; expected '## 1.2.3 (YYYY-MM-DD)'"),
        ("## 1x2.3 (2027-01-31)", "found '## 1x2.3 (2027-01-31)'; expected '## 1.2.3 (YYYY-MM-DD)'"),
        ("## 1.2.3 (2027-01-31)", "found changes that are not committed"),
    ],
)
def test_it_refuses(checkout: Path, heading: str, said: str) -> None:
    """Another version, a version without a date, and changes beside the commit; there is no tag then."""
    (checkout / "CHANGELOG.md").write_text(f"# Change log\n\n{heading}\n")
    done = subprocess.run([checkout / "scripts" / "release"], capture_output=True, text=True, check=False, timeout=60)
    assert 1 == done.returncode
    assert said in done.stderr
    assert "" == git(checkout, "tag")
