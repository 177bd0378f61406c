"""One frame at a time: the recent activations of every layer, for all neurons of a stream.

A layer that looks back keeps its inputs in rings whose slots never move: the *weights* are rotated instead (a view
of weights written twice), so that a ring is one matrix that onnxruntime reads where it lies. A dilated layer keeps a
ring for each phase of its dilation. What a frame costs does not depend on the length of the window.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING, Any

import numpy as np

from .live_graph import BlockShape, first_layer_weights, past_weights, prepare_model, step_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from .network import Layer, Network

    Array = NDArray[np.float32]

__all__ = ["Group", "Stepper"]

#: Fewer neurons than this are not worth dividing into two blocks.
SMALLEST_DIVIDED = 256
#: Multiply-adds per frame that are worth a thread of their own: 1400 neurons of one of our networks, 280 of an ensemble
#: of five. To wake a thread and hand work to it takes longer than less than that.
SMALLEST_TEAM = 50_000_000


@dataclass(frozen=True, eq=False)
class Group:
    """Neurons that share a network.

    Parameters
    ----------
    network : Network
    rows : ndarray of int, (n,)
        Which neurons of the stream.
    nu : ndarray, (n,)
        Their noise levels, % Hz^-1/2; used by a conditioned network.
    """

    network: Network
    rows: NDArray[np.intp]
    nu: NDArray[np.float64]


class Stepper:
    """The state of all neurons of a stream; each :meth:`step` takes one frame.

    The neurons are shared out among threads that each run their own graphs: for matrices this small, that costs less
    than dividing every product.

    Parameters
    ----------
    groups : sequence of Group
        Neurons in no group have NaN as output.
    shape : (int, int)
        Neurons of the stream, outputs of each network.
    make_session : callable
        From an ONNX model to an onnxruntime session that runs in the thread that calls it.
    make_value : callable
        From an array to an onnxruntime value that shares its memory.
    threads : int
        At most so many.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        shape: tuple[int, int],
        make_session: Callable[[Any], Any],
        make_value: Callable[[Array], Any],
        *,
        threads: int = 1,
    ) -> None:
        self._y = np.full(shape, np.nan, np.float32)
        work = sum(group.rows.size * group.network.multiply_adds for group in groups)
        teams = max(1, min(threads, work // SMALLEST_TEAM))
        self._first, *self._others = [_Team(part, make_session, make_value) for part in _share(groups, teams)]
        self._pool = ThreadPoolExecutor(len(self._others), "cascade_rt-step") if self._others else None

    def step(self, x: NDArray[np.floating]) -> Array:
        """Take in one frame.

        Parameters
        ----------
        x : ndarray, (n_neurons,)
            ΔF/F, finite.

        Returns
        -------
        ndarray, (n_neurons, n_outputs), float32
            The networks' outputs with this frame as the newest. Overwritten by the next step.
        """
        self._all(lambda team: team.step(x, self._y))
        return self._y

    def prepare(self) -> None:
        """Do what can be done before the next frame arrives. Done by :meth:`step` if not called before."""
        self._all(_Team.prepare)

    def reset(self) -> None:
        """Forget every frame."""
        self._all(_Team.reset)

    def _all(self, work: Callable[[_Team], None]) -> None:
        waiting = [self._pool.submit(work, team) for team in self._others] if self._pool is not None else []
        work(self._first)
        for other in waiting:
            other.result()


def _share(groups: Sequence[Group], teams: int) -> list[list[Group]]:
    """Divide the neurons evenly; a group is cut where that falls."""
    total = sum(group.rows.size for group in groups)
    edges = [round(total * team / teams) for team in range(teams + 1)]
    shares: list[list[Group]] = [[] for _ in range(teams)]
    begin = 0
    for group in groups:
        end = begin + group.rows.size
        for share, low, high in zip(shares, edges[:-1], edges[1:], strict=True):
            part = slice(max(low - begin, 0), max(min(high, end) - begin, 0))
            if part.start < part.stop:
                share.append(Group(group.network, group.rows[part], group.nu[part]))
        begin = end
    return shares


class _Team:
    """The state of the neurons that one thread serves."""

    def __init__(
        self, groups: Sequence[Group], make_session: Callable[[Any], Any], make_value: Callable[[Array], Any]
    ) -> None:
        self._networks = [group.network for group in groups]
        self._blocks = _divide(groups)
        shapes = [block.shape for block in self._blocks]
        self._weights = [_Weights(network, make_value) for network in self._networks]
        layers = [layer for network in self._networks for layer in network.layers]
        # Where things lie repeats with these periods; a binding for each position spares binding at every frame.
        self._step_period = lcm(2, *(layer.pool + 1 for layer in layers))
        self._prepare_period = lcm(2, *(layer.dilation for layer in layers))
        self._step_sessions = [make_session(step_model(self._networks, shapes, p)) if shapes else None for p in (0, 1)]
        self._prepare_sessions = [
            make_session(prepare_model(self._networks, shapes, p)) if any(s.parity == p for s in shapes) else None
            for p in (0, 1)
        ]
        self._bind()
        self.reset()

    def _bind(self) -> None:
        self._step_bindings = []
        for t in range(self._step_period):
            session = self._step_sessions[t % 2]
            io = session.io_binding() if session is not None else None
            for b, block in enumerate(self._blocks):
                block.bind_step(io, b, t)
            self._step_bindings.append(io)
        self._prepare_bindings = []
        for t in range(self._prepare_period):
            session = self._prepare_sessions[t % 2]
            io = session.io_binding() if session is not None else None
            for b, block in enumerate(self._blocks):
                if block.shape.parity == t % 2:
                    block.bind_prepare(io, b, t)
            self._prepare_bindings.append(io)

    def step(self, x: NDArray[np.floating], y: Array) -> None:
        """Take in one frame, ``x``, and write these neurons' rows of ``y``."""
        self.prepare()
        t = self._frame
        for block in self._blocks:
            block.x[t % 2][:, 0] = x[block.rows]
        session = self._step_sessions[t % 2]
        if session is not None:
            session.run_with_iobinding(self._step_bindings[t % self._step_period])
        for block in self._blocks:
            block.store(t)
            y[block.rows] = block.y
        self._frame += 1
        self._prepared = False

    def prepare(self) -> None:
        """Sum the past for the next frame, unless that was done."""
        if not self._prepared:
            self._prepare(self._frame)
            self._prepared = True

    def _prepare(self, t: int) -> None:
        session, io = self._prepare_sessions[t % 2], self._prepare_bindings[t % self._prepare_period]
        if session is None:
            return
        for k, weights in enumerate(self._weights):
            if any(b.shape.network == k and b.shape.parity == t % 2 for b in self._blocks):
                weights.bind(io, k, t + t % 2)
        session.run_with_iobinding(io)

    def reset(self) -> None:
        """Forget every frame."""
        for block in self._blocks:
            block.clear()
        self._frame = 0
        # The blocks that are prepared before odd frames are at the second frame of a pair when the first one comes.
        self._prepare(-1)
        self._prepared = False


def _divide(groups: Sequence[Group]) -> list[_Block]:
    """Blocks of which about half of the neurons are prepared before even frames, and half before odd ones."""
    blocks = []
    load = [0, 0]
    for k, group in enumerate(groups):
        n = group.rows.size
        if n >= SMALLEST_DIVIDED:
            blocks += [_Block(group, k, slice(0, n // 2), 0), _Block(group, k, slice(n // 2, n), 1)]
        else:
            parity = int(load[1] < load[0])
            load[parity] += n
            blocks.append(_Block(group, k, slice(0, n), parity))
    return blocks


class _Weights:
    """Weights of a network for the past, for every rotation of the rings."""

    def __init__(self, network: Network, make_value: Callable[[Array], Any]) -> None:
        self._rotations: list[tuple[str, Layer, list[Any]]] = []
        for i, layer in enumerate(network.layers):
            if layer.taps == 1:
                continue
            if i == 0:
                doubled = {"": first_layer_weights(layer)}
            else:
                doubled = {f".{m}.{i}": past_weights(layer, m) for m in range(network.members)}
            for name, weights in doubled.items():
                self._rotations.append((name, layer, [make_value(x) for x in _rotations(weights, layer)]))

    def bind(self, io: Any, k: int, t: int) -> None:
        """Bind the rotation for the pair of frames that starts with ``t``, counted as the blocks do."""
        for name, layer, values in self._rotations:
            io.bind_ortvalue_input(f"w{k}{name}", values[(t // layer.dilation) % (layer.taps - 1)])


def _rotations(doubled: Array, layer: Layer) -> list[Array]:
    """Views of weights written twice: entry ``u`` if the next column goes to slot ``u``."""
    slots = layer.taps - 1
    parts = [doubled[slots - u : 2 * slots - u] for u in range(slots)]
    return [part.reshape(-1, part.shape[-1]) for part in parts]


class _Ring:
    """Recent inputs of one layer, (members, phases, neurons, slots, channels)."""

    def __init__(self, layer: Layer, members: int, n: int) -> None:
        self._phases, self._slots = layer.dilation, layer.taps - 1
        self.data = np.zeros((members, self._phases, n, self._slots, layer.channels_in), np.float32)

    def slot(self, t: int) -> Array:
        """Where the columns of frame ``t`` go, (members, neurons, channels)."""
        return self.data[:, t % self._phases, :, (t // self._phases) % self._slots]

    def rows(self, t: int, member: int) -> Array:
        """What the pair of frames from ``t`` (even) sees of the past, (1 or 2 times neurons, slots * channels)."""
        phase = t % self._phases
        seen = self.data[member, phase : phase + 2]
        return seen.reshape(-1, seen.shape[-2] * seen.shape[-1])


class _Block:
    """The arrays of one block of neurons."""

    def __init__(self, group: Group, k: int, part: slice, parity: int) -> None:
        network, rows = group.network, group.rows[part]
        n = rows.size
        self.shape = BlockShape(network=k, n=n, parity=parity)
        # Neighbouring rows are taken as a slice, which spares the copies of fancy indexing.
        together = n == rows[-1] - rows[0] + 1 and bool((np.diff(rows) == 1).all())
        self.rows: Any = slice(int(rows[0]), int(rows[-1]) + 1) if together else rows
        self._layers, self._members = network.layers, range(network.members)
        self._rings = {
            i: _Ring(layer, 1 if i == 0 else network.members, n)
            for i, layer in enumerate(self._layers)
            if layer.taps > 1
        }

        def arrays(first: int, channels: int) -> Array:
            return np.zeros((first, network.members, n, channels), np.float32)

        self._pools = {i: arrays(x.pool + 1, x.channels_out) for i, x in enumerate(self._layers) if x.pool}
        self._columns = [arrays(2, layer.channels_out) for layer in self._layers[:-1]]
        self._pre = [np.zeros((network.members, 2, n, x.channels_out), np.float32) for x in self._layers]
        self.x = np.zeros((2, n, 1), np.float32)
        self.y = np.zeros((n, network.n_outputs), np.float32)
        self._scales: list[Array] = []
        self._offsets: list[Array] = []
        if network.conditioning is not None:
            for i, (scale, offset) in enumerate(network.conditioning.modulation(group.nu[part])):
                # Twice, for the pair of frames that a dilated layer prepares at once.
                self._scales.append(np.tile(scale, (2, 1)))
                self._offsets.append(np.tile(scale * self._layers[i].bias[:, None, :] + offset, (1, 2, 1)))

    def bind_step(self, io: Any, b: int, t: int) -> None:
        """Bind all that ``step`` reads and writes at frames of this position in the period."""
        second = (t + self.shape.parity) % 2
        _bind_input(io, f"x{b}", self.x[t % 2])
        if second and self._layers[0].taps > 1:
            _bind_input(io, f"x{b}.before", self.x[(t - 1) % 2])
        _bind_output(io, f"y{b}", self.y)
        for i, layer in enumerate(self._layers):
            modulated = i < len(self._scales)
            if modulated:
                _bind_input(io, f"scale{b}.{i}", self._scales[i][: self.shape.n])
            for m in self._members:
                name = f"{b}.{m}.{i}"
                if layer.taps > 1:
                    _bind_input(io, f"pre{name}", self._pre[i][m, second])
                elif modulated:
                    _bind_input(io, f"pre{name}", self._offsets[i][m, : self.shape.n])
                if layer.pool:
                    pool = self._pools[i]
                    _bind_input(io, f"old{name}", pool[(t - layer.pool) % len(pool), m])
                    _bind_output(io, f"raw{name}", pool[t % len(pool), m])
                if i < len(self._layers) - 1:
                    _bind_output(io, f"column{name}", self._columns[i][t % 2, m])
                    following = self._layers[i + 1]
                    if second and following.dilation == 1 and following.taps > 1:
                        _bind_input(io, f"before{name}", self._columns[i][(t - 1) % 2, m])

    def bind_prepare(self, io: Any, b: int, t: int) -> None:
        """Bind all that ``prepare`` reads and writes at frames of this position, but for the weights."""
        for i, ring in self._rings.items():
            layer = self._layers[i]
            rows = self.shape.n * min(layer.dilation, 2)
            if i < len(self._scales):
                _bind_input(io, f"scale{b}.{i}", self._scales[i][:rows])
            for m in self._members:
                name = f"{b}.{m}.{i}"
                if m == 0 or i > 0:
                    _bind_input(io, f"ring{b}" if i == 0 else f"ring{name}", ring.rows(t + self.shape.parity, m))
                if i < len(self._scales):
                    _bind_input(io, f"offset{name}", self._offsets[i][m, :rows])
                if layer.dilation == 1:
                    for r in (0, 1):
                        _bind_output(io, f"pre{name}.{r}", self._pre[i][m, r])
                else:
                    _bind_output(io, f"pre{name}", self._pre[i][m].reshape(rows, -1))

    def store(self, t: int) -> None:
        """Put the columns of frame ``t`` into the rings."""
        for i, ring in self._rings.items():
            # Each block counts so that its pairs begin with an even frame.
            ring.slot(t + self.shape.parity)[:] = self.x[t % 2] if i == 0 else self._columns[i - 1][t % 2]

    def clear(self) -> None:
        """Back to the state before the first frame."""
        for array in (*(ring.data for ring in self._rings.values()), *self._pools.values(), *self._columns, self.x):
            array[:] = 0


def _bind_input(io: Any, name: str, array: Array) -> None:
    io.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


def _bind_output(io: Any, name: str, array: Array) -> None:
    io.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
