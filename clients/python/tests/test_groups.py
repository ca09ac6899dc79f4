"""Groups, members and leaders of the native client, on a host."""

from __future__ import annotations

import threading
import time

import pytest

import althing

from conftest import eventually


def test_a_join_makes_the_group_in_one_request(session, client, name, monkeypatch):
    asked = []
    exchange = althing.client.Wire.exchange

    def note(wire, ask, **how):
        asked.append(ask.path)
        return exchange(wire, ask, **how)

    monkeypatch.setattr(althing.client.Wire, "exchange", note)
    session.join(name, "a", create=True, metadata={"zone": "x"}, capabilities={"raw": b"\xff", "n": [1]})
    assert asked == [f"/v1/groups/{name}/members"]
    member = client.member(name, "a")
    assert (member.metadata, member.capabilities, member.candidate) == ({"zone": "x"}, {"raw": b"\xff", "n": [1]}, True)
    assert [other.id for other in client.members(name)] == ["a"]


def test_missing_and_taken_names_are_told_by_kind(session, other, client, name):
    for act in (lambda: session.join(name, "a"), lambda: client.members(name), lambda: client.leader(name)):
        with pytest.raises(althing.NotFound):
            act()
    client.create_group(name)
    with pytest.raises(althing.Exists):
        client.create_group(name)
    session.join(name, "a")
    with pytest.raises(althing.Exists):
        other.join(name, "a")
    with pytest.raises(althing.Conflict):
        client.delete_group(name)
    with pytest.raises(althing.NotFound):
        client.member(name, "b")
    session.leave(name, "a")
    client.delete_group(name)


def test_the_oldest_candidate_leads_and_observers_never_do(session, other, client, name):
    observer = session.join(name, "watcher", create=True, candidate=False)
    time.sleep(0.1)
    assert client.leader(name) is None and not observer.is_leader()
    first, second = session.join(name, "first"), other.join(name, "second")
    eventually(first.is_leader)
    assert client.leader(name).member == "first" and client.leader(name).term == first.term
    term = first.term
    first.leave()
    assert not first.is_leader()
    eventually(second.is_leader)
    assert second.term > term


def test_a_member_changes_what_it_says_and_keeps_its_seniority(session, client, name):
    member = session.join(name, "a", create=True, capabilities={"weight": 1})
    before = client.member(name, "a")
    member.update(capabilities={"weight": 2}, metadata={"k": "v"})
    after = client.member(name, "a")
    assert (after.capabilities, after.metadata) == ({"weight": 2}, {"k": "v"})
    assert (after.incarnation, after.since) == (before.incarnation, before.since) and after.updated > before.updated


def test_a_leader_that_stands_no_more_resigns(session, other, name):
    first, second = session.join(name, "a", create=True), other.join(name, "b")
    eventually(first.is_leader)
    first.update(candidate=False)
    assert not first.is_leader()
    eventually(second.is_leader)


def test_a_leader_is_told_to_stop_and_the_next_one_named(session, other, client, name):
    told = []
    session.on_event(told.append)
    first, second = session.join(name, "a", create=True), other.join(name, "b")
    eventually(first.is_leader)
    assert client.stand_down(name, successor="b") == "stopped"
    assert not first.is_leader()
    eventually(second.is_leader)
    eventually(lambda: any(isinstance(event, althing.Lost) for event in told))


def test_an_evicted_member_is_told_and_stays_out(session, other, client, name):
    told = []
    session.on_event(told.append)
    leader = session.join(name, "a", create=True)
    eventually(leader.is_leader)
    assert client.evict(name, "a") == "evicted"
    assert not leader.is_leader() and client.members(name) == []
    eventually(lambda: any(isinstance(event, althing.Removed) for event in told))
    assert session.stay(name, "a") is None
    with pytest.raises(althing.NotFound):
        client.evict(name, "a")


def test_what_happens_in_a_group_is_followed(session, client, name):
    client.create_group(name)
    seen = []
    with client.watch(name) as events:
        thread = threading.Thread(target=lambda: seen.extend(event["event"] for event in events))
        thread.start()
        eventually(lambda: seen == ["snapshot"])
        member = session.join(name, "a", candidate=False)
        member.update(capabilities=5)
        member.leave()
        client.delete_group(name)
        thread.join(5)
    assert seen == ["snapshot", "joined", "updated", "left", "deleted"]


def test_an_ephemeral_group_goes_with_its_last_member(session, client, name):
    session.join(name, "a", create=True, ephemeral=True)
    assert client.group(name).ephemeral
    session.leave(name, "a")
    eventually(lambda: name not in [group.name for group in client.groups()])


def test_a_session_opened_anew_takes_the_place_of_the_former(client, name):
    former = client.session(ttl=60, renew=False)
    former.join(name, "a", create=True, capabilities={"n": 1})
    former.join(name, "b")
    before = client.member(name, "a")
    with former.reopen() as session:
        after = client.member(name, "a")
        assert after.incarnation != before.incarnation and after.capabilities == {"n": 1}
        assert sorted(session.stays()) == [(name, "a"), (name, "b")]
    former.close()
    assert client.members(name) == []


def test_names_of_every_sort_come_back(session, client, name):
    odd = name + "/ü?#%.. \\"
    session.join(odd, "member/ö", create=True)
    assert [member.id for member in client.members(odd)] == ["member/ö"]
    assert client.group(odd).name == odd and odd in [group.name for group in client.groups()]
    session.leave(odd, "member/ö")
    client.delete_group(odd)
