//! The loop over epoll that is generator and backend at once, and the course of a run: warm up, measure, let what is
//! under way end. What an answer must be is `head`'s and `clients`' business. Hot.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event};
use rustix::time::Timespec;

use super::backend::Backend;
use super::clients::Clients;
use super::due::{Dice, Due};
use super::plan::{Arrival, Connections, Latency, Mark, Plan, Span, Tally, Void};
use crate::Outcome;

const TOKEN_LISTENER: u64 = 0;
const TOKEN_BACKEND: u64 = 1 << 32;
const TOKEN_CLIENT: u64 = 2 << 32;

/// Events of one look at epoll.
const EVENTS_MAX: usize = 256;
/// Room for one read: four bodies of the largest request.
const BUFFER_BYTES: usize = 64 * 1024;
/// Longest sleep in epoll, so that a run without events still comes to its end.
const WAIT_NS_MAX: i64 = 10_000_000;

/// Backend and generator, both on the thread that calls.
pub struct Lab {
    epoll: OwnedFd,
    backend: Backend,
    clients: Clients,
    dice: Dice,
    events: Vec<Event>,
    buffer: Vec<u8>,
}

/// The course of one run.
struct Run<'a> {
    plan: &'a Plan,
    begin: Instant,
    due: Due,
    phase: Phase,
    start_ns: u64,
    end_ns: u64,
    answered: u64,
    latency_ns: Option<Histogram<u32>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Warm,
    Measured,
    Ending,
}

impl Lab {
    /// Starts the backend on a free port. Pinning the thread is the caller's business.
    pub fn open() -> Outcome<Lab> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let backend = Backend::listen(&epoll, TOKEN_LISTENER, TOKEN_BACKEND)?;
        Ok(Lab {
            epoll,
            backend,
            clients: Clients::new(TOKEN_CLIENT),
            dice: Dice::new(20_000),
            events: Vec::with_capacity(EVENTS_MAX),
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Where the backend listens on 127.0.0.1.
    pub fn backend_port(&self) -> u16 {
        self.backend.port()
    }

    /// Carries out a plan; `on_mark` is called twice, when measuring starts and ends. Any answer or request that is not
    /// what it must be makes the run void.
    pub fn run(&mut self, plan: &Plan, on_mark: &mut dyn FnMut(Mark)) -> Result<Tally, Void> {
        self.clients.hang_up();
        let mut run = Run::new(plan);
        let result = self.drive(&mut run, on_mark);
        if result.is_err() || !plan.keep_open {
            self.clients.hang_up();
        }
        result.map_err(Void).map(|()| run.tally())
    }

    /// Serves whatever comes for a while without sending requests.
    pub fn rest(&mut self, time: Duration) -> Result<(), Void> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn(WAIT_NS_MAX, None).map_err(Void)?;
        }
        Ok(())
    }

    /// Closes the connections that a plan kept open.
    pub fn hang_up(&mut self) {
        self.clients.hang_up();
    }

    fn drive(&mut self, run: &mut Run<'_>, on_mark: &mut dyn FnMut(Mark)) -> Result<(), String> {
        let plan = run.plan;
        if let Connections::Kept(count) = plan.connections {
            self.clients.open(plan.target, count)?;
        }
        // A measured run never sleeps. An open loop must be on time to the microsecond; and a proxy that must wake an
        // idle CPU with each answer pays for it, so slow proxies, with whom the generator idles more, would pay twice.
        let wait_ns = if matches!(plan.span, Span::Time { .. }) { 0 } else { WAIT_NS_MAX };
        loop {
            let now_ns = run.now_ns();
            run.advance(now_ns, on_mark);
            while self.clients.can_send(plan.connections)
                && let Some(due_ns) = run.due.take(now_ns, self.clients.in_flight(), &mut self.dice)
            {
                let request = &plan.requests[self.dice.below(plan.requests.len())];
                self.clients.send(plan.target, plan.connections, request, due_ns, &self.epoll)?;
            }
            if run.phase == Phase::Ending && self.clients.in_flight() == 0 {
                return Ok(());
            }
            if u128::from(now_ns) > plan.time_max.as_nanos() {
                return Err(format!(
                    "not done after {:?}: {} requests answered, {} without answer",
                    plan.time_max,
                    run.answered,
                    self.clients.in_flight()
                ));
            }
            self.turn(wait_ns, Some(run))?;
        }
    }

