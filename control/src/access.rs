//! Who may do what with the control server. Who somebody is, and how often they may ask, is not decided here. Pure, Cold.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use config::document::Key;
use config::xds::ENDPOINTS;

/// What somebody is trusted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sees everything but tokens and the audit, and changes nothing.
    Viewer,
    /// Changes documents.
    Operator,
    /// Everything.
    Admin,
    /// Gets the rules of its own Gateway or Service.
    Proxy,
}

/// What a proxy stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workload {
    /// A Gateway.
    Gateway(Arc<str>),
    /// A Service.
    Service(Arc<str>),
}

/// What somebody's rights are confined to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// An operator changes only documents of these, and a proxy belongs to one of them. Empty: to all.
    pub namespaces: BTreeSet<Arc<str>>,
    /// What a proxy stands for. None: anything in its namespaces.
    pub workload: Option<Workload>,
    /// Lanes in which a proxy may register an instance. Empty: any.
    pub lanes: BTreeSet<Arc<str>>,
}

/// Somebody who is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name of a token, or `local`.
    pub name: Arc<str>,
    /// What they are trusted with.
    pub role: Role,
    /// And where.
    pub bounds: Bounds,
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy)]
pub enum Action<'a> {
    /// See documents, history, proxies and what changes.
    Read,
    /// Hear what a change would come to.
    Try,
    /// Change documents, whichever they are.
    Change,
    /// Change this one.
    ChangeOf(&'a Key),
    /// See, make or revoke tokens.
    Tokens,
    /// See who did what.
    Audit,
    /// Open a proxy's stream.
    Stream,
    /// Be this proxy there.
    Introduce {
        /// What it calls itself.
        id: &'a str,
        /// What it stands for, `NAMESPACE/NAME`.
        cluster: &'a str,
    },
    /// Speak for an instance of this lane; empty: of none.
    Join {
        /// As its label says.
        lane: &'a str,
    },
    /// Get a resource, or a collection of them.
    Subscribe(&'a str),
}

/// Why somebody may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied(pub String);

/// Who made a change, or tried to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// The name of a token, or `local`; empty: nobody knows.
    pub name: Arc<str>,
    /// None: nobody knows.
    pub role: Option<Role>,
    /// The address. None: control itself.
    pub from: Option<IpAddr>,
}

/// Whether somebody may do that.
pub fn may(identity: &Identity, action: &Action<'_>) -> Result<(), Denied> {
    let Identity { name, role, bounds } = identity;
    let reason = match (role, action) {
        (Role::Admin, _) | (Role::Viewer | Role::Operator, Action::Read | Action::Try) => return Ok(()),
        (Role::Operator, Action::Change) | (Role::Proxy, Action::Stream) => return Ok(()),
        (Role::Operator, Action::ChangeOf(key)) if is_within(bounds, &key.namespace) => return Ok(()),
        (Role::Operator, Action::ChangeOf(key)) => format!("may not change {key}: it is for {}", places(bounds)),
        (Role::Proxy, Action::Introduce { id, cluster }) if is_own(bounds, id, cluster) => return Ok(()),
        (Role::Proxy, Action::Introduce { id, cluster }) => {
            format!("may not be proxy {id:?} of {cluster:?}: it is for {}", workloads(bounds))
        }
        (Role::Proxy, Action::Join { lane }) if is_in(bounds, lane) => return Ok(()),
        (Role::Proxy, Action::Join { lane }) => {
            let lanes: Vec<&str> = bounds.lanes.iter().map(|lane| &**lane).collect();
            format!("may not speak for an instance of lane {lane:?}: it is for {}", lanes.join(", "))
        }
        (Role::Proxy, Action::Subscribe(resource)) if is_for(bounds, resource) => return Ok(()),
        (Role::Proxy, Action::Subscribe(resource)) => {
            format!("may not subscribe to {resource:?}: it is for {}", workloads(bounds))
        }
        (_, Action::Read | Action::Try) => "may not read: it is for the xDS port only".into(),
        (_, Action::Change) => "may not change anything: operator and admin may".into(),
        (_, Action::ChangeOf(key)) => format!("may not change {key}: operator and admin may"),
        (_, Action::Tokens) => "may not see or change tokens: admin may".into(),
        (_, Action::Audit) => "may not see the audit: admin may".into(),
        (_, Action::Stream | Action::Introduce { .. } | Action::Join { .. } | Action::Subscribe(_)) => {
            "may not open a proxy's stream: proxy and admin may".into()
        }
    };
    Err(Denied(format!("{name} ({role}) {reason}")))
}

