//! Reads the summary of `strace -c`. Pure.

/// A system call and how often it was made, the most frequent first.
pub(crate) fn calls(summary: &str) -> Result<Vec<(String, u64)>, String> {
    // % time, seconds, usecs/call, calls, errors (may be blank), name; strace splits it anew when it ends.
    let mut rows = Vec::new();
    for line in summary.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [share, _, _, calls, .., name] = words[..] else { continue };
        if let (Ok(_), Ok(calls)) = (share.parse::<f64>(), calls.parse::<u64>())
            && name != "total"
        {
            rows.push((name.to_owned(), calls));
        }
    }
    if rows.is_empty() {
        return Err(format!("no summary of strace: {summary:?}"));
    }
    rows.sort_by_key(|(_, calls)| std::cmp::Reverse(*calls));
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_and_without_errors_and_without_their_sum() {
        let summary = "strace: Process 7 attached\n\
            % time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n \
            60.00    0.600000          30     20000           sendto\n \
            39.99    0.400000          13     30000     10000 recvfrom\n  \
            0.01    0.000100         100         1           epoll_wait\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    1.000100          20     50001     10000 total\n";
        let expected = [("recvfrom", 30_000), ("sendto", 20_000), ("epoll_wait", 1)];
        assert_eq!(calls(summary).unwrap(), expected.map(|(name, count)| (name.to_owned(), count)));
        assert!(calls("strace: attach: ptrace(PTRACE_SEIZE, 7): Operation not permitted\n").is_err());
    }
}
