//! Settings that can be changed while the broker runs (UPDATE_BROKER_CONFIG): an allow list, each with its bounds.
//!
//! [`Live`] holds them as atomics that every request reads; [`BrokerConfig`] keeps what the broker was started with. A change
//! is all or none: checked, written into the file given with `-c` (only the lines of the changed keys), then in effect for
//! the next request. A key that is not in the list is refused, so that nobody believes a change that has no effect.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use std::{fs, io};

use ferromq_common::json_file;
use ferromq_common::properties::Properties;
use ferromq_protocol::code::response;
use parking_lot::Mutex;

use crate::broker::Shared;
use crate::config::BrokerConfig;
use crate::handler::Refusal;
use crate::limits::{self, SenderLimits};

/// Longest body of UPDATE_BROKER_CONFIG, bytes.
const MAX_UPDATE_BYTES: usize = 64 * 1024;
/// A day in milliseconds.
const DAY_MS: i64 = 86_400_000;
/// Keys that RocketMQ's broker never lets anybody change (`configBlackList`).
const BLACK_LIST: [&str; 3] = ["brokerConfigPath", "rocketmqHome", "configBlackList"];

/// The settings of [`BrokerConfig`] that may change, under the same names.
pub struct Live {
    broker_permission: AtomicI64,
    reject_transaction_message: AtomicBool,
    start_accept_send_request_time_stamp: AtomicI64,
    long_polling_enable: AtomicBool,
    short_polling_time_mills: AtomicI64,
    lite_pull_message_enable: AtomicBool,
    max_msgs_num_batch: AtomicI64,
    notify_consumer_ids_changed_enable: AtomicBool,
    use_server_side_reset_offset: AtomicBool,
    store_reply_message_enable: AtomicBool,
    client_send_rate_limit: AtomicI64,
    client_unflushed_limit: AtomicI64,
    producer_group_unflushed_limit: AtomicI64,
    max_unflushed_bytes: AtomicI64,
    wait_time_mills_in_send_queue: AtomicI64,
    cold_data_flow_control_enable: AtomicBool,
    cg_cold_read_threshold: AtomicI64,
    global_cold_read_threshold: AtomicI64,
    enable_pop_message_threshold: AtomicBool,
    pop_inflight_message_threshold: AtomicI64,
    /// Changes since the start.
    changes: AtomicU64,
    /// One change at a time: two would overwrite each other's lines in the file.
    changing: Mutex<()>,
}

