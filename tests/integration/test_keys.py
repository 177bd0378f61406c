"""Who gets in: keys made by one command; without them nothing beyond this machine, and strangers get nothing."""

from __future__ import annotations

import json
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zmq
import zmq.auth
from live import Command, recording
from networks import write_conditioned

from cascade_rt import codec
from cascade_rt.chunks import FrameChunk
from cascade_rt.cli import main

pytestmark = pytest.mark.skipif(not zmq.has("curve"), reason="this build of ZeroMQ has no CURVE encryption")

PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    np.save(folder / "nu.npy", np.full(6, 2.0))
    return write_conditioned(folder / "small", lookaheads=(0, 2, 7))


@pytest.fixture
def keys(tmp_path):
    assert main(["keys", str(tmp_path / "keys")]) == 0
    zmq.auth.create_certificates(tmp_path, "stranger")
    return tmp_path / "keys"


def free_port():
    with zmq.Context() as context, context.socket(zmq.PULL) as probe:
        return probe.bind_to_random_port("tcp://127.0.0.1")


def client(context, kind, port, key=None, server=None):
    socket = context.socket(kind)
    socket.linger = 0
    if key is not None:
        socket.curve_publickey, socket.curve_secretkey = zmq.auth.load_certificate(key)
        socket.curve_serverkey = zmq.auth.load_certificate(server)[0]
    if kind == zmq.SUB:
        socket.subscribe(b"")
    socket.connect(f"tcp://127.0.0.1:{port}")
    return socket


