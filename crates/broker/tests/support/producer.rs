//! A producer of transactions by raw requests, and what brokers ask it.

use std::sync::Arc;

use ferromq_protocol::body::{HeartbeatData, ProducerData};
use ferromq_protocol::code::request;
use ferromq_protocol::header::send::{CheckTransactionStateHeader, EndTransactionHeader, SendHeader};
use ferromq_protocol::{Text, id, json};
use ferromq_remoting::{Client, ClientConfig, Connection, Requests, Service};
use parking_lot::Mutex;

use crate::support::*;

pub const COMMIT: i32 = 8;
pub const ROLLBACK: i32 = 12;
pub const GROUP: &str = "PG";

/// Checks this client was sent.
#[derive(Default)]
pub struct Checks(pub Mutex<Vec<Check>>);

#[derive(Clone, Debug)]
pub struct Check {
    pub half: Half,
    pub transaction_id: String,
    pub record: Arc<Record>,
}

/// Where a half message stands.
#[derive(Clone, Copy, Debug)]
pub struct Half {
    pub queue_offset: i64,
    pub position: i64,
}

impl Service for Checks {
    fn serve(&self, _conn: &Arc<Connection>, requests: &mut Requests<'_>, _out: &mut Vec<u8>) {
        for command in requests.filter(|command| command.head.code == request::CHECK_TRANSACTION_STATE) {
            let header = CheckTransactionStateHeader::read(&command.fields).unwrap();
            let half = Half { queue_offset: header.tran_state_table_offset, position: header.commit_log_offset };
            self.0.lock().push(Check {
                half,
                transaction_id: header.transaction_id.unwrap().to_str().unwrap().into_owned(),
                record: Arc::new(records(command.body).remove(0)),
            });
        }
    }
}

/// Registers as a producer; the checks it is sent.
pub fn connect(bench: &mut Bench) -> Arc<Checks> {
    let checks = Arc::new(Checks::default());
    bench.client = Client::new(ClientConfig::default(), Some(Arc::clone(&checks) as Arc<dyn Service>));
    let beat = HeartbeatData {
        client_id: "tester".into(),
        producer_data_set: vec![ProducerData { group_name: GROUP.into() }],
        ..HeartbeatData::default()
    };
    let body = json::to_vec_standard(&beat).unwrap();
    assert_eq!(code(&bench.call(request::HEART_BEAT, &body, |_| {})), 0);
    checks
}

/// Sends a half message for a queue, with these properties more.
pub fn send_half_to(bench: &Bench, (topic, queue): (&str, i32), key: &str, body: &[u8], further: &str) -> Half {
    let properties = format!("UNIQ_KEY\u{1}{key}\u{2}TRAN_MSG\u{1}true\u{2}PGROUP\u{1}{GROUP}\u{2}{further}");
    let header = SendHeader {
        sys_flag: 4,
        born_timestamp: ferromq_common::clock::now_millis(),
        ..send_header(topic, queue, &properties)
    };
    let answer = bench.send_as(&header, body);
    assert_eq!(code(&answer), 0, "{}", remark(&answer));
    assert_eq!(number(&answer, "queueId"), Some(queue.into()));
    let (_, position) = id::parse_offset_message_id(&field(&answer, "msgId").unwrap()).unwrap();
    Half { queue_offset: number(&answer, "queueOffset").unwrap(), position: position as i64 }
}

/// Ends a transaction in the name of a group; code and remark of the answer.
pub fn end_as(bench: &Bench, half: Half, outcome: i32, checked: bool, group: &str) -> (i32, String) {
    let header = EndTransactionHeader {
        producer_group: Text::plain(group),
        tran_state_table_offset: half.queue_offset,
        commit_log_offset: half.position,
        commit_or_rollback: outcome,
        from_transaction_check: Some(checked),
        ..EndTransactionHeader::default()
    };
    let answer = bench.call(request::END_TRANSACTION, b"", |frame| header.write(frame));
    (code(&answer), remark(&answer))
}

pub fn end(bench: &Bench, half: Half, outcome: i32, checked: bool) -> (i32, String) {
    end_as(bench, half, outcome, checked, GROUP)
}

/// The same again as long as the half is being checked at this moment.
pub fn end_between_checks(bench: &Bench, half: Half, outcome: i32, checked: bool) -> (i32, String) {
    let mut answer = (0, String::new());
    wait_until("the end of a check", || {
        answer = end(bench, half, outcome, checked);
        !answer.1.contains("at this moment")
    });
    answer
}
