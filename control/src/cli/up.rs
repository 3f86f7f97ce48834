//! `evenkeel up`: the first minute. A gateway on a port of this machine in front of a service of our own, a
//! few requests through it with what they met, then a request a second until Ctrl-C. Cold.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::demo;

/// How to try it.
#[derive(clap::Args)]
pub struct UpArgs {
    /// The gateway's port on this machine
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// End after so many seconds [default: at Ctrl-C]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// Runs the demonstration.
pub fn run(args: UpArgs) -> ExitCode {
    let folder = Folder(std::env::temp_dir().join(format!("evenkeel-up-{}", std::process::id())));
    match show(&args, &folder.0) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// A folder that nothing is left of, whatever happens: a terminal that is closed included.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn show(args: &UpArgs, folder: &Path) -> Result<(), String> {
    let service = demo::start().map_err(|error| format!("cannot start the demo service: {error}"))?;
    let rules = folder.join("rules.yaml");
    let failed = |error: io::Error| format!("cannot write {}: {error}", rules.display());
    fs::create_dir_all(folder).map_err(failed)?;
    fs::write(&rules, rules_for(args.port, service)).map_err(failed)?;
    let gateway = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let running = start_gateway(rules.clone())?;

    println!("gateway   http://{gateway}");
    println!("service   http://{service}");
    println!("rules     {} (change them: they are reloaded)\n", rules.display());
    for (method, path, fields) in [
        ("GET", "/hello?name=you", "x-internal: a secret\r\n"),
        ("GET", "/old/page", ""),
        ("GET", "/a/../b//c", ""),
        ("BAD", "/ HTTP/9.9\r\nx", ""),
    ] {
        tell(gateway, method, path, fields)?;
    }
    println!("now one request a second; try it: curl -i http://{gateway}/hello   (Ctrl-C ends it)");
    let until = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let (mut answered, mut failed) = (0u64, 0u64);
    while !running.is_finished() && until.is_none_or(|until| Instant::now() < until) {
        let started = Instant::now();
        match exchange(gateway, "GET", "/hello", "") {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => answered += 1,
            _ if running.is_finished() => break,
            _ => failed += 1,
        }
        println!("{answered} answered, {failed} failed, the last in {:?}", started.elapsed());
        let next = started + Duration::from_secs(1);
        while Instant::now() < next && !running.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    println!("\nended: {answered} answered, {failed} failed");
    Ok(())
}

/// The rules of the demonstration.
fn rules_for(port: u16, service: SocketAddr) -> String {
    format!(
        r#"apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: demo}}
spec:
  gatewayClassName: evenkeel
  addresses: [{{value: 127.0.0.1}}]
  listeners:
  - {{name: http, port: {port}, protocol: HTTP}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web}}
spec:
  parentRefs: [{{name: demo}}]
  rules:
  - name: moved
    matches: [{{path: {{type: PathPrefix, value: /old}}}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /new}}, statusCode: 301}}
  - name: all
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {{set: [{{name: x-entry, value: demo}}], remove: [x-internal]}}
    timeouts: {{request: 5s}}
    backendRefs: [{{name: web, port: 80}}]
---
apiVersion: evenkeel.dev/v1alpha1
kind: Service
metadata: {{name: web}}
spec:
  ports: [{{name: http, port: 80, appProtocol: http}}]
  endpoints:
  - {{address: {}, ports: {{http: {}}}}}
"#,
        service.ip(),
        service.port()
    )
}

fn start_gateway(rules: PathBuf) -> Result<JoinHandle<ExitCode>, String> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let of = proxy::GatewayArgs::of(vec![rules]);
    let args = proxy::GatewayArgs { workers: Some(1), finish_within: 1, ready: Some(ready), ..of };
    let running = std::thread::Builder::new()
        .name("gateway".into())
        .spawn(move || proxy::run(args))
        .map_err(|error| format!("cannot start the gateway: {error}"))?;
    // Not by asking its port: another program may answer there. One that fails tells why and drops the sender.
    match is_ready.recv_timeout(Duration::from_secs(10)) {
        Ok(()) => Ok(running),
        Err(_) => Err("the gateway did not start".into()),
    }
}

/// Sends one request and shows it with its answer.
fn tell(gateway: SocketAddr, method: &str, path: &str, fields: &str) -> Result<(), String> {
    let answer = exchange(gateway, method, path, fields).map_err(|error| format!("no answer: {error}"))?;
    println!("> {method} {}", path.escape_debug());
    for field in fields.lines() {
        println!("> {field}");
    }
    for line in answer.lines() {
        println!("< {line}");
    }
    println!();
    Ok(())
}

fn exchange(gateway: SocketAddr, method: &str, path: &str, fields: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&gateway, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(6)))?;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: demo.local\r\n{fields}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    Ok(answer)
}
