//! Who may know whom. Arrows point down: a package names only what stands below it.

use crate::Finding;
use crate::tokens::find;
use crate::tree::{Package, Source, Tree, packages};

/// Each of our packages and those of ours that it may name. A `*` at the end stands for any ending.
/// Packages under `tests/` and `xtask` are free: nothing is built on them.
const LAYERS: &[(&str, &[&str])] = &[
    ("althing-core", &[]),
    ("althing-ring", &[]),
    ("althing-fence", &["althing-core"]),
    ("althing-tls", &["althing-core"]),
    // Its backend is a host: it speaks to one as any client does.
    ("althing-driver-ipc", &["althing-core", "althing-client"]),
    ("althing-driver-*", &["althing-core", "althing-tls"]),
    ("althing-engine", &["althing-core"]),
    ("althing-runtime", &["althing-core", "althing-engine", "althing-ring"]),
    ("althing-client", &["althing-core", "althing-ring"]),
    ("althing-server", &["althing-core", "althing-runtime", "althing-client"]),
    ("althing", &["althing-core", "althing-engine", "althing-runtime", "althing-ring", "althing-driver-*"]),
    ("althing-cli", &["althing", "althing-server", "althing-client"]),
];

/// Crates of others, the folders of the packages that may name them, and why nobody else may.
const OUTSIDERS: &[(&str, &[&str], &str)] = &[
    ("wasmtime*", &["host/engine"], "everything wasmtime is in the engine"),
    ("wasmparser", &["host/engine"], "components are taken apart in the engine"),
    ("rustls-native-certs", &["host/tls"], "whom to trust is read in one place"),
    (
        "redis",
        &["host/drivers/redis", "host/fence", "tests/*", "xtask"],
        "a backend's client is known to its driver, and to examples of resources",
    ),
    (
        "memcache",
        &["host/drivers/memcached", "tests/*", "xtask"],
        "a backend's client is known to its driver only",
    ),
    (
        "zookeeper-client",
        &["host/drivers/zookeeper", "tests/*", "xtask"],
        "a backend's client is known to its driver only",
    ),
    (
        "tokio-postgres",
        &["host/drivers/postgresql", "host/fence", "tests/*", "xtask"],
        "a backend's client is known to its driver, and to examples of resources",
    ),
    (
        "mysql_async",
        &["host/drivers/mysql", "host/fence", "tests/*", "xtask"],
        "a backend's client is known to its driver, and to examples of resources",
    ),
    ("rmp-serde", &["host/client"], "what is spoken over the socket is written and read in one place"),
    ("tonic*", &["host/drivers/etcd"], "a backend's client is known to its driver only"),
    ("prost", &["host/drivers/etcd"], "a backend's client is known to its driver only"),
    ("redb", &["host/drivers/embedded"], "a backend's client is known to its driver only"),
    ("clap", &["host/cli", "xtask"], "arguments are read where a person types them"),
];

/// What may be said in few files only.
struct Door {
    says: &'static str,
    files: &'static [&'static str],
    /// Whether tests may say it anywhere.
    tests: bool,
    advice: &'static str,
}

const TIME: &str = "Take a `Clock` or a `Chance` and ask it";

/// Tests that drive real processes, and the bench, wait for the world outside, which knows no `Clock` of ours.
const TIME_FILES: &[&str] = &["host/core/src/clock.rs", "tests/*", "xtask/*"];

