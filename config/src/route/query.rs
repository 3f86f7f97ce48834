//! Parameters of a query as routes see them: the first of a name counts, `%XX` and `+` are decoded, as
//! forms write them (WHATWG URL, application/x-www-form-urlencoded). Pure, Hot.

use std::borrow::Cow;

/// The first value of a parameter, decoded; copied only if it is encoded.
pub fn first<'q>(query: &'q [u8], name: &[u8]) -> Option<Cow<'q, [u8]>> {
    let mut rest = query;
    loop {
        let (pair, after) = match memchr::memchr(b'&', rest) {
            Some(end) => (&rest[..end], Some(&rest[end + 1..])),
            None => (rest, None),
        };
        let (key, value) = match memchr::memchr(b'=', pair) {
            Some(end) => (&pair[..end], &pair[end + 1..]),
            None => (pair, &pair[pair.len()..]),
        };
        if !pair.is_empty() && decoded(key).eq(name.iter().copied()) {
            return Some(match memchr::memchr2(b'%', b'+', value) {
                Some(_) => Cow::Owned(decoded(value).collect()),
                None => Cow::Borrowed(value),
            });
        }
        rest = after?;
    }
}

/// Bytes with their encoding undone. A `%` without two digits stands for itself.
fn decoded(text: &[u8]) -> impl Iterator<Item = u8> {
    let mut position = 0;
    std::iter::from_fn(move || {
        let byte = *text.get(position)?;
        position += 1;
        match byte {
            b'+' => Some(b' '),
            b'%' => match (digit(text, position), digit(text, position + 1)) {
                (Some(high), Some(low)) => {
                    position += 2;
                    Some(high << 4 | low)
                }
                _ => Some(b'%'),
            },
            _ => Some(byte),
        }
    })
}

fn digit(text: &[u8], position: usize) -> Option<u8> {
    let digit = char::from(*text.get(position)?).to_digit(16)?;
    u8::try_from(digit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, name: &str, expected: Option<&str>) {
        let found = first(query.as_bytes(), name.as_bytes());
        let found = found.as_deref().map(String::from_utf8_lossy);
        assert_eq!(found.as_deref(), expected, "{name} in {query}");
    }

    #[test]
    fn the_first_parameter_of_a_name_is_found_and_decoded() {
        check("", "a", None);
        check("a", "a", Some(""));
        check("a=", "a", Some(""));
        check("a=1&a=2", "a", Some("1"));
        check("b=1&&a=2=3", "a", Some("2=3"));
        check("%61=%31+%32", "a", Some("1 2"));
        check("a=%zz%4", "a", Some("%zz%4"));
        check("ab=1", "a", None);
        check("A=1", "a", None);
    }
}
