//! What a run has seen.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::Plan;

#[derive(Default)]
pub(crate) struct Tally {
    /// How long each right answer took.
    latencies: Vec<Duration>,
    /// Answers that were not the right one.
    wrong: u64,
    /// Connections that were refused, reset or ended without an answer.
    errors: u64,
    first_error: Option<String>,
    /// Datagrams that were sent again after nothing was heard for a while.
    pub(crate) resent: u64,
    /// Clients that never got an answer.
    pub(crate) unanswered: usize,
}

impl Tally {
    /// Takes down an answer to what was asked at `asked`; it counts if it came in time.
    pub(crate) fn answer(&mut self, plan: &Plan, asked: Instant, right: bool) {
        let now = Instant::now();
        if !right {
            self.wrong += 1;
        } else if now < plan.end {
            self.latencies.push(now - asked);
        }
    }

    pub(crate) fn error(&mut self, error: impl Display) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    pub(crate) fn into_json(mut self, plan: &Plan) -> String {
        self.latencies.sort_unstable();
        let seconds = plan.seconds.as_secs_f64();
        let requests = u32::try_from(self.latencies.len()).unwrap_or(u32::MAX);
        let fields = [
            ("requests", requests.to_string()),
            ("seconds", seconds.to_string()),
            ("requests_per_second", format!("{:.1}", f64::from(requests) / seconds)),
            ("p50_us", self.percentile(50)),
            ("p99_us", self.percentile(99)),
            ("wrong", self.wrong.to_string()),
            ("errors", self.errors.to_string()),
            // Rust's escapes are those of JSON as far as the system's messages go.
            ("first_error", self.first_error.map_or("null".into(), |error| format!("{error:?}"))),
            ("resent", self.resent.to_string()),
            ("unanswered", self.unanswered.to_string()),
        ];
        format!("{{{}}}", fields.map(|(name, value)| format!("\"{name}\": {value}")).join(", "))
    }

    /// Microseconds within which `percent` of the answers came; the latencies are sorted.
    fn percentile(&self, percent: usize) -> String {
        let latency = self.latencies.get(self.latencies.len() * percent / 100);
        latency.map_or("null".into(), |latency| format!("{:.1}", latency.as_secs_f64() * 1e6))
    }
}
