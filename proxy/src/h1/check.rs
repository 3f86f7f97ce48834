//! Everything that RFC 9112 6 and 9110 demand of a head once all of it is there: one framing, one Host, a
//! list of Connection options, an expectation we can meet. Fields that belong to one hop are removed here,
//! before any rule looks, so that nothing added later can be removed by a peer's `Connection`. Pure, Hot.

use config::snapshot::EncodedSlash;
use filters::head::{Head, Known, Span, Version};

use super::bytes::{decimal, is_blank};
use super::framing::{content_length, is_canonical, transfer_encoding};
use super::parse::is_token;
use super::target;
use super::{Framing, Method, Refusal};

/// What a request's head says about its connection and its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestMeta {
    /// The method.
    pub method: Method,
    /// Where its body ends. Never `UntilClose`.
    pub framing: Framing,
    /// Whether the client wants to send another request afterwards.
    pub keep_alive: bool,
    /// Whether it waits for `100 Continue` before it sends its body.
    pub expect_continue: bool,
    /// Whether it asks for another protocol; the fields that ask are removed.
    pub upgrade: bool,
    /// Whether it says `TE: trailers`.
    pub te_trailers: bool,
}

/// What an answer's head says about its connection and its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseMeta {
    /// Where its body ends.
    pub framing: Framing,
    /// Whether the connection can take another request afterwards.
    pub keep_alive: bool,
    /// How long the upstream keeps an idle connection, if it says so.
    pub keep_alive_timeout_s: Option<u32>,
}

/// Checks a request's head and brings target and host into their normal form. Afterwards `head` has no
/// fields of this hop; Content-Length stays if it is exactly canonical.
pub fn check_request(head: &mut Head, slash: EncodedSlash) -> Result<RequestMeta, Refusal> {
    let mut found = Found::default();
    found.gather(head)?;
    let method = Method::of(head.bytes(head.method));
    if method == Method::Connect {
        return Err(Refusal::Connect);
    }
    let framing = found.framing(head.version)?.unwrap_or(Framing::None);
    let mut expect_continue = false;
    if found.expect {
        // RFC 9110 10.1.1: ignored in HTTP/1.0. Without a body there is nothing to wait for.
        expect_continue = head.version == Version::Http11 && !matches!(framing, Framing::None | Framing::Length(0));
        if !expect_continue {
            head.remove_known(Known::Expect);
        }
    }
    if found.host.is_none() && head.version == Version::Http11 {
        return Err(Refusal::HostMissing);
    }
    target::settle(head, method, found.host, slash)?;
    Ok(RequestMeta {
        method,
        framing,
        keep_alive: found.keep_alive(head.version),
        expect_continue,
        upgrade: found.upgrade && found.upgrade_option && head.version == Version::Http11,
        // To HTTP/1.0 no trailers are sent (RFC 9110 6.5.1).
        te_trailers: found.te_trailers && head.version == Version::Http11,
    })
}

/// Checks an answer's head (RFC 9112 6.3). `request_method` is what it answers.
pub fn check_response(head: &mut Head, request_method: Method) -> Result<ResponseMeta, Refusal> {
    let mut found = Found { is_answer: true, ..Found::default() };
    found.gather(head)?;
    if head.status == 101 {
        return Err(Refusal::UnaskedSwitch);
    }
    let is_without_length = matches!(head.status, 100..=199 | 204);
    if is_without_length || found.encoding {
        // RFC 9110 8.6, RFC 9112 6.1: must not be sent there, and would be read as something by somebody.
        head.remove_known(Known::ContentLength);
    }
    // RFC 9112 6.3: some answers end with their head, whatever it says.
    let framing = match is_without_length || head.status == 304 || request_method == Method::Head {
        true => Framing::None,
        false => found.framing(head.version)?.unwrap_or(Framing::UntilClose),
    };
    Ok(ResponseMeta {
        framing,
        keep_alive: found.keep_alive(head.version) && framing != Framing::UntilClose,
        keep_alive_timeout_s: found.keep_alive_timeout_s,
    })
}

/// More options in `Connection` than this are refused: each is compared with every field.
const OPTIONS_MAX: usize = 16;

/// What one walk over the fields finds.
#[derive(Default)]
struct Found {
    is_answer: bool,
    length: Option<u64>,
    encoding: bool,
    host: Option<usize>,
    expect: bool,
    close_option: bool,
    keep_alive_option: bool,
    upgrade_option: bool,
    options: usize,
    upgrade: bool,
    te_trailers: bool,
    keep_alive_timeout_s: Option<u32>,
}

