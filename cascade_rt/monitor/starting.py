"""Starts the process that serves a run's page, and ends it."""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_rt.errors import CascadeError, InputError

from .feed import MonitorSink
from .http import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cascade_rt.runstats import RunStatistics

__all__ = ["DEFAULT_ADDRESS", "Monitor", "check_readers", "parse_address", "start_monitor"]

log = logging.getLogger(__name__)

DEFAULT_ADDRESS = "127.0.0.1:8765"
#: Time that the process gets to end by itself (s).
END_S = 5.0


class Monitor:
    """A page that shows a run.

    Parameters
    ----------
    sink : MonitorSink
        Give it to the runner.
    url : str
        Address to open; with the token where one is needed, behind ``#``, which browsers keep to themselves.
    process : subprocess.Popen
    control : callable or None
        Called, in a thread, with each message for the rules; says what is wrong with it, if anything is.
    """

    def __init__(
        self,
        sink: MonitorSink,
        url: str,
        process: subprocess.Popen[str],
        control: Callable[[dict[str, Any]], object] | None,
    ) -> None:
        self.sink = sink
        self.url = url
        self._process = process
        self._control = control
        self._listening = threading.Thread(target=self._listen, name="monitor-controls", daemon=True)
        self._listening.start()

    def watch(self, statistics: RunStatistics, rules: Callable[[], Sequence[Mapping[str, Any]]] | None = None) -> None:
        """Say which run to show.

        Parameters
        ----------
        statistics : RunStatistics
        rules : callable, optional
            Tells the state of the rules as ``TriggerHost.describe`` does: rule, what, armed, threshold, compare.
        """
        self.sink.statistics = statistics
        self.sink.rules = rules

    def close(self) -> None:
        """Let the pages know the end and stop serving them; may be called more than once."""
        self.sink.close()
        process = self._process
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._listening.join(END_S)
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if self._control is not None:
                message = dict(json.loads(line)["control"])
                problem = self._control(message)
                self.sink.control_problem = f"{message['rule']}: {problem}" if problem else ""
                if problem:
                    log.warning("the page asked for what cannot be done: %s", self.sink.control_problem)


def start_monitor(
    address: str = DEFAULT_ADDRESS,
    *,
    control: Callable[[dict[str, Any]], object] | None = None,
    protect: bool = False,
    insecure: bool = False,
    token: str | None = None,
) -> Monitor:
    """Start to serve a page.

    Parameters
    ----------
    address : str
        ``HOST:PORT``, ``:PORT`` or ``HOST``; port 0 lets the system choose.
    control : callable, optional
        Lets pages that have the token arm, disarm and change rules: called in a thread with plain dicts
        ``{"rule": name, "action": "arm" | "disarm" | "set"[, "threshold": value]}``, for example ``queue.put``.
        What it returns, unless empty, is shown as the reason why that cannot be done. None: pages only look.
    protect : bool
        Looking needs the token too.
    insecure : bool
        Everybody who can reach an address beyond this machine may look, without a token.
    token : str, optional
        At least 16 characters; made anew by default, where one is needed.

    Returns
    -------
    Monitor

    Raises
    ------
    InputError
        The address cannot be had, or is open to others without a word about who may look.
    """
    host, port = parse_address(address)
    check_readers(host, port, protect=protect, insecure=insecure)
    if token is not None and len(token) < 16:
        raise InputError("token: expected at least 16 characters")
    if token is None:
        token = secrets.token_urlsafe(24) if control is not None or protect else ""
    process = _spawn()
    assert process.stdin is not None
    assert process.stdout is not None
    options = {"host": host, "port": port, "token": token, "protect": protect, "control": control is not None}
    try:
        process.stdin.write(json.dumps(options) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError:
        line = ""
    answer = json.loads(line) if line else {"error": "the process that serves the page did not start"}
    if "error" in answer:
        process.stdin.close()
        process.wait()
        process.stdout.close()
        raise InputError(answer["error"]) if line else CascadeError(answer["error"])
    url = answer["url"] + (f"#token={token}" if token else "")
    return Monitor(MonitorSink(answer["feed"], answer["key"].encode(), name=answer["url"]), url, process, control)


def parse_address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``, where either may be left out."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, DEFAULT_ADDRESS.rpartition(":")[2]
    if not (port.isascii() and port.isdigit() and int(port) < 65536) or "/" in host:
        raise InputError(f"address {text!r}: expected HOST:PORT such as {DEFAULT_ADDRESS}")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def check_readers(host: str, port: int, *, protect: bool, insecure: bool) -> None:
    """Raise InputError if strangers could look at a page and nobody has said that they may."""
    if not (is_loopback(host) or protect or insecure):
        raise InputError(
            f"the page at {host}:{port} could be read by anybody in that network: ask for its token "
            "(--monitor-protect, protect=True), or allow it knowingly (--monitor-insecure, insecure=True)"
        )


def _spawn() -> subprocess.Popen[str]:
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "cascade_rt.monitor.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
