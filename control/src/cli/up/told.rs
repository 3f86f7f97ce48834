//! What the gateway and the sidecars tell of themselves at their admin doors, in the words of this demonstration, and all of it
//! together. Pure, but for `follow`.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderMap;
use serde_json::Value;

use super::call::{Caller, Place};
use super::world::World;

/// How long it takes to ask them all, one after the other.
const ROUND: Duration = Duration::from_secs(1);
/// They are on this machine; one that has ended does not answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// What all proxies last told.
#[derive(Debug, Default)]
pub struct All {
    of: BTreeMap<String, Told>,
    /// What those had counted who have gone.
    gone: Told,
}

/// What one proxy told, or all of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    /// For each endpoint: what is wrong with it, and the seconds that it is still left alone.
    pub troubles: HashMap<SocketAddr, (String, Option<u64>)>,
    /// Each policy with how it stands.
    pub policies: Vec<PolicyFigures>,
    /// Attempts after a failed one.
    pub retries: u64,
}

/// How a policy stands.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyFigures {
    /// Its kind and name.
    pub name: String,
    /// Requests that it let pass.
    pub admitted: u64,
    /// Requests that it refused.
    pub refused: u64,
    /// What only its kind has.
    pub standing: Standing,
}

/// What a kind of policy has beside these.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Standing {
    /// A breaker at so many proxies, of which so many keep all away just now, or try again; opened so often.
    Breaker { of: u64, open: u64, opened: u64 },
    /// Under way at the busiest of the proxies, of so many, and waiting at all.
    Slots { busiest: u64, limit: u64, waiting: u64 },
    /// Values that are counted.
    Values(u64),
}

/// Asks one proxy after the other, until the world ends.
pub async fn follow(world: Arc<World>) {
    let mut ending = world.ending.subscribe();
    loop {
        let instances = world.shop.instances();
        let doors = instances.iter().map(|instance| (&*instance.name, &*instance.admin));
        let doors: Vec<(&str, &Path)> = std::iter::once(("gateway", &*world.mesh.admin)).chain(doors).collect();
        world.told().keep(|known| doors.iter().any(|(name, _)| known == *name));
        for (name, door) in &doors {
            tokio::select! {
                () = tokio::time::sleep(ROUND / doors.len() as u32) => {}
                _ = ending.wait_for(|is_ending| *is_ending) => return,
            }
            if let Some(told) = ask(door).await {
                world.told().of.insert((*name).to_owned(), told);
            }
            world.look();
        }
    }
}

async fn ask(door: &Path) -> Option<Told> {
    // A connection that is kept would be closed in the meantime.
    let admin = Caller::new(Place::Path(door.to_owned()), "admin");
    let mut bodies = Vec::new();
    for path in ["/endpoints", "/policies", "/metrics"] {
        let answer = admin.get_within(PATIENCE, path, &HeaderMap::new()).await.ok()?;
        bodies.push((answer.status == 200).then_some(answer.body)?);
    }
    let document = |index: usize| serde_json::from_str::<Value>(&bodies[index]).ok();
    Some(Told {
        troubles: troubles(&document(0)?),
        policies: policies(&document(1)?),
        retries: metric(&bodies[2], "evenkeel_retries_total"),
    })
}

impl All {
    /// What all of them say, as one.
    pub fn together(&self) -> Told {
        let mut told = together(self.of.values().chain([&self.gone]));
        // The limit of a service protects its instances: what callers count beside that is left out.
        let inbound = |figures: &PolicyFigures| Some(figures.name.strip_suffix(AT_INBOUND)?.to_owned());
        let protected: Vec<String> = told.policies.iter().filter_map(inbound).collect();
        told.policies.retain(|figures| !protected.contains(&figures.name));
        for figures in &mut told.policies {
            figures.name = figures.name.trim_end_matches(AT_INBOUND).to_owned();
        }
        told
    }

    /// Forgets all others, but for what they have counted.
    fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        let (here, gone) = std::mem::take(&mut self.of).into_iter().partition(|(name, _)| is_there(name));
        let gone: BTreeMap<String, Told> = gone;
        self.of = here;
        self.gone = together(gone.values().chain([&self.gone]));
        self.gone.troubles.clear();
        for figures in &mut self.gone.policies {
            figures.standing = match figures.standing {
                Standing::Breaker { opened, .. } => Standing::Breaker { of: 0, open: 0, opened },
                Standing::Slots { limit, .. } => Standing::Slots { busiest: 0, limit, waiting: 0 },
                Standing::Values(_) => Standing::Values(0),
            };
        }
    }
}

fn together<'t>(all: impl Iterator<Item = &'t Told>) -> Told {
    let mut together = Told::default();
    let mut policies: BTreeMap<&str, PolicyFigures> = BTreeMap::new();
    for told in all {
        together.retries += told.retries;
        together.troubles.extend(told.troubles.iter().map(|(address, trouble)| (*address, trouble.clone())));
        for figures in &told.policies {
            match policies.get_mut(&*figures.name) {
                Some(known) => known.add(figures),
                None => drop(policies.insert(&figures.name, figures.clone())),
            }
        }
    }
    together.policies = policies.into_values().collect();
    together
}

impl PolicyFigures {
    /// Whether it keeps all away just now, somewhere.
    pub fn is_open(&self) -> bool {
        matches!(self.standing, Standing::Breaker { open: 1.., .. })
    }

