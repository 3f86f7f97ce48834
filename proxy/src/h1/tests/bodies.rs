//! Bodies: each row is what came behind a head, and its data, trailers and rest, or the refusal.

use super::*;

/// Data, trailers, and what is left behind the body.
pub(super) type Parts = (Vec<u8>, Vec<u8>, Vec<u8>);

/// The whole of a body that comes in pieces.
pub(super) fn decoded(framing: Framing, pieces: &[&[u8]]) -> Result<Parts, Refusal> {
    let mut decoder = BodyDecoder::new(framing);
    let mut data = Vec::new();
    let mut rest = Vec::new();
    for piece in pieces {
        let mut at = 0;
        while at < piece.len() && !decoder.is_done() {
            let step = decoder.step(&piece[at..])?;
            assert!(step.skip + step.data > 0, "input and no progress");
            data.extend_from_slice(&piece[at + step.skip..][..step.data]);
            at += step.skip + step.data;
        }
        rest.extend_from_slice(&piece[at..]);
    }
    assert_eq!(decoder.step(b""), Ok(BodyStep { skip: 0, data: 0 }));
    decoder.on_eof()?;
    assert!(decoder.is_done());
    Ok((data, decoder.trailers().to_vec(), rest))
}

fn check(framing: Framing, came: &str, expected: &str) {
    let input = wire(came);
    let seen = match decoded(framing, &[&input]) {
        Ok((data, trailers, rest)) => format!("{}/{}/{}", row(&data), row(&trailers), row(&rest)),
        Err(refusal) => told(refusal),
    };
    assert_eq!(seen, expected, "{came}");
}

#[test]
fn bodies_end_where_their_framing_says() {
    check(Framing::None, "GET", "//GET");
    check(Framing::Length(0), "GET", "//GET");
    check(Framing::Length(3), "abcGET", "abc//GET");
    check(Framing::Length(3), "ab", "400 truncated");
    check(Framing::Length(u64::MAX), "ab", "400 truncated");
    check(Framing::UntilClose, "abc", "abc//");
    check(Framing::UntilClose, "", "//");
    check(Framing::Chunked, "0||GET", "//GET");
    check(Framing::Chunked, "3|abc|0||GET", "abc//GET");
    check(Framing::Chunked, "3|abc|2|de|0||", "abcde//");
    check(Framing::Chunked, "A|0123456789|a|0123456789|0||", "01234567890123456789//");
    check(Framing::Chunked, "0003|abc|000||", "abc//");
    check(Framing::Chunked, "3|a||1|", "400 truncated");
    for truncated in
        ["", "3", "3|", "3|ab", "3|abc", "3|abc\r", "3|abc|", "3|abc|0", "3|abc|0|", "3|abc|0|X: y|", "0|\r"]
    {
        check(Framing::Chunked, truncated, "400 truncated");
    }
}

#[test]
fn chunk_sizes() {
    // RFC 9112 7.1: hexadecimal digits and nothing else.
    for bad in [
        "+3",
        "-3",
        "0x3",
        " 3",
        "\t3",
        "",
        "g",
        "3g",
        "_3",
        "3_0",
        "\u{663}",
        "00000000000000003",
        "10000000000000000",
    ] {
        check(Framing::Chunked, &format!("{bad}|abc|0||"), "400 chunk_size");
    }
    check(Framing::Chunked, "ffffffffffffffff|abc", "400 truncated");
    check(Framing::Chunked, "3 |abc|0||", "400 chunk_extension");
    check(Framing::Chunked, "3\t |abc|0||", "400 chunk_extension");
    check(Framing::Chunked, "3\nabc|0||", "400 bare_lf");
    check(Framing::Chunked, "3\rabc|0||", "400 bare_cr");
    // The data ends where the size says.
    check(Framing::Chunked, "2|abc|0||", "400 chunk_end");
    check(Framing::Chunked, "3|abc\n0||", "400 chunk_end");
    check(Framing::Chunked, "3|abc\r0||", "400 chunk_end");
    check(Framing::Chunked, "3|abc0||", "400 chunk_end");
    check(Framing::Chunked, "4|abc|0||", "400 chunk_end");
    check(Framing::Chunked, "0|\n", "400 bare_lf");
    check(Framing::Chunked, "0|\rx||", "400 bare_cr");
    check(Framing::Chunked, "0\n|", "400 bare_lf");
}

