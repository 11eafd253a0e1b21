//! What is looked at a few times a second: pulls and pops that wait for too long, and what time brings to lite topics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_common::clock;

use super::Shared;
use crate::handler::pull;
use crate::pop::has_foreign;
use crate::pop::polls::Woken;

/// Period of the sweep of parked pulls: how late a deadline may be noticed.
const SWEEP_PERIOD: Duration = Duration::from_millis(200);

/// Answers parked pulls and pops whose time is over, until the runtime ends.
pub(super) async fn sweep(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(SWEEP_PERIOD).await;
        for parked in shared.polls.sweep(Instant::now()) {
            pull::resume(&shared, parked);
        }
        if has_foreign(&shared) {
            shared.pops.wake_for_foreign();
        }
        for waiter in shared.pops.polls.sweep(Instant::now(), clock::now_millis()) {
            (waiter.reply)(Woken::TimedOut);
        }
        for waiter in shared.lites.sweep_polls(Instant::now()) {
            (waiter.reply)(Woken::TimedOut);
        }
        shared.lites.sweep(&shared, Instant::now());
        shared.answer_ready_polls();
    }
}
