//! Transactions as a state machine under random operations.

use crate::*;

/// Log files that are quickly copied.
fn small(store: &mut ferromq_store::StoreConfig) {
    store.mapped_file_size_commit_log = 4 * 1024 * 1024;
}

/// Starts another broker where this one stopped, or on what a kill at this moment leaves behind.
fn start_again(bench: &mut Bench, killed: bool) -> Arc<Checks> {
    if killed {
        let left = tempfile::tempdir().unwrap();
        killed_copy(bench.folder.path(), left.path());
        bench.broker.take().unwrap().shutdown();
        bench.folder = left;
    } else {
        bench.broker.take().unwrap().shutdown();
    }
    let mut store = store_config(bench.folder.path());
    small(&mut store);
    let broker = Broker::start(quick(), store).unwrap();
    bench.addr = broker.addr().to_string();
    bench.broker = Some(broker);
    connect(bench)
}

/// Sends, ends, repeated ends, late ends, answers to checks, restarts and kills in any order: each half ends once, as first
/// said.
#[test]
fn under_random_operations_restarts_and_kills_each_half_ends_once() {
    for seed in 1..=3 {
        let mut state: u64 = seed;
        let mut roll = move |sides: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides
        };
        let mut bench = start_with(quick(), small);
        let mut checks = connect(&mut bench);
        let mut halves: Vec<(Half, Option<i32>)> = Vec::new();
        for _ in 0..120 {
            match roll(12) {
                0..=4 => {
                    let n = halves.len();
                    halves.push((send_half(&bench, &format!("U{n}"), n.to_string().as_bytes(), ""), None));
                }
                5..=8 if !halves.is_empty() => {
                    let at = roll(halves.len() as u64) as usize;
                    let outcome = if roll(3) == 0 { ROLLBACK } else { COMMIT };
                    let (code, remark) = end(&bench, halves[at].0, outcome, false);
                    match halves[at].1 {
                        Some(_) => assert_eq!(code, 1, "seed {seed}: half {at} ended twice"),
                        None if code == 0 => halves[at].1 = Some(outcome),
                        None => assert!(remark.contains("at this moment"), "seed {seed}: half {at}: {remark}"),
                    }
                }
                9 | 10 => {
                    if let Some(check) = { checks.0.lock().last().cloned() } {
                        let at: usize = check.transaction_id[1..].parse().unwrap();
                        let outcome = if roll(2) == 0 { ROLLBACK } else { COMMIT };
                        if end(&bench, check.half, outcome, true).0 == 0 {
                            assert_eq!(halves[at].1.replace(outcome), None, "seed {seed}: half {at} ended twice");
                        }
                    }
                }
                11 if roll(3) == 0 => {
                    checks = start_again(&mut bench, roll(3) > 0);
                }
                _ => std::thread::sleep(Duration::from_millis(30)),
            }
        }
        for (at, (half, outcome)) in halves.iter_mut().enumerate() {
            if outcome.is_none() {
                wait_until("the last ends", || end(&bench, *half, COMMIT, false).0 == 0);
                *outcome = Some(COMMIT);
            }
            assert_eq!(end(&bench, *half, ROLLBACK, false).0, 1, "seed {seed}: half {at} ended twice");
        }
        let expected = halves.iter().filter(|(_, outcome)| *outcome == Some(COMMIT)).count();
        let queue = bench.broker.as_ref().unwrap().shared().store.queue("Orders", 2);
        wait_until("dispatch", || queue.max_offset() as usize >= expected);
        let mut got = Vec::new();
        while got.len() < expected {
            let part = records(bench.pull(&pull_header("Orders", 2, got.len() as i64, "*")).body());
            assert!(!part.is_empty());
            got.extend(part.iter().map(|r| String::from_utf8_lossy(&r.body).parse::<usize>().unwrap()));
        }
        got.sort_unstable();
        let wanted: Vec<usize> = (0..halves.len()).filter(|at| halves[*at].1 == Some(COMMIT)).collect();
        assert_eq!((got, queue.max_offset() as usize), (wanted, expected), "seed {seed}");
        let transactions = &bench.broker.as_ref().unwrap().shared().transactions;
        assert_eq!((transactions.waiting(), transactions.metrics.count("Orders")), (0, 0), "seed {seed}");
    }
}
