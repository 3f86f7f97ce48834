//! Where a trace starts: at an entry always anew, unless the clients' are trusted; elsewhere only if there is none.
//! Pure, Hot.
//!
//! Clients repeat ids: load generators, scripts and SDKs send one `traceparent` all day. As a key of lanes such an id
//! is worthless, and a client could make that of somebody else ambiguous. So an entry replaces all that a client says
//! of its trace by one `traceparent`, and what services forward is an id of ours. Services that forward another kind only
//! need it in that kind, too: their LaneGroup says so.
//!
//! What is started is not sampled, whatever the client's flag said: whoever may not choose the id may not choose what
//! is collected either. Who collects spans decides. `sw8` cannot say so: its agents collect what comes with it.

use config::snapshot::lanes::{LaneRole, TraceHeaders};

use super::traceparent;
use crate::Head;
use crate::head::Known;
use crate::lane::hex;

/// All that says something of a trace: of W3C Trace Context, B3 and SkyWalking. Baggage and `sw8-correlation` are what
/// users say to each other, and stay.
const FIELDS: [&str; 10] = [
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "sw8",
    "sw8-x",
];

/// Whether an address starts a trace for each request, whatever the client sent: it decides about lanes, and its group
/// does not say `trustTraceContext`.
pub fn must_start(role: &LaneRole) -> bool {
    matches!(role, LaneRole::Decide(group) if !group.trusts_traces)
}

/// Starts a trace in place of the client's, in these forms, too. The dice are asked three times.
pub fn start(head: &mut Head, also: TraceHeaders, dice: impl FnMut() -> u64) {
    for name in FIELDS {
        head.remove(name);
    }
    write(head, also, dice);
}

/// Goes on with a trace, or starts one if there is no `traceparent` that can be gone on with, or more than one: then
/// its `tracestate` is worth nothing either (W3C Trace Context 4, the processing model). Says whether it started one. Traces of other
/// kinds stay; what is started is written in those of `also` that are not there.
pub fn start_or_continue(head: &mut Head, also: impl FnOnce() -> TraceHeaders, dice: impl FnMut() -> u64) -> bool {
    if head.known(Known::Traceparent).and_then(traceparent).is_some()
        && head.live().filter(|field| field.known == Known::Traceparent).count() == 1
    {
        return false;
    }
    head.remove_known(Known::Traceparent);
    head.remove("tracestate");
    write(head, also(), dice);
    true
}

fn write(head: &mut Head, also: TraceHeaders, mut dice: impl FnMut() -> u64) {
    // All zero is not an id (W3C Trace Context 3.2.2.3).
    let (high, low, parent) = (hex(dice()), hex(dice() | 1), hex(dice() | 1));
    let mut value = *b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-00";
    value[3..19].copy_from_slice(&high);
    value[19..35].copy_from_slice(&low);
    value[36..52].copy_from_slice(&parent);
    head.add_with("traceparent", Known::Traceparent, |text| text.extend_from_slice(&value));
    if also == TraceHeaders::default() {
        return;
    }
    let (trace, span) = (&value[3..35], &value[36..52]);
    let is_missing = |head: &Head, name: &str| head.get(name).is_none();
    // Without a third part the receiver decides whether to sample (B3 Propagation, single header).
    if also.b3 && is_missing(head, "b3") {
        head.add("b3", &[trace, b"-", span].concat());
    }
    if also.x_b3 && is_missing(head, "x-b3-traceid") {
        head.remove("x-b3-spanid");
        head.add("x-b3-traceid", trace);
        head.add("x-b3-spanid", span);
    }
    if also.sw8 && is_missing(head, "sw8") {
        head.add("sw8", &sw8(trace, span));
    }
}

/// A SkyWalking context of this trace (Cross Process Propagation Headers Protocol v3): our segment is one span, of the
/// service `evenkeel`.
fn sw8(trace: &[u8], segment: &[u8]) -> Vec<u8> {
    // `evenkeel`, `proxy`, `/` and `-`: the parent's service, instance and endpoint, and the address that it calls.
    const PARENT: &[u8] = b"ZXZlbmtlZWw=-cHJveHk=-Lw==-LQ==";
    [b"1", &*base64(trace), &*base64(segment), b"0", PARENT].join(&b'-')
}

