//! Any bytes as a chunked body: nothing panics, every step with input makes progress, pieces say what the whole says,
//! and what is written again reads the same. The first byte of the input chooses where it is split. Pure.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy::h1::{BodyDecoder, Framing, Refusal, write_chunk_head, write_last_chunk};

#[derive(Debug, PartialEq)]
struct Seen {
    data: Vec<u8>,
    trailers: Vec<u8>,
    /// Bytes used, if the body was complete.
    end: Option<usize>,
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, input)) = input.split_first() else { return };
    let whole = decoded(&[input]);
    let (front, back) = input.split_at(usize::from(choice).min(input.len()));
    assert_eq!(decoded(&[front, back]), whole);
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(decoded(&bytes), whole);

    if let Ok(Seen { data, trailers, end: Some(_) }) = whole {
        let mut sent = Vec::new();
        for chunk in data.chunks(usize::from(choice) + 1) {
            write_chunk_head(&mut sent, chunk.len());
            sent.extend_from_slice(chunk);
            sent.extend_from_slice(b"\r\n");
        }
        write_last_chunk(&mut sent, &trailers);
        assert_eq!(decoded(&[&sent]), Ok(Seen { data, trailers, end: Some(sent.len()) }));
    }
});

fn decoded(pieces: &[&[u8]]) -> Result<Seen, Refusal> {
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let (mut data, mut used) = (Vec::new(), 0);
    for piece in pieces {
        let mut at = 0;
        while at < piece.len() && !decoder.is_done() {
            let step = decoder.step(&piece[at..])?;
            assert!(step.skip + step.data > 0, "input and no progress");
            data.extend_from_slice(&piece[at + step.skip..][..step.data]);
            at += step.skip + step.data;
        }
        used += at;
    }
    let end = decoder.is_done().then_some(used);
    assert_eq!(decoder.on_eof().is_ok(), end.is_some());
    Ok(Seen { data, trailers: decoder.trailers().to_vec(), end })
}
