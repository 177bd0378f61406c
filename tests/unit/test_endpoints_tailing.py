"""Following a file that grows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from cascade_rt.endpoints import open_sink, open_source
from cascade_rt.endpoints.results import NpyAppender
from cascade_rt.endpoints.tailing import GRACE_S, TailSource
from cascade_rt.errors import FileFormatError, InputError, StreamError
from cascade_rt.ports import EndOfStream


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def follow(path, clock, **options):
    source = TailSource(path, clock=clock, sleep=clock.sleep, **options)
    source.open()
    return source


def ramp(first, n, n_neurons=3):
    """Frames (n, n_neurons) whose values tell neuron and frame."""
    return (np.arange(first, first + n)[:, None] + 1000 * np.arange(n_neurons)).astype("<f4")


def append(path, data):
    with path.open("ab") as file:
        file.write(data if isinstance(data, bytes) else data.tobytes())


def drain(source):
    """All that is there now: frames (n_neurons, n), checked to follow one another."""
    chunks = []
    while (chunk := source.receive(0)) is not None:
        assert not isinstance(chunk, EndOfStream)
        chunks.append(chunk)
    for before, after in pairwise(chunks):
        assert after.first_frame == before.first_frame + before.n_frames
    return chunks[0].first_frame if chunks else None, np.concatenate([c.frames for c in chunks], 1) if chunks else None


def test_raw_frames_come_as_they_are_appended(tmp_path, clock):
    path = tmp_path / "dff.raw"
    source = follow(path, clock, n_neurons=3)
    assert drain(source) == (None, None)
    at = 0
    for n in (1, 5, 200, 3):
        append(path, ramp(at, n))
        first, frames = drain(source)
        assert first == at
        np.testing.assert_array_equal(frames, ramp(at, n).T)
        at += n


def test_a_frame_that_is_not_whole_waits(tmp_path, clock):
    path = tmp_path / "dff.raw"
    source = follow(path, clock, n_neurons=3)
    data = ramp(0, 4).tobytes()
    seen = []
    for cut in range(0, len(data), 5):
        append(path, data[cut : cut + 5])
        _, frames = drain(source)
        if frames is not None:
            seen.append(frames)
    np.testing.assert_array_equal(np.concatenate(seen, axis=1), ramp(0, 4).T)


@pytest.mark.parametrize(("dtype", "scale"), [("f8", 1.0), (">f4", 1.0), ("i2", 0.25), ("<u4", 2.0)])
def test_number_formats(tmp_path, clock, dtype, scale):
    path = tmp_path / "dff.dat"
    values = np.arange(12).reshape(4, 3)
    append(path, b"head" + values.astype(dtype if dtype[0] in "<>" else f"<{dtype}").tobytes())
    source = follow(path, clock, n_neurons=3, dtype=dtype, offset=4, scale=scale)
    np.testing.assert_array_equal(drain(source)[1], scale * values.T)


def test_a_npy_file_with_a_stale_header(tmp_path, clock):
    path = tmp_path / "dff.npy"
    np.save(path, ramp(0, 2))
    source = follow(path, clock)
    np.testing.assert_array_equal(drain(source)[1], ramp(0, 2).T)
    append(path, ramp(2, 3))
    first, frames = drain(source)
    assert first == 2
    np.testing.assert_array_equal(frames, ramp(2, 3).T)


def test_a_npy_file_whose_header_is_renewed(tmp_path, clock):
    path = tmp_path / "dff.npy"
    appender = NpyAppender(path, 3, "<f4")
    source = follow(path, clock, n_neurons=3)
    assert drain(source) == (None, None)
    for first in (0, 4, 8):
        appender.append(ramp(first, 4).T)
        appender.sync()
        at, frames = drain(source)
        assert at == first
        np.testing.assert_array_equal(frames, ramp(first, 4).T)
    appender.close()


@pytest.mark.parametrize("exchange", ["in place", "by another file"])
def test_a_npy_file_that_is_saved_anew_with_more_frames(tmp_path, clock, exchange):
    path = tmp_path / "F.npy"
    np.save(path, ramp(0, 5))
    source = follow(path, clock)
    drain(source)
    if exchange == "in place":
        path.write_bytes(b"")  # the moment at which np.save has just opened it
        assert source.receive(0) is None
        np.save(path, ramp(0, 9))
    else:
        np.save(tmp_path / "new.npy", ramp(0, 9))
        (tmp_path / "new.npy").replace(path)
    first, frames = drain(source)
    assert first == 5
    np.testing.assert_array_equal(frames, ramp(5, 4).T)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("how", ["other", "shorter", "removed", "rewritten"])
def test_another_recording_in_its_place(tmp_path, clock, restart, how, caplog):
    path = tmp_path / "dff.raw"
    append(path, ramp(0, 6))
    source = follow(path, clock, n_neurons=3, restart=restart)
    drain(source)
    new = ramp(50, 8 if how in ("other", "rewritten") else 2)
    if how == "removed":
        path.unlink()
    elif how in ("other", "shorter"):
        (tmp_path / "new").write_bytes(new.tobytes())
        (tmp_path / "new").replace(path)
    else:
        path.write_bytes(b"")
        source.receive(0)
        path.write_bytes(new.tobytes())

    def look():
        source.receive(0)
        clock.now += GRACE_S + 0.1
        return source.receive(0)

    if not restart:
        with pytest.raises(StreamError, match="replaced=restart"):
            look()
        return
    found = look()
    assert "taken as a new recording" in caplog.text
    if how == "removed":
        assert found is None
        append(path, new)
    chunk = found if found is not None else source.receive(0)
    assert chunk.first_frame == 0
    np.testing.assert_array_equal(chunk.frames, new.T)


def test_only_what_comes_from_now_on(tmp_path, clock):
    path = tmp_path / "dff.raw"
    append(path, ramp(0, 6))
    source = follow(path, clock, n_neurons=3, from_end=True)
    assert drain(source) == (None, None)
    append(path, ramp(6, 2))
    first, frames = drain(source)
    assert first == 6
    np.testing.assert_array_equal(frames, ramp(6, 2).T)


def test_silence_ends_a_recording(tmp_path, clock):
    path = tmp_path / "dff.raw"
    source = follow(path, clock, n_neurons=3, idle_s=2)
    clock.now += 100  # nothing has begun yet
    assert source.receive(0.1) is None
    append(path, ramp(0, 2))
    drain(source)
    clock.now += 1.9
    assert source.receive(0) is None
    clock.now += 0.2
    assert source.receive(0) == EndOfStream(stream="dff", next_frame=2)
    assert source.receive(0) is None


def test_a_marker_ends_a_recording_after_its_last_frame(tmp_path, clock):
    path, marker = tmp_path / "dff.raw", tmp_path / "done"
    source = follow(path, clock, n_neurons=3, end_marker=marker)
    append(path, ramp(0, 100))
    marker.touch()
    total = 0
    while not isinstance(item := source.receive(0), EndOfStream):
        total += item.n_frames
    assert (total, item.next_frame) == (100, 100)


def test_waiting_takes_no_longer_than_told(tmp_path, clock):
    source = follow(tmp_path / "none.raw", clock, n_neurons=3)
    assert source.receive(0.1) is None
    assert clock.now == pytest.approx(100.1)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((3, 4)), {"n_neurons": 3}, "cannot grow"),
        (np.zeros((3, 4, 5)), {}, "shape"),
        (np.zeros(4), {}, "shape"),
        (np.zeros((3, 4), "U2"), {}, "expected numbers"),
        (np.zeros((3, 4), complex), {}, "expected numbers"),
    ],
)
def test_files_that_cannot_grow_by_frames_are_refused(tmp_path, clock, array, options, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(FileFormatError, match=message):
        follow(tmp_path / "a.npy", clock, **options).receive(0)


def test_what_is_no_npy_is_refused(tmp_path, clock):
    (tmp_path / "a.npy").write_bytes(b"x" * 200)
    with pytest.raises(FileFormatError, match=r"not a \.npy"):
        follow(tmp_path / "a.npy", clock).receive(0)


def test_a_single_frame_or_a_long_row(tmp_path, clock):
    np.save(tmp_path / "a.npy", ramp(0, 1).T)  # (3, 1): numpy calls it C order
    np.testing.assert_array_equal(drain(follow(tmp_path / "a.npy", clock, n_neurons=3))[1], ramp(0, 1).T)
    np.save(tmp_path / "b.npy", ramp(0, 4).ravel())
    np.testing.assert_array_equal(drain(follow(tmp_path / "b.npy", clock, n_neurons=3))[1], ramp(0, 4).T)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tail:", "tail:PATH"),
        ("tail:a.raw", "neurons=N"),
        ("tail:a.raw?neurons=x", "neurons=x"),
        ("tail:a.raw?neurons=3&dtype=U3", "dtype=U3"),
        ("tail:a.raw?neurons=3&dtype=quatsch", "dtype=quatsch"),
        ("tail:a.raw?neurons=3&from=middle", "from=middle"),
        ("tail:a.raw?neurons=3&idle_s=-1", "idle_s=-1"),
        ("tail:a.raw?neuron=3", "unknown option"),
    ],
)
def test_mistakes_in_the_address_are_named(text, message):
    with pytest.raises(InputError, match=message):
        open_source(text)


def test_made_from_text(tmp_path):
    source = open_source(f"tail:{tmp_path / 'a.raw'}?neurons=3&dtype=i2&scale=0.01&end=x&replaced=restart")
    assert isinstance(source, TailSource)
    assert source.lossless
    assert not source.finite
    with pytest.raises(InputError, match="can only be read"):
        open_sink("tail:a.raw")
    with pytest.raises(InputError, match="not a folder"):
        open_source(f"tail:{tmp_path / 'no' / 'a.raw'}?neurons=3").open()
