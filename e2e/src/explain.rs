//! Whether `explain` tells the truth: random requests are explained and then sent, and what was told must be what is
//! served: `cargo run --release -p e2e -- explain --count 10000`. Cold.

use std::net::SocketAddr;

use serde_json::Value;

use crate::kit::{Backend, Gateway, Launch, Message, Peer, free_port};

/// Arguments of `e2e explain`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Arguments {
    /// Requests
    #[arg(long, default_value_t = 10_000)]
    count: u64,
    /// Of the dice
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs and prints; a difference is an error.
pub fn run(arguments: &Arguments) -> crate::Outcome<bool> {
    let seen = compare(arguments.count, arguments.seed).map_err(crate::Failure::new)?;
    println!("{} requests of seed {}, each as it was explained:", arguments.count, arguments.seed);
    for (what, count) in &seen {
        println!("  {count:>6} {what}");
    }
    Ok(true)
}

const SERVICES: [(&str, &[&str]); 3] = [
    ("web", &["base", "base", "base", "blue", "blue"]),
    ("cart", &["base", "base"]),
    ("price", &["base", "blue", "red"]),
];

fn rules(inside: u16, backends: &[(&str, &str, Backend)]) -> String {
    let listener = |section: &str| {
        format!("{{group: gateway.networking.k8s.io, kind: Gateway, name: shop, sectionName: {section}}}")
    };
    let mut yaml = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: shop}}\nspec:\n  \
         gatewayClassName: evenkeel\n  addresses: [{{value: 127.0.0.1}}]\n  listeners:\n  \
         - {{name: edge, port: {{{{port}}}}, protocol: HTTP}}\n  - {{name: inside, port: {inside}, protocol: HTTP}}\n\
         ---\napiVersion: evenkeel.dev/v1alpha1\nkind: LaneGroup\nmetadata: {{name: lanes}}\nspec:\n  \
         entries: [{}]\n  internal: [{}]\n  lanes:\n  - name: blue\n    selector: {{lane: blue}}\n    match:\n    \
         - headers: [{{name: x-user, value: u1}}]\n    - cookies: [{{name: beta, value: \"1\"}}]\n      methods: [GET]\n    \
         percentage: 30\n    stickyBy: {{header: x-user, onMissing: skip}}\n    capacityGuard: false\n\
         ---\napiVersion: evenkeel.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: users}}\nspec:\n  \
         targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}}]\n  \
         limits: [{{requests: 5, per: 10h}}]\n  by: [{{header: x-user}}]\n  onMissing: skip\n\
         ---\napiVersion: evenkeel.dev/v1alpha1\nkind: FaultInjection\nmetadata: {{name: drill}}\nspec:\n  \
         targetRefs: [{{group: \"\", kind: Service, name: cart}}]\n  match: [{{headers: [{{name: x-drill, value: \"1\"}}]}}]\n  \
         abort: {{status: 418, percentage: 100}}\n",
        listener("edge"),
        listener("inside")
    );
    for (service, _) in SERVICES {
        let endpoints: Vec<String> = backends
            .iter()
            .filter(|(of, ..)| *of == service)
            .map(|(_, lane, backend)| {
                let port = backend.address().port();
                format!("{{address: 127.0.0.1, ports: {{http: {port}}}, labels: {{lane: {lane}}}}}")
            })
            .collect();
        yaml += &format!(
            "---\napiVersion: evenkeel.dev/v1alpha1\nkind: Service\nmetadata: {{name: {service}}}\nspec:\n  \
             ports: [{{name: http, port: 80}}]\n  endpoints: [{}]\n\
             ---\napiVersion: evenkeel.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {service}}}\nspec:\n  \
             targetRefs: [{{group: \"\", kind: Service, name: {service}}}]\n  \
             loadBalancer: {{policy: ringHash, hashOn: [{{header: x-user}}, {{query: q}}, {{clientAddress: true}}]}}\n\
             ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {service}}}\nspec:\n  \
             parentRefs: [{{name: shop}}]\n  hostnames: [{service}.test]\n  rules:\n  \
             - name: old\n    matches: [{{path: {{value: /old}}}}]\n    filters:\n    - type: RequestRedirect\n      \
             requestRedirect: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /new}}}}\n  \
             - name: api\n    matches: [{{path: {{value: /api}}}}, {{headers: [{{name: x-user, value: u2}}]}}]\n    \
             filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-rule, value: api}}]}}}}]\n    \
             backendRefs: [{{name: {service}, port: 80}}]\n  \
             - name: rest\n    matches: [{{path: {{value: /}}, method: GET}}]\n    \
             filters:\n    - {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-rule, value: rest}}]}}}}\n    \
             - {{type: URLRewrite, urlRewrite: {{path: {{type: ReplaceFullPath, replaceFullPath: /rest}}}}}}\n    \
             backendRefs: [{{name: {service}, port: 80}}]\n",
            endpoints.join(", ")
        );
    }
    yaml
}

/// A service that tells what it was asked for.
fn backend() -> Backend {
    Backend::start(|served| {
        while let Some(request) = served.request() {
            let lane = request.get("x-evenkeel-lane").unwrap_or("-");
            let path = request.start.split(' ').nth(1).unwrap_or_default();
            let body = format!("{path} {} {lane}", request.get("host").unwrap_or_default());
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            if !served.peer.send(head + &body) {
                return;
            }
        }
    })
}

/// Explains and sends random requests; tells how many there were of each kind, or the first that was not served as it was
/// explained.
pub fn compare(count: u64, seed: u64) -> Result<Vec<(String, u64)>, String> {
    let backends: Vec<(&str, &str, Backend)> = SERVICES
        .iter()
        .flat_map(|(service, lanes)| lanes.iter().map(move |lane| (*service, *lane, backend())))
        .collect();
    let inside = free_port();
    let gateway = Launch::new(rules(inside, &backends)).start();
    let addresses = [gateway.address(), SocketAddr::from(([127, 0, 0, 1], inside))];
    let mut clients = addresses.map(Peer::connect);
    let mut seen = std::collections::BTreeMap::new();
    let mut dice = Dice(seed);
    for number in 0..count {
        let listener = dice.of(2) as usize;
        let request = random(&mut dice);
        let told = ask(&gateway, addresses[listener].port(), &request)?;
        let counts: Vec<usize> = backends.iter().map(|(.., backend)| backend.requests().len()).collect();
        clients[listener].send(&request);
        let is_to_head = request.starts_with("HEAD");
        let answer = clients[listener].read_answer(is_to_head).map_err(|ended| format!("{request}: {ended:?}"))?;
        let served = backends.iter().zip(counts).find(|((.., backend), before)| backend.requests().len() > *before);
        let served = served.map(|((.., backend), _)| backend.address());
        let different = |what: &str| {
            format!("request {number} of seed {seed}: {what}\n{request}\ntold {told:#}\ngot {answer:?} from {served:?}")
        };
        let kind = agree(&told, &answer, served, is_to_head).map_err(different)?;
        *seen.entry(kind).or_insert(0) += 1;
        if answer.get("connection") == Some("close") {
            clients[listener] = Peer::connect(addresses[listener]);
        }
    }
    Ok(seen.into_iter().collect())
}

/// What kind of answer it was, if it was as told; else what differs.
fn agree(told: &Value, answer: &Message, served: Option<SocketAddr>, is_to_head: bool) -> Result<String, &'static str> {
    if let Some(expected) = told["answer"]["status"].as_u64() {
        if expected != u64::from(answer.status()) || served.is_some() {
            return Err("the status, or that a service was asked at all");
        }
        if told["answer"]["location"].as_str() != answer.get("location") {
            return Err("the location");
        }
        return Ok(format!("answered with {expected}"));
    }
    if answer.status() != 200 || told["endpoint"].as_str().map(str::to_owned) != served.map(|served| served.to_string())
    {
        return Err("the endpoint");
    }
    let rule = told["route"].as_str().and_then(|route| route.rsplit('/').next());
    if rule != answer.get("x-rule") {
        return Err("the rule");
    }
    let (upstream, lane) = (&told["upstream"], told["lane"].as_str());
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let query = upstream["query"].as_str().map_or(String::new(), |query| format!("?{query}"));
    let expected = format!("{}{query} {}", word(&upstream["path"]), word(&upstream["host"]));
    let text = answer.text();
    let mut said = text.rsplitn(2, ' ');
    let (tag, rest) = (said.next().unwrap_or_default(), said.next().unwrap_or_default());
    if !is_to_head && (rest != expected || lane.is_some_and(|lane| tag != "-" && lane != tag)) {
        return Err("what the service was told");
    }
    let fallback = told["fallback"].as_str().map_or(String::new(), |reason| format!(", which is {reason} there"));
    Ok(format!("in {}{fallback}, by rule {}", lane.unwrap_or("the baseline"), rule.unwrap_or("-")))
}