const DOORS: &[Door] = &[
    Door { says: "Instant :: now", files: TIME_FILES, tests: false, advice: TIME },
    Door { says: "SystemTime :: now", files: TIME_FILES, tests: false, advice: TIME },
    Door { says: "clock_gettime", files: &["host/core/src/clock.rs"], tests: false, advice: TIME },
    Door { says: "getrandom ::", files: &["host/core/src/clock.rs"], tests: false, advice: TIME },
    Door {
        says: "redis ::",
        files: &["host/drivers/redis/src/wire.rs", "host/fence/examples/*", "xtask/*"],
        tests: true,
        advice: "Only the driver's wire.rs speaks to the client crate; map its values and errors there",
    },
    Door {
        says: "memcache ::",
        files: &["host/drivers/memcached/src/wire.rs", "tests/*", "xtask/*"],
        tests: true,
        advice: "Only the driver's wire.rs speaks to the client crate; map its values and errors there",
    },
    Door {
        says: "zookeeper_client ::",
        files: &["host/drivers/zookeeper/src/wire.rs", "tests/*", "xtask/*"],
        tests: true,
        advice: "Only the driver's wire.rs speaks to the client crate; map its values and errors there",
    },
    Door {
        says: "tokio_postgres ::",
        files: &["host/drivers/postgresql/src/wire.rs", "host/fence/examples/*", "xtask/*"],
        tests: true,
        advice: "Only the driver's wire.rs speaks to the client crate; map its values and errors there",
    },
    Door {
        says: "mysql_async ::",
        files: &["host/drivers/mysql/src/wire.rs", "host/fence/examples/*", "xtask/*"],
        tests: true,
        advice: "Only the driver's wire.rs speaks to the client crate; map its values and errors there",
    },
    Door {
        says: "tonic ::",
        files: &["host/drivers/etcd/src/wire.rs"],
        tests: true,
        advice: "Only the driver's wire.rs speaks to the client crate; map its values and errors there",
    },
    Door {
        says: "redb ::",
        files: &["host/drivers/embedded/src/wire.rs"],
        tests: true,
        advice: "Only the driver's wire.rs speaks to the client crate; map its values and errors there",
    },
    Door { says: "rustix :: fs", files: KERNEL_FILES, tests: true, advice: KERNEL },
    Door { says: "inotify ::", files: KERNEL_FILES, tests: true, advice: KERNEL },
    Door { says: "print !", files: PRINTERS, tests: true, advice: PRINT },
    Door { says: "println !", files: PRINTERS, tests: true, advice: PRINT },
    Door { says: "eprint !", files: PRINTERS, tests: true, advice: PRINT },
    Door { says: "eprintln !", files: PRINTERS, tests: true, advice: PRINT },
];

/// What files a process can lock, sync and listen to is asked by the drivers that keep records in them, and for the state
/// directory of a host; on what they lie, once for all drivers.
const KERNEL_FILES: &[&str] = &[
    "host/core/src/ground.rs",
    "host/drivers/file/src/disk.rs",
    "host/drivers/embedded/src/disk.rs",
    "host/drivers/embedded/src/wire.rs",
    "host/server/src/listen.rs",
];
const KERNEL: &str =
    "Only what keeps records in a file speaks to the kernel about files; add what is missing in its disk.rs";

/// A build script speaks to cargo by printing, an example to whoever runs it.
const PRINTERS: &[&str] =
    &["host/cli/*", "host/examples/*", "host/fence/examples/*", "xtask/*", "*/build.rs"];
const PRINT: &str = "Return it, or use `tracing`; only the command line prints";

fn matches(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end),
        (_, Some(begin)) => name.starts_with(begin),
        _ => name == pattern,
    }
}

fn any_matches(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, name))
}

fn upward_arrows(package: &Package) -> Vec<Finding> {
    if any_matches(&["tests/*", "xtask"], &package.path) {
        return Vec::new();
    }
    let place = format!("{}/Cargo.toml", package.path);
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| matches(name, &package.name)) else {
        let what = format!("{} is not in the table of layers", package.name);
        return vec![Finding::new(place, what, "Give it a row in tests/tidy/layers.rs")];
    };
    let ours = package.needs.iter().filter(|need| !need.is_dev && need.folder.is_some());
    let upward = ours.filter(|need| !any_matches(allowed, &need.name)).map(|need| {
        let what = format!("{} names {}, which does not stand below it", package.name, need.name);
        Finding::new(
            &place,
            what,
            "Move the shared part down, or hand it in from above as a trait of althing-core",
        )
    });
    upward.collect()
}

fn foreign_guests(package: &Package) -> Vec<Finding> {
    let folders = package.needs.iter().filter_map(|need| need.folder.as_deref());
    let foreign = folders.filter(|folder| !folder.starts_with("guests/")).map(|folder| {
        let place = format!("{}/Cargo.toml", package.path);
        Finding::new(
            place,
            format!("a guest names {folder}"),
            "Guests know wit/ and each other, nothing of the host",
        )
    });
    foreign.collect()
}

fn strangers(package: &Package) -> Vec<Finding> {
    let rows = OUTSIDERS.iter().filter(|(_, folders, _)| !any_matches(folders, &package.path));
    let finding = |(outsider, folders, why): &(&str, &[&str], &str)| {
        let named = package.needs.iter().find(|need| matches(outsider, &need.name))?;
        let advice = format!("Only {} may: {why}", folders.join(", "));
        Some(Finding::new(format!("{}/Cargo.toml", package.path), format!("names {}", named.name), advice))
    };
    rows.filter_map(finding).collect()
}

