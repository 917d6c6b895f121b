"""The log of a worker on standard error: lines for people, or one JSON object a line for machines.

A record may carry facts: `_log.info("restored", extra={"partition": 3, "seconds": 0.4})`. Each item of `extra` becomes
a field of its own in JSON, and follows the message in text.
"""

from __future__ import annotations

import datetime as dt
import logging
import sys
from typing import Any, Final, Literal

import msgspec

# Attributes that every log record has; all others came from `extra`.
_OWN: Final = frozenset([*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"])
# Messages of libraries about rebalances, heartbeats and short broker outages are of no use to an operator. A lasting
# failure ends the worker, which logs the reason itself.
_QUIET: Final = {
    **dict.fromkeys(("faust", "mode", "aiokafka", "kafka", "aiohttp", "asyncio", "concurrent"), logging.WARNING),
    "pipeline.streaming.worker.changelogs": logging.WARNING,  # Faust's tables log their start and end there
    **dict.fromkeys(("aiokafka.conn", "aiokafka.client", "aiokafka.cluster"), logging.ERROR),
    "aiokafka.consumer.group_coordinator": logging.CRITICAL,  # it logs an error while it looks for a coordinator
}

# At debug level these log whole requests, and with them the password of [kafka].
_WITH_SECRETS: Final = ("aiokafka.conn",)
_SECRET: Final = "SaslAuthenticate"  # the request that carries it, in any log


def _tells_no_secret(record: logging.LogRecord) -> bool:
    return _SECRET not in record.getMessage()


def configure(level: str, form: Literal["json", "text"]) -> None:
    """Log from `level` on (debug, info, warning, error) to standard error. Replaces all former log handlers.

    Libraries log only warnings or errors, except if `level` is debug. No request that carries a password is logged.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=number, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _WITH_SECRETS:
        logging.getLogger(name).setLevel(max(number, logging.INFO))
    handler.addFilter(_tells_no_secret)
    if number > logging.DEBUG:
        for name, least in _QUIET.items():
            logging.getLogger(name).setLevel(max(number, least))


class JsonLines(logging.Formatter):
    """Formats a record as JSON: time (UTC, ISO 8601), level, logger, message, facts of the record, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one JSON object without line breaks."""
        told: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: value for name, value in facts_of(record).items() if name not in told}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(told, enc_hook=str).decode()


class TextLines(logging.Formatter):
    """Formats a record as a line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line, followed by the traceback if there is an exception."""
        facts = "".join(f" {name}={value}" for name, value in facts_of(record).items())
        line = f"{_time(record)} {record.levelname.lower():<8} {record.name}: {record.getMessage()}{facts}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the values that were given as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _OWN}


def _time(record: logging.LogRecord) -> str:
    moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
