//! Tables that people read: aligned by their widest cell, cut to the first screen with a word on what is missing. Pure, Cold.

/// Rows that are shown unless all are asked for: with its head, and a line before and after, a screen of 24 lines.
pub const ROWS_MAX: usize = 20;

/// Rows below a head.
#[derive(Debug, Default)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows.
    pub fn new(head: &[&'static str]) -> Table {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    /// One more row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // A line end in a cell would break the table.
        self.rows.push(cells.into_iter().map(|cell| cell.replace(['\n', '\r'], " ")).collect());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, and what is to be said of rows that are left out.
    pub fn text(&self, is_full: bool) -> (String, Option<String>) {
        let shown = if is_full { self.rows.len() } else { self.rows.len().min(ROWS_MAX) };
        let rows = &self.rows[..shown];
        let width = |column: usize, word: &str| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).chain([word.len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self.head.iter().enumerate().map(|(column, word)| width(column, word)).collect();
        let mut text = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded: Vec<String> =
                cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
            text += padded.join("  ").trim_end();
            text.push('\n');
        };
        line(&mut self.head.iter().copied());
        for row in rows {
            line(&mut row.iter().map(String::as_str));
        }
        let left = self.rows.len() - shown;
        (text, (left > 0).then(|| format!("... and {left} more of {}; --full shows all", self.rows.len())))
    }
}

/// A text of so many letters at most.
pub fn cut(text: &str, letters: usize) -> String {
    match text.chars().count() <= letters {
        true => text.to_owned(),
        false => text.chars().take(letters.saturating_sub(3)).chain("...".chars()).collect(),
    }
}

/// The same, of which the end matters.
pub fn cut_start(text: &str, letters: usize) -> String {
    let count = text.chars().count();
    match count <= letters {
        true => text.to_owned(),
        false => "...".chars().chain(text.chars().skip(count - letters.saturating_sub(3))).collect(),
    }
}

/// `1 proxy`, `2 proxies`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A time as people say it.
pub fn milliseconds(milliseconds: u64) -> String {
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..120_000 => format!("{:.1} s", milliseconds as f64 / 1_000.0),
        120_000..7_200_000 => format!("{} min", milliseconds / 60_000),
        _ => format!("{} h", milliseconds / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_rows_are_counted() {
        let mut table = Table::new(&["NAME", "N"]);
        for number in 0..22 {
            table.row([format!("row-{number}"), "a\nb".into()]);
        }
        let (text, more) = table.text(false);
        assert_eq!(text.lines().count(), 21);
        assert!(text.starts_with("NAME    N\nrow-0   a b\n"), "{text}");
        assert_eq!(more.as_deref(), Some("... and 2 more of 22; --full shows all"));
        assert_eq!(table.text(true).1, None);
        let times = [83, 1_500, 130_000, 7_300_000].map(milliseconds);
        assert_eq!(times, ["83 ms", "1.5 s", "2 min", "2 h"]);
        assert_eq!([cut("abcdef", 6), cut("abcdefg", 6)], ["abcdef", "abc..."]);
        assert_eq!([cut_start("abcdef", 6), cut_start("abcdefg", 6)], ["abcdef", "...efg"]);
    }
}
