"""Where frames come from and where results go: addresses, and the sources and sinks made from them.

An endpoint is written as a ZeroMQ address with options, or as the path of a file::

    tcp://127.0.0.1:5555                        a source: SUB, connect; a sink: PUB, bind
    tcp://127.0.0.1:5555?type=pull&bind=true
    results/session1.npz

or as a bridge to another program, with options of its own (``docs/bridges``)::

    bonsai://127.0.0.1:5557?neurons=500         source and sink (:mod:`.bonsai`)
    openephys://127.0.0.1:5556?channels=16      source; as a sink it takes the events of a run (:mod:`.openephys`)
    lsl:NAME                                    source and sink (:mod:`.lsl`)
    tail:PATH?neurons=500&dtype=f4              source: a file that grows (:mod:`.tailing`)

=====================  ==========================================================================================
option                 meaning
=====================  ==========================================================================================
``type``               ``sub`` or ``pull`` for a source, ``pub`` or ``push`` for a sink
``bind``               ``true`` or ``false`` (connect)
``hwm``                messages that ZeroMQ holds in memory, per peer (default 1000)
``overrun``            when one side is too slow: ``drop`` (and count) or ``wait``. Default: ``drop`` for sub and
                       pub, ``wait`` for pull; a push sink waits where nothing may be lost (file or pull source)
``curve_key``          file with our own secret CURVE key (as ``zmq.auth.create_certificates`` makes it)
``curve_server_key``   file with the public key of the other side: we are the CURVE client
``curve_clients``      folder with the public keys of those who may connect: we are the CURVE server
``key``                files: name of the array to read
=====================  ==========================================================================================
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cascade_rt.errors import InputError

from .options import Options, port_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from cascade_rt.ports import Sink, Source

__all__ = ["FileEndpoint", "ZmqEndpoint", "open_sink", "open_source", "parse_endpoint"]

#: Bridges to other programs; each has a module, which says what its options are.
BRIDGES = ("bonsai", "lsl", "openephys", "tail")

Role = Literal["source", "sink", "control"]
SocketType = Literal["sub", "pull", "pub", "push", "rep"]

#: What files can be read and written, by suffix.
FILE_SUFFIXES = (".npy", ".npz", ".mat")
#: Results that grow as one file.
PORTABLE_SUFFIXES = (".h5", ".hdf5")

_TYPES: dict[str, tuple[SocketType, SocketType]] = {
    "source": ("sub", "pull"),
    "sink": ("pub", "push"),
    "control": ("rep", "pull"),
}
ZMQ_OPTIONS = ("type", "bind", "hwm", "overrun", "curve_key", "curve_server_key", "curve_clients")


@dataclass(frozen=True, kw_only=True)
class ZmqEndpoint:
    """A ZeroMQ address and how to use it.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT``; port ``*`` lets the system choose (bind only).
    host : str
    socket_type : "sub", "pull", "pub", "push" or "rep"
    bind : bool
        Bind, or connect.
    hwm : int
        Messages held in memory per peer.
    overrun : "drop", "wait" or ""
        Empty: not chosen.
    curve_key, curve_server_key, curve_clients : Path or None
        See the table of the module.
    """

    address: str
    host: str
    socket_type: SocketType
    bind: bool
    hwm: int = 1000
    overrun: Literal["drop", "wait", ""] = ""
    curve_key: Path | None = None
    curve_server_key: Path | None = None
    curve_clients: Path | None = None

    @property
    def is_loopback(self) -> bool:
        """True if only programs on this machine can be at the other end."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_encrypted(self) -> bool:
        return self.curve_key is not None

    def check_safe(self, *, insecure: bool) -> None:
        """Raise InputError if data would travel openly through a network and nobody has said that it may."""
        if self.is_loopback or self.is_encrypted or insecure:
            return
        raise InputError(
            f"{self.address} is not an address of this machine alone (127.0.0.1): anybody in that network could read "
            "or send data. Give CURVE keys (?curve_key=…), or allow it knowingly with --insecure (insecure=True)"
        )


