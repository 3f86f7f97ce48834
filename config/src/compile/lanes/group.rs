//! A LaneGroup as requests are decided by it: conditions, shares and the tag, every default filled in. Pure, Cold.

use crate::compile::routes::expression;
use crate::consistent;
use crate::model::Object;
use crate::model::http_route::{PathMatchType, ValueMatchType};
use crate::model::lane_group::{
    Isolation as WrittenIsolation, Lane as WrittenLane, LaneMatch as Written, OnMissing, Source, Spec, TraceHeader,
};
use crate::problem::{Place, Problems};
use crate::route::{Expressions, PathCondition};
use crate::snapshot::HashKey;
use crate::snapshot::lanes::{
    Isolation, Lane, LaneGroup, LaneMatch, OnMissingKey, PathTest, Share, Text, TraceHeaders,
};

/// One document.
pub(super) fn compile(group: &Object<Spec>, expressions: &mut Expressions, problems: &mut Problems) -> LaneGroup {
    let spec = &group.spec;
    let tag = spec.tag.as_ref();
    let header = tag.and_then(|tag| tag.header.as_ref()).map_or("x-evenkeel-lane", |name| name.as_str());
    let member = tag.and_then(|tag| tag.baggage.as_ref()).map_or("evenkeel.lane", |member| member.as_str());
    let name = group.metadata.to_string();
    let lanes = spec.lanes.iter().enumerate().map(|(index, written)| Lane {
        name: written.name.as_str().into(),
        selector: written.selector.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
        matches: written
            .matches
            .iter()
            .enumerate()
            .filter_map(|(place, one)| {
                lane_match(one, &format!("spec.lanes[{index}].match[{place}]"), expressions, problems)
            })
            .collect(),
        share: share(written, &name),
    });
    LaneGroup {
        lanes: lanes.collect(),
        namespace: group.metadata.namespace().into(),
        baseline: spec.baseline.as_str().into(),
        isolation: match spec.isolation {
            WrittenIsolation::Permissive => Isolation::Permissive,
            WrittenIsolation::Strict => Isolation::Strict,
        },
        header: header.to_ascii_lowercase().into(),
        baggage: spec.looks_at(Source::Baggage).then(|| member.into()),
        by_trace: spec.looks_at(Source::TraceMap),
        by_caller: spec.looks_at(Source::CallerLabel),
        trusts_traces: spec.propagation.as_ref().is_some_and(|propagation| propagation.trust_trace_context),
        trace_headers: TraceHeaders {
            b3: spec.writes(TraceHeader::B3),
            x_b3: spec.writes(TraceHeader::XB3),
            sw8: spec.writes(TraceHeader::Sw8),
        },
        name: name.into(),
    }
}

fn share(lane: &WrittenLane, group: &str) -> Option<Share> {
    let (percentage, sticky) = (lane.percentage.as_ref()?, lane.sticky_by.as_ref()?);
    let cookie = sticky.cookie.as_ref().map(|name| HashKey::Cookie(name.as_str().into()));
    let header = sticky.header.as_ref().map(|name| HashKey::Header(name.as_str().to_ascii_lowercase().into()));
    let query = sticky.query.as_ref().map(|name| HashKey::Query(name.as_str().into()));
    Some(Share {
        basis_points: percentage.0,
        sticky_by: cookie.or(header).or(query).unwrap_or(HashKey::ClientAddress),
        on_missing: match sticky.on_missing() {
            OnMissing::Skip => OnMissingKey::Skip,
            OnMissing::Random => OnMissingKey::Random,
            OnMissing::Issue => OnMissingKey::Issue,
        },
        // Lanes called `canary` in two groups shall not always be the same clients' lot.
        seed: [sticky.salt.as_ref().map_or(group, |salt| salt.as_str()), lane.name.as_str()]
            .map(|text| consistent::hash(text.as_bytes())),
        capacity_guard: lane.capacity_guard.as_ref().is_none_or(|guard| guard.value),
    })
}

fn lane_match(
    written: &Written,
    field: &str,
    expressions: &mut Expressions,
    problems: &mut Problems,
) -> Option<LaneMatch> {
    let mut is_whole = true;
    let mut values = Vec::new();
    let mut test = |key: HashKey, match_type: ValueMatchType, value: &str, place: Place, field: String| {
        let text = match match_type {
            ValueMatchType::Exact => Some(Text::Exact(value.into())),
            ValueMatchType::RegularExpression => {
                expression(value, place, field, expressions, problems).map(Text::Regex)
            }
        };
        is_whole &= text.is_some();
        values.extend(text.map(|text| (key, text)));
    };
    for (index, header) in written.headers.iter().enumerate() {
        let key = HashKey::Header(header.name.as_str().to_ascii_lowercase().into());
        let field = format!("{field}.headers[{index}].value");
        test(key, header.match_type, header.value.as_str(), header.value.place, field);
    }
    for (index, cookie) in written.cookies.iter().enumerate() {
        let key = HashKey::Cookie(cookie.name.as_str().into());
        let field = format!("{field}.cookies[{index}].value");
        test(key, cookie.match_type, cookie.value.as_str(), cookie.value.place, field);
    }
    for (index, param) in written.query.iter().enumerate() {
        let key = HashKey::Query(param.name.as_str().into());
        let field = format!("{field}.query[{index}].value");
        test(key, param.match_type, param.value.as_str(), param.value.place, field);
    }
    let path = written.path.as_ref().map(|path| {
        let value = path.value.as_ref().map_or("/", |value| value.as_str());
        let condition = match path.match_type {
            PathMatchType::Exact => PathCondition::exact(value),
            PathMatchType::PathPrefix => PathCondition::prefix(value),
            PathMatchType::RegularExpression => {
                let place = path.value.as_ref().map_or(path.place, |value| value.place);
                let expression = expression(value, place, format!("{field}.path.value"), expressions, problems)?;
                PathCondition::Expression(expression)
            }
        };
        Some(match condition {
            PathCondition::Exact(path) => PathTest::Is(Text::Exact(path)),
            PathCondition::Prefix(path) => PathTest::Prefix(path),
            PathCondition::Expression(expression) => PathTest::Is(Text::Regex(expression)),
        })
    });
    let path = match path {
        Some(None) => return None,
        Some(path) => path,
        None => None,
    };
    is_whole.then(|| LaneMatch {
        values,
        path,
        methods: written.methods.iter().map(|method| method.word().into()).collect(),
        sources: written.sources.iter().map(|network| network.0).collect(),
    })
}
