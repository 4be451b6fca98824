"""Map numbers to numbers, in a hash table that needs a fifth of the memory of a dict.

An entry takes 16 bytes, and about as many bytes are unused.
"""

from array import array

import numpy as np

_NONE = -1
_MASK = (1 << 64) - 1


class NumberTable:
    """Maps 64-bit hashes to numbers from 0 on, by open addressing (Knuth, TAOCP 6.4).

    The keys must be evenly distributed, as hashes are, since their lowest bits choose the place.
    """

    def __init__(self) -> None:
        self._clear(1 << 10)
        self._count = 0

    def get(self, key: int) -> int:
        """Return the number of `key`; -1 if it has none."""
        return self._values[self._place(key & _MASK)]

    def put(self, key: int, value: int) -> None:
        """Set the number of `key`."""
        if self.first(key, value) >= 0:
            self._values[self._place(key & _MASK)] = value

    def first(self, key: int, value: int) -> int:
        """Return the number of `key`; if it has none, set it to `value`, and return -1."""
        key &= _MASK
        place = self._place(key)
        found = self._values[place]
        if found == _NONE:
            self._keys[place], self._values[place] = key, value
            self._count += 1
            if 3 * self._count > 2 * len(self._keys):
                self._grow()
        return found

    def _place(self, key: int) -> int:
        """Return the index at which `key` is, or would be added."""
        keys, values, last = self._keys, self._values, len(self._keys) - 1
        place = key & last
        while keys[place] != key and values[place] != _NONE:
            place = (place + 1) & last
        return place

    def _grow(self) -> None:
        """Double the number of places, and place all entries at once: in the order of the places that they want."""
        keys, values = np.array(self._keys), np.array(self._values)
        keys, values = keys[values != _NONE], values[values != _NONE]
        self._clear(2 * len(self._keys))
        wanted = (keys & np.uint64(len(self._keys) - 1)).astype(np.int64)
        order = np.argsort(wanted)
        numbers = np.arange(len(order))
        places = np.maximum.accumulate(wanted[order] - numbers) + numbers  # each takes the next free place
        inside = places < len(self._keys)
        np.asarray(self._keys)[places[inside]] = keys[order][inside]
        np.asarray(self._values)[places[inside]] = values[order][inside]
        for key, value in zip(keys[order][~inside].tolist(), values[order][~inside].tolist(), strict=True):
            place = self._place(key)  # goes on at the first place
            self._keys[place], self._values[place] = key, value

    def _clear(self, size: int) -> None:
        self._keys, self._values = array("Q", bytes(8 * size)), array("q", [_NONE]) * size
