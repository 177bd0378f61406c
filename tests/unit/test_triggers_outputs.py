"""Outputs of events: what arrives, that a slow or broken one keeps nobody waiting, and control from outside."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest
import zmq

from cascade_rt.endpoints.control import ControlServer
from cascade_rt.endpoints.event_sinks import CallbackEventSink, EventSink, SerialEventSink, make_event_sink
from cascade_rt.endpoints.growing import GrowingFolder
from cascade_rt.errors import InputError, OutputExistsError
from cascade_rt.events import Event
from cascade_rt.ports import Sink
from cascade_rt.triggers.host import TriggerHost
from cascade_rt.triggers.rulefile import parse_rules


def event(number=0, kind="stimulate", **more):
    return Event(rule="it", kind=kind, number=number, frame=number + 10, newest_frame=number + 12, lookahead=2, **more)


def opened(sink):
    sink.open(lambda: False)
    return sink


def finish(sink):
    sink.finish(0, complete=True, metadata={})
    sink.close()


def wait_for(condition, patience_s=20.0):
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_file_gets_each_event_as_a_line(tmp_path):
    sink: Sink = make_event_sink(f"file:{tmp_path / 'events.jsonl'}")
    opened(sink)
    for number in range(3):
        sink.send_event(event(number, value=0.5))
    sink.send_event(event(3, "sham"))
    finish(sink)
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["number"] for line in lines] == [0, 1, 2, 3]
    assert (lines[0]["value"], lines[3]["value"], lines[3]["kind"]) == (0.5, None, "sham")
    assert sink.describe() == {"name": sink.name, "sent": 4, "dropped": 0, "failure": None}
    again = make_event_sink(f"file:{tmp_path / 'events.jsonl'}")
    with pytest.raises(OutputExistsError, match="exists"):
        again.open(lambda: False)


def test_kinds_can_be_chosen(tmp_path):
    sink = opened(make_event_sink(f"file:{tmp_path / 'events.jsonl'}?kinds=sham,fault"))
    for number, kind in enumerate(("stimulate", "sham", "suppressed", "fault")):
        sink.send_event(event(number, kind))
    finish(sink)
    lines = (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 3]


def test_a_function_is_called_in_order_and_in_a_thread_of_its_own():
    seen = []

    def act(e):
        seen.append((e.number, threading.current_thread().name))

    sink = opened(make_event_sink("callback", callback=act))
    for number in range(100):
        sink.send_event(event(number))
    finish(sink)
    assert [number for number, _ in seen] == list(range(100))
    assert {name for _, name in seen} == {sink.name}


def test_a_function_of_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def act(event):\n    with open(__file__ + '.out', 'a') as file:\n"
        "        file.write(f'{event.rule} {event.number}\\n')\n",
        encoding="utf-8",
    )
    sink = opened(make_event_sink(f"callback:{tmp_path / 'mine.py'}:act"))
    sink.send_event(event(4))
    finish(sink)
    assert (tmp_path / "mine.py.out").read_text(encoding="utf-8") == "it 4\n"


def test_a_slow_output_keeps_nobody_waiting_and_drops_are_counted():
    release, begun = threading.Event(), threading.Event()

    def slow(_):
        begun.set()
        release.wait(20)

    sink = opened(CallbackEventSink(slow, queue_events=5))
    sink.send_event(event(0))
    assert begun.wait(20)
    for number in range(1, 20):
        sink.send_event(event(number))
    assert sink.dropped == 14, "5 wait, 1 is being delivered"
    release.set()
    finish(sink)
    assert (sink.sent, sink.dropped) == (6, 14)


def test_one_that_is_stuck_does_not_hold_up_the_end():
    never = threading.Event()
    sink = opened(CallbackEventSink(lambda _: never.wait(60), queue_events=1))
    for number in range(3):
        sink.send_event(event(number))
    sink.close()
    never.set()


def test_failures_are_reported_and_the_output_goes_on(caplog):
    seen = []

    def sometimes(e):
        if e.number == 1:
            raise KeyError("of all things")
        seen.append(e.number)

    sink = opened(CallbackEventSink(sometimes))
    host = TriggerHost(parse_rules("rules: {it: {neuron: 0, above: 1}}"), outputs=[sink])
    for number in range(4):
        sink.send_event(event(number))
    wait_for(lambda: sink.sent == 3)
    (fault,) = host.poll()
    assert (fault.kind, fault.rule) == ("fault", f"output {sink.name}")
    assert "KeyError: 'of all things'" in fault.data["text"]
    assert host.poll() == [], "told once"
    finish(sink)
    assert seen == [0, 2, 3]
    assert host.finish()["outputs"] == [
        {"name": sink.name, "sent": 3, "dropped": 1, "failure": "KeyError: 'of all things'"}
    ]
    assert "failed" in caplog.text


def test_an_output_that_broke_is_opened_again(monkeypatch):
    monkeypatch.setattr("cascade_rt.endpoints.event_sinks.RETRY_S", 0.0)

    class Line(EventSink):
        opened = closed = 0
        got: list[int] = []  # noqa: RUF012

        def _connect(self):
            self.opened += 1

        def _deliver(self, e):
            if e.number == 0:
                raise OSError("unplugged")
            self.got.append(e.number)

        def _disconnect(self):
            self.closed += 1

    sink = opened(Line("line"))
    sink.send_event(event(0))
    sink.send_event(event(1))
    finish(sink)
    assert (sink.opened, sink.closed, sink.got, sink.failure) == (2, 2, [1], "OSError: unplugged")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo terminal")
def test_a_serial_line():
    pytest.importorskip("serial")
    ours, theirs = os.openpty()
    try:
        name = os.ttyname(theirs)
        sink = opened(make_event_sink(f"serial:{name}?baud=9600"))
        told = opened(make_event_sink(f"serial:{name}?line=T{{number}}&kinds=sham"))
        sink.send_event(event(3, "sham"))
        sink.send_event(event(4))
        finish(sink)
        told.send_event(event(5, "sham"))
        finish(told)
        got = b""
        while got.count(b"\n") < 2:
            got += os.read(ours, 100)
        assert got.replace(b"\r", b"") == b"stimulate it 14\nT5\n", "no sham for what acts, unless asked for"
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_serial_port_that_is_not_there():
    pytest.importorskip("serial")
    with pytest.raises(InputError, match="cannot be opened"):
        make_event_sink("serial:no-such-port").open(lambda: False)
    with pytest.raises(InputError, match="line="):
        SerialEventSink("x", line="{nothing}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("serial", "expected serial:PORT"),
        ("serial:x?baud=fast", "baud=fast"),
        ("serial:x?speed=3", "unknown option 'speed'"),
        ("file:events.txt", "ends in .jsonl"),
        ("file:e.jsonl?kinds=all", "kinds=all"),
        ("callback", "expected serial:PORT"),
        ("callback:nothing.py:f", "existing file"),
        ("smoke:signal", "unknown kind 'smoke'"),
    ],
)
def test_outputs_that_do_not_exist_are_refused(text, reason):
    with pytest.raises(InputError, match=reason):
        make_event_sink(text)


def test_a_recording_keeps_events(tmp_path):
    folder = GrowingFolder(tmp_path / "kept", 2, {})
    folder.add_event(event(0))
    folder.add_event(event(1, "suppressed"))
    lines = (tmp_path / "kept" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["stimulate", "suppressed"], "readable at once"
    folder.finish({}, complete=True)


# ------------------------------------------------------------------------------------------------------- control

TOKEN = "a long secret"


@pytest.fixture
def control():
    host = TriggerHost(parse_rules("rules: {it: {neuron: 0, above: 1}}"))
    with ControlServer("tcp://127.0.0.1:*", TOKEN, check=host.check_control, describe=host.describe) as server:
        yield server


@pytest.fixture
def ask(control):
    context = zmq.Context()
    socket = context.socket(zmq.REQ)
    socket.linger = 0
    socket.connect(control.address)

    def ask(message):
        socket.send(message if isinstance(message, bytes) else json.dumps(message).encode())
        assert socket.poll(20_000)
        return json.loads(socket.recv())

    yield ask
    socket.close()
    context.term()


def test_messages_with_the_token_reach_the_run(control, ask):
    assert ask({"token": TOKEN, "rule": "it", "action": "arm"}) == {"ok": True}
    assert ask({"token": TOKEN, "rule": "*", "action": "set", "threshold": 2})["ok"] is False
    assert control.take() == [{"rule": "it", "action": "arm"}], "the token is not passed on"
    assert control.take() == []
    status = ask({"token": TOKEN, "action": "status"})
    assert status["rules"][0]["rule"] == "it"


@pytest.mark.parametrize(
    "message",
    [
        {"rule": "it", "action": "arm"},
        {"token": "wrong", "rule": "it", "action": "arm"},
        {"token": None, "action": "status"},
        {"token": "\ud800", "rule": "it", "action": "arm"},
        {"token": TOKEN, "rule": "\ud800", "action": "arm"},
        {"token": TOKEN, "rule": "it", "action": "run", "more": [1]},
        [TOKEN],
        b"\xff\xfe",
        b"[" * 10_000,
        b"1" * 9000,
        b"{}",
    ],
)
def test_others_are_refused(control, ask, message):
    answer = ask(message)
    assert answer["ok"] is False
    assert answer["error"]
    assert control.take() == []
    assert ask({"token": TOKEN, "rule": "it", "action": "arm"}) == {"ok": True}, "it goes on"
    assert (control.accepted, control.refused) == (1, 1)


def test_control_is_for_this_machine_unless_encrypted():
    for address, reason in (("tcp://0.0.0.0:5600", "CURVE"), ("tcp://127.0.0.1:5600?type=sub", "rep or pull")):
        with pytest.raises(InputError, match=reason):
            ControlServer(address, TOKEN, check=lambda _: "", describe=list)
    with pytest.raises(InputError, match="at least 8"):
        ControlServer("tcp://127.0.0.1:5600", "short", check=lambda _: "", describe=list)
