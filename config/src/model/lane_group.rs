//! LaneGroup: which requests are in which lane, and which instances serve it. Pure, Cold.

use crate::decode::{At, Dictionary, List, Path};
use crate::model::http_filter::FRAMING;
use crate::model::http_route::{HeaderMatch, Method, PathMatch, QueryParamMatch, ValueMatchType};
use crate::model::policy::{self, Mode, TargetKind, TargetRef};
use crate::object::{exactly_one, object, words};
use crate::problem::{Place, Problems};
use crate::value::{Cidr, HeaderName, LabelKey, LabelValue, LaneName, Line, Percentage, Token};

object! {
    /// Lanes through the services of a namespace: requests are put into them at the entries and stay in them.
    Spec {
        /// Gateways, or listeners of them, where the group decides which lane a request is in.
        defaulted entries: List<TargetRef, 0, 16> = "entries" or List::default(),
        /// Gateways, or listeners of them, for calls between services: their tag is believed.
        defaulted internal: List<TargetRef, 0, 16> = "internal" or List::default(),
        /// `enforce` if absent.
        defaulted mode: Mode = "mode" or Mode::Enforce,
        /// What instances without a lane may be labelled with; `base` if absent.
        defaulted baseline: At<LaneName> = "baseline" or At { value: LaneName("base".into()), place: Place::default() },
        /// What becomes of a request whose lane has no ready instance of a service; `permissive` if absent.
        defaulted isolation: Isolation = "isolation" or Isolation::Permissive,
        /// How a request says its lane.
        optional tag: Tag = "tag",
        /// Where a lane is looked for inside.
        optional propagation: Propagation = "propagation",
        /// The first whose match holds wins.
        defaulted lanes: List<Lane, 0, 64> = "lanes" or List::default(),
    }
    refused { "effectiveTime" }
    check group_is_sound;
}

words! {
    /// What becomes of a request whose lane has no ready instance of a service.
    Isolation {
        /// It goes to the baseline, and back into the lane at the next service that has it.
        Permissive = "permissive",
        /// It is answered 503.
        Strict = "strict",
    }
}

object! {
    /// How a request says its lane.
    Tag {
        /// The header field with the lane's name; `x-evenkeel-lane` if absent.
        optional header: At<HeaderName> = "header",
        /// The member of `baggage` (W3C) with the lane's name; `evenkeel.lane` if absent.
        optional baggage: At<Token> = "baggage",
    }
    check tag_is_ours;
}

object! {
    /// Where a lane is looked for inside.
    Propagation {
        /// `[header, baggage, traceMap, callerLabel]` if absent; all but `header` may be left out.
        optional order: At<List<Source, 1, 4>> = "order",
        /// `false` if absent: entries start a trace for each request, whatever the client says of its own.
        defaulted trust_trace_context: bool = "trustTraceContext" or false,
        /// What a trace that is started here is written in; `[traceparent]` if absent, and never without that.
        optional trace_headers: At<List<TraceHeader, 1, 4>> = "traceHeaders",
    }
    check propagation_is_sound;
}

words! {
    /// A form of trace header.
    TraceHeader {
        /// W3C Trace Context.
        Traceparent = "traceparent",
        /// B3 in one header.
        B3 = "b3",
        /// B3 in several.
        XB3 = "x-b3",
        /// SkyWalking. Its agents collect each trace that comes with it.
        Sw8 = "sw8",
    }
}

words! {
    /// Where a lane is looked for.
    Source {
        /// The tag's header.
        Header = "header",
        /// The tag's member of baggage.
        Baggage = "baggage",
        /// The request with the same trace that the calling instance serves.
        TraceMap = "traceMap",
        /// The calling instance's own lane.
        CallerLabel = "callerLabel",
    }
}

object! {
    /// One lane: who is in it, and which instances serve it.
    Lane {
        /// Unique in the namespace.
        required name: At<LaneName> = "name",
        /// Labels of its instances, all of them.
        required selector: At<Dictionary<LabelKey, LabelValue, 16>> = "selector",
        /// Requests for which one of these holds wholly are in it.
        defaulted matches: List<LaneMatch, 0, 64> = "match" or List::default(),
        /// So many of a hundred requests that no match of any lane took.
        optional percentage: At<Percentage> = "percentage",
        /// What makes a client stay in or out, with `percentage`.
        optional sticky_by: StickyBy = "stickyBy",
        /// `true` if absent: its percentage is never above its part of the ready instances' weight.
        optional capacity_guard: At<bool> = "capacityGuard",
    }
    check lane_is_sound;
}

