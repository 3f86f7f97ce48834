//! Control and the gateway: two children that are started again when they end, unless a key ended them. Cold.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderMap;
use rustix::process::Signal;
use tokio::sync::watch;

use super::call::{Caller, Place};
use super::child::{Child, Stage};
use super::ports::Seat;

/// One that ended by itself comes back after this.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// From one look at one that starts to the next, and how long it may take.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const START_WITHIN: Duration = Duration::from_secs(20);

/// The two, and where they are.
pub struct Mesh {
    /// Control's REST API.
    pub api: SocketAddr,
    /// Control's port for proxies.
    pub xds: SocketAddr,
    /// Where clients come.
    pub edge: SocketAddr,
    /// The gateway's admin door.
    pub admin: PathBuf,
    control: Server,
    gateway: Server,
    /// Both come back where they were.
    _seats: [Seat; 3],
}

/// A child that comes back.
struct Server {
    name: &'static str,
    is_wanted: watch::Sender<bool>,
    /// How it ended last.
    end: watch::Receiver<Option<String>>,
}

impl Mesh {
    /// Starts control with these rules, and the gateway once control answers.
    pub async fn start(stage: &Arc<Stage>, rules: &Path, port: u16) -> Result<Mesh, String> {
        let failed = |error: io::Error| format!("cannot start: {error}");
        let edge = Seat::at(port)
            .map_err(|error| format!("cannot listen on 127.0.0.1:{port}: {error} (--port takes another port)"))?;
        let seats = [Seat::any().map_err(failed)?, Seat::any().map_err(failed)?, edge];
        let [api, xds, edge] = [&seats[0], &seats[1], &seats[2]].map(Seat::address);
        let admin = stage.folder.join("gateway.sock");
        let mut args: Vec<OsString> = vec!["control".into(), "--plaintext".into()];
        for (flag, value) in [("--listen", api), ("--xds", xds)] {
            args.extend([flag.into(), value.to_string().into()]);
        }
        args.extend(["--data".into(), stage.folder.join("control").into(), "-f".into(), rules.into()]);
        let control = Server::start(stage, "control", args);
        control.answers(Caller::new(Place::At(api), &api.to_string()), "/api/v1/instances").await?;
        let mut args: Vec<OsString> =
            ["gateway", "--name", "default/shop", "--workers", "1", "--finish-within", "1"].map(OsString::from).into();
        args.extend(["--control".into(), xds.to_string().into(), "--admin".into(), admin.clone().into()]);
        args.extend(["--data".into(), stage.folder.join("gateway").into()]);
        let gateway = Server::start(stage, "gateway", args);
        Ok(Mesh { api, xds, edge, admin, control, gateway, _seats: seats })
    }

    /// Comes when the gateway is ready.
    pub async fn ready(&self) -> Result<(), String> {
        self.gateway.answers(Caller::new(Place::Path(self.admin.clone()), "admin"), "/ready").await
    }

    /// Kills control as `kill -9` does, or starts it again where it was. Returns whether it shall be there now.
    pub fn turn_control(&self) -> bool {
        self.control.is_wanted.send_modify(|is_wanted| *is_wanted = !*is_wanted);
        *self.control.is_wanted.borrow()
    }
}

impl Server {
    fn start(stage: &Arc<Stage>, name: &'static str, args: Vec<OsString>) -> Server {
        let is_wanted = watch::Sender::new(true);
        let (ended, end) = watch::channel(None);
        tokio::spawn(keep(stage.clone(), name, args, is_wanted.subscribe(), ended));
        Server { name, is_wanted, end }
    }

    /// Comes when it answers 200.
    async fn answers(&self, door: Caller, path: &str) -> Result<(), String> {
        let mut end = self.end.clone();
        let none = HeaderMap::new();
        let answered = async {
            while !door.get_within(START_WITHIN, path, &none).await.is_ok_and(|answer| answer.status == 200) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            answered = tokio::time::timeout(START_WITHIN, answered) =>
                answered.map_err(|_| format!("{} did not start within {START_WITHIN:?}", self.name)),
            Ok(end) = end.wait_for(Option::is_some) =>
                Err(format!("{} did not start: {}", self.name, end.as_deref().unwrap_or_default())),
        }
    }
}

/// Keeps it running as long as it is wanted.
async fn keep(
    stage: Arc<Stage>,
    name: &'static str,
    args: Vec<OsString>,
    mut is_wanted: watch::Receiver<bool>,
    ended: watch::Sender<Option<String>>,
) {
    // It is asked by whoever can want it.
    while is_wanted.wait_for(|is_wanted| *is_wanted).await.is_ok() {
        let how = match Child::start(&stage, name, args.clone()) {
            Err(error) => error.to_string(),
            Ok(child) => {
                let how = tokio::select! {
                    how = child.ended() => Some(how),
                    _ = is_wanted.wait_for(|is_wanted| !*is_wanted) => None,
                };
                let Some(how) = how else {
                    child.signal(Signal::KILL);
                    child.ended().await;
                    continue;
                };
                format!("{how} {}", child.last_words())
            }
        };
        stage.events.say(&format!("{name} has ended ({how}) and is started again"));
        ended.send_replace(Some(how));
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}
