//! The table of guests that misbehave, and what must be seen of each on a real host.

use althing_core::Kind::{Denied, Fault as Failed, Invalid, TooLarge};
use althing_engine::FaultCause::{Answer, Cpu, Deadline, Memory, Trap};

use crate::component;
use crate::made::{GOOD, Made, knotted, with_sections};
use crate::row::Guest::{self, Built, Bytes, Made as From};
use crate::row::Row;
use crate::row::Seen::{self, Decides, Fault, Refused};

/// Returns every row.
pub fn all() -> Vec<Row> {
    [time(), memory(), traps(), answers(), words(), imports(), shapes()].into_iter().flatten().collect()
}

fn row(
    name: &'static str,
    guest: Guest,
    manifest: &'static str,
    expected: Seen<&'static [&'static str]>,
) -> Row {
    Row { name, guest, manifest, expected }
}

const SHORT: &str = "limits.cpu_ms = 50";
const LONG: &str = "limits = { cpu_ms = 200, memory_mib = 64 }";

fn time() -> Vec<Row> {
    let too_long = || Fault(Cpu, &["it ran for more than 50 ms of processor time"] as &[_]);
    let forever = "(loop $again (br $again)) unreachable";
    vec![
        row("spins", Built("spins"), SHORT, too_long()),
        row(
            "spins-when-made",
            From(Made { more: "(func $spin (loop $again (br $again))) (start $spin)", ..GOOD }),
            SHORT,
            Refused(Failed, &["it was to check its settings", "fault (cpu)", "50 ms"]),
        ),
        row(
            "spins-when-checked",
            From(Made { check: forever, ..GOOD }),
            SHORT,
            Refused(Failed, &["it was to check its settings", "fault (cpu)"]),
        ),
        row("spins-when-given-memory", From(Made { realloc: forever, ..GOOD }), SHORT, too_long()),
        row(
            "spins-after-its-answer",
            From(Made {
                more: r#"(func (export "cabi_post_althing:policy/election@0.1.0#elect") (param i32) (loop $again (br $again)))"#,
                ..GOOD
            }),
            SHORT,
            too_long(),
        ),
        row("asks-without-end", From(ASKS), SHORT, too_long()),
        row("draws-without-end", From(DRAWS), SHORT, too_long()),
        row(
            "fills-memory-without-end",
            From(Made {
                pages: 512,
                elect: "(loop $again (memory.fill (i32.const 65536) (i32.const 7) (i32.const 33000000)) (br $again)) unreachable",
                ..GOOD
            }),
            "limits = { cpu_ms = 50, memory_mib = 64 }",
            too_long(),
        ),
        row("sleeps", From(SLEEPS), SHORT, Fault(Deadline, &["it gave no answer within 500 ms"])),
        row(
            "writes-lines-without-end",
            Built("floods-the-log"),
            "grants.log = true\nlimits.cpu_ms = 50\nsettings = { lines = 4_000_000_000, bytes = 80 }",
            too_long(),
        ),
    ]
}

const ASKS: Made = Made {
    imports: r#"(import "althing:policy/clock@0.1.0" "now" (func $now (result f64)))"#,
    elect: "(loop $again (drop (call $now)) (br $again)) unreachable",
    ..GOOD
};
const DRAWS: Made = Made {
    imports: r#"(import "althing:policy/random@0.1.0" "bytes" (func $bytes (param i32 i32)))"#,
    realloc: "i32.const 65536",
    elect: "(loop $again (call $bytes (i32.const -1) (i32.const 0)) (br $again)) unreachable",
    ..GOOD
};
const IO: &str = "package wasi:io@0.2.0; interface poll { resource pollable { block: func(); } }";
const CLOCKS: &str = "package wasi:clocks@0.2.0; interface monotonic-clock {
    use wasi:io/poll@0.2.0.{pollable};
    subscribe-duration: func(when: u64) -> pollable;
}";
const WITH_CLOCKS: &[(&str, &str)] =
    &[("world election-policy {", "world election-policy {\n  import wasi:clocks/monotonic-clock@0.2.0;")];
const SUBSCRIBE: &str = r#"(import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $timer (param i64) (result i32)))
    (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))"#;
