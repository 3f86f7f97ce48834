//! Numbers that people write: ports, counts, sizes, spans of time. Each type holds only what is within its
//! bounds. Pure, Cold.

use std::time::Duration;

use serde_json::json;

use crate::decode::{Decode, Path, refuse_shape, text_as};
use crate::problem::Problems;
use crate::tree::{Node, Word};

/// 301, 302, 303, 307 or 308.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RedirectStatus(u16);

impl RedirectStatus {
    const ALL: [u16; 5] = [301, 302, 303, 307, 308];

    /// What Gateway API takes where none is written.
    pub(crate) const FOUND: RedirectStatus = RedirectStatus(302);

    /// The status code.
    pub(crate) fn code(self) -> u16 {
        self.0
    }
}

impl Decode for RedirectStatus {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let complaint = "is not one of 301, 302, 303, 307, 308";
        let code = integer(node, path, complaint, 301, 308, problems)?;
        let known = Self::ALL.into_iter().find(|known| u64::from(*known) == code);
        if known.is_none() {
            problems.error(node.place, path, format!("{code} {complaint}"));
        }
        known.map(RedirectStatus)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "integer", "enum": Self::ALL})
    }
}

/// A time span of at least MIN_MS milliseconds in Gateway API's format (GEP-2257): `5s`, `1h30m`, `100ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Period<const MIN_MS: u64>(pub Duration);

impl<const MIN_MS: u64> Decode for Period<MIN_MS> {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        if let Some(Word::Integer(number)) = node.word() {
            let reason = format!("must be a duration, not the number {number}");
            problems.error_with_hint(node.place, path, reason, format!("write {number}s for seconds"));
            return None;
        }
        text_as(node, path, problems, |text| match period(text)? {
            span if span < Duration::from_millis(MIN_MS) => Err(format!("must be at least {MIN_MS}ms")),
            span => Ok(Period(span)),
        })
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"})
    }
}

/// A size of MIN to MAX bytes: a number, or one with `k`, `M`, `G`, `Ki`, `Mi` or `Gi` (Kubernetes' quantities).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Decode for Size<MIN, MAX> {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let text = match node.word() {
            Some(Word::Text | Word::Integer(_)) => node.text().unwrap_or_default(),
            _ => {
                refuse_shape(node, path, "a size such as 10Mi", problems);
                return None;
            }
        };
        match quantity(text) {
            Some(bytes) if (MIN..=MAX).contains(&bytes) => return Some(Size(bytes)),
            Some(bytes) => problems.error(node.place, path, format!("{bytes} bytes is not within {MIN} to {MAX}")),
            None => problems.error(node.place, path, format!("{text:?} is not a size (such as 1000, 32Ki or 10Mi)")),
        }
        None
    }

    fn schema() -> serde_json::Value {
        json!({"anyOf": [
            {"type": "integer", "minimum": MIN, "maximum": MAX},
            {"type": "string", "pattern": "^[0-9]{1,18}(k|M|G|Ki|Mi|Gi)?$"},
        ]})
    }
}

/// A whole number from MIN to MAX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whole<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Decode for Whole<MIN, MAX> {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        integer(node, path, &format!("is not a number from {MIN} to {MAX}"), MIN, MAX, problems).map(Whole)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A percentage from 0 to 100 with at most two decimals, kept in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Percentage(pub u32);

impl Percentage {
    /// As a share of 1.
    pub(crate) fn share(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl Decode for Percentage {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        decimal(node, path, "is not a percentage (0 to 100, two decimals at most)", hundredths, problems)
            .map(Percentage)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "number", "minimum": 0, "maximum": 100})
    }
}

/// A share above 0 and at most 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ratio(pub f64);

impl Decode for Ratio {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let ratio = |text: &str| text.parse().ok().filter(|ratio| *ratio > 0.0 && *ratio <= 1.0);
        decimal(node, path, "is not a share (above 0, 1 at most)", ratio, problems).map(Ratio)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1})
    }
}

/// A number from MIN to MAX, both told in thousandths, that need not be whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Decimal<const MIN: u64, const MAX: u64>(pub f64);

impl<const MIN: u64, const MAX: u64> Decode for Decimal<MIN, MAX> {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let (min, max) = (MIN as f64 / 1000.0, MAX as f64 / 1000.0);
        let within = |text: &str| text.parse().ok().filter(|number| (min..=max).contains(number));
        decimal(node, path, &format!("is not a number from {min} to {max}"), within, problems).map(Decimal)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "number", "minimum": MIN as f64 / 1000.0, "maximum": MAX as f64 / 1000.0})
    }
}

/// A port number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port(u16);

impl Port {
    /// The number, 1 to 65535.
    pub(crate) fn number(self) -> u16 {
        self.0
    }
}

impl Decode for Port {
    fn decode(node: &Node<'_>, path: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let number = integer(node, path, "is not a port (1 to 65535)", 1, 65_535, problems)?;
        u16::try_from(number).ok().map(Port)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "integer", "minimum": 1, "maximum": 65_535})
    }
}

fn integer(
    node: &Node<'_>,
    path: &Path<'_>,
    complaint: &str,
    min: u64,
    max: u64,
    problems: &mut Problems,
) -> Option<u64> {
    match node.word() {
        Some(Word::Integer(number)) => match u64::try_from(number) {
            Ok(number) if (min..=max).contains(&number) => Some(number),
            _ => {
                problems.error(node.place, path, format!("{number} {complaint}"));
                None
            }
        },
        Some(Word::Float) => {
            problems.error(node.place, path, format!("{} {complaint}", node.text().unwrap_or_default()));
            None
        }
        _ => {
            refuse_shape(node, path, "a number", problems);
            None
        }
    }
}

/// A number that need not be whole, read from its text: no rounding on the way to what counts.
fn decimal<T>(
    node: &Node<'_>,
    path: &Path<'_>,
    complaint: &str,
    parse: impl Fn(&str) -> Option<T>,
    problems: &mut Problems,
) -> Option<T> {
    let Some(Word::Integer(_) | Word::Float) = node.word() else {
        refuse_shape(node, path, "a number", problems);
        return None;
    };
    let text = node.text().unwrap_or_default();
    let number = parse(text);
    if number.is_none() {
        problems.error(node.place, path, format!("{text} {complaint}"));
    }
    number
}

fn hundredths(text: &str) -> Option<u32> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole)
        || !is_digits(decimals)
        || !(1..=3).contains(&whole.len())
        || !(1..=2).contains(&decimals.len())
    {
        return None;
    }
    let tens = if decimals.len() == 1 { 10 } else { 1 };
    let hundredths = whole.parse::<u32>().ok()? * 100 + decimals.parse::<u32>().ok()? * tens;
    (hundredths <= 10_000).then_some(hundredths)
}

fn period(text: &str) -> Result<Duration, String> {
    let complaint = || format!("{text:?} is not a duration (such as 5s, 1h30m or 100ms)");
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 5 {
            return Err(complaint());
        }
        let number: u64 = rest[..digits].parse().map_err(|_| complaint())?;
        rest = &rest[digits..];
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let unit = units.iter().find(|(unit, _)| rest.starts_with(unit));
        let (name, milliseconds) = unit.ok_or_else(complaint)?;
        total += Duration::from_millis(number * milliseconds);
        rest = &rest[name.len()..];
        if rest.is_empty() {
            return Ok(total);
        }
    }
    Err(complaint())
}

fn quantity(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match &text[digits..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}
