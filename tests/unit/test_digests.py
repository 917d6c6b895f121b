"""Digests that are kept on disk and sent (docs/decisions/0020), as literals: a library that differs is found here.

If a test of this file fails, do not change its literals: seen keys, sessions and bases that are already on disk would
no longer be found, and usage would be charged twice. A digest that has to change needs another name (DIGESTS).
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import polars as pl
import pytest

from rating.dedupe.digests import NUMBERS, Prints
from rating.dedupe.seen import DIGESTS, UNNAMED_DIGESTS, digest, require_digests
from rating.rules.detect.last_seen import digests_of, sessions_of
from rating.usage.sessions import Sessions
from schemas.usage import USAGE_SCHEMA, Direction, RecordType, Service, UsageBatch
from tests.support.content import content_digest

UTC = dt.UTC

# (feed, key, 128 bits as hex). XXH3 has a way of its own for 0, 1-3, 4-8, 9-16, 17-128, 129-240 and more bytes.
KEYS = [
    ("feed", "", "005fd2edef76662caea8e5901cb429ae"),
    ("feed", "a", "3f7d4128b00f07b674a6ef6c09c79735"),
    ("feed", "abc", "af50dfc1a274676f3ea67a7b63eddf04"),
    ("feed", "8988303000000012345", "614de21afe78fc8ee383c66f5a67f7d2"),
    ("feed", "zażółć gęślą jaźń", "4cf3482fdfc1e5f89acb5387b0897fdc"),
    ("feed", "0123456789", "5d23b8ff370588559e2ccb3490d544f6"),
    ("feed", "記録", "523b2dcae5dc424283141903ca913e24"),
    ("feed", "📶", "725b6646a5735960d3cb95cf5b8c8517"),
    ("feed", "xxxxxxxxxxxxxxxxx", "ba1ed12bfc6e4d2a17780eb78db9d3a3"),
    ("feed", "y" * 129, "54f6a4deef340703f560e4d2375291fe"),
    ("feed", "z" * 241, "436edaf2094422cc7224b4732c01dd59"),
    ("feed", "w" * 1025, "309a9126ecbf431e87e2c509036336dd"),
    ("", "", "7a3edd697cf3f9535310e30cce3262d6"),
    ("", "a", "660261abe2aacebd795c83728c2a36e1"),
    ("Überwachung", "a", "edee08f795721157601042198c140313"),
    ("commands", "a", "6e2d4881b2ece3bb8ec691710516a3bd"),
    ("session of feed", "0|s1", "0c729ee834656323d6c5ba40f5ce9558"),
]

# (name of the case, columns besides the required ones, 64-bit digest as hex)
CONTENTS: list[tuple[str, dict[str, Any], str]] = [
    ("nothing more", {}, "8b5d9137e55b995f"),
    (
        "all null",
        dict.fromkeys(["iccid", "imsi", "session_id", "plmn", "volume_up_bytes", "sequence", "record_type"]),
        "8b5d9137e55b995f",
    ),
    (
        "what is no content",
        {"rat": "LTE", "apn": "iot", "cell_id": "1", "imei": "2", "source_row": 9},
        "8b5d9137e55b995f",
    ),
    ("iccid", {"iccid": "8988303000000012345"}, "3a60a6c1419daa96"),
    ("empty iccid", {"iccid": ""}, "b77be2a746c1779d"),
    ("imsi", {"imsi": "262011234567890"}, "19f0b333b2bfe7f5"),
    ("msisdn", {"msisdn": "882350000001"}, "8f5b611df0971973"),
    ("session", {"session_id": "Sitzung-ä-会话"}, "fbe278334006768e"),
    ("corrected key", {"corrects_key": "k0"}, "e10673fbc62c6370"),
    ("plmn", {"plmn": "26201"}, "b3f09462603eeb8f"),
    ("country", {"country": "DE"}, "e262990ce9ddd613"),
    ("zone", {"zone": "z"}, "39e6b1fd4125d005"),
    ("start", {"started_at": dt.datetime(2026, 10, 1, tzinfo=UTC)}, "08d49a139ba99af9"),
    ("end", {"ended_at": dt.datetime(2026, 10, 1, tzinfo=UTC)}, "177c07ab21e0e30d"),
    ("up", {"volume_up_bytes": 1}, "fe9e6b464b692317"),
    ("no bytes up", {"volume_up_bytes": 0}, "df1a919a65af1b7c"),
    ("down", {"volume_down_bytes": 1}, "2780fc27cf674e2c"),
    ("quantity", {"quantity": 2**62}, "f67edafd866f523d"),
    ("no quantity", {"quantity": 0}, "b67edafdc66f523d"),
    ("used before 1970", {"used_at": dt.datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)}, "04babaebf773698a"),
    ("used a microsecond later", {"used_at": dt.datetime(2026, 10, 1, 0, 0, 0, 1, tzinfo=UTC)}, "edf7ba614975670e"),
    ("sequence", {"sequence": 7}, "32f5a74ab4470335"),
    ("service", {"service": Service.VOICE}, "b5bd6ae9e99fd033"),
    ("direction", {"direction": Direction.DOWN}, "59c3de073445c0cd"),
    ("record type", {"record_type": RecordType.REPLACE}, "54e305dc235d7461"),
    (
        "all of it",
        {
            "iccid": "1",
            "imsi": "2",
            "msisdn": "3",
            "session_id": "4",
            "corrects_key": "5",
            "plmn": "6",
            "volume_up_bytes": 7,
            "volume_down_bytes": 8,
            "sequence": 9,
            "record_type": RecordType.STOP,
        },
        "f276f0996edd24ac",
    ),
]


def usage(**columns: Any) -> pl.DataFrame:
    """One record of USAGE_SCHEMA with these columns beside the required ones."""
    required = {
        "record_key": "k",
        "service": Service.DATA,
        "direction": Direction.BOTH,
        "quantity": 1000,
        "used_at": dt.datetime(2026, 10, 1, tzinfo=UTC),
        "source_row": 1,
    }
    row = required | columns
    return pl.DataFrame(
        {name: [row[name]] for name in USAGE_SCHEMA if name in row},
        schema={name: dtype for name, dtype in USAGE_SCHEMA.items() if name in row},
    )


def text_of(high: np.ndarray, low: np.ndarray, row: int = 0) -> str:
    """128 bits as hex digits."""
    return f"{int(high[row]):016x}{int(low[row]):016x}"


def test_the_algorithm_has_a_name() -> None:
    """The name that files carry, and that of files without one; another is refused by name."""
    assert ("xxh3-128", "xxh3-128") == (DIGESTS, UNNAMED_DIGESTS)
    require_digests(DIGESTS)
    with pytest.raises(
        ValueError, match="found digests of the algorithm 'blake3'; this version of weir knows xxh3-128"
    ):
        require_digests("blake3")


@pytest.mark.parametrize(("feed", "key", "expected"), KEYS)
def test_record_keys(feed: str, key: str, expected: str) -> None:
    """The digest of a key depends on the key and the feed's name alone."""
    assert expected == text_of(*digest(feed, pl.Series([key], dtype=pl.String)))


