//! A message in hand becomes one that waits (RocketMQ's `HookUtils.handleScheduleMessage`): its topic and queue go into its
//! properties, and the schedule or timer topic takes it.
//!
//! This is the way in for everybody who schedules: sends, retries, transactions, POP.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ferromq_common::clock;
use ferromq_protocol::code::response;
use ferromq_protocol::properties::{self, names};
use ferromq_store::Queue;

use super::{MAX_PENDING, Timer};
use crate::handler::Refusal;

/// When a message is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// After the time of a delay level, 1 and up; above the highest it counts as that.
    Level(i32),
    /// At a time, milliseconds since 1970.
    At(i64),
}

/// Why a message cannot wait so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "timer message illegal, the delay time should not be bigger than the max delay {max_delay}ms; or if set del msg, the delay time should be bigger than the current time"
    )]
    Illegal { max_delay: i64 },
    #[error("accurate timer message is not enabled, timerWheelEnable is false")]
    NotEnabled,
    #[error("timer message is under flow control, {MAX_PENDING} timer messages are pending already")]
    TooMany,
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let code = match refused {
            Refused::Illegal { .. } => response::MESSAGE_ILLEGAL,
            Refused::NotEnabled | Refused::TooMany => response::SYSTEM_ERROR,
        };
        Refusal::new(code, refused.to_string())
    }
}

impl Timer {
    /// Turns the properties of a message for `queue_id` of `topic` into those of one that waits, and says in which queue:
    /// the record goes there. `None` if it is due already: it goes where it was to go.
    pub(crate) fn divert(
        &self,
        topic: &str,
        queue_id: u32,
        properties: &mut Vec<u8>,
        when: When,
    ) -> Result<Option<&Arc<Queue>>, Refused> {
        let queue = match when {
            When::Level(level) => {
                for name in [names::TIMER_DELIVER_MS, names::TIMER_DELAY_SEC, names::TIMER_DELAY_MS] {
                    properties::remove(properties, name);
                }
                let highest = self.levels.len().max(1);
                let level = usize::try_from(level).unwrap_or(0).clamp(1, highest);
                properties::set(properties, names::DELAY_TIME_LEVEL, &level.to_string());
                self.levels.get(level - 1).ok_or(Refused::NotEnabled)?
            }
            When::At(time) => {
                let Some(out_ms) = self.out_ms(time, properties)? else { return Ok(None) };
                properties::set(properties, names::TIMER_OUT_MS, &out_ms.to_string());
                &self.queue
            }
        };
        properties::set(properties, names::REAL_TOPIC, topic);
        properties::set(properties, names::REAL_QUEUE_ID, &queue_id.to_string());
        Ok(Some(queue))
    }

    /// The begin of the step at whose end the message is delivered: never early, late by less than the precision.
    fn out_ms(&self, time: i64, text: &[u8]) -> Result<Option<i64>, Refused> {
        let settings = &self.settings;
        let illegal = Refused::Illegal { max_delay: settings.max_delay };
        if !settings.enabled {
            return Err(Refused::NotEnabled);
        }
        let now = clock::now_millis();
        if time <= now {
            // There is nothing left to take back.
            let is_recall = properties::get(text, names::TIMER_DEL_UNIQKEY).is_some();
            return if is_recall { Err(illegal) } else { Ok(None) };
        }
        if time - now > settings.max_delay {
            return Err(illegal);
        }
        if self.pending.load(Ordering::Relaxed) >= MAX_PENDING {
            return Err(Refused::TooMany);
        }
        Ok(Some(settings.slot(time - 1)))
    }

    /// The time at which the properties of a message ask for delivery.
    pub(crate) fn asked_time(&self, text: &[u8]) -> Result<i64, Refused> {
        asked_time(text, clock::now_millis()).ok_or(Refused::Illegal { max_delay: self.settings.max_delay })
    }
}

/// TIMER_DELAY_SEC before TIMER_DELAY_MS before TIMER_DELIVER_MS; `None` if the first there is cannot be a time.
fn asked_time(text: &[u8], now: i64) -> Option<i64> {
    let number = |name| properties::get_str(text, name).map(str::parse::<i64>);
    if let Some(seconds) = number(names::TIMER_DELAY_SEC) {
        return now.checked_add(seconds.ok()?.checked_mul(1000)?);
    }
    if let Some(millis) = number(names::TIMER_DELAY_MS) {
        return now.checked_add(millis.ok()?);
    }
    number(names::TIMER_DELIVER_MS)?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_asked_for_is_read_in_rocketmqs_order() {
        let sec = "TIMER_DELAY_SEC\u{1}5\u{2}";
        let ms = "TIMER_DELAY_MS\u{1}70\u{2}";
        let at = "TIMER_DELIVER_MS\u{1}9\u{2}";
        let asked = |parts: &[&str]| asked_time(parts.concat().as_bytes(), 1000);
        assert_eq!(asked(&[at, ms, sec]), Some(6000));
        assert_eq!(asked(&[at, ms]), Some(1070));
        assert_eq!(asked(&[at]), Some(9));
        assert_eq!(asked(&["TIMER_DELAY_SEC\u{1}x\u{2}", at]), None);
        assert_eq!(asked(&["TIMER_DELAY_SEC\u{1}9223372036854775807\u{2}"]), None);
        assert_eq!(asked(&["TIMER_DELAY_MS\u{1}9223372036854775807\u{2}"]), None);
    }
}
