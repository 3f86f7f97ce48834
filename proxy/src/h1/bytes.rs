//! Which byte may stand where: one table for all classes, and the scans that walk along them. What a run
//! of bytes means is its reader's business. Pure, Hot.

use wide::u8x16;

/// A byte of a token other than `_` (RFC 9110 5.6.2): names with `_` are rare and looked at twice.
pub(super) const NAME: u8 = 1;
/// A byte of a token.
pub(super) const TOKEN: u8 = 2;
/// A byte of a request target: visible ASCII but `#`. RFC 3986 has no `"<>\^`{|}` either; browsers send them
/// (WHATWG URL, query state), they cannot end a target, and so they pass.
pub(super) const TARGET: u8 = 4;
/// A byte of a path that needs no second look: not `/`, `%`, `\`.
pub(super) const PLAIN: u8 = 8;
/// A byte of a host name in lower case. RFC 3986 3.2.2 also has sub-delims and escapes, and asks for the
/// syntax of DNS; a comma or an escape in a host only ever served to confuse two readers.
pub(super) const HOST: u8 = 16;
/// Unreserved (RFC 3986 2.3).
pub(super) const UNRESERVED: u8 = 32;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let byte = index as u8;
        let mut class = 0;
        if byte.is_ascii_alphanumeric() || is_one_of(byte, b"!#$%&'*+-.^`|~") {
            class |= NAME | TOKEN;
        }
        if byte == b'_' {
            class |= TOKEN;
        }
        if byte.is_ascii_graphic() && byte != b'#' {
            class |= TARGET;
            if !is_one_of(byte, b"/%\\") {
                class |= PLAIN;
            }
        }
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() || is_one_of(byte, b"-._~") {
            class |= HOST;
        }
        if byte.is_ascii_alphanumeric() || is_one_of(byte, b"-._~") {
            class |= UNRESERVED;
        }
        table[index] = class;
        index += 1;
    }
    table
}

const fn is_one_of(byte: u8, set: &[u8]) -> bool {
    let mut index = 0;
    while index < set.len() {
        if set[index] == byte {
            return true;
        }
        index += 1;
    }
    false
}

/// Whether the byte is of the class.
#[inline]
pub(super) fn is(class: u8, byte: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

/// Where the run of bytes of a class that starts at `at` ends.
#[inline]
pub(super) fn run_end(class: u8, input: &[u8], at: usize) -> usize {
    let mut end = at;
    while let Some(&byte) = input.get(end)
        && is(class, byte)
    {
        end += 1;
    }
    end
}

/// Space or tab (OWS, RFC 9110 5.6.3).
#[inline]
pub(super) fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Where the run of token bytes that starts at `at` ends, as `run_end(NAME, ..)`: quickly as long as they are
/// letters and `-`, which most names are.
#[inline(always)]
pub(super) fn name_end(input: &[u8], at: usize) -> usize {
    let end = find_in_blocks(input, at, |block| {
        let is_letter = at_most((block | u8x16::splat(0x20)) - u8x16::splat(b'a'), b'z' - b'a');
        !(is_letter | block.simd_eq(u8x16::splat(b'-')))
    });
    run_end(NAME, input, end)
}

/// Where the run of target bytes that starts at `at` ends, as `run_end(TARGET, ..)`.
#[inline(always)]
pub(super) fn target_end(input: &[u8], at: usize) -> usize {
    let end = find_in_blocks(input, at, |block| {
        !at_most(block - u8x16::splat(b'!'), b'~' - b'!') | block.simd_eq(u8x16::splat(b'#'))
    });
    run_end(TARGET, input, end)
}

/// Where the text that starts at `at` ends: at the first control byte other than a tab, or at the input's
/// end. Bytes from 0x80 are text (obs-text, RFC 9110 5.5).
#[inline(always)]
pub(super) fn text_end(input: &[u8], at: usize) -> usize {
    let mut end = find_in_blocks(input, at, |block| at_most(block, b' ' - 1) | block.simd_eq(u8x16::splat(0x7f)));
    while let Some(&byte) = input.get(end)
        && ((byte >= b' ' && byte != 0x7f) || byte == b'\t')
    {
        end += 1;
    }
    end
}

/// Where the first byte stands, from `at`, of which `stops` says yes; or where less than sixteen bytes are left.
#[inline(always)]
fn find_in_blocks(input: &[u8], at: usize, stops: impl Fn(u8x16) -> u8x16) -> usize {
    let Some(rest) = input.get(at..) else { return at };
    let (blocks, _) = rest.as_chunks::<16>();
    let mut end = at;
    for block in blocks {
        let found = stops(u8x16::new(*block)).to_bitmask();
        if found != 0 {
            return end + found.trailing_zeros() as usize;
        }
        end += 16;
    }
    end
}

/// Which bytes are not above `limit`.
#[inline(always)]
fn at_most(block: u8x16, limit: u8) -> u8x16 {
    block.min(u8x16::splat(limit)).simd_eq(block)
}

/// The decimal number that all of `digits` say (1*DIGIT); None if they do not, or if it is above u64.
#[inline]
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { number.checked_mul(10)?.checked_add(u64::from(digit)) }
    })
}

/// The value of a hexadecimal digit.
#[inline]
pub(super) fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Appends a number in decimal.
pub(super) fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_ends_text_or_does_not_wherever_it_stands() {
        for byte in 0..=255u8 {
            let is_text = byte == b'\t' || (byte >= 0x20 && byte != 0x7f);
            for at in 0..36 {
                let mut input = [b'x'; 40];
                input[at] = byte;
                let expected = if is_text { input.len() } else { at };
                assert_eq!(text_end(&input, 0), expected, "byte {byte} at {at}");
            }
        }
    }

    #[test]
    fn every_byte_ends_a_name_or_a_target_or_does_not_wherever_it_stands() {
        for byte in 0..=255u8 {
            for at in 0..40 {
                let mut input = *b"Content-Encoding-Names-x-Forwarded-Hosts";
                input[at] = byte;
                assert_eq!(name_end(&input, 0), run_end(NAME, &input, 0), "byte {byte} at {at}");
                assert_eq!(target_end(&input, 0), run_end(TARGET, &input, 0), "byte {byte} at {at}");
            }
        }
    }

    #[test]
    fn numbers() {
        for (digits, expected) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("99999999999999999999999", None),
            ("", None),
            ("+5", None),
            ("5 5", None),
            ("-0", None),
        ] {
            assert_eq!(decimal(digits.as_bytes()), expected, "{digits}");
        }
        for number in [0, 9, 10, 1024, u64::MAX] {
            let mut out = Vec::new();
            write_decimal(&mut out, number);
            assert_eq!(decimal(&out), Some(number));
        }
    }
}
