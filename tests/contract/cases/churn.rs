//! Members of a group join, leave and die in a random order while messages come in: after each step every queue has one
//! owner, nothing is lost, and two processes never work on one ordered queue at once.

use crate::common::{DELIVERY, start};
use ferromq_contract::cluster::Cluster;
use ferromq_contract::driver::{Driver, Place};
use ferromq_contract::load::{Shape, Workload};
use ferromq_contract::owners::{Owners, committed, known};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::wire::{Conn, code, now_ms};
use ferromq_contract::{Dice, Outcome, While, ensure, scale, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    vec![Case::waiting("churn::joins_leaves_and_kills", churn)]
}

const QUEUES: i32 = 8;
/// Most members at a time.
const MEMBERS: usize = 5;
/// How long the queues may be without exactly one owner each once the broker knows who is there: twice the clients' own timer
/// of 20 s, as a queue may have to be given up before it is taken.
const SETTLED: Duration = Duration::from_secs(45);
/// How long after a message was committed by one member its line may still be on the way from another.
const LINE: i64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Join,
    Leave,
    Kill,
}

/// A process with a client, which is a member while it has consumers.
struct Process {
    driver: Driver,
    client: Client,
    /// Its consumer in the concurrent group, and with Java's client one in the orderly group.
    consumers: Vec<String>,
    /// All it has had, by group.
    names: [Vec<String>; 2],
    alive: bool,
}

/// A step, and what the concurrent group had committed before it.
struct Step {
    what: What,
    at: i64,
    committed: Vec<i64>,
}

/// One message at a listener.
struct Receipt {
    process: usize,
    /// When the listener got it (orderly listeners tell), and when it was through.
    from: i64,
    at: i64,
    place: Place,
}

struct Stage<'a> {
    lab: &'a Lab,
    cluster: &'a Cluster,
    conn: Conn,
    topic: String,
    /// The concurrent and the orderly one.
    groups: [String; 2],
    processes: Vec<Process>,
    steps: Vec<Step>,
}

