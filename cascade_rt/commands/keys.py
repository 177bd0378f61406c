"""``cascade-rt keys``: CURVE keys for connections beyond this machine."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from cascade_rt.errors import InputError, OutputExistsError

from ._common import add_json, print_json

#: Name of the pair of the side that lets others in, and of the folder with the public keys that it accepts.
SERVER, ACCEPTED = "server", "clients"

_DESCRIPTION = """\
Makes the keys with which two computers talk without anybody else listening or joining in: a pair for the side
that lets others in (server: usually the computer of `run`) and one for each that may connect. Call it again
with another --name for each further client. Secret keys (*.key_secret) are readable by you alone."""


def add_parser(subparsers: Any) -> None:
    """Add the command ``keys``."""
    parser = subparsers.add_parser(
        "keys",
        help="make the keys for encrypted connections to other computers",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the keys are kept; made if it is not there")
    parser.add_argument("--name", default="client", help="name of the client that gets a pair (default: client)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Make the keys and say how to use them."""
    folder = args.folder
    made = make_keys(folder, args.name)
    server = f"curve_key={folder / (SERVER + '.key_secret')}&curve_clients={folder / ACCEPTED}"
    client = f"curve_key={args.name}.key_secret&curve_server_key={SERVER}.key"
    if args.json:
        print_json({"made": made, "server_options": server, "client_options": client})
        return 0
    print("made: " + ", ".join(str(path) for path in made))
    print("\non the computer that lets others in (it may bind or connect):")
    print(f'  cascade-rt run … --source "tcp://0.0.0.0:5555?type=pull&bind=true&{server}" \\')
    print(f'                   --sink "tcp://0.0.0.0:5556?{server}"')
    print(f"\non the other computer, with copies of {args.name}.key_secret and {SERVER}.key:")
    print(f'  cascade-rt replay … --sink "tcp://HOST:5555?type=push&bind=false&{client}"')
    print(f"\n{SERVER}.key_secret stays where it is. Who may connect is decided by the files in {folder / ACCEPTED}:")
    print("delete one to shut its owner out, from the next start of the run on.")
    return 0


def make_keys(folder: Path, name: str) -> list[Path]:
    """Make a pair for a client, and one for the server if there is none.

    Parameters
    ----------
    folder : Path
    name : str
        Letters, digits, ``-`` and ``_``.

    Returns
    -------
    list of Path
        The files that were written.

    Raises
    ------
    InputError, OutputExistsError
        Keys that exist are never replaced: those who have the old ones would be shut out.
    """
    import zmq

    if not zmq.has("curve"):
        raise InputError("this build of ZeroMQ has no CURVE encryption: install pyzmq from PyPI (pip install pyzmq)")
    if name == SERVER or not name or not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise InputError(f"--name {name!r}: expected letters, digits, - and _, and not {SERVER!r}")
    if not (folder / f"{SERVER}.key").exists() and (folder / f"{SERVER}.key_secret").exists():
        raise InputError(f"{folder}: {SERVER}.key is missing beside its secret key: put it back, or use a new folder")
    taken = [path for path in (folder / f"{name}.key", folder / f"{name}.key_secret") if path.exists()]
    if taken:
        raise OutputExistsError(f"{taken[0]} exists; choose another --name, or delete it to make a new pair")
    (folder / ACCEPTED).mkdir(parents=True, exist_ok=True)
    made = []
    if not (folder / f"{SERVER}.key_secret").exists():
        made += _make_pair(folder, SERVER)
    made += _make_pair(folder, name)
    accepted = folder / ACCEPTED / f"{name}.key"
    shutil.copyfile(folder / f"{name}.key", accepted)
    return [*made, accepted]


def _make_pair(folder: Path, name: str) -> list[Path]:
    from zmq.auth import create_certificates

    # Made in a folder that nobody else can look into, so that the secret is never readable by others.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".keys-") as work:
        public, secret = (Path(path) for path in create_certificates(work, name))
        secret.chmod(0o600)
        return [path.replace(folder / path.name) for path in (public, secret)]
