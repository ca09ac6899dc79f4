//! Groups, members and client sessions on one and two hosts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use althing_core::info::{Event, JoinAsk, SessionAsk, SessionEvent};
use althing_core::{Cause, Kind, Principal, Requirement, Revision, Secret, limits};
use althing_runtime::SessionKey;
use althing_sim::{Stage, eventually, led_by, next_event, next_told, told_elected};
use althing_test_servers::Backend;

althing_sim::suite! {
    Backend::ALL => [
        groups_are_made_once_and_deleted_only_when_empty,
        a_live_id_is_refused_and_a_resume_key_supersedes_it,
        a_join_needs_its_group_unless_it_may_create_it,
        a_session_ends_with_its_lease_its_connection_or_its_word,
        a_renewal_grants_no_more_than_the_host_has_and_lists_what_is_held,
        a_session_is_its_owners,
        a_host_that_stops_leaves_nothing_behind,
        a_group_that_requires_more_than_its_backend_promises_is_refused,
    ],
}

fn named(id: &str) -> JoinAsk {
    JoinAsk { id: id.into(), ..JoinAsk::default() }
}

async fn groups_are_made_once_and_deleted_only_when_empty(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let (first, second) = (&fleet.hosts[0].runtime, &fleet.hosts[1].runtime);
    let me = Principal::Embedder;
    for name in ["web", "", "a/b%", "\u{1F980}"] {
        first.create_group(&me, name, &Requirement::NONE).await.unwrap();
        assert_eq!(
            second.create_group(&me, name, &Requirement::NONE).await.unwrap_err().kind(),
            Kind::Exists,
            "{name:?}"
        );
    }
    let long = "x".repeat(limits::NAME_BYTES_MAX + 1);
    assert_eq!(first.create_group(&me, &long, &Requirement::NONE).await.unwrap_err().kind(), Kind::TooLarge);
    let client = fleet.hosts[1].session();
    eventually("the group is seen", || second.group("web").is_ok()).await;
    client.join("web", "a", 1).await;
    assert_eq!(first.delete_group(&me, "web").await.unwrap_err().kind(), Kind::Conflict);
    client.join("web", "b", 1).await;
    client.end().await;
    let mut events = first.watch_group("web").unwrap();
    first.delete_group(&me, "web").await.unwrap();
    next_event(&mut events, |event| matches!(event, Event::Deleted { .. }).then_some(())).await;
    assert_eq!(events.next().await, None, "the stream ends with the group");
    assert_eq!(first.delete_group(&me, "web").await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(first.groups().unwrap().len(), 3);
}

async fn a_live_id_is_refused_and_a_resume_key_supersedes_it(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let (first, second) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    let joined = first.join("web", "a", 1).await;
    let refused = second.runtime.join(&second.key, "web", named("a")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Exists);
    assert!(refused.advice().unwrap().contains("resume"), "{refused}");
    let mut events = fleet.hosts[0].runtime.watch_group("web").unwrap();
    let resumed = JoinAsk { resume: Some(joined.resume), ..named("a") };
    let again = second.runtime.join(&second.key, "web", resumed).await.unwrap();
    assert_ne!(again.member.incarnation, joined.member.incarnation);
    let left = next_event(&mut events, |event| match event {
        Event::Left { incarnation, .. } => Some(incarnation.clone()),
        _ => None,
    });
    assert_eq!(left.await, joined.member.incarnation, "a new stay is a leave and a join, never merged");
    led_by(&second.runtime, "web", "a").await;
    first.leave("web", "a").await;
    assert_eq!(second.runtime.group("web").unwrap().members.len(), 1, "the old stay cannot end the new one");
}

async fn a_join_needs_its_group_unless_it_may_create_it(stage: Stage) {
    let fleet = stage.fleet(1).await;
    let client = fleet.hosts[0].session();
    let none = client.runtime.join(&client.key, "web", named("a")).await.unwrap_err();
    assert_eq!(none.kind(), Kind::NotFound);
    let ask = JoinAsk { create: true, ..named("a") };
    let joined = client.runtime.join(&client.key, "web", ask).await.unwrap();
    assert_eq!(client.runtime.group("web").unwrap().members, [joined.member]);
    let metadata = (0..=limits::METADATA_ENTRIES_MAX).map(|n| (n.to_string(), String::new())).collect();
    let large = JoinAsk { metadata, ..named("b") };
    assert_eq!(client.runtime.join(&client.key, "web", large).await.unwrap_err().kind(), Kind::TooLarge);
}

async fn a_session_ends_with_its_lease_its_connection_or_its_word(stage: Stage) {
    let fleet = stage.fleet(1).await;
    fleet.create("web").await;
    let host = &fleet.hosts[0];
    let brief = SessionAsk { ttl_ms: Some(500), ..SessionAsk::default() };
    let bound = SessionAsk { ttl_ms: Some(600_000), drop_on_disconnect: true };
    let clients = [
        ("unrenewed", host.session_with(brief, true)),
        ("disconnected", host.session_with(bound, true)),
        ("ended", host.session()),
    ];
    let mut events = host.runtime.watch_group("web").unwrap();
    for (id, client) in &clients {
        client.join("web", id, 1).await;
    }
    clients[2].1.end().await;
    drop(clients[1].1.events());
    for id in ["ended", "disconnected", "unrenewed"] {
        let left = next_event(&mut events, |event| match event {
            Event::Left { id, cause: Cause::Deleted, .. } => Some(id.clone()),
            _ => None,
        });
        assert_eq!(left.await, id);
    }
    for (_, client) in &clients {
        let gone = client.runtime.renew_session(&client.key).unwrap_err();
        assert_eq!(gone.kind(), Kind::SessionLost);
        client.runtime.end_session(&client.key).await.unwrap();
    }
    assert_eq!((host.runtime.host().sessions, host.runtime.host().members), (0, 0));
}

async fn a_renewal_grants_no_more_than_the_host_has_and_lists_what_is_held(stage: Stage) {
    let fleet = stage.fleet(1).await;
    fleet.create("web").await;
    let client = fleet.hosts[0].session();
    let mut told = client.events();
    client.join("web", "a", 1).await;
    let hold = told_elected(&mut told).await;
    let renewal = client.runtime.renew_session(&client.key).unwrap();
    assert_eq!(renewal.holds, std::slice::from_ref(&hold));
    assert!(renewal.remaining_ms <= stage.lease.as_secs_f64() * 1000.0, "{renewal:?}");
    assert!(client.runtime.holds("web", hold.term) && !client.runtime.holds("web", Revision(1)));
    client.leave("web", "a").await;
    assert!(!client.runtime.holds("web", hold.term));
}

async fn a_session_is_its_owners(stage: Stage) {
    let fleet = stage.fleet(1).await;
    fleet.create("web").await;
    let client = fleet.hosts[0].session();
    let thief = SessionKey { id: client.key.id.clone(), secret: Secret::new("guess") };
    let runtime = &client.runtime;
    assert_eq!(runtime.renew_session(&thief).unwrap_err().kind(), Kind::Denied);
    assert_eq!(runtime.end_session(&thief).await.unwrap_err().kind(), Kind::Denied);
    assert_eq!(runtime.join(&thief, "web", named("a")).await.unwrap_err().kind(), Kind::Denied);
    assert_eq!(runtime.session_events(&thief).unwrap_err().kind(), Kind::Denied);
    let brief = SessionAsk { ttl_ms: Some(1), ..SessionAsk::default() };
    let refused = runtime.open_session(&Principal::Embedder, brief, true).unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid);
}

