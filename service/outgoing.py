"""Calls to addresses that callers name: only to public ones, decided by what the name resolves to at that moment."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from socket import SOCK_STREAM, gaierror, getaddrinfo
from typing import Any
from urllib.parse import urlsplit

import httpcore

from service.errors import Invalid

Network = IPv4Network | IPv6Network
SECONDS = 10.0
#: of an answer, as much as is read
ANSWER_BYTES = 4096
#: how a call can fail
FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, httpcore.UnsupportedProtocol)


class Forbidden(httpcore.ConnectError):
    """The name resolves to an address that is not called."""


def check_url(url: str, networks: Sequence[Network], *, param: str) -> None:
    """Raises Invalid unless the URL is https, names a host, and carries no credentials; http is for own networks."""
    schemes = ("https", "http") if networks else ("https",)
    try:
        parts = urlsplit(url)
        sound = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0 and url.isascii()
    except ValueError:
        sound = False
    if not sound or parts.username is not None or any(c.isspace() for c in url):
        raise Invalid(f"{param}: an https URL without credentials is required", param=param)


@dataclass(frozen=True)
class Outgoing:
    """Posts to callers' URLs. No proxy, no redirect, and the connection goes to the very address that was checked."""

    networks: Sequence[Network] = ()  #: of the operator's own, allowed beside public addresses
    trust: ssl.SSLContext = field(default_factory=httpcore.default_ssl_context)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """The answer's status. Raises httpcore's errors: Forbidden, ConnectError, timeouts and the rest."""
        backend = _Checked(self.networks, public=urlsplit(url).scheme == "https")
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), SECONDS)
        with (
            httpcore.ConnectionPool(ssl_context=self.trust, network_backend=backend) as pool,
            pool.stream(
                "POST", url, headers=list(headers.items()), content=body, extensions={"timeout": timeouts}
            ) as answer,
        ):
            read = 0
            for chunk in answer.iter_stream():
                read += len(chunk)
                if read > ANSWER_BYTES:
                    break
            return int(answer.status)


class _Checked(httpcore.SyncBackend):
    """Resolves by itself, refuses if any address is forbidden, connects to the first of them."""

    def __init__(self, networks: Sequence[Network], *, public: bool) -> None:
        self._networks, self._public = networks, public

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = [str(info[4][0]) for info in getaddrinfo(host, port, type=SOCK_STREAM)]
        except (gaierror, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved") from error
        if not found or not all(self._allows(address) for address in found):
            raise Forbidden(f"{host} is not a public address")
        return super().connect_tcp(found[0], port, timeout, local_address, socket_options)

    def _allows(self, address: str) -> bool:
        return is_in(address, self._networks) or (self._public and is_public(address))


def is_in(text: str, networks: Sequence[Network]) -> bool:
    """Whether an address lies in one of the networks."""
    inner = _inside(ip_address(text.partition("%")[0]))
    return any(inner in network for network in networks)


def is_public(text: str) -> bool:
    """Whether an address is one of the public internet; where it maps or tunnels IPv4, the one inside counts."""
    reached = _inside(ip_address(text.partition("%")[0]))
    return reached.is_global and not reached.is_multicast and not reached.is_reserved


def _inside(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address):
        return address
    if address in IPv6Network("64:ff9b::/96"):  # NAT64
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
