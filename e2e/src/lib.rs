//! Whole processes and real sockets: the harness that compares evenkeel with its peers. The unit tests of the crates
//! stay with the crates. Cold.

#![forbid(unsafe_code)]

mod failure;
mod need;
mod process;
mod procfs;

pub mod bench;
pub mod load;
pub mod oracles;
pub mod peers;

pub use failure::{Because, Failure, Outcome};
pub use need::need;