const SLEEPS: Made = Made {
    imports: SUBSCRIBE,
    elect: "(call $block (call $timer (i64.const 3_600_000_000_000))) i32.const 0",
    wit: WITH_CLOCKS,
    packages: &[IO, CLOCKS],
    ..GOOD
};

fn memory() -> Vec<Row> {
    vec![
        row(
            "eats-memory",
            Built("eats-memory"),
            LONG,
            Fault(Memory, &["bytes of memory in all; it may have 67108864"]),
        ),
        row("carries-on", Built("carries-on"), LONG, Decides(&["no more memory, and none is needed"])),
        row(
            "spins-when-refused-memory",
            Built("carries-on"),
            "settings.spin = true\nlimits.cpu_ms = 50",
            Fault(Cpu, &["50 ms"]),
        ),
        row(
            "grows-a-table",
            From(Made {
                more: "(table $table 1 funcref)",
                elect: "(loop $again (br_if $again (i32.ge_s (table.grow $table (ref.null func) (i32.const 1000)) (i32.const 0)))) unreachable",
                ..GOOD
            }),
            LONG,
            Fault(Memory, &["entries of tables in all; it may have 100000"]),
        ),
        row(
            "wants-20-mib-at-once",
            From(Made { pages: 320, ..GOOD }),
            "",
            Refused(Failed, &["fault (memory)", "20971520 bytes of memory in all; it may have 16777216"]),
        ),
        row(
            "wants-4-gib-at-once",
            From(Made { pages: 65_536, ..GOOD }),
            "",
            Refused(
                Invalid,
                &["minimum byte size of 4294967296 which exceeds", "more than a guest may have"],
            ),
        ),
        row(
            "wants-ten-million-entries",
            From(Made { more: "(table 10000000 funcref)", ..GOOD }),
            "",
            Refused(
                Invalid,
                &["minimum element size of 10000000 which exceeds", "more than a guest may have"],
            ),
        ),
        row(
            "hoards-timers",
            From(Made {
                imports: SUBSCRIBE,
                elect: "(loop $again (drop (call $timer (i64.const 1))) (br $again)) unreachable",
                wit: WITH_CLOCKS,
                packages: &[IO, CLOCKS],
                ..GOOD
            }),
            LONG,
            Fault(Memory, &["resources"]),
        ),
    ]
}

fn traps() -> Vec<Row> {
    vec![
        row("traps", Built("traps"), "", Fault(Trap, &["unreachable"])),
        row("panics", Built("panics"), "grants.log = true", Fault(Trap, &["unreachable"])),
        row("recurses", Built("recurses"), "", Fault(Trap, &["call stack exhausted"])),
        row(
            "exits",
            From(Made {
                imports: r#"(import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))"#,
                elect: "(call $exit (i32.const 1)) unreachable",
                wit: &[("world election-policy {", "world election-policy {\n  import wasi:cli/exit@0.2.0;")],
                packages: &["package wasi:cli@0.2.0; interface exit { exit: func(status: result); }"],
                ..GOOD
            }),
            "",
            Fault(Trap, &["it exited with status 1"]),
        ),
        row(
            "gives-memory-it-has-not",
            From(Made { realloc: "i32.const -65536", ..GOOD }),
            "",
            Fault(Answer, &["realloc return: beyond end of memory"]),
        ),
        row(
            "gives-crooked-memory",
            From(Made { realloc: "i32.const 65537", ..GOOD }),
            "",
            Fault(Answer, &["realloc return: result not aligned"]),
        ),
    ]
}

