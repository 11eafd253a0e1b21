//! The official `mqadmin` of Java 5.5, unmodified: what its commands print is true.

use crate::common::{Stage, numbered, start};
use ferromq_contract::cluster::Cluster;
use ferromq_contract::driver::Msg;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::Make;
use ferromq_contract::{Outcome, Stop, ensure, ensure_eq, wait_for};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        Case::shared("mqadmin::topics", topics),
        Case::shared("mqadmin::groups_and_clients", groups),
        Case::shared("mqadmin::offsets", offsets),
        Case::shared("mqadmin::messages", messages),
        Case::alone("mqadmin::traces_of_clients", traces),
        Case::alone("mqadmin::broker_and_cluster", broker),
        Case::alone("mqadmin::settings_take_effect_and_last", settings),
        Case::alone("mqadmin::name_server", name_server),
    ]
}

/// How long figures that follow a client may take.
const SOON: Duration = Duration::from_secs(40);

/// One cluster, and mqadmin before it.
struct Admin<'a> {
    lab: &'a Lab,
    namesrv: &'a str,
}

impl Admin<'_> {
    /// Runs a command; fails unless it prints every text.
    fn shows(&self, command: &str, texts: &[&str]) -> Outcome<String> {
        let printed = self.lab.mqadmin(self.namesrv, command)?;
        for text in texts {
            ensure!(printed.contains(text), "mqadmin {command} does not print '{text}':\n{printed}");
        }
        Ok(printed)
    }

    /// Repeats a command until it prints every text: registrations and heartbeats take their time.
    fn comes_to_show(&self, command: &str, texts: &[&str]) -> Outcome<String> {
        let mut last = String::new();
        wait_for(SOON, "", || {
            last = self.lab.mqadmin(self.namesrv, command)?;
            Ok(texts.iter().all(|text| last.contains(text)).then_some(()))
        })
        .map_err(|_| Stop::Failed(format!("mqadmin {command} does not come to print {texts:?}:\n{last}")))?;
        Ok(last)
    }
}

fn topics(lab: &Lab) -> Outcome {
    let stage = Stage::new(lab, Client::Java5, "admin-topics", 0)?;
    let (topic, broker) = (&stage.topic, stage.cluster.broker.addr());
    let admin = Admin { lab, namesrv: &stage.cluster.namesrv.addr };
    admin.shows(
        &format!("updateTopic -c DefaultCluster -t {topic} -r 4 -w 3 -a +message.type=FIFO"),
        &[&format!("create topic to {broker} success."), "readQueueNums=4, writeQueueNums=3", "message.type=FIFO"],
    )?;
    admin
        .comes_to_show(&format!("topicRoute -t {topic}"), &["\"readQueueNums\":4", "\"writeQueueNums\":3", &broker])?;
    admin.shows("topicList", &[topic])?;
    admin.shows("topicList -c", &[&format!("DefaultCluster {topic}")])?;
    admin.shows(&format!("topicClusterList -t {topic}"), &["DefaultCluster"])?;
    let producer = stage.producer(&[])?;
    let sent: Vec<Msg> = numbered("m", 6).into_iter().map(|body| Msg::new(topic, body)).collect();
    stage.driver.send(&producer, "sync", &sent)?;
    let printed = admin.shows(&format!("topicStatus -t {topic}"), &["broker-a 0 0", "Topic Put TPS: "])?;
    let ends =
        printed.lines().filter_map(|line| line.strip_prefix("broker-a ")?.split(' ').nth(2)?.parse::<u64>().ok());
    ensure_eq!(ends.sum::<u64>(), 6, "messages by the ends of the queues in\n{printed}");
    admin.shows(&format!("allocateMQ -t {topic} -i 10.0.0.1,10.0.0.2"), &["10.0.0.1", "10.0.0.2", "\"queueId\":2"])?;
    admin.shows(
        &format!("updateTopicPerm -b {broker} -t {topic} -p 4"),
        &[&format!("update topic perm from 6 to 4 in {broker} success.")],
    )?;
    admin.comes_to_show(&format!("topicRoute -t {topic}"), &["\"perm\":4"])?;
    admin.shows(&format!("updateOrderConf -m put -t {topic} -v broker-a:3"), &["update orderConf success"])?;
    admin.shows(&format!("updateOrderConf -m get -t {topic}"), &["broker-a:3"])?;
    admin.shows(&format!("updateOrderConf -m delete -t {topic}"), &["delete orderConf success"])?;

    let file = lab.folder("admin-topics")?.join("topics.json");
    let more = [format!("{topic}-x"), format!("{topic}-y")];
    let entry =
        |name: &String| format!("{{\"topicName\":\"{name}\",\"readQueueNums\":2,\"writeQueueNums\":2,\"perm\":6}}");
    std::fs::write(&file, format!("[{},{}]", entry(&more[0]), entry(&more[1])))?;
    admin.shows(&format!("updateTopicList -b {broker} -f {}", file.display()), &["success"])?;
    admin.comes_to_show("topicList", &[&more[0], &more[1]])?;
    admin.shows(
        &format!("deleteTopic -c DefaultCluster -t {topic}"),
        &[&format!("delete topic [{topic}] from NameServer success.")],
    )?;
    let left = admin.shows("topicList", &[])?;
    ensure!(left.lines().all(|line| line != topic.as_str()), "{topic} is deleted and still listed");
    Ok(())
}

