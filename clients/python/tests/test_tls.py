"""TLS: the host's name and its authority are checked, and a certificate of our own is shown."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading

import pytest
from tooz import coordination

import althing

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates by openssl")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")

    def make(name, *options):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "2", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem", *options],
            check=True, capture_output=True,
        )  # fmt: skip

    make("server", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    make("client", "-subj", "/CN=client")
    return folder


@pytest.fixture
def front(host, certificates):
    """Ends TLS before the port of a host, and asks for a client's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.load_verify_locations(certificates / "client.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for sock in (source, sink):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def serve():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            try:
                tls = context.wrap_socket(sock, server_side=True)
            except OSError:
                continue
            onward = socket.create_connection(("127.0.0.1", host.port))
            for ends in ((tls, onward), (onward, tls)):
                threading.Thread(target=pump, args=ends, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def test_a_coordinator_works_over_tls(front, host, certificates, name):
    url = f"althing+https://localhost:{front}?ca_cert={certificates}/server.pem"
    url += f"&cert={certificates}/client.pem&key={certificates}/client.key&token_file={host.token_file}"
    one, two = (coordination.get_coordinator(url, member, timeout=2) for member in (b"one", b"two"))
    one.start(start_heart=True)
    two.start(start_heart=True)
    lock = one.get_lock(name)
    assert lock.acquire() and not two.get_lock(name).acquire(0.2)
    assert two.get_lock(name).break_() and not lock.acquired, "the events come over TLS too"
    one.stop()
    two.stop()


def test_an_authority_nobody_named_and_another_name_are_refused(front, certificates):
    shown = {"cert": f"{certificates}/client.pem", "key": f"{certificates}/client.key"}
    with pytest.raises(althing.Unavailable, match="certificate verify failed"):
        althing.Client(f"https://localhost:{front}", **shown).host()
    client = althing.Client(f"https://127.0.0.2:{front}", ca_cert=f"{certificates}/server.pem", **shown)
    with pytest.raises(althing.Unavailable):
        client.host()


def test_files_that_are_no_certificates_are_told(front):
    with pytest.raises(althing.Invalid, match="no TLS with /nowhere"):
        althing.Client(f"https://localhost:{front}", ca_cert="/nowhere").host()
