//! The trace ids of a request, as numbers. Which trace system a service uses is none of our business: whatever it sends
//! on as it came will do. Pure, Hot.
//!
//! | field | the id | no id |
//! |---|---|---|
//! | `traceparent` (W3C Trace Context 1 and 2, 3.2) | 32 digits | in upper case, all zero, or its parent is |
//! | `b3` (B3 Propagation, single header) | 16 or 32 digits | without a span it says only whether to sample |
//! | `x-b3-traceid` (B3 Propagation, multiple headers) | 16 or 32 digits | all zero, or of another length |
//! | `sw8` (SkyWalking, protocol 3) | a hash of the second part | unless there are eight parts |
//!
//! 64 bits are 128 with zeros before them, and an id is the same in whichever field it stands: a service may read one
//! and write another. The text of an `sw8` id is the same wherever it is forwarded; so it is hashed as it stands,
//! encoded, and but for its padding, which some leave away.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;

use crate::Head;

/// Different ids of one request that are looked at.
pub const IDS_MAX: usize = 4;

/// The different trace ids of a request, in the order of the table above, at most `IDS_MAX`. They are numbers of this
/// process: another one may hash otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ids {
    ids: [u128; IDS_MAX],
    count: u8,
}

/// What reads the values of a field.
type Reader = fn(&[u8]) -> Option<u128>;

const KINDS: [(&str, Reader); 4] =
    [("traceparent", traceparent), ("b3", b3), ("x-b3-traceid", b3_trace_id), ("sw8", sw8)];

impl Ids {
    /// Those of a request.
    pub fn of(head: &Head) -> Ids {
        let mut ids = Ids::default();
        for (name, read) in KINDS {
            head.get_all(name).filter_map(read).for_each(|id| ids.add(id));
        }
        ids
    }

    /// All of them.
    pub fn as_slice(&self) -> &[u128] {
        &self.ids[..usize::from(self.count)]
    }

    pub(super) fn add(&mut self, id: u128) {
        let is_new = !self.as_slice().contains(&id);
        if is_new && let Some(place) = self.ids.get_mut(usize::from(self.count)) {
            *place = id;
            self.count += 1;
        }
    }
}

/// The trace id of a `traceparent` that may be continued.
pub fn traceparent(value: &[u8]) -> Option<u128> {
    let (known, more) = value.split_at_checked(55)?;
    let [version, trace, parent, flags] = [&known[..2], &known[3..35], &known[36..52], &known[53..]];
    // A later version may append fields; version 00 ends here.
    let ends = more.is_empty() || (version != b"00" && more[0] == b'-');
    if !ends || version == b"ff" || [known[2], known[35], known[52]] != [b'-'; 3] {
        return None;
    }
    number(version, &LOWER)?;
    number(flags, &LOWER)?;
    id(parent, &LOWER)?;
    id(trace, &LOWER)
}

/// `TRACE-SPAN[-SAMPLING[-PARENT]]`.
fn b3(value: &[u8]) -> Option<u128> {
    let mut parts = value.splitn(3, |byte| *byte == b'-');
    let (trace, span) = (parts.next()?, parts.next()?);
    if span.len() != 16 {
        return None;
    }
    id(span, &EITHER)?;
    b3_trace_id(trace)
}

fn b3_trace_id(value: &[u8]) -> Option<u128> {
    // B3 has lower case only, but some of those who read it do not mind.
    matches!(value.len(), 16 | 32).then(|| id(value, &EITHER)).flatten()
}

/// `SAMPLE-TRACE-SEGMENT-SPAN-SERVICE-INSTANCE-ENDPOINT-TARGET`, texts in base64, which has no `-`.
fn sw8(value: &[u8]) -> Option<u128> {
    const PARTS: usize = 8;
    let trace = value.split(|byte| *byte == b'-').nth(1)?;
    let padding = trace.iter().rev().take_while(|byte| **byte == b'=').count();
    let trace = &trace[..trace.len() - padding];
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let parts = memchr::memchr_iter(b'-', value).count() + 1;
    if parts != PARTS || trace.is_empty() || !trace.iter().all(is_base64) {
        return None;
    }
    let half = |seed: u64| {
        let mut hasher = FixedState::with_seed(seed).build_hasher();
        hasher.write(trace);
        u128::from(hasher.finish())
    };
    Some(half(1) << 64 | half(2))
}

