//! Receipt handles of this protocol: RocketMQ's text of a pop, and ninth the record's position in the commit log
//! (`ReceiptHandle`), from which a message is forwarded to the dead letters.

use ferromq_common::clock;
use ferromq_protocol::pop::ReceiptHandle;

use crate::pb::Code;
use crate::status::Refused;

/// A handle that a client gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    text: String,
    log_position: Option<i64>,
    /// The lite topic of the message; the text does not say it.
    lite: Option<String>,
}

impl Handle {
    /// The handle of a message that has just been handed out, or handed out anew.
    pub fn new(of_pop: &ReceiptHandle<'_>, log_position: Option<i64>) -> Self {
        let text = match log_position {
            Some(position) => format!("{of_pop} {position}"),
            None => of_pop.to_string(),
        };
        Handle { text, log_position, lite: None }
    }

    /// Reads what a client sent; an expired handle is as good as none.
    pub fn read(text: &str) -> Result<Self, Refused> {
        let refuse = |why: &str| Err(Refused::new(Code::InvalidReceiptHandle, format!("receipt handle {text}: {why}")));
        let Some(parts) = ReceiptHandle::parse(text) else { return refuse("malformed") };
        if parts.queue_id.is_none() || parts.queue_offset.is_none() {
            return refuse("it names no queue offset");
        }
        if parts.pop_time.saturating_add(parts.invisible_time) <= clock::now_millis() {
            return refuse("expired");
        }
        let log_position = text.split(' ').nth(8).and_then(|position| position.parse().ok());
        Ok(Handle { text: text.to_owned(), log_position, lite: None })
    }

    /// The handle of a message of a lite topic, if there is one.
    pub fn of_lite(self, lite: Option<&str>) -> Self {
        match lite.filter(|lite| !lite.trim().is_empty()) {
            Some(lite) => Handle { lite: Some(lite.to_owned()), ..self },
            None => self,
        }
    }

    /// The lite topic of the message.
    pub fn lite(&self) -> Option<&str> {
        self.lite.as_deref()
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where the record stands in the commit log, bytes.
    pub fn log_position(&self) -> Option<i64> {
        self.log_position
    }

    /// What the text says. A handle is made of text that can be read.
    pub fn parts(&self) -> ReceiptHandle<'_> {
        ReceiptHandle::parse(&self.text).unwrap_or(ReceiptHandle {
            start_offset: 0,
            pop_time: 0,
            invisible_time: 0,
            revive_queue: 0,
            origin: Default::default(),
            broker_name: "",
            queue_id: None,
            queue_offset: None,
        })
    }

    /// When the message is visible again, milliseconds since 1970.
    pub fn visible_at(&self) -> i64 {
        let parts = self.parts();
        parts.pop_time.saturating_add(parts.invisible_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_send_is_checked() {
        let now = clock::now_millis();
        let good = format!("5 {now} 60000 3 0 broker-a 2 7 4711");
        let handle = Handle::read(&good).unwrap();
        assert_eq!((handle.log_position(), handle.parts().queue_offset), (Some(4711), Some(7)));
        let without = format!("5 {now} 60000 3 0 broker-a 2 7");
        assert_eq!(Handle::read(&without).unwrap().log_position(), None);
        for bad in
            [String::new(), "a b c".into(), format!("5 {now} 60000 3 0 broker-a"), "5 1 60000 3 0 b 2 7 8".into()]
        {
            assert_eq!(Handle::read(&bad).unwrap_err().code, Code::InvalidReceiptHandle, "{bad}");
        }
    }
}
