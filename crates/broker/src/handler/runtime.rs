//! GET_BROKER_RUNTIME_INFO (28): how the broker fares, in the words RocketMQ's tools and exporter parse.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_protocol::body::KvTable;
use ferromq_protocol::{record, version};

use super::{Call, Refusal};
use crate::broker::Shared;

/// Queues and pools of RocketMQ's broker that do not exist here: requests are served by the thread that reads them, so
/// nothing ever waits in them. Tools expect the numbers.
const POOLS: [(&str, u32); 5] = [
    ("sendThreadPoolQueue", 10_000),
    ("pullThreadPoolQueue", 100_000),
    ("litePullThreadPoolQueue", 100_000),
    ("queryThreadPoolQueue", 20_000),
    ("ackThreadPoolQueue", 100_000),
];

/// Most names of groups in one value.
const MAX_GROUPS_TOLD: usize = 100;

/// GET_BROKER_RUNTIME_INFO (28).
pub(crate) fn runtime_info(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    call.respond_json(out, &KvTable { table: table(broker) })
}

fn table(broker: &Shared) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    let mut put = |key: &str, value: String| {
        table.insert(key.to_owned(), value);
    };
    let stats = &broker.stats;
    let counts = stats.counts();
    let (yesterday, morning) = stats.mornings();
    put("brokerActive", (broker.config.broker_id == 0).to_string());
    put("brokerVersion", version::CURRENT.to_string());
    put("brokerVersionDesc", version::name(version::CURRENT));
    put("bootTimestamp", stats.started_millis().to_string());
    put("runtime", running(stats.running()));
    put("startAcceptSendRequestTimeStamp", broker.live.start_accept_send_request_time_stamp().to_string());

    put("msgPutTotalYesterdayMorning", yesterday.put.to_string());
    put("msgPutTotalTodayMorning", morning.put.to_string());
    put("msgPutTotalTodayNow", counts.put.to_string());
    put("msgGetTotalYesterdayMorning", yesterday.got.to_string());
    put("msgGetTotalTodayMorning", morning.got.to_string());
    put("msgGetTotalTodayNow", counts.got.to_string());

    let now = Instant::now();
    put("putTps", stats.rates(now, |c| c.put));
    put("getFoundTps", stats.rates(now, |c| c.found));
    put("getMissTps", stats.rates(now, |c| c.missed));
    put("getTotalTps", stats.rates(now, |c| c.found + c.missed));
    put("getTransferredTps", stats.rates(now, |c| c.got));
    put("getTransferedTps", stats.rates(now, |c| c.got));

    put("putMessageTimesTotal", counts.put.to_string());
    put("putMessageFailedTimes", counts.put_failed.to_string());
    put("putMessageSizeTotal", counts.put_bytes.to_string());
    put("putMessageAverageSize", format!("{:.2}", counts.put_bytes as f64 / counts.put.max(1) as f64));

    let (min, max) = (broker.store.min_physical_offset(), broker.store.max_physical_offset());
    put("commitLogMinOffset", min.to_string());
    put("commitLogMaxOffset", max.to_string());
    put("remainHowManyDataToFlush", byte_count(max.saturating_sub(broker.store.flushed_position())));
    put("damagedRecords", broker.store.damaged_records().to_string());
    put("earliestMessageTimeStamp", earliest_time(broker).unwrap_or(-1).to_string());
    if let Some((free, total)) = volume(broker.topics.path()) {
        let ratio = total.saturating_sub(free) as f64 / total.max(1) as f64;
        put("commitLogDirCapacity", format!("Total : {}, Free : {}.", byte_count(total), byte_count(free)));
        put("commitLogDiskRatio", ratio.to_string());
        put("consumeQueueDiskRatio", ratio.to_string());
    }

    let differing = broker.clients.differing_groups();
    put("inconsistentSubscriptionGroupCount", differing.len().to_string());
    put("inconsistentSubscriptionGroups", differing.into_iter().take(MAX_GROUPS_TOLD).collect::<Vec<_>>().join(","));
    put("transactionHalfWaiting", broker.transactions.waiting().to_string());

    for (pool, capacity) in POOLS {
        put(&format!("{pool}Size"), "0".to_owned());
        put(&format!("{pool}Capacity"), capacity.to_string());
        put(&format!("{pool}HeadWaitTimeMills"), "0".to_owned());
    }
    put("EndTransactionQueueSize", "0".to_owned());
    put("EndTransactionThreadPoolQueueCapacity", "100000".to_owned());
    for key in ["pageCacheLockTimeMills", "remainTransientStoreBufferNumbs", "timerReadBehind", "timerOffsetBehind"] {
        put(key, "0".to_owned());
    }
    put("timerCongestNum", broker.timer.pending().to_string());
    for (level, (done, end)) in (1..).zip(broker.timer.level_progress()) {
        put(&format!("scheduleMessageOffset_{level}"), format!("{done},{end}"));
    }
    put("timerEnqueueTps", "0.0".to_owned());
    put("timerDequeueTps", "0.0".to_owned());
    table
}

/// When the oldest message was stored, milliseconds since 1970.
fn earliest_time(broker: &Shared) -> Option<i64> {
    let mut bytes = Vec::new();
    broker.store.record_at(broker.store.min_physical_offset(), &mut bytes)?;
    match record::read(&bytes) {
        record::Entry::Record(record) => Some(record.store_timestamp()),
        _ => None,
    }
}

/// Free and total bytes of the volume a path is on; `None` where the system does not tell.
fn volume(path: &Path) -> Option<(u64, u64)> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    Some((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
}

/// `1.5 GiB`, as RocketMQ's `MixAll.humanReadableByteCount` writes it.
fn byte_count(bytes: u64) -> String {
    let exponent = bytes.checked_ilog2().unwrap_or(0) / 10;
    match exponent.checked_sub(1).and_then(|at| ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].get(at as usize)) {
        Some(unit) => format!("{:.1} {unit}B", bytes as f64 / (1_u64 << (10 * exponent)) as f64),
        None => format!("{bytes} B"),
    }
}

/// `[ 0 days, 1 hours, 2 minutes, 3 seconds ]`
fn running(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    format!("[ {days} days, {hours} hours, {minutes} minutes, {} seconds ]", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_as_in_rocketmq() {
        assert_eq!(byte_count(0), "0 B");
        assert_eq!(byte_count(1023), "1023 B");
        assert_eq!(byte_count(1536), "1.5 KiB");
        assert_eq!(byte_count(5 << 30), "5.0 GiB");
        assert_eq!(running(Duration::from_secs(90_061)), "[ 1 days, 1 hours, 1 minutes, 1 seconds ]");
    }
}
