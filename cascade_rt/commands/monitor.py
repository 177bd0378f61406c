"""``cascade-rt monitor``: the live page of a run that goes on elsewhere."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ._signals import stop_on_signals

_DESCRIPTION = """\
Shows a run in the browser. ADDRESS is where the run publishes its results, as after its --sink: this program
subscribes to it and serves the page on this machine. What a run does not publish (dF/F, noise levels, counters)
is not shown then; `cascade-rt run --monitor` shows everything. An ADDRESS that starts with http:// is the page of
such a run and is opened in the browser."""

_EPILOG = """\
examples:
  cascade-rt monitor tcp://127.0.0.1:5556
  cascade-rt monitor "tcp://192.168.0.7:5556?curve_key=me.key_secret&curve_server_key=rig.key"
  cascade-rt monitor http://127.0.0.1:8765/ """


def add_parser(subparsers: Any) -> None:
    """Add the command ``monitor``."""
    parser = subparsers.add_parser(
        "monitor",
        help="the live page of a run that goes on elsewhere",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("address", metavar="ADDRESS", help="where the run publishes: tcp://HOST:PORT?curve_key=…")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="where to serve the page")
    parser.add_argument("--monitor-protect", action="store_true", help="who looks needs the token that is printed")
    parser.add_argument(
        "--monitor-insecure", action="store_true", help="let everybody look who can reach --listen on this machine"
    )
    parser.add_argument("--insecure", action="store_true", help="allow an unencrypted connection to another machine")
    parser.add_argument("--no-browser", action="store_true", help="only print the address of the page")


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    import secrets
    import threading
    import webbrowser

    from cascade_rt.endpoints import FileEndpoint, parse_endpoint
    from cascade_rt.errors import InputError
    from cascade_rt.monitor.following import follow
    from cascade_rt.monitor.starting import check_readers, parse_address

    if args.address.startswith(("http://", "https://")):
        print(f"opening {args.address.partition('#')[0]}", file=sys.stderr)
        if not args.no_browser and not webbrowser.open(args.address):
            print("there is no browser here: open that address in one", file=sys.stderr)
            return 1
        return 0
    endpoint = parse_endpoint(args.address, "source")
    if isinstance(endpoint, FileEndpoint):
        raise InputError(f"{args.address}: expected where a run publishes, such as tcp://127.0.0.1:5556")
    endpoint.check_safe(insecure=args.insecure)
    host, port = parse_address(args.listen)
    check_readers(host, port, protect=args.monitor_protect, insecure=args.monitor_insecure)
    token = secrets.token_urlsafe(24) if args.monitor_protect else ""
    stopped = threading.Event()

    def started(url: str) -> None:
        whole = url + (f"#token={token}" if token else "")
        print(f"page of {endpoint.address}: {whole} (Ctrl-C ends)", flush=True)
        if not args.no_browser:
            webbrowser.open(whole)

    with stop_on_signals(stopped.set, announce=False):
        follow(
            endpoint, host=host, port=port, token=token, protect=args.monitor_protect, started=started, stopped=stopped
        )
    return 0
