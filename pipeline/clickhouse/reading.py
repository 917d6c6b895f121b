"""Check that a query of a user only reads, and only the tables of ClickHouse.

The setting readonly = 1 refuses statements that change tables, and most table functions. It lets through what these
refuse: INTO OUTFILE, which the embedded engine obeys, the function `file`, and DESCRIBE of a table function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from rating.errors import UsageError

Rows = Callable[[str, Mapping[str, Any]], list[tuple[Any, ...]]]

_READING: Final = re.compile(r"\(*\s*(SELECT|WITH|SHOW|DESCRIBE|EXPLAIN|EXISTS)\b")
_TEXT: Final = re.compile(r"'(?:[^'\\]|\\.|'')*'", re.DOTALL)
_PLAIN_NAME: Final = re.compile(r"[`\"](\w+)[`\"]")
_QUOTED_NAME: Final = re.compile(r"`(?:[^`\\]|\\.|``)*`|\"(?:[^\"\\]|\\.|\"\")*\"", re.DOTALL)
_CALL: Final = re.compile(r"\b(\w+)\s*\(")
# Functions that reach files or objects of this process, and are in no list of table functions. In lower case.
_REACHING: Final = frozenset({"file", "catboostevaluate", "python"})
# Table functions that reach nothing: their rows come from their arguments, or from tables of the database.
_HARMLESS: Final = frozenset(
    {
        "format", "generaterandom", "generateseries", "generate_series", "null", "numbers", "numbers_mt", "primes",
        "timeseriesdata", "values", "view", "viewexplain", "viewifpermitted", "zeros", "zeros_mt",
    }
)  # fmt: skip


def require_reading(ask: Rows, sql: str) -> None:
    """Require that a query reads tables and nothing else. `ask` runs a statement with parameters.

    ClickHouse itself parses the query, so comments and texts that look like keywords are none. Raises UsageError if the
    query does more, and the error of `ask` if it cannot be parsed.
    """
    canonical = str(ask("SELECT formatQuerySingleLine({query:String})", {"query": sql})[0][0])
    words = _QUOTED_NAME.sub(" ", _PLAIN_NAME.sub(r"\1", _TEXT.sub("''", canonical)))
    if not _READING.match(words):
        raise UsageError(
            f"found a {words.split(maxsplit=1)[0]} statement; give one that only reads: SELECT, WITH, SHOW, DESCRIBE, "
            "EXPLAIN or EXISTS"
        )
    if re.search(r"\bOUTFILE\b", words):
        raise UsageError("found INTO OUTFILE, which writes a file; redirect the output of --csv to export")
    tables = {str(row[0]).lower() for row in ask("SELECT name FROM system.table_functions", {})}
    if reaching := {*map(str.lower, _CALL.findall(words))} & (tables - _HARMLESS | _REACHING):
        raise UsageError(
            f"found {', '.join(sorted(reaching))}(…), which reaches files or the network; expected tables of the "
            "database: name those instead"
        )
