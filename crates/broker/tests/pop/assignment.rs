//! The broker shares out queues: by pull or, where that was set, by pop.

use ferromq_protocol::body::{QueryAssignmentResponseBody, SetMessageRequestModeRequestBody};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::json;

use crate::client::*;
use crate::support::*;

fn beat(bench: &Bench) {
    let body = br#"{"clientID":"c1","consumerDataSet":[{"groupName":"G","consumeType":"CONSUME_POP","messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","subscriptionDataSet":[{"topic":"T","subString":"*","subVersion":1}]}],"producerDataSet":[]}"#;
    assert_eq!(code(&bench.call(request::HEART_BEAT, body, |_| {})), 0);
}

fn ask(bench: &Bench, topic: &str, client: &str, strategy: &str) -> Option<Vec<(i32, String)>> {
    let body = format!(
        r#"{{"clientId":"{client}","consumerGroup":"G","messageModel":"CLUSTERING","strategyName":"{strategy}","topic":"{topic}"}}"#
    );
    let answer = bench.call(request::QUERY_ASSIGNMENT, body.as_bytes(), |_| {});
    assert_eq!(code(&answer), 0, "{}", remark(&answer));
    let body: QueryAssignmentResponseBody = json::from_slice(answer.body()).unwrap();
    let one = |a: &ferromq_protocol::body::MessageQueueAssignment| {
        (a.message_queue.as_ref().unwrap().queue_id, format!("{:?}", a.mode))
    };
    Some(body.message_queue_assignments?.iter().map(one).collect())
}

fn set_mode(bench: &Bench, topic: &str, mode: &str) -> i32 {
    let body = format!(r#"{{"consumerGroup":"G","mode":"{mode}","popShareQueueNum":0,"topic":"{topic}"}}"#);
    code(&bench.call(request::SET_MESSAGE_REQUEST_MODE, body.as_bytes(), |_| {}))
}

#[test]
fn queues_are_pulled_until_pop_is_set_and_that_survives_a_kill() {
    let bench = small();
    fill(&bench, "T", 0..1);
    assert_eq!(ask(&bench, "T", "c1", "AVG"), None);
    beat(&bench);
    let pulled: Vec<_> = (0..4).map(|id| (id, "Pull".to_owned())).collect();
    assert_eq!(ask(&bench, "T", "c1", "AVG"), Some(pulled));
    assert_eq!(ask(&bench, "T", "stranger", "AVG"), Some(vec![]));
    assert_eq!(ask(&bench, "T", "c1", "UNKNOWN"), None);
    assert_eq!(ask(&bench, "Unknown", "c1", "AVG"), None);
    assert_eq!(set_mode(&bench, "T", "POP"), 0);
    let popped = Some(vec![(-1, "Pop".to_owned())]);
    assert_eq!(ask(&bench, "T", "c1", "AVG"), popped);
    let bench = kill(bench, config());
    beat(&bench);
    assert_eq!(ask(&bench, "T", "c1", "AVG"), popped);
    let all = bench.call(request::GET_ALL_MESSAGE_REQUEST_MODE, b"", |_| {});
    assert!(String::from_utf8_lossy(all.body()).contains("\"POP\""));
}

#[test]
fn modes_of_what_is_not_there_are_refused() {
    let bench = small();
    fill(&bench, "T", 0..1);
    assert_eq!(set_mode(&bench, "Unknown", "POP"), response::TOPIC_NOT_EXIST);
    assert_eq!(set_mode(&bench, "%RETRY%G", "POP"), response::NO_PERMISSION);
    assert_eq!(code(&bench.call(request::SET_MESSAGE_REQUEST_MODE, b"{", |_| {})), response::SYSTEM_ERROR);
    assert_eq!(code(&bench.call(request::QUERY_ASSIGNMENT, b"", |_| {})), response::SYSTEM_ERROR);
    let empty = SetMessageRequestModeRequestBody::default();
    let body = json::to_vec_standard(&empty).unwrap();
    assert_eq!(code(&bench.call(request::SET_MESSAGE_REQUEST_MODE, &body, |_| {})), response::TOPIC_NOT_EXIST);
    assert_eq!(code(&bench.call(request::QUERY_ASSIGNMENT, b"{}", |_| {})), response::INVALID_PARAMETER);
}
