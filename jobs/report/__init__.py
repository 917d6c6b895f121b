"""The monthly usage report: build it from history and state, write it as Parquet, CSV, XLSX and one HTML page (Q4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from jobs.report.build import build_report
from jobs.report.columnar import write_csv, write_parquet
from jobs.report.model import Report
from rating.errors import UsageError


# What the page and the workbook stand on takes long to import, which no other command should pay for.
def _write_html(report: Report, out: Path) -> list[Path]:
    from jobs.report.page import write_html

    return write_html(report, out)


def _write_xlsx(report: Report, out: Path) -> list[Path]:
    from jobs.report.workbook import write_xlsx

    return write_xlsx(report, out)


WRITERS: dict[str, Callable[[Report, Path], list[Path]]] = {
    "html": _write_html,
    "xlsx": _write_xlsx,
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
