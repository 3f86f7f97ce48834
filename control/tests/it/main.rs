//! Whole processes and real sockets, in one binary. Each module is one capability, each test a table.

mod bad_bodies;
mod bad_input;
mod balancing;
mod bounds;
mod client_gone;
mod commands;
mod connects;
mod control;
mod dns;
mod explain;
mod forwarding;
mod image;
mod lanes;
mod large_bodies;
mod mirror;
mod passing;
mod process;
mod protection;
mod reload;
mod retries;
mod routing;
mod service_faults;
mod tidy;
mod up;
mod usage;
mod wire;
