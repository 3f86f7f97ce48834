//! A control server with ten thousand proxies: `cargo run --release -p e2e -- fleet`. Each proxy is a connection of its own
//! with the real machine, the real reading of rules and the real change of endpoints; both sides share this machine's
//! cores. Measures from a change to the last proxy in which it is in force, and from an instance's wish to go to the last that
//! has forgotten it, what a proxy costs, and a restart. Cold.

mod line;
mod proxy;
pub(crate) mod server;
mod shop;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use config::wire::evenkeel::v1::{Ending, Member, Phase};
use tokio::sync::{Notify, Semaphore};
use tokio::task::LocalSet;

use crate::fleet::line::Line;
use crate::fleet::proxy::Proxy;
use crate::fleet::server::Server;
use crate::fleet::shop::Size;
use crate::kit::{Speaker, Subscriber};
use crate::{Because, Failure, Outcome, procfs};

/// Connections that are being opened at the same time: what the kernel's queue holds.
const OPENING_MAX: usize = 1_000;
/// Of what was sent again, what is told by name.
const NAMED_MAX: usize = 20;
/// The number of the instance that does not go.
const STAYS: u32 = 10_000;
/// For each step.
const PATIENCE: Duration = Duration::from_secs(120);

/// Arguments of `e2e fleet`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Simulated proxies
    #[arg(long, default_value_t = 10_000)]
    proxies: usize,
    /// Gateways among which they are shared out
    #[arg(long, default_value_t = 100)]
    gateways: usize,
    /// Services
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    /// Instances of each
    #[arg(long, default_value_t = 20)]
    endpoints: usize,
    /// Changes of the Service that all use, and drains of its instances; ten times as many changes of those that one Gateway uses
    #[arg(long, default_value_t = 30)]
    changes: usize,
    /// Changes of endpoints in each second of the churn
    #[arg(long, default_value_t = 500)]
    churn: usize,
    /// How long the churn lasts
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Over TLS, each proxy with a whole handshake; without the changes that a Gateway uses, and the churn
    #[arg(long)]
    tls: bool,
}

/// What all proxies share.
struct Fleet {
    way: line::Way,
    opening: Semaphore,
    /// The revision of each proxy, and how many are behind the one that is waited for.
    revisions: RefCell<Vec<u64>>,
    target: Cell<u64>,
    /// Which of them are waited for; empty: all.
    meant: RefCell<Vec<bool>>,
    behind: Cell<usize>,
    reached: Notify,
    resource_bytes: Cell<u64>,
    is_restarted: Cell<bool>,
    /// Resources that were sent after that, by name, and to how many.
    sent: RefCell<BTreeMap<String, usize>>,
    /// Of those that are waited for, when each came.
    latencies: RefCell<Vec<Duration>>,
    since: Cell<Instant>,
}

impl Fleet {
    fn note(&self, number: usize, revision: u64) {
        let before = std::mem::replace(&mut self.revisions.borrow_mut()[number], revision);
        let target = self.target.get();
        if !self.meant.borrow().get(number).copied().unwrap_or(true) {
            return;
        }
        if before < target && revision >= target {
            self.behind.set(self.behind.get() - 1);
            self.latencies.borrow_mut().push(self.since.get().elapsed());
            if self.behind.get() == 0 {
                self.reached.notify_one();
            }
        } else if before >= target && revision < target {
            self.behind.set(self.behind.get() + 1);
        }
    }

    /// Waits until everything up to a revision is in force on so many proxies; `since` is when that began.
    async fn reach(&self, target: u64, among: impl Fn(usize) -> bool, since: Instant) -> Outcome<Vec<Duration>> {
        self.since.set(since);
        self.target.set(target);
        self.latencies.borrow_mut().clear();
        *self.meant.borrow_mut() = (0..self.revisions.borrow().len()).map(&among).collect();
        let behind = |(number, revision): (usize, &u64)| among(number) && *revision < target;
        self.behind.set(self.revisions.borrow().iter().enumerate().filter(|one| behind(*one)).count());
        // Who is not meant does not count.
        while self.behind.get() > 0 {
            tokio::time::timeout(PATIENCE, self.reached.notified())
                .await
                .because(|| format!("{} proxies have not reached revision {target}", self.behind.get()))?;
        }
        Ok(self.latencies.borrow().clone())
    }
}

/// Runs and prints.
pub fn run(arguments: &Arguments) -> Outcome<bool> {
    crate::kit::evenkeel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, measure(arguments))
}

