//! Every bound and every default of Althing, in one place. `--help` and the documentation quote these.

use std::time::Duration;

/// The longest key a driver is handed, in bytes.
pub const KEY_BYTES_MAX: usize = 4096;
/// The longest name a user gives to a group, a member or a policy, in bytes. Two of them, escaped, fit a key.
pub const NAME_BYTES_MAX: usize = 512;
/// The largest value of a record, in bytes; a backend may allow less.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// The most records on one page of a listing.
pub const PAGE_RECORDS_MAX: u32 = 1000;
/// The most bytes of values on one page, unless the first record alone is larger.
pub const PAGE_BYTES_MAX: usize = 4 << 20;
/// The most keys one transaction guards and writes; a backend may allow less.
pub const TXN_KEYS_MAX: u32 = 64;
/// How many changes a driver keeps for watchers that lag; who lags further gets a resync.
pub const HISTORY_CHANGES_MAX: usize = 16_384;
/// How many bytes of values those changes may hold in the memory of a host.
pub const HISTORY_BYTES_MAX: usize = 64 << 20;
/// The most changes in one delta, unless one commit alone has more.
pub const DELTA_CHANGES_MAX: usize = 1024;

/// The lease a host asks for.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(10);
/// The shortest lease a host may be configured with.
pub const LEASE_MIN: Duration = Duration::from_millis(500);
/// The longest lease a host may be configured with.
pub const LEASE_MAX: Duration = Duration::from_secs(300);
/// A session is renewed this many times per lease.
pub const RENEWALS_PER_LEASE: u32 = 3;
/// The least time between our deadline and the store's.
pub const LEASE_GUARD_MIN: Duration = Duration::from_millis(50);
/// The share of a lease between our deadline and the store's.
pub const LEASE_GUARD_SHARE: f64 = 0.05;
/// The rate at which two clocks may drift apart.
pub const CLOCK_DRIFT: f64 = 0.001;

/// How long one call of a driver may take.
pub const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// How often a read, or a write known not to have landed, is tried in all.
pub const CALL_TRIES: u32 = 3;
/// The pause before the second try; doubled for each further one.
pub const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long who needs the host's session waits for the next one, where it was just lost.
pub const NEXT_SESSION_WAIT: Duration = Duration::from_millis(500);

/// The lease of a client's session where it asks for none.
pub const CLIENT_TTL_DEFAULT: Duration = Duration::from_secs(15);
/// The shortest lease of a client's session.
pub const CLIENT_TTL_MIN: Duration = Duration::from_millis(500);
/// The longest lease of a client's session.
pub const CLIENT_TTL_MAX: Duration = Duration::from_secs(3600);
/// The most client sessions on one host.
pub const CLIENT_SESSIONS_MAX: usize = 20_000;
/// The most members one client session holds.
pub const SESSION_MEMBERS_MAX: usize = 16_384;

/// The most members of one group.
pub const GROUP_MEMBERS_MAX: usize = 16_384;
/// The most bytes of a member's metadata, names and values together.
pub const METADATA_BYTES_MAX: usize = 64 << 10;
/// The most entries of a member's metadata.
pub const METADATA_ENTRIES_MAX: usize = 128;
/// The most bytes of a member's capabilities, as JSON.
pub const CAPABILITIES_BYTES_MAX: usize = METADATA_BYTES_MAX;
/// How deep values may lie in one another in a member's capabilities: whoever reads them inside something else must be
/// able to.
pub const CAPABILITIES_DEPTH_MAX: usize = 32;
/// The most evictions a group remembers, so that none is undone by a host that joins its members again.
pub const EVICTIONS_KEPT_MAX: usize = 64;
/// Events a subscriber may lag behind before it is given a resync.
pub const SUBSCRIBER_EVENTS_MAX: usize = 1024;
/// How often a transaction that conflicted is made anew from fresh reads.
pub const CONFLICT_TRIES: u32 = 16;

/// How long each better-ranked candidate has to claim a vacant group before the next one may.
pub const CLAIM_WINDOW: Duration = Duration::from_millis(500);
/// How long a candidate that let its turn pass is passed over.
pub const PASSED_BACKOFF: Duration = Duration::from_secs(30);
/// How late a timer may be before this host takes it that it stood still, and looks at the store before it decides.
pub const STALL: Duration = Duration::from_millis(250);
/// How long a nominee has to accept, and then to claim.
pub const HANDOVER_WINDOW: Duration = Duration::from_secs(2);
/// How long a leader leads at least before a rule may move the leadership.
pub const TENURE_MIN: Duration = Duration::from_secs(1);
/// The most voluntary moves of leadership in a group within a minute.
pub const MOVES_PER_MINUTE_MAX: u32 = 12;
/// The most candidates a rule may rank.
pub const RANKED_MAX: usize = 8;
/// The longest reason a rule may give, in bytes; longer ones are cut.
pub const REASON_BYTES_MAX: usize = 512;
/// The soonest a rule may ask to be called again.
pub const REVISIT_MIN: Duration = Duration::from_millis(100);
/// The latest a rule may ask to be called again.
pub const REVISIT_MAX: Duration = Duration::from_secs(3600);
/// Decisions kept in memory per group.
pub const DECISIONS_KEPT_MAX: usize = 256;
/// Bytes of decisions in one file on disk before it is turned over; one former file is kept.
pub const AUDIT_FILE_BYTES_MAX: u64 = 64 << 20;

