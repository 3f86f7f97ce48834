//! Requests that the grammar allows, put together by dice: most are accepted, so that what is compared is where heads
//! and bodies end and not only who refuses. Pure.

use super::mutate::Dice;

/// A request of RFC 9112's grammar, now and then with another one behind it.
pub(super) fn request(dice: &mut Dice) -> Vec<u8> {
    let mut out = Vec::new();
    let old = dice.below(8) == 0;
    let method: &[u8] =
        dice.pick::<&[u8]>(&[b"GET", b"GET", b"POST", b"POST", b"PUT", b"HEAD", b"DELETE", b"PATCH", b"OPTIONS"]);
    out.extend_from_slice(method);
    out.push(b' ');
    target(&mut out, dice);
    out.extend_from_slice(if old { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });

    let mut lines: Vec<Vec<u8>> = (0..dice.below(6)).map(|_| field(dice)).collect();
    let host = dice.pick(&["a.example", "A.Example", "b.example:8080", "[::1]", "127.0.0.1:80", "a-b.c-d.example"]);
    lines.push(named(dice, b"Host", host.as_bytes()));
    let body = body(dice, old, &mut lines);
    for _ in 0..lines.len() {
        let at = dice.below(lines.len());
        lines.swap(0, at);
    }
    out.extend(lines.concat());
    out.extend_from_slice(b"\r\n");
    out.extend(body);
    if dice.below(4) == 0 {
        out.extend_from_slice(b"GET /behind HTTP/1.1\r\nHost: z.example\r\n\r\n");
    }
    out
}

fn target(out: &mut Vec<u8>, dice: &mut Dice) {
    if dice.below(8) == 0 {
        out.extend_from_slice(dice.pick::<&[u8]>(&[
            b"http://a.example",
            b"http://b.example:8080",
            b"HTTP://A.example",
        ]));
    }
    for _ in 0..1 + dice.below(4) {
        out.push(b'/');
        text(out, dice, b"abcXYZ019-._~!$&'()*+,;=:@", 8);
        if dice.below(6) == 0 {
            out.extend_from_slice(dice.pick::<&[u8]>(&[b"%20", b"%41", b"%e2%82%ac", b"%7e", b"%2F"]));
        }
    }
    if dice.below(2) == 0 {
        out.push(b'?');
        text(out, dice, b"abcXYZ019-._~!$&'()*+,;=:@/?%", 12);
    }
}

/// A field of no meaning to anybody.
fn field(dice: &mut Dice) -> Vec<u8> {
    let mut name = b"X-".to_vec();
    text(&mut name, dice, b"abcdefgXYZ0189-!#$%&'*+.^`|~", 24);
    let mut value = Vec::new();
    text(&mut value, dice, b"abcXYZ019 \t,;=\"()<>@:/?{}\\[]-._~!$&'*+%#^`|\x80\xe9\xff", 40);
    let value = value.trim_ascii().to_vec();
    named(dice, &name, &value)
}

fn named(dice: &mut Dice, name: &[u8], value: &[u8]) -> Vec<u8> {
    let name = match dice.below(4) {
        0 => name.to_ascii_lowercase(),
        1 => name.to_ascii_uppercase(),
        _ => name.to_vec(),
    };
    let before: &[u8] = dice.pick::<&[u8]>(&[b" ", b" ", b" ", b"", b"  ", b"\t", b" \t "]);
    let after: &[u8] = dice.pick::<&[u8]>(&[b"", b"", b"", b" ", b"\t", b"  \t"]);
    [&name, &b":"[..], before, value, after, b"\r\n"].concat()
}

/// What follows the head, and the field that says so.
fn body(dice: &mut Dice, old: bool, lines: &mut Vec<Vec<u8>>) -> Vec<u8> {
    let mut data = Vec::new();
    match dice.below(if old { 2 } else { 3 }) {
        0 => {}
        1 => {
            content(&mut data, dice);
            let length = data.len().to_string();
            lines.push(named(dice, b"Content-Length", length.as_bytes()));
        }
        _ => {
            let coding: &[u8] = dice.pick::<&[u8]>(&[b"chunked", b"Chunked", b"CHUNKED"]);
            lines.push(named(dice, b"Transfer-Encoding", coding));
            for _ in 0..dice.below(4) {
                let mut chunk = Vec::new();
                content(&mut chunk, dice);
                if !chunk.is_empty() {
                    chunk_head(&mut data, dice, chunk.len());
                    data.extend(chunk);
                    data.extend_from_slice(b"\r\n");
                }
            }
            chunk_head(&mut data, dice, 0);
            for _ in 0..dice.below(3).saturating_sub(1) {
                data.extend(field(dice));
            }
            data.extend_from_slice(b"\r\n");
        }
    }
    data
}

fn chunk_head(out: &mut Vec<u8>, dice: &mut Dice, length: usize) {
    let size = match dice.below(3) {
        0 => format!("{length:X}"),
        1 => format!("{length:0width$x}", width = 1 + dice.below(6)),
        _ => format!("{length:x}"),
    };
    out.extend_from_slice(size.as_bytes());
    if dice.below(4) == 0 {
        out.extend_from_slice(dice.pick::<&[u8]>(&[b";a", b";a=b", b";a=b;c=d", b";q=\"x y\"", b";q=\"\\\"\""]));
    }
    out.extend_from_slice(b"\r\n");
}

/// Bytes of a body, some of which look like what they are not.
fn content(out: &mut Vec<u8>, dice: &mut Dice) {
    match dice.below(4) {
        0 => out.extend_from_slice(dice.pick::<&[u8]>(&[
            b"\r\n",
            b"0\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\n",
            b"\0\xff",
        ])),
        _ => text(out, dice, b"abc019\r\n\0\xff :;", 40),
    }
}

fn text(out: &mut Vec<u8>, dice: &mut Dice, of: &[u8], most: usize) {
    for _ in 0..dice.below(most) {
        out.push(*dice.pick(of));
    }
}
