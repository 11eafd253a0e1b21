//! Remoting clients of a cluster's proxy: which broker gets a request, what brokers ask, and what is counted of it.

use ferromq_broker::Broker;
use ferromq_protocol::body::{
    CmResult, ConsumeMessageDirectlyResult, ConsumerData, ConsumerRunningInfo, HeartbeatData, LiteSubscription,
    LiteSubscriptionAction, LiteSubscriptionCtlRequestBody, SubscriptionData, SubscriptionGroupConfig, TopicConfig,
};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::{OwnedCommand, json};
use tokio::net::TcpStream;

use crate::bench;
use crate::cluster::Cluster;
use crate::wire::Wire;

const BROKERS: [&str; 2] = ["east", "west"];
const TOPIC: &str = "Relayed";
const GROUP: &str = "relayed-group";
const CLIENT: &str = "relayed-client";

async fn connect(cluster: &Cluster) -> Wire<TcpStream> {
    Wire::over(TcpStream::connect(cluster.remoting).await.unwrap())
}

fn succeeded(answer: OwnedCommand) -> OwnedCommand {
    assert_eq!(answer.head().code, response::SUCCESS, "{}", answer.remark_lossy());
    answer
}

/// Stores a message at a broker; the id that says where it is.
async fn send(wire: &mut Wire<TcpStream>, broker: &str, topic: &str, properties: &str, body: &str) -> String {
    let fields = [
        ("a", "relayers"),
        ("b", topic),
        ("c", "TBW102"),
        ("d", "1"),
        ("e", "0"),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("i", properties),
        ("n", broker),
    ];
    let answer = succeeded(wire.ask(request::SEND_MESSAGE_V2, &fields, body.as_bytes()).await);
    answer.command().fields.str("msgId").unwrap().into_owned()
}

/// Pops from a broker what there is within this time.
async fn pop(wire: &mut Wire<TcpStream>, broker: &str, wait_ms: &str) -> OwnedCommand {
    let fields = [
        ("consumerGroup", GROUP),
        ("topic", TOPIC),
        ("queueId", "-1"),
        ("maxMsgNums", "32"),
        ("invisibleTime", "3000"),
        ("pollTime", wait_ms),
        ("bornTime", "0"),
        ("initMode", "0"),
        ("expType", "TAG"),
        ("exp", "*"),
        ("order", "false"),
        ("bname", broker),
    ];
    wire.ask(request::POP_MESSAGE, &fields, b"").await
}

async fn beat(wire: &mut Wire<TcpStream>) {
    let consumer = ConsumerData {
        group_name: GROUP.to_owned(),
        subscription_data_set: vec![SubscriptionData::of(TOPIC, "TAG", "*", 1)],
        ..ConsumerData::default()
    };
    let beat =
        HeartbeatData { client_id: CLIENT.to_owned(), consumer_data_set: vec![consumer], ..HeartbeatData::default() };
    succeeded(wire.ask(request::HEART_BEAT, &[], &json::to_vec_standard(&beat).unwrap()).await);
}

