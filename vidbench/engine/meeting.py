"""Where nodes and ranks find each other: the meeting point, each attempt's number and store."""

import hmac
import ipaddress
import os
import socket
import tempfile
from contextlib import ExitStack, suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

JOIN = 900  # seconds in which all nodes must have come
ATTEMPT = "VIDBENCH_ATTEMPT"  # of a rank's environment
STORE = (
    "VIDBENCH_STORE"  # of a rank's environment: the file through which the ranks of one node meet
)
SECRET = "VIDBENCH_SECRET"
TRUSTED = "VIDBENCH_TRUSTED_NETWORK"
_STORES: dict[str, dist.TCPStore] = {}


def point(endpoint: str) -> str:
    """Return this machine's address on the way to the endpoint, and open the nodes' store.

    The address is not taken from the machine's name, which may resolve to another one. The store in
    which the nodes meet opens if the endpoint is an address of this machine. It stays open as long
    as this process: with one for each launch a fast node would meet the others in the one about to
    close.

    Raises:
        ValueError: The endpoint is no host:port, is public without TRUSTED, or cannot be reached;
            or SECRET is missing or short.
    """
    _, where = place(endpoint)
    if len(os.environ.get(SECRET, "")) < 16:
        raise ValueError(
            f"{SECRET} must be the same random text of at least 16 characters on all nodes. Make "
            "one with `openssl rand -hex 32`."
        )
    address = way(endpoint)
    # another machine's address; or open in another process, if two "nodes" share a machine
    with suppress(OSError):
        if endpoint not in _STORES:
            _STORES[endpoint] = listen(*where[:2])
    return address


def way(endpoint: str) -> str:
    """Return this machine's address on the way to the endpoint.

    Raises:
        ValueError: The endpoint is no host:port, is public without TRUSTED, or cannot be reached.
    """
    family, where = place(endpoint)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(where)  # sends nothing
            return probe.getsockname()[0]
    except OSError as error:
        raise ValueError(f"endpoint {endpoint} cannot be reached: {error}") from None


def place(endpoint: str) -> tuple[socket.AddressFamily, tuple]:
    """Resolve the endpoint to its address family and socket address.

    It must be private or trusted: stores admit everyone, and ranks do not encrypt.

    Raises:
        ValueError: It is no host:port, does not resolve, resolves to an address that other nodes
            cannot reach, or is public without TRUSTED.
    """
    host, _, port = endpoint.rpartition(":")
    host = host.strip("[]")
    wrong = f"endpoint must be host:port of a node that all can reach; got {endpoint!r}"
    try:
        family, _, _, _, where = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
    except (OSError, ValueError) as error:
        raise ValueError(f"{wrong}: {error}") from None
    found = ipaddress.ip_address(where[0])
    if found.is_unspecified or (found.is_loopback and host not in ("localhost", where[0])):
        raise ValueError(
            f"{wrong}, which is {found} on this machine. Use the address that the other nodes "
            "reach."
        )
    if not found.is_private and os.environ.get(TRUSTED, "0") in ("", "0"):
        raise ValueError(
            f"endpoint {endpoint} is the public address {found}, but the nodes exchange data "
            "unencrypted. Use an address of a private network. If only trusted users reach this "
            f"one, set {TRUSTED}=1 (--trusted-network)."
        )
    return family, where