fn groups(lab: &Lab) -> Outcome {
    let stage = Stage::new(lab, Client::Java5, "admin-groups", 2)?;
    let (topic, broker) = (&stage.topic, stage.cluster.broker.addr());
    let admin = Admin { lab, namesrv: &stage.cluster.namesrv.addr };
    let (group, clone) = (stage.name("group"), stage.name("clone"));
    admin.shows(
        &format!("updateSubGroup -c DefaultCluster -g {group} -r 5 -q 2"),
        &[&format!("create subscription group to {broker} success."), "retryMaxTimes=5"],
    )?;
    admin.shows(&format!("getConsumerConfig -g {group}"), &["retryMaxTimes = 5", "retryQueueNums = 2"])?;
    let producer = stage.producer(&[])?;
    let sent: Vec<Msg> = numbered("m", 10).into_iter().map(|body| Msg::new(topic, body)).collect();
    stage.driver.send(&producer, "sync", &sent)?;
    admin.comes_to_show(&format!("producerConnection -g contract-producers -t {topic}"), &["127.0.0.1:", "JAVA"])?;
    admin.shows(&format!("producer -b {broker}"), &["contract-producers"])?;

    let consumer = stage.consumer(&group, &[("from", "FIRST_OFFSET")])?;
    stage.driver.wait_events(&consumer, 10, crate::common::DELIVERY)?;
    admin.comes_to_show(
        &format!("consumerProgress -g {group}"),
        &["Consume Diff Total: 0", &format!("{topic} broker-a 1")],
    )?;
    let tps = admin.shows(&format!("consumerProgress -g {group}"), &["Consume TPS: "])?;
    ensure!(!tps.contains("Consume TPS: 0.00"), "ten messages within a minute are a rate:\n{tps}");
    admin.shows("consumerProgress", &[&format!("{group} 1 V5_5_0")])?;
    admin.shows(
        &format!("consumerConnection -g {group}"),
        &["127.0.0.1:", "JAVA", &format!("{topic} *"), "ConsumeType: CONSUME_PASSIVELY", "MessageModel: CLUSTERING"],
    )?;
    let home = lab.folder("admin-status")?;
    let client = admin.shows(&format!("consumerStatus -g {group}"), &["V5_5_0"])?;
    let id = client.lines().find_map(|line| line.strip_prefix("1 ")?.split(' ').next().map(str::to_owned));
    let id = id.ok_or_else(|| Stop::Failed(format!("no client in:\n{client}")))?;
    admin.shows(
        &format!("consumerStatus -g {group} -i {id} -s"),
        &["#Consumer Subscription#", "#Consumer jstack#", topic],
    )?;
    drop(home);
    let shown = admin.shows(&format!("queryMsgByOffset -t {topic} -b broker-a -i 1 -o 0"), &["OffsetID: "])?;
    let message = shown.lines().find_map(|line| line.strip_prefix("OffsetID: ")).unwrap_or_default();
    admin.shows(&format!("queryMsgById -t {topic} -i {message} -g {group} -d {id}"), &["consumeResult=CR_SUCCESS"])?;
    ensure_eq!(stage.driver.count(&consumer), 11, "deliveries, the one that was asked for included");
    stage.stop(&consumer)?;
    admin.comes_to_show(&format!("statsAll -t {topic}"), &[&format!("{topic} {group} 0")])?;
    let all = admin.shows(&format!("statsAll -t {topic}"), &[])?;
    let line = all.lines().find(|line| line.starts_with(&format!("{topic} {group}"))).unwrap_or_default();
    ensure!(line.ends_with(" 10 10"), "ten messages went in and out within the day: {line}");

    admin.shows(&format!("updateSubGroup -c DefaultCluster -g {clone}"), &["success."])?;
    admin.shows(
        &format!("cloneGroupOffset -s {group} -d {clone} -t {topic} -o true"),
        &["clone group offset success."],
    )?;
    admin.shows(&format!("brokerConsumeStats -b {broker}"), &[&format!("{topic} {clone} broker-a")])?;
    admin.shows(
        &format!("deleteSubGroup -c DefaultCluster -g {clone} -r true"),
        &[&format!("delete subscription group [{clone}] from broker [{broker}] in cluster [DefaultCluster] success.")],
    )?;
    Ok(())
}

