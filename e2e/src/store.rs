//! What control keeps: `cargo run --release -p e2e -- store`. Changes that are answered only when they are on disk, as fast
//! as writers make them; then a start with a million documents. Cold.

use std::time::{Duration, Instant};

use crate::Outcome;
use crate::fleet::server::{Server, apply};
use crate::kit::Peer;

/// Documents of one transaction while the store is filled.
const BATCH: usize = 10_000;

/// Arguments of `e2e store`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Clients that change documents at the same time
    #[arg(long, default_value_t = 64)]
    writers: usize,
    /// For how long they do
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Documents that there are at the start that is measured
    #[arg(long, default_value_t = 1_000_000)]
    documents: usize,
}

/// Runs and prints.
pub fn run(arguments: &Arguments) -> Outcome<bool> {
    let &Arguments { writers, seconds, documents } = arguments;
    let mut server = Server::start(false)?;
    let (begun, before) = (Instant::now(), server.cpu()?);
    let until = begun + Duration::from_secs(seconds);
    let api = server.api;
    let write = |writer: usize| -> Outcome<u64> {
        let mut peer = Peer::connect(api);
        for number in 0.. {
            if Instant::now() >= until {
                return Ok(number);
            }
            apply(&mut peer, &service(&format!("w{writer}-{}", number % 100), number))?;
        }
        Ok(0)
    };
    let written = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers).map(|writer| scope.spawn(move || write(writer))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a writer panicked")).sum::<Outcome<u64>>()
    })?;
    let elapsed = begun.elapsed().as_secs_f64();
    println!(
        "{writers} writers: {:.0} changes a second, each answered when it is on disk; {:.2} cores",
        written as f64 / elapsed,
        (server.cpu()? - before).as_secs_f64() / elapsed
    );

    let begun = Instant::now();
    let mut peer = Peer::connect(api);
    for first in (0..documents).step_by(BATCH) {
        let batch: String =
            (first..documents.min(first + BATCH)).map(|number| service(&format!("s{number}"), 0)).collect();
        apply(&mut peer, &batch)?;
    }
    println!("{documents} documents stored in {:.1?}; {} MiB resident", begun.elapsed(), server.resident_kib()? / 1024);
    drop(peer);
    let begun = Instant::now();
    server.restart()?;
    println!("killed; answers again after {:.1?}, {} MiB resident", begun.elapsed(), server.resident_kib()? / 1024);
    Ok(true)
}

fn service(name: &str, round: u64) -> String {
    format!(
        "---\n{{apiVersion: evenkeel.dev/v1alpha1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{name: http, \
         port: 80}}], endpoints: [{{address: 10.0.0.1, ports: {{http: {}}}}}]}}}}\n",
        1 + round % 60_000
    )
}