fn side_doors(source: &Source) -> Vec<Finding> {
    let doors = DOORS.iter().filter(|door| !any_matches(door.files, &source.path));
    let through = |door: &'static Door| {
        let said = find(&source.tokens, door.says).into_iter().filter(|token| !(door.tests && token.is_test));
        said.map(|token| {
            let what = format!("says `{}`", door.says.replace(' ', ""));
            Finding::at(&source.path, token.line, what, door.advice)
        })
    };
    doors.flat_map(through).collect()
}

#[test]
fn arrows_point_down() {
    crate::expect_none(packages("Cargo.toml").iter().flat_map(upward_arrows));
}

#[test]
fn guests_know_nothing_of_the_host() {
    crate::expect_none(packages("guests/Cargo.toml").iter().flat_map(foreign_guests));
}

#[test]
fn every_crate_of_others_is_named_where_it_belongs() {
    let all = packages("Cargo.toml").into_iter().chain(packages("guests/Cargo.toml"));
    crate::expect_none(all.flat_map(|package| strangers(&package)));
}

#[test]
fn time_chance_sockets_and_printing_have_one_door_each() {
    crate::expect_none(Tree::read().sources.iter().flat_map(side_doors));
}

mod examples {
    use super::*;
    use crate::tree::Need;

    fn package(name: &str, path: &str, needs: &[&str]) -> Package {
        let need = |need: &&str| Need {
            name: (*need).to_owned(),
            is_dev: false,
            folder: need.starts_with("althing").then(|| format!("host/{need}")),
        };
        Package { name: name.to_owned(), path: path.to_owned(), needs: needs.iter().map(need).collect() }
    }

    #[test]
    fn finds_an_arrow_that_points_up() {
        let good = package("althing-driver-etcd", "host/drivers/etcd", &["althing-core", "tokio"]);
        crate::expect_at(upward_arrows(&good), &[]);
        let bad = package("althing-driver-etcd", "host/drivers/etcd", &["althing-runtime"]);
        crate::expect_at(upward_arrows(&bad), &["host/drivers/etcd/Cargo.toml"]);
        let bad = package("althing-core", "host/core", &["althing-conformance"]);
        crate::expect_at(upward_arrows(&bad), &["host/core/Cargo.toml"]);
    }

    #[test]
    fn leaves_tests_alone_and_what_only_tests_use() {
        crate::expect_at(upward_arrows(&package("althing-sim", "tests/sim", &["althing-runtime"])), &[]);
        let mut core = package("althing-core", "host/core", &["althing-conformance"]);
        core.needs[0].is_dev = true;
        crate::expect_at(upward_arrows(&core), &[]);
    }

    #[test]
    fn finds_a_package_without_a_row() {
        crate::expect_at(upward_arrows(&package("althing-new", "host/new", &[])), &["host/new/Cargo.toml"]);
    }

    #[test]
    fn finds_a_guest_that_names_the_host() {
        let bad = package("elect-bad", "guests/elect-bad", &["althing-core", "wit-bindgen"]);
        crate::expect_at(foreign_guests(&bad), &["guests/elect-bad/Cargo.toml"]);
    }

    #[test]
    fn finds_a_crate_named_where_it_does_not_belong() {
        crate::expect_at(strangers(&package("althing-engine", "host/engine", &["wasmtime-wasi"])), &[]);
        let bad = package("althing-runtime", "host/runtime", &["wasmtime-wasi", "clap", "tokio"]);
        assert_eq!(strangers(&bad).len(), 2);
        assert_eq!(strangers(&package("althing-e2e", "tests/e2e", &["redis", "wasmtime"])).len(), 1);
    }

    #[test]
    fn finds_time_and_printing_outside_their_doors() {
        let text = "fn f() {\n std::time::Instant::now();\n println!();\n redis::cmd();\n}";
        let bad = Source::new("host/runtime/src/x.rs", text);
        let places = [2, 4, 3].map(|line| format!("host/runtime/src/x.rs:{line}"));
        crate::expect_at(side_doors(&bad), &places.each_ref().map(String::as_str));
        crate::expect_at(side_doors(&Source::new("xtask/src/x.rs", text)), &[]);
    }

    #[test]
    fn a_test_may_print_but_not_ask_the_machine_for_the_time() {
        let text = "#[test]\nfn f() {\n println!();\n SystemTime::now();\n}";
        crate::expect_at(side_doors(&Source::new("host/x.rs", text)), &["host/x.rs:4"]);
    }
}
