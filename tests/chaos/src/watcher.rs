//! Who watches a group on a host, and whoever asks that host for something meanwhile.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use althing_client::Client;
use althing_core::info::Event;
use althing_core::{Clock, Principal, Requirement, Result, SystemClock};
use althing_runtime::Runtime;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::history::{Ask, Recorder, What};

/// The pause before a stream that broke is opened again, and between two requests.
const PAUSE: Duration = Duration::from_millis(50);

/// Writes down all that is told of `group`, in one stream after the other, and keeps `members` as the ids that are in.
pub(crate) async fn watch(
    client: Client,
    group: String,
    folder: PathBuf,
    name: String,
    members: watch::Sender<BTreeSet<String>>,
) {
    let mut streams = 0;
    loop {
        if let Ok(mut events) = client.group_events(&group).await {
            // Every stream is a subscriber of its own: nothing is promised from one to the next.
            let recorder = Recorder::new(&folder, &format!("watch-{name}-{streams}"));
            streams += 1;
            while let Ok(Some(event)) = events.next().await {
                follow(&members, &event);
                recorder.note(What::Watched { group: group.clone(), event });
            }
        }
        SystemClock.sleep(PAUSE).await;
    }
}

fn follow(members: &watch::Sender<BTreeSet<String>>, event: &Event) {
    members.send_modify(|members| match event {
        Event::Snapshot { group } => {
            *members = group.members.iter().map(|member| member.id.clone()).collect()
        }
        Event::Joined { member, .. } => drop(members.insert(member.id.clone())),
        Event::Left { id, .. } => drop(members.remove(id)),
        _ => {}
    });
}

/// Where groups can be made and deleted.
pub(crate) trait Groups: Send + Sync + 'static {
    fn create<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>>;
    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>>;
}

impl Groups for Client {
    fn create<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.create_group(name, &Requirement::NONE))
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.delete_group(name))
    }
}

impl Groups for Runtime {
    fn create<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.create_group(&Principal::Embedder, name, &Requirement::NONE))
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.delete_group(&Principal::Embedder, name))
    }
}

/// Creates groups of new names for ever, and deletes most of them again.
pub(crate) async fn ask(groups: impl Groups, folder: PathBuf, name: String) {
    let recorder = Recorder::new(&folder, &format!("load-{name}"));
    for number in 0u64.. {
        let group = format!("{name}-{number}");
        let made = recorder.operation(Ask::Create(group.clone()), groups.create(&group)).await;
        if made.is_ok() && number % 4 != 0 {
            // What comes of it is written down, and judged from there.
            let _ = recorder.operation(Ask::Delete(group.clone()), groups.delete(&group)).await;
        }
        SystemClock.sleep(PAUSE).await;
    }
}
