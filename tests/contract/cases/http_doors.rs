//! Plain HTTP by other doors than that of a broker's own process in plaintext: over TLS, and at the proxy of a cluster.

use crate::grpc_cluster::Cluster;
use crate::http::{self, Curl};
use ferromq_contract::runner::{Case, Lab};
use ferromq_contract::server::{Make, Process, START_LIMIT, free_ports};
use ferromq_contract::tools::need;
use ferromq_contract::{Outcome, Stop, While, ensure, ensure_eq};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::thread;

/// A theme, and its name for a failure.
type Theme = (&'static str, fn(&Curl<'_>) -> Outcome);

/// What works by every door. Order is missing: a receiver that waits at a broker without messages gets none from the other.
const THEMES: [Theme; 7] = [
    ("send, receive, acknowledge", http::send_receive_acknowledge),
    ("filters", http::filters),
    ("delayed and recalled", http::delayed_and_recalled),
    ("dead letter", http::dead_letter),
    ("events", http::events),
    ("to remoting and back", http::crossing),
    ("bad input", http::bad_input),
];

pub fn cases() -> Vec<Case> {
    vec![
        Case::shared("http::with_tls", |lab| serve(&sealed(Curl::new(lab)?))),
        Case::waiting("http::certificate_of_files", certificate_of_files),
        Case::waiting("http::proxy_of_two_brokers", |lab| of_two_brokers(lab, |curl| curl)),
        Case::waiting("http::proxy_of_two_brokers_with_tls", |lab| of_two_brokers(lab, sealed)),
    ]
}

/// The same over TLS, with a certificate that nobody can trust.
fn sealed(curl: Curl<'_>) -> Curl<'_> {
    Curl { base: curl.base.replace("http:", "https:"), options: &["--insecure"], ..curl }
}

/// All themes at once: they mostly wait.
fn serve(curl: &Curl<'_>) -> Outcome {
    thread::scope(|scope| {
        let started = THEMES.map(|(name, theme)| (name, scope.spawn(move || theme(curl))));
        let ended = started.map(|(name, theme)| match theme.join() {
            Ok(Err(Stop::Failed(why))) => Err(Stop::Failed(format!("{name}: {why}"))),
            Ok(outcome) => outcome,
            Err(_) => Err(Stop::Failed(format!("{name} panicked"))),
        });
        ended.into_iter().collect()
    })
}

fn of_two_brokers(lab: &Lab, door: impl for<'a> FnOnce(Curl<'a>) -> Curl<'a>) -> Outcome {
    need("curl")?;
    let cluster = Cluster::start(lab, (Make::Ferro, Make::Ferro), 2)?;
    let curl = Curl {
        lab,
        namesrv: &cluster.namesrv.addr,
        brokers: &cluster.brokers,
        base: format!("http://{}", cluster.proxy.http),
        options: &[],
    };
    let curl = door(curl);
    ensure_eq!(curl.ask("/health/ready", &[])?, (200, json!({ "status": "ready" })), "health");
    serve(&curl)
}

/// Writes a certificate for 127.0.0.1 that was signed by itself, and its key.
fn make_certificate(certificate: &Path, key: &Path) -> Outcome {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    command.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]);
    let output = command.arg("-out").arg(certificate).arg("-keyout").arg(key).output().doing("running openssl")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A client that trusts the certificate of the files is served, one that does not know it closes; both ports of a kind.
fn certificate_of_files(lab: &Lab) -> Outcome {
    if lab.make == Make::Java {
        return Err(Stop::Skipped("the Java server has no HTTP".to_owned()));
    }
    need("curl")?;
    need("openssl")?;
    let folder = lab.folder("http-tls")?;
    let (certificate, key) = (folder.join("a.crt"), folder.join("a.key"));
    make_certificate(&certificate, &key)?;
    let port = free_ports();
    let mut command = Command::new(lab.tools.ferromq()?);
    command.arg("dev").arg("--data").arg(folder.join("data")).args(["--http-port", &port.to_string()]);
    for option in ["--namesrv-port", "--broker-port", "--grpc-port", "--proxy-port"] {
        command.args([option, "0"]);
    }
    command.arg("--tls-cert").arg(&certificate).arg("--tls-key").arg(&key);
    let mut server = Process::spawn("dev", command, &folder.join("dev.log"))?;
    server.wait_line("boot success", START_LIMIT)?;

    let trusted = certificate.display().to_string();
    let curl = |base: &str, options: &[&str]| {
        let base = format!("{base}://127.0.0.1:{port}");
        Curl { lab, namesrv: "", brokers: &[], base, options }.ask("/health/live", &[])
    };
    let live = (200, json!({ "status": "live" }));
    ensure_eq!(curl("https", &["--cacert", &trusted])?, live, "who trusts the certificate");
    ensure_eq!(curl("https", &["--cacert", &trusted, "--tls-max", "1.2"])?, live, "who speaks TLS 1.2");
    ensure_eq!(curl("http", &[])?, live, "who speaks no TLS");
    ensure!(curl("https", &[]).is_err(), "a certificate that nobody has signed is trusted");
    Ok(())
}
