//! How much a group may read of what lies so far back in the log that it has to come from the disk (RocketMQ's
//! `ColdDataCgCtrService`): `cgColdReadThreshold` bytes in [`WINDOW`], or what an administrator set for it, and
//! `globalColdReadThreshold` for all groups together, while `coldDataFlowControlEnable` is on. One group that catches up with
//! last week's messages then leaves the disk to the others.
//!
//! A pull beyond it is answered when the window is over: RocketMQ refuses it, and its push consumers wait three seconds.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use ferromq_common::clock;
use ferromq_protocol::code::response;
use ferromq_protocol::topic as names;
use parking_lot::Mutex;
use serde::Serialize;

use crate::broker::Shared;
use crate::handler::Refusal;

/// How long what was read counts.
const WINDOW: Duration = Duration::from_secs(5);
/// A group that has read nothing old for this long is forgotten, milliseconds.
const FORGOTTEN_AFTER_MS: i64 = 60_000;
/// Most groups with a threshold of their own.
const MAX_LIMITS: usize = 10_000;
/// Groups of the system are not held up.
const SYSTEM_GROUP_PREFIX: &str = "CID_RMQ_SYS_";

/// What a group has read in this window; the names are those of `getColdDataFlowCtrInfo`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Reader {
    /// Bytes.
    cold_acc: u64,
    create_time_mills: i64,
    last_cold_read_time_mills: i64,
}

#[derive(Default)]
struct Table {
    readers: HashMap<Box<str>, Reader>,
    /// Thresholds that an administrator set, bytes.
    limits: BTreeMap<String, u64>,
    /// Bytes that all groups have read.
    all: u64,
    window_ends: Option<Instant>,
}

impl Table {
    /// Begins another window when the last one is over.
    fn turn(&mut self, now: Instant, now_ms: i64) {
        if self.window_ends.is_some_and(|end| now >= end) {
            self.window_ends = None;
            self.all = 0;
            self.readers.retain(|_, reader| now_ms - reader.last_cold_read_time_mills < FORGOTTEN_AFTER_MS);
            self.readers.values_mut().for_each(|reader| reader.cold_acc = 0);
        }
    }
}

/// What groups have read from the disk, and what they may.
#[derive(Default)]
pub struct ColdReads {
    table: Mutex<Table>,
}

/// The answer to GET_COLD_DATA_FLOW_CTR_INFO.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Info {
    runtime_table: BTreeMap<String, Reader>,
    config_table: BTreeMap<String, u64>,
    cg_cold_read_threshold: u64,
    global_cold_read_threshold: u64,
    global_acc: u64,
}

impl ColdReads {
    /// Notes that a group has read `bytes` of old messages.
    pub fn count(&self, group: &str, bytes: u64) {
        let (now, now_ms) = (Instant::now(), clock::now_millis());
        let mut table = self.table.lock();
        table.turn(now, now_ms);
        table.window_ends.get_or_insert(now + WINDOW);
        table.all += bytes;
        if !table.readers.contains_key(group) {
            let reader = Reader { cold_acc: 0, create_time_mills: now_ms, last_cold_read_time_mills: now_ms };
            table.readers.insert(group.into(), reader);
        }
        if let Some(reader) = table.readers.get_mut(group) {
            reader.cold_acc += bytes;
            reader.last_cold_read_time_mills = now_ms;
        }
    }

    /// How long a group has to wait before it reads more old messages; `None` when it need not.
    pub fn wait(&self, broker: &Shared, group: &str) -> Option<Duration> {
        if group.starts_with(SYSTEM_GROUP_PREFIX) {
            return None;
        }
        let now = Instant::now();
        let mut table = self.table.lock();
        table.turn(now, clock::now_millis());
        let own = table.limits.get(group).copied().unwrap_or_else(|| broker.live.cg_cold_read_threshold());
        let is_beyond = table.readers.get(group).is_some_and(|reader| reader.cold_acc >= own)
            || table.all >= broker.live.global_cold_read_threshold();
        let end = table.window_ends.filter(|_| is_beyond)?;
        Some(end.saturating_duration_since(now))
    }

    /// Sets thresholds of groups, all or none.
    pub(crate) fn set_limits(&self, limits: Vec<(String, u64)>) -> Result<(), Refusal> {
        let mut table = self.table.lock();
        let added = limits.iter().filter(|(group, _)| !table.limits.contains_key(group)).count();
        if table.limits.len() + added > MAX_LIMITS {
            let remark = format!(
                "{MAX_LIMITS} groups have a threshold for cold reads already, remove some before adding others"
            );
            return Err(Refusal::new(response::SYSTEM_ERROR, remark));
        }
        table.limits.extend(limits);
        Ok(())
    }

    /// The group has the threshold of all others again.
    pub fn remove_limit(&self, group: &str) {
        self.table.lock().limits.remove(group);
    }

    pub(crate) fn info(&self, broker: &Shared) -> Info {
        let mut table = self.table.lock();
        table.turn(Instant::now(), clock::now_millis());
        Info {
            runtime_table: table.readers.iter().map(|(group, reader)| (group.to_string(), reader.clone())).collect(),
            config_table: table.limits.clone(),
            cg_cold_read_threshold: broker.live.cg_cold_read_threshold(),
            global_cold_read_threshold: broker.live.global_cold_read_threshold(),
            global_acc: table.all,
        }
    }
}

/// `group=bytes` of a properties text.
pub(crate) fn parse_limit(group: &str, bytes: &str) -> Result<(String, u64), Refusal> {
    let invalid = |remark: String| Refusal::new(response::INVALID_PARAMETER, remark);
    names::validate_group(group).map_err(|e| invalid(e.to_string()))?;
    let bytes = bytes
        .trim()
        .parse()
        .map_err(|_| invalid(format!("the threshold of group {group} is a number of bytes, not {bytes:?}")))?;
    Ok((group.to_owned(), bytes))
}