/// A number of up to 32 digits that is not zero.
fn id(digits: &[u8], values: &[u8; 256]) -> Option<u128> {
    number(digits, values).filter(|number| *number != 0)
}

/// A number of up to 32 digits.
fn number(digits: &[u8], values: &[u8; 256]) -> Option<u128> {
    let (high, low) = digits.split_at(digits.len().saturating_sub(16));
    Some(u128::from(word(high, values)?) << 64 | u128::from(word(low, values)?))
}

/// A number of up to 16 digits.
fn word(digits: &[u8], values: &[u8; 256]) -> Option<u64> {
    let (mut word, mut all) = (0, 0);
    for digit in digits {
        let value = values[usize::from(*digit)];
        all |= value;
        word = word << 4 | u64::from(value & 15);
    }
    (all != NO_DIGIT).then_some(word)
}

/// What is no digit. No values of digits come to it together.
const NO_DIGIT: u8 = 0xff;

/// Values of hexadecimal digits in lower case.
const LOWER: [u8; 256] = values(false);
/// Values of hexadecimal digits.
const EITHER: [u8; 256] = values(true);

const fn values(upper: bool) -> [u8; 256] {
    let mut values = [NO_DIGIT; 256];
    let digits = b"0123456789abcdef";
    let mut value = 0;
    while value < 16 {
        values[digits[value] as usize] = value as u8;
        if upper {
            values[digits[value].to_ascii_uppercase() as usize] = value as u8;
        }
        value += 1;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::head;

    const T: u128 = 0x0af7651916cd43dd8448eb211c80319c;
    const B: u128 = 0x463ac35c9f6413ad;

    /// The ids of a request with these fields.
    fn check(fields: &[&str], expected: &[u128]) {
        assert_eq!(Ids::of(&head(fields)).as_slice(), expected, "{fields:?}");
    }

    #[test]
    fn what_is_an_id() {
        for (field, expected) in [
            ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Some(T)),
            ("Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", Some(T)),
            // Level 2 has another flag; all of them may be set.
            ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03", Some(T)),
            ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff", Some(T)),
            ("traceparent: 00-0000000000000000463ac35c9f6413ad-b7ad6b7169203331-01", Some(B)),
            // Later versions are read as far as they are known.
            ("traceparent: 01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Some(T)),
            ("traceparent: cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-may-come", Some(T)),
            ("traceparent: cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-", Some(T)),
            ("traceparent: cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what", None),
            ("traceparent: cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0", None),
            ("traceparent: ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("traceparent: 0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("traceparent: CC-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-", None),
            ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x", None),
            ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", None),
            ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x", None),
            ("traceparent: 00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", None),
            ("traceparent: 00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01", None),
            ("traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01", None),
            ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", None),
            ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-B7ad6b7169203331-01", None),
            ("traceparent: 00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01", None),
            ("traceparent: 000af7651916cd43dd8448eb211c80319cb7ad6b716920333101", None),
            ("traceparent: ", None),
            ("b3: 0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1-05e3ac9a4f6e3b90", Some(T)),
            ("b3: 0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", Some(T)),
            ("b3: 463ac35c9f6413ad-b7ad6b7169203331-d", Some(B)),
            ("b3: 0000000000000000463ac35c9f6413ad-b7ad6b7169203331-d", Some(B)),
            ("b3: 463AC35C9F6413AD-B7AD6B7169203331", Some(B)),
            ("b3: 0", None),
            ("b3: d", None),
            ("b3: 463ac35c9f6413ad", None),
            ("b3: 463ac35c9f6413ad-1", None),
            ("b3: 463ac35c9f6413ad-b7ad6b716920333x", None),
            ("b3: 463ac35c9f6413ad-0000000000000000", None),
            ("b3: 463ac35c9f6413a-b7ad6b7169203331", None),
            ("b3: 0000000000000000-b7ad6b7169203331", None),
            ("X-B3-TraceId: 463ac35c9f6413ad", Some(B)),
            ("x-b3-traceid: 0000000000000000463ac35c9f6413ad", Some(B)),
            ("x-b3-traceid: 0af7651916cd43dd8448eb211c80319c", Some(T)),
            ("x-b3-traceid: 00000000000000000000000000000000", None),
            ("x-b3-traceid: af7651916cd43dd8448eb211c80319c", None),
            ("x-b3-traceid: 463ac35c9f6413a-", None),
            ("x-b3-traceid: ", None),
            ("x-b3-spanid: 463ac35c9f6413ad", None),
            ("sw8: 1-VFJBQ0VJRA==-U0VHTUVOVElE-3-U0VSVklDRQ==-SU5TVEFOQ0U=-RU5EUE9JTlQ=", None),
            ("sw8: 1--U0VHTUVOVElE-3-U0VSVklDRQ==-SU5TVEFOQ0U=-RU5EUE9JTlQ=-SVBQT1JU", None),
            ("sw8: 1-==-U0VHTUVOVElE-3-U0VSVklDRQ==-SU5TVEFOQ0U=-RU5EUE9JTlQ=-SVBQT1JU", None),
            ("sw8: 1-VFJ.Q0VJRA==-U0VHTUVOVElE-3-U0VSVklDRQ==-SU5TVEFOQ0U=-RU5EUE9JTlQ=-SVBQT1JU", None),
            ("sw8: -------", None),
            ("sw8: ", None),
        ] {
            check(&[field], expected.as_slice());
        }
    }

    #[test]
    fn sw8_is_told_apart_by_its_trace() {
        let of = |value: &str| sw8(value.as_bytes()).expect("an id");
        let first = of("1-VFJBQ0VJRA==-U0VHTUVOVElE-3-U0VSVklDRQ==-SU5TVEFOQ0U=-RU5EUE9JTlQ=-SVBQT1JU");
        assert_eq!(first, of("0-VFJBQ0VJRA-YQ==-0-Yg==-Yw==-ZA==-ZQ=="), "another segment of it");
        assert_ne!(first, of("1-VFJBQ0VJRB==-U0VHTUVOVElE-3-U0VSVklDRQ==-SU5TVEFOQ0U=-RU5EUE9JTlQ=-SVBQT1JU"));
        assert_ne!(first >> 64, first & u128::from(u64::MAX), "128 bits and not twice the same 64");
    }

    #[test]
    fn all_ids_of_a_request_count_once_each() {
        let (traceparent, b3, x_b3, sw8) = (
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "b3: 463ac35c9f6413ad-b7ad6b7169203331",
            "x-b3-traceid: 0af7651916cd43dd8448eb211c80319c",
            "sw8: 1-VFJBQ0VJRA==-U0VHTUVOVElE-3-U0VSVklDRQ==-SU5TVEFOQ0U=-RU5EUE9JTlQ=-SVBQT1JU",
        );
        let other = "traceparent: 00-00000000000000000000000000000001-b7ad6b7169203331-01";
        let hashed = Ids::of(&head(&[sw8])).as_slice()[0];
        check(&[], &[]);
        check(&["baggage: traceparent=1", b3, traceparent], &[T, B]);
        check(&[x_b3, traceparent], &[T]);
        check(&[x_b3, "traceparent: 00", b3], &[B, T]);
        check(&[sw8, b3, other, traceparent], &[1, T, B, hashed]);
        check(&[traceparent, traceparent, other], &[T, 1]);
        let many: Vec<String> = (1..9).map(|id| format!("x-b3-traceid: {id:016x}")).collect();
        check(&many.iter().map(String::as_str).collect::<Vec<_>>(), &[1, 2, 3, 4]);
    }

    proptest::proptest! {
        #[test]
        fn any_id_is_read_as_it_was_written(trace in 1u128.., parent in 1u64.., flags: u8) {
            let written = format!("00-{trace:032x}-{parent:016x}-{flags:02x}");
            proptest::prop_assert_eq!(traceparent(written.as_bytes()), Some(trace));
            let written = format!("{trace:032x}-{parent:016x}-1");
            proptest::prop_assert_eq!(b3(written.as_bytes()), Some(trace));
        }

        #[test]
        fn any_value_is_read(value in "[019afAg=+ -]{0,64}", end: u8) {
            let value = [value.as_bytes(), &[end]].concat();
            for (_, read) in KINDS {
                read(&value);
            }
        }
    }
}
