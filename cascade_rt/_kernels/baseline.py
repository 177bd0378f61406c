"""ΔF/F against a moving percentile, exact at every frame: of whole rows, and running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .compiling import compiled
from .traces import _median

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Frames whose order is found at a time: few enough for the nearest caches, many enough for little overlap.
LONGEST, SHORTEST = 1 << 16, 1 << 12

# numba makes floats of uint64 and int64 together, so every constant has its type.
_NONE, _ONE, _ALL, _WORD = np.uint64(0), np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(63)
_S1, _S2, _S4, _S8, _S16, _S32, _S58 = (np.uint64(n) for n in (1, 2, 4, 8, 16, 32, 58))
_SIGN, _EVERY, _FRAME = np.uint32(0x80000000), np.uint32(0xFFFFFFFF), np.uint64(0xFFFFFFFF)
# A lone bit, or all bits up to one, times this number has the place of the bit, scrambled, in its top six bits.
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)


def _places(upto: bool) -> NDArray[np.int64]:
    """Table that unscrambles them."""
    table = np.zeros(64, np.int64)
    for bit in range(64):
        value = (2 << bit) - 1 if upto else 1 << bit
        table[(value * int(_DE_BRUIJN) % 2**64) >> 58] = bit
    return table


_LONE, _UPTO = _places(upto=False), _places(upto=True)


@compiled
def _next(bits: NDArray[np.uint64], place: int) -> int:
    """Lowest place above ``place`` whose bit is set; there must be one."""
    word = (place + 1) >> 6
    rest = bits[word] & (_ALL << np.uint64((place + 1) & 63))
    while rest == _NONE:
        word += 1
        rest = bits[word]
    return int((word << 6) + _LONE[((rest & (~rest + _ONE)) * _DE_BRUIJN) >> _S58])


@compiled
def _previous(bits: NDArray[np.uint64], place: int) -> int:
    """Highest place below ``place`` whose bit is set; there must be one."""
    word = (place - 1) >> 6
    rest = bits[word] & (_ALL >> (_WORD - np.uint64((place - 1) & 63)))
    while rest == _NONE:
        word -= 1
        rest = bits[word]
    for shift in (_S1, _S2, _S4, _S8, _S16, _S32):
        rest |= rest >> shift
    return int((word << 6) + _UPTO[(rest * _DE_BRUIJN) >> _S58])


@compiled
def _order(
    values: NDArray[np.float32], place: NDArray[np.int32], ordered: NDArray[np.float32], pairs: NDArray[np.uint64]
) -> None:
    """Sort: ``place`` of each value among those that are not NaN (-1 for NaN), and the ``ordered`` values.

    A radix sort over bits that order as the numbers do, paired with the frame; ``pairs`` (2, n) is room. A trace has a
    range far smaller than single precision, which saves passes. More than 1024 buckets do not fit the nearest cache.
    """
    bits = values.view(np.uint32)
    lowest, highest, n = _EVERY, np.uint32(0), _NONE
    for t in range(np.uint64(values.size)):
        place[t] = -1
        if values[t] == values[t]:
            key = bits[t] ^ (_EVERY if bits[t] & _SIGN else _SIGN)
            lowest, highest = min(lowest, key), max(highest, key)
            pairs[0, n] = (np.uint64(key) << _S32) | np.uint64(t)
            n += _ONE
    if n == _NONE:
        return
    span, needed = int(highest) - int(lowest), 1
    while span >> needed:
        needed += 1
    passes = (needed + 9) // 10
    digit = (needed + passes - 1) // passes
    mask, step = np.uint64((1 << digit) - 1), np.uint64(digit)
    histogram = np.zeros((passes, 1 << digit), np.uint32)
    for j in range(n):
        pairs[0, j] -= np.uint64(lowest) << _S32
        rest = pairs[0, j] >> _S32
        for p in range(passes):
            histogram[p, rest & mask] += np.uint32(1)
            rest >>= step
    source, target, shift = pairs[0], pairs[1], _S32
    for p in range(passes):
        starts, total = histogram[p], np.uint32(0)
        for bucket in range(np.uint64(starts.size)):
            count = starts[bucket]
            starts[bucket] = total
            total += count
        for j in range(n):
            bucket = (source[j] >> shift) & mask
            target[np.uint64(starts[bucket])] = source[j]
            starts[bucket] += np.uint32(1)
        source, target = target, source
        shift += step
    for j in range(n):
        t = source[j] & _FRAME
        place[t] = np.int32(j)
        ordered[j] = values[t]


@compiled
def moving_rank_rows(
    values: NDArray[np.float32], out: NDArray[np.float32], before: int, after: int, ranks: NDArray[np.int64]
) -> None:
    """Of the values ``before`` to ``after`` each frame that are not NaN, say n, the ``ranks[n]``-th smallest (from 0).

    Windows end where the row (n, frames) does; NaN where no value is left. ``ranks`` neither falls nor leaves one out.

    Frames are put in order once. A bit for each tells which of the ordered frames lie in the window; the frame wanted
    is a few set bits away from the last one.
    """
    n_frames = values.shape[1]
    width = before + after + 1
    longest = max(SHORTEST, min(LONGEST, 32 * width), min(width, n_frames))
    pieces = (n_frames + longest - 1) // longest
    room = min((n_frames + pieces - 1) // max(pieces, 1) + before + after, n_frames)
    place, ordered = np.empty(room, np.int32), np.empty(room, np.float32)
    pairs = np.empty((2, room), np.uint64)
    bits = np.empty((room >> 6) + 1, np.uint64)
    for i in range(values.shape[0]):
        for piece in range(pieces):
            start, stop = piece * n_frames // pieces, (piece + 1) * n_frames // pieces
            first, end = max(0, start - before), min(n_frames, stop + after)
            _order(values[i, first:end], place, ordered, pairs)
            bits[:] = _NONE
            here, below, n = -1, 0, 0
            arriving = first
            for t in range(start, stop):
                while arriving < min(t + after + 1, n_frames):
                    new = place[arriving - first]
                    arriving += 1
                    if new >= 0:
                        bits[new >> 6] |= _ONE << np.uint64(new & 63)
                        if n == 0:
                            here, below = new, 0
                        elif new < here:
                            below += 1
                        n += 1
                if t - before - 1 >= first:
                    old = place[t - before - 1 - first]
                    if old >= 0:
                        bits[old >> 6] &= ~(_ONE << np.uint64(old & 63))
                        n -= 1
                        if old < here:
                            below -= 1
                        elif old == here and n > below:
                            here = _next(bits, here)
                        elif old == here and n:
                            here = _previous(bits, here)
                            below -= 1
                if n == 0:
                    out[i, t] = np.nan
                    continue
                while below > ranks[n]:
                    here = _previous(bits, here)
                    below -= 1
                while below < ranks[n]:
                    here = _next(bits, here)
                    below += 1
                out[i, t] = ordered[here]


@compiled
def _mean(value: np.float32, slot: int, recent: NDArray[np.float32], sums: NDArray[np.float64]) -> float:
    """Mean of the last m values that are not NaN, this one being ``value``; NaN if there is none.

    ``slot`` counts frames from 0 to m - 1 and again. ``recent`` (m,) are the values since it was 0; ``sums`` (2, m + 2)
    holds the sum, and the number, of the m values before those from each slot on, and last those of ``recent``.
    Nothing is ever subtracted, so that errors do not add up and one huge value is forgotten with its frame.
    """
    m = recent.size
    recent[slot] = value
    if value == value:
        sums[0, m + 1] += value
        sums[1, m + 1] += 1.0
    total, n = sums[0, slot + 1] + sums[0, m + 1], sums[1, slot + 1] + sums[1, m + 1]
    if slot == m - 1:
        sums[:, m:] = 0.0
        for j in range(m - 1, -1, -1):
            known = recent[j] == recent[j]
            sums[0, j] = sums[0, j + 1] + (recent[j] if known else 0.0)
            sums[1, j] = sums[1, j + 1] + (1.0 if known else 0.0)
    return total / n if n else np.nan


@compiled
def _delta(value: np.float32, baseline: np.float32) -> float:
    """ΔF/F with a positive baseline, or with NaN."""
    return (float(value) - float(baseline)) / float(baseline)


@compiled
def delta_rows(
    frames: NDArray[np.float32],
    out: NDArray[np.float32],
    levels: NDArray[np.float64],
    m: int,
    m_after: int,
    before: int,
    after: int,
    ranks: NDArray[np.int64],
) -> None:
    """ΔF/F of ``frames`` (n, frames) into ``out``; median, lowest and highest baseline into ``levels`` (n, 3).

    The baseline is :func:`moving_rank_rows` of the means over ``m`` frames, ``m_after`` of which come later. NaN where
    a frame is, and throughout a row whose baseline is not positive everywhere.
    """
    n_frames = frames.shape[1]
    means, baseline = np.empty((1, n_frames), np.float32), np.empty((1, n_frames), np.float32)
    scratch = np.empty(n_frames, np.uint32)
    recent, sums = np.empty(m, np.float32), np.empty((2, m + 2))
    missing = np.float32(np.nan)
    for i in range(frames.shape[0]):
        if m > 1:
            sums[:] = 0.0
            slot = 0
            for t in range(n_frames + m_after):
                mean = _mean(frames[i, t] if t < n_frames else missing, slot, recent, sums)
                slot = slot + 1 if slot + 1 < m else 0
                if t >= m_after:
                    known = frames[i, t - m_after] == frames[i, t - m_after]
                    means[0, t - m_after] = mean if known else missing
        else:
            means[0] = frames[i]
        moving_rank_rows(means, baseline, before, after, ranks)
        lowest, highest, n = np.float32(np.inf), np.float32(-np.inf), 0
        for t in range(n_frames):
            level = baseline[0, t]
            if level == level:
                lowest = level if level < lowest else lowest
                highest = level if level > highest else highest
                means[0, n] = level
                n += 1
        if n == 0:
            levels[i] = np.nan
            out[i] = np.nan
            continue
        levels[i, 1], levels[i, 2] = lowest, highest
        if lowest > 0:
            levels[i, 0] = _median(means[0], n, scratch)
            for t in range(np.uint64(n_frames)):
                out[i, t] = _delta(frames[i, t], baseline[0, t])
        else:
            levels[i, 0] = np.median(means[0, :n])
            out[i] = np.nan


@compiled
def _first_not_below(ordered: NDArray[np.float32], n: int, value: np.float32) -> int:
    low, high = 0, n
    while low < high:
        middle = (low + high) >> 1
        if ordered[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _exchange(ordered: NDArray[np.float32], n: int, old: np.float32, new: np.float32) -> int:
    """Take ``old`` out of the first ``n`` values, put ``new`` in, keep the order; NaN is no value. The new ``n``."""
    gap = _first_not_below(ordered, n, old) if old == old else n
    if new != new:
        if gap < n:
            for j in range(gap, n - 1):
                ordered[j] = ordered[j + 1]
            return n - 1
        return n
    target = _first_not_below(ordered, n, new)
    # Unsigned numbers, since numba cannot prove others not to count from the end, and then moves one value at a time.
    if target > gap:
        target -= 1
        for j in range(np.uint64(gap), np.uint64(target)):
            ordered[j] = ordered[j + _ONE]
    else:
        shifted = ordered[target : gap + 1]
        length = np.uint64(gap - target)
        for j in range(length):
            shifted[length - j] = shifted[length - j - _ONE]
    ordered[target] = new
    return n if old == old else n + 1


@compiled
def _lowest(window: NDArray[np.float32], n: int, low: NDArray[np.float32], size: int) -> None:
    """Put the ``size`` lowest of the ``n`` values of a window that are not NaN in order into ``low``."""
    known = np.empty(n, np.float32)
    n = 0
    for value in window:
        if value == value:
            known[n] = value
            n += 1
    if size < n:
        known = np.partition(known, size)
    low[:size] = np.sort(known[:size])


@compiled
def running_delta_rows(
    frames: NDArray[np.float32],
    out: NDArray[np.float32],
    non_positive: NDArray[np.bool_],
    counts: NDArray[np.int64],
    ring: NDArray[np.float32],
    low: NDArray[np.float32],
    recent: NDArray[np.float32],
    sums: NDArray[np.float64],
    first: int,
    ranks: NDArray[np.int64],
) -> None:
    """ΔF/F of the next frames (n, k), ``first`` being the number of frames before them.

    The state: ``ring`` (n, w), the means in the window, where frame t is in slot t % w; ``low`` (n, room + 1), the
    lowest of them in order; ``counts`` (n, 2) of the values in both; ``recent`` (n, m) and ``sums`` (n, 2, m + 2) as in
    :func:`_mean`. Few frames reach into the lowest values, so most cost next to nothing; these are collected anew when
    too few of them are left.
    """
    w, m, room = ring.shape[1], recent.shape[1], low.shape[1] - 1
    missing = np.float32(np.nan)
    for i in range(frames.shape[0]):
        n, size = counts[i]
        slot, mean_slot = first % w, first % m
        for t in range(frames.shape[1]):
            value = frames[i, t]
            new = value
            if m > 1:
                mean = np.float32(_mean(value, mean_slot, recent[i], sums[i]))
                if value == value:
                    new = mean
                mean_slot = mean_slot + 1 if mean_slot + 1 < m else 0
            old = ring[i, slot]
            ring[i, slot] = new
            slot = slot + 1 if slot + 1 < w else 0
            # Of equal values, it does not matter which are among the lowest.
            bound = low[i, size - 1] if 0 < size < n else np.float32(np.inf)
            n += int(new == new) - int(old == old)
            size = _exchange(low[i], size, old if old <= bound else missing, new if new < bound else missing)
            size = min(size, room)
            baseline = missing
            if n:
                if ranks[n] >= size:
                    size = min(n, (ranks[n] + room + 1) // 2)
                    _lowest(ring[i], n, low[i], size)
                baseline = low[i, ranks[n]]
            if baseline <= 0:
                non_positive[i] = True
                baseline = missing
            out[i, t] = _delta(value, baseline)
        counts[i, 0], counts[i, 1] = n, size
