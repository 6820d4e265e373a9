//! The metrics of requests. Each thread keeps what it counts with: finding a metric by its labels costs more than counting.

use std::{cell::RefCell, collections::HashMap, sync::Arc, time::Duration};

use metrics::{Counter, Gauge, Histogram};

/// As many names as there are routes and methods, and one for what is none.
#[derive(Default)]
struct Known {
    in_flight: Option<Gauge>,
    routes: HashMap<Arc<str>, Route>,
}

struct Route {
    duration: Histogram,
    /// By protocol and status: a few.
    answers: Vec<(&'static str, u16, Counter)>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
}

/// A request has come, or has ended.
pub(super) fn in_flight(change: f64) {
    KNOWN.with_borrow_mut(|known| {
        let gauge = known.in_flight.get_or_insert_with(|| metrics::gauge!("tenon_edge_in_flight"));
        gauge.increment(change);
    });
}

/// A request was answered.
pub(super) fn answered(route: &Arc<str>, protocol: &'static str, status: u16, took: Duration) {
    KNOWN.with_borrow_mut(|known| {
        if !known.routes.contains_key(route) {
            let duration = metrics::histogram!("tenon_edge_duration_seconds", "route" => route.clone());
            known.routes.insert(route.clone(), Route { duration, answers: Vec::new() });
        }
        let Some(of) = known.routes.get_mut(route) else { return };
        of.duration.record(took);
        if let Some((.., counter)) = of.answers.iter().find(|(name, code, _)| (*name, *code) == (protocol, status)) {
            return counter.increment(1);
        }
        let code = status.to_string();
        let labels = [("route", route.to_string()), ("protocol", protocol.to_owned()), ("status", code)];
        let counter = metrics::counter!("tenon_edge_requests_total", &labels);
        counter.increment(1);
        of.answers.push((protocol, status, counter));
    });
}