@dataclass(frozen=True, kw_only=True)
class FileEndpoint:
    """A recording to read or a result to write.

    Parameters
    ----------
    path : Path
    key : str or None
        Name of the array in the file.
    """

    path: Path
    key: str | None = None


def parse_endpoint(text: str, role: Role = "source") -> ZmqEndpoint | FileEndpoint:
    """Read what stands on the command line after ``--source`` or ``--sink``.

    Parameters
    ----------
    text : str
    role : "source", "sink" or "control"

    Raises
    ------
    InputError
        Naming what is wrong with the address, option or suffix.
    """
    scheme = bridge_scheme(text)
    if scheme:
        raise InputError(f"{role} {text!r}: {scheme}: is not possible here, only tcp://HOST:PORT or a file")
    if "://" in text:
        return _parse_zmq(text, role)
    path_text, _, query = text.partition("?")
    options = Options(text, query, ("key",) if role == "source" else ())
    path = Path(path_text)
    suffixes = FILE_SUFFIXES if role == "source" else (*FILE_SUFFIXES, *PORTABLE_SUFFIXES)
    if not path_text or (path.suffix.lower() not in suffixes and not (role == "source" and path.is_dir())):
        raise InputError(
            f"{role} {text!r}: expected an address such as tcp://127.0.0.1:5555, or a file that ends in "
            f"{', '.join(suffixes)}"
        )
    return FileEndpoint(path=path, key=options.text_of("key") if "key" in options else None)


def _parse_zmq(text: str, role: Role) -> ZmqEndpoint:
    address, _, query = text.partition("?")
    scheme, _, rest = address.partition("://")
    host, colon, port = rest.rpartition(":")
    if scheme != "tcp" or not colon or not host:
        raise InputError(f"{role} {text!r}: expected tcp://HOST:PORT, optionally with ?type=…&bind=…")
    return zmq_endpoint(text, host, port, Options(text, query, ZMQ_OPTIONS), role)


def bridge_scheme(text: str) -> str:
    """Return how a bridge to another program begins (``lsl`` of ``lsl:NAME``), or "" for an address or a path."""
    scheme = text.partition(":")[0]
    return scheme if scheme in BRIDGES and ":" in text else ""


def zmq_endpoint(text: str, host: str, port: str, options: Options, role: Role) -> ZmqEndpoint:
    """Make the endpoint of a ZeroMQ socket from its address and options.

    Raises
    ------
    InputError
    """
    default, other = _TYPES[role]
    socket_type = options.text_of("type", default)
    if socket_type not in (default, other):
        raise InputError(f"{role} {text!r}: type={socket_type}: expected {default} or {other}")
    bind = options.boolean("bind", default=role != "source")
    overrun = options.text_of("overrun")
    if overrun not in ("", "drop", "wait") or (overrun == "wait" and socket_type in ("sub", "pub")):
        raise InputError(
            f"{role} {text!r}: overrun={overrun}: expected drop or wait; PUB/SUB never waits, only PUSH/PULL can"
        )
    if bind and port in ("*", "0"):
        port = "*"
    else:
        port_number(text, port)
    endpoint = ZmqEndpoint(
        address=f"tcp://{host}:{port}",
        host="0.0.0.0" if host == "*" else host.removeprefix("[").removesuffix("]"),
        socket_type=socket_type,
        bind=bind,
        hwm=options.positive("hwm") or 1000,
        overrun=overrun,  # type: ignore[arg-type]
        curve_key=options.path("curve_key"),
        curve_server_key=options.path("curve_server_key"),
        curve_clients=options.path("curve_clients"),
    )
    _check_curve(text, endpoint)
    return endpoint