impl Stage<'_> {
    /// The processes that are members, and those of them with Java's client.
    fn members(&self) -> (Vec<usize>, usize) {
        let members: Vec<usize> =
            (0..self.processes.len()).filter(|i| !self.processes[*i].consumers.is_empty()).collect();
        let java = members.iter().filter(|i| self.processes[**i].client == Client::Java5).count();
        (members, java)
    }

    /// A process that left before joins again, or else a new one; the two clients take turns.
    fn join(&mut self) -> Outcome {
        let idle = self.processes.iter().position(|process| process.alive && process.consumers.is_empty());
        let index = match idle {
            Some(index) => index,
            None => {
                let client = if self.processes.len().is_multiple_of(2) { Client::Java5 } else { Client::Go };
                let driver = self.lab.own_driver(client)?;
                let names = [Vec::new(), Vec::new()];
                self.processes.push(Process { driver, client, consumers: Vec::new(), names, alive: true });
                self.processes.len() - 1
            }
        };
        let process = &mut self.processes[index];
        let common = [("topic", self.topic.as_str()), ("brief", "true"), ("pause", "3"), ("await", "10000")];
        for (kind, mode) in ["concurrent", "orderly"].into_iter().enumerate() {
            // Go's orderly consumer does not wait for its listener before it gives its queues to others.
            if kind == 1 && process.client == Client::Go {
                continue;
            }
            let name = self.lab.name(mode);
            let options: Vec<_> = common.into_iter().chain([("mode", mode)]).collect();
            let namesrv = &self.cluster.namesrv.addr;
            start(&process.driver, "consumer", namesrv, &name, &self.groups[kind], &options)?;
            process.names[kind].push(name.clone());
            process.consumers.push(name);
        }
        Ok(())
    }

    /// One random step; how long it took from its end until every queue of the concurrent group had one owner.
    fn step(&mut self, dice: &mut Dice) -> Outcome<Duration> {
        let committed = committed(&mut self.conn, &self.groups[0], &self.topic, QUEUES)?;
        let (members, _) = self.members();
        let one = dice.below(members.len().max(1) as u64) as usize;
        let what = match members.len() {
            0 | 1 => What::Join,
            MEMBERS.. => [What::Leave, What::Kill][dice.below(2) as usize],
            _ => [What::Join, What::Leave, What::Kill][dice.below(3) as usize],
        };
        self.steps.push(Step { what, at: now_ms(), committed });
        match what {
            What::Join => self.join()?,
            What::Leave => {
                let process = &mut self.processes[members[one]];
                for name in process.consumers.drain(..) {
                    process.driver.call("stop", &[("name", &name)])?;
                }
            }
            What::Kill => {
                let process = &mut self.processes[members[one]];
                process.driver.kill()?;
                process.alive = false;
                process.consumers.clear();
            }
        }
        self.settle().doing(format!("step {}: {what:?} with {} members", self.steps.len(), members.len()))
    }

    /// Waits until the broker knows the members of the concurrent group, and they have one owner for each queue.
    fn settle(&mut self) -> Outcome<Duration> {
        let wanted = self.members().0.len();
        wait_for(DELIVERY, format!("the broker knows {wanted} members"), || {
            Ok((known(&mut self.conn, &self.groups[0])? == wanted).then_some(()))
        })?;
        let told = Instant::now();
        let mut owners = Owners::default();
        let shared = wait_for(SETTLED, "each queue has one owner, shares are even", || {
            let members = self.processes.iter().filter_map(|p| Some((&p.driver, p.consumers.first()?)));
            owners = Owners::ask(members, &self.topic)?;
            Ok(owners.even(QUEUES).then_some(()))
        });
        shared.doing(format!("{owners:?}"))?;
        Ok(told.elapsed())
    }

    /// All that came to a group.
    fn receipts(&self, group: usize) -> Outcome<Vec<Receipt>> {
        let mut all = Vec::new();
        for (process, p) in self.processes.iter().enumerate() {
            for row in p.names[group].iter().flat_map(|name| p.driver.events(name)) {
                let at = row.num("at")?;
                all.push(Receipt { process, from: row.num("from").unwrap_or(at), at, place: row.place()? });
            }
        }
        Ok(all)
    }

    /// Waits until both groups have had every message that is stored; how many there are.
    fn all_consumed(&mut self) -> Outcome<usize> {
        let mut stored = BTreeSet::new();
        for queue in 0..QUEUES {
            let end = self.conn.bound(code::GET_MAX_OFFSET, &self.topic, queue)?;
            stored.extend((0..end).map(|offset| (queue, offset)));
        }
        for group in [0, 1] {
            let mut missing: Vec<Place> = Vec::new();
            wait_for(DELIVERY, "", || {
                let had: BTreeSet<Place> = self.receipts(group)?.into_iter().map(|receipt| receipt.place).collect();
                missing = stored.difference(&had).copied().collect();
                Ok(missing.is_empty().then_some(()))
            })
            .doing(format!(
                "group {} has not had {} of {} messages",
                self.groups[group],
                missing.len(),
                stored.len()
            ))?;
        }
        Ok(stored.len())
    }

    /// What came again to the concurrent group, by the step before; never what was committed before that step.
    fn came_again(&self) -> Outcome<BTreeMap<What, usize>> {
        let mut receipts = self.receipts(0)?;
        receipts.sort_by_key(|receipt| receipt.at);
        let (mut seen, mut again) = (BTreeSet::new(), BTreeMap::new());
        for Receipt { at, place, .. } in receipts {
            if seen.insert(place) {
                continue;
            }
            let n = self.steps.partition_point(|step| step.at + LINE < at).checked_sub(1);
            let step = &self.steps[n.unwrap_or(0)];
            *again.entry(step.what).or_insert(0) += 1;
            let committed = n.map_or(0, |_| step.committed[place.0 as usize]);
            ensure!(
                place.1 >= committed,
                "queue {} offset {} came again after a {:?}, {committed} was committed before",
                place.0,
                place.1,
                step.what
            );
        }
        Ok(again)
    }

    /// The orderly group: messages of a queue first come in their order, and the times of two listeners never overlap.
    fn one_at_a_time(&self) -> Outcome {
        let mut receipts = self.receipts(1)?;
        receipts.sort_by_key(|receipt| (receipt.from, receipt.place));
        for queue in 0..QUEUES {
            let mut next = 0;
            // Until when each process was at work.
            let mut busy: BTreeMap<usize, i64> = BTreeMap::new();
            for Receipt { process, from, at, place } in receipts.iter().filter(|receipt| receipt.place.0 == queue) {
                ensure!(place.1 <= next, "queue {queue}: offset {} came before {next}", place.1);
                next = next.max(place.1 + 1);
                let overlap = busy.iter().find(|(other, until)| *other != process && *until > from);
                ensure!(overlap.is_none(), "queue {queue}: process {process} began at {from}, busy were {busy:?}");
                busy.insert(*process, *at);
            }
        }
        Ok(())
    }
}

/// 20 random steps (`FERROMQ_STEPS`) of up to five processes with Java's and Go's client, under load.
fn churn(lab: &Lab) -> Outcome {
    let (steps, seed) = (scale("FERROMQ_STEPS", 20), scale("FERROMQ_STEPS_SEED", 68).max(1));
    let cluster = lab.cluster()?;
    let (topic, groups) = (lab.name("churn"), [lab.name("concurrent"), lab.name("orderly")]);
    cluster.create_topic(&topic, QUEUES as u32)?;
    let mut stage = Stage {
        lab,
        cluster,
        conn: cluster.broker.conn()?,
        topic: topic.clone(),
        groups,
        processes: Vec::new(),
        steps: Vec::new(),
    };
    let mut dice = Dice(seed);
    stage.join()?;
    stage.join()?;
    stage.settle().doing("the first two members")?;
    let mut workload = Workload::new(&topic, QUEUES);
    let shape = Shape { in_flight: 1, pause: Duration::from_millis(5), ..Shape::new(1, 100) };
    let load = workload.start(&cluster.broker.addr(), shape)?;
    let mut slowest = Duration::ZERO;
    for _ in 0..steps {
        slowest = slowest.max(stage.step(&mut dice).doing(format!("seed {seed}"))?);
    }
    workload.take(load)?;
    // Somebody must be there to take what is left.
    if stage.members().1 == 0 {
        stage.join()?;
        stage.settle()?;
    }
    let messages = stage.all_consumed().doing(format!("seed {seed}"))?;
    workload.verify(&cluster.broker.addr(), true)?;
    workload.end()?;
    let again = stage.came_again().doing(format!("seed {seed}"))?;
    stage.one_at_a_time().doing(format!("seed {seed}"))?;
    lab.tell(&format!(
        "{steps} joins, leaves and kills: each queue had one owner at most {:.1} s after; {messages} messages, came again: {again:?}",
        slowest.as_secs_f64()
    ));
    Ok(())
}
