//! A running `evenkeel proxy` beside a scripted service, with its two doors. It ends with the value. Cold.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};

use super::rules::PORT;
use super::{Gateway, Launch, Peer, evenkeel, free_port};

/// A sidecar: a process like a gateway, whose address is where calls go out.
pub struct Sidecar {
    process: Gateway,
    inbound: SocketAddr,
}

/// How one shall be started.
pub struct Beside {
    launch: Launch,
    inbound: SocketAddr,
}

impl Beside {
    /// Beside an instance of a Service, with these rules.
    pub fn files(yaml: impl Into<String>, service: &str, app: SocketAddr) -> Beside {
        Beside::new(Launch::new(yaml), service, app, SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())))
    }

    /// With these rules, which name its inbound address already.
    pub fn at(yaml: impl Into<String>, service: &str, app: SocketAddr, inbound: SocketAddr) -> Beside {
        Beside::new(Launch::new(yaml), service, app, inbound)
    }

    /// Under a control server.
    pub fn under(control: SocketAddr, service: &str, app: SocketAddr) -> Beside {
        Beside::under_at(control, service, app, SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())))
    }

    /// The same, with this inbound address.
    pub fn under_at(control: SocketAddr, service: &str, app: SocketAddr, inbound: SocketAddr) -> Beside {
        Beside::new(Launch::of(control), service, app, inbound)
    }

    fn new(launch: Launch, service: &str, app: SocketAddr, inbound: SocketAddr) -> Beside {
        let outbound = format!("127.0.0.1:{PORT}");
        let (app, door) = (app.to_string(), inbound.to_string());
        let flags = ["--service", service, "--app", &app, "--inbound", &door, "--outbound", &outbound];
        let program = evenkeel().display().to_string();
        Beside { launch: launch.program(&[&program, "proxy"]).flags(&flags), inbound }
    }

    /// More flags.
    pub fn flags(mut self, flags: &[&str]) -> Beside {
        self.launch = self.launch.flags(flags);
        self
    }

    /// Starts it, without waiting for anything.
    pub fn spawn(self) -> Sidecar {
        Sidecar { process: self.launch.spawn(), inbound: self.inbound }
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Sidecar {
        Sidecar { process: self.launch.start(), inbound: self.inbound }
    }
}

impl Sidecar {
    /// Where requests to the instance come in.
    pub fn inbound(&self) -> SocketAddr {
        self.inbound
    }

    /// A new caller of the instance.
    pub fn connect_inbound(&self) -> Peer {
        Peer::connect(self.inbound)
    }
}

impl DerefMut for Sidecar {
    fn deref_mut(&mut self) -> &mut Gateway {
        &mut self.process
    }
}

impl Deref for Sidecar {
    type Target = Gateway;
    fn deref(&self) -> &Gateway {
        &self.process
    }
}
