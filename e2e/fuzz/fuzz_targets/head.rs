//! Any bytes as a head: nothing panics, pieces say what the whole says, and what is sent on reads as what was
//! received. The first byte of the input chooses where it is split and what `%2F` means. Pure.
#![no_main]

use config::snapshot::EncodedSlash;
use filters::head::{Head, Span, Version};
use libfuzzer_sys::fuzz_target;
use proxy::h1::{
    Framing, HeadLimits, Method, Refusal, answer_framing, check_request, check_response, encode_request,
    encode_response, parse_request, parse_response,
};

const LIMITS: HeadLimits = HeadLimits { bytes_max: 1024, fields_max: 16 };

type Parse = fn(&[u8], &mut usize, HeadLimits, &mut Head) -> Result<Option<usize>, Refusal>;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, input)) = input.split_first() else { return };
    in_pieces(parse_request, input, choice);
    in_pieces(parse_response, input, choice);
    request(input, [EncodedSlash::Keep, EncodedSlash::Decode, EncodedSlash::Reject][usize::from(choice % 3)]);
    answer(input, if choice.is_multiple_of(2) { Method::Get } else { Method::Head });
});

/// A refusal may come with the line's end instead of its first wrong byte, and then the bound may come first; nothing
/// else may differ.
fn in_pieces(parse: Parse, input: &[u8], choice: u8) {
    let whole = fed(parse, input, &[input.len()]);
    let split = usize::from(choice).min(input.len());
    let every: Vec<usize> = (1..=input.len()).collect();
    for ends in [&[split, input.len()][..], &every] {
        let pieces = fed(parse, input, ends);
        let is_late = matches!(pieces, Ok(None) | Err(Refusal::HeadTooLarge | Refusal::TargetTooLong));
        assert!(pieces == whole || (whole.is_err() && is_late), "{pieces:?} {whole:?}");
    }
}

fn fed(parse: Parse, input: &[u8], ends: &[usize]) -> Result<Option<(usize, String)>, Refusal> {
    let (mut head, mut scanned) = (Head::default(), 0);
    for &end in ends {
        if let Some(n) = parse(&input[..end], &mut scanned, LIMITS, &mut head)? {
            return Ok(Some((n, format!("{head:?}"))));
        }
        for field in head.fields() {
            let _ = (head.bytes(field.line), head.bytes(head.path), head.bytes(head.method));
        }
    }
    Ok(None)
}

fn request(input: &[u8], slash: EncodedSlash) {
    let mut head = Head::default();
    let Ok(Some(n)) = parse_request(input, &mut 0, LIMITS, &mut head) else { return };
    assert!(n <= input.len() && input[..n].ends_with(b"\r\n\r\n"));
    let Ok(meta) = check_request(&mut head, slash) else { return };
    assert!(meta.framing != Framing::UntilClose);
    let path = head.bytes(head.path);
    assert!(path == b"*" || path.starts_with(b"/"));
    assert!(!path.windows(2).any(|two| two == b"//") && !path.contains(&b'\\'));
    assert!(!path.split(|&byte| byte == b'/').any(|segment| segment == b"." || segment == b".."));
    if head.authority.is_empty() {
        return; // HTTP/1.0 without Host: the story names one.
    }
    let mut sent = Vec::new();
    encode_request(&head, meta.framing, meta.te_trailers, &mut sent);
    let limits = HeadLimits { bytes_max: 4096, fields_max: 64 };
    let mut again = Head::default();
    assert_eq!(parse_request(&sent, &mut 0, limits, &mut again), Ok(Some(sent.len())));
    // Kept escapes stay kept; the others are gone.
    let slash = if slash == EncodedSlash::Decode { EncodedSlash::Reject } else { slash };
    let meta_again = check_request(&mut again, slash).expect("what we send is valid");
    assert_eq!((meta_again.framing, meta_again.method), (meta.framing, meta.method));
    let words = |head: &Head| {
        [head.method, head.path, head.query, head.host, head.authority].map(|span: Span| head.bytes(span).to_vec())
    };
    assert_eq!(words(&again), words(&head));
    assert!(again.live().count() >= head.live().count());
}

fn answer(input: &[u8], method: Method) {
    let mut head = Head::default();
    let Ok(Some(_)) = parse_response(input, &mut 0, LIMITS, &mut head) else { return };
    let Ok(meta) = check_response(&mut head, method) else { return };
    let mut sent = Vec::new();
    let framing = answer_framing(meta.framing, Version::Http11);
    encode_response(&head, framing, Version::Http11, true, &mut sent);
    let limits = HeadLimits { bytes_max: 4096, fields_max: 64 };
    let mut again = Head::default();
    assert_eq!(parse_response(&sent, &mut 0, limits, &mut again), Ok(Some(sent.len())));
    assert_eq!((again.status, again.bytes(again.reason)), (head.status, head.bytes(head.reason)));
    let meta_again = check_response(&mut again, method).expect("what we send is valid");
    assert_eq!(meta_again.framing, framing);
    assert!(meta_again.keep_alive);
}
