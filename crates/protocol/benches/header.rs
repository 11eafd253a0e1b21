//! Nanoseconds per header: reading a Java client's send, writing its answer. `cargo bench -p ferromq-protocol`.

use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

use ferromq_protocol::header::send::SendHeader;
use ferromq_protocol::{Command, Encoding, Frame, FrameWriter};

/// Times `f` in rounds and prints the best round: the machine may be busy.
fn measure(name: &str, mut f: impl FnMut()) {
    const ROUNDS: usize = 20;
    const CALLS: u32 = 20_000;
    let best = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        for _ in 0..CALLS {
            f();
        }
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    });
    let best = best.fold(f64::INFINITY, f64::min);
    let _ = writeln!(std::io::stdout(), "{name:<44} {best:>8.0} ns");
}

fn send_fields(writer: &mut FrameWriter<'_>) {
    writer
        .str("a", "ProducerGroupName")
        .str("b", "TopicBench")
        .str("c", "TBW102")
        .i32("d", 4)
        .i32("e", 3)
        .i32("f", 0)
        .i64("g", 1_793_577_600_005)
        .i32("h", 0)
        .str("i", "UNIQ_KEY\u{1}7F00000100002A9F0000000000001234\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}")
        .i32("j", 0)
        .bool("k", false)
        .bool("m", false)
        .str("n", "broker-a");
}

fn read_send(frame: Frame<'_>, properties: &mut Vec<u8>) {
    let Ok(command) = Command::parse(frame) else { return };
    let Ok(header) = SendHeader::read_short(&command.fields) else { return };
    properties.clear();
    header.properties.push_to(properties);
    black_box((header, properties));
}

fn main() {
    for encoding in [Encoding::Json, Encoding::Binary] {
        let mut bytes = Vec::new();
        let mut writer = FrameWriter::request(&mut bytes, encoding, 310, 17, false);
        send_fields(&mut writer);
        writer.finish();
        let frame = Frame { encoding, header: &bytes[8..], body: b"" };
        let size = frame.header.len();
        measure(&format!("{encoding:?}: parse {size} bytes"), || {
            black_box(Command::parse(black_box(frame)).is_ok());
        });
        let mut properties = Vec::new();
        measure(&format!("{encoding:?}: parse {size} bytes, read its 13 fields"), || {
            read_send(black_box(frame), &mut properties);
        });
        let Ok(request) = Command::parse(frame).map(|command| command.head) else { return };
        let mut out = Vec::new();
        measure(&format!("{encoding:?}: write a send response"), || {
            out.clear();
            let mut writer = FrameWriter::response(&mut out, &request, 0);
            writer
                .str("msgId", "7F00000100002A9F0000000000001234")
                .i32("queueId", 3)
                .i64("queueOffset", 123_456)
                .str("transactionId", "7F00000100002A9F0000000000001234")
                .str("MSG_REGION", "DefaultRegion")
                .str("TRACE_ON", "true");
            writer.finish();
            black_box(&out);
        });
        measure(&format!("{encoding:?}: write an empty response"), || {
            out.clear();
            FrameWriter::response(&mut out, &request, 0).finish();
            black_box(&out);
        });
    }
}
