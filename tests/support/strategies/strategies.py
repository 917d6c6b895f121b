"""Hypothesis strategies of prices and of damaged lines, which several tests share."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import strategies as st

from pipeline.feeds.decode.unpacked import kind_of
from rating.tariff import PriceSpec
from schemas.plans import Price, Rounding, Tier

# Their common multiple is small enough for a price book to be exact. Prices with more decimals use only small ones.
_PERS = st.sampled_from([1, 7, 10, 60, 1000, 1024, "1 MB"])
_ROUND_MODES = st.sampled_from(["half_even", "half_up", "up", "down"])


def amounts(largest: int = 1000, decimals: int = 9) -> st.SearchStrategy[str]:
    """Draw amounts from 0 to `largest` as decimal text with up to `decimals` decimals; whole numbers are frequent."""
    whole = st.integers(0, largest).map(str)
    fine = st.tuples(st.integers(0, largest * 10**decimals), st.integers(0, decimals)).map(
        lambda drawn: format(Decimal(drawn[0] // 10 ** (decimals - drawn[1])).scaleb(-drawn[1]), "f")
    )
    return whole | fine


def roundings() -> st.SearchStrategy[Rounding]:
    """Draw any way of rounding."""
    return st.builds(Rounding, decimals=st.integers(0, 9), mode=_ROUND_MODES, at=st.sampled_from(["cycle", "record"]))


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    """Draw one to six tiers in ascending order, the last one with or without an end."""
    ends = sorted(draw(st.sets(st.integers(1, 5000), min_size=1, max_size=6)))
    endless = draw(st.booleans())
    return tuple(
        Tier(
            to=None if endless and end == ends[-1] else end,
            price=draw(amounts(100)),
            per=draw(_PERS),
            package=draw(st.booleans()),
            flat=draw(st.just("0") | amounts(100)),
        )
        for end in ends
    )


@st.composite
def price_specs(draw: st.DrawFn) -> PriceSpec:
    """Draw prices of every model, with bounds, free units and any rounding, that a price book can represent."""
    model = draw(st.sampled_from(["flat", "package", "block", "once", "graduated", "volume", "capacity", "free"]))
    fields: dict[str, object] = {}
    if model in ("graduated", "volume", "capacity"):
        fields |= {"tiers": draw(tiers()), "last_tier": draw(st.sampled_from(["stop", "extend"]))}
    elif model == "once":
        fields |= {"price": draw(amounts())}
    elif model != "free":
        fine = draw(st.booleans())
        per = draw(st.sampled_from([1, 10, 1000, 1024]) if fine else _PERS)
        fields |= {"price": draw(amounts(decimals=12 if fine else 9)), "per": per}
    if draw(st.integers(0, 2)) == 0:
        bounds = sorted((draw(amounts()), draw(amounts())), key=Decimal)
        fields |= dict(
            zip(draw(st.sampled_from([("minimum", "maximum"), ("minimum",), ("maximum",)])), bounds, strict=False)
        )
    if draw(st.integers(0, 2)) == 0:
        fields |= {"free_units": draw(st.integers(0, 2000))}
    return PriceSpec(Price(model=model, **fields), draw(roundings()))  # type: ignore[arg-type]


def hostile_lines(good: list[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Draw lines of a text feed: lines of `good`, damaged ones and noise.

    No line contains a newline, or begins as a file of another kind does, because such a file is refused as a whole.
    """
    alphabet = st.sampled_from(
        [
            b",",
            b'"',
            b'""',
            b"\r",
            b"\x00",
            b"\xff",
            b"\xc3\xa9",
            b"\xef\xbb\xbf",
            b" ",
            b"a",
            b"1",
            b"-",
            b"{",
            b"}",
            b"[",
            b"]",
            b":",
            b"\\",
            b"\\u0000",
            b"null",
            b"1e999",
            b"NaN",
            b'{"id":',
            b'"iccid":"8944"',
        ]
    )
    noise = st.lists(alphabet, max_size=12).map(b"".join)
    cut = st.tuples(st.sampled_from(good), st.integers(0, 60), noise).map(lambda d: d[0][: d[1]] + d[2] + d[0][d[1] :])
    line = st.sampled_from(good) | noise | cut | st.binary(max_size=20).map(lambda text: text.replace(b"\n", b"\r"))
    return st.lists(line.filter(lambda text: kind_of(text) is None), max_size=12)
