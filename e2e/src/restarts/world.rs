//! The world in which instances are replaced: control, a gateway, three services whose instances are an app and a sidecar,
//! and what the kubelet does when one comes and one goes. Cold.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::Way;
use super::app::{Addresses, App, Common, How};
use super::ask::{ask, wait_for};
use super::callers::{Door, Load};
use super::chain::{self, SERVICES, WARM_UP};
use super::envoy::Envoy;
use super::served::Served;
use super::sidecar::{Places, Sidecar};
use super::tally::{Gone, Replays};
use crate::fleet::server::Server;
use crate::kit::{Gateway, Launch, Rules, Scratch};
use crate::{Failure, Outcome};

/// For a step that should take no time, control's restart and the time it then waits for everybody included.
const PATIENCE: Duration = Duration::from_secs(60);
/// For an answer of control.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Who is not told when all have heard it hopes that this is enough.
const HOPE: Duration = Duration::from_secs(5);

/// Everything that runs, but the callers. The order is that in which it ends.
pub(super) struct World {
    services: [VecDeque<Instance>; 3],
    plane: Plane,
    folder: Scratch,
    /// Without sidecars: where the apps of each service are.
    written: [Addresses; 3],
    common: Common,
    load: Arc<Load>,
    /// Instances of each service so far.
    started: [usize; 3],
    replays: Replays,
}

/// What is in front of the services.
enum Plane {
    /// Our gateway and control; instances have sidecars, unless it is direct.
    Ours { gateway: Box<Gateway>, server: Box<Server>, is_direct: bool },
    /// And between them, too.
    Envoy(Envoy),
}

struct Instance {
    name: String,
    app: App,
    sidecar: Option<Sidecar>,
}

impl World {
    /// Starts all of it with so many instances of each service, and waits until a request passes.
    pub(super) fn start(instances: usize, work_ms: u64, way: Way, load: &Arc<Load>) -> Outcome<World> {
        let mut world = World {
            services: Default::default(),
            plane: Plane::start(way)?,
            folder: Scratch::create("restarts")?,
            written: Default::default(),
            common: Common { work_ms, ..Common::default() },
            load: load.clone(),
            started: [0; 3],
            replays: Replays::default(),
        };
        for service in (0..SERVICES.len()).rev() {
            (0..instances).try_for_each(|_| world.come(service).map(drop))?;
        }
        match &world.plane {
            Plane::Ours { gateway, .. } => wait_for("a gateway that is ready", PATIENCE, || {
                Ok(gateway.get("/ready").filter(|answer| answer.status() == 200).map(drop))
            })?,
            // Who is outside asks where all others do: nobody has a door of its own.
            Plane::Envoy(Envoy { edge, .. }) => load.change_doors(|doors| {
                doors.push(Door { name: "envoy".into(), serves: *edge, probe: *edge });
            }),
        }
        let mut last = String::new();
        let passed = wait_for("a request that passes", PATIENCE, || {
            let answer = ask(world.address(), &format!("GET {WARM_UP}"), "", "", PATIENCE);
            let passed = answer.and_then(|(status, body)| {
                chain::judge(None, status, body.as_bytes()).map_err(|why| Failure(why.to_string()))
            });
            Ok(passed.map_err(|failure| last = failure.0).ok())
        });
        passed.map_err(|failure| Failure(format!("{failure}; the last one: {last}")))?;
        Ok(world)
    }

    /// Where clients ask.
    pub(super) fn address(&self) -> SocketAddr {
        match &self.plane {
            Plane::Ours { gateway, .. } => gateway.address(),
            Plane::Envoy(envoy) => envoy.edge,
        }
    }

    /// The oldest instance of a service.
    pub(super) fn oldest(&self, service: usize) -> &str {
        self.services[service].front().map_or("nobody", |instance| &instance.name)
    }

    /// One more instance: its app, then its sidecar; ready when control says so. Tells its name.
    pub(super) fn come(&mut self, service: usize) -> Outcome<String> {
        self.started[service] += 1;
        let name = format!("{}-{}", SERVICES[service], self.started[service]);
        let places = Places::free();
        let next = match &self.plane {
            Plane::Ours { is_direct: false, .. } => Arc::new(Mutex::new(vec![places.outbound])),
            Plane::Ours { .. } => self.written.get(service + 1).cloned().unwrap_or_default(),
            Plane::Envoy(envoy) => Arc::new(Mutex::new(vec![envoy.inside])),
        };
        let app = App::start(service, &name, next, &self.common)?;
        let (mut door, mut sidecar) = (Door { name: name.clone(), serves: app.address, probe: app.address }, None);
        if let Plane::Ours { server, is_direct: false, .. } = &self.plane {
            let mut started = Sidecar::start(&self.folder, server.xds, SERVICES[service], &name, app.address, places)?;
            wait_for(&format!("{name} is ready"), PATIENCE, || {
                started.check()?;
                Ok((phase(server.api, service, &name) == "ready").then_some(()))
            })?;
            (door.serves, door.probe) = (places.inbound, places.probe);
            sidecar = Some(started);
        } else {
            self.written[service].lock().expect("no holder panics").push(app.address);
            self.tell_written(service)?;
        }
        if service == 0 && matches!(self.plane, Plane::Ours { .. }) {
            self.load.change_doors(|doors| doors.push(door));
        }
        self.services[service].push_back(Instance { name: name.clone(), app, sidecar });
        Ok(name)
    }