    /// One look at epoll and all that it reports.
    fn turn(&mut self, wait_ns: i64, mut run: Option<&mut Run<'_>>) -> Result<(), String> {
        self.events.clear();
        let wait = Timespec { tv_sec: 0, tv_nsec: wait_ns };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("epoll: {error}")),
        }
        for event in &self.events {
            let token = event.data.u64();
            let index = token as u32;
            if token >= TOKEN_CLIENT {
                let connections = run.as_ref().map_or(Connections::Kept(0), |run| run.plan.connections);
                let answered = self.clients.serve(index, connections, &self.epoll, &mut self.buffer)?;
                if let (Some(due_ns), Some(run)) = (answered, &mut run) {
                    run.count(due_ns);
                }
            } else if token >= TOKEN_BACKEND {
                self.backend.serve(index, &self.epoll, &mut self.buffer)?;
            } else {
                self.backend.accept(&self.epoll)?;
            }
        }
        Ok(())
    }
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan) -> Run<'a> {
        let count_max = if let Span::Count(count) = plan.span { count } else { u64::MAX };
        let open_loop = matches!(plan.arrival, Arrival::Poisson { .. });
        Run {
            plan,
            begin: Instant::now(),
            due: Due::new(plan.arrival, count_max),
            phase: Phase::Warm,
            start_ns: 0,
            end_ns: 0,
            answered: 0,
            latency_ns: open_loop.then(|| {
                // From 100 ns to a minute with three digits; later values count as a minute.
                Histogram::new_with_bounds(100, 60_000_000_000, 3).expect("the bounds are valid")
            }),
        }
    }

    fn now_ns(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    /// Goes on to the next phase when it is time.
    fn advance(&mut self, now_ns: u64, on_mark: &mut dyn FnMut(Mark)) {
        let (start_ns, span_ns, count) = match self.plan.span {
            Span::Time { warm, measured } => (warm.as_nanos() as u64, measured.as_nanos() as u64, u64::MAX),
            Span::Count(count) => (0, u64::MAX, count),
        };
        if self.phase == Phase::Warm && now_ns >= start_ns {
            self.phase = Phase::Measured;
            on_mark(Mark::Start);
            self.start_ns = self.now_ns();
        }
        if self.phase == Phase::Measured && (now_ns >= self.start_ns.saturating_add(span_ns) || self.answered >= count)
        {
            self.phase = Phase::Ending;
            self.due.end();
            on_mark(Mark::End);
            self.end_ns = self.now_ns();
        }
    }

    fn count(&mut self, due_ns: u64) {
        if self.phase != Phase::Measured {
            return;
        }
        self.answered += 1;
        if due_ns >= self.start_ns {
            let latency_ns = self.begin.elapsed().as_nanos() as u64 - due_ns;
            if let Some(histogram) = &mut self.latency_ns {
                histogram.saturating_record(latency_ns);
            }
        }
    }

    fn tally(self) -> Tally {
        let percentile_us = |histogram: &Histogram<u32>, quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Tally {
            answered: self.answered,
            elapsed: Duration::from_nanos(self.end_ns - self.start_ns),
            latency: self.latency_ns.map(|histogram| Latency {
                p50_us: percentile_us(&histogram, 0.5),
                p99_us: percentile_us(&histogram, 0.99),
                p999_us: percentile_us(&histogram, 0.999),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};

    use super::super::plan::{Request, get, get_closing};
    use super::*;

    /// Why three requests to `port` are void.
    fn fault(lab: &mut Lab, port: u16, request: Request, connections: Connections) -> String {
        let plan = Plan {
            target: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            requests: vec![request],
            arrival: Arrival::Saturated { in_flight: 2 },
            connections,
            span: Span::Count(3),
            time_max: Duration::from_millis(300),
            keep_open: false,
        };
        lab.run(&plan, &mut |_| {}).expect_err("there is no proxy").0
    }

    #[test]
    fn a_request_that_no_proxy_changed_voids_a_run_at_the_backend() {
        let mut lab = Lab::open().unwrap();
        let port = lab.backend_port();
        for connections in [Connections::Kept(2), Connections::PerRequest] {
            let fault = fault(&mut lab, port, get_closing("h", "/", "t"), connections);
            assert!(fault.contains("at the backend: x-internal came through"), "{fault}");
        }
    }

    #[test]
    fn an_answer_that_no_proxy_changed_voids_a_run_at_the_client() {
        let mut lab = Lab::open().unwrap();
        let port = lab.backend_port();
        let bytes = b"GET / HTTP/1.1\r\nx-lane: blue\r\nx-forwarded-for: ::1\r\n\r\n";
        let request = Request { bytes: bytes[..].into(), answer_length: 1024 };
        let fault = fault(&mut lab, port, request, Connections::Kept(2));
        assert!(fault.contains("at the client: x-proxy is missing"), "{fault}");
    }

    #[test]
    fn a_proxy_that_is_silent_or_absent_ends_a_run_in_time() {
        let mut lab = Lab::open().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let fault_of_silence = fault(&mut lab, port, get("h", "/", "t"), Connections::Kept(2));
        assert!(fault_of_silence.starts_with("not done after 300ms: 0 requests answered, 2 without"));
        drop(silent);
        let fault_of_absence = fault(&mut lab, port, get("h", "/", "t"), Connections::Kept(2));
        assert!(fault_of_absence.contains("refused"), "{fault_of_absence}");
    }
}
