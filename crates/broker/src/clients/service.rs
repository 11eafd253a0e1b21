//! The two tasks of the client table: telling groups of a change, and dropping what fell silent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_common::clock;
use ferromq_protocol::code::request::NOTIFY_CONSUMER_IDS_CHANGED;
use ferromq_protocol::header::client::NotifyConsumerIdsChangedHeader;
use ferromq_protocol::{Encoding, FrameWriter, Text};

use crate::broker::Shared;
use crate::stats;

/// Changes that follow closely are told at once: a group of a thousand starting members costs thousands of notices, not a million.
const NOTICE_PAUSE: Duration = Duration::from_millis(10);

/// Silent clients and expired locks are looked for every 10 seconds, or as often as a shorter `channelExpiredTimeout` asks.
const SHORTEST_SCAN_PERIOD: Duration = Duration::from_millis(50);

/// Tells the members of changed groups to rebalance (code 40), until the runtime ends.
pub(crate) async fn tell_changes(broker: Arc<Shared>) {
    loop {
        broker.clients.noticed().await;
        for (group, members) in broker.clients.take_notices() {
            if !broker.live.notify_consumer_ids_changed_enable() {
                continue;
            }
            for connection in members {
                let told = connection.oneway(|out, opaque| {
                    let mut frame =
                        FrameWriter::request(out, Encoding::Json, NOTIFY_CONSUMER_IDS_CHANGED, opaque, true);
                    NotifyConsumerIdsChangedHeader { consumer_group: Text::plain(&group) }.write(&mut frame);
                    frame.finish();
                });
                if let Err(e) = told {
                    tracing::debug!(
                        "a member of group {group} at {} is not told of its change: {e}",
                        connection.peer()
                    );
                }
            }
        }
        tokio::time::sleep(NOTICE_PAUSE).await;
    }
}

/// Drops silent clients and expired locks (`ClientHousekeepingService`) and keeps the samples of the statistics, until the
/// runtime ends.
pub(crate) async fn drop_silent(broker: Arc<Shared>) {
    let timeout = Duration::from_millis(broker.config.channel_expired_timeout);
    let period = timeout.clamp(SHORTEST_SCAN_PERIOD, stats::TICK);
    let mut ticked = Instant::now();
    loop {
        tokio::time::sleep(period).await;
        let now = Instant::now();
        for connection in broker.clients.expire(now, timeout) {
            tracing::warn!("{} is closed: no heartbeat for {timeout:?}", connection.peer());
            connection.close();
        }
        broker.broadcast.sweep(&broker, now);
        for group in broker.locks.sweep(now) {
            broker.clients.call_to_rebalance(&group);
        }
        if now.saturating_duration_since(ticked) >= stats::TICK {
            ticked = now;
            let millis = clock::now_millis();
            broker.stats.tick(now, millis);
            broker.topics.tick_rates(millis);
            broker.rates.tick(millis);
            broker.limits.forget_idle_producers(broker.store.flushed_position());
        }
    }
}
