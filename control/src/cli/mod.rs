//! The subcommands, each what an operator types. Cold.

pub mod check;
pub mod control;
pub mod explain;
pub mod schema;
pub mod up;