def _check_curve(text: str, endpoint: ZmqEndpoint) -> None:
    client, server = endpoint.curve_server_key is not None, endpoint.curve_clients is not None
    if client and server:
        raise InputError(f"{text!r}: curve_server_key (we are the client) and curve_clients (we are the server)")
    if endpoint.curve_key is None and (client or server):
        raise InputError(f"{text!r}: CURVE needs curve_key=FILE, our own secret key, as well")
    if endpoint.curve_key is not None and not (client or server):
        raise InputError(
            f"{text!r}: curve_key alone does not say who is on the other side: add curve_server_key=FILE (its public "
            "key) or curve_clients=FOLDER (public keys of those who may connect)"
        )


def open_source(
    text: str,
    *,
    frame_rate_hz: float | None = None,
    raw_neurons: int | None = None,
    insecure: bool = False,
    chunk_frames: int = 32,
) -> Source:
    """Make the source that ``text`` describes; nothing is connected or read before its ``open``.

    Parameters
    ----------
    text : str
        An address or a path.
    frame_rate_hz : float, optional
        Frame rate to assume where the source does not tell it (Hz).
    raw_neurons : int, optional
        Read the plain mode with this many neurons.
    insecure : bool
        Allow an open connection to another machine.
    chunk_frames : int
        Frames that a file is read in.
    """
    scheme = bridge_scheme(text)
    if scheme:
        if raw_neurons is not None:
            raise InputError(f"source {text!r}: the plain mode (raw) is for tcp:// alone")
        return _bridge_source(scheme, text, insecure=insecure)
    endpoint = parse_endpoint(text, "source")
    if isinstance(endpoint, FileEndpoint):
        if raw_neurons is not None:
            raise InputError(f"source {text!r}: the plain mode (raw) is for sockets, not for files")
        from .files import FileSource

        return FileSource(endpoint.path, key=endpoint.key, frame_rate_hz=frame_rate_hz, chunk_frames=chunk_frames)
    from .zeromq import ZmqSource

    endpoint.check_safe(insecure=insecure)
    return ZmqSource(endpoint, raw_neurons=raw_neurons)


def open_sink(text: str, *, insecure: bool = False, overwrite: bool = False, lossless: bool = False) -> Sink:
    """Make the sink that ``text`` describes; nothing is bound or written before its ``open``.

    Parameters
    ----------
    text : str
        An address or a path.
    insecure : bool
        Allow an open connection to another machine.
    overwrite : bool
        Replace a file that exists.
    lossless : bool
        The source can wait, so a PUSH sink waits for its receiver instead of dropping results.
    """
    scheme = bridge_scheme(text)
    if scheme:
        return _bridge_sink(scheme, text, insecure=insecure, lossless=lossless)
    endpoint = parse_endpoint(text, "sink")
    if isinstance(endpoint, FileEndpoint):
        from .files import FileSink, PortableSink

        if endpoint.path.suffix.lower() in PORTABLE_SUFFIXES:
            return PortableSink(endpoint.path, overwrite=overwrite)
        return FileSink(endpoint.path, overwrite=overwrite)
    from .zeromq import ZmqSink

    endpoint.check_safe(insecure=insecure)
    return ZmqSink(endpoint, wait=endpoint.overrun == "wait" or (lossless and endpoint.overrun == ""))


def _bridge_source(scheme: str, text: str, *, insecure: bool) -> Source:
    from . import bonsai, lsl, openephys, tailing

    makers: dict[str, Callable[..., Source]] = {
        "bonsai": bonsai.source_from,
        "lsl": lsl.source_from,
        "openephys": openephys.source_from,
        "tail": tailing.source_from,
    }
    return makers[scheme](text, insecure=insecure)


def _bridge_sink(scheme: str, text: str, *, insecure: bool, lossless: bool) -> Sink:
    from . import bonsai, lsl, openephys

    if scheme == "bonsai":
        return bonsai.sink_from(text, insecure=insecure, lossless=lossless)
    if scheme == "lsl":
        return lsl.sink_from(text, insecure=insecure)
    if scheme == "openephys":
        return openephys.sink_from(text, insecure=insecure)
    raise InputError(f"sink {text!r}: {scheme}: can only be read; results go into a file, or to a socket")
