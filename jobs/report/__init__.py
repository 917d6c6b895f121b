"""The monthly usage report: build it from history and state, write it as Parquet, CSV, XLSX and one HTML page (Q4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from jobs.report.build import build_report
from jobs.report.columnar import write_csv, write_parquet
from jobs.report.model import Report
from schemas.choices import ReportFormat


# What the page and the workbook stand on takes long to import, which no other command should pay for.
def _write_html(report: Report, out: Path) -> list[Path]:
    from jobs.report.page import write_html

    return write_html(report, out)


def _write_xlsx(report: Report, out: Path) -> list[Path]:
    from jobs.report.workbook import write_xlsx

    return write_xlsx(report, out)


WRITERS: dict[ReportFormat, Callable[[Report, Path], list[Path]]] = {
    ReportFormat.HTML: _write_html,
    ReportFormat.XLSX: _write_xlsx,
    ReportFormat.CSV: write_csv,
    ReportFormat.PARQUET: write_parquet,
}
__all__ = ["Report", "build_report", "write_report"]


def write_report(report: Report, out: Path, formats: Iterable[ReportFormat] = tuple(ReportFormat)) -> list[Path]:
    """Writes the report into the directory `out`, which is made; returns the files, in the order of `formats`.

    A file of the same name is replaced as a whole. The same report gives the same bytes. Raises StorageError if the
    disk refuses.
    """
    wanted = list(dict.fromkeys(formats))
    return [path for name in wanted for path in WRITERS[name](report, out)]
