"""Every bound and default of this client, in one place. Times are in seconds."""

from typing import Final

#: How long a request waits for its answer, beyond what it asked the host to wait.
CALL_DEADLINE: Final = 10.0
#: A session is renewed this many times per lease.
RENEWALS_PER_LEASE: Final = 3
#: The least time between our deadline and the host's.
LEASE_GUARD_MIN: Final = 0.050
#: The share of a lease between our deadline and the host's.
LEASE_GUARD_SHARE: Final = 0.05
#: The rate at which two clocks may drift apart.
CLOCK_DRIFT: Final = 0.001
#: How long an idle connection is used again; hosts close them after ten seconds.
IDLE_MAX: Final = 5.0
#: Idle connections that are kept.
IDLE_CONNECTIONS_MAX: Final = 8
#: The largest answer, or event, that is read, in bytes.
ANSWER_BYTES_MAX: Final = 64 << 20
#: How long a silent event stream is believed to live; hosts say something every five seconds.
STREAM_SILENCE_MAX: Final = 15.0
#: The pause before a broken event stream is opened again; doubled for each further try, up to the next one.
STREAM_PAUSE_MIN: Final = 0.02
#: The longest such pause.
STREAM_PAUSE_MAX: Final = 1.0
#: How often a confirmation is sent in all.
CONFIRM_TRIES: Final = 3
#: The pause before the second try; doubled for each further one.
CONFIRM_PAUSE: Final = 0.02
#: How often the boot clock is looked at while something is held, to notice that the machine slept.
CLOCK_LOOK: Final = 1.0
#: How often whoever waits for a lock looks whether its session lives.
WAIT_LOOK: Final = 1.0
#: The longest that a lock is waited for; more is for ever.
WAIT_MAX: Final = 1e9
#: Ends of locks that are remembered in case they are told before the grant.
ENDED_KEPT_MAX: Final = 1024
#: The longest label of a lock, in bytes.
LABEL_BYTES_MAX: Final = 128
#: How many members share objects; those who came last have no part.
PARTITION_MEMBERS_MAX: Final = 512
#: The greatest weight that counts.
PARTITION_WEIGHT_MAX: Final = 64
#: The most points of a ring by which members share.
PARTITION_RING_POINTS_MAX: Final = 262_144
#: The most bytes that ids and incarnations of those who share may have.
PARTITION_NAMES_BYTES_MAX: Final = 128 << 10
#: How many resources a fence remembers.
FENCE_RESOURCES_MAX: Final = 65_536
#: The longest name of a resource that a fence remembers as it is, in bytes.
NAME_BYTES_MAX: Final = 512
#: For how long the token read from a file is used before it is read again.
TOKEN_LOOK: Final = 5.0
