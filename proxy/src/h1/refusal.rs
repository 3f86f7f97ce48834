//! Why a message is refused: one variant per reason, with the status that tells the client and the word
//! that tells the log. A refused request is answered and its connection closed, since nobody knows where the
//! next one would begin; a refused answer is the upstream's fault, and its status here is not used. Pure.

/// The one reason that a message is refused for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A line feed without a carriage return before it (RFC 9112 2.2).
    BareLf,
    /// A carriage return without a line feed after it (RFC 9112 2.2).
    BareCr,
    /// Not `method SP target SP version` (RFC 9112 3).
    RequestLine,
    /// The method is no token (RFC 9110 9.1), or very long: garbage, so 400 and not the 501 of RFC 9112 3.
    Method,
    /// CONNECT: this is no tunnel (RFC 9110 9.3.6).
    Connect,
    /// The target has none of the forms that its method may have, a fragment, or bytes that no URI has (RFC 9112 3.2).
    Target,
    /// An `https` target on a connection that nothing secures (RFC 9110 7.4).
    Scheme,
    /// The start line alone is longer than a head may be (RFC 9112 3).
    TargetTooLong,
    /// A percent sign without two hexadecimal digits (RFC 3986 2.1).
    Escape,
    /// `%00` in the path.
    EncodedNul,
    /// `%2F` or `%5C` in the path where the listener rejects them.
    EncodedSlash,
    /// No HTTP version where one must be (RFC 9112 2.3).
    Version,
    /// A version other than 1.0 and 1.1 (RFC 9110 15.6.6; for 1.2 and up against the SHOULD of 6.2).
    VersionUnsupported,
    /// Not `version SP status SP reason` (RFC 9112 4).
    StatusLine,
    /// 101 although nobody asked for another protocol (RFC 9110 15.2.2).
    UnaskedSwitch,
    /// The head is larger than allowed (RFC 6585 5).
    HeadTooLarge,
    /// More fields than allowed (RFC 6585 5).
    TooManyFields,
    /// A line that continues the one before it, or blanks before the first field (RFC 9112 2.2, 5.2).
    Fold,
    /// A blank in a field name or between it and the colon (RFC 9112 5.1).
    BlankInName,
    /// A field line without a colon (RFC 9112 5).
    NoColon,
    /// An empty field name or one with bytes that no token has (RFC 9110 5.1).
    Name,
    /// A control byte in a field value (RFC 9110 5.5).
    Value,
    /// No Host in HTTP/1.1 (RFC 9112 3.2).
    HostMissing,
    /// More than one Host (RFC 9112 3.2).
    HostTwice,
    /// Not `host [":" port]` (RFC 9110 7.2).
    Host,
    /// Both Content-Length and Transfer-Encoding (RFC 9112 6.1).
    LengthAndEncoding,
    /// More than one Content-Length, whatever they say (RFC 9110 8.6).
    LengthTwice,
    /// Content-Length is not one decimal number (RFC 9110 8.6).
    Length,
    /// Transfer-Encoding does not end in one `chunked` (RFC 9112 6.3).
    Encoding,
    /// A transfer coding before `chunked` (RFC 9112 6.1).
    EncodingUnknown,
    /// Transfer-Encoding in HTTP/1.0 (RFC 9112 6.1).
    EncodingInHttp10,
    /// Connection is no short list of tokens (RFC 9110 7.6.1).
    Connection,
    /// An expectation other than 100-continue (RFC 9110 10.1.1).
    Expectation,
    /// No chunk size, or one too large to count (RFC 9112 7.1).
    ChunkSize,
    /// A chunk extension against its grammar (RFC 9112 7.1.1).
    ChunkExtension,
    /// A chunk's line is longer than allowed (RFC 9112 7.1.1).
    ChunkLineTooLong,
    /// A chunk's data does not end where its size says (RFC 9112 7.1).
    ChunkEnd,
    /// A field that must not be a trailer (RFC 9110 6.5.1).
    TrailerForbidden,
    /// More or longer trailers than allowed (RFC 9110 5.4, RFC 6585 5).
    TrailersTooLarge,
    /// The connection ended within a body (RFC 9112 8).
    Truncated,
}

impl Refusal {
    /// The status of the answer to a refused request.
    pub fn status(self) -> u16 {
        self.row().0
    }

    /// The word for the log.
    pub fn reason(self) -> &'static str {
        self.row().1
    }

    fn row(self) -> (u16, &'static str) {
        match self {
            Refusal::BareLf => (400, "bare_lf"),
            Refusal::BareCr => (400, "bare_cr"),
            Refusal::RequestLine => (400, "request_line"),
            Refusal::Method => (400, "method"),
            Refusal::Connect => (501, "connect"),
            Refusal::Target => (400, "target"),
            Refusal::Scheme => (421, "scheme"),
            Refusal::TargetTooLong => (414, "target_too_long"),
            Refusal::Escape => (400, "escape"),
            Refusal::EncodedNul => (400, "encoded_nul"),
            Refusal::EncodedSlash => (400, "encoded_slash"),
            Refusal::Version => (400, "version"),
            Refusal::VersionUnsupported => (505, "version_unsupported"),
            Refusal::StatusLine => (400, "status_line"),
            Refusal::UnaskedSwitch => (400, "unasked_switch"),
            Refusal::HeadTooLarge => (431, "head_too_large"),
            Refusal::TooManyFields => (431, "too_many_fields"),
            Refusal::Fold => (400, "fold"),
            Refusal::BlankInName => (400, "blank_in_name"),
            Refusal::NoColon => (400, "no_colon"),
            Refusal::Name => (400, "name"),
            Refusal::Value => (400, "value"),
            Refusal::HostMissing => (400, "host_missing"),
            Refusal::HostTwice => (400, "host_twice"),
            Refusal::Host => (400, "host"),
            Refusal::LengthAndEncoding => (400, "length_and_encoding"),
            Refusal::LengthTwice => (400, "length_twice"),
            Refusal::Length => (400, "length"),
            Refusal::Encoding => (400, "encoding"),
            Refusal::EncodingUnknown => (501, "encoding_unknown"),
            Refusal::EncodingInHttp10 => (400, "encoding_in_http10"),
            Refusal::Connection => (400, "connection"),
            Refusal::Expectation => (417, "expectation"),
            Refusal::ChunkSize => (400, "chunk_size"),
            Refusal::ChunkExtension => (400, "chunk_extension"),
            Refusal::ChunkLineTooLong => (400, "chunk_line_too_long"),
            Refusal::ChunkEnd => (400, "chunk_end"),
            Refusal::TrailerForbidden => (400, "trailer_forbidden"),
            Refusal::TrailersTooLarge => (431, "trailers_too_large"),
            Refusal::Truncated => (400, "truncated"),
        }
    }
}