fn is_within(bounds: &Bounds, namespace: &str) -> bool {
    bounds.namespaces.is_empty() || bounds.namespaces.contains(namespace)
}

/// An instance without a label is of no lane, which a token for lanes is not for.
fn is_in(bounds: &Bounds, lane: &str) -> bool {
    bounds.lanes.is_empty() || bounds.lanes.contains(lane)
}

/// Proxies call themselves `NAMESPACE/NAME@INSTANCE`, of cluster `NAMESPACE/NAME`.
fn is_own(bounds: &Bounds, id: &str, cluster: &str) -> bool {
    let is_of_cluster = id.strip_prefix(cluster).is_some_and(|rest| rest.starts_with('@'));
    let Some((namespace, own)) = cluster.split_once('/') else { return false };
    let is_workload = match &bounds.workload {
        None => !own.is_empty(),
        Some(Workload::Gateway(name) | Workload::Service(name)) => **name == *own,
    };
    is_of_cluster && is_workload && is_within(bounds, namespace)
}

/// `Gateway/NAMESPACE/NAME`, or `/*` behind it for all that belongs to it; and all that belongs to any Service for who may
/// call it, wherever that is.
fn is_for(bounds: &Bounds, resource: &str) -> bool {
    if resource.starts_with(ENDPOINTS) {
        // Given only to those whose rules send requests there, which the catalog knows.
        return true;
    }
    let (whole, is_collection) = resource.strip_suffix("/*").map_or((resource, false), |whole| (whole, true));
    let mut parts = whole.splitn(3, '/');
    let (Some(kind), Some(namespace), Some(own)) = (parts.next(), parts.next(), parts.next()) else { return false };
    let is_name = !own.is_empty() && !own.contains('/');
    match (kind, &bounds.workload) {
        ("Gateway", None) => is_name && is_within(bounds, namespace),
        ("Gateway", Some(Workload::Gateway(name))) => **name == *own && is_within(bounds, namespace),
        ("Service", None | Some(Workload::Service(_))) => is_name && is_collection,
        _ => false,
    }
}

fn places(bounds: &Bounds) -> String {
    let names: Vec<&str> = bounds.namespaces.iter().map(|name| &**name).collect();
    match &names[..] {
        [] => "all namespaces".into(),
        [one] => format!("namespace {one}"),
        many => format!("namespaces {}", many.join(", ")),
    }
}

fn workloads(bounds: &Bounds) -> String {
    match &bounds.workload {
        None => places(bounds),
        Some(Workload::Gateway(name)) => format!("Gateway {name} in {}", places(bounds)),
        Some(Workload::Service(name)) => format!("Service {name} in {}", places(bounds)),
    }
}

impl Identity {
    /// Somebody on the same machine, where that is all that is asked for.
    pub fn local() -> Identity {
        Identity { name: "local".into(), role: Role::Admin, bounds: Bounds::default() }
    }
}

impl Author {
    /// Control itself.
    pub fn control() -> Author {
        Author { name: "control".into(), role: Some(Role::Admin), from: None }
    }

    /// Whoever writes the files that control is started with.
    pub fn files() -> Author {
        Author { name: "files".into(), role: None, from: None }
    }
}

impl Role {
    const ALL: [Role; 4] = [Role::Viewer, Role::Operator, Role::Admin, Role::Proxy];

