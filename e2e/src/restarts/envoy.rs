//! The reference: Envoy in front of the chain and between its services, one process for all hops. It knows the instances from
//! files, which it reads again when they are replaced. Cold.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::ask::{ask, wait_for};
use super::chain::SERVICES;
use crate::kit::free_port;
use crate::peers::{Kind, program};
use crate::process::{Guard, Scratch};
use crate::{Because, Outcome};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// A running Envoy.
pub(super) struct Envoy {
    _guard: Guard,
    folder: Scratch,
    /// Where clients ask.
    pub(super) edge: SocketAddr,
    /// Where services call each other, by Host.
    pub(super) inside: SocketAddr,
}

impl Envoy {
    /// Starts one that knows no instance.
    pub(super) fn start() -> Outcome<Envoy> {
        let program = program(Kind::Envoy, None)?;
        let folder = Scratch::create("envoy")?;
        let [edge, inside, admin] = [(); 3].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        for service in SERVICES {
            write(&folder, service, &[])?;
        }
        let file = folder.write("envoy.yaml", &bootstrap(&folder.path().display().to_string(), edge, inside, admin))?;
        let log = File::create(folder.path().join("log"))?;
        let mut command = Command::new(program);
        command.arg("-c").arg(file).args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut guard = Guard::start_anywhere(&mut command)?;
        wait_for("an Envoy that is ready", READY_WITHIN, || {
            guard.check().because(|| fs::read_to_string(folder.path().join("log")).unwrap_or_default())?;
            let answer = ask(admin, "GET /ready", "", "", Duration::from_secs(1));
            Ok(answer.is_ok_and(|(status, _)| status == 200).then_some(()))
        })?;
        Ok(Envoy { _guard: guard, folder, edge, inside })
    }

    /// A service has these instances from now on: Envoy hears of it in a moment.
    pub(super) fn tell(&self, service: &str, instances: &[SocketAddr]) -> Outcome<()> {
        write(&self.folder, service, instances)
    }
}

/// Replaces the file of a service in one step.
fn write(folder: &Scratch, service: &str, instances: &[SocketAddr]) -> Outcome<()> {
    let endpoint = |at: &SocketAddr| {
        let (ip, port) = (at.ip(), at.port());
        format!("{{endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}}}")
    };
    let endpoints = instances.iter().map(endpoint).collect::<Vec<_>>().join(", ");
    let text = format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: \
         {service}\n  endpoints: [{{lb_endpoints: [{endpoints}]}}]\n"
    );
    let next = folder.write(&format!("{service}.next"), &text)?;
    Ok(fs::rename(next, folder.path().join(format!("{service}.yaml")))?)
}

fn bootstrap(folder: &str, edge: SocketAddr, inside: SocketAddr, admin: SocketAddr) -> String {
    let route = |domain: &str, service: &str| {
        format!(
            "{{name: {service}, domains: [\"{domain}\"], routes: [{{match: {{prefix: /}}, route: {{cluster: {service}, timeout: \
             0s}}}}]}}"
        )
    };
    let listener = |name: &str, at: SocketAddr, hosts: &[String]| {
        format!(
            "  - name: {name}\n    address: {{socket_address: {{address: {}, port_value: {}}}}}\n    filter_chains:\n    - \
             filters:\n      - name: envoy.filters.network.http_connection_manager\n        typed_config:\n          \"@type\": \
             type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
             stat_prefix: {name}\n          route_config: {{virtual_hosts: [{}]}}\n          http_filters: [{{name: \
             envoy.filters.http.router, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]\n",
            at.ip(),
            at.port(),
            hosts.join(", ")
        )
    };
    let cluster = |service: &&str| {
        format!(
            "  - {{name: {service}, type: EDS, connect_timeout: 1s, eds_cluster_config: {{service_name: {service}, eds_config: \
             {{path_config_source: {{path: \"{folder}/{service}.yaml\"}}}}}}}}\n"
        )
    };
    let services: Vec<String> = SERVICES[1..].iter().map(|service| route(service, service)).collect();
    format!(
        "node: {{id: chain, cluster: chain}}\nadmin: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}\n\
         static_resources:\n  listeners:\n{}{}  clusters:\n{}",
        admin.ip(),
        admin.port(),
        listener("edge", edge, &[route("*", SERVICES[0])]),
        listener("inside", inside, &services),
        SERVICES.iter().map(cluster).collect::<String>(),
    )
}
