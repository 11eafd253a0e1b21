//! Answers every request with code 0: what a send costs before the broker does anything for it.
//! `cargo run --release -p ferromq-remoting --example null_server -- PORT REACTORS`

use std::sync::Arc;

use ferromq_protocol::FrameWriter;
use ferromq_remoting::{Connection, Requests, Server, ServerConfig, Service};

struct Null;

impl Service for Null {
    fn serve(&self, _conn: &Arc<Connection>, requests: &mut Requests<'_>, out: &mut Vec<u8>) {
        for request in requests {
            let mut answer = FrameWriter::response(out, &request.head, 0);
            answer.str("msgId", "7F00000100002A9F0000000000000000").i32("queueId", 1).i64("queueOffset", 12_345_678);
            answer.finish();
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port = args.next().unwrap_or_else(|| "10911".into());
    let reactors = args.next().unwrap_or_else(|| "2".into());
    let mut config = ServerConfig::new(vec![format!("127.0.0.1:{port}").parse()?]);
    config.reactors = reactors.parse()?;
    let _server = Server::start(config, Arc::new(Null))?;
    loop {
        std::thread::park();
    }
}
