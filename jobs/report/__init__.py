"""The monthly usage report: build it from history and state, write it as Parquet, CSV, XLSX and one HTML page (Q4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from jobs.report.build import build_report
from jobs.report.columnar import write_csv, write_parquet
from jobs.report.model import Report
from jobs.report.page import write_html
from jobs.report.workbook import write_xlsx
from rating.errors import UsageError

WRITERS: dict[str, Callable[[Report, Path], list[Path]]] = {
    "html": write_html,
    "xlsx": write_xlsx,
    "csv": write_csv,
    "parquet": write_parquet,
}
FORMATS = tuple(WRITERS)

__all__ = ["FORMATS", "Report", "build_report", "write_report"]


def write_report(report: Report, out: Path, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Writes the report into the directory `out`, which is made; returns the files, in the order of `formats`.

    A file of the same name is replaced as a whole. The same report gives the same bytes. Raises UsageError for a
    format that is none of FORMATS and StorageError where the disk refuses.
    """
    wanted = list(dict.fromkeys(formats))
    for name in wanted:
        if name not in WRITERS:
            raise UsageError(f"no report format {name!r}; there are: {', '.join(FORMATS)}")
    return [path for name in wanted for path in WRITERS[name](report, out)]
