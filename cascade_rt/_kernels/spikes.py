"""The search for single spikes.

A neuron's recent frames lie in one row of ``residual``: spike probability minus the kernels of the spikes decided so
far, 0 where ``known`` is 0 (NaN, not yet arrived, before the recording). Its integers lie in one row of ``state``; the
names below are their places. "Entry" means a place in the row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .compiling import compiled, compiled_loosely

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Flags = NDArray[np.bool_]

_SIZE = 0  #: frames in the row
_BASE = 1  #: frame index of the row's first entry
_START = 2  #: first entry of the open block, -1 if none is open
_LAST = 3  #: last entry above the floor
_FREE = 4  #: first entry into which a spike may still be put
_COUNTED = 5  #: first entry whose residual is not yet part of `balance`

#: An improvement must be larger, so that rounding cannot make the search go in circles.
_TINY = 1e-9
#: Frames by which spikes are moved in the search, and distance up to which two of them are moved together.
_MOVE = 2
_PAIR = 6
_PASSES = 20


@compiled_loosely
def _cost(residual: Floats, known: Floats, kernel: Floats, start: int) -> float:
    """Change of the summed absolute residual if the kernel is subtracted from entry ``start`` on."""
    # Slices, since an index known to be positive lets the compiler use vector instructions.
    here, weight = residual[start : start + kernel.size], known[start : start + kernel.size]
    total = 0.0
    for j in range(kernel.size):
        total += weight[j] * (abs(here[j] - kernel[j]) - abs(here[j]))
    return total


@compiled
def _add(residual: Floats, kernel: Floats, start: int, factor: float) -> None:
    here = residual[start : start + kernel.size]
    for j in range(kernel.size):
        here[j] += factor * kernel[j]


@compiled_loosely
def _visible(known: Floats, kernel: Floats, start: int) -> float:
    """Part of the kernel that falls on known entries."""
    here = known[start : start + kernel.size]
    total = 0.0
    for j in range(kernel.size):
        total += here[j] * kernel[j]
    return total


@compiled
def _explore(
    residual: Floats,
    known: Floats,
    kernel: Floats,
    origin: int,
    costs: Floats,
    low: int,
    high: int,
    missing: float,
    weight: float,
    alone: Floats,
    found: Integers,
) -> float:
    """Best of no, one and two spikes in [low, high) where ``missing`` are expected; -1 in ``found`` is no spike."""
    best = weight * abs(missing)
    found[0] = found[1] = -1
    extra = weight * abs(missing - 1.0)
    for c in range(low, high):
        alone[c] = np.inf if costs[c] == np.inf else _cost(residual, known, kernel, c - origin)
        if alone[c] + extra < best - _TINY:
            best = alone[c] + extra
            found[0] = c
    extra = weight * abs(missing - 2.0)
    for c in range(low, high):
        placed = False
        for d in range(c, high):
            # A spike beside another never costs less than alone.
            if alone[c] + alone[d] + extra >= best - _TINY:
                continue
            if not placed:
                _add(residual, kernel, c - origin, -1.0)
                placed = True
            value = alone[c] + _cost(residual, known, kernel, d - origin) + extra
            if value < best - _TINY:
                best = value
                found[0], found[1] = c, d
        if placed:
            _add(residual, kernel, c - origin, 1.0)
    return best


@compiled
def _fit(
    residual: Floats,
    known: Floats,
    kernel: Floats,
    origin: int,
    low: int,
    high: int,
    expected: float,
    weight: float,
    costs: Floats,
    placed: Integers,
    changed: Flags,
    stale: Flags,
) -> None:
    """Put spikes into entries [low, high) and take their kernels off the residual.

    Looks for a minimum of ``sum(abs(residual)) + weight * abs(expected - number of spikes)``: adds the best spike as
    long as one improves; then replaces each spike, and each two that are close, by none, one or two spikes nearby; and
    again, until nothing improves.
    """
    reach, n, limit = kernel.size, 0, 32 * (high - low)
    found, alone = np.empty(2, np.int64), np.empty(costs.size)
    for c in range(low, high):
        placed[c] = 0
        possible = known[c] > 0.0 and _visible(known, kernel, c - origin) >= 0.5
        costs[c] = 0.0 if possible else np.inf
        changed[c] = stale[c] = True
    improved = low < high
    passes = 0
    while improved and passes < _PASSES:
        improved = False
        passes += 1
        while n < limit:
            best = low
            for c in range(low, high):
                if stale[c]:
                    stale[c] = False
                    if costs[c] < np.inf:
                        costs[c] = _cost(residual, known, kernel, c - origin)
                if costs[c] < costs[best]:
                    best = c
            if costs[best] + weight * (abs(expected - n - 1.0) - abs(expected - n)) > -_TINY:
                break
            _add(residual, kernel, best - origin, -1.0)
            placed[best] += 1
            n += 1
            improved = True
            for c in range(max(low, best - reach + 1), min(high, best + reach)):
                changed[c] = stale[c] = True
        for c in range(low, high):
            if not changed[c]:
                continue
            changed[c] = False
            for partners in range(2):
                if placed[c] == 0:
                    break
                last = c
                if partners and placed[c] < 2:
                    last = c + 1
                    while last < min(high, c + _PAIR + 1) and placed[last] == 0:
                        last += 1
                    if last == min(high, c + _PAIR + 1):
                        break
                _add(residual, kernel, c - origin, 1.0)
                now = weight * abs(expected - n) + _cost(residual, known, kernel, c - origin)
                if partners:
                    _add(residual, kernel, last - origin, 1.0)
                    now += _cost(residual, known, kernel, last - origin)
                near = max(low, c - _MOVE), min(high, last + _MOVE + 1)
                missing = expected - (n - 1 - partners)
                value = _explore(
                    residual, known, kernel, origin, costs, near[0], near[1], missing, weight, alone, found
                )
                if value > now - _TINY:
                    _add(residual, kernel, c - origin, -1.0)
                    if partners:
                        _add(residual, kernel, last - origin, -1.0)
                    continue
                improved = True
                placed[c] -= 1
                n -= 1
                if partners:
                    placed[last] -= 1
                    n -= 1
                for spike in found:
                    if spike >= 0:
                        _add(residual, kernel, spike - origin, -1.0)
                        placed[spike] += 1
                        n += 1
                for d in range(max(low, near[0] - reach + 1), min(high, near[1] + reach)):
                    changed[d] = stale[d] = True


@compiled
def _decide(
    residual: Floats,
    known: Floats,
    state: Integers,
    balance: float,
    counts: NDArray[np.int16],
    found: Integers,
    first_frame: int,
    kernel: Floats,
    origin: int,
    weight: float,
    high: int,
    final: int,
    counted: int,
    costs: Floats,
    placed: Integers,
    changed: Flags,
    stale: Flags,
) -> float:
    """Fit the open block with spikes before entry ``high``, of which those before ``final`` stay.

    ``balance`` is the expected minus the found number of spikes; the sum of the residual up to entry ``counted`` goes
    into it. Returns the new one.
    """
    reach = kernel.size
    low = max(state[_FREE], state[_START] - (reach - 1 - origin))
    begin = max(state[_COUNTED], state[_START] - reach + 1)
    expected = balance + residual[begin : state[_SIZE]].sum()
    _fit(residual, known, kernel, origin, low, high, expected, weight, costs, placed, changed, stale)
    for c in range(low, high):
        if placed[c] and c < final:
            counts[state[_BASE] + c - first_frame] += placed[c]
            found[0] += placed[c]
            unseen = 1.0
            for j in range(kernel.size):
                if c - origin + j >= begin:
                    unseen -= known[c - origin + j] * kernel[j]
            balance -= placed[c] * unseen
        elif placed[c]:
            _add(residual, kernel, c - origin, float(placed[c]))
    state[_FREE] = final
    state[_COUNTED] = max(begin, counted)
    return float(balance + residual[begin : state[_COUNTED]].sum())


@compiled
def _forget(residual: Floats, known: Floats, state: Integers, reach: int) -> None:
    """Move the entries that still matter to the front of the row."""
    size = state[_SIZE]
    gone = (state[_START] - reach) if state[_START] >= 0 else (size - 2 * reach)
    residual[: size - gone] = residual[gone:size].copy()
    known[: size - gone] = known[gone:size].copy()
    residual[size - gone : size] = 0.0
    known[size - gone : size] = 0.0
    state[_BASE] += gone
    state[_SIZE] = size - gone
    if state[_START] >= 0:
        state[_START] -= gone
    state[_LAST] -= gone
    state[_FREE] = max(0, state[_FREE] - gone)
    state[_COUNTED] = max(0, state[_COUNTED] - gone)


@compiled
def discretize_rows(
    prob: NDArray[np.float32],
    counts: NDArray[np.int16],
    found: Integers,
    residual: Floats,
    known: Floats,
    state: Integers,
    balance: Floats,
    first_frame: int,
    kernel: Floats,
    origin: int,
    floor: float,
    longest: int,
    weight: float,
) -> None:
    """Take in the next frames (n, k) and add the spikes now decided to ``counts`` (n, m), from ``first_frame`` on.

    ``found`` (n,) is increased by their number.

    A block opens with a value above ``floor`` and is decided when as many frames as the kernel has have followed the
    last such value. One that grows to ``longest`` frames is fitted, and the spikes in its older part are decided.
    """
    reach, capacity = kernel.size, residual.shape[1]
    costs, placed = np.empty(capacity), np.empty(capacity, np.int64)
    changed, stale = np.empty(capacity, np.bool_), np.empty(capacity, np.bool_)
    for i in range(prob.shape[0]):
        r, w, s = residual[i], known[i], state[i]
        for t in range(prob.shape[1]):
            if s[_SIZE] == capacity - reach:
                _forget(r, w, s, reach)
            now = s[_SIZE]
            s[_SIZE] = now + 1
            value = prob[i, t]
            if np.isfinite(value):
                r[now], w[now] = value, 1.0
                if value > floor:
                    s[_LAST] = now
                    if s[_START] < 0:
                        s[_START] = now
            if s[_START] < 0:
                continue
            if now - s[_LAST] >= reach - 1:
                high, final, counted = s[_LAST] + origin + 1, s[_LAST] + origin + 1, now + 1
            elif now + 1 - s[_START] >= longest:
                high, final = now + 1, now + 1 - 2 * reach
                counted = final - origin
            else:
                continue
            balance[i] = _decide(
                r,
                w,
                s,
                balance[i],
                counts[i],
                found[i : i + 1],
                first_frame,
                kernel,
                origin,
                weight,
                high,
                final,
                counted,
                costs,
                placed,
                changed,
                stale,
            )
            if counted > now:
                s[_START] = -1
                # What one event leaves over may tip the scales in the next; more would move spikes between events.
                balance[i] = min(max(balance[i], -1.0), 1.0)
            else:
                s[_START] = final
