//! The life of a configuration, in the order things happen: files become a tree with positions
//! (`tree`), the tree becomes typed documents (`model`), references between documents are resolved
//! (`compile`), and what comes out is one immutable [`Snapshot`] whose route table answers which rule a
//! request meets (`route`). Everything wrong on that way is a [`Problem`], and all are told at once.
//!
//! No tokio and no sockets live here.
#![forbid(unsafe_code)]

mod compile;
pub mod consistent;
mod decode;
pub mod document;
mod files;
pub mod freeze;
mod model;
mod object;
pub mod place;
pub mod problem;
mod reader;
pub mod route;
pub mod scope;
pub mod sidecar;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod tree;
mod value;
pub mod wire;
pub mod xds;

pub use files::{Source, sources};
pub use model::{kinds, schema};
pub use problem::{Problem, Severity};
pub use reader::{Checked, Loaded, Origin, Reader, load, read};
pub use sidecar::Sidecar;
pub use snapshot::Snapshot;