fn answers() -> Vec<Row> {
    let nonsense = |name, manifest, said| row(name, Built("answers-nonsense"), manifest, Fault(Answer, said));
    let harmless = |name, manifest| row(name, Built("answers-nonsense"), manifest, Decides(&["the oldest"]));
    vec![
        row(
            "answers-a-stranger",
            Built("answers-a-stranger"),
            "",
            Fault(Answer, &["which is no member of the view"]),
        ),
        nonsense("elects-nobody", "settings.answer = 'nobody-at-all'", &["from an empty list"]),
        nonsense("elects-an-empty-name", "settings.answer = 'an-empty-name'", &["\"\", which is no member"]),
        nonsense("elects-one-twice", "settings.answer = 'one-twice'", &["\"oldest\" twice"]),
        nonsense(
            "elects-a-thousand",
            "settings.answer = 'a-thousand'",
            &["it ranks 1000 candidates; at most 8"],
        ),
        nonsense(
            "answers-10-mb",
            "settings.answer = 'ten-megabytes-of-reason'\nlimits = { cpu_ms = 200, memory_mib = 64 }",
            TOO_MUCH,
        ),
        nonsense(
            "elects-10-mb",
            "settings.answer = 'ten-megabytes-of-names'\nlimits = { cpu_ms = 200, memory_mib = 64 }",
            TOO_MUCH,
        ),
        nonsense(
            "gives-up-with-10-mb",
            "settings.answer = 'ten-megabytes-of-refusal'\nlimits = { cpu_ms = 200, memory_mib = 64 }",
            TOO_MUCH,
        ),
        harmless("revisits-at-nan", "settings.answer = 'revisit-nan'"),
        harmless("revisits-at-infinity", "settings.answer = 'revisit-infinity'"),
        harmless("revisits-yesterday", "settings.answer = 'revisit-the-day-before'"),
        row(
            "answers-from-nowhere",
            From(Made { elect: "i32.const 0x7ffffff8", ..GOOD }),
            "",
            Fault(Answer, &["out of bounds"]),
        ),
        row(
            "answers-from-a-crooked-place",
            From(Made { elect: "i32.const 2049", ..GOOD }),
            "",
            Fault(Answer, &["align"]),
        ),
        row(
            "answers-no-case",
            From(Made { elect: "(i32.store8 (i32.const 2048) (i32.const 77)) i32.const 2048", ..GOOD }),
            "",
            Fault(Answer, &["discriminant"]),
        ),
        row(
            "answers-no-text",
            From(Made { more: r#"(data (i32.const 3000) "\ff\fe\fd\fc")"#, ..GOOD }),
            "",
            Fault(Answer, &["utf-8"]),
        ),
        row("alternates", Built("alternates"), "", Decides(&["somebody else's turn"])),
    ]
}

const TOO_MUCH: &[&str] = &["handed over more than 4194304 bytes at once"];

fn words() -> Vec<Row> {
    vec![
        row("floods-the-log", Built("floods-the-log"), "grants.log = true\nlimits.cpu_ms = 200\nsettings = { lines = 10_000, bytes = 2_000 }",
            Decides(&["everything about it is in the log"])),
        row("logs-6-mb-at-once", Built("floods-the-log"), "grants.log = true\nlimits.cpu_ms = 200\nsettings = { lines = 10, bytes = 6_000_000 }",
            Fault(Answer, TOO_MUCH)),
        row("steers-the-terminal", Built("answers-nonsense"), "settings.answer = 'terminal-codes'", Decides(&["\\u{1b}[2J", "\\nleader: me"])),
        row("refuses-at-length", From(Made {
            check: "(memory.fill (i32.const 8192) (i32.const 27) (i32.const 200000)) (i32.store8 (i32.const 4096) (i32.const 1))
                (i32.store (i32.const 4100) (i32.const 8192)) (i32.store (i32.const 4104) (i32.const 200000)) i32.const 4096",
            ..GOOD }), "", Refused(Invalid, &["the policy refuses its settings: \\u{1b}"])),
    ]
}

fn imports() -> Vec<Row> {
    vec![
        row(
            "imports-the-store",
            Built("wrong-world"),
            "",
            Refused(Denied, &["althing:policy/store@0.1.0", "may import config"]),
        ),
        row(
            "imports-the-log-ungranted",
            Built("elect-weighted"),
            "",
            Refused(Denied, &["althing:policy/log@0.1.0", "`log = true`"]),
        ),
        row(
            "imports-a-later-function",
            From(Made {
                imports: r#"(import "althing:policy/clock@0.1.0" "later" (func $later (result f64)))"#,
                elect: "(drop (call $later)) i32.const 2048",
                wit: &[("interface clock {", "interface clock {\n  later: func() -> f64;\n")],
                ..GOOD
            }),
            "",
            Refused(Denied, &["later", "may import config"]),
        ),
        row(
            "imports-a-later-interface",
            From(Made {
                imports: r#"(import "althing:policy/oracle@0.1.0" "ask" (func $ask (result f64)))"#,
                elect: "(drop (call $ask)) i32.const 2048",
                wit: &[
                    ("interface clock {", "interface oracle {\n  ask: func() -> f64;\n}\ninterface clock {"),
                    ("world election-policy {", "world election-policy {\n  import oracle;"),
                ],
                ..GOOD
            }),
            "",
            Refused(Denied, &["althing:policy/oracle@0.1.0"]),
        ),
        row(
            "is-of-a-later-version",
            From(Made { version: "0.2.0", ..GOOD }),
            "",
            Refused(Invalid, &["built for althing:policy@0.2.0", "this host has 0.1.0"]),
        ),
        row("is-of-a-later-patch", From(Made { version: "0.1.7", ..GOOD }), "", Decides(&["the oldest"])),
        row(
            "exports-another-type",
            From(Made {
                elect: "i32.const 7",
                wit: &[(
                    "elect: func(view: view) -> result<verdict, string>;",
                    "elect: func(group: u32) -> u32;",
                )],
                ..GOOD
            }),
            "",
            Refused(Invalid, &["not built for world election-policy", "expected `record` found `u32`"]),
        ),
        row(
            "is-of-no-world",
            Bytes(|| b"\0asm\x0d\0\x01\0".to_vec()),
            "",
            Refused(Invalid, &["world election-policy"]),
        ),
    ]
}

fn shapes() -> Vec<Row> {
    let add = |name, make, said: &'static [&'static str]| row(name, Bytes(make), "", Refused(TooLarge, said));
    vec![
        add("has-200-modules", || with("(core module)".repeat(200)), &["modules", "at most 100"]),
        add(
            "has-60000-functions",
            || with(format!("(core module {})", "(func)".repeat(60_000))),
            &["functions", "at most 50000"],
        ),
        add(
            "has-12000-types",
            || with(format!("(core module {})", "(type (func))".repeat(12_000))),
            &["types", "at most 10000"],
        ),
        add(
            "has-60000-elements",
            || {
                with(format!(
                    "(core module (func $f) (table 1 funcref) (elem (i32.const 0) func {}))",
                    "$f ".repeat(60_000)
                ))
            },
            &["elements", "at most 50000"],
        ),
        add(
            "nests-60000-blocks",
            || with(format!("(core module (func {}{}))", "(block ".repeat(60_000), ")".repeat(60_000))),
            &["branches in one function", "at most 50000"],
        ),
        add(
            "knots-a-thousand-locals",
            || with(knotted(1500)),
            &["values at the branches of one function", "at most 2000000"],
        ),
        add(
            "nests-40-components",
            || with(format!("{}{}", "(component ".repeat(40), ")".repeat(40))),
            &["components in one another", "at most 32"],
        ),
        add("doubles-itself-20-times", || with(doubled(20)), &["instances", "at most 1000"]),
        row(
            "has-20-mb-of-no-use",
            Bytes(|| with(format!("(@custom \"padding\" \"{}\")", "x".repeat(20 << 20)))),
            "",
            Decides(&["the oldest"]),
        ),
        row(
            "is-cut-in-half",
            Bytes(|| {
                let whole = component("elect-oldest");
                whole[..whole.len() / 2].to_vec()
            }),
            "",
            Refused(Invalid, &["damaged"]),
        ),
        row(
            "has-a-flipped-bit",
            Bytes(|| {
                let mut bytes = GOOD.component();
                let middle = bytes.len() / 3;
                bytes[middle] ^= 0x10;
                bytes
            }),
            "",
            Refused(Invalid, &["cannot be compiled"]),
        ),
    ]
}

fn with(sections: String) -> Vec<u8> {
    with_sections(GOOD.component(), &sections)
}

/// A component that holds two instances of one that holds two instances of one … and so on.
fn doubled(times: usize) -> String {
    let mut inner = "(component (core module $m) (core instance (instantiate $m)))".to_owned();
    for _ in 0..times {
        let named = inner.replacen("(component", "(component $inner", 1);
        inner =
            format!("(component {named} (instance (instantiate $inner)) (instance (instantiate $inner)))");
    }
    // The rule itself holds two components, which make its exports.
    format!("{inner} (instance (instantiate 2))")
}
