//! What services use, written once against the driver trait.

pub(crate) mod behaviour;
pub(crate) mod binding;
pub(crate) mod election;
pub(crate) mod group;
pub(crate) mod handover;
pub(crate) mod lock;
pub(crate) mod member;
pub(crate) mod partition;
pub(crate) mod policy;
pub(crate) mod update;
