//! What may be done to a request and its answer on their way: the parsed [`Head`] both are seen through,
//! and the rules that read and change it. Rules are synchronous, never stop in mid-body and know neither
//! sockets nor clocks.
#![forbid(unsafe_code)]

pub mod head;

pub use head::Head;
