//! What holds for all messages: pieces say what the whole says, nothing panics, and what is sent reads as
//! what was received.

use super::bodies::decoded;
use super::*;
use proptest::prelude::*;

/// Messages of parts that often meet in real ones and in attacks.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![Just("GET"), Just("POST"), Just("OPTIONS"), Just("X-y_z")];
    let target =
        prop_oneof![Just("*".to_owned()), "/[a-z/.%2eF?\\\\]{0,12}", "http://[A-Za-z.]{1,5}(:80)?(/[a-z]{0,3})?"];
    let version = prop_oneof![9 => Just("HTTP/1.1"), 1 => Just("HTTP/1.0")];
    let value = prop_oneof![
        Just("close".to_owned()),
        Just("keep-alive, x-a".to_owned()),
        Just("chunked".to_owned()),
        Just("trailers".to_owned()),
        "[0-9]{1,3}",
        "[ -~\t\u{80}-\u{ff}]{0,20}",
    ];
    let name = prop_oneof![
        Just("Connection".to_owned()),
        Just("Content-Length".to_owned()),
        Just("Transfer-Encoding".to_owned()),
        Just("TE".to_owned()),
        Just("X-A".to_owned()),
        "[A-Za-z][A-Za-z0-9_-]{0,10}",
    ];
    let fields = proptest::collection::vec((name, value), 0..6);
    let host = prop_oneof![8 => Just("Host: Shop.local:80\r\n"), 1 => Just("hosT:a.\r\n"), 1 => Just("")];
    (method, target, version, host, fields).prop_map(|(method, target, version, host, fields)| {
        let mut text = format!("{method} {target} {version}\r\n{host}");
        for (name, value) in fields {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        text.into_bytes()
    })
}

/// Valid and almost valid chunked bodies.
fn chunked() -> impl Strategy<Value = Vec<u8>> {
    let extension = prop_oneof![6 => Just("".to_owned()), 1 => "[;a=\" \\\\]{0,5}", 1 => Just(";a=\"b\"".to_owned())];
    let chunk = (proptest::collection::vec(any::<u8>(), 1..20), extension, 0..40u8);
    let trailers = prop_oneof![3 => Just(""), 1 => Just("a: b\r\nc-d: e\r\n"), 1 => Just("host: b\r\n")];
    (proptest::collection::vec(chunk, 0..4), trailers).prop_map(|(chunks, trailers)| {
        let mut body = Vec::new();
        for (data, extension, slip) in chunks {
            // Now and then a size that is one too large.
            let size = data.len() + usize::from(slip == 0);
            body.extend_from_slice(format!("{size:x}{extension}\r\n").as_bytes());
            body.extend_from_slice(&data);
            body.extend_from_slice(b"\r\n");
        }
        write_last_chunk(&mut body, trailers.as_bytes());
        body.extend_from_slice(b"next");
        body
    })
}

/// A head fed piece by piece, as from a socket: how much was taken, and what it says.
fn fed(input: &[u8], ends: impl Iterator<Item = usize>) -> Result<Option<(usize, String)>, Refusal> {
    let mut head = Head::default();
    let mut scanned = 0;
    for end in ends {
        if let Some(n) = parse_request(&input[..end], &mut scanned, LIMITS, &mut head)? {
            assert_eq!(scanned, 0);
            return Ok(Some((n, format!("{:?} {:?} {:?}", head.method, head.path, head.fields()))));
        }
        // What is known so far can be looked at any time.
        for field in head.fields() {
            let _ = (head.bytes(field.name), head.bytes(field.value), head.bytes(head.path));
        }
    }
    Ok(None)
}

/// Live fields in order, names in lower case.
fn fields(head: &Head) -> Vec<(Vec<u8>, Vec<u8>)> {
    head.live().map(|field| (head.bytes(field.name).to_ascii_lowercase(), head.bytes(field.value).to_vec())).collect()
}

proptest! {
    #[test]
    fn heads_in_pieces_say_what_the_whole_says(input in request(), noise in 0..400usize, byte in any::<u8>()) {
        let mut input = input;
        // Half of them with one wrong byte.
        if let Some(place) = input.get_mut(noise) {
            *place = byte;
        }
        // Refusals come at the latest with the line's end.
        input.push(b'\n');
        let whole = fed(&input, std::iter::once(input.len()));
        for split in 1..input.len() {
            prop_assert_eq!(&fed(&input, [split, input.len()].into_iter()), &whole, "split at {}", split);
        }
        prop_assert_eq!(&fed(&input, 1..=input.len()), &whole, "byte by byte");
    }

    #[test]
    fn bodies_in_pieces_say_what_the_whole_says(input in chunked()) {
        let whole = decoded(Framing::Chunked, &[&input]);
        for split in 0..input.len() {
            let (a, b) = input.split_at(split);
            prop_assert_eq!(&decoded(Framing::Chunked, &[a, b]), &whole, "split at {}", split);
        }
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        prop_assert_eq!(&decoded(Framing::Chunked, &bytes), &whole, "byte by byte");
    }

    #[test]
    fn nothing_panics(input in proptest::collection::vec(any::<u8>(), 0..200), scanned in 0..300usize) {
        let _ = forwarded(&input);
        let _ = decoded(Framing::Chunked, &[&input]);
        let mut head = Head::default();
        let mut scanned = scanned;
        let _ = parse_response(&input, &mut scanned, LIMITS, &mut head);
    }

    #[test]
    fn what_is_sent_reads_as_what_was_received(input in request()) {
        let Ok((n, meta, head, _)) = forwarded(&input) else { return Ok(()) };
        prop_assert_eq!(n, input.len());
        let mut sent = Vec::new();
        encode_request(&head, meta.framing, meta.te_trailers, &mut sent);
        if head.authority.is_empty() {
            return Ok(()); // HTTP/1.0 without Host: the story must name one.
        }
        let (n, meta_again, again, _) = forwarded(&sent).map_err(TestCaseError::fail)?;
        prop_assert_eq!(n, sent.len());
        prop_assert_eq!(meta_again.framing, meta.framing);
        prop_assert_eq!(meta_again.te_trailers, meta.te_trailers);
        let words = |head: &Head| {
            [head.method, head.path, head.query, head.host, head.authority].map(|span| row(head.bytes(span)))
        };
        prop_assert_eq!(words(&again), words(&head));
        prop_assert_eq!(again.has_query, head.has_query);
        // Framing of our own goes to the end.
        let own = |(name, _): &(Vec<u8>, Vec<u8>)| name != b"content-length";
        let (mut before, mut after) = (fields(&head), fields(&again));
        before.retain(own);
        after.retain(own);
        prop_assert_eq!(after, before);
        // And what is sent again is the same to the byte, our own lines aside.
        let mut twice = Vec::new();
        encode_request(&again, meta_again.framing, meta_again.te_trailers, &mut twice);
        prop_assert_eq!(row(&twice), row(&sent));
    }
}