impl Found {
    #[inline]
    fn gather(&mut self, head: &mut Head) -> Result<(), Refusal> {
        for index in 0..head.fields().len() {
            if head.fields()[index].untidy {
                head.tidy(index);
            }
            let field = &head.fields()[index];
            if field.known == Known::Other {
                continue;
            }
            let value = field.value;
            match field.known {
                Known::Host if !self.is_answer => put_once(&mut self.host, index, Refusal::HostTwice)?,
                Known::Expect if !self.is_answer => {
                    self.expect = true;
                    if !list(head.bytes(value))
                        .all(|member| member.is_empty() || member.eq_ignore_ascii_case(b"100-continue"))
                    {
                        return Err(Refusal::Expectation);
                    }
                }
                Known::ContentLength => {
                    let digits = head.bytes(value);
                    put_once(&mut self.length, content_length(digits)?, Refusal::LengthTwice)?;
                    if !is_canonical(digits) {
                        head.remove_at(index);
                    }
                }
                Known::TransferEncoding => {
                    transfer_encoding(head.bytes(value))?;
                    if std::mem::replace(&mut self.encoding, true) {
                        return Err(Refusal::Encoding);
                    }
                    head.remove_at(index);
                }
                Known::Connection => {
                    self.connection(head, value)?;
                    head.remove_at(index);
                }
                Known::Te => {
                    self.te_trailers |= list(head.bytes(value)).any(|member| member.eq_ignore_ascii_case(b"trailers"));
                    head.remove_at(index);
                }
                Known::Upgrade => {
                    self.upgrade = true;
                    head.remove_at(index);
                }
                Known::KeepAlive => {
                    self.keep_alive_timeout_s = list(head.bytes(value)).find_map(timeout_s);
                    head.remove_at(index);
                }
                Known::ProxyConnection | Known::Http2Settings | Known::ProxyAuth => head.remove_at(index),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads Connection and removes the fields it names (RFC 9110 7.6.1). Fields that the engine knows are not
    /// removed: those of one hop are gone anyway, and a peer has no say about the others.
    fn connection(&mut self, head: &mut Head, value: Span) -> Result<(), Refusal> {
        let mut start = value.start as usize;
        while start < value.end as usize {
            let rest = &head.text()[start..value.end as usize];
            let length = memchr::memchr(b',', rest).unwrap_or(rest.len());
            let option = rest[..length].trim_ascii();
            let option_start = start + length - rest[..length].trim_ascii_start().len();
            let name = Span::new(option_start, option_start + option.len());
            start += length + 1;
            // RFC 9110 5.6.1: empty members are ignored.
            if option.is_empty() {
                continue;
            }
            self.options += 1;
            if !is_token(option) || self.options > OPTIONS_MAX {
                return Err(Refusal::Connection);
            }
            if option.eq_ignore_ascii_case(b"close") {
                self.close_option = true;
                remove_named(head, name);
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive_option = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade_option = true;
            } else {
                remove_named(head, name);
            }
        }
        Ok(())
    }

    /// RFC 9112 6.3. None: no field says anything.
    #[inline]
    fn framing(&self, version: Version) -> Result<Option<Framing>, Refusal> {
        match (self.encoding, self.length) {
            (false, None) => Ok(None),
            (false, Some(length)) => Ok(Some(Framing::Length(length))),
            (true, Some(_)) => Err(Refusal::LengthAndEncoding),
            (true, None) if version == Version::Http10 => Err(Refusal::EncodingInHttp10),
            (true, None) => Ok(Some(Framing::Chunked)),
        }
    }

    /// RFC 9112 9.3. Towards clients we are a gateway (RFC 9110 3.7), so HTTP/1.0 may stay too.
    #[inline]
    fn keep_alive(&self, version: Version) -> bool {
        !self.close_option && (version == Version::Http11 || self.keep_alive_option)
    }
}

fn put_once<T>(place: &mut Option<T>, value: T, refusal: Refusal) -> Result<(), Refusal> {
    if place.replace(value).is_some() { Err(refusal) } else { Ok(()) }
}

/// The members of a comma-separated list, without blanks.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(|member| {
        let start = member.iter().position(|&byte| !is_blank(byte)).unwrap_or(member.len());
        member[start..].trim_ascii_end()
    })
}

fn remove_named(head: &mut Head, name: Span) {
    for index in 0..head.fields().len() {
        let field = &head.fields()[index];
        if matches!(field.known, Known::Other | Known::Underscored)
            && head.bytes(field.name).eq_ignore_ascii_case(head.bytes(name))
        {
            head.remove_at(index);
        }
    }
}

/// The number of `timeout=NUMBER`: in no RFC (RFC 2068 19.7.1.1 leaves parameters open), but servers send it.
fn timeout_s(parameter: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"timeout=";
    let (name, digits) = parameter.split_at_checked(NAME.len())?;
    if name.eq_ignore_ascii_case(NAME) { decimal(digits).map(|s| u32::try_from(s).unwrap_or(u32::MAX)) } else { None }
}
