//! Generator and backend in one cheap thread: a plan goes in, requests run through a proxy under test and back, a
//! tally comes out. What is planned, and what the figures mean, is `bench`'s business. Cold.

mod backend;
mod body;
mod channel;
mod clients;
mod due;
mod head;
mod inbox;
mod lab;
mod plan;
mod slots;

pub(crate) use due::{Dice, Due};
pub use lab::Lab;
pub use plan::{
    Arrival, Connections, Latency, Mark, Plan, Request, Span, Tally, Void, get, get_closing, get_inside, post,
};
