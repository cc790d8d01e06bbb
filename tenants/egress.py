"""Requests to addresses that customers named. They reach the public internet and nothing else.

What is checked is the address that is connected to: the name is looked up once, every address it has must be public, and the
connection goes to one of those, whatever the name means a moment later. No redirect is followed, no proxy of the environment is
used, and neither a slow nor a long answer costs more than its bound. Fails closed: what is not known to be public is refused.
"""

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

CONNECT_SECONDS = 5.0
WHOLE_SECONDS = 15.0
ANSWER_BYTES = 2000
ANSWER_CHARACTERS = 500
ADDRESSES_TRIED = 3
LONGEST_URL = 2000
PORTS = {"http": 80, "https": 443}
URL = re.compile(r"[\x21-\x7e]+")  # no spaces, no control characters: they end a header
PUBLIC_V6 = ipaddress.ip_network("2000::/3")
# Inside 2000::/3, and not simply somebody's host: tunnels to IPv4 (Teredo, 6to4), documentation, benchmarks, identifiers.
SPECIAL_V6 = [ipaddress.ip_network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
SPECIAL_V4 = [ipaddress.ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24")]  # protocols, 6to4 relays
Address = tuple[socket.AddressFamily, Any]


class NotAllowed(Exception):
    """The address is none that may be asked; the message says why."""


class Unreachable(Exception):
    """There was no answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes."""

    scheme: str
    host: str
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The first of what came back."""

    status: int
    text: str


def target(url: str) -> Target:
    """The parts of an address that may be asked as far as its text tells; raises NotAllowed."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise NotAllowed("This is no web address.") from None
    if len(url) > LONGEST_URL or not URL.fullmatch(url) or not host:
        raise NotAllowed("This is no web address.")
    if parts.scheme not in PORTS or (parts.scheme == "http" and not settings.WEBHOOK_ALLOW_PRIVATE):
        raise NotAllowed("The address must begin with https://.")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise NotAllowed("The address must not hold a user name, a password or a #fragment.")
    with suppress(ValueError):
        _check(str(ipaddress.ip_address(host)))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, PORTS[parts.scheme] if port is None else port, path)


def is_public(text: str) -> bool:
    """Whether the address is one host's on the public internet."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return address in PUBLIC_V6 and not any(address in network for network in SPECIAL_V6)
    is_somebodys = address.is_global and not address.is_multicast and not address.is_reserved
    return is_somebodys and not any(address in network for network in SPECIAL_V4)


def _check(text: str) -> None:
    if not settings.WEBHOOK_ALLOW_PRIVATE and not is_public(text):
        raise NotAllowed(f"{text} is not an address on the public internet.")


def addresses(wanted: Target) -> list[Address]:
    """Where the name leads, every address checked; raises NotAllowed when a single one is not public, and Unreachable."""
    try:
        found = socket.getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"The name {wanted.host} is not known: {error}") from None
    for _, _, _, _, address in found:
        _check(str(address[0]))
    return [(family, address) for family, _, _, _, address in found]


def post(*, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """The answer to this request, redirects included; raises NotAllowed or Unreachable. Ends in bounded time."""
    wanted = target(url)
    failure: Exception | None = None
    deadline = time.monotonic() + WHOLE_SECONDS
    for address in addresses(wanted)[:ADDRESSES_TRIED]:
        try:
            plain = _connected(address, min(CONNECT_SECONDS, deadline - time.monotonic()))
        except OSError as error:
            failure = error
            continue
        return _asked(wanted, plain, body, headers, deadline)
    raise Unreachable(_said(failure))


def _connected(address: Address, seconds: float) -> socket.socket:
    family, where = address
    plain = socket.socket(family, socket.SOCK_STREAM)
    try:
        plain.settimeout(max(seconds, 0.1))
        plain.connect(where)
        _check(str(plain.getpeername()[0]))
    except BaseException:
        plain.close()
        raise
    return plain


def _asked(
    wanted: Target, plain: socket.socket, body: bytes, headers: Mapping[str, str], deadline: float
) -> Answer:  # fmt: skip
    connection = http.client.HTTPConnection(wanted.host, wanted.port)  # with a socket of its own it connects nowhere
    if wanted.port == PORTS[wanted.scheme]:
        connection.port = http.client.HTTP_PORT  # the Host header names no usual port
    left = max(deadline - time.monotonic(), 0.1)
    plain.settimeout(left)
    watch = threading.Timer(left, _cut, [plain])  # an answer of a byte a second would never time out
    watch.daemon = True
    watch.start()
    try:
        connection.sock = _secured(wanted, plain)
        connection.request("POST", wanted.path, body, {**headers, "Connection": "close"})
        response = connection.getresponse()
        return Answer(response.status, _text(response.read(ANSWER_BYTES)))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable(_said(error)) from None
    finally:
        watch.cancel()
        connection.close()
        plain.close()


def _secured(wanted: Target, plain: socket.socket) -> socket.socket:
    """For https the certificate must be the name's, whatever the address is."""
    if wanted.scheme == "http":
        return plain
    return ssl.create_default_context().wrap_socket(plain, server_hostname=wanted.host)


def _cut(plain: socket.socket) -> None:
    with suppress(OSError):
        plain.shutdown(socket.SHUT_RDWR)


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace").replace("\x00", "")[:ANSWER_CHARACTERS]


def _said(error: Exception | None) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]
