//! HTTP/1.1 without sockets, in the order things happen to a message: its head is parsed (`parse`),
//! held against what RFC 9110 and 9112 demand of it, and more (`check`; docs/http.md), its target and host are brought
//! into their one normal form (`target`, `host`, `path`), its body is told from its framing (`body`), and
//! it is written again for the next hop (`encode`). What is refused, and with which status, is `refusal`'s
//! table. Bytes in, bytes out; time, buffers and connections are the driver's business. Pure, Hot.
//!
//! A request goes in as whatever a client wrote and comes out as the one way to say it: route, rules and
//! upstream see the same bytes, and none of them needs to be lenient.

mod body;
mod bytes;
mod check;
mod encode;
mod framing;
mod host;
mod method;
mod names;
mod parse;
mod path;
mod refusal;
mod start_line;
mod target;
#[cfg(test)]
mod tests;
mod trailers;

pub use body::{BodyDecoder, BodyStep};
pub use check::{RequestMeta, ResponseMeta, check_request, check_response};
pub use encode::{answer_framing, encode_request, encode_response, write_chunk_head, write_last_chunk};
pub use framing::Framing;
pub use method::Method;
pub use parse::{HeadLimits, parse_request, parse_response};
pub use refusal::Refusal;