def listen(host: str, port: int) -> dist.TCPStore:
    """Open a store that listens on one address; torch binds its own to all of them.

    Args:
        host: The address.
        port: 0 chooses a free one.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ours = socket.create_server((host, port), family=family)
    port = ours.getsockname()[1]
    return dist.TCPStore(
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=ours.detach()
    )


def attempt() -> int:
    """Return, in a rank, how often the ranks were restarted: 0 at first; equal on all nodes."""
    return int(os.environ.get(ATTEMPT, "0"))


def store() -> dist.Store:
    """Connect a rank to the store of this attempt.

    Several nodes share a launcher's store over restarts (torch 2.13): without a prefix gloo would
    call addresses of the attempt before. On one node each attempt has a file.
    """
    facts, join = os.environ, timedelta(seconds=JOIN)
    if facts[STORE]:
        file = dist.FileStore(facts[STORE])
        file.set_timeout(join)
        return file
    whole = dist.TCPStore(
        facts["MASTER_ADDR"], int(facts["MASTER_PORT"]), is_master=False, timeout=join
    )
    return dist.PrefixStore(f"attempt-{attempt()}", whole)


def bind(address: str) -> None:
    """Let gloo and NCCL listen on the address's interface only.

    By default they choose the interface by the machine's name. The user may choose another one, but
    not on one node.

    Args:
        address: This machine's; empty on one node, where they listen on loopback.
    """
    found = interface(address or "127.0.0.1")
    for variable, value in {"GLOO_SOCKET_IFNAME": found, "NCCL_SOCKET_IFNAME": f"={found}"}.items():
        if found and not (address and variable in os.environ):
            os.environ[variable] = value


def interface(address: str) -> str:
    """Return the network interface with that address, or an empty string."""
    import psutil

    found = (
        name
        for name, places in psutil.net_if_addrs().items()
        for place in places
        if place.address == address
    )
    return next(found, "")


def backend() -> str:
    """Register a rendezvous whose count of attempts all nodes share, and return its name.

    It is torch's c10d. torch's own TORCHELASTIC_RESTART_COUNT counts the failures of this node's
    ranks: if only ranks of other nodes fail, a node restarts with them, but counts none.
    """
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry

    rendezvous_handler_registry.register("vidbench", _rendezvous)
    return "vidbench"


def _rendezvous(parameters):
    """RendezvousParameters -> RendezvousHandler that sets ATTEMPT and STORE for the ranks."""
    handler = (_alone if parameters.max_nodes == 1 else _together)(parameters)
    meet, number = handler.next_rendezvous, -1

    def next_rendezvous():
        nonlocal number
        met = meet()  # its store is of this meeting alone
        met.store.set(f"attempt-{met.rank}", str(number + 1))
        # a node may be new
        number = max(int(met.store.get(f"attempt-{node}")) for node in range(met.world_size))
        os.environ[ATTEMPT] = str(number)
        return met

    handler.next_rendezvous, handler.get_backend = next_rendezvous, lambda: parameters.backend
    return handler


def _alone(parameters):
    """A handler for one node: nothing listens; the ranks' store is a file of this user alone."""
    from torch.distributed.elastic.rendezvous import RendezvousInfo, RendezvousStoreInfo
    from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

    places: ExitStack = parameters.get("places")

    def meet():
        # of mode 0700
        folder = places.enter_context(tempfile.TemporaryDirectory(prefix="vidbench-store-"))
        os.environ[STORE] = os.path.join(folder, "store")
        return RendezvousInfo(dist.HashStore(), 0, 1, RendezvousStoreInfo("127.0.0.1", 0))

    handler = StaticTCPRendezvous("127.0.0.1", 0, 0, 1, parameters.run_id, JOIN)
    handler.next_rendezvous = meet
    return handler


def _together(parameters):
    """torch's c10d handler, which listens on this node's address and reads signed states only."""
    from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

    os.environ[STORE] = ""
    c10d, shared = create_backend(parameters)
    handler = create_handler(shared, Signed(c10d, os.environ[SECRET]), parameters)
    handler._create_tcp_store_server = listen  # for the ranks
    return handler


class Signed:
    """A rendezvous backend whose states carry a signature.

    torch unpickles the state, and its store takes one from everyone who connects: without the
    secret no state is read."""

    def __init__(self, backend: Any, secret: str):
        self.backend, self.key, self.name = backend, secret.encode(), backend.name

    def get_state(self) -> tuple | None:
        """Return the state of the rendezvous; None if there is none yet.

        Raises:
            RendezvousStateError: its signature is wrong.
        """
        return self._checked(self.backend.get_state())

    def set_state(self, state: bytes, token: Any = None) -> tuple | None:
        """Sign and write the state of the rendezvous; return the state that the store then has.

        Args:
            token: Of torch's backend: the state is written only if it is still the newest one's.

        Raises:
            RendezvousStateError: the signature of the returned state is wrong.
        """
        return self._checked(self.backend.set_state(self._signature(state) + state, token))

    def _signature(self, state: bytes) -> bytes:
        return hmac.digest(self.key, state, "sha256")

    def _checked(self, found: tuple | None) -> tuple | None:
        from torch.distributed.elastic.rendezvous import RendezvousStateError

        if found is None:
            return None
        signature, state = found[0][:32], found[0][32:]
        if not hmac.compare_digest(signature, self._signature(state)):
            raise RendezvousStateError(
                f"a node has another {SECRET}, or a stranger wrote into the store."
            )
        return state, *found[1:]
