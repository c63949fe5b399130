//! How long each benchmark of the core runs.

use std::time::Duration;

use criterion::Criterion;

/// Runs `bench` as the command line says, and prints the summary.
pub(crate) fn run(bench: impl FnOnce(&mut Criterion)) {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    bench(&mut criterion);
    criterion.final_summary();
}