/// The largest packed bundle, in bytes.
pub const BUNDLE_BYTES_MAX: usize = 32 << 20;
/// The most files in a bundle.
pub const BUNDLE_FILES_MAX: usize = 256;
/// The size of the chunks in which artefacts lie in the backend, in bytes.
pub const CHUNK_BYTES: usize = 256 << 10;
/// The most former bindings a group remembers for a rollback.
pub const BINDINGS_KEPT_MAX: usize = 8;
/// The most versions of a policy that are listed and kept in the backend, beside those that groups are bound to.
pub const VERSIONS_KEPT_MAX: usize = 8;
/// The most groups of a namespace.
pub const GROUPS_MAX: usize = 65_536;
/// The most upload jobs a host remembers.
pub const JOBS_KEPT_MAX: usize = 64;

/// The most behaviours of a namespace.
pub const BEHAVIOURS_MAX: usize = 256;
/// Calls of behaviours that a host has under way at once, those that wait among them.
pub const BEHAVIOUR_CALLS_MAX: usize = 2048;
/// Calls of behaviours that one client session has under way at once.
pub const BEHAVIOUR_SESSION_CALLS_MAX: usize = 256;
/// How long a call of a behaviour waits where its client does not say.
pub const BEHAVIOUR_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// The longest a call of a behaviour may wait.
pub const BEHAVIOUR_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// The longest name of an operation of a behaviour, in bytes.
pub const BEHAVIOUR_OPERATION_BYTES_MAX: usize = 256;
/// The largest body of a call of a behaviour, in bytes.
pub const BEHAVIOUR_BODY_BYTES_MAX: usize = 256 << 10;
/// Records that behaviours wrote for one client session, and that go with it.
pub const BEHAVIOUR_SESSION_RECORDS_MAX: usize = 1024;
/// Calls of one behaviour that a host remembers.
pub const BEHAVIOUR_CALLS_KEPT_MAX: usize = 64;

/// The most members of a group that share objects; those who came last have no part.
pub const PARTITION_MEMBERS_MAX: usize = 512;
/// The most points that a member of a partitioned group has for each unit of its weight.
pub const PARTITION_POINTS_MAX: u32 = 1024;
/// The largest weight of a member of a partitioned group; what is more counts as this.
pub const PARTITION_WEIGHT_MAX: u32 = 64;
/// The most points that all members of a partitioned group have together.
pub const PARTITION_RING_POINTS_MAX: u64 = 262_144;
/// The most bytes that the names of those who share objects have together.
pub const PARTITION_NAMES_BYTES_MAX: usize = 128 << 10;
/// The most objects whose owners one request asks for.
pub const OWNERS_OBJECTS_MAX: usize = 4096;
/// The most owners of an object that one request asks for.
pub const OWNERS_REPLICAS_MAX: usize = 64;

/// The most names that one request locks.
pub const LOCK_NAMES_MAX: usize = 16;
/// The most that hold a lock and wait for it, together; and so the highest limit of a semaphore.
pub const LOCK_PARTIES_MAX: usize = 512;
/// The longest id and the longest label of a request for a lock, in bytes.
pub const LOCK_LABEL_BYTES_MAX: usize = 128;
/// Requests for locks that a host has under way at once, those that wait among them.
pub const LOCK_REQUESTS_MAX: usize = 1024;
/// Requests for locks that one client session has under way at once.
pub const SESSION_LOCK_REQUESTS_MAX: usize = 256;
/// The most locks that one client session holds.
pub const SESSION_LOCKS_MAX: usize = 4096;
/// The last locks that a session lost, which the host remembers to say so.
pub const LOCKS_LOST_KEPT_MAX: usize = 64;
/// Of how many ended sessions the locks are cleared away in one transaction.
pub const LOCK_SESSIONS_REAPED_MAX: usize = 16;

