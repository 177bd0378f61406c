"""`cascade-rt monitor` in a process of its own: the page of a run that publishes elsewhere."""

from __future__ import annotations

import threading

import numpy as np
import zmq
from live import Command
from pages import Page

from cascade_rt import codec
from cascade_rt.chunks import SpikeChunk
from cascade_rt.cli import main
from cascade_rt.events import Event
from cascade_rt.monitor.protocol import PROB


def publish(socket, stop):
    first = 0
    while not stop.wait(0.02):
        prob = np.full((3, 1), first, np.float32)
        chunk = SpikeChunk(spike_prob=prob, first_frame=first, valid=prob >= 0, lookahead_frames=2, model="m")
        socket.send_multipart(codec.encode_spikes(chunk, stream="mouse", frame_rate_hz=30.0))
        socket.send_multipart(codec.encode_event(Event(rule="burst", kind="sham", frame=first), stream="mouse"))
        first += 1


def test_a_page_for_a_run_elsewhere(tmp_path):
    context, stop = zmq.Context(), threading.Event()
    socket = context.socket(zmq.PUB)
    socket.linger = 0
    address = f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"
    thread = threading.Thread(target=publish, args=(socket, stop))
    thread.start()
    try:
        with Command("monitor", address, "--no-browser", folder=tmp_path) as command:
            line = command.process.stdout.readline().decode()
            assert f"page of {address}: http://127.0.0.1:" in line
            with Page(int(line.split(" (")[0].rstrip("/").rsplit(":", 1)[1])) as page:
                info = page.until("info")
                assert (info["stream"], info["n_neurons"], info["has_dff"]) == ("mouse", 3, False)
                page.say(type="select", neurons=[1], lookahead=2)
                page.until("selected")
                block = next(b for b in page.samples().blocks if b.kind == PROB)
                np.testing.assert_array_equal(block.values[:, 0], block.first_frame + np.arange(len(block.values)))
                assert page.until("events")["events"][-1]["rule"] == "burst"
                assert page.until("status")["frames"] == {"lost": 0}
            command.interrupt()
            assert command.wait()[0] == 0
    finally:
        stop.set()
        thread.join()
        socket.close()
        context.term()


def test_what_cannot_be_shown_is_said(capsys):
    assert main(["monitor", "traces.npy"]) == 1
    assert "expected where a run publishes" in capsys.readouterr().err
    assert main(["monitor", "tcp://192.168.0.1:5556"]) == 1
    assert "CURVE" in capsys.readouterr().err
    assert main(["monitor", "tcp://127.0.0.1:5556", "--listen", "0.0.0.0:0"]) == 1
    assert "token" in capsys.readouterr().err
    assert main(["monitor", "tcp://127.0.0.1:5556?type=pull", "--no-browser"]) == 1
    assert "type=sub" in capsys.readouterr().err
