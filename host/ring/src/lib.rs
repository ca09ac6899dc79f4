//! Says who owns which object, so that all who know the same nodes agree without asking one another.
//!
//! - [`Ring`] is a hash ring, bit for bit that of OpenStack Tooz: a service in Python and one in Rust share it.
//! - [`Rendezvous`] keeps no points: shares follow the weights closely, and a look-up asks every node.
//! - [`Plan`] says what moves when one of these becomes another.
//! - [`Shares`] says who may work on what meanwhile, so that nothing has two owners while it moves.
//!
//! Both take nodes with weights, one at a time, and answer with the owners of a key in order: the primary first, then
//! who takes over when it goes. The answer depends on nodes, weights and key alone, never on the order in which nodes
//! came. Nothing here does I/O, waits or fails.
//!
//! A node is anything with bytes: `String`, `&str`, `Vec<u8>`. Its `Ord` must be that of its bytes, as it is for these.
//! Bounding what strangers send is left to the caller: a ring keeps `partitions × weight` points for a node, of some
//! 60 bytes each.
//!
//! ```
//! use althing_ring::{Plan, Points, Ring};
//!
//! let mut ring = Ring::new(Points::default());
//! for node in ["node1", "node2", "node3"] {
//!     ring.set(node, 1);
//! }
//! assert_eq!(ring.owners(b"foo", 2).collect::<Vec<_>>(), [&"node2", &"node3"]);
//!
//! let mut next = ring.clone();
//! next.set("node4", 1);
//! let plan = Plan::between(&ring, &next);
//! assert!(plan.moves(["foo", "bar", "baz"]).iter().all(|moved| moved.to == Some(&"node4")));
//! ```

mod hash;
mod plan;
mod rendezvous;
mod ring;
mod shares;

pub use hash::{Hash, Place};
pub use plan::{Assignment, Move, Plan, Stretch};
pub use rendezvous::Rendezvous;
pub use ring::{Points, Ring};
pub use shares::{Shares, Way, losers};
