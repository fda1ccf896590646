//! Flows that run: [`endpoint`] keeps what outlives versions, [`version`] is one version with everything open, [`delivery`]
//! takes one message through it, [`ending`] does what the flow says of a failure,
//! [`lane`] keeps order among them, [`build`] makes a version of a checked flow.

pub(crate) mod build;
pub(crate) mod delivery;
mod ending;
pub(crate) mod endpoint;
pub(crate) mod lane;
pub(crate) mod version;
