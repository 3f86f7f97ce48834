//! Whole processes and real sockets, in one binary. Each module is one capability, each test a table.

mod tidy;
