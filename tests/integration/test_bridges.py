"""Bridges to other programs, each with a program of its own that speaks the protocol (``tests/programs``).

The frames carry a ramp, so that a lost, repeated or shifted one shows; what came of them must be what the same frames
give offline.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import zmq
from live import Bench, Command, recording, same
from networks import write_conditioned

from cascade_rt import codec
from cascade_rt.bundle import find_bundle
from cascade_rt.chunks import FrameChunk
from cascade_rt.cli import build_parser
from cascade_rt.endpoints import open_sink, open_source
from cascade_rt.endpoints.openephys import OpenEphysEventSink
from cascade_rt.engine import load_model
from cascade_rt.events import Event
from cascade_rt.formats import read_recording
from cascade_rt.offline import predict
from cascade_rt.ports import EndOfStream

PROGRAMS = Path(__file__).parents[1] / "programs"
DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
NU = np.array([1.5, 2.0, 2.5, 3.0, 4.0, 6.0])
N_FRAMES = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bridges")


@pytest.fixture(scope="module")
def dff(folder):
    """ΔF/F (6, 200) with a ramp in it."""
    values = recording(6, N_FRAMES) + np.float32(1e-3) * np.arange(N_FRAMES, dtype=np.float32)
    np.save(folder / "dff.npy", values)
    return values


@pytest.fixture(scope="module")
def bundle(folder):
    np.save(folder / "nu.npy", NU)
    return write_conditioned(folder / "small", lookaheads=(0, 2, 7))


@pytest.fixture(scope="module")
def model(bundle):
    return load_model(bundle, threads=1)


def offline(dff, model):
    return predict(dff, model, frame_rate_hz=30.0, noise_levels=NU, lookahead_frames=2)


def run(bundle, folder, source, sink, *more):
    return Command(
        "run", "--model", bundle, "--source", source, "--sink", sink, "--noise-levels", bundle.parent / "nu.npy",
        "--lookahead", "2,7", "--frame-rate", 30, "--threads", 1, "--view", "none", "--json", "--record", "kept", *more,
        folder=folder,
    )  # fmt: skip


class Program:
    """A program beside the run, in a process of its own."""

    def __init__(self, *command, fakes=False, **environment):
        self.process = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, **environment, **({"PYTHONPATH": str(PROGRAMS / "fakes")} if fakes else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def wait(self):
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, out.decode(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        out, _ = self.process.communicate()
        if error[0] is not None:
            print(out.decode(errors="replace"))


def python(name, *arguments, **options):
    return Program(sys.executable, PROGRAMS / name, *arguments, **options)


def free_port(count=1):
    """Return the first of some ports in a row that nobody uses."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
        try:
            for number in range(count):
                with socket.socket() as other:
                    other.bind(("127.0.0.1", port + number))
        except (OSError, OverflowError):
            continue
        return port


def received(kept, dff, lost=()):
    """Check that the frames which reached the run are those that were sent."""
    there = read_recording(kept)
    expected = np.setdiff1d(np.arange(dff.shape[1]), lost)
    frames = there.frames if there.frames is not None else np.arange(there.dff.shape[1])
    np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(there.dff, dff[:, expected])


def whole(bench, dff, model):
    """Check the results that came back on the bench's socket against those of the same frames offline."""
    bench.receive()
    frame, prob, _ = bench.values(2)
    np.testing.assert_array_equal(frame, np.arange(dff.shape[1]))
    same(prob, offline(dff, model))


# --- Open Ephys ---------------------------------------------------------------------------------------------


def ask(port, text):
    with zmq.Context() as context, context.socket(zmq.REQ) as request:
        request.linger = 0
        request.connect(f"tcp://127.0.0.1:{port}")
        request.send(text)
        assert request.poll(20_000)
        return request.recv()