    fn add(&mut self, other: &PolicyFigures) {
        self.admitted += other.admitted;
        self.refused += other.refused;
        self.standing = match (self.standing, other.standing) {
            (Standing::Breaker { of, open, opened }, Standing::Breaker { of: o, open: p, opened: q }) => {
                Standing::Breaker { of: of + o, open: open + p, opened: opened + q }
            }
            (Standing::Slots { busiest, limit, waiting }, Standing::Slots { busiest: b, limit: l, waiting: w }) => {
                Standing::Slots { busiest: busiest.max(b), limit: limit.max(l), waiting: waiting + w }
            }
            (Standing::Values(values), Standing::Values(others)) => Standing::Values(values + others),
            // A policy is of one kind.
            (standing, _) => standing,
        };
    }
}

const AT_INBOUND: &str = " at inbound";

fn list(document: &Value) -> impl Iterator<Item = &Value> {
    document.as_array().into_iter().flatten()
}

/// What is not as usual: those that go are not in trouble.
fn troubles(document: &Value) -> HashMap<SocketAddr, (String, Option<u64>)> {
    let of_all = list(document).flat_map(|cluster| list(&cluster["endpoints"]));
    let troubles = of_all.filter_map(|endpoint| {
        let state = endpoint["state"].as_str().filter(|state| !["ready", "leaving"].contains(state))?;
        let seconds = endpoint["forSeconds"].as_f64().map(|seconds| seconds as u64);
        Some((endpoint["address"].as_str()?.parse().ok()?, (state.to_owned(), seconds)))
    });
    troubles.collect()
}

fn policies(document: &Value) -> Vec<PolicyFigures> {
    let policy = |told: &Value| {
        let figure = |name: &str| told[name].as_u64();
        let standing = match (told["phase"].as_str(), figure("limit"), figure("values")) {
            (Some(phase), ..) => {
                let open = u64::from(phase != "closed");
                Standing::Breaker { of: 1, open, opened: figure("opened").unwrap_or(0) }
            }
            (_, Some(limit), _) => {
                let figure = |name: &str| figure(name).unwrap_or(0);
                Standing::Slots { busiest: figure("inFlight"), limit, waiting: figure("waiting") }
            }
            (.., values) => Standing::Values(values.unwrap_or(0)),
        };
        let (admitted, refused) = (figure("admitted").unwrap_or(0), figure("refused").unwrap_or(0));
        Some(PolicyFigures { name: name(told["policy"].as_str()?), admitted, refused, standing })
    };
    list(document).filter_map(policy).collect()
}

/// `CircuitBreaker default/price on Service default/price` is `CircuitBreaker price`: in this shop that says it all.
fn name(key: &str) -> String {
    let inbound = if key.ends_with(AT_INBOUND) { AT_INBOUND } else { "" };
    let name = key.split(" on ").next().unwrap_or(key).trim_end_matches(AT_INBOUND);
    format!("{}{inbound}", name.replace(" default/", " "))
}

fn metric(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(clusters: &str, policies: &str, retries: u64) -> Told {
        let (clusters, rules) = (serde_json::from_str(clusters), serde_json::from_str(policies));
        let troubles = troubles(&clusters.expect("JSON"));
        Told { troubles, policies: super::policies(&rules.expect("JSON")), retries }
    }

    #[test]
    fn the_admin_doors_words_become_ours() {
        let clusters = r#"[{"name": "default/web:80", "panic": false, "endpoints": [
            {"address": "127.0.0.1:7001", "state": "ready", "ejections": 0},
            {"address": "127.0.0.1:7002", "state": "ejected", "ejections": 2, "forSeconds": 4.0},
            {"address": "127.0.0.1:7003", "state": "leaving"}, {"address": "nonsense"}, 7]}]"#;
        let told = told(clusters, "[]", 0);
        let ejected = (SocketAddr::from(([127, 0, 0, 1], 7002)), ("ejected".to_owned(), Some(4)));
        assert_eq!(told.troubles.into_iter().collect::<Vec<_>>(), [ejected]);
        assert_eq!(metric("evenkeel_retries_total_x 9\nevenkeel_retries_total 5\n", "evenkeel_retries_total"), 5);
    }

    #[test]
    fn what_all_proxies_say_is_one() {
        let breaker = |phase: &str| {
            format!(
                r#"{{"policy": "A default/a on Service default/a", "admitted": 7, "refused": 1, "phase": "{phase}", "opened": 2}}"#
            )
        };
        let slots = |place: &str, number: u64| {
            format!(
                r#"{{"policy": "B default/b on Service default/b{place}", "admitted": 9, "inFlight": {number}, "limit": 16, "waiting": 1}}"#
            )
        };
        let mut all = All::default();
        for (name, policies, retries) in [
            ("cart-1", [breaker("closed"), slots("", 9)], 1),
            ("cart-2", [breaker("halfOpen"), slots(" at inbound", 3)], 2),
            ("cart-3", [breaker("closed"), slots(" at inbound", 5)], 4),
        ] {
            all.of.insert(name.into(), told("[]", &format!("[{}, 5]", policies.join(", ")), retries));
        }
        let shown = |all: &All| {
            let told = all.together();
            let policies = told.policies.iter();
            let shown = policies.map(|one| format!("{} {}/{} {:?}", one.name, one.admitted, one.refused, one.standing));
            format!("{} retries; {}", told.retries, shown.collect::<Vec<_>>().join("; "))
        };
        assert_eq!(
            shown(&all),
            "7 retries; A a 21/3 Breaker { of: 3, open: 1, opened: 6 }; B b 18/0 Slots { busiest: 5, limit: 16, waiting: 2 }"
        );
        all.keep(|name| name != "cart-2");
        assert_eq!(
            shown(&all),
            "7 retries; A a 21/3 Breaker { of: 2, open: 0, opened: 6 }; B b 18/0 Slots { busiest: 5, limit: 16, waiting: 1 }"
        );
    }
}
