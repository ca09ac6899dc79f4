//! What is asked and shown of groups whose members share objects among them.

use serde::{Deserialize, Serialize};

/// How objects are assigned to members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// A hash ring, bit for bit that of Tooz.
    #[default]
    Ring,
    /// Rendezvous: shares follow the weights more closely.
    Rendezvous,
}

/// Asks for a group to be partitioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PartitionAsk {
    /// How objects are assigned.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// On a ring, how many points a member has for each unit of its weight.
    #[serde(default = "points")]
    pub points: u32,
}

impl Default for PartitionAsk {
    fn default() -> Self {
        PartitionAsk { algorithm: Algorithm::Ring, points: points() }
    }
}

fn points() -> u32 {
    32
}

/// The shares of a group's members at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PartitionInfo {
    /// How objects are assigned.
    pub algorithm: Algorithm,
    /// On a ring, how many points a member has for each unit of its weight.
    pub points: u32,
    /// Rises with every change of the shares.
    pub version: u64,
    /// Who shares now, the oldest member first.
    pub members: Vec<Share>,
    /// Who shared before.
    pub former: Vec<Share>,
    /// The ids of those former ones that have not said yet that they gave up what they lost. What they had and others
    /// are to get belongs to nobody until they do, or leave.
    pub pending: Vec<String>,
}

/// A member's part in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Share {
    /// The member's id.
    pub id: String,
    /// The stay in which it shares.
    pub incarnation: String,
    /// How large its part is beside the others': the number `weight` of its capabilities, else the entry `weight` of its
    /// metadata, else 1. With 0 it has no part.
    pub weight: u32,
}

/// Asks whom objects belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OwnersAsk {
    /// The objects, by any names.
    pub objects: Vec<String>,
    /// How many members to name for each, in order.
    #[serde(default)]
    pub replicas: Option<usize>,
}

/// Whom objects belong to at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OwnersInfo {
    /// The version of the partition.
    pub version: u64,
    /// In the order in which they were asked for.
    pub objects: Vec<Owners>,
}

/// Whom an object belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Owners {
    /// The object.
    pub object: String,
    /// The id of the member that may work on it now; nobody while it moves.
    pub owner: Option<String>,
    /// The members it is to belong to once nothing moves any more, the first owner first.
    pub owners: Vec<String>,
}

/// Says that a member has given up what it lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SettledAsk {
    /// The version of the partition by which it lost that.
    pub version: u64,
}
