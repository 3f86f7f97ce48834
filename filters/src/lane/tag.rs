//! How a request says its lane: a header field, and a member of `baggage` (W3C Baggage, 3.3) that applications which
//! know nothing of lanes pass on. Members of others are kept as they are. Pure, Hot.

use std::ops::Range;
use std::sync::Arc;

use config::snapshot::lanes::LaneGroup;

use crate::Head;
use crate::head::{Field, Known, Span};

const BAGGAGE: &str = "baggage";

/// What a request's tag says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inherited {
    /// Places of the group and of the lane in it; None: the baseline.
    pub lane: Option<(usize, usize)>,
    /// Header and member of baggage, or two of one kind, name different lanes: the first header counted.
    pub differs: bool,
}

/// What a request inside the mesh says of its lane. The header wins; a name that no group knows is the baseline.
pub fn inherit(groups: &[Arc<LaneGroup>], head: &Head) -> Inherited {
    let mut inherited = Inherited::default();
    for (group_index, group) in groups.iter().enumerate() {
        let mut tag: Option<&[u8]> = None;
        let members = group.baggage.iter().flat_map(|member| values(head, member));
        for said in head.get_all(&group.header).chain(members) {
            match tag {
                None => tag = Some(said),
                Some(first) => inherited.differs |= first != said,
            }
        }
        if inherited.lane.is_none()
            && let Some(tag) = tag
        {
            let lane = group.lanes.iter().position(|lane| lane.name.as_bytes() == tag);
            inherited.lane = lane.map(|lane| (group_index, lane));
        }
    }
    inherited
}

/// Whether a request says something of the lanes of any of these groups.
pub fn is_tagged(head: &Head, groups: &[Arc<LaneGroup>]) -> bool {
    let says = |group: &Arc<LaneGroup>| {
        head.get_all(&group.header).next().is_some()
            || group.baggage.as_ref().is_some_and(|member| values(head, member).next().is_some())
    };
    groups.iter().any(says)
}

/// Removes what a request says of lanes: a client's word at an entry, or ours where a request leaves the mesh. Tells
/// whether there was something.
pub fn strip(head: &mut Head, groups: &[Arc<LaneGroup>]) -> bool {
    let mut found = false;
    for group in groups {
        found |= head.remove(&group.header);
        if let Some(member) = &group.baggage
            && values(head, member).next().is_some()
        {
            rewrite(head, member, None);
            found = true;
        }
    }
    found
}

/// Makes a request say that it is in a lane of a group; one that does already is left as it is.
pub fn tag(head: &mut Head, group: &LaneGroup, lane: usize) {
    let name = group.lanes[lane].name.as_bytes();
    if !is_only(head.get_all(&group.header), name) {
        head.set(&group.header, name);
    }
    if let Some(member) = &group.baggage
        && !is_only(values(head, member), name)
    {
        rewrite(head, member, Some(name));
    }
}

fn is_only<'v>(mut values: impl Iterator<Item = &'v [u8]>, expected: &[u8]) -> bool {
    values.next() == Some(expected) && values.next().is_none()
}

/// The values of all members of a name, without their properties.
fn values<'h>(head: &'h Head, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    let members = head.get_all(BAGGAGE).flat_map(|field| field.split(|byte| *byte == b','));
    members.filter_map(move |member| value_of(member, name))
}

/// The value of a member, if it has that name: `key OWS = OWS value *( OWS ; OWS property )`.
fn value_of<'m>(member: &'m [u8], name: &str) -> Option<&'m [u8]> {
    let equals = memchr::memchr(b'=', member)?;
    let value = &member[equals + 1..];
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    (member[..equals].trim_ascii() == name.as_bytes()).then(|| value[..end].trim_ascii())
}

/// Writes baggage anew, in one field, since there are readers that see only one of several: this value for the member
/// of a name, or none, and then the members of others, in their order. Ours stands first, since those who have enough of
/// a long field drop its end.
fn rewrite(head: &mut Head, name: &str, value: Option<&[u8]>) {
    let is_baggage = |field: &&Field| head.bytes(field.name).eq_ignore_ascii_case(BAGGAGE.as_bytes());
    let fields: Vec<Span> = head.live().filter(is_baggage).map(|field| field.value).collect();
    let is_needed = value.is_some()
        || head
            .get_all(BAGGAGE)
            .flat_map(|field| field.split(|byte| *byte == b','))
            .any(|member| is_other(member, name));
    head.remove(BAGGAGE);
    if !is_needed {
        return;
    }
    head.add_with(BAGGAGE, Known::Other, |text| {
        let start = text.len();
        if let Some(value) = value {
            text.extend_from_slice(name.as_bytes());
            text.push(b'=');
            text.extend_from_slice(value);
        }
        for field in fields {
            copy_others(text, start, field.range(), name);
        }
    });
}

/// Appends the members of a field that have another name, as they are written, to the list that begins at `start`.
fn copy_others(text: &mut Vec<u8>, start: usize, field: Range<usize>, name: &str) {
    let mut rest = field;
    while !rest.is_empty() {
        let end = memchr::memchr(b',', &text[rest.clone()]).map_or(rest.end, |length| rest.start + length);
        let member = &text[rest.start..end];
        if is_other(member, name) {
            let blanks = member.len() - member.trim_ascii_start().len();
            let trimmed = rest.start + blanks..rest.start + blanks + member.trim_ascii().len();
            if text.len() > start {
                text.push(b',');
            }
            text.extend_from_within(trimmed);
        }
        rest.start = rest.end.min(end + 1);
    }
}

fn is_other(member: &[u8], name: &str) -> bool {
    !member.trim_ascii().is_empty() && value_of(member, name).is_none()
}
