//! A server that answers as a test tells it to, and remembers what it was asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_protocol::code::request;
use ferromq_protocol::{Command, FrameWriter};
use ferromq_remoting::{Connection, Requests, Server, ServerConfig, Service};
use parking_lot::Mutex;

/// Longest wait for what must come.
pub const WAIT: Duration = Duration::from_secs(30);

/// One request as the fake saw it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub code: i32,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    fn of(command: &Command<'_>) -> Asked {
        let fields = command.fields.iter();
        Asked {
            code: command.head.code,
            fields: fields.map(|(k, v)| (k.to_lossy().into_owned(), v.to_lossy().into_owned())).collect(),
            body: command.body.to_vec(),
        }
    }

    pub fn field(&self, key: &str) -> &str {
        self.fields.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v)
    }
}

/// Code, fields and body of an answer.
pub type Answer = (i32, Vec<(&'static str, String)>, Vec<u8>);

type Script = Box<dyn Fn(&Asked) -> Option<Answer> + Send + Sync>;

struct Scripted {
    script: Script,
    asked: Mutex<Vec<Asked>>,
    connections: Mutex<Vec<Arc<Connection>>>,
}

impl Service for Scripted {
    fn serve(&self, conn: &Arc<Connection>, requests: &mut Requests<'_>, out: &mut Vec<u8>) {
        self.connections.lock().push(conn.clone());
        for command in requests {
            let asked = Asked::of(&command);
            if let Some((code, fields, body)) = (self.script)(&asked) {
                let mut writer = FrameWriter::response(out, &command.head, code);
                for (key, value) in &fields {
                    writer.str(key, value);
                }
                writer.finish_with_body(&body);
            }
            self.asked.lock().push(asked);
        }
    }
}

/// A listening fake. `None` from its script leaves a request without an answer.
pub struct Fake {
    service: Arc<Scripted>,
    server: Option<Server>,
    pub addr: String,
}

impl Fake {
    pub fn start(script: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) -> Fake {
        let service =
            Arc::new(Scripted { script: Box::new(script), asked: Mutex::default(), connections: Mutex::default() });
        let config = ServerConfig { reactors: 1, ..ServerConfig::new(vec!["127.0.0.1:0".parse().unwrap()]) };
        let server = Server::start(config, service.clone()).unwrap();
        let addr = server.local_addrs()[0].to_string();
        Fake { service, server: Some(server), addr }
    }

    /// All requests of a code so far.
    pub fn asked(&self, code: i32) -> Vec<Asked> {
        self.service.asked.lock().iter().filter(|a| a.code == code).cloned().collect()
    }

    /// Waits until a code has been asked `count` times.
    pub async fn wait_asked(&self, code: i32, count: usize) -> Vec<Asked> {
        let deadline = Instant::now() + WAIT;
        loop {
            let asked = self.asked(code);
            if asked.len() >= count {
                return asked;
            }
            assert!(Instant::now() < deadline, "code {code} was asked {} times, not {count}", asked.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends a one-way request to everybody connected.
    pub fn tell_all(&self, code: i32, key: &str, value: &str) {
        for conn in self.service.connections.lock().iter().filter(|c| c.is_open()) {
            let _ = conn.oneway(|out, opaque| {
                let mut writer = FrameWriter::request(out, ferromq_protocol::Encoding::Json, code, opaque, true);
                writer.str(key, value);
                writer.finish();
            });
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            let _ = std::thread::spawn(move || server.shutdown(Duration::ZERO)).join();
        }
    }
}

/// A route over brokers given as (name, address), each with this many queues.
pub fn route(brokers: &[(&str, &str)], queues: i32) -> Vec<u8> {
    let names = brokers.iter().map(|(name, _)| {
        format!(
            r#"{{"brokerName":"{name}","perm":6,"readQueueNums":{queues},"topicSysFlag":0,"writeQueueNums":{queues}}}"#
        )
    });
    let addrs = brokers.iter().map(|(name, addr)| {
        format!(r#"{{"brokerAddrs":{{"0":"{addr}"}},"brokerName":"{name}","cluster":"c","enableActingMaster":false}}"#)
    });
    let (names, addrs): (Vec<_>, Vec<_>) = (names.collect(), addrs.collect());
    format!(r#"{{"brokerDatas":[{}],"filterServerTable":{{}},"queueDatas":[{}]}}"#, addrs.join(","), names.join(","))
        .into_bytes()
}

/// A name server that knows the route of one topic only.
pub fn namesrv(topic: &'static str, route: Vec<u8>) -> Fake {
    Fake::start(move |asked| {
        assert_eq!(asked.code, request::GET_ROUTEINFO_BY_TOPIC);
        Some(if asked.field("topic") == topic { (0, vec![], route.clone()) } else { (17, vec![], vec![]) })
    })
}

/// A broker's answer to a send.
pub fn stored(code: i32, queue_id: &str) -> Answer {
    let fields = vec![
        ("msgId", "7F00000100002A9F0000000000000000".to_owned()),
        ("queueId", queue_id.to_owned()),
        ("queueOffset", "42".to_owned()),
    ];
    (code, fields, vec![])
}
