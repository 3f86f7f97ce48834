//! In which form a command answers: a table for people, or what control answered as JSON or YAML. Cold.

use std::borrow::Cow;
use std::io::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use crate::cli::client::Failure;
use crate::cli::table::Table;

/// The form of an answer.
#[derive(Debug, Clone, clap::Args)]
pub struct Output {
    /// A table, or what control answers as JSON or YAML
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORM", default_value_t = Form::Table)]
    pub form: Form,
    /// Show all rows, however many
    #[arg(long)]
    pub full: bool,
}

/// For whom it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// People
    Table,
    /// Programs
    Json,
    /// Programs, and people
    Yaml,
}

impl Output {
    /// Prints an answer as it came, if that is asked for; false: people want something else.
    pub fn tell_raw(&self, answer: &Value) -> bool {
        match self.form {
            Form::Table => return false,
            Form::Json => print(&format!("{answer:#}\n")),
            Form::Yaml => print(&yaml(answer)),
        }
        true
    }

    /// Prints a table. What is said of rows that are left out does not get among them.
    pub fn tell(&self, table: &Table) {
        let (text, more) = table.text(self.full);
        say(&text);
        if let Some(more) = more {
            complain(format_args!("{more}"));
        }
    }
}

/// A value as YAML that this project reads as the same value.
pub fn yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).unwrap_or_else(|_| format!("{value:#}\n"))
}

/// Documents as YAML that `apply` takes.
pub fn documents<'v>(documents: impl Iterator<Item = &'v Value>) -> String {
    let texts: Vec<String> = documents.map(yaml).collect();
    texts.join("---\n")
}

/// On standard output, for people.
pub fn say(text: &str) {
    print(&visible(text));
}

/// On standard output, as it is.
pub fn print(text: &str) {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => {}
        // A reader such as `head` has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            crate::log::plain(format_args!("standard output: {error}"));
            std::process::exit(1);
        }
    }
}

/// On standard error.
pub fn complain(text: impl std::fmt::Display) {
    crate::log::plain(visible(&text.to_string()));
}

/// A text in which nothing moves a terminal: what others wrote, such as why they changed something, is shown, not done.
fn visible(text: &str) -> Cow<'_, str> {
    let is_plain = |letter: char| !letter.is_control() || letter == '\n' || letter == '\t';
    match text.chars().all(is_plain) {
        true => Cow::Borrowed(text),
        false => {
            let shown =
                |letter: char| if is_plain(letter) { letter.to_string() } else { letter.escape_default().to_string() };
            Cow::Owned(text.chars().map(shown).collect())
        }
    }
}

/// The end of a command.
pub fn end(result: Result<ExitCode, Failure>) -> ExitCode {
    result.unwrap_or_else(|failure| {
        for problem in failure.problems() {
            complain(format_args!("error: {}", problem["text"].as_str().unwrap_or_default()));
        }
        complain(format_args!("{failure}"));
        failure.exit_code()
    })
}

#[cfg(test)]
mod tests {
    use config::Source;
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_moves_a_terminal() {
        for (text, expected) in
            [("a\tb\nü", "a\tb\nü"), ("\u{1b}[2Jx", "\\u{1b}[2Jx"), ("a\rb\u{7}\u{9b}1m", "a\\rb\\u{7}\\u{9b}1m")]
        {
            assert_eq!(visible(text), expected);
        }
    }

    #[test]
    fn documents_are_read_as_they_were_written() {
        let words = [
            "on",
            "no",
            "~",
            "null",
            "0x50",
            "1_000",
            "1:30",
            "12e3",
            ".5",
            "x: y",
            "- a",
            "# c",
            "a\nb\n",
            "a\nb",
            " a",
            "a ",
            "",
            "'",
            "\"",
            "é",
            "a\u{7}b",
            "%a",
            "---",
            "---\na",
            "{a}",
            "[",
            "*a",
            "&a",
            "!a",
            "|",
            ">",
            "@a",
            "`a",
            "=",
            "<<",
            "2026-01-01",
            "\u{feff}a",
            "\t",
            "a\tb",
            "\\",
            "\u{85}",
            "\u{2028}",
        ];
        let long =
            "more than eighty letters in a row, so that a line of it would be broken somewhere in its midst ".repeat(3);
        let labels: serde_json::Map<String, Value> =
            words.iter().enumerate().map(|(number, word)| (format!("k{number}"), json!(word))).collect();
        let document = |name: &str| {
            json!({
                "apiVersion": "evenkeel.dev/v1alpha1", "kind": "Service",
                "metadata": { "name": name, "annotations": labels, "labels": { "long": long, "on": "y" } },
                "spec": { "ports": [{ "name": "http", "port": 80 }], "dns": null },
            })
        };
        let all = [document("a"), document("b")];
        let text = documents(all.iter());
        let source = Source { name: "all".into(), bytes: text.clone().into_bytes() };
        let read = config::document::documents(&[source]).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
        let read: Vec<Value> = read.into_iter().map(|document| document.value).collect();
        assert_eq!(read, all, "{text}");
    }
}