object! {
    /// Conditions that must all hold; at least one.
    LaneMatch {
        /// Conditions on header fields.
        defaulted headers: List<HeaderMatch, 0, 16> = "headers" or List::default(),
        /// Conditions on cookies.
        defaulted cookies: List<CookieMatch, 0, 16> = "cookies" or List::default(),
        /// Conditions on parameters of the query.
        defaulted query: List<QueryParamMatch, 0, 16> = "query" or List::default(),
        /// The path.
        optional path: PathMatch = "path",
        /// One of these methods.
        defaulted methods: List<Method, 0, 16> = "methods" or List::default(),
        /// The client's address is in one of these networks.
        defaulted sources: List<Cidr, 0, 256> = "sources" or List::default(),
    }
    check match_has_a_condition;
}

object! {
    /// A condition on a cookie.
    CookieMatch {
        /// `Exact` if absent.
        defaulted match_type: ValueMatchType = "type" or ValueMatchType::Exact,
        /// Compared with its case.
        required name: At<Token> = "name",
        /// What its value must be.
        required value: At<Line> = "value",
    }
}

object! {
    /// What makes a client stay in or out; exactly one of the first four.
    StickyBy {
        /// The value of a cookie.
        optional cookie: At<Token> = "cookie",
        /// The value of a header field.
        optional header: HeaderName = "header",
        /// The value of a parameter of the query.
        optional query: Line = "query",
        /// `true`: the client's address.
        optional client_address: At<bool> = "clientAddress",
        /// What becomes of a request that lacks it; `issue` for cookies, else `skip`, if absent.
        optional on_missing: At<OnMissing> = "onMissing",
        /// Mixed into the choice: lanes of one name in two groups choose the same clients if they have the same salt.
        optional salt: Line = "salt",
    }
    check one_thing_to_stick_to;
}

words! {
    /// What becomes of a request without a sticky key.
    OnMissing {
        /// It stays out of the lane.
        Skip = "skip",
        /// The dice decide, each time anew.
        Random = "random",
        /// It is given a cookie of this name; only for cookies.
        Issue = "issue",
    }
}

impl StickyBy {
    /// What becomes of a request that lacks the key.
    pub(crate) fn on_missing(&self) -> OnMissing {
        let default = if self.cookie.is_some() { OnMissing::Issue } else { OnMissing::Skip };
        self.on_missing.as_ref().map_or(default, |written| written.value)
    }
}

impl Spec {
    /// Whether a trace that is started is written in this form.
    pub(crate) fn writes(&self, header: TraceHeader) -> bool {
        let written = self.propagation.as_ref().and_then(|propagation| propagation.trace_headers.as_ref());
        written.is_some_and(|headers| headers.contains(&header))
    }

    /// Whether a lane is looked for there.
    pub(crate) fn looks_at(&self, source: Source) -> bool {
        let order = self.propagation.as_ref().and_then(|propagation| propagation.order.as_ref());
        order.is_none_or(|order| order.contains(&source))
    }
}

fn group_is_sound(spec: &Spec, path: &Path<'_>, problems: &mut Problems) {
    for (list, targets) in [("entries", &spec.entries), ("internal", &spec.internal)] {
        let path = path.field(list);
        policy::targets_are_distinct(targets, &path, problems);
        for (index, target) in targets.iter().enumerate() {
            if target.target_kind().is_some_and(|kind| kind != TargetKind::Gateway) {
                let reason = format!("{} in {list} is not enforced by this build", target.kind.as_str());
                problems.error_with_hint(target.place, path.item(index).field("kind"), reason, "only Gateways are");
            }
        }
    }
    let member = spec.tag.as_ref().and_then(|tag| tag.baggage.as_ref());
    if let (Some(member), false) = (member, spec.looks_at(Source::Baggage)) {
        let path = path.field("tag");
        problems.error(member.place, path.field("baggage"), "means nothing without baggage in propagation.order");
    }
    let lanes = path.field("lanes");
    let mut percentages = spec.lanes.iter().filter_map(|lane| lane.percentage.as_ref());
    let total: u32 = percentages.clone().map(|percentage| percentage.0).sum();
    if let (Some(last), 10_001..) = (percentages.next_back(), total) {
        let reason = format!("have {} per cent together and must have at most 100", f64::from(total) / 100.0);
        problems.error(last.place, lanes, reason);
    }
    check_issued_cookies(spec, &lanes, problems);
}

