//! Which entry a host name meets: its own, then wildcards from the longest to the shortest, then the one
//! for all hosts. Pure, Hot.

use crate::route::bytes::ByteMap;

/// Values by host name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hosts<T> {
    exact: ByteMap<T>,
    /// By what follows the `*`, such as `.example.com`.
    wildcards: ByteMap<T>,
    /// The longest key of `wildcards`, so that a host of many labels costs no more look-ups than needed.
    wildcard_bytes_max: usize,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Hosts { exact: ByteMap::default(), wildcards: ByteMap::default(), wildcard_bytes_max: 0, any: None }
    }
}

impl<T: Default> Hosts<T> {
    /// The value for a host name as it is written, `*.` first or not; None for all hosts.
    pub(crate) fn entry(&mut self, hostname: Option<&str>) -> &mut T {
        let Some(hostname) = hostname else {
            return self.any.get_or_insert_default();
        };
        match hostname.strip_prefix('*') {
            Some(suffix) => {
                self.wildcard_bytes_max = self.wildcard_bytes_max.max(suffix.len());
                self.wildcards.entry(suffix.as_bytes(), T::default)
            }
            None => self.exact.entry(hostname.as_bytes(), T::default),
        }
    }

    /// Visits all values, in no order.
    pub(crate) fn for_each(&mut self, mut visit: impl FnMut(&mut T)) {
        let values = self.exact.values_mut().chain(self.wildcards.values_mut()).chain(&mut self.any);
        values.for_each(&mut visit);
    }
}

impl<T> Hosts<T> {
    /// The first answer of the values that suit a host, the most specific asked first.
    pub(crate) fn first<'t, R>(&'t self, host: &[u8], mut ask: impl FnMut(&'t T) -> Option<R>) -> Option<R> {
        if let Some(answer) = self.exact.get(host).and_then(&mut ask) {
            return Some(answer);
        }
        if !self.wildcards.is_empty() {
            // `*` stands for one character or more, so that a suffix never begins at 0.
            let start = host.len().saturating_sub(self.wildcard_bytes_max).max(1);
            for dot in memchr::memchr_iter(b'.', host.get(start..).unwrap_or_default()) {
                let suffix = &host[start + dot..];
                if let Some(answer) = self.wildcards.get(suffix).and_then(&mut ask) {
                    return Some(answer);
                }
            }
        }
        self.any.as_ref().and_then(ask)
    }
}
