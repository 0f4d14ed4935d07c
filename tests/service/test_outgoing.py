"""What callers name is called only where it resolves to a public address, or to one the operator allows."""

import socket
import threading
from ipaddress import ip_network

import httpcore
import pytest

from service.errors import Invalid
from service.outgoing import Forbidden, Outgoing, check_url, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.1.2.3", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "192.0.2.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_that_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0", "2130706433", "0x7f.1", "127.1", "169.254.169.254"],
)
def test_no_spelling_of_an_inner_address_is_called(host):
    with pytest.raises(Forbidden):
        Outgoing().post(f"https://{host}:9/x", b"", {})


def test_a_name_with_one_inner_address_among_public_ones_is_not_called(monkeypatch):
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 9)) for address in ("1.1.1.1", "10.0.0.1")]
    monkeypatch.setattr("service.outgoing.getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(Forbidden):
        Outgoing().post("https://rebinding.example/x", b"", {})


def test_the_name_is_resolved_once_and_the_address_that_was_checked_is_the_one_called(monkeypatch):
    looked_up = []

    def resolve(host, *_, **__):
        looked_up.append(host)
        address = "127.0.0.1" if len(looked_up) == 1 else "10.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 9))]

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        threading.Thread(target=lambda: listening.accept()[0].sendall(b"HTTP/1.1 204 No\r\n\r\n"), daemon=True).start()
        monkeypatch.setattr("service.outgoing.getaddrinfo", resolve)
        own = Outgoing([ip_network("127.0.0.0/8")])
        assert own.post(f"http://hook.example:{listening.getsockname()[1]}/", b"{}", {}) == 204
    assert looked_up == ["hook.example"]


def test_without_encryption_only_the_operators_own_networks_are_called(monkeypatch):
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 80))]
    monkeypatch.setattr("service.outgoing.getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(Forbidden):
        Outgoing([ip_network("10.0.0.0/8")]).post("http://example.com/", b"", {})


def test_a_name_that_does_not_resolve_is_a_connection_error():
    with pytest.raises(httpcore.ConnectError):
        Outgoing().post("https://no-such-name.invalid/", b"", {})


def test_http_urls_are_for_those_who_have_networks_of_their_own():
    with pytest.raises(Invalid):
        check_url("http://10.0.0.1/", [], param="url")
    check_url("http://10.0.0.1/", [ip_network("10.0.0.0/8")], param="url")
