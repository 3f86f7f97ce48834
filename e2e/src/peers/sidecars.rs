//! Sidecars of ours as a contender: one whose calls go out, and the one at which they come in, with lanes and what they count
//! always. Cold.

use std::ffi::OsString;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use super::{Kind, Launch, Running, free_port};
use crate::Outcome;
use crate::load::{Lab, Request, get_inside};
use crate::process::{CPU_PROXY, Guard, Scratch};

/// The request of a call.
pub(crate) fn call() -> Request {
    call_of("backend")
}

/// That of a Service of many.
pub(crate) fn call_of(service: &str) -> Request {
    get_inside(service, "/api/v1/items/42?q=abc", "t-17")
}

/// Starts both, and waits until a call is answered.
pub(crate) fn start_pair(lab: &mut Lab, program: &Path) -> Outcome<Running> {
    let scratch = Scratch::create("sidecars")?;
    let [out, between, unused, other] = [free_port()?, free_port()?, free_port()?, free_port()?];
    let mut rules = String::from(LANES);
    service(&mut rules, "web", unused);
    service(&mut rules, "backend", between);
    rules += &ROUTE.replace("{service}", "backend");
    let file = scratch.write("rules.yaml", &rules)?;
    let callee = one(program, &scratch, &file, "backend", lab.backend_port(), [between, other])?;
    let caller = one(program, &scratch, &file, "web", lab.backend_port(), [unused, out])?;
    ready(lab, program, Running { target: at(out), guard: caller, others: vec![callee], scratch }, call())
}

/// Starts one that knows so many Services, and calls one of them.
pub(crate) fn start_among(lab: &mut Lab, program: &Path, count: usize) -> Outcome<(Running, Vec<Request>)> {
    let scratch = Scratch::create("sidecars")?;
    let [out, unused] = [free_port()?, free_port()?];
    let mut rules = String::from(LANES);
    service(&mut rules, "web", unused);
    let names: Vec<String> = (0..count).map(|number| format!("service-{number}")).collect();
    for name in &names {
        service(&mut rules, name, lab.backend_port());
        rules += &ROUTE.replace("{service}", name);
    }
    let file = scratch.write("rules.yaml", &rules)?;
    let caller = one(program, &scratch, &file, "web", lab.backend_port(), [unused, out])?;
    let requests: Vec<Request> = names.iter().map(|name| call_of(name)).collect();
    let running = Running { target: at(out), guard: caller, others: Vec::new(), scratch };
    Ok((ready(lab, program, running, requests[0].clone())?, requests))
}

fn ready(lab: &mut Lab, program: &Path, mut running: Running, probe: Request) -> Outcome<Running> {
    let launch = Launch { probe: Some(probe), ..Launch::new(Kind::Evenkeel, program) };
    launch.wait_until_ready(&mut running, lab)?;
    Ok(running)
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn one(program: &Path, scratch: &Scratch, rules: &Path, service: &str, app: u16, places: [u16; 2]) -> Outcome<Guard> {
    let [inbound, outbound] = places.map(|port| at(port).to_string());
    let app = at(app).to_string();
    let flags = ["--service", service, "--app", &app, "--inbound", &inbound, "--outbound", &outbound];
    let mut words: Vec<OsString> = ["proxy"].iter().chain(&flags).map(Into::into).collect();
    words.extend(["-f".into(), rules.into(), "--workers".into(), "1".into()]);
    Guard::start(&mut Launch::new(Kind::Evenkeel, program).command(scratch, &words)?, CPU_PROXY)
}

fn service(rules: &mut String, name: &str, port: u16) {
    write!(
        rules,
        "---\napiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports: [{{name: http, port: \
         80}}]\n  endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]\n"
    )
    .expect("a String takes all");
}

/// What the gateway does that is measured beside it.
const ROUTE: &str = r#"---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: {service}}
spec:
  parentRefs: [{group: '', kind: Service, name: {service}}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /api/v1/items}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-lane, value: blue}], remove: [x-internal]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-proxy, value: lab}]}
    backendRefs: [{name: {service}, port: 80}]
"#;

/// A gateway that is not here decides.
const LANES: &str = r#"apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: evenkeel
  listeners: [{name: edge, port: 8080, protocol: HTTP}]
---
apiVersion: evenkeel.dev/v1alpha1
kind: LaneGroup
metadata: {name: lanes}
spec:
  entries: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  lanes:
  - {name: blue, selector: {lane: blue}, match: [{headers: [{name: x-user, value: alice}]}]}
  - {name: green, selector: {lane: green}, match: [{headers: [{name: x-user, value: bob}]}]}
"#;
