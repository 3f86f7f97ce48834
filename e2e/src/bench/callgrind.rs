//! Reads the total of a callgrind profile. Pure.

/// Instructions of the whole profile: the sum of all `totals:` lines, of which each part of a file has one.
pub(crate) fn instructions(profile: &str) -> Result<u64, String> {
    let first_event = |line: &str| line.split_ascii_whitespace().next().and_then(|word| word.parse::<u64>().ok());
    let totals: Vec<Option<u64>> =
        profile.lines().filter_map(|line| line.strip_prefix("totals:")).map(first_event).collect();
    if !profile
        .lines()
        .any(|line| line.strip_prefix("events:").is_some_and(|names| names.trim_start().starts_with("Ir")))
    {
        return Err("the profile does not count instructions first".into());
    }
    match totals.iter().copied().sum::<Option<u64>>() {
        Some(sum) if !totals.is_empty() => Ok(sum),
        _ => Err("the profile has no total".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_of_all_parts_add_up() {
        let part = "version: 1\ncreator: callgrind-3.19.0\npid: 7\n\nevents: Ir\nsummary: 120\n\nfn=(1) main\n1 120\n";
        assert_eq!(instructions(&format!("{part}\ntotals: 120\n")), Ok(120));
        assert_eq!(instructions(&format!("{part}totals: 120\n{part}totals: 30\n")), Ok(150));
        assert_eq!(instructions("events: Ir Dr\ntotals: 5 9\n"), Ok(5));
        assert!(instructions(part).is_err());
        assert!(instructions("events: Dr\ntotals: 5\n").is_err());
        assert!(instructions("events: Ir\ntotals: x\n").is_err());
        assert!(instructions("").is_err());
    }
}
