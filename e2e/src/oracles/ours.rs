//! Our own opinion: the codec called as the proxy calls it, its reading of what came and of what is sent on, and how
//! both compare with another's. Pure.

use config::snapshot::EncodedSlash;
use filters::Head;
use proxy::h1::{
    BodyDecoder, Framing, HeadLimits, Refusal, check_request, encode_request, parse_request, write_chunk_head,
    write_last_chunk,
};

use super::reading::{Reading, Verdict};

/// What we say about some bytes.
#[derive(Debug)]
pub(super) struct Ours {
    /// About the bytes as they came.
    pub verdict: Verdict,
    /// The reason, if they are refused.
    pub refusal: Option<Refusal>,
    /// About what is sent on; `Unfinished` if nothing is.
    pub sent: Verdict,
    /// What is sent on: head and body.
    pub sent_bytes: Vec<u8>,
    /// Names of fields, in lower case, that Connection lists.
    named_by_connection: Vec<Vec<u8>>,
}

const LIMITS: HeadLimits = HeadLimits { bytes_max: 32 * 1024, fields_max: 100 };

impl Ours {
    /// Judges the first request in `input`.
    pub fn of(input: &[u8]) -> Ours {
        let mut ours = Ours {
            verdict: Verdict::Unfinished,
            refusal: None,
            sent: Verdict::Unfinished,
            sent_bytes: Vec::new(),
            named_by_connection: Vec::new(),
        };
        if let Err(refusal) = ours.read(input) {
            ours.verdict = Verdict::Refused(refusal.reason().to_owned());
            ours.refusal = Some(refusal);
        }
        ours
    }

    /// `accepted`, `unfinished` or the reason of the refusal.
    pub fn word(&self) -> &str {
        match &self.verdict {
            Verdict::Accepted(_) => "accepted",
            Verdict::Unfinished => "unfinished",
            Verdict::Refused(reason) => reason,
        }
    }

    fn read(&mut self, input: &[u8]) -> Result<(), Refusal> {
        let mut head = Head::default();
        let Some(mut end) = parse_request(input, &mut 0, LIMITS, &mut head)? else { return Ok(()) };
        let mut came = Reading {
            method: head.bytes(head.method).to_vec(),
            target: head.bytes(head.path).to_vec(),
            fields: fields(&head),
            ..Reading::default()
        };
        let meta = check_request(&mut head, EncodedSlash::Keep)?;
        let mut decoder = BodyDecoder::new(meta.framing);
        let mut body = Vec::new();
        while !decoder.is_done() {
            let step = decoder.step(&input[end..])?;
            if step.skip + step.data == 0 {
                return Ok(());
            }
            body.extend_from_slice(&input[end + step.skip..][..step.data]);
            end += step.skip + step.data;
        }
        self.named_by_connection = named(&came.fields);
        encode_request(&head, meta.framing, meta.te_trailers, &mut self.sent_bytes);
        let head_bytes = self.sent_bytes.len();
        self.send_body(meta.framing, &body, decoder.trailers());
        let mut target = head.bytes(head.path).to_vec();
        if head.has_query {
            target.push(b'?');
            target.extend_from_slice(head.bytes(head.query));
        }
        let mut sent_head = Head::default();
        // Every line that is on the wire, those that were added for this hop among them.
        parse_request(&self.sent_bytes[..head_bytes], &mut 0, LIMITS, &mut sent_head)?;
        self.sent = Verdict::Accepted(Reading {
            method: came.method.clone(),
            target,
            fields: fields(&sent_head),
            body: body.clone(),
            end: Some(self.sent_bytes.len()),
        });
        came.body = body;
        came.end = Some(end);
        self.verdict = Verdict::Accepted(came);
        Ok(())
    }