    /// The oldest instance of a service goes, as the kubelet does it: the preStop hook, then SIGTERM for the app and for
    /// the sidecar. `kills_control`: control is killed and started again meanwhile.
    pub(super) fn go(&mut self, service: usize, how: How, kills_control: bool) -> Outcome<Gone> {
        let Some(Instance { name, mut app, sidecar }) = self.services[service].pop_front() else {
            return Err(Failure(format!("{} has no instance", SERVICES[service])));
        };
        let mut gone = Gone { is_at_once: how == How::AtOnce, ..Gone::default() };
        let (wall, told) = (SystemTime::now(), Instant::now());
        self.load.note(&format!("{name} drains"));
        if sidecar.is_none() {
            self.written[service].lock().expect("no holder panics").retain(|known| *known != app.address);
            self.tell_written(service)?;
        }
        if matches!(self.plane, Plane::Envoy(_)) {
            std::thread::sleep(HOPE);
        }
        if let Some(sidecar) = &sidecar {
            gone.troubles.extend(self.drain(service, &name, sidecar, kills_control)?);
            match sidecar.replays() {
                Some(replays) => self.replays.sidecars += replays,
                None => self.replays.silent += 1,
            }
        }
        self.load.note(&format!("{name}'s app ends {}", if how == How::AtOnce { "at once" } else { "gracefully" }));
        app.tell(how);
        if let Some(mut sidecar) = sidecar {
            gone.troubles.extend(sidecar.end().err().map(|failure| format!("{name}: {failure}")));
            app.wait()?;
            gone.exit = told.elapsed();
            self.read_receipt(service, &name, wall, &mut gone);
        } else {
            app.wait()?;
            gone.exit = told.elapsed();
        }
        self.load.change_doors(|doors| doors.retain(|door| door.name != name));
        self.load.note(&format!("{name} has gone"));
        Ok(gone)
    }

    /// The preStop hook. What went wrong is told.
    fn drain(&mut self, service: usize, name: &str, sidecar: &Sidecar, kills_control: bool) -> Outcome<Option<String>> {
        std::thread::scope(|scope| {
            let drain = scope.spawn(|| sidecar.drain());
            if kills_control && let Plane::Ours { server, .. } = &mut self.plane {
                wait_for(&format!("{name} drains"), PATIENCE, || {
                    let is_marked = drain.is_finished() || phase(server.api, service, name) == "draining";
                    Ok(is_marked.then_some(()))
                })?;
                self.load.note(&format!("{name} drains, control is killed"));
                server.restart()?;
            }
            let drained = drain.join().map_err(|_| Failure::new("whoever drains panicked"))?;
            Ok(drained.err().map(|failure| format!("{name}: {failure}")))
        })
    }

    /// Everybody's requests that were sent again, and what was served twice.
    pub(super) fn end(self) -> (Replays, Arc<Mutex<Served>>) {
        let mut replays = self.replays;
        if let Plane::Ours { gateway, .. } = &self.plane {
            replays.gateway = gateway.metric("evenkeel_retries_total") as u64;
        }
        for sidecar in self.services.iter().flatten().filter_map(|instance| instance.sidecar.as_ref()) {
            match sidecar.replays() {
                Some(more) => replays.sidecars += more,
                None => replays.silent += 1,
            }
        }
        (replays, self.common.served.clone())
    }

    /// Tells where the apps of a service are, whose sidecars do not.
    fn tell_written(&self, service: usize) -> Outcome<()> {
        match &self.plane {
            Plane::Ours { server, .. } => apply(server.api, &written(&self.written)),
            Plane::Envoy(envoy) => {
                envoy.tell(SERVICES[service], &self.written[service].lock().expect("no holder panics"))
            }
        }
    }

    /// What control has kept of a drain.
    fn read_receipt(&self, service: usize, name: &str, told: SystemTime, gone: &mut Gone) {
        let instance = format!("default/{}/{name}", SERVICES[service]);
        let path = format!("GET /api/v1/drains?service={}", SERVICES[service]);
        let Plane::Ours { server, .. } = &self.plane else { return };
        let receipt = wait_for(&format!("a receipt of {name}"), PATIENCE, || {
            let Ok((_, text)) = ask(server.api, &path, "", "", ANSWER_MAX) else { return Ok(None) };
            let told: Value = serde_json::from_str(&text).unwrap_or_default();
            let over = told["over"].as_array().into_iter().flatten();
            Ok(over.into_iter().find(|receipt| receipt["instance"] == *instance).cloned())
        });
        match receipt {
            Ok(receipt) => understand(&receipt, told, gone),
            Err(failure) => gone.troubles.push(failure.0),
        }
    }
}

