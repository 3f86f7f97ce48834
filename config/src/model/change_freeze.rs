//! ChangeFreeze: times in which documents do not change. Only a control server keeps to it. Pure, Cold.

use crate::decode::{At, List, Path};
use crate::freeze;
use crate::object::{object, words};
use crate::problem::Problems;
use crate::value::{Kind, Line, Namespace, Period, Timestamp, Token};

object! {
    /// Times in which documents do not change.
    Spec {
        /// Which documents; all of them if absent.
        optional scope: Scope = "scope",
        /// When, in any of these.
        required windows: List<Window, 1, 100> = "windows",
        /// What is done all the same; nothing if absent.
        defaulted allow: List<Exempt, 0, 2> = "allow" or List::default(),
        /// Who may break it; those with the role admin if absent.
        optional break_glass: BreakGlass = "breakGlass",
    }
}

object! {
    /// Documents for which all of this holds.
    Scope {
        /// In one of these namespaces; in any if absent.
        defaulted namespaces: List<Namespace, 0, 1_000> = "namespaces" or List::default(),
        /// Of one of these kinds; of any if absent.
        defaulted kinds: List<Kind, 0, 100> = "kinds" or List::default(),
    }
}

object! {
    /// From `start` on, or again and again by `cron`.
    Window {
        /// When it begins, once.
        optional start: At<Timestamp> = "start",
        /// When it begins, each time: minute, hour, day of the month, month, day of the week, as in crontab(5).
        optional cron: At<Line> = "cron",
        /// Where `cron` is meant, such as `Asia/Shanghai`; UTC if absent.
        optional time_zone: At<Line> = "timeZone",
        /// How long it lasts.
        required duration: Period<60_000> = "duration",
    }
    check one_beginning;
}

words! {
    /// What a freeze lets pass.
    Exempt {
        /// The way back to an earlier revision.
        Rollback = "rollback",
        /// A limit for an emergency, and its end.
        EmergencyLimit = "emergencyLimit",
    }
}

object! {
    /// Who may change documents all the same, with a reason, which the audit keeps.
    BreakGlass {
        /// Roles of tokens.
        required roles: List<Token, 1, 10> = "roles",
    }
}

fn one_beginning(window: &Window, path: &Path<'_>, problems: &mut Problems) {
    match (&window.start, &window.cron) {
        (None, None) => problems.error(window.place, path, "needs start or cron"),
        (Some(_), Some(cron)) => {
            problems.error_with_hint(cron.place, path.field("cron"), "excludes start", "write two windows");
        }
        (Some(_), None) => {
            if let Some(zone) = &window.time_zone {
                problems.error(zone.place, path.field("timeZone"), "is for cron; start names its own offset");
            }
        }
        (None, Some(cron)) => {
            let zone = window.time_zone.as_ref().map_or("UTC", |zone| zone.as_str());
            if let Some(written) = window.time_zone.as_ref().filter(|_| jiff::tz::TimeZone::get(zone).is_err()) {
                let reason = format!("{zone:?} is not a time zone (such as Asia/Shanghai)");
                problems.error(written.place, path.field("timeZone"), reason);
            } else if freeze::cron(cron.as_str(), zone).is_err() {
                let reason = format!("{:?} is not a schedule (such as \"0 18 * * 5\")", cron.as_str());
                problems.error(cron.place, path.field("cron"), reason);
            }
        }
    }
}