fn offsets(lab: &Lab) -> Outcome {
    let stage = Stage::new(lab, Client::Java5, "admin-offsets", 1)?;
    let topic = &stage.topic;
    let admin = Admin { lab, namesrv: &stage.cluster.namesrv.addr };
    let group = stage.name("group");
    let producer = stage.producer(&[])?;
    let sent: Vec<Msg> = numbered("m", 8).into_iter().map(|body| Msg::new(topic, body)).collect();
    stage.driver.send(&producer, "sync", &sent)?;
    let consumer = stage.consumer(&group, &[("from", "FIRST_OFFSET")])?;
    stage.driver.wait_events(&consumer, 8, crate::common::DELIVERY)?;
    admin.comes_to_show(&format!("consumerProgress -g {group}"), &["Consume Diff Total: 0"])?;
    // The consumer stays connected and gets everything again.
    admin.shows(&format!("resetOffsetByTime -g {group} -t {topic} -s 0"), &["broker-a 0 0"])?;
    stage.driver.wait_events(&consumer, 16, crate::common::DELIVERY)?;
    admin.comes_to_show(&format!("consumerProgress -g {group}"), &["Consume Diff Total: 0"])?;
    stage.stop(&consumer)?;
    stage.driver.send(&producer, "sync", &sent)?;
    admin.comes_to_show(&format!("consumerProgress -g {group}"), &["Consume Diff Total: 8"])?;
    admin.shows(&format!("skipAccumulatedMessage -g {group} -t {topic}"), &["broker-a 0 16"])?;
    admin.shows(&format!("consumerProgress -g {group}"), &["Consume Diff Total: 0"])?;
    admin.shows(
        &format!("resetOffsetByTime -g {group} -t {topic} -s now -b {} -q 0 -o 5", stage.cluster.broker.addr()),
        &["5"],
    )?;
    admin.shows(&format!("consumerProgress -g {group}"), &["Consume Diff Total: 11"])?;
    Ok(())
}

fn messages(lab: &Lab) -> Outcome {
    let stage = Stage::new(lab, Client::Java5, "admin-messages", 1)?;
    let (topic, broker) = (&stage.topic, stage.cluster.broker.addr());
    let admin = Admin { lab, namesrv: &stage.cluster.namesrv.addr };
    let sent = admin.shows(
        &format!("sendMessage -t {topic} -p hello-admin -k key-of-it -c tag-of-it -b broker-a -i 0"),
        &["broker-a 0 SEND_OK"],
    )?;
    let unique =
        sent.lines().find_map(|line| line.strip_prefix("broker-a 0 SEND_OK ")).unwrap_or_default().trim().to_owned();
    admin.comes_to_show(&format!("queryMsgByKey -t {topic} -k key-of-it"), &[&format!("{unique} 0 0")])?;
    let fields = [&format!("Topic: {topic}"), "Tags: [tag-of-it]", "Keys: [key-of-it]", "Queue Offset: 0"];
    admin.shows(&format!("queryMsgByUniqueKey -t {topic} -i {unique}"), &fields)?;
    let shown = admin.shows(&format!("queryMsgByOffset -t {topic} -b broker-a -i 0 -o 0"), &fields)?;
    let id = shown.lines().find_map(|line| line.strip_prefix("OffsetID: ")).unwrap_or_default().to_owned();
    admin.shows(&format!("queryMsgById -t {topic} -i {id}"), &fields)?;
    admin.shows(&format!("printMsg -t {topic} -d true"), &["hello-admin", "minOffset=0, maxOffset=1"])?;
    admin.shows(
        &format!("printMsgByQueue -t {topic} -a broker-a -i 0 -p true -d true -f true"),
        &["hello-admin", "Tag: tag-of-it Count: 1"],
    )?;
    admin.shows(&format!("consumeMessage -t {topic} -b broker-a -i 0 -o 0 -c 1"), &["hello-admin"])?;
    admin.shows(
        &format!("queryCq -t {topic} -q 0 -i 0 -c 5 -b {broker}"),
        &["======================================"],
    )?;
    admin.shows(&format!("checkMsgSendRT -t {topic} -a 3 -s 64"), &["broker-a", "true", "Avg RT: "])?;
    Ok(())
}