    /// None: there is no such role.
    pub fn of(word: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.word() == word)
    }

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
            Role::Proxy => "proxy",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(role: Role, namespaces: &[&str], workload: Option<Workload>) -> Identity {
        let namespaces = namespaces.iter().map(|name| Arc::from(*name)).collect();
        Identity { name: "t".into(), role, bounds: Bounds { namespaces, workload, ..Bounds::default() } }
    }

    #[test]
    fn each_role_may_what_it_is_for() {
        let key = |namespace: &str| Key { kind: "Service".into(), namespace: namespace.into(), name: "a".into() };
        let (shop, pay) = (key("shop"), key("pay"));
        let actions = [
            ("read", Action::Read),
            ("try", Action::Try),
            ("change", Action::Change),
            ("shop", Action::ChangeOf(&shop)),
            ("pay", Action::ChangeOf(&pay)),
            ("tokens", Action::Tokens),
            ("audit", Action::Audit),
            ("stream", Action::Stream),
            ("own", Action::Introduce { id: "shop/edge@h:1", cluster: "shop/edge" }),
            ("sibling", Action::Introduce { id: "shop/other@h:1", cluster: "shop/other" }),
            ("foreign", Action::Introduce { id: "pay/edge@h:1", cluster: "pay/edge" }),
            ("liar", Action::Introduce { id: "pay/edge@h:1", cluster: "shop/edge" }),
            ("half", Action::Introduce { id: "shop/edge2@h:1", cluster: "shop/edge" }),
            ("nobody", Action::Introduce { id: "", cluster: "" }),
            ("edge", Action::Subscribe("Gateway/shop/edge")),
            ("edge/*", Action::Subscribe("Gateway/shop/edge/*")),
            ("other/*", Action::Subscribe("Gateway/shop/other/*")),
            ("pay/*", Action::Subscribe("Gateway/pay/edge/*")),
            ("deep", Action::Subscribe("Gateway/shop/edge/x/*")),
            ("all", Action::Subscribe("*")),
            ("service", Action::Subscribe("Service/shop/a")),
            ("service/*", Action::Subscribe("Service/shop/a/*")),
            ("far/*", Action::Subscribe("Service/pay/b/*")),
            ("far/deep", Action::Subscribe("Service/pay/b/c/*")),
        ];
        let edge = || Some(Workload::Gateway("edge".into()));
        for (who, expected) in [
            (identity(Role::Viewer, &[], None), "read try"),
            (identity(Role::Operator, &[], None), "read try change shop pay"),
            (identity(Role::Operator, &["shop"], None), "read try change shop"),
            (identity(Role::Proxy, &["shop"], edge()), "stream own edge edge/*"),
            (identity(Role::Proxy, &["shop"], None), "stream own sibling edge edge/* other/* service/* far/*"),
            (identity(Role::Proxy, &["shop"], Some(Workload::Service("edge".into()))), "stream own service/* far/*"),
        ] {
            let allowed = actions.iter().filter(|(_, action)| may(&who, action).is_ok()).map(|(name, _)| *name);
            assert_eq!(allowed.collect::<Vec<_>>().join(" "), expected, "{who:?}");
        }
        assert!(actions.iter().all(|(_, action)| may(&Identity::local(), action).is_ok()));
    }

    #[test]
    fn a_refusal_says_who_may_not_what_and_why() {
        let edge = Some(Workload::Gateway("edge".into()));
        let key = Key { kind: "Service".into(), namespace: "pay".into(), name: "a".into() };
        for (who, action, expected) in [
            (
                identity(Role::Viewer, &[], None),
                Action::Change,
                "t (viewer) may not change anything: operator and admin may",
            ),
            (
                identity(Role::Operator, &["shop", "web"], None),
                Action::ChangeOf(&key),
                "t (operator) may not change Service/pay/a: it is for namespaces shop, web",
            ),
            (
                identity(Role::Proxy, &["shop"], edge),
                Action::Subscribe("Gateway/pay/edge/*"),
                "t (proxy) may not subscribe to \"Gateway/pay/edge/*\": it is for Gateway edge in namespace shop",
            ),
        ] {
            assert_eq!(may(&who, &action), Err(Denied(expected.into())));
        }
    }
}
