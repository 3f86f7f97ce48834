//! Who an object is: what we read of Kubernetes' `metadata`. Pure, Cold.

use std::fmt;

use crate::decode::At;
use crate::object::object;
use crate::value::{Moment, Namespace, ObjectName, Timestamp};

object! {
    /// Name, namespace and age of an object.
    Metadata {
        /// Unique among the objects of its kind and namespace.
        required name: At<ObjectName> = "name",
        /// `default` if absent.
        optional namespace_written: Namespace = "namespace",
        /// Where two objects claim the same, the older wins; one without a time counts as youngest.
        optional creation_timestamp: Timestamp = "creationTimestamp",
    }
    ignored {
        "labels", "annotations", "uid", "resourceVersion", "generation", "managedFields", "ownerReferences",
        "finalizers", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generateName",
    }
}

impl Metadata {
    /// The namespace it lives in.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace_written.as_ref().map_or("default", |namespace| namespace.as_str())
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The order in which equal claims win: the oldest, then `namespace/name` in alphabetical order.
    pub(crate) fn seniority(&self) -> (bool, Option<Moment>, String) {
        let created = self.creation_timestamp.as_ref().map(|moment| moment.0);
        (created.is_none(), created, self.to_string())
    }
}

impl fmt::Display for Metadata {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace(), self.name())
    }
}