async fn measure(arguments: &Arguments) -> Outcome<bool> {
    let &Arguments { proxies, gateways, services, endpoints, changes, tls, .. } = arguments;
    let size = Size { gateways, services, endpoints };
    let mut server = Server::start(tls)?;
    let begun = Instant::now();
    let everything = server.apply(&shop::documents(size)).await?;
    println!(
        "{services} Services with {endpoints} endpoints each, {gateways} Gateways: stored in {:.2?}",
        begun.elapsed()
    );
    let (cpu_before, resident_before) = (server.cpu()?, server.resident_kib()?);

    let fleet = Rc::new(Fleet {
        way: server.way()?,
        opening: Semaphore::new(OPENING_MAX),
        revisions: RefCell::new(vec![0; proxies]),
        target: Cell::new(0),
        meant: RefCell::default(),
        behind: Cell::new(0),
        reached: Notify::new(),
        resource_bytes: Cell::new(0),
        is_restarted: Cell::new(false),
        sent: RefCell::default(),
        latencies: RefCell::default(),
        since: Cell::new(Instant::now()),
    });
    let begun = Instant::now();
    for number in 0..proxies {
        tokio::task::spawn_local(live(fleet.clone(), number, gateways));
    }
    fleet.reach(everything, |_| true, begun).await?;
    println!(
        "{proxies} proxies connected, everything in force after {:.2?}; {:.1} MB of resources; control used {:.2?} of CPU",
        begun.elapsed(),
        fleet.resource_bytes.get() as f64 / 1e6,
        server.cpu()? - cpu_before,
    );
    // What a burst left behind is given back after a moment.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let resident = server.resident_kib()?;
    let each = (resident - resident_before.min(resident)) as f64 / proxies as f64;
    println!(
        "control: {:.1} MB resident before, {:.1} MB after: {each:.1} KiB a proxy",
        mb(resident_before),
        mb(resident)
    );

    let (mut all, mut cpu, mut own_cpu_used) = (Vec::new(), Duration::ZERO, Duration::ZERO);
    for round in 1..=changes as u64 {
        let (begun, before, own_before) = (Instant::now(), server.cpu()?, own_cpu()?);
        let revision = server.apply(&shop::service(shop::HOT, endpoints, round)).await?;
        let latencies = fleet.reach(revision, |_| true, begun).await?;
        cpu += server.cpu()? - before;
        own_cpu_used += own_cpu()? - own_before;
        all.push(latencies.iter().copied().max().unwrap_or_default());
    }
    print("a change of endpoints that all use, to the last of them", all);
    let each = |cpu: Duration| cpu / changes.max(1) as u32;
    println!("  CPU for each change: control {:.0?}, all proxies {:.0?}", each(cpu), each(own_cpu_used));

    if !tls {
        some_use_it(arguments, &server, &fleet).await?;
        churned(arguments, &server, &fleet).await?;
        drained(arguments, &server, &fleet).await?;
    }
    // Whatever was under way has arrived.
    let revision = server.apply_and_wait(&shop::service(shop::HOT, endpoints, 2 + changes as u64)).await?;
    fleet.reach(revision, |_| true, Instant::now()).await?;
    fleet.resource_bytes.set(0);
    fleet.is_restarted.set(true);
    fleet.revisions.borrow_mut().fill(0);
    let begun = Instant::now();
    server.restart()?;
    fleet.reach(revision, |_| true, begun).await?;
    println!(
        "killed and started again: all {proxies} in force again after {:.2?}; bytes of resources that were sent again: {}",
        begun.elapsed(),
        fleet.resource_bytes.get()
    );
    for (name, count) in fleet.sent.borrow().iter().take(NAMED_MAX) {
        println!("  {name} to {count}");
    }
    Ok(true)
}

/// Instances of the Service that all use come, and go.
async fn drained(arguments: &Arguments, server: &Server, fleet: &Fleet) -> Outcome<()> {
    let &Arguments { endpoints, changes, .. } = arguments;
    let (mut times, mut cpu, xds) = (Vec::new(), Duration::ZERO, server.xds);
    // The last one would wait for another.
    let stays = tokio::task::spawn_blocking(move || Instance::come(xds, STAYS));
    let _stays = stays.await.because(|| "an instance".to_owned())?;
    for round in 0..changes as u32 {
        let come = tokio::task::spawn_blocking(move || Instance::come(xds, round));
        let instance = come.await.because(|| "an instance".to_owned())?;
        // All of them know it.
        let text = shop::service(shop::HOT, endpoints, u64::from(1_000 + round));
        let revision = server.apply(&text).await?;
        fleet.reach(revision, |_| true, Instant::now()).await?;
        let before = server.cpu()?;
        let go = tokio::task::spawn_blocking(move || instance.go());
        times.push(go.await.because(|| "an instance".to_owned())?);
        cpu += server.cpu()? - before;
    }
    print("an instance that all use wants to go, until all have forgotten it", times);
    println!("  CPU for each: control {:.0?}", cpu / changes.max(1) as u32);
    Ok(())
}

/// An instance of the Service that all use, and the proxy that speaks for it.
struct Instance {
    /// Without its stream nobody may speak.
    _proxy: Subscriber,
    speaker: Speaker,
}