/// Whether an answer's body has this text in it.
fn has(answer: &OwnedCommand, text: &str) -> bool {
    answer.body().windows(text.len()).any(|part| part == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_acknowledged_in_one_request_at_the_broker_it_names() {
    let cluster = Cluster::start(&BROKERS);
    let mut wire = connect(&cluster).await;
    beat(&mut wire).await;
    for broker in BROKERS {
        send(&mut wire, broker, TOPIC, "", &format!("at {broker}")).await;
    }
    for broker in BROKERS {
        let popped = succeeded(pop(&mut wire, broker, "20000").await);
        assert!(has(&popped, &format!("at {broker}")), "the message of another broker");
        let fields = popped.command().fields;
        let [time, revive] = ["popTime", "reviveQid"].map(|field| fields.str(field).unwrap().into_owned());
        let ack = format!(
            r#"{{"brokerName":"{broker}","acks":[{{"c":"{GROUP}","t":"{TOPIC}","r":"0","so":0,"q":0,"rq":{revive},"pt":{time},"it":3000,"b":"AQ=="}}]}}"#
        );
        succeeded(wire.ask(request::BATCH_ACK_MESSAGE, &[], ack.as_bytes()).await);
    }
    for broker in BROKERS {
        let nothing = pop(&mut wire, broker, "5000").await;
        assert_ne!(nothing.head().code, response::SUCCESS, "{broker} has not heard of the acknowledgement");
    }
    // Of nothing nobody is asked; of a broker that is not there, and in a body that is none, there is no answer but one.
    succeeded(wire.ask(request::BATCH_ACK_MESSAGE, &[], br#"{"acks":[]}"#).await);
    for body in [&br#"{"brokerName":"north","acks":[{"c":"g"}]}"#[..], b"[", b""] {
        let refused = wire.ask(request::BATCH_ACK_MESSAGE, &[], body).await;
        assert_eq!(refused.head().code, response::SYSTEM_ERROR, "{}", refused.remark_lossy());
    }

    let figures = bench::figures(cluster.http).await;
    for (call, code, polls, count) in [
        ("send_message_v2", "success", false, 2),
        ("pop_message", "success", true, 2),
        ("batch_ack_message", "success", false, 3),
        ("batch_ack_message", "system_error", false, 3),
    ] {
        let labels = format!(
            r#"protocol_type="remoting",request_code="{call}",response_code="{code}",is_long_polling="{polls}",result="success""#
        );
        let is_it = |line: &str| {
            line.starts_with("rocketmq_rpc_latency_milliseconds_count{")
                && line.contains(&labels)
                && line.ends_with(&format!("}} {count}"))
        };
        assert!(figures.lines().any(is_it), "{count} of {labels} are not in\n{figures}");
    }
}

/// A parent topic and a group of its lite topics.
fn bind(broker: &Broker) {
    let attributes = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (format!("+{k}"), v.to_string())).collect();
    let topic = TopicConfig {
        topic_name: TOPIC.into(),
        read_queue_nums: 1,
        write_queue_nums: 1,
        perm: 6,
        attributes: attributes(&[("message.type", "LITE")]),
        ..TopicConfig::default()
    };
    let group = SubscriptionGroupConfig {
        group_name: GROUP.into(),
        attributes: attributes(&[("lite.bind.topic", TOPIC)]),
        ..SubscriptionGroupConfig::default()
    };
    broker.shared().topics.update(vec![topic]).unwrap();
    broker.shared().groups.update(vec![group]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lite_topics_are_subscribed_to_at_all_brokers_and_popped_from_each() {
    let cluster = Cluster::start(&BROKERS);
    cluster.brokers().iter().for_each(bind);
    let mut wire = connect(&cluster).await;
    beat(&mut wire).await;
    let subscription = |topic: &str| LiteSubscription {
        action: LiteSubscriptionAction::PartialAdd,
        client_id: CLIENT.to_owned(),
        group: GROUP.to_owned(),
        topic: topic.to_owned(),
        lite_topic_set: ["a".to_owned()].into(),
        ..LiteSubscription::default()
    };
    let body = |topic: &str| {
        let body = LiteSubscriptionCtlRequestBody { subscription_set: vec![subscription(topic)] };
        json::to_vec_standard(&body).unwrap()
    };
    succeeded(wire.ask(request::LITE_SUBSCRIPTION_CTL, &[], &body(TOPIC)).await);
    for broker in BROKERS {
        send(&mut wire, broker, TOPIC, "__LITE_TOPIC\u{1}a\u{2}", &format!("lite at {broker}")).await;
        let fields = [
            ("clientId", CLIENT),
            ("consumerGroup", GROUP),
            ("topic", TOPIC),
            ("maxMsgNum", "32"),
            ("invisibleTime", "60000"),
            ("pollTime", "20000"),
            ("bornTime", "0"),
            ("bname", broker),
        ];
        let popped = succeeded(wire.ask(request::POP_LITE_MESSAGE, &fields, b"").await);
        assert!(has(&popped, &format!("lite at {broker}")), "the message of another broker");
        let fields = [("consumerGroup", GROUP), ("topic", TOPIC), ("queueId", "0"), ("bname", broker)];
        succeeded(wire.ask(request::POLLING_INFO, &fields, b"").await);
    }
    // What a broker says against it is told.
    let refused = wire.ask(request::LITE_SUBSCRIPTION_CTL, &[], b"").await;
    assert_ne!(refused.head().code, response::SUCCESS);
    // What tools ask about lite topics is asked of brokers, as with RocketMQ's proxy.
    for code in 200_074..=200_079 {
        let refused = wire.ask(code, &[("topic", TOPIC), ("parentTopic", TOPIC), ("group", GROUP)], b"").await;
        assert_eq!(refused.head().code, response::REQUEST_CODE_NOT_SUPPORTED, "{code}");
    }
}

/// One request of a tool to a broker, without the proxy.
async fn tool(broker: &Broker, code: i32, fields: &[(&str, &str)]) -> OwnedCommand {
    Wire::over(TcpStream::connect(broker.addr()).await.unwrap()).ask(code, fields, b"").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_behind_the_proxy_answers_what_tools_ask() {
    let cluster = Cluster::start(&BROKERS);
    let mut wire = connect(&cluster).await;
    beat(&mut wire).await;
    let info = ConsumerRunningInfo { jstack: Some("at the front door".to_owned()), ..ConsumerRunningInfo::default() };
    let info = json::to_vec_standard(&info).unwrap();
    let asked = [("consumerGroup", GROUP), ("clientId", CLIENT), ("jstackEnable", "true")];
    for broker in cluster.brokers() {
        let answering = async {
            let heard = wire.hear().await;
            assert_eq!(heard.head().code, request::GET_CONSUMER_RUNNING_INFO);
            assert_eq!(heard.command().fields.str("jstackEnable").unwrap(), "true");
            wire.answer(&heard, &info).await;
        };
        let (answer, ()) = tokio::join!(tool(broker, request::GET_CONSUMER_RUNNING_INFO, &asked), answering);
        assert_eq!(succeeded(answer).body(), info);
    }
    // A tool that has no way to the brokers asks the proxy.
    let mut outside = connect(&cluster).await;
    let answering = async {
        let heard = wire.hear().await;
        wire.answer(&heard, &info).await;
    };
    let (answer, ()) = tokio::join!(outside.ask(request::GET_CONSUMER_RUNNING_INFO, &asked, b""), answering);
    assert_eq!(succeeded(answer).body(), info);

    let id = send(&mut wire, "west", TOPIC, "", "handle me").await;
    let asked = [("consumerGroup", GROUP), ("clientId", CLIENT), ("msgId", &*id), ("topic", TOPIC)];
    let result = ConsumeMessageDirectlyResult {
        consume_result: Some(CmResult::CrLater),
        ..ConsumeMessageDirectlyResult::default()
    };
    let result = json::to_vec_standard(&result).unwrap();
    let answering = async {
        let heard = wire.hear().await;
        assert_eq!(heard.head().code, request::CONSUME_MESSAGE_DIRECTLY);
        assert_eq!(heard.command().fields.str("brokerName").unwrap(), "west");
        assert!(has(&heard, "handle me"), "the message is not there");
        wire.answer(&heard, &result).await;
    };
    let west = &cluster.brokers()[1];
    let (answer, ()) = tokio::join!(tool(west, request::CONSUME_MESSAGE_DIRECTLY, &asked), answering);
    assert_eq!(succeeded(answer).body(), result);
}