fn ask(gateway: &Gateway, port: u16, head: &str) -> Result<Value, String> {
    let answer = gateway.post(&format!("/explain?port={port}"), head).ok_or("no answer from the admin door")?;
    serde_json::from_slice(&answer.body).map_err(|error| format!("{error}: {}", answer.text()))
}

fn random(dice: &mut Dice) -> String {
    let method = dice.pick(&["GET", "GET", "GET", "POST", "HEAD", "OPTIONS"]);
    let host = dice.pick(&["web.test", "cart.test", "price.test", "WEB.test.", "none.test"]);
    let path = dice.pick(&["/", "/api", "/api/v1", "/old/x", "/a/../api/./b", "/%61pi", "/other", "/bad%zz"]);
    let mut head = format!("{method} {path}?q={} HTTP/1.1\r\nHost: {host}\r\n", dice.of(50));
    let mut maybe = |one_in: u64, field: &dyn Fn(&mut Dice) -> String| {
        if dice.of(one_in) == 0 {
            head += &field(dice);
            head += "\r\n";
        }
    };
    maybe(2, &|dice| format!("X-User: u{}", dice.of(20)));
    maybe(8, &|_| "Cookie: a=b; beta=1".into());
    maybe(6, &|dice| format!("X-Evenkeel-Lane: {}", dice.pick(&["blue", "base", "unknown"])));
    maybe(10, &|_| "Baggage: k=v, evenkeel.lane=blue".into());
    maybe(6, &|_| "X-Drill: 1".into());
    maybe(10, &|dice| format!("Max-Forwards: {}", dice.of(2)));
    maybe(30, &|_| "Content-Length: 0".into());
    head + "\r\n"
}

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn of(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn pick<'w>(&mut self, words: &[&'w str]) -> &'w str {
        words[self.of(words.len() as u64) as usize]
    }
}