impl Plane {
    fn start(way: Way) -> Outcome<Plane> {
        if way == Way::Envoy {
            return Ok(Plane::Envoy(Envoy::start()?));
        }
        let server = Box::new(Server::start(false)?);
        let gateway = Box::new(Launch::under(server.xds).spawn());
        let is_direct = way == Way::Direct;
        apply(server.api, &gateway.fill(&rules(is_direct)))?;
        Ok(Plane::Ours { gateway, server, is_direct })
    }
}

fn apply(api: SocketAddr, documents: &str) -> Outcome<()> {
    match ask(api, "POST /api/v1/objects", "", documents, PATIENCE)? {
        (200, _) => Ok(()),
        (status, text) => Err(Failure(format!("control: {status} {text}"))),
    }
}

/// How far control has an instance; nothing where it does not know it, or is on its way back.
fn phase(api: SocketAddr, service: usize, name: &str) -> String {
    let path = format!("GET /api/v1/instances/default/{}/{name}", SERVICES[service]);
    let Ok((_, text)) = ask(api, &path, "", "", ANSWER_MAX) else { return String::new() };
    let told: Value = serde_json::from_str(&text).unwrap_or_default();
    told["phase"].as_str().unwrap_or_default().to_owned()
}

/// What a receipt says; `told` is when the instance was told to go.
fn understand(receipt: &Value, told: SystemTime, gone: &mut Gone) {
    let told_ms = told.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3;
    gone.forgotten = receipt["forgottenMilliseconds"].as_f64().map(|since_began| {
        // Control counts from where it heard of it, in whole milliseconds of the same clock.
        let since_told = receipt["began"].as_f64().unwrap_or_default() + since_began - told_ms;
        Duration::from_secs_f64(since_told.max(since_began) / 1e3)
    });
    gone.reason = receipt["reason"].as_str().unwrap_or("no reason").to_owned();
    gone.cut = receipt["cut"].as_u64().unwrap_or_default();
    gone.late = receipt["lateRequests"].as_u64().unwrap_or_default();
}

/// A gateway with a route to the first service, and no attempt after a failed one anywhere.
fn rules(is_direct: bool) -> String {
    let once = |rules: Rules, service: &&str| rules.traffic(service, "retries: {attempts: 0}");
    let rules = Rules::new().rule(&format!("backendRefs: [{{name: {}, port: 80}}]", SERVICES[0]));
    let rules = SERVICES.iter().fold(rules, once);
    if is_direct {
        return rules.yaml();
    }
    // Whose instances register themselves.
    let service = |rules: Rules, name: &&str| {
        rules.text(&format!(
            "apiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports: [{{name: http, port: 80}}]\n"
        ))
    };
    SERVICES.iter().fold(rules, service).yaml()
}

/// The Services with their endpoints.
fn written(all: &[Addresses; 3]) -> String {
    let service = |(name, addresses): (&&str, &Addresses)| {
        let addresses = addresses.lock().expect("no holder panics");
        let endpoint = |at: &SocketAddr| format!("{{address: {}, ports: {{http: {}}}}}", at.ip(), at.port());
        let endpoints: Vec<String> = addresses.iter().map(endpoint).collect();
        format!(
            "apiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports: [{{name: http, port: \
             80}}]\n  endpoints: [{}]\n",
            endpoints.join(", ")
        )
    };
    SERVICES.iter().zip(all).map(service).collect::<Vec<_>>().join("---\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_receipt_counts_from_when_the_instance_was_told() {
        let told = UNIX_EPOCH + Duration::from_millis(1_000_000);
        let check = |receipt: Value, forgotten_ms: Option<u64>, expected: (&str, u64, u64)| {
            let mut gone = Gone::default();
            understand(&receipt, told, &mut gone);
            assert_eq!(gone.forgotten, forgotten_ms.map(Duration::from_millis), "{receipt}");
            assert_eq!((&*gone.reason, gone.cut, gone.late), expected, "{receipt}");
        };
        let good =
            json!({"began": 1_000_002, "forgottenMilliseconds": 5.0, "reason": "quiet", "cut": 0, "lateRequests": 3});
        check(good, Some(7), ("quiet", 0, 3));
        // Of the same millisecond, of which control has cut off what is behind the point.
        check(json!({"began": 999_999, "forgottenMilliseconds": 5.0, "cut": 1}), Some(5), ("no reason", 1, 0));
        check(
            json!({"began": 1_000_002, "forgottenMilliseconds": null, "lateRequests": null}),
            None,
            ("no reason", 0, 0),
        );
    }

    #[test]
    fn services_are_written_with_their_endpoints_only_where_nobody_registers() {
        let all: [Addresses; 3] = Default::default();
        all[1].lock().unwrap().push(SocketAddr::from(([127, 0, 0, 1], 7001)));
        let written = written(&all);
        assert_eq!(written.matches("endpoints: []").count(), 2, "{written}");
        assert!(written.contains("endpoints: [{address: 127.0.0.1, ports: {http: 7001}}]"), "{written}");
        assert_eq!(rules(false).matches("kind: Service\n").count(), 3);
        assert_eq!(rules(true).matches("kind: Service\n").count(), 0);
        assert_eq!(rules(true).matches("retries: {attempts: 0}").count(), 3);
    }
}
