//! Whole processes and real sockets, in one binary. Each module is one capability, each test a table.

mod bad_bodies;
mod bad_input;
mod forwarding;
mod passing;
mod routing;
mod tidy;
