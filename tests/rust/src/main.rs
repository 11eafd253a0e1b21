//! Drives the official Rust client of the gRPC protocol by lines, with the verbs of `tests/java/grpc/GrpcDriver.java`.
//!
//! That client has no push consumer and cannot change the invisible time: a `consumer` here is a loop around its simple
//! one, and what is not handled comes back when its time is over.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use form_urlencoded::{Serializer, parse};
use rocketmq::conf::{ClientOption, ProducerOption, SimpleConsumerOption};
use rocketmq::model::common::{FilterExpression, FilterType};
use rocketmq::model::message::{Message, MessageBuilder, MessageView};
use rocketmq::model::transaction::{Transaction, TransactionResolution};
use rocketmq::{Producer, SimpleConsumer};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinHandle;

type Failure = Box<dyn std::error::Error>;
type Args = HashMap<String, String>;

/// How long a receive call waits for messages.
const AWAIT: Duration = Duration::from_secs(5);
/// For how long a message is invisible that the loop of a `consumer` works on.
const INVISIBLE: Duration = Duration::from_secs(10);

struct Simple {
    consumer: SimpleConsumer,
    topic: String,
    filter: FilterExpression,
    held: RefCell<HashMap<String, MessageView>>,
}

#[derive(Default)]
struct Driver {
    producers: RefCell<HashMap<String, Rc<Producer>>>,
    simples: RefCell<HashMap<String, Rc<Simple>>>,
    loops: RefCell<HashMap<String, JoinHandle<()>>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let driver = Rc::new(Driver::default());
    tokio::task::LocalSet::new().run_until(serve(driver)).await;
}

async fn serve(driver: Rc<Driver>) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    println!("ready");
    while let Ok(Some(line)) = lines.next_line().await {
        let driver = Rc::clone(&driver);
        tokio::task::spawn_local(async move {
            let mut parts = line.splitn(3, ' ').map(str::to_owned);
            let [number, verb, text] = [(); 3].map(|()| parts.next().unwrap_or_default());
            let messages: Vec<String> =
                parse(text.as_bytes()).filter(|(key, _)| key == "m").map(|(_, spec)| spec.into_owned()).collect();
            let args = parse(text.as_bytes()).into_owned().collect();
            let answer = |row: &[(&str, &str)]| println!("{number} row {}", query(row));
            match driver.run(&verb, &args, &messages, &answer).await {
                Ok(()) => println!("{number} done"),
                Err(failure) => println!("{number} fail {}", query(&[("error", &format!("{failure:?}"))])),
            }
        });
    }
}

fn query(row: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(row).finish()
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn row_of(message: &MessageView) -> String {
    let mut keys = message.keys().to_vec();
    keys.sort();
    let (attempt, length) = (message.delivery_attempt().to_string(), message.body().len().to_string());
    let mut row = Serializer::new(String::new());
    row.append_pair("topic", message.topic()).append_pair("id", message.message_id());
    row.append_pair("attempt", &attempt).append_pair("len", &length);
    row.append_pair("body", &String::from_utf8_lossy(message.body())).append_pair("keys", &keys.join(" "));
    row.append_pair("at", &now().as_millis().to_string()).append_pair("tags", message.tag().unwrap_or_default());
    row.append_pair("group", message.message_group().unwrap_or_default());
    if let Some(seconds) = message.delivery_timestamp() {
        row.append_pair("delivery", &(seconds * 1000).to_string());
    }
    for (key, value) in message.properties() {
        row.append_pair(&format!("p.{key}"), value);
    }
    row.finish()
}

/// A message as a case describes it.
fn build(spec: &str, transactional: bool) -> Result<impl Message, Failure> {
    let (mut builder, mut properties) = (MessageBuilder::builder(), HashMap::new());
    if transactional {
        builder = builder.enable_transaction();
    }
    for (key, value) in parse(spec.as_bytes()).into_owned() {
        builder = match key.as_str() {
            "topic" => builder.set_topic(value),
            "body" => builder.set_body(value.into_bytes()),
            "tags" => builder.set_tag(value),
            "keys" => builder.set_keys(value.split(' ').collect()),
            "group" => builder.set_message_group(value),
            // Whole seconds is all it can say.
            "delay" => {
                let at = now() + Duration::from_millis(value.parse()?);
                builder.set_delivery_timestamp(at.as_secs() as i64)
            }
            other => {
                if let Some(name) = other.strip_prefix("p.") {
                    properties.insert(name.to_owned(), value);
                }
                builder
            }
        };
    }
    Ok(builder.set_properties(properties).build()?)
}

fn find<T: Clone>(table: &RefCell<HashMap<String, T>>, args: &Args) -> Result<T, Failure> {
    let name = text(args, "name");
    table.borrow().get(name).cloned().ok_or_else(|| format!("nothing started is called {name}").into())
}

fn text<'a>(args: &'a Args, key: &str) -> &'a str {
    args.get(key).map_or("", String::as_str)
}

fn client_option(args: &Args) -> ClientOption {
    let mut option = ClientOption::default();
    option.set_access_url(text(args, "endpoints"));
    option.set_enable_tls(text(args, "tls") == "true");
    option.set_long_polling_timeout(AWAIT);
    // The time for any call, also for one that waits.
    option.set_timeout(AWAIT * 2);
    option
}

