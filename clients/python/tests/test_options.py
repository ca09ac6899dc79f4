"""Options and URLs of coordinators."""

from __future__ import annotations

import pytest
import tooz
from oslo_utils import netutils
from tooz import coordination

from tooz_althing import options


def _hosts(url):
    return [str(host) for host in options.hosts(netutils.urlsplit(url))]


def test_urls_name_sockets_and_ports():
    assert _hosts("althing:///run/a%20b.sock") == ["unix:/run/a b.sock"]
    assert _hosts("althing://127.0.0.1:4001") == ["http://127.0.0.1:4001"]
    assert _hosts("althing+https://h1:1,h2:2") == ["https://h1:1", "https://h2:2"]
    assert _hosts("althing://")[0].startswith("unix:/")


@pytest.mark.parametrize("url", ["althing://h", "althing://u:p@h:1", "althing+https://", "althing://h:x"])
def test_urls_that_name_no_host_are_errors_of_tooz(url):
    with pytest.raises(tooz.ToozError):
        coordination.get_coordinator(url, b"m")


def test_an_option_nobody_knows_is_refused_with_a_suggestion():
    for given, meant in (("timout", "timeout"), ("membership_timeout", "ttl"), ("ssl_ca_certs", "ca_cert")):
        with pytest.raises(tooz.ToozError, match=f"Did you mean {meant}"):
            coordination.get_coordinator(f"althing:///a.sock?{given}=1", b"m")


@pytest.mark.parametrize("query", ["timeout=soon", "timeout=-1", "keepalive=maybe", "level=L9", "cert=a", "executor=x"])
def test_an_option_that_says_nothing_is_refused(query):
    with pytest.raises(tooz.ToozError):
        coordination.get_coordinator(f"althing:///a.sock?{query}", b"m")


def test_timeout_is_the_lease_and_bounds_a_request():
    read = options.read({"timeout": ["3", "4"]})
    assert (read.lease, read.deadline) == (4.0, 4.0)
    read = options.read({"timeout": ["60"], "ttl": 5, "request_timeout": ["0.5"]})
    assert (read.lease, read.deadline) == (5.0, 0.5)
    assert (options.read({}).lease, options.read({}).deadline) == (30.0, 10.0)


def test_arguments_prevail_over_the_url():
    coordinator = coordination.get_coordinator("althing:///a.sock?timeout=3", b"m", timeout=7)
    assert coordinator.options.lease == 7
