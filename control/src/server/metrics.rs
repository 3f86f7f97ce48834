//! What the control server counts of itself, in Prometheus' words. Cold.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Seconds.
const BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// All of it.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) revision: Gauge,
    pub(crate) settled: Gauge,
    pub(crate) proxies: Gauge,
    pub(crate) refusing: Gauge,
    pub(crate) refusals: Counter,
    pub(crate) settled_after: Histogram,
    pub(crate) files_refused: Gauge,
    pub(crate) instances: Family<[(&'static str, String); 1], Gauge>,
    pub(crate) instances_unconfirmed: Gauge,
    pub(crate) services_braked: Gauge,
    pub(crate) drains: Family<[(&'static str, String); 1], Counter>,
    pub(crate) forgotten_after: Histogram,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::default();
        let [revision, settled, proxies, refusing, files_refused] = std::array::from_fn(|_| Gauge::default());
        let (refusals, settled_after) = (Counter::default(), Histogram::new(BOUNDS));
        registry.register("evenkeel_control_revision", "The last revision", revision.clone());
        let about = "The revision up to which nothing is on its way to any connected proxy";
        registry.register("evenkeel_control_revision_settled", about, settled.clone());
        registry.register("evenkeel_control_proxies", "Proxies that are connected", proxies.clone());
        registry.register("evenkeel_control_proxies_refusing", "Proxies that refuse something", refusing.clone());
        registry.register("evenkeel_control_refusals", "Changes that a proxy refused", refusals.clone());
        let about = "Seconds from a revision on disk to the last proxy that has taken or refused it";
        registry.register("evenkeel_control_revision_settled_seconds", about, settled_after.clone());
        let about = "Whether rule files are refused, and what they said before is kept";
        registry.register("evenkeel_control_files_refused", about, files_refused.clone());
        let (instances, drains) = (Family::default(), Family::default());
        let [instances_unconfirmed, services_braked] = std::array::from_fn(|_| Gauge::default());
        let forgotten_after = Histogram::new(BOUNDS);
        registry.register("evenkeel_control_instances", "Instances that proxies speak for", instances.clone());
        let about = "Instances that are told to callers, and whose proxies are not connected";
        registry.register("evenkeel_control_instances_unconfirmed", about, instances_unconfirmed.clone());
        let about = "Services of which so many instances are unconfirmed that none is taken away";
        registry.register("evenkeel_control_services_braked", about, services_braked.clone());
        let about = "Drains that are over: each caller forgot the instance, or not each of them";
        registry.register("evenkeel_control_drains", about, drains.clone());
        let about = "Seconds from the mark of an instance that goes to the last caller who forgot it";
        registry.register("evenkeel_control_drain_forgotten_seconds", about, forgotten_after.clone());
        Metrics {
            instances,
            instances_unconfirmed,
            services_braked,
            drains,
            forgotten_after,
            registry,
            revision,
            settled,
            proxies,
            refusing,
            refusals,
            settled_after,
            files_refused,
        }
    }
}

impl Metrics {
    /// As OpenMetrics text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to memory does not fail");
        text
    }
}
