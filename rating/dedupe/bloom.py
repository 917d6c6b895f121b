"""A Bloom filter that recognises almost every new key as new, without a look at the stored keys (F4).

The filter is register-blocked: the high half of `lo` selects one 64-bit word, and `hi` selects four bits in it. A test
costs one load. With `BITS_PER_KEY` bits per key, about 0.5 % of unknown keys pass and have to be looked up exactly.
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
    """Return the four bits (fewer if they coincide) that each key sets in its word, uint64[n]."""
    bits: U64 = np.left_shift(_ONE, hi & _SIX_BITS)
    for shift in (6, 12, 18):
        bits |= np.left_shift(_ONE, (hi >> np.uint64(shift)) & _SIX_BITS)
    return bits


def words_for(keys: int) -> int:
    """Return the number of 64-bit words of a filter for this number of keys, at least one."""
    return max(1, -(-keys // KEYS_PER_WORD))


def word_of(lo: U64, words: int) -> npt.NDArray[np.int64]:
    """Return the word of each key, int64[n]. It never decreases if `lo` never decreases."""
    return (((lo >> _HALF) * np.uint64(words)) >> _HALF).view(np.int64)


def enter(filter_words: U64, lo: U64, hi: U64) -> None:
    """Add keys to the filter. `may_hold` is then True for each of them. Fastest in order of `lo`."""
    np.bitwise_or.at(filter_words, word_of(lo, len(filter_words)), bits_of(hi))


def may_hold(filter_words: U64, lo: U64, bits: U64) -> npt.NDArray[np.bool_]:
    """Return False for keys that were certainly never added, bool[n].

    `bits` is `bits_of(hi)`, computed once for all filters.
    """
    held: npt.NDArray[np.bool_] = (filter_words[word_of(lo, len(filter_words))] & bits) == bits
    return held
