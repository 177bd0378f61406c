"""The plugins ZMQ Interface and Network Events of the Open Ephys GUI, as their sources and pages describe them.

openephys_gui.py DFF PORT LOG: sends the recording as the data stream "imaging", one channel per message. Buffers of 1
to 5 samples; channels in any order; events and spikes in between. Samples 50 to 59 are lost; so is channel 3 in the
buffer at 80. What comes to the REP sockets (PORT + 1: ZMQ Interface, PORT + 2: Network Events) is logged, a line each.
Ends when told "quit" there.
"""

import json
import sys
from pathlib import Path

import numpy as np
import zmq

dff, port, log = np.load(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
context = zmq.Context()
data, listen, network = context.socket(zmq.XPUB), context.socket(zmq.REP), context.socket(zmq.REP)
data.sndhwm = 0
data.bind(f"tcp://127.0.0.1:{port}")
listen.bind(f"tcp://127.0.0.1:{port + 1}")
network.bind(f"tcp://127.0.0.1:{port + 2}")
number = 0
quitting = False


def send(envelope, kind, content, payload):
    global number
    number += 1
    header = {"message_num": number, "type": kind, "content": content, "data_size": len(payload)}
    data.send_multipart([envelope + b"\0", json.dumps(header).encode(), payload])


def answer(timeout_ms):
    """Reply as the plugins do; True if a heartbeat came."""
    global quitting
    if network.poll(0):
        with log.open("ab") as file:
            file.write(network.recv() + b"\n")
        network.send(b"TTLHandled")
    if not listen.poll(timeout_ms):
        return False
    request = listen.recv()
    if request == b"quit":
        quitting = True
        listen.send(b"")
        return False
    with log.open("ab") as file:
        file.write(request + b"\n")
    kind = json.loads(request)["type"]
    listen.send(b"message correctly parsed" if kind == "event" else b"heartbeat received")
    return kind == "heartbeat"


rng = np.random.default_rng(1)
subscribed = heartbeat = False
while not (subscribed and heartbeat):
    heartbeat = answer(20) or heartbeat
    if data.poll(0):
        subscribed = data.recv() == b"\1"
n_channels, n_samples = dff.shape
first = 0
while first < n_samples:
    n = 10 if first == 50 else int(min(rng.integers(1, 6), n_samples - first))
    if first < 50 < first + n:
        n = 50 - first
    if first < 80 < first + n:
        n = 80 - first
    for channel in rng.permutation(n_channels):
        if first == 50 or (first == 80 and channel == 3):
            continue
        content = {
            "stream": "imaging", "channel_num": int(channel), "num_samples": n, "sample_num": first,
            "sample_rate": 30.0,
        }  # fmt: skip
        send(b"DATA", "data", content, dff[channel, first : first + n].astype("<f4").tobytes())
    if rng.random() < 0.3:
        content = {"stream": "imaging", "source_node": 100, "type": 3, "sample_num": first}
        send(b"EVENT", "event", content, b"\1\1" + (1).to_bytes(8, "little"))
        data.send_multipart(
            [b"SPIKE\0", json.dumps({"message_num": number, "type": "spike", "spike": {}}).encode(), b""]
        )
    first += n
    answer(0)
while not quitting:
    answer(50)
for socket in (data, listen, network):
    socket.close(1000)
context.term()
