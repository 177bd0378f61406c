"""What Publisher and Pull nodes of Bonsai.ZeroMQ do.

bonsai_workflow.py DFF FRAMES_PORT RESULTS_PORT OUT TOPIC INDEX: publishes [TOPIC, bytes], each part a ZeroMQ frame (the
topic only if there is one, an int64 index before the values if INDEX is 1), and collects what comes back as
[topic, index, bytes].
"""

import struct
import sys

import numpy as np
import zmq

dff, frames_port, results_port, out, topic, index = (np.load(sys.argv[1]), *sys.argv[2:])
context = zmq.Context()
publisher, pull = context.socket(zmq.XPUB), context.socket(zmq.PULL)
publisher.sndhwm = pull.rcvhwm = 0
pull.bind(f"tcp://127.0.0.1:{results_port}")
publisher.bind(f"tcp://127.0.0.1:{frames_port}")
wanted = {topic.encode(), b"end"}
while wanted:
    wanted.discard(publisher.recv()[1:])
for number, frame in enumerate(dff.T):
    parts = ([topic.encode()] if topic else []) + ([struct.pack("<q", number)] if index == "1" else [])
    publisher.send_multipart([*parts, struct.pack(f"<{frame.size}f", *frame)])
publisher.send_multipart([b"end", b""])
frames, values, topics, events = [], [], set(), []
while True:
    if not pull.poll(60_000):
        sys.exit("no results come")
    parts = pull.recv_multipart()
    if parts[0] == b"end":
        break
    topics.add(parts[0].decode())
    frames.append(struct.unpack("<q", parts[1])[0])
    values.append(struct.unpack(f"<{len(parts[2]) // 4}f", parts[2]))
np.savez(out, frame=frames, values=np.array(values).T, topics=sorted(topics))
publisher.close(1000)
pull.close(0)
context.term()
