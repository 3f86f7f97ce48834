//! The system calls for which no safe wrapper exists: the only unsafe code of the project. It decides
//! nothing. Cold.
#![allow(unsafe_code, reason = "the one named module of socket calls (tidy checks that it stays the only one)")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// TCP_DEFER_ACCEPT: the kernel hands a connection over only when its first bytes are there, or after about
/// `seconds`. For listeners on which the client speaks first.
pub(crate) fn set_tcp_defer_accept(socket: impl AsFd, seconds: i32) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

fn set_int(socket: impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the length of the call, and the pointer is to an i32 of `size` bytes
    // that outlives it.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
