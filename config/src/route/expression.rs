//! Regular expressions on paths, header fields and parameters: matched in linear time, always against the
//! whole value, bounded in size. Pure, Hot.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

/// Memory of one compiled expression: counted repetitions can make a short one huge.
const COMPILED_BYTES_MAX: usize = 1 << 20;
/// Memory of all compiled expressions of a configuration.
const ALL_PATTERNS_BYTES_MAX: usize = 1 << 20;
/// Groups within each other.
const NESTING_MAX: u32 = 64;

/// A compiled expression; equal to another if its pattern is.
#[derive(Debug, Clone)]
pub struct Expression {
    // Cloning gives the clone scratch memory of its own, so that workers with a table each share no lock.
    regex: Regex,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str()
    }
}

impl Eq for Expression {}

impl Hash for Expression {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.regex.as_str().hash(state);
    }
}

impl Expression {
    /// Whether it describes all of a value.
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }
}

/// Compiles expressions, each pattern once, and keeps names, each in one place: what thousands of conditions
/// share then stays in the cache.
#[derive(Debug, Default)]
pub(crate) struct Expressions {
    names: HashSet<Arc<str>>,
    known: HashMap<Box<str>, Expression>,
    /// Those of the configuration before: most stay, and compiling one costs as much as reading a route.
    before: HashMap<Box<str>, Expression>,
    pattern_bytes: usize,
}

impl Expressions {
    /// Starts a configuration.
    pub(crate) fn renew(&mut self) {
        self.before = std::mem::take(&mut self.known);
        self.pattern_bytes = 0;
        self.names.retain(|name| Arc::strong_count(name) > 1);
    }

    /// A name, shared with everybody who asked for it before.
    pub(crate) fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.names.insert(name.clone());
        name
    }

    /// The expression of a pattern in the syntax of the `regex` crate, over ASCII.
    pub(crate) fn compile(&mut self, pattern: &str) -> Result<Expression, String> {
        if let Some(known) = self.known.get(pattern) {
            return Ok(known.clone());
        }
        self.pattern_bytes += pattern.len();
        if self.pattern_bytes > ALL_PATTERNS_BYTES_MAX {
            return Err("is one regular expression too many: all together have at most 1 MiB".to_owned());
        }
        if let Some((pattern, known)) = self.before.remove_entry(pattern) {
            self.known.insert(pattern, known.clone());
            return Ok(known);
        }
        let build = |anchored: &str| {
            let mut builder = RegexBuilder::new(anchored);
            builder.unicode(false).size_limit(COMPILED_BYTES_MAX).dfa_size_limit(COMPILED_BYTES_MAX);
            builder.nest_limit(NESTING_MAX).build()
        };
        // The pattern must stand on its own: `a)(b` shall not be made right by the parentheses around it.
        let alone = if pattern.contains(')') { build(pattern).map(drop) } else { Ok(()) };
        let regex = alone.and_then(|()| build(&format!("^(?:{pattern})$"))).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "is too large a regular expression once compiled".to_owned(),
            error => {
                let text = error.to_string();
                let reason = text.lines().last().unwrap_or_default();
                format!("is not a regular expression: {}", reason.trim_start_matches("error: "))
            }
        })?;
        let expression = Expression { regex };
        self.known.insert(pattern.into(), expression.clone());
        Ok(expression)
    }
}
