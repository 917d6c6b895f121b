"""The monthly report of the small history, as CSV and JSON, is just what was reviewed and checked in.

`python -m tests.golden.test_report` writes the files anew; read the difference before committing it.
"""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from pathlib import Path

from jobs.report.build import build_report
from jobs.report.write import write_report
from tests.support.rated_rows import history, rated_table, reject_table, rule_tables, small_events, small_views

GOLDEN = Path(__file__).resolve().parent / "report"
AS_OF = dt.datetime(2026, 10, 21, 9, 30, tzinfo=dt.UTC)


def write_golden(out: Path, scratch: Path) -> None:
    """The CSV files of the report and its JSON, in `out`."""
    rejects = reject_table([{}, {"reason": "unknown_card"}, {}])
    connection = history(scratch, rated_table(small_events()), rejects, **rule_tables())
    report = build_report(connection, small_views(), "2026-10", None, AS_OF)
    write_report(report, out, ["csv"])
    text = json.dumps(report.as_dict(), indent=1, ensure_ascii=False)
    (out / "usage-2026-10.json").write_text(text + "\n", encoding="utf-8")


def test_report_is_as_reviewed(tmp_path: Path) -> None:
    """Every CSV file and the JSON agree with the golden files, byte for byte."""
    (tmp_path / "scratch").mkdir()
    write_golden(tmp_path / "out", tmp_path / "scratch")
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir()}
    golden = {path.name: path.read_text(encoding="utf-8") for path in GOLDEN.iterdir()}
    assert golden.keys() == written.keys()
    for name, text in golden.items():
        assert text == written[name], name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        write_golden(GOLDEN, Path(directory))
