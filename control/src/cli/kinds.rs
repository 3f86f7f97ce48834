//! How people write kinds: in any case, as one or many, or short. Pure, Cold.

use crate::cli::client::Failure;

/// Short names that are no initials.
const SHORT: [(&str, &str); 5] = [
    ("gw", "Gateway"),
    ("route", "HTTPRoute"),
    ("routes", "HTTPRoute"),
    ("svc", "Service"),
    ("grant", "ReferenceGrant"),
];

/// The kind that somebody means. Kinds that only the server knows are written as they are.
pub fn kind(word: &str) -> Result<String, Failure> {
    let lower = word.to_ascii_lowercase();
    let is_meant = |kind: &&str| {
        let singular = kind.to_ascii_lowercase();
        let stem = singular.strip_suffix('y').map(|stem| format!("{stem}ies"));
        let initials: String = kind.chars().filter(char::is_ascii_uppercase).collect();
        lower == singular
            || lower == format!("{singular}s")
            || Some(&lower) == stem.as_ref()
            || (initials.len() > 1 && lower == initials.to_ascii_lowercase())
    };
    let short = SHORT.iter().find(|(short, _)| *short == lower).map(|(_, kind)| *kind);
    match short.or_else(|| config::kinds().find(is_meant)) {
        Some(kind) => Ok(kind.to_owned()),
        None if word.starts_with(|letter: char| letter.is_ascii_uppercase()) => Ok(word.to_owned()),
        None if ["proxy", "proxies"].contains(&&*lower) => {
            Err(Failure::Usage("proxies are no documents: evenkeel get proxies lists them".into()))
        }
        None => {
            let known: Vec<&str> = config::kinds().collect();
            Err(Failure::Usage(format!("{word:?} is no kind of document; there are {}", known.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_many_names() {
        for (word, expected) in [
            ("gateways", "Gateway"),
            ("gw", "Gateway"),
            ("HTTPRoute", "HTTPRoute"),
            ("httproutes", "HTTPRoute"),
            ("routes", "HTTPRoute"),
            ("svc", "Service"),
            ("trafficpolicies", "TrafficPolicy"),
            ("tp", "TrafficPolicy"),
            ("rl", "RateLimit"),
            ("cb", "CircuitBreaker"),
            ("NewKind", "NewKind"),
        ] {
            assert_eq!(kind(word).ok().as_deref(), Some(expected), "{word}");
        }
        assert!(kind("servise").is_err());
        // None of them means two.
        let all: Vec<String> = config::kinds()
            .map(|kind| kind.chars().filter(char::is_ascii_uppercase).collect::<String>())
            .filter(|initials| initials.len() > 1)
            .collect();
        let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), all.len(), "{all:?}");
    }
}
