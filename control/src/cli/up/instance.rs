//! An instance: an application, and its sidecar as a process, from its start to its end as the kubelet has it. Cold.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use rustix::process::Signal;

use super::app::{App, BASE, Switch};
use super::call::{Caller, Place};
use super::child::{Child, Stage};
use super::ports::Seat;

/// From the order to go to the end of all patience.
const DRAIN_WITHIN: Duration = Duration::from_secs(27);
/// For the answer, which comes when it has gone.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);
/// The file of the token for `GET /drain`.
const TOKEN: &str = "drain.token";

/// Whose instance it is, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// Its service.
    pub service: &'static str,
    /// The service that it calls.
    pub next: Option<&'static str>,
    /// Its lane.
    pub lane: &'static str,
}

/// One instance.
pub struct Instance {
    /// Its name at control, such as `cart-3`.
    pub name: String,
    /// Where callers reach it.
    pub inbound: SocketAddr,
    /// Its sidecar's admin door.
    pub admin: PathBuf,
    /// Its application.
    pub app: Arc<App>,
    sidecar: Child,
    probe: Caller,
    token: HeaderValue,
    goes: AtomicBool,
    /// Held until its sidecar has ended: nobody else gets its ports meanwhile.
    _seats: [Seat; 3],
}

/// Writes what may let instances go.
pub fn write_token(stage: &Stage) -> io::Result<()> {
    let words = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    std::fs::write(stage.folder.join(TOKEN), format!("{words:016x}"))
}

impl Instance {
    /// Starts its application and its sidecar, without waiting for either.
    pub fn start(stage: &Stage, control: SocketAddr, role: Role, name: String) -> io::Result<Instance> {
        let seats = [Seat::any()?, Seat::any()?, Seat::any()?];
        let [inbound, outbound, probe] = [&seats[0], &seats[1], &seats[2]].map(Seat::address);
        let app = App::start(role.service, role.lane, role.next, outbound)?;
        let (admin, token) = (stage.folder.join(format!("{name}.sock")), stage.folder.join(TOKEN));
        let within = DRAIN_WITHIN.as_secs().to_string();
        let flags = [
            ("--control", control.to_string()),
            ("--service", role.service.to_owned()),
            ("--instance", name.clone()),
            ("--app", app.address().to_string()),
            ("--inbound", inbound.to_string()),
            ("--outbound", outbound.to_string()),
            ("--probe", probe.to_string()),
            ("--drain-within", within),
            // Nobody calls it but proxies.
            ("--outside-grace", "0".into()),
            ("--finish-within", "1".into()),
        ];
        let mut args: Vec<OsString> = vec!["proxy".into(), "--namespace".into(), "default".into()];
        args.extend(flags.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]));
        args.extend(["--admin".into(), admin.clone().into(), "--drain-token-file".into(), token.clone().into()]);
        if role.lane != BASE {
            args.extend(["--lane".into(), role.lane.into()]);
        }
        let bearer = format!("Bearer {}", std::fs::read_to_string(token)?);
        let token = HeaderValue::try_from(bearer).map_err(io::Error::other)?;
        let sidecar = Child::start(stage, &name, args)?;
        stage.events.call(inbound, &name);
        let (probe, goes) = (Caller::new(Place::At(probe), "probe"), AtomicBool::new(false));
        Ok(Instance { name, inbound, admin, app, sidecar, probe, token, goes, _seats: seats })
    }

    /// The `preStop` hook: comes when nobody sends to it any more.
    pub async fn drain(&self) -> Result<(), String> {
        self.goes.store(true, Relaxed);
        let fields = [(AUTHORIZATION, self.token.clone())].into_iter().collect::<HeaderMap>();
        let answer = self.probe.get_within(DRAINED_WITHIN, "/drain", &fields).await?;
        if answer.status == 200 { Ok(()) } else { Err(format!("/drain answers {} {}", answer.status, answer.body)) }
    }

    /// The end after that: its application ends, and its sidecar is told to.
    pub async fn end(&self) {
        self.goes.store(true, Relaxed);
        self.app.turn(Switch::Ended);
        self.sidecar.signal(Signal::TERM);
        if tokio::time::timeout(DRAINED_WITHIN, self.sidecar.ended()).await.is_err() {
            self.sidecar.signal(Signal::KILL);
        }
    }

    /// As the loss of a machine does it: nobody is told. Comes when it is gone; whoever asks for it sees to what comes after.
    pub async fn kill(&self) {
        self.goes.store(true, Relaxed);
        self.sidecar.signal(Signal::KILL);
        self.sidecar.ended().await;
        // Not before: the sidecar would tell of it.
        self.app.turn(Switch::Dead);
    }

    /// Whether somebody sees to its end.
    pub fn goes(&self) -> bool {
        self.goes.load(Relaxed)
    }

    /// Comes with the end of its sidecar, and how that was.
    pub async fn ended(&self) -> String {
        self.sidecar.ended().await
    }

    /// Whether its sidecar has ended.
    pub fn has_ended(&self) -> bool {
        self.sidecar.has_ended()
    }

    /// The last that its sidecar said.
    pub fn last_words(&self) -> String {
        self.sidecar.last_words()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Its task knows it, too.
        self.app.turn(Switch::Ended);
    }
}