/// Where a setting is kept.
enum Cell<'a> {
    Switch(&'a AtomicBool),
    Number(&'a AtomicI64, i64, i64),
}

struct Key {
    name: &'static str,
    cell: fn(&Shared) -> Cell<'_>,
}

const fn key(name: &'static str, cell: fn(&Shared) -> Cell<'_>) -> Key {
    Key { name, cell }
}

const KEYS: &[Key] = &[
    key("brokerPermission", |b| Cell::Number(&b.live.broker_permission, 0, 7)),
    key("autoCreateTopicEnable", |b| Cell::Switch(b.topics.auto_create())),
    key("autoCreateSubscriptionGroup", |b| Cell::Switch(b.groups.auto_create())),
    key("rejectTransactionMessage", |b| Cell::Switch(&b.live.reject_transaction_message)),
    key("startAcceptSendRequestTimeStamp", |b| Cell::Number(&b.live.start_accept_send_request_time_stamp, 0, i64::MAX)),
    key("longPollingEnable", |b| Cell::Switch(&b.live.long_polling_enable)),
    key("shortPollingTimeMills", |b| Cell::Number(&b.live.short_polling_time_mills, 1, DAY_MS)),
    key("litePullMessageEnable", |b| Cell::Switch(&b.live.lite_pull_message_enable)),
    key("maxMsgsNumBatch", |b| Cell::Number(&b.live.max_msgs_num_batch, 1, 10_000)),
    key("notifyConsumerIdsChangedEnable", |b| Cell::Switch(&b.live.notify_consumer_ids_changed_enable)),
    key("useServerSideResetOffset", |b| Cell::Switch(&b.live.use_server_side_reset_offset)),
    key("storeReplyMessageEnable", |b| Cell::Switch(&b.live.store_reply_message_enable)),
    key("enablePopMessageThreshold", |b| Cell::Switch(&b.live.enable_pop_message_threshold)),
    key("popInflightMessageThreshold", |b| Cell::Number(&b.live.pop_inflight_message_threshold, 0, i32::MAX as i64)),
    key("clientSendRateLimit", |b| Cell::Number(&b.live.client_send_rate_limit, 0, limits::MAX_RATE)),
    key("clientUnflushedLimit", |b| Cell::Number(&b.live.client_unflushed_limit, 0, i64::MAX)),
    key("producerGroupUnflushedLimit", |b| Cell::Number(&b.live.producer_group_unflushed_limit, 0, i64::MAX)),
    key("maxUnflushedBytes", |b| Cell::Number(&b.live.max_unflushed_bytes, 0, i64::MAX)),
    key("waitTimeMillsInSendQueue", |b| Cell::Number(&b.live.wait_time_mills_in_send_queue, 1, DAY_MS)),
    key("coldDataFlowControlEnable", |b| Cell::Switch(&b.live.cold_data_flow_control_enable)),
    key("cgColdReadThreshold", |b| Cell::Number(&b.live.cg_cold_read_threshold, 0, i64::MAX)),
    key("globalColdReadThreshold", |b| Cell::Number(&b.live.global_cold_read_threshold, 0, i64::MAX)),
];

impl Live {
    /// The settings a broker starts with.
    pub fn new(config: &BrokerConfig) -> Self {
        Self {
            broker_permission: i64::from(config.broker_permission).into(),
            reject_transaction_message: config.reject_transaction_message.into(),
            start_accept_send_request_time_stamp: config.start_accept_send_request_time_stamp.into(),
            long_polling_enable: config.long_polling_enable.into(),
            short_polling_time_mills: i64::try_from(config.short_polling_time_mills).unwrap_or(DAY_MS).into(),
            lite_pull_message_enable: config.lite_pull_message_enable.into(),
            max_msgs_num_batch: i64::from(config.max_msgs_num_batch).into(),
            notify_consumer_ids_changed_enable: config.notify_consumer_ids_changed_enable.into(),
            use_server_side_reset_offset: config.use_server_side_reset_offset.into(),
            store_reply_message_enable: config.store_reply_message_enable.into(),
            client_send_rate_limit: i64::from(config.client_send_rate_limit).into(),
            client_unflushed_limit: i64::try_from(config.client_unflushed_limit).unwrap_or(i64::MAX).into(),
            producer_group_unflushed_limit: i64::try_from(config.producer_group_unflushed_limit)
                .unwrap_or(i64::MAX)
                .into(),
            max_unflushed_bytes: i64::try_from(config.max_unflushed_bytes).unwrap_or(i64::MAX).into(),
            wait_time_mills_in_send_queue: i64::try_from(config.wait_time_mills_in_send_queue).unwrap_or(DAY_MS).into(),
            cold_data_flow_control_enable: config.cold_data_flow_control_enable.into(),
            cg_cold_read_threshold: i64::try_from(config.cg_cold_read_threshold).unwrap_or(i64::MAX).into(),
            global_cold_read_threshold: i64::try_from(config.global_cold_read_threshold).unwrap_or(i64::MAX).into(),
            enable_pop_message_threshold: config.pop.enable_pop_message_threshold.into(),
            pop_inflight_message_threshold: i64::from(config.pop.pop_inflight_message_threshold).into(),
            changes: AtomicU64::new(0),
            changing: Mutex::new(()),
        }
    }

    /// Bits 4 read, 2 write.
    pub fn broker_permission(&self) -> i32 {
        self.broker_permission.load(Relaxed) as i32
    }

    pub fn reject_transaction_message(&self) -> bool {
        self.reject_transaction_message.load(Relaxed)
    }

    /// Milliseconds since 1970.
    pub fn start_accept_send_request_time_stamp(&self) -> i64 {
        self.start_accept_send_request_time_stamp.load(Relaxed)
    }

    /// `None` when pulls may wait as long as they ask, else the longest wait in milliseconds.
    pub fn short_polling_mills(&self) -> Option<u64> {
        let short = !self.long_polling_enable.load(Relaxed);
        short.then(|| self.short_polling_time_mills.load(Relaxed).unsigned_abs())
    }

    pub fn lite_pull_message_enable(&self) -> bool {
        self.lite_pull_message_enable.load(Relaxed)
    }

    pub fn max_msgs_num_batch(&self) -> u32 {
        self.max_msgs_num_batch.load(Relaxed) as u32
    }

    pub fn notify_consumer_ids_changed_enable(&self) -> bool {
        self.notify_consumer_ids_changed_enable.load(Relaxed)
    }

    pub fn use_server_side_reset_offset(&self) -> bool {
        self.use_server_side_reset_offset.load(Relaxed)
    }

    pub fn store_reply_message_enable(&self) -> bool {
        self.store_reply_message_enable.load(Relaxed)
    }

    /// Limits of whoever sends, each 0 for none.
    pub(crate) fn sender_limits(&self) -> SenderLimits {
        let of = |cell: &AtomicI64| cell.load(Relaxed).unsigned_abs();
        SenderLimits {
            rate: of(&self.client_send_rate_limit),
            unflushed: of(&self.client_unflushed_limit),
            group_unflushed: of(&self.producer_group_unflushed_limit),
        }
    }

    /// `None` when any number of bytes may be on their way to the disk.
    pub fn max_unflushed_bytes(&self) -> Option<u64> {
        Some(self.max_unflushed_bytes.load(Relaxed).unsigned_abs()).filter(|most| *most > 0)
    }

    /// How long sends may have waited for the disk before those to degradable topics are refused.
    pub fn wait_in_send_queue(&self) -> Duration {
        Duration::from_millis(self.wait_time_mills_in_send_queue.load(Relaxed).unsigned_abs())
    }

    pub fn cold_data_flow_control_enable(&self) -> bool {
        self.cold_data_flow_control_enable.load(Relaxed)
    }

    /// Bytes.
    pub fn cg_cold_read_threshold(&self) -> u64 {
        self.cg_cold_read_threshold.load(Relaxed).unsigned_abs()
    }

    /// Bytes.
    pub fn global_cold_read_threshold(&self) -> u64 {
        self.global_cold_read_threshold.load(Relaxed).unsigned_abs()
    }

    /// `None` when any number of messages of a queue may be unacknowledged, else the number beyond which a group gets no
    /// more of it.
    pub fn pop_inflight_limit(&self) -> Option<usize> {
        let limit = || self.pop_inflight_message_threshold.load(Relaxed) as usize;
        self.enable_pop_message_threshold.load(Relaxed).then(limit)
    }

    /// Changes since the start.
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }
}

