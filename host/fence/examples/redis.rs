//! A state in Redis that only the holder of a lock may change.
//!
//! `cargo run --package althing-fence --example redis -- redis://127.0.0.1:6379 orders paid 42` writes `paid` by token 42;
//! after that, a lower token is refused. Below `althing lock orders -- …` the token is in `$ALTHING_LOCK_TOKEN`.
#![allow(clippy::print_stdout, reason = "an example speaks to whoever runs it")]

use althing_core::Revision;
use althing_fence::Stale;
use althing_fence::redis::{SCRIPT, stale};
use redis::aio::MultiplexedConnection;
use redis::{Client, RedisError, Script};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [url, name, state, token] = arguments.as_slice() else {
        return Err("usage: redis URL NAME STATE TOKEN".into());
    };
    let mut connection = open(url).await?;
    match write(&mut connection, name, state, token.parse()?).await? {
        Ok(()) => println!("{name} is {state}"),
        Err(stale) => return Err(stale.to_string().into()),
    }
    Ok(())
}

/// Connects.
pub(crate) async fn open(url: &str) -> Outcome<MultiplexedConnection> {
    Ok(Client::open(url)?.get_multiplexed_async_connection().await?)
}

/// Writes a state, or is refused. Of another error nobody knows whether it was written; sending it again does no harm.
pub(crate) async fn write(
    connection: &mut MultiplexedConnection,
    name: &str,
    state: &str,
    token: Revision,
) -> Result<Result<(), Stale>, RedisError> {
    // The braces keep both keys in one slot of a cluster.
    let key = format!("{{{name}}}:state");
    let script = Script::new(SCRIPT);
    let mut call = script.key(format!("{{{name}}}:token"));
    call.key(&key).arg(token.to_string()).arg("SET").arg(&key).arg(state);
    match call.invoke_async(connection).await {
        Ok(()) => Ok(Ok(())),
        Err(error) => stale(token, &error.to_string()).map(Err).ok_or(error),
    }
}
