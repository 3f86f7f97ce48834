//! `evenkeel explain`: what a request would meet at a running gateway, told by the gateway itself. Exit code 0: there is an
//! explanation, whatever it says; 1: there is none. Cold.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use proxy::AdminAddress;
use serde_json::Value;

use crate::cli::output::{complain, say};

/// The longest that the gateway may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request, and whom to ask about it.
#[derive(clap::Args)]
pub struct ExplainArgs {
    /// The method, such as GET
    method: String,
    /// The address: http://HOST[:PORT]/PATH; the port tells the listener, 80 if absent
    url: String,
    /// A header field
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Where the gateway's admin door is
    #[arg(long, value_name = "ADDRESS:PORT | PATH", default_value = "127.0.0.1:9901")]
    admin: AdminAddress,
    /// Whom the request comes from
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    client: IpAddr,
    /// Where the request arrives, if not at the port that the address has
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Asks, and tells.
pub fn run(args: ExplainArgs) -> ExitCode {
    match ask(&args) {
        Ok(told) => {
            let text = match args.json {
                true => format!("{told:#}\n"),
                false => text(&args, &told),
            };
            say(&text);
            ExitCode::SUCCESS
        }
        Err(problem) => {
            complain(format_args!("{problem}"));
            ExitCode::FAILURE
        }
    }
}

fn ask(args: &ExplainArgs) -> Result<Value, String> {
    let Target { authority, port, path } = target(&args.url)?;
    let mut head = format!("{} {path} HTTP/1.1\r\n", args.method);
    let has_host = args.headers.iter().any(|field| field.to_ascii_lowercase().starts_with("host:"));
    if !has_host {
        head += &format!("Host: {authority}\r\n");
    }
    for field in &args.headers {
        let (name, value) = field.split_once(':').ok_or_else(|| format!("header {field:?} is not NAME: VALUE"))?;
        head += &format!("{}: {}\r\n", name.trim(), value.trim());
    }
    head += "\r\n";
    let port = args.port.unwrap_or(port);
    let question = format!(
        "POST /explain?port={port}&client={} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{head}",
        args.client,
        head.len()
    );
    let failed = |error: std::io::Error| {
        let admin = match &args.admin {
            AdminAddress::Loopback(address) => address.to_string(),
            AdminAddress::Unix(path) => path.display().to_string(),
        };
        format!("no gateway answers at {admin}: {error} (start it with --admin {admin}, or name another)")
    };
    let answer = match &args.admin {
        AdminAddress::Loopback(address) => over_tcp(*address, &question).map_err(failed)?,
        AdminAddress::Unix(path) => {
            let mut stream = UnixStream::connect(path).map_err(failed)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
            exchange(&mut stream, &question).map_err(failed)?
        }
    };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("what answers there is no gateway's admin door")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(body.trim().to_owned());
    }
    let told: Value = serde_json::from_str(body).map_err(|_| "what answers there is no gateway's admin door")?;
    match told["problem"].as_str() {
        Some(problem) => Err(format!("port {port}: {problem}")),
        None => Ok(told),
    }
}

fn over_tcp(address: SocketAddr, question: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(&mut stream, question)
}

fn exchange(stream: &mut (impl Read + Write), question: &str) -> std::io::Result<String> {
    stream.write_all(question.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(16 << 20).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The parts of an address.
#[derive(Debug, PartialEq)]
struct Target<'u> {
    authority: &'u str,
    port: u16,
    path: String,
}

/// `http://HOST[:PORT]/PATH`, or without the scheme. Whether it is right beyond that, the gateway says.
fn target(url: &str) -> Result<Target<'_>, String> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(format!("{scheme}:// is not served by this build; write http://")),
        None => url,
    };
    let (authority, path) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    if authority.is_empty() {
        return Err(format!("{url:?} has no host; write http://HOST[:PORT]/PATH"));
    }
    let host_end = authority.rfind(']').map_or(0, |end| end + 1);
    let port = match authority[host_end..].rsplit_once(':') {
        Some((_, port)) => port.parse().map_err(|_| format!("{port:?} is not a port"))?,
        None => 80,
    };
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(Target { authority, port, path })
}