/// A value that has been checked.
#[derive(Clone, Copy)]
enum Value {
    Switch(bool),
    Number(i64),
}

/// Changes settings as a properties text says; writes files, so it may take its time.
pub(crate) fn update(broker: &Shared, text: &[u8]) -> Result<(), Refusal> {
    let invalid = |remark: String| Refusal::new(response::INVALID_PARAMETER, remark);
    if text.len() > MAX_UPDATE_BYTES {
        return Err(invalid(format!("an update of the settings has at most {MAX_UPDATE_BYTES} bytes")));
    }
    let properties = Properties::parse(text).map_err(|e| invalid(e.to_string()))?;
    let mut changes = Vec::new();
    for entry in properties.entries() {
        let (name, given) = (entry.key.as_str(), entry.value.trim());
        if BLACK_LIST.contains(&name) {
            return Err(Refusal::new(response::NO_PERMISSION, "Can not update config in black list."));
        }
        let key = KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
            let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            invalid(format!(
                "{name} cannot be changed while the broker runs: set it in the file given with -c and restart; these can be changed: {}",
                known.join(", ")
            ))
        })?;
        let value = check(&(key.cell)(broker), given).map_err(|why| invalid(format!("{name}={given}: {why}")))?;
        changes.push((key, value, format!("{name}={given}")));
    }
    if changes.is_empty() {
        return Err(invalid("the update names no setting: the body is lines of key=value".into()));
    }
    let live = &broker.live;
    let _one = live.changing.lock();
    match &broker.config.config_file {
        Some(path) => {
            rewrite(path, &changes.iter().map(|(key, _, line)| (key.name, line.as_str())).collect::<Vec<_>>()).map_err(
                |e| {
                    let remark = format!("nothing is changed: {} cannot be rewritten: {e}", path.display());
                    Refusal::new(response::SYSTEM_ERROR, remark)
                },
            )?
        }
        None => tracing::warn!("settings change until the next start only: the broker runs without a file (-c)"),
    }
    for (key, value, line) in changes {
        tracing::info!("setting {line} is in effect");
        match ((key.cell)(broker), value) {
            (Cell::Switch(cell), Value::Switch(on)) => cell.store(on, Relaxed),
            (Cell::Number(cell, ..), Value::Number(number)) => cell.store(number, Relaxed),
            _ => {}
        }
        if key.name == "brokerPermission" {
            // Name servers answer routes with it.
            broker.topics.announce();
        }
    }
    live.changes.fetch_add(1, Relaxed);
    Ok(())
}