def test_one_command_makes_the_keys_and_says_how_to_use_them(tmp_path, capsys):
    folder = tmp_path / "keys"
    assert main(["keys", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    expected = ["client.key", "client.key_secret", str(Path("clients", "client.key")), "server.key"]
    assert names == sorted([*expected, "server.key_secret"])
    assert zmq.auth.load_certificate(folder / "client.key")[1] is None
    assert zmq.auth.load_certificate(folder / "client.key_secret")[1] is not None
    if sys.platform != "win32":
        for name in ("client", "server"):
            assert stat.S_IMODE((folder / f"{name}.key_secret").stat().st_mode) == 0o600
    assert str(folder / "server.key_secret") in told["server_options"]
    assert "curve_server_key=server.key" in told["client_options"]
    before = (folder / "server.key_secret").read_bytes()
    assert main(["keys", str(folder), "--name", "page"]) == 0
    assert "page.key_secret" in capsys.readouterr().out
    assert (folder / "server.key_secret").read_bytes() == before
    assert {path.name for path in (folder / "clients").iterdir()} == {"client.key", "page.key"}


def test_keys_that_exist_are_kept(tmp_path, capsys):
    folder = str(tmp_path)
    assert main(["keys", folder]) == 0
    before = (tmp_path / "client.key_secret").read_bytes()
    assert main(["keys", folder]) == 1
    assert "client.key exists" in capsys.readouterr().err
    assert (tmp_path / "client.key_secret").read_bytes() == before
    for name in ("server", "", "a/b", "ä"):
        assert main(["keys", folder, "--name", name]) == 1
        assert "--name" in capsys.readouterr().err


def test_only_those_with_a_key_are_heard_and_hear_anything(bundle, keys, tmp_path):
    frames_port, results_port = free_port(), free_port()
    options = f"curve_key={keys / 'server.key_secret'}&curve_clients={keys / 'clients'}"
    dff = recording(n_frames=120)
    mine, server = keys / "client.key_secret", keys / "server.key"
    stranger = tmp_path / "stranger.key_secret"
    with zmq.Context() as context, Command(
        "run", "--model", bundle, "--source", f"tcp://127.0.0.1:{frames_port}?type=pull&bind=true&{options}",
        "--sink", f"tcp://127.0.0.1:{results_port}?{options}", "--noise-levels", bundle.parent / "nu.npy",
        "--view", "none", "--json", folder=tmp_path,
    ) as command:  # fmt: skip
        doors = {"nobody": (), "stranger": (stranger, server), "mine": (mine, server)}
        senders = {name: client(context, zmq.PUSH, frames_port, *how) for name, how in doors.items()}
        listeners = {name: client(context, zmq.SUB, results_port, *how) for name, how in doors.items()}
        try:
            foreign = FrameChunk(
                frames=np.ones((9, 1), np.float32), first_frame=0, stream="foreign", frame_rate_hz=30.0
            )
            for name in ("nobody", "stranger"):
                for _ in range(50):
                    senders[name].send_multipart(codec.encode_frames(foreign))
                    senders[name].send_multipart([b"end"])
            frame = 0
            while not listeners["mine"].poll(20):  # a subscription takes a moment to arrive
                chunk = FrameChunk(
                    frames=dff[:, frame % 120][:, None], first_frame=frame, stream="test", frame_rate_hz=30.0
                )
                senders["mine"].send_multipart(codec.encode_frames(chunk))
                frame += 1
                assert frame < 2000, "no results come"
            senders["mine"].send_multipart(codec.encode_end("test", frame))
            last = b""
            while last != codec.TOPIC_END:
                assert listeners["mine"].poll(PATIENCE_MS)
                last = listeners["mine"].recv_multipart()[0]
            summary = command.summary()
            assert summary["stream"] == "test"
            assert summary["frames"]["processed"] == frame
            assert summary["messages"]["rejected"] == {}
            for name in ("nobody", "stranger"):
                assert not listeners[name].poll(0), f"{name} heard something"
        finally:
            for socket in (*senders.values(), *listeners.values()):
                socket.close(0)


def test_control_beyond_this_machine_takes_key_and_token(bundle, keys, tmp_path, monkeypatch):
    monkeypatch.setenv("CASCADE_RT_CONTROL_TOKEN", "a long secret")
    (tmp_path / "rules.yaml").write_text("rules: {one: {neuron: 0, above: 0.5, armed: on_message}}", encoding="utf-8")
    frames_port, control_port = free_port(), free_port()
    options = f"curve_key={keys / 'server.key_secret'}&curve_clients={keys / 'clients'}"
    mine, server = keys / "client.key_secret", keys / "server.key"
    with zmq.Context() as context, Command(
        "run", "--model", bundle, "--source", f"tcp://127.0.0.1:{frames_port}?type=pull&bind=true",
        "--noise-levels", bundle.parent / "nu.npy", "--rules", "rules.yaml", "--view", "none", "--json",
        "--control", f"tcp://0.0.0.0:{control_port}?type=rep&{options}", folder=tmp_path,
    ) as command:  # fmt: skip
        sender = client(context, zmq.PUSH, frames_port)
        arm = {"token": "a long secret", "rule": "one", "action": "arm"}
        askers = {
            "nobody": client(context, zmq.REQ, control_port),
            "stranger": client(context, zmq.REQ, control_port, tmp_path / "stranger.key_secret", server),
            "mine": client(context, zmq.REQ, control_port, mine, server),
        }
        try:
            chunk = FrameChunk(frames=recording(n_frames=30), first_frame=0, stream="test", frame_rate_hz=30.0)
            sender.send_multipart(codec.encode_frames(chunk))
            for name in ("nobody", "stranger"):
                askers[name].send_json(arm)
            answers = []
            for message in ({**arm, "token": "a wrong secret"}, arm):
                askers["mine"].send_json(message)
                assert askers["mine"].poll(PATIENCE_MS)
                answers.append(askers["mine"].recv_json())
            assert answers == [{"ok": False, "error": "wrong token"}, {"ok": True}]
            for name in ("nobody", "stranger"):
                assert not askers[name].poll(0), f"{name} was answered"
            sender.send_multipart(codec.encode_end("test", 30))
            assert command.summary()["events"] == {"armed": 1}
        finally:
            for socket in (sender, *askers.values()):
                socket.close(0)


@pytest.mark.parametrize(
    "more",
    [
        ["--source", "tcp://0.0.0.0:{port}?bind=true"],
        ["--source", "tcp://*:{port}?type=pull&bind=true"],
        ["--source", "tcp://127.0.0.1:1", "--sink", "tcp://0.0.0.0:{port}"],
        ["--source", "tcp://127.0.0.1:1", "--sink", "tcp://[::]:{port}?type=push"],
    ],
)
def test_without_keys_nothing_beyond_this_machine_is_bound(bundle, tmp_path, more):
    arguments = [text.format(port=free_port()) for text in more]
    with Command("run", "--model", bundle, *arguments, "--view", "none", folder=tmp_path) as command:
        code, _ = command.wait()
    assert code == 1
    assert "--insecure" in command.stderr


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads what a process listens on from /proc")
def test_a_run_listens_on_this_machine_alone(bundle, tmp_path):
    with Command(
        "run", "--model", bundle, "--source", f"tcp://127.0.0.1:{free_port()}?type=pull&bind=true",
        "--sink", f"tcp://127.0.0.1:{free_port()}", "--noise-levels", bundle.parent / "nu.npy", "--view", "none",
        folder=tmp_path,
    ) as command:  # fmt: skip
        deadline = time.monotonic() + 60
        while len(listening(command.process.pid)) < 2:
            assert command.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert {address for address, _ in listening(command.process.pid)} == {"0100007F"}


def listening(pid):
    """Hexadecimal address and port of every TCP socket on which a process listens."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:  # closed meanwhile
            continue
        inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(tuple(fields[1].split(":")))
    return found
