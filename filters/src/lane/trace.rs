//! Lanes and traces: services that forward nothing else do forward their trace header, and so tell which of their calls
//! belong to which request. Pure, Hot.

mod id;
mod start;

pub use id::{IDS_MAX, Ids, traceparent};
pub use start::{must_start, start, start_or_continue};
