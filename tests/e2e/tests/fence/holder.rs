//! A process that holds a lock and writes without looking whether it still does.

use std::io::stdin;
use std::time::Duration;

use althing_client::{Client, Membership};
use althing_core::info::LockAsk;
use serde_json::{Value, json};

use crate::resource::connect;

/// What the process is told through its environment: its name, and where the resource is.
pub(crate) const NAME: &str = "ALTHING_TEST_HOLDER";
pub(crate) const RESOURCE: &str = "ALTHING_TEST_RESOURCE";

const TTL: Duration = Duration::from_millis(700);

/// Locks, looks once whether it holds, and then writes its name once for each line that it reads.
pub(crate) async fn hold(name: &str) {
    let variable = |name| std::env::var(name).unwrap();
    let mut resource = connect(&variable(RESOURCE)).await;
    let client = Client::new(variable("ALTHING_SERVER").parse().unwrap());
    let membership = Membership::open(client, Some(TTL)).await.unwrap();
    let ask = LockAsk { names: vec!["jobs".into()], ..LockAsk::default() };
    let lock = membership.lock(&ask).await.unwrap().unwrap().remove(0);
    assert!(lock.is_held());
    say(&json!({"event": "holds", "token": lock.token()}));
    // Here the test stops the process. Its renewals stand still with it.
    while stdin().read_line(&mut String::new()).unwrap() > 0 {
        let told = resource.write(name, lock.token()).await;
        resource.write_open(name).await;
        let seen = told.err().map(|stale| stale.seen);
        say(&json!({"event": "wrote", "refused_for": seen, "is_held": lock.is_held()}));
    }
}

#[expect(clippy::print_stdout, reason = "the test reads it")]
fn say(event: &Value) {
    println!("{event}");
}
