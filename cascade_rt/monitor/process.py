"""The process that serves the page of a run: fed by a socket, asked for by a pipe, gone when the run is.

Its standard input brings one line of JSON, what to do, and then nothing more until it ends, which is the sign to stop.
Its standard output brings lines of JSON: where the page is, or what went wrong, then whatever pages ask the run for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

import zmq

from cascade_rt.errors import CascadeError

from .collector import Collector
from .feed import take
from .server import MonitorServer

__all__ = ["main", "new_key_pair"]

log = logging.getLogger(__name__)

#: Messages that are held for the collector.
WAITING = 256


def main() -> int:
    """Serve until standard input ends."""
    for name in ("SIGINT", "SIGBREAK"):  # Ctrl-C is the run's affair, which ends us when it is done
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "nice"):
        with suppress(OSError):
            os.nice(5)  # inference comes first
    options = json.loads(sys.stdin.readline())
    try:
        asyncio.run(_serve(options))
    except CascadeError as error:
        _say({"error": str(error)})
        return 1
    return 0


async def _serve(options: dict[str, Any]) -> None:
    public, secret = new_key_pair()
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    collector = Collector()
    server = MonitorServer(
        collector,
        host=options["host"],
        port=options["port"],
        token=options["token"],
        protect=options["protect"],
        control=_say_control if options["control"] else None,
    )
    stopped = threading.Event()
    feeding = threading.Thread(target=_feed, args=(socket, collector, stopped), name="monitor-feed")
    try:
        socket.rcvhwm = WAITING
        socket.linger = 0
        if secret:
            socket.curve_secretkey, socket.curve_publickey, socket.curve_server = secret, public, True
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        await server.start()
        feeding.start()
        _say({"url": server.url, "feed": f"tcp://127.0.0.1:{port}", "key": public.decode("ascii")})
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await asyncio.sleep(0.2)  # what the run said last is on its way
        await server.stop()
    finally:
        stopped.set()
        if feeding.is_alive():
            feeding.join()
        socket.close()
        context.term()


def _feed(socket: zmq.Socket[bytes], collector: Collector, stopped: threading.Event) -> None:
    while not stopped.is_set():
        if socket.poll(100):
            take(socket.recv_multipart(), collector)


def new_key_pair() -> tuple[bytes, bytes]:
    """Public and secret key of a connection; empty where ZeroMQ has no encryption."""
    return zmq.curve_keypair() if zmq.has("curve") else (b"", b"")


def _say_control(message: dict[str, Any]) -> None:
    _say({"control": message})


def _say(message: dict[str, Any]) -> None:
    with suppress(OSError):  # the run has gone, and so do we
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
