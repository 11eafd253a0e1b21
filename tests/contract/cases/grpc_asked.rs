//! What the official tool asks a gRPC client: its state and stacks, and to handle a message once more.

use crate::common::DELIVERY;
use crate::grpc::Stage;
use ferromq_contract::driver::Msg;
use ferromq_contract::runner::Client;
use ferromq_contract::{Outcome, ensure, wait_for};

pub fn by_tools(stage: &Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("NORMAL")?, stage.group("")?);
    let consumer = stage.open("consumer", &topic, &[("group", &group)])?;
    let producer = stage.open("producer", &topic, &[])?;
    let sent = stage.send(&producer, &[Msg::new(&topic, "look at me")])?;
    stage.driver.wait_events(&consumer, 1, DELIVERY)?;
    let clients = format!("consumerStatus -g {group}");
    let id = wait_for(DELIVERY, "the client among those of its group", || {
        let printed = stage.lab.mqadmin(stage.namesrv, &clients)?;
        let line = printed.lines().find_map(|line| line.strip_prefix("1 "));
        Ok(line.and_then(|line| line.split(' ').next().map(str::to_owned)))
    })?;
    let told = stage.lab.mqadmin(stage.namesrv, &format!("{clients} -i {id} -s"))?;
    for text in ["#Consumer Subscription#", "#Consumer jstack#", topic.as_str()] {
        ensure!(told.contains(text), "{text} is not in what the client says of itself:\n{told}");
    }
    // Java's client handles a message that a tool sends it, that of Go says that it does not.
    if stage.client == Client::GrpcJava {
        let push = format!("queryMsgByUniqueKey -t {topic} -i {} -g {group} -d {id}", sent[0].get("id"));
        let pushed = stage.lab.mqadmin(stage.namesrv, &push)?;
        ensure!(pushed.contains("consumeResult=CR_SUCCESS"), "what the client made of the message:\n{pushed}");
        let got = stage.driver.wait_events(&consumer, 2, DELIVERY)?;
        ensure!(got.iter().all(|row| row.get("body") == "look at me"), "another message: {got:?}");
    }
    stage.stop(&[&consumer, &producer])
}
