//! `ferromq check-store DIR`: reads a stopped store, ours or a Java broker's, and says whether a broker can take it over.
//!
//! The check itself is the store's (`ferromq_store::check_store`); here are the options, the progress on standard error,
//! the report for people or programs, and the exit code: 0 safe, 1 damaged, 2 not usable.

use crate::cli::{CheckStoreArgs, OutputFormat};
use crate::settings::BrokerSettings;
use crate::{Failure, printer};
use ferromq_common::logging;
use ferromq_store::{CheckProgress, Report, Severity, StoreConfig, check_store, rebuild_store};
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;

/// Exit code for a store in which something is lost or wrong.
const DAMAGED: u8 = 1;
/// Exit code for a store that no broker could use, and for one that could not be checked.
const NOT_USABLE: u8 = 2;
/// How often a person who watches sees how far it is, and how often a log file does.
const SHOW_EVERY: Duration = Duration::from_millis(200);
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Checks, and prints what was found.
pub fn run(arguments: &CheckStoreArgs) -> ExitCode {
    match check(arguments) {
        Ok(report) => {
            match arguments.output {
                OutputFormat::Human => printer::lines(for_people(&report)),
                OutputFormat::Json => printer::lines([for_programs(&report).to_string()]),
            }
            ExitCode::from(exit_code(&report))
        }
        Err(Failure(message)) => {
            printer::error(&format!("ferromq: {message}"));
            ExitCode::from(NOT_USABLE)
        }
    }
}

fn check(arguments: &CheckStoreArgs) -> Result<Report, Failure> {
    let mut settings = BrokerSettings::new();
    settings.read(arguments.config.as_deref())?;
    let mut config = settings.store;
    config.root.clone_from(&arguments.dir);
    let report = look(&config, arguments)?;
    if !arguments.rebuild || report.findings.worst() == Some(Severity::Unusable) {
        return Ok(report);
    }
    if arguments.config.is_none() {
        let or = |there: u64, usual: u64| if there == 0 { usual } else { there };
        config.mapped_file_size_commit_log = or(report.log_file_bytes, config.mapped_file_size_commit_log);
        config.mapped_file_size_consume_queue = or(report.queue_file_bytes, config.mapped_file_size_consume_queue);
        let batch = &mut config.mapper_file_size_batch_consume_queue;
        *batch = or(report.batch_queue_file_bytes, *batch);
    }
    logging::init(LevelFilter::INFO);
    rebuild_store(&config, &report)?;
    look(&config, arguments)
}

fn look(config: &StoreConfig, arguments: &CheckStoreArgs) -> Result<Report, Failure> {
    let mut meter = Meter::new();
    let report = check_store(config, arguments.config.is_some(), &mut |progress| meter.show(progress));
    printer::progress_end();
    Ok(report?)
}

fn exit_code(report: &Report) -> u8 {
    match report.findings.worst() {
        None | Some(Severity::Note) => 0,
        Some(Severity::Damage) => DAMAGED,
        Some(Severity::Unusable) => NOT_USABLE,
    }
}

/// Percent and speed, not too often.
struct Meter {
    began: Instant,
    shown: Instant,
    logged: Instant,
}

impl Meter {
    fn new() -> Meter {
        let now = Instant::now();
        Meter { began: now, shown: now, logged: now }
    }

    fn show(&mut self, progress: CheckProgress) {
        let now = Instant::now();
        let text = || {
            let percent = progress.done * 100 / progress.all.max(1);
            let speed = progress.done as f64 / 1e6 / (now - self.began).as_secs_f64().max(0.001);
            format!("commit log: {percent} %, {speed:.0} MB/s")
        };
        if printer::is_watched() {
            if now - self.shown >= SHOW_EVERY {
                printer::progress(&text());
                self.shown = now;
            }
        } else if now - self.logged >= LOG_EVERY {
            printer::error(&text());
            self.logged = now;
        }
    }
}

fn verdict(report: &Report) -> &'static str {
    match exit_code(report) {
        0 => "safe",
        DAMAGED => "damaged",
        _ => "not usable",
    }
}

fn for_people(report: &Report) -> Vec<String> {
    let mut lines = vec![
        format!("store            {}", report.root.display()),
        format!("commit log       {} records, position {} to {}", report.records, report.log_start, report.log_end),
        format!("consume queues   {} of {} topics", report.queues, report.topics),
        format!("key index        {} entries in {} files", report.index_entries, report.index_files),
        format!("groups           {}", report.groups),
    ];
    if report.copies > 0 {
        lines.push(format!("compacted        {} messages in {} queues", report.copied_messages, report.copies));
    }
    let mut severity = None;
    for (kind, finding) in report.findings.iter() {
        if severity != Some(kind.severity()) {
            severity = Some(kind.severity());
            lines.push(String::new());
            lines.push(heading(kind.severity()).to_owned());
        }
        lines.push(format!("  {} ({}x, {})", kind.meaning(), finding.count, kind.name()));
        lines.extend(finding.examples.iter().map(|example| format!("      {example}")));
        if finding.examples.len() as u64 != finding.count && finding.examples.len() > 1 {
            lines.push("      ...".to_owned());
        }
        if !kind.advice().is_empty() {
            lines.push(format!("    -> {}", kind.advice()));
        }
    }
    lines.push(String::new());
    lines.push(match exit_code(report) {
        0 => "SAFE: a broker can take this store over".to_owned(),
        DAMAGED => {
            "DAMAGED: a broker would start, but messages or the ways to them are lost or wrong (see above)".to_owned()
        }
        _ => "NOT USABLE: a broker would not start, or not serve what is there (see above)".to_owned(),
    });
    lines
}

fn heading(severity: Severity) -> &'static str {
    match severity {
        Severity::Unusable => "what stands against a takeover:",
        Severity::Damage => "damage:",
        Severity::Note => "notes:",
    }
}

fn for_programs(report: &Report) -> serde_json::Value {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|(kind, finding)| {
            json!({
                "kind": kind.name(),
                "severity": match kind.severity() {
                    Severity::Unusable => "unusable",
                    Severity::Damage => "damage",
                    Severity::Note => "note",
                },
                "count": finding.count,
                "meaning": kind.meaning(),
                "advice": kind.advice(),
                "examples": finding.examples,
            })
        })
        .collect();
    json!({
        "store": report.root.display().to_string(),
        "verdict": verdict(report),
        "exitCode": exit_code(report),
        "log": {
            "start": report.log_start,
            "end": report.log_end,
            "records": report.records,
            "fileBytes": report.log_file_bytes,
            "firstTimestamp": report.first_timestamp,
            "lastTimestamp": report.last_timestamp,
        },
        "queues": { "topics": report.topics, "queues": report.queues, "fileBytes": report.queue_file_bytes },
        "index": { "files": report.index_files, "entries": report.index_entries },
        "compacted": { "queues": report.copies, "messages": report.copied_messages },
        "groups": report.groups,
        "findings": findings,
    })
}