async fn a_host_that_stops_leaves_nothing_behind(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let client = fleet.hosts[0].session();
    let mut told = client.events();
    client.join("web", "a", 1).await;
    led_by(&fleet.hosts[1].runtime, "web", "a").await;
    fleet.hosts[1].session().join("web", "b", 1).await;
    fleet.hosts[0].runtime.stop().await;
    next_told(&mut told, |event| matches!(event, SessionEvent::Ended { .. }).then_some(())).await;
    led_by(&fleet.hosts[1].runtime, "web", "b").await;
    assert_eq!(fleet.hosts[1].runtime.group("web").unwrap().members.len(), 1);
    fleet.hosts[0].runtime.stop().await;
}

async fn a_group_that_requires_more_than_its_backend_promises_is_refused(stage: Stage) {
    let fleet = stage.fleet(1).await;
    let (runtime, client) = (&fleet.hosts[0].runtime, fleet.hosts[0].session());
    let capability = runtime.capability();
    let require = capability.promises();
    runtime.create_group(&Principal::Embedder, "fits", &require).await.unwrap();
    client.join("fits", "a", 1).await;
    assert_eq!(runtime.group("fits").unwrap().require, require);

    let all =
        "L2,linearizable-reads,across-hosts,pushed-watch,token-survives-restart,token-survives-failover";
    let all: Vec<Requirement> = all.split(',').map(|word| word.parse().unwrap()).collect();
    for require in all.into_iter().filter(|require| capability.check("look", require).is_err()) {
        let refused = runtime.create_group(&Principal::Embedder, "more", &require).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported, "{require}");
        let ask = JoinAsk { create: true, require, ..named("b") };
        for group in ["more", "fits"] {
            let refused = runtime.join(&client.key, group, ask.clone()).await.unwrap_err();
            assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
        }
    }
    assert!(runtime.group("more").is_err());
    assert_eq!(runtime.group("fits").unwrap().members.len(), 1);
}
