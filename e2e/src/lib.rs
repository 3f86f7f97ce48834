//! Whole processes and real sockets: the harness that compares evenkeel with its peers, and the kit that tests are
//! written with. The unit tests of the crates stay with the crates. Cold.

#![forbid(unsafe_code)]

mod failure;
mod need;
mod process;
mod procfs;

pub mod bench;
pub mod explain;
pub mod fleet;
pub mod hosts;
pub mod kit;
pub mod lanes;
pub mod load;
pub mod oracles;
pub mod peers;
pub mod restarts;
pub mod soak;
pub mod store;

pub use failure::{Because, Failure, Outcome};
pub use need::need;
