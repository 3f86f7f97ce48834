//! ReferenceGrant: what objects of other namespaces may refer to in this one. Pure, Cold.

use crate::decode::List;
use crate::object::object;
use crate::value::{Group, Kind, Namespace, ObjectName};

object! {
    /// Any of `from` may refer to any of `to`.
    Spec {
        /// Who may refer.
        required from: List<From, 1, 16> = "from",
        /// What they may refer to in this namespace.
        required to: List<To, 1, 16> = "to",
    }
}

object! {
    /// Objects of a kind in a namespace.
    From {
        /// Their API group.
        required group: Group = "group",
        /// Their kind.
        required kind: Kind = "kind",
        /// Their namespace.
        required namespace: Namespace = "namespace",
    }
}

object! {
    /// Objects of a kind in the grant's namespace.
    To {
        /// Their API group; empty for Kubernetes' core, to which Services belong.
        required group: Group = "group",
        /// Their kind.
        required kind: Kind = "kind",
        /// Only the one of this name.
        optional name: ObjectName = "name",
    }
}
