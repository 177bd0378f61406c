"""The steps of docs/examples/scanimage_send.m, byte by byte, over a plain TCP socket: zmtp_push.py DFF PORT."""

import json
import socket
import sys

import numpy as np

dff, port = np.load(sys.argv[1]), int(sys.argv[2])
with socket.create_connection(("127.0.0.1", port), timeout=60) as tcp:
    tcp.sendall(bytes([255, 0, 0, 0, 0, 0, 0, 0, 1, 127, 3, 0]) + b"NULL" + bytes(48))
    reader = tcp.makefile("rb")
    reader.read(64)
    body = bytes([5]) + b"READY" + bytes([11]) + b"Socket-Type" + bytes([0, 0, 0, 4]) + b"PUSH"
    tcp.sendall(bytes([4, len(body)]) + body)
    reader.read(reader.read(2)[1])

    def send(parts):
        message = b""
        for k, part in enumerate(parts):
            more = k < len(parts) - 1
            short = len(part) < 256
            head = bytes([more, len(part)]) if short else bytes([2 + more]) + len(part).to_bytes(8, "big")
            message += head + part
        tcp.sendall(message)

    for index, frame in enumerate(dff.T):
        header = {"v": 1, "stream": "scanimage", "frame": index, "shape": [frame.size, 1], "dtype": "<f4", "rate": 30}
        send([b"dff", json.dumps(header).encode(), frame.astype("<f4").tobytes()])
    send([b"end", json.dumps({"v": 1, "stream": "scanimage", "frame": dff.shape[1]}).encode(), b""])
