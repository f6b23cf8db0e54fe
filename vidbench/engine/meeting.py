"""Where nodes and ranks find each other: the meeting point, each attempt's number and store."""

import os
import socket
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

JOIN = 900  # seconds in which all nodes must have come
ATTEMPT = "VIDBENCH_ATTEMPT"  # of a rank's environment
_STORES: dict[str, dist.TCPStore] = {}


def point(endpoint: str) -> str:
    """This machine's address on the way to the endpoint, since names of machines may resolve
    elsewhere.

    Where the endpoint is an address of this machine, the store in which the nodes meet is opened
    there. It stays open as long as this process: with one for each launch a fast node would meet
    the others in the one about to close. Raises ValueError where the endpoint is no host:port."""
    host, _, port = endpoint.rpartition(":")
    try:
        family, _, _, _, place = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, socket.SOCK_DGRAM) as way:
            way.connect(place)  # sends nothing
            address = way.getsockname()[0]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"endpoint wants host:port of a node that all can reach; got {endpoint!r}: {error}"
        ) from None
    with socket.socket(family, socket.SOCK_DGRAM) as ours, suppress(OSError, RuntimeError):
        ours.bind((place[0], 0, *place[2:]))  # OSError: another machine's
        if (
            endpoint not in _STORES
        ):  # RuntimeError: it is open in another process, two "nodes" being on one machine
            _STORES[endpoint] = dist.TCPStore(
                place[0], place[1], is_master=True, multi_tenant=True, wait_for_workers=False
            )
    return address


def attempt() -> int:
    """Which start of the ranks this is, in a rank: 0, and one more after each restart; the same on
    all nodes."""
    return int(os.environ.get(ATTEMPT, "0"))


def store() -> dist.Store:
    """A rank's connection to the launcher's store, for this attempt.

    The launcher keeps its store over restarts (torch 2.13), and gloo would call addresses of the
    attempt before."""
    facts = os.environ
    whole = dist.TCPStore(
        facts["MASTER_ADDR"],
        int(facts["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=JOIN),
    )
    return dist.PrefixStore(f"attempt-{attempt()}", whole)


def interface(address: str) -> str:
    """The network interface with that address, nothing where there is none."""
    import psutil

    found = (
        name
        for name, places in psutil.net_if_addrs().items()
        for place in places
        if place.address == address
    )
    return next(found, "")


def backend() -> str:
    """The name of torch's c10d rendezvous in which the nodes also agree on the number of each
    attempt.

    torch's own TORCHELASTIC_RESTART_COUNT counts the failures of this node's ranks: where only the
    others' failed, a node restarts with them, but counts none."""
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry

    rendezvous_handler_registry.register("vidbench", _rendezvous)
    return "vidbench"


def _rendezvous(asked):
    """RendezvousParameters -> RendezvousHandler that leaves ATTEMPT in the environment, which the
    ranks inherit."""
    from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

    c10d, shared = create_backend(asked)
    handler = create_handler(shared, c10d, asked)
    meet, number = handler.next_rendezvous, -1

    def next_rendezvous():
        nonlocal number
        met = meet()  # its store is of this meeting alone
        met.store.set(f"attempt-{met.rank}", str(number + 1))
        number = max(
            int(met.store.get(f"attempt-{node}")) for node in range(met.world_size)
        )  # a node may be new
        os.environ[ATTEMPT] = str(number)
        return met

    handler.next_rendezvous, handler.get_backend = next_rendezvous, lambda: asked.backend
    return handler
