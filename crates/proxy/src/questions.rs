//! What tools ask a client by way of a broker, and the client answers over its telemetry stream: VerifyMessage
//! (CONSUME_MESSAGE_DIRECTLY) and PrintThreadStackTrace (GET_CONSUMER_RUNNING_INFO). Each question has a number that comes
//! back with its answer.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::time::{Duration, Instant};

use ferromq_protocol::body::{CmResult, ConsumeMessageDirectlyResult, ConsumeType, ConsumerRunningInfo};
use ferromq_protocol::code::response;
use ferromq_protocol::{FrameWriter, Head, json};

use crate::pb::{Code, Settings, Status};
use crate::settings;

/// Most questions that wait for the answers of one client.
const MAX_WAITING: usize = 64;
/// A broker does not wait longer (`Broker2Client.callClient`).
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// A request of a broker that waits for the client.
pub(crate) struct Waiting {
    pub head: Head,
    since: Instant,
}

/// The questions of one client.
#[derive(Default)]
pub(crate) struct Questions {
    asked: u64,
    waiting: HashMap<String, Waiting>,
}

impl Questions {
    /// The number of a new question; `None` while too many wait.
    pub fn add(&mut self, head: Head) -> Option<String> {
        self.waiting.retain(|_, waiting| waiting.since.elapsed() < ANSWERED_WITHIN);
        if self.waiting.len() >= MAX_WAITING {
            return None;
        }
        self.asked += 1;
        let nonce = self.asked.to_string();
        self.waiting.insert(nonce.clone(), Waiting { head, since: Instant::now() });
        Some(nonce)
    }

    /// The question that a number belongs to, once.
    pub fn take(&mut self, nonce: &str) -> Option<Waiting> {
        self.waiting.remove(nonce)
    }
}

/// An answer without a body.
pub(crate) fn refusal(head: &Head, code: i32, why: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut frame = FrameWriter::response(&mut out, head, code);
    frame.remark(why);
    frame.finish();
    out
}

fn success<E: Display>(head: &Head, body: Result<Vec<u8>, E>) -> Vec<u8> {
    let body = match body {
        Ok(body) => body,
        Err(error) => return refusal(head, response::SYSTEM_ERROR, &format!("the answer cannot be written: {error}")),
    };
    let mut out = Vec::new();
    FrameWriter::response(&mut out, head, response::SUCCESS).finish_with_body(&body);
    out
}

/// What a consumer made of a message.
pub(crate) fn verified(waiting: &Waiting, status: &Status) -> Vec<u8> {
    let consume_result = match status.code() {
        Code::Ok => Some(CmResult::CrSuccess),
        Code::FailedToConsumeMessage => Some(CmResult::CrLater),
        Code::MessageCorrupted => Some(CmResult::CrReturnNull),
        _ => None,
    };
    let remark = match status.code() {
        Code::Ok => "from gRPC client".to_owned(),
        code => format!("from gRPC client: {}: {}", code.as_str_name(), status.message),
    };
    let spent_time_mills = i64::try_from(waiting.since.elapsed().as_millis()).unwrap_or(i64::MAX);
    let result = ConsumeMessageDirectlyResult {
        consume_result,
        remark: Some(remark),
        spent_time_mills,
        ..ConsumeMessageDirectlyResult::default()
    };
    success(&waiting.head, json::to_vec_standard(&result))
}

/// The stacks of a client's threads, or why it does not tell them.
pub(crate) fn traced(head: &Head, status: &Status, trace: Option<String>, told: &Settings) -> Vec<u8> {
    match status.code() {
        Code::Ok => running(head, trace, told),
        code => {
            let why = format!("the client answers {}: {}", code.as_str_name(), status.message);
            refusal(head, response::SYSTEM_ERROR, &why)
        }
    }
}

/// What is known of a consumer without asking it, and its stacks if it was asked. Tools need these properties.
pub(crate) fn running(head: &Head, jstack: Option<String>, told: &Settings) -> Vec<u8> {
    let Some(consumer) = settings::consumer(told) else {
        return refusal(head, response::SYSTEM_ERROR, "the client is no consumer");
    };
    let consume_type = match consumer.consume_type {
        ConsumeType::ConsumePassively => "CONSUME_PASSIVELY",
        _ => "CONSUME_ACTIVELY",
    };
    let properties = BTreeMap::from([
        ("PROP_CONSUME_TYPE".to_owned(), consume_type.to_owned()),
        ("PROP_CONSUMEORDERLY".to_owned(), settings::is_fifo(told).to_string()),
        ("PROP_CLIENT_VERSION".to_owned(), told.user_agent.as_ref().map_or_else(String::new, |ua| ua.version.clone())),
        ("PROP_CONSUMER_START_TIMESTAMP".to_owned(), "0".to_owned()),
    ]);
    let subscription_set = consumer.subscription_data_set.into_iter().collect();
    let info = ConsumerRunningInfo { jstack, properties, subscription_set, ..ConsumerRunningInfo::default() };
    success(head, json::to_vec_standard(&info))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferromq_protocol::Encoding;

    #[test]
    fn a_number_answers_one_question_and_there_are_not_too_many() {
        let head = Head { encoding: Encoding::Json, code: 309, language: 0, version: 0, opaque: 7, flag: 0 };
        let mut questions = Questions::default();
        let first = questions.add(head).unwrap();
        assert_eq!(questions.take(&first).unwrap().head.opaque, 7);
        assert!(questions.take(&first).is_none() && questions.take("no number").is_none());
        assert!((0..MAX_WAITING).all(|_| questions.add(head).is_some()));
        assert!(questions.add(head).is_none());
    }
}
