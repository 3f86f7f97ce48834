//! What tests of whole processes are written with: a gateway, scripted peers on both sides of it, and rules. It
//! panics with a sentence where something is not as a test demands. Cold.

mod backend;
mod gateway;
mod message;
mod names;
mod peer;
mod ports;
mod program;
mod relay;
mod rules;
mod sidecar;
mod speaker;
mod subscriber;
mod wait;

pub use backend::{Backend, Served};
pub use gateway::{Gateway, Launch};
pub use message::Message;
pub use names::{NameServer, Reply};
pub use peer::{Ended, Peer};
pub use ports::free_port;
pub use program::evenkeel;
pub use relay::Relay;
pub use rules::Rules;
pub use sidecar::{Beside, Sidecar};
pub use speaker::Speaker;
pub use subscriber::{Subscriber, Took};
pub use wait::{PATIENCE, until};

pub use crate::process::{Guard, Scratch};
