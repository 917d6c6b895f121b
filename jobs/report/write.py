"""The files of a report, one writer for each format (Q4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from jobs.report.model import Report
from schemas.choices import ReportFormat


# What writers are made of loads slowly, so each is imported only when it is needed.
def _write_html(report: Report, out: Path) -> list[Path]:
    from jobs.report.page import write_html

    return write_html(report, out)


def _write_xlsx(report: Report, out: Path) -> list[Path]:
    from jobs.report.workbook import write_xlsx

    return write_xlsx(report, out)


def _write_csv(report: Report, out: Path) -> list[Path]:
    from jobs.report.columnar import write_csv

    return write_csv(report, out)


def _write_parquet(report: Report, out: Path) -> list[Path]:
    from jobs.report.columnar import write_parquet

    return write_parquet(report, out)


WRITERS: dict[ReportFormat, Callable[[Report, Path], list[Path]]] = {
    ReportFormat.HTML: _write_html,
    ReportFormat.XLSX: _write_xlsx,
    ReportFormat.CSV: _write_csv,
    ReportFormat.PARQUET: _write_parquet,
}


def write_report(report: Report, out: Path, formats: Iterable[ReportFormat] = tuple(ReportFormat)) -> list[Path]:
    """Write the report into the directory `out`, and create it if it is missing. Return the files by `formats`.

    An existing file is replaced atomically. The same report gives the same bytes. Raises StorageError if a file cannot
    be written.
    """
    wanted = list(dict.fromkeys(formats))
    return [path for name in wanted for path in WRITERS[name](report, out)]