    fn send_body(&mut self, framing: Framing, body: &[u8], trailers: &[u8]) {
        if framing != Framing::Chunked {
            self.sent_bytes.extend_from_slice(body);
            return;
        }
        for chunk in body.chunks(7) {
            write_chunk_head(&mut self.sent_bytes, chunk.len());
            self.sent_bytes.extend_from_slice(chunk);
            self.sent_bytes.extend_from_slice(b"\r\n");
        }
        write_last_chunk(&mut self.sent_bytes, trailers);
    }

    /// How a parser's opinion on the same bytes differs.
    pub fn difference_as_parsers(&self, theirs: &Verdict) -> Option<String> {
        match &self.verdict {
            Verdict::Accepted(came) => difference(came, theirs),
            Verdict::Refused(_) => matches!(theirs, Verdict::Accepted(_)).then(|| "accept".to_owned()),
            // They may know earlier that it is refused; a row is needed only where they see an end.
            Verdict::Unfinished => matches!(theirs, Verdict::Accepted(_)).then(|| "accept".to_owned()),
        }
    }

    /// How what a gateway sent on differs from what we send on. `theirs` is what our own reader makes of it.
    pub fn difference_as_gateways(&self, theirs: &Verdict) -> Option<String> {
        let Verdict::Accepted(sent) = &self.sent else { return self.difference_as_parsers(theirs) };
        let Verdict::Accepted(theirs) = theirs else { return difference(sent, theirs) };
        let mut sent = sent.clone();
        let mut theirs = theirs.clone();
        // Only whether the same request follows is known.
        sent.end = Some(0);
        let (our_host, their_host) = (host(&sent), host(&theirs));
        if !our_host.is_empty() && our_host != their_host {
            return Some("read another host".to_owned());
        }
        for reading in [&mut sent, &mut theirs] {
            reading.fields.retain(|(name, _)| !is_of_gateways(name) && !self.named_by_connection.contains(name));
        }
        difference(&sent, &Verdict::Accepted(theirs))
    }
}

/// How `theirs` differs from a reading that should be theirs too.
pub(super) fn difference(ours: &Reading, theirs: &Verdict) -> Option<String> {
    match theirs {
        Verdict::Accepted(theirs) => ours.difference(theirs).map(|word| format!("read another {word}")),
        Verdict::Refused(reason) => Some(format!("refuse: {reason}")),
        Verdict::Unfinished => Some("wait".to_owned()),
    }
}

/// The host without its port, which nginx's `$host` does not have.
fn host(reading: &Reading) -> &[u8] {
    let value = reading.fields.iter().find(|(name, _)| name == b"host").map_or(&b""[..], |(_, value)| value);
    let port = value.iter().rposition(|byte| !byte.is_ascii_digit()).filter(|&colon| value[colon] == b':');
    &value[..port.unwrap_or(value.len())]
}

/// Fields that belong to one hop (RFC 9110 7.6.1), that a gateway writes itself, or that nginx drops as we do at the
/// edge (names with `_`).
fn is_of_gateways(name: &[u8]) -> bool {
    const OWN: [&[u8]; 13] = [
        b"host",
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"content-length",
        b"upgrade",
        b"expect",
        b"proxy-connection",
        b"http2-settings",
        b"proxy-authorization",
        b"proxy-authenticate",
    ];
    OWN.contains(&name) || name.contains(&b'_')
}

/// RFC 9110 7.6.1 has fields removed that Connection names. Neither HAProxy nor nginx does so.
fn named(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<Vec<u8>> {
    let values = fields.iter().filter(|(name, _)| name == b"connection").map(|(_, value)| value);
    values
        .flat_map(|value| value.split(|&byte| byte == b','))
        .map(|option| option.trim_ascii().to_ascii_lowercase())
        .collect()
}

fn fields(head: &Head) -> Vec<(Vec<u8>, Vec<u8>)> {
    head.fields()
        .iter()
        .map(|field| (head.bytes(field.name).to_ascii_lowercase(), head.bytes(field.value).to_vec()))
        .collect()
}