impl Instance {
    /// Callers are told of it.
    fn come(xds: SocketAddr, number: u32) -> Instance {
        let name = format!("i{number}");
        let mut proxy = Subscriber::new(&format!("default/{}@{name}", shop::HOT), &[]);
        proxy.connect(xds);
        proxy.take();
        let mut speaker = proxy.join(Member {
            namespace: "default".into(),
            service: shop::HOT.into(),
            name,
            incarnation: 1,
            ports: [("http".into(), 20_000 + number)].into(),
            ..Member::default()
        });
        speaker.say(Phase::Ready);
        speaker.wait_for(Phase::Ready);
        Instance { _proxy: proxy, speaker }
    }

    /// How long it takes until nobody has it any more.
    fn go(mut self) -> Duration {
        let begun = Instant::now();
        self.speaker.drain(PATIENCE);
        self.speaker.hear_until(|told| told.forgetting.as_ref().is_some_and(|forgetting| forgetting.is_over));
        let took = begun.elapsed();
        self.speaker.end(Ending::default());
        self.speaker.wait_for(Phase::Ended);
        took
    }
}

/// Changes that the proxies of one Gateway use.
async fn some_use_it(arguments: &Arguments, server: &Server, fleet: &Fleet) -> Outcome<()> {
    let &Arguments { proxies, gateways, endpoints, changes, .. } = arguments;
    let mut few = Vec::new();
    for round in 0..10 * changes {
        let gateway = round % gateways;
        let begun = Instant::now();
        let text = shop::service(&shop::own(gateway, round % shop::OWN), endpoints, 1 + round as u64);
        let revision = server.apply(&text).await?;
        fleet.reach(revision, |number| number % gateways == gateway, begun).await?;
        few.push(begun.elapsed());
    }
    print(&format!("a change that {} of {proxies} use, to the last of them", proxies / gateways), few);
    Ok(())
}

/// Many of them in each second.
async fn churned(arguments: &Arguments, server: &Server, fleet: &Fleet) -> Outcome<()> {
    let &Arguments { proxies, gateways, services, endpoints, changes, churn, seconds, .. } = arguments;
    let (begun, before) = (Instant::now(), server.cpu()?);
    let size = Size { gateways, services, endpoints };
    let stored = server.churn(size, churn, Duration::from_secs(seconds)).await?;
    let elapsed = begun.elapsed();
    let used = (server.cpu()? - before).as_secs_f64() / elapsed.as_secs_f64();
    // One for all of them comes behind everything that is under way.
    let begun = Instant::now();
    let revision = server.apply(&shop::service(shop::HOT, endpoints, 1 + changes as u64)).await?;
    fleet.reach(revision, |_| true, begun).await?;
    println!(
        "churn: {stored} changes in {elapsed:.1?}, each for {} proxies: control used {used:.2} cores; \
         the next change in force everywhere after {:.0?}",
        proxies / gateways,
        begun.elapsed(),
    );
    Ok(())
}

/// Time on a CPU of this process.
fn own_cpu() -> Outcome<Duration> {
    Ok(Duration::from_nanos(procfs::cpu_ns(&[std::process::id()])?))
}

fn mb(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| times.get(((times.len() - 1) as f64 * part).round() as usize).copied().unwrap_or_default();
    println!("{what}: p50 {:.1?}, p99 {:.1?}, max {:.1?} of {}", at(0.5), at(0.99), at(1.0), times.len());
}

/// The life of a proxy: it connects, and connects anew.
async fn live(fleet: Rc<Fleet>, number: usize, gateways: usize) {
    let mut proxy = Proxy::new(number, number % gateways);
    loop {
        let Err(Failure(_)) = follow(&fleet, number, &mut proxy).await;
        let dice = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let pause = proxy.client().on_disconnected(dice);
        tokio::time::sleep(pause).await;
    }
}

async fn follow(fleet: &Fleet, number: usize, proxy: &mut Proxy) -> Outcome<std::convert::Infallible> {
    let opening = fleet.opening.acquire().await.because(|| "opening".to_owned())?;
    let first = proxy.introduction().ok_or(Failure::new("nothing to say"))?;
    let mut line = Line::open(&fleet.way, &first).await?;
    drop(opening);
    loop {
        let response = line.next().await?;
        let bytes = response.resources.iter().filter_map(|one| one.resource.as_ref()).map(|any| any.value.len() as u64);
        fleet.resource_bytes.set(fleet.resource_bytes.get() + bytes.sum::<u64>());
        for resource in response.resources.iter().filter(|_| fleet.is_restarted.get()) {
            *fleet.sent.borrow_mut().entry(format!("{} {}", resource.name, resource.version)).or_default() += 1;
        }
        let mut said = Ok(());
        proxy.on_response(response, &mut |request| said = line.say(&request))?;
        said?;
        fleet.note(number, proxy.revision());
    }
}
