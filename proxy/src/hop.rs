//! What proxies of the mesh say to each other with a request and its answer, in one field that passes none of them: who calls
//! whom, so that a request which comes to the wrong Service (an address is used again) is given back untouched, and that an
//! instance goes, so that callers leave it alone even if control cannot tell them. Pure, Hot.

use filters::Head;
use filters::head::{Known, Span};

use crate::error::Kind;

/// The name of the field.
pub(crate) const NAME: &str = "X-Evenkeel-Hop";
/// In an answer: the instance goes, and asks to be left alone.
pub(crate) const LEAVING: &[u8] = b"leaving";
/// In an answer: the request was meant for another Service, and nothing was done with it.
pub(crate) const MISDIRECTED: &[u8] = b"misdirected";

/// In an answer: the instance's application takes no connection, and nothing was done with the request.
pub(crate) const UNSERVED: &[u8] = b"unserved";

/// The value for requests of one workload to a Service, each `namespace/name`.
pub(crate) fn value(from: &str, namespace: &str, service: &str) -> Box<[u8]> {
    format!("{from} {namespace}/{service}").into_bytes().into()
}

/// What a request says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It does not come from a proxy of the mesh.
    Outside,
    /// A proxy of this workload sent it, to this Service.
    By(Span, Span),
}

/// Reads what came with a request.
pub(crate) fn sent(head: &Head) -> Sent {
    let Some(value) = head.known_span(Known::Hop) else { return Sent::Outside };
    let (start, end) = (value.range().start, value.range().end);
    match head.bytes(value).iter().position(|byte| *byte == b' ') {
        Some(place) => Sent::By(Span::new(start, start + place), Span::new(start + place + 1, end)),
        None => Sent::Outside,
    }
}

/// What an answer says beside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing.
    Nothing,
    /// The instance goes.
    Leaving,
    /// Nothing was done with the request: it was meant for another Service.
    Misdirected,
    /// Nothing was done with it: the instance's application takes no connection.
    Unserved,
}

/// Reads what came with an answer of an instance that a proxy of ours stands before, and takes it out.
pub(crate) fn take_told(answer: &mut Head) -> Told {
    let told = match answer.known(Known::Hop) {
        None => return Told::Nothing,
        Some(value) if value == LEAVING => Told::Leaving,
        Some(value) if value == MISDIRECTED => Told::Misdirected,
        Some(value) if value == UNSERVED => Told::Unserved,
        Some(_) => Told::Nothing,
    };
    answer.remove_known(Known::Hop);
    told
}

/// What is said with the answer to a request that failed for this reason; `is_at_instance`: here, before the application.
pub(crate) fn of_failure(kind: Kind, is_at_instance: bool) -> Option<&'static [u8]> {
    match kind {
        Kind::Misdirected => Some(MISDIRECTED),
        Kind::Connect | Kind::ConnectTimeout if is_at_instance => Some(UNSERVED),
        _ => None,
    }
}

/// Says with an answer that the instance goes.
pub(crate) fn tell_leaving(answer: &mut Head) {
    answer.add_with(NAME, Known::Hop, |text| text.extend_from_slice(LEAVING));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_calls_whom_is_read_as_it_was_written() {
        let by = value("shop/web", "shop", "pay");
        for (field, expected) in [
            (None, None),
            (Some(&by[..]), Some((&b"shop/web"[..], &b"shop/pay"[..]))),
            // Whatever it is, it is not ours.
            (Some(b"shop/web"), None),
            (Some(b""), None),
        ] {
            let mut head = Head::default();
            if let Some(field) = field {
                head.add_with(NAME, Known::Hop, |text| text.extend_from_slice(field));
            }
            let told = match sent(&head) {
                Sent::Outside => None,
                Sent::By(from, to) => Some((head.bytes(from), head.bytes(to))),
            };
            assert_eq!(told, expected, "{field:?}");
        }
    }

    #[test]
    fn what_is_told_with_an_answer_goes_no_further() {
        for (field, expected) in [
            (None, Told::Nothing),
            (Some(&b"leaving"[..]), Told::Leaving),
            (Some(b"misdirected"), Told::Misdirected),
            (Some(b"unserved"), Told::Unserved),
            (Some(b"something of tomorrow"), Told::Nothing),
        ] {
            let mut answer = Head::default();
            if let Some(field) = field {
                answer.add_with(NAME, Known::Hop, |text| text.extend_from_slice(field));
            }
            assert_eq!(take_told(&mut answer), expected);
            assert_eq!(answer.known(Known::Hop), None);
        }
        let mut answer = Head::default();
        tell_leaving(&mut answer);
        assert_eq!(take_told(&mut answer), Told::Leaving);
    }
}
