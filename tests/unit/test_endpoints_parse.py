"""What may stand after --source and --sink."""

from __future__ import annotations

from pathlib import Path

import pytest

from cascade_rt.endpoints import FileEndpoint, ZmqEndpoint, open_sink, open_source, parse_endpoint
from cascade_rt.endpoints.files import FileSink, FileSource
from cascade_rt.endpoints.zeromq import ZmqSink, ZmqSource
from cascade_rt.errors import InputError


def test_defaults():
    source = parse_endpoint("tcp://127.0.0.1:5555")
    sink = parse_endpoint("tcp://127.0.0.1:5555", "sink")
    assert isinstance(source, ZmqEndpoint)
    assert isinstance(sink, ZmqEndpoint)
    assert (source.socket_type, source.bind, source.hwm) == ("sub", False, 1000)
    assert (sink.socket_type, sink.bind) == ("pub", True)
    assert source.address == "tcp://127.0.0.1:5555"


def test_options():
    source = parse_endpoint("tcp://*:5555?type=pull&bind=TRUE&hwm=7&overrun=drop")
    assert isinstance(source, ZmqEndpoint)
    assert (source.socket_type, source.bind, source.hwm, source.overrun) == ("pull", True, 7, "drop")
    assert source.host == "0.0.0.0"


@pytest.mark.parametrize(
    ("text", "address"), [("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"), ("tcp://[::1]:0", "tcp://[::1]:*")]
)
def test_a_port_may_be_left_to_the_system(text, address):
    assert parse_endpoint(text, "sink").address == address


@pytest.mark.parametrize(
    ("text", "role", "message"),
    [
        ("tcp://127.0.0.1", "source", "HOST:PORT"),
        ("tcp://:5555", "source", "HOST:PORT"),
        ("udp://127.0.0.1:5", "source", "tcp://HOST:PORT"),
        ("tcp://127.0.0.1:99999", "source", "1 to 65535"),
        ("tcp://127.0.0.1:x", "source", "1 to 65535"),
        ("tcp://127.0.0.1:*", "source", "1 to 65535"),
        ("tcp://127.0.0.1:5?type=pub", "source", "expected sub or pull"),
        ("tcp://127.0.0.1:5?type=pull", "sink", "expected pub or push"),
        ("tcp://127.0.0.1:5?bind=1", "sink", "true or false"),
        ("tcp://127.0.0.1:5?hwm=0", "sink", "positive"),
        ("tcp://127.0.0.1:5?hwm=-3", "sink", "positive"),
        ("tcp://127.0.0.1:5?overrun=block", "sink", "drop or wait"),
        ("tcp://127.0.0.1:5?overrun=wait", "sink", "PUB/SUB never waits"),
        ("tcp://127.0.0.1:5?tpye=pull", "source", "unknown option 'tpye'"),
        ("tcp://127.0.0.1:5?type=pull&type=sub", "source", "twice"),
        ("tcp://127.0.0.1:5?pull", "source", "name=value"),
        ("tcp://127.0.0.1:5?curve_server_key=a", "source", "curve_key=FILE"),
        ("tcp://127.0.0.1:5?curve_key=a", "source", "who is on the other side"),
        ("tcp://127.0.0.1:5?curve_key=a&curve_server_key=b&curve_clients=c", "source", "client"),
        ("results", "sink", ".npy, .npz, .mat"),
        ("results.csv", "sink", ".npy, .npz, .mat"),
        ("", "source", ".npy, .npz, .mat"),
        ("a.npz?key=x", "sink", "unknown option 'key'"),
        ("a.npz?name=x", "source", "known are key"),
    ],
)
def test_mistakes_are_named(text, role, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        parse_endpoint(text, role)


def test_files_are_known_by_their_suffix(tmp_path):
    assert parse_endpoint("a/b.NPY") == FileEndpoint(path=Path("a/b.NPY"))
    assert parse_endpoint("a.mat?key=F", "source") == FileEndpoint(path=Path("a.mat"), key="F")
    assert parse_endpoint(str(tmp_path)) == FileEndpoint(path=tmp_path)
    with pytest.raises(InputError):
        parse_endpoint(str(tmp_path), "sink")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"])
def test_this_machine_is_safe(host):
    parse_endpoint(f"tcp://{host}:5").check_safe(insecure=False)


@pytest.mark.parametrize("host", ["*", "0.0.0.0", "192.168.1.4", "example.org", "[::]", "eth0"])
def test_other_machines_need_keys_or_consent(host):
    with pytest.raises(InputError, match="--insecure"):
        parse_endpoint(f"tcp://{host}:5", "sink").check_safe(insecure=False)
    parse_endpoint(f"tcp://{host}:5", "sink").check_safe(insecure=True)
    parse_endpoint(f"tcp://{host}:5?curve_key=a&curve_clients=b", "sink").check_safe(insecure=False)
    for open_any in (open_source, open_sink):
        with pytest.raises(InputError, match="--insecure"):
            open_any(f"tcp://{host}:5")


def test_sources_and_sinks_are_made_from_text():
    assert isinstance(open_source("a.npy"), FileSource)
    assert isinstance(open_source("tcp://127.0.0.1:5"), ZmqSource)
    assert isinstance(open_sink("a.npy"), FileSink)
    assert isinstance(open_sink("tcp://127.0.0.1:5"), ZmqSink)
    with pytest.raises(InputError, match="plain mode"):
        open_source("a.npy", raw_neurons=5)
    with pytest.raises(InputError, match="at least 1"):
        open_source("tcp://127.0.0.1:5", raw_neurons=0)


@pytest.mark.parametrize(
    ("text", "lossless"),
    [("tcp://127.0.0.1:5", False), ("tcp://127.0.0.1:5?type=pull", True),
     ("tcp://127.0.0.1:5?type=pull&overrun=drop", False), ("a.npy", True)],
)  # fmt: skip
def test_who_waits(text, lossless):
    assert open_source(text).lossless is lossless
