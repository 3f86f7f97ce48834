//! The types of plain words in YAML 1.2's core schema (10.3.2), where `yes` and `on` are texts. Pure, Cold.

use crate::tree::Scalar;

/// The type of a scalar in YAML 1.2's core schema (10.3.2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Word {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Decimal, `0x` or `0o`, if it fits.
    Integer(i64),
    /// Any other number.
    Float,
    /// All else.
    Text,
}

impl Scalar<'_> {
    /// The type by YAML 1.2's core schema, where `yes` and `on` are texts.
    pub(crate) fn word(&self) -> Word {
        if self.quoted {
            return Word::Text;
        }
        match &*self.text {
            "" | "~" | "null" | "Null" | "NULL" => Word::Null,
            "true" | "True" | "TRUE" => Word::Bool(true),
            "false" | "False" | "FALSE" => Word::Bool(false),
            text => number(text),
        }
    }
}

fn number(text: &str) -> Word {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Word::Float;
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix)
            && !digits.is_empty()
            && digits.chars().all(|digit| digit.is_digit(radix))
        {
            return i64::from_str_radix(digits, radix).map_or(Word::Float, Word::Integer);
        }
    }
    if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_or(Word::Float, Word::Integer);
    }
    // Rust reads the same decimal floats as the core schema once words such as `inf` are excluded.
    let starts_like_a_number = unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.');
    match starts_like_a_number && unsigned.parse::<f64>().is_ok() {
        true => Word::Float,
        false => Word::Text,
    }
}