/// What clients with a trace report of a message, under the broker's trace topic and under one made by the first report.
fn traces(lab: &Lab) -> Outcome {
    for (client, enabled) in [(Client::Java5, "true"), (Client::Java4, "false")] {
        let cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("traces")?, &[("traceTopicEnable", enabled)])?;
        let (driver, namesrv) = (lab.driver(client)?, &cluster.namesrv.addr);
        let (topic, group) = (lab.name("traced"), lab.name("tracing"));
        cluster.create_topic(&topic, 1)?;
        let (producer, consumer) = (lab.name("producer"), lab.name("consumer"));
        start(driver, "consumer", namesrv, &consumer, &group, &[("topic", &topic), ("trace", "true")])?;
        start(driver, "producer", namesrv, &producer, "traced-producers", &[("trace", "true")])?;
        let sent = driver.send(&producer, "sync", &[Msg::new(&topic, "traced")])?;
        driver.wait_events(&consumer, 1, crate::common::DELIVERY)?;
        let admin = Admin { lab, namesrv };
        let consumed = format!("Sub {group}");
        let shown = ["Pub traced-producers", "success", consumed.as_str()];
        admin.comes_to_show(&format!("queryMsgTraceById -i {}", sent[0].get("id")), &shown)?;
        driver.call("stop", &[("name", &consumer)])?;
        driver.call("stop", &[("name", &producer)])?;
    }
    Ok(())
}

fn broker(lab: &Lab) -> Outcome {
    let cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("admin-broker")?, &[])?;
    let admin = Admin { lab, namesrv: &cluster.namesrv.addr };
    let addr = cluster.broker.addr();
    admin.shows("clusterList", &[&format!("DefaultCluster broker-a 0 {addr} V5_5_0"), "true"])?;
    admin.shows("clusterList -m", &["DefaultCluster broker-a"])?;
    admin.comes_to_show("sendMsgStatus -b broker-a -s 64 -c 3", &["SEND_OK"])?;
    admin.shows(&format!("brokerStatus -b {addr}"), &["brokerVersionDesc : V5_5_0", "msgPutTotalTodayNow : "])?;
    admin.shows(&format!("getBrokerConfig -b {addr}"), &["brokerName = broker-a", "flushDiskType = ASYNC_FLUSH"])?;

    cluster.create_topic("Lag", 1)?;
    let driver = lab.driver(Client::Java5)?;
    let producer = lab.name("producer");
    start(driver, "producer", &cluster.namesrv.addr, &producer, "contract-producers", &[])?;
    let sent: Vec<Msg> = numbered("m", 7).into_iter().map(|body| Msg::new("Lag", body)).collect();
    driver.send(&producer, "sync", &sent)?;
    admin.shows("updateSubGroup -c DefaultCluster -g lagging", &["success."])?;
    admin.shows("resetOffsetByTime -g lagging -t Lag -s 0", &["broker-a 0 0"])?;
    admin.shows(&format!("resetOffsetByTime -g lagging -t Lag -s now -b {addr} -q 0 -o 3"), &["3"])?;
    admin.shows(&format!("brokerConsumeStats -b {addr}"), &["Lag lagging broker-a 0 7 3 4", "Diff Total: 4"])?;
    if lab.make == Make::Ferro {
        lag_command(lab, &cluster.namesrv.addr)?;
    }
    admin.shows(&format!("cleanUnusedTopic -b {addr}"), &["success"])?;
    admin.shows("wipeWritePerm -b broker-a", &["wipe write perm of broker[broker-a] in name server"])?;
    admin.shows("topicRoute -t Lag", &["\"perm\":4"])?;
    admin.shows("addWritePerm -b broker-a", &["add write perm of broker[broker-a] in name server"])?;
    admin.shows("topicRoute -t Lag", &["\"perm\":6"])?;
    driver.call("stop", &[("name", &producer)]).map(drop)
}