def test_open_ephys(bundle, model, dff, folder, tmp_path):
    port, log = free_port(3), tmp_path / "requests.txt"
    source = f"openephys://127.0.0.1:{port}?channels=6&stream=imaging&idle_s=2"
    with (
        Bench() as bench,
        python("openephys_gui.py", folder / "dff.npy", port, log) as gui,
        run(bundle, tmp_path, source, f"{bench.sink_address}?type=push&bind=false") as command,
    ):
        bench.receive()
        summary = command.summary()
        for plugin, at in (("zmq", 1), ("network", 2)):
            sink = OpenEphysEventSink(f"tcp://127.0.0.1:{port + at}", line=4, plugin=plugin, pulse_ms=1)
            sink.open()
            sink.send_event(Event(rule="a", kind="stimulate", newest_frame=123))
            sink.close()
            assert (sink.sent, sink.dropped) == (1, 0)
        ask(port + 1, b"quit")
        gui.wait()
    assert summary["frames"]["lost"] == 10
    assert summary["frames"]["processed"] == 190
    assert summary["messages"]["rejected"] == {"channels": 1}
    kept = read_recording(tmp_path / "kept")
    frames = np.setdiff1d(np.arange(N_FRAMES), np.arange(50, 60))
    np.testing.assert_array_equal(kept.frames, frames)
    holes = np.isnan(kept.dff)
    assert set(np.flatnonzero(holes.any(axis=1))) == {3}
    assert frames[np.flatnonzero(holes.any(axis=0))[0]] == 80
    np.testing.assert_array_equal(kept.dff[~holes], dff[:, frames][~holes])
    frame, prob, _ = bench.values(2)
    np.testing.assert_array_equal(frame, np.arange(N_FRAMES))
    window = model.spec.windowsize
    same(prob[:, : 50 - 2], offline(dff, model)[:, : 50 - 2])
    clean = slice(90 + window, None)
    same(prob[:, clean], offline(dff, model)[:, clean])
    requests = log.read_text(encoding="utf-8").splitlines()
    assert sum('"heartbeat"' in line for line in requests) >= 1
    (event,) = [json.loads(line)["event"] for line in requests if '"event"' in line]
    assert event == {"type": 3, "sample_num": 123, "event_id": 1, "event_channel": 3}
    assert [line for line in requests if line.startswith("TTL")] == ["TTL Line=4 State=1", "TTL Line=4 State=0"]


# --- Bonsai -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("topic", "index"), [("dff", 0), ("", 0), ("cells/left", 1)])
def test_bonsai(bundle, model, dff, folder, tmp_path, topic, index):
    frames = free_port(2)
    results = frames + 1
    source = f"bonsai://127.0.0.1:{frames}?neurons=6&topic={topic}&index={'true' if index else 'false'}"
    sink = f"bonsai://127.0.0.1:{results}?type=push&bind=false&index=true"
    out = tmp_path / "results.npz"
    with (
        python("bonsai_workflow.py", folder / "dff.npy", frames, results, out, topic, index) as workflow,
        run(bundle, tmp_path, source, sink) as command,
    ):
        summary = command.summary()
        workflow.wait()
    assert summary["frames"]["lost"] == 0
    received(tmp_path / "kept", dff)
    with np.load(out) as found:
        np.testing.assert_array_equal(found["frame"], np.arange(N_FRAMES))
        assert found["topics"].tolist() == ["spike_prob"]
        same(found["values"].astype(np.float32), offline(dff, model))


def test_bonsai_in_plain_mode(bundle, model, dff, folder, tmp_path):
    """What docs/wire-format.md says of Bonsai: ``--wire raw:N``."""
    port, out = free_port(2), tmp_path / "results.npz"
    with (
        python("bonsai_workflow.py", folder / "dff.npy", port, port + 1, out, "dff", 0) as workflow,
        run(
            bundle, tmp_path, f"tcp://127.0.0.1:{port}",
            f"bonsai://127.0.0.1:{port + 1}?type=push&bind=false&index=true", "--wire", "raw:6",
        ) as command,
    ):  # fmt: skip
        command.summary()
        workflow.wait()
    received(tmp_path / "kept", dff)


# --- LSL ----------------------------------------------------------------------------------------------------


