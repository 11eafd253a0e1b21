//! EndTransaction: a producer decides on its half message.
//!
//! A transaction id of this protocol says where the half message is: no table of them is needed, and an id outlives a
//! restart of the proxy. The broker compares it with the record, so that a forged one ends no other's transaction.

use std::fmt;

use ferromq_protocol::Text;
use ferromq_protocol::code::request;
use ferromq_protocol::header::send::EndTransactionHeader;
use ferromq_protocol::sys_flag::message as flags;

use crate::call::Caller;
use crate::names;
use crate::pb::{Code, EndTransactionRequest, EndTransactionResponse, TransactionResolution, TransactionSource};
use crate::service::Service;
use crate::status::{self, Refused};

/// Where a half message is; as text, both numbers in hex and the broker's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HalfId<'a> {
    /// In the queue of half messages.
    pub queue_offset: i64,
    /// In the commit log, bytes.
    pub log_position: i64,
    pub broker: &'a str,
}

impl fmt::Display for HalfId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}{:016X}{}", self.queue_offset, self.log_position, self.broker)
    }
}

impl<'a> HalfId<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (offset, rest) = text.split_at_checked(16)?;
        let (position, broker) = rest.split_at_checked(16).filter(|(_, broker)| !broker.is_empty())?;
        let number = |text| i64::from_str_radix(text, 16).ok();
        Some(HalfId { queue_offset: number(offset)?, log_position: number(position)?, broker })
    }
}

pub(crate) async fn end(
    service: &Service,
    caller: &Caller,
    request: EndTransactionRequest,
) -> Result<EndTransactionResponse, Refused> {
    let topic = names::topic(request.topic.as_ref())?;
    let half = HalfId::parse(&request.transaction_id).ok_or_else(|| {
        Refused::new(Code::InvalidTransactionId, format!("transaction id '{}' is none of ours", request.transaction_id))
    })?;
    let commit_or_rollback = match request.resolution() {
        TransactionResolution::Commit => flags::TRANSACTION_COMMIT,
        TransactionResolution::Rollback => flags::TRANSACTION_ROLLBACK,
        TransactionResolution::Unspecified => flags::TRANSACTION_NOT,
    };
    let header = EndTransactionHeader {
        topic: Some(Text::plain(&topic)),
        producer_group: Text::plain(&topic),
        tran_state_table_offset: half.queue_offset,
        commit_log_offset: half.log_position,
        commit_or_rollback,
        from_transaction_check: Some(request.source() == TransactionSource::SourceServerCheck),
        msg_id: Text::plain(&request.message_id),
        transaction_id: Some(Text::plain(&request.message_id)),
    };
    let line = service.door.line(caller);
    let broker = line.at(half.broker)?;
    broker.call(request::END_TRANSACTION, |frame| header.write(frame), &[]).await?;
    Ok(EndTransactionResponse { status: Some(status::ok()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back() {
        let half = HalfId { queue_offset: 7, log_position: 0x1_2345_6789, broker: "broker-ä" };
        let text = half.to_string();
        assert_eq!(HalfId::parse(&text), Some(half));
        let no_broker = "00000000000000070000000123456789";
        for bad in ["", "7", "zz", no_broker, "0000000000000007000000012345b", "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFb"] {
            assert_eq!(HalfId::parse(bad), None, "{bad}");
        }
    }
}