/// `ferromq lag` says the same, and since when.
fn lag_command(lab: &Lab, namesrv: &str) -> Outcome {
    let lag = |group: &str| {
        std::process::Command::new(lab.tools.ferromq()?)
            .args(["lag", group, "--json", "-n", namesrv])
            .output()
            .map_err(Stop::from)
    };
    let output = lag("lagging")?;
    let line: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| Stop::Failed(format!("{e}: {}", String::from_utf8_lossy(&output.stderr))))?;
    ensure_eq!((&line["topic"], &line["lag"]), (&"Lag".into(), &4.into()), "topic and lag in {line}");
    ensure!(line["behindSeconds"].as_f64() > Some(0.0), "four messages wait: {line}");
    ensure!(line["sentPerSecond"].as_f64() > Some(0.0), "seven were sent within the minute: {line}");
    ensure_eq!(&line["drainedInSeconds"], &serde_json::Value::Null, "nobody reads, in {line}");
    ensure_eq!(lag("nobody")?.status.code(), Some(1), "the end of a command for a group without offsets");
    Ok(())
}

fn settings(lab: &Lab) -> Outcome {
    if lab.make == Make::Java {
        return Err(Stop::Skipped("the Java server takes any key and drops comments of the file".to_owned()));
    }
    let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("admin-settings")?, &[])?;
    let namesrv = cluster.namesrv.addr.clone();
    let admin = Admin { lab, namesrv: &namesrv };
    let addr = cluster.broker.addr();
    let driver = lab.driver(Client::Java5)?;
    let producer = lab.name("producer");
    start(driver, "producer", &namesrv, &producer, "contract-producers", &[])?;
    let update = |key: &str, value: &str| format!("updateBrokerConfig -b {addr} -k {key} -v {value}");
    admin.shows(&update("autoCreateTopicEnable", "false"), &[&format!("update broker config success, {addr}")])?;
    admin.shows(&format!("getBrokerConfig -b {addr}"), &["autoCreateTopicEnable = false"])?;
    ensure!(
        driver.send(&producer, "sync", &[Msg::new("NotMade", "x")]).is_err(),
        "a first send made a topic all the same"
    );
    admin.shows(&update("listenPort", "1"), &["listenPort cannot be changed while the broker runs"])?;
    admin.shows(&update("maxMsgsNumBatch", "0"), &["a whole number from 1 to 10000"])?;
    admin.shows(&update("brokerConfigPath", "/x"), &["Can not update config in black list."])?;
    admin.shows(&update("maxMsgsNumBatch", "5"), &["success"])?;
    let conf = cluster.broker.folder.join("broker.conf");
    let text = std::fs::read_to_string(&conf)?;
    for line in ["autoCreateTopicEnable=false", "maxMsgsNumBatch=5", "brokerName=broker-a"] {
        ensure!(text.lines().any(|l| l == line), "{line} is not in the file:\n{text}");
    }
    let of_cold = |command: &str, further: &str| format!("{command} -b {addr} {further}");
    admin.shows(&of_cold("updateColdDataFlowCtrGroupConfig", "-g G -v 4096"), &["success"])?;
    admin.shows(&of_cold("getColdDataFlowCtrInfo", ""), &["\"G\":4096", "\"cgColdReadThreshold\":3145728"])?;
    admin.shows(&of_cold("removeColdDataFlowCtrGroupConfig", "-g G"), &["success"])?;
    let left = admin.shows(&of_cold("getColdDataFlowCtrInfo", ""), &["\"configTable\":{"])?;
    ensure!(!left.contains("4096"), "the threshold is removed and still there:\n{left}");
    // As the file now is, not as the case would write it.
    let mut command = std::process::Command::new(lab.tools.ferromq()?);
    command.args(["broker", "-c"]).arg(&conf);
    cluster.broker.stop()?;
    cluster.broker.start_with(command)?;
    admin.shows(&format!("getBrokerConfig -b {addr}"), &["autoCreateTopicEnable = false", "maxMsgsNumBatch = 5"])?;
    driver.call("stop", &[("name", &producer)]).map(drop)
}

fn name_server(lab: &Lab) -> Outcome {
    let cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("admin-namesrv")?, &[])?;
    let admin = Admin { lab, namesrv: &cluster.namesrv.addr };
    admin.shows("getNamesrvConfig", &["listenPort", "orderMessageEnable"])?;
    admin.shows("updateNamesrvConfig -k orderMessageEnable -v true", &["update name server config success"])?;
    admin.shows("getNamesrvConfig", &["orderMessageEnable = true"])?;
    admin
        .shows("updateKvConfig -s space -k a-key -v a-value", &["create or update kv config to namespace success."])?;
    admin.shows("deleteKvConfig -s space -k a-key", &["delete kv config from namespace success."])?;
    Ok(())
}
