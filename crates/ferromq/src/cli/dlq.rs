//! Options of `ferromq dlq` as data.

use super::{Cluster, span_millis};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// List the groups with dead letters: how many, and since when
    List {
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Show the dead letters of a group
    Search {
        #[command(flatten)]
        wanted: Wanted,
        /// Print one JSON object per message
        #[arg(long)]
        json: bool,
    },
    /// Write the dead letters of a group as JSON, one object a line, bodies included
    Export {
        #[command(flatten)]
        wanted: Wanted,
        /// File to write [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Give dead letters to their group once more, and to nobody else; one that was replayed already is passed over
    Replay {
        #[command(flatten)]
        wanted: Wanted,
        /// All dead letters of the group
        #[arg(long)]
        all: bool,
        /// Messages a second
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        rate: u32,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Also those that were replayed already
        #[arg(long)]
        again: bool,
    },
}

/// Which dead letters are meant.
#[derive(Debug, Args)]
pub struct Wanted {
    /// Consumer group
    pub group: String,
    #[command(flatten)]
    pub cluster: Cluster,
    /// Only the message with this id; may be repeated
    #[arg(long = "id", value_name = "ID")]
    pub ids: Vec<String>,
    /// Only messages with this key
    #[arg(short, long)]
    pub key: Option<String>,
    /// Only messages that came from this topic
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Only messages that died at most this long ago, for example 90s, 15m, 2h, 1d
    #[arg(long, value_name = "DURATION", value_parser = span_millis)]
    pub since: Option<u64>,
    /// Only messages that died at least this long ago
    #[arg(long, value_name = "DURATION", value_parser = span_millis)]
    pub until: Option<u64>,
    /// At most so many messages
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

impl Wanted {
    /// Whether some of the group's dead letters are left out.
    pub fn selects(&self) -> bool {
        !self.ids.is_empty()
            || self.key.is_some()
            || self.topic.is_some()
            || self.since.is_some()
            || self.until.is_some()
            || self.limit.is_some()
    }
}