#[test]
fn chunk_extensions_are_checked_and_dropped() {
    // RFC 9112 7.1.1, with blanks where BWS allows them.
    for good in [
        ";a",
        ";a=b",
        ";a;b=c;d",
        ";a=\"b\"",
        ";a=\"b;c\\\"d\u{e4}\t\"",
        " ; a = b",
        ";a ;b",
        ";a=b\t;c",
        ";a=\"\" ;c",
        ";a=\"|\"",
    ]
    .into_iter()
    .filter(|extension| !extension.contains('|'))
    {
        check(Framing::Chunked, &format!("3{good}|abc|0{good}||"), "abc//");
    }
    for bad in [
        ";",
        ";;a",
        ";=b",
        ";a=",
        ";a=b=c",
        ";a b",
        ";a=b c",
        ";a=\"b\"c",
        ";a ",
        ";a=b ",
        ";a=\"b\0\"",
        ";\u{e4}",
        ";a=\u{e4}",
        ";a=\"\u{1}\"",
        ";a=\"b",
        ";a=\"b\\",
        ";a=(",
        ";a\u{b}",
    ] {
        check(Framing::Chunked, &format!("3{bad}|abc|0||"), "400 chunk_extension");
    }
    check(Framing::Chunked, "3;a\nabc|0||", "400 bare_lf");
    check(Framing::Chunked, "3;a=\"\n\"|abc|0||", "400 bare_lf");
    check(Framing::Chunked, "3;a\rb|abc|0||", "400 bare_cr");
    check(Framing::Chunked, &format!("3;{}|abc|0||", "a".repeat(253)), "abc//");
    check(Framing::Chunked, &format!("3;{}|abc|0||", "a".repeat(254)), "400 chunk_line_too_long");
}

#[test]
fn trailers() {
    // RFC 9112 7.1.2, RFC 9110 6.5.1.
    check(Framing::Chunked, "0|X-Sum: a|grpc-status:0||GET", "/X-Sum: a|grpc-status:0|/GET");
    check(Framing::Chunked, "1|a|0|a: b||", "a/a: b|/");
    check(Framing::Chunked, "0|a_b: c|d: e||", "/d: e|/");
    for forbidden in [
        "Content-Length: 5",
        "transfer-encoding: chunked",
        "Host: a",
        "Authorization: a",
        "cookie: a",
        "Set-Cookie: a",
        "TE: a",
        "Trailer: a",
        "Connection: close",
        "Content-Type: a",
        "X-Forwarded-For: a",
        "Expect: a",
        "If-Match: a",
        "Proxy-Authorization: a",
    ] {
        check(Framing::Chunked, &format!("0|{forbidden}||"), "400 trailer_forbidden");
    }
    check(Framing::Chunked, "0|a : b||", "400 blank_in_name");
    check(Framing::Chunked, "0|a: b| c||", "400 fold");
    check(Framing::Chunked, "0|ab||", "400 no_colon");
    check(Framing::Chunked, "0|: b||", "400 name");
    check(Framing::Chunked, "0|a: \0||", "400 value");
    check(Framing::Chunked, "0|a: b\n|", "400 bare_lf");
    check(Framing::Chunked, "0|a: b\rc||", "400 bare_cr");
    check(Framing::Chunked, &format!("0|{}|", "a: b|".repeat(64)), &format!("/{}/", "a: b|".repeat(64)));
    check(Framing::Chunked, &format!("0|{}|", "a: b|".repeat(65)), "431 trailers_too_large");
    check(Framing::Chunked, &format!("0|a: {}||", "b".repeat(8192)), "431 trailers_too_large");
}

#[test]
fn chunks_are_written_as_they_are_read() {
    for size in [1, 9, 15, 16, 255, 256, 65_535, 1 << 20] {
        let mut body = Vec::new();
        write_chunk_head(&mut body, size);
        body.resize(body.len() + size, b'x');
        body.extend_from_slice(b"\r\n");
        write_last_chunk(&mut body, b"a: b\r\n");
        let (data, trailers, rest) = decoded(Framing::Chunked, &[&body]).unwrap();
        assert_eq!((data.len(), &trailers[..], &rest[..]), (size, &b"a: b\r\n"[..], &b""[..]));
    }
}
