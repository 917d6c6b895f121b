"""A filter that says "surely new" of almost every new key without touching the keys themselves (F4).

A register-blocked Bloom filter: the high half of `lo` picks one 64-bit word, `hi` picks four of its bits. A test costs
one load. With `BITS_PER_KEY` bits a key about 0.5 % of unknown keys pass, and have to be looked up exactly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

BITS_PER_KEY = 16
KEYS_PER_WORD = 64 // BITS_PER_KEY

_SIX_BITS = np.uint64(63)
_HALF = np.uint64(32)
_ONE = np.uint64(1)


def bits_of(hi: U64) -> U64:
    """The four bits (fewer where they coincide) that each key sets in its word, uint64[n]."""
    bits: U64 = np.left_shift(_ONE, hi & _SIX_BITS)
    for shift in (6, 12, 18):
        bits |= np.left_shift(_ONE, (hi >> np.uint64(shift)) & _SIX_BITS)
    return bits


def words_for(keys: int) -> int:
    """How many 64-bit words a filter over so many keys has; at least one."""
    return max(1, -(-keys // KEYS_PER_WORD))


def word_of(lo: U64, words: int) -> npt.NDArray[np.int64]:
    """The word each key falls into, int64[n]; never decreasing where `lo` never decreases."""
    return (((lo >> _HALF) * np.uint64(words)) >> _HALF).view(np.int64)


def enter(filter_words: U64, lo: U64, hi: U64) -> None:
    """Enter keys into the filter: after the call `may_hold` is true for each. Fastest in order of `lo`."""
    np.bitwise_or.at(filter_words, word_of(lo, len(filter_words)), bits_of(hi))


def may_hold(filter_words: U64, lo: U64, bits: U64) -> npt.NDArray[np.bool_]:
    """False only where the key was never entered; `bits` is `bits_of(hi)`, computed once for all filters."""
    held: npt.NDArray[np.bool_] = (filter_words[word_of(lo, len(filter_words))] & bits) == bits
    return held