impl Driver {
    async fn run(
        self: &Rc<Self>,
        verb: &str,
        args: &Args,
        messages: &[String],
        answer: &impl Fn(&[(&str, &str)]),
    ) -> Result<(), Failure> {
        match verb {
            "producer" => self.start_producer(args).await,
            "simple" => self.start_simple(args).await,
            "consumer" => {
                self.start_simple(args).await?;
                let (simple, args) = (find(&self.simples, args)?, args.clone());
                let name = text(&args, "name").to_owned();
                let handling = tokio::task::spawn_local(async move { simple.handle_all(&args).await });
                self.loops.borrow_mut().insert(name, handling);
                Ok(())
            }
            "send" => {
                let producer = find(&self.producers, args)?;
                for spec in messages {
                    let receipt = producer.send(build(spec, false)?).await?;
                    answer(&[("id", receipt.message_id())]);
                }
                Ok(())
            }
            "transact" => {
                let producer = find(&self.producers, args)?;
                for spec in messages {
                    let transaction = producer.send_transaction_message(build(spec, true)?).await?;
                    answer(&[("id", transaction.message_id())]);
                    match text(args, "end") {
                        "commit" => transaction.commit().await?,
                        "rollback" => transaction.rollback().await?,
                        _ => {}
                    }
                }
                Ok(())
            }
            "receive" => {
                let simple = find(&self.simples, args)?;
                let (max, invisible) = (text(args, "max").parse().unwrap_or(16), text(args, "invisible").parse()?);
                // The client gives a call no more time than it lets it wait: an answer without messages may come too late.
                let received = match simple.receive(max, Duration::from_millis(invisible)).await {
                    Err(failure) if format!("{failure:?}").contains("Timeout expired") => Vec::new(),
                    received => received?,
                };
                for message in received {
                    let row: Vec<_> = parse(row_of(&message).as_bytes()).into_owned().collect();
                    answer(&row.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>());
                    simple.held.borrow_mut().insert(message.message_id().to_owned(), message);
                }
                Ok(())
            }
            "ack" => {
                let simple = find(&self.simples, args)?;
                let message = simple.held.borrow_mut().remove(text(args, "id")).ok_or("the message is not held")?;
                Ok(simple.consumer.ack(&message).await?)
            }
            "stop" => self.stop(text(args, "name")).await,
            other => Err(format!("the Rust client does not do {other}").into()),
        }
    }

    async fn start_producer(&self, args: &Args) -> Result<(), Failure> {
        let mut option = ProducerOption::default();
        option.set_topics(vec![text(args, "topic")]);
        let name = text(args, "name").to_owned();
        let mut producer = match args.contains_key("check") {
            true => {
                let teller = name.clone();
                let checker = move |_, message: MessageView| {
                    println!("event {teller} {}", row_of(&message));
                    TransactionResolution::COMMIT
                };
                Producer::new_transaction_producer(option, client_option(args), Box::new(checker))?
            }
            false => Producer::new(option, client_option(args))?,
        };
        producer.start().await?;
        self.producers.borrow_mut().insert(name, Rc::new(producer));
        Ok(())
    }

    async fn start_simple(&self, args: &Args) -> Result<(), Failure> {
        let topic = text(args, "topic").to_owned();
        let mut option = SimpleConsumerOption::default();
        option.set_topics(vec![topic.clone()]);
        option.set_consumer_group(text(args, "group"));
        let filter = match args.get("sql") {
            Some(sql) => FilterExpression::new(FilterType::Sql, sql.as_str()),
            None => FilterExpression::new(FilterType::Tag, args.get("expression").map_or("*", String::as_str)),
        };
        let mut consumer = SimpleConsumer::new(option, client_option(args))?;
        consumer.start().await?;
        let simple = Simple { consumer, topic, filter, held: RefCell::default() };
        self.simples.borrow_mut().insert(text(args, "name").to_owned(), Rc::new(simple));
        Ok(())
    }

    async fn stop(&self, name: &str) -> Result<(), Failure> {
        let handling = self.loops.borrow_mut().remove(name);
        if let Some(handling) = handling {
            handling.abort();
            // Its end is an error: it was aborted.
            let _ = handling.await;
        }
        let producer = self.producers.borrow_mut().remove(name);
        // A server that was started anew does not know a client, which tells its settings only at its own start.
        let unknown = |failure| eprintln!("{name} has ended, and the server says: {failure:?}");
        if let Some(producer) = producer.and_then(Rc::into_inner) {
            producer.shutdown().await.unwrap_or_else(unknown);
        }
        let simple = self.simples.borrow_mut().remove(name);
        if let Some(simple) = simple.and_then(Rc::into_inner) {
            simple.consumer.shutdown().await.unwrap_or_else(unknown);
        }
        Ok(())
    }
}

impl Simple {
    async fn receive(&self, max: i32, invisible: Duration) -> Result<Vec<MessageView>, Failure> {
        Ok(self.consumer.receive_with(&self.topic, &self.filter, max, invisible).await?)
    }

    /// Tells every message, and acknowledges those that are not to fail.
    async fn handle_all(&self, args: &Args) {
        let fail: i32 = text(args, "fail").parse().unwrap_or(0);
        loop {
            let messages = match self.receive(16, INVISIBLE).await {
                Ok(messages) => messages,
                Err(failure) => {
                    eprintln!("receiving failed: {failure:?}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            for message in messages {
                println!("event {} {}", text(args, "name"), row_of(&message));
                if message.delivery_attempt() > fail
                    && let Err(failure) = self.consumer.ack(&message).await
                {
                    eprintln!("acknowledging failed: {failure:?}");
                }
            }
        }
    }
}
