//! What single texts must look like: names as in Kubernetes, header fields as in RFC 9110, paths as requests
//! have them. The types that rely on it are `value`'s. Pure, Cold.

use std::net::IpAddr;

/// The characters of one label, and where `-` may not stand.
pub(crate) fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

pub(crate) fn object_name(text: &str) -> Result<Box<str>, String> {
    match is_subdomain(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a name (lower case letters, digits, '-' and '.')")),
    }
}

pub(crate) fn label(text: &str) -> Result<Box<str>, String> {
    match is_label(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a namespace (lower case letters, digits and '-')")),
    }
}

pub(super) fn lane_name(text: &str) -> Result<Box<str>, String> {
    match is_label(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a lane name (lower case letters, digits and '-')")),
    }
}

pub(super) fn group(text: &str) -> Result<Box<str>, String> {
    match text.is_empty() || is_subdomain(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not an API group")),
    }
}

pub(super) fn kind(text: &str) -> Result<Box<str>, String> {
    let is_kind = (1..=63).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.ends_with('-');
    match is_kind {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a kind")),
    }
}

pub(super) fn request_target(text: &str) -> Result<Box<str>, String> {
    let is_target = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    match is_target && text.len() <= 1024 {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a path with or without query (from '/' on, visible ASCII, no '#')")),
    }
}

pub(super) fn hostname(text: &str) -> Result<Box<str>, String> {
    let rest = text.strip_prefix("*.").unwrap_or(text);
    match is_subdomain(rest) && text.len() <= 253 && !is_address(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a host name (lower case, no address; *. may stand first)")),
    }
}

pub(super) fn precise_hostname(text: &str) -> Result<Box<str>, String> {
    match is_subdomain(text) && !is_address(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a host name (lower case, no address, no wildcard)")),
    }
}

pub(super) fn dns_name(text: &str) -> Result<Box<str>, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    // What is no host name may still be a name: `_` is common in names of containers.
    let is_name = name.len() <= 253 && name.split('.').all(|label| is_label(&label.replace('_', "x")));
    match is_name && !is_address(name) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a DNS name (lower case letters, digits, '-', '_' and '.'; no address)")),
    }
}

/// Whether a name of digits would be read as an IPv4 address.
fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn is_token(text: &str) -> bool {
    (1..=256).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

pub(super) fn header_name(text: &str) -> Result<Box<str>, String> {
    match is_token(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a header name")),
    }
}

pub(super) fn token(text: &str) -> Result<Box<str>, String> {
    match is_token(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a token (letters, digits and some of the signs, such as '-' and '.')")),
    }
}

pub(super) fn body(text: &str) -> Result<Box<str>, String> {
    match text.len() <= 65_536 {
        true => Ok(text.into()),
        false => Err("is longer than 65536 bytes".to_owned()),
    }
}

pub(super) fn header_value(text: &str) -> Result<Box<str>, String> {
    let is_visible = |byte: u8| byte.is_ascii_graphic();
    let bytes = text.as_bytes();
    let is_value = bytes.len() <= 4096
        && bytes.first().copied().is_some_and(is_visible)
        && bytes.last().copied().is_some_and(is_visible)
        && bytes.iter().all(|byte| is_visible(*byte) || matches!(byte, b' ' | b'\t'));
    match is_value {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a header value (visible ASCII, blanks only inside)")),
    }
}

pub(super) fn line(text: &str) -> Result<Box<str>, String> {
    match (1..=4096).contains(&text.len()) && !text.chars().any(char::is_control) {
        true => Ok(text.into()),
        false => Err("must have 1 to 4096 bytes and no control characters".to_owned()),
    }
}

pub(super) fn path_text(text: &str) -> Result<Box<str>, String> {
    if text.len() > 1024 {
        return Err("is longer than 1024 bytes".to_owned());
    }
    match text {
        "" => Ok(text.into()),
        _ => path(text).map(|()| text.into()).map_err(|reason| format!("{text:?} {reason}")),
    }
}

/// The middle part of label keys and values.
fn is_label_text(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && is_end(text.as_bytes().first())
        && is_end(text.as_bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

pub(crate) fn label_key(text: &str) -> Result<Box<str>, String> {
    let is_key = match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label_text(name),
        None => is_label_text(text),
    };
    match is_key {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a label's key")),
    }
}

pub(crate) fn label_value(text: &str) -> Result<Box<str>, String> {
    match text.is_empty() || is_label_text(text) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is not a label's value")),
    }
}

pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    // An IPv4 address in IPv6 clothes is the same socket as the plain one.
    let parsed: Result<IpAddr, _> = text.parse();
    parsed.map(|address| address.to_canonical()).map_err(|_| format!("{text:?} is not an IP address"))
}

pub(super) fn cidr(text: &str) -> Result<ipnet::IpNet, String> {
    let network: ipnet::IpNet = text.parse().map_err(|_| format!("{text:?} is not a network (such as 10.0.0.0/8)"))?;
    match network.trunc() == network {
        true => Ok(network),
        false => Err(format!("{text:?} has bits beyond its prefix: {} is meant", network.trunc())),
    }
}

/// Whether a path can be that of a normalised request.
pub(crate) fn path(value: &str) -> Result<(), String> {
    if !value.starts_with('/') {
        return Err("does not start with '/'".to_owned());
    }
    for part in ["//", "/./", "/../", "%2f", "%2F", "%00", "#"] {
        if value.contains(part) {
            return Err(format!("contains {part:?}, which no request's path has"));
        }
    }
    if value.ends_with("/..") || value.ends_with("/.") {
        return Err("ends with a dot segment, which no request's path has".to_owned());
    }
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let is_valid = match byte {
            b'%' => (0..2).all(|_| bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit())),
            _ => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !is_valid {
            return Err("has a character that must be percent-encoded in a path".to_owned());
        }
    }
    Ok(())
}