/// For people: what it meets, in the order it meets it.
fn text(args: &ExplainArgs, told: &Value) -> String {
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let mut lines = vec![format!("{} {}", args.method, args.url)];
    let mut line = |name: &str, value: String| lines.push(format!("  {name:<10}{value}"));
    line("listener", format!("{} on {}", word(&told["listener"]["name"]), word(&told["listener"]["address"])));
    if !told["client"].is_null() {
        line("client", word(&told["client"]));
        let fallback = match told["fallback"].as_str() {
            Some("absent") => ": the service has no instance in it, the baseline serves",
            Some(_) => ": none of its instances is ready, the baseline serves",
            None => "",
        };
        let source = match told["laneBy"].as_str() {
            Some("tag") => ", by its tag",
            Some("trace") => ", by its trace",
            Some(_) => ", that of the instance",
            None => "",
        };
        let lane = match told["lane"].as_str() {
            Some(lane) => format!("{lane}{source}{fallback}"),
            None => format!("baseline{source}"),
        };
        // Without a sticky key each request is decided anew.
        let diced = match told["laneCookie"].as_str() {
            Some("issued") => ", by the dice: its answer would set the cookie that decides",
            Some(_) => ", by the dice",
            None => "",
        };
        line("lane", format!("{lane}{diced}"));
    }
    if !told["route"].is_null() {
        line("route", word(&told["route"]));
    }
    for policy in told["policies"].as_array().into_iter().flatten() {
        line("policy", format!("{}: {}", word(&policy["policy"]), verdict(policy)));
    }
    if let Some(targets) = told["targets"].as_array().filter(|targets| targets.len() > 1) {
        for target in targets {
            let cluster = target["cluster"].as_str().unwrap_or("no Service, answered 500");
            let drawn = if target["chosen"] == true { ", drawn here" } else { "" };
            line("backend", format!("{cluster}: weight {}{drawn}", target["weight"]));
        }
    }
    if let Some(upstream) = told["upstream"].as_object() {
        let query = upstream["query"].as_str().map_or(String::new(), |query| format!("?{query}"));
        let [cluster, host, path] = ["cluster", "host", "path"].map(|part| word(&upstream[part]));
        line("upstream", format!("{cluster} as {host}{path}{query}"));
    }
    for mirror in told["mirrors"].as_array().into_iter().flatten() {
        let percent = mirror["percent"].as_f64().unwrap_or_default();
        line("mirror", format!("{}: a copy of {percent} %", word(&mirror["cluster"])));
    }
    if told["panic"] == true {
        line("panic", "none is well, so that all are asked all the same".to_owned());
    }
    for endpoint in told["endpoints"].as_array().into_iter().flatten() {
        let mut said = format!("{}: {}", word(&endpoint["address"]), word(&endpoint["verdict"]));
        if endpoint["latencyMs"].as_f64().is_some_and(|latency| latency > 0.0) {
            said += &format!(" ({} ms, {} under way)", endpoint["latencyMs"], endpoint["inFlight"]);
        }
        line("endpoint", said);
    }
    if let Some(reason) = told["waits"].as_str() {
        line("waits", reason.to_owned());
    }
    if let Some(answer) = told["answer"].as_object() {
        let by = ["policy", "reason", "location"].iter().filter_map(|part| answer.get(*part)).map(word);
        let by: Vec<String> = by.collect();
        let flag = answer.get("flag").map_or(String::new(), |flag| format!(" {}", word(flag)));
        line("answer", format!("{}{flag}: {}", word(&answer["status"]), by.join(", ")));
    }
    lines.join("\n") + "\n"
}

fn verdict(policy: &Value) -> String {
    let mut said = match policy["verdict"].as_str().unwrap_or_default() {
        "notConcerned" => "does not look at it".to_owned(),
        "admit" => "lets it through".to_owned(),
        "delay" => match policy["milliseconds"].as_u64() {
            Some(time) => format!("holds it up for {time} ms"),
            None => "lets it wait for a connection".to_owned(),
        },
        "refuse" => match (policy["retryAfterSeconds"].as_u64(), policy["status"].as_u64()) {
            (Some(seconds), _) => format!("refuses it for {seconds} s"),
            (None, Some(status)) => format!("answers it {status}"),
            (None, None) => "refuses it".to_owned(),
        },
        "lane" => {
            let fallback = match policy["fallback"].as_str() {
                Some("absent") => ", of which the service has no instance",
                Some("notReady") => ", of which none is ready",
                Some(_) => ", which has none for it and may not be left",
                None => "",
            };
            match policy["lane"].as_str() {
                Some(lane) => format!("puts it into lane {lane}{fallback}"),
                None => "leaves it in the baseline".to_owned(),
            }
        }
        "watch" => "looks how it goes".to_owned(),
        _ => format!("holds up {} % and answers {} %", policy["delayPercent"], policy["abortPercent"]),
    };
    let ejected: Vec<&str> = policy["ejected"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !ejected.is_empty() {
        said += &format!(", and would leave {} alone", ejected.join(", "));
    }
    if policy["mode"] == "shadow" {
        said += " (in shadow: it only counts)";
    }
    said
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn verdicts_are_words() {
        for (policy, expected) in [
            (json!({"verdict": "delay", "milliseconds": 20}), "holds it up for 20 ms"),
            (
                json!({"verdict": "delay", "mode": "shadow"}),
                "lets it wait for a connection (in shadow: it only counts)",
            ),
            (json!({"verdict": "refuse", "status": 413}), "answers it 413"),
            (json!({"verdict": "refuse", "retryAfterSeconds": 1}), "refuses it for 1 s"),
            (json!({"verdict": "lane", "lane": "blue"}), "puts it into lane blue"),
        ] {
            assert_eq!(verdict(&policy), expected, "{policy}");
        }
    }

    #[test]
    fn addresses_have_host_port_and_path() {
        for (url, expected) in [
            ("http://a.test/x?y=1", Ok(("a.test", 80, "/x?y=1"))),
            ("http://a.test:8080", Ok(("a.test:8080", 8080, "/"))),
            ("a.test:81/x", Ok(("a.test:81", 81, "/x"))),
            ("http://[::1]:82/", Ok(("[::1]:82", 82, "/"))),
            ("http://[::1]/", Ok(("[::1]", 80, "/"))),
            ("http://a?x", Ok(("a", 80, "/?x"))),
            ("https://a/", Err("https:// is not served by this build; write http://")),
            ("/x", Err("\"/x\" has no host; write http://HOST[:PORT]/PATH")),
            ("http://a:b/", Err("\"b\" is not a port")),
        ] {
            let expected = expected.map(|(authority, port, path)| Target { authority, port, path: path.into() });
            assert_eq!(target(url), expected.map_err(str::to_owned), "{url}");
        }
    }
}
