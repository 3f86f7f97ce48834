//! The data plane, in the order things happen.

mod admin;
#[rustfmt::skip]
#[expect(clippy::allow_attributes_without_reason, reason = "generated")]
#[allow(missing_docs, reason = "config/proto says what each means")]
pub mod ads;
mod args;
mod attempt;
mod attempts;
mod balance;
mod budget;
mod buffer;
mod calls;
mod census;
mod cgroup;
mod check;
mod choice;
mod cluster;
mod connect;
mod connection;
mod control;
mod copy;
mod credits;
mod cut;
mod demand;
mod dns;
mod drain;
mod driver;
mod edges;
mod error;
mod exchange;
mod explain;
mod first_use;
mod forwarded;
mod guards;
pub mod h1;
mod hop;
mod instance;
mod lanes;
mod life;
mod listen;
mod log;
mod metrics;
mod mirror;
mod origin;
mod passage;
mod pool;
mod process;
mod proxy_protocol;
mod record;
mod reply;
#[rustfmt::skip]
#[expect(clippy::allow_attributes_without_reason, reason = "generated")]
pub mod rpc;
mod request;
mod retry;
mod revision;
mod shadow;
mod shared;
mod slots;
mod stats;
mod status;
mod subscription;
mod sys;
pub mod trust;
mod view;
pub mod watch;
mod wire;
mod worker;
mod workload;

pub use admin::AdminAddress;
pub use args::{GatewayArgs, ProcessArgs, SidecarArgs};
pub use life::{run, run_sidecar};