/// A client is given one cookie at most.
fn check_issued_cookies(spec: &Spec, lanes: &Path<'_>, problems: &mut Problems) {
    let issued = spec.lanes.iter().enumerate().filter_map(|(index, lane)| {
        let sticky = lane.sticky_by.as_ref().filter(|sticky| sticky.on_missing() == OnMissing::Issue)?;
        Some((index, sticky.cookie.as_ref()?))
    });
    let mut first: Option<&At<Token>> = None;
    for (index, cookie) in issued {
        match first {
            None => first = Some(cookie),
            Some(first) if first.value != cookie.value => {
                let (name, at) = (first.as_str(), problems.name(first.place));
                let reason = format!("this group issues the cookie {name:?} already, at {at}");
                let item = lanes.item(index);
                let field = item.field("stickyBy");
                let hint = "name the same cookie, or set onMissing: skip";
                problems.error_with_hint(cookie.place, field.field("cookie"), reason, hint);
            }
            Some(_) => {}
        }
    }
}

fn tag_is_ours(tag: &Tag, path: &Path<'_>, problems: &mut Problems) {
    const MEANT_OTHERWISE: &[&str] = &["baggage", "cookie", "host", "authorization", "traceparent", "tracestate"];
    if let Some(header) = &tag.header {
        let lower = header.as_str().to_ascii_lowercase();
        if FRAMING.contains(&lower.as_str()) || MEANT_OTHERWISE.contains(&lower.as_str()) {
            let reason = format!("{} has a meaning of its own", header.as_str());
            problems.error(header.place, path.field("header"), reason);
        }
        if header.is_dropped() {
            let reason = "has '_' in its name: listeners drop such fields, and the lane would be lost at the next hop";
            problems.error_with_hint(header.place, path.field("header"), reason, "write '-'");
        }
    }
}

fn propagation_is_sound(propagation: &Propagation, path: &Path<'_>, problems: &mut Problems) {
    const ALL: [Source; 4] = [Source::Header, Source::Baggage, Source::TraceMap, Source::CallerLabel];
    if let Some(headers) = propagation.trace_headers.as_ref().filter(|all| !all.contains(&TraceHeader::Traceparent)) {
        let reason = "must have traceparent: it is always written";
        problems.error(headers.place, path.field("traceHeaders"), reason);
    }
    let Some(order) = &propagation.order else { return };
    let in_order: Vec<Source> = ALL.into_iter().filter(|source| order.contains(source)).collect();
    if ***order != *in_order || !order.contains(&Source::Header) {
        let reason = "must be [header, baggage, traceMap, callerLabel], of which all but header may be left out";
        problems.error(order.place, path.field("order"), reason);
    }
}

fn lane_is_sound(lane: &Lane, path: &Path<'_>, problems: &mut Problems) {
    if lane.selector.is_empty() {
        let hint = "such as selector: {lane: blue}";
        problems.error_with_hint(lane.selector.place, path.field("selector"), "must have at least one label", hint);
    }
    match (&lane.percentage, &lane.sticky_by) {
        (Some(percentage), None) => {
            let hint = "such as stickyBy: {cookie: lane-key}";
            problems.error_with_hint(percentage.place, path.field("stickyBy"), "percentage needs it", hint);
        }
        (None, Some(sticky)) => {
            problems.error(sticky.place, path.field("stickyBy"), "means nothing without percentage");
        }
        _ => {}
    }
    if let (None, Some(guard)) = (&lane.percentage, &lane.capacity_guard) {
        problems.error(guard.place, path.field("capacityGuard"), "means nothing without percentage");
    }
}

fn match_has_a_condition(one: &LaneMatch, path: &Path<'_>, problems: &mut Problems) {
    let is_empty = one.headers.is_empty()
        && one.cookies.is_empty()
        && one.query.is_empty()
        && one.path.is_none()
        && one.methods.is_empty()
        && one.sources.is_empty();
    if is_empty {
        problems.error(one.place, path, "has no condition and would take every request");
    }
}

fn one_thing_to_stick_to(sticky: &StickyBy, path: &Path<'_>, problems: &mut Problems) {
    let fields = [
        ("cookie", sticky.cookie.is_some()),
        ("header", sticky.header.is_some()),
        ("query", sticky.query.is_some()),
        ("clientAddress", sticky.client_address.is_some()),
    ];
    exactly_one(&fields, sticky.place, path, problems);
    if let Some(header) = &sticky.header {
        header.warn_if_dropped(sticky.place, &path.field("header"), problems);
    }
    if let Some(said) = sticky.client_address.as_ref().filter(|said| !said.value) {
        problems.error(said.place, path.field("clientAddress"), "must be true, or left out");
    }
    if let Some(written) = &sticky.on_missing
        && written.value == OnMissing::Issue
        && sticky.cookie.is_none()
    {
        problems.error(written.place, path.field("onMissing"), "issue is for cookies only");
    }
}
