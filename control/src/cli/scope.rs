//! Which namespace is meant. Cold.

/// One namespace, or all.
#[derive(Debug, Clone, clap::Args)]
pub struct Scope {
    /// The namespace
    #[arg(short = 'n', long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

impl Scope {
    /// The only one; None: all.
    pub fn namespace(&self) -> Option<&str> {
        (!self.all_namespaces).then_some(&self.namespace)
    }

    /// The one in which something has its name.
    pub fn named(&self) -> &str {
        &self.namespace
    }
}