def test_record_keys_of_a_column() -> None:
    """Each row as by itself, in one piece or several, with other rows around it."""
    keys = [key for feed, key, _ in KEYS if feed == "feed"]
    expected = [text for feed, _, text in KEYS if feed == "feed"]
    whole = pl.Series(keys)
    pieces = pl.concat([whole[:3], whole[3:]], rechunk=False)
    assert 2 == pieces.n_chunks()
    for column in (whole, pieces, pl.concat([pl.Series(["before"]), whole])[1:]):
        found = digest("feed", column)
        assert expected == [text_of(*found, row) for row in range(len(keys))]


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        ("iccid", "8988303000000012345", "36fc353c70e170a30f707f408ce7881a"),
        ("iccid", "", "a8cb3ffde2e7cdb7bb985a1f31ad9693"),
        ("iccid", None, None),
        ("imsi", "262011234567890", "65613307da0347cc60b1015babf96255"),
        ("imsi", None, None),
        ("msisdn", "+882350000001", "247f172dc765cb30130aff00fcd3a135"),
        ("msisdn", "номер", "15c4161db5bf455cdd13c5f72f29b67d"),
    ],
)
def test_numbers_of_cards(name: str, number: str | None, expected: str | None) -> None:
    """A card is found by the digest of its number under the number's name; what has no number has no digest."""
    rows = pl.concat([usage(**{name: number}), usage(**{name: "1"})])
    found = Prints.of(UsageBatch("feed", "source", 0, False, rows)).numbers[name]
    assert name in NUMBERS
    if number is None:
        assert found.present is not None
        assert [False, True] == found.present.tolist()
    else:
        assert expected == text_of(found.high, found.low)
        assert expected == text_of(*digest(name, pl.Series([number])))


@pytest.mark.parametrize(("what", "columns", "expected"), CONTENTS, ids=[what for what, _, _ in CONTENTS])
def test_contents(what: str, columns: dict[str, Any], expected: str) -> None:
    """Each column that counts, in each of its types, null and not."""
    assert expected == f"{int(content_digest(usage(**columns))[0]):016x}"


def test_contents_are_all_different_but_null_and_absent() -> None:
    """The table has a case for each column of the content, and a null counts like a column that is not there."""
    by_digest: dict[str, list[str]] = {}
    for what, _, expected in CONTENTS:
        by_digest.setdefault(expected, []).append(what)
    assert [["nothing more", "all null", "what is no content"]] == [
        whats for whats in by_digest.values() if len(whats) > 1
    ]


def test_a_content_beside_others() -> None:
    """A null amid texts and numbers counts like a column that is absent."""
    rows = pl.concat([usage(iccid="8988", sequence=1), usage(iccid=None, sequence=None)])
    assert CONTENTS[0][2] == f"{int(content_digest(rows)[1]):016x}"


def test_keys_of_sessions() -> None:
    """As the table of sessions keeps them: by service and session, or record key where there is none."""
    sessions = Sessions()
    rows = pl.concat([usage(session_id="s1"), usage(session_id=None, record_key="ключ"), usage(session_id="")])
    sessions.rows("feed", rows, 20_000)
    assert ["8de7997598ba8087", "b11c1de8fa0945ed", "09300ccd2e3e5bd1"] == [
        f"{int(key):016x}" for key in sessions.index.keys
    ]


def test_digests_of_sightings() -> None:
    """The session of a cell is kept as a digest of 64 bits, and -1 for none."""
    texts = pl.DataFrame({"session_id": ["", "s1", "ü", None]}, schema={"session_id": pl.String})
    found = digests_of(texts, ["session_id"])["session_id"]
    assert ["2d06800538d394c2", "9a275e3f454930d1", "5da81d070ce09f6e", "0000000000000000"] == [
        f"{int(one):016x}" for one in found
    ]
    assert -1 == sessions_of(found)[3]