fn check(cell: &Cell<'_>, given: &str) -> Result<Value, String> {
    match cell {
        Cell::Switch(_) => match given.to_ascii_lowercase().as_str() {
            "true" => Ok(Value::Switch(true)),
            "false" => Ok(Value::Switch(false)),
            _ => Err("it must be true or false".into()),
        },
        Cell::Number(_, least, most) => given
            .parse()
            .ok()
            .filter(|number| (*least..=*most).contains(number))
            .map(Value::Number)
            .ok_or_else(|| format!("it must be a whole number from {least} to {most}")),
    }
}

/// All settings in effect as properties text (code 26).
pub(crate) fn effective(broker: &Shared) -> String {
    let mut text = String::with_capacity(broker.config.effective_properties.len() + 64);
    for line in broker.config.effective_properties.lines() {
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        match KEYS.iter().find(|key| key.name == name).map(|key| (key.cell)(broker)) {
            Some(Cell::Switch(cell)) => text.push_str(&format!("{name}={}", cell.load(Relaxed))),
            Some(Cell::Number(cell, ..)) => text.push_str(&format!("{name}={}", cell.load(Relaxed))),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

fn rewrite(path: &Path, lines: &[(&str, &str)]) -> io::Result<()> {
    json_file::store(path, edited(&fs::read_to_string(path)?, lines).as_bytes())
}

/// A properties text with some keys' lines replaced, and those it lacks added; everything else stays as it was written.
fn edited(text: &str, changes: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(text.len() + 256);
    let mut written = vec![false; changes.len()];
    let (mut continued, mut dropping) = (false, false);
    for line in text.lines() {
        let part_of_last = continued;
        continued = line.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1;
        if part_of_last {
            if !dropping {
                out.push_str(line);
                out.push('\n');
            }
            continue;
        }
        let name = line.trim_start().split(['=', ':', ' ', '\t', '\u{c}']).next().unwrap_or_default();
        let change = changes.iter().position(|(key, _)| *key == name);
        dropping = change.is_some();
        match change {
            Some(at) if written[at] => {}
            Some(at) => {
                out.push_str(changes[at].1);
                out.push('\n');
                written[at] = true;
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    for ((_, line), _) in changes.iter().zip(written).filter(|(_, written)| !written) {
        out.push_str(line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lines_of_changed_keys_change() {
        let text = "# mine\r\nbrokerName = a\nlongPollingEnable: true\nnamesrvAddr=x;\\\n  longPollingEnable=y\nlongPollingEnable=false";
        let changes = [("longPollingEnable", "longPollingEnable=false"), ("maxMsgsNumBatch", "maxMsgsNumBatch=5")];
        assert_eq!(
            edited(text, &changes),
            "# mine\nbrokerName = a\nlongPollingEnable=false\nnamesrvAddr=x;\\\n  longPollingEnable=y\nmaxMsgsNumBatch=5\n"
        );
        assert_eq!(edited("a=1\\\n 2\nb=3\n", &[("a", "a=9")]), "a=9\nb=3\n");
    }

    #[test]
    fn values_out_of_bounds_are_refused_in_words() {
        let (switch, number) = (AtomicBool::new(true), AtomicI64::new(1));
        assert!(check(&Cell::Switch(&switch), "TRUE").is_ok());
        assert_eq!(check(&Cell::Switch(&switch), "yes").err().unwrap(), "it must be true or false");
        let bounds = Cell::Number(&number, 0, 7);
        assert!(check(&bounds, "8").is_err() && check(&bounds, "-1").is_err() && check(&bounds, "x").is_err());
    }
}
