//! Versions and languages of peers (RocketMQ 5.5 `MQVersion`, `LanguageCode`).

/// `MQVersion` ordinals that gate behaviour.
pub const V3_0_11: i32 = 37;
pub const V3_4_9: i32 = 121;
pub const V4_9_3: i32 = 399;
pub const V4_9_4: i32 = 401;
pub const V5_0_0: i32 = 413;
pub const V5_3_1: i32 = 475;
pub const V5_5_0: i32 = 513;
/// What every version above the table reads as.
pub const HIGHER_VERSION: i32 = 612;

/// The version written into our headers: the RocketMQ release whose protocol this is.
pub const CURRENT: i32 = V5_5_0;

/// Runs of versions: first ordinal, major, minor, first patch. Within a run each patch has two ordinals, its snapshot
/// and its release.
const RUNS: &[(i32, u8, u8, u8)] = &[
    (16, 3, 0, 1),
    (46, 3, 1, 0),
    (66, 3, 2, 0),
    (86, 3, 3, 1),
    (104, 3, 4, 1),
    (122, 3, 5, 1),
    (140, 3, 6, 1),
    (158, 3, 7, 1),
    (176, 3, 8, 1),
    (194, 3, 9, 1),
    (212, 4, 0, 0),
    (232, 4, 1, 0),
    (252, 4, 2, 0),
    (272, 4, 3, 0),
    (292, 4, 4, 0),
    (312, 4, 5, 0),
    (332, 4, 6, 0),
    (352, 4, 7, 0),
    (372, 4, 8, 0),
    (392, 4, 9, 0),
    (412, 5, 0, 0),
    (432, 5, 1, 0),
    (452, 5, 2, 0),
    (472, 5, 3, 0),
    (492, 5, 4, 0),
    (512, 5, 5, 0),
    (532, 5, 6, 0),
    (552, 5, 7, 0),
    (572, 5, 8, 0),
    (592, 5, 9, 0),
];

/// The 16 names before versions became regular.
const FIRST: [&str; 16] = [
    "V3_0_0_SNAPSHOT",
    "V3_0_0_ALPHA1",
    "V3_0_0_BETA1",
    "V3_0_0_BETA2",
    "V3_0_0_BETA3",
    "V3_0_0_BETA4",
    "V3_0_0_BETA5",
    "V3_0_0_BETA6_SNAPSHOT",
    "V3_0_0_BETA6",
    "V3_0_0_BETA7_SNAPSHOT",
    "V3_0_0_BETA7",
    "V3_0_0_BETA8_SNAPSHOT",
    "V3_0_0_BETA8",
    "V3_0_0_BETA9_SNAPSHOT",
    "V3_0_0_BETA9",
    "V3_0_0_FINAL",
];

/// RocketMQ's name of a version ordinal, e.g. `V5_5_0`; what `mqadmin` prints.
pub fn name(ordinal: i32) -> String {
    if ordinal >= HIGHER_VERSION {
        return "HIGHER_VERSION".to_owned();
    }
    if let Some(name) = usize::try_from(ordinal.max(0)).ok().and_then(|at| FIRST.get(at)) {
        return (*name).to_owned();
    }
    let run = RUNS.partition_point(|run| run.0 <= ordinal).saturating_sub(1);
    let (start, major, minor, patch) = RUNS[run];
    let step = ordinal - start;
    let suffix = if step % 2 == 0 { "_SNAPSHOT" } else { "" };
    format!("V{major}_{minor}_{}{suffix}", i32::from(patch) + step / 2)
}

/// `LanguageCode` numbers.
pub mod language {
    pub const JAVA: u8 = 0;
    pub const CPP: u8 = 1;
    pub const GO: u8 = 9;
    pub const OTHER: u8 = 7;
    pub const HTTP: u8 = 8;
    pub const RUST: u8 = 12;
}

const LANGUAGES: [&str; 14] = [
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP", "OMS", "RUST",
    "NODE_JS",
];

/// The name of a language number; `OTHER` for numbers RocketMQ does not know.
pub fn language_name(number: u8) -> &'static str {
    LANGUAGES.get(usize::from(number)).copied().unwrap_or("OTHER")
}

/// The number of a language name; [`language::OTHER`] for names RocketMQ does not know.
pub fn language_number(name: &[u8]) -> u8 {
    LANGUAGES.iter().position(|known| known.as_bytes() == name).map_or(language::OTHER, |at| at as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_have_rocketmqs_names() {
        for (ordinal, expected) in [
            (0, "V3_0_0_SNAPSHOT"),
            (15, "V3_0_0_FINAL"),
            (16, "V3_0_1_SNAPSHOT"),
            (V3_0_11, "V3_0_11"),
            (46, "V3_1_0_SNAPSHOT"),
            (87, "V3_3_1"),
            (V3_4_9, "V3_4_9"),
            (V4_9_3, "V4_9_3"),
            (V4_9_4, "V4_9_4"),
            (V5_0_0, "V5_0_0"),
            (V5_3_1, "V5_3_1"),
            (V5_5_0, "V5_5_0"),
            (611, "V5_9_9"),
            (612, "HIGHER_VERSION"),
            (9999, "HIGHER_VERSION"),
            (-1, "V3_0_0_SNAPSHOT"),
        ] {
            assert_eq!(name(ordinal), expected, "{ordinal}");
        }
    }

    #[test]
    fn languages_read_both_ways() {
        assert_eq!(language_number(b"GO"), language::GO);
        assert_eq!(language_name(language::RUST), "RUST");
        assert_eq!(language_number(b"COBOL"), language::OTHER);
        assert_eq!(language_name(200), "OTHER");
    }
}