@pytest.fixture
def lsl_here(tmp_path, monkeypatch):
    """LSL kept to this machine; skips where pylsl or its library is missing."""
    try:
        import pylsl  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"pylsl cannot be used here: {error}")
    config = tmp_path / "lsl_api.cfg"
    config.write_text("[multicast]\nResolveScope = machine\n[lab]\nKnownPeers = {127.0.0.1}\n", encoding="utf-8")
    monkeypatch.setenv("LSLAPICFG", str(config))


def test_lsl(bundle, model, dff, folder, tmp_path, lsl_here):
    name, out = f"dff-{uuid.uuid4().hex[:8]}", tmp_path / "results.npz"
    with (
        python("lsl_device.py", folder / "dff.npy", name, f"{name}-prob", out) as device,
        run(
            bundle, tmp_path, f"lsl:{name}?idle_s=2", f"lsl:{name}-prob?time=source&events=true", "--insecure"
        ) as command,
    ):
        summary = command.summary()
        device.wait()
    lost = np.arange(100, 105)
    assert summary["frames"]["lost"] == 5
    assert summary["frames"]["processed"] == N_FRAMES - 5
    assert summary["sink_dropped"] == 0
    received(tmp_path / "kept", dff, lost)
    with np.load(out) as found:
        frame = np.rint(found["frame"]).astype(int)
        np.testing.assert_allclose(found["frame"], frame, atol=1e-3)
        np.testing.assert_array_equal(np.diff(frame), 1)
        assert frame[0] <= 3
        assert frame[-1] == N_FRAMES - 1
        assert (str(found["type"]), float(found["rate"]), str(found["label"])) == ("SpikeProbability", 30.0, "n0")
        assert (str(found["lookahead"]), str(found["model"])) == ("2", "small")
        expected = offline(dff, model)[:, frame]
        window = model.spec.windowsize
        clean = (frame < 100 - 2) | (frame > 105 + window)
        same(found["values"][:, clean].astype(np.float32), expected[:, clean])
        assert np.isnan(found["values"][:, frame == 102]).all()  # touched by the gap: not valid


# --- growing files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["raw", "stale", "renewed", "saved"])
def test_a_growing_file(bundle, model, dff, folder, tmp_path, kind):
    path, marker = tmp_path / ("dff.raw" if kind == "raw" else "dff.npy"), tmp_path / "done"
    with (
        Bench() as bench,
        run(
            bundle, tmp_path, f"tail:{path}?neurons=6&end={marker}", f"{bench.sink_address}?type=push&bind=false"
        ) as command,
        python("growing_writer.py", folder / "dff.npy", path, kind, marker) as writer,
    ):
        whole(bench, dff, model)
        summary = command.summary()
        writer.wait()
    assert summary["frames"]["lost"] == 0
    received(tmp_path / "kept", dff)


# --- ScanImage ----------------------------------------------------------------------------------------------


def has_octave():
    octave = shutil.which("octave-cli")
    if octave is None:
        return False
    code = "pkg load instrument-control; exit(exist('tcpclient') == 0)"
    return subprocess.run([octave, "--eval", code], capture_output=True, check=False).returncode == 0


def test_scanimage_bytes(bundle, model, dff, folder, tmp_path):
    """The protocol of scanimage_send.m, done again in Python: every PC with TCP can send to ``run``."""
    port = free_port()
    with (
        Bench() as bench,
        run(
            bundle,
            tmp_path,
            f"tcp://127.0.0.1:{port}?type=pull&bind=true",
            f"{bench.sink_address}?type=push&bind=false",
        ) as command,
    ):
        wait_for(port)
        with python("zmtp_push.py", folder / "dff.npy", port) as rig:
            whole(bench, dff, model)
            rig.wait()
        command.summary()
    received(tmp_path / "kept", dff)


