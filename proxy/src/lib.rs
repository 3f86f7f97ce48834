//! The data plane.

pub mod h1;
