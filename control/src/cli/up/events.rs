//! What happens, in lines: what children say as far as people want to know, what keys did, and who has come and gone. Pure, but
//! for the lock and the clock of `say`.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Events that are remembered.
const EVENTS_MAX: usize = 100;
/// Addresses whose names are known: of those who stand there, and of those who stood there.
const NAMES_MAX: usize = 64;
/// Among so many of the last events, one that others tell, too, is told once.
const TOLD_AGAIN: usize = 8;

/// What has happened.
#[derive(Default)]
pub struct Events {
    inner: Mutex<Inner>,
    /// To standard error, too: nobody draws there.
    is_plain: bool,
    /// What is left away before names of files: lines are short.
    folder: String,
}

#[derive(Default)]
struct Inner {
    lines: VecDeque<Line>,
    names: VecDeque<(String, String)>,
}

/// One event, and who has told it.
struct Line {
    time: String,
    text: String,
    /// What is the same whoever tells it.
    gist: String,
    tellers: Vec<String>,
}

impl Events {
    /// Nothing so far. Children name files of this folder.
    pub fn new(is_plain: bool, folder: &Path) -> Events {
        Events { is_plain, folder: format!("{}/", folder.display()), ..Events::default() }
    }

    /// Something that happened here.
    pub fn say(&self, text: &str) {
        let time = jiff::Timestamp::now().strftime("%H:%M:%S").to_string();
        let mut inner = self.inner();
        self.add(&mut inner, Line { time, text: text.to_owned(), gist: String::new(), tellers: Vec::new() });
    }

    /// A line of a child.
    pub fn hear(&self, name: &str, line: &str) {
        let mut inner = self.inner();
        let short = if self.folder.is_empty() { line.to_owned() } else { line.replace(&self.folder, "") };
        let Some((time, text, gist)) = understand(name, &short, &inner.names) else { return };
        let mut last = inner.lines.iter_mut().rev().take(TOLD_AGAIN);
        match last.find(|known| known.gist == gist && !known.tellers.iter().any(|teller| teller == name)) {
            Some(known) => known.tellers.push(name.to_owned()),
            None => self.add(&mut inner, Line { time, text, gist, tellers: vec![name.to_owned()] }),
        }
    }

    /// From now on this address has a name.
    pub fn call(&self, address: SocketAddr, name: &str) {
        let mut inner = self.inner();
        inner.names.push_front((address.to_string(), name.to_owned()));
        inner.names.truncate(NAMES_MAX);
    }

    /// The newest last.
    pub fn lines(&self) -> Vec<String> {
        let shown = |line: &Line| match line.tellers.len() {
            0 | 1 => format!("{} {}", line.time, line.text),
            count => format!("{} {} ({count} say so)", line.time, line.text),
        };
        self.inner().lines.iter().map(shown).collect()
    }

    fn add(&self, inner: &mut Inner, line: Line) {
        if self.is_plain {
            // Who does not read it does not need to know.
            let _ = writeln!(std::io::stderr(), "{} {}", line.time, line.text);
        }
        inner.lines.push_back(line);
        if inner.lines.len() > EVENTS_MAX {
            inner.lines.pop_front();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line of a child: the time of the day, the text with the names of instances in place of addresses, and its gist. None: it is
/// only of interest when one looks for it.
fn understand(name: &str, line: &str, names: &VecDeque<(String, String)>) -> Option<(String, String, String)> {
    let timed = line.split_once(' ').and_then(|(time, rest)| Some((time.split_once('T')?.1.get(..8)?, rest)));
    let (time, rest) = timed.unwrap_or(("", line));
    // Proxies say how grave it is; sixteen of them that begin and end are no news.
    if rest.starts_with("info ") || rest.contains("without a token") {
        return None;
    }
    let mut text = rest.trim_start_matches("warn ").trim_start_matches("error ").trim_start().to_owned();
    for (address, instance) in names {
        // The log names the cluster first, which the name of the instance says, too.
        if let Some((lead, rest)) = text.split_once(&format!("{address} ")) {
            let lead = lead.strip_suffix(": ").map_or(lead, |lead| lead.rsplit_once(' ').map_or("", |(lead, _)| lead));
            text = format!("{lead}{instance} {rest}");
        }
    }
    // The reason is behind the last colon, and differs in words that do not matter.
    let gist = text.rsplit_once(": ").map_or(&*text, |(gist, _)| gist).to_owned();
    Some((time.to_owned(), format!("{name}: {text}"), gist))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_time_of_the_day_and_names() {
        let names = [("127.0.0.1:7001".to_owned(), "web-1".to_owned())].into();
        for (line, expected) in [
            ("2026-11-21T10:08:13.872Z info  listening", None),
            (
                "2026-11-21T10:08:13.872Z warn  default/web:80: 127.0.0.1:7001 is ejected for 5s",
                Some("10:08:13 cart-3: web-1 is ejected for 5s"),
            ),
            (
                "2026-11-21T10:08:13.872Z warn  default/web:80: 127.0.0.1:70010 x",
                Some("10:08:13 cart-3: default/web:80: 127.0.0.1:70010 x"),
            ),
            ("2026-11-21T10:08:13.872Z revision 2: 1 document", Some("10:08:13 cart-3: revision 2: 1 document")),
            ("error: rules.yaml:5: no", Some(" cart-3: error: rules.yaml:5: no")),
        ] {
            let told = understand("cart-3", line, &names).map(|(time, text, _)| format!("{time} {text}"));
            assert_eq!(told.as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn what_many_say_is_told_once() {
        let events = Events::new(false, Path::new("/tmp/evenkeel-up-1"));
        events.hear("control", "2026-11-21T10:08:12Z error /tmp/evenkeel-up-1/rules.yaml:4: no");
        assert_eq!(events.lines(), ["10:08:12 control: rules.yaml:4: no"]);
        let events = Events::default();
        for proxy in ["web-1", "web-2", "gateway"] {
            events.hear(proxy, &format!("2026-11-21T10:08:13Z warn  control is gone: {proxy}'s reason"));
        }
        events.hear("web-1", "2026-11-21T10:08:14Z warn  control is gone: again");
        let expected =
            ["10:08:13 web-1: control is gone: web-1's reason (3 say so)", "10:08:14 web-1: control is gone: again"];
        assert_eq!(events.lines(), expected);
    }
}