/// As RFC 4648, section 4, has it.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        std::array::from_fn::<u8, 4, _>(|place| match place <= chunk.len() {
            true => LETTERS[(bits >> (18 - 6 * place)) as usize & 63],
            false => b'=',
        })
    };
    bytes.chunks(3).flat_map(group).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use config::snapshot::lanes::LaneGroup;

    use super::*;
    use crate::lane::tests::{fields, group, head};
    use crate::lane::trace::Ids;

    const SENT: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const STARTED: &str = "traceparent: 00-3456789abcdef012456789abcdef0123-56789abcdef01235-00";

    /// The dice of `STARTED`.
    fn dice() -> impl FnMut() -> u64 {
        let mut next = 0x1234_5678_9abc_def0_u64.rotate_left(4);
        move || {
            next = next.rotate_left(4);
            next
        }
    }

    #[test]
    fn an_entry_starts_the_trace_anew() {
        for (before, after) in [
            ("", STARTED),
            (SENT, STARTED),
            ("TraceParent: x  tracestate: a=b  a: 1  tracestate: c=d", "a: 1  {}"),
            ("b3: 463ac35c9f6413ad-b7ad6b7169203331  sw8: 1-a-b-3-c-d-e-f  sw8-x: 1", STARTED),
            (
                "X-B3-TraceId: 1  X-B3-SpanId: 1  X-B3-ParentSpanId: 1  X-B3-Sampled: 1  X-B3-Flags: 1  x-b3: 1",
                "x-b3: 1  {}",
            ),
            (
                "baggage: a=b  sw8-correlation: a:b  x-request-id: 1",
                "baggage: a=b  sw8-correlation: a:b  x-request-id: 1  {}",
            ),
        ] {
            let mut head = head(format!("GET /  {before}").trim_end());
            start(&mut head, TraceHeaders::default(), dice());
            assert_eq!(fields(&head), after.replace("{}", STARTED), "{before}");
            assert_eq!(head.known(Known::Traceparent).and_then(traceparent), Some(0x3456789abcdef012456789abcdef0123));
            assert_eq!(Ids::of(&head).as_slice().len(), 1);
        }
        let mut head = head("GET /");
        start(&mut head, TraceHeaders::default(), || 0);
        assert_eq!(fields(&head), "traceparent: 00-00000000000000000000000000000001-0000000000000001-00");
    }

    #[test]
    fn inside_a_trace_goes_on() {
        let b3 = "b3: 463ac35c9f6413ad-b7ad6b7169203331";
        for (before, after) in [
            ("", "{}"),
            (SENT, SENT),
            (&format!("tracestate: a=b  {SENT}  {b3}"), &format!("tracestate: a=b  {SENT}  {b3}")),
            (b3, &format!("{b3}  {{}}")),
            ("traceparent: 00-1-1-00  tracestate: a=b  a: 1", "a: 1  {}"),
            ("tracestate: a=b", "{}"),
            // Who reads it may take either.
            (&format!("{SENT}  {SENT}"), "{}"),
        ] {
            let mut head = head(format!("GET /  {before}").trim_end());
            let is_started = start_or_continue(&mut head, TraceHeaders::default, dice());
            assert_eq!(fields(&head), after.replace("{}", STARTED), "{before}");
            assert_eq!(is_started, after.contains("{}"), "{before}");
            assert!(!start_or_continue(&mut head, TraceHeaders::default, dice()));
        }
    }

    #[test]
    fn a_trace_is_started_in_all_forms_that_services_pass_on() {
        let all = TraceHeaders { b3: true, x_b3: true, sw8: true };
        let b3 = "b3: 3456789abcdef012456789abcdef0123-56789abcdef01235";
        let x_b3 = "x-b3-traceid: 3456789abcdef012456789abcdef0123  x-b3-spanid: 56789abcdef01235";
        let sw8 = "sw8: 1-MzQ1Njc4OWFiY2RlZjAxMjQ1Njc4OWFiY2RlZjAxMjM=-NTY3ODlhYmNkZWYwMTIzNQ==-0-ZXZlbmtlZWw=-cHJveHk=-Lw==-LQ==";
        let theirs = "b3: 463ac35c9f6413ad-b7ad6b7169203331";
        for (also, before, at_an_entry, inside) in [
            (TraceHeaders { b3: true, ..TraceHeaders::default() }, "", format!("{STARTED}  {b3}"), None),
            (TraceHeaders { x_b3: true, ..TraceHeaders::default() }, "", format!("{STARTED}  {x_b3}"), None),
            (TraceHeaders { sw8: true, ..TraceHeaders::default() }, "", format!("{STARTED}  {sw8}"), None),
            (
                all,
                theirs,
                format!("{STARTED}  {b3}  {x_b3}  {sw8}"),
                Some(format!("{theirs}  {STARTED}  {x_b3}  {sw8}")),
            ),
            (all, SENT, format!("{STARTED}  {b3}  {x_b3}  {sw8}"), Some(SENT.to_owned())),
        ] {
            let mut entry = head(format!("GET /  {before}").trim_end());
            let mut inner = entry.clone();
            start(&mut entry, also, dice());
            assert_eq!(fields(&entry), at_an_entry, "{before}");
            // One id, and that of SkyWalking, which is none of digits.
            assert_eq!(Ids::of(&entry).as_slice().len(), 1 + usize::from(also.sw8));
            start_or_continue(&mut inner, || also, dice());
            assert_eq!(fields(&inner), inside.unwrap_or(at_an_entry), "{before}");
        }
        for (bytes, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(bytes.as_bytes()), expected.as_bytes(), "{bytes}");
        }
    }

    #[test]
    fn only_who_decides_starts_and_unless_clients_are_trusted() {
        let group = group(&["name: a"]);
        let trusting = Arc::new(LaneGroup { trusts_traces: true, ..(*group).clone() });
        for (role, expected) in [
            (LaneRole::Decide(group.clone()), true),
            (LaneRole::Decide(trusting), false),
            (LaneRole::Inherit { groups: vec![group.clone()], own: None }, false),
            (LaneRole::Call { groups: vec![group], own: None }, false),
            (LaneRole::Strip, false),
        ] {
            assert_eq!(must_start(&role), expected, "{role:?}");
        }
    }
}
