//! The data plane, in the order things happen.

mod admin;
mod attempt;
mod balance;
mod buffer;
mod cgroup;
mod connect;
mod connection;
mod driver;
mod error;
mod exchange;
mod forwarded;
mod gateway;
pub mod h1;
mod listen;
mod log;
mod metrics;
mod pool;
mod process;
mod proxy_protocol;
mod record;
mod reply;
mod request;
mod shared;
mod stats;
mod status;
mod sys;
mod view;
mod watch;
mod wire;
mod worker;

pub use gateway::{GatewayArgs, run};
