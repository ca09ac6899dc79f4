//! WASI 0.2, frozen and denied: runtimes of other languages import it whether they use it or not.
//!
//! Clocks stand at the view's moment, randomness comes from the view, there are no files, sockets, arguments or
//! environment, and output becomes log lines where the log is granted.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand_core::TryRng;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::journal::Journal;
use crate::store::Call;

/// The WASI of one call. Made when it is first asked for: most guests never do.
#[derive(Default)]
pub(crate) struct Wasi(Option<Box<WasiCtx>>);

impl WasiView for Call {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let Call { journal, subject, sequence, wasi, resources, .. } = self;
        let ctx = wasi.0.get_or_insert_with(|| {
            let moment = Frozen(Duration::from_secs_f64((subject.now_ms / 1000.0).clamp(0.0, FAR_FUTURE_S)));
            let mut builder = WasiCtxBuilder::new();
            builder.wall_clock(moment).monotonic_clock(moment);
            builder.secure_random(sequence.clone()).insecure_random(sequence.clone());
            let Ok(low) = sequence.clone().try_next_u64();
            builder.insecure_random_seed(u128::from(low));
            builder.allow_tcp(false).allow_udp(false);
            if subject.may_log {
                builder.stdout(Output(journal.clone())).stderr(Output(journal.clone()));
            }
            Box::new(builder.build())
        });
        WasiCtxView { ctx, table: resources }
    }
}

/// Where clocks end: a view may hold any number as its moment.
const FAR_FUTURE_S: f64 = 1e10;
/// The most bytes of one write to standard output.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// A clock that stands still.
#[derive(Clone, Copy)]
struct Frozen(Duration);

impl HostWallClock for Frozen {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        self.0
    }
}

impl HostMonotonicClock for Frozen {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Standard output and error: each write becomes log lines.
#[derive(Clone)]
struct Output(Arc<Journal>);

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for this one, and it is not linked.
        Box::new(tokio::io::sink())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        String::from_utf8_lossy(&bytes).lines().for_each(|line| self.0.add_line(line));
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}
