//! Parsers in other languages, each a child that answers one line per request: `ok METHOD TARGET FIELDS BODY END`,
//! `refused WHY` or `unfinished`, with bytes in hexadecimal. Cold.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{Failure, Outcome, need};

use super::reading::{Reading, Verdict};

/// A running parser; it ends with this.
pub(super) struct Parser {
    child: Child,
    requests: ChildStdin,
    verdicts: BufReader<ChildStdout>,
}

impl Parser {
    /// Node's llhttp, strict as it comes.
    pub fn llhttp() -> Outcome<Parser> {
        Parser::start(Command::new(need("node")?).args(["--no-deprecation", "-e", include_str!("llhttp.js")]))
    }

    /// h11, installed into `venv` unless it is there.
    pub fn h11(venv: &Path) -> Outcome<Parser> {
        let python = venv.join("bin/python");
        if !python.exists() {
            run(Command::new(need("python3")?).args(["-m", "venv"]).arg(venv))?;
        }
        if run(Command::new(&python).args(["-c", "import h11"])).is_err() {
            run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "h11==0.16.0"]))?;
        }
        Parser::start(Command::new(python).args(["-c", include_str!("h11.py")]))
    }

    fn start(command: &mut Command) -> Outcome<Parser> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = child.stdin.take().ok_or(Failure::new("the child has no pipe"))?;
        let verdicts = BufReader::new(child.stdout.take().ok_or(Failure::new("the child has no pipe"))?);
        Ok(Parser { child, requests, verdicts })
    }

    /// Its opinion on the first request of `input`.
    pub fn judge(&mut self, input: &[u8]) -> io::Result<Verdict> {
        writeln!(self.requests, "{}", to_hex(input))?;
        let mut line = String::new();
        self.verdicts.read_line(&mut line)?;
        verdict(line.trim_end()).ok_or_else(|| io::Error::other(format!("the parser said {line:?}")))
    }
}

impl Drop for Parser {
    fn drop(&mut self) {
        // A child that is gone already is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let status = command.stdin(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?}: {status}"))) }
}

fn verdict(line: &str) -> Option<Verdict> {
    if line == "unfinished" {
        return Some(Verdict::Unfinished);
    }
    if let Some(reason) = line.strip_prefix("refused ") {
        return Some(Verdict::Refused(reason.to_owned()));
    }
    let mut words = line.strip_prefix("ok ")?.split(' ');
    let method = from_hex(words.next()?)?;
    let target = from_hex(words.next()?)?;
    let fields = words.next()?.split_terminator(',').map(|field| {
        let (name, value) = field.split_once(':')?;
        // Blanks around a value are no part of it (RFC 9112 5.1); llhttp leaves those behind it.
        let value = from_hex(value)?;
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
        let end = value.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
        Some((from_hex(name)?.to_ascii_lowercase(), value[start..end].to_vec()))
    });
    let fields = fields.collect::<Option<_>>()?;
    let body = from_hex(words.next()?)?;
    let end = words.next()?.parse().ok()?;
    Some(Verdict::Accepted(Reading { method, target, fields, body, end: Some(end) }))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}
