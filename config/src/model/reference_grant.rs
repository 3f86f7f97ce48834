//! ReferenceGrant: what objects of other namespaces may refer to in this one. Pure, Cold.

use crate::decode::{At, List, Path};
use crate::model::GATEWAY_GROUP;
use crate::object::object;
use crate::problem::Problems;
use crate::value::{Group, Kind, Namespace, ObjectName};

object! {
    /// Any of `from` may refer to any of `to`.
    Spec {
        /// Who may refer.
        required from: List<From, 1, 16> = "from",
        /// What they may refer to in this namespace.
        required to: List<To, 1, 16> = "to",
    }
    check kinds_stand_in_their_groups;
}

object! {
    /// Objects of a kind in a namespace.
    From {
        /// Their API group.
        required group: At<Group> = "group",
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
        required group: At<Group> = "group",
        /// Their kind.
        required kind: Kind = "kind",
        /// Only the one of this name.
        optional name: ObjectName = "name",
    }
}

/// A grant for a kind that its group does not have would grant nothing, and nobody would be told.
fn kinds_stand_in_their_groups(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    let mut check = |group: &At<Group>, kind: &Kind, of: (&str, &str), path: &Path<'_>| {
        if kind.as_str() == of.0 && group.as_str() != of.1 {
            let reason = format!("{:?} has no {}, so this grants nothing", group.as_str(), of.0);
            problems.warning(group.place, path.field("group"), reason, Some(&format!("write {:?}", of.1)));
        }
    };
    for (index, from) in spec.from.iter().enumerate() {
        check(&from.group, &from.kind, ("HTTPRoute", GATEWAY_GROUP), &path.field("from").item(index));
    }
    for (index, to) in spec.to.iter().enumerate() {
        check(&to.group, &to.kind, ("Service", ""), &path.field("to").item(index));
    }
}
