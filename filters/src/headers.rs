//! RequestHeaderModifier and ResponseHeaderModifier. That names and values are legal, and that no rule
//! touches framing, was checked when the rule was read. Pure, Hot.

use config::snapshot::HeaderChanges;

use crate::Head;

/// Sets, then adds, then removes.
pub fn apply(changes: &HeaderChanges, head: &mut Head) {
    for (name, value) in &changes.set {
        head.set(name, value.as_bytes());
    }
    for (name, value) in &changes.add {
        head.add(name, value.as_bytes());
    }
    for name in &changes.remove {
        head.remove(name);
    }
}
