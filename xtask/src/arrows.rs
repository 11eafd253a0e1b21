//! The arrows of the house: which crate may use which, and what a crate must not know. Read from `cargo metadata`, so that a new
//! `use` cannot slip past. A new arrow is a decision: change this table in the same change, and say why.

use serde_json::Value;

/// Crate, crates of ours it may use, outside crates it must never use.
type Room = (&'static str, &'static [&'static str], &'static [&'static str]);

const HOUSE: &[Room] = &[
    ("ferromq-common", &[], &["socket2", "memmap2"]),
    ("ferromq-protocol", &[], &["tokio", "socket2", "memmap2", "rustix", "tracing"]),
    ("ferromq-remoting", &["ferromq-common", "ferromq-protocol"], &["serde_json", "memmap2"]),
    // The judge of histories shares nothing with the accused. The store's own tests ask it, too.
    ("ferromq-history", &[], &["tokio", "socket2", "memmap2", "serde_json"]),
    ("ferromq-store", &["ferromq-common", "ferromq-protocol", "ferromq-history"], &["tokio", "socket2"]),
    ("ferromq-namesrv", &["ferromq-common", "ferromq-protocol", "ferromq-remoting"], &["memmap2"]),
    ("ferromq-broker", &["ferromq-common", "ferromq-protocol", "ferromq-remoting", "ferromq-store"], &["memmap2"]),
    // gRPC in front of the broker of this process, or as a client of a cluster's.
    (
        "ferromq-proxy",
        &[
            "ferromq-common",
            "ferromq-protocol",
            "ferromq-remoting",
            "ferromq-store",
            "ferromq-broker",
            "ferromq-client",
        ],
        &["memmap2"],
    ),
    ("ferromq-client", &["ferromq-common", "ferromq-protocol", "ferromq-remoting"], &["memmap2"]),
    (
        "ferromq",
        &[
            "ferromq-common",
            "ferromq-protocol",
            "ferromq-remoting",
            "ferromq-store",
            "ferromq-namesrv",
            "ferromq-broker",
            "ferromq-client",
            "ferromq-proxy",
        ],
        &["memmap2", "socket2"],
    ),
    // The contract tests drive the real binary from outside: client code and formats, never a server's insides.
    (
        "ferromq-contract",
        &["ferromq-common", "ferromq-protocol", "ferromq-remoting", "ferromq-client", "ferromq-history"],
        &[],
    ),
    ("ferromq-figures", &["ferromq-contract"], &[]),
    ("xtask", &[], &["tokio"]),
];

/// What is wrong with the arrows in the output of `cargo metadata --no-deps`.
pub fn problems(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    packages.iter().flat_map(package_problems).collect()
}

fn package_problems(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let Some((_, allowed, banned)) = HOUSE.iter().find(|(room, ..)| *room == name) else {
        return vec![format!("{name}: a crate without a place in the house; add it to xtask/src/arrows.rs")];
    };
    let mut found = Vec::new();
    for dependency in package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let used = dependency["name"].as_str().unwrap_or_default();
        let only_in_tests = dependency["kind"].as_str() == Some("dev");
        let ours = HOUSE.iter().any(|(room, ..)| *room == used);
        if ours && !allowed.contains(&used) {
            found.push(format!("{name} must not use {used} (xtask/src/arrows.rs has the arrows)"));
        }
        if banned.contains(&used) && !only_in_tests {
            found.push(format!("{name} must not know {used} (xtask/src/arrows.rs says so)"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(name: &str, dependencies: &[(&str, Option<&str>)]) -> Vec<String> {
        let dependencies: Vec<_> = dependencies.iter().map(|(n, kind)| json!({"name": n, "kind": kind})).collect();
        problems(&json!({"packages": [{"name": name, "dependencies": dependencies}]}))
    }

    #[test]
    fn arrows_point_downwards() {
        assert!(check("ferromq-broker", &[("ferromq-store", None), ("serde", None)]).is_empty());
        assert_eq!(check("ferromq-store", &[("ferromq-broker", None)]).len(), 1);
        assert_eq!(check("ferromq-store", &[("ferromq-broker", Some("dev"))]).len(), 1, "not in tests either");
        assert_eq!(check("ferromq-brand-new", &[]).len(), 1);
    }

    #[test]
    fn a_room_must_not_know_some_outside_crates_except_in_tests() {
        assert_eq!(check("ferromq-store", &[("tokio", None)]).len(), 1);
        assert!(check("ferromq-store", &[("tokio", Some("dev"))]).is_empty());
    }
}
