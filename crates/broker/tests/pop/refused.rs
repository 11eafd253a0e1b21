//! What is refused, and what changes nothing: bad handles, others' handles, numbers out of bounds.

use ferromq_protocol::Text;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::pop::PopMessageHeader;

use crate::client::*;
use crate::support::*;

#[test]
fn pops_out_of_bounds_get_the_codes_java_users_know() {
    let bench = small();
    fill(&bench, "T", 0..1);
    let pop = |header: PopMessageHeader<'_>| code(&pop(&bench, &header).0);
    assert_eq!(pop(PopMessageHeader { max_msg_nums: 33, ..pop_header("T") }), response::INVALID_PARAMETER);
    assert_eq!(pop(PopMessageHeader { queue_id: 4, ..pop_header("T") }), response::INVALID_PARAMETER);
    assert_eq!(pop(pop_header("Unknown")), response::TOPIC_NOT_EXIST);
    for invisible_time in [-1, 0, i64::MIN, i64::MAX, 3 * 86_400_000 + 1] {
        let header = PopMessageHeader { invisible_time, ..pop_header("T") };
        assert_eq!(pop(header), response::INVALID_PARAMETER, "{invisible_time}");
    }
    let group = PopMessageHeader { consumer_group: Text::plain("a/b"), ..pop_header("T") };
    assert_eq!(pop(group), response::SUBSCRIPTION_GROUP_NOT_EXIST);
    let late = PopMessageHeader { born_time: 1_000, poll_time: 10, ..pop_header("T") };
    assert_eq!(pop(late), response::POLLING_TIMEOUT);
    let expression = PopMessageHeader { exp: Some(Text::plain("||")), ..pop_header("T") };
    assert_eq!(pop(expression), response::SUBSCRIPTION_PARSE_FAILED);
    for bomb in ["(".repeat(4000), "n = 1 OR ".repeat(500), "x".repeat(5000)] {
        let (exp_type, exp) = (Some(Text::plain("SQL92")), Some(Text::plain(&bomb)));
        assert_eq!(pop(PopMessageHeader { exp_type, exp, ..pop_header("T") }), response::SUBSCRIPTION_PARSE_FAILED);
    }
    // Nothing of it took the message.
    assert_eq!(pop(PopMessageHeader { max_msg_nums: -3, ..pop_header("T") }), response::SUCCESS);
}

#[test]
fn handles_that_are_none_or_others_change_nothing() {
    let bench = small();
    fill(&bench, "T", 0..3);
    let header = PopMessageHeader { invisible_time: 3000, ..pop_header("T") };
    let popped = pop(&bench, &header).1;
    let with = |handle: &str| Message { handle: handle.to_owned(), ..popped[0].clone() };
    for handle in ["", "1 2 3", "x 2 3 4 0 b", "0 0 0 0 7 b 0 0"] {
        assert_eq!(code(&ack_as(&bench, "G", &with(handle))), response::SYSTEM_ERROR, "{handle}");
        assert_eq!(change(&bench, &with(handle), 1000), Err(response::SYSTEM_ERROR), "{handle}");
    }
    let max = i64::MAX;
    for handle in
        [format!("{max} {max} {max} 3 0 b 0 {max}"), "-1 -1 -1 999 0 b 0 -1".into(), "0 0 0 -5 1 b 0 0".into()]
    {
        assert_eq!(code(&ack_as(&bench, "G", &with(&handle))), 0, "{handle}");
    }
    // Another group's, a group nobody knows, another time.
    assert_eq!(code(&ack_as(&bench, "H", &popped[0])), 0);
    let queue = |queue_id| Message { queue_id, ..popped[0].clone() };
    for queue_id in [-1, 4, i32::MAX] {
        assert_eq!(code(&ack_as(&bench, "G", &queue(queue_id))), response::MESSAGE_ILLEGAL);
    }
    for queue_offset in [-1, 4, max] {
        let message = Message { queue_offset, ..popped[0].clone() };
        assert_eq!(code(&ack_as(&bench, "G", &message)), response::NO_MESSAGE);
    }
    for invisible in [-1, i64::MIN, i64::MAX] {
        assert_eq!(change(&bench, &popped[0], invisible), Err(response::INVALID_PARAMETER));
    }
    // Twice is as good as once.
    ack(&bench, &popped[1]);
    ack(&bench, &popped[1]);
    assert_eq!(bodies(&pop_all(&bench, &header, 2)), ["0", "2"]);
}

#[test]
fn lists_of_acknowledgements_that_cannot_be_read_are_refused() {
    let bench = small();
    fill(&bench, "T", 0..1);
    let batch = |body: &str| code(&bench.call(request::BATCH_ACK_MESSAGE, body.as_bytes(), |_| {}));
    assert_eq!(batch(""), response::SYSTEM_ERROR);
    assert_eq!(batch("{}"), response::NO_MESSAGE);
    assert_eq!(batch(r#"{"acks":[{"c":"G","t":"T","r":"9","b":"AQ=="}]}"#), response::SYSTEM_ERROR);
    assert_eq!(batch(r#"{"acks":[{"c":"G","t":"T","r":"0","b":"*"}]}"#), response::SYSTEM_ERROR);
    let far = format!(r#"{{"acks":[{{"c":"G","t":"T","r":"0","so":{},"q":-3,"b":"/////w=="}}]}}"#, i64::MAX);
    assert_eq!(batch(&far), 0);
    let all = format!("\"{}\"", "////".repeat(200));
    let part = format!(r#"{{"c":"G","t":"T","r":"0","b":{all}}}"#);
    assert_eq!(batch(&format!(r#"{{"acks":[{part}]}}"#)), response::INVALID_PARAMETER);
    let half = part.replace(&all, &format!("\"{}\"", "////".repeat(100)));
    assert_eq!(batch(&format!(r#"{{"acks":[{half}]}}"#)), 0);
    assert_eq!(batch(&format!(r#"{{"acks":[{half},{half}]}}"#)), response::INVALID_PARAMETER);
    let parts = vec![r#"{"c":"G","t":"T","r":"0","b":""}"#; 4097].join(",");
    assert_eq!(batch(&format!(r#"{{"acks":[{parts}]}}"#)), response::INVALID_PARAMETER);
    let ordered = format!(r#"{{"acks":[{{"c":"G","t":"T","r":"0","so":{},"rq":999,"b":"/////w=="}}]}}"#, i64::MAX);
    assert_eq!(batch(&ordered), 0);
}

#[test]
fn a_group_that_is_paused_while_it_waits_gets_nothing() {
    let bench = small();
    fill(&bench, "T", 0..1);
    assert_eq!(pop(&bench, &pop_header("T")).1.len(), 1);
    let waits =
        PopMessageHeader { poll_time: 8_000, born_time: ferromq_common::clock::now_millis(), ..pop_header("T") };
    let (answer, found) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pop(&bench, &waits));
        wait_until("a pop that waits", || bench.broker.as_ref().unwrap().shared().pops.waiting() == 1);
        let paused = br#"{"groupName":"G","consumeEnable":false}"#;
        assert_eq!(code(&bench.call(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, paused, |_| {})), 0);
        fill(&bench, "T", 1..2);
        waiting.join().unwrap()
    });
    assert_eq!((code(&answer), found.len()), (response::NO_PERMISSION, 0), "{}", remark(&answer));
}
