"""The bridge to LSL, without a network: what is known from times alone, and against a stand-in for pylsl.

``tests/integration/test_bridges.py`` does the same with the real library, where it is installed.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from cascade_rt.chunks import SpikeChunk
from cascade_rt.endpoints import lsl, lsl_outlets, open_sink, open_source
from cascade_rt.endpoints.lsl import LslEventSink, LslSink, LslSource
from cascade_rt.endpoints.lsl_time import FrameTimes, LossFinder
from cascade_rt.errors import InputError, WireError
from cascade_rt.events import Event
from cascade_rt.ports import EndOfStream, RunInfo


def places(finder, times):
    """Frame index that each sample gets; the samples carry their number."""
    frame, found = 0, {}
    for number, t in enumerate(times):
        for sample, _, _, lost in finder.add(np.array([number]), t, t):
            frame += lost
            found[int(sample[0])] = frame
            frame += 1
    for sample, _, _, lost in finder.settle(1e9):
        frame += lost
        found[int(sample[0])] = frame
        frame += 1
    return [found[n] for n in range(len(times))]


def test_regular_times_lose_nothing():
    jitter = np.random.default_rng(0).uniform(-0.2, 0.2, 5000)
    times = (np.arange(5000) + jitter) / 30
    assert places(LossFinder(30), times) == list(range(5000))


@pytest.mark.parametrize("rate", [29.5, 30.5])
def test_a_clock_that_runs_at_another_rate_loses_nothing(rate):
    assert places(LossFinder(30), np.arange(20_000) / rate) == list(range(20_000))


@pytest.mark.parametrize("lost", [1, 2, 50])
def test_samples_that_are_missing_are_counted(lost):
    kept = [*range(10), *range(10 + lost, 30 + lost)]
    assert places(LossFinder(30), np.array(kept) / 30) == kept


def test_missing_before_the_last_sample():
    kept = [0, 1, 2, 7]
    assert places(LossFinder(30), np.array(kept) / 30) == kept


@pytest.mark.parametrize("late", [1, 3, 6])
def test_a_sender_that_is_held_up_and_catches_up_lost_nothing(late):
    times = np.arange(40) / 30
    times[10 : 10 + late] = times[10 + late] - 0.002 * np.arange(late, 0, -1)
    assert places(LossFinder(30), times) == list(range(40))


def test_held_up_and_lost_at_once():
    kept = np.array([*range(10), *range(12, 40)])  # 10 and 11 are lost, 12 to 14 come late, all at once
    times = kept / 30
    times[10:13] = 15 / 30 + np.array([-0.003, -0.002, -0.001])
    assert places(LossFinder(30), times) == kept.tolist()


def test_a_sample_is_not_held_for_long():
    finder = LossFinder(10)
    finder.add(np.zeros(1), 0.0, 0.0)
    assert finder.add(np.zeros(1), 0.5, 0.5) == []
    assert finder.settle(0.6) == []
    ((_, t, _, lost),) = finder.settle(0.71)
    assert (t, lost) == (0.5, 4)


def chunk(first, n=1, *, lookahead=2, t_source=None, t_recv=None, valid=True):
    prob = (np.arange(first, first + n, dtype=np.float32) + 1000 * np.arange(2, dtype=np.float32)[:, None]).copy()
    return SpikeChunk(
        spike_prob=prob,
        first_frame=first,
        valid=np.full(prob.shape, valid),
        lookahead_frames=lookahead,
        t_source=t_source,
        t_recv=t_recv,
    )


def test_times_are_those_of_the_described_frames():
    times = FrameTimes(10, offset=5.0, of_source=False)
    assert times.of(chunk(0, t_recv=1.0), now=9) == pytest.approx([6.0 - 0.2])
    assert times.of(chunk(1, 3, t_recv=1.4), now=9) == pytest.approx([6.0, 6.1, 6.2])
    assert times.of(chunk(4, 2), now=9) == pytest.approx([6.3, 6.4])
    times = FrameTimes(10, offset=0.0, of_source=True)
    assert times.of(chunk(0, t_source=3.0, t_recv=1.0), now=9) == pytest.approx([2.8])
    assert FrameTimes(10, offset=0.0, of_source=True).of(chunk(7, t_recv=1.0), now=9) == pytest.approx([8.8])


# --- a stand-in for pylsl: names, arguments and return values are those of pylsl 1.16 to 1.18 ----------------


class Xml:
    def __init__(self):
        self.values, self.children, self.following = {}, [], None

    def append_child_value(self, name, value):
        assert isinstance(value, str)
        self.values[name] = value
        return self

    def append_child(self, name):
        node = Xml()
        if self.children:
            self.children[-1][1].following = node
        self.children.append((name, node))
        return node

    def child(self, name):
        return next((node for known, node in self.children if known == name), Xml())

    def next_sibling(self, name):
        return self.following or Xml()

    def child_value(self, name):
        return self.values.get(name, "")


class StreamInfo:
    def __init__(self, name, type="", channel_count=1, nominal_srate=0.0, channel_format=1, source_id=""):
        self._is = SimpleNamespace(
            name=name, type=type, n=channel_count, rate=nominal_srate, format=channel_format, id=source_id
        )
        self._desc = Xml()

    def name(self):
        return self._is.name

    def type(self):
        return self._is.type

    def channel_count(self):
        return self._is.n

    def nominal_srate(self):
        return self._is.rate

    def channel_format(self):
        return self._is.format

    def source_id(self):
        return self._is.id

    def hostname(self):
        return "here"

    def desc(self):
        return self._desc


class Fake:
    """What ``import pylsl`` would give."""

    cf_float32, cf_string, IRREGULAR_RATE, proc_none, proc_clocksync = 1, 3, 0.0, 0, 1
    StreamInfo = StreamInfo

    class LostError(RuntimeError):
        pass

    def __init__(self):
        self.streams, self.samples, self.outlets, self.lost = [], [], [], False
        fake = self

        class ContinuousResolver:
            def __init__(self, prop=None, value=None, pred=None, forget_after=5.0):
                assert prop == "name"
                self.value = value

            def results(self):
                return [info for info in fake.streams if info.name() == self.value]

        class StreamInlet:
            def __init__(self, info, max_buflen=360, max_chunklen=0, recover=True, processing_flags=0):
                self._info = info

            def open_stream(self, timeout=1e9):
                pass

            def close_stream(self):
                pass

            def info(self, timeout=1e9):
                return self._info

            def pull_sample(self, timeout=1e9, sample=None):
                if fake.lost:
                    fake.lost = False
                    raise fake.LostError("lost")
                return fake.samples.pop(0) if fake.samples else (None, None)

            def pull_chunk(self, timeout=0.0, max_samples=1024, dest_obj=None):
                taken, fake.samples = fake.samples[:max_samples], fake.samples[max_samples:]
                return [values for values, _ in taken], [t for _, t in taken]

        class StreamOutlet:
            def __init__(self, info, chunk_size=0, max_buffered=360):
                self.info, self.pushed = info, []
                fake.outlets.append(self)

            def push_sample(self, x, timestamp=0.0, pushthrough=True):
                assert len(x) == self.info.channel_count()
                self.pushed.append((list(x), timestamp))

            def push_chunk(self, x, timestamp=0.0, pushthrough=True):
                stamps = [timestamp] if isinstance(timestamp, float) else timestamp
                for row, stamp in zip(x.tolist(), stamps, strict=True):
                    self.push_sample(row, stamp)

            def have_consumers(self):
                return False

        self.ContinuousResolver, self.StreamInlet, self.StreamOutlet = ContinuousResolver, StreamInlet, StreamOutlet

    @staticmethod
    def local_clock():
        return 1000.0


@pytest.fixture
def pylsl(monkeypatch):
    fake = Fake()
    for module in (lsl, lsl_outlets):
        monkeypatch.setattr(module, "load_pylsl", lambda: fake)
    return fake


def test_a_stream_becomes_frames(pylsl):
    source = LslSource("dff", scale=0.5, insecure=True, idle_s=1, clock=lambda: now[0])
    now = [0.0]
    source.open()
    assert source.receive(0) is None  # nobody is there yet
    pylsl.streams.append(StreamInfo("other", "", 9, 30.0))
    pylsl.streams.append(StreamInfo("dff", "", 2, 30.0))
    assert source.receive(0) is None
    pylsl.samples += [([1.0, -2.0], 0.0), ([3.0, 4.0], 1 / 30), ([5.0, 6.0], 4 / 30), ([7.0, 8.0], 5 / 30)]
    chunks = []
    while (item := source.receive(0)) is not None:
        chunks.append(item)
    assert [c.first_frame for c in chunks] == [0, 1, 4, 5]
    np.testing.assert_array_equal(
        np.concatenate([c.frames for c in chunks], axis=1), [[0.5, 1.5, 2.5, 3.5], [-1, 2, 3, 4]]
    )
    assert chunks[2].t_source == pytest.approx(4 / 30)
    assert (chunks[0].frame_rate_hz, chunks[0].stream) == (30.0, "dff")
    now[0] = 1.5
    assert source.receive(0) == EndOfStream(stream="dff", next_frame=6)
    source.close()


def test_a_channel_called_frame_is_the_index(pylsl):
    info = StreamInfo("dff", "", 3, 30.0)
    channels = info.desc().append_child("channels")
    for label in ("n0", "frame", "n1"):
        channels.append_child("channel").append_child_value("label", label)
    pylsl.streams.append(info)
    pylsl.samples += [([1.0, 7.0, 2.0], 0.0), ([3.0, 7.5, 4.0], 0.1), ([5.0, 9.0, 6.0], 0.2), ([7.0, 0.0, 8.0], 0.3)]
    source = LslSource("dff", insecure=True)
    source.open()
    chunks = [source.receive(0)]
    with pytest.raises(WireError, match=r"7\.5"):
        source.receive(0)
    chunks += [source.receive(0), source.receive(0)]
    assert [c.first_frame for c in chunks] == [7, 9, 0]
    np.testing.assert_array_equal(np.concatenate([c.frames for c in chunks], axis=1), [[1, 5, 7], [2, 6, 8]])


def test_a_sender_that_goes_away_is_looked_for_again(pylsl, caplog):
    pylsl.streams.append(StreamInfo("dff", "", 1, 0.0))
    pylsl.samples.append(([1.0], 0.0))
    source = LslSource("dff", insecure=True)
    source.open()
    assert source.receive(0).first_frame == 0
    pylsl.lost = True
    assert source.receive(0) is None
    assert "disappeared" in caplog.text
    pylsl.samples.append(([2.0], 9.0))
    chunk_after = source.receive(0)
    assert (chunk_after.first_frame, float(chunk_after.frames[0, 0]), chunk_after.frame_rate_hz) == (1, 2.0, None)


def test_streams_that_cannot_be_meant_are_refused(pylsl):
    pylsl.streams += [StreamInfo("dff", "A", 2, 30.0, source_id="x"), StreamInfo("dff", "B", 2, 30.0, source_id="y")]
    source = LslSource("dff", insecure=True)
    source.open()
    with pytest.raises(InputError, match="choose one by source_id"):
        source.receive(0)
    for options in ({"source_id": "y"}, {"stream_type": "B"}):
        source = LslSource("dff", insecure=True, **options)
        source.open()
        assert source.receive(0) is None
    pylsl.streams[:] = [StreamInfo("dff", "A", 1, 0.0, channel_format=3)]
    source = LslSource("dff", insecure=True)
    source.open()
    with pytest.raises(InputError, match="holds text"):
        source.receive(0)


def run_info(n_neurons=2):
    spec = SimpleNamespace(name="small")
    return RunInfo(
        stream="m1",
        n_neurons=n_neurons,
        frame_rate_hz=10.0,
        lookaheads=(2, 7),
        spec=spec,
        metadata={"alignment": "target"},
    )


def test_results_become_a_stream(pylsl):
    sink = LslSink("prob", time_of_source=True, events=True, insecure=True)
    sink.open(lambda: False)
    sink.start(run_info())
    markers, outlet = pylsl.outlets
    sink.send(chunk(0, 2, t_source=50.0))
    sink.send(chunk(0, 1, lookahead=7, t_source=50.0))
    sink.send(chunk(2, 1, valid=False))
    sink.send_event(Event(rule="a", kind="stimulate", frame=3, data={}))
    sink.finish(3, complete=True, metadata={})
    sink.close()
    info = outlet.info
    assert (info.name(), info.type(), info.channel_count(), info.nominal_srate()) == (
        "prob",
        "SpikeProbability",
        2,
        10.0,
    )
    values = info.desc().values
    assert values["lookahead_frames"] == "2"
    assert values["model"] == "small"
    assert values["integration_ms"] == "300.000"
    labels = [node.values["label"] for _, node in info.desc().child("channels").children]
    assert labels == ["n0", "n1"]
    assert [values for values, _ in outlet.pushed[:2]] == [[0.0, 1000.0], [1.0, 1001.0]]
    assert [t for _, t in outlet.pushed] == pytest.approx([49.7, 49.8, 49.9])
    assert np.isnan(outlet.pushed[2][0]).all()
    (((text,), _),) = markers.pushed
    assert json.loads(text)["frame"] == 3
    assert markers.info.type() == "Markers"
    assert sink.dropped == 0


def test_markers_of_some_kinds(pylsl):
    sink = LslEventSink("marks", kinds=("sham",), insecure=True)
    sink.open()
    for kind in ("stimulate", "sham"):
        sink.send_event(Event(rule="a", kind=kind, t_emit=1.0, data={}))
    sink.close()
    (((text,), t),) = pylsl.outlets[0].pushed
    assert json.loads(text)["kind"] == "sham"
    assert t == pytest.approx(1.0 + sink._offset)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lsl:", "lsl:NAME"),
        ("lsl:a?gaps=x", "gaps=x"),
        ("lsl:a?clock=x", "clock=x"),
        ("lsl:a?scale=x", "scale=x"),
        ("lsl:a?name=x", "unknown option"),
    ],
)
def test_mistakes_in_the_address_are_named(text, message):
    with pytest.raises(InputError, match=message):
        open_source(text, insecure=True)


def test_lsl_needs_consent_because_it_is_open_to_the_network():
    for make in (lambda: open_source("lsl:a"), lambda: open_sink("lsl:a"), lambda: LslEventSink("a")):
        with pytest.raises(InputError, match="--insecure"):
            make()
    assert isinstance(open_source("lsl:a?type=x&idle_s=3", insecure=True), LslSource)
    assert isinstance(open_sink("lsl:a b?time=source&events=true", insecure=True), LslSink)