/// The guest CPU time of one call where a bundle asks for none.
pub const GUEST_CPU_DEFAULT: Duration = Duration::from_millis(20);
/// The most guest CPU time a bundle may ask for.
pub const GUEST_CPU_MAX: Duration = Duration::from_secs(2);
/// The guest memory of one call where a bundle asks for none, in MiB.
pub const GUEST_MEMORY_MIB_DEFAULT: u32 = 16;
/// The most guest memory a bundle may ask for, in MiB.
pub const GUEST_MEMORY_MIB_MAX: u32 = 64;
/// How much longer than its CPU time a call may take on the wall before it is dropped.
pub const GUEST_WALL_FACTOR: u32 = 10;
/// The most entries of all tables of one call.
pub const GUEST_TABLE_ENTRIES_MAX: usize = 100_000;
/// Bytes a guest may make the host lift in one call.
pub const GUEST_HOSTCALL_FUEL: usize = 4 << 20;
/// The most log lines of one call; further ones are counted, not kept.
pub const GUEST_LOG_LINES_MAX: usize = 64;
/// The longest log line, in bytes; longer ones are cut.
pub const GUEST_LOG_LINE_BYTES_MAX: usize = 1024;
/// The longest error that tells of what a guest is made of, in bytes; longer ones are cut.
pub const GUEST_ERROR_BYTES_MAX: usize = 1024;
/// The longest schema of settings that a guest declares, in bytes.
pub const GUEST_SCHEMA_BYTES_MAX: usize = 64 << 10;
/// The most core modules in a component.
pub const GUEST_MODULES_MAX: usize = 100;
/// The most functions in all modules of a component.
pub const GUEST_FUNCTIONS_MAX: usize = 50_000;
/// The most types in a component and its modules.
pub const GUEST_TYPES_MAX: usize = 10_000;
/// The most elements that the modules of a component put into tables.
pub const GUEST_ELEMENTS_MAX: usize = 50_000;
/// The most imports, exports, globals, segments of data and aliases in a component.
pub const GUEST_NAMES_MAX: usize = 100_000;
/// How deep components and modules may lie in one another.
pub const GUEST_NESTING_MAX: usize = 32;
/// The most instances that a component comes to, with all that it holds.
pub const GUEST_INSTANCES_MAX: usize = 1000;
/// The most branches in one function of a guest.
pub const GUEST_BRANCHES_MAX: usize = 50_000;
/// The most values that all branches of one function may hand on: branches times locals.
pub const GUEST_BRANCH_VALUES_MAX: usize = 2_000_000;
/// How long the compilation of one component may take.
pub const COMPILE_DEADLINE: Duration = Duration::from_secs(120);
/// Compilations left to themselves after their deadline; while there are as many, nothing new is compiled.
pub const COMPILES_OVERDUE_MAX: usize = 2;
/// How often the engine's clock ticks.
pub const EPOCH_TICK: Duration = Duration::from_millis(5);
/// Guest calls at once; further ones wait.
pub const GUEST_CALLS_MAX: usize = 64;

/// The most prefixes of keys that a behaviour is granted.
pub const BEHAVIOUR_PREFIXES_MAX: usize = 16;
/// The longest prefix that a behaviour is granted, in bytes.
pub const BEHAVIOUR_PREFIX_BYTES_MAX: usize = 256;
/// The longest key a behaviour may use, in bytes. The host puts something before it, and a name of
/// [`NAME_BYTES_MAX`] fits however it is escaped.
pub const BEHAVIOUR_KEY_BYTES_MAX: usize = 2048;
/// The largest value a behaviour may write, in bytes.
pub const BEHAVIOUR_VALUE_BYTES_MAX: usize = 256 << 10;
/// The most keys that a transaction of a behaviour guards and writes; the rest is for what the host guards itself.
pub const BEHAVIOUR_TXN_KEYS_MAX: usize = 60;
/// How often a behaviour may call the store while it is asked once.
pub const BEHAVIOUR_STORE_CALLS_MAX: u32 = 256;
/// The largest answer of a behaviour, in bytes.
pub const BEHAVIOUR_ANSWER_BYTES_MAX: usize = 1 << 20;
/// The soonest a behaviour that waits may ask to be asked again by the clock.
pub const BEHAVIOUR_PAUSE_MIN: Duration = Duration::from_millis(100);
/// How long after the deadline of its request a call of a behaviour is dropped.
pub const BEHAVIOUR_GRACE: Duration = Duration::from_secs(5);

/// The most backends one host has.
pub const BACKENDS_MAX: usize = 16;
/// The longest name of one of them, in bytes.
pub const BACKEND_NAME_BYTES_MAX: usize = 32;
/// Requests a host answers at once; further ones are refused.
pub const REQUESTS_MAX: usize = 4096;
/// Connections a host keeps open at once.
pub const CONNECTIONS_MAX: usize = 8192;
/// The largest request body other than a bundle, in bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// How often a silent event stream says that it lives.
pub const STREAM_BEAT: Duration = Duration::from_secs(5);
/// How long a client may take to send the head of a request.
pub const REQUEST_HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a client may take to send the body of a request.
pub const REQUEST_BODY_DEADLINE: Duration = Duration::from_secs(60);
/// How long a host that ends waits for the requests it is answering.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// The longest that one look at an upload job waits for it.
pub const JOB_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a client waits for an answer, beyond what it asked the host to wait.
pub const CLIENT_CALL_DEADLINE: Duration = Duration::from_secs(10);
/// The largest answer, or event, that a client reads, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How many decisions are shown where nobody says how many.
pub const DECISIONS_SHOWN_DEFAULT: usize = 20;

