//! What the client commands share: a runtime of one thread, a client, and errors that say what to do.

use crate::Failure;
use crate::cli::Cluster;
use ferromq_client::{Client, ClientConfig, Error};
use std::future::Future;

/// Runs a client command to its end on this thread.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}

/// A client of the cluster that the options name.
pub fn client(cluster: &Cluster) -> Result<Client, Failure> {
    client_at(&cluster.namesrv)
}

/// A client of the cluster behind these NameServers.
pub fn client_at(namesrv: &str) -> Result<Client, Failure> {
    Ok(Client::new(ClientConfig::new(namesrv))?)
}

/// The error with advice for whoever typed the command.
pub fn explain(error: &Error, cluster: &Cluster) -> Failure {
    let advice = match error {
        Error::NoRoute { .. } => "; `ferromq topic list` shows the topics there are".into(),
        Error::Unreachable { .. } => {
            format!("; is a server running there? NameServer: {} (-n or NAMESRV_ADDR)", cluster.namesrv)
        }
        _ => String::new(),
    };
    Failure(format!("{error}{advice}"))
}