def test_scanimage_in_octave(bundle, model, dff, folder, tmp_path):
    """The MATLAB file itself, with a stand-in for ScanImage."""
    if not has_octave():
        pytest.skip("GNU Octave with the package instrument-control is not here")
    np.savetxt(folder / "dff.txt", dff.T, "%.9g")
    port = free_port()
    with (
        Bench() as bench,
        run(
            bundle,
            tmp_path,
            f"tcp://127.0.0.1:{port}?type=pull&bind=true",
            f"{bench.sink_address}?type=push&bind=false",
        ) as command,
    ):
        wait_for(port)
        with Program("octave-cli", PROGRAMS / "scanimage_rig.m", EXAMPLES, folder / "dff.txt", port, 0) as rig:
            whole(bench, dff, model)
            rig.process.communicate(timeout=60)
        command.summary()
    received(tmp_path / "kept", dff)


def wait_for(port):
    """Wait until somebody listens at a port, without speaking to it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens at {port}")


# --- examples that send -------------------------------------------------------------------------------------


class Listener:
    """Where a run would have bound its PULL socket."""

    def __enter__(self):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PULL)
        self.socket.linger = 0
        self.port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.address = f"tcp://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *error):
        self.socket.close()
        self.context.term()

    def frames(self):
        """All frames up to the end, (n_neurons, n), checked to follow one another."""
        chunks = []
        while True:
            assert self.socket.poll(60_000), "nothing comes"
            item = codec.decode_message(self.socket.recv_multipart())
            if isinstance(item, EndOfStream):
                assert item.next_frame == len(chunks)
                return np.concatenate([chunk.frames for chunk in chunks], axis=1)
            assert isinstance(item, FrameChunk)
            assert (item.first_frame, item.frame_rate_hz) == (len(chunks), 30.0)
            chunks.append(item)


def relative(values, seconds):
    """What the examples send: (F - F0) / F0, F0 the 10th percentile of means of half a second."""
    out, past, recent, f0 = [], [], [], None
    for column in values.T:
        recent.append(column)
        if f0 is None or len(recent) >= 15:
            past = [*past, np.mean(recent, axis=0)][-2 * seconds :]
            f0 = np.sort(past, axis=0)[int(np.ceil(len(past) / 10)) - 1]
            recent = []
        out.append((column - f0) / f0)
    return np.array(out).T


@pytest.fixture(scope="module")
def fluorescence(folder, dff):
    """(6, 200), positive."""
    values = 200 * (2 + np.asarray(dff, np.float64))
    np.save(folder / "fluorescence.npy", values)
    return values


def test_scanimage_baseline(folder, fluorescence):
    if not has_octave():
        pytest.skip("GNU Octave with the package instrument-control is not here")
    np.savetxt(folder / "f.txt", fluorescence.T, "%.17g")
    with (
        Listener() as listener,
        Program("octave-cli", PROGRAMS / "scanimage_rig.m", EXAMPLES, folder / "f.txt", listener.port, 2) as rig,
    ):
        found = listener.frames()
        rig.process.communicate(timeout=60)
    np.testing.assert_allclose(found, relative(fluorescence, 2), atol=1e-6)


def test_caiman_online(folder, fluorescence):
    with (
        Listener() as listener,
        python("caiman_loop.py", EXAMPLES, folder / "fluorescence.npy", listener.address) as loop,
    ):
        found = listener.frames()
        loop.wait()
    np.testing.assert_allclose(found, relative(fluorescence, 2), atol=1e-5)


@pytest.mark.parametrize("flip", ["odd", "none"])
def test_bruker(tmp_path, flip):
    rng = np.random.default_rng(0)
    images = 100 + rng.integers(0, 50, (40, 8, 10)) + 3 * np.arange(40)[:, None, None]
    labels = rng.integers(0, 5, (8, 10))
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    with (
        Listener() as listener,
        Program(
            sys.executable, EXAMPLES / "bruker_send.py", "--rois", tmp_path / "labels.npy", "--frame-rate", 30,
            "--to", listener.address, "--baseline-s", 0, "--frames", 40, "--flip", flip,
            fakes=True, FAKE_IMAGES=str(tmp_path / "images.npy"),
        ) as sender,
    ):  # fmt: skip
        found = listener.frames()
        sender.wait()
    if flip == "none":
        images[:, 1::2] = images[:, 1::2, ::-1]
    expected = np.array([images[:, labels == n].mean(axis=1) for n in range(1, 5)])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_improv(bundle, model, dff, folder, tmp_path):
    port, out = free_port(2), tmp_path / "results.npz"
    source, results = f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port + 1}"
    with (
        run(bundle, tmp_path, f"{source}?type=pull&bind=true", f"{results}?type=push&bind=true") as command,
        python("improv_run.py", EXAMPLES, folder / "dff.npy", source, results, out, fakes=True) as actor,
    ):
        actor.wait()
        command.interrupt()
        command.wait()
    received(tmp_path / "kept", dff)
    with np.load(out) as found:
        np.testing.assert_array_equal(found["frame"], np.arange(N_FRAMES - 2))
        same(found["values"], offline(dff, model)[:, : N_FRAMES - 2])


# --- the pages ----------------------------------------------------------------------------------------------

PAGES = sorted((DOCS / "bridges").glob("*.md"))


def blocks(page, language):
    """Code of a page in some language."""
    pattern = rf"^ *```{language}\n(.*?)^ *```$"
    return re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_the_pages_are_understood(page):
    commands = [line for block in blocks(page, "sh") for line in block.splitlines() if line.strip()]
    assert commands or page.stem in ("README",)
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "cascade-rt"
        args = build_parser().parse_args(arguments)
        assert find_bundle(str(args.model)).is_dir()
        open_source(args.source, insecure=args.insecure)
        for sink in args.sink:
            open_sink(sink, insecure=args.insecure)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_the_pages_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).is_file(), link


def test_addresses_of_the_bonsai_page_are_understood():
    page = DOCS / "bridges" / "bonsai.md"
    for option, text in re.findall(r'`--(source|sink) "?(bonsai://[^"`]+)', page.read_text(encoding="utf-8")):
        (open_source if option == "source" else open_sink)(text.replace("=N", "=9"))


def test_the_writer_of_the_page_is_followed(dff, tmp_path, monkeypatch):
    (code,) = blocks(DOCS / "bridges" / "growing-file.md", "python")
    monkeypatch.chdir(tmp_path)
    source = open_source("tail:dff.raw?neurons=6&end=done")
    source.open()
    exec(compile(code, "growing-file.md", "exec"), {"frames": dff.T})
    found = []
    while not isinstance(item := source.receive(1.0), EndOfStream):
        found.append(item.frames)
    np.testing.assert_array_equal(np.concatenate(found, axis=1), dff)


def test_the_sender_of_the_lsl_page_is_received(dff, lsl_here):
    code = blocks(DOCS / "bridges" / "lsl.md", "python")[0]
    source = open_source("lsl:dff?source_id=my-microscope&gaps=none", insecure=True)
    source.open()
    found, names = [], {}

    def frames():
        deadline = time.monotonic() + 60
        while not names["outlet"].have_consumers() and time.monotonic() < deadline:
            assert source.receive(0.05) is None
        yield from dff.T[:20]

    names["frames"] = frames()
    exec(compile(code, "lsl.md", "exec"), names)
    while len(found) < 20 and (item := source.receive(10.0)) is not None:
        found.append(item.frames)
    source.close()
    np.testing.assert_array_equal(np.concatenate(found, axis=1), dff[:, :20])


def test_the_bytes_of_the_scanimage_page():
    text = (DOCS / "bridges" / "scanimage.md").read_text(encoding="utf-8")
    header = b'{"v":1,"stream":"scanimage","frame":7,"shape":[2,1],"dtype":"<f4","rate":30,"t":1.5}'
    assert f"01 {len(header):02x}   {header[:7].hex(' ')}" in text
    payload = np.array([0.5, -0.25], "<f4").tobytes()
    assert f"00 08   {payload[:4].hex(' ')}  {payload[4:].hex(' ')}" in text
    ready = bytes([5]) + b"READY" + bytes([11]) + b"Socket-Type" + bytes([0, 0, 0, 4]) + b"PUSH"
    parts = (bytes([4, len(ready)]), ready[:6], ready[6:18], ready[18:22], ready[22:])
    assert "   ".join(part.hex(" ") for part in parts) in text