/// Connections by which processes of the machine reach the backend through a host, among all its connections.
pub const WAIST_CONNECTIONS_MAX: usize = 1024;
/// Calls that one such connection has under way at once; further ones wait.
pub const WAIST_CALLS_MAX: usize = 256;
/// Bytes of requests and answers that one such connection has under way at once.
pub const WAIST_BYTES_MAX: usize = WAIST_FRAME_BYTES_MAX + (16 << 20);
/// The largest message on such a connection, in bytes: a transaction of as many keys and bytes as there may be.
pub const WAIST_FRAME_BYTES_MAX: usize = TXN_KEYS_MAX as usize * (VALUE_BYTES_MAX + 2 * KEY_BYTES_MAX + 1024);
/// Sessions that one such connection holds.
pub const WAIST_SESSIONS_MAX: usize = 1024;
/// The longest name of a part of a namespace that is a namespace of its own, in bytes. It is put before each key.
pub const SCOPE_BYTES_MAX: usize = 255;

/// The most resources whose highest token a fence remembers each; of more it forgets the one with the lowest.
pub const FENCE_RESOURCES_MAX: usize = 65_536;

const _: () = assert!(CHUNK_BYTES < VALUE_BYTES_MAX);
// However metadata is escaped.
const _: () = assert!(METADATA_BYTES_MAX * 6 + CAPABILITIES_BYTES_MAX < VALUE_BYTES_MAX / 2);
const _: () = assert!(NAME_BYTES_MAX * 2 * 3 < KEY_BYTES_MAX);
// A label has no control characters, so it is at most twice as long as text in JSON.
const _: () = assert!(LOCK_PARTIES_MAX * (LOCK_LABEL_BYTES_MAX * 2 + 768) <= VALUE_BYTES_MAX / 2);
// Twice in the record: who shares, and who shared before.
const _: () = assert!(PARTITION_NAMES_BYTES_MAX * 2 * 2 + PARTITION_MEMBERS_MAX * 256 < VALUE_BYTES_MAX);
const _: () = assert!(LOCK_SESSIONS_REAPED_MAX + 1 < TXN_KEYS_MAX as usize);
const _: () = assert!(RENEWALS_PER_LEASE >= 2);
const _: () = assert!(DELTA_CHANGES_MAX < HISTORY_CHANGES_MAX);
const _: () = assert!(ANSWER_BYTES_MAX > BUNDLE_BYTES_MAX);
const _: () = assert!(BEHAVIOUR_BODY_BYTES_MAX <= BODY_BYTES_MAX);
const _: () = assert!(BEHAVIOUR_SESSION_CALLS_MAX <= BEHAVIOUR_CALLS_MAX);
// However many calls wait, sessions are renewed.
const _: () = assert!(BEHAVIOUR_CALLS_MAX * 2 <= REQUESTS_MAX);
const _: () = assert!(BEHAVIOUR_CALLS_MAX + LOCK_REQUESTS_MAX * 2 <= REQUESTS_MAX);
const _: () = assert!(BEHAVIOUR_TXN_KEYS_MAX < TXN_KEYS_MAX as usize);
const _: () =
    assert!(BEHAVIOUR_KEY_BYTES_MAX + 64 < KEY_BYTES_MAX && NAME_BYTES_MAX * 3 < BEHAVIOUR_KEY_BYTES_MAX);
const _: () = assert!(BEHAVIOUR_PREFIX_BYTES_MAX < BEHAVIOUR_KEY_BYTES_MAX);
const _: () = assert!(BEHAVIOUR_VALUE_BYTES_MAX * 2 < VALUE_BYTES_MAX);
const _: () = assert!(BEHAVIOUR_ANSWER_BYTES_MAX < GUEST_HOSTCALL_FUEL);
const _: () = assert!(WAIST_CONNECTIONS_MAX < CONNECTIONS_MAX);
const _: () =
    assert!(PAGE_BYTES_MAX + PAGE_RECORDS_MAX as usize * (KEY_BYTES_MAX + 1024) < WAIST_BYTES_MAX / 4);
// Below the scope of the longest name, two names still fit a key, however all three are escaped.
const _: () = assert!((SCOPE_BYTES_MAX + NAME_BYTES_MAX * 2) * 3 + 64 < KEY_BYTES_MAX);
