//! What a proxy stands for: a Gateway, or one instance of a Service. How control knows it, and what of control's documents
//! are its own. Cold.

use config::sidecar::Called;
use config::{Origin, Reader, Sidecar, Source};

/// What a proxy stands for.
#[derive(Debug, Clone)]
pub(crate) enum Workload {
    /// All Gateways of files, or this one of control, `NAMESPACE/NAME`.
    Gateway(Option<String>),
    /// One instance of a Service.
    Sidecar {
        sidecar: Sidecar,
        /// What tells it from others of the Service.
        instance: String,
    },
}

impl Workload {
    pub(crate) fn gateway(name: Option<String>) -> Result<Workload, String> {
        let is_name = |name: &String| {
            name.split_once('/')
                .is_some_and(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains('/'))
        };
        match name {
            Some(name) if !is_name(&name) => Err(format!("{name:?} is not NAMESPACE/NAME")),
            name => Ok(Workload::Gateway(name)),
        }
    }

    pub(crate) fn sidecar(sidecar: Sidecar, instance: Option<String>) -> Result<Workload, String> {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        let instance = instance.unwrap_or_else(process);
        match (1..=253).contains(&instance.len()) && instance.bytes().all(is_known) {
            true => Ok(Workload::Sidecar { sidecar, instance }),
            false => {
                Err(format!("{instance:?} is not the name of an instance (letters, digits, '-', '_', '.' and ':')"))
            }
        }
    }

    /// `NAMESPACE/NAME`; empty for a gateway of files.
    pub(crate) fn cluster(&self) -> String {
        match self {
            Workload::Gateway(name) => name.clone().unwrap_or_default(),
            Workload::Sidecar { sidecar, .. } => format!("{}/{}", sidecar.namespace, sidecar.service),
        }
    }

    /// The document that it stands for, `KIND/NAMESPACE/NAME`.
    pub(crate) fn document(&self) -> String {
        match self {
            Workload::Gateway(_) => format!("Gateway/{}", self.cluster()),
            Workload::Sidecar { .. } => format!("Service/{}", self.cluster()),
        }
    }

    /// Unlike that of another on another machine, or before.
    pub(crate) fn id(&self) -> String {
        match self {
            Workload::Gateway(_) => format!("{}@{}", self.cluster(), process()),
            Workload::Sidecar { instance, .. } => format!("{}@{instance}", self.cluster()),
        }
    }

    /// What the instance is called; empty for a gateway.
    pub(crate) fn instance(&self) -> &str {
        match self {
            Workload::Gateway(_) => "",
            Workload::Sidecar { instance, .. } => instance,
        }
    }

    /// Whose copy on disk it is.
    pub(crate) fn copy(&self) -> String {
        match self {
            Workload::Gateway(_) => self.cluster(),
            Workload::Sidecar { .. } => self.document(),
        }
    }

    /// Who reads documents for it.
    pub(crate) fn reader(&self, origin: Origin) -> Reader {
        match self {
            Workload::Gateway(_) => Reader::new(origin),
            Workload::Sidecar { sidecar, .. } => Reader::new(origin).beside(sidecar.clone()),
        }
    }

    /// Whether what control has says nothing of it.
    pub(crate) fn is_unknown(&self, sources: &[Source], called: &Called) -> bool {
        match self {
            Workload::Gateway(_) => sources.is_empty(),
            Workload::Sidecar { sidecar, .. } => {
                !called.contains(&(sidecar.namespace.clone(), sidecar.service.clone()))
            }
        }
    }

    /// In words.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Workload::Gateway(_) => "Gateway",
            Workload::Sidecar { .. } => "Service",
        }
    }
}

/// The host and this process.
fn process() -> String {
    format!("{}:{}", rustix::system::uname().nodename().to_string_lossy(), std::process::id())
}
