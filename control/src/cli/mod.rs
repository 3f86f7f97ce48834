//! The subcommands, each what an operator types; and what those that ask a control server share. Cold.

pub mod apply;
pub mod canary;
pub mod check;
mod client;
pub mod completion;
pub mod control;
pub mod delete;
pub mod diff;
pub mod emergency;
pub mod explain;
pub mod export;
pub mod get;
pub mod history;
mod input;
mod kinds;
mod output;
pub mod rollback;
pub mod schema;
mod scope;
pub mod status;
mod table;
pub mod token;
mod trust;
pub mod up;
mod waiting;
mod why;
